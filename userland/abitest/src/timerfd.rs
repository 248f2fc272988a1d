//! timerfd_create(2): what is read, when it is ready, and what setting the clock does.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;
use crate::timer::{only_on_a_machine_of_our_own, with_clock_moved};

pub const CASES: &[Case] = cases![
    three_clocks_and_two_alarms_can_be_read,
    other_clocks_and_flags_are_refused,
    alarms_are_for_who_may_wake_the_machine,
    flags_of_the_descriptor,
    a_read_wants_eight_bytes,
    a_read_waits_for_the_expiry,
    a_read_that_would_wait_is_eagain,
    a_single_shot_is_read_once,
    expiries_are_counted_until_they_are_read,
    a_period_does_not_drift,
    an_absolute_time_is_waited_for,
    a_time_in_the_past_is_ready_at_once,
    missed_periods_of_the_past_are_counted,
    what_is_left_is_told,
    the_former_setting_is_told,
    disarming_forgets_what_was_not_read,
    a_new_setting_forgets_what_was_not_read,
    bad_settings_are_refused,
    only_timers_can_be_set,
    it_cannot_be_written,
    poll_sees_the_expiry,
    epoll_sees_each_expiry,
    children_share_the_timer,
    fdinfo_tells_the_setting,
    its_name_is_anonymous,
    a_signal_ends_the_wait,
    the_count_can_be_set_for_a_restored_process,
    setting_the_clock_cancels_who_asked_for_it,
    setting_the_clock_spares_who_did_not_ask,
    setting_the_clock_moves_an_absolute_time,
];

const MS: i64 = 1_000_000;
const ABSTIME: i32 = 1;
const CANCEL_ON_SET: i32 = 2;

fn create(clock: i32, flags: i32) -> Result<i32> {
    sys!(SYS_timerfd_create, clock, flags).map(|fd| fd as i32)
}

fn timespec_ns(ns: i64) -> timespec {
    let mut time = timespec_ms(0);
    (time.tv_sec, time.tv_nsec) = (ns / 1_000_000_000, ns % 1_000_000_000);
    time
}

fn pair(setting: &[timespec; 2]) -> (i64, i64) {
    let ns = |time: &timespec| time.tv_sec * 1_000_000_000 + time.tv_nsec;
    (ns(&setting[1]), ns(&setting[0]))
}

fn set(fd: i32, flags: i32, first: i64, next: i64) -> Result<(i64, i64)> {
    let new = [timespec_ns(next), timespec_ns(first)];
    let mut old = [timespec_ms(0); 2];
    sys!(SYS_timerfd_settime, fd, flags, new.as_ptr(), old.as_mut_ptr())?;
    Ok(pair(&old))
}

fn get(fd: i32) -> Result<(i64, i64)> {
    let mut now = [timespec_ms(0); 2];
    sys!(SYS_timerfd_gettime, fd, now.as_mut_ptr())?;
    Ok(pair(&now))
}

fn ticks(fd: i32) -> Result<u64> {
    let mut bytes = [0u8; 8];
    read(fd, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn is_ready(fd: i32, timeout_ms: i64) -> Result<bool> {
    let mut entry = pollfd { fd, events: POLLIN, revents: 0 };
    let time = timespec_ms(timeout_ms);
    let ready = sys!(SYS_ppoll, &raw mut entry, 1, &raw const time, 0, 8)?;
    Ok(ready == 1 && entry.revents == POLLIN)
}

fn three_clocks_and_two_alarms_can_be_read() -> Outcome {
    for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM] {
        let fd = match create(clock, 0) {
            Err(Errno(EPERM)) if clock >= CLOCK_REALTIME_ALARM => continue,
            fd => fd?,
        };
        set(fd, 0, 5 * MS, 0)?;
        same!(ticks(fd)?, 1);
    }
    Ok(())
}

fn other_clocks_and_flags_are_refused() -> Outcome {
    for clock in [CLOCK_TAI, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE, CLOCK_PROCESS_CPUTIME_ID, 10, 12, -1] {
        fails!(create(clock, 0), EINVAL);
    }
    fails!(create(CLOCK_MONOTONIC, 1), EINVAL);
    fails!(create(CLOCK_MONOTONIC, O_APPEND), EINVAL);
    Ok(())
}

fn alarms_are_for_who_may_wake_the_machine() -> Outcome {
    let pid = trial(|| {
        become_user()?;
        fails!(create(CLOCK_BOOTTIME_ALARM, 0), EPERM);
        fails!(create(CLOCK_REALTIME_ALARM, 0), EPERM);
        create(CLOCK_BOOTTIME, 0)?;
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn flags_of_the_descriptor() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, O_CLOEXEC | O_NONBLOCK)?;
    same!(sys!(SYS_fcntl, fd, F_GETFD)? as i32, FD_CLOEXEC);
    same!(sys!(SYS_fcntl, fd, F_GETFL)? as i32 & (O_NONBLOCK | O_ACCMODE), O_NONBLOCK | O_RDWR);
    let fd = create(CLOCK_MONOTONIC, 0)?;
    same!(sys!(SYS_fcntl, fd, F_GETFD)?, 0);
    Ok(())
}

fn a_read_wants_eight_bytes() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, O_NONBLOCK)?;
    fails!(read(fd, &mut [0; 7]), EINVAL);
    set(fd, ABSTIME, 1, 0)?;
    fails!(read(fd, &mut [0; 7]), EINVAL);
    holds!(is_ready(fd, 1000)?);
    let mut bytes = [0xffu8; 20];
    same!(read(fd, &mut bytes)?, 8);
    same!(bytes[8], 0xff);
    Ok(())
}

