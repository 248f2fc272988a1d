//! Threads: what a CPU saves of one while another runs, and the switch.
//!
//! The top of a kernel stack is laid out as: FP/SIMD registers, below them the user registers, below them the calls of the
//! kernel. The place for FP/SIMD registers costs nothing that is not there already, so that first use cannot run out of
//! memory; the registers themselves are switched lazily.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{CPACR_EL1, Readable, TPIDR_EL0, TPIDR_EL1, Writeable};

use super::debug::ThreadDebug;
use super::kernel_map::KernelStack;
use super::{trap, uaccess};
use crate::debug::DebugRegisters;
use crate::mem::OutOfMemory;
use crate::thread::{FpState, Start, Thread};
use crate::trap::UserFrame;
use crate::uaccess::BadAddress;

/// The machine's part of a thread. The first fields are known to assembly by offset.
#[repr(C)]
pub struct ThreadContext {
    /// Kernel stack pointer while switched out.
    sp: AtomicU64,
    /// Times that preemption was switched off.
    pub(super) preempt_count: AtomicU32,
    /// The CPU that runs it.
    pub(super) cpu: AtomicU32,
    /// User accesses fail at once instead of faulting pages in, while above zero.
    pub(super) faults_disabled: AtomicU32,
    /// TPIDR_EL0 while switched out.
    tls: AtomicU64,
    /// Where the FP/SIMD registers are: [`fp`].
    fp: AtomicU8,
    /// It is stepped.
    single_step: AtomicBool,
    debug: ThreadDebug,
    stack: Option<KernelStack>,
}

/// Values of [`ThreadContext::fp`].
mod fp {
    /// Never used, or given up: all zero.
    pub const UNUSED: u8 = 0;
    /// At the top of the kernel stack; EL0 traps at the next use.
    pub const SAVED: u8 = 1;
    /// In the registers of the CPU that runs the thread, which EL0 may use.
    pub const LIVE: u8 = 2;
}

/// Bytes of the vector registers, with which an [`FpState`] begins.
const VECTOR_BYTES: usize = 32 * 16;

/// Callee-saved registers that a switch leaves on the stack: x19 to x30.
const SWITCH_FRAME: u64 = 12 * 8;

impl ThreadContext {
    const fn empty() -> Self {
        Self {
            sp: AtomicU64::new(0),
            preempt_count: AtomicU32::new(0),
            cpu: AtomicU32::new(0),
            faults_disabled: AtomicU32::new(0),
            tls: AtomicU64::new(0),
            fp: AtomicU8::new(fp::UNUSED),
            single_step: AtomicBool::new(false),
            debug: ThreadDebug::new(),
            stack: None,
        }
    }

    pub fn for_boot_flow() -> Self {
        Self::empty()
    }

    pub fn new(start: Start) -> Result<Self, OutOfMemory> {
        let context = Self { stack: Some(KernelStack::new()?), ..Self::empty() };
        let mut saved = [0u64; 12];
        let frame = match start {
            Start::Kernel { entry, argument } => {
                saved[0] = entry as usize as u64;
                saved[1] = argument as u64;
                saved[11] = __kernel_thread_start as *const () as u64;
                UserFrame::default()
            }
            Start::User(frame) => {
                saved[11] = __user_thread_start as *const () as u64;
                frame
            }
        };
        let frame_at = context.frame_pointer();
        let sp = frame_at as u64 - SWITCH_FRAME;
        // SAFETY: both places are on the fresh stack, which is mapped, aligned and ours alone.
        unsafe {
            frame_at.write(frame);
            (sp as *mut [u64; 12]).write(saved);
        }
        context.sp.store(sp, Ordering::Relaxed);
        Ok(context)
    }

    fn fp_pointer(&self) -> *mut FpState {
        let stack = self.stack.as_ref().expect("only threads with a stack have user registers");
        (stack.top() - size_of::<FpState>() as u64) as *mut FpState
    }

    fn frame_pointer(&self) -> *mut UserFrame {
        (self.fp_pointer() as u64 - size_of::<UserFrame>() as u64) as *mut UserFrame
    }

    pub fn user_frame(&self) -> UserFrame {
        // SAFETY: below the FP registers a thread's stack always holds a frame (`new`, trap entry); the door's contract
        // keeps a running thread's frame from being read by others. Volatile: the entry code writes it behind the
        // compiler's back.
        unsafe { self.frame_pointer().read_volatile() }
    }

