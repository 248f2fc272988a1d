//! Pipes, FIFOs and waiting for files, on the test machine.

use abi::Errno;
use abi::fcntl as f;
use abi::nr;
use abi::poll::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, Pollfd};
use kcore::testing::{Libc, Machine};

/// poll(2) on descriptors: the events found for each.
fn poll(user: &mut impl Libc, fds: &[(i32, u32)], timeout_ms: i64) -> Result<Vec<u32>, Errno> {
    let entries: Vec<Pollfd> =
        fds.iter().map(|(fd, events)| Pollfd { fd: *fd, events: *events as i16, revents: 0 }).collect();
    let bytes: Vec<u8> =
        entries.iter().flat_map(|e| [&e.fd.to_le_bytes()[..], &e.events.to_le_bytes(), &[0; 2]].concat()).collect();
    user.scoped(|user| {
        let address = user.push(&bytes);
        let timeout = if timeout_ms < 0 {
            0
        } else {
            let time = [timeout_ms / 1000, timeout_ms % 1000 * 1_000_000];
            user.push(&time.map(i64::to_le_bytes).concat())
        };
        user.call(nr::PPOLL, &[address, fds.len() as u64, timeout, 0, 8])?;
        Ok((0..fds.len()).map(|i| user.load::<Pollfd>(address + 8 * i as u64).revents as u16 as u32).collect())
    })
}

#[test]
fn a_pipe_carries_bytes_in_order_and_ends_with_its_writers() {
    Machine::new().run(|init| {
        let (reader, writer) = init.pipe(0).unwrap();
        assert_eq!(init.write_fd(writer, b"hello "), Ok(6));
        assert_eq!(init.write_fd(writer, b"world"), Ok(5));
        assert_eq!(init.read_fd(reader, 3), Ok(b"hel".to_vec()));
        assert_eq!(init.read_fd(reader, 100), Ok(b"lo world".to_vec()));
        init.close(writer).unwrap();
        assert_eq!(init.read_fd(reader, 100), Ok(vec![]));
    });
}

#[test]
fn a_pipe_without_waiting_says_eagain_when_empty_and_when_full() {
    Machine::new().run(|init| {
        let (reader, writer) = init.pipe(f::O_NONBLOCK).unwrap();
        assert_eq!(init.read_fd(reader, 1), Err(Errno::EAGAIN));
        let page = vec![7; 4096];
        for _ in 0..16 {
            assert_eq!(init.write_fd(writer, &page), Ok(4096));
        }
        assert_eq!(init.write_fd(writer, &[1]), Err(Errno::EAGAIN));
        assert_eq!(init.read_fd(reader, 4096), Ok(page));
        assert_eq!(init.write_fd(writer, &[1]), Ok(1));
        assert_eq!(init.call(nr::FCNTL, &[writer as u64, f::F_GETPIPE_SZ.into(), 0]), Ok(65_536));
        assert_eq!(init.call(nr::FCNTL, &[writer as u64, f::F_SETPIPE_SZ.into(), 4096]), Err(Errno::EBUSY));
        assert_eq!(init.call(nr::FCNTL, &[writer as u64, f::F_SETPIPE_SZ.into(), 70_000]), Ok(131_072));
    });
}

#[test]
fn small_writes_share_a_page() {
    Machine::new().run(|init| {
        let (reader, writer) = init.pipe(f::O_NONBLOCK).unwrap();
        for _ in 0..1000 {
            assert_eq!(init.write_fd(writer, b"0123456789"), Ok(10));
        }
        assert_eq!(init.read_fd(reader, 20_000).map(|bytes| bytes.len()), Ok(10_000));
    });
}

