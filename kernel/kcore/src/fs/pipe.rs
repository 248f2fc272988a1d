//! Pipes and FIFOs: pipe(7), fifo(7).
//!
//! A [`Pipe`] is a ring of slots of one frame each (Linux `pipe_inode_info`): 16, so 64 KiB, unless F_SETPIPE_SZ said
//! otherwise. Bytes go from user memory to the frame and from the frame to user memory, once each. The sleeping lock
//! serialises readers and writers, which makes writes of up to PIPE_BUF bytes atomic: such a write either fits into the
//! last frame or takes one slot.
//!
//! Wake-ups happen only on the edges that matter: a writer wakes readers when the pipe was empty, a reader wakes writers
//! when it was full (Linux `pipe_write`, `pipe_read`). The edge conditions are atomics, so that a waiter can look at them
//! without the lock.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use abi::Errno;
use abi::fcntl as f;
use abi::poll::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use abi::signal::{SI_USER, SIGPIPE, SigInfo};
use hal::mem::{PAGE_SIZE, Pfn};

use super::file::{File, FileOps, OffsetRule, OpsRef};
use super::inode::Inode;
use super::poll::{PollTable, watch_all};
use super::pseudo::{self, PseudoFs};
use super::super_block::FsType;
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::mm::frame;
use crate::sync::{Mutex, WaitQueue};
use crate::task::{Creds, TaskState, current};

pub mod splice;

pub use splice::Patience;

/// Writes of at most this many bytes are atomic (PIPE_BUF).
pub const ATOMIC_BYTES: usize = PAGE_SIZE;
/// Slots of a new pipe (Linux `PIPE_DEF_BUFFERS`).
const DEFAULT_SLOTS: usize = 16;
/// Emptied frames that a pipe keeps for its next writes.
const SPARE_FRAMES: usize = 16;

hal::global! {
    /// `/proc/sys/fs/pipe-max-size`: what a user without CAP_SYS_RESOURCE may ask for, bytes.
    pub static MAX_SIZE: AtomicUsize = AtomicUsize::new(1 << 20);
}

/// A reference to a frame: of the pipe's own, or of a file's page.
struct Frame {
    pfn: Pfn,
    /// It holds a count. Boot frames and the frame of zeros have none.
    counted: bool,
}

impl Frame {
    fn allocate() -> Result<Self> {
        frame::allocate().map(|pfn| Self { pfn, counted: true })
    }

    fn share(&self) -> Self {
        if self.counted {
            frame::get(self.pfn);
        }
        Self { pfn: self.pfn, counted: self.counted }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.counted {
            frame::put(self.pfn);
        }
    }
}

/// A frame and the bytes in it that nobody has read.
struct Slot {
    frame: Frame,
    offset: usize,
    length: usize,
    /// One write of O_DIRECT: it is read alone and nothing is appended to it (pipe(2) "packet mode").
    packet: bool,
    /// Others may see the frame as well: nothing is appended to it, and it is not used again.
    shared: bool,
}

struct Ring {
    slots: VecDeque<Slot>,
    spare: Vec<Frame>,
}

/// The object between the ends.
pub struct Pipe {
    ring: Mutex<Ring>,
    /// Slots in use, and how many there may be; written under the lock.
    used: AtomicUsize,
    limit: AtomicUsize,
    /// Open ends.
    readers: AtomicU32,
    writers: AtomicU32,
    /// Count opens: a FIFO's opener waits for the other side's to move.
    reader_opens: AtomicU32,
    writer_opens: AtomicU32,
    readable: WaitQueue,
    writable: WaitQueue,
    /// Somebody polled: every write is news to edge-triggered pollers (Linux `poll_usage`).
    polled: AtomicBool,
}

