//! The kernel's own page tables: the final map of the high half, device windows, kernel stacks.
//!
//! Level 1 has 512 entries of 1 GiB. From 0 on: all physical memory, linearly, RAM read/write and never executable except
//! for the kernel image, whose sections get their own rights. Entry 256 on: kernel stacks with guards. The last entry:
//! device windows of 4 KiB pages.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::registers::{PAR_EL1, Readable, TTBR1_EL1};
use spin::Mutex;

use super::boot::{self, STACK_SIZE};
use super::{LINEAR_BASE, linear, memory};
use crate::mem::{OutOfMemory, PAGE_SIZE};

/// A translation table.
#[repr(C, align(4096))]
pub(super) struct Table(pub(super) [AtomicU64; 512]);

impl Table {
    /// All empty.
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Its physical address; only for tables in the kernel image.
    pub(super) fn phys(&self) -> u64 {
        core::ptr::from_ref(self) as u64 - LINEAR_BASE
    }
}

const VALID_TABLE: u64 = 3;
const PAGE: u64 = 3;
const BLOCK: u64 = 1;
const ATTR_DEVICE: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 7;
const SHARED: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
/// Read/write data.
const DATA: u64 = SHARED | ACCESSED | PXN | UXN;
/// Read-only data.
const CONSTANT: u64 = DATA | READ_ONLY;
/// Code: execute and read.
const CODE: u64 = SHARED | ACCESSED | READ_ONLY | UXN;
/// Device registers.
const DEVICE: u64 = ACCESSED | ATTR_DEVICE | PXN | UXN;

const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// Linear map: at most this much RAM.
const MAX_GIB: usize = 8;
/// 2 MiB pieces of the kernel image, which are mapped by pages.
const MAX_PIECES: usize = 8;

/// The final level 1 table.
pub(super) static ROOT: Table = Table::new();
static LEVEL2: [Table; MAX_GIB] = [const { Table::new() }; MAX_GIB];
static PIECES: [Table; MAX_PIECES] = [const { Table::new() }; MAX_PIECES];
/// The device window: one level 2 table, one level 3 table, 512 pages.
static DEVICE_LEVEL2: Table = Table::new();
static DEVICE_LEVEL3: Table = Table::new();
static DEVICE_PAGES: AtomicUsize = AtomicUsize::new(0);
/// RAM that boot code maps; device registers lie above.
const EARLY_RAM_BYTES: u64 = 0x3f00_0000;
const DEVICE_BASE: u64 = 0xffff_ffff_c000_0000;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __kernel_end: u8;
    static __kernel_start: u8;
    safe fn __replace_ttbr1();
}

fn address_of(symbol: &u8) -> u64 {
    core::ptr::from_ref(symbol) as u64
}

/// Kernel image as virtual addresses: start, end of code, end of constants, end of all.
pub(super) fn image() -> [u64; 4] {
    // SAFETY: linker symbols: only their addresses are used. Code begins where the image does.
    unsafe {
        [address_of(&__kernel_start), address_of(&__text_end), address_of(&__rodata_end), address_of(&__kernel_end)]
    }
}

/// One past the last physical address of the kernel image.
pub(super) fn image_end_phys() -> u64 {
    image()[3] - LINEAR_BASE
}

/// The rights of the image's page at `address`.
fn image_rights(address: u64) -> u64 {
    let [start, text_end, rodata_end, _] = image();
    match address {
        a if a < start => DATA,
        a if a < text_end => CODE,
        a if a < rodata_end => CONSTANT,
        _ => DATA,
    }
}

/// The final map is in use: all RAM is mapped.
static FINAL: AtomicBool = AtomicBool::new(false);

/// Whether all RAM is mapped, not only the first gigabyte.
pub(super) fn is_final() -> bool {
    FINAL.load(Ordering::Acquire)
}

/// Builds the final map from the RAM ranges and switches to it; from then on W^X holds.
pub(super) fn build(ram: &[core::ops::Range<u64>]) {
    let kernel_phys_end = image_end_phys();
    for range in ram {
        let mut at = range.start / MIB2 * MIB2;
        while at < range.end && at < MAX_GIB as u64 * GIB {
            let level2 = &LEVEL2[(at / GIB) as usize];
            let slot = &level2.0[(at % GIB / MIB2) as usize];
            if at < kernel_phys_end {
                slot.store(piece(at).phys() | VALID_TABLE, Ordering::Relaxed);
            } else {
                slot.store(at | DATA | BLOCK, Ordering::Relaxed);
            }
            ROOT.0[(at / GIB) as usize].store(level2.phys() | VALID_TABLE, Ordering::Relaxed);
            at += MIB2;
        }
    }
    attach_device_window(&ROOT);
    unmap_boot_guards();
    let physical_twin = __replace_ttbr1 as *const () as u64 - LINEAR_BASE;
    // SAFETY: the routine runs from the identity map that TTBR0 still has, touches no memory, and returns here, which the
    // new map maps as code. Every address in use (image, boot stack, heap in the image) is mapped by both.
    unsafe {
        core::arch::asm!(
            "dsb ishst",
            "adr x1, 2f",
            "br {twin}",
            "2:",
            twin = in(reg) physical_twin,
            in("x0") ROOT.phys(),
            out("x1") _,
            in("x2") super::user_map::NOTHING.phys(),
        );
    }
    super::user_map::leave_identity_map();
    FINAL.store(true, Ordering::Release);
}

