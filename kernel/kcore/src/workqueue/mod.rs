//! Work queues: functions that are run later by kernel threads which everybody shares (Linux `kernel/workqueue.c`).
//!
//! A [`WorkItem`] embeds a [`Work`]; [`WorkQueue::queue`] hands it over from any context, allocating nothing. Items run in the
//! workers (`kworker/CPU:ID`) of a [`pool::Pool`]: each CPU has a pool and one of high priority, and two more are bound to no
//! CPU. A queue is only a name, a choice of pools, and the limit `max_active` of how many of its items run at once on one
//! pool; with a limit of 1 on an unbound pool they run one by one in order.
//!
//! An item that sleeps costs no parallelism: the scheduler tells the pool, which lets another worker run ([`pool`]). An item
//! does not run twice at once, and one that is queued while it runs runs once more. [`WorkQueue::flush`], [`flush`] and
//! [`cancel_sync`] wait. [`delayed`] adds a timer in front. A queue that others need in order to free memory has a thread
//! of its own to fall back on when no worker can be made ([`rescue`]).
//!
//! What is left out of Linux's: CPUs do not come and go here, so pools are never detached from theirs; attributes of unbound
//! pools (nice value, CPU mask) are fixed, so there are two of them; nothing is frozen.

pub mod delayed;
mod pool;
mod rescue;

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hal::cpu;
use hal::sync::{IrqGuard, IrqLock};
use spin::Once;

use crate::Result;
use crate::sync::list::{Link, Linked, List};
use crate::sync::{Mutex, WaitQueue, order};
use crate::task::{Task, TaskState, current};

pub use delayed::DelayedWork;
use pool::{Pool, PoolState};
pub(crate) use pool::{Worker, worker_running, worker_sleeping};

/// What can be queued: the owner of a [`Work`].
pub trait WorkItem: Send + Sync + 'static {
    /// The embedded work.
    fn work(&self) -> &Work;
    /// What is to be done, in a worker: it may sleep.
    fn run(self: Arc<Self>);
}

impl Linked for dyn WorkItem {
    fn link(&self) -> &Link<dyn WorkItem> {
        &self.work().link
    }
}

/// The part of an item that the queues need (Linux `work_struct`). An item is used with one queue at a time.
pub struct Work {
    link: Link<dyn WorkItem>,
    /// Somebody has the right to queue it: it waits in a queue, for its timer, or it is being cancelled (Linux
    /// WORK_STRUCT_PENDING).
    pending: AtomicBool,
    is_cancelled: AtomicBool,
    /// Changed under the lock of the pool that it names.
    place: IrqLock<Place>,
    /// Who waits for an end of [`WorkItem::run`] or of a cancellation.
    done: WaitQueue,
}

/// Where a work is.
struct Place {
    /// It waits here.
    waits: Option<Waits>,
    /// It runs here, and as the how-manieth queueing.
    runs: Option<(&'static Pool, u64)>,
    /// How often it was queued, and the last such time that is over.
    queued: u64,
    finished: u64,
}

struct Waits {
    queue: Arc<WorkQueue>,
    pool: &'static Pool,
    /// In the pool's list, not in the queue's own.
    is_active: bool,
    color: u32,
}

impl Default for Work {
    fn default() -> Self {
        Self::new()
    }
}

impl Work {
    /// Work that waits nowhere.
    pub const fn new() -> Self {
        Self {
            link: Link::new(),
            pending: AtomicBool::new(false),
            is_cancelled: AtomicBool::new(false),
            place: IrqLock::new(order::WORK_PLACE, Place { waits: None, runs: None, queued: 0, finished: 0 }),
            done: WaitQueue::new(),
        }
    }

    /// Whether it is going to run (Linux `work_pending`).
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Whether nothing of it up to the queueing `number` is left to do.
    fn is_over(&self, number: u64) -> bool {
        let place = self.place.lock();
        place.finished >= number && place.runs.is_none_or(|(_, running)| running > number)
    }

