//! Moving waiters from one futex to another: FUTEX_REQUEUE, FUTEX_CMP_REQUEUE.

use core::sync::atomic::Ordering;

use abi::Errno;
use abi::futex::FUTEX_BITSET_MATCH_ANY;

use super::{Access, Pair, TABLE, Taken, Word, index_of, load, load_locked, wake_all};
use crate::Result;

/// Wakes `wake_limit` waiters of `from` and moves up to `move_limit` of the rest to `to`, provided `from` has the value
/// `expected`, if any (`EAGAIN`). Returns how many were woken or moved. The limits are C `int`s: `EINVAL` below zero.
pub fn requeue(from: Word, to: Word, wake_limit: u32, move_limit: u32, expected: Option<u32>) -> Result<usize> {
    if wake_limit.cast_signed() < 0 || move_limit.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    loop {
        let (from_key, to_key) = (from.key(Access::Read)?, to.key(Access::Read)?);
        let (from_index, to_index) = (index_of(&from_key), index_of(&to_key));
        let (bucket, target) = (&TABLE[from_index], &TABLE[to_index]);
        // Both locked: a wake-up of the second futex must not look while a waiter is in neither.
        let mut pair = Pair::lock(from_index, to_index);
        if let Some(expected) = expected {
            match load_locked(from.address) {
                Some(found) if found == expected => {}
                Some(_) => return Err(Errno::EAGAIN),
                None => {
                    drop(pair);
                    load(from.address)?;
                    continue;
                }
            }
        }
        let (mut woken, mut moved) = (Taken::default(), Taken::default());
        let mut outcome = Ok(());
        if wake_limit > 0 {
            outcome = bucket.take_to_wake(pair.first(), &from_key, wake_limit, FUTEX_BITSET_MATCH_ANY, &mut woken);
        }
        if outcome.is_ok() {
            outcome = pair.first().take(&from_key, move_limit, FUTEX_BITSET_MATCH_ANY, &mut moved);
        }
        let count = woken.len() + moved.len();
        target.add_waiters(moved.len());
        bucket.forget_waiters(moved.len());
        for mut waiter in moved {
            waiter.key = to_key;
            waiter.sleeper.note().store(to_index as u32 + 1, Ordering::SeqCst);
            pair.second().insert(waiter);
        }
        drop(pair);
        wake_all(woken);
        return outcome.map(|()| count);
    }
}
