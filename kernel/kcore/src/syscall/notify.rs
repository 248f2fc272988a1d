//! Watching the file system: inotify(7).

use abi::Errno;
use abi::notify as n;
use abi::resource::RLIMIT_NOFILE;

use super::path::walk_context;
use super::{Context, UserStr};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::namei::{Last, lookup};
use crate::fs::notify::inotify::{self, ALL_BITS, InotifyFile};
use crate::fs::permission::{self, MAY_READ};

/// inotify_init1(2).
pub fn inotify_init1(cx: &mut Context<'_>, flags: u32) -> Result<usize> {
    if flags & !(n::IN_CLOEXEC | n::IN_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = inotify::new_file(cx.creds().uid, flags & n::IN_NONBLOCK)?;
    let fd = cx.files().add(file, 0, cx.task.rlimit(RLIMIT_NOFILE), OnExec::from_flags(flags))?;
    usize::try_from(fd).map_err(|_| Errno::EMFILE)
}

/// inotify_add_watch(2).
pub fn inotify_add_watch(cx: &mut Context<'_>, fd: i32, path: UserStr, mask: u32) -> Result<usize> {
    if mask & !ALL_BITS != 0 || mask == 0 {
        return Err(Errno::EINVAL);
    }
    let file = cx.files().get(fd)?;
    if mask & n::IN_MASK_ADD != 0 && mask & n::IN_MASK_CREATE != 0 {
        return Err(Errno::EINVAL);
    }
    let instance = file.ops_as::<InotifyFile>().ok_or(Errno::EINVAL)?;
    let creds = cx.creds();
    let last = if mask & n::IN_DONT_FOLLOW != 0 { Last::NoFollow } else { Last::Follow };
    let place = path.with_path(|path| lookup(walk_context(cx, abi::fcntl::AT_FDCWD, path, &creds)?, path, last))?;
    let inode = place.dentry.inode();
    if mask & n::IN_ONLYDIR != 0 && !inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    permission::check(inode, &creds, MAY_READ)?;
    let wd = instance.add(inode, mask)?;
    usize::try_from(wd).map_err(|_| Errno::EINVAL)
}

/// inotify_rm_watch(2).
pub fn inotify_rm_watch(cx: &mut Context<'_>, fd: i32, wd: i32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    file.ops_as::<InotifyFile>().ok_or(Errno::EINVAL)?.remove(wd)?;
    Ok(0)
}
