//! PTRACE_EVENT stops: fork, vfork, clone, exec, exit, seccomp, and the number that goes with each.

use super::*;
use crate::case::{Case, Outcome, cases, holds, same};

pub const CASES: &[Case] = cases![
    fork_names_the_child_which_is_traced,
    the_child_of_a_seized_one_stops_by_event,
    fork_without_the_option_is_not_told,
    the_child_inherits_options,
    vfork_and_vfork_done,
    vfork_done_comes_after_the_childs_exec,
    clone_names_the_thread,
    a_child_without_sigchld_is_a_clone,
    an_untraced_child_is_not_told,
    exec_names_the_former_thread,
    exec_without_the_option_is_a_sigtrap,
    exec_of_a_seized_one_without_the_option_is_not_told,
    a_failed_exec_is_not_told,
    exec_by_another_thread_takes_the_leaders_number,
    exit_tells_the_status,
    exit_by_a_signal_tells_it,
    exit_of_a_thread_is_told,
    exit_group_is_told_by_every_thread,
    at_exit_memory_and_registers_are_there,
    seccomp_tells_the_filters_data,
    seccomp_lets_the_number_be_changed,
    seccomp_lets_the_call_be_skipped,
    seccomp_without_the_option_is_enosys,
    seccomp_comes_after_the_entry_stop,
    options_can_be_taken_back,
    siginfo_of_an_event_has_its_number,
    events_can_be_followed_by_signals,
];

fn fork_names_the_child_which_is_traced() -> Outcome {
    let pid = traced_with(O_FORK, || {
        let Ok(pid) = child(|| 3) else { return 9 };
        status(pid).unwrap_or(8)
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_FORK));
    let young = message(pid)? as i32;
    same!(next(young)?, Stop(SIGSTOP));
    same!(siginfo(young)?.signo, SIGSTOP);
    same!(status_field(young, "PPid")?, pid.to_string());
    same!(status_field(young, "TracerPid")?, getpid().to_string());
    ptrace(CONT, pid, 0, 0)?;
    same!(go(CONT, young, 0)?, Exit(3));
    // SIGCHLD, which is told as every signal.
    same!(next(pid)?, Stop(SIGCHLD));
    same!(go(CONT, pid, SIGCHLD)?, Exit(3));
    Ok(())
}

fn the_child_of_a_seized_one_stops_by_event() -> Outcome {
    let (pid, gate) = seized(O_FORK, || {
        let _ = child(|| 4);
        0
    })?;
    gate.open()?;
    same!(next(pid)?, trap(EVENT_FORK));
    let young = message(pid)? as i32;
    same!(next(young)?, trap(EVENT_STOP));
    same!(go(CONT, young, 0)?, Exit(4));
    Ok(())
}

fn fork_without_the_option_is_not_told() -> Outcome {
    let pid = traced_with(O_VFORK | O_CLONE, || child(|| 5).and_then(status).unwrap_or(9))?;
    same!(go(CONT, pid, 0)?, Stop(SIGCHLD));
    same!(go(CONT, pid, 0)?, Exit(5));
    Ok(())
}

fn the_child_inherits_options() -> Outcome {
    let pid = traced_with(O_FORK | O_EXIT, || {
        let _ = child(|| 6);
        0
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_FORK));
    let young = message(pid)? as i32;
    same!(next(young)?, Stop(SIGSTOP));
    same!(go(CONT, young, 0)?, trap(EVENT_EXIT));
    same!(message(young)?, 6 << 8);
    same!(go(CONT, young, 0)?, Exit(6));
    Ok(())
}

extern "C" fn leave(code: usize) -> i32 {
    code as i32
}

fn vfork_by_clone(code: usize) -> Result<i32> {
    clone_on_stack(CLONE_VM | CLONE_VFORK | SIGCHLD, std::ptr::null_mut(), 0, leave, code)
}

fn vfork_and_vfork_done() -> Outcome {
    let pid = traced_with(O_VFORK | O_VFORKDONE, || {
        let _ = mask(SIG_BLOCK, bit(SIGCHLD));
        vfork_by_clone(7).and_then(status).unwrap_or(9)
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_VFORK));
    let young = message(pid)? as i32;
    same!(next(young)?, Stop(SIGSTOP));
    ptrace(CONT, pid, 0, 0)?;
    holds!(is_quiet(pid)?);
    same!(go(CONT, young, 0)?, Exit(7));
    same!(next(pid)?, trap(EVENT_VFORK_DONE));
    same!(message(pid)?, young as u64);
    same!(go(CONT, pid, 0)?, Exit(7));
    Ok(())
}

