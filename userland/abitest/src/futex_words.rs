//! futex(2): which words are one futex, what memory they may lie in, what the arguments mean.

use std::sync::atomic::Ordering::SeqCst;

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::futex::{THREAD, all_woken, futex, join, sleepers, wait_on, wake};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    op_set_stores_the_operand,
    op_add_adds,
    op_add_of_a_negative_operand_subtracts,
    op_or_sets_bits,
    op_andn_clears_bits,
    op_xor_flips_bits,
    op_set_takes_a_negative_operand,
    op_shift_makes_a_bit,
    op_shift_reaches_the_top_bit,
    op_shift_beyond_the_word_takes_the_low_bits,
    op_shift_by_a_negative_number_takes_the_low_bits,
    op_add_wraps,
    compare_eq_wakes_the_second,
    compare_eq_fails,
    compare_ne_wakes_the_second,
    compare_ne_fails,
    compare_lt_wakes_the_second,
    compare_lt_is_strict,
    compare_le_wakes_the_second,
    compare_le_fails,
    compare_gt_wakes_the_second,
    compare_gt_is_strict,
    compare_ge_wakes_the_second,
    compare_ge_fails,
    compare_is_signed,
    compare_takes_a_negative_operand,
    unknown_op_is_enosys_and_changes_nothing,
    unknown_comparison_is_enosys_after_the_change,
    wake_op_of_zero_wakes_one,
    wake_op_on_bad_words,
    wake_op_on_a_read_only_second_word_is_efault,
    wake_op_on_a_read_only_first_word,
    wake_of_zero_wakes_one,
    wake_of_a_negative_number_wakes_one,
    wake_of_the_largest_number_wakes_all,
    wakes_come_in_the_order_of_the_waits,
    real_time_waiters_come_first,
    requeue_of_negative_counts_is_einval,
    requeue_of_nothing_does_nothing,
    requeue_can_move_without_waking,
    requeue_to_itself_keeps_the_waiters,
    requeue_of_bad_words,
    cmp_requeue_reads_the_word,
    requeue_counts_woken_and_moved,
    moved_waiters_time_out,
    moved_waiters_are_interrupted,
    fd_and_unknown_commands_are_enosys,
    realtime_is_for_absolute_timeouts,
    realtime_flag_comes_after_the_timeout,
    realtime_absolute_timeout,
    monotonic_absolute_timeout,
    timeouts_are_checked_for_those_that_have_one,
    wake_has_no_timeout,
    zero_timeout_still_looks_at_the_word,
    empty_bitset_comes_before_the_address,
    timed_wait_is_not_restarted,
    absolute_wait_is_not_restarted,
    untimed_bitset_wait_is_restarted,
    timed_wait_goes_on_after_a_stop,
    private_wake_of_unmapped_memory_is_zero,
    shared_wake_of_unmapped_memory_is_efault,
    kernel_addresses_are_efault,
    unaligned_words_are_einval_everywhere,
    read_only_private_page,
    read_only_shared_page,
    page_without_rights,
    read_only_private_file_page_is_the_file,
    writable_private_file_page_is_not_the_file,
    word_beyond_the_end_of_the_file,
    file_truncated_under_the_waiter,
    hole_in_a_file_is_memory,
    memfd_between_processes,
    pages_of_a_file_are_apart,
    words_of_a_page_are_apart,
    file_word_survives_mremap,
    shared_anonymous_word_survives_mremap,
    deleted_file_works,
    two_files_are_apart,
    private_flag_is_apart_between_processes,
    private_memory_works_with_shared_calls,
    private_memory_has_two_futexes_a_word,
    private_memory_is_apart_after_fork,
    waiter_outlives_its_mapping,
    waiter_of_a_killed_process_is_gone,
    many_waiters_of_many_words,
];

const SHARED: i32 = MAP_SHARED | MAP_ANONYMOUS;
const READ_WRITE: i32 = PROT_READ | PROT_WRITE;
const PRIVATE: i32 = FUTEX_PRIVATE_FLAG;

const SET: u32 = 0;
const ADD: u32 = 1;
const OR: u32 = 2;
const ANDN: u32 = 3;
const XOR: u32 = 4;
const SHIFT: u32 = 8;
const EQ: u32 = 0;
const NE: u32 = 1;
const LT: u32 = 2;
const LE: u32 = 3;
const GT: u32 = 4;
const GE: u32 = 5;

/// FUTEX_OP.
fn encode(op: u32, operand: i32, compare: u32, with: i32) -> u32 {
    op << 28 | compare << 24 | (operand as u32 & 0xfff) << 12 | with as u32 & 0xfff
}

/// FUTEX_WAKE_OP on two words without waiters: what becomes of the second.
fn changed(old: u32, op: u32, operand: i32) -> std::result::Result<u32, crate::case::Failure> {
    let words = Shared::new()?;
    words.set(9, old);
    same!(futex(words.address(0), FUTEX_WAKE_OP, 1, 1, words.address(9), encode(op, operand, EQ, 0))?, 0);
    Ok(words.get(9))
}

