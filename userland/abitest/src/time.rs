//! clock_gettime(2), nanosleep(2), setitimer(2), timer_create(2) and the clocks of the vDSO.

use std::sync::atomic::Ordering::SeqCst;

use crate::case::{Case, Outcome, cases, fails, holds, optional, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    clocks_never_run_backwards,
    clocks_advance_together,
    bad_clocks_are_einval,
    resolution_is_a_nanosecond,
    vdso_and_system_call_agree,
    nanosleep_takes_its_time,
    nanosleep_tells_what_is_left,
    nanosleep_refuses_nonsense,
    absolute_sleep,
    sleep_survives_stop_and_continue,
    itimer_real_sends_alarm,
    itimer_repeats,
    itimer_tells_what_is_left,
    itimer_virtual_counts_user_time,
    timer_create_sends_its_value,
    timer_repeats_and_counts_overruns,
    timer_without_signal,
    timer_errors,
    timers_end_with_exec_or_exit,
    cpu_clock_stands_while_sleeping,
    cpu_clock_of_a_thread_is_less,
    times_and_getrusage_agree,
    gettimeofday_agrees_with_the_clock,
    setting_the_clock_is_for_root,
    timerfd_counts_expirations,
    boottime_is_monotonic_at_least,
];

const MS: i64 = 1_000_000;

fn clocks_never_run_backwards() -> Outcome {
    for clock in
        [CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID, CLOCK_MONOTONIC_COARSE]
    {
        let mut last = now_ns(clock)?;
        for _ in 0..5000 {
            let now = now_ns(clock)?;
            holds!(now >= last);
            last = now;
        }
    }
    Ok(())
}

fn clocks_advance_together() -> Outcome {
    let before = (now_ns(CLOCK_MONOTONIC)?, now_ns(CLOCK_REALTIME)?);
    sleep_ms(50);
    let after = (now_ns(CLOCK_MONOTONIC)?, now_ns(CLOCK_REALTIME)?);
    holds!(((after.0 - before.0) - (after.1 - before.1)).abs() < 20 * MS);
    Ok(())
}

fn bad_clocks_are_einval() -> Outcome {
    for clock in [-1, 12, 99, 1 << 20] {
        fails!(now_ns(clock), EINVAL);
    }
    fails!(sys!(SYS_clock_gettime, CLOCK_MONOTONIC, 8), EFAULT);
    Ok(())
}

fn resolution_is_a_nanosecond() -> Outcome {
    let mut time = timespec_ms(5);
    sys!(SYS_clock_getres, CLOCK_MONOTONIC, &raw mut time)?;
    same!((time.tv_sec, time.tv_nsec), (0, 1));
    sys!(SYS_clock_getres, CLOCK_MONOTONIC_COARSE, &raw mut time)?;
    holds!(time.tv_nsec >= MS && time.tv_nsec <= 10 * MS);
    Ok(())
}

fn vdso_and_system_call_agree() -> Outcome {
    // std asks through the C library, which asks the vDSO when there is one.
    for _ in 0..200 {
        let before = now_ns(CLOCK_REALTIME)?;
        let between =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos() as i64);
        let after = now_ns(CLOCK_REALTIME)?;
        holds!(before <= between && between <= after);
    }
    Ok(())
}

fn nanosleep_takes_its_time() -> Outcome {
    for ms in [1, 10, 60] {
        let start = now_ns(CLOCK_MONOTONIC)?;
        let time = timespec_ms(ms);
        same!(sys!(SYS_nanosleep, &raw const time, 0)?, 0);
        let took = now_ns(CLOCK_MONOTONIC)? - start;
        holds!(took >= ms * MS && took < ms * MS + 2000 * MS);
    }
    Ok(())
}

/// A signal from a child after `ms`.
fn signal_later(signal: i32, ms: i64) -> Result<i32> {
    let me = getpid();
    child(|| {
        sleep_ms(ms);
        kill(me, signal).is_err().into()
    })
}

fn nanosleep_tells_what_is_left() -> Outcome {
    note_signal(SIGUSR1, SA_RESTART)?;
    signal_later(SIGUSR1, 50)?;
    let time = timespec_ms(10_000);
    let mut left = timespec_ms(0);
    fails!(sys!(SYS_nanosleep, &raw const time, &raw mut left), EINTR);
    let left = left.tv_sec * 1000 + left.tv_nsec / MS;
    holds!((5000..=9960).contains(&left));
    Ok(())
}

fn nanosleep_refuses_nonsense() -> Outcome {
    let mut time = timespec_ms(0);
    time.tv_nsec = 1_000_000_000;
    fails!(sys!(SYS_nanosleep, &raw const time, 0), EINVAL);
    time.tv_nsec = -1;
    fails!(sys!(SYS_nanosleep, &raw const time, 0), EINVAL);
    time.tv_nsec = 0;
    time.tv_sec = -1;
    fails!(sys!(SYS_nanosleep, &raw const time, 0), EINVAL);
    fails!(sys!(SYS_nanosleep, 8, 0), EFAULT);
    Ok(())
}

