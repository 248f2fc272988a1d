//! Timers on the hand-cranked clock: none early, none lost, in order, and as many overruns as the clock says.

use abi::signal::{SI_TIMER, SIGALRM, SIGRTMIN, SIGUSR1, SigInfo};
use abi::time as t;
use abi::time::{Itimerspec, Sigevent, Timespec, Timex};
use abi::{Errno, nr};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};
use zerocopy::{FromZeros, IntoBytes};

use crate::{Diary, MS, bit, rounds, story};

const SECOND: u64 = 1_000_000_000;
/// What a program's way into the kernel and back may take on the hosted machine.
const PATIENCE: u64 = MS;

fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / SECOND).cast_signed(), tv_nsec: (ns % SECOND).cast_signed() }
}

fn ns(time: Timespec) -> u64 {
    time.tv_sec.cast_unsigned() * SECOND + time.tv_nsec.cast_unsigned()
}

fn setting(value: u64, interval: u64) -> Itimerspec {
    Itimerspec { it_value: timespec(value), it_interval: timespec(interval) }
}

fn create(user: &mut User, clock: i32, signal: u32, value: u64) -> Result<i32, Errno> {
    let mut event = Sigevent::new_zeroed();
    event.sigev_signo = signal.cast_signed();
    event.sigev_value = value;
    user.scoped(|user| {
        let (event, id) = (user.push(event.as_bytes()), user.push(&[0; 4]));
        user.call(nr::TIMER_CREATE, &[clock as u64, event, id])?;
        Ok(user.load(id))
    })
}

fn set(user: &mut User, id: i32, flags: u64, value: u64, interval: u64) {
    user.call_with(nr::TIMER_SETTIME, &[id as u64, flags], &setting(value, interval), &[0]).unwrap();
}

fn left(user: &mut User, id: i32) -> (u64, u64) {
    let (_, now) = user.call_with(nr::TIMER_GETTIME, &[id as u64], &Itimerspec::new_zeroed(), &[]).unwrap();
    (ns(now.it_value), ns(now.it_interval))
}

fn timerfd(user: &mut User, clock: i32, value: u64, interval: u64) -> i32 {
    let fd = user.call_int(nr::TIMERFD_CREATE, &[clock as u64, 0]).unwrap();
    let flags = u64::from(t::TFD_TIMER_ABSTIME);
    user.call_with(nr::TIMERFD_SETTIME, &[fd as u64, flags], &setting(value, interval), &[0]).unwrap();
    fd
}

fn set_clock(user: &mut User, ns: u64) {
    user.call_with(nr::CLOCK_SETTIME, &[0], &timespec(ns), &[]).unwrap();
}

fn adjust(user: &mut User, request: Timex) -> (u64, Timex) {
    user.call_with(nr::ADJTIMEX, &[], &request, &[]).unwrap()
}

