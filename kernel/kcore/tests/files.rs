//! Whole stories of file system calls, on a booted machine.

use abi::fcntl as f;
use abi::stat::{S_IFIFO, S_IFREG, Stat};
use abi::{nr, resource, signal};
use kcore::Errno;
use kcore::testing::{Libc, Machine};

const CWD: u64 = f::AT_FDCWD as i64 as u64;

fn file_call<L: Libc>(user: &mut L, number: usize, path: &str, rest: &[u64]) -> Result<u64, Errno> {
    user.scoped(|user| {
        let path = user.push_string(path);
        user.call(number, &[&[CWD, path], rest].concat())
    })
}

fn write<L: Libc>(user: &mut L, fd: i32, text: &str) -> Result<u64, Errno> {
    user.scoped(|user| {
        let at = user.push(text.as_bytes());
        user.call(nr::WRITE, &[fd as u64, at, text.len() as u64])
    })
}

fn read<L: Libc>(user: &mut L, fd: i32, length: usize) -> Result<Vec<u8>, Errno> {
    user.scoped(|user| {
        let at = user.push(&vec![0; length]);
        let n = user.call(nr::READ, &[fd as u64, at, length as u64])?;
        Ok(user.user().read_bytes(at, n as usize))
    })
}

fn stat<L: Libc>(user: &mut L, path: &str) -> Result<Stat, Errno> {
    user.scoped(|user| {
        let path = user.push_string(path);
        user.call_with(nr::NEWFSTATAT, &[CWD, path], &Stat::default(), &[0]).map(|(_, stat)| stat)
    })
}

#[test]
fn what_is_written_is_read_and_seen_by_stat() {
    Machine::new().run(|user| {
        let fd = user.open("/tmp/f", f::O_CREAT | f::O_RDWR, 0o666).unwrap();
        assert_eq!(write(user, fd, "hello, world"), Ok(12));
        assert_eq!(user.call(nr::LSEEK, &[fd as u64, 7, 0]), Ok(7));
        assert_eq!(read(user, fd, 100).as_deref(), Ok(&b"world"[..]));
        assert_eq!(read(user, fd, 100).as_deref(), Ok(&b""[..]));
        let stat = stat(user, "/tmp/f").unwrap();
        assert_eq!((stat.st_size, stat.st_mode, stat.st_nlink), (12, S_IFREG | 0o644, 1));
        assert_eq!((stat.st_blksize, stat.st_blocks), (4096, 8));
    });
}

#[test]
fn bad_arguments_give_linux_errors() {
    Machine::new().run(|user| {
        assert_eq!(user.open("", 0, 0), Err(Errno::ENOENT));
        assert_eq!(user.call(nr::OPENAT, &[CWD, 8, 0, 0]), Err(Errno::EFAULT));
        assert_eq!(user.call(nr::READ, &[77, 0, 1]), Err(Errno::EBADF));
        assert_eq!(user.call(nr::CLOSE, &[u64::MAX]), Err(Errno::EBADF));
        let fd = user.open("/tmp", f::O_RDONLY, 0).unwrap() as u64;
        assert_eq!(read(user, fd as i32, 1), Err(Errno::EISDIR));
        assert_eq!(user.call(nr::WRITE, &[fd, 8, 1]), Err(Errno::EBADF));
        assert_eq!(user.call(nr::DUP3, &[fd, fd, 0]), Err(Errno::EINVAL));
        assert_eq!(user.call(nr::DUP3, &[fd, 5000, 0]), Err(Errno::EBADF));
        assert_eq!(user.call(nr::FCNTL, &[fd, u64::from(f::F_DUPFD), 5000]), Err(Errno::EINVAL));
        assert_eq!(user.call(nr::GETDENTS64, &[fd, 8, 1]), Err(Errno::EINVAL));
        assert_eq!(user.call(nr::LSEEK, &[fd, 0, 9]), Err(Errno::EINVAL));
        assert_eq!(user.call(nr::FTRUNCATE, &[fd, 0]), Err(Errno::EINVAL));
        assert_eq!(user.call(nr::READ, &[fd, 0, u64::MAX]), Err(Errno::EFAULT));
        let file = user.open("/tmp/f", f::O_CREAT | f::O_RDWR, 0o600).unwrap() as u64;
        assert_eq!(user.call(nr::WRITE, &[file, 8, 1]), Err(Errno::EFAULT));
        assert_eq!(user.call(nr::IOCTL, &[file, 0x5401, 8]), Err(Errno::ENOTTY));
    });
}

#[test]
fn the_file_size_limit_cuts_and_kills() {
    Machine::new().run(|user| {
        let child = user.fork(|user| {
            let limit = resource::Rlimit { rlim_cur: 10, rlim_max: 10 };
            user.call_with(nr::SETRLIMIT, &[u64::from(resource::RLIMIT_FSIZE)], &limit, &[]).unwrap();
            let fd = user.open("/tmp/f", f::O_CREAT | f::O_RDWR, 0o600).unwrap();
            assert_eq!(write(user, fd, "0123456789abc"), Ok(10));
            user.ignore(signal::SIGXFSZ);
            assert_eq!(write(user, fd, "x"), Err(Errno::EFBIG));
            assert_eq!(user.call(nr::FTRUNCATE, &[fd as u64, 11]), Err(Errno::EFBIG));
            user.try_sigaction(signal::SIGXFSZ, kcore::testing::Disposition::Default, 0).unwrap();
            let _ = write(user, fd, "x");
            0
        });
        assert_eq!(user.wait_for(child).killed_by(), Some(signal::SIGXFSZ));
    });
}

