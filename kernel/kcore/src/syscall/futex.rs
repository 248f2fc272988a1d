//! Futexes: futex(2), get_robust_list(2).
//!
//! A waiter hangs in a bucket chosen by its key; the word is checked under the bucket's lock with page faults disabled, so
//! that a wake-up between the check and the sleep is not lost. A private key is the address in one address space; a shared
//! one is the page behind it.
//!
//! A waiting task notes its bucket in itself (`Task::futex_bucket`). Whoever wakes it takes its entry out and clears the
//! note under the bucket's lock: a cleared note is what "woken" means. Each bucket counts its waiters, so that waking a
//! futex that nobody waits for takes no lock (Linux `futex_hb_waiters_pending`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering, fence};

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
use crate::task::{OwnFields, Task, TaskState, current};
use crate::time;

/// What two users of one futex agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    /// Address space (by its root table) and address.
    Private(u32, u64),
    /// Frame and offset of shared memory.
    Shared(u32, u64),
}

/// A place in a bucket.
struct Waiter {
    key: Key,
    bitset: u32,
    task: Arc<Task>,
}

struct Bucket {
    /// Who waits, and who is about to look at its word. Raised before the look, so that a waker that changed the word and
    /// sees zero here knows that nobody saw the old value.
    waiters: AtomicU32,
    queue: SpinLock<Vec<Waiter>>,
}

const BUCKETS: usize = 64;

hal::global! {
    static TABLE: [Bucket; BUCKETS] = [const {
        Bucket { waiters: AtomicU32::new(0), queue: SpinLock::new(order::FUTEX, Vec::new()) }
    }; BUCKETS];
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
    let mm = current().own_mm().ok_or(Errno::EFAULT)?;
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
    let task = cx.task;
    enqueue_if_equal(Waiter { key, bitset, task: task.arc() }, address, value)?;
    let outcome =
        sleep_while(TaskState::Interruptible, deadline_ns, || task.futex_bucket.load(Ordering::SeqCst) != NOWHERE);
    if outcome.is_ok() || remove(&task) {
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

/// What [`Task::futex_bucket`] says of a task that waits for no futex.
const NOWHERE: u32 = 0;

fn note(task: &Task, bucket: usize) {
    task.futex_bucket.store(bucket as u32 + 1, Ordering::SeqCst);
}

fn enqueue_if_equal(waiter: Waiter, address: u64, value: u32) -> Result<()> {
    let index = bucket_index(&waiter.key);
    let bucket = &TABLE[index];
    bucket.waiters.fetch_add(1, Ordering::SeqCst);
    let outcome = loop {
        let mut queue = bucket.queue.lock();
        match uaccess::without_faults(|| uaccess::load_u32(address)) {
            Ok(found) if found != value => break Err(Errno::EAGAIN),
            Ok(_) => {
                note(&waiter.task, index);
                queue.push(waiter);
                return Ok(());
            }
            Err(_) => drop(queue),
        }
        // Under the lock a fault is refused: bring the page in without it.
        if let Err(error) = load(address) {
            break Err(error);
        }
    };
    bucket.waiters.fetch_sub(1, Ordering::SeqCst);
    outcome
}

/// Takes the current task's entry out. True when a waker had already done so.
fn remove(task: &Task) -> bool {
    loop {
        let noted = task.futex_bucket.load(Ordering::SeqCst);
        if noted == NOWHERE {
            return true;
        }
        let bucket = &TABLE[(noted - 1) as usize];
        let mut queue = bucket.queue.lock();
        if let Some(at) = queue.iter().position(|waiter| core::ptr::eq(&*waiter.task, task)) {
            let gone = queue.remove(at);
            task.futex_bucket.store(NOWHERE, Ordering::SeqCst);
            bucket.waiters.fetch_sub(1, Ordering::SeqCst);
            drop(queue);
            drop(gone);
            return false;
        }
        // A requeue moved it between the look at the note and the bucket, or has not put it into the new one yet.
    }
}

/// Waiters taken out of a bucket. One costs no memory.
#[derive(Default)]
struct Taken {
    first: Option<Waiter>,
    more: Vec<Waiter>,
}

impl Taken {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    fn push(&mut self, waiter: Waiter) {
        if self.first.is_none() {
            self.first = Some(waiter);
        } else {
            self.more.push(waiter);
        }
    }

    /// Whoever waited longest is woken first. Where no lock is held: a task may have ended meanwhile.
    fn wake(self) {
        for waiter in self.first.into_iter().chain(self.more) {
            sched::wake_owned(waiter.task, TaskState::NORMAL);
        }
    }
}

/// Takes up to `limit` waiters of `key` out of its bucket, in the order in which they came.
fn take_matching(bucket: &Bucket, queue: &mut Vec<Waiter>, key: &Key, limit: u32, bitset: u32) -> Taken {
    let mut taken = Taken::default();
    let mut at = 0;
    while (taken.len() as u64) < u64::from(limit) {
        match queue.get(at) {
            Some(waiter) if waiter.key == *key && waiter.bitset & bitset != 0 => taken.push(queue.remove(at)),
            Some(_) => at += 1,
            None => break,
        }
    }
    bucket.waiters.fetch_sub(taken.len() as u32, Ordering::SeqCst);
    taken
}

/// As [`take_matching`], and the waiters count as woken.
fn take_to_wake(bucket: &Bucket, queue: &mut Vec<Waiter>, key: &Key, limit: u32, bitset: u32) -> Taken {
    let taken = take_matching(bucket, queue, key, limit, bitset);
    for waiter in taken.first.iter().chain(&taken.more) {
        waiter.task.futex_bucket.store(NOWHERE, Ordering::SeqCst);
    }
    taken
}

/// FUTEX_WAKE. Returns how many were woken.
fn wake(address: u64, private: bool, limit: u32, bitset: u32) -> Result<usize> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key_of(address, private)?;
    let bucket = &TABLE[bucket_index(&key)];
    // The caller changed its word before; see `Bucket::waiters`.
    fence(Ordering::SeqCst);
    if bucket.waiters.load(Ordering::SeqCst) == 0 {
        return Ok(0);
    }
    // As Linux, at least one for a limit of zero or less is not asked for: a limit of 0 wakes one (historical).
    let limit = limit.clamp(1, i32::MAX as u32);
    let taken = take_to_wake(bucket, &mut bucket.queue.lock(), &key, limit, bitset);
    let count = taken.len();
    taken.wake();
    Ok(count)
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
    let (bucket, to_index) = (&TABLE[bucket_index(&from_key)], bucket_index(&to_key));
    let (woken, moved) = {
        let mut queue = bucket.queue.lock();
        let woken = take_to_wake(bucket, &mut queue, &from_key, wake_limit, f::FUTEX_BITSET_MATCH_ANY);
        let moved = take_matching(bucket, &mut queue, &from_key, move_limit, f::FUTEX_BITSET_MATCH_ANY);
        // The notes change under the old bucket's lock; until the entries are in the new one, `remove` looks on.
        moved.first.iter().chain(&moved.more).for_each(|waiter| note(&waiter.task, to_index));
        (woken, moved)
    };
    let count = woken.len() + moved.len();
    if moved.first.is_some() {
        let to = &TABLE[to_index];
        to.waiters.fetch_add(moved.len() as u32, Ordering::SeqCst);
        let entries = moved.first.into_iter().chain(moved.more);
        to.queue.lock().extend(entries.map(|waiter| Waiter { key: to_key, ..waiter }));
    }
    woken.wake();
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
