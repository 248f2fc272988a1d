//! This CPU: interrupt mask, preempt count, idling.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{MIDR_EL1, ReadWriteable, Readable, SCTLR_EL1};
use spin::Once;

use super::context::current;
use super::{timer, trap};
#[cfg(debug_assertions)]
use crate::latency::{self, Section};
use crate::thread::work;

static ONLINE: AtomicU32 = AtomicU32::new(0);
static ENTROPY: Once<fn(&mut [u8])> = Once::new();

/// PSTATE.I in DAIF.
const DAIF_I: usize = 1 << 7;

pub(super) fn mark_online(cpu: usize) {
    ONLINE.fetch_or(1 << cpu, Ordering::SeqCst);
}

/// What every CPU sets up for itself once it runs Rust.
pub(super) fn init_this_cpu() {
    const CORTEX_A53: u64 = 0xd03;
    if MIDR_EL1.read(MIDR_EL1::PartNum) == CORTEX_A53 {
        // A plain clean may lose data (errata 819472, 824069, 827319, 855873). EL0's cleans trap and are done as clean and
        // invalidate, as in Linux (`ARM64_WORKAROUND_CLEAN_CACHE`).
        SCTLR_EL1.modify(SCTLR_EL1::UCI::Trap);
        barrier::isb(barrier::SY);
    }
}

pub(super) fn set_entropy(source: fn(&mut [u8])) {
    ENTROPY.call_once(|| source);
}

pub fn identification() -> u64 {
    aarch64_cpu::registers::Readable::get(&aarch64_cpu::registers::MIDR_EL1)
}

pub fn online_mask() -> u32 {
    ONLINE.load(Ordering::Relaxed)
}

#[inline(always)]
pub fn cpu_id() -> usize {
    current().arch.cpu.load(Ordering::Relaxed) as usize
}

#[inline(always)]
pub fn relax() {
    // `yield` and not `isb` (what `spin_loop` is): where one host thread runs all CPUs in turn (QEMU's icount), it lets the
    // next one run, and a wait does not cost a whole turn.
    // SAFETY: a hint.
    unsafe { core::arch::asm!("yield", options(nomem, nostack, preserves_flags)) };
}

pub fn wait_for_interrupt() {
    #[cfg(debug_assertions)]
    latency::forget(Section::InterruptsOff);
    // SAFETY: waits; a pending interrupt ends it even while masked (Arm ARM D1.6.2).
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

#[inline(always)]
#[track_caller]
pub fn irq_save() -> usize {
    let daif: usize;
    // SAFETY: reads and sets the IRQ mask only. The memory clobber keeps accesses inside the masked region.
    unsafe { asm!("mrs {}, daif", "msr daifset, #2", out(reg) daif, options(nostack, preserves_flags)) };
    #[cfg(debug_assertions)]
    if daif & DAIF_I == 0 {
        latency::begin(Section::InterruptsOff, core::panic::Location::caller());
    }
    daif
}

#[inline(always)]
pub fn irq_restore(saved: usize) {
    #[cfg(debug_assertions)]
    if saved & DAIF_I == 0 {
        latency::end(Section::InterruptsOff);
    }
    // SAFETY: puts back a mask that `irq_save` read.
    unsafe { asm!("msr daif, {}", in(reg) saved, options(nostack, preserves_flags)) };
}

#[inline(always)]
pub fn irqs_enabled() -> bool {
    let daif: usize;
    // SAFETY: reads the mask.
    unsafe { asm!("mrs {}, daif", out(reg) daif, options(nomem, nostack, preserves_flags)) };
    daif & DAIF_I == 0
}

#[inline(always)]
pub fn irq_enable() {
    #[cfg(debug_assertions)]
    latency::end(Section::InterruptsOff);
    // SAFETY: unmasks IRQ; the vectors are installed before anybody calls this.
    unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

#[inline(always)]
#[track_caller]
pub fn preempt_disable() {
    let count = &current().arch.preempt_count;
    // Only this thread writes its count, so a plain load and store do; an interrupt leaves it as it found it.
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(debug_assertions)]
    if count.load(Ordering::Relaxed) == 1 {
        latency::begin(Section::PreemptionOff, core::panic::Location::caller());
    }
}

#[inline(always)]
pub fn preempt_enable_no_resched() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    let count = &current().arch.preempt_count;
    debug_assert!(count.load(Ordering::Relaxed) > 0, "preempt count underflow");
    #[cfg(debug_assertions)]
    if count.load(Ordering::Relaxed) == 1 {
        latency::end(Section::PreemptionOff);
    }
    count.store(count.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
}

#[inline(always)]
pub fn preempt_enable() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    let thread = current();
    let count = thread.arch.preempt_count.load(Ordering::Relaxed);
    debug_assert!(count > 0, "preempt count underflow");
    #[cfg(debug_assertions)]
    if count == 1 {
        latency::end(Section::PreemptionOff);
    }
    thread.arch.preempt_count.store(count.wrapping_sub(1), Ordering::Relaxed);
    if count == 1 && thread.work().load(Ordering::Relaxed) & work::RESCHED != 0 {
        preempt_now();
    }
}

/// Lets a reschedule that is due happen, if nothing forbids it.
#[inline(always)]
pub fn preempt_check() {
    let thread = current();
    if thread.arch.preempt_count.load(Ordering::Relaxed) == 0
        && thread.work().load(Ordering::Relaxed) & work::RESCHED != 0
    {
        preempt_now();
    }
}

#[cold]
fn preempt_now() {
    if irqs_enabled() && super::has_owner() {
        (trap::handlers().preempt)();
    }
}

#[inline(always)]
pub fn preempt_count() -> u32 {
    current().arch.preempt_count.load(Ordering::Relaxed)
}

pub fn entropy(buffer: &mut [u8]) {
    if let Some(source) = ENTROPY.get() {
        source(buffer);
        return;
    }
    // Jitter between the counter and memory: weak, and said so; a Pi has the hardware generator.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for byte in buffer {
        for _ in 0..64 {
            state = state.rotate_left(7) ^ timer::raw_counter().wrapping_mul(0xff51_afd7_ed55_8ccd);
        }
        *byte = (state >> 29) as u8;
    }
}
