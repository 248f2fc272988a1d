//! Interval timers (setitimer(2), alarm(2)) and POSIX timers (timer_create(2)) of a process.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use abi::resource::{RLIM_INFINITY, RLIMIT_CPU, RLIMIT_RTTIME, Rlimit};
use abi::sched::{SCHED_FIFO, SCHED_RR};
use abi::signal::{SI_TIMER, SIGALRM, SIGKILL, SIGPROF, SIGVTALRM, SIGXCPU, SigInfo};
use abi::time::{ITIMER_PROF, ITIMER_REAL, ITIMER_VIRTUAL, Itimerspec, Itimerval, TIMER_ABSTIME, Timeval};
use hal::sync::{IrqLock, SpinLock};

use super::clock::{self, NSEC_PER_SEC};
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
    /// ITIMER_VIRTUAL and ITIMER_PROF: expiry in CPU time of the process.
    cpu: IrqLock<[Interval; 2]>,
    /// Whether `cpu` or RLIMIT_CPU needs a look at each tick.
    cpu_armed: AtomicBool,
    posix: SpinLock<BTreeMap<i32, Arc<PosixTimer>>>,
}

impl ProcessTimers {
    /// None armed: what fork gives a child.
    pub fn new() -> Self {
        Self {
            real: SpinLock::new(order::TASK_FIELDS, None),
            cpu: IrqLock::new(order::TASK_FIELDS, [Interval::default(); 2]),
            cpu_armed: AtomicBool::new(false),
            posix: SpinLock::new(order::TASK_FIELDS, BTreeMap::new()),
        }
    }

    /// POSIX timers do not survive execve; interval timers do (execve(2), setitimer(2)).
    pub fn exec(&self) {
        let gone = core::mem::take(&mut *self.posix.lock());
        gone.values().for_each(|timer| {
            timer.timer.get().inspect(|t| {
                t.cancel();
            });
        });
    }

