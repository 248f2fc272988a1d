//! The address space: a tree of VMAs over page tables (Linux `mm_struct`).
//!
//! Every operation is validate, then change: what can fail (limits, tables, splits) comes before the first visible change.

pub mod dump;
mod futex;
mod pages;
mod program;
pub mod remote;
mod resize;
mod sizes;

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use hal::mem::{PAGE_SIZE, Pfn};
use hal::mmu::AddressSpace;
use hal::pte::{PageFlags, Pte, Rights};

use super::areas::{Areas, STACK_GAP};
use super::fault::FaultError;
use super::settings;
use super::table::{Gather, PageTable};
use super::{Backing, MMAP_MIN_ADDR, Mapping, Protection, Role, TASK_SIZE, Vma, frame};
use crate::Result;
use crate::fs::File;
use crate::ns::user::UserNs;
use crate::sync::{Mutex, MutexGuard};
pub use futex::FutexObject;
pub use sizes::{Counters, VmaInfo};

const PAGE: u64 = PAGE_SIZE as u64;

/// An address space.
pub struct Mm {
    hardware: AddressSpace,
    space: Mutex<Space>,
    limits: SharedLimits,
    /// Largest resident set so far, pages.
    max_rss: AtomicU64,
    /// Memory is or was locked here: RLIMIT_MEMLOCK matters to each call that makes some.
    locks_memory: AtomicBool,
    /// PR_SET_THP_DISABLE: a fault brings one page, in all areas.
    huge_pages_off: AtomicBool,
    /// `/proc/PID/coredump_filter` ([`dump::filter`]).
    dump_filter: AtomicU32,
    user_ns: spin::Once<UserNs>,
    /// What it registered for with membarrier(2) ([`crate::sync::membarrier`]).
    membarrier: AtomicU32,
    /// The weak reference to itself that mappings keep.
    this: Weak<Mm>,
}

/// What the lock guards.
pub struct Space {
    pub(super) vmas: Areas,
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

/// The limits in force, read and written without the lock: each is a value of its own.
struct SharedLimits {
    address_space: AtomicU64,
    data: AtomicU64,
    stack: AtomicU64,
    memlock: AtomicU64,
}

impl SharedLimits {
    const fn none() -> Self {
        Self {
            address_space: AtomicU64::new(u64::MAX),
            data: AtomicU64::new(u64::MAX),
            stack: AtomicU64::new(u64::MAX),
            memlock: AtomicU64::new(u64::MAX),
        }
    }
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

fn page_up(value: u64) -> Result<u64> {
    value.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)
}

impl Space {
    /// The area that holds `address`.
    #[inline(always)]
    pub fn find(&self, address: u64) -> Option<&Vma> {
        self.vmas.find(address)
    }

    #[inline(always)]
    pub(super) fn note_resident(&self, pages: i64) {
        self.resident.store(self.resident.load(Ordering::Relaxed) + pages, Ordering::Relaxed);
    }

    fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed).max(0).cast_unsigned()
    }

    /// Cuts an area so that `at` is a border.
    fn split_at(&mut self, at: u64) {
        let Some(vma) = self.vmas.find(at).filter(|vma| vma.start < at) else { return };
        let start = vma.start;
        let upper = vma.clone().split_off(at);
        self.vmas.resize(start, start, at);
        self.vmas.insert(upper);
    }

    /// Adds an area where there is none, as a part of its neighbours where they continue each other.
    fn add_area(&mut self, vma: Vma) {
        let before = self.vmas.find(vma.start - 1).filter(|before| before.continues_into(&vma));
        let before = before.map(|before| before.start);
        let after = self.vmas.find(vma.end).filter(|after| vma.continues_into(after)).map(|after| after.end);
        match (before, after) {
            (None, None) => self.vmas.insert(vma),
            (Some(start), None) => self.vmas.resize(start, start, vma.end),
            (None, Some(end)) => self.vmas.resize(vma.end, vma.start, end),
            (Some(start), Some(end)) => {
                self.vmas.remove(vma.end);
                self.vmas.resize(start, start, end);
            }
        }
    }

    /// Joins the area that begins at `start` with its neighbours where they continue each other. Whether one did.
    fn merge_around(&mut self, start: u64) -> bool {
        let Some((before, vma, after)) = self.vmas.with_neighbours(start) else { return false };
        let before = before.filter(|before| before.continues_into(vma)).map(|before| before.start);
        let after = after.filter(|after| vma.continues_into(after)).map(|after| after.end);
        if before.is_none() && after.is_none() {
            return false;
        }
        let (first, middle) = (before.unwrap_or(start), vma.end);
        if after.is_some() {
            self.vmas.remove(middle);
        }
        if before.is_some() {
            self.vmas.remove(start);
        }
        self.vmas.resize(first, first, after.unwrap_or(middle));
        true
    }

    /// Joins what continues each other in a range and at its two borders.
    fn merge_range(&mut self, start: u64, end: u64) {
        let mut at = start;
        while let Some(vma) = self.vmas.find_from(at).filter(|vma| vma.start < end) {
            let from = vma.start;
            at = vma.end;
            if self.merge_around(from) {
                // The joined area may continue with the next one.
                let joined = self.vmas.find(from).map_or((end, end), |vma| (vma.start, vma.end));
                while self.merge_around(joined.0) {}
                at = self.vmas.find(from).map_or(end, |vma| vma.end);
            }
        }
    }

    /// A place for `length` bytes below the mmap base, the highest there is (Linux's default layout), else the lowest above
    /// it. What is a whole number of huge pages begins at one if it can (`thp_get_unmapped_area`).
    fn find_gap(&self, length: u64, whole_regions: bool) -> Option<u64> {
        const REGION: u64 = super::table::LEAF_SPAN;
        let below = |length: u64| self.vmas.highest_gap(length, MMAP_MIN_ADDR, self.mmap_base);
        if whole_regions
            && length.is_multiple_of(REGION)
            && let Some(top) = below(length + REGION - PAGE)
        {
            return Some((top - length) / REGION * REGION);
        }
        below(length).map(|top| top - length).or_else(|| self.vmas.lowest_gap(length, self.mmap_base))
    }

    fn place(&self, placement: Placement, length: u64, whole_regions: bool) -> Result<u64> {
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
            Placement::FixedNoReplace(start) if self.vmas.is_free(start, start + length) => Ok(start),
            Placement::FixedNoReplace(_) => Err(Errno::EEXIST),
            Placement::Hint(hint) => {
                let hint = hint / PAGE * PAGE;
                if hint != 0 && fits(hint) && self.vmas.is_free(hint, hint + length) {
                    return Ok(hint);
                }
                self.find_gap(length, whole_regions).ok_or(Errno::ENOMEM)
            }
        }
    }

    fn data_pages(&self) -> u64 {
        let counts = |vma: &&Vma| !vma.shared && vma.protection.write && !vma.grows_down;
        self.vmas.unordered().filter(counts).map(Vma::pages).sum()
    }

    /// RLIMIT_AS, RLIMIT_DATA and the number of areas, for `pages` more (Linux `may_expand_vm`).
    fn charge(&self, limits: &Limits, pages: u64, private_writable: bool) -> Result<()> {
        let over = |limit: u64, now: u64| limit != u64::MAX && (now + pages).saturating_mul(PAGE) > limit;
        if over(limits.address_space, self.total_pages) || self.vmas.count() >= settings::max_map_count() {
            return Err(Errno::ENOMEM);
        }
        if private_writable && limits.data != u64::MAX && over(limits.data, self.data_pages()) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// RLIMIT_DATA for areas that mprotect makes private and writable (Linux `mprotect_fixup`).
    fn charge_new_data(&self, limits: &Limits, pages: u64) -> Result<()> {
        if limits.data != u64::MAX && (self.data_pages() + pages).saturating_mul(PAGE) > limits.data {
            return Err(Errno::ENOMEM);
        }
        settings::admit(pages)
    }

    /// A fault just below a stack: extends it if RLIMIT_STACK and the gap below allow. Returns the extended area.
    pub(super) fn grow_stack(&mut self, mm: &Mm, address: u64) -> Option<Vma> {
        let start = address & !(PAGE - 1);
        let limits = mm.limits();
        let vma = self.vmas.find_from(address)?;
        if !vma.grows_down || start < MMAP_MIN_ADDR {
            return None;
        }
        let (at, end) = (vma.start, vma.end);
        // Linux `acct_stack_growth`: RLIMIT_STACK, then RLIMIT_MEMLOCK and RLIMIT_AS.
        if end - start > limits.stack {
            return None;
        }
        let below = self.vmas.find_before(at);
        if below.is_some_and(|below| !below.grows_down && start < below.end + STACK_GAP) {
            return None;
        }
        let pages = (at - start) / PAGE;
        self.charge(&limits, pages, false).ok()?;
        if vma.locked && (self.locked_pages + pages).saturating_mul(PAGE) > limits.memlock {
            return None;
        }
        self.total_pages += pages;
        self.locked_pages += if self.vmas.find(at)?.locked { pages } else { 0 };
        self.vmas.resize(at, start, end);
        mm.note_peak(self);
        self.vmas.find(start).cloned()
    }
}

