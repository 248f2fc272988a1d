//! Events and system calls that a tracee stops at: PTRACE_EVENT_*, syscall-stops, single steps (Linux `ptrace_event`,
//! `ptrace_report_syscall`, arm64 `report_syscall`).
//!
//! A thread whose calls are of interest to somebody has the work bit SYSCALL_TRACE, which the call handler tests for seccomp
//! already. The exit of a call is reported on the way back to user code, by the work bit SYSCALL_EXIT: a call that nobody
//! traces pays nothing for it.

use core::sync::atomic::Ordering;

use abi::Errno;
use abi::ptrace as p;
use abi::sched as c;
use abi::signal as s;
use abi::signal::SigInfo;
use hal::thread::work;
use hal::trap::{NO_SYSCALL, UserFrame};

use super::{stop, syscalls};
use crate::signal;
use crate::task::{Task, current};

/// PTRACE_GETEVENTMSG of syscall-stops.
pub(super) const MESSAGE_ENTRY: u64 = 1;
pub(super) const MESSAGE_EXIT: u64 = 2;
/// x7 tells at a syscall-stop which of the two it is (arm64 `enum ptrace_syscall_dir`).
const DIRECTION: usize = 7;
const ENTERING: u64 = 0;
const LEAVING: u64 = 1;

/// Sets the work bit SYSCALL_TRACE as tracing and seccomp want it. The tree is locked, or the thread is new.
pub(crate) fn update_syscall_work(task: &Task) {
    if task.ptrace.syscalls() != 0 || task.thread.is_single_stepped() || task.seccomp.is_in_force() {
        task.thread.work().fetch_or(work::SYSCALL_TRACE, Ordering::SeqCst);
    } else {
        task.thread.work().fetch_and(!work::SYSCALL_TRACE, Ordering::SeqCst);
    }
}

/// What becomes of a system call that was reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entered {
    /// It goes on, with the number that the tracer left in the frame.
    Goes,
    /// It is not made.
    Skipped,
}

/// The first half of a call's way when SYSCALL_TRACE is set: the stop at its entry (arm64 `syscall_trace_enter`).
pub(crate) fn syscall_enters(frame: &mut UserFrame) -> Entered {
    let task = current();
    let wanted = task.ptrace.syscalls();
    if task.thread.is_single_stepped() {
        task.thread.work().fetch_or(work::SYSCALL_EXIT, Ordering::SeqCst);
    }
    if wanted == 0 {
        return Entered::Goes;
    }
    // A tracer skips a call by setting its number to -1, and sets x0. The two cannot be told apart from a call of number -1,
    // which gets its result here (arm64 `el0_svc_common`).
    if frame.syscall as u32 == u32::MAX {
        frame.syscall = NO_SYSCALL;
        frame.x[0] = Errno::ENOSYS.to_syscall_return();
    }
    if wanted & syscalls::TRACE != 0 {
        task.thread.work().fetch_or(work::SYSCALL_EXIT, Ordering::SeqCst);
    }
    let saved = core::mem::replace(&mut frame.x[DIRECTION], ENTERING);
    report_syscall(frame, MESSAGE_ENTRY);
    frame.x[DIRECTION] = saved;
    if task.fatal_signal_pending() {
        frame.syscall = NO_SYSCALL;
    }
    // The call may be traced no longer, but its exit is reported all the same if its entry was.
    let is_emulated = wanted & syscalls::EMULATE != 0;
    if is_emulated || frame.syscall == NO_SYSCALL { Entered::Skipped } else { Entered::Goes }
}

/// A call is over (or a tracer began to step in the middle of it): reports that if it is wanted (arm64 `syscall_trace_exit`).
pub(crate) fn syscall_leaves(frame: &mut UserFrame) {
    let task = current();
    let steps = task.thread.is_single_stepped();
    if task.ptrace.syscalls() & syscalls::TRACE == 0 && !steps {
        return;
    }
    if steps {
        // The step over the call, told as a signal: the tracer may have changed the registers that the CPU steps by.
        return signal::force_fault(&SigInfo::user(s::SIGTRAP, s::SI_USER, 0, 0));
    }
    let saved = core::mem::replace(&mut frame.x[DIRECTION], LEAVING);
    report_syscall(frame, MESSAGE_EXIT);
    frame.x[DIRECTION] = saved;
}

fn report_syscall(frame: &mut UserFrame, message: u64) {
    let task = current();
    if !task.ptrace.is_traced() {
        return;
    }
    let good = if task.ptrace.has_option(p::PTRACE_O_TRACESYSGOOD) { 0x80 } else { 0 };
    let signal = stop::in_sight(frame, || stop::notify(s::SIGTRAP | good, message));
    send_injected(signal);
}

