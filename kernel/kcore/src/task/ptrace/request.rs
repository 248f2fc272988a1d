//! The requests of a tracer, one by one (Linux `sys_ptrace`, `ptrace_request`).

use abi::Errno;
use abi::ptrace as p;
use abi::uio::Iovec;

use super::attach::{self, Frozen};
use super::{info, memory, regset, resume};
use crate::Result;
use crate::signal;
use crate::syscall::UserPtr;
use crate::task::find_or_esrch;
use abi::signal::{SIGKILL, SigInfo};

/// A request as the call gives it: what `address` and `data` are depends on its number.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// PTRACE_*.
    pub number: u64,
    /// The tracee's TID.
    pub tid: i32,
    /// The third argument.
    pub address: u64,
    /// The fourth.
    pub data: u64,
}

/// Does what a tracer asks for. `EIO` for what does not exist, `ESRCH` for a thread that is not the caller's tracee or not
/// stopped.
pub fn request(request: Request) -> Result<usize> {
    let Request { number, tid, address, data } = request;
    // What is no number of a request is one that does not exist.
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    if number == p::PTRACE_TRACEME {
        return attach::trace_me().map(|()| 0);
    }
    let task = find_or_esrch(tid)?;
    match number {
        p::PTRACE_ATTACH => attach::attach(&task).map(|()| 0),
        p::PTRACE_SEIZE => attach::seize(&task, address, data).map(|()| 0),
        p::PTRACE_INTERRUPT => resume::interrupt(&task).map(|()| 0),
        p::PTRACE_KILL => {
            attach::is_ours_now(&task)?;
            // Not of much use: a kill(2) does the same.
            signal::send_info(&task.group, &SigInfo::user(SIGKILL, 0, 0, 0));
            Ok(0)
        }
        _ => of_stopped(Frozen::new(task)?, number, address, data),
    }
}

/// The requests that need a stopped tracee.
fn of_stopped(tracee: Frozen, number: u32, address: u64, data: u64) -> Result<usize> {
    let task = tracee.task.clone();
    match number {
        p::PTRACE_CONT | p::PTRACE_SYSCALL | p::PTRACE_SINGLESTEP | p::PTRACE_SYSEMU | p::PTRACE_SYSEMU_SINGLESTEP => {
            resume::go_on(tracee, number, data)?
        }
        p::PTRACE_DETACH => attach::detach(tracee, data)?,
        p::PTRACE_LISTEN => resume::listen(&task)?,
        p::PTRACE_PEEKTEXT | p::PTRACE_PEEKDATA => {
            // The word goes where data points: the C library makes the result of it.
            UserPtr::<u64>::new(data).write(&memory::peek(&task, address)?)?;
        }
        p::PTRACE_POKETEXT | p::PTRACE_POKEDATA => memory::poke(&task, address, data)?,
        p::PTRACE_GETREGSET | p::PTRACE_SETREGSET => {
            let place = UserPtr::<Iovec>::new(data);
            let vector = place.read()?;
            let copy = if number == p::PTRACE_GETREGSET { regset::get } else { regset::put };
            let length = copy(&task, address, vector.iov_base, vector.iov_len)?;
            place.write(&Iovec { iov_base: vector.iov_base, iov_len: length })?;
        }
        p::PTRACE_SETOPTIONS => info::set_options(&task, data)?,
        p::PTRACE_GETEVENTMSG => UserPtr::<u64>::new(data).write(&info::event_message(&task))?,
        p::PTRACE_GETSIGINFO => UserPtr::<SigInfo>::new(data).write(&info::siginfo(&task)?)?,
        p::PTRACE_SETSIGINFO => info::set_siginfo(&task, UserPtr::<SigInfo>::new(data).read()?)?,
        p::PTRACE_PEEKSIGINFO => return info::peek_siginfo(&task, UserPtr::new(address), data),
        p::PTRACE_GETSIGMASK => UserPtr::<u64>::new(data).write(&info::blocked(&task, address)?)?,
        p::PTRACE_SETSIGMASK => info::set_blocked(&task, address, UserPtr::new(data))?,
        p::PTRACE_GET_SYSCALL_INFO => return info::syscall_info(&task, address, data),
        p::PTRACE_GET_RSEQ_CONFIGURATION => return info::rseq(&task, address, data),
        p::PTRACE_SECCOMP_GET_METADATA => return info::seccomp_metadata(&task, address, data),
        p::PTRACE_SECCOMP_GET_FILTER => return info::seccomp_filter(&task, address, data),
        _ => return Err(Errno::EIO),
    }
    Ok(0)
}
