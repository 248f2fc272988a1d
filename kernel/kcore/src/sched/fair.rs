//! The fair class: SCHED_OTHER, SCHED_BATCH and SCHED_IDLE. Whoever has had least weighted run time goes first.
//!
//! A queue is ordered by virtual run time. A sleeper comes back at most one latency period behind the queue, so that it
//! is served soon but cannot save up.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::class::{Class, Enqueue};
use crate::task::Task;

/// A turn when several tasks wait, ns (Linux `base_slice`).
const SLICE_NS: u64 = 3_000_000;
/// How far a woken task may be ahead in virtual time before it takes the CPU at once, ns.
const WAKEUP_GRANULARITY_NS: u64 = 500_000;
/// What a sleeper is credited at most, ns.
const SLEEPER_CREDIT_NS: u64 = SLICE_NS;

/// The queue of one CPU.
pub struct FairQueue {
    waiting: BTreeMap<(u64, i32), Arc<Task>>,
    /// Never decreases: the virtual time that newcomers are placed by.
    min_vruntime: u64,
}

impl FairQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { waiting: BTreeMap::new(), min_vruntime: 0 }
    }

    fn key(task: &Task) -> (u64, i32) {
        (task.sched.vruntime.load(Ordering::Relaxed), task.sched_key())
    }

    fn advance(&mut self, current_vruntime: u64) {
        let first = self.waiting.first_key_value().map_or(current_vruntime, |((v, _), _)| *v);
        self.min_vruntime = self.min_vruntime.max(first.min(current_vruntime));
    }
}

impl Class for FairQueue {
    fn enqueue(&mut self, task: &Arc<Task>, how: Enqueue) {
        let own = task.sched.vruntime.load(Ordering::Relaxed);
        let floor = match how {
            Enqueue::Wakeup => self.min_vruntime.saturating_sub(SLEEPER_CREDIT_NS),
            Enqueue::New | Enqueue::Migrate => self.min_vruntime,
        };
        // A task from another CPU brings that CPU's clock: it starts level here instead of far ahead.
        let placed = if how == Enqueue::Migrate { floor } else { own.max(floor) };
        task.sched.vruntime.store(placed, Ordering::Relaxed);
        self.waiting.insert(Self::key(task), task.clone());
    }

    fn put_previous(&mut self, task: &Arc<Task>) {
        self.waiting.insert(Self::key(task), task.clone());
    }

    fn dequeue(&mut self, task: &Task) -> bool {
        self.waiting.remove(&Self::key(task)).is_some()
    }

    fn pick_next(&mut self) -> Option<Arc<Task>> {
        let ((vruntime, _), task) = self.waiting.pop_first()?;
        self.min_vruntime = self.min_vruntime.max(vruntime);
        Some(task)
    }

    fn steal_for(&mut self, cpu: usize) -> Option<Arc<Task>> {
        // From the back: who would wait longest here.
        let key = self.waiting.iter().rev().find(|(_, task)| task.sched.allows(cpu)).map(|(key, _)| *key)?;
        self.waiting.remove(&key)
    }

    fn account(&mut self, current: &Task, delta_ns: u64) {
        let entity = &current.sched;
        let vruntime = entity.vruntime.load(Ordering::Relaxed) + entity.scale(delta_ns);
        entity.vruntime.store(vruntime, Ordering::Relaxed);
        self.advance(vruntime);
    }

    fn preempts(&self, woken: &Task, current: &Task) -> bool {
        let policy = |task: &Task| task.sched.policy.load(Ordering::Relaxed);
        // Batch and idle tasks never preempt; idle ones always give way (sched(7)).
        match (policy(woken), policy(current)) {
            (abi::sched::SCHED_OTHER, abi::sched::SCHED_IDLE) => return true,
            (abi::sched::SCHED_OTHER, _) => {}
            _ => return false,
        }
        let ahead = woken.sched.scale(WAKEUP_GRANULARITY_NS);
        woken.sched.vruntime.load(Ordering::Relaxed) + ahead < current.sched.vruntime.load(Ordering::Relaxed)
    }

    fn turn_is_over(&self, current: &Task, now_ns: u64) -> bool {
        !self.waiting.is_empty() && now_ns.saturating_sub(current.sched.turn_start.load(Ordering::Relaxed)) >= SLICE_NS
    }

    fn yield_current(&mut self, current: &Task) {
        if let Some(((first, _), _)) = self.waiting.first_key_value() {
            let behind = current.sched.vruntime.load(Ordering::Relaxed).max(first + 1);
            current.sched.vruntime.store(behind, Ordering::Relaxed);
        }
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
