//! Priority-inheritance futexes: FUTEX_LOCK_PI, FUTEX_UNLOCK_PI and their like (futex(2), "Priority-inheritance futexes").
//!
//! The word holds the owner's TID; user space takes and leaves a free lock by itself. Who finds it taken sets FUTEX_WAITERS and
//! waits in two places: in the bucket of the key, as every waiter, and in the graph of [`crate::sync::rtmutex`], which knows the
//! owner and lends it the waiters' urgency. Word, bucket and graph change together under the bucket's lock.
//!
//! An unlock hands the lock to the most urgent waiter, whose TID the unlocker writes. (Linux lets a more urgent task take the lock
//! in the time until that waiter runs; here there is no such time, and a lock that was handed over stays so.) When an owner dies,
//! the word may lie where the dying thread cannot reach it: the waiter becomes its heir, stays in the bucket so that others see
//! that the lock is taken, and writes the word itself.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::futex::{FUTEX_BITSET_MATCH_ANY, FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use hal::sync::{SpinGuard, SpinLock};
use hal::trap::Access;
use hal::uaccess;

use super::queue::Kind;
use super::{Bucket, HEIR, Key, NOWHERE, Queue, Sleeper, TABLE, Waiter, Word, index_of, load_locked, rank_of};
use crate::Result;
use crate::sched::{self, Priority};
use crate::sync::rtmutex::{Graph, Member, TaskId};
use crate::sync::{WaitQueue, order, sleep_while};
use crate::task::{OwnFields, Task, TaskState, current, flags};

pub(super) type PiGraph = Graph<Key, Arc<Task>, Urgency>;

hal::global! {
    static GRAPH: SpinLock<PiGraph> = SpinLock::new(order::PI_GRAPH, Graph::new());
    /// Woken when a thread has let go of its futexes.
    static EXITED: WaitQueue = WaitQueue::new();
}

/// Whether a thread can still be made the owner of a PI futex (Linux `futex_state`).
pub(super) mod life {
    /// It can.
    pub const ALIVE: u32 = 0;
    /// It is letting go of its futexes: what it owns by then has to be looked at again.
    pub const EXITING: u32 = 1;
    /// It let go of all.
    pub const DEAD: u32 = 2;
}

/// Whether to wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// FUTEX_LOCK_PI.
    Wait,
    /// FUTEX_TRYLOCK_PI: `EAGAIN`.
    Once,
}

/// Why nothing came of an attempt.
pub(super) enum Trouble {
    /// The word is not in memory, or not writable.
    Fault,
    /// The word changed meanwhile.
    Changed,
    /// The owner is just letting go of its futexes.
    OwnerExits(Arc<Task>),
    /// The caller's fault.
    Failed(Errno),
}

/// What an attempt to take a word found.
pub(super) enum Claim {
    /// It was free and is the claimant's now.
    Acquired,
    /// It is this task's.
    OwnedBy(Arc<Task>),
}

/// Who claims a word, and what it writes there.
pub(super) struct Claimant<'a> {
    pub task: &'a Arc<Task>,
    /// Its TID as the caller sees it.
    pub number: u32,
    /// FUTEX_WAITERS, when there will be waiters at once.
    pub mark: u32,
}

/// How urgent a waiter is. Fair tasks take turns: among them nobody inherits, and they get a lock as they came (Linux
/// `__waiter_prio`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Urgency {
    /// A deadline or a real-time task.
    Urgent(Priority),
    /// All others.
    Fair,
}

impl Urgency {
    fn own(task: &Task) -> Self {
        let priority = Priority::own(task);
        if priority.is_fair() { Urgency::Fair } else { Urgency::Urgent(priority) }
    }
}

pub(super) fn lend(task: &Arc<Task>, inherited: Option<Urgency>) {
    let priority = match inherited {
        Some(Urgency::Urgent(priority)) => Some(priority),
        _ => None,
    };
    sched::set_boost(task, priority);
}

pub(super) fn id_of(task: &Task) -> TaskId {
    core::ptr::from_ref(task).addr()
}

pub(super) fn member(task: &Arc<Task>) -> Member<Arc<Task>, Urgency> {
    Member { id: id_of(task), handle: task.clone(), normal: Urgency::own(task) }
}

