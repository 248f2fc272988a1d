//! Changing how a task is scheduled: nice value, policy, allowed CPUs. Permission is checked by the caller.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hal::cpu;

use super::class::Enqueue;
use super::{GLANCE, Priority, QUEUES, RunQueue, account, enqueue, kick, place};
use crate::task::Task;

/// Runs `change` with the task out of its queue, so that its place is found anew.
fn requeue(task: &Arc<Task>, change: impl FnOnce()) {
    loop {
        let cpu = task.sched.cpu();
        let mut queue = QUEUES.of(cpu).lock();
        if task.sched.cpu() != cpu {
            continue;
        }
        if !task.sched.on_queue() {
            change();
            return;
        }
        let now = account(&mut queue);
        let RunQueue { classes, current, .. } = &mut *queue;
        let old = task.sched.level();
        let how = || if task.sched.level() > old { Enqueue::Demoted } else { Enqueue::Migrate };
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, task)) {
            classes.leave(task);
            change();
            classes.place(task, how(), None, now);
            GLANCE.of(cpu).set_urgency(&task.sched);
            // One that lost this CPU leaves at the reschedule.
            if classes.is_outranked(task) || !task.sched.allows(cpu) {
                kick(cpu, task);
            }
            return;
        }
        let waited = classes.dequeue(task, current.as_ref());
        debug_assert!(waited, "who is on a queue and does not run, waits");
        change();
        if task.sched.allows(cpu) {
            enqueue(&mut queue, cpu, task.clone(), how(), now);
            return;
        }
        task.sched.set_on_queue(false);
        GLANCE.of(cpu).add_running(-1, now);
        drop(queue);
        place(task.clone(), Enqueue::Migrate);
        return;
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

/// Sets policy and real-time priority (sched_setscheduler(2)).
pub fn set_policy(task: &Arc<Task>, policy: u32, rt_priority: u32) {
    requeue(task, || task.sched.set_policy(policy, rt_priority));
    crate::futex::priority_changed(task);
}

/// Sets the CPUs that the task may use; `mask` has an online CPU (sched_setaffinity(2)).
pub fn set_affinity(task: &Arc<Task>, mask: u32) {
    requeue(task, || task.sched.allowed.store(mask, Ordering::Relaxed));
    if core::ptr::eq(&**task, &*crate::task::current()) && !task.sched.allows(cpu::id()) {
        super::preempt();
    }
}
