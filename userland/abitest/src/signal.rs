//! sigaction(2), kill(2), sigprocmask(2), sigaltstack(2) and the faults of the processor: who gets what, when, how told.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::case::{Case, Outcome, cases, fails, holds, optional, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    handler_is_told_who_sent,
    default_action_kills,
    ignored_signals_do_nothing,
    kill_and_stop_cannot_be_handled,
    bad_numbers_are_einval,
    blocked_signals_wait,
    standard_signals_do_not_queue,
    realtime_signals_queue_in_order,
    lower_numbers_come_first,
    own_signal_is_blocked_in_its_handler,
    nodefer_lets_it_nest,
    mask_of_the_action_holds_in_the_handler,
    resethand_works_once,
    mask_is_restored_after_the_handler,
    read_is_interrupted,
    read_restarts_with_restart,
    pause_returns_eintr,
    sigsuspend_swaps_the_mask,
    sigtimedwait_takes_a_pending_signal,
    sigtimedwait_times_out,
    sigqueue_carries_a_value,
    sigqueue_cannot_forge_the_kernel,
    tgkill_hits_the_thread,
    tgkill_of_the_wrong_group_is_esrch,
    alternate_stack_is_used,
    alternate_stack_refuses_bad_sizes,
    segv_tells_the_address_of_nothing,
    segv_tells_of_missing_permission,
    execution_of_data_is_segv,
    bus_beyond_the_end_of_a_file,
    undefined_instruction_is_ill,
    breakpoint_is_trap,
    blocked_fault_kills,
    ignored_fault_kills,
    handler_can_mend_the_fault,
    registers_survive_a_handler,
    kill_zero_only_asks,
    kill_of_nobody_is_esrch,
    users_may_not_kill_root,
    stop_and_continue,
    continue_discards_a_pending_stop,
    kill_ends_a_stopped_process,
    abort_status_has_the_signal,
    signalfd_reads_a_signal,
    old_action_is_returned,
    sigpipe_kills_by_default,
];

fn handler_is_told_who_sent() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    kill(getpid(), SIGUSR1)?;
    same!(count(), 1);
    same!(seen::SIGNAL.load(SeqCst), SIGUSR1);
    same!(seen::CODE.load(SeqCst), SI_USER);
    same!(seen::PID.load(SeqCst), getpid());
    same!(seen::UID.load(SeqCst) as usize, sys!(SYS_getuid)?);
    Ok(())
}

fn default_action_kills() -> Outcome {
    for signal in
        [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM, SIGIO, SIGVTALRM, SIGSYS, 34, 64]
    {
        same!(fate(|| kill(getpid(), signal))?, 128 + signal);
    }
    for signal in [SIGCHLD, SIGURG, SIGWINCH, SIGCONT] {
        same!(fate(|| kill(getpid(), signal))?, 0);
    }
    Ok(())
}

fn ignored_signals_do_nothing() -> Outcome {
    sigaction(SIGTERM, SIG_IGN, 0, 0)?;
    kill(getpid(), SIGTERM)?;
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    kill(getpid(), SIGUSR1)?;
    // Ignoring discards what is pending.
    sigaction(SIGUSR1, SIG_IGN, 0, 0)?;
    same!(pending()?, 0);
    Ok(())
}

fn kill_and_stop_cannot_be_handled() -> Outcome {
    for signal in [SIGKILL, SIGSTOP] {
        fails!(sigaction(signal, SIG_IGN, 0, 0), EINVAL);
        fails!(note_signal(signal, 0), EINVAL);
    }
    mask(SIG_SETMASK, u64::MAX)?;
    same!(mask(SIG_BLOCK, 0)?, !(bit(SIGKILL) | bit(SIGSTOP)));
    Ok(())
}

fn bad_numbers_are_einval() -> Outcome {
    for signal in [-1, 65, 257, 1 << 30] {
        fails!(kill(getpid(), signal), EINVAL);
        fails!(sigaction(signal, SIG_IGN, 0, 0), EINVAL);
    }
    fails!(sigaction(0, SIG_IGN, 0, 0), EINVAL);
    fails!(mask(7, 0).map(|_| 0), EINVAL);
    let set = 0u64;
    fails!(sys!(SYS_rt_sigprocmask, SIG_BLOCK, &raw const set, 0, 4), EINVAL);
    fails!(sys!(SYS_rt_sigaction, SIGUSR1, 0, 0, 16), EINVAL);
    Ok(())
}