fn absolute_sleep() -> Outcome {
    let start = now_ns(CLOCK_MONOTONIC)?;
    let time = timespec_ms(start / MS + 50);
    same!(sys!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &raw const time, 0)?, 0);
    holds!(now_ns(CLOCK_MONOTONIC)? >= (start / MS + 50) * MS);
    // In the past: at once.
    same!(sys!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &raw const time, 0)?, 0);
    fails!(sys!(SYS_clock_nanosleep, 99, 0, &raw const time, 0), EINVAL);
    Ok(())
}

fn sleep_survives_stop_and_continue() -> Outcome {
    let pid = child(|| {
        let start = now_ns(CLOCK_MONOTONIC).unwrap_or(0);
        let time = timespec_ms(150);
        let result = sys!(SYS_nanosleep, &raw const time, 0);
        (result != Ok(0) || now_ns(CLOCK_MONOTONIC).unwrap_or(0) - start < 150 * MS).into()
    })?;
    sleep_ms(30);
    kill(pid, SIGSTOP)?;
    sys!(SYS_wait4, pid, 0, WUNTRACED, 0)?;
    kill(pid, SIGCONT)?;
    same!(status(pid)?, 0);
    Ok(())
}

fn itimer(which: i32, first_us: i64, next_us: i64) -> Result<usize> {
    let mut timer: itimerval = zeroed();
    timer.it_value.tv_usec = first_us;
    timer.it_interval.tv_usec = next_us;
    sys!(SYS_setitimer, which, &raw const timer, 0)
}

fn wait_for_count(wanted: usize) -> bool {
    (0..1000).any(|_| {
        sleep_ms(5);
        count() >= wanted
    })
}

fn itimer_real_sends_alarm() -> Outcome {
    note_signal(SIGALRM, 0)?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    itimer(ITIMER_REAL, 40_000, 0)?;
    holds!(wait_for_count(1));
    holds!(now_ns(CLOCK_MONOTONIC)? - start >= 40 * MS);
    sleep_ms(60);
    same!((count(), seen::SIGNAL.load(SeqCst)), (1, SIGALRM));
    Ok(())
}

fn itimer_repeats() -> Outcome {
    note_signal(SIGALRM, 0)?;
    itimer(ITIMER_REAL, 5000, 5000)?;
    holds!(wait_for_count(5));
    itimer(ITIMER_REAL, 0, 0)?;
    let now = count();
    sleep_ms(30);
    same!(count(), now);
    Ok(())
}

fn itimer_tells_what_is_left() -> Outcome {
    let mut timer: itimerval = zeroed();
    timer.it_value.tv_sec = 100;
    timer.it_interval.tv_sec = 7;
    sys!(SYS_setitimer, ITIMER_REAL, &raw const timer, 0)?;
    let mut now: itimerval = zeroed();
    sys!(SYS_getitimer, ITIMER_REAL, &raw mut now)?;
    holds!((98..=100).contains(&now.it_value.tv_sec));
    same!(now.it_interval.tv_sec, 7);
    fails!(sys!(SYS_getitimer, 3, &raw mut now), EINVAL);
    timer.it_value.tv_usec = 1_000_000;
    fails!(sys!(SYS_setitimer, ITIMER_REAL, &raw const timer, 0), EINVAL);
    Ok(())
}

fn itimer_virtual_counts_user_time() -> Outcome {
    note_signal(SIGVTALRM, 0)?;
    itimer(ITIMER_VIRTUAL, 30_000, 0)?;
    sleep_ms(80);
    same!(count(), 0);
    let start = now_ns(CLOCK_MONOTONIC)?;
    let mut sum = 0u64;
    while count() == 0 && now_ns(CLOCK_MONOTONIC)? - start < 20_000 * MS {
        for n in 0..100_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(n));
        }
    }
    same!(count(), 1);
    Ok(())
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Event {
    value: usize,
    signal: i32,
    notify: i32,
    rest: [i32; 12],
}

fn timer(signal: i32, notify: i32, value: usize) -> Result<i32> {
    let event = Event { value, signal, notify, ..Event::default() };
    let mut id = -1i32;
    sys!(SYS_timer_create, CLOCK_MONOTONIC, &raw const event, &raw mut id)?;
    Ok(id)
}

/// first and next in milliseconds
fn arm(id: i32, first: i64, next: i64) -> Result<usize> {
    let setting = [timespec_ms(next), timespec_ms(first)];
    sys!(SYS_timer_settime, id, 0, setting.as_ptr(), 0)
}

fn timer_create_sends_its_value() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    let id = timer(SIGUSR1, SIGEV_SIGNAL, 0xabcd_ef01)?;
    arm(id, 20, 0)?;
    holds!(wait_for_count(1));
    same!((seen::CODE.load(SeqCst), seen::VALUE.load(SeqCst)), (SI_TIMER, 0xabcd_ef01));
    sys!(SYS_timer_delete, id)?;
    fails!(sys!(SYS_timer_delete, id), EINVAL);
    Ok(())
}

