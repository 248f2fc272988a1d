//! wait(2), waitid(2), prctl(2), getrusage(2): a named case for each rule, most of them rows of tables.

use abi::prctl::{PR_GET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG};
use abi::resource::{RUSAGE_CHILDREN, Rusage};
use abi::signal::{
    CLD_CONTINUED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, SA_NOCLDSTOP, SA_NOCLDWAIT, SIG_BLOCK, SIGCHLD, SIGCONT,
    SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2, SigInfo,
};
use abi::{Errno, nr, wait as w};
use hal::hosted::User;
use kcore::testing::{Disposition, Libc};
use zerocopy::FromZeros;

use crate::{Diary, MS, bit, story};

/// `name => (values)` rows: each becomes a test that calls `check` with its values.
macro_rules! table {
    ($check:path: $($name:ident => ($($value:expr),* $(,)?);)*) => { $(#[test] fn $name() { $check($($value),*) })* };
}

fn sleeper(user: &mut User) -> i32 {
    user.fork(|child| {
        loop {
            child.pause();
        }
    })
}

fn end(user: &mut User, pid: i32) {
    user.kill(pid, SIGKILL).unwrap();
    assert_eq!(user.wait4(pid, w::__WALL).unwrap().unwrap().status.killed_by(), Some(SIGKILL));
}

fn prctl(user: &mut User, option: u32, value: u64) -> Result<u64, Errno> {
    user.call(nr::PRCTL, &[u64::from(option), value, 0, 0, 0])
}

/// What has become of a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Runs,
    Stopped,
    Continued,
    Exited,
    Killed,
}

fn child_with(user: &mut User, fate: Fate) -> i32 {
    let pid = if fate == Fate::Exited { user.fork(|_| 3) } else { sleeper(user) };
    user.sleep_ns(MS).unwrap();
    let signals: &[u32] = match fate {
        Fate::Runs | Fate::Exited => &[],
        Fate::Stopped => &[SIGSTOP],
        Fate::Continued => &[SIGSTOP, SIGCONT],
        Fate::Killed => &[SIGTERM],
    };
    for signal in signals {
        user.kill(pid, *signal).unwrap();
        user.sleep_ns(MS).unwrap();
    }
    pid
}

/// waitid tells of a child in this state, to who asks with these options, this code (`None`: nothing yet).
fn tells(fate: Fate, options: u32, expected: Result<Option<i32>, Errno>) {
    story(move |init| {
        let pid = child_with(init, fate);
        let told = init.waitid(w::P_PID, pid, options | w::WNOHANG);
        assert_eq!(told.map(|info| info.map(|info| info.code())), expected);
        if let Ok(Some(_)) = expected
            && options & w::WNOWAIT != 0
        {
            // Left as it was, for the next one who asks.
            let again = init.waitid(w::P_PID, pid, options | w::WNOHANG);
            assert_eq!(again.map(|info| info.map(|info| info.code())), expected);
        }
    });
}

table! { tells:
    a_running_child_has_no_exit_to_tell => (Fate::Runs, w::WEXITED, Ok(None));
    a_running_child_has_no_stop_to_tell => (Fate::Runs, w::WSTOPPED, Ok(None));
    a_running_child_has_no_continue_to_tell => (Fate::Runs, w::WCONTINUED, Ok(None));
    a_stopped_child_has_no_exit_to_tell => (Fate::Stopped, w::WEXITED, Ok(None));
    a_stopped_child_tells_of_its_stop => (Fate::Stopped, w::WSTOPPED, Ok(Some(CLD_STOPPED)));
    a_stopped_child_has_no_continue_to_tell => (Fate::Stopped, w::WCONTINUED, Ok(None));
    a_continued_child_has_no_exit_to_tell => (Fate::Continued, w::WEXITED, Ok(None));
    a_continued_child_has_no_stop_to_tell_any_more => (Fate::Continued, w::WSTOPPED, Ok(None));
    a_continued_child_tells_of_it => (Fate::Continued, w::WCONTINUED, Ok(Some(CLD_CONTINUED)));
    an_ended_child_tells_of_its_exit => (Fate::Exited, w::WEXITED, Ok(Some(CLD_EXITED)));
    an_ended_child_is_none_to_who_waits_for_a_stop => (Fate::Exited, w::WSTOPPED, Err(Errno::ECHILD));
    an_ended_child_is_none_to_who_waits_for_a_continue => (Fate::Exited, w::WCONTINUED, Err(Errno::ECHILD));
    a_killed_child_tells_of_its_signal => (Fate::Killed, w::WEXITED, Ok(Some(CLD_KILLED)));
    a_killed_child_has_no_stop_to_tell => (Fate::Killed, w::WSTOPPED | w::WCONTINUED, Err(Errno::ECHILD));
    who_asks_for_all_hears_of_a_stop => (Fate::Stopped, w::WEXITED | w::WSTOPPED | w::WCONTINUED, Ok(Some(CLD_STOPPED)));
    who_asks_for_all_hears_of_an_exit => (Fate::Exited, w::WEXITED | w::WSTOPPED | w::WCONTINUED, Ok(Some(CLD_EXITED)));
    no_wait_leaves_an_exit => (Fate::Exited, w::WEXITED | w::WNOWAIT, Ok(Some(CLD_EXITED)));
    no_wait_leaves_a_kill => (Fate::Killed, w::WEXITED | w::WNOWAIT, Ok(Some(CLD_KILLED)));
    no_wait_leaves_a_stop => (Fate::Stopped, w::WSTOPPED | w::WNOWAIT, Ok(Some(CLD_STOPPED)));
    no_wait_leaves_a_continue => (Fate::Continued, w::WCONTINUED | w::WNOWAIT, Ok(Some(CLD_CONTINUED)));
}

/// Without WNOWAIT a report is made once.
fn tells_once(fate: Fate, options: u32, afterwards: Result<Option<SigInfo>, Errno>) {
    story(move |init| {
        let pid = child_with(init, fate);
        assert!(init.waitid(w::P_PID, pid, options).unwrap().is_some());
        assert_eq!(init.waitid(w::P_PID, pid, options | w::WNOHANG), afterwards);
    });
}

table! { tells_once:
    a_stop_is_told_once => (Fate::Stopped, w::WSTOPPED, Ok(None));
    a_continue_is_told_once => (Fate::Continued, w::WCONTINUED, Ok(None));
    an_exit_is_told_once => (Fate::Exited, w::WEXITED, Err(Errno::ECHILD));
    a_kill_is_told_once => (Fate::Killed, w::WEXITED, Err(Errno::ECHILD));
}

#[test]
fn a_new_stop_is_told_again() {
    story(|init| {
        let pid = sleeper(init);
        for _ in 0..3 {
            init.kill(pid, SIGSTOP).unwrap();
            assert_eq!(init.waitid(w::P_PID, pid, w::WSTOPPED).unwrap().unwrap().code(), CLD_STOPPED);
            init.kill(pid, SIGCONT).unwrap();
            assert_eq!(init.waitid(w::P_PID, pid, w::WCONTINUED).unwrap().unwrap().code(), CLD_CONTINUED);
        }
        end(init, pid);
    });
}

#[test]
fn a_continue_without_a_stop_is_nothing_to_tell() {
    story(|init| {
        let pid = sleeper(init);
        init.kill(pid, SIGCONT).unwrap();
        assert_eq!(init.waitid(w::P_PID, pid, w::WCONTINUED | w::WNOHANG), Ok(None));
        end(init, pid);
    });
}

#[test]
fn a_stopped_child_that_is_killed_has_no_stop_to_tell() {
    story(|init| {
        let pid = child_with(init, Fate::Stopped);
        init.kill(pid, SIGKILL).unwrap();
        init.sleep_ns(MS).unwrap();
        let told = init.waitid(w::P_PID, pid, w::WEXITED | w::WSTOPPED).unwrap().unwrap();
        assert_eq!((told.code(), told.status()), (CLD_KILLED, SIGKILL.cast_signed()));
    });
}

#[test]
fn waiting_for_stops_of_a_child_that_ends_meanwhile_is_echild() {
    story(|init| {
        let pid = init.fork(|child| child.sleep_ns(10 * MS).map_or(1, |()| 0));
        assert_eq!(init.waitid(w::P_PID, pid, w::WSTOPPED), Err(Errno::ECHILD));
        assert_eq!(init.wait_for(pid).exit_code(), Some(0));
    });
}

/// Whom a call is about: a child in the caller's group, and one in a group of its own.
fn chooses(which: fn(&mut User, i32, i32) -> Result<i32, Errno>, expected: Result<usize, Errno>) {
    story(move |init| {
        let here = init.fork(|_| 1);
        let elsewhere = init.fork(|child| {
            child.setpgid(0, 0).unwrap();
            2
        });
        init.sleep_ns(MS).unwrap();
        let pids = [here, elsewhere];
        assert_eq!(which(init, here, elsewhere), expected.map(|n| pids[n]));
    });
}

fn by_waitid(user: &mut User, kind: u32, id: i32) -> Result<i32, Errno> {
    user.waitid(kind, id, w::WEXITED).map(|info| info.unwrap().pid())
}

fn by_wait4(user: &mut User, pid: i32) -> Result<i32, Errno> {
    user.wait4(pid, 0).map(|waited| waited.unwrap().pid)
}

table! { chooses:
    wait4_minus_one_takes_the_eldest => (|user, _, _| by_wait4(user, -1), Ok(0));
    wait4_of_a_pid_takes_that_child => (|user, _, there| by_wait4(user, there), Ok(1));
    wait4_zero_takes_the_callers_group => (|user, _, _| by_wait4(user, 0), Ok(0));
    wait4_of_a_negative_number_takes_that_group => (|user, _, there| by_wait4(user, -there), Ok(1));
    wait4_of_a_childs_own_number_is_no_group => (|user, here, _| by_wait4(user, -here), Err(Errno::ECHILD));
    wait4_of_a_pid_that_nobody_has_is_echild => (|user, _, _| by_wait4(user, 30_000), Err(Errno::ECHILD));
    wait4_of_the_caller_is_echild => (|user, _, _| by_wait4(user, 1), Err(Errno::ECHILD));
    wait4_of_a_group_that_nobody_is_in_is_echild => (|user, _, _| by_wait4(user, -30_000), Err(Errno::ECHILD));
    waitid_p_all_takes_the_eldest => (|user, _, _| by_waitid(user, w::P_ALL, 0), Ok(0));
    waitid_p_all_does_not_look_at_the_id => (|user, _, _| by_waitid(user, w::P_ALL, -7), Ok(0));
    waitid_p_pid_takes_that_child => (|user, _, there| by_waitid(user, w::P_PID, there), Ok(1));
    waitid_p_pid_of_nobody_is_echild => (|user, _, _| by_waitid(user, w::P_PID, 30_000), Err(Errno::ECHILD));
    waitid_p_pid_zero_is_einval => (|user, _, _| by_waitid(user, w::P_PID, 0), Err(Errno::EINVAL));
    waitid_p_pid_negative_is_einval => (|user, _, _| by_waitid(user, w::P_PID, -1), Err(Errno::EINVAL));
    waitid_p_pgid_takes_that_group => (|user, _, there| by_waitid(user, w::P_PGID, there), Ok(1));
    waitid_p_pgid_zero_takes_the_callers_group => (|user, _, _| by_waitid(user, w::P_PGID, 0), Ok(0));
    waitid_p_pgid_negative_is_einval => (|user, _, _| by_waitid(user, w::P_PGID, -1), Err(Errno::EINVAL));
    waitid_p_pgid_of_no_group_is_echild => (|user, _, _| by_waitid(user, w::P_PGID, 30_000), Err(Errno::ECHILD));
    waitid_p_pidfd_takes_that_child => (|user, _, there| {
        let fd = user.call_int(nr::PIDFD_OPEN, &[there as u64, 0]).unwrap();
        by_waitid(user, w::P_PIDFD, fd)
    }, Ok(1));
    waitid_p_pidfd_negative_is_einval => (|user, _, _| by_waitid(user, w::P_PIDFD, -1), Err(Errno::EINVAL));
    waitid_p_pidfd_that_is_not_open_is_ebadf => (|user, _, _| by_waitid(user, w::P_PIDFD, 77), Err(Errno::EBADF));
    waitid_p_pidfd_of_a_pipe_is_ebadf => (|user, _, _| {
        let (read, _) = user.pipe(0).unwrap();
        by_waitid(user, w::P_PIDFD, read)
    }, Err(Errno::EBADF));
    waitid_p_pidfd_of_the_caller_is_echild => (|user, _, _| {
        let fd = user.call_int(nr::PIDFD_OPEN, &[1, 0]).unwrap();
        by_waitid(user, w::P_PIDFD, fd)
    }, Err(Errno::ECHILD));
    waitid_of_an_unknown_kind_is_einval => (|user, _, _| by_waitid(user, 4, 1), Err(Errno::EINVAL));
    a_nonblocking_pidfd_of_an_ended_child_answers => (|user, _, there| {
        let fd = user.call_int(nr::PIDFD_OPEN, &[there as u64, u64::from(abi::notify::PIDFD_NONBLOCK)]).unwrap();
        by_waitid(user, w::P_PIDFD, fd)
    }, Ok(1));
}

#[test]
fn a_nonblocking_pidfd_of_a_running_child_is_eagain() {
    story(|init| {
        let pid = sleeper(init);
        let fd = init.call_int(nr::PIDFD_OPEN, &[pid as u64, u64::from(abi::notify::PIDFD_NONBLOCK)]).unwrap();
        assert_eq!(init.waitid(w::P_PIDFD, fd, w::WEXITED), Err(Errno::EAGAIN));
        assert_eq!(init.waitid(w::P_PIDFD, fd, w::WEXITED | w::WNOHANG), Ok(None));
        end(init, pid);
    });
}

#[test]
fn the_group_is_the_one_at_the_time_of_the_call() {
    story(|init| {
        let mover = init.fork(|mover| {
            mover.setpgid(0, 0).unwrap();
            let child = mover.fork(|_| 6);
            mover.wait4(0, 0).unwrap().map_or(1, |waited| i32::from(waited.pid != child))
        });
        assert_eq!(init.wait_for(mover).exit_code(), Some(0));
    });
}

/// Whether a child with this exit signal is seen by who waits with these options ("clone" children: wait(2), Linux notes).
fn sees(exit_signal: u32, options: u32, seen: Result<(), Errno>) {
    story(move |init| {
        let diary = Diary::default();
        if exit_signal != 0 {
            let diary = diary.clone();
            init.on(exit_signal, abi::signal::SA_RESTART, move |_| diary.note("told"));
        }
        let pid = i32::try_from(init.clone_with(u64::from(exit_signal), 0, |_| 4)).unwrap();
        let _ = init.sleep_ns(MS);
        assert_eq!(init.wait4(pid, options).map(drop), seen);
        assert_eq!(diary.entries().len(), usize::from(exit_signal != 0));
        assert_eq!(init.wait4(pid, w::__WALL).is_ok(), seen.is_err());
    });
}

table! { sees:
    a_sigchld_child_is_an_ordinary_one => (SIGCHLD, 0, Ok(()));
    a_sigchld_child_is_no_clone_child => (SIGCHLD, w::__WCLONE, Err(Errno::ECHILD));
    a_sigchld_child_is_seen_by_wall => (SIGCHLD, w::__WALL, Ok(()));
    wall_beats_wclone => (SIGCHLD, w::__WALL | w::__WCLONE, Ok(()));
    a_silent_child_is_no_ordinary_one => (0, 0, Err(Errno::ECHILD));
    a_silent_child_is_a_clone_child => (0, w::__WCLONE, Ok(()));
    a_silent_child_is_seen_by_wall => (0, w::__WALL, Ok(()));
    a_child_with_another_signal_is_no_ordinary_one => (SIGUSR1, 0, Err(Errno::ECHILD));
    a_child_with_another_signal_is_a_clone_child => (SIGUSR1, w::__WCLONE, Ok(()));
    a_child_with_another_signal_is_seen_by_wall => (SIGUSR1, w::__WALL, Ok(()));
    a_real_time_exit_signal_is_sent => (40, w::__WCLONE, Ok(()));
}

#[test]
fn a_reparented_child_is_an_ordinary_one_again() {
    story(|init| {
        let parent = init.fork(|parent| {
            parent.clone_with(0, 0, |child| child.sleep_ns(10 * MS).map_or(1, |()| 8));
            0
        });
        init.wait_for(parent);
        assert_eq!(init.wait().unwrap().status.exit_code(), Some(8));
    });
}

// ---- Threads as parents.

#[test]
fn no_thread_means_only_the_callers_own_children() {
    story(|init| {
        let pid = sleeper(init);
        let thread = init.thread(move |thread| {
            assert_eq!(thread.wait4(pid, w::WNOHANG), Ok(None));
            assert_eq!(thread.wait4(pid, w::WNOHANG | w::__WNOTHREAD), Err(Errno::ECHILD));
            assert_eq!(thread.waitid(w::P_ALL, 0, w::WEXITED | w::__WNOTHREAD), Err(Errno::ECHILD));
            let own = thread.fork(|_| 2);
            assert_eq!(thread.wait4(own, w::__WNOTHREAD).unwrap().unwrap().pid, own);
            0
        });
        init.join(thread);
        assert_eq!(init.wait4(pid, w::WNOHANG | w::__WNOTHREAD), Ok(None));
        end(init, pid);
    });
}

#[test]
fn any_thread_may_wait_for_any_child() {
    story(|init| {
        let pid = init.fork(|child| child.sleep_ns(5 * MS).map_or(1, |()| 9));
        let thread = init.thread(move |thread| {
            assert_eq!(thread.wait_for(pid).exit_code(), Some(9));
            0
        });
        init.join(thread);
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

#[test]
fn the_children_of_a_thread_that_ends_are_those_of_another() {
    story(|init| {
        let pid = std::rc::Rc::new(std::cell::Cell::new(0));
        let slot = pid.clone();
        let thread = init.thread(move |thread| {
            slot.set(sleeper(thread));
            0
        });
        init.join(thread);
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.wait4(pid.get(), w::WNOHANG | w::__WNOTHREAD), Ok(None));
        end(init, pid.get());
    });
}

#[test]
fn a_thread_that_execs_keeps_its_children() {
    let mut machine = kcore::testing::Machine::new();
    machine.program("/bin/waits", |user| {
        // Now the only thread, and the leader.
        user.wait4(-1, w::__WNOTHREAD).unwrap().unwrap().status.exit_code().unwrap()
    });
    machine.run(|init| {
        let pid = init.fork(|leader| {
            leader.thread(|thread| {
                thread.fork(|child| child.sleep_ns(10 * MS).map_or(1, |()| 31));
                thread.exec("/bin/waits", &["waits"])
            });
            loop {
                leader.pause();
            }
        });
        assert_eq!(init.wait_for(pid).exit_code(), Some(31));
    });
}

// ---- Exit status of a process with threads.

#[test]
fn the_last_thread_decides_when_nobody_called_exit_group() {
    story(|init| {
        let pid = init.fork(|leader| {
            leader.thread(|thread| {
                thread.sleep_ns(5 * MS).unwrap();
                thread.exit_thread(3)
            });
            leader.exit_thread(2)
        });
        // Linux gives the code of the last thread since 6.1 (synchronize_group_exit).
        assert_eq!(init.wait_for(pid).exit_code(), Some(3));
    });
}

#[test]
fn exit_group_after_the_leader_left_decides() {
    story(|init| {
        let pid = init.fork(|leader| {
            leader.thread(|thread| {
                thread.sleep_ns(5 * MS).unwrap();
                thread.exit(7)
            });
            leader.exit_thread(2)
        });
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.wait4(pid, w::WNOHANG), Ok(None));
        assert_eq!(init.wait_for(pid).exit_code(), Some(7));
    });
}

#[test]
fn of_two_exit_groups_the_first_wins() {
    story(|init| {
        let pid = init.fork(|leader| {
            leader.thread(|thread| thread.exit(1));
            leader.sched_yield();
            leader.sleep_ns(MS).unwrap();
            leader.exit(2)
        });
        assert_eq!(init.wait_for(pid).exit_code(), Some(1));
    });
}

#[test]
fn a_fatal_signal_after_the_leader_left_ends_all_threads() {
    story(|init| {
        let pid = init.fork(|leader| {
            for _ in 0..3 {
                leader.thread(|thread| {
                    loop {
                        thread.pause();
                    }
                });
            }
            leader.exit_thread(2)
        });
        init.sleep_ns(MS).unwrap();
        init.kill(pid, SIGTERM).unwrap();
        assert_eq!(init.wait_for(pid).killed_by(), Some(SIGTERM));
    });
}

// ---- Children that nobody wants to wait for.

#[derive(Clone, Copy)]
enum Unwanted {
    Ignore,
    NoWait,
}

fn set_unwanted(user: &mut User, how: Unwanted, diary: &Diary) {
    match how {
        Unwanted::Ignore => user.ignore(SIGCHLD),
        Unwanted::NoWait => {
            let diary = diary.clone();
            user.on(SIGCHLD, SA_NOCLDWAIT, move |_| diary.note("sigchld"));
        }
    }
}

/// Neither zombies nor, with SIG_IGN, a signal; wait sleeps until all have ended and is ECHILD then.
fn reap_themselves(how: Unwanted, signals: usize) {
    story(move |init| {
        let diary = Diary::default();
        set_unwanted(init, how, &diary);
        let last = init.fork(|child| child.sleep_ns(20 * MS).map_or(1, |()| 0));
        init.fork(|_| 0);
        let before = init.clock_ns(abi::time::CLOCK_MONOTONIC);
        loop {
            match init.wait() {
                Err(Errno::EINTR) => continue,
                other => break assert_eq!(other, Err(Errno::ECHILD)),
            }
        }
        assert!(init.clock_ns(abi::time::CLOCK_MONOTONIC) - before >= 19 * MS);
        assert_eq!(init.kill(last, 0), Err(Errno::ESRCH));
        assert_eq!(diary.entries().len(), signals);
    });
}

table! { reap_themselves:
    children_of_who_ignores_sigchld_reap_themselves => (Unwanted::Ignore, 0);
    children_of_who_sets_nocldwait_reap_themselves_and_tell => (Unwanted::NoWait, 2);
}

#[test]
fn an_ignored_sigchld_is_not_even_pending_when_blocked() {
    story(|init| {
        init.ignore(SIGCHLD);
        init.sigprocmask(SIG_BLOCK, bit(SIGCHLD));
        init.fork(|_| 0);
        assert_eq!(init.wait(), Err(Errno::ECHILD));
        assert_eq!(init.sigpending(), 0);
    });
}

#[test]
fn the_default_of_sigchld_leaves_zombies() {
    story(|init| {
        init.try_sigaction(SIGCHLD, Disposition::Default, 0).unwrap();
        let pid = init.fork(|_| 5);
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.wait_for(pid).exit_code(), Some(5));
    });
}

#[test]
fn who_begins_to_ignore_sigchld_keeps_the_zombies_that_there_are() {
    story(|init| {
        let pid = init.fork(|_| 5);
        init.sleep_ns(MS).unwrap();
        init.ignore(SIGCHLD);
        assert_eq!(init.wait_for(pid).exit_code(), Some(5));
    });
}

#[test]
fn a_child_with_another_exit_signal_does_not_reap_itself() {
    story(|init| {
        init.ignore(SIGCHLD);
        let pid = i32::try_from(init.clone_with(0, 0, |_| 6)).unwrap();
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.wait4(pid, w::__WALL).unwrap().unwrap().status.exit_code(), Some(6));
    });
}

