//! Pins 14 and 15, the serial pins of the header: which serial port is on them, and putting one there (BCM2835 ARM
//! Peripherals, chapter 6).

use hal::board::Mmio;

use crate::board::{Board, Kind};

/// The function select register of pins 10 to 19, three bits a pin.
const FUNCTION_SELECT_1: usize = 0x04;
const PULL: usize = 0x94;
const PULL_CLOCK_0: usize = 0x98;
const PIN_14_SHIFT: u32 = 12;
const PIN_15_SHIFT: u32 = 15;
const FUNCTION_MASK: u32 = 0b111;
const PINS_14_15: u32 = 0b11 << 14;

/// The alternate functions that put a serial port on the pins.
const FUNCTIONS: [(Kind, u32); 2] = [(Kind::Pl011, 0b100), (Kind::MiniUart, 0b010)];

/// The pin controller.
pub struct Gpio(Mmio);

/// Finds the pin controller.
pub fn probe(board: &Board) -> Option<Gpio> {
    super::map(board, Kind::Gpio).map(Gpio)
}

impl Gpio {
    /// The serial port that the firmware put on the header.
    pub fn serial_port(&self) -> Option<Kind> {
        let code = self.0.read32(FUNCTION_SELECT_1) >> PIN_14_SHIFT & FUNCTION_MASK;
        FUNCTIONS.iter().find(|(_, function)| *function == code).map(|(port, _)| *port)
    }

    /// Puts a serial port on the header, with the pulls off, unless it is there already.
    pub fn put_on_header(&self, port: Kind) {
        let Some((_, code)) = FUNCTIONS.iter().find(|(of, _)| *of == port && self.serial_port() != Some(port)) else {
            return;
        };
        let others = !(FUNCTION_MASK << PIN_14_SHIFT | FUNCTION_MASK << PIN_15_SHIFT);
        let select = self.0.read32(FUNCTION_SELECT_1) & others;
        self.0.write32(FUNCTION_SELECT_1, select | code << PIN_14_SHIFT | code << PIN_15_SHIFT);
        // The pull setting is clocked into the pins; set-up and hold times are 150 cycles of the core clock.
        self.0.write32(PULL, 0);
        wait_a_microsecond();
        self.0.write32(PULL_CLOCK_0, PINS_14_15);
        wait_a_microsecond();
        self.0.write32(PULL_CLOCK_0, 0);
    }
}

fn wait_a_microsecond() {
    let deadline = hal::timer::now_ns() + 1_000;
    while hal::timer::now_ns() < deadline {
        hal::cpu::relax();
    }
}