fn op_set_stores_the_operand() -> Outcome {
    same!(changed(5, SET, 7)?, 7);
    Ok(())
}

fn op_add_adds() -> Outcome {
    same!(changed(5, ADD, 7)?, 12);
    Ok(())
}

fn op_add_of_a_negative_operand_subtracts() -> Outcome {
    same!(changed(5, ADD, -2)?, 3);
    Ok(())
}

fn op_or_sets_bits() -> Outcome {
    same!(changed(0b1001, OR, 0b11)?, 0b1011);
    Ok(())
}

fn op_andn_clears_bits() -> Outcome {
    same!(changed(0b1011, ANDN, 0b11)?, 0b1000);
    Ok(())
}

fn op_xor_flips_bits() -> Outcome {
    same!(changed(0b1001, XOR, 0b11)?, 0b1010);
    Ok(())
}

fn op_set_takes_a_negative_operand() -> Outcome {
    same!(changed(5, SET, -1)?, u32::MAX);
    Ok(())
}

fn op_shift_makes_a_bit() -> Outcome {
    same!(changed(1, OR | SHIFT, 12)?, 0x1001);
    Ok(())
}

fn op_shift_reaches_the_top_bit() -> Outcome {
    same!(changed(0, SET | SHIFT, 31)?, 1 << 31);
    Ok(())
}

fn op_shift_beyond_the_word_takes_the_low_bits() -> Outcome {
    same!(changed(0, SET | SHIFT, 35)?, 1 << 3);
    Ok(())
}

fn op_shift_by_a_negative_number_takes_the_low_bits() -> Outcome {
    same!(changed(0, SET | SHIFT, -1)?, 1 << 31);
    Ok(())
}

fn op_add_wraps() -> Outcome {
    same!(changed(u32::MAX, ADD, 2)?, 1);
    Ok(())
}

/// Whether the waiter of the second word is woken when its value was `old`.
fn wakes_second(old: u32, compare: u32, with: i32) -> std::result::Result<bool, crate::case::Failure> {
    let words = Shared::new()?;
    let pids = sleepers(words, 1, FUTEX_WAIT, 0)?;
    // The second word is the one that is waited for.
    words.set(0, old);
    let woken = futex(words.address(9), FUTEX_WAKE_OP, 1, 1, words.address(0), encode(ADD, 0, compare, with))?;
    if woken == 0 {
        same!(wake(words.address(0), 1)?, 1);
    }
    all_woken(pids)?;
    Ok(woken == 1)
}

fn compare_eq_wakes_the_second() -> Outcome {
    holds!(wakes_second(7, EQ, 7)?);
    Ok(())
}

fn compare_eq_fails() -> Outcome {
    holds!(!wakes_second(7, EQ, 8)?);
    Ok(())
}

fn compare_ne_wakes_the_second() -> Outcome {
    holds!(wakes_second(7, NE, 8)?);
    Ok(())
}

fn compare_ne_fails() -> Outcome {
    holds!(!wakes_second(7, NE, 7)?);
    Ok(())
}

fn compare_lt_wakes_the_second() -> Outcome {
    holds!(wakes_second(7, LT, 8)?);
    Ok(())
}

fn compare_lt_is_strict() -> Outcome {
    holds!(!wakes_second(7, LT, 7)?);
    Ok(())
}

fn compare_le_wakes_the_second() -> Outcome {
    holds!(wakes_second(7, LE, 7)?);
    Ok(())
}

fn compare_le_fails() -> Outcome {
    holds!(!wakes_second(7, LE, 6)?);
    Ok(())
}

fn compare_gt_wakes_the_second() -> Outcome {
    holds!(wakes_second(7, GT, 6)?);
    Ok(())
}

fn compare_gt_is_strict() -> Outcome {
    holds!(!wakes_second(7, GT, 7)?);
    Ok(())
}

fn compare_ge_wakes_the_second() -> Outcome {
    holds!(wakes_second(7, GE, 7)?);
    Ok(())
}

fn compare_ge_fails() -> Outcome {
    holds!(!wakes_second(7, GE, 8)?);
    Ok(())
}

fn compare_is_signed() -> Outcome {
    holds!(wakes_second(u32::MAX, LT, 0)?);
    Ok(())
}

fn compare_takes_a_negative_operand() -> Outcome {
    holds!(wakes_second(-5i32 as u32, EQ, -5)?);
    Ok(())
}

fn unknown_op_is_enosys_and_changes_nothing() -> Outcome {
    let words = Shared::new()?;
    words.set(9, 5);
    for op in 5..8 {
        let call = futex(words.address(0), FUTEX_WAKE_OP, 1, 1, words.address(9), encode(op, 1, EQ, 0));
        fails!(call, ENOSYS);
    }
    same!(words.get(9), 5);
    Ok(())
}

fn unknown_comparison_is_enosys_after_the_change() -> Outcome {
    let words = Shared::new()?;
    for compare in [6, 15] {
        let call = futex(words.address(0), FUTEX_WAKE_OP, 1, 1, words.address(9), encode(ADD, 1, compare, 0));
        fails!(call, ENOSYS);
    }
    same!(words.get(9), 2);
    Ok(())
}

