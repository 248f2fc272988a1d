//! Exceptions: the vector table, the way into the kernel and back (Arm ARM D1.3).
//!
//! User registers are saved as a [`UserFrame`] at the top of the thread's kernel stack. Exceptions of the kernel itself
//! push the same frame where the stack is. On the way back to user code the work word is looked at with interrupts masked.
//!
//! IRQs are masked by whoever must not be interrupted. FIQ and SError are masked only while the entry and exit code have
//! registers in their hands: the FIQ is how a panic stops CPUs that have their interrupts masked, and an SError (a bus error
//! of an earlier store) is reported close to its cause.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{FAR_EL1, Readable, VBAR_EL1, Writeable};
use spin::Once;

use super::boot::STACK_SHIFT;
use super::uaccess::{self, CacheOperation};
use super::{context, local, memory};
#[cfg(debug_assertions)]
use crate::latency::{self, Section};
use crate::thread::work;
use crate::trap::{Access, Handlers, NO_SYSCALL, PageFault, UserException, UserFrame};

static HANDLERS: Once<&'static Handlers> = Once::new();
/// The interrupt that each CPU handles came from user code.
static FROM_USER: [AtomicBool; crate::MAX_CPUS] = [const { AtomicBool::new(false) }; crate::MAX_CPUS];
/// The kernel frame of the exception that each CPU panics about; 0 for none.
static FATAL_FRAME: [AtomicUsize; crate::MAX_CPUS] = [const { AtomicUsize::new(0) }; crate::MAX_CPUS];
static FATAL_ESR: [AtomicU64; crate::MAX_CPUS] = [const { AtomicU64::new(0) }; crate::MAX_CPUS];
static FATAL_FAR: [AtomicU64; crate::MAX_CPUS] = [const { AtomicU64::new(0) }; crate::MAX_CPUS];

pub fn install_handlers(handlers: &'static Handlers) {
    HANDLERS.call_once(|| handlers);
}

#[inline(always)]
pub(super) fn handlers() -> &'static Handlers {
    HANDLERS.get().expect("traps are handled after install")
}

pub fn interrupted_user() -> bool {
    FROM_USER[super::cpu_id()].load(Ordering::Relaxed)
}

pub(super) fn install_vectors() {
    unsafe extern "C" {
        fn __vectors();
    }
    // The table below is aligned to 2 KiB and handles every entry.
    VBAR_EL1.set(__vectors as *const () as u64);
    barrier::isb(barrier::SY);
    // SAFETY: FIQ and SError may come now.
    unsafe { core::arch::asm!("msr daifclr, #5", options(nostack, preserves_flags)) };
}

/// Exception classes (ESR_EL1.EC, Arm ARM D17.2.37).
mod class {
    pub const FP_TRAP: u64 = 0x07;
    pub const ILLEGAL_STATE: u64 = 0x0e;
    pub const SYSTEM_TRAP: u64 = 0x18;
    pub const INSTRUCTION_ABORT_LOWER: u64 = 0x20;
    pub const PC_ALIGNMENT: u64 = 0x22;
    pub const DATA_ABORT_LOWER: u64 = 0x24;
    pub const DATA_ABORT_SAME: u64 = 0x25;
    pub const SP_ALIGNMENT: u64 = 0x26;
    pub const BREAKPOINT_LOWER: u64 = 0x30;
    pub const STEP_LOWER: u64 = 0x32;
    pub const WATCHPOINT_LOWER: u64 = 0x34;
    pub const BRK: u64 = 0x3c;
}

/// FAR_EL1. Read it before interrupts are unmasked.
fn fault_address() -> u64 {
    FAR_EL1.get()
}

/// What an abort's syndrome says of a page: `None` for anything but a translation, access-flag or permission fault.
fn page_fault_of(esr: u64, far: u64) -> Option<PageFault> {
    let permission = match esr & 0x3c {
        0x04 | 0x08 => false,
        0x0c => true,
        _ => return None,
    };
    let access = match esr >> 26 {
        class::INSTRUCTION_ABORT_LOWER => Access::Execute,
        // WnR, except that cache maintenance (CM) is a read.
        _ if esr & 1 << 6 != 0 && esr & 1 << 8 == 0 => Access::Write,
        _ => Access::Read,
    };
    Some(PageFault { address: far, access, permission })
}

