//! The timers of a process: interval timers (setitimer(2), alarm(2)) and the tick's look at what depends on CPU time.
//! Those of timer_create(2) are in [`super::posix`].

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use abi::resource::{RLIM_INFINITY, RLIMIT_CPU, RLIMIT_RTTIME, Rlimit};
use abi::sched::{SCHED_FIFO, SCHED_RR};
use abi::signal::{SIGALRM, SIGKILL, SIGPROF, SIGVTALRM, SIGXCPU};
use abi::time::{ITIMER_PROF, ITIMER_REAL, ITIMER_VIRTUAL, Itimerval, Timeval};
use hal::sync::{IrqLock, SpinLock};

use super::clock::{self, NSEC_PER_SEC};
use super::cpu;
use super::posix;
use super::timer::{Timer, TimerCallback};
use crate::Result;
use crate::signal;
use crate::sync::order;
use crate::task::{Task, ThreadGroup, usage};

/// Value and interval in ns; value 0 is disarmed.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Time to the next expiry (or the absolute time, as the context says).
    pub value_ns: u64,
    /// Time between expiries; 0 for one shot.
    pub interval_ns: u64,
}

/// The timers of one process.
pub struct ProcessTimers {
    real: SpinLock<Option<Arc<RealTimer>>>,
    cpu: IrqLock<CpuTimers>,
    /// Whether `cpu` or RLIMIT_CPU needs a look at each tick.
    cpu_armed: AtomicBool,
    pub(super) posix: SpinLock<posix::Timers>,
}

/// What expires by CPU time.
struct CpuTimers {
    /// ITIMER_VIRTUAL and ITIMER_PROF: expiry in CPU time of the process.
    intervals: [Interval; 2],
    /// Timers on the CPU clocks of the process and its threads.
    table: cpu::Table,
}

impl ProcessTimers {
    /// None armed: what fork gives a child.
    pub fn new() -> Self {
        let cpu = CpuTimers { intervals: [Interval::default(); 2], table: cpu::Table::new() };
        Self {
            real: SpinLock::new(order::TASK_FIELDS, None),
            cpu: IrqLock::new(order::CPU_TIMERS, cpu),
            cpu_armed: AtomicBool::new(false),
            posix: SpinLock::new(order::TASK_FIELDS, posix::Timers::new()),
        }
    }

    /// POSIX timers do not survive execve; interval timers do (execve(2), setitimer(2)).
    pub fn exec(&self) {
        posix::delete_all(&self.posix);
    }

    /// Stops everything: the process ends.
    pub fn exit(&self) {
        self.exec();
        let real = self.real.lock().take();
        if let Some(timer) = real.as_ref().and_then(|real| real.timer.get()) {
            timer.cancel();
        }
    }

    /// Changes the timers on the process's CPU clocks, and has the tick look at them.
    pub(super) fn watch_cpu<R>(&self, change: impl FnOnce(&mut cpu::Table) -> R) -> R {
        let result = change(&mut self.cpu.lock().table);
        self.cpu_armed.store(true, Ordering::Relaxed);
        result
    }
}

impl Default for ProcessTimers {
    fn default() -> Self {
        Self::new()
    }
}

/// ITIMER_REAL: sends SIGALRM to the process.
struct RealTimer {
    group: Weak<ThreadGroup>,
    timer: spin::Once<Arc<Timer>>,
    interval_ns: AtomicU64,
}

impl TimerCallback for RealTimer {
    fn expired(&self, _: &Arc<Timer>) {
        if let Some(group) = self.group.upgrade() {
            signal::send_kernel(&group, SIGALRM);
        }
    }
}

/// A SIGALRM of the process is taken: its interval timer goes on, from the time it was due. While the signal waits the timer
/// rests, however short the interval (Linux `dequeue_signal`).
pub fn alarm_taken(group: &ThreadGroup) {
    let Some(real) = group.timers.real.lock().clone() else { return };
    let Some(timer) = real.timer.get().filter(|timer| !timer.is_active()) else { return };
    let interval_ns = real.interval_ns.load(Ordering::Relaxed);
    let late_ns = clock::monotonic_ns().saturating_sub(timer.deadline_ns());
    // No interval, no next time.
    if let Some(missed) = late_ns.checked_div(interval_ns) {
        timer.start(timer.deadline_ns().saturating_add((missed + 1).saturating_mul(interval_ns)));
    }
}

