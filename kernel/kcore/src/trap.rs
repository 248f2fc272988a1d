//! The kernel's entry points, as hal calls them.

use abi::signal as s;
use abi::signal::SigInfo;
use core::sync::atomic::Ordering;
use hal::thread::{Current, work};
use hal::trap::{Handlers, PageFault, UserException, UserFrame};

use crate::mm::{FaultError, oom};
use crate::sync::membarrier;
use crate::task::{OwnFields, Task, current, helper, ptrace, rseq};
use crate::{interrupts, sched, signal, syscall, time};

/// The table given to hal; `interrupt` is the board's.
pub const fn handlers(interrupt: fn()) -> Handlers {
    Handlers {
        syscall: syscall::dispatch,
        user_exception,
        uaccess_fault,
        return_to_user,
        interrupt,
        timer: time::timer_interrupt,
        ipi: interrupted_by_cpu,
        preempt: sched::preempt,
        thread_started,
    }
}

/// Another CPU asks for something. Most of the time only for a look at the work bits on the way out.
fn interrupted_by_cpu() {
    interrupts::count_reschedule();
    membarrier::answer();
    time::timer::take_change();
}

fn thread_started() {
    sched::thread_started();
    if current().tid() == 1 && current().is_kernel_thread() {
        hal::cpu::irq_enable();
        crate::init::run_init();
        hal::cpu::irq_disable();
    } else if !current().is_kernel_thread() {
        crate::task::clone::first_return();
    } else if helper::is_waiting(current().tid()) {
        hal::cpu::irq_enable();
        helper::begin();
        hal::cpu::irq_disable();
    }
}

/// The way back to user code while work bits are set.
fn return_to_user(frame: &mut UserFrame) {
    let bits = hal::thread::current_work().load(Ordering::SeqCst);
    if bits & work::RESCHED != 0 {
        sched::preempt();
    }
    if bits & work::SYSCALL_EXIT != 0 {
        hal::thread::current_work().fetch_and(!work::SYSCALL_EXIT, Ordering::SeqCst);
        ptrace::event::syscall_leaves(frame);
    }
    // Read again: the tracer may have left a signal.
    if hal::thread::current_work().load(Ordering::SeqCst) & work::SIGNAL != 0 {
        signal::deliver::deliver(frame);
    }
    if hal::thread::current_work().load(Ordering::SeqCst) & work::NOTIFY != 0 {
        hal::thread::current_work().fetch_and(!work::NOTIFY, Ordering::SeqCst);
        rseq::resume(frame);
    }
}

fn user_exception(frame: &mut UserFrame, exception: UserException, esr: u64) {
    let task = current();
    let info = match exception {
        UserException::PageFault(fault) => match handle_page_fault(task, &fault) {
            Ok(()) => return,
            Err(error) => match fault_signal(&task, &fault, error) {
                Some(info) => info,
                None => return,
            },
        },
        UserException::Alignment { address } => SigInfo::fault(s::SIGBUS, s::BUS_ADRALN, address),
        UserException::Undefined => SigInfo::fault(s::SIGILL, s::ILL_ILLOPC, task.thread.user_frame().pc),
        UserException::Breakpoint => SigInfo::fault(s::SIGTRAP, s::TRAP_BRKPT, task.thread.user_frame().pc),
        UserException::SingleStep => {
            // Stepped anew unless the tracer decides otherwise (arm64 `user_rewind_single_step`).
            if task.thread.is_single_stepped() {
                frame.rewind_step();
            }
            SigInfo::fault(s::SIGTRAP, s::TRAP_TRACE, frame.pc)
        }
        UserException::HardwareBreakpoint => SigInfo::fault(s::SIGTRAP, s::TRAP_HWBKPT, task.thread.user_frame().pc),
        UserException::Watchpoint { address } => SigInfo::fault(s::SIGTRAP, s::TRAP_HWBKPT, address),
        UserException::Bus { .. } => SigInfo::fault(s::SIGBUS, s::BUS_OBJERR, task.thread.user_frame().pc),
    };
    task.signals.set_syndrome(esr);
    signal::force_fault(&info);
}

/// A user address was touched by the kernel: true when it is there now.
///
/// Without memory the OOM killer frees some and the access is tried again, unless the caller is the victim. init is never
/// one: it gets the error.
fn uaccess_fault(fault: PageFault) -> bool {
    let task = current();
    match handle_page_fault(task, &fault) {
        Ok(()) => true,
        Err(FaultError::OutOfMemory) if task.tgid() != 1 => {
            oom::kill_a_process(&task);
            !task.fatal_signal_pending()
        }
        Err(_) => false,
    }
}

fn handle_page_fault(task: Current<Task>, fault: &PageFault) -> Result<(), FaultError> {
    let Some(mm) = task.own_mm() else { return Err(FaultError::Segv { code: s::SEGV_MAPERR }) };
    let result = mm.handle_fault(fault);
    if result.is_ok() {
        // Only the task itself counts here.
        let count = &task.times.minor_faults;
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
    result
}

/// The signal for a fault that cannot be resolved. `None`: there was no memory, and the process is being killed for it.
fn fault_signal(task: &Task, fault: &PageFault, error: FaultError) -> Option<SigInfo> {
    match error {
        FaultError::Segv { code } => Some(SigInfo::fault(s::SIGSEGV, code, fault.address)),
        FaultError::Bus => Some(SigInfo::fault(s::SIGBUS, s::BUS_ADRERR, fault.address)),
        FaultError::OutOfMemory => {
            // The instruction is tried again, when the victim's memory may be free; the victim may be this task.
            oom::kill_a_process(task);
            None
        }
    }
}
