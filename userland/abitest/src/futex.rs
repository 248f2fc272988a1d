//! futex(2) and threads: waiting on a word, waking, and what a thread's exit does.

use std::ptr::null_mut;
use std::sync::atomic::Ordering::SeqCst;

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    changed_word_is_eagain,
    waiting_times_out,
    wake_without_waiters_is_zero,
    wake_ends_a_wait_across_processes,
    wake_counts_those_it_woke,
    private_and_shared_are_apart,
    unaligned_word_is_einval,
    bad_address_is_efault,
    bad_operation_is_enosys,
    bad_timeout_is_einval,
    absolute_timeout_of_wait_bitset,
    bitset_chooses_whom_to_wake,
    empty_bitset_is_einval,
    requeue_moves_waiters,
    cmp_requeue_checks_the_word,
    wake_op_changes_the_second_word,
    a_signal_interrupts_waiting,
    wait_restarts_with_restart,
    thread_exit_clears_its_word_and_wakes,
    thread_has_its_own_tls,
    thread_shares_pid_but_not_tid,
    exit_group_ends_all_threads,
    last_thread_decides_after_exit,
    shared_file_word_works_through_two_mappings,
    robust_list_marks_the_dead_owner,
    mutex_of_eight_threads_counts_right,
    private_wake_sees_copies_apart_after_fork,
];

pub const THREAD: i32 = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

pub fn futex(address: usize, operation: i32, value: u32, time: usize, second: usize, third: u32) -> Result<usize> {
    sys!(SYS_futex, address, operation, value, time, second, third)
}

pub fn wait_on(address: usize, value: u32, ms: i64) -> Result<usize> {
    let time = timespec_ms(ms);
    futex(address, FUTEX_WAIT, value, &raw const time as usize, 0, 0)
}

pub fn wake(address: usize, number: u32) -> Result<usize> {
    futex(address, FUTEX_WAKE, number, 0, 0, 0)
}

/// `number` children that wait on word 0 with `operation`; returns when all sleep. Their status: 0 when woken.
pub fn sleepers(words: Shared, number: u32, operation: i32, bits: u32) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for _ in 0..number {
        pids.push(child(|| {
            words.word(1).fetch_add(1, SeqCst);
            let result = futex(words.address(0), operation, 0, 0, 0, bits);
            words.word(2).fetch_add(1, SeqCst);
            result.map_or_else(|error| error.0, |_| 0)
        })?);
    }
    words.wait_for(1, number);
    // Between the count and the sleep there is nothing to see; this is long for it.
    sleep_ms(50);
    Ok(pids)
}

pub fn all_woken(pids: Vec<i32>) -> Outcome {
    for pid in pids {
        same!(status(pid)?, 0);
    }
    Ok(())
}

fn changed_word_is_eagain() -> Outcome {
    let words = Shared::new()?;
    words.set(0, 5);
    fails!(wait_on(words.address(0), 4, 1000), EAGAIN);
    Ok(())
}

fn waiting_times_out() -> Outcome {
    let words = Shared::new()?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    fails!(wait_on(words.address(0), 0, 40), ETIMEDOUT);
    let took = now_ns(CLOCK_MONOTONIC)? - start;
    holds!((40_000_000..2_000_000_000).contains(&took));
    Ok(())
}

fn wake_without_waiters_is_zero() -> Outcome {
    let words = Shared::new()?;
    same!(wake(words.address(0), 10)?, 0);
    Ok(())
}

fn wake_ends_a_wait_across_processes() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 1, FUTEX_WAIT, 0)?;
    words.set(0, 1);
    same!(wake(words.address(0), 1)?, 1);
    all_woken(pids)
}

fn wake_counts_those_it_woke() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 5, FUTEX_WAIT, 0)?;
    same!(wake(words.address(0), 2)?, 2);
    holds!(words.wait_for(2, 2));
    sleep_ms(10);
    same!(words.get(2), 2);
    same!(wake(words.address(0), 100)?, 3);
    all_woken(pids)
}