/// A task's TID as it stands in futex words: as the caller's PID namespace counts.
pub(super) fn number_of(task: &Task) -> u32 {
    let number = task.pid().number_in(current().own_namespaces().pid());
    number.cast_unsigned() & FUTEX_TID_MASK
}

/// Replaces the word while a bucket is locked. `Ok(false)`: it was another one.
fn replace_locked(word: Word, old: u32, new: u32) -> Result<bool, Trouble> {
    let outcome = uaccess::without_faults(|| uaccess::compare_exchange_u32(word.address, old, new));
    outcome.map(|found| found == old).map_err(|_| Trouble::Fault)
}

/// Makes the word writable memory, where it may be (Linux `fault_in_user_writeable`).
pub(super) fn fault_in(word: Word) -> Result<()> {
    // A write that changes nothing.
    let value = super::load(word.address)?;
    uaccess::compare_exchange_u32(word.address, value, value).map(drop).map_err(|_| Errno::EFAULT)
}

/// The graph, locked inside of a bucket. What left it is dropped when no lock is held.
pub(super) struct Locked<'a> {
    graph: SpinGuard<'a, PiGraph>,
    left: &'a mut alloc::vec::Vec<Arc<Task>>,
}

impl core::ops::Deref for Locked<'_> {
    type Target = PiGraph;
    fn deref(&self) -> &PiGraph {
        &self.graph
    }
}

impl core::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut PiGraph {
        &mut self.graph
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.left.append(&mut self.graph.take_left());
    }
}

pub(super) fn lock_graph(left: &mut alloc::vec::Vec<Arc<Task>>) -> Locked<'_> {
    Locked { graph: GRAPH.lock(), left }
}

/// FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_TRYLOCK_PI.
pub fn lock_pi(word: Word, deadline_ns: Option<u64>, attempt: Attempt) -> Result<usize> {
    let task = current();
    loop {
        let key = word.key(Access::Write)?;
        match begin(word, key, attempt) {
            Ok(Claim::Acquired) => return Ok(0),
            Ok(Claim::OwnedBy(_)) => break,
            Err(trouble) => after(trouble, word)?,
        }
    }
    match wait_for_lock(&task, word, deadline_ns) {
        // Whatever SA_RESTART says: a lock is not given up for a signal.
        Err((Errno::ERESTARTSYS, _)) => Err(Errno::ERESTARTNOINTR),
        Err((error, _)) => Err(error),
        Ok(()) => Ok(0),
    }
}

/// Does what trouble asks for before another attempt.
pub(super) fn after(trouble: Trouble, word: Word) -> Result<()> {
    match trouble {
        Trouble::Fault => fault_in(word),
        Trouble::Changed => Ok(()),
        Trouble::OwnerExits(owner) => {
            // Not by trying again and again: the owner may need this CPU (Linux `wait_for_owner_exiting`).
            let gone = || owner.futex.life.load(Ordering::SeqCst) != life::EXITING;
            EXITED.wait_event(TaskState::Uninterruptible, gone)
        }
        Trouble::Failed(error) => Err(error),
    }
}

/// Takes the lock, or puts the current task in line for it.
fn begin(word: Word, key: Key, attempt: Attempt) -> Result<Claim, Trouble> {
    let task = current().arc();
    let claimant = Claimant { task: &task, number: number_of(&task), mark: 0 };
    let mut left = alloc::vec::Vec::new();
    let index = index_of(&key);
    let bucket = &TABLE[index];
    bucket.add_waiters(1);
    let mut queue = bucket.queue.lock();
    let mut graph = lock_graph(&mut left);
    let outcome = match claim(&queue, &mut graph, word, &key, &claimant) {
        Ok(Claim::OwnedBy(owner)) if attempt == Attempt::Once => {
            graph.discard(owner);
            Err(Trouble::Failed(Errno::EAGAIN))
        }
        Ok(Claim::OwnedBy(owner)) => {
            become_possible_owner(&task);
            graph.wait(key, member(&owner), member(&task), &mut lend).map_err(Trouble::Failed).map(|()| {
                let sleeper = Sleeper { task: task.clone(), place: None };
                sleeper.note().store(index as u32 + 1, Ordering::SeqCst);
                let rank = rank_of(&task);
                queue.insert(Waiter { key, bitset: FUTEX_BITSET_MATCH_ANY, rank, kind: Kind::Lock, sleeper });
                Claim::OwnedBy(owner)
            })
        }
        other => other,
    };
    drop(graph);
    drop(queue);
    if !matches!(outcome, Ok(Claim::OwnedBy(_))) {
        bucket.forget_waiters(1);
    }
    outcome
}

