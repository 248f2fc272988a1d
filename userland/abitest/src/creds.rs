//! Identity, limits, capabilities, scheduling, and small process attributes.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    setresuid_sets_all_three,
    user_may_only_swap_its_ids,
    setuid_drops_for_good,
    group_list_is_replaced,
    setfsuid_returns_the_old,
    capabilities_go_with_root,
    keepcaps_keeps_the_permitted,
    no_new_privs_stays,
    limits_are_read_and_written,
    user_cannot_raise_the_hard_limit,
    limits_of_another_process,
    nice_is_clamped_and_inherited,
    user_cannot_become_nicer_to_itself,
    policy_and_priority,
    affinity_is_kept,
    sched_yield_works,
    name_is_set_and_cut,
    uname_is_linux_on_this_machine,
    hostname_is_for_root,
    getrandom_fills,
    getcpu_is_a_cpu,
    personality_is_told,
    proc_status_has_the_ids,
    proc_stat_has_its_fields,
    dumpable_is_told,
    setgroups_is_for_root,
];

/// In a child, as root.
fn apart(body: impl FnOnce() -> Outcome) -> Outcome {
    same!(status(trial(body)?)?, 0);
    Ok(())
}

fn ids() -> Result<[u32; 3]> {
    let mut ids = [9u32; 3];
    let [a, b, c] = &mut ids;
    sys!(SYS_getresuid, &raw mut *a, &raw mut *b, &raw mut *c)?;
    Ok(ids)
}

fn setresuid_sets_all_three() -> Outcome {
    apart(|| {
        sys!(SYS_setresuid, 1, 2, 3)?;
        same!(ids()?, [1, 2, 3]);
        same!((sys!(SYS_getuid)?, sys!(SYS_geteuid)?), (1, 2));
        sys!(SYS_setresuid, -1, 3, -1)?;
        same!(ids()?, [1, 3, 3]);
        Ok(())
    })
}

fn user_may_only_swap_its_ids() -> Outcome {
    apart(|| {
        sys!(SYS_setresuid, 1000, 1000, 2000)?;
        fails!(sys!(SYS_setresuid, 3000, -1, -1), EPERM);
        fails!(sys!(SYS_setuid, 0), EPERM);
        sys!(SYS_setresuid, 2000, 1000, 1000)?;
        sys!(SYS_setreuid, 1000, 2000)?;
        same!(ids()?, [1000, 2000, 2000]);
        Ok(())
    })
}

fn setuid_drops_for_good() -> Outcome {
    apart(|| {
        sys!(SYS_setuid, 1000)?;
        same!(ids()?, [1000, 1000, 1000]);
        fails!(sys!(SYS_setuid, 0), EPERM);
        fails!(sys!(SYS_setuid, -1), EINVAL);
        Ok(())
    })
}

fn group_list_is_replaced() -> Outcome {
    apart(|| {
        let groups = [5u32, 7, 100];
        sys!(SYS_setgroups, 3, groups.as_ptr())?;
        let mut got = [0u32; 5];
        same!(sys!(SYS_getgroups, 0, 0)?, 3);
        same!(sys!(SYS_getgroups, 5, got.as_mut_ptr())?, 3);
        got[..3].sort_unstable();
        same!(got, [5, 7, 100, 0, 0]);
        fails!(sys!(SYS_getgroups, 2, got.as_mut_ptr()), EINVAL);
        Ok(())
    })
}

fn setfsuid_returns_the_old() -> Outcome {
    apart(|| {
        same!(sys!(SYS_setfsuid, 1000)?, 0);
        same!(sys!(SYS_setfsuid, -1)?, 1000);
        Ok(())
    })
}

/// The effective and permitted capabilities.
fn capabilities() -> Result<(u64, u64)> {
    let header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    sys!(SYS_capget, header.as_ptr(), data.as_mut_ptr())?;
    Ok((u64::from(data[0]) | u64::from(data[3]) << 32, u64::from(data[1]) | u64::from(data[4]) << 32))
}

fn capabilities_go_with_root() -> Outcome {
    apart(|| {
        // CAP_CHOWN, CAP_KILL.
        same!(capabilities()?.0 & 0x21, 0x21);
        sys!(SYS_setresuid, -1, 1000, -1)?;
        same!(capabilities()?.0, 0);
        holds!(capabilities()?.1 != 0);
        sys!(SYS_setresuid, -1, 0, -1)?;
        holds!(capabilities()?.0 != 0);
        sys!(SYS_setresuid, 1000, 1000, 1000)?;
        same!(capabilities()?, (0, 0));
        Ok(())
    })
}

fn keepcaps_keeps_the_permitted() -> Outcome {
    apart(|| {
        sys!(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0)?;
        sys!(SYS_setresuid, 1000, 1000, 1000)?;
        let (effective, permitted) = capabilities()?;
        same!(effective, 0);
        holds!(permitted & 0x21 == 0x21);
        Ok(())
    })
}