/// A signal that the tracer goes on with after a stop that was no signal's: it is sent, not delivered at once.
fn send_injected(signal: u32) {
    if signal != 0 {
        signal::send_thread_info(&current().arc(), &SigInfo::kernel(signal));
    }
}

/// Stops at an event if its PTRACE_O_* option is set. True when it was.
fn event(event: u32, option: u32, message: u64) -> bool {
    if !current().ptrace.has_option(option) {
        return false;
    }
    stop::notify(event << 8 | s::SIGTRAP, message);
    // The tracer may have begun to trace calls in the middle of this one.
    watch_exit_of_call();
    true
}

/// The exit of a call in which the thread stopped is reported if its tracer asked for that then.
fn watch_exit_of_call() {
    let task = current();
    if task.ptrace.syscalls() & syscalls::TRACE != 0 || task.thread.is_single_stepped() {
        task.thread.work().fetch_or(work::SYSCALL_EXIT, Ordering::SeqCst);
    }
}

/// The event that the making of a child is, if it is to be told: number and option (Linux `kernel_clone`).
pub(crate) fn of_clone(clone_flags: u64, exit_signal: u32) -> Option<(u32, u32)> {
    let task = current();
    if !task.ptrace.is_traced() || clone_flags & c::CLONE_UNTRACED != 0 {
        return None;
    }
    let (event, option) = if clone_flags & c::CLONE_VFORK != 0 {
        (p::PTRACE_EVENT_VFORK, p::PTRACE_O_TRACEVFORK)
    } else if exit_signal != s::SIGCHLD {
        (p::PTRACE_EVENT_CLONE, p::PTRACE_O_TRACECLONE)
    } else {
        (p::PTRACE_EVENT_FORK, p::PTRACE_O_TRACEFORK)
    };
    task.ptrace.has_option(option).then_some((event, option))
}

/// A child was made.
pub(crate) fn cloned((number, option): (u32, u32), child: &crate::task::Pid) {
    event(number, option, number_for_tracer(child));
}

/// The child of a vfork has left its parent's memory.
pub(crate) fn vfork_done(child: &crate::task::Pid) {
    event(p::PTRACE_EVENT_VFORK_DONE, p::PTRACE_O_TRACEVFORKDONE, number_for_tracer(child));
}

fn number_for_tracer(pid: &crate::task::Pid) -> u64 {
    let number = current().ptrace.tracer().map_or(0, |tracer| pid.number_in(tracer.namespaces().pid()));
    u64::from(number.unsigned_abs())
}

/// A new program is in place; `former` is the TID that called execve. A tracer that asked for no events and did not seize
/// gets a SIGTRAP (ptrace(2), "execve(2) under ptrace").
pub(crate) fn execed(registers: &mut UserFrame, former: &crate::task::Pid) {
    let task = current();
    if !task.ptrace.is_traced() {
        return;
    }
    let message = number_for_tracer(former);
    let told = stop::in_sight(registers, || event(p::PTRACE_EVENT_EXEC, p::PTRACE_O_TRACEEXEC, message));
    if !told && !task.ptrace.is_seized() {
        signal::send_thread_info(
            &task.arc(),
            &SigInfo::user(s::SIGTRAP, s::SI_USER, task.group.pid.own_number(), task.real_uid()),
        );
    }
}

/// The thread is about to exit with `status`; its registers are still there to be seen.
pub(crate) fn exits(status: i32) {
    let task = current();
    if !task.ptrace.is_traced() {
        return;
    }
    event(p::PTRACE_EVENT_EXIT, p::PTRACE_O_TRACEEXIT, u64::from(status.cast_unsigned()));
}

/// A seccomp filter asks the tracer (SECCOMP_RET_TRACE). False: there is none that wants to hear of it.
pub(crate) fn seccomp(frame: &mut UserFrame, data: u32) -> bool {
    stop::in_sight(frame, || event(p::PTRACE_EVENT_SECCOMP, p::PTRACE_O_TRACESECCOMP, u64::from(data)))
}

/// A handler is about to run in a thread that is stepped: the step ends at its first instruction (arm64 `handle_signal`).
pub(crate) fn handler_entered(registers: &mut UserFrame) {
    if current().thread.is_single_stepped() {
        // As in Linux the signal that the tracer may go on with comes to nothing.
        stop::in_sight(registers, || stop::notify(s::SIGTRAP, 0));
    }
}