fn decode(esr: u64, far: u64) -> UserException {
    match esr >> 26 {
        class::INSTRUCTION_ABORT_LOWER | class::DATA_ABORT_LOWER => match page_fault_of(esr, far) {
            Some(fault) => UserException::PageFault(fault),
            None if esr & 0x3f == 0x21 => UserException::Alignment { address: far },
            None => UserException::Bus { syndrome: esr },
        },
        class::PC_ALIGNMENT | class::SP_ALIGNMENT => UserException::Alignment { address: far },
        class::BRK => UserException::Breakpoint,
        class::STEP_LOWER => UserException::SingleStep,
        class::BREAKPOINT_LOWER => UserException::HardwareBreakpoint,
        class::WATCHPOINT_LOWER => UserException::Watchpoint { address: far },
        class::ILLEGAL_STATE => UserException::Undefined,
        // Trapped system registers, WFx, undefined instructions: all SIGILL.
        _ => UserException::Undefined,
    }
}

extern "C" fn user_syscall(frame: &mut UserFrame) {
    (handlers().syscall)(frame);
}

extern "C" fn user_sync(frame: &mut UserFrame, esr: u64) {
    let far = fault_address();
    frame.syscall = NO_SYSCALL;
    let class = esr >> 26;
    if (class == class::DATA_ABORT_LOWER || class == class::INSTRUCTION_ABORT_LOWER)
        && let Some(fault) = page_fault_of(esr, far)
    {
        super::irq_enable();
        return (handlers().user_exception)(frame, UserException::PageFault(fault), esr);
    }
    other_sync(frame, esr, far);
}

/// A synchronous exception of user code that is no page fault.
#[inline(never)]
fn other_sync(frame: &mut UserFrame, esr: u64, far: u64) {
    match esr >> 26 {
        class::FP_TRAP => return context::current().arch.first_use(),
        class::STEP_LOWER => context::current().arch.disarm_step(),
        _ => {}
    }
    super::irq_enable();
    let exception = match trapped_cache_operation(esr) {
        None => decode(esr, far),
        Some((operation, register)) => {
            let at = frame.x.get(register).copied().unwrap_or(0);
            if uaccess::user_cache_operation(operation, at).is_ok() {
                frame.pc += 4;
                return;
            }
            UserException::PageFault(PageFault { address: at, access: Access::Read, permission: false })
        }
    };
    (handlers().user_exception)(frame, exception, esr);
}

/// Cache maintenance at EL0, which is trapped on cores with broken clean operations (`cpu::init_this_cpu`): what is wanted,
/// and the number of the register with the address (31 is the zero register).
fn trapped_cache_operation(esr: u64) -> Option<(CacheOperation, usize)> {
    if esr >> 26 != class::SYSTEM_TRAP {
        return None;
    }
    // Op0 1, Op2 1, Op1 3, CRn 7, written (Arm ARM D17.2.37, ISS of MSR, MRS and system instructions).
    const BY_ADDRESS: u64 = 1 << 20 | 1 << 17 | 3 << 14 | 7 << 10;
    const REGISTER: u64 = 0x1f << 5;
    const CRM: u64 = 0xf << 1;
    if esr & 0x01ff_ffff & !REGISTER & !CRM != BY_ADDRESS {
        return None;
    }
    let operation = match (esr & CRM) >> 1 {
        5 => CacheOperation::InvalidateCode,
        // To the point of coherency, of unification, of persistence, and with invalidation.
        10..=12 | 14 => CacheOperation::Clean,
        _ => return None,
    };
    Some((operation, ((esr & REGISTER) >> 5) as usize))
}

extern "C" fn user_irq(frame: &mut UserFrame) {
    #[cfg(debug_assertions)]
    latency::begin(Section::InterruptsOff, core::panic::Location::caller());
    frame.syscall = NO_SYSCALL;
    FROM_USER[super::cpu_id()].store(true, Ordering::Relaxed);
    local::handle_interrupt();
    #[cfg(debug_assertions)]
    latency::end(Section::InterruptsOff);
}

extern "C" fn kernel_irq() {
    #[cfg(debug_assertions)]
    latency::begin(Section::InterruptsOff, core::panic::Location::caller());
    FROM_USER[super::cpu_id()].store(false, Ordering::Relaxed);
    local::handle_interrupt();
    let thread = context::current();
    if super::preempt_count() == 0 && thread.work().load(Ordering::Relaxed) & work::RESCHED != 0 && super::has_owner() {
        // Interrupts stay masked until the exception returns: one that waits must not find this frame on the stack.
        (handlers().preempt)();
    }
    #[cfg(debug_assertions)]
    latency::end(Section::InterruptsOff);
}

/// Work bits are set on the way to user code. Interrupts are masked before and after.
extern "C" fn user_work(frame: &mut UserFrame) {
    super::irq_enable();
    (handlers().return_to_user)(frame);
    super::irq_save();
    #[cfg(debug_assertions)]
    latency::forget(Section::InterruptsOff);
}

