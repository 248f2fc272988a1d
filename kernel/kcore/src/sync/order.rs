//! The lock order: one list, outermost first. A lock may be taken only while every held lock stands above it here.
//! Debug builds check it at every acquisition (`hal::sync`).
//!
//! Sleeping locks ([`super::Mutex`], [`super::RwLock`]) come before all of these: nobody sleeps while holding a spin lock.
//! Two locks of one level are never nested; where Linux would nest (two run queues), the code takes them one after the
//! other.

use hal::sync::Level;

macro_rules! levels {
    ($($(#[doc = $why:literal])* $name:ident = $number:literal;)*) => {
        $($(#[doc = $why])* pub const $name: Level = Level($number, stringify!($name));)*
    };
}

levels! {
    /// The dentry cache and a directory's entries: path walks look up tasks' roots before, never while, holding it.
    DENTRY = 10;
    /// The mount table.
    MOUNT = 15;
    /// Attributes and private data of an inode.
    INODE = 20;
    /// A pipe, socket or tty buffer: waiters are woken while it is held.
    CHANNEL = 30;
    /// The connections that wait at a listening socket, taken under its link.
    SOCKET_PENDING = 32;
    /// Which names sockets have.
    SOCKET_NAMES = 34;
    /// A descriptor table: closing drops files only after it is released.
    FILES = 40;
    /// Root, working directory and umask.
    FS_CONTEXT = 45;
    /// Futex buckets: user words are read under it with faults disabled, owners of PI futexes looked up.
    FUTEX = 56;
    /// Who waits for whose PI futex, under the bucket of the futex.
    PI_GRAPH = 58;
    /// The task tree: parents, children, thread groups, process groups, sessions (Linux `tasklist_lock`).
    TASKS = 60;
    /// Who traces whom, changed under the task tree (`task::ptrace`).
    PTRACE_LINKS = 62;
    /// The PID tables, looked up under the task tree.
    PIDS = 65;
    /// Signal handlers and pending signals of a thread group (Linux `siglock`).
    SIGHAND = 70;
    /// What a tracee stopped for, kept together with its state under its group's lock.
    PTRACE_STOP = 71;
    /// Pending signals of a thread.
    TASK_SIGNALS = 72;
    /// Queued signals per user, charged while a signal is sent.
    SIGNAL_ACCOUNTS = 74;
    /// Signal handlers, read while a signal is sent.
    SIG_ACTIONS = 82;
    /// Small per-task fields read by /proc: name, credentials, resource limits.
    TASK_FIELDS = 80;
    /// Pages of one file.
    PAGE_CACHE = 90;
    /// Page tables of one address space, below the sleeping mm lock.
    PAGE_TABLE = 100;
    /// What adjtimex(2) has set: the timers of a CPU are told while it is held.
    CLOCK_DISCIPLINE = 130;
    /// Which timerfds the setting of the clock cancels.
    TIMER_LIST = 135;
    /// A timer of timer_create(2) or timerfd_create(2): starts and stops while it is held.
    TIMER_STATE = 140;
    /// Timers on the CPU clocks of a process.
    CPU_TIMERS = 145;
    /// Timer queues of a CPU: callbacks run without it.
    TIMERS = 150;
    /// The window of a pressure trigger.
    PRESSURE_TRIGGER = 176;
    /// A wait queue: wakes tasks while held.
    WAIT_QUEUE = 180;
    /// What an epoll item waits for: read while its file's queue is woken.
    EPOLL_ITEM = 184;
    /// The ready list of an epoll set: filled while a file's queue is woken.
    EPOLL_READY = 186;
    /// The wait queue of an epoll set: woken while a file's queue is.
    EPOLL_WAIT = 188;
    /// What waits for a CPU's stopper, added by whoever holds no run queue.
    STOPPER = 190;
    /// A pool of workers: items are queued by whoever holds no run queue, and workers woken under it.
    WORK_POOL = 191;
    /// What a queue has on a pool.
    WORK_SHARE = 192;
    /// Where a work item is, and what a worker does.
    WORK_PLACE = 193;
    /// The place of an item in a list, under the list's lock.
    LIST_LINK = 196;
    /// The run queue of a CPU: the innermost lock of the scheduler.
    RUN_QUEUE = 200;
    /// Load averages.
    RUN_QUEUE_STATS = 205;
    /// Pressure totals and averages.
    PRESSURE = 206;
    /// The address-space reference of a task: read by the switch.
    TASK_MM = 210;
    /// The random generator of a CPU.
    RANDOM_CPU = 214;
    /// The base generator, which keys those of the CPUs.
    RANDOM = 216;
    /// The kernel log: anything above may log, except the allocators.
    LOG = 220;
    /// The console's output queue, fed by the log.
    CONSOLE = 225;
    /// The kernel heap (in hal).
    HEAP = 235;
    /// Per-CPU lists of frames, refilled from the allocator.
    FRAME_CACHE = 244;
    /// The frame allocator: the heap refills from it.
    FRAMES = 245;
}
