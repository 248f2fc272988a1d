//! Fields that a thread reads of its own without a lock.
//!
//! An [`OwnerCell`] is a field of what embeds a [`crate::thread::Thread`] (kcore's task). The thread itself alone replaces
//! the value, so it may look at it as it likes ([`Current::borrow`]); everybody else looks under the cell's lock, which a
//! replacement takes ([`OwnerCell::lock`]). A system call thus reads its task's descriptor table, credentials or root
//! without a lock and without counting a reference, as Linux's `current->files` does.
//!
//! What keeps a borrowed value alive is a count of borrows that only the thread touches: replacing while one lives is a bug
//! and panics.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::sync::{IrqGuard, IrqLock, Level};
use crate::thread::Current;

/// A value that one thread replaces and others may look at.
pub struct OwnerCell<T> {
    /// Held by those who look from outside, and by the thread while it replaces the value. It masks interrupts, so that
    /// no handler looks at a value that the thread it interrupted is about to replace.
    lock: IrqLock<()>,
    /// Borrows that the thread holds. Written by it alone, so plain loads and stores do.
    borrows: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is shared between threads as `&T` (Sync) and moved out by the one that replaces it (Send); `&mut T`
// exists only in `replace`, which excludes everybody else.
unsafe impl<T: Send + Sync> Sync for OwnerCell<T> {}

impl<T> OwnerCell<T> {
    /// A cell whose lock is at `level`.
    pub const fn new(level: Level, value: T) -> Self {
        Self { lock: IrqLock::new(level, ()), borrows: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// A look at the value from any thread.
    pub fn lock(&self) -> Look<'_, T> {
        Look { _guard: self.lock.lock(), cell: self }
    }
}

/// The value as others see it.
pub struct Look<'a, T> {
    _guard: IrqGuard<'a, ()>,
    cell: &'a OwnerCell<T>,
}

impl<T> Deref for Look<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held, so the value is not being replaced.
        unsafe { &*self.cell.value.get() }
    }
}

/// A value, or a part of one, that the current thread borrows from its own cell. It cannot leave the thread.
pub struct Borrowed<T: ?Sized> {
    value: NonNull<T>,
    borrows: NonNull<AtomicU32>,
    _not_send: PhantomData<*const ()>,
}

/// Counts one more borrow. Only the thread itself writes the count.
#[inline(always)]
fn count(borrows: NonNull<AtomicU32>, change: u32) {
    // SAFETY: the cell is a field of the current thread's owner, which outlives its running (`Thread::bind`).
    let borrows = unsafe { borrows.as_ref() };
    borrows.store(borrows.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
}

impl<T: ?Sized> Borrowed<T> {
    /// Goes on to a part of the value.
    #[inline(always)]
    pub fn map<U: ?Sized>(self, part: impl FnOnce(&T) -> &U) -> Borrowed<U> {
        let value = NonNull::from(part(&*self));
        let borrows = self.borrows;
        core::mem::forget(self);
        Borrowed { value, borrows, _not_send: PhantomData }
    }
}

impl<T: ?Sized> Clone for Borrowed<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        count(self.borrows, 1);
        Self { value: self.value, borrows: self.borrows, _not_send: PhantomData }
    }
}

impl<T: ?Sized> Deref for Borrowed<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the borrow is counted, so `replace` panics before it would change or drop what this points into; the
        // cell itself lives as long as the thread runs.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> Drop for Borrowed<T> {
    #[inline(always)]
    fn drop(&mut self) {
        count(self.borrows, u32::MAX);
    }
}

impl<O: Send + Sync + 'static> Current<O> {
    /// The cell that `field` names, which must lie in the current thread's own object: another thread's would be changed
    /// under our eyes. The check is for the compiler; it knows where a field lies.
    #[inline(always)]
    fn own<T>(&self, field: impl FnOnce(&O) -> &OwnerCell<T>) -> &OwnerCell<T> {
        let owner: &O = self;
        let cell = field(owner);
        let offset = core::ptr::from_ref(cell).addr().wrapping_sub(core::ptr::from_ref(owner).addr());
        assert!(offset < size_of::<O>(), "a field of another object");
        cell
    }

    /// Borrows a field of the current thread's own.
    #[inline(always)]
    pub fn borrow<T>(&self, field: impl FnOnce(&O) -> &OwnerCell<T>) -> Borrowed<T> {
        let cell = self.own(field);
        let borrows = NonNull::from(&cell.borrows);
        count(borrows, 1);
        // An UnsafeCell lies where its value lies.
        Borrowed { value: NonNull::from(&cell.value).cast(), borrows, _not_send: PhantomData }
    }

    /// Replaces a field of the current thread's own. Returns the old value, to be dropped or kept.
    pub fn replace<T: Send + Sync>(&self, field: impl FnOnce(&O) -> &OwnerCell<T>, value: T) -> T {
        let cell = self.own(field);
        let _guard = cell.lock.lock();
        assert!(cell.borrows.load(Ordering::Relaxed) == 0, "a field is replaced while its owner looks at it");
        // SAFETY: no borrow of this thread lives, those who look from outside wait for the lock, and a handler that
        // interrupts this thread cannot come while the lock is held.
        core::mem::replace(unsafe { &mut *cell.value.get() }, value)
    }
}
