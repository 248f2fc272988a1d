//! The generic timer: the virtual counter and the virtual timer of each core (Arm ARM D11).

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0, Readable, Writeable};

/// Bits of fraction in the scale. ns = (count * mult) >> SHIFT, with a 128-bit product.
const SHIFT: u32 = 24;
/// The scale of a clock that is not slewed; 0 before the first use, and when it is ([`crate::timer::set_rate`]).
static MULT: AtomicU64 = AtomicU64::new(0);
/// The scale of the counter; 0 before the first use.
static RAW_MULT: AtomicU64 = AtomicU64::new(0);
/// Its inverse: count = (ns * inverse) >> 64.
static INVERSE: AtomicU64 = AtomicU64::new(0);

#[inline(always)]
pub fn raw_counter() -> u64 {
    // Keeps the counter from being read early (Arm ARM D11.2.2).
    barrier::isb(barrier::SY);
    CNTVCT_EL0.get()
}

#[cold]
fn compute_scale() -> u64 {
    let mult = (1_000_000_000u64 << SHIFT) / CNTFRQ_EL0.get().max(1);
    // Of `mult` and not of the frequency, so that a deadline and `now_ns` round alike however long the machine runs. It fits
    // for counters below 1 GHz, and is as good as exact for one that has just that.
    let inverse = (1u128 << (64 + SHIFT)) / u128::from(mult);
    INVERSE.store(u64::try_from(inverse).unwrap_or(u64::MAX), Ordering::Relaxed);
    RAW_MULT.store(mult, Ordering::Relaxed);
    mult
}

#[inline]
fn raw_mult() -> u64 {
    match RAW_MULT.load(Ordering::Relaxed) {
        0 => compute_scale(),
        mult => mult,
    }
}

#[inline(always)]
fn scaled(count: u64, mult: u64) -> u64 {
    ((u128::from(count) * u128::from(mult)) >> SHIFT) as u64
}

#[inline(always)]
pub fn now_ns() -> u64 {
    let count = raw_counter();
    // Read after the counter: while this is not 0, the clock was not slewed at that count.
    match MULT.load(Ordering::Relaxed) {
        0 => slewed_now_ns(),
        mult => scaled(count, mult),
    }
}

#[cold]
fn slewed_now_ns() -> u64 {
    if crate::timer::line().is_none() {
        MULT.store(raw_mult(), Ordering::Relaxed);
        return raw_ns();
    }
    crate::timer::clock_at(raw_ns)
}

pub fn raw_ns() -> u64 {
    scaled(raw_counter(), raw_mult())
}

/// From now on [`now_ns`] takes the way that looks at the line.
pub fn clock_is_slewed() {
    MULT.store(0, Ordering::SeqCst);
}

pub fn counter_scale() -> (u32, u32) {
    (raw_mult() as u32, SHIFT)
}

pub fn set_deadline(deadline_ns: u64) {
    if deadline_ns == u64::MAX {
        return stop();
    }
    raw_mult();
    let deadline_ns = crate::timer::raw_deadline_ns(deadline_ns);
    let count = (u128::from(deadline_ns) * u128::from(INVERSE.load(Ordering::Relaxed))) >> 64;
    // The product and the inverse are rounded down: two counts later the deadline has passed for certain.
    CNTV_CVAL_EL0.set(count as u64 + 2);
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
    barrier::isb(barrier::SY);
}

/// Quiets the timer of this core until the next `set_deadline`.
pub(super) fn stop() {
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::CLEAR);
    barrier::isb(barrier::SY);
}
