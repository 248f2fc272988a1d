//! `socket(2)`, `unix(7)`, `send(2)`: families, types, options and message headers.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    AF_UNSPEC: u16 = 0;
    AF_UNIX: u16 = 1;
    AF_INET: u16 = 2;
    AF_INET6: u16 = 10;
    AF_NETLINK: u16 = 16;
    AF_PACKET: u16 = 17;
    AF_VSOCK: u16 = 40;
    AF_MAX: u16 = 46;
    SOCK_STREAM: u32 = 1;
    SOCK_DGRAM: u32 = 2;
    SOCK_RAW: u32 = 3;
    SOCK_SEQPACKET: u32 = 5;
    SOCK_TYPE_MASK: u32 = 0xf;
    SOCK_NONBLOCK: u32 = 0o4000;
    SOCK_CLOEXEC: u32 = 0o2000000;
    SOL_SOCKET: u32 = 1;
    SO_DEBUG: u32 = 1;
    SO_REUSEADDR: u32 = 2;
    SO_TYPE: u32 = 3;
    SO_ERROR: u32 = 4;
    SO_DONTROUTE: u32 = 5;
    SO_BROADCAST: u32 = 6;
    SO_SNDBUF: u32 = 7;
    SO_RCVBUF: u32 = 8;
    SO_KEEPALIVE: u32 = 9;
    SO_OOBINLINE: u32 = 10;
    SO_PRIORITY: u32 = 12;
    SO_LINGER: u32 = 13;
    SO_REUSEPORT: u32 = 15;
    SO_PASSCRED: u32 = 16;
    SO_PEERCRED: u32 = 17;
    SO_RCVLOWAT: u32 = 18;
    SO_SNDLOWAT: u32 = 19;
    SO_RCVTIMEO: u32 = 20;
    SO_SNDTIMEO: u32 = 21;
    SO_BINDTODEVICE: u32 = 25;
    SO_TIMESTAMP: u32 = 29;
    SO_ACCEPTCONN: u32 = 30;
    SO_PEERSEC: u32 = 31;
    SO_SNDBUFFORCE: u32 = 32;
    SO_RCVBUFFORCE: u32 = 33;
    SO_PASSSEC: u32 = 34;
    SO_PROTOCOL: u32 = 38;
    SO_DOMAIN: u32 = 39;
    SO_PEERGROUPS: u32 = 59;
    SHUT_RD: u32 = 0;
    SHUT_WR: u32 = 1;
    SHUT_RDWR: u32 = 2;
    SCM_RIGHTS: i32 = 1;
    SCM_CREDENTIALS: i32 = 2;
    SCM_MAX_FD: usize = 253;
    MSG_OOB: u32 = 0x1;
    MSG_PEEK: u32 = 0x2;
    MSG_DONTROUTE: u32 = 0x4;
    MSG_CTRUNC: u32 = 0x8;
    MSG_TRUNC: u32 = 0x20;
    MSG_DONTWAIT: u32 = 0x40;
    MSG_EOR: u32 = 0x80;
    MSG_WAITALL: u32 = 0x100;
    MSG_NOSIGNAL: u32 = 0x4000;
    MSG_MORE: u32 = 0x8000;
    MSG_WAITFORONE: u32 = 0x1_0000;
    MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
    SOMAXCONN: u32 = 4096;
    /// Bytes that can be received.
    SIOCINQ: u32 = 0x541b;
    /// Bytes that the peer has not received.
    SIOCOUTQ: u32 = 0x5411;
    /// Bytes of `sun_path`.
    UNIX_PATH_MAX: usize = 108;
}

layout! {
    /// `struct user_msghdr`, 56 bytes.
    Msghdr { msg_name: u64, msg_namelen: i32, _pad: u32, msg_iov: u64, msg_iovlen: u64, msg_control: u64,
        msg_controllen: u64, msg_flags: u32, _pad2: u32, }
    /// `struct mmsghdr`.
    Mmsghdr { msg_hdr: Msghdr, msg_len: u32, _pad: u32, }
    /// `struct cmsghdr`; the data follows, padded to 8.
    Cmsghdr { cmsg_len: u64, cmsg_level: i32, cmsg_type: i32, }
    /// `struct ucred`.
    Ucred { pid: i32, uid: u32, gid: u32, }
    /// `struct linger`.
    Linger { l_onoff: i32, l_linger: i32, }
    /// `struct sockaddr_in`.
    SockaddrIn { sin_family: u16, sin_port: [u8; 2], sin_addr: [u8; 4], sin_zero: [u8; 8], }
    /// `struct sockaddr_in6`.
    SockaddrIn6 { sin6_family: u16, sin6_port: [u8; 2], sin6_flowinfo: u32, sin6_addr: [u8; 16], sin6_scope_id: u32, }
}

/// `struct sockaddr_un`, 110 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SockaddrUn {
    /// AF_UNIX.
    pub sun_family: u16,
    /// A path, or NUL and an abstract name.
    pub sun_path: [u8; UNIX_PATH_MAX],
}
