//! The fair class: SCHED_OTHER, SCHED_BATCH and SCHED_IDLE, by EEVDF (Stoica and Abdel-Wahab 1995; Linux 6.6 and later).
//!
//! Each task has a virtual time, which advances by its run time divided by its weight. The queue's virtual time is the
//! average of those of its tasks, weighted: where all of them would be on an ideal machine that serves them at once. A task
//! that is not ahead of it was served no more than is its due, and is *eligible*. Of those that are, the one goes first
//! whose request of a slice has the earliest virtual deadline: so a short slice buys latency, and never a larger share.
//!
//! What a task is owed (its *lag*) is kept while it sleeps. A debt is worked off by sleeping, as it would be if the task
//! had stayed in the queue without being eligible.
//!
//! The first task of the queue has a place of its own in front of the tree, so that handing the CPU to and fro between two
//! tasks, the commonest load, touches no tree.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use super::class::{Class, Enqueue};
use super::entity::Entity;
use super::timeline::{Key, Timeline};
use crate::task::Task;

/// A request of a task that asked for nothing else, ns (Linux `base_slice`: 0.75 ms times 1 + log2 of the CPUs, four here).
pub const BASE_SLICE_NS: u64 = 2_250_000;
/// No turn is ended sooner, ns.
const LEAST_TURN_NS: u64 = 50_000;
/// When the weighted offsets of the queue exceed this, the point they are counted from moves.
const FAR: u64 = 1 << 48;
/// Tasks that a search for one to move looks at (Linux `sched_nr_migrate_break`).
const STEAL_SEARCH: usize = 32;

struct Waiting {
    key: Key,
    vruntime: i64,
    task: Arc<Task>,
}

/// The queue of one CPU.
pub struct FairQueue {
    /// The earliest deadline. While it is empty the tree is, too.
    first: Option<Waiting>,
    /// The others, by deadline, with their virtual times as values.
    rest: Timeline,
    /// What virtual times are counted from, near the average.
    zero: i64,
    /// Sum of (virtual time - zero) * weight of those who wait, and of their weights.
    sum: i64,
    load: i64,
    /// The running task's request was served since it was picked.
    turn_over: bool,
    sequence: u64,
}

impl FairQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { first: None, rest: Timeline::new(), zero: 0, sum: 0, load: 0, turn_over: false, sequence: 0 }
    }

    /// The queue's virtual time, with the running task if that is of this class.
    #[inline]
    fn average(&self, running: Option<&Entity>) -> i64 {
        let (mut sum, mut load) = (self.sum, self.load);
        if let Some(entity) = running {
            let weight = entity.weight_signed();
            sum += (entity.vruntime() - self.zero) * weight;
            load += weight;
        }
        if load == 0 { self.zero } else { self.zero + sum.div_euclid(load) }
    }

    /// When the request of the running task will be served, if somebody waits for that.
    pub fn turn_end_ns(&self, running: &Entity, now_ns: u64) -> u64 {
        if self.first.is_none() {
            return u64::MAX;
        }
        let left = (running.deadline.load(Relaxed) - running.vruntime()).max(0).unsigned_abs();
        now_ns + running.unscale(left).max(LEAST_TURN_NS)
    }

    /// Weight of those who wait, for balancing.
    pub fn load(&self) -> u64 {
        self.load.unsigned_abs()
    }

    /// As [`Class::steal_for`], of tasks that weigh no more than `most`.
    pub fn steal_up_to(&mut self, cpu: usize, most: u64, running: Option<&Entity>) -> Option<Arc<Task>> {
        let fits = |task: &Task| task.sched.allows(cpu) && task.sched.weight() <= most;
        // From the back: who would wait longest here.
        let behind = self.rest.find_last(STEAL_SEARCH, |task| fits(task));
        let first = || self.first.as_ref().filter(|first| fits(&first.task)).map(|first| first.key);
        let key = behind.or_else(first)?;
        let average = self.average(running);
        let task = self.remove(&key)?;
        self.keep_lag(&task, average);
        Some(task)
    }

    #[inline]
    fn add(&mut self, entity: &Entity) {
        let weight = entity.weight_signed();
        self.sum += (entity.vruntime() - self.zero) * weight;
        self.load += weight;
        if self.sum.unsigned_abs() > FAR {
            let shift = self.sum.div_euclid(self.load);
            self.zero += shift;
            self.sum -= shift * self.load;
        }
    }

    #[inline]
    fn subtract(&mut self, entity: &Entity) {
        let weight = entity.weight_signed();
        self.sum -= (entity.vruntime() - self.zero) * weight;
        self.load -= weight;
    }

    #[inline]
    fn waiting_entry(&mut self, task: Arc<Task>) -> Waiting {
        self.sequence += 1;
        let key = (task.sched.deadline.load(Relaxed), self.sequence);
        task.sched.sequence.store(self.sequence, Relaxed);
        self.add(&task.sched);
        Waiting { key, vruntime: task.sched.vruntime(), task }
    }

    /// Takes the first out; the next of the tree, if there is one, moves up.
    #[inline]
    fn take_first(&mut self) -> Option<Arc<Task>> {
        let taken = self.first.take()?;
        if !self.rest.is_empty() {
            self.first = self.rest.pop_first().map(|(key, vruntime, task)| Waiting { key, vruntime, task });
        }
        self.subtract(&taken.task.sched);
        Some(taken.task)
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Task>> {
        if self.first.as_ref().is_some_and(|first| first.key == *key) {
            return self.take_first();
        }
        let task = self.rest.remove(key)?;
        self.subtract(&task.sched);
        Some(task)
    }

    /// The waiting task with the earliest deadline of those that are eligible at the virtual time `now`.
    fn best(&self, now: i64) -> Option<Key> {
        let first = self.first.as_ref()?;
        if first.vruntime <= now { Some(first.key) } else { self.rest.first_at_most(now) }
    }

    /// Keeps what `task` is owed, bounded by twice its request (Linux `update_entity_lag`), and how far its deadline is.
    fn keep_lag(&self, task: &Task, average: i64) {
        let entity = &task.sched;
        let most = entity.scale((2 * entity.slice_ns()).max(super::TICK_NS)).cast_signed();
        let vruntime = entity.vruntime();
        entity.lag.store((average - vruntime).clamp(-most, most), Relaxed);
        entity.deadline_distance.store(entity.deadline.load(Relaxed) - vruntime, Relaxed);
    }
}

