//! The kernel heap: the global allocator.
//!
//! Until the frame allocator runs, blocks come from a fixed boot heap (`linked_list_allocator`), and what does not fit there
//! (the table of all frames) is cut off free RAM for ever. After that, small blocks come from size classes whose slabs are
//! frames, and large ones straight from the frame source; both go back to it when they are free, so that what a load took
//! is returned.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering};

use linked_list_allocator::Heap;
use spin::Mutex;

use super::{linear, memory};
use crate::mem::{PAGE_SIZE, Pfn};

const BOOT_HEAP_SIZE: usize = 256 << 10;
/// A block of at least this size that does not fit into the boot heap is cut off free RAM.
const LEAST_CLAIM: usize = 64 << 10;

#[repr(C, align(4096))]
struct BootHeap(UnsafeCell<[u8; BOOT_HEAP_SIZE]>);
// SAFETY: handed to the list allocator, whose lock guards it.
unsafe impl Sync for BootHeap {}
static BOOT_HEAP: BootHeap = BootHeap(UnsafeCell::new([0; BOOT_HEAP_SIZE]));
static BOOT: Mutex<Option<Heap>> = Mutex::new(None);

/// Block sizes of the classes, and the order of their slabs: larger blocks share larger slabs to waste less.
const CLASSES: [(usize, u32); 14] = [
    (16, 0),
    (32, 0),
    (48, 0),
    (64, 0),
    (96, 0),
    (128, 0),
    (192, 0),
    (256, 0),
    (384, 1),
    (512, 1),
    (768, 2),
    (1024, 2),
    (1536, 2),
    (2048, 2),
];
const LARGEST: usize = 2048;

/// Lies at the start of each slab. The slab's address is found from a block's by its alignment.
#[repr(C)]
struct Slab {
    next: *mut Slab,
    previous: *mut Slab,
    free: *mut FreeBlock,
    used: usize,
    capacity: usize,
}

struct FreeBlock {
    next: *mut FreeBlock,
}

/// Blocks begin here in a slab.
const SLAB_HEADER: usize = 64;

/// Slabs with free blocks, most recently used first. Full slabs are on no list.
struct Class {
    partial: *mut Slab,
    /// Slabs of which every block is free; one is kept.
    empty: usize,
}

// SAFETY: the pointers lead to slabs that only the holder of the class's lock touches.
unsafe impl Send for Class {}

static POOL: [Mutex<Class>; CLASSES.len()] =
    [const { Mutex::new(Class { partial: null_mut(), empty: 0 }) }; CLASSES.len()];
static USED: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);

pub fn heap_usage() -> (usize, usize) {
    (USED.load(Ordering::Relaxed), HELD.load(Ordering::Relaxed))
}

struct KernelHeap;

#[global_allocator]
static GLOBAL: KernelHeap = KernelHeap;

fn class_of(layout: &Layout) -> Option<usize> {
    let size = layout.size().max(layout.align());
    if size > LARGEST || layout.align() > 64 {
        return None;
    }
    // Blocks of a class are aligned to the largest power of two that divides its size, up to the header's 64.
    CLASSES.iter().position(|(block, _)| *block >= size && block % layout.align() == 0)
}

fn order_of(layout: &Layout) -> u32 {
    let pages = layout.size().max(layout.align()).div_ceil(PAGE_SIZE);
    pages.next_power_of_two().trailing_zeros()
}

/// Runs `f` with interrupts masked: interrupt handlers allocate too.
fn masked<R>(f: impl FnOnce() -> R) -> R {
    let saved = super::irq_save();
    let result = f();
    super::irq_restore(saved);
    result
}

fn in_boot_heap(block: *mut u8) -> bool {
    let start = BOOT_HEAP.0.get() as usize;
    (start..start + BOOT_HEAP_SIZE).contains(&(block as usize))
}

// SAFETY: blocks come from disjoint places (boot heap, slabs, whole frames), each aligned as the layout asks, and are
// given back to where they came from, which the address and the layout tell.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !memory::has_source() {
            return boot_alloc(layout);
        }
        let block = match class_of(&layout) {
            Some(class) => class_alloc(class),
            None => frames_alloc(order_of(&layout)),
        };
        if !block.is_null() {
            USED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if in_boot_heap(block) {
            masked(|| {
                if let (Some(heap), Some(block)) = (BOOT.lock().as_mut(), NonNull::new(block)) {
                    // SAFETY: it came from this heap with this layout.
                    unsafe { heap.deallocate(block, layout) };
                }
            });
            return;
        }
        if layout.size() >= LEAST_CLAIM && (!memory::has_source() || memory::is_claimed(block as u64)) {
            // Cut off RAM for ever: the frame allocator does not know these frames.
            return;
        }
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        match class_of(&layout) {
            // SAFETY: a block of this class, no longer used (contract of dealloc).
            Some(class) => unsafe { class_free(class, block) },
            None => frames_free(block as usize, order_of(&layout)),
        }
    }
}

