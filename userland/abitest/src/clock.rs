//! Clocks: which there are, setting them, adjtimex(2), and sleeping on them.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;
use crate::timer::{clock_of, only_on_a_machine_of_our_own, with_clock_moved};

pub const CASES: &[Case] = cases![
    every_clock_has_a_resolution,
    clocks_by_descriptor_do_not_exist,
    atomic_time_is_real_time_and_whole_seconds,
    a_process_is_named_by_its_leader,
    a_thread_clock_is_for_its_own_process,
    the_clock_of_a_child_counts_its_time,
    kinds_of_cpu_time_add_up,
    the_system_call_agrees_with_the_vdso,
    cpu_clocks_cannot_be_set,
    nonsense_is_refused_before_the_permission,
    the_time_of_day_is_checked,
    the_time_zone_is_kept,
    real_time_is_not_before_the_boot,
    a_set_clock_shows_what_was_set,
    anybody_may_read_the_discipline,
    changing_the_discipline_is_for_root,
    adjustments_that_are_refused,
    only_real_time_has_a_discipline,
    a_frequency_is_kept_and_clamped,
    a_tick_is_kept,
    errors_and_the_time_constant_are_kept,
    some_bits_of_the_status_are_the_kernels,
    nanoseconds_and_microseconds,
    atomic_time_can_be_set,
    an_offset_can_be_added,
    adjtime_works_off_half_a_millisecond_a_second,
    a_frequency_changes_the_speed,
    the_vdso_follows_the_speed,
    an_offset_is_worked_off,
    a_synchronised_clock_is_ok,
    sleeps_on_clocks_that_have_none,
    an_absolute_sleep_ends_when_the_clock_is_set,
    a_relative_sleep_does_not_care,
    a_sleep_on_the_clock_of_a_child,
    a_sleep_on_an_own_clock_is_refused,
    absolute_sleeps_tell_no_remainder,
    slack_is_kept_and_inherited,
    slack_of_others_is_for_who_may_be_nice,
    an_interval_timer_counts_all_cpu_time,
    an_interval_without_a_value_is_off,
    an_alarm_that_waits_rests,
];

const MS: i64 = 1_000_000;

const ADJ_OFFSET: u32 = 0x0001;
const ADJ_FREQUENCY: u32 = 0x0002;
const ADJ_MAXERROR: u32 = 0x0004;
const ADJ_ESTERROR: u32 = 0x0008;
const ADJ_STATUS: u32 = 0x0010;
const ADJ_TIMECONST: u32 = 0x0020;
const ADJ_TAI: u32 = 0x0080;
const ADJ_SETOFFSET: u32 = 0x0100;
const ADJ_MICRO: u32 = 0x1000;
const ADJ_NANO: u32 = 0x2000;
const ADJ_TICK: u32 = 0x4000;
const ADJ_ADJTIME: u32 = 0x8000;
const SINGLESHOT: u32 = 0x8001;
const SS_READ: u32 = 0xa001;
const STA_PLL: i32 = 1;
const STA_UNSYNC: i32 = 0x40;
const STA_NANO: i32 = 0x2000;
const TIME_OK: usize = 0;
const TIME_ERROR: usize = 5;

/// `struct timex`.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
struct Timex {
    modes: u32,
    pad0: u32,
    offset: i64,
    freq: i64,
    maxerror: i64,
    esterror: i64,
    status: i32,
    pad1: u32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    sec: i64,
    usec: i64,
    tick: i64,
    pps: [i64; 3],
    pps_rest: [i64; 5],
    tai: i32,
    rest: [u32; 11],
}

fn adjust(request: Timex) -> Result<(usize, Timex)> {
    let mut timex = request;
    let state = sys!(SYS_adjtimex, &raw mut timex)?;
    Ok((state, timex))
}

fn discipline() -> Result<Timex> {
    adjust(Timex::default()).map(|(_, timex)| timex)
}

