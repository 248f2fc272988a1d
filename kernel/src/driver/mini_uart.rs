//! The mini UART of the auxiliary block (BCM2835 ARM Peripherals, 2.2, with the errata): a small 16550. Linux's `ttyS0` or
//! `ttyS1`. It has 8 data bits, no parity, and a speed divided from the core clock.

use hal::board::Mmio;

use super::serial::{Line, Received, TransmitInterrupt, Uart};

/// The enables of the auxiliary block, on the same page as the UART.
const AUX_ENABLES: usize = 0x04;
const AUX_ENABLE_UART: u32 = 1;

const DATA: usize = 0x40;
const INTERRUPT_ENABLE: usize = 0x44;
const FIFO_CONTROL: usize = 0x48;
const LINE_CONTROL: usize = 0x4c;
const LINE_STATUS: usize = 0x54;
const CONTROL: usize = 0x60;
const STATUS: usize = 0x64;
const BAUD: usize = 0x68;

const INTERRUPT_RECEIVE: u32 = 1 << 0;
const INTERRUPT_TRANSMIT: u32 = 1 << 1;
const CLEAR_FIFOS: u32 = 0b110;
/// The manual has one bit for "8 bits"; the errata know that it takes two.
const EIGHT_BITS: u32 = 0b11;
const STATUS_DATA_READY: u32 = 1 << 0;
const CONTROL_RECEIVE_TRANSMIT: u32 = 0b11;
const FIFO_BYTES: u32 = 8;

/// The chip.
pub struct MiniUart {
    page: Mmio,
    clock_hz: u32,
}

impl MiniUart {
    /// The chip in the auxiliary block at `page`, the core clock being `clock_hz`. Its interrupts are off.
    pub fn new(page: Mmio, clock_hz: u32) -> Self {
        page.write32(AUX_ENABLES, page.read32(AUX_ENABLES) | AUX_ENABLE_UART);
        page.write32(INTERRUPT_ENABLE, 0);
        Self { page, clock_hz }
    }

    fn change_interrupts(&self, change: impl FnOnce(u32) -> u32) {
        let enabled = self.page.read32(INTERRUPT_ENABLE) & (INTERRUPT_RECEIVE | INTERRUPT_TRANSMIT);
        let changed = change(enabled);
        if changed != enabled {
            self.page.write32(INTERRUPT_ENABLE, changed);
        }
    }
}

impl Uart for MiniUart {
    fn transmit_room(&self) -> usize {
        // Bits 24 to 27: bytes in the transmit FIFO.
        FIFO_BYTES.saturating_sub(self.page.read32(STATUS) >> 24 & 0xf) as usize
    }

    fn transmit(&self, byte: u8) {
        self.page.write32(DATA, byte.into());
    }

    fn receive(&self) -> Received {
        if self.page.read32(LINE_STATUS) & STATUS_DATA_READY == 0 {
            return Received::Empty;
        }
        Received::Byte(self.page.read32(DATA).to_le_bytes()[0])
    }

    fn set_transmit_interrupt(&self, state: TransmitInterrupt) {
        self.change_interrupts(|enabled| match state {
            TransmitInterrupt::On => enabled | INTERRUPT_TRANSMIT,
            TransmitInterrupt::Off => enabled & !INTERRUPT_TRANSMIT,
        });
    }

    fn enable_receive_interrupt(&self) {
        self.change_interrupts(|enabled| enabled | INTERRUPT_RECEIVE);
    }

    fn acknowledge(&self) {
        // Both interrupts follow the FIFOs.
    }

    fn set_line(&self, line: &Line) {
        self.page.write32(CONTROL, 0);
        self.page.write32(FIFO_CONTROL, CLEAR_FIFOS);
        self.page.write32(LINE_CONTROL, EIGHT_BITS);
        // baud = clock / (8 * (register + 1))
        let divisor = (self.clock_hz / 4 / line.baud.max(1)).div_ceil(2).clamp(1, 0x1_0000);
        self.page.write32(BAUD, divisor - 1);
        self.page.write32(CONTROL, CONTROL_RECEIVE_TRANSMIT);
    }
}
