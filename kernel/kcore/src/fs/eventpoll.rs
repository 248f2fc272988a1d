//! epoll(7): a set of files of interest, and the list of those that became ready.
//!
//! Each file of interest has an [`Item`] that is registered on the file's wait queues. A wake-up there puts the item on
//! the ready list and wakes whoever waits for the set; `wait` asks the files on the list what is really the case. A
//! level-triggered item that was reported goes back on the list, an edge-triggered one waits for the next wake-up.
//!
//! An item does not keep its file open. The file knows the items that watch it ([`Watchers`]) and takes them off its
//! queues when its last descriptor goes, whatever descriptor they were added by (epoll(7), "Will closing a file
//! descriptor cause it to be removed?").
//!
//! A set has two queues, as in Linux: tasks sleep in epoll_wait(2) on one, and who polls the set's own descriptor
//! registers on the other. The first is woken from inside the wake-up of a file, so it has a lock level of its own. The
//! second passes wake-ups on to sets around this one; it does that without its lock, so that chains of sets need no
//! levels. What may be put into what is decided in [`nest`].

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use abi::fcntl::O_RDWR;
use abi::poll::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT, EPOLLWAKEUP, EpollEvent,
    POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM,
};
use hal::sync::{IrqLock, SpinLock};

use super::file::{File, FileOps, OffsetRule};
use super::libfs::shared;
use super::poll::{PollTable, watch_all};
use super::pseudo;
use super::user_count::UserCount;
use crate::Result;
use crate::sync::{Mutex, WaitQueue, Waiter, WakeCallback, order};
use crate::syscall::UserPtr;
use crate::task::TaskState;

mod nest;

/// What is not an event but a mode.
const PRIVATE_BITS: u32 = EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP;
/// What may go with EPOLLEXCLUSIVE (epoll_ctl(2)).
const EXCLUSIVE_OK: u32 = POLLIN | POLLOUT | POLLERR | POLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
/// What is always of interest.
const ALWAYS: u32 = POLLERR | POLLHUP;
/// What a watch costs in the reckoning of max_user_watches: Linux's `EP_ITEM_COST` on 64-bit machines.
const ITEM_COST: u64 = 184;
/// Dead items are looked for when the set has this many, and each time it has doubled.
const FIRST_PRUNE: usize = 64;

hal::global! {
    static WATCHES: UserCount = UserCount::new();
    /// `max_user_watches`; 0: what the memory says.
    static MAX_WATCHES: AtomicU64 = AtomicU64::new(0);
}

/// `/proc/sys/fs/epoll/max_user_watches`: by default what 4 % of the memory holds (epoll(7)).
pub fn max_user_watches() -> u64 {
    match MAX_WATCHES.load(Ordering::Relaxed) {
        0 => hal::mem::total_bytes() / 25 / ITEM_COST,
        set => set,
    }
}

/// Sets `max_user_watches`.
pub fn set_max_user_watches(most: u64) -> Result<()> {
    if i64::try_from(most).is_err() {
        return Err(Errno::EINVAL);
    }
    MAX_WATCHES.store(most, Ordering::Relaxed);
    Ok(())
}

/// A file of interest.
struct Item {
    set: Weak<Shared>,
    this: Weak<Item>,
    fd: i32,
    file: Weak<File>,
    /// Events and modes, and the user's word. No events: switched off by EPOLLONESHOT.
    interest: IrqLock<(u32, u64)>,
    /// It is on the ready list.
    queued: AtomicBool,
    /// It counts against max_user_watches.
    counted: AtomicBool,
    waiter: spin::Once<Arc<Waiter>>,
}

/// What items and the set share.
struct Shared {
    ready: IrqLock<VecDeque<Arc<Item>>>,
    /// Somebody goes through the ready list: what he took may come back.
    scanning: AtomicBool,
    /// Tasks in epoll_wait(2).
    waiters: WaitQueue,
    /// Who polls the descriptor of the set.
    pollers: WaitQueue,
    /// The sets that this one is in.
    parents: SpinLock<Vec<Weak<Shared>>>,
    /// Who made the set and pays for its watches.
    uid: u32,
}

/// The items of a set by descriptor.
struct Watched {
    by_fd: BTreeMap<i32, Vec<Arc<Item>>>,
    prune_at: usize,
}

/// An epoll set.
pub struct EventPoll {
    shared: Arc<Shared>,
    watched: Mutex<Watched>,
}

