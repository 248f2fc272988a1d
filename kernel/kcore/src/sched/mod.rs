//! The scheduler core: run queues, sleeping and waking, switching, placement.
//!
//! Each CPU has a run queue under one lock. The lock of the queue that a task belongs to guards the task's scheduler
//! state; it is held across the switch and opened by the thread that runs next, so whoever holds it sees no task halfway
//! off a CPU. Policies are [`class::Class`]es, in the order of [`class::Classes`]. Key functions: [`schedule`] (give up the CPU), [`wake`] (make runnable),
//! [`preempt`] (called by hal when a reschedule is due).

mod balance;
pub mod bandwidth;
pub mod class;
pub mod deadline;
mod entity;
pub(crate) mod fair;
pub mod load;
mod placement;
mod policy;
pub mod psi;
pub mod realtime;
pub mod stats;
mod stop;
pub(crate) mod timeline;
pub mod weight;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use hal::cpu::{self, PerCpu};
use hal::sync::{IrqGuard, IrqLock};
use hal::thread::work;

use crate::sync::order;
use crate::task::{Task, TaskState};
use crate::time;
pub use class::Priority;
use class::{Classes, Enqueue};
pub use entity::Entity;
pub use policy::{Policy, set_affinity, set_boost, set_nice, set_policy};
pub use stop::become_stopper;

/// Length of a tick, ns: 250 Hz, as Debian's arm64 kernel.
pub const TICK_NS: u64 = 4_000_000;

/// The tasks that want to run on one CPU.
struct RunQueue {
    current: Option<Arc<Task>>,
    idle: Option<Arc<Task>>,
    classes: Classes,
    /// Throttled deadline tasks, which do not count as runnable.
    parked: usize,
    /// The task switched away from, until its successor has let go of it.
    previous: Option<Previous>,
}

struct Previous {
    task: Arc<Task>,
    /// It may no longer run here: put it elsewhere once it is off this CPU.
    migrate: bool,
}

impl RunQueue {
    const fn new() -> Self {
        RunQueue { current: None, idle: None, classes: Classes::new(), parked: 0, previous: None }
    }

    fn is_idle_task(&self, task: &Arc<Task>) -> bool {
        self.idle.as_ref().is_some_and(|idle| Arc::ptr_eq(idle, task))
    }

    /// Who is switched from and to, from `reschedule` on until `finish_switch`.
    fn switched(&self) -> (&Arc<Task>, &Arc<Task>) {
        let from = self.previous.as_ref().expect("set before the switch");
        (&from.task, self.current.as_ref().expect("set before the switch"))
    }
}

/// What others may look at without a queue's lock.
struct Glance {
    /// Runnable tasks, the running one included, the idle task not.
    running: AtomicU32,
    /// Weight of the fair tasks among them, as of the last tick.
    load: AtomicU64,
    /// How urgent the running task is ([`Priority::level`]).
    level: AtomicI32,
    /// Its deadline, if it is a deadline task.
    deadline_ns: AtomicU64,
    idle: AtomicBool,
    /// The next tick; `u64::MAX` when none is wanted, which an idle CPU decides at the first one that finds it idle.
    next_tick: AtomicU64,
    /// When a turn ends that is shorter than a tick, or a budget is due: `u64::MAX` when nothing of that is.
    event: AtomicU64,
    switches: AtomicU64,
    /// Time spent idle, ns, and when the current idle stretch began.
    idle_ns: AtomicU64,
    idle_since: AtomicU64,
    contention: psi::Contention,
}

impl Glance {
    const fn new() -> Self {
        Glance {
            running: AtomicU32::new(0),
            load: AtomicU64::new(0),
            level: AtomicI32::new(Priority::IDLE),
            deadline_ns: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            next_tick: AtomicU64::new(u64::MAX),
            event: AtomicU64::new(u64::MAX),
            switches: AtomicU64::new(0),
            idle_ns: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            contention: psi::Contention::new(),
        }
    }

