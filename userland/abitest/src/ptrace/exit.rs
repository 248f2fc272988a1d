//! Ends: a tracer that goes, a tracee that is killed in each of its stops, and who is told of it.

use super::*;
use crate::case::{Case, Outcome, cases, fails, holds, same};

pub const CASES: &[Case] = cases![
    a_tracers_end_lets_the_tracee_run,
    a_tracers_end_leaves_a_group_stop,
    a_tracers_end_drops_a_signal_that_was_being_told,
    exitkill_takes_the_tracee_along,
    the_end_of_the_attaching_thread_detaches,
    the_tracers_exec_keeps_the_tracee,
    killed_in_a_signal_stop,
    killed_in_a_group_stop,
    killed_while_listening,
    killed_at_entry,
    killed_at_exit_of_a_call,
    killed_in_a_fork_event,
    killed_in_an_exec_event,
    killed_in_an_exit_event,
    killed_after_interrupt,
    killed_after_a_step,
    the_tracer_is_told_before_the_parent,
    the_parent_sees_nothing_of_stops,
    a_strangers_tracee_is_waited_for,
    a_tracer_is_told_by_sigchld,
    a_zombie_leader_waits_for_its_threads,
    wait_without_wall_finds_ptraced_clones,
    wnothread_sees_ones_own_tracees,
    requests_on_the_dead_are_esrch,
    group_exit_ends_stopped_threads,
];

/// A tracer in a process of its own, which seizes `pid`, does `what`, and then ends or goes on as that says.
fn tracer_of(pid: i32, options: i32, body: impl FnOnce() -> Got<()>) -> Got<i32> {
    let shared = Shared::new()?;
    let tracer = trial(|| {
        ptrace(SEIZE, pid, 0, options)?;
        body()?;
        shared.set(0, 1);
        shared.wait_for(0, 2);
        Ok(())
    })?;
    holds!(shared.wait_for(0, 1));
    shared.set(0, 2);
    same!(status(tracer)?, 0);
    Ok(tracer)
}

fn a_tracers_end_lets_the_tracee_run() -> Outcome {
    let (pid, gate) = waiting(|| 3)?;
    tracer_of(pid, 0, || {
        ptrace(INTERRUPT, pid, 0, 0)?;
        same!(next(pid)?, trap(EVENT_STOP));
        Ok(())
    })?;
    same!(status_field(pid, "TracerPid")?, "0");
    gate.open()?;
    same!(next(pid)?, Exit(3));
    Ok(())
}

fn a_tracers_end_leaves_a_group_stop() -> Outcome {
    let (pid, gate) = waiting(|| 4)?;
    tracer_of(pid, 0, || {
        kill(pid, SIGSTOP)?;
        same!(next(pid)?, Stop(SIGSTOP));
        same!(go(CONT, pid, SIGSTOP)?, Event(EVENT_STOP, SIGSTOP));
        Ok(())
    })?;
    holds!(settles(pid, "T")?);
    kill(pid, SIGCONT)?;
    gate.open()?;
    same!(next(pid)?, Exit(4));
    Ok(())
}

fn a_tracers_end_drops_a_signal_that_was_being_told() -> Outcome {
    let (pid, gate) = waiting(|| 5)?;
    tracer_of(pid, 0, || {
        kill(pid, SIGUSR1)?;
        same!(next(pid)?, Stop(SIGUSR1));
        Ok(())
    })?;
    gate.open()?;
    same!(next(pid)?, Exit(5));
    Ok(())
}

fn exitkill_takes_the_tracee_along() -> Outcome {
    for stopped in [false, true] {
        let (pid, _gate) = waiting(|| 6)?;
        tracer_of(pid, O_EXITKILL, || {
            if stopped {
                ptrace(INTERRUPT, pid, 0, 0)?;
                same!(next(pid)?, trap(EVENT_STOP));
            }
            Ok(())
        })?;
        same!(next(pid)?, Killed(SIGKILL));
    }
    Ok(())
}

