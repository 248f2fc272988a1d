//! Calls that do little: the way into the kernel and back.

use std::hint::black_box;

use super::Row;
use crate::meter::Meter;
use crate::sys::{self, Result, call};

pub const ROWS: &[Row] = &[
    Row { name: "null", run: null },
    Row { name: "clock_gettime", run: clock_gettime },
    Row { name: "sigaction", run: sigaction },
    Row { name: "signal", run: signal },
    Row { name: "futex_wake", run: futex_wake },
    Row { name: "unshare_uts", run: unshare_uts },
];

/// getppid.
fn null(meter: &mut Meter) -> Result<()> {
    meter.repeat(|| call(sys::SYS_getppid, []).map(drop))
}

/// clock_gettime(CLOCK_MONOTONIC) through libc, which uses the vDSO.
fn clock_gettime(meter: &mut Meter) -> Result<()> {
    meter.repeat(|| {
        black_box(sys::now());
        Ok(())
    })
}

/// Asking for the action of a signal.
fn sigaction(meter: &mut Meter) -> Result<()> {
    let mut old = [0_u64; 4];
    meter.repeat(|| call(sys::SYS_rt_sigaction, [sys::SIGUSR1 as usize, 0, old.as_mut_ptr().addr(), 8]).map(drop))
}

/// kill to oneself, the handler, and the return from it.
fn signal(meter: &mut Meter) -> Result<()> {
    sys::handle(sys::SIGUSR1)?;
    let pid = call(sys::SYS_getpid, [])?;
    meter.repeat(|| call(sys::SYS_kill, [pid, sys::SIGUSR1 as usize]).map(drop))
}

/// FUTEX_WAKE of a word on which nobody waits.
fn futex_wake(meter: &mut Meter) -> Result<()> {
    let word = 0_u32;
    let operation = (sys::FUTEX_WAKE | sys::FUTEX_PRIVATE_FLAG) as usize;
    meter.repeat(|| call(sys::SYS_futex, [(&raw const word).addr(), operation, 1]).map(drop))
}

/// A new UTS namespace, and the end of the one before.
fn unshare_uts(meter: &mut Meter) -> Result<()> {
    meter.repeat(|| call(sys::SYS_unshare, [sys::CLONE_NEWUTS as usize]).map(drop))
}
