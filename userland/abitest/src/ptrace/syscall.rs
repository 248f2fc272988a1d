//! System-call stops: PTRACE_SYSCALL, PTRACE_SYSEMU, the number that can be changed, PTRACE_GET_SYSCALL_INFO.

use super::*;
use crate::case::{Case, Outcome, cases, fails, same};

pub const CASES: &[Case] = cases![
    entry_and_exit_alternate,
    without_sysgood_it_is_a_plain_sigtrap,
    x7_tells_entry_from_exit,
    the_number_is_in_x8_and_in_its_set,
    the_number_can_be_changed,
    minus_one_skips_the_call,
    a_skipped_call_returns_what_the_tracer_sets,
    arguments_can_be_changed,
    the_result_can_be_changed,
    an_unknown_call_has_both_stops,
    exit_has_no_second_stop,
    a_signal_comes_between_entry_and_exit,
    a_restarted_call_stops_again,
    cont_after_entry_leaves_the_exit_out,
    syscall_info_of_entry,
    syscall_info_of_exit,
    syscall_info_of_a_failed_call,
    syscall_info_outside_a_call,
    syscall_info_is_cut_to_size,
    siginfo_of_a_syscall_stop,
    sysemu_makes_no_call,
    a_seized_one_stops_at_calls_too,
    exec_returns_with_new_registers,
    fork_returns_in_both,
];

/// A tracee with PTRACE_O_TRACESYSGOOD that will call `number` with `argument` once and exit with the result's low byte.
fn calling(number: c_long, argument: usize) -> Got<i32> {
    traced_with(O_SYSGOOD, move || raw(number, fill([argument])) as i32 & 0x7f)
}

fn entry_and_exit_alternate() -> Outcome {
    let pid = calling(SYS_getppid, 0)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(registers(pid)?.x[8], SYS_getppid as u64);
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(registers(pid)?.x[0], getpid() as u64);
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(registers(pid)?.x[8], SYS_exit_group as u64);
    same!(go(SYSCALL, pid, 0)?, Exit(getpid() & 0x7f));
    Ok(())
}

fn without_sysgood_it_is_a_plain_sigtrap() -> Outcome {
    let pid = traced(|| raw(SYS_getppid, fill([0usize; 0])) as i32 & 0x7f)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SIGTRAP));
    same!(go(SYSCALL, pid, 0)?, Stop(SIGTRAP));
    Ok(())
}

fn x7_tells_entry_from_exit() -> Outcome {
    let (pid, _) = ready(&[SVC, BRK], |now| {
        now.x[8] = SYS_getpid as u64;
        now.x[7] = 0x77;
    })?;
    same!(go(SYSCALL, pid, 0)?, Stop(SIGTRAP));
    same!(registers(pid)?.x[7], 0);
    same!(go(SYSCALL, pid, 0)?, Stop(SIGTRAP));
    same!(registers(pid)?.x[7], 1);
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!(registers(pid)?.x[7], 0x77);
    Ok(())
}

fn call_number(pid: i32) -> Result<i32> {
    let mut number = 0i32;
    get(pid, NT_ARM_SYSTEM_CALL, &mut number)?;
    Ok(number)
}

fn the_number_is_in_x8_and_in_its_set() -> Outcome {
    let pid = calling(SYS_getppid, 0)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(call_number(pid)?, SYS_getppid as i32);
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(call_number(pid)?, SYS_getppid as i32);
    Ok(())
}

fn the_number_can_be_changed() -> Outcome {
    let pid = calling(SYS_getppid, 0)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    set(pid, NT_ARM_SYSTEM_CALL, &(SYS_getpid as i32))?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    let now = registers(pid)?;
    same!(now.x[0], pid as u64);
    // What changed is the call, not the register.
    same!(now.x[8], SYS_getppid as u64);
    Ok(())
}

fn minus_one_skips_the_call() -> Outcome {
    let pid = calling(SYS_getppid, 31)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    set(pid, NT_ARM_SYSTEM_CALL, &-1i32)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    // Its first argument is the result, unless the tracer sets one.
    same!(registers(pid)?.x[0], 31);
    Ok(())
}

fn a_skipped_call_returns_what_the_tracer_sets() -> Outcome {
    let pid = calling(SYS_getppid, 0)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    set(pid, NT_ARM_SYSTEM_CALL, &-1i32)?;
    let mut now = registers(pid)?;
    now.x[0] = 33;
    set(pid, NT_PRSTATUS, &now)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(registers(pid)?.x[0], 33);
    same!(go(CONT, pid, 0)?, Exit(33));
    Ok(())
}

