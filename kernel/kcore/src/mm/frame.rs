//! Physical frames: a buddy allocator with per-CPU lists, a reference count per frame, and a pool of zeroed frames.
//!
//! The count of a page is the number of leaf tables (and caches) that refer to it; the count of a leaf table is the number
//! of address spaces that share it. The metadata of all frames lies in frames of its own, viewed through
//! `hal::mem::table`: two words each.
//!
//! User memory may not take the last frames: they are kept for the kernel's own small objects, which therefore need no
//! failure path of their own (see `kernel/doc/decisions.md`).

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use hal::cpu::PerCpu;
use hal::mem::{self, FrameRange, FrameSource, PAGE_SIZE, Pfn};
use hal::sync::IrqLock;

use crate::Result;
use crate::sync::order;

/// Largest block: 2^10 frames, 4 MiB.
const MAX_ORDER: u32 = 10;
const ORDERS: usize = MAX_ORDER as usize + 1;
/// Frame number that means "none" in lists.
const NONE: u32 = u32::MAX;
/// Metadata entries per frame.
const METAS: u32 = 256;
/// In the count word of a free block's first frame; its order is in the low bits.
const FREE: u64 = 1 << 63;
/// Frames that a per-CPU list holds, and how many move at once.
const CACHE: usize = 64;
const BATCH: usize = 32;
/// Zeroed frames kept ready.
const ZEROED: usize = 256;

struct Buddy {
    heads: [u32; ORDERS],
    free: usize,
}

struct Cache<const N: usize> {
    frames: [u32; N],
    count: usize,
}

impl<const N: usize> Cache<N> {
    const fn new() -> Self {
        Self { frames: [0; N], count: 0 }
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<Pfn> {
        let left = self.count.wrapping_sub(1);
        let pfn = *self.frames.get(left)?;
        self.count = left;
        Some(Pfn(pfn))
    }

    #[inline(always)]
    fn push(&mut self, pfn: Pfn) -> bool {
        let Some(place) = self.frames.get_mut(self.count) else { return false };
        *place = pfn.0;
        self.count += 1;
        true
    }
}

hal::global! {
    static BUDDY: IrqLock<Buddy> = IrqLock::new(order::FRAMES, Buddy { heads: [NONE; ORDERS], free: 0 });
    static CACHES: PerCpu<IrqLock<Cache<CACHE>>> = PerCpu::new([const { IrqLock::new(order::FRAME_CACHE, Cache::new()) }; hal::MAX_CPUS]);
    static ZERO_POOL: IrqLock<Cache<ZEROED>> = IrqLock::new(order::FRAME_CACHE, Cache::new());
    /// How many the pool holds, to be looked at without its lock.
    static ZEROED_COUNT: AtomicUsize = AtomicUsize::new(0);
    /// First frame of the metadata, and how many frames there are.
    static META_BASE: AtomicU32 = AtomicU32::new(NONE);
    static MANAGED: AtomicUsize = AtomicUsize::new(0);
    /// Frames that user memory may not take.
    static RESERVE: AtomicUsize = AtomicUsize::new(0);
    /// A frame of zeros that read faults map; never written.
    static ZERO_FRAME: AtomicU32 = AtomicU32::new(0);
}

#[inline(always)]
fn meta(pfn: Pfn) -> (&'static AtomicU64, &'static AtomicU64) {
    let table = mem::table(Pfn(META_BASE.load(Ordering::Relaxed) + pfn.0 / METAS));
    let at = (pfn.0 % METAS) as usize * 2;
    (&table[at], &table[at + 1])
}

/// Takes over the machine's free RAM. Once, at boot.
pub fn init() {
    let meta_frames = mem::max_pfn().div_ceil(METAS);
    let ranges = mem::free_ranges();
    let host = ranges.iter().rev().find(|range| range.count > meta_frames).expect("RAM holds its own metadata");
    META_BASE.store(host.start.0, Ordering::Relaxed);
    for n in 0..meta_frames {
        mem::zero(Pfn(host.start.0 + n));
    }
    for range in ranges {
        let skip = if range.start == host.start { meta_frames } else { 0 };
        free_range(range.start.0 + skip, range.start.0 + range.count);
    }
    let managed = BUDDY.lock().free;
    MANAGED.store(managed, Ordering::Relaxed);
    RESERVE.store((managed / 256).max(32), Ordering::Relaxed);
    mem::set_frame_source(FrameSource { allocate: allocate_for_kernel, free: free_block });
    let zero = allocate_zeroed().expect("a fresh machine has frames");
    ZERO_FRAME.store(zero.0, Ordering::Relaxed);
}

/// Frees `start..end` in the largest aligned blocks, joined with what is free around them.
fn free_range(mut start: u32, end: u32) {
    let mut buddy = BUDDY.lock();
    while start < end {
        let fits = (end - start).ilog2();
        let order = start.trailing_zeros().min(MAX_ORDER).min(fits);
        buddy.give(Pfn(start), order);
        start += 1 << order;
    }
}

impl Buddy {
    fn insert(&mut self, pfn: Pfn, order: u32) {
        let (count, links) = meta(pfn);
        let head = self.heads[order as usize];
        count.store(FREE | u64::from(order), Ordering::Relaxed);
        links.store(u64::from(head) | u64::from(NONE) << 32, Ordering::Relaxed);
        if head != NONE {
            let (_, links) = meta(Pfn(head));
            let next = links.load(Ordering::Relaxed) & 0xffff_ffff;
            links.store(next | u64::from(pfn.0) << 32, Ordering::Relaxed);
        }
        self.heads[order as usize] = pfn.0;
    }

