//! timer_create(2) and its kin: every clock, every way to tell, overruns, and what setting the clock does.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    without_an_event_it_is_sigalrm_with_the_id,
    ids_go_up_and_are_not_reused_at_once,
    five_clocks_and_two_of_cpu_time_have_timers,
    raw_and_coarse_clocks_have_none,
    alarm_clocks_want_a_device,
    unknown_clocks_have_none,
    bad_events_are_refused,
    a_silent_timer_may_name_any_signal,
    a_thread_must_be_of_this_process,
    an_event_that_cannot_be_read_comes_first,
    a_setting_must_be_given,
    a_setting_must_be_normalised,
    unknown_timers_are_einval,
    a_time_in_the_past_expires_at_once,
    an_absolute_time_is_waited_for,
    the_former_setting_is_told,
    a_timer_that_is_off_reads_zero,
    a_single_shot_that_expired_reads_zero,
    a_timer_whose_signal_waits_tells_the_next_expiry,
    a_silent_timer_goes_on_by_the_clock,
    a_silent_single_shot_reads_zero_when_it_is_over,
    overruns_are_told_with_the_signal,
    overruns_agree_with_the_clock,
    a_signal_that_waits_is_not_queued_twice,
    two_timers_of_one_signal_queue_both,
    a_timer_queues_beside_the_same_signal_of_kill,
    an_ignored_signal_does_not_stop_the_timer,
    a_new_setting_forgets_overruns,
    a_new_setting_replaces_the_old_one,
    a_deleted_timer_stays_silent,
    fork_gives_no_timers,
    timers_count_as_queued_signals,
    a_thread_gets_its_own_signal,
    the_process_clock_has_timers,
    the_thread_clock_has_timers,
    a_cpu_timer_repeats,
    a_cpu_timer_tells_what_is_left,
    a_cpu_timer_in_the_past_fires,
    the_clock_of_another_process_has_timers,
    the_clock_of_nobody_has_none,
    proc_lists_timers,
    signalfd_tells_of_a_timer,
    setting_the_clock_moves_an_absolute_timer,
    setting_the_clock_leaves_a_relative_timer,
];

const MS: i64 = 1_000_000;

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Event {
    value: usize,
    signal: i32,
    notify: i32,
    thread: i32,
    rest: [i32; 11],
}

fn create(clock: i32, event: &Event) -> Result<i32> {
    let mut id = -1i32;
    sys!(SYS_timer_create, clock, &raw const *event, &raw mut id)?;
    Ok(id)
}

fn telling(signal: i32, value: usize) -> Event {
    Event { value, signal, notify: SIGEV_SIGNAL, ..Event::default() }
}

fn silent() -> Event {
    Event { notify: SIGEV_NONE, ..Event::default() }
}

/// A timer on the monotonic clock whose signal is blocked.
fn blocked(signal: i32, value: usize) -> Result<i32> {
    mask(SIG_BLOCK, bit(signal))?;
    create(CLOCK_MONOTONIC, &telling(signal, value))
}

fn timespec_ns(ns: i64) -> timespec {
    let mut time = timespec_ms(0);
    (time.tv_sec, time.tv_nsec) = (ns / 1_000_000_000, ns % 1_000_000_000);
    time
}

/// First and next in nanoseconds.
fn set(id: i32, flags: i32, first: i64, next: i64) -> Result<(i64, i64)> {
    let new = [timespec_ns(next), timespec_ns(first)];
    let mut old = [timespec_ms(0); 2];
    sys!(SYS_timer_settime, id, flags, new.as_ptr(), old.as_mut_ptr())?;
    Ok(pair(&old))
}

fn get(id: i32) -> Result<(i64, i64)> {
    let mut now = [timespec_ms(0); 2];
    sys!(SYS_timer_gettime, id, now.as_mut_ptr())?;
    Ok(pair(&now))
}

