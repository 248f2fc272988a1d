//! Changing how a task is scheduled: policy, nice value, allowed CPUs, inherited urgency. Permission is checked by the
//! caller ([`crate::syscall::sched`]).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::sched::SCHED_DEADLINE;
use hal::cpu;

use super::class::Enqueue;
use super::deadline::Request;
use super::{GLANCE, Priority, QUEUES, RunQueue, account, bandwidth, count_parked, enqueue, kick, place};
use crate::Result;
use crate::task::Task;

/// All that sched_setattr(2) can say of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// SCHED_OTHER, SCHED_BATCH or SCHED_IDLE.
    Fair {
        /// Which.
        policy: u32,
        /// -20 to 19.
        nice: i32,
        /// The slice that it asks for, ns; 0: the common one.
        slice_ns: u64,
    },
    /// SCHED_FIFO or SCHED_RR.
    RealTime {
        /// Which.
        policy: u32,
        /// 1 to 99.
        priority: u32,
    },
    /// SCHED_DEADLINE; checked by [`bandwidth::check`].
    Deadline(Request),
}

impl Policy {
    /// Its SCHED_* number.
    pub fn number(&self) -> u32 {
        match self {
            Self::Fair { policy, .. } | Self::RealTime { policy, .. } => *policy,
            Self::Deadline(_) => SCHED_DEADLINE,
        }
    }
}

/// Runs `change` with the task out of its queue, so that its place is found anew.
fn requeue<R>(task: &Arc<Task>, change: impl FnOnce() -> R) -> R {
    loop {
        let cpu = task.sched.cpu();
        let mut queue = QUEUES.of(cpu).lock();
        if task.sched.cpu() != cpu {
            continue;
        }
        if !task.sched.on_queue() {
            return change();
        }
        let now = account(&mut queue);
        let RunQueue { classes, current, .. } = &mut *queue;
        let old = task.sched.level();
        let how = || if task.sched.level() > old { Enqueue::Demoted } else { Enqueue::Migrate };
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, task)) {
            classes.leave(task);
            let result = change();
            classes.place(task, how(), None, now);
            GLANCE.of(cpu).set_urgency(&task.sched);
            // One that lost this CPU leaves at the reschedule; one that is a deadline task now has its budget watched.
            if classes.is_outranked(task) || !task.sched.allows(cpu) || task.sched.level() < 0 {
                kick(cpu, task);
            }
            return result;
        }
        let waited = classes.dequeue(task, current.as_ref());
        debug_assert!(waited, "who is on a queue and does not run, waits");
        let result = change();
        if task.sched.allows(cpu) {
            enqueue(&mut queue, cpu, task.clone(), how(), now);
            count_parked(&mut queue, cpu, now);
            return result;
        }
        count_parked(&mut queue, cpu, now);
        task.sched.set_on_queue(false);
        GLANCE.of(cpu).add_running(-1, now);
        drop(queue);
        place(task.clone(), Enqueue::Migrate);
        return result;
    }
}

/// Sets the nice value (setpriority(2)).
pub fn set_nice(task: &Arc<Task>, nice: i32) {
    requeue(task, || task.sched.set_nice(nice.clamp(-20, 19)));
}

/// Lends `task` the urgency of the most urgent task that it holds up, `None` when it holds up nobody (Linux
/// `rt_mutex_setprio`): it runs in the class of the more urgent of that and its own priority. What it shows as its policy
/// and nice value stays.
pub fn set_boost(task: &Arc<Task>, donor: Option<Priority>) {
    requeue(task, || task.sched.set_boost(donor));
}

/// Sets the policy and what belongs to it (sched_setscheduler(2), sched_setattr(2)). `EBUSY` when the deadline tasks would
/// have more than their share of the CPUs.
pub fn set_policy(task: &Arc<Task>, policy: Policy) -> Result<()> {
    let old = if task.sched.policy.load(Ordering::Relaxed) == SCHED_DEADLINE {
        bandwidth::of(&task.sched.server.request())
    } else {
        0
    };
    let new = match &policy {
        Policy::Deadline(request) => bandwidth::of(request),
        _ => 0,
    };
    if old != 0 || new != 0 {
        bandwidth::exchange(old, new)?;
    }
    requeue(task, || task.sched.apply(policy));
    crate::futex::priority_changed(task);
    Ok(())
}

/// Sets the CPUs that the task may use; `mask` has an online CPU (sched_setaffinity(2)). A deadline task was let in for all
/// of them: `EBUSY` when it would lose one.
pub fn set_affinity(task: &Arc<Task>, mask: u32) -> Result<()> {
    let all = cpu::online_mask();
    if task.sched.policy.load(Ordering::Relaxed) == SCHED_DEADLINE && bandwidth::is_limited() && mask & all != all {
        return Err(Errno::EBUSY);
    }
    requeue(task, || task.sched.allowed.store(mask, Ordering::Relaxed));
    if core::ptr::eq(&**task, &*crate::task::current()) && !task.sched.allows(cpu::id()) {
        super::preempt();
    }
    Ok(())
}
