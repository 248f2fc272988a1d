//! The address space: a tree of VMAs over page tables (Linux `mm_struct`).
//!
//! Every operation is validate, then change: what can fail (limits, tables, splits) comes before the first visible change.

pub mod dump;
mod pages;
mod remote;
mod resize;

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use hal::mem::{PAGE_SIZE, Pfn};
use hal::mmu::AddressSpace;
use hal::pte::{PageFlags, Pte};

use super::fault::FaultError;
use super::settings;
use super::table::{Gather, PageTable};
use super::{Backing, MMAP_MIN_ADDR, Mapping, Protection, Role, TASK_SIZE, Vma, frame};
use crate::Result;
use crate::fs::File;
use crate::sync::{Mutex, MutexGuard};

const PAGE: u64 = PAGE_SIZE as u64;
/// Unmapped pages that a growing stack keeps below it (Linux `stack_guard_gap`).
const STACK_GAP: u64 = 256 * PAGE;

/// An address space.
pub struct Mm {
    hardware: AddressSpace,
    space: Mutex<Space>,
    /// Largest resident set so far, pages.
    max_rss: AtomicU64,
    /// PR_SET_THP_DISABLE: a fault brings one page, in all areas.
    huge_pages_off: AtomicBool,
    /// `/proc/PID/coredump_filter` ([`dump::filter`]).
    dump_filter: AtomicU32,
    /// The weak reference to itself that mappings keep.
    this: Weak<Mm>,
}

/// What the lock guards.
pub struct Space {
    pub(super) vmas: BTreeMap<u64, Vma>,
    pub(super) table: PageTable,
    /// Resident pages. Atomic so that a fault can count while it borrows a VMA; written under the lock alone.
    resident: AtomicI64,
    total_pages: u64,
    /// Most that `total_pages` was when it was about to fall.
    max_total: u64,
    locked_pages: u64,
    /// Addresses that `/proc/PID/stat` shows and exec sets.
    pub marks: Marks,
    brk: u64,
    mmap_base: u64,
    limits: Limits,
    /// MCL_FUTURE.
    lock_future: bool,
    /// The auxiliary vector as exec made it; the copy on the stack is the program's to change (Linux `saved_auxv`).
    auxv: Arc<[u8]>,
    /// The program that runs here (`/proc/PID/exe`). While it is held, nobody may write the file.
    exe: Option<Arc<File>>,
}

/// Where the parts of the program lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// Code.
    pub start_code: u64,
    /// End of code.
    pub end_code: u64,
    /// Initialised data.
    pub start_data: u64,
    /// End of data.
    pub end_data: u64,
    /// First address of the brk area.
    pub start_brk: u64,
    /// The initial stack pointer's page.
    pub start_stack: u64,
    /// argv strings.
    pub arg_start: u64,
    /// Their end.
    pub arg_end: u64,
    /// Environment strings.
    pub env_start: u64,
    /// Their end.
    pub env_end: u64,
    /// Where the vDSO's code is.
    pub vdso: u64,
}

/// Limits of the process in force for this operation, bytes (getrlimit(2)).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// RLIMIT_AS.
    pub address_space: u64,
    /// RLIMIT_DATA.
    pub data: u64,
    /// RLIMIT_STACK.
    pub stack: u64,
    /// RLIMIT_MEMLOCK, or infinite with CAP_IPC_LOCK.
    pub memlock: u64,
}

impl Limits {
    /// No limits.
    pub const NONE: Limits = Limits { address_space: u64::MAX, data: u64::MAX, stack: u64::MAX, memlock: u64::MAX };
}

/// Where a mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Anywhere, near this address if that is free (0: no wish).
    Hint(u64),
    /// Exactly here, replacing what is there (MAP_FIXED).
    Fixed(u64),
    /// Exactly here, `EEXIST` if something is there (MAP_FIXED_NOREPLACE).
    FixedNoReplace(u64),
}

/// What [`Mm::map`] is to do.
pub struct MapRequest {
    /// Where.
    pub placement: Placement,
    /// Bytes, not zero.
    pub length: u64,
    /// Rights.
    pub protection: Protection,
    /// MAP_SHARED.
    pub shared: bool,
    /// Source of pages.
    pub backing: Backing,
    /// MAP_GROWSDOWN.
    pub grows_down: bool,
    /// Name in `/proc/PID/maps`.
    pub role: Role,
    /// MAP_LOCKED.
    pub locked: bool,
    /// MAP_NORESERVE: more than there is may be asked for.
    pub no_reserve: bool,
}

