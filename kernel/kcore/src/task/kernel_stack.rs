//! Where in the kernel a task sleeps: `/proc/PID/wchan` and `/proc/PID/stack` (proc(5)).
//!
//! The addresses come from the frame records on its kernel stack, the names from the table behind the kernel image, which the
//! image hands in at boot ([`set_names`]). Without the table there are addresses alone.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Task, TaskState, current};

/// The function that a return address lies in: its name, how far into it that is, and its length.
pub type Names = fn(u64) -> Option<(&'static str, usize, usize)>;

hal::global! {
    static NAMES: spin::Once<Names> = spin::Once::new();
}

/// More frames than this are not looked at (Linux `MAX_STACK_TRACE_DEPTH`).
const MAX_FRAMES: usize = 64;

/// Who puts tasks to sleep: what called them is what a task waits in (Linux `in_sched_functions`).
const SLEEPERS: [&str; 5] = ["kcore::sched::", "kcore::sync::", "hal::", "core::", "__switch"];

/// A place on a kernel stack.
pub struct Frame {
    /// The return address.
    pub address: u64,
    /// Function, offset, length, if there is a name for it.
    pub function: Option<(&'static str, usize, usize)>,
}

/// Takes the table of names.
pub fn set_names(names: Names) {
    NAMES.call_once(|| names);
}

/// The calls that a sleeping task is in, innermost first. None for one that runs.
pub fn trace(task: &Arc<Task>) -> Vec<Frame> {
    let mut frames = Vec::new();
    if core::ptr::eq(&**task, &*current()) || task.state() == TaskState::Running {
        return frames;
    }
    let names = NAMES.get();
    task.thread.kernel_backtrace(&mut |address| {
        let function = names.and_then(|names| names(address));
        frames.push(Frame { address, function });
        frames.len() < MAX_FRAMES
    });
    frames
}

/// The name of the function that a task sleeps in.
pub fn wait_channel(task: &Arc<Task>) -> Option<&'static str> {
    let frames = trace(task);
    let mut names = frames.iter().filter_map(|frame| frame.function).map(|(name, ..)| name);
    let is_sleeper = |name: &str| SLEEPERS.iter().any(|prefix| name.trim_start_matches('<').starts_with(prefix));
    names.find(|name| !is_sleeper(name)).map(last_word)
}

/// `poll` of `<kcore::fs::pipe::Pipe as Trait>::poll::{closure#0}`: a word, as C's functions have one for a name.
fn last_word(name: &'static str) -> &'static str {
    let is_word = |part: &&str| {
        part.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    };
    name.rsplit("::").find(is_word).unwrap_or("0")
}

#[cfg(test)]
mod tests {
    use super::last_word;

    #[test]
    fn a_wait_channel_is_one_word() {
        assert_eq!(last_word("kcore::fs::pipe::read"), "read");
        assert_eq!(last_word("<kcore::fs::pipe::Pipe as kcore::fs::file::FileOps>::poll::{closure#0}"), "poll");
        assert_eq!(last_word("__switch"), "__switch");
        assert_eq!(last_word("{closure}"), "0");
    }
}
