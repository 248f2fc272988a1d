//! The driver: resumes one simulated CPU after the other until the kernel powers off or nothing can go on.

use std::fmt;

use super::context::{self, Yielded};
use super::state::{State, replace, state};
use crate::MAX_CPUS;

/// What the TLB model does when a cached translation is used that the tables no longer grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tlb {
    /// Panics: on one CPU, or with CPUs that take turns at calm places, a flush is missing.
    Strict,
    /// Uses it, as hardware does. For machines that interleave CPUs between a store to a table and its flush.
    Hardware,
}

/// What machine to build.
#[derive(Clone, Debug)]
pub struct Config {
    /// Simulated CPUs, 1 to 4. The kernel brings up all but the first with [`start_secondary`].
    pub cpus: usize,
    /// Bytes of RAM.
    pub ram_bytes: usize,
    /// A file that the boot loader left in RAM.
    pub initramfs: Vec<u8>,
    /// Decides every order that is left open, and the entropy.
    pub seed: u64,
    /// Lets another CPU run at random places inside the kernel, not only where one waits.
    pub interleave: bool,
    /// See [`Tlb`].
    pub tlb: Tlb,
    /// Turns of the driver after which the machine counts as stuck.
    pub max_turns: u64,
    /// Simulated time after which the machine counts as stuck, ns.
    pub max_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cpus: 1,
            ram_bytes: 64 << 20,
            initramfs: Vec::new(),
            seed: 1,
            interleave: false,
            tlb: Tlb::Strict,
            max_turns: 20_000_000,
            max_ns: 3_600_000_000_000,
        }
    }
}

/// The machine cannot go on.
#[derive(Clone, PartialEq, Eq)]
pub struct Stuck(pub String);

impl fmt::Debug for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A machine that was built and not yet run. One exists per OS thread; a new one replaces the former.
pub struct Machine {
    config: Config,
}

impl Machine {
    /// Builds a machine. Everything of the former machine of this OS thread, kernel globals included, is forgotten.
    pub fn new(config: Config) -> Self {
        assert!((1..=MAX_CPUS).contains(&config.cpus), "1 to {MAX_CPUS} CPUs");
        replace(State::new(&config));
        state().arena.set(Some(super::ram::Arena::new(&config)));
        Self { config }
    }

    /// Runs `boot` on CPU 0 and then whatever the kernel makes of it. `Ok` with the code of [`power_off`], or 0 when
    /// `boot` returned. A panic of the kernel goes through to the caller, after a line that says where it was.
    pub fn run(self, boot: impl FnOnce() + 'static) -> Result<i32, Stuck> {
        let state = state();
        state.slots.start_boot_flow(0, boot);
        // As on the Pi, the boot flow begins with interrupts masked.
        state.cpus[0].masked.set(true);
        state.driving.set(true);
        let off = SwitchOff;
        let result = drive(state, &self.config);
        drop(off);
        result
    }
}

/// Stops the machine also when a panic passes by.
struct SwitchOff;

impl Drop for SwitchOff {
    fn drop(&mut self) {
        let state = state();
        if std::thread::panicking() {
            let cpu = state.cpu.get();
            let slot = state.running.get();
            eprintln!("hosted: kernel panic on CPU {cpu} at {} ns, coroutine {slot}", state.clock.get());
        }
        state.driving.set(false);
        state.slots.clear();
    }
}

/// Switches the machine off: [`Machine::run`] returns `code`. Takes effect when the caller next waits or is preempted;
/// call it as the last thing before an endless wait.
pub fn power_off(code: i32) {
    state().power_off.set(Some(code));
    while state().driving.get() && !std::thread::panicking() {
        context::suspend(Yielded::Pause);
    }
}

/// Brings up another CPU, which runs `boot` from its own boot flow.
pub fn start_secondary(cpu: usize, boot: impl FnOnce() + 'static) {
    let state = state();
    assert!(!state.cpus[cpu].online.get(), "CPU {cpu} is up already");
    state.slots.start_boot_flow(cpu, boot);
    state.cpus[cpu].masked.set(true);
    state.cpus[cpu].online.set(true);
}

fn drive(state: &State, config: &Config) -> Result<i32, Stuck> {
    for _ in 0..config.max_turns {
        if state.clock.get() > config.max_ns {
            return Err(stuck(state, "the simulated time is over"));
        }
        state.this().waiting.set(false);
        state.running.set(context::current_slot());
        let Some(why) = state.slots.resume(state.running.get()) else { return Ok(0) };
        if let Some(code) = state.power_off.take() {
            return Ok(code);
        }
        match why {
            Yielded::Switched if !state.interleave.get() || state.next_random() & 1 == 0 => continue,
            Yielded::Idle => state.this().waiting.set(true),
            Yielded::Switched | Yielded::Pause => {}
        }
        match next_cpu(state) {
            Some(cpu) => state.cpu.set(cpu),
            None => return Err(stuck(state, "deadlock: every CPU waits and no deadline is set")),
        }
    }
    Err(stuck(state, "the turns are over"))
}

/// The CPU whose turn it is: the next in the round that can run (a random one when interleaving). When all sleep, time
/// jumps to the earliest deadline.
fn next_cpu(state: &State) -> Option<usize> {
    let here = state.cpu.get();
    let can_run = |&n: &usize| {
        let cpu = &state.cpus[n];
        cpu.online.get() && (!cpu.waiting.get() || cpu.interrupt_pending(state.clock.get()))
    };
    let shift = if state.interleave.get() { usize::try_from(state.next_random() & 3).unwrap_or(0) } else { 0 };
    let order = || (1..=MAX_CPUS).map(|step| (here + step + shift) % MAX_CPUS);
    if let Some(cpu) = order().find(can_run) {
        return Some(cpu);
    }
    let online = state.cpus.iter().filter(|cpu| cpu.online.get());
    let earliest = online.map(|cpu| cpu.deadline.get()).min().filter(|ns| *ns != u64::MAX)?;
    state.clock.set(earliest.max(state.clock.get()));
    order().find(can_run)
}

fn stuck(state: &State, why: &str) -> Stuck {
    let mut text = format!("{why} at {} ns:", state.clock.get());
    for (n, cpu) in state.cpus.iter().enumerate().filter(|(_, cpu)| cpu.online.get()) {
        let doing = if cpu.waiting.get() { "waits" } else { "runs" };
        text += &format!(" CPU {n} {doing}, masked={}, deadline={};", cpu.masked.get(), cpu.deadline.get());
    }
    Stuck(text)
}
