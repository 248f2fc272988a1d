//! clone(2), clone3(2), unshare(2), pidfds and kcmp(2): every flag that is refused, and what the others do.

use abi::poll::{POLLIN, Pollfd};
use abi::sched::{self as c, CloneArgs};
use abi::signal::{SIGCHLD, SIGKILL, SIGTERM, SIGUSR1, SigInfo};
use abi::wait as w;
use abi::{Errno, fcntl, mman, nr};
use hal::hosted::User;
use kcore::testing::Libc;
use zerocopy::IntoBytes;

use crate::story;

const CHLD: u64 = SIGCHLD as u64;

/// clone3 with a structure of `size` bytes.
fn clone3(
    user: &mut User,
    args: CloneArgs,
    size: u64,
    child: impl FnOnce(&mut User) -> i32 + 'static,
) -> Result<i32, Errno> {
    let address = user.push(&[args.as_bytes(), &[0; 64]].concat());
    let result = user.syscall_with_child(nr::CLONE3 as u64, [address, size, 0, 0, 0, 0], child);
    Errno::from_syscall_return(result.cast_unsigned()).map(|pid| i32::try_from(pid).unwrap())
}

/// The errno of a clone3 that must be refused.
fn refused(user: &mut User, args: CloneArgs, size: u64) -> Errno {
    user.scoped(|user| clone3(user, args, size, |_| panic!("a refused child ran")).expect_err("refused"))
}

const SIZE: u64 = size_of::<CloneArgs>() as u64;

