//! The frame that a handler runs on: `struct rt_sigframe` of arm64 (Linux `arch/arm64/kernel/signal.c`), as data.
//!
//! From its start: siginfo (128 bytes), ucontext (flags, link, stack, mask padded to 128 bytes, sigcontext with registers
//! and a 4 KiB area of tagged records), then a frame record (fp, lr) so that debuggers can unwind.

use abi::Errno;
use abi::signal as s;
use abi::signal::{SigInfo, Sigaction, StackT};
use hal::thread::FpState;
use hal::trap::UserFrame;
use hal::uaccess;
use zerocopy::{FromBytes, IntoBytes};

use crate::Result;
use crate::task::{Task, current};

/// Offsets in the frame, bytes.
mod offset {
    pub const INFO: usize = 0;
    pub const UCONTEXT: usize = 128;
    pub const UC_STACK: usize = UCONTEXT + 16;
    pub const UC_SIGMASK: usize = UCONTEXT + 40;
    /// `uc_mcontext` is 16-byte aligned behind the 128-byte mask.
    pub const MCONTEXT: usize = UCONTEXT + 176;
    pub const FAULT_ADDRESS: usize = MCONTEXT;
    pub const REGISTERS: usize = MCONTEXT + 8;
    pub const SP: usize = REGISTERS + 31 * 8;
    pub const PC: usize = SP + 8;
    pub const PSTATE: usize = PC + 8;
    /// `__reserved`, 16-byte aligned.
    pub const RECORDS: usize = MCONTEXT + 288;
    pub const END: usize = RECORDS + 4096;
}

/// FPSIMD_MAGIC, and the size of its record.
const FPSIMD_MAGIC: u32 = 0x4650_8001;
const FPSIMD_SIZE: u32 = 528;
/// ESR_MAGIC, and the size of its record.
const ESR_MAGIC: u32 = 0x4553_5201;
const ESR_SIZE: u32 = 16;
/// What is written of the frame: everything up to the records that are used.
const WRITTEN: usize = offset::RECORDS + FPSIMD_SIZE as usize + ESR_SIZE as usize + 8;

/// AT_MINSIGSTKSZ: the frame and its record.
pub const FRAME_SIZE: u64 = (offset::END + 16) as u64;

struct Image([u8; WRITTEN]);

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }
}

