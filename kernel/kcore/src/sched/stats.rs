//! What the scheduler counts: time spent waiting for a CPU, turns, migrations, wake-ups. Shown in `/proc/schedstat`,
//! `/proc/PID/schedstat`, `/proc/PID/sched` and `/proc/drupe/latency`.
//!
//! Everything is written under a run queue's lock, so an addition is a load and a store. The clock is read anyway when a
//! task is queued or switched to: what is counted here costs a few instructions a switch and stays on in release builds.
//! Linux's names: `sched_info` and `struct rq`'s counters.

use alloc::sync::Arc;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hal::cpu::PerCpu;

use super::{TICK_NS, idle_ns};
use crate::task::Task;
use crate::time;

/// Of one task (Linux `sched_info`).
#[derive(Default)]
pub struct TaskStats {
    /// Since when it waits for a CPU, ns; 0 while it does not.
    waits_since: AtomicU64,
    /// The wait began with a wake-up.
    woken: AtomicBool,
    /// Waits for a CPU, all together, ns.
    pub run_delay_ns: AtomicU64,
    /// Times that it was given a CPU.
    pub turns: AtomicU64,
    /// Times that it went to another CPU's queue.
    pub migrations: AtomicU64,
}

impl TaskStats {
    /// Sets back what `/proc/PID/sched` shows.
    pub fn reset(&self) {
        for counter in [&self.run_delay_ns, &self.turns, &self.migrations] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Buckets of the histogram: bucket n counts waits of at least 2^n and less than 2^(n+1) microseconds; the first those
/// below 2, the last all longer ones.
pub const BUCKETS: usize = 16;

/// Of one CPU.
struct CpuStats {
    yields: AtomicU64,
    switches_to_idle: AtomicU64,
    wakeups: AtomicU64,
    local_wakeups: AtomicU64,
    run_delay_ns: AtomicU64,
    turns: AtomicU64,
    /// Waits between a wake-up and the first instruction.
    wakeup_delays: [AtomicU32; BUCKETS],
    longest_wakeup_ns: AtomicU64,
    longest_real_time_wakeup_ns: AtomicU64,
}

impl CpuStats {
    const fn new() -> Self {
        CpuStats {
            yields: AtomicU64::new(0),
            switches_to_idle: AtomicU64::new(0),
            wakeups: AtomicU64::new(0),
            local_wakeups: AtomicU64::new(0),
            run_delay_ns: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            wakeup_delays: [const { AtomicU32::new(0) }; BUCKETS],
            longest_wakeup_ns: AtomicU64::new(0),
            longest_real_time_wakeup_ns: AtomicU64::new(0),
        }
    }
}

hal::global! {
    static STATS: PerCpu<CpuStats> = PerCpu::new([const { CpuStats::new() }; hal::MAX_CPUS]);
}

#[inline(always)]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

#[inline]
fn raise(maximum: &AtomicU64, value: u64) {
    if value > maximum.load(Ordering::Relaxed) {
        maximum.store(value, Ordering::Relaxed);
    }
}

/// The wait that begins when the task is queued begins with a wake-up.
#[inline]
pub(super) fn woken(task: &Task) {
    task.sched.stats.woken.store(true, Ordering::Relaxed);
}

/// A task enters the queue of `cpu`. It may have waited on another CPU's already.
#[inline]
pub(super) fn queued(cpu: usize, task: &Task, now: u64) {
    let stats = &task.sched.stats;
    if stats.waits_since.load(Ordering::Relaxed) != 0 {
        return;
    }
    stats.waits_since.store(now, Ordering::Relaxed);
    if stats.woken.load(Ordering::Relaxed) {
        let here = STATS.of(cpu);
        add(&here.wakeups, 1);
        if cpu == hal::cpu::id() {
            add(&here.local_wakeups, 1);
        }
    }
}

/// A task that lost the CPU waits for one from now on.
#[inline]
pub(super) fn waits(task: &Task, now: u64) {
    task.sched.stats.waits_since.store(now, Ordering::Relaxed);
}

/// A task that is not the idle task gets the CPU.
#[inline]
pub(super) fn runs(cpu: usize, task: &Task, now: u64) {
    let stats = &task.sched.stats;
    let here = STATS.of(cpu);
    add(&stats.turns, 1);
    add(&here.turns, 1);
    let since = stats.waits_since.load(Ordering::Relaxed);
    if since == 0 {
        return;
    }
    stats.waits_since.store(0, Ordering::Relaxed);
    let delay = now.saturating_sub(since);
    add(&stats.run_delay_ns, delay);
    add(&here.run_delay_ns, delay);
    if stats.woken.load(Ordering::Relaxed) {
        stats.woken.store(false, Ordering::Relaxed);
        count_wakeup_delay(here, task, delay);
    }
}

#[inline]
fn count_wakeup_delay(here: &CpuStats, task: &Task, delay_ns: u64) {
    // Octaves of 1,024 ns, which is near enough to a microsecond and needs no division.
    let bucket = ((delay_ns >> 10) | 1).ilog2() as usize;
    let count = &here.wakeup_delays[bucket.min(BUCKETS - 1)];
    count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    raise(&here.longest_wakeup_ns, delay_ns);
    if task.sched.rt_priority.load(Ordering::Relaxed) > 0 {
        raise(&here.longest_real_time_wakeup_ns, delay_ns);
    }
}

/// sched_yield(2) was called.
pub(super) fn count_yield(cpu: usize) {
    add(&STATS.of(cpu).yields, 1);
}

/// The CPU has nothing to run.
#[inline]
pub(super) fn count_idle(cpu: usize) {
    add(&STATS.of(cpu).switches_to_idle, 1);
}

/// The task goes to another CPU's queue.
pub(super) fn count_migration(task: &Arc<Task>) {
    add(&task.sched.stats.migrations, 1);
}

/// Longest waits from a wake-up to the CPU, ns: of all tasks, and of real-time tasks.
pub struct WakeupDelays {
    /// By octave of microseconds ([`BUCKETS`]).
    pub histogram: [u32; BUCKETS],
    /// The longest, ns.
    pub longest_ns: u64,
    /// The longest of a real-time task, ns.
    pub longest_real_time_ns: u64,
}

/// What `cpu` counted since the last [`reset_wakeup_delays`].
pub fn wakeup_delays(cpu: usize) -> WakeupDelays {
    let stats = STATS.of(cpu);
    WakeupDelays {
        histogram: core::array::from_fn(|bucket| stats.wakeup_delays[bucket].load(Ordering::Relaxed)),
        longest_ns: stats.longest_wakeup_ns.load(Ordering::Relaxed),
        longest_real_time_ns: stats.longest_real_time_wakeup_ns.load(Ordering::Relaxed),
    }
}

/// Begins anew on all CPUs.
pub fn reset_wakeup_delays() {
    for stats in STATS.iter() {
        stats.wakeup_delays.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        stats.longest_wakeup_ns.store(0, Ordering::Relaxed);
        stats.longest_real_time_wakeup_ns.store(0, Ordering::Relaxed);
    }
}

/// Linux counts ticks from five minutes before they overflow 32 bits.
const INITIAL_JIFFIES: u64 = 0u32.wrapping_sub(300 * 250) as u64;

/// The text of `/proc/schedstat`, version 15 (Linux `show_schedstat`). A line of a CPU: yields, an unused zero, looks for
/// a task, those that found none, wake-ups to this CPU, those of them from this CPU; time run, time waited, turns.
///
/// There is one domain of all CPUs. Its counters are about Linux's balancing passes, and zero here as on a Linux whose
/// `kernel.sched_schedstats` is off.
pub fn show(out: &mut dyn Write) -> core::fmt::Result {
    let now = time::monotonic_ns();
    writeln!(out, "version 15\ntimestamp {}", INITIAL_JIFFIES + now / TICK_NS)?;
    let online = hal::cpu::online_mask();
    for cpu in (0..hal::MAX_CPUS).filter(|cpu| online >> cpu & 1 != 0) {
        let stats = STATS.of(cpu);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let looks = of(&stats.turns) + of(&stats.switches_to_idle);
        write!(out, "cpu{cpu} {} 0 {looks} {}", of(&stats.yields), of(&stats.switches_to_idle))?;
        write!(out, " {} {}", of(&stats.wakeups), of(&stats.local_wakeups))?;
        let ran_ns = now.saturating_sub(idle_ns(cpu));
        writeln!(out, " {ran_ns} {} {}", of(&stats.run_delay_ns), of(&stats.turns))?;
        write!(out, "domain0 {online:x}")?;
        (0..36).try_for_each(|_| out.write_str(" 0"))?;
        out.write_char('\n')?;
    }
    Ok(())
}
