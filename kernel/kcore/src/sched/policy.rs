//! Changing how a task is scheduled: nice value, policy, allowed CPUs. Permission is checked by the caller.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hal::cpu;

use super::class::{Class, Enqueue};
use super::{GLANCE, QUEUES, kick, place};
use crate::task::Task;

/// Runs `change` with the task out of its queue, so that its place is found anew.
fn requeue(task: &Arc<Task>, change: impl FnOnce()) {
    loop {
        let cpu = task.sched.cpu();
        let mut queue = QUEUES.of(cpu).lock();
        if task.sched.cpu() != cpu {
            continue;
        }
        let waited = task.sched.on_queue() && queue.fair.dequeue(task);
        change();
        if !waited {
            // Running here, or asleep. A running task that lost this CPU leaves at the reschedule.
            if task.sched.on_queue() {
                kick(cpu, task);
            }
            return;
        }
        if task.sched.allows(cpu) {
            queue.fair.insert(task.clone());
            return;
        }
        task.sched.set_on_queue(false);
        GLANCE.of(cpu).add_running(-1);
        drop(queue);
        place(task.clone(), Enqueue::Migrate);
        return;
    }
}

/// Sets the nice value (setpriority(2)).
pub fn set_nice(task: &Arc<Task>, nice: i32) {
    requeue(task, || task.sched.set_nice(nice.clamp(-20, 19)));
}

/// Sets policy and real-time priority (sched_setscheduler(2)).
pub fn set_policy(task: &Arc<Task>, policy: u32, rt_priority: u32) {
    requeue(task, || task.sched.set_policy(policy, rt_priority));
}

/// Sets the CPUs that the task may use; `mask` has an online CPU (sched_setaffinity(2)).
pub fn set_affinity(task: &Arc<Task>, mask: u32) {
    requeue(task, || task.sched.allowed.store(mask, Ordering::Relaxed));
    if core::ptr::eq(&**task, &*crate::task::current()) && !task.sched.allows(cpu::id()) {
        super::preempt();
    }
}
