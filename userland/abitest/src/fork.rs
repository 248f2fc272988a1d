//! clone(2), fork(2), vfork(2): what a child has, what it shares, what is refused.

use std::ptr::null_mut;

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    child_gets_zero_and_parent_its_pid,
    child_knows_its_parent,
    hundred_children_are_all_reaped,
    eight_mebibytes_arrive_in_the_child,
    generations_nest_twenty_deep,
    descriptors_share_their_offset,
    closing_in_the_child_leaves_the_parent_open,
    pending_signals_are_not_inherited,
    timers_are_not_inherited,
    handlers_and_mask_are_inherited,
    working_directory_and_umask_are_copies,
    limits_are_inherited,
    group_and_session_are_inherited,
    vfork_parent_waits_for_the_child,
    clone_fs_shares_the_working_directory,
    clone_files_shares_the_descriptors,
    clone_vm_shares_memory,
    contradictory_flags_are_einval,
    tids_are_stored_on_both_sides,
    another_exit_signal_wants_wall,
    clone_parent_makes_a_sibling,
    orphans_go_to_the_subreaper,
    parent_death_signal_arrives,
    process_limit_is_eagain_for_users,
    clone3_forks,
    times_of_a_child_start_at_zero,
];

fn child_gets_zero_and_parent_its_pid() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        words.set(0, getpid() as u32);
        0
    })?;
    same!(status(pid)?, 0);
    same!(words.get(0), pid as u32);
    Ok(())
}

fn child_knows_its_parent() -> Outcome {
    let me = getpid();
    let pid = child(|| (sys!(SYS_getppid) != Ok(me as usize)) as i32)?;
    same!(status(pid)?, 0);
    Ok(())
}

fn hundred_children_are_all_reaped() -> Outcome {
    let mut pids = Vec::new();
    for number in 0..100 {
        pids.push(child(|| number)?);
    }
    for (number, pid) in pids.into_iter().enumerate() {
        same!(status(pid)?, number as i32);
    }
    fails!(wait(-1), ECHILD);
    Ok(())
}

fn eight_mebibytes_arrive_in_the_child() -> Outcome {
    let data: Vec<u32> = (0..2u32 << 20).map(|n| n.wrapping_mul(2_654_435_761)).collect();
    let pid =
        child(|| data.iter().enumerate().any(|(n, &word)| word != (n as u32).wrapping_mul(2_654_435_761)).into())?;
    same!(status(pid)?, 0);
    Ok(())
}

fn generations_nest_twenty_deep() -> Outcome {
    fn descend(left: i32) -> i32 {
        if left == 0 {
            return 0;
        }
        child(|| descend(left - 1)).and_then(status).map_or(90, |deeper| deeper + 1)
    }
    same!(descend(20), 20);
    Ok(())
}

fn descriptors_share_their_offset() -> Outcome {
    file("f", b"0123456789")?;
    let fd = open("f", O_RDONLY, 0)?;
    let pid = child(|| (read(fd, &mut [0; 4]) != Ok(4)) as i32)?;
    same!(status(pid)?, 0);
    same!(sys!(SYS_lseek, fd, 0, SEEK_CUR)?, 4);
    Ok(())
}

fn closing_in_the_child_leaves_the_parent_open() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let pid = child(|| (close(writer).is_err() || close(reader).is_err()).into())?;
    same!(status(pid)?, 0);
    same!(write(writer, b"x")?, 1);
    Ok(())
}

fn pending_signals_are_not_inherited() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    kill(getpid(), SIGUSR1)?;
    same!(pending()? & bit(SIGUSR1), bit(SIGUSR1));
    let pid = child(|| (pending() != Ok(0)) as i32)?;
    same!(status(pid)?, 0);
    Ok(())
}

