//! seccomp(2): strict and filter mode, each answer of a filter, what children and threads have of it.

use abi::process as p;
use abi::process::{SockFilter, SockFprog};
use abi::signal::{SIGKILL, SIGSYS, SigInfo};
use abi::{Errno, nr, prctl as pr};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};
use zerocopy::IntoBytes;

use crate::story;

/// A filter that answers `action` for system call `number` and lets others pass.
fn program(number: usize, action: u32) -> Vec<SockFilter> {
    let i = |code, jt, jf, k| SockFilter { code, jt, jf, k };
    vec![i(0x20, 0, 0, 0), i(0x15, 0, 1, number as u32), i(6, 0, 0, action), i(6, 0, 0, p::SECCOMP_RET_ALLOW)]
}

fn seccomp(user: &mut User, flags: u32, code: &[SockFilter]) -> Result<u64, Errno> {
    user.scoped(|user| {
        let filter = user.push(code.as_bytes());
        let length = u16::try_from(code.len()).unwrap();
        let fprog = user.push(SockFprog { len: length, filter, ..SockFprog::default() }.as_bytes());
        user.call(nr::SECCOMP, &[u64::from(p::SECCOMP_SET_MODE_FILTER), u64::from(flags), fprog])
    })
}

fn forbid(user: &mut User, number: usize, action: u32) {
    assert_eq!(seccomp(user, 0, &program(number, action)), Ok(0));
}

/// Runs `body` in a child and returns its status.
fn in_child(init: &mut User, body: impl FnOnce(&mut User) + 'static) -> kcore::testing::Status {
    let child = init.fork(move |child| {
        body(child);
        0
    });
    init.wait_for(child)
}

#[test]
fn strict_mode_leaves_four_calls() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        let status = in_child(init, move |user| {
            assert_eq!(user.call(nr::PRCTL, &[u64::from(pr::PR_SET_SECCOMP), 1]), Ok(0));
            user.write_fd(write, b"still here").unwrap();
            let _ = user.call(nr::EXIT, &[7]);
        });
        assert_eq!(status.exit_code(), Some(7));
        assert_eq!(init.read_fd(read, 100).unwrap(), b"still here");
        let status = in_child(init, |user| {
            assert_eq!(user.call(nr::SECCOMP, &[0, 0, 0]), Ok(0));
            user.getpid();
        });
        assert_eq!(status.killed_by(), Some(SIGKILL));
        let status = in_child(init, |user| {
            assert_eq!(user.call(nr::SECCOMP, &[0, 0, 0]), Ok(0));
            let _ = user.call(nr::PRCTL, &[u64::from(pr::PR_GET_SECCOMP)]);
        });
        assert_eq!(status.killed_by(), Some(SIGKILL), "even the question kills (prctl(2))");
    });
}

#[test]
fn bad_arguments_change_nothing() {
    story(|init| {
        for (operation, flags, argument, error) in [
            (0, 1, 0, Errno::EINVAL),
            (0, 0, 1, Errno::EINVAL),
            (9, 0, 0, Errno::EINVAL),
            (1, 64, 0, Errno::EINVAL),
            (1, u64::from(p::SECCOMP_FILTER_FLAG_NEW_LISTENER), 0, Errno::EFAULT),
            (1, u64::from(p::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV), 0, Errno::EINVAL),
            (1, 0, 0, Errno::EFAULT),
            (2, 1, 0, Errno::EINVAL),
            (2, 0, 0, Errno::EFAULT),
        ] {
            assert_eq!(init.call(nr::SECCOMP, &[operation, flags, argument]), Err(error), "{operation} {flags}");
        }
        let allow = SockFilter { code: 6, k: p::SECCOMP_RET_ALLOW, ..SockFilter::default() };
        let jump_out = SockFilter { code: 5, k: 7, ..SockFilter::default() };
        assert_eq!(seccomp(init, 0, &[]), Err(Errno::EINVAL));
        assert_eq!(seccomp(init, 0, &[jump_out, allow]), Err(Errno::EINVAL));
        assert_eq!(seccomp(init, 0, &vec![allow; 4097]), Err(Errno::EINVAL));
        let nowhere = init.push(SockFprog { len: 1, filter: 0x10, ..SockFprog::default() }.as_bytes());
        assert_eq!(init.call(nr::SECCOMP, &[1, 0, nowhere]), Err(Errno::EFAULT));
        assert_eq!(init.call(nr::PRCTL, &[u64::from(pr::PR_SET_SECCOMP), 0]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::PRCTL, &[u64::from(pr::PR_SET_SECCOMP), 3]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::PRCTL, &[u64::from(pr::PR_GET_SECCOMP)]), Ok(0));
    });
}

