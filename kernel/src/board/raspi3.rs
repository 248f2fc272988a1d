//! The Raspberry Pi 3 (BCM2837), for boot loaders that hand over no device tree. QEMU's `raspi3b` without `-dtb` is one.
//!
//! Addresses are those of the "BCM2835 ARM Peripherals" manual moved to 0x3f000000, and of "ARM Quad A7 core" for the
//! local controller.

use alloc::vec;
use alloc::vec::Vec;

use super::{Board, Device, Kind, Region, StartMethod};

const PERIPHERALS: u64 = 0x3f00_0000;

/// Where the firmware's parked cores poll for their entry point, CPU 0 to 3 (`cpu-release-addr` in the Pi's own tree).
const RELEASE_ADDRESSES: [u64; 4] = [0xd8, 0xe0, 0xe8, 0xf0];

/// The firmware's spin loop and release addresses.
const SPIN_TABLE: Region = Region { start: 0, length: 0x1000 };

/// What it is built of; memory size, command line and initramfs are for others to fill in.
pub fn board() -> Board {
    Board {
        model: "Raspberry Pi 3 Model B",
        reserved: vec![SPIN_TABLE],
        cpus: RELEASE_ADDRESSES.into_iter().map(StartMethod::SpinTable).collect(),
        devices: devices(),
        ..Board::default()
    }
}

fn devices() -> Vec<Device> {
    let peripheral = |kind, name, offset, length, interrupt| Device {
        kind,
        name,
        registers: Region { start: PERIPHERALS + offset, length },
        interrupt,
    };
    vec![
        Device {
            kind: Kind::LocalController,
            name: "local_intc@40000000",
            registers: Region { start: 0x4000_0000, length: 0x100 },
            interrupt: None,
        },
        peripheral(Kind::PeripheralController, "interrupt-controller@7e00b200", 0xb200, 0x200, None),
        peripheral(Kind::Mailbox, "mailbox@7e00b880", 0xb880, 0x40, Some(65)),
        peripheral(Kind::PowerManager, "watchdog@7e100000", 0x10_0000, 0x114, None),
        peripheral(Kind::Rng, "rng@7e104000", 0x10_4000, 0x10, None),
        peripheral(Kind::Gpio, "gpio@7e200000", 0x20_0000, 0xb4, None),
        peripheral(Kind::Pl011, "serial@7e201000", 0x20_1000, 0x200, Some(57)),
        peripheral(Kind::MiniUart, "serial@7e215040", 0x21_5040, 0x40, Some(29)),
    ]
}

#[cfg(test)]
mod tests {
    use super::board;
    use crate::board::Kind;

    #[test]
    fn the_built_in_table_has_what_a_console_needs() {
        let board = board();
        assert_eq!(board.cpus.len(), 4);
        assert_eq!(board.device(Kind::Pl011).map(|d| (d.registers.start, d.interrupt)), Some((0x3f20_1000, Some(57))));
        assert!(board.device(Kind::PeripheralController).is_some());
    }
}
