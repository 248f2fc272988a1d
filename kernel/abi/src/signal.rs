//! `signal(7)`, `sigaction(2)`: numbers, flags, `siginfo_t`.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    SIGHUP: u32 = 1;
    SIGINT: u32 = 2;
    SIGQUIT: u32 = 3;
    SIGILL: u32 = 4;
    SIGTRAP: u32 = 5;
    SIGABRT: u32 = 6;
    SIGBUS: u32 = 7;
    SIGFPE: u32 = 8;
    SIGKILL: u32 = 9;
    SIGUSR1: u32 = 10;
    SIGSEGV: u32 = 11;
    SIGUSR2: u32 = 12;
    SIGPIPE: u32 = 13;
    SIGALRM: u32 = 14;
    SIGTERM: u32 = 15;
    SIGSTKFLT: u32 = 16;
    SIGCHLD: u32 = 17;
    SIGCONT: u32 = 18;
    SIGSTOP: u32 = 19;
    SIGTSTP: u32 = 20;
    SIGTTIN: u32 = 21;
    SIGTTOU: u32 = 22;
    SIGURG: u32 = 23;
    SIGXCPU: u32 = 24;
    SIGXFSZ: u32 = 25;
    SIGVTALRM: u32 = 26;
    SIGPROF: u32 = 27;
    SIGWINCH: u32 = 28;
    SIGIO: u32 = 29;
    SIGPWR: u32 = 30;
    SIGSYS: u32 = 31;
    SIGRTMIN: u32 = 32;
    SA_NOCLDSTOP: u32 = 1;
    SA_NOCLDWAIT: u32 = 2;
    SA_SIGINFO: u32 = 4;
    /// The kernel's own mark: no handler, no tracer changes what the signal does.
    SA_IMMUTABLE: u64 = 0x0080_0000;
    SA_RESTORER: u32 = 0x0400_0000;
    SA_ONSTACK: u32 = 0x0800_0000;
    SA_RESTART: u32 = 0x1000_0000;
    SA_NODEFER: u32 = 0x4000_0000;
    SA_RESETHAND: u32 = 0x8000_0000;
    SIG_DFL: u64 = 0;
    SIG_IGN: u64 = 1;
    SIG_BLOCK: i32 = 0;
    SIG_UNBLOCK: i32 = 1;
    SIG_SETMASK: i32 = 2;
    SS_ONSTACK: u32 = 1;
    SS_DISABLE: u32 = 2;
    SS_AUTODISARM: u32 = 0x8000_0000;
    SI_USER: i32 = 0;
    SI_KERNEL: i32 = 0x80;
    SI_QUEUE: i32 = -1;
    SI_TIMER: i32 = -2;
    SI_MESGQ: i32 = -3;
    SI_ASYNCIO: i32 = -4;
    SI_SIGIO: i32 = -5;
    SI_TKILL: i32 = -6;
    SEGV_MAPERR: i32 = 1;
    SEGV_ACCERR: i32 = 2;
    BUS_ADRALN: i32 = 1;
    BUS_ADRERR: i32 = 2;
    BUS_OBJERR: i32 = 3;
    ILL_ILLOPC: i32 = 1;
    FPE_INTDIV: i32 = 1;
    FPE_FLTDIV: i32 = 3;
    POLL_IN: i32 = 1;
    POLL_OUT: i32 = 2;
    POLL_HUP: i32 = 6;
    SYS_SECCOMP: i32 = 1;
    TRAP_BRKPT: i32 = 1;
    TRAP_TRACE: i32 = 2;
    TRAP_HWBKPT: i32 = 4;
    CLD_EXITED: i32 = 1;
    CLD_KILLED: i32 = 2;
    CLD_DUMPED: i32 = 3;
    CLD_TRAPPED: i32 = 4;
    CLD_STOPPED: i32 = 5;
    CLD_CONTINUED: i32 = 6;
}

layout! {
    /// The kernel's `struct sigaction` of arm64.
    Sigaction { handler: u64, flags: u64, restorer: u64, mask: u64, }
    /// `stack_t`.
    StackT { ss_sp: u64, ss_flags: i32, _pad: u32, ss_size: u64, }
}

/// `siginfo_t`, 128 bytes: signal, errno, code, and a union at byte 16 that the constructors fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct SigInfo {
    si_signo: i32,
    si_errno: i32,
    si_code: i32,
    _pad: i32,
    /// The union as 32-bit words.
    fields: [u32; 28],
}

impl SigInfo {
    fn new(signal: u32, code: i32) -> Self {
        Self { si_signo: signal.cast_signed(), si_code: code, ..Self::default() }
    }

