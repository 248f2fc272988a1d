//! Stopping the other threads of a process that dumps core (Linux `zap_threads`, `coredump_task_exit`).
//!
//! They are killed, and each waits at the very start of its exit, with memory, descriptors and registers still in place,
//! until the core is written.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use hal::thread::work;

use crate::sched;
use crate::signal::{self, GroupState};
use crate::task::tree;
use crate::task::{Task, TaskState};

/// Begins the end of the process with `status` and waits until its other threads are stopped; returns them. `None` when
/// the process is ending already or another thread is in exec: then there is no dump.
pub(super) fn stop_others(task: &Task, status: i32) -> Option<Vec<Arc<Task>>> {
    let signals = &task.group.signals;
    let others = {
        let tree = tree::lock();
        let id = tree.find(&task.group)?;
        let mut state = signals.state.lock();
        if state.exiting.is_some() || state.exec_survivor.is_some() {
            return None;
        }
        let is_other =
            |thread: &&Arc<Task>| !core::ptr::eq(&***thread, task) && !thread.signals.past_dump.load(Ordering::Relaxed);
        let others: Vec<Arc<Task>> = tree.node(id).threads.iter().filter(is_other).cloned().collect();
        // Point of no return: the process ends, with or without a core.
        signal::send::begin_dump(&mut state, &others, status);
        others
    };
    // What came before no longer counts, and what comes from here on is SIGKILL alone.
    task.thread.work().fetch_and(!work::SIGNAL, Ordering::SeqCst);
    let all_stopped = || signals.state.lock().threads_to_stop == Some(0);
    // Not even a fatal signal ends this wait: the others are on their way out, and their registers are needed whole.
    let waited = signals.dump_progress.wait_event(TaskState::Uninterruptible, all_stopped);
    debug_assert!(waited.is_ok());
    others.iter().for_each(sched::wait_inactive);
    Some(others)
}

/// The core is written, or not: lets the other threads exit. Returns what the process ends with.
pub(super) fn finish(task: &Task, status: i32) -> i32 {
    let signals = &task.group.signals;
    let status = {
        let mut state = signals.state.lock();
        state.threads_to_stop = None;
        // Killed in the middle: the core is not to be relied on (Linux `coredump_finish`).
        if !task.fatal_signal_pending() {
            state.exiting = Some(status);
        }
        state.exiting.unwrap_or(status)
    };
    signals.dump_progress.wake_all();
    status
}

/// The first thing in the exit of a thread: while its process dumps core it waits.
pub(crate) fn thread_exits(task: &Task) {
    let signals = &task.group.signals;
    let arrived = |state: &mut GroupState| {
        // One who is past this point is not counted by a dump that begins later.
        task.signals.past_dump.store(true, Ordering::Relaxed);
        let Some(left) = state.threads_to_stop.as_mut() else { return false };
        *left -= 1;
        true
    };
    if !arrived(&mut signals.state.lock()) {
        return;
    }
    signals.dump_progress.wake_all();
    let over = || signals.state.lock().threads_to_stop.is_none();
    let waited = signals.dump_progress.wait_event(TaskState::Uninterruptible, over);
    debug_assert!(waited.is_ok());
}
