//! Kernel threads: made, stopped, parked, shown, and left alone by users; and the stoppers of the CPUs. The stories call the
//! kernel's own interface from inside of a process, which is in the kernel's place then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use abi::signal::{SIGKILL, SIGSTOP, SIGTERM};
use abi::{Errno, fcntl as f, nr};
use hal::hosted::User;
use kcore::stop_machine::{self, StopWork};
use kcore::task::{TaskState, kthread};
use kcore::testing::{Libc, Machine, free_frames};
use kcore::{sched, sync, time};

const MS: u64 = 1_000_000;

fn mount_proc(user: &mut User) {
    user.scoped(|user| {
        let (kind, at) = (user.push_string("proc"), user.push_string("/proc"));
        user.call(nr::MOUNT, &[kind, at, kind, 0, 0]).unwrap();
    });
}

fn text(user: &mut User, path: &str) -> String {
    String::from_utf8(user.slurp(path).unwrap_or_else(|error| panic!("{path}: {error:?}"))).unwrap()
}

/// A field of `/proc/PID/stat`, counted as in proc(5).
fn stat(user: &mut User, pid: i32, field: usize) -> String {
    let stat = text(user, &format!("/proc/{pid}/stat"));
    let (_, rest) = stat.trim_end().rsplit_once(") ").unwrap();
    rest.split(' ').nth(field - 3).unwrap().to_string()
}

/// A thread that sleeps idly until it is stopped, parks when asked, and counts its turns.
fn sleeper(turns: &Arc<AtomicU32>) -> Arc<kcore::task::Task> {
    let turns = turns.clone();
    let body = move || {
        while !kthread::should_stop() {
            if kthread::should_park() {
                kthread::park_me();
            }
            turns.fetch_add(1, Ordering::SeqCst);
            let waiting = || !kthread::should_stop() && !kthread::should_park();
            let _ = sync::sleep_while(TaskState::Idle, time::monotonic_ns() + 10 * MS, waiting);
        }
        42
    };
    kthread::spawn("sleeper", body).unwrap()
}

#[test]
fn a_thread_that_is_stopped_ends_and_gives_its_result() {
    for seed in 0..8 {
        Machine::interleaved(1 + seed as usize % 4, seed).run(|init| {
            let turns = Arc::new(AtomicU32::new(0));
            let task = sleeper(&turns);
            init.sleep_ns(35 * MS).unwrap();
            assert!(turns.load(Ordering::SeqCst) >= 3);
            assert_eq!(kthread::stop(&task), 42);
            let pid = task.tid();
            drop(task);
            init.sleep_ns(MS).unwrap();
            assert_eq!(init.kill(pid, 0), Err(Errno::ESRCH), "kthreadd waits for nobody");
        });
    }
}

#[test]
fn a_thread_that_ends_by_itself_can_be_stopped_later() {
    Machine::new().run(|init| {
        let task = kthread::spawn("short", || 7).unwrap();
        init.sleep_ns(MS).unwrap();
        assert_eq!(kthread::stop(&task), 7);
    });
}