#[test]
fn actions_are_asked_for() {
    story(|init| {
        for action in [
            p::SECCOMP_RET_KILL_PROCESS,
            p::SECCOMP_RET_KILL_THREAD,
            p::SECCOMP_RET_TRAP,
            p::SECCOMP_RET_ERRNO,
            p::SECCOMP_RET_USER_NOTIF,
            p::SECCOMP_RET_TRACE,
            p::SECCOMP_RET_LOG,
            p::SECCOMP_RET_ALLOW,
        ] {
            assert!(init.call_with(nr::SECCOMP, &[2, 0], &action, &[]).is_ok(), "{action:#x}");
        }
        for action in [0x1234_0000, 1] {
            assert_eq!(
                init.call_with(nr::SECCOMP, &[2, 0], &action, &[]).err(),
                Some(Errno::EOPNOTSUPP),
                "{action:#x}"
            );
        }
    });
}

#[test]
fn a_user_needs_no_new_privs_first() {
    story(|init| {
        let status = in_child(init, |user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            let code = program(nr::GETUID, p::SECCOMP_RET_ERRNO | 99);
            assert_eq!(seccomp(user, 0, &code), Err(Errno::EACCES));
            user.call(nr::PRCTL, &[u64::from(pr::PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0]).unwrap();
            assert_eq!(seccomp(user, 0, &code), Ok(0));
            assert_eq!(user.user().syscall(nr::GETUID as u64, [0; 6]), -99);
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn the_filters_number_is_the_result() {
    story(|init| {
        let status = in_child(init, |user| {
            forbid(user, nr::GETPID, p::SECCOMP_RET_ERRNO | 1234);
            assert_eq!(user.syscall(nr::GETPID as u64, [0; 6]), -1234);
            forbid(user, nr::GETUID, p::SECCOMP_RET_ERRNO);
            assert_eq!(user.syscall(nr::GETUID as u64, [0; 6]), 0);
            forbid(user, nr::GETGID, p::SECCOMP_RET_ERRNO | 0xffff);
            assert_eq!(user.syscall(nr::GETGID as u64, [0; 6]), -4095, "no more than MAX_ERRNO");
            forbid(user, nr::GETEUID, p::SECCOMP_RET_TRACE);
            assert_eq!(user.call(nr::GETEUID, &[]), Err(Errno::ENOSYS), "nobody traces");
            forbid(user, nr::GETEGID, p::SECCOMP_RET_LOG);
            assert_eq!(user.call(nr::GETEGID, &[]), Ok(0));
            assert_eq!(user.call(nr::PRCTL, &[u64::from(pr::PR_GET_SECCOMP)]), Ok(2));
            assert_eq!(
                user.call(nr::SECCOMP, &[0, 0, 0]),
                Err(Errno::EINVAL),
                "there is no way from filters to strict"
            );
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn the_worst_answer_counts_whatever_the_order() {
    story(|init| {
        for order in
            [[p::SECCOMP_RET_ALLOW, p::SECCOMP_RET_ERRNO | 5], [p::SECCOMP_RET_ERRNO | 5, p::SECCOMP_RET_ALLOW]]
        {
            let status = in_child(init, move |user| {
                order.iter().for_each(|action| forbid(user, nr::GETUID, *action));
                assert_eq!(user.syscall(nr::GETUID as u64, [0; 6]), -5);
            });
            assert_eq!(status.exit_code(), Some(0));
        }
        let status = in_child(init, |user| {
            forbid(user, nr::GETUID, p::SECCOMP_RET_ERRNO | 5);
            forbid(user, nr::GETUID, p::SECCOMP_RET_ERRNO | 6);
            assert_eq!(user.syscall(nr::GETUID as u64, [0; 6]), -6, "of equals the newest");
            forbid(user, nr::GETUID, p::SECCOMP_RET_KILL_THREAD);
            forbid(user, nr::GETUID, p::SECCOMP_RET_TRAP);
            let _ = user.call(nr::GETUID, &[]);
        });
        assert_eq!(status.killed_by(), Some(SIGSYS));
    });
}

#[test]
fn filters_see_number_architecture_and_arguments() {
    story(|init| {
        let i = |code, k| SockFilter { code, jt: 0, jf: 0, k };
        let branch = |k, jf| SockFilter { code: 0x15, jt: 0, jf, k };
        // getuid(x0 = low, x5 = high in its upper half) on this architecture is 42; all else passes.
        let code = [
            i(0x20, 0),
            branch(nr::GETUID as u32, 7),
            i(0x20, 4),
            branch(p::AUDIT_ARCH_AARCH64, 5),
            i(0x20, 16),
            branch(0x1234_5678, 3),
            i(0x20, 60),
            branch(0x9abc_def0, 1),
            i(6, p::SECCOMP_RET_ERRNO | 42),
            i(6, p::SECCOMP_RET_ALLOW),
        ];
        let status = in_child(init, move |user| {
            assert_eq!(seccomp(user, 0, &code), Ok(0));
            let arguments = [0x1234_5678, 0, 0, 0, 0, 0x9abc_def0_0000_0000];
            assert_eq!(user.syscall(nr::GETUID as u64, arguments), -42);
            assert_eq!(user.syscall(nr::GETUID as u64, [0; 6]), 0);
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn a_trap_is_a_signal_that_tells_the_call() {
    story(|init| {
        let status = in_child(init, |user| {
            user.on(SIGSYS, abi::signal::SA_SIGINFO, |handler| {
                let info: SigInfo = {
                    let at = handler.argument(1);
                    handler.load(at)
                };
                assert_eq!((info.signal(), info.code()), (SIGSYS, 1), "SYS_SECCOMP");
                let words: [u32; 32] = {
                    let at = handler.argument(1);
                    handler.load(at)
                };
                assert_eq!(words[1], 77, "si_errno is the filter's data");
                assert_eq!(words[6], nr::GETUID as u32, "si_syscall");
                assert_eq!(words[7], p::AUDIT_ARCH_AARCH64, "si_arch");
            });
            forbid(user, nr::GETUID, p::SECCOMP_RET_TRAP | 77);
            assert_eq!(user.syscall(nr::GETUID as u64, [5, 0, 0, 0, 0, 0]), 5, "the registers are as they were");
        });
        assert_eq!(status.exit_code(), Some(0));
        let status = in_child(init, |user| {
            user.ignore(SIGSYS);
            forbid(user, nr::GETUID, p::SECCOMP_RET_TRAP);
            let _ = user.call(nr::GETUID, &[]);
        });
        assert_eq!(status.killed_by(), Some(SIGSYS), "it cannot be ignored");
    });
}

#[test]
fn kill_ends_a_thread_or_the_process_and_is_not_handled() {
    story(|init| {
        for action in [p::SECCOMP_RET_KILL_THREAD, p::SECCOMP_RET_KILL_PROCESS, 0x1111_0000] {
            let status = in_child(init, move |user| {
                user.on(SIGSYS, 0, |_| panic!("handled"));
                forbid(user, nr::GETUID, action);
                let _ = user.call(nr::GETUID, &[]);
            });
            assert_eq!(status.killed_by(), Some(SIGSYS), "{action:#x}");
        }
        let status = in_child(init, |user| {
            let thread = user.thread(|thread| {
                forbid(thread, nr::GETUID, p::SECCOMP_RET_KILL_THREAD);
                let _ = thread.call(nr::GETUID, &[]);
                panic!("dead");
            });
            user.join(thread);
            user.call(nr::EXIT_GROUP, &[3]).unwrap();
        });
        assert_eq!(status.exit_code(), Some(3), "only the thread is gone");
        let status = in_child(init, |user| {
            user.thread(|thread| {
                forbid(thread, nr::GETUID, p::SECCOMP_RET_KILL_PROCESS);
                let _ = thread.call(nr::GETUID, &[]);
                panic!("dead");
            });
            user.pause();
        });
        assert_eq!(status.killed_by(), Some(SIGSYS));
    });
}

#[test]
fn filters_go_with_fork_and_exec() {
    let mut machine = Machine::new();
    machine.program("/bin/program", |user| {
        assert_eq!(user.syscall(nr::GETUID as u64, [0; 6]), -55);
        let status = String::from_utf8(user.slurp("/proc/self/status").unwrap_or_default()).unwrap();
        assert!(status.is_empty() || status.contains("Seccomp:\t2\nSeccomp_filters:\t1\n"), "{status}");
        0
    });
    machine.run(|init| {
        let status = in_child(init, |user| {
            forbid(user, nr::GETUID, p::SECCOMP_RET_ERRNO | 55);
            let child = user.fork(|child| child.exec("/bin/program", &["program"]));
            assert_eq!(user.wait_for(child).exit_code(), Some(0));
            let child = user.vfork(|child| i32::from(child.syscall(nr::GETUID as u64, [0; 6]) != -55));
            assert_eq!(user.wait_for(child).exit_code(), Some(0));
        });
        assert_eq!(status.exit_code(), Some(0));
        assert_eq!(init.call(nr::GETUID, &[]), Ok(0), "the parent is free");
    });
}

#[test]
fn tsync_binds_all_threads_or_none() {
    story(|init| {
        let status = in_child(init, |user| {
            let page = user.mmap(4096, 3);
            let thread = user.thread(move |thread| {
                while thread.read::<u32>(page) == 0 {
                    thread.sched_yield();
                }
                assert_eq!(thread.syscall(nr::GETUID as u64, [0; 6]), -9);
                assert_eq!(thread.call(nr::PRCTL, &[u64::from(pr::PR_GET_NO_NEW_PRIVS), 0, 0, 0, 0]), Ok(1));
                0
            });
            user.call(nr::PRCTL, &[u64::from(pr::PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0]).unwrap();
            let code = program(nr::GETUID, p::SECCOMP_RET_ERRNO | 9);
            assert_eq!(seccomp(user, p::SECCOMP_FILTER_FLAG_TSYNC, &code), Ok(0));
            user.write(page, 1u32);
            user.join(thread);
        });
        assert_eq!(status.exit_code(), Some(0));
        let status = in_child(init, |user| {
            let page = user.mmap(4096, 3);
            let thread = user.thread(move |thread| {
                forbid(thread, nr::GETGID, p::SECCOMP_RET_ERRNO | 1);
                thread.write(page, 1u32);
                while thread.read::<u32>(page) == 1 {
                    thread.sched_yield();
                }
                assert_eq!(thread.call(nr::GETUID, &[]), Ok(0), "it was not bound");
                0
            });
            while user.read::<u32>(page) == 0 {
                user.sched_yield();
            }
            let code = program(nr::GETUID, p::SECCOMP_RET_ERRNO | 9);
            assert_eq!(seccomp(user, p::SECCOMP_FILTER_FLAG_TSYNC, &code), Ok(thread.0 as u64), "who is in the way");
            let both = p::SECCOMP_FILTER_FLAG_TSYNC | p::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
            assert_eq!(seccomp(user, both, &code), Err(Errno::ESRCH));
            assert_eq!(user.call(nr::GETUID, &[]), Ok(0));
            user.write(page, 2u32);
            user.join(thread);
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn a_chain_of_filters_has_an_end_and_is_freed() {
    story(|init| {
        let status = in_child(init, |user| {
            let allow = SockFilter { code: 6, k: p::SECCOMP_RET_ALLOW, ..SockFilter::default() };
            let code = vec![allow; 96];
            let mut count = 0;
            let error = loop {
                match seccomp(user, 0, &code) {
                    Ok(_) => count += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!((error, count), (Errno::ENOMEM, 327), "32768 instructions, each filter four more");
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}