/// Takes a free word for `claimant`, or finds out who has it, and that this can be (Linux `futex_lock_pi_atomic`; the table of
/// valid states is above its `attach_to_pi_state`).
pub(super) fn claim(
    queue: &Queue,
    graph: &mut PiGraph,
    word: Word,
    key: &Key,
    claimant: &Claimant<'_>,
) -> Result<Claim, Trouble> {
    let value = load_locked(word.address).ok_or(Trouble::Fault)?;
    let owner = value & FUTEX_TID_MASK;
    if owner == claimant.number {
        return Err(Trouble::Failed(Errno::EDEADLK));
    }
    if let Some(first) = queue.first(key) {
        return known_owner(queue, graph, key, first.kind, value).map(Claim::OwnedBy).map_err(Trouble::Failed);
    }
    if owner == 0 {
        // Left behind by a dead owner, or FUTEX_WAITERS without waiters.
        become_possible_owner(claimant.task);
        let taken = replace_locked(word, value, value & FUTEX_OWNER_DIED | claimant.number | claimant.mark)?;
        return if taken { Ok(Claim::Acquired) } else { Err(Trouble::Changed) };
    }
    // The first waiter: from here on the owner needs the kernel to unlock.
    if !replace_locked(word, value, value | FUTEX_WAITERS)? {
        return Err(Trouble::Changed);
    }
    owner_by_number(graph, word, value | FUTEX_WAITERS).map(Claim::OwnedBy)
}

/// The owner of a lock that others wait for. `EINVAL` when the word tells another story (Linux `attach_to_pi_state`).
fn known_owner(queue: &Queue, graph: &PiGraph, key: &Key, first: Kind, value: u32) -> Result<Arc<Task>> {
    // An ordinary waiter: not a PI futex.
    if !matches!(first, Kind::Lock | Kind::Heir) {
        return Err(Errno::EINVAL);
    }
    // The word is about to become the heir's.
    if let Some(heir) = queue.find(|waiter| waiter.key == *key && waiter.kind == Kind::Heir) {
        return Ok(heir.sleeper.task.clone());
    }
    let owner = graph.owner_handle(key).ok_or(Errno::EINVAL)?;
    // The owner is dying and said so, but did not come to hand its locks on.
    let is_left = value & FUTEX_OWNER_DIED != 0 && value & FUTEX_TID_MASK == 0;
    if !is_left && value & FUTEX_TID_MASK != number_of(owner) {
        return Err(Errno::EINVAL);
    }
    Ok(owner.clone())
}

/// The owner that the word names (Linux `attach_to_pi_owner`): `ESRCH` when there is no such thread, `EPERM` for a kernel thread.
fn owner_by_number(graph: &mut PiGraph, word: Word, value: u32) -> Result<Arc<Task>, Trouble> {
    let number = (value & FUTEX_TID_MASK).cast_signed();
    let Some(owner) = crate::task::find(number) else { return Err(gone(word, value)) };
    if owner.has_flag(flags::KTHREAD) {
        graph.discard(owner);
        return Err(Trouble::Failed(Errno::EPERM));
    }
    become_possible_owner(&owner);
    match owner.futex.life.load(Ordering::SeqCst) {
        life::ALIVE => Ok(owner),
        life::EXITING => Err(Trouble::OwnerExits(owner)),
        _ => {
            graph.discard(owner);
            Err(gone(word, value))
        }
    }
}

/// A thread that will look into the graph when it ends. Before the look whether it lives: either it sees this, or we see that it
/// ends.
fn become_possible_owner(task: &Task) {
    if !task.futex.in_graph.load(Ordering::Relaxed) {
        task.futex.in_graph.store(true, Ordering::SeqCst);
    }
}

