//! A program to be debugged: `abitest helper:debuggee`. What gdb's session in `tools/tests/scripts/gdb.sh` stops at has a name of its
//! own and is not inlined.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::*;

/// What the session watches.
static DEBUGGEE_COUNTER: AtomicU32 = AtomicU32::new(0);

/// Calls three deep, counts to three, forks a child that leaves with 3, and leaves with 4.
#[inline(never)]
pub fn debuggee_main() -> i32 {
    for round in 1..=3 {
        std::hint::black_box(debuggee_outer(round));
    }
    let child = child(|| std::hint::black_box(debuggee_child()));
    let from_child = child.and_then(status).unwrap_or(90);
    from_child + std::hint::black_box(debuggee_last())
}

#[inline(never)]
fn debuggee_outer(round: u32) -> u32 {
    std::hint::black_box(debuggee_inner(round)) + 1
}

#[inline(never)]
fn debuggee_inner(round: u32) -> u32 {
    DEBUGGEE_COUNTER.store(round, Ordering::SeqCst);
    std::hint::black_box(DEBUGGEE_COUNTER.load(Ordering::SeqCst))
}

#[inline(never)]
fn debuggee_child() -> i32 {
    std::hint::black_box(3)
}

#[inline(never)]
fn debuggee_last() -> i32 {
    std::hint::black_box(1)
}
