//! Interrupts, preemption, idling and the hand-cranked clock of a simulated CPU.
//!
//! Time passes only when code does something: each door call costs a few nanoseconds, a user operation more, and when
//! every CPU sleeps the clock jumps to the earliest deadline. Interrupts are looked for wherever the mask opens.

use std::sync::atomic::Ordering;

use super::context::{self, Yielded, suspend};
use super::state::{State, state};
use crate::thread::work;
use crate::trap::Handlers;

/// What a look at the clock, an opened interrupt mask, or a turn of a spin loop costs.
const STEP_NS: u64 = 20;
const SPIN_NS: u64 = 200;

/// A kernel panic unwinds this stack: destructors run, but the machine stands still.
pub fn dying() -> bool {
    std::thread::panicking()
}

/// While a panic unwinds, a lock whose holder never runs again is waited for in vain: end the process with a reason
/// instead of spinning for ever.
pub fn count_futile_wait(state: &State) {
    state.futile.set(state.futile.get() + 1);
    if state.futile.get() > 10_000 {
        eprintln!("hosted: a destructor waits while a panic unwinds; giving up");
        std::process::abort();
    }
}

pub fn cpu_id() -> usize {
    state().cpu.get()
}

/// A Cortex-A53 r0p4, as on the Pi 3.
pub fn identification() -> u64 {
    0x410f_d034
}

pub fn online_mask() -> u32 {
    state().cpus.iter().enumerate().filter(|(_, cpu)| cpu.online.get()).fold(0, |mask, (n, _)| mask | 1 << n)
}

pub fn relax() {
    let state = state();
    if dying() {
        return count_futile_wait(state);
    }
    charge(SPIN_NS);
    poll();
    if state.driving.get() {
        suspend(Yielded::Pause);
    } else {
        panic!("a spin loop waits, and no other CPU exists that could end it");
    }
}

pub fn wait_for_interrupt() {
    let state = state();
    assert!(state.this().masked.get(), "wait_for_interrupt needs masked interrupts, or a wake-up can be lost");
    while !dying() && !state.this().interrupt_pending(state.clock.get()) {
        suspend(Yielded::Idle);
    }
}

pub fn irq_save() -> usize {
    maybe_pause();
    usize::from(state().this().masked.replace(true))
}

pub fn irq_restore(saved: usize) {
    state().this().masked.set(saved != 0);
    if saved == 0 {
        charge(STEP_NS);
        poll();
        maybe_pause();
    }
}

pub fn irqs_enabled() -> bool {
    !state().this().masked.get()
}

pub fn irq_enable() {
    irq_restore(0);
}

fn with_count<R>(f: impl FnOnce(u32) -> (u32, R)) -> R {
    let cpu = state().this();
    let count = if cpu.current.get().is_null() { &cpu.boot_count } else { &context::current().arch.preempt };
    let (new, result) = f(count.get());
    count.set(new);
    result
}

pub fn preempt_disable() {
    with_count(|count| (count + 1, ()));
}

pub fn preempt_enable() {
    preempt_enable_no_resched();
    preempt_if_due();
    maybe_pause();
}

pub fn preempt_enable_no_resched() {
    if dying() {
        return with_count(|count| (count.saturating_sub(1), ()));
    }
    with_count(|count| (count.checked_sub(1).expect("preempt count below zero"), ()));
}

pub fn preempt_count() -> u32 {
    with_count(|count| (count, count))
}

pub fn send_ipi(cpu: usize) {
    let state = state();
    assert!(state.cpus[cpu].online.get(), "an interrupt sent to CPU {cpu}, which is not up");
    state.cpus[cpu].ipi.set(true);
    poll();
}

/// Makes a CPU take a device interrupt.
pub fn raise_device_interrupt(cpu: usize) {
    state().cpus[cpu].device.set(true);
    poll();
}

pub fn entropy(buffer: &mut [u8]) {
    for chunk in buffer.chunks_mut(8) {
        chunk.copy_from_slice(&state().next_random().to_le_bytes()[..chunk.len()]);
    }
}