    /// Tells how urgent the running task is.
    #[inline]
    fn set_urgency(&self, running: &Entity) {
        let level = running.level();
        if level == Priority::DEADLINE {
            self.deadline_ns.store(running.priority().deadline_ns(), Ordering::Relaxed);
        }
        self.level.store(level, Ordering::Relaxed);
    }

    /// How urgent the running task is.
    fn urgency(&self) -> Priority {
        let level = self.level.load(Ordering::Relaxed);
        let deadline = if level == Priority::DEADLINE { self.deadline_ns.load(Ordering::Relaxed) } else { 0 };
        Priority::new(level, deadline)
    }

    /// Changes the number of runnable tasks. Under the lock of the CPU's queue.
    #[inline]
    fn add_running(&self, change: i32, now: u64) {
        let before = self.running.load(Ordering::Relaxed);
        let after = before.wrapping_add_signed(change);
        self.running.store(after, Ordering::SeqCst);
        self.contention.runnable_changed(before, after, now);
    }
}

hal::global! {
    static QUEUES: PerCpu<IrqLock<RunQueue>> =
        PerCpu::new([const { IrqLock::new(order::RUN_QUEUE, RunQueue::new()) }; hal::MAX_CPUS]);
    static GLANCE: PerCpu<Glance> = PerCpu::new([const { Glance::new() }; hal::MAX_CPUS]);
    /// A bit per CPU that runs its idle task and has nothing else to do.
    static IDLE_CPUS: AtomicU32 = AtomicU32::new(0);
    /// Tasks asleep in a state that counts to the load.
    static BLOCKED: AtomicI64 = AtomicI64::new(0);
    /// Forks since boot, for /proc/stat.
    pub static FORKS: AtomicU64 = AtomicU64::new(0);
}

/// Why a CPU looks for another task.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The current task goes to sleep if its state says so.
    Sleep,
    /// The current task stays runnable whatever its state says.
    Preempt,
    /// As `Preempt`, and the others of its class go first.
    Yield,
}

/// The boot flow of this CPU becomes its idle task, and goes on in `next`.
pub fn adopt_idle(idle: &Arc<Task>, next: fn() -> !) -> ! {
    let cpu = cpu::id();
    idle.sched.set_cpu(cpu);
    idle.sched.become_idle();
    idle.set_state(TaskState::Running);
    {
        let mut queue = QUEUES.of(cpu).lock();
        queue.current = Some(idle.clone());
        queue.idle = Some(idle.clone());
        GLANCE.of(cpu).idle.store(true, Ordering::SeqCst);
        // Tasks may have been placed here while there was nobody to tell.
        if GLANCE.of(cpu).running.load(Ordering::SeqCst) == 0 {
            IDLE_CPUS.fetch_or(1 << cpu, Ordering::SeqCst);
        } else {
            idle.thread.work().fetch_or(work::RESCHED, Ordering::SeqCst);
        }
        GLANCE.of(cpu).idle_since.store(time::monotonic_ns(), Ordering::Relaxed);
    }
    hal::thread::adopt_boot_flow(idle, &idle.thread);
    // The compiler may keep what it knows of the current thread for as long as it sees the code: it does not see `next`.
    core::hint::black_box(next)()
}

/// The idle loop: runs what there is, pulls from busy CPUs, else waits for an interrupt.
pub fn idle_loop() -> ! {
    // A task that is bound to this CPU may have been queued before there was anybody to kick.
    schedule();
    loop {
        balance::pull_if_idle();
        cpu::irq_disable();
        if hal::thread::current_work().load(Ordering::SeqCst) & work::RESCHED == 0 {
            cpu::wait_for_interrupt();
        }
        cpu::irq_enable();
        if hal::thread::current_work().load(Ordering::SeqCst) & work::RESCHED != 0 {
            schedule();
        }
    }
}

/// Gives up the CPU. A task whose state is not Running sleeps until it is woken.
pub fn schedule() {
    debug_assert!(cpu::preempt_count() == 0, "scheduling while atomic");
    let task = crate::task::current();
    if task.has_flag(crate::task::flags::WQ_WORKER) {
        return schedule_worker(&task);
    }
    reschedule(Reason::Sleep);
}

