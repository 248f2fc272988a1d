//! Signals: kill(2), sigaction(2), sigprocmask(2), sigreturn(2) and their relatives.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::signal as s;
use abi::signal::{SigInfo, Sigaction, StackT};
use abi::time::Timespec;

use super::{Context, UserPtr};
use crate::Result;
use crate::signal::send::as_seen_by;
use crate::signal::{self, DefaultAction, RestartBlock, UNBLOCKABLE, bit, default_action};
use crate::task::tree::{NodeId, Tree};
use crate::task::{self, OwnFields, Task, TaskState, group, tree};
use crate::time;

/// The only size of a signal set, bytes.
const SET_SIZE: usize = 8;

/// A signal number argument: 0 (only a check) to 64.
pub(super) fn signal_or_probe(signal: i32) -> Result<Option<u32>> {
    match u32::try_from(signal) {
        Ok(0) => Ok(None),
        Ok(signal) if signal <= signal::COUNT => Ok(Some(signal)),
        _ => Err(Errno::EINVAL),
    }
}

/// kill(2): by credentials; SIGCONT also within the session.
pub(super) fn may_kill(cx: &Context<'_>, target: &Task, signal: Option<u32>) -> bool {
    signal::send::permitted(&cx.task, target)
        || signal == Some(s::SIGCONT) && group::session_of(target).global() == group::session_of(&cx.task).global()
}

pub(super) fn sender_info(cx: &Context<'_>, signal: u32, code: i32) -> SigInfo {
    let pid = cx.task.group.pid.number_in(cx.task.own_namespaces().pid());
    let creds = cx.task.own_creds();
    SigInfo::user(signal, code, pid, creds.user_ns.shown_uid(creds.uid))
}

/// kill(2).
pub fn kill(cx: &mut Context<'_>, pid: i32, signal: i32) -> Result<usize> {
    match pid {
        i32::MIN => Err(Errno::ESRCH),
        0 => kill_group(cx, group::pgrp_of(&cx.task).global(), signal),
        -1 => kill_everybody(cx, signal),
        pid if pid < 0 => {
            let pgrp = cx.task.own_namespaces().pid().find(-pid).ok_or(Errno::ESRCH)?;
            kill_group(cx, pgrp.global(), signal)
        }
        pid if pid == cx.task.group.pid.number_in(cx.task.own_namespaces().pid()) => {
            // To oneself, which is always allowed.
            if let Some(signal) = signal_or_probe(signal)? {
                let info = sender_info(cx, signal, s::SI_USER);
                signal::send_process(&cx.task.group, &info)?;
            }
            Ok(0)
        }
        pid => {
            // Nobody to signal is told before a signal that does not exist (check_kill_permission).
            let target = task::find_or_esrch(pid)?;
            let signal = signal_or_probe(signal)?;
            if !may_kill(cx, &target, signal) {
                return Err(Errno::EPERM);
            }
            if let Some(signal) = signal {
                signal::send_process(&target.group, &as_seen_by(&target, &sender_info(cx, signal, s::SI_USER)))?;
            }
            Ok(0)
        }
    }
}

fn kill_group(cx: &Context<'_>, pgrp: i32, signal: i32) -> Result<usize> {
    let tree = tree::lock();
    let targets: Vec<NodeId> = tree.group_members(pgrp).collect();
    kill_all(cx, &tree, &targets, signal)
}

/// kill(-1): everybody but init and the caller. Kernel threads are among them: they ignore it.
fn kill_everybody(cx: &Context<'_>, signal: i32) -> Result<usize> {
    let space = cx.task.group.pid.namespace().clone();
    let tree = tree::lock();
    let is_target = |id: &NodeId| {
        let group = &tree.node(*id).group;
        group.pid.number_in(&space) > 1 && !Arc::ptr_eq(group, &cx.task.group)
    };
    let targets: Vec<NodeId> = tree.processes().filter(is_target).collect();
    kill_all(cx, &tree, &targets, signal)
}

/// Success if at least one could be signalled; `EPERM` if none was allowed, `ESRCH` if there was none. The tree stays
/// locked from the choice to the last signal: no member's fork slips through between them (Linux `__kill_pgrp_info`).
fn kill_all(cx: &Context<'_>, tree: &Tree, targets: &[NodeId], signal: i32) -> Result<usize> {
    let own_session = tree.find(&cx.task.group).map(|id| tree.node(id).session.global());
    let mut outcome = Err(Errno::ESRCH);
    for node in targets.iter().map(|id| tree.node(*id)) {
        let Some(target) = node.threads.first() else { continue };
        let signal = signal_or_probe(signal)?;
        let continues = signal == Some(s::SIGCONT) && Some(node.session.global()) == own_session;
        if !continues && !signal::send::permitted(&cx.task, target) {
            outcome = outcome.or(Err(Errno::EPERM));
            continue;
        }
        if let Some(signal) = signal {
            let info = as_seen_by(target, &sender_info(cx, signal, s::SI_USER));
            signal::send::process_with_tree(tree, &node.group, &info)?;
        }
        outcome = Ok(0);
    }
    outcome
}

