//! The hardware abstraction layer: the only island of `unsafe` in Drupe.
//!
//! One door, two architectures behind it. `aarch64` is the Raspberry Pi: boot, traps, MMU, context switch, user copy,
//! timer, inter-processor interrupts. `hosted` is the same API on a PC, what User-mode Linux is to Linux: simulated
//! frames and page tables, coroutines for contexts, a hand-cranked clock. It makes the real scheduler, fork, exec, wait
//! and fault code run under plain `cargo test`. The choice is made by `target_os`, so dispatch is static and free.
//!
//! Reading order: [`mem`] (physical frames), [`pte`] (page-table entries as data), [`mmu`] (address spaces), [`thread`]
//! (contexts and switching), [`trap`] (how the CPU enters the kernel), [`uaccess`] (touching user memory), [`sync`].
//!
//! What this layer does not do: policy. It never decides which thread runs, which page is mapped or what a call means;
//! it calls [`trap::Handlers`] for that.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

#[cfg(target_os = "none")]
#[path = "aarch64/mod.rs"]
mod arch;
#[cfg(not(target_os = "none"))]
#[path = "hosted/mod.rs"]
mod arch;

pub mod cpu;
pub mod debug;
pub mod global;
pub mod latency;
pub mod mem;
pub mod mmu;
pub mod owner;
pub mod pte;
pub mod sync;
pub mod thread;
pub mod timer;
pub mod trap;
pub mod uaccess;

#[cfg(target_os = "none")]
pub use arch::board;
#[cfg(not(target_os = "none"))]
pub use arch::hosted;

/// The largest number of CPUs that a board may have; per-CPU arrays have this length.
pub const MAX_CPUS: usize = 4;
