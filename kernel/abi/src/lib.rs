//! Linux's words and layouts for AArch64: numbers, flags and structures that user programs see. No policy.
#![no_std]
#![forbid(unsafe_code)]

pub mod auxv;
pub mod capability;
pub mod elf;
pub mod errno;
pub mod fcntl;
pub mod futex;
pub mod info;
pub mod ioctl;
pub mod ioprio;
pub mod mman;
pub mod mount;
pub mod notify;
pub mod nr;
pub mod poll;
pub mod prctl;
pub mod process;
pub mod ptrace;
pub mod reboot;
pub mod resource;
pub mod sched;
pub mod signal;
pub mod socket;
pub mod stat;
pub mod time;
pub mod tty;
pub mod ucontext;
pub mod uio;
pub mod wait;

pub use errno::Errno;
