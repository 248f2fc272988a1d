//! splice(2), tee(2) and vmsplice(2): moving what is in a pipe without a copy where there is a page to refer to.
//!
//! A file's pages go into a pipe by reference, and from pipe to pipe slots move or are shared. What has no pages (devices,
//! sockets) is read into frames of the pipe; what leaves a pipe for a file is written out of the frames. vmsplice(2) copies:
//! its manual page forbids to touch memory that was given away, so that nobody may tell the difference.
//!
//! While a slot is on its way to a file it is in nobody's ring, so that no lock is held when the file makes us wait; what
//! the file did not take is put back at the front.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use hal::mem::PAGE_SIZE;

use super::{Frame, Pipe, Ring, Slot, broken};
use crate::Result;
use crate::fs::file::{File, OffsetRule};
use crate::fs::notify;
use crate::io::{IoDst, IoSrc};
use crate::mm::frame;
use crate::mm::mapping::Mapping;
use crate::sync::MutexGuard;
use crate::task::TaskState;

/// Most bytes that are read from a file without pages at a time.
const CHUNK: usize = 64 << 10;

/// Whether a call may wait (SPLICE_F_NONBLOCK, O_NONBLOCK of the pipe).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// `EAGAIN` instead.
    None,
    /// Until it can go on, or a signal comes.
    Wait,
}

impl Slot {
    /// The same bytes once more.
    fn share(&self, length: usize) -> Slot {
        Slot { frame: self.frame.share(), offset: self.offset, length, packet: false, shared: true }
    }

    /// Splits the first `length` bytes off.
    fn split(&mut self, length: usize) -> Slot {
        let head = self.share(length);
        self.shared = true;
        self.offset += length;
        self.length -= length;
        head
    }
}

impl Pipe {
    /// Waits until there is something; false when no writer is left (Linux `ipipe_prep`).
    fn wait_for_data(&self, patience: Patience) -> Result<bool> {
        while self.is_empty() {
            if !self.has_writers() {
                return Ok(false);
            }
            if patience == Patience::None {
                return Err(Errno::EAGAIN);
            }
            self.readable.wait_event_exclusive(TaskState::Interruptible, || !self.is_empty() || !self.has_writers())?;
        }
        Ok(true)
    }

    /// Waits until a slot is free; `EPIPE` and SIGPIPE when no reader is left (Linux `wait_for_space`).
    fn wait_for_room(&self, patience: Patience) -> Result<()> {
        loop {
            if !self.has_readers() {
                return broken(0).map(|_| ());
            }
            if !self.is_full() {
                return Ok(());
            }
            if patience == Patience::None {
                return Err(Errno::EAGAIN);
            }
            self.writable.wait_event_exclusive(TaskState::Interruptible, || !self.is_full() || !self.has_readers())?;
        }
    }

    fn free_slots(&self) -> usize {
        self.limit.load(Ordering::SeqCst).saturating_sub(self.used.load(Ordering::SeqCst))
    }

    /// Publishes the state of the ring and wakes whom it concerns.
    fn changed(&self, ring: MutexGuard<'_, Ring>, was_empty: bool, was_full: bool) {
        self.used.store(ring.slots.len(), Ordering::SeqCst);
        let now_empty = ring.slots.is_empty();
        drop(ring);
        if !now_empty && (was_empty || self.polled.load(Ordering::Relaxed)) {
            self.wake_readers();
        }
        if was_full && !self.is_full() {
            self.wake_writers();
        }
    }

    fn push(&self, slots: Vec<Slot>) {
        let mut ring = self.ring.lock();
        let was_empty = ring.slots.is_empty();
        ring.slots.extend(slots);
        self.changed(ring, was_empty, false);
    }

    /// Splices up to `length` bytes of `file` into the pipe, from `*at` on.
    pub fn splice_from_file(&self, file: &File, at: &mut u64, length: usize, patience: Patience) -> Result<usize> {
        self.wait_for_room(patience)?;
        let length = length.min(self.free_slots().max(1) * PAGE_SIZE);
        let slots = match file.inode().mapping() {
            Some(mapping) if file.inode().is_regular() => {
                let slots = pages_of(mapping, *at, length, self.free_slots().max(1));
                file.inode().touch_accessed();
                slots
            }
            _ => copies_of(file, *at, length, patience)?,
        };
        let done: usize = slots.iter().map(|slot| slot.length).sum();
        *at += done as u64;
        if done > 0 {
            self.push(slots);
        }
        Ok(done)
    }

    /// Splices up to `length` bytes of the pipe to `file`, at `*at` or at the file's own offset.
    pub fn splice_to_file(
        &self,
        file: &File,
        at: &mut Option<u64>,
        length: usize,
        patience: Patience,
    ) -> Result<usize> {
        let mut done = 0;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
        buffer.resize(PAGE_SIZE, 0);
        while done < length {
            if done > 0 && self.is_empty() || !self.wait_for_data(patience)? {
                break;
            }
            let Some(slot) = self.take(length - done) else { continue };
            let Some(bytes) = buffer.get_mut(..slot.length) else { return Err(Errno::EIO) };
            hal::mem::read(slot.frame.pfn, slot.offset, bytes);
            let outcome = match at {
                Some(at) => file.write_at(&mut IoSrc::kernel(bytes), *at),
                None => file.write(&mut IoSrc::kernel(bytes)),
            };
            let written = *outcome.as_ref().unwrap_or(&0);
            done += written;
            if let Some(at) = at {
                *at += written as u64;
            }
            if written < slot.length {
                self.put_back(slot, written);
                return if done > 0 { Ok(done) } else { outcome };
            }
        }
        Ok(done)
    }

