//! Scheduling: sched(7), setpriority(2), sched_setaffinity(2), membarrier(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::capability::CAP_SYS_NICE;
use abi::process as f;
use abi::process::SchedAttr;
use abi::resource::{PRIO_PGRP, PRIO_PROCESS, PRIO_USER, RLIMIT_NICE, RLIMIT_RTPRIO};
use abi::sched as p;
use abi::sched::SchedParam;
use abi::time::Timespec;
use core::sync::atomic::Ordering;

use zerocopy::IntoBytes;

use super::{Context, UserPtr};
use crate::Result;
use crate::sched::deadline::Request;
use crate::sched::{self, Policy, bandwidth, realtime};
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
    sched::set_affinity(&target, wanted)?;
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

/// A policy that a call asks for, as it was said: [`Policy`] is what comes of it.
struct Wanted {
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    request: Request,
}

/// Every flag of sched_setattr(2).
const FLAGS: u64 = f::SCHED_FLAG_RESET_ON_FORK
    | f::SCHED_FLAG_RECLAIM
    | f::SCHED_FLAG_DL_OVERRUN
    | f::SCHED_FLAG_KEEP_POLICY
    | f::SCHED_FLAG_KEEP_PARAMS
    | UTIL_CLAMP;
const UTIL_CLAMP: u64 = f::SCHED_FLAG_UTIL_CLAMP_MIN | f::SCHED_FLAG_UTIL_CLAMP_MAX;
/// Those that a deadline task keeps.
const DEADLINE_FLAGS: u64 = f::SCHED_FLAG_RECLAIM | f::SCHED_FLAG_DL_OVERRUN;

fn is_fair(policy: u32) -> bool {
    matches!(policy, p::SCHED_OTHER | p::SCHED_BATCH | p::SCHED_IDLE)
}

/// What is valid whoever asks (Linux `__sched_setscheduler`).
fn validate(wanted: &Wanted) -> Result<Policy> {
    let &Wanted { policy, priority, nice, .. } = wanted;
    let real_time = matches!(policy, p::SCHED_FIFO | p::SCHED_RR);
    if !real_time && !is_fair(policy) && policy != p::SCHED_DEADLINE {
        return Err(Errno::EINVAL);
    }
    if wanted.flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    // The real-time policies, and they alone, have priorities: 1 to 99.
    if priority > 99 || real_time != (priority != 0) {
        return Err(Errno::EINVAL);
    }
    Ok(match policy {
        p::SCHED_DEADLINE => {
            let flags = wanted.flags & DEADLINE_FLAGS;
            Policy::Deadline(bandwidth::check(Request { flags, ..wanted.request })?)
        }
        _ if real_time => Policy::RealTime { policy, priority },
        _ => Policy::Fair { policy, nice, slice_ns: wanted.request.runtime_ns },
    })
}

/// Whether RLIMIT_NICE of the task lets it have this nice value (Linux `is_nice_reduction`).
fn nice_is_within_limit(target: &Task, nice: i32) -> bool {
    i64::from(20 - nice) <= i64::try_from(target.rlimit(RLIMIT_NICE)).unwrap_or(i64::MAX)
}

/// Whether the change needs no privilege (Linux `user_check_sched_setscheduler`, sched(7)).
fn is_free(cx: &Context<'_>, target: &Task, policy: &Policy, reset_on_fork: bool) -> bool {
    let old = target.sched.policy.load(Ordering::Relaxed);
    match *policy {
        Policy::Fair { nice, .. } => {
            if nice < target.sched.nice() && !nice_is_within_limit(target, nice) {
                return false;
            }
        }
        Policy::RealTime { policy, priority } => {
            let limit = target.rlimit(RLIMIT_RTPRIO);
            if policy != old && limit == 0 {
                return false;
            }
            if priority > target.sched.rt_priority.load(Ordering::Relaxed) && u64::from(priority) > limit {
                return false;
            }
        }
        // Never: it could take the CPU from everybody else.
        Policy::Deadline(_) => return false,
    }
    // SCHED_IDLE counts as nice 20: to leave it is to become less nice.
    if old == p::SCHED_IDLE && policy.number() != p::SCHED_IDLE && !nice_is_within_limit(target, target.sched.nice()) {
        return false;
    }
    let (mine, theirs) = (cx.creds(), target.creds());
    if mine.euid != theirs.euid && mine.euid != theirs.uid {
        return false;
    }
    // The flag protects from escaping a limit by forking: it stays.
    !target.sched.reset_on_fork.load(Ordering::Relaxed) || reset_on_fork
}

