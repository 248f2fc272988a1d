//! Memory: physical frames, page tables, address spaces, page faults, files in memory, program images.
//!
//! [`Mm`] is Linux's `mm_struct`: the VMAs (`areas`) and the page tables of a process, under one sleeping lock. [`frame`] hands out
//! frames, [`table`] owns page tables (and shares them on fork), [`fault`] resolves faults, [`mapping`] is the page cache of
//! one file, [`load`] builds address spaces from programs.

mod areas;
pub mod fault;
pub mod frame;
pub mod load;
pub mod mapping;
pub mod oom;
pub mod settings;
pub mod space;
pub mod table;
#[cfg(all(test, not(target_os = "none")))]
mod tests;
pub mod vdso;
pub mod vma;

pub use fault::FaultError;
pub use mapping::{MappedFile, Mapping};
pub use space::remote::{Authority, Obstacle};
pub use space::{Counters, MapRequest, Mm, Placement, VmaInfo};
pub use vma::{Backing, Protection, Role, Vma};

/// Lowest address that user code may map (`/proc/sys/vm/mmap_min_addr`): NULL is never mapped.
pub const MMAP_MIN_ADDR: u64 = 0x1_0000;
/// One past the highest user address. The last page stays free, as on Linux, so that no address wraps.
pub const TASK_SIZE: u64 = hal::pte::USER_VA_END - hal::mem::PAGE_SIZE as u64;

/// Memory of the machine, pages.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// RAM that the kernel manages, and what it occupies itself.
    pub total_pages: u64,
    /// Free.
    pub free_pages: u64,
    /// In files that live in memory.
    pub shmem_pages: u64,
}

/// How memory is used, for sysinfo(2) and `/proc/meminfo`.
pub fn usage() -> Usage {
    Usage {
        total_pages: frame::managed_count() as u64,
        free_pages: frame::free_count() as u64,
        shmem_pages: mapping::pages_in_use(),
    }
}