/// The 4 KiB map of one 2 MiB piece that holds kernel image.
fn piece(start: u64) -> &'static Table {
    let table = &PIECES[(start / MIB2) as usize];
    for (n, entry) in table.0.iter().enumerate() {
        let phys = start + (n * PAGE_SIZE) as u64;
        // A page shared with a device has its device mapping only: two kinds of mapping of one page are incoherent.
        let rights = if is_device_page(phys) { 0 } else { phys | image_rights(linear(phys)) | PAGE };
        entry.store(rights, Ordering::Relaxed);
    }
    table
}

/// The page below each boot stack becomes unmapped.
fn unmap_boot_guards() {
    let stacks = boot::__BOOT_STACKS.0.get().cast::<boot::BootStack>();
    for n in 0..crate::MAX_CPUS {
        let guard_page = stacks as u64 + (n * size_of::<boot::BootStack>() + STACK_SIZE - PAGE_SIZE) as u64;
        let phys = guard_page - LINEAR_BASE;
        PIECES[(phys / MIB2) as usize].0[(phys % MIB2) as usize / PAGE_SIZE].store(0, Ordering::Relaxed);
    }
}

fn attach_device_window(root: &Table) {
    DEVICE_LEVEL2.0[0].store(DEVICE_LEVEL3.phys() | VALID_TABLE, Ordering::Relaxed);
    root.0[511].store(DEVICE_LEVEL2.phys() | VALID_TABLE, Ordering::Relaxed);
}

/// The level 1 table that TTBR1 has now.
fn live_root() -> &'static Table {
    let root = TTBR1_EL1.get() & 0x0000_ffff_ffff_fffe;
    // SAFETY: TTBR1_EL1 holds the physical address of one of two tables in the image.
    unsafe { &*(linear(root) as *const Table) }
}

/// Whether the kernel may read at `address`, as the MMU sees it.
pub(super) fn is_readable(address: u64) -> bool {
    // SAFETY: translates without an access (Arm ARM D8.15.2).
    unsafe { core::arch::asm!("at s1e1r, {}", "isb", in(reg) address, options(nostack, preserves_flags)) };
    PAR_EL1.read(PAR_EL1::F) == 0
}

fn is_device_page(phys: u64) -> bool {
    let mapped = &DEVICE_LEVEL3.0[..DEVICE_PAGES.load(Ordering::Relaxed)];
    mapped.iter().any(|entry| entry.load(Ordering::Relaxed) == phys | DEVICE | PAGE)
}

/// Maps a page-aligned physical range as device memory. Panics when the window (2 MiB in all) is full: boards are small.
pub(super) fn map_device(phys: u64, length: usize) -> u64 {
    let first = phys / PAGE_SIZE as u64;
    let count = ((phys + length as u64).div_ceil(PAGE_SIZE as u64) - first) as usize;
    let slot = DEVICE_PAGES.fetch_add(count, Ordering::Relaxed);
    assert!(slot + count <= 512, "the device window is full");
    for n in 0..count {
        let page = (first + n as u64) * PAGE_SIZE as u64;
        if page < EARLY_RAM_BYTES {
            // RAM that is shared with a device: lines of the normal mapping must not be written back over it later.
            assert!(!is_final(), "memory is shared with devices before the final map is built");
            memory::clean_to_memory(linear(page), PAGE_SIZE);
        }
        DEVICE_LEVEL3.0[slot + n].store(page | DEVICE | PAGE, Ordering::Relaxed);
    }
    attach_device_window(live_root());
    super::publish_entries();
    DEVICE_BASE + (slot * PAGE_SIZE) as u64 + phys % PAGE_SIZE as u64
}

/// Kernel stacks live from here on, one per slot of twice their size: guard below, stack above.
const STACKS_BASE: u64 = LINEAR_BASE + 256 * GIB;
/// Slots that exist.
const MAX_STACKS: usize = 128 * 1024;
/// Mapped stacks that are kept for the next thread.
const CACHED_STACKS: usize = 32;

struct Stacks {
    /// Free slots with their frames mapped.
    mapped: slots::Slots<CACHED_STACKS>,
    /// Free slots without frames.
    free: alloc::vec::Vec<u32>,
    next: u32,
}

static STACKS: Mutex<Stacks> =
    Mutex::new(Stacks { mapped: slots::Slots::new(), free: alloc::vec::Vec::new(), next: 0 });

