//! Small interfaces around a process: `rseq(2)`, `membarrier(2)`, `seccomp(2)`, robust futex lists, the rest of
//! `sched_setattr(2)` and `capset(2)`.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    RSEQ_FLAG_UNREGISTER: u32 = 1;
    /// What `cpu_id` holds before the kernel writes it.
    RSEQ_CPU_ID_UNINITIALIZED: i32 = -1;
    RSEQ_CPU_ID_REGISTRATION_FAILED: i32 = -2;
    MEMBARRIER_CMD_QUERY: u32 = 0;
    MEMBARRIER_CMD_GLOBAL: u32 = 1;
    MEMBARRIER_CMD_GLOBAL_EXPEDITED: u32 = 2;
    MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED: u32 = 4;
    MEMBARRIER_CMD_PRIVATE_EXPEDITED: u32 = 8;
    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED: u32 = 16;
    MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE: u32 = 32;
    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: u32 = 64;
    MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ: u32 = 128;
    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ: u32 = 256;
    MEMBARRIER_CMD_FLAG_CPU: u32 = 1;
    SECCOMP_MODE_DISABLED: u32 = 0;
    SECCOMP_MODE_STRICT: u32 = 1;
    SECCOMP_MODE_FILTER: u32 = 2;
    SECCOMP_SET_MODE_STRICT: u32 = 0;
    SECCOMP_SET_MODE_FILTER: u32 = 1;
    SECCOMP_GET_ACTION_AVAIL: u32 = 2;
    SECCOMP_GET_NOTIF_SIZES: u32 = 3;
    SECCOMP_FILTER_FLAG_TSYNC: u32 = 1;
    SECCOMP_FILTER_FLAG_LOG: u32 = 2;
    SECCOMP_FILTER_FLAG_SPEC_ALLOW: u32 = 4;
    SECCOMP_FILTER_FLAG_NEW_LISTENER: u32 = 8;
    SECCOMP_FILTER_FLAG_TSYNC_ESRCH: u32 = 16;
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: u32 = 32;
    SECCOMP_USER_NOTIF_FLAG_CONTINUE: u32 = 1;
    SECCOMP_ADDFD_FLAG_SETFD: u32 = 1;
    SECCOMP_ADDFD_FLAG_SEND: u32 = 2;
    SECCOMP_IOCTL_NOTIF_RECV: u32 = 0xc050_2100;
    SECCOMP_IOCTL_NOTIF_SEND: u32 = 0xc018_2101;
    SECCOMP_IOCTL_NOTIF_ID_VALID: u32 = 0x4008_2102;
    /// As it was defined at first, and still works.
    SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR: u32 = 0x8008_2102;
    SECCOMP_IOCTL_NOTIF_ADDFD: u32 = 0x4018_2103;
    SECCOMP_RET_KILL_PROCESS: u32 = 0x8000_0000;
    SECCOMP_RET_KILL_THREAD: u32 = 0;
    SECCOMP_RET_TRAP: u32 = 0x0003_0000;
    SECCOMP_RET_ERRNO: u32 = 0x0005_0000;
    SECCOMP_RET_USER_NOTIF: u32 = 0x7fc0_0000;
    SECCOMP_RET_TRACE: u32 = 0x7ff0_0000;
    SECCOMP_RET_LOG: u32 = 0x7ffc_0000;
    SECCOMP_RET_ALLOW: u32 = 0x7fff_0000;
    /// Bit 31: 64 bit; bit 30: little-endian.
    AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
    SCHED_FLAG_RESET_ON_FORK: u64 = 0x1;
    SCHED_FLAG_RECLAIM: u64 = 0x2;
    SCHED_FLAG_DL_OVERRUN: u64 = 0x4;
    SCHED_FLAG_KEEP_POLICY: u64 = 0x8;
    SCHED_FLAG_KEEP_PARAMS: u64 = 0x10;
    SCHED_FLAG_UTIL_CLAMP_MIN: u64 = 0x20;
    SCHED_FLAG_UTIL_CLAMP_MAX: u64 = 0x40;
    SCHED_ATTR_SIZE_VER0: u32 = 48;
    /// Entries of a robust list that exit follows.
    ROBUST_LIST_LIMIT: usize = 2048;
}

layout! {
    /// `struct rseq`, the first 32 bytes.
    Rseq { cpu_id_start: u32, cpu_id: u32, rseq_cs: u64, flags: u32, node_id: u32, mm_cid: u32, _pad: u32, }
    /// `struct rseq_cs`.
    RseqCs { version: u32, flags: u32, start_ip: u64, post_commit_offset: u64, abort_ip: u64, }
    /// `struct robust_list_head`, 24 bytes.
    RobustListHead { list: u64, futex_offset: i64, list_op_pending: u64, }
    /// `struct sched_attr`, version 1 (56 bytes).
    SchedAttr { size: u32, sched_policy: u32, sched_flags: u64, sched_nice: i32, sched_priority: u32,
        sched_runtime: u64, sched_deadline: u64, sched_period: u64, sched_util_min: u32, sched_util_max: u32, }
    /// `struct __user_cap_header_struct`.
    CapUserHeader { version: u32, pid: i32, }
    /// `struct __user_cap_data_struct`; versions 2 and 3 pass two of them.
    CapUserData { effective: u32, permitted: u32, inheritable: u32, }
    /// `struct sock_filter`.
    SockFilter { code: u16, jt: u8, jf: u8, k: u32, }
    /// `struct sock_fprog`.
    SockFprog { len: u16, _pad: [u16; 3], filter: u64, }
    /// `struct seccomp_data`, 64 bytes.
    SeccompData { nr: i32, arch: u32, instruction_pointer: u64, args: [u64; 6], }
    /// `struct seccomp_notif`, 80 bytes.
    SeccompNotif { id: u64, pid: u32, flags: u32, data: SeccompData, }
    /// `struct seccomp_notif_resp`.
    SeccompNotifResp { id: u64, val: i64, error: i32, flags: u32, }
    /// `struct seccomp_notif_addfd`.
    SeccompNotifAddfd { id: u64, flags: u32, srcfd: u32, newfd: u32, newfd_flags: u32, }
    /// `struct seccomp_notif_sizes`.
    SeccompNotifSizes { seccomp_notif: u16, seccomp_notif_resp: u16, seccomp_data: u16, }
    /// `struct open_how` of openat2.
    OpenHow { flags: u64, mode: u64, resolve: u64, }
    /// `struct f_owner_ex` of fcntl.
    FOwnerEx { kind: i32, pid: i32, }
}

consts! {
    RESOLVE_NO_XDEV: u64 = 0x1;
    RESOLVE_NO_MAGICLINKS: u64 = 0x2;
    RESOLVE_NO_SYMLINKS: u64 = 0x4;
    RESOLVE_BENEATH: u64 = 0x8;
    RESOLVE_IN_ROOT: u64 = 0x10;
    RESOLVE_CACHED: u64 = 0x20;
    F_OWNER_TID: i32 = 0;
    F_OWNER_PID: i32 = 1;
    F_OWNER_PGRP: i32 = 2;
}
