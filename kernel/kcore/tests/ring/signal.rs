//! signal(7): sending, blocking, handling, interrupting.

use abi::signal::{
    SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SA_SIGINFO, SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGALRM,
    SIGCHLD, SIGHUP, SIGILL, SIGKILL, SIGPIPE, SIGRTMIN, SIGSEGV, SIGSTOP, SIGTERM, SIGURG, SIGUSR1, SIGUSR2, SigInfo,
    StackT,
};
use abi::{Errno, mman, nr, time};
use hal::hosted::User;
use hal::trap::{Access, UserException};
use kcore::testing::{Disposition, Libc};
use zerocopy::IntoBytes;

use crate::{Diary, MS, bit, story};

fn raise(user: &mut User, signal: u32) {
    let me = user.getpid();
    user.kill(me, signal).expect("kill");
}

/// Handles `signal` by noting `word`.
fn noting(user: &mut User, signal: u32, flags: u32, diary: &Diary, word: &str) {
    let (diary, word) = (diary.clone(), word.to_string());
    user.on(signal, flags, move |_| diary.note(word.clone()));
}

/// Runs `body` in a child and returns how it ended.
fn in_child(init: &mut User, body: impl FnOnce(&mut User) -> i32 + 'static) -> kcore::testing::Status {
    let child = init.fork(body);
    init.wait_for(child)
}

#[test]
fn a_handler_runs_before_the_call_that_raised_it_returns() {
    story(|init| {
        let diary = Diary::default();
        noting(init, SIGUSR1, 0, &diary, "handled");
        raise(init, SIGUSR1);
        diary.note("returned");
        assert_eq!(diary.entries(), ["handled", "returned"]);
    });
}

#[test]
fn a_blocked_signal_waits_until_it_is_unblocked() {
    story(|init| {
        let diary = Diary::default();
        noting(init, SIGUSR1, 0, &diary, "handled");
        init.sigprocmask(SIG_BLOCK, bit(SIGUSR1));
        raise(init, SIGUSR1);
        assert_eq!(init.sigpending(), bit(SIGUSR1));
        assert!(diary.entries().is_empty());
        assert_eq!(init.sigprocmask(SIG_UNBLOCK, bit(SIGUSR1)), bit(SIGUSR1));
        assert_eq!(diary.entries(), ["handled"]);
        assert_eq!(init.sigpending(), 0);
    });
}

#[test]
fn kill_and_stop_cannot_be_caught_ignored_or_blocked() {
    story(|init| {
        for signal in [SIGKILL, SIGSTOP] {
            assert_eq!(init.try_sigaction(signal, Disposition::Ignore, 0), Err(Errno::EINVAL));
            assert_eq!(init.try_sigaction(signal, Disposition::Handler(Box::new(|_| {}), 0), 0), Err(Errno::EINVAL));
        }
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        assert_eq!(init.sigprocmask(SIG_BLOCK, 0), !(bit(SIGKILL) | bit(SIGSTOP)));
        let status = in_child(init, |child| {
            raise(child, SIGKILL);
            0
        });
        assert_eq!(status.killed_by(), Some(SIGKILL));
    });
}

#[test]
fn signal_numbers_are_checked_and_do_not_wrap() {
    story(|init| {
        for signal in [65u32, 257, 0x1_0000 + 9, u32::MAX] {
            assert_eq!(init.kill(1, signal), Err(Errno::EINVAL), "{signal}");
        }
        assert_eq!(init.try_sigaction(0, Disposition::Ignore, 0), Err(Errno::EINVAL));
        assert_eq!(init.try_sigaction(65, Disposition::Ignore, 0), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::RT_SIGACTION, &[10, 0, 0, 4]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::RT_SIGPROCMASK, &[0, 0, 0, 16]), Err(Errno::EINVAL));
    });
}

