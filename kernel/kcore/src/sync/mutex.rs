//! A sleeping mutual-exclusion lock.
//!
//! The exclusion itself is `spin::Mutex` used by `try_lock` alone; a task that does not get it sleeps uninterruptibly on
//! the wait queue instead of spinning. No order is checked among sleeping locks; that none is taken under a spin lock is
//! (`sched::schedule` refuses to sleep in atomic context).

use core::ops::{Deref, DerefMut};

use super::WaitQueue;
use crate::task::TaskState;

/// A lock whose holder may sleep.
pub struct Mutex<T> {
    inner: spin::Mutex<T>,
    waiters: WaitQueue,
}

/// Holds a [`Mutex`].
pub struct MutexGuard<'a, T> {
    // Taken out first in `drop`, so that a woken waiter finds the lock free.
    inner: Option<spin::mutex::MutexGuard<'a, T>>,
    waiters: &'a WaitQueue,
}

impl<T> Mutex<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { inner: spin::Mutex::new(value), waiters: WaitQueue::new() }
    }

    /// Takes the lock, sleeping while another task has it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if let Some(guard) = self.try_lock() {
            return guard;
        }
        let mut got = None;
        let outcome = self.waiters.wait_event_exclusive(TaskState::Uninterruptible, || {
            got = self.inner.try_lock();
            got.is_some()
        });
        debug_assert!(outcome.is_ok(), "an uninterruptible sleep ends only with its condition");
        MutexGuard { inner: got, waiters: &self.waiters }
    }

    /// Takes the lock if it is free.
    #[inline(always)]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.inner.try_lock().map(|guard| MutexGuard { inner: Some(guard), waiters: &self.waiters })
    }

    /// The value without locking: nobody else can hold a `&mut`.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("held until dropped")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("held until dropped")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.inner = None;
        if !self.waiters.is_idle() {
            self.waiters.wake_one();
        }
    }
}
