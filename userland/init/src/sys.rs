//! The system calls of init that std has no safe name for. All `unsafe` of this program is here; each function checks
//! nothing and decides nothing, it only makes the call sound.

use std::ffi::{CStr, CString};
use std::io::{Error, Result};
use std::process::Command;
use std::time::Duration;

use std::os::unix::process::CommandExt;

/// What ended: a process and how, as `waitpid(2)` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The process.
    pub pid: u32,
    /// Its exit status, or 128 and its signal, as a shell has it.
    pub status: i32,
}

fn check(result: libc::c_int) -> Result<libc::c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// `mount(2)` of a file system without a device.
pub fn mount(kind: &CStr, target: &CStr, flags: libc::c_ulong, options: &CStr) -> Result<()> {
    // SAFETY: the four strings end in NUL and outlive the call.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    check(result).map(drop)
}

/// Makes the root read-only, so that nothing is half written when the power goes.
pub fn remount_root_readonly() -> Result<()> {
    let flags = libc::MS_REMOUNT | libc::MS_RDONLY;
    // SAFETY: the strings are literals; a remount reads neither source, type nor data.
    let result = unsafe { libc::mount(c"".as_ptr(), c"/".as_ptr(), c"".as_ptr(), flags, std::ptr::null()) };
    check(result).map(drop)
}

/// `umount2(2)`; what is busy disappears from the tree and ends with its last user.
pub fn unmount_detached(target: &CStr) -> Result<()> {
    // SAFETY: the string ends in NUL.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// `sethostname(2)`.
pub fn set_host_name(name: &str) -> Result<()> {
    // SAFETY: pointer and length are of one string; the call reads it.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Puts `fd` at 0, 1 and 2.
pub fn become_standard_streams(fd: libc::c_int) -> Result<()> {
    for standard in 0..=2 {
        // SAFETY: dup2 works on numbers; std holds no owner for 0, 1 and 2 that would be surprised.
        check(unsafe { libc::dup2(fd, standard) })?;
    }
    Ok(())
}

/// A set of signals.
fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain words, and sigemptyset defines each of them.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Blocks `signals`, so that they wait for [`next_signal`].
pub fn block(signals: &[libc::c_int]) -> Result<()> {
    let set = set_of(signals);
    // SAFETY: the set is initialised; the old one is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }).map(drop)
}

/// The next of the blocked `signals`, or `None` when `patience` is over first. `sigtimedwait(2)`.
pub fn next_signal(signals: &[libc::c_int], patience: Option<Duration>) -> Option<libc::c_int> {
    let set = set_of(signals);
    let timeout = patience.map(|time| libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the set is initialised, no siginfo is asked for, the timeout is null or points to a live local.
    let signal = unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), timeout) };
    (signal > 0).then_some(signal)
}

/// Reaps one child that has ended, ours or inherited. `Err` with ECHILD: there are no children at all.
pub fn reap() -> Result<Option<Ended>> {
    let mut raw = 0;
    // SAFETY: the status is a live local.
    let pid = check(unsafe { libc::waitpid(-1, &raw mut raw, libc::WNOHANG) })?;
    let status = if libc::WIFSIGNALED(raw) { 128 + libc::WTERMSIG(raw) } else { libc::WEXITSTATUS(raw) };
    Ok((pid > 0).then_some(Ended { pid: pid.cast_unsigned(), status }))
}

/// Sends `signal` to every process but this one (`kill(-1)` spares process 1).
pub fn kill_all(signal: libc::c_int) {
    // SAFETY: kill works on numbers. ESRCH, nobody there, is as good as success.
    unsafe { libc::kill(-1, signal) };
}

/// Sends `signal` to the process group that `leader` leads.
pub fn kill_group(leader: u32, signal: libc::c_int) {
    // SAFETY: kill works on numbers.
    unsafe { libc::kill(-leader.cast_signed(), signal) };
}

/// `sync(2)`.
pub fn sync() {
    // SAFETY: no arguments.
    unsafe { libc::sync() };
}

/// `reboot(2)`. Returns only when it was refused.
pub fn reboot(command: libc::c_int) -> Error {
    // SAFETY: the call takes a number.
    unsafe { libc::reboot(command) };
    Error::last_os_error()
}

/// Waits for ever.
pub fn pause() {
    // SAFETY: no arguments.
    unsafe { libc::pause() };
}

/// The device number of the terminal behind `fd`, as `stat(2)` has it. On /dev/console it is the number of the terminal that
/// is the console.
pub fn terminal_number(fd: libc::c_int) -> Option<u64> {
    // `_IOR('T', 0x32, unsigned int)`; the C library for musl has no name for it.
    const TIOCGDEV: libc::c_int = 0x8004_5432_u32.cast_signed();
    let mut number: libc::c_uint = 0;
    // SAFETY: the call writes one number.
    check(unsafe { libc::ioctl(fd, TIOCGDEV as _, &raw mut number) }).ok()?;
    Some(number.into())
}

/// Has the child lead a session whose controlling terminal is `terminal`, which becomes its standard streams, with no
/// signal blocked. Without `terminal`, or when it cannot be opened, the streams stay what they are.
///
/// The mask is ours otherwise: since Rust 1.66 a child of `Command` inherits it.
pub fn lead_session(command: &mut Command, terminal: Option<CString>) {
    let prepare = move || {
        let none = set_of(&[]);
        // SAFETY: the calls work on numbers, an initialised set and a string that lives as long as the closure, and are
        // async-signal-safe, which is what a child between fork and exec may call.
        unsafe {
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::setsid();
            if let Some(terminal) = &terminal {
                let fd = libc::open(terminal.as_ptr(), libc::O_RDWR);
                if fd >= 0 {
                    for standard in 0..=2 {
                        libc::dup2(fd, standard);
                    }
                }
                if fd > 2 {
                    libc::close(fd);
                }
            }
            // A terminal that is another session's is not taken away from it; the shell then says it has no job control.
            libc::ioctl(0, libc::TIOCSCTTY as _, 0);
        }
        Ok(())
    };
    // SAFETY: `prepare` allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Starts `command` in a child and returns the child's number. `Command::spawn` would want a socket pair to hear of a failed
/// exec; here the child says so itself and ends with 127, as a shell's does.
pub fn spawn(command: &mut Command) -> std::io::Result<u32> {
    // SAFETY: init has one thread, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        0 => {
            let error = command.exec();
            eprintln!("init: {}: {error}", command.get_program().display());
            std::process::exit(127)
        }
        child => u32::try_from(child).map_err(|_| Error::last_os_error()),
    }
}

/// `clock_settime(2)`: real time since 1970.
pub fn set_clock(age: std::time::Duration) -> std::io::Result<()> {
    let now = libc::timespec { tv_sec: age.as_secs().cast_signed(), tv_nsec: age.subsec_nanos().into() };
    // SAFETY: the call reads one structure.
    match unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const now) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
