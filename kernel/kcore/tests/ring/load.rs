//! Task states as `/proc` shows them, and the load average (proc(5), sysinfo(2)).

use abi::info::Sysinfo;
use abi::nr;
use abi::signal::{SIGCONT, SIGKILL, SIGSTOP};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};
use zerocopy::FromZeros;

use crate::MS;

const SECOND: u64 = 1000 * MS;

/// Linux's arithmetic, written down a second time: samples every 5 s and one tick, 11 bits of fraction, the factors of
/// `include/linux/sched/loadavg.h`.
struct Model {
    average: [u64; 3],
    next_ns: u64,
}

impl Model {
    fn new() -> Self {
        Self { average: [0; 3], next_ns: 5_004 * MS }
    }

    fn run(&mut self, until_ns: u64, active: u64) {
        while self.next_ns <= until_ns {
            for (average, factor) in self.average.iter_mut().zip([1884, 2014, 2037]) {
                let target = active * 2048;
                let sum = *average * factor + target * (2048 - factor) + if target >= *average { 2047 } else { 0 };
                *average = sum / 2048;
            }
            self.next_ns += 5_004 * MS;
        }
    }
}

fn now(user: &mut User) -> u64 {
    user.clock_ns(abi::time::CLOCK_MONOTONIC)
}

fn sysinfo(user: &mut User) -> Sysinfo {
    user.call_with(nr::SYSINFO, &[], &Sysinfo::new_zeroed(), &[]).unwrap().1
}

fn averages(user: &mut User) -> [u64; 3] {
    // sysinfo's loads have 16 bits of fraction.
    sysinfo(user).loads.map(|load| load >> 5)
}

/// Boots `cpus` CPUs with `/proc` mounted.
fn story_on(cpus: usize, init: impl Fn(&mut User) + 'static) {
    Machine::with_cpus(cpus).run(move |user| {
        user.scoped(|user| {
            let (kind, at) = (user.push_string("proc"), user.push_string("/proc"));
            user.call(nr::MOUNT, &[kind, at, kind, 0, 0]).unwrap();
        });
        // The kernel's threads get their PIDs first.
        user.sleep_ns(10 * MS).unwrap();
        init(user);
    });
}

fn story(init: impl Fn(&mut User) + 'static) {
    story_on(1, init);
}

/// A hundredth of a task is allowed: a kernel thread that works ahead may be seen at a sample. It has a CPU to itself in
/// these stories, so that it never stands in a queue for long.
fn assert_agrees(user: &mut User, model: &Model) {
    let real = averages(user);
    for (real, model) in real.into_iter().zip(model.average) {
        assert!(real.abs_diff(model) <= 20, "kernel {real}, model {model} of 2048");
    }
}

fn hog(user: &mut User) -> i32 {
    user.fork(|child| {
        loop {
            child.compute(2 * MS);
        }
    })
}

fn end(user: &mut User, pid: i32) {
    user.kill(pid, SIGKILL).unwrap();
    assert_eq!(user.wait_for(pid).killed_by(), Some(SIGKILL));
}

#[test]
fn the_load_of_busy_processes_follows_the_model() {
    for (cpus, hogs) in [(2, 1), (4, 1), (4, 3)] {
        story_on(cpus, move |init| {
            let mut model = Model::new();
            model.run(now(init), 0);
            let pids: Vec<i32> = (0..hogs).map(|_| hog(init)).collect();
            for _ in 0..3 {
                init.sleep_ns(40 * SECOND).unwrap();
                model.run(now(init), hogs);
                assert_agrees(init, &model);
            }
            pids.into_iter().for_each(|pid| end(init, pid));
        });
    }
}

#[test]
fn tasks_that_queue_for_one_cpu_all_count() {
    story(|init| {
        let mut model = Model::new();
        let pids: Vec<i32> = (0..3).map(|_| hog(init)).collect();
        init.sleep_ns(60 * SECOND).unwrap();
        model.run(now(init), 3);
        let real = averages(init);
        // Here the kernel thread that zeroes pages queues too: of the samples one may see it.
        for (real, model) in real.into_iter().zip(model.average) {
            assert!((model..model + 180).contains(&real), "kernel {real}, model {model} of 2048");
        }
        pids.into_iter().for_each(|pid| end(init, pid));
    });
}

