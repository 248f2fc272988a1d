//! Job control: stopping, continuing, orphaned groups.

use abi::signal::{
    CLD_STOPPED, SA_NOCLDSTOP, SA_SIGINFO, SIG_BLOCK, SIGCHLD, SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM, SIGTSTP,
    SIGUSR1, SigInfo,
};
use abi::{time, wait as w};
use hal::hosted::User;
use kcore::testing::Libc;

use crate::{Diary, MS, bit, story};

fn stopped(init: &mut User, child: i32) -> Option<u32> {
    init.wait4(child, w::WUNTRACED).unwrap().unwrap().status.stopped_by()
}

fn end(init: &mut User, child: i32) {
    init.kill(child, SIGKILL).unwrap();
    assert_eq!(init.wait_for(child).killed_by(), Some(SIGKILL));
}

#[test]
fn a_stopped_process_does_not_run_until_it_is_continued() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let child = init.fork(move |child| {
            loop {
                child.sleep_ns(MS).unwrap();
                inner.note("step");
            }
        });
        init.sleep_ns(10 * MS).unwrap();
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(stopped(init, child), Some(SIGSTOP));
        let steps = diary.entries().len();
        assert!(steps > 0);
        init.sleep_ns(50 * MS).unwrap();
        assert_eq!(diary.entries().len(), steps);
        init.kill(child, SIGCONT).unwrap();
        init.sleep_ns(10 * MS).unwrap();
        assert!(diary.entries().len() > steps);
        end(init, child);
    });
}

#[test]
fn a_computing_process_stops_too() {
    story(|init| {
        let child = init.fork(|child| {
            loop {
                child.compute(MS);
            }
        });
        init.sleep_ns(5 * MS).unwrap();
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(stopped(init, child), Some(SIGSTOP));
        end(init, child);
    });
}

#[test]
fn a_signal_sent_to_a_stopped_process_waits_for_the_continue() {
    story(|init| {
        let child = init.fork(|child| {
            child.on(SIGTERM, 0, |user| user.exit(9));
            loop {
                child.pause();
            }
        });
        init.sleep_ns(MS).unwrap();
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(stopped(init, child), Some(SIGSTOP));
        init.kill(child, SIGTERM).unwrap();
        init.sleep_ns(5 * MS).unwrap();
        assert_eq!(init.wait4(child, w::WNOHANG), Ok(None));
        init.kill(child, SIGCONT).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(9));
    });
}

#[test]
fn sigkill_ends_a_stopped_process() {
    story(|init| {
        let child = init.fork(|child| {
            loop {
                child.pause();
            }
        });
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(stopped(init, child), Some(SIGSTOP));
        end(init, child);
    });
}

#[test]
fn a_continue_wakes_even_when_it_is_blocked_or_ignored() {
    story(|init| {
        for ignore in [false, true] {
            let child = init.fork(move |child| {
                if ignore {
                    child.ignore(SIGCONT);
                } else {
                    child.sigprocmask(SIG_BLOCK, bit(SIGCONT));
                }
                let me = child.getpid();
                child.kill(me, SIGSTOP).unwrap();
                3
            });
            assert_eq!(stopped(init, child), Some(SIGSTOP));
            init.kill(child, SIGCONT).unwrap();
            assert_eq!(init.wait_for(child).exit_code(), Some(3));
        }
    });
}

#[test]
fn a_continue_runs_its_handler() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let child = init.fork(move |child| {
            child.on(SIGCONT, 0, move |_| inner.note("continued"));
            let me = child.getpid();
            child.kill(me, SIGSTOP).unwrap();
            0
        });
        assert_eq!(stopped(init, child), Some(SIGSTOP));
        init.kill(child, SIGCONT).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(diary.entries(), ["continued"]);
    });
}

#[test]
fn a_continue_takes_back_a_pending_stop_and_the_other_way_round() {
    story(|init| {
        init.sigprocmask(SIG_BLOCK, bit(SIGTSTP) | bit(SIGCONT));
        init.kill(1, SIGTSTP).unwrap();
        assert_eq!(init.sigpending(), bit(SIGTSTP));
        init.kill(1, SIGCONT).unwrap();
        assert_eq!(init.sigpending() & bit(SIGTSTP), 0);
        init.on(SIGCONT, 0, |_| {});
        init.kill(1, SIGCONT).unwrap();
        assert_eq!(init.sigpending(), bit(SIGCONT));
        init.kill(1, SIGTSTP).unwrap();
        assert_eq!(init.sigpending(), bit(SIGTSTP));
    });
}