impl MapRequest {
    /// Private anonymous memory.
    pub fn anonymous(placement: Placement, length: u64, protection: Protection) -> Self {
        Self {
            placement,
            length,
            protection,
            shared: false,
            backing: Backing::Anonymous,
            grows_down: false,
            role: Role::None,
            locked: false,
            no_reserve: false,
        }
    }
}

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

fn page_up(value: u64) -> Result<u64> {
    value.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)
}

impl Space {
    /// The area that holds `address`.
    pub fn find(&self, address: u64) -> Option<&Vma> {
        self.vmas.range(..=address).next_back().map(|(_, vma)| vma).filter(|vma| address < vma.end)
    }

    /// The first area that ends behind `address`.
    fn find_from(&self, address: u64) -> Option<&Vma> {
        self.find(address).or_else(|| self.vmas.range(address..).next().map(|(_, vma)| vma))
    }

    fn is_free(&self, start: u64, end: u64) -> bool {
        self.find_from(start).is_none_or(|vma| vma.start >= end)
    }

    #[inline(always)]
    pub(super) fn note_resident(&self, pages: i64) {
        self.resident.store(self.resident.load(Ordering::Relaxed) + pages, Ordering::Relaxed);
    }

    fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed).max(0).cast_unsigned()
    }

    /// Starts of the areas that meet `start..end`.
    fn overlapping(&self, start: u64, end: u64) -> Vec<u64> {
        let first = self.find(start).map(|vma| vma.start);
        let later = self.vmas.range(start..end).map(|(at, _)| *at);
        let mut starts: Vec<u64> = first.into_iter().chain(later).collect();
        starts.dedup();
        starts
    }

    /// Cuts areas so that `at` is a border.
    fn split_at(&mut self, at: u64) {
        let Some(start) = self.find(at).map(|vma| vma.start).filter(|start| *start < at) else { return };
        let vma = self.vmas.get_mut(&start).expect("found above");
        let upper = vma.split_off(at);
        self.vmas.insert(at, upper);
    }

    /// Joins the area at `start` with its neighbours where they continue each other.
    fn merge_around(&mut self, start: u64) {
        let mut start = start;
        let Some(vma) = self.vmas.get(&start) else { return };
        if let Some((at, before)) = self.vmas.range(..start).next_back()
            && before.continues_into(vma)
        {
            let (at, end) = (*at, vma.end);
            self.vmas.remove(&start);
            self.vmas.get_mut(&at).expect("found above").end = end;
            start = at;
        }
        let vma = &self.vmas[&start];
        if let Some(after) = self.vmas.get(&vma.end)
            && vma.continues_into(after)
        {
            let (at, end) = (after.start, after.end);
            self.vmas.remove(&at);
            self.vmas.get_mut(&start).expect("looked at above").end = end;
        }
    }

    /// Joins what continues each other in a range and at its two borders.
    fn merge_range(&mut self, start: u64, end: u64) {
        for at in self.overlapping(start, end) {
            self.merge_around(at);
        }
        // An area of the range may have vanished into the one before it, so its far border is still to be looked at.
        self.merge_around(end);
    }

    /// The highest gap of `length` bytes below the mmap base (top-down, as Linux's default layout).
    fn find_gap(&self, length: u64) -> Option<u64> {
        let mut ceiling = self.mmap_base;
        for vma in self.vmas.range(..self.mmap_base).rev().map(|(_, vma)| vma) {
            if vma.end < ceiling && ceiling - vma.end >= length {
                break;
            }
            // A growing stack keeps its distance.
            let gap = if vma.grows_down { STACK_GAP } else { 0 };
            ceiling = ceiling.min(vma.start.saturating_sub(gap));
        }
        let bottom = ceiling.checked_sub(length).filter(|start| *start >= MMAP_MIN_ADDR);
        match bottom {
            Some(start) if self.is_free(start, start + length) => Some(start),
            _ => self.find_gap_above(length),
        }
    }

    /// The lowest gap above the mmap base, when the room below is used up.
    fn find_gap_above(&self, length: u64) -> Option<u64> {
        let mut at = self.mmap_base;
        for vma in self.vmas.range(self.mmap_base..).map(|(_, vma)| vma) {
            if vma.start >= at && vma.start - at >= length {
                return Some(at);
            }
            at = at.max(vma.end);
        }
        (TASK_SIZE.saturating_sub(at) >= length).then_some(at)
    }

    fn place(&self, placement: Placement, length: u64) -> Result<u64> {
        let fits = |start: u64| {
            start.is_multiple_of(PAGE)
                && start >= MMAP_MIN_ADDR
                && start.checked_add(length).is_some_and(|end| end <= TASK_SIZE)
        };
        match placement {
            Placement::Fixed(start) | Placement::FixedNoReplace(start) if !start.is_multiple_of(PAGE) => {
                Err(Errno::EINVAL)
            }
            Placement::Fixed(start) | Placement::FixedNoReplace(start) if !fits(start) => {
                // Below mmap_min_addr only a capability would help; beyond the end there is no memory (mmap(2)).
                Err(if start < MMAP_MIN_ADDR { Errno::EPERM } else { Errno::ENOMEM })
            }
            Placement::Fixed(start) => Ok(start),
            Placement::FixedNoReplace(start) if self.is_free(start, start + length) => Ok(start),
            Placement::FixedNoReplace(_) => Err(Errno::EEXIST),
            Placement::Hint(hint) => {
                let hint = hint / PAGE * PAGE;
                if hint != 0 && fits(hint) && self.is_free(hint, hint + length) {
                    return Ok(hint);
                }
                self.find_gap(length).ok_or(Errno::ENOMEM)
            }
        }
    }

    fn data_pages(&self) -> u64 {
        let counts = |vma: &&Vma| !vma.shared && vma.protection.write && !vma.grows_down;
        self.vmas.values().filter(counts).map(Vma::pages).sum()
    }

    /// RLIMIT_AS, RLIMIT_DATA and the number of areas, for `pages` more (Linux `may_expand_vm`).
    fn charge(&self, pages: u64, private_writable: bool) -> Result<()> {
        let over = |limit: u64, now: u64| limit != u64::MAX && (now + pages).saturating_mul(PAGE) > limit;
        if over(self.limits.address_space, self.total_pages) || self.vmas.len() >= settings::max_map_count() {
            return Err(Errno::ENOMEM);
        }
        if private_writable && self.limits.data != u64::MAX && over(self.limits.data, self.data_pages()) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// RLIMIT_DATA for areas that mprotect makes private and writable (Linux `mprotect_fixup`).
    fn charge_new_data(&self, start: u64, end: u64) -> Result<()> {
        let becomes_data = |vma: &&Vma| !vma.shared && !vma.protection.write && !vma.grows_down;
        let areas = self.overlapping(start, end);
        let more = areas.iter().map(|at| &self.vmas[at]).filter(becomes_data);
        let pages: u64 = more.map(|vma| overlap_pages(vma, start, end)).sum();
        if pages == 0 {
            return Ok(());
        }
        if self.limits.data != u64::MAX && (self.data_pages() + pages).saturating_mul(PAGE) > self.limits.data {
            return Err(Errno::ENOMEM);
        }
        settings::admit(pages)
    }

    /// A fault just below a stack: extends it if RLIMIT_STACK and the gap below allow. Returns the extended area.
    pub(super) fn grow_stack(&mut self, mm: &Mm, address: u64) -> Option<Vma> {
        let start = address & !(PAGE - 1);
        let (at, vma) = self.vmas.range(address..).next()?;
        if !vma.grows_down || start < MMAP_MIN_ADDR {
            return None;
        }
        let (at, end) = (*at, vma.end);
        // Linux `acct_stack_growth`: RLIMIT_STACK, then RLIMIT_MEMLOCK and RLIMIT_AS.
        if end - start > self.limits.stack {
            return None;
        }
        let below = self.vmas.range(..at).next_back().map(|(_, vma)| vma);
        if below.is_some_and(|below| !below.grows_down && start < below.end + STACK_GAP) {
            return None;
        }
        let pages = (at - start) / PAGE;
        self.charge(pages, false).ok()?;
        if vma.locked && (self.locked_pages + pages).saturating_mul(PAGE) > self.limits.memlock {
            return None;
        }
        let mut vma = self.vmas.remove(&at)?;
        vma.start = start;
        self.total_pages += pages;
        self.locked_pages += if vma.locked { pages } else { 0 };
        self.vmas.insert(start, vma.clone());
        mm.note_peak(self);
        Some(vma)
    }
}

