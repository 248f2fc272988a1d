//! Process 1: the first program, parent of all others.
//!
//! It prepares the system ([`setup`]), keeps a shell on the console or runs the one command of `make run CMD=...`
//! ([`service`]), buries orphans all the while, and takes the system down when it is told to ([`shutdown`]). It starts no
//! daemons and has no configuration: who wants those puts another init on the kernel's command line (`init=`).
//!
//! As any other process it does nothing of this: `init COMMAND` runs the command between the marks and exits with its
//! status, which is how it is tested under qemu-user; without a command it says what it is.
#![cfg_attr(not(test), no_main)]
#![deny(unsafe_code)]

mod service;
mod setup;
mod shutdown;
#[expect(unsafe_code, reason = "system calls that std has no safe name for")]
mod sys;

use shutdown::Action;

/// Where the C library enters. std's own entry would abort here: it wants 0, 1 and 2 to be open, or /dev/null to open in
/// their place, and process 1 is who makes both so.
#[cfg(not(test))]
#[expect(unsafe_code, reason = "the name by which the C library calls")]
#[unsafe(no_mangle)]
extern "C" fn main() -> libc::c_int {
    if std::process::id() == 1 { first_process() } else { ordinary_process() }
}

#[cfg_attr(test, expect(dead_code, reason = "process 1 is no place for a unit test"))]
fn first_process() -> ! {
    if let Err(error) = sys::block(service::SIGNALS) {
        eprintln!("init: sigprocmask: {error}");
    }
    setup::clock();
    setup::system();
    let action = match std::fs::read_to_string(service::COMMAND_FILE) {
        Ok(script) => service::command(&script).err().unwrap_or(Action::PowerOff),
        Err(_) => service::shells(),
    };
    shutdown::end(action)
}

#[cfg_attr(test, expect(dead_code, reason = "it takes the signals of the test program"))]
fn ordinary_process() -> libc::c_int {
    // musl hands the arguments to main only; /proc has them for everybody.
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let Some(script) = line.split(|&byte| byte == 0).nth(1).filter(|script| !script.is_empty()) else {
        eprintln!("init: this is process 1 of Drupe; as another process it only runs `init COMMAND`");
        return 1;
    };
    if sys::block(service::SIGNALS).is_err() {
        return 1;
    }
    service::command(&String::from_utf8_lossy(script)).unwrap_or(128 + libc::SIGTERM)
}
