//! Execution contexts: a kernel stack, the registers saved on it, and the user registers above them.
//!
//! kcore's task embeds a [`Thread`]. There is always a current thread on each CPU; [`current`] finds its owner through one
//! register. A switch is a plain call that returns when somebody switches back.

use alloc::sync::Arc;
use core::any::TypeId;
use core::marker::PhantomData;
use core::ops::Deref;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::arch;
use crate::debug::DebugRegisters;
use crate::mem::OutOfMemory;
use crate::sync::IrqGuard;
use crate::trap::UserFrame;
use crate::uaccess::BadAddress;

/// Bits of [`Thread::work`]: reasons to call `return_to_user` (any bit) or `preempt` (RESCHED) on the way out.
pub mod work {
    /// Another thread should run here.
    pub const RESCHED: u32 = 1;
    /// A signal may be pending.
    pub const SIGNAL: u32 = 2;
    /// Deferred work of the task itself (task_work).
    pub const NOTIFY: u32 = 4;
    /// The end of the system call is to be reported.
    pub const SYSCALL_EXIT: u32 = 8;
    /// System calls of this thread are traced or audited: the call handler looks at it. Does not force `return_to_user`.
    pub const SYSCALL_TRACE: u32 = 1 << 8;
    /// This layer's own: single step is to be armed or disarmed on the way back to user code.
    pub(crate) const STEP: u32 = 1 << 9;
    /// The bits that force `return_to_user`.
    pub const RETURN_MASK: u32 = RESCHED | SIGNAL | NOTIFY | SYSCALL_EXIT;
}

/// What a new thread does first.
#[expect(clippy::large_enum_variant, reason = "lives only on its way to the new thread's stack")]
pub enum Start {
    /// Runs `entry(argument)` in the kernel; returning from it is a bug.
    Kernel {
        /// The function.
        entry: fn(usize),
        /// Its argument.
        argument: usize,
    },
    /// Goes to user code with these registers.
    User(UserFrame),
}

/// FP/SIMD registers of a user thread (Arm ARM B1.2.2): v0 to v31, FPSR, FPCR.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct FpState {
    /// v0 to v31.
    pub v: [u128; 32],
    /// Status.
    pub fpsr: u32,
    /// Control.
    pub fpcr: u32,
}

/// An execution context. Owned by kcore's task through an `Arc` ([`Thread::bind`]).
#[repr(C)]
pub struct Thread {
    pub(crate) arch: arch::ThreadContext,
    work: AtomicU32,
    owner: AtomicPtr<()>,
    owner_type: spin::Once<TypeId>,
}

impl Thread {
    /// A context with a fresh kernel stack that begins with `start` when first switched to.
    pub fn new(start: Start) -> Result<Self, OutOfMemory> {
        Ok(Self::from_arch(arch::ThreadContext::new(start)?))
    }

    /// The context of the boot flow of the current CPU, which becomes its idle thread. It has no stack of its own to free.
    pub fn for_boot_flow() -> Self {
        Self::from_arch(arch::ThreadContext::for_boot_flow())
    }

    /// Where [`Self::work`] lies, for the trap entry.
    #[cfg(target_os = "none")]
    pub(crate) const WORK_OFFSET: usize = core::mem::offset_of!(Thread, work);

    /// A context that nobody owns yet, for statics.
    pub(crate) const fn unowned(arch: arch::ThreadContext) -> Self {
        Self {
            arch,
            work: AtomicU32::new(0),
            owner: AtomicPtr::new(core::ptr::null_mut()),
            owner_type: spin::Once::new(),
        }
    }

    fn from_arch(arch: arch::ThreadContext) -> Self {
        Self::unowned(arch)
    }

    /// Records who owns this context. Once, before it runs; `owner` must be what embeds it and outlive its running.
    pub fn bind<T: Send + Sync + 'static>(&self, owner: &Arc<T>) {
        self.owner_type.call_once(TypeId::of::<T>);
        self.owner.store(Arc::as_ptr(owner).cast_mut().cast(), Ordering::Release);
    }

    /// The work bits ([`work`]), set by any CPU.
    #[inline(always)]
    pub fn work(&self) -> &AtomicU32 {
        &self.work
    }

    /// A copy of the user registers. For the current thread or one that is switched out.
    pub fn user_frame(&self) -> UserFrame {
        self.arch.user_frame()
    }

    /// Replaces the user registers of a thread that is switched out (ptrace) or current.
    pub fn set_user_frame(&self, frame: &UserFrame) {
        self.arch.set_user_frame(frame);
    }

    /// The user thread pointer, TPIDR_EL0. For the current thread or one that is switched out.
    pub fn tls(&self) -> u64 {
        self.arch.tls()
    }

    /// Sets TPIDR_EL0.
    pub fn set_tls(&self, value: u64) {
        self.arch.set_tls(value);
    }

    /// A copy of the FP/SIMD registers. For the current thread or one that is switched out.
    pub fn fp_state(&self) -> FpState {
        self.arch.fp_state()
    }

    /// Replaces the FP/SIMD registers.
    pub fn set_fp_state(&self, state: &FpState) {
        self.arch.set_fp_state(state);
    }

    /// Copies v0 to v31 of the current thread, which this is, to user address `to` (512 bytes). Returns FPSR and FPCR.
    pub fn fp_to_user(&self, to: u64) -> Result<(u32, u32), BadAddress> {
        self.arch.fp_to_user(to)
    }

    /// Takes v0 to v31 of the current thread, which this is, from user address `from` (512 bytes). After an error they are
    /// undefined.
    pub fn fp_from_user(&self, from: u64, fpsr: u32, fpcr: u32) -> Result<(), BadAddress> {
        self.arch.fp_from_user(from, fpsr, fpcr)
    }

    /// Steps the thread: an exception after one instruction of user code, until this is taken back. For the current thread or
    /// one that is switched out; taking it back is allowed at any time.
    pub fn set_single_step(&self, stepped: bool) {
        self.arch.set_single_step(stepped);
        if stepped {
            let mut frame = self.user_frame();
            frame.rewind_step();
            self.set_user_frame(&frame);
        }
        self.work.fetch_or(work::STEP, Ordering::SeqCst);
    }

    /// Calls `visit` with the return addresses on its kernel stack, innermost first, while it returns true: for a thread that is
    /// switched out. One that comes to run meanwhile gives addresses that do not belong together, and no harm.
    pub fn kernel_backtrace(&self, visit: &mut dyn FnMut(u64) -> bool) {
        self.arch.kernel_backtrace(visit);
    }

    /// Whether it is stepped.
    #[inline]
    pub fn is_single_stepped(&self) -> bool {
        self.arch.is_single_stepped()
    }

    /// A copy of its hardware breakpoints and watchpoints. For the current thread or one that is switched out.
    pub fn debug_registers(&self) -> DebugRegisters {
        self.arch.debug_registers()
    }

    /// Replaces them, for the current thread or one that is switched out.
    pub fn set_debug_registers(&self, registers: &DebugRegisters) -> Result<(), OutOfMemory> {
        self.arch.set_debug_registers(registers)
    }

    /// Makes this (new, never run) thread inherit the FP/SIMD registers of the current one, as fork does; free if the
    /// current thread never used them.
    pub fn inherit_fp_state(&self) {
        self.arch.inherit_fp_state();
    }

    /// Back to zeroed FP/SIMD registers, as exec does.
    pub fn reset_fp_state(&self) {
        self.arch.reset_fp_state();
    }
}

