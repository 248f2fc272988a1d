//! Signal-delivery-stop, group-stop, PTRACE_INTERRUPT and PTRACE_LISTEN, and what wait(2) says of them.

use super::*;
use crate::case::{Case, Outcome, cases, fails, holds, same};

pub const CASES: &[Case] = cases![
    a_signal_stops_before_it_is_delivered,
    a_signal_is_suppressed,
    another_signal_is_injected,
    an_injected_signal_that_is_blocked_waits,
    a_signal_is_given_again_unchanged,
    ignored_signals_are_told_too,
    blocked_signals_are_not_told,
    a_fatal_signal_kills_when_it_is_given,
    sigkill_is_not_told,
    siginfo_tells_the_sender,
    siginfo_can_be_replaced,
    siginfo_without_a_signal_is_einval,
    a_traceme_group_stop_has_no_siginfo,
    a_seized_group_stop_is_an_event,
    sigcont_ends_a_group_stop_of_a_running_one,
    listen_keeps_the_stop_and_tells_of_its_end,
    listen_outside_group_stop_is_eio,
    interrupt_stops_the_seized,
    interrupt_ends_listen,
    an_interrupted_sleep_is_restarted,
    an_interrupted_read_is_restarted,
    interrupt_is_told_once,
    sigcont_is_told,
    stop_signals_of_the_terminal_stop_too,
    peeksiginfo_lists_the_queue,
    peeksiginfo_checks_its_arguments,
    the_mask_is_read_and_set,
    the_mask_has_eight_bytes,
    a_fault_tells_its_address,
    a_breakpoint_is_a_sigtrap,
    waitid_calls_it_trapped,
    wnowait_leaves_the_stop,
    a_stop_is_told_once,
    every_thread_stops_for_itself,
    real_time_signals_come_one_by_one,
];

/// A tracee with [`note`] as handler of SIGUSR1 and SIGUSR2, which raises SIGUSR1 and exits with what was seen.
fn noting() -> Got<i32> {
    traced(|| {
        let _ = note_signal(SIGUSR1, 0);
        let _ = note_signal(SIGUSR2, 0);
        let _ = raise(SIGUSR1);
        seen::ORDER.load(std::sync::atomic::Ordering::SeqCst) as i32
    })
}

fn a_signal_stops_before_it_is_delivered() -> Outcome {
    let pid = noting()?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    same!(go(CONT, pid, SIGUSR1)?, Exit(SIGUSR1));
    Ok(())
}

fn a_signal_is_suppressed() -> Outcome {
    let pid = noting()?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    same!(go(CONT, pid, 0)?, Exit(0));
    Ok(())
}

