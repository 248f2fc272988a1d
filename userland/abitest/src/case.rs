//! A case: a function that runs in a process of its own, in a session of its own, in an empty directory of its own, with a
//! deadline. So a crash or a hang costs one case, and no case sees another's leftovers.

use std::panic::Location;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::kernel::{self, Errno};

/// Why a case failed, with the place.
pub struct Failure(pub String);

impl From<Errno> for Failure {
    #[track_caller]
    fn from(error: Errno) -> Self {
        let place = Location::caller();
        Self(format!("line {}: {error:?}", place.line()))
    }
}

/// What a case returns.
pub type Outcome = Result<(), Failure>;

/// A case and its name.
pub type Case = (&'static str, fn() -> Outcome);

/// `cases![a, b]`: the table of a family, each case under its function's name.
macro_rules! cases {
    ($($case:ident),* $(,)?) => { &[$((stringify!($case), $case as fn() -> $crate::case::Outcome)),*] };
}
pub(crate) use cases;

/// The result of a call that a kernel may lack: without it (ENOSYS) the case is skipped, not failed.
macro_rules! optional {
    ($call:expr) => {
        match $call {
            Err($crate::kernel::Errno($crate::kernel::ENOSYS)) => $crate::kernel::exit($crate::case::SKIPPED),
            result => result?,
        }
    };
}
pub(crate) use optional;

/// The exit status of a case that asks for a call the kernel lacks.
pub const SKIPPED: i32 = 77;

/// Fails the case unless both are the same.
macro_rules! same {
    ($left:expr, $right:expr) => {{
        let (left, right) = ($left, $right);
        if left != right {
            return Err($crate::case::Failure(format!(
                "line {}: {} is {left:?}, not {right:?}",
                line!(),
                stringify!($left)
            )));
        }
    }};
}
pub(crate) use same;

/// Fails the case unless it holds.
macro_rules! holds {
    ($condition:expr) => {
        if !$condition {
            return Err($crate::case::Failure(format!("line {}: not so: {}", line!(), stringify!($condition))));
        }
    };
}
pub(crate) use holds;

/// Fails the case unless the call fails with this errno.
macro_rules! fails {
    ($call:expr, $errno:ident) => {{
        let result = $call;
        if !matches!(result, Err($crate::kernel::Errno(error)) if error == $crate::kernel::$errno) {
            return Err($crate::case::Failure(format!(
                "line {}: {} is {result:?}, not {}", line!(), stringify!($call), stringify!($errno))));
        }
    }};
}
pub(crate) use fails;

/// The longest that a case may take.
const DEADLINE_MS: i64 = 60_000;

/// Where the running case tells of its failure.
static REPORT: AtomicI32 = AtomicI32::new(-1);

/// Tells the runner why; for children of a case, whose status alone says little.
pub fn tell(failure: &Failure) {
    let _ = kernel::write(REPORT.load(Ordering::SeqCst), failure.0.as_bytes());
}

/// How a case that did not fail ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// The kernel lacks the call.
    Skipped,
}

/// Runs one case. `Err`: why it failed.
pub fn run(function: fn() -> Outcome, directory: &str) -> Result<Verdict, String> {
    let (reader, writer) =
        kernel::pipe(kernel::O_CLOEXEC | kernel::O_NONBLOCK).map_err(|error| format!("pipe2: {error:?}"))?;
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory).map_err(|error| format!("{directory}: {error}"))?;
    let child = kernel::child(|| {
        let _ = kernel::close(reader);
        let _ = kernel::sys!(kernel::SYS_setsid);
        REPORT.store(writer, Ordering::SeqCst);
        let _ = std::env::set_current_dir(directory);
        match function() {
            Ok(()) => 0,
            Err(failure) => {
                tell(&failure);
                1
            }
        }
    });
    let _ = kernel::close(writer);
    let verdict = match child {
        Ok(pid) => judge(pid, reader),
        Err(error) => Err(format!("fork: {error:?}")),
    };
    let _ = kernel::close(reader);
    let _ = std::fs::remove_dir_all(directory);
    verdict
}

/// Waits for the case by looking again and again: neither SIGCHLD nor timers are taken for granted here.
fn judge(pid: i32, reader: i32) -> Result<Verdict, String> {
    let mut status = 0;
    let mut waited_ms = 0;
    loop {
        match kernel::sys!(kernel::SYS_wait4, pid, &raw mut status, kernel::WNOHANG, 0) {
            Ok(0) => {}
            Ok(_) => break,
            Err(error) => return Err(format!("wait4: {error:?}")),
        }
        if waited_ms > DEADLINE_MS {
            let _ = kernel::kill(-pid, kernel::SIGKILL);
            let _ = kernel::kill(pid, kernel::SIGKILL);
            let _ = kernel::wait(pid);
            return Err(format!("no end within {} s", DEADLINE_MS / 1000));
        }
        let nap_ms = if waited_ms < 20 { 1 } else { 10 };
        kernel::sleep_ms(nap_ms);
        waited_ms += nap_ms;
    }
    // What the case has left running.
    let _ = kernel::kill(-pid, kernel::SIGKILL);
    let mut text = [0; 1000];
    let length = kernel::read(reader, &mut text).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..length]).replace('\n', " ");
    if kernel::WIFSIGNALED(status) {
        return Err(format!("killed by signal {} {text}", kernel::WTERMSIG(status)));
    }
    match kernel::WEXITSTATUS(status) {
        0 => Ok(Verdict::Passed),
        SKIPPED => Ok(Verdict::Skipped),
        1 => Err(text),
        other => Err(format!("exit status {other} {text}")),
    }
}
