//! epoll(7): a set of files of interest, and the list of those that became ready.
//!
//! Each file of interest has an [`Item`] that is registered on the file's wait queues. A wake-up there puts the item on
//! the ready list and wakes whoever waits for the set; `wait` asks the files on the list what is really the case. A
//! level-triggered item that was reported goes back on the list, an edge-triggered one waits for the next wake-up.
//!
//! The wait queue of the set is woken from inside the wake-up of a file, so it has a lock level of its own; a set within
//! a set would need a third level, and is refused.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::fcntl::O_RDWR;
use abi::poll::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT, EPOLLWAKEUP, EpollEvent,
    POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM,
};
use hal::sync::IrqLock;

use super::file::{File, FileOps, OffsetRule};
use super::libfs::shared;
use super::poll::{PollTable, watch_all};
use super::pseudo;
use crate::Result;
use crate::sync::{Mutex, WaitQueue, Waiter, WakeCallback, order};
use crate::syscall::UserPtr;
use crate::task::TaskState;

/// What is not an event but a mode.
const PRIVATE_BITS: u32 = EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP;
/// What may go with EPOLLEXCLUSIVE (epoll_ctl(2)).
const EXCLUSIVE_OK: u32 = POLLIN | POLLOUT | POLLERR | POLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;

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
    waiter: spin::Once<Arc<Waiter>>,
}

/// What items and the set share.
struct Shared {
    ready: IrqLock<VecDeque<Arc<Item>>>,
    waiters: WaitQueue,
}

/// An epoll set.
pub struct EventPoll {
    shared: Arc<Shared>,
    items: Mutex<BTreeMap<i32, Vec<Arc<Item>>>>,
}

/// A new set's file.
pub fn new_file() -> Arc<File> {
    let set = Arc::new(Shared {
        ready: IrqLock::new(order::EPOLL_READY, VecDeque::new()),
        waiters: WaitQueue::with_level(order::EPOLL_WAIT),
    });
    pseudo::anon_file("[eventpoll]", shared(EventPoll { shared: set, items: Mutex::new(BTreeMap::new()) }), O_RDWR)
}

impl Shared {
    fn enqueue(&self, item: &Arc<Item>) {
        if !item.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().push_back(item.clone());
        }
        self.waiters.wake_one_for(POLLIN | POLLRDNORM);
    }

    fn has_ready(&self) -> bool {
        !self.ready.lock().is_empty()
    }
}

impl WakeCallback for Item {
    fn woken(&self, events: u32) {
        let wanted = self.interest.lock().0 & !PRIVATE_BITS;
        // A waker that names its events spares us those of no interest.
        if wanted == 0 || events != 0 && events & (wanted | POLLERR | POLLHUP) == 0 {
            return;
        }
        if let (Some(set), Some(this)) = (self.set.upgrade(), self.this.upgrade()) {
            set.enqueue(&this);
        }
    }
}

impl Item {
    /// What holds of the events of interest.
    fn look(&self, file: &File, table: Option<&mut PollTable>) -> u32 {
        let found = file.poll(table);
        let wanted = self.interest.lock().0;
        if wanted & !PRIVATE_BITS == 0 { 0 } else { found & (wanted | POLLERR | POLLHUP) & !PRIVATE_BITS }
    }

    fn unregister(&self) {
        if let (Some(file), Some(waiter)) = (self.file.upgrade(), self.waiter.get()) {
            file.poll(Some(&mut PollTable::unregistering(waiter.clone())));
        }
    }

    fn is_for(&self, file: &Arc<File>) -> bool {
        core::ptr::eq(self.file.as_ptr(), Arc::as_ptr(file))
    }
}

impl EventPoll {
    /// epoll_ctl(2) for descriptor `fd`, which is `file`.
    pub fn control(&self, operation: i32, fd: i32, file: &Arc<File>, event: &EpollEvent) -> Result<()> {
        if file.ops_as::<EventPoll>().is_some() {
            return Err(Errno::EINVAL);
        }
        let mut items = self.items.lock();
        let of_fd = items.entry(fd).or_default();
        // A descriptor number may be in use again after its file was closed.
        of_fd.retain(|item| item.file.strong_count() > 0);
        let at = of_fd.iter().position(|item| item.is_for(file));
        match (operation, at) {
            (EPOLL_CTL_ADD, Some(_)) => Err(Errno::EEXIST),
            (EPOLL_CTL_ADD, None) => {
                let item = self.add(fd, file, event)?;
                of_fd.push(item);
                Ok(())
            }
            (EPOLL_CTL_DEL | EPOLL_CTL_MOD, None) => Err(Errno::ENOENT),
            (EPOLL_CTL_DEL, Some(at)) => {
                let item = of_fd.remove(at);
                self.forget(&item);
                Ok(())
            }
            (EPOLL_CTL_MOD, Some(at)) => self.modify(&of_fd[at], file, event),
            _ => Err(Errno::EINVAL),
        }
    }

