//! What the scheduler keeps in each task (Linux `sched_entity` and the neighbouring fields of `task_struct`).
//!
//! Written under the run-queue lock of the task's CPU; atomics because `/proc` reads them without.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use abi::sched::{SCHED_BATCH, SCHED_DEADLINE, SCHED_FIFO, SCHED_IDLE, SCHED_OTHER, SCHED_RR};

use super::class::{ClassId, Priority};
use super::deadline::Server;
use super::fair::BASE_SLICE_NS;
use super::policy::Policy;
use super::stats::TaskStats;
use super::weight::{NICE_0_WEIGHT, weight_of_nice};

/// Nothing is inherited.
const NO_BOOST: i32 = i32::MAX;

/// Scheduler fields of a task.
pub struct Entity {
    /// The CPU whose run queue it belongs to.
    cpu: AtomicU32,
    on_queue: AtomicBool,
    /// Linux's `prio`: the level of its own policy, or a more urgent one that it inherits.
    level: AtomicI32,
    /// The level that it inherits from those whom it holds up, and the absolute deadline with it.
    boost: AtomicI32,
    boost_deadline_ns: AtomicU64,

    /// Weighted run time, ns.
    vruntime: AtomicI64,
    /// When its request should be served: virtual time in the fair class, the clock's in the deadline class.
    pub(super) deadline: AtomicI64,
    /// Breaks ties among equal deadlines in a queue.
    pub(super) sequence: AtomicU64,
    /// While it is in no queue: what it was owed when it left, in virtual time, and how far its deadline was.
    pub(super) lag: AtomicI64,
    pub(super) deadline_distance: AtomicI64,
    /// The length of its requests, ns.
    slice_ns: AtomicU64,

    /// SCHED_DEADLINE: what it asked for and got.
    pub server: Server,

    /// Where it is in the real-time queue.
    pub(super) node: AtomicU32,
    /// It goes back to the end of its list, not to the head.
    to_tail: AtomicBool,
    /// What is left of its round-robin slice, ns.
    pub(super) rr_left_ns: AtomicI64,

    /// When the current stretch on the CPU began to be accounted.
    pub(super) exec_start: AtomicU64,
    /// Frames of `preempt` on its stack, in a debug build. Touched by the task alone.
    pub(super) preempt_nesting: AtomicI32,
    /// Run time in all, ns.
    pub sum_exec_ns: AtomicU64,
    /// Nice value, -20 to 19.
    nice: AtomicI32,
    weight: AtomicU32,
    /// SCHED_* policy.
    pub policy: AtomicU32,
    /// 1 to 99 for the real-time policies, else 0.
    pub rt_priority: AtomicU32,
    /// Bit per CPU that it may run on.
    pub allowed: AtomicU32,
    /// SCHED_RESET_ON_FORK.
    pub reset_on_fork: AtomicBool,
    /// Counted as uninterruptible for the load average.
    pub(super) counted_blocked: AtomicBool,
    /// The last tick found it in the kernel.
    pub(super) in_kernel: AtomicBool,
    /// What is counted of it.
    pub stats: TaskStats,
}

impl Entity {
    /// A fresh entity with the default policy and `nice`.
    pub fn new(nice: i32, allowed: u32) -> Self {
        Self {
            cpu: AtomicU32::new(0),
            on_queue: AtomicBool::new(false),
            level: AtomicI32::new(Priority::NICE_0 + nice),
            boost: AtomicI32::new(NO_BOOST),
            boost_deadline_ns: AtomicU64::new(0),
            vruntime: AtomicI64::new(0),
            deadline: AtomicI64::new(0),
            sequence: AtomicU64::new(0),
            lag: AtomicI64::new(0),
            deadline_distance: AtomicI64::new(0),
            slice_ns: AtomicU64::new(BASE_SLICE_NS),
            server: Server::default(),
            node: AtomicU32::new(u32::MAX),
            to_tail: AtomicBool::new(false),
            rr_left_ns: AtomicI64::new(super::realtime::rr_slice_ns().cast_signed()),
            exec_start: AtomicU64::new(0),
            preempt_nesting: AtomicI32::new(0),
            sum_exec_ns: AtomicU64::new(0),
            nice: AtomicI32::new(nice),
            weight: AtomicU32::new(weight_of_nice(nice)),
            policy: AtomicU32::new(SCHED_OTHER),
            rt_priority: AtomicU32::new(0),
            allowed: AtomicU32::new(allowed),
            reset_on_fork: AtomicBool::new(false),
            counted_blocked: AtomicBool::new(false),
            in_kernel: AtomicBool::new(false),
            stats: TaskStats::default(),
        }
    }

    /// When its current stretch on a CPU began to be accounted, ns.
    pub fn exec_start(&self) -> u64 {
        self.exec_start.load(Ordering::Relaxed)
    }

