//! process_vm_readv(2), process_vm_writev(2): memory of another process without stopping it, by the rights of its areas.

use alloc::vec::Vec;

use abi::Errno;

use super::file::{Iovec, runs_of};
use super::{Context, UserPtr};
use crate::Result;
use crate::io::{IoDst, IoSrc, UserRun};
use crate::mm::{Authority, Mm, Obstacle};
use crate::task::{self, AccessMode, mm_access};

/// The other side of the call: an array of runs and its length, as the caller gave them.
#[derive(Clone, Copy)]
struct Remote {
    vector: UserPtr<Iovec>,
    count: u64,
}

impl Remote {
    fn runs(self) -> Result<Vec<UserRun>> {
        runs_of(self.vector, u32::try_from(self.count).map_err(|_| Errno::EINVAL)?)
    }
}

/// process_vm_readv(2).
pub fn process_vm_readv(
    _cx: &mut Context<'_>,
    pid: i32,
    local: UserPtr<Iovec>,
    local_count: u32,
    remote: UserPtr<Iovec>,
    remote_count: u64,
    flags: u64,
) -> Result<usize> {
    let runs = local_runs(local, local_count, flags)?;
    let mut dst = IoDst::user_vector(runs);
    let remote = Remote { vector: remote, count: remote_count };
    transfer(pid, remote, dst.remaining(), |mm, address, length| {
        mm.copy_out(Authority::Area, address, length, &mut dst)
    })
}

/// process_vm_writev(2).
pub fn process_vm_writev(
    _cx: &mut Context<'_>,
    pid: i32,
    local: UserPtr<Iovec>,
    local_count: u32,
    remote: UserPtr<Iovec>,
    remote_count: u64,
    flags: u64,
) -> Result<usize> {
    let runs = local_runs(local, local_count, flags)?;
    let mut src = IoSrc::user_vector(runs);
    let remote = Remote { vector: remote, count: remote_count };
    transfer(pid, remote, src.remaining(), |mm, address, length| mm.copy_in(Authority::Area, address, length, &mut src))
}

/// No flags are defined (`EINVAL`).
fn local_runs(local: UserPtr<Iovec>, count: u32, flags: u64) -> Result<Vec<UserRun>> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    runs_of(local, count)
}

/// Runs `copy` over the remote runs until the local side is done. The order of the checks is Linux's
/// (`process_vm_rw_core`): where nothing is asked for, nobody asks who the process is. What was copied before an error counts.
fn transfer(
    pid: i32,
    remote: Remote,
    mut left: usize,
    mut copy: impl FnMut(&Mm, u64, usize) -> (usize, Option<Obstacle>),
) -> Result<usize> {
    if left == 0 {
        return Ok(0);
    }
    let runs = remote.runs()?;
    if runs.iter().all(|run| run.length == 0) {
        return Ok(0);
    }
    let task = task::find_or_esrch(pid)?;
    let mm = mm_access(&task, AccessMode::ATTACH_REALCREDS).map_err(|_| Errno::EPERM)?.ok_or(Errno::ESRCH)?;
    let mut total = 0;
    for run in runs {
        let (done, obstacle) = copy(&mm, run.address, run.length.min(left));
        total += done;
        left -= done;
        if obstacle.is_some() {
            break;
        }
    }
    // Something was asked for, so nothing means that the first byte was out of reach.
    if total == 0 { Err(Errno::EFAULT) } else { Ok(total) }
}
