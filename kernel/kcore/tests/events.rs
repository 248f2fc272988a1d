//! epoll sets within sets, inotify, seals and splice, on the test machine.

use abi::Errno;
use abi::fcntl as f;
use abi::notify as n;
use abi::nr;
use abi::poll::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, EPOLLOUT, EpollEvent};
use hal::hosted::fail_nth_allocation;
use kcore::testing::{Libc, Machine};

fn control(user: &mut impl Libc, set: i32, operation: i32, fd: i32, events: u32) -> Result<u64, Errno> {
    let event = EpollEvent { events, _pad: 0, data: fd as u64 };
    user.call_with(nr::EPOLL_CTL, &[set as u64, operation as u64, fd as u64], &event, &[]).map(|(result, _)| result)
}

fn add(user: &mut impl Libc, set: i32, fd: i32, events: u32) -> Result<u64, Errno> {
    control(user, set, EPOLL_CTL_ADD, fd, events)
}

fn new_set(user: &mut impl Libc) -> i32 {
    user.call_int(nr::EPOLL_CREATE1, &[0]).unwrap()
}

/// The first event that is ready, without waiting.
fn ready(user: &mut impl Libc, set: i32) -> u32 {
    let (found, event) = user.call_with(nr::EPOLL_PWAIT, &[set as u64], &EpollEvent::default(), &[1, 0, 0, 8]).unwrap();
    if found == 0 { 0 } else { event.events }
}

#[test]
fn a_wake_up_runs_through_a_chain_of_sets() {
    Machine::new().run(|init| {
        let (reader, writer) = init.pipe(f::O_NONBLOCK).unwrap();
        let sets: Vec<i32> = (0..5).map(|_| new_set(init)).collect();
        add(init, sets[0], reader, EPOLLIN).unwrap();
        for pair in sets.windows(2) {
            add(init, pair[1], pair[0], EPOLLIN | EPOLLET).unwrap();
        }
        let top = sets[4];
        assert_eq!(ready(init, top), 0);
        init.write_fd(writer, b"x").unwrap();
        assert_eq!(ready(init, top), EPOLLIN);
        assert_eq!(ready(init, top), 0, "an edge is told once");
        init.write_fd(writer, b"x").unwrap();
        assert_eq!(ready(init, top), EPOLLIN);
    });
}

#[test]
fn rings_and_long_chains_of_sets_are_eloop() {
    Machine::new().run(|init| {
        let sets: Vec<i32> = (0..6).map(|_| new_set(init)).collect();
        for pair in sets[..5].windows(2) {
            add(init, pair[1], pair[0], EPOLLIN).unwrap();
        }
        assert_eq!(add(init, sets[5], sets[4], EPOLLIN), Err(Errno::ELOOP));
        assert_eq!(add(init, sets[0], sets[4], EPOLLIN), Err(Errno::ELOOP));
        control(init, sets[1], EPOLL_CTL_DEL, sets[0], 0).unwrap();
        assert!(add(init, sets[5], sets[4], EPOLLIN).is_ok());
    });
}

#[test]
fn a_closed_file_leaves_its_sets() {
    Machine::new().run(|init| {
        let set = new_set(init);
        let (reader, writer) = init.pipe(0).unwrap();
        let other = init.dup(reader).unwrap();
        add(init, set, reader, EPOLLIN).unwrap();
        init.write_fd(writer, b"x").unwrap();
        init.close(reader).unwrap();
        assert_eq!(ready(init, set), EPOLLIN, "another descriptor keeps the file open");
        init.close(other).unwrap();
        assert_eq!(ready(init, set), 0);
    });
}

#[test]
fn exclusive_watches_have_rules() {
    Machine::new().run(|init| {
        let set = new_set(init);
        let (reader, writer) = init.pipe(0).unwrap();
        let inner = new_set(init);
        assert_eq!(add(init, set, inner, EPOLLIN | EPOLLEXCLUSIVE), Err(Errno::EINVAL));
        assert!(add(init, set, reader, EPOLLIN | EPOLLEXCLUSIVE).is_ok());
        assert!(add(init, set, writer, EPOLLOUT | EPOLLEXCLUSIVE).is_ok());
        assert_eq!(control(init, set, 3, reader, EPOLLIN), Err(Errno::EINVAL));
    });
}

