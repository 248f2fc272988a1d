//! get_robust_list(2): the locks that a thread holds when it ends.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::futex::{THREAD, futex, join, wait_on, wake};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    size_of_the_head_is_checked,
    own_list_is_told,
    list_of_nobody_is_esrch,
    bad_places_are_efault,
    list_of_ones_child_is_told,
    list_of_root_is_eperm_for_users,
    list_of_a_new_process_is_empty,
    list_of_a_new_thread_is_empty,
    list_ends_with_exec,
    all_locks_of_the_list_are_marked,
    waiters_bit_is_kept,
    locks_of_others_are_left_alone,
    a_waiter_is_woken,
    only_one_waiter_is_woken,
    without_the_waiters_bit_nobody_is_woken,
    pending_lock_is_marked,
    pending_lock_on_the_list_is_marked_once,
    pending_free_lock_wakes_a_waiter,
    pending_lock_of_another_is_left_alone,
    ring_without_the_head_ends,
    only_2048_entries_are_looked_at,
    list_in_nothing_is_ignored,
    entry_in_nothing_ends_the_walk_after_pending_is_read,
    unaligned_lock_ends_the_walk,
    read_only_lock_ends_the_walk,
    killed_process_marks_its_locks,
    ending_thread_marks_its_locks,
    exec_marks_the_locks,
    pi_entry_is_marked_and_not_woken,
    negative_offset_works,
];

const DIED: u32 = FUTEX_OWNER_DIED;
const WAITERS: u32 = FUTEX_WAITERS;

/// Words 0 to 5 are the head. Entry n is words 16 + 4n (the link, two words) and 18 + 4n (the lock).
const HEAD: usize = 0;

fn link(index: usize) -> usize {
    16 + 4 * index
}

fn lock(index: usize) -> usize {
    link(index) + 2
}

/// Writes a list of `number` locks that the caller holds, and has the kernel know it.
fn make(words: Shared, number: usize, pending: usize) -> Result<()> {
    let tid = sys!(SYS_gettid)? as u32;
    for index in 0..number {
        let next = if index + 1 == number { words.address(HEAD) } else { words.address(link(index + 1)) };
        poke(words.address(link(index)), next);
        words.set(lock(index), tid);
    }
    let first = if number == 0 { words.address(HEAD) } else { words.address(link(0)) };
    poke(words.address(0), first);
    poke(words.address(2), 8usize);
    poke(words.address(4), pending);
    sys!(SYS_set_robust_list, words.address(HEAD), 24).map(drop)
}

/// A child that makes a list, lets `change` spoil it, and exits.
fn dies_with(words: Shared, number: usize, change: impl FnOnce() -> Result<()>) -> Outcome {
    let pid = child(|| (make(words, number, 0).is_err() || change().is_err()).into())?;
    same!(status(pid)?, 0);
    Ok(())
}

fn list_of(pid: i32) -> Result<(usize, usize)> {
    let (mut head, mut length) = (1usize, 1usize);
    sys!(SYS_get_robust_list, pid, &raw mut head, &raw mut length)?;
    Ok((head, length))
}

fn size_of_the_head_is_checked() -> Outcome {
    let words = Shared::new()?;
    for size in [0, 8, 23, 25, 48] {
        fails!(sys!(SYS_set_robust_list, words.address(0), size), EINVAL);
    }
    // Nobody looks at the address.
    same!(sys!(SYS_set_robust_list, 8, 24)?, 0);
    same!(list_of(0)?.0, 8);
    same!(sys!(SYS_set_robust_list, 0, 24)?, 0);
    Ok(())
}

fn own_list_is_told() -> Outcome {
    let words = Shared::new()?;
    sys!(SYS_set_robust_list, words.address(0), 24)?;
    same!(list_of(0)?, (words.address(0), 24));
    same!(list_of(getpid())?, (words.address(0), 24));
    sys!(SYS_set_robust_list, 0, 24)?;
    Ok(())
}

fn list_of_nobody_is_esrch() -> Outcome {
    let pid = child(|| 0)?;
    status(pid)?;
    fails!(list_of(pid), ESRCH);
    fails!(list_of(-1), ESRCH);
    Ok(())
}

