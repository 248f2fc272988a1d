//! wait4(2), waitid(2).

use abi::resource::{RUSAGE_CHILDREN, Rusage};
use abi::signal::{
    CLD_CONTINUED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, SA_RESTART, SIGALRM, SIGCONT, SIGKILL, SIGSTOP, SIGTERM,
};
use abi::{Errno, nr, wait as w};
use hal::hosted::User;
use kcore::testing::Libc;
use zerocopy::FromZeros;

use crate::{Diary, MS, story};

fn sleeper(init: &mut User) -> i32 {
    init.fork(|child| {
        loop {
            child.pause();
        }
    })
}

#[test]
fn without_children_there_is_nothing_to_wait_for() {
    story(|init| {
        assert_eq!(init.wait(), Err(Errno::ECHILD));
        assert_eq!(init.wait4(1, 0), Err(Errno::ECHILD));
        assert_eq!(init.waitid(w::P_ALL, 0, w::WEXITED), Err(Errno::ECHILD));
    });
}

#[test]
fn no_hang_answers_at_once() {
    story(|init| {
        let child = sleeper(init);
        assert_eq!(init.wait4(-1, w::WNOHANG), Ok(None));
        assert_eq!(init.waitid(w::P_ALL, 0, w::WEXITED | w::WNOHANG), Ok(None));
        init.kill(child, SIGTERM).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGTERM));
    });
}

#[test]
fn a_pid_picks_one_child() {
    story(|init| {
        let first = init.fork(|_| 1);
        let second = init.fork(|_| 2);
        assert_eq!(init.wait_for(second).exit_code(), Some(2));
        assert_eq!(init.wait_for(second.min(first)).exit_code(), Some(1));
        assert_eq!(init.wait4(second, 0), Err(Errno::ECHILD));
    });
}

#[test]
fn somebody_elses_child_is_not_mine() {
    story(|init| {
        let first = sleeper(init);
        let second = init.fork(move |child| {
            assert_eq!(child.wait4(first, 0), Err(Errno::ECHILD));
            assert_eq!(child.wait(), Err(Errno::ECHILD));
            0
        });
        assert_eq!(init.wait_for(second).exit_code(), Some(0));
        init.kill(first, SIGKILL).unwrap();
        init.wait_for(first);
    });
}

#[test]
fn a_process_group_picks_its_members() {
    story(|init| {
        let mine = init.fork(|_| 1);
        let other = init.fork(|child| {
            child.setpgid(0, 0).unwrap();
            2
        });
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.wait4(-other, 0).unwrap().unwrap().pid, other);
        assert_eq!(init.wait4(0, 0).unwrap().unwrap().pid, mine);
        assert_eq!(init.wait4(0, 0), Err(Errno::ECHILD));
    });
}

#[test]
fn a_stop_and_a_continue_are_reported_once_each() {
    story(|init| {
        let child = sleeper(init);
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(init.wait4(child, w::WUNTRACED).unwrap().unwrap().status.stopped_by(), Some(SIGSTOP));
        assert_eq!(init.wait4(child, w::WUNTRACED | w::WNOHANG), Ok(None));
        init.kill(child, SIGCONT).unwrap();
        assert!(init.wait4(child, w::WCONTINUED).unwrap().unwrap().status.continued());
        assert_eq!(init.wait4(child, w::WCONTINUED | w::WNOHANG), Ok(None));
        init.kill(child, SIGKILL).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGKILL));
    });
}

#[test]
fn stops_are_not_reported_to_who_does_not_ask() {
    story(|init| {
        let child = sleeper(init);
        init.kill(child, SIGSTOP).unwrap();
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.wait4(child, w::WNOHANG), Ok(None));
        init.kill(child, SIGKILL).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGKILL));
    });
}

#[test]
fn waitid_tells_code_pid_and_status_of_each_kind() {
    story(|init| {
        let child = sleeper(init);
        let all = w::WEXITED | w::WSTOPPED | w::WCONTINUED;
        for (signal, code, status) in
            [(SIGSTOP, CLD_STOPPED, SIGSTOP), (SIGCONT, CLD_CONTINUED, SIGCONT), (SIGKILL, CLD_KILLED, SIGKILL)]
        {
            init.kill(child, signal).unwrap();
            let info = init.waitid(w::P_PID, child, all).unwrap().unwrap();
            assert_eq!((info.signal(), info.code(), info.pid()), (17, code, child));
            assert_eq!(info.status(), status.cast_signed());
        }
        let child = init.fork(|_| 300);
        let info = init.waitid(w::P_ALL, 0, w::WEXITED).unwrap().unwrap();
        assert_eq!((info.code(), info.pid(), info.status()), (CLD_EXITED, child, 300 & 0xff));
    });
}