#[test]
fn a_zombie_that_is_handed_to_a_parent_who_ignores_sigchld_is_reaped() {
    story(|init| {
        init.ignore(SIGCHLD);
        init.fork(|parent| {
            parent.try_sigaction(SIGCHLD, Disposition::Default, 0).unwrap();
            let child = parent.fork(|_| 0);
            parent.waitid(w::P_PID, child, w::WEXITED | w::WNOWAIT).unwrap();
            0
        });
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

/// SIGCHLD for a stop and a continue: as many as the disposition says.
fn stop_signals(disposition: fn(&mut User, &Diary), expected: &'static [&'static str]) {
    story(move |init| {
        let diary = Diary::default();
        disposition(init, &diary);
        let pid = sleeper(init);
        init.kill(pid, SIGSTOP).unwrap();
        init.waitid(w::P_PID, pid, w::WSTOPPED).unwrap();
        init.kill(pid, SIGCONT).unwrap();
        init.waitid(w::P_PID, pid, w::WCONTINUED).unwrap();
        assert_eq!(diary.entries(), expected);
    });
}

fn note_code(user: &mut User, flags: u32, diary: &Diary) {
    let diary = diary.clone();
    user.on(SIGCHLD, flags | abi::signal::SA_SIGINFO | abi::signal::SA_RESTART, move |user| {
        let info: SigInfo = user.load(user.argument(1));
        diary.note(format!("{} {}", info.code(), info.status()));
    });
}

table! { stop_signals:
    a_handler_hears_of_stops_and_continues => (|user, diary| note_code(user, 0, diary), &["5 19", "6 18"]);
    nocldstop_keeps_quiet_about_them => (|user, diary| note_code(user, SA_NOCLDSTOP, diary), &[]);
    who_ignores_sigchld_hears_nothing => (|user, _| user.ignore(SIGCHLD), &[]);
}

// ---- Subreapers and the signal of a parent's death.

/// A process whose parent dies: its new parent is the process that `expected` names (0: init).
#[test]
fn an_orphan_goes_to_init_without_a_subreaper() {
    story(|init| {
        let middle = init.fork(|middle| {
            middle.fork(|orphan| {
                orphan.sleep_ns(5 * MS).unwrap();
                orphan.getppid()
            });
            0
        });
        init.wait_for(middle);
        assert_eq!(init.wait().unwrap().status.exit_code(), Some(1));
    });
}

#[test]
fn being_a_subreaper_is_not_inherited() {
    story(|init| {
        let reaper = init.fork(|reaper| {
            prctl(reaper, PR_SET_CHILD_SUBREAPER, 1).unwrap();
            let me = reaper.getpid();
            let middle = reaper.fork(move |middle| {
                let inner = middle.fork(|inner| {
                    inner.fork(|orphan| orphan.sleep_ns(5 * MS).map_or(1, |()| 21));
                    0
                });
                middle.wait_for(inner);
                // The orphan went past its grandparent.
                assert_eq!(middle.wait(), Err(Errno::ECHILD));
                assert_eq!(middle.getppid(), me);
                0
            });
            assert_eq!(reaper.wait_for(middle).exit_code(), Some(0));
            reaper.wait().unwrap().status.exit_code().unwrap()
        });
        assert_eq!(init.wait_for(reaper).exit_code(), Some(21));
    });
}

#[test]
fn of_two_subreapers_the_nearer_one_gets_the_orphan() {
    story(|init| {
        let outer = init.fork(|outer| {
            prctl(outer, PR_SET_CHILD_SUBREAPER, 1).unwrap();
            let inner = outer.fork(|inner| {
                prctl(inner, PR_SET_CHILD_SUBREAPER, 1).unwrap();
                let middle = inner.fork(|middle| {
                    middle.fork(|orphan| orphan.sleep_ns(5 * MS).map_or(1, |()| 22));
                    0
                });
                inner.wait_for(middle);
                inner.wait().unwrap().status.exit_code().unwrap()
            });
            let code = outer.wait_for(inner).exit_code().unwrap();
            assert_eq!(outer.wait(), Err(Errno::ECHILD));
            code
        });
        assert_eq!(init.wait_for(outer).exit_code(), Some(22));
    });
}

#[test]
fn orphans_of_a_subreaper_that_ends_go_to_the_next_one() {
    story(|init| {
        let outer = init.fork(|outer| {
            prctl(outer, PR_SET_CHILD_SUBREAPER, 1).unwrap();
            let inner = outer.fork(|inner| {
                prctl(inner, PR_SET_CHILD_SUBREAPER, 1).unwrap();
                let middle = inner.fork(|middle| {
                    middle.fork(|orphan| orphan.sleep_ns(20 * MS).map_or(1, |()| 23));
                    0
                });
                inner.wait_for(middle);
                0
            });
            outer.wait_for(inner);
            outer.wait().unwrap().status.exit_code().unwrap()
        });
        assert_eq!(init.wait_for(outer).exit_code(), Some(23));
    });
}

#[test]
fn who_is_a_subreaper_no_more_gets_no_orphans() {
    story(|init| {
        let reaper = init.fork(|reaper| {
            prctl(reaper, PR_SET_CHILD_SUBREAPER, 1).unwrap();
            prctl(reaper, PR_SET_CHILD_SUBREAPER, 0).unwrap();
            let middle = reaper.fork(|middle| {
                middle.fork(|orphan| orphan.sleep_ns(5 * MS).map_or(1, |()| 0));
                0
            });
            reaper.wait_for(middle);
            assert_eq!(reaper.wait(), Err(Errno::ECHILD));
            0
        });
        assert_eq!(init.wait_for(reaper).exit_code(), Some(0));
        init.wait().unwrap();
    });
}

#[test]
fn an_orphan_goes_to_a_living_thread_of_the_subreaper() {
    story(|init| {
        let reaper = init.fork(|leader| {
            prctl(leader, PR_SET_CHILD_SUBREAPER, 1).unwrap();
            leader.thread(|thread| {
                let middle = thread.fork(|middle| {
                    middle.fork(|orphan| orphan.sleep_ns(20 * MS).map_or(1, |()| 24));
                    middle.sleep_ns(5 * MS).map_or(1, |()| 0)
                });
                thread.wait_for(middle);
                let code = thread.wait4(-1, w::__WNOTHREAD).unwrap().unwrap().status.exit_code().unwrap();
                thread.exit(code)
            });
            leader.exit_thread(0)
        });
        assert_eq!(init.wait_for(reaper).exit_code(), Some(24));
    });
}

/// A grandchild that asked to be told of its parent's death notes what it hears.
fn watcher(parent: &mut User, diary: &Diary, wanted: u32) -> i32 {
    let diary = diary.clone();
    let pid = parent.fork(move |child| {
        let inner = diary.clone();
        child.on(wanted, abi::signal::SA_SIGINFO, move |user| {
            let info: SigInfo = user.load(user.argument(1));
            inner.note(format!("{} from {}", info.code(), info.pid()));
        });
        prctl(child, PR_SET_PDEATHSIG, u64::from(wanted)).unwrap();
        diary.note("ready");
        let _ = child.sleep_ns(50 * MS);
        0
    });
    parent.sleep_ns(MS).unwrap();
    pid
}

#[test]
fn the_death_of_the_parent_is_told_as_from_the_parent() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let parent = init.fork(move |parent| {
            watcher(parent, &inner, SIGUSR2);
            0
        });
        init.wait_for(parent);
        init.wait().unwrap();
        assert_eq!(diary.entries(), ["ready".to_string(), format!("0 from {parent}")]);
    });
}

