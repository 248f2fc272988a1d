//! File locks: flock(2), and the locking commands of fcntl(2).

use abi::Errno;
use abi::fcntl as f;
use abi::fcntl::Flock;

use super::{Context, UserPtr};
use crate::Result;
use crate::fs::file::{File, FileMode};
use crate::fs::lock::{self, Kind, OwnerId, RangeLock, Wait};
use crate::task::pid;

/// flock(2).
pub fn flock(cx: &mut Context<'_>, fd: i32, operation: u32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    let wait = if operation & f::LOCK_NB != 0 { Wait::No } else { Wait::Yes };
    match operation & !f::LOCK_NB {
        f::LOCK_SH => lock::flock(&file, Kind::Shared, cx.task.tgid(), wait)?,
        f::LOCK_EX => lock::flock(&file, Kind::Exclusive, cx.task.tgid(), wait)?,
        f::LOCK_UN => lock::funlock(&file),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// F_GETLK, F_SETLK, F_SETLKW and their OFD forms.
pub(super) fn fcntl_lock(cx: &Context<'_>, file: &File, command: u32, pointer: UserPtr<Flock>) -> Result<usize> {
    let argument = pointer.read()?;
    let is_ofd = matches!(command, f::F_OFD_GETLK | f::F_OFD_SETLK | f::F_OFD_SETLKW);
    if is_ofd && argument.l_pid != 0 {
        return Err(Errno::EINVAL);
    }
    let (start, end) = range_of(file, &argument)?;
    let kind = lock::kind_of(argument.l_type)?;
    let (owner, pid) = if is_ofd { (OwnerId::of(file), -1) } else { (cx.files().lock_owner(), cx.task.tgid()) };
    let range = RangeLock { owner, pid, kind: kind.unwrap_or(Kind::Shared), start, end };
    if matches!(command, f::F_GETLK | f::F_OFD_GETLK) {
        if kind.is_none() {
            return Err(Errno::EINVAL);
        }
        return report(file, pointer, argument, &range);
    }
    let Some(kind) = kind else {
        lock::unlock_range(file.inode(), &range);
        return Ok(0);
    };
    // fcntl(2) EBADF: the access mode of the file must match the type of the lock.
    let needed = if kind == Kind::Shared { FileMode::READ } else { FileMode::WRITE };
    if !file.mode().contains(needed) {
        return Err(Errno::EBADF);
    }
    let wait = if matches!(command, f::F_SETLKW | f::F_OFD_SETLKW) { Wait::Yes } else { Wait::No };
    lock::set_range(file.inode(), range, wait)?;
    Ok(0)
}

/// First and last byte of a `struct flock` (Linux `flock64_to_posix_lock`). `EINVAL` before the start of the file,
/// `EOVERFLOW` beyond the largest offset.
fn range_of(file: &File, argument: &Flock) -> Result<(u64, u64)> {
    let base = match u32::try_from(argument.l_whence).map_err(|_| Errno::EINVAL)? {
        f::SEEK_SET => 0,
        f::SEEK_CUR => file.lock_offset().cast_signed(),
        f::SEEK_END => file.inode().size().cast_signed(),
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(argument.l_start).ok_or(Errno::EOVERFLOW)?;
    let (first, last) = match argument.l_len {
        0 => (start, i64::MAX),
        length if length > 0 => (start, start.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?),
        // A negative length is the bytes before the start.
        length => (start.checked_add(length).ok_or(Errno::EINVAL)?, start - 1),
    };
    let first = u64::try_from(first).map_err(|_| Errno::EINVAL)?;
    let last = u64::try_from(last).map_err(|_| Errno::EINVAL)?;
    Ok((first, last))
}

/// F_GETLK: tells what is in the way, or F_UNLCK.
fn report(file: &File, pointer: UserPtr<Flock>, mut answer: Flock, wanted: &RangeLock) -> Result<usize> {
    match lock::test(file.inode(), wanted) {
        None => answer.l_type = f::F_UNLCK,
        Some(held) => {
            answer.l_type = lock::type_of(held.kind);
            answer.l_whence = 0;
            answer.l_start = held.start.cast_signed();
            let to_end = held.end == i64::MAX.cast_unsigned();
            answer.l_len = if to_end { 0 } else { (held.end - held.start + 1).cast_signed() };
            answer.l_pid = if held.pid < 0 { held.pid } else { pid::shown(held.pid) };
        }
    }
    pointer.write(&answer)?;
    Ok(0)
}
