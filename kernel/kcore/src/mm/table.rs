//! The page tables of one user address space: three levels, with leaf tables that fork shares.
//!
//! fork copies no leaf table. It makes both level 2 entries point to the same one with APTable set, so that nothing below
//! can be written, and counts the sharers in the frame's metadata (on-demand fork, EuroSys 2021). Whoever must change a
//! shared leaf first takes a copy ([`PageTable::own_leaf`]); the last sharer takes the table itself.
//!
//! The frame of each table notes which groups of eight entries were filled. A small process fills a few dozen of some
//! thousand entries, far apart; fork, copying a leaf and exit look at those alone.

use core::sync::atomic::{AtomicU64, Ordering};

use hal::mem::{self, PAGE_SIZE, Pfn};
use hal::mmu::AddressSpace;
use hal::pte::{ENTRIES, Pte, index};

use super::frame;
use crate::Result;

/// Bytes that a leaf table covers.
pub const LEAF_SPAN: u64 = (ENTRIES * PAGE_SIZE) as u64;
/// Bytes that a level 2 table covers.
const LEVEL2_SPAN: u64 = LEAF_SPAN * ENTRIES as u64;
const PAGE: u64 = PAGE_SIZE as u64;

#[inline(always)]
fn load(entry: &AtomicU64) -> Pte {
    Pte(entry.load(Ordering::Relaxed))
}

/// Entries that one bit of a table's note stands for.
const GROUP: usize = ENTRIES / 64;

/// A table of empty entries. The note of a fresh frame is 0: no group is filled.
fn new_table() -> Result<Pfn> {
    frame::allocate_zeroed()
}

/// A bit for each group of `table` that may have entries.
#[inline(always)]
fn groups(table: Pfn) -> u64 {
    frame::note(table).load(Ordering::Relaxed)
}

/// Notes that `table` has an entry at `at`.
#[inline(always)]
fn mark(table: Pfn, at: usize) {
    let word = frame::note(table);
    word.store(word.load(Ordering::Relaxed) | 1 << (at / GROUP), Ordering::Relaxed);
}

/// The groups of the entries `first..last`, of which there is at least one.
#[inline(always)]
fn groups_of(first: usize, last: usize) -> u64 {
    (u64::MAX << (first / GROUP)) & (u64::MAX >> (63 - (last - 1) / GROUP))
}

/// The runs of entries that the groups in `mask` make.
fn runs(mut mask: u64) -> impl Iterator<Item = core::ops::Range<usize>> {
    core::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let start = mask.trailing_zeros();
        let length = (mask >> start).trailing_ones();
        mask &= u64::MAX.checked_shl(start + length).unwrap_or(0);
        Some(start as usize * GROUP..(start + length) as usize * GROUP)
    })
}

/// The entries of `table` that may be filled, with their indexes.
fn filled(table: Pfn) -> impl Iterator<Item = (usize, &'static AtomicU64)> {
    let entries = mem::table(table);
    runs(groups(table)).flat_map(move |run| run.clone().zip(&entries[run]))
}

/// Whether an entry counts as resident: the frame of zeros does not (Linux `MM_ANONPAGES`).
#[inline(always)]
fn is_resident(pte: Pte) -> bool {
    pte.is_counted() || pte.is_valid() && pte.pfn() != frame::zero_frame()
}

/// How many pages and leaf tables are taken out before the TLBs are told.
const GATHER_PAGES: usize = 64;
const GATHER_TABLES: usize = 8;

/// Frames that were unmapped, to be freed once the TLBs have forgotten them. It holds a bounded number and then flushes by
/// itself, so unmapping needs no memory.
pub struct Gather<'a> {
    space: &'a AddressSpace,
    pages: [Pfn; GATHER_PAGES],
    page_count: usize,
    tables: [Pfn; GATHER_TABLES],
    table_count: usize,
    /// The addresses between which the TLBs may still know something.
    stale_start: u64,
    stale_end: u64,
    /// Resident pages removed.
    pub removed: usize,
}

impl<'a> Gather<'a> {
    /// Nothing yet.
    pub fn new(space: &'a AddressSpace) -> Self {
        Self {
            space,
            pages: [Pfn(0); GATHER_PAGES],
            page_count: 0,
            tables: [Pfn(0); GATHER_TABLES],
            table_count: 0,
            stale_start: u64::MAX,
            stale_end: 0,
            removed: 0,
        }
    }

