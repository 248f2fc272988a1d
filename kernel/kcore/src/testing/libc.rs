//! The C library of test programs: a method per system call, structures and strings on the user stack.

use abi::fcntl::AT_FDCWD;
use abi::signal::{SA_RESTORER, SIG_DFL, SIG_IGN, SIGCHLD, SigInfo, Sigaction};
use abi::{mman, nr, sched, time};
use hal::hosted::{HANDLER_RETURN, User, program};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::{Errno, Result};

/// A wait status word (wait(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub i32);

impl Status {
    /// `WEXITSTATUS` of a child that exited.
    pub fn exit_code(self) -> Option<i32> {
        (self.0 & 0x7f == 0).then_some(self.0 >> 8 & 0xff)
    }

    /// `WTERMSIG` of a child that a signal killed.
    pub fn killed_by(self) -> Option<u32> {
        let signal = self.0 & 0x7f;
        (signal != 0 && signal != 0x7f).then_some(signal.cast_unsigned())
    }

    /// `WSTOPSIG` of a child that stopped.
    pub fn stopped_by(self) -> Option<u32> {
        (self.0 & 0xff == 0x7f).then_some((self.0 >> 8 & 0xff).cast_unsigned())
    }

    /// `WIFCONTINUED`.
    pub fn continued(self) -> bool {
        self.0 == 0xffff
    }
}

/// What wait4(2) found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waited {
    /// The child.
    pub pid: i32,
    /// What became of it.
    pub status: Status,
}

/// What a signal does.
pub enum Disposition {
    /// `SIG_DFL`.
    Default,
    /// `SIG_IGN`.
    Ignore,
    /// A handler, with `SA_*` flags.
    Handler(Box<dyn Fn(&mut User)>, u32),
}

