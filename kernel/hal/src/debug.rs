//! Hardware breakpoints and watchpoints of user code, and software step (Arm ARM D2).
//!
//! A thread that has none of them pays for one test at a switch. Registers are those of the hardware as data: an address
//! and a control word (DBGBCR_EL1, DBGWCR_EL1: byte address select in bits 5 to 12, load and store in 3 and 4, privilege in 1
//! and 2, enable in 0).

use crate::arch;

/// Registers of each kind that the architecture can have (`struct user_hwdebug_state`).
pub const MAX: usize = 16;

/// What a debug register watches for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The execution of an instruction.
    Breakpoint,
    /// A load or store.
    Watchpoint,
}

/// A breakpoint or watchpoint.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DebugRegister {
    /// DBGBVR_EL1 or DBGWVR_EL1.
    pub address: u64,
    /// DBGBCR_EL1 or DBGWCR_EL1.
    pub control: u32,
}

impl DebugRegister {
    /// The enable bit.
    pub const ENABLED: u32 = 1;
    /// PMC, PAC: user code alone.
    pub const USER: u32 = 2 << 1;

    /// A register that was given an address and nothing else (Linux `ptrace_hbp_create`): four bytes, not enabled.
    pub fn unused(kind: Kind) -> Self {
        let access = match kind {
            Kind::Breakpoint => 0,
            Kind::Watchpoint => 3 << 3,
        };
        Self { address: 0, control: 0xf << 5 | access | Self::USER }
    }

    fn is_enabled(&self) -> bool {
        self.control & Self::ENABLED != 0
    }
}

/// The debug registers of a thread.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DebugRegisters {
    breakpoints: [DebugRegister; MAX],
    watchpoints: [DebugRegister; MAX],
}

impl DebugRegisters {
    /// Those of one kind.
    pub fn of(&self, kind: Kind) -> &[DebugRegister; MAX] {
        match kind {
            Kind::Breakpoint => &self.breakpoints,
            Kind::Watchpoint => &self.watchpoints,
        }
    }

    /// The same, to change.
    pub fn of_mut(&mut self, kind: Kind) -> &mut [DebugRegister; MAX] {
        match kind {
            Kind::Breakpoint => &mut self.breakpoints,
            Kind::Watchpoint => &mut self.watchpoints,
        }
    }

    /// Whether any is enabled.
    pub fn is_any_enabled(&self) -> bool {
        self.breakpoints.iter().chain(&self.watchpoints).any(DebugRegister::is_enabled)
    }
}

/// How many registers of a kind this machine has.
pub fn count(kind: Kind) -> u8 {
    arch::debug_count(kind)
}

/// The version of the debug architecture (ID_AA64DFR0_EL1.DebugVer); 6 is ARMv8.
pub fn architecture() -> u8 {
    arch::debug_architecture()
}
