//! wait4(2), waitid(2): who is waited for, what is told, what stays.

use crate::case::{Case, Outcome, cases, fails, holds, optional, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    exit_status_is_its_low_byte,
    signal_is_told,
    no_children_is_echild,
    strangers_are_echild,
    wnohang_returns_zero,
    wait_for_any_takes_the_one_that_ended,
    wait_for_a_group,
    untraced_tells_of_a_stop,
    continued_is_told_once,
    waitid_tells_of_an_exit,
    waitid_tells_of_a_kill,
    waitid_nowait_leaves_the_child,
    waitid_nohang_clears_the_info,
    waitid_wants_to_know_what_for,
    waitid_for_a_group,
    waitid_for_a_pidfd,
    unknown_options_are_einval,
    ignored_sigchld_reaps_by_itself,
    nocldwait_reaps_by_itself,
    a_signal_interrupts_waiting,
    bad_status_pointer_is_efault,
    usage_of_the_child_is_returned,
    usage_of_children_adds_up,
    zombies_are_there_until_reaped,
    sigchld_tells_who_and_how,
    nocldstop_keeps_stops_quiet,
];

/// The start of siginfo_t as waitid fills it.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
#[repr(C)]
struct Info {
    signal: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    pid: i32,
    uid: u32,
    status: i32,
    rest: [i32; 25],
}

fn waitid(kind: u32, id: i32, options: i32) -> Result<Info> {
    let mut info = Info::default();
    sys!(SYS_waitid, kind, id, &raw mut info, options, 0)?;
    Ok(info)
}

fn sleeper() -> Result<i32> {
    child(|| {
        sleep_ms(30_000);
        0
    })
}

fn exit_status_is_its_low_byte() -> Outcome {
    for (given, told) in [(0, 0), (1, 1), (255, 255), (256, 0), (0x1234, 0x34), (-1, 255)] {
        let raw = wait(child(|| given)?)?;
        holds!(WIFEXITED(raw));
        same!(WEXITSTATUS(raw), told);
    }
    Ok(())
}

fn signal_is_told() -> Outcome {
    for signal in [SIGTERM, SIGKILL, SIGUSR1, SIGALRM] {
        let pid = sleeper()?;
        kill(pid, signal)?;
        same!(wait(pid)?, signal);
    }
    Ok(())
}

fn no_children_is_echild() -> Outcome {
    fails!(wait(-1), ECHILD);
    fails!(sys!(SYS_wait4, -1, 0, WNOHANG, 0), ECHILD);
    fails!(waitid(P_ALL, 0, WEXITED), ECHILD);
    Ok(())
}

fn strangers_are_echild() -> Outcome {
    let pid = sleeper()?;
    fails!(wait(1), ECHILD);
    fails!(wait(getpid()), ECHILD);
    fails!(sys!(SYS_wait4, i32::MIN, 0, 0, 0), ESRCH);
    kill(pid, SIGKILL)?;
    wait(pid)?;
    Ok(())
}

fn wnohang_returns_zero() -> Outcome {
    let pid = sleeper()?;
    let mut raw = 77;
    same!(sys!(SYS_wait4, pid, &raw mut raw, WNOHANG, 0)?, 0);
    same!(raw, 77);
    kill(pid, SIGKILL)?;
    same!(wait(pid)?, SIGKILL);
    Ok(())
}

fn wait_for_any_takes_the_one_that_ended() -> Outcome {
    let stays = sleeper()?;
    let goes = child(|| 4)?;
    let mut raw = 0;
    same!(sys!(SYS_wait4, -1, &raw mut raw, 0, 0)?, goes as usize);
    same!(WEXITSTATUS(raw), 4);
    kill(stays, SIGKILL)?;
    same!(wait(stays)?, SIGKILL);
    Ok(())
}

fn wait_for_a_group() -> Outcome {
    let same_group = child(|| 1)?;
    let own_group = child(|| {
        let _ = sys!(SYS_setpgid, 0, 0);
        sleep_ms(5);
        2
    })?;
    let _ = sys!(SYS_setpgid, own_group, own_group);
    let mut raw = 0;
    same!(sys!(SYS_wait4, -own_group, &raw mut raw, 0, 0)?, own_group as usize);
    same!(WEXITSTATUS(raw), 2);
    same!(sys!(SYS_wait4, 0, &raw mut raw, 0, 0)?, same_group as usize);
    fails!(sys!(SYS_wait4, 0, 0, 0, 0), ECHILD);
    Ok(())
}

