//! What a shared futex lies in (Linux `get_futex_key`).

use abi::Errno;
use hal::trap::{Access, PageFault};

use super::super::{Backing, Vma};
use super::{Mm, PAGE};
use crate::Result;

/// The memory behind the word of a shared futex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FutexObject {
    /// Private memory: nobody but this address space sees the word.
    AddressSpace,
    /// A page of a file or of shared anonymous memory.
    Inode {
        /// Which ([`super::super::Mapping::sequence`]).
        sequence: u64,
        /// The byte in it.
        offset: u64,
    },
}

impl Mm {
    /// Where the word at `address` lies. `EFAULT` where there is no memory or none that may be read; with a write also where it
    /// may not be written, or is beyond the end of its file.
    pub fn futex_object(&self, address: u64, access: Access) -> Result<FutexObject> {
        let space = self.lock();
        if let Some(vma) = space.find(address) {
            return object_in(vma, address, access);
        }
        drop(space);
        // Below a stack, perhaps: touching it extends it.
        let touch = PageFault { address, access: Access::Write, permission: false };
        self.handle_fault(&touch).map_err(|_| Errno::EFAULT)?;
        let space = self.lock();
        object_in(space.find(address).ok_or(Errno::EFAULT)?, address, access)
    }
}

fn object_in(vma: &Vma, address: u64, access: Access) -> Result<FutexObject> {
    let readable = vma.protection.read && access == Access::Read;
    if !vma.protection.write && !readable {
        return Err(Errno::EFAULT);
    }
    let Some(mapping) = vma.mapping() else {
        // Private memory that is read-only never changes, so there is nothing to wait for. Nor in the kernel's own pages.
        let sensible = vma.protection.write && matches!(vma.backing, Backing::Anonymous);
        return if sensible { Ok(FutexObject::AddressSpace) } else { Err(Errno::EFAULT) };
    };
    let offset = vma.offset() + (address - vma.start);
    if offset / PAGE * PAGE >= mapping.size() {
        return Err(Errno::EFAULT);
    }
    // A private page that could be written is looked at as if it were: it is a copy of the file's by then.
    if !vma.shared && vma.protection.write {
        return Ok(FutexObject::AddressSpace);
    }
    Ok(FutexObject::Inode { sequence: mapping.sequence(), offset })
}
