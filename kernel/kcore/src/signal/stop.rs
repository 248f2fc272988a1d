//! Job-control stops: all threads of a process stop together, the last one tells the parent, SIGCONT resumes them
//! (Linux `do_signal_stop`, `prepare_signal`). A traced thread stops for its tracer instead (`task::ptrace::stop`); it is
//! counted like the others, but its tracer may let it run while the process counts as stopped.

use alloc::sync::Arc;

use abi::signal as s;
use abi::signal::SigInfo;

use super::{GroupState, jobctl, send};
use crate::sched;
use crate::task::tree::{self, NO_NODE, Tree};
use crate::task::{Task, TaskState, ThreadGroup, current, ptrace};

/// The default action of a stop signal: begins a stop of the whole process, then takes part in it.
pub(super) fn begin(signal: u32) {
    let task = current();
    {
        let tree = tree::lock();
        let mut state = task.group.signals.state.lock();
        if state.exiting.is_some() || state.exec_survivor.is_some() {
            return;
        }
        let Some(id) = tree.find(&task.group) else { return };
        if jobctl::of(&task) & jobctl::STOP_PENDING == 0 {
            if jobctl::of(&task) & jobctl::STOP_DEQUEUED == 0 {
                return; // continued before it stopped
            }
            ask_all(&mut state, &tree.node(id).threads, &task, signal);
        }
    }
    take_part();
}

/// Asks every thread that is not stopped to stop. A tracer may have let `task` run in a stopped process, and another stop
/// signal then stops it anew; the process counts as stopped all the time (Linux `do_signal_stop`).
fn ask_all(state: &mut GroupState, threads: &[Arc<Task>], task: &Task, signal: u32) {
    if !state.stopped {
        state.stop_signal = signal;
    }
    state.stop_left = 0;
    for thread in threads {
        let is_self = core::ptr::eq(&**thread, task);
        if !is_self && thread.state() == TaskState::Stopped {
            continue;
        }
        if !jobctl::ask(thread, signal | jobctl::STOP_PENDING | jobctl::STOP_CONSUME) {
            continue;
        }
        state.stop_left += 1;
        if is_self {
            continue;
        }
        if thread.ptrace.is_seized() {
            ptrace::stop::notify_of_group_stop(thread);
        } else {
            send::wake_up(thread, TaskState::FOR_SIGNAL);
        }
    }
}

/// Stops the current thread if it is asked to take part in a stop. Returns true when it was resumed; false when there was
/// none, or when it is traced and stops for its tracer next.
pub(super) fn take_part() -> bool {
    let task = current();
    let last = {
        let mut state = task.group.signals.state.lock();
        if jobctl::of(&task) & jobctl::STOP_PENDING == 0 || state.exiting.is_some() {
            return false;
        }
        if task.ptrace.is_traced() {
            jobctl::ask(&task, jobctl::TRAP_STOP);
            return false;
        }
        let last = participate(&task, &mut state);
        task.set_state(TaskState::Stopped);
        last
    };
    if last {
        notify_parent_of_stop(&task.group, s::CLD_STOPPED);
    }
    sched::schedule();
    true
}

/// Counts the thread as stopped (or gone). True when it was the last one that a fresh stop waited for (Linux
/// `task_participate_group_stop`).
pub(crate) fn participate(task: &Task, state: &mut GroupState) -> bool {
    let counted = jobctl::of(task) & jobctl::STOP_CONSUME != 0;
    jobctl::clear(task, jobctl::STOP_PENDING);
    if !counted {
        return false;
    }
    state.stop_left = state.stop_left.saturating_sub(1);
    if state.stop_left > 0 || state.stopped {
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
    jobctl::of(task) & jobctl::STOP_PENDING != 0 && participate(task, &mut state)
}

/// A thread that is born into a stop takes part in it (Linux `task_join_group_stop`).
pub(crate) fn join(parent: &Task, child: &Task, state: &mut GroupState) {
    let mut bits = jobctl::of(parent) & jobctl::STOP_SIGNAL | jobctl::STOP_PENDING;
    if state.stop_left > 0 {
        state.stop_left += 1;
        bits |= jobctl::STOP_CONSUME;
    } else if !state.stopped {
        return;
    }
    jobctl::ask(child, bits);
}

/// SIGCONT came: ends a stop in force or under way. Returns the code and status that the parent is to be told (after the
/// lock is released): of a stop that was under way that it happened, as Linux does, else that it is over.
pub(super) fn resume(threads: &[Arc<Task>], state: &mut GroupState) -> Option<(i32, u32)> {
    for thread in threads {
        jobctl::clear(thread, jobctl::STOP_PENDING);
        if thread.ptrace.is_seized() {
            ptrace::stop::notify_of_group_stop(thread);
        } else {
            sched::wake(thread, TaskState::FOR_CONTINUE);
        }
    }
    let stopping = core::mem::take(&mut state.stop_signal);
    let was_stopped = core::mem::take(&mut state.stopped);
    let was_stopping = core::mem::take(&mut state.stop_left) > 0;
    if !was_stopped && !was_stopping {
        return None;
    }
    state.stop_unreported = false;
    state.continue_unreported = true;
    Some(if was_stopped { (s::CLD_CONTINUED, s::SIGCONT) } else { (s::CLD_STOPPED, stopping) })
}

/// Tells the parent that the process stopped (`CLD_STOPPED`) or was trapped.
pub(crate) fn notify_parent_of_stop(group: &Arc<ThreadGroup>, code: i32) {
    let tree = tree::lock();
    let signal = group.signals.state.lock().stop_signal;
    tell_parent(&tree, group, code, signal);
}

/// SIGCHLD unless SA_NOCLDSTOP, and the parent's waiters (Linux `do_notify_parent_cldstop`). No group's state is locked.
pub(crate) fn tell_parent(tree: &Tree, group: &Arc<ThreadGroup>, code: i32, status: u32) {
    let Some(id) = tree.find(group) else { return };
    let parent = tree.node(id).parent;
    if parent == NO_NODE {
        return;
    }
    let Some(first) = tree.node(parent).threads.first() else { return };
    let action = first.handlers().get(s::SIGCHLD);
    if action.handler != s::SIG_IGN && action.flags & u64::from(s::SA_NOCLDSTOP) == 0 {
        let info = child_info(tree.node(id), first, code, status.cast_signed());
        send::info_with_tree(tree, &tree.node(parent).group, &info);
    }
    tree.node(parent).group.child_changed.wake_all();
}

/// The siginfo of a SIGCHLD to `parent` about a process that stopped or goes on.
fn child_info(node: &tree::Node, parent: &Task, code: i32, status: i32) -> SigInfo {
    let (pid, uid) = node.identity_seen_by(parent);
    let (user, system) = crate::task::wait::own_ticks(node);
    SigInfo::child(code, pid, uid, status).with_times(user, system)
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
