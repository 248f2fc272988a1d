//! How tracing begins and ends: TRACEME, ATTACH, SEIZE, DETACH, and who may.

use super::*;
use crate::case::{Case, Outcome, cases, fails, holds, same};

pub const CASES: &[Case] = cases![
    traceme_makes_the_parent_the_tracer,
    traceme_twice_is_eperm,
    attach_stops_with_sigstop,
    attach_to_itself_is_eperm,
    attach_to_an_own_thread_is_eperm,
    attach_to_nobody_is_esrch,
    attach_to_a_kernel_thread_is_eperm,
    attach_twice_is_eperm,
    attach_to_a_zombie_is_eperm,
    attach_to_roots_process_is_eperm_for_users,
    attach_to_the_undumpable_is_eperm_for_users,
    attach_finds_a_stopped_process_stopped,
    seize_does_not_stop,
    seize_checks_its_arguments,
    seize_takes_options,
    a_seized_sleep_goes_on,
    strangers_requests_are_esrch,
    requests_on_the_running_are_esrch,
    unknown_requests_are_eio,
    unknown_options_are_einval,
    detach_lets_it_run,
    detach_delivers_a_signal,
    detach_with_no_signal_is_eio,
    detach_leaves_a_group_stop,
    detached_can_be_attached_again,
    interrupt_and_listen_are_for_the_seized,
    kill_request_kills,
    kill_request_on_the_running_does_nothing,
    another_thread_is_no_tracer,
    scope_1_leaves_descendants,
    scope_1_exempts_whom_the_process_names,
    scope_2_and_traceme,
];

fn traceme_makes_the_parent_the_tracer() -> Outcome {
    let pid = traced(|| 5)?;
    same!(status_field(pid, "TracerPid")?, getpid().to_string());
    same!(state(pid)?, "t");
    same!(go(CONT, pid, 0)?, Exit(5));
    Ok(())
}

fn traceme_twice_is_eperm() -> Outcome {
    let pid = traced(|| (ptrace(TRACEME, 0, 0, 0) == Err(Errno(EPERM))).into())?;
    same!(go(CONT, pid, 0)?, Exit(1));
    Ok(())
}

fn attach_stops_with_sigstop() -> Outcome {
    let (pid, gate) = waiting(|| 3)?;
    same!(status_field(pid, "TracerPid")?, "0");
    ptrace(ATTACH, pid, 0, 0)?;
    same!(next(pid)?, Stop(SIGSTOP));
    same!(siginfo(pid)?.signo, SIGSTOP);
    ptrace(CONT, pid, 0, 0)?;
    gate.open()?;
    same!(next(pid)?, Exit(3));
    Ok(())
}

fn attach_to_itself_is_eperm() -> Outcome {
    fails!(ptrace(ATTACH, getpid(), 0, 0), EPERM);
    fails!(ptrace(SEIZE, getpid(), 0, 0), EPERM);
    Ok(())
}

fn attach_to_an_own_thread_is_eperm() -> Outcome {
    let tid = thread(sleep_on, 0)?;
    fails!(ptrace(ATTACH, tid, 0, 0), EPERM);
    fails!(ptrace(SEIZE, tid, 0, 0), EPERM);
    Ok(())
}

fn attach_to_nobody_is_esrch() -> Outcome {
    for pid in [0, -1, 1 << 22, i32::MAX] {
        fails!(ptrace(ATTACH, pid, 0, 0), ESRCH);
    }
    Ok(())
}

fn attach_to_a_kernel_thread_is_eperm() -> Outcome {
    fails!(ptrace(ATTACH, 2, 0, 0), EPERM);
    fails!(ptrace(SEIZE, 2, 0, 0), EPERM);
    Ok(())
}

fn attach_twice_is_eperm() -> Outcome {
    let (pid, _gate) = waiting(|| 0)?;
    ptrace(ATTACH, pid, 0, 0)?;
    fails!(ptrace(ATTACH, pid, 0, 0), EPERM);
    same!(next(pid)?, Stop(SIGSTOP));
    fails!(ptrace(SEIZE, pid, 0, 0), EPERM);
    let rival = child(|| (ptrace(SEIZE, pid, 0, 0) == Err(Errno(EPERM))).into())?;
    same!(status(rival)?, 1);
    Ok(())
}