fn signed(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

/// The calls.
pub trait Libc {
    /// The program.
    fn user(&mut self) -> &mut User;

    /// Any system call.
    fn call(&mut self, number: usize, arguments: &[u64]) -> Result<u64> {
        let mut registers = [0; 6];
        registers[..arguments.len()].copy_from_slice(arguments);
        Errno::from_syscall_return(self.user().syscall(number as u64, registers).cast_unsigned())
    }

    /// As [`Libc::call`] for calls that return an `int`.
    fn call_int(&mut self, number: usize, arguments: &[u64]) -> Result<i32> {
        self.call(number, arguments).map(|value| i32::try_from(value.cast_signed()).expect("an int"))
    }

    /// Puts bytes on the user stack, 16-byte aligned. They stay until the stack pointer is moved back.
    fn push(&mut self, bytes: &[u8]) -> u64 {
        let user = self.user();
        let address = (user.sp() - bytes.len() as u64) & !15;
        user.set_sp(address);
        user.write_bytes(address, bytes);
        address
    }

    /// Puts a string with its NUL on the user stack.
    fn push_string(&mut self, text: &str) -> u64 {
        self.push(&[text.as_bytes(), &[0]].concat())
    }

    /// Runs `body` and takes back what it pushed.
    fn scoped<R>(&mut self, body: impl FnOnce(&mut User) -> R) -> R {
        let sp = self.user().sp();
        let result = body(self.user());
        self.user().set_sp(sp);
        result
    }

    /// Reads a structure from user memory.
    fn load<T: FromBytes>(&mut self, address: u64) -> T {
        let bytes = self.user().read_bytes(address, size_of::<T>());
        T::read_from_bytes(&bytes).expect("as many bytes as the structure has")
    }

    /// Calls with a pointer to `value` as last argument, and returns what the kernel left there.
    fn call_with<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        number: usize,
        before: &[u64],
        value: &T,
        after: &[u64],
    ) -> Result<(u64, T)> {
        self.scoped(|user| {
            let address = user.push(value.as_bytes());
            let arguments = [before, &[address], after].concat();
            let result = user.call(number, &arguments)?;
            Ok((result, user.load(address)))
        })
    }

    // ---- Processes.

    /// fork(2).
    fn try_fork(&mut self, child: impl FnOnce(&mut User) -> i32 + 'static) -> Result<i32> {
        let pid = self.user().clone_with(u64::from(SIGCHLD), 0, child);
        Errno::from_syscall_return(pid.cast_unsigned()).map(|pid| i32::try_from(pid).expect("a PID"))
    }

    /// fork(2) that must succeed.
    fn fork(&mut self, child: impl FnOnce(&mut User) -> i32 + 'static) -> i32 {
        self.try_fork(child).expect("fork")
    }

    /// vfork(2).
    fn vfork(&mut self, child: impl FnOnce(&mut User) -> i32 + 'static) -> i32 {
        let flags = sched::CLONE_VM | sched::CLONE_VFORK | u64::from(SIGCHLD);
        // The child has the parent's stack; what it pushes lies below what the parent uses.
        i32::try_from(self.user().clone_with(flags, 0, child)).expect("vfork")
    }

    /// A thread of this process, on a stack of its own of 64 KiB. Returns its TID and the address of a word that holds the
    /// TID until the thread has ended (CLONE_CHILD_CLEARTID).
    fn thread(&mut self, body: impl FnOnce(&mut User) -> i32 + 'static) -> (i32, u64) {
        let length = 65536;
        let stack = self.mmap(length, mman::PROT_READ | mman::PROT_WRITE);
        let word = stack;
        let flags = sched::CLONE_VM
            | sched::CLONE_FS
            | sched::CLONE_FILES
            | sched::CLONE_SIGHAND
            | sched::CLONE_THREAD
            | sched::CLONE_SYSVSEM
            | sched::CLONE_PARENT_SETTID
            | sched::CLONE_CHILD_CLEARTID;
        let arguments = [flags, stack + length, word, 0, word, 0];
        let tid = self.user().syscall_with_child(nr::CLONE as u64, arguments, move |thread| {
            let code = body(thread);
            thread.exit_thread(code)
        });
        (i32::try_from(tid).expect("a thread"), word)
    }

    /// Waits until a thread of [`Libc::thread`] has ended.
    fn join(&mut self, thread: (i32, u64)) {
        loop {
            let tid = self.user().read::<u32>(thread.1);
            if tid == 0 {
                return;
            }
            let _ = self.futex_wait(thread.1, tid);
        }
    }

    /// exit(2): only this thread ends.
    fn exit_thread(&mut self, code: i32) -> ! {
        let _ = self.call(nr::EXIT, &[signed(code)]);
        panic!("exit returned");
    }

    /// execve(2) with an empty environment; returns only on error.
    fn try_exec(&mut self, path: &str, argv: &[&str]) -> Errno {
        let result = self.scoped(|user| {
            let path = user.push_string(path);
            let words: Vec<u64> = argv.iter().map(|word| user.push_string(word)).chain([0]).collect();
            let argv = user.push(words.as_bytes());
            let envp = user.push(0u64.as_bytes());
            user.call(nr::EXECVE, &[path, argv, envp])
        });
        result.expect_err("execve returns only on error")
    }

    /// execve(2) that must succeed.
    fn exec(&mut self, path: &str, argv: &[&str]) -> i32 {
        panic!("execve of {path}: {}", self.try_exec(path, argv));
    }

    /// wait4(2). `None`: WNOHANG and nothing to tell.
    fn wait4(&mut self, pid: i32, options: u32) -> Result<Option<Waited>> {
        let (pid, status) = self.call_with(nr::WAIT4, &[signed(pid)], &0i32, &[u64::from(options), 0])?;
        let pid = i32::try_from(pid).expect("a PID");
        Ok((pid != 0).then_some(Waited { pid, status: Status(status) }))
    }

    /// Waits for any child to end.
    fn wait(&mut self) -> Result<Waited> {
        self.wait4(-1, 0).map(|waited| waited.expect("without WNOHANG"))
    }

    /// Waits for this child to end.
    fn wait_for(&mut self, pid: i32) -> Status {
        self.wait4(pid, 0).expect("wait4").expect("without WNOHANG").status
    }

    /// waitid(2). `None`: WNOHANG and nothing to tell.
    fn waitid(&mut self, which: u32, id: i32, options: u32) -> Result<Option<SigInfo>> {
        let arguments = [u64::from(which), signed(id)];
        let after = [u64::from(options), 0];
        let (_, info) = self.call_with(nr::WAITID, &arguments, &SigInfo::new_zeroed(), &after)?;
        Ok((info.signal() != 0).then_some(info))
    }

    /// getpid(2).
    fn getpid(&mut self) -> i32 {
        self.call_int(nr::GETPID, &[]).expect("getpid")
    }

    /// getppid(2).
    fn getppid(&mut self) -> i32 {
        self.call_int(nr::GETPPID, &[]).expect("getppid")
    }

    /// gettid(2).
    fn gettid(&mut self) -> i32 {
        self.call_int(nr::GETTID, &[]).expect("gettid")
    }

    /// setpgid(2).
    fn setpgid(&mut self, pid: i32, group: i32) -> Result<()> {
        self.call(nr::SETPGID, &[signed(pid), signed(group)]).map(drop)
    }

    /// getpgid(2).
    fn getpgid(&mut self, pid: i32) -> Result<i32> {
        self.call_int(nr::GETPGID, &[signed(pid)])
    }

    /// setsid(2).
    fn setsid(&mut self) -> Result<i32> {
        self.call_int(nr::SETSID, &[])
    }

    /// getsid(2).
    fn getsid(&mut self, pid: i32) -> Result<i32> {
        self.call_int(nr::GETSID, &[signed(pid)])
    }

    /// sched_yield(2).
    fn sched_yield(&mut self) {
        self.call(nr::SCHED_YIELD, &[]).expect("sched_yield");
    }

    // ---- Signals.

    /// kill(2).
    fn kill(&mut self, pid: i32, signal: u32) -> Result<()> {
        self.call(nr::KILL, &[signed(pid), u64::from(signal)]).map(drop)
    }

    /// tgkill(2).
    fn tgkill(&mut self, tgid: i32, tid: i32, signal: u32) -> Result<()> {
        self.call(nr::TGKILL, &[signed(tgid), signed(tid), u64::from(signal)]).map(drop)
    }

    /// rt_sigaction(2).
    fn try_sigaction(&mut self, signal: u32, disposition: Disposition, mask: u64) -> Result<()> {
        let (handler, flags) = match disposition {
            Disposition::Default => (SIG_DFL, 0),
            Disposition::Ignore => (SIG_IGN, 0),
            Disposition::Handler(body, flags) => {
                let entry = program(move |user| {
                    body(user);
                    0
                });
                (entry, u64::from(flags | SA_RESTORER))
            }
        };
        let action = Sigaction { handler, flags, restorer: HANDLER_RETURN, mask };
        self.call_with(nr::RT_SIGACTION, &[u64::from(signal)], &action, &[0, 8]).map(drop)
    }

    /// Handles a signal with `SA_*` flags.
    fn on(&mut self, signal: u32, flags: u32, body: impl Fn(&mut User) + 'static) {
        self.try_sigaction(signal, Disposition::Handler(Box::new(body), flags), 0).expect("sigaction");
    }

    /// Ignores a signal.
    fn ignore(&mut self, signal: u32) {
        self.try_sigaction(signal, Disposition::Ignore, 0).expect("sigaction");
    }

    /// rt_sigprocmask(2). Returns the former mask.
    fn sigprocmask(&mut self, how: i32, set: u64) -> u64 {
        self.scoped(|user| {
            let (new, old) = (user.push(set.as_bytes()), user.push(0u64.as_bytes()));
            user.call(nr::RT_SIGPROCMASK, &[signed(how), new, old, 8]).expect("sigprocmask");
            user.load(old)
        })
    }

    /// rt_sigpending(2).
    fn sigpending(&mut self) -> u64 {
        self.call_with(nr::RT_SIGPENDING, &[], &0u64, &[8]).expect("sigpending").1
    }

    /// rt_sigsuspend(2): waits with `mask` until a handler has run.
    fn sigsuspend(&mut self, mask: u64) -> Errno {
        self.call_with(nr::RT_SIGSUSPEND, &[], &mask, &[8]).expect_err("sigsuspend never succeeds")
    }

    /// pause(2).
    fn pause(&mut self) -> Errno {
        let mask = self.scoped(|user| user.sigprocmask(abi::signal::SIG_BLOCK, 0));
        self.sigsuspend(mask)
    }

    /// rt_sigtimedwait(2) with a timeout in nanoseconds.
    fn sigtimedwait(&mut self, set: u64, timeout_ns: u64) -> Result<SigInfo> {
        self.scoped(|user| {
            let set = user.push(set.as_bytes());
            let timeout = user.push(timespec(timeout_ns).as_bytes());
            let info = user.push(SigInfo::new_zeroed().as_bytes());
            user.call(nr::RT_SIGTIMEDWAIT, &[set, info, timeout, 8])?;
            Ok(user.load(info))
        })
    }

    // ---- Time.

    /// nanosleep(2). On `EINTR` the rest is lost.
    fn sleep_ns(&mut self, ns: u64) -> Result<()> {
        self.call_with(nr::NANOSLEEP, &[], &timespec(ns), &[0]).map(drop)
    }

    /// clock_gettime(2) in nanoseconds.
    fn clock_ns(&mut self, clock: i32) -> u64 {
        let (_, now) = self.call_with(nr::CLOCK_GETTIME, &[signed(clock)], &timespec(0), &[]).expect("clock_gettime");
        now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
    }

    /// setitimer(2) with ITIMER_REAL: SIGALRM after `ns`, once.
    fn alarm_ns(&mut self, ns: u64) {
        let us = i64::try_from(ns / 1000).expect("a short time");
        let value = time::Timeval { tv_sec: us / 1_000_000, tv_usec: us % 1_000_000 };
        let timer = time::Itimerval { it_value: value, ..time::Itimerval::default() };
        self.call_with(nr::SETITIMER, &[0], &timer, &[0]).expect("setitimer");
    }

    // ---- Memory.

    /// mmap(2), private and anonymous.
    fn mmap(&mut self, length: u64, prot: u32) -> u64 {
        self.try_mmap(0, length, prot, mman::MAP_PRIVATE | mman::MAP_ANONYMOUS, -1, 0).expect("mmap")
    }

    /// mmap(2) as it is.
    fn try_mmap(&mut self, address: u64, length: u64, prot: u32, flags: u32, fd: i32, offset: u64) -> Result<u64> {
        self.call(nr::MMAP, &[address, length, u64::from(prot), u64::from(flags), signed(fd), offset])
    }

    /// munmap(2).
    fn munmap(&mut self, address: u64, length: u64) -> Result<()> {
        self.call(nr::MUNMAP, &[address, length]).map(drop)
    }

    /// mprotect(2).
    fn mprotect(&mut self, address: u64, length: u64, prot: u32) -> Result<()> {
        self.call(nr::MPROTECT, &[address, length, u64::from(prot)]).map(drop)
    }

    /// brk(2): sets the break and returns it.
    fn brk(&mut self, address: u64) -> u64 {
        self.call(nr::BRK, &[address]).expect("brk never fails")
    }

    // ---- Futexes.

    /// futex(2) FUTEX_WAIT without a timeout.
    fn futex_wait(&mut self, word: u64, value: u32) -> Result<()> {
        self.call(nr::FUTEX, &[word, u64::from(abi::futex::FUTEX_WAIT), u64::from(value), 0]).map(drop)
    }

    /// futex(2) FUTEX_WAKE. Returns how many woke.
    fn futex_wake(&mut self, word: u64, count: u32) -> Result<u64> {
        self.call(nr::FUTEX, &[word, u64::from(abi::futex::FUTEX_WAKE), u64::from(count)])
    }

    // ---- Files.

    /// openat(2) from the working directory.
    fn open(&mut self, path: &str, flags: u32, mode: u32) -> Result<i32> {
        self.scoped(|user| {
            let path = user.push_string(path);
            user.call_int(nr::OPENAT, &[signed(AT_FDCWD), path, u64::from(flags), u64::from(mode)])
        })
    }

    /// close(2).
    fn close(&mut self, fd: i32) -> Result<()> {
        self.call(nr::CLOSE, &[signed(fd)]).map(drop)
    }

    /// dup(2).
    fn dup(&mut self, fd: i32) -> Result<i32> {
        self.call_int(nr::DUP, &[signed(fd)])
    }

    /// pipe2(2): the reading and the writing end.
    fn pipe(&mut self, flags: u32) -> Result<(i32, i32)> {
        let (_, [read, write]) = self.call_with(nr::PIPE2, &[], &[0i32; 2], &[u64::from(flags)])?;
        Ok((read, write))
    }

    /// read(2) of up to `length` bytes.
    fn read_fd(&mut self, fd: i32, length: usize) -> Result<Vec<u8>> {
        self.scoped(|user| {
            let buffer = user.push(&vec![0; length]);
            let count = user.call(nr::READ, &[signed(fd), buffer, length as u64])?;
            Ok(user.read_bytes(buffer, usize::try_from(count).expect("no more than asked")))
        })
    }

    /// write(2).
    fn write_fd(&mut self, fd: i32, bytes: &[u8]) -> Result<usize> {
        self.scoped(|user| {
            let buffer = user.push(bytes);
            let count = user.call(nr::WRITE, &[signed(fd), buffer, bytes.len() as u64])?;
            Ok(usize::try_from(count).expect("no more than given"))
        })
    }

    /// The whole of a file.
    fn slurp(&mut self, path: &str) -> Result<Vec<u8>> {
        let fd = self.open(path, abi::fcntl::O_RDONLY, 0)?;
        let mut all = Vec::new();
        loop {
            let piece = self.read_fd(fd, 4096)?;
            if piece.is_empty() {
                self.close(fd)?;
                return Ok(all);
            }
            all.extend(piece);
        }
    }
}

fn timespec(ns: u64) -> time::Timespec {
    let ns = ns.cast_signed();
    time::Timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 }
}

impl Libc for User {
    fn user(&mut self) -> &mut User {
        self
    }
}
