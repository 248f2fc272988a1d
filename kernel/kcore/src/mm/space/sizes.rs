//! What an address space tells of itself: its areas and their sizes, for `/proc`.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{Mm, PAGE, Space};
use crate::mm::{Backing, Mapping, Vma};

/// An area as `/proc/PID/maps` shows it.
pub struct VmaInfo {
    /// The area.
    pub vma: Vma,
    /// Resident pages.
    pub resident: u64,
}

/// Sizes in pages, for `/proc/PID/statm` and status.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// All areas.
    pub total: u64,
    /// Resident.
    pub resident: u64,
    /// Resident pages of files.
    pub shared: u64,
    /// The program's own code.
    pub text: u64,
    /// All code: executable areas that cannot be written.
    pub code: u64,
    /// Page tables.
    pub tables: u64,
    /// Most that all areas ever had.
    pub max_total: u64,
    /// Private writable areas.
    pub data: u64,
    /// Stack areas.
    pub stack: u64,
    /// Locked.
    pub locked: u64,
    /// Largest resident set.
    pub max_resident: u64,
}

impl Mm {
    /// Every area in address order, with its resident pages.
    pub fn areas(&self) -> Vec<VmaInfo> {
        let space = self.lock();
        let info = |vma: &Vma| VmaInfo { vma: vma.clone(), resident: resident_pages(&space, vma) };
        space.vmas.iter().map(info).collect()
    }

    /// Whether an area shows `mapping` shared, through a file that was opened for writing.
    pub(in crate::mm) fn maps_writable(&self, mapping: &Mapping) -> bool {
        let shows_it = |vma: &Vma| match &vma.backing {
            Backing::File { file, mapping: shown, .. } => {
                vma.shared && core::ptr::eq(&**shown, mapping) && file.writable()
            }
            _ => false,
        };
        self.lock().vmas.unordered().any(shows_it)
    }

    /// Pages of all areas, and resident pages: what `/proc/PID/stat` shows, without a look at each area.
    pub fn total_and_resident(&self) -> (u64, u64) {
        let space = self.lock();
        (space.total_pages, space.resident())
    }

    /// Sizes for `/proc`.
    pub fn counters(&self) -> Counters {
        let space = self.lock();
        self.note_peak(&space);
        let sum = |which: fn(&&Vma) -> bool| space.vmas.unordered().filter(which).map(Vma::pages).sum::<u64>();
        Counters {
            total: space.total_pages,
            resident: space.resident(),
            shared: space.vmas.iter().map(|vma| file_pages(&space, vma)).sum(),
            text: (space.marks.end_code.next_multiple_of(PAGE) - space.marks.start_code / PAGE * PAGE) / PAGE,
            code: sum(|vma| vma.protection.exec && !vma.protection.write && !vma.grows_down),
            tables: space.table.count_tables(),
            max_total: space.max_total.max(space.total_pages),
            data: sum(|vma| !vma.shared && vma.protection.write && !vma.grows_down),
            stack: sum(|vma| vma.grows_down),
            locked: space.locked_pages,
            max_resident: self.max_rss.load(Ordering::Relaxed),
        }
    }
}

fn resident_pages(space: &Space, vma: &Vma) -> u64 {
    space.table.count_resident(vma.start, vma.end)
}

/// Resident pages of an area that are a file's own, not private copies.
fn file_pages(space: &Space, vma: &Vma) -> u64 {
    let mut count = 0;
    if vma.mapping().is_some() {
        space.table.for_each(vma.start, vma.end, |pte| {
            let flags = pte.flags();
            count += u64::from(flags.shared || !flags.dirty);
        });
    }
    count
}
