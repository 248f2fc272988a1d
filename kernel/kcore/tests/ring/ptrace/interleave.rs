//! Tracers, killers and continuers at once, on CPUs that change places at random points of the kernel.

use abi::ptrace as p;
use abi::signal::{SIGCONT, SIGKILL, SIGSTOP};
use abi::wait as w;
use hal::hosted::User;
use kcore::testing::{Libc, Machine};

use super::Tracer;

fn on_many(story: impl Fn(&mut User) + Clone + 'static) {
    for seed in 0..6 * crate::rounds() {
        for cpus in [2, 3, 4] {
            eprintln!("seed {seed}, {cpus} CPUs");
            Machine::interleaved(cpus, seed).run(story.clone());
        }
    }
}

/// Lets a tracee go on from stop to stop until it is gone.
fn drive(tracer: &mut User, tid: i32, request: u32) {
    while let Ok(Some(found)) = tracer.wait4(tid, w::__WALL) {
        if found.status.stopped_by().is_none() {
            return;
        }
        // ESRCH: it was killed in between.
        let _ = tracer.ptrace(request, tid, 0, 0);
    }
}

#[test]
fn a_kill_meets_a_tracee_anywhere() {
    on_many(|init| {
        let child = init.tracee(|child| {
            loop {
                let _ = child.getpid();
            }
        });
        let killer = init.fork(move |killer| {
            killer.sleep_ns(20_000).unwrap();
            killer.kill(child, SIGKILL).unwrap();
            0
        });
        init.to_next_call(child);
        drive(init, child, p::PTRACE_SYSCALL);
        init.wait_for(killer);
    });
}

#[test]
fn a_tracer_dies_while_its_tracee_stops() {
    on_many(|init| {
        let child = init.fork(|child| {
            for _ in 0..50 {
                let _ = child.getpid();
            }
            3
        });
        let tracer = init.fork(move |tracer| {
            if tracer.ptrace(p::PTRACE_SEIZE, child, 0, 0).is_ok() {
                let _ = tracer.ptrace(p::PTRACE_INTERRUPT, child, 0, 0);
            }
            0
        });
        assert_eq!(init.wait_for(tracer).exit_code(), Some(0));
        assert_eq!(init.wait_for(child).exit_code(), Some(3));
    });
}

#[test]
fn stops_and_continues_meet_a_tracer_that_comes_and_goes() {
    on_many(|init| {
        let child = init.fork(|child| {
            loop {
                let _ = child.getpid();
            }
        });
        let other = init.fork(move |other| {
            for _ in 0..6 {
                let _ = other.kill(child, SIGSTOP);
                let _ = other.kill(child, SIGCONT);
            }
            0
        });
        let tracer = init.fork(move |tracer| {
            for _ in 0..3 {
                assert_eq!(tracer.ptrace(p::PTRACE_ATTACH, child, 0, 0), Ok(0));
                let found = tracer.wait4(child, w::__WALL).unwrap().unwrap();
                assert!(found.status.stopped_by().is_some());
                assert_eq!(tracer.ptrace(p::PTRACE_DETACH, child, 0, 0), Ok(0));
            }
            0
        });
        assert_eq!(init.wait_for(other).exit_code(), Some(0));
        assert_eq!(init.wait_for(tracer).exit_code(), Some(0));
        init.kill(child, SIGKILL).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGKILL));
    });
}

#[test]
fn forks_of_a_tracee_are_all_seen() {
    on_many(|init| {
        let child = init.tracee(|child| {
            let inner: Vec<i32> = (0..3).map(|n| child.fork(move |_| n)).collect();
            for (n, pid) in inner.into_iter().enumerate() {
                assert_eq!(child.wait_for(pid).exit_code(), i32::try_from(n).ok());
            }
            9
        });
        init.set_options(child, p::PTRACE_O_TRACEFORK | p::PTRACE_O_TRACEEXIT);
        init.cont(child, 0);
        let mut ended = 0;
        while let Ok(found) = init.wait4(-1, w::__WALL) {
            let found = found.unwrap();
            match found.status.stopped_by() {
                Some(_) => drop(init.ptrace(p::PTRACE_CONT, found.pid, 0, 0)),
                None => ended += 1,
            }
        }
        assert_eq!(ended, 4);
    });
}
