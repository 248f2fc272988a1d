//! How processes end, stop, are waited for and signalled: wait(2), kill(2), signal(7), prctl(2), the finer rules.

use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    a_zombie_is_echild_to_who_waits_for_stops,
    waitid_clears_the_info_when_it_fails,
    a_negative_pidfd_is_einval,
    a_pipe_is_no_pidfd_to_waitid,
    nowait_leaves_a_stop,
    nowait_leaves_a_continue,
    a_stop_is_no_news_after_the_continue,
    a_continue_without_a_stop_is_no_news,
    a_killed_stopped_child_tells_of_the_kill,
    nothread_is_for_ones_own_children,
    the_death_signal_comes_with_the_threads_end,
    the_death_signal_is_not_inherited,
    the_death_signal_must_be_a_signal,
    a_subreaper_gets_the_orphan,
    being_a_subreaper_is_not_inherited,
    an_ignored_sigchld_is_not_pending_when_blocked,
    nocldwait_still_sends_the_signal,
    a_zombie_can_be_signalled,
    nobody_is_told_before_a_bad_signal,
    claims_are_refused_before_nobody,
    resethand_keeps_the_flags,
    unknown_flags_are_cleared,
    a_short_sigpending_is_short,
    ignoring_discards_a_whole_queue,
    the_thread_comes_before_the_process,
    the_limit_refuses_queued_signals,
    kill_leaves_one_beyond_the_limit,
    sigtimedwait_is_interrupted_by_a_handler,
    sigtimedwait_is_interrupted_by_a_stop,
    a_sleep_goes_on_after_a_stop,
    a_poll_goes_on_after_a_stop,
    a_signalfd_read_restarts,
    a_stop_discards_a_pending_continue,
    a_continue_discards_a_pending_stop_signal,
    an_ignored_signal_can_be_waited_for,
    autodisarm_works_on_any_stack,
    states_have_their_letters,
    loadavg_has_five_fields,
    sigchld_of_a_stop_names_the_signal,
    usage_is_told_of_a_stopped_child,
];

/// waitid: signal, code, pid and status of the info, which begins with rubbish.
fn waitid(kind: u32, id: i32, options: i32) -> (Result<usize>, [i32; 4]) {
    let mut info = [-1i32; 32];
    let result = sys!(SYS_waitid, kind, id, &raw mut info, options, 0);
    (result, [info[0], info[2], info[3 + 1], info[6]])
}

fn sleeper() -> Result<i32> {
    child(|| {
        sleep_ms(30_000);
        0
    })
}

fn end(pid: i32) -> Outcome {
    kill(pid, SIGKILL)?;
    same!(wait(pid)?, SIGKILL);
    Ok(())
}

/// Stops a child and sees it stopped.
fn stop(pid: i32) -> Outcome {
    kill(pid, SIGSTOP)?;
    let (result, info) = waitid(P_PID, pid, WSTOPPED | WNOWAIT);
    result?;
    same!(info[1], CLD_STOPPED);
    Ok(())
}

fn zombie(status: i32) -> Result<i32> {
    let pid = child(|| status)?;
    waitid(P_PID, pid, WEXITED | WNOWAIT).0?;
    Ok(pid)
}

fn a_zombie_is_echild_to_who_waits_for_stops() -> Outcome {
    let pid = zombie(3)?;
    fails!(waitid(P_PID, pid, WSTOPPED | WNOHANG).0, ECHILD);
    fails!(waitid(P_PID, pid, WCONTINUED | WNOHANG).0, ECHILD);
    same!(status(pid)?, 3);
    Ok(())
}

fn waitid_clears_the_info_when_it_fails() -> Outcome {
    let (result, info) = waitid(P_ALL, 0, WEXITED);
    fails!(result, ECHILD);
    same!(info, [0; 4]);
    Ok(())
}

fn a_negative_pidfd_is_einval() -> Outcome {
    fails!(waitid(P_PIDFD, -1, WEXITED).0, EINVAL);
    fails!(waitid(P_PIDFD, 999, WEXITED).0, EBADF);
    Ok(())
}

