//! AF_UNIX sockets, on the test machine.

use abi::Errno;
use abi::nr;
use abi::socket as s;
use kcore::testing::{Libc, Machine};

/// socketpair(2).
fn pair(user: &mut impl Libc, kind: u32) -> Result<(i32, i32), Errno> {
    user.scoped(|user| {
        let fds = user.push(&[0; 8]);
        user.call(nr::SOCKETPAIR, &[s::AF_UNIX.into(), kind.into(), 0, fds])?;
        let [one, other] = user.load::<[i32; 2]>(fds);
        Ok((one, other))
    })
}

/// socket(2).
fn socket(user: &mut impl Libc, kind: u32) -> Result<i32, Errno> {
    user.call_int(nr::SOCKET, &[s::AF_UNIX.into(), kind.into(), 0])
}

/// The bytes of an address: `@name` is abstract.
fn address(name: &str) -> Vec<u8> {
    let name = name.replace('@', "\0");
    [&s::AF_UNIX.to_ne_bytes(), name.as_bytes()].concat()
}

/// bind(2) or connect(2).
fn with_address(user: &mut impl Libc, call: usize, fd: i32, name: &str) -> Result<u64, Errno> {
    let bytes = address(name);
    user.scoped(|user| {
        let at = user.push(&bytes);
        user.call(call, &[fd as u64, at, bytes.len() as u64])
    })
}

fn bind(user: &mut impl Libc, fd: i32, name: &str) -> Result<u64, Errno> {
    with_address(user, nr::BIND, fd, name)
}

fn connect(user: &mut impl Libc, fd: i32, name: &str) -> Result<u64, Errno> {
    with_address(user, nr::CONNECT, fd, name)
}

fn listen(user: &mut impl Libc, fd: i32, backlog: u64) -> Result<u64, Errno> {
    user.call(nr::LISTEN, &[fd as u64, backlog])
}

fn accept(user: &mut impl Libc, fd: i32) -> Result<i32, Errno> {
    user.call_int(nr::ACCEPT, &[fd as u64, 0, 0])
}

/// getsockname(2) or getpeername(2): the bytes of the address.
fn name_of(user: &mut impl Libc, call: usize, fd: i32) -> Result<Vec<u8>, Errno> {
    user.scoped(|user| {
        let (at, length) = (user.push(&[0; 128]), user.push(&128_i32.to_ne_bytes()));
        user.call(call, &[fd as u64, at, length])?;
        let length = user.load::<i32>(length);
        Ok(user.user().read_bytes(at, length as usize))
    })
}

/// A listener on `name`.
fn listener(user: &mut impl Libc, kind: u32, name: &str) -> i32 {
    let fd = socket(user, kind).unwrap();
    bind(user, fd, name).unwrap();
    listen(user, fd, 5).unwrap();
    fd
}

