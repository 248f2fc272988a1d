//! Address translation: walks the same AArch64 descriptors as the Pi, behind a TLB that forgets only what it is told to.
//!
//! A cached translation that the tables no longer grant shows a flush that is missing. In [`Tlb::Strict`] machines using
//! one panics; in others it is used, as hardware would.

use std::sync::atomic::Ordering;

use super::machine::Tlb;
use super::ram::table;
use super::state::state;
use crate::mem::Pfn;
use crate::mmu::AddressSpace;
use crate::pte::{Pte, USER_VA_END, index};
use crate::trap::{Access, PageFault};

/// Translations a CPU keeps; when it is full it forgets all, as any TLB may at any time.
const CAPACITY: usize = 256;
/// More pages than this are flushed as a whole space.
const MANY_PAGES: usize = 64;
/// How often in a row an access may fault that the tables allow.
const SPURIOUS_LIMIT: u32 = 4;

/// The active space of a CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Space {
    id: u64,
    root: Pfn,
}

/// A translation as a TLB keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cached {
    pfn: Pfn,
    read: bool,
    write: bool,
    exec: bool,
}

impl Cached {
    fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
            Access::Execute => self.exec,
        }
    }
}

/// What the tables say about `address`; `None` when an entry on the way is not valid.
fn walk(root: Pfn, address: u64) -> Option<Cached> {
    let mut frame = root;
    let mut write_allowed = true;
    for level in 1..3 {
        let entry = Pte(table(frame)[index(level, address)].load(Ordering::Acquire));
        if !entry.is_valid() {
            return None;
        }
        // Arm ARM D8.4.3: APTable[1] takes write permission from everything below.
        write_allowed &= !entry.is_shared_table();
        frame = entry.pfn();
    }
    let entry = Pte(table(frame)[index(3, address)].load(Ordering::Acquire));
    entry.is_valid().then(|| Cached {
        pfn: entry.pfn(),
        read: entry.user_readable(),
        write: entry.writable() && write_allowed,
        exec: entry.executable(),
    })
}

/// Translates one user address on this CPU.
pub fn translate(address: u64, access: Access) -> Result<Pfn, PageFault> {
    let fault = |permission| Err(PageFault { address, access, permission });
    // TBI0 is on, as under Linux: the top byte is not part of the address.
    let virtual_address = address & 0x00ff_ffff_ffff_ffff;
    let state = state();
    let cpu = state.this();
    let Some(space) = cpu.space.get().filter(|_| virtual_address < USER_VA_END) else { return fault(false) };
    let key = (space.id, virtual_address >> 12);
    let now = walk(space.root, virtual_address);
    let granted = now.is_some_and(|entry| entry.allows(access));
    let cached = cpu.tlb.borrow().get(&key).copied();
    match (cached, now) {
        (Some(old), _) if old.allows(access) => {
            let stale = !granted || now.is_some_and(|entry| entry.pfn != old.pfn);
            if stale && state.tlb.get() == Tlb::Strict {
                panic!("stale TLB entry used: {access:?} of {address:#x} through {old:?}, the tables say {now:?}");
            }
            Ok(old.pfn)
        }
        (Some(old), _) => {
            if granted {
                note_spurious_fault(key.1, address, old);
            }
            fault(true)
        }
        (None, Some(entry)) => {
            let mut tlb = cpu.tlb.borrow_mut();
            if tlb.len() >= CAPACITY {
                tlb.clear();
            }
            tlb.insert(key, entry);
            if granted { Ok(entry.pfn) } else { fault(true) }
        }
        (None, None) => fault(false),
    }
}

/// An entry that forbids what the tables allow faults until it is flushed: once or twice happens, for ever is a bug.
fn note_spurious_fault(page: u64, address: u64, old: Cached) {
    let spurious = &state().this().spurious;
    let times = if spurious.get().0 == page { spurious.get().1 + 1 } else { 1 };
    spurious.set((page, times));
    assert!(
        times < SPURIOUS_LIMIT,
        "{address:#x} faults again and again through {old:?}: the tables were changed without a flush"
    );
}

pub fn activate(space: &AddressSpace) {
    let state = state();
    if space.asid.load(Ordering::Relaxed) == 0 {
        let id = state.next_space.get();
        state.next_space.set(id + 1);
        space.asid.store(id, Ordering::Relaxed);
    }
    space.cpus.fetch_or(1 << state.cpu.get(), Ordering::Relaxed);
    state.this().space.set(Some(Space { id: space.asid.load(Ordering::Relaxed), root: space.root() }));
}

pub fn deactivate() {
    state().this().space.set(None);
}

pub fn flush_range(space: &AddressSpace, address: u64, pages: usize) {
    if pages > MANY_PAGES {
        return flush_all(space);
    }
    let id = space.asid.load(Ordering::Relaxed);
    let first = (address & 0x00ff_ffff_ffff_ffff) >> 12;
    for cpu in &state().cpus {
        let mut tlb = cpu.tlb.borrow_mut();
        for page in first..first + pages as u64 {
            tlb.remove(&(id, page));
        }
        cpu.spurious.set((u64::MAX, 0));
    }
}

pub fn flush_all(space: &AddressSpace) {
    let id = space.asid.load(Ordering::Relaxed);
    for cpu in &state().cpus {
        cpu.tlb.borrow_mut().retain(|key, _| key.0 != id);
        cpu.spurious.set((u64::MAX, 0));
    }
}

pub fn publish_entries() {}

/// Panics when a CPU still translates to `pfn` through the space that it has active.
pub fn check_unmapped(pfn: Pfn) {
    for (n, cpu) in state().cpus.iter().enumerate() {
        let Some(space) = cpu.space.get() else { continue };
        let tlb = cpu.tlb.borrow();
        if let Some((key, entry)) = tlb.iter().find(|(key, entry)| key.0 == space.id && entry.pfn == pfn) {
            panic!("frame {:#x} is freed while CPU {n} still translates page {:#x} to it: {entry:?}", pfn.0, key.1);
        }
    }
}