impl Class for FairQueue {
    #[inline]
    fn place(&mut self, task: &Task, how: Enqueue, running: Option<&Entity>, now_ns: u64) {
        let entity = &task.sched;
        let average = self.average(running);
        let load = self.load + running.map_or(0, Entity::weight_signed);
        let mut lag = if how == Enqueue::New || load == 0 { 0 } else { entity.lag.load(Relaxed) };
        if lag < 0 && how == Enqueue::Wakeup {
            let slept = now_ns.saturating_sub(entity.exec_start.load(Relaxed));
            lag = lag.saturating_add_unsigned(slept).min(0);
        }
        // Its weight moves the average towards it: farther from it, it has its lag when it is there (Linux `place_entity`).
        let distance = if lag == 0 { 0 } else { lag + lag * entity.weight_signed() / load };
        let vruntime = average - distance;
        let request = match how {
            Enqueue::Migrate | Enqueue::Demoted => match entity.deadline_distance.load(Relaxed) {
                distance if distance > 0 => distance,
                _ => entity.request(),
            },
            Enqueue::Wakeup => entity.request(),
            // The first one is half as long: a child joins a competition that goes on (Linux PLACE_DEADLINE_INITIAL).
            Enqueue::New => entity.request() / 2,
        };
        entity.lag.store(lag, Relaxed);
        entity.set_vruntime(vruntime);
        entity.deadline.store(vruntime + request, Relaxed);
    }

    #[inline]
    fn insert(&mut self, task: Arc<Task>) {
        let entry = self.waiting_entry(task);
        let behind = match &self.first {
            None => {
                self.first = Some(entry);
                return;
            }
            Some(first) if entry.key < first.key => self.first.replace(entry),
            Some(_) => Some(entry),
        };
        if let Some(Waiting { key, vruntime, task }) = behind {
            self.rest.insert(key, vruntime, task);
        }
    }

    #[inline]
    fn leave(&mut self, current: &Task) {
        self.turn_over = false;
        if self.load == 0 {
            // Alone, it is where the queue is.
            current.sched.lag.store(0, Relaxed);
            current.sched.deadline_distance.store(current.sched.deadline.load(Relaxed) - self.zero, Relaxed);
            return;
        }
        self.keep_lag(current, self.average(Some(&current.sched)));
    }

