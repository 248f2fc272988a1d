//! Job-control stops: all threads of a process stop together, the last one tells the parent, SIGCONT resumes them
//! (Linux `do_signal_stop`, `prepare_signal`).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::signal as s;
use abi::signal::SigInfo;

use super::{GroupState, send};
use crate::sched;
use crate::task::TaskState;
use crate::task::tree::{self, NO_NODE, Tree};
use crate::task::{Task, ThreadGroup, current};

/// The default action of a stop signal: begins a stop of the whole process, then takes part in it.
pub(super) fn begin(signal: u32) {
    let task = current();
    {
        let tree = tree::lock();
        let mut state = task.group.signals.state.lock();
        if state.exiting.is_some() || state.exec_survivor.is_some() {
            return;
        }
        if !task.signals.stop_dequeued.swap(false, Ordering::SeqCst) {
            return; // continued before it stopped
        }
        let Some(id) = tree.find(&task.group) else { return };
        if state.stop_signal == 0 {
            let threads = &tree.node(id).threads;
            state.stop_signal = signal;
            state.stop_left = 0;
            for thread in threads {
                let alive = !thread.has_flag(crate::task::flags::EXITING);
                thread.signals.stop_counted.store(alive, Ordering::Relaxed);
                if alive {
                    state.stop_left += 1;
                }
                if alive && !core::ptr::eq(&**thread, &*task) {
                    thread.thread.work().fetch_or(hal::thread::work::SIGNAL, Ordering::SeqCst);
                    if !sched::wake(thread, TaskState::FOR_SIGNAL) {
                        sched::kick_task(thread);
                    }
                }
            }
        }
    }
    take_part();
}

/// Stops the current thread if a stop is under way. Returns when it was resumed; false when there was none.
pub(super) fn take_part() -> bool {
    let task = current();
    let last = {
        let mut state = task.group.signals.state.lock();
        if state.stop_signal == 0 || state.exiting.is_some() {
            return false;
        }
        let last = leave_stop_count(&task, &mut state);
        task.set_state(TaskState::Stopped);
        last
    };
    if last {
        notify_parent_of_stop(&task.group, s::CLD_STOPPED);
    }
    sched::schedule();
    true
}

/// Counts the thread as stopped (or gone). True when it was the last one that the stop waited for.
fn leave_stop_count(task: &Task, state: &mut GroupState) -> bool {
    if !task.signals.stop_counted.swap(false, Ordering::Relaxed) {
        return false;
    }
    state.stop_left -= 1;
    if state.stop_left > 0 {
        return false;
    }
    state.stopped = true;
    state.stop_unreported = true;
    state.continue_unreported = false;
    true
}

/// A thread that exits no longer takes part. True when that completed a stop: the parent is to be told.
pub(crate) fn thread_exits(task: &Task) -> bool {
    let mut state = task.group.signals.state.lock();
    state.stop_signal != 0 && leave_stop_count(task, &mut state)
}

/// SIGCONT came: ends a stop in force or under way. Returns the code and status that the parent is to be told (after the
/// lock is released): of a stop that was under way that it happened, as Linux does, else that it is over.
pub(super) fn resume(threads: &[Arc<Task>], state: &mut GroupState) -> Option<(i32, u32)> {
    let stopping = core::mem::take(&mut state.stop_signal);
    state.stop_left = 0;
    for thread in threads {
        thread.signals.stop_counted.store(false, Ordering::Relaxed);
        thread.signals.stop_dequeued.store(false, Ordering::SeqCst);
        sched::wake(thread, TaskState::FOR_CONTINUE);
    }
    if stopping == 0 {
        return None;
    }
    state.stop_unreported = false;
    state.continue_unreported = true;
    let was_stopped = core::mem::take(&mut state.stopped);
    Some(if was_stopped { (s::CLD_CONTINUED, s::SIGCONT) } else { (s::CLD_STOPPED, stopping) })
}

/// Tells the parent that the process stopped (`CLD_STOPPED`) or was trapped.
pub(crate) fn notify_parent_of_stop(group: &Arc<ThreadGroup>, code: i32) {
    let tree = tree::lock();
    let signal = group.signals.state.lock().stop_signal;
    tell_parent(&tree, group, code, signal);
}

/// SIGCHLD unless SA_NOCLDSTOP, and the parent's waiters (Linux `do_notify_parent_cldstop`). No group's state is locked.
pub(super) fn tell_parent(tree: &Tree, group: &Arc<ThreadGroup>, code: i32, status: u32) {
    let Some(id) = tree.find(group) else { return };
    let parent = tree.node(id).parent;
    if parent == NO_NODE {
        return;
    }
    let Some(first) = tree.node(parent).threads.first() else { return };
    let action = first.handlers().get(s::SIGCHLD);
    if action.handler != s::SIG_IGN && action.flags & u64::from(s::SA_NOCLDSTOP) == 0 {
        let info = child_info(tree.node(id), code, status.cast_signed());
        send::info_with_tree(tree, &tree.node(parent).group, &info);
    }
    tree.node(parent).group.child_changed.wake_all();
}

/// The siginfo of a SIGCHLD about a process that stopped or goes on.
fn child_info(node: &tree::Node, code: i32, status: i32) -> SigInfo {
    let group = &node.group;
    let uid = group.leader().map_or(0, |leader| leader.creds().uid);
    let (user, system) = crate::task::wait::own_ticks(node);
    SigInfo::child(code, group.pid.global(), uid, status).with_times(user, system)
}

/// What `wait` may report of a process that still lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum JobReport {
    /// Stopped by this signal.
    Stopped(u32),
    /// Continued.
    Continued,
}

/// The report for a waiter that asks for stops and/or continues; `consume` marks it as seen (no WNOWAIT).
pub(crate) fn job_report(group: &ThreadGroup, stops: bool, continues: bool, consume: bool) -> Option<JobReport> {
    let mut state = group.signals.state.lock();
    if stops && state.stopped && state.stop_unreported {
        state.stop_unreported = !consume;
        return Some(JobReport::Stopped(state.stop_signal));
    }
    if continues && state.continue_unreported {
        state.continue_unreported = !consume;
        return Some(JobReport::Continued);
    }
    None
}

/// Whether the whole process is stopped.
pub(crate) fn is_stopped(group: &ThreadGroup) -> bool {
    group.signals.state.lock().stopped
}
