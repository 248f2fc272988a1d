//! Who may do what with an inode: path_resolution(7) "Permissions", capabilities(7), Linux `generic_permission`.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::capability::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID};
use abi::stat::{S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_ISGID, S_ISVTX};

use super::dentry::Dentry;
use super::inode::Inode;
use crate::Result;
use crate::task::Creds;

/// Permission to read.
pub const MAY_READ: u32 = 4;
/// Permission to write.
pub const MAY_WRITE: u32 = 2;
/// Permission to execute or search.
pub const MAY_EXEC: u32 = 1;

/// Checks access: `EROFS` for writing to a read-only file system, else `EACCES`.
pub fn check(inode: &Inode, creds: &Creds, mask: u32) -> Result<()> {
    if mask & MAY_WRITE != 0 && inode.sb.is_read_only() && matches!(inode.kind(), S_IFREG | S_IFDIR | S_IFLNK) {
        return Err(Errno::EROFS);
    }
    match inode.ops().permission(inode, creds, mask) {
        Some(verdict) => verdict,
        None => generic(inode, creds, mask),
    }
}

/// Search permission on a directory, the check of each step of a path.
#[inline]
pub fn check_search(inode: &Inode, creds: &Creds) -> Result<()> {
    // Everybody may search: no need to know who asks (and a group with fewer rights is rare).
    if inode.mode() & 0o111 == 0o111 && inode.mode() & 0o170_000 == S_IFDIR {
        if let Some(verdict) = inode.ops().permission(inode, creds, MAY_EXEC) {
            return verdict;
        }
        return Ok(());
    }
    check(inode, creds, MAY_EXEC)
}

/// Access by mode bits and capabilities.
pub fn generic(inode: &Inode, creds: &Creds, mask: u32) -> Result<()> {
    let mode = inode.mode();
    let granted = if creds.fsuid == inode.uid() {
        mode >> 6
    } else if creds.in_group(inode.gid()) {
        mode >> 3
    } else {
        mode
    };
    if mask & !granted & 7 == 0 {
        return Ok(());
    }
    let capable = |capability| capable_over(inode, creds, capability);
    let overridden = if inode.is_dir() {
        mask & MAY_WRITE == 0 && capable(CAP_DAC_READ_SEARCH) || capable(CAP_DAC_OVERRIDE)
    } else {
        let execution_possible = mask & MAY_EXEC == 0 || mode & 0o111 != 0;
        mask == MAY_READ && capable(CAP_DAC_READ_SEARCH) || execution_possible && capable(CAP_DAC_OVERRIDE)
    };
    if overridden { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether `creds` own the inode or may act as if (Linux `inode_owner_or_capable`).
pub fn owner_or_capable(inode: &Inode, creds: &Creds) -> bool {
    creds.fsuid == inode.uid() || creds.own_capable(CAP_FOWNER) && creds.user_ns.uid(inode.uid()).is_some()
}

/// Whether a capability counts for a file: its owners have numbers in the user namespace of `creds`.
#[inline]
pub fn capable_over(inode: &Inode, creds: &Creds, capability: u32) -> bool {
    creds.capable_over(inode.uid(), inode.gid(), capability)
}

/// Whether a name may be created in `dir`: `ENOENT` in a removed directory, `EACCES`, `EROFS`.
pub fn may_create(dir: &Dentry, creds: &Creds) -> Result<()> {
    if dir.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    check(dir.inode(), creds, MAY_WRITE | MAY_EXEC)
}

/// What is to be removed must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// A directory, else `ENOTDIR`.
    Directory,
    /// Anything else, else `EISDIR`.
    NotDirectory,
    /// Either, for exchanges.
    Any,
}

hal::global! {
    /// `/proc/sys/fs/protected_symlinks`.
    pub static PROTECTED_SYMLINKS: AtomicU32 = AtomicU32::new(1);
    /// `/proc/sys/fs/protected_hardlinks`.
    pub static PROTECTED_HARDLINKS: AtomicU32 = AtomicU32::new(1);
    /// `/proc/sys/fs/protected_fifos`.
    pub static PROTECTED_FIFOS: AtomicU32 = AtomicU32::new(0);
    /// `/proc/sys/fs/protected_regular`.
    pub static PROTECTED_REGULAR: AtomicU32 = AtomicU32::new(0);
}

/// Whether the link at the end of a path may be followed (Linux `may_follow_link`): not somebody else's in a sticky
/// directory that everybody may write, which is where traps are laid.
pub fn may_follow(dir: &Inode, link: &Inode, creds: &Creds) -> Result<()> {
    const TRAP: u32 = S_ISVTX | 0o2;
    let safe = PROTECTED_SYMLINKS.load(Ordering::Relaxed) == 0
        || creds.fsuid == link.uid()
        || dir.mode() & TRAP != TRAP
        || dir.uid() == link.uid();
    if safe { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether open(2) with O_CREAT may open what is there already (Linux `may_create_in_sticky`): not somebody else's FIFO or
/// file in a sticky directory, if the settings say so.
pub fn may_create_in_sticky(dir: &Inode, found: &Inode, creds: &Creds) -> Result<()> {
    let level = match found.kind() {
        S_IFIFO => PROTECTED_FIFOS.load(Ordering::Relaxed),
        S_IFREG => PROTECTED_REGULAR.load(Ordering::Relaxed),
        _ => 0,
    };
    let mode = dir.mode();
    let is_own = found.uid() == dir.uid() || found.uid() == creds.fsuid;
    if level == 0 || mode & S_ISVTX == 0 || is_own {
        return Ok(());
    }
    if mode & 0o2 != 0 || mode & 0o20 != 0 && level >= 2 { Err(Errno::EACCES) } else { Ok(()) }
}

/// Whether `victim`'s name may be taken out of `dir` (Linux `may_delete`): `EACCES`, `EPERM` by the sticky bit.
pub fn may_delete(dir: &Inode, victim: &Inode, creds: &Creds, expected: Victim) -> Result<()> {
    check(dir, creds, MAY_WRITE | MAY_EXEC)?;
    let sticky = dir.mode() & S_ISVTX != 0;
    if sticky && creds.fsuid != victim.uid() && creds.fsuid != dir.uid() && !capable_over(victim, creds, CAP_FOWNER) {
        return Err(Errno::EPERM);
    }
    match expected {
        Victim::Directory if !victim.is_dir() => Err(Errno::ENOTDIR),
        Victim::NotDirectory if victim.is_dir() => Err(Errno::EISDIR),
        _ => Ok(()),
    }
}

/// Group and mode of a new inode in `dir` (Linux `inode_init_owner`): a set-group-ID directory passes its group on, and
/// its set-group-ID bit to directories; a non-member does not get the bit on a file that a group may execute.
pub fn inherit(dir: &Inode, creds: &Creds, mode: u32) -> (u32, u32) {
    if dir.mode() & S_ISGID == 0 {
        return (creds.fsgid, mode);
    }
    let gid = dir.gid();
    if mode & 0o170_000 == S_IFDIR {
        return (gid, mode | S_ISGID);
    }
    let foreign = !creds.in_group(gid) && !capable_over(dir, creds, CAP_FSETID);
    let strip = mode & (S_ISGID | 0o10) == S_ISGID | 0o10 && foreign;
    (gid, if strip { mode & !S_ISGID } else { mode })
}
