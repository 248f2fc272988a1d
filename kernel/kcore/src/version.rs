//! What the kernel calls itself: uname(2), `/proc/version`.
//!
//! Programs compare the release with the kernel versions that they know (glibc refuses to start below 3.7), so it names
//! the Linux whose interface this is; the version string says who really answers.

/// `sysname`: the interface.
pub const SYSNAME: &str = "Linux";
/// `release`.
pub const RELEASE: &str = "6.1.0-drupe";
/// `version`.
pub const VERSION: &str = concat!("#1 SMP PREEMPT Drupe ", env!("CARGO_PKG_VERSION"));
/// `machine`.
pub const MACHINE: &str = "aarch64";
/// Who built it, for `/proc/version`.
pub const BUILDER: &str = "drupe@rust";
/// With what.
pub const COMPILER: &str = "rustc, LLD";
