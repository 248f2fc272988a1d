//! Messages: sendto(2), sendmsg(2), sendmmsg(2), recvfrom(2), recvmsg(2), recvmmsg(2), and what travels beside the bytes:
//! cmsg(3), unix(7).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::capability::{CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN};
use abi::fcntl::O_CLOEXEC;
use abi::resource::RLIMIT_NOFILE;
use abi::socket as s;
use abi::time::Timespec;
use zerocopy::{FromBytes, IntoBytes};

use super::super::file::{Iovec, checked_count, runs_of};
use super::super::{Context, UserPtr};
use super::{SOCKADDR_STORAGE, address_bytes, store_name, with_socket};
use crate::Result;
use crate::fs::File;
use crate::fs::fdtable::OnExec;
use crate::io::{IoDst, IoSrc};
use crate::net::unix::{Address, Ancillary, Kind, Received, Sender, Socket, Transfer};

/// Flags that send(2) may have here. MSG_EOR, MSG_MORE and MSG_DONTROUTE change nothing between two ends in memory.
const SEND_FLAGS: u32 = s::MSG_DONTWAIT | s::MSG_NOSIGNAL | s::MSG_EOR | s::MSG_MORE | s::MSG_DONTROUTE;
/// Flags that recv(2) may have here.
const RECEIVE_FLAGS: u32 = s::MSG_DONTWAIT
    | s::MSG_NOSIGNAL
    | s::MSG_PEEK
    | s::MSG_TRUNC
    | s::MSG_WAITALL
    | s::MSG_CMSG_CLOEXEC
    | s::MSG_WAITFORONE;
/// Most messages of one sendmmsg(2) or recvmmsg(2): more are left for the next call.
const MAX_MESSAGES: usize = 1024;
/// `struct cmsghdr`.
const HEADER: usize = size_of::<s::Cmsghdr>();
/// Most bytes of control data that are looked at (Linux `optmem_max`).
const MAX_CONTROL: u64 = 20_480;
/// Where `msg_namelen`, `msg_controllen` and `msg_flags` lie in a `struct msghdr`.
const NAMELEN_AT: u64 = 8;
const CONTROLLEN_AT: u64 = 40;
const FLAGS_AT: u64 = 48;

/// Linux `CMSG_ALIGN`.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(8)
}

fn transfer(file: &File, flags: u32, supported: u32) -> Result<Transfer> {
    if flags & !supported != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(Transfer {
        nonblocking: flags & s::MSG_DONTWAIT != 0 || file.is_nonblocking(),
        silent: flags & s::MSG_NOSIGNAL != 0,
        peek: flags & s::MSG_PEEK != 0,
        all: flags & s::MSG_WAITALL != 0,
    })
}

/// sendto(2).
pub fn sendto(
    cx: &mut Context<'_>,
    fd: i32,
    buffer: u64,
    length: usize,
    flags: u32,
    address: u64,
    address_length: i32,
) -> Result<usize> {
    let length = checked_count(length)?;
    with_socket(cx, fd, |file, socket| {
        let how = transfer(file, flags, SEND_FLAGS)?;
        let to = match address {
            0 => None,
            address => Some(Address::parse(&address_bytes(address, address_length)?)?),
        };
        socket.send(&mut IoSrc::user(buffer, length), to.as_ref(), Vec::new(), None, how)
    })
}

/// recvfrom(2).
pub fn recvfrom(
    cx: &mut Context<'_>,
    fd: i32,
    buffer: u64,
    length: usize,
    flags: u32,
    address: u64,
    address_length: UserPtr<i32>,
) -> Result<usize> {
    let length = checked_count(length)?;
    with_socket(cx, fd, |file, socket| {
        let how = transfer(file, flags, RECEIVE_FLAGS)?;
        let received = socket.receive(&mut IoDst::user(buffer, length), how)?;
        if address != 0 {
            match &received.from {
                Some(name) => store_name(Some(name), address, address_length)?,
                None => address_length.write(&0)?,
            }
        }
        Ok(result_of(&received, flags))
    })
}

