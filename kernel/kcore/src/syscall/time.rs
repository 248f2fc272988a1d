//! Time: nanosleep(2), clock_gettime(2), setitimer(2), timer_create(2).

use abi::Errno;
use abi::capability::CAP_SYS_TIME;
use abi::time as t;
use abi::time::{Itimerspec, Itimerval, Sigevent, Timespec, Timeval, Timezone};

use super::{Context, UserPtr};
use crate::Result;
use crate::signal::{self, RestartBlock};
use crate::sync;
use crate::task::TaskState;
use crate::time::process_timers::{self, Notify};
use crate::time::{self, NSEC_PER_SEC};

/// nanosleep(2).
pub fn nanosleep(cx: &mut Context<'_>, request: UserPtr<Timespec>, remaining: UserPtr<Timespec>) -> Result<usize> {
    let ns = time::timespec_ns(&request.read()?)?;
    sleep_until(cx, time::monotonic_ns().saturating_add(ns), remaining.address())
}

/// clock_nanosleep(2).
pub fn clock_nanosleep(
    cx: &mut Context<'_>,
    clock: i32,
    flags: i32,
    request: UserPtr<Timespec>,
    remaining: UserPtr<Timespec>,
) -> Result<usize> {
    match clock {
        t::CLOCK_REALTIME | t::CLOCK_MONOTONIC | t::CLOCK_BOOTTIME | t::CLOCK_TAI => {}
        t::CLOCK_THREAD_CPUTIME_ID => return Err(Errno::EINVAL),
        t::CLOCK_PROCESS_CPUTIME_ID | t::CLOCK_MONOTONIC_RAW | t::CLOCK_REALTIME_COARSE | t::CLOCK_MONOTONIC_COARSE => {
            return Err(Errno::EOPNOTSUPP);
        }
        _ => return Err(Errno::EINVAL),
    }
    let ns = time::timespec_ns(&request.read()?)?;
    if flags.cast_unsigned() & t::TIMER_ABSTIME == 0 {
        return sleep_until(cx, time::monotonic_ns().saturating_add(ns), remaining.address());
    }
    // An absolute sleep is simply done again after a signal: no remainder (clock_nanosleep(2)).
    let distance = ns.saturating_sub(time::clock_ns(clock)?);
    sync::sleep_until(TaskState::Interruptible, time::monotonic_ns().saturating_add(distance))
        .map(|()| 0)
        .map_err(|_| Errno::ERESTARTNOHAND)
}

/// Sleeps to a monotonic deadline; interrupted, tells what is left and arranges for restart_syscall.
pub(super) fn sleep_until(cx: &mut Context<'_>, deadline_ns: u64, remaining: u64) -> Result<usize> {
    if sync::sleep_until(TaskState::Interruptible, deadline_ns).is_ok() {
        return Ok(0);
    }
    let left = deadline_ns.saturating_sub(time::monotonic_ns());
    UserPtr::<Timespec>::new(remaining).write_if_wanted(&time::timespec(left))?;
    *cx.task.restart.lock() = RestartBlock::Sleep { deadline_ns, remaining };
    Err(Errno::ERESTART_RESTARTBLOCK)
}

/// clock_gettime(2).
pub fn clock_gettime(_cx: &mut Context<'_>, clock: i32, value: UserPtr<Timespec>) -> Result<usize> {
    value.write(&time::timespec(time::clock_ns(clock)?))?;
    Ok(0)
}

/// clock_getres(2).
pub fn clock_getres(_cx: &mut Context<'_>, clock: i32, value: UserPtr<Timespec>) -> Result<usize> {
    value.write_if_wanted(&time::timespec(time::clock_resolution_ns(clock)?))?;
    Ok(0)
}

/// clock_settime(2): only the real-time clock can be set.
pub fn clock_settime(cx: &mut Context<'_>, clock: i32, value: UserPtr<Timespec>) -> Result<usize> {
    if clock != t::CLOCK_REALTIME {
        return Err(Errno::EINVAL);
    }
    let ns = time::timespec_ns(&value.read()?)?;
    set_clock(cx, ns)
}

fn set_clock(cx: &Context<'_>, ns: u64) -> Result<usize> {
    if !cx.task.capable(CAP_SYS_TIME) {
        return Err(Errno::EPERM);
    }
    time::set_realtime(ns);
    Ok(0)
}

