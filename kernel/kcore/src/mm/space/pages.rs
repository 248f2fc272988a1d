//! The pages of areas: dropping them, locking them, bringing them in, telling which are there (madvise(2), mlock(2),
//! mincore(2)).

use alloc::vec::Vec;

use abi::Errno;
use abi::signal::SEGV_ACCERR;
use hal::mem::PAGE_SIZE;

use super::{Mm, PAGE, Space, check_covered, overlap_pages};
use crate::Result;
use crate::mm::{Backing, FaultError, TASK_SIZE, Vma};

impl Mm {
    /// Drops the pages of a range: private ones read as zeros or as the file again (MADV_DONTNEED). `ENOMEM` when a part
    /// is not mapped, after doing the rest.
    pub fn discard_range(&self, start: u64, end: u64) -> Result<()> {
        let mut space = self.lock();
        let mut at = start;
        while let Some(vma) = space.vmas.find_from(at).filter(|vma| vma.start < end) {
            if vma.locked || matches!(vma.backing, Backing::Special) {
                return Err(Errno::EINVAL);
            }
            let (from, to) = (vma.start.max(start), vma.end.min(end));
            self.discard(&mut space, from, to)?;
            at = to;
            if at == end {
                break;
            }
        }
        check_covered(&space, start, end)
    }

    /// Changes a flag of the areas in a range (MADV_DONTFORK and the like, mlock). `ENOMEM` when a part is not mapped.
    pub fn change_areas(&self, start: u64, end: u64, change: impl Fn(&mut Vma) -> Result<()>) -> Result<()> {
        let mut space = self.lock();
        check_covered(&space, start, end)?;
        space.split_at(start);
        space.split_at(end);
        let mut at = start;
        let mut outcome = Ok(());
        while at < end && outcome.is_ok() {
            let changed = space.vmas.change(at, |vma| {
                let was_locked = vma.locked;
                let outcome = change(vma);
                (vma.end, vma.pages(), was_locked, vma.locked, outcome)
            });
            let (to, pages, was_locked, is_locked, done) = changed.expect("the range is covered");
            space.locked_pages -= if was_locked { pages } else { 0 };
            space.locked_pages += if is_locked { pages } else { 0 };
            (at, outcome) = (to, done);
        }
        space.merge_range(start, end);
        outcome
    }

    /// mlock(2): brings the pages in and charges RLIMIT_MEMLOCK.
    pub fn lock_range(&self, start: u64, end: u64) -> Result<()> {
        {
            let space = self.lock();
            check_covered(&space, start, end)?;
            let unlocked = |vma: &&Vma| !vma.locked;
            let areas = space.vmas.range(start, end).filter(unlocked);
            let more: u64 = areas.map(|vma| overlap_pages(vma, start, end)).sum();
            if (space.locked_pages + more).saturating_mul(PAGE) > self.limits().memlock {
                return Err(Errno::ENOMEM);
            }
        }
        self.change_areas(start, end, |vma| {
            vma.locked = true;
            Ok(())
        })?;
        // The area stays locked even if a page cannot be brought in (Linux `__mlock_posix_error_return`).
        let space = self.lock();
        let outcome = space.vmas.range(start, end).try_for_each(|vma| self.populate_area(&space, vma, start, end));
        outcome.map_err(|error| match error {
            FaultError::OutOfMemory => Errno::EAGAIN,
            FaultError::Segv { .. } | FaultError::Bus => Errno::ENOMEM,
        })
    }

    /// mlockall(2).
    pub fn lock_all(&self, current: bool, future: bool) -> Result<()> {
        let mut space = self.lock();
        if current && space.total_pages.saturating_mul(PAGE) > self.limits().memlock {
            return Err(Errno::ENOMEM);
        }
        space.lock_future = future;
        if current {
            space.vmas.change_all(|vma| vma.locked = true);
            space.locked_pages = space.total_pages;
            self.populate_locked(&space, 0, TASK_SIZE);
        }
        Ok(())
    }

    /// munlockall(2).
    pub fn unlock_all(&self) {
        let mut space = self.lock();
        space.lock_future = false;
        space.locked_pages = 0;
        space.vmas.change_all(|vma| vma.locked = false);
    }

    /// Brings pages in ahead of use (MAP_POPULATE, MADV_WILLNEED). Failing to is no error.
    pub fn populate(&self, start: u64, end: u64) {
        self.populate_locked(&self.lock(), start, end);
    }

    /// As [`Self::populate`], under the lock: an area of which a page cannot be brought in is left for the next one.
    pub(super) fn populate_locked(&self, space: &Space, start: u64, end: u64) {
        for vma in space.vmas.range(start, end) {
            if self.populate_area(space, vma, start, end).is_err() {
                log::trace!("a page of {:#x}..{:#x} could not be brought in", vma.start, vma.end);
            }
        }
    }

    /// Brings in what is not there of an area's part in `start..end`, up to the first page that cannot be. PROT_NONE is an
    /// error (Linux `populate_vma_page_range`).
    fn populate_area(&self, space: &Space, vma: &Vma, start: u64, end: u64) -> Result<(), FaultError> {
        let rights = vma.protection;
        if !(rights.read || rights.write || rights.exec) {
            return Err(FaultError::Segv { code: SEGV_ACCERR });
        }
        let write = rights.write && !vma.shared;
        for page in (vma.start.max(start)..vma.end.min(end)).step_by(PAGE_SIZE) {
            if !space.table.lookup(page).is_valid() {
                self.resolve(space, vma, page, write)?;
            }
        }
        Ok(())
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
