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
}
