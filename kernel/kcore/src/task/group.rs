//! Process groups, sessions and orphans: setpgid(2), setsid(2), credentials(7).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::signal::{SIGCONT, SIGHUP, SigInfo};

use super::tree::{self, NO_NODE, NodeId, Tree};
use super::{Pid, Task, current};
use crate::Result;
use crate::signal;

/// setpgid(2), with `pid` and `pgid` in the caller's PID namespace, 0 meaning the caller and the target's own PID.
pub fn set_pgid(pid: i32, pgid: i32) -> Result<()> {
    if pgid < 0 {
        return Err(Errno::EINVAL);
    }
    let me = current();
    let target = if pid == 0 { me.arc() } else { super::find(pid).ok_or(Errno::ESRCH)? };
    let space = me.namespaces().pid().clone();
    let wanted = if pgid == 0 { target.group.pid.clone() } else { space.find(pgid).ok_or(Errno::EPERM)? };
    let mut tree = tree::lock();
    let own = tree.find(&me.group).ok_or(Errno::ESRCH)?;
    let id = tree.find(&target.group).ok_or(Errno::ESRCH)?;
    if !target.is_leader() {
        return Err(Errno::EINVAL);
    }
    if tree.node(id).parent == own {
        // A child may be moved until it calls execve, and only within the session.
        if tree.node(id).session.global() != tree.node(own).session.global() {
            return Err(Errno::EPERM);
        }
        if target.group.did_exec.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    } else if id != own {
        return Err(Errno::ESRCH);
    }
    let session = tree.node(id).session.global();
    if session == target.tgid() {
        return Err(Errno::EPERM); // a session leader stays
    }
    if wanted.global() != target.tgid() {
        let member = tree.group_members(wanted.global()).next().ok_or(Errno::EPERM)?;
        if tree.node(member).session.global() != session {
            return Err(Errno::EPERM);
        }
    }
    let old = tree.set_pgrp(id, wanted);
    drop(tree);
    drop(old);
    Ok(())
}

/// setsid(2): a new session and process group without a terminal. `EPERM` for a process group leader.
pub fn set_sid() -> Result<i32> {
    let me = current();
    let pid = me.group.pid.clone();
    let mut tree = tree::lock();
    let id = tree.find(&me.group).ok_or(Errno::ESRCH)?;
    if tree.group_members(pid.global()).next().is_some() {
        return Err(Errno::EPERM);
    }
    let old = (tree.set_pgrp(id, pid.clone()), tree.set_session(id, pid.clone()));
    drop(tree);
    drop(old);
    let tty = me.group.tty.lock().take();
    drop(tty);
    Ok(pid.number_in(me.namespaces().pid()))
}

/// The process group of a process. Tasks outside the tree (the idle tasks) have none: an identity that no PID names.
pub fn pgrp_of(task: &Task) -> Arc<Pid> {
    let tree = tree::lock();
    tree.find(&task.group).map_or_else(crate::ns::no_pid, |id| tree.node(id).pgrp.clone())
}

/// The session of a process, likewise.
pub fn session_of(task: &Task) -> Arc<Pid> {
    let tree = tree::lock();
    tree.find(&task.group).map_or_else(crate::ns::no_pid, |id| tree.node(id).session.clone())
}

/// Whether the process leads its session.
pub fn is_session_leader(task: &Task) -> bool {
    session_of(task).global() == task.tgid()
}

/// Whether the task's process group is orphaned: no member has a parent in the same session but another group
/// (Linux `is_current_pgrp_orphaned`).
pub fn is_orphaned_of(task: &Task) -> bool {
    let tree = tree::lock();
    let Some(id) = tree.find(&task.group) else { return true };
    is_orphaned(&tree, tree.node(id).pgrp.global(), NO_NODE)
}

/// The same for a group number; `ignoring` is a process that is about to leave.
pub(super) fn is_orphaned(tree: &Tree, pgrp: i32, ignoring: NodeId) -> bool {
    !tree.group_members(pgrp).any(|id| {
        let node = tree.node(id);
        if id == ignoring || node.exit_state == tree::ExitState::Zombie || node.parent == NO_NODE {
            return false;
        }
        let parent = tree.node(node.parent);
        // Children of init's global self are nobody's job.
        parent.parent != NO_NODE && parent.pgrp.global() != pgrp && parent.session.global() == node.session.global()
            || parent.parent == NO_NODE
                && parent.pgrp.global() != pgrp
                && parent.session.global() == node.session.global()
                && parent.group.pid.global() != 1
    })
}

/// A process leaves its relation to `parent`: if that orphans its group while a member is stopped, the group gets SIGHUP
/// and SIGCONT (setpgid(2), Linux `kill_orphaned_pgrp`).
pub(super) fn hang_up_if_orphaned(tree: &Tree, id: NodeId, parent: NodeId) {
    if parent == NO_NODE {
        return;
    }
    let (node, parent) = (tree.node(id), tree.node(parent));
    let pgrp = node.pgrp.global();
    let kept_it_alive = parent.pgrp.global() != pgrp && parent.session.global() == node.session.global();
    if !kept_it_alive || !is_orphaned(tree, pgrp, id) {
        return;
    }
    let stopped = tree.group_members(pgrp).any(|member| signal::is_stopped(&tree.node(member).group));
    if !stopped {
        return;
    }
    for number in [SIGHUP, SIGCONT] {
        let members: alloc::vec::Vec<_> = tree.group_members(pgrp).map(|m| tree.node(m).group.clone()).collect();
        for group in members {
            signal::send::info_with_tree(tree, &group, &SigInfo::kernel(number));
        }
    }
}
