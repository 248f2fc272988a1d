//! Open files: open(2), close(2), read(2), write(2), lseek(2), dup(2), fcntl(2), ioctl(2), sendfile(2) and their kin.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::fcntl as f;
use abi::resource::{RLIMIT_FSIZE, RLIMIT_NOFILE};
use abi::tty::{FIOASYNC, FIOCLEX, FIONBIO, FIONCLEX, FIONREAD};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::path::walk_context;
use super::{Context, UserPtr, UserStr, lock};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::file::{File, FileMode, OffsetRule};
use crate::fs::namei::resolve;
use crate::fs::open::{self, OpenHow, VALID_OPEN_FLAGS};
use crate::fs::{notify, permission, tmpfs};
use crate::io::{IoDst, IoSrc, UserRun};

/// Most bytes that one call moves (read(2): 0x7ffff000).
const MAX_RW_COUNT: usize = 0x7fff_f000;
/// Most elements of an iovec array (UIO_MAXIOV).
pub(super) const UIO_MAXIOV: u32 = 1024;
/// Bytes that calls which copy between files hold at a time.
const COPY_CHUNK: usize = 64 << 10;

/// `struct iovec`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Iovec {
    base: u64,
    length: u64,
}

/// `struct open_how`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenHowArgument {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn descriptor(fd: i32) -> Result<usize> {
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}

/// openat(2).
pub fn openat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, flags: u32, mode: u32) -> Result<usize> {
    // A mode without a file to make is ignored.
    open_file(cx, dirfd, path, OpenHow::new(flags | f::O_LARGEFILE, mode)?, flags, 0)
}

/// openat2(2).
pub fn openat2(
    cx: &mut Context<'_>,
    dirfd: i32,
    path: UserStr,
    how: UserPtr<OpenHowArgument>,
    size: usize,
) -> Result<usize> {
    const KNOWN: u64 = 0x3f;
    if size < size_of::<OpenHowArgument>() {
        return Err(Errno::EINVAL);
    }
    if size > 4096 || has_unknown_tail(how, size)? {
        return Err(Errno::E2BIG);
    }
    let how = how.read()?;
    let flags = u32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    let mode = u32::try_from(how.mode).map_err(|_| Errno::EINVAL)?;
    let makes_file = flags & f::O_CREAT != 0 || flags & f::O_TMPFILE == f::O_TMPFILE;
    if flags & !VALID_OPEN_FLAGS != 0 || mode & !0o7777 != 0 || mode != 0 && !makes_file || how.resolve & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    const PATH_FLAGS: u32 = f::O_PATH | f::O_CLOEXEC | f::O_DIRECTORY | f::O_NOFOLLOW;
    if flags & f::O_PATH != 0 && flags & !PATH_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let both = resolve::BENEATH | resolve::IN_ROOT;
    if how.resolve & both == both {
        return Err(Errno::EINVAL);
    }
    if how.resolve & resolve::CACHED != 0 && (makes_file || flags & f::O_TRUNC != 0) {
        return Err(Errno::EAGAIN);
    }
    open_file(cx, dirfd, path, OpenHow::new(flags, mode)?, flags, how.resolve)
}

/// Whether a structure longer than the one we know has something in the part that we do not know.
fn has_unknown_tail(how: UserPtr<OpenHowArgument>, size: usize) -> Result<bool> {
    let tail = UserPtr::<u8>::new(how.address().wrapping_add(size_of::<OpenHowArgument>() as u64));
    Ok(tail.read_many(size - size_of::<OpenHowArgument>())?.iter().any(|byte| *byte != 0))
}

