//! proc(5): what the files of a process say, in the format that programs parse.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    stat_has_52_fields,
    stat_survives_a_name_with_brackets,
    statm_has_seven_numbers,
    status_has_linux_lines_in_order,
    status_counts_threads,
    maps_have_their_columns,
    smaps_have_linux_lines,
    rollup_sums_up,
    cmdline_has_a_nul_behind_each_word,
    environ_is_private,
    auxv_is_the_vector,
    comm_is_written_by_its_own_process,
    io_counts_bytes_and_calls,
    schedstat_has_three_numbers,
    sched_begins_with_the_name,
    oom_score_adj_is_bounded,
    oom_score_adj_may_only_rise_for_users,
    personality_is_hexadecimal,
    timerslack_is_a_number,
    timers_are_listed,
    children_are_listed,
    threads_are_directories,
    syscall_of_a_sleeper,
    fdinfo_tells_position_and_flags,
    fdinfo_of_eventfd_and_epoll,
    fdinfo_of_signalfd_and_pidfd,
    fd_links_name_the_files,
    map_files_are_addresses,
    exe_and_cwd_are_links,
    files_of_root_are_closed_to_users,
    undumpable_belongs_to_root,
    gone_processes_are_esrch_or_enoent,
    zombies_are_shown,
    mountinfo_has_the_separator,
    sysctl_numbers_can_be_read,
    uuids_differ_and_the_boot_id_stays,
];

