//! The scheduling classes: the order of real-time tasks, deadline servers, what the calls accept. sched(7),
//! sched_setattr(2).

use abi::process::{
    SCHED_FLAG_DL_OVERRUN, SCHED_FLAG_KEEP_PARAMS, SCHED_FLAG_KEEP_POLICY, SCHED_FLAG_RESET_ON_FORK, SchedAttr,
};
use abi::resource::{RLIMIT_NICE, RLIMIT_RTPRIO, Rlimit};
use abi::sched::{
    SCHED_BATCH, SCHED_DEADLINE, SCHED_FIFO, SCHED_IDLE, SCHED_OTHER, SCHED_RESET_ON_FORK, SCHED_RR, SchedParam,
};
use abi::signal::SIGKILL;
use abi::{Errno, nr, time};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};
use std::cell::Cell;
use std::rc::Rc;

use crate::{Diary, MS, story};

fn set_scheduler(user: &mut User, pid: i32, policy: u32, priority: i32) -> Result<u64, Errno> {
    let param = SchedParam { sched_priority: priority };
    let arguments = [u64::from(pid.cast_unsigned()), u64::from(policy)];
    user.call_with(nr::SCHED_SETSCHEDULER, &arguments, &param, &[]).map(|(result, _)| result)
}

fn set_attr(user: &mut User, attr: SchedAttr) -> Result<u64, Errno> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..attr };
    user.call_with(nr::SCHED_SETATTR, &[0], &attr, &[0]).map(|(result, _)| result)
}

fn get_attr(user: &mut User) -> SchedAttr {
    user.call_with(nr::SCHED_GETATTR, &[0], &SchedAttr::default(), &[56, 0]).unwrap().1
}

fn deadline(runtime: u64, deadline: u64, period: u64) -> SchedAttr {
    SchedAttr {
        sched_policy: SCHED_DEADLINE,
        sched_runtime: runtime,
        sched_deadline: deadline,
        sched_period: period,
        ..SchedAttr::default()
    }
}

fn now(user: &mut User) -> u64 {
    user.clock_ns(time::CLOCK_MONOTONIC)
}

/// `init` becomes more urgent than the real-time tasks of these tests, and its children ordinary tasks that do not run
/// before it sleeps.
fn rule(init: &mut User) {
    set_scheduler(init, 0, SCHED_FIFO | SCHED_RESET_ON_FORK, 50).unwrap();
}

/// A task of `priority` that computes for `turns` times 10 ms and says when it begins and ends.
fn worker(init: &mut User, diary: &Diary, name: &'static str, policy: u32, priority: i32, turns: u32) -> i32 {
    let diary = diary.clone();
    let pid = init.fork(move |child| {
        diary.note(format!("{name} begins"));
        for _ in 0..turns {
            child.compute(10 * MS);
        }
        diary.note(format!("{name} ends"));
        0
    });
    set_scheduler(init, pid, policy, priority).unwrap();
    pid
}

#[test]
fn the_higher_priority_runs_to_its_end() {
    story(|init| {
        let diary = Diary::default();
        rule(init);
        for (name, priority) in [("low", 10), ("high", 20), ("middle", 15)] {
            worker(init, &diary, name, SCHED_FIFO, priority, 3);
        }
        init.sleep_ns(500 * MS).unwrap();
        while init.wait().is_ok() {}
        let expected = ["high begins", "high ends", "middle begins", "middle ends", "low begins", "low ends"];
        assert_eq!(diary.entries(), expected);
    });
}

#[test]
fn fifo_tasks_of_one_priority_do_not_take_turns_and_round_robin_tasks_do() {
    for (policy, alternations) in [(SCHED_FIFO, 1), (SCHED_RR, 5)] {
        story(move |init| {
            rule(init);
            let last = Rc::new(Cell::new(0));
            let changes = Rc::new(Cell::new(0));
            for number in 1..=2 {
                let (last, changes) = (last.clone(), changes.clone());
                let pid = init.fork(move |child| {
                    for _ in 0..29 {
                        child.compute(10 * MS);
                        if last.replace(number) != number {
                            changes.set(changes.get() + 1);
                        }
                    }
                    0
                });
                set_scheduler(init, pid, policy, 10).unwrap();
            }
            init.sleep_ns(900 * MS).unwrap();
            // 290 ms each in slices of 100 ms: 1 2 1 2 1 2.
            assert_eq!(changes.get() - 1, alternations, "policy {policy}");
            while init.wait().is_ok() {}
        });
    }
}

