//! Restartable sequences: rseq(2), Linux `kernel/rseq.c`.
//!
//! A thread registers a structure in its own memory. There the kernel keeps the number of the CPU that the thread runs on, and
//! finds the critical section that the thread is in, if any: a run of instructions that must not go on after another thread had
//! the CPU, nor after a signal handler ran. Then the thread goes on at the section's abort handler.
//!
//! All of it happens on the way back to user code, and only after a switch, a signal or a membarrier(2) asked for it with the
//! thread's NOTIFY work bit: a system call that was not interrupted costs nothing. Linux writes the CPU number each time; here it
//! is written when it is another one.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::process::{self, Rseq as Area, RseqCs};
use abi::signal as s;
use abi::signal::SigInfo;
use hal::thread::work;
use hal::trap::UserFrame;
use hal::uaccess;

use super::{Task, current, flags};
use crate::Result;
use crate::mm::TASK_SIZE;
use crate::signal::send;
use crate::syscall::UserPtr;

/// What a task registered. Written by the task itself.
pub struct Rseq {
    /// Where its structure is; 0: none.
    address: AtomicU64,
    /// What stands before each abort handler.
    signature: AtomicU32,
    /// What happened that a critical section does not survive: [`event`] bits.
    events: AtomicU32,
    /// The CPU number that the structure has.
    told_cpu: AtomicU32,
}

const NO_CPU: u32 = u32::MAX;

/// What interrupts a section (Linux `rseq_event_mask_bits`).
mod event {
    pub const PREEMPT: u32 = 1;
    pub const SIGNAL: u32 = 2;
    pub const MIGRATE: u32 = 4;
}

impl Default for Rseq {
    fn default() -> Self {
        Self {
            address: AtomicU64::new(0),
            signature: AtomicU32::new(0),
            events: AtomicU32::new(0),
            told_cpu: AtomicU32::new(NO_CPU),
        }
    }
}

impl Rseq {
    fn set(&self, address: u64, signature: u32) {
        self.address.store(address, Ordering::Relaxed);
        self.signature.store(signature, Ordering::Relaxed);
        self.events.store(0, Ordering::Relaxed);
        self.told_cpu.store(NO_CPU, Ordering::Relaxed);
    }

    /// What was registered: address (0: nothing) and signature.
    pub(crate) fn registration(&self) -> (u64, u32) {
        (self.address.load(Ordering::Relaxed), self.signature.load(Ordering::Relaxed))
    }

    /// Forgets the registration: exec, and threads, which make their own (Linux `rseq_execve`, `rseq_fork` with CLONE_VM).
    pub(super) fn clear(&self) {
        self.set(0, 0);
    }

    /// A child with a copy of the memory has a copy of the structure in it.
    pub(super) fn inherit(&self, child: &Task) {
        child.rseq.set(self.address.load(Ordering::Relaxed), self.signature.load(Ordering::Relaxed));
        if child.rseq.address.load(Ordering::Relaxed) != 0 {
            child.thread.work().fetch_or(work::NOTIFY, Ordering::SeqCst);
        }
    }
}

/// A task loses its CPU, or membarrier(2) says so. Called by the scheduler with the run queue locked.
#[inline(always)]
pub(crate) fn note_interruption(task: &Task) {
    if task.rseq.address.load(Ordering::Relaxed) != 0 {
        task.rseq.events.fetch_or(event::PREEMPT, Ordering::Relaxed);
        task.thread.work().fetch_or(work::NOTIFY, Ordering::SeqCst);
    }
}

/// rseq(2). The size is that of Linux before 6.3.
pub fn register(address: u64, length: u32, call_flags: u32, signature: u32) -> Result<()> {
    let task = current();
    let known = task.rseq.address.load(Ordering::Relaxed);
    let known_signature = task.rseq.signature.load(Ordering::Relaxed);
    let has_length = length as usize == size_of::<Area>();
    if call_flags & process::RSEQ_FLAG_UNREGISTER != 0 {
        return unregister(address, has_length, call_flags, signature);
    }
    if call_flags != 0 {
        return Err(Errno::EINVAL);
    }
    if known != 0 {
        // Once is enough; twice is told from once with something else.
        if known != address || !has_length {
            return Err(Errno::EINVAL);
        }
        return Err(if known_signature == signature { Errno::EBUSY } else { Errno::EPERM });
    }
    if !address.is_multiple_of(size_of::<Area>() as u64) || !has_length {
        return Err(Errno::EINVAL);
    }
    if address.checked_add(u64::from(length)).is_none_or(|end| end > TASK_SIZE) {
        return Err(Errno::EFAULT);
    }
    // A section that stands there from before is none of this registration's.
    let pointer = address + core::mem::offset_of!(Area, rseq_cs) as u64;
    if uaccess::load_u64(pointer).map_err(|_| Errno::EFAULT)? != 0 {
        uaccess::store_u64(pointer, 0).map_err(|_| Errno::EFAULT)?;
    }
    task.rseq.set(address, signature);
    task.thread.work().fetch_or(work::NOTIFY, Ordering::SeqCst);
    Ok(())
}

