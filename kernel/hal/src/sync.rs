//! Spin locks. They live here because they mask preemption or interrupts.
//!
//! [`SpinLock`] switches preemption off, [`IrqLock`] interrupts as well: use the second for data that an interrupt
//! handler touches (run queues, wait queues, timers, the console). Nothing may sleep while it holds either; the sleeping
//! locks are in kcore. Each lock carries a [`Level`]; debug builds check that levels only rise along a chain of held
//! locks and panic with the chain (`lockdep:`), Linux's word for it. The list of levels and their reasons is kcore's.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu;

/// A place in the lock order: a lock may be taken only when every held lock has a smaller number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(pub u8, pub &'static str);

/// What both locks share: one byte that says "taken", and the level.
struct Raw {
    taken: AtomicBool,
    #[cfg(debug_assertions)]
    level: Level,
}

impl Raw {
    const fn new(level: Level) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = level;
        Self {
            taken: AtomicBool::new(false),
            #[cfg(debug_assertions)]
            level,
        }
    }

    #[inline(always)]
    fn acquire(&self) {
        #[cfg(debug_assertions)]
        order::check_and_push(self.level);
        while self.taken.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.taken.load(Ordering::Relaxed) {
                if unwinding() {
                    return;
                }
                cpu::relax();
            }
        }
    }

    #[inline(always)]
    fn try_acquire(&self) -> bool {
        let won = self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        #[cfg(debug_assertions)]
        if won {
            // A try cannot deadlock, so the order is not checked, only remembered.
            order::push(self.level);
        }
        won
    }

    #[inline(always)]
    fn release(&self) {
        #[cfg(debug_assertions)]
        order::pop(self.level);
        self.taken.store(false, Ordering::Release);
    }
}

/// Whether a kernel panic is unwinding this stack, which happens on the hosted machine only. Its destructors take locks
/// whose holders never run again and meet a lock order that no longer means anything; a second panic would end the test
/// process without saying why the first one happened.
#[inline(always)]
fn unwinding() -> bool {
    #[cfg(not(target_os = "none"))]
    {
        std::thread::panicking()
    }
    #[cfg(target_os = "none")]
    {
        false
    }
}

/// A lock that keeps its holder on its CPU (preemption off).
pub struct SpinLock<T: ?Sized> {
    raw: Raw,
    data: UnsafeCell<T>,
}

/// A lock that also masks interrupts on its holder's CPU.
pub struct IrqLock<T: ?Sized> {
    raw: Raw,
    data: UnsafeCell<T>,
}

// SAFETY: the data is reached only through a guard, and `Raw` lets one guard exist at a time.
unsafe impl<T: ?Sized + Send> Sync for SpinLock<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for IrqLock<T> {}

impl<T> SpinLock<T> {
    /// A free lock at `level` around `value`.
    pub const fn new(level: Level, value: T) -> Self {
        Self { raw: Raw::new(level), data: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Takes the lock, spinning while another CPU has it.
    #[inline(always)]
    #[track_caller]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        cpu::preempt_disable();
        self.raw.acquire();
        SpinGuard { lock: self, _not_send: core::marker::PhantomData }
    }

    /// Takes the lock if it is free.
    #[track_caller]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        cpu::preempt_disable();
        if self.raw.try_acquire() {
            return Some(SpinGuard { lock: self, _not_send: core::marker::PhantomData });
        }
        cpu::preempt_enable();
        None
    }

    /// The data without locking: nobody else can hold a `&mut`.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T> IrqLock<T> {
    /// A free lock at `level` around `value`.
    pub const fn new(level: Level, value: T) -> Self {
        Self { raw: Raw::new(level), data: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> IrqLock<T> {
    /// Masks interrupts and takes the lock.
    #[inline(always)]
    #[track_caller]
    pub fn lock(&self) -> IrqGuard<'_, T> {
        cpu::preempt_disable();
        let saved = cpu::irq_save();
        self.raw.acquire();
        IrqGuard { lock: self, saved, _not_send: core::marker::PhantomData }
    }

    /// Takes the lock if it is free.
    #[track_caller]
    pub fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        cpu::preempt_disable();
        let saved = cpu::irq_save();
        if self.raw.try_acquire() {
            return Some(IrqGuard { lock: self, saved, _not_send: core::marker::PhantomData });
        }
        cpu::irq_restore(saved);
        cpu::preempt_enable();
        None
    }

    /// Takes over a lock that the thread before the last switch took on this CPU and left to its successor (the run-queue
    /// lock in a context switch, Linux's `finish_lock_switch`). Dropping the guard opens the lock, restores the interrupt
    /// mask `saved` and lowers the preempt count by one.
    ///
    /// The caller must own the hand-over: the guard was given to [`IrqGuard::leave_locked`] and nobody adopted it since.
    #[inline(always)]
    pub fn adopt_after_handover(&self, saved: usize) -> IrqGuard<'_, T> {
        debug_assert!(self.raw.taken.load(Ordering::Relaxed), "hand-over of a lock that is not taken");
        IrqGuard { lock: self, saved, _not_send: core::marker::PhantomData }
    }
}

