//! Time: nanosleep(2), clock_gettime(2), adjtimex(2), setitimer(2), timer_create(2), timerfd_create(2).

use alloc::sync::Arc;

use abi::Errno;
use abi::capability::{CAP_SYS_TIME, CAP_WAKE_ALARM};
use abi::resource::RLIMIT_NOFILE;
use abi::time as t;
use abi::time::{Itimerspec, Itimerval, Sigevent, Timespec, Timeval, Timex, Timezone};

use super::{Context, UserPtr};
use crate::Result;
use crate::fs::File;
use crate::fs::fdtable::OnExec;
use crate::signal::{self, RestartBlock};
use crate::time::cpu::{CpuClock, Use};
use crate::time::posix::{NewTimer, Notify};
use crate::time::timerfd::TimerFd;
use crate::time::{self, Base, NSEC_PER_SEC, discipline, interval, posix};

/// nanosleep(2).
pub fn nanosleep(cx: &mut Context<'_>, request: UserPtr<Timespec>, remaining: UserPtr<Timespec>) -> Result<usize> {
    let ns = time::timespec_ns(&request.read()?)?;
    sleep_until(cx, deadline_after(time::monotonic_ns(), ns), remaining.address())
}

fn deadline_after(now_ns: u64, ns: u64) -> u64 {
    now_ns.saturating_add(ns).min(i64::MAX.cast_unsigned())
}

/// clock_nanosleep(2).
pub fn clock_nanosleep(
    cx: &mut Context<'_>,
    clock: i32,
    flags: i32,
    request: UserPtr<Timespec>,
    remaining: UserPtr<Timespec>,
) -> Result<usize> {
    let base = match clock {
        t::CLOCK_REALTIME => Base::Realtime,
        t::CLOCK_TAI => Base::Tai,
        t::CLOCK_MONOTONIC | t::CLOCK_BOOTTIME => Base::Monotonic,
        t::CLOCK_MONOTONIC_RAW | t::CLOCK_REALTIME_COARSE | t::CLOCK_MONOTONIC_COARSE => {
            return Err(Errno::EOPNOTSUPP);
        }
        // Nothing wakes the machine (Linux `alarm_timer_nsleep`).
        t::CLOCK_REALTIME_ALARM | t::CLOCK_BOOTTIME_ALARM => return Err(Errno::EOPNOTSUPP),
        // One's own thread's clock stands still while it sleeps; Linux has no such call either.
        t::CLOCK_THREAD_CPUTIME_ID => return Err(Errno::EOPNOTSUPP),
        id if id < 0 && id & 3 == 3 => return Err(Errno::EOPNOTSUPP),
        id if id == t::CLOCK_PROCESS_CPUTIME_ID || id < 0 => {
            let ns = time::timespec_ns(&request.read()?)?;
            return cpu_nanosleep(cx, id, flags, ns, remaining);
        }
        _ => return Err(Errno::EINVAL),
    };
    let ns = time::timespec_ns(&request.read()?)?;
    if flags.cast_unsigned() & t::TIMER_ABSTIME == 0 {
        // A time from now is not moved by setting the clock.
        return sleep_until(cx, deadline_after(time::monotonic_ns(), ns), remaining.address());
    }
    // An absolute sleep is simply done again after a signal: no remainder (clock_nanosleep(2)).
    time::sleep_on(base, ns).map(|()| 0).map_err(|_| Errno::ERESTARTNOHAND)
}

/// Sleeps to a monotonic deadline; interrupted, tells what is left and arranges for restart_syscall.
pub(super) fn sleep_until(cx: &mut Context<'_>, deadline_ns: u64, remaining: u64) -> Result<usize> {
    if time::sleep_on(Base::Monotonic, deadline_ns).is_ok() {
        return Ok(0);
    }
    let left = deadline_ns.saturating_sub(time::monotonic_ns());
    UserPtr::<Timespec>::new(remaining).write_if_wanted(&time::timespec(left))?;
    *cx.task.restart.lock() = RestartBlock::Sleep { deadline_ns, remaining };
    Err(Errno::ERESTART_RESTARTBLOCK)
}

