//! Condition variables over PI futexes: FUTEX_WAIT_REQUEUE_PI waits for the condition, FUTEX_CMP_REQUEUE_PI moves its waiters
//! to the lock, so that they do not all wake to wait for it (futex(2); Linux `Documentation/locking/futex-requeue-pi.rst`).
//! The two are a pair: neither goes with another command.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::futex::FUTEX_WAITERS;
use hal::trap::Access;

use super::pi::{self, Claim, Claimant, Trouble};
use super::queue::Kind;
use super::wait::{Expected, enqueue};
use super::{NOWHERE, Pair, Sleeper, TABLE, Taken, Word, index_of, load, load_locked, wake_all};
use crate::Result;
use crate::task::{Task, current};

/// FUTEX_WAIT_REQUEUE_PI: sleeps until the PI futex `lock` is the caller's.
pub fn wait_requeue_pi(expected: Expected, deadline_ns: Option<u64>, lock: Word) -> Result<usize> {
    if expected.word.address == lock.address || expected.bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let target = lock.key(Access::Write)?;
    let task = current();
    enqueue(expected, Kind::RequeuePi(target), Sleeper { task: task.arc(), place: None })?;
    match pi::wait_for_lock(&task, lock, deadline_ns) {
        Ok(()) => Ok(0),
        // Still at the condition: the call can be made again. Already at the lock it cannot: the condition's word is
        // another one by now, and that is what is reported.
        Err((Errno::ERESTARTSYS, Kind::RequeuePi(_))) => Err(Errno::ERESTARTNOINTR),
        Err((Errno::ERESTARTSYS, _)) => Err(Errno::EAGAIN),
        Err((error, _)) => Err(error),
    }
}

/// FUTEX_CMP_REQUEUE_PI: gives the PI futex `to`, if it is free, to the first waiter of `from` and puts up to `move_limit` others
/// in line for it, provided `from` has the value `expected`. Returns how many it got or waits for by now.
pub fn cmp_requeue_pi(from: Word, to: Word, wake_limit: u32, move_limit: u32, expected: u32) -> Result<usize> {
    if wake_limit.cast_signed() < 0 || move_limit.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    // One lock has one owner.
    if from.address == to.address || wake_limit != 1 {
        return Err(Errno::EINVAL);
    }
    loop {
        match attempt(from, to, move_limit, expected) {
            Ok(Attempted::Done(taken, outcome)) => {
                wake_all(taken);
                return outcome;
            }
            Ok(Attempted::ConditionFault) => drop(load(from.address)?),
            Err(trouble) => pi::after(trouble, to)?,
        }
    }
}

enum Attempted {
    /// Who has the lock now, and what to return.
    Done(Taken, Result<usize>),
    /// The condition's word is not in memory.
    ConditionFault,
}

fn attempt(from: Word, to: Word, move_limit: u32, expected: u32) -> Result<Attempted, Trouble> {
    let failed = |error| Err(Trouble::Failed(error));
    let from_key = from.key(Access::Read).map_err(Trouble::Failed)?;
    let to_key = to.key(Access::Write).map_err(Trouble::Failed)?;
    if from_key == to_key {
        return failed(Errno::EINVAL);
    }
    let mut left = Vec::new();
    let (from_index, to_index) = (index_of(&from_key), index_of(&to_key));
    let mut pair = Pair::lock(from_index, to_index);
    match load_locked(from.address) {
        None => return Ok(Attempted::ConditionFault),
        Some(found) if found != expected => return failed(Errno::EAGAIN),
        Some(_) => {}
    }
    let mut graph = pi::lock_graph(&mut left);
    let Some(first) = pair.first().first(&from_key) else { return Ok(Attempted::Done(Taken::default(), Ok(0))) };
    if first.kind != Kind::RequeuePi(to_key) {
        return failed(Errno::EINVAL);
    }
    let candidate = first.sleeper.task.clone();
    let mark = if move_limit > 0 { FUTEX_WAITERS } else { 0 };
    let claimant = Claimant { task: &candidate, number: pi::number_of(&candidate), mark };
    let mut taken = Taken::default();
    let owner = match pi::claim(pair.second(), &mut graph, to, &to_key, &claimant)? {
        Claim::OwnedBy(owner) => owner,
        Claim::Acquired => {
            if let Some(waiter) = pair.first().remove(|waiter| is_of(&waiter.sleeper, &candidate)) {
                waiter.sleeper.note().store(NOWHERE, Ordering::SeqCst);
                taken.push(waiter);
            }
            TABLE[from_index].forget_waiters(1);
            candidate.clone()
        }
    };
    let limit = move_limit as usize + 1 - taken.len();
    let mut moved = 0;
    let mut outcome = Ok(());
    while moved < limit {
        let Some(next) = pair.first().first(&from_key) else { break };
        if next.kind != Kind::RequeuePi(to_key) {
            outcome = Err(Errno::EINVAL);
            break;
        }
        let task = next.sleeper.task.clone();
        // Who would wait for itself stays where it is.
        outcome = graph.wait(to_key, pi::member(&owner), pi::member(&task), &mut pi::lend);
        if outcome.is_err() {
            break;
        }
        task.futex.in_graph.store(true, Ordering::SeqCst);
        if let Some(mut waiter) = pair.first().remove(|waiter| is_of(&waiter.sleeper, &task)) {
            waiter.key = to_key;
            waiter.kind = Kind::Lock;
            waiter.sleeper.note().store(to_index as u32 + 1, Ordering::SeqCst);
            pair.second().insert(waiter);
        }
        TABLE[to_index].add_waiters(1);
        TABLE[from_index].forget_waiters(1);
        moved += 1;
    }
    let count = taken.len() + moved;
    graph.discard(owner);
    Ok(Attempted::Done(taken, outcome.map(|()| count)))
}

fn is_of(sleeper: &Sleeper, task: &Arc<Task>) -> bool {
    Arc::ptr_eq(&sleeper.task, task)
}
