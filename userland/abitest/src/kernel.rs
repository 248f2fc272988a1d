//! System calls as the kernel sees them: numbers in, `-errno` out. libc stays out of the way, because it hides what is
//! tested here (it retries, caches, and has its own idea of fork).
//!
//! A system call can do anything to the memory of the caller; whether it does what it should is what the cases ask. So
//! [`call`] is a safe function for them, and all `unsafe` of the program is in this file.

use std::arch::asm;
use std::ffi::CString;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

pub use libc::*;

/// An error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

pub type Result<T> = std::result::Result<T, Errno>;

/// What can be an argument of a system call.
pub trait Argument {
    /// The register's content.
    fn register(self) -> usize;
}

macro_rules! arguments {
    ($($ty:ty)*) => { $(impl Argument for $ty { fn register(self) -> usize { self as usize } })* };
}
arguments!(i32 u32 i64 u64 isize usize u16 u8);

impl<T> Argument for *const T {
    fn register(self) -> usize {
        self as usize
    }
}

impl<T> Argument for *mut T {
    fn register(self) -> usize {
        self as usize
    }
}

/// `sys!(number, arguments...)`: `Result<usize>`. One expression, so that what the arguments point to lives through the call.
macro_rules! sys {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::kernel::call($number, $crate::kernel::fill([$($crate::kernel::Argument::register($argument)),*]))
    };
}
pub(crate) use sys;

/// Six registers, those that are not given zero.
pub fn fill<const N: usize>(given: [usize; N]) -> [usize; 6] {
    std::array::from_fn(|index| given.get(index).copied().unwrap_or(0))
}

/// The call itself.
#[cfg(target_arch = "aarch64")]
pub fn raw(number: c_long, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: `svc` keeps all registers but x0; what the kernel does to memory is declared by leaving `nomem` out.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a[0] => result, in("x1") a[1], in("x2") a[2], in("x3") a[3],
            in("x4") a[4], in("x5") a[5], options(nostack));
    }
    result
}