fn a_pipe_is_no_pidfd_to_waitid() -> Outcome {
    let (reader, _writer) = pipe(0)?;
    fails!(waitid(P_PIDFD, reader, WEXITED).0, EBADF);
    Ok(())
}

fn nowait_leaves_a_stop() -> Outcome {
    let pid = sleeper()?;
    stop(pid)?;
    stop(pid)?;
    same!(waitid(P_PID, pid, WSTOPPED).1[1], CLD_STOPPED);
    same!(waitid(P_PID, pid, WSTOPPED | WNOHANG).1[0], 0);
    end(pid)
}

fn nowait_leaves_a_continue() -> Outcome {
    let pid = sleeper()?;
    stop(pid)?;
    kill(pid, SIGCONT)?;
    for options in [WCONTINUED | WNOWAIT, WCONTINUED | WNOWAIT, WCONTINUED] {
        let (result, info) = waitid(P_PID, pid, options);
        result?;
        same!((info[1], info[3]), (CLD_CONTINUED, SIGCONT));
    }
    same!(waitid(P_PID, pid, WCONTINUED | WNOHANG).1[0], 0);
    end(pid)
}

fn a_stop_is_no_news_after_the_continue() -> Outcome {
    let pid = sleeper()?;
    stop(pid)?;
    kill(pid, SIGCONT)?;
    waitid(P_PID, pid, WCONTINUED).0?;
    same!(waitid(P_PID, pid, WSTOPPED | WNOHANG).1[0], 0);
    end(pid)
}

fn a_continue_without_a_stop_is_no_news() -> Outcome {
    let pid = sleeper()?;
    kill(pid, SIGCONT)?;
    sleep_ms(5);
    same!(waitid(P_PID, pid, WCONTINUED | WNOHANG).1[0], 0);
    end(pid)
}

fn a_killed_stopped_child_tells_of_the_kill() -> Outcome {
    let pid = sleeper()?;
    stop(pid)?;
    kill(pid, SIGKILL)?;
    waitid(P_PID, pid, WEXITED | WNOWAIT).0?;
    let (result, info) = waitid(P_PID, pid, WEXITED | WSTOPPED);
    result?;
    same!((info[1], info[3]), (CLD_KILLED, SIGKILL));
    Ok(())
}

const THREAD: i32 = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;

/// What a thread leaves for the others to see.
static SLOT: AtomicI32 = AtomicI32::new(0);

/// Waits, at most some seconds, until the slot is not zero.
fn slot() -> i32 {
    for _ in 0..2000 {
        match SLOT.load(SeqCst) {
            0 => sleep_ms(2),
            value => return value,
        }
    }
    0
}

fn nothread_is_for_ones_own_children() -> Outcome {
    extern "C" fn look(pid: usize) -> i32 {
        let strange = sys!(SYS_wait4, pid, 0, WNOHANG | __WNOTHREAD, 0);
        let common = sys!(SYS_wait4, pid, 0, WNOHANG, 0);
        SLOT.store(if strange == Err(Errno(ECHILD)) && common == Ok(0) { 1 } else { 2 }, SeqCst);
        0
    }
    let pid = sleeper()?;
    same!(sys!(SYS_wait4, pid, 0, WNOHANG | __WNOTHREAD, 0)?, 0);
    clone_on_stack(THREAD, std::ptr::null_mut(), 0, look, pid as usize)?;
    same!(slot(), 1);
    end(pid)
}

