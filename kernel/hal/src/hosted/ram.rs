//! Simulated RAM: one zeroed block of host memory per machine, reached by frame number.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::Cell;
use std::sync::atomic::AtomicU64;

use super::machine::Config;
use super::state::state;
use crate::mem::{FrameRange, FrameSource, PAGE_SIZE, Pfn};

/// Frames that stand for the kernel image: nobody may touch them through the door.
const IMAGE_FRAMES: u32 = 256;

/// The RAM of one machine. Never freed: the door hands out `'static` tables.
pub struct Arena {
    base: *mut u8,
    frames: u32,
    free: [FrameRange; 2],
    initramfs: FrameRange,
    initramfs_length: usize,
}

impl Arena {
    /// Fresh RAM of the configured size, with the initramfs in the middle so that free memory has a hole.
    pub fn new(config: &Config) -> &'static Self {
        let frames = u32::try_from(config.ram_bytes / PAGE_SIZE).expect("a simulated machine has less than 16 TiB");
        let needed = u32::try_from(config.initramfs.len().div_ceil(PAGE_SIZE)).expect("an initramfs fits RAM");
        let start = frames / 2;
        assert!(start > IMAGE_FRAMES && needed < frames / 2, "RAM is too small for the image and the initramfs");
        // Without an alignment of its own, a large zeroed block comes from the host as lazily mapped pages.
        let layout = Layout::from_size_align((frames as usize + 1) * PAGE_SIZE, 16).expect("a valid layout");
        // SAFETY: the layout has a non-zero size.
        let block = unsafe { alloc_zeroed(layout) };
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the block is one page longer than RAM, so rounding its start up stays inside.
        let base = unsafe { block.add(block.align_offset(PAGE_SIZE)) };
        let end = start + needed;
        let arena = Box::leak(Box::new(Self {
            base,
            frames,
            free: [
                FrameRange { start: Pfn(IMAGE_FRAMES), count: start - IMAGE_FRAMES },
                FrameRange { start: Pfn(end), count: frames - end },
            ],
            initramfs: FrameRange { start: Pfn(start), count: needed },
            initramfs_length: config.initramfs.len(),
        }));
        for (page, bytes) in config.initramfs.chunks(PAGE_SIZE).enumerate() {
            let pfn = start + u32::try_from(page).expect("checked above");
            // SAFETY: `pfn` lies in the block just allocated, and a chunk is no longer than a page.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.add(pfn as usize * PAGE_SIZE), bytes.len()) };
        }
        arena
    }

    /// The first byte of a frame that the door may touch.
    fn frame(&self, pfn: Pfn) -> *mut u8 {
        assert!(
            (IMAGE_FRAMES..self.frames).contains(&pfn.0),
            "frame {:#x} is not RAM outside the kernel image (RAM ends at {:#x})",
            pfn.0,
            self.frames
        );
        // SAFETY: the frame was just checked to lie inside the block.
        unsafe { self.base.add(pfn.0 as usize * PAGE_SIZE) }
    }

    /// The byte at `offset` of a frame, where `length` bytes may be touched.
    fn span(&self, pfn: Pfn, offset: usize, length: usize) -> *mut u8 {
        assert!(offset <= PAGE_SIZE && length <= PAGE_SIZE - offset, "access past the end of a frame");
        // SAFETY: the offset is within the frame, which is within the block.
        unsafe { self.frame(pfn).add(offset) }
    }
}

pub fn free_ranges() -> &'static [FrameRange] {
    &state().arena().free
}

pub fn max_pfn() -> u32 {
    state().arena().frames
}

pub fn total_ram_bytes() -> u64 {
    u64::from(max_pfn()) * PAGE_SIZE as u64
}

pub fn set_frame_source(source: FrameSource) {
    state().frame_source.set(Some(source));
}

/// The host's allocator is the kernel heap; it does not say how much it gave.
pub fn heap_usage() -> (usize, usize) {
    (0, 0)
}

pub fn zero_frames(first: Pfn, count: u32) {
    for n in first.0..first.0 + count {
        // SAFETY: `frame` checked the frame; RAM is untyped, and only this OS thread reaches it.
        unsafe { std::ptr::write_bytes(state().arena().frame(Pfn(n)), 0, PAGE_SIZE) };
    }
}

pub fn copy_frame(to: Pfn, from: Pfn) {
    let arena = state().arena();
    // SAFETY: both frames were checked; `copy` allows them to be the same.
    unsafe { std::ptr::copy(arena.frame(from), arena.frame(to), PAGE_SIZE) };
}

pub fn read_frame(pfn: Pfn, offset: usize, buffer: &mut [u8]) {
    let from = state().arena().span(pfn, offset, buffer.len());
    // SAFETY: `span` checked the source; the buffer is host memory of its owner, never RAM of the machine.
    unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
}

pub fn write_frame(pfn: Pfn, offset: usize, bytes: &[u8]) {
    let to = state().arena().span(pfn, offset, bytes.len());
    // SAFETY: `span` checked the target. The source may be initramfs bytes of this RAM, hence `copy`.
    unsafe { std::ptr::copy(bytes.as_ptr(), to, bytes.len()) };
}

pub fn table(pfn: Pfn) -> &'static [AtomicU64; 512] {
    // SAFETY: the frame is 4096 bytes, aligned, initialised, never freed; atomics allow any number of references.
    unsafe { &*state().arena().frame(pfn).cast() }
}

pub fn boot_bytes(range: FrameRange, length: usize) -> &'static [u8] {
    let arena = state().arena();
    let boot = arena.initramfs;
    let inside = range.start >= boot.start && range.start.0 + range.count <= boot.start.0 + boot.count;
    assert!(inside && length <= range.count as usize * PAGE_SIZE, "not a boot range");
    if length == 0 {
        return &[];
    }
    // SAFETY: the range lies in the initramfs, which is in no free range, so nobody writes it.
    unsafe { std::slice::from_raw_parts(arena.frame(range.start), length) }
}

pub fn sync_instruction_cache(_pfn: Pfn) {}

/// Where the initramfs of the configuration lies, and its length in bytes.
pub fn initramfs() -> (FrameRange, usize) {
    let arena = state().arena();
    (arena.initramfs, arena.initramfs_length)
}

/// Lets `n` allocations succeed and the one after them fail, once; `None` switches it off. Returns how many were left to
/// succeed from the call before: `None` when the failure has happened.
pub fn fail_nth_allocation(n: Option<u64>) -> Option<u64> {
    state().allocations_left.replace(n)
}

/// Lets every allocation fail, until it is called again with false.
pub fn fail_all_allocations(fail: bool) {
    state().no_memory.set(fail);
}

/// Asked by the kernel's frame allocator at each allocation: whether this one must fail.
pub fn injected_failure() -> bool {
    let left: &Cell<Option<u64>> = &state().allocations_left;
    if state().no_memory.get() {
        return true;
    }
    match left.get() {
        None => false,
        Some(0) => {
            left.set(None);
            true
        }
        Some(n) => {
            left.set(Some(n - 1));
            false
        }
    }
}

/// Told by the kernel's frame allocator when a frame is free: no CPU may still translate to it.
pub fn frame_freed(pfn: Pfn) {
    super::mmu::check_unmapped(pfn);
}