#[test]
fn a_real_time_task_that_yields_goes_behind_its_peers() {
    story(|init| {
        rule(init);
        let diary = Diary::default();
        for name in ["a", "b"] {
            let diary = diary.clone();
            let pid = init.fork(move |child| {
                for _ in 0..3 {
                    diary.note(name);
                    child.sched_yield();
                }
                0
            });
            set_scheduler(init, pid, SCHED_FIFO, 10).unwrap();
        }
        init.sleep_ns(10 * MS).unwrap();
        while init.wait().is_ok() {}
        assert_eq!(diary.entries(), ["a", "b", "a", "b", "a", "b"]);
    });
}

#[test]
fn a_preempted_fifo_task_goes_on_before_its_peers() {
    story(|init| {
        rule(init);
        let diary = Diary::default();
        worker(init, &diary, "first", SCHED_FIFO, 10, 10);
        worker(init, &diary, "second", SCHED_FIFO, 10, 1);
        // Each sleep of init, which is more urgent, preempts the first one.
        for _ in 0..8 {
            init.sleep_ns(5 * MS).unwrap();
        }
        while init.wait().is_ok() {}
        assert_eq!(diary.entries(), ["first begins", "first ends", "second begins", "second ends"]);
    });
}

#[test]
fn fair_tasks_get_what_the_real_time_share_leaves() {
    story(|init| {
        let counts: Vec<Rc<Cell<u64>>> = (0..2).map(|_| Rc::new(Cell::new(0))).collect();
        rule(init);
        let pids: Vec<i32> = [(SCHED_FIFO, 10), (SCHED_OTHER, 0)]
            .into_iter()
            .zip(&counts)
            .map(|((policy, priority), count)| {
                let count = count.clone();
                let pid = init.fork(move |child| {
                    loop {
                        child.compute(MS);
                        count.set(count.get() + 1);
                    }
                });
                set_scheduler(init, pid, policy, priority).unwrap();
                pid
            })
            .collect();
        init.sleep_ns(10_000 * MS).unwrap();
        let shares: Vec<u64> = counts.iter().map(|count| count.get()).collect();
        for pid in pids {
            init.kill(pid, SIGKILL).unwrap();
            init.wait_for(pid);
        }
        // 950 ms of each second.
        assert!((9_400..=9_560).contains(&shares[0]), "{shares:?}");
        assert!((400..=600).contains(&shares[1]), "{shares:?}");
    });
}

/// What a deadline task that computes all the time gets, and in how many of the periods it got its runtime in time.
fn served(runtime: u64, period: u64, ns: u64, hogs: usize) -> (u64, u64) {
    let result = Rc::new(Cell::new((0, 0)));
    let outer = result.clone();
    story(move |init| {
        let others: Vec<i32> = (0..hogs)
            .map(|_| {
                init.fork(|child| {
                    loop {
                        child.compute(MS);
                    }
                })
            })
            .collect();
        let inner = outer.clone();
        let pid = init.fork(move |child| {
            set_attr(child, deadline(runtime, period, period)).unwrap();
            let begin = now(child);
            let (mut used, mut in_time) = (0, 0);
            while now(child) - begin < ns {
                child.compute(runtime / 10);
                used += runtime / 10;
                // At the end of period n it must have had n runtimes, but for what its way of counting loses (see the callers).
                let periods = (now(child) - begin) / period;
                if used + 2 * runtime >= periods * runtime {
                    in_time += 1;
                }
                inner.set((used, in_time));
            }
            0
        });
        init.wait_for(pid);
        for pid in others {
            init.kill(pid, SIGKILL).unwrap();
            init.wait_for(pid);
        }
    });
    result.get()
}

#[test]
fn a_deadline_task_gets_its_runtime_in_each_period_and_never_more() {
    for (runtime, period, hogs) in [(10, 100, 0), (10, 100, 5), (30, 40, 3), (3, 10, 2), (1, 5, 20)] {
        let (runtime, period) = (runtime * MS, period * MS);
        let length = 100 * period;
        let (used, in_time) = served(runtime, period, length, hogs);
        let due = length / period * runtime;
        assert!(used <= due + 2 * runtime, "{used} of {due}");
        assert!(used + 2 * runtime >= due, "{used} of {due}");
        assert!(in_time * (runtime / 10) >= used - used / 50, "{in_time} looks in time, {used} used");
    }
}

#[test]
fn the_earlier_deadline_goes_first() {
    story(|init| {
        let diary = Diary::default();
        rule(init);
        let go = now(init) + 200 * MS;
        for (name, period) in [("late", 100), ("soon", 50)] {
            let diary = diary.clone();
            init.fork(move |child| {
                set_attr(child, deadline(20 * MS, period * MS, period * MS)).unwrap();
                // Both begin a period at the same moment: a sleep ends for both.
                let left = go - now(child);
                child.sleep_ns(left).unwrap();
                child.compute(15 * MS);
                diary.note(format!("{name} ends"));
                0
            });
        }
        while init.wait().is_ok() {}
        assert_eq!(diary.entries(), ["soon ends", "late ends"]);
    });
}