impl Mm {
    /// An empty address space.
    pub fn new() -> Result<Arc<Mm>> {
        let table = PageTable::new()?;
        Ok(Self::with(Space {
            vmas: BTreeMap::new(),
            table,
            resident: AtomicI64::new(0),
            total_pages: 0,
            max_total: 0,
            locked_pages: 0,
            marks: Marks::default(),
            brk: 0,
            mmap_base: TASK_SIZE,
            limits: Limits::NONE,
            lock_future: false,
            auxv: Arc::from([]),
            exe: None,
        }))
    }

    fn with(space: Space) -> Arc<Mm> {
        Arc::new_cyclic(|this| Mm {
            hardware: AddressSpace::new(space.table.root()),
            space: Mutex::new(space),
            max_rss: AtomicU64::new(0),
            huge_pages_off: AtomicBool::new(false),
            dump_filter: AtomicU32::new(dump::filter::DEFAULT),
            this: this.clone(),
        })
    }

    /// The hardware's view, to activate and flush.
    #[inline(always)]
    pub fn hardware(&self) -> &AddressSpace {
        &self.hardware
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Space> {
        self.space.lock()
    }

    /// The limits that operations of the current process are held to. Called by the memory system calls and by exec.
    pub fn set_limits(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// Whether a fault brings one page even where a whole region could be filled (PR_GET_THP_DISABLE).
    pub fn huge_pages_off(&self) -> bool {
        self.huge_pages_off.load(Ordering::Relaxed)
    }

    /// PR_SET_THP_DISABLE.
    pub fn set_huge_pages_off(&self, off: bool) {
        self.huge_pages_off.store(off, Ordering::Relaxed);
    }

    /// Where mappings without a wish go: below this.
    pub fn set_mmap_base(&self, base: u64) {
        self.lock().mmap_base = base / PAGE * PAGE;
    }

    /// Records where the program's parts are; the brk area begins at `marks.start_brk`.
    pub fn set_marks(&self, marks: Marks) {
        let mut space = self.lock();
        space.marks = marks;
        space.brk = marks.start_brk;
    }

    /// Records the program that runs here.
    pub fn set_exe(&self, file: Arc<File>) {
        let old = self.lock().exe.replace(file);
        drop(old);
    }

    /// The program that runs here.
    pub fn exe(&self) -> Option<Arc<File>> {
        self.lock().exe.clone()
    }

    /// Records the auxiliary vector.
    pub fn set_auxv(&self, vector: Arc<[u8]>) {
        self.lock().auxv = vector;
    }

    /// The auxiliary vector as exec made it.
    pub fn auxv(&self) -> Arc<[u8]> {
        self.lock().auxv.clone()
    }

    /// Where the program's parts are.
    pub fn marks(&self) -> Marks {
        self.lock().marks
    }

    fn note_peak(&self, space: &Space) {
        self.max_rss.fetch_max(space.resident(), Ordering::Relaxed);
    }

    /// Largest resident set so far, pages.
    pub fn max_rss_pages(&self) -> u64 {
        let now = self.lock().resident();
        self.max_rss.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// A copy-on-write twin (fork(2)). Leaf tables are shared, see [`super::table`].
    pub fn fork(&self) -> Result<Arc<Mm>> {
        let space = self.lock();
        frame::admit(space.vmas.len() * size_of::<Vma>())?;
        let table = space.table.fork();
        // Whatever became of it, this side's entries may be read-only now.
        self.hardware.flush_all();
        let child = Self::with(Space {
            vmas: space.vmas.clone(),
            table: table?,
            resident: AtomicI64::new(space.resident.load(Ordering::Relaxed)),
            total_pages: space.total_pages,
            max_total: space.total_pages,
            locked_pages: 0,
            marks: space.marks,
            brk: space.brk,
            mmap_base: space.mmap_base,
            limits: space.limits,
            lock_future: false,
            auxv: space.auxv.clone(),
            exe: space.exe.clone(),
        });
        child.set_dump_filter(self.dump_filter());
        let mut theirs = child.lock();
        for vma in theirs.vmas.values_mut() {
            vma.locked = false;
            if let Some(mapping) = vma.mapping() {
                mapping.add_mapper(child.this.clone());
            }
        }
        let special = theirs.vmas.values().filter(|vma| vma.dont_fork || vma.wipe_on_fork);
        for (start, end, keep) in special.map(|vma| (vma.start, vma.end, !vma.dont_fork)).collect::<Vec<_>>() {
            child.discard(&mut theirs, start, end)?;
            if !keep {
                let gone = theirs.vmas.remove(&start);
                theirs.total_pages -= gone.map_or(0, |vma| vma.pages());
            }
        }
        drop(theirs);
        child.set_huge_pages_off(self.huge_pages_off());
        self.note_peak(&space);
        Ok(child)
    }

    /// mmap(2). Returns the address.
    pub fn map(&self, request: MapRequest) -> Result<u64> {
        let length = page_up(request.length)?;
        if length == 0 || length > TASK_SIZE {
            return Err(if request.length == 0 { Errno::EINVAL } else { Errno::ENOMEM });
        }
        let mut space = self.lock();
        let start = space.place(request.placement, length)?;
        let end = start + length;
        let pages = length / PAGE;
        let replaced: u64 = if matches!(request.placement, Placement::Fixed(_)) {
            space.overlapping(start, end).iter().map(|at| overlap_pages(&space.vmas[at], start, end)).sum()
        } else {
            0
        };
        let is_private_writable = !request.shared && request.protection.write;
        space.charge(pages.saturating_sub(replaced), is_private_writable && !request.grows_down)?;
        if is_private_writable && !request.no_reserve {
            settings::admit(pages)?;
        }
        let locked = request.locked || space.lock_future;
        if locked && (space.locked_pages + pages).saturating_mul(PAGE) > space.limits.memlock {
            return Err(Errno::EAGAIN);
        }
        if replaced > 0 {
            self.unmap_locked(&mut space, start, end)?;
        }
        let vma = Vma {
            start,
            end,
            protection: request.protection,
            shared: request.shared,
            backing: request.backing,
            grows_down: request.grows_down,
            role: request.role,
            locked,
            dont_fork: false,
            wipe_on_fork: false,
            no_huge_pages: false,
            dont_dump: false,
        };
        if let Some(mapping) = vma.mapping() {
            mapping.add_mapper(self.this.clone());
        }
        space.total_pages += pages;
        space.locked_pages += if locked { pages } else { 0 };
        space.vmas.insert(start, vma);
        space.merge_around(start);
        if locked {
            self.populate_locked(&mut space, start, end);
        }
        Ok(start)
    }

    /// munmap(2).
    pub fn unmap(&self, start: u64, length: u64) -> Result<()> {
        let length = page_up(length).map_err(|_| Errno::EINVAL)?;
        if !start.is_multiple_of(PAGE) || length == 0 || start.checked_add(length).is_none_or(|end| end > TASK_SIZE) {
            return Err(Errno::EINVAL);
        }
        let mut space = self.lock();
        self.unmap_locked(&mut space, start, start + length)
    }

    fn unmap_locked(&self, space: &mut Space, start: u64, end: u64) -> Result<()> {
        if space.is_free(start, end) {
            return Ok(());
        }
        // Splitting makes at most two more areas.
        if space.vmas.len() + 2 > settings::max_map_count() {
            return Err(Errno::ENOMEM);
        }
        // Tables at the two edges may have to be copied; that can fail, so it comes first.
        space.table.own_edges(start, end, &self.hardware)?;
        space.split_at(start);
        space.split_at(end);
        space.max_total = space.max_total.max(space.total_pages);
        while let Some(at) = space.vmas.range(start..end).next().map(|(at, _)| *at) {
            let vma = space.vmas.remove(&at).expect("listed above");
            space.total_pages -= vma.pages();
            space.locked_pages -= if vma.locked { vma.pages() } else { 0 };
        }
        self.discard(space, start, end)
    }

    /// Takes the pages of a range out of the tables and frees them.
    fn discard(&self, space: &mut Space, start: u64, end: u64) -> Result<()> {
        self.note_peak(space);
        let mut gather = Gather::new(&self.hardware);
        let outcome = space.table.unmap(start, end, &mut gather);
        space.note_resident(-(gather.removed as i64));
        outcome
    }

    /// mprotect(2).
    pub fn protect(&self, start: u64, length: u64, protection: Protection) -> Result<()> {
        let length = page_up(length)?;
        let end = start.checked_add(length).ok_or(Errno::ENOMEM)?;
        if !start.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if length == 0 {
            return Ok(());
        }
        let mut space = self.lock();
        check_covered(&space, start, end)?;
        for at in space.overlapping(start, end) {
            may_protect(&space.vmas[&at], protection)?;
        }
        if protection.write {
            space.charge_new_data(start, end)?;
        }
        space.table.own_range(start, end, &self.hardware)?;
        space.split_at(start);
        space.split_at(end);
        let mut changed = false;
        for at in space.overlapping(start, end) {
            let vma = space.vmas.get_mut(&at).expect("listed above");
            vma.protection = protection;
            let (from, to, read) = (vma.start, vma.end, vma.read_flags());
            changed |= space.table.update(from, to, &self.hardware, |pte| {
                let old = pte.flags();
                // Write access comes back through a fault, which knows whether the page must be copied.
                let flags = PageFlags { read: read.read, exec: read.exec, write: old.write && protection.write, ..old };
                if read.exec && !old.exec {
                    frame::publish_code(pte.pfn());
                }
                Pte::page(pte.pfn(), flags)
            })?;
        }
        if changed {
            self.hardware.flush_range(start, (length / PAGE) as usize);
        }
        space.merge_range(start, end);
        Ok(())
    }

    /// Installs a kernel frame at an address of a special area.
    pub fn install_special(&self, address: u64, pfn: Pfn, exec: bool) -> Result<()> {
        let flags = PageFlags { read: true, exec, uncounted: true, ..PageFlags::default() };
        let space = self.lock();
        space.table.set(address, Pte::page(pfn, flags), &self.hardware)?;
        space.note_resident(1);
        hal::mmu::publish_entries();
        Ok(())
    }

    /// A file lost the pages `first..end`: they go from here too.
    pub(super) fn forget_file_pages(&self, mapping: &Mapping, first: u64, end: u64) {
        let mut space = self.lock();
        let shows = |vma: &&Vma| vma.mapping().is_some_and(|known| core::ptr::eq(&**known, mapping));
        let ranges: Vec<(u64, u64)> = space
            .vmas
            .values()
            .filter(shows)
            .filter_map(|vma| {
                let base = vma.offset() / PAGE;
                let from = first.max(base) - base;
                let to = end.saturating_sub(base).min(vma.pages());
                (from < to).then(|| (vma.start + from * PAGE, vma.start + to * PAGE))
            })
            .collect();
        for (start, end) in ranges {
            // Without a frame to copy a shared table the pages stay mapped: stale data, not lost data.
            let _ = self.discard(&mut space, start, end);
        }
    }

    /// For a futex: the frame and offset behind an address in shared memory, `None` for private memory.
    pub fn shared_key(&self, address: u64) -> Result<Option<(Pfn, u64)>> {
        let space = self.lock();
        let vma = space.find(address).ok_or(Errno::EFAULT)?;
        if !vma.shared {
            return Ok(None);
        }
        let vma = vma.clone();
        let page = address & !(PAGE - 1);
        if !space.table.lookup(page).is_valid() {
            self.resolve(&space, &vma, page, vma.protection.write).map_err(|_| Errno::EFAULT)?;
        }
        Ok(Some((space.table.lookup(page).pfn(), address % PAGE)))
    }

    /// Every area in address order, with its resident pages.
    pub fn areas(&self) -> Vec<VmaInfo> {
        let space = self.lock();
        let info = |vma: &Vma| VmaInfo { vma: vma.clone(), resident: resident_pages(&space, vma) };
        space.vmas.values().map(info).collect()
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
        let sum = |which: fn(&&Vma) -> bool| space.vmas.values().filter(which).map(Vma::pages).sum::<u64>();
        Counters {
            total: space.total_pages,
            resident: space.resident(),
            shared: space.vmas.values().map(|vma| file_pages(&space, vma)).sum(),
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

fn overlap_pages(vma: &Vma, start: u64, end: u64) -> u64 {
    (vma.end.min(end) - vma.start.max(start)) / PAGE
}

fn check_covered(space: &Space, start: u64, end: u64) -> Result<()> {
    let mut at = start;
    while at < end {
        at = space.find(at).ok_or(Errno::ENOMEM)?.end;
    }
    Ok(())
}

/// A shared mapping of a file that was not opened for writing stays read-only; a noexec mount gives no code (`EACCES`).
fn may_protect(vma: &Vma, protection: Protection) -> Result<()> {
    if matches!(vma.backing, Backing::Special) && protection.write {
        return Err(Errno::EACCES);
    }
    let Backing::File { file, .. } = &vma.backing else { return Ok(()) };
    if protection.write && vma.shared && !file.writable() || protection.exec && !file.executable() {
        return Err(Errno::EACCES);
    }
    Ok(())
}

impl From<FaultError> for Errno {
    fn from(error: FaultError) -> Errno {
        match error {
            FaultError::OutOfMemory => Errno::ENOMEM,
            FaultError::Segv { .. } | FaultError::Bus => Errno::EFAULT,
        }
    }
}