fn wake_op_of_zero_wakes_one() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 2, FUTEX_WAIT, 0)?;
    same!(futex(words.address(0), FUTEX_WAKE_OP, 0, 0, words.address(9), encode(SET, 1, NE, 0))?, 1);
    same!(wake(words.address(0), 9)?, 1);
    all_woken(pids)
}

fn wake_op_on_bad_words() -> Outcome {
    let words = Shared::new()?;
    let op = encode(SET, 1, EQ, 0);
    fails!(futex(words.address(0) + 1, FUTEX_WAKE_OP, 1, 1, words.address(9), op), EINVAL);
    fails!(futex(words.address(0), FUTEX_WAKE_OP, 1, 1, words.address(9) + 2, op), EINVAL);
    fails!(futex(8, FUTEX_WAKE_OP, 1, 1, words.address(9), op), EFAULT);
    fails!(futex(words.address(0), FUTEX_WAKE_OP, 1, 1, 8, op), EFAULT);
    fails!(futex(words.address(0), FUTEX_WAKE_OP | PRIVATE, 1, 1, 8, op), EFAULT);
    same!(futex(4096, FUTEX_WAKE_OP | PRIVATE, 1, 1, words.address(9), op)?, 0);
    Ok(())
}

fn wake_op_on_a_read_only_second_word_is_efault() -> Outcome {
    let words = Shared::new()?;
    let page = map(0, 4096, PROT_READ, SHARED)?;
    let op = encode(SET, 1, EQ, 0);
    fails!(futex(words.address(0), FUTEX_WAKE_OP, 1, 1, page, op), EFAULT);
    fails!(futex(words.address(0), FUTEX_WAKE_OP | PRIVATE, 1, 1, page, op), EFAULT);
    Ok(())
}

fn wake_op_on_a_read_only_first_word() -> Outcome {
    let words = Shared::new()?;
    let page = map(0, 4096, PROT_READ, SHARED)?;
    same!(futex(page, FUTEX_WAKE_OP, 1, 1, words.address(9), encode(SET, 1, EQ, 0))?, 0);
    same!(words.get(9), 1);
    Ok(())
}

fn wake_of_zero_wakes_one() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 2, FUTEX_WAIT, 0)?;
    same!(wake(words.address(0), 0)?, 1);
    same!(wake(words.address(0), 9)?, 1);
    all_woken(pids)
}

fn wake_of_a_negative_number_wakes_one() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 2, FUTEX_WAIT, 0)?;
    same!(wake(words.address(0), -3i32 as u32)?, 1);
    same!(wake(words.address(0), 9)?, 1);
    all_woken(pids)
}

fn wake_of_the_largest_number_wakes_all() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 3, FUTEX_WAIT, 0)?;
    same!(wake(words.address(0), i32::MAX as u32)?, 3);
    all_woken(pids)
}

/// Children that wait one after the other; each stores its number in the next free word from 10 on when woken.
fn numbered(words: Shared, prepare: &[fn() -> Result<usize>]) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for (number, prepare) in prepare.iter().enumerate() {
        pids.push(child(|| {
            if prepare().is_err() {
                return 1;
            }
            words.word(1).fetch_add(1, SeqCst);
            let result = futex(words.address(0), FUTEX_WAIT, 0, 0, 0, 0);
            let place = words.word(2).fetch_add(1, SeqCst) as usize;
            words.set(10 + place, number as u32);
            result.map_or_else(|error| error.0, |_| 0)
        })?);
        words.wait_for(1, number as u32 + 1);
        sleep_ms(30);
    }
    Ok(pids)
}

fn wake_one_by_one(words: Shared, expected: &[u32]) -> Outcome {
    for turn in 0..expected.len() as u32 {
        same!(wake(words.address(0), 1)?, 1);
        holds!(words.wait_for(2, turn + 1));
        sleep_ms(2);
    }
    let order: Vec<u32> = (0..expected.len()).map(|place| words.get(10 + place)).collect();
    same!(order, expected);
    Ok(())
}

fn wakes_come_in_the_order_of_the_waits() -> Outcome {
    let words = Shared::new()?;
    let pids = numbered(words, &[|| Ok(0), || Ok(0), || Ok(0), || Ok(0)])?;
    wake_one_by_one(words, &[0, 1, 2, 3])?;
    all_woken(pids)
}

fn real_time_waiters_come_first() -> Outcome {
    fn fifo(priority: i32) -> Result<usize> {
        sys!(SYS_sched_setscheduler, 0, SCHED_FIFO, &raw const priority)
    }
    let words = Shared::new()?;
    let pids = numbered(words, &[|| Ok(0), || fifo(10), || fifo(30), || fifo(20), || Ok(0), || fifo(30)])?;
    wake_one_by_one(words, &[2, 5, 3, 1, 0, 4])?;
    all_woken(pids)
}

