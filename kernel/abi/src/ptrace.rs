//! `ptrace(2)`: requests, options, and the register sets of arm64 (`arch/arm64/include/uapi/asm/ptrace.h`).

use crate::fcntl::consts;
use crate::time::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    PTRACE_TRACEME: u32 = 0;
    PTRACE_PEEKTEXT: u32 = 1;
    PTRACE_PEEKDATA: u32 = 2;
    PTRACE_PEEKUSR: u32 = 3;
    PTRACE_POKETEXT: u32 = 4;
    PTRACE_POKEDATA: u32 = 5;
    PTRACE_POKEUSR: u32 = 6;
    PTRACE_CONT: u32 = 7;
    PTRACE_KILL: u32 = 8;
    PTRACE_SINGLESTEP: u32 = 9;
    PTRACE_ATTACH: u32 = 16;
    PTRACE_DETACH: u32 = 17;
    PTRACE_SYSCALL: u32 = 24;
    PTRACE_SYSEMU: u32 = 31;
    PTRACE_SYSEMU_SINGLESTEP: u32 = 32;
    PTRACE_SETOPTIONS: u32 = 0x4200;
    PTRACE_GETEVENTMSG: u32 = 0x4201;
    PTRACE_GETSIGINFO: u32 = 0x4202;
    PTRACE_SETSIGINFO: u32 = 0x4203;
    PTRACE_GETREGSET: u32 = 0x4204;
    PTRACE_SETREGSET: u32 = 0x4205;
    PTRACE_SEIZE: u32 = 0x4206;
    PTRACE_INTERRUPT: u32 = 0x4207;
    PTRACE_LISTEN: u32 = 0x4208;
    PTRACE_PEEKSIGINFO: u32 = 0x4209;
    PTRACE_PEEKSIGINFO_SHARED: u32 = 1;
    PTRACE_GETSIGMASK: u32 = 0x420a;
    PTRACE_SETSIGMASK: u32 = 0x420b;
    PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;
    PTRACE_SECCOMP_GET_METADATA: u32 = 0x420d;
    PTRACE_GET_SYSCALL_INFO: u32 = 0x420e;
    PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
    PTRACE_O_TRACESYSGOOD: u32 = 1;
    PTRACE_O_TRACEFORK: u32 = 1 << 1;
    PTRACE_O_TRACEVFORK: u32 = 1 << 2;
    PTRACE_O_TRACECLONE: u32 = 1 << 3;
    PTRACE_O_TRACEEXEC: u32 = 1 << 4;
    PTRACE_O_TRACEVFORKDONE: u32 = 1 << 5;
    PTRACE_O_TRACEEXIT: u32 = 1 << 6;
    PTRACE_O_TRACESECCOMP: u32 = 1 << 7;
    PTRACE_O_EXITKILL: u32 = 1 << 20;
    PTRACE_O_SUSPEND_SECCOMP: u32 = 1 << 21;
    PTRACE_O_MASK: u32 = 0xff | PTRACE_O_EXITKILL | PTRACE_O_SUSPEND_SECCOMP;
    PTRACE_EVENT_FORK: u32 = 1;
    PTRACE_EVENT_VFORK: u32 = 2;
    PTRACE_EVENT_CLONE: u32 = 3;
    PTRACE_EVENT_EXEC: u32 = 4;
    PTRACE_EVENT_VFORK_DONE: u32 = 5;
    PTRACE_EVENT_EXIT: u32 = 6;
    PTRACE_EVENT_SECCOMP: u32 = 7;
    PTRACE_EVENT_STOP: u32 = 128;
    PTRACE_SYSCALL_INFO_NONE: u8 = 0;
    PTRACE_SYSCALL_INFO_ENTRY: u8 = 1;
    PTRACE_SYSCALL_INFO_EXIT: u8 = 2;
    PTRACE_SYSCALL_INFO_SECCOMP: u8 = 3;
}

layout! {
    /// `struct user_pt_regs`, 272 bytes (NT_PRSTATUS).
    UserPtRegs { regs: [u64; 31], sp: u64, pc: u64, pstate: u64, }
    /// `struct user_fpsimd_state`, 528 bytes (NT_PRFPREG): V0 to V31 as pairs of words, low word first.
    UserFpsimdState { vregs: [[u64; 2]; 32], fpsr: u32, fpcr: u32, __reserved: [u32; 2], }
    /// `struct ptrace_peeksiginfo_args`.
    PtracePeeksiginfoArgs { off: u64, flags: u32, nr: i32, }
    /// `struct ptrace_rseq_configuration`, 24 bytes.
    PtraceRseqConfiguration { rseq_abi_pointer: u64, rseq_abi_size: u32, signature: u32, flags: u32, pad: u32, }
    /// `struct ptrace_syscall_info`, 88 bytes; `data` is the union: number and six arguments, or value and is-error.
    PtraceSyscallInfo { op: u8, _pad: [u8; 3], arch: u32, instruction_pointer: u64, stack_pointer: u64, data: [u64; 8], }
}