/// tkill(2).
pub fn tkill(cx: &mut Context<'_>, tid: i32, signal: i32) -> Result<usize> {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    kill_thread(cx, None, tid, signal)
}

/// tgkill(2).
pub fn tgkill(cx: &mut Context<'_>, tgid: i32, tid: i32, signal: i32) -> Result<usize> {
    if tid <= 0 || tgid <= 0 {
        return Err(Errno::EINVAL);
    }
    kill_thread(cx, Some(tgid), tid, signal)
}

fn kill_thread(cx: &Context<'_>, tgid: Option<i32>, tid: i32, signal: i32) -> Result<usize> {
    let target = thread_of(cx, tgid, tid)?;
    let signal = signal_or_probe(signal)?;
    if !may_kill(cx, &target, signal) {
        return Err(Errno::EPERM);
    }
    if let Some(signal) = signal {
        signal::send_thread(&target, &as_seen_by(&target, &sender_info(cx, signal, s::SI_TKILL)))?;
    }
    Ok(0)
}

fn thread_of(cx: &Context<'_>, tgid: Option<i32>, tid: i32) -> Result<Arc<Task>> {
    let target = task::find_or_esrch(tid)?;
    let own = target.group.pid.number_in(cx.task.own_namespaces().pid());
    if tgid.is_some_and(|tgid| tgid != own) {
        return Err(Errno::ESRCH);
    }
    Ok(target)
}

/// rt_sigqueueinfo(2): the codes of the kernel and of kill cannot be forged for others.
pub fn rt_sigqueueinfo(cx: &mut Context<'_>, pid: i32, signal: i32, info: UserPtr<SigInfo>) -> Result<usize> {
    let mut info = info.read()?;
    if may_not_claim(cx, &info, pid) {
        return Err(Errno::EPERM);
    }
    let target = task::find_or_esrch(pid)?;
    let signal = signal_or_probe(signal)?;
    if !may_kill(cx, &target, signal) {
        return Err(Errno::EPERM);
    }
    if let Some(signal) = signal {
        info.set_signal(signal);
        signal::send_process(&target.group, &as_seen_by(&target, &info))?;
    }
    Ok(0)
}

/// Only to itself may a thread claim to be the kernel, kill or tgkill; told before anything of the target is
/// (Linux `do_rt_sigqueueinfo`).
fn may_not_claim(cx: &Context<'_>, info: &SigInfo, target: i32) -> bool {
    let own = cx.task.pid().number_in(cx.task.own_namespaces().pid());
    (info.code() >= 0 || info.code() == s::SI_TKILL) && own != target
}

/// rt_tgsigqueueinfo(2).
pub fn rt_tgsigqueueinfo(
    cx: &mut Context<'_>,
    tgid: i32,
    tid: i32,
    signal: i32,
    info: UserPtr<SigInfo>,
) -> Result<usize> {
    if tid <= 0 || tgid <= 0 {
        return Err(Errno::EINVAL);
    }
    let mut info = info.read()?;
    if may_not_claim(cx, &info, tid) {
        return Err(Errno::EPERM);
    }
    let target = thread_of(cx, Some(tgid), tid)?;
    let signal = signal_or_probe(signal)?;
    if !may_kill(cx, &target, signal) {
        return Err(Errno::EPERM);
    }
    if let Some(signal) = signal {
        info.set_signal(signal);
        signal::send_thread(&target, &as_seen_by(&target, &info))?;
    }
    Ok(0)
}

/// The SA_* flags that sigaction(2) names, and arm64's SA_RESTORER.
const KNOWN_FLAGS: u64 = (s::SA_NOCLDSTOP
    | s::SA_NOCLDWAIT
    | s::SA_SIGINFO
    | s::SA_ONSTACK
    | s::SA_RESTART
    | s::SA_NODEFER
    | s::SA_RESETHAND
    | s::SA_RESTORER) as u64;

