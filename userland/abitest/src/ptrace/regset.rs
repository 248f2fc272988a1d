//! Registers and memory: PTRACE_GETREGSET and SETREGSET with each set of arm64, PEEK and POKE.

use super::*;
use crate::case::{Case, Outcome, cases, fails, holds, same};

pub const CASES: &[Case] = cases![
    prstatus_has_the_registers,
    registers_are_set,
    a_short_buffer_gets_the_start,
    a_long_buffer_is_told_the_length,
    sizes_are_whole_registers,
    a_short_set_changes_the_start,
    unknown_sets_are_einval,
    bad_pointers_are_efault,
    the_processor_state_is_checked,
    condition_flags_can_be_set,
    fp_registers_are_read,
    fp_registers_are_set,
    a_part_of_fp_is_set,
    tls_is_read_and_set,
    the_call_number_outside_a_call,
    debug_sets_tell_their_slots,
    peek_and_poke_words,
    words_need_not_be_aligned,
    words_cross_pages,
    holes_are_eio,
    read_only_memory_is_poked,
    code_is_poked_and_run,
    shared_read_only_memory_is_not_poked,
    a_poke_does_not_reach_the_file,
    the_parents_memory_stays,
    the_user_area_is_eio,
    registers_of_a_sleeping_one,
];

fn prstatus_has_the_registers() -> Outcome {
    let (pid, start) = ready(&[movz(5, 0x1234), BRK], |now| now.x[20] = 0xabcd_ef01_2345_6789)?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let mut now: Registers = zeroed();
    same!(get(pid, NT_PRSTATUS, &mut now)?, 272);
    same!((now.x[5], now.x[20], now.pc), (0x1234, 0xabcd_ef01_2345_6789, start + 4));
    holds!(now.sp != 0 && now.sp.is_multiple_of(16));
    same!(now.pstate & 0xf, 0);
    Ok(())
}

fn registers_are_set() -> Outcome {
    // mov x0, x19; mov x8, x20; svc
    let (pid, _) = ready(&[0xaa13_03e0, 0xaa14_03e8, SVC], |now| {
        now.x[19] = 21;
        now.x[20] = SYS_exit_group as u64;
    })?;
    same!(go(CONT, pid, 0)?, Exit(21));
    Ok(())
}

fn a_short_buffer_gets_the_start() -> Outcome {
    let (pid, _) = ready(&[NOP], |now| (now.x[0], now.x[1], now.x[2]) = (11, 12, 13))?;
    let mut three = [0u64; 3];
    same!(get_part(pid, NT_PRSTATUS, &mut three, 16)?, 16);
    same!(three, [11, 12, 0]);
    Ok(())
}

fn a_long_buffer_is_told_the_length() -> Outcome {
    let pid = traced(|| 0)?;
    let mut long = [0u64; 100];
    same!(get(pid, NT_PRSTATUS, &mut long)?, 272);
    same!(get(pid, NT_PRFPREG, &mut long)?, 528);
    Ok(())
}

fn sizes_are_whole_registers() -> Outcome {
    let pid = traced(|| 0)?;
    let mut buffer = [0u64; 40];
    for length in [1, 4, 271, 273] {
        fails!(get_part(pid, NT_PRSTATUS, &mut buffer, length), EINVAL);
        fails!(set_part(pid, NT_PRSTATUS, &buffer, length), EINVAL);
    }
    same!(get_part(pid, NT_PRSTATUS, &mut buffer, 0)?, 0);
    Ok(())
}

fn a_short_set_changes_the_start() -> Outcome {
    let (pid, _) = ready(&[NOP], |now| (now.x[0], now.x[1], now.x[2]) = (1, 2, 3))?;
    same!(set_part(pid, NT_PRSTATUS, &[31u64, 32], 16)?, 16);
    let now = registers(pid)?;
    same!((now.x[0], now.x[1], now.x[2]), (31, 32, 3));
    Ok(())
}

fn unknown_sets_are_einval() -> Outcome {
    let pid = traced(|| 0)?;
    let mut buffer = [0u64; 40];
    // NT_PRPSINFO, NT_TASKSTRUCT, an x86 set.
    for kind in [0, 3, 4, 0x202, 0x4ff, -1] {
        fails!(get(pid, kind, &mut buffer), EINVAL);
        fails!(set(pid, kind, &buffer), EINVAL);
    }
    Ok(())
}

fn bad_pointers_are_efault() -> Outcome {
    let pid = traced(|| 0)?;
    fails!(ptrace(GETREGSET, pid, NT_PRSTATUS, 8), EFAULT);
    let vector = [8usize, 272];
    fails!(ptrace(GETREGSET, pid, NT_PRSTATUS, vector.as_ptr()), EFAULT);
    fails!(ptrace(SETREGSET, pid, NT_PRSTATUS, vector.as_ptr()), EFAULT);
    Ok(())
}

