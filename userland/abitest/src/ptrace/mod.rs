//! ptrace(2) on arm64, and what stands around it: process_vm_readv(2), `/proc/PID/mem`, proc(5). A file per topic.
//!
//! A tracee is a child that stops itself after PTRACE_TRACEME ([`traced`]), or one that waits at a [`Gate`] until it is seized or
//! attached to. Machine code whose steps are counted lies in a page of its own ([`code`]), mapped before the fork, so that the
//! tracer knows where it is.

#![expect(clippy::needless_borrows_for_generic_args, reason = "what it calls a borrow is a raw pointer")]

mod access;
mod attach;
mod events;
mod exit;
mod files;
mod regset;
mod step;
mod stops;
mod syscall;

use crate::case::{Case, Failure, same};
use crate::kernel::*;

/// The topics, in the order in which they are run.
pub const TOPICS: &[&[Case]] = &[
    attach::CASES,
    stops::CASES,
    events::CASES,
    syscall::CASES,
    regset::CASES,
    step::CASES,
    access::CASES,
    files::CASES,
    exit::CASES,
];

/// All cases of the family.
pub const CASES: &[Case] = &ALL;

const COUNT: usize = {
    let (mut count, mut at) = (0, 0);
    while at < TOPICS.len() {
        count += TOPICS[at].len();
        at += 1;
    }
    count
};

static ALL: [Case; COUNT] = {
    let mut all = [TOPICS[0][0]; COUNT];
    let (mut topic, mut next) = (0, 0);
    while topic < TOPICS.len() {
        let mut at = 0;
        while at < TOPICS[topic].len() {
            all[next] = TOPICS[topic][at];
            next += 1;
            at += 1;
        }
        topic += 1;
    }
    all
};

const TRACEME: i32 = 0;
const PEEKTEXT: i32 = 1;
const PEEKDATA: i32 = 2;
const PEEKUSR: i32 = 3;
const POKETEXT: i32 = 4;
const POKEDATA: i32 = 5;
const POKEUSR: i32 = 6;
const CONT: i32 = 7;
const KILL: i32 = 8;
const SINGLESTEP: i32 = 9;
const GETREGS: i32 = 12;
const ATTACH: i32 = 16;
const DETACH: i32 = 17;
const SYSCALL: i32 = 24;
const SYSEMU: i32 = 31;
const SETOPTIONS: i32 = 0x4200;
const GETEVENTMSG: i32 = 0x4201;
const GETSIGINFO: i32 = 0x4202;
const SETSIGINFO: i32 = 0x4203;
const GETREGSET: i32 = 0x4204;
const SETREGSET: i32 = 0x4205;
const SEIZE: i32 = 0x4206;
const INTERRUPT: i32 = 0x4207;
const LISTEN: i32 = 0x4208;
const PEEKSIGINFO: i32 = 0x4209;
const GETSIGMASK: i32 = 0x420a;
const SETSIGMASK: i32 = 0x420b;
const GET_SYSCALL_INFO: i32 = 0x420e;

const O_SYSGOOD: i32 = 1;
const O_FORK: i32 = 2;
const O_VFORK: i32 = 4;
const O_CLONE: i32 = 8;
const O_EXEC: i32 = 16;
const O_VFORKDONE: i32 = 32;
const O_EXIT: i32 = 64;
const O_SECCOMP: i32 = 128;
const O_EXITKILL: i32 = 1 << 20;

const EVENT_FORK: i32 = 1;
const EVENT_VFORK: i32 = 2;
const EVENT_CLONE: i32 = 3;
const EVENT_EXEC: i32 = 4;
const EVENT_VFORK_DONE: i32 = 5;
const EVENT_EXIT: i32 = 6;
const EVENT_SECCOMP: i32 = 7;
const EVENT_STOP: i32 = 128;

const NT_PRSTATUS: i32 = 1;
const NT_PRFPREG: i32 = 2;
const NT_ARM_TLS: i32 = 0x401;
const NT_ARM_HW_BREAK: i32 = 0x402;
const NT_ARM_HW_WATCH: i32 = 0x403;
const NT_ARM_SYSTEM_CALL: i32 = 0x404;

