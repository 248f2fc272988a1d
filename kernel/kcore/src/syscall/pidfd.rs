//! Processes as descriptors: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2); and kcmp(2), which tells what two
//! processes share.

use alloc::sync::Arc;

use abi::Errno;
use abi::notify::PIDFD_NONBLOCK;
use abi::resource::RLIMIT_NOFILE;
use abi::signal::{SI_TKILL, SI_USER, SigInfo};

use super::signal::{may_kill, sender_info, signal_or_probe};
use super::{Context, UserPtr};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::pidfd::{self, PidFd};
use crate::fs::proc::process_of_directory;
use crate::signal;
use crate::task::{self, AccessMode, Pid, Task, ptrace_may_access};

/// pidfd_open(2): a process, so the number of its first thread; `EINVAL` for another thread's.
pub fn pidfd_open(cx: &mut Context<'_>, pid: i32, flags: u32) -> Result<usize> {
    if flags & !PIDFD_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let task = task::find_or_esrch(pid)?;
    if !task.is_leader() {
        return Err(Errno::EINVAL);
    }
    let files = cx.task.files();
    let fd = files.reserve(0, cx.task.rlimit(RLIMIT_NOFILE), OnExec::Close)?;
    files.install(fd, pidfd::new_file(task.group.clone(), flags));
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}

/// The process of a pidfd or of an open `/proc/PID` directory, else `EBADF`.
fn process_of(cx: &Context<'_>, fd: i32) -> Result<Arc<Pid>> {
    let file = cx.task.files().get(fd)?;
    match file.ops_as::<PidFd>() {
        Some(pidfd) => Ok(pidfd.pid()),
        None => process_of_directory(&file).ok_or(Errno::EBADF),
    }
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(
    cx: &mut Context<'_>,
    pidfd: i32,
    signal: i32,
    info: UserPtr<SigInfo>,
    flags: u32,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let pid = process_of(cx, pidfd)?;
    // Not visible from here (pidfd_send_signal(2) EINVAL).
    if pid.number_in(cx.task.namespaces().pid()) == 0 {
        return Err(Errno::EINVAL);
    }
    let given = info.non_null().map(UserPtr::read).transpose()?;
    if let Some(given) = &given {
        if u32::try_from(signal) != Ok(given.signal()) {
            return Err(Errno::EINVAL);
        }
        // The codes of the kernel and of kill cannot be forged for others.
        if !Arc::ptr_eq(&pid, &cx.task.group.pid) && (given.code() >= 0 || given.code() == SI_TKILL) {
            return Err(Errno::EPERM);
        }
    }
    let target = pid.task().ok_or(Errno::ESRCH)?;
    let signal = signal_or_probe(signal)?;
    if !may_kill(cx, &target, signal) {
        return Err(Errno::EPERM);
    }
    if let Some(signal) = signal {
        let info = given.unwrap_or_else(|| sender_info(cx, signal, SI_USER));
        signal::send_process(&target.group, &signal::send::as_seen_by(&target, &info))?;
    }
    Ok(0)
}

/// pidfd_getfd(2): a copy of another process's descriptor, for who may look into it.
pub fn pidfd_getfd(cx: &mut Context<'_>, pidfd: i32, fd: i32, flags: u32) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let file = cx.task.files().get(pidfd)?;
    let target = file.ops_as::<PidFd>().ok_or(Errno::EBADF)?.pid().task().ok_or(Errno::ESRCH)?;
    ptrace_may_access(&target, AccessMode::ATTACH_REALCREDS)?;
    // A process that has ended has no table (pidfd_getfd(2) ESRCH).
    let wanted = target.files_if_any().ok_or(Errno::ESRCH)?.get_any(fd)?;
    let new = cx.task.files().add(wanted, 0, cx.task.rlimit(RLIMIT_NOFILE), OnExec::Close)?;
    usize::try_from(new).map_err(|_| Errno::EBADF)
}

/// kcmp(2) types.
mod kcmp_type {
    pub const FILE: i32 = 0;
    pub const VM: i32 = 1;
    pub const FILES: i32 = 2;
    pub const FS: i32 = 3;
    pub const SIGHAND: i32 = 4;
    pub const IO: i32 = 5;
    pub const SYSVSEM: i32 = 6;
}

/// kcmp(2): 0 for the same, 1 and 2 for the order of two different ones.
pub fn kcmp(cx: &mut Context<'_>, pid1: i32, pid2: i32, kind: i32, index1: u64, index2: u64) -> Result<usize> {
    let _ = cx;
    let (one, two) = (task::find_or_esrch(pid1)?, task::find_or_esrch(pid2)?);
    ptrace_may_access(&one, AccessMode::READ_REALCREDS)?;
    ptrace_may_access(&two, AccessMode::READ_REALCREDS)?;
    match kind {
        kcmp_type::FILE => Ok(compare(address(&file_of(&one, index1)?), address(&file_of(&two, index2)?))),
        kcmp_type::VM => Ok(compare(one.mm().as_ref().map_or(0, address), two.mm().as_ref().map_or(0, address))),
        kcmp_type::FILES => {
            let table = |task: &Task| task.files_if_any().as_ref().map_or(0, address);
            Ok(compare(table(&one), table(&two)))
        }
        kcmp_type::FS => {
            let places = |task: &Task| task.fs_if_any().as_ref().map_or(0, address);
            Ok(compare(places(&one), places(&two)))
        }
        kcmp_type::SIGHAND => Ok(compare(address(&one.handlers()), address(&two.handlers()))),
        // Nobody has an I/O context or semaphore adjustments: they are the same nothing, as on Linux.
        kcmp_type::IO | kcmp_type::SYSVSEM => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn file_of(task: &Task, index: u64) -> Result<Arc<crate::fs::File>> {
    let fd = i32::try_from(index).map_err(|_| Errno::EBADF)?;
    task.files_if_any().ok_or(Errno::EBADF)?.get_any(fd)
}

fn address<T>(object: &Arc<T>) -> usize {
    Arc::as_ptr(object) as usize
}

/// Addresses are kernel secrets: they are mixed with a number that only this boot knows before their order is told.
fn compare(one: usize, two: usize) -> usize {
    hal::global! {
        static COOKIE: spin::Once<u64> = spin::Once::new();
    }
    let cookie = *COOKIE.call_once(crate::random::u64);
    // Odd factors keep different addresses different (Linux `kptr_obfuscate`).
    let mix = |address: usize| (address as u64 ^ cookie).wrapping_mul(cookie | 1);
    match mix(one).cmp(&mix(two)) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    }
}
