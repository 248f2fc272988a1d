//! `wait(2)`.

use crate::fcntl::consts;

consts! {
    WNOHANG: u32 = 1;
    WUNTRACED: u32 = 2;
    WSTOPPED: u32 = 2;
    WEXITED: u32 = 4;
    WCONTINUED: u32 = 8;
    WNOWAIT: u32 = 0x0100_0000;
    __WNOTHREAD: u32 = 0x2000_0000;
    __WALL: u32 = 0x4000_0000;
    __WCLONE: u32 = 0x8000_0000;
    P_ALL: u32 = 0;
    P_PID: u32 = 1;
    P_PGID: u32 = 2;
    P_PIDFD: u32 = 3;
}