    pub fn set_user_frame(&self, frame: &UserFrame) {
        // SAFETY: as above.
        unsafe { self.frame_pointer().write_volatile(*frame) };
    }

    fn is_current(&self) -> bool {
        core::ptr::eq(self, &current().arch)
    }

    pub fn tls(&self) -> u64 {
        if self.is_current() { TPIDR_EL0.get() } else { self.tls.load(Ordering::Relaxed) }
    }

    pub fn set_tls(&self, value: u64) {
        self.tls.store(value, Ordering::Relaxed);
        if self.is_current() {
            TPIDR_EL0.set(value);
        }
    }

    pub fn fp_state(&self) -> FpState {
        let irq = super::irq_save();
        let state = self.copy_fp();
        super::irq_restore(irq);
        state
    }

    /// The FP/SIMD registers wherever they are. Interrupts masked, so that the thread stays on its CPU.
    fn copy_fp(&self) -> FpState {
        match self.fp.load(Ordering::Relaxed) {
            fp::UNUSED => return FpState::default(),
            // SAFETY: live registers belong to the current thread (only it may be asked for while it runs), and the place
            // is part of its stack.
            fp::LIVE => unsafe { __fp_save(self.fp_pointer()) },
            _ => {}
        }
        // SAFETY: saved there, by the line above or by a switch. Volatile, as for the user registers.
        unsafe { self.fp_pointer().read_volatile() }
    }

    pub fn set_fp_state(&self, state: &FpState) {
        let irq = super::irq_save();
        self.forget_live_fp();
        // SAFETY: the place is part of this thread's stack; the thread is current or switched out (door contract).
        unsafe { self.fp_pointer().write_volatile(*state) };
        self.fp.store(fp::SAVED, Ordering::Relaxed);
        super::irq_restore(irq);
    }

    /// The control and status registers go through the hands of the caller, the vectors straight to user memory.
    pub fn fp_to_user(&self, to: u64) -> Result<(u32, u32), BadAddress> {
        let irq = super::irq_save();
        let state = self.fp.load(Ordering::Relaxed);
        if state == fp::LIVE {
            // SAFETY: the thread is current (door contract) with interrupts masked; the place is part of its stack.
            unsafe { __fp_save(self.fp_pointer()) };
        }
        super::irq_restore(irq);
        if state == fp::UNUSED {
            uaccess::clear_user(to, VECTOR_BYTES)?;
            return Ok((0, 0));
        }
        let at = self.fp_pointer();
        // SAFETY: the vectors begin the place, which is this thread's; a switch meanwhile saves the same values again.
        unsafe {
            uaccess::copy_raw_to_user(to, at.cast(), VECTOR_BYTES)?;
            Ok(((&raw const (*at).fpsr).read_volatile(), (&raw const (*at).fpcr).read_volatile()))
        }
    }

    /// The reverse. After an error the registers are undefined.
    pub fn fp_from_user(&self, from: u64, fpsr: u32, fpcr: u32) -> Result<(), BadAddress> {
        let irq = super::irq_save();
        let was_live = self.fp.load(Ordering::Relaxed) == fp::LIVE;
        self.forget_live_fp();
        self.fp.store(fp::SAVED, Ordering::Relaxed);
        super::irq_restore(irq);
        let at = self.fp_pointer();
        // SAFETY: the place is this thread's, which is current (door contract), and no switch writes it in this state.
        unsafe {
            uaccess::copy_raw_from_user(at.cast(), from, VECTOR_BYTES)?;
            (&raw mut (*at).fpsr).write_volatile(fpsr);
            (&raw mut (*at).fpcr).write_volatile(fpcr);
        }
        if was_live {
            // It used them a moment ago: no trap for the next use.
            self.first_use();
        }
        Ok(())
    }

    pub fn inherit_fp_state(&self) {
        let parent = &current().arch;
        if parent.fp.load(Ordering::Relaxed) != fp::UNUSED {
            self.set_fp_state(&parent.fp_state());
        }
    }

    pub fn reset_fp_state(&self) {
        let irq = super::irq_save();
        self.forget_live_fp();
        self.fp.store(fp::UNUSED, Ordering::Relaxed);
        super::irq_restore(irq);
    }

    /// What the CPU's registers hold of this thread no longer counts: EL0 traps at the next use.
    fn forget_live_fp(&self) {
        if self.fp.load(Ordering::Relaxed) == fp::LIVE {
            trap_user_fp();
        }
    }

