//! A sleeping readers-writer lock. Waiting writers hold new readers off, so neither side starves (Linux rwsem's rule).

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use super::WaitQueue;
use crate::task::TaskState;

/// A lock with many readers or one writer, whose holders may sleep. A reader must not take it again: a writer may wait
/// in between.
pub struct RwLock<T> {
    inner: spin::RwLock<T>,
    waiters: WaitQueue,
    writers_waiting: AtomicU32,
}

/// Holds a [`RwLock`] for reading.
pub struct ReadGuard<'a, T> {
    inner: Option<spin::rwlock::RwLockReadGuard<'a, T>>,
    waiters: &'a WaitQueue,
}

/// Holds a [`RwLock`] for writing.
pub struct WriteGuard<'a, T> {
    inner: Option<spin::rwlock::RwLockWriteGuard<'a, T>>,
    waiters: &'a WaitQueue,
}

impl<T> RwLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { inner: spin::RwLock::new(value), waiters: WaitQueue::new(), writers_waiting: AtomicU32::new(0) }
    }

    fn try_read(&self) -> Option<spin::rwlock::RwLockReadGuard<'_, T>> {
        if self.writers_waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.inner.try_read()
    }

    /// Takes the lock for reading.
    pub fn read(&self) -> ReadGuard<'_, T> {
        let mut got = self.try_read();
        if got.is_none() {
            let outcome = self.waiters.wait_event(TaskState::Uninterruptible, || {
                got = self.try_read();
                got.is_some()
            });
            debug_assert!(outcome.is_ok(), "an uninterruptible sleep ends only with its condition");
        }
        ReadGuard { inner: got, waiters: &self.waiters }
    }

    /// Takes the lock for writing.
    pub fn write(&self) -> WriteGuard<'_, T> {
        let mut got = self.inner.try_write();
        if got.is_none() {
            self.writers_waiting.fetch_add(1, Ordering::Relaxed);
            let outcome = self.waiters.wait_event(TaskState::Uninterruptible, || {
                got = self.inner.try_write();
                got.is_some()
            });
            self.writers_waiting.fetch_sub(1, Ordering::Relaxed);
            debug_assert!(outcome.is_ok(), "an uninterruptible sleep ends only with its condition");
        }
        WriteGuard { inner: got, waiters: &self.waiters }
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("held until dropped")
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("held until dropped")
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("held until dropped")
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.inner = None;
        self.waiters.wake_all();
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.inner = None;
        self.waiters.wake_all();
    }
}
