//! The load average: Linux's fixed-point decay over 1, 5 and 15 minutes (`kernel/sched/loadavg.c`), of tasks that run,
//! want to run, or sleep uninterruptibly.
//!
//! The tick samples. A machine whose CPUs are all idle has no tick: the CPU that leaves idleness makes up for the samples
//! that were missed, with the number of tasks that counted when the last CPU went idle (Linux `calc_global_nohz`).

use core::sync::atomic::{AtomicU64, Ordering};

use hal::sync::IrqLock;

use crate::sync::order;

/// Bits of fraction.
pub const FSHIFT: u32 = 11;
/// 1.0.
pub const FIXED_1: u64 = 1 << FSHIFT;
/// Decay factors for one period of 5 s: exp(-5/60), exp(-5/300), exp(-5/900).
const EXP: [u64; 3] = [1884, 2014, 2037];
/// Linux samples every 5 s and one tick, to stay out of step with periodic loads.
const PERIOD_NS: u64 = 5_004_000_000;

struct Load {
    average: [u64; 3],
    next_ns: u64,
}

hal::global! {
    static LOAD: IrqLock<Load> = IrqLock::new(order::RUN_QUEUE_STATS, Load { average: [0; 3], next_ns: PERIOD_NS });
    /// Mirrors `next_ns`, to look at without the lock.
    static NEXT_NS: AtomicU64 = AtomicU64::new(PERIOD_NS);
    /// Tasks that counted when a CPU last went idle.
    static ACTIVE_WHILE_IDLE: AtomicU64 = AtomicU64::new(0);
}

/// One period of decay towards `active` (in FIXED_1 units); rounds up while rising (Linux `calc_load`).
pub(super) fn decay(average: u64, factor: u64, active: u64) -> u64 {
    let mut next = average * factor + active * (FIXED_1 - factor);
    if active >= average {
        next += FIXED_1 - 1;
    }
    next / FIXED_1
}

/// Takes the samples that are due at `now_ns`, with `active` tasks. Called by the tick.
pub fn update(now_ns: u64, active: u64) {
    if now_ns >= NEXT_NS.load(Ordering::Relaxed) {
        sample(now_ns, active);
    }
}

/// A CPU's tick stops, because it is idle; `active` tasks count from now on, all asleep if it was the last CPU.
pub(super) fn idle_begins(active: u64) {
    ACTIVE_WHILE_IDLE.store(active, Ordering::Relaxed);
}

/// A CPU without tick leaves idleness: takes the samples that no tick took. A sample that a busy CPU is about to take, less than two
/// ticks overdue, is left to it.
pub(super) fn idle_ends(now_ns: u64) {
    let missed_until = now_ns.saturating_sub(2 * super::TICK_NS);
    if missed_until >= NEXT_NS.load(Ordering::Relaxed) {
        sample(missed_until, ACTIVE_WHILE_IDLE.load(Ordering::Relaxed));
    }
}

fn sample(until_ns: u64, active: u64) {
    let mut load = LOAD.lock();
    while until_ns >= load.next_ns {
        for (average, factor) in load.average.iter_mut().zip(EXP) {
            *average = decay(*average, factor, active * FIXED_1);
        }
        load.next_ns += PERIOD_NS;
    }
    NEXT_NS.store(load.next_ns, Ordering::Relaxed);
}

/// The three averages in units of 1/2048.
pub fn averages() -> [u64; 3] {
    LOAD.lock().average
}

#[cfg(test)]
mod tests {
    use super::{EXP, FIXED_1, decay};

    #[test]
    fn a_steady_load_is_reached_and_kept() {
        let mut average = 0;
        for _ in 0..200 {
            average = decay(average, EXP[0], 3 * FIXED_1);
        }
        assert_eq!(average, 3 * FIXED_1);
        for _ in 0..400 {
            average = decay(average, EXP[0], 0);
        }
        assert!(average < FIXED_1 / 100);
    }
}