#[test]
fn a_deadline_task_that_yields_gets_the_next_period() {
    story(|init| {
        set_attr(init, deadline(10 * MS, 50 * MS, 50 * MS)).unwrap();
        let begin = now(init);
        for turn in 1..5 {
            init.compute(MS);
            init.sched_yield();
            let at = now(init) - begin;
            assert!((turn * 50 * MS - MS..turn * 50 * MS + MS).contains(&at), "turn {turn}: {at}");
        }
    });
}

#[test]
fn deadline_tasks_are_let_in_up_to_the_real_time_share() {
    Machine::with_cpus(2).run(|init| {
        // 1.9 CPUs are to be had.
        for (percent, expected) in [(90, Ok(0)), (90, Ok(0)), (20, Err(Errno::EBUSY)), (9, Ok(0))] {
            init.fork(move |child| {
                let result = set_attr(child, deadline(percent * MS, 100 * MS, 100 * MS));
                assert_eq!(result, expected, "{percent} %");
                child.sleep_ns(300 * MS).unwrap();
                0
            });
            init.sleep_ns(20 * MS).unwrap();
        }
        while let Ok(ended) = init.wait() {
            assert_eq!(ended.status.exit_code(), Some(0));
        }
        // What has ended takes no room.
        assert_eq!(set_attr(init, deadline(90 * MS, 100 * MS, 100 * MS)), Ok(0));
        assert_eq!(set_scheduler(init, 0, SCHED_OTHER, 0), Ok(0));
        assert_eq!(set_attr(init, deadline(95 * MS, 100 * MS, 100 * MS)), Ok(0));
    });
}

#[test]
fn deadlines_that_cannot_be_meant_are_einval() {
    story(|init| {
        for (runtime, relative, period) in [
            (0, 10 * MS, 10 * MS),
            (1023, 10 * MS, 10 * MS),
            (MS, 0, 10 * MS),
            (20 * MS, 10 * MS, 30 * MS),
            (MS, 20 * MS, 10 * MS),
            (MS, 1 << 63, 1 << 63),
            (2000, 50_000, 50_000),
            (MS, 5_000 * MS, 5_000 * MS),
        ] {
            let result = set_attr(init, deadline(runtime, relative, period));
            assert_eq!(result, Err(Errno::EINVAL), "{runtime} {relative} {period}");
        }
        assert_eq!(set_attr(init, deadline(MS, 10 * MS, 0)), Ok(0));
        assert_eq!(get_attr(init).sched_period, 10 * MS);
    });
}

#[test]
fn a_deadline_task_forks_only_with_reset_on_fork() {
    story(|init| {
        set_attr(init, deadline(5 * MS, 10 * MS, 10 * MS)).unwrap();
        assert_eq!(init.try_fork(|_| 0).err(), Some(Errno::EAGAIN));
        set_attr(init, SchedAttr { sched_flags: SCHED_FLAG_RESET_ON_FORK, ..deadline(5 * MS, 10 * MS, 10 * MS) })
            .unwrap();
        let child = init.fork(|child| child.call(nr::SCHED_GETSCHEDULER, &[0]).unwrap() as i32);
        assert_eq!(init.wait_for(child).exit_code(), Some(SCHED_OTHER as i32));
    });
}

#[test]
fn a_deadline_task_keeps_all_cpus_and_one_without_all_cannot_be_one() {
    Machine::with_cpus(2).run(|init| {
        init.call_with(nr::SCHED_SETAFFINITY, &[0, 8], &1u64, &[]).unwrap();
        assert_eq!(set_attr(init, deadline(MS, 10 * MS, 10 * MS)), Err(Errno::EPERM));
        init.call_with(nr::SCHED_SETAFFINITY, &[0, 8], &3u64, &[]).unwrap();
        assert_eq!(set_attr(init, deadline(MS, 10 * MS, 10 * MS)), Ok(0));
        assert_eq!(init.call_with(nr::SCHED_SETAFFINITY, &[0, 8], &1u64, &[]).err(), Some(Errno::EBUSY));
    });
}

#[test]
fn reset_on_fork_gives_the_child_an_ordinary_policy_once() {
    for (policy, priority, nice, expected) in [
        (SCHED_FIFO, 10, -5, (SCHED_OTHER, 0)),
        (SCHED_RR, 10, 5, (SCHED_OTHER, 0)),
        (SCHED_OTHER, 0, -5, (SCHED_OTHER, 0)),
        (SCHED_BATCH, 0, 7, (SCHED_BATCH, 7)),
    ] {
        story(move |init| {
            init.call(nr::SETPRIORITY, &[0, 0, i64::from(nice).cast_unsigned()]).unwrap();
            set_scheduler(init, 0, policy | SCHED_RESET_ON_FORK, priority).unwrap();
            assert_eq!(init.call(nr::SCHED_GETSCHEDULER, &[0]), Ok((policy | SCHED_RESET_ON_FORK) as u64));
            let child = init.fork(move |child| {
                // The flag itself is not inherited.
                assert_eq!(child.call(nr::SCHED_GETSCHEDULER, &[0]), Ok(u64::from(expected.0)));
                assert_eq!(child.call(nr::GETPRIORITY, &[0, 0]), Ok(20 - expected.1));
                0
            });
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
        });
    }
}