    /// Stops everything: the process ends.
    pub fn exit(&self) {
        self.exec();
        let real = self.real.lock().take();
        if let Some(timer) = real.as_ref().and_then(|real| real.timer.get()) {
            timer.cancel();
        }
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
    fn expired(&self, timer: &Arc<Timer>) {
        let Some(group) = self.group.upgrade() else { return };
        signal::send_kernel(&group, SIGALRM);
        let interval = self.interval_ns.load(Ordering::Relaxed);
        if interval > 0 {
            timer.start(timer.deadline_ns().saturating_add(interval).max(clock::monotonic_ns()));
        }
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
            && timer.is_active()
        {
            now.interval_ns = real.interval_ns.load(Ordering::Relaxed);
            now.value_ns = timer.deadline_ns().saturating_sub(clock::monotonic_ns()).max(1);
        }
        return Ok(to_itimerval(now));
    }
    let index = cpu_index(which).ok_or(Errno::EINVAL)?;
    let clock = cpu_clock(group, index);
    let mut now = group.timers.cpu.lock()[index];
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
        let mut cpu = group.timers.cpu.lock();
        cpu[index] = Interval { value_ns: expiry, interval_ns };
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
    real.interval_ns.store(interval_ns, Ordering::Relaxed);
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
pub(super) fn charge_tick(task: &Task, _in_user: bool) {
    let group = &task.group;
    check_real_time_limit(task);
    if !group.timers.cpu_armed.load(Ordering::Relaxed) {
        return;
    }
    let used = usage::of_process(group);
    let clocks = [used.user_ns, used.user_ns + used.system_ns];
    let mut due = [false; 2];
    {
        let mut cpu = group.timers.cpu.lock();
        for (index, timer) in cpu.iter_mut().enumerate() {
            if timer.value_ns > 0 && clocks[index] >= timer.value_ns {
                due[index] = true;
                timer.value_ns = if timer.interval_ns > 0 { clocks[index] + timer.interval_ns } else { 0 };
            }
        }
    }
    for (due, signal) in due.into_iter().zip([SIGVTALRM, SIGPROF]) {
        if due {
            signal::send_kernel(group, signal);
        }
    }
    check_cpu_limit(group, clocks[1]);
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

/// How a POSIX timer tells of its expiry (sigevent(3type)).
#[derive(Clone, Copy, Debug)]
pub enum Notify {
    /// SIGEV_NONE: not at all.
    None,
    /// SIGEV_SIGNAL: a signal to the process, with a value.
    Process {
        /// The signal.
        signal: u32,
        /// `sigev_value`.
        value: u64,
    },
    /// SIGEV_THREAD_ID: a signal to one thread.
    Thread {
        /// The signal.
        signal: u32,
        /// `sigev_value`.
        value: u64,
        /// TID in the initial namespace.
        tid: i32,
    },
}

/// A timer of timer_create(2).
pub struct PosixTimer {
    id: i32,
    clock: i32,
    notify: Notify,
    group: Weak<ThreadGroup>,
    timer: spin::Once<Arc<Timer>>,
    interval_ns: AtomicU64,
    /// Expiries while the timer's signal was pending: no second signal is queued for them (timer_getoverrun(2)).
    waiting: AtomicU64,
    /// Of the signal that was taken last.
    overruns: AtomicU64,
    /// The signal is queued and was not taken.
    queued: AtomicBool,
    /// Its signal's place in the user's account.
    _charge: signal::Charge,
}

impl TimerCallback for PosixTimer {
    fn expired(&self, timer: &Arc<Timer>) {
        let interval = self.interval_ns.load(Ordering::Relaxed);
        let late = clock::monotonic_ns().saturating_sub(timer.deadline_ns());
        // No interval, no next time.
        let missed = late.checked_div(interval);
        if let Some(missed) = missed {
            timer.start(timer.deadline_ns() + (missed + 1) * interval);
        }
        // What is queued may have been dropped since: ignored, or flushed by a change of handler.
        if self.queued.swap(true, Ordering::AcqRel) && self.is_pending() {
            self.waiting.fetch_add(1 + missed.unwrap_or(0), Ordering::Relaxed);
            return;
        }
        self.waiting.store(missed.unwrap_or(0), Ordering::Relaxed);
        let Some(group) = self.group.upgrade() else { return };
        match self.notify {
            Notify::None => {}
            Notify::Process { signal, value } => signal::send_info(&group, &self.info(signal, value)),
            Notify::Thread { signal, value, tid } => {
                if let Some(task) = crate::task::find_global(tid) {
                    signal::send_thread_info(&task, &self.info(signal, value));
                }
            }
        }
    }
}

impl PosixTimer {
    fn is_pending(&self) -> bool {
        match self.notify {
            Notify::None => false,
            Notify::Process { signal, .. } => {
                self.group.upgrade().is_some_and(|group| group.signals.pending_mask() & signal::bit(signal) != 0)
            }
            Notify::Thread { signal, tid, .. } => {
                crate::task::find_global(tid).is_some_and(|task| task.signals.pending_mask() & signal::bit(signal) != 0)
            }
        }
    }

    fn info(&self, signal: u32, value: u64) -> SigInfo {
        SigInfo::timer(signal, SI_TIMER, self.id, 0, value)
    }
}

/// A timer's signal is being taken: fills in how many expiries it stands for beyond the first.
pub fn signal_taken(group: &ThreadGroup, info: &mut SigInfo) {
    let Ok(posix) = find(group, info.pid()) else { return };
    let overruns = posix.waiting.swap(0, Ordering::Relaxed).min(i32::MAX as u64);
    posix.overruns.store(overruns, Ordering::Relaxed);
    posix.queued.store(false, Ordering::Release);
    info.set_overruns(i32::try_from(overruns).unwrap_or(i32::MAX));
}

/// timer_create(2): the smallest free id.
pub fn create(group: &Arc<ThreadGroup>, clock: i32, notify: impl FnOnce(i32) -> Notify) -> Result<i32> {
    let charge = signal::charge_timer(&crate::task::current())?;
    let mut posix = group.timers.posix.lock();
    let id = (0..).find(|id| !posix.contains_key(id)).ok_or(Errno::EAGAIN)?;
    let timer = Arc::new(PosixTimer {
        id,
        clock,
        notify: notify(id),
        group: Arc::downgrade(group),
        timer: spin::Once::new(),
        interval_ns: AtomicU64::new(0),
        waiting: AtomicU64::new(0),
        overruns: AtomicU64::new(0),
        queued: AtomicBool::new(false),
        _charge: charge,
    });
    let weak = Arc::downgrade(&timer);
    timer.timer.call_once(|| Timer::call(weak));
    posix.insert(id, timer);
    Ok(id)
}

fn find(group: &ThreadGroup, id: i32) -> Result<Arc<PosixTimer>> {
    group.timers.posix.lock().get(&id).cloned().ok_or(Errno::EINVAL)
}

/// A timer as `/proc/PID/timers` shows it.
pub struct TimerInfo {
    /// Its id.
    pub id: i32,
    /// The clock it counts.
    pub clock: i32,
    /// What it sends; 0: nothing.
    pub signal: u32,
    /// `sigev_value`.
    pub value: u64,
    /// The one thread that gets the signal, by its global TID.
    pub thread: Option<i32>,
}

/// The timers of a process by id.
pub fn list(group: &ThreadGroup) -> Vec<TimerInfo> {
    let describe = |timer: &Arc<PosixTimer>| {
        let (signal, value, thread) = match timer.notify {
            Notify::None => (0, 0, None),
            Notify::Process { signal, value } => (signal, value, None),
            Notify::Thread { signal, value, tid } => (signal, value, Some(tid)),
        };
        TimerInfo { id: timer.id, clock: timer.clock, signal, value, thread }
    };
    group.timers.posix.lock().values().map(describe).collect()
}

/// timer_gettime(2).
pub fn get(group: &ThreadGroup, id: i32) -> Result<Itimerspec> {
    let posix = find(group, id)?;
    let timer = posix.timer.get().expect("made with the object");
    let mut left = 0;
    if timer.is_active() {
        left = timer.deadline_ns().saturating_sub(clock::monotonic_ns()).max(1);
    }
    Ok(Itimerspec {
        it_interval: clock::timespec(posix.interval_ns.load(Ordering::Relaxed)),
        it_value: clock::timespec(left),
    })
}

/// timer_settime(2). Returns the former setting.
pub fn set(group: &ThreadGroup, id: i32, flags: i32, new: &Itimerspec) -> Result<Itimerspec> {
    let value = clock::timespec_ns(&new.it_value)?;
    let interval = clock::timespec_ns(&new.it_interval)?;
    let posix = find(group, id)?;
    let old = get(group, id)?;
    let timer = posix.timer.get().expect("made with the object");
    timer.cancel();
    posix.overruns.store(0, Ordering::Relaxed);
    posix.waiting.store(0, Ordering::Relaxed);
    posix.interval_ns.store(interval, Ordering::Relaxed);
    if value > 0 {
        let now = clock::monotonic_ns();
        let deadline = if flags & TIMER_ABSTIME as i32 == 0 {
            now.saturating_add(value)
        } else {
            // Absolute on its own clock: carry the distance over to the monotonic clock.
            now.saturating_add(value.saturating_sub(clock::clock_ns(posix.clock)?))
        };
        timer.start(deadline);
    }
    Ok(old)
}

/// timer_getoverrun(2).
pub fn overruns(group: &ThreadGroup, id: i32) -> Result<usize> {
    Ok(find(group, id)?.overruns.load(Ordering::Relaxed).min(i32::MAX as u64) as usize)
}

/// timer_delete(2).
pub fn delete(group: &ThreadGroup, id: i32) -> Result<()> {
    let gone = group.timers.posix.lock().remove(&id).ok_or(Errno::EINVAL)?;
    if let Some(timer) = gone.timer.get() {
        timer.cancel();
    }
    Ok(())
}
