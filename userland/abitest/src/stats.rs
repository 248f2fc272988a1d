//! What the scheduler tells and is asked: ioprio_set(2), `/proc/schedstat`, `/proc/PID/sched`, pressure stall information,
//! `/dev/cpu_dma_latency`, `/proc/interrupts`.

use std::sync::atomic::Ordering;

use crate::case::{Case, Failure, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    ioprio_is_none_until_set,
    ioprio_is_told_as_it_was_set,
    ioprio_hints_lie_above_the_level,
    ioprio_none_has_no_level,
    ioprio_unknown_class_is_einval,
    ioprio_unknown_which_is_einval,
    ioprio_of_nobody_is_esrch,
    ioprio_goes_to_children,
    ioprio_stays_over_exec,
    clone_io_shares_the_ioprio,
    clone_io_shares_nothing_that_is_not_there,
    ioprio_of_a_group_is_the_best,
    ioprio_that_is_not_set_follows_nice,
    ioprio_realtime_needs_privilege,
    ioprio_of_another_user_is_eperm,
    pressure_has_two_lines,
    pressure_refuses_nonsense,
    pressure_takes_one_trigger,
    pressure_drops_the_last_byte,
    pressure_without_a_trigger_is_an_error,
    pressure_of_the_cpu_is_told,
    pressure_windows_of_users_are_coarse,
    schedstat_has_fifteen_fields,
    own_schedstat_counts,
    waiting_for_a_cpu_is_counted,
    sched_counts_sleeps_and_is_set_back,
    switches_are_of_two_kinds,
    latency_request_lasts_as_long_as_the_file,
    latency_request_in_digits,
    latency_request_is_four_bytes,
    interrupts_are_counted,
];

const IOPRIO_CLASS_SHIFT: i32 = 13;
const REALTIME: i32 = 1 << IOPRIO_CLASS_SHIFT;
const BEST_EFFORT: i32 = 2 << IOPRIO_CLASS_SHIFT;
const IDLE: i32 = 3 << IOPRIO_CLASS_SHIFT;
const PROCESS: i32 = 1;
const GROUP: i32 = 2;
const USER: i32 = 3;
const CLONE_IO_FLAG: i32 = 0x8000_0000_u32.cast_signed();

fn set_ioprio(which: i32, who: i32, priority: i32) -> Result<usize> {
    sys!(SYS_ioprio_set, which, who, priority)
}

fn ioprio(which: i32, who: i32) -> Result<i32> {
    sys!(SYS_ioprio_get, which, who).map(|value| i32::try_from(value).unwrap_or(-1))
}

fn ioprio_is_none_until_set() -> Outcome {
    same!(ioprio(PROCESS, 0)?, 0);
    same!(ioprio(PROCESS, getpid())?, 0);
    Ok(())
}

fn ioprio_is_told_as_it_was_set() -> Outcome {
    for priority in [BEST_EFFORT, BEST_EFFORT | 7, IDLE, REALTIME | 3, 0] {
        same!(set_ioprio(PROCESS, 0, priority)?, 0);
        same!(ioprio(PROCESS, 0)?, priority);
    }
    // The class of idleness has no levels, and keeps what it is given.
    same!(set_ioprio(PROCESS, 0, IDLE | 5)?, 0);
    same!(ioprio(PROCESS, 0)?, IDLE | 5);
    Ok(())
}

fn ioprio_hints_lie_above_the_level() -> Outcome {
    for priority in [BEST_EFFORT | 8, REALTIME | 0x1ff8, 16] {
        same!(set_ioprio(PROCESS, 0, priority)?, 0);
        same!(ioprio(PROCESS, 0)?, priority);
    }
    fails!(set_ioprio(PROCESS, 0, 17), EINVAL);
    Ok(())
}

fn ioprio_none_has_no_level() -> Outcome {
    fails!(set_ioprio(PROCESS, 0, 1), EINVAL);
    same!(set_ioprio(PROCESS, 0, 0)?, 0);
    Ok(())
}

fn ioprio_unknown_class_is_einval() -> Outcome {
    for class in 4..8 {
        fails!(set_ioprio(PROCESS, 0, class << IOPRIO_CLASS_SHIFT), EINVAL);
    }
    fails!(set_ioprio(PROCESS, 0, -1), EINVAL);
    Ok(())
}

