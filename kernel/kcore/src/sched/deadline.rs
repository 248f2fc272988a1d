//! The deadline class: SCHED_DEADLINE (sched(7)), earliest deadline first with a constant bandwidth server for each task
//! (Abeni and Buttazzo 1998; Linux `kernel/sched/deadline.c`).
//!
//! A task asked for `runtime` in each `period`, to be served within `deadline` of the period's begin. Its server holds a
//! budget and an absolute deadline. Running uses the budget up; a task whose budget is gone is *throttled*: it waits apart,
//! however idle the CPU is, until the next period fills the budget again. A task that wakes keeps budget and deadline only
//! if it could not use more than its bandwidth with them. What admission ([`super::bandwidth`]) lets in thus gets its
//! runtime in each period, and never more.
//!
//! Nothing here sets a timer: the core asks [`DeadlineQueue::next_event_ns`] when the CPU has to look again, at the end of
//! the running task's budget and at the first replenishment.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use abi::process::{SCHED_FLAG_DL_OVERRUN, SCHED_FLAG_RECLAIM};
use abi::sched::SCHED_DEADLINE;

use super::bandwidth;
use super::class::{Class, Enqueue};
use super::entity::Entity;
use super::timeline::Timeline;
use crate::task::Task;

/// Tasks that a search for one to move looks at.
const STEAL_SEARCH: usize = 32;

/// What a task asked for (`struct sched_attr`), ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// Run time in each period.
    pub runtime_ns: u64,
    /// How long after a period's begin it is to be served.
    pub deadline_ns: u64,
    /// The period.
    pub period_ns: u64,
    /// SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN.
    pub flags: u64,
}

/// The server of a task. Guarded as [`Entity`] is.
#[derive(Default)]
pub struct Server {
    runtime_ns: AtomicU64,
    relative_ns: AtomicU64,
    period_ns: AtomicU64,
    flags: AtomicU64,
    /// What is left of the budget, ns; negative: used ahead.
    budget_ns: AtomicI64,
    /// The absolute deadline, ns on the monotonic clock; 0: never served.
    absolute_ns: AtomicU64,
    throttled: AtomicBool,
    /// It gave the rest of the period up (sched_yield).
    yielded: AtomicBool,
    /// It is among the throttled of its queue.
    parked: AtomicBool,
    /// SIGXCPU is due (SCHED_FLAG_DL_OVERRUN).
    overrun: AtomicBool,
}

impl Server {
    /// What was asked for.
    pub fn request(&self) -> Request {
        Request {
            runtime_ns: self.runtime_ns.load(Relaxed),
            deadline_ns: self.relative_ns.load(Relaxed),
            period_ns: self.period_ns.load(Relaxed),
            flags: self.flags.load(Relaxed),
        }
    }

    /// Takes over another request; the next enqueueing begins a period, unless one goes on.
    pub(super) fn set_request(&self, request: Request) {
        self.runtime_ns.store(request.runtime_ns, Relaxed);
        self.relative_ns.store(request.deadline_ns, Relaxed);
        self.period_ns.store(request.period_ns, Relaxed);
        self.flags.store(request.flags, Relaxed);
    }

    /// The absolute deadline, ns.
    pub fn absolute_ns(&self) -> u64 {
        self.absolute_ns.load(Relaxed)
    }

    /// What is left of the budget, ns.
    pub fn budget_ns(&self) -> i64 {
        self.budget_ns.load(Relaxed)
    }

    /// Whether the budget ran out since the last call, and the task wants to hear of it.
    pub fn take_overrun(&self) -> bool {
        self.overrun.load(Relaxed) && self.overrun.swap(false, Relaxed)
    }

    fn is_throttled(&self) -> bool {
        self.throttled.load(Relaxed)
    }

    /// When the next period begins (Linux `dl_next_period`).
    fn next_period_ns(&self) -> u64 {
        (self.absolute_ns() + self.period_ns.load(Relaxed)).saturating_sub(self.relative_ns.load(Relaxed))
    }

    fn begin(&self, now_ns: u64) {
        self.absolute_ns.store(now_ns + self.relative_ns.load(Relaxed), Relaxed);
        self.budget_ns.store(self.runtime_ns.load(Relaxed).cast_signed(), Relaxed);
    }

