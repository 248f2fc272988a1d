//! Whatever a tracee stands in, SIGKILL and the end of its tracer get it out.

use abi::ptrace as p;
use abi::signal::{SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGTRAP, SIGUSR1};
use abi::{nr, wait as w};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};

use super::{Tracer, event};
use crate::{MS, story};

/// A stop that a tracee can be brought to: how it is made, and what is waited for then.
type Stop = (&'static str, fn(&mut User) -> i32);

/// The tracee at a signal-delivery-stop.
fn at_signal(tracer: &mut User) -> i32 {
    tracer.tracee(|child| child.compute_for_ever())
}

fn at_entry(tracer: &mut User) -> i32 {
    let child = tracer.tracee(|child| child.compute_for_ever());
    tracer.to_next_call(child);
    assert_eq!(tracer.stop_of(child), SIGTRAP);
    child
}

fn at_exit_of_call(tracer: &mut User) -> i32 {
    let child = at_entry(tracer);
    tracer.to_next_call(child);
    assert_eq!(tracer.stop_of(child), SIGTRAP);
    child
}

fn at_group_stop(tracer: &mut User) -> i32 {
    let child = tracer.tracee(|child| child.compute_for_ever());
    tracer.cont(child, SIGSTOP);
    assert_eq!(tracer.stop_of(child), SIGSTOP);
    child
}

fn at_interrupt(tracer: &mut User) -> i32 {
    let child = tracer.fork(|child| child.compute_for_ever());
    tracer.seize(child, 0);
    assert_eq!(tracer.ptrace(p::PTRACE_INTERRUPT, child, 0, 0), Ok(0));
    assert_eq!(tracer.stop_of(child), p::PTRACE_EVENT_STOP << 8 | SIGTRAP);
    child
}

fn listening(tracer: &mut User) -> i32 {
    let child = at_interrupt(tracer);
    assert_eq!(tracer.ptrace(p::PTRACE_LISTEN, child, 0, 0), Ok(0));
    child
}

fn at_fork(tracer: &mut User) -> i32 {
    let child = tracer.tracee(|child| {
        let _ = child.fork(|_| 0);
        child.compute_for_ever()
    });
    tracer.set_options(child, p::PTRACE_O_TRACEFORK);
    tracer.cont(child, 0);
    assert_eq!(tracer.stop_of(child), event(p::PTRACE_EVENT_FORK));
    let inner = i32::try_from(tracer.message(child)).unwrap();
    assert_eq!(tracer.stop_of(inner), SIGSTOP);
    assert_eq!(tracer.ptrace(p::PTRACE_DETACH, inner, 0, 0), Ok(0));
    child
}

fn at_exec(tracer: &mut User) -> i32 {
    let child = tracer.tracee(|child| child.exec("/next", &["next"]));
    tracer.set_options(child, p::PTRACE_O_TRACEEXEC);
    tracer.cont(child, 0);
    assert_eq!(tracer.stop_of(child), event(p::PTRACE_EVENT_EXEC));
    child
}

fn at_step(tracer: &mut User) -> i32 {
    let child = tracer.tracee(|child| child.compute_for_ever());
    assert_eq!(tracer.ptrace(p::PTRACE_SINGLESTEP, child, 0, 0), Ok(0));
    assert_eq!(tracer.stop_of(child), SIGTRAP);
    child
}

fn running(tracer: &mut User) -> i32 {
    let child = tracer.tracee(|child| child.compute_for_ever());
    tracer.cont(child, 0);
    child
}

const STOPS: [Stop; 10] = [
    ("signal", at_signal),
    ("entry", at_entry),
    ("exit of a call", at_exit_of_call),
    ("group stop", at_group_stop),
    ("interrupt", at_interrupt),
    ("listening", listening),
    ("fork", at_fork),
    ("exec", at_exec),
    ("step", at_step),
    ("running", running),
];

trait Busy: Libc {
    /// Makes calls and computes until it is killed.
    fn compute_for_ever(&mut self) -> i32 {
        loop {
            let _ = self.getpid();
            self.user().compute(MS / 100);
        }
    }
}

impl Busy for User {}

fn machine(cpus: usize) -> Machine {
    let mut machine = Machine::interleaved(cpus, 7);
    machine.program("/next", |user| user.compute_for_ever());
    machine
}

#[test]
fn sigkill_ends_a_tracee_in_every_stop() {
    for cpus in [1, 2, 4] {
        for (name, make) in STOPS {
            eprintln!("{name}, {cpus} CPUs");
            machine(cpus).run(move |init| {
                let child = make(init);
                init.kill(child, SIGKILL).unwrap();
                // Its children, if any, may end before.
                let found = init.wait4(child, w::__WALL).unwrap().unwrap();
                assert_eq!(found.status.killed_by(), Some(SIGKILL));
                while init.wait().is_ok() {}
            });
        }
    }
}

#[test]
fn the_end_of_the_tracer_lets_go_of_a_tracee_in_every_stop() {
    for cpus in [1, 2, 4] {
        for (name, make) in STOPS {
            eprintln!("{name}, {cpus} CPUs");
            machine(cpus).run(move |init| {
                let (read, write) = init.pipe(0).unwrap();
                let tracer = init.fork(move |tracer| {
                    let child = make(tracer);
                    tracer.write_fd(write, &child.to_le_bytes()).unwrap();
                    0
                });
                let bytes = init.read_fd(read, 4).unwrap();
                let child = i32::from_le_bytes(bytes.try_into().unwrap());
                assert_eq!(init.wait_for(tracer).exit_code(), Some(0));
                // It is init's child now. One in a group stop stays stopped, the others compute.
                init.sleep_ns(2 * MS).unwrap();
                init.kill(child, SIGCONT).unwrap();
                init.kill(child, SIGTERM).unwrap();
                assert_eq!(init.wait_for(child).killed_by(), Some(SIGTERM), "{name}");
                while init.wait().is_ok() {}
            });
        }
    }
}

#[test]
fn exitkill_takes_the_tracees_along() {
    for cpus in [1, 2, 4] {
        for (name, make) in STOPS {
            eprintln!("{name}, {cpus} CPUs");
            machine(cpus).run(move |init| {
                let (read, write) = init.pipe(0).unwrap();
                let tracer = init.fork(move |tracer| {
                    let child = make(tracer);
                    // Only in a stop can it be asked for.
                    let asked = tracer.ptrace(p::PTRACE_SETOPTIONS, child, 0, u64::from(p::PTRACE_O_EXITKILL));
                    let told = if asked.is_ok() { child } else { -child };
                    tracer.write_fd(write, &told.to_le_bytes()).unwrap();
                    0
                });
                let told = i32::from_le_bytes(init.read_fd(read, 4).unwrap().try_into().unwrap());
                assert_eq!(init.wait_for(tracer).exit_code(), Some(0));
                if told < 0 {
                    assert!(name == "running" || name == "listening", "{name}");
                    init.kill(-told, SIGKILL).unwrap();
                }
                assert_eq!(init.wait_for(told.abs()).killed_by(), Some(SIGKILL), "{name}");
                while init.wait().is_ok() {}
            });
        }
    }
}

#[test]
fn a_dead_tracee_is_its_tracers_first_and_its_parents_then() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        let child = init.fork(move |child| {
            child.read_fd(read, 1).unwrap();
            6
        });
        let tracer = init.fork(move |tracer| {
            tracer.seize(child, 0);
            tracer.write_fd(write, &[1]).unwrap();
            tracer.sleep_ns(20 * MS).unwrap();
            let waited = tracer.wait4(child, w::__WALL).unwrap().unwrap();
            assert_eq!(waited.status.exit_code(), Some(6));
            assert!(tracer.wait4(child, w::__WALL).is_err());
            0
        });
        init.sleep_ns(10 * MS).unwrap();
        // It has ended, but its parent is not told before its tracer.
        assert_eq!(init.wait4(child, w::WNOHANG).unwrap(), None);
        assert_eq!(init.wait_for(child).exit_code(), Some(6));
        assert_eq!(init.wait_for(tracer).exit_code(), Some(0));
    });
}

