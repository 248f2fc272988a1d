//! On which CPU a task is to run when it wakes, is new, or must leave its CPU (Linux `select_task_rq`, with one cache domain
//! as on the Pi).
//!
//! * A fair task prefers the CPU it ran on, if that is idle (warm cache), else any idle one. With none idle it stays, unless
//!   it is new: then it goes where the least weight waits, since it has no cache to lose.
//! * A real-time or deadline task that would have to wait where it was goes to the CPU whose task is least urgent, if that is
//!   less urgent than itself (Linux `find_lowest_rq`).

use core::sync::atomic::Ordering;

use hal::cpu;

use super::class::{Enqueue, Priority};
use super::{GLANCE, IDLE_CPUS};
use crate::task::Task;

/// The CPUs of a mask.
pub(super) fn cpus_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..hal::MAX_CPUS).filter(move |cpu| mask >> cpu & 1 != 0)
}

/// The CPU for a task that ran on `last`.
pub(super) fn choose_cpu(task: &Task, last: usize, how: Enqueue) -> usize {
    let usable = cpu::online_mask() & task.sched.allowed.load(Ordering::Relaxed);
    let idle = usable & IDLE_CPUS.load(Ordering::SeqCst);
    if idle >> last & 1 != 0 {
        return last;
    }
    if idle != 0 {
        return idle.trailing_zeros() as usize;
    }
    let urgency = Priority::of(task);
    if !urgency.is_fair() {
        return least_urgent(usable, urgency, last).unwrap_or(last);
    }
    if usable >> last & 1 != 0 && how != Enqueue::New {
        return last;
    }
    // Of CPUs that are alike, the one it is on.
    let burden = |cpu: &usize| {
        let glance = GLANCE.of(*cpu);
        (glance.running.load(Ordering::Relaxed), glance.load.load(Ordering::Relaxed), *cpu != last)
    };
    cpus_of(usable).min_by_key(burden).unwrap_or(last)
}

/// Of the usable CPUs the one whose task is least urgent; `last` if its task is already less urgent than `urgency`. Nobody is
/// sent where an equal runs: it would wait there as well.
fn least_urgent(usable: u32, urgency: Priority, last: usize) -> Option<usize> {
    let running = |cpu: usize| GLANCE.of(cpu).urgency();
    let is_usable = usable >> last & 1 != 0;
    if is_usable && running(last) > urgency {
        return Some(last);
    }
    let best = cpus_of(usable).max_by_key(|cpu| running(*cpu))?;
    // All are as urgent as it is: it waits at home, if it may.
    Some(if running(best) > urgency || !is_usable { best } else { last })
}
