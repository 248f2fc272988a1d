//! unix(7): stream, datagram and packet sockets, their names, what travels beside the bytes, and their options; and the
//! files of proc(5) that list sockets and locks.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    pair_carries_both_ways,
    pair_kinds_and_flags,
    bad_families_and_kinds,
    stream_joins_writes,
    packets_keep_their_borders,
    datagrams_keep_their_borders,
    short_reads_cut_packets,
    empty_packets_are_read,
    empty_stream_writes_are_nothing,
    trunc_tells_the_whole_length,
    peek_leaves_the_data,
    peek_of_packets,
    dontwait_is_eagain,
    waitall_waits_for_all,
    unknown_flags_and_oob,
    close_ends_the_stream,
    close_with_unread_data_resets,
    write_after_close_is_epipe,
    nosignal_spares_the_signal,
    shutdown_of_writing,
    shutdown_of_reading,
    shutdown_errors,
    bind_listen_connect_accept,
    accept_flags,
    accept_without_connection_is_eagain,
    accept_errors,
    names_are_told,
    bound_name_is_a_socket_file,
    bind_twice_is_einval,
    bind_of_a_used_name_is_eaddrinuse,
    bad_addresses_are_einval,
    connect_to_nothing,
    connect_to_a_file_is_econnrefused,
    connect_to_another_kind_is_eprototype,
    connect_twice_is_eisconn,
    full_backlog_is_eagain,
    unlinked_name_refuses,
    unlinked_socket_still_serves,
    closed_listener_refuses,
    abstract_names,
    abstract_names_have_their_length,
    abstract_names_end_with_the_socket,
    automatic_names,
    datagrams_to_names,
    datagram_default_receiver,
    datagram_from_another_is_eperm,
    datagram_dissolves_with_unspec,
    datagrams_need_a_receiver,
    unconnected_stream_is_enotconn,
    sending_to_a_connected_stream_is_eisconn,
    long_packets_are_emsgsize,
    rights_carry_files,
    rights_are_the_same_description,
    rights_and_cloexec,
    rights_without_room_are_cut,
    rights_are_limited,
    rights_of_closed_descriptors_are_ebadf,
    rights_end_a_read,
    unread_rights_are_closed,
    rights_cycle_is_collected,
    rights_beyond_the_limit_are_etoomanyrefs,
    credentials_come_with_passcred,
    credentials_must_be_ones_own,
    peercred_is_who_connected,
    options_have_their_defaults,
    type_domain_and_protocol,
    buffers_are_doubled,
    timeouts_end_waits,
    unknown_options,
    poll_states_of_a_stream,
    poll_states_of_a_listener,
    poll_after_the_peer_closed,
    poll_of_an_unconnected_stream,
    bytes_that_wait,
    seek_and_pread_are_espipe,
    open_of_a_socket_file_is_enxio,
    several_messages_at_once,
    proc_net_unix_lists_sockets,
    proc_locks_lists_locks,
    proc_locks_shows_who_waits,
];

fn socket(kind: i32) -> Result<i32> {
    sys!(SYS_socket, AF_UNIX, kind, 0).map(|fd| fd as i32)
}

fn pair(kind: i32) -> Result<(i32, i32)> {
    let mut fds = [0i32; 2];
    sys!(SYS_socketpair, AF_UNIX, kind, 0, fds.as_mut_ptr())?;
    Ok((fds[0], fds[1]))
}

/// The bytes of a `struct sockaddr_un`; a leading `@` makes an abstract name.
fn address(name: &str) -> Vec<u8> {
    let mut bytes = (AF_UNIX as u16).to_ne_bytes().to_vec();
    match name.strip_prefix('@') {
        Some(name) => {
            bytes.push(0);
            bytes.extend_from_slice(name.as_bytes());
        }
        None => {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
        }
    }
    bytes
}

/// An abstract name that no other run has.
fn own_name(word: &str) -> String {
    format!("@abitest-{}-{word}", getpid())
}

fn bind(fd: i32, name: &str) -> Result<usize> {
    let address = address(name);
    sys!(SYS_bind, fd, address.as_ptr(), address.len())
}

fn connect(fd: i32, name: &str) -> Result<usize> {
    let address = address(name);
    sys!(SYS_connect, fd, address.as_ptr(), address.len())
}

fn listen(fd: i32, backlog: i32) -> Result<usize> {
    sys!(SYS_listen, fd, backlog)
}

fn accept(fd: i32, flags: i32) -> Result<i32> {
    sys!(SYS_accept4, fd, 0, 0, flags).map(|fd| fd as i32)
}

fn listener(kind: i32, name: &str) -> Result<i32> {
    let fd = socket(kind)?;
    bind(fd, name)?;
    listen(fd, 5)?;
    Ok(fd)
}

/// Two connected ends: who connected, who accepted.
fn connection(kind: i32, name: &str) -> Result<(i32, i32)> {
    let server = listener(kind, name)?;
    let client = socket(kind)?;
    connect(client, name)?;
    let accepted = accept(server, 0)?;
    close(server)?;
    Ok((client, accepted))
}

fn send(fd: i32, bytes: &[u8], flags: i32) -> Result<usize> {
    sys!(SYS_sendto, fd, bytes.as_ptr(), bytes.len(), flags, 0, 0)
}

fn send_to(fd: i32, bytes: &[u8], name: &str) -> Result<usize> {
    let address = address(name);
    sys!(SYS_sendto, fd, bytes.as_ptr(), bytes.len(), 0, address.as_ptr(), address.len())
}

fn receive(fd: i32, length: usize, flags: i32) -> Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let got = sys!(SYS_recvfrom, fd, buffer.as_mut_ptr(), length, flags, 0, 0)?;
    buffer.truncate(got);
    Ok(buffer)
}

