//! prctl(2): small attributes of a thread or a process. What an option is for decides the family below; what is not listed
//! is `EINVAL`, as on a Linux that is built without it (tagged addresses, SVE, pointer authentication, core scheduling).

use core::sync::atomic::Ordering;

use abi::Errno;
use abi::capability as cap;
use abi::prctl as pr;

use super::identity::commit;
use super::{Context, UserPtr};
use crate::Result;
use crate::task::{Creds, Task, flags};

/// The four arguments behind the option, by their places in the man page.
#[derive(Clone, Copy)]
struct Arguments {
    arg2: u64,
    arg3: u64,
    arg4: u64,
    arg5: u64,
}

impl Arguments {
    /// `EINVAL` unless everything behind arg2 is zero.
    fn only_arg2(self) -> Result<u64> {
        if self.arg3 | self.arg4 | self.arg5 == 0 { Ok(self.arg2) } else { Err(Errno::EINVAL) }
    }

    /// `EINVAL` unless all of them are zero.
    fn none(self) -> Result<()> {
        if self.arg2 | self.arg3 | self.arg4 | self.arg5 == 0 { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

/// A flag argument: 0 or 1, else `EINVAL`.
fn switch(value: u64) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

/// prctl(2).
pub fn prctl(cx: &mut Context<'_>, option: u32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) -> Result<usize> {
    let args = Arguments { arg2, arg3, arg4, arg5 };
    let task = &cx.task;
    match option {
        pr::PR_SET_PDEATHSIG | pr::PR_GET_PDEATHSIG => parent_death_signal(task, option, arg2),
        pr::PR_SET_NAME | pr::PR_GET_NAME => name(task, option, arg2),
        pr::PR_GET_DUMPABLE | pr::PR_SET_DUMPABLE => dumpable(task, option, arg2),
        pr::PR_SET_CHILD_SUBREAPER | pr::PR_GET_CHILD_SUBREAPER => subreaper(task, option, arg2),
        pr::PR_SET_NO_NEW_PRIVS | pr::PR_GET_NO_NEW_PRIVS => no_new_privs(task, option, args),
        pr::PR_SET_TIMERSLACK | pr::PR_GET_TIMERSLACK => timer_slack(task, option, arg2),
        pr::PR_SET_THP_DISABLE | pr::PR_GET_THP_DISABLE => thp_disable(task, option, args),
        pr::PR_MCE_KILL | pr::PR_MCE_KILL_GET => memory_error_policy(task, option, args),
        pr::PR_SET_IO_FLUSHER | pr::PR_GET_IO_FLUSHER => io_flusher(task, option, args),
        pr::PR_SET_PTRACER => crate::task::yama::set_ptracer(arg2).map(|()| 0),
        pr::PR_SET_MM => super::prctl_mm::set_mm(task, arg2, arg3, arg4, arg5),
        pr::PR_GET_TID_ADDRESS => {
            UserPtr::<u64>::new(arg2).write(&task.clear_child_tid.load(Ordering::Relaxed))?;
            Ok(0)
        }
        // Statistical accounting is the only kind that Linux has.
        pr::PR_GET_TIMING => Ok(0),
        pr::PR_SET_TIMING if arg2 == 0 => Ok(0),
        pr::PR_GET_SPECULATION_CTRL => match args.only_arg2()? {
            // PR_SPEC_STORE_BYPASS: the cores of the Pi 3 do not speculate past stores (PR_SPEC_NOT_AFFECTED).
            0 => Ok(0),
            _ => Err(Errno::ENODEV),
        },
        pr::PR_GET_KEEPCAPS | pr::PR_SET_KEEPCAPS => keep_capabilities(task, option, arg2),
        pr::PR_GET_SECUREBITS => Ok(task.creds().securebits as usize),
        pr::PR_SET_SECUREBITS => set_securebits(task, arg2),
        pr::PR_CAPBSET_READ | pr::PR_CAPBSET_DROP => bounding_set(task, option, arg2),
        pr::PR_GET_SECCOMP => Ok(task.seccomp.mode_and_filters().0 as usize),
        pr::PR_SET_SECCOMP => super::seccomp::set_mode(task, arg2, arg3),
        pr::PR_CAP_AMBIENT => ambient_set(task, args),
        _ => Err(Errno::EINVAL),
    }
}

fn parent_death_signal(task: &Task, option: u32, arg: u64) -> Result<usize> {
    if option == pr::PR_GET_PDEATHSIG {
        UserPtr::<u32>::new(arg).write(&task.parent_death_signal.load(Ordering::Relaxed))?;
        return Ok(0);
    }
    let signal = u32::try_from(arg).ok().filter(|signal| *signal <= crate::signal::COUNT).ok_or(Errno::EINVAL)?;
    task.parent_death_signal.store(signal, Ordering::Relaxed);
    Ok(0)
}

fn name(task: &Task, option: u32, arg: u64) -> Result<usize> {
    if option == pr::PR_GET_NAME {
        UserPtr::<[u8; pr::TASK_COMM_LEN]>::new(arg).write(&task.comm_bytes())?;
        return Ok(0);
    }
    let mut name = [0; pr::TASK_COMM_LEN];
    let (text, _nul) = name.split_at_mut(pr::TASK_COMM_LEN - 1);
    hal::uaccess::copy_string_from_user(text, arg).map_err(|_| Errno::EFAULT)?;
    task.set_comm(&name);
    Ok(0)
}

/// 2 (readable by root only) is the kernel's to set, not the process's.
fn dumpable(task: &Task, option: u32, arg: u64) -> Result<usize> {
    if option == pr::PR_SET_DUMPABLE {
        task.group.dumpable.store(u32::from(switch(arg)?), Ordering::Relaxed);
        return Ok(0);
    }
    Ok(task.group.dumpable.load(Ordering::Relaxed) as usize)
}

fn subreaper(task: &Task, option: u32, arg: u64) -> Result<usize> {
    if option == pr::PR_SET_CHILD_SUBREAPER {
        task.group.is_subreaper.store(arg != 0, Ordering::Relaxed);
    } else {
        UserPtr::<u32>::new(arg).write(&u32::from(task.group.is_subreaper.load(Ordering::Relaxed)))?;
    }
    Ok(0)
}

/// A one-way road: it can be set and never cleared.
fn no_new_privs(task: &Task, option: u32, args: Arguments) -> Result<usize> {
    if option == pr::PR_GET_NO_NEW_PRIVS {
        args.none()?;
        return Ok(usize::from(task.no_new_privs.load(Ordering::Relaxed)));
    }
    if args.only_arg2()? != 1 {
        return Err(Errno::EINVAL);
    }
    task.no_new_privs.store(true, Ordering::Relaxed);
    Ok(0)
}

fn timer_slack(task: &Task, option: u32, arg: u64) -> Result<usize> {
    if option == pr::PR_GET_TIMERSLACK {
        // As Linux: a slack beyond the positive numbers looks like an error to the C library.
        return usize::try_from(task.timer_slack_ns.load(Ordering::Relaxed)).map_err(|_| Errno::EINVAL);
    }
    let slack = if arg == 0 { task.default_timer_slack_ns.load(Ordering::Relaxed) } else { arg };
    task.timer_slack_ns.store(slack, Ordering::Relaxed);
    Ok(0)
}

fn thp_disable(task: &Task, option: u32, args: Arguments) -> Result<usize> {
    if option == pr::PR_GET_THP_DISABLE {
        args.none()?;
        return Ok(usize::from(task.mm().is_some_and(|mm| mm.huge_pages_off())));
    }
    let off = args.only_arg2()? != 0;
    if let Some(mm) = task.mm() {
        mm.set_huge_pages_off(off);
    }
    Ok(0)
}

/// PR_MCE_KILL: kept and told; memory that reports its errors is not in any Pi.
fn memory_error_policy(task: &Task, option: u32, args: Arguments) -> Result<usize> {
    const CLEAR: u64 = 0;
    const SET: u64 = 1;
    /// PR_MCE_KILL_LATE, PR_MCE_KILL_EARLY, PR_MCE_KILL_DEFAULT.
    const POLICIES: [u32; 3] = [flags::MCE_PROCESS, flags::MCE_PROCESS | flags::MCE_EARLY, 0];
    const BOTH: u32 = flags::MCE_PROCESS | flags::MCE_EARLY;
    if option == pr::PR_MCE_KILL_GET {
        args.none()?;
        let now = task.flags.load(Ordering::Relaxed) & BOTH;
        return Ok(POLICIES.iter().position(|policy| *policy == now).unwrap_or(2));
    }
    if args.arg4 | args.arg5 != 0 {
        return Err(Errno::EINVAL);
    }
    let new = match (args.arg2, args.arg3) {
        (CLEAR, 0) => 0,
        (SET, policy) => {
            let policy = usize::try_from(policy).map_err(|_| Errno::EINVAL)?;
            *POLICIES.get(policy).ok_or(Errno::EINVAL)?
        }
        _ => return Err(Errno::EINVAL),
    };
    task.flags.fetch_and(!(BOTH & !new), Ordering::Relaxed);
    task.flags.fetch_or(new, Ordering::Relaxed);
    Ok(0)
}

fn io_flusher(task: &Task, option: u32, args: Arguments) -> Result<usize> {
    if !task.capable(cap::CAP_SYS_RESOURCE) {
        return Err(Errno::EPERM);
    }
    if option == pr::PR_GET_IO_FLUSHER {
        args.none()?;
        return Ok(usize::from(task.flags.load(Ordering::Relaxed) & flags::IO_FLUSHER == flags::IO_FLUSHER));
    }
    if switch(args.only_arg2()?)? {
        task.flags.fetch_or(flags::IO_FLUSHER, Ordering::Relaxed);
    } else {
        task.flags.fetch_and(!flags::IO_FLUSHER, Ordering::Relaxed);
    }
    Ok(0)
}

fn keep_capabilities(task: &Task, option: u32, arg: u64) -> Result<usize> {
    let old = task.creds();
    if option == pr::PR_GET_KEEPCAPS {
        return Ok(usize::from(old.securebits & pr::SECBIT_KEEP_CAPS != 0));
    }
    let keep = if switch(arg)? { pr::SECBIT_KEEP_CAPS } else { 0 };
    if old.securebits & pr::SECBIT_KEEP_CAPS_LOCKED != 0 {
        return Err(Errno::EPERM);
    }
    commit(task, &old, Creds { securebits: old.securebits & !pr::SECBIT_KEEP_CAPS | keep, ..Creds::clone(&old) });
    Ok(0)
}

/// PR_SET_SECUREBITS: a locked bit keeps its value, a lock cannot be opened, CAP_SETPCAP is needed (capabilities(7);
/// Linux `cap_task_prctl`).
fn set_securebits(task: &Task, arg: u64) -> Result<usize> {
    const BITS: u32 =
        pr::SECBIT_NOROOT | pr::SECBIT_NO_SETUID_FIXUP | pr::SECBIT_KEEP_CAPS | pr::SECBIT_NO_CAP_AMBIENT_RAISE;
    const LOCKS: u32 = BITS << 1;
    let old = task.creds();
    let new = u32::try_from(arg).ok().filter(|new| new & !(BITS | LOCKS) == 0).ok_or(Errno::EPERM)?;
    let locked = (old.securebits & LOCKS) >> 1;
    if locked & (old.securebits ^ new) != 0 || old.securebits & LOCKS & !new != 0 || !old.own_capable(cap::CAP_SETPCAP)
    {
        return Err(Errno::EPERM);
    }
    commit(task, &old, Creds { securebits: new, ..Creds::clone(&old) });
    Ok(0)
}

/// The bit of a capability that exists.
fn capability_bit(number: u64) -> Result<u64> {
    if number <= u64::from(cap::CAP_LAST_CAP) { Ok(1 << number) } else { Err(Errno::EINVAL) }
}

fn bounding_set(task: &Task, option: u32, arg: u64) -> Result<usize> {
    let old = task.creds();
    if option == pr::PR_CAPBSET_READ {
        return Ok(usize::from(old.cap_bounding & capability_bit(arg)? != 0));
    }
    if !old.own_capable(cap::CAP_SETPCAP) {
        return Err(Errno::EPERM);
    }
    let cap_bounding = old.cap_bounding & !capability_bit(arg)?;
    commit(task, &old, Creds { cap_bounding, ..Creds::clone(&old) });
    Ok(0)
}

/// PR_CAP_AMBIENT: ambient capabilities are always permitted and inheritable ones.
fn ambient_set(task: &Task, args: Arguments) -> Result<usize> {
    let old = task.creds();
    let clear_all = args.arg2 == u64::from(pr::PR_CAP_AMBIENT_CLEAR_ALL);
    if args.arg4 | args.arg5 != 0 || clear_all && args.arg3 != 0 {
        return Err(Errno::EINVAL);
    }
    if clear_all {
        commit(task, &old, Creds { cap_ambient: 0, ..Creds::clone(&old) });
        return Ok(0);
    }
    let bit = capability_bit(args.arg3)?;
    let cap_ambient = match u32::try_from(args.arg2) {
        Ok(pr::PR_CAP_AMBIENT_IS_SET) => return Ok(usize::from(old.cap_ambient & bit != 0)),
        Ok(pr::PR_CAP_AMBIENT_RAISE) => {
            let allowed = old.cap_permitted & old.cap_inheritable & bit != 0;
            if !allowed || old.securebits & pr::SECBIT_NO_CAP_AMBIENT_RAISE != 0 {
                return Err(Errno::EPERM);
            }
            old.cap_ambient | bit
        }
        Ok(pr::PR_CAP_AMBIENT_LOWER) => old.cap_ambient & !bit,
        _ => return Err(Errno::EINVAL),
    };
    commit(task, &old, Creds { cap_ambient, ..Creds::clone(&old) });
    Ok(0)
}
