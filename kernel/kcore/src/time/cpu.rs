//! Clocks that count what a process or a thread computes, and timers on them (Linux `posix-cpu-timers.c`).
//!
//! A clock is named by a number: `(~id << 3) | (4 for a thread) | kind`, which clock_getcpuclockid(3) and
//! pthread_getcpuclockid(3) make. A process keeps the timers on its clock and on its threads' clocks in one ordered table,
//! which its threads look at when a tick finds them running: a clock moves only then. A timer may belong to another process
//! than the one it watches.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::time::{CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID};

use super::posix::PosixTimer;
use crate::Result;
use crate::sched;
use crate::task::usage::{self, Usage};
use crate::task::{Task, TaskState, ThreadGroup, current};

/// What a CPU clock counts (Linux `CPUCLOCK_PROF` and its neighbours).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// User and system time.
    Profiling = 0,
    /// User time.
    Virtual = 1,
    /// Time on the CPU.
    Scheduled = 2,
}

impl Kind {
    fn of(self, usage: &Usage) -> u64 {
        match self {
            Kind::Virtual => usage.user_ns,
            Kind::Profiling | Kind::Scheduled => usage.user_ns + usage.system_ns,
        }
    }
}

/// Who may be named by the number of a process's clock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Reading the clock: the caller's own TID means its process.
    Reading,
    /// Anything else.
    Other,
}

/// The clock of a process or of a thread.
#[derive(Clone)]
pub struct CpuClock {
    kind: Kind,
    group: Weak<ThreadGroup>,
    /// `None`: of the whole process.
    thread: Option<Weak<Task>>,
    /// Of the thread, to tell its timers from others.
    tid: i32,
}

impl CpuClock {
    /// The clock that a number names. `None`: no CPU clock. `EINVAL` when there is no such process, or the thread is not one
    /// of the caller's (Linux `pid_for_clock`).
    pub fn named(id: i32, purpose: Use) -> Option<Result<CpuClock>> {
        match id {
            CLOCK_PROCESS_CPUTIME_ID => Some(Ok(Self::of_process(&current().group, Kind::Scheduled))),
            CLOCK_THREAD_CPUTIME_ID => Some(Ok(Self::of_thread(&current().arc(), Kind::Scheduled))),
            // The kind 3 is a clock by descriptor: no device here is one.
            id if id < 0 && id & 3 != 3 => Some(Self::by_number(id, purpose)),
            _ => None,
        }
    }

    fn by_number(id: i32, purpose: Use) -> Result<CpuClock> {
        let kind = match id & 3 {
            0 => Kind::Profiling,
            1 => Kind::Virtual,
            _ => Kind::Scheduled,
        };
        let (number, is_thread) = (!(id >> 3), id & 4 != 0);
        let task = if number == 0 { current().arc() } else { crate::task::find(number).ok_or(Errno::EINVAL)? };
        if is_thread {
            let own = Arc::ptr_eq(&task.group, &current().group);
            return if own { Ok(Self::of_thread(&task, kind)) } else { Err(Errno::EINVAL) };
        }
        let own_tid = purpose == Use::Reading && core::ptr::eq(&*task, &*current());
        if number != 0 && !own_tid && !task.is_leader() {
            return Err(Errno::EINVAL);
        }
        Ok(Self::of_process(&task.group, kind))
    }

    fn of_process(group: &Arc<ThreadGroup>, kind: Kind) -> CpuClock {
        CpuClock { kind, group: Arc::downgrade(group), thread: None, tid: 0 }
    }

    fn of_thread(task: &Arc<Task>, kind: Kind) -> CpuClock {
        let thread = Some(Arc::downgrade(task));
        CpuClock { kind, group: Arc::downgrade(&task.group), thread, tid: task.tid() }
    }