extern "C" fn exec_exit(code: usize) -> i32 {
    exec_helper(code)
}

/// Becomes `abitest helper:exit CODE`. Returns only when it cannot.
fn exec_helper(code: usize) -> i32 {
    let program = path("/proc/self/exe");
    let (argument, number) = (path("helper:exit"), path(&code.to_string()));
    let argv = [program.as_ptr(), argument.as_ptr(), number.as_ptr(), std::ptr::null()];
    let _ = sys!(SYS_execve, program.as_ptr(), argv.as_ptr(), 0);
    98
}

fn vfork_done_comes_after_the_childs_exec() -> Outcome {
    let pid = traced_with(O_VFORKDONE, || {
        let _ = mask(SIG_BLOCK, bit(SIGCHLD));
        clone_on_stack(CLONE_VM | CLONE_VFORK | SIGCHLD, std::ptr::null_mut(), 0, exec_exit, 8)
            .and_then(status)
            .unwrap_or(9)
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_VFORK_DONE));
    same!(go(CONT, pid, 0)?, Exit(8));
    Ok(())
}

fn clone_names_the_thread() -> Outcome {
    let pid = traced_with(O_CLONE, || {
        let _ = thread(leave, 0);
        sleep_ms(1000);
        9
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let tid = message(pid)? as i32;
    same!(next(tid)?, Stop(SIGSTOP));
    same!(status_field(tid, "Tgid")?, pid.to_string());
    ptrace(CONT, pid, 0, 0)?;
    same!(go(CONT, tid, 0)?, Exit(0));
    same!(next(pid)?, Exit(9));
    Ok(())
}

fn a_child_without_sigchld_is_a_clone() -> Outcome {
    let pid =
        traced_with(O_FORK | O_CLONE, || match clone(SIGUSR1, 0, std::ptr::null_mut(), std::ptr::null_mut(), 0) {
            Ok(0) => exit(2),
            _ => 1,
        })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let young = message(pid)? as i32;
    same!(next(young)?, Stop(SIGSTOP));
    same!(go(CONT, young, 0)?, Exit(2));
    Ok(())
}

fn an_untraced_child_is_not_told() -> Outcome {
    let pid = traced_with(O_FORK | O_CLONE, || {
        match clone(CLONE_UNTRACED | SIGCHLD, 0, std::ptr::null_mut(), std::ptr::null_mut(), 0) {
            Ok(0) => exit(3),
            Ok(pid) => status(pid).unwrap_or(9),
            Err(_) => 8,
        }
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGCHLD));
    same!(go(CONT, pid, 0)?, Exit(3));
    Ok(())
}

fn exec_names_the_former_thread() -> Outcome {
    let pid = traced_with(O_EXEC, || exec_helper(4))?;
    same!(go(CONT, pid, 0)?, trap(EVENT_EXEC));
    same!(message(pid)?, pid as u64);
    same!(go(CONT, pid, 0)?, Exit(4));
    Ok(())
}

fn exec_without_the_option_is_a_sigtrap() -> Outcome {
    let pid = traced(|| exec_helper(5))?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let info = siginfo(pid)?;
    same!((info.signo, info.code, info.pid()), (SIGTRAP, SI_USER, pid));
    same!(go(CONT, pid, 0)?, Exit(5));
    Ok(())
}

fn exec_of_a_seized_one_without_the_option_is_not_told() -> Outcome {
    let (pid, gate) = seized(0, || exec_helper(6))?;
    gate.open()?;
    same!(next(pid)?, Exit(6));
    Ok(())
}

fn a_failed_exec_is_not_told() -> Outcome {
    let pid = traced_with(O_EXEC, || {
        let argv = [std::ptr::null::<u8>()];
        i32::from(sys!(SYS_execve, path("/nowhere").as_ptr(), argv.as_ptr(), 0) == Err(Errno(ENOENT)))
    })?;
    same!(go(CONT, pid, 0)?, Exit(1));
    Ok(())
}

fn exec_by_another_thread_takes_the_leaders_number() -> Outcome {
    let pid = traced_with(O_CLONE | O_EXEC | O_EXIT, || {
        let _ = thread(exec_exit, 7);
        sleep_on(0)
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let tid = message(pid)? as i32;
    same!(next(tid)?, Stop(SIGSTOP));
    ptrace(CONT, pid, 0, 0)?;
    ptrace(CONT, tid, 0, 0)?;
    // The leader dies first, at its exit stop, ...
    same!(next(pid)?, trap(EVENT_EXIT));
    ptrace(CONT, pid, 0, 0)?;
    // ... and the next that bears its number is the thread, with a new program.
    same!(next(pid)?, trap(EVENT_EXEC));
    same!(message(pid)?, tid as u64);
    same!(status_field(pid, "Threads")?, "1");
    holds!(ptrace(CONT, tid, 0, 0) == Err(Errno(ESRCH)));
    same!(go(CONT, pid, 0)?, trap(EVENT_EXIT));
    same!(message(pid)?, 7 << 8);
    same!(go(CONT, pid, 0)?, Exit(7));
    Ok(())
}

fn exit_tells_the_status() -> Outcome {
    let pid = traced_with(O_EXIT, || 8)?;
    same!(go(CONT, pid, 0)?, trap(EVENT_EXIT));
    same!(message(pid)?, 8 << 8);
    same!(go(CONT, pid, 0)?, Exit(8));
    Ok(())
}

fn exit_by_a_signal_tells_it() -> Outcome {
    let pid = traced_with(O_EXIT, || {
        let _ = raise(SIGTERM);
        0
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGTERM));
    same!(go(CONT, pid, SIGTERM)?, trap(EVENT_EXIT));
    same!(message(pid)?, SIGTERM as u64);
    same!(go(CONT, pid, 0)?, Killed(SIGTERM));
    Ok(())
}

fn exit_of_a_thread_is_told() -> Outcome {
    let pid = traced_with(O_CLONE | O_EXIT, || {
        let _ = thread(leave, 9);
        sleep_on(0)
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let tid = message(pid)? as i32;
    same!(next(tid)?, Stop(SIGSTOP));
    ptrace(CONT, pid, 0, 0)?;
    same!(go(CONT, tid, 0)?, trap(EVENT_EXIT));
    same!(message(tid)?, 9 << 8);
    same!(go(CONT, tid, 0)?, Exit(9));
    kill(pid, SIGKILL)?;
    Ok(())
}

fn exit_group_is_told_by_every_thread() -> Outcome {
    let pid = traced_with(O_CLONE | O_EXIT, || {
        let _ = thread(sleep_on, 0);
        10
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let tid = message(pid)? as i32;
    same!(next(tid)?, Stop(SIGSTOP));
    ptrace(CONT, tid, 0, 0)?;
    same!(go(CONT, pid, 0)?, trap(EVENT_EXIT));
    same!(next(tid)?, trap(EVENT_EXIT));
    same!(message(tid)?, 10 << 8);
    same!(go(CONT, tid, 0)?, Exit(10));
    same!(go(CONT, pid, 0)?, Exit(10));
    Ok(())
}

fn at_exit_memory_and_registers_are_there() -> Outcome {
    let page = memory(4096)?;
    let pid = traced_with(O_EXIT, || {
        poke(page, 0x1234u64);
        0
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_EXIT));
    same!(word(pid, page)?, 0x1234);
    same!(registers(pid)?.x[8], SYS_exit_group as u64);
    Ok(())
}

/// Installs a filter that answers `action` for getppid.
fn filter(action: u32) -> i32 {
    #[repr(C)]
    struct Program(u16, *const (u16, u8, u8, u32));
    let code: [(u16, u8, u8, u32); 4] =
        [(0x20, 0, 0, 0), (0x15, 0, 1, SYS_getppid as u32), (6, 0, 0, action), (6, 0, 0, 0x7fff_0000)];
    // A tuple has no fixed layout; eight bytes each are written out.
    let words: Vec<u64> = code
        .iter()
        .map(|(op, yes, no, k)| u64::from(*op) | u64::from(*yes) << 16 | u64::from(*no) << 24 | u64::from(*k) << 32)
        .collect();
    let program = Program(4, words.as_ptr().cast());
    let _ = sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    i32::from(sys!(SYS_seccomp, 1, 0, &raw const program).is_err())
}

const RET_TRACE: u32 = 0x7ff0_0000;

/// A tracee whose getppid a filter hands to the tracer, and which exits with the result's low byte.
fn filtered(options: i32) -> Got<i32> {
    traced_with(options, || {
        if filter(RET_TRACE | 0x5a) != 0 {
            return 99;
        }
        raw(SYS_getppid, fill([0usize; 0])) as i32 & 0x7f
    })
}

fn seccomp_tells_the_filters_data() -> Outcome {
    let pid = filtered(O_SECCOMP)?;
    same!(go(CONT, pid, 0)?, trap(EVENT_SECCOMP));
    same!(message(pid)?, 0x5a);
    same!(registers(pid)?.x[8], SYS_getppid as u64);
    let mut info = [0u8; 88];
    same!(ptrace(GET_SYSCALL_INFO, pid, 88, info.as_mut_ptr())?, 84);
    same!((info[0], info[80]), (3, 0x5a));
    same!(go(CONT, pid, 0)?, Exit(getpid() & 0x7f));
    Ok(())
}

fn seccomp_lets_the_number_be_changed() -> Outcome {
    let pid = filtered(O_SECCOMP)?;
    same!(go(CONT, pid, 0)?, trap(EVENT_SECCOMP));
    set(pid, NT_ARM_SYSTEM_CALL, &(SYS_getpid as i32))?;
    same!(go(CONT, pid, 0)?, Exit(pid & 0x7f));
    Ok(())
}

fn seccomp_lets_the_call_be_skipped() -> Outcome {
    let pid = filtered(O_SECCOMP)?;
    same!(go(CONT, pid, 0)?, trap(EVENT_SECCOMP));
    set(pid, NT_ARM_SYSTEM_CALL, &-1i32)?;
    let mut now = registers(pid)?;
    now.x[0] = 77;
    set(pid, NT_PRSTATUS, &now)?;
    same!(go(CONT, pid, 0)?, Exit(77));
    Ok(())
}

fn seccomp_without_the_option_is_enosys() -> Outcome {
    let pid = filtered(0)?;
    same!(go(CONT, pid, 0)?, Exit(-ENOSYS & 0x7f));
    Ok(())
}

fn seccomp_comes_after_the_entry_stop() -> Outcome {
    let pid = traced_with(O_SECCOMP | O_SYSGOOD, || {
        if filter(RET_TRACE) != 0 {
            return 99;
        }
        let _ = raise(SIGUSR1);
        raw(SYS_getppid, fill([0usize; 0])) as i32 & 0x7f
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(registers(pid)?.x[8], SYS_getppid as u64);
    same!(go(SYSCALL, pid, 0)?, trap(EVENT_SECCOMP));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(registers(pid)?.x[0], getpid() as u64);
    Ok(())
}

fn options_can_be_taken_back() -> Outcome {
    let pid = traced_with(O_EXIT | O_FORK, || {
        let _ = child(|| 0);
        11
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_FORK));
    ptrace(SETOPTIONS, pid, 0, 0)?;
    let mut seen = go(CONT, pid, 0)?;
    if seen == Stop(SIGCHLD) {
        seen = go(CONT, pid, 0)?;
    }
    same!(seen, Exit(11));
    Ok(())
}

fn siginfo_of_an_event_has_its_number() -> Outcome {
    let pid = traced_with(O_EXIT, || 0)?;
    same!(go(CONT, pid, 0)?, trap(EVENT_EXIT));
    let info = siginfo(pid)?;
    same!((info.signo, info.code, info.pid()), (SIGTRAP, SIGTRAP | EVENT_EXIT << 8, pid));
    Ok(())
}

fn events_can_be_followed_by_signals() -> Outcome {
    let pid = traced_with(O_FORK, || {
        let _ = note_signal(SIGUSR1, 0);
        let _ = child(|| 0);
        count() as i32
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_FORK));
    // A signal that is given at an event is dropped.
    let mut seen = go(CONT, pid, SIGUSR1)?;
    if seen == Stop(SIGCHLD) {
        seen = go(CONT, pid, 0)?;
    }
    same!(seen, Exit(0));
    Ok(())
}