fn blocked_signals_wait() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    kill(getpid(), SIGUSR1)?;
    same!((count(), pending()?), (0, bit(SIGUSR1)));
    mask(SIG_UNBLOCK, bit(SIGUSR1))?;
    same!((count(), pending()?), (1, 0));
    Ok(())
}

fn standard_signals_do_not_queue() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    for _ in 0..3 {
        kill(getpid(), SIGUSR1)?;
    }
    mask(SIG_UNBLOCK, bit(SIGUSR1))?;
    same!(count(), 1);
    Ok(())
}

/// rt_sigqueueinfo to ourselves.
fn queue(signal: i32, code: i32, value: usize) -> Result<usize> {
    let mut info = [0u32; 32];
    info[0] = signal as u32;
    info[2] = code as u32;
    info[4] = getpid() as u32;
    info[6] = value as u32;
    info[7] = (value >> 32) as u32;
    sys!(SYS_rt_sigqueueinfo, getpid(), signal, info.as_ptr())
}

fn realtime_signals_queue_in_order() -> Outcome {
    static VALUES: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn collect(_: i32, info: usize, _: usize) {
        let value: usize = peek(info + 24);
        VALUES.store(VALUES.load(SeqCst) * 10 + value, SeqCst);
    }
    sigaction(40, collect as *const () as usize, SA_SIGINFO, 0)?;
    mask(SIG_BLOCK, bit(40))?;
    for value in 1..=5 {
        queue(40, SI_QUEUE, value)?;
    }
    mask(SIG_UNBLOCK, bit(40))?;
    same!(VALUES.load(SeqCst), 12345);
    Ok(())
}

fn lower_numbers_come_first() -> Outcome {
    for signal in [40, 41, 42] {
        sigaction(signal, note as *const () as usize, SA_SIGINFO, u64::MAX)?;
    }
    mask(SIG_BLOCK, bit(40) | bit(41) | bit(42))?;
    for signal in [42, 40, 41] {
        kill(getpid(), signal)?;
    }
    mask(SIG_SETMASK, 0)?;
    // Each handler blocks all, so they run one after the other.
    same!(seen::ORDER.load(SeqCst), 404_142);
    Ok(())
}

static DEPTH: AtomicUsize = AtomicUsize::new(0);
static DEEPEST: AtomicUsize = AtomicUsize::new(0);
static MASK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn again(signal: i32, _: usize, _: usize) {
    let depth = DEPTH.fetch_add(1, SeqCst) + 1;
    DEEPEST.fetch_max(depth, SeqCst);
    MASK.store(mask(SIG_BLOCK, 0).unwrap_or(0) as usize, SeqCst);
    if count() < 3 {
        seen::COUNT.fetch_add(1, SeqCst);
        let _ = kill(getpid(), signal);
    }
    DEPTH.fetch_sub(1, SeqCst);
}

fn own_signal_is_blocked_in_its_handler() -> Outcome {
    sigaction(SIGUSR1, again as *const () as usize, 0, 0)?;
    kill(getpid(), SIGUSR1)?;
    same!((DEEPEST.load(SeqCst), count()), (1, 3));
    Ok(())
}

fn nodefer_lets_it_nest() -> Outcome {
    sigaction(SIGUSR1, again as *const () as usize, SA_NODEFER, 0)?;
    kill(getpid(), SIGUSR1)?;
    same!((DEEPEST.load(SeqCst), count()), (4, 3));
    Ok(())
}

fn mask_of_the_action_holds_in_the_handler() -> Outcome {
    mask(SIG_SETMASK, bit(SIGHUP))?;
    sigaction(SIGUSR1, again as *const () as usize, 0, bit(SIGUSR2) | bit(SIGKILL))?;
    kill(getpid(), SIGUSR1)?;
    same!(MASK.load(SeqCst) as u64, bit(SIGHUP) | bit(SIGUSR1) | bit(SIGUSR2));
    Ok(())
}

