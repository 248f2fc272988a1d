//! I/O priorities: ioprio_set(2), ioprio_get(2).

use abi::Errno;
use abi::capability::{CAP_SYS_ADMIN, CAP_SYS_NICE};
use abi::ioprio as p;
use abi::resource::{PRIO_PGRP, PRIO_PROCESS, PRIO_USER};

use super::{Context, sched};
use crate::Result;
use crate::task::Task;
use crate::task::io_context::effective_priority;

/// setpriority(2) means the same targets, by other numbers.
fn which(which: i32) -> Result<i32> {
    match which {
        p::IOPRIO_WHO_PROCESS => Ok(PRIO_PROCESS),
        p::IOPRIO_WHO_PGRP => Ok(PRIO_PGRP),
        p::IOPRIO_WHO_USER => Ok(PRIO_USER),
        _ => Err(Errno::EINVAL),
    }
}

/// Whether there is such a priority and the caller may give it to anybody (Linux `ioprio_check_cap`).
fn check(cx: &Context<'_>, priority: u32) -> Result<()> {
    match p::class(priority) {
        p::IOPRIO_CLASS_RT if !cx.task.capable(CAP_SYS_ADMIN) && !cx.task.capable(CAP_SYS_NICE) => Err(Errno::EPERM),
        p::IOPRIO_CLASS_NONE if p::level(priority) != 0 => Err(Errno::EINVAL),
        p::IOPRIO_CLASS_NONE | p::IOPRIO_CLASS_RT | p::IOPRIO_CLASS_BE | p::IOPRIO_CLASS_IDLE => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// The target's real user is the caller's, real or effective, or the caller has CAP_SYS_NICE (Linux `set_task_ioprio`).
fn may_change(cx: &Context<'_>, target: &Task) -> bool {
    let (mine, theirs) = (cx.creds(), target.creds());
    theirs.uid == mine.euid || theirs.uid == mine.uid || mine.capable(CAP_SYS_NICE)
}

/// ioprio_set(2). Ends at the first target that may not be changed.
pub fn ioprio_set(cx: &mut Context<'_>, whose: i32, who: i32, priority: i32) -> Result<usize> {
    // Linux keeps 16 bits.
    let priority = priority.cast_unsigned() & 0xffff;
    check(cx, priority)?;
    for target in sched::priority_targets(cx, which(whose)?, who)? {
        if !may_change(cx, &target) {
            return Err(Errno::EPERM);
        }
        target.io_context.set_priority(priority);
    }
    Ok(0)
}

/// ioprio_get(2). Of one thread, what was set: 0 when nothing was. Of several, the highest that counts.
pub fn ioprio_get(cx: &mut Context<'_>, whose: i32, who: i32) -> Result<usize> {
    let targets = sched::priority_targets(cx, which(whose)?, who)?;
    let priority = match targets.as_slice() {
        [thread] if whose == p::IOPRIO_WHO_PROCESS => thread.io_context.priority(),
        several => several.iter().map(|task| effective_priority(task)).min().ok_or(Errno::ESRCH)?,
    };
    Ok(priority as usize)
}