/// A `struct cmsghdr` with its data.
fn control(kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = ((16 + data.len()) as u64).to_ne_bytes().to_vec();
    bytes.extend(1_i32.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn header(user: &mut impl Libc, data: (u64, usize), control: (u64, usize)) -> u64 {
    let vector = user.push(&[data.0.to_ne_bytes(), (data.1 as u64).to_ne_bytes()].concat());
    let words = [0, 0, vector, 1, control.0, control.1 as u64, 0];
    user.push(&words.map(u64::to_ne_bytes).concat())
}

/// sendmsg(2) of bytes and control data.
fn sendmsg(user: &mut impl Libc, fd: i32, bytes: &[u8], control: &[u8]) -> Result<u64, Errno> {
    user.scoped(|user| {
        let data = (user.push(bytes), bytes.len());
        let control = (user.push(control), control.len());
        let message = header(user, data, control);
        user.call(nr::SENDMSG, &[fd as u64, message, 0])
    })
}

/// recvmsg(2) with so much room: the bytes, the control data, the flags.
fn recvmsg(
    user: &mut impl Libc,
    fd: i32,
    (room, control_room): (usize, usize),
    flags: u32,
) -> Result<(Vec<u8>, Vec<u8>, u32), Errno> {
    user.scoped(|user| {
        let data = (user.push(&vec![0; room]), room);
        let control = (user.push(&vec![0; control_room.max(1)]), control_room);
        let message = header(user, data, control);
        let length = user.call(nr::RECVMSG, &[fd as u64, message, flags.into()])?;
        let control_length = user.load::<u64>(message + 40);
        let bytes = user.user().read_bytes(data.0, (length as usize).min(room));
        let controls = user.user().read_bytes(control.0, control_length as usize);
        Ok((bytes, controls, user.load::<u32>(message + 48)))
    })
}

/// The descriptors in control data that has nothing else.
fn descriptors(control: &[u8]) -> Vec<i32> {
    let Some(length) = control.get(..8) else { return Vec::new() };
    let length = u64::from_ne_bytes(length.try_into().unwrap()) as usize;
    control[16..length].chunks_exact(4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap())).collect()
}

fn set_option(user: &mut impl Libc, fd: i32, option: u32, value: i32) -> Result<u64, Errno> {
    user.scoped(|user| {
        let at = user.push(&value.to_ne_bytes());
        user.call(nr::SETSOCKOPT, &[fd as u64, 1, option.into(), at, 4])
    })
}

fn option(user: &mut impl Libc, fd: i32, option: u32) -> Result<i32, Errno> {
    user.scoped(|user| {
        let (at, length) = (user.push(&[0; 16]), user.push(&4_i32.to_ne_bytes()));
        user.call(nr::GETSOCKOPT, &[fd as u64, 1, option.into(), at, length])?;
        Ok(user.load::<i32>(at))
    })
}

#[test]
fn a_stream_carries_bytes_both_ways_and_forgets_messages() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_STREAM).unwrap();
        assert_eq!(init.write_fd(one, b"ab"), Ok(2));
        assert_eq!(init.write_fd(one, b"cd"), Ok(2));
        assert_eq!(init.read_fd(other, 3), Ok(b"abc".to_vec()));
        assert_eq!(init.write_fd(other, b"x"), Ok(1));
        assert_eq!(init.read_fd(one, 10), Ok(b"x".to_vec()));
        init.close(one).unwrap();
        assert_eq!(init.read_fd(other, 10), Ok(b"d".to_vec()));
        assert_eq!(init.read_fd(other, 10), Ok(vec![]));
    });
}

#[test]
fn a_packet_is_read_alone_and_its_rest_is_lost() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_SEQPACKET | s::SOCK_NONBLOCK).unwrap();
        assert_eq!(init.read_fd(other, 10), Err(Errno::EAGAIN));
        assert_eq!(init.write_fd(one, b"first"), Ok(5));
        assert_eq!(init.write_fd(one, b"second"), Ok(6));
        assert_eq!(init.read_fd(other, 2), Ok(b"fi".to_vec()));
        assert_eq!(init.read_fd(other, 100), Ok(b"second".to_vec()));
    });
}

#[test]
fn a_full_queue_says_eagain_and_a_long_packet_emsgsize() {
    Machine::new().run(|init| {
        let (one, _other) = pair(init, s::SOCK_SEQPACKET | s::SOCK_NONBLOCK).unwrap();
        assert_eq!(init.write_fd(one, &vec![0; 212_993]), Err(Errno::EMSGSIZE));
        let sent = (0..1000).take_while(|_| init.write_fd(one, &[0; 4096]).is_ok()).count();
        assert_eq!(sent, 212_992 / 4096);
        assert_eq!(init.write_fd(one, &[0; 4096]), Err(Errno::EAGAIN));
    });
}

#[test]
fn what_is_no_pair_is_refused() {
    Machine::new().run(|init| {
        assert_eq!(pair(init, 9), Err(Errno::ESOCKTNOSUPPORT));
        assert_eq!(pair(init, s::SOCK_STREAM | 0x100), Err(Errno::EINVAL));
        assert_eq!(
            init.call(nr::SOCKETPAIR, &[s::AF_UNIX.into(), s::SOCK_STREAM.into(), 7, 0]),
            Err(Errno::EPROTONOSUPPORT)
        );
        assert_eq!(init.call(nr::SOCKETPAIR, &[s::AF_UNIX.into(), s::SOCK_STREAM.into(), 0, 8]), Err(Errno::EFAULT));
        assert_eq!(socket(init, s::SOCK_STREAM | 0x100), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::SOCKET, &[s::AF_INET.into(), s::SOCK_STREAM.into(), 0]), Err(Errno::EAFNOSUPPORT));
        let (reader, _writer) = init.pipe(0).unwrap();
        assert_eq!(init.call(nr::SHUTDOWN, &[reader as u64, 0]), Err(Errno::ENOTSOCK));
    });
}

