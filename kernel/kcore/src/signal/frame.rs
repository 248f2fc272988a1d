//! The frame that a handler runs on: `struct rt_sigframe` of arm64 (Linux `arch/arm64/kernel/signal.c`), as data.
//!
//! From its start: siginfo (128 bytes), ucontext (flags, link, stack, mask padded to 128 bytes, sigcontext with registers
//! and a 4 KiB area of tagged records), then a frame record (fp, lr) so that debuggers can unwind.

use abi::Errno;
use abi::signal as s;
use abi::signal::{SigInfo, Sigaction, StackT};
use hal::trap::UserFrame;
use hal::uaccess;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::Result;
use crate::task::{Task, current};

/// Offsets in the frame, bytes.
mod offset {
    pub const INFO: usize = 0;
    pub const UCONTEXT: usize = 128;
    /// `__reserved`, 16-byte aligned.
    pub const RECORDS: usize = 592;
    /// The vectors in the first record, FPSIMD.
    pub const VECTORS: usize = RECORDS + 16;
    /// What follows that record.
    pub const NEXT_RECORD: usize = VECTORS + 512;
    pub const END: usize = RECORDS + 4096;
}

/// FPSIMD_MAGIC, and the size of its record.
const FPSIMD_MAGIC: u32 = 0x4650_8001;
const FPSIMD_SIZE: u32 = 528;
/// ESR_MAGIC, and the size of its record.
const ESR_MAGIC: u32 = 0x4553_5201;
const ESR_SIZE: u32 = 16;

/// Signals of faulting instructions, whose frame tells where.
const FAULTS: u64 = super::bit(s::SIGSEGV)
    | super::bit(s::SIGBUS)
    | super::bit(s::SIGILL)
    | super::bit(s::SIGTRAP)
    | super::bit(s::SIGFPE);

/// AT_MINSIGSTKSZ: the frame and its record.
pub const FRAME_SIZE: u64 = (offset::END + 16) as u64;

/// The frame up to the vectors.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    info: SigInfo,
    flags: u64,
    link: u64,
    saved: Saved,
}

/// What `rt_sigreturn` takes back: the end of the head.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Saved {
    stack: StackT,
    mask: u64,
    /// The mask is padded to 128 bytes, `uc_mcontext` aligned to 16.
    _padding: [u64; 16],
    fault_address: u64,
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
    _alignment: u64,
    magic: u32,
    size: u32,
    fpsr: u32,
    fpcr: u32,
}

const _: () = assert!(size_of::<Head>() == offset::VECTORS);
const _: () = assert!(core::mem::offset_of!(Head, saved.magic) == offset::RECORDS);

/// Where the frame goes: the alternate stack if the handler asks for it and it is not in use, else the stack in use
/// (sigaltstack(2)). An alternate stack that is too small is an error.
fn frame_address(stack: &StackT, registers: &UserFrame, action: &Sigaction) -> Result<u64> {
    let usable = stack.ss_flags.cast_unsigned() & s::SS_DISABLE == 0;
    let on_it = on_stack(stack, registers.sp);
    let mut sp = registers.sp;
    if action.flags & u64::from(s::SA_ONSTACK) != 0 && usable && !on_it {
        sp = stack.ss_sp.wrapping_add(stack.ss_size);
    }
    let frame = (sp & !15).wrapping_sub(FRAME_SIZE);
    if usable && (on_it || sp != registers.sp) && !on_stack(stack, frame) {
        return Err(Errno::EFAULT);
    }
    Ok(frame)
}

/// Whether `sp` is on the alternate stack.
pub fn on_stack(stack: &StackT, sp: u64) -> bool {
    stack.ss_flags.cast_unsigned() & s::SS_DISABLE == 0 && sp > stack.ss_sp && sp - stack.ss_sp <= stack.ss_size
        || stack.ss_flags.cast_unsigned() & s::SS_DISABLE == 0 && sp == stack.ss_sp
}

