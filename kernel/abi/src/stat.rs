//! `stat(2)`, `statx(2)`, `statfs(2)`: modes and layouts of arm64.

use crate::fcntl::consts;
use crate::time::Timespec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    S_IFMT: u32 = 0o170000;
    S_IFSOCK: u32 = 0o140000;
    S_IFLNK: u32 = 0o120000;
    S_IFREG: u32 = 0o100000;
    S_IFBLK: u32 = 0o060000;
    S_IFDIR: u32 = 0o040000;
    S_IFCHR: u32 = 0o020000;
    S_IFIFO: u32 = 0o010000;
    S_ISUID: u32 = 0o4000;
    S_ISGID: u32 = 0o2000;
    S_ISVTX: u32 = 0o1000;
    STATX_TYPE: u32 = 1;
    STATX_MODE: u32 = 2;
    STATX_NLINK: u32 = 0x4;
    STATX_UID: u32 = 0x8;
    STATX_GID: u32 = 0x10;
    STATX_ATIME: u32 = 0x20;
    STATX_MTIME: u32 = 0x40;
    STATX_CTIME: u32 = 0x80;
    STATX_INO: u32 = 0x100;
    STATX_SIZE: u32 = 0x200;
    STATX_BLOCKS: u32 = 0x400;
    STATX_BASIC_STATS: u32 = 0x7ff;
    STATX_BTIME: u32 = 0x800;
    STATX_MNT_ID: u32 = 0x1000;
    STATX_DIOALIGN: u32 = 0x2000;
    STATX__RESERVED: u32 = 0x8000_0000;
    STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
    UTIME_NOW: i64 = 0x3fff_ffff;
    UTIME_OMIT: i64 = 0x3fff_fffe;
    DT_UNKNOWN: u8 = 0;
    DT_FIFO: u8 = 1;
    DT_CHR: u8 = 2;
    DT_DIR: u8 = 4;
    DT_BLK: u8 = 6;
    DT_REG: u8 = 8;
    DT_LNK: u8 = 10;
    DT_SOCK: u8 = 12;
    TMPFS_MAGIC: u64 = 0x0102_1994;
    RAMFS_MAGIC: u64 = 0x8584_58f6;
    PROC_SUPER_MAGIC: u64 = 0x9fa0;
    SYSFS_MAGIC: u64 = 0x6265_6572;
    DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
    PIPEFS_MAGIC: u64 = 0x5049_5045;
    SOCKFS_MAGIC: u64 = 0x534f_434b;
    NSFS_MAGIC: u64 = 0x6e73_6673;
    CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    EXT4_SUPER_MAGIC: u64 = 0xef53;
    MSDOS_SUPER_MAGIC: u64 = 0x4d44;
    OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
    ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;
    ST_RDONLY: u64 = 1;
    ST_NOSUID: u64 = 2;
    ST_NODEV: u64 = 4;
    ST_NOEXEC: u64 = 8;
    ST_VALID: u64 = 0x20;
    ST_NOATIME: u64 = 0x400;
    ST_NODIRATIME: u64 = 0x800;
    ST_RELATIME: u64 = 0x1000;
}

/// `struct stat` of arm64, 128 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stat {
    /// Device.
    pub st_dev: u64,
    /// Inode number.
    pub st_ino: u64,
    /// Type and permissions.
    pub st_mode: u32,
    /// Hard links.
    pub st_nlink: u32,
    /// Owner.
    pub st_uid: u32,
    /// Group.
    pub st_gid: u32,
    /// Device number of a device node.
    pub st_rdev: u64,
    /// Padding.
    pub _pad1: u64,
    /// Bytes.
    pub st_size: i64,
    /// Preferred I/O size.
    pub st_blksize: i32,
    /// Padding.
    pub _pad2: i32,
    /// 512-byte units in use.
    pub st_blocks: i64,
    /// Last access.
    pub st_atim: Timespec,
    /// Last change of content.
    pub st_mtim: Timespec,
    /// Last change of the inode.
    pub st_ctim: Timespec,
    /// Unused.
    pub _unused: [u32; 2],
}