#[test]
fn a_tracer_that_ends_leaves_a_dead_tracee_to_its_parent() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        let child = init.fork(move |child| {
            child.read_fd(read, 1).unwrap();
            6
        });
        let tracer = init.fork(move |tracer| {
            tracer.seize(child, 0);
            tracer.write_fd(write, &[1]).unwrap();
            tracer.sleep_ns(20 * MS).unwrap();
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(6));
        assert_eq!(init.wait_for(tracer).exit_code(), Some(0));
    });
}

#[test]
fn a_tracee_gets_a_signal_that_came_while_it_was_stopped() {
    story(|init| {
        let child = init.tracee(|child| child.compute_for_ever());
        init.kill(child, SIGUSR1).unwrap();
        init.sleep_ns(MS).unwrap();
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGUSR1);
        init.cont(child, SIGUSR1);
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGUSR1));
    });
}

#[test]
fn a_tracer_in_sigwait_hears_of_stops() {
    story(|init| {
        let _ = init.sigprocmask(abi::signal::SIG_BLOCK, crate::bit(SIGCHLD));
        let child = init.fork(|child| {
            child.trace_me();
            let own = child.getpid();
            child.kill(own, SIGSTOP).unwrap();
            let _ = child.call(nr::GETPPID, &[]);
            0
        });
        let info = init.sigtimedwait(crate::bit(SIGCHLD), 1000 * MS).unwrap();
        assert_eq!((info.signal(), info.pid(), info.status()), (SIGCHLD, child, SIGSTOP.cast_signed()));
        assert_eq!(init.stop_of(child), SIGSTOP);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}
