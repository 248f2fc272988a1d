//! Physical memory through the linear map, the frame source, and the exception table.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use spin::{Mutex, Once};

use super::{kernel_map, linear};
use crate::mem::{FrameRange, FrameSource, PAGE_SIZE, Pfn};

/// The frame behind the RAM that boot code maps.
const EARLY_RAM_END: u32 = 0x3f000;
/// Most ranges that RAM can be cut into.
const MAX_RANGES: usize = 32;

static SOURCE: Once<FrameSource> = Once::new();
/// RAM that nobody has yet. What the kernel needs before the frame source runs is cut off its end.
static UNCLAIMED: Mutex<Ranges> = Mutex::new(Ranges { ranges: [NO_FRAMES; MAX_RANGES], count: 0 });
/// What of it was left when kcore first asked.
static FREE: Once<Ranges> = Once::new();
/// The first frame behind the kernel image, and in the upper half how many follow up to the end of RAM: one load at each
/// access to a frame.
static FRAMES: AtomicU64 = AtomicU64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);

const NO_FRAMES: FrameRange = FrameRange { start: Pfn(0), count: 0 };

#[derive(Clone, Copy)]
struct Ranges {
    ranges: [FrameRange; MAX_RANGES],
    count: usize,
}

pub fn set_frame_source(source: FrameSource) {
    SOURCE.call_once(|| source);
}

pub(super) fn has_source() -> bool {
    SOURCE.get().is_some()
}

pub(super) fn allocate_frame() -> Option<Pfn> {
    allocate(0)
}

pub(super) fn allocate(order: u32) -> Option<Pfn> {
    (SOURCE.get()?.allocate)(order)
}

pub(super) fn free_frame(pfn: Pfn, order: u32) {
    if let Some(source) = SOURCE.get() {
        (source.free)(pfn, order);
    }
}

pub fn free_ranges() -> &'static [FrameRange] {
    let free = FREE.call_once(|| *UNCLAIMED.lock());
    &free.ranges[..free.count]
}

/// Takes `bytes` of RAM for ever, for tables that are larger than the boot heap. Nothing when there is no such run of
/// frames, when the memory is not known yet, or when kcore has been told what is free.
pub(super) fn claim(bytes: usize) -> Option<u64> {
    if FREE.is_completed() {
        return None;
    }
    let frames = u32::try_from(bytes.div_ceil(PAGE_SIZE)).ok()?;
    let mapped_end = if kernel_map::is_final() { u32::MAX } else { EARLY_RAM_END };
    let mut unclaimed = UNCLAIMED.lock();
    let count = unclaimed.count;
    let usable = |range: &&mut FrameRange| range.count >= frames && range.start.0 + range.count <= mapped_end;
    let range = unclaimed.ranges[..count].iter_mut().filter(usable).max_by_key(|range| range.count)?;
    range.count -= frames;
    Some(linear(Pfn(range.start.0 + range.count).phys()))
}

/// Whether [`claim`] gave out this address.
pub(super) fn is_claimed(address: u64) -> bool {
    let pfn = ((address - super::LINEAR_BASE) / PAGE_SIZE as u64) as u32;
    !free_ranges().iter().any(|range| pfn.wrapping_sub(range.start.0) < range.count)
}

pub fn max_pfn() -> u32 {
    let frames = FRAMES.load(Ordering::Relaxed);
    frames as u32 + (frames >> 32) as u32
}

pub fn total_ram_bytes() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

/// Fixes what may be allocated: `ram` without `reserved`, whole frames.
pub(super) fn set_ranges(ram: &[Range<u64>], reserved: &[Range<u64>]) {
    let page = PAGE_SIZE as u64;
    let mut ranges = [NO_FRAMES; MAX_RANGES];
    let mut count = 0;
    for range in ram {
        let mut at = range.start.next_multiple_of(page);
        let end = range.end / page * page;
        while at < end {
            // The nearest reservation that ends behind us decides how far this piece goes.
            let blocker = reserved.iter().filter(|r| r.end > at && r.start < end).min_by_key(|r| r.start);
            let (stop, next) = match blocker {
                Some(r) => (r.start.max(at) / page * page, r.end.next_multiple_of(page)),
                None => (end, end),
            };
            if stop > at && count < MAX_RANGES {
                let frames = u32::try_from((stop - at) / page).expect("RAM has fewer frames");
                ranges[count] = FrameRange { start: Pfn((at / page) as u32), count: frames };
                count += 1;
            }
            at = next;
        }
    }
    let top = ram.iter().map(|r| r.end / page).max().unwrap_or(0);
    let first = kernel_map::image_end_phys() / page;
    FRAMES.store(first | top.saturating_sub(first) << 32, Ordering::Relaxed);
    TOTAL.store(ram.iter().map(|r| r.end - r.start).sum(), Ordering::Relaxed);
    *UNCLAIMED.lock() = Ranges { ranges, count };
}

