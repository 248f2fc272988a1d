//! signal(7), sigaction(2), kill(2), sigaltstack(2), signalfd(2), getrlimit(2): a named case for each rule, most of them
//! rows of tables.

use abi::capability::CAP_KILL;
use abi::resource::{RLIMIT_SIGPENDING, Rlimit};
use abi::signal::{
    BUS_ADRALN, ILL_ILLOPC, SA_NOCLDSTOP, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SA_RESTORER, SA_SIGINFO,
    SEGV_ACCERR, SEGV_MAPERR, SI_KERNEL, SI_QUEUE, SI_TKILL, SI_USER, SIG_BLOCK, SIG_SETMASK, SIGALRM, SIGBUS, SIGCHLD,
    SIGCONT, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGKILL, SIGPIPE, SIGSEGV, SIGSTOP, SIGTERM, SIGTRAP, SIGTSTP, SIGTTIN,
    SIGUSR1, SIGUSR2, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, SigInfo, Sigaction, StackT, TRAP_BRKPT,
};
use abi::{Errno, mman, nr, wait as w};
use hal::hosted::User;
use hal::trap::{Access, UserException};
use kcore::testing::{Disposition, Libc};
use zerocopy::{FromZeros, IntoBytes};

use crate::{Diary, MS, bit, story};

/// `name => (values)` rows: each becomes a test that calls `check` with its values.
macro_rules! table {
    ($check:path: $($name:ident => ($($value:expr),* $(,)?);)*) => { $(#[test] fn $name() { $check($($value),*) })* };
}

const RW: u32 = mman::PROT_READ | mman::PROT_WRITE;

fn raise(user: &mut User, signal: u32) {
    let me = user.getpid();
    user.kill(me, signal).unwrap();
}

fn noting(user: &mut User, signal: u32, flags: u32, diary: &Diary, word: &str) {
    let (diary, word) = (diary.clone(), word.to_string());
    user.on(signal, flags, move |_| diary.note(word.clone()));
}

fn queue(user: &mut User, pid: i32, signal: u32, value: i32) -> Result<(), Errno> {
    let me = user.getpid();
    let info = SigInfo::child_with(signal, SI_QUEUE, me, 0, value);
    user.call_with(nr::RT_SIGQUEUEINFO, &[pid as u64, u64::from(signal)], &info, &[]).map(drop)
}

fn in_child(init: &mut User, body: impl FnOnce(&mut User) -> i32 + 'static) -> kcore::testing::Status {
    let child = init.fork(body);
    init.wait_for(child)
}

fn passes(init: &mut User, body: impl FnOnce(&mut User) -> i32 + 'static) {
    assert_eq!(in_child(init, body).exit_code(), Some(0));
}

// ---- Default actions: the table of signal(7), one row a signal.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Default {
    Ends,
    Stops,
    Nothing,
}

fn by_default(signal: u32, action: Default) {
    story(move |init| {
        let child = init.fork(|child| {
            let _ = child.sleep_ns(10 * MS);
            0
        });
        init.sleep_ns(MS).unwrap();
        init.kill(child, signal).unwrap();
        init.sleep_ns(MS).unwrap();
        let told = init.wait4(child, w::WNOHANG | w::WUNTRACED).unwrap().map(|waited| waited.status);
        match action {
            Default::Ends => assert_eq!(told.unwrap().killed_by(), Some(signal)),
            Default::Stops => assert_eq!(told.unwrap().stopped_by(), Some(signal)),
            Default::Nothing => assert_eq!(told, None),
        }
        if action != Default::Ends {
            init.kill(child, SIGKILL).unwrap();
            init.wait_for(child);
        }
    });
}

table! { by_default:
    sighup_ends => (1, Default::Ends);
    sigint_ends => (2, Default::Ends);
    sigquit_ends => (3, Default::Ends);
    sigill_ends => (4, Default::Ends);
    sigtrap_ends => (5, Default::Ends);
    sigabrt_ends => (6, Default::Ends);
    sigbus_ends => (7, Default::Ends);
    sigfpe_ends => (8, Default::Ends);
    sigkill_ends => (9, Default::Ends);
    sigusr1_ends => (10, Default::Ends);
    sigsegv_ends => (11, Default::Ends);
    sigusr2_ends => (12, Default::Ends);
    sigpipe_ends => (13, Default::Ends);
    sigalrm_ends => (14, Default::Ends);
    sigterm_ends => (15, Default::Ends);
    sigstkflt_ends => (16, Default::Ends);
    sigchld_does_nothing => (17, Default::Nothing);
    sigcont_does_nothing_to_who_runs => (18, Default::Nothing);
    sigstop_stops => (19, Default::Stops);
    sigurg_does_nothing => (23, Default::Nothing);
    sigxcpu_ends => (24, Default::Ends);
    sigxfsz_ends => (25, Default::Ends);
    sigvtalrm_ends => (26, Default::Ends);
    sigprof_ends => (27, Default::Ends);
    sigwinch_does_nothing => (28, Default::Nothing);
    sigio_ends => (29, Default::Ends);
    sigpwr_ends => (30, Default::Ends);
    sigsys_ends => (31, Default::Ends);
    the_first_real_time_signal_ends => (32, Default::Ends);
    a_real_time_signal_ends => (50, Default::Ends);
    the_last_real_time_signal_ends => (64, Default::Ends);
}

// ---- SA_RESTART: the table of signal(7), "Interruption of system calls and library functions by signal handlers".

/// What a blocking call does when a handler interrupts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    /// Goes on if the handler was set with SA_RESTART, else EINTR.
    AsTheHandlerSays,
    /// EINTR whatever the flags.
    AlwaysEintr,
}

/// `prepare` makes what the call needs and returns its number and arguments; without a signal it would sleep for ever.
type Blocking = fn(&mut User) -> (usize, [u64; 6]);

fn is_interrupted(blocking: Blocking, after: After) {
    for flags in [0, SA_RESTART] {
        story(move |init| {
            let diary = Diary::default();
            let inner = diary.clone();
            let child = init.fork(move |child| {
                let (number, arguments) = blocking(child);
                noting(child, SIGUSR1, flags, &inner, "handled");
                let error = child.call(number, &arguments).err();
                inner.note(format!("{error:?}"));
                0
            });
            init.sleep_ns(5 * MS).unwrap();
            init.kill(child, SIGUSR1).unwrap();
            init.sleep_ns(5 * MS).unwrap();
            if flags == SA_RESTART && after == After::AsTheHandlerSays {
                assert_eq!(diary.entries(), ["handled"], "it sleeps again");
            } else {
                assert_eq!(diary.entries(), ["handled", "Some(EINTR)"], "flags {flags:#x}");
            }
            init.kill(child, SIGKILL).unwrap();
            init.wait_for(child);
        });
    }
}

fn long(user: &mut User) -> u64 {
    user.push(abi::time::Timespec { tv_sec: 1000, tv_nsec: 0 }.as_bytes())
}

fn full_pipe(user: &mut User) -> i32 {
    let (_, write) = user.pipe(abi::fcntl::O_NONBLOCK).unwrap();
    while user.write_fd(write, &[0; 4096]).is_ok() {}
    user.call(nr::FCNTL, &[write as u64, abi::fcntl::F_SETFL as u64, 0]).unwrap();
    write
}

