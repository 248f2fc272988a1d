//! The boot, as an index: a line of code and a line of the log for each subsystem. What needs more is in [`crate::boot`].

use hal::board::BootInfo;
use kcore::init::BootParams;

use crate::driver::{interrupts, mailbox, power, rng};
use crate::{boot, panic};

hal::kernel_entry!(main);

/// The boot CPU comes here with the MMU on, the first gigabyte mapped, a small heap, and interrupts masked.
fn main(info: BootInfo) -> ! {
    kcore::printk::init();
    let mut board = boot::discover(&info);
    kcore::printk::configure(board.command_line);
    panic::set_timeout(board.parameter("panic"));
    let symbols = panic::find_symbols(&hal::board::kernel_image());
    board.reserved.extend(symbols);
    let mailbox = mailbox::probe(&board);
    boot::settle_memory(&mut board, mailbox.as_ref());
    let board = boot::keep(board);

    hal::board::set_memory(&boot::ram(board), &boot::reserved(board));
    hal::board::finish_mapping();
    let has_power = power::probe(board);
    let serial = boot::start_console(board, mailbox.as_ref());
    boot::log_machine(board, mailbox.as_ref());
    boot::log_found("kernel symbols", symbols.is_some());
    boot::log_found("interrupt controllers", boot::start_local_controller(board) && interrupts::probe(board));
    boot::log_found("random number generator", rng::probe(board));
    boot::log_found("watchdog and power", has_power);
    panic::fail_on_request(board.parameter("drupe.test"));
    if let Some(serial) = &serial {
        serial.start_receiving();
    }
    kcore::init::start(BootParams {
        command_line: board.command_line,
        initramfs: boot::initramfs(board),
        cpus: board.cpus.len().clamp(1, hal::MAX_CPUS),
        board_name: board.model,
        serial: serial.map(|serial| serial.port),
        power: &power::Manager,
        start_cpu: boot::start_cpu,
        interrupt: interrupts::dispatch,
    })
}
