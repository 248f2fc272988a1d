//! PTRACE_GETREGSET and PTRACE_SETREGSET: registers in sets that are named by ELF note types (arm64
//! `arch/arm64/kernel/ptrace.c`).

use abi::Errno;
use abi::elf as e;
use abi::ptrace::{UserFpsimdState, UserPtRegs};
use alloc::vec::Vec;
use hal::debug::{self, DebugRegister, DebugRegisters, Kind};
use hal::thread::FpState;
use hal::trap::{NO_SYSCALL, UserFrame};
use hal::uaccess;
use zerocopy::{FromBytes, IntoBytes};

use crate::Result;
use crate::task::Task;

/// A register set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Set {
    General,
    Floating,
    ThreadPointer,
    SystemCall,
    Breakpoints,
    Watchpoints,
}

/// Bytes before the registers in `struct user_hwdebug_state`, and of each register.
const DEBUG_HEAD: usize = 8;
const DEBUG_REGISTER: usize = 16;

impl Set {
    /// `EINVAL` for a set that this machine does not have.
    fn of(kind: u64) -> Result<Self> {
        match u32::try_from(kind) {
            Ok(e::NT_PRSTATUS) => Ok(Set::General),
            Ok(e::NT_PRFPREG) => Ok(Set::Floating),
            Ok(e::NT_ARM_TLS) => Ok(Set::ThreadPointer),
            Ok(e::NT_ARM_SYSTEM_CALL) => Ok(Set::SystemCall),
            Ok(e::NT_ARM_HW_BREAK) => Ok(Set::Breakpoints),
            Ok(e::NT_ARM_HW_WATCH) => Ok(Set::Watchpoints),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Bytes of the whole set, and of a register, of which only whole ones are given.
    fn sizes(self) -> (usize, usize) {
        match self {
            Set::General => (size_of::<UserPtRegs>(), 8),
            Set::Floating => (size_of::<UserFpsimdState>(), 4),
            Set::ThreadPointer => (8, 8),
            Set::SystemCall => (4, 4),
            Set::Breakpoints | Set::Watchpoints => (DEBUG_HEAD + debug::MAX * DEBUG_REGISTER, 4),
        }
    }

    /// How much of a buffer of `length` bytes is used: `EINVAL` when it would hold a part of a register.
    fn portion(self, length: u64) -> Result<usize> {
        let (whole, register) = self.sizes();
        if !length.is_multiple_of(register as u64) {
            return Err(Errno::EINVAL);
        }
        Ok(usize::try_from(length).unwrap_or(whole).min(whole))
    }

    fn debug_kind(self) -> Kind {
        if self == Set::Breakpoints { Kind::Breakpoint } else { Kind::Watchpoint }
    }
}

/// Copies a set to `base`. Returns the bytes that were copied.
pub(super) fn get(task: &Task, kind: u64, base: u64, length: u64) -> Result<u64> {
    let set = Set::of(kind)?;
    let length = set.portion(length)?;
    let bytes = bytes_of(task, set);
    uaccess::copy_to_user(base, &bytes[..length]).map_err(|_| Errno::EFAULT)?;
    Ok(length as u64)
}

/// Replaces a set, or as much of it as there is at `base`. Returns the bytes that were taken.
pub(super) fn put(task: &Task, kind: u64, base: u64, length: u64) -> Result<u64> {
    let set = Set::of(kind)?;
    let length = set.portion(length)?;
    let mut given = alloc::vec![0; length];
    uaccess::copy_from_user(&mut given, base).map_err(|_| Errno::EFAULT)?;
    if let Set::Breakpoints | Set::Watchpoints = set {
        put_debug(task, set.debug_kind(), &given)?;
        return Ok(length as u64);
    }
    let mut bytes = bytes_of(task, set);
    bytes[..length].copy_from_slice(&given);
    let invalid = |_| Errno::EINVAL;
    match set {
        Set::General => put_general(task, &UserPtRegs::read_from_bytes(&bytes).map_err(|_| Errno::EINVAL)?)?,
        Set::Floating => {
            let state = UserFpsimdState::read_from_bytes(&bytes).map_err(|_| Errno::EINVAL)?;
            task.thread.set_fp_state(&FpState {
                v: state.vregs.map(|[low, high]| u128::from(low) | u128::from(high) << 64),
                fpsr: state.fpsr,
                fpcr: state.fpcr,
            });
        }
        Set::ThreadPointer => task.thread.set_tls(u64::from_le_bytes(bytes[..].try_into().map_err(invalid)?)),
        Set::SystemCall => {
            let number = u32::from_le_bytes(bytes[..].try_into().map_err(invalid)?);
            let mut frame = task.thread.user_frame();
            // -1: the call is not to be made.
            frame.syscall = if number == u32::MAX { NO_SYSCALL } else { u64::from(number) };
            task.thread.set_user_frame(&frame);
        }
        Set::Breakpoints | Set::Watchpoints => {}
    }
    Ok(length as u64)
}

fn bytes_of(task: &Task, set: Set) -> Vec<u8> {
    match set {
        Set::General => general(&task.thread.user_frame()).as_bytes().to_vec(),
        Set::Floating => {
            let state = task.thread.fp_state();
            let vregs = state.v.map(|v| [v as u64, (v >> 64) as u64]);
            UserFpsimdState { vregs, fpsr: state.fpsr, fpcr: state.fpcr, __reserved: [0; 2] }.as_bytes().to_vec()
        }
        Set::ThreadPointer => task.thread.tls().to_le_bytes().to_vec(),
        Set::SystemCall => (task.thread.user_frame().syscall as u32).to_le_bytes().to_vec(),
        Set::Breakpoints | Set::Watchpoints => debug_bytes(task, set.debug_kind()),
    }
}

fn general(frame: &UserFrame) -> UserPtRegs {
    UserPtRegs { regs: frame.x, sp: frame.sp, pc: frame.pc, pstate: frame.pstate() }
}

/// `EINVAL` for a PSTATE that is not one of AArch64 user code with interrupts on (Linux `valid_user_regs`).
fn put_general(task: &Task, new: &UserPtRegs) -> Result<()> {
    const MODE_AND_MASKS: u64 = 0x1f | 0xf << 6;
    if new.pstate & MODE_AND_MASKS != 0 {
        return Err(Errno::EINVAL);
    }
    let mut frame = task.thread.user_frame();
    (frame.x, frame.sp, frame.pc) = (new.regs, new.sp, new.pc);
    frame.set_pstate(new.pstate);
    task.thread.set_user_frame(&frame);
    Ok(())
}

/// `struct user_hwdebug_state`: how many there are and of which architecture, then address and control of each.
fn debug_bytes(task: &Task, kind: Kind) -> Vec<u8> {
    let registers = task.thread.debug_registers();
    let info = u32::from(debug::count(kind)) | u32::from(debug::architecture()) << 8;
    let mut bytes = alloc::vec![0; DEBUG_HEAD];
    bytes[..4].copy_from_slice(&info.to_le_bytes());
    for register in registers.of(kind) {
        bytes.extend_from_slice(&register.address.to_le_bytes());
        bytes.extend_from_slice(&register.control.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes
}

/// Takes registers from the rest of the structure. Those before a wrong one are in force (Linux `hw_break_set`).
fn put_debug(task: &Task, kind: Kind, given: &[u8]) -> Result<()> {
    let mut registers = task.thread.debug_registers();
    let mut outcome = Ok(());
    for (at, bytes) in given.get(DEBUG_HEAD..).unwrap_or_default().chunks(DEBUG_REGISTER).enumerate() {
        outcome = put_debug_register(&mut registers, kind, at, bytes);
        if outcome.is_err() {
            break;
        }
    }
    task.thread.set_debug_registers(&registers).map_err(|_| Errno::ENOMEM)?;
    outcome
}

fn put_debug_register(registers: &mut DebugRegisters, kind: Kind, at: usize, bytes: &[u8]) -> Result<()> {
    let address = bytes.first_chunk().ok_or(Errno::EINVAL)?;
    let address = u64::from_le_bytes(*address);
    let slot = registers.of_mut(kind).get_mut(at).ok_or(Errno::EINVAL)?;
    if at >= usize::from(debug::count(kind)) {
        return Err(Errno::ENOSPC);
    }
    let fresh = *slot == DebugRegister::default();
    let mut new = if fresh { DebugRegister::unused(kind) } else { *slot };
    new.address = address;
    *slot = checked(kind, new)?;
    let Some(control) = bytes.get(8..12).and_then(|bytes| bytes.first_chunk()) else { return Ok(()) };
    let control = u32::from_le_bytes(*control);
    // A disabled one keeps what else is known of it.
    if control & DebugRegister::ENABLED == 0 {
        slot.control &= !DebugRegister::ENABLED;
        return Ok(());
    }
    *slot = checked(kind, DebugRegister { address, control })?;
    Ok(())
}

/// A register that the hardware can be given, normalised, or `EINVAL` (Linux `arch_bp_generic_fields`,
/// `hw_breakpoint_arch_parse`).
fn checked(kind: Kind, register: DebugRegister) -> Result<DebugRegister> {
    /// One past the highest user address.
    const USER_END: u64 = 1 << 48;
    let DebugRegister { address, control } = register;
    if address >= USER_END {
        return Err(Errno::EINVAL);
    }
    let access = control >> 3 & 3;
    let is_execution = access == 0;
    if is_execution != (kind == Kind::Breakpoint) {
        return Err(Errno::EINVAL);
    }
    let selected = control >> 5 & 0xff;
    let offset = selected.trailing_zeros();
    // The bytes are adjacent, one to eight of them.
    let length = selected.count_ones();
    if selected == 0 || selected >> offset != (1 << length) - 1 {
        return Err(Errno::EINVAL);
    }
    let address = address + u64::from(offset);
    let (aligned, selected) = match kind {
        Kind::Breakpoint => (address & !3, 0xf << (address & 3)),
        Kind::Watchpoint => (address & !7, ((1u64 << length) - 1) << (address & 7)),
    };
    let selected = u32::try_from(selected & 0xff).unwrap_or(0xff);
    // Of user code alone.
    let control = selected << 5 | access << 3 | DebugRegister::USER | control & DebugRegister::ENABLED;
    Ok(DebugRegister { address: aligned, control })
}