#[test]
fn default_actions_are_those_of_signal_7() {
    story(|init| {
        for signal in [SIGHUP, SIGALRM, SIGTERM, SIGUSR1, SIGPIPE, SIGRTMIN, 64] {
            let status = in_child(init, move |child| {
                raise(child, signal);
                0
            });
            assert_eq!(status.killed_by(), Some(signal));
        }
        for signal in [SIGCHLD, SIGURG, 28, 18] {
            let status = in_child(init, move |child| {
                raise(child, signal);
                5
            });
            assert_eq!(status.exit_code(), Some(5), "signal {signal}");
        }
    });
}

#[test]
fn signals_that_init_has_no_handler_for_do_nothing_to_it() {
    story(|init| {
        let status = in_child(init, |child| {
            for signal in [SIGTERM, SIGKILL, SIGSTOP, SIGUSR1] {
                child.kill(1, signal).unwrap();
            }
            0
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn pause_ends_after_a_handler_and_only_then() {
    story(|init| {
        let diary = Diary::default();
        noting(init, SIGALRM, SA_RESTART, &diary, "alarm");
        init.ignore(SIGUSR1);
        let child = init.fork(|child| {
            child.sleep_ns(5 * MS).unwrap();
            child.kill(1, SIGUSR1).unwrap();
            0
        });
        init.alarm_ns(20 * MS);
        // Not even SA_RESTART makes pause go on (signal(7)).
        assert_eq!(init.pause(), Errno::EINTR);
        assert_eq!(diary.entries(), ["alarm"]);
        init.wait_for(child);
    });
}

#[test]
fn sigsuspend_opens_the_mask_only_while_it_waits() {
    story(|init| {
        let diary = Diary::default();
        noting(init, SIGUSR1, 0, &diary, "one");
        noting(init, SIGUSR2, 0, &diary, "two");
        init.sigprocmask(SIG_SETMASK, bit(SIGUSR1) | bit(SIGUSR2));
        raise(init, SIGUSR1);
        raise(init, SIGUSR2);
        assert_eq!(init.sigsuspend(bit(SIGUSR2)), Errno::EINTR);
        assert_eq!(diary.entries(), ["one"]);
        assert_eq!(init.sigprocmask(SIG_BLOCK, 0), bit(SIGUSR1) | bit(SIGUSR2));
        assert_eq!(init.sigpending(), bit(SIGUSR2));
    });
}

#[test]
fn a_signal_is_blocked_while_its_handler_runs_unless_no_defer() {
    for (flags, expected) in [(0, ["in 1", "out 1", "in 2", "out 2"]), (SA_NODEFER, ["in 1", "in 2", "out 2", "out 1"])]
    {
        story(move |init| {
            let diary = Diary::default();
            let inner = diary.clone();
            let count = std::cell::Cell::new(0);
            init.on(SIGUSR1, flags, move |user| {
                count.set(count.get() + 1);
                let me = count.get();
                inner.note(format!("in {me}"));
                if me == 1 {
                    raise(user, SIGUSR1);
                }
                inner.note(format!("out {me}"));
            });
            raise(init, SIGUSR1);
            assert_eq!(diary.entries(), expected);
        });
    }
}

#[test]
fn another_signal_interrupts_a_handler_unless_its_mask_says_no() {
    for (mask, expected) in [(0, ["one", "two", "one again"]), (bit(SIGUSR2), ["one", "one again", "two"])] {
        story(move |init| {
            let diary = Diary::default();
            noting(init, SIGUSR2, 0, &diary, "two");
            let inner = diary.clone();
            let body = move |user: &mut User| {
                inner.note("one");
                raise(user, SIGUSR2);
                inner.note("one again");
            };
            init.try_sigaction(SIGUSR1, Disposition::Handler(Box::new(body), 0), mask).unwrap();
            raise(init, SIGUSR1);
            assert_eq!(diary.entries(), expected);
            assert_eq!(init.sigprocmask(SIG_BLOCK, 0), 0);
        });
    }
}

#[test]
fn a_one_shot_handler_is_gone_after_its_first_run() {
    story(|init| {
        let status = in_child(init, |child| {
            let diary = Diary::default();
            noting(child, SIGUSR1, SA_RESETHAND, &diary, "once");
            raise(child, SIGUSR1);
            assert_eq!(diary.entries(), ["once"]);
            raise(child, SIGUSR1);
            0
        });
        assert_eq!(status.killed_by(), Some(SIGUSR1));
    });
}

#[test]
fn standard_signals_merge_and_real_time_signals_queue_in_order() {
    story(|init| {
        let diary = Diary::default();
        for (signal, word) in [(SIGUSR1, "usr1"), (SIGRTMIN, "rt0"), (SIGRTMIN + 1, "rt1")] {
            noting(init, signal, 0, &diary, word);
        }
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        for signal in [SIGRTMIN + 1, SIGRTMIN, SIGUSR1, SIGUSR1, SIGRTMIN, SIGRTMIN + 1] {
            raise(init, signal);
        }
        init.sigprocmask(SIG_SETMASK, 0);
        let mut entries = diary.entries();
        // Frames are stacked, so the handler set up last runs first: the order of delivery read backwards.
        entries.reverse();
        let mut sorted = entries.clone();
        sorted.sort();
        assert_eq!(sorted, ["rt0", "rt0", "rt1", "rt1", "usr1"]);
    });
}

#[test]
fn a_queued_value_arrives_with_its_sender() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        init.on(SIGRTMIN, SA_SIGINFO, move |user| {
            let info: SigInfo = user.load(user.argument(1));
            inner.note(format!("{} {} {}", info.code(), info.pid(), info.status()));
        });
        let mut info = SigInfo::user(SIGRTMIN, abi::signal::SI_QUEUE, 1, 0);
        info = SigInfo::child_with(SIGRTMIN, info.code(), info.pid(), info.uid(), 1234);
        init.call_with(nr::RT_SIGQUEUEINFO, &[1, u64::from(SIGRTMIN)], &info, &[]).unwrap();
        assert_eq!(diary.entries(), ["-1 1 1234"]);
        // Nobody may pretend to be the kernel to another process.
        let child = init.fork(|child| {
            let forged = SigInfo::kernel(SIGUSR1);
            let result = child.call_with(nr::RT_SIGQUEUEINFO, &[1, u64::from(SIGUSR1)], &forged, &[]);
            assert_eq!(result.err(), Some(Errno::EPERM));
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn sigtimedwait_takes_a_pending_signal_without_its_handler() {
    story(|init| {
        init.on(SIGUSR1, 0, |_| panic!("the handler ran"));
        init.sigprocmask(SIG_BLOCK, bit(SIGUSR1));
        raise(init, SIGUSR1);
        assert_eq!(init.sigtimedwait(bit(SIGUSR1), 0).unwrap().signal(), SIGUSR1);
        assert_eq!(init.sigpending(), 0);
        assert_eq!(init.sigtimedwait(bit(SIGUSR1), 0).err(), Some(Errno::EAGAIN));
        let before = init.clock_ns(time::CLOCK_MONOTONIC);
        assert_eq!(init.sigtimedwait(bit(SIGUSR1), 30 * MS).err(), Some(Errno::EAGAIN));
        assert!(init.clock_ns(time::CLOCK_MONOTONIC) - before >= 30 * MS);
        let child = init.fork(|child| {
            child.sleep_ns(10 * MS).unwrap();
            child.kill(1, SIGUSR1).unwrap();
            0
        });
        let info = init.sigtimedwait(bit(SIGUSR1), 1000 * MS).unwrap();
        assert_eq!(info.pid(), child);
        init.wait_for(child);
    });
}

#[test]
fn a_segmentation_fault_tells_its_address_and_the_handler_can_repair_it() {
    story(|init| {
        let page = init.mmap(4096, mman::PROT_NONE);
        init.on(SIGSEGV, SA_SIGINFO, move |user| {
            let info: SigInfo = user.load(user.argument(1));
            assert_eq!(info.address(), page + 8);
            assert_eq!(info.code(), abi::signal::SEGV_ACCERR);
            user.mprotect(page, 4096, mman::PROT_READ | mman::PROT_WRITE).unwrap();
        });
        init.write(page + 8, 3u32);
        assert_eq!(init.read::<u32>(page + 8), 3);
    });
}

#[test]
fn an_address_that_is_not_mapped_is_maperr() {
    story(|init| {
        let page = init.mmap(4096, mman::PROT_READ | mman::PROT_WRITE);
        init.munmap(page, 4096).unwrap();
        init.on(SIGSEGV, SA_SIGINFO, move |user| {
            let info: SigInfo = user.load(user.argument(1));
            assert_eq!((info.address(), info.code()), (page, abi::signal::SEGV_MAPERR));
            let flags = mman::MAP_PRIVATE | mman::MAP_ANONYMOUS | mman::MAP_FIXED;
            user.try_mmap(page, 4096, mman::PROT_READ, flags, -1, 0).unwrap();
        });
        assert_eq!(init.read::<u8>(page), 0);
    });
}

#[test]
fn a_blocked_or_ignored_fault_kills_all_the_same() {
    story(|init| {
        for ignore in [false, true] {
            let status = in_child(init, move |child| {
                if ignore {
                    child.ignore(SIGSEGV);
                } else {
                    child.on(SIGSEGV, 0, |_| panic!("a blocked handler ran"));
                    child.sigprocmask(SIG_BLOCK, bit(SIGSEGV));
                }
                child.touch(8, Access::Read);
                0
            });
            assert_eq!(status.killed_by(), Some(SIGSEGV));
        }
    });
}

#[test]
fn null_and_kernel_addresses_are_never_readable() {
    story(|init| {
        for address in [0, 4095, 1 << 39, 0x00ff_ffff_ffff_f000, 1 << 55] {
            let status = in_child(init, move |child| {
                child.touch(address, Access::Read);
                0
            });
            assert_eq!(status.killed_by(), Some(SIGSEGV), "{address:#x}");
        }
    });
}

#[test]
fn an_undefined_instruction_is_sigill() {
    story(|init| {
        let status = in_child(init, |child| {
            child.except(UserException::Undefined);
            0
        });
        assert_eq!(status.killed_by(), Some(SIGILL));
    });
}

#[test]
fn a_handler_may_run_on_a_stack_of_its_own() {
    story(|init| {
        let stack = init.mmap(16384, mman::PROT_READ | mman::PROT_WRITE);
        let inside = move |sp: u64| (stack..stack + 16384).contains(&sp);
        let new = StackT { ss_sp: stack, ss_flags: 0, _pad: 0, ss_size: 16384 };
        init.call_with(nr::SIGALTSTACK, &[], &new, &[0]).unwrap();
        let diary = Diary::default();
        for (signal, flags) in [(SIGUSR1, SA_ONSTACK), (SIGUSR2, 0)] {
            let diary = diary.clone();
            init.on(signal, flags, move |user| diary.note(format!("{signal} {}", inside(user.sp()))));
        }
        raise(init, SIGUSR1);
        raise(init, SIGUSR2);
        assert_eq!(diary.entries(), ["10 true", "12 false"]);
        let small = StackT { ss_size: 100, ..new };
        assert_eq!(init.call_with(nr::SIGALTSTACK, &[], &small, &[0]).err(), Some(Errno::ENOMEM));
    });
}

#[test]
fn a_stack_overflow_is_handled_on_the_alternate_stack() {
    story(|init| {
        let status = in_child(init, |child| {
            let stack = child.mmap(16384, mman::PROT_READ | mman::PROT_WRITE);
            let new = StackT { ss_sp: stack, ss_flags: 0, _pad: 0, ss_size: 16384 };
            child.call_with(nr::SIGALTSTACK, &[], &new, &[0]).unwrap();
            child.on(SIGSEGV, SA_ONSTACK, |user| user.exit(77));
            let mut sp = child.sp();
            loop {
                sp -= 4096;
                child.write(sp, 1u8);
            }
        });
        assert_eq!(status.exit_code(), Some(77));
    });
}

#[test]
fn without_a_stack_for_the_frame_the_process_dies_of_sigsegv() {
    story(|init| {
        let status = in_child(init, |child| {
            child.on(SIGUSR1, 0, |_| panic!("the handler ran without a stack"));
            let me = child.getpid();
            child.set_sp(4096);
            child.kill(me, SIGUSR1).unwrap();
            0
        });
        assert_eq!(status.killed_by(), Some(SIGSEGV));
    });
}

#[test]
fn a_garbage_signal_frame_kills_its_process_only() {
    story(|init| {
        let status = in_child(init, |child| {
            let garbage = child.push(&[0x5a; 8192]);
            child.set_sp(garbage);
            let _ = child.call(nr::RT_SIGRETURN, &[]);
            0
        });
        assert_eq!(status.killed_by(), Some(SIGSEGV));
    });
}

#[test]
fn kill_reaches_one_process_a_group_or_all() {
    story(|init| {
        let waiter = |user: &mut User| -> i32 {
            loop {
                user.pause();
            }
        };
        let alone = init.fork(move |child| {
            child.setpgid(0, 0).unwrap();
            waiter(child)
        });
        init.sleep_ns(MS).unwrap();
        let second = init.fork(move |child| {
            child.setpgid(0, alone).unwrap();
            waiter(child)
        });
        let third = init.fork(waiter);
        init.sleep_ns(MS).unwrap();
        init.kill(-alone, SIGUSR1).unwrap();
        assert_eq!(init.wait_for(alone).killed_by(), Some(SIGUSR1));
        assert_eq!(init.wait_for(second).killed_by(), Some(SIGUSR1));
        // Neither init nor the sender is hit by -1.
        init.kill(-1, SIGTERM).unwrap();
        assert_eq!(init.wait_for(third).killed_by(), Some(SIGTERM));
        // Kernel threads are always there to be asked about.
        assert_eq!(init.kill(-1, 0), Ok(()));
        assert_eq!(init.kill(99_999, 0), Err(Errno::ESRCH));
        assert_eq!(init.kill(-99_999, 0), Err(Errno::ESRCH));
        assert_eq!(init.kill(i32::MIN, 0), Err(Errno::ESRCH));
    });
}

#[test]
fn a_user_may_signal_only_its_own_processes() {
    story(|init| {
        let root = init.fork(|child| {
            loop {
                child.pause();
            }
        });
        let user = init.fork(move |child| {
            let own = child.fork(|own| {
                own.call(nr::SETUID, &[1000]).unwrap();
                loop {
                    own.pause();
                }
            });
            child.sleep_ns(MS).unwrap();
            child.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(child.kill(root, SIGTERM), Err(Errno::EPERM));
            assert_eq!(child.kill(1, 0), Err(Errno::EPERM));
            child.kill(own, SIGTERM).unwrap();
            assert_eq!(child.wait_for(own).killed_by(), Some(SIGTERM));
            0
        });
        assert_eq!(init.wait_for(user).exit_code(), Some(0));
        init.kill(root, SIGKILL).unwrap();
        init.wait_for(root);
    });
}

#[test]
fn a_read_is_interrupted_or_restarted_as_the_handler_says() {
    for (flags, restarts) in [(0, false), (SA_RESTART, true)] {
        story(move |init| {
            let diary = Diary::default();
            noting(init, SIGALRM, flags, &diary, "alarm");
            let (read, write) = init.pipe(0).unwrap();
            let child = init.fork(move |child| {
                child.sleep_ns(50 * MS).unwrap();
                child.write_fd(write, b"data").unwrap();
                0
            });
            init.alarm_ns(10 * MS);
            let result = init.read_fd(read, 10);
            let expected = if restarts { Ok(b"data".to_vec()) } else { Err(Errno::EINTR) };
            assert_eq!(result, expected);
            assert_eq!(diary.entries(), ["alarm"]);
            init.wait_for(child);
        });
    }
}

#[test]
fn an_interrupted_sleep_says_how_much_is_left() {
    story(|init| {
        init.on(SIGALRM, SA_RESTART, |_| {});
        init.alarm_ns(100 * MS);
        let request = time::Timespec { tv_sec: 1, tv_nsec: 0 };
        let (request, left) = (init.push(request.as_bytes()), init.push(time::Timespec::default().as_bytes()));
        assert_eq!(init.call(nr::NANOSLEEP, &[request, left]), Err(Errno::EINTR));
        let left: time::Timespec = init.load(left);
        assert_eq!(left.tv_sec, 0);
        assert!((895 * MS..=901 * MS).contains(&left.tv_nsec.cast_unsigned()), "{left:?}");
    });
}

#[test]
fn a_sleep_that_was_stopped_goes_on_to_its_first_deadline() {
    story(|init| {
        let start = init.clock_ns(time::CLOCK_MONOTONIC);
        let child = init.fork(|child| {
            child.sleep_ns(200 * MS).unwrap();
            0
        });
        init.sleep_ns(20 * MS).unwrap();
        init.kill(child, SIGSTOP).unwrap();
        init.sleep_ns(20 * MS).unwrap();
        init.kill(child, 18).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        let took = init.clock_ns(time::CLOCK_MONOTONIC) - start;
        assert!((200 * MS..210 * MS).contains(&took), "{took} ns");
    });
}

#[test]
fn a_write_without_readers_is_sigpipe_or_epipe() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        init.close(read).unwrap();
        let status = in_child(init, move |child| {
            child.write_fd(write, b"x").unwrap();
            0
        });
        assert_eq!(status.killed_by(), Some(SIGPIPE));
        init.ignore(SIGPIPE);
        assert_eq!(init.write_fd(write, b"x"), Err(Errno::EPIPE));
    });
}

#[test]
fn an_interval_timer_fires_again_and_again() {
    story(|init| {
        let diary = Diary::default();
        noting(init, SIGALRM, 0, &diary, "tick");
        let every = time::Timeval { tv_sec: 0, tv_usec: 10_000 };
        let timer = time::Itimerval { it_interval: every, it_value: every };
        init.call_with(nr::SETITIMER, &[0], &timer, &[0]).unwrap();
        while diary.entries().len() < 5 {
            init.pause();
        }
        let now = init.clock_ns(time::CLOCK_MONOTONIC);
        init.call_with(nr::SETITIMER, &[0], &time::Itimerval::default(), &[0]).unwrap();
        init.sleep_ns(50 * MS).unwrap();
        assert_eq!(diary.entries().len(), 5);
        assert!(now > 50 * MS);
    });
}

#[test]
fn a_signal_interrupts_user_code_that_makes_no_calls() {
    story(|init| {
        let diary = Diary::default();
        noting(init, SIGALRM, 0, &diary, "alarm");
        init.alarm_ns(5 * MS);
        init.compute(10 * MS);
        assert_eq!(diary.entries(), ["alarm"]);
    });
}

#[test]
fn a_computing_process_is_killed_from_outside() {
    story(|init| {
        let child = init.fork(|child| {
            loop {
                child.compute(MS);
            }
        });
        init.sleep_ns(10 * MS).unwrap();
        init.kill(child, SIGKILL).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGKILL));
    });
}

#[test]
fn pending_signals_are_limited_by_rlimit_sigpending() {
    story(|init| {
        let status = in_child(init, |child| {
            let limit = abi::resource::Rlimit { rlim_cur: 3, rlim_max: 3 };
            let which = u64::from(abi::resource::RLIMIT_SIGPENDING);
            child.call_with(nr::SETRLIMIT, &[which], &limit, &[]).unwrap();
            child.sigprocmask(SIG_SETMASK, u64::MAX);
            let me = child.getpid();
            let info = SigInfo::user(SIGRTMIN, abi::signal::SI_QUEUE, me, 0);
            let mut queued = 0;
            let error = loop {
                let arguments = [me as u64, u64::from(SIGRTMIN)];
                match child.call_with(nr::RT_SIGQUEUEINFO, &arguments, &info, &[]) {
                    Ok(_) => queued += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!((queued, error), (3, Errno::EAGAIN));
            0
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}
