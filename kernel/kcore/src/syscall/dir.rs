//! Names: mkdirat(2), mknodat(2), symlinkat(2), linkat(2), unlinkat(2), renameat2(2), getdents64(2).

use alloc::vec::Vec;

use abi::Errno;
use abi::capability::{CAP_DAC_READ_SEARCH, CAP_MKNOD};
use abi::fcntl as f;
use abi::stat as s;
use abi::stat::DIRENT64_HEADER;

use super::path::{place_of, walk_context};
use super::{Context, UserStr};
use crate::Result;
use crate::fs::create::{self, Node};
use crate::fs::file::DirSink;
use crate::fs::namei::{Last, lookup};
use crate::fs::notify;

fn make(cx: &Context<'_>, dirfd: i32, path: UserStr, node: &Node<'_>) -> Result<usize> {
    let creds = cx.creds();
    path.with_path(|path| create::make(walk_context(cx, dirfd, path, &creds)?, path, node))?;
    Ok(0)
}

/// mkdirat(2).
pub fn mkdirat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, mode: u32) -> Result<usize> {
    // mkdir(2): mode & ~umask & 01777.
    let mode = s::S_IFDIR | mode & 0o1777 & !cx.fs().umask();
    make(cx, dirfd, path, &Node { mode, rdev: 0, target: b"" })
}

/// mknodat(2).
pub fn mknodat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, mode: u32, device: u32) -> Result<usize> {
    let kind = match mode & s::S_IFMT {
        0 => s::S_IFREG,
        s::S_IFDIR => return Err(Errno::EPERM),
        kind @ (s::S_IFREG | s::S_IFIFO | s::S_IFSOCK | s::S_IFCHR | s::S_IFBLK) => kind,
        _ => return Err(Errno::EINVAL),
    };
    let is_device = matches!(kind, s::S_IFCHR | s::S_IFBLK);
    if is_device && !cx.task.capable(CAP_MKNOD) {
        // A name that exists is reported first (Linux asks in vfs_mknod, after the lookup).
        let creds = cx.creds();
        let exists = path.with_path(|path| lookup(walk_context(cx, dirfd, path, &creds)?, path, Last::NoFollow));
        return match exists {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => Err(Errno::EPERM),
            Err(error) => Err(error),
        };
    }
    let mode = kind | mode & 0o7777 & !cx.fs().umask();
    let rdev = if is_device { u64::from(device) } else { 0 };
    make(cx, dirfd, path, &Node { mode, rdev, target: b"" })
}

/// symlinkat(2).
pub fn symlinkat(cx: &mut Context<'_>, target: UserStr, dirfd: i32, path: UserStr) -> Result<usize> {
    let target = target.read_path()?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    make(cx, dirfd, path, &Node { mode: s::S_IFLNK | 0o777, rdev: 0, target: &target })
}

/// linkat(2).
pub fn linkat(
    cx: &mut Context<'_>,
    old_dirfd: i32,
    old_path: UserStr,
    new_dirfd: i32,
    new_path: UserStr,
    flags: u32,
) -> Result<usize> {
    if flags & !(f::AT_SYMLINK_FOLLOW | f::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let creds = cx.creds();
    let last = if flags & f::AT_SYMLINK_FOLLOW != 0 { Last::Follow } else { Last::NoFollow };
    let old = old_path.with_path(|path| {
        if path.is_empty() && flags & f::AT_EMPTY_PATH != 0 {
            // linkat(2): AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH, and says ENOENT without.
            return if creds.capable(CAP_DAC_READ_SEARCH) { place_of(cx, old_dirfd) } else { Err(Errno::ENOENT) };
        }
        lookup(walk_context(cx, old_dirfd, path, &creds)?, path, last)
    })?;
    new_path.with_path(|path| create::link(&old, walk_context(cx, new_dirfd, path, &creds)?, path))?;
    Ok(0)
}

/// unlinkat(2).
pub fn unlinkat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, flags: u32) -> Result<usize> {
    if flags & !f::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let creds = cx.creds();
    path.with_path(|path| {
        let context = walk_context(cx, dirfd, path, &creds)?;
        if flags & f::AT_REMOVEDIR != 0 { create::rmdir(context, path) } else { create::unlink(context, path) }
    })?;
    Ok(0)
}