fn the_death_signal_comes_with_the_threads_end() -> Outcome {
    extern "C" fn parent(writer: usize) -> i32 {
        let pid = child(|| {
            let _ = sys!(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
            let _ = sys!(SYS_write, writer, c"x".as_ptr(), 1);
            loop {
                let _ = sys!(SYS_ppoll, 0, 0, 0, 0, 0);
            }
        });
        SLOT.store(pid.unwrap_or(-1), SeqCst);
        // The thread ends here, the process does not; not before the child has made its wish.
        let nap = timespec_ms(200);
        let _ = sys!(SYS_nanosleep, &raw const nap, 0);
        0
    }
    let (reader, writer) = pipe(0)?;
    clone_on_stack(THREAD, std::ptr::null_mut(), 0, parent, writer as usize)?;
    let pid = slot();
    holds!(pid > 0);
    let mut byte = [0];
    same!(read(reader, &mut byte)?, 1);
    same!(wait(pid)?, SIGKILL);
    Ok(())
}

fn death_signal() -> Result<i32> {
    let mut signal = -1i32;
    sys!(SYS_prctl, PR_GET_PDEATHSIG, &raw mut signal)?;
    Ok(signal)
}

fn the_death_signal_is_not_inherited() -> Outcome {
    sys!(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR1)?;
    same!(death_signal()?, SIGUSR1);
    same!(status(child(|| death_signal().unwrap_or(99))?)?, 0);
    sys!(SYS_prctl, PR_SET_PDEATHSIG, 0)?;
    same!(death_signal()?, 0);
    Ok(())
}

fn the_death_signal_must_be_a_signal() -> Outcome {
    for bad in [65, 257, -1] {
        fails!(sys!(SYS_prctl, PR_SET_PDEATHSIG, bad), EINVAL);
    }
    Ok(())
}

fn a_subreaper_gets_the_orphan() -> Outcome {
    sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1)?;
    let middle = child(|| {
        let _ = child(|| {
            sleep_ms(20);
            17
        });
        0
    })?;
    same!(status(middle)?, 0);
    let mut raw = 0;
    sys!(SYS_wait4, -1, &raw mut raw, 0, 0)?;
    same!(WEXITSTATUS(raw), 17);
    Ok(())
}

fn being_a_subreaper_is_not_inherited() -> Outcome {
    sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1)?;
    let asked = child(|| {
        let mut is = -1i32;
        let _ = sys!(SYS_prctl, PR_GET_CHILD_SUBREAPER, &raw mut is);
        is
    })?;
    same!(status(asked)?, 0);
    Ok(())
}

fn an_ignored_sigchld_is_not_pending_when_blocked() -> Outcome {
    sigaction(SIGCHLD, SIG_IGN, 0, 0)?;
    mask(SIG_BLOCK, bit(SIGCHLD))?;
    let _ = child(|| 0)?;
    fails!(sys!(SYS_wait4, -1, 0, 0, 0), ECHILD);
    same!(pending()?, 0);
    Ok(())
}

fn nocldwait_still_sends_the_signal() -> Outcome {
    note_signal(SIGCHLD, SA_NOCLDWAIT | SA_RESTART)?;
    let _ = child(|| 0)?;
    fails!(wait(-1), ECHILD);
    same!(count(), 1);
    Ok(())
}

fn a_zombie_can_be_signalled() -> Outcome {
    let pid = zombie(5)?;
    kill(pid, SIGKILL)?;
    same!(status(pid)?, 5);
    fails!(kill(pid, 0), ESRCH);
    Ok(())
}

/// The number of a process that is gone.
fn nobody() -> Result<i32> {
    let pid = child(|| 0)?;
    wait(pid)?;
    Ok(pid)
}

fn nobody_is_told_before_a_bad_signal() -> Outcome {
    let nobody = nobody()?;
    fails!(kill(nobody, 65), ESRCH);
    fails!(kill(-nobody, 65), ESRCH);
    fails!(kill(getpid(), 65), EINVAL);
    Ok(())
}

/// rt_sigqueueinfo with this code.
fn queue(pid: i32, signal: i32, code: i32, value: u32) -> Result<usize> {
    let mut info = [0u32; 32];
    info[0] = signal as u32;
    info[2] = code as u32;
    info[4] = getpid() as u32;
    info[6] = value;
    sys!(SYS_rt_sigqueueinfo, pid, signal, info.as_ptr())
}

