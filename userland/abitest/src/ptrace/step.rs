//! One instruction at a time, and the debug registers: PTRACE_SINGLESTEP, NT_ARM_HW_BREAK, NT_ARM_HW_WATCH.

use super::*;
use crate::case::{Case, Outcome, cases, fails, holds, same};

pub const CASES: &[Case] = cases![
    a_step_is_one_instruction,
    a_step_takes_a_branch,
    a_step_makes_a_call,
    steps_go_through_an_exclusive_pair,
    a_step_onto_a_breakpoint,
    a_step_goes_into_a_handler,
    a_step_that_faults_tells_the_fault,
    cont_ends_stepping,
    stepping_after_a_syscall_stop,
    stepping_out_of_an_event,
    the_step_flag_is_not_the_programs_to_see,
    a_child_does_not_inherit_stepping,
    exec_does_not_step,
    a_breakpoint_stops_before_the_instruction,
    a_disabled_breakpoint_does_not_stop,
    breakpoints_are_checked,
    a_breakpoint_is_stepped_over,
    a_watched_store_stops,
    a_watched_load_stops,
    loads_pass_a_store_watch,
    watched_bytes_are_exact,
    a_watchpoint_is_one_threads,
    a_child_does_not_inherit_debug_registers,
    exec_clears_debug_registers,
    all_slots_can_be_used,
    more_slots_than_there_are,
];

/// TRAP_TRACE and TRAP_HWBKPT.
const TRACE: i32 = 2;
const HARDWARE: i32 = 4;

fn pc(pid: i32) -> Result<u64> {
    registers(pid).map(|now| now.pc)
}

fn a_step_is_one_instruction() -> Outcome {
    let (pid, start) = ready(&[NOP, movz(0, 5), NOP], |now| now.x[0] = 1)?;
    for (steps, x0) in [(1, 1), (2, 5), (3, 5)] {
        same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
        let info = siginfo(pid)?;
        same!((info.code, info.address()), (TRACE, start + 4 * steps));
        let now = registers(pid)?;
        same!((now.pc, now.x[0]), (start + 4 * steps, x0));
    }
    Ok(())
}

fn a_step_takes_a_branch() -> Outcome {
    // b +12; cbz x0, -8; ret
    let (pid, start) = ready(&[0x1400_0003, NOP, NOP, 0xb4ff_ffe0, NOP], |now| (now.x[0], now.x[30]) = (0, 0))?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, start + 12);
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, start + 8);
    Ok(())
}

fn a_step_makes_a_call() -> Outcome {
    let (pid, start) = ready(&[SVC, NOP, BRK], |now| now.x[8] = SYS_getpid as u64)?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    let now = registers(pid)?;
    same!((now.pc, now.x[0]), (start + 4, pid as u64));
    // Linux tells the end of the call and then the step once more.
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    if pc(pid)? == start + 4 {
        same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    }
    same!(pc(pid)?, start + 8);
    Ok(())
}

fn steps_go_through_an_exclusive_pair() -> Outcome {
    let page = memory(4096)?;
    // ldxr x1, [x2]; add x1, x1, #1; stxr w3, x1, [x2]
    let (pid, start) = ready(&[0xc85f_7c41, 0x9100_0421, 0xc803_7c41, NOP], |now| {
        now.x[2] = page as u64;
        now.x[3] = 9;
    })?;
    for steps in 1..=3 {
        same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
        same!(pc(pid)?, start + 4 * steps);
    }
    // The exception between them may have cleared the monitor: either way the store tells the truth.
    let now = registers(pid)?;
    holds!(now.x[3] <= 1);
    same!(word(pid, page)?, 1 - now.x[3]);
    Ok(())
}

fn a_step_onto_a_breakpoint() -> Outcome {
    let (pid, start) = ready(&[NOP, BRK], |_| {})?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    same!((pc(pid)?, siginfo(pid)?.code), (start + 4, TRACE));
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    same!((pc(pid)?, siginfo(pid)?.code), (start + 4, 1));
    Ok(())
}