fn open_file(
    cx: &Context<'_>,
    dirfd: i32,
    path: UserStr,
    how: OpenHow,
    flags: u32,
    resolve_flags: u64,
) -> Result<usize> {
    path.with_path(|path| {
        let files = cx.files();
        let fd = files.reserve(0, cx.task.rlimit(RLIMIT_NOFILE), OnExec::from_flags(flags))?;
        let creds = cx.creds();
        let opened = walk_context(cx, dirfd, path, &creds).and_then(|mut context| {
            context.resolve = resolve_flags;
            open::open(context, path, how, cx.fs().umask())
        });
        match opened {
            Ok(file) => {
                files.install(fd, file);
                descriptor(fd)
            }
            Err(error) => {
                files.unreserve(fd);
                Err(error)
            }
        }
    })
}

/// close(2). The descriptor is free whatever the result.
pub fn close(cx: &mut Context<'_>, fd: i32) -> Result<usize> {
    match cx.files().close(fd) {
        Ok(()) => Ok(0),
        // close(2): a restarted close would find the number free, or somebody else's.
        Err(error) if error.number() >= Errno::ERESTARTSYS.number() => Err(Errno::EINTR),
        Err(error) => Err(error),
    }
}

/// close_range(2).
pub fn close_range(cx: &mut Context<'_>, first: u32, last: u32, flags: u32) -> Result<usize> {
    if flags & !(f::CLOSE_RANGE_UNSHARE | f::CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    let mut files = cx.task.files();
    // One reference is the task's, one this variable.
    if flags & f::CLOSE_RANGE_UNSHARE != 0 && Arc::strong_count(&files) > 2 {
        let copy = files.fork()?;
        drop(cx.task.replace_files(Some(copy.clone())));
        files = copy;
    }
    if flags & f::CLOSE_RANGE_CLOEXEC != 0 {
        files.mark_range_close_on_exec(first, last);
    } else {
        files.close_range(first, last);
    }
    Ok(0)
}

/// dup(2).
pub fn dup(cx: &mut Context<'_>, fd: i32) -> Result<usize> {
    let files = cx.files();
    let file = files.get_any(fd)?;
    descriptor(files.add(file, 0, cx.task.rlimit(RLIMIT_NOFILE), OnExec::Keep)?)
}

/// dup3(2).
pub fn dup3(cx: &mut Context<'_>, old: i32, new: i32, flags: u32) -> Result<usize> {
    if flags & !f::O_CLOEXEC != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    let limit = cx.task.rlimit(RLIMIT_NOFILE);
    let files = cx.files();
    if descriptor(new)? as u64 >= limit {
        return Err(Errno::EBADF);
    }
    let file = files.get_any(old)?;
    files.replace(new, file, limit, OnExec::from_flags(flags))?;
    descriptor(new)
}

pub(super) fn checked_count(count: usize) -> Result<usize> {
    // No buffer is that long: access_ok refuses it before anybody looks at its sign.
    if isize::try_from(count).is_err() {
        return Err(Errno::EFAULT);
    }
    Ok(count.min(MAX_RW_COUNT))
}

/// read(2).
pub fn read(cx: &mut Context<'_>, fd: i32, buffer: u64, count: usize) -> Result<usize> {
    let file = cx.files().get(fd)?;
    let result = file.read(&mut IoDst::user(buffer, checked_count(count)?));
    cx.task.times.count_read(&result);
    result
}

/// write(2).
pub fn write(cx: &mut Context<'_>, fd: i32, buffer: u64, count: usize) -> Result<usize> {
    let file = cx.files().get(fd)?;
    let result = file.write(&mut IoSrc::user(buffer, checked_count(count)?));
    cx.task.times.count_write(&result);
    result
}

/// The runs of an iovec array. `EINVAL` for too many elements or a length that is no length, `EFAULT`.
pub(super) fn runs_of(vector: UserPtr<Iovec>, count: u32) -> Result<Vec<UserRun>> {
    if count > UIO_MAXIOV {
        return Err(Errno::EINVAL);
    }
    let mut left = MAX_RW_COUNT;
    let mut runs = Vec::with_capacity(count as usize);
    for element in vector.read_many(count as usize)? {
        let length = usize::try_from(element.length).map_err(|_| Errno::EINVAL)?;
        if isize::try_from(length).is_err() {
            return Err(Errno::EINVAL);
        }
        let length = length.min(left);
        left -= length;
        runs.push(UserRun { address: element.base, length });
    }
    Ok(runs)
}

/// readv(2).
pub fn readv(cx: &mut Context<'_>, fd: i32, vector: UserPtr<Iovec>, count: u32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    if !file.mode().contains(FileMode::READ) {
        return Err(Errno::EBADF);
    }
    let result = file.read(&mut IoDst::user_vector(runs_of(vector, count)?));
    cx.task.times.count_read(&result);
    result
}