fn no_new_privs_stays() -> Outcome {
    apart(|| {
        same!(sys!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)?, 0);
        sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
        fails!(sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
        same!(sys!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)?, 1);
        fails!(sys!(SYS_prctl, 9999, 0, 0, 0, 0), EINVAL);
        Ok(())
    })
}

fn limits_are_read_and_written() -> Outcome {
    limit(RLIMIT_NOFILE, 50, 60)?;
    let mut now = [0u64; 2];
    sys!(SYS_getrlimit, RLIMIT_NOFILE, now.as_mut_ptr())?;
    same!(now, [50, 60]);
    fails!(limit(RLIMIT_NOFILE, 61, 60), EINVAL);
    fails!(limit(16, 1, 1), EINVAL);
    fails!(limit(-1, 1, 1), EINVAL);
    Ok(())
}

fn user_cannot_raise_the_hard_limit() -> Outcome {
    apart(|| {
        limit(RLIMIT_NOFILE, 50, 60)?;
        become_user()?;
        limit(RLIMIT_NOFILE, 60, 60)?;
        fails!(limit(RLIMIT_NOFILE, 60, 61), EPERM);
        limit(RLIMIT_NOFILE, 40, 40)?;
        fails!(limit(RLIMIT_NOFILE, 40, 50), EPERM);
        Ok(())
    })
}

fn limits_of_another_process() -> Outcome {
    let pid = child(|| {
        sleep_ms(20_000);
        0
    })?;
    let new = [11u64, 22];
    let mut now = [0u64; 2];
    sys!(SYS_prlimit64, pid, RLIMIT_CORE, new.as_ptr(), 0)?;
    sys!(SYS_prlimit64, pid, RLIMIT_CORE, 0, now.as_mut_ptr())?;
    same!(now, new);
    kill(pid, SIGKILL)?;
    wait(pid)?;
    fails!(sys!(SYS_prlimit64, pid, RLIMIT_CORE, 0, now.as_mut_ptr()), ESRCH);
    Ok(())
}

/// getpriority as the call has it: 20 - nice.
fn priority() -> Result<usize> {
    sys!(SYS_getpriority, PRIO_PROCESS, 0)
}

fn nice_is_clamped_and_inherited() -> Outcome {
    apart(|| {
        same!(priority()?, 20);
        sys!(SYS_setpriority, PRIO_PROCESS, 0, 5)?;
        same!(status(child(|| priority().map_or(0, |n| n as i32))?)?, 15);
        sys!(SYS_setpriority, PRIO_PROCESS, 0, 100)?;
        same!(priority()?, 1);
        sys!(SYS_setpriority, PRIO_PROCESS, 0, -100)?;
        same!(priority()?, 40);
        fails!(sys!(SYS_setpriority, 9, 0, 0), EINVAL);
        fails!(sys!(SYS_getpriority, PRIO_PROCESS, 4_000_000), ESRCH);
        Ok(())
    })
}

fn user_cannot_become_nicer_to_itself() -> Outcome {
    apart(|| {
        limit(RLIMIT_NICE, 0, 0)?;
        become_user()?;
        sys!(SYS_setpriority, PRIO_PROCESS, 0, 5)?;
        fails!(sys!(SYS_setpriority, PRIO_PROCESS, 0, 0), EACCES);
        fails!(sys!(SYS_setpriority, PRIO_PROCESS, 1, 5), EPERM);
        Ok(())
    })
}

fn policy_and_priority() -> Outcome {
    apart(|| {
        same!(sys!(SYS_sched_getscheduler, 0)?, SCHED_OTHER as usize);
        let mut priority = 9i32;
        sys!(SYS_sched_getparam, 0, &raw mut priority)?;
        same!(priority, 0);
        same!(sys!(SYS_sched_get_priority_max, SCHED_FIFO)?, 99);
        same!(sys!(SYS_sched_get_priority_min, SCHED_RR)?, 1);
        fails!(sys!(SYS_sched_get_priority_max, 77), EINVAL);
        priority = 0;
        sys!(SYS_sched_setscheduler, 0, SCHED_BATCH, &raw const priority)?;
        same!(sys!(SYS_sched_getscheduler, 0)?, SCHED_BATCH as usize);
        priority = 5;
        fails!(sys!(SYS_sched_setscheduler, 0, SCHED_OTHER, &raw const priority), EINVAL);
        fails!(sys!(SYS_sched_getscheduler, -1), EINVAL);
        fails!(sys!(SYS_sched_getscheduler, 4_000_000), ESRCH);
        Ok(())
    })
}