    fn put_u64(&mut self, word: usize, value: u64) {
        self.fields[word] = value as u32;
        self.fields[word + 1] = (value >> 32) as u32;
    }

    /// A signal that the kernel itself sends (SI_KERNEL).
    pub fn kernel(signal: u32) -> Self {
        Self::new(signal, SI_KERNEL)
    }

    /// kill, tgkill, sigqueue: who sent it.
    pub fn user(signal: u32, code: i32, pid: i32, uid: u32) -> Self {
        let mut info = Self::new(signal, code);
        info.fields[0] = pid.cast_unsigned();
        info.fields[1] = uid;
        info
    }

    /// SIGCHLD: CLD_* code, who, and exit code or signal.
    pub fn child(code: i32, pid: i32, uid: u32, status: i32) -> Self {
        Self::child_with(SIGCHLD, code, pid, uid, status)
    }

    /// The same with another exit signal.
    pub fn child_with(signal: u32, code: i32, pid: i32, uid: u32, status: i32) -> Self {
        let mut info = Self::user(signal, code, pid, uid);
        info.fields[2] = status.cast_unsigned();
        info
    }

    /// Adds `si_utime` and `si_stime` to a [`Self::child`] signal, in clock ticks.
    pub fn with_times(mut self, user: i64, system: i64) -> Self {
        self.put_u64(4, user.cast_unsigned());
        self.put_u64(6, system.cast_unsigned());
        self
    }

    /// `si_utime` and `si_stime` of a [`Self::child`] signal.
    pub fn times(&self) -> (i64, i64) {
        let long = |word: usize| i64::from(self.fields[word]) | i64::from(self.fields[word + 1]) << 32;
        (long(4), long(6))
    }

    /// A fault at `address`.
    pub fn fault(signal: u32, code: i32, address: u64) -> Self {
        let mut info = Self::new(signal, code);
        info.put_u64(0, address);
        info
    }

    /// SECCOMP_RET_TRAP: the filter's data, and the system call that was not made.
    pub fn seccomp(data: i32, call_address: u64, syscall: i32, arch: u32) -> Self {
        let mut info = Self::new(SIGSYS, SYS_SECCOMP);
        info.si_errno = data;
        info.put_u64(0, call_address);
        info.fields[2] = syscall.cast_unsigned();
        info.fields[3] = arch;
        info
    }

    /// A POSIX timer: its id, overruns and value.
    pub fn timer(signal: u32, code: i32, id: i32, overruns: i32, value: u64) -> Self {
        let mut info = Self::user(signal, code, id, overruns.cast_unsigned());
        info.put_u64(2, value);
        info
    }

    /// Sets the overruns of a [`Self::timer`] signal, which are known when it is taken.
    pub fn set_overruns(&mut self, overruns: i32) {
        self.fields[1] = overruns.cast_unsigned();
    }

    /// Sets `si_pid` and `si_uid`.
    pub fn set_sender(&mut self, pid: i32, uid: u32) {
        self.fields[0] = pid.cast_unsigned();
        self.fields[1] = uid;
    }

    /// `si_overrun`.
    pub fn overruns(&self) -> i32 {
        self.fields[1].cast_signed()
    }

    /// Whether the kernel's own mark of a POSIX timer's signal is set (`si_sys_private`). User space is not to see it.
    pub fn is_marked(&self) -> bool {
        self.fields[4] != 0
    }

    /// Sets or clears the mark.
    pub fn set_mark(&mut self, mark: u32) {
        self.fields[4] = mark;
    }

    /// `si_signo`.
    pub fn signal(&self) -> u32 {
        self.si_signo.cast_unsigned()
    }

    /// Sets `si_signo`: what rt_sigqueueinfo does with a caller's structure.
    pub fn set_signal(&mut self, signal: u32) {
        self.si_signo = signal.cast_signed();
    }

    /// `si_code`.
    pub fn code(&self) -> i32 {
        self.si_code
    }

    /// `si_pid`.
    pub fn pid(&self) -> i32 {
        self.fields[0].cast_signed()
    }

    /// `si_uid`.
    pub fn uid(&self) -> u32 {
        self.fields[1]
    }

    /// `si_status`.
    pub fn status(&self) -> i32 {
        self.fields[2].cast_signed()
    }

    /// `si_addr`.
    pub fn address(&self) -> u64 {
        u64::from(self.fields[0]) | u64::from(self.fields[1]) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::{SigInfo, StackT};

    #[test]
    fn layouts_have_linux_sizes() {
        assert_eq!((size_of::<SigInfo>(), size_of::<StackT>()), (128, 24));
    }
}