/// Writes the frame for `info` and points `registers` at the handler. `EFAULT` when the stack cannot take it.
pub(super) fn push(
    task: &Task,
    registers: &mut UserFrame,
    info: &SigInfo,
    action: &Sigaction,
    mask: u64,
) -> Result<()> {
    let mut stack = task.signals.alternate_stack();
    let base = frame_address(&stack, registers, action)?;
    if stack.ss_flags.cast_unsigned() & s::SS_DISABLE == 0 && on_stack(&stack, registers.sp) {
        stack.ss_flags |= s::SS_ONSTACK.cast_signed();
    }
    let at = |offset: usize| base.wrapping_add(offset as u64);
    // A stack pointer near zero wrapped around: the stores below fault then.
    let (fpsr, fpcr) = task.thread.fp_to_user(at(offset::VECTORS)).map_err(|_| Errno::EFAULT)?;
    let fault = (info.code() > 0 && FAULTS & super::bit(info.signal()) != 0).then(|| info.address());
    let head = Head {
        info: *info,
        flags: 0,
        link: 0,
        saved: Saved {
            stack,
            mask,
            _padding: [0; 16],
            fault_address: fault.unwrap_or(0),
            x: registers.x,
            sp: registers.sp,
            pc: registers.pc,
            pstate: registers.pstate(),
            _alignment: 0,
            magic: FPSIMD_MAGIC,
            size: FPSIMD_SIZE,
            fpsr,
            fpcr,
        },
    };
    uaccess::copy_to_user(base, head.as_bytes()).map_err(|_| Errno::EFAULT)?;
    if fault.is_some() {
        let esr = [u64::from(ESR_SIZE) << 32 | u64::from(ESR_MAGIC), task.signals.last_syndrome(), 0];
        uaccess::copy_to_user(at(offset::NEXT_RECORD), esr.as_bytes()).map_err(|_| Errno::EFAULT)?;
    } else {
        uaccess::store_u64(at(offset::NEXT_RECORD), 0).map_err(|_| Errno::EFAULT)?;
    }
    let record = at(offset::END);
    uaccess::store_u64(record, registers.x[29]).map_err(|_| Errno::EFAULT)?;
    uaccess::store_u64(record.wrapping_add(8), registers.x[30]).map_err(|_| Errno::EFAULT)?;
    // Whatever stack this handler runs on (Linux signal_delivered).
    if stack.ss_flags.cast_unsigned() & s::SS_AUTODISARM != 0 {
        task.signals.set_alternate_stack(None);
    }
    enter_handler(registers, info, action, base, record);
    Ok(())
}

fn enter_handler(registers: &mut UserFrame, info: &SigInfo, action: &Sigaction, base: u64, record: u64) {
    registers.x[0] = u64::from(info.signal());
    registers.x[1] = base + offset::INFO as u64;
    registers.x[2] = base + offset::UCONTEXT as u64;
    registers.x[29] = record;
    registers.x[30] = if action.flags & u64::from(s::SA_RESTORER) != 0 {
        action.restorer
    } else {
        crate::mm::vdso::sigreturn_address(&current())
    };
    registers.sp = base;
    registers.pc = action.handler;
    // Condition flags are the caller's. A thread that is stepped stops at the first instruction (`handler_entered`).
    if current().thread.is_single_stepped() {
        registers.rewind_step();
    }
}

/// rt_sigreturn(2): takes registers, mask and alternate stack back from the frame at the stack pointer. A frame that
/// makes no sense is `EFAULT`, which the caller turns into SIGSEGV.
pub fn pop(task: &Task, registers: &mut UserFrame) -> Result<()> {
    let base = registers.sp;
    if base & 15 != 0 {
        return Err(Errno::EFAULT);
    }
    let at = |offset: usize| base.wrapping_add(offset as u64);
    let mut saved = Saved::new_zeroed();
    let offset_of_saved = core::mem::offset_of!(Head, saved);
    uaccess::copy_from_user(saved.as_mut_bytes(), at(offset_of_saved)).map_err(|_| Errno::EFAULT)?;
    if saved.magic != FPSIMD_MAGIC || saved.size != FPSIMD_SIZE {
        return Err(Errno::EINVAL);
    }
    task.thread.fp_from_user(at(offset::VECTORS), saved.fpsr, saved.fpcr).map_err(|_| Errno::EFAULT)?;
    super::set_blocked(saved.mask);
    registers.x = saved.x;
    registers.sp = saved.sp;
    registers.pc = saved.pc;
    registers.set_pstate(saved.pstate);
    registers.syscall = hal::trap::NO_SYSCALL;
    if saved.stack != task.signals.alternate_stack() {
        // As Linux: a bad stack in the frame is not an error.
        let _ = set_stack(task, &saved.stack, registers.sp);
    }
    super::deliver::forget_restart(task);
    Ok(())
}

/// sigaltstack(2): `EPERM` while on the stack, `EINVAL` for unknown flags, `ENOMEM` below MINSIGSTKSZ.
pub fn set_stack(task: &Task, new: &StackT, sp: u64) -> Result<()> {
    /// arm64's MINSIGSTKSZ.
    const MINIMUM: u64 = 5120;
    let old = task.signals.alternate_stack();
    if on_stack(&old, sp) && old.ss_flags.cast_unsigned() & s::SS_AUTODISARM == 0 {
        return Err(Errno::EPERM);
    }
    let flags = new.ss_flags.cast_unsigned();
    let mode = flags & !s::SS_AUTODISARM;
    if mode != 0 && mode != s::SS_DISABLE && mode != s::SS_ONSTACK {
        return Err(Errno::EINVAL);
    }
    if mode == s::SS_DISABLE {
        task.signals.set_alternate_stack(None);
        return Ok(());
    }
    if new.ss_size < MINIMUM {
        return Err(Errno::ENOMEM);
    }
    task.signals.set_alternate_stack(Some(StackT { ss_flags: (flags & s::SS_AUTODISARM).cast_signed(), ..*new }));
    Ok(())
}
