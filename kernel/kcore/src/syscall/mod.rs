//! The system-call border: decode, permit, validate, call, encode.
//!
//! [`table`] is the one truth: number, name, argument types, handler. [`dispatch`] is what the trap path calls. One file
//! per family; a handler fits on a screen and holds no policy.

pub mod dir;
pub mod file;
pub mod futex;
pub mod identity;
pub mod info;
pub mod ioprio;
pub mod limits;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod notify;
pub mod path;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod prctl;
mod prctl_mm;
pub mod process;
pub mod process_vm;
pub mod ptr;
pub mod ptrace;
pub mod random;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod splice;
pub mod system;
pub mod table;
pub mod time;
pub mod xattr;

use abi::Errno;
use hal::owner::Borrowed;
use hal::thread::{Current, work};
use hal::trap::UserFrame;

use crate::Result;
use crate::fs::{Files, FsContext};
use crate::ns::NsSet;
use crate::task::{Creds, OwnFields, Task, current};
pub use ptr::{UserPtr, UserStr};

/// What a handler works with: who calls, and the caller's registers.
pub struct Context<'a> {
    /// The calling task.
    pub task: Current<Task>,
    /// Its user registers, as they will be on return.
    pub frame: &'a mut UserFrame,
}

impl Context<'_> {
    /// The caller's descriptor table.
    #[inline(always)]
    pub fn files(&self) -> Borrowed<Files> {
        self.task.own_files()
    }

    /// The caller's root, working directory and umask.
    #[inline(always)]
    pub fn fs(&self) -> Borrowed<FsContext> {
        self.task.own_fs()
    }

    /// The caller's credentials.
    #[inline(always)]
    pub fn creds(&self) -> Borrowed<Creds> {
        self.task.own_creds()
    }

    /// The caller's namespaces.
    #[inline(always)]
    pub fn namespaces(&self) -> Borrowed<NsSet> {
        self.task.own_namespaces()
    }

    /// The six argument registers.
    #[inline(always)]
    pub fn arguments(&self) -> [u64; 6] {
        let x = &self.frame.x;
        [x[0], x[1], x[2], x[3], x[4], x[5]]
    }
}

/// A type that one argument register decodes to. The only place where argument bits are dropped: a C `int` is the low
/// half of its register, whatever the upper half holds (AAPCS64 6.8.2).
pub trait FromArgument {
    /// Decodes the register.
    fn from_argument(raw: u64) -> Self;
}

impl FromArgument for u64 {
    #[inline(always)]
    fn from_argument(raw: u64) -> Self {
        raw
    }
}

impl FromArgument for i64 {
    #[inline(always)]
    fn from_argument(raw: u64) -> Self {
        raw.cast_signed()
    }
}

impl FromArgument for usize {
    #[inline(always)]
    fn from_argument(raw: u64) -> Self {
        raw as usize
    }
}

impl FromArgument for u32 {
    #[inline(always)]
    fn from_argument(raw: u64) -> Self {
        raw as u32
    }
}

impl FromArgument for i32 {
    #[inline(always)]
    fn from_argument(raw: u64) -> Self {
        raw as i32
    }
}

impl<T> FromArgument for UserPtr<T> {
    #[inline(always)]
    fn from_argument(raw: u64) -> Self {
        UserPtr::new(raw)
    }
}

impl FromArgument for UserStr {
    #[inline(always)]
    fn from_argument(raw: u64) -> Self {
        UserStr::new(raw)
    }
}

/// Runs the system call that `frame` describes and stores its result in x0.
pub fn dispatch(frame: &mut UserFrame) {
    if hal::thread::current_work().load(core::sync::atomic::Ordering::Relaxed) & work::SYSCALL_TRACE != 0 {
        match judge(frame) {
            Judged::Run => {}
            Judged::Done => return,
        }
    }
    let number = frame.syscall as usize;
    let mut cx = Context { task: current(), frame };
    let outcome = match table::TABLE.get(number).and_then(|entry| entry.handler) {
        Some(handler) => handler(&mut cx),
        None => missing(number),
    };
    match outcome {
        Ok(value) => frame.x[0] = value as u64,
        Err(error) => {
            frame.x[0] = error.to_syscall_return();
            if error.number() >= Errno::ERESTARTSYS.number() {
                // Never let a restart code reach user space: the signal code looks at it on the way out.
                hal::thread::current_work().fetch_or(work::SIGNAL, core::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}

/// Whether a call that others were asked about is still to be run.
enum Judged {
    Run,
    Done,
}

/// Asks the tracer and seccomp and does what they say.
#[cold]
fn judge(frame: &mut UserFrame) -> Judged {
    use crate::task::ptrace::event::{self, Entered};
    use crate::task::seccomp::Verdict;
    // Before seccomp, so that a tracer cannot get around it (Linux syscall_trace_enter).
    if event::syscall_enters(frame) == Entered::Skipped {
        return Judged::Done;
    }
    match crate::task::seccomp::judge(frame) {
        Verdict::Allow => return Judged::Run,
        Verdict::Ask(data) => return asked(frame, data),
        Verdict::Return(value) => frame.x[0] = value.cast_unsigned(),
        Verdict::Skip => {}
        Verdict::Exit(signal) => crate::task::exit::exit_current(signal.cast_signed()),
    }
    Judged::Done
}

/// SECCOMP_RET_TRACE: the tracer may change the call or have it skipped; what it makes of it is judged again, where a
/// filter's wish to ask means yes (Linux `__seccomp_filter`). Without a tracer that wants to know the call is not there.
fn asked(frame: &mut UserFrame, data: u32) -> Judged {
    use crate::task::ptrace::event;
    use crate::task::seccomp::{self, Verdict};
    if !event::seccomp(frame, data) {
        frame.x[0] = Errno::ENOSYS.to_syscall_return();
        return Judged::Done;
    }
    if current().fatal_signal_pending() || (frame.syscall as i32) < 0 {
        return Judged::Done;
    }
    match seccomp::judge(frame) {
        Verdict::Allow | Verdict::Ask(_) => return Judged::Run,
        Verdict::Return(value) => frame.x[0] = value.cast_unsigned(),
        Verdict::Skip => {}
        Verdict::Exit(signal) => crate::task::exit::exit_current(signal.cast_signed()),
    }
    Judged::Done
}

/// A number without a handler: `ENOSYS`, logged once per number so that nothing is missing silently.
#[cold]
fn missing(number: usize) -> Result<usize> {
    table::note_missing(number);
    Err(Errno::ENOSYS)
}
