//! Memory: mmap(2), munmap(2), mprotect(2), mremap(2), madvise(2), brk(2), mincore(2), msync(2), mlock(2).

use alloc::sync::Arc;

use abi::Errno;
use abi::capability::CAP_IPC_LOCK;
use abi::mman as m;
use abi::resource::{RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK, RLIMIT_STACK};

use super::Context;
use crate::Result;
use crate::mm::space::Limits;
use crate::mm::{Backing, MapRequest, MappedFile, Mapping, Mm, Placement, Protection, TASK_SIZE};
use crate::task::Task;

const PAGE: u64 = hal::mem::PAGE_SIZE as u64;

/// The limits of a process, for operations that are charged.
pub(crate) fn limits_of(task: &Task) -> Limits {
    let memlock = if task.capable(CAP_IPC_LOCK) { u64::MAX } else { task.rlimit(RLIMIT_MEMLOCK) };
    let (address_space, data, stack) = size_limits_of(task);
    Limits { address_space, data, stack, memlock }
}

fn size_limits_of(task: &Task) -> (u64, u64, u64) {
    let limits = task.group.limits.lock();
    let soft = |resource: u32| limits[resource as usize].rlim_cur;
    (soft(RLIMIT_AS), soft(RLIMIT_DATA), soft(RLIMIT_STACK))
}

fn mm_of(cx: &Context<'_>) -> Result<Arc<Mm>> {
    cx.task.mm().ok_or(Errno::EFAULT)
}

/// The address space with the process's limits in force. RLIMIT_MEMLOCK, which depends on capabilities, only where memory is
/// locked.
fn charged_mm(cx: &Context<'_>) -> Result<Arc<Mm>> {
    let mm = mm_of(cx)?;
    if mm.locks_memory() {
        mm.set_limits(limits_of(&cx.task));
    } else {
        let (address_space, data, stack) = size_limits_of(&cx.task);
        mm.set_size_limits(address_space, data, stack);
    }
    Ok(mm)
}

/// The same for calls that lock memory.
fn locking_mm(cx: &Context<'_>) -> Result<Arc<Mm>> {
    let mm = mm_of(cx)?;
    mm.will_lock_memory();
    mm.set_limits(limits_of(&cx.task));
    Ok(mm)
}

/// A page range from an address and a length that is rounded up: `EINVAL` for a misaligned start, `ENOMEM` past the end.
fn page_range(start: u64, length: u64) -> Result<(u64, u64)> {
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let length = length.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
    let end = start.checked_add(length).filter(|end| *end <= TASK_SIZE).ok_or(Errno::ENOMEM)?;
    Ok((start, end))
}

/// mmap(2).
pub fn mmap(
    cx: &mut Context<'_>,
    address: u64,
    length: u64,
    protection: u32,
    flags: u32,
    fd: i32,
    offset: u64,
) -> Result<usize> {
    if !offset.is_multiple_of(PAGE) || length == 0 {
        return Err(Errno::EINVAL);
    }
    let shared = match flags & m::MAP_TYPE {
        m::MAP_PRIVATE => false,
        m::MAP_SHARED => true,
        m::MAP_SHARED_VALIDATE if flags & m::MAP_SYNC == 0 => true,
        m::MAP_SHARED_VALIDATE => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    // There are no huge pages to be had.
    if flags & m::MAP_HUGETLB != 0 {
        return Err(Errno::ENOMEM);
    }
    let protection = Protection::from_bits(protection);
    let backing = backing_of(cx, flags, fd, offset, length, shared, protection)?;
    let placement = if flags & m::MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedNoReplace(address)
    } else if flags & m::MAP_FIXED != 0 {
        Placement::Fixed(address)
    } else {
        Placement::Hint(address)
    };
    let mm = if flags & m::MAP_LOCKED != 0 {
        may_lock(cx)?;
        locking_mm(cx)?
    } else {
        charged_mm(cx)?
    };
    let start = mm.map(MapRequest {
        shared,
        backing,
        grows_down: flags & m::MAP_GROWSDOWN != 0,
        locked: flags & m::MAP_LOCKED != 0,
        no_reserve: flags & m::MAP_NORESERVE != 0,
        ..MapRequest::anonymous(placement, length, protection)
    })?;
    if flags & m::MAP_POPULATE != 0 && flags & m::MAP_NONBLOCK == 0 {
        mm.populate(start, start + length);
    }
    Ok(start as usize)
}

