//! Memory of another process: exec, which fills a new stack, debuggers (`/proc/PID/mem`, ptrace(2)), and
//! process_vm_readv(2).

use alloc::vec::Vec;

use abi::Errno;
use hal::mem::{self, PAGE_SIZE, Pfn};
use hal::pte::{PageFlags, Pte};

use super::{Mm, PAGE, Space};
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::mm::fault::{UNTAGGED, boot_page_to_replace};
use crate::mm::{Role, Vma};
use crate::task::current;

/// Whose rights count for an access from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authority {
    /// Those of the area: what is not readable is not read (process_vm_readv(2)).
    Area,
    /// A debugger's, who reads everything and writes whatever can be copied first (Linux FOLL_FORCE).
    Debugger,
}

/// What stopped a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// The other process's memory: a hole, or no right.
    Remote,
    /// The caller's own memory (`EFAULT`).
    Own,
}

/// Bytes that a transfer holds at a time. They go through the kernel's own memory, because a fault on the caller's side
/// must not happen with the other side locked: both may be one.
const CHUNK: usize = PAGE_SIZE;

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

    /// Reads another process's memory as a debugger. Returns the bytes read before the first hole.
    pub fn read_remote(&self, address: u64, buffer: &mut [u8]) -> usize {
        self.read_remote_as(Authority::Debugger, address, buffer)
    }

    /// Writes another process's memory as a debugger: private pages are copied first, read-only ones too (ptrace's POKE).
    pub fn write_remote(&self, address: u64, bytes: &[u8]) -> usize {
        self.write_remote_as(Authority::Debugger, address, bytes)
    }

    /// Copies up to `length` bytes from `address` on to where `dst` says, as far as it goes.
    pub fn copy_out(
        &self,
        authority: Authority,
        address: u64,
        length: usize,
        dst: &mut IoDst<'_>,
    ) -> (usize, Option<Obstacle>) {
        let mut chunk = alloc::vec![0; length.min(CHUNK)];
        let mut done = 0;
        while done < length {
            let want = (length - done).min(chunk.len());
            let got = self.read_remote_as(authority, address.wrapping_add(done as u64), &mut chunk[..want]);
            let stored = dst.put(&chunk[..got]).unwrap_or(0);
            done += stored;
            if stored < got {
                return (done, Some(Obstacle::Own));
            }
            if got < want || current().fatal_signal_pending() {
                return (done, Some(Obstacle::Remote));
            }
        }
        (done, None)
    }

    /// The other way: up to `length` bytes of `src` go to `address`.
    pub fn copy_in(
        &self,
        authority: Authority,
        address: u64,
        length: usize,
        src: &mut IoSrc<'_>,
    ) -> (usize, Option<Obstacle>) {
        let mut chunk = alloc::vec![0; length.min(CHUNK)];
        let mut done = 0;
        while done < length {
            let want = (length - done).min(chunk.len());
            let taken = src.take(&mut chunk[..want]).unwrap_or(0);
            let stored = self.write_remote_as(authority, address.wrapping_add(done as u64), &chunk[..taken]);
            done += stored;
            if stored < taken || current().fatal_signal_pending() {
                return (done, Some(Obstacle::Remote));
            }
            if taken < want {
                return (done, Some(Obstacle::Own));
            }
        }
        (done, None)
    }

    fn read_remote_as(&self, authority: Authority, address: u64, buffer: &mut [u8]) -> usize {
        self.access_remote(authority, address, buffer.len(), false, |pfn, offset, done, n| {
            mem::read(pfn, offset, &mut buffer[done..done + n]);
        })
    }

    fn write_remote_as(&self, authority: Authority, address: u64, bytes: &[u8]) -> usize {
        self.access_remote(authority, address, bytes.len(), true, |pfn, offset, done, n| {
            mem::write(pfn, offset, &bytes[done..done + n]);
        })
    }

    fn access_remote(
        &self,
        authority: Authority,
        address: u64,
        length: usize,
        write: bool,
        mut touch: impl FnMut(Pfn, usize, usize, usize),
    ) -> usize {
        let address = address & UNTAGGED;
        let mut space = self.lock();
        let mut done = 0;
        while done < length {
            let at = address.wrapping_add(done as u64);
            let offset = (at % PAGE) as usize;
            let n = (PAGE_SIZE - offset).min(length - done);
            let Some(vma) = space.find(at) else { break };
            if !may_touch(vma, authority, write) {
                break;
            }
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
        // A private read-only page (code) gets a copy of its own for a breakpoint.
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

/// Linux `check_vma_flags`: what the area allows, or what a debugger may force.
fn may_touch(vma: &Vma, authority: Authority, write: bool) -> bool {
    // The kernel's own data is no page of the process (VM_PFNMAP).
    if vma.role == Role::Vvar {
        return false;
    }
    let is_allowed = if write { vma.protection.write } else { vma.protection.read };
    // What is shared cannot be copied first, and stays as it is.
    is_allowed || authority == Authority::Debugger && !(write && vma.shared)
}
