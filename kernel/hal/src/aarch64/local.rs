//! The BCM2836 local controller ("QA7"): per-core timer and mailbox interrupts ("ARM Quad A7 core", rev 3.4).

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;

use super::{timer, trap};

/// Kernel address of the registers; 0 until known.
static BASE: AtomicU64 = AtomicU64::new(0);

mod register {
    pub const CONTROL: u64 = 0x00;
    pub const PRESCALER: u64 = 0x08;
    pub const TIMER_CONTROL: u64 = 0x40;
    pub const MAILBOX_CONTROL: u64 = 0x50;
    pub const IRQ_SOURCE: u64 = 0x60;
    pub const FIQ_SOURCE: u64 = 0x70;
    pub const MAILBOX_SET: u64 = 0x80;
    pub const MAILBOX_CLEAR: u64 = 0xc0;
}

/// The virtual timer in TIMER_CONTROL and IRQ_SOURCE.
const VIRTUAL_TIMER: u32 = 1 << 3;
/// Mailbox 0 in IRQ_SOURCE: work for the core's scheduler.
const MAILBOX_0: u32 = 1 << 4;
/// Mailbox 1 in FIQ_SOURCE: a panic elsewhere.
const MAILBOX_1: u32 = 1 << 5;
/// In MAILBOX_CONTROL: mailbox 0 raises the IRQ, mailbox 1 the FIQ.
const MAILBOX_ROUTES: u32 = 1 << 0 | 1 << 5;

fn read(offset: u64) -> u32 {
    // SAFETY: `init` mapped the controller's page; offsets are its registers.
    unsafe { ((BASE.load(Ordering::Relaxed) + offset) as *const u32).read_volatile() }
}

fn write(offset: u64, value: u32) {
    // SAFETY: as above.
    unsafe { ((BASE.load(Ordering::Relaxed) + offset) as *mut u32).write_volatile(value) };
}

pub(super) fn init(base: u64) {
    BASE.store(base, Ordering::Relaxed);
    // The counter of all cores runs from the 19.2 MHz crystal, one count a tick, as Linux's irq-bcm2836 sets it up. Firmware
    // has done so; another boot loader may not.
    write(register::CONTROL, 0);
    write(register::PRESCALER, 0x8000_0000);
    init_core(super::cpu_id());
}

/// Routes this core's virtual timer and mailbox 0 to its IRQ, mailbox 1 to its FIQ.
pub(super) fn init_core(cpu: usize) {
    if BASE.load(Ordering::Relaxed) == 0 {
        return;
    }
    timer::stop();
    write(register::TIMER_CONTROL + 4 * cpu as u64, VIRTUAL_TIMER);
    write(register::MAILBOX_CONTROL + 4 * cpu as u64, MAILBOX_ROUTES);
}

pub fn send_ipi(cpu: usize) {
    // What this core stored before must be visible to the other when it wakes.
    barrier::dsb(barrier::ISHST);
    write(register::MAILBOX_SET + 0x10 * cpu as u64, 1);
}

/// Interrupts a core even if it has its IRQ masked.
pub(super) fn send_halt(cpu: usize) {
    if BASE.load(Ordering::Relaxed) != 0 {
        barrier::dsb(barrier::ISHST);
        write(register::MAILBOX_SET + 0x10 * cpu as u64 + 4, 1);
    }
}

/// The FIQ of this core.
pub(super) extern "C" fn handle_fiq() {
    let cpu = super::cpu_id() as u64;
    if read(register::FIQ_SOURCE + 4 * cpu) & MAILBOX_1 != 0 {
        write(register::MAILBOX_CLEAR + 0x10 * cpu + 4, u32::MAX);
        super::board::check_halt();
    }
}

/// What a timer calls may take locks that are not masked against interrupts (a signal looks at the receiver's credentials).
/// So the timer's work waits until the interrupted code holds no spin lock: Linux has softirqs for that; here the timer
/// interrupts again a moment later, which is rare, because what holds a lock that interrupts take has them masked.
fn timer_expired() {
    const MOMENT_NS: u64 = 20_000;
    if super::preempt_count() > 0 {
        return timer::set_deadline(timer::now_ns() + MOMENT_NS);
    }
    timer::stop();
    (trap::handlers().timer)();
}

/// An IRQ of this core: mailbox, timer, or a device behind the other controllers.
pub(super) fn handle_interrupt() {
    let cpu = super::cpu_id() as u64;
    let source = read(register::IRQ_SOURCE + 4 * cpu);
    if source & MAILBOX_0 != 0 {
        write(register::MAILBOX_CLEAR + 0x10 * cpu, u32::MAX);
        (trap::handlers().ipi)();
    }
    if source & VIRTUAL_TIMER != 0 {
        timer_expired();
    }
    if source & !(MAILBOX_0 | VIRTUAL_TIMER) != 0 {
        (trap::handlers().interrupt)();
    }
}