#[test]
fn record_locks_wait_and_deadlocks_are_refused() {
    Machine::new().run(|user| {
        let fd = user.open("/tmp/f", f::O_CREAT | f::O_RDWR, 0o600).unwrap();
        let lock = |start: i64| f::Flock { l_type: f::F_WRLCK, l_start: start, l_len: 1, ..f::Flock::default() };
        let set = move |user: &mut hal::hosted::User, command: u32, start: i64| {
            user.call_with(nr::FCNTL, &[fd as u64, u64::from(command)], &lock(start), &[]).map(|_| ())
        };
        set(user, f::F_SETLK, 0).unwrap();
        let (ready_read, ready_write) = user.pipe(0).unwrap();
        let child = user.fork(move |user| {
            set(user, f::F_SETLK, 1).unwrap();
            assert_eq!(set(user, f::F_SETLK, 0), Err(Errno::EAGAIN));
            let (_, seen) = user.call_with(nr::FCNTL, &[fd as u64, u64::from(f::F_GETLK)], &lock(0), &[]).unwrap();
            assert_eq!((seen.l_type, seen.l_pid), (f::F_WRLCK, user.getppid()));
            write(user, ready_write, "r").unwrap();
            // Waits for the parent, who waits for us when it is refused.
            set(user, f::F_SETLKW, 0).unwrap();
            0
        });
        read(user, ready_read, 1).unwrap();
        user.sleep_ns(10_000_000).unwrap();
        assert_eq!(set(user, f::F_SETLKW, 1), Err(Errno::EDEADLK));
        user.close(fd).unwrap();
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_fifo_joins_two_processes() {
    Machine::new().run(|user| {
        file_call(user, nr::MKNODAT, "/tmp/p", &[u64::from(S_IFIFO | 0o600), 0]).unwrap();
        let child = user.fork(|user| {
            let fd = user.open("/tmp/p", f::O_WRONLY, 0).unwrap();
            write(user, fd, "through").unwrap();
            0
        });
        let fd = user.open("/tmp/p", f::O_RDONLY, 0).unwrap();
        assert_eq!(read(user, fd, 100).as_deref(), Ok(&b"through"[..]));
        assert_eq!(read(user, fd, 100).as_deref(), Ok(&b""[..]));
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn the_working_directory_follows_a_rename() {
    Machine::new().run(|user| {
        file_call(user, nr::MKDIRAT, "/tmp/a", &[0o755]).unwrap();
        file_call(user, nr::MKDIRAT, "/tmp/a/b", &[0o755]).unwrap();
        let path = user.push_string("/tmp/a/b");
        user.call(nr::CHDIR, &[path]).unwrap();
        let (old, new) = (user.push_string("/tmp/a"), user.push_string("/tmp/c"));
        user.call(nr::RENAMEAT2, &[CWD, old, CWD, new, 0]).unwrap();
        let buffer = user.push(&[0; 64]);
        let length = user.call(nr::GETCWD, &[buffer, 64]).unwrap();
        assert_eq!(user.read_bytes(buffer, length as usize), b"/tmp/c/b\0");
        assert_eq!(user.call(nr::GETCWD, &[buffer, 8]), Err(Errno::ERANGE));
        let path = user.push_string("/tmp/c/b");
        user.call(nr::UNLINKAT, &[CWD, path, u64::from(f::AT_REMOVEDIR)]).unwrap();
        assert_eq!(user.call(nr::GETCWD, &[buffer, 64]), Err(Errno::ENOENT));
        assert_eq!(user.open("new", f::O_CREAT | f::O_WRONLY, 0o600), Err(Errno::ENOENT));
    });
}

#[test]
fn mounts_come_and_go() {
    Machine::new().run(|user| {
        let (source, target, kind) = (user.push_string("none"), user.push_string("/tmp"), user.push_string("tmpfs"));
        user.call(nr::MOUNT, &[source, target, kind, 0, 0]).unwrap();
        let fd = user.open("/tmp/f", f::O_CREAT | f::O_RDWR, 0o600).unwrap();
        assert_eq!(user.call(nr::UMOUNT2, &[target, 0]), Err(Errno::EBUSY));
        user.close(fd).unwrap();
        assert_eq!(user.call(nr::UMOUNT2, &[target, 0]), Ok(0));
        assert_eq!(stat(user, "/tmp/f").map(|stat| stat.st_ino), Err(Errno::ENOENT));
        let unknown = user.push_string("nofs");
        assert_eq!(user.call(nr::MOUNT, &[source, target, unknown, 0, 0]), Err(Errno::ENODEV));
    });
}

#[test]
fn sendfile_and_copy_file_range_move_bytes() {
    Machine::new().run(|user| {
        let from = user.open("/tmp/a", f::O_CREAT | f::O_RDWR, 0o600).unwrap();
        let to = user.open("/tmp/b", f::O_CREAT | f::O_RDWR, 0o600).unwrap();
        write(user, from, "0123456789").unwrap();
        user.call(nr::LSEEK, &[from as u64, 2, 0]).unwrap();
        assert_eq!(user.call(nr::SENDFILE, &[to as u64, from as u64, 0, 3]), Ok(3));
        let (done, offset) = user.call_with(nr::SENDFILE, &[to as u64, from as u64], &8i64, &[100]).unwrap();
        assert_eq!((done, offset), (2, 10));
        assert_eq!(user.call(nr::COPY_FILE_RANGE, &[from as u64, 0, to as u64, 0, 100, 0]), Ok(5));
        user.call(nr::LSEEK, &[to as u64, 0, 0]).unwrap();
        assert_eq!(read(user, to, 100).as_deref(), Ok(&b"2348956789"[..]));
    });
}