    /// Takes the first slot out, or as much of it.
    fn take(&self, most: usize) -> Option<Slot> {
        let mut ring = self.ring.lock();
        let was_full = self.is_full();
        let taken = match ring.slots.front_mut() {
            Some(slot) if slot.length > most => Some(slot.split(most)),
            _ => ring.slots.pop_front(),
        };
        self.changed(ring, true, was_full);
        taken
    }

    /// Puts what a file did not take back to the front.
    fn put_back(&self, mut slot: Slot, written: usize) {
        slot.offset += written;
        slot.length -= written;
        let mut ring = self.ring.lock();
        let was_empty = ring.slots.is_empty();
        ring.slots.push_front(slot);
        self.changed(ring, was_empty, false);
    }

    /// Locks both rings, in the order of their addresses.
    fn lock_both<'a>(&'a self, other: &'a Pipe) -> (MutexGuard<'a, Ring>, MutexGuard<'a, Ring>) {
        if core::ptr::from_ref(self).addr() < core::ptr::from_ref(other).addr() {
            let mine = self.ring.lock();
            (mine, other.ring.lock())
        } else {
            let others = other.ring.lock();
            (self.ring.lock(), others)
        }
    }

    /// Moves up to `length` bytes into another pipe (Linux `splice_pipe_to_pipe`).
    pub fn splice_to_pipe(&self, other: &Pipe, length: usize, patience: Patience) -> Result<usize> {
        self.transfer(other, length, patience, |ring, length| match ring.slots.front_mut() {
            Some(slot) if slot.length > length => Some(slot.split(length)),
            _ => ring.slots.pop_front(),
        })
    }

    /// Shows up to `length` bytes to another pipe as well (Linux `link_pipe`).
    pub fn tee(&self, other: &Pipe, length: usize, patience: Patience) -> Result<usize> {
        let mut at = 0;
        self.transfer(other, length, patience, move |ring, length| {
            let slot = ring.slots.get(at).map(|slot| slot.share(slot.length.min(length)));
            at += 1;
            slot
        })
    }

    /// Fills `other` with what `next` gives of this ring, at most `length` bytes.
    fn transfer(
        &self,
        other: &Pipe,
        length: usize,
        patience: Patience,
        mut next: impl FnMut(&mut Ring, usize) -> Option<Slot>,
    ) -> Result<usize> {
        loop {
            if !self.wait_for_data(patience)? {
                return Ok(0);
            }
            other.wait_for_room(patience)?;
            let (mut from, mut to) = self.lock_both(other);
            let (was_full, was_empty) = (self.is_full(), to.slots.is_empty());
            let mut done = 0;
            while done < length && to.slots.len() < other.limit.load(Ordering::SeqCst) {
                let Some(slot) = next(&mut from, length - done) else { break };
                done += slot.length;
                to.slots.push_back(slot);
            }
            self.changed(from, true, was_full);
            other.changed(to, was_empty, false);
            // Somebody was faster: wait again.
            if done > 0 {
                return Ok(done);
            }
        }
    }

    /// Takes user memory in, once there is room for the first page (Linux `vmsplice_to_pipe`).
    pub fn vmsplice_in(&self, src: &mut IoSrc<'_>, patience: Patience) -> Result<usize> {
        self.wait_for_room(patience)?;
        let mut ring = self.ring.lock();
        let was_empty = ring.slots.is_empty();
        let outcome = ring.fill(src, self.limit.load(Ordering::SeqCst), false, false);
        self.changed(ring, was_empty, false);
        outcome
    }

    /// Gives what there is to user memory.
    pub fn vmsplice_out(&self, dst: &mut IoDst<'_>, patience: Patience) -> Result<usize> {
        self.read(dst, patience == Patience::None)
    }
}

/// References to the pages of a file; holes are the page of zeros.
fn pages_of(mapping: &Arc<Mapping>, at: u64, length: usize, most: usize) -> Vec<Slot> {
    let page = PAGE_SIZE as u64;
    let end = mapping.size().min(at.saturating_add(length as u64));
    let mut slots = Vec::new();
    let mut at = at;
    while at < end && slots.len() < most {
        let offset = at % page;
        let length = (page - offset).min(end - at);
        let frame = match mapping.page_if_cached(at / page) {
            Some(found) => Frame { pfn: found.pfn, counted: !found.uncounted },
            None => Frame { pfn: frame::zero_frame(), counted: false },
        };
        slots.push(Slot { frame, offset: offset as usize, length: length as usize, packet: false, shared: true });
        at += length;
    }
    slots
}

/// Frames filled by one read of a file that has no pages to refer to (Linux `copy_splice_read`).
fn copies_of(file: &File, at: u64, length: usize, patience: Patience) -> Result<Vec<Slot>> {
    let mut buffer = Vec::new();
    let length = length.min(CHUNK);
    buffer.try_reserve_exact(length).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(length, 0);
    // Before the read: what was read from a socket could not be given back.
    let mut frames = Vec::new();
    for _ in 0..length.div_ceil(PAGE_SIZE) {
        frames.push(Frame::allocate()?);
    }
    let mut dst = IoDst::kernel(&mut buffer);
    if patience == Patience::None {
        dst.set_nowait();
    }
    let got = if file.offset_rule() == OffsetRule::Stream { file.read(&mut dst)? } else { file.read_at(&mut dst, at)? };
    let mut slots = Vec::new();
    for (bytes, frame) in buffer.get(..got).unwrap_or_default().chunks(PAGE_SIZE).zip(frames) {
        hal::mem::write(frame.pfn, 0, bytes);
        slots.push(Slot { frame, offset: 0, length: bytes.len(), packet: false, shared: false });
    }
    Ok(slots)
}

/// What every successful splice tells: bytes of `from` were read. Writes tell for themselves.
pub fn told(from: &File, outcome: &Result<usize>) {
    notify::accessed(from, outcome);
}