table! { is_interrupted:
    reading_a_pipe => (|u| (nr::READ, [u.pipe(0).unwrap().0 as u64, u.sp() - 64, 1, 0, 0, 0]), After::AsTheHandlerSays);
    reading_a_pipe_with_readv => (|u| {
        let (read, _) = u.pipe(0).unwrap();
        let vector = u.push([u.sp() - 4096, 1].as_bytes());
        (nr::READV, [read as u64, vector, 1, 0, 0, 0])
    }, After::AsTheHandlerSays);
    writing_a_full_pipe => (|u| (nr::WRITE, [full_pipe(u) as u64, u.sp(), 4096, 0, 0, 0]), After::AsTheHandlerSays);
    waiting_for_a_child => (|u| {
        u.fork(|child| child.sleep_ns(1_000_000 * MS).map_or(1, |()| 0));
        (nr::WAIT4, [u64::MAX, 0, 0, 0, 0, 0])
    }, After::AsTheHandlerSays);
    waiting_with_waitid => (|u| {
        u.fork(|child| child.sleep_ns(1_000_000 * MS).map_or(1, |()| 0));
        (nr::WAITID, [0, 0, 0, u64::from(w::WEXITED), 0, 0])
    }, After::AsTheHandlerSays);
    a_futex_wait_without_a_timeout => (|u| (nr::FUTEX, [u.mmap(4096, RW), 0, 0, 0, 0, 0]), After::AsTheHandlerSays);
    a_futex_wait_for_bits_without_a_timeout => (|u| {
        (nr::FUTEX, [u.mmap(4096, RW), 9, 0, 0, 0, u64::from(u32::MAX)])
    }, After::AsTheHandlerSays);
    reading_a_signalfd => (|u| {
        let set = u.push(bit(SIGUSR2).as_bytes());
        let fd = u.call(nr::SIGNALFD4, &[u64::MAX, set, 8, 0]).unwrap();
        (nr::READ, [fd, u.sp() - 4096, 128, 0, 0, 0])
    }, After::AsTheHandlerSays);
    reading_an_eventfd => (|u| {
        let fd = u.call(nr::EVENTFD2, &[0, 0]).unwrap();
        (nr::READ, [fd, u.sp() - 4096, 8, 0, 0, 0])
    }, After::AsTheHandlerSays);
    opening_a_fifo_without_a_writer => (|u| {
        let path = u.push_string("/tmp/fifo");
        u.call(nr::MKNODAT, &[abi::fcntl::AT_FDCWD as u64, path, 0o010_600, 0]).unwrap();
        (nr::OPENAT, [abi::fcntl::AT_FDCWD as u64, path, 0, 0, 0, 0])
    }, After::AsTheHandlerSays);
    a_lock_that_another_holds => (|u| {
        let fd = u.open("/tmp/lock", abi::fcntl::O_CREAT | abi::fcntl::O_RDWR, 0o600).unwrap();
        let other = u.open("/tmp/lock", abi::fcntl::O_RDWR, 0).unwrap();
        u.call(nr::FLOCK, &[fd as u64, 2]).unwrap();
        (nr::FLOCK, [other as u64, 2, 0, 0, 0, 0])
    }, After::AsTheHandlerSays);
    pausing => (|_| (nr::PPOLL, [0, 0, 0, 0, 0, 0]), After::AlwaysEintr);
    suspending => (|u| (nr::RT_SIGSUSPEND, [u.push(0u64.as_bytes()), 8, 0, 0, 0, 0]), After::AlwaysEintr);
    waiting_for_a_signal => (|u| {
        let set = u.push(bit(SIGUSR2).as_bytes());
        (nr::RT_SIGTIMEDWAIT, [set, 0, 0, 8, 0, 0])
    }, After::AlwaysEintr);
    sleeping => (|u| (nr::NANOSLEEP, [long(u), 0, 0, 0, 0, 0]), After::AlwaysEintr);
    sleeping_on_a_clock => (|u| (nr::CLOCK_NANOSLEEP, [1, 0, long(u), 0, 0, 0]), After::AlwaysEintr);
    sleeping_to_a_point_in_time => (|u| (nr::CLOCK_NANOSLEEP, [1, 1, long(u), 0, 0, 0]), After::AlwaysEintr);
    polling => (|u| {
        let (read, _) = u.pipe(0).unwrap();
        let entry = u.push(&[(read as u64 | 1 << 32).to_le_bytes()].concat());
        (nr::PPOLL, [entry, 1, 0, 0, 0, 0])
    }, After::AlwaysEintr);
    polling_with_a_timeout => (|u| (nr::PPOLL, [0, 0, long(u), 0, 0, 0]), After::AlwaysEintr);
    selecting => (|u| (nr::PSELECT6, [0, 0, 0, 0, long(u), 0]), After::AlwaysEintr);
    waiting_on_epoll => (|u| {
        let fd = u.call(nr::EPOLL_CREATE1, &[0]).unwrap();
        (nr::EPOLL_PWAIT, [fd, u.sp() - 4096, 1, u64::MAX, 0, 0])
    }, After::AlwaysEintr);
    // Linux futex_wait: any timeout goes into a restart block.
    a_futex_wait_with_an_absolute_timeout => (|u| {
        let (page, timeout) = (u.mmap(4096, RW), long(u));
        (nr::FUTEX, [page, 9, 0, timeout, 0, u64::from(u32::MAX)])
    }, After::AlwaysEintr);
    a_futex_wait_with_a_relative_timeout => (|u| {
        let (page, timeout) = (u.mmap(4096, RW), long(u));
        (nr::FUTEX, [page, 0, 0, timeout, 0, 0])
    }, After::AlwaysEintr);
}

/// A stop and a continue without a handler: the call goes on, except for those that signal(7) names ("by stop signals").
fn survives_a_stop(blocking: Blocking, goes_on: Result<(), Errno>) {
    story(move |init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let child = init.fork(move |child| {
            let (number, arguments) = blocking(child);
            let error = child.call(number, &arguments).err();
            inner.note(format!("{error:?}"));
            0
        });
        init.sleep_ns(5 * MS).unwrap();
        for signal in [SIGSTOP, SIGCONT] {
            init.kill(child, signal).unwrap();
            init.sleep_ns(5 * MS).unwrap();
        }
        match goes_on {
            Ok(()) => assert_eq!(diary.entries(), [""; 0]),
            Err(error) => assert_eq!(diary.entries(), [format!("Some({error:?})")]),
        }
        init.kill(child, SIGKILL).unwrap();
        init.wait_for(child);
    });
}

table! { survives_a_stop:
    a_read_goes_on_after_a_stop => (|u| (nr::READ, [u.pipe(0).unwrap().0 as u64, u.sp() - 64, 1, 0, 0, 0]), Ok(()));
    a_wait_goes_on_after_a_stop => (|u| {
        u.fork(|child| child.sleep_ns(1_000_000 * MS).map_or(1, |()| 0));
        (nr::WAIT4, [u64::MAX, 0, 0, 0, 0, 0])
    }, Ok(()));
    a_sleep_goes_on_after_a_stop => (|u| (nr::NANOSLEEP, [long(u), 0, 0, 0, 0, 0]), Ok(()));
    a_sleep_to_a_point_in_time_goes_on_after_a_stop => (|u| (nr::CLOCK_NANOSLEEP, [1, 1, long(u), 0, 0, 0]), Ok(()));
    a_poll_goes_on_after_a_stop => (|u| (nr::PPOLL, [0, 0, long(u), 0, 0, 0]), Ok(()));
    a_pause_goes_on_after_a_stop => (|_| (nr::PPOLL, [0, 0, 0, 0, 0, 0]), Ok(()));
    a_select_goes_on_after_a_stop => (|u| (nr::PSELECT6, [0, 0, 0, 0, long(u), 0]), Ok(()));
    a_sigsuspend_goes_on_after_a_stop => (|u| (nr::RT_SIGSUSPEND, [u.push(0u64.as_bytes()), 8, 0, 0, 0, 0]), Ok(()));
    a_futex_wait_goes_on_after_a_stop => (|u| (nr::FUTEX, [u.mmap(4096, RW), 0, 0, 0, 0, 0]), Ok(()));
    a_timed_futex_wait_goes_on_after_a_stop => (|u| {
        let (page, timeout) = (u.mmap(4096, RW), long(u));
        (nr::FUTEX, [page, 0, 0, timeout, 0, 0])
    }, Ok(()));
    an_epoll_wait_is_eintr_after_a_stop => (|u| {
        let fd = u.call(nr::EPOLL_CREATE1, &[0]).unwrap();
        (nr::EPOLL_PWAIT, [fd, u.sp() - 4096, 1, u64::MAX, 0, 0])
    }, Err(Errno::EINTR));
    a_sigtimedwait_is_eintr_after_a_stop => (|u| {
        let set = u.push(bit(SIGUSR2).as_bytes());
        (nr::RT_SIGTIMEDWAIT, [set, 0, 0, 8, 0, 0])
    }, Err(Errno::EINTR));
}

