//! Futexes: futex(2), get_robust_list(2).
//!
//! A waiter hangs in a bucket chosen by its key; the word is checked under the bucket's lock with page faults disabled, so
//! that a wake-up between the check and the sleep is not lost. A private key is the address in one address space; a shared
//! one is the page behind it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::futex as f;
use abi::time::Timespec;
use hal::sync::SpinLock;
use hal::uaccess;

use super::{Context, UserPtr};
use crate::Result;
use crate::sched;
use crate::signal::RestartBlock;
use crate::sync::{order, sleep_while};
use crate::task::{Task, TaskState, current};
use crate::time;

/// What two users of one futex agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    /// Address space (by its root table) and address.
    Private(u32, u64),
    /// Frame and offset of shared memory.
    Shared(u32, u64),
}

struct Waiter {
    key: SpinLock<Key>,
    bitset: u32,
    task: Arc<Task>,
    woken: AtomicBool,
}

const BUCKETS: usize = 64;

hal::global! {
    static TABLE: [SpinLock<Vec<Arc<Waiter>>>; BUCKETS] =
        [const { SpinLock::new(order::FUTEX, Vec::new()) }; BUCKETS];
}

fn bucket_index(key: &Key) -> usize {
    let (a, b) = match key {
        Key::Private(space, address) => (u64::from(*space), address >> 2),
        Key::Shared(frame, offset) => (u64::from(*frame) << 10, offset >> 2),
    };
    // Fibonacci hashing: the high bits of the product mix all bits.
    ((a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize
}

fn key_of(address: u64, private: bool) -> Result<Key> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let mm = current().mm().ok_or(Errno::EFAULT)?;
    if !private && let Some((frame, offset)) = mm.shared_key(address)? {
        return Ok(Key::Shared(frame.0, offset));
    }
    Ok(Key::Private(mm.hardware().root().0, address))
}

/// Loads the word, bringing its page in.
fn load(address: u64) -> Result<u32> {
    uaccess::load_u32(address).map_err(|_| Errno::EFAULT)
}

/// futex(2).
pub fn futex(
    cx: &mut Context<'_>,
    word: u64,
    operation: i32,
    value: u32,
    timeout: u64,
    word2: u64,
    value3: u32,
) -> Result<usize> {
    let operation = operation.cast_unsigned();
    let private = operation & f::FUTEX_PRIVATE_FLAG != 0;
    let realtime = operation & f::FUTEX_CLOCK_REALTIME != 0;
    let command = operation & !(f::FUTEX_PRIVATE_FLAG | f::FUTEX_CLOCK_REALTIME);
    if realtime && command != f::FUTEX_WAIT && command != f::FUTEX_WAIT_BITSET {
        return Err(Errno::ENOSYS);
    }
    match command {
        f::FUTEX_WAIT | f::FUTEX_WAIT_BITSET => {
            let absolute = command == f::FUTEX_WAIT_BITSET;
            let bitset = if absolute { value3 } else { f::FUTEX_BITSET_MATCH_ANY };
            let deadline = deadline_of(timeout, absolute, realtime)?;
            wait(cx, word, value, deadline, bitset, private, !absolute)
        }
        f::FUTEX_WAKE => wake(word, private, value, f::FUTEX_BITSET_MATCH_ANY),
        f::FUTEX_WAKE_BITSET => wake(word, private, value, value3),
        f::FUTEX_REQUEUE => requeue(word, word2, private, value, timeout as u32, None),
        f::FUTEX_CMP_REQUEUE => requeue(word, word2, private, value, timeout as u32, Some(value3)),
        f::FUTEX_WAKE_OP => wake_op(word, word2, private, value, timeout as u32, value3),
        _ => Err(Errno::ENOSYS),
    }
}

/// The timeout argument as a monotonic deadline; relative for FUTEX_WAIT.
fn deadline_of(timeout: u64, absolute: bool, realtime: bool) -> Result<u64> {
    let Some(timeout) = UserPtr::<Timespec>::new(timeout).non_null() else { return Ok(u64::MAX) };
    let ns = time::timespec_ns(&timeout.read()?)?;
    let now = time::monotonic_ns();
    Ok(match (absolute, realtime) {
        (false, _) => now.saturating_add(ns),
        (true, false) => ns,
        (true, true) => now.saturating_add(ns.saturating_sub(time::realtime_ns())),
    })
}

/// FUTEX_WAIT: sleeps while nobody wakes us, provided the word is still `value` (`EAGAIN`).
pub(super) fn wait(
    cx: &mut Context<'_>,
    address: u64,
    value: u32,
    deadline_ns: u64,
    bitset: u32,
    private: bool,
    restartable: bool,
) -> Result<usize> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key_of(address, private)?;
    let waiter = Arc::new(Waiter {
        key: SpinLock::new(order::FUTEX_KEY, key),
        bitset,
        task: cx.task.arc(),
        woken: AtomicBool::new(false),
    });
    enqueue_if_equal(&waiter, key, address, value)?;
    let outcome = sleep_while(TaskState::Interruptible, deadline_ns, || !waiter.woken.load(Ordering::SeqCst));
    if remove(&waiter) || outcome.is_ok() {
        // Woken, whatever else came at the same time.
        return Ok(0);
    }
    match outcome {
        Err(Errno::ETIMEDOUT) => Err(Errno::ETIMEDOUT),
        _ if deadline_ns == u64::MAX => Err(Errno::ERESTARTSYS),
        _ if restartable => {
            *cx.task.restart.lock() = RestartBlock::Futex { address, value, deadline_ns, bitset, private };
            Err(Errno::ERESTART_RESTARTBLOCK)
        }
        _ => Err(Errno::ERESTARTSYS),
    }
}

