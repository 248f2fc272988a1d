//! clone3(2), pidfd_open(2) and its relatives, unshare(2), kcmp(2).

use std::sync::atomic::Ordering;

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    structures_of_any_size_are_taken,
    too_small_and_too_large_structures,
    unknown_bytes_must_be_zero,
    bad_structure_is_efault,
    thread_without_sighand_is_einval,
    sighand_without_vm_is_einval,
    sighand_cannot_be_cleared_and_shared,
    exit_signal_of_threads_is_einval,
    exit_signal_must_be_a_signal,
    stack_and_size_come_together,
    flags_that_do_not_exist_are_einval,
    cleared_handlers_and_ignored_ones,
    set_tid_chooses_the_pid,
    set_tid_bad_arguments,
    pidfd_of_the_child,
    pidfd_cannot_be_detached_or_share_its_place,
    bad_place_of_the_pidfd_makes_no_child,
    pidfd_open_bad_arguments,
    pidfd_of_a_zombie_and_of_nobody,
    pidfd_is_readable_at_the_end,
    nonblocking_pidfd_is_eagain,
    waitid_wants_a_pidfd,
    pidfd_signal_arrives,
    pidfd_signal_bad_arguments,
    pidfd_signal_to_strangers_is_eperm,
    pidfd_of_a_proc_directory,
    pidfd_fdinfo_tells_the_pid,
    getfd_copies_a_descriptor,
    getfd_bad_arguments,
    unshare_files_and_fs,
    unshare_bad_flags,
    unshare_of_what_is_alone,
    namespaces_are_for_root,
    kcmp_of_files_and_processes,
    kcmp_bad_arguments,
    old_clone_takes_any_exit_signal,
    vfork_child_is_killed,
];

/// `struct clone_args`, version 2.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Args {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
    more: [u64; 8],
}

const SIZE: usize = 88;
const PIDFD: u64 = 0x1000;
const CLEAR_SIGHAND: u64 = 1 << 32;

fn simple() -> Args {
    Args { exit_signal: SIGCHLD as u64, ..Args::default() }
}

/// clone3 whose child ends with `body`'s status.
fn clone3(args: &Args, size: usize, body: impl FnOnce() -> i32) -> Result<i32> {
    match sys!(SYS_clone3, std::ptr::from_ref(args), size)? {
        0 => exit(body()),
        pid => Ok(pid as i32),
    }
}

fn plain(args: &Args, size: usize) -> Result<i32> {
    clone3(args, size, || 0)
}

fn structures_of_any_size_are_taken() -> Outcome {
    for size in [64, 72, 80, 88, 96, 152] {
        let pid = clone3(&simple(), size, || 5)?;
        same!(status(pid)?, 5);
    }
    Ok(())
}

fn too_small_and_too_large_structures() -> Outcome {
    fails!(plain(&simple(), 0), EINVAL);
    fails!(plain(&simple(), 63), EINVAL);
    fails!(plain(&simple(), 1 << 20), E2BIG);
    Ok(())
}

fn unknown_bytes_must_be_zero() -> Outcome {
    let mut args = simple();
    args.more[7] = 1 << 56;
    fails!(plain(&args, 152), E2BIG);
    let pid = plain(&args, SIZE)?;
    same!(status(pid)?, 0);
    Ok(())
}

fn bad_structure_is_efault() -> Outcome {
    fails!(sys!(SYS_clone3, 8, SIZE), EFAULT);
    Ok(())
}

fn refuse(flags: i32, exit_signal: i32) -> Result<i32> {
    plain(&Args { flags: flags as u32 as u64, exit_signal: exit_signal as u64, ..Args::default() }, SIZE)
}

fn thread_without_sighand_is_einval() -> Outcome {
    fails!(refuse(CLONE_THREAD, 0), EINVAL);
    fails!(refuse(CLONE_THREAD | CLONE_VM, 0), EINVAL);
    Ok(())
}

