//! Sending: who gets a signal, and what is thrown away at once (Linux `__send_signal_locked`, `prepare_signal`,
//! `complete_signal`).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::capability::CAP_KILL;
use abi::poll::{POLLIN, POLLRDNORM};
use abi::signal as s;
use abi::signal::SigInfo;
use hal::sync::IrqGuard;
use hal::thread::work;

use super::pending::{self, Admission};
use super::{DefaultAction, GroupState, STOP_SET, SigSet, bit, default_action};
use crate::Result;
use crate::ns::user::OVERFLOW_ID;
use crate::sched;
use crate::task::ptrace::attach::is_reparented;
use crate::task::tree::{self, Tree};
use crate::task::{Task, TaskState, ThreadGroup, current, ptrace};

/// Where a signal comes from, which decides what may ignore it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Another process asked.
    User,
    /// The kernel itself: reaches even an init process.
    Kernel,
}

/// Sends a signal of the kernel's own (SI_KERNEL) to a process.
pub fn send_kernel(group: &Arc<ThreadGroup>, signal: u32) {
    let info = SigInfo::kernel(signal);
    // A full queue still records the fact, so there is no failure to report.
    let _ = with_tree(|tree| to_group(tree, group, &info, Origin::Kernel));
}

/// Sends `info` to a process on the kernel's behalf (timers, child status).
pub fn send_info(group: &Arc<ThreadGroup>, info: &SigInfo) {
    let _ = with_tree(|tree| to_group(tree, group, info, Origin::Kernel));
}

/// Sends `info` to one thread on the kernel's behalf.
pub fn send_thread_info(task: &Arc<Task>, info: &SigInfo) {
    let _ = with_tree(|tree| to_thread(tree, task, info, Origin::Kernel));
}

/// What became of a POSIX timer's signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerSignal {
    /// It waits to be taken, perhaps since an earlier expiry.
    Queued,
    /// Whoever it is for ignores it.
    Ignored,
    /// Whoever it was for is gone.
    Nobody,
}

/// Sends a POSIX timer's signal to a process or one of its threads. `may_wait`: an earlier one may not have been taken; then
/// that counts an overrun and no second one is queued (Linux `send_sigqueue`).
pub fn send_timer(group: &Arc<ThreadGroup>, thread: Option<&Arc<Task>>, info: &SigInfo, may_wait: bool) -> TimerSignal {
    with_tree(|tree| timer_to(tree, group, thread, info, may_wait))
}

fn timer_to(
    tree: &Tree,
    group: &Arc<ThreadGroup>,
    thread: Option<&Arc<Task>>,
    info: &SigInfo,
    may_wait: bool,
) -> TimerSignal {
    let Some(id) = tree.find(group) else { return TimerSignal::Nobody };
    let threads = &tree.node(id).threads;
    let Some(taker) = thread.or(threads.first()) else { return TimerSignal::Nobody };
    let signal = info.signal();
    let Some(mut state) = prepare(tree, group, threads, signal) else { return TimerSignal::Nobody };
    let handler = taker.with_handlers(|handlers| handlers.get(signal).handler);
    if is_ignored(group, taker, signal, handler, Origin::Kernel) {
        return TimerSignal::Ignored;
    }
    let chosen =
        if thread.is_some() { Some(taker).filter(|task| wants(task, signal)) } else { choose_thread(threads, signal) };
    if chosen.is_some_and(|taker| ends_at_once(group, taker, signal, handler)) {
        begin_exit(&mut state, threads, signal.cast_signed());
        return TimerSignal::Queued;
    }
    match thread {
        Some(task) => {
            drop(state);
            let mut queue = task.signals.queue.lock();
            if !may_wait || !queue.count_overrun(signal, info.pid()) {
                // Without memory for the siginfo the fact remains.
                let _ = queue.add(info, Admission::Timer);
            }
            task.signals.mask.store(queue.mask, Ordering::SeqCst);
            if wants(task, signal) {
                notify(task, signal);
            }
        }
        None => {
            if !may_wait || !state.pending.count_overrun(signal, info.pid()) {
                let _ = state.pending.add(info, Admission::Timer);
            }
            group.signals.mirror(&state);
            if let Some(thread) = choose_thread(threads, signal) {
                notify(thread, signal);
            }
            drop(state);
        }
    }
    group.signals.arrivals.wake_all_for(POLLIN | POLLRDNORM);
    TimerSignal::Queued
}