/// Where the frame goes: the alternate stack if the handler asks for it and it is not in use, else the stack in use
/// (sigaltstack(2)). An alternate stack that is too small is an error.
fn frame_address(task: &Task, registers: &UserFrame, action: &Sigaction) -> Result<u64> {
    let stack = task.signals.alternate_stack();
    let usable = stack.ss_flags.cast_unsigned() & s::SS_DISABLE == 0;
    let on_it = on_stack(&stack, registers.sp);
    let mut sp = registers.sp;
    if action.flags & u64::from(s::SA_ONSTACK) != 0 && usable && !on_it {
        sp = stack.ss_sp.wrapping_add(stack.ss_size);
    }
    let frame = (sp & !15).wrapping_sub(FRAME_SIZE);
    if usable && (on_it || sp != registers.sp) && !on_stack(&stack, frame) {
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
    let base = frame_address(task, registers, action)?;
    let mut stack = task.signals.alternate_stack();
    let mut image = Image([0; WRITTEN]);
    image.put(offset::INFO, info.as_bytes());
    if stack.ss_flags.cast_unsigned() & s::SS_DISABLE == 0 && on_stack(&stack, registers.sp) {
        stack.ss_flags |= s::SS_ONSTACK.cast_signed();
    }
    image.put(offset::UC_STACK, stack.as_bytes());
    image.put_u64(offset::UC_SIGMASK, mask);
    for (n, value) in registers.x.iter().enumerate() {
        image.put_u64(offset::REGISTERS + 8 * n, *value);
    }
    image.put_u64(offset::SP, registers.sp);
    image.put_u64(offset::PC, registers.pc);
    image.put_u64(offset::PSTATE, registers.pstate());
    let records = put_fp_record(&mut image, &task.thread.fp_state());
    if info.code() > 0 && matches!(info.signal(), s::SIGSEGV | s::SIGBUS | s::SIGILL | s::SIGTRAP | s::SIGFPE) {
        image.put_u64(offset::FAULT_ADDRESS, info.address());
        image.put_u32(records, ESR_MAGIC);
        image.put_u32(records + 4, ESR_SIZE);
        image.put_u64(records + 8, task.signals.last_syndrome());
    }
    // A stack pointer near zero wrapped around: the stores below fault then.
    let record = base.wrapping_add(offset::END as u64);
    uaccess::copy_to_user(base, &image.0).map_err(|_| Errno::EFAULT)?;
    uaccess::store_u64(record, registers.x[29]).map_err(|_| Errno::EFAULT)?;
    uaccess::store_u64(record.wrapping_add(8), registers.x[30]).map_err(|_| Errno::EFAULT)?;
    // Whatever stack this handler runs on (Linux signal_delivered).
    if stack.ss_flags.cast_unsigned() & s::SS_AUTODISARM != 0 {
        task.signals.set_alternate_stack(None);
    }
    enter_handler(registers, info, action, base, record);
    Ok(())
}

fn put_fp_record(image: &mut Image, state: &FpState) -> usize {
    let at = offset::RECORDS;
    image.put_u32(at, FPSIMD_MAGIC);
    image.put_u32(at + 4, FPSIMD_SIZE);
    image.put_u32(at + 8, state.fpsr);
    image.put_u32(at + 12, state.fpcr);
    for (n, v) in state.v.iter().enumerate() {
        image.put(at + 16 + 16 * n, &v.to_le_bytes());
    }
    at + FPSIMD_SIZE as usize
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
    // Condition flags are the caller's; a single step must not run into the handler unseen.
    registers.set_pstate(registers.pstate() & !hal::trap::PSTATE_SS);
}

/// rt_sigreturn(2): takes registers, mask and alternate stack back from the frame at the stack pointer. A frame that
/// makes no sense is `EFAULT`, which the caller turns into SIGSEGV.
pub fn pop(task: &Task, registers: &mut UserFrame) -> Result<()> {
    let base = registers.sp;
    if base & 15 != 0 {
        return Err(Errno::EFAULT);
    }
    let mut image = Image([0; WRITTEN]);
    uaccess::copy_from_user(&mut image.0, base).map_err(|_| Errno::EFAULT)?;
    let state = fp_record(&image)?;
    super::set_blocked(image.u64(offset::UC_SIGMASK));
    for n in 0..31 {
        registers.x[n] = image.u64(offset::REGISTERS + 8 * n);
    }
    registers.sp = image.u64(offset::SP);
    registers.pc = image.u64(offset::PC);
    registers.set_pstate(image.u64(offset::PSTATE));
    registers.syscall = hal::trap::NO_SYSCALL;
    task.thread.set_fp_state(&state);
    let stack = StackT::read_from_bytes(&image.0[offset::UC_STACK..offset::UC_STACK + size_of::<StackT>()])
        .map_err(|_| Errno::EFAULT)?;
    // As Linux: a bad stack in the frame is not an error.
    let _ = set_stack(task, &stack, registers.sp);
    super::deliver::forget_restart(task);
    Ok(())
}

fn fp_record(image: &Image) -> Result<FpState> {
    let at = offset::RECORDS;
    if image.u32(at) != FPSIMD_MAGIC || image.u32(at + 4) != FPSIMD_SIZE {
        return Err(Errno::EINVAL);
    }
    let mut state = FpState { fpsr: image.u32(at + 8), fpcr: image.u32(at + 12), ..FpState::default() };
    for (n, v) in state.v.iter_mut().enumerate() {
        let bytes = &image.0[at + 16 + 16 * n..at + 32 + 16 * n];
        *v = u128::from_le_bytes(bytes.try_into().expect("sixteen bytes"));
    }
    Ok(state)
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
