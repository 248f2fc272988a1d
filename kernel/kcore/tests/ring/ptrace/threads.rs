//! Tracing threads: each is a tracee of its own, the leader's end waits for the others, exec changes a number.

use abi::ptrace as p;
use abi::signal::{SIGKILL, SIGSTOP, SIGTRAP};
use abi::{nr, wait as w};
use kcore::testing::{Libc, Machine};

use super::{Tracer, event};
use crate::{MS, story};

#[test]
fn a_new_thread_is_traced_and_its_end_is_waited_for() {
    story(|init| {
        let child = init.tracee(|child| {
            let thread = child.thread(|_| 3);
            child.join(thread);
            child.sleep_ns(10 * MS).unwrap();
            4
        });
        init.set_options(child, p::PTRACE_O_TRACECLONE);
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_CLONE));
        let thread = i32::try_from(init.message(child)).unwrap();
        assert_eq!(init.stop_of(thread), SIGSTOP);
        init.cont(child, 0);
        init.cont(thread, 0);
        assert_eq!(init.wait4(thread, w::__WALL).unwrap().unwrap().status.exit_code(), Some(3));
        assert_eq!(init.wait_for(child).exit_code(), Some(4));
    });
}

#[test]
fn the_leader_is_not_reported_dead_before_its_traced_threads_are_waited_for() {
    story(|init| {
        let child = init.tracee(|child| {
            let _ = child.thread(|thread| {
                thread.sleep_ns(5 * MS).unwrap();
                3
            });
            child.exit_thread(4)
        });
        init.set_options(child, p::PTRACE_O_TRACECLONE);
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_CLONE));
        let thread = i32::try_from(init.message(child)).unwrap();
        assert_eq!(init.stop_of(thread), SIGSTOP);
        init.cont(child, 0);
        init.cont(thread, 0);
        init.sleep_ns(20 * MS).unwrap();
        assert_eq!(init.wait4(child, w::WNOHANG | w::__WALL).unwrap(), None);
        assert_eq!(init.wait4(thread, w::__WALL).unwrap().unwrap().status.exit_code(), Some(3));
        assert_eq!(init.wait_for(child).exit_code(), Some(3));
    });
}

#[test]
fn exec_in_another_thread_takes_the_leaders_number() {
    let mut machine = Machine::new();
    machine.program("/next", |_| 8);
    machine.run(|init| {
        let child = init.tracee(|child| {
            let thread = child.thread(|thread| thread.exec("/next", &["next"]));
            child.join(thread);
            1
        });
        init.set_options(child, p::PTRACE_O_TRACECLONE | p::PTRACE_O_TRACEEXEC);
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_CLONE));
        let thread = i32::try_from(init.message(child)).unwrap();
        assert_eq!(init.stop_of(thread), SIGSTOP);
        init.cont(child, 0);
        init.cont(thread, 0);
        // The leader's end is not reported; the stop has its number, and the message tells the former one.
        let found = init.wait4(-1, w::__WALL).unwrap().unwrap();
        assert_eq!((found.pid, found.status.0 >> 8), (child, event(p::PTRACE_EVENT_EXEC).cast_signed()));
        assert_eq!(init.message(child), thread.unsigned_abs().into());
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(8));
        assert!(init.wait().is_err());
    });
}

#[test]
fn a_kill_ends_all_threads_in_their_stops() {
    for seed in 0..4 {
        Machine::interleaved(4, seed).run(|init| {
            let child = init.tracee(|child| {
                for _ in 0..3 {
                    let _ = child.thread(|thread| {
                        loop {
                            let _ = thread.getpid();
                        }
                    });
                }
                loop {
                    let _ = child.getpid();
                }
            });
            init.set_options(child, p::PTRACE_O_TRACECLONE);
            init.cont(child, 0);
            let mut threads = vec![];
            for _ in 0..3 {
                assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_CLONE));
                let thread = i32::try_from(init.message(child)).unwrap();
                assert_eq!(init.stop_of(thread), SIGSTOP);
                threads.push(thread);
                init.cont(child, 0);
            }
            // One stands at a call, one at its SIGSTOP, one runs.
            init.to_next_call(threads[0]);
            assert_eq!(init.stop_of(threads[0]), SIGTRAP);
            init.cont(threads[1], 0);
            init.kill(child, SIGKILL).unwrap();
            for thread in threads {
                let found = init.wait4(thread, w::__WALL).unwrap().unwrap();
                assert_eq!(found.status.killed_by(), Some(SIGKILL));
            }
            assert_eq!(init.wait_for(child).killed_by(), Some(SIGKILL));
        });
    }
}

#[test]
fn the_tracer_is_a_thread_and_others_of_its_process_may_wait_but_not_ask() {
    story(|init| {
        let child = init.fork(|child| {
            child.sleep_ns(10 * MS).unwrap();
            4
        });
        let thread = init.thread(move |thread| {
            thread.seize(child, 0);
            assert_eq!(thread.ptrace(p::PTRACE_INTERRUPT, child, 0, 0), Ok(0));
            thread.sleep_ns(5 * MS).unwrap();
            assert_eq!(thread.ptrace(p::PTRACE_CONT, child, 0, 0), Ok(0));
            // With this thread the relation ends.
            0
        });
        init.sleep_ns(2 * MS).unwrap();
        assert_eq!(init.stop_of(child), p::PTRACE_EVENT_STOP << 8 | SIGTRAP);
        assert_eq!(
            init.call(nr::PTRACE, &[u64::from(p::PTRACE_CONT), child.unsigned_abs().into(), 0, 0]).unwrap_err(),
            abi::Errno::ESRCH
        );
        init.join(thread);
        assert_eq!(init.wait_for(child).exit_code(), Some(4));
    });
}
