//! Robust lists: the locks that a thread holds when it ends (get_robust_list(2), Linux `exit_robust_list`).
//!
//! The list is the program's, in its own memory: the kernel believes nothing that it reads there, and stops at the first
//! thing that makes no sense.

use core::sync::atomic::Ordering;

use abi::futex as f;
use abi::process::ROBUST_LIST_LIMIT;
use hal::uaccess;

use super::pi::number_of;
use super::{load, wake_one_shared};
use crate::task::Task;

/// An entry as its predecessor names it: the lowest bit marks the lock of a PI futex.
#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    is_pi: bool,
}

/// Whether the lock is on the list, or about to be put on it or taken off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listed {
    Listed,
    Pending,
}

fn fetch_entry(at: u64) -> Option<Entry> {
    let raw = uaccess::load_u64(at).ok()?;
    Some(Entry { address: raw & !1, is_pi: raw & 1 != 0 })
}

/// A thread ends, or its program: locks on its robust list are marked FUTEX_OWNER_DIED and a waiter of each is woken.
pub(super) fn exit(task: &Task) {
    let head = task.futex.robust_list.swap(0, Ordering::Relaxed);
    if head != 0 {
        // What is unreadable ends the walk; there is nobody to tell.
        let _ = walk(task, head);
    }
}

fn walk(task: &Task, head: u64) -> Option<()> {
    let mut entry = fetch_entry(head)?;
    let offset = uaccess::load_u64(head.wrapping_add(8)).ok()?;
    let pending = fetch_entry(head.wrapping_add(16))?;
    let word_of = |entry: Entry| entry.address.wrapping_add(offset);
    // A list may be a ring without the head.
    for _ in 0..ROBUST_LIST_LIMIT {
        if entry.address == head {
            break;
        }
        // Before the lock is let go of: its new owner may free it.
        let next = fetch_entry(entry.address);
        // What is pending may be on the list already; it is not done twice.
        if entry.address != pending.address {
            owner_died(task, word_of(entry), entry.is_pi, Listed::Listed)?;
        }
        entry = next?;
    }
    if pending.address != 0 {
        owner_died(task, word_of(pending), pending.is_pi, Listed::Pending)?;
    }
    Some(())
}

/// Marks one lock (Linux `handle_futex_death`). `None` for a word that cannot be one.
fn owner_died(task: &Task, word: u64, is_pi: bool, listed: Listed) -> Option<()> {
    if !word.is_multiple_of(4) {
        return None;
    }
    let me = number_of(task);
    let mut value = load(word).ok()?;
    loop {
        // Between the unlock in user space and the wake-up, or after a wake-up and before the lock: the wake-up would be lost.
        if listed == Listed::Pending && !is_pi && value & f::FUTEX_TID_MASK == 0 {
            wake_one_shared(word);
            return Some(());
        }
        if value & f::FUTEX_TID_MASK != me {
            return Some(());
        }
        let new = value & f::FUTEX_WAITERS | f::FUTEX_OWNER_DIED;
        let found = uaccess::compare_exchange_u32(word, value, new).ok()?;
        if found == value {
            // Who waits for a PI futex is woken when its lock is handed on.
            if !is_pi && value & f::FUTEX_WAITERS != 0 {
                wake_one_shared(word);
            }
            return Some(());
        }
        value = found;
    }
}
