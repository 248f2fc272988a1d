//! Wait queues: the one way to sleep.
//!
//! A task that waits for an event puts a [`Waiter`] on the event's queue, names the [`TaskState`] it sleeps in, looks at
//! the condition once more and gives up the CPU (Linux `___wait_event`). Whoever makes the condition true wakes the
//! queue. Because the state is set before the last look, a wake-up in between is not lost: it finds a task that is about
//! to sleep and makes it runnable.
//!
//! A wake-up takes the sleeping task off the queue, as Linux's `autoremove_wake_function` does: the next one finds the
//! next sleeper, and who was woken need not lock the queue again. The queue's reference to the task moves on to the run
//! queue.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use hal::sync::IrqLock;
use hal::thread::Current;

use crate::Result;
use crate::sched::{self, Woken};
use crate::sync::order;
use crate::task::{Task, TaskState, current};

/// Something other than a sleeping task that wants to hear of a wake-up (epoll items, for instance). Called with the
/// queue locked and interrupts masked: it must be short and take only locks below `WAIT_QUEUE`.
pub trait WakeCallback: Send + Sync {
    /// The queue was woken for `events` (POLL* bits; 0 when the waker named none). Whether that woke somebody: of
    /// exclusive registrations the next one is asked otherwise.
    fn woken(&self, events: u32) -> bool;
}

enum Target {
    Task(Weak<Task>),
    Callback(Weak<dyn WakeCallback>),
}

/// One registration on one or several queues.
pub struct Waiter {
    target: Target,
    /// Set by a wake-up; a poll that waits on many queues looks at it.
    triggered: AtomicBool,
    /// Woken one at a time (`wake_one`), after all the non-exclusive ones.
    exclusive: bool,
}

impl Waiter {
    /// Wakes the current task.
    pub fn for_current() -> Arc<Waiter> {
        Arc::new(Waiter {
            target: Target::Task(Arc::downgrade(&current().arc())),
            triggered: AtomicBool::new(false),
            exclusive: false,
        })
    }

    /// Calls `callback` at each wake-up.
    pub fn for_callback(callback: Weak<dyn WakeCallback>, exclusive: bool) -> Arc<Waiter> {
        Arc::new(Waiter { target: Target::Callback(callback), triggered: AtomicBool::new(false), exclusive })
    }

    /// Whether a wake-up came since the last call.
    pub fn take_triggered(&self) -> bool {
        self.triggered.swap(false, Ordering::SeqCst)
    }

    /// Whether a wake-up came.
    pub fn is_triggered(&self) -> bool {
        self.triggered.load(Ordering::SeqCst)
    }

    fn wake(&self, events: u32) -> bool {
        self.triggered.store(true, Ordering::SeqCst);
        match &self.target {
            Target::Task(task) => task.upgrade().is_some_and(|task| sched::wake(&task, TaskState::NORMAL)),
            Target::Callback(callback) => callback.upgrade().is_some_and(|callback| callback.woken(events)),
        }
    }
}

/// One place in a queue.
enum Entry {
    /// A task that sleeps in [`WaitQueue::wait_event`]. It leaves the queue when it is woken.
    Sleeper { task: Arc<Task>, exclusive: bool },
    /// A registration that stays until it is taken back.
    Registered(Arc<Waiter>),
}

impl Entry {
    fn is_of(&self, sleeper: &Current<Task>) -> bool {
        matches!(self, Entry::Sleeper { task, .. } if core::ptr::eq(&**task, &**sleeper))
    }

    fn is_exclusive(&self) -> bool {
        match self {
            Entry::Sleeper { exclusive, .. } => *exclusive,
            Entry::Registered(waiter) => waiter.exclusive,
        }
    }
}

/// The tasks and callbacks that wait for one kind of event.
pub struct WaitQueue {
    waiters: IrqLock<VecDeque<Entry>>,
    /// Mirrors "not empty", so that waking an empty queue costs one load.
    occupied: AtomicBool,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// A queue without waiters.
    pub const fn new() -> Self {
        Self { waiters: IrqLock::new(order::WAIT_QUEUE, VecDeque::new()), occupied: AtomicBool::new(false) }
    }

    /// A queue that is woken while another one is (epoll): its lock has the level given.
    pub const fn with_level(level: hal::sync::Level) -> Self {
        Self { waiters: IrqLock::new(level, VecDeque::new()), occupied: AtomicBool::new(false) }
    }

    /// Adds a waiter. Non-exclusive waiters go to the front, as in Linux, so that `wake_one` reaches all of them.
    pub fn register(&self, waiter: &Arc<Waiter>) {
        self.add(&mut self.waiters.lock(), Entry::Registered(waiter.clone()));
    }

