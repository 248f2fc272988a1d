//! Futexes: sleeping on a word of user memory (futex(2), futex_waitv(2), get_robust_list(2); Linux `kernel/futex`).
//!
//! A waiter hangs in a bucket that its key chooses ([`key`]); the word is looked at under the bucket's lock with page faults
//! disabled, so that a wake-up between the look and the sleep is not lost ([`wait`]). A waiter notes its bucket ([`Sleeper`]).
//! Whoever wakes it takes its entry out and clears the note under the bucket's lock: a cleared note is what "woken" means. Each
//! bucket counts its waiters, so that waking a futex that nobody waits for takes no lock (Linux `futex_hb_waiters_pending`).
//!
//! Reading order: [`key`], [`queue`] (a bucket as plain data), this file (the table, waking), [`wait`], [`waitv`], [`requeue`],
//! [`pi`], [`requeue_pi`], [`robust`]. System calls are decoded in `syscall::futex`.

pub mod key;
mod pi;
pub mod queue;
mod requeue;
mod requeue_pi;
pub mod robust;
mod wait;
mod waitv;
mod wake_op;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use abi::Errno;
use abi::futex::FUTEX_BITSET_MATCH_ANY;
use hal::sync::{SpinGuard, SpinLock};
use hal::uaccess;

use crate::Result;
use crate::sched;
use crate::sync::order;
use crate::task::{Task, TaskState};
use hal::trap::Access;
pub use key::{Key, Scope, Word};
pub use pi::{Attempt, lock_pi, priority_changed, unlock_pi};
pub(crate) use pi::{exec_release, exit_release};
pub use requeue::requeue;
pub use requeue_pi::{cmp_requeue_pi, wait_requeue_pi};
pub use wait::{Expected, wait};
pub use waitv::{WaitEntry, wait_for_any};
pub use wake_op::wake_op;

/// What futexes keep in a task.
#[derive(Default)]
pub struct PerTask {
    /// Where it waits ([`Sleeper::note`]).
    note: AtomicU32,
    /// Whether it can become the owner of a PI futex ([`pi::life`]).
    life: AtomicU32,
    /// It owns PI futexes that others wait for, or waits for one, or did.
    in_graph: AtomicBool,
    /// Head of the robust list (set_robust_list(2)); 0: none.
    pub robust_list: AtomicU64,
}

/// Who waits.
pub(crate) struct Sleeper {
    task: Arc<Task>,
    /// It waits for many futexes: the place of this one.
    place: Option<waitv::Place>,
}

/// What a note says of a task that waits for no futex: it was woken, or did not begin.
const NOWHERE: u32 = 0;
/// Set in a note: it waits no more, the PI futex is its own ([`queue::Kind::Heir`]).
const HEIR: u32 = 1 << 31;

impl Sleeper {
    /// The bucket that it waits in, plus one; [`NOWHERE`] when it was woken.
    fn note(&self) -> &AtomicU32 {
        self.place.as_ref().map_or(&self.task.futex.note, waitv::Place::note)
    }
}

type Waiter = queue::Waiter<Sleeper>;
type Queue = queue::Queue<Sleeper>;
type Taken = queue::Taken<Sleeper>;

struct Bucket {
    /// Who waits, and who is about to look at its word. Raised before the look, so that a waker that changed the word and
    /// sees zero here knows that nobody saw the old value.
    waiters: AtomicU32,
    queue: SpinLock<Queue>,
}

/// A power of two.
const BUCKETS: usize = 256;

hal::global! {
    static TABLE: [Bucket; BUCKETS] = [const {
        Bucket { waiters: AtomicU32::new(0), queue: SpinLock::new(order::FUTEX, Queue::new()) }
    }; BUCKETS];
}

impl Bucket {
    fn add_waiters(&self, count: usize) {
        self.waiters.fetch_add(count as u32, Ordering::SeqCst);
    }

    fn forget_waiters(&self, count: usize) {
        self.waiters.fetch_sub(count as u32, Ordering::SeqCst);
    }

