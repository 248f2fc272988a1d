//! Running a function on a certain CPU before anything else there (Linux `kernel/stop_machine.c`).
//!
//! Each CPU has a stopper, the kernel thread `migration/N`, which the scheduler prefers to all other tasks. What it runs has
//! the CPU to itself: the task that was there is off it with its registers saved, which is how one moves a task that runs
//! (active balancing, affinity), and how the watchdog knows that a CPU still switches. The functions run with preemption off
//! and must not sleep.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use abi::Errno;
use hal::cpu::{self, PerCpu};
use hal::sync::{IrqLock, SpinLock};
use spin::Once;

use crate::Result;
use crate::sched;
use crate::sync::list::{Link, Linked, List};
use crate::sync::{Completion, order, sleep_while};
use crate::task::{Task, TaskState, current, kthread};

/// A function for a stopper, made once and queued as often as one likes (Linux `cpu_stop_work`).
pub struct StopWork {
    call: Box<dyn Fn() + Send + Sync>,
    is_queued: AtomicBool,
    link: Link<StopWork>,
}

impl StopWork {
    /// Work that calls `call`.
    pub fn new(call: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { call: Box::new(call), is_queued: AtomicBool::new(false), link: Link::new() })
    }
}

impl Linked for StopWork {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

/// One CPU's stopper.
struct Stopper {
    task: Once<Arc<Task>>,
    works: IrqLock<List<StopWork>>,
}

impl Stopper {
    const fn new() -> Self {
        Self { task: Once::new(), works: IrqLock::new(order::STOPPER, List::new()) }
    }
}

hal::global! {
    static STOPPERS: PerCpu<Stopper> = PerCpu::new([const { Stopper::new() }; hal::MAX_CPUS]);
}

/// Runs `call` on `cpu` with everything else there stopped, waits for it and gives its result. `ENOENT`: there is no such
/// CPU. It may sleep, so it is not for interrupt context. The caller may be the one that is moved away meanwhile.
pub fn stop_one_cpu(cpu: usize, call: impl FnOnce() -> i32 + Send + 'static) -> Result<i32> {
    struct Call<F> {
        body: SpinLock<Option<F>>,
        result: AtomicI32,
        done: Completion,
    }
    let body = SpinLock::new(order::TASK_FIELDS, Some(call));
    let call = Arc::new(Call { body, result: AtomicI32::new(0), done: Completion::new() });
    let runner = call.clone();
    let work = StopWork::new(move || {
        let body = runner.body.lock().take();
        if let Some(body) = body {
            runner.result.store(body(), Ordering::SeqCst);
        }
        runner.done.complete();
    });
    if !stop_one_cpu_nowait(cpu, &work) {
        return Err(Errno::ENOENT);
    }
    call.done.wait(TaskState::Uninterruptible)?;
    Ok(call.result.load(Ordering::SeqCst))
}

/// Lets `cpu` run `work` soon. False when the CPU has no stopper or the work waits already. It allocates nothing and may be
/// called from interrupt context, with no run queue locked.
pub fn stop_one_cpu_nowait(cpu: usize, work: &Arc<StopWork>) -> bool {
    if cpu >= hal::MAX_CPUS {
        return false;
    }
    let stopper = STOPPERS.of(cpu);
    let Some(task) = stopper.task.get() else { return false };
    if work.is_queued.swap(true, Ordering::SeqCst) {
        return false;
    }
    stopper.works.lock().push_back(work.clone());
    sched::wake(task, TaskState::NORMAL);
    true
}

/// Starts the stoppers of all CPUs. Called once, by kthreadd.
pub fn init() {
    for cpu in (0..hal::MAX_CPUS).filter(|cpu| cpu::online_mask() >> cpu & 1 != 0) {
        match kthread::create(&alloc::format!("migration/{cpu}"), run) {
            Ok(task) => {
                kthread::bind(&task, cpu);
                sched::become_stopper(&task);
                STOPPERS.of(cpu).task.call_once(|| task.clone());
                sched::start(&task);
            }
            Err(error) => log::error!("migration/{cpu}: {error}"),
        }
    }
}

/// What a stopper does.
fn run() -> i32 {
    let stopper = STOPPERS.of(current().sched.cpu());
    loop {
        // Interruptible as Linux's, which no signal reaches either.
        let _ = sleep_while(TaskState::Interruptible, u64::MAX, || stopper.works.lock().is_empty());
        let work = stopper.works.lock().pop_front();
        let Some(work) = work else { continue };
        // Before the call, which may queue it again.
        work.is_queued.store(false, Ordering::SeqCst);
        cpu::preempt_disable();
        (work.call)();
        cpu::preempt_enable();
    }
}
