//! getrlimit(2), getrusage(2) and core(5): each limit is reached where the resource is taken.

use crate::case::Case;
use crate::case::{Outcome, SKIPPED, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    limits_survive_fork,
    soft_above_hard_is_einval,
    unknown_resources_are_einval,
    limits_of_nobody_are_esrch,
    limits_of_root_are_eperm_for_users,
    limits_are_swapped_in_one_call,
    descriptors_end_at_the_limit,
    descriptors_are_limited_by_nr_open,
    writes_end_at_the_file_size_limit,
    file_size_limit_holds_for_truncate,
    data_limit_holds_for_the_heap,
    data_limit_holds_for_mappings,
    data_limit_holds_for_mprotect,
    locked_memory_is_limited,
    locked_mappings_are_limited,
    no_locked_memory_is_eperm,
    queued_signals_are_limited,
    standard_signals_are_sent_at_the_limit,
    nice_limit_lets_users_raise,
    real_time_limit_lets_users_be_real_time,
    cpu_limit_sends_xcpu,
    cpu_limit_kills_at_the_hard_limit,
    cpu_limit_is_inherited,
    limits_file_shows_all_sixteen,
    usage_counts_faults_and_time,
    usage_of_children_comes_with_wait,
    usage_of_nobody_is_einval,
    aborted_child_leaves_a_core,
    core_limit_of_zero_leaves_none,
    core_is_cut_at_the_limit,
    undumpable_child_leaves_no_core,
    core_replaces_what_is_in_the_way,
    core_shows_all_threads,
    core_filter_is_read_and_written,
    core_filter_is_inherited,
];

const INFINITY: u64 = RLIM64_INFINITY;
const PAGE: usize = 4096;

fn limit_of(pid: i32, resource: impl Argument) -> Result<[u64; 2]> {
    let mut now = [0u64; 2];
    sys!(SYS_prlimit64, pid, resource, 0, now.as_mut_ptr())?;
    Ok(now)
}

/// The raw status with which `body` ends as a process.
fn ending<T>(body: impl FnOnce() -> T) -> Result<i32> {
    wait(child(|| {
        body();
        0
    })?)
}

/// In a child.
fn apart(body: impl FnOnce() -> Outcome) -> Outcome {
    match status(trial(body)?)? {
        SKIPPED => exit(SKIPPED),
        ended => same!(ended, 0),
    }
    Ok(())
}

fn limits_survive_fork() -> Outcome {
    apart(|| {
        limit(RLIMIT_CORE, 12_288, 65_536)?;
        same!(limit_of(0, RLIMIT_CORE)?, [12_288, 65_536]);
        apart(|| {
            same!(limit_of(0, RLIMIT_CORE)?, [12_288, 65_536]);
            Ok(())
        })
    })
}

fn soft_above_hard_is_einval() -> Outcome {
    apart(|| {
        fails!(limit(RLIMIT_CORE, 2, 1), EINVAL);
        Ok(())
    })
}

fn unknown_resources_are_einval() -> Outcome {
    for resource in [16u32, 17, 255, u32::MAX] {
        fails!(limit_of(0, resource), EINVAL);
        fails!(limit(resource, 1, 1), EINVAL);
    }
    Ok(())
}

fn limits_of_nobody_are_esrch() -> Outcome {
    fails!(limit_of(-1, RLIMIT_CORE), ESRCH);
    fails!(limit_of(i32::MAX, RLIMIT_CORE), ESRCH);
    Ok(())
}

fn limits_of_root_are_eperm_for_users() -> Outcome {
    let parent = getpid();
    apart(|| {
        become_user()?;
        fails!(limit_of(parent, RLIMIT_CORE), EPERM);
        same!(limit_of(getpid(), RLIMIT_CORE)?, limit_of(0, RLIMIT_CORE)?);
        Ok(())
    })
}

