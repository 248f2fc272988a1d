//! seccomp(2): a thread gives up system calls, for good.
//!
//! Filters form a list that only grows at its head; children and TSYNC share its tail. All filters of a list are asked, and
//! the answer with the highest precedence counts. A thread without seccomp pays one test of its work bits for all this.

pub mod bpf;
pub mod notify;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use abi::capability::CAP_SYS_ADMIN;
use abi::nr;
use abi::process::{self as p, SeccompData, SockFilter};
use abi::signal::{self as s, SigInfo, Sigaction};
use hal::sync::SpinLock;
use hal::thread::work;
use hal::trap::UserFrame;

use super::{Task, current, tree};
use crate::Result;
use crate::signal;
use crate::sync::order;
use bpf::Program;
use notify::{Listener, Outcome};

/// The part of a filter's answer that says what to do (SECCOMP_RET_ACTION_FULL).
const ACTION_MASK: u32 = 0xffff_0000;
/// The part that goes with it (SECCOMP_RET_DATA).
const DATA_MASK: u32 = 0xffff;
/// Largest error number (Linux `MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;
/// Instructions of all filters of a thread, four more for each filter (Linux `MAX_INSNS_PER_PATH`).
const MAX_INSTRUCTIONS: usize = 32768;
const FILTER_PENALTY: usize = 4;

/// The actions.
const ACTIONS: [u32; 8] = [
    p::SECCOMP_RET_KILL_PROCESS,
    p::SECCOMP_RET_KILL_THREAD,
    p::SECCOMP_RET_TRAP,
    p::SECCOMP_RET_ERRNO,
    p::SECCOMP_RET_USER_NOTIF,
    p::SECCOMP_RET_TRACE,
    p::SECCOMP_RET_LOG,
    p::SECCOMP_RET_ALLOW,
];

/// A filter and those that were there before it.
struct Filter {
    program: Program,
    /// Everything but SECCOMP_RET_ALLOW is logged (SECCOMP_FILTER_FLAG_LOG).
    log: bool,
    /// Who answers SECCOMP_RET_USER_NOTIF (SECCOMP_FILTER_FLAG_NEW_LISTENER).
    listener: Option<Arc<Listener>>,
    previous: Option<Arc<Filter>>,
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.desert();
        }
        // One by one: thousands of filters must not nest their drops on a kernel stack.
        let mut next = self.previous.take();
        while let Some(mut filter) = next.and_then(Arc::into_inner) {
            next = filter.previous.take();
        }
    }
}

/// What a thread has given up.
#[derive(Clone, Default)]
enum Mode {
    #[default]
    Disabled,
    Strict,
    Filter(Arc<Filter>),
}

/// The state of a thread (Linux `struct seccomp`).
pub struct Seccomp {
    mode: SpinLock<Mode>,
    /// A mode other than Disabled was entered, which nobody leaves.
    is_in_force: AtomicBool,
}

impl Default for Seccomp {
    fn default() -> Self {
        Self { mode: SpinLock::new(order::TASK_FIELDS, Mode::Disabled), is_in_force: AtomicBool::new(false) }
    }
}

impl Seccomp {
    /// Whether the thread is bound.
    pub(crate) fn is_in_force(&self) -> bool {
        self.is_in_force.load(Ordering::SeqCst)
    }

    /// The instructions of filter number `index`, the oldest being 0, for a tracer that makes a checkpoint (Linux
    /// `seccomp_get_filter`).
    pub(crate) fn filter_for_tracer(&self, index: u64) -> Result<Vec<SockFilter>> {
        may_look_at_filters()?;
        self.nth(index)?.program.source()
    }

    /// Whether that filter has its answers logged.
    pub(crate) fn is_logged(&self, index: u64) -> Result<bool> {
        Ok(self.nth(index)?.log)
    }

