//! Pools of workers, and how many of them run: Linux's concurrency management.
//!
//! A pool bound to a CPU lets one worker run at a time. The scheduler calls [`worker_sleeping`] when a worker that runs an item
//! goes to sleep and [`worker_running`] when it goes on; the pool counts, and wakes an idle worker when nobody runs and
//! items wait. A worker that starts to work makes sure that another one is idle, and makes one if not (the manager); a
//! worker that finds more idle than the pool needs for five minutes ends. Workers of unbound pools are not counted: each
//! item that waits wakes one.
//!
//! Everything here is guarded by the pool's lock, which masks interrupts; the queue's share and the item's place are taken
//! under it.

use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::Errno;
use hal::cpu;
use hal::sync::{IrqGuard, IrqLock, SpinLock};
use spin::Once;

use super::{Waits, WorkItem, WorkQueue, current_worker, flags};
use crate::Result;
use crate::sync::list::List;
use crate::sync::order;
use crate::task::{Task, TaskState, current, kthread};
use crate::{sched, time};

/// Two for each CPU, and two that are bound to none.
pub(super) const COUNT: usize = 2 * hal::MAX_CPUS + 2;
const UNBOUND: usize = 2 * hal::MAX_CPUS;
/// How long a worker that is not needed stays (Linux IDLE_WORKER_TIMEOUT).
const IDLE_TIMEOUT_NS: u64 = 300_000_000_000;
/// Idle workers that always stay, and how many busy ones each further one needs (Linux MAX_IDLE_WORKERS_RATIO).
const IDLE_KEPT: usize = 2;
const BUSY_PER_IDLE: usize = 4;
/// How long a manager without memory waits before it tries again (Linux MAYDAY_INTERVAL).
const RETRY_NS: u64 = 100_000_000;

/// Why a worker is not counted as running; no bit: it is.
mod not_running {
    /// Between items (Linux WORKER_PREP).
    pub const PREPARING: u32 = 1;
    /// Its item computes for long.
    pub const CPU_INTENSIVE: u32 = 2;
    /// Of an unbound pool.
    pub const UNBOUND: u32 = 4;
    /// A rescuer, of no pool.
    pub const RESCUER: u32 = 8;
}

/// Workers and what waits for them.
pub struct Pool {
    /// Which of [`POOLS`] it is.
    index: Once<usize>,
    state: IrqLock<PoolState>,
}

/// What a pool's lock guards.
pub struct PoolState {
    /// Items to run, in order.
    pub(super) pending: List<dyn WorkItem>,
    /// Who has nothing to do; the last one was busy last and is taken first.
    idle: Vec<Arc<Worker>>,
    /// Bits of the numbers that workers have.
    numbers: Vec<u64>,
    workers: usize,
    /// Workers that run an item and do not sleep. Always 0 in unbound pools.
    running: usize,
    is_managed: bool,
}

hal::global! {
    static POOLS: [Pool; COUNT] = [const { Pool::new() }; COUNT];
}

/// The pool for items of a queue with these flags that are queued on `cpu`.
pub(super) fn of(queue_flags: u32, cpu: usize) -> &'static Pool {
    let high = usize::from(queue_flags & flags::HIGHPRI != 0);
    at(if queue_flags & flags::UNBOUND != 0 { UNBOUND + high } else { 2 * cpu + high })
}

pub(super) fn at(index: usize) -> &'static Pool {
    let pools: &'static [Pool; COUNT] = &POOLS;
    pools[index].index.call_once(|| index);
    &pools[index]
}

/// A thread that runs items.
pub struct Worker {
    pool: Option<&'static Pool>,
    number: usize,
    task: Once<Weak<Task>>,
    /// [`not_running`]. Written by the worker itself under the pool's lock.
    flags: AtomicU32,
    /// It told the pool that it sleeps. Touched by itself alone.
    sleeping: AtomicBool,
    /// The queue whose item it ran last, and whether it still does.
    last: SpinLock<Option<Arc<WorkQueue>>>,
    /// The item that it runs.
    item: SpinLock<Option<Arc<dyn WorkItem>>>,
}