fn attach_to_a_zombie_is_eperm() -> Outcome {
    let pid = child(|| 0)?;
    holds!(settles(pid, "Z")?);
    fails!(ptrace(ATTACH, pid, 0, 0), EPERM);
    same!(next(pid)?, Exit(0));
    fails!(ptrace(ATTACH, pid, 0, 0), ESRCH);
    Ok(())
}

/// The status of a user's attempt to seize `pid`.
fn users_attempt(pid: i32) -> Got<i32> {
    let user = child(|| {
        if become_user().is_err() {
            return 99;
        }
        ptrace(SEIZE, pid, 0, 0).err().map_or(0, |error| error.0)
    })?;
    Ok(status(user)?)
}

fn attach_to_roots_process_is_eperm_for_users() -> Outcome {
    let (pid, _gate) = waiting(|| 0)?;
    same!(users_attempt(pid)?, EPERM);
    Ok(())
}

fn attach_to_the_undumpable_is_eperm_for_users() -> Outcome {
    let shared = Shared::new()?;
    let pid = child(|| {
        let _ = become_user();
        shared.set(0, 1);
        shared.wait_for(1, 1);
        let _ = sys!(SYS_prctl, PR_SET_DUMPABLE, 1);
        shared.set(0, 2);
        sleep_on(0)
    })?;
    holds!(shared.wait_for(0, 1));
    same!(users_attempt(pid)?, EPERM);
    shared.set(1, 1);
    holds!(shared.wait_for(0, 2));
    same!(users_attempt(pid)?, 0);
    Ok(())
}

fn attach_finds_a_stopped_process_stopped() -> Outcome {
    let (pid, gate) = waiting(|| 4)?;
    kill(pid, SIGSTOP)?;
    holds!(settles(pid, "T")?);
    ptrace(ATTACH, pid, 0, 0)?;
    same!(next(pid)?, Stop(SIGSTOP));
    same!(state(pid)?, "t");
    ptrace(DETACH, pid, 0, SIGCONT)?;
    gate.open()?;
    kill(pid, SIGCONT)?;
    same!(next(pid)?, Exit(4));
    Ok(())
}

fn seize_does_not_stop() -> Outcome {
    let (pid, gate) = seized(0, || 6)?;
    holds!(is_quiet(pid)?);
    same!(status_field(pid, "TracerPid")?, getpid().to_string());
    same!(state(pid)?, "S");
    gate.open()?;
    same!(next(pid)?, Exit(6));
    Ok(())
}

fn seize_checks_its_arguments() -> Outcome {
    let (pid, _gate) = waiting(|| 0)?;
    fails!(ptrace(SEIZE, pid, 1, 0), EIO);
    fails!(ptrace(SEIZE, pid, 0, 1 << 30), EIO);
    fails!(ptrace(SEIZE, pid, 0, 1 << 8), EIO);
    same!(status_field(pid, "TracerPid")?, "0");
    Ok(())
}

fn seize_takes_options() -> Outcome {
    let (pid, gate) = seized(O_EXIT, || 7)?;
    gate.open()?;
    same!(next(pid)?, trap(EVENT_EXIT));
    same!(message(pid)?, 7 << 8);
    same!(go(CONT, pid, 0)?, Exit(7));
    Ok(())
}

fn a_seized_sleep_goes_on() -> Outcome {
    let pid = child(|| {
        let time = timespec_ms(200);
        i32::from(sys!(SYS_nanosleep, &raw const time, 0).is_err())
    })?;
    holds!(settles(pid, "S")?);
    ptrace(SEIZE, pid, 0, 0)?;
    same!(next(pid)?, Exit(0));
    Ok(())
}

