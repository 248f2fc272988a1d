//! The fair class: SCHED_OTHER, SCHED_BATCH and SCHED_IDLE. Whoever has had least weighted run time goes first.
//!
//! A queue is ordered by virtual run time. A sleeper comes back at most one latency period behind the queue, so that it
//! is served soon but cannot save up.
//!
//! The first task of the queue has a place of its own in front of the tree, so that handing the CPU to and fro between two
//! tasks, the commonest load, touches no tree.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::class::{Class, Enqueue};
use crate::task::Task;

/// A turn when several tasks wait, ns (Linux `base_slice`).
const SLICE_NS: u64 = 3_000_000;
/// How far a woken task may be ahead in virtual time before it takes the CPU at once, ns.
const WAKEUP_GRANULARITY_NS: u64 = 500_000;
/// What a sleeper is credited at most, ns.
const SLEEPER_CREDIT_NS: u64 = SLICE_NS;

/// Order in the queue: virtual run time, then what breaks ties.
type Key = (u64, i32);

/// The queue of one CPU.
pub struct FairQueue {
    /// Who runs next. While it is empty the tree is, too.
    first: Option<(Key, Arc<Task>)>,
    /// The others, all behind `first`.
    rest: BTreeMap<Key, Arc<Task>>,
    /// Never decreases: the virtual time that newcomers are placed by.
    min_vruntime: u64,
}

impl FairQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { first: None, rest: BTreeMap::new(), min_vruntime: 0 }
    }

    #[inline]
    fn key(task: &Task) -> Key {
        (task.sched.vruntime.load(Ordering::Relaxed), task.sched_key())
    }

    /// Takes the first out; the next of the tree, if there is one, moves up.
    #[inline]
    fn take_first(&mut self) -> Option<(Key, Arc<Task>)> {
        let taken = self.first.take()?;
        if !self.rest.is_empty() {
            self.first = self.rest.pop_first();
        }
        Some(taken)
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Task>> {
        if self.first.as_ref().is_some_and(|(first, _)| first == key) {
            return self.take_first().map(|(_, task)| task);
        }
        self.rest.remove(key)
    }

    #[inline]
    fn advance(&mut self, current_vruntime: u64) {
        let first = self.first.as_ref().map_or(current_vruntime, |((v, _), _)| *v);
        self.min_vruntime = self.min_vruntime.max(first.min(current_vruntime));
    }
}

impl Class for FairQueue {
    #[inline]
    fn place(&mut self, task: &Task, how: Enqueue) {
        let own = task.sched.vruntime.load(Ordering::Relaxed);
        let floor = match how {
            Enqueue::Wakeup => self.min_vruntime.saturating_sub(SLEEPER_CREDIT_NS),
            Enqueue::New | Enqueue::Migrate => self.min_vruntime,
        };
        // A task from another CPU brings that CPU's clock: it starts level here instead of far ahead.
        let placed = if how == Enqueue::Migrate { floor } else { own.max(floor) };
        task.sched.vruntime.store(placed, Ordering::Relaxed);
    }

    #[inline]
    fn insert(&mut self, task: Arc<Task>) {
        let key = Self::key(&task);
        let behind = match &self.first {
            None => {
                self.first = Some((key, task));
                return;
            }
            Some((first, _)) if key < *first => self.first.replace((key, task)),
            Some(_) => Some((key, task)),
        };
        if let Some((key, task)) = behind {
            self.rest.insert(key, task);
        }
    }

    #[inline]
    fn exchange(&mut self, task: &Arc<Task>) -> Arc<Task> {
        let key = Self::key(task);
        let next = match &mut self.first {
            Some((first, _)) if *first < key => {
                // Two that take turns change places; of more the tree knows the order.
                if self.rest.is_empty() { self.first.replace((key, task.clone())) } else { None }
            }
            _ => return task.clone(),
        };
        let next = next.or_else(|| {
            let next = self.take_first();
            self.insert(task.clone());
            next
        });
        let Some(((vruntime, _), next)) = next else { return task.clone() };
        self.min_vruntime = self.min_vruntime.max(vruntime);
        next
    }

    fn dequeue(&mut self, task: &Task) -> bool {
        self.remove(&Self::key(task)).is_some()
    }

    #[inline]
    fn pick_next(&mut self) -> Option<Arc<Task>> {
        let ((vruntime, _), task) = self.take_first()?;
        self.min_vruntime = self.min_vruntime.max(vruntime);
        Some(task)
    }

    fn steal_for(&mut self, cpu: usize) -> Option<Arc<Task>> {
        // From the back: who would wait longest here.
        let behind = self.rest.iter().rev();
        let first = self.first.iter().map(|(key, task)| (key, task));
        let key = behind.chain(first).find(|(_, task)| task.sched.allows(cpu)).map(|(key, _)| *key)?;
        self.remove(&key)
    }

    #[inline]
    fn account(&mut self, current: &Task, delta_ns: u64) {
        let entity = &current.sched;
        let vruntime = entity.vruntime.load(Ordering::Relaxed) + entity.scale(delta_ns);
        entity.vruntime.store(vruntime, Ordering::Relaxed);
        self.advance(vruntime);
    }

    fn preempts(&self, woken: &Task, current: &Task) -> bool {
        let policy = |task: &Task| task.sched.policy.load(Ordering::Relaxed);
        // Batch and idle tasks never preempt; idle ones always give way (sched(7)).
        match (policy(woken), policy(current)) {
            (abi::sched::SCHED_OTHER, abi::sched::SCHED_IDLE) => return true,
            (abi::sched::SCHED_OTHER, _) => {}
            _ => return false,
        }
        let ahead = woken.sched.scale(WAKEUP_GRANULARITY_NS);
        woken.sched.vruntime.load(Ordering::Relaxed) + ahead < current.sched.vruntime.load(Ordering::Relaxed)
    }

    fn turn_is_over(&self, current: &Task, now_ns: u64) -> bool {
        self.first.is_some() && now_ns.saturating_sub(current.sched.turn_start.load(Ordering::Relaxed)) >= SLICE_NS
    }

    fn yield_current(&mut self, current: &Task) {
        if let Some(((first, _), _)) = self.first {
            let behind = current.sched.vruntime.load(Ordering::Relaxed).max(first + 1);
            current.sched.vruntime.store(behind, Ordering::Relaxed);
        }
    }

    fn waiting(&self) -> usize {
        self.rest.len() + usize::from(self.first.is_some())
    }
}
