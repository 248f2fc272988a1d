//! Descriptor tables (Linux `files_struct`).
//!
//! A slot of [`Files`] goes from free to reserved to open: a call that makes a file reserves the number first, so that
//! `EMFILE` comes before any side effect, and installs the file when it is complete (Linux `get_unused_fd_flags`,
//! `fd_install`). Files are dropped only after the table's lock is released, because a last close may sleep.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::fcntl::O_CLOEXEC;
use hal::sync::SpinLock;

use super::file::{File, FileMode};
use super::lock;
use crate::Result;
use crate::sync::order;

/// The most that a table can hold, whatever RLIMIT_NOFILE says (`/proc/sys/fs/nr_open` at boot).
pub const NR_OPEN: u64 = 1 << 20;

hal::global! {
    /// `/proc/sys/fs/nr_open`: what RLIMIT_NOFILE may be raised to.
    pub static NR_OPEN_SETTING: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(NR_OPEN);
}

/// `/proc/sys/fs/nr_open`.
pub fn nr_open() -> u64 {
    NR_OPEN_SETTING.load(core::sync::atomic::Ordering::Relaxed)
}

/// Whether a descriptor is closed by execve(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExec {
    /// It stays open.
    Keep,
    /// FD_CLOEXEC.
    Close,
}

impl OnExec {
    /// From O_CLOEXEC in open flags.
    pub fn from_flags(flags: u32) -> Self {
        if flags & O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep }
    }
}

#[derive(Default)]
struct Table {
    slots: Vec<Option<Arc<File>>>,
    /// A bit per slot that is reserved or open.
    used: Vec<u64>,
    close_on_exec: Vec<u64>,
    /// All numbers below are used.
    next: usize,
}

const WORD: usize = 64;

fn get_bit(words: &[u64], bit: usize) -> bool {
    words.get(bit / WORD).is_some_and(|word| word >> (bit % WORD) & 1 != 0)
}

fn put_bit(words: &mut [u64], bit: usize, value: bool) {
    if let Some(word) = words.get_mut(bit / WORD) {
        let mask = 1 << (bit % WORD);
        *word = if value { *word | mask } else { *word & !mask };
    }
}

impl Table {
    /// The lowest free number from `from` on. It may be beyond the slots.
    fn lowest_free(&self, from: usize) -> usize {
        let from = from.max(self.next);
        let mut at = from;
        while let Some(word) = self.used.get(at / WORD) {
            let free = !word >> (at % WORD);
            if free != 0 {
                return at + free.trailing_zeros() as usize;
            }
            at = (at / WORD + 1) * WORD;
        }
        at
    }

    fn grow_to(&mut self, fd: usize) -> Result<()> {
        if fd < self.slots.len() {
            return Ok(());
        }
        let words = (fd / WORD + 1).next_power_of_two();
        let length = words * WORD;
        self.slots.try_reserve_exact(length - self.slots.len()).map_err(|_| Errno::ENOMEM)?;
        for bits in [&mut self.used, &mut self.close_on_exec] {
            bits.try_reserve_exact(words - bits.len()).map_err(|_| Errno::ENOMEM)?;
            bits.resize(words, 0);
        }
        self.slots.resize_with(length, || None);
        Ok(())
    }

    fn reserve(&mut self, from: usize, limit: u64, on_exec: OnExec) -> Result<usize> {
        let fd = self.lowest_free(from);
        if fd as u64 >= limit.min(nr_open()) {
            return Err(Errno::EMFILE);
        }
        self.grow_to(fd)?;
        put_bit(&mut self.used, fd, true);
        put_bit(&mut self.close_on_exec, fd, on_exec == OnExec::Close);
        if from <= self.next {
            self.next = fd + 1;
        }
        Ok(fd)
    }

    /// Frees a number; `None` if it was not open.
    fn take(&mut self, fd: usize) -> Option<Arc<File>> {
        let file = self.slots.get_mut(fd)?.take()?;
        self.free(fd);
        Some(file)
    }

    fn free(&mut self, fd: usize) {
        put_bit(&mut self.used, fd, false);
        put_bit(&mut self.close_on_exec, fd, false);
        self.next = self.next.min(fd);
    }
}

