//! How long this kernel keeps a CPU from being preempted or interrupted, and where: the longest sections with preemption off
//! and with interrupts masked, per CPU. `/proc/drupe/latency` shows them.
//!
//! Sections are measured in debug builds of the real machine, at the two places where the preempt count leaves and reaches 0
//! and where the interrupt mask changes. A release build measures nothing and pays nothing. A section that a switch begins in
//! one thread and ends in another is one section of the CPU.

use core::panic::Location;

/// What keeps a CPU from reacting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    /// The preempt count is above 0.
    PreemptionOff,
    /// Interrupts are masked.
    InterruptsOff,
}

/// The longest section of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Longest {
    /// How long it was, ns.
    pub ns: u64,
    /// Where it began.
    pub place: &'static Location<'static>,
}

/// Whether sections are measured.
pub const IS_MEASURED: bool = cfg!(all(debug_assertions, target_os = "none"));

/// The longest section of `cpu` since the last [`reset`]. `None`: there was none, or none is measured.
pub fn longest(cpu: usize, section: Section) -> Option<Longest> {
    imp::longest(cpu, section)
}

/// Forgets what was measured.
pub fn reset() {
    imp::reset();
}

#[cfg(all(debug_assertions, target_os = "none"))]
pub(crate) use imp::{begin, end, forget};

#[cfg(not(all(debug_assertions, target_os = "none")))]
mod imp {
    use super::{Longest, Section};

    pub fn longest(_cpu: usize, _section: Section) -> Option<Longest> {
        None
    }

    pub fn reset() {}
}

#[cfg(all(debug_assertions, target_os = "none"))]
mod imp {
    use core::panic::Location;
    use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

    use super::{Longest, Section};
    use crate::{MAX_CPUS, arch, timer};

    type Place = AtomicPtr<Location<'static>>;

    struct Watch {
        /// When the current section began, ns; 0: none is open.
        since: AtomicU64,
        place: Place,
        longest: AtomicU64,
        longest_place: Place,
    }

    const fn place() -> Place {
        AtomicPtr::new(core::ptr::null_mut())
    }

    const fn watch() -> Watch {
        Watch { since: AtomicU64::new(0), place: place(), longest: AtomicU64::new(0), longest_place: place() }
    }

    static WATCHES: [[Watch; 2]; MAX_CPUS] = [const { [const { watch() }; 2] }; MAX_CPUS];

    fn of(cpu: usize, section: Section) -> &'static Watch {
        &WATCHES[cpu][section as usize]
    }

    /// A section begins on this CPU, at the caller's caller.
    pub fn begin(section: Section, place: &'static Location<'static>) {
        let watch = of(arch::cpu_id(), section);
        watch.place.store(core::ptr::from_ref(place).cast_mut(), Ordering::Relaxed);
        watch.since.store(timer::now_ns(), Ordering::Relaxed);
    }

    /// The section ends.
    pub fn end(section: Section) {
        let watch = of(arch::cpu_id(), section);
        let since = watch.since.load(Ordering::Relaxed);
        if since == 0 {
            return;
        }
        watch.since.store(0, Ordering::Relaxed);
        let lasted = timer::now_ns().saturating_sub(since);
        if lasted > watch.longest.load(Ordering::Relaxed) {
            watch.longest.store(lasted, Ordering::Relaxed);
            watch.longest_place.store(watch.place.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// The section that is open is not one: the CPU sleeps, or goes back to user code.
    pub fn forget(section: Section) {
        of(arch::cpu_id(), section).since.store(0, Ordering::Relaxed);
    }

    pub fn longest(cpu: usize, section: Section) -> Option<Longest> {
        let watch = of(cpu, section);
        let place = watch.longest_place.load(Ordering::Relaxed);
        // SAFETY: null, or made from a `&'static Location` by `begin`.
        let place = unsafe { place.as_ref() }?;
        Some(Longest { ns: watch.longest.load(Ordering::Relaxed), place })
    }

    pub fn reset() {
        for watch in WATCHES.iter().flatten() {
            watch.longest.store(0, Ordering::Relaxed);
        }
    }
}
