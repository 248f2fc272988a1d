//! inotify(7): an instance with its watches, and the queue of events that is read from it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use abi::Errno;
use abi::fcntl::O_RDONLY;
use abi::notify as n;
use abi::poll::{POLLIN, POLLRDNORM};
use hal::sync::SpinLock;
use zerocopy::IntoBytes;

use super::{Happening, Mark};
use crate::Result;
use crate::fs::file::{File, FileOps, OffsetRule};
use crate::fs::inode::Inode;
use crate::fs::poll::{PollTable, watch_all};
use crate::fs::pseudo;
use crate::fs::super_block::SuperBlock;
use crate::fs::user_count::UserCount;
use crate::io::IoDst;
use crate::sync::{Mutex, WaitQueue, order};
use crate::task::TaskState;

/// What inotify_add_watch(2) may be given.
pub const ALL_BITS: u32 = n::IN_ALL_EVENTS
    | n::IN_UNMOUNT
    | n::IN_Q_OVERFLOW
    | n::IN_IGNORED
    | n::IN_ONLYDIR
    | n::IN_DONT_FOLLOW
    | n::IN_EXCL_UNLINK
    | n::IN_MASK_ADD
    | n::IN_MASK_CREATE
    | n::IN_ISDIR
    | n::IN_ONESHOT;
/// What of it stays with the watch.
const KEPT: u32 = n::IN_ALL_EVENTS | n::IN_EXCL_UNLINK | n::IN_ONESHOT;
/// What a reader is shown of an event.
const SHOWN: u32 = n::IN_ALL_EVENTS | n::IN_ISDIR | n::IN_UNMOUNT | n::IN_IGNORED | n::IN_Q_OVERFLOW;
/// Bytes of an event without its name.
const HEADER: usize = size_of::<n::InotifyEvent>();
/// What a watch costs in the reckoning of max_user_watches (Linux `INOTIFY_WATCH_COST`).
const WATCH_COST: u64 = 1360;

hal::global! {
    static INSTANCES: UserCount = UserCount::new();
    static WATCHES: UserCount = UserCount::new();
    static ALL: SpinLock<Vec<Weak<Inotify>>> = SpinLock::new(order::INODE, Vec::new());
    /// `/proc/sys/fs/inotify/max_queued_events`.
    pub static MAX_QUEUED_EVENTS: AtomicU32 = AtomicU32::new(16_384);
    /// `/proc/sys/fs/inotify/max_user_instances`.
    pub static MAX_USER_INSTANCES: AtomicU32 = AtomicU32::new(128);
    /// `max_user_watches`; -1: what the memory says.
    static MAX_USER_WATCHES: AtomicI32 = AtomicI32::new(-1);
}

/// `/proc/sys/fs/inotify/max_user_watches`: by default what 1 % of the memory holds, 8192 to 1048576
/// (`inotify_user_setup`).
pub fn max_user_watches() -> u64 {
    let set = MAX_USER_WATCHES.load(Ordering::Relaxed);
    u64::try_from(set).unwrap_or_else(|_| (hal::mem::total_bytes() / 100 / WATCH_COST).clamp(8192, 1 << 20))
}

/// Sets `max_user_watches`.
pub fn set_max_user_watches(most: i32) -> Result<()> {
    if most < 0 {
        return Err(Errno::EINVAL);
    }
    MAX_USER_WATCHES.store(most, Ordering::Relaxed);
    Ok(())
}

/// An event in the queue.
#[derive(PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Event {
    /// Bytes of the name as it is read: with its NUL, up to a multiple of the header's size.
    fn name_length(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) }
    }

    fn length(&self) -> usize {
        HEADER + self.name_length()
    }

    /// Whether a reader who saw this one learns nothing from `other` (Linux `event_compare`; cookies do not count).
    fn says_the_same_as(&self, other: &Event) -> bool {
        self.mask & n::IN_IGNORED == 0 && self.mask == other.mask && self.wd == other.wd && self.name == other.name
    }

    fn write_to(&self, dst: &mut IoDst<'_>) -> Result<usize> {
        let length = self.name_length();
        let header = n::InotifyEvent { wd: self.wd, mask: self.mask & SHOWN, cookie: self.cookie, len: length as u32 };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&self.name);
        bytes.resize(HEADER + length, 0);
        dst.put(&bytes)
    }
}

