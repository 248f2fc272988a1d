//! The page cache of one inode: Linux's `address_space`.
//!
//! A tmpfs file *is* its mapping: pages are made when they are written. A file of the initramfs starts from the frames
//! that the boot loader filled, in place; a write replaces a page by a copy.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use hal::mem::{self, FrameRange, PAGE_SIZE, Pfn};
use hal::sync::SpinLock;

use super::{Mm, frame};
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::sync::order;

const PAGE: u64 = PAGE_SIZE as u64;

/// One page of a file, as [`Mapping::page`] lends it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its frame.
    pub pfn: Pfn,
    /// A boot frame without a count; otherwise the caller owns one reference.
    pub uncounted: bool,
}

impl Page {
    /// Gives the caller's reference back.
    pub fn put(self) {
        if !self.uncounted {
            frame::put(self.pfn);
        }
    }
}

struct Pages {
    size: u64,
    own: BTreeMap<u64, Pfn>,
    boot: Option<FrameRange>,
}

hal::global! {
    /// Pages of all files.
    static IN_USE: AtomicU64 = AtomicU64::new(0);
    /// The last number that a file was given.
    static LAST_SEQUENCE: AtomicU64 = AtomicU64::new(0);
}

/// Pages that files in memory take.
pub fn pages_in_use() -> u64 {
    IN_USE.load(Ordering::Relaxed)
}

/// Pages of a file by index, and who maps them.
pub struct Mapping {
    /// Its number, once somebody asked for it ([`Mapping::sequence`]).
    sequence: AtomicU64,
    pages: SpinLock<Pages>,
    mappers: SpinLock<Mappers>,
}

/// Address spaces that map a file, some perhaps twice.
struct Mappers {
    known: Vec<Weak<Mm>>,
    /// At this length those that are gone are dropped, so that adding costs the same however many there are.
    sweep_at: usize,
}

impl Mapping {
    /// An empty file.
    pub fn new() -> Arc<Mapping> {
        Self::with(Pages { size: 0, own: BTreeMap::new(), boot: None })
    }

    /// A file whose data lies in boot memory from the start of `range` on.
    pub fn from_boot(range: FrameRange, length: u64) -> Arc<Mapping> {
        Self::with(Pages { size: length, own: BTreeMap::new(), boot: Some(range) })
    }

    /// Pages of zeros that no file names, `size` bytes: shared anonymous memory, mappings of `/dev/zero`.
    pub fn new_anonymous(size: u64) -> Arc<Mapping> {
        Self::with(Pages { size, own: BTreeMap::new(), boot: None })
    }

    fn with(pages: Pages) -> Arc<Mapping> {
        Arc::new(Mapping {
            sequence: AtomicU64::new(0),
            pages: SpinLock::new(order::PAGE_CACHE, pages),
            mappers: SpinLock::new(order::PAGE_CACHE, Mappers { known: Vec::new(), sweep_at: 8 }),
        })
    }

