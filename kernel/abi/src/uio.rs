//! `readv(2)`: scattered buffers.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    /// More vectors than this are EINVAL.
    UIO_MAXIOV: usize = 1024;
    /// Linux `MAX_RW_COUNT`: no read or write moves more at once.
    MAX_RW_COUNT: usize = 0x7fff_f000;
}

layout! {
    /// `struct iovec`.
    Iovec { iov_base: u64, iov_len: u64, }
}