/// An instance.
pub struct Inotify {
    queue: SpinLock<VecDeque<Event>>,
    readable: WaitQueue,
    watches: SpinLock<BTreeMap<i32, Arc<Mark>>>,
    /// Held while watches are added, so that an inode does not get two.
    adding: Mutex<i32>,
    /// Most events in the queue, as the limit was when the instance was made.
    max_events: usize,
    uid: u32,
}

/// The file of an instance.
pub struct InotifyFile(Arc<Inotify>);

/// A new instance's file for user `uid`: `EMFILE` when the user has too many.
pub fn new_file(uid: u32, flags: u32) -> Result<Arc<File>> {
    if !INSTANCES.charge(uid, 1, u64::from(MAX_USER_INSTANCES.load(Ordering::Relaxed))) {
        return Err(Errno::EMFILE);
    }
    let instance = Arc::new(Inotify {
        queue: SpinLock::new(order::CHANNEL, VecDeque::new()),
        readable: WaitQueue::new(),
        watches: SpinLock::new(order::CHANNEL, BTreeMap::new()),
        adding: Mutex::new(0),
        max_events: MAX_QUEUED_EVENTS.load(Ordering::Relaxed) as usize,
        uid,
    });
    ALL.lock().push(Arc::downgrade(&instance));
    Ok(pseudo::anon_file("inotify", Arc::new(InotifyFile(instance)).into(), O_RDONLY | flags))
}

/// Every instance there is.
pub(super) fn all() -> Vec<Arc<Inotify>> {
    ALL.lock().iter().filter_map(Weak::upgrade).collect()
}

impl InotifyFile {
    /// inotify_add_watch(2): the watch descriptor. `EEXIST` for IN_MASK_CREATE, `ENOSPC` for one watch too many.
    pub fn add(&self, inode: &Arc<Inode>, mask: u32) -> Result<i32> {
        self.0.add(inode, mask)
    }

    /// inotify_rm_watch(2).
    pub fn remove(&self, wd: i32) -> Result<()> {
        let mark = self.0.watches.lock().get(&wd).cloned().ok_or(Errno::EINVAL)?;
        self.0.end(&mark);
        Ok(())
    }
}

impl Inotify {
    fn add(self: &Arc<Self>, inode: &Arc<Inode>, mask: u32) -> Result<i32> {
        let mut last = self.adding.lock();
        let kept = mask & KEPT;
        let found = self.watches.lock().values().find(|mark| Arc::ptr_eq(&mark.inode, inode)).cloned();
        if let Some(mark) = found {
            if mask & n::IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            let old = if mask & n::IN_MASK_ADD != 0 { mark.mask() } else { 0 };
            mark.mask.store(old | kept, Ordering::Relaxed);
            return Ok(mark.wd);
        }
        if !WATCHES.charge(self.uid, 1, max_user_watches()) {
            return Err(Errno::ENOSPC);
        }
        // Numbers are not used again before all were (inotify(7) BUGS; Linux `idr_alloc_cyclic`).
        let wd = last.checked_add(1).unwrap_or(1);
        *last = wd;
        let mark =
            Arc::new(Mark { listener: Arc::downgrade(self), inode: inode.clone(), wd, mask: AtomicU32::new(kept) });
        self.watches.lock().insert(wd, mark.clone());
        mark.hang();
        Ok(wd)
    }

    /// Takes an event in.
    pub(super) fn hear(self: &Arc<Self>, mark: &Arc<Mark>, what: &Happening<'_>) {
        let mut mask = what.mask;
        // Watches of the thing itself never had the bit with these two (Linux `inotify_handle_inode_event`).
        if mask & (n::IN_DELETE_SELF | n::IN_MOVE_SELF) != 0 {
            mask &= !n::IN_ISDIR;
        }
        let name = what.name.map(<[u8]>::to_vec).unwrap_or_default();
        self.push(Event { wd: mark.wd, mask, cookie: what.cookie, name });
        if mark.mask() & n::IN_ONESHOT != 0 {
            self.end(mark);
        }
    }

