//! The PL011 (Arm DDI 0183): the Pi's full serial port, `ttyAMA0`.

use hal::board::Mmio;

use super::serial::{Line, Parity, Received, TransmitInterrupt, Uart};

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const BAUD_INTEGER: usize = 0x24;
const BAUD_FRACTION: usize = 0x28;
const LINE_CONTROL: usize = 0x2c;
const CONTROL: usize = 0x30;
const FIFO_LEVELS: usize = 0x34;
const INTERRUPT_MASK: usize = 0x38;
const INTERRUPT_CLEAR: usize = 0x44;

const DATA_BREAK: u32 = 1 << 10;

const FLAG_BUSY: u32 = 1 << 3;
const FLAG_RECEIVE_EMPTY: u32 = 1 << 4;
const FLAG_TRANSMIT_FULL: u32 = 1 << 5;
const FLAG_TRANSMIT_EMPTY: u32 = 1 << 7;

const LINE_PARITY: u32 = 1 << 1;
const LINE_EVEN: u32 = 1 << 2;
const LINE_TWO_STOP_BITS: u32 = 1 << 3;
const LINE_FIFOS: u32 = 1 << 4;
const LINE_DATA_BITS_SHIFT: u32 = 5;

const CONTROL_ENABLE: u32 = 1 << 0;
const CONTROL_TRANSMIT: u32 = 1 << 8;
const CONTROL_RECEIVE: u32 = 1 << 9;

const INTERRUPT_RECEIVE: u32 = 1 << 4;
const INTERRUPT_TRANSMIT: u32 = 1 << 5;
const INTERRUPT_RECEIVE_TIMEOUT: u32 = 1 << 6;
const INTERRUPT_ERRORS: u32 = 0xf << 7;

/// Interrupt when a quarter of the receive FIFO is full, so that 12 more bytes (a millisecond at 115200 baud) may come
/// before one is lost; and when an eighth of the transmit FIFO is left.
const LEVELS: u32 = 0b001 << 3;
/// The revision in the Pi has FIFOs of 16 bytes.
const FIFO_BYTES: usize = 16;

/// The chip.
pub struct Pl011 {
    registers: Mmio,
    clock_hz: u32,
}

impl Pl011 {
    /// The chip at `registers`, fed with a clock of `clock_hz`. Its interrupts are off.
    pub fn new(registers: Mmio, clock_hz: u32) -> Self {
        registers.write32(INTERRUPT_MASK, 0);
        Self { registers, clock_hz }
    }

    fn change_interrupts(&self, change: impl FnOnce(u32) -> u32) {
        let mask = self.registers.read32(INTERRUPT_MASK);
        let changed = change(mask);
        if changed != mask {
            self.registers.write32(INTERRUPT_MASK, changed);
        }
    }
}

impl Uart for Pl011 {
    fn transmit_room(&self) -> usize {
        let flags = self.registers.read32(FLAGS);
        if flags & FLAG_TRANSMIT_EMPTY != 0 { FIFO_BYTES } else { usize::from(flags & FLAG_TRANSMIT_FULL == 0) }
    }

    fn transmit(&self, byte: u8) {
        self.registers.write32(DATA, byte.into());
    }

    fn receive(&self) -> Received {
        if self.registers.read32(FLAGS) & FLAG_RECEIVE_EMPTY != 0 {
            return Received::Empty;
        }
        let word = self.registers.read32(DATA);
        if word & DATA_BREAK != 0 { Received::Break } else { Received::Byte(word.to_le_bytes()[0]) }
    }

    fn set_transmit_interrupt(&self, state: TransmitInterrupt) {
        self.change_interrupts(|mask| match state {
            TransmitInterrupt::On => mask | INTERRUPT_TRANSMIT,
            TransmitInterrupt::Off => mask & !INTERRUPT_TRANSMIT,
        });
    }

    fn enable_receive_interrupt(&self) {
        self.registers.write32(FIFO_LEVELS, LEVELS);
        self.change_interrupts(|mask| mask | INTERRUPT_RECEIVE | INTERRUPT_RECEIVE_TIMEOUT | INTERRUPT_ERRORS);
    }

    fn acknowledge(&self) {
        // The receive and transmit interrupts follow the FIFOs and clear themselves.
        self.registers.write32(INTERRUPT_CLEAR, INTERRUPT_RECEIVE_TIMEOUT | INTERRUPT_ERRORS);
    }

    fn set_line(&self, line: &Line) {
        // DDI 0183, 3.3.8: finish the byte, switch off, flush the FIFO by disabling it, then change the line.
        while self.registers.read32(FLAGS) & FLAG_BUSY != 0 {
            hal::cpu::relax();
        }
        self.registers.write32(CONTROL, 0);
        self.registers.write32(LINE_CONTROL, 0);
        // The divisor is clock / (16 * baud), in 64ths, rounded.
        let divisor = (u64::from(self.clock_hz) * 8 / u64::from(line.baud.max(1))).div_ceil(2).clamp(64, 0xffff << 6);
        self.registers.write32(BAUD_INTEGER, (divisor >> 6) as u32);
        self.registers.write32(BAUD_FRACTION, (divisor & 0x3f) as u32);
        let data_bits = u32::from(line.data_bits.clamp(5, 8) - 5) << LINE_DATA_BITS_SHIFT;
        let stop_bits = if line.stop_bits == 2 { LINE_TWO_STOP_BITS } else { 0 };
        let parity = match line.parity {
            Parity::None => 0,
            Parity::Even => LINE_PARITY | LINE_EVEN,
            Parity::Odd => LINE_PARITY,
        };
        // Writing the line control also latches the divisor.
        self.registers.write32(LINE_CONTROL, LINE_FIFOS | data_bits | stop_bits | parity);
        self.registers.write32(CONTROL, CONTROL_ENABLE | CONTROL_TRANSMIT | CONTROL_RECEIVE);
    }
}
