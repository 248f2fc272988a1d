//! Which numbers are taken: a bitmap in levels, each of which says where the one below it is full.
//!
//! Finding the next free number looks at one word per level, whatever is taken (Linux's `idr` does the same with the tags
//! of its radix tree). A level grows to the highest number that was ever taken: 32,768 PIDs are 4 KiB.

use alloc::vec::Vec;

const BITS: usize = u64::BITS as usize;
/// 64 to the power of this many numbers: 16 million, above the greatest `pid_max`.
const LEVELS: usize = 4;

/// A set of numbers that finds its gaps.
pub(super) struct Numbers {
    /// The lowest has a bit for each number that is taken; each above it, one for each full word of the one below.
    levels: [Vec<u64>; LEVELS],
}

impl Numbers {
    pub(super) const fn new() -> Self {
        Self { levels: [const { Vec::new() }; LEVELS] }
    }

    fn word(&self, level: usize, index: usize) -> u64 {
        self.levels[level].get(index).copied().unwrap_or(0)
    }

    /// The smallest number not below `from` that is free.
    pub(super) fn first_free(&self, from: usize) -> usize {
        let mut at = from;
        for level in 0..LEVELS {
            let free = !self.word(level, at / BITS) & (u64::MAX << (at % BITS));
            if free != 0 {
                let found = at / BITS * BITS + free.trailing_zeros() as usize;
                // Down again, to the first bit of each word that is not full.
                return (0..level)
                    .rev()
                    .fold(found, |at, level| at * BITS + self.word(level, at).trailing_ones() as usize);
            }
            at = at / BITS + 1;
        }
        at * BITS.pow(LEVELS as u32)
    }

    /// Takes a number.
    pub(super) fn insert(&mut self, number: usize) {
        let mut at = number;
        for level in &mut self.levels {
            if level.len() <= at / BITS {
                level.resize(at / BITS + 1, 0);
            }
            let word = &mut level[at / BITS];
            *word |= 1 << (at % BITS);
            if *word != u64::MAX {
                return;
            }
            at /= BITS;
        }
    }

    /// Gives a number back.
    pub(super) fn remove(&mut self, number: usize) {
        let mut at = number;
        for level in &mut self.levels {
            let Some(word) = level.get_mut(at / BITS) else { return };
            let was_full = *word == u64::MAX;
            *word &= !(1 << (at % BITS));
            if !was_full {
                return;
            }
            at /= BITS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BITS, Numbers};
    use alloc::collections::BTreeSet;
    use proptest::prelude::{any, proptest};

    #[test]
    fn a_full_stretch_is_passed_at_once() {
        let mut numbers = Numbers::new();
        assert_eq!(numbers.first_free(7), 7);
        (0..BITS * BITS * 2 + 3).for_each(|number| numbers.insert(number));
        assert_eq!(numbers.first_free(0), BITS * BITS * 2 + 3);
        numbers.remove(BITS + 1);
        assert_eq!(numbers.first_free(0), BITS + 1);
        assert_eq!(numbers.first_free(BITS + 2), BITS * BITS * 2 + 3);
    }

    proptest! {
        #[test]
        fn it_finds_what_a_search_finds(steps in proptest::collection::vec((0_usize..9000, any::<bool>(), 1_usize..200), 1..60)) {
            let mut numbers = Numbers::new();
            let mut model = BTreeSet::new();
            for (start, take, length) in steps {
                for number in start..start + length * 20 {
                    if take {
                        numbers.insert(number);
                        model.insert(number);
                    } else {
                        numbers.remove(number);
                        model.remove(&number);
                    }
                }
                for from in [0, start, start + length, 8999] {
                    let expected = (from..).find(|number| !model.contains(number)).unwrap();
                    assert_eq!(numbers.first_free(from), expected);
                }
            }
        }
    }
}
