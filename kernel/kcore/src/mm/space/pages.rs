//! The pages of areas: dropping them, locking them, bringing them in, telling which are there (madvise(2), mlock(2),
//! mincore(2)).

use alloc::vec::Vec;

use abi::Errno;
use hal::mem::PAGE_SIZE;

use super::{Mm, PAGE, Space, check_covered, overlap_pages};
use crate::Result;
use crate::mm::{Backing, Vma};

impl Mm {
    /// Drops the pages of a range: private ones read as zeros or as the file again (MADV_DONTNEED). `ENOMEM` when a part
    /// is not mapped, after doing the rest.
    pub fn discard_range(&self, start: u64, end: u64) -> Result<()> {
        let mut space = self.lock();
        for at in space.overlapping(start, end) {
            let vma = &space.vmas[&at];
            if vma.locked || matches!(vma.backing, Backing::Special) {
                return Err(Errno::EINVAL);
            }
            let (from, to) = (vma.start.max(start), vma.end.min(end));
            self.discard(&mut space, from, to)?;
        }
        check_covered(&space, start, end)
    }

    /// Changes a flag of the areas in a range (MADV_DONTFORK and the like, mlock). `ENOMEM` when a part is not mapped.
    pub fn change_areas(&self, start: u64, end: u64, change: impl Fn(&mut Vma) -> Result<()>) -> Result<()> {
        let mut space = self.lock();
        check_covered(&space, start, end)?;
        space.split_at(start);
        space.split_at(end);
        for at in space.overlapping(start, end) {
            change(space.vmas.get_mut(&at).expect("listed above"))?;
        }
        space.locked_pages = space.vmas.values().filter(|vma| vma.locked).map(Vma::pages).sum();
        space.merge_range(start, end);
        Ok(())
    }

    /// mlock(2): brings the pages in and charges RLIMIT_MEMLOCK.
    pub fn lock_range(&self, start: u64, end: u64) -> Result<()> {
        {
            let space = self.lock();
            check_covered(&space, start, end)?;
            let unlocked =
                |at: &u64| if space.vmas[at].locked { 0 } else { overlap_pages(&space.vmas[at], start, end) };
            let more: u64 = space.overlapping(start, end).iter().map(unlocked).sum();
            if (space.locked_pages + more).saturating_mul(PAGE) > space.limits.memlock {
                return Err(Errno::ENOMEM);
            }
        }
        self.change_areas(start, end, |vma| {
            vma.locked = true;
            Ok(())
        })?;
        let mut space = self.lock();
        self.populate_locked(&mut space, start, end);
        Ok(())
    }

    /// mlockall(2).
    pub fn lock_all(&self, current: bool, future: bool) -> Result<()> {
        let mut space = self.lock();
        if current && space.total_pages.saturating_mul(PAGE) > space.limits.memlock {
            return Err(Errno::ENOMEM);
        }
        space.lock_future = future;
        if current {
            space.vmas.values_mut().for_each(|vma| vma.locked = true);
            space.locked_pages = space.total_pages;
            for (start, end) in space.vmas.values().map(|vma| (vma.start, vma.end)).collect::<Vec<_>>() {
                self.populate_locked(&mut space, start, end);
            }
        }
        Ok(())
    }

    /// munlockall(2).
    pub fn unlock_all(&self) {
        let mut space = self.lock();
        space.lock_future = false;
        space.locked_pages = 0;
        space.vmas.values_mut().for_each(|vma| vma.locked = false);
    }

    /// Brings pages in ahead of use (MAP_POPULATE, MADV_WILLNEED). Failing to is no error.
    pub fn populate(&self, start: u64, end: u64) {
        self.populate_locked(&mut self.lock(), start, end);
    }

    pub(super) fn populate_locked(&self, space: &mut Space, start: u64, end: u64) {
        for at in space.overlapping(start, end) {
            let vma = space.vmas[&at].clone();
            let write = vma.protection.write && !vma.shared;
            for page in (vma.start.max(start)..vma.end.min(end)).step_by(PAGE_SIZE) {
                let present = space.table.lookup(page).is_valid();
                if !present && self.resolve(space, &vma, page, write).is_err() {
                    return;
                }
            }
        }
    }

    /// mincore(2): one byte a page, bit 0 for resident.
    pub fn residency(&self, start: u64, pages: usize) -> Result<Vec<u8>> {
        let space = self.lock();
        let mut map = Vec::new();
        map.try_reserve_exact(pages).map_err(|_| Errno::ENOMEM)?;
        for n in 0..pages as u64 {
            let page = start + n * PAGE;
            let vma = space.find(page).ok_or(Errno::ENOMEM)?;
            let cached = || {
                let index = (vma.offset() + page - vma.start) / PAGE;
                vma.mapping().and_then(|mapping| mapping.page_if_cached(index)).is_some_and(|found| {
                    found.put();
                    true
                })
            };
            map.push(u8::from(space.table.lookup(page).is_valid() || cached()));
        }
        Ok(map)
    }

    /// Whether a whole range is mapped: `ENOMEM` if not (msync(2) and others).
    pub fn check_mapped(&self, start: u64, end: u64) -> Result<()> {
        check_covered(&self.lock(), start, end)
    }
}