/// What is left and the interval, ns.
fn pair(setting: &[timespec; 2]) -> (i64, i64) {
    let ns = |time: &timespec| time.tv_sec * 1_000_000_000 + time.tv_nsec;
    (ns(&setting[1]), ns(&setting[0]))
}

/// What sigtimedwait tells: code, timer, overruns, value.
#[derive(PartialEq, Eq, Debug)]
struct Told {
    code: i32,
    id: i32,
    overruns: i32,
    value: usize,
}

fn take(signal: i32, timeout_ms: i64) -> Result<Told> {
    let info = [0u64; 16];
    let set = bit(signal);
    let time = timespec_ms(timeout_ms);
    sys!(SYS_rt_sigtimedwait, &raw const set, info.as_ptr(), &raw const time, 8)?;
    let at = info.as_ptr() as usize;
    Ok(Told { code: peek(at + 8), id: peek(at + 16), overruns: peek(at + 20), value: peek(at + 24) })
}

fn expect(signal: i32, id: i32, value: usize) -> Outcome {
    same!(take(signal, 10_000)?, Told { code: SI_TIMER, id, overruns: 0, value });
    Ok(())
}

/// Computes until the process has used `ms` of CPU time.
fn compute(ms: i64) -> Result<()> {
    let end = now_ns(CLOCK_PROCESS_CPUTIME_ID)? + ms * MS;
    while now_ns(CLOCK_PROCESS_CPUTIME_ID)? < end {}
    Ok(())
}

/// The clock of a process (`clock_getcpuclockid`): what it counts on the CPU.
pub fn clock_of(pid: i32) -> i32 {
    !pid << 3 | 2
}

fn without_an_event_it_is_sigalrm_with_the_id() -> Outcome {
    mask(SIG_BLOCK, bit(SIGALRM))?;
    create(CLOCK_MONOTONIC, &silent())?;
    let mut id = -1i32;
    sys!(SYS_timer_create, CLOCK_MONOTONIC, 0, &raw mut id)?;
    set(id, 0, MS, 0)?;
    expect(SIGALRM, id, id as usize)
}

fn ids_go_up_and_are_not_reused_at_once() -> Outcome {
    let first = create(CLOCK_MONOTONIC, &silent())?;
    let second = create(CLOCK_MONOTONIC, &silent())?;
    same!(second, first + 1);
    sys!(SYS_timer_delete, second)?;
    same!(create(CLOCK_MONOTONIC, &silent())?, second + 1);
    Ok(())
}

fn five_clocks_and_two_of_cpu_time_have_timers() -> Outcome {
    for clock in [
        CLOCK_REALTIME,
        CLOCK_MONOTONIC,
        CLOCK_BOOTTIME,
        CLOCK_TAI,
        CLOCK_PROCESS_CPUTIME_ID,
        CLOCK_THREAD_CPUTIME_ID,
        clock_of(getpid()),
        clock_of(0),
    ] {
        let id = create(clock, &silent())?;
        set(id, 0, 1000 * MS, 0)?;
        let left = get(id)?.0;
        holds!(left > 0 && left <= 1000 * MS);
    }
    Ok(())
}

fn raw_and_coarse_clocks_have_none() -> Outcome {
    for clock in [CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE] {
        fails!(create(clock, &silent()), EOPNOTSUPP);
    }
    Ok(())
}

fn alarm_clocks_want_a_device() -> Outcome {
    // A machine with a real-time clock has them, for root; one without has none.
    for clock in [CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM] {
        let has_device = now_ns(clock).is_ok();
        match create(clock, &silent()) {
            Ok(_) => holds!(has_device),
            Err(Errno(EOPNOTSUPP)) => holds!(!has_device),
            other => fails!(other, EPERM),
        }
    }
    Ok(())
}

fn unknown_clocks_have_none() -> Outcome {
    for clock in [10, 12, 99, 1 << 20] {
        fails!(create(clock, &silent()), EINVAL);
    }
    Ok(())
}

