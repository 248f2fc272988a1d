//! The CPU this code runs on: its number, interrupts, preemption, idling, and signals to other CPUs.

use crate::MAX_CPUS;
use crate::arch;

/// The number of the CPU that runs this, 0 to [`MAX_CPUS`] - 1. Stale at once unless preemption is off.
#[inline(always)]
pub fn id() -> usize {
    arch::cpu_id()
}

/// What CPU this is: MIDR_EL1 (Arm ARM D17.2.100).
pub fn identification() -> u64 {
    arch::identification()
}

/// A bit per CPU that has come up.
pub fn online_mask() -> u32 {
    arch::online_mask()
}

/// A hint that this CPU spins on memory that another CPU writes. On the hosted machine: lets another CPU run.
#[inline(always)]
pub fn relax() {
    arch::relax();
}

/// Sleeps until an interrupt is pending. Call with interrupts masked; they are still masked on return, and the pending
/// interrupt is taken when they are unmasked, so that a wake-up between the last check and the sleep is not lost.
pub fn wait_for_interrupt() {
    arch::wait_for_interrupt();
}

/// Masks interrupts on this CPU and returns the former mask for [`irq_restore`].
#[inline(always)]
#[track_caller]
pub fn irq_save() -> usize {
    arch::irq_save()
}

/// Puts back the mask that [`irq_save`] returned.
#[inline(always)]
pub fn irq_restore(saved: usize) {
    arch::irq_restore(saved);
}

/// Whether interrupts are unmasked on this CPU.
#[inline(always)]
pub fn irqs_enabled() -> bool {
    arch::irqs_enabled()
}

/// Unmasks interrupts; the idle loop and the first entry of a thread use it.
#[inline(always)]
pub fn irq_enable() {
    arch::irq_enable();
}

/// Masks interrupts.
#[inline(always)]
#[track_caller]
pub fn irq_disable() {
    arch::irq_save();
}

/// Raises the preempt count of the current thread: it stays on this CPU until the matching [`preempt_enable`].
#[inline(always)]
#[track_caller]
pub fn preempt_disable() {
    arch::preempt_disable();
}

/// Lowers the preempt count. At zero, with a reschedule pending and interrupts on, calls [`crate::trap::Handlers`]'s `preempt`.
#[inline(always)]
pub fn preempt_enable() {
    arch::preempt_enable();
}

/// Lowers the preempt count without looking for a pending reschedule: the scheduler itself uses it.
#[inline(always)]
pub fn preempt_enable_no_resched() {
    arch::preempt_enable_no_resched();
}

/// Puts back the mask and lowers the preempt count: the end of an [`crate::sync::IrqLock`]'s section. An interrupt that
/// waited for it comes with the count lowered, so that the timer's is not put off again.
#[inline(always)]
pub(crate) fn leave_irq_section(saved: usize) {
    #[cfg(target_os = "none")]
    {
        arch::preempt_enable_no_resched();
        arch::irq_restore(saved);
        arch::preempt_check();
    }
    #[cfg(not(target_os = "none"))]
    {
        arch::irq_restore(saved);
        arch::preempt_enable();
    }
}

/// The preempt count of the current thread.
#[inline(always)]
pub fn preempt_count() -> u32 {
    arch::preempt_count()
}

/// Asks another CPU to enter the kernel. It runs [`crate::trap::Handlers`]'s `ipi` there. Sending to oneself is allowed.
pub fn send_ipi(cpu: usize) {
    arch::send_ipi(cpu);
}

/// Fills `buffer` from the best entropy that the machine has this early: a hardware generator, else timer jitter.
/// The kernel's generator is seeded from here and never uses it directly.
pub fn entropy(buffer: &mut [u8]) {
    arch::entropy(buffer);
}

/// One value per CPU. The value needs its own interior mutability (an atomic or a lock).
pub struct PerCpu<T>([T; MAX_CPUS]);

impl<T> PerCpu<T> {
    /// Wraps one value for each CPU.
    pub const fn new(values: [T; MAX_CPUS]) -> Self {
        Self(values)
    }

    /// This CPU's value. Meaningful while preemption is off.
    #[inline(always)]
    pub fn this(&self) -> &T {
        &self.0[id()]
    }

    /// The value of `cpu`. Panics when `cpu` is not below [`MAX_CPUS`].
    #[inline(always)]
    pub fn of(&self, cpu: usize) -> &T {
        &self.0[cpu]
    }

    /// All values in CPU order.
    pub fn iter(&self) -> core::slice::Iter<'_, T> {
        self.0.iter()
    }
}
