//! The kernel heap: the global allocator.
//!
//! Until the frame allocator runs, blocks come from a fixed boot heap (`linked_list_allocator`), and what does not fit there
//! (the table of all frames) is cut off free RAM for ever. After that, small blocks come from size classes whose slabs are
//! frames, and large ones straight from the frame source; both go back to it when they are free, so that what a load took
//! is returned.
//!
//! In front of the slabs each CPU keeps a few free blocks of each class, which it takes and gives back with interrupts
//! masked and without a lock. The bound on them is [`CACHED_BYTES`] a class.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering};

use linked_list_allocator::Heap;
use spin::Mutex;

use super::{linear, memory};
use crate::MAX_CPUS;
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

/// The class for a size in units of 16 bytes, rounded up.
const CLASS_OF_UNITS: [u8; LARGEST / 16 + 1] = {
    let mut table = [0; LARGEST / 16 + 1];
    let mut units = 0;
    let mut class = 0;
    while units < table.len() {
        if units * 16 > CLASSES[class].0 {
            class += 1;
        }
        table[units] = class as u8;
        units += 1;
    }
    table
};

/// Most free blocks of a class, and most bytes, that a CPU keeps to itself.
const CACHED_BLOCKS: usize = 32;
const CACHED_BYTES: usize = 4096;

/// How many free blocks of a class a CPU keeps.
const fn cache_limit(class: usize) -> usize {
    let blocks = CACHED_BYTES / CLASSES[class].0;
    if blocks < CACHED_BLOCKS { blocks } else { CACHED_BLOCKS }
}

/// A CPU's free blocks of one class.
struct Cache {
    count: usize,
    blocks: [*mut u8; CACHED_BLOCKS],
}

/// What a CPU has of its own.
struct Local {
    caches: [Cache; CLASSES.len()],
    /// Bytes it allocated less bytes it freed; blocks are often freed elsewhere, so only the sum over all CPUs means
    /// something.
    used: isize,
}

struct Locals(UnsafeCell<[Local; MAX_CPUS]>);
// SAFETY: an element is touched by its own CPU with interrupts masked (`with_local`); others only read `used`.
unsafe impl Sync for Locals {}
static LOCALS: Locals = Locals(UnsafeCell::new(
    [const { Local { caches: [const { Cache { count: 0, blocks: [null_mut(); CACHED_BLOCKS] } }; CLASSES.len()], used: 0 } };
        MAX_CPUS],
));

/// Runs `f` on this CPU's part, with interrupts masked: interrupt handlers allocate too. `f` must not allocate.
fn with_local<R>(f: impl FnOnce(&mut Local) -> R) -> R {
    masked(|| {
        let locals = LOCALS.0.get().cast::<Local>();
        // SAFETY: interrupts are masked, so this CPU's element has one user; CPU numbers are below MAX_CPUS.
        f(unsafe { &mut *locals.add(super::cpu_id()) })
    })
}