/// As [`schedule`], for a worker of the work queues: its pool may let another one run meanwhile (Linux `sched_submit_work`,
/// `sched_update_worker`).
#[cold]
fn schedule_worker(task: &Task) {
    let worker = task.kthread.as_ref().and_then(|kthread| kthread.worker());
    if let Some(worker) = worker.filter(|_| task.state() != TaskState::Running) {
        crate::workqueue::worker_sleeping(worker);
    }
    reschedule(Reason::Sleep);
    if let Some(worker) = worker {
        crate::workqueue::worker_running(worker);
    }
}

/// A reschedule is due and preemption is allowed: hal's `preempt` handler.
///
/// Interrupts stay off throughout: a task that is interrupted again as soon as it is back on the CPU, and so preempted
/// again, must have left this stack frame first. Else each turn of a starved task leaves a frame behind (Linux keeps
/// preemption off in `preempt_schedule_irq`).
pub fn preempt() {
    let masked = cpu::irq_save();
    count_preemption(1);
    while hal::thread::current_work().load(Ordering::SeqCst) & work::RESCHED != 0 {
        reschedule(Reason::Preempt);
    }
    count_preemption(-1);
    cpu::irq_restore(masked);
}

/// In a debug build, counts the frames of [`preempt`] on the current stack. Two are possible: an interrupt at the very end
/// of a preemption that began with interrupts on.
fn count_preemption(change: i32) {
    if cfg!(debug_assertions) {
        let before = crate::task::current().sched.preempt_nesting.fetch_add(change, Ordering::Relaxed);
        assert!(before + change <= 2, "a task is preempted while it is preempted");
    }
}

/// sched_yield(2): lets the others of the same class go first.
pub fn yield_now() {
    reschedule(Reason::Yield);
}

/// Keeps the current task on its CPU while it lives.
struct Pinned;

impl Pinned {
    fn new() -> Self {
        cpu::preempt_disable();
        Self
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        cpu::preempt_enable_no_resched();
    }
}

fn reschedule(reason: Reason) {
    look_for_urgent(reason);
    let (cpu, mut queue) = QUEUES.lock_this();
    let requested = hal::thread::current_work();
    // Under the queue's lock, which whoever asks for a reschedule of this CPU holds, or is this CPU.
    if requested.load(Ordering::SeqCst) & work::RESCHED != 0 {
        requested.fetch_and(!work::RESCHED, Ordering::SeqCst);
    }
    let now = account(&mut queue);
    let previous = queue.current.take().expect("a CPU that schedules has a current task");
    let is_idle = queue.is_idle_task(&previous);
    let mut migrate = false;
    let mut picked = None;
    if reason == Reason::Sleep && previous.state() != TaskState::Running && !keep_awake(&previous) {
        deactivate(cpu, &previous, now);
        queue.classes.leave(&previous);
    } else if !is_idle {
        if previous.sched.allows(cpu) {
            if reason == Reason::Yield {
                stats::count_yield(cpu);
                queue.classes.yield_current(&previous);
            }
            picked = queue.classes.exchange(&previous);
        } else {
            migrate = true;
            queue.classes.leave(&previous);
            previous.sched.set_on_queue(false);
            GLANCE.of(cpu).add_running(-1, now);
        }
    }
    let picked = picked.or_else(|| queue.classes.pick_next());
    let becomes_idle = picked.is_none();
    let next = picked.unwrap_or_else(|| queue.idle.clone().expect("set by adopt_idle"));
    next.sched.exec_start.store(now, Ordering::Relaxed);
    if next.sched.has_short_turns() || queue.classes.deadline.parked() | queue.parked > 0 {
        count_parked(&mut queue, cpu, now);
        arm_event(&queue, cpu, &next, now);
    }
    if becomes_idle && IDLE_CPUS.load(Ordering::Relaxed) >> cpu & 1 == 0 {
        IDLE_CPUS.fetch_or(1 << cpu, Ordering::SeqCst);
    }
    if Arc::ptr_eq(&next, &previous) {
        queue.current = Some(next);
        drop(queue);
        drop(previous);
        return;
    }
    count_switch(cpu, &previous, now, becomes_idle);
    GLANCE.of(cpu).set_urgency(&next.sched);
    balance::announce(cpu, &queue.classes);
    if !is_idle && (previous.sched.on_queue() || migrate) {
        stats::waits(&previous, now);
    }
    if becomes_idle {
        stats::count_idle(cpu);
    } else {
        stats::runs(cpu, &next, now);
    }
    switch_address_space(&next);
    queue.current = Some(next);
    queue.previous = Some(Previous { task: previous, migrate });
    // Switches and, when this task runs again (perhaps on another CPU), lets go of whom it was switched from.
    let saved = hal::thread::switch_locked(queue, RunQueue::switched, |task: &Task| &task.thread);
    finish_switch(saved);
}

