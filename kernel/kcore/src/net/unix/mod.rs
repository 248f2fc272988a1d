//! AF_UNIX sockets: unix(7).
//!
//! A [`Socket`] is the open file, an [`Endpoint`] what others know of it: its kind, its name, the [`Channel`] of what it
//! has yet to receive, and its [`Link`]. Sending puts a message into the channel of another endpoint. A connection is two
//! endpoints that are each other's peer; the one on a listener's side has no file before accept(2) makes one.

mod address;
mod ancillary;
mod channel;
mod options;
mod transfer;

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use abi::fcntl::O_RDWR;
use abi::poll::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRNORM};
use abi::socket as s;
use abi::socket::{SIOCINQ, SIOCOUTQ};
use hal::sync::SpinLock;

pub use self::address::{Address, Name, walk_context};
pub use self::ancillary::{Ancillary, Sender};
use self::channel::Channel;
pub use self::options::Options;
pub use self::transfer::{Received, Transfer};
use crate::Result;
use crate::fs::file::{File, FileOps, OffsetRule, OpsRef};
use crate::fs::poll::{PollTable, watch_all};
use crate::fs::pseudo::{self, PseudoFs};
use crate::fs::super_block::FsType;
use crate::io::{IoDst, IoSrc};
use crate::sync::{Mutex, order};
use crate::syscall::UserPtr;
use crate::task::{Creds, TaskState, current};

/// Datagrams that may wait at a receiver that is not connected to the sender (`/proc/sys/net/unix/max_dgram_qlen`).
const MAX_DATAGRAMS: usize = 10;

/// How bytes are kept apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Not at all.
    Stream,
    /// Each write is read alone.
    Packets,
    /// As packets, but the end of the peer is not the end of the data, and everybody may send.
    Datagrams,
}

impl Kind {
    /// From the type argument of socket(2) without its flags.
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
    pub fn number(self) -> u32 {
        match self {
            Kind::Stream => s::SOCK_STREAM,
            Kind::Packets => s::SOCK_SEQPACKET,
            Kind::Datagrams => s::SOCK_DGRAM,
        }
    }
}

/// To whom an endpoint belongs.
enum Link {
    /// Nobody.
    Unconnected,
    /// Connections are made to it.
    Listening,
    /// The peer; of a datagram socket, whom it sends to.
    Connected(Arc<Endpoint>),
    /// The peer went away, or the endpoint itself.
    Closed,
}

/// What others know of a socket.
pub struct Endpoint {
    kind: Kind,
    incoming: Channel,
    link: SpinLock<Link>,
    /// Set once, by bind(2), connect(2) with SO_PASSCRED, or, for an accepted one, the listener's.
    name: spin::Once<Arc<Name>>,
    /// bind(2) or connect(2) is under way: one at a time.
    naming: Mutex<()>,
    /// Connections that wait for accept(2), and how many may.
    pending: SpinLock<VecDeque<Arc<Endpoint>>>,
    backlog: AtomicUsize,
    /// SO_PEERCRED: who connected, or listened, or made the pair.
    peer: spin::Once<Sender>,
    /// Who listens, for those who connect.
    listener: SpinLock<Option<Sender>>,
    /// SO_ERROR, which can be one thing: the peer closed without having read all (`ECONNRESET`).
    reset: AtomicBool,
    options: Options,
    /// The inode of its file; 0 before accept(2) makes one.
    ino: AtomicU64,
    /// shutdown(2) for sending, when there is no peer whose channel could say it.
    sends_no_more: AtomicBool,
}

impl Endpoint {
    fn new(kind: Kind) -> Arc<Self> {
        let endpoint = Arc::new(Self {
            kind,
            incoming: Channel::new(),
            link: SpinLock::new(order::CHANNEL, Link::Unconnected),
            name: spin::Once::new(),
            naming: Mutex::new(()),
            pending: SpinLock::new(order::SOCKET_PENDING, VecDeque::new()),
            backlog: AtomicUsize::new(0),
            peer: spin::Once::new(),
            listener: SpinLock::new(order::SOCKET_PENDING, None),
            reset: AtomicBool::new(false),
            options: Options::default(),
            ino: AtomicU64::new(0),
            sends_no_more: AtomicBool::new(false),
        });
        let mut all = ALL.lock();
        if all.len() == all.capacity() {
            all.retain(|endpoint| endpoint.strong_count() > 0);
        }
        all.push(Arc::downgrade(&endpoint));
        drop(all);
        endpoint
    }