#[test]
fn the_parent_is_the_thread_that_forked() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let parent = init.fork(move |leader| {
            let diary = inner.clone();
            let thread = leader.thread(move |thread| {
                watcher(thread, &diary, SIGUSR2);
                0
            });
            leader.join(thread);
            leader.sleep_ns(5 * MS).unwrap();
            // Told although this process lives, and the child is still ours.
            assert_eq!(inner.entries().len(), 2);
            leader.wait().unwrap();
            0
        });
        assert_eq!(init.wait_for(parent).exit_code(), Some(0));
    });
}

#[test]
fn another_threads_end_is_not_the_parents_death() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let parent = init.fork(move |leader| {
            let child = watcher(leader, &inner, SIGUSR2);
            let thread = leader.thread(|_| 0);
            leader.join(thread);
            leader.wait_for(child);
            0
        });
        init.wait_for(parent);
        assert_eq!(diary.entries(), ["ready"]);
    });
}

#[test]
fn the_wish_is_not_inherited_by_fork() {
    story(|init| {
        let pid = init.fork(|child| {
            prctl(child, PR_SET_PDEATHSIG, u64::from(SIGUSR1)).unwrap();
            let grandchild = child.fork(|grandchild| {
                let (_, wanted) =
                    grandchild.call_with(nr::PRCTL, &[u64::from(PR_GET_PDEATHSIG)], &77i32, &[0, 0, 0]).unwrap();
                wanted
            });
            let code = child.wait_for(grandchild).exit_code().unwrap();
            let own = child.call_with(nr::PRCTL, &[u64::from(PR_GET_PDEATHSIG)], &77i32, &[0, 0, 0]).unwrap().1;
            assert_eq!(own, SIGUSR1.cast_signed());
            code
        });
        assert_eq!(init.wait_for(pid).exit_code(), Some(0));
    });
}