fn a_step_goes_into_a_handler() -> Outcome {
    let pid = traced(|| {
        let _ = note_signal(SIGUSR1, 0);
        let _ = raise(SIGUSR1);
        count() as i32
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    same!(go(SINGLESTEP, pid, SIGUSR1)?, Stop(SIGTRAP));
    let now = registers(pid)?;
    same!((now.pc, now.x[0]), (note as *const () as u64, SIGUSR1 as u64));
    same!(go(CONT, pid, 0)?, Exit(1));
    Ok(())
}

fn a_step_that_faults_tells_the_fault() -> Outcome {
    // ldr x1, [x2]
    let (pid, start) = ready(&[0xf940_0041], |now| now.x[2] = 0x10)?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGSEGV));
    same!((pc(pid)?, siginfo(pid)?.address()), (start, 0x10));
    Ok(())
}

fn cont_ends_stepping() -> Outcome {
    let (pid, start) = ready(&[NOP, NOP, NOP, NOP, BRK], |_| {})?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, start + 4);
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!((pc(pid)?, siginfo(pid)?.code), (start + 16, 1));
    Ok(())
}

fn stepping_after_a_syscall_stop() -> Outcome {
    let (pid, start) = ready(&[SVC, NOP, NOP], |now| now.x[8] = SYS_getpid as u64)?;
    ptrace(SETOPTIONS, pid, 0, O_SYSGOOD)?;
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(SYSCALL, pid, 0)?, Stop(SYSTRAP));
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, start + 8);
    Ok(())
}

fn stepping_out_of_an_event() -> Outcome {
    let (pid, gate) = seized(0, || 0)?;
    holds!(settles(pid, "S")?);
    ptrace(INTERRUPT, pid, 0, 0)?;
    same!(next(pid)?, trap(EVENT_STOP));
    // The read is restarted and then sleeps: the step is over when it comes back.
    ptrace(SINGLESTEP, pid, 0, 0)?;
    holds!(is_quiet(pid)?);
    gate.open()?;
    same!(next(pid)?, Stop(SIGTRAP));
    same!(registers(pid)?.x[0], 1);
    Ok(())
}

fn the_step_flag_is_not_the_programs_to_see() -> Outcome {
    let (pid, _) = ready(&[NOP, NOP], |_| {})?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    // PSTATE.SS.
    let now = registers(pid)?;
    set(pid, NT_PRSTATUS, &Registers { pstate: now.pstate | 1 << 21, ..now })?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, now.pc + 4);
    Ok(())
}

fn a_child_does_not_inherit_stepping() -> Outcome {
    // clone(SIGCHLD, 0...), then the child's exit_group(3) and the parent's breakpoint.
    let words = [SVC, 0xb500_0080, movz(0, 3), movz(8, SYS_exit_group as u32), SVC, BRK];
    let (pid, start) = ready(&words, |now| {
        now.x[0] = SIGCHLD as u64;
        now.x[1] = 0;
        now.x[8] = SYS_clone as u64;
    })?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, start + 4);
    let mut seen = go(CONT, pid, 0)?;
    if seen == Stop(SIGCHLD) {
        seen = go(CONT, pid, 0)?;
    }
    same!((seen, pc(pid)?), (Stop(SIGTRAP), start + 20));
    // An untraced child that a step trap hit would have died of SIGTRAP.
    let young = registers(pid)?.x[0] as i32;
    let mut ended = false;
    for _ in 0..1000 {
        ended =
            std::fs::read_to_string(format!("/proc/{young}/stat")).is_ok_and(|text| text.trim_end().ends_with(" 768"));
        if ended {
            break;
        }
        sleep_ms(1);
    }
    holds!(ended);
    Ok(())
}

fn exec_does_not_step() -> Outcome {
    let pid = traced_with(O_EXEC, || {
        let program = path("/proc/self/exe");
        let (argument, number) = (path("helper:exit"), path("6"));
        let argv = [program.as_ptr(), argument.as_ptr(), number.as_ptr(), std::ptr::null()];
        let _ = raise(SIGUSR1);
        let _ = sys!(SYS_execve, program.as_ptr(), argv.as_ptr(), 0);
        1
    })?;
    same!(go(CONT, pid, 0)?, Stop(SIGUSR1));
    let mut steps = 0;
    let mut seen = go(SINGLESTEP, pid, 0)?;
    while seen == Stop(SIGTRAP) && steps < 10_000 {
        steps += 1;
        seen = go(SINGLESTEP, pid, 0)?;
    }
    same!(seen, trap(EVENT_EXEC));
    same!(go(CONT, pid, 0)?, Exit(6));
    Ok(())
}

/// `struct user_hwdebug_state` with two slots.
type Debug = [u64; 5];

