//! The real-time class: SCHED_FIFO and SCHED_RR (sched(7)).
//!
//! A list for each of the 99 priorities and a bitmap of those that are not empty. The links lie beside the tasks in one
//! array, so that each operation, taking a task out of the middle included, costs the same whatever the number of tasks.
//!
//! Where a task goes into its list: at the end when it wakes, yields, used up its slice (RR) or was raised; at the head when
//! it was preempted or lowered.
//!
//! Throttling: in each period of `sched_rt_period_us` the class may take `sched_rt_runtime_us` of a CPU; what it took
//! beyond is charged to the next period. A throttled class goes behind the fair one instead of leaving the CPU idle: the
//! limit is there to let a shell in, not to waste time (Linux does so since 6.12, with its fair server).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

use super::class::{Class, Enqueue};
use super::entity::Entity;
use crate::task::Task;

hal::global! {
    /// `/proc/sys/kernel/sched_rt_period_us`.
    pub static PERIOD_US: AtomicU32 = AtomicU32::new(1_000_000);
    /// `/proc/sys/kernel/sched_rt_runtime_us`; -1: all of the period.
    pub static RUNTIME_US: AtomicI32 = AtomicI32::new(950_000);
    /// `/proc/sys/kernel/sched_rr_timeslice_ms`.
    pub static RR_SLICE_MS: AtomicU32 = AtomicU32::new(RR_DEFAULT_SLICE_MS);
}

/// Linux `RR_TIMESLICE`.
pub const RR_DEFAULT_SLICE_MS: u32 = 100;
/// Levels, most urgent first (Linux `MAX_RT_PRIO`).
const LEVELS: usize = 100;
/// No node.
const NIL: u32 = u32::MAX;
/// Tasks that a search for one to move looks at.
const STEAL_SEARCH: usize = 32;

/// The slice of a round-robin task, ns.
pub fn rr_slice_ns() -> u64 {
    u64::from(RR_SLICE_MS.load(Relaxed)) * 1_000_000
}

struct Node {
    task: Option<Arc<Task>>,
    level: u8,
    previous: u32,
    /// Also the next free node.
    next: u32,
}

#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

/// The queue of one CPU.
pub struct RealTimeQueue {
    lists: [List; LEVELS],
    occupied: u128,
    nodes: Vec<Node>,
    free: u32,
    waiting: usize,
    /// What the class took of the period that began at `period_start_ns`.
    used_ns: u64,
    period_start_ns: u64,
    throttled: bool,
}

impl RealTimeQueue {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        Self {
            lists: [List { first: NIL, last: NIL }; LEVELS],
            occupied: 0,
            nodes: Vec::new(),
            free: NIL,
            waiting: 0,
            used_ns: 0,
            period_start_ns: 0,
            throttled: false,
        }
    }

    /// Whether the class used up its share of the CPU.
    #[inline(always)]
    pub fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// The level of the most urgent task that waits; [`LEVELS`] when none does.
    #[inline]
    pub fn best_level(&self) -> i32 {
        if self.occupied == 0 { LEVELS as i32 } else { self.occupied.trailing_zeros() as i32 }
    }

    /// The most urgent task that waits.
    pub fn first(&self) -> Option<&Arc<Task>> {
        let level = usize::try_from(self.best_level()).ok().filter(|level| *level < LEVELS)?;
        self.nodes.get(self.lists[level].first as usize)?.task.as_ref()
    }

    /// Begins the periods that have passed at `now_ns`, and charges what was used beyond the share to them.
    pub fn refresh_throttle(&mut self, now_ns: u64) {
        let period_ns = u64::from(PERIOD_US.load(Relaxed)) * 1000;
        let periods = now_ns.saturating_sub(self.period_start_ns) / period_ns.max(1);
        let Ok(runtime_us) = u64::try_from(RUNTIME_US.load(Relaxed)) else {
            self.throttled = false;
            return;
        };
        if periods > 0 {
            self.period_start_ns += periods * period_ns;
            self.used_ns = self.used_ns.saturating_sub(periods.saturating_mul(runtime_us * 1000));
        }
        self.throttled = self.used_ns > runtime_us * 1000 && runtime_us * 1000 < period_ns;
    }

    fn take_node(&mut self, node: Node) -> u32 {
        if self.free == NIL {
            self.nodes.push(node);
            return (self.nodes.len() - 1) as u32;
        }
        let at = self.free;
        self.free = self.nodes[at as usize].next;
        self.nodes[at as usize] = node;
        at
    }

    fn link(&mut self, task: Arc<Task>, at_head: bool) {
        let level = (task.sched.level().max(0) as usize).min(LEVELS - 1);
        let List { first, last } = self.lists[level];
        let (previous, next) = if at_head { (NIL, first) } else { (last, NIL) };
        let node = self.take_node(Node { task: Some(task.clone()), level: level as u8, previous, next });
        task.sched.node.store(node, Relaxed);
        match previous {
            NIL => self.lists[level].first = node,
            previous => self.nodes[previous as usize].next = node,
        }
        match next {
            NIL => self.lists[level].last = node,
            next => self.nodes[next as usize].previous = node,
        }
        self.occupied |= 1 << level;
        self.waiting += 1;
    }

    fn unlink(&mut self, at: u32) -> Option<Arc<Task>> {
        let free = self.free;
        let node = self.nodes.get_mut(at as usize)?;
        let task = node.task.take()?;
        let (level, previous, next) = (node.level as usize, node.previous, node.next);
        node.next = free;
        self.free = at;
        match previous {
            NIL => self.lists[level].first = next,
            previous => self.nodes[previous as usize].next = next,
        }
        match next {
            NIL => self.lists[level].last = previous,
            next => self.nodes[next as usize].previous = previous,
        }
        if self.lists[level].first == NIL {
            self.occupied &= !(1 << level);
        }
        self.waiting -= 1;
        Some(task)
    }
}