    /// Filter number `index`: `EINVAL` without filters, `ENOENT` beyond the youngest (Linux `get_nth_filter`).
    fn nth(&self, index: u64) -> Result<Arc<Filter>> {
        let Mode::Filter(head) = self.mode.lock().clone() else { return Err(Errno::EINVAL) };
        let count = filters(&head).count();
        let index = usize::try_from(index).ok().filter(|index| *index < count).ok_or(Errno::ENOENT)?;
        filters(&head).nth(count - 1 - index).cloned().ok_or(Errno::ENOENT)
    }

    /// SECCOMP_MODE_* and the number of filters, for prctl(2) and `/proc/PID/status`.
    pub fn mode_and_filters(&self) -> (u32, usize) {
        match self.mode.lock().clone() {
            Mode::Disabled => (p::SECCOMP_MODE_DISABLED, 0),
            Mode::Strict => (p::SECCOMP_MODE_STRICT, 0),
            Mode::Filter(head) => (p::SECCOMP_MODE_FILTER, filters(&head).count()),
        }
    }
}

/// Whether the current task may be shown filters: `EACCES` unless it is privileged and not bound itself.
pub(crate) fn may_look_at_filters() -> Result<()> {
    let me = current();
    if me.capable(CAP_SYS_ADMIN) && !me.seccomp.is_in_force() { Ok(()) } else { Err(Errno::EACCES) }
}

fn filters(head: &Arc<Filter>) -> impl Iterator<Item = &Arc<Filter>> {
    core::iter::successors(Some(head), |filter| filter.previous.as_ref())
}

/// Puts a mode in force. The old one is handed back to be dropped without locks.
fn enter(task: &Task, mode: Mode) -> Mode {
    let old = core::mem::replace(&mut *task.seccomp.mode.lock(), mode);
    task.seccomp.is_in_force.store(true, Ordering::SeqCst);
    task.thread.work().fetch_or(work::SYSCALL_TRACE, Ordering::SeqCst);
    old
}

/// A child has its parent's mode (seccomp(2)). Called with the tree locked, so that a TSYNC meets either both or the parent
/// before it is copied.
pub(super) fn inherit(parent: &Task, child: &Task) {
    let mode = parent.seccomp.mode.lock().clone();
    if !matches!(mode, Mode::Disabled) {
        drop(enter(child, mode));
    }
}

/// SECCOMP_SET_MODE_STRICT: only read, write, exit and rt_sigreturn are left. `EINVAL` with filters.
pub fn set_strict() -> Result<()> {
    let task = current();
    if matches!(*task.seccomp.mode.lock(), Mode::Filter(_)) {
        return Err(Errno::EINVAL);
    }
    drop(enter(&task, Mode::Strict));
    Ok(())
}

/// What a new filter may ask for beside itself.
#[derive(Clone, Default)]
pub struct FilterOptions {
    /// SECCOMP_FILTER_FLAG_TSYNC: all threads of the process get it.
    pub all_threads: bool,
    /// SECCOMP_FILTER_FLAG_LOG.
    pub log: bool,
    /// SECCOMP_FILTER_FLAG_NEW_LISTENER.
    pub listener: Option<Arc<Listener>>,
}

/// Why a filter is not there.
pub enum Refusal {
    /// As the man page says.
    Error(Errno),
    /// SECCOMP_FILTER_FLAG_TSYNC: this thread has filters that the caller does not have.
    Thread(i32),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Refusal::Error(error)
    }
}

/// Whether the current task may bind itself: it can gain nothing by execve, or it is privileged. `EACCES` otherwise.
pub fn may_filter() -> Result<()> {
    let task = current();
    let allowed = task.no_new_privs.load(Ordering::Relaxed) || task.capable(CAP_SYS_ADMIN);
    if allowed { Ok(()) } else { Err(Errno::EACCES) }
}