/// A system-call stop with PTRACE_O_TRACESYSGOOD.
const SYSTRAP: i32 = SIGTRAP | 0x80;

const NOP: u32 = 0xd503_201f;
const BRK: u32 = 0xd420_0000;
const SVC: u32 = 0xd400_0001;

type Got<T> = std::result::Result<T, Failure>;

/// The call as the kernel has it: PEEK requests store to where `data` points.
fn ptrace(request: i32, pid: i32, address: impl Argument, data: impl Argument) -> Result<usize> {
    sys!(SYS_ptrace, request, pid, address, data)
}

/// What a wait tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Exit(i32),
    Killed(i32),
    /// Stopped by this signal.
    Stop(i32),
    /// Stopped at a PTRACE_EVENT_*, with the signal that goes with it.
    Event(i32, i32),
}
use What::{Event, Exit, Killed, Stop};

fn what(status: i32) -> What {
    if WIFEXITED(status) {
        Exit(WEXITSTATUS(status))
    } else if WIFSIGNALED(status) {
        Killed(WTERMSIG(status))
    } else if status >> 16 != 0 {
        Event(status >> 16, WSTOPSIG(status))
    } else {
        Stop(status >> 8)
    }
}

/// An event with the SIGTRAP that most have.
fn trap(event: i32) -> What {
    Event(event, SIGTRAP)
}

/// Waits for the next thing that happens to `pid`, a thread or a process.
fn next(pid: i32) -> Got<What> {
    let mut status = 0;
    sys!(SYS_wait4, pid, &raw mut status, __WALL, 0)?;
    Ok(what(status))
}

/// Whether nothing has happened to `pid` so far.
fn is_quiet(pid: i32) -> Got<bool> {
    sleep_ms(20);
    Ok(sys!(SYS_wait4, pid, 0, __WALL | WNOHANG, 0)? == 0)
}

/// Lets a tracee go on as `request` says, and waits for what comes of it.
fn go(request: i32, pid: i32, signal: i32) -> Got<What> {
    ptrace(request, pid, 0, signal)?;
    next(pid)
}

/// A tracee that has stopped itself by SIGSTOP and then runs `body`.
fn traced(body: impl FnOnce() -> i32) -> Got<i32> {
    let pid = child(|| {
        let _ = ptrace(TRACEME, 0, 0, 0);
        let _ = raise(SIGSTOP);
        body()
    })?;
    same!(next(pid)?, Stop(SIGSTOP));
    Ok(pid)
}

/// The same with options.
fn traced_with(options: i32, body: impl FnOnce() -> i32) -> Got<i32> {
    let pid = traced(body)?;
    ptrace(SETOPTIONS, pid, 0, options)?;
    Ok(pid)
}

/// What holds a child back until the case lets it run.
struct Gate(i32);

impl Gate {
    fn open(&self) -> Result<()> {
        write(self.0, b"!").map(drop)
    }
}

/// A child that nobody traces yet. It waits in read(2).
fn waiting(body: impl FnOnce() -> i32) -> Got<(i32, Gate)> {
    let (reader, writer) = pipe(0)?;
    let pid = child(|| {
        let _ = close(writer);
        let _ = read(reader, &mut [0]);
        body()
    })?;
    close(reader)?;
    Ok((pid, Gate(writer)))
}

/// A child that was seized with `options` while it waits.
fn seized(options: i32, body: impl FnOnce() -> i32) -> Got<(i32, Gate)> {
    let (pid, gate) = waiting(body)?;
    ptrace(SEIZE, pid, 0, options)?;
    Ok((pid, gate))
}

/// kill(2) on ourselves.
fn raise(signal: i32) -> Result<usize> {
    kill(getpid(), signal)
}

/// The number that an event goes with.
fn message(pid: i32) -> Result<u64> {
    let mut message = 0u64;
    ptrace(GETEVENTMSG, pid, 0, &raw mut message)?;
    Ok(message)
}

/// The start of siginfo: signal, errno, code, and the words of the union.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Info {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    words: [u64; 14],
}