fn timers_are_not_inherited() -> Outcome {
    let mut timer: itimerval = zeroed();
    timer.it_value.tv_sec = 100;
    sys!(SYS_setitimer, ITIMER_REAL, &raw const timer, 0)?;
    let pid = child(|| {
        let mut left: itimerval = zeroed();
        let result = sys!(SYS_getitimer, ITIMER_REAL, &raw mut left);
        (result.is_err() || left.it_value.tv_sec != 0 || left.it_value.tv_usec != 0).into()
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn handlers_and_mask_are_inherited() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    mask(SIG_SETMASK, bit(SIGUSR2))?;
    let pid = trial(|| {
        same!(mask(SIG_BLOCK, 0)?, bit(SIGUSR2));
        kill(getpid(), SIGUSR1)?;
        same!(count(), 1);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    same!(count(), 0);
    Ok(())
}

fn working_directory_and_umask_are_copies() -> Outcome {
    sys!(SYS_umask, 0o27)?;
    let pid = trial(|| {
        same!(sys!(SYS_umask, 0o77)?, 0o27);
        sys!(SYS_chdir, c"/".as_ptr())?;
        Ok(())
    })?;
    same!(status(pid)?, 0);
    same!(sys!(SYS_umask, 0)?, 0o27);
    let mut name = [0u8; 200];
    holds!(sys!(SYS_getcwd, name.as_mut_ptr(), 200)? > 2);
    Ok(())
}

fn limits_are_inherited() -> Outcome {
    limit(RLIMIT_CORE, 1234, 5678)?;
    let pid = trial(|| {
        let mut now = [0u64; 2];
        sys!(SYS_prlimit64, 0, RLIMIT_CORE, 0, now.as_mut_ptr())?;
        same!(now, [1234, 5678]);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn group_and_session_are_inherited() -> Outcome {
    let (group, session) = (sys!(SYS_getpgid, 0)?, sys!(SYS_getsid, 0)?);
    let pid = trial(|| {
        same!(sys!(SYS_getpgid, 0)?, group);
        same!(sys!(SYS_getsid, 0)?, session);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

extern "C" fn slow_mark(word: usize) -> i32 {
    sleep_ms(50);
    poke(word, 7u32);
    0
}

fn vfork_parent_waits_for_the_child() -> Outcome {
    let words = Shared::new()?;
    let pid = clone_on_stack(CLONE_VM | CLONE_VFORK | SIGCHLD, null_mut(), 0, slow_mark, words.address(0))?;
    same!(words.get(0), 7);
    same!(status(pid)?, 0);
    Ok(())
}

fn clone_fs_shares_the_working_directory() -> Outcome {
    mkdir("d", 0o755)?;
    let pid = clone(CLONE_FS | SIGCHLD, 0, null_mut(), null_mut(), 0)?;
    if pid == 0 {
        exit(sys!(SYS_chdir, c"d".as_ptr()).is_err().into());
    }
    same!(status(pid)?, 0);
    fails!(lstat("d"), ENOENT);
    Ok(())
}

fn clone_files_shares_the_descriptors() -> Outcome {
    let (reader, _) = pipe(0)?;
    let pid = clone(CLONE_FILES | SIGCHLD, 0, null_mut(), null_mut(), 0)?;
    if pid == 0 {
        exit(close(reader).is_err().into());
    }
    same!(status(pid)?, 0);
    fails!(close(reader), EBADF);
    Ok(())
}

fn clone_vm_shares_memory() -> Outcome {
    let page = memory(4096)?;
    let pid = clone_on_stack(CLONE_VM | SIGCHLD, null_mut(), 0, slow_mark, page)?;
    same!(status(pid)?, 0);
    same!(peek::<u32>(page), 7);
    Ok(())
}

fn contradictory_flags_are_einval() -> Outcome {
    let try_flags = |flags: i32| clone(flags | SIGCHLD, 0, null_mut(), null_mut(), 0);
    fails!(try_flags(CLONE_THREAD), EINVAL);
    fails!(try_flags(CLONE_THREAD | CLONE_VM), EINVAL);
    fails!(try_flags(CLONE_SIGHAND), EINVAL);
    fails!(try_flags(CLONE_FS | CLONE_NEWNS), EINVAL);
    Ok(())
}

fn tids_are_stored_on_both_sides() -> Outcome {
    let words = Shared::new()?;
    let (parent_tid, child_tid) = (words.address(0) as *mut i32, words.address(1) as *mut i32);
    let pid = clone(CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, parent_tid, child_tid, 0)?;
    if pid == 0 {
        exit((words.get(1) != getpid() as u32) as i32);
    }
    same!(words.get(0), pid as u32);
    same!(status(pid)?, 0);
    same!(words.get(1), pid as u32);
    Ok(())
}

fn another_exit_signal_wants_wall() -> Outcome {
    note_signal(SIGUSR1, SA_RESTART)?;
    let pid = clone(SIGUSR1, 0, null_mut(), null_mut(), 0)?;
    if pid == 0 {
        exit(5);
    }
    fails!(wait(pid), ECHILD);
    let mut raw = 0;
    same!(sys!(SYS_wait4, pid, &raw mut raw, __WALL, 0)?, pid as usize);
    same!(WEXITSTATUS(raw), 5);
    same!(count(), 1);
    Ok(())
}

fn clone_parent_makes_a_sibling() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        match clone(CLONE_PARENT | SIGCHLD, 0, null_mut(), null_mut(), 0) {
            Ok(0) => exit(3),
            Ok(pid) => words.set(0, pid as u32),
            Err(_) => return 1,
        }
        0
    })?;
    same!(status(pid)?, 0);
    same!(status(words.get(0) as i32)?, 3);
    Ok(())
}

fn orphans_go_to_the_subreaper() -> Outcome {
    sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let words = Shared::new()?;
    let me = getpid();
    let middle = child(|| {
        let parent = getpid();
        let grandchild = child(|| {
            while sys!(SYS_getppid) == Ok(parent as usize) {
                sleep_ms(1);
            }
            (sys!(SYS_getppid) != Ok(me as usize)) as i32
        });
        words.set(0, grandchild.unwrap_or(0) as u32);
        0
    })?;
    same!(status(middle)?, 0);
    same!(status(words.get(0) as i32)?, 0);
    Ok(())
}

fn parent_death_signal_arrives() -> Outcome {
    sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let words = Shared::new()?;
    let middle = child(|| {
        let grandchild = child(|| {
            if sys!(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR1, 0, 0, 0).is_err() {
                return 1;
            }
            words.set(1, 1);
            sleep_ms(20_000);
            0
        });
        words.set(0, grandchild.unwrap_or(0) as u32);
        (!words.wait_for(1, 1)).into()
    })?;
    same!(status(middle)?, 0);
    same!(status(words.get(0) as i32)?, 128 + SIGUSR1);
    Ok(())
}

fn process_limit_is_eagain_for_users() -> Outcome {
    let pid = trial(|| {
        become_user()?;
        limit(RLIMIT_NPROC, 1, 1)?;
        fails!(fork(), EAGAIN);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn clone3_forks() -> Outcome {
    let mut arguments = [0u64; 8];
    arguments[4] = SIGCHLD as u64;
    let pid = sys!(SYS_clone3, arguments.as_ptr(), 64)? as i32;
    if pid == 0 {
        exit(9);
    }
    same!(status(pid)?, 9);
    fails!(sys!(SYS_clone3, arguments.as_ptr(), 63), EINVAL);
    arguments[0] = CLONE_SIGHAND as u64;
    fails!(sys!(SYS_clone3, arguments.as_ptr(), 64), EINVAL);
    Ok(())
}

fn times_of_a_child_start_at_zero() -> Outcome {
    let start = now_ns(CLOCK_PROCESS_CPUTIME_ID)?;
    while now_ns(CLOCK_PROCESS_CPUTIME_ID)? - start < 30_000_000 {}
    let pid = trial(|| {
        holds!(now_ns(CLOCK_PROCESS_CPUTIME_ID)? < 25_000_000);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}
