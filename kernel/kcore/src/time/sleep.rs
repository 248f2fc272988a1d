//! Sleeping to a time: nanosleep(2), clock_nanosleep(2), and the timeout of every other wait.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::sched::{SCHED_DEADLINE, SCHED_FIFO, SCHED_RR};

use super::cpu::{CpuClock, CpuTimer};
use super::timer::{Base, Timer};
use crate::Result;
use crate::sched;
use crate::task::{Task, TaskState, current};

/// The timer that a task sleeps with: made at its first sleep to a time, and kept.
#[derive(Default)]
pub struct SleepTimer(spin::Once<Arc<Timer>>);

impl SleepTimer {
    fn of(task: &hal::thread::Current<Task>) -> &Arc<Timer> {
        task.sleep_timer.0.call_once(|| Timer::wake(&task.arc()))
    }
}

/// How late a task's timeouts may be, to share an interrupt with others: never those of a real-time task (prctl(2),
/// PR_SET_TIMERSLACK).
pub fn slack_ns(task: &Task) -> u64 {
    match task.sched.policy.load(Ordering::Relaxed) {
        SCHED_FIFO | SCHED_RR | SCHED_DEADLINE => 0,
        _ => task.timer_slack_ns.load(Ordering::Relaxed),
    }
}

/// Gives up the CPU in the state that the caller has set, until woken or until the monotonic clock reaches `deadline_ns`
/// (Linux `schedule_hrtimeout`).
pub fn schedule_until(deadline_ns: u64) {
    schedule_within(deadline_ns, slack_ns(&current()));
}

/// As [`schedule_until`], with a slack of the caller's (Linux `schedule_hrtimeout_range`).
pub fn schedule_within(deadline_ns: u64, slack_ns: u64) {
    schedule_on(Base::Monotonic, deadline_ns, slack_ns);
}

fn schedule_on(base: Base, deadline_ns: u64, slack_ns: u64) {
    let task = current();
    let timer = SleepTimer::of(&task);
    timer.start_on(base, deadline_ns, slack_ns);
    sched::schedule();
    timer.cancel();
    debug_assert!(task.state() == TaskState::Running, "schedule returns to a running task");
}

/// Sleeps until a clock reaches `deadline_ns`, whatever is done to the clock meanwhile; `ERESTARTSYS` when a signal ends the
/// sleep.
pub fn sleep_on(base: Base, deadline_ns: u64) -> Result<()> {
    let slack_ns = slack_ns(&current());
    sleep_while_early(|| {
        let early = base.now_ns() < deadline_ns;
        early.then_some(move || schedule_on(base, deadline_ns, slack_ns))
    })
}

/// The same on a CPU clock. `EINVAL` when whom it counts for is gone.
pub fn sleep_on_cpu(clock: &CpuClock, deadline_ns: u64) -> Result<()> {
    let timer = CpuTimer::wake(&current().arc());
    let mut is_gone = false;
    let result = sleep_while_early(|| {
        let now = clock.now_ns();
        is_gone = now.is_none();
        let early = now.is_some_and(|now| now < deadline_ns);
        early.then_some(|| {
            clock.arm(deadline_ns, &timer);
            sched::schedule();
            clock.disarm(deadline_ns, &timer);
        })
    });
    if is_gone { Err(Errno::EINVAL) } else { result }
}

/// Sleeps by what `early` returns for as long as it returns something.
fn sleep_while_early<S: FnOnce()>(mut early: impl FnMut() -> Option<S>) -> Result<()> {
    let task = current();
    loop {
        let Some(sleep) = early() else { return Ok(()) };
        task.set_state(TaskState::Interruptible);
        if task.signal_ends_sleep(TaskState::Interruptible) {
            task.set_state(TaskState::Running);
            return Err(Errno::ERESTARTSYS);
        }
        sleep();
    }
}
