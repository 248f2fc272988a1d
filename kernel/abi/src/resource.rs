//! `getrlimit(2)`, `getrusage(2)`, `getpriority(2)`.

use crate::fcntl::consts;
use crate::time::{Timeval, layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    RLIMIT_CPU: u32 = 0;
    RLIMIT_FSIZE: u32 = 1;
    RLIMIT_DATA: u32 = 2;
    RLIMIT_STACK: u32 = 3;
    RLIMIT_CORE: u32 = 4;
    RLIMIT_RSS: u32 = 5;
    RLIMIT_NPROC: u32 = 6;
    RLIMIT_NOFILE: u32 = 7;
    RLIMIT_MEMLOCK: u32 = 8;
    RLIMIT_AS: u32 = 9;
    RLIMIT_LOCKS: u32 = 10;
    RLIMIT_SIGPENDING: u32 = 11;
    RLIMIT_MSGQUEUE: u32 = 12;
    RLIMIT_NICE: u32 = 13;
    RLIMIT_RTPRIO: u32 = 14;
    RLIMIT_RTTIME: u32 = 15;
    RLIM_INFINITY: u64 = u64::MAX;
    RUSAGE_SELF: i32 = 0;
    RUSAGE_CHILDREN: i32 = -1;
    RUSAGE_THREAD: i32 = 1;
    PRIO_PROCESS: i32 = 0;
    PRIO_PGRP: i32 = 1;
    PRIO_USER: i32 = 2;
}

layout! {
    /// `struct rlimit`.
    Rlimit { rlim_cur: u64, rlim_max: u64, }
    /// `struct rusage`.
    Rusage { ru_utime: Timeval, ru_stime: Timeval, ru_maxrss: i64, ru_ixrss: i64, ru_idrss: i64, ru_isrss: i64,
        ru_minflt: i64, ru_majflt: i64, ru_nswap: i64, ru_inblock: i64, ru_oublock: i64, ru_msgsnd: i64, ru_msgrcv: i64,
        ru_nsignals: i64, ru_nvcsw: i64, ru_nivcsw: i64, }
}