fn name_of(call: c_long, fd: i32) -> Result<Vec<u8>> {
    let (mut buffer, mut length) = (vec![0u8; 128], 128i32);
    sys!(call, fd, buffer.as_mut_ptr(), &raw mut length)?;
    buffer.truncate(length as usize);
    Ok(buffer)
}

fn option(fd: i32, name: i32) -> Result<i32> {
    let (mut value, mut length) = (0i32, 4i32);
    sys!(SYS_getsockopt, fd, SOL_SOCKET, name, &raw mut value, &raw mut length)?;
    Ok(value)
}

fn set_option(fd: i32, name: i32, value: i32) -> Result<usize> {
    sys!(SYS_setsockopt, fd, SOL_SOCKET, name, &raw const value, 4)
}

fn events(fd: i32) -> Result<i16> {
    let time = timespec_ms(0);
    let mut list = [pollfd { fd, events: POLLIN | POLLOUT | POLLRDHUP, revents: 0 }];
    sys!(SYS_ppoll, list.as_mut_ptr(), 1, &raw const time, 0, 8)?;
    Ok(list[0].revents)
}

/// A control message.
fn control(kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&SOL_SOCKET.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn send_control(fd: i32, bytes: &[u8], control: &[u8]) -> Result<usize> {
    let run = iovec { iov_base: bytes.as_ptr() as *mut c_void, iov_len: bytes.len() };
    let mut header: msghdr = zeroed();
    header.msg_iov = (&raw const run).cast_mut();
    header.msg_iovlen = 1 as _;
    header.msg_control = control.as_ptr() as *mut c_void;
    header.msg_controllen = control.len() as _;
    sys!(SYS_sendmsg, fd, &raw const header, 0)
}

fn send_files(fd: i32, bytes: &[u8], files: &[i32]) -> Result<usize> {
    let data: Vec<u8> = files.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
    send_control(fd, bytes, &control(SCM_RIGHTS, &data))
}

/// What recvmsg gave.
struct Message {
    bytes: Vec<u8>,
    flags: i32,
    files: Vec<i32>,
    credentials: Option<(i32, u32, u32)>,
}

fn receive_message(fd: i32, length: usize, room: usize, flags: i32) -> Result<Message> {
    let (mut bytes, mut space) = (vec![0u8; length], vec![0u8; room]);
    let run = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    let mut header: msghdr = zeroed();
    header.msg_iov = (&raw const run).cast_mut();
    header.msg_iovlen = 1 as _;
    header.msg_control = space.as_mut_ptr().cast();
    header.msg_controllen = room as _;
    let got = sys!(SYS_recvmsg, fd, &raw mut header, flags)?;
    bytes.truncate(got);
    let word = |at: usize| i32::from_ne_bytes([space[at], space[at + 1], space[at + 2], space[at + 3]]);
    let (mut files, mut credentials, mut at) = (Vec::new(), None, 0);
    let used = header.msg_controllen as usize;
    while at + 16 <= used {
        let length = word(at) as usize;
        match word(at + 12) {
            SCM_RIGHTS => files.extend((at + 16..at + length).step_by(4).map(word)),
            SCM_CREDENTIALS => credentials = Some((word(at + 16), word(at + 20) as u32, word(at + 24) as u32)),
            _ => {}
        }
        at += length.next_multiple_of(8);
    }
    Ok(Message { bytes, flags: header.msg_flags, files, credentials })
}

fn pair_carries_both_ways() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    write(one, b"ping")?;
    same!(receive(two, 10, 0)?, b"ping");
    write(two, b"pong")?;
    same!(receive(one, 10, 0)?, b"pong");
    Ok(())
}

fn pair_kinds_and_flags() -> Outcome {
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
        let (one, two) = pair(kind | SOCK_CLOEXEC | SOCK_NONBLOCK)?;
        same!(option(one, SO_TYPE)?, kind);
        same!(sys!(SYS_fcntl, two, F_GETFD)?, 1);
        holds!(sys!(SYS_fcntl, one, F_GETFL)? & O_NONBLOCK as usize != 0);
        same!(fstat(one)?.st_mode & S_IFMT, S_IFSOCK);
    }
    same!(option(pair(SOCK_RAW)?.0, SO_TYPE)?, SOCK_DGRAM);
    Ok(())
}

fn bad_families_and_kinds() -> Outcome {
    fails!(sys!(SYS_socket, 200, SOCK_STREAM, 0), EAFNOSUPPORT);
    fails!(sys!(SYS_socket, AF_UNIX, 12, 0), EINVAL);
    fails!(sys!(SYS_socket, AF_UNIX, SOCK_RDM, 0), ESOCKTNOSUPPORT);
    fails!(sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 5), EPROTONOSUPPORT);
    fails!(sys!(SYS_socket, AF_UNIX, SOCK_STREAM | 0x100_0000, 0), EINVAL);
    fails!(sys!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, 8), EFAULT);
    sys!(SYS_socket, AF_UNIX, SOCK_STREAM, AF_UNIX)?;
    Ok(())
}

fn stream_joins_writes() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    write(one, b"ab")?;
    write(one, b"cd")?;
    same!(receive(two, 3, 0)?, b"abc");
    same!(receive(two, 3, 0)?, b"d");
    Ok(())
}

fn packets_keep_their_borders() -> Outcome {
    let (one, two) = pair(SOCK_SEQPACKET)?;
    write(one, b"ab")?;
    write(one, b"cd")?;
    same!(receive(two, 10, 0)?, b"ab");
    same!(receive(two, 10, 0)?, b"cd");
    Ok(())
}

fn datagrams_keep_their_borders() -> Outcome {
    let (one, two) = pair(SOCK_DGRAM)?;
    write(one, b"ab")?;
    write(one, b"cd")?;
    same!(receive(two, 10, 0)?, b"ab");
    same!(receive(two, 10, 0)?, b"cd");
    Ok(())
}

