//! Page-table entries as data: AArch64 stage 1 descriptors, 4 KiB granule (Arm ARM D8.3).
//!
//! A user address space has 39 bits and three levels: level 1 (root, 1 GiB an entry), level 2 (2 MiB an entry) and level
//! 3, the leaf table. The hosted machine walks the same descriptors, so this encoding is tested on a PC.

use crate::mem::Pfn;

/// Entries in a table.
pub const ENTRIES: usize = 512;
/// Bits of a user virtual address.
pub const USER_VA_BITS: u32 = 39;
/// The first address past user space: 512 GiB. A user address is below it.
pub const USER_VA_END: u64 = 1 << USER_VA_BITS;

const VALID: u64 = 1 << 0;
/// A table at levels 1 and 2, a page at level 3.
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_NORMAL: u64 = 0 << 2;
const AP_USER: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const SH_INNER: u64 = 0b11 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
/// Software bit: the page was written, or may have been, through this entry.
const SW_DIRTY: u64 = 1 << 55;
/// Software bit: a private page that must be copied before it is written (it may be shared with others).
const SW_COW: u64 = 1 << 56;
/// Software bit: the frame is not counted (the zero page, an initramfs page mapped in place, the vDSO).
const SW_UNCOUNTED: u64 = 1 << 57;
/// Software bit: a page of a MAP_SHARED mapping, never copied on write.
const SW_SHARED: u64 = 1 << 58;
/// APTable[1]: no level below this table descriptor grants writes (Arm ARM D8.4.3).
const AP_TABLE_READ_ONLY: u64 = 1 << 62;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// One 64-bit descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pte(pub u64);

/// What user code may do with a page, as the bits of its entry: made once for many entries.
#[derive(Clone, Copy)]
pub struct Rights(u64);

impl Rights {
    /// As the fields of the same names of [`PageFlags`].
    pub const fn new(read: bool, write: bool, exec: bool) -> Rights {
        let mut bits = 0;
        if read || write || exec {
            bits |= AP_USER;
        }
        if !write {
            bits |= AP_READ_ONLY;
        }
        if !exec {
            bits |= UXN;
        }
        Rights(bits)
    }
}

/// What a page mapping allows and remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFlags {
    /// User code may read. A mapping without it is PROT_NONE: present but inaccessible to user code.
    pub read: bool,
    /// User code may write.
    pub write: bool,
    /// User code may execute.
    pub exec: bool,
    /// Written since mapped.
    pub dirty: bool,
    /// Copy before the first write.
    pub cow: bool,
    /// The frame carries no reference for this mapping.
    pub uncounted: bool,
    /// Belongs to a MAP_SHARED mapping.
    pub shared: bool,
}

impl Pte {
    /// Nothing mapped.
    pub const EMPTY: Pte = Pte(0);

    /// A pointer to the table of the next level.
    pub const fn table(pfn: Pfn) -> Pte {
        Pte(pfn.phys() | VALID | TABLE_OR_PAGE)
    }

    /// A pointer to a leaf table that several address spaces share: nothing below it can be written.
    pub const fn shared_table(pfn: Pfn) -> Pte {
        Pte(pfn.phys() | VALID | TABLE_OR_PAGE | AP_TABLE_READ_ONLY)
    }

    /// A user page.
    pub const fn page(pfn: Pfn, flags: PageFlags) -> Pte {
        let mut bits = pfn.phys() | VALID | TABLE_OR_PAGE | ATTR_NORMAL | SH_INNER | ACCESS_FLAG | NOT_GLOBAL | PXN;
        // Execute-only is not offered: as on Linux without EPAN, PROT_EXEC implies user readability.
        if flags.read || flags.write || flags.exec {
            bits |= AP_USER;
        }
        if !flags.write {
            bits |= AP_READ_ONLY;
        }
        if !flags.exec {
            bits |= UXN;
        }
        if flags.dirty {
            bits |= SW_DIRTY;
        }
        if flags.cow {
            bits |= SW_COW;
        }
        if flags.uncounted {
            bits |= SW_UNCOUNTED;
        }
        if flags.shared {
            bits |= SW_SHARED;
        }
        Pte(bits)
    }

