//! The process: [`Task`] is Linux's `task_struct` (one thread), [`ThreadGroup`] its `signal_struct` (what the threads of
//! a process share). One file per verb: clone, exec, exit, wait; the structure is here, in one place.
//!
//! Who guards what: atomics are written by the task itself or by their one named writer; each `SpinLock` field guards
//! itself; family relations are in [`tree`] under one lock; scheduler fields belong to the run-queue lock.

pub mod access;
pub mod clone;
pub mod coredump;
pub mod creds;
pub mod exec;
pub mod exit;
pub mod group;
pub mod helper;
pub mod io_context;
pub mod kernel_stack;
pub mod kthread;
pub mod limits;
mod numbers;
pub mod own;
pub mod pid;
pub mod privileges;
pub mod ptrace;
pub mod rseq;
pub mod seccomp;
pub mod state;
pub mod tree;
pub mod unshare;
pub mod usage;
pub mod wait;
pub mod yama;
mod zap;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use abi::resource::Rlimit;
use hal::owner::OwnerCell;
use hal::sync::SpinLock;
use hal::thread::{Current, Thread, work};

use crate::Result;
use crate::fs::{Files, FsContext};
use crate::mm::Mm;
use crate::ns::NsSet;
use crate::sched;
use crate::signal::{GroupSignals, RestartBlock, SigHandlers, TaskSignals};
use crate::sync::{Completion, WaitQueue, order};
use crate::time::interval::RealTimeWatch;
use crate::tty::Tty;

pub use access::{AccessMode, mm_access, ptrace_may_access};
pub use creds::Creds;
pub use own::OwnFields;
pub use pid::{Pid, PidNamespace};
pub use state::TaskState;
pub use usage::{ChildUsage, CpuTimes};

/// Flag bits of a task, Linux's PF_* (the ones that `/proc/PID/stat` shows keep their values).
pub mod flags {
    /// PF_EXITING: on its way out.
    pub const EXITING: u32 = 0x4;
    /// PF_WQ_WORKER: a worker of the work queues.
    pub const WQ_WORKER: u32 = 0x20;
    /// PF_MCE_PROCESS: has a policy of its own for memory errors (PR_MCE_KILL).
    pub const MCE_PROCESS: u32 = 0x80;
    /// PF_MCE_EARLY: wants to hear of them before it touches the page.
    pub const MCE_EARLY: u32 = 0x800_0000;
    /// PR_IO_FLUSHER (PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE): serves the input and output of others (PR_SET_IO_FLUSHER).
    pub const IO_FLUSHER: u32 = 0x18_0000;
    /// PF_FORKNOEXEC: forked but has not called exec.
    pub const FORKNOEXEC: u32 = 0x40;
    /// PF_SUPERPRIV: used super-user privileges.
    pub const SUPERPRIV: u32 = 0x100;
    /// PF_SIGNALED: killed by a signal.
    pub const SIGNALED: u32 = 0x400;
    /// PF_NPROC_EXCEEDED: a setuid took the user over RLIMIT_NPROC.
    pub const NPROC_EXCEEDED: u32 = 0x1000;
    /// PF_KTHREAD: a kernel thread.
    pub const KTHREAD: u32 = 0x20_0000;
    /// PF_RANDOMIZE: address-space randomisation is on.
    pub const RANDOMIZE: u32 = 0x40_0000;
    /// PF_NO_SETAFFINITY: user space may not change the allowed CPUs.
    pub const NO_SETAFFINITY: u32 = 0x400_0000;
}

/// A thread: the unit of scheduling.
pub struct Task {
    /// Kernel stack, saved registers, user registers.
    pub thread: Thread,
    /// TID, numbers in every namespace. Replaced only by exec in a non-leader.
    pid: SpinLock<Arc<Pid>>,
    tid: AtomicI32,
    /// What it shares with the other threads of its process.
    pub group: Arc<ThreadGroup>,
    state: AtomicU32,
    /// PF_* bits ([`flags`]).
    pub flags: AtomicU32,
    /// When it was created, monotonic and boot clock, ns.
    pub start_ns: u64,

    /// Scheduler entity: guarded by the run queue of its CPU.
    pub sched: sched::Entity,