extern "C" fn seize_and_leave(pid: usize) -> i32 {
    let seized = ptrace(SEIZE, pid as i32, 0, 0);
    let _ = ptrace(INTERRUPT, pid as i32, 0, 0);
    i32::from(seized.is_err())
}

fn the_end_of_the_attaching_thread_detaches() -> Outcome {
    let (pid, gate) = waiting(|| 7)?;
    thread(seize_and_leave, pid as usize)?;
    for _ in 0..1000 {
        if std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) == 1 {
            break;
        }
        sleep_ms(1);
    }
    for _ in 0..1000 {
        if status_field(pid, "TracerPid")? == "0" {
            break;
        }
        sleep_ms(1);
    }
    same!(status_field(pid, "TracerPid")?, "0");
    gate.open()?;
    same!(next(pid)?, Exit(7));
    Ok(())
}

fn the_tracers_exec_keeps_the_tracee() -> Outcome {
    let (pid, gate) = waiting(|| 8)?;
    let tracer = child(|| {
        if ptrace(SEIZE, pid, 0, 0).is_err() {
            return 99;
        }
        let program = path("/proc/self/exe");
        let argument = path("helper:threads");
        let argv = [program.as_ptr(), argument.as_ptr(), std::ptr::null()];
        let _ = close(1);
        let _ = sys!(SYS_execve, program.as_ptr(), argv.as_ptr(), 0);
        98
    })?;
    let mut name = String::new();
    for _ in 0..2000 {
        name = String::from_utf8_lossy(&content(&format!("/proc/{tracer}/cmdline"))?).into_owned();
        if name.contains("helper") {
            break;
        }
        sleep_ms(1);
    }
    holds!(name.contains("helper"));
    same!(status_field(pid, "TracerPid")?, tracer.to_string());
    same!(status(tracer)?, 0);
    gate.open()?;
    same!(next(pid)?, Exit(8));
    Ok(())
}

/// Kills a stopped tracee: nothing but that is told.
fn dies(pid: i32) -> Outcome {
    kill(pid, SIGKILL)?;
    same!(next(pid)?, Killed(SIGKILL));
    fails!(ptrace(CONT, pid, 0, 0), ESRCH);
    Ok(())
}

fn killed_in_a_signal_stop() -> Outcome {
    dies(traced(|| 0)?)
}

fn in_group_stop() -> Got<(i32, Gate)> {
    let (pid, gate) = seized(0, || 0)?;
    kill(pid, SIGSTOP)?;
    same!(next(pid)?, Stop(SIGSTOP));
    same!(go(CONT, pid, SIGSTOP)?, Event(EVENT_STOP, SIGSTOP));
    Ok((pid, gate))
}

fn killed_in_a_group_stop() -> Outcome {
    let (pid, _gate) = in_group_stop()?;
    dies(pid)
}

fn killed_while_listening() -> Outcome {
    let (pid, _gate) = in_group_stop()?;
    ptrace(LISTEN, pid, 0, 0)?;
    dies(pid)
}

fn killed_at_entry() -> Outcome {
    let page = Shared::new()?;
    let pid = traced_with(O_SYSGOOD, || {
        let _ = sys!(SYS_futex, page.address(0), FUTEX_WAKE, 1);
        0
    })?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    dies(pid)
}

fn killed_at_exit_of_a_call() -> Outcome {
    let pid = traced_with(O_SYSGOOD, || sys!(SYS_getppid).map_or(1, |_| 0))?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    dies(pid)
}

fn killed_in_a_fork_event() -> Outcome {
    let pid = traced_with(O_FORK, || {
        let _ = child(|| 0);
        0
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_FORK));
    let young = message(pid)? as i32;
    same!(next(young)?, Stop(SIGSTOP));
    dies(pid)?;
    dies(young)
}

fn killed_in_an_exec_event() -> Outcome {
    let pid = traced_with(O_EXEC, || {
        let program = path("/proc/self/exe");
        let argv = [program.as_ptr(), std::ptr::null()];
        let _ = sys!(SYS_execve, program.as_ptr(), argv.as_ptr(), 0);
        1
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_EXEC));
    dies(pid)
}