fn short_reads_cut_packets() -> Outcome {
    for kind in [SOCK_SEQPACKET, SOCK_DGRAM] {
        let (one, two) = pair(kind)?;
        write(one, b"abcdef")?;
        write(one, b"next")?;
        let message = receive_message(two, 2, 0, 0)?;
        same!((&*message.bytes, message.flags & MSG_TRUNC), (&b"ab"[..], MSG_TRUNC));
        same!(receive(two, 10, 0)?, b"next");
    }
    Ok(())
}

fn empty_packets_are_read() -> Outcome {
    let (one, two) = pair(SOCK_DGRAM)?;
    same!(send(one, b"", 0)?, 0);
    send(one, b"x", 0)?;
    same!(receive(two, 10, 0)?, b"");
    same!(receive(two, 10, 0)?, b"x");
    Ok(())
}

fn empty_stream_writes_are_nothing() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    same!(send(one, b"", 0)?, 0);
    fails!(receive(two, 10, MSG_DONTWAIT), EAGAIN);
    Ok(())
}

fn trunc_tells_the_whole_length() -> Outcome {
    let (one, two) = pair(SOCK_DGRAM)?;
    write(one, b"abcdef")?;
    let mut buffer = [0u8; 2];
    same!(sys!(SYS_recvfrom, two, buffer.as_mut_ptr(), 2, MSG_TRUNC | MSG_PEEK, 0, 0)?, 6);
    same!(sys!(SYS_recvfrom, two, buffer.as_mut_ptr(), 2, MSG_TRUNC, 0, 0)?, 6);
    same!(&buffer, b"ab");
    Ok(())
}

fn peek_leaves_the_data() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    write(one, b"abc")?;
    same!(receive(two, 2, MSG_PEEK)?, b"ab");
    same!(receive(two, 10, MSG_PEEK)?, b"abc");
    same!(receive(two, 10, 0)?, b"abc");
    fails!(receive(two, 10, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
    Ok(())
}

fn peek_of_packets() -> Outcome {
    let (one, two) = pair(SOCK_SEQPACKET)?;
    write(one, b"abc")?;
    write(one, b"de")?;
    same!(receive(two, 10, MSG_PEEK)?, b"abc");
    same!(receive(two, 10, 0)?, b"abc");
    same!(receive(two, 10, 0)?, b"de");
    Ok(())
}

fn dontwait_is_eagain() -> Outcome {
    for kind in [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM] {
        let (one, two) = pair(kind)?;
        fails!(receive(two, 10, MSG_DONTWAIT), EAGAIN);
        let mut sent = 0;
        let error = loop {
            match send(one, &[1; 1000], MSG_DONTWAIT) {
                Ok(count) => sent += count,
                Err(error) => break error,
            }
            holds!(sent < 100_000_000);
        };
        same!(error, Errno(EAGAIN));
        holds!(sent > 0);
    }
    Ok(())
}

fn waitall_waits_for_all() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    let pid = child(|| {
        for byte in [b"a", b"b", b"c"] {
            sleep_ms(20);
            let _ = write(one, byte);
        }
        0
    })?;
    same!(receive(two, 3, MSG_WAITALL)?, b"abc");
    same!(status(pid)?, 0);
    Ok(())
}

fn unknown_flags_and_oob() -> Outcome {
    let (one, two) = pair(SOCK_DGRAM)?;
    fails!(send(one, b"x", MSG_OOB), EOPNOTSUPP);
    fails!(receive(two, 1, MSG_OOB), EOPNOTSUPP);
    Ok(())
}

fn close_ends_the_stream() -> Outcome {
    for kind in [SOCK_STREAM, SOCK_SEQPACKET] {
        let (one, two) = pair(kind)?;
        write(one, b"last")?;
        close(one)?;
        same!(receive(two, 10, 0)?, b"last");
        same!(receive(two, 10, 0)?, b"");
    }
    Ok(())
}

fn close_with_unread_data_resets() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    write(one, b"unread")?;
    close(two)?;
    fails!(receive(one, 10, 0), ECONNRESET);
    same!(receive(one, 10, 0)?, b"");
    Ok(())
}

fn write_after_close_is_epipe() -> Outcome {
    note_signal(SIGPIPE, 0)?;
    let (one, two) = pair(SOCK_STREAM)?;
    close(two)?;
    fails!(write(one, b"x"), EPIPE);
    same!(count(), 1);
    Ok(())
}

fn nosignal_spares_the_signal() -> Outcome {
    note_signal(SIGPIPE, 0)?;
    let (one, two) = pair(SOCK_STREAM)?;
    close(two)?;
    fails!(send(one, b"x", MSG_NOSIGNAL), EPIPE);
    same!(count(), 0);
    // Datagrams have no end, only a receiver that is gone.
    let (one, two) = pair(SOCK_DGRAM)?;
    close(two)?;
    fails!(send(one, b"x", 0), ECONNREFUSED);
    same!(count(), 0);
    Ok(())
}

fn shutdown_of_writing() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    write(one, b"x")?;
    sys!(SYS_shutdown, one, SHUT_WR)?;
    fails!(send(one, b"y", MSG_NOSIGNAL), EPIPE);
    same!(receive(two, 10, 0)?, b"x");
    same!(receive(two, 10, 0)?, b"");
    write(two, b"back")?;
    same!(receive(one, 10, 0)?, b"back");
    Ok(())
}

fn shutdown_of_reading() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    sys!(SYS_shutdown, one, SHUT_RD)?;
    same!(receive(one, 10, 0)?, b"");
    fails!(send(two, b"x", MSG_NOSIGNAL), EPIPE);
    Ok(())
}

fn shutdown_errors() -> Outcome {
    fails!(sys!(SYS_shutdown, pair(SOCK_STREAM)?.0, 3), EINVAL);
    fails!(sys!(SYS_shutdown, 99, 0), EBADF);
    fails!(sys!(SYS_shutdown, pipe(0)?.0, 0), ENOTSOCK);
    Ok(())
}