    /// Saves the registers of the current thread if they are in the CPU, for a switch.
    fn park_fp(&self) {
        if self.fp.load(Ordering::Relaxed) == fp::LIVE {
            // SAFETY: the thread is current with interrupts masked; the layout is the assembly's: 32 quadwords, then FPSR
            // and FPCR.
            unsafe { __fp_save(self.fp_pointer()) };
            self.fp.store(fp::SAVED, Ordering::Relaxed);
            trap_user_fp();
        }
    }

    /// EL0 used FP/SIMD for the first time since it was switched in: loads the registers.
    pub(super) fn first_use(&self) {
        let irq = super::irq_save();
        if self.fp.load(Ordering::Relaxed) == fp::UNUSED {
            // SAFETY: the place is part of the current thread's stack. All bytes zero are all registers zero.
            unsafe { self.fp_pointer().write_bytes(0, 1) };
        }
        // SAFETY: as in `park_fp`; loads what was saved or zeroed.
        unsafe { __fp_load(self.fp_pointer()) };
        self.fp.store(fp::LIVE, Ordering::Relaxed);
        CPACR_EL1.write(CPACR_EL1::FPEN::TrapNothing);
        super::irq_restore(irq);
    }
}

/// The thread returns to user code and its single step was switched on or off: one instruction, then an exception, while
/// PSTATE.SS is set in its frame; at once when it is clear (Arm ARM D2.12). Interrupts masked.
pub(super) extern "C" fn arm_step() {
    let thread = current();
    let stepped = thread.arch.single_step.load(Ordering::SeqCst);
    if !stepped {
        thread.work().fetch_and(!crate::thread::work::STEP, Ordering::SeqCst);
        // Switched on again meanwhile: the next way back sees it.
        if thread.arch.single_step.load(Ordering::SeqCst) {
            thread.work().fetch_or(crate::thread::work::STEP, Ordering::SeqCst);
        }
    }
    thread.arch.debug.arm_step(stepped);
}

impl ThreadContext {
    /// The step was made.
    pub(super) fn disarm_step(&self) {
        self.debug.arm_step(false);
    }

    pub fn set_single_step(&self, stepped: bool) {
        self.single_step.store(stepped, Ordering::SeqCst);
    }

    pub fn kernel_backtrace(&self, visit: &mut dyn FnMut(u64) -> bool) {
        // The last pair that the switch saved is a frame record: x29, x30.
        match self.sp.load(Ordering::Relaxed) {
            0 => {}
            sp => super::board::backtrace_from(sp + 80, visit),
        }
    }

    pub fn is_single_stepped(&self) -> bool {
        self.single_step.load(Ordering::SeqCst)
    }

    pub fn debug_registers(&self) -> DebugRegisters {
        self.debug.registers()
    }

    pub fn set_debug_registers(&self, registers: &DebugRegisters) -> Result<(), OutOfMemory> {
        self.debug.set_registers(registers, self.is_current())
    }
}

/// Makes EL0's next use of FP/SIMD trap. EL1 may always (for the save and load below; the kernel is soft-float). The return
/// to EL0 synchronises it.
fn trap_user_fp() {
    CPACR_EL1.write(CPACR_EL1::FPEN::TrapEl0);
}

/// The threads of the boot flows, before the scheduler adopts them. One per CPU.
static BOOT_THREADS: [Thread; crate::MAX_CPUS] = [const { Thread::unowned(ThreadContext::empty()) }; crate::MAX_CPUS];

/// Makes the CPU's boot thread current. Once per CPU, before anything that looks at the current thread.
pub(super) fn install_boot_thread(cpu: usize) {
    let thread = &BOOT_THREADS[cpu];
    thread.arch.cpu.store(cpu as u32, Ordering::Relaxed);
    TPIDR_EL1.set(core::ptr::from_ref(thread) as u64);
}

#[inline(always)]
pub fn current() -> &'static Thread {
    let thread: *const Thread;
    // SAFETY: reads a register. `pure`: seen from one thread it never changes (a switch returns to the thread that called
    // it), so the compiler may read it once for a whole function, as Linux's `get_current` lets it. `set_current`, the
    // exception, is not inlined into what goes on afterwards (`adopt_boot_flow`).
    unsafe { core::arch::asm!("mrs {}, tpidr_el1", out(reg) thread, options(pure, nomem, nostack, preserves_flags)) };
    // SAFETY: TPIDR_EL1 holds the current thread from `install_boot_thread` on, which is static or outlives its running
    // (door contract). A thread that is preempted between the two lines still reads its own.
    unsafe { &*thread }
}

