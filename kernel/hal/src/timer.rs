//! The per-CPU generic timer: a free-running counter, a clock made of it and one deadline per CPU.
//!
//! The clock counts the counter's nanoseconds until [`set_rate`] makes it faster or slower. From then on it is a straight
//! line through the moment at which its speed last changed, kept under a sequence count ([`Line`]); until then nobody pays
//! for that.

use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

use crate::arch;

/// Nanoseconds since power-on (CLOCK_MONOTONIC). Never goes back; the same on every CPU.
#[inline(always)]
pub fn now_ns() -> u64 {
    arch::now_ns()
}

/// The same as the counter alone counts them (CLOCK_MONOTONIC_RAW).
#[inline]
pub fn raw_ns() -> u64 {
    arch::raw_ns()
}

/// How the clock has run since its speed last changed: `clock_ns + d + (d * rate >> 32)` where d is the counter's time
/// since `raw_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Line {
    /// The counter's time at the change, ns.
    pub raw_ns: u64,
    /// The clock's time at the change, ns.
    pub clock_ns: u64,
    /// How much faster the clock is, in 2^-32.
    pub rate: i64,
}

impl Line {
    /// The clock at a time of the counter that is not before the change.
    fn clock_at(&self, raw_ns: u64) -> u64 {
        let since = raw_ns.saturating_sub(self.raw_ns);
        let gain = (i128::from(since) * i128::from(self.rate)) >> 32;
        (self.clock_ns + since).saturating_add_signed(gain as i64)
    }

    /// The first time of the counter at which the clock shows `clock_ns`, or a little later.
    fn raw_at(&self, clock_ns: u64) -> u64 {
        let since = u128::from(clock_ns.saturating_sub(self.clock_ns));
        let speed = ((1i128 << 32) + i128::from(self.rate)).max(1).unsigned_abs();
        let raw = (since << 32).div_ceil(speed) + 1;
        self.raw_ns.saturating_add(u64::try_from(raw).unwrap_or(u64::MAX))
    }
}

crate::global! {
    static IS_SLEWED: AtomicBool = AtomicBool::new(false);
    /// Even: nobody changes the line.
    static SEQUENCE: AtomicU32 = AtomicU32::new(0);
    static RAW_NS: AtomicU64 = AtomicU64::new(0);
    static CLOCK_NS: AtomicU64 = AtomicU64::new(0);
    static RATE: AtomicI64 = AtomicI64::new(0);
}

/// The line, if the clock's speed was ever changed.
pub fn line() -> Option<Line> {
    if !IS_SLEWED.load(Ordering::Acquire) {
        return None;
    }
    loop {
        let before = SEQUENCE.load(Ordering::Acquire);
        let line = Line {
            raw_ns: RAW_NS.load(Ordering::Relaxed),
            clock_ns: CLOCK_NS.load(Ordering::Relaxed),
            rate: RATE.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        if before & 1 == 0 && SEQUENCE.load(Ordering::Relaxed) == before {
            return Some(line);
        }
        core::hint::spin_loop();
    }
}

/// The clock at a time of the counter that was read after any change of the line that the caller can have seen.
pub(crate) fn clock_at(raw_ns: impl Fn() -> u64) -> u64 {
    loop {
        let Some(line) = line() else { return raw_ns() };
        let raw = raw_ns();
        // The line may have changed between the two: then the clock is read anew.
        if self::line() == Some(line) {
            return line.clock_at(raw);
        }
    }
}

/// The counter's time at which the clock reaches `clock_ns`.
pub(crate) fn raw_deadline_ns(clock_ns: u64) -> u64 {
    match line() {
        Some(line) if clock_ns != u64::MAX => line.raw_at(clock_ns),
        _ => clock_ns,
    }
}

/// Makes the clock run faster by `rate` 2^-32 than the counter, from now on. False: it does so already. One caller at a
/// time, interrupts masked: a reader on the same CPU would wait for ever.
pub fn set_rate(rate: i64) -> bool {
    let line = line();
    if line.map_or(0, |line| line.rate) == rate {
        return false;
    }
    let sequence = SEQUENCE.load(Ordering::Relaxed);
    SEQUENCE.store(sequence + 1, Ordering::Relaxed);
    fence(Ordering::Release);
    let raw = arch::raw_ns();
    RAW_NS.store(raw, Ordering::Relaxed);
    CLOCK_NS.store(line.map_or(raw, |line| line.clock_at(raw)), Ordering::Relaxed);
    RATE.store(rate, Ordering::Relaxed);
    SEQUENCE.store(sequence + 2, Ordering::Release);
    IS_SLEWED.store(true, Ordering::Release);
    arch::clock_is_slewed();
    true
}

/// Asks for one call of [`crate::trap::Handlers`]'s `timer` on this CPU at `deadline_ns` (absolute) or at once if that
/// has passed. Replaces the former deadline; `u64::MAX` means none.
pub fn set_deadline(deadline_ns: u64) {
    arch::set_deadline(deadline_ns);
}

/// How user code turns the raw counter (CNTVCT_EL0) into nanoseconds: ns = (count * mult) >> shift. For the vDSO.
pub fn counter_scale() -> (u32, u32) {
    arch::counter_scale()
}

/// The raw counter, for the vDSO's data page.
pub fn raw_counter() -> u64 {
    arch::raw_counter()
}

/// The page that vDSO code reads, directly before the code's page. Each word changes on its own, but for `line`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VdsoData {
    /// Scale of the counter: ns = (count * mult) >> 24. 0: the clock is slewed, see `line`.
    pub mult: u64,
    /// Real time minus monotonic time, ns.
    pub real_offset_ns: i64,
    /// Monotonic time at the last tick, ns.
    pub coarse_ns: u64,
    /// International atomic time minus monotonic time, ns.
    pub tai_offset_ns: i64,
    /// settimeofday(2)'s time zone: minutes west, `tz_dsttime`.
    pub time_zone: u64,
    /// Scale of the counter, also of a clock that is slewed.
    pub raw_mult: u64,
    /// Odd while `line` changes; another number afterwards.
    pub sequence: u64,
    /// How the clock runs.
    pub line: Line,
}

/// Code of the vDSO functions as position-independent bytes, at most a page, and the offset of each symbol in it. Empty on
/// the hosted machine.
pub fn vdso_code() -> (&'static [u8], [(&'static str, usize); 4]) {
    arch::vdso_code()
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn a_deadline_is_reached_when_the_counter_says_so() {
        for rate in [0, 1, -1, 2_147_483, -2_147_483, 429_496_729, -429_496_729] {
            let line = Line { raw_ns: 1000, clock_ns: 5_000, rate };
            for clock in [5_000u64, 5_001, 6_000, 1_000_000_007, 1 << 50] {
                let raw = line.raw_at(clock);
                assert!(line.clock_at(raw) >= clock, "{rate} {clock}");
                // And not much later: three parts in a billion of a nanosecond are lost to rounding.
                assert!(line.clock_at(raw) <= clock + 3, "{rate} {clock}");
            }
        }
    }

    #[test]
    fn five_hundred_parts_per_million_are_half_a_millisecond_a_second() {
        let rate = (500i64 << 32) / 1_000_000;
        let line = Line { raw_ns: 0, clock_ns: 0, rate };
        assert!((1_000_499_999..=1_000_500_000).contains(&line.clock_at(1_000_000_000)));
    }
}
