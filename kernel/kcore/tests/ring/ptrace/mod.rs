//! ptrace(2): stops of every kind, who hears of them, and how each of them ends.

mod interleave;
mod kill;
mod requests;
mod rights;
mod stops;
mod threads;

use abi::ptrace as p;
use abi::ptrace::UserPtRegs;
use abi::signal::{SIGSTOP, SIGTRAP, SigInfo};
use abi::uio::Iovec;
use abi::wait as w;
use abi::{Errno, elf, nr};
use hal::hosted::User;
use kcore::testing::{Libc, Waited};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The requests as calls.
trait Tracer: Libc {
    fn ptrace(&mut self, request: u32, tid: i32, address: u64, data: u64) -> Result<u64, Errno> {
        self.call(nr::PTRACE, &[u64::from(request), i64::from(tid).cast_unsigned(), address, data])
    }

    fn trace_me(&mut self) {
        assert_eq!(self.ptrace(p::PTRACE_TRACEME, 0, 0, 0), Ok(0));
    }

    /// Lets a tracee go on with a signal (0: none).
    fn cont(&mut self, tid: i32, signal: u32) {
        assert_eq!(self.ptrace(p::PTRACE_CONT, tid, 0, u64::from(signal)), Ok(0));
    }

    fn to_next_call(&mut self, tid: i32) {
        assert_eq!(self.ptrace(p::PTRACE_SYSCALL, tid, 0, 0), Ok(0));
    }

    fn set_options(&mut self, tid: i32, options: u32) {
        assert_eq!(self.ptrace(p::PTRACE_SETOPTIONS, tid, 0, u64::from(options)), Ok(0));
    }

    fn seize(&mut self, tid: i32, options: u32) {
        assert_eq!(self.ptrace(p::PTRACE_SEIZE, tid, 0, u64::from(options)), Ok(0));
    }

    /// Waits for a stop of a thread; its wait status above the low byte.
    fn stop_of(&mut self, tid: i32) -> u32 {
        let Waited { pid, status } = self.wait4(tid, w::__WALL).unwrap().unwrap();
        assert_eq!(pid, tid);
        assert_eq!(status.0 & 0xff, 0x7f, "not a stop: {status:x?}");
        (status.0 >> 8).cast_unsigned()
    }

    fn message(&mut self, tid: i32) -> u64 {
        let (_, message) = self
            .scoped(|user| {
                let at = user.push(&[0; 8]);
                user.ptrace(p::PTRACE_GETEVENTMSG, tid, 0, at).map(|result| (result, user.read::<u64>(at)))
            })
            .unwrap();
        message
    }

    fn siginfo(&mut self, tid: i32) -> Result<SigInfo, Errno> {
        self.scoped(|user| {
            let at = user.push(&[0; 128]);
            user.ptrace(p::PTRACE_GETSIGINFO, tid, 0, at)?;
            Ok(user.load(at))
        })
    }

    /// A register set; as long as the kernel says.
    fn regset(&mut self, tid: i32, kind: u32, length: usize) -> Result<Vec<u8>, Errno> {
        self.scoped(|user| {
            let buffer = user.push(&vec![0; length]);
            let vector = user.push(Iovec { iov_base: buffer, iov_len: length as u64 }.as_bytes());
            user.ptrace(p::PTRACE_GETREGSET, tid, u64::from(kind), vector)?;
            let vector: Iovec = user.load(vector);
            Ok(user.read_bytes(buffer, usize::try_from(vector.iov_len).unwrap()))
        })
    }

    fn set_regset(&mut self, tid: i32, kind: u32, bytes: &[u8]) -> Result<(), Errno> {
        self.scoped(|user| {
            let buffer = user.push(bytes);
            let vector = user.push(Iovec { iov_base: buffer, iov_len: bytes.len() as u64 }.as_bytes());
            user.ptrace(p::PTRACE_SETREGSET, tid, u64::from(kind), vector).map(drop)
        })
    }

    fn registers_of(&mut self, tid: i32) -> UserPtRegs {
        let bytes = self.regset(tid, elf::NT_PRSTATUS, 272).unwrap();
        UserPtRegs::read_from_bytes(&bytes).unwrap()
    }

    fn set_registers_of(&mut self, tid: i32, registers: &UserPtRegs) {
        self.set_regset(tid, elf::NT_PRSTATUS, registers.as_bytes()).unwrap();
    }

    fn syscall_info(&mut self, tid: i32) -> (u64, p::PtraceSyscallInfo) {
        self.scoped(|user| {
            let at = user.push(p::PtraceSyscallInfo::new_zeroed().as_bytes());
            let length = user.ptrace(p::PTRACE_GET_SYSCALL_INFO, tid, 88, at).unwrap();
            (length, user.load(at))
        })
    }

    /// A child that asks to be traced and stops, with the parent at that stop.
    fn tracee(&mut self, body: impl FnOnce(&mut User) -> i32 + 'static) -> i32 {
        let child = self.fork(move |child| {
            child.trace_me();
            let own = child.getpid();
            child.kill(own, SIGSTOP).unwrap();
            body(child)
        });
        assert_eq!(self.stop_of(child), SIGSTOP);
        child
    }
}

impl Tracer for User {}

/// The wait status of an event.
const fn event(number: u32) -> u32 {
    number << 8 | SIGTRAP
}
