//! signalfd(2): signals that are read instead of handled.
//!
//! The file holds a set and nothing else: whoever reads takes from its own pending signals, as in Linux. Reading waits
//! with sigtimedwait's means; polling watches the process's queue of arrivals.

use alloc::sync::Arc;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::fcntl::O_RDWR;
use abi::notify::SignalfdSiginfo;
use abi::poll::{POLLIN, POLLRDNORM};
use abi::signal as s;
use abi::signal::SigInfo;
use zerocopy::{FromZeros, IntoBytes};

use super::file::{File, FileOps, OffsetRule};
use super::libfs::shared;
use super::poll::{PollTable, watch_all};
use super::pseudo;
use crate::Result;
use crate::io::IoDst;
use crate::signal::{self, SigSet};
use crate::task::current;

/// The file's set.
pub struct SignalFd(AtomicU64);

impl SignalFd {
    /// Replaces the set: signalfd(2) on a descriptor that exists.
    pub fn set_mask(&self, set: SigSet) {
        self.0.store(set, Ordering::SeqCst);
    }

    fn mask(&self) -> SigSet {
        self.0.load(Ordering::SeqCst)
    }
}

/// A new signalfd's file. `flags` is O_NONBLOCK or nothing.
pub fn new_file(set: SigSet, flags: u32) -> Arc<File> {
    pseudo::anon_file("[signalfd]", shared(SignalFd(AtomicU64::new(set))), O_RDWR | flags)
}

impl FileOps for SignalFd {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        const SIZE: usize = size_of::<SignalfdSiginfo>();
        if dst.remaining() < SIZE {
            return Err(Errno::EINVAL);
        }
        // A deadline in the past does not wait.
        let deadline_ns = if file.is_nonblocking() { 0 } else { u64::MAX };
        let mut info = signal::wait_for(self.mask(), deadline_ns)?;
        let mut done = 0;
        loop {
            done += dst.put(describe(&info).as_bytes())?;
            if dst.remaining() < SIZE {
                return Ok(done);
            }
            match signal::take_from_set(self.mask()) {
                Some(next) => info = next,
                None => return Ok(done),
            }
        }
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        let task = current();
        watch_all(table, &[&task.group.signals.arrivals]);
        let pending = task.signals.pending_mask() | task.group.signals.pending_mask();
        if pending & self.mask() != 0 { POLLIN | POLLRDNORM } else { 0 }
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn Write) {
        // The reader's buffer takes everything.
        let _ = writeln!(out, "sigmask:\t{:016x}", self.mask());
    }
}

/// As signalfd_copyinfo fills the structure: which members count depends on who sent the signal.
fn describe(info: &SigInfo) -> SignalfdSiginfo {
    let words: [u32; 4] = {
        let bytes = info.as_bytes();
        core::array::from_fn(|n| u32::from_le_bytes(bytes[16 + 4 * n..20 + 4 * n].try_into().expect("four bytes")))
    };
    let value = u64::from(words[2]) | u64::from(words[3]) << 32;
    let mut out = SignalfdSiginfo::new_zeroed();
    out.ssi_signo = info.signal();
    out.ssi_code = info.code();
    match (info.signal(), info.code()) {
        (_, s::SI_TIMER) => {
            out.ssi_tid = words[0];
            out.ssi_overrun = words[1];
            out.ssi_ptr = value;
            out.ssi_int = words[2].cast_signed();
        }
        (s::SIGCHLD, code) if code > 0 => {
            out.ssi_pid = words[0];
            out.ssi_uid = words[1];
            out.ssi_status = words[2].cast_signed();
            let (user, system) = info.times();
            (out.ssi_utime, out.ssi_stime) = (user.cast_unsigned(), system.cast_unsigned());
        }
        (s::SIGSEGV | s::SIGBUS | s::SIGILL | s::SIGFPE | s::SIGTRAP, code) if code > 0 => {
            out.ssi_addr = info.address();
        }
        (_, code) => {
            out.ssi_pid = words[0];
            out.ssi_uid = words[1];
            // sigqueue(3) and its like bring a value.
            if code < 0 {
                out.ssi_ptr = value;
                out.ssi_int = words[2].cast_signed();
            }
        }
    }
    out
}