/// The call itself.
#[cfg(target_arch = "x86_64")]
pub fn raw(number: c_long, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: `syscall` clobbers rcx and r11; what the kernel does to memory is declared by leaving `nomem` out.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// The call with its error split off.
pub fn call(number: c_long, registers: [usize; 6]) -> Result<usize> {
    let result = raw(number, registers);
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// Ends the process without any of libc's farewell.
pub fn exit(status: i32) -> ! {
    loop {
        let _ = sys!(SYS_exit_group, status);
    }
}

/// clone with the arguments in the order of the architecture.
pub fn clone(flags: i32, stack: usize, parent_tid: *mut i32, child_tid: *mut i32, tls: usize) -> Result<i32> {
    #[cfg(target_arch = "aarch64")]
    let result = sys!(SYS_clone, flags, stack, parent_tid, tls, child_tid);
    #[cfg(target_arch = "x86_64")]
    let result = sys!(SYS_clone, flags, stack, parent_tid, child_tid, tls);
    result.map(|pid| pid as i32)
}

/// fork: 0 in the child.
pub fn fork() -> Result<i32> {
    clone(SIGCHLD, 0, std::ptr::null_mut(), std::ptr::null_mut(), 0)
}

/// A child that runs `body` and exits with what it returns.
pub fn child(body: impl FnOnce() -> i32) -> Result<i32> {
    match fork()? {
        0 => exit(body()),
        pid => Ok(pid),
    }
}

/// A child whose body may fail: 0 for `Ok`, 99 otherwise.
pub fn trial(body: impl FnOnce() -> crate::case::Outcome) -> Result<i32> {
    child(|| match body() {
        Ok(()) => 0,
        Err(failure) => {
            crate::case::tell(&failure);
            99
        }
    })
}

/// wait4: the raw status.
pub fn wait(pid: i32) -> Result<i32> {
    let mut status = 0;
    loop {
        match sys!(SYS_wait4, pid, &raw mut status, 0, 0) {
            Ok(_) => return Ok(status),
            Err(Errno(EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// wait4: the exit status, or 128 and the signal.
pub fn status(pid: i32) -> Result<i32> {
    wait(pid).map(|raw| if WIFSIGNALED(raw) { 128 + WTERMSIG(raw) } else { WEXITSTATUS(raw) })
}

/// A second thread of control on a stack of its own, in our memory (CLONE_VM among `flags`). `body` runs without
/// thread-local storage: atomics and system calls only.
pub fn clone_on_stack(
    flags: i32,
    child_tid: *mut i32,
    tls: usize,
    body: extern "C" fn(usize) -> i32,
    argument: usize,
) -> Result<i32> {
    const SIZE: usize = 256 << 10;
    let base = map(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)?;
    let top = base + SIZE - 64;
    poke(top, body as usize);
    poke(top + 8, argument);
    let result: isize;
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the parent passes the branch with all registers as declared; the child runs on its own stack, whose top holds
    // the function and its argument, and never leaves the block.
    unsafe {
        asm!("svc 0", "cbnz x0, 2f", "ldp x1, x0, [sp]", "mov x29, xzr", "blr x1", "mov x8, #93", "svc 0", "2:",
            in("x8") SYS_clone, inlateout("x0") flags as usize => result, in("x1") top, in("x2") child_tid,
            in("x3") tls, in("x4") child_tid);
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "pop rax", "pop rdi", "call rax", "mov edi, eax",
            "mov eax, 60", "syscall", "2:",
            inlateout("rax") SYS_clone as isize => result, in("rdi") flags as usize, in("rsi") top, in("rdx") child_tid,
            in("r10") child_tid, in("r8") tls, lateout("rcx") _, lateout("r11") _);
    }
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as i32) }
}

/// The thread pointer, as the child of [`clone_on_stack`] may read it.
pub fn thread_pointer() -> usize {
    let value: usize;
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads a register that EL0 may read.
    unsafe {
        asm!("mrs {}, tpidr_el0", out(reg) value, options(nomem, nostack));
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the word at fs:0 holds its own address in every x86 C library's thread control block, and in the case's.
    unsafe {
        asm!("mov {}, fs:[0]", out(reg) value, options(nostack));
    }
    value
}

/// Reads memory that the compiler knows nothing of.
pub fn peek<T: Copy>(address: usize) -> T {
    // SAFETY: the case has mapped it, or wants the fault.
    unsafe { (address as *const T).read_volatile() }
}

/// Reads a byte for the fault it may make.
pub fn touch(address: usize) {
    std::hint::black_box(peek::<u8>(address));
}

/// Writes memory that the compiler knows nothing of.
pub fn poke<T: Copy>(address: usize, value: T) {
    // SAFETY: the case has mapped it, or wants the fault.
    unsafe { (address as *mut T).write_volatile(value) }
}

/// Jumps to `address` as to a function without arguments.
pub fn jump(address: usize) -> usize {
    // SAFETY: the case has put code there, or wants the fault.
    let function: extern "C" fn() -> usize = unsafe { std::mem::transmute(address) };
    function()
}

/// An instruction that is none.
pub fn undefined_instruction() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: raises SIGILL, which the case expects.
    unsafe {
        asm!("udf #0");
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: raises SIGILL, which the case expects.
    unsafe {
        asm!("ud2");
    }
}

/// A breakpoint.
pub fn breakpoint() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: raises SIGTRAP, which the case expects.
    unsafe {
        asm!("brk #1");
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: raises SIGTRAP, which the case expects.
    unsafe {
        asm!("int3");
    }
}

/// mmap without a file.
pub fn map(address: usize, length: usize, protection: i32, flags: i32) -> Result<usize> {
    sys!(SYS_mmap, address, length, protection, flags, -1, 0)
}

/// Private anonymous memory.
pub fn memory(length: usize) -> Result<usize> {
    map(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
}

/// Words that stay one across fork.
#[derive(Clone, Copy)]
pub struct Shared(usize);

impl Shared {
    /// A page of zeroes.
    pub fn new() -> Result<Self> {
        map(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS).map(Self)
    }

    /// Those that are mapped at `address`.
    pub fn at(address: usize) -> Self {
        Self(address)
    }

    /// Word number `index`.
    pub fn word(&self, index: usize) -> &'static AtomicU32 {
        // SAFETY: the page is mapped for ever and only used through atomics; the index stays inside it.
        unsafe { &*((self.0 + index % 1024 * 4) as *const AtomicU32) }
    }

    /// The value of a word.
    pub fn get(&self, index: usize) -> u32 {
        self.word(index).load(Ordering::SeqCst)
    }

    /// Sets a word.
    pub fn set(&self, index: usize, value: u32) {
        self.word(index).store(value, Ordering::SeqCst);
    }

    /// Where a word is.
    pub fn address(&self, index: usize) -> usize {
        self.0 + index * 4
    }

    /// Waits until a word has a value; a few seconds at most.
    pub fn wait_for(&self, index: usize, value: u32) -> bool {
        for _ in 0..5000 {
            if self.get(index) == value {
                return true;
            }
            sleep_ms(1);
        }
        false
    }
}

/// A path for the kernel.
pub fn path(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// openat.
pub fn open(name: &str, flags: i32, mode: u32) -> Result<i32> {
    sys!(SYS_openat, AT_FDCWD, path(name).as_ptr(), flags, mode).map(|fd| fd as i32)
}

/// close.
pub fn close(fd: i32) -> Result<usize> {
    sys!(SYS_close, fd)
}

/// read.
pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    sys!(SYS_read, fd, buffer.as_mut_ptr(), buffer.len())
}

/// write.
pub fn write(fd: i32, bytes: &[u8]) -> Result<usize> {
    sys!(SYS_write, fd, bytes.as_ptr(), bytes.len())
}

/// pipe2: read end, write end.
pub fn pipe(flags: i32) -> Result<(i32, i32)> {
    let mut fds = [-1i32; 2];
    sys!(SYS_pipe2, fds.as_mut_ptr(), flags)?;
    Ok((fds[0], fds[1]))
}

/// A file with this content.
pub fn file(name: &str, content: &[u8]) -> Result<()> {
    let fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0o644)?;
    let mut rest = content;
    while !rest.is_empty() {
        rest = &rest[write(fd, rest)?..];
    }
    close(fd).map(drop)
}

/// The content of a file.
pub fn content(name: &str) -> Result<Vec<u8>> {
    let fd = open(name, O_RDONLY, 0)?;
    let bytes = rest(fd);
    close(fd)?;
    bytes
}

/// Reads until the end.
pub fn rest(fd: i32) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match read(fd, &mut buffer) {
            Ok(0) => return Ok(all),
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(Errno(EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Plain memory of a structure, zeroed.
pub fn zeroed<T: Copy>() -> T {
    // SAFETY: used with the kernel's structures only: integers, arrays of integers, raw pointers.
    unsafe { std::mem::zeroed() }
}

/// newfstatat, symbolic links not followed.
pub fn lstat(name: &str) -> Result<stat> {
    let mut result: stat = zeroed();
    sys!(SYS_newfstatat, AT_FDCWD, path(name).as_ptr(), &raw mut result, AT_SYMLINK_NOFOLLOW)?;
    Ok(result)
}

/// fstat.
pub fn fstat(fd: i32) -> Result<stat> {
    let mut result: stat = zeroed();
    sys!(SYS_fstat, fd, &raw mut result)?;
    Ok(result)
}

/// mkdirat.
pub fn mkdir(name: &str, mode: u32) -> Result<usize> {
    sys!(SYS_mkdirat, AT_FDCWD, path(name).as_ptr(), mode)
}

/// unlinkat.
pub fn unlink(name: &str) -> Result<usize> {
    sys!(SYS_unlinkat, AT_FDCWD, path(name).as_ptr(), 0)
}

/// symlinkat.
pub fn symlink(target: &str, name: &str) -> Result<usize> {
    sys!(SYS_symlinkat, path(target).as_ptr(), AT_FDCWD, path(name).as_ptr())
}

/// clock_gettime in nanoseconds.
pub fn now_ns(clock: i32) -> Result<i64> {
    let mut time: timespec = zeroed();
    sys!(SYS_clock_gettime, clock, &raw mut time)?;
    Ok(time.tv_sec * 1_000_000_000 + time.tv_nsec)
}

/// clock_gettime through the C library, which asks the vDSO when there is one, in nanoseconds.
pub fn libc_now_ns(clock: i32) -> i64 {
    let mut time: timespec = zeroed();
    // SAFETY: it writes the structure and nothing else.
    unsafe { clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// A timespec.
pub fn timespec_ms(ms: i64) -> timespec {
    let mut time: timespec = zeroed();
    time.tv_sec = ms / 1000;
    time.tv_nsec = ms % 1000 * 1_000_000;
    time
}

/// Sleeps; a signal ends it early.
pub fn sleep_ms(ms: i64) {
    let time = timespec_ms(ms);
    let _ = sys!(SYS_nanosleep, &raw const time, 0);
}

/// getpid.
pub fn getpid() -> i32 {
    raw(SYS_getpid, [0; 6]) as i32
}

/// kill.
pub fn kill(pid: i32, signal: i32) -> Result<usize> {
    sys!(SYS_kill, pid, signal)
}

/// The kernel's `struct sigaction`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Action {
    pub handler: usize,
    pub flags: usize,
    pub restorer: usize,
    pub mask: u64,
}

/// x86 has no trampoline in its vDSO, so a handler needs a restorer there; arm64 uses the vDSO's when there is none.
#[cfg(target_arch = "x86_64")]
mod restorer {
    std::arch::global_asm!(".globl abitest_restorer", "abitest_restorer:", "mov eax, 15", "syscall");
    unsafe extern "C" {
        pub safe fn abitest_restorer();
    }
}

/// rt_sigaction: the old action.
pub fn sigaction(signal: i32, handler: usize, flags: i32, mask: u64) -> Result<Action> {
    #[cfg(target_arch = "x86_64")]
    let (flags, restorer) = (flags as u32 as usize | 0x0400_0000, restorer::abitest_restorer as *const () as usize);
    #[cfg(target_arch = "aarch64")]
    let (flags, restorer) = (flags as u32 as usize, 0);
    let new = Action { handler, flags, restorer, mask };
    let mut old = Action::default();
    sys!(SYS_rt_sigaction, signal, &raw const new, &raw mut old, 8)?;
    Ok(old)
}

/// The bit of a signal in a mask.
pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// rt_sigprocmask: the old mask.
pub fn mask(how: i32, set: u64) -> Result<u64> {
    let mut old = 0u64;
    sys!(SYS_rt_sigprocmask, how, &raw const set, &raw mut old, 8)?;
    Ok(old)
}

/// rt_sigpending.
pub fn pending() -> Result<u64> {
    let mut set = 0u64;
    sys!(SYS_rt_sigpending, &raw mut set, 8)?;
    Ok(set)
}

/// What [`note`] has seen.
pub mod seen {
    use super::{AtomicI32, AtomicUsize};

    pub static COUNT: AtomicUsize = AtomicUsize::new(0);
    pub static SIGNAL: AtomicI32 = AtomicI32::new(0);
    pub static CODE: AtomicI32 = AtomicI32::new(0);
    pub static PID: AtomicI32 = AtomicI32::new(0);
    pub static UID: AtomicI32 = AtomicI32::new(0);
    /// The third word of the union: the status of a child.
    pub static STATUS: AtomicI32 = AtomicI32::new(0);
    /// The first eight bytes of the union: the address of a fault.
    pub static ADDRESS: AtomicUsize = AtomicUsize::new(0);
    /// The value of sigqueue or a timer.
    pub static VALUE: AtomicUsize = AtomicUsize::new(0);
    /// Where the handler's stack was.
    pub static STACK: AtomicUsize = AtomicUsize::new(0);
    /// The order in which signals came, a decimal digit pair each.
    pub static ORDER: AtomicUsize = AtomicUsize::new(0);
}

/// How often [`note`] was called.
pub fn count() -> usize {
    seen::COUNT.load(Ordering::SeqCst)
}

/// A handler that notes what it gets.
pub extern "C" fn note(signal: i32, info: *const u8, _context: *mut u8) {
    let local = 0u8;
    seen::STACK.store(&raw const local as usize, Ordering::SeqCst);
    seen::SIGNAL.store(signal, Ordering::SeqCst);
    if !info.is_null() {
        let info = info as usize;
        seen::CODE.store(peek(info + 8), Ordering::SeqCst);
        seen::PID.store(peek(info + 16), Ordering::SeqCst);
        seen::UID.store(peek(info + 20), Ordering::SeqCst);
        seen::STATUS.store(peek(info + 24), Ordering::SeqCst);
        seen::ADDRESS.store(peek(info + 16), Ordering::SeqCst);
        seen::VALUE.store(peek(info + 24), Ordering::SeqCst);
    }
    let order = seen::ORDER.load(Ordering::SeqCst);
    seen::ORDER.store(order * 100 + signal as usize, Ordering::SeqCst);
    seen::COUNT.fetch_add(1, Ordering::SeqCst);
}

/// Has [`note`] handle `signal`.
pub fn note_signal(signal: i32, flags: i32) -> Result<()> {
    sigaction(signal, note as *const () as usize, flags | SA_SIGINFO, 0).map(drop)
}

/// The status with which `body` ends as a process: for what kills.
pub fn fate<T>(body: impl FnOnce() -> T) -> Result<i32> {
    let pid = child(|| {
        body();
        0
    })?;
    status(pid)
}

/// A path in /proc/self/exe's place: where this program is.
pub fn own_path() -> String {
    std::fs::read_link("/proc/self/exe").map(|path| path.display().to_string()).unwrap_or_default()
}

/// Gives up root for user 1000.
pub fn become_user() -> Result<()> {
    sys!(SYS_setgroups, 0, 0)?;
    sys!(SYS_setresgid, 1000, 1000, 1000)?;
    sys!(SYS_setresuid, 1000, 1000, 1000)?;
    Ok(())
}

/// prlimit64 on ourselves.
pub fn limit(resource: impl Argument, current: u64, maximum: u64) -> Result<usize> {
    let new = [current, maximum];
    sys!(SYS_prlimit64, 0, resource, new.as_ptr(), 0)
}

/// What stands before the abort handler of [`rseq_spin`], as `rseq(2)` wants it.
#[cfg(target_arch = "aarch64")]
pub const RSEQ_SIGNATURE: u32 = 0xd428_bc00;
#[cfg(target_arch = "x86_64")]
pub const RSEQ_SIGNATURE: u32 = 0x5305_3053;

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".globl abitest_rseq_spin",
    "abitest_rseq_spin:",
    "adr x9, 5f",
    "str x9, [x1, #8]",
    "adr x10, 6f",
    "sub x10, x10, x9",
    "str x10, [x1, #16]",
    "adr x11, 7f",
    "str x11, [x1, #24]",
    "str x1, [x0, #8]",
    "5:",
    "ldr w4, [x3]",
    "cbnz w4, 6f",
    "subs x2, x2, #1",
    "b.ne 5b",
    "6:",
    "mov x0, #0",
    "ret",
    ".inst 0xd428bc00",
    "7:",
    "mov x0, #1",
    "ret",
);
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl abitest_rseq_spin",
    "abitest_rseq_spin:",
    "lea r9, [rip + 5f]",
    "mov [rsi + 8], r9",
    "lea r10, [rip + 6f]",
    "sub r10, r9",
    "mov [rsi + 16], r10",
    "lea r11, [rip + 7f]",
    "mov [rsi + 24], r11",
    "mov [rdi + 8], rsi",
    "5:",
    "cmp dword ptr [rcx], 0",
    "jne 6f",
    "dec rdx",
    "jnz 5b",
    "6:",
    "xor eax, eax",
    "ret",
    ".long 0x53053053",
    "7:",
    "mov eax, 1",
    "ret",
);
unsafe extern "C" {
    fn abitest_rseq_spin(area: usize, section: usize, turns: usize, flag: usize) -> usize;
}

/// Enters a critical section of restartable sequences that is described at `section` (its version and flags are the caller's)
/// and spins in it for `turns`, or until the word at `flag` is not zero. Whether it was aborted.
pub fn rseq_spin(area: usize, section: usize, turns: usize, flag: usize) -> bool {
    // SAFETY: reads and writes the case's own memory, or faults there, which is then what the case asks about.
    unsafe { abitest_rseq_spin(area, section, turns, flag) == 1 }
}
