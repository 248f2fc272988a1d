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

/// What drives pin 14.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SerialFunction {
    /// Alternate function 0: the PL011.
    Pl011,
    /// Alternate function 5: the mini UART.
    MiniUart,
    /// Something else, or plain input and output.
    Other,
}

impl SerialFunction {
    fn code(self) -> Option<u32> {
        match self {
            SerialFunction::Pl011 => Some(0b100),
            SerialFunction::MiniUart => Some(0b010),
            SerialFunction::Other => None,
        }
    }
}

/// The pin controller.
pub struct Gpio(Mmio);

/// Finds the pin controller.
pub fn probe(board: &Board) -> Option<Gpio> {
    super::map(board, Kind::Gpio).map(Gpio)
}

impl Gpio {
    /// Which serial port the firmware put on the header.
    pub fn serial_function(&self) -> SerialFunction {
        let code = self.0.read32(FUNCTION_SELECT_1) >> PIN_14_SHIFT & FUNCTION_MASK;
        [SerialFunction::Pl011, SerialFunction::MiniUart]
            .into_iter()
            .find(|function| function.code() == Some(code))
            .unwrap_or(SerialFunction::Other)
    }

    /// Puts a serial port on the header, with the pulls off, unless it is there already.
    pub fn select_serial(&self, function: SerialFunction) {
        let Some(code) = function.code().filter(|_| self.serial_function() != function) else { return };
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