fn bad_places_are_efault() -> Outcome {
    let mut number = 0usize;
    fails!(sys!(SYS_get_robust_list, 0, 8, &raw mut number), EFAULT);
    same!(number, 24);
    fails!(sys!(SYS_get_robust_list, 0, &raw mut number, 8), EFAULT);
    same!(number, 24);
    Ok(())
}

fn list_of_ones_child_is_told() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        let _ = make(words, 0, 0);
        words.set(100, 1);
        sleep_ms(10_000);
        0
    })?;
    holds!(words.wait_for(100, 1));
    same!(list_of(pid)?, (words.address(HEAD), 24));
    kill(pid, SIGKILL)?;
    status(pid)?;
    Ok(())
}

fn list_of_root_is_eperm_for_users() -> Outcome {
    let root = getpid();
    let pid = child(|| match (become_user(), list_of(root), list_of(0)) {
        (Ok(()), Err(Errno(EPERM)), Ok(_)) => 0,
        _ => 1,
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn list_of_a_new_process_is_empty() -> Outcome {
    sys!(SYS_set_robust_list, 8, 24)?;
    let pid = child(|| (list_of(0) != Ok((0, 24))).into())?;
    same!(status(pid)?, 0);
    sys!(SYS_set_robust_list, 0, 24)?;
    Ok(())
}

extern "C" fn tell_list(base: usize) -> i32 {
    poke(base + 8, list_of(0).map_or(1, |list| list.0));
    0
}

fn list_of_a_new_thread_is_empty() -> Outcome {
    let base = memory(4096)?;
    sys!(SYS_set_robust_list, 8, 24)?;
    poke(base, 1u32);
    poke(base + 8, 1usize);
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, base as *mut i32, 0, tell_list, base)?;
    join(base)?;
    same!(peek::<usize>(base + 8), 0);
    sys!(SYS_set_robust_list, 0, 24)?;
    Ok(())
}

fn list_ends_with_exec() -> Outcome {
    let words = Shared::new()?;
    let mut pipe_ends = [0i32; 2];
    sys!(SYS_pipe2, pipe_ends.as_mut_ptr(), 0)?;
    let pid = child(|| {
        let _ = make(words, 1, 0);
        let _ = sys!(SYS_dup3, pipe_ends[0], 0, 0);
        let program = path("/bin/sh");
        let (dash, script) = (path("-c"), path("read x; exit 5"));
        let arguments = [program.as_ptr() as usize, dash.as_ptr() as usize, script.as_ptr() as usize, 0];
        let none = [0usize];
        let _ = sys!(SYS_execve, program.as_ptr(), arguments.as_ptr(), none.as_ptr());
        1
    })?;
    holds!(words.wait_for(lock(0), DIED));
    holds!(list_of(pid)?.0 != words.address(HEAD));
    write(pipe_ends[1], b"\n")?;
    same!(status(pid)?, 5);
    Ok(())
}

fn all_locks_of_the_list_are_marked() -> Outcome {
    let words = Shared::new()?;
    dies_with(words, 5, || Ok(()))?;
    for index in 0..5 {
        same!(words.get(lock(index)), DIED);
    }
    Ok(())
}

fn waiters_bit_is_kept() -> Outcome {
    let words = Shared::new()?;
    dies_with(words, 1, || {
        words.set(lock(0), words.get(lock(0)) | WAITERS);
        Ok(())
    })?;
    same!(words.get(lock(0)), DIED | WAITERS);
    Ok(())
}

fn locks_of_others_are_left_alone() -> Outcome {
    let words = Shared::new()?;
    let me = getpid() as u32;
    dies_with(words, 3, || {
        words.set(lock(0), me);
        words.set(lock(1), 0);
        Ok(())
    })?;
    same!((words.get(lock(0)), words.get(lock(1)), words.get(lock(2))), (me, 0, DIED));
    Ok(())
}

/// A child that waits while `word` has the value `owner | bits`; counts in word 200, and in 201 when woken.
fn waiter(words: Shared, word: usize) -> Result<i32> {
    let pid = child(|| {
        let value = words.get(word);
        words.word(200).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let result = wait_on(words.address(word), value, 2000);
        words.word(201).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        result.map_or_else(|error| error.0, |_| 0)
    })?;
    Ok(pid)
}

/// A holder of lock 0 that lives until word 202 is set, with `waiters` sleepers.
fn holder_and_waiters(words: Shared, bits: u32, waiters: u32, pi: usize) -> Result<(i32, Vec<i32>)> {
    let holder = child(|| {
        if make(words, 1, 0).is_err() {
            return 1;
        }
        poke(words.address(0), words.address(link(0)) | pi);
        words.set(lock(0), words.get(lock(0)) | bits);
        words.set(203, 1);
        words.wait_for(202, 1);
        0
    })?;
    words.wait_for(203, 1);
    let pids = (0..waiters).map(|_| waiter(words, lock(0))).collect::<Result<Vec<i32>>>()?;
    words.wait_for(200, waiters);
    sleep_ms(50);
    Ok((holder, pids))
}

fn a_waiter_is_woken() -> Outcome {
    let words = Shared::new()?;
    let (holder, pids) = holder_and_waiters(words, WAITERS, 1, 0)?;
    words.set(202, 1);
    same!(status(holder)?, 0);
    same!(status(pids[0])?, 0);
    same!(words.get(lock(0)), DIED | WAITERS);
    Ok(())
}

fn only_one_waiter_is_woken() -> Outcome {
    let words = Shared::new()?;
    let (holder, pids) = holder_and_waiters(words, WAITERS, 3, 0)?;
    words.set(202, 1);
    same!(status(holder)?, 0);
    holds!(words.wait_for(201, 1));
    sleep_ms(20);
    same!(words.get(201), 1);
    same!(wake(words.address(lock(0)), 9)?, 2);
    for pid in pids {
        same!(status(pid)?, 0);
    }
    Ok(())
}

fn without_the_waiters_bit_nobody_is_woken() -> Outcome {
    let words = Shared::new()?;
    let (holder, pids) = holder_and_waiters(words, 0, 1, 0)?;
    words.set(202, 1);
    same!(status(holder)?, 0);
    sleep_ms(20);
    same!(words.get(lock(0)), DIED);
    same!(wake(words.address(lock(0)), 9)?, 1);
    same!(status(pids[0])?, 0);
    Ok(())
}

fn pending_lock_is_marked() -> Outcome {
    let words = Shared::new()?;
    dies_with(words, 1, || {
        let tid = words.get(lock(0));
        words.set(lock(4), tid);
        poke(words.address(4), words.address(link(4)));
        Ok(())
    })?;
    same!((words.get(lock(0)), words.get(lock(4))), (DIED, DIED));
    Ok(())
}

fn pending_lock_on_the_list_is_marked_once() -> Outcome {
    let words = Shared::new()?;
    dies_with(words, 3, || {
        poke(words.address(4), words.address(link(1)));
        Ok(())
    })?;
    for index in 0..3 {
        same!(words.get(lock(index)), DIED);
    }
    Ok(())
}

fn pending_free_lock_wakes_a_waiter() -> Outcome {
    let words = Shared::new()?;
    let pid = waiter(words, lock(4))?;
    holds!(words.wait_for(200, 1));
    sleep_ms(50);
    // Unlocked in user space, and killed before the wake-up.
    dies_with(words, 0, || {
        poke(words.address(4), words.address(link(4)));
        Ok(())
    })?;
    same!(status(pid)?, 0);
    same!(words.get(lock(4)), 0);
    Ok(())
}

fn pending_lock_of_another_is_left_alone() -> Outcome {
    let words = Shared::new()?;
    let me = getpid() as u32;
    words.set(lock(4), me | WAITERS);
    dies_with(words, 0, || {
        poke(words.address(4), words.address(link(4)));
        Ok(())
    })?;
    same!(words.get(lock(4)), me | WAITERS);
    Ok(())
}

fn ring_without_the_head_ends() -> Outcome {
    let words = Shared::new()?;
    dies_with(words, 3, || {
        poke(words.address(link(2)), words.address(link(1)));
        Ok(())
    })?;
    same!(words.get(lock(2)), DIED);
    Ok(())
}

fn only_2048_entries_are_looked_at() -> Outcome {
    let base = map(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS)?;
    let at = |index: usize| base + 64 + 16 * index;
    let pid = child(|| {
        let tid = getpid();
        for index in 0..2060 {
            poke(at(index), at(index + 1));
            poke(at(index) + 8, tid);
        }
        poke(at(2060), base);
        poke(base, at(0));
        poke(base + 8, 8usize);
        poke(base + 16, 0usize);
        sys!(SYS_set_robust_list, base, 24).is_err().into()
    })?;
    same!(status(pid)?, 0);
    same!(peek::<u32>(at(2047) + 8), DIED);
    same!(peek::<u32>(at(2048) + 8), pid as u32);
    Ok(())
}

fn list_in_nothing_is_ignored() -> Outcome {
    for head in [8usize, 4096, usize::MAX - 7, 1 << 63] {
        let pid = child(|| sys!(SYS_set_robust_list, head, 24).is_err().into())?;
        same!(status(pid)?, 0);
    }
    Ok(())
}

fn entry_in_nothing_ends_the_walk_after_pending_is_read() -> Outcome {
    let words = Shared::new()?;
    dies_with(words, 3, || {
        poke(words.address(link(1)), 8usize);
        Ok(())
    })?;
    // The second is still done, then its link leads nowhere.
    same!((words.get(lock(0)), words.get(lock(1))), (DIED, DIED));
    holds!(words.get(lock(2)) & DIED == 0);
    Ok(())
}

fn unaligned_lock_ends_the_walk() -> Outcome {
    let words = Shared::new()?;
    dies_with(words, 2, || {
        poke(words.address(2), 9usize);
        Ok(())
    })?;
    holds!(words.get(lock(0)) & DIED == 0);
    holds!(words.get(lock(1)) & DIED == 0);
    Ok(())
}

fn read_only_lock_ends_the_walk() -> Outcome {
    let words = Shared::new()?;
    dies_with(words, 2, || sys!(SYS_mprotect, words.address(0), 4096, PROT_READ).map(drop))?;
    holds!(words.get(lock(0)) & DIED == 0);
    Ok(())
}

fn killed_process_marks_its_locks() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        let _ = make(words, 2, 0);
        words.set(100, 1);
        sleep_ms(10_000);
        0
    })?;
    holds!(words.wait_for(100, 1));
    kill(pid, SIGKILL)?;
    same!(status(pid)?, 128 + SIGKILL);
    same!((words.get(lock(0)), words.get(lock(1))), (DIED, DIED));
    Ok(())
}