fn timer_repeats_and_counts_overruns() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    let id = timer(SIGUSR1, SIGEV_SIGNAL, 0)?;
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    arm(id, 5, 5)?;
    sleep_ms(60);
    mask(SIG_UNBLOCK, bit(SIGUSR1))?;
    let first = count();
    holds!(first >= 1);
    holds!(sys!(SYS_timer_getoverrun, id)? >= 5 || first > 1);
    holds!(wait_for_count(first + 3));
    Ok(())
}

fn timer_without_signal() -> Outcome {
    let id = timer(0, SIGEV_NONE, 0)?;
    arm(id, 100_000, 0)?;
    let mut left = [timespec_ms(0); 2];
    sys!(SYS_timer_gettime, id, left.as_mut_ptr())?;
    holds!((98..=100).contains(&left[1].tv_sec));
    Ok(())
}

fn timer_errors() -> Outcome {
    let mut id = 0i32;
    fails!(sys!(SYS_timer_create, 99, 0, &raw mut id), EINVAL);
    fails!(sys!(SYS_timer_create, CLOCK_MONOTONIC, 0, 8), EFAULT);
    let event = Event { signal: 99, ..Event::default() };
    fails!(sys!(SYS_timer_create, CLOCK_MONOTONIC, &raw const event, &raw mut id), EINVAL);
    fails!(arm(12345, 1, 0), EINVAL);
    fails!(sys!(SYS_timer_getoverrun, 12345), EINVAL);
    Ok(())
}

fn timers_end_with_exec_or_exit() -> Outcome {
    let pid = child(|| {
        let id = timer(SIGKILL, SIGEV_SIGNAL, 0);
        i32::from(id.and_then(|id| arm(id, 30, 0)).is_err())
    })?;
    same!(status(pid)?, 0);
    sleep_ms(60);
    Ok(())
}

fn cpu_clock_stands_while_sleeping() -> Outcome {
    let start = now_ns(CLOCK_PROCESS_CPUTIME_ID)?;
    sleep_ms(100);
    holds!(now_ns(CLOCK_PROCESS_CPUTIME_ID)? - start < 50 * MS);
    Ok(())
}

fn cpu_clock_of_a_thread_is_less() -> Outcome {
    let thread = now_ns(CLOCK_THREAD_CPUTIME_ID)?;
    holds!(thread <= now_ns(CLOCK_PROCESS_CPUTIME_ID)?);
    holds!(thread > 0);
    Ok(())
}

fn times_and_getrusage_agree() -> Outcome {
    let start = now_ns(CLOCK_PROCESS_CPUTIME_ID)?;
    while now_ns(CLOCK_PROCESS_CPUTIME_ID)? - start < 80 * MS {}
    let mut ticks = [0i64; 4];
    sys!(SYS_times, ticks.as_mut_ptr())?;
    let mut usage: rusage = zeroed();
    sys!(SYS_getrusage, RUSAGE_SELF, &raw mut usage)?;
    let from_usage = usage.ru_utime.tv_sec * 100
        + usage.ru_utime.tv_usec / 10_000
        + usage.ru_stime.tv_sec * 100
        + usage.ru_stime.tv_usec / 10_000;
    holds!((ticks[0] + ticks[1] - from_usage).abs() <= 3);
    holds!(from_usage >= 6);
    fails!(sys!(SYS_getrusage, 5, &raw mut usage), EINVAL);
    Ok(())
}

fn gettimeofday_agrees_with_the_clock() -> Outcome {
    let mut time: timeval = zeroed();
    sys!(SYS_gettimeofday, &raw mut time, 0)?;
    holds!((now_ns(CLOCK_REALTIME)? / 1000 - (time.tv_sec * 1_000_000 + time.tv_usec)).abs() < 1_000_000);
    Ok(())
}

fn setting_the_clock_is_for_root() -> Outcome {
    let pid = trial(|| {
        become_user()?;
        let time = timespec_ms(1000);
        fails!(sys!(SYS_clock_settime, CLOCK_REALTIME, &raw const time), EPERM);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    let time = timespec_ms(1000);
    fails!(sys!(SYS_clock_settime, CLOCK_MONOTONIC, &raw const time), EINVAL);
    Ok(())
}

fn timerfd_counts_expirations() -> Outcome {
    let fd = optional!(sys!(SYS_timerfd_create, CLOCK_MONOTONIC, O_NONBLOCK)) as i32;
    let mut ticks = [0u8; 8];
    fails!(read(fd, &mut ticks), EAGAIN);
    let setting = [timespec_ms(5), timespec_ms(5)];
    sys!(SYS_timerfd_settime, fd, 0, setting.as_ptr(), 0)?;
    sleep_ms(60);
    same!(read(fd, &mut ticks)?, 8);
    holds!(u64::from_ne_bytes(ticks) >= 5);
    Ok(())
}

fn boottime_is_monotonic_at_least() -> Outcome {
    let monotonic = now_ns(CLOCK_MONOTONIC)?;
    holds!(now_ns(CLOCK_BOOTTIME)? >= monotonic);
    let mut info = [0i64; 14];
    sys!(SYS_sysinfo, info.as_mut_ptr())?;
    holds!((info[0] - now_ns(CLOCK_BOOTTIME)? / 1_000_000_000).abs() <= 2);
    Ok(())
}