fn check_set_size(size: usize) -> Result<()> {
    if size == SET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

/// sigaction(2).
pub fn rt_sigaction(
    cx: &mut Context<'_>,
    signal: i32,
    new: UserPtr<Sigaction>,
    old: UserPtr<Sigaction>,
    size: usize,
) -> Result<usize> {
    check_set_size(size)?;
    let new = new.non_null().map(UserPtr::read).transpose()?;
    let signal = signal_or_probe(signal)?.ok_or(Errno::EINVAL)?;
    let before = match new {
        None => cx.task.own_handlers().get(signal),
        Some(_) if bit(signal) & UNBLOCKABLE != 0 => return Err(Errno::EINVAL),
        Some(mut action) => {
            action.mask &= !UNBLOCKABLE;
            // Unknown flags are cleared, so that user space can ask which ones there are (sigaction(2)).
            action.flags &= KNOWN_FLAGS;
            let before = cx.task.own_handlers().set(signal, action);
            let ignored = action.handler == s::SIG_IGN
                || action.handler == s::SIG_DFL && default_action(signal) == DefaultAction::Ignore;
            if ignored {
                // Pending ones are discarded, blocked or not (sigaction(2), POSIX).
                signal::flush(&cx.task, bit(signal));
            }
            before
        }
    };
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// sigprocmask(2).
pub fn rt_sigprocmask(
    cx: &mut Context<'_>,
    how: i32,
    new: UserPtr<u64>,
    old: UserPtr<u64>,
    size: usize,
) -> Result<usize> {
    check_set_size(size)?;
    let before = cx.task.signals.blocked();
    if !new.is_null() {
        let set = new.read()?;
        let blocked = match how {
            s::SIG_BLOCK => before | set,
            s::SIG_UNBLOCK => before & !set,
            s::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        signal::set_blocked(blocked);
    }
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// sigpending(2).
pub fn rt_sigpending(_cx: &mut Context<'_>, set: UserPtr<u64>, size: usize) -> Result<usize> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    // As many bytes as asked for, fewer than a set has if need be (Linux do_sigpending's caller).
    let bytes = signal::pending_and_blocked().to_le_bytes();
    UserPtr::<u8>::new(set.address()).write_many(bytes.get(..size).unwrap_or_default())?;
    Ok(0)
}

/// sigsuspend(2).
pub fn rt_sigsuspend(_cx: &mut Context<'_>, mask: UserPtr<u64>, size: usize) -> Result<usize> {
    check_set_size(size)?;
    signal::set_temporary_mask(mask.read()?);
    let outcome = crate::sync::sleep_while(TaskState::Interruptible, u64::MAX, || true);
    debug_assert!(outcome.is_err(), "only a signal ends sigsuspend");
    Err(Errno::ERESTARTNOHAND)
}

/// sigtimedwait(2).
pub fn rt_sigtimedwait(
    _cx: &mut Context<'_>,
    set: UserPtr<u64>,
    info: UserPtr<SigInfo>,
    timeout: UserPtr<Timespec>,
    size: usize,
) -> Result<usize> {
    check_set_size(size)?;
    let set = set.read()?;
    let deadline = match timeout.non_null() {
        Some(timeout) => time::monotonic_ns().saturating_add(time::timespec_ns(&timeout.read()?)?),
        None => u64::MAX,
    };
    // Never restarted, not even after a stop (signal(7)).
    let found = signal::wait_for(set, deadline)
        .map_err(|error| if error == Errno::ERESTARTSYS { Errno::EINTR } else { error })?;
    info.write_if_wanted(&found)?;
    Ok(found.signal() as usize)
}

/// sigaltstack(2).
pub fn sigaltstack(cx: &mut Context<'_>, new: UserPtr<StackT>, old: UserPtr<StackT>) -> Result<usize> {
    let sp = cx.frame.sp;
    let mut before = cx.task.signals.alternate_stack();
    if before.ss_flags.cast_unsigned() & s::SS_DISABLE == 0 && signal::frame::on_stack(&before, sp) {
        before.ss_flags |= s::SS_ONSTACK.cast_signed();
    }
    if let Some(new) = new.non_null() {
        signal::frame::set_stack(&cx.task, &new.read()?, sp)?;
    }
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// rt_sigreturn(2). A bad frame kills, as in Linux.
pub fn rt_sigreturn(cx: &mut Context<'_>) -> Result<usize> {
    if signal::frame::pop(&cx.task, cx.frame).is_err() {
        signal::force_fault(&SigInfo::fault(s::SIGSEGV, s::SEGV_MAPERR, cx.frame.sp));
    }
    // What this returns becomes x0: the restored one.
    Ok(cx.frame.x[0] as usize)
}

/// restart_syscall(2): goes on with what a stop interrupted.
pub fn restart_syscall(cx: &mut Context<'_>) -> Result<usize> {
    let block = core::mem::replace(&mut *cx.task.restart.lock(), RestartBlock::None);
    match block {
        RestartBlock::None => Err(Errno::EINTR),
        RestartBlock::Sleep { deadline_ns, remaining } => super::time::sleep_until(cx, deadline_ns, remaining),
        RestartBlock::CpuSleep { clock, deadline_ns, remaining } => {
            super::time::cpu_sleep_until(cx, clock, deadline_ns, remaining)
        }
        RestartBlock::Futex { expected, deadline_ns } => crate::futex::wait(expected, Some(deadline_ns)),
    }
}
