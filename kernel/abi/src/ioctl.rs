//! `ioctl(2)`: how request numbers are made (`include/uapi/asm-generic/ioctl.h`), and those of block devices.
//! The terminal's are in [`crate::tty`].

use crate::fcntl::consts;

/// Data goes neither way.
pub const _IOC_NONE: u32 = 0;
/// The program writes, the kernel reads.
pub const _IOC_WRITE: u32 = 1;
/// The kernel writes, the program reads.
pub const _IOC_READ: u32 = 2;

/// A request number: direction in bits 30 and 31, size in 16 to 29, type in 8 to 15, number in 0 to 7.
pub const fn _ioc(direction: u32, kind: u8, number: u8, size: usize) -> u32 {
    direction << 30 | ((size & 0x3fff) as u32) << 16 | (kind as u32) << 8 | number as u32
}

consts! {
    BLKROSET: u32 = 0x125d;
    BLKROGET: u32 = 0x125e;
    BLKRRPART: u32 = 0x125f;
    BLKGETSIZE: u32 = 0x1260;
    BLKFLSBUF: u32 = 0x1261;
    BLKRASET: u32 = 0x1262;
    BLKRAGET: u32 = 0x1263;
    BLKSSZGET: u32 = 0x1268;
    BLKBSZGET: u32 = _ioc(_IOC_READ, 0x12, 112, 8);
    BLKBSZSET: u32 = _ioc(_IOC_WRITE, 0x12, 113, 8);
    BLKGETSIZE64: u32 = _ioc(_IOC_READ, 0x12, 114, 8);
    BLKDISCARD: u32 = 0x1277;
    BLKIOMIN: u32 = 0x1278;
    BLKIOOPT: u32 = 0x1279;
    BLKALIGNOFF: u32 = 0x127a;
    BLKPBSZGET: u32 = 0x127b;
    FIOQSIZE: u32 = 0x5460;
    FIFREEZE: u32 = _ioc(_IOC_READ | _IOC_WRITE, b'X', 119, 4);
    FITHAW: u32 = _ioc(_IOC_READ | _IOC_WRITE, b'X', 120, 4);
    FS_IOC_GETFLAGS: u32 = _ioc(_IOC_READ, b'f', 1, 8);
    FS_IOC_SETFLAGS: u32 = _ioc(_IOC_WRITE, b'f', 2, 8);
    FICLONE: u32 = _ioc(_IOC_WRITE, 0x94, 9, 4);
    NS_GET_USERNS: u32 = 0xb701;
    NS_GET_PARENT: u32 = 0xb702;
    NS_GET_NSTYPE: u32 = 0xb703;
    NS_GET_OWNER_UID: u32 = 0xb704;
    RNDGETENTCNT: u32 = _ioc(_IOC_READ, b'R', 0, 4);
    RNDADDTOENTCNT: u32 = _ioc(_IOC_WRITE, b'R', 1, 4);
    RNDADDENTROPY: u32 = _ioc(_IOC_WRITE, b'R', 3, 8);
    VT_GETSTATE: u32 = 0x5603;
    KDGKBTYPE: u32 = 0x4b33;
    KDGETMODE: u32 = 0x4b3b;
}
