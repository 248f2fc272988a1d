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

use crate::board::{Board, Device, Kind};

/// The registers of the first device of a kind, mapped.
fn map(board: &Board, kind: Kind) -> Option<Mmio> {
    board.device(kind).map(map_device)
}

fn map_device(device: &Device) -> Mmio {
    let length = usize::try_from(device.registers.length).expect("addresses have 64 bits here");
    hal::board::map_device(device.registers.start, length)
}