fn itimer_ns(value: &Timeval) -> Result<u64> {
    let (Ok(seconds), Ok(us)) = (u64::try_from(value.tv_sec), u64::try_from(value.tv_usec)) else {
        return Err(Errno::EINVAL);
    };
    if us >= 1_000_000 {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(NSEC_PER_SEC).saturating_add(us * 1000).min(i64::MAX.cast_unsigned()))
}

/// Rounds up: an armed timer never reads as zero (setitimer(2) NOTES).
fn timeval_up(ns: u64) -> Timeval {
    let us = ns.div_ceil(1000);
    Timeval { tv_sec: (us / 1_000_000).cast_signed(), tv_usec: (us % 1_000_000).cast_signed() }
}

fn to_itimerval(interval: Interval) -> Itimerval {
    Itimerval { it_interval: timeval_up(interval.interval_ns), it_value: timeval_up(interval.value_ns) }
}

fn cpu_index(which: i32) -> Option<usize> {
    match which {
        ITIMER_VIRTUAL => Some(0),
        ITIMER_PROF => Some(1),
        _ => None,
    }
}

fn cpu_clock(group: &ThreadGroup, index: usize) -> u64 {
    let used = usage::of_process(group);
    if index == 0 { used.user_ns } else { used.user_ns + used.system_ns }
}

/// getitimer(2).
pub fn get_interval(group: &Arc<ThreadGroup>, which: i32) -> Result<Itimerval> {
    if which == ITIMER_REAL {
        let real = group.timers.real.lock().clone();
        let mut now = Interval::default();
        if let Some(real) = real
            && let Some(timer) = real.timer.get()
        {
            now.interval_ns = real.interval_ns.load(Ordering::Relaxed);
            if timer.is_active() {
                now.value_ns = timer.deadline_ns().saturating_sub(clock::monotonic_ns()).max(1);
            }
        }
        return Ok(to_itimerval(now));
    }
    let index = cpu_index(which).ok_or(Errno::EINVAL)?;
    let clock = cpu_clock(group, index);
    let mut now = group.timers.cpu.lock().intervals[index];
    if now.value_ns > 0 {
        now.value_ns = now.value_ns.saturating_sub(clock).max(1);
    }
    Ok(to_itimerval(now))
}

