//! Job control: which session a terminal controls, who may read and write, and what a hang-up does (credentials(7),
//! termios(3), Linux `drivers/tty/tty_jobctrl.c`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::capability::CAP_SYS_ADMIN;
use abi::signal::{SIG_IGN, SIGCONT, SIGHUP, SIGTTIN, SIGTTOU};

use super::ldisc::Flush;
use super::{OpenTty, Tty};
use crate::Result;
use crate::signal::send;
use crate::task::{Pid, Task, ThreadGroup, current, group, tree};

/// The controlling terminal of the current process.
pub fn current_tty() -> Option<Arc<Tty>> {
    current().group.tty.lock().clone()
}

fn is_current_tty(tty: &Tty) -> bool {
    current().group.tty.lock().as_ref().is_some_and(|own| core::ptr::eq(&**own, tty))
}

/// Who a background process is stopped by when it uses its terminal (`__tty_check_change`): `signal` goes to its group
/// and the call is restarted, unless the signal is ignored or the group is orphaned.
fn check_foreground(tty: &Tty, signal: u32) -> Result<()> {
    if !is_current_tty(tty) {
        return Ok(());
    }
    let task = current();
    let own = group::pgrp_of(&task);
    let foreground = tty.state.lock().pgrp.clone();
    if foreground.is_none_or(|pgrp| pgrp.global() == own.global()) {
        return Ok(());
    }
    let blocked = task.signals.blocked() & crate::signal::bit(signal) != 0;
    if blocked || task.handlers().get(signal).handler == SIG_IGN {
        return if signal == SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
    }
    if group::is_orphaned_of(&task) {
        return Err(Errno::EIO);
    }
    send::send_pgrp(own.global(), signal);
    Err(Errno::ERESTARTSYS)
}

/// A background process that reads gets SIGTTIN; `EIO` if it ignores that or nobody could resume it.
pub(crate) fn check_read(tty: &Tty) -> Result<()> {
    check_foreground(tty, SIGTTIN)
}

/// A background process that changes the terminal, or writes with TOSTOP, gets SIGTTOU.
pub(crate) fn check_change(tty: &Tty) -> Result<()> {
    check_foreground(tty, SIGTTOU)
}

/// Makes `tty` the controlling terminal of the current process, a session leader (`__proc_set_tty`).
fn set_controlling(tty: &Tty) {
    let task = current();
    let (session, pgrp) = (group::session_of(&task), group::pgrp_of(&task));
    let mut state = tty.state.lock();
    let old = (state.session.replace(session), state.pgrp.replace(pgrp));
    drop(state);
    drop(old);
    let old = task.group.tty.lock().replace(tty.arc());
    drop(old);
    let old = task.group.tty_old_pgrp.lock().take();
    drop(old);
}

/// A session leader without a terminal that opens one gets it, unless it controls another session
/// (`tty_open_proc_set_tty`).
pub(crate) fn opened_by_leader(tty: &Tty) {
    let task = current();
    if group::is_session_leader(&task) && task.group.tty.lock().is_none() && tty.state.lock().session.is_none() {
        set_controlling(tty);
    }
}

/// TIOCSCTTY (`tiocsctty`). `steal` is the argument 1, `may_read` says that the file is open for reading.
pub(crate) fn take_controlling(tty: &Tty, steal: bool, may_read: bool) -> Result<()> {
    let task = current();
    let leader = group::is_session_leader(&task);
    let session = group::session_of(&task);
    let owner = tty.state.lock().session.clone();
    if leader && owner.as_ref().is_some_and(|owner| owner.global() == session.global()) {
        return Ok(());
    }
    if !leader || task.group.tty.lock().is_some() {
        return Err(Errno::EPERM);
    }
    let admin = task.capable(CAP_SYS_ADMIN);
    if let Some(owner) = owner {
        if !(steal && admin) {
            return Err(Errno::EPERM);
        }
        for process in session_processes(&owner) {
            forget(&process, None);
        }
    }
    if !may_read && !admin {
        return Err(Errno::EPERM);
    }
    set_controlling(tty);
    Ok(())
}

/// TIOCNOTTY: the process gives its terminal up; a session leader takes it from the whole session and hangs up the
/// foreground group.
pub(crate) fn give_up(tty: &Tty) -> Result<()> {
    if !is_current_tty(tty) {
        return Err(Errno::ENOTTY);
    }
    let task = current();
    if group::is_session_leader(&task) {
        let foreground = tty.state.lock().pgrp.clone();
        if let Some(foreground) = foreground {
            send::send_pgrp(foreground.global(), SIGHUP);
            send::send_pgrp(foreground.global(), SIGCONT);
        }
        clear_session(tty, &group::session_of(&task));
    }
    forget(&task.group, None);
    Ok(())
}

/// TIOCGPGRP: the foreground group as the caller numbers it.
pub(crate) fn foreground(tty: &Tty, through_master: bool) -> Result<i32> {
    if !through_master && !is_current_tty(tty) {
        return Err(Errno::ENOTTY);
    }
    let pgrp = tty.state.lock().pgrp.clone();
    Ok(pgrp.map_or(0, |pgrp| pgrp.number_in(current().namespaces().pid())))
}