fn untraced_tells_of_a_stop() -> Outcome {
    let pid = sleeper()?;
    kill(pid, SIGSTOP)?;
    let mut raw = 0;
    same!(sys!(SYS_wait4, pid, &raw mut raw, WUNTRACED, 0)?, pid as usize);
    holds!(WIFSTOPPED(raw));
    same!(WSTOPSIG(raw), SIGSTOP);
    same!(sys!(SYS_wait4, pid, &raw mut raw, WUNTRACED | WNOHANG, 0)?, 0);
    kill(pid, SIGKILL)?;
    same!(wait(pid)?, SIGKILL);
    Ok(())
}

fn continued_is_told_once() -> Outcome {
    let pid = sleeper()?;
    kill(pid, SIGSTOP)?;
    sys!(SYS_wait4, pid, 0, WUNTRACED, 0)?;
    kill(pid, SIGCONT)?;
    let mut raw = 0;
    same!(sys!(SYS_wait4, pid, &raw mut raw, WCONTINUED, 0)?, pid as usize);
    same!(raw, 0xffff);
    same!(sys!(SYS_wait4, pid, &raw mut raw, WCONTINUED | WNOHANG, 0)?, 0);
    kill(pid, SIGKILL)?;
    wait(pid)?;
    Ok(())
}

fn waitid_tells_of_an_exit() -> Outcome {
    let pid = child(|| 42)?;
    let info = waitid(P_PID, pid, WEXITED)?;
    same!((info.signal, info.code, info.pid, info.status), (SIGCHLD, CLD_EXITED, pid, 42));
    same!(info.uid as usize, sys!(SYS_getuid)?);
    fails!(waitid(P_PID, pid, WEXITED), ECHILD);
    Ok(())
}

fn waitid_tells_of_a_kill() -> Outcome {
    let pid = sleeper()?;
    kill(pid, SIGKILL)?;
    let info = waitid(P_ALL, 0, WEXITED)?;
    same!((info.signal, info.code, info.pid, info.status), (SIGCHLD, CLD_KILLED, pid, SIGKILL));
    Ok(())
}

fn waitid_nowait_leaves_the_child() -> Outcome {
    let pid = child(|| 6)?;
    same!(waitid(P_PID, pid, WEXITED | WNOWAIT)?.status, 6);
    same!(waitid(P_PID, pid, WEXITED | WNOWAIT)?.status, 6);
    same!(waitid(P_PID, pid, WEXITED)?.status, 6);
    fails!(waitid(P_PID, pid, WEXITED), ECHILD);
    Ok(())
}

fn waitid_nohang_clears_the_info() -> Outcome {
    let pid = sleeper()?;
    let mut info = Info { signal: 9, pid: 9, ..Info::default() };
    sys!(SYS_waitid, P_PID, pid, &raw mut info, WEXITED | WNOHANG, 0)?;
    same!((info.signal, info.pid), (0, 0));
    kill(pid, SIGKILL)?;
    wait(pid)?;
    Ok(())
}

fn waitid_wants_to_know_what_for() -> Outcome {
    fails!(waitid(P_ALL, 0, 0), EINVAL);
    fails!(waitid(P_ALL, 0, WNOHANG), EINVAL);
    fails!(waitid(77, 0, WEXITED), EINVAL);
    fails!(waitid(P_PID, 0, WEXITED), EINVAL);
    fails!(waitid(P_PID, -1, WEXITED), EINVAL);
    Ok(())
}

fn waitid_for_a_group() -> Outcome {
    let pid = child(|| 3)?;
    let group = sys!(SYS_getpgid, 0)? as i32;
    fails!(waitid(P_PGID, pid, WEXITED), ECHILD);
    same!(waitid(P_PGID, group, WEXITED)?.pid, pid);
    Ok(())
}

fn waitid_for_a_pidfd() -> Outcome {
    let pid = child(|| 3)?;
    let fd = optional!(sys!(SYS_pidfd_open, pid, 0)) as i32;
    let info = waitid(P_PIDFD, fd, WEXITED)?;
    same!((info.pid, info.status), (pid, 3));
    Ok(())
}