#[test]
fn shutdown_ends_one_direction() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_STREAM).unwrap();
        assert_eq!(init.call(nr::SHUTDOWN, &[one as u64, s::SHUT_WR.into()]), Ok(0));
        assert_eq!(init.read_fd(other, 10), Ok(vec![]));
        assert_eq!(init.write_fd(other, b"still"), Ok(5));
        assert_eq!(init.read_fd(one, 10), Ok(b"still".to_vec()));
    });
}

#[test]
fn a_connection_is_made_by_its_abstract_name_and_carries_both_ways() {
    Machine::new().run(|init| {
        let listening = listener(init, s::SOCK_STREAM, "@server");
        init.fork(|user| {
            let client = socket(user, s::SOCK_STREAM).unwrap();
            connect(user, client, "@server").unwrap();
            user.write_fd(client, b"question").unwrap();
            assert_eq!(user.read_fd(client, 10), Ok(b"answer".to_vec()));
            assert_eq!(user.read_fd(client, 10), Ok(vec![]));
            0
        });
        let server = accept(init, listening).unwrap();
        assert_eq!(init.read_fd(server, 20), Ok(b"question".to_vec()));
        init.write_fd(server, b"answer").unwrap();
        assert_eq!(name_of(init, nr::GETSOCKNAME, server), Ok(address("@server")));
        assert_eq!(name_of(init, nr::GETPEERNAME, server), Ok(address("")));
        init.close(server).unwrap();
        assert_eq!(init.wait().unwrap().status.exit_code(), Some(0));
    });
}

#[test]
fn a_pathname_is_a_file_that_stays_and_that_nobody_listens_on_afterwards() {
    Machine::new().run(|init| {
        let listening = listener(init, s::SOCK_STREAM, "/sock");
        let client = socket(init, s::SOCK_STREAM).unwrap();
        connect(init, client, "/sock").unwrap();
        // The name is shown with its NUL.
        assert_eq!(name_of(init, nr::GETPEERNAME, client), Ok([address("/sock"), vec![0]].concat()));
        let second = socket(init, s::SOCK_STREAM).unwrap();
        assert_eq!(bind(init, second, "/sock"), Err(Errno::EADDRINUSE));
        init.close(listening).unwrap();
        assert_eq!(connect(init, second, "/sock"), Err(Errno::ECONNREFUSED));
        assert_eq!(connect(init, second, "/nothing"), Err(Errno::ENOENT));
    });
}

#[test]
fn an_abstract_name_is_free_when_its_socket_closes() {
    Machine::new().run(|init| {
        let first = socket(init, s::SOCK_DGRAM).unwrap();
        bind(init, first, "@name").unwrap();
        let second = socket(init, s::SOCK_DGRAM).unwrap();
        assert_eq!(bind(init, second, "@name"), Err(Errno::EADDRINUSE));
        assert_eq!(bind(init, first, "@other"), Err(Errno::EINVAL));
        init.close(first).unwrap();
        assert_eq!(bind(init, second, "@name"), Ok(0));
    });
}

#[test]
fn binding_to_the_family_alone_chooses_a_name_of_five_hex_digits() {
    Machine::new().run(|init| {
        let fd = socket(init, s::SOCK_STREAM).unwrap();
        bind(init, fd, "").unwrap();
        let name = name_of(init, nr::GETSOCKNAME, fd).unwrap();
        assert_eq!(name.len(), 8);
        assert_eq!(name[2], 0);
        assert!(name[3..].iter().all(u8::is_ascii_hexdigit));
    });
}

#[test]
fn calls_on_a_socket_in_the_wrong_state_are_refused() {
    Machine::new().run(|init| {
        let stream = socket(init, s::SOCK_STREAM).unwrap();
        assert_eq!(listen(init, stream, 1), Err(Errno::EINVAL), "without a name");
        assert_eq!(accept(init, stream), Err(Errno::EINVAL), "without listen");
        assert_eq!(init.write_fd(stream, b"x"), Err(Errno::ENOTCONN));
        assert_eq!(init.read_fd(stream, 1), Err(Errno::EINVAL));
        assert_eq!(name_of(init, nr::GETPEERNAME, stream), Err(Errno::ENOTCONN));
        let packets = socket(init, s::SOCK_SEQPACKET).unwrap();
        assert_eq!(init.read_fd(packets, 1), Err(Errno::ENOTCONN));
        let datagrams = socket(init, s::SOCK_DGRAM).unwrap();
        bind(init, datagrams, "@dgram").unwrap();
        assert_eq!(listen(init, datagrams, 1), Err(Errno::EOPNOTSUPP));
        assert_eq!(accept(init, datagrams), Err(Errno::EOPNOTSUPP));
        assert_eq!(connect(init, stream, "@dgram"), Err(Errno::EPROTOTYPE));
        listener(init, s::SOCK_STREAM, "@one");
        connect(init, stream, "@one").unwrap();
        assert_eq!(connect(init, stream, "@one"), Err(Errno::EISCONN));
    });
}

