//! Descriptors that tell of events: `inotify(7)`, `timerfd_create(2)`, `signalfd(2)`, `pidfd_open(2)`. `eventfd(2)` and
//! `epoll(7)` are in [`crate::poll`].

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    TFD_TIMER_ABSTIME: u32 = 1;
    TFD_TIMER_CANCEL_ON_SET: u32 = 2;
    TFD_NONBLOCK: u32 = 0o4000;
    TFD_CLOEXEC: u32 = 0o2000000;
    SFD_NONBLOCK: u32 = 0o4000;
    SFD_CLOEXEC: u32 = 0o2000000;
    PIDFD_NONBLOCK: u32 = 0o4000;
    IN_NONBLOCK: u32 = 0o4000;
    IN_CLOEXEC: u32 = 0o2000000;
    IN_ACCESS: u32 = 0x1;
    IN_MODIFY: u32 = 0x2;
    IN_ATTRIB: u32 = 0x4;
    IN_CLOSE_WRITE: u32 = 0x8;
    IN_CLOSE_NOWRITE: u32 = 0x10;
    IN_OPEN: u32 = 0x20;
    IN_MOVED_FROM: u32 = 0x40;
    IN_MOVED_TO: u32 = 0x80;
    IN_CREATE: u32 = 0x100;
    IN_DELETE: u32 = 0x200;
    IN_DELETE_SELF: u32 = 0x400;
    IN_MOVE_SELF: u32 = 0x800;
    IN_ALL_EVENTS: u32 = 0xfff;
    IN_UNMOUNT: u32 = 0x2000;
    IN_Q_OVERFLOW: u32 = 0x4000;
    IN_IGNORED: u32 = 0x8000;
    IN_ONLYDIR: u32 = 0x0100_0000;
    IN_DONT_FOLLOW: u32 = 0x0200_0000;
    IN_EXCL_UNLINK: u32 = 0x0400_0000;
    IN_MASK_CREATE: u32 = 0x1000_0000;
    IN_MASK_ADD: u32 = 0x2000_0000;
    IN_ISDIR: u32 = 0x4000_0000;
    IN_ONESHOT: u32 = 0x8000_0000;
}

layout! {
    /// `struct inotify_event`; the name follows.
    InotifyEvent { wd: i32, mask: u32, cookie: u32, len: u32, }
    /// `struct signalfd_siginfo`, 128 bytes.
    SignalfdSiginfo { ssi_signo: u32, ssi_errno: i32, ssi_code: i32, ssi_pid: u32, ssi_uid: u32, ssi_fd: i32,
        ssi_tid: u32, ssi_band: u32, ssi_overrun: u32, ssi_trapno: u32, ssi_status: i32, ssi_int: i32, ssi_ptr: u64,
        ssi_utime: u64, ssi_stime: u64, ssi_addr: u64, ssi_addr_lsb: u16, _pad2: u16, ssi_syscall: i32,
        ssi_call_addr: u64, ssi_arch: u32, _pad: [u32; 7], }
}
