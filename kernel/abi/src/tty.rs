//! `termios(3)`, `ioctl_tty(2)`: flags and layouts of asm-generic.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    TCGETS: u32 = 0x5401;
    TCSETS: u32 = 0x5402;
    TCSETSW: u32 = 0x5403;
    TCSETSF: u32 = 0x5404;
    TCGETA: u32 = 0x5405;
    TCSETA: u32 = 0x5406;
    TCSETAW: u32 = 0x5407;
    TCSETAF: u32 = 0x5408;
    TCSBRK: u32 = 0x5409;
    TCXONC: u32 = 0x540a;
    TCFLSH: u32 = 0x540b;
    TIOCEXCL: u32 = 0x540c;
    TIOCNXCL: u32 = 0x540d;
    TIOCSCTTY: u32 = 0x540e;
    TIOCGPGRP: u32 = 0x540f;
    TIOCSPGRP: u32 = 0x5410;
    TIOCOUTQ: u32 = 0x5411;
    TIOCSTI: u32 = 0x5412;
    TIOCGWINSZ: u32 = 0x5413;
    TIOCSWINSZ: u32 = 0x5414;
    TIOCMGET: u32 = 0x5415;
    TIOCGSOFTCAR: u32 = 0x5419;
    TIOCSSOFTCAR: u32 = 0x541a;
    FIONREAD: u32 = 0x541b;
    TIOCCONS: u32 = 0x541d;
    TIOCPKT: u32 = 0x5420;
    TIOCGPKT: u32 = 0x8004_5438;
    TIOCPKT_DATA: u32 = 0;
    TIOCPKT_FLUSHREAD: u32 = 1;
    TIOCPKT_FLUSHWRITE: u32 = 2;
    TIOCPKT_STOP: u32 = 4;
    TIOCPKT_START: u32 = 8;
    TIOCPKT_NOSTOP: u32 = 16;
    TIOCPKT_DOSTOP: u32 = 32;
    TIOCPKT_IOCTL: u32 = 64;
    FIONBIO: u32 = 0x5421;
    TIOCNOTTY: u32 = 0x5422;
    TIOCSETD: u32 = 0x5423;
    TIOCGETD: u32 = 0x5424;
    TCSBRKP: u32 = 0x5425;
    TIOCSBRK: u32 = 0x5427;
    TIOCCBRK: u32 = 0x5428;
    TIOCGSID: u32 = 0x5429;
    TCGETS2: u32 = 0x802c_542a;
    TCSETS2: u32 = 0x402c_542b;
    TCSETSW2: u32 = 0x402c_542c;
    TCSETSF2: u32 = 0x402c_542d;
    TIOCGPTN: u32 = 0x8004_5430;
    TIOCSPTLCK: u32 = 0x4004_5431;
    TIOCGDEV: u32 = 0x8004_5432;
    TIOCGPTLCK: u32 = 0x8004_5439;
    TIOCGEXCL: u32 = 0x8004_5440;
    TIOCGPTPEER: u32 = 0x5441;
    FIOASYNC: u32 = 0x5452;
    FIOCLEX: u32 = 0x5451;
    FIONCLEX: u32 = 0x5450;
    TCIFLUSH: u64 = 0;
    TCOFLUSH: u64 = 1;
    TCIOFLUSH: u64 = 2;
    TCOOFF: u64 = 0;
    TCOON: u64 = 1;
    TCIOFF: u64 = 2;
    TCION: u64 = 3;
    IGNBRK: u32 = 0o1;
    BRKINT: u32 = 0o2;
    IGNPAR: u32 = 0o4;
    PARMRK: u32 = 0o10;
    INPCK: u32 = 0o20;
    ISTRIP: u32 = 0o40;
    INLCR: u32 = 0o100;
    IGNCR: u32 = 0o200;
    ICRNL: u32 = 0o400;
    IUCLC: u32 = 0o1000;
    IXON: u32 = 0o2000;
    IXANY: u32 = 0o4000;
    IXOFF: u32 = 0o10000;
    IMAXBEL: u32 = 0o20000;
    IUTF8: u32 = 0o40000;
    OPOST: u32 = 0o1;
    OLCUC: u32 = 0o2;
    ONLCR: u32 = 0o4;
    OCRNL: u32 = 0o10;
    ONOCR: u32 = 0o20;
    ONLRET: u32 = 0o40;
    TABDLY: u32 = 0o14000;
    XTABS: u32 = 0o14000;
    CBAUD: u32 = 0o10017;
    B9600: u32 = 0o15;
    B38400: u32 = 0o17;
    B115200: u32 = 0o10002;
    CSIZE: u32 = 0o60;
    CS8: u32 = 0o60;
    CREAD: u32 = 0o200;
    HUPCL: u32 = 0o2000;
    CLOCAL: u32 = 0o4000;
    ISIG: u32 = 0o1;
    ICANON: u32 = 0o2;
    XCASE: u32 = 0o4;
    ECHO: u32 = 0o10;
    ECHOE: u32 = 0o20;
    ECHOK: u32 = 0o40;
    ECHONL: u32 = 0o100;
    NOFLSH: u32 = 0o200;
    TOSTOP: u32 = 0o400;
    ECHOCTL: u32 = 0o1000;
    ECHOPRT: u32 = 0o2000;
    ECHOKE: u32 = 0o4000;
    FLUSHO: u32 = 0o10000;
    PENDIN: u32 = 0o40000;
    IEXTEN: u32 = 0o100000;
    EXTPROC: u32 = 0o200000;
    VINTR: usize = 0;
    VQUIT: usize = 1;
    VERASE: usize = 2;
    VKILL: usize = 3;
    VEOF: usize = 4;
    VTIME: usize = 5;
    VMIN: usize = 6;
    VSWTC: usize = 7;
    VSTART: usize = 8;
    VSTOP: usize = 9;
    VSUSP: usize = 10;
    VEOL: usize = 11;
    VREPRINT: usize = 12;
    VDISCARD: usize = 13;
    VWERASE: usize = 14;
    VLNEXT: usize = 15;
    VEOL2: usize = 16;
}