fn private_and_shared_are_apart() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 1, FUTEX_WAIT, 0)?;
    same!(futex(words.address(0), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0, 0, 0)?, 0);
    same!(wake(words.address(0), 1)?, 1);
    all_woken(pids)
}

fn unaligned_word_is_einval() -> Outcome {
    let words = Shared::new()?;
    fails!(wait_on(words.address(0) + 1, 0, 1000), EINVAL);
    fails!(wake(words.address(0) + 2, 1), EINVAL);
    Ok(())
}

fn bad_address_is_efault() -> Outcome {
    fails!(wait_on(8, 0, 1000), EFAULT);
    let page = memory(4096)?;
    sys!(SYS_munmap, page, 4096)?;
    fails!(wait_on(page, 0, 1000), EFAULT);
    fails!(futex(page, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0), EFAULT);
    Ok(())
}

fn bad_operation_is_enosys() -> Outcome {
    let words = Shared::new()?;
    fails!(futex(words.address(0), 99, 0, 0, 0, 0), ENOSYS);
    fails!(futex(words.address(0), FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 0, 0, 0, 0), ENOSYS);
    Ok(())
}

fn bad_timeout_is_einval() -> Outcome {
    let words = Shared::new()?;
    let mut time = timespec_ms(0);
    time.tv_nsec = 1_000_000_000;
    fails!(futex(words.address(0), FUTEX_WAIT, 0, &raw const time as usize, 0, 0), EINVAL);
    time.tv_nsec = 0;
    time.tv_sec = -1;
    fails!(futex(words.address(0), FUTEX_WAIT, 0, &raw const time as usize, 0, 0), EINVAL);
    fails!(futex(words.address(0), FUTEX_WAIT, 0, 8, 0, 0), EFAULT);
    Ok(())
}

fn absolute_timeout_of_wait_bitset() -> Outcome {
    let words = Shared::new()?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    let time = timespec_ms(start / 1_000_000 + 50);
    fails!(futex(words.address(0), FUTEX_WAIT_BITSET, 0, &raw const time as usize, 0, u32::MAX), ETIMEDOUT);
    let took = now_ns(CLOCK_MONOTONIC)? - start;
    holds!((45_000_000..2_000_000_000).contains(&took));
    // In the past: at once.
    let time = timespec_ms(1);
    fails!(futex(words.address(0), FUTEX_WAIT_BITSET, 0, &raw const time as usize, 0, u32::MAX), ETIMEDOUT);
    Ok(())
}

fn bitset_chooses_whom_to_wake() -> Outcome {
    let words = Shared::new()?;
    let even = sleepers(words, 1, FUTEX_WAIT_BITSET, 0b01)?;
    words.set(1, 0);
    let odd = sleepers(words, 2, FUTEX_WAIT_BITSET, 0b10)?;
    same!(futex(words.address(0), FUTEX_WAKE_BITSET, 10, 0, 0, 0b100)?, 0);
    same!(futex(words.address(0), FUTEX_WAKE_BITSET, 10, 0, 0, 0b10)?, 2);
    all_woken(odd)?;
    same!(wake(words.address(0), 10)?, 1);
    all_woken(even)
}

fn empty_bitset_is_einval() -> Outcome {
    let words = Shared::new()?;
    fails!(futex(words.address(0), FUTEX_WAIT_BITSET, 0, 0, 0, 0), EINVAL);
    fails!(futex(words.address(0), FUTEX_WAKE_BITSET, 1, 0, 0, 0), EINVAL);
    Ok(())
}

fn requeue_moves_waiters() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 4, FUTEX_WAIT, 0)?;
    same!(futex(words.address(0), FUTEX_REQUEUE, 1, 2, words.address(9), 0)?, 3);
    same!(wake(words.address(9), 10)?, 2);
    same!(wake(words.address(0), 10)?, 1);
    all_woken(pids)
}

fn cmp_requeue_checks_the_word() -> Outcome {
    let words = Shared::new()?;
    fails!(futex(words.address(0), FUTEX_CMP_REQUEUE, 1, 1, words.address(9), 7), EAGAIN);
    let pids = sleepers(words, 3, FUTEX_WAIT, 0)?;
    same!(futex(words.address(0), FUTEX_CMP_REQUEUE, 1, 100, words.address(9), 0)?, 3);
    same!(wake(words.address(9), 10)?, 2);
    all_woken(pids)
}