impl Worker {
    fn new(pool: Option<&'static Pool>, number: usize, flags: u32) -> Arc<Self> {
        Arc::new(Self {
            pool,
            number,
            task: Once::new(),
            flags: AtomicU32::new(flags | not_running::PREPARING),
            sleeping: AtomicBool::new(false),
            last: SpinLock::new(order::WORK_PLACE, None),
            item: SpinLock::new(order::WORK_PLACE, None),
        })
    }

    /// A rescuer's, which belongs to no pool.
    pub(super) fn rescuer() -> Arc<Self> {
        Self::new(None, 0, not_running::RESCUER)
    }

    /// What `/proc/PID/comm` adds to the name.
    pub(super) fn activity(&self) -> Option<(char, Arc<WorkQueue>)> {
        let last = self.last.lock().clone()?;
        Some((if self.item.lock().is_some() { '+' } else { '-' }, last))
    }

    fn is_counted(&self) -> bool {
        self.flags.load(Ordering::Relaxed) == 0
    }

    /// Changes the flags, and the pool's count with them.
    fn change_flags(&self, state: &mut PoolState, set: u32, clear: u32) {
        let was_counted = self.is_counted();
        let flags = self.flags.load(Ordering::Relaxed);
        self.flags.store(flags & !clear | set, Ordering::Relaxed);
        match (was_counted, self.is_counted()) {
            (false, true) => state.running += 1,
            (true, false) => state.running -= 1,
            _ => {}
        }
    }

    fn wake(&self) {
        if let Some(task) = self.task.get().and_then(Weak::upgrade) {
            sched::wake(&task, TaskState::NORMAL);
        }
    }
}

/// Whether the current task is a worker that runs an item of `queue`.
pub(super) fn runs_item_of(queue: &WorkQueue) -> bool {
    current_worker().is_some_and(|worker| {
        let last = worker.last.lock().clone();
        worker.item.lock().is_some() && last.is_some_and(|last| core::ptr::eq(&*last, queue))
    })
}

/// Whether the current task is a worker that runs `item`.
pub(super) fn runs_item(item: &dyn WorkItem) -> bool {
    current_worker().is_some_and(|worker| {
        let running = worker.item.lock().clone();
        running.is_some_and(|running| core::ptr::eq(running.work(), item.work()))
    })
}

/// The scheduler's: the current worker is about to sleep. Nobody else may be running in its pool now.
pub fn worker_sleeping(worker: &Arc<Worker>) {
    let Some(pool) = worker.pool.filter(|_| worker.is_counted()) else { return };
    // The pool's lock may be waited for, which does not sleep; being preempted here does not either.
    if worker.sleeping.swap(true, Ordering::Relaxed) {
        return;
    }
    let mut state = pool.lock();
    state.running -= 1;
    state.wake_if_needed();
}

/// The scheduler's: the current worker goes on after a sleep.
pub fn worker_running(worker: &Arc<Worker>) {
    if worker.sleeping.swap(false, Ordering::Relaxed)
        && let Some(pool) = worker.pool
    {
        pool.lock().running += 1;
    }
}

impl PoolState {
    /// Items wait and nobody runs (Linux `need_more_worker`).
    fn needs_worker(&self) -> bool {
        !self.pending.is_empty() && self.running == 0
    }

    /// Lets an idle worker come when one is needed. Who is woken stays in the list until it runs: a second call before that
    /// wakes nobody else.
    pub(super) fn wake_if_needed(&self) {
        if self.needs_worker()
            && let Some(worker) = self.idle.last()
        {
            worker.wake();
        }
    }

    /// More are idle than the busy ones justify (Linux `too_many_workers`).
    fn has_too_many(&self) -> bool {
        let (idle, busy) = (self.idle.len(), self.workers - self.idle.len());
        idle > IDLE_KEPT && (idle - IDLE_KEPT) * BUSY_PER_IDLE >= busy
    }

    fn leave_idle(&mut self, worker: &Arc<Worker>) {
        if let Some(at) = self.idle.iter().rposition(|idle| Arc::ptr_eq(idle, worker)) {
            self.idle.remove(at);
        }
    }

