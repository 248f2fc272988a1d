//! High-resolution timers: one queue per CPU, ordered by deadline (Linux hrtimers).
//!
//! A timer runs its callback in interrupt context on the CPU that it was started on. The callback runs without the queue
//! lock, so it may start and cancel timers.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hal::cpu::{self, PerCpu};
use hal::sync::IrqLock;

use crate::sched;
use crate::sync::order;
use crate::task::{Task, TaskState};

/// What a timer does when it expires, in interrupt context: it must be short and must not sleep.
pub trait TimerCallback: Send + Sync {
    /// The deadline passed.
    fn expired(&self, timer: &Arc<Timer>);
}

enum Action {
    Wake(Weak<Task>),
    Call(Weak<dyn TimerCallback>),
}

/// A one-shot timer on the monotonic clock; it may be started again and again.
pub struct Timer {
    action: Action,
    /// Unique: breaks ties in the queue.
    id: u64,
    /// Where it is queued ([`NOT_QUEUED`]: nowhere) and for when. Written under that queue's lock.
    cpu: AtomicUsize,
    deadline_ns: AtomicU64,
}

const NOT_QUEUED: usize = usize::MAX;

type Queue = BTreeMap<(u64, u64), Arc<Timer>>;

hal::global! {
    static QUEUES: PerCpu<IrqLock<Queue>> =
        PerCpu::new([const { IrqLock::new(order::TIMERS, BTreeMap::new()) }; hal::MAX_CPUS]);
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    /// The earliest deadline of each CPU's queue, to read without its lock.
    static EARLIEST: PerCpu<AtomicU64> = PerCpu::new([const { AtomicU64::new(u64::MAX) }; hal::MAX_CPUS]);
}

impl Timer {
    fn new(action: Action) -> Arc<Timer> {
        Arc::new(Timer {
            action,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            cpu: AtomicUsize::new(NOT_QUEUED),
            deadline_ns: AtomicU64::new(0),
        })
    }

    /// A timer that wakes `task` from an ordinary sleep.
    pub fn wake(task: &Arc<Task>) -> Arc<Timer> {
        Self::new(Action::Wake(Arc::downgrade(task)))
    }

    /// A timer that calls `callback` as long as that lives.
    pub fn call(callback: Weak<dyn TimerCallback>) -> Arc<Timer> {
        Self::new(Action::Call(callback))
    }

    /// Starts (or restarts) it for the monotonic time `deadline_ns`.
    pub fn start(self: &Arc<Timer>, deadline_ns: u64) {
        self.cancel();
        cpu::preempt_disable();
        let here = cpu::id();
        {
            let mut queue = QUEUES.of(here).lock();
            self.deadline_ns.store(deadline_ns, Ordering::Relaxed);
            self.cpu.store(here, Ordering::Release);
            queue.insert((deadline_ns, self.id), self.clone());
            if deadline_ns < EARLIEST.of(here).load(Ordering::Relaxed) {
                EARLIEST.of(here).store(deadline_ns, Ordering::Relaxed);
                crate::time::program_next_event();
            }
        }
        cpu::preempt_enable();
    }

    /// Stops it. True when it was waiting. Its callback may still be running on another CPU.
    pub fn cancel(&self) -> bool {
        loop {
            let cpu = self.cpu.load(Ordering::Acquire);
            if cpu == NOT_QUEUED {
                return false;
            }
            let mut queue = QUEUES.of(cpu).lock();
            if self.cpu.load(Ordering::Acquire) != cpu {
                continue;
            }
            let removed = queue.remove(&(self.deadline_ns.load(Ordering::Relaxed), self.id));
            self.cpu.store(NOT_QUEUED, Ordering::Release);
            EARLIEST.of(cpu).store(first(&queue), Ordering::Relaxed);
            drop(queue);
            return removed.is_some();
        }
    }

    /// Whether it waits for its deadline.
    pub fn is_active(&self) -> bool {
        self.cpu.load(Ordering::Acquire) != NOT_QUEUED
    }

    /// The deadline it was last started for, ns.
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns.load(Ordering::Relaxed)
    }

    fn expire(self: &Arc<Timer>) {
        match &self.action {
            Action::Wake(task) => {
                if let Some(task) = task.upgrade() {
                    sched::wake(&task, TaskState::NORMAL);
                }
            }
            Action::Call(callback) => {
                if let Some(callback) = callback.upgrade() {
                    callback.expired(self);
                }
            }
        }
    }
}

fn first(queue: &Queue) -> u64 {
    queue.first_key_value().map_or(u64::MAX, |((deadline, _), _)| *deadline)
}

/// The earliest deadline on this CPU.
pub(super) fn next_deadline_ns() -> u64 {
    EARLIEST.this().load(Ordering::Relaxed)
}

/// Runs what is due on this CPU. Interrupts masked.
pub(super) fn run_expired(now_ns: u64) {
    let here = cpu::id();
    while EARLIEST.of(here).load(Ordering::Relaxed) <= now_ns {
        let due = {
            let mut queue = QUEUES.of(here).lock();
            let due = (first(&queue) <= now_ns).then(|| queue.pop_first()).flatten();
            if let Some((_, timer)) = &due {
                timer.cpu.store(NOT_QUEUED, Ordering::Release);
            }
            EARLIEST.of(here).store(first(&queue), Ordering::Relaxed);
            due
        };
        if let Some((_, timer)) = due {
            timer.expire();
        }
    }
}
