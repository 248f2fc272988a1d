//! The relation of tracer and tracee: how it begins (PTRACE_TRACEME, ATTACH, SEIZE, a traced parent) and ends (PTRACE_DETACH,
//! the end of either). Linux `ptrace_attach`, `__ptrace_unlink`, `exit_ptrace`.
//!
//! Locks: the tree, then the state of the tracee's group. What is unlinked is handed to the caller, which drops it after it
//! has unlocked.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::capability::{CAP_SYS_ADMIN, CAP_SYS_PTRACE};
use abi::process::SECCOMP_MODE_DISABLED;
use abi::ptrace as p;
use abi::signal as s;
use abi::signal::SigInfo;

use super::{event, flag};
use crate::Result;
use crate::ns::user::UserNs;
use crate::sched;
use crate::signal::{self, COUNT, jobctl};
use crate::sync::WaitQueue;
use crate::task::exit;
use crate::task::tree::{self, ExitState, NO_NODE, Tree};
use crate::task::{AccessMode, Creds, Task, TaskState, current, find_global, flags, ptrace_may_access, yama};

hal::global! {
    /// Where tracers wait that attached to a stopped thread, until it has stopped for them.
    static TRAPPED: WaitQueue = WaitQueue::new();
}

/// A tracee no longer is on its way from a group stop to one for its tracer.
pub(crate) fn trapped() {
    TRAPPED.wake_all();
}

/// PTRACE_TRACEME: the parent becomes the tracer. `EPERM` when somebody traces already, or the parent may not.
pub(super) fn trace_me() -> Result<()> {
    let task = current().arc();
    let tree = tree::lock();
    if task.ptrace.is_traced() {
        return Err(Errno::EPERM);
    }
    let id = tree.find(&task.group).ok_or(Errno::EPERM)?;
    let node = tree.node(id);
    let parent = if node.parent == NO_NODE { None } else { find_global(node.parent_thread) };
    let parent = parent.ok_or(Errno::EPERM)?;
    check_traceme(&parent)?;
    // A parent on its way out has let go of its tracees already: as if it had done so right after this call.
    if !parent.has_flag(flags::EXITING) {
        link(&task, &parent, flag::TRACED, task.creds());
    }
    Ok(())
}

