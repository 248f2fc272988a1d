//! Attributes by name or descriptor, and where names start: stat(2), statx(2), access(2), chmod(2), chown(2),
//! utimensat(2), truncate(2), statfs(2), readlink(2), chdir(2), chroot(2), getcwd(2), umask(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::capability::{CAP_CHOWN, CAP_FSETID, CAP_SYS_CHROOT};
use abi::fcntl as f;
use abi::stat as s;
use abi::stat::{Stat, Statfs, Statx, StatxTimestamp};
use abi::time::Timespec;

use super::{Context, UserPtr, UserStr};
use crate::Result;
use crate::fs::file::FileMode;
use crate::fs::inode::{Attributes, Inode, SetAttributes};
use crate::fs::mount::{Path, mnt};
use crate::fs::namei::{self, Last, Start, WalkContext, lookup};
use crate::fs::notify;
use crate::fs::permission::{self, MAY_EXEC, MAY_WRITE};
use crate::ns::user::UserNs;
use crate::task::Creds;

/// Where `path` starts: the root, the working directory, or the directory behind `dirfd`. The empty path is `ENOENT`
/// before a bad descriptor is `EBADF`.
pub(super) fn walk_context<'c>(cx: &Context<'_>, dirfd: i32, path: &[u8], creds: &'c Creds) -> Result<WalkContext<'c>> {
    let fs = cx.fs();
    let base = match path.first() {
        None => return Err(Errno::ENOENT),
        Some(b'/') => Start::Root(fs.clone()),
        Some(_) if dirfd == f::AT_FDCWD => Start::WorkingDirectory(fs.clone()),
        Some(_) => cx.files().get_any(dirfd)?.path.clone().into(),
    };
    Ok(WalkContext { root: Start::Root(fs), base, creds, resolve: 0 })
}

/// Walks the path that a call was given. With AT_EMPTY_PATH the empty path is `dirfd` itself.
pub(super) fn find(cx: &Context<'_>, dirfd: i32, path: UserStr, flags: u32, last: Last, creds: &Creds) -> Result<Path> {
    path.with_path(|path| {
        if path.is_empty() && flags & f::AT_EMPTY_PATH != 0 {
            return place_of(cx, dirfd);
        }
        lookup(walk_context(cx, dirfd, path, creds)?, path, last)
    })
}

/// The place that a descriptor refers to, or the working directory.
pub(super) fn place_of(cx: &Context<'_>, fd: i32) -> Result<Path> {
    if fd == f::AT_FDCWD {
        return Ok(cx.fs().cwd());
    }
    Ok(cx.files().get_any(fd)?.path.clone())
}

fn last_of(flags: u32) -> Last {
    if flags & f::AT_SYMLINK_NOFOLLOW != 0 { Last::NoFollow } else { Last::Follow }
}

fn encode(inode: &Inode, a: &Attributes, reader: &UserNs) -> Stat {
    Stat {
        st_dev: inode.sb.dev,
        st_ino: a.ino,
        st_mode: a.mode,
        st_nlink: a.nlink,
        st_uid: reader.shown_uid(a.uid),
        st_gid: reader.shown_gid(a.gid),
        st_rdev: a.rdev,
        st_size: a.size.cast_signed(),
        st_blksize: a.block_size.cast_signed(),
        st_blocks: a.blocks.cast_signed(),
        st_atim: a.times.atime,
        st_mtim: a.times.mtime,
        st_ctim: a.times.ctime,
        ..Stat::default()
    }
}

/// fstat(2).
pub fn fstat(cx: &mut Context<'_>, fd: i32, buffer: UserPtr<Stat>) -> Result<usize> {
    let file = cx.files().get_any(fd)?;
    let inode = file.inode();
    buffer.write(&encode(inode, &inode.ops().getattr(inode)?, &cx.creds().user_ns)).map(|()| 0)
}

/// newfstatat(2).
pub fn newfstatat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, buffer: UserPtr<Stat>, flags: u32) -> Result<usize> {
    const KNOWN: u32 = f::AT_SYMLINK_NOFOLLOW | f::AT_NO_AUTOMOUNT | f::AT_EMPTY_PATH | f::AT_STATX_SYNC_TYPE;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let creds = cx.creds();
    let place = find(cx, dirfd, path, flags, last_of(flags), &creds)?;
    let inode = place.dentry.inode();
    buffer.write(&encode(inode, &inode.ops().getattr(inode)?, &cx.creds().user_ns)).map(|()| 0)
}

