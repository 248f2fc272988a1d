//! Threads that agree on memory: futex(2), futex_waitv(2), get_robust_list(2), membarrier(2), rseq(2). What they do is in
//! [`crate::futex`], [`crate::sync::membarrier`] and [`crate::task::rseq`].

use core::sync::atomic::Ordering;

use abi::Errno;
use abi::futex as f;
use abi::process::RobustListHead;
use abi::time::{CLOCK_MONOTONIC, CLOCK_REALTIME, Timespec};

use super::{Context, UserPtr};
use crate::Result;
use crate::futex::{self, Attempt, Expected, Scope, WaitEntry, Word};
use crate::task::access::{AccessMode, ptrace_may_access};
use crate::time;

/// The commands with a timeout for a fourth argument (Linux `futex_cmd_has_timeout`).
const HAVE_TIMEOUT: [u32; 5] =
    [f::FUTEX_WAIT, f::FUTEX_LOCK_PI, f::FUTEX_LOCK_PI2, f::FUTEX_WAIT_BITSET, f::FUTEX_WAIT_REQUEUE_PI];
/// The commands that FUTEX_CLOCK_REALTIME makes sense for: absolute timeouts whose clock it can choose.
const CHOOSE_CLOCK: [u32; 3] = [f::FUTEX_WAIT_BITSET, f::FUTEX_WAIT_REQUEUE_PI, f::FUTEX_LOCK_PI2];

/// futex(2).
pub fn futex(
    _cx: &mut Context<'_>,
    word: u64,
    operation: i32,
    value: u32,
    timeout: u64,
    word2: u64,
    value3: u32,
) -> Result<usize> {
    let operation = operation.cast_unsigned();
    let command = operation & f::FUTEX_CMD_MASK;
    let deadline = if HAVE_TIMEOUT.contains(&command) {
        let chosen = operation & f::FUTEX_CLOCK_REALTIME != 0;
        deadline_of(timeout, clock_of(command, chosen))?
    } else {
        None
    };
    if operation & f::FUTEX_CLOCK_REALTIME != 0 && !CHOOSE_CLOCK.contains(&command) {
        return Err(Errno::ENOSYS);
    }
    let scope = if operation & f::FUTEX_PRIVATE_FLAG != 0 { Scope::Private } else { Scope::Shared };
    let (word, word2) = (Word { address: word, scope }, Word { address: word2, scope });
    // Where no timeout goes, its register holds a number (`val2`).
    let value2 = timeout as u32;
    match command {
        f::FUTEX_WAIT => futex::wait(Expected { word, value, bitset: f::FUTEX_BITSET_MATCH_ANY }, deadline),
        f::FUTEX_WAIT_BITSET => futex::wait(Expected { word, value, bitset: value3 }, deadline),
        f::FUTEX_WAKE => futex::wake(word, value, f::FUTEX_BITSET_MATCH_ANY),
        f::FUTEX_WAKE_BITSET => futex::wake(word, value, value3),
        f::FUTEX_REQUEUE => futex::requeue(word, word2, value, value2, None),
        f::FUTEX_CMP_REQUEUE => futex::requeue(word, word2, value, value2, Some(value3)),
        f::FUTEX_WAKE_OP => futex::wake_op(word, word2, value, value2, value3),
        f::FUTEX_LOCK_PI | f::FUTEX_LOCK_PI2 => futex::lock_pi(word, deadline, Attempt::Wait),
        f::FUTEX_TRYLOCK_PI => futex::lock_pi(word, None, Attempt::Once),
        f::FUTEX_UNLOCK_PI => futex::unlock_pi(word),
        f::FUTEX_WAIT_REQUEUE_PI => {
            futex::wait_requeue_pi(Expected { word, value, bitset: f::FUTEX_BITSET_MATCH_ANY }, deadline, word2)
        }
        f::FUTEX_CMP_REQUEUE_PI => futex::cmp_requeue_pi(word, word2, value, value2, value3),
        _ => Err(Errno::ENOSYS),
    }
}

/// What a timeout counts from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Timeout {
    /// From now on.
    Relative,
    /// A time of CLOCK_MONOTONIC.
    Monotonic,
    /// A time of CLOCK_REALTIME.
    RealTime,
}