fn bind_listen_connect_accept() -> Outcome {
    for kind in [SOCK_STREAM, SOCK_SEQPACKET] {
        let (client, server) = connection(kind, "s")?;
        write(client, b"hello")?;
        same!(receive(server, 10, 0)?, b"hello");
        write(server, b"you")?;
        same!(receive(client, 10, 0)?, b"you");
        unlink("s")?;
    }
    Ok(())
}

fn accept_flags() -> Outcome {
    let server = listener(SOCK_STREAM, "s")?;
    connect(socket(SOCK_STREAM)?, "s")?;
    let fd = accept(server, SOCK_CLOEXEC | SOCK_NONBLOCK)?;
    same!(sys!(SYS_fcntl, fd, F_GETFD)?, 1);
    holds!(sys!(SYS_fcntl, fd, F_GETFL)? & O_NONBLOCK as usize != 0);
    fails!(accept(server, 1), EINVAL);
    Ok(())
}

fn accept_without_connection_is_eagain() -> Outcome {
    let server = socket(SOCK_STREAM | SOCK_NONBLOCK)?;
    bind(server, "s")?;
    listen(server, 1)?;
    fails!(accept(server, 0), EAGAIN);
    Ok(())
}

fn accept_errors() -> Outcome {
    fails!(accept(socket(SOCK_STREAM)?, 0), EINVAL);
    fails!(accept(socket(SOCK_DGRAM)?, 0), EOPNOTSUPP);
    fails!(accept(pipe(0)?.0, 0), ENOTSOCK);
    fails!(listen(socket(SOCK_DGRAM)?, 1), EOPNOTSUPP);
    fails!(listen(socket(SOCK_STREAM)?, 1), EINVAL);
    Ok(())
}

fn names_are_told() -> Outcome {
    let server = listener(SOCK_STREAM, "s")?;
    let client = socket(SOCK_STREAM)?;
    bind(client, "c")?;
    connect(client, "s")?;
    let accepted = accept(server, 0)?;
    same!(name_of(SYS_getsockname, server)?, address("s"));
    same!(name_of(SYS_getpeername, client)?, address("s"));
    same!(name_of(SYS_getsockname, accepted)?, address("s"));
    same!(name_of(SYS_getpeername, accepted)?, address("c"));
    same!(name_of(SYS_getsockname, socket(SOCK_STREAM)?)?, (AF_UNIX as u16).to_ne_bytes());
    fails!(name_of(SYS_getpeername, server), ENOTCONN);
    Ok(())
}

fn bound_name_is_a_socket_file() -> Outcome {
    sys!(SYS_umask, 0o027)?;
    bind(socket(SOCK_STREAM)?, "s")?;
    same!(lstat("s")?.st_mode, S_IFSOCK | 0o750);
    Ok(())
}

fn bind_twice_is_einval() -> Outcome {
    let fd = socket(SOCK_STREAM)?;
    bind(fd, "a")?;
    fails!(bind(fd, "b"), EINVAL);
    Ok(())
}

fn bind_of_a_used_name_is_eaddrinuse() -> Outcome {
    bind(socket(SOCK_STREAM)?, "a")?;
    fails!(bind(socket(SOCK_STREAM)?, "a"), EADDRINUSE);
    file("f", b"")?;
    fails!(bind(socket(SOCK_STREAM)?, "f"), EADDRINUSE);
    fails!(bind(socket(SOCK_STREAM)?, "no/where"), ENOENT);
    Ok(())
}

fn bad_addresses_are_einval() -> Outcome {
    let fd = socket(SOCK_STREAM)?;
    let name = address("s");
    fails!(sys!(SYS_bind, fd, name.as_ptr(), 1), EINVAL);
    fails!(sys!(SYS_bind, fd, name.as_ptr(), 129), EINVAL);
    fails!(sys!(SYS_connect, fd, name.as_ptr(), 2), EINVAL);
    let mut other = name.clone();
    other[0] = AF_INET as u8;
    fails!(sys!(SYS_bind, fd, other.as_ptr(), other.len()), EINVAL);
    fails!(sys!(SYS_bind, fd, 8, 10), EFAULT);
    Ok(())
}

fn connect_to_nothing() -> Outcome {
    let fd = socket(SOCK_STREAM)?;
    fails!(connect(fd, "nothing"), ENOENT);
    fails!(connect(fd, &own_name("nothing")), ECONNREFUSED);
    let bound = socket(SOCK_STREAM)?;
    bind(bound, "s")?;
    fails!(connect(fd, "s"), ECONNREFUSED);
    Ok(())
}

fn connect_to_a_file_is_econnrefused() -> Outcome {
    file("f", b"")?;
    fails!(connect(socket(SOCK_STREAM)?, "f"), ECONNREFUSED);
    fails!(connect(socket(SOCK_DGRAM)?, "f"), ECONNREFUSED);
    Ok(())
}

fn connect_to_another_kind_is_eprototype() -> Outcome {
    listener(SOCK_STREAM, "s")?;
    fails!(connect(socket(SOCK_SEQPACKET)?, "s"), EPROTOTYPE);
    fails!(connect(socket(SOCK_DGRAM)?, "s"), EPROTOTYPE);
    Ok(())
}

fn connect_twice_is_eisconn() -> Outcome {
    let _server = listener(SOCK_STREAM, "s")?;
    let fd = socket(SOCK_STREAM)?;
    connect(fd, "s")?;
    fails!(connect(fd, "s"), EISCONN);
    fails!(connect(pair(SOCK_STREAM)?.0, "s"), EISCONN);
    Ok(())
}

fn full_backlog_is_eagain() -> Outcome {
    let server = socket(SOCK_STREAM)?;
    bind(server, "s")?;
    listen(server, 0)?;
    connect(socket(SOCK_STREAM | SOCK_NONBLOCK)?, "s")?;
    let late = socket(SOCK_STREAM | SOCK_NONBLOCK)?;
    fails!(connect(late, "s"), EAGAIN);
    accept(server, 0)?;
    connect(late, "s")?;
    Ok(())
}