fn resethand_works_once() -> Outcome {
    note_signal(SIGUSR1, SA_RESETHAND)?;
    kill(getpid(), SIGUSR1)?;
    same!(count(), 1);
    same!(fate(|| kill(getpid(), SIGUSR1))?, 128 + SIGUSR1);
    Ok(())
}

fn mask_is_restored_after_the_handler() -> Outcome {
    mask(SIG_SETMASK, bit(SIGHUP))?;
    sigaction(SIGUSR1, note as *const () as usize, SA_SIGINFO, u64::MAX)?;
    kill(getpid(), SIGUSR1)?;
    same!(mask(SIG_BLOCK, 0)?, bit(SIGHUP));
    Ok(())
}

/// Sends `signal` to us from a child, later.
fn send_later(signal: i32, ms: i64) -> Result<i32> {
    let me = getpid();
    child(|| {
        sleep_ms(ms);
        kill(me, signal).is_err().into()
    })
}

fn read_is_interrupted() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    let (reader, _writer) = pipe(0)?;
    let pid = send_later(SIGUSR1, 30)?;
    fails!(read(reader, &mut [0]), EINTR);
    same!(count(), 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn read_restarts_with_restart() -> Outcome {
    note_signal(SIGUSR1, SA_RESTART)?;
    let (reader, writer) = pipe(0)?;
    let me = getpid();
    let pid = child(|| {
        sleep_ms(30);
        let _ = kill(me, SIGUSR1);
        sleep_ms(30);
        (write(writer, b"z") != Ok(1)).into()
    })?;
    let mut byte = [0];
    same!(read(reader, &mut byte)?, 1);
    same!((count(), byte[0]), (1, b'z'));
    same!(status(pid)?, 0);
    Ok(())
}

fn pause_returns_eintr() -> Outcome {
    note_signal(SIGUSR1, SA_RESTART)?;
    let pid = send_later(SIGUSR1, 30)?;
    // pause restarts never: ppoll without a timeout is what arm64 has in its place.
    fails!(sys!(SYS_ppoll, 0, 0, 0, 0, 8), EINTR);
    same!(count(), 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn sigsuspend_swaps_the_mask() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    mask(SIG_SETMASK, bit(SIGUSR1) | bit(SIGHUP))?;
    kill(getpid(), SIGUSR1)?;
    let set = bit(SIGHUP);
    fails!(sys!(SYS_rt_sigsuspend, &raw const set, 8), EINTR);
    same!(count(), 1);
    same!(mask(SIG_BLOCK, 0)?, bit(SIGUSR1) | bit(SIGHUP));
    Ok(())
}

fn sigtimedwait_takes_a_pending_signal() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    let pid = send_later(SIGUSR1, 30)?;
    let set = bit(SIGUSR1);
    let mut info = [0u32; 32];
    let time = timespec_ms(10_000);
    same!(sys!(SYS_rt_sigtimedwait, &raw const set, info.as_mut_ptr(), &raw const time, 8)?, SIGUSR1 as usize);
    same!((info[0] as i32, info[4] as i32), (SIGUSR1, pid));
    same!(pending()?, 0);
    same!(status(pid)?, 0);
    Ok(())
}

fn sigtimedwait_times_out() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    let set = bit(SIGUSR1);
    let start = now_ns(CLOCK_MONOTONIC)?;
    let time = timespec_ms(40);
    fails!(sys!(SYS_rt_sigtimedwait, &raw const set, 0, &raw const time, 8), EAGAIN);
    holds!(now_ns(CLOCK_MONOTONIC)? - start >= 40_000_000);
    let time = timespec_ms(0);
    fails!(sys!(SYS_rt_sigtimedwait, &raw const set, 0, &raw const time, 8), EAGAIN);
    Ok(())
}

fn sigqueue_carries_a_value() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    queue(SIGUSR1, SI_QUEUE, 0x1234_5678_9abc)?;
    same!(seen::CODE.load(SeqCst), SI_QUEUE);
    same!(seen::VALUE.load(SeqCst), 0x1234_5678_9abc);
    Ok(())
}