fn ioprio_unknown_which_is_einval() -> Outcome {
    for which in [0, 4, -1] {
        fails!(set_ioprio(which, 0, BEST_EFFORT), EINVAL);
        fails!(ioprio(which, 0), EINVAL);
    }
    Ok(())
}

fn ioprio_of_nobody_is_esrch() -> Outcome {
    fails!(ioprio(PROCESS, 0x3f_ffff), ESRCH);
    fails!(set_ioprio(PROCESS, 0x3f_ffff, BEST_EFFORT), ESRCH);
    fails!(ioprio(GROUP, 0x3f_ffff), ESRCH);
    fails!(set_ioprio(USER, 54_321, BEST_EFFORT), ESRCH);
    // A wrong priority is found first.
    fails!(set_ioprio(PROCESS, 0x3f_ffff, 1), EINVAL);
    Ok(())
}

fn ioprio_goes_to_children() -> Outcome {
    set_ioprio(PROCESS, 0, BEST_EFFORT | 6)?;
    let pid = child(|| i32::from(ioprio(PROCESS, 0) != Ok(BEST_EFFORT | 6)))?;
    same!(status(pid)?, 0);
    // It is the child's own.
    let pid = child(|| i32::from(set_ioprio(PROCESS, 0, IDLE).is_err()))?;
    same!(status(pid)?, 0);
    same!(ioprio(PROCESS, 0)?, BEST_EFFORT | 6);
    Ok(())
}

fn ioprio_stays_over_exec() -> Outcome {
    set_ioprio(PROCESS, 0, BEST_EFFORT | 2)?;
    let (reader, writer) = pipe(0)?;
    let pid = child(|| {
        let program = path("/bin/sleep");
        let argv = [path("sleep"), path("10")];
        let argv = [argv[0].as_ptr(), argv[1].as_ptr(), core::ptr::null()];
        let _ = sys!(SYS_fcntl, writer, F_SETFD, FD_CLOEXEC);
        let _ = sys!(SYS_execve, program.as_ptr(), argv.as_ptr(), 0);
        1
    })?;
    close(writer)?;
    same!(rest(reader)?.len(), 0);
    same!(ioprio(PROCESS, pid)?, BEST_EFFORT | 2);
    kill(pid, SIGKILL)?;
    wait(pid)?;
    Ok(())
}

fn clone_io_shares_the_ioprio() -> Outcome {
    set_ioprio(PROCESS, 0, BEST_EFFORT | 1)?;
    let pid = clone(CLONE_IO_FLAG | SIGCHLD, 0, core::ptr::null_mut(), core::ptr::null_mut(), 0)?;
    if pid == 0 {
        exit(i32::from(set_ioprio(PROCESS, 0, BEST_EFFORT | 5).is_err()));
    }
    same!(status(pid)?, 0);
    same!(ioprio(PROCESS, 0)?, BEST_EFFORT | 5);
    Ok(())
}

fn clone_io_shares_nothing_that_is_not_there() -> Outcome {
    let pid = clone(CLONE_IO_FLAG | SIGCHLD, 0, core::ptr::null_mut(), core::ptr::null_mut(), 0)?;
    if pid == 0 {
        exit(i32::from(set_ioprio(PROCESS, 0, BEST_EFFORT | 5).is_err()));
    }
    same!(status(pid)?, 0);
    same!(ioprio(PROCESS, 0)?, 0);
    Ok(())
}

fn ioprio_of_a_group_is_the_best() -> Outcome {
    set_ioprio(PROCESS, 0, BEST_EFFORT | 6)?;
    let (reader, writer) = pipe(0)?;
    let pid = child(|| {
        let set = set_ioprio(PROCESS, 0, BEST_EFFORT | 1);
        let _ = write(writer, b"x");
        sleep_ms(20_000);
        i32::from(set.is_err())
    })?;
    read(reader, &mut [0])?;
    same!(ioprio(GROUP, 0)?, BEST_EFFORT | 1);
    same!(set_ioprio(GROUP, 0, BEST_EFFORT | 3)?, 0);
    same!((ioprio(PROCESS, 0)?, ioprio(PROCESS, pid)?), (BEST_EFFORT | 3, BEST_EFFORT | 3));
    kill(pid, SIGKILL)?;
    wait(pid)?;
    Ok(())
}