    /// The next period fills the budget; one that was overdrawn is filled by as many as it takes (Linux
    /// `replenish_dl_entity`).
    fn replenish(&self, now_ns: u64) {
        let runtime = self.runtime_ns.load(Relaxed).cast_signed();
        let mut budget = self.budget_ns();
        if self.yielded.load(Relaxed) {
            budget = budget.min(0);
        }
        let periods = if budget > 0 { 0 } else { -budget / runtime.max(1) + 1 };
        budget += periods * runtime;
        let absolute = self.absolute_ns() + self.period_ns.load(Relaxed) * periods.unsigned_abs();
        self.budget_ns.store(budget, Relaxed);
        self.absolute_ns.store(absolute, Relaxed);
        if absolute < now_ns {
            // It fell behind by whole periods, as after a long stop of the machine: it begins anew.
            self.begin(now_ns);
        }
        self.yielded.store(false, Relaxed);
        self.throttled.store(false, Relaxed);
    }

    /// A task wakes (Linux `update_dl_entity`, `dl_check_constrained_dl`).
    fn wake(&self, now_ns: u64) {
        if self.is_throttled() {
            if self.next_period_ns() <= now_ns {
                self.replenish(now_ns);
            }
            return;
        }
        let absolute = self.absolute_ns();
        if absolute == 0 {
            return self.begin(now_ns);
        }
        let request = self.request();
        if request.deadline_ns < request.period_ns && absolute < now_ns && now_ns < self.next_period_ns() {
            // Between deadline and period a constrained task has nothing to run for.
            self.budget_ns.store(self.budget_ns().min(0), Relaxed);
            self.throttled.store(true, Relaxed);
            return;
        }
        let left_ns = absolute.saturating_sub(now_ns);
        let budget = self.budget_ns().max(0).unsigned_abs();
        // budget / left > runtime / deadline: what is left would be more than its bandwidth until the deadline.
        let overflows =
            u128::from(budget) * u128::from(request.deadline_ns) > u128::from(left_ns) * u128::from(request.runtime_ns);
        if left_ns == 0 || overflows && request.deadline_ns == request.period_ns {
            self.begin(now_ns);
        } else if overflows {
            // The deadline stays and the budget shrinks to what fits (the revised wake-up rule).
            let fits = u128::from(left_ns) * u128::from(request.runtime_ns) / u128::from(request.deadline_ns.max(1));
            self.budget_ns.store(i64::try_from(fits).unwrap_or(i64::MAX), Relaxed);
        }
    }

    /// Charges `delta_ns` on the CPU. With SCHED_FLAG_RECLAIM the part of the CPUs that no deadline task asked for is free
    /// (GRUB: what is charged is scaled by the bandwidth in use).
    fn charge(&self, delta_ns: u64) {
        let flags = self.flags.load(Relaxed);
        let charged = if flags & SCHED_FLAG_RECLAIM == 0 {
            delta_ns
        } else {
            bandwidth::reclaim(delta_ns, bandwidth::of(&self.request()))
        };
        let budget = self.budget_ns() - charged.min(i64::MAX as u64).cast_signed();
        self.budget_ns.store(budget, Relaxed);
        if budget <= 0 {
            self.throttled.store(true, Relaxed);
            if flags & SCHED_FLAG_DL_OVERRUN != 0 {
                self.overrun.store(true, Relaxed);
            }
        }
    }
}

/// The queue of one CPU.
pub struct DeadlineQueue {
    /// By absolute deadline.
    ready: Timeline,
    /// By the time of their replenishment.
    throttled: Timeline,
    sequence: u64,
    now_ns: u64,
}