/// Lies at the start of each slab. The slab's address is found from a block's by its alignment.
#[repr(C)]
struct Slab {
    next: *mut Slab,
    previous: *mut Slab,
    free: *mut FreeBlock,
    used: usize,
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
static HELD: AtomicUsize = AtomicUsize::new(0);

pub fn heap_usage() -> (usize, usize) {
    let locals = LOCALS.0.get().cast::<Local>();
    // SAFETY: reads one word of each CPU; a value that changes meanwhile is as good as the one before.
    let used: isize = (0..MAX_CPUS).map(|cpu| unsafe { (&raw const (*locals.add(cpu)).used).read_volatile() }).sum();
    (usize::try_from(used).unwrap_or(0), HELD.load(Ordering::Relaxed))
}

struct KernelHeap;

#[global_allocator]
static GLOBAL: KernelHeap = KernelHeap;

#[inline(always)]
fn class_of(layout: &Layout) -> Option<usize> {
    if layout.size() > LARGEST || layout.align() > SLAB_HEADER {
        return None;
    }
    let class = usize::from(CLASS_OF_UNITS[layout.size().div_ceil(16)]);
    if layout.align() <= 16 {
        return Some(class);
    }
    // Blocks of a class are aligned to the largest power of two that divides its size, up to the header's 64.
    (class..CLASSES.len()).find(|class| CLASSES[*class].0.is_multiple_of(layout.align()))
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
        let Some(class) = class_of(&layout) else { return large_alloc(&layout) };
        let cached = with_local(|local| {
            let cache = &mut local.caches[class];
            cache.count = cache.count.checked_sub(1)?;
            local.used += CLASSES[class].0 as isize;
            Some(cache.blocks[cache.count])
        });
        cached.unwrap_or_else(|| class_alloc(class))
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
        let Some(class) = class_of(&layout) else { return large_free(block, &layout) };
        let full = with_local(|local| {
            local.used -= CLASSES[class].0 as isize;
            let cache = &mut local.caches[class];
            if cache.count == cache_limit(class) {
                return true;
            }
            cache.blocks[cache.count] = block;
            cache.count += 1;
            false
        });
        if full {
            // SAFETY: a block of this class, no longer used (contract of dealloc).
            unsafe { class_free(class, block) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises a valid layout (contract of realloc).
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let same_place = memory::has_source()
            && !in_boot_heap(block)
            && layout.size() < LEAST_CLAIM
            && match (class_of(&layout), class_of(&wanted)) {
                (Some(now), Some(then)) => now == then,
                (None, None) => order_of(&layout) == order_of(&wanted),
                _ => false,
            };
        if same_place {
            return block;
        }
        // SAFETY: a fresh block of the wanted layout, the old one given up after its contents were copied.
        unsafe {
            let fresh = self.alloc(wanted);
            if !fresh.is_null() {
                core::ptr::copy_nonoverlapping(block, fresh, layout.size().min(size));
                self.dealloc(block, layout);
            }
            fresh
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

fn large_alloc(layout: &Layout) -> *mut u8 {
    let order = order_of(layout);
    let block = frames_alloc(order);
    if !block.is_null() {
        with_local(|local| local.used += (PAGE_SIZE << order) as isize);
    }
    block
}

fn large_free(block: *mut u8, layout: &Layout) {
    let order = order_of(layout);
    with_local(|local| local.used -= (PAGE_SIZE << order) as isize);
    frames_free(block as usize, order);
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

/// The CPU has no free block of this class: takes half a cache full from the slabs, one of them for the caller.
fn class_alloc(class: usize) -> *mut u8 {
    loop {
        let block = with_local(|local| {
            let cache = &mut local.caches[class];
            let mut pool = POOL[class].lock();
            let block = take_block(&mut pool)?;
            while cache.count < cache_limit(class) / 2 {
                let Some(more) = take_block(&mut pool) else { break };
                cache.blocks[cache.count] = more;
                cache.count += 1;
            }
            local.used += CLASSES[class].0 as isize;
            Some(block)
        });
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
        slab.write(Slab { next: null_mut(), previous: null_mut(), free, used: 0 });
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

/// The CPU has enough free blocks of this class: half of them and `block` go back to their slabs.
///
/// # Safety
/// `block` came from this class and is no longer used.
#[cold]
unsafe fn class_free(class: usize, block: *mut u8) {
    let order = CLASSES[class].1;
    // Slabs that became empty, chained through their headers. They are given back without the class's lock.
    let mut surplus = with_local(|local| {
        let cache = &mut local.caches[class];
        let keep = cache.count / 2;
        let mut pool = POOL[class].lock();
        let mut surplus = null_mut();
        // SAFETY: free blocks of this class whose slabs are live; the lock is held.
        unsafe {
            put_block(&mut pool, block, order, &mut surplus);
            for free in &cache.blocks[keep..cache.count] {
                put_block(&mut pool, *free, order, &mut surplus);
            }
        }
        cache.count = keep;
        surplus
    });
    while !surplus.is_null() {
        // SAFETY: the slabs of this chain are on no list and have no blocks in use.
        let next = unsafe { (*surplus).next };
        frames_free(surplus as usize, order);
        surplus = next;
    }
}

/// Puts a block back into its slab. An empty slab is kept if it is the only one, else added to `surplus`.
///
/// # Safety
/// `block` is a free block of the locked class, whose slabs have `order`.
unsafe fn put_block(pool: &mut Class, block: *mut u8, order: u32, surplus: &mut *mut Slab) {
    let slab = (block as usize & !((PAGE_SIZE << order) - 1)) as *mut Slab;
    // SAFETY: slabs are aligned to their size, so the header is found; it is live while a block is out.
    unsafe {
        let was_full = (*slab).free.is_null();
        block.cast::<FreeBlock>().write(FreeBlock { next: (*slab).free });
        (*slab).free = block.cast();
        debug_assert!((*slab).used > 0, "a block of the heap was freed twice");
        (*slab).used -= 1;
        if was_full {
            push(pool, slab);
        }
        if (*slab).used > 0 {
            return;
        }
        if pool.empty > 0 {
            unlink(pool, slab);
            (*slab).next = *surplus;
            *surplus = slab;
        } else {
            pool.empty += 1;
        }
    }
}