fn ioprio_that_is_not_set_follows_nice() -> Outcome {
    sys!(SYS_setpriority, 0, 0, 10)?;
    // The case is a session, and so a group, of its own.
    same!(ioprio(GROUP, 0)?, BEST_EFFORT | 6);
    same!(ioprio(PROCESS, 0)?, 0);
    Ok(())
}

fn ioprio_realtime_needs_privilege() -> Outcome {
    become_user()?;
    fails!(set_ioprio(PROCESS, 0, REALTIME | 4), EPERM);
    // Permission comes before the level.
    fails!(set_ioprio(PROCESS, 0, REALTIME | 9), EPERM);
    same!(set_ioprio(PROCESS, 0, BEST_EFFORT)?, 0);
    same!(set_ioprio(PROCESS, 0, IDLE)?, 0);
    Ok(())
}

fn ioprio_of_another_user_is_eperm() -> Outcome {
    let root = getpid();
    let pid = child(|| {
        let dropped = become_user().is_ok();
        let refused = set_ioprio(PROCESS, root, BEST_EFFORT) == Err(Errno(EPERM));
        // Reading is everybody's.
        i32::from(!(dropped && refused && ioprio(PROCESS, root) == Ok(0)))
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

const PRESSURE: [&str; 3] = ["/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"];

fn pressure_has_two_lines() -> Outcome {
    for name in PRESSURE {
        let text = String::from_utf8_lossy(&content(name)?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        same!(lines.len(), 2);
        for (line, kind) in lines.iter().zip(["some", "full"]) {
            let words: Vec<&str> = line.split(' ').collect();
            same!((words.len(), words[0]), (5, kind));
            for (word, key) in words[1..4].iter().zip(["avg10=", "avg60=", "avg300="]) {
                let (whole, part) = word.strip_prefix(key).and_then(|v| v.split_once('.')).unwrap_or_default();
                holds!(whole.parse::<u32>().is_ok_and(|value| value <= 100) && part.len() == 2);
            }
            holds!(words[4].strip_prefix("total=").is_some_and(|total| total.parse::<u64>().is_ok()));
        }
    }
    Ok(())
}

fn pressure_refuses_nonsense() -> Outcome {
    let fd = open(PRESSURE[0], O_RDWR, 0)?;
    for bad in [
        "x",
        "some\n",
        "some 1\n",
        "most 150000 1000000\n",
        "some 0 1000000\n",
        "some 1500000 1000000\n",
        "some 150000 400000\n",
        "some 150000 11000000\n",
        "some a b\n",
    ] {
        fails!(write(fd, bad.as_bytes()), EINVAL);
    }
    fails!(write(fd, b""), EINVAL);
    let reader = open(PRESSURE[0], O_RDONLY, 0)?;
    fails!(write(reader, b"some 150000 1000000\n"), EBADF);
    Ok(())
}

fn pressure_takes_one_trigger() -> Outcome {
    let fd = open(PRESSURE[1], O_RDWR, 0)?;
    same!(write(fd, b"some 150000 1000000\0")?, 20);
    fails!(write(fd, b"some 150000 1000000\0"), EBUSY);
    // Whatever is written.
    fails!(write(fd, b"nonsense"), EBUSY);
    // Each open file has its own.
    let other = open(PRESSURE[1], O_RDWR, 0)?;
    same!(write(other, b"full 150000 1000000\n")?, 20);
    Ok(())
}

fn pressure_drops_the_last_byte() -> Outcome {
    let fd = open(PRESSURE[2], O_WRONLY, 0)?;
    // The window is 100,000 µs then.
    fails!(write(fd, b"some 50000 1000000"), EINVAL);
    same!(write(fd, b"some 50000 10000000")?, 19);
    Ok(())
}

fn ready(fd: i32, events: i16, ms: i64) -> Result<i16> {
    let mut list = [pollfd { fd, events, revents: 0 }];
    let time = timespec_ms(ms);
    sys!(SYS_ppoll, list.as_mut_ptr(), 1, &raw const time, 0, 8)?;
    Ok(list[0].revents)
}

fn pressure_without_a_trigger_is_an_error() -> Outcome {
    let fd = open(PRESSURE[0], O_RDWR, 0)?;
    same!(ready(fd, POLLPRI, 1000)?, POLLPRI | POLLERR);
    write(fd, b"some 500000 10000000\n")?;
    same!(ready(fd, POLLPRI, 10)? & POLLERR, 0);
    Ok(())
}

/// Keeps this process on one CPU.
fn pin(cpu: u32) -> Result<usize> {
    let mask = 1u64 << cpu;
    sys!(SYS_sched_setaffinity, 0, 8, &raw const mask)
}

/// Uses the CPU for `ms` of its own time.
fn spin_ms(ms: i64) {
    let used = || now_ns(CLOCK_PROCESS_CPUTIME_ID).unwrap_or(i64::MAX);
    let end = used() + ms * 1_000_000;
    while used() < end {}
}

fn spinners(count: usize, ms: i64) -> Result<Vec<i32>> {
    (0..count)
        .map(|_| {
            child(move || {
                spin_ms(ms);
                0
            })
        })
        .collect()
}

fn pressure_of_the_cpu_is_told() -> Outcome {
    let fd = open(PRESSURE[0], O_RDWR, 0)?;
    same!(write(fd, b"some 5000 500000\n")?, 17);
    let before = total(PRESSURE[0])?;
    pin(0)?;
    let pids = spinners(3, 400)?;
    same!(ready(fd, POLLPRI, 20_000)?, POLLPRI);
    for pid in pids {
        same!(status(pid)?, 0);
    }
    holds!(total(PRESSURE[0])? > before);
    Ok(())
}

/// `total=` of the line "some".
fn total(name: &str) -> Result<u64> {
    let text = String::from_utf8_lossy(&content(name)?).into_owned();
    let total = text.lines().next().and_then(|line| line.rsplit_once("total="));
    Ok(total.and_then(|(_, value)| value.parse().ok()).unwrap_or(0))
}

fn pressure_windows_of_users_are_coarse() -> Outcome {
    become_user()?;
    let fd = open(PRESSURE[0], O_RDWR, 0)?;
    fails!(write(fd, b"some 150000 1000000\n"), EINVAL);
    same!(write(fd, b"some 150000 2000000\n")?, 20);
    Ok(())
}

/// The numbers of a line.
fn numbers(line: &str) -> Vec<u64> {
    line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn schedstat_has_fifteen_fields() -> Outcome {
    let text = String::from_utf8_lossy(&content("/proc/schedstat")?).into_owned();
    let mut lines = text.lines();
    same!(lines.next(), Some("version 15"));
    holds!(lines.next().is_some_and(|line| line.starts_with("timestamp ") && numbers(line).len() == 1));
    let lines: Vec<&str> = lines.collect();
    holds!(lines.iter().filter(|line| line.starts_with("cpu")).all(|line| numbers(line).len() == 9));
    holds!(lines.iter().any(|line| line.starts_with("cpu0 ")));
    let of_domains = |line: &&&str| line.starts_with("domain");
    holds!(lines.iter().filter(of_domains).all(|line| line.split(' ').count() == 2 + 36));
    Ok(())
}

fn own_schedstat() -> Result<Vec<u64>> {
    Ok(numbers(&String::from_utf8_lossy(&content("/proc/self/schedstat")?)))
}

fn own_schedstat_counts() -> Outcome {
    let before = own_schedstat()?;
    same!(before.len(), 3);
    spin_ms(20);
    for _ in 0..3 {
        sleep_ms(1);
    }
    let after = own_schedstat()?;
    holds!(after[0] >= before[0] + 15_000_000);
    holds!(after[1] >= before[1]);
    holds!(after[2] >= before[2] + 3);
    Ok(())
}

fn waiting_for_a_cpu_is_counted() -> Outcome {
    pin(0)?;
    let before = own_schedstat()?;
    let pids = spinners(1, 100)?;
    spin_ms(100);
    let after = own_schedstat()?;
    for pid in pids {
        same!(status(pid)?, 0);
    }
    // Two share a CPU for 200 ms.
    holds!(after[1] - before[1] > 40_000_000);
    Ok(())
}

/// A number of `/proc/self/sched` or `/proc/self/status`.
fn counter(file: &str, name: &str) -> core::result::Result<u64, Failure> {
    let text = String::from_utf8_lossy(&content(file)?).into_owned();
    let line = text.lines().find(|line| line.split([':', ' ']).next() == Some(name));
    let value = line.and_then(|line| line.rsplit([':', ' ', '\t']).next()).and_then(|value| value.parse().ok());
    value.ok_or_else(|| Failure(format!("{file} has no number {name}:\n{text}")))
}

fn sched_counts_sleeps_and_is_set_back() -> Outcome {
    let file = "/proc/self/sched";
    for name in ["nr_switches", "nr_voluntary_switches", "nr_involuntary_switches", "policy"] {
        counter(file, name)?;
    }
    same!(counter(file, "prio")?, 120);
    let before = counter(file, "nr_voluntary_switches")?;
    for _ in 0..10 {
        sleep_ms(1);
    }
    let after = counter(file, "nr_voluntary_switches")?;
    holds!(after >= before + 10);
    let text = String::from_utf8_lossy(&content(file)?).into_owned();
    let mut lines = text.lines();
    holds!(lines.next().is_some_and(|line| line.contains(&format!(" ({}, #threads: 1)", getpid()))));
    same!(lines.next().map(|line| line.trim_matches('-').len()), Some(0));
    Ok(())
}

fn switches_are_of_two_kinds() -> Outcome {
    pin(0)?;
    let kinds = || -> core::result::Result<[u64; 2], Failure> {
        let file = "/proc/self/status";
        Ok([counter(file, "voluntary_ctxt_switches")?, counter(file, "nonvoluntary_ctxt_switches")?])
    };
    let before = kinds()?;
    for _ in 0..5 {
        sleep_ms(1);
    }
    let slept = kinds()?;
    holds!(slept[0] >= before[0] + 5);
    let stop = Shared::new()?;
    let pid = child(|| {
        while stop.word(0).load(Ordering::SeqCst) == 0 {}
        0
    })?;
    let before = kinds()?;
    spin_ms(60);
    let spun = kinds()?;
    stop.set(0, 1);
    same!(status(pid)?, 0);
    holds!(spun[1] > before[1]);
    Ok(())
}

const LATENCY: &str = "/dev/cpu_dma_latency";

fn latency() -> Result<i32> {
    let fd = open(LATENCY, O_RDONLY, 0)?;
    let mut bytes = [0; 4];
    same_length(read(fd, &mut bytes)?);
    close(fd)?;
    Ok(i32::from_le_bytes(bytes))
}

fn same_length(length: usize) {
    assert!(length == 4, "the value is four bytes, not {length}");
}

fn latency_request_lasts_as_long_as_the_file() -> Outcome {
    same!(latency()?, 2_000_000_000);
    let first = open(LATENCY, O_RDWR, 0)?;
    same!(write(first, &100i32.to_le_bytes())?, 4);
    let second = open(LATENCY, O_WRONLY, 0)?;
    same!(write(second, &50i32.to_le_bytes())?, 4);
    same!(latency()?, 50);
    close(second)?;
    same!(latency()?, 100);
    // The default takes it back.
    same!(write(first, &(-1i32).to_le_bytes())?, 4);
    same!(latency()?, 2_000_000_000);
    Ok(())
}

fn latency_request_in_digits() -> Outcome {
    let fd = open(LATENCY, O_WRONLY, 0)?;
    same!(write(fd, b"0x0000001f")?, 10);
    same!(latency()?, 31);
    same!(write(fd, b"20\n")?, 3);
    same!(latency()?, 32);
    fails!(write(fd, b"nothing"), EINVAL);
    Ok(())
}

fn latency_request_is_four_bytes() -> Outcome {
    let fd = open(LATENCY, O_RDWR, 0)?;
    let mut bytes = [0; 16];
    same!(read(fd, &mut bytes)?, 4);
    same!(read(fd, &mut bytes)?, 0);
    become_user()?;
    fails!(open(LATENCY, O_RDONLY, 0), EACCES);
    Ok(())
}

fn interrupts_are_counted() -> Outcome {
    let text = String::from_utf8_lossy(&content("/proc/interrupts")?).into_owned();
    let mut lines = text.lines();
    holds!(lines.next().is_some_and(|line| line.trim_start().starts_with("CPU0")));
    holds!(lines.clone().any(|line| line.starts_with("IPI0:") && line.ends_with("Rescheduling interrupts")));
    holds!(lines.any(|line| line.ends_with("arch_timer")));
    let total = || -> Result<u64> {
        let text = String::from_utf8_lossy(&content("/proc/stat")?).into_owned();
        let line = text.lines().find(|line| line.starts_with("intr ")).unwrap_or("").to_string();
        Ok(numbers(&line).first().copied().unwrap_or(0))
    };
    let before = total()?;
    sleep_ms(30);
    holds!(total()? > before);
    Ok(())
}
