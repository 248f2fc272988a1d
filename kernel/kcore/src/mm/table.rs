//! The page tables of one user address space: three levels, with leaf tables that fork shares.
//!
//! fork copies no leaf table. It makes both level 2 entries point to the same one with APTable set, so that nothing below
//! can be written, and counts the sharers in the frame's metadata (on-demand fork, EuroSys 2021). Whoever must change a
//! shared leaf first takes a copy ([`PageTable::own_leaf`]); the last sharer takes the table itself.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::vec::Vec;

use hal::mem::{self, PAGE_SIZE, Pfn};
use hal::mmu::AddressSpace;
use hal::pte::{ENTRIES, Pte, index};

use super::frame;
use crate::Result;

/// Bytes that a leaf table covers.
pub const LEAF_SPAN: u64 = (ENTRIES * PAGE_SIZE) as u64;
const PAGE: u64 = PAGE_SIZE as u64;

type Entries = [AtomicU64; ENTRIES];

fn load(entry: &AtomicU64) -> Pte {
    Pte(entry.load(Ordering::Relaxed))
}

/// Frames that were unmapped and may be freed once the TLBs have forgotten them.
#[derive(Default)]
pub struct Gather {
    pages: Vec<Pfn>,
    tables: Vec<Pfn>,
    /// Pages removed, for the resident-set counters: anonymous (counted, not shared) and others.
    pub removed: usize,
}

impl Gather {
    fn page(&mut self, pte: Pte) {
        self.removed += 1;
        if !pte.flags().uncounted {
            self.pages.push(pte.pfn());
        }
    }

    /// Frees everything. Call after the flush.
    pub fn release(self) {
        for pfn in self.pages {
            frame::put(pfn);
        }
        for table in self.tables {
            drop_leaf(table);
        }
    }
}

/// Gives up one share of a leaf table; the last one frees what is in it.
fn drop_leaf(leaf: Pfn) {
    if !frame::drop_reference(leaf) {
        return;
    }
    for entry in mem::table(leaf) {
        let pte = load(entry);
        if pte.is_valid() && !pte.flags().uncounted {
            frame::put(pte.pfn());
        }
    }
    frame::release(leaf);
}

/// The tables.
pub struct PageTable {
    root: Pfn,
}

impl PageTable {
    /// An empty address space.
    pub fn new() -> Result<Self> {
        Ok(Self { root: frame::allocate_zeroed()? })
    }