fn bad_events_are_refused() -> Outcome {
    for notify in [3, 5, 6, 77, -1] {
        fails!(create(CLOCK_MONOTONIC, &Event { signal: SIGUSR1, notify, ..Event::default() }), EINVAL);
    }
    for signal in [0, -1, 65, 1000] {
        for notify in [SIGEV_SIGNAL, SIGEV_THREAD] {
            fails!(create(CLOCK_MONOTONIC, &Event { signal, notify, ..Event::default() }), EINVAL);
        }
        let thread = getpid();
        fails!(create(CLOCK_MONOTONIC, &Event { signal, notify: SIGEV_THREAD_ID, thread, ..Event::default() }), EINVAL);
    }
    Ok(())
}

fn a_silent_timer_may_name_any_signal() -> Outcome {
    for signal in [0, -1, 65, 1000] {
        create(CLOCK_MONOTONIC, &Event { signal, ..silent() })?;
    }
    Ok(())
}

fn a_thread_must_be_of_this_process() -> Outcome {
    let mut event = Event { notify: SIGEV_THREAD_ID, ..telling(SIGUSR1, 0) };
    for thread in [getppid_raw()?, 0, -1, i32::MAX] {
        event.thread = thread;
        fails!(create(CLOCK_MONOTONIC, &event), EINVAL);
    }
    event.thread = getpid();
    create(CLOCK_MONOTONIC, &event)?;
    Ok(())
}

fn getppid_raw() -> Result<i32> {
    Ok(sys!(SYS_getppid)? as i32)
}

fn an_event_that_cannot_be_read_comes_first() -> Outcome {
    let mut id = 0i32;
    fails!(sys!(SYS_timer_create, 99, 8, &raw mut id), EFAULT);
    fails!(sys!(SYS_timer_create, 99, 0, 8), EINVAL);
    fails!(sys!(SYS_timer_create, CLOCK_MONOTONIC, 0, 8), EFAULT);
    // A clock of nobody is looked for last.
    fails!(sys!(SYS_timer_create, clock_of(i32::MAX >> 3), 0, 8), EFAULT);
    Ok(())
}

fn a_setting_must_be_given() -> Outcome {
    let id = create(CLOCK_MONOTONIC, &silent())?;
    fails!(sys!(SYS_timer_settime, id, 0, 0, 0), EINVAL);
    fails!(sys!(SYS_timer_settime, id, 0, 8, 0), EFAULT);
    fails!(sys!(SYS_timer_gettime, id, 8), EFAULT);
    Ok(())
}

fn a_setting_must_be_normalised() -> Outcome {
    let id = create(CLOCK_MONOTONIC, &silent())?;
    for (sec, nsec) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
        let mut bad = timespec_ms(0);
        (bad.tv_sec, bad.tv_nsec) = (sec, nsec);
        for setting in [[bad, timespec_ms(1)], [timespec_ms(1), bad]] {
            fails!(sys!(SYS_timer_settime, id, 0, setting.as_ptr(), 0), EINVAL);
        }
    }
    same!(get(id)?, (0, 0));
    Ok(())
}

fn unknown_timers_are_einval() -> Outcome {
    for id in [0, 5, -1] {
        fails!(set(id, 0, MS, 0), EINVAL);
        fails!(get(id), EINVAL);
        fails!(sys!(SYS_timer_getoverrun, id), EINVAL);
        fails!(sys!(SYS_timer_delete, id), EINVAL);
    }
    Ok(())
}

fn a_time_in_the_past_expires_at_once() -> Outcome {
    let id = blocked(SIGUSR1, 7)?;
    set(id, TIMER_ABSTIME, 1, 0)?;
    expect(SIGUSR1, id, 7)
}