/// A real-time or deadline task that waits elsewhere is taken, if it is more urgent than what this CPU runs, or would run
/// when its task goes to sleep.
#[inline(always)]
fn look_for_urgent(reason: Reason) {
    let here = cpu::id();
    if balance::urgent_elsewhere(here) {
        let is_leaving = reason == Reason::Sleep;
        // Who waits here goes first, when this CPU's task goes to sleep.
        if is_leaving && balance::urgent_here(here) {
            return;
        }
        let own = if is_leaving { Priority::of_idle() } else { crate::task::current().sched.priority() };
        balance::pull_urgent(here, own);
    }
}

/// Keeps throttled tasks out of the count of runnable ones.
fn count_parked(queue: &mut RunQueue, cpu: usize, now: u64) {
    let parked = queue.classes.deadline.parked();
    if parked == queue.parked {
        return;
    }
    GLANCE.of(cpu).add_running(queue.parked as i32 - parked as i32, now);
    queue.parked = parked;
}

/// Sees to it that `running`'s turn ends in time, and throttled tasks come back in time, where a tick is too coarse.
#[cold]
fn arm_event(queue: &RunQueue, cpu: usize, running: &Task, now: u64) {
    let glance = GLANCE.of(cpu);
    glance.event.store(queue.classes.next_event_ns(running, now), Ordering::Relaxed);
    if cpu == cpu::id() {
        time::program_next_event();
    }
}

/// A moment came that [`arm_event`] asked for. Interrupts masked.
#[cold]
fn event(cpu: usize, now: u64) {
    let mut queue = QUEUES.of(cpu).lock();
    account(&mut queue);
    while let Some(task) = queue.classes.deadline.pop_due(now) {
        enqueue(&mut queue, cpu, task, Enqueue::Migrate, now);
    }
    count_parked(&mut queue, cpu, now);
    let RunQueue { current: Some(task), classes, .. } = &mut *queue else { return };
    if classes.turn_is_over(task) {
        task.set_need_resched();
    }
    let task = task.clone();
    arm_event(&queue, cpu, &task, now);
    drop(queue);
    if task.sched.server.take_overrun() {
        crate::signal::send_kernel(&task.group, abi::signal::SIGXCPU);
    }
}

/// The second half of a switch, in the thread that was switched to.
#[inline(always)]
fn finish_switch(saved: usize) {
    let mut queue = QUEUES.this().adopt_after_handover(saved);
    let previous = queue.previous.take();
    drop(queue);
    if balance::urgent_here(cpu::id()) {
        balance::push_urgent(cpu::id());
    }
    if let Some(Previous { task, migrate: true }) = previous {
        place(task, Enqueue::Migrate);
    }
}

/// First thing a new thread does: hal's `thread_started` handler. Interrupts stay masked.
pub fn thread_started() {
    // The guard's drop lowers the count that the lock's taker raised in its own thread.
    cpu::preempt_disable();
    let masked = cpu::irq_save();
    finish_switch(masked);
}

/// A signal that came while the task was on its way to sleep keeps it awake (Linux `__schedule`).
fn keep_awake(task: &Task) -> bool {
    if task.signal_ends_sleep(task.state()) {
        task.set_state(TaskState::Running);
        return true;
    }
    false
}