    fn is_running(&self) -> bool {
        self.place.lock().runs.is_some()
    }
}

/// Bits of [`WorkQueue`]'s flags.
pub mod flags {
    /// WQ_UNBOUND: the items run on any CPU.
    pub const UNBOUND: u32 = 2;
    /// WQ_MEM_RECLAIM: the items run even when no worker can be made: others need them to free memory.
    pub const MEM_RECLAIM: u32 = 8;
    /// WQ_HIGHPRI: in workers of nice value -20.
    pub const HIGHPRI: u32 = 16;
    /// WQ_CPU_INTENSIVE: the items compute for long; others of the same CPU's pool do not wait for them.
    pub const CPU_INTENSIVE: u32 = 32;
}

/// Items of one queue that run at once on a pool, unless it says otherwise (Linux WQ_DFL_ACTIVE).
pub const DEFAULT_ACTIVE: u32 = 256;

/// A queue.
pub struct WorkQueue {
    name: String,
    flags: u32,
    max_active: u32,
    /// What it has on each pool.
    shares: [IrqLock<Share>; pool::COUNT],
    /// Items that are not over, in two colours ([`Flight`]).
    flight: Flight,
    /// One flush at a time changes the colour.
    flushing: Mutex<()>,
    flushed: WaitQueue,
    /// Drains that are on, and 1 << 31 when the queue is no more.
    closed: AtomicU32,
    rescuer: Once<Arc<rescue::Rescuer>>,
}

const DESTROYED: u32 = 1 << 31;

/// What a queue has on one pool (Linux `pool_workqueue`). Its lock is taken under the pool's.
struct Share {
    active: u32,
    /// Over the limit.
    inactive: List<dyn WorkItem>,
}

/// Counts items in the colour that they were queued in. A flush changes the colour of those to come and waits for the old
/// one's count to reach 0. Colour and counts are one word, so that no item is counted in a colour that was flushed before.
struct Flight(AtomicU64);

impl Flight {
    const COLOR: u64 = 1 << 63;

    const fn unit(color: u32) -> u64 {
        1 << (31 * color)
    }

    fn count(word: u64, color: u32) -> u64 {
        word >> (31 * color) & 0x7fff_ffff
    }

    fn color(word: u64) -> u32 {
        u32::from(word & Self::COLOR != 0)
    }

    /// Counts one more item; gives its colour.
    fn enter(&self) -> u32 {
        let add = |word| Some(word + Self::unit(Self::color(word)));
        let before = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
        Self::color(before.unwrap_or_else(|word| word))
    }

    /// An item is over. True when it was the last of its colour.
    fn leave(&self, color: u32) -> bool {
        Self::count(self.0.fetch_sub(Self::unit(color), Ordering::SeqCst), color) == 1
    }

    /// Changes the colour; gives the old one.
    fn turn(&self) -> u32 {
        Self::color(self.0.fetch_xor(Self::COLOR, Ordering::SeqCst))
    }

    fn left(&self, color: u32) -> u64 {
        Self::count(self.0.load(Ordering::SeqCst), color)
    }
}

impl WorkQueue {
    /// A queue with [`flags`] and at most `max_active` items running at once on a pool, 0 for [`DEFAULT_ACTIVE`] (Linux
    /// `alloc_workqueue`). `ENOMEM` without memory for its rescuer.
    pub fn new(name: &str, flags: u32, max_active: u32) -> Result<Arc<Self>> {
        let share = || IrqLock::new(order::WORK_SHARE, Share { active: 0, inactive: List::new() });
        let queue = Arc::new(Self {
            name: name.into(),
            flags,
            max_active: if max_active == 0 { DEFAULT_ACTIVE } else { max_active },
            shares: core::array::from_fn(|_| share()),
            flight: Flight(AtomicU64::new(0)),
            flushing: Mutex::new(()),
            flushed: WaitQueue::new(),
            closed: AtomicU32::new(0),
            rescuer: Once::new(),
        });
        if flags & flags::MEM_RECLAIM != 0 {
            rescue::start(&queue)?;
        }
        Ok(queue)
    }

    /// A queue whose items run one by one in the order in which they were queued (Linux `alloc_ordered_workqueue`).
    pub fn ordered(name: &str, flags: u32) -> Result<Arc<Self>> {
        Self::new(name, flags | flags::UNBOUND, 1)
    }

    /// Its name, which the workers show.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets `item` run soon, on this CPU unless the queue is unbound. False when it waits already, or the queue is closed. May
    /// be called from interrupt context, with no run queue locked; allocates nothing.
    pub fn queue<T: WorkItem>(self: &Arc<Self>, item: &Arc<T>) -> bool {
        let item: Arc<dyn WorkItem> = item.clone();
        self.queue_dyn(item, None)
    }

    /// As [`Self::queue`], on a certain CPU.
    pub fn queue_on<T: WorkItem>(self: &Arc<Self>, cpu: usize, item: &Arc<T>) -> bool {
        let item: Arc<dyn WorkItem> = item.clone();
        self.queue_dyn(item, Some(cpu))
    }

    fn queue_dyn(self: &Arc<Self>, item: Arc<dyn WorkItem>, cpu: Option<usize>) -> bool {
        if item.work().pending.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.insert(item, cpu)
    }

    /// Whether an item may be added: while the queue is drained, only by one of its own (Linux `is_chained_work`).
    fn is_open(&self) -> bool {
        match self.closed.load(Ordering::SeqCst) {
            0 => true,
            closed if closed & DESTROYED != 0 => false,
            _ => pool::runs_item_of(self),
        }
    }