/// A new set's file, made by user `uid`.
pub fn new_file(uid: u32) -> Arc<File> {
    let set = Arc::new(Shared {
        ready: IrqLock::new(order::EPOLL_READY, VecDeque::new()),
        scanning: AtomicBool::new(false),
        waiters: WaitQueue::with_level(order::EPOLL_WAIT),
        pollers: WaitQueue::with_level(order::EPOLL_WAIT),
        parents: SpinLock::new(order::CHANNEL, Vec::new()),
        uid,
    });
    let watched = Mutex::new(Watched { by_fd: BTreeMap::new(), prune_at: FIRST_PRUNE });
    pseudo::anon_file("[eventpoll]", shared(EventPoll { shared: set, watched }), O_RDWR)
}

/// The items that watch a file, of all sets.
pub struct Watchers(SpinLock<Vec<Weak<Item>>>);

impl Watchers {
    fn new() -> Self {
        Self(SpinLock::new(order::FILES, Vec::new()))
    }

    fn add(&self, item: &Arc<Item>) {
        self.0.lock().push(Arc::downgrade(item));
    }

    fn remove(&self, item: &Item) {
        let mut items = self.0.lock();
        let at = items.iter().position(|other| core::ptr::eq(other.as_ptr(), item));
        let gone = at.map(|at| items.swap_remove(at));
        drop(items);
        drop(gone);
    }

    /// The last descriptor of `file` is gone (Linux `eventpoll_release`). The sets keep what is left of the items until
    /// they look for it: their lock cannot be taken here, because somebody may let go of a file under it.
    pub(super) fn release(&self, file: &File) {
        let items = core::mem::take(&mut *self.0.lock());
        for item in items.iter().filter_map(Weak::upgrade) {
            item.retire(file);
        }
    }
}

impl Watched {
    /// The files that are still open.
    fn files(&self) -> impl Iterator<Item = Arc<File>> {
        self.by_fd.values().flatten().filter_map(|item| item.file.upgrade())
    }

    /// Drops items of closed files once enough may have gathered.
    fn prune(&mut self) {
        if self.by_fd.len() < self.prune_at {
            return;
        }
        self.by_fd.retain(|_, items| {
            items.retain(|item| item.file.strong_count() > 0);
            !items.is_empty()
        });
        self.prune_at = (2 * self.by_fd.len()).max(FIRST_PRUNE);
    }
}

impl Shared {
    /// Puts an item on the ready list and tells of it. Whether a task waited for it.
    fn enqueue(&self, item: &Arc<Item>, events: u32) -> bool {
        if !item.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().push_back(item.clone());
        }
        let had_waiters = !self.waiters.is_idle();
        self.waiters.wake_one_for(POLLIN | POLLRDNORM);
        self.pollers.relay(POLLIN | POLLRDNORM);
        had_waiters && answers(item.interest.lock().0, events)
    }

    /// Whether a scan may find something (Linux `ep_events_available`).
    fn may_have_ready(&self) -> bool {
        self.scanning.load(Ordering::SeqCst) || !self.ready.lock().is_empty()
    }

    fn forget(&self, item: &Arc<Item>) {
        let mut ready = self.ready.lock();
        let at = ready.iter().position(|other| Arc::ptr_eq(other, item));
        let gone = at.and_then(|at| ready.remove(at));
        drop(ready);
        drop(gone);
    }
}

/// Whether a wake-up for `events` was used up by an exclusive item of this interest (Linux `ep_poll_callback`).
fn answers(interest: u32, events: u32) -> bool {
    match events & (POLLIN | POLLOUT) {
        0 => true,
        one @ (POLLIN | POLLOUT) => interest & one != 0,
        _ => false,
    }
}

impl WakeCallback for Item {
    fn woken(&self, events: u32) -> bool {
        let interest = self.interest.lock().0;
        let wanted = interest & !PRIVATE_BITS;
        let exclusive = interest & EPOLLEXCLUSIVE != 0;
        // A waker that names its events spares us those of no interest.
        if wanted == 0 || events != 0 && events & wanted == 0 {
            return !exclusive;
        }
        let (Some(set), Some(this)) = (self.set.upgrade(), self.this.upgrade()) else { return !exclusive };
        set.enqueue(&this, events) || !exclusive
    }
}

impl Item {
    /// What holds of the events of interest.
    fn look(&self, file: &File, table: Option<&mut PollTable>) -> u32 {
        let found = file.poll(table);
        found & self.interest.lock().0 & !PRIVATE_BITS
    }