fn requeue_of_negative_counts_is_einval() -> Outcome {
    let words = Shared::new()?;
    let minus = -1i32 as u32;
    for command in [FUTEX_REQUEUE, FUTEX_CMP_REQUEUE] {
        fails!(futex(words.address(0), command, minus, 1, words.address(9), 0), EINVAL);
        fails!(futex(words.address(0), command, 1, minus as usize, words.address(9), 0), EINVAL);
    }
    Ok(())
}

fn requeue_of_nothing_does_nothing() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 2, FUTEX_WAIT, 0)?;
    same!(futex(words.address(0), FUTEX_REQUEUE, 0, 0, words.address(9), 0)?, 0);
    same!(wake(words.address(9), 9)?, 0);
    same!(wake(words.address(0), 9)?, 2);
    all_woken(pids)
}

fn requeue_can_move_without_waking() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 3, FUTEX_WAIT, 0)?;
    same!(futex(words.address(0), FUTEX_CMP_REQUEUE, 0, 2, words.address(9), 0)?, 2);
    same!(words.get(2), 0);
    same!(wake(words.address(9), 9)?, 2);
    same!(wake(words.address(0), 9)?, 1);
    all_woken(pids)
}

fn requeue_to_itself_keeps_the_waiters() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 3, FUTEX_WAIT, 0)?;
    same!(futex(words.address(0), FUTEX_REQUEUE, 1, 9, words.address(0), 0)?, 3);
    same!(wake(words.address(0), 9)?, 2);
    all_woken(pids)
}

fn requeue_of_bad_words() -> Outcome {
    let words = Shared::new()?;
    fails!(futex(words.address(0) + 2, FUTEX_REQUEUE, 1, 1, words.address(9), 0), EINVAL);
    fails!(futex(words.address(0), FUTEX_REQUEUE, 1, 1, words.address(9) + 1, 0), EINVAL);
    fails!(futex(8, FUTEX_REQUEUE, 1, 1, words.address(9), 0), EFAULT);
    fails!(futex(words.address(0), FUTEX_REQUEUE, 1, 1, 8, 0), EFAULT);
    // Nobody reads either word.
    same!(futex(4096, FUTEX_REQUEUE | PRIVATE, 1, 1, 8192, 0)?, 0);
    Ok(())
}

fn cmp_requeue_reads_the_word() -> Outcome {
    let words = Shared::new()?;
    fails!(futex(4096, FUTEX_CMP_REQUEUE | PRIVATE, 1, 1, words.address(9), 0), EFAULT);
    fails!(futex(words.address(0), FUTEX_CMP_REQUEUE | PRIVATE, 1, 1, words.address(9), 1), EAGAIN);
    same!(futex(words.address(0), FUTEX_CMP_REQUEUE | PRIVATE, 1, 1, 4096, 0)?, 0);
    Ok(())
}

fn requeue_counts_woken_and_moved() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 5, FUTEX_WAIT, 0)?;
    same!(futex(words.address(0), FUTEX_REQUEUE, 2, 100, words.address(9), 0)?, 5);
    same!(futex(words.address(9), FUTEX_REQUEUE, 0, 100, words.address(12), 0)?, 3);
    same!(wake(words.address(12), 100)?, 3);
    all_woken(pids)
}

fn moved_waiters_time_out() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| match wait_on(words.address(0), 0, 150) {
        Err(Errno(ETIMEDOUT)) => 0,
        _ => 1,
    })?;
    sleep_ms(50);
    same!(futex(words.address(0), FUTEX_REQUEUE, 0, 1, words.address(9), 0)?, 1);
    same!(status(pid)?, 0);
    same!(wake(words.address(9), 1)?, 0);
    Ok(())
}

fn moved_waiters_are_interrupted() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        let _ = note_signal(SIGUSR1, 0);
        match futex(words.address(0), FUTEX_WAIT, 0, 0, 0, 0) {
            Err(Errno(EINTR)) => 0,
            _ => 1,
        }
    })?;
    sleep_ms(50);
    same!(futex(words.address(0), FUTEX_REQUEUE, 0, 1, words.address(9), 0)?, 1);
    kill(pid, SIGUSR1)?;
    same!(status(pid)?, 0);
    same!(wake(words.address(9), 1)?, 0);
    Ok(())
}

fn fd_and_unknown_commands_are_enosys() -> Outcome {
    let words = Shared::new()?;
    for command in [FUTEX_FD, 14, 20, 127, 512, -1] {
        fails!(futex(words.address(0), command, 0, 0, 0, 0), ENOSYS);
        fails!(futex(words.address(0), command | PRIVATE, 0, 0, 0, 0), ENOSYS);
    }
    Ok(())
}

fn realtime_is_for_absolute_timeouts() -> Outcome {
    let words = Shared::new()?;
    let wrong = [
        FUTEX_WAIT,
        FUTEX_WAKE,
        FUTEX_REQUEUE,
        FUTEX_CMP_REQUEUE,
        FUTEX_WAKE_OP,
        FUTEX_LOCK_PI,
        FUTEX_UNLOCK_PI,
        FUTEX_TRYLOCK_PI,
        FUTEX_WAKE_BITSET,
        FUTEX_CMP_REQUEUE_PI,
    ];
    for command in wrong {
        fails!(futex(words.address(0), command | FUTEX_CLOCK_REALTIME, 1, 0, words.address(9), 1), ENOSYS);
    }
    Ok(())
}