#[test]
fn inotify_tells_of_a_file_from_its_making_to_its_end() {
    Machine::new().run(|init| {
        let fd = init.call_int(nr::INOTIFY_INIT1, &[n::IN_NONBLOCK.into()]).unwrap();
        let path = init.push_string("/tmp");
        init.call(nr::INOTIFY_ADD_WATCH, &[fd as u64, path, n::IN_ALL_EVENTS.into()]).unwrap();
        let file = init.open("/tmp/f", f::O_CREAT | f::O_WRONLY, 0o600).unwrap();
        init.write_fd(file, b"x").unwrap();
        init.close(file).unwrap();
        let path = init.push_string("/tmp/f");
        init.call(nr::UNLINKAT, &[f::AT_FDCWD as i64 as u64, path, 0]).unwrap();
        let bytes = init.read_fd(fd, 4096).unwrap();
        let masks: Vec<u32> =
            bytes.chunks(32).map(|event| u32::from_le_bytes(event[4..8].try_into().unwrap())).collect();
        assert_eq!(masks, [n::IN_CREATE, n::IN_OPEN, n::IN_MODIFY, n::IN_CLOSE_WRITE, n::IN_DELETE]);
        assert_eq!(init.read_fd(fd, 4096), Err(Errno::EAGAIN));
    });
}

#[test]
fn a_write_seal_waits_for_writable_mappings_to_go() {
    Machine::new().run(|init| {
        let name = init.push_string("m");
        let fd = init.call_int(nr::MEMFD_CREATE, &[name, f::MFD_ALLOW_SEALING.into()]).unwrap();
        init.call(nr::FTRUNCATE, &[fd as u64, 4096]).unwrap();
        let at = init.try_mmap(0, 4096, 3, 1, fd, 0).unwrap();
        let seal = [fd as u64, f::F_ADD_SEALS.into(), f::F_SEAL_WRITE.into()];
        assert_eq!(init.call(nr::FCNTL, &seal), Err(Errno::EBUSY));
        init.munmap(at, 4096).unwrap();
        assert_eq!(init.call(nr::FCNTL, &seal), Ok(0));
        assert_eq!(init.try_mmap(0, 4096, 3, 1, fd, 0), Err(Errno::EPERM));
    });
}

#[test]
fn splice_without_memory_loses_nothing() {
    Machine::new().run(|init| {
        let (reader, writer) = init.pipe(0).unwrap();
        let (_, [from, to]) = init.call_with(nr::SOCKETPAIR, &[1, 1, 0], &[0i32; 2], &[]).unwrap();
        init.write_fd(to, &[7; 100]).unwrap();
        let call = [from as u64, 0, writer as u64, 0, 100, 0];
        fail_nth_allocation(Some(0));
        assert_eq!(init.call(nr::SPLICE, &call), Err(Errno::ENOMEM));
        fail_nth_allocation(None);
        assert_eq!(init.call(nr::SPLICE, &call), Ok(100));
        assert_eq!(init.read_fd(reader, 200).map(|bytes| bytes.len()), Ok(100));
    });
}

#[test]
fn tee_shares_and_splice_moves() {
    Machine::new().run(|init| {
        let (one, (two, three)) = (init.pipe(0).unwrap(), init.pipe(f::O_NONBLOCK).unwrap());
        init.write_fd(one.1, b"abc").unwrap();
        assert_eq!(init.call(nr::TEE, &[one.0 as u64, three as u64, 2, 0]), Ok(2));
        assert_eq!(init.read_fd(two, 10), Ok(b"ab".to_vec()));
        assert_eq!(init.call(nr::SPLICE, &[one.0 as u64, 0, three as u64, 0, 10, 0]), Ok(3));
        assert_eq!(init.read_fd(two, 10), Ok(b"abc".to_vec()));
        assert_eq!(init.call(nr::SPLICE, &[one.0 as u64, 0, three as u64, 0, 10, 2]), Err(Errno::EAGAIN));
    });
}