    /// A number that no other file has or will have, for keys that outlive it (Linux `get_inode_sequence_number`).
    pub fn sequence(&self) -> u64 {
        let known = self.sequence.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let fresh = LAST_SEQUENCE.fetch_add(1, Ordering::Relaxed) + 1;
        match self.sequence.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => fresh,
            Err(known) => known,
        }
    }

    /// Length of the file, bytes.
    pub fn size(&self) -> u64 {
        self.pages.lock().size
    }

    /// Pages that take memory.
    pub fn allocated_pages(&self) -> u64 {
        self.size_and_pages().1
    }

    /// Both at one moment.
    pub fn size_and_pages(&self) -> (u64, u64) {
        let pages = self.pages.lock();
        let boot = pages.boot.map_or(0, |range| u64::from(range.count));
        (pages.size, pages.own.len() as u64 + boot)
    }

    /// The page with this index: `None` where the file has a hole. The caller gets a reference.
    fn find(&self, index: u64) -> Option<Page> {
        let pages = self.pages.lock();
        if let Some(pfn) = pages.own.get(&index) {
            frame::get(*pfn);
            return Some(Page { pfn: *pfn, uncounted: false });
        }
        pages.whole_boot_frame(index).map(|pfn| Page { pfn, uncounted: true })
    }

    /// The page with this index, made if the file has none. For writing it is never a boot frame.
    pub fn page(&self, index: u64, for_write: bool) -> Result<Page> {
        match self.find(index) {
            Some(page) if !(for_write && page.uncounted) => return Ok(page),
            _ => {}
        }
        let fresh = frame::allocate_zeroed()?;
        let mut pages = self.pages.lock();
        if let Some(pfn) = pages.own.get(&index).copied() {
            // Somebody was faster.
            frame::get(pfn);
            drop(pages);
            frame::put(fresh);
            return Ok(Page { pfn, uncounted: false });
        }
        pages.copy_boot_data(index, fresh);
        pages.own.insert(index, fresh);
        IN_USE.fetch_add(1, Ordering::Relaxed);
        frame::get(fresh);
        Ok(Page { pfn: fresh, uncounted: false })
    }

    /// Whether the page is still the frame that the boot loader filled.
    pub fn uses_boot_frame(&self, index: u64) -> bool {
        let pages = self.pages.lock();
        pages.boot.is_some_and(|range| index < u64::from(range.count)) && !pages.own.contains_key(&index)
    }

    /// A page to write to, from outside of any address space's lock. When it takes the place of a boot frame, that frame
    /// goes from all address spaces, so that they see what is written.
    fn page_for_write(&self, index: u64) -> Result<Page> {
        let was_boot = self.uses_boot_frame(index);
        let page = self.page(index, true)?;
        if was_boot {
            self.unmap(index, index + 1);
        }
        Ok(page)
    }

    /// Gives the file a page of its own for the boot frame with this index. No address space may be locked.
    pub(super) fn replace_boot_page(&self, index: u64) -> Result<()> {
        self.page_for_write(index)?.put();
        Ok(())
    }

    /// Offers the pages of `first..first + count` that are in memory to `take`, with a reference for those that it takes.
    pub(super) fn for_cached(&self, first: u64, count: u64, mut take: impl FnMut(u64, Page) -> bool) {
        let pages = self.pages.lock();
        let last = (first + count).min(pages.size.div_ceil(PAGE));
        let mut own = pages.own.range(first..last.max(first)).peekable();
        for index in first..last {
            if let Some((_, pfn)) = own.next_if(|(known, _)| **known == index) {
                if take(index, Page { pfn: *pfn, uncounted: false }) {
                    frame::get(*pfn);
                }
            } else if let Some(pfn) = pages.whole_boot_frame(index) {
                take(index, Page { pfn, uncounted: true });
            } else if own.peek().is_none() && pages.boot.is_none() {
                break;
            }
        }
    }

    /// The page if it is there.
    pub fn page_if_cached(&self, index: u64) -> Option<Page> {
        self.find(index)
    }

    /// Looks up the pages from `first` on, with a reference to each: `None` where the file has a hole. Returns its size.
    fn find_run(&self, first: u64, found: &mut [Option<Page>]) -> u64 {
        let pages = self.pages.lock();
        let mut own = pages.own.range(first..first.saturating_add(found.len() as u64)).peekable();
        for (index, place) in (first..).zip(found) {
            *place = match own.next_if(|(known, _)| **known == index) {
                Some((_, pfn)) => {
                    frame::get(*pfn);
                    Some(Page { pfn: *pfn, uncounted: false })
                }
                None => pages.whole_boot_frame(index).map(|pfn| Page { pfn, uncounted: true }),
            };
        }
        pages.size
    }

    /// Reads from `offset` to the end of the file or of `dst`. Holes read as zeros.
    pub fn read(&self, offset: u64, dst: &mut IoDst<'_>) -> Result<usize> {
        let mut done = 0;
        loop {
            let at = offset + done as u64;
            let wanted = ((at % PAGE) as usize + dst.remaining()).div_ceil(PAGE_SIZE);
            // Many pages cost one look at the file; one page does not pay for the room of many.
            let moved =
                if wanted > 1 { self.read_run::<16>(at, wanted, dst) } else { self.read_run::<1>(at, wanted, dst) };
            match moved {
                Ok(0) => return Ok(done),
                Ok(moved) => done += moved,
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            }
        }
    }

    /// Reads from up to `N` of `wanted` pages; 0 at the end of the file or of `dst`.
    fn read_run<const N: usize>(&self, offset: u64, wanted: usize, dst: &mut IoDst<'_>) -> Result<usize> {
        let mut found = [None; N];
        let found = &mut found[..wanted.min(N)];
        let size = self.find_run(offset / PAGE, found);
        let end = offset.saturating_add(dst.remaining() as u64).min(size);
        let mut at = offset;
        let mut outcome = Ok(true);
        for page in found {
            // After the end and after a bad address the references are still to be given back.
            let within = (at % PAGE) as usize;
            let length = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(PAGE_SIZE - within);
            if length > 0 && outcome == Ok(true) {
                let moved = match *page {
                    Some(page) => dst.put_frame(page.pfn, within, length),
                    None => self.read_boot_tail(at, length, dst),
                };
                at += moved.unwrap_or(0) as u64;
                outcome = moved.map(|moved| moved == length);
            }
            if let Some(page) = page {
                page.put();
            }
        }
        match outcome {
            Err(error) if at == offset => Err(error),
            _ => Ok((at - offset) as usize),
        }
    }

    /// A hole, or the partly filled last page of boot data.
    fn read_boot_tail(&self, at: u64, length: usize, dst: &mut IoDst<'_>) -> Result<usize> {
        let index = at / PAGE;
        let boot = {
            let pages = self.pages.lock();
            pages.boot.filter(|range| index < u64::from(range.count)).map(|range| Pfn(range.start.0 + index as u32))
        };
        match boot {
            Some(pfn) => dst.put_frame(pfn, (at % PAGE) as usize, length),
            None => dst.put_zeros(length),
        }
    }

    /// Writes from `offset`, growing the file. `ENOMEM` or `EFAULT` only if nothing was written.
    pub fn write(&self, offset: u64, src: &mut IoSrc<'_>) -> Result<usize> {
        let mut at = offset;
        let mut done = 0;
        while src.remaining() > 0 {
            let within = (at % PAGE) as usize;
            let length = (PAGE_SIZE - within).min(src.remaining());
            let outcome = self.page_for_write(at / PAGE).and_then(|page| {
                let moved = src.take_into_frame(page.pfn, within, length);
                frame::code_changed(page.pfn);
                page.put();
                moved
            });
            match outcome {
                Ok(moved) => {
                    done += moved;
                    at += moved as u64;
                    let mut pages = self.pages.lock();
                    pages.size = pages.size.max(at);
                    if moved < length {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Sets the size. Pages beyond it go, also from address spaces; what is cut off in the last page reads as zeros if the
    /// file grows again.
    pub fn truncate(&self, size: u64) -> Result<()> {
        let old = self.size();
        if size < old
            && !size.is_multiple_of(PAGE)
            && let Some(found) = self.find(size / PAGE)
        {
            found.put();
            // A page of its own, so that its tail can be zeroed. A hole needs none.
            let page = self.page_for_write(size / PAGE)?;
            let within = (size % PAGE) as usize;
            mem::write(page.pfn, within, &ZEROS[within..]);
            page.put();
        }
        if size > old && !old.is_multiple_of(PAGE) && self.pages.lock().boot.is_some() {
            self.page_for_write(old / PAGE)?.put();
        }
        let first_gone = size.div_ceil(PAGE);
        let gone = {
            let mut pages = self.pages.lock();
            pages.size = size;
            if let Some(range) = &mut pages.boot {
                range.count = range.count.min(u32::try_from(first_gone).unwrap_or(u32::MAX));
            }
            pages.own.split_off(&first_gone)
        };
        if size < old {
            self.unmap(first_gone, u64::MAX);
        }
        release(gone);
        Ok(())
    }

    /// Makes `start..end` (bytes) read as zeros without changing the size (FALLOC_FL_PUNCH_HOLE).
    pub fn punch_hole(&self, start: u64, end: u64) -> Result<()> {
        let end = end.min(self.size().next_multiple_of(PAGE));
        let mut at = start;
        while at < end {
            let stop = end.min((at / PAGE + 1) * PAGE);
            if at.is_multiple_of(PAGE) && stop - at == PAGE {
                self.drop_page(at / PAGE)?;
            } else if let Some(page) = self.find(at / PAGE) {
                page.put();
                let page = self.page_for_write(at / PAGE)?;
                mem::write(page.pfn, (at % PAGE) as usize, &ZEROS[..(stop - at) as usize]);
                page.put();
            }
            at = stop;
        }
        Ok(())
    }

    fn drop_page(&self, index: u64) -> Result<()> {
        let is_boot = self.pages.lock().boot.is_some_and(|range| index < u64::from(range.count));
        if is_boot {
            // Boot data cannot be let go of piecewise: a page of zeros stands before it.
            let page = self.page_for_write(index)?;
            mem::zero(page.pfn);
            page.put();
            return Ok(());
        }
        let gone = self.pages.lock().own.remove(&index);
        self.unmap(index, index + 1);
        release(gone.map(|pfn| (index, pfn)));
        Ok(())
    }

    /// The first byte of data at or behind `offset` (SEEK_DATA); `None` when only holes follow.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        let pages = self.pages.lock();
        if offset >= pages.size {
            return None;
        }
        let index = offset / PAGE;
        if pages.boot.is_some_and(|range| index < u64::from(range.count)) {
            return Some(offset);
        }
        let (found, _) = pages.own.range(index..).next()?;
        Some(offset.max(found * PAGE)).filter(|at| *at < pages.size)
    }

    /// The first byte of a hole at or behind `offset` (SEEK_HOLE); the end of the file is one.
    pub fn next_hole(&self, offset: u64) -> Option<u64> {
        let pages = self.pages.lock();
        if offset >= pages.size {
            return None;
        }
        let mut index = offset / PAGE;
        if let Some(range) = pages.boot {
            index = index.max(u64::from(range.count));
        }
        for (found, _) in pages.own.range(index..) {
            if *found != index {
                break;
            }
            index += 1;
        }
        Some(offset.max(index * PAGE).min(pages.size))
    }

    /// Remembers that `mm` maps this file, so that truncation can reach it.
    pub(super) fn add_mapper(&self, mm: Weak<Mm>) {
        let mut mappers = self.mappers.lock();
        // The segments of a program are mapped one after the other: looking at the last few finds most repetitions.
        if mappers.known.iter().rev().take(4).any(|known| known.ptr_eq(&mm)) {
            return;
        }
        if mappers.known.len() >= mappers.sweep_at {
            mappers.known.retain(|known| known.strong_count() > 0);
            mappers.sweep_at = 2 * mappers.known.len() + 8;
        }
        mappers.known.push(mm);
    }

    fn mapper_list(&self) -> Vec<Arc<Mm>> {
        self.mappers.lock().known.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether some address space maps it shared, through a file that was opened for writing: it can be written there, at
    /// once or after an mprotect(2) (Linux `i_mmap_writable`).
    pub fn is_mapped_writable(&self) -> bool {
        self.mapper_list().iter().any(|mm| mm.maps_writable(self))
    }

    fn unmap(&self, first: u64, end: u64) {
        for mm in self.mapper_list() {
            mm.forget_file_pages(self, first, end);
        }
    }
}

impl Pages {
    /// The boot frame of a page. The last page of boot data is followed by other data: it is used only if the file fills
    /// it.
    fn whole_boot_frame(&self, index: u64) -> Option<Pfn> {
        let range = self.boot?;
        let n = u32::try_from(index).ok().filter(|n| *n < range.count)?;
        ((index + 1) * PAGE <= self.size).then(|| Pfn(range.start.0 + n))
    }

    /// Fills a fresh page with what boot memory holds of it.
    fn copy_boot_data(&self, index: u64, fresh: Pfn) {
        let Some(range) = self.boot else { return };
        let Some(n) = u32::try_from(index).ok().filter(|n| *n < range.count) else { return };
        let valid = usize::try_from(self.size.saturating_sub(index * PAGE)).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        let mut buffer = [0u8; 512];
        for offset in (0..valid).step_by(512) {
            let length = (valid - offset).min(512);
            mem::read(Pfn(range.start.0 + n), offset, &mut buffer[..length]);
            mem::write(fresh, offset, &buffer[..length]);
        }
    }
}

/// Gives the pages that a file lost back.
fn release(gone: impl IntoIterator<Item = (u64, Pfn)>) {
    for (_, pfn) in gone {
        IN_USE.fetch_sub(1, Ordering::Relaxed);
        frame::put(pfn);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        release(core::mem::take(&mut self.pages.get_mut().own));
    }
}

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// What a VMA keeps of the file that it maps.
pub trait MappedFile: Send + Sync {
    /// The pages.
    fn mapping(&self) -> Arc<Mapping>;
    /// The path for `/proc/PID/maps`.
    fn name(&self) -> Vec<u8>;
    /// Device (major, minor) and inode number.
    fn device_and_inode(&self) -> (u32, u32, u64);
    /// Mode bits and number of names, for core dumps.
    fn mode_and_links(&self) -> (u32, u32);
    /// Where it was opened.
    fn path(&self) -> Option<crate::fs::Path>;
    /// Opened for reading: else nothing can be mapped (`EACCES`).
    fn readable(&self) -> bool;
    /// Opened for writing: else no shared writable mapping (`EACCES`).
    fn writable(&self) -> bool;
    /// Its content is sealed: writable shared mappings are not made any more (`EPERM`, fcntl(2) F_SEAL_WRITE).
    fn write_sealed(&self) -> bool {
        false
    }
    /// On a mount without noexec: else no executable mapping (`EPERM`).
    fn executable(&self) -> bool;
}

/// A length that a file offset and a length make, checked.
pub fn end_of(offset: u64, length: u64) -> Result<u64> {
    offset.checked_add(length).filter(|end| *end <= i64::MAX.cast_unsigned()).ok_or(Errno::EOVERFLOW)
}