    #[inline]
    fn add(&self, waiters: &mut VecDeque<Entry>, entry: Entry) {
        if entry.is_exclusive() {
            waiters.push_back(entry);
        } else {
            waiters.push_front(entry);
        }
        // SeqCst with the load in `is_idle`: either the waker sees us, or we see the condition it made true.
        self.occupied.store(true, Ordering::SeqCst);
    }

    /// Removes a waiter if it is there.
    pub fn unregister(&self, waiter: &Arc<Waiter>) {
        let gone = self.remove(|entry| matches!(entry, Entry::Registered(w) if Arc::ptr_eq(w, waiter)));
        drop(gone);
    }

    fn remove(&self, is_it: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        let mut waiters = self.waiters.lock();
        let found = waiters.iter().position(is_it).and_then(|at| waiters.remove(at));
        self.occupied.store(!waiters.is_empty(), Ordering::SeqCst);
        found
    }

    /// Puts the current task on the queue unless it is there. `fresh`: it cannot be.
    fn enqueue(&self, task: &Current<Task>, exclusive: bool, fresh: bool) {
        let mut waiters = self.waiters.lock();
        if fresh || !waiters.iter().any(|entry| entry.is_of(task)) {
            self.add(&mut waiters, Entry::Sleeper { task: task.arc(), exclusive });
        }
    }

    /// Takes the current task off the queue. False when a wake-up had done so.
    fn dequeue(&self, task: &Current<Task>) -> bool {
        // A waker stores this under the lock before it makes the task runnable.
        if !self.occupied.load(Ordering::SeqCst) {
            return false;
        }
        let gone = self.remove(|entry| entry.is_of(task));
        gone.is_some()
    }

    /// Whether nobody waits. A hint that is safe to act on after making the condition true.
    #[inline(always)]
    pub fn is_idle(&self) -> bool {
        core::sync::atomic::fence(Ordering::SeqCst);
        !self.occupied.load(Ordering::SeqCst)
    }

    /// Wakes every non-exclusive waiter and one exclusive waiter.
    #[inline(always)]
    pub fn wake_one(&self) {
        self.wake(1, 0);
    }

    /// Wakes every waiter.
    #[inline(always)]
    pub fn wake_all(&self) {
        self.wake(usize::MAX, 0);
    }

    /// As [`Self::wake_one`], and tells callbacks which POLL* events came.
    #[inline(always)]
    pub fn wake_one_for(&self, events: u32) {
        self.wake(1, events);
    }

    /// As [`Self::wake_all`], and tells callbacks which POLL* events came.
    #[inline(always)]
    pub fn wake_all_for(&self, events: u32) {
        self.wake(usize::MAX, events);
    }

    /// Wakes every registration after the lock of the queue was released: for queues whose callbacks wake queues of the
    /// same kind (an epoll set in a set). Tasks register on such a queue, they never sleep on it.
    pub fn relay(&self, events: u32) {
        if self.is_idle() {
            return;
        }
        let registered = |entry: &Entry| match entry {
            Entry::Registered(waiter) => Some(waiter.clone()),
            Entry::Sleeper { .. } => None,
        };
        let waiters: Vec<Arc<Waiter>> = self.waiters.lock().iter().filter_map(registered).collect();
        for waiter in waiters {
            waiter.wake(events);
        }
    }

    #[inline(always)]
    fn wake(&self, exclusive_limit: usize, events: u32) {
        if !self.is_idle() {
            self.wake_waiters(exclusive_limit, events);
        }
    }

    fn wake_waiters(&self, mut exclusive_left: usize, events: u32) {
        // References that became superfluous: their drop may be a task's last, which takes locks above this one.
        let mut superfluous = Vec::new();
        let mut waiters = self.waiters.lock();
        let mut at = 0;
        while at < waiters.len() {
            let (woke, exclusive) = match waiters.get(at) {
                Some(Entry::Registered(waiter)) => {
                    at += 1;
                    (waiter.wake(events), waiter.exclusive)
                }
                _ => self.wake_sleeper(&mut waiters, &mut at, &mut superfluous),
            };
            if exclusive && woke {
                exclusive_left -= 1;
                if exclusive_left == 0 {
                    break;
                }
            }
        }
        drop(waiters);
        drop(superfluous);
    }