// ---- kill(2): who may signal whom.

/// Sender's real and effective, target's real and saved user id.
fn may_kill(sender: (u64, u64), target: (u64, u64), allowed: bool) {
    story(move |init| {
        let victim = init.fork(move |victim| {
            victim.call(nr::SETRESUID, &[target.0, 77, target.1]).unwrap();
            loop {
                victim.pause();
            }
        });
        init.sleep_ns(MS).unwrap();
        let expected = if allowed { Ok(()) } else { Err(Errno::EPERM) };
        passes(init, move |killer| {
            killer.call(nr::SETRESUID, &[sender.0, sender.1, 78]).unwrap();
            assert_eq!(killer.kill(victim, 0), expected);
            assert_eq!(killer.kill(victim, SIGUSR1), expected);
            assert_eq!(killer.tgkill(victim, victim, SIGUSR1), if allowed { Ok(()) } else { Err(Errno::EPERM) });
            0
        });
        init.kill(victim, SIGKILL).unwrap();
        let status = init.wait_for(victim);
        assert_eq!(status.killed_by(), Some(if allowed { SIGUSR1 } else { SIGKILL }));
    });
}

table! { may_kill:
    the_real_id_equals_the_real_one => ((1000, 5), (1000, 6), true);
    the_real_id_equals_the_saved_one => ((1000, 5), (6, 1000), true);
    the_effective_id_equals_the_real_one => ((5, 1000), (1000, 6), true);
    the_effective_id_equals_the_saved_one => ((5, 1000), (6, 1000), true);
    the_targets_effective_id_does_not_count => ((77, 77), (6, 7), false);
    the_senders_saved_id_does_not_count => ((5, 6), (78, 78), false);
    a_stranger_may_not => ((1000, 1000), (1001, 1001), false);
    a_user_may_not_signal_root => ((1000, 1000), (0, 0), false);
    the_effective_root_may => ((1000, 0), (1001, 1001), true);
    root_of_its_real_id_alone_may_signal_root_only => ((0, 1000), (1001, 1001), false);
}

#[test]
fn cap_kill_is_what_makes_root_may() {
    story(|init| {
        let victim = init.fork(|victim| {
            victim.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            loop {
                victim.pause();
            }
        });
        init.sleep_ns(MS).unwrap();
        passes(init, move |killer| {
            let header = [0x2008_0522u32, 0];
            let (at, data) = (killer.push(header.as_bytes()), killer.push(&[0; 24]));
            killer.call(nr::CAPGET, &[at, data]).unwrap();
            let mut sets: [u32; 6] = killer.load(data);
            sets[0] &= !(1 << CAP_KILL);
            let data = killer.push(sets.as_bytes());
            killer.call(nr::CAPSET, &[at, data]).unwrap();
            assert_eq!(killer.kill(victim, 0), Err(Errno::EPERM));
            0
        });
        init.kill(victim, SIGKILL).unwrap();
        init.wait_for(victim);
    });
}

/// SIGCONT may be sent to any process of the sender's session (kill(2)), and nothing else.
fn in_session(same_session: bool, signal: u32, expected: Result<(), Errno>) {
    story(move |init| {
        let victim = init.fork(move |victim| {
            if !same_session {
                victim.setsid().unwrap();
            }
            loop {
                victim.pause();
            }
        });
        init.sleep_ns(MS).unwrap();
        passes(init, move |killer| {
            killer.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            assert_eq!(killer.kill(victim, signal), expected);
            0
        });
        init.kill(victim, SIGKILL).unwrap();
        init.wait_for(victim);
    });
}

table! { in_session:
    sigcont_may_be_sent_within_the_session => (true, SIGCONT, Ok(()));
    sigcont_may_not_be_sent_to_another_session => (false, SIGCONT, Err(Errno::EPERM));
    nothing_else_may_be_sent_within_the_session => (true, SIGTERM, Err(Errno::EPERM));
    not_even_nothing_may_be_sent_within_the_session => (true, 0, Err(Errno::EPERM));
}

/// A call and its error, made by a child of init that is a user.
fn fails_with(call: fn(&mut User) -> Result<u64, Errno>, expected: Result<u64, Errno>) {
    story(move |init| {
        passes(init, move |child| {
            assert_eq!(call(child), expected);
            0
        });
    });
}

fn own(user: &mut User) -> u64 {
    user.getpid() as u64
}

fn with_info(user: &mut User, number: usize, before: &[u64], code: i32) -> Result<u64, Errno> {
    let info = SigInfo::user(SIGUSR1, code, 1, 0);
    user.call_with(number, before, &info, &[]).map(|(value, _)| value)
}

const NOBODY: u64 = 30_000;

