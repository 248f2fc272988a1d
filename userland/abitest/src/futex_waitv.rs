//! futex_waitv(2): waiting for the first of many words.

use crate::case::{Case, Outcome, cases, fails, holds, optional, same};
use crate::futex::{futex, wake};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    flags_are_einval,
    no_futexes_are_einval,
    too_many_futexes_are_einval,
    no_array_is_einval,
    array_in_nothing_is_efault,
    array_that_ends_in_nothing_is_efault,
    size_must_be_given,
    unknown_waiter_flags_are_einval,
    reserved_field_must_be_zero,
    unknown_clock_is_einval,
    clock_without_timeout_is_ignored,
    bad_timeout_is_einval_or_efault,
    monotonic_timeout,
    realtime_timeout,
    timeout_in_the_past,
    changed_word_is_eagain,
    changed_second_word_is_eagain,
    upper_half_of_the_value_is_ignored,
    unaligned_word_is_einval,
    word_in_nothing_is_efault,
    private_word_in_nothing_is_efault,
    index_of_the_woken_word_is_returned,
    last_of_128_is_woken,
    private_and_shared_words_mix,
    one_word_twice_counts_twice,
    woken_sleeper_leaves_the_other_words,
    signal_interrupts,
    restart_restarts,
    requeued_word_keeps_its_index,
    plain_wait_and_vector_share_a_word,
];

const SIZE_32: u32 = 2;
const PRIVATE: u32 = FUTEX_PRIVATE_FLAG as u32;

/// `struct futex_waitv`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

fn entry(address: usize, value: u64) -> Entry {
    Entry { value, address: address as u64, flags: SIZE_32, reserved: 0 }
}

fn call(entries: &[Entry], time: usize, clock: i32) -> Result<usize> {
    sys!(SYS_futex_waitv, entries.as_ptr(), entries.len(), 0, time, clock)
}

/// Waits 5 seconds at most.
fn wait_any(entries: &[Entry]) -> Result<usize> {
    let time = timespec_ms(now_ns(CLOCK_MONOTONIC)? / 1_000_000 + 5000);
    call(entries, &raw const time as usize, CLOCK_MONOTONIC)
}

/// Leaves the case where the kernel has no such call.
fn exists() -> Outcome {
    if let Err(Errno(ENOSYS)) = sys!(SYS_futex_waitv, 0, 0, 1, 0, 0) {
        optional!(Err::<usize, Errno>(Errno(ENOSYS)));
    }
    Ok(())
}

fn flags_are_einval() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let entries = [entry(words.address(0), 1)];
    for flags in [1, 2, 128] {
        fails!(sys!(SYS_futex_waitv, entries.as_ptr(), 1, flags, 0, 0), EINVAL);
    }
    Ok(())
}

fn no_futexes_are_einval() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    fails!(sys!(SYS_futex_waitv, [entry(words.address(0), 1)].as_ptr(), 0, 0, 0, 0), EINVAL);
    Ok(())
}

fn too_many_futexes_are_einval() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let entries = vec![entry(words.address(0), 1); 129];
    fails!(call(&entries, 0, 0), EINVAL);
    fails!(sys!(SYS_futex_waitv, entries.as_ptr(), u32::MAX, 0, 0, 0), EINVAL);
    fails!(call(&entries[..128], 0, 0), EAGAIN);
    Ok(())
}

fn no_array_is_einval() -> Outcome {
    exists()?;
    fails!(sys!(SYS_futex_waitv, 0, 1, 0, 0, 0), EINVAL);
    Ok(())
}

fn array_in_nothing_is_efault() -> Outcome {
    exists()?;
    fails!(sys!(SYS_futex_waitv, 8, 1, 0, 0, 0), EFAULT);
    Ok(())
}

fn array_that_ends_in_nothing_is_efault() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let pages = memory(8192)?;
    sys!(SYS_munmap, pages + 4096, 4096)?;
    poke(pages + 4096 - 24, entry(words.address(0), 0));
    fails!(sys!(SYS_futex_waitv, pages + 4096 - 24, 2, 0, 0, 0), EFAULT);
    Ok(())
}

