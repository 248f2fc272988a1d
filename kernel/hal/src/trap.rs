//! How the CPU enters the kernel, and what the kernel gives this layer to call.

use crate::arch;

/// The user registers of a thread, saved at the top of its kernel stack while it is in the kernel.
/// Layout shared with the trap assembly and with `struct user_pt_regs` (first 34 words).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct UserFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The user stack pointer.
    pub sp: u64,
    /// Where user code goes on.
    pub pc: u64,
    pstate: u64,
    /// x0 as it was at the system call, for a restart (Linux `orig_x0`).
    pub original_x0: u64,
    /// The number of the system call that this entry is, or [`NO_SYSCALL`].
    pub syscall: u64,
}

/// [`UserFrame::syscall`] when the kernel was not entered by `svc`.
pub const NO_SYSCALL: u64 = u64::MAX;

/// PSTATE bits that user code may choose: N, Z, C, V, DIT-free v8.0 set.
const PSTATE_USER: u64 = 0xf000_0000;
/// Software step (Arm ARM D2.12).
pub const PSTATE_SS: u64 = 1 << 21;

impl UserFrame {
    /// A frame that starts user code at `pc` with stack `sp`: all other registers zero, EL0t, interrupts unmasked.
    pub fn new(pc: u64, sp: u64) -> Self {
        Self { pc, sp, syscall: NO_SYSCALL, ..Self::default() }
    }

    /// The saved PSTATE: flags of user code only.
    pub fn pstate(&self) -> u64 {
        self.pstate
    }

    /// PSTATE of an exception frame of the kernel itself.
    #[cfg(target_os = "none")]
    pub(crate) fn kernel_pstate(&self) -> u64 {
        self.pstate
    }

    /// Sets PSTATE from an untrusted value: mode and mask bits are dropped, so a forged frame stays at EL0. Whether the next
    /// instruction is stepped stays as it is.
    pub fn set_pstate(&mut self, value: u64) {
        self.pstate = value & PSTATE_USER | self.pstate & PSTATE_SS;
    }

    /// The next instruction is the one to be stepped (PSTATE.SS: active, not pending); only for a thread that is stepped
    /// ([`crate::thread::Thread::set_single_step`]).
    pub fn rewind_step(&mut self) {
        self.pstate |= PSTATE_SS;
    }
}

#[cfg(not(target_os = "none"))]
impl UserFrame {
    /// The stepped instruction is executed: active, not pending becomes active and pending.
    pub(crate) fn step_done(&mut self) {
        self.pstate &= !PSTATE_SS;
    }
}

/// What a memory access wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// A user address that the hardware could not translate or was not allowed to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// The address, any value (tag bits included).
    pub address: u64,
    /// What was tried.
    pub access: Access,
    /// True when a valid entry forbids the access, false when no entry is there.
    pub permission: bool,
}

/// What user code did that entered the kernel, other than a system call or an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserException {
    /// A translation or permission fault on a user address.
    PageFault(PageFault),
    /// A misaligned pc, sp or data address: `SIGBUS`/BUS_ADRALN.
    Alignment {
        /// The address that was misaligned.
        address: u64,
    },
    /// An instruction that does not exist or is not allowed at EL0: `SIGILL`.
    Undefined,
    /// `brk #imm`: `SIGTRAP`.
    Breakpoint,
    /// One instruction was stepped.
    SingleStep,
    /// A hardware breakpoint.
    HardwareBreakpoint,
    /// A watchpoint; the address that was touched.
    Watchpoint {
        /// The data address.
        address: u64,
    },
    /// An external abort or an unknown class: `SIGBUS`; the syndrome for the log.
    Bus {
        /// ESR_EL1.
        syndrome: u64,
    },
}

/// What this layer calls. One static table, installed once before the first thread runs.
#[derive(Clone, Copy)]
pub struct Handlers {
    /// `svc #0` from user code, interrupts on. The number is `frame.syscall` (from x8), arguments x0 to x5; the handler
    /// stores the result in `frame.x[0]`.
    pub syscall: fn(&mut UserFrame),
    /// Any other synchronous exception of user code, interrupts on.
    pub user_exception: fn(&mut UserFrame, UserException, esr: u64),
    /// The kernel touched user memory through [`crate::uaccess`] and missed. May sleep unless faults are disabled.
    /// True: try again. False: the access returns an error.
    pub uaccess_fault: fn(PageFault) -> bool,
    /// Called on the way back to user code while the thread has work bits set ([`crate::thread::Thread::work`]); interrupts on.
    pub return_to_user: fn(&mut UserFrame),
    /// A device interrupt, interrupts masked: the board's interrupt controller is asked and drivers are run.
    pub interrupt: fn(),
    /// The per-CPU deadline of [`crate::timer`] passed, interrupts masked; the interrupted code holds no spin lock.
    pub timer: fn(),
    /// Another CPU called [`crate::cpu::send_ipi`], interrupts masked.
    pub ipi: fn(),
    /// RESCHED is set and the preempt count fell to zero, with interrupts on, or an interrupt of kernel code ends, with
    /// interrupts masked: reschedule, and leave the mask as it was.
    pub preempt: fn(),
    /// First thing on a new thread's stack: interrupts masked, preempt count 0, run-queue lock handed over. Finishes the
    /// switch; interrupts are still masked when it returns.
    pub thread_started: fn(),
}

/// Installs the table. Called once at boot.
pub fn install(handlers: &'static Handlers) {
    arch::install_handlers(handlers);
}

/// Whether the interrupt that is being handled on this CPU came while user code ran: the tick charges user or system time
/// by it. Meaningful in the `timer` handler only.
pub fn interrupted_user() -> bool {
    arch::interrupted_user()
}

/// The ESR-like syndrome word that `sigcontext` shows for a fault (Linux `esr_context`).
pub fn syndrome_of(exception: &UserException) -> u64 {
    match exception {
        UserException::PageFault(f) => {
            let class: u64 = if f.access == Access::Execute { 0x20 } else { 0x24 };
            let write = u64::from(f.access == Access::Write) << 6;
            let status: u64 = if f.permission { 0b00_1111 } else { 0b00_0111 };
            class << 26 | 1 << 25 | write | status
        }
        UserException::Bus { syndrome } => *syndrome,
        _ => 0,
    }
}