impl DeadlineQueue {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        Self { ready: Timeline::new(), throttled: Timeline::new(), sequence: 0, now_ns: 0 }
    }

    /// Who goes first of those who wait.
    pub fn first(&self) -> Option<&Arc<Task>> {
        self.ready.first_task()
    }

    /// How many wait for a replenishment.
    #[inline(always)]
    pub fn parked(&self) -> usize {
        self.throttled.len()
    }

    /// Whether the deadline of someone who waits comes before that of `current`, or `current` may not run on.
    pub fn is_outranked(&self, current: &Task) -> bool {
        let own = current.sched.priority().deadline_ns().cast_signed();
        is_served(&current.sched) && current.sched.server.is_throttled()
            || self.ready.first().is_some_and(|(deadline, _)| deadline < own)
    }

    /// Takes out one whose budget is due again at `now_ns`. It is to be placed and inserted.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<Arc<Task>> {
        self.now_ns = now_ns;
        if self.throttled.first()?.0 > now_ns.cast_signed() {
            return None;
        }
        let (_, _, task) = self.throttled.pop_first()?;
        task.sched.server.parked.store(false, Relaxed);
        task.sched.server.replenish(now_ns);
        Some(task)
    }

    /// When the CPU must look again at the latest: the first replenishment, or the end of `running`'s budget.
    pub fn next_event_ns(&self, running: Option<&Entity>, now_ns: u64) -> u64 {
        let first = self.throttled.first().map_or(u64::MAX, |(due, _)| due.cast_unsigned());
        // One that is throttled leaves at the reschedule that is due.
        let ends = |entity: &&Entity| is_served(entity) && !entity.server.is_throttled();
        let end = running
            .filter(ends)
            .map_or(u64::MAX, |entity| now_ns.saturating_add(entity.server.budget_ns().max(0).unsigned_abs()));
        first.min(end)
    }

    fn next_sequence(&mut self, task: &Task) -> u64 {
        self.sequence += 1;
        task.sched.sequence.store(self.sequence, Relaxed);
        self.sequence
    }
}

/// Whether a task is here by its own policy. Who inherits is urgent for the sake of others and never throttled.
fn is_served(entity: &Entity) -> bool {
    entity.policy.load(Relaxed) == SCHED_DEADLINE && !entity.is_boosted()
}

impl Class for DeadlineQueue {
    fn place(&mut self, task: &Task, how: Enqueue, _running: Option<&Entity>, now_ns: u64) {
        self.now_ns = now_ns;
        let server = &task.sched.server;
        if !is_served(&task.sched) {
            return;
        }
        match how {
            Enqueue::Wakeup | Enqueue::New => server.wake(now_ns),
            Enqueue::Migrate | Enqueue::Demoted => {
                if !server.is_throttled() && server.absolute_ns() <= now_ns {
                    server.begin(now_ns);
                }
            }
        }
    }

    fn insert(&mut self, task: Arc<Task>) {
        let server = &task.sched.server;
        if is_served(&task.sched) && server.is_throttled() {
            if server.next_period_ns() > self.now_ns {
                let key = (server.next_period_ns().cast_signed(), self.next_sequence(&task));
                task.sched.deadline.store(key.0, Relaxed);
                server.parked.store(true, Relaxed);
                return self.throttled.insert(key, 0, task);
            }
            server.replenish(self.now_ns);
        }
        let key = (task.sched.priority().deadline_ns().cast_signed(), self.next_sequence(&task));
        task.sched.deadline.store(key.0, Relaxed);
        self.ready.insert(key, 0, task);
    }

    fn leave(&mut self, _current: &Task) {}

    fn dequeue(&mut self, task: &Task, _running: Option<&Entity>) -> bool {
        let key = (task.sched.deadline.load(Relaxed), task.sched.sequence.load(Relaxed));
        if task.sched.server.parked.swap(false, Relaxed) {
            return self.throttled.remove(&key).is_some();
        }
        self.ready.remove(&key).is_some()
    }

    fn pick_next(&mut self) -> Option<Arc<Task>> {
        self.ready.pop_first().map(|(_, _, task)| task)
    }

    fn steal_for(&mut self, cpu: usize, _running: Option<&Entity>) -> Option<Arc<Task>> {
        let key = self.ready.find(STEAL_SEARCH, |task| task.sched.allows(cpu))?;
        self.ready.remove(&key)
    }

    fn account(&mut self, current: &Task, delta_ns: u64, now_ns: u64) {
        self.now_ns = now_ns;
        if is_served(&current.sched) {
            current.sched.server.charge(delta_ns);
        }
    }

    fn preempts(&mut self, woken: &Task, current: &Task) -> bool {
        let parks = is_served(&woken.sched) && woken.sched.server.is_throttled();
        !parks && woken.sched.priority() < current.sched.priority()
    }

    fn turn_is_over(&mut self, _current: &Task) -> bool {
        // `is_outranked` says it all.
        false
    }

    fn yield_current(&mut self, current: &Task) {
        // The rest of the period is given up (sched(7)).
        if is_served(&current.sched) {
            let server = &current.sched.server;
            server.yielded.store(true, Relaxed);
            server.throttled.store(true, Relaxed);
            server.budget_ns.store(server.budget_ns().min(0), Relaxed);
        }
    }

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}