fn the_processor_state_is_checked() -> Outcome {
    let pid = traced(|| 0)?;
    let now = registers(pid)?;
    // Another exception level; AArch32; interrupts masked.
    for bits in [5, 0x10, 0x80, 0x3c0] {
        fails!(set(pid, NT_PRSTATUS, &Registers { pstate: bits, ..now }), EINVAL);
    }
    same!(registers(pid)?, now);
    Ok(())
}

fn condition_flags_can_be_set() -> Outcome {
    // b.eq over one instruction: x0 is 1 or 2.
    let words = [movz(0, 1), 0x5400_0040, movz(0, 2), BRK];
    for (flags, expected) in [(1 << 30, 1), (0, 2)] {
        let (pid, _) = ready(&words, |now| now.pstate = flags)?;
        same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
        same!(registers(pid)?.x[0], expected);
    }
    Ok(())
}

/// `struct user_fpsimd_state`.
#[derive(Clone, Copy)]
#[repr(C)]
struct FpState {
    v: [[u64; 2]; 32],
    fpsr: u32,
    fpcr: u32,
    reserved: [u32; 2],
}

fn fp_registers_are_read() -> Outcome {
    // fmov d7, x1; fmov v7.d[1], x2
    let (pid, _) = ready(&[0x9e67_0027, 0x9eaf_0047, BRK], |now| (now.x[1], now.x[2]) = (0x1111, 0x2222))?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let mut state: FpState = zeroed();
    same!(get(pid, NT_PRFPREG, &mut state)?, 528);
    same!(state.v[7], [0x1111, 0x2222]);
    Ok(())
}

fn fp_registers_are_set() -> Outcome {
    // fmov x0, d31; fmov x1, v31.d[1]; mrs x2, fpcr
    let (pid, _) = ready(&[0x9e66_03e0, 0x9eae_03e1, 0xd53b_4402, BRK], |_| {})?;
    let mut state: FpState = zeroed();
    get(pid, NT_PRFPREG, &mut state)?;
    state.v[31] = [77, 88];
    state.fpcr = 1 << 24;
    same!(set(pid, NT_PRFPREG, &state)?, 528);
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let now = registers(pid)?;
    same!((now.x[0], now.x[1], now.x[2]), (77, 88, 1 << 24));
    Ok(())
}

fn a_part_of_fp_is_set() -> Outcome {
    let (pid, _) = ready(&[0x9e67_0027, BRK], |now| now.x[1] = 5)?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!(set_part(pid, NT_PRFPREG, &[1u64, 2, 3, 4], 32)?, 32);
    let mut state: FpState = zeroed();
    get(pid, NT_PRFPREG, &mut state)?;
    same!((state.v[0], state.v[1], state.v[7]), ([1, 2], [3, 4], [5, 0]));
    fails!(set_part(pid, NT_PRFPREG, &state, 2), EINVAL);
    Ok(())
}

fn tls_is_read_and_set() -> Outcome {
    // mrs x0, tpidr_el0
    let (pid, _) = ready(&[0xd53b_d040, BRK], |_| {})?;
    let mut tls = 0u64;
    same!(get(pid, NT_ARM_TLS, &mut tls)?, 8);
    same!(tls, thread_pointer() as u64);
    same!(set(pid, NT_ARM_TLS, &0x1234_5670u64)?, 8);
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!(registers(pid)?.x[0], 0x1234_5670);
    Ok(())
}

fn the_call_number_outside_a_call() -> Outcome {
    let (pid, _) = ready(&[BRK], |_| {})?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let mut number = 0i32;
    same!(get(pid, NT_ARM_SYSTEM_CALL, &mut number)?, 4);
    same!(number, -1);
    Ok(())
}

fn debug_sets_tell_their_slots() -> Outcome {
    let pid = traced(|| 0)?;
    for (kind, least) in [(NT_ARM_HW_BREAK, 2), (NT_ARM_HW_WATCH, 2)] {
        let mut state = [0u64; 33];
        let length = get(pid, kind, &mut state)?;
        let slots = state[0] & 0xff;
        holds!(slots >= least && slots <= 16);
        // The version of the debug architecture: 6 is ARMv8.
        holds!(state[0] >> 8 & 0xff >= 6);
        // Room for 16, however many there are.
        same!(length, 8 + 16 * 16);
        holds!(state[1..].iter().all(|word| *word == 0));
    }
    Ok(())
}

fn peek_and_poke_words() -> Outcome {
    let page = memory(4096)?;
    poke(page, 0x1122_3344_5566_7788u64);
    let pid = traced(move || (peek::<u64>(page) == 99).into())?;
    same!(word(pid, page)?, 0x1122_3344_5566_7788);
    ptrace(POKEDATA, pid, page, 99)?;
    let mut again = 0u64;
    ptrace(PEEKTEXT, pid, page, &raw mut again)?;
    same!(again, 99);
    same!(go(CONT, pid, 0)?, Exit(1));
    Ok(())
}