fn an_absolute_time_is_waited_for() -> Outcome {
    for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI] {
        mask(SIG_BLOCK, bit(SIGUSR1))?;
        let id = create(clock, &telling(SIGUSR1, 1))?;
        let due = now_ns(clock)? + 30 * MS;
        set(id, TIMER_ABSTIME, due, 0)?;
        holds!(get(id)?.0 <= 30 * MS);
        expect(SIGUSR1, id, 1)?;
        let late = now_ns(clock)? - due;
        holds!((0..2000 * MS).contains(&late));
    }
    Ok(())
}

fn the_former_setting_is_told() -> Outcome {
    let id = blocked(SIGUSR1, 0)?;
    same!(set(id, 0, 100_000 * MS, 7)?, (0, 0));
    let (left, interval) = set(id, 0, 0, 0)?;
    holds!(left > 90_000 * MS && left <= 100_000 * MS);
    same!(interval, 7);
    same!(set(id, 0, 0, 0)?, (0, 0));
    Ok(())
}

fn a_timer_that_is_off_reads_zero() -> Outcome {
    let id = blocked(SIGUSR1, 0)?;
    same!(get(id)?, (0, 0));
    set(id, 0, 100_000 * MS, 5)?;
    set(id, 0, 0, 5)?;
    same!(get(id)?, (0, 0));
    Ok(())
}

fn a_single_shot_that_expired_reads_zero() -> Outcome {
    let id = blocked(SIGUSR1, 0)?;
    set(id, 0, MS, 0)?;
    sleep_ms(20);
    same!(get(id)?, (0, 0));
    expect(SIGUSR1, id, 0)
}

fn a_timer_whose_signal_waits_tells_the_next_expiry() -> Outcome {
    let id = blocked(SIGUSR1, 0)?;
    set(id, 0, MS, 1000 * MS)?;
    sleep_ms(20);
    let (left, interval) = get(id)?;
    holds!(left > 0 && left <= 1000 * MS);
    same!(interval, 1000 * MS);
    Ok(())
}

fn a_silent_timer_goes_on_by_the_clock() -> Outcome {
    let id = create(CLOCK_MONOTONIC, &silent())?;
    set(id, 0, MS, 10 * MS)?;
    sleep_ms(35);
    let (left, interval) = get(id)?;
    holds!(left > 0 && left <= 10 * MS);
    same!(interval, 10 * MS);
    Ok(())
}

fn a_silent_single_shot_reads_zero_when_it_is_over() -> Outcome {
    let id = create(CLOCK_MONOTONIC, &silent())?;
    set(id, 0, MS, 0)?;
    sleep_ms(10);
    same!(get(id)?, (0, 0));
    Ok(())
}

fn overruns_are_told_with_the_signal() -> Outcome {
    let id = blocked(SIGUSR1, 3)?;
    set(id, 0, 10 * MS, 10 * MS)?;
    sleep_ms(105);
    let told = take(SIGUSR1, 0)?;
    same!((told.code, told.id, told.value), (SI_TIMER, id, 3));
    holds!(told.overruns >= 9);
    same!(sys!(SYS_timer_getoverrun, id)?, told.overruns as usize);
    Ok(())
}

fn overruns_agree_with_the_clock() -> Outcome {
    let id = blocked(SIGRTMIN(), 0)?;
    let start = now_ns(CLOCK_MONOTONIC)? + 5 * MS;
    set(id, TIMER_ABSTIME, start, 5 * MS)?;
    let mut expired = 0;
    for _ in 0..5 {
        sleep_ms(12);
        let before = (now_ns(CLOCK_MONOTONIC)? - start) / (5 * MS) + 1;
        let told = take(SIGRTMIN(), 1000)?;
        let after = (now_ns(CLOCK_MONOTONIC)? - start) / (5 * MS) + 1;
        expired += 1 + i64::from(told.overruns);
        holds!(before <= expired && expired <= after);
    }
    Ok(())
}

