//! Delivery: what happens on the way back to user code (Linux `get_signal`, `do_signal`).

use core::sync::atomic::Ordering;

use abi::Errno;
use abi::nr;
use abi::signal as s;
use abi::signal::{SigInfo, Sigaction};
use hal::thread::{Current, work};
use hal::trap::{NO_SYSCALL, UserFrame};

use super::{DefaultAction, RestartBlock, bit, default_action, frame, jobctl, send, stop};
use crate::task::{OwnFields, Task, coredump, current, exit, ptrace, rseq};

/// Takes pending signals until one needs user code or none is left. Called with interrupts on.
pub fn deliver(registers: &mut UserFrame) {
    let task = current();
    task.thread.work().fetch_and(!work::SIGNAL, Ordering::SeqCst);
    // The system call that this entry was is settled once: restarted, or ended with EINTR.
    let mut call = PendingCall::rewind(registers);
    if task.ptrace.is_traced() {
        // For an exit that does not come back from here: its tracer looks at them (PTRACE_EVENT_EXIT).
        task.thread.set_user_frame(registers);
    }
    let mut info = SigInfo::default();
    while let Some(action) = next_to_handle(task, registers, &mut info) {
        call.settle_for_handler(registers, &action);
        if handle(&task, registers, &info, &action) {
            super::recalculate(&task);
            ptrace::event::handler_entered(registers);
            return;
        }
    }
    call.settle_without_handler(registers);
    super::restore_saved_mask();
    super::recalculate(&task);
}

/// The next signal with a handler, in `info`, and the handler. Acts on the others: ignores, stops, ends the process (then never returns).
fn next_to_handle(task: Current<Task>, registers: &mut UserFrame, info: &mut SigInfo) -> Option<Sigaction> {
    loop {
        if let Some(status) = task.group.signals.exiting() {
            exit_killed(&task, status);
        }
        if task.fatal_signal_pending() {
            // Exec in another thread wants this one gone.
            exit_killed(&task, s::SIGKILL.cast_signed());
        }
        let asked = jobctl::of(&task);
        if asked & jobctl::STOP_PENDING != 0 && stop::take_part() {
            continue;
        }
        if jobctl::of(&task) & jobctl::TRAP_MASK != 0 {
            ptrace::stop::trap(registers);
            continue;
        }
        let from = super::dequeue(&task, task.signals.blocked(), info)?;
        if task.ptrace.is_traced() && is_told(&task, info) && !ptrace::stop::for_signal(registers, info, from) {
            continue;
        }
        let signal = info.signal();
        let action = task.own_handlers().get(signal);
        match action.handler {
            s::SIG_IGN => continue,
            s::SIG_DFL => act_by_default(&task, info),
            _ => {
                if action.flags & u64::from(s::SA_RESETHAND) != 0 {
                    // Flags and mask stay to be asked for.
                    let reset = Sigaction { handler: s::SIG_DFL, ..action };
                    task.own_handlers().set(signal, reset);
                }
                return Some(action);
            }
        }
    }
}

/// The thread ends because its process does. The SIGKILL that says so is taken: it does not end the stop of
/// PTRACE_EVENT_EXIT, nor what the thread waits for on its way out (Linux `get_signal`).
fn exit_killed(task: &Task, status: i32) -> ! {
    if task.ptrace.is_traced() {
        send::remove_private(task, bit(s::SIGKILL));
    }
    exit::exit_current(status)
}

/// Whether the tracer decides about a signal: not about SIGKILL, nor one that is to kill whatever anybody wants
/// (SA_IMMUTABLE).
fn is_told(task: &Current<Task>, info: &SigInfo) -> bool {
    let signal = info.signal();
    signal != s::SIGKILL && task.own_handlers().get(signal).flags & s::SA_IMMUTABLE == 0
}

fn act_by_default(task: &Task, info: &SigInfo) {
    let signal = info.signal();
    let by_kernel = info.code() > 0;
    let faulted = task.group.signals.faulted.load(Ordering::SeqCst);
    if send::is_init(&task.group) && !faulted && bit(signal) & super::UNBLOCKABLE == 0 {
        return; // pid_namespaces(7), Linux SIGNAL_UNKILLABLE
    }
    match default_action(signal) {
        DefaultAction::Ignore => {}
        DefaultAction::Stop => {
            // An orphaned process group has nobody to continue it: terminal stops are dropped (setpgid(2)).
            if signal == s::SIGSTOP || !crate::task::group::is_orphaned_of(task) {
                stop::begin(signal);
            }
        }
        DefaultAction::Terminate | DefaultAction::Core => {
            if by_kernel && default_action(signal) == DefaultAction::Core {
                log_crash(task, info);
            }
            if send::is_init(&task.group) {
                panic!("Attempted to kill init! exitcode={signal:#010x}");
            }
            let dumps = default_action(signal) == DefaultAction::Core;
            exit::exit_group(if dumps { coredump::dump(info) } else { signal.cast_signed() });
        }
    }
}