table! { fails_with:
    kill_of_nobody_is_esrch => (|u| u.call(nr::KILL, &[NOBODY, 0]), Err(Errno::ESRCH));
    kill_of_nobody_with_a_bad_signal_is_esrch => (|u| u.call(nr::KILL, &[NOBODY, 65]), Err(Errno::ESRCH));
    kill_of_no_group_is_esrch => (|u| u.call(nr::KILL, &[-30_000i64 as u64, 0]), Err(Errno::ESRCH));
    kill_of_int_min_is_esrch => (|u| u.call(nr::KILL, &[i32::MIN as u64, 0]), Err(Errno::ESRCH));
    kill_with_signal_65_is_einval => (|u| { let me = own(u); u.call(nr::KILL, &[me, 65]) }, Err(Errno::EINVAL));
    kill_with_a_negative_signal_is_einval => (|u| { let me = own(u); u.call(nr::KILL, &[me, u64::MAX]) }, Err(Errno::EINVAL));
    kill_with_signal_0_only_asks => (|u| { let me = own(u); u.call(nr::KILL, &[me, 0]) }, Ok(0));
    kill_of_everybody_with_a_bad_signal_is_einval => (|u| u.call(nr::KILL, &[u64::MAX, 65]), Err(Errno::EINVAL));
    tkill_of_nobody_is_esrch => (|u| u.call(nr::TKILL, &[NOBODY, 0]), Err(Errno::ESRCH));
    tkill_of_zero_is_einval => (|u| u.call(nr::TKILL, &[0, 0]), Err(Errno::EINVAL));
    tkill_of_a_negative_number_is_einval => (|u| u.call(nr::TKILL, &[u64::MAX, 0]), Err(Errno::EINVAL));
    tgkill_of_zero_is_einval => (|u| u.call(nr::TGKILL, &[0, 0, 0]), Err(Errno::EINVAL));
    tgkill_of_a_thread_in_another_group_is_esrch => (|u| { let me = own(u); u.call(nr::TGKILL, &[1, me, 0]) }, Err(Errno::ESRCH));
    tgkill_with_a_bad_signal_is_einval => (|u| { let me = own(u); u.call(nr::TGKILL, &[me, me, 65]) }, Err(Errno::EINVAL));
    sigqueue_to_nobody_is_esrch => (|u| with_info(u, nr::RT_SIGQUEUEINFO, &[NOBODY, 10], SI_QUEUE), Err(Errno::ESRCH));
    sigqueue_as_the_kernel_to_nobody_is_eperm => (|u| with_info(u, nr::RT_SIGQUEUEINFO, &[NOBODY, 10], SI_KERNEL), Err(Errno::EPERM));
    sigqueue_as_kill_to_another_is_eperm => (|u| with_info(u, nr::RT_SIGQUEUEINFO, &[1, 10], SI_USER), Err(Errno::EPERM));
    sigqueue_as_tgkill_to_another_is_eperm => (|u| with_info(u, nr::RT_SIGQUEUEINFO, &[1, 10], SI_TKILL), Err(Errno::EPERM));
    sigqueue_with_a_code_of_ones_own_is_allowed => (|u| with_info(u, nr::RT_SIGQUEUEINFO, &[1, 0], -60), Ok(0));
    sigqueue_with_signal_0_only_asks => (|u| with_info(u, nr::RT_SIGQUEUEINFO, &[1, 0], SI_QUEUE), Ok(0));
    sigqueue_with_a_bad_signal_is_einval => (|u| with_info(u, nr::RT_SIGQUEUEINFO, &[1, 65], SI_QUEUE), Err(Errno::EINVAL));
    sigqueue_of_a_bad_pointer_is_efault => (|u| u.call(nr::RT_SIGQUEUEINFO, &[1, 10, 8]), Err(Errno::EFAULT));
    tgsigqueue_of_zero_is_einval => (|u| with_info(u, nr::RT_TGSIGQUEUEINFO, &[0, 1, 10], SI_QUEUE), Err(Errno::EINVAL));
    tgsigqueue_as_tgkill_to_another_is_eperm => (|u| with_info(u, nr::RT_TGSIGQUEUEINFO, &[1, 1, 10], SI_TKILL), Err(Errno::EPERM));
    tgsigqueue_of_the_wrong_group_is_esrch => (|u| with_info(u, nr::RT_TGSIGQUEUEINFO, &[2, 1, 10], SI_QUEUE), Err(Errno::ESRCH));
    sigaction_of_signal_0_is_einval => (|u| u.call(nr::RT_SIGACTION, &[0, 0, 0, 8]), Err(Errno::EINVAL));
    sigaction_of_signal_65_is_einval => (|u| u.call(nr::RT_SIGACTION, &[65, 0, 0, 8]), Err(Errno::EINVAL));
    sigaction_of_a_short_set_is_einval => (|u| u.call(nr::RT_SIGACTION, &[10, 0, 0, 4]), Err(Errno::EINVAL));
    sigaction_may_ask_about_sigkill => (|u| u.call(nr::RT_SIGACTION, &[9, 0, 0, 8]), Ok(0));
    sigaction_of_a_bad_pointer_is_efault => (|u| u.call(nr::RT_SIGACTION, &[10, 8, 0, 8]), Err(Errno::EFAULT));
    sigprocmask_with_a_bad_how_is_einval => (|u| {
        let set = u.push(0u64.as_bytes());
        u.call(nr::RT_SIGPROCMASK, &[3, set, 0, 8])
    }, Err(Errno::EINVAL));
    sigprocmask_without_a_set_does_not_look_at_how => (|u| u.call(nr::RT_SIGPROCMASK, &[3, 0, 0, 8]), Ok(0));
    sigprocmask_of_a_long_set_is_einval => (|u| u.call(nr::RT_SIGPROCMASK, &[0, 0, 0, 16]), Err(Errno::EINVAL));
    sigpending_of_a_long_set_is_einval => (|u| { let at = u.sp() - 64; u.call(nr::RT_SIGPENDING, &[at, 9]) }, Err(Errno::EINVAL));
    sigpending_of_no_bytes_is_fine => (|u| u.call(nr::RT_SIGPENDING, &[8, 0]), Ok(0));
    sigpending_of_a_bad_pointer_is_efault => (|u| u.call(nr::RT_SIGPENDING, &[8, 8]), Err(Errno::EFAULT));
    sigsuspend_of_a_short_set_is_einval => (|u| { let at = u.sp(); u.call(nr::RT_SIGSUSPEND, &[at, 4]) }, Err(Errno::EINVAL));
    sigsuspend_of_a_bad_pointer_is_efault => (|u| u.call(nr::RT_SIGSUSPEND, &[8, 8]), Err(Errno::EFAULT));
    sigtimedwait_of_a_short_set_is_einval => (|u| { let at = u.sp(); u.call(nr::RT_SIGTIMEDWAIT, &[at, 0, 0, 4]) }, Err(Errno::EINVAL));
    sigtimedwait_of_a_bad_time_is_einval => (|u| {
        let (set, time) = (u.push(0u64.as_bytes()), u.push([0i64, 1_000_000_000].as_bytes()));
        u.call(nr::RT_SIGTIMEDWAIT, &[set, 0, time, 8])
    }, Err(Errno::EINVAL));
    sigtimedwait_of_a_negative_time_is_einval => (|u| {
        let (set, time) = (u.push(0u64.as_bytes()), u.push([-1i64, 0].as_bytes()));
        u.call(nr::RT_SIGTIMEDWAIT, &[set, 0, time, 8])
    }, Err(Errno::EINVAL));
    restart_syscall_by_hand_is_eintr => (|u| u.call(nr::RESTART_SYSCALL, &[]), Err(Errno::EINTR));
}

#[test]
fn who_may_signal_some_of_a_group_has_success() {
    story(|init| {
        let group = init.fork(|leader| {
            leader.setpgid(0, 0).unwrap();
            loop {
                leader.pause();
            }
        });
        init.sleep_ns(MS).unwrap();
        passes(init, move |killer| {
            killer.setpgid(0, group).unwrap();
            killer.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            killer.ignore(SIGUSR1);
            killer.kill(0, SIGUSR1).unwrap();
            0
        });
        passes(init, move |killer| {
            killer.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            assert_eq!(killer.kill(-group, SIGUSR1), Err(Errno::EPERM));
            0
        });
        init.kill(group, SIGKILL).unwrap();
        init.wait_for(group);
    });
}

#[test]
fn a_zombie_can_be_signalled_and_nothing_happens() {
    story(|init| {
        let pid = init.fork(|_| 3);
        init.sleep_ns(MS).unwrap();
        init.kill(pid, SIGKILL).unwrap();
        assert_eq!(init.wait_for(pid).exit_code(), Some(3));
        assert_eq!(init.kill(pid, 0), Err(Errno::ESRCH));
    });
}

#[test]
fn kernel_threads_ignore_every_signal() {
    story(|init| {
        init.sleep_ns(MS).unwrap();
        for signal in [SIGTERM, SIGKILL, SIGSTOP, 40] {
            init.kill(2, signal).unwrap();
        }
        init.sleep_ns(10 * MS).unwrap();
        assert_eq!(init.kill(2, 0), Ok(()));
    });
}

// ---- init (pid_namespaces(7), kill(2) NOTES).

#[test]
fn its_own_alarm_does_not_kill_init() {
    story(|init| {
        init.alarm_ns(MS);
        init.sleep_ns(5 * MS).unwrap();
    });
}

#[test]
fn init_gets_what_it_handles() {
    story(|init| {
        let diary = Diary::default();
        noting(init, SIGTERM, 0, &diary, "term");
        passes(init, |child| child.kill(1, SIGTERM).map_or(1, |()| 0));
        assert_eq!(diary.entries(), ["term"]);
    });
}

#[test]
fn init_outlives_a_signal_that_it_unblocks_without_a_handler() {
    story(|init| {
        init.sigprocmask(SIG_BLOCK, bit(SIGTERM));
        init.kill(1, SIGTERM).unwrap();
        assert_eq!(init.sigpending(), bit(SIGTERM));
        init.sigprocmask(SIG_SETMASK, 0);
        assert_eq!(init.sigpending(), 0);
    });
}

#[test]
#[should_panic(expected = "Attempted to kill init!")]
fn its_own_fault_kills_init() {
    story(|init| init.touch(8, Access::Read));
}

// ---- Order, queues and values.

#[test]
fn pending_signals_are_delivered_lowest_first_real_time_ones_in_order() {
    story(|init| {
        let diary = Diary::default();
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        for signal in [SIGUSR2, 40, 34, SIGHUP] {
            let inner = diary.clone();
            let body = move |user: &mut User| {
                let info: SigInfo = user.load(user.argument(1));
                inner.note(format!("{} {}", info.signal(), info.status()));
            };
            let disposition = Disposition::Handler(Box::new(body), SA_SIGINFO);
            init.try_sigaction(signal, disposition, u64::MAX).unwrap();
        }
        for (signal, value) in [(40, 1), (34, 1), (SIGUSR2, 1), (40, 2), (SIGHUP, 1), (34, 2), (SIGUSR2, 2)] {
            queue(init, 1, signal, value).unwrap();
        }
        // One at a time, so that the order of delivery is the order of the handlers.
        for _ in 0..6 {
            init.sigsuspend(0);
        }
        assert_eq!(diary.entries(), ["1 1", "12 1", "34 1", "34 2", "40 1", "40 2"]);
    });
}