fn statx_time(time: &Timespec) -> StatxTimestamp {
    StatxTimestamp { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec as u32, _pad: 0 }
}

/// statx(2).
pub fn statx(
    cx: &mut Context<'_>,
    dirfd: i32,
    path: UserStr,
    flags: u32,
    mask: u32,
    buffer: UserPtr<Statx>,
) -> Result<usize> {
    const KNOWN: u32 = f::AT_SYMLINK_NOFOLLOW | f::AT_NO_AUTOMOUNT | f::AT_EMPTY_PATH | f::AT_STATX_SYNC_TYPE;
    if mask & s::STATX__RESERVED != 0 || flags & f::AT_STATX_SYNC_TYPE == f::AT_STATX_SYNC_TYPE || flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let creds = cx.creds();
    let place = find(cx, dirfd, path, flags, last_of(flags), &creds)?;
    let inode = place.dentry.inode();
    let a = inode.ops().getattr(inode)?;
    let split = |dev: u64| s::split_dev(dev as u32);
    let ((rdev_major, rdev_minor), (dev_major, dev_minor)) = (split(a.rdev), split(inode.sb.dev));
    let is_mount_root = Arc::ptr_eq(&place.dentry, &place.mount.root);
    buffer
        .write(&Statx {
            stx_mask: s::STATX_BASIC_STATS | s::STATX_BTIME | s::STATX_MNT_ID,
            stx_blksize: a.block_size,
            stx_attributes: if is_mount_root { s::STATX_ATTR_MOUNT_ROOT } else { 0 },
            stx_nlink: a.nlink,
            stx_uid: cx.creds().user_ns.shown_uid(a.uid),
            stx_gid: cx.creds().user_ns.shown_gid(a.gid),
            stx_mode: a.mode as u16,
            stx_ino: a.ino,
            stx_size: a.size,
            stx_blocks: a.blocks,
            stx_attributes_mask: s::STATX_ATTR_MOUNT_ROOT,
            stx_atime: statx_time(&a.times.atime),
            stx_btime: statx_time(&a.times.btime),
            stx_ctime: statx_time(&a.times.ctime),
            stx_mtime: statx_time(&a.times.mtime),
            stx_rdev_major: rdev_major,
            stx_rdev_minor: rdev_minor,
            stx_dev_major: dev_major,
            stx_dev_minor: dev_minor,
            stx_mnt_id: u64::from(place.mount.id),
            ..Statx::default()
        })
        .map(|()| 0)
}

/// faccessat(2) of the kernel has no flags.
pub fn faccessat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, mode: u32) -> Result<usize> {
    faccessat2(cx, dirfd, path, mode, 0)
}

/// faccessat2(2): asks with the real ids unless AT_EACCESS.
pub fn faccessat2(cx: &mut Context<'_>, dirfd: i32, path: UserStr, mode: u32, flags: u32) -> Result<usize> {
    let known_flags = f::AT_EACCESS | f::AT_SYMLINK_NOFOLLOW | f::AT_EMPTY_PATH;
    if mode & !(f::R_OK | f::W_OK | f::X_OK) != 0 || flags & !known_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mut creds = cx.task.creds();
    if flags & f::AT_EACCESS == 0 {
        creds = real_creds(creds);
    }
    let place = find(cx, dirfd, path, flags, last_of(flags), &creds)?;
    let inode = place.dentry.inode();
    if mode & f::X_OK != 0 && inode.is_regular() && place.mount.flags() & mnt::NOEXEC != 0 {
        return Err(Errno::EACCES);
    }
    permission::check(inode, &creds, mode)?;
    let special = matches!(inode.kind(), s::S_IFCHR | s::S_IFBLK | s::S_IFIFO | s::S_IFSOCK);
    if mode & f::W_OK != 0 && !special {
        place.mount.want_write()?;
    }
    Ok(0)
}

/// The credentials that access(2) asks with: real ids, and the capabilities that a program of the real user would get
/// (Linux `access_override_creds`).
fn real_creds(creds: Arc<Creds>) -> Arc<Creds> {
    let effective = if creds.uid == 0 { creds.cap_permitted } else { 0 };
    if creds.fsuid == creds.uid && creds.fsgid == creds.gid && creds.cap_effective == effective {
        return creds;
    }
    Arc::new(Creds { fsuid: creds.uid, fsgid: creds.gid, cap_effective: effective, ..(*creds).clone() })
}

