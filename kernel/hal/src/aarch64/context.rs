//! Threads: what a CPU saves of one while another runs, and the switch.

use alloc::boxed::Box;
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::kernel_map::KernelStack;
use super::trap;
use crate::mem::OutOfMemory;
use crate::thread::{FpState, Start, Thread};
use crate::trap::UserFrame;

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
    /// FP/SIMD registers while they are not in the CPU; none before first use.
    fp: UnsafeCell<Option<Box<FpState>>>,
    /// The registers are in the CPU that runs it (and EL0 may use them).
    fp_live: AtomicBool,
    stack: Option<KernelStack>,
}

// SAFETY: `fp` is touched by the thread itself with interrupts masked, or by others while it is switched out, which the
// callers of `fp_state` and its neighbours promise (door documentation); everything else is atomic.
unsafe impl Sync for ThreadContext {}
// SAFETY: nothing in it belongs to a CPU while it is switched out.
unsafe impl Send for ThreadContext {}

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
            fp: UnsafeCell::new(None),
            fp_live: AtomicBool::new(false),
            stack: None,
        }
    }

    pub fn for_boot_flow() -> Self {
        Self::empty()
    }

    pub fn new(start: Start) -> Result<Self, OutOfMemory> {
        let stack = KernelStack::new()?;
        let frame_at = stack.top() - size_of::<UserFrame>() as u64;
        let sp = frame_at - SWITCH_FRAME;
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
        // SAFETY: both places are on the fresh stack, which is mapped, aligned and ours alone.
        unsafe {
            (frame_at as *mut UserFrame).write(frame);
            (sp as *mut [u64; 12]).write(saved);
        }
        let context = Self { stack: Some(stack), ..Self::empty() };
        context.sp.store(sp, Ordering::Relaxed);
        Ok(context)
    }

    fn frame_pointer(&self) -> *mut UserFrame {
        let stack = self.stack.as_ref().expect("only threads with a stack have user registers");
        (stack.top() - size_of::<UserFrame>() as u64) as *mut UserFrame
    }

    pub fn user_frame(&self) -> UserFrame {
        // SAFETY: the top of a thread's stack always holds a frame (`new`, trap entry); the door's contract keeps a running
        // thread's frame from being read by others. Volatile: the entry code writes it behind the compiler's back.
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
        if self.is_current() { read_tls() } else { self.tls.load(Ordering::Relaxed) }
    }

    pub fn set_tls(&self, value: u64) {
        self.tls.store(value, Ordering::Relaxed);
        if self.is_current() {
            write_tls(value);
        }
    }

    /// Runs `f` on the saved registers, making sure they are saved. Interrupts masked meanwhile.
    fn with_fp<R>(&self, f: impl FnOnce(&mut Option<Box<FpState>>) -> R) -> R {
        let irq = super::irq_save();
        if self.is_current() {
            self.park_fp();
        }
        // SAFETY: current thread with interrupts masked, or a thread that is switched out (door contract).
        let result = f(unsafe { &mut *self.fp.get() });
        super::irq_restore(irq);
        result
    }

    pub fn fp_state(&self) -> FpState {
        self.with_fp(|fp| fp.as_deref().copied().unwrap_or_default())
    }

    pub fn set_fp_state(&self, state: &FpState) {
        // Allocate with interrupts on.
        let fresh = Box::new(*state);
        let old = self.with_fp(|fp| fp.replace(fresh));
        drop(old);
    }

    pub fn inherit_fp_state(&self) {
        let copy = current().arch.with_fp(|fp| fp.as_deref().copied()).map(Box::new);
        // SAFETY: this thread has never run.
        unsafe { *self.fp.get() = copy };
    }

    pub fn reset_fp_state(&self) {
        let old = self.with_fp(Option::take);
        drop(old);
    }

    /// Saves the registers of the current thread if they are in the CPU, and makes EL0 trap at the next use.
    fn park_fp(&self) {
        if self.fp_live.swap(false, Ordering::Relaxed) {
            // SAFETY: the thread is current with interrupts masked; `first_use` made the box.
            let state = unsafe { (*self.fp.get()).as_deref_mut() }.expect("live registers have a place");
            // SAFETY: the layout is the assembly's: 32 quadwords, then FPSR and FPCR.
            unsafe { __fp_save(state) };
            set_fp_access(false);
        }
    }

    /// EL0 used FP/SIMD for the first time since it was switched in: loads the registers.
    pub(super) fn first_use(&self) {
        // SAFETY: current thread; only it looks at its own state here.
        if unsafe { (*self.fp.get()).is_none() } {
            let fresh = Box::<FpState>::default();
            // SAFETY: as above.
            unsafe { *self.fp.get() = Some(fresh) };
        }
        let irq = super::irq_save();
        // SAFETY: as above; the load does not keep the reference.
        let state = unsafe { (*self.fp.get()).as_deref() }.expect("made above");
        set_fp_access(true);
        // SAFETY: as in `park_fp`.
        unsafe { __fp_load(state) };
        self.fp_live.store(true, Ordering::Relaxed);
        super::irq_restore(irq);
    }
}

