//! Signals: signal(7).
//!
//! A signal is *sent* to a process or a thread ([`send`]), waits in a pending set until a thread that does not block it
//! comes by, and is then *delivered* ([`deliver`]): ignored, handled by user code through a frame on its stack
//! ([`frame`]), or acted on by default. Handlers are shared by CLONE_SIGHAND ([`SigHandlers`]), pending sets are of the
//! process ([`GroupSignals`]) and of the thread ([`TaskSignals`]).
//!
//! Locks: the family tree, then the group's state, then a thread's queue, then the handlers.

pub mod deliver;
pub mod frame;
pub(crate) mod jobctl;
mod pending;
pub mod send;
pub(crate) mod stop;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::signal as s;
use abi::signal::{SigInfo, Sigaction, StackT};
use hal::sync::{IrqLock, SpinLock};
use hal::thread::work;

use crate::Result;
use crate::sync::{WaitQueue, order};
use crate::task::{Task, current};

pub use pending::queued_for_user;
use pending::{Account, Pending};
pub(crate) use pending::{Charge, charge_timer};
pub use send::{
    TimerSignal, force_fault, send_info, send_kernel, send_pgrp, send_process, send_thread, send_thread_info,
    send_timer,
};
pub(crate) use stop::{JobReport, is_stopped, job_report, notify_parent_of_stop, thread_exits};

/// Signals are 1 to 64.
pub const COUNT: u32 = 64;

/// A set of signals: bit `n - 1` is signal `n`.
pub type SigSet = u64;

/// The set that holds `signal` alone. Panics outside 1..=64.
#[inline]
pub const fn bit(signal: u32) -> SigSet {
    1 << (signal - 1)
}

/// Signals that nobody can block, catch or ignore.
pub const UNBLOCKABLE: SigSet = bit(s::SIGKILL) | bit(s::SIGSTOP);
/// Signals whose default is to stop.
pub const STOP_SET: SigSet = bit(s::SIGSTOP) | bit(s::SIGTSTP) | bit(s::SIGTTIN) | bit(s::SIGTTOU);
/// Signals whose default is nothing.
const IGNORE_SET: SigSet = bit(s::SIGCHLD) | bit(s::SIGURG) | bit(s::SIGWINCH) | bit(s::SIGCONT);
/// Signals whose default is to dump core.
const CORE_SET: SigSet = bit(s::SIGQUIT)
    | bit(s::SIGILL)
    | bit(s::SIGTRAP)
    | bit(s::SIGABRT)
    | bit(s::SIGBUS)
    | bit(s::SIGFPE)
    | bit(s::SIGSEGV)
    | bit(s::SIGXCPU)
    | bit(s::SIGXFSZ)
    | bit(s::SIGSYS);
/// Signals that the faulting instruction itself causes: delivered before others.
const SYNCHRONOUS: SigSet =
    bit(s::SIGSEGV) | bit(s::SIGBUS) | bit(s::SIGILL) | bit(s::SIGTRAP) | bit(s::SIGFPE) | bit(s::SIGSYS);

/// What a signal does when nobody handles it (signal(7), "Standard signals").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultAction {
    /// Nothing.
    Ignore,
    /// Stop the process.
    Stop,
    /// End it.
    Terminate,
    /// End it and dump core.
    Core,
}

/// The default action of `signal`.
pub fn default_action(signal: u32) -> DefaultAction {
    let set = bit(signal);
    if set & IGNORE_SET != 0 {
        DefaultAction::Ignore
    } else if set & STOP_SET != 0 {
        DefaultAction::Stop
    } else if set & CORE_SET != 0 {
        DefaultAction::Core
    } else {
        DefaultAction::Terminate
    }
}

/// Why and whether a process is ending or stopped. Guarded by the group's lock.
#[derive(Default)]
pub struct GroupState {
    pending: Pending,
    /// Who pays for queued signals.
    account: Account,
    /// Wait status that every thread ends with, once the process is ending.
    pub(crate) exiting: Option<i32>,
    /// Exec waits until it is the only thread: global TID of the thread that stays.
    pub(crate) exec_survivor: Option<i32>,
    /// While a core is written: threads that have not stopped for it (Linux `core_state`).
    pub(crate) threads_to_stop: Option<usize>,
    /// The signal of a stop in force or under way.
    stop_signal: u32,
    /// Threads that have not stopped yet (Linux `group_stop_count`).
    stop_left: u32,
    /// All threads stopped.
    stopped: bool,
    /// A stop that `wait` has not reported.
    stop_unreported: bool,
    /// A continue that `wait` has not reported.
    continue_unreported: bool,
}

