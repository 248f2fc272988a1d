//! What a program may expect to find: the kernel's file systems, a console on 0, 1 and 2, an environment, a name.
//! Nothing here ends init: what fails is said on the console, and the system comes up as far as it can.

use std::ffi::{CStr, CString};
use std::fs::{self, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use crate::sys;

struct Mount {
    kind: &'static CStr,
    target: &'static CStr,
    flags: libc::c_ulong,
    options: &'static CStr,
}

const PLAIN: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// A Pi has no clock that runs while it is off: time begins at the youngest time that is known for sure, when this program
/// was put into the root file system.
pub fn clock() {
    let built = fs::metadata("/init").and_then(|file| file.modified());
    if let Ok(built) = built
        && std::time::SystemTime::now() < built
        && let Ok(age) = built.duration_since(std::time::UNIX_EPOCH)
        && let Err(error) = sys::set_clock(age)
    {
        eprintln!("init: clock: {error}");
    }
}

/// In this order: the terminals need /dev.
const MOUNTS: &[Mount] = &[
    Mount { kind: c"proc", target: c"/proc", flags: PLAIN, options: c"" },
    Mount { kind: c"sysfs", target: c"/sys", flags: PLAIN, options: c"" },
    Mount { kind: c"devtmpfs", target: c"/dev", flags: libc::MS_NOSUID, options: c"mode=0755" },
    Mount {
        kind: c"devpts",
        target: c"/dev/pts",
        flags: libc::MS_NOSUID | libc::MS_NOEXEC,
        options: c"mode=0620,gid=5,ptmxmode=0666",
    },
    Mount { kind: c"tmpfs", target: c"/dev/shm", flags: libc::MS_NOSUID | libc::MS_NODEV, options: c"mode=1777" },
    Mount { kind: c"tmpfs", target: c"/tmp", flags: libc::MS_NOSUID | libc::MS_NODEV, options: c"mode=1777" },
    Mount { kind: c"tmpfs", target: c"/run", flags: libc::MS_NOSUID | libc::MS_NODEV, options: c"mode=0755" },
];

/// Links that udev makes elsewhere; programs count on them (`<(...)` of bash opens /dev/fd/63).
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// The environment of every program that init starts.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TERM", "linux"),
    ("USER", "root"),
    ("SHELL", "/bin/sh"),
];

/// Mounts and takes the console. Complaints wait until there is a console to write them on.
pub fn system() {
    let links = LINKS.iter().filter_map(link);
    let complaints: Vec<String> = MOUNTS.iter().filter_map(mount).chain(links).collect();
    if let Err(error) = console() {
        eprintln!("init: /dev/console: {error}");
    }
    for complaint in complaints {
        eprintln!("{complaint}");
    }
    // /etc/hostname may have comments in lines of their own (hostname(5)).
    let text = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    if let Err(error) = sys::set_host_name(name.unwrap_or("drupe")) {
        eprintln!("init: sethostname: {error}");
    }
}

/// Mounts one, making its directory where it is missing. EBUSY: the kernel has mounted it already.
fn mount(mount: &Mount) -> Option<String> {
    let name = mount.target.to_string_lossy();
    let made = fs::create_dir(&*name).and_then(|()| fs::set_permissions(&*name, Permissions::from_mode(0o755)));
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Some(format!("init: mkdir {name}: {error}")),
        _ => {}
    }
    match sys::mount(mount.kind, mount.target, mount.flags, mount.options) {
        Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
            Some(format!("init: mount {} on {name}: {error}", mount.kind.to_string_lossy()))
        }
        _ => None,
    }
}

/// The terminal behind /dev/console, by its own name (`/dev/ttyAMA0`). Under that name it can be the controlling terminal of
/// a session and has job control; /dev/console is for messages, and nobody shall be stopped for reading it.
pub fn terminal() -> Option<CString> {
    let number = sys::terminal_number(0)?;
    let is_it = |entry: &fs::DirEntry| {
        entry.metadata().is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == number)
    };
    let found = fs::read_dir("/dev").ok()?.filter_map(Result::ok).find(is_it)?;
    CString::new(found.path().into_os_string().into_encoded_bytes()).ok()
}

/// Makes one link, unless the kernel has made it already.
fn link((target, name): &(&str, &str)) -> Option<String> {
    match std::os::unix::fs::symlink(target, name) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Some(format!("init: {name}: {error}")),
        _ => None,
    }
}

/// Puts /dev/console on 0, 1 and 2. Init itself has no controlling terminal: Ctrl-C is not for it.
fn console() -> std::io::Result<()> {
    let console = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/console")?;
    let fd = console.as_raw_fd();
    sys::become_standard_streams(fd)?;
    if fd <= 2 {
        // It is one of the three now and must stay open.
        std::mem::forget(console);
    }
    Ok(())
}
