//! wait(2), waitid(2): a parent learns what became of its children.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::signal as s;
use abi::wait as w;

use super::tree::{self, ExitState, NodeId, Tree};
use super::usage::Usage;
use super::{Pid, Task, TaskState, current, exit, ptrace};
use crate::Result;
use crate::signal::{self, JobReport};

/// Which children a caller waits for.
#[derive(Clone)]
pub enum Which {
    /// Any child.
    Any,
    /// The child with this identity.
    Process(Arc<Pid>),
    /// Children in this process group.
    Group(Arc<Pid>),
}

/// What became of a child.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// PID in the caller's namespace.
    pub pid: i32,
    /// Real user id.
    pub uid: u32,
    /// CLD_*.
    pub code: i32,
    /// The wait status word, as wait4 gives it.
    pub status: i32,
    /// What it used, with its own waited-for children.
    pub usage: Usage,
}

/// Waits for a change of a child. `Ok(None)`: WNOHANG and nothing yet.
pub fn wait(which: &Which, options: u32) -> Result<Option<Report>> {
    let task = current();
    let mut outcome = Ok(None);
    let slept = task.group.child_changed.wait_event(TaskState::Interruptible, || {
        outcome = look(which, options);
        !matches!(outcome, Ok(None)) || options & w::WNOHANG != 0
    });
    match slept {
        Err(error) => Err(error),
        Ok(()) => outcome,
    }
}

/// Whom a look found, with the report about him.
enum Found {
    /// A child.
    Child(NodeId, Report),
    /// A thread that the caller traces.
    Tracee(Arc<Task>, Report),
}

/// One look at children and tracees: `ECHILD` when none could ever answer.
fn look(which: &Which, options: u32) -> Result<Option<Report>> {
    let tree = tree::lock();
    let own = tree.find(&current().group).ok_or(Errno::ECHILD)?;
    let mut any = false;
    let found = look_at_children(&tree, own, which, options, &mut any)
        .or_else(|| look_at_tracees(&tree, own, which, options, &mut any));
    let consume = options & w::WNOWAIT == 0;
    match found {
        None if any => Ok(None),
        None => Err(Errno::ECHILD),
        Some(Found::Child(id, report)) if consume && tree.node(id).exit_state == ExitState::Zombie => {
            Ok(Some(finish(tree, id, report)))
        }
        Some(Found::Tracee(task, report)) if consume && has_ended(&tree, &task) => {
            Ok(Some(finish_tracee(tree, &task, report)))
        }
        Some(Found::Child(_, report) | Found::Tracee(_, report)) => Ok(Some(report)),
    }
}

fn look_at_children(tree: &Tree, own: NodeId, which: &Which, options: u32, any: &mut bool) -> Option<Found> {
    for id in tree.children(own) {
        if !is_meant(tree, id, which, options) {
            continue;
        }
        let node = tree.node(id);
        let is_zombie = node.exit_state == ExitState::Zombie;
        match tracer_of_leader(node) {
            // Traced by its parent: only as a tracee, so that one stop is not told twice.
            Some(tracer) if Arc::ptr_eq(&tracer.group, &tree.node(own).group) => {
                let leader = node.group.leader()?;
                let found = look_at_tracee(tree, &leader, options, any);
                if found.is_some() {
                    return found;
                }
                continue;
            }
            // The end of one that others trace is its tracer's to tell; it will come.
            Some(_) if is_zombie => {
                *any = true;
                continue;
            }
            _ => {}
        }
        // A zombie answers only who asks for exits (Linux wait_consider_task).
        *any |= options & w::WEXITED != 0 || !is_zombie;
        if let Some(report) = report_of(tree, id, options) {
            return Some(Found::Child(id, report));
        }
    }
    None
}

fn tracer_of_leader(node: &tree::Node) -> Option<Arc<Task>> {
    node.threads.iter().find(|thread| thread.is_leader())?.ptrace.tracer()
}