/// gettimeofday(2).
pub fn gettimeofday(_cx: &mut Context<'_>, value: UserPtr<Timeval>, zone: UserPtr<Timezone>) -> Result<usize> {
    let ns = time::realtime_ns();
    let now = Timeval { tv_sec: (ns / NSEC_PER_SEC).cast_signed(), tv_usec: (ns % NSEC_PER_SEC / 1000).cast_signed() };
    value.write_if_wanted(&now)?;
    zone.write_if_wanted(&Timezone::default())?;
    Ok(0)
}

/// settimeofday(2). The time zone is accepted and, as the page advises, not kept.
pub fn settimeofday(cx: &mut Context<'_>, value: UserPtr<Timeval>, _zone: UserPtr<Timezone>) -> Result<usize> {
    let Some(value) = value.non_null() else { return Ok(0) };
    let value = value.read()?;
    if !(0..1_000_000).contains(&value.tv_usec) {
        return Err(Errno::EINVAL);
    }
    let ns = time::timespec_ns(&Timespec { tv_sec: value.tv_sec, tv_nsec: value.tv_usec * 1000 })?;
    set_clock(cx, ns)
}

/// getitimer(2).
pub fn getitimer(cx: &mut Context<'_>, which: i32, value: UserPtr<Itimerval>) -> Result<usize> {
    value.write(&process_timers::get_interval(&cx.task.group, which)?)?;
    Ok(0)
}

/// setitimer(2). A NULL new value disarms, as Linux does with a warning.
pub fn setitimer(cx: &mut Context<'_>, which: i32, new: UserPtr<Itimerval>, old: UserPtr<Itimerval>) -> Result<usize> {
    let new = new.non_null().map_or_else(|| Ok(Itimerval::default()), UserPtr::read)?;
    let before = process_timers::set_interval(&cx.task.group, which, &new)?;
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// timer_create(2).
pub fn timer_create(cx: &mut Context<'_>, clock: i32, event: u64, id: UserPtr<i32>) -> Result<usize> {
    time::clock_ns(clock)?;
    let event = UserPtr::<Sigevent>::new(event).non_null().map(UserPtr::read).transpose()?;
    let notify = event.as_ref().map(|event| notify_of(cx, event)).transpose()?;
    let created = process_timers::create(&cx.task.group, clock, |id| {
        // Without a sigevent: SIGALRM with the timer's id as its value.
        notify.unwrap_or(Notify::Process { signal: abi::signal::SIGALRM, value: u64::from(id.cast_unsigned()) })
    })?;
    if let Err(error) = id.write(&created) {
        process_timers::delete(&cx.task.group, created)?;
        return Err(error);
    }
    Ok(0)
}

fn notify_of(cx: &Context<'_>, event: &Sigevent) -> Result<Notify> {
    let signal = u32::try_from(event.sigev_signo).map_err(|_| Errno::EINVAL);
    let valid = || signal.and_then(|n| if (1..=signal::COUNT).contains(&n) { Ok(n) } else { Err(Errno::EINVAL) });
    match event.sigev_notify {
        t::SIGEV_NONE => Ok(Notify::None),
        t::SIGEV_SIGNAL | t::SIGEV_THREAD => Ok(Notify::Process { signal: valid()?, value: event.sigev_value }),
        t::SIGEV_THREAD_ID => {
            let thread = crate::task::find(event.sigev_tid).ok_or(Errno::EINVAL)?;
            if !alloc::sync::Arc::ptr_eq(&thread.group, &cx.task.group) {
                return Err(Errno::EINVAL);
            }
            Ok(Notify::Thread { signal: valid()?, value: event.sigev_value, tid: thread.tid() })
        }
        _ => Err(Errno::EINVAL),
    }
}

/// timer_settime(2).
pub fn timer_settime(
    cx: &mut Context<'_>,
    id: i32,
    flags: i32,
    new: UserPtr<Itimerspec>,
    old: UserPtr<Itimerspec>,
) -> Result<usize> {
    let before = process_timers::set(&cx.task.group, id, flags, &new.non_null().ok_or(Errno::EINVAL)?.read()?)?;
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// timer_gettime(2).
pub fn timer_gettime(cx: &mut Context<'_>, id: i32, value: UserPtr<Itimerspec>) -> Result<usize> {
    value.write(&process_timers::get(&cx.task.group, id)?)?;
    Ok(0)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(cx: &mut Context<'_>, id: i32) -> Result<usize> {
    process_timers::overruns(&cx.task.group, id)
}

/// timer_delete(2).
pub fn timer_delete(cx: &mut Context<'_>, id: i32) -> Result<usize> {
    process_timers::delete(&cx.task.group, id)?;
    Ok(0)
}
