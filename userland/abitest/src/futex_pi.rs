//! futex(2), "Priority-inheritance futexes": locks whose word holds the owner's TID.

use std::sync::atomic::Ordering::SeqCst;

use crate::case::{Case, Failure, Outcome, cases, fails, holds, same};
use crate::futex::{THREAD, futex, join, sleepers, wake};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    lock_of_a_free_word_stores_the_tid,
    trylock_of_a_free_word_stores_the_tid,
    unlock_frees_the_word,
    own_lock_is_edeadlk,
    unlock_by_another_is_eperm,
    unlock_of_a_free_word_is_eperm,
    bad_words_are_refused,
    owner_that_never_was_is_esrch,
    owner_that_is_gone_is_esrch,
    owner_that_is_a_zombie_is_esrch,
    owner_that_is_a_kernel_thread_is_eperm,
    trylock_of_a_taken_word_is_eagain,
    waiters_bit_is_set_while_one_waits,
    unlock_hands_the_lock_over,
    unlock_hands_over_in_order,
    most_urgent_waiter_gets_the_lock,
    lock_pi_times_out_by_the_real_time_clock,
    lock_pi2_times_out_by_the_monotonic_clock,
    lock_pi2_takes_the_real_time_clock,
    lock_pi_without_a_clock_choice,
    trylock_has_no_timeout,
    timed_out_waiter_leaves_the_lock,
    signal_does_not_end_the_wait,
    killed_waiter_leaves_the_line,
    circle_of_two_is_edeadlk,
    circle_of_three_is_edeadlk,
    dead_owner_leaves_the_lock_to_a_waiter,
    dead_owner_leaves_the_lock_to_each_in_turn,
    dead_owner_with_a_robust_list,
    exec_of_the_owner_leaves_the_lock,
    thread_that_ends_leaves_the_lock,
    left_behind_word_is_taken_with_its_mark,
    waiters_bit_alone_is_a_free_word,
    wake_of_a_pi_waiter_is_einval,
    requeue_of_a_pi_waiter_is_einval,
    lock_of_a_word_with_plain_waiters_is_einval,
    unlock_of_a_word_with_plain_waiters_is_einval,
    word_that_lies_about_the_owner_is_einval,
    unlock_of_who_is_not_the_known_owner_is_einval,
    lock_in_a_file_between_processes,
    private_lock_between_threads,
    lock_in_read_only_memory_is_efault,
    counting_under_the_lock,
    waiter_lends_its_priority,
    priority_goes_down_a_chain,
    priority_comes_back_after_a_timeout,
    requeue_same_word_is_einval,
    requeue_counts_are_checked,
    requeue_without_waiters_is_zero,
    requeue_checks_the_condition,
    requeue_of_plain_waiters_is_einval,
    requeue_to_another_lock_is_einval,
    wait_requeue_arguments,
    wait_requeue_checks_the_condition,
    wait_requeue_times_out,
    requeue_gives_a_free_lock,
    requeue_puts_in_line_for_a_taken_lock,
    requeue_moves_all_that_wait,
    plain_wake_of_a_requeue_waiter_is_einval,
    plain_requeue_of_a_requeue_waiter_is_einval,
    signal_before_the_requeue_is_restarted,
    signal_after_the_requeue_is_eagain,
    requeued_waiter_times_out,
    requeue_to_a_lock_of_nobody_is_esrch,
];

const WAITERS: u32 = FUTEX_WAITERS;
const DIED: u32 = FUTEX_OWNER_DIED;

fn lock(word: usize) -> Result<usize> {
    futex(word, FUTEX_LOCK_PI, 0, 0, 0, 0)
}

fn trylock(word: usize) -> Result<usize> {
    futex(word, FUTEX_TRYLOCK_PI, 0, 0, 0, 0)
}

fn unlock(word: usize) -> Result<usize> {
    futex(word, FUTEX_UNLOCK_PI, 0, 0, 0, 0)
}

fn me() -> u32 {
    raw(SYS_gettid, [0; 6]) as u32
}

fn lock_of_a_free_word_stores_the_tid() -> Outcome {
    let words = Shared::new()?;
    same!(lock(words.address(0))?, 0);
    same!(words.get(0), me());
    Ok(())
}

fn trylock_of_a_free_word_stores_the_tid() -> Outcome {
    let words = Shared::new()?;
    same!(trylock(words.address(0))?, 0);
    same!(words.get(0), me());
    Ok(())
}

fn unlock_frees_the_word() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    same!(unlock(words.address(0))?, 0);
    same!(words.get(0), 0);
    // Whatever bits are left over.
    words.set(0, me() | WAITERS | DIED);
    same!(unlock(words.address(0))?, 0);
    same!(words.get(0), 0);
    Ok(())
}