/// Switches the CPU from `previous`, the current thread, to `next`, and returns when `previous` is switched to again,
/// perhaps on another CPU. Interrupts masked; the run-queue lock is handed over. `next` must not be running anywhere.
pub fn switch(previous: &Thread, next: &Thread) {
    arch::switch(previous, next);
}

/// As [`switch`], between the threads of two owners that the run queue behind `guard` keeps: `pair` finds (previous, next)
/// in it. The queue stays locked for the thread that runs next, which takes it over with
/// [`crate::sync::IrqLock::adopt_after_handover`]. Returns, when `previous` runs again, the interrupt mask to give to that.
///
/// Nothing on this stack, which may never run again, holds a counted reference. The queue must keep both owners until
/// `previous` is off this CPU: nobody else opens the lock, and the second half of the switch lets go of `previous` alone.
#[inline(always)]
pub fn switch_locked<Q, T: 'static>(
    guard: IrqGuard<'_, Q>,
    pair: impl for<'q> FnOnce(&'q Q) -> (&'q Arc<T>, &'q Arc<T>),
    thread_of: fn(&T) -> &Thread,
) -> usize {
    let (previous, next) = pair(&guard);
    let (from, to) = (Arc::as_ptr(previous), Arc::as_ptr(next));
    let saved = guard.leave_locked();
    // SAFETY: the queue owns both and its lock stays taken, so neither is freed before the successor adopts the lock; by
    // then `from` is no longer used here, and when it runs again its own reference is what keeps it.
    unsafe { arch::switch(thread_of(&*from), thread_of(&*to)) };
    saved
}

/// Makes `owner`'s thread the current one of this CPU without a switch: the boot flow becomes the idle task. The caller's
/// own code may still take the former thread for the current one; what it calls next, out of the compiler's sight, does not.
#[inline(never)]
pub fn adopt_boot_flow<T: Send + Sync + 'static>(owner: &Arc<T>, thread: &Thread) {
    thread.bind(owner);
    arch::set_current(thread);
}

/// The owner of the current thread, borrowed for as long as this value lives. It cannot leave its thread.
pub struct Current<T: 'static> {
    owner: &'static T,
    _not_send: PhantomData<*const ()>,
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Current<T> {}

impl<T> Deref for Current<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        self.owner
    }
}

impl<T: Send + Sync + 'static> Current<T> {
    /// A counted reference to the owner.
    pub fn arc(&self) -> Arc<T> {
        let pointer: *const T = self.owner;
        // SAFETY: `bind` recorded `Arc::as_ptr` of a live Arc<T>, and the scheduler keeps one while the thread runs.
        unsafe {
            Arc::increment_strong_count(pointer);
            Arc::from_raw(pointer)
        }
    }
}

/// The owner of the current thread. `T` must be the type given to [`Thread::bind`]; debug builds check it.
/// Panics in debug builds when the boot flow was not adopted yet.
#[inline(always)]
pub fn current<T: Send + Sync + 'static>() -> Current<T> {
    let thread = arch::current();
    debug_assert_eq!(thread.owner_type.get().copied(), Some(TypeId::of::<T>()), "current() with another owner type");
    let owner = thread.owner.load(Ordering::Relaxed).cast_const().cast::<T>();
    // SAFETY: the owner embeds the thread and outlives its running (`bind`); T is the type given there. The kernel has
    // one owner type, which debug builds check above. `Current` is not Send, so the borrow stays on this thread.
    Current { owner: unsafe { &*owner }, _not_send: PhantomData }
}

/// The work bits of the current thread, without going through its owner.
#[inline(always)]
pub fn current_work() -> &'static AtomicU32 {
    &arch::current().work
}

/// Whether a current thread with an owner exists on this CPU yet (early boot has none).
pub fn has_current() -> bool {
    arch::has_current() && !arch::current().owner.load(Ordering::Relaxed).is_null()
}