/// The linear address of a frame. Panics when it is not RAM behind the kernel image: such a number is a bug that must not
/// touch memory.
#[inline(always)]
fn frame_address(pfn: Pfn) -> u64 {
    let frames = FRAMES.load(Ordering::Relaxed);
    if pfn.0.wrapping_sub(frames as u32) >= (frames >> 32) as u32 {
        not_ram(pfn);
    }
    linear(pfn.phys())
}

#[cold]
#[inline(never)]
fn not_ram(pfn: Pfn) -> ! {
    panic!("frame {:#x} is not RAM that may be used", pfn.0)
}

#[inline(always)]
pub(super) fn frame_pointer(pfn: Pfn, offset: usize, length: usize) -> *mut u8 {
    assert!(offset <= PAGE_SIZE && length <= PAGE_SIZE - offset, "access past the end of a frame");
    (frame_address(pfn) + offset as u64) as *mut u8
}

pub fn zero_frames(first: Pfn, count: u32) {
    if count == 0 {
        return;
    }
    let start = frame_address(first);
    let end = frame_address(Pfn(first.0 + (count - 1))) + PAGE_SIZE as u64;
    if zero_block() == 64 {
        // SAFETY: zeroes whole frames, which their owner (kcore) asked for; RAM is linear between the two that were checked.
        unsafe { __zero_by_64(start, end) };
        return;
    }
    for at in (start..end).step_by(zero_block() as usize) {
        // SAFETY: DC ZVA zeroes one naturally aligned block inside the frames.
        unsafe { core::arch::asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) };
    }
}

unsafe extern "C" {
    /// Zeroes whole frames from `start` to `end` on a core whose DC ZVA zeroes 64 bytes.
    fn __zero_by_64(start: u64, end: u64);
    /// Copies 4096 bytes between different frames. Interrupts must be masked: the vector registers that it borrows are
    /// not those of whoever would run meanwhile.
    fn __copy_frame(to: *mut u8, from: *const u8);
}