/// Enabled, for user code: E, PAC for EL0; what is watched; which bytes.
const fn control(kind: u64, bytes: u64) -> u64 {
    1 | 2 << 1 | kind << 3 | bytes << 5
}

const EXECUTE: u64 = 0;
const LOAD: u64 = 1;
const STORE: u64 = 2;

fn set_debug(pid: i32, kind: i32, slots: &[(u64, u64)]) -> Result<usize> {
    let mut state: Debug = [0; 5];
    for (index, (address, control)) in slots.iter().enumerate() {
        state[1 + 2 * index] = *address;
        state[2 + 2 * index] = *control;
    }
    set_part(pid, kind, &state, 8 + 16 * slots.len())
}

fn a_breakpoint_stops_before_the_instruction() -> Outcome {
    let (pid, start) = ready(&[NOP, movz(0, 9), BRK], |now| now.x[0] = 1)?;
    set_debug(pid, NT_ARM_HW_BREAK, &[(start + 4, control(EXECUTE, 15))])?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let info = siginfo(pid)?;
    same!((info.code, info.address()), (HARDWARE, start + 4));
    let now = registers(pid)?;
    same!((now.pc, now.x[0]), (start + 4, 1));
    Ok(())
}

fn a_disabled_breakpoint_does_not_stop() -> Outcome {
    let (pid, start) = ready(&[NOP, NOP, BRK], |_| {})?;
    set_debug(pid, NT_ARM_HW_BREAK, &[(start + 4, control(EXECUTE, 15))])?;
    set_debug(pid, NT_ARM_HW_BREAK, &[(start + 4, control(EXECUTE, 15) & !1)])?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, start + 8);
    Ok(())
}

fn breakpoints_are_checked() -> Outcome {
    let pid = traced(|| 0)?;
    // Memory of the kernel; the watch types in a breakpoint set.
    fails!(set_debug(pid, NT_ARM_HW_BREAK, &[(0xffff_0000_0000_0000, control(EXECUTE, 15))]), EINVAL);
    fails!(set_debug(pid, NT_ARM_HW_WATCH, &[(0xffff_0000_0000_0000, control(STORE, 255))]), EINVAL);
    fails!(set_debug(pid, NT_ARM_HW_BREAK, &[(0x1000, control(STORE, 15))]), EINVAL);
    fails!(set_debug(pid, NT_ARM_HW_WATCH, &[(0x1000, control(EXECUTE, 15))]), EINVAL);
    Ok(())
}

fn a_breakpoint_is_stepped_over() -> Outcome {
    let (pid, start) = ready(&[NOP, NOP, NOP, BRK], |_| {})?;
    let on = [(start + 4, control(EXECUTE, 15))];
    set_debug(pid, NT_ARM_HW_BREAK, &on)?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, start + 4);
    // As gdb does: off, one step, on.
    set_debug(pid, NT_ARM_HW_BREAK, &[(0, 0)])?;
    same!(go(SINGLESTEP, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, start + 8);
    set_debug(pid, NT_ARM_HW_BREAK, &on)?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!(pc(pid)?, start + 12);
    Ok(())
}

/// A tracee about to run `words` with x2 at a page, with a watchpoint on it.
fn watching(words: &[u32], slots: impl Fn(u64) -> (u64, u64)) -> Got<(i32, u64, u64)> {
    let page = memory(4096)? as u64;
    poke(page as usize, 0u64);
    let (pid, start) = ready(words, |now| (now.x[1], now.x[2]) = (7, page))?;
    set_debug(pid, NT_ARM_HW_WATCH, &[slots(page)])?;
    Ok((pid, start, page))
}

/// str x1, [x2] and ldr x3, [x2].
const STR: u32 = 0xf900_0041;
const LDR: u32 = 0xf940_0043;

fn a_watched_store_stops() -> Outcome {
    let (pid, start, page) = watching(&[NOP, STR, BRK], |page| (page, control(STORE, 255)))?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let info = siginfo(pid)?;
    same!((info.code, info.address(), pc(pid)?), (HARDWARE, page, start + 4));
    // The store has not been made yet.
    same!(word(pid, page as usize)?, 0);
    Ok(())
}

fn a_watched_load_stops() -> Outcome {
    let (pid, start, page) = watching(&[STR, LDR, BRK], |page| (page, control(LOAD, 255)))?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!((siginfo(pid)?.address(), pc(pid)?), (page, start + 4));
    Ok(())
}

