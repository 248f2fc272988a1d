//! Resource limits and usage: getrlimit(2), getrusage(2), times(2).

use core::sync::atomic::Ordering;

use abi::Errno;
use abi::capability::CAP_SYS_RESOURCE;
use abi::resource::{RLIM_INFINITY, RLIMIT_CPU, RUSAGE_CHILDREN, RUSAGE_SELF, RUSAGE_THREAD, Rlimit, Rusage};
use abi::time::Tms;

use super::{Context, UserPtr};
use crate::Result;
use crate::task::{self, Task, limits, usage};
use crate::{sched, time};

/// getrlimit(2).
pub fn getrlimit(cx: &mut Context<'_>, resource: u32, limit: UserPtr<Rlimit>) -> Result<usize> {
    limit.write(&read(&cx.task, resource)?)?;
    Ok(0)
}

/// setrlimit(2).
pub fn setrlimit(cx: &mut Context<'_>, resource: u32, limit: UserPtr<Rlimit>) -> Result<usize> {
    let new = limit.read()?;
    write(&cx.task, &cx.task, resource, new)?;
    Ok(0)
}

/// prlimit(2): another process needs the same ids or CAP_SYS_RESOURCE.
pub fn prlimit64(
    cx: &mut Context<'_>,
    pid: i32,
    resource: u32,
    new: UserPtr<Rlimit>,
    old: UserPtr<Rlimit>,
) -> Result<usize> {
    let new = new.non_null().map(UserPtr::read).transpose()?;
    let target = if pid == 0 { cx.task.arc() } else { task::find_or_esrch(pid)? };
    let (mine, theirs) = (cx.creds(), target.creds());
    let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|id| *id == mine.uid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|id| *id == mine.gid);
    if !core::ptr::eq(&*target, &*cx.task) && !same && !mine.ns_capable(&theirs.user_ns, CAP_SYS_RESOURCE) {
        return Err(Errno::EPERM);
    }
    let before = read(&target, resource)?;
    if let Some(new) = new {
        write(&cx.task, &target, resource, new)?;
    }
    old.write_if_wanted(&before)?;
    Ok(0)
}

fn read(task: &Task, resource: u32) -> Result<Rlimit> {
    task.group.limits.lock().get(resource as usize).copied().ok_or(Errno::EINVAL)
}

fn write(caller: &Task, target: &Task, resource: u32, new: Rlimit) -> Result<()> {
    let capable = caller.capable(CAP_SYS_RESOURCE);
    limits::change(&mut target.group.limits.lock(), resource, new, capable)?;
    if resource == RLIMIT_CPU && new.rlim_cur != RLIM_INFINITY {
        time::interval::watch_cpu_limit(&target.group);
    }
    if let Some(mm) = target.mm() {
        mm.set_limits(super::memory::limits_of(target));
    }
    Ok(())
}

/// getrusage(2).
pub fn getrusage(cx: &mut Context<'_>, who: i32, usage: UserPtr<Rusage>) -> Result<usize> {
    sched::account_current();
    let mut used = match who {
        RUSAGE_SELF => usage::of_process(&cx.task.group),
        RUSAGE_CHILDREN => *cx.task.group.children.lock(),
        RUSAGE_THREAD => cx.task.times.snapshot(),
        _ => return Err(Errno::EINVAL),
    };
    if who == RUSAGE_SELF {
        used.max_rss_kib = used.max_rss_kib.max(cx.task.group.max_rss_kib.load(Ordering::Relaxed));
    }
    if who != RUSAGE_CHILDREN
        && let Some(mm) = cx.task.mm()
    {
        used.max_rss_kib = used.max_rss_kib.max(mm.max_rss_pages() * 4);
    }
    usage.write(&used.to_rusage())?;
    Ok(0)
}

/// times(2), in ticks of 10 ms.
pub fn times(cx: &mut Context<'_>, buffer: UserPtr<Tms>) -> Result<usize> {
    const TICK_NS: u64 = 10_000_000;
    sched::account_current();
    let own = usage::of_process(&cx.task.group);
    let children = *cx.task.group.children.lock();
    let ticks = |ns: u64| (ns / TICK_NS).cast_signed();
    buffer.write_if_wanted(&Tms {
        tms_utime: ticks(own.user_ns),
        tms_stime: ticks(own.system_ns),
        tms_cutime: ticks(children.user_ns),
        tms_cstime: ticks(children.system_ns),
    })?;
    Ok((time::monotonic_ns() / TICK_NS) as usize)
}
