//! `uname(2)`, `sysinfo(2)`, `syslog(2)`, `getrandom(2)`.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    SYSLOG_ACTION_CLOSE: i32 = 0;
    SYSLOG_ACTION_OPEN: i32 = 1;
    SYSLOG_ACTION_READ: i32 = 2;
    SYSLOG_ACTION_READ_ALL: i32 = 3;
    SYSLOG_ACTION_READ_CLEAR: i32 = 4;
    SYSLOG_ACTION_CLEAR: i32 = 5;
    SYSLOG_ACTION_CONSOLE_OFF: i32 = 6;
    SYSLOG_ACTION_CONSOLE_ON: i32 = 7;
    SYSLOG_ACTION_CONSOLE_LEVEL: i32 = 8;
    SYSLOG_ACTION_SIZE_UNREAD: i32 = 9;
    SYSLOG_ACTION_SIZE_BUFFER: i32 = 10;
    GRND_NONBLOCK: u32 = 1;
    GRND_RANDOM: u32 = 2;
    GRND_INSECURE: u32 = 4;
}

layout! {
    /// `struct sysinfo` of 64-bit Linux, 112 bytes.
    Sysinfo { uptime: i64, loads: [u64; 3], totalram: u64, freeram: u64, sharedram: u64, bufferram: u64, totalswap: u64,
        freeswap: u64, procs: u16, _pad: [u16; 3], totalhigh: u64, freehigh: u64, mem_unit: u32, _pad2: u32, }
}

/// `struct new_utsname`: six names of 64 bytes and a NUL.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Utsname {
    /// `sysname`, `nodename`, `release`, `version`, `machine`, `domainname`.
    pub fields: [[u8; 65]; 6],
}

#[cfg(test)]
mod tests {
    use super::{Sysinfo, Utsname};

    #[test]
    fn layouts_have_linux_sizes() {
        assert_eq!((size_of::<Sysinfo>(), size_of::<Utsname>()), (112, 390));
    }
}