fn affinity_is_kept() -> Outcome {
    let mut cpus = [0u64; 16];
    let length = sys!(SYS_sched_getaffinity, 0, 128, cpus.as_mut_ptr())?;
    holds!(length >= 8 && length % 8 == 0 && cpus[0] != 0);
    let last = 1u64 << (63 - cpus[0].leading_zeros());
    sys!(SYS_sched_setaffinity, 0, 8, &raw const last)?;
    sys!(SYS_sched_getaffinity, 0, 128, cpus.as_mut_ptr())?;
    same!(cpus[0], last);
    let mut cpu = 99u32;
    sys!(SYS_getcpu, &raw mut cpu, 0, 0)?;
    same!(1u64 << cpu, last);
    let none = 0u64;
    fails!(sys!(SYS_sched_setaffinity, 0, 8, &raw const none), EINVAL);
    fails!(sys!(SYS_sched_getaffinity, 0, 1, cpus.as_mut_ptr()), EINVAL);
    Ok(())
}

fn sched_yield_works() -> Outcome {
    for _ in 0..100 {
        same!(sys!(SYS_sched_yield)?, 0);
    }
    Ok(())
}

fn name_is_set_and_cut() -> Outcome {
    let mut name = [0u8; 16];
    sys!(SYS_prctl, PR_SET_NAME, c"a-very-long-thread-name".as_ptr(), 0, 0, 0)?;
    sys!(SYS_prctl, PR_GET_NAME, name.as_mut_ptr(), 0, 0, 0)?;
    same!(&name, b"a-very-long-thr\0");
    same!(content("/proc/self/comm")?, b"a-very-long-thr\n");
    Ok(())
}

fn uname_is_linux_on_this_machine() -> Outcome {
    let mut name = [0u8; 390];
    sys!(SYS_uname, name.as_mut_ptr())?;
    let field = |number: usize| {
        String::from_utf8_lossy(&name[number * 65..number * 65 + 65]).trim_end_matches('\0').to_string()
    };
    same!(field(0), "Linux");
    same!(field(4), std::env::consts::ARCH);
    let release = field(2);
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    // Programs compare it: 5.10 and more is what Debian's are built for.
    holds!(numbers.next().is_some_and(|major| major >= 5) && numbers.next().is_some());
    Ok(())
}

fn hostname_is_for_root() -> Outcome {
    apart(|| {
        become_user()?;
        fails!(sys!(SYS_sethostname, c"x".as_ptr(), 1), EPERM);
        Ok(())
    })?;
    fails!(sys!(SYS_sethostname, c"x".as_ptr(), 65), EINVAL);
    Ok(())
}

fn getrandom_fills() -> Outcome {
    let (mut one, mut two) = ([0u8; 64], [0u8; 64]);
    same!(sys!(SYS_getrandom, one.as_mut_ptr(), 64, 0)?, 64);
    same!(sys!(SYS_getrandom, two.as_mut_ptr(), 64, 0)?, 64);
    holds!(one != two);
    fails!(sys!(SYS_getrandom, one.as_mut_ptr(), 64, 0x80), EINVAL);
    Ok(())
}

fn getcpu_is_a_cpu() -> Outcome {
    let mut cpu = 9999u32;
    sys!(SYS_getcpu, &raw mut cpu, 0, 0)?;
    holds!(cpu < 256);
    Ok(())
}

fn personality_is_told() -> Outcome {
    same!(sys!(SYS_personality, 0xffff_ffffu32)?, 0);
    Ok(())
}

fn proc_status_has_the_ids() -> Outcome {
    let text = String::from_utf8_lossy(&content("/proc/self/status")?).to_string();
    let find = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_string();
    same!(find("Pid:"), getpid().to_string());
    same!(find("PPid:"), sys!(SYS_getppid)?.to_string());
    same!(find("Uid:"), "0\t0\t0\t0");
    same!(find("Threads:"), "1");
    holds!(find("State:").starts_with('R'));
    holds!(find("VmRSS:").ends_with(" kB"));
    Ok(())
}

fn proc_stat_has_its_fields() -> Outcome {
    let text = String::from_utf8_lossy(&content("/proc/self/stat")?).to_string();
    let (head, tail) = text.rsplit_once(") ").unwrap_or_default();
    holds!(head.starts_with(&format!("{} (", getpid())));
    let fields: Vec<&str> = tail.trim_end().split(' ').collect();
    same!(fields.len(), 50);
    same!((fields[0], fields[1].parse()), ("R", Ok(sys!(SYS_getppid)?)));
    same!(fields[2], sys!(SYS_getpgid, 0)?.to_string());
    Ok(())
}

fn dumpable_is_told() -> Outcome {
    same!(sys!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)?, 1);
    sys!(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)?;
    same!(sys!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)?, 0);
    fails!(sys!(SYS_prctl, PR_SET_DUMPABLE, 2, 0, 0, 0), EINVAL);
    Ok(())
}

fn setgroups_is_for_root() -> Outcome {
    apart(|| {
        become_user()?;
        let group = 0u32;
        fails!(sys!(SYS_setgroups, 1, &raw const group), EPERM);
        fails!(sys!(SYS_setgid, 0), EPERM);
        Ok(())
    })
}