fn killed_in_an_exit_event() -> Outcome {
    let pid = traced_with(O_EXIT, || 9)?;
    same!(go(CONT, pid, 0)?, trap(EVENT_EXIT));
    kill(pid, SIGKILL)?;
    // It is on its way out with a status of its own. Linux drops the signal then, so that only CONT ends the stop.
    let _ = ptrace(CONT, pid, 0, 0);
    same!(next(pid)?, Exit(9));
    Ok(())
}

fn killed_after_interrupt() -> Outcome {
    let (pid, _gate) = seized(0, || 0)?;
    ptrace(INTERRUPT, pid, 0, 0)?;
    same!(next(pid)?, trap(EVENT_STOP));
    dies(pid)
}

fn killed_after_a_step() -> Outcome {
    let (pid, _) = ready(&[NOP, NOP], |_| {})?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    dies(pid)
}

fn the_tracer_is_told_before_the_parent() -> Outcome {
    let (pid, gate) = waiting(|| 2)?;
    let shared = Shared::new()?;
    let tracer = trial(|| {
        ptrace(SEIZE, pid, 0, 0)?;
        shared.set(0, 1);
        holds!(shared.wait_for(0, 2));
        same!(next(pid)?, Exit(2));
        Ok(())
    })?;
    holds!(shared.wait_for(0, 1));
    gate.open()?;
    holds!(settles(pid, "Z")?);
    // It is dead, and the parent hears nothing while the tracer has not looked.
    holds!(is_quiet(pid)?);
    shared.set(0, 2);
    same!(status(tracer)?, 0);
    same!(next(pid)?, Exit(2));
    Ok(())
}

fn the_parent_sees_nothing_of_stops() -> Outcome {
    let (pid, gate) = waiting(|| 3)?;
    let shared = Shared::new()?;
    let tracer = trial(|| {
        ptrace(ATTACH, pid, 0, 0)?;
        same!(next(pid)?, Stop(SIGSTOP));
        shared.set(0, 1);
        holds!(shared.wait_for(0, 2));
        ptrace(DETACH, pid, 0, 0)?;
        Ok(())
    })?;
    holds!(shared.wait_for(0, 1));
    sleep_ms(20);
    same!(sys!(SYS_wait4, pid, 0, WNOHANG | WUNTRACED, 0)?, 0);
    shared.set(0, 2);
    same!(status(tracer)?, 0);
    gate.open()?;
    same!(next(pid)?, Exit(3));
    Ok(())
}

fn a_strangers_tracee_is_waited_for() -> Outcome {
    let (pid, gate) = waiting(|| 4)?;
    let tracer = trial(|| {
        fails!(sys!(SYS_wait4, pid, 0, __WALL | WNOHANG, 0), ECHILD);
        ptrace(SEIZE, pid, 0, O_EXIT)?;
        gate.open()?;
        let mut status = 0;
        same!(sys!(SYS_wait4, -1, &raw mut status, __WALL, 0)?, pid as usize);
        same!(what(status), trap(EVENT_EXIT));
        same!(go(CONT, pid, 0)?, Exit(4));
        fails!(sys!(SYS_wait4, -1, 0, __WALL, 0), ECHILD);
        Ok(())
    })?;
    same!(status(tracer)?, 0);
    same!(next(pid)?, Exit(4));
    Ok(())
}

fn a_tracer_is_told_by_sigchld() -> Outcome {
    note_signal(SIGCHLD, 0)?;
    let (pid, _gate) = seized(0, || 0)?;
    kill(pid, SIGUSR1)?;
    same!(next(pid)?, Stop(SIGUSR1));
    for _ in 0..1000 {
        if count() > 0 {
            break;
        }
        sleep_ms(1);
    }
    use std::sync::atomic::Ordering::SeqCst;
    const CLD_TRAPPED: i32 = 4;
    same!((seen::CODE.load(SeqCst), seen::PID.load(SeqCst), seen::STATUS.load(SeqCst)), (CLD_TRAPPED, pid, SIGUSR1));
    // Who does not want stops of children is not told of a tracee's, either.
    note_signal(SIGCHLD, SA_NOCLDSTOP)?;
    let before = count();
    ptrace(CONT, pid, 0, 0)?;
    kill(pid, SIGUSR2)?;
    same!(next(pid)?, Stop(SIGUSR2));
    sleep_ms(20);
    same!(count(), before);
    Ok(())
}