fn limits_are_swapped_in_one_call() -> Outcome {
    apart(|| {
        limit(RLIMIT_CORE, 1000, 2000)?;
        let (new, mut old) = ([500u64, 2000], [0u64; 2]);
        sys!(SYS_prlimit64, 0, RLIMIT_CORE, new.as_ptr(), old.as_mut_ptr())?;
        same!(old, [1000, 2000]);
        same!(limit_of(0, RLIMIT_CORE)?, [500, 2000]);
        Ok(())
    })
}

fn descriptors_end_at_the_limit() -> Outcome {
    apart(|| {
        let null = open("/dev/null", O_RDONLY, 0)?;
        limit(RLIMIT_NOFILE, 16, 32)?;
        let last = loop {
            match sys!(SYS_dup, null) {
                Ok(fd) => holds!(fd < 16),
                Err(error) => break error,
            }
        };
        same!(last, Errno(EMFILE));
        fails!(open("/dev/null", O_RDONLY, 0), EMFILE);
        fails!(sys!(SYS_dup3, null, 16, 0), EBADF);
        fails!(sys!(SYS_fcntl, null, F_DUPFD, 16), EINVAL);
        let mut pair = [0i32; 2];
        fails!(sys!(SYS_pipe2, pair.as_mut_ptr(), 0), EMFILE);
        // The soft limit may be raised up to the hard one.
        limit(RLIMIT_NOFILE, 32, 32)?;
        same!(sys!(SYS_dup, null)?, 16);
        Ok(())
    })
}

fn descriptors_are_limited_by_nr_open() -> Outcome {
    let text = String::from_utf8(content("/proc/sys/fs/nr_open")?).unwrap_or_default();
    let most: u64 = text.trim().parse().unwrap_or(0);
    holds!(most > 0);
    apart(|| {
        fails!(limit(RLIMIT_NOFILE, 10, most + 1), EPERM);
        Ok(())
    })
}

fn writes_end_at_the_file_size_limit() -> Outcome {
    apart(|| {
        limit(RLIMIT_FSIZE, 1000, INFINITY)?;
        note_signal(SIGXFSZ, 0)?;
        let fd = open("grown", O_CREAT | O_RDWR, 0o600)?;
        same!(write(fd, &[1; 900])?, 900);
        same!(write(fd, &[1; 900])?, 100);
        same!(notes(), 0);
        fails!(write(fd, &[1; 900]), EFBIG);
        same!(notes(), 1);
        // Elsewhere in the file there is room.
        same!(sys!(SYS_pwrite64, fd, [1u8; 10].as_ptr(), 10, 500)?, 10);
        Ok(())
    })
}

/// Signals that were noted.
fn notes() -> usize {
    count()
}

fn file_size_limit_holds_for_truncate() -> Outcome {
    apart(|| {
        let fd = open("cut", O_CREAT | O_RDWR, 0o600)?;
        limit(RLIMIT_FSIZE, 1000, INFINITY)?;
        note_signal(SIGXFSZ, 0)?;
        sys!(SYS_ftruncate, fd, 1000)?;
        fails!(sys!(SYS_ftruncate, fd, 1001), EFBIG);
        same!(notes(), 1);
        same!(status(child(|| i32::from(limit(RLIMIT_FSIZE, 10, INFINITY).is_err()))?)?, 0);
        // Without a handler it kills.
        let killed = ending(|| {
            let _ = sigaction(SIGXFSZ, SIG_DFL, 0, 0);
            let _ = limit(RLIMIT_CORE, 0, 0);
            let _ = sys!(SYS_ftruncate, fd, 2000);
        })?;
        same!(killed & 0x7f, SIGXFSZ);
        Ok(())
    })
}

fn data_limit_holds_for_the_heap() -> Outcome {
    apart(|| {
        let now = sys!(SYS_brk, 0)?;
        limit(RLIMIT_DATA, 1 << 20, INFINITY)?;
        same!(sys!(SYS_brk, now + (64 << 20))?, now);
        Ok(())
    })
}