fn boot_alloc(layout: Layout) -> *mut u8 {
    masked(|| {
        let mut boot = BOOT.lock();
        let heap = boot.get_or_insert_with(|| {
            // SAFETY: the static is used for nothing else.
            unsafe { Heap::new(BOOT_HEAP.0.get().cast(), BOOT_HEAP_SIZE) }
        });
        if let Ok(block) = heap.allocate_first_fit(layout) {
            return block.as_ptr();
        }
        if layout.size() < LEAST_CLAIM || layout.align() > PAGE_SIZE {
            return null_mut();
        }
        memory::claim(layout.size()).map_or(null_mut(), |address| address as *mut u8)
    })
}

fn frames_alloc(order: u32) -> *mut u8 {
    let Some(pfn) = memory::allocate(order) else { return null_mut() };
    HELD.fetch_add(PAGE_SIZE << order, Ordering::Relaxed);
    linear(pfn.phys()) as *mut u8
}

fn frames_free(address: usize, order: u32) {
    HELD.fetch_sub(PAGE_SIZE << order, Ordering::Relaxed);
    let phys = address as u64 - super::LINEAR_BASE;
    memory::free_frame(Pfn((phys / PAGE_SIZE as u64) as u32), order);
}

fn class_alloc(class: usize) -> *mut u8 {
    loop {
        let block = masked(|| take_block(&mut POOL[class].lock()));
        if let Some(block) = block {
            return block;
        }
        // The frame source is asked without the class's lock: it has locks of its own.
        let slab = new_slab(class);
        if slab.is_null() {
            return null_mut();
        }
        masked(|| {
            let mut pool = POOL[class].lock();
            pool.empty += 1;
            // SAFETY: a fresh slab that nobody else knows.
            unsafe { push(&mut pool, slab) };
        });
    }
}

fn take_block(pool: &mut Class) -> Option<*mut u8> {
    let slab = pool.partial;
    if slab.is_null() {
        return None;
    }
    // SAFETY: a slab on the list is live and has a free block; the class's lock is held.
    unsafe {
        let block = (*slab).free;
        (*slab).free = (*block).next;
        if (*slab).used == 0 {
            pool.empty -= 1;
        }
        (*slab).used += 1;
        if (*slab).free.is_null() {
            unlink(pool, slab);
        }
        Some(block.cast())
    }
}

fn new_slab(class: usize) -> *mut Slab {
    let (size, order) = CLASSES[class];
    let start = frames_alloc(order);
    if start.is_null() {
        return null_mut();
    }
    let capacity = ((PAGE_SIZE << order) - SLAB_HEADER) / size;
    let slab = start.cast::<Slab>();
    // SAFETY: the frames are ours; every block lies within them behind the header.
    unsafe {
        let mut free: *mut FreeBlock = null_mut();
        for n in (0..capacity).rev() {
            let block = start.add(SLAB_HEADER + n * size).cast::<FreeBlock>();
            block.write(FreeBlock { next: free });
            free = block;
        }
        slab.write(Slab { next: null_mut(), previous: null_mut(), free, used: 0, capacity });
    }
    slab
}

/// # Safety
/// `slab` is live, on no list, and the class is locked.
unsafe fn push(pool: &mut Class, slab: *mut Slab) {
    // SAFETY: see above; the first slab of the list is live too.
    unsafe {
        (*slab).previous = null_mut();
        (*slab).next = pool.partial;
        if !pool.partial.is_null() {
            (*pool.partial).previous = slab;
        }
    }
    pool.partial = slab;
}

/// # Safety
/// `slab` is on the list of the locked class.
unsafe fn unlink(pool: &mut Class, slab: *mut Slab) {
    // SAFETY: its neighbours are live.
    unsafe {
        let (previous, next) = ((*slab).previous, (*slab).next);
        if previous.is_null() {
            pool.partial = next;
        } else {
            (*previous).next = next;
        }
        if !next.is_null() {
            (*next).previous = previous;
        }
        (*slab).next = null_mut();
        (*slab).previous = null_mut();
    }
}

/// # Safety
/// `block` came from this class and is no longer used.
unsafe fn class_free(class: usize, block: *mut u8) {
    let (_, order) = CLASSES[class];
    let slab = (block as usize & !((PAGE_SIZE << order) - 1)) as *mut Slab;
    let surplus = masked(|| {
        let mut pool = POOL[class].lock();
        // SAFETY: slabs are aligned to their size, so the header is found; the lock is held.
        unsafe {
            let was_full = (*slab).free.is_null();
            block.cast::<FreeBlock>().write(FreeBlock { next: (*slab).free });
            (*slab).free = block.cast();
            (*slab).used -= 1;
            if was_full {
                push(&mut pool, slab);
            }
            if (*slab).used > 0 {
                return false;
            }
            debug_assert!((*slab).capacity > 0, "a slab holds blocks");
            if pool.empty > 0 {
                unlink(&mut pool, slab);
                return true;
            }
            pool.empty += 1;
            false
        }
    });
    if surplus {
        frames_free(slab as usize, order);
    }
}
