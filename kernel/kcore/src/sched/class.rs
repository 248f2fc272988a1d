//! The scheduling classes of one CPU and their order: stop, deadline, real-time, fair (sched(7)). The core ([`super`]) owns states,
//! switching and placement; a class owns the order of its tasks. All calls come under the run-queue lock.
//!
//! A task belongs to the class of its *effective* [`Priority`]: its own, or that of a task it holds up, if that is more
//! urgent (priority inheritance). There is no dispatch through pointers: the classes are fields, and as long as nobody waits
//! in the urgent ones, the fair class is asked at once.

use alloc::sync::Arc;

use core::sync::atomic::Ordering::Relaxed;

use super::deadline::DeadlineQueue;
use super::entity::Entity;
use super::fair::FairQueue;
use super::realtime::RealTimeQueue;
use super::stop::StopQueue;
use crate::task::Task;

/// How a task enters a class's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enqueue {
    /// After a sleep.
    Wakeup,
    /// For the first time.
    New,
    /// From another CPU, or with another policy: it did not sleep.
    Migrate,
    /// As `Migrate`, and it is less urgent than it was.
    Demoted,
}

/// A task's policy as the order in which classes run, most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ClassId {
    /// The stopper of a CPU.
    Stop,
    /// SCHED_DEADLINE.
    Deadline,
    /// SCHED_FIFO and SCHED_RR.
    RealTime,
    /// SCHED_OTHER, SCHED_BATCH and SCHED_IDLE.
    Fair,
    /// The idle task of a CPU, which is in no queue.
    Idle,
}

/// How urgent a task is. The lesser of two goes first: a deadline task before a real-time one before a fair one (Linux
/// `task_struct.prio`), and of two deadline tasks the one whose deadline comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Priority {
    level: i32,
    deadline_ns: u64,
}

impl Priority {
    /// The level of every deadline task.
    pub const DEADLINE: i32 = -1;
    /// The level of a CPU's stopper.
    pub const STOP: i32 = -2;
    /// The first level that is not real-time (Linux `MAX_RT_PRIO`).
    pub const FIRST_FAIR: i32 = 100;
    /// Nice 0 (Linux `DEFAULT_PRIO`).
    pub const NICE_0: i32 = 120;
    /// Behind all tasks (Linux `MAX_PRIO`): what a CPU runs that idles.
    pub const IDLE: i32 = 140;

    /// Of a CPU that has nothing to run.
    pub(super) const fn of_idle() -> Self {
        Self::new(Self::IDLE, 0)
    }

    pub(super) const fn new(level: i32, deadline_ns: u64) -> Self {
        Self { level, deadline_ns }
    }

    /// Which a task has now, inheritance included.
    pub fn of(task: &Task) -> Self {
        task.sched.priority()
    }

    /// Which a task has by its own policy.
    pub fn own(task: &Task) -> Self {
        task.sched.own_priority()
    }

    /// Linux's `prio`: -1 for deadline, 0 to 98 for real-time 99 to 1, 100 to 139 for nice -20 to 19.
    pub fn level(self) -> i32 {
        self.level
    }

    /// Whether it is of the fair class: such tasks take turns, so none of them waits for another for its urgency.
    pub fn is_fair(self) -> bool {
        self.level >= Self::FIRST_FAIR
    }

    /// The absolute deadline of a deadline task, ns on the monotonic clock; 0 for others.
    pub fn deadline_ns(self) -> u64 {
        self.deadline_ns
    }
}

/// One policy's queue on one CPU. The running task is not in the queue; `running` is its entity if it is a fair task.
pub trait Class {
    /// Gives a task that became runnable its place in the order. [`Self::insert`] follows.
    fn place(&mut self, task: &Task, how: Enqueue, running: Option<&Entity>, now_ns: u64);
    /// Adds a task to the queue: one that was placed, or the one that ran.
    fn insert(&mut self, task: Arc<Task>);
    /// The running task is runnable here no more: it sleeps, or goes elsewhere.
    fn leave(&mut self, current: &Task);
    /// Removes a waiting task. False when it was not here.
    fn dequeue(&mut self, task: &Task, running: Option<&Entity>) -> bool;
    /// Takes the task that should run next out of the queue.
    fn pick_next(&mut self) -> Option<Arc<Task>>;
    /// Takes a waiting task that may run on `cpu`, for balancing.
    fn steal_for(&mut self, cpu: usize, running: Option<&Entity>) -> Option<Arc<Task>>;
    /// `current` ran for `delta_ns`.
    fn account(&mut self, current: &Task, delta_ns: u64, now_ns: u64);
    /// Whether `woken`, which was placed and not yet inserted, should take the CPU from `current`, of this class too.
    fn preempts(&mut self, woken: &Task, current: &Task) -> bool;
    /// Whether `current`'s turn is over.
    fn turn_is_over(&mut self, current: &Task) -> bool;
    /// `current` gives way (sched_yield).
    fn yield_current(&mut self, current: &Task);
    /// Tasks that wait.
    fn waiting(&self) -> usize;
}

