//! Waiting: FUTEX_WAIT and FUTEX_WAIT_BITSET.

use core::sync::atomic::Ordering;

use abi::Errno;

use super::queue::Kind;
use super::{Access, NOWHERE, Sleeper, TABLE, Waiter, Word, index_of, load, load_locked, rank_of};
use crate::Result;
use crate::signal::RestartBlock;
use crate::sync::sleep_while;
use crate::task::{Task, TaskState, current};

/// What a waiter asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The word.
    pub word: Word,
    /// The value that it must have: else `EAGAIN`.
    pub value: u32,
    /// A wake-up must have one of these bits.
    pub bitset: u32,
}

/// Sleeps until somebody wakes us, provided the word has the value expected (Linux `futex_wait`).
pub fn wait(expected: Expected, deadline_ns: Option<u64>) -> Result<usize> {
    if expected.bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let task = current();
    enqueue(expected, Kind::WakeUp, Sleeper { task: task.arc(), place: None })?;
    let asleep = || task.futex.note.load(Ordering::SeqCst) != NOWHERE;
    let outcome = sleep_while(TaskState::Interruptible, deadline_ns.unwrap_or(u64::MAX), asleep);
    if outcome.is_ok() || !leave(&task) {
        // Woken, whatever else came at the same time.
        return Ok(0);
    }
    match (outcome, deadline_ns) {
        (Err(Errno::ETIMEDOUT), _) => Err(Errno::ETIMEDOUT),
        (_, None) => Err(Errno::ERESTARTSYS),
        // Any timeout is noted as a time of day by now: after a stop the wait goes on until then. A handler ends it, whatever
        // SA_RESTART says.
        (_, Some(deadline_ns)) => {
            *task.restart.lock() = RestartBlock::Futex { expected, deadline_ns };
            Err(Errno::ERESTART_RESTARTBLOCK)
        }
    }
}

/// Puts a sleeper into the bucket of its word and notes that, provided the word has the value expected (Linux
/// `futex_wait_setup`).
pub(super) fn enqueue(expected: Expected, kind: Kind, sleeper: Sleeper) -> Result<()> {
    let Expected { word, value, bitset } = expected;
    loop {
        // After a fault, too: a shared word may be another one by then.
        let key = word.key(Access::Read)?;
        let index = index_of(&key);
        let bucket = &TABLE[index];
        bucket.add_waiters(1);
        let mut queue = bucket.queue.lock();
        let found = load_locked(word.address);
        if found == Some(value) && kind == Kind::RequeuePi(key) {
            drop(queue);
            bucket.forget_waiters(1);
            // To be moved to where it is. Two addresses can be one futex.
            return Err(Errno::EINVAL);
        }
        if found == Some(value) {
            sleeper.note().store(index as u32 + 1, Ordering::SeqCst);
            queue.insert(Waiter { key, bitset, rank: rank_of(&sleeper.task), kind, sleeper });
            return Ok(());
        }
        drop(queue);
        bucket.forget_waiters(1);
        if found.is_some() {
            return Err(Errno::EAGAIN);
        }
        load(word.address)?;
    }
}

/// Takes the current task's entry out. False when a waker had done so.
fn leave(task: &Task) -> bool {
    remove(&task.futex.note, |sleeper| core::ptr::eq(&*sleeper.task, task))
}

/// Takes the entry out whose note this is. False when a waker had done so (Linux `futex_unqueue`).
pub(super) fn remove(note: &core::sync::atomic::AtomicU32, is_it: impl Fn(&Sleeper) -> bool) -> bool {
    loop {
        let noted = note.load(Ordering::SeqCst);
        if noted == NOWHERE {
            return false;
        }
        let bucket = &TABLE[(noted - 1) as usize];
        let mut queue = bucket.queue.lock();
        // A requeue may have moved it between the look at the note and the lock.
        if note.load(Ordering::SeqCst) != noted {
            continue;
        }
        let gone = queue.remove(|waiter| is_it(&waiter.sleeper));
        note.store(NOWHERE, Ordering::SeqCst);
        bucket.forget_waiters(usize::from(gone.is_some()));
        drop(queue);
        debug_assert!(gone.is_some(), "a note names the bucket that its waiter is in");
        drop(gone);
        return true;
    }
}
