//! User address spaces: TTBR0, ASIDs, the TLB (Arm ARM D8.13, D8.16).
//!
//! An ASID is given out per generation. When the numbers run out a new generation begins: the TLBs of all cores are
//! emptied, and what runs on a core right then keeps its number (the scheme of Linux `arch/arm64/mm/context.c`).
//! The usual case takes no lock: the space's number is of this generation and the core says so in its slot.
//!
//! A space remembers which cores have run it. What one core alone can have in its TLB is forgotten there and not broadcast:
//! most processes live and die on one core, and a broadcast stops all of them (under QEMU's multi-threaded TCG, literally).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{Readable, TTBR0_EL1, Writeable};
use spin::Mutex;

use super::kernel_map::Table;
use crate::MAX_CPUS;
use crate::mmu::AddressSpace;

const ASID_BITS: u32 = 16;
const ASIDS: u64 = 1 << ASID_BITS;
const MASK: u64 = ASIDS - 1;
/// More pages than this are forgotten by flushing the whole ASID.
const FLUSH_LIMIT: usize = 64;

/// What TTBR0 points to while no user space is mapped.
pub(super) static NOTHING: Table = Table::new();

/// The current generation, in the bits above the number.
static GENERATION: AtomicU64 = AtomicU64::new(ASIDS);
/// What each core has in TTBR0 (with its generation); 0 after a rollover until the core's next switch.
static ACTIVE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

struct Asids {
    next: u64,
    used: [u64; (ASIDS / 64) as usize],
    /// What cores had at the last rollover and may still use.
    reserved: [u64; MAX_CPUS],
}

/// Taken with interrupts masked (contract of `activate`).
static STATE: Mutex<Asids> = Mutex::new(Asids { next: 1, used: [0; (ASIDS / 64) as usize], reserved: [0; MAX_CPUS] });

impl Asids {
    fn mark(&mut self, asid: u64) -> bool {
        let (word, bit) = ((asid & MASK) as usize / 64, 1 << (asid % 64));
        let fresh = self.used[word] & bit == 0;
        self.used[word] |= bit;
        fresh
    }

    /// The ASID, with generation, for a space that had `old`.
    fn assign(&mut self, old: u64) -> u64 {
        let renewed = GENERATION.load(Ordering::Relaxed) | (old & MASK);
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
                return GENERATION.load(Ordering::Relaxed) | candidate;
            }
        }
    }

    #[cold]
    fn roll_over(&mut self) {
        GENERATION.fetch_add(ASIDS, Ordering::Relaxed);
        self.next = 1;
        self.used = [0; (ASIDS / 64) as usize];
        for (cpu, active) in ACTIVE.iter().enumerate() {
            // Zero sends the core's next switch to the lock. A core that has not switched since the last rollover still
            // runs with what was reserved for it then.
            let running = active.swap(0, Ordering::Relaxed);
            if running != 0 {
                self.reserved[cpu] = running;
            }
            if self.reserved[cpu] != 0 {
                self.mark(self.reserved[cpu]);
            }
        }
        // SAFETY: forgetting translations is always safe; all cores see it before the numbers are used again.
        unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
    }
}

pub fn activate(space: &AddressSpace) {
    let active = &ACTIVE[super::cpu_id()];
    let mut asid = space.asid.load(Ordering::Relaxed);
    let before = active.load(Ordering::Relaxed);
    // The exchange fails if another core rolled over meanwhile (it left a zero), so an old number never gets through.
    let current = before != 0
        && asid & !MASK == GENERATION.load(Ordering::Relaxed)
        && active.compare_exchange(before, asid, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    if !current {
        asid = activate_slow(space, active);
    }
    note_core(space);
    write_ttbr0(space.root().phys() | (asid & MASK) << 48);
}

/// From here on this core may remember translations of `space`.
fn note_core(space: &AddressSpace) {
    let bit = 1 << super::cpu_id();
    if space.cpus.load(Ordering::Relaxed) & bit == 0 {
        space.cpus.fetch_or(bit, Ordering::Relaxed);
        // The core that changes an entry writes it, then looks at `cpus` (`flush`); this one writes `cpus`, then walks.
        // With a barrier on either side one sees the other.
        barrier::dsb(barrier::ISH);
    }
}

/// Runs `local` if this core alone can remember translations of `space`, else `broadcast`. Interrupts are masked, so that
/// the core stays the one that was asked about; entries written before are seen by walks from here on.
fn flush(space: &AddressSpace, local: impl FnOnce(), broadcast: impl FnOnce()) {
    let saved = super::irq_save();
    barrier::dsb(barrier::ISH);
    if space.cpus.load(Ordering::Relaxed) == 1 << super::cpu_id() {
        local();
        barrier::dsb(barrier::NSH);
    } else {
        broadcast();
        barrier::dsb(barrier::ISH);
    }
    barrier::isb(barrier::SY);
    super::irq_restore(saved);
}

#[cold]
fn activate_slow(space: &AddressSpace, active: &AtomicU64) -> u64 {
    let mut state = STATE.lock();
    let mut asid = space.asid.load(Ordering::Relaxed);
    if asid & !MASK != GENERATION.load(Ordering::Relaxed) {
        asid = state.assign(asid);
        space.asid.store(asid, Ordering::Relaxed);
    }
    active.store(asid, Ordering::Relaxed);
    asid
}

pub fn deactivate() {
    // ASID 0 is never given out; the empty table has no translations to remember anyway.
    write_ttbr0(NOTHING.phys());
}

/// The first `deactivate` of a core. Its identity map was global, so what the TLB remembers of it would match in every
/// address space.
pub(super) fn leave_identity_map() {
    deactivate();
    // SAFETY: forgetting translations is always safe.
    unsafe { asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}

fn write_ttbr0(value: u64) {
    // Threads of one process switch among themselves for nothing.
    if TTBR0_EL1.get() != value {
        TTBR0_EL1.set(value);
        barrier::isb(barrier::SY);
    }
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
    let operands = (first..first + pages as u64).map(|page| asid | page & ((1 << 44) - 1));
    let each = operands.clone();
    flush(
        space,
        // SAFETY: forgetting translations is always safe.
        || each.for_each(|at| unsafe { asm!("tlbi vae1, {}", in(reg) at, options(nostack, preserves_flags)) }),
        // SAFETY: as above.
        || operands.for_each(|at| unsafe { asm!("tlbi vae1is, {}", in(reg) at, options(nostack, preserves_flags)) }),
    );
}

pub fn flush_all(space: &AddressSpace) {
    let Some(asid) = asid_field(&space.asid) else { return };
    flush(
        space,
        // SAFETY: forgetting translations is always safe.
        || unsafe { asm!("tlbi aside1, {}", in(reg) asid, options(nostack, preserves_flags)) },
        // SAFETY: as above.
        || unsafe { asm!("tlbi aside1is, {}", in(reg) asid, options(nostack, preserves_flags)) },
    );
}

#[inline(always)]
pub fn publish_entries() {
    // SAFETY: barriers only.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}