fn pdeathsig_is(value: u64, expected: Result<u64, Errno>) {
    story(move |init| assert_eq!(prctl(init, PR_SET_PDEATHSIG, value), expected));
}

table! { pdeathsig_is:
    pdeathsig_zero_clears => (0, Ok(0));
    pdeathsig_may_be_the_highest_signal => (64, Ok(0));
    pdeathsig_beyond_the_signals_is_einval => (65, Err(Errno::EINVAL));
    pdeathsig_does_not_wrap => (257, Err(Errno::EINVAL));
}

#[test]
fn a_parent_that_may_not_signal_its_child_does_not_do_so_by_dying() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let parent = init.fork(move |parent| {
            watcher(parent, &inner, SIGUSR2);
            // Another user from now on; the child is still root's.
            parent.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            0
        });
        init.wait_for(parent);
        init.wait().unwrap();
        assert_eq!(diary.entries(), ["ready"]);
    });
}

// ---- What was used.

fn children_us(user: &mut User) -> i64 {
    let who = [i64::from(RUSAGE_CHILDREN).cast_unsigned()];
    let (_, usage) = user.call_with(nr::GETRUSAGE, &who, &Rusage::new_zeroed(), &[]).unwrap();
    usage.ru_utime.tv_sec * 1_000_000 + usage.ru_utime.tv_usec
}

