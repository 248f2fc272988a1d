//! Process life: clone(2), execve(2), exit(2), wait(2).

use abi::Errno;
use abi::fcntl::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use abi::notify::PIDFD_NONBLOCK;
use abi::resource::{RLIMIT_NOFILE, Rusage};
use abi::sched::{CLONE_PARENT_SETTID, CLONE_PIDFD, CSIGNAL, CloneArgs as AbiCloneArgs};
use abi::signal::SigInfo;
use abi::wait as w;
use core::sync::atomic::Ordering;

use super::{Context, UserPtr, UserStr};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::pidfd::{self, PidFd};
use crate::mm::load::Arguments;
use crate::task::clone::{self, CloneArgs};
use crate::task::exec::{self, Request};
use crate::task::wait::{self, Report, Which};
use crate::task::{self, exit, group};

/// exit(2).
pub fn exit(cx: &mut Context<'_>, status: i32) -> Result<usize> {
    let _ = cx;
    exit::exit_current((status & 0xff) << 8)
}

/// exit_group(2).
pub fn exit_group(cx: &mut Context<'_>, status: i32) -> Result<usize> {
    let _ = cx;
    exit::exit_group((status & 0xff) << 8)
}

/// clone(2) of arm64: flags, stack, parent_tid, tls, child_tid.
pub fn clone(
    cx: &mut Context<'_>,
    flags: u64,
    stack: u64,
    parent_tid: UserPtr<i32>,
    tls: u64,
    child_tid: u64,
) -> Result<usize> {
    // The old interface has 32 bits of flags; both CLONE_PIDFD and CLONE_PARENT_SETTID would use `parent_tid`.
    let bits = flags & 0xffff_ffff & !CSIGNAL;
    if bits & CLONE_PIDFD != 0 && bits & CLONE_PARENT_SETTID != 0 {
        return Err(Errno::EINVAL);
    }
    let args = CloneArgs {
        flags: bits,
        stack,
        tls,
        parent_tid: parent_tid.address(),
        child_tid,
        pidfd: parent_tid.address(),
        exit_signal: (flags & CSIGNAL) as u32,
    };
    clone::do_fork(&args, cx.frame)
}

/// clone3(2). A structure larger than the kernel's must be zero beyond it (`E2BIG`).
pub fn clone3(cx: &mut Context<'_>, args: u64, size: usize) -> Result<usize> {
    const KNOWN: usize = size_of::<AbiCloneArgs>();
    const FIRST_VERSION: usize = 64;
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    if size < FIRST_VERSION {
        return Err(Errno::EINVAL);
    }
    let words = UserPtr::<u64>::new(args).read_many(size / 8)?;
    if words.iter().skip(KNOWN / 8).any(|word| *word != 0) {
        return Err(Errno::E2BIG);
    }
    let word = |n: usize| words.get(n).copied().unwrap_or(0);
    let (flags, exit_signal, stack, stack_size) = (word(0), word(4), word(5), word(6));
    // The stack is given by its lowest address and its size, both or neither; the signal is not in the flags.
    if flags & (CSIGNAL | abi::sched::CLONE_DETACHED) != 0 || exit_signal & !CSIGNAL != 0 {
        return Err(Errno::EINVAL);
    }
    if (stack == 0) != (stack_size == 0) || word(8) != 0 || word(9) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & (abi::sched::CLONE_THREAD | abi::sched::CLONE_PARENT) != 0 && exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    let decoded = CloneArgs {
        flags,
        stack: stack.wrapping_add(stack_size),
        tls: word(7),
        parent_tid: word(3),
        child_tid: word(2),
        pidfd: word(1),
        exit_signal: exit_signal as u32,
    };
    clone::do_fork(&decoded, cx.frame)
}

/// set_tid_address(2).
pub fn set_tid_address(cx: &mut Context<'_>, address: u64) -> Result<usize> {
    cx.task.clear_child_tid.store(address, Ordering::Relaxed);
    Ok(cx.task.pid().number_in(cx.task.namespaces().pid()).unsigned_abs() as usize)
}

/// execve(2).
pub fn execve(cx: &mut Context<'_>, path: UserStr, argv: u64, envp: u64) -> Result<usize> {
    execveat(cx, AT_FDCWD, path, argv, envp, 0)
}

