//! Futexes beyond wait and wake: priority inheritance, requeueing, vectors, deaths. The rules of the calls are the ABI
//! programs'; here are the stories that need a view of the scheduler, or many orders of events.

use abi::futex as f;
use abi::signal::SIGKILL;
use abi::{Errno, mman, nr, sched, time};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};
use zerocopy::IntoBytes;

use crate::{MS, rounds, story};

const RW: u32 = mman::PROT_READ | mman::PROT_WRITE;
/// Linux's `prio` of nice 0.
const NORMAL: i32 = 120;

fn futex(user: &mut User, command: u32, word: u64, value: u32, more: [u64; 3]) -> Result<u64, Errno> {
    user.call(nr::FUTEX, &[word, u64::from(command), u64::from(value), more[0], more[1], more[2]])
}

fn lock(user: &mut User, word: u64) -> Result<u64, Errno> {
    futex(user, f::FUTEX_LOCK_PI, word, 0, [0; 3])
}

fn unlock(user: &mut User, word: u64) -> Result<u64, Errno> {
    futex(user, f::FUTEX_UNLOCK_PI, word, 0, [0; 3])
}

/// Takes the lock, until `deadline_ns` of the monotonic clock.
fn lock_until(user: &mut User, word: u64, deadline_ns: u64) -> Result<u64, Errno> {
    let (tv_sec, tv_nsec) = (deadline_ns / 1_000_000_000, deadline_ns % 1_000_000_000);
    let time = time::Timespec { tv_sec: tv_sec.cast_signed(), tv_nsec: tv_nsec.cast_signed() };
    let time = user.push(time.as_bytes());
    futex(user, f::FUTEX_LOCK_PI2, word, 0, [time, 0, 0])
}

fn become_real_time(user: &mut User, priority: i32) {
    let parameter = user.push(priority.as_bytes());
    user.call(nr::SCHED_SETSCHEDULER, &[0, u64::from(sched::SCHED_FIFO), parameter]).unwrap();
}

/// Linux's `prio` of a task, inheritance included.
fn level(pid: i32) -> i32 {
    kcore::task::find_global(pid).expect("it lives").sched.level()
}

fn shared_page(user: &mut User) -> u64 {
    let flags = mman::MAP_SHARED | mman::MAP_ANONYMOUS;
    user.call(nr::MMAP, &[0, 4096, u64::from(RW), u64::from(flags), u64::MAX, 0]).unwrap()
}

/// Children 1 to `length`: child n has the lock in word n and waits for that in word n - 1. Word 0 is the caller's.
fn chain(init: &mut User, page: u64, length: u64) -> Vec<i32> {
    let word = move |index: u64| page + 4 * index;
    lock(init, word(0)).unwrap();
    let start = |init: &mut User, index: u64| {
        let pid = init.fork(move |child| {
            lock(child, word(index)).unwrap();
            lock(child, word(index - 1)).unwrap();
            unlock(child, word(index - 1)).unwrap();
            unlock(child, word(index)).unwrap();
            0
        });
        init.sleep_ns(2 * MS).unwrap();
        pid
    };
    (1..=length).map(|index| start(init, index)).collect()
}

fn urgent_waiter(init: &mut User, word: u64, priority: i32, deadline_ns: u64) -> i32 {
    let pid = init.fork(move |child| {
        become_real_time(child, priority);
        match lock_until(child, word, deadline_ns) {
            Ok(_) => unlock(child, word).map_or(2, |_| 0),
            Err(Errno::ETIMEDOUT) => 1,
            Err(_) => 3,
        }
    });
    init.sleep_ns(2 * MS).unwrap();
    pid
}

#[test]
fn urgency_goes_down_a_chain_of_locks_and_comes_back_with_the_unlock() {
    story(|init| {
        let page = shared_page(init);
        let pids = chain(init, page, 4);
        assert!(pids.iter().all(|pid| level(*pid) == NORMAL));
        let urgent = urgent_waiter(init, page + 16, 50, u64::MAX >> 2);
        assert!(pids.iter().all(|pid| level(*pid) == 49), "everybody in the way is as urgent");
        assert_eq!(level(1), 49);
        unlock(init, page).unwrap();
        assert_eq!(level(1), NORMAL);
        for pid in pids.into_iter().chain([urgent]) {
            assert_eq!(init.wait_for(pid).exit_code(), Some(0));
        }
    });
}