fn sigqueue_cannot_forge_the_kernel() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    let pid = child(|| {
        sleep_ms(10_000);
        0
    })?;
    let mut info = [0u32; 32];
    info[0] = SIGUSR1 as u32;
    for code in [SI_USER, SI_KERNEL, SI_TKILL] {
        info[2] = code as u32;
        fails!(sys!(SYS_rt_sigqueueinfo, pid, SIGUSR1, info.as_ptr()), EPERM);
    }
    kill(pid, SIGKILL)?;
    wait(pid)?;
    Ok(())
}

fn tgkill_hits_the_thread() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    sys!(SYS_tgkill, getpid(), sys!(SYS_gettid)?, SIGUSR1)?;
    same!((count(), seen::CODE.load(SeqCst)), (1, SI_TKILL));
    Ok(())
}

fn tgkill_of_the_wrong_group_is_esrch() -> Outcome {
    fails!(sys!(SYS_tgkill, sys!(SYS_getppid)?, getpid(), SIGUSR1), ESRCH);
    fails!(sys!(SYS_tgkill, 0, getpid(), SIGUSR1), EINVAL);
    fails!(sys!(SYS_tkill, -1, SIGUSR1), EINVAL);
    Ok(())
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Stack {
    address: usize,
    flags: i32,
    _pad: i32,
    size: usize,
}

fn alternate_stack_is_used() -> Outcome {
    let size = 64 << 10;
    let address = memory(size)?;
    let stack = Stack { address, size, ..Stack::default() };
    sys!(SYS_sigaltstack, &raw const stack, 0)?;
    note_signal(SIGUSR1, SA_ONSTACK)?;
    note_signal(SIGUSR2, 0)?;
    kill(getpid(), SIGUSR2)?;
    holds!(!(address..address + size).contains(&seen::STACK.load(SeqCst)));
    kill(getpid(), SIGUSR1)?;
    holds!((address..address + size).contains(&seen::STACK.load(SeqCst)));
    let mut now = Stack::default();
    sys!(SYS_sigaltstack, 0, &raw mut now)?;
    same!((now.address, now.size, now.flags), (address, size, 0));
    Ok(())
}

fn alternate_stack_refuses_bad_sizes() -> Outcome {
    let address = memory(64 << 10)?;
    let small = Stack { address, size: 1000, ..Stack::default() };
    fails!(sys!(SYS_sigaltstack, &raw const small, 0), ENOMEM);
    let odd = Stack { address, size: 64 << 10, flags: 77, ..Stack::default() };
    fails!(sys!(SYS_sigaltstack, &raw const odd, 0), EINVAL);
    fails!(sys!(SYS_sigaltstack, 8, 0), EFAULT);
    Ok(())
}

/// Where [`escape`] takes a faulting process: out, with what it was told in the status.
extern "C" fn escape(_: i32, info: usize, _: usize) {
    let code: i32 = peek(info + 8);
    let address: usize = peek(info + 16);
    exit(if address == EXPECTED.load(SeqCst) { code & 0x3f } else { 70 });
}

static EXPECTED: AtomicUsize = AtomicUsize::new(0);

/// The si_code of the fault that `body` makes at `address`; 70: another address was told.
fn fault_code<T>(signal: i32, address: usize, body: impl FnOnce() -> T) -> Result<i32> {
    EXPECTED.store(address, SeqCst);
    sigaction(signal, escape as *const () as usize, SA_SIGINFO, 0)?;
    fate(body)
}

fn segv_tells_the_address_of_nothing() -> Outcome {
    same!(fault_code(SIGSEGV, 0x123, || poke(0x123, 1u8))?, 1);
    let page = memory(4096)?;
    sys!(SYS_munmap, page, 4096)?;
    same!(fault_code(SIGSEGV, page + 77, || touch(page + 77))?, 1);
    same!(fate(|| sigaction(SIGSEGV, SIG_DFL, 0, 0).map(|_| poke(8, 1u8)))?, 128 + SIGSEGV);
    Ok(())
}

fn segv_tells_of_missing_permission() -> Outcome {
    let page = map(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS)?;
    same!(fault_code(SIGSEGV, page + 5, || poke(page + 5, 1u8))?, 2);
    sys!(SYS_mprotect, page, 4096, PROT_NONE)?;
    same!(fault_code(SIGSEGV, page + 6, || touch(page + 6))?, 2);
    Ok(())
}

fn execution_of_data_is_segv() -> Outcome {
    let page = memory(4096)?;
    poke(page, 0u32);
    same!(fault_code(SIGSEGV, page, || jump(page))?, 2);
    Ok(())
}

fn bus_beyond_the_end_of_a_file() -> Outcome {
    file("f", &[1; 5000])?;
    let fd = open("f", O_RDWR, 0)?;
    let base = sys!(SYS_mmap, 0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
    // The rest of the last page is zeroes; the page after it is not there.
    same!(peek::<u8>(base + 8000), 0);
    same!(fault_code(SIGBUS, base + 8192 + 3, || poke(base + 8192 + 3, 1u8))?, 2);
    sys!(SYS_ftruncate, fd, 0)?;
    same!(fault_code(SIGBUS, base, || touch(base))?, 2);
    Ok(())
}

fn undefined_instruction_is_ill() -> Outcome {
    same!(fate(undefined_instruction)?, 128 + SIGILL);
    note_signal(SIGILL, SA_RESETHAND)?;
    same!(fate(undefined_instruction)?, 128 + SIGILL);
    Ok(())
}

fn breakpoint_is_trap() -> Outcome {
    same!(fate(breakpoint)?, 128 + SIGTRAP);
    Ok(())
}

fn blocked_fault_kills() -> Outcome {
    note_signal(SIGSEGV, 0)?;
    mask(SIG_BLOCK, bit(SIGSEGV))?;
    same!(fate(|| poke(8, 1u8))?, 128 + SIGSEGV);
    Ok(())
}

fn ignored_fault_kills() -> Outcome {
    sigaction(SIGSEGV, SIG_IGN, 0, 0)?;
    same!(fate(|| poke(8, 1u8))?, 128 + SIGSEGV);
    Ok(())
}

fn handler_can_mend_the_fault() -> Outcome {
    extern "C" fn mend(_: i32, info: usize, _: usize) {
        let address: usize = peek(info + 16);
        let _ = sys!(SYS_mprotect, address & !4095, 4096, PROT_READ | PROT_WRITE);
        seen::COUNT.fetch_add(1, SeqCst);
    }
    sigaction(SIGSEGV, mend as *const () as usize, SA_SIGINFO, 0)?;
    let base = map(0, 10 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS)?;
    for page in 0..10 {
        poke(base + page * 4096 + 8, page);
    }
    same!(count(), 10);
    same!((0..10).map(|page| peek::<usize>(base + page * 4096 + 8)).sum::<usize>(), 45);
    Ok(())
}

fn registers_survive_a_handler() -> Outcome {
    extern "C" fn stir(_: i32, _: usize, _: usize) {
        let mut sum = 1.0f64;
        for n in 1..50 {
            sum = sum * 1.5 + f64::from(n).sqrt();
        }
        seen::COUNT.fetch_add((sum > 1.0) as usize, SeqCst);
    }
    sigaction(SIGALRM, stir as *const () as usize, SA_RESTART, 0)?;
    let mut timer: itimerval = zeroed();
    timer.it_value.tv_usec = 1000;
    timer.it_interval.tv_usec = 1000;
    let compute = || {
        let (mut integer, mut real) = (1u64, 0.5f64);
        for n in 0..20_000u64 {
            integer = integer.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
            real = real * 0.999 + (n % 7) as f64;
        }
        (integer, real.to_bits())
    };
    let expected = compute();
    sys!(SYS_setitimer, ITIMER_REAL, &raw const timer, 0)?;
    let mut rounds = 0;
    while count() < 20 && rounds < 100_000 {
        same!(compute(), expected);
        rounds += 1;
    }
    holds!(count() >= 20);
    Ok(())
}

fn kill_zero_only_asks() -> Outcome {
    same!(kill(getpid(), 0)?, 0);
    same!(kill(0, 0)?, 0);
    Ok(())
}

fn kill_of_nobody_is_esrch() -> Outcome {
    let pid = child(|| 0)?;
    wait(pid)?;
    fails!(kill(pid, SIGTERM), ESRCH);
    fails!(kill(-pid, SIGTERM), ESRCH);
    fails!(kill(i32::MIN, SIGTERM), ESRCH);
    Ok(())
}

fn users_may_not_kill_root() -> Outcome {
    let root = child(|| {
        sleep_ms(20_000);
        0
    })?;
    let pid = trial(|| {
        become_user()?;
        fails!(kill(root, SIGTERM), EPERM);
        fails!(kill(root, 0), EPERM);
        // SIGCONT is free within the session.
        same!(kill(root, SIGCONT)?, 0);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    kill(root, SIGKILL)?;
    wait(root)?;
    Ok(())
}

fn stop_and_continue() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        loop {
            words.word(0).fetch_add(1, SeqCst);
            sleep_ms(1);
        }
    })?;
    words.wait_for(0, 1);
    kill(pid, SIGSTOP)?;
    sys!(SYS_wait4, pid, 0, WUNTRACED, 0)?;
    let before = words.get(0);
    sleep_ms(20);
    same!(words.get(0), before);
    kill(pid, SIGCONT)?;
    sys!(SYS_wait4, pid, 0, WCONTINUED, 0)?;
    sleep_ms(20);
    holds!(words.get(0) > before);
    kill(pid, SIGKILL)?;
    wait(pid)?;
    Ok(())
}

fn continue_discards_a_pending_stop() -> Outcome {
    note_signal(SIGTSTP, 0)?;
    mask(SIG_BLOCK, bit(SIGTSTP))?;
    kill(getpid(), SIGTSTP)?;
    same!(pending()?, bit(SIGTSTP));
    kill(getpid(), SIGCONT)?;
    same!(pending()?, 0);
    Ok(())
}

fn kill_ends_a_stopped_process() -> Outcome {
    let pid = child(|| {
        sleep_ms(20_000);
        0
    })?;
    kill(pid, SIGSTOP)?;
    sys!(SYS_wait4, pid, 0, WUNTRACED, 0)?;
    kill(pid, SIGTERM)?;
    sleep_ms(10);
    same!(sys!(SYS_wait4, pid, 0, WNOHANG, 0)?, 0);
    kill(pid, SIGKILL)?;
    same!(wait(pid)?, SIGKILL);
    Ok(())
}

fn abort_status_has_the_signal() -> Outcome {
    limit(RLIMIT_CORE, 0, 0)?;
    same!(
        wait(child(|| {
            let _ = kill(getpid(), SIGABRT);
            0
        })?)?,
        SIGABRT
    );
    Ok(())
}

fn signalfd_reads_a_signal() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    let set = bit(SIGUSR1);
    let fd = optional!(sys!(SYS_signalfd4, -1, &raw const set, 8, O_NONBLOCK)) as i32;
    fails!(read(fd, &mut [0; 128]), EAGAIN);
    kill(getpid(), SIGUSR1)?;
    let mut info = [0u8; 256];
    same!(read(fd, &mut info)?, 128);
    same!(info[0] as i32, SIGUSR1);
    same!(pending()?, 0);
    Ok(())
}

fn old_action_is_returned() -> Outcome {
    let handler = note as *const () as usize;
    same!(sigaction(SIGUSR1, handler, SA_RESTART, bit(SIGHUP) | bit(SIGKILL))?.handler, SIG_DFL);
    let old = sigaction(SIGUSR1, SIG_IGN, 0, 0)?;
    same!((old.handler, old.flags & SA_RESTART as usize, old.mask), (handler, SA_RESTART as usize, bit(SIGHUP)));
    same!(sigaction(SIGUSR1, SIG_DFL, 0, 0)?.handler, SIG_IGN);
    Ok(())
}

fn sigpipe_kills_by_default() -> Outcome {
    let (reader, writer) = pipe(0)?;
    close(reader)?;
    same!(
        fate(|| {
            let _ = sigaction(SIGPIPE, SIG_DFL, 0, 0);
            let _ = write(writer, b"x");
        })?,
        128 + SIGPIPE
    );
    Ok(())
}