fn realtime_flag_comes_after_the_timeout() -> Outcome {
    let words = Shared::new()?;
    let mut time = timespec_ms(0);
    time.tv_nsec = -1;
    let command = FUTEX_WAIT | FUTEX_CLOCK_REALTIME;
    fails!(futex(words.address(0), command, 0, &raw const time as usize, 0, 0), EINVAL);
    fails!(futex(words.address(0), command, 0, 8, 0, 0), EFAULT);
    Ok(())
}

fn until(clock: i32, flag: i32, ms: i64) -> Outcome {
    let words = Shared::new()?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    let time = timespec_ms(now_ns(clock)? / 1_000_000 + ms);
    let command = FUTEX_WAIT_BITSET | flag;
    fails!(futex(words.address(0), command, 0, &raw const time as usize, 0, u32::MAX), ETIMEDOUT);
    let took = now_ns(CLOCK_MONOTONIC)? - start;
    holds!(took >= (ms - 2) * 1_000_000);
    holds!(took < 2_000_000_000);
    Ok(())
}

fn realtime_absolute_timeout() -> Outcome {
    until(CLOCK_REALTIME, FUTEX_CLOCK_REALTIME, 40)?;
    until(CLOCK_REALTIME, FUTEX_CLOCK_REALTIME | PRIVATE, 40)?;
    until(CLOCK_REALTIME, FUTEX_CLOCK_REALTIME, -1000)
}

fn monotonic_absolute_timeout() -> Outcome {
    until(CLOCK_MONOTONIC, PRIVATE, 40)?;
    until(CLOCK_MONOTONIC, 0, -1000)
}

fn timeouts_are_checked_for_those_that_have_one() -> Outcome {
    let words = Shared::new()?;
    let mut time = timespec_ms(0);
    time.tv_nsec = 1_000_000_000;
    let bad = &raw const time as usize;
    for command in [FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_WAIT_REQUEUE_PI] {
        fails!(futex(words.address(0), command, 0, bad, words.address(9), u32::MAX), EINVAL);
        fails!(futex(words.address(0), command, 0, 8, words.address(9), u32::MAX), EFAULT);
    }
    same!(words.get(0), 0);
    Ok(())
}

fn wake_has_no_timeout() -> Outcome {
    let words = Shared::new()?;
    same!(futex(words.address(0), FUTEX_WAKE, 1, 8, 0, 0)?, 0);
    same!(futex(words.address(0), FUTEX_WAKE_BITSET, 1, 8, 0, 1)?, 0);
    Ok(())
}

fn zero_timeout_still_looks_at_the_word() -> Outcome {
    let words = Shared::new()?;
    fails!(wait_on(words.address(0), 1, 0), EAGAIN);
    fails!(wait_on(words.address(0), 0, 0), ETIMEDOUT);
    Ok(())
}

fn empty_bitset_comes_before_the_address() -> Outcome {
    fails!(futex(8, FUTEX_WAIT_BITSET, 0, 0, 0, 0), EINVAL);
    fails!(futex(8, FUTEX_WAKE_BITSET, 1, 0, 0, 0), EINVAL);
    Ok(())
}

/// A wait that a handler with SA_RESTART interrupts after 30 ms, and a wake-up would end after 60.
fn interrupted(command: i32, timeout_ms: Option<i64>) -> std::result::Result<Result<usize>, crate::case::Failure> {
    note_signal(SIGUSR1, SA_RESTART)?;
    let words = Shared::new()?;
    let me = getpid();
    let pid = child(|| {
        sleep_ms(30);
        let _ = kill(me, SIGUSR1);
        sleep_ms(30);
        words.set(0, 1);
        let _ = wake(words.address(0), 1);
        0
    })?;
    let base = if command == FUTEX_WAIT { 0 } else { now_ns(CLOCK_MONOTONIC)? / 1_000_000 };
    let time = timespec_ms(base + timeout_ms.unwrap_or(0));
    let pointer = if timeout_ms.is_some() { &raw const time as usize } else { 0 };
    let result = futex(words.address(0), command, 0, pointer, 0, u32::MAX);
    same!(count(), 1);
    same!(status(pid)?, 0);
    Ok(result)
}

fn timed_wait_is_not_restarted() -> Outcome {
    fails!(interrupted(FUTEX_WAIT, Some(5000))?, EINTR);
    Ok(())
}

fn absolute_wait_is_not_restarted() -> Outcome {
    fails!(interrupted(FUTEX_WAIT_BITSET, Some(5000))?, EINTR);
    Ok(())
}

fn untimed_bitset_wait_is_restarted() -> Outcome {
    same!(interrupted(FUTEX_WAIT_BITSET, None)?, Ok(0));
    Ok(())
}