fn a_zombie_leader_waits_for_its_threads() -> Outcome {
    let pid = traced_with(O_CLONE, || {
        let _ = thread(sleep_on, 0);
        let _ = sys!(SYS_exit, 3);
        0
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let tid = message(pid)? as i32;
    same!(next(tid)?, Stop(SIGSTOP));
    ptrace(CONT, tid, 0, 0)?;
    ptrace(CONT, pid, 0, 0)?;
    holds!(settles(pid, "Z")?);
    // Not told until the last thread is gone.
    holds!(is_quiet(pid)?);
    kill(pid, SIGKILL)?;
    same!(next(tid)?, Killed(SIGKILL));
    same!(next(pid)?, Killed(SIGKILL));
    Ok(())
}

fn wait_without_wall_finds_ptraced_clones() -> Outcome {
    let pid = traced_with(O_CLONE, || {
        let _ = thread(sleep_on, 0);
        0
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let tid = message(pid)? as i32;
    // A tracer waits for its tracees whatever their exit signal is (Linux 4.7: __WALL is implied).
    let mut status = 0;
    same!(sys!(SYS_wait4, tid, &raw mut status, 0, 0)?, tid as usize);
    same!(what(status), Stop(SIGSTOP));
    Ok(())
}

extern "C" fn wait_in_a_thread(pid: usize) -> i32 {
    const __WNOTHREAD: i32 = 0x2000_0000;
    let mine = sys!(SYS_wait4, pid as i32, 0, __WALL | WNOHANG | __WNOTHREAD, 0);
    let any = sys!(SYS_wait4, pid as i32, 0, __WALL | WNOHANG, 0);
    let verdict = u32::from(mine == Err(Errno(ECHILD))) + 2 * u32::from(any == Ok(pid));
    Shared::at(peek(cell())).set(0, verdict + 1);
    sleep_on(0)
}

/// Where a case leaves the address of its shared page for a thread.
fn cell() -> usize {
    use std::sync::atomic::AtomicUsize;
    static CELL: AtomicUsize = AtomicUsize::new(0);
    &raw const CELL as usize
}

fn wnothread_sees_ones_own_tracees() -> Outcome {
    let shared = Shared::new()?;
    poke(cell(), shared.address(0));
    let (pid, _gate) = seized(0, || 0)?;
    kill(pid, SIGUSR1)?;
    holds!(settles(pid, "t")?);
    thread(wait_in_a_thread, pid as usize)?;
    for _ in 0..2000 {
        if shared.get(0) != 0 {
            break;
        }
        sleep_ms(1);
    }
    same!(shared.get(0), 4);
    Ok(())
}

fn requests_on_the_dead_are_esrch() -> Outcome {
    let pid = traced(|| 0)?;
    ptrace(CONT, pid, 0, 0)?;
    holds!(settles(pid, "Z")?);
    for request in [PEEKDATA, CONT, DETACH, GETSIGINFO, GETREGSET, SETOPTIONS] {
        fails!(ptrace(request, pid, 0, 0), ESRCH);
    }
    same!(next(pid)?, Exit(0));
    Ok(())
}

fn group_exit_ends_stopped_threads() -> Outcome {
    let pid = traced_with(O_CLONE, || {
        let _ = thread(sleep_on, 0);
        6
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let tid = message(pid)? as i32;
    same!(next(tid)?, Stop(SIGSTOP));
    // The thread is left stopped: the process's end takes it along.
    ptrace(CONT, pid, 0, 0)?;
    same!(next(tid)?, Exit(6));
    same!(next(pid)?, Exit(6));
    Ok(())
}
