//! membarrier(2): barriers on the CPUs that run other threads.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::compiler_fence;

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::futex::{THREAD, join};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    query_names_the_commands,
    flags_are_einval,
    unknown_commands_are_einval,
    global_needs_no_registration,
    global_expedited_needs_no_registration,
    private_needs_registration,
    sync_core_needs_registration,
    rseq_needs_registration,
    each_registration_is_for_one_command,
    registering_again_is_fine,
    registration_is_the_whole_process_s,
    registration_is_inherited_by_fork,
    registration_of_a_child_is_its_own,
    cpu_flag_is_for_rseq,
    cpu_number_is_ignored_without_the_flag,
    cpu_that_is_not_there_is_fine,
    barriers_answer_while_threads_run,
    store_buffer_is_never_seen_both_ways,
];

const QUERY: i32 = 0;
const GLOBAL: i32 = 1;
const GLOBAL_EXPEDITED: i32 = 2;
const REGISTER_GLOBAL_EXPEDITED: i32 = 4;
const PRIVATE: i32 = 8;
const REGISTER_PRIVATE: i32 = 16;
const SYNC_CORE: i32 = 32;
const REGISTER_SYNC_CORE: i32 = 64;
const RSEQ: i32 = 128;
const REGISTER_RSEQ: i32 = 256;

fn membarrier(command: i32, flags: i32, cpu: i32) -> Result<usize> {
    sys!(SYS_membarrier, command, flags, cpu)
}

fn plain(command: i32) -> Result<usize> {
    membarrier(command, 0, 0)
}

fn query_names_the_commands() -> Outcome {
    // Later kernels know more than these.
    same!(plain(QUERY)? & 0x1ff, 0x1ff);
    same!(membarrier(QUERY, 0, 77)? & 0x1ff, 0x1ff);
    Ok(())
}

fn flags_are_einval() -> Outcome {
    for command in [QUERY, GLOBAL, GLOBAL_EXPEDITED, REGISTER_PRIVATE, PRIVATE, SYNC_CORE, REGISTER_RSEQ] {
        for flags in [1, 2, -1] {
            fails!(membarrier(command, flags, 0), EINVAL);
        }
    }
    Ok(())
}

fn unknown_commands_are_einval() -> Outcome {
    for command in [3, 9, 24, 1 << 12, 1 << 30, -1] {
        fails!(plain(command), EINVAL);
    }
    Ok(())
}

fn global_needs_no_registration() -> Outcome {
    same!(plain(GLOBAL)?, 0);
    Ok(())
}

fn global_expedited_needs_no_registration() -> Outcome {
    same!(plain(GLOBAL_EXPEDITED)?, 0);
    same!(plain(REGISTER_GLOBAL_EXPEDITED)?, 0);
    same!(plain(GLOBAL_EXPEDITED)?, 0);
    Ok(())
}

fn needs(command: i32, register: i32) -> Outcome {
    fails!(plain(command), EPERM);
    same!(plain(register)?, 0);
    same!(plain(command)?, 0);
    Ok(())
}

fn private_needs_registration() -> Outcome {
    needs(PRIVATE, REGISTER_PRIVATE)
}

fn sync_core_needs_registration() -> Outcome {
    needs(SYNC_CORE, REGISTER_SYNC_CORE)
}

fn rseq_needs_registration() -> Outcome {
    needs(RSEQ, REGISTER_RSEQ)
}

fn each_registration_is_for_one_command() -> Outcome {
    plain(REGISTER_SYNC_CORE)?;
    fails!(plain(PRIVATE), EPERM);
    fails!(plain(RSEQ), EPERM);
    plain(REGISTER_RSEQ)?;
    fails!(plain(PRIVATE), EPERM);
    plain(REGISTER_GLOBAL_EXPEDITED)?;
    fails!(plain(PRIVATE), EPERM);
    same!((plain(SYNC_CORE)?, plain(RSEQ)?), (0, 0));
    Ok(())
}

fn registering_again_is_fine() -> Outcome {
    for _ in 0..3 {
        same!(plain(REGISTER_PRIVATE)?, 0);
        same!(plain(REGISTER_GLOBAL_EXPEDITED)?, 0);
    }
    same!(plain(PRIVATE)?, 0);
    Ok(())
}

extern "C" fn register_private(base: usize) -> i32 {
    poke(base + 4, plain(REGISTER_PRIVATE).map_or_else(|error| error.0 as u32, |_| 1000));
    0
}

