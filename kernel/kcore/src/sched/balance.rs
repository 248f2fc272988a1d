//! Balancing between CPUs: who waits on one CPU while another has less to do goes there.
//!
//! Everything is a pull: only the CPU that will run a task takes it, holding one queue's lock at a time. A CPU that has
//! somebody to give away makes another look.
//!
//! * **Fair tasks** by weight, at each tick: a CPU takes a task from the one with the greatest weight, if that evens the two
//!   out. What cannot be even (three equal tasks on two CPUs) is passed round: every [`ROUND_TICKS`]th look a task may move
//!   that only turns the difference round, so that everybody is on the light side in turn.
//! * **Idle CPUs** take what waits anywhere, before they sleep and when a tick elsewhere wakes them.
//! * **Real-time and deadline tasks** that wait behind a more urgent one are announced in [`URGENT_CPUS`], and the CPU that runs
//!   the least urgent task is made to look; each CPU looks there whenever it schedules, for a task more urgent than what it
//!   would run (Linux `push_rt_task`, `pull_rt_task`).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use hal::cpu;

use super::class::{Classes, Enqueue, Priority};
use super::placement::cpus_of;
use super::{GLANCE, IDLE_CPUS, QUEUES, RunQueue, TICK_NS, account, activate, kick, stats};
use crate::task::Task;

/// Ticks between two looks that may only turn a difference round.
const ROUND_TICKS: u64 = 4;

hal::global! {
    /// A bit per CPU where a real-time or deadline task waits.
    static URGENT_CPUS: AtomicU32 = AtomicU32::new(0);
}

// ---------------------------------------------------------------------------------------------------------------------
// Fair tasks

/// The idle loop's last look before it sleeps: takes a waiting task from the busiest CPU.
pub(super) fn pull_if_idle() {
    let here = cpu::id();
    if GLANCE.of(here).running.load(Ordering::SeqCst) != 0 {
        return;
    }
    pull_urgent(here, Priority::of_idle());
    // By number and not by weight: what was published of the weight may be a tick old.
    let running = |cpu: &usize| GLANCE.of(*cpu).running.load(Ordering::Relaxed);
    let busiest = cpus_of(cpu::online_mask() & !(1 << here)).max_by_key(running);
    if let Some(busiest) = busiest.filter(|busiest| running(busiest) > 1) {
        pull(here, busiest, u64::MAX);
    }
}

/// The periodic look of a busy CPU, whose queue weighs `own`.
pub(super) fn on_tick(here: usize, now_ns: u64) {
    let weight = |cpu: &usize| GLANCE.of(*cpu).load.load(Ordering::Relaxed);
    let own = weight(&here);
    if let Some(busiest) = cpus_of(cpu::online_mask() & !(1 << here)).max_by_key(weight) {
        let surplus = weight(&busiest).saturating_sub(own);
        let is_round = (now_ns / TICK_NS).is_multiple_of(ROUND_TICKS);
        let most = if is_round { surplus } else { surplus.saturating_sub(1) };
        if most > 0 && GLANCE.of(busiest).running.load(Ordering::Relaxed) > 1 {
            pull(here, busiest, most);
        }
    }
    if GLANCE.of(here).running.load(Ordering::Relaxed) > 1 {
        wake_an_idle_cpu(here);
    }
}

/// An idle CPU has no tick: who has tasks that wait makes it come and pull.
fn wake_an_idle_cpu(here: usize) {
    let sleepers = cpu::online_mask() & IDLE_CPUS.load(Ordering::Relaxed) & !(1 << here);
    if sleepers != 0 {
        make_look(sleepers.trailing_zeros() as usize);
    }
}

/// Makes a CPU schedule, and so look what it can pull.
fn make_look(cpu: usize) {
    let queue = QUEUES.of(cpu).lock();
    if let Some(running) = queue.current.as_ref() {
        kick(cpu, running);
    }
}