fn unlinked_name_refuses() -> Outcome {
    let _server = listener(SOCK_STREAM, "s")?;
    unlink("s")?;
    fails!(connect(socket(SOCK_STREAM)?, "s"), ENOENT);
    // The name is free again.
    listener(SOCK_STREAM, "s")?;
    Ok(())
}

fn unlinked_socket_still_serves() -> Outcome {
    let server = listener(SOCK_STREAM, "s")?;
    sys!(SYS_linkat, AT_FDCWD, path("s").as_ptr(), AT_FDCWD, path("t").as_ptr(), 0)?;
    unlink("s")?;
    connect(socket(SOCK_STREAM)?, "t")?;
    accept(server, 0)?;
    Ok(())
}

fn closed_listener_refuses() -> Outcome {
    let server = listener(SOCK_STREAM, "s")?;
    let waiting = socket(SOCK_STREAM)?;
    connect(waiting, "s")?;
    close(server)?;
    fails!(connect(socket(SOCK_STREAM)?, "s"), ECONNREFUSED);
    fails!(receive(waiting, 10, 0), ECONNRESET);
    Ok(())
}

fn abstract_names() -> Outcome {
    let name = own_name("a");
    let (client, server) = connection(SOCK_STREAM, &name)?;
    write(client, b"x")?;
    same!(receive(server, 10, 0)?, b"x");
    same!(name_of(SYS_getpeername, client)?, address(&name));
    Ok(())
}

fn abstract_names_have_their_length() -> Outcome {
    let name = own_name("n");
    let _server = listener(SOCK_STREAM, &name)?;
    fails!(connect(socket(SOCK_STREAM)?, &format!("{name}\0")), ECONNREFUSED);
    fails!(bind(socket(SOCK_STREAM)?, &name), EADDRINUSE);
    bind(socket(SOCK_STREAM)?, &format!("{name}\0"))?;
    Ok(())
}

fn abstract_names_end_with_the_socket() -> Outcome {
    let name = own_name("e");
    let first = listener(SOCK_STREAM, &name)?;
    close(first)?;
    listener(SOCK_STREAM, &name)?;
    Ok(())
}

fn automatic_names() -> Outcome {
    let fd = socket(SOCK_DGRAM)?;
    let family = (AF_UNIX as u16).to_ne_bytes();
    sys!(SYS_bind, fd, family.as_ptr(), 2)?;
    let name = name_of(SYS_getsockname, fd)?;
    same!((name.len(), name[2]), (8, 0));
    holds!(name[3..].iter().all(u8::is_ascii_hexdigit));
    Ok(())
}

fn datagrams_to_names() -> Outcome {
    let (receiver, sender) = (socket(SOCK_DGRAM)?, socket(SOCK_DGRAM)?);
    bind(receiver, "r")?;
    bind(sender, "s")?;
    send_to(sender, b"hello", "r")?;
    let (mut buffer, mut from, mut length) = ([0u8; 10], [0u8; 128], 128i32);
    same!(sys!(SYS_recvfrom, receiver, buffer.as_mut_ptr(), 10, 0, from.as_mut_ptr(), &raw mut length)?, 5);
    same!(&from[..length as usize], &*address("s"));
    fails!(send_to(sender, b"x", "nothing"), ENOENT);
    Ok(())
}

fn datagram_default_receiver() -> Outcome {
    let (receiver, sender) = (socket(SOCK_DGRAM)?, socket(SOCK_DGRAM)?);
    bind(receiver, "r")?;
    connect(sender, "r")?;
    send(sender, b"one", 0)?;
    same!(receive(receiver, 10, 0)?, b"one");
    close(receiver)?;
    fails!(send(sender, b"two", 0), ECONNREFUSED);
    Ok(())
}

fn datagram_from_another_is_eperm() -> Outcome {
    let (a, b, stranger) = (socket(SOCK_DGRAM)?, socket(SOCK_DGRAM)?, socket(SOCK_DGRAM)?);
    bind(a, "a")?;
    bind(b, "b")?;
    connect(a, "b")?;
    fails!(send_to(stranger, b"x", "a"), EPERM);
    send_to(b, b"x", "a")?;
    Ok(())
}

fn datagram_dissolves_with_unspec() -> Outcome {
    let (receiver, sender) = (socket(SOCK_DGRAM)?, socket(SOCK_DGRAM)?);
    bind(receiver, "r")?;
    connect(sender, "r")?;
    let none = (AF_UNSPEC as u16).to_ne_bytes();
    sys!(SYS_connect, sender, none.as_ptr(), 2)?;
    fails!(send(sender, b"x", 0), ENOTCONN);
    Ok(())
}

fn datagrams_need_a_receiver() -> Outcome {
    let fd = socket(SOCK_DGRAM)?;
    fails!(send(fd, b"x", 0), ENOTCONN);
    fails!(name_of(SYS_getpeername, fd), ENOTCONN);
    fails!(receive(fd, 10, MSG_DONTWAIT), EAGAIN);
    Ok(())
}

fn unconnected_stream_is_enotconn() -> Outcome {
    let fd = socket(SOCK_STREAM)?;
    fails!(send(fd, b"x", MSG_NOSIGNAL), ENOTCONN);
    fails!(receive(fd, 10, 0), EINVAL);
    fails!(receive(socket(SOCK_SEQPACKET)?, 10, 0), ENOTCONN);
    Ok(())
}

fn sending_to_a_connected_stream_is_eisconn() -> Outcome {
    let (one, _two) = pair(SOCK_STREAM)?;
    fails!(send_to(one, b"x", "somewhere"), EISCONN);
    fails!(send_to(socket(SOCK_STREAM)?, b"x", "somewhere"), EOPNOTSUPP);
    Ok(())
}