#[test]
fn clone3_refuses_each_illegal_pair_of_flags() {
    story(|init| {
        let with = |flags: u64, exit_signal: u64| CloneArgs { flags, exit_signal, ..CloneArgs::default() };
        for flags in [
            c::CLONE_THREAD,
            c::CLONE_THREAD | c::CLONE_VM,
            c::CLONE_SIGHAND,
            c::CLONE_VM | c::CLONE_SIGHAND | c::CLONE_CLEAR_SIGHAND,
            c::CLONE_FS | c::CLONE_NEWNS,
            c::CLONE_FS | c::CLONE_NEWUSER,
            c::CLONE_VM | c::CLONE_SIGHAND | c::CLONE_THREAD | c::CLONE_NEWPID,
            c::CLONE_VM | c::CLONE_SIGHAND | c::CLONE_THREAD | c::CLONE_NEWUSER,
            c::CLONE_VM | c::CLONE_SIGHAND | c::CLONE_THREAD | c::CLONE_PIDFD,
            c::CLONE_PIDFD | c::CLONE_PARENT_SETTID,
            c::CLONE_DETACHED,
            c::CLONE_PARENT,
            1,
            1 << 34,
            1 << 63,
            c::CLONE_NEWIPC,
            c::CLONE_NEWTIME,
        ] {
            assert_eq!(refused(init, with(flags, 0), SIZE), Errno::EINVAL, "{flags:#x}");
        }
        for flags in [c::CLONE_PARENT, c::CLONE_VM | c::CLONE_SIGHAND | c::CLONE_THREAD] {
            assert_eq!(refused(init, with(flags, CHLD), SIZE), Errno::EINVAL, "{flags:#x} with an exit signal");
        }
        for signal in [65, 255, 256, 1 << 32] {
            assert_eq!(refused(init, with(0, signal), SIZE), Errno::EINVAL, "signal {signal}");
        }
        assert_eq!(refused(init, with(c::CLONE_INTO_CGROUP, CHLD), SIZE), Errno::EBADF);
        assert_eq!(refused(init, with(c::CLONE_INTO_CGROUP, CHLD), 80), Errno::EINVAL);
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

#[test]
fn clone3_takes_structures_of_any_known_size_and_zeros_beyond() {
    story(|init| {
        let args = CloneArgs { exit_signal: CHLD, ..CloneArgs::default() };
        for size in [64, 65, 80, SIZE, SIZE + 1, SIZE + 64] {
            let child = clone3(init, args, size, |_| 3).unwrap_or_else(|error| panic!("{size}: {error}"));
            assert_eq!(init.wait_for(child).exit_code(), Some(3), "{size}");
        }
        assert_eq!(refused(init, args, 63), Errno::EINVAL);
        assert_eq!(refused(init, args, 0), Errno::EINVAL);
        assert_eq!(refused(init, args, 4097), Errno::E2BIG);
        // What the kernel does not know must be zero, to the last byte.
        let address = init.push(&[args.as_bytes(), &[0, 0, 1]].concat());
        assert_eq!(init.call(nr::CLONE3, &[address, SIZE + 3]), Err(Errno::E2BIG));
        assert_eq!(init.call(nr::CLONE3, &[0x10, SIZE]), Err(Errno::EFAULT));
    });
}

#[test]
fn clone3_wants_stack_and_size_together() {
    story(|init| {
        let page = init.mmap(4096, mman::PROT_READ | mman::PROT_WRITE);
        let stack =
            |stack: u64, stack_size: u64| CloneArgs { exit_signal: CHLD, stack, stack_size, ..CloneArgs::default() };
        assert_eq!(refused(init, stack(page, 0), SIZE), Errno::EINVAL);
        assert_eq!(refused(init, stack(0, 4096), SIZE), Errno::EINVAL);
        assert_eq!(refused(init, stack(u64::MAX - 100, 4096), SIZE), Errno::EINVAL);
        assert_eq!(refused(init, stack(1 << 40, 4096), SIZE), Errno::EINVAL);
        let child = clone3(init, stack(page, 4096), SIZE, move |child| i32::from(child.sp() != page + 4096)).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(0), "the child's stack begins at the top");
    });
}

#[test]
fn a_chosen_pid_is_given_once_and_to_the_privileged() {
    story(|init| {
        let tid = init.push(&777i32.to_le_bytes());
        let args = CloneArgs { exit_signal: CHLD, set_tid: tid, set_tid_size: 1, ..CloneArgs::default() };
        let child = clone3(init, args, SIZE, |child| i32::from(child.getpid() != 777)).unwrap();
        assert_eq!(child, 777);
        assert_eq!(refused(init, args, SIZE), Errno::EEXIST, "it lives until it is waited for");
        assert_eq!(init.wait_for(777).exit_code(), Some(0));
        for (set_tid, set_tid_size, error) in
            [(tid, 0, Errno::EINVAL), (0, 1, Errno::EINVAL), (tid, 33, Errno::EINVAL), (0x10, 1, Errno::EFAULT)]
        {
            assert_eq!(refused(init, CloneArgs { set_tid, set_tid_size, ..args }, SIZE), error);
        }
        let two = init.push([777i32, 778].as_bytes());
        let more = CloneArgs { set_tid: two, set_tid_size: 2, ..args };
        assert_eq!(refused(init, more, SIZE), Errno::EINVAL, "there is one PID namespace");
        for number in [0, -1, 32768] {
            let number: i32 = number;
            init.write(tid, number);
            assert_eq!(refused(init, args, SIZE), Errno::EINVAL, "{number}");
        }
        init.write(tid, 1i32);
        assert_eq!(refused(init, args, SIZE), Errno::EEXIST);
        init.write(tid, 900i32);
        let user = init.fork(move |user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(refused(user, args, SIZE), Errno::EPERM);
            0
        });
        assert_eq!(init.wait_for(user).exit_code(), Some(0));
    });
}

/// Whether a pidfd is readable, which means that the process has ended.
fn has_ended(user: &mut User, pidfd: i32) -> bool {
    user.scoped(|user| {
        let poll = user.push(Pollfd { fd: pidfd, events: POLLIN as i16, revents: 0 }.as_bytes());
        let no_time = user.push([0u64; 2].as_bytes());
        user.call(nr::PPOLL, &[poll, 1, no_time, 0, 0]).unwrap() == 1
    })
}

#[test]
fn clone_pidfd_is_a_close_on_exec_descriptor_of_the_child() {
    story(|init| {
        let place = init.push(&[0; 16]);
        let args = CloneArgs { flags: c::CLONE_PIDFD, pidfd: place, exit_signal: CHLD, ..CloneArgs::default() };
        let child = clone3(init, args, SIZE, |child| {
            child.pause();
            0
        })
        .unwrap();
        let fd = init.read::<i32>(place);
        assert_eq!(init.call(nr::FCNTL, &[fd as u64, u64::from(fcntl::F_GETFD)]), Ok(1));
        let info = String::from_utf8(init.slurp(&format!("/proc/self/fdinfo/{fd}")).unwrap_or_default()).unwrap();
        assert!(info.is_empty() || info.contains(&format!("Pid:\t{child}\n")), "{info}");
        assert_eq!(init.call(nr::PIDFD_SEND_SIGNAL, &[fd as u64, u64::from(SIGTERM), 0, 0]), Ok(0));
        let end = init.waitid(w::P_PIDFD, fd, w::WEXITED).unwrap().unwrap();
        assert_eq!(end.signal(), SIGCHLD);
        assert!(has_ended(init, fd));
        assert_eq!(init.call(nr::PIDFD_SEND_SIGNAL, &[fd as u64, 0, 0, 0]), Err(Errno::ESRCH));
        assert_eq!(init.waitid(w::P_PIDFD, fd, w::WEXITED), Err(Errno::ECHILD));
        assert_eq!(init.waitid(w::P_PIDFD, -1, w::WEXITED), Err(Errno::EINVAL));
        assert_eq!(init.waitid(w::P_PIDFD, 99, w::WEXITED), Err(Errno::EBADF));
    });
}

#[test]
fn a_bad_place_for_the_pidfd_makes_no_child_and_takes_no_descriptor() {
    story(|init| {
        let args = CloneArgs { flags: c::CLONE_PIDFD, pidfd: 0x10, exit_signal: CHLD, ..CloneArgs::default() };
        assert_eq!(refused(init, args, SIZE), Errno::EFAULT);
        assert_eq!(init.wait(), Err(Errno::ECHILD));
        let (one, two) = init.pipe(0).unwrap();
        let before = two;
        init.close(one).unwrap();
        init.close(two).unwrap();
        assert_eq!(refused(init, args, SIZE), Errno::EFAULT);
        assert_eq!(init.pipe(0).unwrap(), (before - 1, before));
    });
}

#[test]
fn the_old_clone_returns_a_pidfd_where_the_tid_would_go() {
    story(|init| {
        let place = init.push(&[0; 16]);
        let flags = c::CLONE_PIDFD | CHLD;
        let child = init.syscall_with_child(nr::CLONE as u64, [flags, 0, place, 0, 0, 0], |_| 4);
        let fd = init.read::<i32>(place);
        assert!(fd >= 0);
        let end = init.waitid(w::P_PIDFD, fd, w::WEXITED).unwrap().unwrap();
        assert_eq!(i64::from(end.pid()), child);
        let both = c::CLONE_PIDFD | c::CLONE_PARENT_SETTID | CHLD;
        assert_eq!(init.call(nr::CLONE, &[both, 0, place, 0, 0]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::CLONE, &[c::CLONE_PIDFD | c::CLONE_DETACHED, 0, place]), Err(Errno::EINVAL));
    });
}

#[test]
fn the_old_clone_takes_any_byte_as_exit_signal() {
    story(|init| {
        let child = i32::try_from(init.clone_with(200, 0, |_| 6)).unwrap();
        let waited = init.wait4(child, w::__WALL).unwrap().unwrap();
        assert_eq!(waited.status.exit_code(), Some(6));
    });
}

#[test]
fn a_nonblocking_pidfd_says_eagain_instead_of_waiting() {
    story(|init| {
        let child = init.fork(|child| {
            child.pause();
            0
        });
        let nonblock = u64::from(fcntl::O_NONBLOCK);
        let fd = init.call_int(nr::PIDFD_OPEN, &[child as u64, nonblock]).unwrap();
        assert_eq!(init.waitid(w::P_PIDFD, fd, w::WEXITED), Err(Errno::EAGAIN));
        assert_eq!(init.waitid(w::P_PIDFD, fd, w::WEXITED | w::WNOHANG), Ok(None));
        assert!(!has_ended(init, fd));
        init.kill(child, SIGKILL).unwrap();
        let end = loop {
            match init.waitid(w::P_PIDFD, fd, w::WEXITED) {
                Err(Errno::EAGAIN) => init.sched_yield(),
                other => break other.unwrap().unwrap(),
            }
        };
        assert_eq!(end.pid(), child);
        for (pid, flags) in [(0, 0), (-1i32 as u64, 0), (1, 1)] {
            assert_eq!(init.call(nr::PIDFD_OPEN, &[pid, flags]), Err(Errno::EINVAL));
        }
        assert_eq!(init.call(nr::PIDFD_OPEN, &[child as u64, 0]), Err(Errno::ESRCH));
    });
}

#[test]
fn pidfd_signals_have_kills_rules() {
    story(|init| {
        let own = init.getpid() as u64;
        let fd = init.call_int(nr::PIDFD_OPEN, &[own, 0]).unwrap() as u64;
        assert_eq!(init.call(nr::PIDFD_SEND_SIGNAL, &[fd, 0, 0, 0]), Ok(0));
        assert_eq!(init.call(nr::PIDFD_SEND_SIGNAL, &[fd, 0, 0, 1]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::PIDFD_SEND_SIGNAL, &[fd, 65, 0, 0]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::PIDFD_SEND_SIGNAL, &[fd, 0, 0x10, 0]), Err(Errno::EFAULT));
        assert_eq!(init.call(nr::PIDFD_SEND_SIGNAL, &[99, 0, 0, 0]), Err(Errno::EBADF));
        let info = SigInfo::user(SIGUSR1, abi::signal::SI_USER, 1, 0);
        assert_eq!(
            init.call_with(nr::PIDFD_SEND_SIGNAL, &[fd, u64::from(SIGTERM)], &info, &[0]).map(|_| ()),
            Err(Errno::EINVAL),
            "the number in the siginfo is another"
        );
        let user = init.fork(move |user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(user.call(nr::PIDFD_SEND_SIGNAL, &[fd, 0, 0, 0]), Err(Errno::EPERM));
            assert_eq!(
                user.call_with(nr::PIDFD_SEND_SIGNAL, &[fd, u64::from(SIGUSR1)], &info, &[0]).map(|_| ()),
                Err(Errno::EPERM),
                "kill's code cannot be forged"
            );
            assert_eq!(user.call(nr::PIDFD_GETFD, &[fd, 0, 0]), Err(Errno::EPERM));
            0
        });
        assert_eq!(init.wait_for(user).exit_code(), Some(0));
    });
}