/// A small generator of numbers, so that a story needs no crate.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn a_timer_is_never_early_and_tells_as_many_overruns_as_the_clock_says() {
    for seed in 0..rounds() * 4 {
        story(move |init| {
            let mut random = Random(seed);
            init.sigprocmask(0, bit(SIGRTMIN));
            let id = create(init, t::CLOCK_MONOTONIC, SIGRTMIN, 7).unwrap();
            for _ in 0..20 {
                let interval = 1000 + random.below(3 * MS);
                let first = init.clock_ns(t::CLOCK_MONOTONIC) + random.below(2 * MS);
                set(init, id, 1, first, interval);
                let mut expired = 0u64;
                for _ in 0..5 {
                    init.sleep_ns(random.below(10 * MS)).unwrap();
                    let before = init.clock_ns(t::CLOCK_MONOTONIC);
                    let Ok(info) = init.sigtimedwait(bit(SIGRTMIN), 0) else {
                        assert!(before < first + PATIENCE + interval * (expired + 1), "a timer was lost");
                        continue;
                    };
                    let after = init.clock_ns(t::CLOCK_MONOTONIC);
                    assert_eq!((info.code(), info.pid()), (SI_TIMER, id));
                    expired += 1 + u64::from(info.overruns().cast_unsigned());
                    // The k-th expiry is at first + k * interval.
                    let most = (after - first) / interval + 1;
                    assert!(expired <= most, "{expired} expiries, {most} were due");
                    let least = (before.saturating_sub(PATIENCE).saturating_sub(first)) / interval;
                    assert!(expired >= least, "{expired} expiries, {least} were due");
                }
                set(init, id, 0, 0, 0);
                while init.sigtimedwait(bit(SIGRTMIN), 0).is_ok() {}
            }
        });
    }
}

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines() {
    let diary = Diary::default();
    let inner = diary.clone();
    story(move |init| {
        let start = init.clock_ns(t::CLOCK_MONOTONIC) + 10 * MS;
        // Real-time tasks have no slack, so that the order is the deadlines'.
        for number in [5u64, 1, 4, 2, 3, 9, 7, 8, 6, 0] {
            let diary = inner.clone();
            init.fork(move |child| {
                child.call(nr::PRCTL, &[29, 1]).unwrap();
                let due = start + number * MS;
                child.call_with(nr::CLOCK_NANOSLEEP, &[1, 1], &timespec(due), &[0]).unwrap();
                assert!(child.clock_ns(t::CLOCK_MONOTONIC) >= due);
                diary.note(number.to_string());
                0
            });
        }
        while init.wait().is_ok() {}
    });
    assert_eq!(diary.entries(), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[test]
fn slack_lets_timeouts_share_an_interrupt_and_real_time_tasks_have_none() {
    let diary = Diary::default();
    let inner = diary.clone();
    story(move |init| {
        let start = init.clock_ns(t::CLOCK_MONOTONIC) + 20 * MS;
        for (slack, due) in [(5 * MS, start), (1, start + 3 * MS)] {
            let diary = inner.clone();
            init.fork(move |child| {
                child.call(nr::PRCTL, &[29, slack]).unwrap();
                child.call_with(nr::CLOCK_NANOSLEEP, &[1, 1], &timespec(due), &[0]).unwrap();
                let late = child.clock_ns(t::CLOCK_MONOTONIC) - start;
                diary.note(format!("{}", late / MS));
                0
            });
        }
        while init.wait().is_ok() {}
        // A real-time task with the same slack is on time.
        init.call(nr::PRCTL, &[29, 5 * MS]).unwrap();
        init.call_with(nr::SCHED_SETSCHEDULER, &[0, 1], &50i32, &[]).unwrap();
        let due = init.clock_ns(t::CLOCK_MONOTONIC) + 10 * MS;
        init.call_with(nr::CLOCK_NANOSLEEP, &[1, 1], &timespec(due), &[0]).unwrap();
        assert!(init.clock_ns(t::CLOCK_MONOTONIC) - due < MS);
    });
    // The one with slack waits for the other's interrupt.
    assert_eq!(diary.entries(), ["3", "3"]);
}

#[test]
fn setting_the_clock_wakes_those_who_wait_for_it_on_every_cpu() {
    for cpus in [1, 4] {
        Machine::with_cpus(cpus).run(|init| {
            let due = init.clock_ns(0) + 3600 * SECOND;
            let sleeper = move |child: &mut User| {
                child.call_with(nr::CLOCK_NANOSLEEP, &[0, 1], &timespec(due), &[0]).unwrap();
                0
            };
            for _ in 0..4 {
                init.fork(sleeper);
            }
            init.fork(|child| {
                let start = child.clock_ns(1);
                child.call_with(nr::CLOCK_NANOSLEEP, &[0, 0], &timespec(200 * MS), &[0]).unwrap();
                assert!(child.clock_ns(1) - start >= 200 * MS, "a relative sleep is not shortened");
                0
            });
            let fd = timerfd(init, 0, due, 0);
            init.sleep_ns(20 * MS).unwrap();
            let start = init.clock_ns(1);
            set_clock(init, due);
            assert_eq!(init.read_fd(fd, 8).unwrap(), 1u64.to_le_bytes());
            while let Ok(waited) = init.wait() {
                assert_eq!(waited.status.exit_code(), Some(0));
            }
            assert!(init.clock_ns(1) - start < SECOND);
        });
    }
}

#[test]
fn a_timerfd_counts_what_the_clock_says() {
    for seed in 0..rounds() * 2 {
        story(move |init| {
            let mut random = Random(seed);
            for _ in 0..10 {
                let interval = 10_000 + random.below(3 * MS);
                let first = init.clock_ns(1) + random.below(3 * MS);
                let fd = timerfd(init, 1, first, interval);
                let mut expired = 0;
                for _ in 0..5 {
                    init.sleep_ns(random.below(8 * MS)).unwrap();
                    let bytes = init.read_fd(fd, 8).unwrap();
                    expired += u64::from_le_bytes(bytes.try_into().unwrap());
                    let now = init.clock_ns(1);
                    let most = (now - first) / interval + 1;
                    let least = now.saturating_sub(PATIENCE).saturating_sub(first) / interval;
                    assert!((least..=most).contains(&expired), "{expired} of {least} to {most}");
                }
                init.close(fd).unwrap();
            }
        });
    }
}

#[test]
fn a_timer_that_nobody_hears_costs_no_interrupts() {
    story(|init| {
        init.sigprocmask(0, bit(SIGUSR1) | bit(SIGALRM));
        let id = create(init, 1, SIGUSR1, 0).unwrap();
        set(init, id, 0, 1000, 1);
        let now = init.clock_ns(1);
        let fd = timerfd(init, 1, now + 1000, 1);
        // A nanosecond's period for ten seconds: the machine would never get there if it kept expiring.
        init.sleep_ns(10 * SECOND).unwrap();
        let info = init.sigtimedwait(bit(SIGUSR1), 0).unwrap();
        assert_eq!(info.overruns(), i32::MAX);
        set(init, id, 0, 0, 0);
        let ticks = u64::from_le_bytes(init.read_fd(fd, 8).unwrap().try_into().unwrap());
        assert!(ticks > 10_000_000_000 - 10);
        init.close(fd).unwrap();
    });
}

#[test]
fn timers_on_many_cpus_are_not_lost() {
    for seed in 0..rounds() * 4 {
        for cpus in [2, 4] {
            Machine::interleaved(cpus, seed).run(move |init| {
                for child in 0..4u64 {
                    init.fork(move |user| {
                        let mut random = Random(seed * 7 + child);
                        user.sigprocmask(0, bit(SIGUSR1));
                        let id = create(user, 1, SIGUSR1, 0).unwrap();
                        for _ in 0..30 {
                            set(user, id, 0, 1 + random.below(100_000), random.below(2) * 50_000);
                            if random.below(3) == 0 {
                                set(user, id, 0, 1 + random.below(50_000), 0);
                            }
                            user.sigtimedwait(bit(SIGUSR1), 10 * SECOND).expect("the timer expires");
                            set(user, id, 0, 0, 0);
                            while user.sigtimedwait(bit(SIGUSR1), 0).is_ok() {}
                        }
                        0
                    });
                }
                while let Ok(waited) = init.wait() {
                    assert_eq!(waited.status.exit_code(), Some(0));
                }
            });
        }
    }
}

#[test]
fn cpu_timers_fire_after_the_time_they_count() {
    story(|init| {
        init.sigprocmask(0, bit(SIGUSR1));
        for clock in [t::CLOCK_PROCESS_CPUTIME_ID, t::CLOCK_THREAD_CPUTIME_ID] {
            let id = create(init, clock, SIGUSR1, 0).unwrap();
            set(init, id, 0, 100 * MS, 0);
            init.sleep_ns(SECOND).unwrap();
            assert_eq!(init.sigpending() & bit(SIGUSR1), 0);
            init.compute(90 * MS);
            assert_eq!(init.sigpending() & bit(SIGUSR1), 0);
            let (rest, _) = left(init, id);
            assert!(rest > 0 && rest <= 10 * MS);
            init.compute(20 * MS);
            assert_eq!(init.sigtimedwait(bit(SIGUSR1), 0).map(|info: SigInfo| info.pid()), Ok(id));
        }
    });
}

#[test]
fn the_clock_of_a_child_wakes_its_parent() {
    story(|init| {
        let child = init.fork(|child| {
            (0..100).for_each(|_| child.compute(10 * MS));
            0
        });
        let clock = !child << 3 | 2;
        init.call_with(nr::CLOCK_NANOSLEEP, &[clock as u64, 0], &timespec(200 * MS), &[0]).unwrap();
        assert!(init.clock_ns(clock) >= 200 * MS);
        assert!(init.clock_ns(clock) < 400 * MS);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        let result = init.call_with(nr::CLOCK_NANOSLEEP, &[clock as u64, 0], &timespec(MS), &[0]);
        assert_eq!(result.map(|_| ()), Err(Errno::EINVAL));
    });
}

#[test]
fn adjtime_works_an_offset_off_and_then_the_clock_runs_as_before() {
    story(|init| {
        let gain = |init: &mut User| init.clock_ns(1).cast_signed() - init.clock_ns(4).cast_signed();
        for offset in [1_800i64, -1_800] {
            let before = gain(init);
            adjust(init, Timex { modes: t::ADJ_OFFSET_SINGLESHOT, offset, ..Timex::default() });
            init.sleep_ns(10 * SECOND).unwrap();
            let gained = gain(init) - before;
            assert!((gained - offset * 1000).abs() < 2_000, "gained {gained} ns of {offset} us");
            let rest = adjust(init, Timex { modes: t::ADJ_OFFSET_SS_READ, ..Timex::default() }).1.offset;
            assert_eq!(rest, 0);
        }
    });
}

#[test]
fn a_frequency_changes_the_speed_and_sleeps_follow() {
    story(|init| {
        adjust(init, Timex { modes: t::ADJ_TICK, tick: 11_000, ..Timex::default() });
        let before = (init.clock_ns(1), init.clock_ns(4));
        init.sleep_ns(10 * SECOND).unwrap();
        let (clock, raw) = (init.clock_ns(1) - before.0, init.clock_ns(4) - before.1);
        assert!(clock >= 10 * SECOND);
        let expected = clock * 10 / 11;
        assert!(raw.abs_diff(expected) < 10_000, "{raw} is not {expected}");
    });
}

#[test]
fn a_leap_second_is_inserted_at_the_end_of_the_day() {
    story(|init| {
        let midnight = 1000 * 86_400 * SECOND;
        set_clock(init, midnight - 3 * SECOND);
        adjust(init, Timex { modes: t::ADJ_TAI, constant: 37, ..Timex::default() });
        let modes = t::ADJ_STATUS | t::ADJ_MAXERROR | t::ADJ_ESTERROR;
        let status = t::STA_INS.cast_signed();
        adjust(init, Timex { modes, status, ..Timex::default() });
        let state = |init: &mut User| adjust(init, Timex::default()).0 as i32;
        let tai = init.clock_ns(t::CLOCK_TAI) - init.clock_ns(1);
        init.sleep_ns(3 * SECOND / 2).unwrap();
        assert_eq!(state(init), t::TIME_INS);
        init.sleep_ns(2 * SECOND).unwrap();
        assert_eq!(state(init), t::TIME_OOP);
        assert_eq!(init.clock_ns(0) / SECOND, midnight / SECOND - 1);
        init.sleep_ns(SECOND).unwrap();
        assert_eq!(state(init), t::TIME_WAIT);
        assert_eq!(init.clock_ns(0) / SECOND, midnight / SECOND);
        assert!((init.clock_ns(t::CLOCK_TAI) - init.clock_ns(1)).abs_diff(tai) < MS);
        assert_eq!(adjust(init, Timex::default()).1.tai, 38);
        adjust(init, Timex { modes: t::ADJ_STATUS, ..Timex::default() });
        init.sleep_ns(2 * SECOND).unwrap();
        assert_eq!(state(init), t::TIME_OK);
    });
}

#[test]
fn a_forged_signal_is_not_a_timer() {
    story(|init| {
        init.sigprocmask(0, bit(SIGUSR1));
        let id = create(init, 1, SIGUSR1, 0).unwrap();
        set(init, id, 0, SECOND, SECOND);
        let mut forged = SigInfo::timer(SIGUSR1, SI_TIMER, id, 5, 0);
        forged.set_mark(1);
        let pid = init.getpid() as u64;
        init.call_with(nr::RT_SIGQUEUEINFO, &[pid, u64::from(SIGUSR1)], &forged, &[]).unwrap();
        let taken = init.sigtimedwait(bit(SIGUSR1), 0).unwrap();
        assert_eq!((taken.overruns(), taken.is_marked()), (5, false));
        assert!(left(init, id).0 > SECOND / 2);
    });
}

fn mount_proc(user: &mut User) {
    user.scoped(|user| {
        let (kind, at) = (user.push_string("proc"), user.push_string("/proc"));
        user.call(nr::MOUNT, &[kind, at, kind, 0, 0]).unwrap();
    });
}

/// Timer interrupts of each CPU so far.
fn interrupts(user: &mut User) -> Vec<u64> {
    let text = String::from_utf8(user.slurp("/proc/interrupts").unwrap()).unwrap();
    let line = text.lines().find(|line| line.ends_with("arch_timer")).unwrap();
    line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect()
}

#[test]
fn an_idle_machine_has_no_ticks() {
    Machine::with_cpus(4).run(|init| {
        mount_proc(init);
        init.sleep_ns(SECOND).unwrap();
        let before = interrupts(init);
        init.sleep_ns(1000 * SECOND).unwrap();
        let after = interrupts(init);
        let count: u64 = after.iter().zip(&before).map(|(after, before)| after - before).sum();
        // A tick would have come a million times.
        assert!(count < 2000, "{count} interrupts");
        let list = String::from_utf8(init.slurp("/proc/timer_list").unwrap()).unwrap();
        assert_eq!(list.matches(".tick_stopped   : 1").count(), 3, "{list}");
    });
}

#[test]
fn timer_list_names_who_sleeps() {
    story(|init| {
        mount_proc(init);
        let child = init.fork(|child| {
            child.sleep_ns(100 * SECOND).unwrap();
            0
        });
        init.sleep_ns(MS).unwrap();
        let list = String::from_utf8(init.slurp("/proc/timer_list").unwrap()).unwrap();
        assert!(list.contains(&format!("/{child}\n # expires at ")), "{list}");
        init.kill(child, 9).unwrap();
        init.wait().unwrap();
    });
}