    /// Who is at the other end: `ENOTCONN` without one.
    fn peer(&self) -> Result<Arc<Endpoint>> {
        match &*self.link.lock() {
            Link::Connected(peer) => Ok(peer.clone()),
            _ => Err(Errno::ENOTCONN),
        }
    }

    fn is_listening(&self) -> bool {
        matches!(*self.link.lock(), Link::Listening)
    }

    fn is_connected(&self) -> bool {
        matches!(*self.link.lock(), Link::Connected(_))
    }

    fn set_link(&self, link: Link) {
        let old = core::mem::replace(&mut *self.link.lock(), link);
        // The last reference to a peer may end here, with no lock held.
        drop(old);
    }

    /// SO_ERROR, which reading clears.
    fn take_error(&self) -> Option<Errno> {
        self.reset.swap(false, Ordering::SeqCst).then_some(Errno::ECONNRESET)
    }

    fn set_reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
    }

    /// Calls `visit` for each file on its way to this endpoint, or to one that waits to be accepted here.
    fn each_file(&self, mut visit: impl FnMut(&Arc<File>)) {
        self.incoming.each(|message| message.ancillary.files.iter().for_each(&mut visit));
        let pending: alloc::vec::Vec<_> = self.pending.lock().iter().cloned().collect();
        for endpoint in pending {
            endpoint.incoming.each(|message| message.ancillary.files.iter().for_each(&mut visit));
        }
    }

    /// Takes out all that waits here.
    fn purge(&self) -> VecDeque<channel::Message> {
        let mut messages = self.incoming.purge();
        let pending: alloc::vec::Vec<_> = self.pending.lock().iter().cloned().collect();
        pending.iter().for_each(|endpoint| messages.extend(endpoint.incoming.purge()));
        messages
    }

    /// The end (Linux `unix_release_sock`). What the peer has yet to receive stays with it.
    fn close(&self) {
        if let Some(name) = self.name.get()
            && !self.has_listeners_name()
        {
            address::unbind(name);
        }
        let link = core::mem::replace(&mut *self.link.lock(), Link::Closed);
        let unread = self.incoming.has_data();
        self.incoming.end_receiving();
        drop(self.purge());
        let pending = core::mem::take(&mut *self.pending.lock());
        for endpoint in pending {
            if let Ok(client) = endpoint.peer() {
                client.set_reset();
            }
            endpoint.close();
        }
        self.incoming.writable.wake_all_for(POLLOUT | POLLWRNORM | POLLHUP);
        if let Link::Connected(peer) = link
            && self.kind != Kind::Datagrams
        {
            if unread {
                peer.set_reset();
            }
            peer.incoming.end_sending();
            peer.incoming.writable.wake_all_for(POLLOUT | POLLWRNORM | POLLHUP);
        }
    }

    /// An accepted endpoint shows the listener's name and does not own it.
    fn has_listeners_name(&self) -> bool {
        self.options.borrowed_name.load(Ordering::Relaxed)
    }
}

/// The open file of an endpoint.
pub struct Socket {
    endpoint: Arc<Endpoint>,
}

/// Who calls, for SO_PEERCRED: the effective ids (socket(7)).
fn caller() -> Sender {
    let task = current();
    let creds = task.creds();
    Sender { pid: task.tgid(), uid: creds.euid, gid: creds.egid }
}

