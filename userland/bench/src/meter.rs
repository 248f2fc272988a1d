//! Batches of operations, each timed as a whole; the median of the batches is what counts.

use crate::sys::{self, Result};

/// An odd number of batches has a middle.
const BATCHES: usize = 9;
/// A batch is at least so long (ns), so that reading the clock does not show.
const BATCH_TIME: u64 = 1_000_000;
/// A row spends no more than this per batch on finding out how many operations it has.
const MOST_OPERATIONS: u64 = 100_000;

/// Collects what the batches of one row took.
#[derive(Default)]
pub struct Meter {
    /// Nanoseconds for one operation.
    samples: Vec<f64>,
    /// Operations between the marks, those that were not counted included.
    marked: u64,
}

/// What one operation took (ns).
pub struct Summary {
    pub median: u64,
    pub min: u64,
    pub max: u64,
}

impl Meter {
    /// Times `operation`, as often in a batch as its length needs. The first calls are not counted: they warm up.
    pub fn repeat(&mut self, mut operation: impl FnMut() -> Result<()>) -> Result<()> {
        let mut count = 1;
        loop {
            let taken = self.timed(count, count, &mut operation)?;
            if taken >= BATCH_TIME || count >= MOST_OPERATIONS {
                break;
            }
            count = (count * BATCH_TIME / taken.max(1)).clamp(count + 1, count * 16);
        }
        for _ in 0..BATCHES {
            let taken = self.timed(count, count, &mut operation)?;
            self.add(taken, count);
        }
        Ok(())
    }

    /// Times `body`, which is `operations` operations, on what `setup` makes anew for each batch, outside of the time.
    pub fn batches<S>(
        &mut self,
        operations: u64,
        mut setup: impl FnMut() -> Result<S>,
        mut body: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<()> {
        // One more than counted, to warm up.
        for batch in 0..=BATCHES {
            let mut state = setup()?;
            let taken = self.timed(1, operations, &mut || body(&mut state))?;
            if batch > 0 {
                self.add(taken, operations);
            }
        }
        Ok(())
    }

    /// Every sample becomes `numerator / denominator` of what it was.
    pub fn scale(&mut self, numerator: usize, denominator: usize) {
        self.samples.iter_mut().for_each(|sample| *sample *= numerator as f64 / denominator as f64);
        self.marked = self.marked * denominator as u64 / numerator as u64;
    }

    /// How many operations `make profile` saw.
    pub fn marked(&self) -> u64 {
        self.marked
    }

    /// Calls `body` `count` times, which is `operations` operations.
    fn timed(&mut self, count: u64, operations: u64, body: &mut impl FnMut() -> Result<()>) -> Result<u64> {
        self.marked += operations;
        let start = sys::now();
        sys::mark_begin();
        let result = (0..count).try_for_each(|_| body());
        sys::mark_end();
        let taken = sys::now() - start;
        result.map(|()| taken)
    }

    fn add(&mut self, taken: u64, operations: u64) {
        self.samples.push(taken as f64 / operations as f64);
    }

    pub fn summary(mut self) -> Summary {
        self.samples.sort_by(f64::total_cmp);
        let at = |index: usize| self.samples.get(index).map_or(0, |sample| sample.round() as u64);
        Summary { median: at(self.samples.len() / 2), min: at(0), max: at(self.samples.len().saturating_sub(1)) }
    }
}