#[test]
fn a_signal_to_the_thread_comes_before_one_to_the_process() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        init.kill(1, SIGHUP).unwrap();
        init.tgkill(1, 1, SIGUSR1).unwrap();
        assert_eq!(init.sigtimedwait(u64::MAX, 0).unwrap().signal(), SIGUSR1);
        assert_eq!(init.sigtimedwait(u64::MAX, 0).unwrap().signal(), SIGHUP);
    });
}

#[test]
fn of_a_standard_signal_the_first_sender_is_told() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        queue(init, 1, SIGUSR1, 1).unwrap();
        queue(init, 1, SIGUSR1, 2).unwrap();
        assert_eq!(init.sigtimedwait(bit(SIGUSR1), 0).unwrap().status(), 1);
        assert_eq!(init.sigtimedwait(bit(SIGUSR1), 0).err(), Some(Errno::EAGAIN));
    });
}

#[test]
fn a_thread_and_its_process_have_queues_of_their_own() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        init.kill(1, SIGUSR1).unwrap();
        init.tgkill(1, 1, SIGUSR1).unwrap();
        let codes: Vec<i32> = (0..2).map(|_| init.sigtimedwait(bit(SIGUSR1), 0).unwrap().code()).collect();
        assert_eq!(codes, [SI_TKILL, SI_USER]);
    });
}

#[test]
fn tgsigqueue_brings_a_value_to_one_thread() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        let thread = init.thread(|thread| {
            let info = thread.sigtimedwait(bit(40), 100 * MS).unwrap();
            assert_eq!((info.code(), info.status()), (SI_QUEUE, 55));
            0
        });
        let info = SigInfo::child_with(40, SI_QUEUE, 1, 0, 55);
        init.call_with(nr::RT_TGSIGQUEUEINFO, &[1, thread.0 as u64, 40], &info, &[]).unwrap();
        init.join(thread);
        assert_eq!(init.sigpending(), 0);
    });
}

#[test]
fn pending_signals_are_kept_over_exec_and_not_given_to_children() {
    let mut machine = kcore::testing::Machine::new();
    machine.program("/bin/looks", |user| i32::from(user.sigpending() & !bit(SIGCHLD) == bit(SIGUSR1) | bit(40)));
    machine.run(|init| {
        let status = in_child(init, |child| {
            child.sigprocmask(SIG_SETMASK, u64::MAX);
            raise(child, SIGUSR1);
            raise(child, 40);
            passes(child, |grandchild| i32::from(grandchild.sigpending() != 0));
            child.exec("/bin/looks", &["looks"])
        });
        assert_eq!(status.exit_code(), Some(1));
    });
}

#[test]
fn setting_a_signal_to_ignored_discards_what_waits() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        for _ in 0..5 {
            queue(init, 1, 40, 0).unwrap();
        }
        init.tgkill(1, 1, 40).unwrap();
        init.ignore(40);
        assert_eq!(init.sigpending(), 0);
    });
}

#[test]
fn setting_a_signal_to_a_default_that_ignores_discards_what_waits() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        init.on(SIGCHLD, 0, |_| {});
        raise(init, SIGCHLD);
        assert_eq!(init.sigpending(), bit(SIGCHLD));
        init.try_sigaction(SIGCHLD, Disposition::Default, 0).unwrap();
        assert_eq!(init.sigpending(), 0);
    });
}

#[test]
fn a_blocked_signal_whose_default_is_nothing_waits() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        raise(init, SIGCHLD);
        assert_eq!(init.sigtimedwait(bit(SIGCHLD), 0).unwrap().signal(), SIGCHLD);
    });
}

// ---- RLIMIT_SIGPENDING.

fn limit_pending(user: &mut User, limit: u64) {
    let limit = Rlimit { rlim_cur: limit, rlim_max: limit };
    user.call_with(nr::SETRLIMIT, &[u64::from(RLIMIT_SIGPENDING)], &limit, &[]).unwrap();
}

#[test]
fn the_limit_refuses_queued_real_time_signals() {
    story(|init| {
        passes(init, |child| {
            child.sigprocmask(SIG_SETMASK, u64::MAX);
            limit_pending(child, 4);
            let me = child.getpid();
            for _ in 0..4 {
                queue(child, me, 40, 0).unwrap();
            }
            assert_eq!(queue(child, me, 40, 0), Err(Errno::EAGAIN));
            assert_eq!(queue(child, me, SIGUSR1, 0), Ok(()), "of a standard signal the fact is kept");
            0
        });
    });
}

#[test]
fn kill_can_always_leave_one_instance() {
    story(|init| {
        passes(init, |child| {
            child.sigprocmask(SIG_SETMASK, u64::MAX);
            limit_pending(child, 0);
            let me = child.getpid();
            child.kill(me, SIGUSR1).unwrap();
            child.kill(me, 40).unwrap();
            // The standard one with its sender, the real-time one as the bare fact.
            assert_eq!(child.sigtimedwait(bit(SIGUSR1), 0).unwrap().pid(), me);
            assert_eq!(child.sigtimedwait(bit(40), 0).unwrap().pid(), 0);
            assert_eq!(child.tgkill(me, me, 40), Err(Errno::EAGAIN));
            0
        });
    });
}

#[test]
fn the_limit_counts_what_is_queued_for_the_user_in_all_processes() {
    story(|init| {
        let other = init.fork(|other| {
            other.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            other.sigprocmask(SIG_SETMASK, u64::MAX);
            let me = other.getpid();
            for _ in 0..6 {
                queue(other, me, 40, 0).unwrap();
            }
            loop {
                let _ = other.sigtimedwait(bit(41), 1000 * MS);
            }
        });
        init.sleep_ns(MS).unwrap();
        for (uid, room) in [(1000, 4), (1001, 10)] {
            passes(init, move |child| {
                child.call(nr::SETRESUID, &[uid, uid, uid]).unwrap();
                child.sigprocmask(SIG_SETMASK, u64::MAX);
                limit_pending(child, 10);
                let me = child.getpid();
                let queued = (0..20).take_while(|_| queue(child, me, 40, 0).is_ok()).count();
                assert_eq!(queued, room, "user {uid}");
                0
            });
        }
        init.kill(other, SIGKILL).unwrap();
        init.wait_for(other);
    });
}

#[test]
fn what_is_taken_or_dropped_makes_room_again() {
    story(|init| {
        passes(init, |child| {
            child.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            child.sigprocmask(SIG_SETMASK, u64::MAX);
            limit_pending(child, 3);
            let me = child.getpid();
            for _ in 0..3 {
                (0..3).for_each(|_| queue(child, me, 40, 0).unwrap());
                assert_eq!(queue(child, me, 41, 0), Err(Errno::EAGAIN));
                (0..3).for_each(|_| assert!(child.sigtimedwait(bit(40), 0).is_ok()));
                (0..3).for_each(|_| queue(child, me, 42, 0).unwrap());
                child.ignore(42);
                child.try_sigaction(42, Disposition::Default, 0).unwrap();
            }
            0
        });
    });
}

#[test]
fn a_process_that_ends_gives_its_place_back() {
    story(|init| {
        for _ in 0..3 {
            passes(init, |child| {
                child.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
                child.sigprocmask(SIG_SETMASK, u64::MAX);
                limit_pending(child, 5);
                let me = child.getpid();
                assert_eq!((0..9).take_while(|_| queue(child, me, 40, 0).is_ok()).count(), 5);
                0
            });
        }
    });
}

// ---- Handlers and masks.

fn action(user: &mut User, signal: u32) -> Sigaction {
    user.call_with(nr::RT_SIGACTION, &[u64::from(signal), 0], &Sigaction::default(), &[8]).unwrap().1
}

