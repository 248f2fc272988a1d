//! The debug registers of this CPU (Arm ARM D2.8 to D2.12, D17.3): they follow their thread.
//!
//! MDSCR_EL1.SS and MDE are set only while a thread runs that is stepped or has registers. KDE stays clear, so the kernel
//! takes no debug exception of its own, its unprivileged accesses to watched user memory included.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{MDSCR_EL1, ReadWriteable};

use crate::debug::{DebugRegister, DebugRegisters, Kind};
use crate::mem::OutOfMemory;

/// Bits of [`ThreadDebug::active`].
mod active {
    /// Software step is armed.
    pub const STEP: u8 = 1;
    /// It has registers of which some are enabled.
    pub const REGISTERS: u8 = 2;
}

/// The part of a thread that has to do with debugging.
pub(super) struct ThreadDebug {
    /// What the CPU must have in place while the thread runs.
    active: AtomicU8,
    /// A boxed slice of one set that this thread owns; null: it has none.
    registers: AtomicPtr<DebugRegisters>,
}

impl ThreadDebug {
    pub const fn new() -> Self {
        Self { active: AtomicU8::new(0), registers: AtomicPtr::new(core::ptr::null_mut()) }
    }

    pub fn registers(&self) -> DebugRegisters {
        let at = self.registers.load(Ordering::Acquire);
        if at.is_null() {
            return DebugRegisters::default();
        }
        // SAFETY: the set is owned by this thread, and replaced only by who may call this (door contract: the thread is
        // current or switched out, and one caller at a time works on it).
        unsafe { *at }
    }

    /// The thread is current or switched out.
    pub fn set_registers(&self, new: &DebugRegisters, is_current: bool) -> Result<(), OutOfMemory> {
        let at = self.registers.load(Ordering::Acquire);
        if at.is_null() {
            if *new == DebugRegisters::default() {
                return Ok(());
            }
            let mut set = Vec::new();
            set.try_reserve_exact(1).map_err(|_| OutOfMemory)?;
            set.push(*new);
            self.registers.store(Box::into_raw(set.into_boxed_slice()).cast(), Ordering::Release);
        } else {
            // SAFETY: as in `registers`; the switch reads the set only while the thread is on its way onto a CPU, which the
            // door contract excludes.
            unsafe { *at = *new };
        }
        if new.is_any_enabled() {
            self.active.fetch_or(active::REGISTERS, Ordering::Release);
        } else {
            self.active.fetch_and(!active::REGISTERS, Ordering::Release);
        }
        if is_current {
            let irq = super::irq_save();
            self.put_in_place();
            super::irq_restore(irq);
        }
        Ok(())
    }

    /// The thread returns to user code stepped, or no longer. Interrupts masked; the thread is current.
    pub fn arm_step(&self, armed: bool) {
        if armed {
            self.active.fetch_or(active::STEP, Ordering::Relaxed);
            MDSCR_EL1.modify(MDSCR_EL1::SS::SoftwareStepEnabled);
        } else {
            self.active.fetch_and(!active::STEP, Ordering::Relaxed);
            MDSCR_EL1.modify(MDSCR_EL1::SS::SoftwareStepDisabled);
        }
    }

    /// A switch between threads of which perhaps one is debugged.
    #[inline(always)]
    pub fn switch(from: &Self, to: &Self) {
        if from.active.load(Ordering::Relaxed) | to.active.load(Ordering::Relaxed) != 0 {
            to.put_in_place();
        }
    }

    /// Gives the CPU what the thread needs. Interrupts masked.
    #[cold]
    #[inline(never)]
    fn put_in_place(&self) {
        let active = self.active.load(Ordering::Acquire);
        let has_registers = active & active::REGISTERS != 0;
        if has_registers {
            let registers = self.registers();
            for kind in [Kind::Breakpoint, Kind::Watchpoint] {
                let own = registers.of(kind).iter().take(usize::from(count(kind)));
                own.enumerate().for_each(|(at, register)| write(kind, at, register));
            }
        }
        let step = if active & active::STEP != 0 {
            MDSCR_EL1::SS::SoftwareStepEnabled
        } else {
            MDSCR_EL1::SS::SoftwareStepDisabled
        };
        MDSCR_EL1.modify(step + MDSCR_EL1::MDE.val(u64::from(has_registers)));
        barrier::isb(barrier::SY);
    }
}

impl Drop for ThreadDebug {
    fn drop(&mut self) {
        let at = *self.registers.get_mut();
        if !at.is_null() {
            // SAFETY: made by `Box::into_raw` of a slice of one, and the thread, which nobody else knows any more, gives it up
            // once.
            drop(unsafe { Box::from_raw(core::ptr::slice_from_raw_parts_mut(at, 1)) });
        }
    }
}

/// ID_AA64DFR0_EL1.
fn features() -> u64 {
    let value: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, id_aa64dfr0_el1", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

pub fn count(kind: Kind) -> u8 {
    let shift = match kind {
        Kind::Breakpoint => 12,
        Kind::Watchpoint => 20,
    };
    (features() >> shift & 0xf) as u8 + 1
}

pub fn architecture() -> u8 {
    (features() & 0xf) as u8
}

/// Writes a pair of registers, the address first and disabled, so that no half of an old one is in force.
fn write(kind: Kind, at: usize, register: &DebugRegister) {
    let (address, control) = (register.address, u64::from(register.control));
    macro_rules! pairs {
        ($($number:literal),*) => {
            match (kind, at) {
                $(
                    // SAFETY: breakpoints of user code alone (`kcore` sets no other privilege), on a register that this CPU
                    // has (`count`); debug exceptions of the kernel itself stay off (KDE).
                    (Kind::Breakpoint, $number) => unsafe { asm!(
                        concat!("msr dbgbcr", $number, "_el1, xzr"),
                        concat!("msr dbgbvr", $number, "_el1, {address}"),
                        concat!("msr dbgbcr", $number, "_el1, {control}"),
                        address = in(reg) address, control = in(reg) control, options(nomem, nostack, preserves_flags),
                    ) },
                    // SAFETY: as above, for watchpoints.
                    (Kind::Watchpoint, $number) => unsafe { asm!(
                        concat!("msr dbgwcr", $number, "_el1, xzr"),
                        concat!("msr dbgwvr", $number, "_el1, {address}"),
                        concat!("msr dbgwcr", $number, "_el1, {control}"),
                        address = in(reg) address, control = in(reg) control, options(nomem, nostack, preserves_flags),
                    ) },
                )*
                _ => {}
            }
        };
    }
    pairs!(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