#[test]
fn more_connections_than_the_backlog_wait_or_are_told_to_come_again() {
    Machine::new().run(|init| {
        let listening = socket(init, s::SOCK_STREAM).unwrap();
        bind(init, listening, "@full").unwrap();
        listen(init, listening, 0).unwrap();
        let first = socket(init, s::SOCK_STREAM).unwrap();
        connect(init, first, "@full").unwrap();
        let second = socket(init, s::SOCK_STREAM | s::SOCK_NONBLOCK).unwrap();
        assert_eq!(connect(init, second, "@full"), Err(Errno::EAGAIN));
        init.fork(|user| {
            let third = socket(user, s::SOCK_STREAM).unwrap();
            connect(user, third, "@full").unwrap();
            0
        });
        accept(init, listening).unwrap();
        assert_eq!(init.wait().unwrap().status.exit_code(), Some(0));
    });
}

#[test]
fn a_listener_that_closes_resets_those_who_wait() {
    Machine::new().run(|init| {
        let listening = listener(init, s::SOCK_STREAM, "@gone");
        let client = socket(init, s::SOCK_STREAM).unwrap();
        connect(init, client, "@gone").unwrap();
        init.close(listening).unwrap();
        assert_eq!(init.read_fd(client, 1), Err(Errno::ECONNRESET));
        assert_eq!(init.read_fd(client, 1), Ok(vec![]));
    });
}

#[test]
fn a_peer_that_closes_without_having_read_all_resets_the_connection_once() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_STREAM).unwrap();
        init.write_fd(one, b"unread").unwrap();
        init.close(other).unwrap();
        assert_eq!(option(init, one, s::SO_ERROR), Ok(Errno::ECONNRESET.number().into()));
        assert_eq!(option(init, one, s::SO_ERROR), Ok(0));
        assert_eq!(init.read_fd(one, 1), Ok(vec![]));
    });
}

#[test]
fn datagrams_come_with_the_name_of_their_sender() {
    Machine::new().run(|init| {
        let server = socket(init, s::SOCK_DGRAM).unwrap();
        bind(init, server, "@in").unwrap();
        let client = socket(init, s::SOCK_DGRAM).unwrap();
        assert_eq!(init.write_fd(client, b"x"), Err(Errno::ENOTCONN));
        bind(init, client, "@out").unwrap();
        connect(init, client, "@in").unwrap();
        init.write_fd(client, b"hello").unwrap();
        let (bytes, from) = init.scoped(|user| {
            let (data, name, length) = (user.push(&[0; 16]), user.push(&[0; 128]), user.push(&128_i32.to_ne_bytes()));
            let received = user.call(nr::RECVFROM, &[server as u64, data, 16, 0, name, length]).unwrap();
            let name_length = user.load::<i32>(length) as usize;
            (user.user().read_bytes(data, received as usize), user.user().read_bytes(name, name_length))
        });
        assert_eq!((bytes, from), (b"hello".to_vec(), address("@out")));
        // Connected, the client takes from nobody but the server.
        let stranger = socket(init, s::SOCK_DGRAM).unwrap();
        assert_eq!(connect(init, stranger, "@out"), Err(Errno::EPERM));
        init.close(server).unwrap();
        assert_eq!(init.write_fd(client, b"x"), Err(Errno::ECONNREFUSED));
        assert_eq!(init.write_fd(client, b"x"), Err(Errno::ENOTCONN), "the connection is dissolved");
    });
}

#[test]
fn a_receiver_that_does_not_read_holds_eleven_datagrams_of_strangers() {
    Machine::new().run(|init| {
        let server = socket(init, s::SOCK_DGRAM).unwrap();
        bind(init, server, "@slow").unwrap();
        let client = socket(init, s::SOCK_DGRAM | s::SOCK_NONBLOCK).unwrap();
        connect(init, client, "@slow").unwrap();
        let sent = (0..100).take_while(|_| init.write_fd(client, b"x").is_ok()).count();
        assert_eq!(sent, 11);
        assert_eq!(init.write_fd(client, b"x"), Err(Errno::EAGAIN));
        init.read_fd(server, 1).unwrap();
        assert_eq!(init.write_fd(client, b"x"), Ok(1));
    });
}