#[test]
fn urgency_comes_back_when_the_urgent_waiter_gives_up() {
    story(|init| {
        let page = shared_page(init);
        let pids = chain(init, page, 3);
        let now = kcore::time::monotonic_ns();
        let first = urgent_waiter(init, page + 12, 50, now + 20 * MS);
        let second = urgent_waiter(init, page + 12, 30, u64::MAX >> 2);
        assert!(pids.iter().all(|pid| level(*pid) == 49));
        assert_eq!(init.wait_for(first).exit_code(), Some(1), "timed out");
        assert!(pids.iter().all(|pid| level(*pid) == 69), "the next in line counts now");
        init.kill(second, SIGKILL).unwrap();
        assert_eq!(init.wait_for(second).killed_by(), Some(SIGKILL));
        assert!(pids.iter().all(|pid| level(*pid) == NORMAL));
        assert_eq!(level(1), NORMAL);
        unlock(init, page).unwrap();
        for pid in pids {
            assert_eq!(init.wait_for(pid).exit_code(), Some(0));
        }
    });
}

#[test]
fn a_link_of_the_chain_that_dies_lets_go_of_both_its_locks() {
    story(|init| {
        let page = shared_page(init);
        let pids = chain(init, page, 3);
        let urgent = urgent_waiter(init, page + 12, 50, u64::MAX >> 2);
        init.kill(pids[1], SIGKILL).unwrap();
        assert_eq!(init.wait_for(pids[1]).killed_by(), Some(SIGKILL));
        // Child 3 got the lock of child 2, so nobody holds the urgent one up but itself for a moment.
        assert_eq!(init.wait_for(pids[2]).exit_code(), Some(0));
        assert_eq!(init.wait_for(urgent).exit_code(), Some(0));
        assert_eq!((level(1), level(pids[0])), (NORMAL, NORMAL));
        unlock(init, page).unwrap();
        assert_eq!(init.wait_for(pids[0]).exit_code(), Some(0));
        assert_eq!(init.read::<u32>(page + 8), 0, "each unlock left a free word");
    });
}

#[test]
fn a_waiter_that_becomes_more_urgent_lends_more() {
    story(|init| {
        let page = shared_page(init);
        let pids = chain(init, page, 3);
        let parameter = init.push(20i32.as_bytes());
        let last = u64::from(pids[2].unsigned_abs());
        init.call(nr::SCHED_SETSCHEDULER, &[last, u64::from(sched::SCHED_FIFO), parameter]).unwrap();
        assert!(pids.iter().all(|pid| level(*pid) == 79));
        assert_eq!(level(1), 79);
        let parameter = init.push(0i32.as_bytes());
        init.call(nr::SCHED_SETSCHEDULER, &[last, u64::from(sched::SCHED_OTHER), parameter]).unwrap();
        assert!(pids.iter().chain(&[1]).all(|pid| level(*pid) == NORMAL));
        unlock(init, page).unwrap();
        for pid in pids {
            assert_eq!(init.wait_for(pid).exit_code(), Some(0));
        }
    });
}

#[test]
fn a_circle_is_found_and_nothing_is_lent_for_it() {
    story(|init| {
        let page = shared_page(init);
        let pids = chain(init, page, 3);
        assert_eq!(lock(init, page + 12), Err(Errno::EDEADLK));
        assert!(pids.iter().all(|pid| level(*pid) == NORMAL));
        unlock(init, page).unwrap();
        for pid in pids {
            assert_eq!(init.wait_for(pid).exit_code(), Some(0));
        }
    });
}

/// Boots four CPUs that change places at random, a few times.
fn on_many(init: impl Fn(&mut User) + Clone + 'static) {
    for seed in 0..3 * rounds() {
        Machine::interleaved(4, seed).run(init.clone());
    }
}

#[test]
fn pi_locks_keep_threads_apart_and_lose_nobody() {
    on_many(|init| {
        let page = init.mmap(4096, RW);
        let threads: Vec<_> = (0..5)
            .map(|n| {
                init.thread(move |thread| {
                    for turn in 0..12u64 {
                        if (turn + n) % 4 == 3 {
                            let soon = kcore::time::monotonic_ns() + 20_000;
                            match lock_until(thread, page, soon) {
                                Err(Errno::ETIMEDOUT) => continue,
                                other => other.unwrap(),
                            };
                        } else {
                            lock(thread, page).unwrap();
                        }
                        let count = thread.read::<u32>(page + 8);
                        thread.compute(5_000);
                        thread.write(page + 8, count + 1);
                        let own = thread.read::<u32>(page + 16 + 4 * n);
                        thread.write(page + 16 + 4 * n, own + 1);
                        unlock(thread, page).unwrap();
                    }
                    0
                })
            })
            .collect();
        for thread in threads {
            init.join(thread);
        }
        let taken: u32 = (0..5u64).map(|n| init.read::<u32>(page + 16 + 4 * n)).sum();
        assert_eq!(init.read::<u32>(page + 8), taken);
        assert_eq!(init.read::<u32>(page), 0, "the lock is free");
    });
}

