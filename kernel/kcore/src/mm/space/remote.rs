//! Memory of another process: exec, which fills a new stack, and debuggers (`/proc/PID/mem`, ptrace(2)).

use alloc::vec::Vec;

use abi::Errno;
use hal::mem::{self, PAGE_SIZE, Pfn};
use hal::pte::{PageFlags, Pte};

use super::{Mm, PAGE, Space};
use crate::Result;
use crate::mm::Vma;
use crate::mm::fault::boot_page_to_replace;

impl Mm {
    /// Maps the frames that exec filled, the highest page first, below `top` in the stack area, which grows if need be. They are
    /// taken out of the list as they are mapped.
    pub fn install_stack(&self, top: u64, frames: &mut Vec<Pfn>) -> Result<()> {
        let mut space = self.lock();
        let lowest = top - frames.len() as u64 * PAGE;
        let known = space.find(lowest).map(Vma::write_flags);
        let flags = match known {
            Some(flags) => flags,
            None => space.grow_stack(self, lowest).ok_or(Errno::ENOMEM)?.write_flags(),
        };
        let mut at = lowest;
        while let Some(pfn) = frames.pop() {
            let slot = space.table.own_slot(at, &self.hardware).inspect_err(|_| frames.push(pfn))?;
            slot.set(Pte::page(pfn, flags));
            space.note_resident(1);
            at += PAGE;
        }
        hal::mmu::publish_entries();
        Ok(())
    }

    /// Reads another process's memory (`/proc/PID/mem`, ptrace). Returns the bytes read before the first hole.
    pub fn read_remote(&self, address: u64, buffer: &mut [u8]) -> usize {
        self.access_remote(address, buffer.len(), false, |pfn, offset, done, n| {
            mem::read(pfn, offset, &mut buffer[done..done + n]);
        })
    }

    /// Writes another process's memory, copying private pages first, read-only ones too (ptrace's POKE).
    pub fn write_remote(&self, address: u64, bytes: &[u8]) -> usize {
        self.access_remote(address, bytes.len(), true, |pfn, offset, done, n| {
            mem::write(pfn, offset, &bytes[done..done + n]);
        })
    }

    fn access_remote(
        &self,
        address: u64,
        length: usize,
        write: bool,
        mut touch: impl FnMut(Pfn, usize, usize, usize),
    ) -> usize {
        let mut space = self.lock();
        let mut done = 0;
        while done < length {
            let at = address.wrapping_add(done as u64);
            let offset = (at % PAGE) as usize;
            let n = (PAGE_SIZE - offset).min(length - done);
            let Some(vma) = space.find(at) else { break };
            if let Some((mapping, index)) = boot_page_to_replace(vma, at, write) {
                // See `handle_fault`.
                drop(space);
                let replaced = mapping.replace_boot_page(index);
                space = self.lock();
                if replaced.is_err() {
                    break;
                }
                continue;
            }
            let Some(pfn) = self.remote_page(&space, vma, at & !(PAGE - 1), write) else { break };
            touch(pfn, offset, done, n);
            if write && vma.protection.exec {
                mem::sync_instruction_cache(pfn);
            }
            done += n;
        }
        done
    }

    /// The frame of a page for access from outside, as Linux's FOLL_FORCE gives it.
    fn remote_page(&self, space: &Space, vma: &Vma, page: u64, write: bool) -> Option<Pfn> {
        let pte = space.table.lookup(page);
        if pte.is_valid() && (!write || pte.writable() && !space.table.leaf_is_shared(page)) {
            return Some(pte.pfn());
        }
        if !write || vma.protection.write {
            self.resolve(space, vma, page, write).ok()?;
            return Some(space.table.lookup(page).pfn());
        }
        // A private read-only page (code) gets a copy of its own for a breakpoint; a shared one stays as it is.
        if vma.shared {
            return None;
        }
        let mut forced = vma.clone();
        forced.protection.write = true;
        self.resolve(space, &forced, page, true).ok()?;
        let pte = space.table.lookup(page);
        let flags = PageFlags { read: vma.read_flags().read, write: false, ..pte.flags() };
        space.table.set(page, Pte::page(pte.pfn(), flags), &self.hardware).ok()?;
        self.hardware.flush_page(page);
        Some(pte.pfn())
    }
}