fn timed_wait_goes_on_after_a_stop() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| wait_on(words.address(0), 0, 10_000).map_or_else(|error| error.0, |_| 0))?;
    sleep_ms(30);
    kill(pid, SIGSTOP)?;
    sleep_ms(20);
    kill(pid, SIGCONT)?;
    sleep_ms(30);
    same!(wake(words.address(0), 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn unmapped() -> Result<usize> {
    let page = memory(4096)?;
    sys!(SYS_munmap, page, 4096)?;
    Ok(page)
}

fn private_wake_of_unmapped_memory_is_zero() -> Outcome {
    let page = unmapped()?;
    same!(futex(page, FUTEX_WAKE | PRIVATE, 1, 0, 0, 0)?, 0);
    same!(futex(0, FUTEX_WAKE | PRIVATE, 1, 0, 0, 0)?, 0);
    fails!(futex(page, FUTEX_WAIT | PRIVATE, 0, 0, 0, 0), EFAULT);
    Ok(())
}

fn shared_wake_of_unmapped_memory_is_efault() -> Outcome {
    let page = unmapped()?;
    fails!(wake(page, 1), EFAULT);
    fails!(wake(0, 1), EFAULT);
    Ok(())
}

fn kernel_addresses_are_efault() -> Outcome {
    for flag in [0, PRIVATE] {
        fails!(futex(usize::MAX - 3, FUTEX_WAKE | flag, 1, 0, 0, 0), EFAULT);
        fails!(futex(usize::MAX - 3, FUTEX_WAIT | flag, 1, 0, 0, 0), EFAULT);
        fails!(futex(1 << 63, FUTEX_WAKE | flag, 1, 0, 0, 0), EFAULT);
    }
    Ok(())
}

fn unaligned_words_are_einval_everywhere() -> Outcome {
    let words = Shared::new()?;
    let bad = words.address(0) + 2;
    for flag in [0, PRIVATE] {
        fails!(futex(bad, FUTEX_WAIT | flag, 0, 0, 0, 0), EINVAL);
        fails!(futex(bad, FUTEX_WAKE | flag, 1, 0, 0, 0), EINVAL);
        fails!(futex(bad, FUTEX_WAKE_BITSET | flag, 1, 0, 0, 1), EINVAL);
        fails!(futex(bad, FUTEX_LOCK_PI | flag, 0, 0, 0, 0), EINVAL);
        fails!(futex(bad, FUTEX_TRYLOCK_PI | flag, 0, 0, 0, 0), EINVAL);
        // Alignment comes first: the address need not be mapped.
        fails!(futex(9, FUTEX_WAKE | flag, 1, 0, 0, 0), EINVAL);
    }
    Ok(())
}

fn read_only_private_page() -> Outcome {
    let page = memory(4096)?;
    poke(page, 0u32);
    sys!(SYS_mprotect, page, 4096, PROT_READ)?;
    let time = timespec_ms(10);
    fails!(futex(page, FUTEX_WAIT | PRIVATE, 0, &raw const time as usize, 0, 0), ETIMEDOUT);
    same!(futex(page, FUTEX_WAKE | PRIVATE, 1, 0, 0, 0)?, 0);
    // Read-only private memory never changes: nothing to share.
    fails!(wait_on(page, 0, 10), EFAULT);
    fails!(wake(page, 1), EFAULT);
    Ok(())
}

fn read_only_shared_page() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        if sys!(SYS_mprotect, words.address(0), 4096, PROT_READ).is_err() {
            return 1;
        }
        wait_on(words.address(0), 0, 10_000).map_or_else(|error| error.0, |_| 0)
    })?;
    sleep_ms(50);
    same!(wake(words.address(0), 1)?, 1);
    same!(status(pid)?, 0);
    sys!(SYS_mprotect, words.address(0), 4096, PROT_READ)?;
    same!(wake(words.address(0), 1)?, 0);
    Ok(())
}

fn page_without_rights() -> Outcome {
    let words = Shared::new()?;
    sys!(SYS_mprotect, words.address(0), 4096, PROT_NONE)?;
    fails!(wait_on(words.address(0), 0, 10), EFAULT);
    fails!(wake(words.address(0), 1), EFAULT);
    fails!(futex(words.address(0), FUTEX_WAIT | PRIVATE, 0, 0, 0, 0), EFAULT);
    same!(futex(words.address(0), FUTEX_WAKE | PRIVATE, 1, 0, 0, 0)?, 0);
    Ok(())
}

/// A file of two pages of zeros.
fn two_pages(name: &str) -> Result<i32> {
    file(name, &[0; 8192])?;
    open(name, O_RDWR, 0)
}

fn map_file(fd: i32, protection: i32, flags: i32, offset: usize) -> Result<usize> {
    sys!(SYS_mmap, 0, 4096, protection, flags, fd, offset)
}

/// A child that waits for `word` and ends with 0 when it is woken.
fn waiter(word: usize) -> Result<i32> {
    let pid = child(|| wait_on(word, 0, 10_000).map_or_else(|error| error.0, |_| 0))?;
    sleep_ms(50);
    Ok(pid)
}