/// The way of all calls that set a policy. `keep_policy`: the caller named none.
fn set_policy(cx: &Context<'_>, target: &Arc<Task>, wanted: &Wanted, keep_policy: bool) -> Result<usize> {
    let policy = validate(wanted)?;
    let kept = target.sched.reset_on_fork.load(Ordering::Relaxed);
    let reset_on_fork = if keep_policy { kept } else { wanted.flags & f::SCHED_FLAG_RESET_ON_FORK != 0 };
    if !is_free(cx, target, &policy, reset_on_fork) && !cx.task.capable(CAP_SYS_NICE) {
        return Err(Errno::EPERM);
    }
    // As a kernel without CONFIG_UCLAMP_TASK: there is no frequency to clamp.
    if wanted.flags & UTIL_CLAMP != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if policy != target.sched.current_policy() {
        if matches!(policy, Policy::Deadline(_)) && bandwidth::is_limited() {
            // It is let in for all CPUs, so it must be allowed on all of them.
            let all = hal::cpu::online_mask();
            if target.sched.allowed.load(Ordering::Relaxed) & all != all || bandwidth::is_closed() {
                return Err(Errno::EPERM);
            }
        }
        sched::set_policy(target, policy)?;
    }
    target.sched.reset_on_fork.store(reset_on_fork, Ordering::Relaxed);
    Ok(0)
}

/// What sched_setscheduler(2) and sched_setparam(2) mean, which know no nice value: it stays.
fn wanted_of(target: &Task, policy: u32, flags: u64, priority: i32) -> Wanted {
    let request = match target.sched.current_policy() {
        Policy::Fair { slice_ns, .. } if is_fair(policy) => Request { runtime_ns: slice_ns, ..Request::default() },
        _ => Request::default(),
    };
    Wanted { policy, flags, nice: target.sched.nice(), priority: priority.cast_unsigned(), request }
}

/// sched_setscheduler(2).
pub fn sched_setscheduler(cx: &mut Context<'_>, pid: i32, policy: i32, param: UserPtr<SchedParam>) -> Result<usize> {
    if pid < 0 || policy < 0 || param.is_null() {
        return Err(Errno::EINVAL);
    }
    let priority = param.read()?.sched_priority;
    let target = target(cx, pid)?;
    let policy = policy.cast_unsigned();
    let flags = if policy & p::SCHED_RESET_ON_FORK != 0 { f::SCHED_FLAG_RESET_ON_FORK } else { 0 };
    set_policy(cx, &target, &wanted_of(&target, policy & !p::SCHED_RESET_ON_FORK, flags, priority), false)
}

/// sched_setparam(2).
pub fn sched_setparam(cx: &mut Context<'_>, pid: i32, param: UserPtr<SchedParam>) -> Result<usize> {
    if pid < 0 || param.is_null() {
        return Err(Errno::EINVAL);
    }
    let priority = param.read()?.sched_priority;
    let target = target(cx, pid)?;
    let policy = target.sched.policy.load(Ordering::Relaxed);
    set_policy(cx, &target, &wanted_of(&target, policy, 0, priority), true)
}

/// `struct sched_attr` of any version: what the caller's lacks is zero, what it has more must be. A size that will not do
/// is answered with ours (Linux `sched_copy_attr`).
fn read_attr(address: u64) -> Result<SchedAttr> {
    let size_field = UserPtr::<u32>::new(address);
    let size = match size_field.read()? as usize {
        0 => f::SCHED_ATTR_SIZE_VER0 as usize,
        size => size,
    };
    let refuse = || {
        size_field.write(&(size_of::<SchedAttr>() as u32))?;
        Err(Errno::E2BIG)
    };
    if !(f::SCHED_ATTR_SIZE_VER0 as usize..=hal::mem::PAGE_SIZE).contains(&size) {
        return refuse();
    }
    let mut attr = SchedAttr::default();
    let known = size.min(size_of::<SchedAttr>());
    let more = UserPtr::<u8>::new(address).index(known).read_many(size - known)?;
    if more.iter().any(|byte| *byte != 0) {
        return refuse();
    }
    let bytes = attr.as_mut_bytes().get_mut(..known).ok_or(Errno::EINVAL)?;
    hal::uaccess::copy_from_user(bytes, address).map_err(|_| Errno::EFAULT)?;
    if attr.sched_flags & UTIL_CLAMP != 0 && size < size_of::<SchedAttr>() {
        return Err(Errno::EINVAL);
    }
    attr.sched_nice = attr.sched_nice.clamp(-20, 19);
    Ok(attr)
}

