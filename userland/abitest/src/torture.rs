//! The torture run: processes that fork, exec, kill, stop, continue, wait and set limits at random, on each other, for a
//! while. Whoever is killed is replaced. What can be known of a single step is checked (a child that nobody can have
//! killed exits with its status), and at the end nothing may be left: no process, and no memory.
//!
//! `abitest torture SECONDS SEED`. The same seed makes the same choices; how they interleave is up to the machine.

use std::ffi::CString;
use std::sync::atomic::Ordering::SeqCst;

use crate::fuzz::Random;
use crate::kernel::*;

/// Processes that are kept alive.
const WORKERS: usize = 50;
/// What [`Board`] has in front of the workers' numbers.
const STOP: usize = 0;
const STEPS: usize = 1;
const COMPLAINTS: usize = 2;
const FIRST: usize = 8;
/// Steps that settle the caches and tables which the kernel keeps, before memory is compared.
const WARM_UP_SECONDS: i64 = 3;
/// What may be missing at the end: pages that the kernel keeps for each CPU, and what lists and tables have grown by.
const SLACK_KIB: u64 = 1024;
/// How often the supervisor looks after strays.
const ROUND_MS: i64 = 50;

/// What all processes see: the numbers of the workers and the supervisor's word.
#[derive(Clone, Copy)]
struct Board(Shared);

impl Board {
    fn pid(self, worker: usize) -> i32 {
        self.0.get(FIRST + worker).cast_signed()
    }

    fn set_pid(self, worker: usize, pid: i32) {
        self.0.set(FIRST + worker, pid.cast_unsigned());
    }

    fn is_over(self) -> bool {
        self.0.get(STOP) != 0
    }

    fn complain(self, text: &str) {
        self.0.word(COMPLAINTS).fetch_add(1, SeqCst);
        println!("not ok torture: {text}");
    }
}

/// Runs for `seconds`. 0 when nothing was wrong and nothing is left.
pub fn run(seconds: i64, seed: u64) -> i32 {
    println!("torture: {seconds} s, seed {seed}");
    let Ok(board) = Shared::new().map(Board) else { return 1 };
    // Orphans come here, so that all can be found.
    if sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0).is_err() {
        return 1;
    }
    round(board, WARM_UP_SECONDS, seed ^ 0x5a5a);
    let before = free_kib();
    round(board, seconds, seed);
    // What the last exits have freed comes back with the next idle moment.
    sleep_ms(300);
    let after = free_kib();
    let (steps, complaints) = (board.0.get(STEPS), board.0.get(COMPLAINTS));
    println!("torture: {steps} steps, {complaints} complaints, {before} KiB free before, {after} after");
    if after + SLACK_KIB < before {
        board.complain("memory is missing");
    }
    match board.0.get(COMPLAINTS) {
        0 => println!("ok torture"),
        _ => return 1,
    }
    0
}

/// `MemFree` of `/proc/meminfo`.
fn free_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Starts the workers, replaces those that end, and buries everybody.
fn round(board: Board, seconds: i64, seed: u64) {
    board.0.set(STOP, 0);
    let mut random = Random::new(seed);
    let end = now_ns(CLOCK_MONOTONIC).unwrap_or(0) + seconds * 1_000_000_000;
    let mut look_at = 0;
    loop {
        let now = now_ns(CLOCK_MONOTONIC).unwrap_or(i64::MAX);
        if now >= end {
            break;
        }
        reap(board);
        for worker in 0..WORKERS {
            if board.pid(worker) == 0 {
                let seed = random.next();
                if let Ok(pid) = child(|| work(board, worker, seed)) {
                    board.set_pid(worker, pid);
                }
            }
        }
        if now >= look_at {
            look_after(board);
            look_at = now + ROUND_MS * 1_000_000;
        }
        sleep_ms(2);
    }
    board.0.set(STOP, 1);
    // Those that end by themselves first; then all that is left, until there are no children.
    for patience in 0.. {
        reap(board);
        let children = children();
        if children.is_empty() && sys!(SYS_wait4, -1, 0, WNOHANG | __WALL, 0) == Err(Errno(ECHILD)) {
            return;
        }
        for pid in children {
            let _ = kill(pid, if patience < 50 { SIGCONT } else { SIGKILL });
        }
        if patience == 3000 {
            board.complain("processes that cannot be killed are left");
            return;
        }
        sleep_ms(10);
    }
}

