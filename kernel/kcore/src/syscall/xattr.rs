//! Extended attributes by path, by link and by descriptor: setxattr(2), getxattr(2), listxattr(2), removexattr(2).

use alloc::vec::Vec;

use abi::Errno;
use abi::fcntl::AT_FDCWD;

use super::path::find;
use super::{Context, UserStr};
use crate::Result;
use crate::fs::mount::Path;
use crate::fs::namei::Last;
use crate::fs::notify;
use crate::fs::xattr::{self, Existing, MAX_LIST, MAX_NAME, MAX_VALUE};

fn by_path(cx: &Context<'_>, path: UserStr, last: Last) -> Result<Path> {
    find(cx, AT_FDCWD, path, 0, last, &cx.task.creds())
}

fn by_descriptor(cx: &Context<'_>, fd: i32) -> Result<Path> {
    Ok(cx.task.files().get(fd)?.path.clone())
}

/// A name: empty or too long ones are `ERANGE`.
fn read_name(name: UserStr) -> Result<Vec<u8>> {
    let name = name.read(MAX_NAME, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

fn set(cx: &Context<'_>, place: &Path, name: UserStr, value: u64, size: usize, flags: u32) -> Result<usize> {
    const XATTR_CREATE: u32 = 1;
    const XATTR_REPLACE: u32 = 2;
    place.mount.want_write()?;
    let existing = match flags {
        0 => Existing::Any,
        XATTR_CREATE => Existing::Absent,
        XATTR_REPLACE => Existing::Present,
        // Both: absent and present at once (Linux answers by what it finds first).
        3 if xattr::get(place.dentry.inode(), &cx.task.creds(), &read_name(name)?).is_ok() => {
            return Err(Errno::EEXIST);
        }
        3 => Existing::Present,
        _ => return Err(Errno::EINVAL),
    };
    let name = read_name(name)?;
    if size > MAX_VALUE {
        return Err(Errno::E2BIG);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(size, 0);
    hal::uaccess::copy_from_user(&mut bytes, value).map_err(|_| Errno::EFAULT)?;
    xattr::set(place.dentry.inode(), &cx.task.creds(), &name, &bytes, existing)?;
    notify::xattrs_changed(&place.dentry);
    Ok(0)
}

/// Copies `bytes` out; size 0 asks for the length, a size that is too small is `ERANGE`.
fn hand_out(bytes: &[u8], to: u64, size: usize) -> Result<usize> {
    if size == 0 {
        return Ok(bytes.len());
    }
    if size < bytes.len() {
        return Err(Errno::ERANGE);
    }
    hal::uaccess::copy_to_user(to, bytes).map_err(|_| Errno::EFAULT)?;
    Ok(bytes.len())
}

fn get(cx: &Context<'_>, place: &Path, name: UserStr, value: u64, size: usize) -> Result<usize> {
    let name = read_name(name)?;
    let found = xattr::get(place.dentry.inode(), &cx.task.creds(), &name)?;
    hand_out(&found, value, size.min(MAX_VALUE))
}

fn list(cx: &Context<'_>, place: &Path, list: u64, size: usize) -> Result<usize> {
    let names = xattr::list(place.dentry.inode(), &cx.task.creds());
    // No buffer can be large enough for more (listxattr(2) E2BIG).
    if names.len() > MAX_LIST {
        return Err(Errno::E2BIG);
    }
    hand_out(&names, list, size)
}

fn remove(cx: &Context<'_>, place: &Path, name: UserStr) -> Result<usize> {
    place.mount.want_write()?;
    let name = read_name(name)?;
    xattr::remove(place.dentry.inode(), &cx.task.creds(), &name)?;
    notify::xattrs_changed(&place.dentry);
    Ok(0)
}

/// setxattr(2).
pub fn setxattr(
    cx: &mut Context<'_>,
    path: UserStr,
    name: UserStr,
    value: u64,
    size: usize,
    flags: u32,
) -> Result<usize> {
    set(cx, &by_path(cx, path, Last::Follow)?, name, value, size, flags)
}

/// lsetxattr(2).
pub fn lsetxattr(
    cx: &mut Context<'_>,
    path: UserStr,
    name: UserStr,
    value: u64,
    size: usize,
    flags: u32,
) -> Result<usize> {
    set(cx, &by_path(cx, path, Last::NoFollow)?, name, value, size, flags)
}

/// fsetxattr(2).
pub fn fsetxattr(cx: &mut Context<'_>, fd: i32, name: UserStr, value: u64, size: usize, flags: u32) -> Result<usize> {
    set(cx, &by_descriptor(cx, fd)?, name, value, size, flags)
}

/// getxattr(2).
pub fn getxattr(cx: &mut Context<'_>, path: UserStr, name: UserStr, value: u64, size: usize) -> Result<usize> {
    get(cx, &by_path(cx, path, Last::Follow)?, name, value, size)
}

/// lgetxattr(2).
pub fn lgetxattr(cx: &mut Context<'_>, path: UserStr, name: UserStr, value: u64, size: usize) -> Result<usize> {
    get(cx, &by_path(cx, path, Last::NoFollow)?, name, value, size)
}

/// fgetxattr(2).
pub fn fgetxattr(cx: &mut Context<'_>, fd: i32, name: UserStr, value: u64, size: usize) -> Result<usize> {
    get(cx, &by_descriptor(cx, fd)?, name, value, size)
}

/// listxattr(2).
pub fn listxattr(cx: &mut Context<'_>, path: UserStr, names: u64, size: usize) -> Result<usize> {
    list(cx, &by_path(cx, path, Last::Follow)?, names, size)
}

/// llistxattr(2).
pub fn llistxattr(cx: &mut Context<'_>, path: UserStr, names: u64, size: usize) -> Result<usize> {
    list(cx, &by_path(cx, path, Last::NoFollow)?, names, size)
}

/// flistxattr(2).
pub fn flistxattr(cx: &mut Context<'_>, fd: i32, names: u64, size: usize) -> Result<usize> {
    list(cx, &by_descriptor(cx, fd)?, names, size)
}

/// removexattr(2).
pub fn removexattr(cx: &mut Context<'_>, path: UserStr, name: UserStr) -> Result<usize> {
    remove(cx, &by_path(cx, path, Last::Follow)?, name)
}

/// lremovexattr(2).
pub fn lremovexattr(cx: &mut Context<'_>, path: UserStr, name: UserStr) -> Result<usize> {
    remove(cx, &by_path(cx, path, Last::NoFollow)?, name)
}

/// fremovexattr(2).
pub fn fremovexattr(cx: &mut Context<'_>, fd: i32, name: UserStr) -> Result<usize> {
    remove(cx, &by_descriptor(cx, fd)?, name)
}
