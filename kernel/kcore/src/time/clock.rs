//! Clocks: time(7), clock_gettime(2).
//!
//! The monotonic clock is hal's counter. Real time is that plus an offset that settimeofday(2) moves. User space reads both
//! without a system call through the vDSO's data page, which [`publish_vdso`] keeps.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use abi::Errno;
use abi::time as t;
use abi::time::Timespec;

use crate::Result;
use crate::task::{current, usage};

/// Nanoseconds in a second.
pub const NSEC_PER_SEC: u64 = 1_000_000_000;

hal::global! {
    /// Real time minus monotonic time, ns. A Pi has no clock of its own: it starts at 1 January 1970 unless told.
    static REAL_OFFSET_NS: AtomicI64 = AtomicI64::new(0);
    /// Monotonic time at the last tick: the coarse clocks.
    static COARSE_NS: AtomicU64 = AtomicU64::new(0);
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
    monotonic_ns().saturating_add_signed(REAL_OFFSET_NS.load(Ordering::Relaxed))
}

/// CLOCK_REALTIME, for time stamps.
pub fn realtime() -> Timespec {
    timespec(realtime_ns())
}

/// Sets CLOCK_REALTIME.
pub fn set_realtime(ns: u64) {
    let offset = ns.cast_signed().wrapping_sub(monotonic_ns().cast_signed());
    REAL_OFFSET_NS.store(offset, Ordering::Relaxed);
    publish_vdso();
}

/// Takes the tick's time for the coarse clocks, here and in user space.
pub fn update_coarse() {
    let now = monotonic_ns();
    COARSE_NS.store(now, Ordering::Relaxed);
    crate::mm::vdso::publish_coarse(now);
}

/// Tells user space's clock code about the clocks.
pub fn publish_vdso() {
    crate::mm::vdso::publish(REAL_OFFSET_NS.load(Ordering::Relaxed));
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
        t::CLOCK_REALTIME | t::CLOCK_TAI => realtime_ns(),
        t::CLOCK_MONOTONIC | t::CLOCK_MONOTONIC_RAW | t::CLOCK_BOOTTIME => monotonic_ns(),
        t::CLOCK_REALTIME_COARSE => {
            COARSE_NS.load(Ordering::Relaxed).saturating_add_signed(REAL_OFFSET_NS.load(Ordering::Relaxed))
        }
        t::CLOCK_MONOTONIC_COARSE => COARSE_NS.load(Ordering::Relaxed),
        t::CLOCK_REALTIME_ALARM | t::CLOCK_BOOTTIME_ALARM => return Err(Errno::EINVAL),
        t::CLOCK_PROCESS_CPUTIME_ID => process_cpu_ns(&current().group),
        t::CLOCK_THREAD_CPUTIME_ID => thread_cpu_ns(&current()),
        id if id < 0 => return dynamic_cpu_clock(id),
        _ => return Err(Errno::EINVAL),
    })
}

/// The resolution of the clock `id`, ns.
pub fn clock_resolution_ns(id: i32) -> Result<u64> {
    clock_ns(id)?;
    let coarse = matches!(id, t::CLOCK_REALTIME_COARSE | t::CLOCK_MONOTONIC_COARSE);
    Ok(if coarse { crate::sched::TICK_NS } else { 1 })
}

/// CPU time of a process.
pub fn process_cpu_ns(group: &crate::task::ThreadGroup) -> u64 {
    crate::sched::account_current();
    let used = usage::of_process(group);
    used.user_ns + used.system_ns
}

/// CPU time of a thread.
pub fn thread_cpu_ns(task: &crate::task::Task) -> u64 {
    crate::sched::account_current();
    task.sched.sum_exec_ns.load(Ordering::Relaxed)
}

/// The clocks of clock_getcpuclockid(3) and pthread_getcpuclockid(3): `(~pid << 3) | (4 for threads) | kind`
/// (Linux `include/linux/posix-timers_types.h`).
fn dynamic_cpu_clock(id: i32) -> Result<u64> {
    let kind = id & 3;
    if kind == 3 {
        return Err(Errno::EINVAL);
    }
    let per_thread = id & 4 != 0;
    let number = !(id >> 3);
    let task = match number {
        0 => current().arc(),
        number => crate::task::find(number).ok_or(Errno::EINVAL)?,
    };
    if per_thread {
        if !Arc::ptr_eq(&task.group, &current().group) {
            return Err(Errno::EINVAL);
        }
        return Ok(thread_cpu_ns(&task));
    }
    Ok(process_cpu_ns(&task.group))
}

use alloc::sync::Arc;

#[cfg(test)]
mod tests {
    use super::{timespec, timespec_ns};
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
}
