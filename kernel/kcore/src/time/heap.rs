//! The order of one CPU's timers: a binary heap that knows where each of them is.
//!
//! `BinaryHeap` cannot remove from the middle, which is how most timers end (a sleep that something else ends), and a
//! `BTreeMap` allocates and frees nodes under the queue's lock with interrupts off. This heap writes each timer's place into
//! the timer, so that removal is O(log n) like the rest, and lives in chunks of a page that it keeps: a queue that was once
//! as long as it is now allocates nothing, and a long one is never copied.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::timer::Timer;

/// A timer in the queue, in terms of the monotonic clock.
pub(super) struct Entry {
    /// Latest time: what the queue is ordered by, and the hardware is asked for.
    pub hard_ns: u64,
    /// Earliest time: when it may be taken along with others (timer slack).
    pub soft_ns: u64,
    /// Equal deadlines expire in the order in which they were started.
    pub sequence: u64,
    /// What expires.
    pub timer: Arc<Timer>,
}

impl Entry {
    fn is_before(&self, other: &Entry) -> bool {
        (self.hard_ns, self.sequence) < (other.hard_ns, other.sequence)
    }
}

/// Entries of a chunk: about a page.
const CHUNK: usize = 128;

/// The timers of a CPU, earliest first.
pub(super) struct Heap {
    /// All but the last that is used are full; those behind it are empty.
    chunks: Vec<Vec<Entry>>,
    len: usize,
}

impl Heap {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The next to expire.
    pub(super) fn first(&self) -> Option<&Entry> {
        self.chunks.first()?.first()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let at = self.len;
        if self.chunks.len() == at / CHUNK {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks[at / CHUNK].push(entry);
        self.len += 1;
        self.rise(at);
    }

    /// Takes out the entry at `at`, which is where its timer says it is.
    pub(super) fn remove(&mut self, at: usize) -> Option<Entry> {
        if at >= self.len {
            return None;
        }
        self.len -= 1;
        let last = self.len;
        let moved = self.chunks[last / CHUNK].pop()?;
        if at == last {
            return Some(moved);
        }
        let removed = core::mem::replace(&mut self.chunks[at / CHUNK][at % CHUNK], moved);
        // It came from the bottom, but perhaps from under another parent.
        if !self.sink(at) {
            self.rise(at);
        }
        Some(removed)
    }

    /// Gives every entry new deadlines, and the heap its order back.
    pub(super) fn change_all(&mut self, mut change: impl FnMut(&mut Entry)) {
        self.chunks.iter_mut().flatten().for_each(&mut change);
        for at in (0..self.len / 2).rev() {
            self.sink(at);
        }
        // Those that did not move have the place they had.
    }

    fn get(&self, at: usize) -> &Entry {
        &self.chunks[at / CHUNK][at % CHUNK]
    }

    fn note_place(&self, at: usize) {
        self.get(at).timer.set_position(at);
    }

    fn swap(&mut self, one: usize, other: usize) {
        let (low, high) = (one.min(other), one.max(other));
        if low / CHUNK == high / CHUNK {
            self.chunks[low / CHUNK].swap(low % CHUNK, high % CHUNK);
        } else {
            let (front, back) = self.chunks.split_at_mut(high / CHUNK);
            core::mem::swap(&mut front[low / CHUNK][low % CHUNK], &mut back[0][high % CHUNK]);
        }
    }

    /// Moves an entry up to where it belongs.
    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.get(at).is_before(self.get(parent)) {
                break;
            }
            self.swap(at, parent);
            self.note_place(at);
            at = parent;
        }
        self.note_place(at);
    }

    /// Moves an entry down to where it belongs. Whether it moved.
    fn sink(&mut self, start: usize) -> bool {
        let mut at = start;
        loop {
            let left = 2 * at + 1;
            if left >= self.len {
                break;
            }
            let right = left + 1;
            let child = if right < self.len && self.get(right).is_before(self.get(left)) { right } else { left };
            if !self.get(child).is_before(self.get(at)) {
                break;
            }
            self.swap(at, child);
            self.note_place(at);
            at = child;
        }
        self.note_place(at);
        at != start
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Heap};
    use crate::time::timer::{Timer, TimerCallback};
    use alloc::sync::{Arc, Weak};
    use alloc::vec::Vec;

    struct Nothing;
    impl TimerCallback for Nothing {
        fn expired(&self, _: &Arc<Timer>) {}
    }

    fn timer() -> Arc<Timer> {
        Timer::call(Weak::<Nothing>::new())
    }

    fn entry(hard_ns: u64, sequence: u64) -> Entry {
        Entry { hard_ns, soft_ns: hard_ns, sequence, timer: timer() }
    }

    fn pop_all(heap: &mut Heap) -> Vec<(u64, u64)> {
        core::iter::from_fn(|| heap.remove(0)).map(|entry| (entry.hard_ns, entry.sequence)).collect()
    }

    #[test]
    fn equal_deadlines_keep_the_order_of_their_start() {
        let mut heap = Heap::new();
        (0..1000).for_each(|sequence| heap.push(entry(sequence % 3, sequence)));
        let order = pop_all(&mut heap);
        assert!(order.is_sorted());
        assert_eq!(order.len(), 1000);
    }

    #[test]
    fn memory_is_kept_for_the_next_time() {
        let mut heap = Heap::new();
        (0..1000).for_each(|n| heap.push(entry(n, n)));
        let chunks = heap.chunks.len();
        pop_all(&mut heap);
        assert_eq!((heap.len(), heap.chunks.len()), (0, chunks));
        (0..1000).for_each(|n| heap.push(entry(n, n)));
        assert_eq!(heap.chunks.len(), chunks);
    }

    proptest::proptest! {
        /// Against a sorted list: pushes, removals of any timer by the place it knows, and changes of all deadlines.
        #[test]
        fn random_pushes_and_removals_agree_with_a_sorted_list(
            steps in proptest::collection::vec((0u8..8, 0u64..50, proptest::num::usize::ANY), 0..600)
        ) {
            let mut heap = Heap::new();
            let mut list: Vec<(u64, u64, Arc<Timer>)> = Vec::new();
            for ((kind, value, which), sequence) in steps.into_iter().zip(0..) {
                match kind {
                    0 | 1 if !list.is_empty() => {
                        let (hard, number, timer) = list.swap_remove(which % list.len());
                        let removed = heap.remove(timer.position()).expect("it is there");
                        assert!(Arc::ptr_eq(&removed.timer, &timer));
                        assert_eq!((removed.hard_ns, removed.sequence), (hard, number));
                    }
                    2 if which % 8 == 0 => {
                        heap.change_all(|entry| entry.hard_ns = (entry.hard_ns * 7 + value) % 50);
                        list.iter_mut().for_each(|(hard, ..)| *hard = (*hard * 7 + value) % 50);
                    }
                    _ => {
                        let new = entry(value, sequence);
                        list.push((value, sequence, new.timer.clone()));
                        heap.push(new);
                    }
                }
                let first = list.iter().map(|(hard, number, _)| (*hard, *number)).min();
                assert_eq!(heap.first().map(|entry| (entry.hard_ns, entry.sequence)), first);
                assert_eq!(heap.len(), list.len());
            }
            let mut rest: Vec<_> = list.iter().map(|(hard, number, _)| (*hard, *number)).collect();
            rest.sort_unstable();
            assert_eq!(pop_all(&mut heap), rest);
        }
    }
}
