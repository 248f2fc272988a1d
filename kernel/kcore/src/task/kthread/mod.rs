//! Kernel threads: tasks without user memory that run a function of the kernel (Linux `kernel/kthread.c`). `kthreadd` (PID 2)
//! is their parent; they show up in `ps` in brackets and take no signals.
//!
//! A kernel thread ends by returning from its function: by itself, or because [`stop`] asked it to and waits for it. It can
//! be parked ([`mod@park`]), which keeps thread and identity but takes it out of the way. Both are requests: the thread looks at
//! [`should_stop`] and [`should_park`] where it holds nothing, and sleeps in [`TaskState::Idle`] when it has nothing to do,
//! so that it does not count to the load.
//!
//! Linux asks kthreadd to fork each thread, so that it inherits from nobody's process. Here a thread is put together from its
//! parts and inherits from nobody by construction: the caller makes it, and kthreadd is only told whose child it is.

pub mod park;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use abi::Errno;
use abi::signal::{SIG_IGN, Sigaction};
use hal::sync::SpinLock;
use hal::thread::{Start, Thread};
use spin::Once;

use super::{Creds, Parts, Pid, Task, TaskState, ThreadGroup, comm_from, current, exit, flags, limits, tree};
use crate::Result;
use crate::fs::FsContext;
use crate::fs::proc::text::Text;
use crate::ns::NsSet;
use crate::sched;
use crate::signal::SigHandlers;
use crate::sync::{Completion, WaitQueue, order};
use crate::workqueue::Worker;

pub use park::{park, park_me, should_park, unpark};

/// What a kernel thread runs; its result is that of [`stop`].
type Body = Box<dyn FnOnce() -> i32 + Send>;

/// About what a thread takes: its stack, and the task.
const THREAD_BYTES: usize = 20 << 10;

/// Bits of [`Kthread::asked`] (Linux KTHREAD_SHOULD_STOP, KTHREAD_SHOULD_PARK).
const SHOULD_STOP: u32 = 1;
const SHOULD_PARK: u32 = 2;

/// What a kernel thread has beside its task (Linux `struct kthread`).
pub struct Kthread {
    /// The whole name, of which `comm` keeps 15 bytes.
    name: String,
    body: SpinLock<Option<Body>>,
    asked: AtomicU32,
    /// It sleeps in [`park_me`].
    is_parked: AtomicBool,
    parked: WaitQueue,
    result: AtomicI32,
    exited: Arc<Completion>,
    /// Of the work queues, if it is one of their workers.
    worker: Once<Arc<Worker>>,
}

impl Kthread {
    fn new(name: &str, body: Body) -> Self {
        Self {
            name: name.into(),
            body: SpinLock::new(order::TASK_FIELDS, Some(body)),
            asked: AtomicU32::new(0),
            is_parked: AtomicBool::new(false),
            parked: WaitQueue::new(),
            result: AtomicI32::new(-i32::from(Errno::EINTR.number())),
            exited: Arc::new(Completion::new()),
            worker: Once::new(),
        }
    }

    /// The worker that it is.
    pub(crate) fn worker(&self) -> Option<&Arc<Worker>> {
        self.worker.get()
    }

    fn is_asked(&self, what: u32) -> bool {
        self.asked.load(Ordering::SeqCst) & what != 0
    }
}

/// Makes a kernel thread that will run `body` and starts it (Linux `kthread_run`).
pub fn spawn(name: &str, body: impl FnOnce() -> i32 + Send + 'static) -> Result<Arc<Task>> {
    let task = create(name, body)?;
    sched::start(&task);
    Ok(task)
}

/// As [`spawn`], on one CPU for ever (Linux `kthread_run_on_cpu`).
pub fn spawn_on(name: &str, cpu: usize, body: impl FnOnce() -> i32 + Send + 'static) -> Result<Arc<Task>> {
    let task = create(name, body)?;
    bind(&task, cpu);
    sched::start(&task);
    Ok(task)
}

/// Makes a kernel thread that does not run yet: [`sched::start`] starts it, [`stop`] ends it unrun (Linux `kthread_create`).
pub fn create(name: &str, body: impl FnOnce() -> i32 + Send + 'static) -> Result<Arc<Task>> {
    // The reserve is for those who free memory, not for more threads.
    crate::mm::frame::admit(THREAD_BYTES)?;
    let kthread = Kthread::new(name, Box::new(body));
    let exited = kthread.exited.clone();
    let task = create_task(name, Start::Kernel { entry: run_body, argument: 0 }, Some(kthread))?;
    // Completed on the way out (`exit::complete_vfork`), as Linux's kthread->exited is.
    *task.vfork_done.lock() = Some(exited);
    Ok(task)
}

/// The first steps of a kernel thread, and its last.
fn run_body(_: usize) {
    // Scoped: nothing on a stack that never runs again holds a reference.
    {
        let task = current();
        let kthread = task.kthread.as_ref().expect("made by `create`");
        let body = kthread.body.lock().take().expect("a thread starts once");
        // Stopped before it ever ran: Linux answers -EINTR.
        if !kthread.is_asked(SHOULD_STOP) {
            kthread.result.store(body(), Ordering::SeqCst);
        }
    }
    exit::exit_current(0);
}