/// The queues of one CPU.
pub struct Classes {
    /// Before all.
    pub stop: StopQueue,
    /// SCHED_DEADLINE.
    pub deadline: DeadlineQueue,
    /// SCHED_FIFO, SCHED_RR.
    pub realtime: RealTimeQueue,
    /// The rest.
    pub fair: FairQueue,
}

/// Calls a method of the class of a task.
macro_rules! of_class {
    ($classes:ident, $task:expr, $class:ident => $call:expr) => {
        match $task.sched.class() {
            ClassId::Fair | ClassId::Idle => {
                let $class = &mut $classes.fair;
                $call
            }
            ClassId::RealTime => {
                let $class = &mut $classes.realtime;
                $call
            }
            ClassId::Deadline => {
                let $class = &mut $classes.deadline;
                $call
            }
            ClassId::Stop => {
                let $class = &mut $classes.stop;
                $call
            }
        }
    };
}

/// The entity of the running task, if it takes part in the virtual time of the fair class.
#[inline]
fn fair_entity(running: Option<&Arc<Task>>) -> Option<&Entity> {
    running.map(|running| &running.sched).filter(|entity| entity.class() == ClassId::Fair)
}

impl Classes {
    /// Empty queues.
    pub(crate) const fn new() -> Self {
        Self {
            stop: StopQueue::new(),
            deadline: DeadlineQueue::new(),
            realtime: RealTimeQueue::new(),
            fair: FairQueue::new(),
        }
    }

    /// Whether none waits in a class before the fair one.
    #[inline(always)]
    fn only_fair(&self) -> bool {
        self.stop.waiting() | self.deadline.waiting() | self.realtime.waiting() == 0
    }

    /// See [`Class::place`]. `running`: who has the CPU.
    #[inline]
    pub fn place(&mut self, task: &Task, how: Enqueue, running: Option<&Arc<Task>>, now_ns: u64) {
        let running = fair_entity(running);
        of_class!(self, task, class => class.place(task, how, running, now_ns));
    }

    /// See [`Class::insert`].
    #[inline]
    pub fn insert(&mut self, task: Arc<Task>) {
        of_class!(self, task, class => class.insert(task));
    }

    /// See [`Class::leave`].
    #[inline]
    pub fn leave(&mut self, current: &Task) {
        of_class!(self, current, class => class.leave(current));
    }

    /// See [`Class::dequeue`]. `running`: who has the CPU.
    pub fn dequeue(&mut self, task: &Task, running: Option<&Arc<Task>>) -> bool {
        of_class!(self, task, class => class.dequeue(task, fair_entity(running)))
    }

    /// Takes a waiting fair task that may run on `cpu` and weighs no more than `most`. `running`: who has the CPU here.
    pub fn steal_fair(&mut self, cpu: usize, most: u64, running: Option<&Arc<Task>>) -> Option<Arc<Task>> {
        self.fair.steal_up_to(cpu, most, fair_entity(running))
    }

    /// Whether a real-time or deadline task waits. Throttled ones have no claim to other CPUs.
    #[inline]
    pub fn has_urgent(&self) -> bool {
        !self.only_fair() && self.best_rank() < ClassRank::Fair
    }

    /// How urgent the most urgent task of these two classes is that waits, and the CPUs it may run on.
    pub fn most_urgent(&self) -> Option<(Priority, u32)> {
        let deadline = || self.deadline.first();
        let realtime = || self.realtime.first().filter(|_| !self.realtime.is_throttled());
        let task = deadline().or_else(realtime)?;
        Some((task.sched.priority(), task.sched.allowed.load(Relaxed)))
    }

    /// Takes a waiting task of these two classes that may run on `cpu` and is more urgent than `than`.
    pub fn steal_urgent(&mut self, cpu: usize, than: Priority) -> Option<Arc<Task>> {
        if self.deadline.first().is_some_and(|task| task.sched.priority() < than)
            && let Some(task) = self.deadline.steal_for(cpu, None)
        {
            return Some(task);
        }
        if self.realtime.is_throttled() || self.realtime.best_level() >= than.level() {
            return None;
        }
        self.realtime.steal_for(cpu, None)
    }