#[test]
fn pidfd_getfd_copies_a_descriptor() {
    story(|init| {
        let child = init.fork(|child| {
            let (read, write) = child.pipe(0).unwrap();
            child.write_fd(write, b"from the child").unwrap();
            assert!(read < write);
            child.pause();
            0
        });
        let pidfd = init.call_int(nr::PIDFD_OPEN, &[child as u64, 0]).unwrap() as u64;
        let fd = loop {
            // The lowest number that the child had free is its pipe's.
            match init.call_int(nr::PIDFD_GETFD, &[pidfd, 0, 0]) {
                Ok(fd) => break fd,
                Err(Errno::EBADF) => init.sched_yield(),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(init.read_fd(fd, 100).unwrap(), b"from the child");
        assert_eq!(init.call(nr::FCNTL, &[fd as u64, 1]), Ok(1), "close-on-exec");
        assert_eq!(init.call(nr::PIDFD_GETFD, &[pidfd, 0, 1]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::PIDFD_GETFD, &[pidfd, 77, 0]), Err(Errno::EBADF));
        assert_eq!(init.call(nr::PIDFD_GETFD, &[fd as u64, 0, 0]), Err(Errno::EBADF));
        init.kill(child, SIGKILL).unwrap();
        init.wait_for(child);
        assert_eq!(init.call(nr::PIDFD_GETFD, &[pidfd, 0, 0]), Err(Errno::ESRCH));
    });
}

#[test]
fn unshare_gives_files_and_directories_of_ones_own() {
    story(|init| {
        let flags = c::CLONE_FILES | c::CLONE_FS | CHLD;
        let (read, _write) = init.pipe(0).unwrap();
        let child = init.clone_with(flags, 0, move |child| {
            child.call(nr::UNSHARE, &[c::CLONE_FILES | c::CLONE_FS | c::CLONE_SYSVSEM]).unwrap();
            child.close(read).unwrap();
            child.call(nr::UMASK, &[0o77]).unwrap();
            0
        });
        assert_eq!(init.wait_for(i32::try_from(child).unwrap()).exit_code(), Some(0));
        assert!(init.dup(read).is_ok(), "the parent's table is as it was");
        assert_eq!(init.call(nr::UMASK, &[0o22]), Ok(0o22));
        // Alone already.
        for flags in [0, c::CLONE_VM, c::CLONE_SIGHAND, c::CLONE_THREAD] {
            assert_eq!(init.call(nr::UNSHARE, &[flags]), Ok(0), "{flags:#x}");
        }
        for flags in [1, c::CLONE_PARENT, c::CLONE_VFORK, c::CLONE_NEWIPC, 1 << 40] {
            assert_eq!(init.call(nr::UNSHARE, &[flags]), Err(Errno::EINVAL), "{flags:#x}");
        }
        let thread = init.thread(|thread| {
            for flags in [c::CLONE_VM, c::CLONE_SIGHAND, c::CLONE_THREAD] {
                assert_eq!(thread.call(nr::UNSHARE, &[flags]), Err(Errno::EINVAL), "{flags:#x}");
            }
            0
        });
        init.join(thread);
        let user = init.fork(|user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(user.call(nr::UNSHARE, &[c::CLONE_NEWUTS]), Err(Errno::EPERM));
            assert_eq!(user.call(nr::UNSHARE, &[c::CLONE_FILES]), Ok(0));
            0
        });
        assert_eq!(init.wait_for(user).exit_code(), Some(0));
    });
}

#[test]
fn kcmp_tells_what_is_shared() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        let (read, write) = (read as u64, write as u64);
        let own = init.getpid() as u64;
        let child = init.clone_with(c::CLONE_FILES | CHLD, 0, |child| {
            child.pause();
            0
        }) as u64;
        let dup = init.dup(read as i32).unwrap() as u64;
        assert_eq!(init.call(nr::KCMP, &[own, own, 0, read, dup]), Ok(0));
        let order = init.call(nr::KCMP, &[own, own, 0, read, write]).unwrap();
        let other_way = init.call(nr::KCMP, &[own, own, 0, write, read]).unwrap();
        assert_eq!(order + other_way, 3, "one is less, the other greater");
        assert_eq!(init.call(nr::KCMP, &[own, child, 2]), Ok(0), "descriptors are shared");
        for kind in [1, 3, 4] {
            assert_ne!(init.call(nr::KCMP, &[own, child, kind]), Ok(0), "type {kind}");
        }
        assert_eq!(init.call(nr::KCMP, &[own, child, 6]), Ok(0));
        assert_eq!(init.call(nr::KCMP, &[own, child, 8]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::KCMP, &[own, 0, 1]), Err(Errno::ESRCH));
        assert_eq!(init.call(nr::KCMP, &[own, own, 0, read, 99]), Err(Errno::EBADF));
        let user = init.fork(move |user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(user.call(nr::KCMP, &[own, own, 1]), Err(Errno::EPERM));
            0
        });
        assert_eq!(init.wait_for(user).exit_code(), Some(0));
        init.kill(child as i32, SIGKILL).unwrap();
        init.wait_for(child as i32);
    });
}

