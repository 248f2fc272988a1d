//! The end: `Kernel panic - not syncing`, in the words and order that people know from Linux.
//!
//! Says where and who, shows the registers if an exception led here, the calls that led here by name, and the last lines
//! of the log; then stops the other CPUs and stays, or restarts, as `panic=` on the command line wants it.
//!
//! Everything here polls and takes no lock that it could wait for: the panic may have come from under any of them.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kcore::init::PANIC_SECONDS;
use spin::Once;

use crate::board::Region;
use crate::driver::power;
use crate::symbols::{self, Symbols};

/// Lines of the log that are repeated.
const LOG_LINES: usize = 40;
/// A backtrace deeper than this is a loop in the frame records.
const MAX_FRAMES: usize = 48;

/// Which CPU panics, plus one; 0 while none does.
static PANICKING: AtomicUsize = AtomicUsize::new(0);
/// Where the kernel was linked, for the table of names.
static KERNEL_START: AtomicU64 = AtomicU64::new(0);
static SYMBOLS: Once<Symbols> = Once::new();

/// Sets what happens after a panic from the value of `panic=`.
pub fn set_timeout(value: Option<&str>) {
    PANIC_SECONDS.store(value.and_then(|text| text.parse().ok()).unwrap_or(0), Ordering::Relaxed);
}

/// Fails in the way that `drupe.test=` asks for, so that tests can look at the report.
pub fn fail_on_request(value: Option<&str>) {
    match value {
        Some("panic") => panic!("drupe.test=panic"),
        Some("overflow") => {
            log::warn!("drupe.test=overflow: {}", overflow(1));
        }
        Some(other) => log::warn!("drupe.test={other}: unknown; there are panic and overflow"),
        None => {}
    }
}

/// Runs into the guard page below the stack.
#[inline(never)]
#[expect(unconditional_recursion, reason = "the guard page ends it")]
fn overflow(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    overflow(depth + 1) + frame[63]
}

/// Finds the table of names behind the kernel. Returns where it lies; nothing when the image has none.
pub fn find_symbols(image: &hal::board::KernelImage) -> Option<Region> {
    KERNEL_START.store(image.virtual_start, Ordering::Relaxed);
    let start = image.physical_end;
    let bytes = symbols::size(hal::board::phys_slice(start, symbols::HEADER_BYTES))?;
    let table = Symbols::new(hal::board::phys_slice(start, bytes))?;
    SYMBOLS.call_once(|| table);
    kcore::task::kernel_stack::set_names(function_at);
    Region::new(start, bytes as u64)
}

/// The function that a return address in the kernel lies in: its name, how far into it that is, and its length.
///
/// It is looked up by the byte before it, which is part of the call: behind a call that never returns the next function
/// may begin.
fn function_at(address: u64) -> Option<(&'static str, usize, usize)> {
    let offset = address.wrapping_sub(KERNEL_START.load(Ordering::Relaxed)).wrapping_sub(1);
    let (name, into, length) = SYMBOLS.get()?.find(usize::try_from(offset).ok()?)?;
    Some((name, into + 1, length))
}

/// A return address in the kernel as `function+0xoffset`.
pub struct Location(pub u64);

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match function_at(self.0) {
            Some((name, into, _)) => write!(f, "[<{:016x}>] {name}+{into:#x}", self.0),
            None => write!(f, "[<{:016x}>]", self.0),
        }
    }
}

/// The console without queues or locks.
struct Polled;

impl fmt::Write for Polled {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        kcore::printk::write_polled(text);
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    hal::cpu::irq_disable();
    let me = hal::cpu::id() + 1;
    match PANICKING.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => report(info),
        // The report itself failed: say where and give up on the rest.
        Err(first) if first == me => {
            let _ = writeln!(Polled, "\n---[ panic while panicking: {} ]---", info.message());
        }
        // Another CPU is at it.
        Err(_) => loop {
            hal::cpu::wait_for_interrupt();
        },
    }
    end()
}

fn report(info: &PanicInfo<'_>) {
    hal::board::halt_others();
    let mut out = Polled;
    // A console that fails has nobody to be reported to.
    let _ = writeln!(out, "\nKernel panic - not syncing: {}", info.message());
    if let Some(location) = info.location() {
        let _ = writeln!(out, "at {}:{}:{}", location.file(), location.line(), location.column());
    }
    let _ = write!(out, "CPU: {} ", hal::cpu::id());
    kcore::init::describe_current(&mut out);
    let _ = writeln!(out);
    hal::board::with_exception_registers(|registers| {
        // The instruction after it is what a return address would be.
        let _ = writeln!(out, "{registers}\npc is {}", Location(registers.pc() + 4));
    });
    let _ = writeln!(out, "Call trace:");
    let mut frames = 0;
    hal::board::backtrace(&mut |address| {
        frames += 1;
        let _ = writeln!(out, " {}", Location(address));
        frames < MAX_FRAMES
    });
    let _ = writeln!(out, "Last lines of the log:");
    kcore::printk::last_lines(LOG_LINES, &mut |line| {
        let _ = writeln!(out, "{line}");
    });
    let _ = writeln!(out, "---[ end Kernel panic - not syncing: {} ]---", info.message());
}

/// What `panic=` wants.
fn end() -> ! {
    let seconds = i64::from(PANIC_SECONDS.load(Ordering::Relaxed));
    if seconds < 0 {
        power::power_off();
    }
    if seconds > 0 {
        let deadline = hal::timer::now_ns().saturating_add(seconds.unsigned_abs().saturating_mul(1_000_000_000));
        while hal::timer::now_ns() < deadline {
            hal::cpu::relax();
        }
        power::restart();
    }
    loop {
        hal::cpu::wait_for_interrupt();
    }
}