fn long_packets_are_emsgsize() -> Outcome {
    let (one, _two) = pair(SOCK_DGRAM)?;
    let size = option(one, SO_SNDBUF)? as usize;
    fails!(send(one, &vec![0; size + 1], 0), EMSGSIZE);
    Ok(())
}

fn rights_carry_files() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    let (reader, writer) = pipe(0)?;
    send_files(one, b"x", &[writer, reader])?;
    close(writer)?;
    let message = receive_message(two, 10, 64, 0)?;
    same!((&*message.bytes, message.files.len()), (&b"x"[..], 2));
    write(message.files[0], b"through")?;
    let mut buffer = [0; 10];
    same!(read(reader, &mut buffer)?, 7);
    Ok(())
}

fn rights_are_the_same_description() -> Outcome {
    file("f", b"abcdef")?;
    let (one, two) = pair(SOCK_DGRAM)?;
    let fd = open("f", O_RDONLY, 0)?;
    send_files(one, b"x", &[fd])?;
    let got = receive_message(two, 10, 64, 0)?.files[0];
    read(got, &mut [0; 2])?;
    same!(sys!(SYS_lseek, fd, 0, SEEK_CUR)?, 2);
    Ok(())
}

fn rights_and_cloexec() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    send_files(one, b"x", &[one])?;
    let message = receive_message(two, 10, 64, MSG_CMSG_CLOEXEC)?;
    same!(sys!(SYS_fcntl, message.files[0], F_GETFD)?, 1);
    send_files(one, b"x", &[one])?;
    same!(sys!(SYS_fcntl, receive_message(two, 10, 64, 0)?.files[0], F_GETFD)?, 0);
    Ok(())
}

fn rights_without_room_are_cut() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    send_files(one, b"x", &[one, two])?;
    let message = receive_message(two, 10, 20, 0)?;
    same!((message.files.len(), message.flags & MSG_CTRUNC), (1, MSG_CTRUNC));
    send_files(one, b"x", &[one])?;
    let message = receive_message(two, 10, 0, 0)?;
    same!((message.files.len(), message.flags & MSG_CTRUNC), (0, MSG_CTRUNC));
    Ok(())
}

fn rights_are_limited() -> Outcome {
    let (one, _two) = pair(SOCK_STREAM)?;
    send_files(one, b"x", &[one; 253])?;
    fails!(send_files(one, b"x", &[one; 254]), EINVAL);
    Ok(())
}

fn rights_of_closed_descriptors_are_ebadf() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    fails!(send_files(one, b"x", &[one, 99]), EBADF);
    fails!(receive(two, 10, MSG_DONTWAIT), EAGAIN);
    Ok(())
}

fn rights_end_a_read() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    write(one, b"ab")?;
    send_files(one, b"cd", &[one])?;
    write(one, b"ef")?;
    let message = receive_message(two, 10, 64, 0)?;
    same!((&*message.bytes, message.files.len()), (&b"abcd"[..], 1));
    same!(receive_message(two, 10, 64, 0)?.bytes, b"ef");
    Ok(())
}

fn unread_rights_are_closed() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    let (reader, writer) = pipe(0)?;
    send_files(one, b"x", &[writer])?;
    close(writer)?;
    close(two)?;
    close(one)?;
    same!(read(reader, &mut [0; 4])?, 0);
    Ok(())
}

fn rights_cycle_is_collected() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let (one, two) = pair(SOCK_STREAM)?;
    send_files(one, b"x", &[two, writer])?;
    send_files(two, b"x", &[one])?;
    close(writer)?;
    close(one)?;
    close(two)?;
    // Linux collects when the next socket goes, in a worker.
    for _ in 0..100 {
        pair(SOCK_STREAM).map(|(one, two)| (close(one), close(two)))?.0?;
        sleep_ms(10);
        sys!(SYS_fcntl, reader, F_SETFL, O_NONBLOCK)?;
        if read(reader, &mut [0; 4]) == Ok(0) {
            return Ok(());
        }
    }
    holds!(read(reader, &mut [0; 4]) == Ok(0));
    Ok(())
}

fn rights_beyond_the_limit_are_etoomanyrefs() -> Outcome {
    let (one, _two) = pair(SOCK_DGRAM)?;
    sys!(SYS_setresuid, 54_324, 54_324, 54_324)?;
    limit(RLIMIT_NOFILE, 20, 20)?;
    let mut sent = 0;
    loop {
        match send_files(one, b"x", &[one; 7]) {
            Ok(_) => sent += 7,
            Err(error) => {
                same!(error, Errno(ETOOMANYREFS));
                break;
            }
        }
        holds!(sent < 100);
    }
    same!(sent, 21);
    Ok(())
}

fn credentials_come_with_passcred() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    write(one, b"x")?;
    holds!(receive_message(two, 10, 64, 0)?.credentials.is_none());
    set_option(two, SO_PASSCRED, 1)?;
    write(one, b"x")?;
    let (uid, gid) = (sys!(SYS_getuid)? as u32, sys!(SYS_getgid)? as u32);
    same!(receive_message(two, 10, 64, 0)?.credentials, Some((getpid(), uid, gid)));
    Ok(())
}

fn credentials_must_be_ones_own() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    set_option(two, SO_PASSCRED, 1)?;
    let said = |pid: i32, uid: u32, gid: u32| {
        let data = [pid.to_ne_bytes(), uid.to_ne_bytes(), gid.to_ne_bytes()].concat();
        send_control(one, b"x", &control(SCM_CREDENTIALS, &data))
    };
    let (uid, gid) = (sys!(SYS_getuid)? as u32, sys!(SYS_getgid)? as u32);
    said(getpid(), uid, gid)?;
    same!(receive_message(two, 10, 64, 0)?.credentials, Some((getpid(), uid, gid)));
    fails!(send_control(one, b"x", &control(SCM_CREDENTIALS, &[0; 8])), EINVAL);
    fails!(send_control(one, b"x", &control(99, &[0; 8])), EINVAL);
    become_user()?;
    fails!(said(1, 0, 0), EPERM);
    Ok(())
}