#[test]
fn a_vfork_child_that_is_killed_lets_its_parent_go_on() {
    story(|init| {
        let own = init.getpid();
        let parent = init.fork(move |parent| {
            let helper_target = parent.getpid();
            assert_ne!(helper_target, own);
            let child = parent.vfork(|child| {
                let me = child.getpid();
                child.kill(me, SIGKILL).unwrap();
                panic!("dead");
            });
            assert_eq!(parent.wait_for(child).killed_by(), Some(SIGKILL));
            0
        });
        assert_eq!(init.wait_for(parent).exit_code(), Some(0));
    });
}

#[test]
fn a_killed_vfork_parent_leaves_its_child_running() {
    story(|init| {
        let shared =
            init.try_mmap(0, 4096, mman::PROT_READ | mman::PROT_WRITE, mman::MAP_SHARED | mman::MAP_ANONYMOUS, -1, 0);
        let word = shared.unwrap();
        init.call(nr::PRCTL, &[36, 1]).unwrap();
        let parent = init.fork(move |parent| {
            parent.vfork(move |child| {
                let me = child.getpid();
                child.write(word, me);
                child.pause();
                0
            });
            panic!("the child neither executes nor ends");
        });
        while init.read::<i32>(word) == 0 {
            init.sched_yield();
        }
        let child = init.read::<i32>(word);
        init.kill(parent, SIGKILL).unwrap();
        assert_eq!(init.wait_for(parent).killed_by(), Some(SIGKILL));
        assert_eq!(init.kill(child, 0), Ok(()));
        init.kill(child, SIGTERM).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGTERM));
    });
}