fn words_need_not_be_aligned() -> Outcome {
    let page = memory(4096)?;
    poke(page, 0x1122_3344_5566_7788u64);
    let pid = traced(|| 0)?;
    same!(word(pid, page + 1)?, 0x0011_2233_4455_6677);
    ptrace(POKEDATA, pid, page + 3, u64::MAX)?;
    same!(word(pid, page)?, 0xffff_ffff_ff66_7788);
    Ok(())
}

fn words_cross_pages() -> Outcome {
    let pages = memory(8192)?;
    let pid = traced(|| 0)?;
    ptrace(POKEDATA, pid, pages + 4092, 0x1122_3344_5566_7788u64)?;
    same!(word(pid, pages + 4092)?, 0x1122_3344_5566_7788);
    same!(word(pid, pages + 4096)?, 0x1122_3344);
    Ok(())
}

fn holes_are_eio() -> Outcome {
    let pages = memory(8192)?;
    sys!(SYS_munmap, pages + 4096, 4096)?;
    let pid = traced(|| 0)?;
    for address in [0, 8, pages + 4096, pages + 4092, usize::MAX - 7, 1 << 60] {
        fails!(word(pid, address), EIO);
        fails!(ptrace(POKEDATA, pid, address, 1), EIO);
    }
    fails!(ptrace(PEEKDATA, pid, pages, 8), EFAULT);
    Ok(())
}

fn read_only_memory_is_poked() -> Outcome {
    let page = memory(4096)?;
    poke(page, 1u64);
    sys!(SYS_mprotect, page, 4096, PROT_READ)?;
    let pid = traced(move || {
        if peek::<u64>(page) != 2 {
            return 1;
        }
        // Poked from outside, and still not writable inside.
        poke(page, 3u64);
        2
    })?;
    ptrace(POKEDATA, pid, page, 2)?;
    same!(go(CONT, pid, 0)?, Stop(SIGSEGV));
    sys!(SYS_mprotect, page, 4096, PROT_NONE)?;
    let pid = traced(|| 0)?;
    same!(word(pid, page)?, 1);
    ptrace(POKEDATA, pid, page, 4)?;
    same!(word(pid, page)?, 4);
    Ok(())
}

fn code_is_poked_and_run() -> Outcome {
    let (pid, start) = ready(&[movz(0, 1), NOP, BRK], |_| {})?;
    // Run once, so that the old instructions are in every cache.
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let first = word(pid, start as usize)?;
    ptrace(POKETEXT, pid, start, first & !0xffff_ffff | u64::from(movz(0, 2)))?;
    let mut now = registers(pid)?;
    now.pc = start;
    set(pid, NT_PRSTATUS, &now)?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    same!(registers(pid)?.x[0], 2);
    Ok(())
}

fn shared_read_only_memory_is_not_poked() -> Outcome {
    let page = map(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS)?;
    let pid = traced(|| 0)?;
    same!(word(pid, page)?, 0);
    fails!(ptrace(POKEDATA, pid, page, 1), EIO);
    Ok(())
}

fn a_poke_does_not_reach_the_file() -> Outcome {
    file("text", &[7; 4096])?;
    let fd = open("text", O_RDONLY, 0)?;
    let page = sys!(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, fd, 0)?;
    let pid = traced(|| 0)?;
    ptrace(POKEDATA, pid, page, 1)?;
    same!(word(pid, page)?, 1);
    same!(peek::<u8>(page), 7);
    holds!(content("text")?.iter().all(|byte| *byte == 7));
    Ok(())
}

fn the_parents_memory_stays() -> Outcome {
    let page = memory(4096)?;
    poke(page, 5u64);
    let pid = traced(|| 0)?;
    ptrace(POKEDATA, pid, page, 6)?;
    same!(peek::<u64>(page), 5);
    same!(word(pid, page)?, 6);
    Ok(())
}

fn the_user_area_is_eio() -> Outcome {
    let pid = traced(|| 0)?;
    let mut word = 0u64;
    fails!(ptrace(PEEKUSR, pid, 0, &raw mut word), EIO);
    fails!(ptrace(POKEUSR, pid, 0, 0), EIO);
    Ok(())
}

fn registers_of_a_sleeping_one() -> Outcome {
    let (pid, _gate) = seized(0, || 0)?;
    holds!(settles(pid, "S")?);
    ptrace(INTERRUPT, pid, 0, 0)?;
    same!(next(pid)?, trap(EVENT_STOP));
    let now = registers(pid)?;
    same!(now.x[8], SYS_read as u64);
    // The call will begin again: its first argument is back, the program counter at svc.
    same!(word(pid, now.pc as usize)? as u32, SVC);
    Ok(())
}