fn registration_is_the_whole_process_s() -> Outcome {
    let base = memory(4096)?;
    poke(base, 1u32);
    fails!(plain(PRIVATE), EPERM);
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, base as *mut i32, 0, register_private, base)?;
    join(base)?;
    same!(peek::<u32>(base + 4), 1000);
    same!(plain(PRIVATE)?, 0);
    Ok(())
}

fn registration_is_inherited_by_fork() -> Outcome {
    plain(REGISTER_PRIVATE)?;
    let pid = child(|| (plain(PRIVATE) != Ok(0)).into())?;
    same!(status(pid)?, 0);
    Ok(())
}

fn registration_of_a_child_is_its_own() -> Outcome {
    let pid = child(|| (plain(REGISTER_PRIVATE) != Ok(0)).into())?;
    same!(status(pid)?, 0);
    fails!(plain(PRIVATE), EPERM);
    Ok(())
}

fn cpu_flag_is_for_rseq() -> Outcome {
    plain(REGISTER_RSEQ)?;
    plain(REGISTER_PRIVATE)?;
    same!(membarrier(RSEQ, 1, 0)?, 0);
    fails!(membarrier(PRIVATE, 1, 0), EINVAL);
    for flags in [2, 3, -1] {
        fails!(membarrier(RSEQ, flags, 0), EINVAL);
    }
    Ok(())
}

fn cpu_number_is_ignored_without_the_flag() -> Outcome {
    plain(REGISTER_RSEQ)?;
    same!(membarrier(RSEQ, 0, 12345)?, 0);
    same!(membarrier(GLOBAL, 0, -7)?, 0);
    Ok(())
}

fn cpu_that_is_not_there_is_fine() -> Outcome {
    plain(REGISTER_RSEQ)?;
    for cpu in [-1, 63, 1_000_000, i32::MAX] {
        same!(membarrier(RSEQ, 1, cpu)?, 0);
    }
    Ok(())
}

extern "C" fn spin(base: usize) -> i32 {
    let words = Shared::at(base);
    while words.word(8).load(Relaxed) == 0 {
        words.word(9).fetch_add(1, Relaxed);
    }
    0
}

fn barriers_answer_while_threads_run() -> Outcome {
    let words = Shared::at(memory(4096)?);
    for command in [REGISTER_PRIVATE, REGISTER_SYNC_CORE, REGISTER_RSEQ, REGISTER_GLOBAL_EXPEDITED] {
        plain(command)?;
    }
    for thread in 0..3 {
        words.set(thread, 1);
        let place = words.address(thread) as *mut i32;
        clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, place, 0, spin, words.address(0))?;
    }
    for _ in 0..20 {
        for command in [PRIVATE, SYNC_CORE, RSEQ, GLOBAL_EXPEDITED] {
            same!(plain(command)?, 0);
        }
    }
    same!(plain(GLOBAL)?, 0);
    words.set(8, 1);
    for thread in 0..3 {
        join(words.address(thread))?;
    }
    Ok(())
}

/// The side without a barrier: turn n is written to word 20, then word 40 is read into word 60.
extern "C" fn fast_side(base: usize) -> i32 {
    let words = Shared::at(base);
    for turn in 1..=500u32 {
        while words.word(10).load(SeqCst) != turn {
            std::hint::spin_loop();
        }
        words.word(20).store(turn, Relaxed);
        compiler_fence(SeqCst);
        let seen = words.word(40).load(Relaxed);
        words.word(60).store(seen, SeqCst);
        words.word(11).store(turn, SeqCst);
    }
    0
}

fn store_buffer_is_never_seen_both_ways() -> Outcome {
    let words = Shared::at(memory(4096)?);
    plain(REGISTER_PRIVATE)?;
    words.set(0, 1);
    let place = words.address(0) as *mut i32;
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, place, 0, fast_side, words.address(0))?;
    for turn in 1..=500u32 {
        words.word(10).store(turn, SeqCst);
        words.word(40).store(turn, Relaxed);
        plain(PRIVATE)?;
        let seen = words.word(20).load(Relaxed);
        let mut waited = 0u32;
        while words.word(11).load(SeqCst) != turn {
            waited += 1;
            if waited > 1000 {
                let _ = sys!(SYS_sched_yield);
            }
        }
        holds!(seen == turn || words.get(60) == turn);
    }
    join(words.address(0))
}
