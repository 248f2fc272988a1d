//! Races of fork, exit, wait, signals, stops, exec and kill on four CPUs that change places at random points of the kernel.
//! Each seed is printed before it runs. A lost wake-up leaves somebody asleep, and the machine gets stuck; what is left over
//! in memory is counted in frames.

use std::cell::Cell;
use std::rc::Rc;

use abi::prctl::{PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG};
use abi::signal::{
    SA_NOCLDWAIT, SI_QUEUE, SIG_BLOCK, SIG_SETMASK, SIGALRM, SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGTSTP,
    SIGUSR1, SIGUSR2, SigInfo,
};
use abi::{Errno, nr, wait as w};
use hal::hosted::User;
use kcore::testing::{Libc, Machine, free_frames};

use crate::{Diary, MS, bit};

/// Runs `story` on four CPUs with many seeds.
fn race(seeds: u64, story: impl Fn(&mut User, u64) + Clone + 'static) {
    for seed in 0..seeds * crate::rounds() {
        eprintln!("seed {seed}");
        let mut machine = Machine::interleaved(4, seed);
        machine.program("/bin/seven", |user| {
            user.compute(5_000);
            7
        });
        let story = story.clone();
        machine.run(move |init| story(init, seed));
    }
}

/// Random numbers of a program.
#[derive(Clone)]
struct Dice(Rc<Cell<u64>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Rc::new(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)))
    }

    fn roll(&self, n: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        (x >> 11) % n
    }
}

/// Waits for every child; a stopped one is continued.
fn reap_all(user: &mut User) {
    loop {
        match user.wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return assert_eq!(error, Errno::ECHILD),
        }
    }
}

fn nap(user: &mut User, ns: u64) {
    let _ = user.sleep_ns(ns);
}

/// Processes that do to each other what processes can, at random; at the end init kills and reaps all, and the frames that
/// were free before are free again.
#[test]
fn a_crowd_that_does_everything_at_random_leaves_nothing_behind() {
    race(12, |init, seed| {
        let dice = Dice::new(seed);
        let crowd: Rc<Cell<[i32; 8]>> = Rc::default();
        let round = |init: &mut User| {
            for n in 0..6 {
                let (dice, all) = (dice.clone(), crowd.clone());
                let pid = init.fork(move |child| live(child, &dice, &all));
                let mut pids = crowd.get();
                pids[n] = pid;
                crowd.set(pids);
            }
            nap(init, 3 * MS);
            // Whoever is left: orphans come to init while it kills, so until there is none.
            loop {
                let killed = init.kill(-1, SIGKILL);
                while let Ok(Some(_)) = init.wait4(-1, w::WNOHANG | w::__WALL) {}
                if init.wait4(-1, w::WNOHANG | w::__WALL) == Err(Errno::ECHILD) {
                    assert_eq!(killed, Ok(()));
                    break;
                }
                nap(init, MS);
            }
            nap(init, 5 * MS);
        };
        round(init);
        let before = free_frames();
        round(init);
        let after = free_frames();
        assert!(after + 4 >= before, "{before} frames free before, {after} after");
    });
}

fn live(me: &mut User, dice: &Dice, all: &Rc<Cell<[i32; 8]>>) -> i32 {
    me.on(SIGUSR1, 0, |_| {});
    me.on(SIGCHLD, 0, |_| {});
    for _ in 0..25 {
        let other = all.get()[dice.roll(6) as usize];
        let signal = [0, SIGUSR1, SIGUSR2, SIGSTOP, SIGCONT, SIGCONT, SIGTERM, SIGKILL, 40][dice.roll(9) as usize];
        match dice.roll(16) {
            0..=2 => {
                let dice = dice.clone();
                let _ = me.try_fork(move |child| {
                    child.compute(dice.roll(20_000));
                    i32::try_from(dice.roll(3)).unwrap()
                });
            }
            3..=5 if other > 1 => {
                let _ = me.kill(other, signal);
            }
            6 | 7 => drop(me.wait4(-1, w::WNOHANG | w::WUNTRACED | w::WCONTINUED)),
            8 => {
                let dice = dice.clone();
                me.thread(move |thread| {
                    thread.compute(dice.roll(30_000));
                    if dice.roll(4) == 0 {
                        thread.exit(1);
                    }
                    0
                });
            }
            9 => nap(me, dice.roll(200_000)),
            10 => me.compute(dice.roll(50_000)),
            11 => {
                let _ = me.setpgid(0, 0);
            }
            12 if dice.roll(4) == 0 => drop(me.try_exec("/bin/seven", &["seven"])),
            13 => {
                me.vfork(|_| 0);
            }
            14 => drop(me.sigtimedwait(bit(40), 10_000)),
            _ => me.sched_yield(),
        }
    }
    if dice.roll(2) == 0 { me.exit_thread(2) } else { 3 }
}

