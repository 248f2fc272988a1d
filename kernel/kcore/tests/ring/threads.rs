//! Threads: one process, several tasks. Futexes.

use abi::signal::{SIG_BLOCK, SIGKILL, SIGSEGV, SIGUSR1};
use abi::{Errno, mman, nr, sched, time};
use hal::trap::Access;
use kcore::testing::{Libc, Machine};
use zerocopy::IntoBytes;

use crate::{Diary, MS, bit, story};

const READ_WRITE: u32 = mman::PROT_READ | mman::PROT_WRITE;

#[test]
fn a_thread_shares_memory_and_the_pid_and_is_joined() {
    story(|init| {
        let page = init.mmap(4096, READ_WRITE);
        let thread = init.thread(move |thread| {
            assert_eq!(thread.getpid(), 1);
            assert_ne!(thread.gettid(), 1);
            thread.write(page, 5u32);
            0
        });
        init.join(thread);
        assert_eq!(init.read::<u32>(page), 5);
        assert_eq!(init.wait(), Err(Errno::ECHILD), "a thread is not a child");
    });
}

#[test]
fn threads_share_the_descriptor_table() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        let thread = init.thread(move |thread| {
            thread.close(write).unwrap();
            0
        });
        init.join(thread);
        assert_eq!(init.write_fd(write, b"x"), Err(Errno::EBADF));
        assert_eq!(init.read_fd(read, 1), Ok(vec![]));
    });
}

#[test]
fn the_exit_of_the_process_ends_every_thread() {
    story(|init| {
        let child = init.fork(|leader| {
            for _ in 0..4 {
                leader.thread(|thread| {
                    loop {
                        thread.pause();
                    }
                });
            }
            leader.thread(|thread| {
                loop {
                    thread.compute(MS);
                }
            });
            leader.sleep_ns(5 * MS).unwrap();
            17
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(17));
    });
}

#[test]
fn exit_group_of_a_thread_ends_the_leader() {
    story(|init| {
        let child = init.fork(|leader| {
            leader.thread(|thread| thread.exit(23));
            loop {
                leader.pause();
            }
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(23));
    });
}

#[test]
fn a_process_lives_until_its_last_thread_ends() {
    story(|init| {
        let child = init.fork(|leader| {
            leader.thread(|thread| {
                thread.sleep_ns(50 * MS).unwrap();
                thread.exit_thread(4)
            });
            leader.exit_thread(3)
        });
        init.sleep_ns(10 * MS).unwrap();
        assert_eq!(init.wait4(child, abi::wait::WNOHANG), Ok(None), "a dead leader alone is not waited for");
        init.kill(child, 0).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(4), "the last thread decides (Linux synchronize_group_exit)");
    });
}

#[test]
fn a_fault_of_one_thread_kills_the_process() {
    story(|init| {
        let child = init.fork(|leader| {
            leader.thread(|thread| {
                thread.touch(16, Access::Write);
                0
            });
            loop {
                leader.pause();
            }
        });
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGSEGV));
    });
}

#[test]
fn a_signal_to_the_process_goes_to_a_thread_that_does_not_block_it() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        init.on(SIGUSR1, 0, move |user| inner.note(user.gettid().to_string()));
        init.sigprocmask(SIG_BLOCK, bit(SIGUSR1));
        let thread = init.thread(|thread| {
            thread.sigprocmask(abi::signal::SIG_UNBLOCK, bit(SIGUSR1));
            thread.pause();
            0
        });
        init.sleep_ns(MS).unwrap();
        init.kill(1, SIGUSR1).unwrap();
        init.join(thread);
        assert_eq!(diary.entries(), [thread.0.to_string()]);
    });
}

#[test]
fn a_signal_to_a_thread_reaches_that_thread() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        init.on(SIGUSR1, 0, move |user| inner.note(user.gettid().to_string()));
        let thread = init.thread(|thread| {
            thread.pause();
            0
        });
        init.sleep_ns(MS).unwrap();
        init.tgkill(1, thread.0, SIGUSR1).unwrap();
        init.join(thread);
        assert_eq!(diary.entries(), [thread.0.to_string()]);
        assert_eq!(init.tgkill(1, thread.0, SIGUSR1), Err(Errno::ESRCH));
        assert_eq!(init.tgkill(1, 0, SIGUSR1), Err(Errno::EINVAL));
    });
}

#[test]
fn the_thread_pointer_is_what_clone_was_given() {
    story(|init| {
        let stack = init.mmap(65536, READ_WRITE);
        let flags = sched::CLONE_VM | sched::CLONE_SIGHAND | sched::CLONE_THREAD | sched::CLONE_SETTLS;
        let arguments = [flags | sched::CLONE_CHILD_CLEARTID, stack + 65536, 0, 0xabc0, stack, 0];
        init.write(stack, 1u32);
        init.syscall_with_child(nr::CLONE as u64, arguments, |thread| {
            assert_eq!(thread.tls(), 0xabc0);
            thread.exit_thread(0)
        });
        init.join((0, stack));
        assert_eq!(init.tls(), 0);
    });
}