fn own_lock_is_edeadlk() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    fails!(lock(words.address(0)), EDEADLK);
    fails!(trylock(words.address(0)), EDEADLK);
    same!(words.get(0), me());
    Ok(())
}

fn unlock_by_another_is_eperm() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let pid = child(|| (unlock(words.address(0)) != Err(Errno(EPERM))).into())?;
    same!(status(pid)?, 0);
    same!(words.get(0), me());
    Ok(())
}

fn unlock_of_a_free_word_is_eperm() -> Outcome {
    let words = Shared::new()?;
    fails!(unlock(words.address(0)), EPERM);
    words.set(0, WAITERS);
    fails!(unlock(words.address(0)), EPERM);
    Ok(())
}

fn bad_words_are_refused() -> Outcome {
    let words = Shared::new()?;
    fails!(lock(words.address(0) + 1), EINVAL);
    fails!(trylock(words.address(0) + 2), EINVAL);
    for bad in [8usize, 4096, usize::MAX - 3] {
        fails!(lock(bad), EFAULT);
        fails!(trylock(bad), EFAULT);
        fails!(unlock(bad), EFAULT);
        fails!(futex(bad, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0), EFAULT);
    }
    Ok(())
}

fn owner_that_never_was_is_esrch() -> Outcome {
    let words = Shared::new()?;
    words.set(0, 0x3fff_fff0);
    fails!(lock(words.address(0)), ESRCH);
    fails!(trylock(words.address(0)), ESRCH);
    same!(words.get(0), 0x3fff_fff0 | WAITERS);
    Ok(())
}

fn owner_that_is_gone_is_esrch() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| 0)?;
    status(pid)?;
    words.set(0, pid as u32);
    fails!(lock(words.address(0)), ESRCH);
    Ok(())
}

fn owner_that_is_a_zombie_is_esrch() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| 0)?;
    sleep_ms(50);
    words.set(0, pid as u32);
    fails!(lock(words.address(0)), ESRCH);
    status(pid)?;
    Ok(())
}

fn owner_that_is_a_kernel_thread_is_eperm() -> Outcome {
    let words = Shared::new()?;
    words.set(0, 2);
    fails!(lock(words.address(0)), EPERM);
    Ok(())
}

/// A child that takes word `index`, sets word 100, and lives until word 101 is set; then it unlocks if word 102 is zero.
fn owner(words: Shared, index: usize) -> Result<i32> {
    let pid = child(|| {
        if lock(words.address(index)).is_err() {
            return 1;
        }
        words.set(100, 1);
        words.wait_for(101, 1);
        if words.get(102) == 0 { unlock(words.address(index)).is_err().into() } else { 0 }
    })?;
    words.wait_for(100, 1);
    Ok(pid)
}

/// A child that waits for word `index`; adds one to word 110 before and to 111 after; unlocks. Its status: 0, or the error.
fn waiter(words: Shared, index: usize) -> Result<i32> {
    let before = words.get(110);
    let pid = child(|| {
        words.word(110).fetch_add(1, SeqCst);
        let result = lock(words.address(index));
        let turn = words.word(111).fetch_add(1, SeqCst) as usize;
        words.set(120 + turn, me());
        words.set(140 + turn, words.get(index));
        match result {
            Ok(_) => unlock(words.address(index)).map_or_else(|error| error.0, |_| 0),
            Err(error) => error.0,
        }
    })?;
    words.wait_for(110, before + 1);
    sleep_ms(40);
    Ok(pid)
}

fn trylock_of_a_taken_word_is_eagain() -> Outcome {
    let words = Shared::new()?;
    let pid = owner(words, 0)?;
    fails!(trylock(words.address(0)), EAGAIN);
    same!(words.get(0), pid as u32 | WAITERS);
    words.set(101, 1);
    same!(status(pid)?, 0);
    same!(words.get(0), 0);
    Ok(())
}

fn waiters_bit_is_set_while_one_waits() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let pid = waiter(words, 0)?;
    same!(words.get(0), me() | WAITERS);
    same!(words.get(111), 0);
    unlock(words.address(0))?;
    same!(status(pid)?, 0);
    same!(words.get(0), 0);
    Ok(())
}

fn unlock_hands_the_lock_over() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let pid = waiter(words, 0)?;
    same!(unlock(words.address(0))?, 0);
    same!(status(pid)?, 0);
    same!(words.get(140), pid as u32 | WAITERS);
    Ok(())
}

fn unlock_hands_over_in_order() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let pids = [waiter(words, 0)?, waiter(words, 0)?, waiter(words, 0)?];
    unlock(words.address(0))?;
    for (turn, pid) in pids.into_iter().enumerate() {
        same!(status(pid)?, 0);
        same!(words.get(120 + turn), pid as u32);
    }
    Ok(())
}