impl GroupState {
    /// Whether a stop of the process is in force or under way.
    pub(crate) fn is_stopping_or_stopped(&self) -> bool {
        self.stopped || self.stop_left > 0
    }

    /// The signal of that stop.
    pub(crate) fn stop_signal(&self) -> u32 {
        self.stop_signal
    }

    /// The process ends: no stop is in force or to be told of any more.
    pub(crate) fn forget_job_control(&mut self) {
        self.stop_signal = 0;
        self.stop_left = 0;
        self.stopped = false;
        self.stop_unreported = false;
        self.continue_unreported = false;
    }
}

/// Whether the thread is asked to stop, or a stop signal waits for it to look at it.
pub(crate) fn is_stopping(task: &Task, state: &GroupState) -> bool {
    let pending = state.pending.mask | task.signals.pending_mask();
    jobctl::of(task) & jobctl::PENDING_MASK != 0 || pending & STOP_SET & !task.signals.blocked() != 0
}

/// Signal state of a process.
pub struct GroupSignals {
    pub(crate) state: IrqLock<GroupState>,
    /// Mirrors the shared pending set.
    mask: AtomicU64,
    /// Woken when a signal was queued for the process or one of its threads: signalfds poll here (Linux `signalfd_wqh`).
    pub(crate) arrivals: WaitQueue,
    /// A thread faulted without a handler for it: not even an init survives that.
    faulted: AtomicBool,
    /// Woken when a thread stopped for a core dump, and when the dump is over.
    pub(crate) dump_progress: WaitQueue,
}

impl GroupSignals {
    /// Nothing pending.
    pub fn new() -> Self {
        Self {
            state: IrqLock::new(order::SIGHAND, GroupState::default()),
            mask: AtomicU64::new(0),
            arrivals: WaitQueue::new(),
            faulted: AtomicBool::new(false),
            dump_progress: WaitQueue::new(),
        }
    }

    /// The shared pending set.
    pub fn pending_mask(&self) -> SigSet {
        self.mask.load(Ordering::SeqCst)
    }

    /// Whether the process is ending, and with which wait status.
    pub fn exiting(&self) -> Option<i32> {
        self.state.lock().exiting
    }

    fn mirror(&self, state: &GroupState) {
        self.mask.store(state.pending.mask, Ordering::SeqCst);
    }
}

impl Default for GroupSignals {
    fn default() -> Self {
        Self::new()
    }
}

/// Signal state of a thread.
pub struct TaskSignals {
    queue: IrqLock<Pending>,
    /// Mirrors the private pending set.
    mask: AtomicU64,
    /// Blocked signals. Written by the thread itself.
    blocked: AtomicU64,
    /// The mask to put back after sigsuspend, ppoll and the like.
    saved_mask: SpinLock<Option<SigSet>>,
    /// What sigtimedwait waits for: such signals wake the thread although it blocks them.
    waiting_for: AtomicU64,
    /// sigaltstack(2).
    alternate_stack: SpinLock<StackT>,
    /// Job control and tracing ([`jobctl`]).
    jobctl: AtomicU32,
    /// Exiting, and no longer to be stopped for a core dump (Linux PF_POSTCOREDUMP).
    pub(crate) past_dump: AtomicBool,
    /// Syndrome of the last fault, for the frame's esr record.
    syndrome: AtomicU64,
}

impl TaskSignals {
    /// Nothing pending, `blocked` blocked.
    pub(crate) fn new(blocked: SigSet) -> Self {
        Self {
            queue: IrqLock::new(order::TASK_SIGNALS, Pending::new()),
            mask: AtomicU64::new(0),
            blocked: AtomicU64::new(blocked),
            saved_mask: SpinLock::new(order::TASK_FIELDS, None),
            waiting_for: AtomicU64::new(0),
            alternate_stack: SpinLock::new(order::TASK_FIELDS, disabled_stack()),
            jobctl: AtomicU32::new(0),
            past_dump: AtomicBool::new(false),
            syndrome: AtomicU64::new(0),
        }
    }