    /// The level 1 table.
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// The level 2 entry for `address`, if there is a level 2 table.
    fn level2(&self, address: u64) -> Option<&'static AtomicU64> {
        let top = load(&mem::table(self.root)[index(1, address)]);
        top.is_valid().then(|| &mem::table(top.pfn())[index(2, address)])
    }

    fn level2_or_new(&self, address: u64) -> Result<&'static AtomicU64> {
        let slot = &mem::table(self.root)[index(1, address)];
        let mut top = load(slot);
        if !top.is_valid() {
            top = Pte::table(frame::allocate_zeroed()?);
            slot.store(top.0, Ordering::Relaxed);
        }
        Ok(&mem::table(top.pfn())[index(2, address)])
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
    pub fn own_leaf(&self, address: u64, space: &AddressSpace) -> Result<&'static Entries> {
        let slot = self.level2_or_new(address)?;
        let leaf = load(slot);
        if !leaf.is_valid() {
            let fresh = frame::allocate_zeroed()?;
            slot.store(Pte::table(fresh).0, Ordering::Relaxed);
            return Ok(mem::table(fresh));
        }
        if leaf.is_shared_table() {
            unshare(slot, leaf.pfn())?;
            // Walk caches hold the table descriptor of the whole region, not only of this page.
            space.flush_all();
        }
        Ok(mem::table(load(slot).pfn()))
    }

    /// As [`Self::own_leaf`], but `None` where nothing is mapped.
    fn own_leaf_if_any(&self, address: u64, space: &AddressSpace) -> Result<Option<&'static Entries>> {
        match self.level2(address).map(load) {
            Some(leaf) if leaf.is_valid() => self.own_leaf(address, space).map(Some),
            _ => Ok(None),
        }
    }

    /// Stores the entry of a page. True when a valid one was replaced: the caller flushes.
    pub fn set(&self, address: u64, pte: Pte, space: &AddressSpace) -> Result<bool> {
        let leaf = self.own_leaf(address, space)?;
        let old = leaf[index(3, address)].swap(pte.0, Ordering::Relaxed);
        Ok(Pte(old).is_valid())
    }

    /// Makes a copy-on-write twin: level 2 tables are copied, leaf tables shared. The caller flushes this space.
    pub fn fork(&self) -> Result<PageTable> {
        let child = PageTable::new()?;
        for (n, slot) in mem::table(self.root).iter().enumerate() {
            let top = load(slot);
            if !top.is_valid() {
                continue;
            }
            let table = frame::allocate_zeroed()?;
            mem::table(child.root)[n].store(Pte::table(table).0, Ordering::Relaxed);
            for (mine, theirs) in mem::table(top.pfn()).iter().zip(mem::table(table)) {
                let leaf = load(mine);
                if leaf.is_valid() {
                    frame::get(leaf.pfn());
                    let shared = Pte::shared_table(leaf.pfn()).0;
                    mine.store(shared, Ordering::Relaxed);
                    theirs.store(shared, Ordering::Relaxed);
                }
            }
        }
        Ok(child)
    }

    /// Unmaps `start..end`. Whole leaf tables go as they are, shared or not. The caller flushes, then releases.
    pub fn unmap(&self, start: u64, end: u64, space: &AddressSpace, gather: &mut Gather) -> Result<()> {
        let mut at = start;
        while at < end {
            let region_end = (at / LEAF_SPAN + 1) * LEAF_SPAN;
            let stop = end.min(region_end);
            if let Some(slot) = self.level2(at) {
                let leaf = load(slot);
                if leaf.is_valid() && at.is_multiple_of(LEAF_SPAN) && stop == region_end {
                    gather.removed += present(leaf.pfn());
                    slot.store(0, Ordering::Relaxed);
                    gather.tables.push(leaf.pfn());
                } else if let Some(leaf) = self.own_leaf_if_any(at, space)? {
                    clear(leaf, at, stop, gather);
                }
                at = stop;
            } else {
                // No level 2 table: skip the gigabyte.
                at = (at / (LEAF_SPAN * ENTRIES as u64) + 1) * (LEAF_SPAN * ENTRIES as u64);
            }
        }
        Ok(())
    }

    /// Takes copies of the shared leaf tables of a range up front, so that a later [`Self::unmap`] or [`Self::update`] of
    /// it cannot fail.
    pub fn own_range(&self, start: u64, end: u64, space: &AddressSpace) -> Result<()> {
        let mut at = start;
        while at < end {
            if self.leaf_is_shared(at) {
                self.own_leaf(at, space)?;
            }
            at = (at / LEAF_SPAN + 1) * LEAF_SPAN;
        }
        Ok(())
    }

    /// Rewrites every valid entry of `start..end`. The caller flushes.
    pub fn update(&self, start: u64, end: u64, space: &AddressSpace, mut change: impl FnMut(Pte) -> Pte) -> Result<()> {
        let mut at = start;
        while at < end {
            let stop = end.min((at / LEAF_SPAN + 1) * LEAF_SPAN);
            if let Some(leaf) = self.own_leaf_if_any(at, space)? {
                for page in (at..stop).step_by(PAGE_SIZE) {
                    let entry = &leaf[index(3, page)];
                    let pte = load(entry);
                    if pte.is_valid() {
                        entry.store(change(pte).0, Ordering::Relaxed);
                    }
                }
            }
            at = stop;
        }
        Ok(())
    }

    /// Moves the entries of `from..from + length` to `to`, page by page. The caller flushes the old range.
    pub fn relocate(&self, from: u64, to: u64, length: u64, space: &AddressSpace) -> Result<()> {
        // Everything that can fail first: tables of both ranges.
        for offset in (0..length).step_by(PAGE_SIZE) {
            if self.lookup(from + offset).is_valid() {
                self.own_leaf(from + offset, space)?;
                self.own_leaf(to + offset, space)?;
            }
        }
        for offset in (0..length).step_by(PAGE_SIZE) {
            if self.lookup(from + offset).is_valid() {
                let source = self.own_leaf(from + offset, space)?;
                let target = self.own_leaf(to + offset, space)?;
                let pte = source[index(3, from + offset)].swap(0, Ordering::Relaxed);
                target[index(3, to + offset)].store(pte, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn present(leaf: Pfn) -> usize {
    mem::table(leaf).iter().filter(|entry| load(entry).is_valid()).count()
}

fn clear(leaf: &Entries, start: u64, end: u64, gather: &mut Gather) {
    for page in (start..end).step_by(PAGE as usize) {
        let pte = Pte(leaf[index(3, page)].swap(0, Ordering::Relaxed));
        if pte.is_valid() {
            gather.page(pte);
        }
    }
}

/// Takes the shared leaf table of `slot` for this space: the table itself for the last sharer, else a copy in which, as in
/// the original, private pages are copied before they are written.
fn unshare(slot: &AtomicU64, leaf: Pfn) -> Result<()> {
    if frame::references(leaf) == 1 {
        slot.store(Pte::table(leaf).0, Ordering::Relaxed);
        return Ok(());
    }
    let copy = frame::allocate_zeroed()?;
    for (theirs, mine) in mem::table(leaf).iter().zip(mem::table(copy)) {
        let mut pte = load(theirs);
        if !pte.is_valid() {
            continue;
        }
        let flags = pte.flags();
        if flags.write && !flags.shared {
            pte = pte.write_protected_for_cow();
            // The other sharers see it through APTable, so for them nothing changes until one is left alone.
            theirs.store(pte.0, Ordering::Relaxed);
        }
        if !flags.uncounted {
            frame::get(pte.pfn());
        }
        mine.store(pte.0, Ordering::Relaxed);
    }
    slot.store(Pte::table(copy).0, Ordering::Relaxed);
    drop_leaf(leaf);
    Ok(())
}

impl Drop for PageTable {
    fn drop(&mut self) {
        for slot in mem::table(self.root) {
            let top = load(slot);
            if !top.is_valid() {
                continue;
            }
            for slot in mem::table(top.pfn()) {
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