pub fn now_ns() -> u64 {
    crate::timer::clock_at(raw_ns)
}

pub fn raw_ns() -> u64 {
    charge(STEP_NS);
    state().clock.get()
}

/// [`now_ns`] always looks at the line.
pub fn clock_is_slewed() {}

pub fn raw_counter() -> u64 {
    raw_ns()
}

/// The counter counts nanoseconds.
pub fn counter_scale() -> (u32, u32) {
    (1, 0)
}

pub fn set_deadline(deadline_ns: u64) {
    state().this().deadline.set(crate::timer::raw_deadline_ns(deadline_ns));
    poll();
}

/// User programs of the hosted machine are closures: there is no vDSO to call.
pub fn vdso_code() -> (&'static [u8], [(&'static str, usize); 4]) {
    (&[], [("", 0); 4])
}

pub fn install_handlers(handlers: &'static Handlers) {
    state().handlers.set(Some(handlers));
}

pub fn interrupted_user() -> bool {
    state().this().interrupted_user.get()
}

pub fn disable_faults() {
    let cpu = state().this();
    assert!(!cpu.current.get().is_null(), "user memory needs a current thread");
    let count = &context::current().arch.faults_off;
    count.set(count.get() + 1);
}

pub fn enable_faults() {
    let count = &context::current().arch.faults_off;
    count.set(count.get() - 1);
}

/// Lets time pass on every CPU.
pub fn charge(ns: u64) {
    let clock = &state().clock;
    clock.set(clock.get() + ns);
}

/// Moves the clock on, as if this CPU had computed for so long, and takes what became due.
pub fn advance_clock(ns: u64) {
    charge(ns);
    poll();
}

/// Takes pending interrupts of kernel code if they are unmasked, and reschedules if that became due: masked, as at the end
/// of an interrupt.
fn poll() {
    while take_interrupts(false) {
        if preemption_is_due() {
            state().this().masked.set(true);
            (state().handlers().preempt)();
            // Perhaps another CPU than before.
            state().this().masked.set(false);
        }
    }
}

/// A timer interrupt that comes while preemption is off comes again after this.
const RETRY_NS: u64 = 20_000;

/// Runs the handlers of what is pending. False when interrupts are masked or none is pending.
pub fn take_interrupts(from_user: bool) -> bool {
    let state = state();
    if dying() || state.this().masked.get() || !state.this().interrupt_pending(state.clock.get()) {
        return false;
    }
    let Some(handlers) = state.handlers.get() else { return false };
    let cpu = state.this();
    cpu.masked.set(true);
    cpu.interrupted_user.set(from_user);
    if cpu.ipi.take() {
        (handlers.ipi)();
    }
    let now = state.clock.get();
    if cpu.deadline.get() <= now && preempt_count() > 0 {
        // As on the Pi: callbacks take locks that do not mask interrupts, and one may be held.
        cpu.deadline.set(now + RETRY_NS);
    } else if cpu.deadline.get() <= now {
        cpu.deadline.set(u64::MAX);
        (handlers.timer)();
    }
    if cpu.device.take() {
        (handlers.interrupt)();
    }
    cpu.interrupted_user.set(false);
    cpu.masked.set(false);
    true
}

/// Calls the kernel's `preempt` when a reschedule is due and nothing forbids it.
fn preempt_if_due() {
    if preemption_is_due() {
        (state().handlers().preempt)();
    }
}

fn preemption_is_due() -> bool {
    let state = state();
    let cpu = state.this();
    if dying() || cpu.masked.get() || cpu.current.get().is_null() || !state.driving.get() {
        return false;
    }
    let thread = context::current();
    thread.arch.preempt.get() == 0 && thread.work().load(Ordering::Relaxed) & work::RESCHED != 0
}

/// In interleaving machines, lets another CPU run here, one time in eight.
fn maybe_pause() {
    let state = state();
    if state.interleave.get() && state.driving.get() && !dying() && state.next_random() & 7 == 0 {
        suspend(Yielded::Pause);
    }
}
