//! `futex(2)`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::fcntl::consts;
use crate::time::layout;

consts! {
    FUTEX_WAIT: u32 = 0;
    FUTEX_WAKE: u32 = 1;
    FUTEX_FD: u32 = 2;
    FUTEX_REQUEUE: u32 = 3;
    FUTEX_CMP_REQUEUE: u32 = 4;
    FUTEX_WAKE_OP: u32 = 5;
    FUTEX_LOCK_PI: u32 = 6;
    FUTEX_UNLOCK_PI: u32 = 7;
    FUTEX_TRYLOCK_PI: u32 = 8;
    FUTEX_WAIT_BITSET: u32 = 9;
    FUTEX_WAKE_BITSET: u32 = 10;
    FUTEX_WAIT_REQUEUE_PI: u32 = 11;
    FUTEX_CMP_REQUEUE_PI: u32 = 12;
    FUTEX_LOCK_PI2: u32 = 13;
    FUTEX_CMD_MASK: u32 = !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    FUTEX_PRIVATE_FLAG: u32 = 128;
    FUTEX_CLOCK_REALTIME: u32 = 256;
    FUTEX_BITSET_MATCH_ANY: u32 = u32::MAX;
    FUTEX_WAITERS: u32 = 0x8000_0000;
    FUTEX_OWNER_DIED: u32 = 0x4000_0000;
    FUTEX_TID_MASK: u32 = 0x3fff_ffff;
    FUTEX_OP_SET: u32 = 0;
    FUTEX_OP_ADD: u32 = 1;
    FUTEX_OP_OR: u32 = 2;
    FUTEX_OP_ANDN: u32 = 3;
    FUTEX_OP_XOR: u32 = 4;
    FUTEX_OP_OPARG_SHIFT: u32 = 8;
    FUTEX_OP_CMP_EQ: u32 = 0;
    FUTEX_OP_CMP_NE: u32 = 1;
    FUTEX_OP_CMP_LT: u32 = 2;
    FUTEX_OP_CMP_LE: u32 = 3;
    FUTEX_OP_CMP_GT: u32 = 4;
    FUTEX_OP_CMP_GE: u32 = 5;
    FUTEX_32: u32 = 2;
    FUTEX_WAITV_MAX: u32 = 128;
}

layout! {
    /// `struct futex_waitv`, 24 bytes.
    FutexWaitv { val: u64, uaddr: u64, flags: u32, reserved: u32, }
}