#[test]
fn of_two_waiters_for_one_child_one_gets_it() {
    race(12, |init, _| {
        for _ in 0..4 {
            let child = init.fork(|child| {
                child.compute(3_000);
                5
            });
            let got = Rc::new(Cell::new(0));
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let got = got.clone();
                    init.thread(move |thread| {
                        match thread.wait4(child, 0) {
                            Ok(waited) => {
                                assert_eq!(waited.unwrap().status.exit_code(), Some(5));
                                got.set(got.get() + 1);
                            }
                            Err(error) => assert_eq!(error, Errno::ECHILD),
                        }
                        0
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| init.join(thread));
            assert_eq!(got.get(), 1);
        }
    });
}

#[test]
fn of_two_waiters_for_one_stop_one_gets_it() {
    race(12, |init, _| {
        let child = init.fork(|child| {
            loop {
                child.pause();
            }
        });
        let got = Rc::new(Cell::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let got = got.clone();
                init.thread(move |thread| {
                    for _ in 0..20 {
                        if let Ok(Some(_)) = thread.wait4(child, w::WUNTRACED | w::WNOHANG) {
                            got.set(got.get() + 1);
                        }
                        nap(thread, 10_000);
                    }
                    0
                })
            })
            .collect();
        init.kill(child, SIGSTOP).unwrap();
        threads.into_iter().for_each(|thread| init.join(thread));
        assert_eq!(got.get(), 1);
        init.kill(child, SIGKILL).unwrap();
        init.wait_for(child);
    });
}