#[test]
fn resethand_leaves_flags_and_mask_to_be_asked_for() {
    story(|init| {
        init.try_sigaction(SIGUSR1, Disposition::Handler(Box::new(|_| {}), SA_RESETHAND), bit(SIGUSR2)).unwrap();
        raise(init, SIGUSR1);
        let left = action(init, SIGUSR1);
        assert_eq!((left.handler, left.mask), (0, bit(SIGUSR2)));
        assert_eq!(left.flags, u64::from(SA_RESETHAND | SA_RESTORER));
    });
}

#[test]
fn unknown_flags_are_cleared_so_that_they_can_be_asked_for() {
    story(|init| {
        init.on(SIGUSR1, 0x0000_0400 | 0x0010_0000 | SA_RESTART, |_| {});
        assert_eq!(action(init, SIGUSR1).flags, u64::from(SA_RESTART | SA_RESTORER));
    });
}

#[test]
fn the_known_flags_are_kept() {
    story(|init| {
        let all = SA_NOCLDSTOP | 2 | SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER | SA_RESETHAND;
        init.on(SIGUSR1, all, |_| {});
        assert_eq!(action(init, SIGUSR1).flags, u64::from(all | SA_RESTORER));
    });
}

#[test]
fn kill_and_stop_are_taken_out_of_an_actions_mask() {
    story(|init| {
        init.try_sigaction(SIGUSR1, Disposition::Handler(Box::new(|_| {}), 0), u64::MAX).unwrap();
        assert_eq!(action(init, SIGUSR1).mask, !(bit(SIGKILL) | bit(SIGSTOP)));
    });
}

#[test]
fn the_mask_in_a_handler_is_the_union() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let body = move |user: &mut User| inner.note(format!("{:#x}", user.sigprocmask(SIG_BLOCK, 0)));
        init.sigprocmask(SIG_BLOCK, bit(SIGHUP));
        init.try_sigaction(SIGUSR1, Disposition::Handler(Box::new(body), 0), bit(SIGINT)).unwrap();
        raise(init, SIGUSR1);
        assert_eq!(diary.entries(), [format!("{:#x}", bit(SIGHUP) | bit(SIGINT) | bit(SIGUSR1))]);
        assert_eq!(init.sigprocmask(SIG_BLOCK, 0), bit(SIGHUP));
    });
}

#[test]
fn the_saved_mask_of_sigsuspend_is_what_the_frame_brings_back() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        init.sigprocmask(SIG_SETMASK, bit(SIGUSR1));
        init.on(SIGUSR1, 0, move |user| inner.note(format!("{:#x}", user.sigprocmask(SIG_BLOCK, 0))));
        raise(init, SIGUSR1);
        init.sigsuspend(bit(SIGHUP));
        // In the handler: the temporary mask and the signal itself.
        assert_eq!(diary.entries(), [format!("{:#x}", bit(SIGHUP) | bit(SIGUSR1))]);
        assert_eq!(init.sigprocmask(SIG_BLOCK, 0), bit(SIGUSR1));
    });
}

#[test]
fn a_short_sigpending_writes_only_as_much() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, u64::MAX);
        raise(init, SIGUSR1);
        raise(init, 40);
        let at = init.push(u64::MAX.as_bytes());
        init.call(nr::RT_SIGPENDING, &[at, 4]).unwrap();
        assert_eq!(init.load::<u64>(at), 0xffff_ffff_0000_0000 | bit(SIGUSR1));
    });
}

#[test]
fn exec_resets_handlers_and_keeps_what_is_ignored_and_blocked() {
    let mut machine = kcore::testing::Machine::new();
    machine.program("/bin/looks", |user| {
        let (usr1, usr2) = (action(user, SIGUSR1), action(user, SIGUSR2));
        assert_eq!((usr1.handler, usr1.flags, usr1.mask), (0, 0, 0));
        assert_eq!(usr2.handler, 1);
        assert_eq!(user.sigprocmask(SIG_BLOCK, 0), bit(SIGTERM));
        0
    });
    machine.run(|init| {
        passes(init, |child| {
            child.try_sigaction(SIGUSR1, Disposition::Handler(Box::new(|_| {}), SA_RESTART), bit(1)).unwrap();
            child.ignore(SIGUSR2);
            child.sigprocmask(SIG_SETMASK, bit(SIGTERM));
            child.exec("/bin/looks", &["looks"])
        });
    });
}

#[test]
fn a_fatal_signal_ends_a_process_whose_only_thread_sleeps_unless_killed() {
    story(|init| {
        let parent = init.fork(|parent| {
            parent.vfork(|child| child.sleep_ns(10_000 * MS).map_or(1, |()| 0));
            0
        });
        init.sleep_ns(MS).unwrap();
        let before = init.clock_ns(abi::time::CLOCK_MONOTONIC);
        init.kill(parent, SIGTERM).unwrap();
        assert_eq!(init.wait_for(parent).killed_by(), Some(SIGTERM));
        assert!(init.clock_ns(abi::time::CLOCK_MONOTONIC) - before < 10 * MS);
    });
}

#[test]
fn a_handled_signal_does_not_end_a_wait_for_a_vfork_child() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let parent = init.fork(move |parent| {
            noting(parent, SIGTERM, 0, &inner, "handled");
            let note = inner.clone();
            parent.vfork(move |child| {
                child.sleep_ns(20 * MS).unwrap();
                note.note("child");
                0
            });
            0
        });
        init.sleep_ns(MS).unwrap();
        init.kill(parent, SIGTERM).unwrap();
        assert_eq!(init.wait_for(parent).exit_code(), Some(0));
        assert_eq!(diary.entries(), ["child", "handled"]);
    });
}

// ---- Threads.

#[test]
fn a_signal_for_an_exiting_thread_is_handed_to_another() {
    for seed in 0..40 * crate::rounds() {
        eprintln!("seed {seed}");
        kcore::testing::Machine::interleaved(2, seed).run(|init| {
            let diary = Diary::default();
            noting(init, SIGUSR1, 0, &diary, "handled");
            init.sigprocmask(SIG_SETMASK, bit(SIGUSR1));
            let child = init.fork(|child| {
                child.compute(5_000);
                child.kill(1, SIGUSR1).unwrap();
                0
            });
            // It takes the signal, or leaves before and hands it on.
            let thread = init.thread(|thread| {
                thread.sigprocmask(SIG_SETMASK, 0);
                0
            });
            init.join(thread);
            let _ = init.wait4(child, 0);
            if diary.entries().is_empty() {
                init.sigprocmask(SIG_SETMASK, 0);
            }
            assert_eq!(diary.entries(), ["handled"]);
        });
    }
}

#[test]
fn a_signal_that_one_thread_blocks_goes_to_one_that_sleeps_without() {
    story(|init| {
        let diary = Diary::default();
        noting(init, SIGUSR1, 0, &diary, "handled");
        let inner = diary.clone();
        let thread = init.thread(move |thread| {
            assert_eq!(thread.pause(), Errno::EINTR);
            inner.note("woken");
            0
        });
        init.sleep_ns(MS).unwrap();
        init.sigprocmask(SIG_SETMASK, bit(SIGUSR1));
        raise(init, SIGUSR1);
        init.join(thread);
        assert_eq!(diary.entries(), ["handled", "woken"]);
    });
}

#[test]
fn one_sigtimedwait_of_many_takes_the_signal() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, bit(SIGUSR1));
        let diary = Diary::default();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let diary = diary.clone();
                init.thread(move |thread| {
                    if thread.sigtimedwait(bit(SIGUSR1), 20 * MS).is_ok() {
                        diary.note("got it");
                    }
                    0
                })
            })
            .collect();
        init.sleep_ns(MS).unwrap();
        raise(init, SIGUSR1);
        threads.into_iter().for_each(|thread| init.join(thread));
        assert_eq!(diary.entries(), ["got it"]);
    });
}

#[test]
fn an_ignored_signal_can_be_waited_for() {
    story(|init| {
        init.ignore(SIGUSR1);
        init.sigprocmask(SIG_SETMASK, bit(SIGUSR1));
        init.fork(|child| {
            child.sleep_ns(MS).unwrap();
            child.kill(1, SIGUSR1).map_or(1, |()| 0)
        });
        assert_eq!(init.sigtimedwait(bit(SIGUSR1), 100 * MS).unwrap().signal(), SIGUSR1);
    });
}