fn text(name: &str) -> Result<String> {
    content(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn apart(body: impl FnOnce() -> Outcome) -> Outcome {
    same!(status(trial(body)?)?, 0);
    Ok(())
}

fn put(name: &str, value: &str) -> Result<usize> {
    let fd = open(name, O_WRONLY, 0)?;
    let result = write(fd, value.as_bytes());
    close(fd)?;
    result
}

fn numbers(line: &str) -> Vec<i128> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn stat_has_52_fields() -> Outcome {
    let stat = text("/proc/self/stat")?;
    let (head, tail) = stat.rsplit_once(") ").unwrap_or_default();
    let fields: Vec<&str> = tail.trim_end().split(' ').collect();
    same!(fields.len(), 50);
    holds!(head.starts_with(&format!("{} (", getpid())));
    same!(fields[0], "R");
    same!(fields[1], sys!(SYS_getppid)?.to_string());
    same!(fields[2], sys!(SYS_getpgid, 0)?.to_string());
    same!(fields[3], sys!(SYS_getsid, 0)?.to_string());
    // One thread; priority 20, nice 0.
    same!((fields[15], fields[16], fields[17]), ("20", "0", "1"));
    same!(fields[35], "17");
    holds!(stat.ends_with('\n'));
    Ok(())
}

fn stat_survives_a_name_with_brackets() -> Outcome {
    apart(|| {
        sys!(SYS_prctl, PR_SET_NAME, path("a) R (b").as_ptr())?;
        holds!(text("/proc/self/stat")?.contains(" (a) R (b) R "));
        same!(text("/proc/self/comm")?, "a) R (b\n");
        Ok(())
    })
}

fn statm_has_seven_numbers() -> Outcome {
    let statm = text("/proc/self/statm")?;
    let fields = numbers(&statm);
    same!(fields.len(), 7);
    holds!(fields[0] >= fields[1] && fields[1] > 0);
    same!((fields[4], fields[6]), (0, 0));
    Ok(())
}

fn status_has_linux_lines_in_order() -> Outcome {
    let status = text("/proc/self/status")?;
    let names: Vec<&str> = status.lines().filter_map(|line| line.split_once(':')).map(|pair| pair.0).collect();
    let wanted = [
        "Name",
        "Umask",
        "State",
        "Tgid",
        "Ngid",
        "Pid",
        "PPid",
        "TracerPid",
        "Uid",
        "Gid",
        "FDSize",
        "Groups",
        "NStgid",
        "NSpid",
        "NSpgid",
        "NSsid",
        "VmPeak",
        "VmSize",
        "VmLck",
        "VmPin",
        "VmHWM",
        "VmRSS",
        "RssAnon",
        "RssFile",
        "RssShmem",
        "VmData",
        "VmStk",
        "VmExe",
        "VmLib",
        "VmPTE",
        "VmSwap",
        "CoreDumping",
        "Threads",
        "SigQ",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Cpus_allowed",
        "Cpus_allowed_list",
        "Mems_allowed",
        "Mems_allowed_list",
        "voluntary_ctxt_switches",
        "nonvoluntary_ctxt_switches",
    ];
    let mut rest = names.iter();
    for name in wanted {
        if !rest.any(|found| *found == name) {
            return Err(crate::case::Failure(format!("{name} is missing or in another place: {names:?}")));
        }
    }
    holds!(status.contains("\nState:\tR (running)\n"));
    holds!(status.contains(&format!("\nPid:\t{}\n", getpid())));
    Ok(())
}

extern "C" fn sleep_long(_: usize) -> i32 {
    sleep_ms(100_000);
    0
}

fn with_thread() -> Result<i32> {
    let flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    clone_on_stack(flags, std::ptr::null_mut(), 0, sleep_long, 0)
}

fn status_counts_threads() -> Outcome {
    apart(|| {
        with_thread()?;
        holds!(text("/proc/self/status")?.contains("\nThreads:\t2\n"));
        Ok(())
    })
}

fn maps_have_their_columns() -> Outcome {
    let area = map(0, 3 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS)?;
    sys!(SYS_mprotect, area + 4096, 4096, PROT_READ | PROT_WRITE)?;
    let maps = text("/proc/self/maps")?;
    let wanted = format!("{:08x}-{:08x} rw-p 00000000 00:00 0 ", area + 4096, area + 8192);
    holds!(maps.lines().any(|line| line == wanted));
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap_or_default();
    same!(stack.find("[stack]"), Some(73));
    holds!(maps.lines().any(|line| line.ends_with("[vdso]")));
    Ok(())
}

fn smaps_have_linux_lines() -> Outcome {
    let area = memory(4 * 4096)?;
    poke(area, 1u8);
    let smaps = text("/proc/self/smaps")?;
    let begin = smaps.find(&format!("{area:08x}-")).unwrap_or(0);
    let lines: Vec<&str> = smaps[begin..].lines().skip(1).take(3).collect();
    same!(lines[0].split(':').next(), Some("Size"));
    same!(lines[1], "KernelPageSize:        4 kB");
    same!(lines[2], "MMUPageSize:           4 kB");
    for name in ["Rss", "Pss", "Shared_Clean", "Private_Dirty", "Referenced", "Anonymous", "Swap", "Locked", "VmFlags"]
    {
        holds!(smaps.contains(&format!("\n{name}:")));
    }
    Ok(())
}

fn rollup_sums_up() -> Outcome {
    let rollup = text("/proc/self/smaps_rollup")?;
    let first = rollup.lines().next().unwrap_or_default();
    holds!(first.contains(" ---p 00000000 00:00 0 "));
    holds!(first.ends_with("[rollup]"));
    holds!(rollup.contains("\nRss: ") || rollup.contains("\nRss:"));
    Ok(())
}

fn cmdline_has_a_nul_behind_each_word() -> Outcome {
    let cmdline = content("/proc/self/cmdline")?;
    let wanted: Vec<u8> = std::env::args().flat_map(|word| [word.into_bytes(), vec![0]].concat()).collect();
    same!(cmdline, wanted);
    Ok(())
}

fn environ_is_private() -> Outcome {
    content("/proc/self/environ")?;
    let parent = getpid();
    apart(|| {
        become_user()?;
        fails!(open(&format!("/proc/{parent}/environ"), O_RDONLY, 0), EACCES);
        Ok(())
    })
}

fn auxv_is_the_vector() -> Outcome {
    let bytes = content("/proc/self/auxv")?;
    same!(bytes.len() % 16, 0);
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
    let find = |kind: u64| words.chunks_exact(2).find(|pair| pair[0] == kind).map(|pair| pair[1]);
    same!(find(AT_PAGESZ), Some(4096));
    same!(find(AT_NULL), Some(0));
    holds!(find(AT_RANDOM).is_some());
    Ok(())
}

fn comm_is_written_by_its_own_process() -> Outcome {
    apart(|| {
        put("/proc/self/comm", "renamed-to-something-long")?;
        same!(text("/proc/self/comm")?, "renamed-to-some\n");
        let parent = getpid();
        apart(|| {
            fails!(put(&format!("/proc/{parent}/comm"), "other"), EINVAL);
            Ok(())
        })
    })
}

fn io_counts_bytes_and_calls() -> Outcome {
    let value = |text: &str, name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.trim().parse::<i64>().ok())
    };
    let before = text("/proc/self/io")?;
    let (reader, writer) = pipe(0)?;
    write(writer, &[1; 500])?;
    read(reader, &mut [0; 300])?;
    let after = text("/proc/self/io")?;
    for (name, least) in [("wchar:", 500), ("syscw:", 1), ("rchar:", 300), ("syscr:", 1)] {
        holds!(value(&after, name) >= value(&before, name).map(|n| n + least));
    }
    holds!(after.ends_with("\ncancelled_write_bytes: 0\n"));
    Ok(())
}