#[test]
fn the_load_falls_while_every_cpu_sleeps() {
    for cpus in [2, 4] {
        story_on(cpus, |init| {
            let mut model = Model::new();
            let pid = hog(init);
            init.sleep_ns(60 * SECOND).unwrap();
            model.run(now(init), 1);
            end(init, pid);
            // Nothing ticks now; the samples are made up for when somebody runs again.
            init.sleep_ns(50 * SECOND).unwrap();
            model.run(now(init), 0);
            assert_agrees(init, &model);
        });
    }
}

#[test]
fn interruptible_sleepers_do_not_count() {
    story(|init| {
        let sleepers: Vec<i32> = (0..5)
            .map(|_| {
                init.fork(|child| {
                    loop {
                        child.pause();
                    }
                })
            })
            .collect();
        init.sleep_ns(60 * SECOND).unwrap();
        assert!(averages(init).iter().all(|load| *load <= 20), "{:?}", averages(init));
        sleepers.into_iter().for_each(|pid| end(init, pid));
    });
}

#[test]
fn stopped_processes_do_not_count() {
    story(|init| {
        let pid = hog(init);
        init.kill(pid, SIGSTOP).unwrap();
        init.sleep_ns(60 * SECOND).unwrap();
        assert!(averages(init).iter().all(|load| *load <= 20), "{:?}", averages(init));
        end(init, pid);
    });
}

#[test]
fn uninterruptible_sleepers_count_although_no_cpu_is_busy() {
    story(|init| {
        let mut model = Model::new();
        // The parent of a vfork waits in state D for its child, which sleeps in S.
        let parent = init.fork(|parent| {
            parent.vfork(|child| {
                child.sleep_ns(100 * SECOND).unwrap();
                0
            });
            0
        });
        init.sleep_ns(60 * SECOND).unwrap();
        assert_eq!(letter(init, parent), 'D');
        model.run(now(init), 1);
        assert_agrees(init, &model);
        assert!(averages(init)[0] > 1200, "{:?}", averages(init));
        end(init, parent);
    });
}

#[test]
fn loadavg_has_five_fields_that_agree_with_sysinfo() {
    story(|init| {
        let pid = hog(init);
        init.sleep_ns(30 * SECOND).unwrap();
        let text = String::from_utf8(init.slurp("/proc/loadavg").unwrap()).unwrap();
        let info = sysinfo(init);
        let fields: Vec<&str> = text.trim_end().split(' ').collect();
        assert_eq!(fields.len(), 5, "{text}");
        for (field, load) in fields.iter().zip(info.loads) {
            let rounded = load / 32 + 10;
            assert_eq!(*field, format!("{}.{:02}", rounded >> 11, ((rounded & 2047) * 100) >> 11));
        }
        // This reader and the hog are runnable.
        assert_eq!(fields[3], format!("2/{}", info.procs));
        assert_eq!(fields[4], pid.to_string());
        end(init, pid);
    });
}

fn letter(user: &mut User, pid: i32) -> char {
    letter_of(user, &format!("/proc/{pid}/stat"))
}

fn letter_of(user: &mut User, path: &str) -> char {
    let text = String::from_utf8(user.slurp(path).unwrap()).unwrap();
    let after = text.rsplit_once(") ").unwrap().1;
    // status says the same in words.
    let status = String::from_utf8(user.slurp(&path.replace("stat", "status")).unwrap()).unwrap();
    let line = status.lines().find(|line| line.starts_with("State:")).unwrap();
    assert_eq!(line.chars().nth(7), after.chars().next(), "{line}");
    after.chars().next().unwrap()
}

#[test]
fn a_running_process_is_r() {
    story(|init| {
        assert_eq!(letter(init, 1), 'R');
        let pid = hog(init);
        init.sleep_ns(10 * MS).unwrap();
        assert_eq!(letter(init, pid), 'R');
        end(init, pid);
    });
}

#[test]
fn a_process_that_waits_for_an_event_is_s() {
    story(|init| {
        let (read, _write) = init.pipe(0).unwrap();
        let reader = init.fork(move |child| child.read_fd(read, 1).map_or(1, |_| 0));
        let sleeper = init.fork(|child| child.sleep_ns(100 * SECOND).map_or(1, |()| 0));
        let waiter = init.fork(|child| {
            let grandchild = child.fork(|child| child.sleep_ns(100 * SECOND).map_or(1, |()| 0));
            child.wait_for(grandchild).exit_code().unwrap_or(1)
        });
        init.sleep_ns(10 * MS).unwrap();
        for pid in [reader, sleeper, waiter] {
            assert_eq!(letter(init, pid), 'S');
            end(init, pid);
        }
    });
}

