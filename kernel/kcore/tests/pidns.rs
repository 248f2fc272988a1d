//! Whole stories of PID namespaces: pid_namespaces(7).

use abi::fcntl as f;
use abi::signal::{SIGCHLD, SIGKILL, SIGTERM, SIGUSR1};
use abi::{nr, sched as c};
use hal::hosted::User;
use kcore::Errno;
use kcore::testing::{Libc, Machine, free_frames};

fn clone_with(user: &mut User, flags: u64, child: impl FnOnce(&mut User) -> i32 + 'static) -> Result<i32, Errno> {
    let result = user.syscall_with_child(nr::CLONE as u64, [flags | u64::from(SIGCHLD), 0, 0, 0, 0, 0], child);
    Errno::from_syscall_return(result.cast_unsigned()).map(|pid| i32::try_from(pid).unwrap())
}

fn getpid(user: &mut User) -> u64 {
    user.call(nr::GETPID, &[]).unwrap()
}

fn read_file(user: &mut User, path: &str) -> String {
    String::from_utf8(user.slurp(path).expect("there")).expect("text")
}

fn line_of(text: &str, name: &str) -> String {
    text.lines().find(|line| line.starts_with(name)).expect("there").to_owned()
}

fn mount_proc(user: &mut User) {
    user.scoped(|user| {
        let (kind, at) = (user.push_string("proc"), user.push_string("/proc"));
        user.call(nr::MOUNT, &[kind, at, kind, 0, 0]).expect("mounted");
    });
}

fn sleep_for_ever(user: &mut User) -> i32 {
    user.call(nr::PPOLL, &[0, 0, 0, 0]).map_or(1, |_| 0)
}

/// The lecture's picture: a process that is 1 inside and has another number outside.
#[test]
fn the_first_process_is_1_inside_and_another_outside() {
    Machine::new().run(|user| {
        mount_proc(user);
        let child = clone_with(user, c::CLONE_NEWPID, |user| {
            assert_eq!((getpid(user), user.call(nr::GETPPID, &[]), user.call(nr::GETTID, &[])), (1, Ok(0), Ok(1)));
            assert_eq!(user.call(nr::GETPGID, &[0]), Ok(0), "the group's leader is outside");
            let grandchild = user.fork(|user| {
                assert_eq!((getpid(user), user.call(nr::GETPPID, &[])), (2, Ok(1)));
                0
            });
            assert_eq!(grandchild, 2);
            assert_eq!(user.wait_for(2).exit_code(), Some(0));
            assert_eq!(user.call(nr::KILL, &[3, 0]), Err(Errno::ESRCH));
            sleep_for_ever(user)
        })
        .unwrap();
        assert!(child > 1);
        while !read_file(user, &format!("/proc/{child}/status")).contains("State:\tS") {
            user.call(nr::SCHED_YIELD, &[]).unwrap();
        }
        let status = read_file(user, &format!("/proc/{child}/status"));
        assert_eq!(line_of(&status, "NSpid:"), format!("NSpid:\t{child}\t1"));
        assert_eq!(line_of(&status, "Pid:"), format!("Pid:\t{child}"));
        user.call(nr::KILL, &[child as u64, SIGKILL.into()]).unwrap();
        assert_eq!(user.wait_for(child).killed_by(), Some(SIGKILL));
    });
}

#[test]
fn proc_shows_the_namespace_of_who_mounted_it() {
    Machine::new().run(|user| {
        mount_proc(user);
        let child = clone_with(user, c::CLONE_NEWPID | c::CLONE_NEWNS, |user| {
            // The outer instance still shows the outer numbers.
            assert!(!read_file(user, "/proc/self/status").contains("\nPid:\t1\n"));
            mount_proc(user);
            let status = read_file(user, "/proc/self/status");
            assert_eq!((line_of(&status, "Pid:"), line_of(&status, "NSpid:")), ("Pid:\t1".into(), "NSpid:\t1".into()));
            assert!(user.open("/proc/2", f::O_RDONLY, 0).is_err());
            0
        })
        .unwrap();
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
        assert!(user.open("/proc/2", f::O_RDONLY, 0).is_ok(), "kthreadd");
    });
}