fn backing_of(
    cx: &Context<'_>,
    flags: u32,
    fd: i32,
    offset: u64,
    length: u64,
    shared: bool,
    protection: Protection,
) -> Result<Backing> {
    if flags & m::MAP_ANONYMOUS != 0 {
        if !shared {
            return Ok(Backing::Anonymous);
        }
        let mapping = Mapping::new_anonymous(length.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?);
        return Ok(Backing::SharedAnonymous { mapping, offset: 0 });
    }
    let file = cx.files().get(fd)?;
    crate::mm::mapping::end_of(offset, length)?;
    // mmap(2) EACCES: not open for reading, or shared and writable but not open for writing; EPERM: noexec.
    if !file.readable() || shared && protection.write && !file.writable() {
        return Err(Errno::EACCES);
    }
    if shared && protection.write && file.write_sealed() {
        return Err(Errno::EPERM);
    }
    if protection.exec && !file.executable() {
        return Err(Errno::EPERM);
    }
    let mapping = crate::fs::File::mapping(&file)?;
    Ok(Backing::File { file, mapping, offset })
}

/// munmap(2).
pub fn munmap(cx: &mut Context<'_>, address: u64, length: u64) -> Result<usize> {
    mm_of(cx)?.unmap(address, length)?;
    Ok(0)
}

/// mprotect(2).
pub fn mprotect(cx: &mut Context<'_>, address: u64, length: u64, protection: u32) -> Result<usize> {
    const KNOWN: u32 = m::PROT_READ | m::PROT_WRITE | m::PROT_EXEC;
    // PROT_GROWSDOWN and PROT_GROWSUP need an area that grows; BTI and MTE are not on these CPUs.
    if protection & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    charged_mm(cx)?.protect(address, length, Protection::from_bits(protection))?;
    Ok(0)
}

/// brk(2): returns the break, moved or not.
pub fn brk(cx: &mut Context<'_>, address: u64) -> Result<usize> {
    Ok(charged_mm(cx)?.set_brk(address) as usize)
}

/// mremap(2).
pub fn mremap(cx: &mut Context<'_>, old: u64, old_length: u64, new_length: u64, flags: u32, new: u64) -> Result<usize> {
    if flags & !(m::MREMAP_MAYMOVE | m::MREMAP_FIXED) != 0 {
        return Err(Errno::EINVAL);
    }
    let may_move = flags & m::MREMAP_MAYMOVE != 0;
    let fixed = (flags & m::MREMAP_FIXED != 0).then_some(new);
    if fixed.is_some() && !may_move {
        return Err(Errno::EINVAL);
    }
    Ok(charged_mm(cx)?.remap(old, old_length, new_length, may_move, fixed)? as usize)
}