impl Socket {
    /// What others know of it.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.endpoint.kind
    }

    /// bind(2): `EINVAL` when it has a name.
    pub fn bind(&self, address: Address) -> Result<()> {
        let task = current();
        let creds = task.creds();
        let _turn = self.endpoint.naming.lock();
        if self.endpoint.name.get().is_some() {
            return match address {
                // unix_autobind: asking for any name when there is one is no error.
                Address::Unnamed => Ok(()),
                _ => Err(Errno::EINVAL),
            };
        }
        let name = address::bind(&self.endpoint, address, walk_context(&creds), task.fs().umask())?;
        self.endpoint.name.call_once(|| name);
        Ok(())
    }

    /// Gives a socket that has to say who it is a name (unix(7), SO_PASSCRED and "Autobind feature").
    fn name_for_credentials(&self) -> Result<()> {
        if self.endpoint.options.pass_credentials() && self.endpoint.name.get().is_none() {
            let _turn = self.endpoint.naming.lock();
            if self.endpoint.name.get().is_none() {
                let name = address::bind_automatic(&self.endpoint)?;
                self.endpoint.name.call_once(|| name);
            }
        }
        Ok(())
    }

    /// listen(2).
    pub fn listen(&self, backlog: i32) -> Result<()> {
        if self.kind() == Kind::Datagrams {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.endpoint.name.get().is_none() {
            return Err(Errno::EINVAL);
        }
        {
            let mut link = self.endpoint.link.lock();
            match *link {
                Link::Unconnected | Link::Listening => *link = Link::Listening,
                _ => return Err(Errno::EINVAL),
            }
        }
        *self.endpoint.listener.lock() = Some(caller());
        // __sys_listen: a negative backlog is the most there is.
        let backlog = usize::try_from(backlog).unwrap_or(usize::MAX).min(s::SOMAXCONN as usize);
        self.endpoint.backlog.store(backlog, Ordering::SeqCst);
        self.endpoint.incoming.writable.wake_all();
        Ok(())
    }

    /// connect(2). `None` (AF_UNSPEC) dissolves what a datagram socket is connected to.
    pub fn connect(&self, address: Option<&Address>, nonblocking: bool) -> Result<()> {
        let task = current();
        let creds = task.creds();
        if self.kind() == Kind::Datagrams {
            let Some(address) = address else {
                self.endpoint.set_link(Link::Unconnected);
                return Ok(());
            };
            self.name_for_credentials()?;
            let other = self.find(address, &creds)?;
            if !self.may_send_to(&other) {
                return Err(Errno::EPERM);
            }
            self.endpoint.set_link(Link::Connected(other));
            return Ok(());
        }
        let address = address.ok_or(Errno::EINVAL)?;
        self.name_for_credentials()?;
        loop {
            let listener = self.find(address, &creds)?;
            if self.try_connect(&listener)? {
                return Ok(());
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            let state = TaskState::Interruptible;
            let deadline = self.endpoint.options.send_deadline();
            let changed = || !listener.is_full() || !listener.is_listening();
            transfer::timed(listener.incoming.writable.wait_event_until(state, deadline, changed), deadline)?;
        }
    }

    fn find(&self, address: &Address, creds: &Creds) -> Result<Arc<Endpoint>> {
        let other = address::find(address, walk_context(creds))?;
        if other.kind != self.kind() {
            return Err(Errno::EPROTOTYPE);
        }
        Ok(other)
    }

    /// A datagram socket that is connected takes datagrams from its peer only (Linux `unix_may_send`).
    fn may_send_to(&self, other: &Arc<Endpoint>) -> bool {
        match &*other.link.lock() {
            Link::Connected(peer) => Arc::ptr_eq(peer, &self.endpoint),
            _ => true,
        }
    }

    /// Makes the connection. `false`: as many as may wait do.
    fn try_connect(&self, listener: &Arc<Endpoint>) -> Result<bool> {
        // Two threads must not connect one socket twice.
        let _turn = self.endpoint.naming.lock();
        match *self.endpoint.link.lock() {
            Link::Unconnected => {}
            Link::Connected(_) => return Err(Errno::EISCONN),
            Link::Listening | Link::Closed => return Err(Errno::EINVAL),
        }
        let server = Endpoint::new(self.kind());
        let listening = *listener.listener.lock();
        {
            // A listener that closes takes the lock of its link first, and then those who wait.
            let link = listener.link.lock();
            if !matches!(*link, Link::Listening) || listener.incoming.is_broken() {
                return Err(Errno::ECONNREFUSED);
            }
            let mut pending = listener.pending.lock();
            if pending.len() > listener.backlog.load(Ordering::SeqCst) {
                return Ok(false);
            }
            if let Some(name) = listener.name.get() {
                server.name.call_once(|| name.clone());
                server.options.borrowed_name.store(true, Ordering::Relaxed);
            }
            server.peer.call_once(caller);
            server.options.inherit(&listener.options);
            self.endpoint.peer.call_once(|| listening.unwrap_or(Sender::UNKNOWN));
            pending.push_back(server.clone());
        }
        server.set_link(Link::Connected(self.endpoint.clone()));
        self.endpoint.set_link(Link::Connected(server));
        listener.incoming.readable.wake_one_for(POLLIN | POLLRDNORM);
        Ok(true)
    }

    /// accept(2): the file of the connection, and its peer's name.
    pub fn accept(&self, creds: &Creds, nonblocking: bool, flags: u32) -> Result<(Arc<File>, Option<Arc<Name>>)> {
        if self.kind() == Kind::Datagrams {
            return Err(Errno::EOPNOTSUPP);
        }
        let listener = &self.endpoint;
        let deadline = listener.options.receive_deadline();
        let server = loop {
            if !listener.is_listening() || listener.incoming.is_broken() {
                return Err(Errno::EINVAL);
            }
            if let Some(server) = listener.pending.lock().pop_front() {
                break server;
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            let arrived = || !listener.pending.lock().is_empty() || listener.incoming.is_broken();
            let state = TaskState::Interruptible;
            transfer::timed(listener.incoming.readable.wait_event_until(state, deadline, arrived), deadline)?;
        };
        listener.incoming.writable.wake_one();
        let name = server.peer().ok().and_then(|peer| peer.name.get().cloned());
        Ok((file_of(server, creds, flags), name))
    }

    /// getsockname(2).
    pub fn name(&self) -> Option<Arc<Name>> {
        self.endpoint.name.get().cloned()
    }

    /// getpeername(2): `ENOTCONN` without a peer.
    pub fn peer_name(&self) -> Result<Option<Arc<Name>>> {
        Ok(self.endpoint.peer()?.name.get().cloned())
    }

    /// shutdown(2).
    pub fn shutdown(&self, how: u32) -> Result<()> {
        if how > s::SHUT_RDWR {
            return Err(Errno::EINVAL);
        }
        let endpoint = &self.endpoint;
        let peer = endpoint.peer().ok().filter(|_| self.kind() != Kind::Datagrams);
        if how != s::SHUT_WR {
            endpoint.incoming.end_receiving();
        }
        if how != s::SHUT_RD {
            endpoint.sends_no_more.store(true, Ordering::SeqCst);
            if let Some(peer) = &peer {
                peer.incoming.end_sending();
                peer.incoming.writable.wake_all_for(POLLOUT | POLLWRNORM | POLLHUP);
            }
        }
        Ok(())
    }
}

impl Endpoint {
    fn is_full(&self) -> bool {
        self.pending.lock().len() > self.backlog.load(Ordering::SeqCst)
    }

    /// Nothing will be received any more, once the queue is empty.
    fn is_ended(&self) -> bool {
        self.incoming.is_broken() || (self.incoming.is_ended() && self.kind != Kind::Datagrams)
    }

    /// Whether a message may be put into `other`'s channel now. `limit`: the sender's SO_SNDBUF.
    fn has_room_at(self: &Arc<Self>, other: &Endpoint) -> bool {
        if other.incoming.bytes() >= self.options.send_buffer() {
            return false;
        }
        let mutual = matches!(&*other.link.lock(), Link::Connected(peer) if Arc::ptr_eq(peer, self));
        other.kind != Kind::Datagrams || mutual || other.incoming.messages() <= MAX_DATAGRAMS
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.endpoint.close();
        ancillary::collect();
    }
}

impl FileOps for Socket {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        let plain = Transfer::plain(file);
        let how = Transfer { nonblocking: plain.nonblocking || dst.is_nowait(), ..plain };
        Ok(self.receive(dst, how)?.length)
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        let plain = Transfer::plain(file);
        let how = Transfer { nonblocking: plain.nonblocking || src.is_nowait(), ..plain };
        self.send(src, None, Vec::new(), None, how)
    }

    fn poll(&self, _file: &File, mut table: Option<&mut PollTable>) -> u32 {
        let endpoint = &self.endpoint;
        watch_all(table.as_deref_mut(), &[&endpoint.incoming.readable, &endpoint.incoming.writable]);
        if endpoint.is_listening() {
            let waits = !endpoint.pending.lock().is_empty();
            return if waits { POLLIN | POLLRDNORM } else { 0 };
        }
        let peer = endpoint.peer().ok();
        if let Some(peer) = &peer {
            watch_all(table, &[&peer.incoming.writable]);
        }
        let ended = endpoint.is_ended();
        let mut events = 0;
        if endpoint.reset.load(Ordering::SeqCst) {
            events |= POLLERR;
        }
        if endpoint.incoming.has_data() || ended {
            events |= POLLIN | POLLRDNORM;
        }
        if ended {
            events |= POLLRDHUP;
        }
        let unconnected = peer.is_none() && self.kind() != Kind::Datagrams;
        let silent = endpoint.sends_no_more.load(Ordering::SeqCst);
        let cut = peer.as_ref().is_some_and(|peer| peer.incoming.is_broken());
        if unconnected || (ended && (silent || cut)) {
            events |= POLLHUP;
        }
        if peer.is_none_or(|peer| peer.incoming.is_broken() || endpoint.has_room_at(&peer)) {
            events |= POLLOUT | POLLWRNORM;
        }
        events
    }

    fn ioctl(&self, _file: &File, command: u32, argument: u64) -> Result<usize> {
        let bytes = match command {
            SIOCINQ if self.endpoint.is_listening() => return Err(Errno::EINVAL),
            SIOCINQ => self.endpoint.incoming.bytes(),
            SIOCOUTQ => self.endpoint.peer().map_or(0, |peer| peer.incoming.bytes()),
            _ => return Err(Errno::ENOTTY),
        };
        UserPtr::<i32>::new(argument).write(&i32::try_from(bytes).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        if self.endpoint.is_listening() {
            return Err(Errno::EINVAL);
        }
        Ok(self.endpoint.incoming.bytes())
    }

    fn can_nowait(&self, _file: &File) -> bool {
        true
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }
}

static SOCKFS: FsType = FsType { name: "sockfs", mount: pseudo::not_mountable };

hal::global! {
    static FS: spin::Once<PseudoFs> = spin::Once::new();
    /// Every endpoint, for `/proc/net/unix`.
    static ALL: SpinLock<Vec<Weak<Endpoint>>> = SpinLock::new(order::SOCKET_NAMES, Vec::new());
}

/// `/proc/net/unix` (Linux `unix_seq_show`). The first column is an address in Linux, hidden from most as 0, as here.
pub fn show(out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "Num       RefCount Protocol Flags    Type St Inode Path")?;
    let all: Vec<Arc<Endpoint>> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    for endpoint in all {
        let ino = endpoint.ino.load(Ordering::Relaxed);
        let state = match (ino != 0, endpoint.is_connected()) {
            (true, true) => 3,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) => 4,
        };
        let accepts = u32::from(endpoint.is_listening()) << 16;
        // The reference of this list stands for that of Linux's `struct socket` to its `struct sock`.
        let references = Arc::strong_count(&endpoint);
        let kind = endpoint.kind.number();
        write!(out, "{:016x}: {references:08X} {:08X} {accepts:08X} {kind:04X} {state:02X} {ino:5}", 0, 0)?;
        match endpoint.name.get().map(|name| name.shown()) {
            Some(shown) if !shown.is_empty() => writeln!(out, " {}", alloc::string::String::from_utf8_lossy(&shown))?,
            _ => writeln!(out)?,
        }
    }
    Ok(())
}