fn enqueue_if_equal(waiter: &Arc<Waiter>, key: Key, address: u64, value: u32) -> Result<()> {
    loop {
        // Bring the page in first: under the lock a fault is refused.
        load(address)?;
        let mut bucket = TABLE[bucket_index(&key)].lock();
        match uaccess::without_faults(|| uaccess::load_u32(address)) {
            Ok(found) if found != value => return Err(Errno::EAGAIN),
            Ok(_) => {
                bucket.push(waiter.clone());
                return Ok(());
            }
            Err(_) => drop(bucket),
        }
    }
}

/// Takes the waiter out. True when a waker had already done so.
fn remove(waiter: &Arc<Waiter>) -> bool {
    loop {
        let key = *waiter.key.lock();
        let mut bucket = TABLE[bucket_index(&key)].lock();
        if let Some(at) = bucket.iter().position(|w| Arc::ptr_eq(w, waiter)) {
            let gone = bucket.swap_remove(at);
            drop(bucket);
            drop(gone);
            return false;
        }
        drop(bucket);
        if waiter.woken.load(Ordering::SeqCst) {
            return true;
        }
        // A requeue moved it between the look at the key and the bucket.
    }
}

fn take_matching(bucket: &mut Vec<Arc<Waiter>>, key: &Key, limit: u32, bitset: u32) -> Vec<Arc<Waiter>> {
    let mut taken = Vec::new();
    let mut at = 0;
    while at < bucket.len() && (taken.len() as u64) < u64::from(limit) {
        let waiter = &bucket[at];
        if *waiter.key.lock() == *key && waiter.bitset & bitset != 0 {
            // In order: who waited longest is woken first.
            taken.push(bucket.remove(at));
        } else {
            at += 1;
        }
    }
    taken
}

fn wake_taken(taken: &[Arc<Waiter>]) {
    for waiter in taken {
        waiter.woken.store(true, Ordering::SeqCst);
        sched::wake(&waiter.task, TaskState::NORMAL);
    }
}

/// FUTEX_WAKE. Returns how many were woken.
fn wake(address: u64, private: bool, limit: u32, bitset: u32) -> Result<usize> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key_of(address, private)?;
    let index = bucket_index(&key);
    // As Linux, at least one for a limit of zero or less is not asked for: a limit of 0 wakes one (historical).
    let limit = limit.clamp(1, i32::MAX as u32);
    let taken = take_matching(&mut TABLE[index].lock(), &key, limit, bitset);
    wake_taken(&taken);
    Ok(taken.len())
}

/// Wakes one waiter of a word whose thread ended (CLONE_CHILD_CLEARTID).
pub(crate) fn wake_one(address: u64) {
    // Both kinds of waiters: pthread_join waits shared, other libraries private. Errors have nobody to go to.
    let _ = wake(address, false, 1, f::FUTEX_BITSET_MATCH_ANY);
}

/// FUTEX_REQUEUE and FUTEX_CMP_REQUEUE: wakes `wake_limit` and moves up to `move_limit` of the rest to `to`.
fn requeue(
    from: u64,
    to: u64,
    private: bool,
    wake_limit: u32,
    move_limit: u32,
    expected: Option<u32>,
) -> Result<usize> {
    if wake_limit > i32::MAX as u32 || move_limit > i32::MAX as u32 {
        return Err(Errno::EINVAL);
    }
    let (from_key, to_key) = (key_of(from, private)?, key_of(to, private)?);
    if let Some(expected) = expected
        && load(from)? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let (woken, moved) = {
        let mut bucket = TABLE[bucket_index(&from_key)].lock();
        let woken = take_matching(&mut bucket, &from_key, wake_limit, f::FUTEX_BITSET_MATCH_ANY);
        let moved = if move_limit == 0 {
            Vec::new()
        } else {
            take_matching(&mut bucket, &from_key, move_limit, f::FUTEX_BITSET_MATCH_ANY)
        };
        // The key changes under the old bucket's lock; until it is in the new bucket, `remove` sees neither and looks on.
        moved.iter().for_each(|waiter| *waiter.key.lock() = to_key);
        (woken, moved)
    };
    let count = woken.len() + moved.len();
    TABLE[bucket_index(&to_key)].lock().extend(moved);
    wake_taken(&woken);
    Ok(count)
}