    /// See [`Class::account`].
    #[inline]
    pub fn account(&mut self, current: &Task, delta_ns: u64, now_ns: u64) {
        of_class!(self, current, class => class.account(current, delta_ns, now_ns));
        // While the class is throttled others run: the end of its period must be seen then, too.
        if self.realtime.is_throttled() {
            self.realtime.refresh_throttle(now_ns);
        }
    }

    /// See [`Class::yield_current`].
    pub fn yield_current(&mut self, current: &Task) {
        of_class!(self, current, class => class.yield_current(current));
    }

    /// Whether `current` should give way at a tick.
    pub fn turn_is_over(&mut self, current: &Task) -> bool {
        let over = of_class!(self, current, class => class.turn_is_over(current));
        over || self.is_outranked(current)
    }

    /// Whether someone waits whose class, or whose place in it, is more urgent than that of `current`.
    pub fn is_outranked(&self, current: &Task) -> bool {
        let (mine, best) = (self.rank(current), self.best_rank());
        mine > best
            || match mine {
                // It may have to go though nobody waits.
                ClassRank::Deadline => self.deadline.is_outranked(current),
                ClassRank::RealTime if best == mine => self.realtime.best_level() < current.sched.level(),
                _ => false,
            }
    }

    /// The running task goes back, and who should run next comes out, perhaps the same. Nobody, when it may not run on and
    /// it was the only one.
    #[inline]
    pub fn exchange(&mut self, task: &Arc<Task>) -> Option<Arc<Task>> {
        if task.sched.class() == ClassId::Fair && self.only_fair() {
            return Some(self.fair.exchange(task));
        }
        self.exchange_any(task)
    }

    fn exchange_any(&mut self, task: &Arc<Task>) -> Option<Arc<Task>> {
        let rank = self.rank(task);
        if rank == ClassRank::Fair && self.best_rank() >= rank {
            return Some(self.fair.exchange(task));
        }
        self.insert(task.clone());
        self.pick_next()
    }

    /// When the CPU that runs `running` has to look again before the next tick: see [`super::arm_event`].
    pub fn next_event_ns(&self, running: &Task, now_ns: u64) -> u64 {
        let entity = &running.sched;
        let budget = self.deadline.next_event_ns(Some(entity).filter(|_| entity.class() == ClassId::Deadline), now_ns);
        let turn = if entity.class() == ClassId::Fair { self.fair.turn_end_ns(entity, now_ns) } else { u64::MAX };
        budget.min(turn)
    }

    /// Takes the task that should run next.
    #[inline]
    pub fn pick_next(&mut self) -> Option<Arc<Task>> {
        if self.only_fair() {
            return self.fair.pick_next();
        }
        if let Some(task) = self.stop.pick_next().or_else(|| self.deadline.pick_next()) {
            return Some(task);
        }
        // Throttled real-time tasks get what the others leave.
        if self.realtime.is_throttled() && self.fair.waiting() > 0 {
            return self.fair.pick_next();
        }
        self.realtime.pick_next().or_else(|| self.fair.pick_next())
    }

    /// Whether `woken`, which was placed and not yet inserted, should take the CPU from `current` at once.
    #[inline]
    pub fn preempts(&mut self, woken: &Task, current: &Task) -> bool {
        let (class, running) = (woken.sched.class(), current.sched.class());
        if class == ClassId::Fair && running == ClassId::Fair {
            return self.fair.preempts(woken, current);
        }
        if class != running {
            return self.rank(woken) < self.rank(current);
        }
        of_class!(self, woken, class => class.preempts(woken, current))
    }

    /// Where a task stands in the order of the classes.
    fn rank(&self, task: &Task) -> ClassRank {
        match task.sched.class() {
            ClassId::Stop => ClassRank::Stop,
            ClassId::Deadline => ClassRank::Deadline,
            ClassId::RealTime if self.realtime.is_throttled() => ClassRank::Throttled,
            ClassId::RealTime => ClassRank::RealTime,
            ClassId::Fair | ClassId::Idle => ClassRank::Fair,
        }
    }

    /// The rank of the best who waits.
    fn best_rank(&self) -> ClassRank {
        if self.stop.waiting() > 0 {
            ClassRank::Stop
        } else if self.deadline.waiting() > 0 {
            ClassRank::Deadline
        } else if self.realtime.waiting() > 0 && !self.realtime.is_throttled() {
            ClassRank::RealTime
        } else if self.fair.waiting() > 0 {
            ClassRank::Fair
        } else {
            ClassRank::Throttled
        }
    }
}

/// The order in which the classes run while real-time tasks may be throttled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ClassRank {
    Stop,
    Deadline,
    RealTime,
    Fair,
    /// Real-time tasks that used up the share that is theirs.
    Throttled,
}
