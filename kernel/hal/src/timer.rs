//! The per-CPU generic timer: a free-running counter and one deadline per CPU.

use crate::arch;

/// Nanoseconds since power-on (CLOCK_MONOTONIC_RAW). Never goes back; the same on every CPU.
#[inline(always)]
pub fn now_ns() -> u64 {
    arch::now_ns()
}

/// Asks for one call of [`crate::trap::Handlers`]'s `timer` on this CPU at `deadline_ns` (absolute) or at once if that
/// has passed. Replaces the former deadline; `u64::MAX` means none.
pub fn set_deadline(deadline_ns: u64) {
    arch::set_deadline(deadline_ns);
}

/// How user code turns the raw counter (CNTVCT_EL0) into nanoseconds: ns = (count * mult) >> shift. For the vDSO.
pub fn counter_scale() -> (u32, u32) {
    arch::counter_scale()
}

/// The raw counter, for the vDSO's data page.
pub fn raw_counter() -> u64 {
    arch::raw_counter()
}

/// Code of the vDSO functions as position-independent bytes and (symbol name, offset) pairs; empty on the hosted machine.
pub fn vdso_code() -> (&'static [u8], &'static [(&'static str, usize)]) {
    arch::vdso_code()
}