/// kill(2), sigqueue(3): sends `info` to a process for a user.
pub fn send_process(group: &Arc<ThreadGroup>, info: &SigInfo) -> Result<()> {
    with_tree(|tree| to_group(tree, group, info, Origin::User))
}

/// What the current task sends to `target`, with its sender as the target knows it: by its own user namespace's number, and
/// without one for a sender that its PID namespace does not show (Linux `send_signal_locked`).
pub(crate) fn as_seen_by(target: &Task, info: &SigInfo) -> SigInfo {
    let mut info = *info;
    let sender = current();
    let (mine, theirs) = (sender.creds(), target.creds());
    let is_seen = sender.group.pid.number_in(target.group.pid.namespace()) != 0;
    if is_seen && mine.user_ns.is_same(&theirs.user_ns) {
        return info;
    }
    // Only these tell of a sender; what timers and faults tell has other fields there.
    if info.code() <= 0 && info.code() != s::SI_TIMER {
        let uid = mine.user_ns.kuid(info.uid()).map_or(OVERFLOW_ID, |kuid| theirs.user_ns.shown_uid(kuid));
        info.set_sender(if is_seen { info.pid() } else { 0 }, uid);
    }
    info
}

/// tgkill(2): sends `info` to one thread for a user.
pub fn send_thread(task: &Arc<Task>, info: &SigInfo) -> Result<()> {
    with_tree(|tree| to_thread(tree, task, info, Origin::User))
}

/// Sends a kernel signal to every process of a process group, by its global number (terminal signals). Returns how many
/// processes there were.
pub fn send_pgrp(pgrp: i32, signal: u32) -> usize {
    let info = SigInfo::kernel(signal);
    with_tree(|tree| {
        let members: alloc::vec::Vec<_> = tree.group_members(pgrp).map(|id| tree.node(id).group.clone()).collect();
        for group in &members {
            let _ = to_group(tree, group, &info, Origin::Kernel);
        }
        members.len()
    })
}

/// Runs `f` with the tree locked, for callers that already hold it to use [`group_with_tree`].
fn with_tree<R>(f: impl FnOnce(&Tree) -> R) -> R {
    let tree = tree::lock();
    f(&tree)
}

/// As [`send_info`], for a caller that holds the tree.
pub(crate) fn info_with_tree(tree: &Tree, group: &Arc<ThreadGroup>, info: &SigInfo) {
    let _ = to_group(tree, group, info, Origin::Kernel);
}

/// As [`send_thread_info`], for a caller that holds the tree.
pub(crate) fn thread_info_with_tree(tree: &Tree, task: &Arc<Task>, info: &SigInfo) {
    let _ = to_thread(tree, task, info, Origin::Kernel);
}

/// As [`send_process`], for a caller that holds the tree.
pub(crate) fn process_with_tree(tree: &Tree, group: &Arc<ThreadGroup>, info: &SigInfo) -> Result<()> {
    to_group(tree, group, info, Origin::User)
}

/// A fault of the current thread's own code: cannot be blocked or ignored (Linux `force_sig_info_to_task`). With the
/// signal blocked or ignored the handler is reset, so that it kills.
pub fn force_fault(info: &SigInfo) {
    let task = current();
    let signal = info.signal();
    let handlers = task.handlers();
    let blocked = task.signals.blocked() & bit(signal) != 0;
    let action = handlers.get(signal);
    if blocked || action.handler == s::SIG_IGN {
        handlers.set(signal, s::Sigaction::default());
        task.signals.blocked.fetch_and(!bit(signal), Ordering::SeqCst);
    }
    if handlers.get(signal).handler == s::SIG_DFL {
        // Not even an init survives its own faults (Linux clears SIGNAL_UNKILLABLE here).
        task.group.signals.faulted.store(true, Ordering::SeqCst);
    }
    // A fault takes the place of the same signal sent by somebody: what the instruction did must be told.
    let mut queue = task.signals.queue.lock();
    queue.remove(bit(signal));
    // Without memory for the siginfo the fact remains.
    let _ = queue.add(info, Admission::Queue(None));
    task.signals.mask.store(queue.mask, Ordering::SeqCst);
    drop(queue);
    task.thread.work().fetch_or(work::SIGNAL, Ordering::SeqCst);
}

