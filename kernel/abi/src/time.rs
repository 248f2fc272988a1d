//! `time(7)`: clocks and time structures.

use crate::fcntl::consts;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    CLOCK_REALTIME: i32 = 0;
    CLOCK_MONOTONIC: i32 = 1;
    CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
    CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    CLOCK_MONOTONIC_RAW: i32 = 4;
    CLOCK_REALTIME_COARSE: i32 = 5;
    CLOCK_MONOTONIC_COARSE: i32 = 6;
    CLOCK_BOOTTIME: i32 = 7;
    CLOCK_REALTIME_ALARM: i32 = 8;
    CLOCK_BOOTTIME_ALARM: i32 = 9;
    CLOCK_TAI: i32 = 11;
    TIMER_ABSTIME: u32 = 1;
    ITIMER_REAL: i32 = 0;
    ITIMER_VIRTUAL: i32 = 1;
    ITIMER_PROF: i32 = 2;
    SIGEV_SIGNAL: i32 = 0;
    SIGEV_NONE: i32 = 1;
    SIGEV_THREAD: i32 = 2;
    SIGEV_THREAD_ID: i32 = 4;
    TFD_TIMER_ABSTIME: u32 = 1;
    TFD_TIMER_CANCEL_ON_SET: u32 = 2;
    TFD_CLOEXEC: u32 = 0o2_000_000;
    TFD_NONBLOCK: u32 = 0o4000;
    TFD_IOC_SET_TICKS: u32 = 0x4008_5400;
    ADJ_OFFSET: u32 = 0x0001;
    ADJ_FREQUENCY: u32 = 0x0002;
    ADJ_MAXERROR: u32 = 0x0004;
    ADJ_ESTERROR: u32 = 0x0008;
    ADJ_STATUS: u32 = 0x0010;
    ADJ_TIMECONST: u32 = 0x0020;
    ADJ_TAI: u32 = 0x0080;
    ADJ_SETOFFSET: u32 = 0x0100;
    ADJ_MICRO: u32 = 0x1000;
    ADJ_NANO: u32 = 0x2000;
    ADJ_TICK: u32 = 0x4000;
    ADJ_ADJTIME: u32 = 0x8000;
    ADJ_OFFSET_SINGLESHOT: u32 = 0x8001;
    ADJ_OFFSET_READONLY: u32 = 0x2000;
    ADJ_OFFSET_SS_READ: u32 = 0xa001;
    STA_PLL: u32 = 0x0001;
    STA_FLL: u32 = 0x0008;
    STA_INS: u32 = 0x0010;
    STA_DEL: u32 = 0x0020;
    STA_UNSYNC: u32 = 0x0040;
    STA_FREQHOLD: u32 = 0x0080;
    STA_CLOCKERR: u32 = 0x1000;
    STA_NANO: u32 = 0x2000;
    STA_MODE: u32 = 0x4000;
    STA_RONLY: u32 = 0xff00;
    TIME_OK: i32 = 0;
    TIME_INS: i32 = 1;
    TIME_DEL: i32 = 2;
    TIME_OOP: i32 = 3;
    TIME_WAIT: i32 = 4;
    TIME_ERROR: i32 = 5;
}

macro_rules! layout {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $ty:ty,)* })*) => {
        $($(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $(#[doc = concat!("`", stringify!($field), "`")] pub $field: $ty,)* })*
    };
}
pub(crate) use layout;

layout! {
    /// `struct timespec`.
    Timespec { tv_sec: i64, tv_nsec: i64, }
    /// `struct timeval`.
    Timeval { tv_sec: i64, tv_usec: i64, }
    /// `struct itimerval`.
    Itimerval { it_interval: Timeval, it_value: Timeval, }
    /// `struct itimerspec`.
    Itimerspec { it_interval: Timespec, it_value: Timespec, }
    /// `struct tms`, in ticks of 10 ms.
    Tms { tms_utime: i64, tms_stime: i64, tms_cutime: i64, tms_cstime: i64, }
    /// `struct timezone`.
    Timezone { tz_minuteswest: i32, tz_dsttime: i32, }
    /// The first words of `struct sigevent`.
    Sigevent { sigev_value: u64, sigev_signo: i32, sigev_notify: i32, sigev_tid: i32, _pad: [u32; 11], }
    /// `struct timex` of adjtimex(2).
    Timex {
        modes: u32, _pad0: u32, offset: i64, freq: i64, maxerror: i64, esterror: i64, status: i32, _pad1: u32,
        constant: i64, precision: i64, tolerance: i64, time: Timeval, tick: i64, ppsfreq: i64, jitter: i64, shift: i32,
        _pad2: u32, stabil: i64, jitcnt: i64, calcnt: i64, errcnt: i64, stbcnt: i64, tai: i32, _pad3: [u32; 11],
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn layouts_have_linux_sizes() {
        assert_eq!((size_of::<super::Timex>(), size_of::<super::Sigevent>()), (208, 64));
    }
}