/// Buries the dead.
fn reap(board: Board) {
    while let Ok(pid @ 1..) = sys!(SYS_wait4, -1, 0, WNOHANG | __WALL, 0) {
        for worker in 0..WORKERS {
            if board.pid(worker) == pid as i32 {
                board.set_pid(worker, 0);
            }
        }
    }
}

/// Wakes workers that were stopped for good, and ends orphans that came here.
fn look_after(board: Board) {
    let workers: Vec<i32> = (0..WORKERS).map(|worker| board.pid(worker)).collect();
    for pid in children() {
        let _ = kill(pid, if workers.contains(&pid) { SIGCONT } else { SIGKILL });
    }
}

/// Our children, by the fourth field of `/proc/PID/stat`.
fn children() -> Vec<i32> {
    let own = getpid().to_string();
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.split(' ').nth(1) == Some(&own))
    })
    .collect()
}

/// One worker: steps until the end, or until somebody kills it.
fn work(board: Board, worker: usize, seed: u64) -> i32 {
    let mut random = Random::new(seed);
    for signal in [SIGUSR1, SIGUSR2, SIGALRM, SIGRTMIN() + 1] {
        let _ = note_signal(signal, if random.below(2) == 0 { SA_RESTART } else { 0 });
    }
    // A worker that leaks descriptors would stop being one.
    while !board.is_over() {
        step(board, worker, &mut random);
        board.0.word(STEPS).fetch_add(1, SeqCst);
    }
    while sys!(SYS_wait4, -1, 0, __WALL, 0) != Err(Errno(ECHILD)) {}
    0
}

fn step(board: Board, worker: usize, random: &mut Random) {
    let peer = board.pid(random.below(WORKERS as u64) as usize);
    match random.below(20) {
        0..=3 => exits(board, random),
        4 | 5 => executes(board, random),
        6 => vforks(board),
        7 | 8 => stopped_and_continued(random),
        9 => threads(board, random),
        10 => drop(child(|| drop_a_grandchild(random)).and_then(wait)),
        11 | 12 if peer > 1 => torment(peer, random),
        13 if peer > 1 => look_at(peer, random),
        14 if peer > 1 => limits(peer, random),
        15 => pipes(random),
        16 => memories(random),
        17 => terminals(),
        18 => moves(random),
        _ if worker.is_multiple_of(16) && random.below(50) == 0 => storm(),
        _ => sleep_ms(random.below(3) as i64),
    }
}

/// A child that nobody else knows of has the status that it exits with.
fn exits(board: Board, random: &mut Random) {
    let wanted = random.below(256) as i32;
    let delay = random.below(4);
    let started = child(|| {
        match delay {
            0 => sleep_ms(1),
            1 => drop(sys!(SYS_sched_yield)),
            _ => {}
        }
        wanted
    });
    if let Ok(pid) = started {
        let got = status(pid);
        if got != Ok(wanted) {
            board.complain(&format!("a child that exits with {wanted} gives {got:?}"));
        }
    }
}

/// This program with `helper:exit STATUS`, as execve wants it.
struct Program {
    path: CString,
    words: Vec<CString>,
}

impl Program {
    fn new(status: u64) -> Self {
        let words = [c"x".to_owned(), c"helper:exit".to_owned(), path(&status.to_string())];
        Self { path: path("/proc/self/exe"), words: words.to_vec() }
    }

    fn pointers(&self) -> Vec<*const c_char> {
        self.words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
    }
}

fn executes(board: Board, random: &mut Random) {
    let wanted = random.below(100);
    let program = Program::new(wanted);
    let words = program.pointers();
    let Ok(pid) = child(|| {
        let _ = sys!(SYS_execve, program.path.as_ptr(), words.as_ptr(), 0);
        120
    }) else {
        return;
    };
    let kills = random.below(4) == 0;
    if kills {
        let _ = kill(pid, SIGKILL);
    }
    let got = status(pid);
    // ENOMEM in the child, or at the point of no return, is no fault.
    let memory = matches!(got, Ok(120) | Ok(139));
    if got != Ok(wanted as i32) && !(kills && got == Ok(128 + SIGKILL)) && !memory {
        board.complain(&format!("a program that exits with {wanted} gives {got:?}"));
    }
}

extern "C" fn exit_with(argument: usize) -> i32 {
    exit(argument as i32)
}

extern "C" fn spin_or_sleep(argument: usize) -> i32 {
    match argument % 3 {
        0 => drop(sys!(SYS_sched_yield)),
        1 => sleep_ms(2),
        _ => exit(7),
    }
    0
}

