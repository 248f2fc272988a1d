//! The scheduler's queue by itself, with as many tasks as one likes: how its cost grows is measured in
//! `kernel/kcore/benches`. Only inside of a machine.

use std::sync::Arc;

use crate::sched::class::{Class, Enqueue};
use crate::sched::fair::FairQueue;
use crate::task::{Task, kthread};

/// A turn of a task, ns.
const TURN_NS: u64 = 3_000_000;

/// A run queue whose tasks only wait.
pub struct Queue {
    fair: FairQueue,
    running: Arc<Task>,
}

impl Queue {
    /// `waiting` tasks, each with another run time behind it, and one that runs.
    pub fn new(waiting: u64) -> Self {
        let mut fair = FairQueue::new();
        let running = kthread::idle(0);
        for turn in 0..waiting {
            let task = kthread::idle(0);
            fair.account(&task, turn * 1000, 0);
            fair.insert(task);
        }
        Self { fair, running }
    }

    /// The running task's turn ends; the next one is picked.
    pub fn switch(&mut self) {
        self.fair.account(&self.running, TURN_NS, 0);
        self.fair.insert(self.running.clone());
        self.running = self.fair.pick_next().expect("one was just put in");
    }

    /// The first task goes to sleep, wakes, and is asked whether it takes the CPU.
    pub fn sleep_and_wake(&mut self) -> bool {
        let Some(task) = self.fair.pick_next() else { return false };
        self.fair.account(&task, TURN_NS, 0);
        self.fair.leave(&task);
        self.fair.place(&task, Enqueue::Wakeup, None, 0);
        self.fair.insert(task.clone());
        self.fair.preempts(&task, &self.running)
    }
}
