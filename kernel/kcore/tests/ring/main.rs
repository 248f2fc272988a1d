//! Ring 1: whole stories of processes on the hosted machine. The kernel is the real one; programs are closures.
//!
//! A story boots a machine, runs as PID 1 and asserts from inside its programs. A failed assertion, a kernel panic, a
//! broken lock order, a missing TLB flush and a deadlock all fail the test.

mod clone;
mod coredump;
mod cow;
mod creds;
mod exec;
mod files;
mod fork;
mod futexes;
mod fuzz;
mod groups;
mod interleave;
mod limits;
mod load;
mod loader;
mod memory;
mod model;
mod no_memory;
mod prctl;
mod privileges;
mod ptrace;
mod races;
mod remote;
mod sched;
mod sched_classes;
mod seccomp;
mod signal;
mod signal_rules;
mod stop;
mod storm;
mod threads;
mod timers;
mod wait;
mod wait_rules;

use std::cell::RefCell;
use std::rc::Rc;

use hal::hosted::User;
use kcore::testing::Machine;

/// Boots one CPU and runs `init` as PID 1.
fn story(init: impl Fn(&mut User) + 'static) {
    Machine::new().run(init);
}

/// What programs of one machine note down, in order. The machine is one host thread, so the order is what happened.
#[derive(Clone, Default)]
struct Diary(Rc<RefCell<Vec<String>>>);

impl Diary {
    fn note(&self, entry: impl Into<String>) {
        self.0.borrow_mut().push(entry.into());
    }

    fn entries(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

/// The bit of a signal in a mask.
const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

const MS: u64 = 1_000_000;

/// How many seeds to try: more with `DRUPE_FUZZ_ROUNDS`.
fn rounds() -> u64 {
    std::env::var("DRUPE_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}