fn size_must_be_given() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    for flags in [0, 1, 3, PRIVATE, PRIVATE | 1] {
        fails!(wait_any(&[Entry { flags, ..entry(words.address(0), 0) }]), EINVAL);
    }
    Ok(())
}

fn unknown_waiter_flags_are_einval() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    for flag in [8, 64, 256, 1 << 31] {
        fails!(wait_any(&[Entry { flags: SIZE_32 | flag, ..entry(words.address(0), 0) }]), EINVAL);
    }
    Ok(())
}

fn reserved_field_must_be_zero() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    fails!(wait_any(&[Entry { reserved: 1, ..entry(words.address(0), 0) }]), EINVAL);
    Ok(())
}

fn unknown_clock_is_einval() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let time = timespec_ms(0);
    for clock in [CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_PROCESS_CPUTIME_ID, -1, 99] {
        fails!(call(&[entry(words.address(0), 0)], &raw const time as usize, clock), EINVAL);
        // Before the time is looked at.
        fails!(call(&[entry(words.address(0), 0)], 8, clock), EINVAL);
    }
    Ok(())
}

fn clock_without_timeout_is_ignored() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    fails!(call(&[entry(words.address(0), 1)], 0, 99), EAGAIN);
    Ok(())
}

fn bad_timeout_is_einval_or_efault() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let entries = [entry(words.address(0), 0)];
    let mut time = timespec_ms(0);
    time.tv_nsec = 1_000_000_000;
    fails!(call(&entries, &raw const time as usize, CLOCK_MONOTONIC), EINVAL);
    time.tv_nsec = 0;
    time.tv_sec = -1;
    fails!(call(&entries, &raw const time as usize, CLOCK_MONOTONIC), EINVAL);
    fails!(call(&entries, 8, CLOCK_MONOTONIC), EFAULT);
    Ok(())
}

fn times_out(clock: i32, ms: i64) -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    let time = timespec_ms(now_ns(clock)? / 1_000_000 + ms);
    let entries = [entry(words.address(0), 0), entry(words.address(1), 0)];
    fails!(call(&entries, &raw const time as usize, clock), ETIMEDOUT);
    let took = now_ns(CLOCK_MONOTONIC)? - start;
    holds!(took >= (ms - 2) * 1_000_000);
    holds!(took < 2_000_000_000);
    same!(wake(words.address(0), 9)?, 0);
    same!(wake(words.address(1), 9)?, 0);
    Ok(())
}

fn monotonic_timeout() -> Outcome {
    times_out(CLOCK_MONOTONIC, 40)
}

fn realtime_timeout() -> Outcome {
    times_out(CLOCK_REALTIME, 40)
}

fn timeout_in_the_past() -> Outcome {
    times_out(CLOCK_MONOTONIC, -1000)
}

fn changed_word_is_eagain() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    fails!(wait_any(&[entry(words.address(0), 1)]), EAGAIN);
    Ok(())
}

fn changed_second_word_is_eagain() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    fails!(wait_any(&[entry(words.address(0), 0), entry(words.address(1), 1)]), EAGAIN);
    same!(wake(words.address(0), 9)?, 0);
    Ok(())
}

fn upper_half_of_the_value_is_ignored() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let time = timespec_ms(1);
    fails!(call(&[entry(words.address(0), 1 << 32)], &raw const time as usize, CLOCK_MONOTONIC), ETIMEDOUT);
    Ok(())
}

fn unaligned_word_is_einval() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    fails!(wait_any(&[entry(words.address(0), 0), entry(words.address(1) + 2, 0)]), EINVAL);
    Ok(())
}

fn word_in_nothing_is_efault() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    fails!(wait_any(&[entry(words.address(0), 0), entry(8192, 0)]), EFAULT);
    same!(wake(words.address(0), 9)?, 0);
    Ok(())
}

fn private_word_in_nothing_is_efault() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let bad = Entry { flags: SIZE_32 | PRIVATE, ..entry(8192, 0) };
    fails!(wait_any(&[entry(words.address(0), 0), bad]), EFAULT);
    same!(wake(words.address(0), 9)?, 0);
    Ok(())
}