    /// Takes waiters out that are to be woken: their notes say so at once.
    fn take_to_wake(&self, queue: &mut Queue, key: &Key, limit: u32, bitset: u32, taken: &mut Taken) -> Result<()> {
        let outcome = queue.take(key, limit, bitset, taken);
        for waiter in taken.iter() {
            waiter.sleeper.note().store(NOWHERE, Ordering::SeqCst);
        }
        self.forget_waiters(taken.len());
        outcome
    }
}

fn index_of(key: &Key) -> usize {
    (key.hash() >> (u64::BITS - BUCKETS.ilog2())) as usize
}

/// Two buckets, locked. The same one is locked once.
struct Pair<'a> {
    first: SpinGuard<'a, Queue>,
    second: Option<SpinGuard<'a, Queue>>,
}

impl<'a> Pair<'a> {
    /// Locks the buckets of two keys, that of the smaller index first, which keeps two lockers of the same buckets from waiting for
    /// each other (Linux `double_lock_hb`). The order of levels cannot say this: the second one is tried for.
    fn lock(first: usize, second: usize) -> Self {
        let nested = |outer: usize, inner: usize| {
            let held = TABLE[outer].queue.lock();
            loop {
                if let Some(guard) = TABLE[inner].queue.try_lock() {
                    return (held, guard);
                }
                hal::cpu::relax();
            }
        };
        if first == second {
            return Self { first: TABLE[first].queue.lock(), second: None };
        }
        let (first, second) = if first < second {
            nested(first, second)
        } else {
            let (outer, inner) = nested(second, first);
            (inner, outer)
        };
        Self { first, second: Some(second) }
    }

    fn first(&mut self) -> &mut Queue {
        &mut self.first
    }

    fn second(&mut self) -> &mut Queue {
        self.second.as_mut().unwrap_or(&mut self.first)
    }
}

/// Where a task stands among waiters: real-time tasks by priority, all others together behind them.
fn rank_of(task: &Task) -> u32 {
    const OTHERS: u32 = 100;
    match task.sched.rt_priority.load(Ordering::Relaxed) {
        0 => OTHERS,
        priority => OTHERS - 1 - priority.min(99),
    }
}

/// Loads a word, bringing its page in.
fn load(address: u64) -> Result<u32> {
    uaccess::load_u32(address).map_err(|_| Errno::EFAULT)
}

/// Loads a word while a bucket is locked; `None` when its page is not there.
fn load_locked(address: u64) -> Option<u32> {
    uaccess::without_faults(|| uaccess::load_u32(address)).ok()
}

/// FUTEX_WAKE_BITSET: wakes up to `limit` waiters with a bit of `bitset`. Returns how many.
pub fn wake(word: Word, limit: u32, bitset: u32) -> Result<usize> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = word.key(Access::Read)?;
    let bucket = &TABLE[index_of(&key)];
    // The caller changed its word before; see `Bucket::waiters`.
    fence(Ordering::SeqCst);
    if bucket.waiters.load(Ordering::SeqCst) == 0 {
        return Ok(0);
    }
    let mut taken = Taken::default();
    let outcome = bucket.take_to_wake(&mut bucket.queue.lock(), &key, wake_limit(limit), bitset, &mut taken);
    let count = wake_all(taken);
    outcome.map(|()| count)
}

/// A limit of zero or less, an `int` in Linux, wakes one: `if (++ret >= nr_wake) break`.
fn wake_limit(limit: u32) -> u32 {
    if limit.cast_signed() <= 0 { 1 } else { limit }
}

/// Wakes those that were taken out, in their order. Where no lock is held: a task may have ended meanwhile.
fn wake_all(taken: Taken) -> usize {
    let count = taken.len();
    for waiter in taken {
        sched::wake_owned(waiter.sleeper.task, TaskState::NORMAL);
    }
    count
}

/// Wakes one waiter of a word whose thread ended (CLONE_CHILD_CLEARTID, robust lists): pthread_join waits shared. Errors have
/// nobody to go to.
pub(crate) fn wake_one_shared(address: u64) {
    let _ = wake(Word { address, scope: Scope::Shared }, 1, FUTEX_BITSET_MATCH_ANY);
}
