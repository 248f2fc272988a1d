//! How a tracee goes on: PTRACE_CONT, SYSCALL, SYSEMU, SINGLESTEP, SYSEMU_SINGLESTEP, INTERRUPT, LISTEN.

use abi::Errno;
use abi::ptrace as p;

use super::attach::{self, Frozen, valid_signal};
use super::{event, stop, syscalls};
use crate::Result;
use crate::signal::jobctl;
use crate::task::{Task, tree};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// Lets the tracee go on as `request` says, with the signal `data`.
pub(super) fn go_on(tracee: Frozen, request: u32, data: u64) -> Result<()> {
    let signal = valid_signal(data)?;
    let task = tracee.task.clone();
    let reported = match request {
        p::PTRACE_SYSCALL => syscalls::TRACE,
        p::PTRACE_SYSEMU | p::PTRACE_SYSEMU_SINGLESTEP => syscalls::EMULATE,
        _ => 0,
    };
    let steps = matches!(request, p::PTRACE_SINGLESTEP | p::PTRACE_SYSEMU_SINGLESTEP);
    // Under the tree's lock: a thread of the tracee's process may put a seccomp filter on it meanwhile.
    let tree = tree::lock();
    task.ptrace.syscalls.store(reported, Ordering::SeqCst);
    task.thread.set_single_step(steps);
    event::update_syscall_work(&task);
    drop(tree);
    // Point of no return: the tracee runs.
    tracee.resume(signal);
    Ok(())
}

/// PTRACE_INTERRUPT: a seized tracee stops where it is; one that its tracer listens to stops anew. `EIO` for others.
pub(super) fn interrupt(task: &Arc<Task>) -> Result<()> {
    let tree = tree::lock();
    attach::is_ours(task)?;
    if !task.ptrace.is_seized() {
        return Err(Errno::EIO);
    }
    let state = task.group.signals.state.lock();
    if jobctl::ask(task, jobctl::TRAP_STOP) {
        stop::wake_for_news(task);
    }
    drop(state);
    drop(tree);
    Ok(())
}

/// PTRACE_LISTEN: a seized tracee in PTRACE_EVENT_STOP stays stopped, but a change of the group stop is told. `EIO` for
/// others.
pub(super) fn listen(task: &Arc<Task>) -> Result<()> {
    let state = task.group.signals.state.lock();
    let code = task.ptrace.stopped.lock().info.map_or(0, |info| info.code());
    if !task.ptrace.is_seized() || code >> 8 != p::PTRACE_EVENT_STOP.cast_signed() {
        return Err(Errno::EIO);
    }
    jobctl::set(task, jobctl::LISTENING);
    // Something happened between the stop and now: that is told at once.
    if jobctl::of(task) & jobctl::TRAP_NOTIFY != 0 {
        stop::stop_anew(task);
    }
    drop(state);
    Ok(())
}