/// FUTEX_WAIT is the only relative one; FUTEX_LOCK_PI always meant CLOCK_REALTIME (futex(2)).
fn clock_of(command: u32, chosen: bool) -> Timeout {
    match command {
        f::FUTEX_WAIT => Timeout::Relative,
        f::FUTEX_LOCK_PI => Timeout::RealTime,
        _ if chosen => Timeout::RealTime,
        _ => Timeout::Monotonic,
    }
}

/// The timeout argument as a time of the monotonic clock, ns. `EFAULT`, or `EINVAL` for a time that is none.
fn deadline_of(timeout: u64, clock: Timeout) -> Result<Option<u64>> {
    let Some(timeout) = UserPtr::<Timespec>::new(timeout).non_null() else { return Ok(None) };
    let ns = time::timespec_ns(&timeout.read()?)?;
    let now = time::monotonic_ns();
    Ok(Some(match clock {
        Timeout::Relative => now.saturating_add(ns),
        Timeout::Monotonic => ns,
        Timeout::RealTime => now.saturating_add(ns.saturating_sub(time::realtime_ns())),
    }))
}

/// futex_waitv(2).
pub fn futex_waitv(
    _cx: &mut Context<'_>,
    waiters: UserPtr<f::FutexWaitv>,
    count: u32,
    flags: u32,
    timeout: u64,
    clock: i32,
) -> Result<usize> {
    // There are none.
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    if count == 0 || count > f::FUTEX_WAITV_MAX || waiters.is_null() {
        return Err(Errno::EINVAL);
    }
    let deadline = match (timeout, clock) {
        // Nobody looks at the clock of a timeout that is not given.
        (0, _) => None,
        (_, CLOCK_REALTIME) => deadline_of(timeout, Timeout::RealTime)?,
        (_, CLOCK_MONOTONIC) => deadline_of(timeout, Timeout::Monotonic)?,
        _ => return Err(Errno::EINVAL),
    };
    let entries =
        (0..count as usize).map(|index| decode_waiter(waiters.index(index))).collect::<Result<alloc::vec::Vec<_>>>()?;
    futex::wait_for_any(&entries, deadline)
}

/// One element (Linux `futex_parse_waitv`): words of 32 bits are the only ones, and must be asked for.
fn decode_waiter(waiter: UserPtr<f::FutexWaitv>) -> Result<WaitEntry> {
    let waiter = waiter.read()?;
    if waiter.flags & !(f::FUTEX_32 | f::FUTEX_PRIVATE_FLAG) != 0 || waiter.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    if waiter.flags & f::FUTEX_32 == 0 {
        return Err(Errno::EINVAL);
    }
    let scope = if waiter.flags & f::FUTEX_PRIVATE_FLAG != 0 { Scope::Private } else { Scope::Shared };
    // Linux compares the low half, too.
    Ok(WaitEntry { word: Word { address: waiter.uaddr, scope }, value: waiter.val as u32 })
}

/// set_robust_list(2).
pub fn set_robust_list(cx: &mut Context<'_>, head: u64, length: usize) -> Result<usize> {
    if length != size_of::<RobustListHead>() {
        return Err(Errno::EINVAL);
    }
    cx.task.futex.robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

/// get_robust_list(2). Of another process only for who may trace it (PTRACE_MODE_READ_REALCREDS).
pub fn get_robust_list(cx: &mut Context<'_>, pid: i32, head: UserPtr<u64>, length: UserPtr<u64>) -> Result<usize> {
    let target = if pid == 0 { cx.task.arc() } else { crate::task::find_or_esrch(pid)? };
    ptrace_may_access(&target, AccessMode::READ_REALCREDS)?;
    length.write(&(size_of::<RobustListHead>() as u64))?;
    head.write(&target.futex.robust_list.load(Ordering::Relaxed))?;
    Ok(0)
}

/// membarrier(2).
pub fn membarrier(_cx: &mut Context<'_>, command: u32, flags: u32, cpu: i32) -> Result<usize> {
    crate::sync::membarrier::membarrier(command, flags, cpu)
}

/// rseq(2).
pub fn rseq(_cx: &mut Context<'_>, area: u64, length: u32, flags: u32, signature: u32) -> Result<usize> {
    crate::task::rseq::register(area, length, flags, signature).map(|()| 0)
}