fn read_only_private_file_page_is_the_file() -> Outcome {
    let fd = two_pages("f")?;
    let shared = map_file(fd, READ_WRITE, MAP_SHARED, 0)?;
    let private = map_file(fd, PROT_READ, MAP_PRIVATE, 0)?;
    let pid = waiter(private + 16)?;
    same!(wake(shared + 16, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn writable_private_file_page_is_not_the_file() -> Outcome {
    let fd = two_pages("f")?;
    let shared = map_file(fd, READ_WRITE, MAP_SHARED, 0)?;
    let private = map_file(fd, READ_WRITE, MAP_PRIVATE, 0)?;
    let pid = waiter(shared)?;
    same!(wake(private, 1)?, 0);
    same!(wake(shared, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn word_beyond_the_end_of_the_file() -> Outcome {
    file("f", &[0; 100])?;
    let fd = open("f", O_RDWR, 0)?;
    let base = sys!(SYS_mmap, 0, 8192, READ_WRITE, MAP_SHARED, fd, 0)?;
    // The rest of the last page is there.
    fails!(wait_on(base + 2000, 0, 10), ETIMEDOUT);
    same!(wake(base + 2000, 1)?, 0);
    fails!(wait_on(base + 4096, 0, 10), EFAULT);
    fails!(wake(base + 4096, 1), EFAULT);
    fails!(futex(base + 4096, FUTEX_WAIT | PRIVATE, 0, 0, 0, 0), EFAULT);
    Ok(())
}

fn file_truncated_under_the_waiter() -> Outcome {
    let fd = two_pages("f")?;
    let word = map_file(fd, READ_WRITE, MAP_SHARED, 4096)?;
    let pid = child(|| match wait_on(word, 0, 300) {
        Err(Errno(ETIMEDOUT)) => 0,
        _ => 1,
    })?;
    sleep_ms(50);
    sys!(SYS_ftruncate, fd, 0)?;
    fails!(wake(word, 1), EFAULT);
    fails!(wait_on(word, 0, 10), EFAULT);
    fails!(futex(word, FUTEX_LOCK_PI, 0, 0, 0, 0), EFAULT);
    same!(status(pid)?, 0);
    // Grown again it is the same file.
    sys!(SYS_ftruncate, fd, 8192)?;
    let pid = waiter(word)?;
    same!(wake(word, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn hole_in_a_file_is_memory() -> Outcome {
    file("f", &[])?;
    let fd = open("f", O_RDWR, 0)?;
    sys!(SYS_ftruncate, fd, 1 << 20)?;
    let word = map_file(fd, READ_WRITE, MAP_SHARED, 8192)?;
    let pid = waiter(word)?;
    same!(wake(word, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn memfd_between_processes() -> Outcome {
    let name = path("futex");
    let fd = sys!(SYS_memfd_create, name.as_ptr(), 0)? as i32;
    sys!(SYS_ftruncate, fd, 4096)?;
    let pid = child(|| {
        let Ok(own) = map_file(fd, READ_WRITE, MAP_SHARED, 0) else { return 1 };
        wait_on(own + 40, 0, 10_000).map_or_else(|error| error.0, |_| 0)
    })?;
    sleep_ms(50);
    let word = map_file(fd, READ_WRITE, MAP_SHARED, 0)?;
    same!(wake(word + 40, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn pages_of_a_file_are_apart() -> Outcome {
    let fd = two_pages("f")?;
    let (first, second) = (map_file(fd, READ_WRITE, MAP_SHARED, 0)?, map_file(fd, READ_WRITE, MAP_SHARED, 4096)?);
    let pid = waiter(first)?;
    same!(wake(second, 1)?, 0);
    same!(wake(first, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn words_of_a_page_are_apart() -> Outcome {
    let words = Shared::new()?;
    let pid = waiter(words.address(5))?;
    for other in [0, 4, 6, 1023] {
        same!(wake(words.address(other), 9)?, 0);
    }
    same!(wake(words.address(5), 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn file_word_survives_mremap() -> Outcome {
    let fd = two_pages("f")?;
    let word = map_file(fd, READ_WRITE, MAP_SHARED, 0)?;
    let pid = waiter(word)?;
    let place = memory(4096)?;
    let moved = sys!(SYS_mremap, word, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, place)?;
    same!(wake(moved, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn shared_anonymous_word_survives_mremap() -> Outcome {
    let word = map(0, 4096, READ_WRITE, SHARED)?;
    let pid = waiter(word)?;
    let place = memory(4096)?;
    let moved = sys!(SYS_mremap, word, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, place)?;
    fails!(wake(word, 1), EFAULT);
    same!(wake(moved, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn deleted_file_works() -> Outcome {
    let fd = two_pages("f")?;
    unlink("f")?;
    let (word, other) = (map_file(fd, READ_WRITE, MAP_SHARED, 0)?, map_file(fd, READ_WRITE, MAP_SHARED, 0)?);
    close(fd)?;
    let pid = waiter(word)?;
    same!(wake(other, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn two_files_are_apart() -> Outcome {
    let (one, two) = (two_pages("f")?, two_pages("g")?);
    let (word, other) = (map_file(one, READ_WRITE, MAP_SHARED, 0)?, map_file(two, READ_WRITE, MAP_SHARED, 0)?);
    let pid = waiter(word)?;
    same!(wake(other, 1)?, 0);
    same!(wake(word, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn private_flag_is_apart_between_processes() -> Outcome {
    let words = Shared::new()?;
    let time = timespec_ms(150);
    let pid = child(|| match futex(words.address(0), FUTEX_WAIT | PRIVATE, 0, &raw const time as usize, 0, 0) {
        Err(Errno(ETIMEDOUT)) => 0,
        _ => 1,
    })?;
    sleep_ms(50);
    same!(futex(words.address(0), FUTEX_WAKE | PRIVATE, 9, 0, 0, 0)?, 0);
    same!(wake(words.address(0), 9)?, 0);
    same!(status(pid)?, 0);
    Ok(())
}

/// Waits for the word after its argument; stores 1 behind it when woken, else the error.
extern "C" fn wait_shared(base: usize) -> i32 {
    thread_waits(base, FUTEX_WAIT)
}

extern "C" fn wait_private(base: usize) -> i32 {
    thread_waits(base, FUTEX_WAIT | PRIVATE)
}

fn thread_waits(base: usize, command: i32) -> i32 {
    let time = timespec_ms(10_000);
    let result = futex(base + 4, command, 0, &raw const time as usize, 0, 0);
    poke(base + 8, result.map_or_else(|error| error.0 as u32 + 100, |_| 1));
    0
}

fn waiting_thread(base: usize, body: extern "C" fn(usize) -> i32) -> Outcome {
    poke(base, 1u32);
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, base as *mut i32, 0, body, base)?;
    sleep_ms(50);
    Ok(())
}

fn private_memory_works_with_shared_calls() -> Outcome {
    let base = memory(4096)?;
    waiting_thread(base, wait_shared)?;
    same!(wake(base + 4, 9)?, 1);
    join(base)?;
    same!(peek::<u32>(base + 8), 1);
    Ok(())
}

fn private_memory_has_two_futexes_a_word() -> Outcome {
    let base = memory(4096)?;
    waiting_thread(base, wait_private)?;
    same!(wake(base + 4, 9)?, 0);
    same!(futex(base + 4, FUTEX_WAKE | PRIVATE, 9, 0, 0, 0)?, 1);
    join(base)?;
    waiting_thread(base, wait_shared)?;
    same!(futex(base + 4, FUTEX_WAKE | PRIVATE, 9, 0, 0, 0)?, 0);
    same!(wake(base + 4, 9)?, 1);
    join(base)?;
    same!(peek::<u32>(base + 8), 1);
    Ok(())
}

fn private_memory_is_apart_after_fork() -> Outcome {
    let base = memory(4096)?;
    waiting_thread(base, wait_shared)?;
    let pid = child(|| (wake(base + 4, 9) != Ok(0)).into())?;
    same!(status(pid)?, 0);
    same!(wake(base + 4, 9)?, 1);
    join(base)?;
    Ok(())
}

fn waiter_outlives_its_mapping() -> Outcome {
    let base = memory(4096)?;
    let word = map(0, 4096, READ_WRITE, SHARED)?;
    poke(base, 1u32);
    // The thread waits for a word of the page that goes.
    extern "C" fn wait_there(base: usize) -> i32 {
        let time = timespec_ms(200);
        let result = futex(peek(base + 16), FUTEX_WAIT, 0, &raw const time as usize, 0, 0);
        poke(base + 8, result.map_or_else(|error| error.0 as u32, |_| 1000));
        0
    }
    poke(base + 16, word);
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, base as *mut i32, 0, wait_there, base)?;
    sleep_ms(50);
    sys!(SYS_munmap, word, 4096)?;
    join(base)?;
    same!(peek::<u32>(base + 8), ETIMEDOUT as u32);
    Ok(())
}

fn waiter_of_a_killed_process_is_gone() -> Outcome {
    let words = Shared::new()?;
    let pid = waiter(words.address(0))?;
    kill(pid, SIGKILL)?;
    same!(status(pid)?, 128 + SIGKILL);
    same!(wake(words.address(0), 9)?, 0);
    Ok(())
}

/// 40 threads wait for 40 words; each is woken alone.
fn many_waiters_of_many_words() -> Outcome {
    let base = memory(65536)?;
    let place = |thread: usize| base + thread * 16;
    for thread in 0..40 {
        poke(place(thread), 1u32);
        clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, place(thread) as *mut i32, 0, wait_private, place(thread))?;
    }
    sleep_ms(100);
    for thread in 0..40 {
        same!(futex(place(thread) + 4, FUTEX_WAKE | PRIVATE, 9, 0, 0, 0)?, 1);
        join(place(thread))?;
        same!(peek::<u32>(place(thread) + 8), 1);
    }
    Ok(())
}