fn change(place: &Path, change: &SetAttributes) -> Result<usize> {
    let inode = place.dentry.inode();
    let _lock = inode.lock.lock();
    inode.ops().setattr(inode, change)?;
    notify::attributes_changed(&place.dentry, change);
    Ok(0)
}

fn chmod(place: &Path, mode: u32, creds: &Creds) -> Result<usize> {
    place.mount.want_write()?;
    let inode = place.dentry.inode();
    if inode.is_symlink() {
        return Err(Errno::EOPNOTSUPP);
    }
    if !permission::owner_or_capable(inode, creds) {
        return Err(Errno::EPERM);
    }
    let mut mode = mode & 0o7777;
    // chmod(2): the set-group-ID bit is turned off when the caller is not in the file's group.
    if !creds.in_group(inode.gid()) && !permission::capable_over(inode, creds, CAP_FSETID) {
        mode &= !s::S_ISGID;
    }
    change(place, &SetAttributes { mode: Some(mode), ..SetAttributes::default() })
}

/// fchmod(2).
pub fn fchmod(cx: &mut Context<'_>, fd: i32, mode: u32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    chmod(&file.path, mode, &cx.creds())
}

/// fchmodat(2) of the kernel has no flags.
pub fn fchmodat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, mode: u32) -> Result<usize> {
    fchmodat2(cx, dirfd, path, mode, 0)
}

