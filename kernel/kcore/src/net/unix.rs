//! Connected pairs of AF_UNIX sockets: unix(7), socketpair(2).
//!
//! Each direction is a [`Channel`]: a queue of messages between one sender and one receiver. A stream forgets where a
//! message began, a packet (`SOCK_SEQPACKET`, `SOCK_DGRAM`) is read alone. Bytes are copied into the queue and out of it;
//! the sleeping lock serialises each side, the atomics are what waiters look at without it.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::Errno;
use abi::fcntl::O_RDWR;
use abi::poll::{POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRNORM};
use abi::signal::{SI_USER, SIGPIPE, SigInfo};
use abi::socket as s;

use crate::Result;
use crate::fs::file::{File, FileOps, OffsetRule, OpsRef};
use crate::fs::poll::{PollTable, watch_all};
use crate::fs::pseudo::{self, PseudoFs};
use crate::fs::super_block::FsType;
use crate::io::{IoDst, IoSrc};
use crate::sync::{Mutex, WaitQueue};
use crate::task::{Creds, TaskState, current};

/// Bytes that may wait in one direction (Linux `wmem_default`).
const QUEUE_BYTES: usize = 212_992;
/// A stream's bytes are queued in pieces of at most this.
const PIECE_BYTES: usize = 32 << 10;

/// How bytes are kept apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Not at all.
    Stream,
    /// Each write is read alone.
    Packets,
    /// As packets, but the end of the peer is not the end of the data.
    Datagrams,
}

impl Kind {
    /// From the type argument of socketpair(2) without its flags.
    pub fn from_type(kind: u32) -> Result<Self> {
        match kind {
            s::SOCK_STREAM => Ok(Kind::Stream),
            s::SOCK_SEQPACKET => Ok(Kind::Packets),
            // unix_create turns SOCK_RAW into SOCK_DGRAM.
            s::SOCK_DGRAM | s::SOCK_RAW => Ok(Kind::Datagrams),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        }
    }

    /// What SO_TYPE says.
    fn number(self) -> u32 {
        match self {
            Kind::Stream => s::SOCK_STREAM,
            Kind::Packets => s::SOCK_SEQPACKET,
            Kind::Datagrams => s::SOCK_DGRAM,
        }
    }
}

/// What of a message has not been read.
struct Message {
    bytes: Vec<u8>,
    taken: usize,
}

/// One direction.
struct Channel {
    queue: Mutex<VecDeque<Message>>,
    /// Messages and bytes in the queue; written under its lock.
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// Nothing will be sent any more.
    sender_gone: AtomicBool,
    /// Nobody will receive any more.
    receiver_gone: AtomicBool,
    readable: WaitQueue,
    writable: WaitQueue,
}

/// How one transfer behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// O_NONBLOCK or MSG_DONTWAIT.
    pub nonblocking: bool,
    /// MSG_NOSIGNAL: no SIGPIPE.
    pub silent: bool,
    /// MSG_PEEK: what is read stays.
    pub peek: bool,
    /// MSG_TRUNC: the result is the packet's length, however much of it fitted.
    pub whole_length: bool,
}

impl Transfer {
    /// What read(2) and write(2) do.
    fn plain(file: &File) -> Self {
        Self { nonblocking: file.is_nonblocking(), silent: false, peek: false, whole_length: false }
    }
}