fn data_limit_holds_for_mappings() -> Outcome {
    apart(|| {
        limit(RLIMIT_DATA, 64 << 20, INFINITY)?;
        fails!(memory(128 << 20), ENOMEM);
        map(0, 128 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS)?;
        map(0, 128 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS)?;
        memory(1 << 20)?;
        Ok(())
    })
}

fn data_limit_holds_for_mprotect() -> Outcome {
    apart(|| {
        let area = map(0, 128 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS)?;
        limit(RLIMIT_DATA, 64 << 20, INFINITY)?;
        fails!(sys!(SYS_mprotect, area, 128 << 20, PROT_READ | PROT_WRITE), ENOMEM);
        sys!(SYS_mprotect, area, 1 << 20, PROT_READ | PROT_WRITE)?;
        Ok(())
    })
}

fn locked_memory_is_limited() -> Outcome {
    apart(|| {
        let area = memory(16 * PAGE)?;
        limit(RLIMIT_MEMLOCK, 4 * PAGE as u64, 4 * PAGE as u64)?;
        become_user()?;
        fails!(sys!(SYS_mlock, area, 5 * PAGE), ENOMEM);
        sys!(SYS_mlock, area, 4 * PAGE)?;
        sys!(SYS_mlock, area, 4 * PAGE)?;
        fails!(sys!(SYS_mlock, area + 8 * PAGE, PAGE), ENOMEM);
        sys!(SYS_munlock, area, PAGE)?;
        sys!(SYS_mlock, area + 8 * PAGE, PAGE)?;
        fails!(sys!(SYS_mlockall, MCL_CURRENT), ENOMEM);
        sys!(SYS_munlockall)?;
        Ok(())
    })
}

fn locked_mappings_are_limited() -> Outcome {
    apart(|| {
        limit(RLIMIT_MEMLOCK, 4 * PAGE as u64, 4 * PAGE as u64)?;
        become_user()?;
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED;
        fails!(map(0, 5 * PAGE, PROT_READ | PROT_WRITE, flags), EAGAIN);
        map(0, 4 * PAGE, PROT_READ | PROT_WRITE, flags)?;
        fails!(map(0, PAGE, PROT_READ | PROT_WRITE, flags), EAGAIN);
        Ok(())
    })
}

fn no_locked_memory_is_eperm() -> Outcome {
    apart(|| {
        let area = memory(PAGE)?;
        limit(RLIMIT_MEMLOCK, 0, 0)?;
        become_user()?;
        fails!(sys!(SYS_mlock, area, PAGE), EPERM);
        fails!(map(0, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED), EPERM);
        fails!(sys!(SYS_mlockall, MCL_CURRENT), EPERM);
        Ok(())
    })
}

/// sigqueue to ourselves.
fn queue(signal: i32) -> Result<usize> {
    let mut info = [0u32; 32];
    info[0] = signal as u32;
    info[2] = SI_QUEUE as u32;
    info[4] = getpid() as u32;
    info[5] = sys!(SYS_getuid)? as u32;
    sys!(SYS_rt_sigqueueinfo, getpid(), signal, info.as_ptr())
}

fn queued_signals_are_limited() -> Outcome {
    apart(|| {
        limit(RLIMIT_SIGPENDING, 5, 5)?;
        become_user()?;
        mask(SIG_BLOCK, u64::MAX)?;
        for _ in 0..5 {
            queue(SIGRTMIN())?;
        }
        fails!(queue(SIGRTMIN()), EAGAIN);
        fails!(queue(SIGRTMIN() + 1), EAGAIN);
        Ok(())
    })
}

fn standard_signals_are_sent_at_the_limit() -> Outcome {
    apart(|| {
        limit(RLIMIT_SIGPENDING, 0, 0)?;
        become_user()?;
        mask(SIG_BLOCK, u64::MAX)?;
        kill(getpid(), SIGUSR1)?;
        kill(getpid(), SIGRTMIN())?;
        fails!(queue(SIGRTMIN()), EAGAIN);
        holds!(pending()? & (1 << (SIGUSR1 - 1)) != 0);
        holds!(pending()? & (1 << (SIGRTMIN() - 1)) != 0);
        Ok(())
    })
}

