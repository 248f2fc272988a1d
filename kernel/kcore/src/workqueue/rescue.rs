//! Rescuers: what a queue that others need in order to free memory falls back on when no worker can be made (Linux
//! `rescuer_thread`). Each such queue has one thread from the start, which runs the queue's items, one by one, on the pools that
//! called for it. So its items come to an end whatever memory there is, as long as each of them does.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU32, Ordering};

use spin::Once;

use super::pool::{self, Pool, PoolState, Worker};
use super::{WorkItem, WorkQueue};
use crate::Result;
use crate::sched;
use crate::sync::sleep_while;
use crate::task::{Task, TaskState, current, kthread};

/// A queue's rescuer.
pub struct Rescuer {
    /// Bits of the pools that called.
    calls: AtomicU32,
    task: Once<Arc<Task>>,
}

impl Rescuer {
    /// Ends it. The queue is empty.
    pub(super) fn stop(&self) {
        if let Some(task) = self.task.get() {
            kthread::stop(task);
        }
    }
}

/// Starts the rescuer of a queue; it has the queue's name.
pub(super) fn start(queue: &Arc<WorkQueue>) -> Result<()> {
    let rescuer = Arc::new(Rescuer { calls: AtomicU32::new(0), task: Once::new() });
    let (itself, owner) = (rescuer.clone(), Arc::downgrade(queue));
    let worker = Worker::rescuer();
    let same = worker.clone();
    let task = kthread::create(queue.name(), move || run(&itself, &owner, &same))?;
    kthread::become_worker(&task, &worker);
    sched::set_nice(&task, -20);
    rescuer.task.call_once(|| task.clone());
    queue.rescuer.call_once(|| rescuer);
    sched::start(&task);
    Ok(())
}

/// A pool cannot make a worker: tells the rescuers of what waits there (Linux `send_mayday`).
pub(super) fn call(pool: &Pool, state: &PoolState) {
    let tell = |item: &dyn WorkItem| {
        let place = item.work().place.lock();
        let queue = place.waits.as_ref().map(|waits| waits.queue.clone());
        drop(place);
        if let Some(rescuer) = queue.as_ref().and_then(|queue| queue.rescuer.get()) {
            rescuer.calls.fetch_or(1 << pool.index(), Ordering::SeqCst);
            if let Some(task) = rescuer.task.get() {
                sched::wake(task, TaskState::NORMAL);
            }
        }
        false
    };
    let _ = state.pending.find(tell);
}

fn run(rescuer: &Rescuer, queue: &Weak<WorkQueue>, worker: &Arc<Worker>) -> i32 {
    loop {
        let waiting = || rescuer.calls.load(Ordering::SeqCst) == 0 && !kthread::should_stop();
        let _ = sleep_while(TaskState::Idle, u64::MAX, waiting);
        let calls = rescuer.calls.swap(0, Ordering::SeqCst);
        if calls == 0 && kthread::should_stop() {
            return 0;
        }
        let Some(queue) = queue.upgrade() else { return 0 };
        for index in (0..pool::COUNT).filter(|index| calls >> index & 1 != 0) {
            rescue(&queue, pool::at(index), worker);
        }
    }
}

/// Runs what the queue has in the pool's list.
fn rescue(queue: &Arc<WorkQueue>, pool: &'static Pool, worker: &Arc<Worker>) {
    if let Some(cpu) = pool.cpu() {
        sched::set_affinity(&current().arc(), 1 << cpu).expect("a rescuer has no deadline");
    }
    let is_ours = |item: &dyn WorkItem| {
        item.work().place.lock().waits.as_ref().is_some_and(|waits| Arc::ptr_eq(&waits.queue, queue))
    };
    let mut state = pool.lock();
    while let Some(item) = state.pending.find(is_ours) {
        state.pending.remove(&item);
        state = pool::process(pool, worker, state, item);
    }
    state.wake_if_needed();
    drop(state);
    sched::set_affinity(&current().arc(), u32::MAX).expect("a rescuer has no deadline");
}
