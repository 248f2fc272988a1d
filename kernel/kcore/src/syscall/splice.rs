//! Moving bytes through pipes inside the kernel: splice(2), tee(2), vmsplice(2).

use alloc::sync::Arc;

use abi::Errno;
use abi::fcntl as f;

use super::file::{Iovec, checked_count, runs_of};
use super::{Context, UserPtr};
use crate::Result;
use crate::fs::file::{File, FileMode, OffsetRule};
use crate::fs::pipe::{Patience, Pipe, PipeEnd, splice as moving};
use crate::io::{IoDst, IoSrc};

const ALL_FLAGS: u32 = f::SPLICE_F_MOVE | f::SPLICE_F_NONBLOCK | f::SPLICE_F_MORE | f::SPLICE_F_GIFT;

fn pipe_of(file: &File) -> Option<&Arc<Pipe>> {
    file.ops_as::<PipeEnd>().map(PipeEnd::pipe)
}

fn patience(flags: u32, pipes: &[&File]) -> Patience {
    let wait = flags & f::SPLICE_F_NONBLOCK == 0 && !pipes.iter().any(|pipe| pipe.is_nonblocking());
    if wait { Patience::Wait } else { Patience::None }
}

fn require_ends(input: &File, out: &File) -> Result<()> {
    let usable = input.mode().contains(FileMode::READ) && out.mode().contains(FileMode::WRITE);
    if usable { Ok(()) } else { Err(Errno::EBADF) }
}

/// The offset that a pointer gives: `EINVAL` below zero (`rw_verify_area`), or for a file that has none.
fn offset_of(file: &File, offset: i64) -> Result<u64> {
    if file.offset_rule() == OffsetRule::Stream {
        return Err(Errno::EINVAL);
    }
    u64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// splice(2). The order of the checks is that of Linux's `__do_splice` and `do_splice`.
pub fn splice(
    cx: &mut Context<'_>,
    input: i32,
    input_offset: UserPtr<i64>,
    out: i32,
    out_offset: UserPtr<i64>,
    length: usize,
    flags: u32,
) -> Result<usize> {
    if length == 0 {
        return Ok(0);
    }
    if flags & !ALL_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let files = cx.files();
    let (input, out) = (files.get(input)?, files.get(out)?);
    let (from, to) = (pipe_of(&input), pipe_of(&out));
    if from.is_some() && !input_offset.is_null() || to.is_some() && !out_offset.is_null() {
        return Err(Errno::ESPIPE);
    }
    let out_at = out_offset.non_null().map(UserPtr::read).transpose()?;
    let input_at = input_offset.non_null().map(UserPtr::read).transpose()?;
    require_ends(&input, &out)?;
    let length = length.min(isize::MAX.unsigned_abs());
    match (from, to) {
        (Some(from), Some(to)) if Arc::ptr_eq(from, to) => Err(Errno::EINVAL),
        (Some(from), Some(to)) => from.splice_to_pipe(to, length, patience(flags, &[&input, &out])),
        (Some(from), None) => {
            let mut at = out_at.map(|at| offset_of(&out, at)).transpose()?;
            if out.flags() & f::O_APPEND != 0 || !out.ops().can_splice_to(&out) {
                return Err(Errno::EINVAL);
            }
            let outcome = from.splice_to_file(&out, &mut at, length, patience(flags, &[&input]));
            moving::told(&input, &outcome);
            store(out_offset, at)?;
            outcome
        }
        (None, Some(to)) => {
            let outcome = file_to_pipe(&input, input_at, to, length, flags, patience(flags, &[&out]))?;
            store(input_offset, outcome.1)?;
            Ok(outcome.0)
        }
        (None, None) => Err(Errno::EINVAL),
    }
}

/// Splices from a file at `at` or at the file's own offset. Returns the bytes, and the offset behind them if one was given.
fn file_to_pipe(
    input: &File,
    at: Option<i64>,
    to: &Pipe,
    length: usize,
    _flags: u32,
    patience: Patience,
) -> Result<(usize, Option<u64>)> {
    let mut at = at.map(|at| offset_of(input, at)).transpose()?;
    if !input.ops().can_splice_from(input) {
        return Err(Errno::EINVAL);
    }
    let outcome = match &mut at {
        Some(at) => to.splice_from_file(input, at, length, patience),
        None if input.offset_rule() == OffsetRule::Seekable => {
            let mut at = *input.lock_offset();
            let outcome = to.splice_from_file(input, &mut at, length, patience);
            *input.lock_offset() = at;
            outcome
        }
        None => to.splice_from_file(input, &mut 0, length, patience),
    };
    moving::told(input, &outcome);
    Ok((outcome?, at))
}

fn store(offset: UserPtr<i64>, at: Option<u64>) -> Result<()> {
    match at {
        Some(at) => offset.write(&at.cast_signed()),
        None => Ok(()),
    }
}

/// tee(2).
pub fn tee(cx: &mut Context<'_>, input: i32, out: i32, length: usize, flags: u32) -> Result<usize> {
    if flags & !ALL_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    let files = cx.files();
    let (input, out) = (files.get(input)?, files.get(out)?);
    require_ends(&input, &out)?;
    match (pipe_of(&input), pipe_of(&out)) {
        (Some(from), Some(to)) if !Arc::ptr_eq(from, to) => {
            let outcome = from.tee(to, length, patience(flags, &[&input, &out]));
            moving::told(&input, &outcome);
            outcome
        }
        _ => Err(Errno::EINVAL),
    }
}

/// vmsplice(2): into the pipe through its writing end, out of it through its reading end.
pub fn vmsplice(cx: &mut Context<'_>, fd: i32, vector: UserPtr<Iovec>, count: usize, flags: u32) -> Result<usize> {
    if flags & !ALL_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let file = cx.files().get(fd)?;
    let writes = file.mode().contains(FileMode::WRITE);
    if !writes && !file.mode().contains(FileMode::READ) {
        return Err(Errno::EBADF);
    }
    let runs = runs_of(vector, u32::try_from(count).map_err(|_| Errno::EINVAL)?)?;
    let total = checked_count(runs.iter().map(|run| run.length).sum())?;
    if total == 0 {
        return Ok(0);
    }
    let pipe = pipe_of(&file).ok_or(Errno::EBADF)?;
    let patience = patience(flags, &[]);
    if writes {
        pipe.vmsplice_in(&mut IoSrc::user_vector(runs), patience)
    } else {
        pipe.vmsplice_out(&mut IoDst::user_vector(runs), patience)
    }
}
