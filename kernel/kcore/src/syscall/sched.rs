//! Scheduling: sched(7), setpriority(2), sched_setaffinity(2), membarrier(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::capability::CAP_SYS_NICE;
use abi::resource::{PRIO_PGRP, PRIO_PROCESS, PRIO_USER, RLIMIT_NICE, RLIMIT_RTPRIO};
use abi::sched as p;
use abi::sched::SchedParam;
use abi::time::Timespec;
use core::sync::atomic::Ordering;

use super::{Context, UserPtr};
use crate::Result;
use crate::sched;
use crate::task::{self, Task, group, tree};

/// sched_yield(2).
pub fn sched_yield(_cx: &mut Context<'_>) -> Result<usize> {
    sched::yield_now();
    Ok(0)
}

fn target(cx: &Context<'_>, pid: i32) -> Result<Arc<Task>> {
    match pid {
        0 => Ok(cx.task.arc()),
        pid if pid < 0 => Err(Errno::EINVAL),
        pid => task::find_or_esrch(pid),
    }
}

/// As [`target`] for the affinity calls, which do not look at the sign: nobody has a negative PID.
fn affinity_target(cx: &Context<'_>, pid: i32) -> Result<Arc<Task>> {
    if pid < 0 { Err(Errno::ESRCH) } else { target(cx, pid) }
}

/// The caller owns the target, or has CAP_SYS_NICE (sched_setaffinity(2)).
fn may_change(cx: &Context<'_>, target: &Task) -> bool {
    let (mine, theirs) = (cx.creds(), target.creds());
    mine.euid == theirs.euid || mine.euid == theirs.uid || mine.ns_capable(&theirs.user_ns, CAP_SYS_NICE)
}

/// sched_setaffinity(2). The mask is `length` bytes; CPUs that do not exist are ignored.
pub fn sched_setaffinity(cx: &mut Context<'_>, pid: i32, length: usize, mask: u64) -> Result<usize> {
    let mut bits = [0u8; 8];
    let taken = length.min(8);
    hal::uaccess::copy_from_user(&mut bits[..taken], mask).map_err(|_| Errno::EFAULT)?;
    let target = affinity_target(cx, pid)?;
    if target.has_flag(task::flags::NO_SETAFFINITY) {
        return Err(Errno::EINVAL);
    }
    if !may_change(cx, &target) {
        return Err(Errno::EPERM);
    }
    let wanted = u64::from_le_bytes(bits) & u64::from(hal::cpu::online_mask());
    let wanted = u32::try_from(wanted).map_err(|_| Errno::EINVAL)?;
    if wanted == 0 {
        return Err(Errno::EINVAL);
    }
    sched::set_affinity(&target, wanted);
    Ok(0)
}

/// sched_getaffinity(2). Returns the bytes written.
pub fn sched_getaffinity(cx: &mut Context<'_>, pid: i32, length: usize, mask: u64) -> Result<usize> {
    if length < 8 || !length.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let target = affinity_target(cx, pid)?;
    let allowed = target.sched.allowed.load(Ordering::Relaxed) & hal::cpu::online_mask();
    UserPtr::<u64>::new(mask).write(&u64::from(allowed))?;
    Ok(8)
}

fn check_policy(policy: u32, priority: i32) -> Result<u32> {
    let real_time = matches!(policy, p::SCHED_FIFO | p::SCHED_RR);
    if !real_time && !matches!(policy, p::SCHED_OTHER | p::SCHED_BATCH | p::SCHED_IDLE) {
        return Err(Errno::EINVAL);
    }
    let valid = if real_time { 1..=99 } else { 0..=0 };
    if !valid.contains(&priority) {
        return Err(Errno::EINVAL);
    }
    Ok(priority.cast_unsigned())
}

/// sched_setscheduler(2).
pub fn sched_setscheduler(cx: &mut Context<'_>, pid: i32, policy: i32, param: UserPtr<SchedParam>) -> Result<usize> {
    if pid < 0 || policy < 0 || param.is_null() {
        return Err(Errno::EINVAL);
    }
    let priority = param.read()?.sched_priority;
    let reset = policy.cast_unsigned() & p::SCHED_RESET_ON_FORK != 0;
    let policy = policy.cast_unsigned() & !p::SCHED_RESET_ON_FORK;
    let target = target(cx, pid)?;
    let priority = check_policy(policy, priority)?;
    if !cx.task.capable(CAP_SYS_NICE) {
        let limit = target.rlimit(RLIMIT_RTPRIO);
        let old = u64::from(target.sched.rt_priority.load(Ordering::Relaxed));
        let raises = u64::from(priority) > old && u64::from(priority) > limit;
        let unlimits = target.sched.reset_on_fork.load(Ordering::Relaxed) && !reset;
        if !may_change(cx, &target) || raises || unlimits {
            return Err(Errno::EPERM);
        }
    }
    target.sched.reset_on_fork.store(reset, Ordering::Relaxed);
    sched::set_policy(&target, policy, priority);
    Ok(0)
}

/// sched_setparam(2).
pub fn sched_setparam(cx: &mut Context<'_>, pid: i32, param: UserPtr<SchedParam>) -> Result<usize> {
    let policy = target(cx, pid)?.sched.policy.load(Ordering::Relaxed);
    sched_setscheduler(cx, pid, policy.cast_signed(), param)
}

