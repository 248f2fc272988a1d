//! The deadline class: SCHED_DEADLINE, whose tasks run by earliest deadline first (sched(7)).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use super::class::{Class, Enqueue};
use super::entity::Entity;
use super::timeline::Timeline;
use crate::task::Task;

/// Tasks that a search for one to move looks at.
const STEAL_SEARCH: usize = 32;

/// The queue of one CPU.
pub struct DeadlineQueue {
    waiting: Timeline,
    sequence: u64,
}

impl DeadlineQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { waiting: Timeline::new(), sequence: 0 }
    }

    /// Who goes first of those who wait.
    pub fn first(&self) -> Option<&Arc<Task>> {
        self.waiting.first_task()
    }

    /// Whether the deadline of someone who waits comes before that of `current`.
    pub fn is_outranked(&self, current: &Task) -> bool {
        let own = current.sched.priority().deadline_ns().cast_signed();
        self.waiting.first().is_some_and(|(deadline, _)| deadline < own)
    }
}

impl Class for DeadlineQueue {
    fn place(&mut self, _task: &Task, _how: Enqueue, _running: Option<&Entity>, _now_ns: u64) {}

    fn insert(&mut self, task: Arc<Task>) {
        self.sequence += 1;
        task.sched.sequence.store(self.sequence, Relaxed);
        let key = (task.sched.priority().deadline_ns().cast_signed(), self.sequence);
        task.sched.deadline.store(key.0, Relaxed);
        self.waiting.insert(key, 0, task);
    }

    fn leave(&mut self, _current: &Task) {}

    fn dequeue(&mut self, task: &Task, _running: Option<&Entity>) -> bool {
        let key = (task.sched.deadline.load(Relaxed), task.sched.sequence.load(Relaxed));
        self.waiting.remove(&key).is_some()
    }

    fn pick_next(&mut self) -> Option<Arc<Task>> {
        self.waiting.pop_first().map(|(_, _, task)| task)
    }

    fn steal_for(&mut self, cpu: usize, _running: Option<&Entity>) -> Option<Arc<Task>> {
        let key = self.waiting.find(STEAL_SEARCH, |task| task.sched.allows(cpu))?;
        self.waiting.remove(&key)
    }

    fn account(&mut self, _current: &Task, _delta_ns: u64, _now_ns: u64) {}

    fn preempts(&mut self, woken: &Task, current: &Task) -> bool {
        woken.sched.priority() < current.sched.priority()
    }

    fn turn_is_over(&mut self, _current: &Task) -> bool {
        false
    }

    fn yield_current(&mut self, _current: &Task) {}

    fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