fn sighand_without_vm_is_einval() -> Outcome {
    fails!(refuse(CLONE_SIGHAND, SIGCHLD), EINVAL);
    fails!(refuse(CLONE_SIGHAND | CLONE_THREAD, 0), EINVAL);
    Ok(())
}

fn sighand_cannot_be_cleared_and_shared() -> Outcome {
    let flags = CLEAR_SIGHAND | (CLONE_VM | CLONE_SIGHAND) as u64;
    fails!(plain(&Args { flags, ..simple() }, SIZE), EINVAL);
    Ok(())
}

fn exit_signal_of_threads_is_einval() -> Outcome {
    fails!(refuse(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, SIGCHLD), EINVAL);
    fails!(refuse(CLONE_PARENT, SIGCHLD), EINVAL);
    Ok(())
}

fn exit_signal_must_be_a_signal() -> Outcome {
    fails!(refuse(0, 65), EINVAL);
    fails!(refuse(0, 255), EINVAL);
    fails!(plain(&Args { exit_signal: 1 << 32 | SIGCHLD as u64, ..Args::default() }, SIZE), EINVAL);
    fails!(plain(&Args { flags: SIGCHLD as u64, ..Args::default() }, SIZE), EINVAL);
    Ok(())
}

fn stack_and_size_come_together() -> Outcome {
    let stack = memory(4096)? as u64;
    fails!(plain(&Args { stack, ..simple() }, SIZE), EINVAL);
    fails!(plain(&Args { stack_size: 4096, ..simple() }, SIZE), EINVAL);
    fails!(plain(&Args { stack: u64::MAX - 100, stack_size: 4096, ..simple() }, SIZE), EINVAL);
    Ok(())
}

fn flags_that_do_not_exist_are_einval() -> Outcome {
    for flags in [1u64, 1 << 22, 1 << 62, 1 << 63] {
        fails!(plain(&Args { flags, ..simple() }, SIZE), EINVAL);
    }
    Ok(())
}

