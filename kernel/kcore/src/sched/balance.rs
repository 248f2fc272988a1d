//! Placement of woken tasks and balancing between CPUs.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hal::cpu;
use hal::thread::work;

use super::class::Enqueue;
use super::{GLANCE, IDLE_CPUS, QUEUES, RunQueue, activate};
use crate::task::Task;

/// Where a woken task goes: the CPU it ran on if that is idle (warm cache), else an idle one, else its own, else any that
/// it may use, least busy first (Linux `select_task_rq_fair`, with one cache domain as on the Pi).
pub(super) fn choose_cpu(task: &Task, last: usize) -> usize {
    let usable = cpu::online_mask() & task.sched.allowed.load(Ordering::Relaxed);
    let idle = usable & IDLE_CPUS.load(Ordering::SeqCst);
    if idle >> last & 1 != 0 {
        return last;
    }
    if idle != 0 {
        return idle.trailing_zeros() as usize;
    }
    if usable >> last & 1 != 0 {
        return last;
    }
    let busy = |cpu: &usize| GLANCE.of(*cpu).running.load(Ordering::Relaxed);
    (0..hal::MAX_CPUS).filter(|cpu| usable >> cpu & 1 != 0).min_by_key(busy).unwrap_or(last)
}

/// The idle loop's last look before it sleeps: takes a waiting task from the busiest CPU.
pub(super) fn pull_if_idle() {
    let here = cpu::id();
    if GLANCE.of(here).running.load(Ordering::SeqCst) == 0 {
        pull(here, 2);
    }
}

/// The periodic look: a CPU that is two tasks behind another pulls one, and a CPU with waiting tasks wakes an idle one,
/// which has no tick, to come and pull.
pub(super) fn on_tick(here: usize) {
    let mine = GLANCE.of(here).running.load(Ordering::Relaxed);
    pull(here, mine + 2);
    if mine < 2 {
        return;
    }
    let sleepers = cpu::online_mask() & IDLE_CPUS.load(Ordering::Relaxed) & !(1 << here);
    let sleeper = (sleepers != 0).then(|| sleepers.trailing_zeros() as usize);
    if let Some(sleeper) = sleeper
        && let Some(idle) = QUEUES.of(sleeper).lock().idle.as_ref()
        && idle.thread.work().fetch_or(work::RESCHED, Ordering::SeqCst) & work::RESCHED == 0
    {
        cpu::send_ipi(sleeper);
    }
}

/// Moves one task here from the busiest CPU that runs at least `threshold` tasks.
fn pull(here: usize, threshold: u32) {
    let busy = |cpu: &usize| GLANCE.of(*cpu).running.load(Ordering::Relaxed);
    let Some(busiest) = (0..hal::MAX_CPUS).filter(|cpu| *cpu != here).max_by_key(busy) else { return };
    if busy(&busiest) < threshold {
        return;
    }
    // The idle task must not lose the CPU with somebody in its hands: it may not run again for long.
    let _pinned = super::Pinned::new();
    let Some(task) = take_from(busiest, here) else { return };
    activate(QUEUES.of(here).lock(), here, task, Enqueue::Migrate);
}

fn take_from(busiest: usize, here: usize) -> Option<Arc<Task>> {
    let mut queue = QUEUES.of(busiest).lock();
    let RunQueue { classes, current, .. } = &mut *queue;
    let task = classes.steal_fair(here, current.as_ref())?;
    // In flight: Running, on no queue, and already this CPU's.
    task.sched.set_on_queue(false);
    GLANCE.of(busiest).add_running(-1);
    task.sched.set_cpu(here);
    Some(task)
}