/// recv(2): "MSG_TRUNC ... return the real length of the packet or datagram, even when it was longer than the passed
/// buffer".
fn result_of(received: &Received, flags: u32) -> usize {
    if flags & s::MSG_TRUNC != 0 { received.whole } else { received.length }
}

fn read_header(message: UserPtr<s::Msghdr>) -> Result<s::Msghdr> {
    let header = message.read()?;
    if header.msg_namelen < 0 { Err(Errno::EINVAL) } else { Ok(header) }
}

/// The buffers of a message: `EMSGSIZE` for too many of them (sendmsg(2)).
fn buffers(header: &s::Msghdr) -> Result<Vec<crate::io::UserRun>> {
    let count = u32::try_from(header.msg_iovlen).map_err(|_| Errno::EMSGSIZE)?;
    if count > super::super::file::UIO_MAXIOV {
        return Err(Errno::EMSGSIZE);
    }
    runs_of(UserPtr::<Iovec>::new(header.msg_iov), count)
}

/// sendmsg(2).
pub fn sendmsg(cx: &mut Context<'_>, fd: i32, message: UserPtr<s::Msghdr>, flags: u32) -> Result<usize> {
    with_socket(cx, fd, |file, socket| send_one(cx, file, socket, message, flags))
}

fn send_one(
    cx: &Context<'_>,
    file: &Arc<File>,
    socket: &Socket,
    message: UserPtr<s::Msghdr>,
    flags: u32,
) -> Result<usize> {
    let header = read_header(message)?;
    let how = transfer(file, flags, SEND_FLAGS)?;
    // ____sys_sendmsg: a longer name is cut.
    let name_length = header.msg_namelen.min(SOCKADDR_STORAGE as i32);
    let to = match (header.msg_name, name_length) {
        (0, _) | (_, 0) => None,
        (address, length) => Some(Address::parse(&address_bytes(address, length)?)?),
    };
    let mut source = IoSrc::user_vector(buffers(&header)?);
    let ancillary = read_control(cx, &header)?;
    socket.send(&mut source, to.as_ref(), ancillary.files, ancillary.sender, how)
}