impl<T> cpu::PerCpu<IrqLock<T>> {
    /// Locks this CPU's value; the holder stays on the CPU, whose number comes with it.
    #[inline(always)]
    #[track_caller]
    pub fn lock_this(&self) -> (usize, IrqGuard<'_, T>) {
        cpu::preempt_disable();
        let saved = cpu::irq_save();
        let id = cpu::id();
        let lock = self.of(id);
        lock.raw.acquire();
        (id, IrqGuard { lock, saved, _not_send: core::marker::PhantomData })
    }
}

/// Holds a [`SpinLock`].
pub struct SpinGuard<'a, T: ?Sized> {
    lock: &'a SpinLock<T>,
    // A guard belongs to the CPU that made it.
    _not_send: core::marker::PhantomData<*const ()>,
}

/// Holds an [`IrqLock`].
pub struct IrqGuard<'a, T: ?Sized> {
    lock: &'a IrqLock<T>,
    saved: usize,
    _not_send: core::marker::PhantomData<*const ()>,
}

impl<T: ?Sized> IrqGuard<'_, T> {
    /// Ends the borrow but leaves the lock taken, interrupts masked and preemption off, for the thread that is switched
    /// to. Returns the interrupt mask to restore when this thread runs again.
    pub fn leave_locked(self) -> usize {
        let saved = self.saved;
        core::mem::forget(self);
        saved
    }
}

impl<T: ?Sized> Deref for SpinGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the guard proves that the lock is held, so no `&mut` exists elsewhere.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized> DerefMut for SpinGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard is the only one, and it is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T: ?Sized> Drop for SpinGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.raw.release();
        cpu::preempt_enable();
    }
}

impl<T: ?Sized> Deref for IrqGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: as for `SpinGuard`.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized> DerefMut for IrqGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `SpinGuard`.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T: ?Sized> Drop for IrqGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.raw.release();
        cpu::leave_irq_section(self.saved);
    }
}

/// The order check of debug builds: the levels that each CPU holds, oldest first.
///
/// Holding a spin lock pins the holder to its CPU, so a list per CPU is a list per holder. A run-queue lock handed over
/// in a switch stays on the list of the same CPU and is popped there by the successor.
#[cfg(debug_assertions)]
mod order {
    use super::Level;
    use crate::cpu::{self, PerCpu};
    use core::cell::UnsafeCell;

    const DEPTH: usize = 16;

    struct Held(UnsafeCell<([Option<Level>; DEPTH], usize)>);

    // SAFETY: each element is touched only by its own CPU with interrupts masked (`with_held`).
    unsafe impl Sync for Held {}

    crate::global! {
        static HELD: PerCpu<Held> = PerCpu::new(
            [const { Held(UnsafeCell::new(([None; DEPTH], 0))) }; crate::MAX_CPUS],
        );
    }

    fn with_held<R>(f: impl FnOnce(&mut ([Option<Level>; DEPTH], usize)) -> R) -> R {
        let saved = cpu::irq_save();
        // SAFETY: interrupts are masked and preemption is off in every caller, so this CPU's list has one user.
        let result = f(unsafe { &mut *HELD.this().0.get() });
        cpu::irq_restore(saved);
        result
    }

    /// No more checks: a report is being made.
    #[cfg(target_os = "none")]
    static OFF: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);

    fn is_off() -> bool {
        #[cfg(target_os = "none")]
        {
            OFF.load(core::sync::atomic::Ordering::Relaxed)
        }
        #[cfg(not(target_os = "none"))]
        {
            super::unwinding()
        }
    }

    pub(super) fn check_and_push(level: Level) {
        let broken = with_held(|(held, len)| {
            let worst = held[..*len].iter().flatten().max_by_key(|l| l.0).copied();
            worst.filter(|w| w.0 >= level.0).map(|w| (w, *held, *len))
        });
        if let Some((worst, held, len)) = broken.filter(|_| !is_off()) {
            #[cfg(target_os = "none")]
            OFF.store(true, core::sync::atomic::Ordering::Relaxed);
            panic!("lockdep: {} taken while holding {}; held: {:?}", level.1, worst.1, &held[..len]);
        }
        push(level);
    }

    pub(super) fn push(level: Level) {
        if is_off() {
            return;
        }
        with_held(|(held, len)| {
            assert!(*len < DEPTH, "lockdep: more than {DEPTH} locks held");
            held[*len] = Some(level);
            *len += 1;
        });
    }

    pub(super) fn pop(level: Level) {
        if is_off() {
            return;
        }
        with_held(|(held, len)| {
            let at = held[..*len].iter().rposition(|l| *l == Some(level)).expect("lockdep: released a lock not held");
            held.copy_within(at + 1..*len, at);
            *len -= 1;
        });
    }
}

/// How many spin locks this CPU holds, for "may I sleep here?" checks. Always 0 in release builds.
pub fn held_locks() -> usize {
    #[cfg(debug_assertions)]
    {
        cpu::preempt_count() as usize
    }
    #[cfg(not(debug_assertions))]
    {
        0
    }
}
