//! The steps of the boot: from what the boot loader left in memory to a [`Board`] that hal and kcore know, to a console,
//! to CPUs that run.

use alloc::vec::Vec;
use core::ops::Range;

use hal::board::{BootInfo, Method, phys_slice};
use hal::mem::{FrameRange, PAGE_SIZE, Pfn};
use spin::Once;

use crate::board::{Board, Kind, Region, StartMethod, atags, raspi3, tree};
use crate::driver::mailbox::Mailbox;
use crate::driver::{gpio, serial};

/// RAM that is certainly there when nobody says how much there is: half of the smallest 64-bit Pi's 512 MiB.
const LEAST_MEMORY: Region = Region { start: 0, length: 256 << 20 };
/// Physical memory that hal maps before it knows the machine.
const EARLY_MAPPED: u64 = 1 << 30;

static BOARD: Once<Board> = Once::new();

/// Describes the machine: from the device tree at `boot.dtb_phys`, else from the built-in table and the ATAG list.
pub fn discover(boot: &BootInfo) -> Board {
    from_tree(boot.dtb_phys).unwrap_or_else(built_in)
}

fn from_tree(address: u64) -> Option<Board> {
    // The word that a boot loader leaves in x0 may be anything. A tree is aligned to 8 bytes, not at 0, and in the first
    // gigabyte, which is what is mapped this early.
    if address == 0 || !address.is_multiple_of(8) || address >= EARLY_MAPPED - tree::MAX_BYTES {
        return None;
    }
    let size = tree::size(phys_slice(address, tree::HEADER_BYTES))?;
    let mut board = tree::parse(phys_slice(address, size))?;
    board.reserved.extend(Region::new(address, size as u64));
    Some(board)
}

fn built_in() -> Board {
    let mut board = raspi3::board();
    atags::apply(phys_slice(atags::ADDRESS, atags::MAX_BYTES), &mut board);
    board
}

/// Fills in what only the firmware knows, and cuts RAM off where the peripherals begin.
pub fn settle_memory(board: &mut Board, mailbox: Option<&Mailbox>) {
    if board.memory.is_empty() {
        board.memory.push(mailbox.and_then(Mailbox::arm_memory).unwrap_or(LEAST_MEMORY));
    }
    let Some(peripherals) = board.devices.iter().map(|device| device.registers.start).min() else { return };
    for region in &mut board.memory {
        region.length = region.length.min(peripherals.saturating_sub(region.start));
    }
    board.memory.retain(|region| region.length > 0);
}

/// The board does not change any more and stays for as long as the kernel runs.
pub fn keep(board: Board) -> &'static Board {
    BOARD.call_once(|| board)
}

/// All RAM, for hal.
pub fn ram(board: &Board) -> Vec<Range<u64>> {
    board.memory.iter().map(|region| region.start..region.end()).collect()
}

/// What of it nobody may allocate, for hal.
pub fn reserved(board: &Board) -> Vec<Range<u64>> {
    board.reserved.iter().chain(&board.initramfs).map(|region| region.start..region.end()).collect()
}

/// The initramfs as frames and a length. One that does not begin on a page, or not in RAM, is refused with a message; the
/// Pi firmware and QEMU load it to a page.
pub fn initramfs(board: &Board) -> Option<(FrameRange, usize)> {
    let region = board.initramfs?;
    let page = PAGE_SIZE as u64;
    let in_ram = board.memory.iter().any(|ram| ram.start <= region.start && region.end() <= ram.end());
    if !in_ram || !region.start.is_multiple_of(page) {
        log::error!("initramfs at {:#x}-{:#x} is not page-aligned RAM: ignored", region.start, region.end());
        return None;
    }
    log::info!("initramfs: {} KiB at {:#x}", region.length >> 10, region.start);
    let start = Pfn(u32::try_from(region.start / page).ok()?);
    let count = u32::try_from(region.length.div_ceil(page)).ok()?;
    Some((FrameRange { start, count }, usize::try_from(region.length).ok()?))
}

/// Opens the serial port that is the console and shows what the log has so far.
pub fn start_console(board: &Board, mailbox: Option<&Mailbox>) -> Option<serial::Found> {
    let pins = gpio::probe(board);
    let console = board.console(pins.as_ref().and_then(gpio::Gpio::serial_port));
    if let Some(pins) = pins {
        pins.put_on_header(console.port);
    }
    let found = serial::probe(board, &console, mailbox)?;
    kcore::printk::set_console(found.port.clone());
    log::info!("printk: console [{}] enabled", console.name);
    Some(found)
}

/// Says what machine this is.
pub fn log_machine(board: &Board, mailbox: Option<&Mailbox>) {
    log::info!("Machine model: {}", board.model);
    if let Some((revision, serial)) = mailbox.and_then(|mailbox| mailbox.board_revision().zip(mailbox.board_serial())) {
        log::info!("Board revision {revision:06x}, serial {serial:016x}");
    }
    log::info!("Kernel command line: {}", board.command_line);
    for region in &board.memory {
        log::info!("Memory: {:#011x}-{:#011x}, {} MiB", region.start, region.end() - 1, region.length >> 20);
    }
}

/// Says whether a part of the machine is there.
pub fn log_found(what: &str, found: bool) {
    if found {
        log::info!("{what}: ready");
    } else {
        log::warn!("{what}: not found");
    }
}

/// Gives hal the controller of each core's own interrupts. `false` when the board has none.
pub fn start_local_controller(board: &Board) -> bool {
    let Some(device) = board.device(Kind::LocalController) else { return false };
    hal::board::init_local_controller(device.registers.start);
    true
}

/// Sets a CPU going. It enters the kernel through hal and then calls `entry`. `false` when it did not come up.
pub fn start_cpu(cpu: usize, entry: fn() -> !) -> bool {
    let Some(method) = BOARD.get().and_then(|board| board.cpus.get(cpu)) else { return false };
    let method = match *method {
        StartMethod::SpinTable(release_addr) => Method::SpinTable { release_addr },
        StartMethod::Psci(mpidr) => Method::Psci { mpidr },
    };
    hal::board::start_cpu(cpu, method, entry)
}
