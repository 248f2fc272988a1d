//! Areas that change their size or place: brk(2) and mremap(2).

use abi::Errno;

use super::{Mm, PAGE, Space, page_up};
use crate::Result;
use crate::mm::settings;
use crate::mm::{Backing, MMAP_MIN_ADDR, Protection, Role, TASK_SIZE, Vma};

impl Mm {
    /// brk(2): the new break, or the old one when it cannot be moved.
    pub fn set_brk(&self, wanted: u64) -> u64 {
        let mut space = self.lock();
        let (base, old) = (space.marks.start_brk, space.brk);
        if wanted < base || base == 0 || wanted > TASK_SIZE {
            return old;
        }
        let data = wanted - base + (space.marks.end_data - space.marks.start_data);
        if data > self.limits().data {
            return old;
        }
        let (old_end, new_end) = (old.next_multiple_of(PAGE), wanted.next_multiple_of(PAGE));
        let done = if new_end < old_end {
            self.unmap_locked(&mut space, new_end, old_end)
        } else if new_end > old_end {
            self.grow_heap(&mut space, old_end, new_end)
        } else {
            Ok(())
        };
        if done.is_ok() {
            space.brk = wanted;
        }
        space.brk
    }

    fn grow_heap(&self, space: &mut Space, start: u64, end: u64) -> Result<()> {
        // A page stays free between the heap and what is above it.
        if !space.vmas.is_free(start, end + PAGE) {
            return Err(Errno::ENOMEM);
        }
        let pages = (end - start) / PAGE;
        let limits = self.limits();
        space.charge(&limits, pages, true)?;
        settings::admit(pages)?;
        if space.lock_future && (space.locked_pages + pages).saturating_mul(PAGE) > limits.memlock {
            return Err(Errno::EAGAIN);
        }
        space.locked_pages += if space.lock_future { pages } else { 0 };
        let vma = Vma {
            start,
            end,
            protection: Protection { read: true, write: true, exec: false },
            shared: false,
            backing: Backing::Anonymous,
            grows_down: false,
            role: Role::Heap,
            locked: space.lock_future,
            dont_fork: false,
            wipe_on_fork: false,
            no_huge_pages: false,
            dont_dump: false,
        };
        space.total_pages += pages;
        let locked = vma.locked;
        space.add_area(vma);
        if locked {
            self.populate_locked(space, start, end);
        }
        Ok(())
    }

    /// mremap(2). `fixed` is the new address of MREMAP_FIXED.
    pub fn remap(&self, old: u64, old_length: u64, new_length: u64, may_move: bool, fixed: Option<u64>) -> Result<u64> {
        if !old.is_multiple_of(PAGE) || new_length == 0 {
            return Err(Errno::EINVAL);
        }
        let (old_length, new_length) = (page_up(old_length)?, page_up(new_length)?);
        if new_length > TASK_SIZE {
            return Err(Errno::ENOMEM);
        }
        let mut space = self.lock();
        if let Some(new) = fixed {
            let overlaps = new < old.saturating_add(old_length) && old < new.saturating_add(new_length);
            if new < MMAP_MIN_ADDR {
                return Err(Errno::EPERM);
            }
            if !new.is_multiple_of(PAGE) || overlaps || new.checked_add(new_length).is_none_or(|end| end > TASK_SIZE) {
                return Err(Errno::EINVAL);
            }
        }
        let vma = space.find(old).cloned().ok_or(Errno::EFAULT)?;
        if old_length == 0 {
            // A second view of shared memory (mremap(2)); private pages cannot be in two places.
            if !vma.shared {
                return Err(Errno::EINVAL);
            }
        } else if old_length > vma.end - old {
            return Err(Errno::EFAULT);
        }
        // The kernel's own pages do not become more (Linux VM_DONTEXPAND).
        if matches!(vma.backing, Backing::Special) && new_length > old_length {
            return Err(Errno::EFAULT);
        }
        if fixed.is_none() && new_length <= old_length && old_length > 0 {
            if new_length < old_length {
                self.unmap_locked(&mut space, old + new_length, old + old_length)?;
            }
            return Ok(old);
        }
        let growth = new_length.saturating_sub(old_length) / PAGE;
        let limits = self.limits();
        let is_data = !vma.shared && vma.protection.write;
        space.charge(&limits, growth, is_data && !vma.grows_down)?;
        if is_data {
            settings::admit(growth)?;
        }
        if vma.locked && (space.locked_pages + growth).saturating_mul(PAGE) > limits.memlock {
            return Err(Errno::EAGAIN);
        }
        let at_end = old + old_length == vma.end && old_length > 0;
        if fixed.is_none() && at_end && space.vmas.is_free(vma.end, old + new_length) && old + new_length <= TASK_SIZE {
            space.vmas.resize(vma.start, vma.start, old + new_length);
            space.total_pages += growth;
            space.locked_pages += if vma.locked { growth } else { 0 };
            space.merge_around(vma.start);
            return Ok(old);
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        self.move_area(&mut space, vma, old, old_length, new_length, fixed)
    }

    fn move_area(
        &self,
        space: &mut Space,
        vma: Vma,
        old: u64,
        old_length: u64,
        new_length: u64,
        fixed: Option<u64>,
    ) -> Result<u64> {
        let new = match fixed {
            Some(new) => {
                self.unmap_locked(space, new, new + new_length)?;
                new
            }
            None => space.find_gap(new_length, false).ok_or(Errno::ENOMEM)?,
        };
        let moved = old_length.min(new_length);
        space.table.relocate(old, new, moved, &self.hardware)?;
        self.hardware.flush_range(old, (moved / PAGE) as usize);
        let mut target = vma;
        if target.start < old {
            target = target.split_off(old);
        }
        let offset_change = Vma { start: new, end: new + new_length, ..target };
        if old_length > 0 {
            self.unmap_locked(space, old, old + old_length)?;
        }
        space.total_pages += new_length / PAGE;
        space.locked_pages += if offset_change.locked { new_length / PAGE } else { 0 };
        space.add_area(offset_change);
        Ok(new)
    }
}