    /// Blocked and pending signals of this thread.
    pub signals: TaskSignals,
    /// Handlers, shared by CLONE_SIGHAND.
    handlers: OwnerCell<Arc<SigHandlers>>,
    /// How to go on with an interrupted call (restart_syscall).
    pub restart: SpinLock<RestartBlock>,

    // The switch reads it under the run-queue lock, which interrupts take: no interrupt may come while it is held.
    mm: OwnerCell<Option<Arc<Mm>>>,
    // Replaced by the task itself alone, which reads them without the lock ([`OwnFields`]).
    files: OwnerCell<Option<Arc<Files>>>,
    fs: OwnerCell<Option<Arc<FsContext>>>,
    creds: OwnerCell<Arc<Creds>>,
    namespaces: OwnerCell<Arc<NsSet>>,
    comm: SpinLock<[u8; 16]>,

    /// Where it waits for a futex, and its robust list.
    pub(crate) futex: crate::futex::PerTask,
    /// rseq(2).
    pub(crate) rseq: rseq::Rseq,
    /// Where to write 0 and wake a futex when the thread ends (set_tid_address, CLONE_CHILD_CLEARTID).
    pub clear_child_tid: AtomicU64,
    /// Where the child writes its TID when it first runs (CLONE_CHILD_SETTID).
    pub set_child_tid: AtomicU64,
    /// A vfork parent that waits for this child to exec or exit.
    pub(crate) vfork_done: SpinLock<Option<Arc<Completion>>>,
    /// Wait status of this thread alone; the process has its own.
    pub exit_code: AtomicI32,
    /// CPU time and counters.
    pub times: CpuTimes,
    /// RLIMIT_RTTIME.
    pub(crate) real_time_watch: RealTimeWatch,
    /// PR_SET_PDEATHSIG.
    pub parent_death_signal: AtomicU32,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: AtomicBool,
    /// ptrace(2).
    pub ptrace: ptrace::Ptrace,
    /// seccomp(2).
    pub seccomp: seccomp::Seccomp,
    /// personality(2).
    pub personality: AtomicU32,
    /// What it sleeps to a time with.
    pub(crate) sleep_timer: crate::time::SleepTimer,
    /// What a kernel thread has besides.
    pub kthread: Option<kthread::Kthread>,
    /// I/O priority.
    pub io_context: io_context::IoContext,
    /// Timer slack, ns (PR_SET_TIMERSLACK).
    pub timer_slack_ns: AtomicU64,
    /// What PR_SET_TIMERSLACK with 0 goes back to: the creator's slack when this thread was made.
    pub default_timer_slack_ns: AtomicU64,
}

/// What the threads of one process share.
pub struct ThreadGroup {
    /// PID of the process (TGID).
    pub pid: Arc<Pid>,
    /// Its node in the family tree.
    pub(crate) node: AtomicU32,
    /// Its parent's number in its own PID namespace, 0 if the parent is not seen there. Written with the family tree.
    pub(crate) parent: AtomicI32,
    /// Shared pending signals, stop and exit state.
    pub signals: GroupSignals,
    /// Threads that have not begun to exit.
    pub live: AtomicU32,
    /// Sent to the parent at the end (0: none).
    pub exit_signal: AtomicI32,
    /// Parents wait here for their children.
    pub child_changed: WaitQueue,
    /// Resource limits, shared by the threads (getrlimit(2)).
    pub limits: SpinLock<[Rlimit; 16]>,
    /// Times of threads that are gone.
    pub dead_threads: CpuTimes,
    /// Largest resident set of an address space that the process gave up, KiB.
    pub max_rss_kib: AtomicU64,
    /// Times of children that were waited for.
    pub children: SpinLock<ChildUsage>,
    /// The controlling terminal (Linux `signal->tty`).
    pub tty: SpinLock<Option<Arc<Tty>>>,
    /// The group that was in the foreground when the terminal was taken from this session leader by a hang-up
    /// (Linux `signal->tty_old_pgrp`).
    pub tty_old_pgrp: SpinLock<Option<Arc<Pid>>>,
    /// Interval and POSIX timers.
    pub timers: crate::time::ProcessTimers,
    /// PR_SET_CHILD_SUBREAPER.
    pub is_subreaper: AtomicBool,
    /// Has called exec since it was forked: setpgid by the parent is EACCES then.
    pub did_exec: AtomicBool,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: AtomicI32,
    /// PR_SET_DUMPABLE.
    pub dumpable: AtomicU32,
    /// PR_SET_PTRACER.
    pub(crate) ptracer: SpinLock<yama::Allowed>,
}

