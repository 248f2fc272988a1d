//! `elf(5)`: the values that exec decides by. The headers themselves are parsed with `goblin` in kcore.

use crate::fcntl::consts;

consts! {
    ET_REL: u16 = 1;
    ET_EXEC: u16 = 2;
    ET_DYN: u16 = 3;
    ET_CORE: u16 = 4;
    EM_AARCH64: u16 = 183;
    ELFCLASS64: u8 = 2;
    ELFDATA2LSB: u8 = 1;
    EV_CURRENT: u8 = 1;
    PT_NULL: u32 = 0;
    PT_LOAD: u32 = 1;
    PT_DYNAMIC: u32 = 2;
    PT_INTERP: u32 = 3;
    PT_NOTE: u32 = 4;
    PT_PHDR: u32 = 6;
    PT_TLS: u32 = 7;
    PT_GNU_EH_FRAME: u32 = 0x6474_e550;
    PT_GNU_STACK: u32 = 0x6474_e551;
    PT_GNU_RELRO: u32 = 0x6474_e552;
    PT_GNU_PROPERTY: u32 = 0x6474_e553;
    PF_X: u32 = 1;
    PF_W: u32 = 2;
    PF_R: u32 = 4;
    NT_PRSTATUS: u32 = 1;
    NT_PRFPREG: u32 = 2;
    NT_PRPSINFO: u32 = 3;
    NT_AUXV: u32 = 6;
    NT_SIGINFO: u32 = 0x5349_4749;
    NT_FILE: u32 = 0x4649_4c45;
    NT_ARM_TLS: u32 = 0x401;
    NT_ARM_HW_BREAK: u32 = 0x402;
    NT_ARM_HW_WATCH: u32 = 0x403;
    NT_ARM_SYSTEM_CALL: u32 = 0x404;
    NT_ARM_PAC_MASK: u32 = 0x406;
}