fn wait4_usage(user: &mut User, pid: i32, options: u32) -> i64 {
    let arguments = [pid as u64, 0, u64::from(options)];
    let (_, usage) = user.call_with(nr::WAIT4, &arguments, &Rusage::new_zeroed(), &[]).unwrap();
    usage.ru_utime.tv_sec * 1_000_000 + usage.ru_utime.tv_usec
}

fn computing(user: &mut User) -> i32 {
    user.fork(|child| {
        child.compute(50 * MS);
        0
    })
}

#[test]
fn wait4_tells_what_the_child_used() {
    story(|init| {
        let pid = computing(init);
        let us = wait4_usage(init, pid, 0);
        assert!((45_000..70_000).contains(&us), "{us}");
    });
}

#[test]
fn wait4_tells_what_a_stopped_child_used_so_far() {
    story(|init| {
        let pid = init.fork(|child| {
            child.compute(50 * MS);
            loop {
                child.pause();
            }
        });
        init.sleep_ns(100 * MS).unwrap();
        init.kill(pid, SIGSTOP).unwrap();
        let us = wait4_usage(init, pid, w::WUNTRACED);
        assert!((45_000..70_000).contains(&us), "{us}");
        assert_eq!(children_us(init), 0);
        end(init, pid);
    });
}