impl Mm {
    /// An empty address space.
    pub fn new() -> Result<Arc<Mm>> {
        let table = PageTable::new()?;
        Ok(Self::with(Space {
            vmas: Areas::new(),
            table,
            resident: AtomicI64::new(0),
            total_pages: 0,
            max_total: 0,
            locked_pages: 0,
            marks: Marks::default(),
            brk: 0,
            mmap_base: TASK_SIZE,
            lock_future: false,
            auxv: Arc::from([]),
            exe: None,
        }))
    }

    fn with(space: Space) -> Arc<Mm> {
        Arc::new_cyclic(|this| Mm {
            hardware: AddressSpace::new(space.table.root()),
            space: Mutex::new(space),
            limits: SharedLimits::none(),
            max_rss: AtomicU64::new(0),
            locks_memory: AtomicBool::new(false),
            huge_pages_off: AtomicBool::new(false),
            dump_filter: AtomicU32::new(dump::filter::DEFAULT),
            user_ns: spin::Once::new(),
            membarrier: AtomicU32::new(0),
            this: this.clone(),
        })
    }

    /// Where the program was started: whose capabilities count for its memory (Linux `mm->user_ns`).
    pub fn user_ns(&self) -> UserNs {
        self.user_ns.get().cloned().unwrap_or_default()
    }

    /// Sets it, once: for a new program, and for the copy of one.
    pub(crate) fn set_user_ns(&self, user_ns: UserNs) {
        self.user_ns.call_once(|| user_ns);
    }

    /// The hardware's view, to activate and flush.
    #[inline(always)]
    pub fn hardware(&self) -> &AddressSpace {
        &self.hardware
    }

