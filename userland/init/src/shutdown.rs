//! The end: everybody is asked to go, then made to; what is mounted is let go; the machine stops. The signals are those
//! that BusyBox's `poweroff`, `halt` and `reboot` send to process 1.

use std::ffi::CString;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::service::SIGNALS;
use crate::sys;

/// How the system ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Power off.
    PowerOff,
    /// Stop, with the power on.
    Halt,
    /// Start again.
    Restart,
}

/// How long programs have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// What `signal` asks for. SIGINT is what the kernel sends for Ctrl-Alt-Del.
pub fn action(signal: libc::c_int) -> Option<Action> {
    match signal {
        libc::SIGUSR2 => Some(Action::PowerOff),
        libc::SIGUSR1 => Some(Action::Halt),
        libc::SIGTERM | libc::SIGINT => Some(Action::Restart),
        _ => None,
    }
}

/// Ends the system.
pub fn end(action: Action) -> ! {
    let (verb, command) = match action {
        Action::PowerOff => ("powers off", libc::RB_POWER_OFF),
        Action::Halt => ("halts", libc::RB_HALT_SYSTEM),
        Action::Restart => ("restarts", libc::RB_AUTOBOOT),
    };
    println!("init: the system {verb}");
    clear_away(libc::SIGTERM);
    clear_away(libc::SIGKILL);
    sys::sync();
    unmount_all();
    let _ = std::io::stdout().flush();
    let error = sys::reboot(command);
    eprintln!("init: reboot: {error}");
    // Process 1 must not end: the kernel would panic.
    loop {
        sys::pause();
    }
}

/// Sends `signal` to all and waits until nobody is left or the time is over.
fn clear_away(signal: libc::c_int) {
    sys::kill_all(signal);
    // A stopped process takes SIGTERM only once it runs.
    sys::kill_all(libc::SIGCONT);
    let end = Instant::now() + GRACE;
    // Orphans become our children, so "no children" is "nobody".
    while let Ok(ended) = sys::reap() {
        if ended.is_some() {
            continue;
        }
        let Some(left) = end.checked_duration_since(Instant::now()) else { return };
        sys::next_signal(SIGNALS, Some(left));
    }
}

/// Unmounts what /proc/mounts lists, last first. The root stays and becomes read-only.
fn unmount_all() {
    let table = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for target in table.lines().rev().filter_map(target) {
        if target != "/" {
            let _ = CString::new(target).map(|target| sys::unmount_detached(&target));
        }
    }
    // A root that cannot be read-only (an initramfs has no need) is no reason to stay up.
    let _ = sys::remount_root_readonly();
}

/// The second field of a line of /proc/mounts, its octal escapes undone (proc(5): blank, tab, newline, backslash).
fn target(line: &str) -> Option<String> {
    let field = line.split(' ').nth(1)?;
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    Some(escapes.iter().fold(field.to_string(), |text, (code, plain)| text.replace(code, plain)))
}

#[cfg(test)]
mod tests {
    use super::{Action, action, target};

    #[test]
    fn signals_mean_what_busybox_means() {
        assert_eq!(action(libc::SIGUSR2), Some(Action::PowerOff));
        assert_eq!(action(libc::SIGUSR1), Some(Action::Halt));
        assert_eq!(action(libc::SIGTERM), Some(Action::Restart));
        assert_eq!(action(libc::SIGCHLD), None);
    }

    #[test]
    fn mount_points_with_blanks_are_found() {
        assert_eq!(target("tmpfs /mnt/a\\040b tmpfs rw 0 0").as_deref(), Some("/mnt/a b"));
        assert_eq!(target(""), None);
    }
}