fn wake_op_changes_the_second_word() -> Outcome {
    let words = Shared::new()?;
    words.set(9, 5);
    let pids = sleepers(words, 1, FUTEX_WAIT, 0)?;
    // Add 3 to word 9; if it was 5, wake there as well.
    let operation = 1 << 28 | 3 << 12 | 5;
    same!(futex(words.address(0), FUTEX_WAKE_OP, 1, 1, words.address(9), operation)?, 1);
    same!(words.get(9), 8);
    all_woken(pids)
}

fn a_signal_interrupts_waiting() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    let words = Shared::new()?;
    let me = getpid();
    let pid = child(|| {
        sleep_ms(30);
        kill(me, SIGUSR1).is_err().into()
    })?;
    fails!(futex(words.address(0), FUTEX_WAIT, 0, 0, 0, 0), EINTR);
    same!(count(), 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn wait_restarts_with_restart() -> Outcome {
    note_signal(SIGUSR1, SA_RESTART)?;
    let words = Shared::new()?;
    let me = getpid();
    let pid = child(|| {
        sleep_ms(30);
        let _ = kill(me, SIGUSR1);
        sleep_ms(30);
        words.set(0, 1);
        (wake(words.address(0), 1) != Ok(1)).into()
    })?;
    same!(futex(words.address(0), FUTEX_WAIT, 0, 0, 0, 0)?, 0);
    same!(count(), 1);
    same!(status(pid)?, 0);
    Ok(())
}

extern "C" fn set_seven(address: usize) -> i32 {
    sleep_ms(20);
    poke(address, 7u32);
    0
}

/// Waits until the kernel has cleared a thread's word.
pub fn join(word: usize) -> Outcome {
    for _ in 0..100 {
        let tid: u32 = peek(word);
        if tid == 0 {
            return Ok(());
        }
        match wait_on(word, tid, 5000) {
            Ok(_) | Err(Errno(EAGAIN | EINTR)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    holds!(peek::<u32>(word) == 0);
    Ok(())
}

fn thread_exit_clears_its_word_and_wakes() -> Outcome {
    let words = Shared::new()?;
    words.set(0, 1);
    let tid = words.address(0) as *mut i32;
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, tid, 0, set_seven, words.address(1))?;
    join(words.address(0))?;
    same!(words.get(1), 7);
    Ok(())
}

extern "C" fn set_seven_and_return_nine(address: usize) -> i32 {
    set_seven(address) + 9
}

extern "C" fn store_thread_pointer(address: usize) -> i32 {
    poke(address, thread_pointer());
    0
}

fn thread_has_its_own_tls() -> Outcome {
    let words = Shared::new()?;
    let area = memory(4096)?;
    poke(area, area);
    words.set(0, 1);
    let mine = thread_pointer();
    let flags = THREAD | CLONE_CHILD_CLEARTID | CLONE_SETTLS;
    clone_on_stack(flags, words.address(0) as *mut i32, area, store_thread_pointer, words.address(2))?;
    join(words.address(0))?;
    same!(peek::<usize>(words.address(2)), area);
    same!(thread_pointer(), mine);
    Ok(())
}

extern "C" fn store_ids(address: usize) -> i32 {
    poke(address, getpid());
    poke(address + 4, raw(SYS_gettid, [0; 6]) as i32);
    0
}

fn thread_shares_pid_but_not_tid() -> Outcome {
    let words = Shared::new()?;
    words.set(0, 1);
    let flags = THREAD | CLONE_CHILD_CLEARTID;
    let tid = clone_on_stack(flags, words.address(0) as *mut i32, 0, store_ids, words.address(2))?;
    join(words.address(0))?;
    same!(words.get(2) as i32, getpid());
    same!(words.get(3) as i32, tid);
    holds!(tid != getpid());
    fails!(wait(tid), ECHILD);
    Ok(())
}

extern "C" fn linger(_: usize) -> i32 {
    sleep_ms(30_000);
    0
}

extern "C" fn end_all(_: usize) -> i32 {
    sleep_ms(10);
    exit(33)
}

fn exit_group_ends_all_threads() -> Outcome {
    let pid = child(|| {
        for body in [linger as extern "C" fn(usize) -> i32, linger, end_all] {
            if clone_on_stack(THREAD, null_mut(), 0, body, 0).is_err() {
                return 1;
            }
        }
        sleep_ms(30_000);
        0
    })?;
    same!(status(pid)?, 33);
    Ok(())
}

fn last_thread_decides_after_exit() -> Outcome {
    let start = now_ns(CLOCK_MONOTONIC)?;
    let words = Shared::new()?;
    let pid = child(|| {
        if clone_on_stack(THREAD, null_mut(), 0, set_seven_and_return_nine, words.address(0)).is_err() {
            return 1;
        }
        // Only this thread ends; the process lives on until the other has ended.
        let _ = sys!(SYS_exit, 4);
        2
    })?;
    // Linux since 6.0: the status is the last thread's.
    same!(status(pid)?, 9);
    same!(words.get(0), 7);
    holds!(now_ns(CLOCK_MONOTONIC)? - start >= 20_000_000);
    Ok(())
}

fn shared_file_word_works_through_two_mappings() -> Outcome {
    file("f", &[0; 4096])?;
    let fd = open("f", O_RDWR, 0)?;
    let one = sys!(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
    let two = sys!(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
    let pid = child(|| wait_on(one + 8, 0, 10_000).map_or_else(|error| error.0, |_| 0))?;
    sleep_ms(50);
    same!(wake(two + 8, 1)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn robust_list_marks_the_dead_owner() -> Outcome {
    let words = Shared::new()?;
    // Words 0..6 are the head {list, offset, pending}; words 8, 9 the one entry {next}; word 12 the lock.
    let (head, entry, lock) = (words.address(0), words.address(8), words.address(12));
    let pid = child(|| {
        poke(head, entry);
        poke(head + 8, lock - entry);
        poke(head + 16, 0usize);
        poke(entry, head);
        words.set(12, getpid() as u32);
        sys!(SYS_set_robust_list, head, 24).is_err().into()
    })?;
    same!(status(pid)?, 0);
    same!(words.get(12), 0x4000_0000);
    fails!(sys!(SYS_set_robust_list, head, 23), EINVAL);
    Ok(())
}

/// Takes and leaves a mutex a thousand times: word 0 is the lock (0 free, 1 taken, 2 taken and wanted), word 1 the count.
extern "C" fn count_under_lock(base: usize) -> i32 {
    let word = |index: usize| Shared::at(base).word(index);
    for _ in 0..1000 {
        if word(0).compare_exchange(0, 1, SeqCst, SeqCst).is_err() {
            while word(0).swap(2, SeqCst) != 0 {
                let _ = futex(base, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 2, 0, 0, 0);
            }
        }
        let now = word(1).load(SeqCst);
        word(1).store(now + 1, SeqCst);
        if word(0).swap(0, SeqCst) == 2 {
            let _ = futex(base, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0, 0, 0);
        }
    }
    0
}

fn mutex_of_eight_threads_counts_right() -> Outcome {
    let words = Shared::new()?;
    for thread in 0..8 {
        words.set(20 + thread, 1);
        let tid = words.address(20 + thread) as *mut i32;
        clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, tid, 0, count_under_lock, words.address(0))?;
    }
    for thread in 0..8 {
        join(words.address(20 + thread))?;
    }
    same!(words.get(1), 8000);
    Ok(())
}

fn private_wake_sees_copies_apart_after_fork() -> Outcome {
    let page = memory(4096)?;
    poke(page, 0u32);
    let pid = child(|| match wait_on(page, 0, 100) {
        Err(Errno(ETIMEDOUT)) => 0,
        _ => 1,
    })?;
    sleep_ms(30);
    // The child's word is another page, though at the same address.
    same!(wake(page, 1)?, 0);
    same!(status(pid)?, 0);
    Ok(())
}