fn strangers_requests_are_esrch() -> Outcome {
    let (pid, _gate) = waiting(|| 0)?;
    for request in [PEEKDATA, POKEDATA, CONT, SINGLESTEP, SYSCALL, DETACH, SETOPTIONS, GETSIGINFO, GETREGSET, INTERRUPT]
    {
        fails!(ptrace(request, pid, 0, 0), ESRCH);
    }
    fails!(ptrace(CONT, getpid(), 0, 0), ESRCH);
    Ok(())
}

fn requests_on_the_running_are_esrch() -> Outcome {
    let (pid, _gate) = seized(0, || 0)?;
    for request in [PEEKDATA, CONT, SINGLESTEP, SYSCALL, DETACH, SETOPTIONS, GETEVENTMSG, GETSIGINFO, GETREGSET, LISTEN]
    {
        fails!(ptrace(request, pid, 0, 0), ESRCH);
    }
    Ok(())
}

fn unknown_requests_are_eio() -> Outcome {
    let pid = traced(|| 0)?;
    for request in [GETREGS, 10, 11, 50, 0x42ff, i32::MAX] {
        fails!(ptrace(request, pid, 0, 0), EIO);
    }
    Ok(())
}

fn unknown_options_are_einval() -> Outcome {
    let pid = traced(|| 0)?;
    for options in [1 << 8, 1 << 19, 1 << 22, 1 << 31] {
        fails!(ptrace(SETOPTIONS, pid, 0, options as u32), EINVAL);
    }
    ptrace(SETOPTIONS, pid, 0, 0xff | O_EXITKILL)?;
    Ok(())
}

fn detach_lets_it_run() -> Outcome {
    let pid = traced(|| 8)?;
    ptrace(DETACH, pid, 0, 0)?;
    same!(next(pid)?, Exit(8));
    Ok(())
}

fn detach_delivers_a_signal() -> Outcome {
    let pid = traced(|| sleep_on(0))?;
    ptrace(DETACH, pid, 0, SIGTERM)?;
    same!(next(pid)?, Killed(SIGTERM));
    Ok(())
}

fn detach_with_no_signal_is_eio() -> Outcome {
    let pid = traced(|| 0)?;
    for signal in [65, 128, -1] {
        fails!(ptrace(DETACH, pid, 0, signal), EIO);
        fails!(ptrace(CONT, pid, 0, signal), EIO);
        fails!(ptrace(SYSCALL, pid, 0, signal), EIO);
        fails!(ptrace(SINGLESTEP, pid, 0, signal), EIO);
    }
    same!(go(CONT, pid, 0)?, Exit(0));
    Ok(())
}

fn detach_leaves_a_group_stop() -> Outcome {
    let (pid, gate) = seized(0, || 9)?;
    kill(pid, SIGSTOP)?;
    same!(next(pid)?, Stop(SIGSTOP));
    same!(go(CONT, pid, SIGSTOP)?, Event(EVENT_STOP, SIGSTOP));
    ptrace(DETACH, pid, 0, 0)?;
    holds!(settles(pid, "T")?);
    kill(pid, SIGCONT)?;
    gate.open()?;
    same!(next(pid)?, Exit(9));
    Ok(())
}

fn detached_can_be_attached_again() -> Outcome {
    let (pid, gate) = waiting(|| 2)?;
    for _ in 0..5 {
        ptrace(ATTACH, pid, 0, 0)?;
        same!(next(pid)?, Stop(SIGSTOP));
        ptrace(DETACH, pid, 0, 0)?;
        ptrace(SEIZE, pid, 0, 0)?;
        ptrace(INTERRUPT, pid, 0, 0)?;
        same!(next(pid)?, trap(EVENT_STOP));
        ptrace(DETACH, pid, 0, 0)?;
    }
    gate.open()?;
    same!(next(pid)?, Exit(2));
    Ok(())
}

fn interrupt_and_listen_are_for_the_seized() -> Outcome {
    let pid = traced(|| 0)?;
    fails!(ptrace(INTERRUPT, pid, 0, 0), EIO);
    fails!(ptrace(LISTEN, pid, 0, 0), EIO);
    Ok(())
}