    fn forget(&mut self, start: u64, end: u64) {
        self.stale_start = self.stale_start.min(start);
        self.stale_end = self.stale_end.max(end);
    }

    fn page(&mut self, address: u64, pte: Pte) {
        self.removed += usize::from(is_resident(pte));
        self.forget(address, address + PAGE);
        if !pte.is_counted() {
            return;
        }
        self.pages[self.page_count] = pte.pfn();
        self.page_count += 1;
        if self.page_count == GATHER_PAGES {
            self.flush();
        }
    }

    fn table(&mut self, address: u64, leaf: Pfn) {
        self.removed += resident_in(leaf);
        self.forget(address, address + LEAF_SPAN);
        self.tables[self.table_count] = leaf;
        self.table_count += 1;
        if self.table_count == GATHER_TABLES {
            self.flush();
        }
    }

    /// Makes the TLBs forget, then frees.
    fn flush(&mut self) {
        if self.stale_start < self.stale_end {
            self.space.flush_range(self.stale_start, ((self.stale_end - self.stale_start) / PAGE) as usize);
        }
        (self.stale_start, self.stale_end) = (u64::MAX, 0);
        frame::put_all(self.pages[..core::mem::take(&mut self.page_count)].iter().copied());
        for table in &self.tables[..core::mem::take(&mut self.table_count)] {
            drop_leaf(*table);
        }
    }
}

impl Drop for Gather<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Gives up one share of a leaf table; the last one frees what is in it.
fn drop_leaf(leaf: Pfn) {
    if !frame::drop_reference(leaf) {
        return;
    }
    frame::put_all(filled(leaf).map(|(_, entry)| load(entry)).filter(|pte| pte.is_counted()).map(Pte::pfn));
    frame::release(leaf);
}

/// The tables.
pub struct PageTable {
    root: Pfn,
}

/// The place of a page's entry in a leaf table that is the address space's own: found once, looked at and filled.
#[derive(Clone, Copy)]
pub struct Slot {
    leaf: Pfn,
    at: usize,
    entry: &'static AtomicU64,
}

impl Slot {
    /// The entry as it is.
    #[inline(always)]
    pub fn get(self) -> Pte {
        load(self.entry)
    }

    /// Stores the entry. The caller flushes if a valid one was replaced, else publishes.
    #[inline(always)]
    pub fn set(self, pte: Pte) {
        mark(self.leaf, self.at);
        // Only the holder of the lock writes here and the hardware writes nothing (no DBM): no read-modify-write.
        self.entry.store(pte.0, Ordering::Release);
    }

    /// Whether the leaf table has no entry at all.
    #[inline(always)]
    pub fn region_is_empty(self) -> bool {
        groups(self.leaf) == 0
    }

    /// Fills an empty leaf table with neighbouring frames; `first` is the entry of its first page. The caller publishes.
    pub fn fill_region(self, first: Pte) {
        debug_assert!(self.region_is_empty());
        frame::note(self.leaf).store(u64::MAX, Ordering::Relaxed);
        for (n, entry) in (0..).zip(mem::table(self.leaf)) {
            entry.store(first.neighbour(n).0, Ordering::Release);
        }
    }
}

impl PageTable {
    /// An empty address space.
    pub fn new() -> Result<Self> {
        Ok(Self { root: new_table()? })
    }

