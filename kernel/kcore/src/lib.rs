//! Every decision of the kernel: tasks, signals, scheduling, memory, files, namespaces, system calls. No `unsafe`.
//!
//! Principles:
//! * The rule is Linux's and is cited at the check (man page, or the Linux function that decides).
//! * Data lives inside its lock; the lock order is one list, [`sync::order`].
//! * There is one way to sleep, [`sync::WaitQueue`], and it names the task state.
//! * What comes from user space is an allegation: [`syscall`]'s argument types check it once at the border.
//! * Change of a process is prepare, validate, commit, with one named point of no return.
//! * The same code runs on the Pi and, under `cargo test`, on the hosted half of hal.
//!
//! Reading order: [`task`] (the process and its life, a file per verb), [`sched`], [`signal`], [`futex`], [`mm`], [`fs`], [`syscall`].
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]
// The proof that a task may go to another CPU runs through all that a task refers to.
#![recursion_limit = "256"]

extern crate alloc;

pub mod avl;
pub mod fs;
pub mod futex;
pub mod init;
pub mod interrupts;
pub mod io;
pub mod mm;
pub mod net;
pub mod ns;
pub mod printk;
pub mod random;
pub mod sched;
pub mod signal;
pub mod stop_machine;
pub mod sync;
pub mod syscall;
pub mod task;
#[cfg(not(target_os = "none"))]
pub mod testing;
pub mod time;
pub mod trap;
pub mod tty;
pub mod version;
pub mod workqueue;

pub use abi::Errno;

/// What fallible kernel functions return.
pub type Result<T, E = Errno> = core::result::Result<T, E>;