    fn remove(&mut self, pfn: Pfn, order: u32) {
        let (count, links) = meta(pfn);
        let packed = links.load(Ordering::Relaxed);
        let (next, previous) = (packed as u32, (packed >> 32) as u32);
        if previous == NONE {
            self.heads[order as usize] = next;
        } else {
            let (_, links) = meta(Pfn(previous));
            links.store(u64::from(next) | links.load(Ordering::Relaxed) & !0xffff_ffff, Ordering::Relaxed);
        }
        if next != NONE {
            let (_, links) = meta(Pfn(next));
            links.store(links.load(Ordering::Relaxed) & 0xffff_ffff | u64::from(previous) << 32, Ordering::Relaxed);
        }
        count.store(0, Ordering::Relaxed);
    }

    /// Takes a block, splitting a larger one if need be.
    fn take(&mut self, order: u32) -> Option<Pfn> {
        let found = (order..=MAX_ORDER).find(|o| self.heads[*o as usize] != NONE)?;
        let pfn = Pfn(self.heads[found as usize]);
        self.remove(pfn, found);
        for o in (order..found).rev() {
            self.insert(Pfn(pfn.0 + (1 << o)), o);
        }
        self.free -= 1 << order;
        Some(pfn)
    }

    /// Gives a block back and joins it with its buddies.
    fn give(&mut self, mut pfn: Pfn, mut order: u32) {
        self.free += 1 << order;
        while order < MAX_ORDER {
            let other = Pfn(pfn.0 ^ (1 << order));
            if other.0 >= mem::max_pfn() || meta(other).0.load(Ordering::Relaxed) != FREE | u64::from(order) {
                break;
            }
            self.remove(other, order);
            pfn = Pfn(pfn.0 & !(1 << order));
            order += 1;
        }
        self.insert(pfn, order);
    }
}

/// Runs `f` on this CPU's list. Moved to another CPU before the lock is held, a task uses the list of the CPU that it left:
/// any list will do.
#[inline(always)]
fn with_cache<R>(f: impl FnOnce(&mut Cache<CACHE>) -> R) -> R {
    f(&mut CACHES.this().lock())
}

/// Fills an empty list, leaving at least `reserve` frames. One block if there is one, so that frames that are taken one
/// after the other, and given back together, are neighbours.
#[cold]
#[inline(never)]
fn refill(cache: &mut Cache<CACHE>, reserve: usize) {
    let mut buddy = BUDDY.lock();
    if buddy.free <= reserve {
        return;
    }
    if buddy.free > reserve + BATCH
        && let Some(block) = buddy.take(BATCH.ilog2())
    {
        (0..BATCH as u32).rev().for_each(|n| {
            cache.push(Pfn(block.0 + n));
        });
        return;
    }
    for _ in 0..BATCH {
        let Some(pfn) = buddy.take(0) else { break };
        cache.push(pfn);
    }
}

/// One frame with reference count 1, contents undefined, leaving at least `reserve` frames.
fn take_one(reserve: usize) -> Option<Pfn> {
    let pfn = with_cache(|cache| {
        if cache.count == 0 {
            refill(cache, reserve);
        }
        cache.pop()
    });
    let pfn = pfn.or_else(take_zeroed)?;
    let (count, note) = meta(pfn);
    count.store(1, Ordering::Relaxed);
    note.store(0, Ordering::Relaxed);
    Some(pfn)
}

/// One frame for user memory, contents undefined, with reference count 1. `ENOMEM` when only the reserve is left.
pub fn allocate() -> Result<Pfn> {
    if mem::injected_failure() {
        return Err(Errno::ENOMEM);
    }
    take_one(RESERVE.load(Ordering::Relaxed)).ok_or(Errno::ENOMEM)
}

/// One frame of zeros for user memory.
pub fn allocate_zeroed() -> Result<Pfn> {
    if mem::injected_failure() {
        return Err(Errno::ENOMEM);
    }
    // A look without the lock: two CPUs may both see the last one.
    if ZEROED_COUNT.load(Ordering::Relaxed) != 0
        && let Some(pfn) = take_zeroed()
    {
        return Ok(pfn);
    }
    let pfn = take_one(RESERVE.load(Ordering::Relaxed)).ok_or(Errno::ENOMEM)?;
    mem::zero(pfn);
    Ok(pfn)
}

fn take_zeroed() -> Option<Pfn> {
    let mut pool = ZERO_POOL.lock();
    let pfn = pool.pop()?;
    ZEROED_COUNT.store(pool.count, Ordering::Relaxed);
    drop(pool);
    meta(pfn).0.store(1, Ordering::Relaxed);
    Some(pfn)
}

/// 2^order neighbouring frames of zeros for user memory, each with reference count 1. `None` when there is no such block or
/// little else is free: the caller then takes frames one by one.
pub fn allocate_zeroed_block(order: u32) -> Option<Pfn> {
    let wanted = 1 << order;
    if mem::injected_failure() {
        return None;
    }
    let first = {
        let mut buddy = BUDDY.lock();
        if buddy.free < wanted + MANAGED.load(Ordering::Relaxed) / 16 {
            return None;
        }
        buddy.take(order)?
    };
    for n in 0..wanted as u32 {
        let (count, note) = meta(Pfn(first.0 + n));
        count.store(1, Ordering::Relaxed);
        note.store(0, Ordering::Relaxed);
    }
    mem::zero_range(FrameRange { start: first, count: wanted as u32 });
    Some(first)
}

/// Zeroes up to `limit` frames ahead of time, for the idle-priority thread. Returns how many.
pub fn zero_some(limit: usize) -> usize {
    if free_count() < MANAGED.load(Ordering::Relaxed) / 16 {
        return 0;
    }
    for done in 0..limit {
        if ZEROED_COUNT.load(Ordering::Relaxed) == ZEROED {
            return done;
        }
        let Some(pfn) = take_one(RESERVE.load(Ordering::Relaxed)) else { return done };
        mem::zero(pfn);
        meta(pfn).0.store(0, Ordering::Relaxed);
        let mut pool = ZERO_POOL.lock();
        let kept = pool.push(pfn);
        ZEROED_COUNT.store(pool.count, Ordering::Relaxed);
        drop(pool);
        if !kept {
            give_one(pfn);
            return done;
        }
    }
    limit
}

/// Whether the zeroed pool is less than half full.
pub fn wants_zeroing() -> bool {
    ZEROED_COUNT.load(Ordering::Relaxed) < ZEROED / 2
}

fn give_one(pfn: Pfn) {
    mem::frame_freed(pfn);
    with_cache(|cache| {
        if !cache.push(pfn) {
            spill(cache);
            cache.push(pfn);
        }
    });
}

/// Makes room in a full list.
#[cold]
#[inline(never)]
fn spill(cache: &mut Cache<CACHE>) {
    let mut buddy = BUDDY.lock();
    for _ in 0..BATCH {
        if let Some(old) = cache.pop() {
            buddy.give(old, 0);
        }
    }
}

/// Drops one reference of each frame and frees those that have no other. Neighbours go back to the allocator as blocks, which
/// makes a large mapping cheap to take down.
pub fn put_all(frames: impl Iterator<Item = Pfn>) {
    let (mut start, mut end) = (0, 0);
    for pfn in frames {
        let (count, _) = meta(pfn);
        // Nobody else can reach a frame of which we have the only reference.
        if count.load(Ordering::Acquire) == 1 {
            count.store(0, Ordering::Relaxed);
        } else {
            let before = count.fetch_sub(1, Ordering::AcqRel);
            debug_assert!(before != 0 && before & FREE == 0, "frame {:#x} was put once too often", pfn.0);
            if before != 1 {
                continue;
            }
        }
        if pfn.0 == end {
            end += 1;
        } else {
            give_run(start, end);
            (start, end) = (pfn.0, pfn.0 + 1);
        }
    }
    give_run(start, end);
}

/// Runs of at least this many frames skip the CPU's list.
const RUN: u32 = 8;

/// Frees the frames `start..end`, whose counts are zero.
fn give_run(start: u32, end: u32) {
    (start..end).for_each(|n| mem::frame_freed(Pfn(n)));
    if end - start >= RUN {
        return free_range(start, end);
    }
    if start == end {
        return;
    }
    with_cache(|cache| {
        for n in start..end {
            if !cache.push(Pfn(n)) {
                spill(cache);
                cache.push(Pfn(n));
            }
        }
    });
}

/// One more reference.
#[inline(always)]
pub fn get(pfn: Pfn) {
    meta(pfn).0.fetch_add(1, Ordering::Relaxed);
}

/// One reference less; frees the frame at zero. True when it did.
#[inline(always)]
pub fn put(pfn: Pfn) -> bool {
    let before = meta(pfn).0.fetch_sub(1, Ordering::AcqRel);
    debug_assert!(before != 0 && before & FREE == 0, "frame {:#x} was put once too often", pfn.0);
    if before == 1 {
        give_one(pfn);
        return true;
    }
    false
}

/// Drops a reference without freeing at zero: for leaf tables, whose last owner empties them first. True for the last.
pub fn drop_reference(pfn: Pfn) -> bool {
    meta(pfn).0.fetch_sub(1, Ordering::AcqRel) == 1
}

/// Frees a frame whose count [`drop_reference`] brought to zero.
pub fn release(pfn: Pfn) {
    give_one(pfn);
}

/// The reference count.
#[inline(always)]
pub fn references(pfn: Pfn) -> u64 {
    meta(pfn).0.load(Ordering::Acquire)
}

/// A word of a frame's metadata that its owner may use; 0 in a fresh frame. Page tables keep their bounds in it, pages that
/// hold code the mark below.
#[inline(always)]
pub fn note(pfn: Pfn) -> &'static AtomicU64 {
    meta(pfn).1
}

