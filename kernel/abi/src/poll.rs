//! `poll(2)`, `select(2)`, `epoll(7)`, `eventfd(2)`.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    POLLIN: u32 = 0x1;
    POLLPRI: u32 = 0x2;
    POLLOUT: u32 = 0x4;
    POLLERR: u32 = 0x8;
    POLLHUP: u32 = 0x10;
    POLLNVAL: u32 = 0x20;
    POLLRDNORM: u32 = 0x40;
    POLLRDBAND: u32 = 0x80;
    POLLWRNORM: u32 = 0x100;
    POLLWRBAND: u32 = 0x200;
    POLLMSG: u32 = 0x400;
    POLLRDHUP: u32 = 0x2000;
    EPOLL_CLOEXEC: u32 = 0o2000000;
    EPOLL_CTL_ADD: i32 = 1;
    EPOLL_CTL_DEL: i32 = 2;
    EPOLL_CTL_MOD: i32 = 3;
    EPOLLIN: u32 = 0x1;
    EPOLLPRI: u32 = 0x2;
    EPOLLOUT: u32 = 0x4;
    EPOLLERR: u32 = 0x8;
    EPOLLHUP: u32 = 0x10;
    EPOLLNVAL: u32 = 0x20;
    EPOLLRDNORM: u32 = 0x40;
    EPOLLRDBAND: u32 = 0x80;
    EPOLLWRNORM: u32 = 0x100;
    EPOLLWRBAND: u32 = 0x200;
    EPOLLMSG: u32 = 0x400;
    EPOLLRDHUP: u32 = 0x2000;
    EPOLLEXCLUSIVE: u32 = 1 << 28;
    EPOLLWAKEUP: u32 = 1 << 29;
    EPOLLONESHOT: u32 = 1 << 30;
    EPOLLET: u32 = 1 << 31;
    EFD_SEMAPHORE: u32 = 1;
    EFD_NONBLOCK: u32 = 0o4000;
    EFD_CLOEXEC: u32 = 0o2000000;
    /// Bits in an `fd_set`.
    FD_SETSIZE: usize = 1024;
}

layout! {
    /// `struct pollfd`.
    Pollfd { fd: i32, events: i16, revents: i16, }
    /// `struct epoll_event` of arm64, which is not packed.
    EpollEvent { events: u32, _pad: u32, data: u64, }
}