fn to_group(tree: &Tree, group: &Arc<ThreadGroup>, info: &SigInfo, origin: Origin) -> Result<()> {
    let Some(id) = tree.find(group) else { return Ok(()) };
    let threads = &tree.node(id).threads;
    let Some(first) = threads.first() else { return Ok(()) };
    let signal = info.signal();
    let Some(mut state) = prepare(tree, group, threads, signal) else { return Ok(()) };
    let handler = first.with_handlers(|handlers| handlers.get(signal).handler);
    if is_ignored(group, first, signal, handler, origin) {
        return Ok(());
    }
    if choose_thread(threads, signal).is_some_and(|taker| ends_at_once(group, taker, signal, handler)) {
        begin_exit(&mut state, threads, signal.cast_signed());
        return Ok(());
    }
    if state.pending.mask & bit(signal) == 0 || signal >= s::SIGRTMIN {
        let admission = pending::admit(first, &mut state.account, info)?;
        state.pending.add(info, admission)?;
        group.signals.mirror(&state);
    }
    // Asked only now: a thread that unblocks the signal meanwhile either finds it pending or is found here. Under the lock:
    // whoever takes the signal has its notice already, and none comes late to end a sleep that it has nothing to do with.
    if let Some(thread) = choose_thread(threads, signal) {
        notify(thread, signal);
    }
    drop(state);
    group.signals.arrivals.wake_all_for(POLLIN | POLLRDNORM);
    Ok(())
}

fn to_thread(tree: &Tree, task: &Arc<Task>, info: &SigInfo, origin: Origin) -> Result<()> {
    let Some(id) = tree.find(&task.group) else { return Ok(()) };
    let threads = &tree.node(id).threads;
    let signal = info.signal();
    let Some(mut state) = prepare(tree, &task.group, threads, signal) else { return Ok(()) };
    let handler = task.with_handlers(|handlers| handlers.get(signal).handler);
    if is_ignored(&task.group, task, signal, handler, origin) {
        return Ok(());
    }
    if wants(task, signal) && ends_at_once(&task.group, task, signal, handler) {
        begin_exit(&mut state, threads, signal.cast_signed());
        return Ok(());
    }
    let admission = pending::admit(task, &mut state.account, info)?;
    drop(state);
    add_private(task, info, admission)?;
    task.group.signals.arrivals.wake_all_for(POLLIN | POLLRDNORM);
    Ok(())
}

/// Whether the signal, taken by `task`, ends the process whatever happens next: then it does so now, and sleepers that only
/// a fatal signal wakes are woken (Linux `sig_fatal` in `complete_signal`). Not when a core is to be dumped first.
fn ends_at_once(group: &ThreadGroup, task: &Task, signal: u32, handler: u64) -> bool {
    if signal == s::SIGKILL {
        return true;
    }
    // A tracer may decide otherwise (Linux complete_signal).
    if task.ptrace.is_traced() {
        return false;
    }
    let terminates = default_action(signal) == DefaultAction::Terminate;
    // A stopped process looks at anything but SIGKILL when it is continued (Linux wants_signal).
    let stopped = matches!(task.state(), TaskState::Stopped | TaskState::Traced);
    terminates && !stopped && task.signals.blocked() & bit(signal) == 0 && !is_init(group) && handler == s::SIG_DFL
}

fn add_private(task: &Arc<Task>, info: &SigInfo, admission: Admission) -> Result<()> {
    let mut queue = task.signals.queue.lock();
    queue.add(info, admission)?;
    task.signals.mask.store(queue.mask, Ordering::SeqCst);
    // Now and under the lock, as in `to_group`.
    if wants(task, info.signal()) {
        notify(task, info.signal());
    }
    Ok(())
}