    /// The private pending set.
    pub fn pending_mask(&self) -> SigSet {
        self.mask.load(Ordering::SeqCst)
    }

    /// The blocked set.
    pub fn blocked(&self) -> SigSet {
        self.blocked.load(Ordering::SeqCst)
    }

    /// The mask that comes back when a call that blocks another one is over.
    pub(crate) fn mask_to_restore(&self) -> Option<SigSet> {
        *self.saved_mask.lock()
    }

    /// Replaces the blocked set of a stopped thread, which looks at its signals anew when it goes on; there is no other to
    /// come back (PTRACE_SETSIGMASK).
    pub(crate) fn set_blocked_of_stopped(&self, mask: SigSet) {
        self.blocked.store(mask, Ordering::SeqCst);
        *self.saved_mask.lock() = None;
    }

    /// The syndrome (ESR) of the thread's last fault.
    pub fn last_syndrome(&self) -> u64 {
        self.syndrome.load(Ordering::Relaxed)
    }

    pub(crate) fn set_syndrome(&self, syndrome: u64) {
        self.syndrome.store(syndrome, Ordering::Relaxed);
    }

    /// The alternate stack.
    pub fn alternate_stack(&self) -> StackT {
        *self.alternate_stack.lock()
    }

    /// Sets the alternate stack; `None` disables it, as exec does.
    pub fn set_alternate_stack(&self, stack: Option<StackT>) {
        *self.alternate_stack.lock() = stack.unwrap_or_else(disabled_stack);
    }
}

fn disabled_stack() -> StackT {
    StackT { ss_flags: s::SS_DISABLE as i32, ..StackT::default() }
}

/// Signal handlers, shared among threads (and by CLONE_SIGHAND alone).
pub struct SigHandlers {
    actions: IrqLock<Actions>,
}

#[derive(Clone, Copy)]
struct Actions {
    table: [Sigaction; COUNT as usize],
    /// Signals whose action is to ignore them, and those that have a handler: what `/proc/PID/stat` shows.
    ignored: SigSet,
    caught: SigSet,
}

/// What is done at a signal that nobody said anything about.
const NO_ACTION: Sigaction = Sigaction { handler: s::SIG_DFL, flags: 0, restorer: 0, mask: 0 };

impl Actions {
    const DEFAULT: Self = Self { table: [NO_ACTION; COUNT as usize], ignored: 0, caught: 0 };

    fn set(&mut self, signal: u32, action: Sigaction) -> Sigaction {
        let bit = bit(signal);
        let put = |set: SigSet, member: bool| if member { set | bit } else { set & !bit };
        self.ignored = put(self.ignored, action.handler == s::SIG_IGN);
        self.caught = put(self.caught, action.handler != s::SIG_IGN && action.handler != s::SIG_DFL);
        core::mem::replace(&mut self.table[(signal - 1) as usize], action)
    }
}

impl SigHandlers {
    /// All default.
    pub fn new() -> Self {
        Self { actions: IrqLock::new(order::SIG_ACTIONS, Actions::DEFAULT) }
    }

    /// A copy, for fork.
    pub fn copy(&self) -> Self {
        Self { actions: IrqLock::new(order::SIG_ACTIONS, *self.actions.lock()) }
    }

    /// What is done at `signal`.
    pub fn get(&self, signal: u32) -> Sigaction {
        self.actions.lock().table[(signal - 1) as usize]
    }

    /// Changes that; returns the former.
    pub fn set(&self, signal: u32, action: Sigaction) -> Sigaction {
        self.actions.lock().set(signal, action)
    }

    /// Handled signals go back to default, ignored ones stay (execve(2)); CLONE_CLEAR_SIGHAND the same.
    pub fn reset_handled(&self) {
        let mut actions = self.actions.lock();
        for signal in 1..=COUNT {
            let ignored = actions.ignored & bit(signal) != 0;
            actions.set(signal, if ignored { Sigaction { handler: s::SIG_IGN, ..NO_ACTION } } else { NO_ACTION });
        }
    }

    /// The sets of ignored and of caught signals, for `/proc/PID/status`.
    pub fn ignored_and_caught(&self) -> (SigSet, SigSet) {
        let actions = self.actions.lock();
        (actions.ignored, actions.caught)
    }
}

