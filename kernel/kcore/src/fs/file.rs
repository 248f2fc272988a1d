//! Open files.
//!
//! [`File`] is Linux's `struct file`: where it was opened, with which flags, how far it was read. What it does is its
//! [`FileOps`], chosen at open. Each missing operation answers with the errno that Linux's VFS gives when the method is
//! NULL. A file ends when the last reference goes: [`FileOps::release`] runs then, [`FileOps::flush`] at each close.

use alloc::sync::Arc;
use core::any::Any;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::fcntl as f;
use hal::sync::SpinLock;

use super::eventpoll::Watchers;
use super::inode::Inode;
use super::lock;
use super::mount::Path;
use super::notify;
use super::poll::PollTable;
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::mm::mapping::{MappedFile, Mapping};
use crate::sync::{Mutex, MutexGuard, order};

/// What `poll` says of a file that is always ready (Linux `DEFAULT_POLLMASK`): POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM.
pub const DEFAULT_POLLMASK: u32 = 0x145;

hal::global! {
    /// Open files of the whole system.
    static OPEN_FILES: AtomicU64 = AtomicU64::new(0);
    /// `/proc/sys/fs/file-max`.
    pub static FILE_MAX: AtomicU64 = AtomicU64::new(i64::MAX as u64);
}

/// How many files are open in the whole system.
pub fn open_files() -> u64 {
    OPEN_FILES.load(Ordering::Relaxed)
}

/// Whether one more may be: `ENFILE` beyond file-max, but for CAP_SYS_ADMIN (Linux `alloc_empty_file`).
pub fn admit() -> Result<()> {
    let most = FILE_MAX.load(Ordering::Relaxed);
    if open_files() >= most && !crate::task::current().capable(abi::capability::CAP_SYS_ADMIN) {
        return Err(Errno::ENFILE);
    }
    Ok(())
}

/// How the file offset takes part in reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetRule {
    /// Read, write and seek share one offset, under its lock (POSIX: "2.9.7 Thread Interactions with Regular File
    /// Operations").
    Seekable,
    /// There is none: pread, pwrite and lseek are ESPIPE (Linux `stream_open`).
    Stream,
    /// Offsets are accepted and mean nothing, as in `/dev/null`: pread works, lseek answers 0, nothing is locked.
    Ignored,
}

/// Receives directory entries. It may be called under spin locks, so it must not sleep nor touch user memory.
pub trait DirSink {
    /// One entry; `next` is the offset that continues behind it. `false`: it did not fit, stop, and keep the offset of
    /// this entry.
    fn emit(&mut self, name: &[u8], ino: u64, kind: u8, next: u64) -> bool;
}