/// Raises both limits; a root without CAP_SYS_RESOURCE, as in a container, cannot.
fn raise(resource: impl Argument, value: u64) -> Result<usize> {
    match limit(resource, value, value) {
        Err(Errno(EPERM)) => exit(SKIPPED),
        result => result,
    }
}

fn nice_limit_lets_users_raise() -> Outcome {
    apart(|| {
        raise(RLIMIT_NICE, 25)?;
        become_user()?;
        sys!(SYS_setpriority, PRIO_PROCESS, 0, -5)?;
        fails!(sys!(SYS_setpriority, PRIO_PROCESS, 0, -6), EACCES);
        Ok(())
    })
}

fn real_time_limit_lets_users_be_real_time() -> Outcome {
    apart(|| {
        raise(RLIMIT_RTPRIO, 10)?;
        become_user()?;
        let (low, high) = (10i32, 11i32);
        fails!(sys!(SYS_sched_setscheduler, 0, SCHED_FIFO, &raw const high), EPERM);
        sys!(SYS_sched_setscheduler, 0, SCHED_FIFO, &raw const low)?;
        Ok(())
    })
}

/// Burns CPU time until a signal ends it, or this much wall time.
fn burn(seconds: i64) {
    let end = now_ns(CLOCK_MONOTONIC).unwrap_or(0) + seconds * 1_000_000_000;
    while now_ns(CLOCK_MONOTONIC).unwrap_or(i64::MAX) < end {}
}

fn cpu_limit_sends_xcpu() -> Outcome {
    apart(|| {
        note_signal(SIGXCPU, 0)?;
        limit(RLIMIT_CPU, 1, 100)?;
        let end = now_ns(CLOCK_MONOTONIC)? + 30_000_000_000;
        while notes() == 0 && now_ns(CLOCK_MONOTONIC)? < end {}
        same!(notes(), 1);
        holds!(now_ns(CLOCK_PROCESS_CPUTIME_ID)? >= 900_000_000);
        same!(limit_of(0, RLIMIT_CPU)?, [2, 100]);
        Ok(())
    })
}

fn cpu_limit_kills_at_the_hard_limit() -> Outcome {
    let raw = ending(|| {
        let _ = sigaction(SIGXCPU, SIG_IGN, 0, 0);
        let _ = limit(RLIMIT_CPU, 1, 1);
        burn(30);
    })?;
    same!(raw & 0x7f, SIGKILL);
    Ok(())
}

fn cpu_limit_is_inherited() -> Outcome {
    apart(|| {
        limit(RLIMIT_CORE, 0, 0)?;
        limit(RLIMIT_CPU, 1, 10)?;
        same!(ending(|| burn(30))? & 0x7f, SIGXCPU);
        Ok(())
    })
}

fn limits_file_shows_all_sixteen() -> Outcome {
    apart(|| {
        limit(RLIMIT_CORE, 4096, 8192)?;
        let text = String::from_utf8(content("/proc/self/limits")?).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        same!(lines.len(), 17);
        same!(lines[0], "Limit                     Soft Limit           Hard Limit           Units     ");
        same!(lines[5], "Max core file size        4096                 8192                 bytes     ");
        holds!(lines[14].starts_with("Max nice priority         "));
        same!(lines[16].len(), 78);
        Ok(())
    })
}

fn usage(who: i32) -> Result<rusage> {
    let mut used: rusage = zeroed();
    sys!(SYS_getrusage, who, &raw mut used)?;
    Ok(used)
}