impl Default for SigHandlers {
    fn default() -> Self {
        Self::new()
    }
}

/// How `restart_syscall` goes on with a call that a signal without a handler interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartBlock {
    /// Nothing to go on with: `EINTR`.
    None,
    /// A relative sleep: the deadline on the monotonic clock, and where the remainder goes.
    Sleep {
        /// Monotonic time to wake at, ns.
        deadline_ns: u64,
        /// The caller's `remaining` pointer.
        remaining: u64,
    },
    /// A relative sleep on a CPU clock.
    CpuSleep {
        /// The clock's number.
        clock: i32,
        /// Time of that clock to wake at, ns.
        deadline_ns: u64,
        /// The caller's `remaining` pointer.
        remaining: u64,
    },
    /// A futex wait with a relative timeout.
    Futex {
        /// What it waits for.
        expected: crate::futex::Expected,
        /// Monotonic time to give up at, ns.
        deadline_ns: u64,
    },
}

/// Recomputes whether the task has something to look at (Linux `recalc_sigpending`). Call after any change of its blocked
/// or pending sets.
pub(crate) fn recalculate(task: &Task) {
    let pending = task.signals.pending_mask() | task.group.signals.pending_mask();
    if pending & !task.signals.blocked() != 0 || jobctl::of(task) & jobctl::PENDING_MASK != 0 {
        task.thread.work().fetch_or(work::SIGNAL, Ordering::SeqCst);
    }
}

/// Takes back the mark that a signal waits when none does any more, and says whether that was so: the mark of a shared
/// signal that another thread took, or of one that this thread took in the same call, must not end a wait that is never
/// restarted. (Linux computes the mark anew whenever it takes a signal, `recalc_sigpending`.)
fn forget_stale_mark(task: &Task) -> bool {
    task.thread.work().fetch_and(!work::SIGNAL, Ordering::SeqCst);
    if task.group.signals.exiting().is_some() {
        task.thread.work().fetch_or(work::SIGNAL, Ordering::SeqCst);
    }
    recalculate(task);
    !task.signal_pending()
}

/// Blocks exactly `mask` (without SIGKILL and SIGSTOP) in the current thread.
pub fn set_blocked(mask: SigSet) {
    let task = current();
    task.signals.blocked.store(mask & !UNBLOCKABLE, Ordering::SeqCst);
    // A signal that became blocked may have been meant for us by `send`: another thread must take it.
    let shared = task.group.signals.pending_mask() & mask;
    if shared != 0 {
        send::retarget(&task, shared);
    }
    recalculate(&task);
}

/// Blocks `mask` until the call that asked for it returns: ppoll, pselect, epoll_pwait, sigsuspend. The former mask comes
/// back when a handler has been set up, or through [`end_temporary_mask`].
pub fn set_temporary_mask(mask: SigSet) {
    let task = current();
    *task.signals.saved_mask.lock() = Some(task.signals.blocked());
    set_blocked(mask);
}

/// Ends [`set_temporary_mask`] for a call that was not interrupted. An interrupted one keeps the temporary mask until its
/// signal is delivered (Linux `restore_saved_sigmask_unless`).
pub fn end_temporary_mask(interrupted: bool) {
    if !interrupted {
        restore_saved_mask();
    }
}

pub(crate) fn restore_saved_mask() {
    let saved = current().signals.saved_mask.lock().take();
    if let Some(mask) = saved {
        set_blocked(mask);
    }
}

/// Runs `call` with `mask` (if given) blocked, as the p-variants of poll and select do.
pub fn with_temporary_mask<T>(mask: Option<SigSet>, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(mask) = mask else { return call() };
    set_temporary_mask(mask);
    let result = call();
    let interrupted =
        matches!(&result, Err(e) if *e == abi::Errno::EINTR || e.number() >= abi::Errno::ERESTARTSYS.number());
    end_temporary_mask(interrupted);
    result
}

/// Takes a pending signal of `set` for sigtimedwait or a signalfd, private ones first.
pub fn take_from_set(set: SigSet) -> Option<SigInfo> {
    let task = current();
    let mut info = SigInfo::default();
    dequeue(&task, !set, &mut info).map(|_| info)
}

/// Whose pending set a signal was taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TakenFrom {
    /// The thread's own.
    Thread,
    /// The one that the process shares.
    Process,
}

