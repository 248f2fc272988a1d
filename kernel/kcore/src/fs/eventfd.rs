//! eventfd(2): a counter that can be waited for.

use alloc::sync::Arc;
use core::fmt::Write;

use abi::Errno;
use abi::fcntl::O_RDWR;
use abi::poll::{EFD_NONBLOCK, EFD_SEMAPHORE, POLLERR, POLLIN, POLLOUT};
use hal::sync::SpinLock;

use super::file::{File, FileOps, OffsetRule};
use super::libfs::shared;
use super::poll::{PollTable, watch_all};
use super::pseudo;
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::sync::{WaitQueue, order};
use crate::task::TaskState;

/// The counter never reaches this by a write.
const FULL: u64 = u64::MAX;

struct EventFd {
    count: SpinLock<u64>,
    /// EFD_SEMAPHORE: a read takes one.
    semaphore: bool,
    changed: WaitQueue,
}

/// A new eventfd's file.
pub fn new_file(initial: u64, flags: u32) -> Arc<File> {
    let ops = EventFd {
        count: SpinLock::new(order::CHANNEL, initial),
        semaphore: flags & EFD_SEMAPHORE != 0,
        changed: WaitQueue::new(),
    };
    pseudo::anon_file("[eventfd]", shared(ops), O_RDWR | flags & EFD_NONBLOCK)
}

impl EventFd {
    fn take(&self) -> Option<u64> {
        let mut count = self.count.lock();
        let taken = if self.semaphore { (*count).min(1) } else { *count };
        *count -= taken;
        (taken > 0).then_some(taken)
    }

    fn add(&self, value: u64) -> bool {
        let mut count = self.count.lock();
        let fits = FULL - *count > value;
        if fits {
            *count += value;
        }
        fits
    }
}

impl FileOps for EventFd {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = loop {
            if let Some(value) = self.take() {
                break value;
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            self.changed.wait_event(TaskState::Interruptible, || *self.count.lock() > 0)?;
        };
        self.changed.wake_all_for(POLLOUT);
        dst.put(&value.to_le_bytes())
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        if src.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if src.take(&mut bytes)? < 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_le_bytes(bytes);
        if value == FULL {
            return Err(Errno::EINVAL);
        }
        while !self.add(value) {
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            self.changed.wait_event(TaskState::Interruptible, || FULL - *self.count.lock() > value)?;
        }
        self.changed.wake_all_for(POLLIN);
        Ok(8)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &[&self.changed]);
        let count = *self.count.lock();
        let readable = if count > 0 { POLLIN } else { 0 };
        let writable = if count < FULL - 1 { POLLOUT } else { 0 };
        let overflown = if count == FULL { POLLERR } else { 0 };
        readable | writable | overflown
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn Write) {
        // The reader's buffer takes everything.
        let _ = writeln!(out, "eventfd-count: {:16x}", *self.count.lock());
    }
}