#[test]
fn the_parent_hears_of_a_stop_unless_it_does_not_want_to() {
    for (flags, expected) in [(SA_SIGINFO, vec![format!("{CLD_STOPPED}")]), (SA_SIGINFO | SA_NOCLDSTOP, vec![])] {
        story(move |init| {
            let diary = Diary::default();
            let inner = diary.clone();
            init.on(SIGCHLD, flags, move |user| {
                let info: SigInfo = user.load(user.argument(1));
                inner.note(info.code().to_string());
            });
            let child = init.fork(|child| {
                loop {
                    child.pause();
                }
            });
            init.kill(child, SIGSTOP).unwrap();
            let _ = init.sleep_ns(10 * MS);
            assert_eq!(diary.entries(), expected);
            init.ignore(SIGCHLD);
            init.kill(child, SIGKILL).unwrap();
            let _ = init.wait();
        });
    }
}

#[test]
fn all_threads_stop_and_all_go_on() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let child = init.fork(move |leader| {
            for _ in 0..3 {
                let diary = inner.clone();
                leader.thread(move |thread| {
                    loop {
                        thread.compute(MS);
                        diary.note("step");
                    }
                });
            }
            loop {
                leader.pause();
            }
        });
        init.sleep_ns(20 * MS).unwrap();
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(stopped(init, child), Some(SIGSTOP));
        let steps = diary.entries().len();
        init.sleep_ns(50 * MS).unwrap();
        assert_eq!(diary.entries().len(), steps);
        init.kill(child, SIGCONT).unwrap();
        init.sleep_ns(20 * MS).unwrap();
        assert!(diary.entries().len() > steps);
        end(init, child);
    });
}

#[test]
fn init_does_not_keep_a_group_from_being_orphaned() {
    story(|init| {
        let parent = init.fork(|parent| {
            let child = parent.fork(|child| {
                child.setpgid(0, 0).unwrap();
                child.on(SIGHUP, 0, |user| user.exit(31));
                let me = child.getpid();
                child.kill(me, SIGSTOP).unwrap();
                loop {
                    child.pause();
                }
            });
            assert_eq!(stopped(parent, child), Some(SIGSTOP));
            0
        });
        assert_eq!(init.wait_for(parent).exit_code(), Some(0));
        // Linux will_become_orphaned_pgrp: a parent that is init does not count.
        assert_eq!(init.wait().unwrap().status.exit_code(), Some(31));
    });
}

#[test]
fn in_a_session_of_its_own_the_orphaned_group_is_hung_up() {
    story(|init| {
        let leader = init.fork(|leader| {
            leader.setsid().unwrap();
            let child = leader.fork(|child| {
                child.setpgid(0, 0).unwrap();
                child.on(SIGHUP, 0, |user| user.exit(31));
                let me = child.getpid();
                child.kill(me, SIGSTOP).unwrap();
                loop {
                    child.pause();
                }
            });
            assert_eq!(stopped(leader, child), Some(SIGSTOP));
            0
        });
        assert_eq!(init.wait_for(leader).exit_code(), Some(0));
        assert_eq!(init.wait().unwrap().status.exit_code(), Some(31));
    });
}

#[test]
fn a_terminal_stop_does_not_stop_an_orphaned_group() {
    story(|init| {
        let child = init.fork(|child| {
            child.setsid().unwrap();
            let me = child.getpid();
            child.kill(me, SIGTSTP).unwrap();
            8
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(8));
    });
}

#[test]
fn a_terminal_stop_stops_a_group_whose_parent_watches() {
    story(|init| {
        let shell = init.fork(|shell| {
            shell.setsid().unwrap();
            let job = shell.fork(|job| {
                job.setpgid(0, 0).unwrap();
                let me = job.getpid();
                job.kill(me, SIGTSTP).unwrap();
                8
            });
            assert_eq!(stopped(shell, job), Some(SIGTSTP));
            shell.kill(-job, SIGCONT).unwrap();
            shell.wait_for(job).exit_code().unwrap()
        });
        assert_eq!(init.wait_for(shell).exit_code(), Some(8));
    });
}

#[test]
fn time_stopped_is_not_time_computed() {
    story(|init| {
        let child = init.fork(|child| {
            child.compute(20 * MS);
            let used = child.clock_ns(time::CLOCK_PROCESS_CPUTIME_ID);
            assert!(used < 40 * MS, "{used} ns");
            0
        });
        init.sleep_ns(5 * MS).unwrap();
        init.kill(child, SIGSTOP).unwrap();
        init.sleep_ns(500 * MS).unwrap();
        init.kill(child, SIGUSR1).unwrap();
        init.kill(child, SIGCONT).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGUSR1));
        let child = init.fork(|child| {
            child.compute(20 * MS);
            let used = child.clock_ns(time::CLOCK_PROCESS_CPUTIME_ID);
            assert!((20 * MS..40 * MS).contains(&used), "{used} ns");
            0
        });
        init.sleep_ns(5 * MS).unwrap();
        init.kill(child, SIGSTOP).unwrap();
        init.sleep_ns(500 * MS).unwrap();
        init.kill(child, SIGCONT).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}
