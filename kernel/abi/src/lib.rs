//! Linux's words and layouts for AArch64: numbers, flags and structures that user programs see. No policy.
#![no_std]
#![forbid(unsafe_code)]

pub mod capability;
pub mod errno;
pub mod fcntl;
pub mod futex;
pub mod info;
pub mod mman;
pub mod nr;
pub mod poll;
pub mod resource;
pub mod sched;
pub mod signal;
pub mod stat;
pub mod time;
pub mod tty;
pub mod wait;

pub use errno::Errno;
