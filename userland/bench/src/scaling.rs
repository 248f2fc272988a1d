//! fork, exit and wait as often as a second holds, on one CPU and on two at once. This is the one measurement that is of
//! the wall clock.

use crate::sys::{self, MAP_SHARED, Mapping, Result};

/// One CPU and two take turns so often; the median of each counts.
const ROUNDS: usize = 5;
const SECOND: u64 = 1_000_000_000;

/// Prints `scaling CPUS OPERATIONS`, per second, for one and two.
pub fn run() -> Result<()> {
    let mut rates = [[0; ROUNDS]; 2];
    for round in 0..ROUNDS {
        for (cpus, rates) in [1, 2].into_iter().zip(&mut rates) {
            rates[round] = rate(cpus)?;
        }
    }
    for (cpus, rates) in [1, 2].into_iter().zip(&mut rates) {
        rates.sort_unstable();
        println!("scaling {cpus} {}", rates[ROUNDS / 2]);
    }
    Ok(())
}

fn rate(cpus: usize) -> Result<u64> {
    let counts = Mapping::anonymous(4096, MAP_SHARED)?;
    let workers: Vec<i32> = (0..cpus).map(|cpu| sys::child(|| work(cpu, &counts))).collect::<Result<_>>()?;
    for worker in workers {
        sys::wait(worker)?;
    }
    Ok((0..cpus).map(|cpu| u64::from(counts.word(cpu).load(std::sync::atomic::Ordering::Relaxed))).sum())
}

fn work(cpu: usize, counts: &Mapping) -> Result<()> {
    sys::pin(cpu)?;
    let end = sys::now() + SECOND;
    while sys::now() < end {
        sys::wait(sys::child(|| Ok(()))?)?;
        counts.word(cpu).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(())
}