impl Pipe {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ring: Mutex::new(Ring { slots: VecDeque::new(), spare: Vec::new() }),
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(DEFAULT_SLOTS),
            readers: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            reader_opens: AtomicU32::new(0),
            writer_opens: AtomicU32::new(0),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
            polled: AtomicBool::new(false),
        })
    }

    fn is_empty(&self) -> bool {
        self.used.load(Ordering::SeqCst) == 0
    }

    fn is_full(&self) -> bool {
        self.used.load(Ordering::SeqCst) >= self.limit.load(Ordering::SeqCst)
    }

    fn has_readers(&self) -> bool {
        self.readers.load(Ordering::SeqCst) != 0
    }

    fn has_writers(&self) -> bool {
        self.writers.load(Ordering::SeqCst) != 0
    }

    /// Sleeps until nobody has the reading end open, or a signal comes.
    pub fn wait_for_last_reader(&self) {
        // Killed while it waits: the reader is left alone (Linux `wait_for_dump_helpers`).
        let _ = self.writable.wait_event(TaskState::Interruptible, || !self.has_readers());
    }

    fn wake_readers(&self) {
        self.readable.wake_one_for(POLLIN | POLLRDNORM);
    }

    fn wake_writers(&self) {
        self.writable.wake_one_for(POLLOUT | POLLWRNORM);
    }

    /// Reads what is there, waiting for the first byte. 0 at the end: no writer is left.
    fn read(&self, dst: &mut IoDst<'_>, nonblocking: bool) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let mut slept = false;
        loop {
            // An empty pipe is left unlocked: its reader goes to sleep at once.
            if !self.is_empty() {
                let mut ring = self.ring.lock();
                let was_full = self.is_full();
                let outcome = ring.drain(dst);
                self.used.store(ring.slots.len(), Ordering::SeqCst);
                let more = !ring.slots.is_empty();
                drop(ring);
                if was_full && !self.is_full() {
                    self.wake_writers();
                }
                match outcome {
                    Ok(0) => {}
                    result => {
                        // Another reader was passed over when this one was woken for all of it. A reader that was not
                        // woken took nobody's turn: what it leaves is no news (Linux `wake_next_reader`).
                        if more && slept {
                            self.wake_readers();
                        }
                        return result;
                    }
                }
            }
            if !self.has_writers() {
                return Ok(0);
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            self.readable.wait_event_exclusive(TaskState::Interruptible, || !self.is_empty() || !self.has_writers())?;
            slept = true;
        }
    }

    /// Writes everything, waiting for room; less when a signal comes, or without waiting.
    fn write(&self, src: &mut IoSrc<'_>, nonblocking: bool, packets: bool) -> Result<usize> {
        let mut done = 0;
        let mut slept = false;
        if src.remaining() == 0 {
            return Ok(0);
        }
        loop {
            if !self.has_readers() {
                return broken(done);
            }
            let mut ring = self.ring.lock();
            let was_empty = ring.slots.is_empty();
            let outcome = ring.fill(src, self.limit.load(Ordering::SeqCst), packets, done == 0 && !was_empty);
            self.used.store(ring.slots.len(), Ordering::SeqCst);
            let now_empty = ring.slots.is_empty();
            drop(ring);
            if !now_empty && (was_empty || self.polled.load(Ordering::Relaxed)) {
                self.wake_readers();
            }
            match outcome {
                Ok(moved) => done += moved,
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            }
            if src.remaining() == 0 {
                // A writer that waits gets the room that this one left.
                if slept && !self.is_full() {
                    self.wake_writers();
                }
                return Ok(done);
            }
            let waited = if nonblocking {
                Err(Errno::EAGAIN)
            } else {
                self.writable.wait_event_exclusive(TaskState::Interruptible, || !self.is_full() || !self.has_readers())
            };
            if let Err(error) = waited {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
            slept = true;
        }
    }

    /// Bytes that can be read (FIONREAD).
    fn bytes(&self) -> usize {
        self.ring.lock().slots.iter().map(|slot| slot.length).sum()
    }

    /// F_SETPIPE_SZ: rounds up to a power of two of pages. Returns the new size.
    fn set_size(&self, bytes: u64) -> Result<usize> {
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= 1 << 31).ok_or(Errno::EINVAL)?;
        let slots = bytes.div_ceil(PAGE_SIZE).max(1).next_power_of_two();
        let size = slots * PAGE_SIZE;
        let limit = self.limit.load(Ordering::SeqCst);
        if slots > limit
            && size > MAX_SIZE.load(Ordering::Relaxed)
            && !current().capable(abi::capability::CAP_SYS_RESOURCE)
        {
            return Err(Errno::EPERM);
        }
        let ring = self.ring.lock();
        if ring.slots.len() > slots {
            return Err(Errno::EBUSY);
        }
        self.limit.store(slots, Ordering::SeqCst);
        drop(ring);
        if slots > limit {
            self.writable.wake_all_for(POLLOUT | POLLWRNORM);
        }
        Ok(size)
    }

    fn size(&self) -> usize {
        self.limit.load(Ordering::SeqCst) * PAGE_SIZE
    }

    /// An end was opened; whoever waits for it in a FIFO's open looks again.
    fn add(&self, ends: Ends) {
        if ends.reads {
            self.readers.fetch_add(1, Ordering::SeqCst);
            self.reader_opens.fetch_add(1, Ordering::SeqCst);
            self.writable.wake_all();
        }
        if ends.writes {
            self.writers.fetch_add(1, Ordering::SeqCst);
            self.writer_opens.fetch_add(1, Ordering::SeqCst);
            self.readable.wake_all();
        }
    }

    /// An end was closed. With the last one of a side, the other side sees the end (pipe(7)).
    fn remove(&self, ends: Ends) {
        let last_reader = ends.reads && self.readers.fetch_sub(1, Ordering::SeqCst) == 1;
        let last_writer = ends.writes && self.writers.fetch_sub(1, Ordering::SeqCst) == 1;
        if last_reader {
            self.writable.wake_all_for(POLLOUT | POLLWRNORM | POLLERR | POLLHUP);
        }
        if last_writer {
            self.readable.wake_all_for(POLLIN | POLLRDNORM | POLLERR | POLLHUP);
        }
        if !self.has_readers() && !self.has_writers() {
            // A FIFO that nobody has open holds no data (fifo(7)).
            let mut ring = self.ring.lock();
            let slots = core::mem::take(&mut ring.slots);
            self.used.store(0, Ordering::SeqCst);
            drop(ring);
            drop(slots);
        }
    }
}

