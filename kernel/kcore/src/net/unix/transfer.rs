//! Sending and receiving: send(2), recv(2), and what read(2) and write(2) do on a socket.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::signal::{SI_USER, SIGPIPE, SigInfo};

use super::ancillary::{Ancillary, Sender};
use super::channel::{Message, Taken};
use super::{Address, Endpoint, Kind, Link, Name, Socket};
use crate::Result;
use crate::fs::File;
use crate::io::{IoDst, IoSrc};
use crate::task::{TaskState, current};

/// A stream's bytes are queued in pieces of at most this.
const PIECE_BYTES: usize = 32 << 10;

/// How one transfer behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Transfer {
    /// O_NONBLOCK or MSG_DONTWAIT.
    pub nonblocking: bool,
    /// MSG_NOSIGNAL: no SIGPIPE.
    pub silent: bool,
    /// MSG_PEEK: what is read stays.
    pub peek: bool,
    /// MSG_WAITALL: a stream's reader waits until all is there.
    pub all: bool,
}

impl Transfer {
    /// What read(2) and write(2) do.
    pub fn plain(file: &File) -> Self {
        Self { nonblocking: file.is_nonblocking(), ..Self::default() }
    }
}

/// What was received.
pub struct Received {
    /// Bytes stored.
    pub length: usize,
    /// A packet's bytes, however many of them fitted; of a stream, those stored.
    pub whole: usize,
    /// The sender's name.
    pub from: Option<Arc<Name>>,
    /// Files and credentials.
    pub ancillary: Ancillary,
}

impl From<Taken> for Received {
    fn from(taken: Taken) -> Self {
        Self { length: taken.length, whole: taken.whole, from: taken.from, ancillary: taken.ancillary }
    }
}

/// How a wait with SO_RCVTIMEO or SO_SNDTIMEO ends: `EAGAIN` when the time is over, and with a timeout a signal does not
/// restart the call (signal(7), Linux `sock_intr_errno`).
pub fn timed(waited: Result<()>, deadline: u64) -> Result<()> {
    waited.map_err(|error| match error {
        Errno::ETIMEDOUT => Errno::EAGAIN,
        Errno::ERESTARTSYS if deadline != u64::MAX => Errno::EINTR,
        other => other,
    })
}

impl Socket {
    /// recv(2): what is there of a stream, or one packet; nothing at the end.
    pub fn receive(&self, dst: &mut IoDst<'_>, how: Transfer) -> Result<Received> {
        let endpoint = &self.endpoint;
        let kind = self.kind();
        if kind != Kind::Datagrams {
            match *endpoint.link.lock() {
                Link::Connected(_) | Link::Closed => {}
                // recv(2): EINVAL for a stream (unix_stream_read_generic), ENOTCONN for packets (unix_seqpacket_recvmsg).
                _ if kind == Kind::Stream => return Err(Errno::EINVAL),
                _ => return Err(Errno::ENOTCONN),
            }
        }
        let mut received = Received { length: 0, whole: 0, from: None, ancillary: Ancillary::default() };
        if kind == Kind::Stream && dst.remaining() == 0 {
            return Ok(received);
        }
        let deadline = endpoint.options.receive_deadline();
        loop {
            if let Some(taken) = endpoint.incoming.take(dst, kind, how.peek)? {
                let first = received.length == 0;
                let sofar = received.length;
                let files = !taken.ancillary.files.is_empty();
                if first {
                    received = taken.into();
                } else {
                    received.length = sofar + taken.length;
                    received.whole = received.length;
                    received.ancillary.files.extend(taken.ancillary.files);
                }
                let enough = kind != Kind::Stream || !how.all || how.peek || dst.remaining() == 0 || files;
                if enough {
                    return Ok(received);
                }
                continue;
            }
            if received.length == 0
                && let Some(error) = endpoint.take_error()
            {
                return Err(error);
            }
            if endpoint.is_ended() {
                return Ok(received);
            }
            let waited = if how.nonblocking {
                Err(Errno::EAGAIN)
            } else {
                let arrived = || endpoint.incoming.has_data() || endpoint.is_ended();
                let state = TaskState::Interruptible;
                timed(endpoint.incoming.readable.wait_event_until(state, deadline, arrived), deadline)
            };
            if let Err(error) = waited {
                return if received.length > 0 { Ok(received) } else { Err(error) };
            }
        }
    }