fn usage_counts_faults_and_time() -> Outcome {
    let before = usage(RUSAGE_SELF)?;
    let area = memory(256 * PAGE)?;
    (0..256).for_each(|page| poke(area + page * PAGE, 1u8));
    let end = now_ns(CLOCK_PROCESS_CPUTIME_ID)? + 50_000_000;
    while now_ns(CLOCK_PROCESS_CPUTIME_ID)? < end {}
    let after = usage(RUSAGE_SELF)?;
    holds!(after.ru_minflt > before.ru_minflt);
    holds!(after.ru_maxrss >= 1024);
    let us = |t: timeval| t.tv_sec * 1_000_000 + t.tv_usec;
    holds!(us(after.ru_utime) + us(after.ru_stime) - us(before.ru_utime) - us(before.ru_stime) >= 40_000);
    let sleeps = usage(RUSAGE_THREAD)?.ru_nvcsw;
    sleep_ms(5);
    holds!(usage(RUSAGE_THREAD)?.ru_nvcsw > sleeps);
    Ok(())
}

fn usage_of_children_comes_with_wait() -> Outcome {
    same!(usage(RUSAGE_CHILDREN)?.ru_maxrss, 0);
    let pid = child(|| {
        let area = memory(4 << 20).unwrap_or(0);
        (0..1024).for_each(|page| poke(area + page * PAGE, 1u8));
        0
    })?;
    same!(usage(RUSAGE_CHILDREN)?.ru_minflt, 0);
    same!(status(pid)?, 0);
    let used = usage(RUSAGE_CHILDREN)?;
    holds!(used.ru_maxrss >= 4096);
    holds!(used.ru_minflt > 0);
    Ok(())
}

fn usage_of_nobody_is_einval() -> Outcome {
    for who in [2, -2, 100, i32::MIN] {
        fails!(usage(who), EINVAL);
    }
    Ok(())
}

/// Where cores go by another rule than the default one, the cases about them say nothing.
fn default_pattern_only() {
    let pattern = content("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern != b"core\n" {
        exit(SKIPPED);
    }
}

fn may_dump(bytes: u64) -> Result<usize> {
    sigaction(SIGABRT, SIG_DFL, 0, 0)?;
    limit(RLIMIT_CORE, bytes, INFINITY)
}

fn aborted_child_leaves_a_core() -> Outcome {
    default_pattern_only();
    let raw = ending(|| {
        let _ = may_dump(INFINITY);
        let _ = kill(getpid(), SIGABRT);
    })?;
    same!(raw & 0x7f, SIGABRT);
    holds!(WCOREDUMP(raw));
    let core = content("core")?;
    holds!(core.starts_with(b"\x7fELF\x02\x01\x01"));
    same!(core[16], 4);
    same!(lstat("core")?.st_mode, S_IFREG | 0o600);
    Ok(())
}

fn core_limit_of_zero_leaves_none() -> Outcome {
    default_pattern_only();
    for bytes in [0, 4095] {
        let raw = ending(|| {
            let _ = may_dump(bytes);
            let _ = kill(getpid(), SIGABRT);
        })?;
        same!((raw & 0x7f, WCOREDUMP(raw)), (SIGABRT, false));
        fails!(lstat("core").map(drop), ENOENT);
    }
    Ok(())
}

fn core_is_cut_at_the_limit() -> Outcome {
    default_pattern_only();
    let raw = ending(|| {
        let _ = may_dump(8192);
        let area = memory(64 * PAGE).unwrap_or(0);
        (0..64).for_each(|page| poke(area + page * PAGE, 1u8));
        let _ = kill(getpid(), SIGABRT);
    })?;
    holds!(WCOREDUMP(raw));
    holds!(lstat("core")?.st_blocks * 512 <= 16_384);
    Ok(())
}

