//! What a tracee stopped for: siginfo, masks, queued signals, system call, filters.

use abi::Errno;
use abi::process as proc;
use abi::ptrace as p;
use abi::ptrace::{PtracePeeksiginfoArgs, PtraceRseqConfiguration, PtraceSyscallInfo};
use abi::signal as s;
use abi::signal::SigInfo;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use hal::uaccess;
use zerocopy::IntoBytes;

use super::{event, flag};
use crate::Result;
use crate::signal::{SigSet, UNBLOCKABLE};
use crate::syscall::UserPtr;
use crate::task::{Task, seccomp};

/// PTRACE_GETSIGINFO: `EINVAL` in a group-stop, which no signal tells of.
pub(super) fn siginfo(task: &Task) -> Result<SigInfo> {
    task.ptrace.stopped.lock().info.ok_or(Errno::EINVAL)
}

/// PTRACE_SETSIGINFO, likewise.
pub(super) fn set_siginfo(task: &Task, info: SigInfo) -> Result<()> {
    let mut stopped = task.ptrace.stopped.lock();
    *stopped.info.as_mut().ok_or(Errno::EINVAL)? = info;
    Ok(())
}

/// PTRACE_GETEVENTMSG.
pub(super) fn event_message(task: &Task) -> u64 {
    task.ptrace.stopped.lock().message
}

/// PTRACE_SETOPTIONS.
pub(super) fn set_options(task: &Task, options: u64) -> Result<()> {
    let options = super::attach::check_options(options)?;
    let tree = crate::task::tree::lock();
    let state = task.group.signals.state.lock();
    // Under the locks in which the relation ends: options must not outlive it.
    if task.ptrace.is_traced() {
        let kept = task.ptrace.flags() & (flag::TRACED | flag::SEIZED);
        task.ptrace.flags.store(kept | options << flag::OPTIONS_SHIFT, Ordering::SeqCst);
    }
    drop(state);
    drop(tree);
    Ok(())
}

/// PTRACE_GETSIGMASK: what is blocked, or will be again when the call is over that blocks something else.
pub(super) fn blocked(task: &Task, size: u64) -> Result<SigSet> {
    if size != size_of::<SigSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    Ok(task.signals.mask_to_restore().unwrap_or_else(|| task.signals.blocked()))
}

/// PTRACE_SETSIGMASK.
pub(super) fn set_blocked(task: &Task, size: u64, mask: UserPtr<u64>) -> Result<()> {
    if size != size_of::<SigSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    let mask = mask.read()?;
    task.signals.set_blocked_of_stopped(mask & !UNBLOCKABLE);
    Ok(())
}

/// PTRACE_PEEKSIGINFO: copies of queued signals. Returns how many (Linux `ptrace_peek_siginfo`).
pub(super) fn peek_siginfo(task: &Task, arguments: UserPtr<PtracePeeksiginfoArgs>, to: u64) -> Result<usize> {
    let arguments = arguments.read()?;
    if arguments.flags & !p::PTRACE_PEEKSIGINFO_SHARED != 0 || arguments.nr < 0 {
        return Err(Errno::EINVAL);
    }
    let wanted = usize::try_from(arguments.nr).unwrap_or(0);
    let Ok(first) = usize::try_from(arguments.off) else { return Ok(0) };
    let shared = arguments.flags & p::PTRACE_PEEKSIGINFO_SHARED != 0;
    let mut done = 0;
    // A few at a time: what is copied out of the queue must not fill the kernel's memory.
    while done < wanted {
        let batch: Vec<SigInfo> = task.queued_signals(shared, first.saturating_add(done), (wanted - done).min(16));
        for info in &batch {
            let at = to.wrapping_add((done * size_of::<SigInfo>()) as u64);
            if uaccess::copy_to_user(at, info.as_bytes()).is_err() {
                return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
            }
            done += 1;
        }
        if batch.is_empty() {
            break;
        }
    }
    Ok(done)
}