    /// Ends a watch, unless somebody has: its reader is told by IN_IGNORED.
    pub(super) fn end(&self, mark: &Arc<Mark>) {
        if self.watches.lock().remove(&mark.wd).is_none() {
            return;
        }
        mark.take_down();
        WATCHES.uncharge(self.uid, 1);
        self.push(Event { wd: mark.wd, mask: n::IN_IGNORED, cookie: 0, name: Vec::new() });
    }

    /// The watches of a file system.
    pub(super) fn marks_on(&self, sb: &SuperBlock) -> Vec<Arc<Mark>> {
        let is_there = |mark: &&Arc<Mark>| core::ptr::eq(&*mark.inode.sb, sb);
        self.watches.lock().values().filter(is_there).cloned().collect()
    }

    /// Queues an event: not when the last one says the same, and beyond the limit one IN_Q_OVERFLOW instead
    /// (Linux `fsnotify_insert_event`).
    fn push(&self, event: Event) {
        let mut queue = self.queue.lock();
        let overflown = |event: &Event| event.mask & n::IN_Q_OVERFLOW != 0;
        if queue.len() >= self.max_events {
            if queue.iter().any(overflown) {
                return;
            }
            queue.push_back(Event { wd: -1, mask: n::IN_Q_OVERFLOW, cookie: 0, name: Vec::new() });
        } else if queue.back().is_some_and(|last| last.says_the_same_as(&event)) {
            return;
        } else {
            queue.push_back(event);
        }
        drop(queue);
        self.readable.wake_all_for(POLLIN | POLLRDNORM);
    }

    /// The next event if it fits; `EINVAL` if it does not.
    fn take(&self, room: usize) -> Result<Option<Event>> {
        let mut queue = self.queue.lock();
        match queue.front() {
            None => Ok(None),
            Some(event) if event.length() > room => Err(Errno::EINVAL),
            Some(_) => Ok(queue.pop_front()),
        }
    }

    fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }
}

impl FileOps for InotifyFile {
    /// As many events as fit, waiting for the first (inotify(7), "Reading events from an inotify file descriptor").
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        let mut done = 0;
        loop {
            match self.0.take(dst.remaining()) {
                Ok(Some(event)) => match event.write_to(dst) {
                    Ok(count) => done += count,
                    // Linux loses the event as well.
                    Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
                },
                _ if done > 0 => return Ok(done),
                Err(error) => return Err(error),
                Ok(None) if file.is_nonblocking() => return Err(Errno::EAGAIN),
                Ok(None) => self.0.readable.wait_event(TaskState::Interruptible, || !self.0.is_empty())?,
            }
        }
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &[&self.0.readable]);
        if self.0.is_empty() { 0 } else { POLLIN | POLLRDNORM }
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        Ok(self.0.queue.lock().iter().map(Event::length).sum())
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn Write) {
        let marks: Vec<Arc<Mark>> = self.0.watches.lock().values().cloned().collect();
        for mark in marks {
            // The reader's buffer takes everything.
            let _ = writeln!(
                out,
                "inotify wd:{:x} ino:{:x} sdev:{:x} mask:{:x} ignored_mask:0 ",
                mark.wd,
                mark.inode.ino,
                mark.inode.sb.dev,
                mark.mask()
            );
        }
    }
}

impl Drop for InotifyFile {
    fn drop(&mut self) {
        let watches = core::mem::take(&mut *self.0.watches.lock());
        for mark in watches.values() {
            mark.take_down();
            WATCHES.uncharge(self.0.uid, 1);
        }
        INSTANCES.uncharge(self.0.uid, 1);
        let this = Arc::as_ptr(&self.0);
        let mut all = ALL.lock();
        let at = all.iter().position(|other| core::ptr::eq(other.as_ptr(), this));
        let gone = at.map(|at| all.swap_remove(at));
        drop(all);
        drop(gone);
    }
}