/// Gives the discipline back what a fresh kernel has.
fn reset() -> Result<()> {
    adjust(Timex {
        modes: ADJ_FREQUENCY | ADJ_TICK | ADJ_STATUS | ADJ_MICRO | ADJ_TAI,
        tick: 10_000,
        ..Timex::default()
    })?;
    adjust(Timex { modes: SINGLESHOT, ..Timex::default() })?;
    adjust(Timex { modes: ADJ_STATUS, status: STA_UNSYNC, ..Timex::default() })?;
    Ok(())
}

fn changing(body: impl FnOnce() -> Outcome) -> Outcome {
    only_on_a_machine_of_our_own();
    reset()?;
    let outcome = body();
    reset()?;
    outcome
}

fn timespec_ns(ns: i64) -> timespec {
    let mut time = timespec_ms(0);
    (time.tv_sec, time.tv_nsec) = (ns / 1_000_000_000, ns % 1_000_000_000);
    time
}

fn resolution(clock: i32) -> Result<(i64, i64)> {
    let mut time = timespec_ms(5);
    sys!(SYS_clock_getres, clock, &raw mut time)?;
    Ok((time.tv_sec, time.tv_nsec))
}

fn every_clock_has_a_resolution() -> Outcome {
    let fine = [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_TAI];
    for clock in fine.into_iter().chain([CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, clock_of(0)]) {
        same!(resolution(clock)?, (0, 1));
    }
    for clock in [CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, !0 << 3, !0 << 3 | 1] {
        let (sec, nsec) = resolution(clock)?;
        holds!(sec == 0 && (MS..=10 * MS).contains(&nsec));
    }
    for clock in [10, 12, 99, -1, !0 << 3 | 3] {
        fails!(resolution(clock), EINVAL);
    }
    same!(sys!(SYS_clock_getres, CLOCK_MONOTONIC, 0)?, 0);
    fails!(sys!(SYS_clock_getres, CLOCK_MONOTONIC, 8), EFAULT);
    Ok(())
}

fn clocks_by_descriptor_do_not_exist() -> Outcome {
    for fd in [0, 1, 99] {
        fails!(now_ns(!fd << 3 | 3), EINVAL);
    }
    Ok(())
}

fn atomic_time_is_real_time_and_whole_seconds() -> Outcome {
    let tai = i64::from(discipline()?.tai);
    let before = now_ns(CLOCK_REALTIME)?;
    let between = now_ns(CLOCK_TAI)? - tai * 1_000_000_000;
    holds!(before <= between && between <= now_ns(CLOCK_REALTIME)?);
    Ok(())
}

fn a_process_is_named_by_its_leader() -> Outcome {
    let by_number = now_ns(clock_of(getpid()))?;
    let own = now_ns(CLOCK_PROCESS_CPUTIME_ID)?;
    holds!(by_number <= own && own <= now_ns(clock_of(0))?);
    fails!(now_ns(clock_of(i32::MAX >> 3)), EINVAL);
    Ok(())
}

fn a_thread_clock_is_for_its_own_process() -> Outcome {
    let thread = |tid: i32| !tid << 3 | 4 | 2;
    let own = now_ns(thread(getpid()))?;
    holds!(own <= now_ns(CLOCK_THREAD_CPUTIME_ID)?);
    fails!(now_ns(thread(sys!(SYS_getppid)? as i32)), EINVAL);
    Ok(())
}

fn the_clock_of_a_child_counts_its_time() -> Outcome {
    let child = child(|| {
        loop {
            std::hint::black_box(0);
        }
    })?;
    let first = now_ns(clock_of(child))?;
    sleep_ms(100);
    let second = now_ns(clock_of(child))?;
    holds!(second > first && second - first < 3000 * MS);
    kill(child, SIGKILL)?;
    wait(child)?;
    Ok(())
}