/// What an open file does. `file` is the open file that the call came through.
pub trait FileOps: Any + Send + Sync {
    /// Reads at `*offset` and advances it.
    fn read(&self, _file: &File, _dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at `*offset` and advances it.
    fn write(&self, _file: &File, _src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// The POLL* events that hold now; with a table, also registers for changes.
    fn poll(&self, _file: &File, _table: Option<&mut PollTable>) -> u32 {
        DEFAULT_POLLMASK
    }

    /// Whether [`Self::poll`] says more than "always ready" (Linux `file_can_poll`): epoll takes no other files.
    fn can_poll(&self, file: &File) -> bool {
        !file.inode().is_regular() && !file.inode().is_dir()
    }

    /// ioctl(2).
    fn ioctl(&self, _file: &File, _command: u32, _argument: u64) -> Result<usize> {
        Err(Errno::ENOTTY)
    }

    /// Bytes that can be read at once (FIONREAD); `ENOTTY` where the notion does not exist.
    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        Err(Errno::ENOTTY)
    }

    /// Moves the offset (lseek(2)). The offset's lock is held. Not called for streams.
    fn seek(&self, file: &File, offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
        generic_seek(file, offset, change, whence)
    }

    /// Lists a directory from `*offset` on and advances it. Offsets 0 and 1 are `.` and `..` ([`super::libfs::emit_dots`]).
    fn iterate(&self, _file: &File, _sink: &mut dyn DirSink, _offset: &mut u64) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    /// The page cache to map. `ENODEV`: the file cannot be mapped.
    fn mapping(&self, _file: &File) -> Result<Arc<Mapping>> {
        Err(Errno::ENODEV)
    }

    /// Whether splice(2) can read from it. Files without a type (epoll sets, timers) have nothing to splice.
    fn can_splice_from(&self, file: &File) -> bool {
        !matches!(file.inode().kind(), 0 | abi::stat::S_IFDIR)
    }

    /// Whether splice(2) can write to it.
    fn can_splice_to(&self, file: &File) -> bool {
        self.can_splice_from(file)
    }

    /// Whether preadv2(2) and pwritev2(2) take RWF_NOWAIT (Linux `FMODE_NOWAIT`).
    fn can_nowait(&self, _file: &File) -> bool {
        false
    }

    /// Whether seals forbid shared mappings to be written (fcntl(2) F_SEAL_WRITE, F_SEAL_FUTURE_WRITE).
    fn write_sealed(&self, _file: &File) -> bool {
        false
    }

    /// fsync(2); `EINVAL` for files that cannot be synchronised.
    fn fsync(&self, _file: &File, _data_only: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// fallocate(2).
    fn fallocate(&self, _file: &File, _mode: u32, _offset: u64, _length: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// F_SETFL is about to change the status flags; may refuse.
    fn check_flags(&self, _file: &File, _flags: u32) -> Result<()> {
        Ok(())
    }

    /// FASYNC was switched.
    fn fasync(&self, _file: &File, _on: bool) -> Result<()> {
        Ok(())
    }

    /// Commands of fcntl(2) that the VFS does not know (pipe sizes, seals).
    fn fcntl(&self, _file: &File, _command: u32, _argument: u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// A descriptor was closed; others may still refer to the file. Its error is the result of close(2).
    fn flush(&self, _file: &File) -> Result<()> {
        Ok(())
    }

    /// The last reference is gone.
    fn release(&self, _file: &File) {}

    /// How the offset is used. Asked once, at open.
    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Seekable
    }

    /// The line of `/proc/PID/fdinfo/N` beyond the common ones.
    fn show_fdinfo(&self, _file: &File, _out: &mut dyn core::fmt::Write) {}
}

/// A reference to operations: a static object for those without state, a counted one for the others.
#[derive(Clone)]
pub enum OpsRef {
    /// Stateless: costs nothing to copy.
    Static(&'static dyn FileOps),
    /// Shared.
    Shared(Arc<dyn FileOps>),
}

impl Deref for OpsRef {
    type Target = dyn FileOps;
    #[inline(always)]
    fn deref(&self) -> &(dyn FileOps + 'static) {
        match self {
            OpsRef::Static(ops) => *ops,
            OpsRef::Shared(ops) => &**ops,
        }
    }
}

impl<T: FileOps> From<Arc<T>> for OpsRef {
    fn from(ops: Arc<T>) -> Self {
        OpsRef::Shared(ops)
    }
}

bitflags::bitflags! {
    /// What an open file may be used for (Linux FMODE_*).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FileMode: u32 {
        /// Opened for reading.
        const READ = 1;
        /// Opened for writing.
        const WRITE = 2;
        /// O_PATH: a place, not a file.
        const PATH = 4;
        /// It counts as a writer of its inode.
        const WRITER = 8;
        /// It keeps writers away, as a program that runs does.
        const DENY_WRITE = 16;
        /// Reads leave the access time alone (O_NOATIME, a noatime mount).
        const NOATIME = 32;
    }
}

impl FileMode {
    /// What the access mode of open flags allows. Mode 3 is Linux's "for ioctl only": neither.
    pub fn from_flags(flags: u32) -> Self {
        match flags & f::O_ACCMODE {
            f::O_RDONLY => FileMode::READ,
            f::O_WRONLY => FileMode::WRITE,
            f::O_RDWR => FileMode::READ | FileMode::WRITE,
            _ => FileMode::empty(),
        }
    }
}

/// Who gets SIGIO and SIGURG (F_SETOWN, F_SETSIG).
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner {
    /// F_OWNER_TID 0, F_OWNER_PID 1, F_OWNER_PGRP 2.
    pub kind: i32,
    /// The number; 0: nobody.
    pub number: i32,
    /// F_SETSIG; 0: SIGIO.
    pub signal: u32,
}

/// An open file.
pub struct File {
    /// Where it was opened.
    pub path: Path,
    inode: Arc<Inode>,
    ops: OpsRef,
    /// O_* status flags. The access mode in it never changes.
    flags: AtomicU32,
    mode: FileMode,
    rule: OffsetRule,
    offset: Mutex<u64>,
    /// F_SETOWN.
    pub owner: SpinLock<Owner>,
    /// Whether a flock(2) lock may be held through this file.
    pub(super) has_flock: core::sync::atomic::AtomicBool,
    /// The epoll sets that watch it; made by the first one (Linux `f_ep`).
    pub(super) watchers: spin::Once<Watchers>,
}

impl File {
    /// An open file of `path`'s inode. The open-only flags (O_CREAT, O_EXCL, O_NOCTTY, O_TRUNC) are dropped, as Linux's
    /// `do_dentry_open` does; O_CLOEXEC belongs to the descriptor.
    pub fn new(path: Path, ops: OpsRef, flags: u32, mode: FileMode) -> Arc<Self> {
        let inode = path.dentry.inode().clone();
        let rule = ops.offset_rule();
        let flags = flags & !(f::O_CREAT | f::O_EXCL | f::O_NOCTTY | f::O_TRUNC | f::O_CLOEXEC);
        OPEN_FILES.fetch_add(1, Ordering::Relaxed);
        if mode.contains(FileMode::WRITER) {
            path.mount.count_writer(1);
        }
        Arc::new(Self {
            path,
            inode,
            ops,
            flags: AtomicU32::new(flags),
            mode,
            rule,
            offset: Mutex::new(0),
            owner: SpinLock::new(order::FILES, Owner::default()),
            has_flock: core::sync::atomic::AtomicBool::new(false),
            watchers: spin::Once::new(),
        })
    }

    /// Its inode.
    #[inline(always)]
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// Its operations.
    #[inline(always)]
    pub fn ops(&self) -> &dyn FileOps {
        &*self.ops
    }

    /// Its operations as their concrete type.
    pub fn ops_as<T: FileOps>(&self) -> Option<&T> {
        let any: &dyn Any = self.ops();
        any.downcast_ref()
    }

    /// O_* status flags with the access mode.
    #[inline]
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Whether O_NONBLOCK is set.
    #[inline]
    pub fn is_nonblocking(&self) -> bool {
        self.flags() & f::O_NONBLOCK != 0
    }

    /// Replaces the status flags that `mask` names.
    pub fn change_flags(&self, mask: u32, flags: u32) {
        let update = |old: u32| Some(old & !mask | flags & mask);
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    /// What it may be used for.
    #[inline(always)]
    pub fn mode(&self) -> FileMode {
        self.mode
    }

    /// How its offset is used.
    #[inline(always)]
    pub fn offset_rule(&self) -> OffsetRule {
        self.rule
    }

    /// Locks the offset.
    pub fn lock_offset(&self) -> MutexGuard<'_, u64> {
        self.offset.lock()
    }

    /// read(2): `EBADF` when not open for reading.
    #[inline]
    pub fn read(&self, dst: &mut IoDst<'_>) -> Result<usize> {
        if !self.mode.contains(FileMode::READ) {
            return Err(Errno::EBADF);
        }
        let outcome = if self.rule == OffsetRule::Seekable {
            let mut offset = self.offset.lock();
            self.ops.read(self, dst, &mut offset)
        } else {
            self.ops.read(self, dst, &mut 0)
        };
        notify::accessed(self, &outcome);
        outcome
    }

    /// write(2): `EBADF` when not open for writing.
    #[inline]
    pub fn write(&self, src: &mut IoSrc<'_>) -> Result<usize> {
        if !self.mode.contains(FileMode::WRITE) {
            return Err(Errno::EBADF);
        }
        let outcome = if self.rule == OffsetRule::Seekable {
            let mut offset = self.offset.lock();
            self.ops.write(self, src, &mut offset)
        } else {
            self.ops.write(self, src, &mut 0)
        };
        notify::modified(self, &outcome);
        outcome
    }

    /// pread(2): `ESPIPE` for streams.
    pub fn read_at(&self, dst: &mut IoDst<'_>, mut offset: u64) -> Result<usize> {
        if !self.mode.contains(FileMode::READ) {
            return Err(Errno::EBADF);
        }
        if self.rule == OffsetRule::Stream {
            return Err(Errno::ESPIPE);
        }
        let outcome = self.ops.read(self, dst, &mut offset);
        notify::accessed(self, &outcome);
        outcome
    }

    /// pwrite(2): `ESPIPE` for streams.
    pub fn write_at(&self, src: &mut IoSrc<'_>, mut offset: u64) -> Result<usize> {
        if !self.mode.contains(FileMode::WRITE) {
            return Err(Errno::EBADF);
        }
        if self.rule == OffsetRule::Stream {
            return Err(Errno::ESPIPE);
        }
        let outcome = self.ops.write(self, src, &mut offset);
        notify::modified(self, &outcome);
        outcome
    }

    /// Reads bytes at an offset into a kernel buffer until it is full or the file ends, as exec reads headers.
    pub fn read_kernel(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let mut at = offset + done as u64;
            match self.ops.read(self, &mut IoDst::kernel(rest), &mut at)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    /// lseek(2).
    pub fn seek(&self, change: i64, whence: u32) -> Result<u64> {
        match self.rule {
            OffsetRule::Stream => Err(Errno::ESPIPE),
            OffsetRule::Ignored => Ok(0),
            OffsetRule::Seekable => {
                let mut offset = self.offset.lock();
                self.ops.seek(self, &mut offset, change, whence)
            }
        }
    }

    /// poll(2) for this file.
    pub fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        self.ops.poll(self, table)
    }

    /// The page cache to map.
    pub fn mapping(&self) -> Result<Arc<Mapping>> {
        self.ops.mapping(self)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
        if self.mode.contains(FileMode::PATH) {
            return;
        }
        notify::closed(self);
        if let Some(watchers) = self.watchers.get() {
            watchers.release(self);
        }
        lock::file_gone(self);
        self.ops.release(self);
        if self.mode.contains(FileMode::WRITER) {
            self.inode.put_write_access();
            self.path.mount.count_writer(-1);
        }
        if self.mode.contains(FileMode::DENY_WRITE) {
            self.inode.allow_write();
        }
    }
}

/// lseek(2) over the inode's size (Linux `generic_file_llseek`, SEEK_DATA and SEEK_HOLE where there is a page cache).
pub fn generic_seek(file: &File, offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
    let size = file.inode.size();
    let mapping = file.inode.mapping();
    let target = match whence {
        f::SEEK_SET => change,
        f::SEEK_CUR => offset.cast_signed().checked_add(change).ok_or(Errno::EOVERFLOW)?,
        f::SEEK_END => size.cast_signed().checked_add(change).ok_or(Errno::EOVERFLOW)?,
        f::SEEK_DATA | f::SEEK_HOLE => {
            let from = u64::try_from(change).map_err(|_| Errno::ENXIO)?;
            if from >= size {
                return Err(Errno::ENXIO);
            }
            let found = match (mapping, whence) {
                (Some(mapping), f::SEEK_DATA) => mapping.next_data(from).filter(|at| *at < size).ok_or(Errno::ENXIO)?,
                (Some(mapping), _) => mapping.next_hole(from).unwrap_or(size).min(size),
                // Without a page cache all is data and the one hole is the end.
                (None, f::SEEK_DATA) => from,
                (None, _) => size,
            };
            found.cast_signed()
        }
        _ => return Err(Errno::EINVAL),
    };
    let target = u64::try_from(target).map_err(|_| Errno::EINVAL)?;
    *offset = target;
    Ok(target)
}

impl MappedFile for File {
    fn mapping(&self) -> Arc<Mapping> {
        // mmap(2) asked before it made the area, so a file without one never gets here; an empty one faults as SIGBUS.
        self.ops.mapping(self).unwrap_or_else(|_| Mapping::new())
    }

    fn name(&self) -> alloc::vec::Vec<u8> {
        super::namei::display_path(&self.path, None)
    }

    fn device_and_inode(&self) -> (u32, u32, u64) {
        let (major, minor) = abi::stat::split_dev(self.inode.sb.dev as u32);
        (major, minor, self.inode.ino)
    }

    fn path(&self) -> Option<Path> {
        Some(self.path.clone())
    }

    fn mode_and_links(&self) -> (u32, u32) {
        (self.inode.mode(), self.inode.nlink())
    }

    fn readable(&self) -> bool {
        self.mode.contains(FileMode::READ)
    }

    fn writable(&self) -> bool {
        self.mode.contains(FileMode::WRITE)
    }

    fn write_sealed(&self) -> bool {
        self.ops.write_sealed(self)
    }

    fn executable(&self) -> bool {
        self.path.mount.flags() & super::mount::mnt::NOEXEC == 0
    }
}
