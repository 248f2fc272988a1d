//! The scheduling-class interface: what a policy must answer. The core ([`super`]) owns states, switching and placement;
//! a class owns the order of its tasks. All calls come under the run-queue lock.

use alloc::sync::Arc;

use crate::task::Task;

/// How a task enters a class's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enqueue {
    /// After a sleep.
    Wakeup,
    /// For the first time.
    New,
    /// From another CPU.
    Migrate,
}

/// One policy's queue on one CPU. The running task is not in the queue.
pub trait Class {
    /// Gives a task that became runnable its place in the order. [`Self::insert`] follows.
    fn place(&mut self, task: &Task, how: Enqueue);
    /// Adds a task to the queue: one that was placed, or the one that ran.
    fn insert(&mut self, task: Arc<Task>);
    /// The task that ran goes back, and who should run next comes out: perhaps the same.
    fn exchange(&mut self, task: &Arc<Task>) -> Arc<Task>;
    /// Removes a waiting task. False when it was not here.
    fn dequeue(&mut self, task: &Task) -> bool;
    /// Takes the task that should run next out of the queue.
    fn pick_next(&mut self) -> Option<Arc<Task>>;
    /// Takes a waiting task that may run on `cpu`, for balancing.
    fn steal_for(&mut self, cpu: usize) -> Option<Arc<Task>>;
    /// `current` ran for `delta_ns`.
    fn account(&mut self, current: &Task, delta_ns: u64);
    /// Whether `woken` should take the CPU from `current` at once.
    fn preempts(&self, woken: &Task, current: &Task) -> bool;
    /// Whether `current`'s turn is over at `now_ns`.
    fn turn_is_over(&self, current: &Task, now_ns: u64) -> bool;
    /// `current` gives way (sched_yield).
    fn yield_current(&mut self, current: &Task);
    /// Tasks that wait.
    fn waiting(&self) -> usize;
}