#[test]
fn no_wait_leaves_the_child_to_be_waited_for_again() {
    story(|init| {
        let child = init.fork(|_| 4);
        for _ in 0..3 {
            let info = init.waitid(w::P_PID, child, w::WEXITED | w::WNOWAIT).unwrap().unwrap();
            assert_eq!(info.status(), 4);
        }
        assert_eq!(init.wait_for(child).exit_code(), Some(4));
    });
}

#[test]
fn bad_options_are_refused() {
    story(|init| {
        assert_eq!(init.wait4(-1, 0x10), Err(Errno::EINVAL));
        assert_eq!(init.waitid(w::P_ALL, 0, 0), Err(Errno::EINVAL));
        assert_eq!(init.waitid(w::P_ALL, 0, w::WNOHANG), Err(Errno::EINVAL));
        assert_eq!(init.waitid(7, 0, w::WEXITED), Err(Errno::EINVAL));
        assert_eq!(init.waitid(w::P_PID, 0, w::WEXITED), Err(Errno::EINVAL));
        assert_eq!(init.wait4(i32::MIN, 0), Err(Errno::ESRCH));
    });
}

#[test]
fn a_bad_status_pointer_is_efault() {
    story(|init| {
        let child = init.fork(|_| 4);
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.call(nr::WAIT4, &[child as u64, 8, 0, 0]), Err(Errno::EFAULT));
        // As on Linux, the child is gone all the same.
        assert_eq!(init.wait4(child, 0), Err(Errno::ECHILD));
    });
}

#[test]
fn a_handler_interrupts_a_wait() {
    story(|init| {
        let child = sleeper(init);
        init.on(SIGALRM, 0, |_| {});
        init.alarm_ns(10 * MS);
        assert_eq!(init.wait(), Err(Errno::EINTR));
        init.kill(child, SIGKILL).unwrap();
        init.wait_for(child);
    });
}

#[test]
fn a_restarting_handler_lets_the_wait_go_on() {
    story(|init| {
        let diary = Diary::default();
        let handler = diary.clone();
        init.on(SIGALRM, SA_RESTART, move |_| handler.note("alarm"));
        let child = init.fork(|child| {
            child.sleep_ns(50 * MS).unwrap();
            2
        });
        init.alarm_ns(10 * MS);
        assert_eq!(init.wait_for(child).exit_code(), Some(2));
        assert_eq!(diary.entries(), ["alarm"]);
    });
}

#[test]
fn two_threads_wait_for_a_child_each() {
    story(|init| {
        let diary = Diary::default();
        for n in 0..2 {
            init.fork(move |child| {
                child.sleep_ns(10 * MS).unwrap();
                n
            });
        }
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let diary = diary.clone();
                init.thread(move |thread| {
                    diary.note(format!("{:?}", thread.wait().unwrap().status.exit_code()));
                    0
                })
            })
            .collect();
        for thread in threads {
            init.join(thread);
        }
        let mut entries = diary.entries();
        entries.sort();
        assert_eq!(entries, ["Some(0)", "Some(1)"]);
    });
}

#[test]
fn the_time_of_waited_children_is_charged_to_the_parent() {
    story(|init| {
        let child = init.fork(|child| {
            child.compute(100 * MS);
            0
        });
        let usage = |init: &mut User| {
            let who = [i64::from(RUSAGE_CHILDREN).cast_unsigned()];
            let (_, usage) = init.call_with(nr::GETRUSAGE, &who, &Rusage::new_zeroed(), &[]).unwrap();
            usage.ru_utime.tv_sec * 1_000_000 + usage.ru_utime.tv_usec
        };
        assert_eq!(usage(init), 0);
        init.wait_for(child);
        let us = usage(init);
        assert!((90_000..130_000).contains(&us), "{us} us");
    });
}

#[test]
fn a_child_that_ends_while_the_parent_is_stopped_is_not_lost() {
    story(|init| {
        let parent = init.fork(|parent| {
            let child = parent.fork(|child| {
                child.sleep_ns(20 * MS).unwrap();
                5
            });
            parent.wait_for(child).exit_code().unwrap()
        });
        init.sleep_ns(5 * MS).unwrap();
        init.kill(parent, SIGSTOP).unwrap();
        init.sleep_ns(50 * MS).unwrap();
        init.kill(parent, SIGCONT).unwrap();
        assert_eq!(init.wait_for(parent).exit_code(), Some(5));
    });
}
