//! What is asked of a thread besides its signals: to take part in a stop of its process, to stop for its tracer (Linux
//! `include/linux/sched/jobctl.h`, JOBCTL_*).
//!
//! The bits of a thread are changed with its group's state locked; [`STOP_DEQUEUED`] alone is set with the queue locked that
//! the signal was taken from.

use core::sync::atomic::Ordering;

use crate::task::{Task, flags, ptrace};

/// The signal of the last group stop, which a tracer is told of.
pub(crate) const STOP_SIGNAL: u32 = 0xffff;
/// It has taken a stop signal that it is about to act on; a SIGCONT that comes in between takes that back.
pub(crate) const STOP_DEQUEUED: u32 = 1 << 16;
/// It is to take part in a group stop.
pub(crate) const STOP_PENDING: u32 = 1 << 17;
/// It is counted in the stop under way.
pub(crate) const STOP_CONSUME: u32 = 1 << 18;
/// It is to stop for its tracer.
pub(crate) const TRAP_STOP: u32 = 1 << 19;
/// Its tracer is to be told that a group stop began or ended.
pub(crate) const TRAP_NOTIFY: u32 = 1 << 20;
/// A tracer that attached waits until it has gone from a group stop to one of its own.
pub(crate) const TRAPPING: u32 = 1 << 21;
/// Its tracer listens (PTRACE_LISTEN): stopped, but a change of the group stop is told.
pub(crate) const LISTENING: u32 = 1 << 22;
/// Its tracer looks at it: not even SIGKILL starts it meanwhile.
pub(crate) const FROZEN: u32 = 1 << 24;

/// Stops for the tracer.
pub(crate) const TRAP_MASK: u32 = TRAP_STOP | TRAP_NOTIFY;
/// What makes the thread look before it returns to user code.
pub(crate) const PENDING_MASK: u32 = STOP_PENDING | TRAP_MASK;

/// The bits of a thread.
#[inline]
pub(crate) fn of(task: &Task) -> u32 {
    task.signals.jobctl.load(Ordering::SeqCst)
}

/// Asks for `bits`, with a new stop signal if there is one among them. False when the thread is on its way out (Linux
/// `task_set_jobctl_pending`).
pub(crate) fn ask(task: &Task, bits: u32) -> bool {
    if task.fatal_signal_pending() || task.has_flag(flags::EXITING) {
        return false;
    }
    let cell = &task.signals.jobctl;
    if bits & STOP_SIGNAL != 0 {
        cell.fetch_and(!STOP_SIGNAL, Ordering::SeqCst);
    }
    cell.fetch_or(bits, Ordering::SeqCst);
    true
}

/// Sets bits that ask for nothing.
pub(crate) fn set(task: &Task, bits: u32) {
    task.signals.jobctl.fetch_or(bits, Ordering::SeqCst);
}

/// Clears bits; with the last request the wait of a tracer that attached is over (Linux `task_clear_jobctl_pending`).
pub(crate) fn clear(task: &Task, bits: u32) {
    let with_stop = if bits & STOP_PENDING != 0 { STOP_CONSUME | STOP_DEQUEUED } else { 0 };
    let before = task.signals.jobctl.fetch_and(!(bits | with_stop), Ordering::SeqCst);
    if before & !bits & PENDING_MASK == 0 {
        clear_trapping(task);
    }
}

/// The tracer need not wait any more (Linux `task_clear_jobctl_trapping`).
pub(crate) fn clear_trapping(task: &Task) {
    if of(task) & TRAPPING != 0 {
        task.signals.jobctl.fetch_and(!TRAPPING, Ordering::SeqCst);
        ptrace::attach::trapped();
    }
}

/// The tracer's request is over.
pub(crate) fn unfreeze(task: &Task) {
    task.signals.jobctl.fetch_and(!FROZEN, Ordering::SeqCst);
}

/// A stop for the tracer is over: what was agreed on during it is void.
pub(crate) fn forget_stop(task: &Task) {
    task.signals.jobctl.fetch_and(!(LISTENING | FROZEN), Ordering::SeqCst);
}
