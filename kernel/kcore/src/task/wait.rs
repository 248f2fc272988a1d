//! wait(2), waitid(2): a parent learns what became of its children.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::signal as s;
use abi::wait as w;

use super::tree::{self, ExitState, NodeId, Tree};
use super::usage::Usage;
use super::{Pid, TaskState, current, exit};
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

/// One look at the children: `ECHILD` when none could ever answer.
fn look(which: &Which, options: u32) -> Result<Option<Report>> {
    let tree = tree::lock();
    let own = tree.find(&current().group).ok_or(Errno::ECHILD)?;
    let mut any = false;
    let mut found = None;
    let mut found_at = tree::NO_NODE;
    for id in tree.children(own) {
        if !is_meant(&tree, id, which, options) {
            continue;
        }
        // A zombie answers only who asks for exits (Linux wait_consider_task).
        any |= options & w::WEXITED != 0 || tree.node(id).exit_state != ExitState::Zombie;
        found = report_of(&tree, id, options);
        if found.is_some() {
            found_at = id;
            break;
        }
    }
    let Some(report) = found else { return if any { Ok(None) } else { Err(Errno::ECHILD) } };
    if tree.node(found_at).exit_state == ExitState::Zombie && options & w::WNOWAIT == 0 {
        return Ok(Some(finish(tree, found_at, report)));
    }
    Ok(Some(report))
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
        let status = exit::wait_status(node);
        let code = match status & 0x7f {
            0 => s::CLD_EXITED,
            _ if status & 0x80 != 0 => s::CLD_DUMPED,
            _ => s::CLD_KILLED,
        };
        return Some(Report { code, status, ..base });
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

/// The `si_status` of a waitid report: exit code or signal.
pub fn si_status(report: &Report) -> i32 {
    match report.code {
        s::CLD_EXITED => report.status >> 8 & 0xff,
        s::CLD_STOPPED => report.status >> 8 & 0xff,
        s::CLD_CONTINUED => s::SIGCONT.cast_signed(),
        _ => report.status & 0x7f,
    }
}