fn claims_are_refused_before_nobody() -> Outcome {
    let nobody = nobody()?;
    fails!(queue(nobody, SIGUSR1, SI_USER, 0), EPERM);
    fails!(queue(nobody, SIGUSR1, SI_KERNEL, 0), EPERM);
    fails!(queue(nobody, SIGUSR1, SI_QUEUE, 0), ESRCH);
    Ok(())
}

fn resethand_keeps_the_flags() -> Outcome {
    note_signal(SIGUSR1, SA_RESETHAND)?;
    kill(getpid(), SIGUSR1)?;
    let left = sigaction(SIGUSR1, SIG_DFL, 0, 0)?;
    same!(left.handler, SIG_DFL);
    same!(left.flags & SA_RESETHAND as u32 as usize, SA_RESETHAND as u32 as usize);
    Ok(())
}

fn unknown_flags_are_cleared() -> Outcome {
    note_signal(SIGUSR1, 0x0000_0400 | SA_RESTART)?;
    let was = sigaction(SIGUSR1, SIG_DFL, 0, 0)?;
    same!(was.flags & 0x0000_0400, 0);
    same!(was.flags & SA_RESTART as usize, SA_RESTART as usize);
    Ok(())
}

fn a_short_sigpending_is_short() -> Outcome {
    mask(SIG_SETMASK, u64::MAX)?;
    kill(getpid(), SIGUSR1)?;
    kill(getpid(), 40)?;
    let mut set = u64::MAX;
    sys!(SYS_rt_sigpending, &raw mut set, 4)?;
    same!(set, 0xffff_ffff_0000_0000 | bit(SIGUSR1));
    fails!(sys!(SYS_rt_sigpending, &raw mut set, 9), EINVAL);
    Ok(())
}

fn ignoring_discards_a_whole_queue() -> Outcome {
    mask(SIG_SETMASK, u64::MAX)?;
    for value in 0..5 {
        queue(getpid(), 40, SI_QUEUE, value)?;
    }
    sigaction(40, SIG_IGN, 0, 0)?;
    same!(pending()?, 0);
    Ok(())
}

/// sigtimedwait that does not wait: signal and code.
fn take(set: u64) -> Result<(i32, i32)> {
    let mut info = [0i32; 32];
    let none = timespec_ms(0);
    sys!(SYS_rt_sigtimedwait, &raw const set, &raw mut info, &raw const none, 8)?;
    Ok((info[0], info[2]))
}

fn the_thread_comes_before_the_process() -> Outcome {
    mask(SIG_SETMASK, u64::MAX)?;
    kill(getpid(), SIGHUP)?;
    sys!(SYS_tgkill, getpid(), getpid(), SIGUSR1)?;
    sys!(SYS_tgkill, getpid(), getpid(), SIGHUP)?;
    same!(take(u64::MAX)?, (SIGHUP, SI_TKILL));
    same!(take(u64::MAX)?, (SIGUSR1, SI_TKILL));
    same!(take(u64::MAX)?, (SIGHUP, SI_USER));
    fails!(take(u64::MAX), EAGAIN);
    Ok(())
}

fn the_limit_refuses_queued_signals() -> Outcome {
    mask(SIG_SETMASK, u64::MAX)?;
    limit(RLIMIT_SIGPENDING, 0, 0)?;
    fails!(queue(getpid(), 40, SI_QUEUE, 0), EAGAIN);
    // Of a standard signal the fact is kept.
    queue(getpid(), SIGUSR1, SI_QUEUE, 0)?;
    same!(pending()?, bit(SIGUSR1));
    Ok(())
}

fn kill_leaves_one_beyond_the_limit() -> Outcome {
    mask(SIG_SETMASK, u64::MAX)?;
    limit(RLIMIT_SIGPENDING, 0, 0)?;
    kill(getpid(), SIGUSR1)?;
    kill(getpid(), 40)?;
    kill(getpid(), 40)?;
    same!(take(bit(SIGUSR1))?, (SIGUSR1, SI_USER));
    same!(take(bit(40))?, (40, SI_USER));
    fails!(take(bit(40)), EAGAIN);
    fails!(sys!(SYS_tgkill, getpid(), getpid(), 40), EAGAIN);
    Ok(())
}

