//! Linux's words and layouts for AArch64: numbers, flags and structures that user programs see. No policy.
#![no_std]
#![forbid(unsafe_code)]

pub mod errno;

pub use errno::Errno;
