//! Waiting for the first of many futexes: futex_waitv(2).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::futex::FUTEX_BITSET_MATCH_ANY;

use super::queue::Kind;
use super::wait::{self, Expected};
use super::{NOWHERE, Sleeper, Word};
use crate::Result;
use crate::sync::sleep_while;
use crate::task::{TaskState, current};

/// One of the futexes.
#[derive(Clone, Copy, Debug)]
pub struct WaitEntry {
    /// The word.
    pub word: Word,
    /// The value that it must have.
    pub value: u32,
}

/// A futex's place among those that a task waits for.
pub(super) struct Place {
    notes: Arc<[AtomicU32]>,
    index: u8,
}

impl Place {
    pub(super) fn note(&self) -> &AtomicU32 {
        &self.notes[usize::from(self.index)]
    }
}

/// Sleeps until one of `entries` (at most 128) is woken. Returns its index, the highest if there are several (Linux
/// `futex_wait_multiple`).
pub fn wait_for_any(entries: &[WaitEntry], deadline_ns: Option<u64>) -> Result<usize> {
    let task = current();
    let notes: Arc<[AtomicU32]> = entries.iter().map(|_| AtomicU32::new(NOWHERE)).collect::<Vec<_>>().into();
    for (index, entry) in entries.iter().enumerate() {
        let place = Place { notes: notes.clone(), index: u8::try_from(index).map_err(|_| Errno::EINVAL)? };
        let sleeper = Sleeper { task: task.arc(), place: Some(place) };
        let expected = Expected { word: entry.word, value: entry.value, bitset: FUTEX_BITSET_MATCH_ANY };
        if let Err(error) = wait::enqueue(expected, Kind::WakeUp, sleeper) {
            // A wake-up of one that waited already counts for more than what is wrong with the next.
            return leave_all(&notes[..index]).ok_or(error);
        }
    }
    let asleep = || notes.iter().all(|note| note.load(Ordering::SeqCst) != NOWHERE);
    let outcome = sleep_while(TaskState::Interruptible, deadline_ns.unwrap_or(u64::MAX), asleep);
    match (leave_all(&notes), outcome) {
        (Some(woken), _) => Ok(woken),
        // Absolute: the same call can be made again.
        (None, Err(error)) => Err(error),
        (None, Ok(())) => unreachable!("a sleep ends well when a note was cleared"),
    }
}

/// Takes all entries out that are still in their buckets. The index of the last one that was woken.
fn leave_all(notes: &[AtomicU32]) -> Option<usize> {
    let mut woken = None;
    for (index, note) in notes.iter().enumerate() {
        let is_it = |sleeper: &Sleeper| sleeper.place.as_ref().is_some_and(|place| core::ptr::eq(place.note(), note));
        if !wait::remove(note, is_it) {
            woken = Some(index);
        }
    }
    woken
}