    /// Queues an item whose `pending` is the caller's (Linux `__queue_work`).
    fn insert(self: &Arc<Self>, item: Arc<dyn WorkItem>, cpu: Option<usize>) -> bool {
        let work = item.work();
        if !self.is_open() {
            log::warn!("workqueue: {} is closed, an item is dropped", self.name);
            work.pending.store(false, Ordering::SeqCst);
            return false;
        }
        // On its CPU to the end: the caller's choice of a pool is by that.
        cpu::preempt_disable();
        let wanted = pool::of(self.flags, cpu.unwrap_or_else(cpu::id));
        let (pool, mut state) = self.lock_pool_for(work, wanted);
        let color = self.flight.enter();
        let mut share = self.shares[pool.index()].lock();
        let is_active = share.active < self.max_active;
        {
            let mut place = work.place.lock();
            place.queued += 1;
            place.waits = Some(Waits { queue: self.clone(), pool, is_active, color });
        }
        if is_active {
            share.active += 1;
            drop(share);
            state.pending.push_back(item);
            state.wake_if_needed();
        } else {
            share.inactive.push_back(item);
            drop(share);
        }
        drop(state);
        cpu::preempt_enable();
        true
    }

    /// The pool for a work, locked: `wanted`, but that where it runs if it runs in this queue, so that it never runs twice
    /// at once.
    fn lock_pool_for(&self, work: &Work, wanted: &'static Pool) -> (&'static Pool, IrqGuard<'static, PoolState>) {
        loop {
            let here = |pool: &'static Pool| pool.serves(self.flags);
            let running = || work.place.lock().runs.map(|(pool, _)| pool).filter(|pool| here(pool));
            let pool = running().unwrap_or(wanted);
            let state = pool.lock();
            // It may have ended or begun meanwhile; beginning elsewhere is what must not be missed.
            if running().is_none_or(|now| core::ptr::eq(now, pool)) {
                return (pool, state);
            }
        }
    }

    /// An item that was active on a pool is over: another may be. The pool is locked.
    fn activate_next(&self, pool: &Pool, state: &mut PoolState) {
        let mut share = self.shares[pool.index()].lock();
        share.active -= 1;
        if share.active < self.max_active
            && let Some(next) = share.inactive.pop_front()
        {
            share.active += 1;
            drop(share);
            if let Some(waits) = next.work().place.lock().waits.as_mut() {
                waits.is_active = true;
            }
            state.pending.push_back(next);
        }
    }

    /// An item of that colour is over: a flush may be.
    fn leave(&self, color: u32) {
        if self.flight.leave(color) {
            self.flushed.wake_all();
        }
    }

    /// Waits until everything that was queued before is over. Not for an item of the queue itself.
    pub fn flush(&self) {
        debug_assert!(!pool::runs_item_of(self), "an item waits for itself");
        let _one = self.flushing.lock();
        let old = self.flight.turn();
        // An uninterruptible sleep ends only with its condition.
        let _ = self.flushed.wait_event(TaskState::Uninterruptible, || self.flight.left(old) == 0);
    }

    /// Waits until the queue is empty; meanwhile only its own items may add to it (Linux `drain_workqueue`).
    pub fn drain(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
        loop {
            self.flush();
            if self.flight.left(0) + self.flight.left(1) == 0 {
                break;
            }
        }
        self.closed.fetch_sub(1, Ordering::SeqCst);
    }