/// A small fixed array used as a stack: the cache must not allocate.
mod slots {
    pub(super) struct Slots<const N: usize> {
        items: [u32; N],
        len: usize,
    }

    impl<const N: usize> Slots<N> {
        pub(super) const fn new() -> Self {
            Self { items: [0; N], len: 0 }
        }

        pub(super) fn push(&mut self, item: u32) -> bool {
            if self.len == N {
                return false;
            }
            self.items[self.len] = item;
            self.len += 1;
            true
        }

        pub(super) fn pop(&mut self) -> Option<u32> {
            self.len = self.len.checked_sub(1)?;
            Some(self.items[self.len])
        }
    }
}

/// A kernel stack with a guard below it. Returned to the cache when dropped; it must not be in use then.
pub(super) struct KernelStack {
    slot: u32,
}

fn slot_base(slot: u32) -> u64 {
    STACKS_BASE + u64::from(slot) * 2 * STACK_SIZE as u64 + STACK_SIZE as u64
}

impl KernelStack {
    /// Takes a cached stack, or maps a fresh one.
    pub(super) fn new() -> Result<Self, OutOfMemory> {
        let saved = super::irq_save();
        let cached = STACKS.lock().mapped.pop();
        super::irq_restore(saved);
        if let Some(slot) = cached {
            return Ok(Self { slot });
        }
        let slot = take_slot().ok_or(OutOfMemory)?;
        let stack = Self { slot };
        for page in 0..STACK_SIZE / PAGE_SIZE {
            let at = slot_base(slot) + (page * PAGE_SIZE) as u64;
            let entry = leaf(at);
            let frame = memory::allocate_frame();
            let (Some(entry), Some(frame)) = (entry, frame) else {
                if let Some(frame) = frame {
                    memory::free_frame(frame, 0);
                }
                unmap(slot);
                core::mem::forget(stack);
                give_slot(slot);
                return Err(OutOfMemory);
            };
            entry.store(frame.phys() | DATA | PAGE, Ordering::Relaxed);
        }
        super::publish_entries();
        Ok(stack)
    }

    /// One past its highest address.
    pub(super) fn top(&self) -> u64 {
        slot_base(self.slot) + STACK_SIZE as u64
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        let saved = super::irq_save();
        let kept = STACKS.lock().mapped.push(self.slot);
        super::irq_restore(saved);
        if !kept {
            unmap(self.slot);
            give_slot(self.slot);
        }
    }
}

fn take_slot() -> Option<u32> {
    let saved = super::irq_save();
    let mut stacks = STACKS.lock();
    let slot = stacks.free.pop().or_else(|| {
        let next = stacks.next;
        ((next as usize) < MAX_STACKS).then(|| {
            stacks.next += 1;
            next
        })
    });
    drop(stacks);
    super::irq_restore(saved);
    slot
}

fn give_slot(slot: u32) {
    let saved = super::irq_save();
    STACKS.lock().free.push(slot);
    super::irq_restore(saved);
}

fn unmap(slot: u32) {
    for page in 0..STACK_SIZE / PAGE_SIZE {
        let at = slot_base(slot) + (page * PAGE_SIZE) as u64;
        let Some(entry) = leaf(at) else { continue };
        let old = entry.swap(0, Ordering::Relaxed);
        if old & 1 != 0 {
            // SAFETY: forgets the translation of a kernel page that nothing uses any more.
            unsafe {
                core::arch::asm!("dsb ishst", "tlbi vaae1is, {}", "dsb ish", in(reg) at >> 12 & ((1 << 44) - 1), options(nostack));
            }
            memory::free_frame(crate::mem::Pfn((old >> 12) as u32 & 0x0fff_ffff), 0);
        }
    }
}

/// The level 3 entry of a kernel stack page, with the tables above it made as needed. They stay.
fn leaf(address: u64) -> Option<&'static AtomicU64> {
    static GROW: Mutex<()> = Mutex::new(());
    let mut table: &'static Table = &ROOT;
    for level in 1..3 {
        let entry = &table.0[crate::pte::index(level, address)];
        if entry.load(Ordering::Acquire) & 1 == 0 {
            let frame = memory::allocate_frame()?;
            memory::zero_frames(frame, 1);
            let saved = super::irq_save();
            let _guard = GROW.lock();
            let lost = entry.load(Ordering::Acquire) & 1 != 0;
            if !lost {
                entry.store(frame.phys() | VALID_TABLE, Ordering::Release);
            }
            drop(_guard);
            super::irq_restore(saved);
            if lost {
                memory::free_frame(frame, 0);
            }
        }
        let next = entry.load(Ordering::Acquire) & 0x0000_ffff_ffff_f000;
        // SAFETY: entries of stack tables point to frames taken above, which are never given back.
        table = unsafe { &*(linear(next) as *const Table) };
    }
    Some(&table.0[crate::pte::index(3, address)])
}
