//! The kernel's side of the rows: system calls without libc in between, where libc is not what is measured. All `unsafe`
//! of the program is here.
//!
//! A system call can do anything to the memory of the caller. The rows hand in only what they own, and every function
//! here says what the kernel writes to.

use std::arch::asm;
use std::fmt;
use std::time::Duration;

pub use libc::*;

/// An error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

pub type Result<T> = std::result::Result<T, Errno>;

/// A system call: the arguments that are not given are zero.
#[inline(always)]
pub fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize> {
    let a: [usize; 6] = std::array::from_fn(|index| arguments.get(index).copied().unwrap_or(0));
    let result: isize;
    #[cfg(target_arch = "aarch64")]
    // SAFETY: `svc` keeps all registers but x0; what the kernel does to memory is declared by leaving `nomem` out.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a[0] => result, in("x1") a[1], in("x2") a[2], in("x3") a[3],
            in("x4") a[4], in("x5") a[5], options(nostack));
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `syscall` clobbers rcx and r11; what the kernel does to memory is declared by leaving `nomem` out.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// The monotonic clock (ns), through libc as programs read it.
pub fn now() -> u64 {
    let time = clock(CLOCK_MONOTONIC);
    time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos())
}

/// How long the kernel runs.
pub fn since_boot() -> Duration {
    clock(CLOCK_BOOTTIME)
}

fn clock(id: clockid_t) -> Duration {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: libc writes to the one structure, which is ours.
    unsafe { clock_gettime(id, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A hint that no processor knows and all ignore: `make profile` counts from here.
#[inline(always)]
pub fn mark_begin() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: Arm ARM C6.2: a HINT that is not allocated is a NOP.
    unsafe {
        asm!("hint #126", options(nostack));
    }
}

/// ... to here.
#[inline(always)]
pub fn mark_end() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!("hint #127", options(nostack));
    }
}

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mask: u64 = 1 << cpu;
    call(SYS_sched_setaffinity, [0, 8, (&raw const mask).addr()]).map(drop)
}

/// Ends the process without libc's farewell.
pub fn exit(status: i32) -> ! {
    loop {
        let _ = call(SYS_exit_group, [status as usize]);
    }
}

/// clone with flags only, as fork: 0 in the child.
pub fn clone(flags: i32) -> Result<i32> {
    call(SYS_clone, [flags as usize]).map(|pid| pid as i32)
}

/// A thread of this process that sleeps until the process ends. It needs no stack: all it does is three instructions.
pub fn sleeping_thread() -> Result<()> {
    #[cfg(target_arch = "aarch64")]
    {
        let flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
        let result: isize;
        // SAFETY: the thread changes its own registers only, and ppoll with nothing to wait for writes nothing.
        unsafe {
            asm!("svc 0", "cbnz x0, 3f", "2:", "mov x0, xzr", "mov x1, xzr", "mov x2, xzr", "mov x3, xzr",
                "mov x8, #73", "svc 0", "b 2b", "3:",
                in("x8") SYS_clone, inlateout("x0") flags as usize => result,
                in("x1") 0, in("x2") 0, in("x3") 0, in("x4") 0, options(nostack));
        }
        if result < 0 { Err(Errno(-result as i32)) } else { Ok(()) }
    }
    #[cfg(not(target_arch = "aarch64"))]
    Err(Errno(ENOSYS))
}

/// What the counter of the processor says, which begins with the machine (ns).
pub fn since_power_on() -> u64 {
    #[cfg(target_arch = "aarch64")]
    {
        let (count, frequency): (u64, u64);
        // SAFETY: both kernels let programs read the virtual counter: the vDSO does.
        unsafe {
            asm!("isb", "mrs {}, cntvct_el0", "mrs {}, cntfrq_el0", out(reg) count, out(reg) frequency,
                options(nomem, nostack));
        }
        (u128::from(count) * 1_000_000_000 / u128::from(frequency)) as u64
    }
    #[cfg(not(target_arch = "aarch64"))]
    0
}

/// A process that runs `body`.
pub fn child(body: impl FnOnce() -> Result<()>) -> Result<i32> {
    match clone(SIGCHLD)? {
        0 => exit(i32::from(body().is_err())),
        pid => Ok(pid),
    }
}

/// Waits for the end of a child. What did not end with status 0 is ECHILD.
pub fn wait(pid: i32) -> Result<()> {
    let mut status = 0_i32;
    call(SYS_wait4, [pid as usize, (&raw mut status).addr()])?;
    if status == 0 { Ok(()) } else { Err(Errno(ECHILD)) }
}