/// fchmodat2(2).
pub fn fchmodat2(cx: &mut Context<'_>, dirfd: i32, path: UserStr, mode: u32, flags: u32) -> Result<usize> {
    if flags & !(f::AT_SYMLINK_NOFOLLOW | f::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let creds = cx.creds();
    let place = find(cx, dirfd, path, flags, last_of(flags), &creds)?;
    chmod(&place, mode, &creds)
}

fn chown(place: &Path, uid: u32, gid: u32, creds: &Creds) -> Result<usize> {
    place.mount.want_write()?;
    let inode = place.dentry.inode();
    let wanted = |id: u32| (id != u32::MAX).then_some(id);
    // A number without an id in the caller's user namespace is none.
    let uid = wanted(uid).map(|uid| creds.user_ns.kuid(uid).ok_or(Errno::EINVAL)).transpose()?;
    let gid = wanted(gid).map(|gid| creds.user_ns.kgid(gid).ok_or(Errno::EINVAL)).transpose()?;
    let owner = creds.fsuid == inode.uid();
    let uid_allowed = uid.is_none_or(|uid| owner && uid == inode.uid());
    let gid_allowed = gid.is_none_or(|gid| owner && (creds.in_group(gid) || gid == inode.gid()));
    let allowed = uid_allowed && gid_allowed || permission::capable_over(inode, creds, CAP_CHOWN);
    if !allowed {
        return Err(Errno::EPERM);
    }
    let mode = inode.mode();
    let mut gone = 0;
    if !inode.is_dir() {
        gone = mode & s::S_ISUID;
        if mode & (s::S_ISGID | 0o10) == s::S_ISGID | 0o10 {
            gone |= s::S_ISGID;
        }
    }
    let mode = (gone != 0).then_some(mode & 0o7777 & !gone);
    if !inode.is_dir() {
        crate::fs::xattr::drop_capabilities(inode);
    }
    change(place, &SetAttributes { uid, gid, mode, ..SetAttributes::default() })
}

/// fchown(2).
pub fn fchown(cx: &mut Context<'_>, fd: i32, uid: u32, gid: u32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    chown(&file.path, uid, gid, &cx.creds())
}

/// fchownat(2).
pub fn fchownat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, uid: u32, gid: u32, flags: u32) -> Result<usize> {
    if flags & !(f::AT_SYMLINK_NOFOLLOW | f::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let creds = cx.creds();
    let place = find(cx, dirfd, path, flags, last_of(flags), &creds)?;
    chown(&place, uid, gid, &creds)
}

/// utimensat(2). Without a path it is futimens(3) on `dirfd`.
pub fn utimensat(
    cx: &mut Context<'_>,
    dirfd: i32,
    path: UserStr,
    times: UserPtr<[Timespec; 2]>,
    flags: u32,
) -> Result<usize> {
    let times = times.non_null().map(read_times).transpose()?;
    // utimensat(2): with both UTIME_OMIT nothing is done, and the file is not even looked at.
    if times.is_some_and(|times| times.iter().all(|time| time.tv_nsec == s::UTIME_OMIT)) {
        return Ok(0);
    }
    let creds = cx.creds();
    let place = if path.is_null() && dirfd != f::AT_FDCWD {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        cx.files().get(dirfd)?.path.clone()
    } else {
        if flags & !(f::AT_SYMLINK_NOFOLLOW | f::AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        find(cx, dirfd, path, flags, last_of(flags), &creds)?
    };
    set_times(&place, times, &creds)
}

fn read_times(pointer: UserPtr<[Timespec; 2]>) -> Result<[Timespec; 2]> {
    let first: UserPtr<Timespec> = pointer.cast();
    let times = [first.read()?, first.index(1).read()?];
    let valid = |time: &Timespec| {
        matches!(time.tv_nsec, s::UTIME_NOW | s::UTIME_OMIT) || (0..1_000_000_000).contains(&time.tv_nsec)
    };
    if times.iter().all(valid) { Ok(times) } else { Err(Errno::EINVAL) }
}

fn set_times(place: &Path, times: Option<[Timespec; 2]>, creds: &Creds) -> Result<usize> {
    place.mount.want_write()?;
    let inode = place.dentry.inode();
    let now = crate::time::realtime();
    let times = times.unwrap_or([Timespec { tv_sec: 0, tv_nsec: s::UTIME_NOW }; 2]);
    let is_owner = permission::owner_or_capable(inode, creds);
    if !is_owner {
        // Setting both to now needs only write permission.
        if times.iter().any(|time| time.tv_nsec != s::UTIME_NOW) {
            return Err(Errno::EPERM);
        }
        permission::check(inode, creds, MAY_WRITE)?;
    }
    let value = |time: Timespec| match time.tv_nsec {
        s::UTIME_OMIT => None,
        s::UTIME_NOW => Some(now),
        _ => Some(time),
    };
    let [atime, mtime] = times.map(value);
    change(place, &SetAttributes { atime, mtime, ..SetAttributes::default() })
}

/// truncate(2).
pub fn truncate(cx: &mut Context<'_>, path: UserStr, length: i64) -> Result<usize> {
    let size = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    let creds = cx.creds();
    let place = find(cx, f::AT_FDCWD, path, 0, Last::Follow, &creds)?;
    let inode = place.dentry.inode();
    if inode.is_dir() {
        return Err(Errno::EISDIR);
    }
    if !inode.is_regular() {
        return Err(Errno::EINVAL);
    }
    place.mount.want_write()?;
    permission::check(inode, &creds, MAY_WRITE)?;
    inode.get_write_access()?;
    let done = super::file::check_file_size_limit(cx, inode.size(), size)
        .and_then(|()| change(&place, &SetAttributes { size: Some(size), ..SetAttributes::default() }));
    inode.put_write_access();
    done
}

/// ftruncate(2).
pub fn ftruncate(cx: &mut Context<'_>, fd: i32, length: i64) -> Result<usize> {
    let size = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    let file = cx.files().get(fd)?;
    if !file.inode().is_regular() || !file.mode().contains(FileMode::WRITE) {
        return Err(Errno::EINVAL);
    }
    super::file::check_file_size_limit(cx, file.inode().size(), size)?;
    change(&file.path, &SetAttributes { size: Some(size), ..SetAttributes::default() })
}

fn write_statfs(place: &Path, buffer: UserPtr<Statfs>) -> Result<usize> {
    let sb = &place.mount.sb;
    let mut info = sb.ops.statfs(sb)?;
    let flags = place.mount.flags();
    const NAMES: [(u32, u64); 6] = [
        (mnt::NOSUID, s::ST_NOSUID),
        (mnt::NODEV, s::ST_NODEV),
        (mnt::NOEXEC, s::ST_NOEXEC),
        (mnt::NOATIME, s::ST_NOATIME),
        (mnt::NODIRATIME, s::ST_NODIRATIME),
        (mnt::RELATIME, s::ST_RELATIME),
    ];
    let read_only = if place.mount.is_read_only() { s::ST_RDONLY } else { 0 };
    info.f_flags =
        NAMES.iter().filter(|(flag, _)| flags & flag != 0).fold(s::ST_VALID | read_only, |sum, (_, st)| sum | st);
    info.f_fsid = [sb.dev as u32, 0];
    buffer.write(&info).map(|()| 0)
}

/// statfs(2).
pub fn statfs(cx: &mut Context<'_>, path: UserStr, buffer: UserPtr<Statfs>) -> Result<usize> {
    let creds = cx.creds();
    write_statfs(&find(cx, f::AT_FDCWD, path, 0, Last::Follow, &creds)?, buffer)
}

/// fstatfs(2).
pub fn fstatfs(cx: &mut Context<'_>, fd: i32, buffer: UserPtr<Statfs>) -> Result<usize> {
    write_statfs(&cx.files().get_any(fd)?.path, buffer)
}

/// readlinkat(2). The empty path is `dirfd` itself, if that is a link.
pub fn readlinkat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, buffer: u64, size: i32) -> Result<usize> {
    let size = usize::try_from(size).ok().filter(|size| *size > 0).ok_or(Errno::EINVAL)?;
    let creds = cx.creds();
    let mut is_empty = false;
    let place = path.with_path(|path| {
        is_empty = path.is_empty();
        if is_empty {
            return place_of(cx, dirfd);
        }
        lookup(walk_context(cx, dirfd, path, &creds)?, path, Last::NoFollow)
    })?;
    let inode = place.dentry.inode();
    if !inode.is_symlink() {
        return Err(if is_empty { Errno::ENOENT } else { Errno::EINVAL });
    }
    let text = inode.ops().readlink(inode)?;
    inode.touch_accessed();
    crate::io::IoDst::user(buffer, size).put(&text)
}

/// chdir(2).
pub fn chdir(cx: &mut Context<'_>, path: UserStr) -> Result<usize> {
    let creds = cx.creds();
    let place = find(cx, f::AT_FDCWD, path, 0, Last::Follow, &creds)?;
    enter(cx, place, &creds)
}

/// fchdir(2).
pub fn fchdir(cx: &mut Context<'_>, fd: i32) -> Result<usize> {
    let place = cx.files().get_any(fd)?.path.clone();
    enter(cx, place, &cx.creds())
}

fn enter(cx: &Context<'_>, place: Path, creds: &Creds) -> Result<usize> {
    check_directory(&place, creds)?;
    cx.fs().set_cwd(place);
    Ok(0)
}

fn check_directory(place: &Path, creds: &Creds) -> Result<()> {
    if !place.dentry.inode().is_dir() {
        return Err(Errno::ENOTDIR);
    }
    permission::check(place.dentry.inode(), creds, MAY_EXEC)
}

/// chroot(2).
pub fn chroot(cx: &mut Context<'_>, path: UserStr) -> Result<usize> {
    let creds = cx.creds();
    let place = find(cx, f::AT_FDCWD, path, 0, Last::Follow, &creds)?;
    check_directory(&place, &creds)?;
    if !creds.own_capable(CAP_SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    cx.fs().set_root(place);
    Ok(0)
}

/// getcwd(2): returns the length with the NUL.
pub fn getcwd(cx: &mut Context<'_>, buffer: UserPtr<u8>, size: usize) -> Result<usize> {
    let (root, cwd) = cx.fs().root_and_cwd();
    if cwd.dentry.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    let (path, reachable) = namei::path_from(&cwd, Some(&root));
    let mut text: Vec<u8> = Vec::new();
    if !reachable {
        text.extend_from_slice(b"(unreachable)");
    }
    text.extend_from_slice(&path);
    text.push(0);
    if text.len() > 4096 {
        return Err(Errno::ENAMETOOLONG);
    }
    if text.len() > size {
        return Err(Errno::ERANGE);
    }
    hal::uaccess::copy_to_user(buffer.address(), &text).map_err(|_| Errno::EFAULT)?;
    Ok(text.len())
}

/// umask(2).
pub fn umask(cx: &mut Context<'_>, mask: u32) -> Result<usize> {
    Ok(cx.fs().set_umask(mask) as usize)
}

/// name_to_handle_at(2): no file system here can find a file by a handle.
pub fn name_to_handle_at(
    cx: &mut Context<'_>,
    dirfd: i32,
    path: UserStr,
    _handle: u64,
    _mount: u64,
    flags: u32,
) -> Result<usize> {
    if flags & !(f::AT_SYMLINK_FOLLOW | f::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let last = if flags & f::AT_SYMLINK_FOLLOW != 0 { Last::Follow } else { Last::NoFollow };
    find(cx, dirfd, path, flags, last, &cx.creds())?;
    Err(Errno::EOPNOTSUPP)
}