/// A fault of kernel code: a user access that missed, or a bug.
extern "C" fn kernel_sync(frame: &mut UserFrame, esr: u64) {
    let far = fault_address();
    if esr >> 26 == class::DATA_ABORT_SAME
        && let Some(fixup) = memory::exception_fixup(frame.pc)
    {
        let thread = context::current();
        let may_fault = thread.arch.faults_disabled.load(Ordering::Relaxed) == 0;
        if may_fault && let Some(fault) = page_fault_of(esr, far) {
            let masked = frame.kernel_pstate() & 1 << 7 != 0;
            if !masked {
                super::irq_enable();
            }
            let resolved = (handlers().uaccess_fault)(fault);
            super::irq_save();
            // The exception returns to where interrupts are as they were.
            #[cfg(debug_assertions)]
            if !masked {
                latency::forget(Section::InterruptsOff);
            }
            if resolved {
                return;
            }
        }
        frame.pc = fixup;
        return;
    }
    fatal(frame, esr, far, "Oops: unhandled exception in the kernel")
}

extern "C" fn stack_overflow(frame: &mut UserFrame, esr: u64) {
    fatal(frame, esr, fault_address(), "kernel stack overflow")
}

extern "C" fn unexpected(frame: &mut UserFrame, esr: u64) {
    fatal(frame, esr, fault_address(), "unexpected exception vector")
}

fn fatal(frame: &UserFrame, esr: u64, far: u64, what: &str) -> ! {
    let cpu = super::cpu_id();
    FATAL_ESR[cpu].store(esr, Ordering::Relaxed);
    FATAL_FAR[cpu].store(far, Ordering::Relaxed);
    FATAL_FRAME[cpu].store(core::ptr::from_ref(frame) as usize, Ordering::Relaxed);
    panic!("{what}: esr {esr:#010x} ({}), far {far:#018x}, pc {:#018x}", class_name(esr >> 26), frame.pc);
}

fn class_name(class: u64) -> &'static str {
    match class {
        0x00 => "unknown instruction",
        class::ILLEGAL_STATE => "illegal execution state",
        0x21 => "instruction abort",
        class::PC_ALIGNMENT => "pc alignment",
        class::DATA_ABORT_SAME => "data abort",
        class::SP_ALIGNMENT => "sp alignment",
        0x2f => "SError",
        class::BRK => "brk",
        _ => "other",
    }
}

/// Registers of the exception that this CPU panics about.
pub(super) fn fatal_registers() -> Option<(UserFrame, u64, u64)> {
    let cpu = super::cpu_id();
    let frame = FATAL_FRAME[cpu].load(Ordering::Relaxed) as *const UserFrame;
    if frame.is_null() {
        return None;
    }
    // SAFETY: `fatal` stored the address of a frame on a stack that is never left again.
    Some((unsafe { *frame }, FATAL_ESR[cpu].load(Ordering::Relaxed), FATAL_FAR[cpu].load(Ordering::Relaxed)))
}

/// Stacks for the report of a stack overflow.
#[repr(C, align(16))]
struct EmergencyStacks(core::cell::UnsafeCell<[[u8; 16384]; crate::MAX_CPUS]>);
// SAFETY: each CPU uses its own, once, on its way to a panic.
unsafe impl Sync for EmergencyStacks {}
static EMERGENCY: EmergencyStacks = EmergencyStacks(core::cell::UnsafeCell::new([[0; 16384]; crate::MAX_CPUS]));

/// The assembly's idea of the frame.
const _: () = assert!(size_of::<UserFrame>() == 288);

