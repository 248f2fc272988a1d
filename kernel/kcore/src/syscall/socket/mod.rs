//! Sockets: socket(2), socketpair(2), bind(2), listen(2), accept(2), connect(2), getsockname(2), shutdown(2). What is sent
//! and received is in [`message`], the options in [`option`].

pub mod message;
pub mod option;

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::fcntl as f;
use abi::resource::RLIMIT_NOFILE;
use abi::socket as s;

use super::{Context, UserPtr};
use crate::Result;
use crate::fs::File;
use crate::fs::fdtable::OnExec;
use crate::net::unix::{self, Address, Kind, Name, Socket};

/// Bytes of a `struct sockaddr_storage`: no address is longer.
const SOCKADDR_STORAGE: usize = 128;

/// socket(2).
pub fn socket(cx: &mut Context<'_>, family: u32, kind: u32, protocol: u32) -> Result<usize> {
    let (kind, status, on_exec) = unix_socket(family, kind, protocol)?;
    let file = unix::new_file(kind, &cx.creds(), status);
    let fd = cx.files().add(file, 0, cx.task.rlimit(RLIMIT_NOFILE), on_exec)?;
    Ok(fd as usize)
}

/// What socket(2) and socketpair(2) are asked for: the kind, O_NONBLOCK or nothing, and close-on-exec.
fn unix_socket(family: u32, kind: u32, protocol: u32) -> Result<(Kind, u32, OnExec)> {
    if kind & !(s::SOCK_TYPE_MASK | s::SOCK_CLOEXEC | s::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if family != u32::from(s::AF_UNIX) {
        return Err(Errno::EAFNOSUPPORT);
    }
    // Numbers that no family can have are no type at all (Linux SOCK_MAX, `__sock_create`).
    if kind & s::SOCK_TYPE_MASK >= 11 {
        return Err(Errno::EINVAL);
    }
    // PF_UNIX is the one protocol's number (unix_create).
    if protocol != 0 && protocol != u32::from(s::AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let (status, on_exec) = file_flags(kind);
    Ok((Kind::from_type(kind & s::SOCK_TYPE_MASK)?, status, on_exec))
}

/// SOCK_NONBLOCK and SOCK_CLOEXEC.
fn file_flags(flags: u32) -> (u32, OnExec) {
    let status = if flags & s::SOCK_NONBLOCK != 0 { f::O_NONBLOCK } else { 0 };
    (status, OnExec::from_flags(if flags & s::SOCK_CLOEXEC != 0 { f::O_CLOEXEC } else { 0 }))
}

/// socketpair(2).
pub fn socketpair(
    cx: &mut Context<'_>,
    family: u32,
    kind: u32,
    protocol: u32,
    fds: UserPtr<[i32; 2]>,
) -> Result<usize> {
    let (kind, status, on_exec) = unix_socket(family, kind, protocol)?;
    let (first, second) = unix::new_pair(kind, &cx.creds(), status);
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

/// Runs `action` on the socket that `fd` is; `ENOTSOCK` for another file.
fn with_socket<R>(cx: &Context<'_>, fd: i32, action: impl FnOnce(&Arc<File>, &Socket) -> Result<R>) -> Result<R> {
    let file = cx.files().get(fd)?;
    let socket = file.ops_as::<Socket>().ok_or(Errno::ENOTSOCK)?;
    action(&file, socket)
}

/// The bytes of an address. `EINVAL` for a length that no address has.
fn address_bytes(address: u64, length: i32) -> Result<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= SOCKADDR_STORAGE).ok_or(Errno::EINVAL)?;
    UserPtr::<u8>::new(address).read_many(length)
}

/// Stores a name where accept(2) and its like want it: as much as fits into `*length`, which becomes the whole length. A
/// socket without a name has only the family.
fn store_name(name: Option<&Arc<Name>>, address: u64, length: UserPtr<i32>) -> Result<()> {
    let room = usize::try_from(length.read()?).map_err(|_| Errno::EINVAL)?;
    let bytes = name.map_or_else(|| s::AF_UNIX.to_ne_bytes().to_vec(), |name| name.bytes());
    UserPtr::<u8>::new(address).write_many(&bytes[..bytes.len().min(room)])?;
    length.write(&(bytes.len() as i32))
}

/// bind(2).
pub fn bind(cx: &mut Context<'_>, fd: i32, address: u64, length: i32) -> Result<usize> {
    with_socket(cx, fd, |_, socket| socket.bind(Address::parse(&address_bytes(address, length)?)?))?;
    Ok(0)
}

/// connect(2).
pub fn connect(cx: &mut Context<'_>, fd: i32, address: u64, length: i32) -> Result<usize> {
    with_socket(cx, fd, |file, socket| {
        let bytes = address_bytes(address, length)?;
        if socket.kind() == Kind::Datagrams && bytes.starts_with(&s::AF_UNSPEC.to_ne_bytes()) {
            return socket.connect(None, false);
        }
        socket.connect(Some(&Address::parse(&bytes)?), file.is_nonblocking())
    })?;
    Ok(0)
}

/// listen(2).
pub fn listen(cx: &mut Context<'_>, fd: i32, backlog: i32) -> Result<usize> {
    with_socket(cx, fd, |_, socket| socket.listen(backlog))?;
    Ok(0)
}

/// accept(2).
pub fn accept(cx: &mut Context<'_>, fd: i32, address: u64, length: UserPtr<i32>) -> Result<usize> {
    accept4(cx, fd, address, length, 0)
}

/// accept4(2).
pub fn accept4(cx: &mut Context<'_>, fd: i32, address: u64, length: UserPtr<i32>, flags: u32) -> Result<usize> {
    if flags & !(s::SOCK_CLOEXEC | s::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let (status, on_exec) = file_flags(flags);
    let files = cx.files();
    with_socket(cx, fd, |file, socket| {
        // A connection must not be lost because there is no number for it.
        let fd = files.reserve(0, cx.task.rlimit(RLIMIT_NOFILE), on_exec)?;
        let accepted = socket.accept(&cx.creds(), file.is_nonblocking(), status).and_then(|(file, name)| {
            if address != 0 {
                store_name(name.as_ref(), address, length)?;
            }
            Ok(file)
        });
        let file = accepted.inspect_err(|_| files.unreserve(fd))?;
        files.install(fd, file);
        Ok(fd as usize)
    })
}

/// getsockname(2).
pub fn getsockname(cx: &mut Context<'_>, fd: i32, address: u64, length: UserPtr<i32>) -> Result<usize> {
    with_socket(cx, fd, |_, socket| store_name(socket.name().as_ref(), address, length))?;
    Ok(0)
}

/// getpeername(2).
pub fn getpeername(cx: &mut Context<'_>, fd: i32, address: u64, length: UserPtr<i32>) -> Result<usize> {
    with_socket(cx, fd, |_, socket| store_name(socket.peer_name()?.as_ref(), address, length))?;
    Ok(0)
}

/// shutdown(2).
pub fn shutdown(cx: &mut Context<'_>, fd: i32, how: u32) -> Result<usize> {
    with_socket(cx, fd, |_, socket| socket.shutdown(how))?;
    Ok(0)
}