fn schedstat_has_three_numbers() -> Outcome {
    same!(numbers(&text("/proc/self/schedstat")?).len(), 3);
    Ok(())
}

fn sched_begins_with_the_name() -> Outcome {
    let sched = text("/proc/self/sched")?;
    let mut lines = sched.lines();
    holds!(lines.next().unwrap_or_default().ends_with(&format!(" ({}, #threads: 1)", getpid())));
    same!(lines.next().unwrap_or_default(), "-".repeat(67));
    for name in ["se.sum_exec_runtime", "nr_switches", "nr_voluntary_switches", "policy", "prio"] {
        holds!(sched.lines().any(|line| line.starts_with(&format!("{name:<45}:"))));
    }
    Ok(())
}

fn oom_score_adj_is_bounded() -> Outcome {
    apart(|| {
        put("/proc/self/oom_score_adj", "500\n")?;
        same!(text("/proc/self/oom_score_adj")?, "500\n");
        for bad in ["1001", "-1001", "x", ""] {
            fails!(
                put("/proc/self/oom_score_adj", bad).and_then(|n| if n == 0 { Err(Errno(EINVAL)) } else { Ok(n) }),
                EINVAL
            );
        }
        holds!(text("/proc/self/oom_score")?.trim().parse::<u32>().is_ok());
        apart(|| {
            same!(text("/proc/self/oom_score_adj")?, "500\n");
            Ok(())
        })
    })
}

fn oom_score_adj_may_only_rise_for_users() -> Outcome {
    apart(|| {
        become_user()?;
        // The file stays root's while the process is not dumpable.
        sys!(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)?;
        put("/proc/self/oom_score_adj", "300")?;
        fails!(put("/proc/self/oom_score_adj", "-100"), EACCES);
        Ok(())
    })
}

fn personality_is_hexadecimal() -> Outcome {
    same!(text("/proc/self/personality")?, "00000000\n");
    Ok(())
}

fn timerslack_is_a_number() -> Outcome {
    apart(|| {
        put("/proc/self/timerslack_ns", "70000")?;
        same!(text("/proc/self/timerslack_ns")?, "70000\n");
        same!(sys!(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0)?, 70_000);
        Ok(())
    })
}

fn timers_are_listed() -> Outcome {
    apart(|| {
        same!(text("/proc/self/timers")?, "");
        let event = [0x1234_5678u64, SIGUSR1 as u64, 0, 0, 0, 0, 0, 0];
        let mut id = 0i32;
        sys!(SYS_timer_create, CLOCK_MONOTONIC, event.as_ptr(), &raw mut id)?;
        let wanted =
            format!("ID: {id}\nsignal: {SIGUSR1}/0000000012345678\nnotify: signal/pid.{}\nClockID: 1\n", getpid());
        same!(text("/proc/self/timers")?, wanted);
        Ok(())
    })
}

fn children_are_listed() -> Outcome {
    apart(|| {
        let me = getpid();
        let name = format!("/proc/{me}/task/{me}/children");
        same!(text(&name)?, "");
        let pids = [child(|| sleep_long(0))?, child(|| sleep_long(0))?];
        same!(text(&name)?, format!("{} {} ", pids[0], pids[1]));
        for pid in pids {
            kill(pid, SIGKILL)?;
            wait(pid)?;
        }
        same!(text(&name)?, "");
        Ok(())
    })
}