/// The SIGSTOP that a thread is born with whose parent is traced: a fact that nobody sent (Linux `ptrace_init_task`).
pub(crate) fn add_stop_of_newborn(task: &Task) {
    let mut queue = task.signals.queue.lock();
    queue.add_fact(s::SIGSTOP);
    task.signals.mask.store(queue.mask, Ordering::SeqCst);
}

pub(crate) fn remove_private(task: &Task, set: SigSet) {
    if task.signals.pending_mask() & set != 0 {
        let mut queue = task.signals.queue.lock();
        queue.remove(set);
        task.signals.mask.store(queue.mask, Ordering::SeqCst);
    }
}

/// Stop signals and SIGCONT cancel each other, and SIGCONT resumes even when it is ignored or blocked (signal(7)).
/// Returns the locked state of the group; `None` when the process is ending and the signal is of no use. The tree keeps
/// senders apart.
fn prepare<'g>(
    tree: &Tree,
    group: &'g Arc<ThreadGroup>,
    threads: &[Arc<Task>],
    signal: u32,
) -> Option<IrqGuard<'g, GroupState>> {
    if threads.iter().any(|thread| thread.is_kernel_thread()) {
        return None; // they ignore everything (Linux ignore_signals)
    }
    let mut state = group.signals.state.lock();
    if state.exiting.is_some() {
        // Of use is alone what ends a core dump (Linux `prepare_signal`).
        return (signal == s::SIGKILL && state.threads_to_stop.is_some()).then_some(state);
    }
    let cancelled = match signal {
        s::SIGCONT => STOP_SET,
        _ if bit(signal) & STOP_SET != 0 => bit(s::SIGCONT),
        _ => return Some(state),
    };
    state.pending.remove(cancelled);
    group.signals.mirror(&state);
    threads.iter().for_each(|thread| remove_private(thread, cancelled));
    let told = if signal == s::SIGCONT { super::stop::resume(threads, &mut state) } else { None };
    let Some((code, status)) = told else { return Some(state) };
    drop(state);
    super::stop::tell_parent(tree, group, code, status);
    if let Some(leader) = threads.iter().find(|thread| thread.is_leader() && is_reparented(tree, thread)) {
        ptrace::stop::tell_tracer(tree, leader, code, status);
    }
    Some(group.signals.state.lock())
}

/// Whether the signal would do nothing (Linux `sig_ignored`). A blocked signal is kept: the handler may change.
fn is_ignored(group: &ThreadGroup, task: &Task, signal: u32, handler: u64, origin: Origin) -> bool {
    if task.signals.blocked() & bit(signal) != 0 || task.signals.waiting_for.load(Ordering::SeqCst) & bit(signal) != 0 {
        return false;
    }
    // A tracer wants to know even of what would do nothing; SIGKILL cannot be told (Linux sig_ignored).
    if task.ptrace.is_traced() && signal != s::SIGKILL {
        return false;
    }
    // An init process gets only what it handles; SIGKILL and SIGSTOP from the kernel itself and from outside its PID
    // namespace (pid_namespaces(7), Linux sig_task_ignored).
    let insists = || origin == Origin::Kernel || current().group.pid.number_in(group.pid.namespace()) == 0;
    let insisted = bit(signal) & super::UNBLOCKABLE != 0 && insists();
    if is_init(group) && handler == s::SIG_DFL && !insisted {
        return true;
    }
    handler == s::SIG_IGN && bit(signal) & super::UNBLOCKABLE == 0
        || handler == s::SIG_DFL && default_action(signal) == DefaultAction::Ignore
}

/// Whether the process is the init of its PID namespace: SIGNAL_UNKILLABLE.
pub(super) fn is_init(group: &ThreadGroup) -> bool {
    group.pid.own_number() == 1
}

/// Whether this thread would take the signal now.
fn wants(task: &Task, signal: u32) -> bool {
    let blocked = task.signals.blocked() & !task.signals.waiting_for.load(Ordering::SeqCst);
    blocked & bit(signal) == 0 && !task.has_flag(crate::task::flags::EXITING)
}

