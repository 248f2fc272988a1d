//! socket(2), socketpair(2), send(2), recv(2), shutdown(2), getsockopt(2).

use alloc::sync::Arc;

use abi::Errno;
use abi::fcntl as f;
use abi::resource::RLIMIT_NOFILE;
use abi::socket as s;

use super::file::checked_count;
use super::{Context, UserPtr};
use crate::Result;
use crate::fs::File;
use crate::fs::fdtable::OnExec;
use crate::io::{IoDst, IoSrc};
use crate::net::unix::{self, Kind, Socket, Transfer};

/// Flags that send(2) may have here. MSG_EOR and MSG_MORE change nothing between two ends in memory.
const SEND_FLAGS: u32 = s::MSG_DONTWAIT | s::MSG_NOSIGNAL | s::MSG_EOR | s::MSG_MORE;
/// Flags that recv(2) may have here.
const RECEIVE_FLAGS: u32 = s::MSG_DONTWAIT | s::MSG_NOSIGNAL | s::MSG_PEEK | s::MSG_TRUNC | s::MSG_CMSG_CLOEXEC;

/// socket(2): there is no family whose sockets could get a name.
pub fn socket(_cx: &mut Context<'_>, _family: u32, kind: u32, _protocol: u32) -> Result<usize> {
    check_type_flags(kind)?;
    Err(Errno::EAFNOSUPPORT)
}

/// socketpair(2).
pub fn socketpair(
    cx: &mut Context<'_>,
    family: u32,
    kind: u32,
    protocol: u32,
    fds: UserPtr<[i32; 2]>,
) -> Result<usize> {
    check_type_flags(kind)?;
    if family != u32::from(s::AF_UNIX) {
        return Err(Errno::EAFNOSUPPORT);
    }
    // PF_UNIX is the one protocol's number (unix_create).
    if protocol != 0 && protocol != u32::from(s::AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let pair = Kind::from_type(kind & s::SOCK_TYPE_MASK)?;
    let status = if kind & s::SOCK_NONBLOCK != 0 { f::O_NONBLOCK } else { 0 };
    let on_exec = OnExec::from_flags(if kind & s::SOCK_CLOEXEC != 0 { f::O_CLOEXEC } else { 0 });
    let (first, second) = unix::new_pair(pair, &cx.creds(), status);
    let limit = cx.task.rlimit(RLIMIT_NOFILE);
    let files = cx.files();
    // Prepare: numbers that no other thread can see yet, stored where the caller wants them.
    let first_fd = files.reserve(0, limit, on_exec)?;
    let stored = files.reserve(0, limit, on_exec).and_then(|second_fd| match fds.write(&[first_fd, second_fd]) {
        Ok(()) => Ok(second_fd),
        Err(error) => {
            files.unreserve(second_fd);
            Err(error)
        }
    });
    let second_fd = stored.inspect_err(|_| files.unreserve(first_fd))?;
    // Commit: the files become visible. Nothing fails from here on.
    files.install(first_fd, first);
    files.install(second_fd, second);
    Ok(0)
}

fn check_type_flags(kind: u32) -> Result<()> {
    if kind & !(s::SOCK_TYPE_MASK | s::SOCK_CLOEXEC | s::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Runs `action` on the socket that `fd` is; `ENOTSOCK` for another file.
fn with_socket<R>(cx: &Context<'_>, fd: i32, action: impl FnOnce(&Arc<File>, &Socket) -> Result<R>) -> Result<R> {
    let file = cx.files().get(fd)?;
    let socket = file.ops_as::<Socket>().ok_or(Errno::ENOTSOCK)?;
    action(&file, socket)
}

fn transfer(flags: u32, supported: u32) -> Result<Transfer> {
    if flags & !supported != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(Transfer {
        nonblocking: flags & s::MSG_DONTWAIT != 0,
        silent: flags & s::MSG_NOSIGNAL != 0,
        peek: flags & s::MSG_PEEK != 0,
        whole_length: flags & s::MSG_TRUNC != 0,
    })
}

/// sendto(2). A connected socket takes no address: `EISCONN`, as unix_dgram and unix_stream say.
pub fn sendto(
    cx: &mut Context<'_>,
    fd: i32,
    buffer: u64,
    length: usize,
    flags: u32,
    address: u64,
    _address_length: u32,
) -> Result<usize> {
    let length = checked_count(length)?;
    with_socket(cx, fd, |file, socket| {
        let how = transfer(flags, SEND_FLAGS)?;
        if address != 0 {
            return Err(Errno::EISCONN);
        }
        socket.send(file, &mut IoSrc::user(buffer, length), how)
    })
}

/// recvfrom(2). The peer has no name: the length of its address is 0.
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
        let how = transfer(flags, RECEIVE_FLAGS)?;
        let received = socket.receive(file, &mut IoDst::user(buffer, length), how)?;
        if address != 0 {
            address_length.write(&0)?;
        }
        Ok(received)
    })
}

/// shutdown(2).
pub fn shutdown(cx: &mut Context<'_>, fd: i32, how: u32) -> Result<usize> {
    with_socket(cx, fd, |_, socket| socket.shutdown(how))?;
    Ok(0)
}

/// getsockopt(2): what a socket is.
pub fn getsockopt(
    cx: &mut Context<'_>,
    fd: i32,
    level: u32,
    option: u32,
    value: UserPtr<u32>,
    length: UserPtr<i32>,
) -> Result<usize> {
    with_socket(cx, fd, |_, socket| {
        if level != s::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        let known = match option {
            s::SO_TYPE => socket.type_number(),
            s::SO_DOMAIN => s::AF_UNIX.into(),
            s::SO_ERROR | s::SO_PROTOCOL | s::SO_ACCEPTCONN => 0,
            _ => return Err(Errno::ENOPROTOOPT),
        };
        if usize::try_from(length.read()?).map_err(|_| Errno::EINVAL)? < size_of::<u32>() {
            return Err(Errno::EINVAL);
        }
        value.write(&known)?;
        length.write(&4)?;
        Ok(0)
    })
}