    fn take_number(&mut self) -> usize {
        let free = self.numbers.iter().position(|word| *word != u64::MAX);
        let word = free.unwrap_or_else(|| {
            self.numbers.push(0);
            self.numbers.len() - 1
        });
        let bit = self.numbers[word].trailing_ones() as usize;
        self.numbers[word] |= 1 << bit;
        word * 64 + bit
    }

    fn give_number(&mut self, number: usize) {
        self.numbers[number / 64] &= !(1 << (number % 64));
    }
}

impl Pool {
    const fn new() -> Self {
        let state = PoolState {
            pending: List::new(),
            idle: Vec::new(),
            numbers: Vec::new(),
            workers: 0,
            running: 0,
            is_managed: false,
        };
        Self { index: Once::new(), state: IrqLock::new(order::WORK_POOL, state) }
    }

    pub(super) fn index(&self) -> usize {
        *self.index.get().expect("`at` gives it")
    }

    pub(super) fn lock(&self) -> IrqGuard<'_, PoolState> {
        self.state.lock()
    }

    /// The CPU that it is bound to.
    pub(super) fn cpu(&self) -> Option<usize> {
        (self.index() < UNBOUND).then(|| self.index() / 2)
    }

    fn is_highpri(&self) -> bool {
        self.index() % 2 == 1
    }

    /// Whether a queue with these flags uses this pool.
    pub(super) fn serves(&self, queue_flags: u32) -> bool {
        (queue_flags & flags::UNBOUND != 0) == self.cpu().is_none()
            && (queue_flags & flags::HIGHPRI != 0) == self.is_highpri()
    }

    /// Makes one more worker, which begins idle (Linux `create_worker`).
    fn create_worker(&'static self) -> Result<()> {
        let number = self.lock().take_number();
        let made = self.make_worker(number);
        let mut state = self.lock();
        match made {
            Ok((worker, task)) => {
                state.workers += 1;
                // Room for all, so that going idle needs no memory.
                let room = state.workers;
                if state.idle.capacity() < room {
                    let more = room - state.idle.len();
                    state.idle.reserve(more);
                }
                state.idle.push(worker);
                drop(state);
                sched::start(&task);
                Ok(())
            }
            Err(error) => {
                state.give_number(number);
                Err(error)
            }
        }
    }

    fn make_worker(&'static self, number: usize) -> Result<(Arc<Worker>, Arc<Task>)> {
        let high = if self.is_highpri() { "H" } else { "" };
        let name = match self.cpu() {
            Some(cpu) => format!("kworker/{cpu}:{number}{high}"),
            None => format!("kworker/u{}:{number}{high}", self.index()),
        };
        let flags = if self.cpu().is_none() { not_running::UNBOUND } else { 0 };
        let worker = Worker::new(Some(self), number, flags);
        let itself = worker.clone();
        let task = kthread::create(&name, move || run(self, &itself))?;
        kthread::become_worker(&task, &worker);
        worker.task.call_once(|| Arc::downgrade(&task));
        if self.is_highpri() {
            sched::set_nice(&task, -20);
        }
        if let Some(cpu) = self.cpu() {
            kthread::bind(&task, cpu);
        }
        Ok((worker, task))
    }
}

/// Starts one worker in each pool whose CPU is up.
pub(super) fn init() {
    let is_up = |pool: &&'static Pool| pool.cpu().is_none_or(|cpu| cpu::online_mask() >> cpu & 1 != 0);
    for pool in (0..COUNT).map(at).filter(is_up) {
        if let Err(error) = pool.create_worker() {
            log::error!("workqueue: pool {}: {error}", pool.index());
        }
    }
}

