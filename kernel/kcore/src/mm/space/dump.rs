//! What a core dump takes of an address space: which areas, how much of each, and their pages (Linux `vma_dump_size`,
//! `get_dump_page`; core(5), "Controlling which mappings are written to the core dump").

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use hal::mem;

use super::{Mm, PAGE, Space};
use crate::Result;
use crate::io::IoDst;
use crate::mm::{Backing, MappedFile, Protection, Role, Vma, frame};

/// Bits of `/proc/PID/coredump_filter`.
pub mod filter {
    /// Anonymous private memory.
    pub const ANON_PRIVATE: u32 = 1;
    /// Anonymous shared memory, and files that have no name any more.
    pub const ANON_SHARED: u32 = 1 << 1;
    /// Private mappings of files.
    pub const FILE_PRIVATE: u32 = 1 << 2;
    /// Shared mappings of files.
    pub const FILE_SHARED: u32 = 1 << 3;
    /// The first page of private file mappings that may be programs.
    pub const ELF_HEADERS: u32 = 1 << 4;
    /// What the file accepts: huge pages and DAX too, which do not exist here.
    pub const ALL: u32 = 0x1ff;
    /// What a process starts with: bits 0, 1, 4 and 5.
    pub const DEFAULT: u32 = 0x33;
}

/// An area as a core dump shows it.
pub struct DumpArea {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Rights.
    pub protection: Protection,
    /// Bytes from the start on whose contents are dumped: the whole, one page, or nothing.
    pub dumped: u64,
    /// The file that is mapped, and the offset of the area's first byte in it.
    pub file: Option<(DumpFile, u64)>,
}

/// What names the mapped file of an area.
pub enum DumpFile {
    /// A file.
    Named(Arc<dyn MappedFile>),
    /// Shared anonymous memory, which Linux shows as a nameless file.
    SharedAnonymous,
}

impl DumpFile {
    /// The path.
    pub fn name(&self) -> Vec<u8> {
        match self {
            DumpFile::Named(file) => file.name(),
            DumpFile::SharedAnonymous => b"/dev/zero (deleted)".to_vec(),
        }
    }
}

impl Mm {
    /// `/proc/PID/coredump_filter`.
    pub fn dump_filter(&self) -> u32 {
        self.dump_filter.load(Ordering::Relaxed)
    }

    /// Sets it; unknown bits are dropped.
    pub fn set_dump_filter(&self, bits: u32) {
        self.dump_filter.store(bits & filter::ALL, Ordering::Relaxed);
    }

    /// The areas in the order of their addresses. `ENOMEM` when there are too many to list.
    pub fn dump_areas(&self) -> Result<Vec<DumpArea>> {
        let bits = self.dump_filter();
        let space = self.lock();
        frame::admit(space.vmas.count() * size_of::<DumpArea>())?;
        let area = |vma: &Vma| DumpArea {
            start: vma.start,
            end: vma.end,
            protection: vma.protection,
            dumped: dumped_bytes(&space, vma, bits),
            file: match &vma.backing {
                Backing::File { file, offset, .. } => Some((DumpFile::Named(file.clone()), *offset)),
                Backing::SharedAnonymous { offset, .. } => Some((DumpFile::SharedAnonymous, *offset)),
                Backing::Anonymous | Backing::Special => None,
            },
        };
        Ok(space.vmas.iter().map(area).collect())
    }

    /// Reads a whole page into `buffer`. False where there is nothing but zeros or nothing at all: no page is made for the
    /// question (Linux FOLL_DUMP).
    pub fn read_for_dump(&self, page: u64, buffer: &mut [u8]) -> bool {
        let space = self.lock();
        let Some(vma) = space.find(page) else { return false };
        let pte = space.table.lookup(page);
        if pte.is_valid() {
            if pte.pfn() == frame::zero_frame() {
                return false;
            }
            mem::read(pte.pfn(), 0, buffer);
            return true;
        }
        let Some(mapping) = vma.mapping() else { return false };
        buffer.fill(0);
        let offset = vma.offset() + (page - vma.start);
        mapping.read(offset, &mut IoDst::kernel(buffer)).is_ok_and(|got| got > 0)
    }
}

/// How much of an area is dumped (Linux `vma_dump_size`).
fn dumped_bytes(space: &Space, vma: &Vma, bits: u32) -> u64 {
    let whole = vma.length();
    // The vDSO and its data are always there: a debugger finds the signal frame's unwind information in them.
    if matches!(vma.role, Role::Vdso | Role::Vvar) {
        return whole;
    }
    if vma.dont_dump || matches!(vma.backing, Backing::Special) {
        return 0;
    }
    let has = |bit: u32| bits & bit != 0;
    if vma.shared {
        let named = matches!(&vma.backing, Backing::File { file, .. } if file.mode_and_links().1 > 0);
        return if has(if named { filter::FILE_SHARED } else { filter::ANON_SHARED }) { whole } else { 0 };
    }
    // Segments that have been written to.
    if has(filter::ANON_PRIVATE) && has_own_pages(space, vma) {
        return whole;
    }
    let Backing::File { file, offset, .. } = &vma.backing else { return 0 };
    if has(filter::FILE_PRIVATE) {
        return whole;
    }
    let is_program = || file.mode_and_links().0 & 0o111 != 0 || begins_as_elf(vma);
    if has(filter::ELF_HEADERS) && *offset == 0 && is_program() { PAGE } else { 0 }
}

/// Whether a private area has pages that are not its file's (Linux `vma->anon_vma`).
fn has_own_pages(space: &Space, vma: &Vma) -> bool {
    let of_file = vma.mapping().is_some();
    let mut found = false;
    space.table.for_each(vma.start, vma.end, |pte| {
        let flags = pte.flags();
        found |= !flags.uncounted && (!of_file || flags.dirty && !flags.shared);
    });
    found
}

fn begins_as_elf(vma: &Vma) -> bool {
    let mut magic = [0; 4];
    let read = vma.mapping().map(|mapping| mapping.read(vma.offset(), &mut IoDst::kernel(&mut magic)));
    matches!(read, Some(Ok(4))) && magic == *b"\x7fELF"
}