/// PTRACE_GET_SYSCALL_INFO: as much of it as `size` has room for. Returns how much there is.
pub(super) fn syscall_info(task: &Task, size: u64, to: u64) -> Result<usize> {
    /// Bytes of the structure that each kind of stop fills (Linux `offsetofend`).
    const COMMON: usize = 24;
    const ENTRY: usize = COMMON + 56;
    const EXIT: usize = COMMON + 9;
    const SECCOMP: usize = COMMON + 60;
    let frame = task.thread.user_frame();
    let stopped = task.ptrace.stopped.lock();
    let (code, message) = (stopped.info.map_or(0, |info| info.code().cast_unsigned()), stopped.message);
    drop(stopped);
    let mut info = PtraceSyscallInfo {
        op: p::PTRACE_SYSCALL_INFO_NONE,
        _pad: [0; 3],
        arch: proc::AUDIT_ARCH_AARCH64,
        instruction_pointer: frame.pc,
        stack_pointer: frame.sp,
        data: [0; 8],
    };
    let fill_call = |info: &mut PtraceSyscallInfo| {
        // The number is an int, sign-extended; the first argument as it was.
        info.data[0] = i64::from(frame.syscall as i32).cast_unsigned();
        info.data[1] = frame.original_x0;
        info.data[2..7].copy_from_slice(&frame.x[1..6]);
    };
    let mut length = COMMON;
    if code == s::SIGTRAP | 0x80 && message == event::MESSAGE_ENTRY {
        info.op = p::PTRACE_SYSCALL_INFO_ENTRY;
        fill_call(&mut info);
        length = ENTRY;
    } else if code == s::SIGTRAP | 0x80 && message == event::MESSAGE_EXIT {
        info.op = p::PTRACE_SYSCALL_INFO_EXIT;
        info.data[0] = frame.x[0];
        info.data[1] = u64::from(Errno::from_syscall_return(frame.x[0]).is_err());
        length = EXIT;
    } else if code == s::SIGTRAP | p::PTRACE_EVENT_SECCOMP << 8 {
        info.op = p::PTRACE_SYSCALL_INFO_SECCOMP;
        fill_call(&mut info);
        info.data[7] = message & u64::from(u32::MAX);
        length = SECCOMP;
    }
    let room = usize::try_from(size).unwrap_or(usize::MAX).min(length);
    uaccess::copy_to_user(to, &info.as_bytes()[..room]).map_err(|_| Errno::EFAULT)?;
    Ok(length)
}

/// PTRACE_GET_RSEQ_CONFIGURATION: as much of it as `size` has room for. Returns how much there is.
pub(super) fn rseq(task: &Task, size: u64, to: u64) -> Result<usize> {
    let (rseq_abi_pointer, signature) = task.rseq.registration();
    let rseq_abi_size = size_of::<proc::Rseq>() as u32;
    let told = PtraceRseqConfiguration { rseq_abi_pointer, rseq_abi_size, signature, flags: 0, pad: 0 };
    let whole = size_of::<PtraceRseqConfiguration>();
    let room = usize::try_from(size).unwrap_or(whole).min(whole);
    uaccess::copy_to_user(to, &told.as_bytes()[..room]).map_err(|_| Errno::EFAULT)?;
    Ok(whole)
}

/// PTRACE_SECCOMP_GET_METADATA: the flags of the filter whose number is at `place`. Returns the bytes that were stored there
/// (Linux `seccomp_get_metadata`).
pub(super) fn seccomp_metadata(task: &Task, size: u64, place: u64) -> Result<usize> {
    /// `struct seccomp_metadata`: the number, then the flags.
    const WHOLE: usize = 16;
    seccomp::may_look_at_filters()?;
    let size = usize::try_from(size).unwrap_or(WHOLE).min(WHOLE);
    if size < size_of::<u64>() {
        return Err(Errno::EINVAL);
    }
    let index = UserPtr::<u64>::new(place).read()?;
    let flags = if task.seccomp.is_logged(index)? { proc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    let told = [index, u64::from(flags)];
    uaccess::copy_to_user(place, &told.as_bytes()[..size]).map_err(|_| Errno::EFAULT)?;
    Ok(size)
}

/// PTRACE_SECCOMP_GET_FILTER: the instructions of filter number `index`, the oldest being 0. Returns how many.
pub(super) fn seccomp_filter(task: &Task, index: u64, to: u64) -> Result<usize> {
    let program = task.seccomp.filter_for_tracer(index)?;
    if to != 0 {
        UserPtr::<proc::SockFilter>::new(to).write_many(&program)?;
    }
    Ok(program.len())
}
