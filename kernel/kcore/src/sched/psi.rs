//! Pressure stall information: the share of time that tasks lose because they wait for a CPU, for memory or for I/O
//! (Documentation/accounting/psi.rst; Linux `kernel/sched/psi.c`). Shown in `/proc/pressure`, and the source of its triggers.
//!
//! * **CPU**: a CPU counts as contended while more than one task wants it. Only the change between one and two tasks is
//!   stamped, with the clock that the queue has read anyway, so a switch pays two comparisons. As in Linux the system's
//!   figure is the mean over CPUs, weighted by the time that each was not idle, and "full" is 0 for the whole system.
//! * **Memory**: a task that waits for frames to come free holds a [`Stall`]. "Some" is the time that any does, "full" the
//!   time that nobody else wants a CPU meanwhile, as the tick finds it.
//! * **I/O**: no device is waited for by sleeping tasks: the serial console's output is buffered and files are memory.
//!
//! Averages decay as the load average does, once in 2 s. Nothing needs to be sampled while CPUs are idle: who reads makes
//! up for the periods that were missed, in which nothing stalled.

use core::fmt::Write;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hal::sync::IrqLock;

use super::load::{FIXED_1, FSHIFT, decay};
use super::{GLANCE, idle_ns, running_tasks};
use crate::sync::order;
use crate::time;

/// What tasks wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Devices.
    Io,
    /// Frames.
    Memory,
    /// CPUs.
    Cpu,
}

/// How many tasks lose time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// At least one.
    Some,
    /// All that are not idle.
    Full,
}

/// Resource and extent as an index: what is kept of each.
const SERIES: usize = 6;

fn series(resource: Resource, extent: Extent) -> usize {
    resource as usize * 2 + extent as usize
}

/// exp(-2/10), exp(-2/60), exp(-2/300) in FIXED_1.
const EXP: [u64; 3] = [1677, 1981, 2034];
/// Two seconds and a tick, out of step with periodic loads.
const PERIOD_NS: u64 = 2_004_000_000;

/// When more than one task wants a CPU.
pub(super) struct Contention {
    /// Since when; meaningful while it lasts.
    since: AtomicU64,
    lasts: AtomicU32,
    total_ns: AtomicU64,
}

impl Contention {
    pub(super) const fn new() -> Self {
        Contention { since: AtomicU64::new(0), lasts: AtomicU32::new(0), total_ns: AtomicU64::new(0) }
    }

    /// The number of tasks that want the CPU changes. Under the queue's lock.
    #[inline]
    pub(super) fn runnable_changed(&self, before: u32, after: u32, now: u64) {
        if before + after == 3 {
            self.change(after == 2, now);
        }
    }

    /// A second task wants the CPU, or only one is left.
    #[inline]
    fn change(&self, begins: bool, now: u64) {
        self.lasts.store(u32::from(begins), Ordering::Relaxed);
        if begins {
            self.since.store(now, Ordering::Relaxed);
        } else {
            let lasted = now.saturating_sub(self.since.load(Ordering::Relaxed));
            self.total_ns.store(self.total_ns.load(Ordering::Relaxed) + lasted, Ordering::Relaxed);
        }
    }

    fn total_ns(&self, now: u64) -> u64 {
        let open = self.lasts.load(Ordering::Relaxed) != 0;
        let lasts = if open { now.saturating_sub(self.since.load(Ordering::Relaxed)) } else { 0 };
        self.total_ns.load(Ordering::Relaxed) + lasts
    }
}

/// The averages, and what they were made from.
struct Pressure {
    /// Stalled time in all, ns.
    total: [u64; SERIES],
    /// As much of it as the averages have taken in.
    averaged: [u64; SERIES],
    /// Per cent in FIXED_1, over 10, 60 and 300 s.
    average: [[u64; 3]; SERIES],
    last_update_ns: u64,
    next_update_ns: u64,
    /// Of each CPU at the last look: contended and not idle, ns.
    seen: [[u64; 2]; hal::MAX_CPUS],
    /// Tasks in a memory stall, and until when their time was counted.
    stalled: u32,
    stalls_counted_ns: u64,
}

hal::global! {
    static PRESSURE: IrqLock<Pressure> = IrqLock::new(order::PRESSURE, Pressure::new());
    /// Mirrors `next_update_ns`, and what of [`Pressure::stalled`] the tick must know, to look at without the lock.
    static NEXT_NS: AtomicU64 = AtomicU64::new(PERIOD_NS);
    static STALLED: AtomicU32 = AtomicU32::new(0);
}

impl Pressure {
    const fn new() -> Self {
        Pressure {
            total: [0; SERIES],
            averaged: [0; SERIES],
            average: [[0; 3]; SERIES],
            last_update_ns: 0,
            next_update_ns: PERIOD_NS,
            seen: [[0; 2]; hal::MAX_CPUS],
            stalled: 0,
            stalls_counted_ns: 0,
        }
    }

