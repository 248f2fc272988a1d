//! How often each CPU was interrupted by what: `/proc/interrupts` and the line `intr` of `/proc/stat`.
//!
//! The timer counts for itself ([`crate::time::timer`]); the mailbox, by which CPUs make each other reschedule, comes through
//! hal's handlers; the board's drivers count the lines of the peripherals. Only the CPU that is interrupted writes its counters, with interrupts masked.

use core::sync::atomic::{AtomicU64, Ordering};

use hal::cpu::{self, PerCpu};

use crate::fs::proc::text::Text;
use crate::time::timer;

/// Lines that the board may have.
pub const MAX_LINES: usize = 72;
/// The lines of the peripherals; the rest are the ARM block's.
const PERIPHERAL_LINES: usize = 64;

struct Counts {
    reschedule: AtomicU64,
    lines: [AtomicU64; MAX_LINES],
}

impl Counts {
    const fn new() -> Self {
        Counts { reschedule: AtomicU64::new(0), lines: [const { AtomicU64::new(0) }; MAX_LINES] }
    }
}

hal::global! {
    static COUNTS: PerCpu<Counts> = PerCpu::new([const { Counts::new() }; hal::MAX_CPUS]);
    static NAMES: [spin::Once<&'static str>; MAX_LINES] = [const { spin::Once::new() }; MAX_LINES];
}

#[inline(always)]
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Another CPU's request.
#[inline]
pub(crate) fn count_reschedule() {
    add(&COUNTS.this().reschedule);
}

/// A line of the board, on this CPU. Interrupts masked.
pub fn count_line(line: usize) {
    if let Some(counter) = COUNTS.this().lines.get(line) {
        add(counter);
    }
}

/// Who uses a line, for the listing.
pub fn name_line(line: usize, name: &'static str) {
    if let Some(slot) = NAMES.get(line) {
        slot.call_once(|| name);
    }
}

/// The number in the controller, as Linux's irq-bcm2835 counts: 32 for each register, the ARM block's first.
fn number_in_controller(line: usize) -> usize {
    if line < PERIPHERAL_LINES { line + 32 } else { line - PERIPHERAL_LINES }
}

/// Linux numbers the controller's lines from 10 on, and the virtual timer behind them.
const FIRST_NUMBER: usize = 10;
const TIMER_NUMBER: usize = 109;
/// The virtual timer in the local controller.
const TIMER_LINE: u64 = 3;

fn online() -> impl Iterator<Item = usize> {
    (0..hal::MAX_CPUS).filter(|cpu| cpu::online_mask() >> cpu & 1 != 0)
}

fn push_counts(text: &mut Text, of: impl Fn(usize) -> u64) {
    for cpu in online() {
        text.num_right(of(cpu), 10).byte(b' ');
    }
}

fn line_count(cpu: usize, line: usize) -> u64 {
    COUNTS.of(cpu).lines[line].load(Ordering::Relaxed)
}

/// The lines that somebody uses: number, line, name.
fn used_lines() -> impl Iterator<Item = (usize, usize, &'static str)> {
    let of = |line: usize| NAMES[line].get().map(|name| (FIRST_NUMBER + number_in_controller(line), line, *name));
    (0..MAX_LINES).filter_map(of)
}

/// `/proc/interrupts` (Linux `show_interrupts`, arm64's `show_ipi_list`).
pub fn show(text: &mut Text) {
    text.repeat(b' ', 11);
    for cpu in online() {
        text.str("CPU").num(cpu as u64).repeat(b' ', 7);
    }
    text.byte(b'\n');
    for (number, line, name) in used_lines() {
        text.num_right(number as u64, 3).str(": ");
        push_counts(text, |cpu| line_count(cpu, line));
        text.str(" ARMCTRL-level ").num_right(number_in_controller(line) as u64, 3);
        text.str(" Edge      ").str(name).byte(b'\n');
    }
    text.num_right(TIMER_NUMBER as u64, 3).str(": ");
    push_counts(text, timer::interrupts);
    text.str(" bcm2836-timer ").num_right(TIMER_LINE, 3).str(" Edge      arch_timer\nIPI0:");
    push_counts(text, |cpu| COUNTS.of(cpu).reschedule.load(Ordering::Relaxed));
    text.str("      Rescheduling interrupts\nErr:          0\n");
}

/// The line `intr` of `/proc/stat`: all interrupts, then those of each number. Those from CPU to CPU do not count.
pub fn show_stat(text: &mut Text) {
    let mut by_number = [0; TIMER_NUMBER + 1];
    by_number[TIMER_NUMBER] = online().map(timer::interrupts).sum();
    for (number, line, _) in used_lines() {
        by_number[number] = online().map(|cpu| line_count(cpu, line)).sum();
    }
    text.str("intr ").num(by_number.iter().sum());
    for count in by_number {
        text.field(count);
    }
    text.byte(b'\n');
}