fn fifo(pid: i32, priority: i32) -> Result<usize> {
    sys!(SYS_sched_setscheduler, pid, SCHED_FIFO, &raw const priority)
}

/// As [`waiter`], of a real-time priority.
fn urgent_waiter(words: Shared, index: usize, priority: i32) -> Result<i32> {
    let before = words.get(110);
    let pid = child(|| {
        if fifo(0, priority).is_err() {
            return 99;
        }
        words.word(110).fetch_add(1, SeqCst);
        let result = lock(words.address(index));
        let turn = words.word(111).fetch_add(1, SeqCst) as usize;
        words.set(120 + turn, me());
        match result {
            Ok(_) => unlock(words.address(index)).map_or_else(|error| error.0, |_| 0),
            Err(error) => error.0,
        }
    })?;
    words.wait_for(110, before + 1);
    sleep_ms(40);
    Ok(pid)
}

fn most_urgent_waiter_gets_the_lock() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let pids =
        [waiter(words, 0)?, urgent_waiter(words, 0, 10)?, urgent_waiter(words, 0, 30)?, urgent_waiter(words, 0, 20)?];
    unlock(words.address(0))?;
    for pid in pids {
        same!(status(pid)?, 0);
    }
    let order: Vec<u32> = (0..4).map(|turn| words.get(120 + turn)).collect();
    same!(order, [pids[2], pids[3], pids[1], pids[0]].map(|pid| pid as u32));
    Ok(())
}

fn lock_until(command: i32, clock: i32, ms: i64) -> Outcome {
    let words = Shared::new()?;
    let pid = owner(words, 0)?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    let time = timespec_ms(now_ns(clock)? / 1_000_000 + ms);
    fails!(futex(words.address(0), command, 0, &raw const time as usize, 0, 0), ETIMEDOUT);
    let took = now_ns(CLOCK_MONOTONIC)? - start;
    holds!(took >= (ms - 2) * 1_000_000);
    holds!(took < 2_000_000_000);
    words.set(101, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn lock_pi_times_out_by_the_real_time_clock() -> Outcome {
    lock_until(FUTEX_LOCK_PI, CLOCK_REALTIME, 40)?;
    lock_until(FUTEX_LOCK_PI, CLOCK_REALTIME, -1000)
}

fn lock_pi2_times_out_by_the_monotonic_clock() -> Outcome {
    lock_until(FUTEX_LOCK_PI2, CLOCK_MONOTONIC, 40)
}

fn lock_pi2_takes_the_real_time_clock() -> Outcome {
    lock_until(FUTEX_LOCK_PI2 | FUTEX_CLOCK_REALTIME, CLOCK_REALTIME, 40)
}

fn lock_pi_without_a_clock_choice() -> Outcome {
    let words = Shared::new()?;
    fails!(futex(words.address(0), FUTEX_LOCK_PI | FUTEX_CLOCK_REALTIME, 0, 0, 0, 0), ENOSYS);
    same!(words.get(0), 0);
    Ok(())
}

fn trylock_has_no_timeout() -> Outcome {
    let words = Shared::new()?;
    same!(futex(words.address(0), FUTEX_TRYLOCK_PI, 0, 8, 0, 0)?, 0);
    same!(futex(words.address(0), FUTEX_UNLOCK_PI, 0, 8, 0, 0)?, 0);
    Ok(())
}

fn timed_out_waiter_leaves_the_lock() -> Outcome {
    let words = Shared::new()?;
    let pid = owner(words, 0)?;
    let time = timespec_ms(1);
    fails!(futex(words.address(0), FUTEX_LOCK_PI, 0, &raw const time as usize, 0, 0), ETIMEDOUT);
    same!(words.get(0), pid as u32 | WAITERS);
    words.set(101, 1);
    same!(status(pid)?, 0);
    same!(words.get(0), 0);
    Ok(())
}

fn signal_does_not_end_the_wait() -> Outcome {
    let words = Shared::new()?;
    note_signal(SIGUSR1, 0)?;
    let pid = owner(words, 0)?;
    let parent = getpid();
    let helper = child(|| {
        sleep_ms(40);
        let _ = kill(parent, SIGUSR1);
        sleep_ms(40);
        words.set(101, 1);
        0
    })?;
    same!(lock(words.address(0))?, 0);
    same!(count(), 1);
    same!((status(pid)?, status(helper)?), (0, 0));
    Ok(())
}

fn killed_waiter_leaves_the_line() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let (first, second) = (waiter(words, 0)?, waiter(words, 0)?);
    kill(first, SIGKILL)?;
    same!(status(first)?, 128 + SIGKILL);
    unlock(words.address(0))?;
    same!(status(second)?, 0);
    same!(words.get(0), 0);
    Ok(())
}

/// Children that each take one of `number` words and wait for the next one's; the caller closes the circle.
fn circle(number: usize) -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let mut pids = Vec::new();
    for index in 1..number {
        pids.push(child(|| {
            if lock(words.address(index)).is_err() {
                return 1;
            }
            words.set(100 + index, 1);
            let result = lock(words.address(index - 1));
            let _ = unlock(words.address(index - 1));
            let _ = unlock(words.address(index));
            result.map_or_else(|error| error.0, |_| 0)
        })?);
        words.wait_for(100 + index, 1);
        sleep_ms(40);
    }
    fails!(lock(words.address(number - 1)), EDEADLK);
    unlock(words.address(0))?;
    for pid in pids {
        same!(status(pid)?, 0);
    }
    Ok(())
}

