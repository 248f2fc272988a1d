//! setpgid(2), setsid(2), kill(2) to groups, and the rules of job control that need no terminal.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    child_can_lead_a_group,
    parent_can_place_its_child,
    child_that_has_execed_is_eacces,
    session_leader_cannot_move,
    missing_group_is_eperm,
    strangers_are_esrch,
    negative_group_is_einval,
    setsid_makes_session_and_group,
    group_leader_cannot_setsid,
    other_sessions_child_is_eperm,
    getpgid_of_others,
    getsid_of_others,
    kill_reaches_the_whole_group,
    kill_zero_reaches_the_own_group,
    tstp_is_discarded_in_an_orphaned_group,
    tstp_stops_in_a_group_with_a_parent_in_the_session,
    newly_orphaned_stopped_group_gets_hup_and_cont,
    group_outlives_its_leader,
];

fn sleeper() -> Result<i32> {
    child(|| {
        sleep_ms(30_000);
        0
    })
}

fn finish(pid: i32) -> Result<()> {
    kill(pid, SIGKILL)?;
    wait(pid).map(drop)
}

fn child_can_lead_a_group() -> Outcome {
    let pid = trial(|| {
        sys!(SYS_setpgid, 0, 0)?;
        same!(sys!(SYS_getpgid, 0)?, getpid() as usize);
        sys!(SYS_setpgid, 0, 0)?;
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn parent_can_place_its_child() -> Outcome {
    let (one, two) = (sleeper()?, sleeper()?);
    sys!(SYS_setpgid, one, one)?;
    sys!(SYS_setpgid, two, one)?;
    same!(sys!(SYS_getpgid, two)?, one as usize);
    finish(one)?;
    finish(two)?;
    Ok(())
}

fn child_that_has_execed_is_eacces() -> Outcome {
    let (reader, writer) = pipe(O_CLOEXEC)?;
    let me = path(&own_path());
    let argv = [c"x".as_ptr(), c"helper:threads".as_ptr(), std::ptr::null()];
    let pid = child(|| sys!(SYS_execve, me.as_ptr(), argv.as_ptr(), argv[2..].as_ptr()).is_err().into())?;
    close(writer)?;
    // End of file: exec has closed the other end.
    same!(read(reader, &mut [0])?, 0);
    fails!(sys!(SYS_setpgid, pid, pid), EACCES);
    finish(pid)?;
    Ok(())
}

fn session_leader_cannot_move() -> Outcome {
    fails!(sys!(SYS_setpgid, 0, 0), EPERM);
    Ok(())
}

fn missing_group_is_eperm() -> Outcome {
    let pid = sleeper()?;
    fails!(sys!(SYS_setpgid, pid, 1), EPERM);
    fails!(sys!(SYS_setpgid, pid, 4_000_000), EPERM);
    finish(pid)?;
    Ok(())
}

fn strangers_are_esrch() -> Outcome {
    fails!(sys!(SYS_setpgid, sys!(SYS_getppid)?, 0), ESRCH);
    fails!(sys!(SYS_setpgid, 4_000_000, 0), ESRCH);
    Ok(())
}

fn negative_group_is_einval() -> Outcome {
    fails!(sys!(SYS_setpgid, 0, -1), EINVAL);
    Ok(())
}

fn setsid_makes_session_and_group() -> Outcome {
    let pid = trial(|| {
        same!(sys!(SYS_setsid)?, getpid() as usize);
        same!(sys!(SYS_getsid, 0)?, getpid() as usize);
        same!(sys!(SYS_getpgid, 0)?, getpid() as usize);
        fails!(sys!(SYS_setsid), EPERM);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn group_leader_cannot_setsid() -> Outcome {
    let pid = trial(|| {
        sys!(SYS_setpgid, 0, 0)?;
        fails!(sys!(SYS_setsid), EPERM);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn other_sessions_child_is_eperm() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        let _ = sys!(SYS_setsid);
        words.set(0, 1);
        sleep_ms(30_000);
        0
    })?;
    words.wait_for(0, 1);
    fails!(sys!(SYS_setpgid, pid, getpid()), EPERM);
    finish(pid)?;
    Ok(())
}

fn getpgid_of_others() -> Outcome {
    let pid = sleeper()?;
    same!(sys!(SYS_getpgid, pid)?, getpid() as usize);
    finish(pid)?;
    fails!(sys!(SYS_getpgid, pid), ESRCH);
    fails!(sys!(SYS_getpgid, -1), ESRCH);
    Ok(())
}

fn getsid_of_others() -> Outcome {
    let pid = sleeper()?;
    same!(sys!(SYS_getsid, pid)?, getpid() as usize);
    finish(pid)?;
    fails!(sys!(SYS_getsid, pid), ESRCH);
    Ok(())
}

fn kill_reaches_the_whole_group() -> Outcome {
    let leader = sleeper()?;
    sys!(SYS_setpgid, leader, leader)?;
    let mut members = vec![leader];
    for _ in 0..4 {
        let pid = sleeper()?;
        sys!(SYS_setpgid, pid, leader)?;
        members.push(pid);
    }
    let outside = sleeper()?;
    kill(-leader, SIGUSR1)?;
    for pid in members {
        same!(wait(pid)?, SIGUSR1);
    }
    same!(sys!(SYS_wait4, outside, 0, WNOHANG, 0)?, 0);
    finish(outside)?;
    fails!(kill(-leader, SIGUSR1), ESRCH);
    Ok(())
}

fn kill_zero_reaches_the_own_group() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    let ready = Shared::new()?;
    let pid = child(|| {
        let _ = sigaction(SIGUSR1, SIG_DFL, 0, 0);
        ready.set(0, 1);
        sleep_ms(30_000);
        0
    })?;
    ready.wait_for(0, 1);
    kill(0, SIGUSR1)?;
    same!(wait(pid)?, SIGUSR1);
    same!(count(), 1);
    Ok(())
}

fn tstp_is_discarded_in_an_orphaned_group() -> Outcome {
    // The parent of the case is in another session, so its group is orphaned (POSIX 11.1.4).
    for signal in [SIGTSTP, SIGTTIN, SIGTTOU] {
        kill(getpid(), signal)?;
    }
    Ok(())
}

fn tstp_stops_in_a_group_with_a_parent_in_the_session() -> Outcome {
    for signal in [SIGTSTP, SIGTTIN, SIGTTOU] {
        let pid = sleeper()?;
        sys!(SYS_setpgid, pid, pid)?;
        kill(pid, signal)?;
        let mut raw = 0;
        sys!(SYS_wait4, pid, &raw mut raw, WUNTRACED, 0)?;
        holds!(WIFSTOPPED(raw));
        same!(WSTOPSIG(raw), signal);
        finish(pid)?;
    }
    Ok(())
}

fn newly_orphaned_stopped_group_gets_hup_and_cont() -> Outcome {
    sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let words = Shared::new()?;
    // A session of its own, whose leader goes: then nobody in the session is parent of the stopped group.
    let leader = child(|| {
        let _ = sys!(SYS_setsid);
        let pid = child(|| {
            let _ = sys!(SYS_setpgid, 0, 0);
            words.set(1, 1);
            sleep_ms(30_000);
            0
        })
        .unwrap_or(0);
        words.wait_for(1, 1);
        words.set(0, pid as u32);
        let _ = kill(pid, SIGSTOP);
        let _ = sys!(SYS_wait4, pid, 0, WUNTRACED, 0);
        0
    })?;
    same!(status(leader)?, 0);
    same!(wait(words.get(0) as i32)?, SIGHUP);
    Ok(())
}

fn group_outlives_its_leader() -> Outcome {
    let leader = sleeper()?;
    sys!(SYS_setpgid, leader, leader)?;
    let member = sleeper()?;
    sys!(SYS_setpgid, member, leader)?;
    finish(leader)?;
    same!(sys!(SYS_getpgid, member)?, leader as usize);
    kill(-leader, SIGUSR2)?;
    same!(wait(member)?, SIGUSR2);
    Ok(())
}
