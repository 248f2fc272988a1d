//! The signal frame of arm64: `struct rt_sigframe` is a `siginfo_t` (128 bytes) and a `struct ucontext`, whose
//! `sigcontext` ends in 4096 bytes of records, each with a magic and a size, closed by a zero record
//! (`arch/arm64/include/uapi/asm/sigcontext.h`). kcore encodes it by these offsets; user programs find it by them.

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    FPSIMD_MAGIC: u32 = 0x4650_8001;
    ESR_MAGIC: u32 = 0x4553_5201;
    EXTRA_MAGIC: u32 = 0x4558_5401;
    SVE_MAGIC: u32 = 0x5356_4501;
    /// Bytes of `sigcontext.__reserved`.
    SIGCONTEXT_RESERVED: usize = 4096;
    /// `uc_sigmask` from the start of `struct ucontext`: after flags, link and `uc_stack`.
    UC_SIGMASK_OFFSET: usize = 40;
    /// `uc_mcontext`: after 128 bytes of mask, 16-aligned.
    UC_MCONTEXT_OFFSET: usize = 176;
    /// `__reserved` from the start of `struct sigcontext`, 16-aligned.
    SIGCONTEXT_RESERVED_OFFSET: usize = 288;
    /// Bytes of `struct ucontext`.
    UCONTEXT_SIZE: usize = UC_MCONTEXT_OFFSET + SIGCONTEXT_RESERVED_OFFSET + SIGCONTEXT_RESERVED;
    MINSIGSTKSZ: usize = 5120;
    SIGSTKSZ: usize = 16384;
}

layout! {
    /// `struct _aarch64_ctx`: head of each record.
    Aarch64Ctx { magic: u32, size: u32, }
    /// `struct fpsimd_context`, 528 bytes.
    FpsimdContext { head: Aarch64Ctx, fpsr: u32, fpcr: u32, vregs: [[u64; 2]; 32], }
    /// `struct esr_context`.
    EsrContext { head: Aarch64Ctx, esr: u64, }
    /// `struct sigcontext` up to `__reserved`, without the 8 bytes that align it.
    SigcontextRegisters { fault_address: u64, regs: [u64; 31], sp: u64, pc: u64, pstate: u64, }
}
