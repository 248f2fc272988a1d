//! Clocks: time(7), clock_gettime(2), clock_settime(2).
//!
//! The monotonic clock is hal's counter, slewed by adjtimex(2) ([`super::discipline`]). Real time is that plus an offset
//! that clock_settime(2) moves; international atomic time is real time plus whole seconds. User space reads them without a
//! system call through the vDSO's data page, which [`publish_vdso`] keeps.

use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};

use abi::Errno;
use abi::time as t;
use abi::time::{Timespec, Timezone};

use super::cpu::{CpuClock, Use};
use super::{discipline, timer};
use crate::Result;

/// Nanoseconds in a second.
pub const NSEC_PER_SEC: u64 = 1_000_000_000;

hal::global! {
    /// Real time minus monotonic time, ns. A Pi has no clock of its own: it starts at 1 January 1970 unless told. Never
    /// negative: real time is not set to before the boot.
    static REAL_OFFSET_NS: AtomicI64 = AtomicI64::new(0);
    /// Seconds that TAI is ahead of real time; 0 until somebody sets it (ADJ_TAI).
    static TAI_SECONDS: AtomicI32 = AtomicI32::new(0);
    /// Monotonic time at the last tick: the coarse clocks.
    static COARSE_NS: AtomicU64 = AtomicU64::new(0);
    /// settimeofday(2)'s time zone: minutes west in the low half, `tz_dsttime` in the high one.
    static TIME_ZONE: AtomicU64 = AtomicU64::new(0);
}

/// CLOCK_MONOTONIC, ns since boot.
#[inline(always)]
pub fn monotonic_ns() -> u64 {
    hal::timer::now_ns()
}

/// CLOCK_BOOTTIME, ns. The machine never suspends, so it is the monotonic clock.
pub fn boottime_ns() -> u64 {
    monotonic_ns()
}

/// CLOCK_REALTIME, ns since 1970.
pub fn realtime_ns() -> u64 {
    monotonic_ns().saturating_add_signed(real_offset_ns())
}

/// When the machine was started by what CLOCK_REALTIME shows now, ns since 1970: `btime` of /proc/stat.
pub fn boot_time_ns() -> u64 {
    real_offset_ns().max(0).cast_unsigned()
}

/// CLOCK_REALTIME, for time stamps.
pub fn realtime() -> Timespec {
    timespec(realtime_ns())
}

/// Real time minus monotonic time, ns.
pub(super) fn real_offset_ns() -> i64 {
    REAL_OFFSET_NS.load(Ordering::Relaxed)
}

/// International atomic time minus monotonic time, ns.
pub(super) fn tai_offset_ns() -> i64 {
    let tai_ns = i64::from(TAI_SECONDS.load(Ordering::Relaxed)) * NSEC_PER_SEC as i64;
    real_offset_ns().saturating_add(tai_ns)
}

/// Seconds that TAI is ahead.
pub(super) fn tai_seconds() -> i32 {
    TAI_SECONDS.load(Ordering::Relaxed)
}

/// Sets how far TAI is ahead of real time.
pub(super) fn set_tai_seconds(seconds: i32) {
    TAI_SECONDS.store(seconds, Ordering::Relaxed);
    clock_was_set();
}

/// Linux TIME_SETTOD_SEC_MAX: no real time is set from which 30 years of uptime would lead out of 64 bits of nanoseconds.
const SETTABLE_SECONDS: u64 = i64::MAX as u64 / NSEC_PER_SEC - 30 * 365 * 24 * 3600;

/// A real time that may be set, in ns (Linux `timespec64_valid_settod`). `EINVAL` otherwise.
pub fn settable_ns(value: &Timespec) -> Result<u64> {
    let ns = timespec_ns(value)?;
    if value.tv_sec.cast_unsigned() >= SETTABLE_SECONDS {
        return Err(Errno::EINVAL);
    }
    Ok(ns)
}

/// Sets CLOCK_REALTIME. `EINVAL` for a time before the boot (Linux `do_settimeofday64`).
pub fn set_realtime(ns: u64) -> Result<()> {
    let offset = ns.cast_signed().wrapping_sub(monotonic_ns().cast_signed());
    if offset < 0 {
        return Err(Errno::EINVAL);
    }
    discipline::clear();
    REAL_OFFSET_NS.store(offset, Ordering::Relaxed);
    clock_was_set();
    Ok(())
}

/// A leap second: real time moves, and TAI is that much further from it, so that TAI does not move.
pub(super) fn leap(by_ns: i64, tai_seconds: i32) {
    REAL_OFFSET_NS.fetch_add(by_ns, Ordering::Relaxed);
    TAI_SECONDS.store(tai_seconds, Ordering::Relaxed);
    clock_was_set();
}

/// Steps CLOCK_REALTIME (ADJ_SETOFFSET). `EINVAL` when that leads out of what can be set.
pub fn step_realtime(by_ns: i64) -> Result<()> {
    let offset = real_offset_ns().checked_add(by_ns).filter(|offset| *offset >= 0).ok_or(Errno::EINVAL)?;
    if realtime_ns().saturating_add_signed(by_ns) / NSEC_PER_SEC >= SETTABLE_SECONDS {
        return Err(Errno::EINVAL);
    }
    REAL_OFFSET_NS.store(offset, Ordering::Relaxed);
    clock_was_set();
    Ok(())
}

/// Whoever waits for a time of a clock that was set finds its new place (Linux `clock_was_set`).
fn clock_was_set() {
    publish_vdso();
    timer::clock_was_set();
    super::timerfd::clock_was_set();
}