/// TIOCSPGRP (`tiocspgrp`).
pub(crate) fn set_foreground(tty: &Tty, number: i32) -> Result<()> {
    match check_change(tty) {
        Err(Errno::EIO) => return Err(Errno::ENOTTY),
        other => other?,
    }
    if number < 0 {
        return Err(Errno::EINVAL);
    }
    let task = current();
    let session = group::session_of(&task).global();
    let controls = tty.state.lock().session.as_ref().is_some_and(|owner| owner.global() == session);
    if !is_current_tty(tty) || !controls {
        return Err(Errno::ENOTTY);
    }
    let pgrp = task.namespaces().pid().find(number).ok_or(Errno::ESRCH)?;
    let tree = tree::lock();
    // A number that names a process but no group has that process's session (Linux `session_of_pgrp`).
    let alone = || pgrp.task().and_then(|task| tree.find(&task.group));
    let member = tree.group_members(pgrp.global()).next().or_else(alone).ok_or(Errno::ESRCH)?;
    if tree.node(member).session.global() != session {
        return Err(Errno::EPERM);
    }
    drop(tree);
    let old = tty.state.lock().pgrp.replace(pgrp);
    drop(old);
    Ok(())
}

/// TIOCGSID.
pub(crate) fn session_number(tty: &Tty, through_master: bool) -> Result<i32> {
    if !through_master && !is_current_tty(tty) {
        return Err(Errno::ENOTTY);
    }
    let session = tty.state.lock().session.clone().ok_or(Errno::ENOTTY)?;
    Ok(session.number_in(current().namespaces().pid()))
}

/// Sends `signal` to the foreground process group, if there is one.
pub(crate) fn signal_foreground(tty: &Tty, signal: u32) {
    let pgrp = tty.state.lock().pgrp.clone();
    if let Some(pgrp) = pgrp {
        send::send_pgrp(pgrp.global(), signal);
    }
}

fn session_processes(session: &Pid) -> Vec<Arc<ThreadGroup>> {
    let tree = tree::lock();
    tree.session_members(session.global()).map(|id| tree.node(id).group.clone()).collect()
}

/// The process has no terminal any more; with `only`, unless it has another one.
fn forget(process: &ThreadGroup, only: Option<&Tty>) {
    let mut slot = process.tty.lock();
    let matches = slot.as_ref().is_some_and(|own| only.is_none_or(|tty| core::ptr::eq(&**own, tty)));
    let old = if matches { slot.take() } else { None };
    drop(slot);
    drop(old);
}

/// The terminal controls no session, and no process of `session` has it.
fn clear_session(tty: &Tty, session: &Pid) {
    let mut state = tty.state.lock();
    let old = (state.session.take(), state.pgrp.take());
    drop(state);
    drop(old);
    for process in session_processes(session) {
        forget(&process, Some(tty));
    }
}

/// A session leader ends: its terminal is hung up, or for a pseudo-terminal only the foreground group. If the terminal was
/// hung up before, the group that was in the foreground then hears of it now (`disassociate_ctty`).
pub fn disassociate_session(task: &Task) {
    let Some(tty) = task.group.tty.lock().clone() else {
        let old = task.group.tty_old_pgrp.lock().take();
        if let Some(pgrp) = old {
            send::send_pgrp(pgrp.global(), SIGHUP);
            send::send_pgrp(pgrp.global(), SIGCONT);
        }
        return;
    };
    if tty.pty().is_none() {
        return hang_up_for(&tty, Reason::LeaderExits);
    }
    signal_foreground(&tty, SIGHUP);
    clear_session(&tty, &group::session_of(task));
}

/// Why a line is hung up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The line is gone, or vhangup(2).
    Line,
    /// The session leader ends: its jobs will have nobody who could tell them.
    LeaderExits,
}

/// The line is gone: files open on it are dead, the session leader gets SIGHUP and SIGCONT, and nobody is controlled by it
/// any more. It is the leader's to tell its jobs.
pub(crate) fn hang_up(tty: &Tty) {
    hang_up_for(tty, Reason::Line);
}

/// `__tty_hangup` with `tty_signal_session_leader`.
fn hang_up_for(tty: &Tty, reason: Reason) {
    tty.generation.fetch_add(1, Ordering::AcqRel);
    let mut state = tty.state.lock();
    let (session, pgrp) = (state.session.take(), state.pgrp.take());
    state.ldisc.flush(Flush::Input);
    // A writer that waits for a stopped terminal gives up; what was written to a live line is still sent.
    state.ldisc.start();
    drop(state);
    if let Some(session) = &session {
        let leader = session.global();
        for process in session_processes(session) {
            forget(&process, Some(tty));
            if process.pid.global() == leader {
                send::send_kernel(&process, SIGHUP);
                send::send_kernel(&process, SIGCONT);
                let old = core::mem::replace(&mut *process.tty_old_pgrp.lock(), pgrp.clone());
                drop(old);
            }
        }
    }
    if let Some(pgrp) = pgrp.filter(|_| reason == Reason::LeaderExits) {
        send::send_pgrp(pgrp.global(), SIGHUP);
    }
    let all = abi::poll::POLLIN | abi::poll::POLLOUT | abi::poll::POLLERR | abi::poll::POLLHUP;
    tty.readable.wake_all_for(all);
    tty.writable.wake_all_for(all);
    tty.push_output();
}

impl OpenTty {
    /// vhangup(2) of the terminal behind a file.
    pub fn hang_up(&self) {
        hang_up(self.tty());
    }
}