fn a_signal_that_waits_is_not_queued_twice() -> Outcome {
    let id = blocked(SIGRTMIN(), 0)?;
    set(id, 0, MS, 500 * MS)?;
    sleep_ms(20);
    take(SIGRTMIN(), 0)?;
    fails!(take(SIGRTMIN(), 0), EAGAIN);
    let id = blocked(SIGRTMIN() + 1, 0)?;
    set(id, 0, MS, MS)?;
    sleep_ms(50);
    set(id, 0, 0, 0)?;
    take(SIGRTMIN() + 1, 0)?;
    fails!(take(SIGRTMIN() + 1, 0), EAGAIN);
    Ok(())
}

fn two_timers_of_one_signal_queue_both() -> Outcome {
    let one = blocked(SIGUSR1, 1)?;
    let two = blocked(SIGUSR1, 2)?;
    set(one, 0, MS, 0)?;
    set(two, 0, 10 * MS, 0)?;
    sleep_ms(40);
    expect(SIGUSR1, one, 1)?;
    holds!(pending()? & bit(SIGUSR1) != 0);
    expect(SIGUSR1, two, 2)?;
    same!(pending()? & bit(SIGUSR1), 0);
    Ok(())
}

fn a_timer_queues_beside_the_same_signal_of_kill() -> Outcome {
    let id = blocked(SIGUSR1, 9)?;
    kill(getpid(), SIGUSR1)?;
    set(id, 0, MS, 0)?;
    sleep_ms(20);
    same!(take(SIGUSR1, 0)?.code, SI_USER);
    expect(SIGUSR1, id, 9)
}

fn an_ignored_signal_does_not_stop_the_timer() -> Outcome {
    sigaction(SIGUSR1, SIG_IGN, 0, 0)?;
    let id = create(CLOCK_MONOTONIC, &telling(SIGUSR1, 0))?;
    set(id, 0, 2 * MS, 10 * MS)?;
    sleep_ms(50);
    let (left, interval) = get(id)?;
    holds!(left > 0 && left <= 20 * MS);
    same!(interval, 10 * MS);
    note_signal(SIGUSR1, 0)?;
    for _ in 0..1000 {
        sleep_ms(5);
        if count() >= 2 {
            return Ok(());
        }
    }
    holds!(count() >= 2);
    Ok(())
}

fn a_new_setting_forgets_overruns() -> Outcome {
    let id = blocked(SIGUSR1, 0)?;
    set(id, 0, MS, MS)?;
    sleep_ms(30);
    holds!(take(SIGUSR1, 0)?.overruns > 5);
    holds!(sys!(SYS_timer_getoverrun, id)? > 5);
    set(id, 0, 0, 0)?;
    same!(sys!(SYS_timer_getoverrun, id)?, 0);
    Ok(())
}

fn a_new_setting_replaces_the_old_one() -> Outcome {
    let id = blocked(SIGUSR1, 0)?;
    set(id, 0, 20 * MS, 0)?;
    set(id, 0, 100_000 * MS, 0)?;
    fails!(take(SIGUSR1, 60), EAGAIN);
    Ok(())
}

fn a_deleted_timer_stays_silent() -> Outcome {
    let id = blocked(SIGUSR1, 0)?;
    set(id, 0, 20 * MS, 20 * MS)?;
    sys!(SYS_timer_delete, id)?;
    fails!(take(SIGUSR1, 60), EAGAIN);
    fails!(get(id), EINVAL);
    Ok(())
}