    fn dequeue(&mut self, task: &Task, running: Option<&Entity>) -> bool {
        let average = self.average(running);
        let key = (task.sched.deadline.load(Relaxed), task.sched.sequence.load(Relaxed));
        let was_here = self.remove(&key).is_some();
        if was_here {
            self.keep_lag(task, average);
        }
        was_here
    }

    #[inline]
    fn pick_next(&mut self) -> Option<Arc<Task>> {
        self.turn_over = false;
        if self.rest.is_empty() {
            return self.take_first();
        }
        let key = self.best(self.average(None));
        debug_assert!(key.is_some(), "of those who wait, somebody is eligible");
        let gone = self.remove(&key?);
        debug_assert!(gone.is_some(), "who is found is there");
        gone
    }

    fn steal_for(&mut self, cpu: usize, running: Option<&Entity>) -> Option<Arc<Task>> {
        self.steal_up_to(cpu, u64::MAX, running)
    }

    #[inline]
    fn account(&mut self, current: &Task, delta_ns: u64, _now_ns: u64) {
        let entity = &current.sched;
        let vruntime = entity.vruntime().wrapping_add_unsigned(entity.scale(delta_ns));
        entity.set_vruntime(vruntime);
        if vruntime >= entity.deadline.load(Relaxed) {
            entity.deadline.store(vruntime + entity.request(), Relaxed);
            self.turn_over = true;
        }
        if self.load == 0 {
            self.zero = vruntime;
        }
    }

    #[inline]
    fn preempts(&mut self, woken: &Task, current: &Task) -> bool {
        let (new, old) = (&woken.sched, &current.sched);
        // A task of SCHED_IDLE gives way to all others at once; batch and idle tasks take the CPU from none of those
        // (sched(7), Linux `check_preempt_wakeup_fair`).
        match (new.is_idle_policy(), old.is_idle_policy()) {
            (false, true) => return true,
            (true, false) => return false,
            _ => {}
        }
        if !new.is_normal_policy() {
            return false;
        }
        // `place` put it where it has its lag to the average that includes it.
        let lag = new.lag.load(Relaxed);
        if lag < 0 {
            return false;
        }
        let average = new.vruntime() + lag;
        let (new_deadline, old_deadline) = (new.deadline.load(Relaxed), old.deadline.load(Relaxed));
        if old.vruntime() > average {
            return self.first.as_ref().is_none_or(|first| new_deadline <= first.key.0 || first.vruntime > average);
        }
        // Who runs and is eligible is left alone until its request is served (RUN_TO_PARITY), unless the other asks for
        // less (PREEMPT_SHORT).
        let preempts = new_deadline < old_deadline && (self.turn_over || new.slice_ns() < old.slice_ns());
        self.turn_over |= preempts;
        preempts
    }

    #[inline]
    fn turn_is_over(&mut self, _current: &Task) -> bool {
        self.turn_over && self.first.is_some()
    }

    fn yield_current(&mut self, current: &Task) {
        if self.first.is_some() {
            // The rest of its request is given up (Linux `yield_task_fair`).
            let entity = &current.sched;
            let deadline = entity.deadline.load(Relaxed);
            entity.set_vruntime(deadline);
            entity.deadline.store(deadline + entity.request(), Relaxed);
            self.turn_over = true;
        }
    }

    fn waiting(&self) -> usize {
        self.rest.len() + usize::from(self.first.is_some())
    }
}

impl FairQueue {
    /// The running task goes back, and who should run next comes out: perhaps the same.
    #[inline]
    pub fn exchange(&mut self, task: &Arc<Task>) -> Arc<Task> {
        let Some(first) = &self.first else {
            self.turn_over = false;
            return task.clone();
        };
        let entity = &task.sched;
        let (vruntime, deadline) = (entity.vruntime(), entity.deadline.load(Relaxed));
        let only_one = self.rest.is_empty();
        // Of two tasks, the average lies between them.
        let average = if only_one && vruntime <= first.vruntime {
            vruntime
        } else if only_one {
            first.vruntime
        } else {
            self.average(Some(entity))
        };
        let mut key = None;
        if vruntime > average || self.turn_over {
            key = self.best(average).filter(|key| vruntime > average || key.0 <= deadline);
        }
        self.turn_over = false;
        let Some(key) = key else { return task.clone() };
        if only_one {
            let entry = self.waiting_entry(task.clone());
            let Some(next) = self.first.replace(entry) else { return task.clone() };
            self.subtract(&next.task.sched);
            return next.task;
        }
        let next = self.remove(&key);
        self.insert(task.clone());
        next.unwrap_or_else(|| task.clone())
    }
}