#[test]
fn parent_and_child_that_end_together_leave_the_grandchild_to_init() {
    race(12, |init, _| {
        for _ in 0..3 {
            init.fork(|parent| {
                parent.fork(|child| {
                    child.fork(|grandchild| {
                        grandchild.compute(2_000);
                        0
                    });
                    child.compute(1_000);
                    0
                });
                parent.compute(1_000);
                0
            });
        }
        for _ in 0..9 {
            init.wait().unwrap();
        }
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

#[test]
fn children_of_a_dying_subreaper_are_all_reaped_once() {
    race(10, |init, _| {
        let reaper = init.fork(|reaper| {
            reaper.call(nr::PRCTL, &[u64::from(PR_SET_CHILD_SUBREAPER), 1]).unwrap();
            for _ in 0..3 {
                reaper.fork(|middle| {
                    middle.fork(|leaf| {
                        leaf.compute(4_000);
                        0
                    });
                    0
                });
            }
            reaper.compute(3_000);
            0
        });
        init.wait_for(reaper);
        reap_all(init);
    });
}

#[test]
fn children_that_reap_themselves_and_waits_do_not_meet() {
    race(10, |init, _| {
        init.on(SIGCHLD, SA_NOCLDWAIT | abi::signal::SA_RESTART, |_| {});
        for n in 0..6 {
            init.fork(move |child| {
                child.compute(n * 2_000);
                0
            });
        }
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

#[test]
fn threads_that_are_made_while_the_process_exits_are_gone_with_it() {
    race(12, |init, _| {
        let child = init.fork(|leader| {
            for _ in 0..2 {
                leader.thread(|maker| {
                    loop {
                        maker.thread(|thread| {
                            thread.compute(1_000);
                            0
                        });
                        maker.compute(500);
                    }
                });
            }
            leader.compute(10_000);
            leader.exit(4)
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(4));
    });
}

#[test]
fn of_exit_groups_on_all_cpus_one_code_wins() {
    race(12, |init, _| {
        let child = init.fork(|leader| {
            for code in 1..4 {
                leader.thread(move |thread| thread.exit(code));
            }
            leader.exit(0)
        });
        assert!(matches!(init.wait_for(child).exit_code(), Some(0..=3)));
    });
}

#[test]
fn a_kill_meets_an_exec_of_a_thread() {
    race(12, |init, seed| {
        let child = init.fork(|leader| {
            for n in 0..2 {
                leader.thread(move |thread| {
                    thread.compute(n * 3_000);
                    thread.exec("/bin/seven", &["seven"])
                });
            }
            loop {
                leader.compute(1_000);
            }
        });
        init.compute(seed * 1_500 % 40_000);
        init.kill(child, SIGKILL).unwrap();
        let status = init.wait_for(child);
        assert!(status.killed_by() == Some(SIGKILL) || status.exit_code() == Some(7), "{status:?}");
    });
}

#[test]
fn of_two_execs_one_wins_and_the_other_threads_are_gone() {
    race(12, |init, _| {
        let child = init.fork(|leader| {
            for _ in 0..3 {
                leader.thread(|thread| thread.exec("/bin/seven", &["seven"]));
            }
            loop {
                leader.pause();
            }
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(7));
    });
}

#[test]
fn a_stop_meets_an_exec_and_the_continue_ends_it() {
    race(12, |init, seed| {
        let child = init.fork(|leader| {
            leader.thread(|thread| thread.exec("/bin/seven", &["seven"]));
            loop {
                leader.compute(1_000);
            }
        });
        init.compute(seed * 700 % 20_000);
        init.kill(child, SIGSTOP).unwrap();
        init.compute(5_000);
        init.kill(child, SIGCONT).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(7));
    });
}

#[test]
fn stops_and_continues_from_two_sides_lose_nobody() {
    race(10, |init, _| {
        let child = init.fork(|leader| {
            for _ in 0..2 {
                leader.thread(|thread| {
                    for _ in 0..20 {
                        thread.compute(1_000);
                        thread.sched_yield();
                    }
                    0
                });
            }
            for _ in 0..20 {
                leader.compute(1_000);
                nap(leader, 1_000);
            }
            leader.sleep_ns(MS).ok();
            6
        });
        let threads: Vec<_> = [SIGSTOP, SIGCONT, SIGTSTP]
            .into_iter()
            .map(|signal| {
                init.thread(move |thread| {
                    for _ in 0..8 {
                        let _ = thread.kill(child, signal);
                        thread.compute(1_500);
                    }
                    0
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| init.join(thread));
        init.kill(child, SIGCONT).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(6));
    });
}

#[test]
fn a_kill_of_a_stopping_process_is_the_end() {
    race(12, |init, _| {
        let child = init.fork(|leader| {
            for _ in 0..3 {
                leader.thread(|thread| {
                    loop {
                        thread.compute(1_000);
                    }
                });
            }
            loop {
                leader.pause();
            }
        });
        init.compute(3_000);
        let stopper = init.thread(move |thread| thread.kill(child, SIGSTOP).map_or(1, |()| 0));
        init.kill(child, SIGKILL).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGKILL));
        init.join(stopper);
    });
}

#[test]
fn a_thread_that_exits_while_its_process_stops_does_not_hold_the_stop_up() {
    race(12, |init, _| {
        let child = init.fork(|leader| {
            for n in 0..3 {
                leader.thread(move |thread| {
                    thread.compute(n * 1_500);
                    0
                });
            }
            loop {
                leader.pause();
            }
        });
        init.compute(2_000);
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(init.wait4(child, w::WUNTRACED).unwrap().unwrap().status.stopped_by(), Some(SIGSTOP));
        init.kill(child, SIGKILL).unwrap();
        init.wait_for(child);
    });
}

#[test]
fn no_child_escapes_a_kill_of_its_group() {
    race(12, |init, _| {
        let group = init.fork(|leader| {
            leader.setpgid(0, 0).unwrap();
            leader.ignore(SIGCHLD);
            // Two that fork and leave their place to the child.
            for _ in 0..2 {
                leader.fork(|runner| hop(runner, 40));
            }
            loop {
                leader.pause();
            }
        });
        nap(init, 30_000);
        let _ = init.setpgid(group, group);
        init.kill(-group, SIGKILL).unwrap();
        // One kill reached every member: nobody is left to be asked.
        reap_all(init);
        assert_eq!(init.kill(-group, 0), Err(Errno::ESRCH));
    });
}

fn hop(user: &mut User, left: i32) -> i32 {
    if left > 0 && user.try_fork(move |child| hop(child, left - 1)).is_err() {
        return 1;
    }
    0
}

#[test]
fn no_child_escapes_a_stop_of_its_group() {
    race(12, |init, _| {
        let diary = Diary::default();
        let inner = diary.clone();
        let group = init.fork(move |leader| {
            leader.setpgid(0, 0).unwrap();
            let diary = inner.clone();
            leader.fork(move |forker| {
                loop {
                    let diary = diary.clone();
                    let child = forker.fork(move |child| {
                        child.compute(500);
                        diary.note("ran");
                        0
                    });
                    forker.wait_for(child);
                }
            });
            loop {
                leader.pause();
            }
        });
        nap(init, 50_000);
        init.kill(-group, SIGSTOP).unwrap();
        nap(init, MS);
        let ran = diary.entries().len();
        nap(init, MS);
        assert_eq!(diary.entries().len(), ran, "somebody runs although the group is stopped");
        init.kill(-group, SIGKILL).unwrap();
        reap_all(init);
    });
}

#[test]
fn queued_values_of_three_senders_all_arrive_each_in_order() {
    race(8, |init, _| {
        init.sigprocmask(SIG_SETMASK, bit(40));
        let senders: Vec<i32> = (0..3)
            .map(|n| {
                init.fork(move |child| {
                    for value in 0..20 {
                        let info = SigInfo::child_with(40, SI_QUEUE, n, 0, value);
                        child.call_with(nr::RT_SIGQUEUEINFO, &[1, 40], &info, &[]).unwrap();
                    }
                    0
                })
            })
            .collect();
        let mut next = [0; 3];
        for _ in 0..60 {
            let info = init.sigtimedwait(bit(40), 60_000 * MS).unwrap();
            let sender = usize::try_from(info.pid()).unwrap();
            assert_eq!(info.status(), next[sender]);
            next[sender] += 1;
        }
        senders.into_iter().for_each(|pid| assert_eq!(init.wait_for(pid).exit_code(), Some(0)));
    });
}

#[test]
fn a_timed_wait_for_a_signal_takes_it_or_leaves_it_pending() {
    race(12, |init, seed| {
        init.sigprocmask(SIG_SETMASK, bit(SIGUSR1));
        for n in 0..5 {
            let child = init.fork(move |child| {
                child.compute((seed * 300 + n * 700) % 12_000);
                child.kill(1, SIGUSR1).map_or(1, |()| 0)
            });
            let taken = init.sigtimedwait(bit(SIGUSR1), 6_000).is_ok();
            init.wait_for(child);
            let left = init.sigtimedwait(bit(SIGUSR1), 0).is_ok();
            assert!(taken != left, "taken {taken}, left {left}");
        }
    });
}

#[test]
fn an_alarm_always_ends_a_sigsuspend() {
    race(10, |init, seed| {
        let diary = Diary::default();
        let inner = diary.clone();
        init.on(SIGALRM, 0, move |_| inner.note("x"));
        init.sigprocmask(SIG_BLOCK, bit(SIGALRM));
        for n in 1..=5 {
            init.alarm_ns(1_000 + (seed * 1_000) % 9_000);
            init.compute(seed * 400 % 6_000);
            while diary.entries().len() < n {
                init.sigsuspend(0);
            }
        }
    });
}

#[test]
fn a_parents_death_is_never_missed_by_who_looks_after_asking() {
    race(12, |init, _| {
        let diary = Diary::default();
        let inner = diary.clone();
        let parent = init.fork(move |parent| {
            let me = parent.getpid();
            parent.fork(move |child| {
                let note = inner.clone();
                child.on(SIGUSR2, 0, move |_| note.note("told"));
                child.sigprocmask(SIG_BLOCK, bit(SIGUSR2));
                child.call(nr::PRCTL, &[u64::from(PR_SET_PDEATHSIG), u64::from(SIGUSR2)]).unwrap();
                // The way of prctl(2)'s users: ask, then look whether it happened before.
                if child.getppid() == me {
                    child.sigsuspend(0);
                } else {
                    inner.note("saw");
                }
                0
            });
            parent.compute(2_000);
            0
        });
        init.wait_for(parent);
        init.wait().unwrap();
        assert!(!diary.entries().is_empty());
    });
}

#[test]
fn a_vfork_parent_and_its_child_may_be_killed_in_any_order() {
    race(12, |init, seed| {
        let child_pid = Rc::new(Cell::new(0));
        let slot = child_pid.clone();
        let parent = init.fork(move |parent| {
            parent.vfork(move |child| {
                slot.set(child.getpid());
                loop {
                    child.compute(1_000);
                }
            });
            0
        });
        while child_pid.get() == 0 {
            nap(init, 10_000);
        }
        let victims = if seed % 2 == 0 { [parent, child_pid.get()] } else { [child_pid.get(), parent] };
        for pid in victims {
            let _ = init.kill(pid, SIGKILL);
            init.compute(seed % 5 * 500);
        }
        reap_all(init);
    });
}

#[test]
fn a_process_that_changes_its_group_is_signalled_in_one_or_the_other() {
    race(10, |init, _| {
        let child = init.fork(|child| {
            loop {
                child.setpgid(0, 0).unwrap();
                let parent = child.getppid();
                child.setpgid(0, parent).ok();
                child.compute(500);
            }
        });
        nap(init, 20_000);
        // By its number it is always found.
        init.kill(child, SIGTERM).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGTERM));
    });
}

#[test]
fn sigchld_and_the_zombie_come_together() {
    race(10, |init, _| {
        init.sigprocmask(SIG_BLOCK, bit(SIGCHLD));
        for n in 0..6 {
            let child = init.fork(move |child| {
                child.compute(n * 1_000);
                0
            });
            assert_eq!(init.sigtimedwait(bit(SIGCHLD), 60_000 * MS).unwrap().pid(), child);
            // Who hears of it can wait for it without delay.
            assert_eq!(init.wait4(child, w::WNOHANG).unwrap().map(|waited| waited.pid), Some(child));
        }
    });
}

#[test]
fn a_stop_is_told_before_the_continue_that_follows_is_told() {
    race(10, |init, _| {
        let child = init.fork(|child| {
            loop {
                child.compute(500);
            }
        });
        for _ in 0..5 {
            init.kill(child, SIGSTOP).unwrap();
            let first = init.wait4(child, w::WUNTRACED | w::WCONTINUED).unwrap().unwrap();
            assert_eq!(first.status.stopped_by(), Some(SIGSTOP));
            init.kill(child, SIGCONT).unwrap();
            let second = init.wait4(child, w::WUNTRACED | w::WCONTINUED).unwrap().unwrap();
            assert!(second.status.continued());
        }
        init.kill(child, SIGKILL).unwrap();
        init.wait_for(child);
    });
}

#[test]
fn a_pid_is_not_given_out_again_before_it_is_reaped() {
    race(8, |init, _| {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..6 {
            let pids: Vec<i32> = (0..4)
                .map(|n| {
                    init.fork(move |child| {
                        child.compute(n * 700);
                        0
                    })
                })
                .collect();
            for pid in &pids {
                assert!(seen.insert(*pid), "{pid} twice");
            }
            for _ in pids {
                init.wait().unwrap();
            }
        }
    });
}