fn fork_gives_no_timers() -> Outcome {
    let id = blocked(SIGUSR1, 0)?;
    set(id, 0, 20 * MS, 0)?;
    let pid = trial(|| {
        fails!(get(id), EINVAL);
        fails!(take(SIGUSR1, 60), EAGAIN);
        same!(create(CLOCK_MONOTONIC, &silent())?, 0);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    expect(SIGUSR1, id, 0)
}

fn timers_count_as_queued_signals() -> Outcome {
    limit(RLIMIT_SIGPENDING, 0, 1000)?;
    fails!(create(CLOCK_MONOTONIC, &silent()), EAGAIN);
    // Before the event is looked at.
    fails!(create(CLOCK_MONOTONIC, &telling(99, 0)), EAGAIN);
    limit(RLIMIT_SIGPENDING, 500, 1000)?;
    let mut made = Vec::new();
    let error = loop {
        match create(CLOCK_MONOTONIC, &silent()) {
            Ok(id) => made.push(id),
            error => break error,
        }
        holds!(made.len() <= 500);
    };
    fails!(error, EAGAIN);
    for id in made {
        sys!(SYS_timer_delete, id)?;
    }
    create(CLOCK_MONOTONIC, &silent())?;
    Ok(())
}

fn a_thread_gets_its_own_signal() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    let event = Event { notify: SIGEV_THREAD_ID, thread: getpid(), ..telling(SIGUSR1, 5) };
    let id = create(CLOCK_MONOTONIC, &event)?;
    set(id, 0, MS, 0)?;
    sleep_ms(20);
    let status = content("/proc/thread-self/status")?;
    let status = String::from_utf8_lossy(&status).into_owned();
    let own = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).unwrap_or_default().trim().to_string();
    same!(u64::from_str_radix(&own, 16).unwrap_or(0), bit(SIGUSR1));
    expect(SIGUSR1, id, 5)
}

fn fires_after(clock: i32) -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    let id = create(clock, &telling(SIGUSR1, 2))?;
    let due = now_ns(clock)? + 40 * MS;
    set(id, 0, 40 * MS, 0)?;
    sleep_ms(100);
    same!(pending()? & bit(SIGUSR1), 0);
    while pending()? & bit(SIGUSR1) == 0 {}
    let late = now_ns(clock)? - due;
    holds!((0..100 * MS).contains(&late));
    expect(SIGUSR1, id, 2)
}

fn the_process_clock_has_timers() -> Outcome {
    fires_after(CLOCK_PROCESS_CPUTIME_ID)
}

fn the_thread_clock_has_timers() -> Outcome {
    fires_after(CLOCK_THREAD_CPUTIME_ID)
}

fn a_cpu_timer_repeats() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    let id = create(CLOCK_PROCESS_CPUTIME_ID, &telling(SIGUSR1, 2))?;
    set(id, 0, 10 * MS, 10 * MS)?;
    let mut expired = 0;
    for _ in 0..3 {
        compute(40)?;
        expired += 1 + take(SIGUSR1, 0)?.overruns;
    }
    holds!((10..=14).contains(&expired));
    Ok(())
}

fn a_cpu_timer_tells_what_is_left() -> Outcome {
    let id = create(CLOCK_PROCESS_CPUTIME_ID, &telling(SIGUSR1, 2))?;
    set(id, 0, 10_000 * MS, 7)?;
    compute(30)?;
    let (left, interval) = get(id)?;
    holds!(left <= 9_970 * MS && left > 9_000 * MS);
    same!(interval, 7);
    holds!(set(id, 0, 0, 0)?.0 <= left);
    same!(get(id)?, (0, 0));
    Ok(())
}

fn a_cpu_timer_in_the_past_fires() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    let id = create(CLOCK_PROCESS_CPUTIME_ID, &telling(SIGUSR1, 2))?;
    set(id, TIMER_ABSTIME, 1, 0)?;
    compute(20)?;
    expect(SIGUSR1, id, 2)
}

fn the_clock_of_another_process_has_timers() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    let child = child(|| {
        loop {
            std::hint::black_box(0);
        }
    })?;
    let clock = clock_of(child);
    let id = create(clock, &telling(SIGUSR1, 6))?;
    let due = now_ns(clock)? + 30 * MS;
    set(id, 0, 30 * MS, 0)?;
    expect(SIGUSR1, id, 6)?;
    holds!(now_ns(clock)? >= due);
    kill(child, SIGKILL)?;
    wait(child)?;
    fails!(now_ns(clock), EINVAL);
    Ok(())
}