#[test]
fn a_thread_that_is_stopped_before_it_starts_never_runs() {
    Machine::new().run(|_| {
        let ran = Arc::new(AtomicU32::new(0));
        let flag = ran.clone();
        let task = kthread::create("unborn", move || {
            flag.store(1, Ordering::SeqCst);
            0
        })
        .unwrap();
        assert_eq!(kthread::stop(&task), -i32::from(Errno::EINTR.number()));
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_parked_thread_rests_until_it_is_unparked() {
    for seed in 0..12 {
        Machine::interleaved(1 + seed as usize % 4, seed).run(|init| {
            mount_proc(init);
            let turns = Arc::new(AtomicU32::new(0));
            let task = sleeper(&turns);
            for _ in 0..5 {
                init.sleep_ns(15 * MS).unwrap();
                kthread::park(&task);
                let before = turns.load(Ordering::SeqCst);
                init.sleep_ns(50 * MS).unwrap();
                assert_eq!(turns.load(Ordering::SeqCst), before, "it ran while it was parked");
                assert_eq!(stat(init, task.tid(), 3), "P");
                // An ordinary wake-up does not reach it.
                assert!(!sched::wake(&task, TaskState::NORMAL));
                kthread::unpark(&task);
                init.sleep_ns(15 * MS).unwrap();
                assert!(turns.load(Ordering::SeqCst) > before);
            }
            kthread::park(&task);
            assert_eq!(kthread::stop(&task), 42, "a parked thread can be stopped");
        });
    }
}

#[test]
fn an_unpark_that_comes_before_the_thread_parked_is_not_lost() {
    for seed in 0..40 {
        Machine::interleaved(2 + seed as usize % 3, seed).run(|init| {
            let turns = Arc::new(AtomicU32::new(0));
            let task = sleeper(&turns);
            for _ in 0..10 {
                kthread::park(&task);
                kthread::unpark(&task);
            }
            let before = turns.load(Ordering::SeqCst);
            init.sleep_ns(30 * MS).unwrap();
            assert!(turns.load(Ordering::SeqCst) > before);
            assert_eq!(kthread::stop(&task), 42);
        });
    }
}

#[test]
fn users_can_neither_signal_nor_move_a_bound_kernel_thread() {
    Machine::with_cpus(2).run(|init| {
        mount_proc(init);
        let turns = Arc::new(AtomicU32::new(0));
        let task = sleeper(&turns);
        for signal in [SIGKILL, SIGSTOP, SIGTERM, 64] {
            assert_eq!(init.kill(task.tid(), signal), Ok(()), "kill succeeds, and nothing happens");
        }
        init.sleep_ns(20 * MS).unwrap();
        assert_eq!(stat(init, task.tid(), 3), "I");
        assert_eq!(kthread::stop(&task), 42);

        let bound = kthread::spawn_on("bound", 1, || {
            while !kthread::should_stop() {
                let _ = sync::sleep_while(TaskState::Idle, u64::MAX, || !kthread::should_stop());
            }
            sched_cpu() as i32
        })
        .unwrap();
        init.sleep_ns(MS).unwrap();
        let moved = init.call_with(nr::SCHED_SETAFFINITY, &[bound.tid() as u64, 8], &1u64, &[]);
        assert_eq!(moved.err(), Some(Errno::EINVAL));
        assert_eq!(kthread::stop(&bound), 1);
    });
}

fn sched_cpu() -> usize {
    kcore::task::current().sched.cpu()
}

#[test]
fn proc_shows_a_kernel_thread_as_linux_does() {
    Machine::new().run(|init| {
        mount_proc(init);
        let turns = Arc::new(AtomicU32::new(0));
        let task = kthread::create("a_name_that_is_longer_than_comm", || 0).unwrap();
        let asleep = sleeper(&turns);
        let pid = asleep.tid();
        init.sleep_ns(MS).unwrap();
        assert_eq!(stat(init, pid, 3), "I");
        assert_eq!(stat(init, pid, 4), "2", "kthreadd is the parent");
        assert_eq!(stat(init, pid, 9).parse::<u32>().unwrap() & 0x20_0000, 0x20_0000, "PF_KTHREAD");
        assert_eq!(stat(init, pid, 23), "0", "no address space");
        assert_eq!(text(init, &format!("/proc/{pid}/maps")), "");
        assert_eq!(text(init, &format!("/proc/{pid}/cmdline")), "");
        // The whole name, of which comm keeps 15 bytes (Linux get_kthread_comm).
        assert_eq!(text(init, &format!("/proc/{}/comm", task.tid())), "a_name_that_is_longer_than_comm\n");
        let status = text(init, &format!("/proc/{pid}/status"));
        assert!(status.contains("SigIgn:\tffffffffffffffff\n"), "{status}");
        assert!(status.contains("SigBlk:\t0000000000000000\n"), "{status}");
        let link = |init: &mut User, name: &str| {
            init.scoped(|user| {
                let path = user.push_string(&format!("/proc/{pid}/{name}"));
                let buffer = user.push(&[0; 16]);
                let length = user.call(nr::READLINKAT, &[f::AT_FDCWD as u64, path, buffer, 16])?;
                Ok((0..length).map(|i| char::from(user.load::<u8>(buffer + i))).collect::<String>())
            })
        };
        assert_eq!(link(init, "exe"), Err(Errno::ENOENT));
        assert_eq!(link(init, "cwd"), Ok("/".into()));
        assert_eq!(link(init, "root"), Ok("/".into()));
        kthread::stop(&task);
        kthread::stop(&asleep);
    });
}

#[test]
fn threads_that_came_and_went_leave_nothing() {
    Machine::with_cpus(2).run(|init| {
        let round = |init: &mut User| {
            let turns = Arc::new(AtomicU32::new(0));
            let tasks: Vec<_> = (0..8).map(|_| sleeper(&turns)).collect();
            init.sleep_ns(5 * MS).unwrap();
            tasks.iter().for_each(|task| assert_eq!(kthread::stop(task), 42));
            drop(tasks);
            init.sleep_ns(5 * MS).unwrap();
        };
        round(init);
        let before = free_frames();
        (0..5).for_each(|_| round(init));
        assert_eq!(free_frames(), before);
    });
}

#[test]
fn without_memory_there_is_no_thread_and_nothing_leaks() {
    Machine::new().run(|init| {
        let attempt = || match kthread::spawn("maybe", || 0) {
            Ok(task) => assert_eq!(kthread::stop(&task), -i32::from(Errno::EINTR.number()), "it has not run yet"),
            Err(error) => assert_eq!(error, Errno::ENOMEM),
        };
        attempt();
        init.sleep_ns(MS).unwrap();
        let before = free_frames();
        for n in 0.. {
            hal::hosted::fail_nth_allocation(Some(n));
            attempt();
            let fired = hal::hosted::fail_nth_allocation(None).is_none();
            init.sleep_ns(MS).unwrap();
            assert_eq!(free_frames(), before, "after the failure of allocation {n}");
            if !fired {
                assert!(n > 0, "nothing of it can fail");
                break;
            }
        }
    });
}

#[test]
fn a_stopper_runs_a_function_on_its_cpu_before_everything_else() {
    Machine::with_cpus(4).run(|init| {
        let _hogs: Vec<i32> = (0..8)
            .map(|_| {
                init.fork(|child| {
                    loop {
                        child.compute(MS);
                    }
                })
            })
            .collect();
        init.sleep_ns(20 * MS).unwrap();
        for cpu in [3, 0, 2, 1] {
            let before = time::monotonic_ns();
            assert_eq!(stop_machine::stop_one_cpu(cpu, || hal::cpu::id() as i32), Ok(cpu as i32));
            assert!(time::monotonic_ns() - before < 100 * MS);
        }
        assert_eq!(stop_machine::stop_one_cpu(7, || 0), Err(Errno::ENOENT));
    });
    Machine::new().run(|_| {
        assert_eq!(stop_machine::stop_one_cpu(0, || 5), Ok(5));
        assert_eq!(stop_machine::stop_one_cpu(1, || 5), Err(Errno::ENOENT), "a CPU that is not up");
    });
}

#[test]
fn stop_work_that_waits_is_not_queued_twice_and_may_come_again() {
    for seed in 0..20 {
        Machine::interleaved(4, seed).run(|init| {
            let runs = Arc::new(AtomicUsize::new(0));
            let counter = runs.clone();
            let work = StopWork::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
            });
            let mut queued = 0;
            for n in 0..40 {
                queued += usize::from(stop_machine::stop_one_cpu_nowait(n % 4, &work));
            }
            init.sleep_ns(5 * MS).unwrap();
            assert!(queued >= 1);
            assert_eq!(runs.load(Ordering::SeqCst), queued, "each success is one run");
        });
    }
}
