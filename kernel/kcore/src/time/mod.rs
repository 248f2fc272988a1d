//! Time: clocks, high-resolution timers, the tick, interval and POSIX timers.

mod clock;
pub mod process_timers;
pub mod timer;

use crate::sched;
use crate::task::{TaskState, current};

pub use clock::{
    NSEC_PER_SEC, boottime_ns, clock_ns, clock_resolution_ns, monotonic_ns, publish_vdso, realtime, realtime_ns,
    set_realtime, timespec, timespec_ns, update_coarse,
};
pub use process_timers::ProcessTimers;
pub use timer::{Timer, TimerCallback};

/// Gives up the CPU in the state that the caller has set, until woken or until the monotonic clock reaches `deadline_ns`
/// (Linux `schedule_hrtimeout`).
pub fn schedule_until(deadline_ns: u64) {
    let timer = Timer::wake(&current().arc());
    timer.start(deadline_ns);
    sched::schedule();
    timer.cancel();
    debug_assert!(current().state() == TaskState::Running, "schedule returns to a running task");
}

/// Asks the hardware for the earliest of this CPU's timers and its tick. Interrupts masked or preemption off.
pub fn program_next_event() {
    hal::timer::set_deadline(timer::next_deadline_ns().min(sched::next_tick_ns()));
}

/// A per-CPU deadline passed: hal's `timer` handler, interrupts masked.
pub fn timer_interrupt() {
    let now = monotonic_ns();
    timer::run_expired(now);
    crate::printk::deliver_wakeups();
    if now >= sched::next_tick_ns() {
        clock::update_coarse();
        let in_user = hal::trap::interrupted_user();
        sched::tick(now, in_user);
        process_timers::charge_tick(&current(), in_user);
    }
    program_next_event();
}
