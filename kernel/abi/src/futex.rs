//! `futex(2)`.

use crate::fcntl::consts;

consts! {
    FUTEX_WAIT: u32 = 0;
    FUTEX_WAKE: u32 = 1;
    FUTEX_REQUEUE: u32 = 3;
    FUTEX_CMP_REQUEUE: u32 = 4;
    FUTEX_WAKE_OP: u32 = 5;
    FUTEX_WAIT_BITSET: u32 = 9;
    FUTEX_WAKE_BITSET: u32 = 10;
    FUTEX_PRIVATE_FLAG: u32 = 128;
    FUTEX_CLOCK_REALTIME: u32 = 256;
    FUTEX_BITSET_MATCH_ANY: u32 = u32::MAX;
    FUTEX_WAITERS: u32 = 0x8000_0000;
    FUTEX_OWNER_DIED: u32 = 0x4000_0000;
    FUTEX_TID_MASK: u32 = 0x3fff_ffff;
}
