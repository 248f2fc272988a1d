//! A completion: one side waits until the other says "done" (Linux `struct completion`). vfork waits on one.

use core::sync::atomic::{AtomicBool, Ordering};

use super::WaitQueue;
use crate::Result;
use crate::task::TaskState;

/// A one-time event.
pub struct Completion {
    done: AtomicBool,
    waiters: WaitQueue,
}

impl Default for Completion {
    fn default() -> Self {
        Self::new()
    }
}

impl Completion {
    /// Not yet done.
    pub const fn new() -> Self {
        Self { done: AtomicBool::new(false), waiters: WaitQueue::new() }
    }

    /// The event happened: wakes all waiters, now and later ones.
    pub fn complete(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.waiters.wake_all();
    }

    /// Sleeps in `state` until [`Self::complete`].
    pub fn wait(&self, state: TaskState) -> Result<()> {
        self.waiters.wait_event(state, || self.done.load(Ordering::SeqCst))
    }
}