fn another_signal_is_injected() -> Outcome {
    let pid = traced(|| {
        let _ = note_signal(SIGUSR2, 0);
        let _ = raise(SIGUSR1);
        let from_tracer = seen::PID.load(std::sync::atomic::Ordering::SeqCst) == sys!(SYS_getppid).unwrap_or(0) as i32
            && seen::CODE.load(std::sync::atomic::Ordering::SeqCst) == SI_USER;
        if count() == 1 && from_tracer { 1 } else { 2 }
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    same!(go(CONT, pid, SIGUSR2)?, Exit(1));
    Ok(())
}

fn an_injected_signal_that_is_blocked_waits() -> Outcome {
    let pid = traced(|| {
        let _ = note_signal(SIGUSR2, 0);
        let _ = mask(SIG_BLOCK, bit(SIGUSR2));
        let _ = raise(SIGUSR1);
        let waits = count() == 0 && pending().is_ok_and(|set| set == bit(SIGUSR2));
        let _ = mask(SIG_UNBLOCK, bit(SIGUSR2));
        if waits { count() as i32 } else { 9 }
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    same!(go(CONT, pid, SIGUSR2)?, Stop(SIGUSR2));
    same!(go(CONT, pid, SIGUSR2)?, Exit(1));
    Ok(())
}

fn a_signal_is_given_again_unchanged() -> Outcome {
    let pid = traced(|| {
        let _ = note_signal(SIGUSR1, 0);
        let info = [SIGUSR1 as u64, SI_QUEUE as u32 as u64, getpid() as u64, 0x1234];
        let _ = sys!(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, info.as_ptr());
        let value = seen::VALUE.load(std::sync::atomic::Ordering::SeqCst);
        if value == 0x1234 { 1 } else { 2 }
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    let info = siginfo(pid)?;
    same!((info.code, info.words[1]), (SI_QUEUE, 0x1234));
    same!(go(CONT, pid, SIGUSR1)?, Exit(1));
    Ok(())
}

fn ignored_signals_are_told_too() -> Outcome {
    let pid = traced(|| {
        let _ = sigaction(SIGUSR1, SIG_IGN, 0, 0);
        let _ = raise(SIGUSR1);
        let _ = raise(SIGCHLD);
        3
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    same!(go(CONT, pid, SIGUSR1)?, Stop(SIGCHLD));
    same!(go(CONT, pid, SIGCHLD)?, Exit(3));
    Ok(())
}

fn blocked_signals_are_not_told() -> Outcome {
    let pid = traced(|| {
        let _ = mask(SIG_BLOCK, bit(SIGUSR1));
        let _ = raise(SIGUSR1);
        let _ = raise(SIGUSR2);
        let _ = mask(SIG_UNBLOCK, bit(SIGUSR1));
        4
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR2));
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    same!(go(CONT, pid, 0)?, Exit(4));
    Ok(())
}

fn a_fatal_signal_kills_when_it_is_given() -> Outcome {
    let pid = traced(|| {
        let _ = raise(SIGTERM);
        let _ = raise(SIGTERM);
        0
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGTERM));
    same!(go(CONT, pid, 0)?, Stop(SIGTERM));
    same!(go(CONT, pid, SIGTERM)?, Killed(SIGTERM));
    Ok(())
}

fn sigkill_is_not_told() -> Outcome {
    let pid = traced(|| {
        let _ = raise(SIGKILL);
        0
    })?;
    same!(go(CONT, pid, 0)?, Killed(SIGKILL));
    Ok(())
}

fn siginfo_tells_the_sender() -> Outcome {
    let (pid, _gate) = seized(0, || 0)?;
    kill(pid, SIGUSR1)?;
    same!(next(pid)?, Stop(SIGUSR1));
    let info = siginfo(pid)?;
    same!((info.signo, info.errno, info.code, info.pid()), (SIGUSR1, 0, SI_USER, getpid()));
    Ok(())
}

fn siginfo_can_be_replaced() -> Outcome {
    let pid = noting()?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    let mut info = siginfo(pid)?;
    info.signo = SIGUSR2;
    info.code = 77;
    ptrace(SETSIGINFO, pid, 0, &raw const info)?;
    same!(siginfo(pid)?.code, 77);
    // The number given with CONT is another than siginfo's now: it comes with a siginfo of its own.
    same!(go(CONT, pid, SIGUSR2)?, Exit(SIGUSR2));
    fails!(ptrace(SETSIGINFO, pid, 0, &raw const info), ESRCH);
    Ok(())
}

fn siginfo_without_a_signal_is_einval() -> Outcome {
    let pid = traced(|| 0)?;
    fails!(ptrace(GETSIGINFO, pid, 0, 8), EFAULT);
    fails!(ptrace(SETSIGINFO, pid, 0, 8), EFAULT);
    Ok(())
}

fn a_traceme_group_stop_has_no_siginfo() -> Outcome {
    let pid = traced(|| 5)?;
    same!(siginfo(pid)?.signo, SIGSTOP);
    // Given, the signal stops the process: a second stop, told apart by this error alone.
    same!(go(CONT, pid, SIGSTOP)?, Stop(SIGSTOP));
    fails!(siginfo(pid), EINVAL);
    same!(state(pid)?, "t");
    same!(go(CONT, pid, 0)?, Exit(5));
    Ok(())
}

fn a_seized_group_stop_is_an_event() -> Outcome {
    let (pid, gate) = seized(0, || 6)?;
    for signal in [SIGSTOP, SIGTSTP, SIGTTIN] {
        // An orphaned group is not stopped by a terminal's signals: this one's parent is in another session's group.
        kill(pid, signal)?;
        same!(next(pid)?, Stop(signal));
        if signal == SIGSTOP {
            same!(go(CONT, pid, signal)?, Event(EVENT_STOP, signal));
            same!(siginfo(pid)?.code, signal | EVENT_STOP << 8);
        }
        ptrace(CONT, pid, 0, 0)?;
        kill(pid, SIGCONT)?;
        let mut seen = next(pid)?;
        if seen == trap(EVENT_STOP) {
            seen = go(CONT, pid, 0)?;
        }
        same!(seen, Stop(SIGCONT));
        ptrace(CONT, pid, 0, 0)?;
    }
    gate.open()?;
    same!(next(pid)?, Exit(6));
    Ok(())
}

fn sigcont_ends_a_group_stop_of_a_running_one() -> Outcome {
    let (pid, gate) = seized(0, || 7)?;
    kill(pid, SIGSTOP)?;
    same!(next(pid)?, Stop(SIGSTOP));
    same!(go(CONT, pid, SIGSTOP)?, Event(EVENT_STOP, SIGSTOP));
    // CONT out of a group stop lets it run, whatever the rest of the group does.
    ptrace(CONT, pid, 0, 0)?;
    gate.open()?;
    same!(next(pid)?, Exit(7));
    Ok(())
}

fn listen_keeps_the_stop_and_tells_of_its_end() -> Outcome {
    let (pid, gate) = seized(0, || 8)?;
    kill(pid, SIGSTOP)?;
    same!(next(pid)?, Stop(SIGSTOP));
    same!(go(CONT, pid, SIGSTOP)?, Event(EVENT_STOP, SIGSTOP));
    ptrace(LISTEN, pid, 0, 0)?;
    fails!(ptrace(CONT, pid, 0, 0), ESRCH);
    holds!(is_quiet(pid)?);
    gate.open()?;
    holds!(is_quiet(pid)?);
    kill(pid, SIGCONT)?;
    same!(next(pid)?, trap(EVENT_STOP));
    same!(go(CONT, pid, 0)?, Stop(SIGCONT));
    same!(go(CONT, pid, SIGCONT)?, Exit(8));
    Ok(())
}

fn listen_outside_group_stop_is_eio() -> Outcome {
    let (pid, _gate) = seized(0, || 0)?;
    kill(pid, SIGUSR1)?;
    same!(next(pid)?, Stop(SIGUSR1));
    fails!(ptrace(LISTEN, pid, 0, 0), EIO);
    Ok(())
}

fn interrupt_stops_the_seized() -> Outcome {
    let (pid, gate) = seized(0, || 9)?;
    ptrace(INTERRUPT, pid, 0, 0)?;
    same!(next(pid)?, trap(EVENT_STOP));
    let info = siginfo(pid)?;
    same!((info.signo, info.code), (SIGTRAP, SIGTRAP | EVENT_STOP << 8));
    same!(state(pid)?, "t");
    ptrace(CONT, pid, 0, 0)?;
    gate.open()?;
    same!(next(pid)?, Exit(9));
    Ok(())
}

fn interrupt_ends_listen() -> Outcome {
    let (pid, _gate) = seized(0, || 0)?;
    kill(pid, SIGSTOP)?;
    same!(next(pid)?, Stop(SIGSTOP));
    same!(go(CONT, pid, SIGSTOP)?, Event(EVENT_STOP, SIGSTOP));
    ptrace(LISTEN, pid, 0, 0)?;
    ptrace(INTERRUPT, pid, 0, 0)?;
    same!(next(pid)?, Event(EVENT_STOP, SIGSTOP));
    Ok(())
}

fn an_interrupted_sleep_is_restarted() -> Outcome {
    let pid = child(|| {
        let before = now_ns(CLOCK_MONOTONIC).unwrap_or(0);
        let time = timespec_ms(200);
        let slept = sys!(SYS_nanosleep, &raw const time, 0);
        let took = now_ns(CLOCK_MONOTONIC).unwrap_or(0) - before;
        i32::from(slept.is_err() || took < 200_000_000)
    })?;
    ptrace(SEIZE, pid, 0, 0)?;
    for _ in 0..3 {
        holds!(settles(pid, "S")?);
        ptrace(INTERRUPT, pid, 0, 0)?;
        same!(next(pid)?, trap(EVENT_STOP));
        ptrace(CONT, pid, 0, 0)?;
    }
    same!(next(pid)?, Exit(0));
    Ok(())
}

fn an_interrupted_read_is_restarted() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let pid = child(|| {
        let mut byte = [0];
        i32::from(read(reader, &mut byte) != Ok(1))
    })?;
    holds!(settles(pid, "S")?);
    ptrace(ATTACH, pid, 0, 0)?;
    same!(next(pid)?, Stop(SIGSTOP));
    ptrace(CONT, pid, 0, 0)?;
    holds!(settles(pid, "S")?);
    write(writer, b"x")?;
    same!(next(pid)?, Exit(0));
    Ok(())
}

fn interrupt_is_told_once() -> Outcome {
    let (pid, gate) = seized(0, || 1)?;
    kill(pid, SIGUSR1)?;
    same!(next(pid)?, Stop(SIGUSR1));
    // It is stopped: the trap waits for the next way out.
    ptrace(INTERRUPT, pid, 0, 0)?;
    ptrace(INTERRUPT, pid, 0, 0)?;
    same!(go(CONT, pid, 0)?, trap(EVENT_STOP));
    ptrace(CONT, pid, 0, 0)?;
    holds!(is_quiet(pid)?);
    gate.open()?;
    same!(next(pid)?, Exit(1));
    Ok(())
}

fn sigcont_is_told() -> Outcome {
    let pid = traced(|| {
        let _ = note_signal(SIGCONT, 0);
        let _ = raise(SIGCONT);
        count() as i32
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGCONT));
    same!(go(CONT, pid, SIGCONT)?, Exit(1));
    Ok(())
}

fn stop_signals_of_the_terminal_stop_too() -> Outcome {
    let pid = traced(|| {
        let _ = sys!(SYS_setpgid, 0, 0);
        let _ = raise(SIGTSTP);
        2
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGTSTP));
    same!(go(CONT, pid, SIGTSTP)?, Stop(SIGTSTP));
    fails!(siginfo(pid), EINVAL);
    same!(go(CONT, pid, 0)?, Exit(2));
    Ok(())
}

/// `struct ptrace_peeksiginfo_args`.
#[repr(C)]
struct Peek {
    offset: u64,
    flags: u32,
    count: i32,
}

fn peek_queue(pid: i32, offset: u64, flags: u32, count: i32) -> Result<Vec<i32>> {
    let query = Peek { offset, flags, count };
    let mut infos: [Info; 8] = zeroed();
    let found = ptrace(PEEKSIGINFO, pid, &raw const query, infos.as_mut_ptr())?;
    Ok(infos[..found].iter().map(|info| info.signo).collect())
}

fn peeksiginfo_lists_the_queue() -> Outcome {
    let pid = traced(|| {
        let _ = mask(SIG_BLOCK, u64::MAX);
        let _ = sys!(SYS_tgkill, getpid(), getpid(), SIGUSR1);
        let _ = sys!(SYS_tgkill, getpid(), getpid(), 40);
        let _ = raise(SIGUSR2);
        let _ = raise(41);
        let _ = mask(SIG_UNBLOCK, bit(SIGTERM));
        let _ = sys!(SYS_tgkill, getpid(), getpid(), SIGTERM);
        0
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGTERM));
    same!(peek_queue(pid, 0, 0, 8)?, [SIGUSR1, 40]);
    same!(peek_queue(pid, 1, 0, 8)?, [40]);
    same!(peek_queue(pid, 0, 0, 1)?, [SIGUSR1]);
    same!(peek_queue(pid, 0, 1, 8)?, [SIGUSR2, 41]);
    same!(peek_queue(pid, 5, 0, 8)?, []);
    Ok(())
}

fn peeksiginfo_checks_its_arguments() -> Outcome {
    let pid = traced(|| 0)?;
    fails!(peek_queue(pid, 0, 2, 8), EINVAL);
    fails!(peek_queue(pid, 0, 0, -1), EINVAL);
    fails!(ptrace(PEEKSIGINFO, pid, 8, 8), EFAULT);
    same!(peek_queue(pid, u64::MAX, 0, 8)?, []);
    Ok(())
}

fn the_mask_is_read_and_set() -> Outcome {
    let pid = traced(|| {
        let _ = mask(SIG_SETMASK, bit(SIGUSR1));
        let _ = raise(SIGCONT);
        i32::from(mask(SIG_BLOCK, 0) != Ok(bit(SIGUSR2)))
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGCONT));
    let mut set = 0u64;
    ptrace(GETSIGMASK, pid, 8, &raw mut set)?;
    same!(set, bit(SIGUSR1));
    // SIGKILL and SIGSTOP cannot be blocked.
    let new = bit(SIGUSR2) | bit(SIGKILL) | bit(SIGSTOP);
    ptrace(SETSIGMASK, pid, 8, &raw const new)?;
    ptrace(GETSIGMASK, pid, 8, &raw mut set)?;
    same!(set, bit(SIGUSR2));
    same!(go(CONT, pid, 0)?, Exit(0));
    Ok(())
}

fn the_mask_has_eight_bytes() -> Outcome {
    let pid = traced(|| 0)?;
    let mut set = 0u64;
    for size in [0, 4, 16] {
        fails!(ptrace(GETSIGMASK, pid, size, &raw mut set), EINVAL);
        fails!(ptrace(SETSIGMASK, pid, size, &raw const set), EINVAL);
    }
    fails!(ptrace(GETSIGMASK, pid, 8, 8), EFAULT);
    fails!(ptrace(SETSIGMASK, pid, 8, 8), EFAULT);
    Ok(())
}

fn a_fault_tells_its_address() -> Outcome {
    let pid = traced(|| {
        // std has a handler, for stacks that overflow.
        let _ = sigaction(SIGSEGV, SIG_DFL, 0, 0);
        touch(0x123);
        0
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGSEGV));
    let info = siginfo(pid)?;
    same!((info.signo, info.code, info.address()), (SIGSEGV, 1, 0x123));
    same!(go(CONT, pid, SIGSEGV)?, Killed(SIGSEGV));
    Ok(())
}

fn a_breakpoint_is_a_sigtrap() -> Outcome {
    let (pid, start) = ready(&[NOP, BRK], |_| {})?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let info = siginfo(pid)?;
    // TRAP_BRKPT.
    same!((info.signo, info.code, info.address()), (SIGTRAP, 1, start + 4));
    same!(registers(pid)?.pc, start + 4);
    Ok(())
}

fn waitid_calls_it_trapped() -> Outcome {
    let (pid, _gate) = seized(0, || 0)?;
    kill(pid, SIGUSR1)?;
    let mut info = [0i32; 32];
    sys!(SYS_waitid, P_PID, pid, info.as_mut_ptr(), WSTOPPED, 0)?;
    const CLD_TRAPPED: i32 = 4;
    same!((info[0], info[2], info[4], info[6]), (SIGCHLD, CLD_TRAPPED, pid, SIGUSR1));
    Ok(())
}

fn wnowait_leaves_the_stop() -> Outcome {
    let (pid, _gate) = seized(0, || 0)?;
    kill(pid, SIGUSR1)?;
    let mut info = [0i32; 32];
    for _ in 0..3 {
        sys!(SYS_waitid, P_PID, pid, info.as_mut_ptr(), WSTOPPED | WNOWAIT, 0)?;
        same!(info[6], SIGUSR1);
    }
    same!(next(pid)?, Stop(SIGUSR1));
    holds!(is_quiet(pid)?);
    Ok(())
}

fn a_stop_is_told_once() -> Outcome {
    let pid = traced(|| 0)?;
    holds!(is_quiet(pid)?);
    // Without WUNTRACED too: a tracer is told of every stop.
    same!(go(CONT, pid, 0)?, Exit(0));
    fails!(sys!(SYS_wait4, pid, 0, __WALL, 0), ECHILD);
    Ok(())
}

fn every_thread_stops_for_itself() -> Outcome {
    let pid = traced_with(O_CLONE, || {
        let _ = thread(sleep_on, 0);
        let _ = raise(SIGCONT);
        5
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let tid = message(pid)? as i32;
    same!(next(tid)?, Stop(SIGSTOP));
    same!(go(CONT, pid, 0)?, Stop(SIGCONT));
    // The process runs while its thread is stopped.
    same!(state(tid)?, "t");
    ptrace(CONT, tid, 0, 0)?;
    ptrace(CONT, pid, 0, 0)?;
    same!(next(tid)?, Exit(5));
    same!(next(pid)?, Exit(5));
    Ok(())
}

fn real_time_signals_come_one_by_one() -> Outcome {
    let pid = traced(|| {
        let _ = mask(SIG_BLOCK, bit(40));
        for _ in 0..3 {
            let _ = raise(40);
        }
        let _ = mask(SIG_UNBLOCK, bit(40));
        6
    })?;
    for _ in 0..3 {
        same!(go(CONT, pid, 0)?, Stop(40));
    }
    same!(go(CONT, pid, 0)?, Exit(6));
    Ok(())
}