fn deactivate(cpu: usize, task: &Task, now: u64) {
    task.sched.set_on_queue(false);
    GLANCE.of(cpu).add_running(-1, now);
    if task.state().contributes_to_load() {
        task.sched.counted_blocked.store(true, Ordering::Relaxed);
        BLOCKED.fetch_add(1, Ordering::Relaxed);
    }
}

fn switch_address_space(next: &Task) {
    next.with_mm(|mm| match mm {
        Some(mm) => mm.hardware().activate(),
        None => hal::mmu::deactivate(),
    });
}

fn count_switch(cpu: usize, previous: &Task, now: u64, becomes_idle: bool) {
    let glance = GLANCE.of(cpu);
    add(&glance.switches, 1);
    crate::task::rseq::note_interruption(previous);
    let times = &previous.times;
    add(if previous.sched.on_queue() { &times.involuntary_switches } else { &times.voluntary_switches }, 1);
    let was_idle = glance.idle.load(Ordering::Relaxed);
    if becomes_idle == was_idle {
        return;
    }
    glance.idle.store(becomes_idle, Ordering::SeqCst);
    if becomes_idle {
        // The tick stays armed: a short pause costs no change of the timer. A tick that finds the CPU idle is the last.
        glance.idle_since.store(now, Ordering::Relaxed);
        return;
    }
    add(&glance.idle_ns, now.saturating_sub(glance.idle_since.load(Ordering::Relaxed)));
    if glance.next_tick.load(Ordering::Relaxed) == u64::MAX {
        glance.next_tick.store(now + TICK_NS, Ordering::Relaxed);
        // No tick came meanwhile.
        load::idle_ends(now);
        time::update_coarse();
        time::program_next_event();
    }
}

/// Adds to a counter whose only writer is the holder of a run queue's lock: cheaper than an atomic addition.
#[inline(always)]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

/// Charges the current task for the time since it was last charged. Returns the time now.
#[inline]
fn account(queue: &mut RunQueue) -> u64 {
    let now = time::monotonic_ns();
    let RunQueue { current: Some(task), idle, classes, .. } = queue else { return now };
    let delta = now.saturating_sub(task.sched.exec_start.load(Ordering::Relaxed));
    task.sched.exec_start.store(now, Ordering::Relaxed);
    if idle.as_ref().is_some_and(|idle| Arc::ptr_eq(idle, task)) {
        return now;
    }
    add(&task.sched.sum_exec_ns, delta);
    let times = &task.times;
    add(if task.sched.in_kernel.load(Ordering::Relaxed) { &times.system_ns } else { &times.user_ns }, delta);
    classes.account(task, delta, now);
    now
}

/// What a wake-up did. A reference that the run queue did not need comes back: the caller drops it where no lock is held,
/// because the task may have ended meanwhile.
pub enum Woken {
    /// The task sleeps no more.
    Queued,
    /// It had named its state but not yet slept: it will find itself Running.
    Awake(Arc<Task>),
    /// It was in none of the states asked for.
    Not(Arc<Task>),
}

/// Makes a task runnable if its state is in `mask` ([`TaskState::NORMAL`] and its neighbours). False when it was not.
pub fn wake(task: &Arc<Task>, mask: u32) -> bool {
    !matches!(wake_owned(task.clone(), mask), Woken::Not(_))
}

/// As [`wake`], with a reference that goes to the run queue.
pub fn wake_owned(task: Arc<Task>, mask: u32) -> Woken {
    loop {
        let cpu = task.sched.cpu();
        let queue = QUEUES.of(cpu).lock();
        if task.sched.cpu() != cpu {
            continue;
        }
        if task.state_number() & mask == 0 {
            return Woken::Not(task);
        }
        task.set_state(TaskState::Running);
        if task.sched.on_queue() {
            return Woken::Awake(task);
        }
        if task.sched.counted_blocked.load(Ordering::Relaxed) {
            task.sched.counted_blocked.store(false, Ordering::Relaxed);
            BLOCKED.fetch_sub(1, Ordering::Relaxed);
        }
        let how = if mask == TaskState::FOR_NEW { Enqueue::New } else { Enqueue::Wakeup };
        let target = placement::choose_cpu(&task, cpu, how);
        stats::woken(&task);
        if target == cpu {
            activate(queue, cpu, task, how);
            return Woken::Queued;
        }
        // In flight between two queues: Running but on none, so no other waker touches it.
        stats::count_migration(&task);
        task.sched.set_cpu(target);
        drop(queue);
        activate(QUEUES.of(target).lock(), target, task, how);
        return Woken::Queued;
    }
}