fn the_clock_of_nobody_has_none() -> Outcome {
    let child = child(|| 0)?;
    wait(child)?;
    fails!(create(clock_of(child), &silent()), EINVAL);
    // Another process's thread; a kind that does not exist.
    fails!(create(!getppid_raw()? << 3 | 4 | 2, &silent()), EINVAL);
    fails!(create(!getpid() << 3 | 3, &silent()), EOPNOTSUPP);
    Ok(())
}

fn proc_lists_timers() -> Outcome {
    let one = create(CLOCK_MONOTONIC, &telling(SIGUSR1, 0xabcd))?;
    let two = create(CLOCK_REALTIME, &Event { signal: 12, ..silent() })?;
    let pid = getpid();
    let event = Event { notify: SIGEV_THREAD_ID, thread: pid, ..telling(SIGUSR2, 1) };
    let three = create(CLOCK_PROCESS_CPUTIME_ID, &event)?;
    let text = String::from_utf8_lossy(&content("/proc/self/timers")?).into_owned();
    // The newest first; the clock of the caller's process has a number of the long kind.
    let expected = format!(
        "ID: {three}\nsignal: 12/0000000000000001\nnotify: signal/tid.{pid}\nClockID: -6\n\
         ID: {two}\nsignal: 12/0000000000000000\nnotify: none/pid.{pid}\nClockID: 0\n\
         ID: {one}\nsignal: 10/000000000000abcd\nnotify: signal/pid.{pid}\nClockID: 1\n"
    );
    same!(text, expected);
    Ok(())
}

fn signalfd_tells_of_a_timer() -> Outcome {
    let id = blocked(SIGUSR1, 0x1234)?;
    let set_of = bit(SIGUSR1);
    let fd = sys!(SYS_signalfd4, -1, &raw const set_of, 8, 0)? as i32;
    set(id, 0, MS, 0)?;
    let mut info = [0u8; 128];
    same!(read(fd, &mut info)?, 128);
    let word = |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    // ssi_signo, ssi_code, ssi_tid, ssi_overrun, ssi_int
    same!((word(0), word(8), word(24), word(32), word(44)), (SIGUSR1, SI_TIMER, id, 0, 0x1234));
    Ok(())
}

/// Leaves the case out where the clock of somebody's machine would be set.
pub fn only_on_a_machine_of_our_own() {
    if cfg!(not(target_arch = "aarch64")) || std::env::var_os("ABITEST_QEMU_USER").is_some() {
        exit(crate::case::SKIPPED);
    }
}

/// Sets the real-time clock forward and back around `body`.
pub fn with_clock_moved(by_ms: i64, body: impl FnOnce() -> Outcome) -> Outcome {
    let step = |ms: i64| {
        let time = timespec_ns(now_ns(CLOCK_REALTIME)? + ms * MS);
        sys!(SYS_clock_settime, CLOCK_REALTIME, &raw const time)
    };
    step(by_ms)?;
    let outcome = body();
    step(-by_ms)?;
    outcome
}

fn setting_the_clock_moves_an_absolute_timer() -> Outcome {
    only_on_a_machine_of_our_own();
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    for clock in [CLOCK_REALTIME, CLOCK_TAI] {
        let id = create(clock, &telling(SIGUSR1, 4))?;
        set(id, TIMER_ABSTIME, now_ns(clock)? + 3_600_000 * MS, 0)?;
        fails!(take(SIGUSR1, 20), EAGAIN);
        with_clock_moved(4_000_000, || expect(SIGUSR1, id, 4))?;
    }
    Ok(())
}

fn setting_the_clock_leaves_a_relative_timer() -> Outcome {
    only_on_a_machine_of_our_own();
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    let id = create(CLOCK_REALTIME, &telling(SIGUSR1, 4))?;
    set(id, 0, 3_600_000 * MS, 0)?;
    with_clock_moved(4_000_000, || {
        fails!(take(SIGUSR1, 30), EAGAIN);
        holds!(get(id)?.0 > 3_500_000 * MS);
        Ok(())
    })
}
