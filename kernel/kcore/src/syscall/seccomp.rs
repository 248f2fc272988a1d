//! seccomp(2), and prctl(2) PR_SET_SECCOMP, which is the same with fewer words.

use abi::Errno;
use abi::process as p;
use abi::process::{SockFilter, SockFprog};

use super::{Context, UserPtr};
use crate::Result;
use crate::task::seccomp::bpf::{MAX_LENGTH, Program};
use crate::task::seccomp::{self, FilterOptions, Refusal};

/// seccomp(2).
pub fn seccomp(_cx: &mut Context<'_>, operation: u32, flags: u32, argument: u64) -> Result<usize> {
    match operation {
        p::SECCOMP_SET_MODE_STRICT if flags == 0 && argument == 0 => {
            seccomp::set_strict()?;
            Ok(0)
        }
        p::SECCOMP_SET_MODE_FILTER => set_filter(flags, argument),
        p::SECCOMP_GET_ACTION_AVAIL if flags == 0 => {
            let action = UserPtr::<u32>::new(argument).read()?;
            if seccomp::is_available(action) { Ok(0) } else { Err(Errno::EOPNOTSUPP) }
        }
        // SECCOMP_GET_NOTIF_SIZES: there is no user notification.
        _ => Err(Errno::EINVAL),
    }
}

/// PR_SET_SECCOMP.
pub(super) fn set_mode(mode: u64, argument: u64) -> Result<usize> {
    match u32::try_from(mode) {
        Ok(p::SECCOMP_MODE_STRICT) => {
            seccomp::set_strict()?;
            Ok(0)
        }
        Ok(p::SECCOMP_MODE_FILTER) => set_filter(0, argument),
        _ => Err(Errno::EINVAL),
    }
}

/// Returns 0, or with SECCOMP_FILTER_FLAG_TSYNC the thread that cannot follow.
fn set_filter(flags: u32, argument: u64) -> Result<usize> {
    const KNOWN: u32 = p::SECCOMP_FILTER_FLAG_TSYNC
        | p::SECCOMP_FILTER_FLAG_LOG
        | p::SECCOMP_FILTER_FLAG_SPEC_ALLOW
        | p::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let program = UserPtr::<SockFprog>::new(argument).read()?;
    let length = usize::from(program.len);
    if length == 0 || length > MAX_LENGTH {
        return Err(Errno::EINVAL);
    }
    seccomp::may_filter()?;
    let program = Program::check(&UserPtr::<SockFilter>::new(program.filter).read_many(length)?)?;
    let options = FilterOptions {
        all_threads: flags & p::SECCOMP_FILTER_FLAG_TSYNC != 0,
        log: flags & p::SECCOMP_FILTER_FLAG_LOG != 0,
    };
    match seccomp::add_filter(program, options) {
        Ok(()) => Ok(0),
        Err(Refusal::Error(error)) => Err(error),
        Err(Refusal::Thread(_)) if flags & p::SECCOMP_FILTER_FLAG_TSYNC_ESRCH != 0 => Err(Errno::ESRCH),
        Err(Refusal::Thread(tid)) => Ok(tid.unsigned_abs() as usize),
    }
}