/// Asks the thread to end, and waits until it has. Gives what its function returned, -EINTR if it never ran (Linux
/// `kthread_stop`). Panics for a task that [`create`] did not make.
pub fn stop(task: &Arc<Task>) -> i32 {
    let kthread = of(task);
    kthread.asked.fetch_or(SHOULD_STOP, Ordering::SeqCst);
    unpark(task);
    if !sched::wake(task, TaskState::NORMAL) && task.state() == TaskState::New {
        sched::start(task);
    }
    // An uninterruptible sleep ends only with its condition.
    let _ = kthread.exited.wait(TaskState::Uninterruptible);
    kthread.result.load(Ordering::SeqCst)
}

/// Whether the current kernel thread was asked to end. SeqCst with the state that the thread has set before: either it sees
/// the request here or the request's wake-up finds it asleep.
pub fn should_stop() -> bool {
    current().kthread.as_ref().is_some_and(|kthread| kthread.is_asked(SHOULD_STOP))
}

/// Ties a thread that does not run yet to one CPU; users may not move it any more (Linux `kthread_bind`).
pub fn bind(task: &Arc<Task>, cpu: usize) {
    debug_assert!(task.state() == TaskState::New, "a thread is bound before it runs");
    task.flags.fetch_or(flags::NO_SETAFFINITY, Ordering::Relaxed);
    sched::set_affinity(task, 1 << cpu).expect("no kernel thread has deadlines");
}

/// Writes the whole name, for `/proc/PID/comm` (Linux `get_kthread_comm`, `wq_worker_comm`). False for what is no kernel thread.
pub(crate) fn show_name(task: &Task, text: &mut Text) -> bool {
    let Some(kthread) = task.kthread.as_ref() else { return false };
    text.str(&kthread.name);
    if let Some((sign, queue)) = crate::workqueue::activity(task) {
        text.byte(sign as u8).str(queue.name());
    }
    true
}

/// Makes a thread that does not run yet a worker of the work queues (PF_WQ_WORKER).
pub(crate) fn become_worker(task: &Arc<Task>, worker: &Arc<Worker>) {
    of(task).worker.call_once(|| worker.clone());
    task.flags.fetch_or(flags::WQ_WORKER, Ordering::Relaxed);
}

fn of(task: &Task) -> &Kthread {
    task.kthread.as_ref().expect("a kernel thread")
}

/// The task of init (PID 1), of kthreadd, or of a helper, with its own first steps. Not started.
pub(crate) fn create_with(name: &str, start: Start) -> Result<Arc<Task>> {
    create_task(name, start, None)
}

fn create_task(name: &str, start: Start, kthread: Option<Kthread>) -> Result<Arc<Task>> {
    // What becomes a user program has a user's signals, blocked until it is one.
    let (handlers, blocked) = match &start {
        Start::User(_) => (super::clone::default_handlers(), u64::MAX),
        Start::Kernel { .. } => (ignore_signals(), 0),
    };
    let thread = Thread::new(start).map_err(|_| Errno::ENOMEM)?;
    let namespaces = crate::ns::initial();
    let pid = Pid::allocate(namespaces.pid())?;
    let kthreadd = crate::ns::initial_pid_namespace().find(2).and_then(|pid| pid.task());
    // Root and working directory are the first ones (Linux init_fs). Who becomes a program brings its own.
    let fs = (blocked == 0).then(FsContext::initial);
    let task = assemble(thread, pid.clone(), namespaces, name, (handlers, blocked), fs, kthread);
    if kthreadd.is_some() {
        // Nobody waits for it: it is gone when it ends.
        task.group.exit_signal.store(abi::signal::SIGCHLD.cast_signed(), Ordering::Relaxed);
    }
    limits::recharge_thread(u32::MAX, 0);
    let mut tree = tree::lock();
    task.group.live.store(1, Ordering::SeqCst);
    pid.attach_new(&task);
    let parent = kthreadd.and_then(|task| tree.find(&task.group)).unwrap_or(tree::NO_NODE);
    let none = crate::ns::no_pid();
    tree.add_process(&task, parent, none.clone(), none);
    drop(tree);
    Ok(task)
}

/// The idle task of this CPU: the boot flow, PID 0, in no table.
pub(crate) fn idle(cpu: usize) -> Arc<Task> {
    let namespaces = crate::ns::initial();
    let name = alloc::format!("swapper/{cpu}");
    let signals = (super::clone::default_handlers(), u64::MAX);
    let task = assemble(Thread::for_boot_flow(), crate::ns::no_pid(), namespaces, &name, signals, None, None);
    task.sched.allowed.store(1 << cpu, Ordering::Relaxed);
    task
}

/// Kernel threads ignore everything (Linux `ignore_signals`): /proc shows it, `signal::send` takes it for granted.
fn ignore_signals() -> Arc<SigHandlers> {
    let handlers = super::clone::default_handlers();
    for signal in 1..=crate::signal::COUNT {
        handlers.set(signal, Sigaction { handler: SIG_IGN, ..Sigaction::default() });
    }
    handlers
}

fn assemble(
    thread: Thread,
    pid: Arc<Pid>,
    namespaces: Arc<NsSet>,
    name: &str,
    (handlers, blocked): (Arc<SigHandlers>, u64),
    fs: Option<Arc<FsContext>>,
    kthread: Option<Kthread>,
) -> Arc<Task> {
    let group = ThreadGroup::new(pid.clone(), limits::initial(super::clone::MAX_THREADS.load(Ordering::Relaxed)), 0);
    Task::assemble(Parts {
        thread,
        pid,
        group,
        flags: flags::KTHREAD,
        handlers,
        mm: None,
        files: None,
        fs,
        creds: Arc::new(Creds::root()),
        namespaces,
        comm: comm_from(name.as_bytes()),
        sched: sched::Entity::new(0, u32::MAX),
        blocked,
        kthread,
    })
}