fn choose_thread(threads: &[Arc<Task>], signal: u32) -> Option<&Arc<Task>> {
    threads.iter().find(|thread| wants(thread, signal))
}

fn notify(task: &Arc<Task>, signal: u32) {
    task.thread.work().fetch_or(work::SIGNAL, Ordering::SeqCst);
    if task.state() == TaskState::Running && core::ptr::eq(&**task, &*current()) {
        return;
    }
    let is_frozen = super::jobctl::of(task) & super::jobctl::FROZEN != 0;
    let mask = match signal {
        // Whoever looks at it lets it go afterwards (`ptrace::attach::unfreeze`).
        s::SIGKILL if is_frozen => TaskState::FOR_KILL & !TaskState::FOR_TRACER,
        s::SIGKILL => TaskState::FOR_KILL,
        _ => TaskState::FOR_SIGNAL,
    };
    wake_up(task, mask);
}

/// Wakes a thread out of the states of `mask`, or makes it look at its work where it runs (Linux `signal_wake_up_state`).
pub(crate) fn wake_up(task: &Arc<Task>, mask: u32) {
    task.thread.work().fetch_or(work::SIGNAL, Ordering::SeqCst);
    if !sched::wake(task, mask) {
        sched::kick_task(task);
    }
}

/// The process must end with `status`: every thread gets its own SIGKILL (Linux `zap_other_threads`).
pub(crate) fn begin_exit(state: &mut GroupState, threads: &[Arc<Task>], status: i32) {
    if state.exiting.is_some() {
        if state.threads_to_stop.is_some() {
            kill_threads(threads, None);
        }
        return;
    }
    state.exiting = Some(status);
    state.forget_job_control();
    kill_threads(threads, None);
}

/// As [`begin_exit`], for a thread that dumps core: the `others` stop for it at the start of their exit.
pub(crate) fn begin_dump(state: &mut GroupState, others: &[Arc<Task>], status: i32) {
    state.exiting = Some(status);
    state.stop_signal = 0;
    state.threads_to_stop = Some(others.len());
    kill_threads(others, None);
}

/// Gives SIGKILL to all of `threads` but `except`.
pub(crate) fn kill_threads(threads: &[Arc<Task>], except: Option<&Task>) {
    for thread in threads {
        if !except.is_some_and(|except| core::ptr::eq(&**thread, except)) {
            let mut queue = thread.signals.queue.lock();
            queue.add_fact(s::SIGKILL);
            thread.signals.mask.store(queue.mask, Ordering::SeqCst);
            drop(queue);
            notify(thread, s::SIGKILL);
        }
    }
}

/// kill(2): whether `sender` may signal `target` by its credentials: its real or effective user id is the target's real
/// or saved one, or it has CAP_KILL, or both are of one process. SIGCONT has a rule of its own besides.
pub(crate) fn permitted(sender: &Task, target: &Task) -> bool {
    if core::ptr::eq(&*target.group, &*sender.group) {
        return true;
    }
    let (mine, theirs) = (sender.creds(), target.creds());
    let same = [mine.euid, mine.uid].iter().any(|id| *id == theirs.suid || *id == theirs.uid);
    same || mine.ns_capable(&theirs.user_ns, CAP_KILL)
}

/// A thread on its way out hands the process's signals that it might have been woken for to the others (Linux
/// `exit_signals`).
pub(crate) fn hand_on(task: &Task) {
    let shared = task.group.signals.pending_mask() & !task.signals.blocked();
    if shared != 0 {
        retarget(task, shared);
    }
}

/// The current thread now blocks `set`, of which some signals are pending for the process: hands them to a thread that
/// does not (Linux `retarget_shared_pending`).
pub(super) fn retarget(task: &Task, set: SigSet) {
    let tree = tree::lock();
    let Some(id) = tree.find(&task.group) else { return };
    for thread in &tree.node(id).threads {
        let takes = set & !thread.signals.blocked() != 0 && !thread.has_flag(crate::task::flags::EXITING);
        if takes && !core::ptr::eq(&**thread, task) {
            notify(thread, s::SIGCHLD);
        }
    }
}
