//! Which waiters and wakers mean the same futex (Linux `get_futex_key`).
//!
//! A private futex is an address in one address space. A shared one is what lies behind the address: a page of a file or of
//! shared anonymous memory, wherever it is mapped; in private memory it is the address again, but apart from the private
//! futex there (Linux `FUT_OFF_MMSHARED`).

use abi::Errno;
use hal::trap::Access;

use crate::Result;
use crate::mm::TASK_SIZE;
use crate::mm::space::FutexObject;
use crate::task::{OwnFields, current};

/// Who can use a futex (FUTEX_PRIVATE_FLAG).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The threads of one address space.
    Private,
    /// Whoever sees the memory.
    Shared,
}

/// A futex as a call names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// The user address.
    pub address: u64,
    /// Private or shared.
    pub scope: Scope,
}

/// What two users of one futex agree on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// Address space (by its root table) and address. Whoever waits keeps the address space alive.
    Private(u32, u64),
    /// A shared futex in private memory: the same.
    SharedPrivateMemory(u32, u64),
    /// The pages of an inode (by [`crate::mm::Mapping::sequence`]) and the byte in them.
    Inode(u64, u64),
}

impl Key {
    /// A number with as many different bits as the keys have.
    pub fn hash(&self) -> u64 {
        let (object, offset) = match *self {
            Key::Private(space, address) => (u64::from(space), address),
            Key::SharedPrivateMemory(space, address) => (u64::from(space) + 1, address),
            Key::Inode(sequence, offset) => (sequence << 10, offset),
        };
        // Fibonacci hashing: the high bits of the product mix all bits.
        (object ^ offset >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Word {
    /// The key in the current address space. `EINVAL` for an address that is not aligned; `EFAULT` for one outside user
    /// space, and for a shared futex where the memory does not allow `access`: futex(2) reads the word of a private futex
    /// later, if at all.
    pub fn key(self, access: Access) -> Result<Key> {
        if !self.address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if self.address >= TASK_SIZE {
            return Err(Errno::EFAULT);
        }
        let mm = current().own_mm().ok_or(Errno::EFAULT)?;
        let root = mm.hardware().root().0;
        if self.scope == Scope::Private {
            return Ok(Key::Private(root, self.address));
        }
        Ok(match mm.futex_object(self.address, access)? {
            FutexObject::AddressSpace => Key::SharedPrivateMemory(root, self.address),
            FutexObject::Inode { sequence, offset } => Key::Inode(sequence, offset),
        })
    }
}