fn a_read_waits_for_the_expiry() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    set(fd, 0, 30 * MS, 0)?;
    same!(ticks(fd)?, 1);
    holds!(now_ns(CLOCK_MONOTONIC)? - start >= 30 * MS);
    Ok(())
}

fn a_read_that_would_wait_is_eagain() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, O_NONBLOCK)?;
    fails!(ticks(fd), EAGAIN);
    set(fd, 0, 100_000 * MS, 0)?;
    fails!(ticks(fd), EAGAIN);
    Ok(())
}

fn a_single_shot_is_read_once() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, O_NONBLOCK)?;
    set(fd, 0, MS, 0)?;
    sleep_ms(30);
    same!(ticks(fd)?, 1);
    fails!(ticks(fd), EAGAIN);
    same!(get(fd)?, (0, 0));
    Ok(())
}

fn expiries_are_counted_until_they_are_read() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, O_NONBLOCK)?;
    let start = now_ns(CLOCK_MONOTONIC)? + 5 * MS;
    set(fd, ABSTIME, start, 5 * MS)?;
    let mut expired = 0;
    for _ in 0..5 {
        sleep_ms(12);
        let before = (now_ns(CLOCK_MONOTONIC)? - start) / (5 * MS) + 1;
        expired += ticks(fd)? as i64;
        let after = (now_ns(CLOCK_MONOTONIC)? - start) / (5 * MS) + 1;
        holds!(before <= expired && expired <= after);
    }
    Ok(())
}

fn a_period_does_not_drift() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    set(fd, 0, 3 * MS, 3 * MS)?;
    let mut expired = 0;
    while expired < 20 {
        expired += ticks(fd)?;
        let now = now_ns(CLOCK_MONOTONIC)? - start;
        holds!(now >= expired as i64 * 3 * MS);
    }
    let (left, interval) = get(fd)?;
    holds!(left <= 3 * MS);
    same!(interval, 3 * MS);
    Ok(())
}

fn an_absolute_time_is_waited_for() -> Outcome {
    for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME] {
        let fd = create(clock, 0)?;
        let due = now_ns(clock)? + 20 * MS;
        set(fd, ABSTIME, due, 0)?;
        same!(ticks(fd)?, 1);
        holds!(now_ns(clock)? >= due);
    }
    Ok(())
}

fn a_time_in_the_past_is_ready_at_once() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    set(fd, ABSTIME, 1, 0)?;
    same!(ticks(fd)?, 1);
    Ok(())
}

fn missed_periods_of_the_past_are_counted() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    let second = 1000 * MS;
    let before = now_ns(CLOCK_MONOTONIC)? / second;
    // At 1 ns and each second after that.
    set(fd, ABSTIME, 1, second)?;
    let ticks = ticks(fd)? as i64;
    holds!(before < ticks && ticks - 1 <= now_ns(CLOCK_MONOTONIC)? / second);
    Ok(())
}

fn what_is_left_is_told() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    same!(get(fd)?, (0, 0));
    set(fd, 0, 100_000 * MS, 9)?;
    let (left, interval) = get(fd)?;
    holds!(left > 90_000 * MS && left <= 100_000 * MS);
    same!(interval, 9);
    fails!(sys!(SYS_timerfd_gettime, fd, 8), EFAULT);
    Ok(())
}