/// One line for a program that crashed (Linux `arm64_show_signal`).
fn log_crash(task: &Task, info: &SigInfo) {
    let frame = task.thread.user_frame();
    log::info!(
        "{}[{}]: unhandled signal {} code {} at address {:#x}, pc {:#x} sp {:#x} lr {:#x}",
        task.comm(),
        task.tid(),
        info.signal(),
        info.code(),
        info.address(),
        frame.pc,
        frame.sp,
        frame.x[30]
    );
}

/// Sets up the handler's frame. False when the stack cannot take it: the thread gets SIGSEGV instead, whose handler may
/// have an alternate stack. Only for SIGSEGV itself there is no second try (Linux `force_sigsegv`).
fn handle(task: &Task, registers: &mut UserFrame, info: &SigInfo, action: &Sigaction) -> bool {
    let signal = info.signal();
    let saved_mask = *task.signals.saved_mask.lock();
    let old_mask = saved_mask.unwrap_or_else(|| task.signals.blocked());
    if !rseq::before_handler(registers) || frame::push(task, registers, info, action, old_mask).is_err() {
        if signal == s::SIGSEGV {
            task.handlers().set(s::SIGSEGV, Sigaction::default());
        }
        send::force_fault(&SigInfo::kernel(s::SIGSEGV));
        return false;
    }
    *task.signals.saved_mask.lock() = None;
    let mut blocked = task.signals.blocked() | action.mask;
    if action.flags & u64::from(s::SA_NODEFER) == 0 {
        blocked |= bit(signal);
    }
    super::set_blocked(blocked);
    true
}

/// The interrupted system call of this entry, if it was one and ended with a restart code.
struct PendingCall {
    error: Option<Errno>,
    /// Where the program goes on if the call is not made again.
    after: u64,
}

impl PendingCall {
    /// Puts the registers back before the call, so that a tracer sees them so; a handler that runs first may take that back
    /// (arm64 `do_signal`).
    fn rewind(registers: &mut UserFrame) -> Self {
        let after = registers.pc;
        if registers.syscall == NO_SYSCALL {
            return Self { error: None, after };
        }
        // Settled once, whatever the registers look like afterwards.
        registers.syscall = NO_SYSCALL;
        let codes = [Errno::ERESTARTSYS, Errno::ERESTARTNOINTR, Errno::ERESTARTNOHAND, Errno::ERESTART_RESTARTBLOCK];
        let error = codes.into_iter().find(|code| registers.x[0] == code.to_syscall_return());
        if error.is_some() {
            registers.x[0] = registers.original_x0;
            registers.pc = Self::before(after);
        }
        Self { error, after }
    }

    /// The `svc`.
    fn before(after: u64) -> u64 {
        after.wrapping_sub(4)
    }

    /// The call's error, once, unless a tracer has chosen another way for the program.
    fn take(&mut self, registers: &UserFrame) -> Option<Errno> {
        self.error.take().filter(|_| registers.pc == Self::before(self.after))
    }

    /// A handler runs first: EINTR, unless SA_RESTART (or a call that always restarts).
    fn settle_for_handler(&mut self, registers: &mut UserFrame, action: &Sigaction) {
        let Some(error) = self.take(registers) else { return };
        let restart = error == Errno::ERESTARTNOINTR
            || error == Errno::ERESTARTSYS && action.flags & u64::from(s::SA_RESTART) != 0;
        if !restart {
            registers.x[0] = Errno::EINTR.to_syscall_return();
            registers.pc = self.after;
        }
    }

    /// No handler ran: the call goes on as if nothing had happened.
    fn settle_without_handler(&mut self, registers: &mut UserFrame) {
        if self.take(registers) == Some(Errno::ERESTART_RESTARTBLOCK) {
            registers.x[8] = nr::RESTART_SYSCALL as u64;
        }
    }
}

/// Forgets how to go on with an interrupted call: `restart_syscall` after a handler ran is `EINTR`.
pub(crate) fn forget_restart(task: &Task) {
    *task.restart.lock() = RestartBlock::None;
}