/// `struct statx_timestamp`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxTimestamp {
    /// Seconds.
    pub tv_sec: i64,
    /// Nanoseconds.
    pub tv_nsec: u32,
    /// Padding.
    pub _pad: i32,
}

/// `struct statx`, 256 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statx {
    /// Which fields are filled.
    pub stx_mask: u32,
    /// Preferred I/O size.
    pub stx_blksize: u32,
    /// STATX_ATTR_* bits.
    pub stx_attributes: u64,
    /// Hard links.
    pub stx_nlink: u32,
    /// Owner.
    pub stx_uid: u32,
    /// Group.
    pub stx_gid: u32,
    /// Type and permissions.
    pub stx_mode: u16,
    /// Padding.
    pub _pad0: u16,
    /// Inode number.
    pub stx_ino: u64,
    /// Bytes.
    pub stx_size: u64,
    /// 512-byte units in use.
    pub stx_blocks: u64,
    /// Which attributes are supported.
    pub stx_attributes_mask: u64,
    /// Last access.
    pub stx_atime: StatxTimestamp,
    /// Creation.
    pub stx_btime: StatxTimestamp,
    /// Last change of the inode.
    pub stx_ctime: StatxTimestamp,
    /// Last change of content.
    pub stx_mtime: StatxTimestamp,
    /// Device node, major.
    pub stx_rdev_major: u32,
    /// Device node, minor.
    pub stx_rdev_minor: u32,
    /// Device, major.
    pub stx_dev_major: u32,
    /// Device, minor.
    pub stx_dev_minor: u32,
    /// Mount id.
    pub stx_mnt_id: u64,
    /// Direct I/O alignments and spare words.
    pub _spare: [u64; 13],
}

/// `struct statfs`, 120 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statfs {
    /// File system type.
    pub f_type: u64,
    /// Block size.
    pub f_bsize: u64,
    /// Blocks.
    pub f_blocks: u64,
    /// Free blocks.
    pub f_bfree: u64,
    /// Free blocks for users.
    pub f_bavail: u64,
    /// Inodes.
    pub f_files: u64,
    /// Free inodes.
    pub f_ffree: u64,
    /// File system id.
    pub f_fsid: [u32; 2],
    /// Longest name.
    pub f_namelen: u64,
    /// Fragment size.
    pub f_frsize: u64,
    /// ST_* flags.
    pub f_flags: u64,
    /// Spare.
    pub f_spare: [u64; 4],
}

/// `struct linux_dirent64` without its name, 19 bytes; the name and its NUL follow, padded to 8.
pub const DIRENT64_HEADER: usize = 19;

/// The `d_type` of a mode (`DT_*`).
pub const fn dirent_type(mode: u32) -> u8 {
    ((mode & S_IFMT) >> 12) as u8
}

/// A device number as `st_rdev` carries it (glibc `makedev`, Linux `new_encode_dev`).
pub const fn makedev(major: u32, minor: u32) -> u64 {
    ((minor & 0xff) | major << 8 | (minor & !0xff) << 12) as u64
}

/// Major and minor of what [`makedev`] made.
pub const fn split_encoded_dev(dev: u64) -> (u32, u32) {
    split_dev(dev as u32)
}

/// Major and minor of a `mknod` argument.
pub const fn split_dev(dev: u32) -> (u32, u32) {
    ((dev & 0xfff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xfff00))
}

#[cfg(test)]
mod tests {
    use super::{Stat, Statfs, Statx};

    #[test]
    fn layouts_have_linux_sizes() {
        assert_eq!((size_of::<Stat>(), size_of::<Statx>(), size_of::<Statfs>()), (128, 256, 120));
    }
}
