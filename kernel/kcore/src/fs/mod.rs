//! Files: the virtual file system, Linux's objects under Linux's names.
//!
//! * [`inode::Inode`] is a file; [`inode::InodeOps`] is what its file system does with it.
//! * [`dentry::Dentry`] is a name of it in a directory; the dentries of a directory are the cache that path walks use.
//! * [`super_block::SuperBlock`] is one mounted file-system instance, [`mount::Mount`] a place where it is seen.
//! * [`file::File`] is an open file (the open file description of POSIX); [`file::FileOps`] is what it does.
//! * [`fdtable::Files`] is a descriptor table, [`context::FsContext`] root, working directory and umask.
//! * [`namei`] walks paths, [`open`] turns a path into a file, [`create`] changes directories.
//!
//! File systems of this folder: [`tmpfs`] (also the root file system, filled from the initramfs by [`initramfs`]).
//! In file systems that live in memory the dentry tree is the directory (see [`inode::InodeOps::is_dcache_complete`]), as
//! in Linux's libfs.
//!
//! Locks: an inode's sleeping `lock` (Linux `i_rwsem`) covers changes of a directory's entries and of a file's content;
//! spin locks inside dentries, inodes and the mount table cover single fields and are never held over a call.

pub mod binfmt_misc;
pub mod boot;
pub mod chrdev;
pub mod context;
mod cpu_latency;
pub mod create;
pub mod dentry;
pub mod dev;
pub mod devpts;
pub mod eventfd;
pub mod eventpoll;
pub mod fdtable;
pub mod file;
pub mod initramfs;
pub mod inode;
pub mod libfs;
pub mod lock;
pub mod mount;
pub mod namei;
pub mod notify;
pub mod nsfs;
pub mod open;
pub mod permission;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod proc;
pub mod program;
pub mod pseudo;
pub mod signalfd;
pub mod super_block;
pub mod sys;
pub mod tmpfs;
pub mod user_count;
pub mod xattr;

pub use context::FsContext;
pub use dentry::{Dentry, Name};
pub use fdtable::Files;
pub use file::{DirSink, File, FileOps, OffsetRule, OpsRef};
pub use inode::{Attributes, Inode, InodeOps, LinkTarget, SetAttributes};
pub use mount::{Mount, Path};
pub use super_block::{FsType, SuperBlock, SuperOps};

pub use boot::init;
pub use program::{open_console, open_exec, open_exec_again};

#[cfg(test)]
mod tests;