fn kinds_of_cpu_time_add_up() -> Outcome {
    let (profiling, user) = (!0 << 3, !0 << 3 | 1);
    let end = now_ns(CLOCK_PROCESS_CPUTIME_ID)? + 60 * MS;
    while now_ns(CLOCK_PROCESS_CPUTIME_ID)? < end {}
    holds!(now_ns(user)? <= now_ns(profiling)?);
    holds!((now_ns(profiling)? - now_ns(clock_of(0))?).abs() < 50 * MS);
    Ok(())
}

fn agree(clock: i32) -> Outcome {
    for _ in 0..300 {
        let before = now_ns(clock)?;
        let between = libc_now_ns(clock);
        let after = now_ns(clock)?;
        holds!(before <= between && between <= after);
    }
    Ok(())
}

fn the_system_call_agrees_with_the_vdso() -> Outcome {
    for clock in [
        CLOCK_REALTIME,
        CLOCK_MONOTONIC,
        CLOCK_MONOTONIC_RAW,
        CLOCK_REALTIME_COARSE,
        CLOCK_MONOTONIC_COARSE,
        CLOCK_BOOTTIME,
        CLOCK_TAI,
    ] {
        agree(clock)?;
    }
    Ok(())
}

fn set(clock: i32, time: &timespec) -> Result<usize> {
    sys!(SYS_clock_settime, clock, &raw const *time)
}

fn cpu_clocks_cannot_be_set() -> Outcome {
    let time = timespec_ms(1_000_000);
    for clock in [
        CLOCK_MONOTONIC,
        CLOCK_MONOTONIC_RAW,
        CLOCK_BOOTTIME,
        CLOCK_TAI,
        CLOCK_REALTIME_COARSE,
        CLOCK_PROCESS_CPUTIME_ID,
        CLOCK_THREAD_CPUTIME_ID,
        99,
    ] {
        fails!(set(clock, &time), EINVAL);
    }
    fails!(set(clock_of(getpid()), &time), EPERM);
    fails!(set(clock_of(i32::MAX >> 3), &time), EINVAL);
    Ok(())
}