fn unregister(address: u64, has_length: bool, call_flags: u32, signature: u32) -> Result<()> {
    let task = current();
    if call_flags & !process::RSEQ_FLAG_UNREGISTER != 0 {
        return Err(Errno::EINVAL);
    }
    let known = task.rseq.address.load(Ordering::Relaxed);
    if known == 0 || known != address || !has_length {
        return Err(Errno::EINVAL);
    }
    if task.rseq.signature.load(Ordering::Relaxed) != signature {
        return Err(Errno::EPERM);
    }
    write_cpu(address, 0, process::RSEQ_CPU_ID_UNINITIALIZED.cast_unsigned())?;
    task.rseq.clear();
    Ok(())
}

/// On the way back to user code, when the work bit was set (Linux `__rseq_handle_notify_resume`).
pub(crate) fn resume(registers: &mut UserFrame) {
    let task = current();
    if task.rseq.address.load(Ordering::Relaxed) != 0 && !task.has_flag(flags::EXITING) && settle(registers).is_err() {
        // A structure or a section that makes no sense: the program cannot go on.
        send::force_fault(&SigInfo::kernel(s::SIGSEGV));
    }
}

/// Before a handler's frame is made: what the handler returns to is the abort handler, if a section was interrupted (Linux
/// `rseq_signal_deliver`). False when the thread gets SIGSEGV instead.
pub(crate) fn before_handler(registers: &mut UserFrame) -> bool {
    let task = current();
    if task.rseq.address.load(Ordering::Relaxed) == 0 {
        return true;
    }
    task.rseq.events.fetch_or(event::SIGNAL, Ordering::Relaxed);
    settle(registers).is_ok()
}

fn settle(registers: &mut UserFrame) -> Result<()> {
    let task = current();
    let address = task.rseq.address.load(Ordering::Relaxed);
    // A switch to another CPU after this look sets the work bit again.
    let (cpu, told) = (task.sched.cpu() as u32, task.rseq.told_cpu.load(Ordering::Relaxed));
    if told != cpu && told != NO_CPU {
        task.rseq.events.fetch_or(event::MIGRATE, Ordering::Relaxed);
    }
    leave_section(address, registers)?;
    if told != cpu {
        write_cpu(address, cpu, cpu)?;
        task.rseq.told_cpu.store(cpu, Ordering::Relaxed);
    }
    Ok(())
}

fn write_cpu(address: u64, start: u32, cpu: u32) -> Result<()> {
    let fault = |_| Errno::EFAULT;
    uaccess::store_u32(address + core::mem::offset_of!(Area, cpu_id_start) as u64, start).map_err(fault)?;
    uaccess::store_u32(address + core::mem::offset_of!(Area, cpu_id) as u64, cpu).map_err(fault)
}

/// Sends a thread that was interrupted in a critical section to the section's abort handler (Linux `rseq_ip_fixup`).
fn leave_section(address: u64, registers: &mut UserFrame) -> Result<()> {
    let task = current();
    let pointer = address + core::mem::offset_of!(Area, rseq_cs) as u64;
    let section = uaccess::load_u64(pointer).map_err(|_| Errno::EFAULT)?;
    if section == 0 {
        task.rseq.events.store(0, Ordering::Relaxed);
        return Ok(());
    }
    let section = checked_section(section, task.rseq.signature.load(Ordering::Relaxed))?;
    let forget = || uaccess::store_u64(pointer, 0).map_err(|_| Errno::EFAULT);
    if registers.pc.wrapping_sub(section.start_ip) >= section.post_commit_offset {
        // Left by itself: the pointer is cleared lazily.
        return forget();
    }
    let flags_at = address + core::mem::offset_of!(Area, flags) as u64;
    let ignored = section.flags | uaccess::load_u32(flags_at).map_err(|_| Errno::EFAULT)?;
    // The flags that said what not to restart for are deprecated: a section with any of them is not restarted, as Linux 6.1 does.
    if task.rseq.events.swap(0, Ordering::Relaxed) != 0 && ignored == 0 {
        forget()?;
        registers.pc = section.abort_ip;
    }
    Ok(())
}

/// Reads a section's description and refuses what an attacker would write (Linux `rseq_get_rseq_cs`).
fn checked_section(address: u64, signature: u32) -> Result<RseqCs> {
    if address >= TASK_SIZE {
        return Err(Errno::EINVAL);
    }
    let section = UserPtr::<RseqCs>::new(address).read()?;
    let RseqCs { version, start_ip, post_commit_offset, abort_ip, .. } = section;
    let end = start_ip.checked_add(post_commit_offset).ok_or(Errno::EINVAL)?;
    if start_ip >= TASK_SIZE || end >= TASK_SIZE || abort_ip >= TASK_SIZE || version > 0 {
        return Err(Errno::EINVAL);
    }
    // A handler within the section would be interrupted for ever.
    if abort_ip.wrapping_sub(start_ip) < post_commit_offset {
        return Err(Errno::EINVAL);
    }
    // Only a place that says it is one can be jumped to.
    let before = uaccess::load_u32(abort_ip.wrapping_sub(4)).map_err(|_| Errno::EFAULT)?;
    if before != signature {
        let task = current();
        log::warn!(
            "Possible attack attempt. Unexpected rseq signature {before:#x}, expecting {signature:#x} (pid={}, addr={:#x}).",
            task.tid(),
            abort_ip.wrapping_sub(4)
        );
        return Err(Errno::EINVAL);
    }
    Ok(section)
}