/// sched_getscheduler(2).
pub fn sched_getscheduler(cx: &mut Context<'_>, pid: i32) -> Result<usize> {
    let target = target(cx, pid)?;
    let reset = if target.sched.reset_on_fork.load(Ordering::Relaxed) { p::SCHED_RESET_ON_FORK } else { 0 };
    Ok((target.sched.policy.load(Ordering::Relaxed) | reset) as usize)
}

/// sched_getparam(2).
pub fn sched_getparam(cx: &mut Context<'_>, pid: i32, param: UserPtr<SchedParam>) -> Result<usize> {
    if param.is_null() {
        return Err(Errno::EINVAL);
    }
    let target = target(cx, pid)?;
    let priority = target.sched.rt_priority.load(Ordering::Relaxed);
    param.write(&SchedParam { sched_priority: priority.cast_signed() })?;
    Ok(0)
}

/// sched_get_priority_max(2).
pub fn sched_get_priority_max(_cx: &mut Context<'_>, policy: i32) -> Result<usize> {
    priority_bound(policy, 99)
}

/// sched_get_priority_min(2).
pub fn sched_get_priority_min(_cx: &mut Context<'_>, policy: i32) -> Result<usize> {
    priority_bound(policy, 1)
}

fn priority_bound(policy: i32, real_time: usize) -> Result<usize> {
    match u32::try_from(policy).map_err(|_| Errno::EINVAL)? {
        p::SCHED_FIFO | p::SCHED_RR => Ok(real_time),
        p::SCHED_OTHER | p::SCHED_BATCH | p::SCHED_IDLE | p::SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// sched_rr_get_interval(2).
pub fn sched_rr_get_interval(cx: &mut Context<'_>, pid: i32, interval: UserPtr<Timespec>) -> Result<usize> {
    let target = target(cx, pid)?;
    let ns = match target.sched.policy.load(Ordering::Relaxed) {
        p::SCHED_RR => 100_000_000,
        p::SCHED_FIFO => 0,
        _ => sched::TICK_NS,
    };
    interval.write(&crate::time::timespec(ns))?;
    Ok(0)
}

/// The processes that setpriority(2) and getpriority(2) mean.
pub(super) fn priority_targets(cx: &Context<'_>, which: i32, who: i32) -> Result<Vec<Arc<Task>>> {
    let all_threads = |tree: &tree::Tree, ids: Vec<tree::NodeId>| -> Vec<Arc<Task>> {
        ids.into_iter().flat_map(|id| tree.node(id).threads.clone()).collect()
    };
    let found = match which {
        PRIO_PROCESS if who == 0 => alloc::vec![cx.task.arc()],
        PRIO_PROCESS => task::find(who).into_iter().collect(),
        PRIO_PGRP => {
            let pgrp = match who {
                0 => Some(group::pgrp_of(&cx.task)),
                who => cx.namespaces().pid().find(who),
            };
            let tree = tree::lock();
            let ids = pgrp.map_or_else(Vec::new, |pgrp| tree.group_members(pgrp.global()).collect());
            all_threads(&tree, ids)
        }
        PRIO_USER => {
            let creds = cx.creds();
            let uid = if who == 0 { Some(creds.uid) } else { creds.user_ns.kuid(who.cast_unsigned()) };
            let uid = uid.ok_or(Errno::ESRCH)?;
            let tree = tree::lock();
            let ids = tree.processes().collect();
            let threads = all_threads(&tree, ids);
            drop(tree);
            threads.into_iter().filter(|thread| thread.creds().uid == uid).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if found.is_empty() { Err(Errno::ESRCH) } else { Ok(found) }
}

/// setpriority(2): raising needs CAP_SYS_NICE or RLIMIT_NICE.
pub fn setpriority(cx: &mut Context<'_>, which: i32, who: i32, nice: i32) -> Result<usize> {
    let nice = nice.clamp(-20, 19);
    for target in priority_targets(cx, which, who)? {
        if !may_change(cx, &target) {
            return Err(Errno::EPERM);
        }
        let ceiling = 20 - i64::try_from(target.rlimit(RLIMIT_NICE).min(40)).unwrap_or(40);
        if nice < target.sched.nice() && i64::from(nice) < ceiling && !cx.task.capable(CAP_SYS_NICE) {
            return Err(Errno::EACCES);
        }
        sched::set_nice(&target, nice);
    }
    Ok(0)
}

/// getpriority(2): the system call returns 20 - nice, 1 to 40, of the most favoured target.
pub fn getpriority(cx: &mut Context<'_>, which: i32, who: i32) -> Result<usize> {
    let best = priority_targets(cx, which, who)?.iter().map(|task| 20 - task.sched.nice()).max();
    Ok(best.ok_or(Errno::ESRCH)?.unsigned_abs() as usize)
}

/// getcpu(2). There is one NUMA node.
pub fn getcpu(_cx: &mut Context<'_>, cpu: UserPtr<u32>, node: UserPtr<u32>, _unused: u64) -> Result<usize> {
    cpu.write_if_wanted(&u32::try_from(hal::cpu::id()).expect("few CPUs"))?;
    node.write_if_wanted(&0)?;
    Ok(0)
}

/// membarrier(2): the commands that a full barrier and a switch on every CPU satisfy.
pub fn membarrier(_cx: &mut Context<'_>, command: i32, flags: u32, _cpu: i32) -> Result<usize> {
    const QUERY: i32 = 0;
    if flags != 0 || command != QUERY {
        return Err(Errno::EINVAL);
    }
    // No command is supported: the library falls back to its own barriers.
    Ok(0)
}
