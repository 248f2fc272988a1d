//! seccomp(2), and prctl(2) PR_SET_SECCOMP, which is the same with fewer words.

use abi::Errno;
use abi::process as p;
use abi::process::{SeccompData, SeccompNotif, SeccompNotifResp, SeccompNotifSizes, SockFilter, SockFprog};
use abi::resource::RLIMIT_NOFILE;

use super::{Context, UserPtr};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::task::Task;
use crate::task::seccomp::bpf::{MAX_LENGTH, Program};
use crate::task::seccomp::notify::Listener;
use crate::task::seccomp::{self, FilterOptions, Refusal};

/// seccomp(2).
pub fn seccomp(cx: &mut Context<'_>, operation: u32, flags: u32, argument: u64) -> Result<usize> {
    match operation {
        p::SECCOMP_SET_MODE_STRICT if flags == 0 && argument == 0 => {
            seccomp::set_strict()?;
            Ok(0)
        }
        p::SECCOMP_SET_MODE_FILTER => set_filter(&cx.task, flags, argument),
        p::SECCOMP_GET_ACTION_AVAIL if flags == 0 => {
            let action = UserPtr::<u32>::new(argument).read()?;
            if seccomp::is_available(action) { Ok(0) } else { Err(Errno::EOPNOTSUPP) }
        }
        p::SECCOMP_GET_NOTIF_SIZES if flags == 0 => {
            let sizes = SeccompNotifSizes {
                seccomp_notif: size_of::<SeccompNotif>() as u16,
                seccomp_notif_resp: size_of::<SeccompNotifResp>() as u16,
                seccomp_data: size_of::<SeccompData>() as u16,
            };
            UserPtr::new(argument).write(&sizes)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// PR_SET_SECCOMP.
pub(super) fn set_mode(task: &Task, mode: u64, argument: u64) -> Result<usize> {
    match u32::try_from(mode) {
        Ok(p::SECCOMP_MODE_STRICT) => {
            seccomp::set_strict()?;
            Ok(0)
        }
        Ok(p::SECCOMP_MODE_FILTER) => set_filter(task, 0, argument),
        _ => Err(Errno::EINVAL),
    }
}

/// Returns 0, with SECCOMP_FILTER_FLAG_TSYNC the thread that cannot follow, with SECCOMP_FILTER_FLAG_NEW_LISTENER a descriptor.
fn set_filter(task: &Task, flags: u32, argument: u64) -> Result<usize> {
    const KNOWN: u32 = p::SECCOMP_FILTER_FLAG_TSYNC
        | p::SECCOMP_FILTER_FLAG_LOG
        | p::SECCOMP_FILTER_FLAG_SPEC_ALLOW
        | p::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
        | p::SECCOMP_FILTER_FLAG_NEW_LISTENER
        | p::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let has = |flag: u32| flags & flag != 0;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    // The result would be a thread or a descriptor: which?
    let is_listening = has(p::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    if is_listening && has(p::SECCOMP_FILTER_FLAG_TSYNC) && !has(p::SECCOMP_FILTER_FLAG_TSYNC_ESRCH) {
        return Err(Errno::EINVAL);
    }
    if has(p::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) && !is_listening {
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
        all_threads: has(p::SECCOMP_FILTER_FLAG_TSYNC),
        log: has(p::SECCOMP_FILTER_FLAG_LOG),
        listener: None,
    };
    if is_listening {
        return listen(task, program, options, has(p::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV));
    }
    match seccomp::add_filter(program, options) {
        Ok(()) => Ok(0),
        Err(Refusal::Error(error)) => Err(error),
        Err(Refusal::Thread(_)) if has(p::SECCOMP_FILTER_FLAG_TSYNC_ESRCH) => Err(Errno::ESRCH),
        Err(Refusal::Thread(tid)) => Ok(tid.unsigned_abs() as usize),
    }
}

/// A filter with a supervisor (seccomp_unotify(2)): the descriptor is there before the filter is in force.
fn listen(task: &Task, program: Program, options: FilterOptions, wait_killable: bool) -> Result<usize> {
    let files = task.files();
    let fd = files.reserve(0, task.rlimit(RLIMIT_NOFILE), OnExec::Close)?;
    let listener = Listener::new(wait_killable);
    let options = FilterOptions { listener: Some(listener.clone()), ..options };
    seccomp::add_filter(program, options).map_err(|refusal| {
        files.unreserve(fd);
        match refusal {
            Refusal::Error(error) => error,
            Refusal::Thread(_) => Errno::ESRCH,
        }
    })?;
    files.install(fd, listener.file());
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}
