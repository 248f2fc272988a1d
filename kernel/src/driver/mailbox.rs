//! The firmware's property mailbox: questions and answers in memory that both sides see.
//!
//! The interface is described in the Raspberry Pi firmware wiki ("Mailbox property interface") and used by Linux's
//! drivers/firmware/raspberrypi.c. A message is a list of tags; we send one tag at a time, at boot, and wait for the answer.
//!
//! The VideoCore reads RAM past the ARM's caches, so the message lies in a page that is mapped as device memory. Like all
//! memory below the kernel image it is kept out of the allocator (`hal::board::set_memory`).

use hal::board::Mmio;

use crate::board::{Board, Kind, Region};

/// The page of the message: the last one below the kernel image.
const MESSAGE_PAGE: Region = Region { start: 0x7_f000, length: 0x1000 };
/// The VideoCore's name for ARM physical address 0, through the alias that bypasses its L2 cache (BCM2837).
const BUS_ALIAS: u64 = 0xc000_0000;

const READ: usize = 0x00;
const STATUS: usize = 0x18;
const WRITE: usize = 0x20;
const WRITE_STATUS: usize = 0x38;
const STATUS_FULL: u32 = 1 << 31;
const STATUS_EMPTY: u32 = 1 << 30;
/// The channel of property messages from ARM to VideoCore.
const PROPERTY_CHANNEL: u32 = 8;
const CHANNEL_MASK: u32 = 0xf;

const REQUEST: u32 = 0;
const RESPONSE_SUCCESS: u32 = 0x8000_0000;
/// Set in a tag's length word when the firmware answered it.
const TAG_ANSWERED: u32 = 1 << 31;

/// The firmware answers within a millisecond or two; after this long it never will.
const TIMEOUT_NS: u64 = 200_000_000;

/// The firmware's clocks (property tag 0x30002).
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Clock {
    /// The PL011's.
    Uart = 2,
    /// The VPU's, from which the mini UART divides.
    Core = 4,
}

/// The mailbox.
pub struct Mailbox {
    registers: Mmio,
    message: Mmio,
}

/// Finds the mailbox. Nothing when the board has none or something else lies in the message page.
pub fn probe(board: &Board) -> Option<Mailbox> {
    let overlaps = |region: &Region| region.start < MESSAGE_PAGE.end() && MESSAGE_PAGE.start < region.end();
    if board.reserved.iter().chain(&board.initramfs).any(overlaps) {
        return None;
    }
    Some(Mailbox {
        registers: super::map(board, Kind::Mailbox)?,
        message: hal::board::map_device(MESSAGE_PAGE.start, MESSAGE_PAGE.length as usize),
    })
}

impl Mailbox {
    /// The board's revision code (new style: bits 4 to 11 the type, bits 20 to 22 the memory size).
    pub fn board_revision(&self) -> Option<u32> {
        self.property(0x1_0002, []).map(|[revision]| revision)
    }

    /// The board's serial number.
    pub fn board_serial(&self) -> Option<u64> {
        self.property(0x1_0004, []).map(|[low, high]| u64::from(high) << 32 | u64::from(low))
    }

    /// The RAM that the firmware leaves to the ARM cores.
    pub fn arm_memory(&self) -> Option<Region> {
        self.property(0x1_0005, []).and_then(|[base, size]| Region::new(base.into(), size.into()))
    }

    /// The rate of a clock in Hz.
    pub fn clock_rate_hz(&self, clock: Clock) -> Option<u32> {
        self.property(0x3_0002, [clock as u32]).map(|[_, rate]| rate).filter(|rate| *rate > 0)
    }

    /// Sends one tag with `arguments` and returns the first `ANSWER` words of its value. Nothing when the firmware does
    /// not know the tag or does not answer.
    fn property<const ARGUMENTS: usize, const ANSWER: usize>(
        &self,
        tag: u32,
        arguments: [u32; ARGUMENTS],
    ) -> Option<[u32; ANSWER]> {
        const VALUE_AT: usize = 5;
        let value_words = ARGUMENTS.max(ANSWER);
        let total_bytes = (VALUE_AT + value_words + 1) * 4;
        let put = |index: usize, value: u32| self.message.write32(index * 4, value);
        put(0, u32::try_from(total_bytes).ok()?);
        put(1, REQUEST);
        put(2, tag);
        put(3, u32::try_from(value_words * 4).ok()?);
        put(4, 0);
        for index in 0..value_words {
            put(VALUE_AT + index, arguments.get(index).copied().unwrap_or(0));
        }
        put(VALUE_AT + value_words, 0);
        self.call()?;
        let get = |index: usize| self.message.read32(index * 4);
        if get(1) != RESPONSE_SUCCESS || get(4) & TAG_ANSWERED == 0 {
            return None;
        }
        Some(core::array::from_fn(|index| get(VALUE_AT + index)))
    }

    /// Posts the message and waits until the firmware has answered it.
    fn call(&self) -> Option<()> {
        let letter = u32::try_from(MESSAGE_PAGE.start + BUS_ALIAS).ok()? | PROPERTY_CHANNEL;
        let deadline = hal::timer::now_ns() + TIMEOUT_NS;
        let in_time = || hal::timer::now_ns() < deadline;
        while self.registers.read32(WRITE_STATUS) & STATUS_FULL != 0 {
            in_time().then_some(())?;
        }
        self.registers.write32(WRITE, letter);
        loop {
            while self.registers.read32(STATUS) & STATUS_EMPTY != 0 {
                in_time().then_some(())?;
            }
            // Letters of other channels are answers to nobody: nothing else is sent this early.
            if self.registers.read32(READ) & CHANNEL_MASK == PROPERTY_CHANNEL {
                return Some(());
            }
        }
    }
}
