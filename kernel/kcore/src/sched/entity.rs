//! What the scheduler keeps in each task (Linux `sched_entity` and the neighbouring fields of `task_struct`).
//!
//! Written under the run-queue lock of the task's CPU; atomics because `/proc` reads them without.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::weight::{NICE_0_WEIGHT, weight_of_nice};

/// Scheduler fields of a task.
pub struct Entity {
    /// The CPU whose run queue it belongs to.
    cpu: AtomicU32,
    on_queue: AtomicBool,
    /// Weighted run time, ns: the fair class runs who has least.
    pub(super) vruntime: AtomicU64,
    /// When the current stretch on the CPU began to be accounted.
    pub(super) exec_start: AtomicU64,
    /// When the current turn began.
    pub(super) turn_start: AtomicU64,
    /// Frames of `preempt` on its stack, in a debug build. Touched by the task alone.
    pub(super) preempt_nesting: AtomicI32,
    /// Run time in all, ns.
    pub sum_exec_ns: AtomicU64,
    /// Nice value, -20 to 19.
    nice: AtomicI32,
    pub(super) weight: AtomicU32,
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
}

impl Entity {
    /// A fresh entity with the default policy and `nice`.
    pub fn new(nice: i32, allowed: u32) -> Self {
        Self {
            cpu: AtomicU32::new(0),
            on_queue: AtomicBool::new(false),
            vruntime: AtomicU64::new(0),
            exec_start: AtomicU64::new(0),
            turn_start: AtomicU64::new(0),
            preempt_nesting: AtomicI32::new(0),
            sum_exec_ns: AtomicU64::new(0),
            nice: AtomicI32::new(nice),
            weight: AtomicU32::new(weight_of_nice(nice)),
            policy: AtomicU32::new(abi::sched::SCHED_OTHER),
            rt_priority: AtomicU32::new(0),
            allowed: AtomicU32::new(allowed),
            reset_on_fork: AtomicBool::new(false),
            counted_blocked: AtomicBool::new(false),
            in_kernel: AtomicBool::new(false),
        }
    }

    /// When its current stretch on a CPU began to be accounted, ns.
    pub fn exec_start(&self) -> u64 {
        self.exec_start.load(Ordering::Relaxed)
    }

    /// Weighted run time, ns.
    pub fn vruntime(&self) -> u64 {
        self.vruntime.load(Ordering::Relaxed)
    }

    /// Its weight by nice value (1024 for 0).
    pub fn weight(&self) -> u64 {
        u64::from(self.weight.load(Ordering::Relaxed))
    }

    /// What a child inherits (sched(7), fork(2)).
    pub fn inherit(&self) -> Self {
        let reset = self.reset_on_fork.load(Ordering::Relaxed);
        let nice = if reset { self.nice().max(0) } else { self.nice() };
        let child = Self::new(nice, self.allowed.load(Ordering::Relaxed));
        if !reset {
            child.policy.store(self.policy.load(Ordering::Relaxed), Ordering::Relaxed);
            child.rt_priority.store(self.rt_priority.load(Ordering::Relaxed), Ordering::Relaxed);
            child.weight.store(self.weight.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        child.vruntime.store(self.vruntime.load(Ordering::Relaxed), Ordering::Relaxed);
        child
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
        let idle = self.policy.load(Ordering::Relaxed) == abi::sched::SCHED_IDLE;
        self.weight.store(if idle { super::weight::IDLE_WEIGHT } else { weight_of_nice(nice) }, Ordering::Relaxed);
    }

    pub(super) fn set_policy(&self, policy: u32, rt_priority: u32) {
        self.policy.store(policy, Ordering::Relaxed);
        self.rt_priority.store(rt_priority, Ordering::Relaxed);
        self.set_nice(self.nice());
    }

    /// Whether it may run on `cpu`.
    pub fn allows(&self, cpu: usize) -> bool {
        self.allowed.load(Ordering::Relaxed) >> cpu & 1 != 0
    }

    /// `delta_ns` of real time as virtual time.
    pub(super) fn scale(&self, delta_ns: u64) -> u64 {
        match self.weight.load(Ordering::Relaxed) {
            NICE_0_WEIGHT => delta_ns,
            weight => delta_ns * u64::from(NICE_0_WEIGHT) / u64::from(weight),
        }
    }
}