/// A descriptor table.
pub struct Files {
    table: SpinLock<Table>,
}

fn index(fd: i32) -> Result<usize> {
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}

impl Files {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { table: SpinLock::new(order::FILES, Table::default()) })
    }

    /// A copy with the same files (fork(2)). Numbers that are only reserved are not copied.
    pub fn fork(&self) -> Result<Arc<Self>> {
        loop {
            // Room is made without the lock: the heap may have to ask for frames.
            let length = self.table.lock().slots.len();
            let mut copy = Table::default();
            if length > 0 {
                copy.grow_to(length - 1)?;
            }
            let table = self.table.lock();
            if table.slots.len() > copy.slots.len() {
                continue;
            }
            for (fd, slot) in table.slots.iter().enumerate() {
                if let Some(file) = slot {
                    copy.slots[fd] = Some(file.clone());
                    put_bit(&mut copy.used, fd, true);
                    put_bit(&mut copy.close_on_exec, fd, get_bit(&table.close_on_exec, fd));
                }
            }
            drop(table);
            return Ok(Arc::new(Self { table: SpinLock::new(order::FILES, copy) }));
        }
    }

    /// The file behind a descriptor, O_PATH ones included (Linux `fdget_raw`).
    #[inline]
    pub fn get_any(&self, fd: i32) -> Result<Arc<File>> {
        let fd = index(fd)?;
        let table = self.table.lock();
        table.slots.get(fd).and_then(Option::as_ref).cloned().ok_or(Errno::EBADF)
    }

    /// The file behind a descriptor; `EBADF` for O_PATH files (Linux `fdget`).
    #[inline]
    pub fn get(&self, fd: i32) -> Result<Arc<File>> {
        let file = self.get_any(fd)?;
        if file.mode().contains(FileMode::PATH) { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// Reserves the lowest free number from `from` on. `EMFILE` when that is not below `limit` (RLIMIT_NOFILE).
    pub fn reserve(&self, from: usize, limit: u64, on_exec: OnExec) -> Result<i32> {
        let fd = self.table.lock().reserve(from, limit, on_exec)?;
        i32::try_from(fd).map_err(|_| Errno::EMFILE)
    }

    /// Opens a reserved number.
    pub fn install(&self, fd: i32, file: Arc<File>) {
        let Ok(fd) = index(fd) else { return };
        let mut table = self.table.lock();
        if let Some(slot) = table.slots.get_mut(fd) {
            debug_assert!(slot.is_none(), "a reserved descriptor is not open");
            *slot = Some(file);
        }
    }

    /// Gives a reserved number back.
    pub fn unreserve(&self, fd: i32) {
        if let Ok(fd) = index(fd) {
            self.table.lock().free(fd);
        }
    }

    /// Gives a number back if it is reserved and not open.
    pub fn unreserve_if_reserved(&self, fd: i32) {
        let Ok(fd) = index(fd) else { return };
        let mut table = self.table.lock();
        if get_bit(&table.used, fd) && table.slots.get(fd).is_some_and(Option::is_none) {
            table.free(fd);
        }
    }

    /// Reserves and installs at once, for files that are already made.
    pub fn add(&self, file: Arc<File>, from: usize, limit: u64, on_exec: OnExec) -> Result<i32> {
        let mut table = self.table.lock();
        let fd = table.reserve(from, limit, on_exec)?;
        table.slots[fd] = Some(file);
        drop(table);
        i32::try_from(fd).map_err(|_| Errno::EMFILE)
    }

    /// Makes `fd` refer to `file`, closing what it was (dup2(2)). `EBADF` for a number not below `limit`; `EBUSY` for one
    /// that another thread is about to open.
    pub fn replace(&self, fd: i32, file: Arc<File>, limit: u64, on_exec: OnExec) -> Result<()> {
        let fd = index(fd)?;
        if fd as u64 >= limit.min(nr_open()) {
            return Err(Errno::EBADF);
        }
        let old = {
            let mut table = self.table.lock();
            table.grow_to(fd)?;
            if get_bit(&table.used, fd) && table.slots[fd].is_none() {
                return Err(Errno::EBUSY);
            }
            put_bit(&mut table.used, fd, true);
            put_bit(&mut table.close_on_exec, fd, on_exec == OnExec::Close);
            table.slots[fd].replace(file)
        };
        if let Some(old) = old {
            // dup2(2): errors of the implied close are lost.
            let _ = self.finish_close(old);
        }
        Ok(())
    }

    /// close(2).
    pub fn close(&self, fd: i32) -> Result<()> {
        let fd = index(fd)?;
        let file = self.table.lock().take(fd).ok_or(Errno::EBADF)?;
        self.finish_close(file)
    }

    /// What every close does after the number is free: POSIX locks of this table on the file go (fcntl(2)), the file is
    /// flushed.
    fn finish_close(&self, file: Arc<File>) -> Result<()> {
        if file.mode().contains(FileMode::PATH) {
            return Ok(());
        }
        let flushed = file.ops().flush(&file);
        lock::posix_owner_closed(&file, self.lock_owner());
        flushed
    }

    /// Closes all of `first..=last`.
    pub fn close_range(&self, first: u32, last: u32) {
        let mut at = first as usize;
        loop {
            let file = {
                let mut table = self.table.lock();
                let end = table.slots.len().min(last as usize + 1);
                let Some(fd) = (at..end).find(|fd| table.slots[*fd].is_some()) else { return };
                at = fd + 1;
                table.take(fd)
            };
            if let Some(file) = file {
                let _ = self.finish_close(file);
            }
        }
    }

    /// Marks all open ones of `first..=last` close-on-exec.
    pub fn mark_range_close_on_exec(&self, first: u32, last: u32) {
        let mut table = self.table.lock();
        let end = table.slots.len().min(last as usize + 1);
        for fd in first as usize..end {
            if get_bit(&table.used, fd) {
                put_bit(&mut table.close_on_exec, fd, true);
            }
        }
    }

    /// execve(2) happened: closes what is marked.
    pub fn close_on_exec(&self) {
        let mut at = 0;
        loop {
            let file = {
                let mut table = self.table.lock();
                let words = &table.close_on_exec;
                let Some(word) = (at / WORD..words.len()).find(|word| words[*word] != 0) else { return };
                let fd = word * WORD + words[word].trailing_zeros() as usize;
                at = fd;
                let taken = table.take(fd);
                if taken.is_none() {
                    // Reserved by nobody who is left: exec has one thread.
                    table.free(fd);
                }
                taken
            };
            if let Some(file) = file {
                let _ = self.finish_close(file);
            }
        }
    }

    /// FD_CLOEXEC of an open descriptor.
    pub fn on_exec(&self, fd: i32) -> Result<OnExec> {
        let index = index(fd)?;
        let table = self.table.lock();
        if table.slots.get(index).and_then(Option::as_ref).is_none() {
            return Err(Errno::EBADF);
        }
        Ok(if get_bit(&table.close_on_exec, index) { OnExec::Close } else { OnExec::Keep })
    }

    /// Sets FD_CLOEXEC.
    pub fn set_on_exec(&self, fd: i32, on_exec: OnExec) -> Result<()> {
        let index = index(fd)?;
        let mut table = self.table.lock();
        if table.slots.get(index).and_then(Option::as_ref).is_none() {
            return Err(Errno::EBADF);
        }
        put_bit(&mut table.close_on_exec, index, on_exec == OnExec::Close);
        Ok(())
    }

    /// The first open descriptor from `from` on, for `/proc/PID/fd`.
    pub fn next_open(&self, from: usize) -> Option<(i32, Arc<File>)> {
        let table = self.table.lock();
        let (fd, file) =
            table.slots.iter().enumerate().skip(from).find_map(|(fd, slot)| slot.as_ref().map(|file| (fd, file)))?;
        Some((i32::try_from(fd).ok()?, file.clone()))
    }

    /// How many slots the table has (FDSize of `/proc/PID/status`).
    pub fn size(&self) -> usize {
        self.table.lock().slots.len()
    }

    /// Who holds POSIX locks taken through this table.
    pub fn lock_owner(&self) -> lock::OwnerId {
        lock::OwnerId::of(self)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let table = core::mem::take(self.table.get_mut());
        for file in table.slots.into_iter().flatten() {
            let _ = self.finish_close(file);
        }
    }
}