/// madvise(2).
pub fn madvise(cx: &mut Context<'_>, address: u64, length: u64, advice: u32) -> Result<usize> {
    let (start, end) = page_range(address, length).map_err(|_| Errno::EINVAL)?;
    let mm = mm_of(cx)?;
    if start == end {
        return Ok(0);
    }
    match advice {
        m::MADV_NORMAL | m::MADV_RANDOM | m::MADV_SEQUENTIAL | m::MADV_COLD | m::MADV_PAGEOUT => {
            mm.check_mapped(start, end)?
        }
        m::MADV_DONTNEED | m::MADV_FREE => mm.discard_range(start, end)?,
        m::MADV_WILLNEED => {
            mm.check_mapped(start, end)?;
            mm.populate(start, end);
        }
        m::MADV_POPULATE_READ | m::MADV_POPULATE_WRITE => {
            mm.check_mapped(start, end)?;
            mm.populate(start, end);
        }
        m::MADV_HUGEPAGE | m::MADV_NOHUGEPAGE => mm.change_areas(start, end, |vma| {
            vma.no_huge_pages = advice == m::MADV_NOHUGEPAGE;
            Ok(())
        })?,
        m::MADV_DONTDUMP | m::MADV_DODUMP => mm.change_areas(start, end, |vma| {
            // What is never dumped cannot be asked for (Linux VM_SPECIAL).
            if advice == m::MADV_DODUMP && matches!(vma.backing, Backing::Special) {
                return Err(Errno::EINVAL);
            }
            vma.dont_dump = advice == m::MADV_DONTDUMP;
            Ok(())
        })?,
        m::MADV_DONTFORK | m::MADV_DOFORK => mm.change_areas(start, end, |vma| {
            vma.dont_fork = advice == m::MADV_DONTFORK;
            Ok(())
        })?,
        m::MADV_WIPEONFORK | m::MADV_KEEPONFORK => mm.change_areas(start, end, |vma| {
            if vma.shared || !matches!(vma.backing, Backing::Anonymous) {
                return Err(Errno::EINVAL);
            }
            vma.wipe_on_fork = advice == m::MADV_WIPEONFORK;
            Ok(())
        })?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// mincore(2).
pub fn mincore(cx: &mut Context<'_>, address: u64, length: u64, vector: u64) -> Result<usize> {
    let (start, end) = page_range(address, length)?;
    let mm = mm_of(cx)?;
    let mut at = start;
    while at < end {
        // Bounded pieces: the vector of a whole address space would not fit the heap.
        let stop = end.min(at + 4096 * PAGE);
        let map = mm.residency(at, ((stop - at) / PAGE) as usize)?;
        hal::uaccess::copy_to_user(vector.wrapping_add((at - start) / PAGE), &map).map_err(|_| Errno::EFAULT)?;
        at = stop;
    }
    Ok(0)
}

/// msync(2). Files live in memory: there is nothing to write, only the range to check.
pub fn msync(cx: &mut Context<'_>, address: u64, length: u64, flags: u32) -> Result<usize> {
    if flags & !(m::MS_ASYNC | m::MS_INVALIDATE | m::MS_SYNC) != 0
        || flags & m::MS_ASYNC != 0 && flags & m::MS_SYNC != 0
    {
        return Err(Errno::EINVAL);
    }
    let (start, end) = page_range(address, length)?;
    mm_of(cx)?.check_mapped(start, end)?;
    Ok(0)
}

/// Locking memory needs a limit above 0 or CAP_IPC_LOCK (Linux `can_do_mlock`).
fn may_lock(cx: &Context<'_>) -> Result<()> {
    if cx.task.rlimit(RLIMIT_MEMLOCK) == 0 && !cx.task.capable(CAP_IPC_LOCK) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// mlock(2).
pub fn mlock(cx: &mut Context<'_>, address: u64, length: u64) -> Result<usize> {
    may_lock(cx)?;
    let (start, end) = lock_range(address, length)?;
    locking_mm(cx)?.lock_range(start, end)?;
    Ok(0)
}

/// mlock rounds the start down, unlike its neighbours.
fn lock_range(address: u64, length: u64) -> Result<(u64, u64)> {
    let start = address / PAGE * PAGE;
    let length = length.checked_add(address - start).ok_or(Errno::EINVAL)?;
    page_range(start, length)
}

/// munlock(2).
pub fn munlock(cx: &mut Context<'_>, address: u64, length: u64) -> Result<usize> {
    let (start, end) = lock_range(address, length)?;
    mm_of(cx)?.change_areas(start, end, |vma| {
        vma.locked = false;
        Ok(())
    })?;
    Ok(0)
}

/// mlockall(2).
pub fn mlockall(cx: &mut Context<'_>, flags: u32) -> Result<usize> {
    if flags == 0 || flags & !(m::MCL_CURRENT | m::MCL_FUTURE | m::MCL_ONFAULT) != 0 || flags == m::MCL_ONFAULT {
        return Err(Errno::EINVAL);
    }
    may_lock(cx)?;
    locking_mm(cx)?.lock_all(flags & m::MCL_CURRENT != 0, flags & m::MCL_FUTURE != 0)?;
    Ok(0)
}

/// munlockall(2).
pub fn munlockall(cx: &mut Context<'_>) -> Result<usize> {
    mm_of(cx)?.unlock_all();
    Ok(0)
}