fn undumpable_child_leaves_no_core() -> Outcome {
    default_pattern_only();
    let raw = ending(|| {
        let _ = may_dump(INFINITY);
        let _ = sys!(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
        let _ = kill(getpid(), SIGABRT);
    })?;
    same!((raw & 0x7f, WCOREDUMP(raw)), (SIGABRT, false));
    Ok(())
}

fn core_replaces_what_is_in_the_way() -> Outcome {
    default_pattern_only();
    file("core", b"precious")?;
    sys!(SYS_linkat, AT_FDCWD, path("core").as_ptr(), AT_FDCWD, path("kept").as_ptr(), 0)?;
    let raw = ending(|| {
        let _ = may_dump(INFINITY);
        let _ = kill(getpid(), SIGABRT);
    })?;
    holds!(WCOREDUMP(raw));
    same!(content("kept")?, b"precious");
    same!(lstat("core")?.st_nlink, 1);
    Ok(())
}

/// Types of the notes of a core.
fn note_types(core: &[u8]) -> Vec<u32> {
    let word = |at: usize| u32::from_le_bytes(core[at..at + 4].try_into().unwrap_or_default()) as usize;
    // The first program header is PT_NOTE.
    let (mut at, length) = (word(64 + 8), word(64 + 32));
    let end = at + length;
    let mut types = Vec::new();
    while at + 12 <= end {
        types.push(word(at + 8) as u32);
        at += 12 + word(at).next_multiple_of(4) + word(at + 4).next_multiple_of(4);
    }
    types
}

/// For a debugger: three threads in three functions with names, one of which crashes (`helper:core`).
pub fn crash_with_threads() -> i32 {
    let _ = limit(RLIMIT_CORE, INFINITY, INFINITY);
    let flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    for body in [first_thread_waits as extern "C" fn(usize) -> i32, second_thread_waits] {
        if clone_on_stack(flags, std::ptr::null_mut(), 0, body, 0).is_err() {
            return 1;
        }
    }
    sleep_ms(100);
    outer_function(0x1234)
}

#[inline(never)]
extern "C" fn first_thread_waits(_: usize) -> i32 {
    sleep_ms(1_000_000);
    std::hint::black_box(1)
}

#[inline(never)]
extern "C" fn second_thread_waits(_: usize) -> i32 {
    sleep_ms(2_000_000);
    std::hint::black_box(2)
}

#[inline(never)]
fn outer_function(value: usize) -> i32 {
    std::hint::black_box(inner_function(value)) + 1
}

/// Reads where nothing is.
#[inline(never)]
fn inner_function(address: usize) -> i32 {
    touch(address);
    std::hint::black_box(3)
}

extern "C" fn sleep_for_ever(_: usize) -> i32 {
    loop {
        sleep_ms(1000);
    }
}

fn core_shows_all_threads() -> Outcome {
    default_pattern_only();
    let raw = ending(|| {
        let _ = may_dump(INFINITY);
        let flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
        for _ in 0..2 {
            let _ = clone_on_stack(flags, std::ptr::null_mut(), 0, sleep_for_ever, 0);
        }
        sleep_ms(20);
        let _ = kill(getpid(), SIGABRT);
    })?;
    holds!(WCOREDUMP(raw));
    let types = note_types(&content("core")?);
    same!(types.iter().filter(|kind| **kind == 1).count(), 3);
    same!(types.iter().filter(|kind| **kind == 2).count(), 3);
    for once in [3, 6, 0x4649_4c45, 0x5349_4749] {
        same!(types.iter().filter(|kind| **kind == once).count(), 1);
    }
    same!(&types[..5], &[1, 3, 0x5349_4749, 6, 0x4649_4c45]);
    Ok(())
}

fn filter() -> Result<String> {
    Ok(String::from_utf8(content("/proc/self/coredump_filter")?).unwrap_or_default())
}

fn set_filter(text: &str) -> Result<usize> {
    let fd = open("/proc/self/coredump_filter", O_WRONLY, 0)?;
    let result = write(fd, text.as_bytes());
    close(fd)?;
    result
}

fn core_filter_is_read_and_written() -> Outcome {
    apart(|| {
        for (text, shown) in [("0x7f", "0000007f\n"), ("0x33\n", "00000033\n"), ("8", "00000008\n")] {
            set_filter(text)?;
            same!(filter()?, shown);
        }
        set_filter("0xffffffff")?;
        same!(filter()?, "000001ff\n");
        fails!(set_filter("garbage"), EINVAL);
        Ok(())
    })
}

fn core_filter_is_inherited() -> Outcome {
    apart(|| {
        set_filter("5")?;
        apart(|| {
            same!(filter()?, "00000005\n");
            Ok(())
        })
    })
}