    /// Drains the queue and closes it for good (Linux `destroy_workqueue`).
    pub fn destroy(&self) {
        self.drain();
        self.closed.fetch_or(DESTROYED, Ordering::SeqCst);
        if let Some(rescuer) = self.rescuer.get() {
            rescuer.stop();
        }
    }
}

/// Waits until the last queueing of `item` before this call is over (Linux `flush_work`). False when there was nothing to wait
/// for.
pub fn flush(item: &dyn WorkItem) -> bool {
    let work = item.work();
    let last = work.place.lock().queued;
    if work.is_over(last) {
        return false;
    }
    debug_assert!(!pool::runs_item(item), "an item waits for itself");
    let _ = work.done.wait_event(TaskState::Uninterruptible, || work.is_over(last));
    true
}

/// Takes `item` back unless it runs already (Linux `cancel_work`). True when it was waiting.
pub fn cancel(item: &Arc<dyn WorkItem>) -> bool {
    let was_pending = grab(item, || false);
    item.work().pending.store(false, Ordering::SeqCst);
    item.work().done.wake_all();
    was_pending
}

/// As [`cancel`], and waits until it does not run any more; meanwhile it cannot be queued (Linux `cancel_work_sync`).
pub fn cancel_sync(item: &Arc<dyn WorkItem>) -> bool {
    let was_pending = grab(item, || false);
    finish_cancel(&**item);
    was_pending
}

/// The second half of a cancellation, with `pending` in hand.
fn finish_cancel(item: &dyn WorkItem) {
    let work = item.work();
    debug_assert!(!pool::runs_item(item), "an item waits for itself");
    work.is_cancelled.store(true, Ordering::SeqCst);
    let _ = work.done.wait_event(TaskState::Uninterruptible, || !work.is_running());
    work.is_cancelled.store(false, Ordering::SeqCst);
    work.pending.store(false, Ordering::SeqCst);
    work.done.wake_all();
}

/// Takes `pending` for the caller, who may sleep: out of a queue, or with `disarm` from a timer. True when the item was
/// going to run (Linux `try_to_grab_pending`, until it succeeds).
fn grab(item: &Arc<dyn WorkItem>, disarm: impl Fn() -> bool) -> bool {
    let work = item.work();
    loop {
        if disarm() {
            return true;
        }
        if !work.pending.swap(true, Ordering::SeqCst) {
            return false;
        }
        if take_out(item) {
            return true;
        }
        if work.is_cancelled.load(Ordering::SeqCst) {
            // Somebody else's, who waits for it to end.
            let _ = work.done.wait_event(TaskState::Uninterruptible, || !work.is_cancelled.load(Ordering::SeqCst));
        } else {
            // Between the two halves of a queueing, on another CPU or in a task that was preempted there.
            crate::sched::yield_now();
        }
    }
}

/// Takes an item out of the list in which it waits. False when it waits in none.
fn take_out(item: &Arc<dyn WorkItem>) -> bool {
    let work = item.work();
    let Some(pool) = work.place.lock().waits.as_ref().map(|waits| waits.pool) else { return false };
    let mut state = pool.lock();
    let waits = {
        let mut place = work.place.lock();
        if !place.waits.as_ref().is_some_and(|waits| core::ptr::eq(waits.pool, pool)) {
            return false;
        }
        place.finished = place.queued;
        place.waits.take()
    };
    let Some(Waits { queue, is_active, color, .. }) = waits else { return false };
    if is_active {
        state.pending.remove(item);
        queue.activate_next(pool, &mut state);
        state.wake_if_needed();
    } else {
        queue.shares[pool.index()].lock().inactive.remove(item);
    }
    drop(state);
    queue.leave(color);
    true
}

/// An item made of a function, for what has no object of its own.
pub struct FnWork {
    work: Work,
    call: alloc::boxed::Box<dyn Fn() + Send + Sync>,
}

impl FnWork {
    /// Work that calls `call`.
    pub fn new(call: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { work: Work::new(), call: alloc::boxed::Box::new(call) })
    }
}

impl WorkItem for FnWork {
    fn work(&self) -> &Work {
        &self.work
    }

    fn run(self: Arc<Self>) {
        (self.call)();
    }
}

/// The queues that everybody may use.
struct SystemQueues {
    events: Arc<WorkQueue>,
    highpri: Arc<WorkQueue>,
    long: Arc<WorkQueue>,
    unbound: Arc<WorkQueue>,
}

hal::global! {
    static SYSTEM: Once<SystemQueues> = Once::new();
}

fn system_queues() -> &'static SystemQueues {
    let make = |name, flags| WorkQueue::new(name, flags, 0).expect("a queue without rescuer needs only the heap");
    SYSTEM.call_once(|| SystemQueues {
        events: make("events", 0),
        highpri: make("events_highpri", flags::HIGHPRI),
        long: make("events_long", 0),
        unbound: make("events_unbound", flags::UNBOUND),
    })
}

/// For short items, on the CPU that queues them (Linux `system_wq`).
pub fn system() -> &'static Arc<WorkQueue> {
    &system_queues().events
}

/// For items that must run soon (`system_highpri_wq`).
pub fn system_highpri() -> &'static Arc<WorkQueue> {
    &system_queues().highpri
}

/// For items that take long: nobody flushes it (`system_long_wq`).
pub fn system_long() -> &'static Arc<WorkQueue> {
    &system_queues().long
}

/// For items that are bound to no CPU (`system_unbound_wq`).
pub fn system_unbound() -> &'static Arc<WorkQueue> {
    &system_queues().unbound
}

/// Starts the first worker of each pool. Called once at boot, when there is a kthreadd.
pub fn init() {
    let _ = system_queues();
    pool::init();
}

/// What a worker does, for `/proc/PID/comm`: ` +NAME` while it runs an item of that queue, `-NAME` afterwards (Linux
/// `wq_worker_comm`). `None` for others.
pub(crate) fn activity(task: &Task) -> Option<(char, Arc<WorkQueue>)> {
    task.kthread.as_ref()?.worker()?.activity()
}

/// The worker that the current task is.
fn current_worker() -> Option<Arc<Worker>> {
    current().kthread.as_ref().and_then(|kthread| kthread.worker().cloned())
}