fn look_at_tracees(tree: &Tree, own: NodeId, which: &Which, options: u32, any: &mut bool) -> Option<Found> {
    let me = current();
    let is_asking = |thread: &&Arc<Task>| options & w::__WNOTHREAD == 0 || core::ptr::eq(&***thread, &*me);
    for thread in tree.node(own).threads.iter().filter(is_asking) {
        for tracee in thread.ptrace.tracees() {
            let meant = match which {
                Which::Any => true,
                Which::Process(pid) => Arc::ptr_eq(pid, &tracee.pid()),
                Which::Group(pid) => {
                    tree.find(&tracee.group).is_some_and(|id| tree.node(id).pgrp.global() == pid.global())
                }
            };
            let found = if meant { look_at_tracee(tree, &tracee, options, any) } else { None };
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

/// Whether the tracer may wait for the end of the thread: a leader only when the others are gone.
fn has_ended(tree: &Tree, task: &Task) -> bool {
    let leader_ended = || tree.find(&task.group).is_some_and(|id| tree.node(id).exit_state == ExitState::Zombie);
    task.ptrace.is_zombie() || task.is_leader() && leader_ended()
}

/// What a tracer hears of its tracee: every stop, whatever it asks for, and the end.
fn look_at_tracee(tree: &Tree, task: &Arc<Task>, options: u32, any: &mut bool) -> Option<Found> {
    let node = tree.node(tree.find(&task.group)?);
    let space = current().namespaces();
    let base = Report {
        pid: task.pid().number_in(space.pid()),
        uid: task.real_uid(),
        code: 0,
        status: 0,
        usage: usage_of(node),
    };
    if has_ended(tree, task) {
        if options & w::WEXITED == 0 {
            return None;
        }
        *any = true;
        let whole = node.group.signals.exiting();
        let status = whole.unwrap_or_else(|| task.exit_code.load(Ordering::Relaxed));
        return Some(Found::Tracee(task.clone(), ended(status, base)));
    }
    *any = true;
    let consume = options & w::WNOWAIT == 0;
    if let Some(code) = ptrace::stop::take_report(task, consume) {
        let status = (code << 8 | 0x7f).cast_signed();
        return Some(Found::Tracee(task.clone(), Report { code: s::CLD_TRAPPED, status, ..base }));
    }
    let continues = options & w::WCONTINUED != 0;
    signal::job_report(&node.group, false, continues, consume)?;
    Some(Found::Tracee(task.clone(), Report { code: s::CLD_CONTINUED, status: 0xffff, ..base }))
}

fn is_meant(tree: &Tree, id: NodeId, which: &Which, options: u32) -> bool {
    let node = tree.node(id);
    let meant = match which {
        Which::Any => true,
        Which::Process(pid) => Arc::ptr_eq(pid, &node.group.pid),
        Which::Group(pid) => node.pgrp.global() == pid.global(),
    };
    // A "clone" child is one that does not send SIGCHLD (wait(2), __WCLONE and __WALL).
    let mine = options & w::__WNOTHREAD == 0 || node.parent_thread == current().tid();
    let clone_child = node.group.exit_signal.load(Ordering::Relaxed) != s::SIGCHLD.cast_signed();
    meant && mine && (options & w::__WALL != 0 || clone_child == (options & w::__WCLONE != 0))
}

fn ended(status: i32, base: Report) -> Report {
    let code = match status & 0x7f {
        0 => s::CLD_EXITED,
        _ if status & 0x80 != 0 => s::CLD_DUMPED,
        _ => s::CLD_KILLED,
    };
    Report { code, status, ..base }
}

fn report_of(tree: &Tree, id: NodeId, options: u32) -> Option<Report> {
    let node = tree.node(id);
    let space = current().namespaces();
    let base = Report {
        pid: node.group.pid.number_in(space.pid()),
        uid: node.group.leader().map_or(0, |leader| leader.creds().uid),
        code: 0,
        status: 0,
        usage: usage_of(node),
    };
    if node.exit_state == ExitState::Zombie {
        if options & w::WEXITED == 0 {
            return None;
        }
        return Some(ended(exit::wait_status(node), base));
    }
    let consume = options & w::WNOWAIT == 0;
    let job = signal::job_report(&node.group, options & w::WSTOPPED != 0, options & w::WCONTINUED != 0, consume)?;
    Some(match job {
        JobReport::Stopped(signal) => {
            Report { code: s::CLD_STOPPED, status: (signal << 8 | 0x7f).cast_signed(), ..base }
        }
        JobReport::Continued => Report { code: s::CLD_CONTINUED, status: 0xffff, ..base },
    })
}

/// What the process used so far, with the children that it has waited for (getrusage(2), Linux `RUSAGE_BOTH`).
fn usage_of(node: &tree::Node) -> Usage {
    own_usage(node).plus(*node.group.children.lock())
}

/// What its own threads used, the ended ones included.
fn own_usage(node: &tree::Node) -> Usage {
    let threads = node.threads.iter().map(|thread| thread.times.snapshot());
    let mut own = threads.fold(node.group.dead_threads.snapshot(), Usage::plus);
    own.max_rss_kib = node.group.max_rss_kib.load(Ordering::Relaxed);
    own
}

/// Its times in clock ticks of a hundredth of a second, user and system: what a SIGCHLD tells (sigaction(2), `si_utime`).
pub(crate) fn own_ticks(node: &tree::Node) -> (i64, i64) {
    let usage = own_usage(node);
    ((usage.user_ns / 10_000_000).cast_signed(), (usage.system_ns / 10_000_000).cast_signed())
}

/// Reaps the zombie: the point of no return of a wait.
fn finish(mut tree: hal::sync::IrqGuard<'_, Tree>, id: NodeId, report: Report) -> Report {
    let node = exit::reap(&mut tree, id);
    drop(tree);
    let mine = current();
    let mut children = mine.group.children.lock();
    *children = children.plus(report.usage);
    drop(children);
    drop(node);
    report
}

/// Takes notice of the end of a tracee. One of the caller's own children is reaped with it, another's is left to its parent.
fn finish_tracee(mut tree: hal::sync::IrqGuard<'_, Tree>, task: &Arc<Task>, report: Report) -> Report {
    if task.is_leader() && !ptrace::attach::is_reparented(&tree, task) {
        let id = tree.find(&task.group).expect("a zombie is in the table");
        return finish(tree, id, report);
    }
    let gone = exit::reap_tracee(&mut tree, task);
    drop(tree);
    drop(gone);
    report
}

/// The `si_status` of a waitid report: exit code or signal.
pub fn si_status(report: &Report) -> i32 {
    match report.code {
        s::CLD_EXITED => report.status >> 8 & 0xff,
        s::CLD_STOPPED => report.status >> 8 & 0xff,
        // With the event.
        s::CLD_TRAPPED => report.status >> 8,
        s::CLD_CONTINUED => s::SIGCONT.cast_signed(),
        _ => report.status & 0x7f,
    }
}