fn file_of(endpoint: Arc<Endpoint>, creds: &Creds, flags: u32) -> Arc<File> {
    let fs = FS.call_once(|| PseudoFs::new(&SOCKFS, abi::stat::SOCKFS_MAGIC));
    let socket = OpsRef::Shared(Arc::new(Socket { endpoint: endpoint.clone() }));
    let file = fs.file("socket", abi::stat::S_IFSOCK | 0o777, creds, socket, O_RDWR | flags);
    endpoint.ino.store(file.inode().ino, Ordering::Relaxed);
    file
}

/// The file of a new socket (socket(2)). `flags` is O_NONBLOCK or nothing.
pub fn new_file(kind: Kind, creds: &Creds, flags: u32) -> Arc<File> {
    file_of(Endpoint::new(kind), creds, flags)
}

/// The two files of a new pair (socketpair(2)).
pub fn new_pair(kind: Kind, creds: &Creds, flags: u32) -> (Arc<File>, Arc<File>) {
    let (one, other) = (Endpoint::new(kind), Endpoint::new(kind));
    for (endpoint, peer) in [(&one, &other), (&other, &one)] {
        endpoint.peer.call_once(caller);
        endpoint.set_link(Link::Connected(peer.clone()));
    }
    (file_of(one, creds, flags), file_of(other, creds, flags))
}
