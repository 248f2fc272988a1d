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

/// The page that vDSO code reads, directly before the code's page. Each word changes on its own.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VdsoData {
    /// Scale of the counter: ns = (count * mult) >> 24.
    pub mult: u64,
    /// Real time minus monotonic time, ns.
    pub real_offset_ns: i64,
    /// Monotonic time at the last tick, ns.
    pub coarse_ns: u64,
}

/// Code of the vDSO functions as position-independent bytes, at most a page, and the offset of each symbol in it. Empty on
/// the hosted machine.
pub fn vdso_code() -> (&'static [u8], [(&'static str, usize); 4]) {
    arch::vdso_code()
}