/// Takes the next signal that `blocked` lets through. `None` when there is none.
pub(crate) fn dequeue(task: &Task, blocked: SigSet, info: &mut SigInfo) -> Option<TakenFrom> {
    let taken = if dequeue_private(task, blocked, info) {
        Some(TakenFrom::Thread)
    } else {
        dequeue_shared(task, blocked, info).then_some(TakenFrom::Process)
    };
    if taken.is_some() && info.code() == s::SI_TIMER && info.is_marked() {
        info.set_mark(0);
        crate::time::posix::signal_taken(&task.group, info);
    }
    taken
}

fn dequeue_private(task: &Task, blocked: SigSet, info: &mut SigInfo) -> bool {
    if task.signals.pending_mask() & !blocked == 0 {
        return false;
    }
    let mut queue = task.signals.queue.lock();
    let taken = queue.take_into(blocked, info);
    task.signals.mask.store(queue.mask, Ordering::SeqCst);
    note_stop(task, taken, info);
    taken
}

fn dequeue_shared(task: &Task, blocked: SigSet, info: &mut SigInfo) -> bool {
    if task.group.signals.pending_mask() & !blocked == 0 {
        return false;
    }
    let mut state = task.group.signals.state.lock();
    let taken = state.pending.take_into(blocked, info);
    task.group.signals.mirror(&state);
    note_stop(task, taken, info);
    drop(state);
    if taken && info.signal() == s::SIGALRM {
        crate::time::interval::alarm_taken(&task.group);
    }
    taken
}

/// Called with the queue locked that the signal was taken from.
fn note_stop(task: &Task, taken: bool, info: &SigInfo) {
    if taken && bit(info.signal()) & STOP_SET != 0 {
        jobctl::set(task, jobctl::STOP_DEQUEUED);
    }
}

/// All pending signals that the current thread blocks (sigpending(2)).
pub fn pending_and_blocked() -> SigSet {
    let task = current();
    (task.signals.pending_mask() | task.group.signals.pending_mask()) & task.signals.blocked()
}

impl Task {
    /// Copies of at most `count` queued signals, from the one at `first` on: of the process's or of the thread's own.
    pub(crate) fn queued_signals(&self, shared: bool, first: usize, count: usize) -> Vec<SigInfo> {
        if shared {
            self.group.signals.state.lock().pending.copies(first, count)
        } else {
            self.signals.queue.lock().copies(first, count)
        }
    }
}

/// Drops pending signals of `set` in the whole process: a handler became "ignore" (sigaction(2)).
pub fn flush(task: &Task, set: SigSet) {
    let tree = crate::task::tree::lock();
    {
        let mut state = task.group.signals.state.lock();
        state.pending.remove(set);
        task.group.signals.mirror(&state);
    }
    let Some(id) = tree.find(&task.group) else { return };
    for thread in &tree.node(id).threads {
        send::remove_private(thread, set);
    }
}

/// Waits until a signal of `set` comes or the deadline passes (`EAGAIN`). Another signal's handler ends it with
/// `ERESTARTSYS`.
pub fn wait_for(set: SigSet, deadline_ns: u64) -> Result<SigInfo> {
    let task = current();
    let set = set & !UNBLOCKABLE;
    if let Some(info) = take_from_set(set) {
        return Ok(info);
    }
    if deadline_ns <= crate::time::monotonic_ns() {
        return Err(abi::Errno::EAGAIN);
    }
    task.signals.waiting_for.store(set, Ordering::SeqCst);
    let mut found = None;
    let outcome = loop {
        let outcome = crate::sync::sleep_while(crate::task::TaskState::Interruptible, deadline_ns, || {
            found = take_from_set(set);
            found.is_none()
        });
        let interrupted = found.is_none() && outcome == Err(abi::Errno::ERESTARTSYS);
        if !interrupted || !forget_stale_mark(&task) {
            break outcome;
        }
    };
    task.signals.waiting_for.store(0, Ordering::SeqCst);
    recalculate(&task);
    match (found, outcome) {
        (Some(info), _) => Ok(info),
        (None, Err(abi::Errno::ETIMEDOUT)) => take_from_set(set).ok_or(abi::Errno::EAGAIN),
        (None, _) => take_from_set(set).ok_or(abi::Errno::ERESTARTSYS),
    }
}
