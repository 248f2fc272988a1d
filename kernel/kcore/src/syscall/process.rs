//! Process life: clone(2), execve(2), exit(2), wait(2).

use abi::Errno;
use abi::fcntl::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use abi::resource::Rusage;
use abi::sched::{CLONE_PARENT_SETTID, CLONE_PIDFD, CSIGNAL, CloneArgs as AbiCloneArgs};
use abi::signal::SigInfo;
use abi::wait as w;
use core::sync::atomic::Ordering;
use zerocopy::IntoBytes;

use super::{Context, UserPtr, UserStr};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::pidfd::PidFd;
use crate::mm::load::{Arguments, NameKind};
use crate::task::clone::{self, CloneArgs};
use crate::task::exec::{self, Request};
use crate::task::wait::{self, Report, Which};
use crate::task::{exit, group, unshare};

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
        set_tid: &[],
    };
    clone::do_fork(&args, cx.frame)
}

/// clone3(2). A structure larger than the kernel's must be zero beyond it (`E2BIG`).
pub fn clone3(cx: &mut Context<'_>, args: u64, size: usize) -> Result<usize> {
    let args = read_clone_args(args, size)?;
    let mut tids = [0i32; MAX_PID_LEVELS];
    let set_tid = read_set_tid(&args, &mut tids)?;
    check_clone_args(&args, size)?;
    let decoded = CloneArgs {
        flags: args.flags,
        stack: args.stack.wrapping_add(args.stack_size),
        tls: args.tls,
        parent_tid: args.parent_tid,
        child_tid: args.child_tid,
        pidfd: args.pidfd,
        exit_signal: u32::try_from(args.exit_signal).map_err(|_| Errno::EINVAL)?,
        set_tid,
    };
    clone::do_fork(&decoded, cx.frame)
}

/// Nested PID namespaces at most (Linux `MAX_PID_NS_LEVEL`).
const MAX_PID_LEVELS: usize = 32;
/// Sizes of the versions of `struct clone_args`.
const CLONE_ARGS_SIZE_VER0: usize = 64;
const CLONE_ARGS_SIZE_VER2: usize = 88;

/// A structure of any version: what the caller's lacks is zero, what it has more must be (Linux `copy_struct_from_user`).
fn read_clone_args(address: u64, size: usize) -> Result<AbiCloneArgs> {
    if size > hal::mem::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL);
    }
    let mut args = AbiCloneArgs::default();
    let known = size.min(size_of::<AbiCloneArgs>());
    let more = UserPtr::<u8>::new(address).index(known).read_many(size - known)?;
    if more.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let bytes = args.as_mut_bytes().get_mut(..known).ok_or(Errno::EINVAL)?;
    hal::uaccess::copy_from_user(bytes, address).map_err(|_| Errno::EFAULT)?;
    Ok(args)
}

fn read_set_tid<'a>(args: &AbiCloneArgs, buffer: &'a mut [i32; MAX_PID_LEVELS]) -> Result<&'a [i32]> {
    let count = usize::try_from(args.set_tid_size).map_err(|_| Errno::EINVAL)?;
    // The array and its length, both or neither.
    if (args.set_tid == 0) != (count == 0) {
        return Err(Errno::EINVAL);
    }
    let tids = buffer.get_mut(..count).ok_or(Errno::EINVAL)?;
    hal::uaccess::copy_from_user(tids.as_mut_bytes(), args.set_tid).map_err(|_| Errno::EFAULT)?;
    Ok(tids)
}

/// What clone3 alone can say wrongly (Linux `copy_clone_args_from_user`, `clone3_args_valid`).
fn check_clone_args(args: &AbiCloneArgs, size: usize) -> Result<()> {
    use abi::sched as c;
    let has = |flags: u64| args.flags & flags != 0;
    if args.exit_signal > u64::from(crate::signal::COUNT) {
        return Err(Errno::EINVAL);
    }
    if has(c::CLONE_INTO_CGROUP) {
        if args.cgroup > i32::MAX as u64 || size < CLONE_ARGS_SIZE_VER2 {
            return Err(Errno::EINVAL);
        }
        // No descriptor is that of a cgroup: there is no cgroup file system.
        return Err(Errno::EBADF);
    }
    // The exit signal is not in the flags (bit 7 of which is CLONE_NEWTIME now), and threads and siblings have none of
    // their own.
    if has(c::CLONE_DETACHED | CSIGNAL & !c::CLONE_NEWTIME) {
        return Err(Errno::EINVAL);
    }
    if has(c::CLONE_THREAD | c::CLONE_PARENT) && args.exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    // The stack is given by its lowest address and its size, both or neither.
    if (args.stack == 0) != (args.stack_size == 0) {
        return Err(Errno::EINVAL);
    }
    match args.stack.checked_add(args.stack_size) {
        Some(end) if end <= crate::mm::TASK_SIZE => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// unshare(2).
pub fn unshare(_cx: &mut Context<'_>, flags: u64) -> Result<usize> {
    unshare::unshare(flags)?;
    Ok(0)
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
    // An absolute path has nothing to do with the descriptor.
    let shown_is_own = name.first() == Some(&b'/');
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
    let through_descriptor = dirfd != AT_FDCWD && !shown_is_own;
    let closes = through_descriptor && cx.task.files().on_exec(dirfd) == Ok(OnExec::Close);
    let name_kind = if closes { NameKind::Closing } else { NameKind::Lasting };
    let arguments = Arguments::from_user(argv, envp);
    exec::exec(Request { file, name: shown, name_kind, arguments }, cx.frame)?;
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
    let outcome = waitid_report(cx, which, id, options);
    if let Ok(Some(report)) = &outcome {
        usage.write_if_wanted(&report.usage.to_rusage())?;
    }
    // Without a report the info is cleared, as Linux does even when the call fails.
    let told = outcome.as_ref().ok().and_then(Option::as_ref).map_or_else(SigInfo::default, to_siginfo);
    info.write_if_wanted(&told)?;
    outcome.map(|_| 0)
}

fn waitid_report(cx: &Context<'_>, which: u32, id: i32, options: u32) -> Result<Option<Report>> {
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
    let report = wait::wait(&which, if pidfd_nonblocking { options | w::WNOHANG } else { options })?;
    if report.is_none() && pidfd_nonblocking && options & w::WNOHANG == 0 {
        return Err(Errno::EAGAIN);
    }
    Ok(report)
}

fn to_siginfo(report: &Report) -> SigInfo {
    let uid = crate::task::current().creds().user_ns.shown_uid(report.uid);
    SigInfo::child(report.code, report.pid, uid, wait::si_status(report))
}
