//! Physical memory: frames by number, and the ways in which safe code may touch them.
//!
//! All RAM beyond the kernel image is *untyped*: it is read and written through the functions below, never through
//! references that could alias (the tables of [`table`] are atomics). The frame allocator of kcore is trusted to hand a
//! frame to one owner at a time; this layer checks that a frame is RAM outside the kernel image and the boot heap, and
//! panics otherwise.

use core::sync::atomic::AtomicU64;

use crate::arch;

/// Bytes in a page and in a frame.
pub const PAGE_SIZE: usize = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// A physical frame number: physical address / 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Pfn(pub u32);

impl Pfn {
    /// The physical address of the frame's first byte.
    pub const fn phys(self) -> u64 {
        (self.0 as u64) << PAGE_SHIFT
    }
}

/// A run of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRange {
    /// The first frame.
    pub start: Pfn,
    /// How many.
    pub count: u32,
}

/// Thrown when no frame is left. It becomes `ENOMEM`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// Where this layer (kernel stacks, the heap, kernel page tables) takes frames from once kcore's allocator runs.
#[derive(Clone, Copy)]
pub struct FrameSource {
    /// Takes 2^order contiguous frames, contents undefined.
    pub allocate: fn(order: u32) -> Option<Pfn>,
    /// Gives them back.
    pub free: fn(Pfn, order: u32),
}

/// The RAM that kcore's allocator may manage: everything but the kernel image, the boot heap, the initramfs, the device
/// tree and what the tree reserves. Fixed by the first call: large blocks of the heap that are needed earlier (the table
/// of frames) are cut off it, so allocate them first.
pub fn free_ranges() -> &'static [FrameRange] {
    arch::free_ranges()
}

/// One past the highest RAM frame: the length of a table indexed by frame number.
pub fn max_pfn() -> u32 {
    arch::max_pfn()
}

/// All RAM in bytes, as the board has it.
pub fn total_bytes() -> u64 {
    arch::total_ram_bytes()
}

/// Tells this layer where to take frames from. Called once, when kcore's allocator is up.
pub fn set_frame_source(source: FrameSource) {
    arch::set_frame_source(source);
}

/// Bytes of the kernel heap in use, and bytes it holds from the frame source (in use or cached).
pub fn heap_usage() -> (usize, usize) {
    arch::heap_usage()
}

/// Sets all 4096 bytes of a frame to zero.
pub fn zero(pfn: Pfn) {
    arch::zero_frames(pfn, 1);
}

/// Sets all bytes of a run of frames to zero.
pub fn zero_range(range: FrameRange) {
    arch::zero_frames(range.start, range.count);
}

/// Copies a whole frame.
pub fn copy(to: Pfn, from: Pfn) {
    arch::copy_frame(to, from);
}

/// Copies bytes out of a frame. `offset + buffer.len()` must not pass its end (panics).
pub fn read(pfn: Pfn, offset: usize, buffer: &mut [u8]) {
    arch::read_frame(pfn, offset, buffer);
}

/// Copies bytes into a frame. `offset + bytes.len()` must not pass its end (panics).
pub fn write(pfn: Pfn, offset: usize, bytes: &[u8]) {
    arch::write_frame(pfn, offset, bytes);
}

/// Views a frame as a page table.
#[inline(always)]
pub fn table(pfn: Pfn) -> &'static [AtomicU64; 512] {
    arch::table(pfn)
}

/// Frames that nobody writes after boot (the initramfs), as bytes. `range` must be such a boot range (panics).
pub fn boot_bytes(range: FrameRange, length: usize) -> &'static [u8] {
    arch::boot_bytes(range, length)
}

/// Makes instruction fetch see what was written to the frame through [`write`] or [`copy`] (Arm ARM B2.4.4): call it
/// before mapping a frame executable that was filled by data writes.
pub fn sync_instruction_cache(pfn: Pfn) {
    arch::sync_instruction_cache(pfn);
}

/// Whether a test wants the allocation that is about to happen to fail. kcore's frame allocator asks; on the Pi the answer
/// is a constant.
#[inline(always)]
pub fn injected_failure() -> bool {
    #[cfg(not(target_os = "none"))]
    {
        arch::injected_failure()
    }
    #[cfg(target_os = "none")]
    {
        false
    }
}

/// Tells this layer that `pfn` has no owner any more. The hosted machine panics when a CPU still translates to it, which
/// shows a flush that is missing; on the Pi this is nothing.
#[inline(always)]
pub fn frame_freed(pfn: Pfn) {
    #[cfg(not(target_os = "none"))]
    arch::frame_freed(pfn);
    #[cfg(target_os = "none")]
    let _ = pfn;
}
