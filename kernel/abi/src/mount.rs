//! `mount(2)`, `umount2(2)`, and the calls that took mount apart: `fsopen(2)`, `move_mount(2)`, `mount_setattr(2)`.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    MS_RDONLY: u64 = 1;
    MS_NOSUID: u64 = 2;
    MS_NODEV: u64 = 4;
    MS_NOEXEC: u64 = 8;
    MS_SYNCHRONOUS: u64 = 16;
    MS_REMOUNT: u64 = 32;
    MS_MANDLOCK: u64 = 64;
    MS_DIRSYNC: u64 = 128;
    MS_NOSYMFOLLOW: u64 = 256;
    MS_NOATIME: u64 = 1024;
    MS_NODIRATIME: u64 = 2048;
    MS_BIND: u64 = 4096;
    MS_MOVE: u64 = 8192;
    MS_REC: u64 = 16384;
    MS_SILENT: u64 = 32768;
    MS_POSIXACL: u64 = 1 << 16;
    MS_UNBINDABLE: u64 = 1 << 17;
    MS_PRIVATE: u64 = 1 << 18;
    MS_SLAVE: u64 = 1 << 19;
    MS_SHARED: u64 = 1 << 20;
    MS_RELATIME: u64 = 1 << 21;
    MS_I_VERSION: u64 = 1 << 23;
    MS_STRICTATIME: u64 = 1 << 24;
    MS_LAZYTIME: u64 = 1 << 25;
    /// What a remount may change.
    MS_RMT_MASK: u64 = MS_RDONLY | MS_SYNCHRONOUS | MS_MANDLOCK | MS_I_VERSION | MS_LAZYTIME;
    /// In the upper half of the flags since before Linux 2.4, and ignored when there.
    MS_MGC_VAL: u64 = 0xc0ed_0000;
    MS_MGC_MSK: u64 = 0xffff_0000;
    MNT_FORCE: u32 = 1;
    MNT_DETACH: u32 = 2;
    MNT_EXPIRE: u32 = 4;
    UMOUNT_NOFOLLOW: u32 = 8;
    OPEN_TREE_CLONE: u32 = 1;
    OPEN_TREE_CLOEXEC: u32 = 0o2000000;
    MOVE_MOUNT_F_SYMLINKS: u32 = 0x1;
    MOVE_MOUNT_F_AUTOMOUNTS: u32 = 0x2;
    MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
    MOVE_MOUNT_T_SYMLINKS: u32 = 0x10;
    MOVE_MOUNT_T_AUTOMOUNTS: u32 = 0x20;
    MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
    MOVE_MOUNT_SET_GROUP: u32 = 0x100;
    FSOPEN_CLOEXEC: u32 = 1;
    FSPICK_CLOEXEC: u32 = 1;
    FSPICK_SYMLINK_NOFOLLOW: u32 = 2;
    FSPICK_NO_AUTOMOUNT: u32 = 4;
    FSPICK_EMPTY_PATH: u32 = 8;
    FSCONFIG_SET_FLAG: u32 = 0;
    FSCONFIG_SET_STRING: u32 = 1;
    FSCONFIG_SET_BINARY: u32 = 2;
    FSCONFIG_SET_PATH: u32 = 3;
    FSCONFIG_SET_PATH_EMPTY: u32 = 4;
    FSCONFIG_SET_FD: u32 = 5;
    FSCONFIG_CMD_CREATE: u32 = 6;
    FSCONFIG_CMD_RECONFIGURE: u32 = 7;
    FSMOUNT_CLOEXEC: u32 = 1;
    MOUNT_ATTR_RDONLY: u64 = 0x1;
    MOUNT_ATTR_NOSUID: u64 = 0x2;
    MOUNT_ATTR_NODEV: u64 = 0x4;
    MOUNT_ATTR_NOEXEC: u64 = 0x8;
    MOUNT_ATTR__ATIME: u64 = 0x70;
    MOUNT_ATTR_RELATIME: u64 = 0;
    MOUNT_ATTR_NOATIME: u64 = 0x10;
    MOUNT_ATTR_STRICTATIME: u64 = 0x20;
    MOUNT_ATTR_NODIRATIME: u64 = 0x80;
    MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;
}

layout! {
    /// `struct mount_attr`, 32 bytes.
    MountAttr { attr_set: u64, attr_clr: u64, propagation: u64, userns_fd: u64, }
}
