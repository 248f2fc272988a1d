//! A tracee stops for its tracer: Linux `ptrace_stop`, `ptrace_signal`, `do_jobctl_trap`.

use alloc::sync::Arc;

use abi::ptrace as p;
use abi::signal as s;
use abi::signal::SigInfo;
use hal::thread::Current;
use hal::trap::UserFrame;

use super::attach;
use crate::sched;
use crate::signal::{self, TakenFrom, bit, jobctl};
use crate::task::tree::{self, Tree};
use crate::task::{Task, TaskState, current};

/// The `si_code` of a siginfo that PTRACE_EVENT_STOP made begins above it.
const EVENT_SHIFT: u32 = 8;

/// Stops the current thread if it is traced, and returns when its tracer, a kill or the end of the tracer lets it go on:
/// what `code` was changed to (a signal number, 0 for none). `why` is the CLD_* code that the tracer's SIGCHLD has; `message`
/// and `info` are what it may ask for, and `info` is changed by PTRACE_SETSIGINFO.
///
/// Whoever has the user registers in hand shows them first ([`in_sight`]).
pub(super) fn stop(code: u32, why: i32, message: u64, mut info: Option<&mut SigInfo>) -> u32 {
    let task = current();
    let mut completes_group_stop = false;
    {
        let mut state = task.group.signals.state.lock();
        // From here on a kill and the end of the relation wake the thread; before, they are seen here.
        if !task.ptrace.is_traced() || task.fatal_signal_pending() {
            return code;
        }
        {
            let mut stopped = task.ptrace.stopped.lock();
            stopped.code = code;
            stopped.message = message;
            stopped.info = info.as_deref().copied();
        }
        task.set_state(TaskState::Traced);
        if why == s::CLD_STOPPED && jobctl::of(&task) & jobctl::STOP_PENDING != 0 {
            completes_group_stop = signal::stop::participate(&task, &mut state);
        }
        // Any stop will do for one that was asked for; news of a group stop is told by its own kind.
        let tells_news = info.as_deref().is_some_and(|info| info.code() >> EVENT_SHIFT == event_code());
        jobctl::clear(&task, if tells_news { jobctl::TRAP_MASK } else { jobctl::TRAP_STOP });
        jobctl::clear_trapping(&task);
    }
    tell(&task, why, code, completes_group_stop);
    sched::schedule();
    let state = task.group.signals.state.lock();
    let mut stopped = task.ptrace.stopped.lock();
    let resumed = core::mem::take(&mut *stopped);
    drop(stopped);
    jobctl::forget_stop(&task);
    drop(state);
    if let (Some(info), Some(changed)) = (&mut info, resumed.info) {
        **info = changed;
    }
    // Signals that came meanwhile passed this thread by.
    signal::recalculate(&task);
    resumed.code
}

fn event_code() -> i32 {
    p::PTRACE_EVENT_STOP.cast_signed()
}

/// The tracer hears of every stop, the real parent only of the completed stop of the whole process.
fn tell(task: &Current<Task>, why: i32, code: u32, completes_group_stop: bool) {
    let tree = tree::lock();
    let is_traced = task.ptrace.is_traced();
    if is_traced {
        tell_tracer(&tree, task, why, code);
    }
    if completes_group_stop && (!is_traced || attach::is_reparented(&tree, task)) {
        let signal = task.group.signals.state.lock().stop_signal();
        signal::stop::tell_parent(&tree, &task.group, why, signal);
    }
}

/// SIGCHLD to the tracer unless SA_NOCLDSTOP, and its waiters (Linux `do_notify_parent_cldstop`). `code` is what the thread
/// stopped with: a tracer that looks before it is told has taken it from the thread already.
pub(crate) fn tell_tracer(tree: &Tree, task: &Task, why: i32, code: u32) {
    let Some(tracer) = task.ptrace.tracer() else { return };
    let status = match why {
        s::CLD_CONTINUED => s::SIGCONT,
        s::CLD_STOPPED => task.group.signals.state.lock().stop_signal() & 0x7f,
        _ => code & 0x7f,
    };
    let action = tracer.with_handlers(|handlers| handlers.get(s::SIGCHLD));
    if action.handler != s::SIG_IGN && action.flags & u64::from(s::SA_NOCLDSTOP) == 0 {
        let info = siginfo_about(task, &tracer, why, status.cast_signed());
        signal::send::info_with_tree(tree, &tracer.group, &info);
    }
    tracer.group.child_changed.wake_all();
}

/// The siginfo of a SIGCHLD to `tracer` about a thread.
pub(crate) fn siginfo_about(task: &Task, tracer: &Task, why: i32, status: i32) -> SigInfo {
    const TICK_NS: u64 = 10_000_000;
    let usage = task.times.snapshot();
    let number = task.pid().number_in(tracer.namespaces().pid());
    let (user, system) = (usage.user_ns / TICK_NS, usage.system_ns / TICK_NS);
    SigInfo::child(why, number, tracer.creds().user_ns.shown_uid(task.creds().uid), status)
        .with_times(user.cast_signed(), system.cast_signed())
}