fn threads_are_directories() -> Outcome {
    apart(|| {
        let tid = with_thread()?;
        let me = getpid();
        let stat = text(&format!("/proc/self/task/{tid}/stat"))?;
        holds!(stat.starts_with(&format!("{tid} (")));
        holds!(text(&format!("/proc/{tid}/status"))?.contains(&format!("\nTgid:\t{me}\n")));
        fails!(open(&format!("/proc/self/task/{tid}/task"), O_RDONLY, 0), ENOENT);
        let mut names: Vec<String> = std::fs::read_dir("/proc/self/task")
            .map(|dir| dir.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        names.sort_by_key(|name| name.parse::<i32>().unwrap_or(0));
        same!(names, [me.to_string(), tid.to_string()]);
        Ok(())
    })
}

fn syscall_of_a_sleeper() -> Outcome {
    let pid = child(|| sleep_long(0))?;
    sleep_ms(50);
    let shown = text(&format!("/proc/{pid}/syscall"))?;
    kill(pid, SIGKILL)?;
    wait(pid)?;
    let words: Vec<&str> = shown.split_whitespace().collect();
    same!(words.len(), 9);
    holds!([SYS_nanosleep, SYS_clock_nanosleep].iter().any(|number| words[0] == number.to_string()));
    holds!(words[1..].iter().all(|word| word.starts_with("0x")));
    Ok(())
}

fn fdinfo(fd: i32) -> Result<String> {
    text(&format!("/proc/self/fdinfo/{fd}"))
}

fn fdinfo_tells_position_and_flags() -> Outcome {
    file("some", b"0123456789")?;
    let fd = open("some", O_RDWR | O_APPEND | O_CLOEXEC, 0)?;
    read(fd, &mut [0; 4])?;
    let info = fdinfo(fd)?;
    let lines: Vec<&str> = info.lines().collect();
    same!(lines[0], "pos:\t4");
    let flags = i32::from_str_radix(lines[1].trim_start_matches("flags:\t"), 8).unwrap_or(0);
    same!(flags & (O_ACCMODE | O_APPEND | O_CLOEXEC), O_RDWR | O_APPEND | O_CLOEXEC);
    holds!(lines[1].starts_with("flags:\t0"));
    holds!(lines[2].starts_with("mnt_id:\t"));
    same!(lines[3], format!("ino:\t{}", fstat(fd)?.st_ino));
    Ok(())
}

fn fdinfo_of_eventfd_and_epoll() -> Outcome {
    let event = sys!(SYS_eventfd2, 0x1a, 0)? as i32;
    holds!(fdinfo(event)?.contains("\neventfd-count:               1a\n"));
    let epoll = sys!(SYS_epoll_create1, 0)? as i32;
    // Packed on x86, padded elsewhere.
    let (mut bytes, data_at) = ([0u8; 16], if cfg!(target_arch = "x86_64") { 4 } else { 8 });
    bytes[0] = EPOLLIN as u8;
    bytes[data_at] = 0x77;
    sys!(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, event, bytes.as_ptr())?;
    let info = fdinfo(epoll)?;
    let wanted = format!("\ntfd: {event:8} events: {:8x} data: {:16x} ", 0x19, 0x77);
    holds!(info.contains(&wanted));
    Ok(())
}

fn fdinfo_of_signalfd_and_pidfd() -> Outcome {
    let set = 1u64 << (SIGUSR1 - 1);
    let signal = sys!(SYS_signalfd4, -1, &raw const set, 8, 0)? as i32;
    holds!(fdinfo(signal)?.contains(&format!("\nsigmask:\t{set:016x}\n")));
    let pidfd = sys!(SYS_pidfd_open, getpid(), 0)? as i32;
    holds!(fdinfo(pidfd)?.contains(&format!("\nPid:\t{}\n", getpid())));
    Ok(())
}

fn fd_links_name_the_files() -> Outcome {
    let null = open("/dev/null", O_RDONLY, 0)?;
    let link = |fd: i32| {
        std::fs::read_link(format!("/proc/self/fd/{fd}")).map(|path| path.display().to_string()).unwrap_or_default()
    };
    same!(link(null), "/dev/null");
    let (reader, _) = pipe(0)?;
    same!(link(reader), format!("pipe:[{}]", fstat(reader)?.st_ino));
    same!(lstat(&format!("/proc/self/fd/{null}"))?.st_mode, S_IFLNK | 0o500);
    fails!(lstat("/proc/self/fd/999").map(drop), ENOENT);
    file("gone", b"x")?;
    let gone = open("gone", O_RDONLY, 0)?;
    unlink("gone")?;
    holds!(link(gone).ends_with("/gone (deleted)"));
    Ok(())
}

fn map_files_are_addresses() -> Outcome {
    file("mapped", &[1; 4096])?;
    let fd = open("mapped", O_RDONLY, 0)?;
    let area = sys!(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, fd, 0)?;
    let name = format!("/proc/self/map_files/{:x}-{:x}", area, area + 4096);
    holds!(std::fs::read_link(&name).is_ok_and(|path| path.ends_with("mapped")));
    fails!(lstat(&format!("/proc/self/map_files/{:x}-{:x}", area, area + 8192)).map(drop), ENOENT);
    Ok(())
}

fn exe_and_cwd_are_links() -> Outcome {
    same!(std::fs::read_link("/proc/self/cwd").ok(), std::env::current_dir().ok());
    holds!(std::fs::read_link("/proc/self/exe").is_ok_and(|path| path.ends_with("abitest")));
    holds!(std::fs::read_link("/proc/self/root").is_ok_and(|path| path == std::path::Path::new("/")));
    same!(std::fs::read_link("/proc/self").ok().map(|path| path.display().to_string()), Some(getpid().to_string()));
    Ok(())
}

fn files_of_root_are_closed_to_users() -> Outcome {
    let parent = getpid();
    apart(|| {
        become_user()?;
        for name in ["maps", "environ", "auxv", "io", "syscall", "stack", "mem", "personality", "fd", "map_files"] {
            fails!(open(&format!("/proc/{parent}/{name}"), O_RDONLY, 0), EACCES);
        }
        for name in ["stat", "status", "statm", "cmdline", "comm", "limits", "oom_score"] {
            text(&format!("/proc/{parent}/{name}"))?;
        }
        Ok(())
    })
}

fn undumpable_belongs_to_root() -> Outcome {
    apart(|| {
        become_user()?;
        same!(lstat("/proc/self/stat")?.st_uid, 0);
        sys!(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)?;
        same!(lstat("/proc/self/stat")?.st_uid, 1000);
        Ok(())
    })
}

fn gone_processes_are_esrch_or_enoent() -> Outcome {
    let pid = child(|| sleep_long(0))?;
    let fd = open(&format!("/proc/{pid}/stat"), O_RDONLY, 0)?;
    kill(pid, SIGKILL)?;
    wait(pid)?;
    fails!(read(fd, &mut [0; 10]), ESRCH);
    fails!(open(&format!("/proc/{pid}/stat"), O_RDONLY, 0), ENOENT);
    Ok(())
}

fn zombies_are_shown() -> Outcome {
    let pid = child(|| 0)?;
    let mut info = [0u8; 128];
    sys!(SYS_waitid, P_PID, pid, info.as_mut_ptr(), WEXITED | WNOWAIT, 0)?;
    holds!(text(&format!("/proc/{pid}/stat"))?.contains(") Z "));
    let status = text(&format!("/proc/{pid}/status"))?;
    holds!(status.contains("\nState:\tZ (zombie)\n"));
    holds!(!status.contains("\nVmSize:"));
    same!(text(&format!("/proc/{pid}/cmdline"))?, "");
    wait(pid)?;
    Ok(())
}

fn mountinfo_has_the_separator() -> Outcome {
    let mounts = text("/proc/self/mountinfo")?;
    holds!(!mounts.is_empty());
    for line in mounts.lines() {
        let (left, right) = line.split_once(" - ").unwrap_or_default();
        holds!(left.split(' ').count() >= 6);
        same!(right.split(' ').count(), 3);
    }
    Ok(())
}

fn sysctl_numbers_can_be_read() -> Outcome {
    for name in [
        "kernel/pid_max",
        "kernel/threads-max",
        "kernel/ngroups_max",
        "kernel/cap_last_cap",
        "kernel/core_uses_pid",
        "kernel/core_pipe_limit",
        "kernel/overflowuid",
        "kernel/panic",
        "kernel/randomize_va_space",
        "kernel/tainted",
        "kernel/random/entropy_avail",
        "fs/file-max",
        "fs/nr_open",
        "fs/pipe-max-size",
        "fs/suid_dumpable",
        "fs/protected_hardlinks",
        "fs/protected_symlinks",
        "fs/protected_fifos",
        "fs/protected_regular",
        "vm/overcommit_memory",
        "vm/max_map_count",
        "vm/swappiness",
        "vm/panic_on_oom",
    ] {
        let value = text(&format!("/proc/sys/{name}"))?;
        holds!(value.ends_with('\n') && value.trim().parse::<i128>().is_ok());
    }
    same!(numbers(&text("/proc/sys/kernel/printk")?).len(), 4);
    same!(numbers(&text("/proc/sys/fs/file-nr")?).len(), 3);
    same!(text("/proc/sys/kernel/ostype")?, "Linux\n");
    Ok(())
}

fn uuids_differ_and_the_boot_id_stays() -> Outcome {
    let uuid = "/proc/sys/kernel/random/uuid";
    let boot = "/proc/sys/kernel/random/boot_id";
    holds!(text(uuid)? != text(uuid)?);
    same!(text(boot)?, text(boot)?);
    same!(text(boot)?.len(), 37);
    Ok(())
}
