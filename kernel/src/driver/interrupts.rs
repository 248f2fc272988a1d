//! The interrupt controller of the peripherals (BCM2835 ARM Peripherals, chapter 7): 64 lines of the peripherals and 8 of
//! the ARM block. Its one output is a line of each core's local controller, which hal handles; the firmware leaves it
//! routed to core 0.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use hal::board::Mmio;
use spin::Once;

use crate::board::{Board, Kind};

const PENDING_ARM: usize = 0x00;
const PENDING: [usize; 2] = [0x04, 0x08];
const ENABLE: [usize; 3] = [0x10, 0x14, 0x18];
const DISABLE: [usize; 3] = [0x1c, 0x20, 0x24];
const LINES: usize = 72;

/// The bcm2835 binding's registers begin at 0xb200, where `PENDING_ARM` is; the bcm2836 one's are the same block.
struct Controller {
    registers: Mmio,
    handlers: [Once<Arc<dyn InterruptHandler>>; LINES],
    unexpected: AtomicU64,
}

/// Who is called when a line is pending.
pub trait InterruptHandler: Send + Sync {
    /// Lets the device interrupt. Called after the line was unmasked.
    fn start(&self);
    /// Serves the device until it no longer asks. Interrupts are masked.
    fn interrupt(&self);
}

static CONTROLLER: Once<Controller> = Once::new();

/// Finds the controller and masks every line. `false` when the board has none.
pub fn probe(board: &Board) -> bool {
    let Some(registers) = super::map(board, Kind::PeripheralController) else { return false };
    for offset in DISABLE {
        registers.write32(offset, u32::MAX);
    }
    CONTROLLER.call_once(|| Controller {
        registers,
        handlers: [const { Once::new() }; LINES],
        unexpected: AtomicU64::new(0),
    });
    true
}

/// Has `handler` called for `line` from now on. A line has one handler; a second registration is ignored. `name`: of the
/// device, for `/proc/interrupts`.
pub fn register(line: u8, name: &'static str, handler: Arc<dyn InterruptHandler>) {
    let Some(controller) = CONTROLLER.get() else { return };
    let line = usize::from(line);
    if let Some(slot) = controller.handlers.get(line) {
        slot.call_once(|| handler);
        kcore::interrupts::name_line(line, name);
        controller.registers.write32(ENABLE[line / 32], 1 << (line % 32));
    }
}

/// Serves every pending line once. Lines are level-triggered, so what comes up meanwhile interrupts again.
pub fn dispatch() {
    let Some(controller) = CONTROLLER.get() else { return };
    let registers = &controller.registers;
    for (bank, offset) in PENDING.into_iter().enumerate() {
        controller.serve(bank, registers.read32(offset));
    }
    // The upper bits summarise the other two words.
    controller.serve(2, registers.read32(PENDING_ARM) & 0xff);
}

impl Controller {
    fn serve(&self, bank: usize, mut pending: u32) {
        while pending != 0 {
            let bit = pending.trailing_zeros();
            pending &= pending - 1;
            let line = bank * 32 + bit as usize;
            match self.handlers.get(line).and_then(Once::get) {
                Some(handler) => {
                    kcore::interrupts::count_line(line);
                    handler.interrupt();
                }
                None => self.mask_unexpected(bank, bit),
            }
        }
    }

    /// A line that nobody handles would interrupt for ever.
    #[cold]
    fn mask_unexpected(&self, bank: usize, bit: u32) {
        self.registers.write32(DISABLE[bank], 1 << bit);
        let seen = self.unexpected.fetch_add(1, Ordering::Relaxed);
        log::warn!("irq {}: nobody cared, line masked (unexpected interrupts: {})", bank * 32 + bit as usize, seen + 1);
    }
}
