//! File locks: POSIX record locks and open-file-description locks (fcntl(2)), and flock(2).
//!
//! An inode has two lists: byte-range locks of both fcntl kinds, which conflict with each other, and whole-file flock
//! locks. A POSIX lock belongs to a descriptor table and goes with any close of the file there; the others belong to an
//! open file. Who waits for a POSIX lock is in one table, [`BLOCKED`], in which a cycle is a deadlock.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::fcntl::{F_RDLCK, F_UNLCK, F_WRLCK};
use hal::sync::SpinLock;

use super::file::File;
use super::inode::Inode;
use crate::Result;
use crate::sync::{WaitQueue, order};
use crate::task::TaskState;

/// Who holds a lock: the address of a descriptor table or an open file, which lives as long as its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerId(usize);

impl OwnerId {
    /// The identity of an object.
    pub fn of<T>(object: &T) -> Self {
        Self(core::ptr::from_ref(object).addr())
    }
}

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// F_RDLCK, LOCK_SH.
    Shared,
    /// F_WRLCK, LOCK_EX.
    Exclusive,
}

/// A byte-range lock. `end` is the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLock {
    /// Holder.
    pub owner: OwnerId,
    /// Process of the holder; -1 for an open file description.
    pub pid: i32,
    /// Kind.
    pub kind: Kind,
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` means "to the end, however far".
    pub end: u64,
}

impl RangeLock {
    fn overlaps(&self, other: &RangeLock) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &RangeLock) -> bool {
        self.owner != other.owner
            && self.overlaps(other)
            && (self.kind == Kind::Exclusive || other.kind == Kind::Exclusive)
    }
}

/// A flock(2) lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flock {
    owner: OwnerId,
    kind: Kind,
    /// The process that took it.
    pid: i32,
}

impl Flock {
    fn conflicts(&self, other: &Flock) -> bool {
        self.owner != other.owner && (self.kind == Kind::Exclusive || other.kind == Kind::Exclusive)
    }
}

#[derive(Default)]
struct Lists {
    ranges: Vec<RangeLock>,
    flocks: Vec<Flock>,
    /// Who sleeps for a lock of each kind, for `/proc/locks`.
    waiting_ranges: Vec<RangeLock>,
    waiting_flocks: Vec<Flock>,
}

/// The locks of an inode.
pub struct InodeLocks {
    lists: SpinLock<Lists>,
    changed: WaitQueue,
}

hal::global! {
    /// Owners that sleep for a POSIX lock, and whom they wait for.
    static BLOCKED: SpinLock<BTreeMap<OwnerId, OwnerId>> = SpinLock::new(order::INODE, BTreeMap::new());
    /// The inodes that have or had locks.
    static LOCKED: SpinLock<Vec<Weak<Inode>>> = SpinLock::new(order::INODE, Vec::new());
}

/// Whether a call waits for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// `EAGAIN` (`EWOULDBLOCK`) at once.
    No,
    /// Until it is free or a signal comes.
    Yes,
}

fn locks_of(inode: &Arc<Inode>) -> &InodeLocks {
    inode.locks.call_once(|| {
        let mut locked = LOCKED.lock();
        if locked.len() == locked.capacity() {
            locked.retain(|inode| inode.strong_count() > 0);
        }
        locked.push(Arc::downgrade(inode));
        drop(locked);
        Box::new(InodeLocks { lists: SpinLock::new(order::INODE, Lists::default()), changed: WaitQueue::new() })
    })
}

/// F_GETLK: the first lock that is in the way of `wanted`.
pub fn test(inode: &Inode, wanted: &RangeLock) -> Option<RangeLock> {
    let locks = inode.locks.get()?;
    locks.lists.lock().ranges.iter().find(|held| held.conflicts(wanted)).copied()
}

/// F_SETLK, F_SETLKW: takes a byte-range lock. `EAGAIN`, `EDEADLK`, `ERESTARTSYS`.
pub fn set_range(inode: &Arc<Inode>, wanted: RangeLock, wait: Wait) -> Result<()> {
    let locks = locks_of(inode);
    let mut outcome = Ok(());
    let attempt = || {
        let mut lists = locks.lists.lock();
        let Some(blocker) = lists.ranges.iter().find(|held| held.conflicts(&wanted)).copied() else {
            replace_range(&mut lists.ranges, &wanted, Some(wanted.kind));
            return true;
        };
        drop(lists);
        if wait == Wait::No {
            outcome = Err(Errno::EAGAIN);
            return true;
        }
        // Only POSIX locks are looked at for deadlocks: the owner of an open file description is no process.
        if wanted.pid >= 0 && blocker.pid >= 0 && !note_blocked(wanted.owner, blocker.owner) {
            outcome = Err(Errno::EDEADLK);
            return true;
        }
        false
    };
    if wait == Wait::Yes {
        locks.lists.lock().waiting_ranges.push(wanted);
    }
    let waited = locks.changed.wait_event(TaskState::Interruptible, attempt);
    if wait == Wait::Yes {
        BLOCKED.lock().remove(&wanted.owner);
        take_one(&mut locks.lists.lock().waiting_ranges, &wanted);
    }
    // A lock that became weaker or smaller may let others in.
    locks.changed.wake_all();
    waited.and(outcome)
}

/// Notes that `waiter` waits for `holder`, unless `holder` waits, over others, for `waiter`.
fn note_blocked(waiter: OwnerId, holder: OwnerId) -> bool {
    let mut blocked = BLOCKED.lock();
    let mut at = holder;
    // Linux bounds the search as well (`MAX_DEADLK_ITERATIONS`): threads of one owner can make cycles of their own.
    for _ in 0..10 {
        if at == waiter {
            return false;
        }
        match blocked.get(&at) {
            Some(next) => at = *next,
            None => break,
        }
    }
    blocked.insert(waiter, holder);
    true
}

/// F_UNLCK: gives a range up.
pub fn unlock_range(inode: &Inode, range: &RangeLock) {
    let Some(locks) = inode.locks.get() else { return };
    replace_range(&mut locks.lists.lock().ranges, range, None);
    locks.changed.wake_all();
}

/// Puts `kind` on the range of `range` for its owner: what the owner had there is cut away, neighbours of one kind are
/// joined (fcntl(2): "a new lock is merged with adjacent ones").
fn replace_range(ranges: &mut Vec<RangeLock>, range: &RangeLock, kind: Option<Kind>) {
    let mut kept: Vec<RangeLock> = Vec::with_capacity(ranges.len() + 2);
    let mut new = kind.map(|kind| RangeLock { kind, ..*range });
    for held in ranges.drain(..) {
        if held.owner != range.owner {
            kept.push(held);
            continue;
        }
        if let Some(new) = new.as_mut().filter(|new| new.kind == held.kind) {
            let touches = held.start <= new.end.saturating_add(1) && new.start <= held.end.saturating_add(1);
            if touches {
                new.start = new.start.min(held.start);
                new.end = new.end.max(held.end);
                continue;
            }
        }
        if !held.overlaps(range) {
            kept.push(held);
            continue;
        }
        if held.start < range.start {
            kept.push(RangeLock { end: range.start - 1, ..held });
        }
        if held.end > range.end {
            kept.push(RangeLock { start: range.end + 1, ..held });
        }
    }
    kept.extend(new);
    kept.sort_by_key(|lock| (lock.owner, lock.start));
    *ranges = kept;
}

fn take_one<T: PartialEq>(list: &mut Vec<T>, one: &T) {
    if let Some(at) = list.iter().position(|other| other == one) {
        list.swap_remove(at);
    }
}

/// flock(2) for process `pid`.
pub fn flock(file: &File, kind: Kind, pid: i32, wait: Wait) -> Result<()> {
    let locks = locks_of(file.inode());
    let wanted = Flock { owner: OwnerId::of(file), kind, pid };
    file.has_flock.store(true, Ordering::Relaxed);
    let mut outcome = Ok(());
    let attempt = || {
        let mut lists = locks.lists.lock();
        let held = lists.flocks.iter().position(|other| other.owner == wanted.owner);
        if held.is_some_and(|at| lists.flocks.get(at).is_some_and(|lock| lock.kind == kind)) {
            return true;
        }
        // flock(2): a conversion is not atomic, the old lock is given up first.
        if let Some(at) = held {
            lists.flocks.remove(at);
        }
        let blocked = lists.flocks.iter().any(|other| other.conflicts(&wanted));
        if !blocked {
            lists.flocks.push(wanted);
        } else if wait == Wait::No {
            outcome = Err(Errno::EAGAIN);
            return true;
        }
        !blocked
    };
    if wait == Wait::Yes {
        locks.lists.lock().waiting_flocks.push(wanted);
    }
    let waited = locks.changed.wait_event(TaskState::Interruptible, attempt);
    if wait == Wait::Yes {
        take_one(&mut locks.lists.lock().waiting_flocks, &wanted);
    }
    locks.changed.wake_all();
    waited.and(outcome)
}

/// flock(2) LOCK_UN.
pub fn funlock(file: &File) {
    let Some(locks) = file.inode().locks.get() else { return };
    let owner = OwnerId::of(file);
    locks.lists.lock().flocks.retain(|lock| lock.owner != owner);
    locks.changed.wake_all();
}

/// The last reference to an open file goes: its flock and OFD locks go with it.
pub(super) fn file_gone(file: &File) {
    let Some(locks) = file.inode().locks.get() else { return };
    let owner = OwnerId::of(file);
    {
        let mut lists = locks.lists.lock();
        lists.flocks.retain(|lock| lock.owner != owner);
        lists.ranges.retain(|lock| lock.owner != owner);
    }
    locks.changed.wake_all();
}

/// A descriptor of the table `owner` was closed: POSIX locks of that table on the file go.
pub(super) fn posix_owner_closed(file: &File, owner: OwnerId) {
    let Some(locks) = file.inode().locks.get() else { return };
    locks.lists.lock().ranges.retain(|lock| lock.owner != owner);
    locks.changed.wake_all();
}

/// The `l_type` of a kind.
pub fn type_of(kind: Kind) -> i16 {
    match kind {
        Kind::Shared => F_RDLCK,
        Kind::Exclusive => F_WRLCK,
    }
}

/// The kind of an `l_type`; `None` for F_UNLCK, `EINVAL` for others.
pub fn kind_of(l_type: i16) -> Result<Option<Kind>> {
    match l_type {
        F_RDLCK => Ok(Some(Kind::Shared)),
        F_WRLCK => Ok(Some(Kind::Exclusive)),
        F_UNLCK => Ok(None),
        _ => Err(Errno::EINVAL),
    }
}

/// `/proc/locks`: each lock, and below it with `->` those who wait for it (proc(5), Linux `lock_get_status`).
pub fn show_locks(out: &mut dyn Write) -> fmt::Result {
    let inodes: Vec<Arc<Inode>> = LOCKED.lock().iter().filter_map(Weak::upgrade).collect();
    let mut number = 0;
    for inode in inodes {
        let Some(locks) = inode.locks.get() else { continue };
        let (ranges, flocks, waiting_ranges, waiting_flocks) = {
            let lists = locks.lists.lock();
            (lists.ranges.clone(), lists.flocks.clone(), lists.waiting_ranges.clone(), lists.waiting_flocks.clone())
        };
        for held in &flocks {
            number += 1;
            show_flock(out, number, "", held, &inode)?;
            for waiting in waiting_flocks.iter().filter(|waiting| held.conflicts(waiting)) {
                show_flock(out, number, "-> ", waiting, &inode)?;
            }
        }
        for held in &ranges {
            number += 1;
            show_range(out, number, "", held, &inode)?;
            for waiting in waiting_ranges.iter().filter(|waiting| held.conflicts(waiting)) {
                show_range(out, number, "-> ", waiting, &inode)?;
            }
        }
    }
    Ok(())
}

fn show_holder(out: &mut dyn Write, kind: Kind, pid: i32, inode: &Inode) -> fmt::Result {
    let word = if kind == Kind::Exclusive { "WRITE" } else { "READ" };
    let (major, minor) = abi::stat::split_dev(inode.sb.dev as u32);
    write!(out, "{word} {pid} {major:02x}:{minor:02x}:{} ", inode.ino)
}

fn show_flock(out: &mut dyn Write, number: u32, prefix: &str, lock: &Flock, inode: &Inode) -> fmt::Result {
    write!(out, "{number}: {prefix}FLOCK  ADVISORY  ")?;
    show_holder(out, lock.kind, lock.pid, inode)?;
    writeln!(out, "0 EOF")
}

fn show_range(out: &mut dyn Write, number: u32, prefix: &str, lock: &RangeLock, inode: &Inode) -> fmt::Result {
    let family = if lock.pid < 0 { "OFDLCK" } else { "POSIX " };
    write!(out, "{number}: {prefix}{family} ADVISORY  ")?;
    show_holder(out, lock.kind, lock.pid, inode)?;
    if lock.end == i64::MAX.cast_unsigned() {
        writeln!(out, "{} EOF", lock.start)
    } else {
        writeln!(out, "{} {}", lock.start, lock.end)
    }
}