global_asm!(
    r#"
    // Saves all registers as a UserFrame below sp; \el is where the interrupted stack pointer is.
    .macro save el
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    .if \el == 0
    mrs     x21, sp_el0
    .else
    add     x21, sp, #288
    .endif
    mrs     x22, elr_el1
    mrs     x23, spsr_el1
    stp     x30, x21, [sp, #240]
    stp     x22, x23, [sp, #256]
    .endm

    .macro restore el
    ldp     x22, x23, [sp, #256]
    ldp     x30, x21, [sp, #240]
    msr     elr_el1, x22
    msr     spsr_el1, x23
    .if \el == 0
    msr     sp_el0, x21
    .endif
    ldp     x0, x1, [sp, #0]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    add     sp, sp, #288
    eret
    .endm

    .macro vector target
    .balign 128
    sub     sp, sp, #288
    b       \target
    .endm

    // An entry from EL1: sp must be in the upper half of its aligned pair, else the stack has overflown. No register is
    // free yet, so the test is arithmetic on sp and x0.
    .macro vector_el1 target
    .balign 128
    sub     sp, sp, #288
    add     sp, sp, x0
    sub     x0, sp, x0
    tbz     x0, #{shift}, 1f
    sub     x0, sp, x0
    sub     sp, sp, x0
    b       \target
1:  b       __overflow
    .endm

    .pushsection .text.vectors, "ax"
    .balign 2048
    .global __vectors
__vectors:
    vector      __bad               // EL1 with SP_EL0: never used
    vector      __bad
    vector      __bad
    vector      __bad
    vector_el1  __el1_sync
    vector_el1  __el1_irq
    vector_el1  __el1_fiq
    vector_el1  __bad
    vector      __el0_sync
    vector      __el0_irq
    vector      __el0_fiq
    vector      __bad
    vector      __el0_sync          // AArch32 user code: its exceptions become SIGILL
    vector      __el0_irq
    vector      __el0_fiq
    vector      __bad
    .popsection

    .pushsection .text, "ax"
__el0_sync:
    save    0
    mrs     x1, esr_el1
    mov     x29, xzr                // the end of the kernel's chain of frame records
    mov     x30, xzr
    lsr     x2, x1, #26
    cmp     x2, #0x15               // svc from AArch64
    b.ne    1f
    mov     w8, w8                  // the number is an int
    ldr     x0, [sp]
    stp     x0, x8, [sp, #272]      // original_x0, syscall
    msr     daifclr, #7             // interrupts, FIQ, SError
    mov     x0, sp
    bl      {user_syscall}
    b       __return_to_user
1:  msr     daifclr, #5             // FIQ and SError; interrupts when the syndrome is read
    mov     x0, sp
    bl      {user_sync}
    b       __return_to_user

__el0_irq:
    save    0
    mov     x29, xzr
    mov     x30, xzr
    msr     daifclr, #5
    mov     x0, sp
    bl      {user_irq}

    .global __return_to_user
__return_to_user:
    msr     daifset, #7             // nothing may come between ELR and SPSR are loaded and eret
    mrs     x1, tpidr_el1
    ldr     w2, [x1, #{work}]
    tst     w2, #{mask}
    b.ne    2f
    tbnz    w2, #{step}, 3f
1:  restore 0
2:  msr     daifclr, #5
    mov     x0, sp
    bl      {user_work}
    b       __return_to_user
3:  bl      {arm_step}
    b       1b

__el0_fiq:
    save    0
    mov     x29, xzr
    mov     x30, xzr
    bl      {fiq}
    restore 0

__el1_fiq:
    save    1
    stp     x29, x22, [sp, #-16]!
    mov     x29, sp
    bl      {fiq}
    add     sp, sp, #16
    restore 1

__el1_sync:
    save    1
    mrs     x1, esr_el1
    msr     daifclr, #5
    mov     x0, sp
    stp     x29, x22, [sp, #-16]!   // a frame record, so that backtraces go on
    mov     x29, sp
    bl      {kernel_sync}
    msr     daifset, #7
    add     sp, sp, #16
    restore 1

__el1_irq:
    save    1
    stp     x29, x22, [sp, #-16]!
    mov     x29, sp
    msr     daifclr, #5
    bl      {kernel_irq}
    msr     daifset, #7
    add     sp, sp, #16
    restore 1

__overflow:
    // x0 and sp are mixed up by the test. Nothing returns from here, so the registers of user code serve as scratch.
    sub     x0, sp, x0              // x0 as it was
    msr     tpidrro_el0, x0
    sub     x0, sp, x0              // sp as it was, less the frame
    msr     tpidr_el0, x1
    mrs     x1, tpidr_el1
    ldr     w1, [x1, #{cpu}]
    add     w1, w1, #1
    msr     sp_el0, x0
    adrp    x0, {emergency}
    add     x0, x0, :lo12:{emergency}
    add     x0, x0, x1, lsl #14
    mov     sp, x0
    sub     sp, sp, #288
    mrs     x0, tpidrro_el0
    mrs     x1, tpidr_el0
    save    1
    mrs     x1, sp_el0
    add     x1, x1, #288
    str     x1, [sp, #248]          // the stack pointer that overflowed
    mrs     x1, esr_el1
    mov     x0, sp
    bl      {stack_overflow}

__bad:
    save    1
    mrs     x1, esr_el1
    mov     x0, sp
    bl      {unexpected}
    .popsection
    "#,
    shift = const STACK_SHIFT,
    work = const context::WORK_OFFSET,
    mask = const work::RETURN_MASK,
    cpu = const context::CPU_OFFSET,
    step = const work::STEP.trailing_zeros(),
    emergency = sym EMERGENCY,
    arm_step = sym context::arm_step,
    fiq = sym local::handle_fiq,
    user_syscall = sym user_syscall,
    user_sync = sym user_sync,
    user_irq = sym user_irq,
    user_work = sym user_work,
    kernel_sync = sym kernel_sync,
    kernel_irq = sym kernel_irq,
    stack_overflow = sym stack_overflow,
    unexpected = sym unexpected,
);