pub fn has_current() -> bool {
    true
}

pub fn set_current(thread: &Thread) {
    let old = current();
    thread.arch.cpu.store(old.arch.cpu.load(Ordering::Relaxed), Ordering::Relaxed);
    thread.arch.preempt_count.store(old.arch.preempt_count.load(Ordering::Relaxed), Ordering::Relaxed);
    // The caller's thread outlives its running (door contract of `adopt_boot_flow`).
    TPIDR_EL1.set(core::ptr::from_ref(thread) as u64);
}

pub fn switch(previous: &Thread, next: &Thread) {
    let (from, to) = (&previous.arch, &next.arch);
    from.park_fp();
    ThreadDebug::switch(&from.debug, &to.debug);
    from.tls.store(TPIDR_EL0.get(), Ordering::Relaxed);
    TPIDR_EL0.set(to.tls.load(Ordering::Relaxed));
    to.cpu.store(from.cpu.load(Ordering::Relaxed), Ordering::Relaxed);
    // SAFETY: interrupts are masked and `next` runs nowhere (door contract), so its saved stack pointer is valid.
    unsafe { __switch(from.sp.as_ptr(), to.sp.load(Ordering::Relaxed), core::ptr::from_ref(next).cast()) };
}

/// First Rust code of a new thread: finishes the switch that led here.
extern "C" fn thread_started() {
    (trap::handlers().thread_started)();
}

/// Offset of the CPU number from the start of a `Thread`, for the trap entry.
pub(super) const CPU_OFFSET: usize = offset_of!(Thread, arch) + offset_of!(ThreadContext, cpu);
/// Offset of the work word.
pub(super) const WORK_OFFSET: usize = Thread::WORK_OFFSET;

unsafe extern "C" {
    fn __switch(save_sp: *mut u64, load_sp: u64, next: *const ());
    fn __kernel_thread_start();
    fn __user_thread_start();
    fn __fp_save(state: *mut FpState);
    fn __fp_load(state: *const FpState);
}

global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd
    .pushsection .text, "ax"
    // x0: where to save sp, x1: sp to load, x2: next thread.
__switch:
    stp     x19, x20, [sp, #-96]!
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    mov     x3, sp
    str     x3, [x0]
    // Maintenance that this thread began (of the TLB here, of caches by user code) is done before it may go on elsewhere.
    dsb     ish
    mov     sp, x1
    msr     tpidr_el1, x2
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    ldp     x19, x20, [sp], #96
    ret

__kernel_thread_start:
    bl      {started}
    msr     daifclr, #7
    mov     x0, x20
    blr     x19
    brk     #1

__user_thread_start:
    bl      {started}
    b       __return_to_user

__fp_save:
    stp     q0, q1, [x0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    stp     q8, q9, [x0, #128]
    stp     q10, q11, [x0, #160]
    stp     q12, q13, [x0, #192]
    stp     q14, q15, [x0, #224]
    stp     q16, q17, [x0, #256]
    stp     q18, q19, [x0, #288]
    stp     q20, q21, [x0, #320]
    stp     q22, q23, [x0, #352]
    stp     q24, q25, [x0, #384]
    stp     q26, q27, [x0, #416]
    stp     q28, q29, [x0, #448]
    stp     q30, q31, [x0, #480]
    mrs     x1, fpsr
    mrs     x2, fpcr
    str     w1, [x0, #512]
    str     w2, [x0, #516]
    ret

__fp_load:
    ldp     q0, q1, [x0]
    ldp     q2, q3, [x0, #32]
    ldp     q4, q5, [x0, #64]
    ldp     q6, q7, [x0, #96]
    ldp     q8, q9, [x0, #128]
    ldp     q10, q11, [x0, #160]
    ldp     q12, q13, [x0, #192]
    ldp     q14, q15, [x0, #224]
    ldp     q16, q17, [x0, #256]
    ldp     q18, q19, [x0, #288]
    ldp     q20, q21, [x0, #320]
    ldp     q22, q23, [x0, #352]
    ldp     q24, q25, [x0, #384]
    ldp     q26, q27, [x0, #416]
    ldp     q28, q29, [x0, #448]
    ldp     q30, q31, [x0, #480]
    ldr     w1, [x0, #512]
    ldr     w2, [x0, #516]
    msr     fpsr, x1
    msr     fpcr, x2
    ret
    .popsection
    "#,
    started = sym thread_started,
);