#[test]
fn a_look_with_nowait_charges_nothing() {
    story(|init| {
        let pid = computing(init);
        init.waitid(w::P_PID, pid, w::WEXITED | w::WNOWAIT).unwrap();
        assert_eq!(children_us(init), 0);
        init.wait_for(pid);
        assert!(children_us(init) >= 45_000);
    });
}

#[test]
fn children_that_reap_themselves_are_not_charged() {
    story(|init| {
        init.ignore(SIGCHLD);
        computing(init);
        assert_eq!(init.wait(), Err(Errno::ECHILD));
        assert_eq!(children_us(init), 0);
    });
}

#[test]
fn grandchildren_are_charged_when_they_were_waited_for() {
    for (waited, expected) in [(true, 45_000..80_000), (false, 0..5_000)] {
        story(move |init| {
            let pid = init.fork(move |child| {
                let grandchild = computing(child);
                child.waitid(w::P_PID, grandchild, w::WEXITED | w::WNOWAIT).unwrap();
                if waited {
                    child.wait_for(grandchild);
                }
                0
            });
            init.wait_for(pid);
            let us = children_us(init);
            assert!(expected.contains(&us), "waited {waited}: {us}");
            // The orphan is init's now.
            let _ = init.wait();
        });
    }
}

#[test]
fn the_time_of_every_thread_counts_a_dead_leader_included() {
    story(|init| {
        let pid = init.fork(|leader| {
            leader.thread(|thread| {
                thread.compute(30 * MS);
                thread.sleep_ns(20 * MS).unwrap();
                let (_, usage) = thread.call_with(nr::GETRUSAGE, &[0], &Rusage::new_zeroed(), &[]).unwrap();
                assert!(usage.ru_utime.tv_usec >= 55_000, "{} us", usage.ru_utime.tv_usec);
                0
            });
            leader.compute(30 * MS);
            leader.exit_thread(0)
        });
        let us = wait4_usage(init, pid, 0);
        assert!((55_000..90_000).contains(&us), "{us}");
    });
}