/// The task that runs this code.
#[inline(always)]
pub fn current() -> Current<Task> {
    hal::thread::current::<Task>()
}

/// Everything that a new task does not invent itself.
pub(crate) struct Parts {
    pub thread: Thread,
    pub pid: Arc<Pid>,
    pub group: Arc<ThreadGroup>,
    pub flags: u32,
    pub handlers: Arc<SigHandlers>,
    pub mm: Option<Arc<Mm>>,
    pub files: Option<Arc<Files>>,
    pub fs: Option<Arc<FsContext>>,
    pub creds: Arc<Creds>,
    pub namespaces: Arc<NsSet>,
    pub comm: [u8; 16],
    pub sched: sched::Entity,
    pub blocked: u64,
    pub kthread: Option<kthread::Kthread>,
}

impl Task {
    /// Puts a task together. It is in no table and on no queue.
    pub(crate) fn assemble(parts: Parts) -> Arc<Task> {
        let tid = parts.pid.global();
        let task = Arc::new(Task {
            thread: parts.thread,
            tid: AtomicI32::new(tid),
            pid: SpinLock::new(order::TASK_FIELDS, parts.pid),
            group: parts.group,
            state: AtomicU32::new(TaskState::New as u32),
            flags: AtomicU32::new(parts.flags),
            start_ns: crate::time::monotonic_ns(),
            sched: parts.sched,
            signals: TaskSignals::new(parts.blocked),
            handlers: OwnerCell::new(order::TASK_FIELDS, parts.handlers),
            restart: SpinLock::new(order::TASK_FIELDS, RestartBlock::None),
            mm: OwnerCell::new(order::TASK_MM, parts.mm),
            files: OwnerCell::new(order::TASK_FIELDS, parts.files),
            fs: OwnerCell::new(order::TASK_FIELDS, parts.fs),
            creds: OwnerCell::new(order::TASK_FIELDS, parts.creds),
            namespaces: OwnerCell::new(order::TASK_FIELDS, parts.namespaces),
            comm: SpinLock::new(order::TASK_FIELDS, parts.comm),
            futex: crate::futex::PerTask::default(),
            rseq: rseq::Rseq::default(),
            clear_child_tid: AtomicU64::new(0),
            set_child_tid: AtomicU64::new(0),
            vfork_done: SpinLock::new(order::TASK_FIELDS, None),
            exit_code: AtomicI32::new(0),
            times: CpuTimes::default(),
            real_time_watch: RealTimeWatch::default(),
            parent_death_signal: AtomicU32::new(0),
            no_new_privs: AtomicBool::new(false),
            ptrace: ptrace::Ptrace::default(),
            seccomp: seccomp::Seccomp::default(),
            personality: AtomicU32::new(0),
            sleep_timer: crate::time::SleepTimer::default(),
            kthread: parts.kthread,
            io_context: io_context::IoContext::new(),
            timer_slack_ns: AtomicU64::new(50_000),
            default_timer_slack_ns: AtomicU64::new(50_000),
        });
        task.thread.bind(&task);
        task
    }

    /// The thread's number in the initial namespace.
    #[inline]
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// The thread's number in its own PID namespace.
    #[inline]
    pub fn own_tid(&self) -> i32 {
        self.pid.lock().own_number()
    }

    /// The process's number in the initial namespace.
    #[inline]
    pub fn tgid(&self) -> i32 {
        self.group.pid.global()
    }

    /// The thread's identity.
    pub fn pid(&self) -> Arc<Pid> {
        self.pid.lock().clone()
    }

    /// Takes over another identity (exec in a thread that is not the leader). Returns its own former one.
    pub(crate) fn replace_pid(&self, pid: Arc<Pid>) -> Arc<Pid> {
        self.tid.store(pid.global(), Ordering::Relaxed);
        core::mem::replace(&mut *self.pid.lock(), pid)
    }