/// SECCOMP_SET_MODE_FILTER: adds a filter before the others.
pub fn add_filter(program: Program, options: FilterOptions) -> Result<(), Refusal> {
    let task = current();
    // Declared before the lock: dropped after it.
    let mut old_modes = Vec::new();
    let tree = tree::lock();
    let previous = match task.seccomp.mode.lock().clone() {
        Mode::Disabled => None,
        Mode::Strict => return Err(Errno::EINVAL.into()),
        Mode::Filter(head) => Some(head),
    };
    // A chain has one supervisor at most.
    if options.listener.is_some() && previous.iter().flat_map(filters).any(|filter| filter.listener.is_some()) {
        return Err(Errno::EBUSY.into());
    }
    let before: usize = previous.iter().flat_map(filters).map(|filter| filter.program.len() + FILTER_PENALTY).sum();
    if before + program.len() > MAX_INSTRUCTIONS {
        return Err(Errno::ENOMEM.into());
    }
    let threads = match tree.find(&task.group) {
        Some(id) if options.all_threads => &tree.node(id).threads[..],
        _ => &[],
    };
    if let Some(other) = threads.iter().find(|thread| !is_behind(thread, previous.as_ref())) {
        return Err(Refusal::Thread(other.pid().number_in(task.namespaces().pid())));
    }
    let head = Arc::new(Filter { program, log: options.log, listener: options.listener, previous });
    old_modes.push(enter(&task, Mode::Filter(head.clone())));
    for thread in threads.iter().filter(|thread| !core::ptr::eq(&***thread, &*task)) {
        // The others could not have asked for it themselves (Linux `seccomp_sync_threads`).
        if task.no_new_privs.load(Ordering::Relaxed) {
            thread.no_new_privs.store(true, Ordering::Relaxed);
        }
        old_modes.push(enter(thread, Mode::Filter(head.clone())));
    }
    drop(tree);
    drop(old_modes);
    Ok(())
}

/// Whether a thread's filters are all among the caller's, which begin at `head`.
fn is_behind(thread: &Task, head: Option<&Arc<Filter>>) -> bool {
    match &*thread.seccomp.mode.lock() {
        Mode::Disabled => true,
        Mode::Strict => false,
        Mode::Filter(own) => head.into_iter().flat_map(filters).any(|filter| Arc::ptr_eq(filter, own)),
    }
}

/// Whether an action exists (SECCOMP_GET_ACTION_AVAIL).
pub fn is_available(action: u32) -> bool {
    ACTIONS.contains(&action)
}

/// What becomes of a system call.
pub enum Verdict {
    /// It runs.
    Allow,
    /// It does not; this is what it returns.
    Return(i64),
    /// The tracer is asked, with this data.
    Ask(u32),
    /// It does not, and the registers are as they were: a signal waits.
    Skip,
    /// The thread ends with this signal as status.
    Exit(u32),
}

/// Asks the current thread's mode about the system call in `frame`. The caller does what the answer says, holding nothing.
#[cold]
pub fn judge(frame: &UserFrame) -> Verdict {
    let task = current();
    let number = frame.syscall as u32;
    let mode = task.seccomp.mode.lock().clone();
    let head = match mode {
        Mode::Disabled => return Verdict::Allow,
        _ if task.ptrace.suspends_seccomp() => return Verdict::Allow,
        Mode::Strict => return strict(number),
        Mode::Filter(head) => head,
    };
    let data = data_of(frame, number);
    let (mut answer, mut log, mut listener) = (p::SECCOMP_RET_ALLOW, false, None);
    for filter in filters(&head) {
        let own = filter.program.run(&data);
        // The precedence of an action is its number as a signed one.
        if (own & ACTION_MASK).cast_signed() < (answer & ACTION_MASK).cast_signed() {
            (answer, log, listener) = (own, filter.log, filter.listener.as_ref());
        }
    }
    if answer & ACTION_MASK == p::SECCOMP_RET_USER_NOTIF {
        if log {
            report(number, p::SECCOMP_RET_USER_NOTIF);
        }
        return ask_supervisor(&task, frame, number, listener);
    }
    carry_out(&task, frame, number, answer, log)
}

fn strict(number: u32) -> Verdict {
    const LEFT: [usize; 4] = [nr::READ, nr::WRITE, nr::EXIT, nr::RT_SIGRETURN];
    if LEFT.contains(&(number as usize)) {
        return Verdict::Allow;
    }
    report(number, p::SECCOMP_RET_KILL_THREAD);
    Verdict::Exit(s::SIGKILL)
}

