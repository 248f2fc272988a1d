//! `sched(7)`, `clone(2)`.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    CSIGNAL: u64 = 0xff;
    CLONE_NEWTIME: u64 = 0x80;
    CLONE_VM: u64 = 0x100;
    CLONE_FS: u64 = 0x200;
    CLONE_FILES: u64 = 0x400;
    CLONE_SIGHAND: u64 = 0x800;
    CLONE_PIDFD: u64 = 0x1000;
    CLONE_PTRACE: u64 = 0x2000;
    CLONE_VFORK: u64 = 0x4000;
    CLONE_PARENT: u64 = 0x8000;
    CLONE_THREAD: u64 = 0x1_0000;
    CLONE_NEWNS: u64 = 0x2_0000;
    CLONE_SYSVSEM: u64 = 0x4_0000;
    CLONE_SETTLS: u64 = 0x8_0000;
    CLONE_PARENT_SETTID: u64 = 0x10_0000;
    CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
    CLONE_DETACHED: u64 = 0x40_0000;
    CLONE_UNTRACED: u64 = 0x80_0000;
    CLONE_CHILD_SETTID: u64 = 0x100_0000;
    CLONE_NEWCGROUP: u64 = 0x200_0000;
    CLONE_NEWUTS: u64 = 0x400_0000;
    CLONE_NEWIPC: u64 = 0x800_0000;
    CLONE_NEWUSER: u64 = 0x1000_0000;
    CLONE_NEWPID: u64 = 0x2000_0000;
    CLONE_NEWNET: u64 = 0x4000_0000;
    CLONE_IO: u64 = 0x8000_0000;
    CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    SCHED_OTHER: u32 = 0;
    SCHED_FIFO: u32 = 1;
    SCHED_RR: u32 = 2;
    SCHED_BATCH: u32 = 3;
    SCHED_IDLE: u32 = 5;
    SCHED_DEADLINE: u32 = 6;
    SCHED_RESET_ON_FORK: u32 = 0x4000_0000;
}

layout! {
    /// `struct sched_param`.
    SchedParam { sched_priority: i32, }
    /// `struct clone_args`, version 2 (88 bytes).
    CloneArgs { flags: u64, pidfd: u64, child_tid: u64, parent_tid: u64, exit_signal: u64, stack: u64, stack_size: u64,
        tls: u64, set_tid: u64, set_tid_size: u64, cgroup: u64, }
}