/// execveat(2).
pub fn execveat(cx: &mut Context<'_>, dirfd: i32, path: UserStr, argv: u64, envp: u64, flags: u32) -> Result<usize> {
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = path.read_path()?;
    let file = crate::fs::open_exec(dirfd, &name, flags)?;
    // AT_EXECFN of a descriptor is its /dev/fd path (execveat(2)).
    let shown = match (name.is_empty(), dirfd) {
        (true, fd) => alloc::format!("/dev/fd/{fd}").into_bytes(),
        (false, fd) if fd != AT_FDCWD && name[0] != b'/' => {
            let mut shown = alloc::format!("/dev/fd/{fd}/").into_bytes();
            shown.extend_from_slice(&name);
            shown
        }
        _ => name,
    };
    let arguments = Arguments::from_user(argv, envp);
    exec::exec(Request { file, name: shown, arguments }, cx.frame)?;
    // x0 of the new program is 0, which is what this returns.
    Ok(0)
}

/// wait4(2).
pub fn wait4(
    cx: &mut Context<'_>,
    pid: i32,
    status: UserPtr<i32>,
    options: u32,
    usage: UserPtr<Rusage>,
) -> Result<usize> {
    const VALID: u32 = w::WNOHANG | w::WUNTRACED | w::WCONTINUED | w::__WNOTHREAD | w::__WCLONE | w::__WALL;
    if options & !VALID != 0 {
        return Err(Errno::EINVAL);
    }
    // -INT_MIN has no positive counterpart (wait(2): ESRCH).
    if pid == i32::MIN {
        return Err(Errno::ESRCH);
    }
    let space = cx.task.namespaces().pid().clone();
    let which = match pid {
        -1 => Which::Any,
        0 => Which::Group(group::pgrp_of(&cx.task)),
        pid if pid < 0 => Which::Group(space.find(-pid).ok_or(Errno::ECHILD)?),
        pid => Which::Process(space.find(pid).ok_or(Errno::ECHILD)?),
    };
    let Some(report) = wait::wait(&which, options | w::WEXITED)? else { return Ok(0) };
    status.write_if_wanted(&report.status)?;
    usage.write_if_wanted(&report.usage.to_rusage())?;
    Ok(report.pid.unsigned_abs() as usize)
}

/// waitid(2).
pub fn waitid(
    cx: &mut Context<'_>,
    which: u32,
    id: i32,
    info: UserPtr<SigInfo>,
    options: u32,
    usage: UserPtr<Rusage>,
) -> Result<usize> {
    const VALID: u32 =
        w::WNOHANG | w::WNOWAIT | w::WEXITED | w::WSTOPPED | w::WCONTINUED | w::__WNOTHREAD | w::__WCLONE | w::__WALL;
    if options & !VALID != 0 || options & (w::WEXITED | w::WSTOPPED | w::WCONTINUED) == 0 {
        return Err(Errno::EINVAL);
    }
    let space = cx.task.namespaces().pid().clone();
    let mut pidfd_nonblocking = false;
    let which = match which {
        w::P_ALL => Which::Any,
        w::P_PID if id <= 0 => return Err(Errno::EINVAL),
        w::P_PID => Which::Process(space.find(id).ok_or(Errno::ECHILD)?),
        w::P_PGID if id < 0 => return Err(Errno::EINVAL),
        w::P_PGID if id == 0 => Which::Group(group::pgrp_of(&cx.task)),
        w::P_PGID => Which::Group(space.find(id).ok_or(Errno::ECHILD)?),
        w::P_PIDFD if id < 0 => return Err(Errno::EINVAL),
        w::P_PIDFD => {
            let file = cx.task.files().get(id)?;
            pidfd_nonblocking = file.is_nonblocking();
            Which::Process(file.ops_as::<PidFd>().ok_or(Errno::EBADF)?.pid())
        }
        _ => return Err(Errno::EINVAL),
    };
    // A nonblocking pidfd says EAGAIN where WNOHANG says "nobody" (pidfd_open(2)).
    let report = match wait::wait(&which, if pidfd_nonblocking { options | w::WNOHANG } else { options }) {
        Ok(report) => report,
        Err(error) => {
            // Linux clears the info of a wait that fails, too.
            info.write_if_wanted(&SigInfo::default())?;
            return Err(error);
        }
    };
    if report.is_none() && pidfd_nonblocking && options & w::WNOHANG == 0 {
        return Err(Errno::EAGAIN);
    }
    if let Some(report) = &report {
        usage.write_if_wanted(&report.usage.to_rusage())?;
    }
    info.write_if_wanted(&report.map_or_else(SigInfo::default, |report| to_siginfo(&report)))?;
    Ok(0)
}

fn to_siginfo(report: &Report) -> SigInfo {
    SigInfo::child(report.code, report.pid, report.uid, wait::si_status(report))
}

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
