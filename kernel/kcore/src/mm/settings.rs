//! The settings of `/proc/sys/vm` that decide about mappings (Documentation/admin-guide/sysctl/vm, proc(5)).

use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;

use super::frame;
use crate::Result;

hal::global! {
    /// `max_map_count`: areas that an address space may have.
    pub static MAX_MAP_COUNT: AtomicU32 = AtomicU32::new(65_530);
    /// `overcommit_memory`: 0 refuses what can never be there, 1 refuses nothing.
    pub static OVERCOMMIT: AtomicU32 = AtomicU32::new(0);
    /// `randomize_va_space` of `/proc/sys/kernel`: 0 puts everything at fixed places.
    pub static RANDOMIZE: AtomicU32 = AtomicU32::new(2);
}

/// Areas that an address space may have.
pub(super) fn max_map_count() -> usize {
    MAX_MAP_COUNT.load(Ordering::Relaxed) as usize
}

/// Whether `pages` of private writable memory may be promised (Linux `__vm_enough_memory`): by default a single request
/// must fit into the machine.
pub(super) fn admit(pages: u64) -> Result<()> {
    if OVERCOMMIT.load(Ordering::Relaxed) == 0 && pages > frame::managed_count() as u64 {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}