fn the_former_setting_is_told() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    same!(set(fd, 0, 100_000 * MS, 9)?, (0, 0));
    let (left, interval) = set(fd, 0, 0, 0)?;
    holds!(left > 90_000 * MS && left <= 100_000 * MS);
    same!(interval, 9);
    same!(set(fd, 0, 0, 0)?, (0, 0));
    Ok(())
}

fn disarming_forgets_what_was_not_read() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, O_NONBLOCK)?;
    set(fd, 0, MS, MS)?;
    sleep_ms(10);
    holds!(is_ready(fd, 0)?);
    set(fd, 0, 0, 0)?;
    holds!(!is_ready(fd, 0)?);
    fails!(ticks(fd), EAGAIN);
    Ok(())
}

fn a_new_setting_forgets_what_was_not_read() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, O_NONBLOCK)?;
    set(fd, 0, MS, 0)?;
    sleep_ms(10);
    set(fd, 0, 100_000 * MS, 0)?;
    fails!(ticks(fd), EAGAIN);
    Ok(())
}

fn bad_settings_are_refused() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    fails!(set(fd, 4, MS, 0), EINVAL);
    for (sec, nsec) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
        let mut bad = timespec_ms(0);
        (bad.tv_sec, bad.tv_nsec) = (sec, nsec);
        for setting in [[bad, timespec_ms(1)], [timespec_ms(1), bad]] {
            fails!(sys!(SYS_timerfd_settime, fd, 0, setting.as_ptr(), 0), EINVAL);
        }
    }
    fails!(sys!(SYS_timerfd_settime, fd, 0, 8, 0), EFAULT);
    fails!(sys!(SYS_timerfd_settime, fd, 0, 0, 0), EFAULT);
    Ok(())
}

fn only_timers_can_be_set() -> Outcome {
    let (reader, _) = pipe(0)?;
    fails!(set(reader, 0, MS, 0), EINVAL);
    fails!(get(reader), EINVAL);
    fails!(set(-1, 0, MS, 0), EBADF);
    fails!(get(99), EBADF);
    // The flags come first, then the descriptor.
    fails!(set(-1, 4, MS, 0), EINVAL);
    Ok(())
}

fn it_cannot_be_written() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    fails!(write(fd, &[0; 8]), EINVAL);
    Ok(())
}

fn poll_sees_the_expiry() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    holds!(!is_ready(fd, 0)?);
    set(fd, 0, 20 * MS, 0)?;
    holds!(!is_ready(fd, 0)?);
    let start = now_ns(CLOCK_MONOTONIC)?;
    holds!(is_ready(fd, 10_000)?);
    holds!(now_ns(CLOCK_MONOTONIC)? - start < 9_000 * MS);
    ticks(fd)?;
    holds!(!is_ready(fd, 0)?);
    Ok(())
}

fn epoll_sees_each_expiry() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, O_NONBLOCK)?;
    let epoll = sys!(SYS_epoll_create1, 0)? as i32;
    let mut event = epoll_event { events: (EPOLLIN | EPOLLET) as u32, u64: 77 };
    sys!(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &raw mut event)?;
    set(fd, 0, 5 * MS, 5 * MS)?;
    for _ in 0..3 {
        let mut got = [event; 4];
        same!(sys!(SYS_epoll_pwait, epoll, got.as_mut_ptr(), 4, 10_000, 0, 8)?, 1);
        same!({ got[0].u64 }, 77);
        holds!(ticks(fd)? >= 1);
    }
    Ok(())
}