/// What a worker does (Linux `worker_thread`).
fn run(pool: &'static Pool, worker: &Arc<Worker>) -> i32 {
    loop {
        let mut state = pool.lock();
        state.leave_idle(worker);
        while state.needs_worker() {
            if state.idle.is_empty() && !state.is_managed {
                state = manage(pool, state);
                // Everything may have changed meanwhile.
                continue;
            }
            state = work_off(pool, worker, state);
        }
        state.idle.push(worker.clone());
        let deadline_ns = if state.has_too_many() { time::monotonic_ns() + IDLE_TIMEOUT_NS } else { u64::MAX };
        // Under the lock: who queues an item afterwards finds it asleep.
        current().set_state(TaskState::Idle);
        drop(state);
        if deadline_ns == u64::MAX {
            sched::schedule();
        } else {
            time::schedule_until(deadline_ns);
            if time::monotonic_ns() >= deadline_ns && retire(pool, worker) {
                return 0;
            }
        }
    }
}

/// Runs items for as long as nobody else does (Linux `keep_working`).
fn work_off(
    pool: &'static Pool,
    worker: &Arc<Worker>,
    mut state: IrqGuard<'static, PoolState>,
) -> IrqGuard<'static, PoolState> {
    worker.change_flags(&mut state, 0, not_running::PREPARING);
    while state.running <= 1 {
        let Some(item) = state.pending.pop_front() else { break };
        state = process(pool, worker, state, item);
    }
    worker.change_flags(&mut state, not_running::PREPARING, 0);
    state
}

/// Runs one item, which was taken out of the pool's list (Linux `process_one_work`).
pub(super) fn process(
    pool: &'static Pool,
    worker: &Arc<Worker>,
    mut state: IrqGuard<'static, PoolState>,
    item: Arc<dyn WorkItem>,
) -> IrqGuard<'static, PoolState> {
    let work = item.work();
    let (waits, number) = {
        let mut place = work.place.lock();
        let number = place.queued;
        place.runs = Some((pool, number));
        (place.waits.take().expect("it was in the pool's list"), number)
    };
    let Waits { queue, color, .. } = waits;
    let former = worker.last.lock().replace(queue.clone());
    *worker.item.lock() = Some(item.clone());
    let intensive = if queue.flags & flags::CPU_INTENSIVE != 0 { not_running::CPU_INTENSIVE } else { 0 };
    worker.change_flags(&mut state, intensive, 0);
    // For workers that do not count: the next item finds its own.
    state.wake_if_needed();
    // From here on it can be queued again.
    work.pending.store(false, Ordering::SeqCst);
    drop(state);
    drop(former);

    item.clone().run();
    assert!(cpu::preempt_count() == 0, "workqueue: an item of {} kept a lock", queue.name());

    let mut state = pool.lock();
    worker.change_flags(&mut state, 0, intensive);
    {
        let mut place = work.place.lock();
        place.runs = None;
        place.finished = place.finished.max(number);
    }
    queue.activate_next(pool, &mut state);
    drop(state);
    let done = worker.item.lock().take();
    work.done.wake_all();
    queue.leave(color);
    // Perhaps the last references: what they own is freed where nothing is locked.
    drop((done, item, queue));
    pool.lock()
}

/// Makes an idle worker, so that somebody is there when this one sleeps in an item (Linux `manage_workers`). Without memory it
/// calls for the rescuers of the queues that have one, and tries again while it is needed.
fn manage(pool: &'static Pool, mut state: IrqGuard<'static, PoolState>) -> IrqGuard<'static, PoolState> {
    state.is_managed = true;
    loop {
        drop(state);
        let made = pool.create_worker();
        state = pool.lock();
        if made != Err(Errno::ENOMEM) && made != Err(Errno::EAGAIN) {
            break;
        }
        super::rescue::call(pool, &state);
        drop(state);
        let _ = crate::sync::sleep_until(TaskState::Idle, time::monotonic_ns() + RETRY_NS);
        state = pool.lock();
        if !state.needs_worker() || !state.idle.is_empty() {
            break;
        }
    }
    state.is_managed = false;
    state
}

/// A worker that was idle for long leaves if it is not needed.
fn retire(pool: &Pool, worker: &Arc<Worker>) -> bool {
    let mut state = pool.lock();
    if !state.has_too_many() {
        return false;
    }
    state.leave_idle(worker);
    state.workers -= 1;
    state.give_number(worker.number);
    true
}