    /// Its registrations for membarrier(2); a copy has them, a new program has none.
    pub(crate) fn membarrier(&self) -> &AtomicU32 {
        &self.membarrier
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Space> {
        self.space.lock()
    }

    /// The limits that operations of the current process are held to. Called by the memory system calls, by setrlimit(2) and
    /// by exec.
    pub fn set_limits(&self, limits: Limits) {
        self.set_size_limits(limits.address_space, limits.data, limits.stack);
        self.limits.memlock.store(limits.memlock, Ordering::Relaxed);
    }

    /// As [`Self::set_limits`], without RLIMIT_MEMLOCK: for calls that lock nothing.
    #[inline(always)]
    pub fn set_size_limits(&self, address_space: u64, data: u64, stack: u64) {
        self.limits.address_space.store(address_space, Ordering::Relaxed);
        self.limits.data.store(data, Ordering::Relaxed);
        self.limits.stack.store(stack, Ordering::Relaxed);
    }

    /// Whether memory is or was locked here.
    #[inline(always)]
    pub fn locks_memory(&self) -> bool {
        self.locks_memory.load(Ordering::Relaxed)
    }

    /// Memory is about to be locked here for the first time (mlock(2) and its family, MAP_LOCKED).
    pub fn will_lock_memory(&self) {
        self.locks_memory.store(true, Ordering::Relaxed);
    }

    #[inline(always)]
    fn limits(&self) -> Limits {
        Limits {
            address_space: self.limits.address_space.load(Ordering::Relaxed),
            data: self.limits.data.load(Ordering::Relaxed),
            stack: self.limits.stack.load(Ordering::Relaxed),
            memlock: self.limits.memlock.load(Ordering::Relaxed),
        }
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

    /// Records the auxiliary vector of a program and the marks that came with its stack.
    pub fn note_start(&self, auxv: Arc<[u8]>, change: impl FnOnce(&mut Marks)) {
        let mut space = self.lock();
        space.auxv = auxv;
        change(&mut space.marks);
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
        frame::admit(space.vmas.copy_size())?;
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
            lock_future: false,
            auxv: space.auxv.clone(),
            exe: space.exe.clone(),
        });
        child.set_dump_filter(self.dump_filter());
        child.membarrier.store(self.membarrier.load(Ordering::Relaxed), Ordering::Relaxed);
        child.set_limits(self.limits());
        child.set_user_ns(self.user_ns());
        let mut theirs = child.lock();
        if space.locked_pages > 0 {
            theirs.vmas.change_all(|vma| vma.locked = false);
        }
        let mut special = Vec::new();
        for vma in theirs.vmas.unordered() {
            if let Some(mapping) = vma.mapping() {
                mapping.add_mapper(child.this.clone());
            }
            if vma.dont_fork || vma.wipe_on_fork {
                special.push((vma.start, vma.end, !vma.dont_fork));
            }
        }
        for (start, end, keep) in special {
            child.discard(&mut theirs, start, end)?;
            if !keep {
                let gone = theirs.vmas.remove(start);
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
        let limits = self.limits();
        let whole_regions = !request.shared && matches!(request.backing, Backing::Anonymous);
        let start = space.place(request.placement, length, whole_regions)?;
        let end = start + length;
        let pages = length / PAGE;
        let replaced: u64 = if matches!(request.placement, Placement::Fixed(_)) {
            space.vmas.range(start, end).map(|vma| overlap_pages(vma, start, end)).sum()
        } else {
            0
        };
        let is_private_writable = !request.shared && request.protection.write;
        space.charge(&limits, pages.saturating_sub(replaced), is_private_writable && !request.grows_down)?;
        if is_private_writable && !request.no_reserve {
            settings::admit(pages)?;
        }
        let locked = request.locked || space.lock_future;
        if locked && (space.locked_pages + pages).saturating_mul(PAGE) > limits.memlock {
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
        space.add_area(vma);
        if locked {
            // As mmap(2) says of MAP_LOCKED: a page that cannot be brought in now is a fault later.
            self.populate_locked(&space, start, end);
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
        if space.vmas.is_free(start, end) {
            return Ok(());
        }
        // Splitting makes at most two more areas.
        if space.vmas.count() + 2 > settings::max_map_count() {
            return Err(Errno::ENOMEM);
        }
        // Tables at the two edges may have to be copied; that can fail, so it comes first.
        space.table.own_edges(start, end, &self.hardware)?;
        space.max_total = space.max_total.max(space.total_pages);
        while let Some(vma) = space.vmas.find_from(start).filter(|vma| vma.start < end) {
            let (from, to) = (vma.start, vma.end);
            let pages = overlap_pages(vma, start, end);
            let locked = if vma.locked { pages } else { 0 };
            let upper = (from < start && end < to).then(|| vma.clone().split_off(end));
            if from < start {
                space.vmas.resize(from, from, start);
            } else if end < to {
                space.vmas.resize(from, end, to);
            } else {
                drop(space.vmas.remove(from));
            }
            if let Some(upper) = upper {
                space.vmas.insert(upper);
            }
            space.total_pages -= pages;
            space.locked_pages -= locked;
            if to >= end {
                break;
            }
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
        // A hole counts before areas that may not be changed.
        let (mut covered, mut new_data, mut allowed) = (start, 0, Ok(()));
        while covered < end {
            let vma = space.find(covered).ok_or(Errno::ENOMEM)?;
            allowed = allowed.and_then(|()| may_protect(vma, protection));
            if protection.write && !vma.shared && !vma.protection.write && !vma.grows_down {
                new_data += overlap_pages(vma, start, end);
            }
            covered = vma.end;
        }
        allowed?;
        if new_data > 0 {
            space.charge_new_data(&self.limits(), new_data)?;
        }
        space.table.own_range(start, end, &self.hardware)?;
        space.split_at(start);
        if covered > end {
            space.split_at(end);
        }
        let mut changed = false;
        let mut at = start;
        while at < end {
            let change = |vma: &mut Vma| {
                vma.protection = protection;
                (vma.end, vma.read_flags(), vma.shared)
            };
            let (to, flags, shared) = space.vmas.change(at, change).expect("the range is covered");
            let held_back = Rights::new(flags.read, false, flags.exec);
            let full = Rights::new(flags.read, protection.write, flags.exec);
            changed |= space.table.update(at, to, &self.hardware, |pte| {
                if flags.exec && !pte.executable() {
                    frame::publish_code(pte.pfn());
                }
                // Write access comes back through a fault where the page may have to be copied.
                let write = protection.write && (pte.writable() || !shared && is_ours_alone(pte));
                pte.with_rights(if write { full } else { held_back })
            })?;
            at = to;
        }
        if changed {
            self.hardware.flush_range(start, (length / PAGE) as usize);
        }
        space.merge_range(start, end);
        Ok(())
    }

    /// Where [`Self::map`] would put a mapping. For exec, which has the address space to itself and reserves nothing.
    pub fn place(&self, placement: Placement, length: u64) -> Result<u64> {
        self.lock().place(placement, page_up(length)?, false)
    }

    /// Maps frames of the kernel one after the other, each as an area of its own. Returns the address of the first.
    pub fn map_special(&self, pages: &[(Pfn, Role, Protection)]) -> Result<u64> {
        let mut space = self.lock();
        let length = pages.len() as u64 * PAGE;
        let first = space.place(Placement::Hint(0), length, false)?;
        space.charge(&self.limits(), pages.len() as u64, false)?;
        let mut start = first;
        for (pfn, role, protection) in pages {
            let flags = PageFlags { read: true, exec: protection.exec, uncounted: true, ..PageFlags::default() };
            space.table.own_slot(start, &self.hardware)?.set(Pte::page(*pfn, flags));
            space.note_resident(1);
            space.total_pages += 1;
            space.add_area(Vma {
                start,
                end: start + PAGE,
                protection: *protection,
                shared: false,
                backing: Backing::Special,
                grows_down: false,
                role: *role,
                locked: false,
                dont_fork: false,
                wipe_on_fork: false,
                no_huge_pages: false,
                dont_dump: false,
            });
            start += PAGE;
        }
        hal::mmu::publish_entries();
        Ok(first)
    }

    /// A file lost the pages `first..end`: they go from here too.
    pub(super) fn forget_file_pages(&self, mapping: &Mapping, first: u64, end: u64) {
        let mut space = self.lock();
        let shows = |vma: &&Vma| vma.mapping().is_some_and(|known| core::ptr::eq(&**known, mapping));
        let ranges: Vec<(u64, u64)> = space
            .vmas
            .iter()
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
}

/// Whether an entry of a private area was written and is the only one for its frame: nobody else sees further writes.
fn is_ours_alone(pte: Pte) -> bool {
    pte.is_dirty() && pte.is_counted() && frame::references(pte.pfn()) == 1
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
    let may_write = file.writable() && !file.write_sealed();
    if protection.write && vma.shared && !may_write || protection.exec && !file.executable() {
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
