//! The power manager: the watchdog that restarts the machine, and the word that tells the firmware to stay off.
//!
//! The registers are those of Linux's drivers/watchdog/bcm2835_wdt.c. There is no power switch: "off" is a reset into the
//! firmware, which reads from `RSTS` that partition 63 is to be booted, and halts. QEMU ends when it sees the two writes.

use hal::board::Mmio;
use spin::Once;

use crate::board::{Board, Kind};

const RESET_CONTROL: usize = 0x1c;
const RESET_STATUS: usize = 0x20;
const WATCHDOG: usize = 0x24;
/// Every write carries it.
const PASSWORD: u32 = 0x5a00_0000;
const RESET_CONTROL_MASK: u32 = 0xffff_ffcf;
const RESET_CONTROL_FULL: u32 = 0x0000_0020;
/// The boot partition is in the even bits of the lower twelve.
const PARTITION_MASK: u32 = 0xffff_faaa;
const PARTITION_HALT: u32 = 0x0000_0555;
/// Ticks of 16 us until the watchdog bites.
const WATCHDOG_TICKS: u32 = 10;

static REGISTERS: Once<Mmio> = Once::new();

/// Finds the power manager. `false` when the board has none: the machine then halts instead of ending.
pub fn probe(board: &Board) -> bool {
    let Some(registers) = super::map(board, Kind::PowerManager) else { return false };
    REGISTERS.call_once(|| registers);
    true
}

/// What kcore calls.
pub struct Manager;

impl kcore::init::Power for Manager {
    fn power_off(&self) {
        power_off();
    }

    fn restart(&self) {
        restart();
    }
}

/// Switches the machine off. Does not return where there is a power manager.
pub fn power_off() {
    reset_into(PARTITION_HALT);
}

/// Restarts the machine. Does not return where there is a power manager.
pub fn restart() {
    reset_into(0);
}

fn reset_into(partition: u32) {
    let Some(registers) = REGISTERS.get() else { return };
    let status = registers.read32(RESET_STATUS) & PARTITION_MASK;
    registers.write32(RESET_STATUS, PASSWORD | status | partition);
    registers.write32(WATCHDOG, PASSWORD | WATCHDOG_TICKS);
    let control = registers.read32(RESET_CONTROL) & RESET_CONTROL_MASK;
    registers.write32(RESET_CONTROL, PASSWORD | control | RESET_CONTROL_FULL);
    // 160 us until the watchdog bites.
    let deadline = hal::timer::now_ns() + 100_000_000;
    while hal::timer::now_ns() < deadline {
        hal::cpu::relax();
    }
}
