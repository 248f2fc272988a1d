//! Time: clocks, and all that happens when they show something.
//!
//! [`clock`] reads and sets them; [`discipline`] changes their speed (adjtimex(2)). [`timer`] is the one queue per CPU that
//! everything waits in which waits for a time: sleeps ([`sleep`]), interval timers ([`interval`]), the timers of
//! timer_create(2) ([`posix`]) and of timerfd_create(2) ([`timerfd`]). Clocks that count CPU time ([`cpu`]) have no queue: the
//! tick looks at what waits for them.
//!
//! Two clocks run: the counter's nanoseconds (`hal::timer::raw_ns`) and the monotonic clock, which is the counter slewed. The
//! others are the monotonic one and an offset. Everything inside the kernel is on the monotonic clock.

mod clock;
pub mod cpu;
pub mod discipline;
mod heap;
pub mod interval;
pub mod posix;
mod sleep;
pub mod timer;
pub mod timerfd;

use crate::sched;
use crate::task::current;

pub use clock::{
    NSEC_PER_SEC, boot_time_ns, boottime_ns, clock_ns, clock_resolution_ns, monotonic_ns, publish_vdso, realtime,
    realtime_ns, set_realtime, set_time_zone, settable_ns, step_realtime, time_zone, timespec, timespec_ns,
    update_coarse,
};
pub use interval::ProcessTimers;
pub use sleep::{SleepTimer, schedule_until, schedule_within, slack_ns, sleep_on, sleep_on_cpu};
pub use timer::{Base, Timer, TimerCallback};

/// Asks the hardware for the earliest of this CPU's timers and its tick. Interrupts masked or preemption off.
pub fn program_next_event() {
    hal::timer::set_deadline(timer::next_deadline_ns().min(sched::next_tick_ns()));
}

/// A per-CPU deadline passed: hal's `timer` handler, interrupts masked.
pub fn timer_interrupt() {
    let now = monotonic_ns();
    timer::count_interrupt();
    timer::run_expired(now);
    crate::printk::deliver_wakeups();
    if now >= sched::next_tick_ns() {
        clock::update_coarse();
        let in_user = hal::trap::interrupted_user();
        sched::tick(now, in_user);
        interval::charge_tick(&current());
        crate::init::refill_zeroed_frames();
    }
    program_next_event();
}