    /// Whether the hardware uses this entry.
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Whether nothing is recorded here at all.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// For a table descriptor: whether [`Pte::shared_table`] made it.
    pub const fn is_shared_table(self) -> bool {
        self.0 & AP_TABLE_READ_ONLY != 0
    }

    /// The frame of the page or of the next table.
    pub const fn pfn(self) -> Pfn {
        Pfn(((self.0 & ADDRESS) >> 12) as u32)
    }

    /// Whether user code may read through it.
    pub const fn user_readable(self) -> bool {
        self.0 & (VALID | AP_USER) == VALID | AP_USER
    }

    /// Whether user code may write through it (a shared table above may still forbid it).
    pub const fn writable(self) -> bool {
        self.0 & (VALID | AP_USER | AP_READ_ONLY) == VALID | AP_USER
    }

    /// Whether user code may execute through it.
    pub const fn executable(self) -> bool {
        self.user_readable() && self.0 & UXN == 0
    }

    /// Whether the frame carries a reference for this entry.
    pub const fn is_counted(self) -> bool {
        self.0 & (VALID | SW_UNCOUNTED) == VALID
    }

    /// Whether user code may write through it and the page is not of a MAP_SHARED mapping.
    pub const fn is_private_writable(self) -> bool {
        self.writable() && self.0 & SW_SHARED == 0
    }

    /// Whether the page was written, or may have been, through this entry.
    pub const fn is_dirty(self) -> bool {
        self.0 & SW_DIRTY != 0
    }

    /// The same page with other rights.
    #[inline(always)]
    pub const fn with_rights(self, rights: Rights) -> Pte {
        Pte(self.0 & !(AP_USER | AP_READ_ONLY | UXN) | rights.0)
    }

    /// The same entry for the frame `distance` further on.
    pub const fn neighbour(self, distance: u32) -> Pte {
        Pte(self.0 + Pfn(distance).phys())
    }

    /// What [`Pte::page`] was given.
    pub const fn flags(self) -> PageFlags {
        PageFlags {
            read: self.user_readable(),
            write: self.writable(),
            exec: self.executable(),
            dirty: self.0 & SW_DIRTY != 0,
            cow: self.0 & SW_COW != 0,
            uncounted: self.0 & SW_UNCOUNTED != 0,
            shared: self.0 & SW_SHARED != 0,
        }
    }

    /// The same page, no longer writable, to be copied before the next write.
    pub const fn write_protected_for_cow(self) -> Pte {
        Pte(self.0 | AP_READ_ONLY | SW_COW)
    }
}

/// The index into the table of `level` (1, 2 or 3) for `address`.
pub const fn index(level: u32, address: u64) -> usize {
    ((address >> (12 + 9 * (3 - level))) & 511) as usize
}

#[cfg(test)]
mod tests {
    use super::{PageFlags, Pfn, Pte, Rights, index};

    #[test]
    fn flags_survive_the_encoding() {
        for bits in 0..128u32 {
            let on = |n: u32| bits >> n & 1 != 0;
            let flags = PageFlags {
                read: true,
                write: on(1),
                exec: on(2),
                dirty: on(3),
                cow: on(4),
                uncounted: on(5),
                shared: on(6),
            };
            let pte = Pte::page(Pfn(0x1234), flags);
            assert_eq!(pte.flags(), flags);
            assert_eq!(pte.pfn(), Pfn(0x1234));
        }
    }

    #[test]
    fn rights_change_alone() {
        for bits in 0..64u32 {
            let on = |n: u32| bits >> n & 1 != 0;
            let flags =
                PageFlags { read: true, write: on(0), exec: on(1), dirty: on(2), cow: on(3), ..PageFlags::default() };
            let wanted = PageFlags { write: on(4), exec: on(5), ..flags };
            assert_eq!(
                Pte::page(Pfn(7), flags).with_rights(Rights::new(true, on(4), on(5))),
                Pte::page(Pfn(7), wanted)
            );
        }
    }

    #[test]
    fn an_address_splits_into_three_indexes() {
        let address = (3 << 30) | (5 << 21) | (7 << 12) | 9;
        assert_eq!((index(1, address), index(2, address), index(3, address)), (3, 5, 7));
    }
}