    /// send(2): all of `src`, waiting for room; a packet as a whole or not at all. `to` is the address of a datagram, else
    /// the peer gets it. `sender`: what SCM_CREDENTIALS said.
    pub fn send(
        &self,
        src: &mut IoSrc<'_>,
        to: Option<&Address>,
        files: Vec<Arc<File>>,
        sender: Option<Sender>,
        how: Transfer,
    ) -> Result<usize> {
        let other = self.receiver(to)?;
        let kind = self.kind();
        self.name_for_credentials()?;
        if kind != Kind::Stream && src.remaining() > self.endpoint.options.send_buffer() {
            return Err(Errno::EMSGSIZE);
        }
        // An empty message would be the end to a stream's reader.
        if kind == Kind::Stream && src.remaining() == 0 {
            return Ok(0);
        }
        let wanted = self.endpoint.options.pass_credentials() || other.options.pass_credentials();
        let sender = sender.or_else(|| wanted.then(real_caller));
        let mut ancillary = Ancillary { sender, files, charge: None };
        ancillary.depart()?;
        let mut done = 0;
        loop {
            if self.endpoint.sends_no_more.load(Ordering::SeqCst) || is_broken(&other) {
                return self.broken(&other, done, how);
            }
            if self.endpoint.has_room_at(&other) {
                let want = if kind == Kind::Stream { src.remaining().min(PIECE_BYTES) } else { src.remaining() };
                let files = core::mem::take(&mut ancillary.files);
                let piece = Ancillary { sender: ancillary.sender, files, charge: ancillary.charge.take() };
                match Message::new(src, want, self.name(), piece) {
                    Ok(message) => other.incoming.push(message),
                    Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
                }
                done += want;
                if src.remaining() == 0 || kind != Kind::Stream {
                    return Ok(done);
                }
                continue;
            }
            let waited = if how.nonblocking { Err(Errno::EAGAIN) } else { self.wait_for_room(&other) };
            if let Err(error) = waited {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
    }

    fn wait_for_room(&self, other: &Arc<Endpoint>) -> Result<()> {
        let deadline = self.endpoint.options.send_deadline();
        let changed = || {
            self.endpoint.has_room_at(other) || is_broken(other) || self.endpoint.sends_no_more.load(Ordering::SeqCst)
        };
        timed(other.incoming.writable.wait_event_until(TaskState::Interruptible, deadline, changed), deadline)
    }

    /// Whom a message goes to.
    fn receiver(&self, to: Option<&Address>) -> Result<Arc<Endpoint>> {
        match (self.kind(), to) {
            (Kind::Datagrams, Some(address)) => {
                let task = current();
                let other = self.find(address, &task.creds())?;
                if self.may_send_to(&other) { Ok(other) } else { Err(Errno::EPERM) }
            }
            // unix_stream_sendmsg and unix_seqpacket_sendmsg.
            (Kind::Stream, Some(_)) if self.endpoint.is_connected() => Err(Errno::EISCONN),
            (Kind::Stream, Some(_)) => Err(Errno::EOPNOTSUPP),
            _ => self.endpoint.peer(),
        }
    }

    /// Nobody receives: `EPIPE` and SIGPIPE, for datagrams `ECONNREFUSED` (unix(7)), unless something was sent before.
    fn broken(&self, other: &Arc<Endpoint>, done: usize, how: Transfer) -> Result<usize> {
        if done > 0 {
            return Ok(done);
        }
        let closed = matches!(*other.link.lock(), Link::Closed);
        if self.kind() == Kind::Datagrams && closed {
            let mut link = self.endpoint.link.lock();
            let ours = matches!(&*link, Link::Connected(peer) if Arc::ptr_eq(peer, other));
            // unix_dgram_sendmsg: the connection to a dead peer is dissolved.
            let old = if ours { core::mem::replace(&mut *link, Link::Unconnected) } else { Link::Unconnected };
            drop(link);
            drop(old);
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

/// Whether nothing can be sent there any more.
fn is_broken(other: &Endpoint) -> bool {
    other.incoming.is_broken() || (other.incoming.is_ended() && other.kind != Kind::Datagrams)
}

/// Who sends, for SCM_CREDENTIALS: the real ids (unix(7)).
fn real_caller() -> Sender {
    let task = current();
    let creds = task.creds();
    Sender { pid: task.tgid(), uid: creds.uid, gid: creds.gid }
}
