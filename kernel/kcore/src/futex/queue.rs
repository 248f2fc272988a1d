//! A bucket's queue as plain data: who waits for what, in which order. No locks and no tasks, so that tests and models of
//! the table run it by itself.

use alloc::vec::Vec;

use abi::Errno;

use super::key::Key;
use crate::Result;

/// What a waiter waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A wake-up (FUTEX_WAIT and its like).
    WakeUp,
    /// To be moved to the PI futex with this key (FUTEX_WAIT_REQUEUE_PI).
    RequeuePi(Key),
    /// The PI futex itself (FUTEX_LOCK_PI). It waits in the lock, too, which decides the order.
    Lock,
    /// Nothing any more: it got the PI futex from an owner that died, and is about to write that into the word.
    Heir,
}

/// A place in a queue.
#[derive(Debug)]
pub struct Waiter<T> {
    /// Of what it waits for.
    pub key: Key,
    /// A wake-up must have one of these bits.
    pub bitset: u32,
    /// Smaller is woken first (Linux's plist by `normal_prio`).
    pub rank: u32,
    /// For what.
    pub kind: Kind,
    /// Who.
    pub sleeper: T,
}

/// The waiters of one bucket, in the order in which they are woken: by rank, then as they came.
#[derive(Debug)]
pub struct Queue<T> {
    waiters: Vec<Waiter<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Queue<T> {
    /// Nobody.
    pub const fn new() -> Self {
        Self { waiters: Vec::new() }
    }

    /// Adds a waiter behind those of its rank.
    pub fn insert(&mut self, waiter: Waiter<T>) {
        match self.waiters.iter().rposition(|other| other.rank <= waiter.rank) {
            Some(at) if at + 1 < self.waiters.len() => self.waiters.insert(at + 1, waiter),
            None if !self.waiters.is_empty() => self.waiters.insert(0, waiter),
            _ => self.waiters.push(waiter),
        }
    }

    /// Who waits longest for `key` (Linux `futex_top_waiter`).
    pub fn first(&self, key: &Key) -> Option<&Waiter<T>> {
        self.waiters.iter().find(|waiter| waiter.key == *key)
    }

    /// The first waiter that `is_it` knows.
    pub fn find(&self, mut is_it: impl FnMut(&Waiter<T>) -> bool) -> Option<&Waiter<T>> {
        self.waiters.iter().find(|waiter| is_it(waiter))
    }

    /// The same, to be changed. Key and rank stay.
    pub fn find_mut(&mut self, mut is_it: impl FnMut(&Waiter<T>) -> bool) -> Option<&mut Waiter<T>> {
        self.waiters.iter_mut().find(|waiter| is_it(waiter))
    }

    /// Takes the first waiter out that `is_it` knows.
    pub fn remove(&mut self, mut is_it: impl FnMut(&Waiter<T>) -> bool) -> Option<Waiter<T>> {
        self.waiters.iter().position(&mut is_it).map(|at| self.waiters.remove(at))
    }

    /// Moves up to `limit` waiters of `key` with a bit of `bitset` to `taken`, in their order. One that waits for a PI futex
    /// ends the search with `EINVAL`; those before it are taken all the same (Linux `futex_wake`, `futex_requeue`).
    pub fn take(&mut self, key: &Key, limit: u32, bitset: u32, taken: &mut Taken<T>) -> Result<()> {
        let mut outcome = Ok(());
        if limit == 0 {
            return outcome;
        }
        let wanted = self.waiters.extract_if(.., |waiter| {
            if outcome.is_err() || waiter.key != *key {
                return false;
            }
            if waiter.kind != Kind::WakeUp {
                outcome = Err(Errno::EINVAL);
                return false;
            }
            waiter.bitset & bitset != 0
        });
        for waiter in wanted.take(usize::try_from(limit).unwrap_or(usize::MAX)) {
            taken.push(waiter);
        }
        outcome
    }
}

/// Waiters taken out of a queue, in their order. One costs no memory.
#[derive(Debug)]
pub struct Taken<T> {
    first: Option<Waiter<T>>,
    more: Vec<Waiter<T>>,
}

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Self { first: None, more: Vec::new() }
    }
}

