//! Resource limits: getrlimit(2). A limit is charged where the resource is taken; what belongs to a user rather than to a
//! process (RLIMIT_NPROC) is counted here.

use alloc::collections::BTreeMap;

use abi::Errno;
use abi::capability::{CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
use abi::resource as r;
use abi::resource::Rlimit;
use abi::signal::{SI_USER, SIGXFSZ, SigInfo};
use hal::sync::SpinLock;

use super::Creds;
use crate::Result;
use crate::sync::order;

/// Number of resources (RLIM_NLIMITS).
pub const COUNT: usize = 16;

hal::global! {
    /// Threads per real user id.
    static THREADS: SpinLock<BTreeMap<u32, usize>> = SpinLock::new(order::TASK_FIELDS, BTreeMap::new());
}

/// The limits of the first process: Linux's `INIT_RLIMITS`, with NPROC and SIGPENDING at half of what memory allows
/// (`fork_init`).
pub fn initial(max_threads: u64) -> [Rlimit; COUNT] {
    const INFINITY: u64 = r::RLIM_INFINITY;
    let limit = |rlim_cur, rlim_max| Rlimit { rlim_cur, rlim_max };
    let mut limits = [limit(INFINITY, INFINITY); COUNT];
    limits[r::RLIMIT_STACK as usize] = limit(8 << 20, INFINITY);
    limits[r::RLIMIT_CORE as usize] = limit(0, INFINITY);
    limits[r::RLIMIT_NPROC as usize] = limit(max_threads / 2, max_threads / 2);
    limits[r::RLIMIT_NOFILE as usize] = limit(1024, 4096);
    limits[r::RLIMIT_MEMLOCK as usize] = limit(8 << 20, 8 << 20);
    limits[r::RLIMIT_SIGPENDING as usize] = limit(max_threads / 2, max_threads / 2);
    limits[r::RLIMIT_MSGQUEUE as usize] = limit(819_200, 819_200);
    limits[r::RLIMIT_NICE as usize] = limit(0, 0);
    limits[r::RLIMIT_RTPRIO as usize] = limit(0, 0);
    limits
}

/// Counts one more thread for the user. `EAGAIN` when that passes RLIMIT_NPROC, unless the user is root or has
/// CAP_SYS_RESOURCE or CAP_SYS_ADMIN (getrlimit(2), Linux `copy_process`).
pub fn charge_thread(creds: &Creds, soft_limit: u64) -> Result<()> {
    let exempt = creds.uid == 0 || creds.capable(CAP_SYS_RESOURCE) || creds.capable(CAP_SYS_ADMIN);
    let mut threads = THREADS.lock();
    let count = threads.entry(creds.uid).or_insert(0);
    if *count as u64 >= soft_limit && !exempt {
        return Err(Errno::EAGAIN);
    }
    *count += 1;
    Ok(())
}

/// Takes one thread off the user's count.
pub fn uncharge_thread(uid: u32) {
    let mut threads = THREADS.lock();
    if let Some(count) = threads.get_mut(&uid) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            threads.remove(&uid);
        }
    }
}

/// Moves a thread from one user to another (setuid). Never fails: execve checks the excess later (Linux `set_user`).
pub fn recharge_thread(from: u32, to: u32) {
    if from != to {
        uncharge_thread(from);
        *THREADS.lock().entry(to).or_insert(0) += 1;
    }
}

/// Threads of a user.
pub fn threads_of(uid: u32) -> usize {
    THREADS.lock().get(&uid).copied().unwrap_or(0)
}

/// Whether a change of user left the task over RLIMIT_NPROC (Linux PF_NPROC_EXCEEDED); the count may have fallen since.
pub fn exceeded(task: &super::Task) -> bool {
    task.has_flag(super::flags::NPROC_EXCEEDED)
}

/// Tells the thread that it wrote beyond RLIMIT_FSIZE (getrlimit(2); Linux `send_sig(SIGXFSZ, current, 0)`).
pub fn file_too_big(task: &super::Task) {
    let info = SigInfo::user(SIGXFSZ, SI_USER, task.tgid(), task.creds().uid);
    crate::signal::send_thread_info(&super::current().arc(), &info);
}

/// Checks and applies one change: soft above hard is `EINVAL`, raising the hard limit without CAP_SYS_RESOURCE is
/// `EPERM`, NOFILE beyond `nr_open` is `EPERM` (setrlimit(2)).
pub fn change(limits: &mut [Rlimit; COUNT], resource: u32, new: Rlimit, capable: bool) -> Result<()> {
    let slot = limits.get_mut(resource as usize).ok_or(Errno::EINVAL)?;
    if new.rlim_cur > new.rlim_max {
        return Err(Errno::EINVAL);
    }
    if resource == r::RLIMIT_NOFILE && new.rlim_max > crate::fs::fdtable::nr_open() {
        return Err(Errno::EPERM);
    }
    if new.rlim_max > slot.rlim_max && !capable {
        return Err(Errno::EPERM);
    }
    *slot = new;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{change, initial};
    use abi::Errno;
    use abi::resource::{RLIMIT_NOFILE, Rlimit};

    #[test]
    fn a_user_may_lower_the_hard_limit_but_not_raise_it_again() {
        let mut limits = initial(1000);
        let lower = Rlimit { rlim_cur: 10, rlim_max: 20 };
        assert_eq!(change(&mut limits, RLIMIT_NOFILE, lower, false), Ok(()));
        let raise = Rlimit { rlim_cur: 10, rlim_max: 21 };
        assert_eq!(change(&mut limits, RLIMIT_NOFILE, raise, false), Err(Errno::EPERM));
        assert_eq!(change(&mut limits, RLIMIT_NOFILE, raise, true), Ok(()));
    }

    #[test]
    fn soft_above_hard_is_refused() {
        let mut limits = initial(1000);
        let bad = Rlimit { rlim_cur: 2, rlim_max: 1 };
        assert_eq!(change(&mut limits, RLIMIT_NOFILE, bad, true), Err(Errno::EINVAL));
    }
}