#[test]
fn kill_and_stop_cannot_be_waited_for() {
    story(|init| {
        let child = init.fork(|child| {
            let _ = child.sigtimedwait(u64::MAX, 1000 * MS);
            0
        });
        init.sleep_ns(MS).unwrap();
        init.kill(child, SIGKILL).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGKILL));
    });
}

// ---- Faults: signal, code and address.

fn faults(exception: fn(&mut User), signal: u32, code: i32, address: Option<u64>) {
    story(move |init| {
        let diary = Diary::default();
        let inner = diary.clone();
        passes(init, move |child| {
            let note = inner.clone();
            child.on(signal, SA_SIGINFO, move |user| {
                let info: SigInfo = user.load(user.argument(1));
                assert_eq!((info.signal(), info.code()), (signal, code));
                if let Some(address) = address {
                    assert_eq!(info.address(), address);
                } else {
                    // The instruction itself.
                    let pc: u64 = user.load(user.argument(2) + 176 + 8 + 31 * 8 + 8);
                    assert_eq!(info.address(), pc);
                }
                // uc_mcontext.fault_address, and an ESR record behind the FP record.
                assert_eq!(user.load::<u64>(user.argument(2) + 176), info.address());
                assert_eq!(user.load::<u32>(user.argument(2) + 176 + 288 + 528), 0x4553_5201);
                note.note("told");
                user.exit(0);
            });
            exception(child);
            1
        });
        assert_eq!(diary.entries(), ["told"]);
    });
}

table! { faults:
    an_address_that_is_not_mapped => (|u| u.touch(0x1000, Access::Read), SIGSEGV, SEGV_MAPERR, Some(0x1000));
    an_address_of_the_kernels_half => (|u| u.touch(0xffff_0000_1234_5000, Access::Read), SIGSEGV, SEGV_MAPERR, Some(0xffff_0000_1234_5000));
    the_null_page => (|u| u.touch(0, Access::Write), SIGSEGV, SEGV_MAPERR, Some(0));
    writing_what_may_only_be_read => (|u| {
        u.try_mmap(0x5000_0000, 4096, mman::PROT_READ, 0x32, -1, 0).unwrap();
        u.touch(0x5000_0010, Access::Write);
    }, SIGSEGV, SEGV_ACCERR, Some(0x5000_0010));
    executing_what_may_not_be_executed => (|u| {
        u.try_mmap(0x5000_0000, 4096, RW, 0x32, -1, 0).unwrap();
        u.touch(0x5000_0020, Access::Execute);
    }, SIGSEGV, SEGV_ACCERR, Some(0x5000_0020));
    an_unaligned_access => (|u| u.except(UserException::Alignment { address: 0x77 }), SIGBUS, BUS_ADRALN, Some(0x77));
    an_undefined_instruction => (|u| u.except(UserException::Undefined), SIGILL, ILL_ILLOPC, None);
    a_breakpoint => (|u| u.except(UserException::Breakpoint), SIGTRAP, TRAP_BRKPT, None);
}

/// A signal sent by a process has no fault to tell of: no ESR record.
#[test]
fn a_sent_sigsegv_has_no_esr_record() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        init.on(SIGSEGV, SA_SIGINFO, move |user| {
            let info: SigInfo = user.load(user.argument(1));
            assert_eq!(info.code(), SI_USER);
            assert_eq!(user.load::<u32>(user.argument(2) + 176 + 288 + 528), 0);
            inner.note("told");
        });
        raise(init, SIGSEGV);
        assert_eq!(diary.entries(), ["told"]);
    });
}

// ---- The alternate stack.

fn set_stack(user: &mut User, sp: u64, flags: u32, size: u64) -> Result<u64, Errno> {
    let stack = StackT { ss_sp: sp, ss_flags: flags.cast_signed(), ss_size: size, ..StackT::default() };
    user.scoped(|user| {
        let at = user.push(stack.as_bytes());
        user.call(nr::SIGALTSTACK, &[at, 0])
    })
}

fn get_stack(user: &mut User) -> StackT {
    user.scoped(|user| {
        let at = user.push(StackT::new_zeroed().as_bytes());
        user.call(nr::SIGALTSTACK, &[0, at]).unwrap();
        user.load(at)
    })
}

fn altstack_is(flags: u32, size: u64, expected: Result<u64, Errno>) {
    story(move |init| {
        let page = init.mmap(65536, RW);
        assert_eq!(set_stack(init, page, flags, size), expected);
    });
}

table! { altstack_is:
    a_stack_of_16_kib_is_fine => (0, 16384, Ok(0));
    the_flag_onstack_is_taken_for_nothing => (SS_ONSTACK, 16384, Ok(0));
    a_stack_of_minsigstksz_is_fine => (0, 5120, Ok(0));
    a_stack_below_minsigstksz_is_enomem => (0, 5119, Err(Errno::ENOMEM));
    a_disabled_stack_may_have_any_size => (SS_DISABLE, 0, Ok(0));
    an_unknown_flag_is_einval => (8, 16384, Err(Errno::EINVAL));
    two_modes_at_once_are_einval => (SS_ONSTACK | SS_DISABLE, 16384, Err(Errno::EINVAL));
    autodisarm_is_a_flag => (SS_AUTODISARM, 16384, Ok(0));
}

#[test]
fn at_first_there_is_no_alternate_stack() {
    story(|init| assert_eq!(get_stack(init).ss_flags, SS_DISABLE.cast_signed()));
}

#[test]
fn on_the_stack_it_says_so_and_cannot_be_changed() {
    story(|init| {
        let page = init.mmap(65536, RW);
        set_stack(init, page, 0, 65536).unwrap();
        let diary = Diary::default();
        let inner = diary.clone();
        init.on(SIGUSR1, SA_ONSTACK, move |user| {
            assert_eq!(get_stack(user).ss_flags, SS_ONSTACK.cast_signed());
            assert_eq!(set_stack(user, page, 0, 16384), Err(Errno::EPERM));
            assert_eq!(set_stack(user, 0, SS_DISABLE, 0), Err(Errno::EPERM));
            inner.note("on it");
        });
        raise(init, SIGUSR1);
        assert_eq!(get_stack(init).ss_flags, 0);
        assert_eq!(diary.entries(), ["on it"]);
    });
}

#[test]
fn a_nested_handler_goes_on_below_on_the_same_stack() {
    story(|init| {
        let page = init.mmap(65536, RW);
        set_stack(init, page, 0, 65536).unwrap();
        let diary = Diary::default();
        let inner = diary.clone();
        init.on(SIGUSR2, SA_ONSTACK, move |user| inner.note(format!("{}", user.sp())));
        let inner = diary.clone();
        init.on(SIGUSR1, SA_ONSTACK, move |user| {
            inner.note(format!("{}", user.sp()));
            raise(user, SIGUSR2);
        });
        raise(init, SIGUSR1);
        let at: Vec<u64> = diary.entries().iter().map(|text| text.parse().unwrap()).collect();
        assert!(page < at[1] && at[1] < at[0] && at[0] < page + 65536, "{at:x?} in {page:x}");
    });
}

/// SS_AUTODISARM: the settings are cleared on entry to a handler and come back when it returns.
fn autodisarm(handler_flags: u32) {
    story(move |init| {
        let page = init.mmap(65536, RW);
        set_stack(init, page, SS_AUTODISARM, 65536).unwrap();
        let diary = Diary::default();
        let inner = diary.clone();
        init.on(SIGUSR1, handler_flags, move |user| {
            assert_eq!(get_stack(user).ss_flags, SS_DISABLE.cast_signed());
            let other = user.mmap(65536, RW);
            assert_eq!(set_stack(user, other, 0, 65536), Ok(0));
            inner.note("disarmed");
        });
        raise(init, SIGUSR1);
        let stack = get_stack(init);
        assert_eq!((stack.ss_sp, stack.ss_flags.cast_unsigned()), (page, SS_AUTODISARM));
        assert_eq!(diary.entries(), ["disarmed"]);
    });
}