/// Moves one fair task of at most the weight `most` here from `busiest`.
fn pull(here: usize, busiest: usize, most: u64) {
    // The idle task must not lose the CPU with somebody in its hands: it may not run again for long.
    let _pinned = super::Pinned::new();
    let take = |classes: &mut Classes, current: Option<&Arc<Task>>| classes.steal_fair(here, most, current);
    let Some(task) = take_from(busiest, here, take) else { return };
    activate(QUEUES.of(here).lock(), here, task, Enqueue::Migrate);
}

/// Takes a task out of the queue of `busiest`. It is in flight then: Running, on no queue, and already this CPU's.
fn take_from(
    busiest: usize,
    here: usize,
    take: impl FnOnce(&mut Classes, Option<&Arc<Task>>) -> Option<Arc<Task>>,
) -> Option<Arc<Task>> {
    let mut queue = QUEUES.of(busiest).lock();
    let now = account(&mut queue);
    let RunQueue { classes, current, .. } = &mut *queue;
    let task = take(classes, current.as_ref())?;
    task.sched.set_on_queue(false);
    publish_load(busiest, classes, current.as_ref());
    announce(busiest, classes);
    GLANCE.of(busiest).add_running(-1, now);
    stats::count_migration(&task);
    task.sched.set_cpu(here);
    Some(task)
}

/// Tells the others what weight of fair tasks wants this CPU. Under the queue's lock.
pub(super) fn publish_load(cpu: usize, classes: &Classes, current: Option<&Arc<Task>>) {
    let running = current.filter(|task| task.sched.class() == super::class::ClassId::Fair);
    let own = running.map_or(0, |task| task.sched.weight());
    GLANCE.of(cpu).load.store(classes.fair.load() + own, Ordering::Relaxed);
}

// ---------------------------------------------------------------------------------------------------------------------
// Real-time and deadline tasks

/// Keeps the bit of `cpu` in [`URGENT_CPUS`] true. Under the queue's lock.
#[inline]
pub(super) fn announce(cpu: usize, classes: &Classes) {
    let waits = classes.has_urgent();
    if waits != (URGENT_CPUS.load(Ordering::Relaxed) >> cpu & 1 != 0) {
        if waits {
            URGENT_CPUS.fetch_or(1 << cpu, Ordering::SeqCst);
        } else {
            URGENT_CPUS.fetch_and(!(1 << cpu), Ordering::SeqCst);
        }
    }
}

/// Whether a real-time or deadline task waits on another CPU than `here`.
#[inline(always)]
pub(super) fn urgent_elsewhere(here: usize) -> bool {
    URGENT_CPUS.load(Ordering::Relaxed) & !(1 << here) != 0
}

/// Whether one waits on `here`, and may be better off elsewhere.
#[inline(always)]
pub(super) fn urgent_here(here: usize) -> bool {
    URGENT_CPUS.load(Ordering::Relaxed) >> here & 1 != 0
}

/// Takes a waiting real-time or deadline task that is more urgent than `own`, which is what this CPU would run.
#[cold]
pub(super) fn pull_urgent(here: usize, own: Priority) {
    let _pinned = super::Pinned::new();
    for cpu in cpus_of(URGENT_CPUS.load(Ordering::SeqCst) & cpu::online_mask() & !(1 << here)) {
        if let Some(task) = take_from(cpu, here, |classes, _| classes.steal_urgent(here, own)) {
            activate(QUEUES.of(here).lock(), here, task, Enqueue::Migrate);
            return;
        }
    }
}

/// Somebody urgent waits on `here`: the CPU that runs the least urgent task is made to come for it, if its task is less
/// urgent than who waits.
#[cold]
pub(super) fn push_urgent(here: usize) {
    let waiting = QUEUES.of(here).lock().classes.most_urgent();
    let Some((urgency, allowed)) = waiting else { return };
    let running = |cpu: &usize| GLANCE.of(*cpu).urgency();
    let target = cpus_of(cpu::online_mask() & allowed & !(1 << here)).max_by_key(running);
    if let Some(target) = target.filter(|target| running(target) > urgency) {
        make_look(target);
    }
}
