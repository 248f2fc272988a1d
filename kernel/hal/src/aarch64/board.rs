//! What the image crate calls: the boot entry, memory layout, device windows, CPUs, the panic path.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aarch64_cpu::asm::barrier;

use super::{LINEAR_BASE, boot, cpu, kernel_map, linear, local, memory, trap};
use crate::MAX_CPUS;
use crate::trap::UserFrame;

/// What the boot loader said.
pub struct BootInfo {
    /// What was in x0: the physical address of a device tree, if the loader follows the protocol.
    pub dtb_phys: u64,
    /// The CPU that boots.
    pub cpu: usize,
}

/// Names the function that the boot CPU enters: `kernel_entry!(main)` with `fn main(BootInfo) -> !`.
#[macro_export]
macro_rules! kernel_entry {
    ($main:path) => {
        #[expect(unsafe_code, reason = "exports one symbol that hal's boot code calls; the signature is checked here")]
        #[unsafe(no_mangle)]
        fn __kernel_main(info: $crate::board::BootInfo) -> ! {
            let main: fn($crate::board::BootInfo) -> ! = $main;
            main(info)
        }
    };
}

/// Where the kernel image lies.
pub struct KernelImage {
    /// First virtual address.
    pub virtual_start: u64,
    /// First physical address.
    pub physical_start: u64,
    /// One past its last physical address.
    pub physical_end: u64,
}

/// Where the kernel image lies.
pub fn kernel_image() -> KernelImage {
    let [start, _, _, end] = kernel_map::image();
    KernelImage { virtual_start: start, physical_start: start - LINEAR_BASE, physical_end: end - LINEAR_BASE }
}

/// Memory that the loader left and nobody writes, in the first gigabyte.
pub fn phys_slice(phys: u64, length: usize) -> &'static [u8] {
    assert!(phys.saturating_add(length as u64) <= 0x3f00_0000, "boot data lies in low RAM");
    // SAFETY: mapped RAM; the caller reserves it before anything is allocated from it.
    unsafe { core::slice::from_raw_parts(linear(phys) as *const u8, length) }
}

/// Device registers (or a page shared with a device), accessed 32 bits at a time.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: u64,
    length: usize,
}

/// Maps a device's registers. They stay mapped.
pub fn map_device(phys: u64, length: usize) -> Mmio {
    Mmio { base: kernel_map::map_device(phys, length), length }
}

impl Mmio {
    fn check(&self, offset: usize) -> u64 {
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= self.length,
            "register offset {offset:#x} outside its window"
        );
        self.base + offset as u64
    }

    /// Reads the register at `offset`.
    #[inline]
    pub fn read32(&self, offset: usize) -> u32 {
        // SAFETY: inside the mapped window. Device memory is not the compiler's: no Rust object lives there.
        let value = unsafe { (self.check(offset) as *const u32).read_volatile() };
        // What the register says about memory or another device must not be overtaken by looking there (Linux `readl`).
        barrier::dmb(barrier::OSHLD);
        value
    }

    /// Writes the register at `offset`.
    #[inline]
    pub fn write32(&self, offset: usize, value: u32) {
        // What was stored for the device is there before the device is told (Linux `writel`).
        barrier::dmb(barrier::OSHST);
        // SAFETY: as for reads.
        unsafe { (self.check(offset) as *mut u32).write_volatile(value) };
    }
}

/// Fixes which RAM there is and which of it may be allocated. The kernel image and what lies below it are reserved too.
pub fn set_memory(ram: &[Range<u64>], reserved: &[Range<u64>]) {
    let image = kernel_image();
    let mut all = alloc::vec::Vec::with_capacity(reserved.len() + 1);
    all.extend_from_slice(reserved);
    // The firmware's spin tables and ATAGs are in the first pages, and frame 0 must never be anybody's.
    all.push(0..image.physical_end);
    memory::set_ranges(ram, &all);
    RAM.call_once(|| {
        let mut copy = [const { 0..0 }; 8];
        for (slot, range) in copy.iter_mut().zip(ram) {
            *slot = range.clone();
        }
        copy
    });
}

static RAM: spin::Once<[Range<u64>; 8]> = spin::Once::new();

/// Switches to the final map of the kernel: code read-only, data never executable, guards under the boot stacks.
pub fn finish_mapping() {
    let ram = RAM.get().expect("set_memory comes first");
    kernel_map::build(ram);
}

/// How a CPU is started.
#[derive(Clone, Copy, Debug)]
pub enum Method {
    /// Firmware's spin table: the entry address is written where the CPU looks.
    SpinTable {
        /// Physical address of the word.
        release_addr: u64,
    },
    /// PSCI CPU_ON by SMC.
    Psci {
        /// The CPU's MPIDR.
        mpidr: u64,
    },
}

static ENTRIES: [spin::Once<fn() -> !>; MAX_CPUS] = [const { spin::Once::new() }; MAX_CPUS];

