//! Barriers on other CPUs: membarrier(2), Linux `kernel/sched/membarrier.c`.
//!
//! A program whose fast side has no barrier has its slow side order a barrier on all CPUs that run the fast one. A CPU that gets
//! the request is interrupted: taking the exception and returning from it orders its memory accesses and its instruction fetches
//! (Arm ARM B2.3.12, "Context synchronization event"); the interrupt answers, and the caller waits for each answer. A CPU that runs
//! something else by then took a run-queue lock on its way there, which the caller's look at its run queue is ordered with.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use abi::Errno;
use abi::process as p;
use hal::cpu::{self, PerCpu};
use hal::thread::has_current;

use crate::Result;
use crate::sched;
use crate::task::{OwnFields, Task, current, rseq};

/// What one CPU is asked for.
struct Mailbox {
    /// Requests so far.
    asked: AtomicU64,
    /// The last of them that was answered.
    answered: AtomicU64,
    /// One of them was for restartable sequences.
    restart: AtomicBool,
}

hal::global! {
    static MAILBOXES: PerCpu<Mailbox> = PerCpu::new([const {
        Mailbox { asked: AtomicU64::new(0), answered: AtomicU64::new(0), restart: AtomicBool::new(false) }
    }; hal::MAX_CPUS]);
}

/// What an address space registered for: bits of [`crate::mm::Mm::membarrier`].
mod ready {
    pub const GLOBAL: u32 = 1;
    pub const PRIVATE: u32 = 2;
    pub const SYNC_CORE: u32 = 4;
    pub const RSEQ: u32 = 8;
}

/// The commands of Linux 6.1 on arm64, as MEMBARRIER_CMD_QUERY tells them.
const COMMANDS: u32 = p::MEMBARRIER_CMD_GLOBAL
    | p::MEMBARRIER_CMD_GLOBAL_EXPEDITED
    | p::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED
    | p::MEMBARRIER_CMD_PRIVATE_EXPEDITED
    | p::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
    | p::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE
    | p::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
    | p::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ
    | p::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ;

/// membarrier(2).
pub fn membarrier(command: u32, flags: u32, cpu: i32) -> Result<usize> {
    let one_cpu = flags == p::MEMBARRIER_CMD_FLAG_CPU && command == p::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ;
    if flags != 0 && !one_cpu {
        return Err(Errno::EINVAL);
    }
    match command {
        p::MEMBARRIER_CMD_QUERY => return Ok(COMMANDS as usize),
        p::MEMBARRIER_CMD_GLOBAL => order_on(!0, Restart::No),
        p::MEMBARRIER_CMD_GLOBAL_EXPEDITED => order_on(running(ready_for_global), Restart::No),
        p::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED => register(ready::GLOBAL),
        p::MEMBARRIER_CMD_PRIVATE_EXPEDITED => private(ready::PRIVATE, !0)?,
        p::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED => register(ready::PRIVATE),
        p::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE => private(ready::SYNC_CORE, !0)?,
        p::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE => register(ready::SYNC_CORE),
        p::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ => {
            // A negative number is all CPUs, one that is not online nobody.
            let mask = match u32::try_from(cpu) {
                Ok(cpu) if one_cpu => 1u32.checked_shl(cpu).unwrap_or(0),
                _ => !0,
            };
            private(ready::RSEQ, mask)?;
        }
        p::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ => register(ready::RSEQ),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn register(bit: u32) {
    if let Some(mm) = current().own_mm() {
        mm.membarrier().fetch_or(bit, Ordering::SeqCst);
    }
}

fn ready_for_global(task: &Task) -> bool {
    task.with_mm(|mm| mm.is_some_and(|mm| mm.membarrier().load(Ordering::Relaxed) & ready::GLOBAL != 0))
}

/// The CPUs that run a task with a property.
fn running(is_it: impl Fn(&Task) -> bool) -> u32 {
    // Linux orders the caller's accesses before the look, and the answers before what follows.
    fence(Ordering::SeqCst);
    (0..hal::MAX_CPUS).filter(|cpu| sched::runs_on(*cpu, &is_it)).map(|cpu| 1 << cpu).sum()
}

/// On the CPUs of `mask` that run a thread of this address space; `EPERM` unless it registered.
fn private(kind: u32, mask: u32) -> Result<()> {
    let task = current();
    let Some(mm) = task.own_mm() else { return Err(Errno::EPERM) };
    if mm.membarrier().load(Ordering::SeqCst) & kind == 0 {
        return Err(Errno::EPERM);
    }
    let ours = core::ptr::from_ref(&*mm);
    let shares = |task: &Task| task.with_mm(|mm| mm.is_some_and(|mm| core::ptr::eq(&**mm, ours)));
    let restart = if kind == ready::RSEQ { Restart::Yes } else { Restart::No };
    // The caller's own section, too: a system call in one is an interruption.
    if restart == Restart::Yes && mask >> cpu::id() & 1 != 0 {
        rseq::note_interruption(&task);
    }
    order_on(running(shares) & mask, restart);
    Ok(())
}

/// Whether critical sections of restartable sequences are to be left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Restart {
    Yes,
    No,
}

/// Interrupts the other CPUs of `mask` and waits until each has answered. Interrupts stay on: who waits for us gets its answer.
fn order_on(mask: u32, restart: Restart) {
    fence(Ordering::SeqCst);
    // On one CPU to the end, which needs no interrupt.
    cpu::preempt_disable();
    let mask = mask & cpu::online_mask() & !(1 << cpu::id());
    let mut tickets = [0; hal::MAX_CPUS];
    for (target, ticket) in tickets.iter_mut().enumerate().filter(|(target, _)| mask >> target & 1 != 0) {
        let mailbox = MAILBOXES.of(target);
        if restart == Restart::Yes {
            mailbox.restart.store(true, Ordering::SeqCst);
        }
        *ticket = mailbox.asked.fetch_add(1, Ordering::SeqCst) + 1;
        cpu::send_ipi(target);
    }
    for (target, ticket) in tickets.into_iter().enumerate() {
        while MAILBOXES.of(target).answered.load(Ordering::SeqCst) < ticket {
            cpu::relax();
        }
    }
    cpu::preempt_enable();
    fence(Ordering::SeqCst);
}

/// The interrupt of a request, or of anything else that wants this CPU in the kernel. Interrupts masked.
pub fn answer() {
    let mailbox = MAILBOXES.this();
    let asked = mailbox.asked.load(Ordering::SeqCst);
    if mailbox.answered.load(Ordering::Relaxed) == asked {
        return;
    }
    if mailbox.restart.load(Ordering::Relaxed) && mailbox.restart.swap(false, Ordering::SeqCst) && has_current() {
        rseq::note_interruption(&current());
    }
    fence(Ordering::SeqCst);
    mailbox.answered.store(asked, Ordering::SeqCst);
}