    /// The level 1 table.
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// The level 2 entry for `address`, if there is a level 2 table.
    #[inline(always)]
    fn level2(&self, address: u64) -> Option<&'static AtomicU64> {
        let top = load(&mem::table(self.root)[index(1, address)]);
        top.is_valid().then(|| &mem::table(top.pfn())[index(2, address)])
    }

    /// The level 2 table for `address`, made if need be.
    #[inline(always)]
    fn level2_or_new(&self, address: u64) -> Result<Pfn> {
        let at = index(1, address);
        let slot = &mem::table(self.root)[at];
        let top = load(slot);
        if top.is_valid() {
            return Ok(top.pfn());
        }
        let fresh = new_table()?;
        mark(self.root, at);
        slot.store(Pte::table(fresh).0, Ordering::Release);
        Ok(fresh)
    }

    /// The entry of a page as it is, empty when there is no table for it.
    #[inline]
    pub fn lookup(&self, address: u64) -> Pte {
        let Some(slot) = self.level2(address) else { return Pte::EMPTY };
        let leaf = load(slot);
        if !leaf.is_valid() {
            return Pte::EMPTY;
        }
        load(&mem::table(leaf.pfn())[index(3, address)])
    }

    /// Whether writes through `address` are held back by a shared leaf table.
    pub fn leaf_is_shared(&self, address: u64) -> bool {
        self.level2(address).map(load).is_some_and(|leaf| leaf.is_valid() && leaf.is_shared_table())
    }

    /// The leaf table for `address`, this space's own to change, made or copied if need be.
    #[inline]
    pub fn own_leaf(&self, address: u64, space: &AddressSpace) -> Result<Pfn> {
        let table = self.level2_or_new(address)?;
        let at = index(2, address);
        let slot = &mem::table(table)[at];
        let leaf = load(slot);
        if !leaf.is_valid() {
            let fresh = new_table()?;
            mark(table, at);
            slot.store(Pte::table(fresh).0, Ordering::Release);
            return Ok(fresh);
        }
        if !leaf.is_shared_table() {
            return Ok(leaf.pfn());
        }
        unshare(slot, leaf.pfn(), space)
    }

    /// Where the entry of a page is, this space's own to change.
    #[inline(always)]
    pub fn own_slot(&self, address: u64, space: &AddressSpace) -> Result<Slot> {
        let leaf = self.own_leaf(address, space)?;
        let at = index(3, address);
        Ok(Slot { leaf, at, entry: &mem::table(leaf)[at] })
    }

    /// Stores the entry of a page. True when a valid one was replaced: the caller flushes.
    #[inline]
    pub fn set(&self, address: u64, pte: Pte, space: &AddressSpace) -> Result<bool> {
        Ok(self.swap(address, pte, space)?.is_valid())
    }

    /// As [`Self::set`], but returns the old entry.
    #[inline]
    pub fn swap(&self, address: u64, pte: Pte, space: &AddressSpace) -> Result<Pte> {
        let slot = self.own_slot(address, space)?;
        let old = slot.get();
        slot.set(pte);
        Ok(old)
    }

    /// Makes a copy-on-write twin: level 2 tables are copied, leaf tables shared. The caller flushes this space.
    pub fn fork(&self) -> Result<PageTable> {
        let child = PageTable::new()?;
        for (n, slot) in filled(self.root) {
            let top = load(slot);
            if !top.is_valid() {
                continue;
            }
            let table = new_table()?;
            frame::note(table).store(frame::note(top.pfn()).load(Ordering::Relaxed), Ordering::Relaxed);
            mark(child.root, n);
            mem::table(child.root)[n].store(Pte::table(table).0, Ordering::Relaxed);
            for (n, mine) in filled(top.pfn()) {
                let leaf = load(mine);
                if leaf.is_valid() {
                    frame::get(leaf.pfn());
                    let shared = Pte::shared_table(leaf.pfn()).0;
                    mine.store(shared, Ordering::Relaxed);
                    mem::table(table)[n].store(shared, Ordering::Relaxed);
                }
            }
        }
        Ok(child)
    }

    /// Calls `f` with the part of `start..end` that each leaf table covers, and its level 2 entry. Regions without tables
    /// are passed over in large steps.
    fn for_each_leaf(
        &self,
        start: u64,
        end: u64,
        mut f: impl FnMut(&'static AtomicU64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut at = start;
        while at < end {
            let Some(slot) = self.level2(at) else {
                at = (at / LEVEL2_SPAN + 1) * LEVEL2_SPAN;
                continue;
            };
            let stop = end.min((at / LEAF_SPAN + 1) * LEAF_SPAN);
            if load(slot).is_valid() {
                f(slot, at, stop)?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Unmaps `start..end`. Whole leaf tables go as they are, shared or not.
    pub fn unmap(&self, start: u64, end: u64, gather: &mut Gather<'_>) -> Result<()> {
        self.for_each_leaf(start, end, |slot, from, to| {
            if to - from == LEAF_SPAN {
                let leaf = load(slot).pfn();
                slot.store(0, Ordering::Relaxed);
                gather.table(from, leaf);
            } else {
                let leaf = load(slot);
                let own = if leaf.is_shared_table() { self.own_leaf(from, gather.space)? } else { leaf.pfn() };
                clear(own, from, to, gather);
            }
            Ok(())
        })
    }

    /// Takes copies of the shared leaf tables of a range up front, so that a later [`Self::update`] of it cannot fail.
    pub fn own_range(&self, start: u64, end: u64, space: &AddressSpace) -> Result<()> {
        self.for_each_leaf(start, end, |slot, from, _| {
            if load(slot).is_shared_table() {
                self.own_leaf(from, space)?;
            }
            Ok(())
        })
    }

    /// As [`Self::own_range`], for [`Self::unmap`]: only tables that keep a part are needed.
    pub fn own_edges(&self, start: u64, end: u64, space: &AddressSpace) -> Result<()> {
        let cut = |at: u64| {
            let region = at / LEAF_SPAN * LEAF_SPAN;
            let whole = start <= region && region + LEAF_SPAN <= end;
            if !whole && self.leaf_is_shared(at) { self.own_leaf(at, space).map(drop) } else { Ok(()) }
        };
        cut(start)?;
        cut(end - 1)
    }

    /// Rewrites every valid entry of `start..end`. True when there was one: the caller flushes.
    pub fn update(
        &self,
        start: u64,
        end: u64,
        space: &AddressSpace,
        mut change: impl FnMut(Pte) -> Pte,
    ) -> Result<bool> {
        let mut changed = false;
        self.for_each_leaf(start, end, |slot, from, to| {
            let leaf = load(slot);
            let own = if leaf.is_shared_table() { self.own_leaf(from, space)? } else { leaf.pfn() };
            for (_, entry) in filled_between(own, from, to) {
                let pte = load(entry);
                if pte.is_valid() {
                    entry.store(change(pte).0, Ordering::Relaxed);
                    changed = true;
                }
            }
            Ok(())
        })?;
        Ok(changed)
    }

    /// Calls `f` with every valid entry of `start..end`.
    pub fn for_each(&self, start: u64, end: u64, mut f: impl FnMut(Pte)) {
        let walked = self.for_each_leaf(start, end, |slot, from, to| {
            for (_, entry) in filled_between(load(slot).pfn(), from, to) {
                let pte = load(entry);
                if pte.is_valid() {
                    f(pte);
                }
            }
            Ok(())
        });
        debug_assert!(walked.is_ok());
    }

    /// Resident pages of `start..end`.
    pub fn count_resident(&self, start: u64, end: u64) -> u64 {
        let mut count = 0;
        self.for_each(start, end, |pte| count += u64::from(is_resident(pte)));
        count
    }

    /// Moves the entries of `from..from + length` to `to`, page by page. The caller flushes the old range.
    pub fn relocate(&self, from: u64, to: u64, length: u64, space: &AddressSpace) -> Result<()> {
        // Everything that can fail first: tables of both ranges.
        self.for_each_leaf(from, from + length, |_, start, end| {
            self.own_leaf(start, space)?;
            let mut target = start - from + to;
            while target < end - from + to {
                self.own_leaf(target, space)?;
                target = (target / LEAF_SPAN + 1) * LEAF_SPAN;
            }
            Ok(())
        })?;
        self.for_each_leaf(from, from + length, |_, start, end| {
            let source = self.own_leaf(start, space)?;
            for (page, entry) in filled_between(source, start, end) {
                let pte = load(entry);
                if pte.is_valid() {
                    entry.store(0, Ordering::Relaxed);
                    self.set(page - from + to, pte, space)?;
                }
            }
            Ok(())
        })
    }
}

/// The entries of `leaf` that may be filled and lie in `start..end`, with the addresses of their pages.
fn filled_between(leaf: Pfn, start: u64, end: u64) -> impl Iterator<Item = (u64, &'static AtomicU64)> {
    let region = start / LEAF_SPAN * LEAF_SPAN;
    let (first, last) = (index(3, start), ((end - region) / PAGE) as usize);
    let entries = mem::table(leaf);
    runs(groups(leaf) & groups_of(first, last)).flat_map(move |run| {
        let run = run.start.max(first)..run.end.min(last);
        run.clone().map(move |n| region + n as u64 * PAGE).zip(&entries[run])
    })
}

/// The entries of `start..end` in a space's own `leaf`, to be filled where they are empty. The caller publishes.
pub(super) fn window(leaf: Pfn, start: u64, end: u64) -> &'static [AtomicU64] {
    let (first, last) = (index(3, start), index(3, end - PAGE) + 1);
    let word = frame::note(leaf);
    word.store(word.load(Ordering::Relaxed) | groups_of(first, last), Ordering::Relaxed);
    &mem::table(leaf)[first..last]
}

/// Stores an entry of a [`window`] if it is empty.
#[inline(always)]
pub(super) fn fill(entry: &AtomicU64, make: impl FnOnce() -> Pte) -> bool {
    if load(entry).is_valid() {
        return false;
    }
    entry.store(make().0, Ordering::Release);
    true
}

fn resident_in(leaf: Pfn) -> usize {
    filled(leaf).filter(|(_, entry)| is_resident(load(entry))).count()
}

fn clear(leaf: Pfn, start: u64, end: u64, gather: &mut Gather<'_>) {
    let (first, last) = (index(3, start), index(3, end - PAGE) + 1);
    let met = groups(leaf) & groups_of(first, last);
    if met == 0 {
        return;
    }
    let mut cleared = false;
    for (page, entry) in filled_between(leaf, start, end) {
        let pte = load(entry);
        if pte.is_valid() {
            entry.store(0, Ordering::Relaxed);
            gather.page(page, pte);
            cleared = true;
        }
    }
    if !cleared {
        return;
    }
    // The groups within are empty now; those at the borders are if the rest of them is.
    let entries = mem::table(leaf);
    let in_use = |at: usize| entries[at / GROUP * GROUP..][..GROUP].iter().any(|entry| !load(entry).is_empty());
    let mut kept = 0;
    for at in [first, last - 1] {
        if in_use(at) {
            kept |= 1 << (at / GROUP);
        }
    }
    frame::note(leaf).store(groups(leaf) & !met | met & kept, Ordering::Relaxed);
}

/// Takes the shared leaf table of `slot` for this space: the table itself for the last sharer, else a copy in which, as in
/// the original, private pages are copied before they are written. Walk caches hold the table descriptor of the whole
/// region, not only of one page, so the whole space is flushed, before the old table can be freed.
fn unshare(slot: &AtomicU64, leaf: Pfn, space: &AddressSpace) -> Result<Pfn> {
    if frame::references(leaf) == 1 {
        slot.store(Pte::table(leaf).0, Ordering::Relaxed);
        space.flush_all();
        return Ok(leaf);
    }
    let copy = frame::allocate_zeroed()?;
    frame::note(copy).store(frame::note(leaf).load(Ordering::Relaxed), Ordering::Relaxed);
    let mine = mem::table(copy);
    for (n, theirs) in filled(leaf) {
        let mut pte = load(theirs);
        if !pte.is_valid() {
            continue;
        }
        if pte.is_private_writable() {
            pte = pte.write_protected_for_cow();
            // The other sharers see it through APTable, so for them nothing changes until one is left alone.
            theirs.store(pte.0, Ordering::Relaxed);
        }
        if pte.is_counted() {
            frame::get(pte.pfn());
        }
        mine[n].store(pte.0, Ordering::Relaxed);
    }
    slot.store(Pte::table(copy).0, Ordering::Release);
    space.flush_all();
    drop_leaf(leaf);
    Ok(copy)
}

impl PageTable {
    /// Pages that the tables themselves take; a leaf table that is shared counts in each of its spaces.
    pub fn count_tables(&self) -> u64 {
        let valid = |table: Pfn| filled(table).map(|(_, slot)| load(slot)).filter(|entry| entry.is_valid());
        1 + valid(self.root).map(|top| 1 + valid(top.pfn()).count() as u64).sum::<u64>()
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        for (_, slot) in filled(self.root) {
            let top = load(slot);
            if !top.is_valid() {
                continue;
            }
            for (_, slot) in filled(top.pfn()) {
                let leaf = load(slot);
                if leaf.is_valid() {
                    drop_leaf(leaf.pfn());
                }
            }
            frame::put(top.pfn());
        }
        frame::put(self.root);
    }
}
