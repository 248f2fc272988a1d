//! What runs on the console: the one command of `/etc/drupe/cmd`, or a login shell that is started again whenever it
//! ends. While it waits, init buries the dead and listens for the signals that end the system.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::setup::{self, ENVIRONMENT};
use crate::shutdown::{self, Action};
use crate::sys;

/// The signals that init waits for. They are blocked, so none is lost between two waits.
pub const SIGNALS: &[libc::c_int] = &[libc::SIGCHLD, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGINT];

/// A command whose end is the end of the system. The host tool writes it here for `make run CMD=...`.
pub const COMMAND_FILE: &str = "/etc/drupe/cmd";

const SHELL: &str = "/bin/sh";

/// A shell that ends within this time is probably broken.
const HASTE: Duration = Duration::from_secs(1);

/// How long a broken shell is left alone.
const REST: Duration = Duration::from_secs(2);

/// Runs `script` between the marks and returns its status as a shell has it. `Err`: a signal came to end the system.
pub fn command(script: &str) -> Result<i32, Action> {
    let mut command = Command::new(SHELL);
    command.arg("-c").arg(script);
    println!("=== CMD BEGIN ===");
    let status = match start(&mut command) {
        Ok(pid) => wait_for(pid)?,
        Err(error) => {
            eprintln!("init: {SHELL}: {error}");
            // What a shell says of a command that it does not find.
            127
        }
    };
    println!("=== CMD END status={status} ===");
    Ok(status)
}

/// Shells, one after the other, until a signal says otherwise.
pub fn shells() -> Action {
    loop {
        let started = Instant::now();
        if let Ok(text) = std::fs::read_to_string("/etc/motd") {
            print!("{text}");
        }
        let mut shell = Command::new(SHELL);
        // A dash before the name makes it a login shell: it reads /etc/profile.
        shell.arg0("-sh");
        match start(&mut shell) {
            Ok(pid) => {
                if let Err(action) = wait_for(pid) {
                    return action;
                }
            }
            Err(error) => eprintln!("init: {SHELL}: {error}"),
        }
        if started.elapsed() < HASTE {
            eprintln!("init: the shell ended at once; another in {} s", REST.as_secs());
            if let Err(action) = rest(REST) {
                return action;
            }
        }
    }
}

/// Starts `command` as leader of a session on the console's terminal.
fn start(command: &mut Command) -> std::io::Result<u32> {
    command.env_clear().envs(ENVIRONMENT.iter().copied());
    command.current_dir(if Path::new("/root").is_dir() { "/root" } else { "/" });
    sys::lead_session(command, setup::terminal());
    // The child is known by its number from here on: reaping is one for all, ours and inherited.
    sys::spawn(command)
}

/// Until `pid` ends.
fn wait_for(pid: u32) -> Result<i32, Action> {
    loop {
        while let Ok(Some(ended)) = sys::reap() {
            if ended.pid == pid {
                // Jobs that it left stopped or in the background lose their terminal, as at a logout.
                sys::kill_group(pid, libc::SIGHUP);
                return Ok(ended.status);
            }
        }
        if let Some(action) = sys::next_signal(SIGNALS, None).and_then(shutdown::action) {
            return Err(action);
        }
    }
}

/// Waits without leaving the dead unburied.
fn rest(time: Duration) -> Result<(), Action> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        match sys::next_signal(SIGNALS, Some(left)).map(shutdown::action) {
            Some(Some(action)) => return Err(action),
            Some(None) => while let Ok(Some(_)) = sys::reap() {},
            None => break,
        }
    }
    Ok(())
}