#[test]
fn owners_that_die_in_any_order_leave_their_lock_to_somebody() {
    on_many(|init| {
        let page = shared_page(init);
        let pids: Vec<i32> = (0..6)
            .map(|n| {
                init.fork(move |child| {
                    match lock(child, page) {
                        Ok(_) => {}
                        // Its owner died and nobody had waited, or an heir is about to write itself into the word.
                        Err(Errno::ESRCH | Errno::EINVAL) => return 7,
                        Err(error) => panic!("{error:?}"),
                    }
                    let count = child.read::<u32>(page + 8);
                    child.write(page + 8, count + 1);
                    // Every other one ends without unlocking.
                    if n % 2 == 0 { unlock(child, page).map_or(1, |_| 0) } else { 0 }
                })
            })
            .collect();
        for pid in pids {
            let code = init.wait_for(pid).exit_code();
            assert!(matches!(code, Some(0 | 7)), "{code:?}");
        }
        let left = init.read::<u32>(page);
        assert!(
            left & f::FUTEX_WAITERS == 0 || left & f::FUTEX_TID_MASK != 0,
            "nobody waits for a free lock: {left:#x}"
        );
    });
}

#[test]
fn requeued_waiters_are_not_lost_between_two_words() {
    on_many(|init| {
        let page = init.mmap(4096, RW);
        let (condition, mutex, done) = (page, page + 64, page + 128);
        let threads: Vec<_> = (0..4)
            .map(|n| {
                init.thread(move |thread| {
                    while thread.read::<u32>(condition) == 0 {
                        let _ = thread.futex_wait(condition, 0);
                    }
                    thread.write(done + 4 * n, 1u32);
                    0
                })
            })
            .collect();
        let waker = init.thread(move |thread| {
            // Wakes on the second word while the first is requeued to it.
            for _ in 0..400 {
                let finished = (0..4).all(|n| thread.read::<u32>(done + 4 * n) == 1);
                if finished {
                    break;
                }
                let _ = thread.futex_wake(mutex, 1);
                thread.compute(2_000);
            }
            0
        });
        init.sleep_ns(MS / 10).unwrap();
        init.write(condition, 1u32);
        futex(init, f::FUTEX_CMP_REQUEUE, condition, 1, [9, mutex, 1]).unwrap();
        init.join(waker);
        let _ = init.futex_wake(mutex, 9);
        for thread in threads {
            init.join(thread);
        }
    });
}

#[test]
fn a_vector_of_words_hears_of_each_wakeup() {
    on_many(|init| {
        let page = init.mmap(4096, RW);
        let thread = init.thread(move |thread| {
            let mut seen = [0u32; 3];
            while seen != [5; 3] {
                let entries: Vec<u64> =
                    (0..3).flat_map(|n| [u64::from(seen[n]), page + 4 * n as u64, u64::from(f::FUTEX_32)]).collect();
                let entries = thread.push(entries.as_bytes());
                match thread.call(nr::FUTEX_WAITV, &[entries, 3, 0, 0, 0]) {
                    Ok(0..3) | Err(Errno::EAGAIN) => {}
                    other => panic!("{other:?}"),
                }
                for (n, seen) in seen.iter_mut().enumerate() {
                    *seen = thread.read::<u32>(page + 4 * n as u64);
                }
            }
            0
        });
        for turn in 1..=5u32 {
            for n in 0..3 {
                init.write(page + 4 * n, turn);
                init.futex_wake(page + 4 * n, 1).unwrap();
            }
        }
        init.join(thread);
    });
}

#[test]
fn a_condition_over_a_pi_lock_wakes_everybody_once() {
    on_many(|init| {
        let page = init.mmap(4096, RW);
        let (condition, mutex, count) = (page, page + 64, page + 128);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                init.thread(move |thread| {
                    match futex(thread, f::FUTEX_WAIT_REQUEUE_PI, condition, 0, [0, mutex, 0]) {
                        Ok(_) => {}
                        // Too late to wait.
                        Err(Errno::EAGAIN) => drop(lock(thread, mutex).unwrap()),
                        Err(error) => panic!("{error:?}"),
                    }
                    let before = thread.read::<u32>(count);
                    thread.compute(2_000);
                    thread.write(count, before + 1);
                    unlock(thread, mutex).unwrap();
                    0
                })
            })
            .collect();
        lock(init, mutex).unwrap();
        init.compute(30_000);
        init.write(condition, 1u32);
        loop {
            let moved = futex(init, f::FUTEX_CMP_REQUEUE_PI, condition, 1, [1, mutex, 1]).unwrap();
            if moved == 0 {
                break;
            }
        }
        unlock(init, mutex).unwrap();
        for thread in threads {
            init.join(thread);
        }
        assert_eq!(init.read::<u32>(count), 4);
        assert_eq!(init.read::<u32>(mutex), 0);
    });
}