fn cpu_nanosleep(cx: &mut Context<'_>, id: i32, flags: i32, ns: u64, remaining: UserPtr<Timespec>) -> Result<usize> {
    let clock = cpu_clock(id)?;
    if clock.is_of_current_thread() {
        return Err(Errno::EINVAL);
    }
    if flags.cast_unsigned() & t::TIMER_ABSTIME != 0 {
        return sleep_on_cpu(&clock, ns)
            .map_err(|error| if error == Errno::EINTR { Errno::ERESTARTNOHAND } else { error });
    }
    let now = clock.now_ns().ok_or(Errno::EINVAL)?;
    cpu_sleep_until(cx, id, deadline_after(now, ns), remaining.address())
}

fn cpu_clock(id: i32) -> Result<CpuClock> {
    CpuClock::named(id, Use::Other).ok_or(Errno::EINVAL)?
}

fn sleep_on_cpu(clock: &CpuClock, deadline_ns: u64) -> Result<usize> {
    time::sleep_on_cpu(clock, deadline_ns)
        .map(|()| 0)
        .map_err(|error| if error == Errno::ERESTARTSYS { Errno::EINTR } else { error })
}

/// As [`sleep_until`], on a CPU clock.
pub(super) fn cpu_sleep_until(cx: &mut Context<'_>, id: i32, deadline_ns: u64, remaining: u64) -> Result<usize> {
    let clock = cpu_clock(id)?;
    match sleep_on_cpu(&clock, deadline_ns) {
        Err(Errno::EINTR) => {}
        other => return other,
    }
    let left = deadline_ns.saturating_sub(clock.now_ns().ok_or(Errno::EINVAL)?);
    UserPtr::<Timespec>::new(remaining).write_if_wanted(&time::timespec(left))?;
    *cx.task.restart.lock() = RestartBlock::CpuSleep { clock: id, deadline_ns, remaining };
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

/// clock_settime(2): only the real-time clock can be set. A CPU clock says so with another error
/// (`posix_cpu_clock_set`).
pub fn clock_settime(cx: &mut Context<'_>, clock: i32, value: UserPtr<Timespec>) -> Result<usize> {
    match clock {
        t::CLOCK_REALTIME => {
            let ns = time::settable_ns(&value.read()?)?;
            may_set_clock(cx)?;
            time::set_realtime(ns)?;
            Ok(0)
        }
        id if id < 0 && id & 3 != 3 => {
            value.read()?;
            cpu_clock(id)?;
            Err(Errno::EPERM)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn may_set_clock(cx: &Context<'_>) -> Result<()> {
    if cx.task.capable(CAP_SYS_TIME) { Ok(()) } else { Err(Errno::EPERM) }
}

/// gettimeofday(2).
pub fn gettimeofday(_cx: &mut Context<'_>, value: UserPtr<Timeval>, zone: UserPtr<Timezone>) -> Result<usize> {
    let ns = time::realtime_ns();
    let now = Timeval { tv_sec: (ns / NSEC_PER_SEC).cast_signed(), tv_usec: (ns % NSEC_PER_SEC / 1000).cast_signed() };
    value.write_if_wanted(&now)?;
    zone.write_if_wanted(&time::time_zone())?;
    Ok(0)
}

/// settimeofday(2). The time zone is kept for gettimeofday(2). Linux lets the first call, if it gives a time zone alone, move
/// the clock by it, because a PC's clock may run in local time; a Pi has no such clock.
pub fn settimeofday(cx: &mut Context<'_>, value: UserPtr<Timeval>, zone: UserPtr<Timezone>) -> Result<usize> {
    let value = value.non_null().map(UserPtr::read).transpose()?;
    if value.is_some_and(|value| !(0..=1_000_000).contains(&value.tv_usec)) {
        return Err(Errno::EINVAL);
    }
    let zone = zone.non_null().map(UserPtr::read).transpose()?;
    let as_ns = |value: Timeval| time::settable_ns(&Timespec { tv_sec: value.tv_sec, tv_nsec: value.tv_usec * 1000 });
    let ns = value.map(as_ns).transpose()?;
    may_set_clock(cx)?;
    if let Some(zone) = zone {
        time::set_time_zone(&zone)?;
    }
    if let Some(ns) = ns {
        time::set_realtime(ns)?;
    }
    Ok(0)
}

/// adjtimex(2).
pub fn adjtimex(cx: &mut Context<'_>, request: UserPtr<Timex>) -> Result<usize> {
    let mut timex = request.read()?;
    check_adjustment(cx, &timex)?;
    let state = discipline::adjust(&mut timex)?;
    request.write(&timex)?;
    usize::try_from(state).map_err(|_| Errno::EINVAL)
}

/// clock_adjtime(2): only the real-time clock has a discipline.
pub fn clock_adjtime(cx: &mut Context<'_>, clock: i32, request: UserPtr<Timex>) -> Result<usize> {
    request.read()?;
    match clock {
        t::CLOCK_REALTIME => adjtimex(cx, request),
        t::CLOCK_MONOTONIC..=t::CLOCK_BOOTTIME_ALARM | t::CLOCK_TAI => Err(Errno::EOPNOTSUPP),
        // A clock by descriptor: no device here is one.
        id if id < 0 && id & 3 == 3 => Err(Errno::EINVAL),
        id if id < 0 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

/// Linux `timekeeping_validate_timex`.
fn check_adjustment(cx: &Context<'_>, request: &Timex) -> Result<()> {
    let wants = |mode| request.modes & mode != 0;
    if wants(t::ADJ_ADJTIME) {
        // adjtime(3)'s mode stands alone.
        if !wants(t::ADJ_OFFSET) {
            return Err(Errno::EINVAL);
        }
        if !wants(t::ADJ_OFFSET_READONLY) {
            may_set_clock(cx)?;
        }
    } else {
        if request.modes != 0 {
            may_set_clock(cx)?;
        }
        // More than a tenth off is not a clock.
        if wants(t::ADJ_TICK) && !(9_000..=11_000).contains(&request.tick) {
            return Err(Errno::EINVAL);
        }
    }
    if wants(t::ADJ_SETOFFSET) {
        may_set_clock(cx)?;
        let limit = if wants(t::ADJ_NANO) { 1_000_000_000 } else { 1_000_000 };
        if !(0..limit).contains(&request.time.tv_usec) {
            return Err(Errno::EINVAL);
        }
    }
    // 2^-16 ppm are 65536000 of 2^-32 ns: the product has to fit.
    let most = i64::MAX / 65_536_000;
    if wants(t::ADJ_FREQUENCY) && !(-most..=most).contains(&request.freq) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// getitimer(2).
pub fn getitimer(cx: &mut Context<'_>, which: i32, value: UserPtr<Itimerval>) -> Result<usize> {
    value.write(&interval::get_interval(&cx.task.group, which)?)?;
    Ok(0)
}

/// setitimer(2). A NULL new value disarms, as Linux does with a warning.
pub fn setitimer(cx: &mut Context<'_>, which: i32, new: UserPtr<Itimerval>, old: UserPtr<Itimerval>) -> Result<usize> {
    let new = new.non_null().map_or_else(|| Ok(Itimerval::default()), UserPtr::read)?;
    let before = interval::set_interval(&cx.task.group, which, &new)?;
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// timer_create(2). The checks come in Linux's order.
pub fn timer_create(cx: &mut Context<'_>, clock: i32, event: u64, id: UserPtr<i32>) -> Result<usize> {
    let event = UserPtr::<Sigevent>::new(event).non_null().map(UserPtr::read).transpose()?;
    NewTimer::on(clock)?;
    let place = posix::reserve(&cx.task.group)?;
    let notify = match event {
        Some(event) => notify_of(cx, &event)?,
        // SIGALRM with the timer's id as its value.
        None => {
            let value = u64::from(place.id.cast_unsigned());
            Notify { kind: t::SIGEV_SIGNAL, signal: abi::signal::SIGALRM, value, thread: None }
        }
    };
    id.write(&place.id)?;
    posix::create(&cx.task.group, place, NewTimer::resolve(clock)?, notify);
    Ok(0)
}

/// Linux `good_sigevent`.
fn notify_of(cx: &Context<'_>, event: &Sigevent) -> Result<Notify> {
    let mut notify = Notify {
        kind: event.sigev_notify,
        signal: event.sigev_signo.cast_unsigned(),
        value: event.sigev_value,
        thread: None,
    };
    match event.sigev_notify {
        t::SIGEV_NONE => return Ok(notify),
        t::SIGEV_SIGNAL | t::SIGEV_THREAD => {}
        t::SIGEV_THREAD_ID => {
            let thread = crate::task::find(event.sigev_tid).ok_or(Errno::EINVAL)?;
            if !Arc::ptr_eq(&thread.group, &cx.task.group) {
                return Err(Errno::EINVAL);
            }
            notify.thread = Some(thread.tid());
        }
        _ => return Err(Errno::EINVAL),
    }
    if (1..=signal::COUNT).contains(&notify.signal) { Ok(notify) } else { Err(Errno::EINVAL) }
}

/// timer_settime(2).
pub fn timer_settime(
    cx: &mut Context<'_>,
    id: i32,
    flags: i32,
    new: UserPtr<Itimerspec>,
    old: UserPtr<Itimerspec>,
) -> Result<usize> {
    let before = posix::set(&cx.task.group, id, flags, &new.non_null().ok_or(Errno::EINVAL)?.read()?)?;
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// timer_gettime(2).
pub fn timer_gettime(cx: &mut Context<'_>, id: i32, value: UserPtr<Itimerspec>) -> Result<usize> {
    value.write(&posix::get(&cx.task.group, id)?)?;
    Ok(0)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(cx: &mut Context<'_>, id: i32) -> Result<usize> {
    posix::overruns(&cx.task.group, id)
}

/// timer_delete(2).
pub fn timer_delete(cx: &mut Context<'_>, id: i32) -> Result<usize> {
    posix::delete(&cx.task.group, id)?;
    Ok(0)
}

/// timerfd_create(2).
pub fn timerfd_create(cx: &mut Context<'_>, clock: i32, flags: u32) -> Result<usize> {
    if flags & !(t::TFD_CLOEXEC | t::TFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    match clock {
        t::CLOCK_REALTIME | t::CLOCK_MONOTONIC | t::CLOCK_BOOTTIME => {}
        t::CLOCK_REALTIME_ALARM | t::CLOCK_BOOTTIME_ALARM => may_wake(cx)?,
        _ => return Err(Errno::EINVAL),
    }
    crate::fs::file::admit()?;
    let file = time::timerfd::new_file(clock, flags & t::TFD_NONBLOCK);
    let fd = cx.files().add(file, 0, cx.task.rlimit(RLIMIT_NOFILE), OnExec::from_flags(flags))?;
    usize::try_from(fd).map_err(|_| Errno::EMFILE)
}

fn may_wake(cx: &Context<'_>) -> Result<()> {
    if cx.task.capable(CAP_WAKE_ALARM) { Ok(()) } else { Err(Errno::EPERM) }
}

fn timerfd(file: &File) -> Result<&TimerFd> {
    file.ops_as::<TimerFd>().ok_or(Errno::EINVAL)
}

/// timerfd_settime(2).
pub fn timerfd_settime(
    cx: &mut Context<'_>,
    fd: i32,
    flags: u32,
    new: UserPtr<Itimerspec>,
    old: UserPtr<Itimerspec>,
) -> Result<usize> {
    let new = new.read()?;
    if flags & !(t::TFD_TIMER_ABSTIME | t::TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let (value_ns, interval_ns) = (time::timespec_ns(&new.it_value)?, time::timespec_ns(&new.it_interval)?);
    let file = cx.files().get(fd)?;
    let timer = timerfd(&file)?;
    if matches!(timer.clock(), t::CLOCK_REALTIME_ALARM | t::CLOCK_BOOTTIME_ALARM) {
        may_wake(cx)?;
    }
    let (before, result) = timer.set(flags, value_ns, interval_ns);
    result?;
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// timerfd_gettime(2).
pub fn timerfd_gettime(cx: &mut Context<'_>, fd: i32, value: UserPtr<Itimerspec>) -> Result<usize> {
    let file = cx.files().get(fd)?;
    value.write(&timerfd(&file)?.get())?;
    Ok(0)
}