    /// Whether this thread's TID is its process's PID.
    pub fn is_leader(&self) -> bool {
        self.tid() == self.tgid()
    }

    /// The state.
    #[inline]
    pub fn state(&self) -> TaskState {
        TaskState::from_number(self.state.load(Ordering::SeqCst))
    }

    #[inline]
    pub(crate) fn state_number(&self) -> u32 {
        self.state.load(Ordering::SeqCst)
    }

    /// Names the state that the next `schedule` sleeps in, or takes that back. Only for the current task, or under its
    /// run-queue lock. SeqCst: the store is ordered before the caller's look at its condition (Linux `set_current_state`).
    #[inline]
    pub fn set_state(&self, state: TaskState) {
        debug_assert!(self.state().may_become(state), "{}: {:?} cannot become {state:?}", self.tid(), self.state());
        self.state.store(state as u32, Ordering::SeqCst);
    }

    /// Whether a PF_* bit is set.
    pub fn has_flag(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// Whether it is a kernel thread.
    pub fn is_kernel_thread(&self) -> bool {
        self.has_flag(flags::KTHREAD)
    }

    /// The address space; `None` for kernel threads and tasks past exit_mm.
    #[inline]
    pub fn mm(&self) -> Option<Arc<Mm>> {
        self.mm.lock().clone()
    }

    /// Calls `f` with the address space, without a reference count. `f` runs with the field locked: it must not sleep.
    pub(crate) fn with_mm<R>(&self, f: impl FnOnce(Option<&Arc<Mm>>) -> R) -> R {
        f(self.mm.lock().as_ref())
    }

    /// The descriptor table. A task past exit_files has none; it then gets an empty table.
    #[inline]
    pub fn files(&self) -> Arc<Files> {
        match self.files.lock().as_ref() {
            Some(files) => files.clone(),
            None => Files::new(),
        }
    }

    /// The descriptor table unless the task has given it up, for looks from outside (`/proc/PID/fd`).
    pub fn files_if_any(&self) -> Option<Arc<Files>> {
        self.files.lock().clone()
    }

    /// Root, working directory, umask. A task past exit_fs gets the initial ones.
    #[inline]
    pub fn fs(&self) -> Arc<FsContext> {
        match self.fs.lock().as_ref() {
            Some(fs) => fs.clone(),
            None => FsContext::initial(),
        }
    }

    /// The same unless given up, for looks from outside.
    pub fn fs_if_any(&self) -> Option<Arc<FsContext>> {
        self.fs.lock().clone()
    }

    /// The credentials as they are now.
    #[inline]
    pub fn creds(&self) -> Arc<Creds> {
        self.creds.lock().clone()
    }

    /// Whether the task has `capability` (CAP_*) effective.
    pub fn capable(&self, capability: u32) -> bool {
        self.creds.lock().capable(capability)
    }

    /// The real user id, without a reference to the credentials.
    pub(crate) fn real_uid(&self) -> u32 {
        self.creds.lock().uid
    }

    /// The namespaces.
    pub fn namespaces(&self) -> Arc<NsSet> {
        self.namespaces.lock().clone()
    }

    /// Calls `f` with the signal handlers, without a reference count. `f` runs with the field locked: it must not sleep.
    #[inline]
    pub(crate) fn with_handlers<R>(&self, f: impl FnOnce(&SigHandlers) -> R) -> R {
        f(&self.handlers.lock())
    }

    /// The signal handlers.
    #[inline]
    pub fn handlers(&self) -> Arc<SigHandlers> {
        self.handlers.lock().clone()
    }

    /// The command name, at most 15 bytes, as bytes (it need not be UTF-8).
    pub fn comm_bytes(&self) -> [u8; 16] {
        *self.comm.lock()
    }

    /// The command name for messages.
    pub fn comm(&self) -> String {
        let bytes = self.comm_bytes();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(15);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Sets the command name, cut to 15 bytes (prctl(2) PR_SET_NAME).
    pub fn set_comm(&self, name: &[u8]) {
        *self.comm.lock() = comm_from(name);
    }

    /// A soft limit of the process (RLIMIT_*). Panics for a resource that does not exist.
    pub fn rlimit(&self, resource: u32) -> u64 {
        self.group.limits.lock()[resource as usize].rlim_cur
    }

    /// Whether a signal ends a sleep in `state` (Linux `signal_pending_state`).
    #[inline]
    pub fn signal_ends_sleep(&self, state: TaskState) -> bool {
        match state {
            TaskState::Interruptible => self.signal_pending(),
            // A stop that was decided on before the kill must not outlast it (TASK_WAKEKILL).
            TaskState::Killable | TaskState::Stopped | TaskState::Traced => {
                self.signal_pending() && self.fatal_signal_pending()
            }
            _ => false,
        }
    }

    /// Whether a signal waits to be taken (Linux `signal_pending`).
    #[inline]
    pub fn signal_pending(&self) -> bool {
        self.thread.work().load(Ordering::SeqCst) & work::SIGNAL != 0
    }

    /// Whether SIGKILL waits to be taken.
    pub fn fatal_signal_pending(&self) -> bool {
        self.signals.pending_mask() & crate::signal::bit(abi::signal::SIGKILL) != 0
    }

    /// Asks the task to reschedule at the next chance.
    #[inline]
    pub(crate) fn set_need_resched(&self) {
        self.thread.work().fetch_or(work::RESCHED, Ordering::SeqCst);
    }
}

/// `name` cut to 15 bytes and a NUL.
pub(crate) fn comm_from(name: &[u8]) -> [u8; 16] {
    let mut comm = [0; 16];
    let length = name.iter().position(|b| *b == 0).unwrap_or(name.len()).min(15);
    comm[..length].copy_from_slice(&name[..length]);
    comm
}

impl ThreadGroup {
    /// A process without threads.
    pub(crate) fn new(pid: Arc<Pid>, limits: [Rlimit; 16], exit_signal: i32) -> Arc<Self> {
        Arc::new(Self {
            pid,
            node: AtomicU32::new(tree::NO_NODE),
            parent: AtomicI32::new(0),
            signals: GroupSignals::new(),
            live: AtomicU32::new(0),
            exit_signal: AtomicI32::new(exit_signal),
            child_changed: WaitQueue::new(),
            limits: SpinLock::new(order::TASK_FIELDS, limits),
            dead_threads: CpuTimes::default(),
            max_rss_kib: AtomicU64::new(0),
            children: SpinLock::new(order::TASK_FIELDS, ChildUsage::default()),
            tty: SpinLock::new(order::TASK_FIELDS, None),
            tty_old_pgrp: SpinLock::new(order::TASK_FIELDS, None),
            timers: crate::time::ProcessTimers::new(),
            is_subreaper: AtomicBool::new(false),
            did_exec: AtomicBool::new(false),
            oom_score_adj: AtomicI32::new(0),
            dumpable: AtomicU32::new(1),
            ptracer: SpinLock::new(order::TASK_FIELDS, yama::Allowed::default()),
        })
    }

    /// Remembers the largest resident set of a thread's address space, KiB.
    pub(crate) fn note_max_rss(&self, rss_kib: u64) {
        self.max_rss_kib.fetch_max(rss_kib, Ordering::Relaxed);
    }

    /// The thread whose TID is the PID, while it is not reaped.
    pub fn leader(&self) -> Option<Arc<Task>> {
        self.pid.task()
    }
}

/// Looks a process or thread up by its number in the caller's PID namespace.
pub fn find(number: i32) -> Option<Arc<Task>> {
    current().namespaces().pid().find(number)?.task()
}

/// Calls `f` with the root and working directory of every task that has them.
pub(crate) fn each_fs(mut f: impl FnMut(&FsContext)) {
    let tree = tree::lock();
    let threads: Vec<Arc<Task>> = tree.processes().flat_map(|id| tree.node(id).threads.clone()).collect();
    drop(tree);
    threads.iter().filter_map(|task| task.fs_if_any()).for_each(|fs| f(&fs));
}

/// The same by its number in the initial namespace.
pub fn find_global(number: i32) -> Option<Arc<Task>> {
    crate::ns::initial_pid_namespace().find(number)?.task()
}

/// A thread with this TID, `ESRCH` if there is none.
pub fn find_or_esrch(number: i32) -> Result<Arc<Task>> {
    find(number).ok_or(abi::Errno::ESRCH)
}
