//! CPUs change places at random points of the kernel. A lost wake-up leaves somebody asleep, and the machine gets stuck.

use abi::mman::{MAP_ANONYMOUS, MAP_SHARED, PROT_READ, PROT_WRITE};
use abi::signal::{SIGCHLD, SIGKILL, SIGUSR1};
use abi::{Errno, nr};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};

use crate::{Diary, MS};

const RW: u32 = PROT_READ | PROT_WRITE;

/// Runs `story` on 2, 3 and 4 CPUs with many seeds.
fn on_many(seeds: u64, story: impl Fn(&mut User) + Clone + 'static) {
    for seed in 0..seeds * crate::rounds() / 2 {
        for cpus in [2, 3, 4] {
            eprintln!("seed {seed}, {cpus} CPUs");
            Machine::interleaved(cpus, seed).run(story.clone());
        }
    }
}

#[test]
fn pipes_lose_no_wakeup() {
    on_many(8, |init| {
        let (ping_read, ping_write) = init.pipe(0).unwrap();
        let (pong_read, pong_write) = init.pipe(0).unwrap();
        let child = init.fork(move |child| {
            for n in 0..30u32 {
                assert_eq!(child.read_fd(ping_read, 4).unwrap(), n.to_le_bytes());
                child.write_fd(pong_write, &n.to_le_bytes()).unwrap();
            }
            0
        });
        for n in 0..30u32 {
            init.write_fd(ping_write, &n.to_le_bytes()).unwrap();
            assert_eq!(init.read_fd(pong_read, 4).unwrap(), n.to_le_bytes());
        }
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn many_writers_and_readers_of_one_pipe_lose_no_byte() {
    on_many(5, |init| {
        let (read, write) = init.pipe(0).unwrap();
        let total = init.try_mmap(0, 4096, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0).unwrap();
        let writers: Vec<i32> = (0..3)
            .map(|_| {
                init.fork(move |child| {
                    for _ in 0..20 {
                        assert_eq!(child.write_fd(write, &[1; 700]), Ok(700));
                    }
                    0
                })
            })
            .collect();
        let readers: Vec<i32> = (0..2)
            .map(|n| {
                init.fork(move |child| {
                    child.close(write).unwrap();
                    let mut sum = 0u64;
                    loop {
                        let piece = child.read_fd(read, 500).unwrap();
                        if piece.is_empty() {
                            break;
                        }
                        sum += piece.len() as u64;
                    }
                    child.write(total + 8 * n, sum);
                    0
                })
            })
            .collect();
        init.close(write).unwrap();
        for pid in writers.into_iter().chain(readers) {
            assert_eq!(init.wait_for(pid).exit_code(), Some(0));
        }
        assert_eq!(init.read::<u64>(total) + init.read::<u64>(total + 8), 3 * 20 * 700);
    });
}

#[test]
fn futexes_lose_no_wakeup() {
    on_many(8, |init| {
        let word = init.mmap(4096, RW);
        let thread = init.thread(move |thread| {
            for turn in 0..30u32 {
                while thread.read::<u32>(word) != 2 * turn + 1 {
                    let _ = thread.futex_wait(word, 2 * turn);
                }
                thread.write(word, 2 * turn + 2);
                thread.futex_wake(word, 1).unwrap();
            }
            0
        });
        for turn in 0..30u32 {
            init.write(word, 2 * turn + 1);
            init.futex_wake(word, 1).unwrap();
            while init.read::<u32>(word) != 2 * turn + 2 {
                let _ = init.futex_wait(word, 2 * turn + 1);
            }
        }
        init.join(thread);
    });
}

#[test]
fn every_child_is_waited_for_exactly_once() {
    on_many(5, |init| {
        for _ in 0..3 {
            let mut pids: Vec<i32> = (0..8).map(|n| init.fork(move |_| n)).collect();
            let mut seen: Vec<i32> = (0..8).map(|_| init.wait().unwrap().pid).collect();
            pids.sort_unstable();
            seen.sort_unstable();
            assert_eq!(pids, seen);
        }
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

#[test]
fn no_sigchld_is_lost_to_who_waits_for_it() {
    on_many(5, |init| {
        init.on(SIGCHLD, 0, |_| {});
        let mask = 1u64 << (SIGCHLD - 1);
        init.sigprocmask(abi::signal::SIG_BLOCK, mask);
        for n in 0..6 {
            init.fork(move |child| {
                child.compute(u64::try_from(n).unwrap() * 20_000);
                n
            });
        }
        let mut left = 6;
        while left > 0 {
            match init.wait4(-1, abi::wait::WNOHANG) {
                Ok(Some(_)) => left -= 1,
                Ok(None) => assert_eq!(init.sigsuspend(0), Errno::EINTR),
                Err(error) => panic!("{error:?}"),
            }
        }
    });
}

#[test]
fn signals_between_processes_arrive() {
    on_many(5, |init| {
        // Before the child sends: what init neither blocks nor handles is dropped.
        init.sigprocmask(abi::signal::SIG_BLOCK, 1 << (SIGUSR1 - 1));
        let child = init.fork(|child| {
            let diary = Diary::default();
            let inner = diary.clone();
            child.on(SIGUSR1, 0, move |_| inner.note("x"));
            for n in 1..=10 {
                child.kill(1, SIGUSR1).unwrap();
                while diary.entries().len() < n {
                    child.sigsuspend(0);
                }
            }
            0
        });
        for _ in 0..10 {
            assert_eq!(init.sigtimedwait(1 << (SIGUSR1 - 1), 60_000 * MS).unwrap().pid(), child);
            init.kill(child, SIGUSR1).unwrap();
        }
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn vfork_parents_always_go_on() {
    on_many(5, |init| {
        for n in 0..10 {
            let child = init.vfork(move |_| n);
            assert_eq!(init.wait_for(child).exit_code(), Some(n));
        }
    });
}

#[test]
fn threads_start_end_and_are_joined() {
    on_many(4, |init| {
        for _ in 0..3 {
            let page = init.mmap(4096, RW);
            let threads: Vec<_> = (0..4u64)
                .map(|n| {
                    init.thread(move |thread| {
                        thread.write(page + 8 * n, n + 1);
                        0
                    })
                })
                .collect();
            for thread in threads {
                init.join(thread);
            }
            assert_eq!((0..4).map(|n| init.read::<u64>(page + 8 * n)).sum::<u64>(), 10);
            init.munmap(page, 4096).unwrap();
        }
    });
}

#[test]
fn a_killed_group_of_busy_processes_is_gone_at_last() {
    on_many(4, |init| {
        let pids: Vec<i32> = (0..4)
            .map(|n| {
                init.fork(move |child| {
                    child.setpgid(0, 0).unwrap();
                    loop {
                        match n {
                            0 => child.compute(50_000),
                            1 => drop(child.sleep_ns(MS)),
                            2 => {
                                let grandchild = child.fork(|_| 0);
                                child.wait_for(grandchild);
                            }
                            _ => child.sched_yield(),
                        }
                    }
                })
            })
            .collect();
        init.sleep_ns(5 * MS).unwrap();
        for pid in pids {
            init.kill(pid, SIGKILL).unwrap();
            assert_eq!(init.wait_for(pid).killed_by(), Some(SIGKILL));
        }
        init.sleep_ns(50 * MS).unwrap();
        // Grandchildren that were cut off are init's now.
        while init.wait().is_ok() {}
    });
}

#[test]
fn copy_on_write_holds_when_parent_and_child_write_at_once() {
    on_many(6, |init| {
        let pages = init.mmap(16 * 4096, RW);
        for n in 0..16u64 {
            init.write(pages + n * 4096, n);
        }
        let child = init.fork(move |child| {
            for n in 0..16u64 {
                child.write(pages + n * 4096, 100 + n);
            }
            for n in 0..16u64 {
                assert_eq!(child.read::<u64>(pages + n * 4096), 100 + n);
            }
            0
        });
        for n in 0..16u64 {
            init.write(pages + n * 4096, 200 + n);
        }
        for n in 0..16u64 {
            assert_eq!(init.read::<u64>(pages + n * 4096), 200 + n);
        }
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn two_threads_fault_on_the_same_pages() {
    on_many(6, |init| {
        let pages = init.mmap(16 * 4096, RW);
        let thread = init.thread(move |thread| {
            for n in 0..16u64 {
                thread.write(pages + n * 4096 + 8, n);
            }
            0
        });
        for n in 0..16u64 {
            init.write(pages + n * 4096, n);
        }
        init.join(thread);
        for n in 0..16u64 {
            assert_eq!(init.read::<u64>(pages + n * 4096), n);
            assert_eq!(init.read::<u64>(pages + n * 4096 + 8), n);
        }
    });
}

#[test]
fn one_thread_unmaps_what_another_uses() {
    on_many(4, |init| {
        let child = init.fork(|leader| {
            let pages = leader.mmap(8 * 4096, RW);
            let (read, write) = leader.pipe(abi::fcntl::O_NONBLOCK).unwrap();
            let thread = leader.thread(move |thread| {
                for _ in 0..20 {
                    // The kernel touches the pages, so that a hole is EFAULT and not a signal.
                    let _ = thread.call(nr::WRITE, &[write as u64, pages, 8 * 4096]);
                    let _ = thread.call(nr::READ, &[read as u64, pages, 8 * 4096]);
                    thread.write_fd(write, b"x").unwrap();
                    thread.read_fd(read, 65536).unwrap();
                }
                0
            });
            for n in 0..20 {
                leader.munmap(pages + (n % 8) * 4096, 4096).unwrap();
                let fixed = MAP_ANONYMOUS | abi::mman::MAP_PRIVATE | abi::mman::MAP_FIXED;
                leader.try_mmap(pages + (n % 8) * 4096, 4096, RW, fixed, -1, 0).unwrap();
            }
            leader.join(thread);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn exec_and_exit_race_without_harm() {
    for seed in 0..6 {
        for cpus in [2, 4] {
            eprintln!("seed {seed}, {cpus} CPUs");
            let mut machine = Machine::interleaved(cpus, seed);
            machine.program("/bin/program", |user| {
                user.compute(10_000);
                3
            });
            machine.run(|init| {
                let children: Vec<i32> = (0..4)
                    .map(|n| {
                        init.fork(move |leader| {
                            for _ in 0..n {
                                leader.thread(|thread| {
                                    loop {
                                        thread.compute(20_000);
                                    }
                                });
                            }
                            leader.exec("/bin/program", &["x"])
                        })
                    })
                    .collect();
                for child in children {
                    assert_eq!(init.wait_for(child).exit_code(), Some(3));
                }
            });
        }
    }
}
