//! Scheduling: fair shares, weights, affinity, latency.

use std::cell::Cell;
use std::rc::Rc;

use abi::signal::SIGKILL;
use abi::{Errno, nr, time};
use hal::hosted::{Config, Tlb, User};
use kcore::testing::{Libc, Machine};

use crate::{Diary, MS, story};

/// Computes until it is killed, counting milliseconds.
fn hog(init: &mut User, nice: i32, affinity: Option<u64>) -> (i32, Rc<Cell<u64>>) {
    let count = Rc::new(Cell::new(0));
    let counter = count.clone();
    let pid = init.fork(move |child| {
        if nice != 0 {
            child.call(nr::SETPRIORITY, &[0, 0, nice as u64]).unwrap();
        }
        if let Some(mask) = affinity {
            child.call_with(nr::SCHED_SETAFFINITY, &[0, 8], &mask, &[]).unwrap();
        }
        loop {
            child.compute(MS / 2);
            counter.set(counter.get() + 1);
        }
    });
    (pid, count)
}

/// Lets them run for `ns` and returns their counts.
fn measure(init: &mut User, hogs: Vec<(i32, Rc<Cell<u64>>)>, ns: u64) -> Vec<u64> {
    init.sleep_ns(ns / 4).unwrap();
    let before: Vec<u64> = hogs.iter().map(|(_, count)| count.get()).collect();
    init.sleep_ns(ns).unwrap();
    let after: Vec<u64> = hogs.iter().map(|(_, count)| count.get()).collect();
    for (pid, _) in hogs {
        init.kill(pid, SIGKILL).unwrap();
        assert_eq!(init.wait_for(pid).killed_by(), Some(SIGKILL));
    }
    after.iter().zip(before).map(|(after, before)| after - before).collect()
}

fn assert_equal(shares: &[u64], percent: u64) {
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(*least > 0 && most - least <= most * percent / 100, "unequal shares {shares:?}");
}

#[test]
fn equal_tasks_get_equal_shares_on_one_cpu() {
    story(|init| {
        let hogs = (0..5).map(|_| hog(init, 0, None)).collect();
        assert_equal(&measure(init, hogs, 2000 * MS), 10);
    });
}

#[test]
fn equal_tasks_get_equal_shares_on_several_cpus() {
    for (cpus, tasks) in [(2, 2), (2, 4), (4, 4), (4, 8)] {
        Machine::with_cpus(cpus).run(move |init| {
            let hogs = (0..tasks).map(|_| hog(init, 0, None)).collect();
            let shares = measure(init, hogs, 4000 * MS);
            assert_equal(&shares, 25);
        });
    }
}

#[test]
fn five_steps_of_nice_are_a_factor_of_three() {
    story(|init| {
        let hogs = vec![hog(init, 0, None), hog(init, 5, None)];
        let shares = measure(init, hogs, 4000 * MS);
        let ratio = shares[0] as f64 / shares[1] as f64;
        // 1024 / 335 of Linux's sched_prio_to_weight.
        assert!((2.6..3.6).contains(&ratio), "{shares:?}");
    });
}

#[test]
fn a_task_stays_on_the_cpus_it_may_use() {
    Machine::with_cpus(4).run(|init| {
        for cpu in 0..4u64 {
            let child = init.fork(move |child| {
                child.call_with(nr::SCHED_SETAFFINITY, &[0, 8], &(1u64 << cpu), &[]).unwrap();
                for _ in 0..20 {
                    child.compute(MS);
                    let (_, here) = child.call_with(nr::GETCPU, &[], &0u32, &[0, 0]).unwrap();
                    assert_eq!(u64::from(here), cpu);
                    child.sched_yield();
                }
                0
            });
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
        }
        assert_eq!(init.call_with(nr::SCHED_SETAFFINITY, &[0, 8], &0xf0u64, &[]).err(), Some(Errno::EINVAL));
    });
}

