//! Page faults: what to do about an access that the page tables do not allow.

use alloc::sync::Arc;

use abi::signal::{SEGV_ACCERR, SEGV_MAPERR};
use hal::mem::{self, PAGE_SIZE, Pfn};
use hal::pte::{ENTRIES, PageFlags, Pte};
use hal::trap::{Access, PageFault};

use super::space::Space;
use super::table::Slot;
use super::{Backing, Mapping, Mm, Vma, frame, table};

/// Why a fault cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// SIGSEGV with this code.
    Segv {
        /// SEGV_MAPERR or SEGV_ACCERR.
        code: i32,
    },
    /// SIGBUS: beyond the end of a mapped file.
    Bus,
    /// There is no frame.
    OutOfMemory,
}

/// Pages of a file that are mapped around a fault, if they are in memory (Linux `fault_around_bytes`).
const FAULT_AROUND: u64 = 16;
const PAGE: u64 = PAGE_SIZE as u64;
/// The top byte of a user address is a tag that the hardware ignores (TBI).
pub(super) const UNTAGGED: u64 = (1 << 56) - 1;

impl Mm {
    /// Resolves a fault of this address space.
    pub fn handle_fault(&self, fault: &PageFault) -> Result<(), FaultError> {
        let address = fault.address & UNTAGGED;
        let mut space = self.lock();
        let boot_page = match space.find(address) {
            Some(vma) if !vma.shared => return self.fault_in(&space, vma, address, fault),
            Some(vma) => match boot_page_to_replace(vma, address, fault.access == Access::Write) {
                None => return self.fault_in(&space, vma, address, fault),
                Some(found) => found,
            },
            None => {
                let vma = space.grow_stack(self, address).ok_or(FaultError::Segv { code: SEGV_MAPERR })?;
                return self.fault_in(&space, &vma, address, fault);
            }
        };
        // The file gets a page of its own first, in all address spaces: that takes their locks, so not under this one.
        drop(space);
        let (mapping, index) = boot_page;
        mapping.replace_boot_page(index).map_err(|_| FaultError::OutOfMemory)?;
        self.handle_fault(fault)
    }

    fn fault_in(&self, space: &Space, vma: &Vma, address: u64, fault: &PageFault) -> Result<(), FaultError> {
        let allowed = match fault.access {
            Access::Read => vma.protection.read || vma.protection.write || vma.protection.exec,
            Access::Write => vma.protection.write,
            Access::Execute => vma.protection.exec,
        };
        if !allowed {
            return Err(FaultError::Segv { code: SEGV_ACCERR });
        }
        let page = address & !(PAGE - 1);
        self.resolve(space, vma, page, fault.access == Access::Write)
    }

    pub(super) fn resolve(&self, space: &Space, vma: &Vma, page: u64, write: bool) -> Result<(), FaultError> {
        if write {
            let slot = space.table.own_slot(page, self.hardware()).map_err(|_| FaultError::OutOfMemory)?;
            let pte = slot.get();
            if pte.is_valid() {
                return self.make_writable(space, vma, page, slot, pte);
            }
            if let Backing::Anonymous = vma.backing {
                return self.fill_anonymous(space, vma, page, slot);
            }
        } else {
            let pte = space.table.lookup(page);
            if pte.is_valid() {
                return self.refresh(space, vma, page, pte);
            }
        }
        match &vma.backing {
            Backing::Anonymous => {
                // The frame of zeros is nobody's: it counts neither as a reference nor as resident.
                let flags = PageFlags { uncounted: true, ..vma.read_flags() };
                let zeros = Pte::page(frame::zero_frame(), flags);
                space.table.set(page, zeros, self.hardware()).map_err(|_| FaultError::OutOfMemory)?;
                hal::mmu::publish_entries();
                Ok(())
            }
            Backing::File { .. } | Backing::SharedAnonymous { .. } => self.fault_file(space, vma, page, write),
            Backing::Special => Err(FaultError::Segv { code: SEGV_MAPERR }),
        }
    }

    /// The first write to anonymous memory. Where the area holds the whole aligned region of a leaf table and nothing of it was
    /// touched yet, the region is filled at once, as Linux does with a transparent huge page
    /// (`do_huge_pmd_anonymous_page`): the same resident size, one fault for 512.
    fn fill_anonymous(&self, space: &Space, vma: &Vma, page: u64, slot: Slot) -> Result<(), FaultError> {
        let region = page & !(table::LEAF_SPAN - 1);
        let is_huge = vma.start <= region && region + table::LEAF_SPAN <= vma.end && !vma.no_huge_pages;
        if is_huge
            && slot.region_is_empty()
            && !self.huge_pages_off()
            && let Some(first) = frame::allocate_zeroed_block(ENTRIES.ilog2())
        {
            slot.fill_region(Pte::page(first, vma.write_flags()));
            space.note_resident(ENTRIES as i64);
        } else {
            let pfn = frame::allocate_zeroed().map_err(|_| FaultError::OutOfMemory)?;
            slot.set(Pte::page(pfn, vma.write_flags()));
            space.note_resident(1);
        }
        hal::mmu::publish_entries();
        Ok(())
    }

    /// Puts a page where there was none: nothing to flush.
    fn install(&self, space: &Space, page: u64, pfn: Pfn, flags: PageFlags) -> Result<(), FaultError> {
        let replaced = space.table.set(page, Pte::page(pfn, flags), self.hardware());
        let replaced = replaced.map_err(|_| FaultError::OutOfMemory)?;
        debug_assert!(!replaced, "install is for empty entries");
        space.note_resident(1);
        hal::mmu::publish_entries();
        Ok(())
    }