fn arguments_can_be_changed() -> Outcome {
    let pid = calling(SYS_exit_group, 1)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    let mut now = registers(pid)?;
    same!(now.x[0], 1);
    now.x[0] = 44;
    set(pid, NT_PRSTATUS, &now)?;
    same!(go(CONT, pid, 0)?, Exit(44));
    Ok(())
}

fn the_result_can_be_changed() -> Outcome {
    let pid = calling(SYS_getppid, 0)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    let mut now = registers(pid)?;
    now.x[0] = 55;
    set(pid, NT_PRSTATUS, &now)?;
    same!(go(CONT, pid, 0)?, Exit(55));
    Ok(())
}

fn an_unknown_call_has_both_stops() -> Outcome {
    let pid = calling(5000, 0)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(call_number(pid)?, 5000);
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(registers(pid)?.x[0] as i64, -i64::from(ENOSYS));
    Ok(())
}

fn exit_has_no_second_stop() -> Outcome {
    let pid = calling(SYS_exit_group, 3)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(SYSCALL, pid, 0)?, Exit(3));
    Ok(())
}

fn a_signal_comes_between_entry_and_exit() -> Outcome {
    let pid = traced_with(O_SYSGOOD, || {
        let _ = raise(SIGUSR1);
        0
    })?;
    // getpid, then kill.
    for _ in 0..3 {
        same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    }
    same!(call_number(pid)?, SYS_kill as i32);
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(SYSCALL, pid, 0)?, Stop(SIGUSR1));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(call_number(pid)?, SYS_exit_group as i32);
    Ok(())
}

fn a_restarted_call_stops_again() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let pid = traced_with(O_SYSGOOD, || read(reader, &mut [0]).map_or(9, |count| count as i32))?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    ptrace(SYSCALL, pid, 0, 0)?;
    assert_sleeps(pid)?;
    kill(pid, SIGCHLD)?;
    same!(next(pid)?, Stop(SYSTRAP));
    const ERESTARTSYS: i64 = 512;
    same!(registers(pid)?.x[0] as i64, -ERESTARTSYS);
    same!(go(SYSCALL, pid, 0)?, Stop(SIGCHLD));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(call_number(pid)?, SYS_read as i32);
    write(writer, b"x")?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(CONT, pid, 0)?, Exit(1));
    Ok(())
}

fn assert_sleeps(pid: i32) -> Outcome {
    same!(settles(pid, "S")?, true);
    Ok(())
}

fn cont_after_entry_leaves_the_exit_out() -> Outcome {
    let pid = traced_with(O_SYSGOOD, || {
        let _ = sys!(SYS_getppid);
        let _ = raise(SIGUSR1);
        0
    })?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    // An entry again.
    same!(registers(pid)?.x[7], 0);
    Ok(())
}

/// `struct ptrace_syscall_info`.
#[derive(Clone, Copy)]
#[repr(C)]
struct CallInfo {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    pc: u64,
    sp: u64,
    data: [u64; 8],
}

fn call_info(pid: i32) -> Result<(usize, CallInfo)> {
    let mut info: CallInfo = zeroed();
    let size = ptrace(GET_SYSCALL_INFO, pid, size_of::<CallInfo>(), &raw mut info)?;
    Ok((size, info))
}

fn syscall_info_of_entry() -> Outcome {
    let (pid, start) = ready(&[SVC, BRK], |now| {
        now.x[8] = SYS_getppid as u64;
        for index in 0..6 {
            now.x[index] = 100 + index as u64;
        }
    })?;
    ptrace(SETOPTIONS, pid, 0, O_SYSGOOD)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    let (size, info) = call_info(pid)?;
    same!((size, info.op, info.arch), (80, 1, 0xc000_00b7));
    same!((info.pc, info.sp), (start + 4, registers(pid)?.sp));
    same!(&info.data[..7], [SYS_getppid as u64, 100, 101, 102, 103, 104, 105].as_slice());
    Ok(())
}

fn syscall_info_of_exit() -> Outcome {
    let pid = calling(SYS_getppid, 0)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    let (size, info) = call_info(pid)?;
    same!((size, info.op), (33, 2));
    same!((info.data[0], info.data[1] as u8), (getpid() as u64, 0));
    Ok(())
}