#[test]
fn files_travel_and_get_new_numbers() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_STREAM).unwrap();
        let (reader, writer) = init.pipe(0).unwrap();
        assert_eq!(sendmsg(init, one, b"f", &control(s::SCM_RIGHTS, &writer.to_ne_bytes())), Ok(1));
        init.close(writer).unwrap();
        let (bytes, received, flags) = recvmsg(init, other, (10, 64), s::MSG_CMSG_CLOEXEC).unwrap();
        assert_eq!((bytes, flags), (b"f".to_vec(), s::MSG_CMSG_CLOEXEC));
        let [fd] = descriptors(&received)[..] else { panic!("one file") };
        assert_eq!(init.call(nr::FCNTL, &[fd as u64, abi::fcntl::F_GETFD.into(), 0]), Ok(1));
        init.write_fd(fd, b"through").unwrap();
        assert_eq!(init.read_fd(reader, 10), Ok(b"through".to_vec()));
    });
}

#[test]
fn files_that_nobody_has_room_for_are_closed() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_STREAM).unwrap();
        let (reader, writer) = init.pipe(0).unwrap();
        sendmsg(init, one, b"f", &control(s::SCM_RIGHTS, &writer.to_ne_bytes())).unwrap();
        init.close(writer).unwrap();
        let (bytes, received, flags) = recvmsg(init, other, (10, 0), 0).unwrap();
        assert_eq!((bytes, received, flags), (b"f".to_vec(), vec![], s::MSG_CTRUNC));
        assert_eq!(init.read_fd(reader, 1), Ok(vec![]), "the last writer is gone");
    });
}

#[test]
fn bytes_with_files_are_not_glued_to_those_behind() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_STREAM).unwrap();
        init.write_fd(one, b"before ").unwrap();
        sendmsg(init, one, b"with", &control(s::SCM_RIGHTS, &one.to_ne_bytes())).unwrap();
        init.write_fd(one, b" after").unwrap();
        let (bytes, received, _) = recvmsg(init, other, (100, 64), 0).unwrap();
        assert_eq!((bytes, descriptors(&received).len()), (b"before with".to_vec(), 1));
        assert_eq!(init.read_fd(other, 100), Ok(b" after".to_vec()));
    });
}

#[test]
fn a_look_leaves_the_message_and_copies_its_files() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_DGRAM).unwrap();
        sendmsg(init, one, b"packet", &control(s::SCM_RIGHTS, &one.to_ne_bytes())).unwrap();
        let (bytes, received, flags) = recvmsg(init, other, (3, 64), s::MSG_PEEK).unwrap();
        assert_eq!((bytes, descriptors(&received).len(), flags), (b"pac".to_vec(), 1, s::MSG_TRUNC));
        let (bytes, received, _) = recvmsg(init, other, (10, 64), 0).unwrap();
        assert_eq!((bytes, descriptors(&received).len()), (b"packet".to_vec(), 1));
    });
}

#[test]
fn credentials_come_when_the_receiver_asks_and_cannot_be_forged() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_DGRAM).unwrap();
        set_option(init, other, s::SO_PASSCRED, 1).unwrap();
        let child = init.fork(move |user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            user.write_fd(one, b"me").unwrap();
            let forged = [1_i32.to_ne_bytes(), 0_i32.to_ne_bytes(), 0_i32.to_ne_bytes()].concat();
            assert_eq!(sendmsg(user, one, b"x", &control(s::SCM_CREDENTIALS, &forged)), Err(Errno::EPERM));
            0
        });
        let (_, received, _) = recvmsg(init, other, (10, 64), 0).unwrap();
        let words: Vec<i32> = descriptors(&received);
        assert_eq!(words, [child, 1000, 0]);
        assert_eq!(init.wait().unwrap().status.exit_code(), Some(0));
    });
}

#[test]
fn the_peers_credentials_are_those_of_the_connection() {
    Machine::new().run(|init| {
        let listening = listener(init, s::SOCK_STREAM, "@cred");
        let child = init.fork(|user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            let client = socket(user, s::SOCK_STREAM).unwrap();
            connect(user, client, "@cred").unwrap();
            assert_eq!(option(user, client, s::SO_PEERCRED), Ok(1), "the listener");
            user.read_fd(client, 1).unwrap();
            0
        });
        let server = accept(init, listening).unwrap();
        assert_eq!(option(init, server, s::SO_PEERCRED), Ok(child));
        init.close(server).unwrap();
        init.wait().unwrap();
    });
}

