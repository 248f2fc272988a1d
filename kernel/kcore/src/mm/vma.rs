//! Virtual memory areas: runs of addresses with one set of rights and one source of pages.

use alloc::sync::Arc;

use hal::pte::PageFlags;

use super::mapping::{MappedFile, Mapping};

/// What may be done with the pages (PROT_*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE.
    pub write: bool,
    /// PROT_EXEC.
    pub exec: bool,
}

impl Protection {
    /// Decodes PROT_* bits; other bits are the caller's to refuse.
    pub fn from_bits(bits: u32) -> Self {
        use abi::mman::{PROT_EXEC, PROT_READ, PROT_WRITE};
        Self { read: bits & PROT_READ != 0, write: bits & PROT_WRITE != 0, exec: bits & PROT_EXEC != 0 }
    }
}

/// Where pages come from.
#[derive(Clone)]
pub enum Backing {
    /// Zeros, private to the address space.
    Anonymous,
    /// A file, from this byte offset on; `shared` pages are the file's own, others are copied before they are written.
    File {
        /// For names and rights.
        file: Arc<dyn MappedFile>,
        /// Its pages.
        mapping: Arc<Mapping>,
        /// Of the VMA's first byte, page-aligned.
        offset: u64,
    },
    /// Shared anonymous memory: a mapping that no file names.
    SharedAnonymous {
        /// Its pages.
        mapping: Arc<Mapping>,
        /// Of the VMA's first byte, page-aligned.
        offset: u64,
    },
    /// Frames of the kernel, such as the vDSO; installed when mapped.
    Special,
}

/// What `/proc/PID/maps` calls an area without a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing special.
    None,
    /// The brk area.
    Heap,
    /// The first thread's stack.
    Stack,
    /// The vDSO's code.
    Vdso,
    /// The vDSO's data.
    Vvar,
}

/// An area.
#[derive(Clone)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Rights.
    pub protection: Protection,
    /// MAP_SHARED.
    pub shared: bool,
    /// Source of pages.
    pub backing: Backing,
    /// Grows downwards on a fault below it.
    pub grows_down: bool,
    /// Name.
    pub role: Role,
    /// mlock.
    pub locked: bool,
    /// MADV_DONTFORK.
    pub dont_fork: bool,
    /// MADV_WIPEONFORK.
    pub wipe_on_fork: bool,
    /// MADV_NOHUGEPAGE: a fault brings one page.
    pub no_huge_pages: bool,
    /// MADV_DONTDUMP.
    pub dont_dump: bool,
}

impl Vma {
    /// Bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// Pages.
    pub fn pages(&self) -> u64 {
        self.length() / hal::mem::PAGE_SIZE as u64
    }

    /// The file offset of its first byte, 0 for anonymous memory.
    pub fn offset(&self) -> u64 {
        match &self.backing {
            Backing::File { offset, .. } | Backing::SharedAnonymous { offset, .. } => *offset,
            Backing::Anonymous | Backing::Special => 0,
        }
    }

    /// The pages that it shows, if not private zeros.
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        match &self.backing {
            Backing::File { mapping, .. } | Backing::SharedAnonymous { mapping, .. } => Some(mapping),
            Backing::Anonymous | Backing::Special => None,
        }
    }

    /// The flags of a page that is mapped for reading only.
    pub fn read_flags(&self) -> PageFlags {
        PageFlags {
            read: self.protection.read || self.protection.write,
            exec: self.protection.exec,
            shared: self.shared,
            cow: !self.shared,
            ..PageFlags::default()
        }
    }

    /// The flags of a page that may be written as the area says.
    pub fn write_flags(&self) -> PageFlags {
        PageFlags { write: self.protection.write, dirty: true, cow: false, ..self.read_flags() }
    }

    /// The part from `at` on; `self` keeps what is before it.
    pub fn split_off(&mut self, at: u64) -> Vma {
        let mut upper = self.clone();
        let distance = at - self.start;
        upper.start = at;
        if let Backing::File { offset, .. } | Backing::SharedAnonymous { offset, .. } = &mut upper.backing {
            *offset += distance;
        }
        self.end = at;
        upper
    }

    /// Sets the borders; what the area shows at an address stays the same.
    pub(super) fn move_borders(&mut self, start: u64, end: u64) {
        if let Backing::File { offset, .. } | Backing::SharedAnonymous { offset, .. } = &mut self.backing {
            *offset = offset.wrapping_add(start.wrapping_sub(self.start));
        }
        (self.start, self.end) = (start, end);
    }

    /// Whether `next`, which begins where this ends, continues it in every respect.
    pub fn continues_into(&self, next: &Vma) -> bool {
        let same = self.end == next.start
            && self.protection == next.protection
            && self.shared == next.shared
            && self.grows_down == next.grows_down
            && self.role == next.role
            && self.locked == next.locked
            && self.dont_fork == next.dont_fork
            && self.wipe_on_fork == next.wipe_on_fork
            && self.no_huge_pages == next.no_huge_pages
            && self.dont_dump == next.dont_dump;
        same && match (&self.backing, &next.backing) {
            (Backing::Anonymous, Backing::Anonymous) => true,
            (Backing::File { mapping: a, offset: from, .. }, Backing::File { mapping: b, offset: to, .. })
            | (
                Backing::SharedAnonymous { mapping: a, offset: from },
                Backing::SharedAnonymous { mapping: b, offset: to },
            ) => Arc::ptr_eq(a, b) && from + self.length() == *to,
            _ => false,
        }
    }
}