    /// Whether it is the clock of the caller's own thread, which stands still while that sleeps.
    pub fn is_of_current_thread(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| core::ptr::eq(thread.as_ptr(), &raw const *current()))
    }

    /// The clock now, ns. `None`: whom it counted for is gone.
    pub fn now_ns(&self) -> Option<u64> {
        match &self.thread {
            Some(thread) => thread.upgrade().map(|thread| thread_ns(&thread, self.kind)),
            None => self.group.upgrade().map(|group| process_ns(&group, self.kind)),
        }
    }

    /// Its resolution, ns: those that tell user from system time are told in ticks (`posix_cpu_clock_getres`).
    pub fn resolution_ns(&self) -> u64 {
        if self.kind == Kind::Scheduled { 1 } else { sched::TICK_NS }
    }

    fn key(&self, expiry_ns: u64, timer: &CpuTimer) -> Key {
        Key { tid: self.tid, kind: self.kind, expiry_ns, serial: timer.serial }
    }

    /// Arms `timer` for `expiry_ns` of this clock. It expires at the first tick after that.
    pub fn arm(&self, expiry_ns: u64, timer: &Arc<CpuTimer>) {
        if let Some(group) = self.group.upgrade() {
            group.timers.watch_cpu(|table| table.insert(self.key(expiry_ns, timer), timer.clone()));
        }
    }

    /// Takes back [`Self::arm`].
    pub fn disarm(&self, expiry_ns: u64, timer: &CpuTimer) {
        if let Some(group) = self.group.upgrade() {
            let gone = group.timers.watch_cpu(|table| table.remove(&self.key(expiry_ns, timer)));
            drop(gone);
        }
    }
}

/// CPU time of a process.
pub fn process_ns(group: &ThreadGroup, kind: Kind) -> u64 {
    sched::account_current();
    kind.of(&usage::of_process(group))
}

/// CPU time of a thread.
pub fn thread_ns(task: &Task, kind: Kind) -> u64 {
    sched::account_current();
    kind.of(&task.times.snapshot())
}

hal::global! {
    static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);
}

/// What happens when a CPU clock reaches a time.
pub struct CpuTimer {
    serial: u64,
    action: Action,
}

enum Action {
    /// A timer of timer_create(2) expires.
    Posix(Weak<PosixTimer>),
    /// A task that sleeps on the clock wakes.
    Wake(Weak<Task>),
}

impl CpuTimer {
    fn new(action: Action) -> Arc<Self> {
        Arc::new(Self { serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed), action })
    }

    /// For a timer of timer_create(2).
    pub(super) fn posix(timer: Weak<PosixTimer>) -> Arc<Self> {
        Self::new(Action::Posix(timer))
    }

    /// For a sleep.
    pub fn wake(task: &Arc<Task>) -> Arc<Self> {
        Self::new(Action::Wake(Arc::downgrade(task)))
    }

    /// In interrupt context, without a lock.
    pub(super) fn expired(&self) {
        match &self.action {
            Action::Posix(timer) => {
                if let Some(timer) = timer.upgrade() {
                    timer.expire(None);
                }
            }
            Action::Wake(task) => {
                if let Some(task) = task.upgrade() {
                    sched::wake(&task, TaskState::NORMAL);
                }
            }
        }
    }
}

/// The order of a process's timers: by whose clock, by what it counts, by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// 0: the clock of the process.
    tid: i32,
    kind: Kind,
    expiry_ns: u64,
    serial: u64,
}

/// Armed timers on the CPU clocks of a process and its threads.
pub(super) type Table = BTreeMap<Key, Arc<CpuTimer>>;

/// Takes a timer out of `table` that has expired for the process or for its running thread.
pub(super) fn take_expired(table: &mut Table, tid: i32, process: &Usage, thread: &Usage) -> Option<Arc<CpuTimer>> {
    for (tid, usage) in [(0, process), (tid, thread)] {
        for kind in [Kind::Profiling, Kind::Virtual, Kind::Scheduled] {
            let from = Key { tid, kind, expiry_ns: 0, serial: 0 };
            let to = Key { expiry_ns: kind.of(usage), serial: u64::MAX, ..from };
            let due = table.range(from..=to).next().map(|(key, _)| *key);
            if let Some(timer) = due.and_then(|key| table.remove(&key)) {
                return Some(timer);
            }
        }
    }
    None
}