/// vfork's flags, on a stack of its own.
fn vforks(board: Board) {
    let started = clone_on_stack(CLONE_VM | CLONE_VFORK | SIGCHLD, std::ptr::null_mut(), 0, exit_with, 42);
    if let Ok(pid) = started
        && status(pid) != Ok(42)
    {
        board.complain("a vfork's child has another status");
    }
}

/// STOP, CONT, and an end, in an order of chance; the waits see states that fit.
fn stopped_and_continued(random: &mut Random) {
    let Ok(pid) = child(|| {
        for _ in 0..50 {
            sleep_ms(1);
        }
        3
    }) else {
        return;
    };
    for _ in 0..random.below(8) {
        let signal = [SIGSTOP, SIGCONT, SIGTSTP, SIGUSR1, SIGCONT][random.below(5) as usize];
        let _ = kill(pid, signal);
        if random.below(2) == 0 {
            let _ = sys!(SYS_wait4, pid, 0, WNOHANG | WUNTRACED | WCONTINUED, 0);
        }
    }
    let _ = kill(pid, if random.below(2) == 0 { SIGKILL } else { SIGCONT });
    let _ = kill(pid, SIGKILL);
    let _ = wait(pid);
}

/// Threads that end, one that ends all of them, and one that executes a program while the others run.
fn threads(board: Board, random: &mut Random) {
    const THREAD: i32 = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    let kind = random.below(3);
    let count = 1 + random.below(5) as usize;
    let program = Program::new(9);
    let words = program.pointers();
    let request = [program.path.as_ptr() as usize, words.as_ptr() as usize];
    let started = child(|| {
        for n in 0..count {
            let number = if kind == 0 { n % 2 } else { n };
            let _ = clone_on_stack(THREAD, std::ptr::null_mut(), 0, spin_or_sleep, number);
        }
        if kind == 2 {
            let _ = clone_on_stack(THREAD, std::ptr::null_mut(), 0, execute, request.as_ptr() as usize);
            sleep_ms(200);
        }
        5
    });
    if let Ok(pid) = started {
        let got = status(pid);
        let fits = match kind {
            0 => got == Ok(5),
            1 => got == Ok(5) || got == Ok(7),
            _ => matches!(got, Ok(5 | 7 | 9 | 120 | 139)),
        };
        if !fits {
            board.complain(&format!("threads of kind {kind} end with {got:?}"));
        }
    }
}

extern "C" fn execute(request: usize) -> i32 {
    let (program, words): (usize, usize) = (peek(request), peek(request + 8));
    let _ = sys!(SYS_execve, program, words, 0);
    exit(120)
}

/// Leaves a grandchild that lives on for a moment: it goes to the supervisor.
fn drop_a_grandchild(random: &mut Random) -> i32 {
    if random.below(3) == 0 {
        let _ = sys!(SYS_setsid);
    }
    let life_ms = random.below(20) as i64;
    let _ = child(|| {
        sleep_ms(life_ms);
        0
    });
    if random.below(4) == 0 {
        let _ = kill(getpid(), SIGKILL);
    }
    0
}

/// Signals for another worker.
fn torment(peer: i32, random: &mut Random) {
    match random.below(12) {
        0 => drop(kill(peer, SIGKILL)),
        1 | 2 => {
            let _ = kill(peer, SIGSTOP);
            sleep_ms(random.below(3) as i64);
            let _ = kill(peer, SIGCONT);
        }
        3 => {
            // A queue of real-time signals.
            for _ in 0..20 {
                let _ = kill(peer, SIGRTMIN() + 1);
            }
        }
        4 => {
            if let Ok(fd) = sys!(SYS_pidfd_open, peer, 0) {
                let _ = sys!(SYS_pidfd_send_signal, fd, SIGUSR2, 0, 0);
                let _ = close(fd as i32);
            }
        }
        5 => drop(sys!(SYS_tgkill, peer, peer, SIGUSR1)),
        _ => drop(kill(peer, if random.below(2) == 0 { SIGUSR1 } else { SIGUSR2 })),
    }
}

/// Reads what /proc knows of another worker, which may end meanwhile.
fn look_at(peer: i32, random: &mut Random) {
    const FILES: [&str; 10] =
        ["stat", "status", "maps", "cmdline", "environ", "limits", "statm", "wchan", "smaps", "comm"];
    let name = FILES[random.below(FILES.len() as u64) as usize];
    let _ = std::fs::read(format!("/proc/{peer}/{name}"));
    if random.below(4) == 0 {
        let _ = std::fs::read_dir(format!("/proc/{peer}/fd")).map(Iterator::count);
        let _ = std::fs::read_link(format!("/proc/{peer}/exe"));
    }
}