fn syscall_info_of_a_failed_call() -> Outcome {
    let pid = calling(SYS_close, usize::MAX)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    let (size, info) = call_info(pid)?;
    same!((size, info.op), (33, 2));
    same!((info.data[0] as i64, info.data[1] as u8), (-i64::from(EBADF), 1));
    Ok(())
}

fn syscall_info_outside_a_call() -> Outcome {
    let pid = traced_with(O_SYSGOOD, || 0)?;
    let (size, info) = call_info(pid)?;
    same!((size, info.op), (24, 0));
    same!(info.pc, registers(pid)?.pc);
    Ok(())
}

fn syscall_info_is_cut_to_size() -> Outcome {
    let pid = calling(SYS_getppid, 0)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    let mut bytes = [0xffu8; 16];
    same!(ptrace(GET_SYSCALL_INFO, pid, 8, bytes.as_mut_ptr())?, 80);
    same!((bytes[0], bytes[8]), (1, 0xff));
    same!(ptrace(GET_SYSCALL_INFO, pid, 0, 0)?, 80);
    fails!(ptrace(GET_SYSCALL_INFO, pid, 80, 8), EFAULT);
    Ok(())
}

fn siginfo_of_a_syscall_stop() -> Outcome {
    let pid = calling(SYS_getppid, 0)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    let info = siginfo(pid)?;
    same!((info.signo, info.code), (SIGTRAP, SYSTRAP));
    Ok(())
}

fn sysemu_makes_no_call() -> Outcome {
    let pid = traced_with(O_SYSGOOD, || {
        let _ = sys!(SYS_exit_group, 1);
        12
    })?;
    // One stop a call, and the call is not made.
    same!(go(SYSEMU, pid, 0)?, Stop(SYSTRAP));
    same!(registers(pid)?.x[8], SYS_exit_group as u64);
    let mut now = registers(pid)?;
    now.x[0] = 0;
    set(pid, NT_PRSTATUS, &now)?;
    same!(go(SYSEMU, pid, 0)?, Stop(SYSTRAP));
    same!(go(CONT, pid, 0)?, Exit(12));
    Ok(())
}

fn a_seized_one_stops_at_calls_too() -> Outcome {
    let (pid, gate) = seized(O_SYSGOOD, || 13)?;
    assert_sleeps(pid)?;
    ptrace(INTERRUPT, pid, 0, 0)?;
    same!(next(pid)?, trap(EVENT_STOP));
    ptrace(SYSCALL, pid, 0, 0)?;
    // The read that was interrupted begins again.
    same!(next(pid)?, Stop(SYSTRAP));
    same!(call_number(pid)?, SYS_read as i32);
    gate.open()?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(CONT, pid, 0)?, Exit(13));
    Ok(())
}

fn exec_returns_with_new_registers() -> Outcome {
    let pid = traced_with(O_SYSGOOD | O_EXEC, || {
        let program = path(&own_path());
        let argument = path("helper:exit");
        let number = path("5");
        let argv = [program.as_ptr(), argument.as_ptr(), number.as_ptr(), std::ptr::null()];
        let _ = sys!(SYS_execve, program.as_ptr(), argv.as_ptr(), 0);
        1
    })?;
    loop {
        same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
        if call_number(pid)? == SYS_execve as i32 {
            break;
        }
    }
    same!(go(SYSCALL, pid, 0)?, trap(EVENT_EXEC));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    let now = registers(pid)?;
    same!((now.x[0], now.x[30]), (0, 0));
    same!(go(CONT, pid, 0)?, Exit(5));
    Ok(())
}

fn fork_returns_in_both() -> Outcome {
    let pid = traced_with(O_SYSGOOD | O_FORK, || {
        let _ = child(|| 0);
        0
    })?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(SYSCALL, pid, 0)?, trap(EVENT_FORK));
    let young = message(pid)? as i32;
    same!(next(young)?, Stop(SIGSTOP));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(registers(pid)?.x[0], young as u64);
    // The child comes out of no call that it entered: its first stop is an entry... or the exit of clone, as on Linux.
    same!(registers(young)?.x[0], 0);
    same!(go(SYSCALL, young, 0)?, Stop(SYSTRAP));
    same!(registers(young)?.x[8] == SYS_clone as u64 || registers(young)?.x[8] == SYS_exit_group as u64, true);
    Ok(())
}