/// A child that waits for `number` words from word 10 on and exits with the index it got, or 200 and the error.
fn vector_sleeper(words: Shared, number: usize) -> Result<i32> {
    let pid = child(|| {
        let entries: Vec<Entry> = (0..number).map(|index| entry(words.address(10 + index), 0)).collect();
        words.set(0, 1);
        wait_any(&entries).map_or_else(|_| 200, |index| index as i32)
    })?;
    words.wait_for(0, 1);
    sleep_ms(50);
    Ok(pid)
}

fn index_of_the_woken_word_is_returned() -> Outcome {
    exists()?;
    for index in [0, 1, 4] {
        let words = Shared::new()?;
        let pid = vector_sleeper(words, 5)?;
        same!(wake(words.address(10 + index), 1)?, 1);
        same!(status(pid)?, index as i32);
    }
    Ok(())
}

fn last_of_128_is_woken() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let pid = vector_sleeper(words, 128)?;
    same!(wake(words.address(10 + 127), 1)?, 1);
    same!(status(pid)?, 127);
    Ok(())
}

fn private_and_shared_words_mix() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let pid = child(|| {
        let private = Entry { flags: SIZE_32 | PRIVATE, ..entry(words.address(10), 0) };
        words.set(0, 1);
        wait_any(&[private, entry(words.address(10), 0)]).map_or_else(|_| 200, |index| index as i32)
    })?;
    words.wait_for(0, 1);
    sleep_ms(50);
    same!(futex(words.address(10), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 9, 0, 0, 0)?, 0);
    same!(wake(words.address(10), 9)?, 1);
    same!(status(pid)?, 1);
    Ok(())
}

fn one_word_twice_counts_twice() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let pid = child(|| {
        words.set(0, 1);
        wait_any(&[entry(words.address(10), 0); 3]).map_or_else(|_| 200, |index| index as i32)
    })?;
    words.wait_for(0, 1);
    sleep_ms(50);
    same!(wake(words.address(10), 9)?, 3);
    // Of several the last one is reported.
    same!(status(pid)?, 2);
    Ok(())
}

fn woken_sleeper_leaves_the_other_words() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let pid = vector_sleeper(words, 3)?;
    same!(wake(words.address(11), 1)?, 1);
    same!(status(pid)?, 1);
    for index in [10, 11, 12] {
        same!(wake(words.address(index), 9)?, 0);
    }
    Ok(())
}

fn interrupt_after_30_ms(words: Shared) -> Result<i32> {
    let me = getpid();
    child(|| {
        sleep_ms(30);
        let _ = kill(me, SIGUSR1);
        sleep_ms(30);
        let _ = wake(words.address(11), 1);
        0
    })
}

fn signal_interrupts() -> Outcome {
    exists()?;
    note_signal(SIGUSR1, 0)?;
    let words = Shared::new()?;
    let pid = interrupt_after_30_ms(words)?;
    fails!(wait_any(&[entry(words.address(10), 0), entry(words.address(11), 0)]), EINTR);
    same!(status(pid)?, 0);
    Ok(())
}

fn restart_restarts() -> Outcome {
    exists()?;
    note_signal(SIGUSR1, SA_RESTART)?;
    let words = Shared::new()?;
    let pid = interrupt_after_30_ms(words)?;
    same!(wait_any(&[entry(words.address(10), 0), entry(words.address(11), 0)])?, 1);
    same!(count(), 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn requeued_word_keeps_its_index() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let pid = vector_sleeper(words, 3)?;
    same!(futex(words.address(12), FUTEX_REQUEUE, 0, 1, words.address(20), 0)?, 1);
    same!(wake(words.address(12), 9)?, 0);
    same!(wake(words.address(20), 9)?, 1);
    same!(status(pid)?, 2);
    Ok(())
}

fn plain_wait_and_vector_share_a_word() -> Outcome {
    exists()?;
    let words = Shared::new()?;
    let one = vector_sleeper(words, 2)?;
    let two = child(|| crate::futex::wait_on(words.address(10), 0, 5000).map_or(200, |_| 0))?;
    sleep_ms(50);
    same!(wake(words.address(10), 9)?, 2);
    same!((status(one)?, status(two)?), (0, 0));
    Ok(())
}