#[test]
fn a_write_without_readers_is_epipe_and_sigpipe() {
    Machine::new().run(|init| {
        let child = init.fork(|child| {
            let (reader, writer) = child.pipe(0).unwrap();
            child.close(reader).unwrap();
            child.ignore(abi::signal::SIGPIPE);
            assert_eq!(child.write_fd(writer, b"x"), Err(Errno::EPIPE));
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        let child = init.fork(|child| {
            let (reader, writer) = child.pipe(0).unwrap();
            child.close(reader).unwrap();
            let _ = child.write_fd(writer, b"x");
            0
        });
        assert_eq!(init.wait_for(child).killed_by(), Some(abi::signal::SIGPIPE));
    });
}

#[test]
fn a_reader_and_a_writer_wait_for_each_other() {
    for cpus in [1, 2] {
        Machine::with_cpus(cpus).run(|init| {
            let (reader, writer) = init.pipe(0).unwrap();
            let child = init.fork(move |child| {
                child.close(reader).unwrap();
                for i in 0..40u8 {
                    let block = vec![i; 10_000];
                    assert_eq!(child.write_fd(writer, &block), Ok(10_000));
                }
                0
            });
            init.close(writer).unwrap();
            let mut all = Vec::new();
            loop {
                let part = init.read_fd(reader, 7000).unwrap();
                if part.is_empty() {
                    break;
                }
                all.extend(part);
            }
            assert_eq!(all.len(), 400_000);
            assert!(all.chunks(10_000).enumerate().all(|(i, block)| block.iter().all(|byte| usize::from(*byte) == i)));
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
        });
    }
}

#[test]
fn a_fifo_waits_for_its_other_side() {
    Machine::new().run(|init| {
        init.scoped(|user| {
            let path = user.push_string("/tmp/fifo");
            user.call(nr::MKNODAT, &[f::AT_FDCWD as u64, path, 0o010_600, 0]).unwrap();
        });
        assert_eq!(init.open("/tmp/fifo", f::O_WRONLY | f::O_NONBLOCK, 0), Err(Errno::ENXIO));
        let child = init.fork(|child| {
            let fd = child.open("/tmp/fifo", f::O_WRONLY, 0).unwrap();
            child.write_fd(fd, b"through the fifo").unwrap();
            0
        });
        let fd = init.open("/tmp/fifo", f::O_RDONLY, 0).unwrap();
        assert_eq!(init.read_fd(fd, 100), Ok(b"through the fifo".to_vec()));
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(init.read_fd(fd, 100), Ok(vec![]));
    });
}

#[test]
fn poll_says_what_a_pipe_can_do() {
    Machine::new().run(|init| {
        let (reader, writer) = init.pipe(0).unwrap();
        let both = [(reader, POLLIN), (writer, POLLOUT)];
        assert_eq!(poll(init, &both, 0), Ok(vec![0, POLLOUT]));
        init.write_fd(writer, b"x").unwrap();
        assert_eq!(poll(init, &both, 0), Ok(vec![POLLIN, POLLOUT]));
        assert_eq!(poll(init, &[(-1, POLLIN), (77, POLLIN)], 0), Ok(vec![0, POLLNVAL]));
        init.close(reader).unwrap();
        assert_eq!(poll(init, &[(writer, 0)], 0), Ok(vec![POLLERR]));
        let (reader, writer) = init.pipe(0).unwrap();
        init.close(writer).unwrap();
        assert_eq!(poll(init, &[(reader, POLLIN)], 0), Ok(vec![POLLHUP]));
    });
}

#[test]
fn poll_waits_for_an_event_and_for_time() {
    Machine::new().run(|init| {
        let (reader, writer) = init.pipe(0).unwrap();
        let before = init.clock_ns(1);
        assert_eq!(poll(init, &[(reader, POLLIN)], 20), Ok(vec![0]));
        assert!(init.clock_ns(1) - before >= 20_000_000);
        let child = init.fork(move |child| {
            child.sleep_ns(5_000_000).unwrap();
            child.write_fd(writer, b"x").unwrap();
            0
        });
        assert_eq!(poll(init, &[(reader, POLLIN)], -1), Ok(vec![POLLIN]));
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn select_fills_its_sets_and_refuses_closed_descriptors() {
    Machine::new().run(|init| {
        let (reader, writer) = init.pipe(0).unwrap();
        init.write_fd(writer, b"x").unwrap();
        init.scoped(|user| {
            let read = user.push(&(1u64 << reader | 1 << writer).to_le_bytes());
            let count = user.call(nr::PSELECT6, &[64, read, 0, 0, 0, 0]);
            assert_eq!(count, Ok(1));
            assert_eq!(user.load::<u64>(read), 1 << reader);
            let bad = user.push(&(1u64 << 60).to_le_bytes());
            assert_eq!(user.call(nr::PSELECT6, &[64, bad, 0, 0, 0, 0]), Err(Errno::EBADF));
        });
    });
}

#[test]
fn epoll_reports_levels_edges_and_single_shots() {
    use abi::poll::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLONESHOT};
    Machine::new().run(|init| {
        let epoll = init.call(nr::EPOLL_CREATE1, &[0]).unwrap();
        let (reader, writer) = init.pipe(0).unwrap();
        let control = |init: &mut hal::hosted::User, op: i32, events: u32| {
            init.scoped(|user| {
                let event = user.push(&[u64::from(events).to_le_bytes(), 99u64.to_le_bytes()].concat());
                user.call(nr::EPOLL_CTL, &[epoll, op as u64, reader as u64, event])
            })
        };
        let wait = |init: &mut hal::hosted::User| {
            init.scoped(|user| {
                let events = user.push(&[0; 64]);
                let count = user.call(nr::EPOLL_PWAIT, &[epoll, events, 4, 0, 0, 8]).unwrap();
                assert!(count == 0 || user.load::<u64>(events + 8) == 99);
                count
            })
        };
        assert_eq!(control(init, EPOLL_CTL_MOD, POLLIN), Err(Errno::ENOENT));
        control(init, EPOLL_CTL_ADD, POLLIN).unwrap();
        assert_eq!(control(init, EPOLL_CTL_ADD, POLLIN), Err(Errno::EEXIST));
        assert_eq!(wait(init), 0);
        init.write_fd(writer, b"x").unwrap();
        assert_eq!((wait(init), wait(init)), (1, 1));
        control(init, EPOLL_CTL_MOD, POLLIN | EPOLLET).unwrap();
        assert_eq!((wait(init), wait(init)), (1, 0));
        init.write_fd(writer, b"y").unwrap();
        assert_eq!((wait(init), wait(init)), (1, 0));
        control(init, EPOLL_CTL_MOD, POLLIN | EPOLLONESHOT).unwrap();
        assert_eq!((wait(init), wait(init)), (1, 0));
        control(init, EPOLL_CTL_DEL, 0).unwrap();
        init.write_fd(writer, b"z").unwrap();
        assert_eq!(wait(init), 0);
    });
}

#[test]
fn an_eventfd_counts() {
    Machine::new().run(|init| {
        let fd = init.call(nr::EVENTFD2, &[3, f::O_NONBLOCK.into()]).unwrap() as i32;
        assert_eq!(init.read_fd(fd, 8), Ok(3u64.to_le_bytes().to_vec()));
        assert_eq!(init.read_fd(fd, 8), Err(Errno::EAGAIN));
        assert_eq!(init.read_fd(fd, 4), Err(Errno::EINVAL));
        init.write_fd(fd, &5u64.to_le_bytes()).unwrap();
        init.write_fd(fd, &6u64.to_le_bytes()).unwrap();
        assert_eq!(init.write_fd(fd, &u64::MAX.to_le_bytes()), Err(Errno::EINVAL));
        assert_eq!(init.read_fd(fd, 8), Ok(11u64.to_le_bytes().to_vec()));
    });
}
