//! `fcntl(2)`, `openat(2)`: flags of arm64 (`arch/arm64/include/uapi/asm/fcntl.h` over asm-generic).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! consts {
    ($($(#[doc = $doc:literal])* $name:ident: $ty:ty = $value:expr;)*) => {
        $(#[doc = concat!("`", stringify!($name), "`")] $(#[doc = $doc])* pub const $name: $ty = $value;)*
    };
}
pub(crate) use consts;

consts! {
    O_ACCMODE: u32 = 0o3;
    O_RDONLY: u32 = 0;
    O_WRONLY: u32 = 1;
    O_RDWR: u32 = 2;
    O_CREAT: u32 = 0o100;
    O_EXCL: u32 = 0o200;
    O_NOCTTY: u32 = 0o400;
    O_TRUNC: u32 = 0o1000;
    O_APPEND: u32 = 0o2000;
    O_NONBLOCK: u32 = 0o4000;
    O_DSYNC: u32 = 0o10000;
    FASYNC: u32 = 0o20000;
    O_DIRECTORY: u32 = 0o40000;
    O_NOFOLLOW: u32 = 0o100000;
    O_DIRECT: u32 = 0o200000;
    O_LARGEFILE: u32 = 0o400000;
    O_NOATIME: u32 = 0o1000000;
    O_CLOEXEC: u32 = 0o2000000;
    O_SYNC: u32 = 0o4010000;
    O_PATH: u32 = 0o10000000;
    O_TMPFILE: u32 = 0o20000000 | O_DIRECTORY;
    AT_FDCWD: i32 = -100;
    AT_SYMLINK_NOFOLLOW: u32 = 0x100;
    AT_EACCESS: u32 = 0x200;
    AT_REMOVEDIR: u32 = 0x200;
    AT_SYMLINK_FOLLOW: u32 = 0x400;
    AT_NO_AUTOMOUNT: u32 = 0x800;
    AT_EMPTY_PATH: u32 = 0x1000;
    AT_STATX_SYNC_TYPE: u32 = 0x6000;
    AT_STATX_FORCE_SYNC: u32 = 0x2000;
    AT_STATX_DONT_SYNC: u32 = 0x4000;
    AT_RECURSIVE: u32 = 0x8000;
    F_DUPFD: u32 = 0;
    F_GETFD: u32 = 1;
    F_SETFD: u32 = 2;
    F_GETFL: u32 = 3;
    F_SETFL: u32 = 4;
    F_GETLK: u32 = 5;
    F_SETLK: u32 = 6;
    F_SETLKW: u32 = 7;
    F_SETOWN: u32 = 8;
    F_GETOWN: u32 = 9;
    F_SETSIG: u32 = 10;
    F_GETSIG: u32 = 11;
    F_SETOWN_EX: u32 = 15;
    F_GETOWN_EX: u32 = 16;
    F_OFD_GETLK: u32 = 36;
    F_OFD_SETLK: u32 = 37;
    F_OFD_SETLKW: u32 = 38;
    F_SETLEASE: u32 = 1024;
    F_GETLEASE: u32 = 1025;
    F_NOTIFY: u32 = 1026;
    F_DUPFD_CLOEXEC: u32 = 1030;
    F_SETPIPE_SZ: u32 = 1031;
    F_GETPIPE_SZ: u32 = 1032;
    F_ADD_SEALS: u32 = 1033;
    F_GET_SEALS: u32 = 1034;
    F_SEAL_SEAL: u32 = 1;
    F_SEAL_SHRINK: u32 = 2;
    F_SEAL_GROW: u32 = 4;
    F_SEAL_WRITE: u32 = 8;
    F_SEAL_FUTURE_WRITE: u32 = 16;
    F_SEAL_EXEC: u32 = 32;
    FD_CLOEXEC: u32 = 1;
    F_RDLCK: i16 = 0;
    F_WRLCK: i16 = 1;
    F_UNLCK: i16 = 2;
    SEEK_SET: u32 = 0;
    SEEK_CUR: u32 = 1;
    SEEK_END: u32 = 2;
    SEEK_DATA: u32 = 3;
    SEEK_HOLE: u32 = 4;
    LOCK_SH: u32 = 1;
    LOCK_EX: u32 = 2;
    LOCK_NB: u32 = 4;
    LOCK_UN: u32 = 8;
    RENAME_NOREPLACE: u32 = 1;
    RENAME_EXCHANGE: u32 = 2;
    RENAME_WHITEOUT: u32 = 4;
    CLOSE_RANGE_UNSHARE: u32 = 2;
    CLOSE_RANGE_CLOEXEC: u32 = 4;
    F_OK: u32 = 0;
    X_OK: u32 = 1;
    W_OK: u32 = 2;
    R_OK: u32 = 4;
    SPLICE_F_MOVE: u32 = 1;
    SPLICE_F_NONBLOCK: u32 = 2;
    SPLICE_F_MORE: u32 = 4;
    SPLICE_F_GIFT: u32 = 8;
    RWF_HIPRI: u32 = 1;
    RWF_DSYNC: u32 = 2;
    RWF_SYNC: u32 = 4;
    RWF_NOWAIT: u32 = 8;
    RWF_APPEND: u32 = 16;
    FALLOC_FL_KEEP_SIZE: u32 = 1;
    FALLOC_FL_PUNCH_HOLE: u32 = 2;
    MFD_CLOEXEC: u32 = 1;
    MFD_ALLOW_SEALING: u32 = 2;
    MFD_NOEXEC_SEAL: u32 = 8;
    MFD_EXEC: u32 = 16;
}

/// `struct flock`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flock {
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub l_type: i16,
    /// SEEK_*.
    pub l_whence: i16,
    /// Padding.
    pub _pad: u32,
    /// Start, relative to `l_whence`.
    pub l_start: i64,
    /// Bytes; 0: to the end.
    pub l_len: i64,
    /// Holder.
    pub l_pid: i32,
    /// Padding.
    pub _pad2: u32,
}