layout! {
    /// `struct winsize`.
    Winsize { ws_row: u16, ws_col: u16, ws_xpixel: u16, ws_ypixel: u16, }
    /// `struct ktermios`, which is `struct termios2`, 44 bytes; `struct termios` is its first 36.
    Termios { c_iflag: u32, c_oflag: u32, c_cflag: u32, c_lflag: u32, c_line: u8, c_cc: [u8; 19], c_ispeed: u32,
        c_ospeed: u32, }
    /// `struct termio`, System V's.
    Termio { c_iflag: u16, c_oflag: u16, c_cflag: u16, c_lflag: u16, c_line: u8, c_cc: [u8; 8], _pad: u8, }
}

/// Bytes of `struct termios`.
pub const TERMIOS_SIZE: usize = 36;

impl Termios {
    /// What a terminal starts with (Linux `tty_std_termios`).
    pub const STANDARD: Self = Self {
        c_iflag: ICRNL | IXON,
        c_oflag: OPOST | ONLCR,
        c_cflag: B38400 | CS8 | CREAD | HUPCL,
        c_lflag: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
        c_line: 0,
        // INTR ^C, QUIT ^\, ERASE DEL, KILL ^U, EOF ^D, TIME 0, MIN 1, SWTC, START ^Q, STOP ^S, SUSP ^Z, EOL,
        // REPRINT ^R, DISCARD ^O, WERASE ^W, LNEXT ^V, EOL2.
        c_cc: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
        c_ispeed: 38400,
        c_ospeed: 38400,
    };
}

#[cfg(test)]
mod tests {
    use super::{Termio, Termios, Winsize};

    #[test]
    fn layouts_have_linux_sizes() {
        assert_eq!((size_of::<Termios>(), size_of::<Winsize>(), size_of::<Termio>()), (44, 8, 18));
    }
}