/// Waits until a task that is about to sleep uninterruptibly is off its CPU, with its registers saved (Linux
/// `wait_task_inactive`).
pub fn wait_inactive(task: &Arc<Task>) {
    loop {
        let cpu = task.sched.cpu();
        let queue = QUEUES.of(cpu).lock();
        // The queue's lock is held across a switch, so who sees the task off the queue sees it off the CPU.
        if task.sched.cpu() == cpu && !task.sched.on_queue() {
            return;
        }
        drop(queue);
        yield_now();
    }
}

/// Starts a task that was never run (Linux `wake_up_new_task`).
pub fn start(task: &Arc<Task>) {
    change_cpu(task, cpu::id);
    FORKS.fetch_add(1, Ordering::Relaxed);
    let woke = wake(task, TaskState::FOR_NEW);
    debug_assert!(woke, "a new task is woken once");
}

/// Puts a runnable task that is on no queue onto one that it may use.
fn place(task: Arc<Task>, how: Enqueue) {
    let target = change_cpu(&task, || placement::choose_cpu(&task, task.sched.cpu(), how));
    stats::count_migration(&task);
    activate(QUEUES.of(target).lock(), target, task, how);
}

/// Makes a task that is on no queue another CPU's. Who changes its weight or its CPUs ([`policy`]) holds the queue of its CPU:
/// with that held here, a change comes before the task is placed elsewhere, or finds it there.
fn change_cpu(task: &Task, choose: impl FnOnce() -> usize) -> usize {
    let _queue = QUEUES.of(task.sched.cpu()).lock();
    let target = choose();
    task.sched.set_cpu(target);
    target
}

#[inline]
fn activate(mut queue: IrqGuard<'_, RunQueue>, cpu: usize, task: Arc<Task>, how: Enqueue) {
    let now = account(&mut queue);
    stats::queued(cpu, &task, now);
    task.sched.set_on_queue(true);
    GLANCE.of(cpu).add_running(1, now);
    enqueue(&mut queue, cpu, task, how, now);
    drop(queue);
    if balance::urgent_here(cpu) {
        balance::push_urgent(cpu);
    }
}

/// Puts a runnable task into its class's queue; it may take the CPU.
#[inline]
fn enqueue(queue: &mut RunQueue, cpu: usize, task: Arc<Task>, how: Enqueue, now: u64) {
    let RunQueue { current, idle, classes, .. } = queue;
    classes.place(&task, how, current.as_ref(), now);
    if let Some(running) = current.as_ref() {
        let idle = idle.as_ref().is_some_and(|idle| Arc::ptr_eq(idle, running));
        if idle || classes.preempts(&task, running) {
            kick(cpu, running);
        }
        if idle && IDLE_CPUS.load(Ordering::Relaxed) >> cpu & 1 != 0 {
            IDLE_CPUS.fetch_and(!(1 << cpu), Ordering::SeqCst);
        }
    }
    classes.insert(task);
    balance::announce(cpu, classes);
}

/// Makes the CPU that runs `task` reschedule soon.
fn kick(cpu: usize, task: &Task) {
    let already = task.thread.work().fetch_or(work::RESCHED, Ordering::SeqCst) & work::RESCHED != 0;
    if !already && cpu != cpu::id() {
        cpu::send_ipi(cpu);
    }
}

/// Makes a task that is in user code on another CPU enter the kernel, to see its new work bits (Linux `kick_process`).
pub fn kick_task(task: &Task) {
    let cpu = task.sched.cpu();
    if cpu != cpu::id() && task.sched.on_queue() {
        cpu::send_ipi(cpu);
    }
}