#[test]
fn sigchld_tells_the_times_in_clock_ticks() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        init.on(SIGCHLD, abi::signal::SA_SIGINFO, move |user| {
            let info: SigInfo = user.load(user.argument(1));
            inner.note(format!("{}", info.times().0));
        });
        let pid = init.fork(|child| {
            child.compute(300 * MS);
            0
        });
        while init.wait4(pid, 0) == Err(Errno::EINTR) {}
        let ticks: i64 = diary.entries()[0].parse().unwrap();
        assert!((29..=32).contains(&ticks), "{ticks}");
    });
}

// ---- Bad arguments.

fn refused(call: fn(&mut User) -> Result<u64, Errno>, expected: Errno) {
    story(move |init| {
        let pid = sleeper(init);
        assert_eq!(call(init), Err(expected));
        end(init, pid);
    });
}

table! { refused:
    wait4_with_wexited_is_einval => (|u| u.call(nr::WAIT4, &[u64::MAX, 0, u64::from(w::WEXITED | w::WNOHANG), 0]), Errno::EINVAL);
    wait4_with_wnowait_is_einval => (|u| u.call(nr::WAIT4, &[u64::MAX, 0, u64::from(w::WNOWAIT | w::WNOHANG), 0]), Errno::EINVAL);
    wait4_with_an_unknown_option_is_einval => (|u| u.call(nr::WAIT4, &[u64::MAX, 0, 0x10, 0]), Errno::EINVAL);
    wait4_of_int_min_is_esrch => (|u| u.call(nr::WAIT4, &[i32::MIN as u64, 0, 1, 0]), Errno::ESRCH);
    waitid_without_a_kind_of_change_is_einval => (|u| u.call(nr::WAITID, &[0, 0, 0, u64::from(w::WNOHANG), 0]), Errno::EINVAL);
    waitid_with_an_unknown_option_is_einval => (|u| u.call(nr::WAITID, &[0, 0, 0, u64::from(w::WEXITED) | 0x10, 0]), Errno::EINVAL);
    waitid_checks_options_before_the_kind => (|u| u.call(nr::WAITID, &[9, 0, 0, 0, 0]), Errno::EINVAL);
}