/// A word with an owner that is no more: as it was left, or a moment ago it was another one (Linux `handle_exit_race`).
fn gone(word: Word, value: u32) -> Trouble {
    match load_locked(word.address) {
        None => Trouble::Fault,
        Some(now) if now != value => Trouble::Changed,
        Some(_) => Trouble::Failed(Errno::ESRCH),
    }
}

/// Sleeps until the lock is the current task's. Else the error, and what it still waited for.
pub(super) fn wait_for_lock(task: &Task, word: Word, deadline_ns: Option<u64>) -> Result<(), (Errno, Kind)> {
    let note = &task.futex.note;
    let asleep = || {
        let noted = note.load(Ordering::SeqCst);
        noted != NOWHERE && noted & HEIR == 0
    };
    let outcome = sleep_while(TaskState::Interruptible, deadline_ns.unwrap_or(u64::MAX), asleep);
    loop {
        let noted = note.load(Ordering::SeqCst);
        // Handed over, whatever else came at the same time.
        if noted == NOWHERE {
            return Ok(());
        }
        if noted & HEIR != 0 {
            return inherit(task, word, &TABLE[(noted & !HEIR) as usize - 1]).map_err(|error| (error, Kind::Heir));
        }
        let Err(error) = outcome else { unreachable!("a sleep ends well when the note changed") };
        if let Some(kind) = give_up(task, noted) {
            return Err((error, kind));
        }
    }
}

/// Leaves the line. `None` when the note changed first.
fn give_up(task: &Task, noted: u32) -> Option<Kind> {
    let bucket = &TABLE[noted as usize - 1];
    let mut left = alloc::vec::Vec::new();
    let mut queue = bucket.queue.lock();
    if task.futex.note.load(Ordering::SeqCst) != noted {
        return None;
    }
    let waiter = queue.remove(|waiter| core::ptr::eq(&*waiter.sleeper.task, task))?;
    if waiter.kind == Kind::Lock {
        lock_graph(&mut left).give_up(id_of(task), &mut lend);
    }
    task.futex.note.store(NOWHERE, Ordering::SeqCst);
    bucket.forget_waiters(1);
    drop(queue);
    Some(waiter.kind)
}

/// The owner died and the lock is ours: the word says both (Linux `fixup_pi_state_owner`).
fn inherit(task: &Task, word: Word, bucket: &Bucket) -> Result<()> {
    let number = number_of(task);
    let outcome = loop {
        let mut queue = bucket.queue.lock();
        let written = match load_locked(word.address) {
            Some(value) => replace_locked(word, value, number | FUTEX_WAITERS | FUTEX_OWNER_DIED),
            None => Err(Trouble::Fault),
        };
        if matches!(written, Ok(true)) {
            let entry = leave_as_heir(task, &mut queue, bucket);
            drop(queue);
            drop(entry);
            return Ok(());
        }
        drop(queue);
        if written.is_err()
            && let Err(error) = fault_in(word)
        {
            break error;
        }
    };
    // The program took the word away. The lock stays ours in the kernel until we end, as in Linux.
    let entry = leave_as_heir(task, &mut bucket.queue.lock(), bucket);
    drop(entry);
    Err(outcome)
}

fn leave_as_heir(task: &Task, queue: &mut Queue, bucket: &Bucket) -> Option<Waiter> {
    task.futex.note.store(NOWHERE, Ordering::SeqCst);
    bucket.forget_waiters(1);
    queue.remove(|waiter| core::ptr::eq(&*waiter.sleeper.task, task))
}

/// FUTEX_UNLOCK_PI. `EPERM` unless the word holds the caller's TID; `EINVAL` when the kernel knows of another owner.
pub fn unlock_pi(word: Word) -> Result<usize> {
    let number = number_of(&current());
    loop {
        let value = super::load(word.address)?;
        if value & FUTEX_TID_MASK != number {
            return Err(Errno::EPERM);
        }
        let key = word.key(Access::Write)?;
        match try_unlock(word, &key, value) {
            Ok(woken) => {
                if let Some(waiter) = woken {
                    sched::wake_owned(waiter.sleeper.task, TaskState::NORMAL);
                }
                return Ok(0);
            }
            Err(trouble) => after(trouble, word)?,
        }
    }
}