/// Whether `parent` may have itself made the tracer of the current task (Linux `cap_ptrace_traceme`).
fn check_traceme(parent: &Task) -> Result<()> {
    let (own, other) = (current().creds(), parent.creds());
    let is_weaker = own.user_ns.is_same(&other.user_ns) && own.cap_permitted & !other.cap_permitted == 0;
    if !is_weaker && !other.ns_capable(&own.user_ns, CAP_SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    yama::may_be_traced_by(parent)
}

/// PTRACE_ATTACH: the tracee gets a SIGSTOP.
pub(super) fn attach(target: &Arc<Task>) -> Result<()> {
    attach_with(target, flag::TRACED)
}

/// PTRACE_SEIZE: the tracee goes on as it is.
pub(super) fn seize(target: &Arc<Task>, address: u64, options: u64) -> Result<()> {
    // Historically another error than that of PTRACE_SETOPTIONS.
    if address != 0 || options & !u64::from(p::PTRACE_O_MASK) != 0 {
        return Err(Errno::EIO);
    }
    let options = check_options(options)?;
    attach_with(target, flag::TRACED | flag::SEIZED | options << flag::OPTIONS_SHIFT)
}

/// The PTRACE_O_* bits if the caller may ask for them (Linux `check_ptrace_options`).
pub(super) fn check_options(options: u64) -> Result<u32> {
    let known = u32::try_from(options).ok().filter(|options| options & !p::PTRACE_O_MASK == 0);
    let options = known.ok_or(Errno::EINVAL)?;
    if options & p::PTRACE_O_SUSPEND_SECCOMP != 0 {
        let me = current();
        // Who is bound by seccomp must not free another of it.
        let is_bound = me.seccomp.mode_and_filters().0 != SECCOMP_MODE_DISABLED || me.ptrace.suspends_seccomp();
        if !me.capable(CAP_SYS_ADMIN) || is_bound {
            return Err(Errno::EPERM);
        }
    }
    Ok(options)
}

fn attach_with(target: &Arc<Task>, how: u32) -> Result<()> {
    let me = current().arc();
    if target.is_kernel_thread() || Arc::ptr_eq(&target.group, &me.group) {
        return Err(Errno::EPERM);
    }
    loop {
        let judged = target.creds();
        ptrace_may_access(target, AccessMode::ATTACH_REALCREDS)?;
        let tree = tree::lock();
        // An execve of the target may have changed who it is since; it asks for a tracer under the same lock when it
        // commits (Linux has `cred_guard_mutex`).
        if !Arc::ptr_eq(&target.creds(), &judged) {
            drop(tree);
            continue;
        }
        link_stopping(&tree, target, &me, how)?;
        break;
    }
    // Of no consequence for the result; a fatal signal ends it.
    let _ = TRAPPED.wait_event(TaskState::Killable, || jobctl::of(target) & jobctl::TRAPPING == 0);
    Ok(())
}

/// Makes the relation, and the target stop if it is asked to, or is stopped already.
fn link_stopping(tree: &Tree, target: &Arc<Task>, tracer: &Arc<Task>, how: u32) -> Result<()> {
    let is_gone = tree.find(&target.group).is_none_or(|id| {
        let node = tree.node(id);
        let in_table = node.threads.iter().any(|thread| Arc::ptr_eq(thread, target));
        !in_table || node.exit_state == ExitState::Zombie || node.leader_left && target.is_leader()
    });
    if is_gone || target.ptrace.is_traced() || target.ptrace.is_zombie() {
        return Err(Errno::EPERM);
    }
    link(target, tracer, how, tracer.creds());
    if how & flag::SEIZED == 0 {
        signal::send::thread_info_with_tree(tree, target, &SigInfo::kernel(s::SIGSTOP));
    }
    let state = target.group.signals.state.lock();
    if target.state() == TaskState::Stopped && jobctl::ask(target, jobctl::TRAP_STOP | jobctl::TRAPPING) {
        signal::send::wake_up(target, TaskState::FOR_SIGNAL | TaskState::FOR_CONTINUE);
    }
    drop(state);
    Ok(())
}

/// Enters the relation. The tree is locked.
fn link(tracee: &Arc<Task>, tracer: &Arc<Task>, how: u32, creds: Arc<Creds>) {
    let mut own = tracee.ptrace.links.lock();
    own.tracer = Some(tracer.clone());
    own.tracer_creds = Some(creds);
    drop(own);
    tracer.ptrace.links.lock().tracees.push(tracee.clone());
    tracer.ptrace.is_tracer.store(true, Ordering::SeqCst);
    let state = tracee.group.signals.state.lock();
    tracee.ptrace.flags.store(how, Ordering::SeqCst);
    drop(state);
}

/// What an ended relation leaves to be dropped.
pub(crate) struct Unlinked {
    _tracer: Option<Arc<Task>>,
    _tracee: Option<Arc<Task>>,
    _creds: Option<Arc<Creds>>,
}

/// Ends the relation: the thread goes on by itself, or takes part in the group stop that is in force (Linux
/// `__ptrace_unlink`). The tree is locked.
pub(crate) fn unlink(tracee: &Arc<Task>) -> Unlinked {
    let mut own = tracee.ptrace.links.lock();
    let (tracer, creds) = (own.tracer.take(), own.tracer_creds.take());
    drop(own);
    let from_list = tracer.as_ref().and_then(|tracer| {
        let mut theirs = tracer.ptrace.links.lock();
        let at = theirs.tracees.iter().position(|other| Arc::ptr_eq(other, tracee))?;
        let gone = theirs.tracees.remove(at);
        tracer.ptrace.is_tracer.store(!theirs.tracees.is_empty(), Ordering::SeqCst);
        Some(gone)
    });
    tracee.ptrace.syscalls.store(0, Ordering::SeqCst);
    // Nobody is there to be told of a step.
    tracee.thread.set_single_step(false);
    event::update_syscall_work(tracee);
    let state = tracee.group.signals.state.lock();
    tracee.ptrace.flags.store(0, Ordering::SeqCst);
    jobctl::clear(tracee, jobctl::TRAP_MASK);
    jobctl::clear_trapping(tracee);
    if !tracee.has_flag(flags::EXITING) && state.is_stopping_or_stopped() {
        // A thread that was born traced into a stop has no signal of its own to tell of.
        let unknown = jobctl::of(tracee) & jobctl::STOP_SIGNAL == 0;
        jobctl::set(tracee, jobctl::STOP_PENDING | if unknown { s::SIGSTOP } else { 0 });
    }
    if tracee.state() == TaskState::Traced || jobctl::of(tracee) & jobctl::STOP_PENDING != 0 {
        signal::send::wake_up(tracee, TaskState::FOR_SIGNAL | TaskState::FOR_TRACER);
    }
    drop(state);
    Unlinked { _tracer: tracer, _tracee: from_list, _creds: creds }
}

/// A child or thread that a tracee made is traced as well, and begins with a stop (Linux `ptrace_init_task`). The tree is
/// locked; the child is in it and has not run.
pub(crate) fn inherit(parent: &Task, child: &Arc<Task>) {
    let (tracer, creds) = {
        let links = parent.ptrace.links.lock();
        (links.tracer.clone(), links.tracer_creds.clone())
    };
    let (Some(tracer), Some(creds)) = (tracer, creds) else { return };
    link(child, &tracer, parent.ptrace.flags(), creds);
    if child.ptrace.is_seized() {
        let state = child.group.signals.state.lock();
        jobctl::ask(child, jobctl::TRAP_STOP);
        drop(state);
    } else {
        signal::send::add_stop_of_newborn(child);
    }
    signal::recalculate(child);
}

/// Whether tracer and real parent are of different processes (Linux `ptrace_reparented`).
pub(crate) fn is_reparented(tree: &Tree, task: &Task) -> bool {
    let Some(tracer) = task.ptrace.tracer() else { return false };
    let parent = tree.find(&task.group).map_or(NO_NODE, |id| tree.node(id).parent);
    parent == NO_NODE || !Arc::ptr_eq(&tree.node(parent).group, &tracer.group)
}

/// PTRACE_DETACH: the tracee goes on with signal `data`.
pub(super) fn detach(mut tracee: Frozen, data: u64) -> Result<()> {
    let signal = valid_signal(data)?;
    let mut tree = tree::lock();
    tracee.let_go(signal);
    let gone = release(&mut tree, &tracee.task);
    drop(tree);
    drop(gone);
    Ok(())
}

/// A signal number or 0 (Linux `valid_signal`): `EIO` for others.
pub(super) fn valid_signal(data: u64) -> Result<u32> {
    u32::try_from(data).ok().filter(|signal| *signal <= COUNT).ok_or(Errno::EIO)
}

/// What is left to be dropped after the tree is unlocked.
pub(crate) struct Released {
    _unlinked: Unlinked,
    _reaped: exit::Reaped,
}

/// Lets a tracee go. One that has ended already is left to its real parent, or is gone at once (Linux `__ptrace_detach`).
pub(crate) fn release(tree: &mut Tree, tracee: &Arc<Task>) -> Released {
    let was_reparented = is_reparented(tree, tracee);
    let unlinked = unlink(tracee);
    let reaped = exit::after_trace(tree, tracee, was_reparented);
    Released { _unlinked: unlinked, _reaped: reaped }
}

/// A tracer ends: its tracees go on, or die (PTRACE_O_EXITKILL; Linux `exit_ptrace`).
pub(crate) fn tracer_exits(tree: &mut Tree, tracer: &Task) -> Vec<Released> {
    let mut gone = Vec::new();
    for tracee in tracer.ptrace.tracees() {
        if tracee.ptrace.has_option(p::PTRACE_O_EXITKILL) {
            signal::send::info_with_tree(tree, &tracee.group, &SigInfo::kernel(s::SIGKILL));
        }
        gone.push(release(tree, &tracee));
    }
    gone
}

/// Whether the tracer of `task` may see what belongs to the privileged of `user_ns` (Linux `ptracer_capable`). Nobody is above
/// all doubt.
pub(crate) fn tracer_is_privileged(task: &Task, user_ns: &UserNs) -> bool {
    let creds = task.ptrace.links.lock().tracer_creds.clone();
    creds.is_none_or(|creds| creds.ns_capable(user_ns, CAP_SYS_PTRACE))
}

/// A tracee that stands still for a request of its tracer.
pub(super) struct Frozen {
    pub(super) task: Arc<Task>,
    is_frozen: bool,
}

impl Frozen {
    /// Freezes the tracee: `ESRCH` unless the caller traces it and it is stopped, not listening and not about to die
    /// (Linux `ptrace_check_attach`).
    pub(super) fn new(task: Arc<Task>) -> Result<Self> {
        {
            let tree = tree::lock();
            is_ours(&task)?;
            let state = task.group.signals.state.lock();
            let is_listening = jobctl::of(&task) & jobctl::LISTENING != 0;
            if task.state() != TaskState::Traced || is_listening || task.fatal_signal_pending() || is_another(&task) {
                return Err(Errno::ESRCH);
            }
            jobctl::set(&task, jobctl::FROZEN);
            drop(state);
            drop(tree);
        }
        // It may still be on its way off the CPU, its registers not saved.
        sched::wait_inactive(&task);
        Ok(Self { task, is_frozen: true })
    }

    /// What the tracee goes on with. The freeze is over; the caller wakes it.
    pub(super) fn let_go(&mut self, signal: u32) {
        let state = self.task.group.signals.state.lock();
        self.task.ptrace.stopped.lock().code = signal;
        jobctl::unfreeze(&self.task);
        self.is_frozen = false;
        drop(state);
    }

    /// The tracee goes on with `signal`, or without any (Linux `ptrace_resume`). The state's lock keeps a wait from taking
    /// the signal for a report.
    pub(super) fn resume(mut self, signal: u32) {
        let task = self.task.clone();
        let state = task.group.signals.state.lock();
        task.ptrace.stopped.lock().code = signal;
        jobctl::unfreeze(&task);
        self.is_frozen = false;
        sched::wake(&task, TaskState::FOR_TRACER);
        drop(state);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.is_frozen {
            return;
        }
        let state = self.task.group.signals.state.lock();
        jobctl::unfreeze(&self.task);
        if self.task.fatal_signal_pending() {
            signal::send::wake_up(&self.task, TaskState::FOR_KILL);
        }
        drop(state);
    }
}

/// `ESRCH` unless the caller traces the task. The tree is locked.
pub(super) fn is_ours(task: &Task) -> Result<()> {
    if task.ptrace.is_traced_by(&current()) { Ok(()) } else { Err(Errno::ESRCH) }
}

/// The same for a caller without the lock.
pub(super) fn is_ours_now(task: &Task) -> Result<()> {
    let _tree = tree::lock();
    is_ours(task)
}

/// A thread that took the leader's number over in execve and has not been waited for since: the tracer means the leader,
/// which is gone (Linux `looks_like_a_spurious_pid`).
fn is_another(task: &Task) -> bool {
    let stopped = task.ptrace.stopped.lock();
    let at_exec = stopped.code == (p::PTRACE_EVENT_EXEC << 8 | s::SIGTRAP);
    at_exec && stopped.message != u64::from(task.pid().number_in(current().namespaces().pid()).unsigned_abs())
}