fn sigtimedwait_is_interrupted_by_a_handler() -> Outcome {
    note_signal(SIGUSR1, SA_RESTART)?;
    let me = getpid();
    let sender = child(|| {
        sleep_ms(20);
        i32::from(kill(me, SIGUSR1).is_err())
    })?;
    let set = bit(SIGUSR2);
    fails!(sys!(SYS_rt_sigtimedwait, &raw const set, 0, 0, 8), EINTR);
    same!(status(sender)?, 0);
    Ok(())
}

/// How a blocking call of a child ends when the child is stopped and continued: its errno, 0, or -1 if it goes on.
fn after_a_stop(call: impl Fn() -> Result<usize>) -> Result<i32> {
    let pid = child(|| call().err().map_or(0, |Errno(error)| error))?;
    sleep_ms(30);
    kill(pid, SIGSTOP)?;
    let _ = waitid(P_PID, pid, WSTOPPED);
    kill(pid, SIGCONT)?;
    sleep_ms(60);
    let mut raw = 0;
    if sys!(SYS_wait4, pid, &raw mut raw, WNOHANG, 0)? == 0 {
        kill(pid, SIGKILL)?;
        wait(pid)?;
        return Ok(-1);
    }
    Ok(WEXITSTATUS(raw))
}

fn sigtimedwait_is_interrupted_by_a_stop() -> Outcome {
    let set = bit(SIGUSR2);
    same!(after_a_stop(|| sys!(SYS_rt_sigtimedwait, &raw const set, 0, 0, 8))?, EINTR);
    Ok(())
}

fn a_sleep_goes_on_after_a_stop() -> Outcome {
    let long = timespec_ms(20_000);
    same!(after_a_stop(|| sys!(SYS_nanosleep, &raw const long, 0))?, -1);
    Ok(())
}

fn a_poll_goes_on_after_a_stop() -> Outcome {
    same!(after_a_stop(|| sys!(SYS_ppoll, 0, 0, 0, 0, 0))?, -1);
    Ok(())
}

fn a_signalfd_read_restarts() -> Outcome {
    note_signal(SIGUSR1, SA_RESTART)?;
    mask(SIG_BLOCK, bit(SIGUSR2))?;
    let set = bit(SIGUSR2);
    let fd = sys!(SYS_signalfd4, -1, &raw const set, 8, 0)? as i32;
    let me = getpid();
    let sender = child(|| {
        sleep_ms(20);
        let _ = kill(me, SIGUSR1);
        sleep_ms(20);
        i32::from(kill(me, SIGUSR2).is_err())
    })?;
    let mut info = [0; 128];
    same!(read(fd, &mut info)?, 128);
    same!((i32::from(info[0]), count()), (SIGUSR2, 1));
    same!(status(sender)?, 0);
    Ok(())
}

fn a_stop_discards_a_pending_continue() -> Outcome {
    mask(SIG_SETMASK, u64::MAX)?;
    note_signal(SIGCONT, 0)?;
    note_signal(SIGTSTP, 0)?;
    kill(getpid(), SIGCONT)?;
    same!(pending()?, bit(SIGCONT));
    kill(getpid(), SIGTSTP)?;
    same!(pending()?, bit(SIGTSTP));
    Ok(())
}

fn a_continue_discards_a_pending_stop_signal() -> Outcome {
    mask(SIG_SETMASK, u64::MAX)?;
    note_signal(SIGCONT, 0)?;
    for signal in [SIGTSTP, SIGTTIN, SIGTTOU] {
        note_signal(signal, 0)?;
        kill(getpid(), signal)?;
    }
    kill(getpid(), SIGCONT)?;
    same!(pending()?, bit(SIGCONT));
    Ok(())
}

fn an_ignored_signal_can_be_waited_for() -> Outcome {
    sigaction(SIGUSR1, SIG_IGN, 0, 0)?;
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    kill(getpid(), SIGUSR1)?;
    same!(take(bit(SIGUSR1))?, (SIGUSR1, SI_USER));
    Ok(())
}