fn circle_of_two_is_edeadlk() -> Outcome {
    circle(2)
}

fn circle_of_three_is_edeadlk() -> Outcome {
    circle(3)
}

fn dead_owner_leaves_the_lock_to_a_waiter() -> Outcome {
    let words = Shared::new()?;
    words.set(102, 1);
    let pid = owner(words, 0)?;
    let next = waiter(words, 0)?;
    words.set(101, 1);
    same!((status(pid)?, status(next)?), (0, 0));
    same!(words.get(140), next as u32 | WAITERS | DIED);
    same!(words.get(0), 0);
    Ok(())
}

fn dead_owner_leaves_the_lock_to_each_in_turn() -> Outcome {
    let words = Shared::new()?;
    words.set(102, 1);
    let pid = owner(words, 0)?;
    let pids = [waiter(words, 0)?, waiter(words, 0)?, waiter(words, 0)?];
    words.set(101, 1);
    same!(status(pid)?, 0);
    for (turn, pid) in pids.into_iter().enumerate() {
        same!(status(pid)?, 0);
        same!(words.get(120 + turn), pid as u32);
    }
    // Only the first one hears of the death.
    same!(words.get(141) & DIED, 0);
    Ok(())
}

fn dead_owner_with_a_robust_list() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        // Word 20 is the lock of the entry at 18; its lowest bit says PI.
        poke(words.address(10), words.address(18) | 1);
        poke(words.address(12), 8usize);
        poke(words.address(14), 0usize);
        poke(words.address(18), words.address(10));
        if lock(words.address(20)).is_err() || sys!(SYS_set_robust_list, words.address(10), 24).is_err() {
            return 1;
        }
        words.set(100, 1);
        words.wait_for(101, 1);
        0
    })?;
    words.wait_for(100, 1);
    let next = waiter(words, 20)?;
    words.set(101, 1);
    same!((status(pid)?, status(next)?), (0, 0));
    same!(words.get(140), next as u32 | WAITERS | DIED);
    Ok(())
}

fn exec_of_the_owner_leaves_the_lock() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        if lock(words.address(0)).is_err() {
            return 1;
        }
        words.set(100, 1);
        words.wait_for(101, 1);
        let program = path("/bin/true");
        let arguments = [program.as_ptr() as usize, 0];
        let _ = sys!(SYS_execve, program.as_ptr(), arguments.as_ptr(), arguments[1..].as_ptr());
        1
    })?;
    words.wait_for(100, 1);
    let next = waiter(words, 0)?;
    words.set(101, 1);
    same!((status(pid)?, status(next)?), (0, 0));
    same!(words.get(140), next as u32 | WAITERS | DIED);
    Ok(())
}

extern "C" fn lock_and_end(base: usize) -> i32 {
    let words = Shared::at(base);
    let result = lock(words.address(0));
    words.set(100, 1);
    words.wait_for(101, 1);
    result.is_err().into()
}

fn thread_that_ends_leaves_the_lock() -> Outcome {
    let words = Shared::new()?;
    words.set(5, 1);
    let tid = words.address(5) as *mut i32;
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, tid, 0, lock_and_end, words.address(0))?;
    words.wait_for(100, 1);
    let next = waiter(words, 0)?;
    words.set(101, 1);
    join(words.address(5))?;
    same!(status(next)?, 0);
    same!(words.get(140), next as u32 | WAITERS | DIED);
    Ok(())
}

fn left_behind_word_is_taken_with_its_mark() -> Outcome {
    let words = Shared::new()?;
    words.set(0, DIED);
    same!(lock(words.address(0))?, 0);
    same!(words.get(0), me() | DIED);
    words.set(0, DIED | WAITERS);
    same!(lock(words.address(0))?, 0);
    same!(words.get(0), me() | DIED);
    Ok(())
}