fn peercred_is_who_connected() -> Outcome {
    let peer = |fd: i32| {
        let (mut ids, mut length) = ([0i32; 3], 12i32);
        sys!(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERCRED, ids.as_mut_ptr(), &raw mut length).map(|_| ids)
    };
    let server = listener(SOCK_STREAM, "s")?;
    let pid = child(|| {
        let Ok(fd) = socket(SOCK_STREAM) else { return 1 };
        if connect(fd, "s").is_err() {
            return 2;
        }
        let _ = read(fd, &mut [0]);
        0
    })?;
    let accepted = accept(server, 0)?;
    same!(peer(accepted)?[0], pid);
    same!(peer(pair(SOCK_STREAM)?.0)?[0], getpid());
    same!(peer(socket(SOCK_STREAM)?)?, [0, -1, -1]);
    close(accepted)?;
    same!(status(pid)?, 0);
    Ok(())
}

fn options_have_their_defaults() -> Outcome {
    let fd = socket(SOCK_STREAM)?;
    for name in [SO_PASSCRED, SO_ERROR, SO_ACCEPTCONN, SO_REUSEADDR, SO_KEEPALIVE, SO_BROADCAST, SO_DEBUG] {
        same!((name, option(fd, name)?), (name, 0));
    }
    bind(fd, "s")?;
    listen(fd, 1)?;
    same!(option(fd, SO_ACCEPTCONN)?, 1);
    set_option(fd, SO_REUSEADDR, 7)?;
    same!(option(fd, SO_REUSEADDR)?, 1);
    Ok(())
}

fn type_domain_and_protocol() -> Outcome {
    let fd = socket(SOCK_SEQPACKET)?;
    same!((option(fd, SO_TYPE)?, option(fd, SO_DOMAIN)?, option(fd, SO_PROTOCOL)?), (SOCK_SEQPACKET, AF_UNIX, 0));
    fails!(set_option(fd, SO_TYPE, 1), ENOPROTOOPT);
    fails!(set_option(fd, SO_ERROR, 1), ENOPROTOOPT);
    Ok(())
}

fn buffers_are_doubled() -> Outcome {
    let fd = socket(SOCK_STREAM)?;
    set_option(fd, SO_SNDBUF, 10_000)?;
    same!(option(fd, SO_SNDBUF)?, 20_000);
    set_option(fd, SO_RCVBUF, 10_000)?;
    same!(option(fd, SO_RCVBUF)?, 20_000);
    Ok(())
}

fn timeouts_end_waits() -> Outcome {
    let (one, _two) = pair(SOCK_STREAM)?;
    let time = timeval { tv_sec: 0, tv_usec: 30_000 };
    sys!(SYS_setsockopt, one, SOL_SOCKET, SO_RCVTIMEO, &raw const time, 16)?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    fails!(receive(one, 10, 0), EAGAIN);
    holds!(now_ns(CLOCK_MONOTONIC)? - start >= 30_000_000);
    let bad = timeval { tv_sec: 0, tv_usec: 1_000_000 };
    fails!(sys!(SYS_setsockopt, one, SOL_SOCKET, SO_RCVTIMEO, &raw const bad, 16), EDOM);
    Ok(())
}

fn unknown_options() -> Outcome {
    let fd = socket(SOCK_STREAM)?;
    fails!(option(fd, 9999), ENOPROTOOPT);
    fails!(set_option(fd, 9999, 1), ENOPROTOOPT);
    let value = 1i32;
    fails!(sys!(SYS_setsockopt, fd, SOL_SOCKET, SO_PASSCRED, &raw const value, 3), EINVAL);
    fails!(sys!(SYS_setsockopt, fd, SOL_SOCKET, SO_PASSCRED, 8, 4), EFAULT);
    fails!(option(pipe(0)?.0, SO_TYPE), ENOTSOCK);
    Ok(())
}

fn poll_states_of_a_stream() -> Outcome {
    let (one, two) = pair(SOCK_STREAM | SOCK_NONBLOCK)?;
    same!(events(one)?, POLLOUT);
    write(two, b"x")?;
    same!(events(one)?, POLLIN | POLLOUT);
    while write(one, &[0; 4096]).is_ok() {}
    same!(events(one)?, POLLIN);
    sys!(SYS_shutdown, two, SHUT_WR)?;
    same!(events(one)?, POLLIN | POLLRDHUP);
    Ok(())
}

fn poll_states_of_a_listener() -> Outcome {
    let server = listener(SOCK_STREAM, "s")?;
    same!(events(server)?, 0);
    connect(socket(SOCK_STREAM)?, "s")?;
    same!(events(server)?, POLLIN);
    accept(server, 0)?;
    same!(events(server)?, 0);
    Ok(())
}

fn poll_after_the_peer_closed() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    close(two)?;
    same!(events(one)?, POLLIN | POLLOUT | POLLHUP | POLLRDHUP);
    let (one, two) = pair(SOCK_STREAM)?;
    write(one, b"unread")?;
    close(two)?;
    same!(events(one)?, POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP);
    same!(option(one, SO_ERROR)?, ECONNRESET);
    same!(option(one, SO_ERROR)?, 0);
    Ok(())
}

fn poll_of_an_unconnected_stream() -> Outcome {
    same!(events(socket(SOCK_STREAM)?)?, POLLOUT | POLLHUP);
    same!(events(socket(SOCK_DGRAM)?)?, POLLOUT);
    Ok(())
}

fn bytes_that_wait() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    write(one, b"abc")?;
    write(one, b"de")?;
    let mut bytes = 0i32;
    sys!(SYS_ioctl, two, FIONREAD, &raw mut bytes)?;
    same!(bytes, 5);
    let (one, two) = pair(SOCK_DGRAM)?;
    write(one, b"abc")?;
    sys!(SYS_ioctl, two, FIONREAD, &raw mut bytes)?;
    same!(bytes, 3);
    Ok(())
}