/// The write cannot go on because nobody reads: SIGPIPE and `EPIPE`, unless something was written before.
fn broken(done: usize) -> Result<usize> {
    if done > 0 {
        return Ok(done);
    }
    let task = current();
    let info = SigInfo::user(SIGPIPE, SI_USER, task.tgid(), task.creds().uid);
    crate::signal::send::send_thread_info(&task.arc(), &info);
    Err(Errno::EPIPE)
}

impl Ring {
    /// Moves bytes out: all that fit, or one packet.
    fn drain(&mut self, dst: &mut IoDst<'_>) -> Result<usize> {
        let mut done = 0;
        while dst.remaining() > 0 {
            let Some(slot) = self.slots.front_mut() else { break };
            let want = slot.length.min(dst.remaining());
            let moved = match dst.put_frame(slot.frame.pfn, slot.offset, want) {
                Ok(moved) => moved,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            done += moved;
            slot.offset += moved;
            slot.length -= moved;
            let packet = slot.packet;
            if slot.length == 0 || packet {
                // What of a packet does not fit is lost (pipe(2)).
                if let Some(slot) = self.slots.pop_front()
                    && self.spare.len() < SPARE_FRAMES
                    && !slot.shared
                {
                    self.spare.push(slot.frame);
                }
            }
            if packet || moved < want {
                break;
            }
        }
        Ok(done)
    }

    /// Moves bytes in while there are slots. `may_append`: what does not fill pages may go behind the last bytes.
    fn fill(&mut self, src: &mut IoSrc<'_>, limit: usize, packets: bool, may_append: bool) -> Result<usize> {
        let mut done = 0;
        let odd = src.remaining() % PAGE_SIZE;
        if may_append
            && odd != 0
            && let Some(last) = self.slots.back_mut()
            && !last.packet
            && !last.shared
            && last.offset + last.length + odd <= PAGE_SIZE
        {
            let moved = src.take_into_frame(last.frame.pfn, last.offset + last.length, odd)?;
            last.length += moved;
            done += moved;
            if moved < odd {
                return Ok(done);
            }
        }
        while src.remaining() > 0 && self.slots.len() < limit {
            let frame = match self.spare.pop() {
                Some(frame) => frame,
                None => match Frame::allocate() {
                    Ok(frame) => frame,
                    Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
                },
            };
            let want = src.remaining().min(PAGE_SIZE);
            match src.take_into_frame(frame.pfn, 0, want) {
                Ok(length) => {
                    self.slots.push_back(Slot { frame, offset: 0, length, packet: packets, shared: false });
                    done += length;
                    if length < want {
                        break;
                    }
                }
                Err(error) => {
                    self.spare.push(frame);
                    return if done > 0 { Ok(done) } else { Err(error) };
                }
            }
        }
        Ok(done)
    }
}

/// Which sides of a pipe a file has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ends {
    reads: bool,
    writes: bool,
}