/// FUTEX_WAKE_OP: changes the second word atomically, wakes on the first, and on the second if its old value compares.
fn wake_op(word: u64, word2: u64, private: bool, limit: u32, limit2: u32, encoded: u32) -> Result<usize> {
    let sign_extend = |bits: u32| (((bits & 0xfff) << 20).cast_signed() >> 20).cast_unsigned();
    let (op, compare) = (encoded >> 28 & 7, encoded >> 24 & 0xf);
    let mut operand = sign_extend(encoded >> 12);
    if encoded >> 31 != 0 {
        operand = 1u32.wrapping_shl(operand & 31);
    }
    let compare_with = sign_extend(encoded);
    let mut old = load(word2)?;
    loop {
        let new = match op {
            0 => operand,
            1 => old.wrapping_add(operand),
            2 => old | operand,
            3 => old & !operand,
            4 => old ^ operand,
            _ => return Err(Errno::ENOSYS),
        };
        let found = uaccess::compare_exchange_u32(word2, old, new).map_err(|_| Errno::EFAULT)?;
        if found == old {
            break;
        }
        old = found;
    }
    let (signed, with) = (old.cast_signed(), compare_with.cast_signed());
    let second = match compare {
        0 => signed == with,
        1 => signed != with,
        2 => signed < with,
        3 => signed <= with,
        4 => signed > with,
        5 => signed >= with,
        _ => return Err(Errno::ENOSYS),
    };
    let mut count = wake(word, private, limit, f::FUTEX_BITSET_MATCH_ANY)?;
    if second {
        count += wake(word2, private, limit2, f::FUTEX_BITSET_MATCH_ANY)?;
    }
    Ok(count)
}

/// Size of `struct robust_list_head`, bytes.
const ROBUST_HEAD_SIZE: usize = 24;

/// set_robust_list(2).
pub fn set_robust_list(cx: &mut Context<'_>, head: u64, length: usize) -> Result<usize> {
    if length != ROBUST_HEAD_SIZE {
        return Err(Errno::EINVAL);
    }
    cx.task.robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

/// get_robust_list(2).
pub fn get_robust_list(cx: &mut Context<'_>, pid: i32, head: UserPtr<u64>, length: UserPtr<u64>) -> Result<usize> {
    let target = if pid == 0 { cx.task.arc() } else { crate::task::find_or_esrch(pid)? };
    length.write(&(ROBUST_HEAD_SIZE as u64))?;
    head.write(&target.robust_list.load(Ordering::Relaxed))?;
    Ok(0)
}

/// A thread ends: locks on its robust list are marked FUTEX_OWNER_DIED and one waiter of each is woken
/// (Linux `exit_robust_list`). A list that makes no sense ends the walk.
pub(crate) fn exit_robust_list(task: &Task) {
    const LIMIT: usize = 2048;
    let head = task.robust_list.swap(0, Ordering::Relaxed);
    if head == 0 {
        return;
    }
    let read = |address: u64| uaccess::load_u64(address).ok();
    let (Some(first), Some(offset), Some(pending)) = (read(head), read(head + 8), read(head + 16)) else { return };
    let mut entry = first & !1;
    for _ in 0..LIMIT {
        if entry == head {
            break;
        }
        let next = read(entry);
        if entry != pending & !1 {
            owner_died(task, entry.wrapping_add(offset));
        }
        match next {
            Some(next) => entry = next & !1,
            None => break,
        }
    }
    if pending != 0 {
        owner_died(task, (pending & !1).wrapping_add(offset));
    }
}

fn owner_died(task: &Task, word: u64) {
    let Ok(mut value) = load(word) else { return };
    while value & f::FUTEX_TID_MASK == task.tid().cast_unsigned() & f::FUTEX_TID_MASK {
        let new = value & f::FUTEX_WAITERS | f::FUTEX_OWNER_DIED;
        match uaccess::compare_exchange_u32(word, value, new) {
            Ok(found) if found == value => {
                if value & f::FUTEX_WAITERS != 0 {
                    wake_one(word);
                }
                return;
            }
            Ok(found) => value = found,
            Err(_) => return,
        }
    }
}