impl Channel {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(VecDeque::new()),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            sender_gone: AtomicBool::new(false),
            receiver_gone: AtomicBool::new(false),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        })
    }

    fn has_data(&self) -> bool {
        self.messages.load(Ordering::SeqCst) > 0
    }

    fn has_room(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) < QUEUE_BYTES
    }

    fn is_ended(&self) -> bool {
        self.sender_gone.load(Ordering::SeqCst)
    }

    fn is_broken(&self) -> bool {
        self.receiver_gone.load(Ordering::SeqCst)
    }

    fn end_sending(&self) {
        self.sender_gone.store(true, Ordering::SeqCst);
        self.readable.wake_all_for(POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP);
    }

    fn end_receiving(&self) {
        self.receiver_gone.store(true, Ordering::SeqCst);
        self.writable.wake_all_for(POLLOUT | POLLWRNORM | POLLHUP);
    }

    /// Receives: what is there of a stream, or one packet. 0 at the end.
    fn receive(&self, dst: &mut IoDst<'_>, kind: Kind, how: Transfer) -> Result<usize> {
        if kind == Kind::Stream && dst.remaining() == 0 {
            return Ok(0);
        }
        loop {
            let mut queue = self.queue.lock();
            if !queue.is_empty() {
                let outcome = take(&mut queue, dst, kind, how);
                self.count(&queue);
                drop(queue);
                self.writable.wake_one_for(POLLOUT | POLLWRNORM);
                return outcome;
            }
            drop(queue);
            if self.is_broken() || (self.is_ended() && kind != Kind::Datagrams) {
                return Ok(0);
            }
            if how.nonblocking {
                return Err(Errno::EAGAIN);
            }
            self.readable
                .wait_event(TaskState::Interruptible, || self.has_data() || self.is_ended() || self.is_broken())?;
        }
    }

    /// Sends all of `src`, waiting for room. A packet is queued whole or not at all.
    fn send(&self, src: &mut IoSrc<'_>, kind: Kind, how: Transfer) -> Result<usize> {
        if kind != Kind::Stream && src.remaining() > QUEUE_BYTES {
            return Err(Errno::EMSGSIZE);
        }
        // An empty message would be the end to a stream's reader.
        if kind == Kind::Stream && src.remaining() == 0 {
            return Ok(0);
        }
        let mut done = 0;
        loop {
            if self.is_broken() || self.is_ended() {
                return self.broken(done, kind, how);
            }
            if self.has_room() {
                let want = if kind == Kind::Stream { src.remaining().min(PIECE_BYTES) } else { src.remaining() };
                match self.push(src, want) {
                    Ok(moved) => done += moved,
                    Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
                }
                if src.remaining() == 0 || kind != Kind::Stream {
                    return Ok(done);
                }
                continue;
            }
            let waited = if how.nonblocking {
                Err(Errno::EAGAIN)
            } else {
                self.writable
                    .wait_event(TaskState::Interruptible, || self.has_room() || self.is_broken() || self.is_ended())
            };
            if let Err(error) = waited {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
    }

    /// Copies `want` bytes in and queues them as one message. A stream queues no empty ones.
    fn push(&self, src: &mut IoSrc<'_>, want: usize) -> Result<usize> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(want).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(want, 0);
        let moved = src.take(&mut bytes)?;
        if moved < want {
            return Err(Errno::EFAULT);
        }
        let mut queue = self.queue.lock();
        queue.push_back(Message { bytes, taken: 0 });
        self.count(&queue);
        drop(queue);
        self.readable.wake_one_for(POLLIN | POLLRDNORM);
        Ok(moved)
    }

    fn count(&self, queue: &VecDeque<Message>) {
        self.messages.store(queue.len(), Ordering::SeqCst);
        self.bytes.store(queue.iter().map(|message| message.bytes.len() - message.taken).sum(), Ordering::SeqCst);
    }

    /// Nobody receives: `EPIPE` and SIGPIPE, for datagrams `ECONNREFUSED` (unix(7)), unless something was sent before.
    fn broken(&self, done: usize, kind: Kind, how: Transfer) -> Result<usize> {
        if done > 0 {
            return Ok(done);
        }
        if kind == Kind::Datagrams && self.is_broken() {
            return Err(Errno::ECONNREFUSED);
        }
        if !how.silent {
            let task = current();
            let info = SigInfo::user(SIGPIPE, SI_USER, task.tgid(), task.creds().uid);
            crate::signal::send::send_thread_info(&task.arc(), &info);
        }
        Err(Errno::EPIPE)
    }
}

/// Moves bytes from the front of a queue that is not empty.
fn take(queue: &mut VecDeque<Message>, dst: &mut IoDst<'_>, kind: Kind, how: Transfer) -> Result<usize> {
    let mut done = 0;
    let mut at = 0;
    while let Some(message) = queue.get_mut(at) {
        let rest = &message.bytes[message.taken..];
        let length = rest.len();
        let moved = match dst.put(rest) {
            Ok(moved) => moved,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        done += moved;
        let packet = kind != Kind::Stream;
        if packet && how.whole_length {
            done = length;
        }
        if how.peek {
            at += 1;
        } else {
            message.taken += moved;
            // What of a packet does not fit is lost (recv(2)).
            if packet || moved == length {
                queue.pop_front();
            }
        }
        if packet || moved < length || dst.remaining() == 0 {
            break;
        }
    }
    Ok(done)
}

/// One end of a pair.
pub struct Socket {
    kind: Kind,
    incoming: Arc<Channel>,
    outgoing: Arc<Channel>,
}

impl Socket {
    /// SO_TYPE.
    pub fn type_number(&self) -> u32 {
        self.kind.number()
    }

    /// recv(2). Returns the result of the call.
    pub fn receive(&self, file: &File, dst: &mut IoDst<'_>, how: Transfer) -> Result<usize> {
        self.incoming.receive(dst, self.kind, Transfer { nonblocking: how.nonblocking || file.is_nonblocking(), ..how })
    }

    /// send(2).
    pub fn send(&self, file: &File, src: &mut IoSrc<'_>, how: Transfer) -> Result<usize> {
        self.outgoing.send(src, self.kind, Transfer { nonblocking: how.nonblocking || file.is_nonblocking(), ..how })
    }

    /// shutdown(2).
    pub fn shutdown(&self, how: u32) -> Result<()> {
        if how > s::SHUT_RDWR {
            return Err(Errno::EINVAL);
        }
        if how != s::SHUT_WR {
            self.incoming.end_receiving();
            // Whoever waits here sees the end too.
            self.incoming.readable.wake_all_for(POLLIN | POLLRDNORM | POLLRDHUP);
        }
        if how != s::SHUT_RD {
            self.outgoing.end_sending();
            self.outgoing.writable.wake_all_for(POLLOUT | POLLWRNORM | POLLHUP);
        }
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.outgoing.end_sending();
        self.incoming.end_receiving();
    }
}

impl FileOps for Socket {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        self.receive(file, dst, Transfer::plain(file))
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        self.send(file, src, Transfer::plain(file))
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &[&self.incoming.readable, &self.outgoing.writable]);
        let ended = self.kind != Kind::Datagrams && (self.incoming.is_ended() || self.incoming.is_broken());
        let hung_up = ended && (self.outgoing.is_broken() || self.outgoing.is_ended());
        let mut events = 0;
        if self.incoming.has_data() || ended {
            events |= POLLIN | POLLRDNORM;
        }
        if ended {
            events |= POLLRDHUP;
        }
        if hung_up {
            events |= POLLHUP;
        }
        if self.outgoing.has_room() {
            events |= POLLOUT | POLLWRNORM;
        }
        events
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        Ok(self.incoming.bytes.load(Ordering::SeqCst))
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }
}

static SOCKFS: FsType = FsType { name: "sockfs", mount: pseudo::not_mountable };

hal::global! {
    static FS: spin::Once<PseudoFs> = spin::Once::new();
}

/// The two files of a new pair. `flags` is O_NONBLOCK or nothing.
pub fn new_pair(kind: Kind, creds: &Creds, flags: u32) -> (Arc<File>, Arc<File>) {
    let fs = FS.call_once(|| PseudoFs::new(&SOCKFS, abi::stat::SOCKFS_MAGIC));
    let (one, other) = (Channel::new(), Channel::new());
    let ends = [(one.clone(), other.clone()), (other, one)];
    let [first, second] = ends.map(|(incoming, outgoing)| {
        let socket = Socket { kind, incoming, outgoing };
        fs.file("socket", abi::stat::S_IFSOCK | 0o777, creds, OpsRef::Shared(Arc::new(socket)), O_RDWR | flags)
    });
    (first, second)
}