impl<T> Taken<T> {
    /// How many.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// Whether nobody was taken.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Adds one at the end.
    pub fn push(&mut self, waiter: Waiter<T>) {
        if self.first.is_none() {
            self.first = Some(waiter);
        } else {
            self.more.push(waiter);
        }
    }

    /// Looks at them.
    pub fn iter(&self) -> impl Iterator<Item = &Waiter<T>> {
        self.first.iter().chain(&self.more)
    }
}

impl<T> IntoIterator for Taken<T> {
    type Item = Waiter<T>;
    type IntoIter = core::iter::Chain<core::option::IntoIter<Waiter<T>>, alloc::vec::IntoIter<Waiter<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Key = Key::Private(1, 0x1000);
    const THERE: Key = Key::Private(1, 0x2000);

    fn waiter(key: Key, rank: u32, sleeper: u32) -> Waiter<u32> {
        Waiter { key, bitset: u32::MAX, rank, kind: Kind::WakeUp, sleeper }
    }

    fn take(queue: &mut Queue<u32>, key: &Key, limit: u32, bitset: u32) -> (Vec<u32>, Result<()>) {
        let mut taken = Taken::default();
        let outcome = queue.take(key, limit, bitset, &mut taken);
        (taken.into_iter().map(|waiter| waiter.sleeper).collect(), outcome)
    }

    #[test]
    fn waiters_are_taken_by_rank_and_then_as_they_came() {
        let mut queue = Queue::new();
        for (rank, sleeper) in [(100, 1), (100, 2), (40, 3), (100, 4), (40, 5), (10, 6), (70, 7)] {
            queue.insert(waiter(HERE, rank, sleeper));
        }
        assert_eq!(queue.first(&HERE).map(|w| w.sleeper), Some(6));
        assert_eq!(take(&mut queue, &HERE, 3, 1), (vec![6, 3, 5], Ok(())));
        assert_eq!(take(&mut queue, &HERE, u32::MAX, 1), (vec![7, 1, 2, 4], Ok(())));
        assert_eq!(take(&mut queue, &HERE, 1, 1), (vec![], Ok(())));
    }

    #[test]
    fn only_the_key_and_a_common_bit_count() {
        let mut queue = Queue::new();
        queue.insert(waiter(THERE, 100, 1));
        queue.insert(Waiter { bitset: 2, ..waiter(HERE, 100, 2) });
        queue.insert(Waiter { bitset: 4, ..waiter(HERE, 100, 3) });
        assert_eq!(take(&mut queue, &HERE, 9, 1), (vec![], Ok(())));
        assert_eq!(take(&mut queue, &HERE, 9, 4), (vec![3], Ok(())));
        assert_eq!(take(&mut queue, &HERE, 0, 2), (vec![], Ok(())));
        assert_eq!(take(&mut queue, &THERE, 9, 2), (vec![1], Ok(())));
    }

    #[test]
    fn a_waiter_of_a_pi_futex_ends_the_search() {
        let mut queue = Queue::new();
        queue.insert(waiter(HERE, 100, 1));
        queue.insert(Waiter { kind: Kind::Lock, ..waiter(HERE, 100, 2) });
        queue.insert(waiter(HERE, 100, 3));
        assert_eq!(take(&mut queue, &HERE, 1, 1), (vec![1], Ok(())));
        assert_eq!(take(&mut queue, &HERE, 9, 1), (vec![], Err(Errno::EINVAL)));
        assert_eq!(queue.remove(|w| w.kind == Kind::Lock).map(|w| w.sleeper), Some(2));
        assert_eq!(take(&mut queue, &HERE, 9, 1), (vec![3], Ok(())));
    }
}
