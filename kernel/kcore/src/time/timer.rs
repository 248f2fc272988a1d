//! High-resolution timers: one queue per CPU, ordered by deadline (Linux hrtimers).
//!
//! A timer runs its callback in interrupt context on the CPU that it was started on. The callback runs without the queue
//! lock, so it may start and cancel timers.
//!
//! Every queue is ordered by the monotonic clock. A deadline on a clock that can be set ([`Base::Realtime`],
//! [`Base::Tai`]) is carried over when the timer starts, and again for all of them when the clock was set
//! ([`clock_was_set`]): setting the clock is rare, and every other operation has one queue to look at instead of three.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hal::cpu::{self, PerCpu};
use hal::sync::IrqLock;

use super::clock;
use super::heap::{Entry, Heap};
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

/// The clock that a deadline is read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// CLOCK_MONOTONIC, and CLOCK_BOOTTIME, which is the same on a machine that never suspends.
    Monotonic = 0,
    /// CLOCK_REALTIME: moves when the clock is set.
    Realtime = 1,
    /// CLOCK_TAI: moves with CLOCK_REALTIME and when its distance from it is set.
    Tai = 2,
}

impl Base {
    fn from_number(number: u32) -> Base {
        match number {
            1 => Base::Realtime,
            2 => Base::Tai,
            _ => Base::Monotonic,
        }
    }

    /// The clock now, ns.
    pub fn now_ns(self) -> u64 {
        clock::monotonic_ns().saturating_add_signed(self.offset_ns())
    }

    /// What the clock shows more than the monotonic one, ns.
    fn offset_ns(self) -> i64 {
        match self {
            Base::Monotonic => 0,
            Base::Realtime => clock::real_offset_ns(),
            Base::Tai => clock::tai_offset_ns(),
        }
    }

    /// When the monotonic clock shows what this one shows at `ns`, as the clocks are set now.
    pub fn to_monotonic(self, ns: u64) -> u64 {
        ns.saturating_add_signed(self.offset_ns().saturating_neg()).min(FOREVER)
    }
}

/// Linux's KTIME_MAX: a deadline that is not reached.
const FOREVER: u64 = i64::MAX as u64;

/// A one-shot timer; it may be started again and again.
pub struct Timer {
    action: Action,
    /// The CPU it is queued on ([`NOT_QUEUED`]: none), its place there and its deadline. Written under that queue's lock.
    cpu: AtomicUsize,
    position: AtomicUsize,
    base: AtomicU32,
    deadline_ns: AtomicU64,
}

const NOT_QUEUED: usize = usize::MAX;

struct Queue {
    heap: Heap,
    /// Timers started so far.
    sequence: u64,
    /// Timers on clocks that can be set.
    movable: usize,
}

impl Queue {
    const fn new() -> Self {
        Self { heap: Heap::new(), sequence: 0, movable: 0 }
    }

    fn take(&mut self, at: usize) -> Option<Entry> {
        let entry = self.heap.remove(at)?;
        self.movable -= usize::from(entry.timer.base() != Base::Monotonic);
        Some(entry)
    }

    fn earliest_ns(&self) -> u64 {
        self.heap.first().map_or(u64::MAX, |entry| entry.hard_ns)
    }
}

hal::global! {
    static QUEUES: PerCpu<IrqLock<Queue>> =
        PerCpu::new([const { IrqLock::new(order::TIMERS, Queue::new()) }; hal::MAX_CPUS]);
    /// The earliest deadline of each CPU's queue, to read without its lock.
    static EARLIEST: PerCpu<AtomicU64> = PerCpu::new([const { AtomicU64::new(u64::MAX) }; hal::MAX_CPUS]);
    /// How often each CPU's timer has interrupted it.
    static INTERRUPTS: PerCpu<AtomicU64> = PerCpu::new([const { AtomicU64::new(0) }; hal::MAX_CPUS]);
    /// Another CPU changed this CPU's earliest deadline: it programs its hardware at the interrupt that comes with this.
    static CHANGED: PerCpu<AtomicBool> = PerCpu::new([const { AtomicBool::new(false) }; hal::MAX_CPUS]);
}