    fn add(&self, fd: i32, file: &Arc<File>, event: &EpollEvent) -> Result<Arc<Item>> {
        let exclusive = event.events & EPOLLEXCLUSIVE != 0;
        if exclusive && event.events & !EXCLUSIVE_OK != 0 {
            return Err(Errno::EINVAL);
        }
        let item = Arc::new_cyclic(|this: &Weak<Item>| Item {
            set: Arc::downgrade(&self.shared),
            this: this.clone(),
            fd,
            file: Arc::downgrade(file),
            interest: IrqLock::new(order::EPOLL_ITEM, (event.events, event.data)),
            queued: AtomicBool::new(false),
            waiter: spin::Once::new(),
        });
        let callback: Weak<dyn WakeCallback> = item.this.clone();
        let waiter = item.waiter.call_once(|| Waiter::for_callback(callback, exclusive)).clone();
        if item.look(file, Some(&mut PollTable::registering(waiter))) != 0 {
            self.shared.enqueue(&item);
        }
        Ok(item)
    }

    fn modify(&self, item: &Arc<Item>, file: &Arc<File>, event: &EpollEvent) -> Result<()> {
        let was_exclusive = item.interest.lock().0 & EPOLLEXCLUSIVE != 0;
        if was_exclusive || event.events & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        *item.interest.lock() = (event.events, event.data);
        if item.look(file, None) != 0 {
            self.shared.enqueue(item);
        }
        Ok(())
    }

    fn forget(&self, item: &Arc<Item>) {
        item.unregister();
        item.interest.lock().0 = 0;
        let mut ready = self.shared.ready.lock();
        let at = ready.iter().position(|other| Arc::ptr_eq(other, item));
        let gone = at.and_then(|at| ready.remove(at));
        drop(ready);
        drop(gone);
    }

    /// epoll_wait(2): stores up to `limit` events, waiting for the first until `deadline_ns` (0: not at all).
    pub fn wait(&self, events: UserPtr<EpollEvent>, limit: usize, deadline_ns: u64) -> Result<usize> {
        loop {
            let found = self.collect(limit);
            if !found.is_empty() {
                for (index, event) in found.iter().enumerate() {
                    events.index(index).write(event)?;
                }
                return Ok(found.len());
            }
            if deadline_ns == 0 {
                return Ok(0);
            }
            let waited =
                self.shared.waiters.wait_event_until(TaskState::Interruptible, deadline_ns, || self.shared.has_ready());
            match waited {
                Ok(()) => {}
                Err(Errno::ETIMEDOUT) => return Ok(0),
                // Never restarted (signal(7)).
                Err(_) => return Err(Errno::EINTR),
            }
        }
    }

    /// Takes each item of the ready list once and asks its file (`ep_send_events`).
    fn collect(&self, limit: usize) -> Vec<EpollEvent> {
        let mut found = Vec::new();
        let mut again = Vec::new();
        let mut left = self.shared.ready.lock().len();
        while left > 0 && found.len() < limit {
            left -= 1;
            let Some(item) = self.shared.ready.lock().pop_front() else { break };
            // Before the look: a wake-up during it puts the item back.
            item.queued.store(false, Ordering::Release);
            let Some(file) = item.file.upgrade() else { continue };
            let events = item.look(&file, None);
            if events == 0 {
                continue;
            }
            let mut interest = item.interest.lock();
            found.push(EpollEvent { events, _pad: 0, data: interest.1 });
            let modes = interest.0;
            if modes & EPOLLONESHOT != 0 {
                interest.0 &= PRIVATE_BITS;
            }
            drop(interest);
            if modes & (EPOLLONESHOT | EPOLLET) == 0 {
                again.push(item);
            }
        }
        for item in again {
            if !item.queued.swap(true, Ordering::AcqRel) {
                self.shared.ready.lock().push_back(item);
            }
        }
        found
    }
}

impl FileOps for EventPoll {
    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &[&self.shared.waiters]);
        let ready: Vec<Arc<Item>> = self.shared.ready.lock().iter().cloned().collect();
        let any = ready.iter().any(|item| item.file.upgrade().is_some_and(|file| item.look(&file, None) != 0));
        if any { POLLIN | POLLRDNORM } else { 0 }
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn Write) {
        for item in self.items.lock().values().flatten() {
            let Some(file) = item.file.upgrade() else { continue };
            let (events, data) = *item.interest.lock();
            // Errors and hang-ups are always of interest.
            let events = events | POLLERR | POLLHUP;
            // The reader's buffer takes everything.
            let _ = writeln!(
                out,
                "tfd: {:8} events: {events:8x} data: {data:16x}  pos:0 ino:{:x} sdev:{:x}",
                item.fd,
                file.inode().ino,
                file.inode().sb.dev
            );
        }
    }
}

impl Drop for EventPoll {
    fn drop(&mut self) {
        for item in self.items.get_mut().values().flatten() {
            item.unregister();
        }
        let ready = core::mem::take(&mut *self.shared.ready.lock());
        drop(ready);
    }
}