#[test]
fn waitid_needs_no_info() {
    story(|init| {
        let pid = init.fork(|_| 4);
        assert_eq!(init.call(nr::WAITID, &[1, pid as u64, 0, u64::from(w::WEXITED), 0]), Ok(0));
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

#[test]
fn waitid_clears_the_info_when_there_is_nothing_and_when_it_fails() {
    story(|init| {
        let pid = sleeper(init);
        let stale = SigInfo::child(CLD_EXITED, 99, 98, 97);
        for (kind, id) in [(w::P_PID, pid), (w::P_PID, 30_000)] {
            init.scoped(|user| {
                let at = user.push(zerocopy::IntoBytes::as_bytes(&stale));
                let options = u64::from(w::WEXITED | w::WNOHANG);
                let _ = user.call(nr::WAITID, &[u64::from(kind), id as u64, at, options, 0]);
                let info: SigInfo = user.load(at);
                assert_eq!((info.signal(), info.pid()), (0, 0));
            });
        }
        end(init, pid);
    });
}

#[test]
fn bad_pointers_of_waitid_are_efault() {
    story(|init| {
        let first = init.fork(|_| 4);
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.call(nr::WAITID, &[1, first as u64, 8, u64::from(w::WEXITED), 0]), Err(Errno::EFAULT));
        let second = init.fork(|_| 4);
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.call(nr::WAITID, &[1, second as u64, 0, u64::from(w::WEXITED), 8]), Err(Errno::EFAULT));
        // As on Linux, both are gone all the same.
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}
