//! `getauxval(3)`: what exec leaves above the environment (`include/uapi/linux/auxvec.h`, `arch/arm64/.../hwcap.h`).

use crate::fcntl::consts;

consts! {
    AT_NULL: u64 = 0;
    AT_IGNORE: u64 = 1;
    AT_EXECFD: u64 = 2;
    AT_PHDR: u64 = 3;
    AT_PHENT: u64 = 4;
    AT_PHNUM: u64 = 5;
    AT_PAGESZ: u64 = 6;
    AT_BASE: u64 = 7;
    AT_FLAGS: u64 = 8;
    AT_ENTRY: u64 = 9;
    AT_NOTELF: u64 = 10;
    AT_UID: u64 = 11;
    AT_EUID: u64 = 12;
    AT_GID: u64 = 13;
    AT_EGID: u64 = 14;
    AT_PLATFORM: u64 = 15;
    AT_HWCAP: u64 = 16;
    AT_CLKTCK: u64 = 17;
    AT_SECURE: u64 = 23;
    AT_BASE_PLATFORM: u64 = 24;
    AT_RANDOM: u64 = 25;
    AT_HWCAP2: u64 = 26;
    AT_RSEQ_FEATURE_SIZE: u64 = 27;
    AT_RSEQ_ALIGN: u64 = 28;
    AT_EXECFN: u64 = 31;
    AT_SYSINFO_EHDR: u64 = 33;
    AT_MINSIGSTKSZ: u64 = 51;
    HWCAP_FP: u64 = 1 << 0;
    HWCAP_ASIMD: u64 = 1 << 1;
    HWCAP_EVTSTRM: u64 = 1 << 2;
    HWCAP_AES: u64 = 1 << 3;
    HWCAP_PMULL: u64 = 1 << 4;
    HWCAP_SHA1: u64 = 1 << 5;
    HWCAP_SHA2: u64 = 1 << 6;
    HWCAP_CRC32: u64 = 1 << 7;
    HWCAP_ATOMICS: u64 = 1 << 8;
    HWCAP_FPHP: u64 = 1 << 9;
    HWCAP_ASIMDHP: u64 = 1 << 10;
    /// Only when reads of the identification registers from EL0 are emulated.
    HWCAP_CPUID: u64 = 1 << 11;
    HWCAP_ASIMDRDM: u64 = 1 << 12;
}