#[test]
fn pinned_tasks_share_their_cpu_and_leave_the_others_alone() {
    Machine::with_cpus(2).run(|init| {
        let hogs = vec![hog(init, 0, Some(1)), hog(init, 0, Some(1)), hog(init, 0, Some(2))];
        let shares = measure(init, hogs, 4000 * MS);
        assert_equal(&shares[..2], 15);
        assert!(shares[2] * 10 > (shares[0] + shares[1]) * 9, "{shares:?}");
    });
}

#[test]
fn a_sleeper_wakes_soon_among_busy_tasks() {
    story(|init| {
        let hogs: Vec<_> = (0..4).map(|_| hog(init, 0, None)).collect();
        let mut worst = 0;
        for _ in 0..50 {
            let before = init.clock_ns(time::CLOCK_MONOTONIC);
            init.sleep_ns(5 * MS).unwrap();
            let late = init.clock_ns(time::CLOCK_MONOTONIC) - before - 5 * MS;
            worst = worst.max(late);
        }
        assert!(worst < 12 * MS, "{worst} ns late");
        measure(init, hogs, 10 * MS);
    });
}

#[test]
fn a_yielding_task_lets_the_other_run() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let child = init.fork(move |child| {
            for n in 0..3 {
                inner.note(format!("child {n}"));
                child.sched_yield();
            }
            0
        });
        for n in 0..3 {
            diary.note(format!("init {n}"));
            init.sched_yield();
        }
        init.wait_for(child);
        let entries = diary.entries();
        let switches = entries.windows(2).filter(|pair| pair[0].as_bytes()[0] != pair[1].as_bytes()[0]).count();
        assert!(switches >= 3, "{entries:?}");
    });
}

#[test]
fn cpu_time_is_charged_to_who_used_it() {
    story(|init| {
        let child = init.fork(|child| {
            child.compute(100 * MS);
            let own = child.clock_ns(time::CLOCK_PROCESS_CPUTIME_ID);
            assert!((100 * MS..115 * MS).contains(&own), "{own}");
            0
        });
        init.sleep_ns(10 * MS).unwrap();
        let own = init.clock_ns(time::CLOCK_PROCESS_CPUTIME_ID);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        let later = init.clock_ns(time::CLOCK_PROCESS_CPUTIME_ID);
        assert!(later - own < 5 * MS, "{own} {later}");
    });
}

#[test]
fn sleeping_takes_the_time_it_says() {
    story(|init| {
        for ns in [1, 1000, MS, 100 * MS, 3_600_000 * MS / 60] {
            let before = init.clock_ns(time::CLOCK_MONOTONIC);
            init.sleep_ns(ns).unwrap();
            let slept = init.clock_ns(time::CLOCK_MONOTONIC) - before;
            assert!((ns..ns + MS).contains(&slept), "{ns} {slept}");
        }
        let bad = time::Timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
        assert_eq!(init.call_with(nr::NANOSLEEP, &[], &bad, &[0]).err(), Some(Errno::EINVAL));
        let bad = time::Timespec { tv_sec: -1, tv_nsec: 0 };
        assert_eq!(init.call_with(nr::NANOSLEEP, &[], &bad, &[0]).err(), Some(Errno::EINVAL));
    });
}

#[test]
fn an_absolute_sleep_in_the_past_returns_at_once() {
    story(|init| {
        let past = time::Timespec { tv_sec: 0, tv_nsec: 1 };
        let before = init.clock_ns(time::CLOCK_MONOTONIC);
        init.call_with(nr::CLOCK_NANOSLEEP, &[1, 1], &past, &[0]).unwrap();
        assert!(init.clock_ns(time::CLOCK_MONOTONIC) - before < MS);
    });
}

