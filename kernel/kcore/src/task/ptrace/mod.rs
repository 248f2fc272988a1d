//! ptrace(2): one thread, the tracer, watches and steers another, the tracee.
//!
//! Tracing is a relation of threads, kept beside the family tree and changed under its lock ([`attach`]). A tracee stops in
//! one place, [`stop::stop`], whatever the reason: a signal on its way ([`stop::for_signal`]), a group stop
//! ([`stop::trap`]), a system call or an event ([`event`]). While it is stopped in [`TaskState::Traced`] its tracer sends
//! requests ([`request`]): memory ([`memory`]), registers ([`regset`]), what it stopped for ([`info`]), and at last how to go
//! on ([`resume`]). wait(2) reports the stops (`task::wait`).
//!
//! Who guards what: [`Links`] is changed with the tree locked; [`Stopped`], the state and the job-control bits with the state
//! of the tracee's group locked. A tracer that works on a tracee has it frozen (`jobctl::FROZEN`): not even SIGKILL starts it
//! before the request is over, so its registers stay where they are.
//!
//! What is not here: who may trace (`task::access`, `task::yama`), and how signals choose a thread.
//!
//! [`TaskState::Traced`]: super::TaskState::Traced

pub mod attach;
pub mod event;
mod info;
mod memory;
mod regset;
mod request;
mod resume;
pub mod stop;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::ptrace as p;
use abi::signal::SigInfo;
use hal::sync::IrqLock;

use super::{Creds, PidNamespace, Task};
use crate::sync::order;

pub use request::{Request, request};

/// Bits of [`Ptrace::flags`]: traced at all, and how; the options of PTRACE_SETOPTIONS lie above (Linux PT_*).
mod flag {
    /// PT_PTRACED.
    pub const TRACED: u32 = 1;
    /// PT_SEIZED: by PTRACE_SEIZE.
    pub const SEIZED: u32 = 2;
    /// Where the PTRACE_O_* bits begin.
    pub const OPTIONS_SHIFT: u32 = 4;
}

/// Bits of [`Ptrace::syscalls`] (Linux SYSCALL_WORK_SYSCALL_TRACE and SYSCALL_WORK_SYSCALL_EMU).
pub(crate) mod syscalls {
    /// Entry to and exit from system calls are reported (PTRACE_SYSCALL).
    pub(crate) const TRACE: u32 = 1;
    /// Entry is reported and the call is not made (PTRACE_SYSEMU).
    pub(crate) const EMULATE: u32 = 2;
}

/// The part of a thread that has to do with tracing.
pub struct Ptrace {
    /// [`flag`]s and options, 0 when it is not traced. Changed with the tree and the group's state locked.
    flags: AtomicU32,
    /// Which system calls are reported. Changed by the tracer, with the tree locked.
    syscalls: AtomicU32,
    /// It has tracees: a look that spares the rest of the world the lock.
    is_tracer: AtomicBool,
    /// It has ended, is not the leader, and stays in the table until its tracer has waited for it.
    is_zombie: AtomicBool,
    links: IrqLock<Links>,
    stopped: IrqLock<Stopped>,
}

/// Who traces whom.
#[derive(Default)]
struct Links {
    tracer: Option<Arc<Task>>,
    /// The credentials that count at a set-user-ID exec: those of whoever made the relation (Linux `ptracer_cred`).
    tracer_creds: Option<Arc<Creds>>,
    tracees: Vec<Arc<Task>>,
}

/// What a tracee stopped for.
#[derive(Default)]
struct Stopped {
    /// What wait reports (0 once it has), and at the end what the tracer wants to go on with (Linux `exit_code`).
    code: u32,
    /// PTRACE_GETEVENTMSG.
    message: u64,
    /// PTRACE_GETSIGINFO (Linux `last_siginfo`).
    info: Option<SigInfo>,
}

impl Default for Ptrace {
    fn default() -> Self {
        Self {
            flags: AtomicU32::new(0),
            syscalls: AtomicU32::new(0),
            is_tracer: AtomicBool::new(false),
            is_zombie: AtomicBool::new(false),
            links: IrqLock::new(order::PTRACE_LINKS, Links::default()),
            stopped: IrqLock::new(order::PTRACE_STOP, Stopped::default()),
        }
    }
}

impl Ptrace {
    #[inline]
    fn flags(&self) -> u32 {
        self.flags.load(Ordering::SeqCst)
    }

    /// Whether somebody traces the thread.
    #[inline]
    pub fn is_traced(&self) -> bool {
        self.flags() != 0
    }

    /// Whether it was attached to by PTRACE_SEIZE.
    pub fn is_seized(&self) -> bool {
        self.flags() & flag::SEIZED != 0
    }

    /// Whether a PTRACE_O_* option is set.
    #[inline]
    pub fn has_option(&self, option: u32) -> bool {
        self.flags() & option << flag::OPTIONS_SHIFT != 0
    }

    /// Whether the thread has ended and waits for its tracer to take notice.
    pub fn is_zombie(&self) -> bool {
        self.is_zombie.load(Ordering::SeqCst)
    }

    /// It has ended and its tracer is to hear of it.
    pub(super) fn become_zombie(&self) {
        self.is_zombie.store(true, Ordering::SeqCst);
    }

    /// Who traces it.
    pub fn tracer(&self) -> Option<Arc<Task>> {
        if self.is_traced() { self.links.lock().tracer.clone() } else { None }
    }

    /// The threads that it traces.
    pub(crate) fn tracees(&self) -> Vec<Arc<Task>> {
        // Asked at every wait: most threads trace nobody.
        if self.is_tracer.load(Ordering::SeqCst) { self.links.lock().tracees.clone() } else { Vec::new() }
    }

    fn is_traced_by(&self, tracer: &Task) -> bool {
        self.is_traced() && self.links.lock().tracer.as_deref().is_some_and(|own| core::ptr::eq(own, tracer))
    }

    /// `TracerPid` in `/proc/PID/status`: the tracer in the numbers of `namespace`, 0 without one.
    pub fn tracer_number(&self, namespace: &PidNamespace) -> i32 {
        self.tracer().map_or(0, |tracer| tracer.pid().number_in(namespace))
    }

    /// Whether SECCOMP filters are out of force for a checkpoint (PTRACE_O_SUSPEND_SECCOMP).
    pub(crate) fn suspends_seccomp(&self) -> bool {
        self.has_option(p::PTRACE_O_SUSPEND_SECCOMP)
    }

    /// The system-call bits ([`syscalls`]).
    #[inline]
    pub(crate) fn syscalls(&self) -> u32 {
        self.syscalls.load(Ordering::SeqCst)
    }
}
