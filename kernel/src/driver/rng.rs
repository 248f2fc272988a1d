//! The BCM2835 random number generator. It seeds the kernel's generator, which is all it is asked for.

use hal::board::Mmio;
use spin::Once;

use crate::board::{Board, Kind};

const CONTROL: usize = 0x0;
const STATUS: usize = 0x4;
const DATA: usize = 0x8;
const INTERRUPT_MASK: usize = 0x10;
const CONTROL_ENABLE: u32 = 1;
const INTERRUPT_OFF: u32 = 1;
/// Words that are made and thrown away after it was switched on, as they are less random (Linux `RNG_WARMUP_COUNT`).
const WARMUP_COUNT: u32 = 0x4_0000;
/// Making a word takes about 8 us, warming up about a second: who asks this early waits no longer than this.
const TIMEOUT_NS: u64 = 2_000_000;

struct Generator {
    registers: Mmio,
    /// The boot loader's random bytes, mixed into what is handed out.
    boot_seed: &'static [u8],
}

static GENERATOR: Once<Generator> = Once::new();

/// Switches the generator on and makes it hal's source of entropy. `false` when the board has none.
pub fn probe(board: &Board) -> bool {
    let Some(registers) = super::map(board, Kind::Rng) else { return false };
    registers.write32(INTERRUPT_MASK, registers.read32(INTERRUPT_MASK) | INTERRUPT_OFF);
    if registers.read32(CONTROL) & CONTROL_ENABLE == 0 {
        registers.write32(STATUS, WARMUP_COUNT);
        registers.write32(CONTROL, CONTROL_ENABLE);
    }
    GENERATOR.call_once(|| Generator { registers, boot_seed: board.random_seed });
    hal::board::set_entropy(fill);
    true
}

/// Fills `buffer`. Where the generator is not warm yet, what is missing comes from the jitter between the CPU's clock and
/// the timer's, and from the boot loader's seed.
fn fill(buffer: &mut [u8]) {
    let Some(generator) = GENERATOR.get() else { return };
    let deadline = hal::timer::now_ns() + TIMEOUT_NS;
    for chunk in buffer.chunks_mut(4) {
        let word = generator.word(deadline).unwrap_or_else(jitter);
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    for (byte, seed) in buffer.iter_mut().zip(generator.boot_seed.iter().cycle()) {
        *byte ^= seed;
    }
}

impl Generator {
    fn word(&self, deadline_ns: u64) -> Option<u32> {
        // Bits 24 to 31: words in the FIFO.
        while self.registers.read32(STATUS) >> 24 == 0 {
            if hal::timer::now_ns() >= deadline_ns {
                return None;
            }
            hal::cpu::relax();
        }
        Some(self.registers.read32(DATA))
    }
}

/// A word from the low bits of the counter between reads whose duration varies.
fn jitter() -> u32 {
    (0..32).fold(0u32, |word, _| {
        hal::cpu::relax();
        word.rotate_left(5) ^ hal::timer::raw_counter() as u32
    })
}
