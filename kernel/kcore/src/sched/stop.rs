//! The stop class: the stopper of a CPU ([`crate::stop_machine`]) goes before all other tasks and gives way to nobody (Linux
//! `kernel/sched/stop_task.c`). It has one task for each CPU, which user space sees as SCHED_FIFO 99.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::class::{Class, Enqueue};
use super::entity::Entity;
use crate::task::Task;

/// The stopper of one CPU while it waits.
pub struct StopQueue {
    stopper: Option<Arc<Task>>,
}

impl StopQueue {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { stopper: None }
    }
}

/// Makes a task that does not run yet the stopper of the one CPU that it is bound to.
pub fn become_stopper(task: &Arc<Task>) {
    super::set_policy(task, super::Policy::RealTime { policy: abi::sched::SCHED_FIFO, priority: 99 })
        .expect("it asks for no bandwidth");
    debug_assert!(task.sched.allowed.load(Ordering::Relaxed).is_power_of_two(), "a stopper has one CPU");
    task.sched.become_stopper();
}

impl Class for StopQueue {
    fn place(&mut self, _: &Task, _: Enqueue, _: Option<&Entity>, _: u64) {}

    fn insert(&mut self, task: Arc<Task>) {
        debug_assert!(self.stopper.is_none(), "a CPU has one stopper");
        self.stopper = Some(task);
    }

    fn leave(&mut self, _: &Task) {}

    fn dequeue(&mut self, _: &Task, _: Option<&Entity>) -> bool {
        // Its class never changes while it waits.
        false
    }

    fn pick_next(&mut self) -> Option<Arc<Task>> {
        self.stopper.take()
    }

    fn steal_for(&mut self, _: usize, _: Option<&Entity>) -> Option<Arc<Task>> {
        None
    }

    fn account(&mut self, _: &Task, _: u64, _: u64) {}

    fn preempts(&mut self, _: &Task, _: &Task) -> bool {
        false
    }

    fn turn_is_over(&mut self, _: &Task) -> bool {
        false
    }

    fn yield_current(&mut self, _: &Task) {}

    fn waiting(&self) -> usize {
        usize::from(self.stopper.is_some())
    }
}
