//! User address spaces: TTBR0, ASIDs, the TLB (Arm ARM D8.13, D8.16).
//!
//! An ASID is given out per generation. When the numbers run out a new generation begins: the TLBs of all cores are
//! emptied, and what runs on a core right then keeps its number (the scheme of Linux `arch/arm64/mm/context.c`).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::LINEAR_BASE;
use super::kernel_map::Table;
use crate::MAX_CPUS;
use crate::mmu::AddressSpace;

const ASID_BITS: u32 = 16;
const ASIDS: u64 = 1 << ASID_BITS;
const MASK: u64 = ASIDS - 1;
/// More pages than this are forgotten by flushing the whole ASID.
const FLUSH_LIMIT: usize = 64;

/// What TTBR0 points to while no user space is mapped.
static NOTHING: Table = Table::new();

struct Asids {
    generation: u64,
    next: u64,
    used: [u64; (ASIDS / 64) as usize],
    /// What each core has in TTBR0 (with its generation); 0 for nothing.
    active: [u64; MAX_CPUS],
    /// What cores had at the last rollover and may still use.
    reserved: [u64; MAX_CPUS],
}

static STATE: Mutex<Asids> = Mutex::new(Asids {
    generation: ASIDS,
    next: 1,
    used: [0; (ASIDS / 64) as usize],
    active: [0; MAX_CPUS],
    reserved: [0; MAX_CPUS],
});

impl Asids {
    fn mark(&mut self, asid: u64) -> bool {
        let (word, bit) = ((asid & MASK) as usize / 64, 1 << (asid % 64));
        let fresh = self.used[word] & bit == 0;
        self.used[word] |= bit;
        fresh
    }

    /// The ASID, with generation, for a space that had `old`.
    fn assign(&mut self, old: u64) -> u64 {
        let renewed = self.generation | (old & MASK);
        if old != 0 {
            let mut kept = false;
            for reserved in &mut self.reserved {
                if *reserved == old {
                    *reserved = renewed;
                    kept = true;
                }
            }
            if kept || self.mark(old) {
                return renewed;
            }
        }
        loop {
            if self.next == ASIDS {
                self.roll_over();
            }
            let candidate = self.next;
            self.next += 1;
            if self.mark(candidate) {
                return self.generation | candidate;
            }
        }
    }

    fn roll_over(&mut self) {
        self.generation += ASIDS;
        self.next = 1;
        self.used = [0; (ASIDS / 64) as usize];
        for cpu in 0..MAX_CPUS {
            if self.active[cpu] != 0 {
                self.reserved[cpu] = self.active[cpu];
            }
            let reserved = self.reserved[cpu];
            if reserved != 0 {
                self.mark(reserved);
            }
        }
        // SAFETY: forgetting translations is always safe; all cores see it before the numbers are used again.
        unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
    }
}

pub fn activate(space: &AddressSpace) {
    let cpu = super::cpu_id();
    let asid = {
        let mut state = STATE.lock();
        let mut asid = space.asid.load(Ordering::Relaxed);
        if asid & !MASK != state.generation {
            asid = state.assign(asid);
            space.asid.store(asid, Ordering::Relaxed);
        }
        state.active[cpu] = asid;
        asid
    };
    write_ttbr0(space.root().phys() | (asid & MASK) << 48);
}

pub fn deactivate() {
    // ASID 0 is never given out; the empty table has no translations to remember anyway.
    write_ttbr0(core::ptr::from_ref(&NOTHING) as u64 - LINEAR_BASE);
}

fn write_ttbr0(value: u64) {
    // SAFETY: either the empty table or a level 1 table that kcore keeps while it is active.
    unsafe { asm!("msr ttbr0_el1, {}", "isb", in(reg) value, options(nostack, preserves_flags)) };
}

fn asid_field(asid: &AtomicU64) -> Option<u64> {
    let asid = asid.load(Ordering::Relaxed) & MASK;
    (asid != 0).then_some(asid << 48)
}

pub fn flush_range(space: &AddressSpace, address: u64, pages: usize) {
    if pages > FLUSH_LIMIT {
        return flush_all(space);
    }
    let Some(asid) = asid_field(&space.asid) else { return };
    let first = address >> 12;
    // SAFETY: forgetting translations is always safe.
    unsafe {
        asm!("dsb ishst", options(nostack, preserves_flags));
        for page in first..first + pages as u64 {
            asm!("tlbi vae1is, {}", in(reg) asid | page & ((1 << 44) - 1), options(nostack, preserves_flags));
        }
        asm!("dsb ish", "isb", options(nostack, preserves_flags));
    }
}

pub fn flush_all(space: &AddressSpace) {
    let Some(asid) = asid_field(&space.asid) else { return };
    // SAFETY: forgetting translations is always safe.
    unsafe { asm!("dsb ishst", "tlbi aside1is, {}", "dsb ish", "isb", in(reg) asid, options(nostack, preserves_flags)) };
}

#[inline(always)]
pub fn publish_entries() {
    // SAFETY: barriers only.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}