/// vfork and execve of `path` with no arguments beside its name and no environment, in one piece: the child borrows our
/// stack until it has left.
pub fn vfork_exec(path: &std::ffi::CStr) -> Result<i32> {
    let arguments = [path.as_ptr(), std::ptr::null()];
    #[cfg(target_arch = "aarch64")]
    {
        let result: isize;
        // SAFETY: between the two calls the child changes registers only, which are its own; x0 to x2 and x8 are declared.
        unsafe {
            asm!("svc 0", "cbnz x0, 2f", "mov x0, x9", "mov x1, x10", "mov x2, xzr", "mov x8, #221", "svc 0",
                "mov x0, #127", "mov x8, #93", "svc 0", "2:",
                inlateout("x8") SYS_clone => _, inlateout("x0") (CLONE_VM | CLONE_VFORK | SIGCHLD) as usize => result,
                inlateout("x1") 0_usize => _, inlateout("x2") 0_usize => _, in("x3") 0, in("x4") 0,
                in("x9") path.as_ptr(), in("x10") arguments.as_ptr(), options(nostack));
        }
        if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as i32) }
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        let _ = arguments;
        Err(Errno(ENOSYS))
    }
}

/// execve with the arguments given and no environment. Returns only with an error.
pub fn exec(arguments: &[&std::ffi::CStr]) -> Errno {
    let mut pointers: Vec<*const c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let path = pointers[0].addr();
    match call(SYS_execve, [path, pointers.as_ptr().addr(), 0]) {
        Err(errno) => errno,
        Ok(_) => Errno(EINVAL),
    }
}

/// A mapping that goes away with the value.
pub struct Mapping {
    address: usize,
    length: usize,
}

impl Mapping {
    /// Private anonymous memory without huge pages.
    pub fn small_pages(length: usize) -> Result<Mapping> {
        let mapping = Mapping::anonymous(length, MAP_PRIVATE)?;
        // A kernel without huge pages may not know the advice.
        let _ = call(SYS_madvise, [mapping.address, length, MADV_NOHUGEPAGE as usize]);
        Ok(mapping)
    }

    /// Anonymous memory, private or shared.
    pub fn anonymous(length: usize, kind: i32) -> Result<Mapping> {
        Mapping::new(length, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1)
    }

    /// Any.
    pub fn new(length: usize, protection: i32, flags: i32, file: i32) -> Result<Mapping> {
        let address = call(SYS_mmap, [0, length, protection as usize, flags as usize, file as usize, 0])?;
        Ok(Mapping { address, length })
    }

    pub fn address(&self) -> usize {
        self.address
    }

    pub fn length(&self) -> usize {
        self.length
    }

    /// Writes a byte into each page of 4 KiB.
    pub fn touch(&self) {
        for at in (0..self.length).step_by(4096) {
            // SAFETY: inside of the mapping, which is writable wherever a row touches it.
            unsafe { ((self.address + at) as *mut u8).write_volatile(1) };
        }
    }

    /// The sum of all its words.
    pub fn sum(&self) -> u64 {
        // SAFETY: the mapping is readable, lives as long as `self`, and nobody writes while the row reads it.
        let words = unsafe { std::slice::from_raw_parts(self.address as *const u64, self.length / 8) };
        words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
    }

    /// A word in memory that others see.
    pub fn word(&self, index: usize) -> &std::sync::atomic::AtomicU32 {
        assert!((index + 1) * 4 <= self.length);
        // SAFETY: inside of the mapping and aligned, and an atomic may be shared with whom it likes.
        unsafe { &*((self.address + index * 4) as *const std::sync::atomic::AtomicU32) }
    }

    pub fn unmap(&mut self) -> Result<()> {
        let length = std::mem::take(&mut self.length);
        call(SYS_munmap, [self.address, length]).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            let _ = self.unmap();
        }
    }
}

/// A handler for `signal` that does nothing.
pub fn handle(signal: i32) -> Result<()> {
    extern "C" fn nothing(_: i32) {}
    let handler: extern "C" fn(i32) = nothing;
    // SAFETY: the handler touches nothing.
    match unsafe { libc::signal(signal, handler as *const () as sighandler_t) } {
        SIG_ERR => Err(Errno(EINVAL)),
        _ => Ok(()),
    }
}

/// pthread_create and pthread_join of a thread that does nothing.
pub fn thread() -> Result<()> {
    extern "C" fn nothing(_: *mut c_void) -> *mut c_void {
        std::ptr::null_mut()
    }
    let mut thread = std::mem::MaybeUninit::uninit();
    // SAFETY: the thread touches nothing; `thread` is written when the call succeeds, and joined once.
    unsafe {
        match pthread_create(thread.as_mut_ptr(), std::ptr::null(), nothing, std::ptr::null_mut()) {
            0 => {
                pthread_join(thread.assume_init(), std::ptr::null_mut());
                Ok(())
            }
            errno => Err(Errno(errno)),
        }
    }
}