fn nonsense_is_refused_before_the_permission() -> Outcome {
    let pid = trial(|| {
        become_user()?;
        for (sec, nsec) in [(-1, 0), (5, -1), (5, 1_000_000_000), (i64::MAX, 0), (8_277_292_036, 0)] {
            let mut time = timespec_ms(0);
            (time.tv_sec, time.tv_nsec) = (sec, nsec);
            fails!(set(CLOCK_REALTIME, &time), EINVAL);
        }
        fails!(sys!(SYS_clock_settime, CLOCK_REALTIME, 8), EFAULT);
        fails!(set(CLOCK_REALTIME, &timespec_ms(0)), EPERM);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn the_time_of_day_is_checked() -> Outcome {
    let pid = trial(|| {
        become_user()?;
        let day = |sec: i64, usec: i64| {
            let time = [sec, usec];
            sys!(SYS_settimeofday, time.as_ptr(), 0)
        };
        for (sec, usec) in [(-1, 0), (5, -1), (5, 1_000_000), (5, 1_000_001), (i64::MAX, 0)] {
            fails!(day(sec, usec), EINVAL);
        }
        fails!(day(5, 0), EPERM);
        let zone = [0i32, 0];
        fails!(sys!(SYS_settimeofday, 0, zone.as_ptr()), EPERM);
        fails!(sys!(SYS_settimeofday, 8, 0), EFAULT);
        fails!(sys!(SYS_settimeofday, 0, 8), EFAULT);
        fails!(sys!(SYS_settimeofday, 0, 0), EPERM);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn zone(minutes: i32, kind: i32) -> Result<usize> {
    let zone = [minutes, kind];
    sys!(SYS_settimeofday, 0, zone.as_ptr())
}

fn the_time_zone_is_kept() -> Outcome {
    only_on_a_machine_of_our_own();
    // The first zone that is given alone may move the clock: 0 does not.
    zone(0, 0)?;
    zone(-60, 3)?;
    let mut now = [0i32; 2];
    sys!(SYS_gettimeofday, 0, now.as_mut_ptr())?;
    same!(now, [-60, 3]);
    fails!(zone(15 * 60 + 1, 0), EINVAL);
    fails!(zone(-15 * 60 - 1, 0), EINVAL);
    zone(0, 0)?;
    Ok(())
}

fn real_time_is_not_before_the_boot() -> Outcome {
    only_on_a_machine_of_our_own();
    fails!(set(CLOCK_REALTIME, &timespec_ms(1)), EINVAL);
    Ok(())
}

fn a_set_clock_shows_what_was_set() -> Outcome {
    only_on_a_machine_of_our_own();
    let (real, monotonic) = (now_ns(CLOCK_REALTIME)?, now_ns(CLOCK_MONOTONIC)?);
    with_clock_moved(1_000_000_000, || {
        let moved = now_ns(CLOCK_REALTIME)? - real - 1_000_000_000 * MS;
        holds!((0..5000 * MS).contains(&moved));
        holds!(now_ns(CLOCK_MONOTONIC)? - monotonic < 5000 * MS);
        agree(CLOCK_REALTIME)?;
        agree(CLOCK_REALTIME_COARSE)
    })
}

fn anybody_may_read_the_discipline() -> Outcome {
    let pid = trial(|| {
        become_user()?;
        let now = discipline()?;
        same!((now.precision, now.tolerance), (1, 32_768_000));
        holds!((9_000..=11_000).contains(&now.tick));
        holds!((now.sec - now_ns(CLOCK_REALTIME)? / 1_000_000_000).abs() <= 2);
        adjust(Timex { modes: SS_READ, ..Timex::default() })?;
        fails!(sys!(SYS_adjtimex, 8), EFAULT);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn changing_the_discipline_is_for_root() -> Outcome {
    let pid = trial(|| {
        become_user()?;
        let modes = [ADJ_OFFSET, ADJ_FREQUENCY, ADJ_STATUS, ADJ_TICK, ADJ_TAI, ADJ_SETOFFSET, SINGLESHOT, ADJ_NANO];
        for modes in modes {
            fails!(adjust(Timex { modes, tick: 10_000, ..Timex::default() }), EPERM);
        }
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn adjustments_that_are_refused() -> Outcome {
    only_on_a_machine_of_our_own();
    fails!(adjust(Timex { modes: ADJ_ADJTIME, ..Timex::default() }), EINVAL);
    for tick in [0, 8_999, 11_001, -10_000] {
        fails!(adjust(Timex { modes: ADJ_TICK, tick, ..Timex::default() }), EINVAL);
    }
    for (modes, usec) in [(0, -1), (0, 1_000_000), (ADJ_NANO, -1), (ADJ_NANO, 1_000_000_000)] {
        fails!(adjust(Timex { modes: ADJ_SETOFFSET | modes, usec, ..Timex::default() }), EINVAL);
    }
    for freq in [i64::MAX, i64::MIN, i64::MAX / 65_536_000 + 1] {
        fails!(adjust(Timex { modes: ADJ_FREQUENCY, freq, ..Timex::default() }), EINVAL);
    }
    fails!(adjust(Timex { modes: ADJ_SETOFFSET, sec: -2_000_000_000_000, ..Timex::default() }), EINVAL);
    Ok(())
}

fn only_real_time_has_a_discipline() -> Outcome {
    let adjust = |clock: i32| {
        let mut timex = Timex::default();
        sys!(SYS_clock_adjtime, clock, &raw mut timex).map(|_| timex)
    };
    same!(adjust(CLOCK_REALTIME)?.precision, 1);
    for clock in
        [CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_BOOTTIME, CLOCK_TAI, CLOCK_REALTIME_COARSE, clock_of(0)]
    {
        fails!(adjust(clock), EOPNOTSUPP);
    }
    fails!(adjust(99), EINVAL);
    fails!(adjust(!0 << 3 | 3), EINVAL);
    fails!(sys!(SYS_clock_adjtime, 99, 8), EFAULT);
    Ok(())
}

fn a_frequency_is_kept_and_clamped() -> Outcome {
    changing(|| {
        for (freq, kept) in
            [(6_553_600, 6_553_600), (-65_536, -65_536), (1, 1), (50_000_000, 32_768_000), (-50_000_000, -32_768_000)]
        {
            same!(adjust(Timex { modes: ADJ_FREQUENCY, freq, ..Timex::default() })?.1.freq, kept);
            same!(discipline()?.freq, kept);
        }
        Ok(())
    })
}

fn a_tick_is_kept() -> Outcome {
    changing(|| {
        for tick in [9_000, 11_000, 10_001] {
            same!(adjust(Timex { modes: ADJ_TICK, tick, ..Timex::default() })?.1.tick, tick);
        }
        Ok(())
    })
}

fn errors_and_the_time_constant_are_kept() -> Outcome {
    changing(|| {
        let modes = ADJ_MAXERROR | ADJ_ESTERROR | ADJ_TIMECONST;
        let (_, now) = adjust(Timex { modes, maxerror: 1234, esterror: 567, constant: 2, ..Timex::default() })?;
        // Four is added for who counts in microseconds.
        same!((now.maxerror, now.esterror, now.constant), (1234, 567, 6));
        let modes = ADJ_TIMECONST | ADJ_NANO;
        same!(adjust(Timex { modes, constant: 2, ..Timex::default() })?.1.constant, 2);
        same!(adjust(Timex { modes, constant: 99, ..Timex::default() })?.1.constant, 10);
        Ok(())
    })
}

fn some_bits_of_the_status_are_the_kernels() -> Outcome {
    changing(|| {
        let (_, now) = adjust(Timex { modes: ADJ_STATUS, status: STA_PLL | 0xff00 | 0x80, ..Timex::default() })?;
        same!(now.status, STA_PLL | 0x80);
        // Without the loop the clock counts as unsynchronised again.
        let (state, now) = adjust(Timex { modes: ADJ_STATUS, status: STA_UNSYNC, ..Timex::default() })?;
        same!((state, now.status), (TIME_ERROR, STA_UNSYNC));
        Ok(())
    })
}

fn nanoseconds_and_microseconds() -> Outcome {
    changing(|| {
        let (_, now) = adjust(Timex { modes: ADJ_NANO, ..Timex::default() })?;
        holds!(now.status & STA_NANO != 0);
        let (_, now) = adjust(Timex { modes: ADJ_MICRO, ..Timex::default() })?;
        holds!(now.status & STA_NANO == 0 && now.usec < 1_000_000);
        Ok(())
    })
}

fn atomic_time_can_be_set() -> Outcome {
    changing(|| {
        same!(adjust(Timex { modes: ADJ_TAI, constant: 37, ..Timex::default() })?.1.tai, 37);
        atomic_time_is_real_time_and_whole_seconds()?;
        agree(CLOCK_TAI)?;
        same!(adjust(Timex { modes: ADJ_TAI, constant: -1, ..Timex::default() })?.1.tai, 37);
        same!(adjust(Timex { modes: ADJ_TAI, constant: 100_001, ..Timex::default() })?.1.tai, 37);
        Ok(())
    })
}

fn an_offset_can_be_added() -> Outcome {
    changing(|| {
        let distance = || Ok::<_, Errno>(now_ns(CLOCK_REALTIME)? - now_ns(CLOCK_MONOTONIC)?);
        let before = distance()?;
        adjust(Timex { modes: ADJ_SETOFFSET, sec: 1000, usec: 500_000, ..Timex::default() })?;
        holds!((distance()? - before - 1_000_500 * MS).abs() < 200 * MS);
        adjust(Timex { modes: ADJ_SETOFFSET | ADJ_NANO, sec: -1001, usec: 500_000_000, ..Timex::default() })?;
        holds!((distance()? - before).abs() < 200 * MS);
        Ok(())
    })
}

fn adjtime_works_off_half_a_millisecond_a_second() -> Outcome {
    changing(|| {
        same!(adjust(Timex { modes: SINGLESHOT, offset: 1800, ..Timex::default() })?.1.offset, 0);
        same!(adjust(Timex { modes: SS_READ, ..Timex::default() })?.1.offset, 1800);
        let gain = || both().map(|(raw, clock)| clock - raw);
        let before = gain()?;
        sleep_ms(3200);
        let left = adjust(Timex { modes: SS_READ, ..Timex::default() })?.1.offset;
        holds!((0..=800).contains(&left));
        let gained = (gain()? - before) / 1000;
        holds!((900..=1900).contains(&gained));
        same!(adjust(Timex { modes: SINGLESHOT, offset: 0, ..Timex::default() })?.1.offset, left);
        Ok(())
    })
}

/// The counter's clock and the monotonic one at the same time: the closest of many readings.
fn both() -> Result<(i64, i64)> {
    let mut closest = (i64::MAX, (0, 0));
    for _ in 0..100 {
        let before = now_ns(CLOCK_MONOTONIC_RAW)?;
        let clock = now_ns(CLOCK_MONOTONIC)?;
        let between = now_ns(CLOCK_MONOTONIC_RAW)? - before;
        closest = closest.min((between, (before + between / 2, clock)));
    }
    Ok(closest.1)
}

/// How much the monotonic clock gains on the counter in a second, µs.
fn gain_in_a_second() -> Result<i64> {
    let before = both()?;
    sleep_ms(500);
    let after = both()?;
    let passed = after.0 - before.0;
    Ok((after.1 - before.1 - passed) * 1_000_000 / passed)
}

fn a_frequency_changes_the_speed() -> Outcome {
    changing(|| {
        // What an earlier adjustment works off ends with its second.
        sleep_ms(1100);
        // Linux's own counter may differ a little from what the clock makes of it.
        let own = gain_in_a_second()?;
        adjust(Timex { modes: ADJ_FREQUENCY, freq: 500 << 16, ..Timex::default() })?;
        holds!((gain_in_a_second()? - own - 500).abs() < 60);
        adjust(Timex { modes: ADJ_FREQUENCY | ADJ_TICK, freq: 0, tick: 9_900, ..Timex::default() })?;
        holds!((gain_in_a_second()? - own + 10_000).abs() < 200);
        Ok(())
    })
}

fn the_vdso_follows_the_speed() -> Outcome {
    changing(|| {
        for tick in [9_000, 11_000, 10_000, 9_500] {
            adjust(Timex { modes: ADJ_TICK, tick, ..Timex::default() })?;
            for clock in [CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_TAI, CLOCK_MONOTONIC_RAW] {
                agree(clock)?;
            }
            let start = now_ns(CLOCK_MONOTONIC)?;
            sleep_ms(20);
            holds!(now_ns(CLOCK_MONOTONIC)? - start >= 20 * MS);
        }
        Ok(())
    })
}

fn an_offset_is_worked_off() -> Outcome {
    changing(|| {
        // Without the loop an offset is forgotten.
        same!(adjust(Timex { modes: ADJ_OFFSET, offset: 1000, ..Timex::default() })?.1.offset, 0);
        let modes = ADJ_STATUS | ADJ_OFFSET | ADJ_TIMECONST | ADJ_NANO;
        let (_, now) = adjust(Timex { modes, status: STA_PLL, offset: 8_000_000, constant: 0, ..Timex::default() })?;
        // Linux counts in parts of a tick and rounds down.
        holds!((7_999_999..=8_000_000).contains(&now.offset));
        sleep_ms(2300);
        let left = discipline()?.offset;
        holds!((3_000_000..7_000_000).contains(&left));
        Ok(())
    })
}

fn a_synchronised_clock_is_ok() -> Outcome {
    changing(|| {
        same!(adjust(Timex::default())?.0, TIME_ERROR);
        let modes = ADJ_STATUS | ADJ_MAXERROR | ADJ_ESTERROR;
        same!(adjust(Timex { modes, maxerror: 0, esterror: 0, status: 0, ..Timex::default() })?.0, TIME_OK);
        sleep_ms(2100);
        let error = discipline()?.maxerror;
        holds!((500..=2000).contains(&error));
        Ok(())
    })
}

fn sleep(clock: i32, flags: i32, ns: i64) -> Result<usize> {
    let time = timespec_ns(ns);
    sys!(SYS_clock_nanosleep, clock, flags, &raw const time, 0)
}

fn sleeps_on_clocks_that_have_none() -> Outcome {
    for clock in [CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_THREAD_CPUTIME_ID] {
        fails!(sleep(clock, 0, MS), EOPNOTSUPP);
    }
    for clock in [10, 12, 99] {
        fails!(sleep(clock, 0, MS), EINVAL);
    }
    for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI] {
        let due = now_ns(clock)? + 5 * MS;
        sleep(clock, 0, 5 * MS)?;
        holds!(now_ns(clock)? >= due);
        let due = now_ns(clock)? + 5 * MS;
        sleep(clock, TIMER_ABSTIME, due)?;
        holds!(now_ns(clock)? >= due);
        fails!(sys!(SYS_clock_nanosleep, clock, 0, 8, 0), EFAULT);
    }
    Ok(())
}

fn an_absolute_sleep_ends_when_the_clock_is_set() -> Outcome {
    only_on_a_machine_of_our_own();
    let sleeper = trial(|| {
        sleep(CLOCK_REALTIME, TIMER_ABSTIME, now_ns(CLOCK_REALTIME)? + 3_600_000 * MS)?;
        Ok(())
    })?;
    sleep_ms(30);
    with_clock_moved(4_000_000, || {
        same!(status(sleeper)?, 0);
        Ok(())
    })
}

fn a_relative_sleep_does_not_care() -> Outcome {
    only_on_a_machine_of_our_own();
    let sleeper = trial(|| {
        let start = now_ns(CLOCK_MONOTONIC)?;
        sleep(CLOCK_REALTIME, 0, 150 * MS)?;
        holds!(now_ns(CLOCK_MONOTONIC)? - start >= 150 * MS);
        Ok(())
    })?;
    sleep_ms(20);
    with_clock_moved(4_000_000, || {
        same!(status(sleeper)?, 0);
        Ok(())
    })
}

fn a_sleep_on_the_clock_of_a_child() -> Outcome {
    let child = child(|| {
        loop {
            std::hint::black_box(0);
        }
    })?;
    let clock = clock_of(child);
    let due = now_ns(clock)? + 30 * MS;
    sleep(clock, 0, 30 * MS)?;
    holds!(now_ns(clock)? >= due);
    let due = now_ns(clock)? + 10 * MS;
    sleep(clock, TIMER_ABSTIME, due)?;
    holds!(now_ns(clock)? >= due);
    kill(child, SIGKILL)?;
    wait(child)?;
    fails!(sleep(clock, 0, MS), EINVAL);
    Ok(())
}

fn a_sleep_on_an_own_clock_is_refused() -> Outcome {
    fails!(sleep(!0 << 3 | 4 | 2, 0, MS), EINVAL);
    fails!(sleep(!getpid() << 3 | 4 | 2, 0, MS), EINVAL);
    Ok(())
}

fn absolute_sleeps_tell_no_remainder() -> Outcome {
    note_signal(SIGALRM, 0)?;
    let mut timer: itimerval = zeroed();
    timer.it_value.tv_usec = 20_000;
    sys!(SYS_setitimer, ITIMER_REAL, &raw const timer, 0)?;
    let time = timespec_ns(now_ns(CLOCK_MONOTONIC)? + 100_000 * MS);
    let mut left = timespec_ms(7);
    fails!(sys!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &raw const time, &raw mut left), EINTR);
    same!(left.tv_nsec, 7 * MS);
    Ok(())
}

fn slack_is_kept_and_inherited() -> Outcome {
    let slack = || sys!(SYS_prctl, PR_GET_TIMERSLACK);
    same!(slack()?, 50_000);
    sys!(SYS_prctl, PR_SET_TIMERSLACK, 123_456)?;
    same!(slack()?, 123_456);
    same!(content("/proc/self/timerslack_ns")?, b"123456\n");
    let pid = trial(|| {
        same!(slack()?, 123_456);
        sys!(SYS_prctl, PR_SET_TIMERSLACK, 5)?;
        // 0 is what the child was born with.
        sys!(SYS_prctl, PR_SET_TIMERSLACK, 0)?;
        same!(slack()?, 123_456);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    sys!(SYS_prctl, PR_SET_TIMERSLACK, 0)?;
    same!(slack()?, 50_000);
    Ok(())
}

fn slack_of_others_is_for_who_may_be_nice() -> Outcome {
    let child = child(|| {
        sleep_ms(60_000);
        0
    })?;
    let path = format!("/proc/{child}/timerslack_ns");
    let fd = open(&path, O_RDWR, 0)?;
    write(fd, b"777")?;
    same!(content(&path)?, b"777\n");
    write(fd, b"0")?;
    same!(content(&path)?, b"50000\n");
    fails!(write(fd, b"x"), EINVAL);
    let pid = trial(|| {
        become_user()?;
        fails!(content(&path), EPERM);
        same!(content("/proc/self/timerslack_ns")?, b"50000\n");
        Ok(())
    })?;
    same!(status(pid)?, 0);
    kill(child, SIGKILL)?;
    wait(child)?;
    Ok(())
}

fn itimer(which: i32, first_us: i64, next_us: i64) -> Result<itimerval> {
    let mut timer: itimerval = zeroed();
    let mut old: itimerval = zeroed();
    timer.it_value.tv_usec = first_us;
    timer.it_interval.tv_usec = next_us;
    sys!(SYS_setitimer, which, &raw const timer, &raw mut old)?;
    Ok(old)
}

fn an_interval_timer_counts_all_cpu_time() -> Outcome {
    note_signal(SIGPROF, 0)?;
    itimer(ITIMER_PROF, 20_000, 20_000)?;
    let start = now_ns(CLOCK_PROCESS_CPUTIME_ID)?;
    while count() < 5 {
        holds!(now_ns(CLOCK_PROCESS_CPUTIME_ID)? - start < 2000 * MS);
    }
    let used = now_ns(CLOCK_PROCESS_CPUTIME_ID)? - start;
    // Linux counts by its ticks what the clock counts exactly.
    holds!((50 * MS..1000 * MS).contains(&used));
    Ok(())
}

fn an_interval_without_a_value_is_off() -> Outcome {
    itimer(ITIMER_REAL, 0, 500)?;
    let old = itimer(ITIMER_REAL, 0, 0)?;
    same!((old.it_value.tv_usec, old.it_interval.tv_usec), (0, 0));
    Ok(())
}

fn an_alarm_that_waits_rests() -> Outcome {
    mask(SIG_BLOCK, bit(SIGALRM))?;
    itimer(ITIMER_REAL, 1000, 10_000)?;
    sleep_ms(50);
    let mut now: itimerval = zeroed();
    sys!(SYS_getitimer, ITIMER_REAL, &raw mut now)?;
    same!((now.it_value.tv_usec, now.it_interval.tv_usec), (0, 10_000));
    note_signal(SIGALRM, 0)?;
    mask(SIG_UNBLOCK, bit(SIGALRM))?;
    same!(count(), 1);
    for _ in 0..1000 {
        sleep_ms(5);
        if count() >= 3 {
            return Ok(());
        }
    }
    holds!(count() >= 3);
    Ok(())
}