/// settimeofday(2)'s time zone.
pub fn time_zone() -> Timezone {
    let word = TIME_ZONE.load(Ordering::Relaxed);
    Timezone { tz_minuteswest: (word as u32).cast_signed(), tz_dsttime: ((word >> 32) as u32).cast_signed() }
}

/// Keeps settimeofday(2)'s time zone. `EINVAL` beyond 15 hours.
pub fn set_time_zone(zone: &Timezone) -> Result<()> {
    if !(-15 * 60..=15 * 60).contains(&zone.tz_minuteswest) {
        return Err(Errno::EINVAL);
    }
    let word = u64::from(zone.tz_minuteswest.cast_unsigned()) | u64::from(zone.tz_dsttime.cast_unsigned()) << 32;
    TIME_ZONE.store(word, Ordering::Relaxed);
    publish_vdso();
    Ok(())
}

/// Takes the tick's time for the coarse clocks, here and in user space.
pub fn update_coarse() {
    let now = monotonic_ns();
    COARSE_NS.store(now, Ordering::Relaxed);
    crate::mm::vdso::publish_coarse(now);
}

/// Tells user space's clock code about the clocks.
pub fn publish_vdso() {
    crate::mm::vdso::publish(real_offset_ns(), tai_offset_ns(), TIME_ZONE.load(Ordering::Relaxed));
    update_coarse();
}

/// `ns` as a timespec.
pub fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / NSEC_PER_SEC).cast_signed(), tv_nsec: (ns % NSEC_PER_SEC).cast_signed() }
}

/// A timespec from user space as ns, saturating; `EINVAL` when it is negative or its ns are not below 10^9.
pub fn timespec_ns(value: &Timespec) -> Result<u64> {
    let (Ok(seconds), Ok(ns)) = (u64::try_from(value.tv_sec), u64::try_from(value.tv_nsec)) else {
        return Err(Errno::EINVAL);
    };
    if ns >= NSEC_PER_SEC {
        return Err(Errno::EINVAL);
    }
    // Linux's KTIME_MAX: 292 years are for ever.
    Ok(seconds.saturating_mul(NSEC_PER_SEC).saturating_add(ns).min(i64::MAX.cast_unsigned()))
}

/// The clock `id` now, ns. `EINVAL` for one that does not exist.
pub fn clock_ns(id: i32) -> Result<u64> {
    Ok(match id {
        t::CLOCK_REALTIME => realtime_ns(),
        t::CLOCK_TAI => monotonic_ns().saturating_add_signed(tai_offset_ns()),
        t::CLOCK_MONOTONIC | t::CLOCK_BOOTTIME => monotonic_ns(),
        t::CLOCK_MONOTONIC_RAW => hal::timer::raw_ns(),
        t::CLOCK_REALTIME_COARSE => COARSE_NS.load(Ordering::Relaxed).saturating_add_signed(real_offset_ns()),
        t::CLOCK_MONOTONIC_COARSE => COARSE_NS.load(Ordering::Relaxed),
        // No device tells them (Linux `alarm_clock_get_timespec`).
        t::CLOCK_REALTIME_ALARM | t::CLOCK_BOOTTIME_ALARM => return Err(Errno::EINVAL),
        id => cpu_clock(id)?.now_ns().ok_or(Errno::EINVAL)?,
    })
}

/// The resolution of the clock `id`, ns.
pub fn clock_resolution_ns(id: i32) -> Result<u64> {
    Ok(match id {
        t::CLOCK_REALTIME_COARSE | t::CLOCK_MONOTONIC_COARSE => crate::sched::TICK_NS,
        t::CLOCK_REALTIME | t::CLOCK_TAI | t::CLOCK_MONOTONIC | t::CLOCK_BOOTTIME | t::CLOCK_MONOTONIC_RAW => 1,
        t::CLOCK_REALTIME_ALARM | t::CLOCK_BOOTTIME_ALARM => return Err(Errno::EINVAL),
        id => CpuClock::named(id, Use::Other).ok_or(Errno::EINVAL)??.resolution_ns(),
    })
}

fn cpu_clock(id: i32) -> Result<CpuClock> {
    CpuClock::named(id, Use::Reading).ok_or(Errno::EINVAL)?
}

#[cfg(test)]
mod tests {
    use super::{settable_ns, timespec, timespec_ns};
    use abi::Errno;
    use abi::time::Timespec;

    #[test]
    fn a_timespec_must_be_normalised() {
        assert_eq!(timespec_ns(&Timespec { tv_sec: 1, tv_nsec: 5 }), Ok(1_000_000_005));
        assert_eq!(timespec_ns(&Timespec { tv_sec: -1, tv_nsec: 0 }), Err(Errno::EINVAL));
        assert_eq!(timespec_ns(&Timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }), Err(Errno::EINVAL));
        assert_eq!(timespec_ns(&Timespec { tv_sec: i64::MAX, tv_nsec: 0 }), Ok(i64::MAX as u64));
        assert_eq!(timespec(1_500_000_000).tv_nsec, 500_000_000);
    }

    #[test]
    fn the_clock_is_not_set_to_where_it_would_overflow() {
        assert!(settable_ns(&Timespec { tv_sec: 8_277_292_035, tv_nsec: 0 }).is_ok());
        assert_eq!(settable_ns(&Timespec { tv_sec: 8_277_292_036, tv_nsec: 0 }), Err(Errno::EINVAL));
    }
}