impl Timer {
    fn new(action: Action) -> Arc<Timer> {
        Arc::new(Timer {
            action,
            cpu: AtomicUsize::new(NOT_QUEUED),
            position: AtomicUsize::new(0),
            base: AtomicU32::new(Base::Monotonic as u32),
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
        self.start_on(Base::Monotonic, deadline_ns, 0);
    }

    /// Starts (or restarts) it for `deadline_ns` of a clock. It may come later by `slack_ns`, if that lets it share an
    /// interrupt with another (Linux `hrtimer_start_range_ns`).
    pub fn start_on(self: &Arc<Timer>, base: Base, deadline_ns: u64, slack_ns: u64) {
        cpu::preempt_disable();
        let here = cpu::id();
        loop {
            self.cancel();
            let mut queue = QUEUES.of(here).lock();
            // Two that start it at once: the later one finds it queued, and tries again.
            if self.cpu.compare_exchange(NOT_QUEUED, here, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            self.base.store(base as u32, Ordering::Relaxed);
            self.deadline_ns.store(deadline_ns, Ordering::Relaxed);
            let soft_ns = base.to_monotonic(deadline_ns);
            let hard_ns = soft_ns.saturating_add(slack_ns).min(FOREVER);
            queue.sequence += 1;
            queue.movable += usize::from(base != Base::Monotonic);
            let sequence = queue.sequence;
            queue.heap.push(Entry { hard_ns, soft_ns, sequence, timer: self.clone() });
            if hard_ns < EARLIEST.of(here).load(Ordering::Relaxed) {
                EARLIEST.of(here).store(hard_ns, Ordering::Relaxed);
                crate::time::program_next_event();
            }
            break;
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
            let removed = queue.take(self.position());
            self.cpu.store(NOT_QUEUED, Ordering::Release);
            EARLIEST.of(cpu).store(queue.earliest_ns(), Ordering::Relaxed);
            drop(queue);
            return removed.is_some();
        }
    }

    /// Whether it waits for its deadline.
    pub fn is_active(&self) -> bool {
        self.cpu.load(Ordering::Acquire) != NOT_QUEUED
    }

    /// The deadline it was last started for, ns of its clock.
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns.load(Ordering::Relaxed)
    }

    /// The clock it was last started on.
    pub fn base(&self) -> Base {
        Base::from_number(self.base.load(Ordering::Relaxed))
    }

    pub(super) fn position(&self) -> usize {
        self.position.load(Ordering::Relaxed)
    }

    pub(super) fn set_position(&self, at: usize) {
        self.position.store(at, Ordering::Relaxed);
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

/// The earliest deadline on this CPU.
pub(super) fn next_deadline_ns() -> u64 {
    EARLIEST.this().load(Ordering::Relaxed)
}

/// Runs what is due on this CPU. Interrupts masked.
pub(super) fn run_expired(now_ns: u64) {
    let here = cpu::id();
    while EARLIEST.of(here).load(Ordering::Relaxed) != u64::MAX {
        let due = {
            let mut queue = QUEUES.of(here).lock();
            // Later ones may have begun, too, but they are due for another interrupt in any case (Linux
            // `__hrtimer_run_queues` stops here, too).
            let is_due = queue.heap.first().is_some_and(|entry| entry.soft_ns <= now_ns);
            let due = if is_due { queue.take(0) } else { None };
            if let Some(Entry { timer, .. }) = &due {
                timer.cpu.store(NOT_QUEUED, Ordering::Release);
            }
            EARLIEST.of(here).store(queue.earliest_ns(), Ordering::Relaxed);
            due
        };
        let Some(Entry { timer, .. }) = due else { return };
        timer.expire();
    }
}

/// A clock was set: the timers on clocks that can be set find their new places, on every CPU (Linux `clock_was_set`).
pub(super) fn clock_was_set() {
    cpu::preempt_disable();
    for cpu in 0..hal::MAX_CPUS {
        let mut queue = QUEUES.of(cpu).lock();
        if queue.movable == 0 {
            continue;
        }
        queue.heap.change_all(|entry| {
            let slack_ns = entry.hard_ns - entry.soft_ns;
            entry.soft_ns = entry.timer.base().to_monotonic(entry.timer.deadline_ns());
            entry.hard_ns = entry.soft_ns.saturating_add(slack_ns).min(FOREVER);
        });
        EARLIEST.of(cpu).store(queue.earliest_ns(), Ordering::Relaxed);
        drop(queue);
        program(cpu);
    }
    cpu::preempt_enable();
}

/// The monotonic clock runs faster or slower: what the hardware was asked for is no longer right, on any CPU.
pub(super) fn speed_changed() {
    cpu::preempt_disable();
    (0..hal::MAX_CPUS).filter(|cpu| EARLIEST.of(*cpu).load(Ordering::Relaxed) != u64::MAX).for_each(program);
    cpu::preempt_enable();
}

/// Has a CPU's hardware programmed anew. Preemption is off.
fn program(cpu: usize) {
    if cpu == cpu::id() {
        crate::time::program_next_event();
    } else {
        CHANGED.of(cpu).store(true, Ordering::SeqCst);
        cpu::send_ipi(cpu);
    }
}

/// An interrupt from another CPU came here: perhaps because it changed this CPU's queue. Interrupts masked.
pub fn take_change() {
    if CHANGED.this().load(Ordering::SeqCst) {
        CHANGED.this().store(false, Ordering::SeqCst);
        crate::time::program_next_event();
    }
}

/// Counts an interrupt of this CPU's timer. Interrupts masked.
pub(super) fn count_interrupt() {
    let count = INTERRUPTS.this();
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// How often the timer of `cpu` has interrupted it.
pub fn interrupts(cpu: usize) -> u64 {
    INTERRUPTS.of(cpu).load(Ordering::Relaxed)
}

/// A timer as `/proc/timer_list` shows it.
pub struct Listed {
    /// Earliest and latest time, monotonic ns.
    pub soft_ns: u64,
    /// See `soft_ns`.
    pub hard_ns: u64,
    /// The clock.
    pub base: Base,
    /// Whether a sleeping task is woken by it, and which.
    pub task: Option<Arc<Task>>,
}

/// The first `limit` timers of a CPU in no particular order, and how many there are.
pub fn list(cpu: usize, limit: usize) -> (alloc::vec::Vec<Listed>, usize) {
    let mut listed = alloc::vec::Vec::with_capacity(limit);
    let queue = QUEUES.of(cpu).lock();
    for entry in queue.heap.iter().take(limit) {
        let task = match &entry.timer.action {
            Action::Wake(task) => task.upgrade(),
            Action::Call(_) => None,
        };
        listed.push(Listed { soft_ns: entry.soft_ns, hard_ns: entry.hard_ns, base: entry.timer.base(), task });
    }
    (listed, queue.heap.len())
}