/// `struct seccomp_data` in words: number, architecture, instruction pointer, arguments.
fn data_of(frame: &UserFrame, number: u32) -> [u32; 16] {
    let mut data = [number, p::AUDIT_ARCH_AARCH64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let values = core::iter::once(&frame.pc).chain(frame.x.iter().take(6));
    for (pair, value) in data[2..].chunks_exact_mut(2).zip(values) {
        pair[0] = *value as u32;
        pair[1] = (*value >> 32) as u32;
    }
    data
}

/// SECCOMP_RET_USER_NOTIF. Without a listener the call is not there.
fn ask_supervisor(task: &Task, frame: &UserFrame, number: u32, listener: Option<&Arc<Listener>>) -> Verdict {
    let Some(listener) = listener else { return Verdict::Return(-i64::from(Errno::ENOSYS.number())) };
    let data = SeccompData {
        nr: number.cast_signed(),
        arch: p::AUDIT_ARCH_AARCH64,
        instruction_pointer: frame.pc,
        args: core::array::from_fn(|index| frame.x[index]),
    };
    match listener.ask(task, data) {
        Outcome::Continue => Verdict::Allow,
        Outcome::Return(value) => Verdict::Return(value),
    }
}

fn carry_out(task: &Task, frame: &UserFrame, number: u32, answer: u32, log: bool) -> Verdict {
    let action = answer & ACTION_MASK;
    let data = answer & DATA_MASK;
    if log && action != p::SECCOMP_RET_ALLOW {
        report(number, action);
    }
    match action {
        p::SECCOMP_RET_ALLOW => Verdict::Allow,
        p::SECCOMP_RET_LOG => {
            report(number, action);
            Verdict::Allow
        }
        // Any number, also 0: it is the filter's to choose.
        p::SECCOMP_RET_ERRNO => Verdict::Return(-i64::from(data.min(MAX_ERRNO))),
        p::SECCOMP_RET_TRACE => Verdict::Ask(data),
        p::SECCOMP_RET_TRAP => {
            signal::force_fault(&siginfo(frame, number, data));
            Verdict::Skip
        }
        p::SECCOMP_RET_KILL_THREAD if task.group.live.load(Ordering::SeqCst) > 1 => {
            report(number, action);
            Verdict::Exit(s::SIGSYS)
        }
        // What is not known kills, as what is worst.
        _ => {
            report(number, action);
            // Not even a tracer may decide otherwise.
            task.handlers().set(s::SIGSYS, Sigaction { flags: s::SA_IMMUTABLE, ..Sigaction::default() });
            signal::force_fault(&siginfo(frame, number, data));
            Verdict::Skip
        }
    }
}

fn siginfo(frame: &UserFrame, number: u32, data: u32) -> SigInfo {
    SigInfo::seccomp(data.cast_signed(), frame.pc, number.cast_signed(), p::AUDIT_ARCH_AARCH64)
}

/// One line in the log, as the audit system writes it; at most ten in five seconds (Linux `printk_ratelimit`).
fn report(number: u32, action: u32) {
    const INTERVAL_NS: u64 = 5_000_000_000;
    const BURST: u64 = 10;
    hal::global! {
        static WINDOW: AtomicU64 = AtomicU64::new(0);
        static LINES: AtomicU64 = AtomicU64::new(0);
    }
    let window = crate::time::monotonic_ns() / INTERVAL_NS;
    if WINDOW.swap(window, Ordering::Relaxed) != window {
        LINES.store(0, Ordering::Relaxed);
    }
    if LINES.fetch_add(1, Ordering::Relaxed) >= BURST {
        return;
    }
    let task = current();
    let (uid, comm) = (task.creds().uid, task.comm());
    log::info!("audit: type=1326 uid={uid} pid={} comm={comm:?} sig=0 syscall={number} code={action:#x}", task.tgid());
}