/// What the handler below saw of the alternate stack's flags.
static FLAGS: AtomicI32 = AtomicI32::new(-1);

extern "C" fn look_at_the_stack(_signal: i32, _info: *const u8, _context: *mut u8) {
    let mut now: stack_t = zeroed();
    if sys!(SYS_sigaltstack, 0, &raw mut now).is_ok() {
        FLAGS.store(now.ss_flags, SeqCst);
    }
}

fn autodisarm_works_on_any_stack() -> Outcome {
    const AUTODISARM: i32 = 1 << 31;
    let mut stack: stack_t = zeroed();
    stack.ss_sp = memory(65536)? as *mut _;
    stack.ss_size = 65536;
    stack.ss_flags = AUTODISARM;
    for flags in [0, SA_ONSTACK] {
        sys!(SYS_sigaltstack, &raw const stack, 0)?;
        sigaction(SIGUSR1, look_at_the_stack as *const () as usize, flags | SA_SIGINFO, 0)?;
        kill(getpid(), SIGUSR1)?;
        same!(FLAGS.load(SeqCst), SS_DISABLE);
        let mut after: stack_t = zeroed();
        sys!(SYS_sigaltstack, 0, &raw mut after)?;
        same!((after.ss_flags, after.ss_sp as usize), (AUTODISARM, stack.ss_sp as usize));
    }
    Ok(())
}

fn letter(pid: i32) -> Result<char> {
    let text = String::from_utf8_lossy(&content(&format!("/proc/{pid}/stat"))?).into_owned();
    Ok(text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?'))
}

fn states_have_their_letters() -> Outcome {
    same!(letter(getpid())?, 'R');
    let pid = sleeper()?;
    sleep_ms(30);
    same!(letter(pid)?, 'S');
    stop(pid)?;
    same!(letter(pid)?, 'T');
    end(pid)?;
    let pid = zombie(0)?;
    same!(letter(pid)?, 'Z');
    wait(pid)?;
    Ok(())
}

fn loadavg_has_five_fields() -> Outcome {
    let text = String::from_utf8_lossy(&content("/proc/loadavg")?).into_owned();
    let fields: Vec<&str> = text.trim_end().split(' ').collect();
    same!(fields.len(), 5);
    for load in &fields[..3] {
        holds!(load.split_once('.').is_some_and(|(whole, part)| whole.parse::<u32>().is_ok() && part.len() == 2));
    }
    let (running, all) = fields[3].split_once('/').unwrap_or_default();
    let (running, all): (u32, u32) = (running.parse().unwrap_or(0), all.parse().unwrap_or(0));
    holds!(running >= 1 && all >= running);
    holds!(fields[4].parse::<i32>().is_ok_and(|last| last >= 1));
    Ok(())
}

fn sigchld_of_a_stop_names_the_signal() -> Outcome {
    note_signal(SIGCHLD, SA_RESTART)?;
    let pid = sleeper()?;
    kill(pid, SIGSTOP)?;
    let mut raw = 0;
    sys!(SYS_wait4, pid, &raw mut raw, WUNTRACED, 0)?;
    for _ in 0..500 {
        if count() > 0 {
            break;
        }
        sleep_ms(1);
    }
    same!((seen::CODE.load(SeqCst), seen::PID.load(SeqCst)), (CLD_STOPPED, pid));
    same!(seen::STATUS.load(SeqCst), SIGSTOP);
    sigaction(SIGCHLD, SIG_DFL, 0, 0)?;
    end(pid)
}

fn usage_is_told_of_a_stopped_child() -> Outcome {
    let pid = child(|| {
        loop {
            std::hint::spin_loop();
        }
    })?;
    sleep_ms(300);
    kill(pid, SIGSTOP)?;
    let mut usage: rusage = zeroed();
    sys!(SYS_wait4, pid, 0, WUNTRACED, &raw mut usage)?;
    holds!(usage.ru_utime.tv_sec > 0 || usage.ru_utime.tv_usec > 1000);
    end(pid)
}
