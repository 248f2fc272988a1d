//! What waits to be received by one socket: a queue of messages.
//!
//! A stream forgets where a message began, a packet (`SOCK_SEQPACKET`, `SOCK_DGRAM`) is read alone. Bytes are copied into
//! the queue and out of it; the sleeping lock serialises, the atomics are what waiters look at without it.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::Errno;
use abi::poll::{POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRNORM};

use super::Kind;
use super::address::Name;
use super::ancillary::Ancillary;
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::sync::{Mutex, WaitQueue};

/// What of a message has not been read.
pub struct Message {
    bytes: Vec<u8>,
    taken: usize,
    /// The sender's name, if it has one.
    pub from: Option<Arc<Name>>,
    pub ancillary: Ancillary,
}

impl Message {
    /// Copies `want` bytes in.
    pub fn new(src: &mut IoSrc<'_>, want: usize, from: Option<Arc<Name>>, ancillary: Ancillary) -> Result<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(want).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(want, 0);
        if src.take(&mut bytes)? < want {
            return Err(Errno::EFAULT);
        }
        Ok(Self { bytes, taken: 0, from, ancillary })
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.taken
    }
}

/// What one look into the queue found.
pub struct Taken {
    /// Bytes stored.
    pub length: usize,
    /// Bytes of the packet, however many of them fitted.
    pub whole: usize,
    pub from: Option<Arc<Name>>,
    pub ancillary: Ancillary,
}

/// One socket's queue.
pub struct Channel {
    queue: Mutex<VecDeque<Message>>,
    /// Messages and bytes in the queue; written under its lock.
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// Nothing will be sent any more: the peer is gone or has shut down sending.
    sender_gone: AtomicBool,
    /// Nobody will receive any more.
    receiver_gone: AtomicBool,
    /// Woken when there is something to receive, to accept, or an end to see.
    pub readable: WaitQueue,
    /// Woken when there is room.
    pub writable: WaitQueue,
}

impl Channel {
    pub fn new() -> Self {
        Self {
            queue: Mutex::new(VecDeque::new()),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            sender_gone: AtomicBool::new(false),
            receiver_gone: AtomicBool::new(false),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        }
    }

    pub fn messages(&self) -> usize {
        self.messages.load(Ordering::SeqCst)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    pub fn has_data(&self) -> bool {
        self.messages() > 0
    }

    pub fn is_ended(&self) -> bool {
        self.sender_gone.load(Ordering::SeqCst)
    }

    pub fn is_broken(&self) -> bool {
        self.receiver_gone.load(Ordering::SeqCst)
    }

    pub fn end_sending(&self) {
        self.sender_gone.store(true, Ordering::SeqCst);
        self.readable.wake_all_for(POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP);
    }

    pub fn end_receiving(&self) {
        self.receiver_gone.store(true, Ordering::SeqCst);
        // The receiver sees the end too.
        self.readable.wake_all_for(POLLIN | POLLRDNORM | POLLRDHUP);
        self.writable.wake_all_for(POLLOUT | POLLWRNORM | POLLHUP);
    }

    pub fn push(&self, message: Message) {
        let mut queue = self.queue.lock();
        queue.push_back(message);
        self.count(&queue);
        drop(queue);
        self.readable.wake_one_for(POLLIN | POLLRDNORM);
    }

    /// Takes what is there of a stream, or one packet. `None` when the queue is empty.
    pub fn take(&self, dst: &mut IoDst<'_>, kind: Kind, peek: bool) -> Result<Option<Taken>> {
        let mut queue = self.queue.lock();
        if queue.is_empty() {
            return Ok(None);
        }
        let mut removed = Vec::new();
        let outcome = match kind {
            Kind::Stream => take_bytes(&mut queue, dst, peek, &mut removed),
            Kind::Packets | Kind::Datagrams => take_packet(&mut queue, dst, peek, &mut removed),
        };
        self.count(&queue);
        drop(queue);
        drop(removed);
        if !peek {
            self.writable.wake_one_for(POLLOUT | POLLWRNORM);
        }
        outcome.map(Some)
    }

    /// Empties the queue; what was in it may be dropped when no lock is held.
    pub fn purge(&self) -> VecDeque<Message> {
        let mut queue = self.queue.lock();
        let messages = core::mem::take(&mut *queue);
        self.count(&queue);
        messages
    }

    /// Calls `visit` for each message.
    pub fn each(&self, mut visit: impl FnMut(&Message)) {
        self.queue.lock().iter().for_each(&mut visit);
    }

    fn count(&self, queue: &VecDeque<Message>) {
        self.messages.store(queue.len(), Ordering::SeqCst);
        self.bytes.store(queue.iter().map(Message::left).sum(), Ordering::SeqCst);
    }
}

/// Moves bytes from the front of a queue that is not empty. Bytes with files are not glued to those behind them, nor bytes
/// of different senders to each other (unix(7), Linux `unix_stream_read_generic`).
fn take_bytes(
    queue: &mut VecDeque<Message>,
    dst: &mut IoDst<'_>,
    peek: bool,
    removed: &mut Vec<Message>,
) -> Result<Taken> {
    let mut taken = Taken { length: 0, whole: 0, from: None, ancillary: Ancillary::default() };
    let mut at = 0;
    while let Some(message) = queue.get_mut(at) {
        if at + removed.len() == 0 {
            taken.from = message.from.clone();
            taken.ancillary.sender = message.ancillary.sender;
        } else if message.ancillary.sender != taken.ancillary.sender || dst.remaining() == 0 {
            break;
        }
        let moved = match dst.put(&message.bytes[message.taken..]) {
            Ok(moved) => moved,
            Err(_) if taken.length > 0 => break,
            Err(error) => return Err(error),
        };
        let complete = moved == message.left();
        taken.length += moved;
        taken.whole = taken.length;
        taken.ancillary.files = match peek {
            true => message.ancillary.files.clone(),
            false => core::mem::take(&mut message.ancillary.files),
        };
        if !peek {
            taken.ancillary.charge = message.ancillary.charge.take();
        }
        if peek {
            at += 1;
        } else {
            message.taken += moved;
            if complete {
                removed.extend(queue.pop_front());
            }
        }
        if !complete || !taken.ancillary.files.is_empty() {
            break;
        }
    }
    Ok(taken)
}

/// Moves the first packet; what of it does not fit is lost (recv(2)).
fn take_packet(
    queue: &mut VecDeque<Message>,
    dst: &mut IoDst<'_>,
    peek: bool,
    removed: &mut Vec<Message>,
) -> Result<Taken> {
    let Some(message) = queue.front_mut() else { return Err(Errno::EAGAIN) };
    let length = message.bytes.len();
    let moved = dst.put(&message.bytes)?;
    let mut taken = Taken {
        length: moved,
        whole: length,
        from: message.from.clone(),
        ancillary: Ancillary { sender: message.ancillary.sender, files: Vec::new(), charge: None },
    };
    if peek {
        taken.ancillary.files = message.ancillary.files.clone();
    } else {
        taken.ancillary.files = core::mem::take(&mut message.ancillary.files);
        removed.extend(queue.pop_front());
    }
    Ok(taken)
}