#[test]
fn the_end_of_init_is_the_end_of_all() {
    Machine::new().run(|user| {
        let (read, write) = user.pipe(0).unwrap();
        let child = clone_with(user, c::CLONE_NEWPID, move |user| {
            for _ in 0..3 {
                user.fork(|user| {
                    user.fork(sleep_for_ever);
                    sleep_for_ever(user)
                });
            }
            let nested = clone_with(user, c::CLONE_NEWPID, |user| {
                assert_eq!(getpid(user), 1);
                user.fork(sleep_for_ever);
                sleep_for_ever(user)
            });
            assert!(nested.is_ok());
            for _ in 0..100 {
                user.call(nr::SCHED_YIELD, &[]).unwrap();
            }
            7
        })
        .unwrap();
        user.close(write).unwrap();
        assert_eq!(user.wait_for(child).exit_code(), Some(7));
        // Nobody has the pipe any more: all are gone when init is reaped.
        let at = user.push(&[0]);
        assert_eq!(user.call(nr::READ, &[read as u64, at, 1]), Ok(0));
    });
}

#[test]
fn unshare_is_for_the_children_and_a_dead_namespace_takes_no_more() {
    Machine::new().run(|user| {
        mount_proc(user);
        let child = user.fork(|user| {
            let own = getpid(user);
            assert_eq!(user.call(nr::UNSHARE, &[c::CLONE_NEWPID]), Ok(0));
            assert_eq!(getpid(user), own);
            assert_eq!(user.call(nr::UNSHARE, &[c::CLONE_NEWPID]), Err(Errno::EINVAL), "one waits already");
            assert_eq!(user.open("/proc/self/ns/pid_for_children", f::O_RDONLY, 0), Err(Errno::ENOENT));
            let flags = c::CLONE_VM | c::CLONE_SIGHAND | c::CLONE_THREAD;
            let thread = user.syscall(nr::CLONE as u64, [flags, 0, 0, 0, 0, 0]);
            assert_eq!(thread, -i64::from(Errno::EINVAL.number()));
            let first = user.fork(|user| i32::try_from(getpid(user)).unwrap());
            assert_eq!(user.wait_for(first).exit_code(), Some(1));
            let refused = clone_with(user, 0, |_| 0);
            assert_eq!(refused, Err(Errno::ENOMEM), "its init is gone");
            0
        });
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn orphans_go_to_the_init_of_the_namespace() {
    Machine::new().run(|user| {
        let child = clone_with(user, c::CLONE_NEWPID, |user| {
            let middle = user.fork(|user| {
                user.fork(|user| {
                    while user.call(nr::GETPPID, &[]) != Ok(1) {
                        user.call(nr::SCHED_YIELD, &[]).unwrap();
                    }
                    9
                });
                0
            });
            assert_eq!(user.wait_for(middle).exit_code(), Some(0));
            assert_eq!(user.wait_for(3).exit_code(), Some(9));
            0
        })
        .unwrap();
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn init_is_safe_from_its_own_and_not_from_outside() {
    Machine::new().run(|user| {
        let child = clone_with(user, c::CLONE_NEWPID, |user| {
            let inside = user.fork(|user| {
                for signal in [SIGTERM, SIGUSR1, SIGKILL] {
                    assert_eq!(user.call(nr::KILL, &[1, signal.into()]), Ok(0), "sent, and without effect");
                }
                0
            });
            assert_eq!(user.wait_for(inside).exit_code(), Some(0));
            sleep_for_ever(user)
        })
        .unwrap();
        let pid = child as u64;
        for _ in 0..50 {
            user.call(nr::SCHED_YIELD, &[]).unwrap();
        }
        assert_eq!(user.call(nr::KILL, &[pid, SIGTERM.into()]), Ok(0), "without a handler not even from outside");
        assert_eq!(user.call(nr::KILL, &[pid, 0]), Ok(0));
        assert_eq!(user.call(nr::KILL, &[pid, SIGKILL.into()]), Ok(0));
        assert_eq!(user.wait_for(child).killed_by(), Some(SIGKILL));
    });
}

#[test]
fn namespaces_nest_to_32_and_leave_nothing() {
    fn deeper(user: &mut User, level: u32) -> i32 {
        match clone_with(user, c::CLONE_NEWPID, move |user| deeper(user, level + 1)) {
            Ok(child) => user.wait_for(child).exit_code().expect("ends by itself"),
            Err(error) => {
                assert_eq!(error, Errno::ENOSPC);
                i32::try_from(level).unwrap()
            }
        }
    }
    Machine::new().run(|user| {
        let mut before = 0;
        for round in 0..4 {
            assert_eq!(deeper(user, 0), 32);
            if round == 1 {
                before = free_frames();
            }
        }
        assert!(free_frames() + 4 >= before, "{} frames of {before}", free_frames());
    });
}