/// writev(2).
pub fn writev(cx: &mut Context<'_>, fd: i32, vector: UserPtr<Iovec>, count: u32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    if !file.mode().contains(FileMode::WRITE) {
        return Err(Errno::EBADF);
    }
    let result = file.write(&mut IoSrc::user_vector(runs_of(vector, count)?));
    cx.task.times.count_write(&result);
    result
}

fn position(offset: i64) -> Result<u64> {
    u64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// pread64(2).
pub fn pread64(cx: &mut Context<'_>, fd: i32, buffer: u64, count: usize, offset: i64) -> Result<usize> {
    let offset = position(offset)?;
    let file = cx.files().get(fd)?;
    let result = file.read_at(&mut IoDst::user(buffer, checked_count(count)?), offset);
    cx.task.times.count_read(&result);
    result
}

/// pwrite64(2).
pub fn pwrite64(cx: &mut Context<'_>, fd: i32, buffer: u64, count: usize, offset: i64) -> Result<usize> {
    let offset = position(offset)?;
    let file = cx.files().get(fd)?;
    let result = file.write_at(&mut IoSrc::user(buffer, checked_count(count)?), offset);
    cx.task.times.count_write(&result);
    result
}

/// preadv(2). On a 64-bit machine the low half of the offset is all of it.
pub fn preadv(cx: &mut Context<'_>, fd: i32, vector: UserPtr<Iovec>, count: u32, offset: i64) -> Result<usize> {
    let offset = position(offset)?;
    let file = cx.files().get(fd)?;
    file.read_at(&mut IoDst::user_vector(runs_of(vector, count)?), offset)
}

/// pwritev(2).
pub fn pwritev(cx: &mut Context<'_>, fd: i32, vector: UserPtr<Iovec>, count: u32, offset: i64) -> Result<usize> {
    let offset = position(offset)?;
    let file = cx.files().get(fd)?;
    file.write_at(&mut IoSrc::user_vector(runs_of(vector, count)?), offset)
}

/// Checks RWF_* (Linux `kiocb_set_rw_flags`). Memory fulfils the hints and synchronous ones by itself.
fn check_rwf(file: &File, flags: u32) -> Result<()> {
    const KNOWN: u32 = f::RWF_HIPRI | f::RWF_DSYNC | f::RWF_SYNC | f::RWF_NOWAIT | f::RWF_APPEND;
    let refused = flags & f::RWF_NOWAIT != 0 && !file.ops().can_nowait(file);
    if flags & !KNOWN != 0 || refused { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

/// preadv2(2): offset -1 means the file's own.
pub fn preadv2(
    cx: &mut Context<'_>,
    fd: i32,
    vector: UserPtr<Iovec>,
    count: u32,
    offset: i64,
    _high: u64,
    flags: u32,
) -> Result<usize> {
    let at = if offset == -1 { None } else { Some(position(offset)?) };
    let file = cx.files().get(fd)?;
    if !file.mode().contains(FileMode::READ) {
        return Err(Errno::EBADF);
    }
    if at.is_some() && file.offset_rule() == OffsetRule::Stream {
        return Err(Errno::ESPIPE);
    }
    let mut dst = IoDst::user_vector(runs_of(vector, count)?);
    if dst.remaining() == 0 {
        return Ok(0);
    }
    check_rwf(&file, flags)?;
    if flags & f::RWF_NOWAIT != 0 {
        dst.set_nowait();
    }
    let result = match at {
        Some(at) => file.read_at(&mut dst, at),
        None => file.read(&mut dst),
    };
    cx.task.times.count_read(&result);
    result
}

/// pwritev2(2).
pub fn pwritev2(
    cx: &mut Context<'_>,
    fd: i32,
    vector: UserPtr<Iovec>,
    count: u32,
    offset: i64,
    _high: u64,
    flags: u32,
) -> Result<usize> {
    let at = if offset == -1 { None } else { Some(position(offset)?) };
    let file = cx.files().get(fd)?;
    if !file.mode().contains(FileMode::WRITE) {
        return Err(Errno::EBADF);
    }
    if at.is_some() && file.offset_rule() == OffsetRule::Stream {
        return Err(Errno::ESPIPE);
    }
    let mut src = IoSrc::user_vector(runs_of(vector, count)?);
    if src.remaining() == 0 {
        return Ok(0);
    }
    check_rwf(&file, flags)?;
    src.set_modes(flags & f::RWF_NOWAIT != 0, flags & f::RWF_APPEND != 0);
    let result = match at {
        Some(at) => file.write_at(&mut src, at),
        None => file.write(&mut src),
    };
    cx.task.times.count_write(&result);
    result
}

/// lseek(2).
pub fn lseek(cx: &mut Context<'_>, fd: i32, offset: i64, whence: u32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    if whence > f::SEEK_HOLE {
        return Err(Errno::EINVAL);
    }
    file.seek(offset, whence).map(|at| at as usize)
}

/// Copies up to `count` bytes from one file to another, at offsets or at the files' own. Stops early at the end of the
/// source or where the target takes no more.
fn copy_between(
    from: &File,
    from_at: &mut Option<u64>,
    to: &File,
    to_at: &mut Option<u64>,
    count: usize,
) -> Result<usize> {
    let mut buffer = Vec::new();
    let size = count.clamp(1, COPY_CHUNK);
    buffer.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(size, 0u8);
    let mut done = 0;
    while done < count {
        let want = (count - done).min(buffer.len());
        let outcome = copy_chunk(from, from_at, to, to_at, &mut buffer[..want]);
        match outcome {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        if crate::task::current().signal_pending() {
            break;
        }
    }
    Ok(done)
}

fn copy_chunk(
    from: &File,
    from_at: &mut Option<u64>,
    to: &File,
    to_at: &mut Option<u64>,
    buffer: &mut [u8],
) -> Result<usize> {
    let got = match from_at {
        Some(at) => from.read_at(&mut IoDst::kernel(buffer), *at)?,
        None => from.read(&mut IoDst::kernel(buffer))?,
    };
    let mut put = 0;
    let mut outcome = Ok(());
    while put < got {
        let mut source = IoSrc::kernel(&buffer[put..got]);
        let written = match to_at {
            Some(at) => to.write_at(&mut source, *at + put as u64),
            None => to.write(&mut source),
        };
        match written {
            Ok(0) => break,
            Ok(n) => put += n,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    if let Some(at) = from_at {
        *at += put as u64;
    } else if put < got && from.offset_rule() == OffsetRule::Seekable {
        // What was read and not written is read again next time.
        let back = i64::try_from(got - put).unwrap_or(0);
        from.seek(-back, f::SEEK_CUR)?;
    }
    if let Some(at) = to_at {
        *at += put as u64;
    }
    if put == 0 { outcome.map(|()| 0) } else { Ok(put) }
}

/// sendfile(2).
pub fn sendfile(cx: &mut Context<'_>, out: i32, input: i32, offset: UserPtr<i64>, count: usize) -> Result<usize> {
    let files = cx.files();
    let from = files.get(input)?;
    if !from.mode().contains(FileMode::READ) {
        return Err(Errno::EBADF);
    }
    let mut from_at = match offset.non_null() {
        Some(_) if from.offset_rule() == OffsetRule::Stream => return Err(Errno::ESPIPE),
        Some(offset) => Some(position(offset.read()?)?),
        None => None,
    };
    let to = files.get(out)?;
    if !to.mode().contains(FileMode::WRITE) {
        return Err(Errno::EBADF);
    }
    // The source must have pages or at least an offset; and a file that appends cannot be spliced to.
    if from.inode().is_dir() || from.offset_rule() == OffsetRule::Stream || to.flags() & f::O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    let count = checked_count(count)?;
    let done = copy_between(&from, &mut from_at, &to, &mut None, count)?;
    if let Some(at) = from_at {
        offset.write(&at.cast_signed())?;
    }
    Ok(done)
}

/// copy_file_range(2).
pub fn copy_file_range(
    cx: &mut Context<'_>,
    input: i32,
    input_offset: UserPtr<i64>,
    out: i32,
    out_offset: UserPtr<i64>,
    length: usize,
    flags: u32,
) -> Result<usize> {
    let files = cx.files();
    let (from, to) = (files.get(input)?, files.get(out)?);
    let at = |offset: UserPtr<i64>| offset.non_null().map(|offset| position(offset.read()?)).transpose();
    let (mut from_at, mut to_at) = (at(input_offset)?, at(out_offset)?);
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    if from.inode().is_dir() || to.inode().is_dir() {
        return Err(Errno::EISDIR);
    }
    if !from.inode().is_regular() || !to.inode().is_regular() {
        return Err(Errno::EINVAL);
    }
    let usable = from.mode().contains(FileMode::READ) && to.mode().contains(FileMode::WRITE);
    if !usable || to.flags() & f::O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    let length = checked_count(length)?;
    if Arc::ptr_eq(from.inode(), to.inode()) {
        let start = |at: Option<u64>, file: &File| at.unwrap_or_else(|| *file.lock_offset());
        let (a, b) = (start(from_at, &from), start(to_at, &to));
        let length = length as u64;
        if a < b.saturating_add(length) && b < a.saturating_add(length) {
            return Err(Errno::EINVAL);
        }
    }
    let done = copy_between(&from, &mut from_at, &to, &mut to_at, length)?;
    for (at, pointer) in [(from_at, input_offset), (to_at, out_offset)] {
        if let Some(at) = at {
            pointer.write(&at.cast_signed())?;
        }
    }
    Ok(done)
}

/// fcntl(2).
pub fn fcntl(cx: &mut Context<'_>, fd: i32, command: u32, argument: u64) -> Result<usize> {
    let files = cx.files();
    let file = files.get_any(fd)?;
    let low = argument as u32;
    match command {
        f::F_DUPFD | f::F_DUPFD_CLOEXEC => {
            let limit = cx.task.rlimit(RLIMIT_NOFILE);
            // The argument is an int: a negative one is as far out of range as a large one.
            let from = usize::try_from(low.cast_signed()).map_err(|_| Errno::EINVAL)?;
            if from as u64 >= limit {
                return Err(Errno::EINVAL);
            }
            let on_exec = if command == f::F_DUPFD_CLOEXEC { OnExec::Close } else { OnExec::Keep };
            return descriptor(files.add(file, from, limit, on_exec)?);
        }
        f::F_GETFD => return Ok(usize::from(files.on_exec(fd)? == OnExec::Close)),
        f::F_SETFD => {
            let on_exec = if low & f::FD_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
            return files.set_on_exec(fd, on_exec).map(|()| 0);
        }
        f::F_GETFL => return Ok(file.flags() as usize),
        _ => {}
    }
    // open(2): the other operations fail on a file opened with O_PATH.
    if file.mode().contains(FileMode::PATH) {
        return Err(Errno::EBADF);
    }
    match command {
        // Before anybody asks what kind of file it is (Linux `memfd_add_seals`).
        f::F_ADD_SEALS if !file.mode().contains(FileMode::WRITE) => Err(Errno::EPERM),
        f::F_SETFL => set_status_flags(cx, &file, low),
        f::F_GETLK | f::F_SETLK | f::F_SETLKW | f::F_OFD_GETLK | f::F_OFD_SETLK | f::F_OFD_SETLKW => {
            lock::fcntl_lock(cx, &file, command, UserPtr::new(argument))
        }
        f::F_SETOWN => set_owner(&file, low.cast_signed()),
        f::F_GETOWN => {
            let owner = *file.owner.lock();
            let signed = if owner.kind == 2 { -owner.number } else { owner.number };
            Ok(signed as usize)
        }
        f::F_SETSIG => {
            if argument > 64 {
                return Err(Errno::EINVAL);
            }
            file.owner.lock().signal = low;
            Ok(0)
        }
        f::F_GETSIG => Ok(file.owner.lock().signal as usize),
        f::F_SETOWN_EX => {
            let [kind, number] = UserPtr::<[i32; 2]>::new(argument).read()?;
            if !(0..=2).contains(&kind) {
                return Err(Errno::EINVAL);
            }
            let mut owner = file.owner.lock();
            (owner.kind, owner.number) = (kind, number);
            Ok(0)
        }
        f::F_GETOWN_EX => {
            let owner = *file.owner.lock();
            UserPtr::<[i32; 2]>::new(argument).write(&[owner.kind, owner.number]).map(|()| 0)
        }
        // No lease can be taken, so none is held.
        f::F_GETLEASE => Ok(f::F_UNLCK as usize),
        _ => file.ops().fcntl(&file, command, argument),
    }
}

fn set_owner(file: &File, number: i32) -> Result<usize> {
    // INT_MIN has no positive counterpart (Linux `f_setown`).
    let kind = if number < 0 { 2 } else { 1 };
    let number = number.checked_abs().ok_or(Errno::EINVAL)?;
    let mut owner = file.owner.lock();
    (owner.kind, owner.number) = (kind, number);
    Ok(0)
}

/// F_SETFL: O_APPEND, O_ASYNC, O_DIRECT, O_NOATIME and O_NONBLOCK; other bits are ignored (fcntl(2)).
fn set_status_flags(cx: &Context<'_>, file: &Arc<File>, flags: u32) -> Result<usize> {
    const SETTABLE: u32 = f::O_APPEND | f::O_NONBLOCK | f::O_DIRECT | f::O_NOATIME;
    let old = file.flags();
    if flags & f::O_NOATIME != 0 && old & f::O_NOATIME == 0 {
        let creds = cx.creds();
        if !permission::owner_or_capable(file.inode(), &creds) {
            return Err(Errno::EPERM);
        }
    }
    if flags & f::O_DIRECT != 0 && file.inode().is_regular() {
        return Err(Errno::EINVAL);
    }
    file.ops().check_flags(file, flags)?;
    if (flags ^ old) & f::FASYNC != 0 {
        file.ops().fasync(file, flags & f::FASYNC != 0)?;
    }
    file.change_flags(SETTABLE | f::FASYNC, flags);
    Ok(0)
}

/// ioctl(2): the commands of every file, then the file's own.
pub fn ioctl(cx: &mut Context<'_>, fd: i32, command: u32, argument: u64) -> Result<usize> {
    let files = cx.files();
    let file = files.get(fd)?;
    match command {
        FIOCLEX => files.set_on_exec(fd, OnExec::Close).map(|()| 0),
        FIONCLEX => files.set_on_exec(fd, OnExec::Keep).map(|()| 0),
        FIONBIO => {
            let on = UserPtr::<i32>::new(argument).read()? != 0;
            file.change_flags(f::O_NONBLOCK, if on { f::O_NONBLOCK } else { 0 });
            Ok(0)
        }
        FIOASYNC => {
            let on = UserPtr::<i32>::new(argument).read()? != 0;
            if on != (file.flags() & f::FASYNC != 0) {
                file.ops().fasync(&file, on)?;
                file.change_flags(f::FASYNC, if on { f::FASYNC } else { 0 });
            }
            Ok(0)
        }
        FIONREAD if file.inode().is_regular() => {
            let left = file.inode().size().saturating_sub(*file.lock_offset());
            UserPtr::<i32>::new(argument).write(&i32::try_from(left).unwrap_or(i32::MAX)).map(|()| 0)
        }
        FIONREAD => match file.ops().readable_bytes(&file) {
            Ok(count) => UserPtr::<i32>::new(argument).write(&i32::try_from(count).unwrap_or(i32::MAX)).map(|()| 0),
            Err(_) => file.ops().ioctl(&file, command, argument),
        },
        _ => file.ops().ioctl(&file, command, argument),
    }
}

/// fsync(2).
pub fn fsync(cx: &mut Context<'_>, fd: i32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    file.ops().fsync(&file, false).map(|()| 0)
}

/// fdatasync(2).
pub fn fdatasync(cx: &mut Context<'_>, fd: i32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    file.ops().fsync(&file, true).map(|()| 0)
}

/// fallocate(2).
pub fn fallocate(cx: &mut Context<'_>, fd: i32, mode: u32, offset: i64, length: i64) -> Result<usize> {
    let file = cx.files().get(fd)?;
    if offset < 0 || length <= 0 {
        return Err(Errno::EINVAL);
    }
    let (offset, length) = (position(offset)?, position(length)?);
    if !file.mode().contains(FileMode::WRITE) {
        return Err(Errno::EBADF);
    }
    let kind = file.inode().kind();
    if kind == abi::stat::S_IFIFO {
        return Err(Errno::ESPIPE);
    }
    if kind == abi::stat::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    if kind != abi::stat::S_IFREG {
        return Err(Errno::ENODEV);
    }
    let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EFBIG)?;
    if mode & f::FALLOC_FL_KEEP_SIZE == 0 {
        check_file_size_limit(cx, file.inode().size(), end)?;
    }
    file.ops().fallocate(&file, mode, offset, length)?;
    notify::content_changed(&file.path.dentry);
    Ok(0)
}

/// RLIMIT_FSIZE for calls that set a size: growing beyond it is `EFBIG` and a SIGXFSZ (Linux `inode_newsize_ok`).
pub(super) fn check_file_size_limit(cx: &Context<'_>, old: u64, new: u64) -> Result<()> {
    if new > old && new > cx.task.rlimit(RLIMIT_FSIZE) {
        crate::task::limits::file_too_big(&cx.task);
        return Err(Errno::EFBIG);
    }
    Ok(())
}

/// fadvise64(2): everything is in memory already; the arguments are checked all the same.
pub fn fadvise64(cx: &mut Context<'_>, fd: i32, _offset: i64, length: i64, advice: i32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    if file.inode().kind() == abi::stat::S_IFIFO {
        return Err(Errno::ESPIPE);
    }
    if length < 0 || !(0..=5).contains(&advice) {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

/// readahead(2).
pub fn readahead(cx: &mut Context<'_>, fd: i32, _offset: i64, _count: usize) -> Result<usize> {
    let file = cx.files().get(fd)?;
    if !file.mode().contains(FileMode::READ) {
        return Err(Errno::EBADF);
    }
    if !file.inode().is_regular() {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

/// memfd_create(2).
pub fn memfd_create(cx: &mut Context<'_>, name: UserStr, flags: u32) -> Result<usize> {
    const MAX_NAME: usize = 249;
    // MFD_HUGETLB and the sizes that go with it need huge pages.
    if flags & !(f::MFD_CLOEXEC | f::MFD_ALLOW_SEALING) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = name.read(MAX_NAME + 1, Errno::EINVAL)?;
    let on_exec = if flags & f::MFD_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let file = tmpfs::new_memfd(&name, flags, &cx.creds())?;
    descriptor(cx.files().add(file, 0, cx.task.rlimit(RLIMIT_NOFILE), on_exec)?)
}