/// Whether the task that `cpu` runs has a property. What that CPU did before it took up its task is seen by the caller, and it
/// sees what the caller did when it takes up another one: both hold the run queue's lock.
pub fn runs_on(cpu: usize, is_it: impl Fn(&Task) -> bool) -> bool {
    QUEUES.of(cpu).lock().current.as_ref().is_some_and(|task| is_it(task))
}

/// When this CPU wants its next tick.
pub fn next_tick_ns() -> u64 {
    let glance = GLANCE.this();
    glance.next_tick.load(Ordering::Relaxed).min(glance.event.load(Ordering::Relaxed))
}

/// A CPU's tick, as `/proc/timer_list` shows it.
pub struct TickState {
    /// When it comes next; `None`: it has stopped, because the CPU is idle.
    pub next_tick_ns: Option<u64>,
    /// Whether the CPU has nothing to do.
    pub is_idle: bool,
}

/// How the tick of `cpu` stands.
pub fn tick_state(cpu: usize) -> TickState {
    let glance = GLANCE.of(cpu);
    let next = glance.next_tick.load(Ordering::Relaxed);
    TickState { next_tick_ns: (next != u64::MAX).then_some(next), is_idle: glance.idle.load(Ordering::Relaxed) }
}

/// The tick, on the CPU that was interrupted. Interrupts masked.
pub fn tick(now_ns: u64, in_user: bool) {
    let cpu = cpu::id();
    let glance = GLANCE.of(cpu);
    if now_ns >= glance.event.load(Ordering::Relaxed) {
        event(cpu, now_ns);
    }
    if now_ns < glance.next_tick.load(Ordering::Relaxed) {
        return;
    }
    if glance.idle.load(Ordering::Relaxed) {
        glance.next_tick.store(u64::MAX, Ordering::Relaxed);
        load::update(now_ns, active_tasks());
        load::idle_begins(active_tasks());
        return;
    }
    glance.next_tick.store(now_ns + TICK_NS, Ordering::Relaxed);
    {
        let mut queue = QUEUES.of(cpu).lock();
        if let Some(task) = queue.current.as_ref() {
            task.sched.in_kernel.store(!in_user, Ordering::Relaxed);
        }
        account(&mut queue);
        let RunQueue { current, classes, .. } = &mut *queue;
        if let Some(task) = current.as_ref()
            && classes.turn_is_over(task)
        {
            task.set_need_resched();
        }
        balance::publish_load(cpu, classes, current.as_ref());
    }
    load::update(now_ns, active_tasks());
    psi::on_tick(now_ns);
    balance::on_tick(cpu, now_ns);
}

/// Tasks that count to the load now.
pub fn active_tasks() -> u64 {
    running_tasks() + BLOCKED.load(Ordering::Relaxed).max(0).cast_unsigned()
}

/// Tasks that run or want to run.
pub fn running_tasks() -> u64 {
    GLANCE.iter().map(|glance| u64::from(glance.running.load(Ordering::Relaxed))).sum()
}

/// Tasks asleep uninterruptibly (`procs_blocked`).
pub fn blocked_tasks() -> u64 {
    BLOCKED.load(Ordering::Relaxed).max(0).cast_unsigned()
}

/// Context switches since boot on all CPUs.
pub fn switch_count() -> u64 {
    GLANCE.iter().map(|glance| glance.switches.load(Ordering::Relaxed)).sum()
}

/// Time that `cpu` has been idle, ns.
pub fn idle_ns(cpu: usize) -> u64 {
    let glance = GLANCE.of(cpu);
    let sum = glance.idle_ns.load(Ordering::Relaxed);
    if !glance.idle.load(Ordering::Relaxed) {
        return sum;
    }
    sum + time::monotonic_ns().saturating_sub(glance.idle_since.load(Ordering::Relaxed))
}

/// The current task ends: it has no bandwidth any more.
pub fn exit() {
    account_current();
    bandwidth::release(&crate::task::current());
}

/// Brings the current task's times up to date, for getrusage and the CPU clocks.
pub fn account_current() {
    let _pinned = Pinned::new();
    account(&mut QUEUES.this().lock());
}