fn read_tls() -> u64 {
    let value: u64;
    // SAFETY: reads a register that belongs to user code.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn write_tls(value: u64) {
    // SAFETY: writes a register that belongs to user code.
    unsafe { asm!("msr tpidr_el0, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// Lets EL0 use FP/SIMD, or makes it trap. EL1 may always (for the save and load below; the kernel is soft-float).
fn set_fp_access(user: bool) {
    let value: u64 = if user { 3 << 20 } else { 1 << 20 };
    // SAFETY: CPACR_EL1.FPEN only.
    unsafe { asm!("msr cpacr_el1, {}", "isb", in(reg) value, options(nostack, preserves_flags)) };
}

/// The threads of the boot flows, before the scheduler adopts them. One per CPU.
static BOOT_THREADS: [Thread; crate::MAX_CPUS] = [const { Thread::unowned(ThreadContext::empty()) }; crate::MAX_CPUS];

/// Makes the CPU's boot thread current.
///
/// # Safety
/// Once per CPU, before anything that looks at the current thread.
pub(super) unsafe fn install_boot_thread(cpu: usize) {
    let thread = &BOOT_THREADS[cpu];
    thread.arch.cpu.store(cpu as u32, Ordering::Relaxed);
    // SAFETY: TPIDR_EL1 is this layer's; the thread is static.
    unsafe { asm!("msr tpidr_el1, {}", in(reg) core::ptr::from_ref(thread), options(nostack, preserves_flags)) };
}

#[inline(always)]
pub fn current() -> &'static Thread {
    let thread: *const Thread;
    // SAFETY: TPIDR_EL1 holds the current thread from `install_boot_thread` on. The asm is not `pure`-marked across
    // switches: the value is per thread, and a thread always reads its own.
    unsafe {
        asm!("mrs {}, tpidr_el1", out(reg) thread, options(nomem, nostack, preserves_flags));
        &*thread
    }
}

pub fn has_current() -> bool {
    true
}

pub fn set_current(thread: &Thread) {
    let old = current();
    thread.arch.cpu.store(old.arch.cpu.load(Ordering::Relaxed), Ordering::Relaxed);
    thread.arch.preempt_count.store(old.arch.preempt_count.load(Ordering::Relaxed), Ordering::Relaxed);
    // SAFETY: the caller's thread outlives its running (door contract of `adopt_boot_flow`).
    unsafe { asm!("msr tpidr_el1, {}", in(reg) core::ptr::from_ref(thread), options(nostack, preserves_flags)) };
}

pub fn switch(previous: &Thread, next: &Thread) {
    let (from, to) = (&previous.arch, &next.arch);
    from.park_fp();
    from.tls.store(read_tls(), Ordering::Relaxed);
    write_tls(to.tls.load(Ordering::Relaxed));
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
    msr     daifclr, #2
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
