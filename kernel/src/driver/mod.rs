//! Drivers of the Pi's devices. A driver owns its registers, implements a trait of kcore, and decides nothing.
//!
//! [`interrupts`] is the root: it asks the controller which lines are pending and calls who registered for them.
//! [`serial`] has what the two serial ports share, [`pl011`] and [`mini_uart`] the registers of each. [`mailbox`] talks
//! to the firmware, [`power`] ends the machine, [`rng`] makes random numbers, [`gpio`] says which port is on the pins.

pub mod gpio;
pub mod interrupts;
pub mod mailbox;
pub mod mini_uart;
pub mod pl011;
pub mod power;
pub mod rng;
pub mod serial;

use hal::board::Mmio;

use crate::board::{Board, Device, Kind, Region};

/// The registers of the first device of a kind, mapped.
fn map(board: &Board, kind: Kind) -> Option<Mmio> {
    board.device(kind).map(map_device)
}

/// Maps the pages that a device's registers are in. Some bindings end before the last register does.
fn map_device(device: &Device) -> Mmio {
    const PAGE: u64 = hal::mem::PAGE_SIZE as u64;
    let Region { start, length } = device.registers;
    let to_page_end = (start % PAGE + length).next_multiple_of(PAGE) - start % PAGE;
    hal::board::map_device(start, usize::try_from(to_page_end).expect("addresses have 64 bits here"))
}