table! { autodisarm:
    autodisarm_clears_the_stack_for_the_handler => (SA_ONSTACK);
    autodisarm_works_for_handlers_on_the_ordinary_stack_too => (0);
}

#[test]
fn threads_begin_without_an_alternate_stack_and_forks_with_it() {
    story(|init| {
        let page = init.mmap(65536, RW);
        set_stack(init, page, 0, 65536).unwrap();
        let thread = init.thread(|thread| {
            assert_eq!(get_stack(thread).ss_flags, SS_DISABLE.cast_signed());
            0
        });
        init.join(thread);
        passes(init, move |child| i32::from(get_stack(child).ss_sp != page));
    });
}

#[test]
fn a_frame_that_does_not_fit_raises_sigsegv_whose_handler_may_run_elsewhere() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        passes(init, move |child| {
            let page = child.mmap(65536, RW);
            set_stack(child, page, 0, 65536).unwrap();
            let note = inner.clone();
            child.on(SIGSEGV, SA_ONSTACK | SA_SIGINFO, move |user| {
                let info: SigInfo = user.load(user.argument(1));
                assert_eq!(info.code(), SI_KERNEL);
                note.note("segv");
                user.exit(0);
            });
            child.on(SIGUSR1, 0, |_| panic!("there is no stack for it"));
            let (me, sp) = (child.getpid(), child.sp());
            child.set_sp(0x4000);
            let _ = child.kill(me, SIGUSR1);
            child.set_sp(sp);
            1
        });
        assert_eq!(diary.entries(), ["segv"]);
    });
}

#[test]
fn a_handler_of_sigsegv_without_a_stack_is_the_end() {
    story(|init| {
        let status = in_child(init, |child| {
            child.on(SIGSEGV, 0, |_| panic!("there is no stack for it"));
            let me = child.getpid();
            child.set_sp(0x4000);
            let _ = child.kill(me, SIGSEGV);
            1
        });
        assert_eq!(status.killed_by(), Some(SIGSEGV));
    });
}

// ---- signalfd(2).

fn signalfd(user: &mut User, set: u64, flags: u32) -> i32 {
    user.scoped(|user| {
        let at = user.push(set.as_bytes());
        user.call_int(nr::SIGNALFD4, &[u64::MAX, at, 8, u64::from(flags)]).unwrap()
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn a_signalfd_gives_number_code_sender_and_value() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, bit(40) | bit(SIGUSR1));
        let fd = signalfd(init, bit(40) | bit(SIGUSR1), abi::fcntl::O_NONBLOCK);
        queue(init, 1, 40, 1234).unwrap();
        init.kill(1, SIGUSR1).unwrap();
        let bytes = init.read_fd(fd, 256).unwrap();
        assert_eq!(bytes.len(), 256);
        assert_eq!((word(&bytes, 0), word(&bytes, 8) as i32, word(&bytes, 12)), (SIGUSR1, SI_USER, 1));
        let second = &bytes[128..];
        assert_eq!((word(second, 0), word(second, 8) as i32, word(second, 44)), (40, SI_QUEUE, 1234));
        assert_eq!(init.read_fd(fd, 128), Err(Errno::EAGAIN));
    });
}

#[test]
fn a_signalfd_tells_of_a_child() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, bit(SIGCHLD));
        let fd = signalfd(init, bit(SIGCHLD), 0);
        let child = init.fork(|child| {
            child.compute(200 * MS);
            9
        });
        let bytes = init.read_fd(fd, 128).unwrap();
        assert_eq!((word(&bytes, 0), word(&bytes, 8), word(&bytes, 12)), (SIGCHLD, 1, child.cast_unsigned()));
        assert_eq!(word(&bytes, 40), 9);
        assert!((19..=22).contains(&word(&bytes, 56)), "user ticks {}", word(&bytes, 56));
    });
}

#[test]
fn a_buffer_too_small_for_one_signal_is_einval() {
    story(|init| {
        let fd = signalfd(init, bit(SIGUSR1), 0);
        assert_eq!(init.read_fd(fd, 127), Err(Errno::EINVAL));
    });
}

#[test]
fn a_signalfd_reads_what_is_for_the_reader() {
    story(|init| {
        init.sigprocmask(SIG_SETMASK, bit(SIGUSR1));
        let fd = signalfd(init, bit(SIGUSR1), abi::fcntl::O_NONBLOCK);
        raise(init, SIGUSR1);
        passes(init, move |child| {
            assert_eq!(child.read_fd(fd, 128), Err(Errno::EAGAIN));
            raise(child, SIGUSR1);
            i32::from(child.read_fd(fd, 128).is_err())
        });
        assert!(init.read_fd(fd, 128).is_ok());
    });
}

// ---- Stops.

#[test]
fn a_continue_ends_a_stop_whatever_its_disposition() {
    for disposition in [Disposition::Default, Disposition::Ignore, Disposition::Handler(Box::new(|_| {}), 0)] {
        let disposition = std::cell::Cell::new(Some(disposition));
        story(move |init| {
            let disposition = disposition.take().unwrap();
            let child = init.fork(move |child| {
                child.try_sigaction(SIGCONT, disposition, 0).unwrap();
                child.sigprocmask(SIG_BLOCK, bit(SIGCONT));
                child.sleep_ns(5 * MS).unwrap();
                0
            });
            init.sleep_ns(MS).unwrap();
            init.kill(child, SIGSTOP).unwrap();
            init.waitid(w::P_PID, child, w::WSTOPPED).unwrap();
            init.kill(child, SIGCONT).unwrap();
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
        });
    }
}

/// A pending stop signal is discarded by SIGCONT and a pending SIGCONT by a stop signal, blocked or not.
fn cancels(first: u32, second: u32) {
    story(move |init| {
        passes(init, move |child| {
            child.sigprocmask(SIG_SETMASK, u64::MAX);
            for signal in [SIGCONT, SIGTSTP, SIGTTIN, 22] {
                child.on(signal, 0, |_| {});
            }
            raise(child, first);
            assert_eq!(child.sigpending(), bit(first));
            raise(child, second);
            assert_eq!(child.sigpending(), bit(second));
            0
        });
    });
}

table! { cancels:
    sigcont_discards_a_pending_sigtstp => (SIGTSTP, SIGCONT);
    sigcont_discards_a_pending_sigttin => (SIGTTIN, SIGCONT);
    sigcont_discards_a_pending_sigttou => (22, SIGCONT);
    sigtstp_discards_a_pending_sigcont => (SIGCONT, SIGTSTP);
    sigttin_discards_a_pending_sigcont => (SIGCONT, SIGTTIN);
    sigttou_discards_a_pending_sigcont => (SIGCONT, 22);
}

#[test]
fn a_fatal_signal_to_a_stopped_process_waits_for_the_continue() {
    story(|init| {
        let child = init.fork(|child| {
            loop {
                child.pause();
            }
        });
        init.sleep_ns(MS).unwrap();
        init.kill(child, SIGSTOP).unwrap();
        init.waitid(w::P_PID, child, w::WSTOPPED).unwrap();
        init.kill(child, SIGTERM).unwrap();
        init.sleep_ns(5 * MS).unwrap();
        assert_eq!(init.wait4(child, w::WNOHANG), Ok(None));
        init.kill(child, SIGCONT).unwrap();
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGTERM));
    });
}

#[test]
fn a_handled_stop_signal_does_not_stop() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        passes(init, move |child| {
            noting(child, SIGTSTP, 0, &inner, "handled");
            raise(child, SIGTSTP);
            0
        });
        assert_eq!(diary.entries(), ["handled"]);
    });
}

#[test]
fn sigpipe_and_sigfpe_sent_by_hand_can_be_ignored() {
    story(|init| {
        passes(init, |child| {
            for signal in [SIGPIPE, SIGFPE, SIGALRM] {
                child.ignore(signal);
                raise(child, signal);
            }
            0
        });
    });
}