fn cleared_handlers_and_ignored_ones() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    sigaction(SIGUSR2, SIG_IGN, 0, 0)?;
    let pid = clone3(&Args { flags: CLEAR_SIGHAND, ..simple() }, SIZE, || {
        let handled = sigaction(SIGUSR1, SIG_DFL, 0, 0).map(|old| old.handler).unwrap_or(9);
        let ignored = sigaction(SIGUSR2, SIG_DFL, 0, 0).map(|old| old.handler).unwrap_or(9);
        i32::from(handled != SIG_DFL) + 2 * i32::from(ignored != SIG_IGN)
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn set_tid_chooses_the_pid() -> Outcome {
    // A number that nobody has: that of a child which is gone.
    let gone = child(|| 0)?;
    status(gone)?;
    let args = Args { set_tid: (&raw const gone) as u64, set_tid_size: 1, ..simple() };
    let pid = clone3(&args, SIZE, || i32::from(getpid() != gone))?;
    same!(pid, gone);
    fails!(plain(&args, SIZE), EEXIST);
    same!(status(pid)?, 0);
    same!(
        status(trial(|| {
            become_user()?;
            fails!(plain(&args, SIZE), EPERM);
            Ok(())
        })?)?,
        0
    );
    Ok(())
}

fn set_tid_bad_arguments() -> Outcome {
    let tid = [0i32; 33];
    let at = (&raw const tid) as u64;
    fails!(plain(&Args { set_tid: at, set_tid_size: 0, ..simple() }, SIZE), EINVAL);
    fails!(plain(&Args { set_tid: 0, set_tid_size: 1, ..simple() }, SIZE), EINVAL);
    fails!(plain(&Args { set_tid: at, set_tid_size: 33, ..simple() }, SIZE), EINVAL);
    fails!(plain(&Args { set_tid: at, set_tid_size: 1, ..simple() }, SIZE), EINVAL);
    fails!(plain(&Args { set_tid: 8, set_tid_size: 1, ..simple() }, SIZE), EFAULT);
    let huge = i32::MAX;
    fails!(plain(&Args { set_tid: (&raw const huge) as u64, set_tid_size: 1, ..simple() }, SIZE), EINVAL);
    Ok(())
}

/// A child that ends when its pipe's other end does, and its pidfd.
fn child_with_pidfd(body: impl FnOnce() -> i32) -> Result<(i32, i32)> {
    let fd = -1i32;
    let pid = clone3(&Args { flags: PIDFD, pidfd: (&raw const fd) as u64, ..simple() }, SIZE, body)?;
    Ok((pid, peek((&raw const fd) as usize)))
}

fn pause_forever() -> i32 {
    loop {
        sleep_ms(1000);
    }
}

fn end(pid: i32) -> Result<()> {
    kill(pid, SIGKILL)?;
    wait(pid).map(drop)
}

fn pidfd_of_the_child() -> Outcome {
    let (pid, fd) = child_with_pidfd(|| 6)?;
    same!(sys!(SYS_fcntl, fd, F_GETFD)?, FD_CLOEXEC as usize);
    let mut info = zeroed::<siginfo_t>();
    sys!(SYS_waitid, P_PIDFD, fd, &raw mut info, WEXITED, 0)?;
    let words: [i32; 8] = peek((&raw const info) as usize);
    same!((words[3 + 1], words[0]), (pid, SIGCHLD));
    Ok(())
}

fn pidfd_cannot_be_detached_or_share_its_place() -> Outcome {
    let fd = -1i32;
    let at = (&raw const fd) as u64;
    fails!(plain(&Args { flags: PIDFD | 0x40_0000, pidfd: at, ..simple() }, SIZE), EINVAL);
    let both = PIDFD | CLONE_PARENT_SETTID as u64;
    fails!(plain(&Args { flags: both, pidfd: at, parent_tid: at, ..simple() }, SIZE), EINVAL);
    Ok(())
}

fn bad_place_of_the_pidfd_makes_no_child() -> Outcome {
    let (one, two) = pipe(0)?;
    close(one)?;
    close(two)?;
    fails!(plain(&Args { flags: PIDFD, pidfd: 8, ..simple() }, SIZE), EFAULT);
    fails!(sys!(SYS_wait4, -1, 0, 0, 0), ECHILD);
    same!(pipe(0)?, (one, two));
    Ok(())
}

fn pidfd_open_bad_arguments() -> Outcome {
    fails!(sys!(SYS_pidfd_open, 0, 0), EINVAL);
    fails!(sys!(SYS_pidfd_open, -1, 0), EINVAL);
    fails!(sys!(SYS_pidfd_open, getpid(), 1 << 20), EINVAL);
    fails!(sys!(SYS_pidfd_open, 1 << 22, 0), ESRCH);
    Ok(())
}

fn readable(fd: i32) -> Result<bool> {
    let mut poll = pollfd { fd, events: POLLIN, revents: 0 };
    let now = timespec_ms(0);
    Ok(sys!(SYS_ppoll, &raw mut poll, 1, &raw const now, 0, 8)? == 1)
}

fn pidfd_of_a_zombie_and_of_nobody() -> Outcome {
    let pid = child(|| 0)?;
    let mut info = zeroed::<siginfo_t>();
    sys!(SYS_waitid, P_PID, pid, &raw mut info, WEXITED | WNOWAIT, 0)?;
    let fd = sys!(SYS_pidfd_open, pid, 0)?;
    holds!(readable(fd as i32)?);
    same!(sys!(SYS_pidfd_send_signal, fd, 0, 0, 0)?, 0);
    same!(status(pid)?, 0);
    fails!(sys!(SYS_pidfd_send_signal, fd, 0, 0, 0), ESRCH);
    fails!(sys!(SYS_pidfd_open, pid, 0), ESRCH);
    fails!(sys!(SYS_waitid, P_PIDFD, fd, &raw mut info, WEXITED, 0), ECHILD);
    Ok(())
}

fn pidfd_is_readable_at_the_end() -> Outcome {
    let (pid, fd) = child_with_pidfd(pause_forever)?;
    holds!(!readable(fd)?);
    kill(pid, SIGKILL)?;
    let mut poll = pollfd { fd, events: POLLIN, revents: 0 };
    same!(sys!(SYS_ppoll, &raw mut poll, 1, 0, 0, 8)?, 1);
    same!(status(pid)?, 128 + SIGKILL);
    Ok(())
}

fn nonblocking_pidfd_is_eagain() -> Outcome {
    let pid = child(pause_forever)?;
    let fd = sys!(SYS_pidfd_open, pid, O_NONBLOCK)?;
    let mut info = zeroed::<siginfo_t>();
    fails!(sys!(SYS_waitid, P_PIDFD, fd, &raw mut info, WEXITED, 0), EAGAIN);
    same!(sys!(SYS_waitid, P_PIDFD, fd, &raw mut info, WEXITED | WNOHANG, 0)?, 0);
    end(pid)?;
    Ok(())
}

fn waitid_wants_a_pidfd() -> Outcome {
    let (read, _write) = pipe(0)?;
    let mut info = zeroed::<siginfo_t>();
    fails!(sys!(SYS_waitid, P_PIDFD, read, &raw mut info, WEXITED, 0), EBADF);
    fails!(sys!(SYS_waitid, P_PIDFD, 99, &raw mut info, WEXITED, 0), EBADF);
    fails!(sys!(SYS_waitid, P_PIDFD, -1, &raw mut info, WEXITED, 0), EINVAL);
    Ok(())
}

fn pidfd_signal_arrives() -> Outcome {
    let (pid, fd) = child_with_pidfd(pause_forever)?;
    sys!(SYS_pidfd_send_signal, fd, SIGTERM, 0, 0)?;
    same!(status(pid)?, 128 + SIGTERM);
    note_signal(SIGUSR1, 0)?;
    let own = sys!(SYS_pidfd_open, getpid(), 0)?;
    sys!(SYS_pidfd_send_signal, own, SIGUSR1, 0, 0)?;
    same!(count(), 1);
    Ok(())
}

fn pidfd_signal_bad_arguments() -> Outcome {
    let own = sys!(SYS_pidfd_open, getpid(), 0)?;
    let (read, _write) = pipe(0)?;
    fails!(sys!(SYS_pidfd_send_signal, own, 65, 0, 0), EINVAL);
    fails!(sys!(SYS_pidfd_send_signal, own, -1, 0, 0), EINVAL);
    fails!(sys!(SYS_pidfd_send_signal, own, 0, 8, 0), EFAULT);
    fails!(sys!(SYS_pidfd_send_signal, own, 0, 0, 1 << 20), EINVAL);
    fails!(sys!(SYS_pidfd_send_signal, read, 0, 0, 0), EBADF);
    fails!(sys!(SYS_pidfd_send_signal, 99, 0, 0, 0), EBADF);
    let mut info = [0i32; 32];
    info[0] = SIGUSR2;
    info[2] = -1;
    fails!(sys!(SYS_pidfd_send_signal, own, SIGUSR1, info.as_ptr(), 0), EINVAL);
    Ok(())
}

fn pidfd_signal_to_strangers_is_eperm() -> Outcome {
    let parent = sys!(SYS_pidfd_open, getpid(), 0)?;
    same!(
        status(trial(|| {
            become_user()?;
            fails!(sys!(SYS_pidfd_send_signal, parent, 0, 0, 0), EPERM);
            fails!(sys!(SYS_pidfd_getfd, parent, 0, 0), EPERM);
            Ok(())
        })?)?,
        0
    );
    same!(
        status(trial(|| {
            // kill's code cannot be forged for others.
            let mut info = [0i32; 32];
            info[0] = SIGUSR1;
            fails!(sys!(SYS_pidfd_send_signal, parent, SIGUSR1, info.as_ptr(), 0), EPERM);
            Ok(())
        })?)?,
        0
    );
    Ok(())
}

fn pidfd_of_a_proc_directory() -> Outcome {
    let pid = child(pause_forever)?;
    let fd = open(&format!("/proc/{pid}"), O_RDONLY | O_DIRECTORY, 0)?;
    sys!(SYS_pidfd_send_signal, fd, SIGKILL, 0, 0)?;
    same!(status(pid)?, 128 + SIGKILL);
    fails!(sys!(SYS_pidfd_getfd, fd, 0, 0), EBADF);
    Ok(())
}

fn pidfd_fdinfo_tells_the_pid() -> Outcome {
    let (pid, fd) = child_with_pidfd(pause_forever)?;
    let info = || content(&format!("/proc/self/fdinfo/{fd}")).map(|text| String::from_utf8_lossy(&text).to_string());
    holds!(info()?.contains(&format!("Pid:\t{pid}\n")));
    holds!(info()?.contains(&format!("NSpid:\t{pid}\n")));
    end(pid)?;
    holds!(info()?.contains("Pid:\t-1\n"));
    Ok(())
}

fn getfd_copies_a_descriptor() -> Outcome {
    let shared = Shared::new()?;
    let (pid, pidfd) = child_with_pidfd(|| {
        let Ok((read, writer)) = pipe(0) else { return 1 };
        let _ = write(writer, b"hello");
        shared.set(0, read as u32);
        pause_forever()
    })?;
    holds!((0..5000).any(|_| {
        sleep_ms(1);
        shared.get(0) != 0
    }));
    let fd = sys!(SYS_pidfd_getfd, pidfd, shared.get(0), 0)? as i32;
    let mut text = [0; 9];
    same!(read(fd, &mut text)?, 5);
    same!(sys!(SYS_fcntl, fd, F_GETFD)?, FD_CLOEXEC as usize);
    end(pid)?;
    Ok(())
}

fn getfd_bad_arguments() -> Outcome {
    let own = sys!(SYS_pidfd_open, getpid(), 0)?;
    let (read, _write) = pipe(0)?;
    fails!(sys!(SYS_pidfd_getfd, own, 0, 1), EINVAL);
    fails!(sys!(SYS_pidfd_getfd, own, 99, 0), EBADF);
    fails!(sys!(SYS_pidfd_getfd, read, 0, 0), EBADF);
    fails!(sys!(SYS_pidfd_getfd, -1, 0, 0), EBADF);
    let (pid, gone) = child_with_pidfd(|| 0)?;
    wait(pid)?;
    fails!(sys!(SYS_pidfd_getfd, gone, 0, 0), ESRCH);
    Ok(())
}

fn unshare_files_and_fs() -> Outcome {
    let (read, _write) = pipe(0)?;
    let pid = clone(CLONE_FILES | CLONE_FS | SIGCHLD, 0, std::ptr::null_mut(), std::ptr::null_mut(), 0)?;
    if pid == 0 {
        let done = sys!(SYS_unshare, CLONE_FILES | CLONE_FS | CLONE_SYSVSEM);
        let _ = close(read);
        let _ = sys!(SYS_umask, 0o123);
        exit(i32::from(done != Ok(0)));
    }
    same!(status(pid)?, 0);
    same!(sys!(SYS_fcntl, read, F_GETFD)?, 0);
    holds!(sys!(SYS_umask, 0o22)? != 0o123);
    Ok(())
}

fn unshare_bad_flags() -> Outcome {
    for flags in [1, CLONE_PARENT, CLONE_VFORK, CLONE_SETTLS, CLONE_PARENT_SETTID] {
        fails!(sys!(SYS_unshare, flags), EINVAL);
    }
    Ok(())
}

extern "C" fn unshare_in_thread(words: usize) -> i32 {
    let shared = Shared::at(words);
    for (index, flags) in [CLONE_VM, CLONE_SIGHAND, CLONE_THREAD].into_iter().enumerate() {
        let refused = matches!(sys!(SYS_unshare, flags), Err(Errno(EINVAL)));
        shared.word(index).store(1 + u32::from(refused), Ordering::SeqCst);
    }
    0
}

fn unshare_of_what_is_alone() -> Outcome {
    for flags in [0, CLONE_VM, CLONE_SIGHAND, CLONE_THREAD] {
        same!(sys!(SYS_unshare, flags)?, 0);
    }
    let shared = Shared::new()?;
    let flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    clone_on_stack(flags, std::ptr::null_mut(), 0, unshare_in_thread, shared.address(0))?;
    for index in 0..3 {
        holds!(shared.wait_for(index, 2));
    }
    Ok(())
}

fn namespaces_are_for_root() -> Outcome {
    same!(
        status(trial(|| {
            become_user()?;
            for flags in [CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET] {
                fails!(sys!(SYS_unshare, flags), EPERM);
                fails!(refuse(flags, SIGCHLD), EPERM);
            }
            Ok(())
        })?)?,
        0
    );
    fails!(refuse(CLONE_NEWNS | CLONE_FS, SIGCHLD), EINVAL);
    fails!(refuse(CLONE_NEWPID | CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, 0), EINVAL);
    Ok(())
}

fn kcmp_of_files_and_processes() -> Outcome {
    const FILE: i32 = 0;
    const VM: i32 = 1;
    const FILES: i32 = 2;
    let own = getpid();
    let (read, writer) = pipe(0)?;
    let copy = sys!(SYS_dup, read)?;
    same!(sys!(SYS_kcmp, own, own, FILE, read, copy)?, 0);
    let order = sys!(SYS_kcmp, own, own, FILE, read, writer)?;
    same!(order + sys!(SYS_kcmp, own, own, FILE, writer, read)?, 3);
    let pid = child(pause_forever)?;
    same!(sys!(SYS_kcmp, own, pid, FILE, read, read)?, 0);
    holds!(sys!(SYS_kcmp, own, pid, VM, 0, 0)? != 0);
    holds!(sys!(SYS_kcmp, own, pid, FILES, 0, 0)? != 0);
    same!(sys!(SYS_kcmp, pid, pid, VM, 0, 0)?, 0);
    end(pid)?;
    Ok(())
}

fn kcmp_bad_arguments() -> Outcome {
    let own = getpid();
    fails!(sys!(SYS_kcmp, own, 0, 1, 0, 0), ESRCH);
    fails!(sys!(SYS_kcmp, own, own, 0, 0, 999), EBADF);
    fails!(sys!(SYS_kcmp, own, own, 99, 0, 0), EINVAL);
    fails!(sys!(SYS_kcmp, own, own, -1, 0, 0), EINVAL);
    Ok(())
}

fn old_clone_takes_any_exit_signal() -> Outcome {
    let pid = clone(200, 0, std::ptr::null_mut(), std::ptr::null_mut(), 0)?;
    if pid == 0 {
        exit(4);
    }
    let mut raw = 0;
    fails!(sys!(SYS_wait4, pid, &raw mut raw, 0, 0), ECHILD);
    same!(sys!(SYS_wait4, pid, &raw mut raw, __WCLONE, 0)?, pid as usize);
    same!(WEXITSTATUS(raw), 4);
    Ok(())
}

fn vfork_child_is_killed() -> Outcome {
    let pid = clone(CLONE_VFORK | SIGCHLD, 0, std::ptr::null_mut(), std::ptr::null_mut(), 0)?;
    if pid == 0 {
        let _ = kill(getpid(), SIGKILL);
        exit(1);
    }
    same!(status(pid)?, 128 + SIGKILL);
    Ok(())
}