/// Starts a CPU, which enters `entry` with its boot thread as current. `false` when it did not come up in time.
pub fn start_cpu(cpu: usize, method: Method, entry: fn() -> !) -> bool {
    unsafe extern "C" {
        fn __secondary_start();
    }
    let Some(slot) = ENTRIES.get(cpu) else { return false };
    slot.call_once(|| entry);
    let start = __secondary_start as *const () as u64 - LINEAR_BASE;
    match method {
        Method::SpinTable { release_addr } => {
            let word = linear(release_addr) as *mut u64;
            // SAFETY: the device tree (or the board's table) says that this word of low RAM is the CPU's mailbox. The CPU
            // reads it with its caches off, so the line is cleaned to memory.
            unsafe {
                word.write_volatile(start);
                core::arch::asm!("dc civac, {}", "dsb sy", "sev", in(reg) word, options(nostack));
            }
        }
        Method::Psci { mpidr } => {
            use smccc::{Smc, psci};
            if psci::cpu_on::<Smc>(mpidr, start, cpu as u64).is_err() {
                return false;
            }
        }
    }
    let deadline = super::now_ns() + 1_000_000_000;
    while cpu::online_mask() >> cpu & 1 == 0 {
        if super::now_ns() > deadline {
            return false;
        }
        cpu::relax();
    }
    true
}

/// A secondary CPU arrives from [`boot`].
pub(super) fn secondary_entry(cpu: usize) -> ! {
    local::init_core(cpu);
    cpu::mark_online(cpu);
    ENTRIES[cpu].get().expect("start_cpu recorded it")()
}

/// Gives hal the controller of the cores' own interrupts (BCM2836 local peripherals).
pub fn init_local_controller(phys: u64) {
    local::init(kernel_map::map_device(phys, 0x1000));
}

/// Where entropy comes from (the hardware generator).
pub fn set_entropy(source: fn(&mut [u8])) {
    cpu::set_entropy(source);
}

static HALT: AtomicBool = AtomicBool::new(false);
static HALTED: AtomicUsize = AtomicUsize::new(0);

/// Stops the other CPUs for a panic, by FIQ, so that one that spins with its interrupts masked stops too. Waits briefly.
pub fn halt_others() {
    HALT.store(true, Ordering::SeqCst);
    let me = super::cpu_id();
    let others = (0..MAX_CPUS).filter(|cpu| *cpu != me && cpu::online_mask() >> cpu & 1 != 0);
    let mut expected = 0;
    for cpu in others {
        local::send_halt(cpu);
        expected += 1;
    }
    let deadline = super::now_ns() + 100_000_000;
    while HALTED.load(Ordering::SeqCst) < expected && super::now_ns() < deadline {
        cpu::relax();
    }
}

/// In the FIQ: stays here once a panic is under way.
pub(super) fn check_halt() {
    if HALT.load(Ordering::SeqCst) {
        HALTED.fetch_add(1, Ordering::SeqCst);
        loop {
            super::wait_for_interrupt();
        }
    }
}

/// Registers of the exception that led to a panic.
pub struct ExceptionRegisters {
    frame: UserFrame,
    esr: u64,
    far: u64,
}

impl ExceptionRegisters {
    /// Where the exception was taken.
    pub fn pc(&self) -> u64 {
        self.frame.pc
    }
}

impl fmt::Display for ExceptionRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pc : {:016x} pstate: {:08x}", self.frame.pc, self.frame.kernel_pstate())?;
        writeln!(f, "sp : {:016x} esr: {:08x} far: {:016x}", self.frame.sp, self.esr, self.far)?;
        for (n, value) in self.frame.x.iter().enumerate() {
            write!(f, "x{n:<2}: {value:016x}{}", if n % 3 == 2 { "\n" } else { " " })?;
        }
        Ok(())
    }
}

/// Calls `show` with the registers if an exception led to this panic.
pub fn with_exception_registers(show: impl FnOnce(&ExceptionRegisters)) {
    if let Some((frame, esr, far)) = trap::fatal_registers() {
        show(&ExceptionRegisters { frame, esr, far });
    }
}

/// Calls `visit` with the return addresses of the calls that led here, innermost first, while it returns true. After an
/// exception of the kernel, "here" is where that happened.
pub fn backtrace(visit: &mut dyn FnMut(u64) -> bool) {
    if let Some((frame, ..)) = trap::fatal_registers() {
        // Not a return address, but printed as one: the byte before it must be in the same function.
        if visit(frame.pc + 4) {
            backtrace_from(frame.x[29], visit);
        }
        return;
    }
    let fp: u64;
    // SAFETY: reads the frame pointer.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) fp, options(nomem, nostack, preserves_flags)) };
    backtrace_from(fp, visit);
}

/// As [`backtrace`], from the frame record at `fp`. Ends at the first thing that is no record: the entry code ends every
/// chain with zero, and a destroyed stack may hold anything.
pub fn backtrace_from(mut fp: u64, visit: &mut dyn FnMut(u64) -> bool) {
    while fp >= LINEAR_BASE && fp.is_multiple_of(16) && kernel_map::is_readable(fp) {
        // SAFETY: aligned and mapped; a record is two words and does not cross a page, being aligned to its size. Whatever
        // it holds is only looked at.
        let [next, address] = unsafe { (fp as *const [u64; 2]).read_volatile() };
        // Chains only go up.
        if address < LINEAR_BASE || !visit(address) || next <= fp {
            return;
        }
        fp = next;
    }
}

/// Size of a kernel stack, bytes.
pub const KERNEL_STACK_SIZE: usize = boot::STACK_SIZE;