#[test]
fn users_may_only_become_nicer() {
    story(|init| {
        let child = init.fork(|child| {
            child.call(nr::SETUID, &[1000]).unwrap();
            child.call(nr::SETPRIORITY, &[0, 0, 10]).unwrap();
            assert_eq!(child.call(nr::GETPRIORITY, &[0, 0]), Ok(10));
            assert_eq!(child.call(nr::SETPRIORITY, &[0, 0, 5]), Err(Errno::EACCES));
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_negative_pid_is_nobody_to_the_affinity_calls_and_nonsense_to_the_others() {
    Machine::new().run(|init| {
        let minus_one = (-1_i64).cast_unsigned();
        init.scoped(|user| {
            let mask = user.push(&1_u64.to_ne_bytes());
            assert_eq!(user.call(nr::SCHED_GETAFFINITY, &[minus_one, 8, mask]), Err(Errno::ESRCH));
            assert_eq!(user.call(nr::SCHED_SETAFFINITY, &[minus_one, 8, mask]), Err(Errno::ESRCH));
            assert_eq!(user.call(nr::SCHED_GETSCHEDULER, &[minus_one]), Err(Errno::EINVAL));
            assert_eq!(user.call(nr::SCHED_GETPARAM, &[minus_one, mask]), Err(Errno::EINVAL));
        });
    });
}

#[test]
fn a_throttled_real_time_task_comes_back_though_an_ordinary_one_is_busy() {
    story(|init| {
        let hogs = vec![hog(init, 0, None), hog(init, 0, None)];
        let fifo = abi::sched::SchedParam { sched_priority: 10 };
        let pid = u64::from(hogs[0].0.cast_unsigned());
        init.call_with(nr::SCHED_SETSCHEDULER, &[pid, u64::from(abi::sched::SCHED_FIFO)], &fifo, &[]).unwrap();
        let shares = measure(init, hogs, 10_000 * MS);
        // 950 ms of each second; init is an ordinary task and wakes in what is left. The count is in half milliseconds.
        let percent = shares[0] * 100 / (shares[0] + shares[1]);
        assert!((93..=97).contains(&percent), "{shares:?}");
    });
}

/// Busy tasks of `nices`, free or pinned in turn, share `cpus` CPUs for 10 s. Each gets its weight's share within 2 %, or
/// within one turn where its share is a few turns only.
fn shares_follow_weights(cpus: usize, nices: &[i32], pinned: bool) {
    let tlb = if cpus == 1 { Tlb::Strict } else { Tlb::Hardware };
    let machine = Machine::with(Config { cpus, tlb, ram_bytes: 256 << 20, ..Config::default() });
    let weights: Vec<f64> = nices.iter().map(|nice| kcore::sched::weight::weight_of_nice(*nice) as f64).collect();
    let nices = nices.to_vec();
    machine.run(move |init| {
        let hogs =
            nices.iter().enumerate().map(|(index, nice)| hog(init, *nice, pinned.then_some(1 << (index % cpus))));
        let hogs: Vec<_> = hogs.collect();
        let all = measure(init, hogs, 10_000 * MS);
        for (index, got) in all.iter().enumerate() {
            // Who competes with it, for how many CPUs.
            let is_rival = |other: &usize| !pinned || other % cpus == index % cpus;
            let weight: f64 = (0..weights.len()).filter(is_rival).map(|other| weights[other]).sum();
            let time: u64 = (0..weights.len()).filter(is_rival).map(|other| all[other]).sum();
            // The count is in half milliseconds; the simulated CPUs share the clock.
            let due = time as f64 * weights[index] / weight;
            let allowed = due * 0.02 + 2.0 * TURN_MS;
            assert!((*got as f64 - due).abs() <= allowed, "{index} (nice {}): {got}, due {due}", nices[index]);
        }
    });
}

/// A turn lasts until the first tick after the slice, and half a millisecond may be open at each end, ms.
const TURN_MS: f64 = 5.0;

#[test]
fn shares_follow_weights_on_one_cpu() {
    for nices in [&[0, 5, -5][..], &[19, 0, -20], &[0, 0, 0, 1, 2, 3, 4, 5, 6, 7]] {
        shares_follow_weights(1, nices, false);
    }
}

#[test]
fn shares_follow_weights_of_three_hundred_tasks() {
    let nices: Vec<i32> = (0..300).map(|index| index % 21 - 10).collect();
    shares_follow_weights(1, &nices, false);
}

#[test]
fn shares_follow_weights_of_pinned_tasks_on_two_and_four_cpus() {
    for cpus in [2, 4] {
        let nices: Vec<i32> = (0..24).map(|index| index * 7 % 11 - 5).collect();
        shares_follow_weights(cpus, &nices, true);
    }
}