/// The parameters of a task's policy, for sched_getattr(2) and SCHED_FLAG_KEEP_PARAMS (Linux `get_params`).
fn fill_params(target: &Task, attr: &mut SchedAttr) {
    match target.sched.current_policy() {
        Policy::Fair { nice, slice_ns, .. } => {
            attr.sched_nice = nice;
            attr.sched_runtime = slice_ns;
        }
        Policy::RealTime { priority, .. } => attr.sched_priority = priority,
        Policy::Deadline(request) => {
            attr.sched_runtime = request.runtime_ns;
            attr.sched_deadline = request.deadline_ns;
            attr.sched_period = request.period_ns;
            attr.sched_flags = attr.sched_flags & !DEADLINE_FLAGS | request.flags;
        }
    }
}

/// sched_setattr(2).
pub fn sched_setattr(cx: &mut Context<'_>, pid: i32, attr: u64, flags: u32) -> Result<usize> {
    if attr == 0 || pid < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mut attr = read_attr(attr)?;
    if attr.sched_policy.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    let keep_policy = attr.sched_flags & f::SCHED_FLAG_KEEP_POLICY != 0;
    let target = target(cx, pid)?;
    if attr.sched_flags & f::SCHED_FLAG_KEEP_PARAMS != 0 {
        fill_params(&target, &mut attr);
    }
    let policy = if keep_policy { target.sched.policy.load(Ordering::Relaxed) } else { attr.sched_policy };
    let wanted = Wanted {
        policy,
        flags: attr.sched_flags,
        nice: attr.sched_nice,
        priority: attr.sched_priority,
        request: Request {
            runtime_ns: attr.sched_runtime,
            deadline_ns: attr.sched_deadline,
            period_ns: attr.sched_period,
            flags: 0,
        },
    };
    set_policy(cx, &target, &wanted, keep_policy)
}

/// sched_getattr(2). Writes as much of the structure as the caller has room for.
pub fn sched_getattr(cx: &mut Context<'_>, pid: i32, attr: u64, size: u32, flags: u32) -> Result<usize> {
    let fits = (f::SCHED_ATTR_SIZE_VER0 as usize..=hal::mem::PAGE_SIZE).contains(&(size as usize));
    if attr == 0 || pid < 0 || !fits || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let target = target(cx, pid)?;
    let written = (size as usize).min(size_of::<SchedAttr>());
    let mut found = SchedAttr {
        size: u32::try_from(written).map_err(|_| Errno::EINVAL)?,
        sched_policy: target.sched.policy.load(Ordering::Relaxed),
        ..SchedAttr::default()
    };
    if target.sched.reset_on_fork.load(Ordering::Relaxed) {
        found.sched_flags |= f::SCHED_FLAG_RESET_ON_FORK;
    }
    fill_params(&target, &mut found);
    let bytes = found.as_bytes().get(..written).ok_or(Errno::EINVAL)?;
    hal::uaccess::copy_to_user(attr, bytes).map_err(|_| Errno::EFAULT)?;
    Ok(0)
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
        p::SCHED_RR => realtime::rr_slice_ns(),
        // They are not cut into slices.
        p::SCHED_FIFO | p::SCHED_DEADLINE => 0,
        _ => target.sched.slice_ns().max(sched::TICK_NS),
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

/// setpriority(2): raising needs CAP_SYS_NICE or RLIMIT_NICE. Of several targets each is tried; the last failure counts
/// (Linux `set_one_prio`).
pub fn setpriority(cx: &mut Context<'_>, which: i32, who: i32, nice: i32) -> Result<usize> {
    let nice = nice.clamp(-20, 19);
    let mut result = Ok(0);
    for target in priority_targets(cx, which, who)? {
        let raises = nice < target.sched.nice() && !nice_is_within_limit(&target, nice);
        if !may_change(cx, &target) {
            result = Err(Errno::EPERM);
        } else if raises && !cx.task.capable(CAP_SYS_NICE) {
            result = Err(Errno::EACCES);
        } else {
            sched::set_nice(&target, nice);
        }
    }
    result
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
