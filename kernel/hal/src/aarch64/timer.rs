//! The generic timer: the virtual counter and the virtual timer of each core (Arm ARM D11).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bits of fraction in the scale. ns = (count * mult) >> SHIFT, with a 128-bit product.
const SHIFT: u32 = 24;
static MULT: AtomicU64 = AtomicU64::new(0);

#[inline(always)]
pub fn raw_counter() -> u64 {
    let count: u64;
    // SAFETY: reads the counter; the barrier keeps it from being read early (Arm ARM D11.2.2).
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nostack, preserves_flags)) };
    count
}

fn frequency() -> u64 {
    let hz: u64;
    // SAFETY: reads CNTFRQ_EL0.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack, preserves_flags)) };
    hz.max(1)
}

#[cold]
fn compute_mult() -> u64 {
    let mult = (1_000_000_000u64 << SHIFT) / frequency();
    MULT.store(mult, Ordering::Relaxed);
    mult
}

#[inline(always)]
fn mult() -> u64 {
    match MULT.load(Ordering::Relaxed) {
        0 => compute_mult(),
        mult => mult,
    }
}

#[inline(always)]
pub fn now_ns() -> u64 {
    ((u128::from(raw_counter()) * u128::from(mult())) >> SHIFT) as u64
}

pub fn counter_scale() -> (u32, u32) {
    (mult() as u32, SHIFT)
}

pub fn set_deadline(deadline_ns: u64) {
    // ENABLE and not IMASK; or disabled.
    if deadline_ns == u64::MAX {
        // SAFETY: this core's own timer.
        unsafe { asm!("msr cntv_ctl_el0, xzr", options(nostack, preserves_flags)) };
        return;
    }
    // Round up, so that the deadline has passed when the interrupt comes.
    let count = ((u128::from(deadline_ns) << SHIFT) / u128::from(mult())) as u64 + 1;
    // SAFETY: this core's own timer.
    unsafe {
        asm!(
            "msr cntv_cval_el0, {}",
            "msr cntv_ctl_el0, {}",
            "isb",
            in(reg) count,
            in(reg) 1u64,
            options(nostack, preserves_flags)
        );
    }
}

/// Quiets the timer of this core until the next `set_deadline`.
pub(super) fn stop() {
    set_deadline(u64::MAX);
}