#[test]
fn a_stopped_process_is_t_until_it_is_continued() {
    story(|init| {
        let pid = init.fork(|child| {
            loop {
                child.pause();
            }
        });
        for _ in 0..3 {
            init.kill(pid, SIGSTOP).unwrap();
            init.sleep_ns(MS).unwrap();
            assert_eq!(letter(init, pid), 'T');
            init.kill(pid, SIGCONT).unwrap();
            init.sleep_ns(MS).unwrap();
            assert_eq!(letter(init, pid), 'S');
        }
        end(init, pid);
    });
}

#[test]
fn a_child_that_is_not_waited_for_is_z() {
    story(|init| {
        let pid = init.fork(|_| 0);
        init.sleep_ns(MS).unwrap();
        assert_eq!(letter(init, pid), 'Z');
        init.wait_for(pid);
        assert!(init.open(&format!("/proc/{pid}/stat"), 0, 0).is_err());
    });
}

#[test]
fn a_leader_that_ended_before_its_threads_is_z_and_they_are_not() {
    story(|init| {
        let pid = init.fork(|leader| {
            leader.thread(|thread| thread.sleep_ns(100 * SECOND).map_or(1, |()| 0));
            leader.exit_thread(0)
        });
        init.sleep_ns(10 * MS).unwrap();
        assert_eq!(letter(init, pid), 'Z');
        let tid = pid + 1;
        assert_eq!(letter_of(init, &format!("/proc/{pid}/task/{tid}/stat")), 'S');
        end(init, pid);
    });
}

#[test]
fn a_vfork_parent_is_d_but_can_be_killed() {
    story(|init| {
        let parent = init.fork(|parent| {
            parent.vfork(|child| child.sleep_ns(100 * SECOND).map_or(1, |()| 0));
            0
        });
        init.sleep_ns(10 * MS).unwrap();
        assert_eq!(letter(init, parent), 'D');
        init.kill(parent, abi::signal::SIGTERM).unwrap();
        init.sleep_ns(10 * MS).unwrap();
        // An ordinary signal waits; its default action is to end the process, which makes it fatal.
        assert_eq!(init.wait_for(parent).killed_by(), Some(abi::signal::SIGTERM));
    });
}

#[test]
fn idle_kernel_threads_are_i() {
    story(|init| {
        // kthreadd waits for orders.
        assert_eq!(letter(init, 2), 'S');
        // kzerod and the terminals' workers have nothing to do.
        let named = |init: &mut User, name: &str| {
            (3..30).find(|pid| init.slurp(&format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == name.as_bytes()))
        };
        for name in ["kzerod\n", "ttyd\n"] {
            let pid = named(init, name).expect("it was started");
            assert_eq!(letter(init, pid), 'I');
        }
    });
}

/// A process that is stopped, continued, killed and waited for at random shows the letter that the events name.
#[test]
fn the_letter_follows_random_events() {
    for seed in 0..20 * crate::rounds() {
        eprintln!("seed {seed}");
        story(move |init| {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = move |n: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % n
            };
            let mut pid = 0;
            let mut expected = None;
            for _ in 0..40 {
                match (expected, next(6)) {
                    (None, _) => {
                        pid = init.fork(|child| {
                            loop {
                                child.pause();
                            }
                        });
                        expected = Some('S');
                    }
                    (Some('Z'), 0..=1) => {
                        init.wait_for(pid);
                        expected = None;
                    }
                    (Some(was), event) => {
                        let (signal, letter) = match event {
                            0..=1 => (SIGSTOP, 'T'),
                            2..=3 => (SIGCONT, 'S'),
                            4 => (0, was),
                            _ => (SIGKILL, 'Z'),
                        };
                        init.kill(pid, signal).unwrap();
                        expected = Some(if was == 'Z' { 'Z' } else { letter });
                    }
                }
                init.sleep_ns(MS).unwrap();
                if let Some(expected) = expected {
                    assert_eq!(letter(init, pid), expected);
                }
            }
            if expected.is_some() {
                init.kill(pid, SIGKILL).unwrap();
                init.wait_for(pid);
            }
        });
    }
}