fn kill_request_kills() -> Outcome {
    let pid = traced(|| 0)?;
    same!(go(KILL, pid, 0)?, Killed(SIGKILL));
    Ok(())
}

fn kill_request_on_the_running_does_nothing() -> Outcome {
    // "For historical reasons" it may not fail, and does nothing that can be relied on; since 5.18 it kills.
    let (pid, _gate) = seized(0, || 0)?;
    ptrace(KILL, pid, 0, 0)?;
    same!(next(pid)?, Killed(SIGKILL));
    Ok(())
}

extern "C" fn try_to_continue(pid: usize) -> i32 {
    let error = ptrace(CONT, pid as i32, 0, 0).err().map_or(0, |error| error.0);
    Shared::at(peek(pid_cell())).set(0, error as u32 + 1);
    sleep_on(0)
}

/// Where a case leaves the address of its shared page for a thread.
fn pid_cell() -> usize {
    use std::sync::atomic::AtomicUsize;
    static CELL: AtomicUsize = AtomicUsize::new(0);
    &raw const CELL as usize
}

fn another_thread_is_no_tracer() -> Outcome {
    let shared = Shared::new()?;
    poke(pid_cell(), shared.address(0));
    let pid = traced(|| 1)?;
    thread(try_to_continue, pid as usize)?;
    holds!(shared.wait_for(0, ESRCH as u32 + 1));
    same!(go(CONT, pid, 0)?, Exit(1));
    Ok(())
}

const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// Runs `body` in a user's process while the scope is `scope`.
fn within_scope(scope: &str, body: impl FnOnce() -> i32) -> Got<i32> {
    let file = open(SCOPE, O_WRONLY, 0)?;
    write(file, scope.as_bytes())?;
    let user = child(|| {
        let _ = become_user();
        let _ = sys!(SYS_prctl, PR_SET_DUMPABLE, 1);
        body()
    });
    let outcome = user.and_then(status);
    write(file, b"0")?;
    Ok(outcome?)
}

fn seize_error(pid: i32) -> i32 {
    ptrace(SEIZE, pid, 0, 0).err().map_or(0, |error| error.0)
}

fn scope_1_leaves_descendants() -> Outcome {
    let seen = within_scope("1", || {
        let (Ok((son, _gate)), Ok((brother, _other))) = (waiting(|| 0), waiting(|| 0)) else { return 99 };
        let from_brother = child(|| seize_error(son)).and_then(status);
        if from_brother != Ok(EPERM) || seize_error(brother) != 0 {
            return 98;
        }
        seize_error(son)
    })?;
    same!(seen, 0);
    Ok(())
}

fn scope_1_exempts_whom_the_process_names() -> Outcome {
    const PR_SET_PTRACER: i32 = 0x5961_6d61;
    let seen = within_scope("1", || {
        let me = getpid();
        let tries = |expected: i32| child(|| seize_error(me)).and_then(status) == Ok(expected);
        if !tries(EPERM) || sys!(SYS_prctl, PR_SET_PTRACER, 1 << 22) != Err(Errno(EINVAL)) {
            return 1;
        }
        if sys!(SYS_prctl, PR_SET_PTRACER, -1isize).is_err() || !tries(0) {
            return 2;
        }
        if sys!(SYS_prctl, PR_SET_PTRACER, 0).is_err() || !tries(EPERM) {
            return 3;
        }
        // Its descendants may do what the named one may.
        if sys!(SYS_prctl, PR_SET_PTRACER, me).is_err() || !tries(0) {
            return 4;
        }
        0
    })?;
    same!(seen, 0);
    Ok(())
}

fn scope_2_and_traceme() -> Outcome {
    let seen = within_scope("2", || {
        let of_child = child(|| ptrace(TRACEME, 0, 0, 0).err().map_or(0, |error| error.0)).and_then(status);
        let Ok((son, _gate)) = waiting(|| 0) else { return 99 };
        if of_child == Ok(EPERM) { seize_error(son) } else { 98 }
    })?;
    same!(seen, EPERM);
    Ok(())
}