/// An open end of a pipe or FIFO.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    ends: Ends,
    /// A reader of a FIFO that was opened without a writer sees no hang-up before one came (Linux `f_version`).
    no_hang_up_at: Option<u32>,
}

impl PipeEnd {
    fn new(pipe: Arc<Pipe>, ends: Ends) -> Self {
        pipe.add(ends);
        Self { pipe, ends, no_hang_up_at: None }
    }

    /// The pipe between.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    fn events(&self) -> u32 {
        let mut events = 0;
        if self.ends.reads {
            if !self.pipe.is_empty() {
                events |= POLLIN | POLLRDNORM;
            }
            if !self.pipe.has_writers() && self.no_hang_up_at != Some(self.pipe.writer_opens.load(Ordering::SeqCst)) {
                events |= POLLHUP;
            }
        }
        if self.ends.writes {
            if !self.pipe.is_full() {
                events |= POLLOUT | POLLWRNORM;
            }
            // poll(2): POLLERR "is also set for a file descriptor referring to the write end of a pipe when the read end
            // has been closed".
            if !self.pipe.has_readers() {
                events |= POLLERR;
            }
        }
        events
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.pipe.remove(self.ends);
    }
}

impl FileOps for PipeEnd {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        self.pipe.read(dst, file.is_nonblocking() || dst.is_nowait())
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        let flags = file.flags();
        self.pipe.write(src, flags & f::O_NONBLOCK != 0 || src.is_nowait(), flags & f::O_DIRECT != 0)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        self.pipe.polled.store(true, Ordering::Relaxed);
        match (self.ends.reads, self.ends.writes) {
            (true, false) => watch_all(table, &[&self.pipe.readable]),
            (false, true) => watch_all(table, &[&self.pipe.writable]),
            _ => watch_all(table, &[&self.pipe.readable, &self.pipe.writable]),
        }
        self.events()
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        Ok(self.pipe.bytes())
    }

    fn fcntl(&self, _file: &File, command: u32, argument: u64) -> Result<usize> {
        match command {
            f::F_GETPIPE_SZ => Ok(self.pipe.size()),
            f::F_SETPIPE_SZ => self.pipe.set_size(argument & 0xffff_ffff),
            _ => Err(Errno::EINVAL),
        }
    }

    fn can_nowait(&self, _file: &File) -> bool {
        true
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }
}

static PIPEFS: FsType = FsType { name: "pipefs", mount: pseudo::not_mountable };

