//! User address spaces as the hardware sees them: a root table, an address-space identifier, and the TLB.
//!
//! The tables themselves are built by kcore with [`crate::pte`] and [`crate::mem::table`].

use core::sync::atomic::AtomicU64;

use crate::arch;
use crate::mem::Pfn;

/// The hardware half of a user address space. The root table belongs to kcore, which frees it after the last use.
pub struct AddressSpace {
    root: Pfn,
    /// Generation and number of the ASID; 0 until first activated.
    pub(crate) asid: AtomicU64,
    /// A bit per CPU that has run this space and whose TLB may remember it.
    pub(crate) cpus: AtomicU64,
}

impl AddressSpace {
    /// A space that starts from the (zeroed or filled) level 1 table `root`.
    pub const fn new(root: Pfn) -> Self {
        Self { root, asid: AtomicU64::new(0), cpus: AtomicU64::new(0) }
    }

    /// The level 1 table.
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// Makes this the space of the current CPU. Call with interrupts masked. Flushes nothing unless ASIDs ran out.
    pub fn activate(&self) {
        arch::activate(self);
    }

    /// Forgets the translation of one page on every CPU, leaf entry only.
    pub fn flush_page(&self, address: u64) {
        arch::flush_range(self, address, 1);
    }

    /// Forgets the translations of `pages` pages from `address` on every CPU. Many pages flush the whole space.
    /// Table descriptors cached from upper levels are forgotten too.
    pub fn flush_range(&self, address: u64, pages: usize) {
        arch::flush_range(self, address, pages);
    }

    /// Forgets every translation of this space on every CPU.
    pub fn flush_all(&self) {
        arch::flush_all(self);
    }
}

/// Leaves user space unmapped on this CPU (kernel threads, and before the last space of an exiting task is freed).
pub fn deactivate() {
    arch::deactivate();
}

/// Orders earlier stores to page tables before the walks of every CPU (`dsb ishst; isb`): after an entry went from
/// empty to valid, which needs no flush.
#[inline(always)]
pub fn publish_entries() {
    arch::publish_entries();
}