#[test]
fn users_need_limits_for_urgency() {
    story(|init| {
        let limits = |user: &mut User, resource: u32, limit: u64| {
            let limit = Rlimit { rlim_cur: limit, rlim_max: limit };
            user.call_with(nr::PRLIMIT64, &[0, u64::from(resource)], &limit, &[0]).unwrap();
        };
        limits(init, RLIMIT_RTPRIO, 10);
        limits(init, RLIMIT_NICE, 25);
        let child = init.fork(|user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(set_scheduler(user, 0, SCHED_FIFO, 11), Err(Errno::EPERM));
            assert_eq!(set_scheduler(user, 0, SCHED_FIFO, 10), Ok(0));
            assert_eq!(set_scheduler(user, 0, SCHED_RR, 5), Ok(0));
            assert_eq!(set_scheduler(user, 1, SCHED_OTHER, 0), Err(Errno::EPERM));
            assert_eq!(set_attr(user, deadline(MS, 10 * MS, 10 * MS)), Err(Errno::EPERM));
            assert_eq!(set_scheduler(user, 0, SCHED_RR | SCHED_RESET_ON_FORK, 5), Ok(0));
            assert_eq!(set_scheduler(user, 0, SCHED_RR, 5), Err(Errno::EPERM));
            assert_eq!(user.call(nr::SETPRIORITY, &[0, 0, (-5i64).cast_unsigned()]), Ok(0));
            assert_eq!(user.call(nr::SETPRIORITY, &[0, 0, (-6i64).cast_unsigned()]), Err(Errno::EACCES));
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn idle_is_left_with_permission_only() {
    story(|init| {
        let child = init.fork(|user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(set_scheduler(user, 0, SCHED_IDLE, 0), Ok(0));
            assert_eq!(set_scheduler(user, 0, SCHED_OTHER, 0), Err(Errno::EPERM));
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn attributes_come_back_as_they_were_set() {
    story(|init| {
        set_attr(init, SchedAttr { sched_policy: SCHED_BATCH, sched_nice: 7, ..SchedAttr::default() }).unwrap();
        let attr = get_attr(init);
        assert_eq!((attr.size, attr.sched_policy, attr.sched_nice, attr.sched_priority), (56, SCHED_BATCH, 7, 0));
        set_attr(init, SchedAttr { sched_policy: SCHED_RR, sched_priority: 3, ..SchedAttr::default() }).unwrap();
        let keep = SCHED_FLAG_KEEP_POLICY | SCHED_FLAG_KEEP_PARAMS;
        set_attr(init, SchedAttr { sched_flags: keep, ..SchedAttr::default() }).unwrap();
        let attr = get_attr(init);
        assert_eq!((attr.sched_policy, attr.sched_priority), (SCHED_RR, 3));
        let flags = SCHED_FLAG_DL_OVERRUN | SCHED_FLAG_RESET_ON_FORK;
        set_attr(init, SchedAttr { sched_flags: flags, ..deadline(MS, 5 * MS, 10 * MS) }).unwrap();
        let attr = get_attr(init);
        assert_eq!(attr.sched_flags, flags);
        assert_eq!((attr.sched_runtime, attr.sched_deadline, attr.sched_period), (MS, 5 * MS, 10 * MS));
    });
}

#[test]
fn a_structure_of_another_size_is_answered_with_ours() {
    story(|init| {
        for size in [1u32, 47, 5000] {
            let attr = SchedAttr { size, ..SchedAttr::default() };
            let result = init.scoped(|user| {
                let at = user.push(zerocopy::IntoBytes::as_bytes(&attr));
                let result = user.call(nr::SCHED_SETATTR, &[0, at, 0]);
                (result, user.read::<u32>(at))
            });
            assert_eq!(result, (Err(Errno::E2BIG), 56), "{size}");
        }
        let attr = SchedAttr { size: 0, ..SchedAttr::default() };
        assert!(init.call_with(nr::SCHED_SETATTR, &[0], &attr, &[0]).is_ok());
        for size in [0, 47, 4097] {
            let result = init.call_with(nr::SCHED_GETATTR, &[0], &attr, &[size, 0]);
            assert_eq!(result.err(), Some(Errno::EINVAL), "{size}");
        }
    });
}
