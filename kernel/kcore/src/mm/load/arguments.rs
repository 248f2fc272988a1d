//! argv and envp: where the strings of a new program come from.

use alloc::vec::Vec;

use abi::Errno;

use crate::Result;
use crate::syscall::{UserPtr, UserStr};

/// Longest single string with its NUL (Linux `MAX_ARG_STRLEN`: 32 pages).
pub const MAX_STRING: usize = 32 * hal::mem::PAGE_SIZE;
/// Most strings (Linux `MAX_ARG_STRINGS`).
const MAX_STRINGS: usize = 0x7fff_ffff;

/// The strings, not yet copied.
pub enum Arguments {
    /// Arrays of pointers in the caller's memory.
    User {
        /// argv.
        argv: u64,
        /// envp.
        envp: u64,
    },
    /// The kernel's own, for init.
    Kernel {
        /// argv.
        argv: Vec<Vec<u8>>,
        /// envp.
        envp: Vec<Vec<u8>>,
    },
}

/// One of the two arrays.
pub(super) enum List<'a> {
    User(u64),
    Kernel(&'a [Vec<u8>]),
}

impl Arguments {
    /// From execve's pointers.
    pub fn from_user(argv: u64, envp: u64) -> Self {
        Arguments::User { argv, envp }
    }

    pub(super) fn argv(&self) -> List<'_> {
        match self {
            Arguments::User { argv, .. } => List::User(*argv),
            Arguments::Kernel { argv, .. } => List::Kernel(argv),
        }
    }

    pub(super) fn envp(&self) -> List<'_> {
        match self {
            Arguments::User { envp, .. } => List::User(*envp),
            Arguments::Kernel { envp, .. } => List::Kernel(envp),
        }
    }
}

impl List<'_> {
    /// How many strings; a NULL array has none. `E2BIG` beyond `limit`.
    pub(super) fn count(&self, limit: usize) -> Result<usize> {
        match self {
            List::Kernel(list) => Ok(list.len()),
            List::User(0) => Ok(0),
            List::User(array) => {
                let mut count = 0;
                while pointer(*array, count)? != 0 {
                    count += 1;
                    if count > limit.min(MAX_STRINGS) {
                        return Err(Errno::E2BIG);
                    }
                    if count % 1024 == 0 && crate::task::current().fatal_signal_pending() {
                        return Err(Errno::EINTR);
                    }
                }
                Ok(count)
            }
        }
    }

    /// Calls `f` with string number `index` without its NUL. Short ones, nearly all, do not touch the heap.
    pub(super) fn with_string<R>(&self, index: usize, f: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        let array = match self {
            List::Kernel(list) => return f(&list[index]),
            List::User(array) => *array,
        };
        let address = pointer(array, index)?;
        let mut buffer = [0u8; 256];
        let length = hal::uaccess::copy_string_from_user(&mut buffer, address).map_err(|_| Errno::EFAULT)?;
        match buffer.get(..length) {
            Some(text) if length < buffer.len() => f(text),
            _ => f(&UserStr::new(address).read(MAX_STRING, Errno::E2BIG)?),
        }
    }
}

/// Element `index` of an array of pointers in user memory.
fn pointer(array: u64, index: usize) -> Result<u64> {
    let address = UserPtr::<u64>::new(array).index(index).address();
    hal::uaccess::load_u64(address).map_err(|_| Errno::EFAULT)
}
