//! PTRACE_PEEKTEXT, PEEKDATA, POKETEXT, POKEDATA: a word of the tracee's memory (Linux `ptrace_access_vm`).

use core::sync::atomic::Ordering;

use abi::Errno;

use super::attach;
use crate::Result;
use crate::task::Task;

/// `SUID_DUMP_USER`: the memory holds nothing that its owner may not see.
const DUMPABLE_BY_USER: u32 = 1;

/// The word at `address`: `EIO` when any byte of it cannot be read.
pub(super) fn peek(tracee: &Task, address: u64) -> Result<u64> {
    let mut word = [0; 8];
    let mm = memory_of(tracee)?;
    if mm.read_remote(untagged(address), &mut word) == word.len() {
        Ok(u64::from_le_bytes(word))
    } else {
        Err(Errno::EIO)
    }
}

/// Stores the word, into private read-only memory too: a breakpoint.
pub(super) fn poke(tracee: &Task, address: u64, word: u64) -> Result<()> {
    let mm = memory_of(tracee)?;
    let done = mm.write_remote(untagged(address), &word.to_le_bytes());
    if done == size_of::<u64>() { Ok(()) } else { Err(Errno::EIO) }
}

/// The tracee's memory, unless it runs a program since that the tracer must not look into.
fn memory_of(tracee: &Task) -> Result<alloc::sync::Arc<crate::mm::Mm>> {
    let mm = tracee.mm().ok_or(Errno::EIO)?;
    let is_open = tracee.group.dumpable.load(Ordering::Relaxed) == DUMPABLE_BY_USER;
    if !is_open && !attach::tracer_is_privileged(tracee, &mm.user_ns()) {
        return Err(Errno::EIO);
    }
    Ok(mm)
}

/// The address without its tag, which the hardware ignores (TCR_EL1.TBI0; Linux `untagged_addr`).
fn untagged(address: u64) -> u64 {
    if address >> 55 & 1 == 0 { address & ((1 << 56) - 1) } else { address }
}
