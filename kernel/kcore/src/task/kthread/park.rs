//! Parking: a kernel thread goes aside without ending (Linux `kthread_park`). Who needs the CPU or the data that it works on
//! parks it, and lets it go on later.
//!
//! Parked is a state of its own, TASK_PARKED (`P` in ps), that no ordinary wake-up ends: the thread cannot be woken by
//! something that it left on a wait queue.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{SHOULD_PARK, of};
use crate::sched;
use crate::task::{Task, TaskState, current};

/// Asks the thread to park, and waits until it has, unless it is the caller. A thread that is asked to stop as well may end
/// instead, and is waited for no longer.
pub fn park(task: &Arc<Task>) {
    let kthread = of(task);
    kthread.asked.fetch_or(SHOULD_PARK, Ordering::SeqCst);
    if core::ptr::eq(&**task, &*current()) {
        return;
    }
    sched::wake(task, TaskState::NORMAL);
    let is_aside = || kthread.is_parked.load(Ordering::SeqCst) || task.has_flag(crate::task::flags::EXITING);
    // An uninterruptible sleep ends only with its condition.
    let _ = kthread.parked.wait_event(TaskState::Uninterruptible, is_aside);
}

/// Lets a parked thread go on, or takes the request back.
pub fn unpark(task: &Arc<Task>) {
    of(task).asked.fetch_and(!SHOULD_PARK, Ordering::SeqCst);
    sched::wake(task, TaskState::FOR_UNPARK);
}

/// Whether the current kernel thread was asked to park.
pub fn should_park() -> bool {
    current().kthread.as_ref().is_some_and(|kthread| kthread.is_asked(SHOULD_PARK))
}

/// Parks the current kernel thread while it is asked to (Linux `kthread_parkme`).
pub fn park_me() {
    let task = current();
    let kthread = of(&task);
    loop {
        // Before the look: an unpark in between finds the state and ends it.
        task.set_state(TaskState::Parked);
        if !kthread.is_asked(SHOULD_PARK) {
            break;
        }
        kthread.is_parked.store(true, Ordering::SeqCst);
        // What woke somebody may have been the last reference to the sleeper's stack: it takes locks, and may preempt; the
        // state stays Parked, as a preempted task stays runnable.
        kthread.parked.wake_all();
        sched::schedule();
    }
    task.set_state(TaskState::Running);
    kthread.is_parked.store(false, Ordering::SeqCst);
}

/// The thread ends: nobody need wait for it to park.
pub(in crate::task) fn thread_exits(task: &Task) {
    if let Some(kthread) = task.kthread.as_ref() {
        kthread.parked.wake_all();
    }
}