/// What the control data of a message asks to send along.
fn read_control(cx: &Context<'_>, header: &s::Msghdr) -> Result<Ancillary> {
    let mut ancillary = Ancillary::default();
    if header.msg_controllen == 0 {
        return Ok(ancillary);
    }
    // ____sys_sendmsg: more than an int is ENOBUFS, more than optmem_max too (sock_kmalloc).
    if header.msg_controllen > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let bytes = UserPtr::<u8>::new(header.msg_control).read_many(header.msg_controllen as usize)?;
    let mut rest = bytes.as_slice();
    while rest.len() >= HEADER {
        let (head, _) = s::Cmsghdr::read_from_prefix(rest).map_err(|_| Errno::EINVAL)?;
        let length = usize::try_from(head.cmsg_len).map_err(|_| Errno::EINVAL)?;
        let data = rest.get(HEADER..length).ok_or(Errno::EINVAL)?;
        // __scm_send: what is for another level is not ours.
        if head.cmsg_level == s::SOL_SOCKET as i32 {
            match head.cmsg_type {
                s::SCM_RIGHTS => read_rights(cx, data, &mut ancillary.files)?,
                s::SCM_CREDENTIALS => ancillary.sender = Some(read_credentials(cx, data)?),
                _ => return Err(Errno::EINVAL),
            }
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(ancillary)
}

fn read_rights(cx: &Context<'_>, data: &[u8], files: &mut Vec<Arc<File>>) -> Result<()> {
    let count = data.len() / size_of::<i32>();
    if files.len() + count > s::SCM_MAX_FD {
        return Err(Errno::EINVAL);
    }
    let table = cx.files();
    for bytes in data.chunks_exact(size_of::<i32>()) {
        let fd = i32::read_from_bytes(bytes).map_err(|_| Errno::EINVAL)?;
        files.push(table.get_any(fd)?);
    }
    Ok(())
}

/// unix(7): the pid must be one's own, the ids one of one's real, effective and saved ids; else CAP_SYS_ADMIN, CAP_SETUID
/// or CAP_SETGID (Linux `scm_check_creds`).
fn read_credentials(cx: &Context<'_>, data: &[u8]) -> Result<Sender> {
    let said = s::Ucred::read_from_bytes(data).map_err(|_| Errno::EINVAL)?;
    let creds = cx.creds();
    let own = cx.task.group.pid.own_number();
    let pid = said.pid == own || creds.ns_capable(&cx.namespaces().pid().owner, CAP_SYS_ADMIN);
    let said_uid = creds.user_ns.kuid(said.uid).ok_or(Errno::EINVAL)?;
    let said_gid = creds.user_ns.kgid(said.gid).ok_or(Errno::EINVAL)?;
    let uid = [creds.uid, creds.euid, creds.suid].contains(&said_uid) || creds.own_capable(CAP_SETUID);
    let gid = [creds.gid, creds.egid, creds.sgid].contains(&said_gid) || creds.own_capable(CAP_SETGID);
    if !(pid && uid && gid) {
        return Err(Errno::EPERM);
    }
    let global =
        if said.pid == own { Some(cx.task.tgid()) } else { crate::task::find(said.pid).map(|task| task.tgid()) };
    let global = global.ok_or(Errno::ESRCH)?;
    Ok(Sender { pid: global, uid: said_uid, gid: said_gid })
}

/// recvmsg(2).
pub fn recvmsg(cx: &mut Context<'_>, fd: i32, message: UserPtr<s::Msghdr>, flags: u32) -> Result<usize> {
    with_socket(cx, fd, |file, socket| receive_one(cx, file, socket, message, flags))
}

fn receive_one(
    cx: &Context<'_>,
    file: &Arc<File>,
    socket: &Socket,
    message: UserPtr<s::Msghdr>,
    flags: u32,
) -> Result<usize> {
    let header = read_header(message)?;
    let how = transfer(file, flags, RECEIVE_FLAGS)?;
    let received = socket.receive(&mut IoDst::user_vector(buffers(&header)?), how)?;
    let result = result_of(&received, flags);
    let mut shown = flags & s::MSG_CMSG_CLOEXEC;
    if received.whole > received.length && socket.kind() != Kind::Stream {
        shown |= s::MSG_TRUNC;
    }
    if header.msg_name != 0 {
        let name = received.from.as_ref().map(|name| name.bytes()).unwrap_or_default();
        let room = name.len().min(header.msg_namelen as usize);
        UserPtr::<u8>::new(header.msg_name).write_many(&name[..room])?;
        UserPtr::<i32>::new(message.address() + NAMELEN_AT).write(&(name.len() as i32))?;
    }
    let mut control = Control { at: header.msg_control, left: header.msg_controllen as usize, used: 0, cut: false };
    if socket.passes_credentials() {
        let sender = received.ancillary.sender.unwrap_or(Sender::UNKNOWN);
        control.put(s::SCM_CREDENTIALS, sender.ucred().as_bytes())?;
    }
    control.put_files(cx, received.ancillary.files, OnExec::from_flags(cloexec(flags)))?;
    if control.cut {
        shown |= s::MSG_CTRUNC;
    }
    UserPtr::<u64>::new(message.address() + CONTROLLEN_AT).write(&control.used)?;
    UserPtr::<u32>::new(message.address() + FLAGS_AT).write(&shown)?;
    Ok(result)
}

fn cloexec(flags: u32) -> u32 {
    if flags & s::MSG_CMSG_CLOEXEC != 0 { O_CLOEXEC } else { 0 }
}

/// Where control data is stored. What does not fit is cut (MSG_CTRUNC).
struct Control {
    at: u64,
    left: usize,
    used: u64,
    cut: bool,
}

impl Control {
    /// Linux `put_cmsg`: a message that does not fit is cut to what does.
    fn put(&mut self, kind: i32, data: &[u8]) -> Result<()> {
        if self.at == 0 || self.left < HEADER {
            self.cut = true;
            return Ok(());
        }
        let whole = HEADER + data.len();
        let length = whole.min(self.left);
        self.cut |= length < whole;
        UserPtr::<u8>::new(self.at + HEADER as u64).write_many(&data[..length - HEADER])?;
        self.finish(kind, length)
    }

    /// Writes the header of a message whose `length` bytes, header included, are there, and goes behind it.
    fn finish(&mut self, kind: i32, length: usize) -> Result<()> {
        let head = s::Cmsghdr { cmsg_len: length as u64, cmsg_level: s::SOL_SOCKET as i32, cmsg_type: kind };
        UserPtr::new(self.at).write(&head)?;
        let space = aligned(length).min(self.left);
        self.at += space as u64;
        self.left -= space;
        self.used += space as u64;
        Ok(())
    }

    /// Gives the files numbers, as many as there is room and numbers for (Linux `scm_detach_fds`); the others are closed.
    fn put_files(&mut self, cx: &Context<'_>, files: Vec<Arc<File>>, on_exec: OnExec) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let room = if self.at == 0 { 0 } else { self.left.saturating_sub(HEADER) / size_of::<i32>() };
        let limit = cx.task.rlimit(RLIMIT_NOFILE);
        let table = cx.files();
        let mut stored = 0;
        let total = files.len();
        for file in files.into_iter().take(room) {
            let Ok(fd) = table.reserve(0, limit, on_exec) else { break };
            let slot = self.at + (HEADER + stored * size_of::<i32>()) as u64;
            if UserPtr::<i32>::new(slot).write(&fd).is_err() {
                table.unreserve(fd);
                break;
            }
            table.install(fd, file);
            stored += 1;
        }
        self.cut |= stored < total;
        if stored == 0 { Ok(()) } else { self.finish(s::SCM_RIGHTS, HEADER + stored * size_of::<i32>()) }
    }
}

/// sendmmsg(2): how many were sent; the error of the first only when none was.
pub fn sendmmsg(cx: &mut Context<'_>, fd: i32, messages: UserPtr<s::Mmsghdr>, count: u32, flags: u32) -> Result<usize> {
    with_socket(cx, fd, |file, socket| {
        let send = |message: UserPtr<s::Msghdr>| send_one(cx, file, socket, message, flags);
        each_message(messages, count, send, || false)
    })
}

/// recvmmsg(2): how many were received. The timeout is looked at after each message, as on Linux.
pub fn recvmmsg(
    cx: &mut Context<'_>,
    fd: i32,
    messages: UserPtr<s::Mmsghdr>,
    count: u32,
    flags: u32,
    timeout: UserPtr<Timespec>,
) -> Result<usize> {
    let deadline = match timeout.non_null() {
        Some(timeout) => {
            let span = crate::time::timespec_ns(&timeout.read()?)?;
            crate::time::monotonic_ns().saturating_add(span)
        }
        None => u64::MAX,
    };
    with_socket(cx, fd, |file, socket| {
        let mut flags = flags;
        let receive = |message: UserPtr<s::Msghdr>| {
            let length = receive_one(cx, file, socket, message, flags)?;
            if flags & s::MSG_WAITFORONE != 0 {
                flags |= s::MSG_DONTWAIT;
            }
            Ok(length)
        };
        each_message(messages, count, receive, || crate::time::monotonic_ns() >= deadline)
    })
}

/// Transfers messages until one fails or it is `enough`, and stores the length of each. The error of the first is the
/// call's; a later one is left for the next call.
fn each_message(
    messages: UserPtr<s::Mmsghdr>,
    count: u32,
    mut transfer: impl FnMut(UserPtr<s::Msghdr>) -> Result<usize>,
    enough: impl Fn() -> bool,
) -> Result<usize> {
    let mut done = 0;
    while done < (count as usize).min(MAX_MESSAGES) {
        let message = messages.index(done);
        let moved = transfer(UserPtr::new(message.address())).and_then(|length| {
            UserPtr::<u32>::new(message.address() + size_of::<s::Msghdr>() as u64).write(&(length as u32))
        });
        match moved {
            Ok(()) => done += 1,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        if enough() {
            break;
        }
    }
    Ok(done)
}