/// renameat2(2).
pub fn renameat2(
    cx: &mut Context<'_>,
    old_dirfd: i32,
    old_path: UserStr,
    new_dirfd: i32,
    new_path: UserStr,
    flags: u32,
) -> Result<usize> {
    let creds = cx.creds();
    old_path.with_path(|old| {
        let old_context = walk_context(cx, old_dirfd, old, &creds)?;
        new_path.with_path(|new| {
            let new_context = walk_context(cx, new_dirfd, new, &creds)?;
            create::rename(old_context.clone(), old, new_context, new, flags)
        })
    })?;
    Ok(0)
}

/// renameat(2).
pub fn renameat(
    cx: &mut Context<'_>,
    old_dirfd: i32,
    old_path: UserStr,
    new_dirfd: i32,
    new_path: UserStr,
) -> Result<usize> {
    renameat2(cx, old_dirfd, old_path, new_dirfd, new_path, 0)
}

/// Collects `struct linux_dirent64`s.
struct Dirents {
    /// Zeros from `used` on.
    bytes: Vec<u8>,
    used: usize,
    limit: usize,
    /// An entry did not fit, or there was no memory for it.
    full: bool,
}

impl DirSink for Dirents {
    fn emit(&mut self, name: &[u8], ino: u64, kind: u8, next: u64) -> bool {
        let length = (DIRENT64_HEADER + name.len() + 1).next_multiple_of(8);
        let end = self.used + length;
        if end > self.limit || end > self.bytes.len() && !self.grow(end) {
            self.full = true;
            return false;
        }
        let Some((header, tail)) =
            self.bytes.get_mut(self.used..end).and_then(|record| record.split_first_chunk_mut::<DIRENT64_HEADER>())
        else {
            return false;
        };
        header[..8].copy_from_slice(&ino.to_le_bytes());
        header[8..16].copy_from_slice(&next.to_le_bytes());
        // A record is at most 280 bytes.
        header[16..18].copy_from_slice(&(length as u16).to_le_bytes());
        header[18] = kind;
        for (place, byte) in tail.iter_mut().zip(name) {
            *place = *byte;
        }
        self.used = end;
        true
    }
}

impl Dirents {
    /// Makes room up to `end`, and for as much again.
    #[cold]
    fn grow(&mut self, end: usize) -> bool {
        let size = (end * 2).min(self.limit);
        if self.bytes.try_reserve_exact(size - self.bytes.len()).is_err() {
            return false;
        }
        self.bytes.resize(size, 0);
        true
    }
}

/// getdents64(2). `EINVAL` when not even one entry fits.
pub fn getdents64(cx: &mut Context<'_>, fd: i32, buffer: u64, count: u32) -> Result<usize> {
    const MOST: usize = 64 << 10;
    let file = cx.files().get(fd)?;
    if !file.inode().is_dir() {
        return Err(Errno::ENOTDIR);
    }
    if file.path.dentry.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    let limit = (count as usize).min(MOST);
    let mut sink = Dirents { bytes: Vec::new(), used: 0, limit, full: false };
    // Most directories fit. Where there is no memory, `emit` finds out.
    sink.grow(limit.min(512));
    let mut offset = file.lock_offset();
    let mut next = *offset;
    file.ops().iterate(&file, &mut sink, &mut next)?;
    notify::listed(&file);
    if sink.used == 0 && sink.full {
        return Err(Errno::EINVAL);
    }
    hal::uaccess::copy_to_user(buffer, &sink.bytes[..sink.used]).map_err(|_| Errno::EFAULT)?;
    *offset = next;
    Ok(sink.used)
}