fn loads_pass_a_store_watch() -> Outcome {
    let (pid, start, _) = watching(&[LDR, LDR, BRK], |page| (page, control(STORE, 255)))?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!((siginfo(pid)?.code, pc(pid)?), (1, start + 8));
    Ok(())
}

fn watched_bytes_are_exact() -> Outcome {
    // strb w1, [x2, #3]; strb w1, [x2, #4]
    let (pid, start, page) = watching(&[0x3900_0c41, 0x3900_1041, BRK], |page| (page + 4, control(STORE, 1)))?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!((siginfo(pid)?.address(), pc(pid)?), (page + 4, start + 4));
    Ok(())
}

fn a_watchpoint_is_one_threads() -> Outcome {
    let page = memory(4096)?;
    let pid = traced_with(O_CLONE, move || {
        let _ = thread(store_into, page);
        sleep_ms(500);
        poke(page, 2u64);
        0
    })?;
    same!(go(CONT, pid, 0)?, trap(EVENT_CLONE));
    let tid = message(pid)? as i32;
    same!(next(tid)?, Stop(SIGSTOP));
    set_debug(tid, NT_ARM_HW_WATCH, &[(page as u64, control(STORE, 255))])?;
    ptrace(CONT, pid, 0, 0)?;
    same!(go(CONT, tid, 0)?, Stop(SIGTRAP));
    same!(siginfo(tid)?.address(), page as u64);
    ptrace(KILL, tid, 0, 0)?;
    Ok(())
}

extern "C" fn store_into(page: usize) -> i32 {
    poke(page, 1u64);
    0
}

fn a_child_does_not_inherit_debug_registers() -> Outcome {
    let page = memory(4096)?;
    let pid = traced(move || {
        child(|| {
            poke(page, 1u64);
            4
        })
        .and_then(status)
        .unwrap_or(9)
    })?;
    set_debug(pid, NT_ARM_HW_WATCH, &[(page as u64, control(STORE, 255))])?;
    same!(go(CONT, pid, 0)?, Stop(SIGCHLD));
    same!(go(CONT, pid, 0)?, Exit(4));
    Ok(())
}

fn exec_clears_debug_registers() -> Outcome {
    let pid = traced_with(O_EXEC, || {
        let program = path("/proc/self/exe");
        let (argument, number) = (path("helper:exit"), path("6"));
        let argv = [program.as_ptr(), argument.as_ptr(), number.as_ptr(), std::ptr::null()];
        let _ = sys!(SYS_execve, program.as_ptr(), argv.as_ptr(), 0);
        1
    })?;
    set_debug(pid, NT_ARM_HW_BREAK, &[(0x1000, control(EXECUTE, 15))])?;
    same!(go(CONT, pid, 0)?, trap(EVENT_EXEC));
    let mut state: Debug = [0; 5];
    get(pid, NT_ARM_HW_BREAK, &mut state)?;
    same!(&state[1..], [0; 4].as_slice());
    Ok(())
}

fn all_slots_can_be_used() -> Outcome {
    let (pid, start) = ready(&[NOP; 8], |_| {})?;
    let mut state = [0u64; 33];
    get(pid, NT_ARM_HW_BREAK, &mut state)?;
    let slots = (state[0] & 0xff) as usize;
    for slot in 0..slots {
        state[1 + 2 * slot] = start + 4 * slot as u64;
        state[2 + 2 * slot] = control(EXECUTE, 15);
    }
    set_part(pid, NT_ARM_HW_BREAK, &state, 8 + 16 * slots)?;
    let mut again = [0u64; 33];
    get(pid, NT_ARM_HW_BREAK, &mut again)?;
    for slot in 0..slots {
        same!(again[1 + 2 * slot], start + 4 * slot as u64);
        same!(again[2 + 2 * slot] & 1, 1);
    }
    Ok(())
}

fn more_slots_than_there_are() -> Outcome {
    let pid = traced(|| 0)?;
    let mut state = [0u64; 33];
    get(pid, NT_ARM_HW_WATCH, &mut state)?;
    let slots = (state[0] & 0xff) as usize;
    state = [0; 33];
    same!(set_part(pid, NT_ARM_HW_WATCH, &state, 8 + 16 * slots)?, 8 + 16 * slots);
    if slots < 16 {
        fails!(set_part(pid, NT_ARM_HW_WATCH, &state, 8 + 16 * (slots + 1)), ENOSPC);
    }
    Ok(())
}