fn waiters_bit_alone_is_a_free_word() -> Outcome {
    let words = Shared::new()?;
    words.set(0, WAITERS);
    same!(lock(words.address(0))?, 0);
    same!(words.get(0), me());
    Ok(())
}

fn wake_of_a_pi_waiter_is_einval() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let pid = waiter(words, 0)?;
    fails!(wake(words.address(0), 1), EINVAL);
    fails!(futex(words.address(0), FUTEX_WAKE_BITSET, 1, 0, 0, 1), EINVAL);
    same!(words.get(111), 0);
    unlock(words.address(0))?;
    same!(status(pid)?, 0);
    Ok(())
}

fn requeue_of_a_pi_waiter_is_einval() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let pid = waiter(words, 0)?;
    fails!(futex(words.address(0), FUTEX_REQUEUE, 1, 1, words.address(9), 0), EINVAL);
    fails!(futex(words.address(0), FUTEX_CMP_REQUEUE, 1, 1, words.address(9), words.get(0)), EINVAL);
    unlock(words.address(0))?;
    same!(status(pid)?, 0);
    Ok(())
}

fn lock_of_a_word_with_plain_waiters_is_einval() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 1, FUTEX_WAIT, 0)?;
    fails!(lock(words.address(0)), EINVAL);
    fails!(trylock(words.address(0)), EINVAL);
    same!(wake(words.address(0), 1)?, 1);
    crate::futex::all_woken(pids)
}

fn unlock_of_a_word_with_plain_waiters_is_einval() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 1, FUTEX_WAIT, 0)?;
    words.set(0, me());
    fails!(unlock(words.address(0)), EINVAL);
    same!(words.get(0), me());
    same!(wake(words.address(0), 1)?, 1);
    crate::futex::all_woken(pids)
}

fn word_that_lies_about_the_owner_is_einval() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let pid = waiter(words, 0)?;
    let true_word = words.get(0);
    words.set(0, pid as u32 | WAITERS);
    fails!(lock(words.address(0)), EINVAL);
    words.set(0, 1 | WAITERS);
    fails!(trylock(words.address(0)), EINVAL);
    words.set(0, true_word);
    unlock(words.address(0))?;
    same!(status(pid)?, 0);
    Ok(())
}

fn unlock_of_who_is_not_the_known_owner_is_einval() -> Outcome {
    let words = Shared::new()?;
    let pid = owner(words, 0)?;
    let next = waiter(words, 0)?;
    let true_word = words.get(0);
    words.set(0, me() | WAITERS);
    fails!(unlock(words.address(0)), EINVAL);
    words.set(0, true_word);
    words.set(101, 1);
    same!((status(pid)?, status(next)?), (0, 0));
    Ok(())
}

fn lock_in_a_file_between_processes() -> Outcome {
    file("f", &[0; 4096])?;
    let fd = open("f", O_RDWR, 0)?;
    let map_it = || sys!(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    let words = Shared::at(map_it()?);
    lock(words.address(0))?;
    let pid = child(|| {
        let Ok(own) = map_it() else { return 1 };
        words.set(110, 1);
        match lock(own) {
            Ok(_) => unlock(own).map_or_else(|error| error.0, |_| 0),
            Err(error) => error.0,
        }
    })?;
    words.wait_for(110, 1);
    sleep_ms(40);
    unlock(words.address(0))?;
    same!(status(pid)?, 0);
    same!(words.get(0), 0);
    Ok(())
}

extern "C" fn lock_privately(base: usize) -> i32 {
    let words = Shared::at(base);
    words.set(110, 1);
    let result = futex(words.address(0), FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0);
    words.set(111, words.get(0));
    let _ = futex(words.address(0), FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0);
    result.is_err().into()
}

fn private_lock_between_threads() -> Outcome {
    let words = Shared::at(memory(4096)?);
    futex(words.address(0), FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0)?;
    words.set(5, 1);
    let place = words.address(5) as *mut i32;
    let tid = clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, place, 0, lock_privately, words.address(0))?;
    words.wait_for(110, 1);
    sleep_ms(40);
    same!(words.get(0), me() | WAITERS);
    futex(words.address(0), FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0)?;
    join(words.address(5))?;
    same!((words.get(111), words.get(0)), (tid as u32 | WAITERS, 0));
    Ok(())
}

fn lock_in_read_only_memory_is_efault() -> Outcome {
    let page = map(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS)?;
    for flag in [0, FUTEX_PRIVATE_FLAG] {
        fails!(futex(page, FUTEX_LOCK_PI | flag, 0, 0, 0, 0), EFAULT);
        fails!(futex(page, FUTEX_TRYLOCK_PI | flag, 0, 0, 0, 0), EFAULT);
    }
    Ok(())
}