core::arch::global_asm!(
    r#"
    .pushsection .text, "ax"
    .arch_extension simd
__zero_by_64:
    mov     x2, #64
1:  add     x3, x0, x2
    dc      zva, x0
    add     x4, x3, x2
    dc      zva, x3
    add     x5, x4, x2
    dc      zva, x4
    add     x6, x5, x2
    dc      zva, x5
    add     x7, x6, x2
    dc      zva, x6
    add     x8, x7, x2
    dc      zva, x7
    add     x9, x8, x2
    dc      zva, x8
    add     x0, x9, x2
    dc      zva, x9
    cmp     x0, x1
    b.lo    1b
    ret

    // x0: to, x1: from. The registers hold the current thread's values, or another's that its owner has saved.
__copy_frame:
    stp     q0, q1, [sp, #-128]!
    stp     q2, q3, [sp, #32]
    stp     q4, q5, [sp, #64]
    stp     q6, q7, [sp, #96]
    add     x2, x1, #4096
1:  ldp     q0, q1, [x1]
    ldp     q2, q3, [x1, #32]
    ldp     q4, q5, [x1, #64]
    ldp     q6, q7, [x1, #96]
    stp     q0, q1, [x0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    ldp     q0, q1, [x1, #128]
    ldp     q2, q3, [x1, #160]
    ldp     q4, q5, [x1, #192]
    ldp     q6, q7, [x1, #224]
    add     x1, x1, #256
    stp     q0, q1, [x0, #128]
    stp     q2, q3, [x0, #160]
    stp     q4, q5, [x0, #192]
    stp     q6, q7, [x0, #224]
    add     x0, x0, #256
    cmp     x1, x2
    b.lo    1b
    ldp     q2, q3, [sp, #32]
    ldp     q4, q5, [sp, #64]
    ldp     q6, q7, [sp, #96]
    ldp     q0, q1, [sp], #128
    ret
    .popsection
    "#
);

/// Bytes that DC ZVA zeroes (DCZID_EL0.BS).
#[inline(always)]
fn zero_block() -> u64 {
    let id: u64;
    // SAFETY: reads an identification register.
    unsafe { core::arch::asm!("mrs {}, dczid_el0", out(reg) id, options(pure, nomem, nostack, preserves_flags)) };
    4 << (id & 15)
}

pub fn copy_frame(to: Pfn, from: Pfn) {
    let (to, from) = (frame_address(to) as *mut u8, frame_address(from) as *const u8);
    assert!(!core::ptr::eq(to, from), "a frame is not copied onto itself");
    let saved = super::irq_save();
    // SAFETY: two distinct frames of RAM, 4096 bytes each; interrupts are masked; EL1's use of vector registers never traps
    // (CPACR_EL1.FPEN is TrapEl0 or TrapNothing).
    unsafe { __copy_frame(to, from) };
    super::irq_restore(saved);
}

pub fn read_frame(pfn: Pfn, offset: usize, buffer: &mut [u8]) {
    let from = frame_pointer(pfn, offset, buffer.len());
    // SAFETY: within one frame; the buffer is kernel memory, which no untyped frame is.
    unsafe { core::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
}

pub fn write_frame(pfn: Pfn, offset: usize, bytes: &[u8]) {
    let to = frame_pointer(pfn, offset, bytes.len());
    // SAFETY: as in `read_frame`.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
}

#[inline(always)]
pub fn table(pfn: Pfn) -> &'static [AtomicU64; 512] {
    // SAFETY: a frame is 512 aligned words, and atomics may be shared with whoever else views it as a table.
    unsafe { &*(frame_address(pfn) as *const [AtomicU64; 512]) }
}

pub fn boot_bytes(range: FrameRange, length: usize) -> &'static [u8] {
    assert!(length <= range.count as usize * PAGE_SIZE, "boot bytes within their range");
    let overlaps =
        |free: &FrameRange| range.start.0 < free.start.0 + free.count && free.start.0 < range.start.0 + range.count;
    let unclaimed = *UNCLAIMED.lock();
    assert!(!unclaimed.ranges[..unclaimed.count].iter().any(overlaps), "boot bytes are reserved memory");
    // SAFETY: reserved RAM that nobody allocates or writes; mapped linearly.
    unsafe { core::slice::from_raw_parts(frame_address(range.start) as *const u8, length) }
}

pub fn sync_instruction_cache(pfn: Pfn) {
    clean_to_memory(frame_address(pfn), PAGE_SIZE);
    // SAFETY: the A53's instruction cache may be virtually indexed, so all of it is invalidated on every core.
    unsafe { core::arch::asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Cleans (and invalidates) the data cache lines of a kernel address range. `civac` where `cvau` would do: a Cortex-A53 can
/// lose data in a plain clean (erratum 855873; Linux does the same).
pub(super) fn clean_to_memory(start: u64, length: usize) {
    /// No Arm core of this architecture has smaller lines.
    const LINE: usize = 64;
    for at in (start..start + length as u64).step_by(LINE) {
        // SAFETY: writes back a line of mapped memory (Arm ARM B2.4.4); its contents stay.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
    }
    barrier::dsb(barrier::SY);
}

/// Where to go on when the instruction at `pc` faults on a user address; `None` when it may not.
pub(super) fn exception_fixup(pc: u64) -> Option<u64> {
    unsafe extern "C" {
        static __ex_table_start: [u64; 2];
        static __ex_table_end: [u64; 2];
    }
    // SAFETY: the linker script brackets pairs of addresses that the user-copy assembly emitted.
    let table = unsafe {
        let start = &raw const __ex_table_start;
        let end = &raw const __ex_table_end;
        core::slice::from_raw_parts(start, end.offset_from(start) as usize)
    };
    table.iter().find(|[at, _]| *at == pc).map(|[_, fixup]| *fixup)
}