    /// Off the file's queues, off the ready list, off the user's account.
    fn retire(self: &Arc<Self>, file: &File) {
        if let Some(waiter) = self.waiter.get() {
            file.poll(Some(&mut PollTable::unregistering(waiter.clone())));
        }
        self.interest.lock().0 = 0;
        let Some(set) = self.set.upgrade() else { return };
        if let Some(inner) = file.ops_as::<EventPoll>() {
            nest::leave(&set, inner);
        }
        set.forget(self);
        self.uncharge(set.uid);
    }

    fn uncharge(&self, uid: u32) {
        if self.counted.swap(false, Ordering::Relaxed) {
            WATCHES.uncharge(uid, 1);
        }
    }

    fn is_for(&self, file: &Arc<File>) -> bool {
        core::ptr::eq(self.file.as_ptr(), Arc::as_ptr(file))
    }
}

impl EventPoll {
    /// epoll_ctl(2) for descriptor `fd`, which is `file`.
    pub fn control(&self, operation: i32, fd: i32, file: &Arc<File>, event: &EpollEvent) -> Result<()> {
        let inner = file.ops_as::<EventPoll>();
        if event.events & EPOLLEXCLUSIVE != 0 {
            // An exclusive watch is made, never changed; and a set within a set has its own way to wake one.
            let bad_add = operation == EPOLL_CTL_ADD && (inner.is_some() || event.events & !EXCLUSIVE_OK != 0);
            if operation == EPOLL_CTL_MOD || bad_add {
                return Err(Errno::EINVAL);
            }
        }
        let nesting = inner.filter(|_| operation == EPOLL_CTL_ADD);
        let _guard = nesting.map(|inner| nest::admit(self, inner)).transpose()?;
        let mut watched = self.watched.lock();
        let of_fd = watched.by_fd.entry(fd).or_default();
        // A descriptor number may be in use again after its file was closed.
        of_fd.retain(|item| item.file.strong_count() > 0);
        let at = of_fd.iter().position(|item| item.is_for(file));
        match (operation, at) {
            (EPOLL_CTL_ADD, Some(_)) => Err(Errno::EEXIST),
            (EPOLL_CTL_ADD, None) => {
                let item = self.add(fd, file, event)?;
                of_fd.push(item);
                watched.prune();
                if let Some(inner) = inner {
                    nest::enter(self, inner);
                }
                Ok(())
            }
            (EPOLL_CTL_DEL | EPOLL_CTL_MOD, None) => Err(Errno::ENOENT),
            (EPOLL_CTL_DEL, Some(at)) => {
                let item = of_fd.remove(at);
                forget_item(&item, file);
                Ok(())
            }
            (EPOLL_CTL_MOD, Some(at)) => self.modify(&of_fd[at], file, event),
            _ => Err(Errno::EINVAL),
        }
    }

    fn add(&self, fd: i32, file: &Arc<File>, event: &EpollEvent) -> Result<Arc<Item>> {
        if !WATCHES.charge(self.shared.uid, 1, max_user_watches()) {
            return Err(Errno::ENOSPC);
        }
        let item = Arc::new_cyclic(|this: &Weak<Item>| Item {
            set: Arc::downgrade(&self.shared),
            this: this.clone(),
            fd,
            file: Arc::downgrade(file),
            interest: IrqLock::new(order::EPOLL_ITEM, (event.events | ALWAYS, event.data)),
            queued: AtomicBool::new(false),
            counted: AtomicBool::new(true),
            waiter: spin::Once::new(),
        });
        let callback: Weak<dyn WakeCallback> = item.this.clone();
        let exclusive = event.events & EPOLLEXCLUSIVE != 0;
        let waiter = item.waiter.call_once(|| Waiter::for_callback(callback, exclusive)).clone();
        file.watchers.call_once(Watchers::new).add(&item);
        if item.look(file, Some(&mut PollTable::registering(waiter))) != 0 {
            self.shared.enqueue(&item, 0);
        }
        Ok(item)
    }

    fn modify(&self, item: &Arc<Item>, file: &Arc<File>, event: &EpollEvent) -> Result<()> {
        if item.interest.lock().0 & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        *item.interest.lock() = (event.events | ALWAYS, event.data);
        if item.look(file, None) != 0 {
            self.shared.enqueue(item, 0);
        }
        Ok(())
    }