fn counting_under_the_lock() -> Outcome {
    let words = Shared::new()?;
    let mut pids = Vec::new();
    for _ in 0..4 {
        pids.push(child(|| {
            for _ in 0..200 {
                let free = words.word(0).compare_exchange(0, me(), SeqCst, SeqCst).is_ok();
                if !free && lock(words.address(0)).is_err() {
                    return 1;
                }
                let now = words.get(1);
                if now % 16 == 0 {
                    let _ = sys!(SYS_sched_yield);
                }
                words.set(1, now + 1);
                let alone = words.word(0).compare_exchange(me(), 0, SeqCst, SeqCst).is_ok();
                if !alone && unlock(words.address(0)).is_err() {
                    return 2;
                }
            }
            0
        })?);
    }
    for pid in pids {
        same!(status(pid)?, 0);
    }
    same!((words.get(0), words.get(1)), (0, 800));
    Ok(())
}

/// The priority that /proc/PID/stat shows: negative for a task that runs as a real-time one.
fn shown_priority(pid: i32) -> std::result::Result<i64, Failure> {
    let text = String::from_utf8_lossy(&content(&format!("/proc/{pid}/stat"))?).into_owned();
    let after = text.rsplit(") ").next().unwrap_or("").to_string();
    after.split(' ').nth(15).and_then(|field| field.parse().ok()).ok_or(Failure(format!("no priority in {text}")))
}

fn waiter_lends_its_priority() -> Outcome {
    let words = Shared::new()?;
    let pid = owner(words, 0)?;
    same!(shown_priority(pid)?, 20);
    let next = urgent_waiter(words, 0, 40)?;
    same!(shown_priority(pid)?, -41);
    // The policy is its own.
    same!(sys!(SYS_sched_getscheduler, pid)?, SCHED_OTHER as usize);
    words.set(101, 1);
    same!((status(pid)?, status(next)?), (0, 0));
    Ok(())
}

/// Children 1 to 3: each takes its word and waits for the one before; the first of them waits for word 0, the caller's.
fn priority_goes_down_a_chain() -> Outcome {
    let words = Shared::new()?;
    lock(words.address(0))?;
    let mut pids = Vec::new();
    for index in 1..4 {
        pids.push(child(|| {
            if lock(words.address(index)).is_err() {
                return 1;
            }
            words.set(150 + index, 1);
            let result = lock(words.address(index - 1));
            let _ = unlock(words.address(index - 1));
            let _ = unlock(words.address(index));
            result.map_or_else(|error| error.0, |_| 0)
        })?);
        words.wait_for(150 + index, 1);
        sleep_ms(30);
    }
    let urgent = urgent_waiter(words, 3, 60)?;
    for pid in &pids {
        same!(shown_priority(*pid)?, -61);
    }
    same!(shown_priority(getpid())?, -61);
    unlock(words.address(0))?;
    same!(shown_priority(getpid())?, 20);
    for pid in pids {
        same!(status(pid)?, 0);
    }
    same!(status(urgent)?, 0);
    Ok(())
}

fn priority_comes_back_after_a_timeout() -> Outcome {
    let words = Shared::new()?;
    let pid = owner(words, 0)?;
    let urgent = child(|| {
        if fifo(0, 40).is_err() {
            return 99;
        }
        let Ok(now) = now_ns(CLOCK_MONOTONIC) else { return 98 };
        let time = timespec_ms(now / 1_000_000 + 100);
        let result = futex(words.address(0), FUTEX_LOCK_PI2, 0, &raw const time as usize, 0, 0);
        result.map_or_else(|error| error.0, |_| 0)
    })?;
    sleep_ms(50);
    same!(shown_priority(pid)?, -41);
    same!(status(urgent)?, ETIMEDOUT);
    same!(shown_priority(pid)?, 20);
    words.set(101, 1);
    same!(status(pid)?, 0);
    Ok(())
}

/// FUTEX_CMP_REQUEUE_PI from word 0 to word 1, when word 0 is `expected`.
fn cmp_requeue(words: Shared, wake: u32, moves: usize, expected: u32) -> Result<usize> {
    futex(words.address(0), FUTEX_CMP_REQUEUE_PI, wake, moves, words.address(1), expected)
}

/// A child that waits for condition word 0 to get lock word 1; then unlocks. Its status: 0, or the error.
fn condition_waiter(words: Shared) -> Result<i32> {
    let before = words.get(110);
    let pid = child(|| {
        words.word(110).fetch_add(1, SeqCst);
        let result = futex(words.address(0), FUTEX_WAIT_REQUEUE_PI, 0, 0, words.address(1), 0);
        let turn = words.word(111).fetch_add(1, SeqCst) as usize;
        words.set(120 + turn, words.get(1));
        match result {
            Ok(_) => unlock(words.address(1)).map_or_else(|error| error.0, |_| 0),
            Err(error) => error.0,
        }
    })?;
    words.wait_for(110, before + 1);
    sleep_ms(40);
    Ok(pid)
}