#[test]
fn a_futex_sleeps_only_while_the_word_has_the_value() {
    story(|init| {
        let word = init.mmap(4096, READ_WRITE);
        assert_eq!(init.futex_wait(word, 1), Err(Errno::EAGAIN));
        assert_eq!(init.futex_wake(word, 1), Ok(0));
        assert_eq!(init.futex_wait(word + 2, 0), Err(Errno::EINVAL));
        assert_eq!(init.futex_wait(8, 0), Err(Errno::EFAULT));
        let timeout = init.push(time::Timespec { tv_sec: 0, tv_nsec: 5_000_000 }.as_bytes());
        assert_eq!(init.call(nr::FUTEX, &[word, 0, 0, timeout]), Err(Errno::ETIMEDOUT));
    });
}

#[test]
fn a_wake_wakes_as_many_as_it_says() {
    story(|init| {
        let word = init.mmap(4096, READ_WRITE);
        let threads: Vec<_> = (0..5)
            .map(|_| {
                init.thread(move |thread| {
                    thread.futex_wait(word, 0).unwrap();
                    0
                })
            })
            .collect();
        init.sleep_ns(5 * MS).unwrap();
        assert_eq!(init.futex_wake(word, 2), Ok(2));
        assert_eq!(init.futex_wake(word, 10), Ok(3));
        for thread in threads {
            init.join(thread);
        }
    });
}

#[test]
fn a_futex_in_shared_memory_works_between_processes() {
    story(|init| {
        let flags = mman::MAP_SHARED | mman::MAP_ANONYMOUS;
        let word = init.try_mmap(0, 4096, READ_WRITE, flags, -1, 0).unwrap();
        let child = init.fork(move |child| {
            child.futex_wait(word, 0).unwrap();
            child.read::<i32>(word)
        });
        init.sleep_ns(5 * MS).unwrap();
        init.write(word, 6i32);
        assert_eq!(init.futex_wake(word, 1), Ok(1));
        assert_eq!(init.wait_for(child).exit_code(), Some(6));
    });
}

#[test]
fn a_mutex_of_futexes_keeps_threads_apart() {
    for cpus in [1, 2, 4] {
        Machine::with_cpus(cpus).run(|init| {
            let page = init.mmap(4096, READ_WRITE);
            let (lock, count) = (page, page + 64);
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    init.thread(move |thread| {
                        for _ in 0..50 {
                            while thread.read::<u32>(lock) != 0 {
                                let _ = thread.futex_wait(lock, 1);
                            }
                            // No other user code runs between the two: the machine changes CPUs between operations.
                            thread.write(lock, 1u32);
                            let value: u32 = thread.read(count);
                            thread.write(count, value + 1);
                            thread.write(lock, 0u32);
                            thread.futex_wake(lock, 1).unwrap();
                        }
                        0
                    })
                })
                .collect();
            for thread in threads {
                init.join(thread);
            }
            assert!(init.read::<u32>(count) > 0);
        });
    }
}

#[test]
fn a_dead_thread_hands_its_robust_futex_on() {
    story(|init| {
        let page = init.mmap(4096, READ_WRITE);
        // struct robust_list_head: list, futex_offset, list_op_pending; one entry at page + 64 with its word behind it.
        let (entry, word) = (page + 64, page + 72);
        init.write(page, entry);
        init.write(page + 8, 8u64);
        init.write(page + 16, 0u64);
        init.write(entry, page);
        let thread = init.thread(move |thread| {
            let tid = thread.gettid();
            thread.call(nr::SET_ROBUST_LIST, &[page, 24]).unwrap();
            thread.write(word, tid);
            0
        });
        init.join(thread);
        assert_eq!(init.read::<u32>(word), abi::futex::FUTEX_OWNER_DIED);
    });
}

#[test]
fn a_killed_process_takes_threads_in_every_state_with_it() {
    for cpus in [1, 4] {
        Machine::with_cpus(cpus).run(|init| {
            let child = init.fork(|leader| {
                let word = leader.mmap(4096, READ_WRITE);
                let (read, _write) = leader.pipe(0).unwrap();
                leader.thread(move |thread| {
                    let _ = thread.futex_wait(word, 0);
                    0
                });
                leader.thread(move |thread| {
                    let _ = thread.read_fd(read, 1);
                    0
                });
                leader.thread(|thread| {
                    let _ = thread.sleep_ns(1_000_000 * MS);
                    0
                });
                leader.thread(|thread| {
                    loop {
                        thread.compute(MS);
                    }
                });
                let grandchild = leader.fork(|child| {
                    child.pause();
                    0
                });
                leader.wait_for(grandchild);
                0
            });
            init.sleep_ns(20 * MS).unwrap();
            init.kill(child, SIGKILL).unwrap();
            assert_eq!(init.wait_for(child).killed_by(), Some(SIGKILL));
            init.kill(-1, SIGKILL).unwrap();
            init.wait().unwrap();
        });
    }
}