fn unknown_options_are_einval() -> Outcome {
    fails!(sys!(SYS_wait4, -1, 0, 0x40, 0), EINVAL);
    fails!(sys!(SYS_wait4, -1, 0, WEXITED, 0), EINVAL);
    fails!(waitid(P_ALL, 0, WEXITED | 0x40), EINVAL);
    Ok(())
}

fn ignored_sigchld_reaps_by_itself() -> Outcome {
    sigaction(SIGCHLD, SIG_IGN, 0, 0)?;
    let pid = child(|| 3)?;
    // wait4 blocks until it is gone and then has nobody.
    fails!(wait(pid), ECHILD);
    fails!(kill(pid, 0), ESRCH);
    Ok(())
}

fn nocldwait_reaps_by_itself() -> Outcome {
    note_signal(SIGCHLD, SA_NOCLDWAIT | SA_RESTART)?;
    let pid = child(|| 3)?;
    fails!(wait(pid), ECHILD);
    same!(count(), 1);
    Ok(())
}

fn a_signal_interrupts_waiting() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    let me = getpid();
    let pid = child(|| {
        sleep_ms(30);
        let _ = kill(me, SIGUSR1);
        sleep_ms(30);
        0
    })?;
    fails!(sys!(SYS_wait4, pid, 0, 0, 0), EINTR);
    same!(count(), 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn bad_status_pointer_is_efault() -> Outcome {
    let pid = child(|| 0)?;
    fails!(sys!(SYS_wait4, pid, 8, 0, 0), EFAULT);
    // It is reaped nevertheless.
    fails!(wait(pid), ECHILD);
    Ok(())
}

fn burn(ms: i64) -> i32 {
    let start = now_ns(CLOCK_PROCESS_CPUTIME_ID).unwrap_or(0);
    while now_ns(CLOCK_PROCESS_CPUTIME_ID).unwrap_or(i64::MAX) - start < ms * 1_000_000 {}
    0
}

fn usage_of_the_child_is_returned() -> Outcome {
    let pid = child(|| burn(60))?;
    let mut usage: rusage = zeroed();
    same!(sys!(SYS_wait4, pid, 0, 0, &raw mut usage)?, pid as usize);
    let time = usage.ru_utime.tv_sec * 1_000_000
        + usage.ru_utime.tv_usec
        + usage.ru_stime.tv_sec * 1_000_000
        + usage.ru_stime.tv_usec;
    holds!((40_000..5_000_000).contains(&time));
    holds!(usage.ru_maxrss > 0);
    Ok(())
}

fn usage_of_children_adds_up() -> Outcome {
    for _ in 0..2 {
        status(child(|| burn(40))?)?;
    }
    let mut usage: rusage = zeroed();
    sys!(SYS_getrusage, RUSAGE_CHILDREN, &raw mut usage)?;
    let time =
        usage.ru_utime.tv_usec + usage.ru_stime.tv_usec + 1_000_000 * (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec);
    holds!(time >= 60_000);
    Ok(())
}

fn zombies_are_there_until_reaped() -> Outcome {
    let pid = child(|| 0)?;
    waitid(P_PID, pid, WEXITED | WNOWAIT)?;
    same!(kill(pid, 0)?, 0);
    same!(kill(pid, SIGKILL)?, 0);
    same!(status(pid)?, 0);
    fails!(kill(pid, 0), ESRCH);
    Ok(())
}

fn sigchld_tells_who_and_how() -> Outcome {
    use std::sync::atomic::Ordering::SeqCst;
    note_signal(SIGCHLD, SA_RESTART)?;
    let pid = child(|| 9)?;
    same!(status(pid)?, 9);
    same!(count(), 1);
    same!(seen::CODE.load(SeqCst), CLD_EXITED);
    same!(seen::PID.load(SeqCst), pid);
    same!(seen::STATUS.load(SeqCst), 9);
    Ok(())
}

fn nocldstop_keeps_stops_quiet() -> Outcome {
    note_signal(SIGCHLD, SA_NOCLDSTOP | SA_RESTART)?;
    let pid = sleeper()?;
    kill(pid, SIGSTOP)?;
    sys!(SYS_wait4, pid, 0, WUNTRACED, 0)?;
    same!(count(), 0);
    kill(pid, SIGKILL)?;
    same!(wait(pid)?, SIGKILL);
    same!(count(), 1);
    Ok(())
}