/// Runs `stop` with the user registers where the tracer finds them, and takes them back as it left them.
///
/// `registers` is the only reference to them, so the compiler would be free to keep values of its own across the stop.
pub(super) fn in_sight<R>(registers: &mut UserFrame, stop: impl FnOnce() -> R) -> R {
    let task = current();
    task.thread.set_user_frame(registers);
    let result = stop();
    *registers = task.thread.user_frame();
    result
}

/// Stops with a SIGTRAP that nobody sent: `code` is SIGTRAP and an event above it (Linux `ptrace_notify`). Returns the signal
/// that the tracer goes on with.
pub(super) fn notify(code: u32, message: u64) -> u32 {
    stop_with_info(s::SIGTRAP, code, s::CLD_TRAPPED, message)
}

fn stop_with_info(signal: u32, code: u32, why: i32, message: u64) -> u32 {
    let task = current();
    let own = task.pid().number_in(task.namespaces().pid());
    let mut info = SigInfo::user(signal, code.cast_signed(), own, task.creds().uid);
    stop(code, why, message, Some(&mut info))
}

/// Signal-delivery-stop: the tracer may suppress the signal in `info` or choose another one. False: there is none to deliver
/// any more (Linux `ptrace_signal`).
pub(crate) fn for_signal(registers: &mut UserFrame, info: &mut SigInfo, from: TakenFrom) -> bool {
    let task = current();
    // Whatever the tracer makes of it may be a stop signal.
    jobctl::set(&task, jobctl::STOP_DEQUEUED);
    let signal = in_sight(registers, || stop(info.signal(), s::CLD_TRAPPED, 0, Some(info)));
    if signal == 0 {
        return false;
    }
    if signal != info.signal() {
        *info = injected(&task, signal);
    }
    if task.signals.blocked() & bit(signal) == 0 && !task.fatal_signal_pending() {
        return true;
    }
    // The tracer chose one that is blocked: it waits like any other.
    let tree = tree::lock();
    match from {
        TakenFrom::Thread => signal::send::thread_info_with_tree(&tree, &task.arc(), info),
        TakenFrom::Process => signal::send::info_with_tree(&tree, &task.group, info),
    }
    false
}

/// The siginfo of a signal that the tracer chose.
fn injected(task: &Task, signal: u32) -> SigInfo {
    let tracer = task.ptrace.tracer();
    let number = |tracer: &Task| tracer.pid().number_in(task.namespaces().pid());
    let (pid, uid) = tracer.map_or((0, 0), |tracer| (number(&tracer), tracer.real_uid()));
    SigInfo::user(signal, s::SI_USER, pid, uid)
}

/// The stop that job control or the tracer asked for: group-stop, or PTRACE_EVENT_STOP (Linux `do_jobctl_trap`).
pub(crate) fn trap(registers: &mut UserFrame) {
    let task = current();
    let mut signal = jobctl::of(&task) & jobctl::STOP_SIGNAL;
    if !task.ptrace.is_seized() {
        in_sight(registers, || stop(signal, s::CLD_STOPPED, 0, None));
        return;
    }
    if !task.group.signals.state.lock().is_stopping_or_stopped() {
        signal = s::SIGTRAP;
    }
    let code = signal | p::PTRACE_EVENT_STOP << EVENT_SHIFT;
    in_sight(registers, || stop_with_info(signal, code, s::CLD_STOPPED, 0));
}

/// A group stop began or ended: a seized thread tells its tracer, at once if that listens (Linux `ptrace_trap_notify`). The
/// group's state is locked.
pub(crate) fn notify_of_group_stop(task: &Arc<Task>) {
    jobctl::ask(task, jobctl::TRAP_NOTIFY);
    wake_for_news(task);
}

/// Makes the thread look at what it is asked: where it runs or sleeps, and where it is stopped if its tracer listens.
pub(super) fn wake_for_news(task: &Arc<Task>) {
    let listens = jobctl::of(task) & jobctl::LISTENING != 0;
    let mask = TaskState::FOR_SIGNAL | if listens { TaskState::FOR_TRACER } else { 0 };
    signal::send::wake_up(task, mask);
}

/// Ends the stop of a thread whose tracer listens, to stop it anew.
pub(super) fn stop_anew(task: &Arc<Task>) {
    signal::send::wake_up(task, TaskState::FOR_SIGNAL | TaskState::FOR_TRACER);
}

/// What a tracee stopped for and has not been told of: taken by its tracer's wait, or only looked at with WNOWAIT (Linux
/// `task_stopped_code`). The tree is locked.
pub(crate) fn take_report(task: &Task, consume: bool) -> Option<u32> {
    let state = task.group.signals.state.lock();
    let stands = task.state() == TaskState::Traced && jobctl::of(task) & jobctl::LISTENING == 0;
    let mut stopped = task.ptrace.stopped.lock();
    let code = stopped.code;
    let report = (stands && code != 0).then_some(code);
    if consume && report.is_some() {
        stopped.code = 0;
    }
    drop(stopped);
    drop(state);
    report
}
