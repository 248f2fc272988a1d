//! The I/O context of a task: its I/O priority (ioprio_set(2)). Linux `struct io_context`.
//!
//! A task has none until a priority is set. fork copies it; CLONE_IO shares it, if the parent had one then. Who has none,
//! or class NONE in it, counts as what its nice value says.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::ioprio as p;
use abi::sched::{SCHED_FIFO, SCHED_IDLE, SCHED_RR};
use hal::sync::SpinLock;

use super::Task;
use crate::sync::order;

/// What tasks of one CLONE_IO family share.
struct Context {
    priority: AtomicU32,
}

/// A task's reference to its context, if it has one.
pub struct IoContext(SpinLock<Option<Arc<Context>>>);

impl IoContext {
    /// None.
    pub(super) fn new() -> Self {
        Self(SpinLock::new(order::TASK_FIELDS, None))
    }

    /// The priority as it was set; 0 when none was.
    pub fn priority(&self) -> u32 {
        self.0.lock().as_ref().map_or(0, |context| context.priority.load(Ordering::Relaxed))
    }

    /// Sets the priority of all who share the context.
    pub fn set_priority(&self, priority: u32) {
        let fresh = || Arc::new(Context { priority: AtomicU32::new(0) });
        self.0.lock().get_or_insert_with(fresh).priority.store(priority, Ordering::Relaxed);
    }

    /// A child of `parent`: shares with CLONE_IO, else has the same priority for itself (Linux `copy_io`).
    pub(super) fn inherit(&self, parent: &IoContext, share: bool) {
        let theirs = parent.0.lock().clone();
        let Some(context) = theirs else { return };
        if share {
            *self.0.lock() = Some(context);
            return;
        }
        let priority = context.priority.load(Ordering::Relaxed);
        if p::class(priority) != p::IOPRIO_CLASS_NONE {
            self.set_priority(priority);
        }
    }
}

/// The priority that counts: what was set, else a level by nice value in the class that the policy means (Linux
/// `__get_task_ioprio`).
pub fn effective_priority(task: &Task) -> u32 {
    let set = task.io_context.priority();
    if p::class(set) != p::IOPRIO_CLASS_NONE {
        return set;
    }
    let class = match task.sched.policy.load(Ordering::Relaxed) {
        SCHED_IDLE => p::IOPRIO_CLASS_IDLE,
        SCHED_FIFO | SCHED_RR => p::IOPRIO_CLASS_RT,
        _ => p::IOPRIO_CLASS_BE,
    };
    p::value(class, (task.sched.nice() + 20).unsigned_abs() / 5)
}