fn children_share_the_timer() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    set(fd, 0, 20 * MS, 0)?;
    let pid = trial(|| {
        same!(ticks(fd)?, 1);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    holds!(!is_ready(fd, 0)?);
    Ok(())
}

fn fdinfo_tells_the_setting() -> Outcome {
    let fd = create(CLOCK_BOOTTIME, 0)?;
    set(fd, ABSTIME, 1, 0)?;
    holds!(is_ready(fd, 1000)?);
    let text = String::from_utf8_lossy(&content(&format!("/proc/self/fdinfo/{fd}"))?).into_owned();
    let own = text.split_once("clockid").map(|(_, own)| own.to_string()).unwrap_or_default();
    same!(own, ": 7\nticks: 1\nsettime flags: 01\nit_value: (0, 0)\nit_interval: (0, 0)\n");
    Ok(())
}

fn its_name_is_anonymous() -> Outcome {
    let fd = create(CLOCK_MONOTONIC, 0)?;
    let name = std::fs::read_link(format!("/proc/self/fd/{fd}")).map(|name| name.display().to_string());
    same!(name.unwrap_or_default(), "anon_inode:[timerfd]");
    same!(sys!(SYS_lseek, fd, 5, SEEK_SET)?, 0);
    Ok(())
}

fn a_signal_ends_the_wait() -> Outcome {
    note_signal(SIGALRM, 0)?;
    let fd = create(CLOCK_MONOTONIC, 0)?;
    set(fd, 0, 100_000 * MS, 0)?;
    let mut timer: itimerval = zeroed();
    timer.it_value.tv_usec = 20_000;
    sys!(SYS_setitimer, ITIMER_REAL, &raw const timer, 0)?;
    fails!(ticks(fd), EINTR);
    same!(count(), 1);
    Ok(())
}

fn the_count_can_be_set_for_a_restored_process() -> Outcome {
    const SET_TICKS: u32 = 0x4008_5400;
    let fd = create(CLOCK_MONOTONIC, O_NONBLOCK)?;
    let mut count = 42u64;
    match sys!(SYS_ioctl, fd, SET_TICKS, &raw const count) {
        // A kernel without CONFIG_CHECKPOINT_RESTORE.
        Err(Errno(ENOTTY)) => exit(crate::case::SKIPPED),
        result => same!(result?, 0),
    }
    same!(ticks(fd)?, 42);
    count = 0;
    fails!(sys!(SYS_ioctl, fd, SET_TICKS, &raw const count), EINVAL);
    fails!(sys!(SYS_ioctl, fd, SET_TICKS, 8), EFAULT);
    fails!(sys!(SYS_ioctl, fd, SET_TICKS + 1, &raw const count), ENOTTY);
    Ok(())
}

fn setting_the_clock_cancels_who_asked_for_it() -> Outcome {
    only_on_a_machine_of_our_own();
    let fd = create(CLOCK_REALTIME, O_NONBLOCK)?;
    let due = now_ns(CLOCK_REALTIME)? + 100_000_000 * MS;
    set(fd, ABSTIME | CANCEL_ON_SET, due, 0)?;
    holds!(!is_ready(fd, 0)?);
    with_clock_moved(1000, || {
        holds!(is_ready(fd, 0)?);
        fails!(ticks(fd), ECANCELED);
        fails!(ticks(fd), EAGAIN);
        Ok(())
    })?;
    // The setting counts all the same.
    fails!(set(fd, ABSTIME | CANCEL_ON_SET, due, 0), ECANCELED);
    holds!(get(fd)?.0 > 0);
    set(fd, ABSTIME | CANCEL_ON_SET, due, 0)?;
    Ok(())
}

fn setting_the_clock_spares_who_did_not_ask() -> Outcome {
    only_on_a_machine_of_our_own();
    let absolute = create(CLOCK_REALTIME, O_NONBLOCK)?;
    let relative = create(CLOCK_REALTIME, O_NONBLOCK)?;
    let monotonic = create(CLOCK_MONOTONIC, O_NONBLOCK)?;
    set(absolute, ABSTIME, now_ns(CLOCK_REALTIME)? + 100_000_000 * MS, 0)?;
    set(relative, CANCEL_ON_SET, 100_000_000 * MS, 0)?;
    set(monotonic, ABSTIME | CANCEL_ON_SET, now_ns(CLOCK_MONOTONIC)? + 100_000_000 * MS, 0)?;
    with_clock_moved(1000, || {
        for fd in [absolute, relative, monotonic] {
            fails!(ticks(fd), EAGAIN);
        }
        Ok(())
    })
}

fn setting_the_clock_moves_an_absolute_time() -> Outcome {
    only_on_a_machine_of_our_own();
    let absolute = create(CLOCK_REALTIME, O_NONBLOCK)?;
    let relative = create(CLOCK_REALTIME, O_NONBLOCK)?;
    set(absolute, ABSTIME, now_ns(CLOCK_REALTIME)? + 3_600_000 * MS, 0)?;
    set(relative, 0, 3_600_000 * MS, 0)?;
    with_clock_moved(4_000_000, || {
        holds!(is_ready(absolute, 1000)?);
        same!(ticks(absolute)?, 1);
        holds!(!is_ready(relative, 20)?);
        Ok(())
    })
}