hal::global! {
    static FS: spin::Once<PseudoFs> = spin::Once::new();
}

/// The two files of a new pipe, reader and writer, on one inode (pipe(2)). `flags` are O_NONBLOCK and O_DIRECT.
pub fn new_files(creds: &Creds, flags: u32) -> (Arc<File>, Arc<File>) {
    let fs = FS.call_once(|| PseudoFs::new(&PIPEFS, abi::stat::PIPEFS_MAGIC));
    let inode = fs.inode(abi::stat::S_IFIFO | 0o600, creds, None);
    let pipe = Pipe::new();
    // An open through /proc/PID/fd finds the pipe as it finds a FIFO's.
    let any: Arc<dyn Any + Send + Sync> = pipe.clone();
    *inode.fifo.lock() = Some(Arc::downgrade(&any));
    let reader = PipeEnd::new(pipe.clone(), Ends { reads: true, writes: false });
    let writer = PipeEnd::new(pipe, Ends { reads: false, writes: true });
    let reader = fs.file_of("pipe", &inode, OpsRef::Shared(Arc::new(reader)), f::O_RDONLY | flags);
    let writer = fs.file_of("pipe", &inode, OpsRef::Shared(Arc::new(writer)), f::O_WRONLY | flags);
    (reader, writer)
}

/// The pipe of a FIFO's inode, shared by everybody who has it open.
fn pipe_of(inode: &Inode) -> Arc<Pipe> {
    let mut slot = inode.fifo.lock();
    let open = slot.as_ref().and_then(Weak::upgrade).and_then(|any: Arc<dyn Any + Send + Sync>| any.downcast().ok());
    if let Some(pipe) = open {
        return pipe;
    }
    let pipe = Pipe::new();
    let any: Arc<dyn Any + Send + Sync> = pipe.clone();
    let old = slot.replace(Arc::downgrade(&any));
    drop(slot);
    drop(old);
    pipe
}

/// Opens a FIFO (fifo(7)): a reader waits for a writer and the other way round, unless O_NONBLOCK; a nonblocking writer
/// without reader is `ENXIO`; O_RDWR never waits. Nobody waits for the other side of a pipe of pipe(2), opened again
/// through `/proc/PID/fd` (Linux `fifo_open`, `is_pipe`).
pub fn open_fifo(inode: &Inode, flags: u32) -> Result<OpsRef> {
    let nonblocking = flags & f::O_NONBLOCK != 0;
    let named = inode.sb.magic != abi::stat::PIPEFS_MAGIC;
    let ends = match flags & f::O_ACCMODE {
        f::O_RDONLY => Ends { reads: true, writes: false },
        f::O_WRONLY => Ends { reads: false, writes: true },
        f::O_RDWR => Ends { reads: true, writes: true },
        _ => return Err(Errno::EINVAL),
    };
    let pipe = pipe_of(inode);
    if named && ends == (Ends { reads: false, writes: true }) && nonblocking && !pipe.has_readers() {
        return Err(Errno::ENXIO);
    }
    let (reader_opens, writer_opens) =
        (pipe.reader_opens.load(Ordering::SeqCst), pipe.writer_opens.load(Ordering::SeqCst));
    let mut end = PipeEnd::new(pipe.clone(), ends);
    if named && ends.reads && !ends.writes && !pipe.has_writers() {
        if nonblocking {
            end.no_hang_up_at = Some(writer_opens);
        } else {
            pipe.readable.wait_event(TaskState::Interruptible, || {
                pipe.has_writers() || pipe.writer_opens.load(Ordering::SeqCst) != writer_opens
            })?;
        }
    }
    if named && ends.writes && !ends.reads && !pipe.has_readers() {
        pipe.writable.wait_event(TaskState::Interruptible, || {
            pipe.has_readers() || pipe.reader_opens.load(Ordering::SeqCst) != reader_opens
        })?;
    }
    Ok(OpsRef::Shared(Arc::new(end)))
}