/// In [`note`] of a page: instruction fetch sees what the page holds (Linux `PG_dcache_clean`).
const CODE_CLEAN: u64 = 1 << 63;

/// Before a page is mapped executable: makes instruction fetch see its contents, unless it does already.
pub fn publish_code(pfn: Pfn) {
    let word = note(pfn);
    // Acquire and release: who sees the mark also comes after the cache maintenance.
    if word.load(Ordering::Acquire) & CODE_CLEAN == 0 {
        mem::sync_instruction_cache(pfn);
        word.store(CODE_CLEAN, Ordering::Release);
    }
}

/// After the kernel wrote to a page that may hold code: the next executable mapping publishes it again.
#[inline(always)]
pub fn code_changed(pfn: Pfn) {
    note(pfn).store(0, Ordering::Relaxed);
}

/// The frame of zeros.
#[inline(always)]
pub fn zero_frame() -> Pfn {
    Pfn(ZERO_FRAME.load(Ordering::Relaxed))
}

/// For hal: a block for the kernel's own use. It may take the reserve.
fn allocate_for_kernel(order: u32) -> Option<Pfn> {
    if order == 0 {
        return take_one(0);
    }
    let pfn = BUDDY.lock().take(order)?;
    meta(pfn).0.store(1, Ordering::Relaxed);
    Some(pfn)
}

fn free_block(pfn: Pfn, order: u32) {
    let (count, note) = meta(pfn);
    count.store(0, Ordering::Relaxed);
    note.store(0, Ordering::Relaxed);
    if order == 0 { give_one(pfn) } else { BUDDY.lock().give(pfn, order) }
}

/// Free frames, those on per-CPU lists and the zeroed ones included.
pub fn free_count() -> usize {
    let cached: usize = CACHES.iter().map(|cache| cache.lock().count).sum();
    let zeroed = ZERO_POOL.lock().count;
    BUDDY.lock().free + cached + zeroed
}

/// Frames that the allocator manages.
pub fn managed_count() -> usize {
    MANAGED.load(Ordering::Relaxed)
}

/// Asks before kernel objects of about `bytes` are made for a user: `ENOMEM` when memory is down to twice the reserve.
pub fn admit(bytes: usize) -> Result<()> {
    if mem::injected_failure() {
        return Err(Errno::ENOMEM);
    }
    let wanted = bytes.div_ceil(PAGE_SIZE) + RESERVE.load(Ordering::Relaxed);
    let have = BUDDY.lock().free + CACHE;
    if have < wanted { Err(Errno::ENOMEM) } else { Ok(()) }
}
