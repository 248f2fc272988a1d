//! `/proc/timer_list`: every CPU's timers and tick (Linux `kernel/time/timer_list.c`).

use alloc::vec::Vec;

use super::text::Text;
use crate::Result;
use crate::sched;
use crate::time::timer::{self, Listed};
use crate::time::{Base, monotonic_ns};

/// Of each CPU at most so many timers are shown.
const LIMIT: usize = 256;

/// `/proc/timer_list`. Linux's names of what there is here; what a machine that never suspends does not have is left out.
pub(super) fn timer_list(text: &mut Text) -> Result<()> {
    let now_ns = monotonic_ns();
    text.str("Timer List Version: v0.9\nHRTIMER_MAX_CLOCK_BASES: 3\nnow at ").num(now_ns).str(" nsecs\n\n");
    for cpu in super::global::cpus() {
        cpu_timers(text, cpu, now_ns);
    }
    Ok(())
}

fn cpu_timers(text: &mut Text, cpu: usize, now_ns: u64) {
    let (mut timers, count) = timer::list(cpu, LIMIT);
    timers.sort_by_key(|timer| (timer.hard_ns, timer.soft_ns));
    text.str("cpu: ").num(cpu as u64).byte(b'\n');
    for base in [Base::Monotonic, Base::Realtime, Base::Tai] {
        let name = match base {
            Base::Monotonic => "ktime_get",
            Base::Realtime => "ktime_get_real",
            Base::Tai => "ktime_get_clocktai",
        };
        text.str(" clock ").num(base as u64).str(":\n  .index:      ").num(base as u64);
        text.str("\n  .resolution: 1 nsecs\n  .get_time:   ").str(name);
        text.str("\n  .offset:     ").num(base.now_ns().saturating_sub(monotonic_ns())).str(" nsecs\nactive timers:\n");
        let own: Vec<&Listed> = timers.iter().filter(|timer| timer.base == base).collect();
        for (number, timer) in own.into_iter().enumerate() {
            push_timer(text, number, timer, now_ns);
        }
    }
    let glance = sched::tick_state(cpu);
    let stopped = u64::from(glance.next_tick_ns.is_none());
    let first = timers.first().map(|timer| timer.hard_ns);
    let next = first.into_iter().chain(glance.next_tick_ns).min().unwrap_or(i64::MAX as u64);
    text.str("  .expires_next   : ").num(next).str(" nsecs\n  .hres_active    : 1\n  .nr_events      : ");
    text.num(timer::interrupts(cpu)).str("\n  .nr_timers      : ").num(count as u64);
    text.str("\n  .nohz_mode      : 2\n  .tick_stopped   : ").num(stopped);
    text.str("\n  .idle_active    : ").num(u64::from(glance.is_idle)).str("\n  .idle_sleeptime : ");
    text.num(sched::idle_ns(cpu)).str(" nsecs\n\n");
}

fn push_timer(text: &mut Text, number: usize, timer: &Listed, now_ns: u64) {
    let function = if timer.task.is_some() { "hrtimer_wakeup" } else { "posix_timer_fn" };
    text.str(" #").num(number as u64).str(": <0000000000000000>, ").str(function).str(", S:01");
    if let Some(task) = &timer.task {
        text.str(", ").str(&task.comm()).byte(b'/').int(i64::from(task.tid()));
    }
    let from_now = |ns: u64| ns.cast_signed().saturating_sub(now_ns.cast_signed());
    text.str("\n # expires at ").num(timer.soft_ns).byte(b'-').num(timer.hard_ns).str(" nsecs [in ");
    text.int(from_now(timer.soft_ns)).str(" to ").int(from_now(timer.hard_ns)).str(" nsecs]\n");
}