    /// Wakes the task at `at` and takes it off; one that does not sleep stays, and `at` moves on.
    fn wake_sleeper(
        &self,
        waiters: &mut VecDeque<Entry>,
        at: &mut usize,
        superfluous: &mut Vec<Arc<Task>>,
    ) -> (bool, bool) {
        let taken = if *at == 0 { waiters.pop_front() } else { waiters.remove(*at) };
        let Some(Entry::Sleeper { task, exclusive }) = taken else { return (false, false) };
        // Before the task can run: it looks whether it is still on the queue.
        self.occupied.store(!waiters.is_empty(), Ordering::SeqCst);
        match sched::wake_owned(task, TaskState::NORMAL) {
            Woken::Queued => (true, exclusive),
            Woken::Awake(task) => {
                superfluous.push(task);
                (true, exclusive)
            }
            Woken::Not(task) => {
                waiters.insert(*at, Entry::Sleeper { task, exclusive });
                self.occupied.store(true, Ordering::SeqCst);
                *at += 1;
                (false, exclusive)
            }
        }
    }

    /// Sleeps in `state` until `condition` holds. `Err(ERESTARTSYS)` when a signal ends an interruptible sleep (a fatal
    /// one a killable sleep); the condition did not hold then.
    pub fn wait_event(&self, state: TaskState, condition: impl FnMut() -> bool) -> Result<()> {
        self.wait(state, false, u64::MAX, condition)
    }

    /// As [`Self::wait_event`] with an exclusive registration: a `wake_one` wakes one such sleeper.
    pub fn wait_event_exclusive(&self, state: TaskState, condition: impl FnMut() -> bool) -> Result<()> {
        self.wait(state, true, u64::MAX, condition)
    }

    /// As [`Self::wait_event_exclusive`], with the deadline of [`Self::wait_event_until`].
    pub fn wait_event_exclusive_until(
        &self,
        state: TaskState,
        deadline_ns: u64,
        condition: impl FnMut() -> bool,
    ) -> Result<()> {
        self.wait(state, true, deadline_ns, condition)
    }

    /// As [`Self::wait_event`], with `Err(ETIMEDOUT)` once the monotonic clock reaches `deadline_ns` (`u64::MAX`: never).
    pub fn wait_event_until(&self, state: TaskState, deadline_ns: u64, condition: impl FnMut() -> bool) -> Result<()> {
        self.wait(state, false, deadline_ns, condition)
    }

    fn wait(
        &self,
        state: TaskState,
        exclusive: bool,
        deadline_ns: u64,
        mut condition: impl FnMut() -> bool,
    ) -> Result<()> {
        if condition() {
            return Ok(());
        }
        let task = current();
        let mut fresh = true;
        let prepare = || self.enqueue(&task, exclusive, core::mem::replace(&mut fresh, false));
        let result = sleep_prepared(state, deadline_ns, prepare, || !condition());
        let was_woken = !self.dequeue(&task);
        if exclusive && result.is_err() && was_woken {
            // We took a wake-up that we do not use: hand it on (Linux autoremove_wake_function's rule).
            self.wake_one();
        }
        result
    }
}

/// Sleeps in `state` while `waiting` holds, for a task that has arranged to be woken. Ends as [`WaitQueue::wait_event`].
pub fn sleep_while(state: TaskState, deadline_ns: u64, waiting: impl FnMut() -> bool) -> Result<()> {
    sleep_prepared(state, deadline_ns, || {}, waiting)
}

/// As [`sleep_while`]; `prepare` arranges the wake-up before each sleep (Linux `prepare_to_wait`).
#[inline]
fn sleep_prepared(
    state: TaskState,
    deadline_ns: u64,
    mut prepare: impl FnMut(),
    mut waiting: impl FnMut() -> bool,
) -> Result<()> {
    let task = current();
    loop {
        prepare();
        task.set_state(state);
        if !waiting() {
            task.set_state(TaskState::Running);
            return Ok(());
        }
        if task.signal_ends_sleep(state) {
            task.set_state(TaskState::Running);
            return Err(Errno::ERESTARTSYS);
        }
        if deadline_ns == u64::MAX {
            sched::schedule();
        } else if crate::time::monotonic_ns() >= deadline_ns {
            task.set_state(TaskState::Running);
            return Err(Errno::ETIMEDOUT);
        } else {
            crate::time::schedule_until(deadline_ns);
        }
        // The usual end of a sleep needs no arrangement for another one.
        if !waiting() {
            return Ok(());
        }
    }
}

/// Sleeps in `state` until the monotonic clock reaches `deadline_ns`, or a signal ends the sleep (`Err(ERESTARTSYS)`).
pub fn sleep_until(state: TaskState, deadline_ns: u64) -> Result<()> {
    match sleep_while(state, deadline_ns, || true) {
        Err(Errno::ETIMEDOUT) => Ok(()),
        other => other,
    }
}