impl Info {
    /// si_pid.
    fn pid(&self) -> i32 {
        self.words[0] as i32
    }

    /// si_addr.
    fn address(&self) -> u64 {
        self.words[0]
    }
}

fn siginfo(pid: i32) -> Result<Info> {
    let mut info: Info = zeroed();
    ptrace(GETSIGINFO, pid, 0, &raw mut info)?;
    Ok(info)
}

/// `struct user_pt_regs`.
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C)]
struct Registers {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

/// PTRACE_GETREGSET into `buffer`: how many bytes came.
fn get<T>(pid: i32, kind: i32, buffer: &mut T) -> Result<usize> {
    get_part(pid, kind, buffer, size_of::<T>())
}

fn get_part<T>(pid: i32, kind: i32, buffer: &mut T, length: usize) -> Result<usize> {
    let mut vector = [&raw mut *buffer as usize, length];
    ptrace(GETREGSET, pid, kind, vector.as_mut_ptr())?;
    Ok(vector[1])
}

/// PTRACE_SETREGSET.
fn set<T>(pid: i32, kind: i32, buffer: &T) -> Result<usize> {
    set_part(pid, kind, buffer, size_of::<T>())
}

fn set_part<T>(pid: i32, kind: i32, buffer: &T, length: usize) -> Result<usize> {
    let mut vector = [&raw const *buffer as usize, length];
    ptrace(SETREGSET, pid, kind, vector.as_mut_ptr())?;
    Ok(vector[1])
}

fn registers(pid: i32) -> Result<Registers> {
    let mut registers: Registers = zeroed();
    get(pid, NT_PRSTATUS, &mut registers)?;
    Ok(registers)
}

/// Reads the word at `address` of a tracee.
fn word(pid: i32, address: usize) -> Result<u64> {
    let mut word = 0u64;
    ptrace(PEEKDATA, pid, address, &raw mut word)?;
    Ok(word)
}

/// A page with machine code.
fn code(words: &[u32]) -> Result<usize> {
    let page = memory(4096)?;
    for (index, word) in words.iter().enumerate() {
        poke(page + index * 4, *word);
    }
    // Made executable after it was written: so the kernel makes instruction fetch see it.
    sys!(SYS_mprotect, page, 4096, PROT_READ | PROT_EXEC)?;
    Ok(page)
}

/// `movz xN, #value`.
const fn movz(register: u32, value: u32) -> u32 {
    0xd280_0000 | value << 5 | register
}

/// A stopped tracee whose next instruction is the first of `words`; `prepare` sets registers.
fn ready(words: &[u32], prepare: impl FnOnce(&mut Registers)) -> Got<(i32, u64)> {
    let start = code(words)? as u64;
    let pid = traced(|| 1)?;
    let mut now = registers(pid)?;
    now.pc = start;
    prepare(&mut now);
    set(pid, NT_PRSTATUS, &now)?;
    Ok((pid, start))
}

/// The value of a field of `/proc/PID/status`.
fn status_field(pid: i32, field: &str) -> Got<String> {
    let text = String::from_utf8_lossy(&content(&format!("/proc/{pid}/status"))?).into_owned();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    Ok(line.trim_start_matches(field).trim_start_matches(':').trim().to_string())
}

/// The letter of a process's state.
fn state(pid: i32) -> Got<String> {
    status_field(pid, "State").map(|text| text.chars().take(1).collect())
}

/// Waits until a process sleeps, or whatever state is asked for; a few seconds at most.
fn settles(pid: i32, letter: &str) -> Got<bool> {
    for _ in 0..2000 {
        if state(pid)? == letter {
            return Ok(true);
        }
        sleep_ms(1);
    }
    Ok(false)
}

/// A thread that runs `body` with `argument`.
fn thread(body: extern "C" fn(usize) -> i32, argument: usize) -> Result<i32> {
    let flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    clone_on_stack(flags, std::ptr::null_mut(), 0, body, argument)
}

/// A thread's body that sleeps until the process ends.
extern "C" fn sleep_on(_: usize) -> i32 {
    loop {
        sleep_ms(1000);
    }
}