#[test]
fn sockets_that_only_their_own_messages_refer_to_are_collected() {
    Machine::new().run(|init| {
        // A pipe's end in the message shows when it goes.
        let (reader, writer) = init.pipe(0).unwrap();
        let (one, other) = pair(init, s::SOCK_DGRAM).unwrap();
        let both = [one.to_ne_bytes(), other.to_ne_bytes(), writer.to_ne_bytes()].concat();
        sendmsg(init, one, b"loop", &control(s::SCM_RIGHTS, &both)).unwrap();
        sendmsg(init, other, b"loop", &control(s::SCM_RIGHTS, &both)).unwrap();
        init.close(writer).unwrap();
        init.close(one).unwrap();
        init.close(other).unwrap();
        // As on Linux, the next socket that goes takes them along.
        let last = socket(init, s::SOCK_STREAM).unwrap();
        init.close(last).unwrap();
        assert_eq!(init.read_fd(reader, 1), Ok(vec![]));
    });
}

#[test]
fn a_socket_on_its_way_to_a_live_one_is_not_collected() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_STREAM).unwrap();
        let (sent, partner) = pair(init, s::SOCK_STREAM).unwrap();
        init.write_fd(partner, b"kept").unwrap();
        sendmsg(init, one, b"s", &control(s::SCM_RIGHTS, &sent.to_ne_bytes())).unwrap();
        init.close(sent).unwrap();
        init.close(partner).unwrap();
        let (_, received, _) = recvmsg(init, other, (1, 64), 0).unwrap();
        let [fd] = descriptors(&received)[..] else { panic!("one file") };
        assert_eq!(init.read_fd(fd, 10), Ok(b"kept".to_vec()));
    });
}

#[test]
fn options_are_kept_or_refused() {
    Machine::new().run(|init| {
        let fd = socket(init, s::SOCK_STREAM).unwrap();
        assert_eq!(option(init, fd, s::SO_TYPE), Ok(1));
        assert_eq!(option(init, fd, s::SO_DOMAIN), Ok(1));
        assert_eq!(option(init, fd, s::SO_ACCEPTCONN), Ok(0));
        assert_eq!(option(init, fd, s::SO_SNDBUF), Ok(212_992));
        set_option(init, fd, s::SO_SNDBUF, 10_000).unwrap();
        assert_eq!(option(init, fd, s::SO_SNDBUF), Ok(20_000), "the kernel doubles it");
        set_option(init, fd, s::SO_SNDBUF, 1).unwrap();
        assert_eq!(option(init, fd, s::SO_SNDBUF), Ok(4608));
        assert_eq!(set_option(init, fd, s::SO_TYPE, 1), Err(Errno::ENOPROTOOPT));
        assert_eq!(set_option(init, fd, 9999, 1), Err(Errno::ENOPROTOOPT));
        assert_eq!(option(init, fd, 9999), Err(Errno::ENOPROTOOPT));
        bind(init, fd, "@opt").unwrap();
        listen(init, fd, 1).unwrap();
        assert_eq!(option(init, fd, s::SO_ACCEPTCONN), Ok(1));
    });
}

#[test]
fn a_receive_timeout_is_eagain() {
    Machine::new().run(|init| {
        let (one, _other) = pair(init, s::SOCK_STREAM).unwrap();
        let time = abi::time::Timeval { tv_sec: 0, tv_usec: 50_000 };
        init.scoped(|user| {
            let at = user.push(zerocopy::IntoBytes::as_bytes(&time));
            user.call(nr::SETSOCKOPT, &[one as u64, 1, s::SO_RCVTIMEO.into(), at, 16]).unwrap();
        });
        assert_eq!(init.read_fd(one, 1), Err(Errno::EAGAIN));
    });
}

#[test]
fn waitall_collects_what_comes_in_pieces() {
    Machine::new().run(|init| {
        let (one, other) = pair(init, s::SOCK_STREAM).unwrap();
        init.fork(move |user| {
            for piece in [b"ab", b"cd", b"ef"] {
                user.write_fd(one, piece).unwrap();
                user.call(nr::SCHED_YIELD, &[]).unwrap();
            }
            0
        });
        let bytes = init.scoped(|user| {
            let at = user.push(&[0; 8]);
            let length = user.call(nr::RECVFROM, &[other as u64, at, 6, s::MSG_WAITALL.into(), 0, 0]).unwrap();
            user.user().read_bytes(at, length as usize)
        });
        assert_eq!(bytes, b"abcdef");
        init.wait().unwrap();
    });
}
