//! Connected pairs of sockets, signalfds and pidfds, on the test machine.

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