fn try_unlock(word: Word, key: &Key, value: u32) -> Result<Option<Waiter>, Trouble> {
    let invalid = Trouble::Failed(Errno::EINVAL);
    let mut left = alloc::vec::Vec::new();
    let bucket = &TABLE[index_of(key)];
    let mut queue = bucket.queue.lock();
    let Some(first) = queue.first(key) else {
        // Nobody waits. Neither bit is kept: the lock is as good as new.
        let done = replace_locked(word, value, 0)?;
        return if done { Ok(None) } else { Err(Trouble::Failed(Errno::EAGAIN)) };
    };
    if !matches!(first.kind, Kind::Lock | Kind::Heir) {
        return Err(invalid);
    }
    let mut graph = lock_graph(&mut left);
    if graph.owner(key) != Some(id_of(&current())) {
        return Err(invalid);
    }
    let Some(next) = graph.next_owner(key) else { return Err(invalid) };
    // As long as the kernel knows the lock, its owner has to come to the kernel.
    let new = FUTEX_WAITERS | number_of(next);
    if !replace_locked(word, value, new)? {
        // A waiter set its bit since we looked. Else user space writes what it likes.
        let only_marked = load_locked(word.address).is_some_and(|now| now & FUTEX_TID_MASK == value);
        return Err(if only_marked { Trouble::Changed } else { invalid });
    }
    let id = graph.hand_over(*key, &mut lend);
    drop(graph);
    let woken = queue.remove(|waiter| waiter.kind == Kind::Lock && Some(id_of(&waiter.sleeper.task)) == id);
    if let Some(waiter) = &woken {
        waiter.sleeper.note().store(NOWHERE, Ordering::SeqCst);
    }
    bucket.forget_waiters(1);
    Ok(woken)
}

/// A thread ends, or its program: it lets go of robust locks and of locks that others wait for (Linux `futex_cleanup`).
/// `next`: what it is afterwards.
fn release(task: &Task, next: u32) {
    task.futex.life.store(life::EXITING, Ordering::SeqCst);
    super::robust::exit(task);
    if task.futex.in_graph.load(Ordering::SeqCst) {
        hand_all_on(task);
        task.futex.in_graph.store(false, Ordering::SeqCst);
    }
    task.futex.life.store(next, Ordering::SeqCst);
    EXITED.wake_all();
}

/// The current thread ends.
pub(crate) fn exit_release(task: &Task) {
    release(task, life::DEAD);
}

/// The current thread leaves its program for another.
pub(crate) fn exec_release(task: &Task) {
    release(task, life::ALIVE);
}

/// Each lock that others wait for goes to the most urgent of them (Linux `exit_pi_state_list`).
fn hand_all_on(task: &Task) {
    let id = id_of(task);
    loop {
        let mut left = alloc::vec::Vec::new();
        let Some(key) = lock_graph(&mut left).any_owned_by(id) else { return };
        let bucket = &TABLE[index_of(&key)];
        let mut queue = bucket.queue.lock();
        let mut graph = lock_graph(&mut left);
        // In the other order of locks everybody may have given up meanwhile.
        if graph.owner(&key) != Some(id) {
            continue;
        }
        let heir = graph.hand_over(key, &mut lend);
        drop(graph);
        let entry = queue.find_mut(|waiter| waiter.kind == Kind::Lock && Some(id_of(&waiter.sleeper.task)) == heir);
        let woken = entry.map(|waiter| {
            waiter.kind = Kind::Heir;
            let note: &AtomicU32 = waiter.sleeper.note();
            note.fetch_or(HEIR, Ordering::SeqCst);
            waiter.sleeper.task.clone()
        });
        drop(queue);
        if let Some(task) = woken {
            sched::wake_owned(task, TaskState::NORMAL);
        }
    }
}

/// A task's own priority changed: it may wait for a lock, or inherit less than before.
pub fn priority_changed(task: &Arc<Task>) {
    if task.futex.in_graph.load(Ordering::Relaxed) {
        let mut left = alloc::vec::Vec::new();
        lock_graph(&mut left).set_normal(id_of(task), Urgency::own(task), &mut lend);
    }
}