extern "C" fn hold_and_end(base: usize) -> i32 {
    make(Shared::at(base), 2, 0).is_err().into()
}

fn ending_thread_marks_its_locks() -> Outcome {
    let words = Shared::new()?;
    words.set(100, 1);
    let tid = words.address(100) as *mut i32;
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, tid, 0, hold_and_end, words.address(0))?;
    join(words.address(100))?;
    same!((words.get(lock(0)), words.get(lock(1))), (DIED, DIED));
    Ok(())
}

fn exec_marks_the_locks() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        let _ = make(words, 2, 0);
        let program = path("/bin/true");
        let arguments = [program.as_ptr() as usize, 0];
        let _ = sys!(SYS_execve, program.as_ptr(), arguments.as_ptr(), arguments[1..].as_ptr());
        1
    })?;
    same!(status(pid)?, 0);
    same!((words.get(lock(0)), words.get(lock(1))), (DIED, DIED));
    Ok(())
}

fn pi_entry_is_marked_and_not_woken() -> Outcome {
    let words = Shared::new()?;
    // An ordinary waiter of a lock that the list calls a PI futex: its wake-up is not this list's business.
    let (holder, pids) = holder_and_waiters(words, WAITERS, 1, 1)?;
    words.set(202, 1);
    same!(status(holder)?, 0);
    same!(words.get(lock(0)), DIED | WAITERS);
    sleep_ms(20);
    same!(wake(words.address(lock(0)), 9)?, 1);
    same!(status(pids[0])?, 0);
    Ok(())
}

fn negative_offset_works() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        poke(words.address(0), words.address(16));
        poke(words.address(2), -8isize);
        poke(words.address(4), 0usize);
        poke(words.address(16), words.address(0));
        words.set(14, getpid() as u32);
        sys!(SYS_set_robust_list, words.address(0), 24).is_err().into()
    })?;
    same!(status(pid)?, 0);
    same!(words.get(14), DIED);
    same!(futex(words.address(14), FUTEX_WAKE, 1, 0, 0, 0)?, 0);
    Ok(())
}