    /// A read or fetch met a valid entry: another thread was faster, or the entry lacks rights that the area has.
    fn refresh(&self, space: &Space, vma: &Vma, page: u64, pte: Pte) -> Result<(), FaultError> {
        let old = pte.flags();
        let flags = PageFlags { read: vma.read_flags().read, exec: vma.protection.exec, ..old };
        if flags != old {
            space.table.set(page, Pte::page(pte.pfn(), flags), self.hardware()).map_err(|_| FaultError::OutOfMemory)?;
        }
        self.hardware().flush_page(page);
        Ok(())
    }

    /// A write met a valid entry: copy-on-write, or a shared page that was mapped read-only so far. The leaf table is this
    /// space's own by now: it decided whether the page is still shared.
    fn make_writable(&self, space: &Space, vma: &Vma, page: u64, slot: Slot, pte: Pte) -> Result<(), FaultError> {
        let no_memory = |_| FaultError::OutOfMemory;
        if pte.writable() {
            self.hardware().flush_page(page);
            return Ok(());
        }
        let counted = pte.is_counted();
        let shared_file = vma.shared && counted;
        let sole_owner = counted && frame::references(pte.pfn()) == 1;
        if shared_file || sole_owner {
            slot.set(Pte::page(pte.pfn(), vma.write_flags()));
            self.hardware().flush_page(page);
            return Ok(());
        }
        if vma.shared {
            // A boot frame of a file that nobody replaced beforehand: the file gets its own page, which is then mapped.
            slot.set(Pte::EMPTY);
            self.hardware().flush_page(page);
            space.note_resident(-1);
            return self.fault_file(space, vma, page, true);
        }
        let copy = if !counted && pte.pfn() == frame::zero_frame() {
            let zeroed = frame::allocate_zeroed().map_err(no_memory)?;
            space.note_resident(1);
            zeroed
        } else {
            let copy = frame::allocate().map_err(no_memory)?;
            mem::copy(copy, pte.pfn());
            copy
        };
        self.sync_if_executable(vma, copy);
        // Another frame at the same address: break before make (Arm ARM D8.16.1). A thread that meets the gap faults and
        // waits for the lock.
        slot.set(Pte::EMPTY);
        self.hardware().flush_page(page);
        slot.set(Pte::page(copy, vma.write_flags()));
        hal::mmu::publish_entries();
        if counted {
            frame::put(pte.pfn());
        }
        Ok(())
    }

    fn sync_if_executable(&self, vma: &Vma, pfn: Pfn) {
        if vma.protection.exec {
            frame::publish_code(pfn);
        }
    }

    fn fault_file(&self, space: &Space, vma: &Vma, page: u64, write: bool) -> Result<(), FaultError> {
        let mapping = vma.mapping().expect("a file area has a mapping");
        let offset = vma.offset() + (page - vma.start);
        if offset >= mapping.size() {
            return Err(FaultError::Bus);
        }
        let source = mapping.page(offset / PAGE, write && vma.shared).map_err(|_| FaultError::OutOfMemory)?;
        if write && !vma.shared {
            let copied = frame::allocate().inspect(|copy| mem::copy(*copy, source.pfn));
            source.put();
            let copy = copied.map_err(|_| FaultError::OutOfMemory)?;
            self.sync_if_executable(vma, copy);
            return self.install(space, page, copy, vma.write_flags()).inspect_err(|_| {
                frame::put(copy);
            });
        }
        self.sync_if_executable(vma, source.pfn);
        let flags = if write { vma.write_flags() } else { vma.read_flags() };
        let flags = PageFlags { uncounted: source.uncounted, ..flags };
        self.install(space, page, source.pfn, flags).inspect_err(|_| source.put())?;
        if !write {
            self.map_around(space, vma, page);
        }
        Ok(())
    }

    /// Maps the neighbours of a read fault that are in memory anyway. Failing to is no error.
    fn map_around(&self, space: &Space, vma: &Vma, page: u64) {
        let mapping = vma.mapping().expect("a file area has a mapping");
        // The window lies within one leaf table, which the fault has just made this space's own.
        let window = page & !(FAULT_AROUND * PAGE - 1);
        let start = window.max(vma.start);
        let end = (window + FAULT_AROUND * PAGE).min(vma.end);
        let Ok(leaf) = space.table.own_leaf(page, self.hardware()) else { return };
        let first = (vma.offset() + (start - vma.start)) / PAGE;
        let counted = Pte::page(Pfn(0), vma.read_flags());
        let uncounted = Pte::page(Pfn(0), PageFlags { uncounted: true, ..vma.read_flags() });
        let entries = table::window(leaf, start, end);
        let mut mapped = 0;
        mapping.for_cached(first, (end - start) / PAGE, |index, found| {
            if !table::fill(&entries[(index - first) as usize], || {
                self.sync_if_executable(vma, found.pfn);
                let first = if found.uncounted { uncounted } else { counted };
                first.neighbour(found.pfn.0)
            }) {
                return false;
            }
            mapped += 1;
            true
        });
        if mapped > 0 {
            space.note_resident(mapped);
            hal::mmu::publish_entries();
        }
    }
}

/// The page of a shared mapping that is about to be written while its file still uses the frame from boot.
pub(super) fn boot_page_to_replace(vma: &Vma, address: u64, write: bool) -> Option<(Arc<Mapping>, u64)> {
    if !write || !vma.shared || !vma.protection.write {
        return None;
    }
    let mapping = vma.mapping()?;
    let index = (vma.offset() + (address - vma.start)) / PAGE;
    mapping.uses_boot_frame(index).then(|| (mapping.clone(), index))
}