fn seek_and_pread_are_espipe() -> Outcome {
    let (one, _two) = pair(SOCK_STREAM)?;
    fails!(sys!(SYS_lseek, one, 0, SEEK_SET), ESPIPE);
    fails!(sys!(SYS_pread64, one, [0u8; 4].as_mut_ptr(), 4, 0), ESPIPE);
    fails!(sys!(SYS_ftruncate, one, 0), EINVAL);
    Ok(())
}

fn open_of_a_socket_file_is_enxio() -> Outcome {
    listener(SOCK_STREAM, "s")?;
    fails!(open("s", O_RDWR, 0), ENXIO);
    Ok(())
}

fn several_messages_at_once() -> Outcome {
    let (one, two) = pair(SOCK_DGRAM)?;
    let texts = [b"aa", b"bb", b"cc"];
    let runs = texts.map(|text| iovec { iov_base: text.as_ptr() as *mut c_void, iov_len: 2 });
    let mut list: [mmsghdr; 3] = zeroed();
    for (header, run) in list.iter_mut().zip(&runs) {
        header.msg_hdr.msg_iov = (run as *const iovec).cast_mut();
        header.msg_hdr.msg_iovlen = 1 as _;
    }
    same!(sys!(SYS_sendmmsg, one, list.as_mut_ptr(), 3, 0)?, 3);
    same!((list[0].msg_len, list[2].msg_len), (2, 2));
    let mut buffers = [[0u8; 4]; 4];
    let runs = buffers.each_mut().map(|buffer| iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 4 });
    let mut list: [mmsghdr; 4] = zeroed();
    for (header, run) in list.iter_mut().zip(&runs) {
        header.msg_hdr.msg_iov = (run as *const iovec).cast_mut();
        header.msg_hdr.msg_iovlen = 1 as _;
    }
    same!(sys!(SYS_recvmmsg, two, list.as_mut_ptr(), 4, MSG_DONTWAIT, 0)?, 3);
    same!(&buffers[2], b"cc\0\0");
    Ok(())
}

fn proc_net_unix_lists_sockets() -> Outcome {
    let name = own_name("proc");
    let fd = listener(SOCK_STREAM, &name)?;
    let ino = fstat(fd)?.st_ino;
    let text = String::from_utf8_lossy(&content("/proc/net/unix")?).into_owned();
    let mut lines = text.lines();
    same!(lines.next(), Some("Num       RefCount Protocol Flags    Type St Inode Path"));
    let line = lines.find(|line| line.ends_with(&name)).unwrap_or_default().to_string();
    let words: Vec<&str> = line.split_whitespace().collect();
    same!(words.len(), 8);
    same!(&words[1..], &["00000002", "00000000", "00010000", "0001", "01", &*ino.to_string(), &*name]);
    Ok(())
}

/// The lines of `/proc/locks` that speak of this inode, without their numbers.
fn locks_of(ino: u64) -> Result<Vec<String>> {
    let text = String::from_utf8_lossy(&content("/proc/locks")?).into_owned();
    let mark = format!(":{ino} ");
    Ok(text
        .lines()
        .filter(|line| line.contains(&mark))
        .map(|line| line.split_once(": ").map_or("", |parts| parts.1).to_string())
        .collect())
}

fn lock(fd: i32, command: i32, kind: i32, start: i64, length: i64) -> Result<usize> {
    let mut argument: flock = zeroed();
    argument.l_type = kind as _;
    argument.l_start = start;
    argument.l_len = length;
    sys!(SYS_fcntl, fd, command, &raw const argument)
}

fn proc_locks_lists_locks() -> Outcome {
    file("f", b"")?;
    let (fd, other) = (open("f", O_RDWR, 0)?, open("f", O_RDWR, 0)?);
    let (ino, me) = (fstat(fd)?.st_ino, getpid());
    lock(fd, F_SETLK, F_WRLCK, 10, 5)?;
    let shown = |lines: &[String]| -> Vec<String> {
        // The device number in the middle is the file system's own.
        lines
            .iter()
            .map(|line| line.split(' ').filter(|word| !word.contains(':')).collect::<Vec<_>>().join(" "))
            .collect()
    };
    same!(shown(&locks_of(ino)?), [format!("POSIX  ADVISORY  WRITE {me} 10 14")]);
    lock(fd, F_SETLK, F_UNLCK, 0, 0)?;
    lock(fd, F_OFD_SETLK, F_RDLCK, 0, 0)?;
    same!(shown(&locks_of(ino)?), ["OFDLCK ADVISORY  READ -1 0 EOF".to_string()]);
    lock(fd, F_OFD_SETLK, F_UNLCK, 0, 0)?;
    sys!(SYS_flock, other, LOCK_EX)?;
    same!(shown(&locks_of(ino)?), [format!("FLOCK  ADVISORY  WRITE {me} 0 EOF")]);
    close(other)?;
    same!(locks_of(ino)?.len(), 0);
    Ok(())
}

fn proc_locks_shows_who_waits() -> Outcome {
    file("f", b"")?;
    let fd = open("f", O_RDWR, 0)?;
    let ino = fstat(fd)?.st_ino;
    lock(fd, F_SETLK, F_WRLCK, 0, 0)?;
    let pid = child(|| lock(fd, F_SETLKW, F_RDLCK, 5, 1).is_err().into())?;
    let waits = format!("-> POSIX  ADVISORY  READ {pid} ");
    for _ in 0..200 {
        if locks_of(ino)?.iter().any(|line| line.starts_with(&waits)) {
            break;
        }
        sleep_ms(10);
    }
    let lines = locks_of(ino)?;
    same!(lines.len(), 2);
    holds!(lines[1].starts_with(&waits) && lines[1].ends_with(" 5 5"));
    lock(fd, F_SETLK, F_UNLCK, 0, 0)?;
    same!(status(pid)?, 0);
    Ok(())
}