/// setitimer(2). Returns the former value.
pub fn set_interval(group: &Arc<ThreadGroup>, which: i32, new: &Itimerval) -> Result<Itimerval> {
    let value_ns = itimer_ns(&new.it_value)?;
    let interval_ns = itimer_ns(&new.it_interval)?;
    let old = get_interval(group, which)?;
    if let Some(index) = cpu_index(which) {
        let clock = cpu_clock(group, index);
        let expiry = if value_ns > 0 { clock.saturating_add(value_ns) } else { 0 };
        group.timers.cpu.lock().intervals[index] = Interval { value_ns: expiry, interval_ns };
        group.timers.cpu_armed.store(true, Ordering::Relaxed);
        return Ok(old);
    }
    let existing = group.timers.real.lock().clone();
    let real = existing.unwrap_or_else(|| {
        let real = Arc::new(RealTimer {
            group: Arc::downgrade(group),
            timer: spin::Once::new(),
            interval_ns: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&real);
        real.timer.call_once(|| Timer::call(weak));
        *group.timers.real.lock() = Some(real.clone());
        real
    });
    let timer = real.timer.get().expect("made with the object");
    timer.cancel();
    real.interval_ns.store(if value_ns > 0 { interval_ns } else { 0 }, Ordering::Relaxed);
    if value_ns > 0 {
        timer.start(clock::monotonic_ns().saturating_add(value_ns));
    }
    Ok(old)
}

/// RLIMIT_CPU was changed: look at it from now on.
pub fn watch_cpu_limit(group: &ThreadGroup) {
    group.timers.cpu_armed.store(true, Ordering::Relaxed);
}

/// At each tick of a running task: expired CPU timers and RLIMIT_CPU. Interrupt context.
pub(super) fn charge_tick(task: &Task) {
    let group = &task.group;
    check_real_time_limit(task);
    if !group.timers.cpu_armed.load(Ordering::Relaxed) {
        return;
    }
    let used = usage::of_process(group);
    let clocks = [used.user_ns, used.user_ns + used.system_ns];
    let mut due = [false; 2];
    for (index, timer) in group.timers.cpu.lock().intervals.iter_mut().enumerate() {
        if timer.value_ns > 0 && clocks[index] >= timer.value_ns {
            due[index] = true;
            // From the time it was due, so that it does not drift by the tick (Linux `check_cpu_itimer`).
            timer.value_ns = if timer.interval_ns > 0 { timer.value_ns + timer.interval_ns } else { 0 };
        }
    }
    for (due, signal) in due.into_iter().zip([SIGVTALRM, SIGPROF]) {
        if due {
            signal::send_kernel(group, signal);
        }
    }
    check_cpu_limit(group, clocks[1]);
    let thread = task.times.snapshot();
    loop {
        let expired = cpu::take_expired(&mut group.timers.cpu.lock().table, task.tid(), &used, &thread);
        let Some(timer) = expired else { break };
        timer.expired();
    }
    rest_if_nothing_is_armed(group);
}

/// Ticks need not look at the process again until something is armed.
fn rest_if_nothing_is_armed(group: &ThreadGroup) {
    let cpu = group.timers.cpu.lock();
    if !cpu.table.is_empty() || cpu.intervals.iter().any(|interval| interval.value_ns > 0) {
        return;
    }
    group.timers.cpu_armed.store(false, Ordering::SeqCst);
    drop(cpu);
    // Who sets the limit stores it first and raises the flag then: one of us sees the other.
    if group.limits.lock()[RLIMIT_CPU as usize].rlim_cur != RLIM_INFINITY {
        group.timers.cpu_armed.store(true, Ordering::SeqCst);
    }
}

/// RLIMIT_CPU: SIGXCPU at the soft limit and each second after, SIGKILL at the hard limit (getrlimit(2)).
fn check_cpu_limit(group: &Arc<ThreadGroup>, used_ns: u64) {
    let reached = reach(&mut group.limits.lock()[RLIMIT_CPU as usize], used_ns, NSEC_PER_SEC, 1);
    if let Some(signal) = reached {
        signal::send_kernel(group, signal);
    }
}

/// RLIMIT_RTTIME: the same for the microseconds that a real-time task runs without sleeping (getrlimit(2)). sched_yield(2)
/// and being preempted do not start it anew.
fn check_real_time_limit(task: &Task) {
    let policy = task.sched.policy.load(Ordering::Relaxed);
    if !matches!(policy, SCHED_FIFO | SCHED_RR) {
        return;
    }
    let mut limits = task.group.limits.lock();
    let limit = &mut limits[RLIMIT_RTTIME as usize];
    if limit.rlim_cur == RLIM_INFINITY {
        return;
    }
    let sleeps = task.times.voluntary_switches.load(Ordering::Relaxed);
    let run_ns = task.sched.sum_exec_ns.load(Ordering::Relaxed);
    if task.real_time_watch.sleeps.swap(sleeps, Ordering::Relaxed) != sleeps {
        task.real_time_watch.run_ns.store(run_ns, Ordering::Relaxed);
    }
    let awake_ns = run_ns.saturating_sub(task.real_time_watch.run_ns.load(Ordering::Relaxed));
    let reached = reach(limit, awake_ns, 1000, 1_000_000);
    drop(limits);
    if let Some(signal) = reached {
        signal::send_kernel(&task.group, signal);
    }
}

/// What is sent at `used_ns` under a limit in units of `unit_ns`: SIGKILL at the hard limit; SIGXCPU at the soft one, which
/// then moves on by a second, as getrlimit(2) shows it afterwards (Linux `check_process_timers`).
fn reach(limit: &mut Rlimit, used_ns: u64, unit_ns: u64, second: u64) -> Option<u32> {
    if limit.rlim_cur == RLIM_INFINITY {
        return None;
    }
    let used = used_ns / unit_ns;
    if limit.rlim_max != RLIM_INFINITY && used >= limit.rlim_max {
        return Some(SIGKILL);
    }
    if used < limit.rlim_cur {
        return None;
    }
    limit.rlim_cur = limit.rlim_cur.saturating_add(second);
    Some(SIGXCPU)
}

/// Where a real-time task stood when it last woke, as the tick saw it (Linux `rt.timeout`).
#[derive(Default)]
pub struct RealTimeWatch {
    /// How often it had slept.
    sleeps: AtomicU64,
    /// How long it had run.
    run_ns: AtomicU64,
}