    /// Brings the totals up to `now` (Linux `collect_percpu_times`).
    fn collect(&mut self, now: u64) {
        let (mut weighted, mut weight) = (0u128, 0u128);
        for (cpu, seen) in self.seen.iter_mut().enumerate() {
            let is_online = hal::cpu::online_mask() >> cpu & 1 != 0;
            let busy = if is_online { now.saturating_sub(idle_ns(cpu)) } else { 0 };
            let fresh = [GLANCE.of(cpu).contention.total_ns(now), busy];
            let [contended, busy] = core::array::from_fn(|i| u128::from(fresh[i].saturating_sub(seen[i])));
            *seen = fresh;
            weighted += contended * busy;
            weight += busy;
        }
        self.total[series(Resource::Cpu, Extent::Some)] += u64::try_from(weighted / weight.max(1)).unwrap_or(0);
        self.count_stalls(now, 0);
    }

    /// Counts the time since it was last counted, for the tasks that are in a memory stall. `stalled_running` of them run
    /// now: the one that calls this.
    fn count_stalls(&mut self, now: u64, stalled_running: u64) {
        let passed = now.saturating_sub(self.stalls_counted_ns);
        self.stalls_counted_ns = now;
        if self.stalled == 0 {
            return;
        }
        self.total[series(Resource::Memory, Extent::Some)] += passed;
        if running_tasks() <= stalled_running {
            self.total[series(Resource::Memory, Extent::Full)] += passed;
        }
    }

    /// Takes the totals into the averages when a period is over (Linux `update_averages`).
    fn update(&mut self, now: u64) {
        if now < self.next_update_ns {
            return;
        }
        let missed = (now - self.next_update_ns) / PERIOD_NS;
        self.next_update_ns += (1 + missed) * PERIOD_NS;
        let period = now.saturating_sub(self.last_update_ns + missed * PERIOD_NS).max(1);
        self.last_update_ns = now;
        NEXT_NS.store(self.next_update_ns, Ordering::Relaxed);
        for index in 0..SERIES {
            let sample = (self.total[index] - self.averaged[index]).min(period);
            self.averaged[index] += sample;
            let per_cent = sample * 100 / period * FIXED_1;
            for (average, factor) in self.average[index].iter_mut().zip(EXP) {
                // An average of per cents is gone after some 300 periods of five minutes' decay.
                for _ in 0..missed.min(4096) {
                    *average = decay(*average, factor, 0);
                }
                *average = decay(*average, factor, per_cent);
            }
        }
    }
}

/// Called by the tick.
pub(super) fn on_tick(now: u64) {
    if STALLED.load(Ordering::Relaxed) > 0 {
        PRESSURE.lock().count_stalls(now, 0);
    }
    if now >= NEXT_NS.load(Ordering::Relaxed) {
        let mut pressure = PRESSURE.lock();
        pressure.collect(now);
        pressure.update(now);
    }
}

/// While it lives, the current task waits for memory (Linux `psi_memstall_enter`).
pub struct Stall(());

impl Stall {
    /// The wait begins.
    pub fn begin() -> Self {
        Self::change(1);
        Stall(())
    }

    fn change(change: i32) {
        let now = time::monotonic_ns();
        let mut pressure = PRESSURE.lock();
        pressure.count_stalls(now, 1);
        pressure.stalled = pressure.stalled.saturating_add_signed(change);
        STALLED.store(pressure.stalled, Ordering::Relaxed);
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        Self::change(-1);
    }
}

/// Time stalled since boot, ns.
pub fn total_ns(resource: Resource, extent: Extent) -> u64 {
    let now = time::monotonic_ns();
    let mut pressure = PRESSURE.lock();
    pressure.collect(now);
    pressure.total[series(resource, extent)]
}

/// The text of a file in `/proc/pressure` (Linux `psi_show`).
pub fn show(out: &mut dyn Write, resource: Resource) -> core::fmt::Result {
    let now = time::monotonic_ns();
    let (average, total) = {
        let mut pressure = PRESSURE.lock();
        pressure.collect(now);
        pressure.update(now);
        (pressure.average, pressure.total)
    };
    for (name, extent) in [("some", Extent::Some), ("full", Extent::Full)] {
        let index = series(resource, extent);
        write!(out, "{name}")?;
        for (window, average) in ["avg10", "avg60", "avg300"].into_iter().zip(average[index]) {
            let hundredths = ((average & (FIXED_1 - 1)) * 100) >> FSHIFT;
            write!(out, " {window}={}.{hundredths:02}", average >> FSHIFT)?;
        }
        writeln!(out, " total={}", total[index] / 1000)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{FIXED_1, PERIOD_NS, Pressure};

    #[test]
    fn a_steady_pressure_is_reached_and_forgotten_while_nobody_looks() {
        let mut pressure = Pressure::new();
        let mut now = 0;
        for _ in 0..40 {
            now += PERIOD_NS;
            pressure.total[0] += PERIOD_NS / 2;
            pressure.update(now);
        }
        let per_cent = pressure.average[0][0] / FIXED_1;
        assert!((49..=50).contains(&per_cent), "{per_cent} % after 80 s of 50 %");
        pressure.update(now + 100 * PERIOD_NS);
        assert_eq!(pressure.average[0][0] / FIXED_1, 0, "ten seconds' average, 200 s later");
        assert!(pressure.average[0][2] / FIXED_1 > 3, "five minutes' average, 200 s later");
    }

    #[test]
    fn a_sample_is_no_more_than_its_period() {
        let mut pressure = Pressure::new();
        pressure.total[4] = 10 * PERIOD_NS;
        pressure.update(PERIOD_NS);
        assert_eq!(pressure.averaged[4], PERIOD_NS);
        assert!(pressure.average[4][0] <= 100 * FIXED_1);
    }
}