    /// epoll_wait(2): stores up to `limit` events, waiting for the first until `deadline_ns` (0: not at all).
    pub fn wait(&self, events: UserPtr<EpollEvent>, limit: usize, deadline_ns: u64) -> Result<usize> {
        loop {
            if self.shared.may_have_ready() {
                match self.collect(events, limit) {
                    Ok(0) => {}
                    result => return result,
                }
            }
            if deadline_ns == 0 {
                return Ok(0);
            }
            let ready = || self.shared.may_have_ready();
            let waited = self.shared.waiters.wait_event_exclusive_until(TaskState::Interruptible, deadline_ns, ready);
            match waited {
                Ok(()) => {}
                Err(Errno::ETIMEDOUT) => return Ok(0),
                // Never restarted (signal(7)).
                Err(_) => return Err(Errno::EINTR),
            }
        }
    }

    /// Takes each item of the ready list once, asks its file, and stores what holds (Linux `ep_send_events`). The lock
    /// makes who comes in between wait instead of finding the list empty.
    fn collect(&self, events: UserPtr<EpollEvent>, limit: usize) -> Result<usize> {
        let _watched = self.watched.lock();
        self.shared.scanning.store(true, Ordering::SeqCst);
        let mut again = Vec::new();
        let mut found = 0;
        let mut outcome = Ok(());
        let mut left = self.shared.ready.lock().len();
        while left > 0 && found < limit {
            left -= 1;
            let Some(item) = self.shared.ready.lock().pop_front() else { break };
            // Before the look: a wake-up during it puts the item back.
            item.queued.store(false, Ordering::Release);
            let Some(file) = item.file.upgrade() else { continue };
            let holds = item.look(&file, None);
            if holds == 0 {
                continue;
            }
            let (modes, data) = *item.interest.lock();
            outcome = events.index(found).write(&EpollEvent { events: holds, _pad: 0, data });
            if outcome.is_err() {
                self.put_back([item]);
                break;
            }
            found += 1;
            if modes & EPOLLONESHOT != 0 {
                item.interest.lock().0 &= PRIVATE_BITS;
            } else if modes & EPOLLET == 0 {
                again.push(item);
            }
        }
        self.put_back(again);
        self.shared.scanning.store(false, Ordering::SeqCst);
        // Who waits beside us gets what we left (Linux `ep_done_scan`).
        if !self.shared.ready.lock().is_empty() {
            self.shared.waiters.wake_one_for(POLLIN | POLLRDNORM);
        }
        if found > 0 { Ok(found) } else { outcome.map(|()| 0) }
    }

    fn put_back(&self, items: impl IntoIterator<Item = Arc<Item>>) {
        for item in items {
            if !item.queued.swap(true, Ordering::AcqRel) {
                self.shared.ready.lock().push_back(item);
            }
        }
    }
}

/// Takes an item back whose file is open.
fn forget_item(item: &Arc<Item>, file: &File) {
    if let Some(watchers) = file.watchers.get() {
        watchers.remove(item);
    }
    item.retire(file);
}

impl FileOps for EventPoll {
    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &[&self.shared.pollers]);
        let _watched = self.watched.lock();
        let ready: Vec<Arc<Item>> = self.shared.ready.lock().iter().cloned().collect();
        let any = ready.iter().any(|item| item.file.upgrade().is_some_and(|file| item.look(&file, None) != 0));
        if any { POLLIN | POLLRDNORM } else { 0 }
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn Write) {
        for item in self.watched.lock().by_fd.values().flatten() {
            let Some(file) = item.file.upgrade() else { continue };
            let (events, data) = *item.interest.lock();
            let position = if file.offset_rule() == OffsetRule::Seekable { *file.lock_offset() } else { 0 };
            // The reader's buffer takes everything.
            let _ = writeln!(
                out,
                "tfd: {:8} events: {events:8x} data: {data:16x}  pos:{position} ino:{:x} sdev:{:x}",
                item.fd,
                file.inode().ino,
                file.inode().sb.dev
            );
        }
    }
}

impl Drop for EventPoll {
    fn drop(&mut self) {
        let by_fd = core::mem::take(&mut self.watched.get_mut().by_fd);
        for item in by_fd.values().flatten() {
            match item.file.upgrade() {
                Some(file) => forget_item(item, &file),
                None => item.uncharge(self.shared.uid),
            }
        }
        let ready = core::mem::take(&mut *self.shared.ready.lock());
        drop(ready);
    }
}