fn limits(peer: i32, random: &mut Random) {
    let mut old = [0u64; 2];
    let resource = [RLIMIT_NOFILE, RLIMIT_CORE, RLIMIT_NPROC, RLIMIT_SIGPENDING][random.below(4) as usize];
    if sys!(SYS_prlimit64, peer, resource, 0, old.as_mut_ptr()).is_ok() {
        let new = [old[1].min(200 + random.below(800)), old[1]];
        let _ = sys!(SYS_prlimit64, peer, resource, new.as_ptr(), old.as_mut_ptr());
    }
}

/// A child writes, the parent reads; sometimes the reader goes first.
fn pipes(random: &mut Random) {
    let Ok((reader, writer)) = pipe(O_CLOEXEC) else { return };
    let length = 1 + random.below(100_000) as usize;
    let started = child(|| {
        let _ = close(reader);
        let bytes = vec![7; length];
        let mut written = 0;
        while written < length {
            match write(writer, &bytes[written..]) {
                Ok(part) => written += part,
                Err(Errno(EINTR)) => {}
                Err(_) => return 1,
            }
        }
        0
    });
    let _ = close(writer);
    let mut buffer = [0; 4096];
    let mut left = if random.below(3) == 0 { length / 2 } else { usize::MAX };
    while left > 0 {
        match read(reader, &mut buffer) {
            Ok(0) => break,
            Ok(count) => left = left.saturating_sub(count),
            Err(Errno(EINTR)) => {}
            Err(_) => break,
        }
    }
    let _ = close(reader);
    if let Ok(pid) = started {
        let _ = wait(pid);
    }
}

/// Memory that parent and child write to at the same time, and that goes away meanwhile.
fn memories(random: &mut Random) {
    let length = 4096 * (1 + random.below(200) as usize);
    let Ok(address) = memory(length) else { return };
    for page in (0..length).step_by(4096) {
        poke(address + page, page);
    }
    let started = child(|| {
        for page in (0..length).step_by(8192) {
            poke(address + page, page + 1);
        }
        let _ = sys!(SYS_munmap, address, length / 2 / 4096 * 4096);
        0
    });
    for page in (0..length).step_by(4096) {
        poke(address + page, !page);
    }
    let _ = sys!(SYS_munmap, address, length);
    if let Ok(pid) = started {
        let _ = wait(pid);
    }
}

/// A session on a pseudo-terminal that is hung up under it.
fn terminals() {
    let Ok(master) = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC, 0) else { return };
    let (unlock, mut number) = (0i32, -1i32);
    let _ = sys!(SYS_ioctl, master, TIOCSPTLCK as c_ulong, &raw const unlock);
    let _ = sys!(SYS_ioctl, master, TIOCGPTN as c_ulong, &raw mut number);
    let started = child(|| {
        let _ = sys!(SYS_setsid);
        let Ok(slave) = open(&format!("/dev/pts/{number}"), O_RDWR, 0) else { return 1 };
        let _ = write(slave, b"hello\n");
        let mut buffer = [0; 64];
        let _ = read(slave, &mut buffer);
        let _ = close(master);
        let _ = read(slave, &mut buffer);
        0
    });
    let _ = write(master, b"line\n");
    let mut buffer = [0; 64];
    let _ = read(master, &mut buffer);
    let _ = close(master);
    if let Ok(pid) = started {
        sleep_ms(1);
        let _ = kill(pid, SIGKILL);
        let _ = wait(pid);
    }
}

/// To another CPU, another niceness.
fn moves(random: &mut Random) {
    let mask = 1 + random.below(15);
    let _ = sys!(SYS_sched_setaffinity, 0, 8, &raw const mask);
    let _ = sys!(SYS_setpriority, PRIO_PROCESS, 0, random.below(5) as i32);
}

/// Many children at once, killed as a group.
fn storm() {
    let Ok(leader) = child(|| {
        let _ = sys!(SYS_setpgid, 0, 0);
        for _ in 0..20 {
            let _ = child(|| {
                sleep_ms(30);
                0
            });
        }
        sleep_ms(5);
        let _ = kill(-getpid(), SIGKILL);
        0
    }) else {
        return;
    };
    let _ = wait(leader);
}