    /// Weighted run time, ns.
    #[inline(always)]
    pub fn vruntime(&self) -> i64 {
        self.vruntime.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn set_vruntime(&self, vruntime: i64) {
        self.vruntime.store(vruntime, Ordering::Relaxed);
    }

    /// Its weight by nice value (1024 for 0).
    pub fn weight(&self) -> u64 {
        u64::from(self.weight.load(Ordering::Relaxed))
    }

    #[inline(always)]
    pub(super) fn weight_signed(&self) -> i64 {
        i64::from(self.weight.load(Ordering::Relaxed))
    }

    /// What a child inherits: the own policy, not what others lend; with SCHED_RESET_ON_FORK no urgent policy and no
    /// negative nice value either (sched(7), Linux `sched_fork`).
    pub fn inherit(&self) -> Self {
        let reset = self.reset_on_fork.load(Ordering::Relaxed);
        let (policy, rt_priority) = (self.policy.load(Ordering::Relaxed), self.rt_priority.load(Ordering::Relaxed));
        let urgent = matches!(policy, SCHED_FIFO | SCHED_RR | SCHED_DEADLINE);
        let nice = match (reset, urgent) {
            (true, true) => 0,
            (true, false) => self.nice().max(0),
            (false, _) => self.nice(),
        };
        let child = Self::new(nice, self.allowed.load(Ordering::Relaxed));
        child.slice_ns.store(self.slice_ns(), Ordering::Relaxed);
        if reset && urgent {
            child.refresh();
        } else {
            child.policy.store(policy, Ordering::Relaxed);
            child.rt_priority.store(rt_priority, Ordering::Relaxed);
            child.refresh();
        }
        child
    }

    /// Whether its policy has no children of its kind, and SCHED_RESET_ON_FORK does not give them another one.
    pub fn may_not_fork(&self) -> bool {
        self.policy.load(Ordering::Relaxed) == SCHED_DEADLINE && !self.reset_on_fork.load(Ordering::Relaxed)
    }

    /// The CPU it runs on, or ran on last.
    #[inline]
    pub fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Acquire) as usize
    }

    pub(super) fn set_cpu(&self, cpu: usize) {
        self.cpu.store(cpu as u32, Ordering::Release);
    }

    /// Whether it is running or waiting to run.
    #[inline]
    pub fn on_queue(&self) -> bool {
        self.on_queue.load(Ordering::Relaxed)
    }

    pub(super) fn set_on_queue(&self, on: bool) {
        self.on_queue.store(on, Ordering::Relaxed);
    }

    /// The nice value.
    pub fn nice(&self) -> i32 {
        self.nice.load(Ordering::Relaxed)
    }

    pub(super) fn set_nice(&self, nice: i32) {
        self.nice.store(nice, Ordering::Relaxed);
        self.refresh();
    }

    /// Weight and level follow from policy, priority and nice value.
    fn refresh(&self) {
        let weight = if self.is_idle_policy() { super::weight::IDLE_WEIGHT } else { weight_of_nice(self.nice()) };
        let old = self.weight.swap(weight, Ordering::Relaxed);
        if old != weight {
            // What it is owed is real time; its virtual time has another scale now (Linux `rescale_entity`).
            for distance in [&self.lag, &self.deadline_distance] {
                let scaled = distance.load(Ordering::Relaxed) * i64::from(old) / i64::from(weight);
                distance.store(scaled, Ordering::Relaxed);
            }
        }
        self.refresh_level();
    }

    pub(super) fn apply(&self, policy: Policy) {
        self.policy.store(policy.number(), Ordering::Relaxed);
        let rt_priority = if let Policy::RealTime { priority, .. } = policy { priority } else { 0 };
        self.rt_priority.store(rt_priority, Ordering::Relaxed);
        match policy {
            Policy::Fair { nice, slice_ns, .. } => {
                self.nice.store(nice, Ordering::Relaxed);
                // Linux `__setparam_fair`: 0.1 to 100 ms.
                let slice_ns = if slice_ns == 0 { BASE_SLICE_NS } else { slice_ns.clamp(100_000, 100_000_000) };
                self.slice_ns.store(slice_ns, Ordering::Relaxed);
            }
            Policy::RealTime { .. } => {
                self.rr_left_ns.store(super::realtime::rr_slice_ns().cast_signed(), Ordering::Relaxed);
            }
            Policy::Deadline(request) => self.server.set_request(request),
        }
        self.refresh();
    }

    /// How it is scheduled by its own policy.
    pub fn current_policy(&self) -> Policy {
        let policy = self.policy.load(Ordering::Relaxed);
        match policy {
            SCHED_DEADLINE => Policy::Deadline(self.server.request()),
            SCHED_FIFO | SCHED_RR => Policy::RealTime { policy, priority: self.rt_priority.load(Ordering::Relaxed) },
            _ => {
                let slice_ns = self.slice_ns();
                let slice_ns = if slice_ns == BASE_SLICE_NS { 0 } else { slice_ns };
                Policy::Fair { policy, nice: self.nice(), slice_ns }
            }
        }
    }

    pub(super) fn set_boost(&self, donor: Option<Priority>) {
        self.boost.store(donor.map_or(NO_BOOST, Priority::level), Ordering::Relaxed);
        self.boost_deadline_ns.store(donor.map_or(0, Priority::deadline_ns), Ordering::Relaxed);
        self.refresh_level();
    }

    fn own_level(&self) -> i32 {
        match self.policy.load(Ordering::Relaxed) {
            SCHED_DEADLINE => Priority::DEADLINE,
            SCHED_FIFO | SCHED_RR => 99 - self.rt_priority.load(Ordering::Relaxed).cast_signed(),
            _ => Priority::NICE_0 + self.nice(),
        }
    }

    fn refresh_level(&self) {
        self.level.store(self.own_level().min(self.boost.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// The boot flow of a CPU becomes its idle task.
    pub(super) fn become_idle(&self) {
        self.level.store(Priority::IDLE, Ordering::Relaxed);
    }

    /// A stopper outranks all others, whatever its policy says.
    pub(super) fn become_stopper(&self) {
        self.boost.store(Priority::STOP, Ordering::Relaxed);
        self.refresh_level();
    }

    /// Linux's `prio`, inheritance included: see [`Priority::level`].
    #[inline(always)]
    pub fn level(&self) -> i32 {
        self.level.load(Ordering::Relaxed)
    }

    /// The class that it runs in.
    #[inline(always)]
    pub fn class(&self) -> ClassId {
        match self.level() {
            level if level >= Priority::IDLE => ClassId::Idle,
            level if level >= Priority::FIRST_FAIR => ClassId::Fair,
            level if level >= 0 => ClassId::RealTime,
            Priority::DEADLINE => ClassId::Deadline,
            _ => ClassId::Stop,
        }
    }

    pub(super) fn priority(&self) -> Priority {
        let boost = Priority::new(self.boost.load(Ordering::Relaxed), self.boost_deadline_ns.load(Ordering::Relaxed));
        self.own_priority().min(boost)
    }

    pub(super) fn own_priority(&self) -> Priority {
        let level = self.own_level();
        Priority::new(level, if level == Priority::DEADLINE { self.server.absolute_ns() } else { 0 })
    }

    /// Whether it runs with the urgency of others.
    pub(super) fn is_boosted(&self) -> bool {
        self.boost.load(Ordering::Relaxed) != NO_BOOST
    }

    /// Whether its policy is SCHED_IDLE.
    #[inline(always)]
    pub fn is_idle_policy(&self) -> bool {
        self.policy.load(Ordering::Relaxed) == SCHED_IDLE
    }

    /// Whether it may take the CPU from another when it wakes: SCHED_BATCH and SCHED_IDLE do not.
    #[inline(always)]
    pub(super) fn is_normal_policy(&self) -> bool {
        !matches!(self.policy.load(Ordering::Relaxed), SCHED_BATCH | SCHED_IDLE)
    }

    /// The length of its requests, ns.
    #[inline(always)]
    pub fn slice_ns(&self) -> u64 {
        self.slice_ns.load(Ordering::Relaxed)
    }

    /// A request in virtual time.
    #[inline(always)]
    pub(super) fn request(&self) -> i64 {
        self.scale(self.slice_ns()).cast_signed()
    }

    pub(super) fn set_to_tail(&self, to_tail: bool) {
        self.to_tail.store(to_tail, Ordering::Relaxed);
    }

    pub(super) fn take_to_tail(&self) -> bool {
        let to_tail = self.to_tail.load(Ordering::Relaxed);
        self.set_to_tail(false);
        to_tail
    }

    /// Whether it may run on `cpu`.
    pub fn allows(&self, cpu: usize) -> bool {
        self.allowed.load(Ordering::Relaxed) >> cpu & 1 != 0
    }

    /// Whether its turns may end between two ticks: a budget, or a slice that it asked for.
    #[inline(always)]
    pub(super) fn has_short_turns(&self) -> bool {
        self.level() < 0 || self.slice_ns() < BASE_SLICE_NS
    }

    /// Virtual time as real time, ns.
    pub(super) fn unscale(&self, virtual_ns: u64) -> u64 {
        virtual_ns * u64::from(self.weight.load(Ordering::Relaxed)) / u64::from(NICE_0_WEIGHT)
    }

    /// `delta_ns` of real time as virtual time.
    #[inline(always)]
    pub(super) fn scale(&self, delta_ns: u64) -> u64 {
        match self.weight.load(Ordering::Relaxed) {
            NICE_0_WEIGHT => delta_ns,
            weight => delta_ns * u64::from(NICE_0_WEIGHT) / u64::from(weight),
        }
    }
}