impl Class for RealTimeQueue {
    fn place(&mut self, task: &Task, how: Enqueue, _running: Option<&Entity>, _now_ns: u64) {
        task.sched.set_to_tail(how != Enqueue::Demoted);
    }

    fn insert(&mut self, task: Arc<Task>) {
        let at_head = !task.sched.take_to_tail();
        self.link(task, at_head);
    }

    fn leave(&mut self, _current: &Task) {}

    fn dequeue(&mut self, task: &Task, _running: Option<&Entity>) -> bool {
        let at = task.sched.node.load(Relaxed);
        let is_it = |held: &Arc<Task>| core::ptr::eq(&**held, task);
        let is_here = self.nodes.get(at as usize).and_then(|node| node.task.as_ref()).is_some_and(is_it);
        is_here && self.unlink(at).is_some()
    }

    fn pick_next(&mut self) -> Option<Arc<Task>> {
        if self.occupied == 0 {
            return None;
        }
        let level = self.occupied.trailing_zeros() as usize;
        let task = self.unlink(self.lists[level].first)?;
        task.sched.set_to_tail(false);
        Some(task)
    }

    fn steal_for(&mut self, cpu: usize, _running: Option<&Entity>) -> Option<Arc<Task>> {
        let mut levels = self.occupied;
        let mut left = STEAL_SEARCH;
        while levels != 0 {
            let level = levels.trailing_zeros() as usize;
            levels &= levels - 1;
            let mut at = self.lists[level].first;
            while at != NIL && left > 0 {
                left -= 1;
                let node = &self.nodes[at as usize];
                if node.task.as_ref().is_some_and(|task| task.sched.allows(cpu)) {
                    return self.unlink(at);
                }
                at = node.next;
            }
        }
        None
    }

    fn account(&mut self, current: &Task, delta_ns: u64, now_ns: u64) {
        self.used_ns += delta_ns;
        self.refresh_throttle(now_ns);
        if current.sched.policy.load(Relaxed) == abi::sched::SCHED_RR {
            let left = &current.sched.rr_left_ns;
            left.store(left.load(Relaxed) - delta_ns.min(i64::MAX as u64).cast_signed(), Relaxed);
        }
    }

    fn preempts(&mut self, woken: &Task, current: &Task) -> bool {
        woken.sched.level() < current.sched.level()
    }

    fn turn_is_over(&mut self, current: &Task) -> bool {
        let level = current.sched.level();
        // A slice that is used up is renewed; who shares the priority goes first then (Linux `task_tick_rt`).
        if current.sched.policy.load(Relaxed) != abi::sched::SCHED_RR || current.sched.rr_left_ns.load(Relaxed) > 0 {
            return false;
        }
        current.sched.rr_left_ns.store(rr_slice_ns().cast_signed(), Relaxed);
        let has_peer = self.occupied >> level & 1 != 0;
        if has_peer {
            current.sched.set_to_tail(true);
        }
        has_peer
    }

    fn yield_current(&mut self, current: &Task) {
        current.sched.set_to_tail(true);
    }

    fn waiting(&self) -> usize {
        self.waiting
    }
}