fn requeue_same_word_is_einval() -> Outcome {
    let words = Shared::new()?;
    fails!(futex(words.address(0), FUTEX_CMP_REQUEUE_PI, 1, 0, words.address(0), 0), EINVAL);
    // Two addresses of one word.
    file("f", &[0; 4096])?;
    let fd = open("f", O_RDWR, 0)?;
    let map_it = || sys!(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    let (one, two) = (map_it()?, map_it()?);
    fails!(futex(one, FUTEX_CMP_REQUEUE_PI, 1, 0, two, 0), EINVAL);
    fails!(futex(one, FUTEX_WAIT_REQUEUE_PI, 0, 0, two, 0), EINVAL);
    Ok(())
}

fn requeue_counts_are_checked() -> Outcome {
    let words = Shared::new()?;
    for wake in [0, 2, u32::MAX] {
        fails!(cmp_requeue(words, wake, 1, 0), EINVAL);
    }
    fails!(cmp_requeue(words, 1, -1i32 as u32 as usize, 0), EINVAL);
    Ok(())
}

fn requeue_without_waiters_is_zero() -> Outcome {
    let words = Shared::new()?;
    same!(cmp_requeue(words, 1, 5, 0)?, 0);
    same!(words.get(1), 0);
    Ok(())
}

fn requeue_checks_the_condition() -> Outcome {
    let words = Shared::new()?;
    fails!(cmp_requeue(words, 1, 1, 7), EAGAIN);
    Ok(())
}

fn requeue_of_plain_waiters_is_einval() -> Outcome {
    let words = Shared::new()?;
    let pids = sleepers(words, 1, FUTEX_WAIT, 0)?;
    let target = words.address(9);
    fails!(futex(words.address(0), FUTEX_CMP_REQUEUE_PI, 1, 1, target, 0), EINVAL);
    same!(wake(words.address(0), 1)?, 1);
    crate::futex::all_woken(pids)
}

fn requeue_to_another_lock_is_einval() -> Outcome {
    let words = Shared::new()?;
    let pid = condition_waiter(words)?;
    fails!(futex(words.address(0), FUTEX_CMP_REQUEUE_PI, 1, 1, words.address(2), 0), EINVAL);
    same!(cmp_requeue(words, 1, 1, 0)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn wait_requeue_arguments() -> Outcome {
    let words = Shared::new()?;
    fails!(futex(words.address(0), FUTEX_WAIT_REQUEUE_PI, 0, 0, words.address(0), 0), EINVAL);
    fails!(futex(words.address(0), FUTEX_WAIT_REQUEUE_PI, 0, 0, words.address(1) + 2, 0), EINVAL);
    fails!(futex(words.address(0), FUTEX_WAIT_REQUEUE_PI, 0, 0, 8, 0), EFAULT);
    fails!(futex(8, FUTEX_WAIT_REQUEUE_PI, 0, 0, words.address(1), 0), EFAULT);
    let page = map(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS)?;
    fails!(futex(words.address(0), FUTEX_WAIT_REQUEUE_PI, 0, 0, page, 0), EFAULT);
    Ok(())
}

fn wait_requeue_checks_the_condition() -> Outcome {
    let words = Shared::new()?;
    fails!(futex(words.address(0), FUTEX_WAIT_REQUEUE_PI, 7, 0, words.address(1), 0), EAGAIN);
    Ok(())
}

fn wait_requeue_times_out() -> Outcome {
    let words = Shared::new()?;
    for (clock, flag) in [(CLOCK_MONOTONIC, 0), (CLOCK_REALTIME, FUTEX_CLOCK_REALTIME)] {
        let start = now_ns(CLOCK_MONOTONIC)?;
        let time = timespec_ms(now_ns(clock)? / 1_000_000 + 40);
        let command = FUTEX_WAIT_REQUEUE_PI | flag;
        fails!(futex(words.address(0), command, 0, &raw const time as usize, words.address(1), 0), ETIMEDOUT);
        holds!(now_ns(CLOCK_MONOTONIC)? - start >= 38_000_000);
    }
    same!(cmp_requeue(words, 1, 1, 0)?, 0);
    Ok(())
}

fn requeue_gives_a_free_lock() -> Outcome {
    let words = Shared::new()?;
    let pid = condition_waiter(words)?;
    same!(cmp_requeue(words, 1, 0, 0)?, 1);
    same!(status(pid)?, 0);
    // Nobody else came along: no bit.
    same!(words.get(120), pid as u32);
    same!(words.get(1), 0);
    Ok(())
}

fn requeue_puts_in_line_for_a_taken_lock() -> Outcome {
    let words = Shared::new()?;
    let pid = condition_waiter(words)?;
    lock(words.address(1))?;
    same!(cmp_requeue(words, 1, 0, 0)?, 1);
    sleep_ms(20);
    same!((words.get(111), words.get(1)), (0, me() | WAITERS));
    unlock(words.address(1))?;
    same!(status(pid)?, 0);
    same!(words.get(120), pid as u32 | WAITERS);
    Ok(())
}

fn requeue_moves_all_that_wait() -> Outcome {
    let words = Shared::new()?;
    let pids = [condition_waiter(words)?, condition_waiter(words)?, condition_waiter(words)?, condition_waiter(words)?];
    lock(words.address(1))?;
    // One "woken" and two moved.
    same!(cmp_requeue(words, 1, 2, 0)?, 3);
    same!(cmp_requeue(words, 1, 9, 0)?, 1);
    unlock(words.address(1))?;
    for pid in pids {
        same!(status(pid)?, 0);
    }
    same!(words.get(1), 0);
    Ok(())
}

fn plain_wake_of_a_requeue_waiter_is_einval() -> Outcome {
    let words = Shared::new()?;
    let pid = condition_waiter(words)?;
    fails!(wake(words.address(0), 1), EINVAL);
    same!(cmp_requeue(words, 1, 0, 0)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn plain_requeue_of_a_requeue_waiter_is_einval() -> Outcome {
    let words = Shared::new()?;
    let pid = condition_waiter(words)?;
    fails!(futex(words.address(0), FUTEX_REQUEUE, 1, 1, words.address(1), 0), EINVAL);
    fails!(futex(words.address(0), FUTEX_CMP_REQUEUE, 0, 1, words.address(1), 0), EINVAL);
    same!(cmp_requeue(words, 1, 0, 0)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}

/// A waiter with a handler for SIGUSR1.
fn signalled_waiter(words: Shared) -> Result<i32> {
    let pid = child(|| {
        let _ = note_signal(SIGUSR1, 0);
        words.set(110, 1);
        let result = futex(words.address(0), FUTEX_WAIT_REQUEUE_PI, 0, 0, words.address(1), 0);
        words.set(112, count() as u32);
        if result.is_ok() {
            let _ = unlock(words.address(1));
        }
        result.map_or_else(|error| error.0, |_| 0)
    })?;
    words.wait_for(110, 1);
    sleep_ms(40);
    Ok(pid)
}

fn signal_before_the_requeue_is_restarted() -> Outcome {
    let words = Shared::new()?;
    let pid = signalled_waiter(words)?;
    kill(pid, SIGUSR1)?;
    sleep_ms(40);
    same!(cmp_requeue(words, 1, 0, 0)?, 1);
    same!((status(pid)?, words.get(112)), (0, 1));
    Ok(())
}

fn signal_after_the_requeue_is_eagain() -> Outcome {
    let words = Shared::new()?;
    let pid = signalled_waiter(words)?;
    lock(words.address(1))?;
    same!(cmp_requeue(words, 1, 0, 0)?, 1);
    sleep_ms(20);
    kill(pid, SIGUSR1)?;
    same!((status(pid)?, words.get(112)), (EAGAIN, 1));
    unlock(words.address(1))?;
    same!(words.get(1), 0);
    Ok(())
}

fn requeued_waiter_times_out() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        let Ok(now) = now_ns(CLOCK_MONOTONIC) else { return 98 };
        let time = timespec_ms(now / 1_000_000 + 200);
        let at = &raw const time as usize;
        let result = futex(words.address(0), FUTEX_WAIT_REQUEUE_PI, 0, at, words.address(1), 0);
        result.map_or_else(|error| error.0, |_| 0)
    })?;
    sleep_ms(60);
    lock(words.address(1))?;
    same!(cmp_requeue(words, 1, 0, 0)?, 1);
    same!(status(pid)?, ETIMEDOUT);
    unlock(words.address(1))?;
    same!(words.get(1), 0);
    Ok(())
}

fn requeue_to_a_lock_of_nobody_is_esrch() -> Outcome {
    let words = Shared::new()?;
    let pid = condition_waiter(words)?;
    words.set(1, 0x3fff_fff0);
    fails!(cmp_requeue(words, 1, 0, 0), ESRCH);
    words.set(1, 0);
    same!(cmp_requeue(words, 1, 0, 0)?, 1);
    same!(status(pid)?, 0);
    Ok(())
}
