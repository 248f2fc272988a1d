//! File systems and their instances.
//!
//! [`FsType`] is an entry of `/proc/filesystems`; [`SuperBlock`] is one instance of it. A super block and its tree of
//! dentries point to each other, so the tree is taken apart when the last mount of the instance goes ([`SuperBlock::kill`]).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::stat::Statfs;
use hal::sync::SpinLock;

use super::dentry::Dentry;
use crate::Result;
use crate::sync::order;
use crate::task::Creds;

/// What mount(2) asks a file system for.
pub struct MountRequest<'a> {
    /// The source text: a device or a label of the caller's choice.
    pub source: &'a [u8],
    /// The data text: comma-separated options.
    pub options: &'a [u8],
    /// Who mounts.
    pub creds: &'a Creds,
}

/// A kind of file system.
pub struct FsType {
    /// Its name in mount(2) and `/proc/filesystems`.
    pub name: &'static str,
    /// Makes or finds an instance.
    pub mount: fn(&MountRequest<'_>) -> Result<Arc<SuperBlock>>,
}

hal::global! {
    static TYPES: SpinLock<Vec<&'static FsType>> = SpinLock::new(order::MOUNT, Vec::new());
    static NEXT_DEV: AtomicU32 = AtomicU32::new(1);
}

/// Makes a kind of file system known. A second registration of a name is ignored.
pub fn register(fs_type: &'static FsType) {
    let mut types = TYPES.lock();
    if !types.iter().any(|t| t.name == fs_type.name) {
        types.push(fs_type);
    }
}

/// Finds a kind of file system: `ENODEV` as mount(2) says.
pub fn find_type(name: &[u8]) -> Result<&'static FsType> {
    TYPES.lock().iter().copied().find(|t| t.name.as_bytes() == name).ok_or(Errno::ENODEV)
}

/// The text of `/proc/filesystems`. All kinds so far need no device.
pub fn show_filesystems(out: &mut dyn Write) -> core::fmt::Result {
    let types: Vec<&'static FsType> = TYPES.lock().clone();
    types.iter().try_for_each(|t| writeln!(out, "nodev\t{}", t.name))
}

/// What an instance does as a whole.
pub trait SuperOps: Any + Send + Sync {
    /// statfs(2). Flags and `f_fsid` are filled in by the VFS.
    fn statfs(&self, sb: &SuperBlock) -> Result<Statfs> {
        Ok(Statfs { f_type: sb.magic, f_bsize: 4096, f_namelen: 255, f_frsize: 4096, ..Statfs::default() })
    }

    /// Options for `/proc/mounts`, each with a comma before it.
    fn show_options(&self, _out: &mut dyn Write) -> core::fmt::Result {
        Ok(())
    }

    /// New options by a remount; unknown ones are `EINVAL`.
    fn remount(&self, _options: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Writes everything to the device.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// An instance of a file system.
pub struct SuperBlock {
    /// Its kind.
    pub fs_type: &'static FsType,
    /// `st_dev`.
    pub dev: u64,
    /// `f_type`.
    pub magic: u64,
    /// What it does.
    pub ops: Box<dyn SuperOps>,
    /// Whether names in it are shown without a path (`pipe:[7]`).
    pub is_pseudo: bool,
    read_only: AtomicU32,
    root: SpinLock<Option<Arc<Dentry>>>,
    mounts: AtomicU32,
    writers: AtomicU32,
    next_ino: AtomicU64,
}

impl SuperBlock {
    /// An instance without a root; [`Self::set_root`] completes it.
    pub fn new(fs_type: &'static FsType, magic: u64, ops: Box<dyn SuperOps>) -> Arc<Self> {
        Self::build(fs_type, magic, ops, false)
    }

    /// An instance whose files have no place in the tree.
    pub fn new_pseudo(fs_type: &'static FsType, magic: u64, ops: Box<dyn SuperOps>) -> Arc<Self> {
        Self::build(fs_type, magic, ops, true)
    }

    fn build(fs_type: &'static FsType, magic: u64, ops: Box<dyn SuperOps>, is_pseudo: bool) -> Arc<Self> {
        let minor = NEXT_DEV.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            fs_type,
            dev: abi::stat::makedev(0, minor),
            magic,
            ops,
            is_pseudo,
            read_only: AtomicU32::new(0),
            root: SpinLock::new(order::DENTRY, None),
            mounts: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            next_ino: AtomicU64::new(1),
        })
    }

    /// Sets the root directory.
    pub fn set_root(&self, root: Arc<Dentry>) {
        *self.root.lock() = Some(root);
    }

    /// The root directory; `ENOENT` once the instance was killed.
    pub fn root(&self) -> Result<Arc<Dentry>> {
        self.root.lock().clone().ok_or(Errno::ENOENT)
    }

    /// A fresh inode number.
    pub fn next_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether nothing in it may be changed.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed) != 0
    }

    /// Makes it read-only or writable (remount).
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only.store(u32::from(read_only), Ordering::Relaxed);
    }

    /// A file was opened for writing (`change` 1), or such a file is gone (-1).
    pub(super) fn count_writer(&self, change: i32) {
        self.writers.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
    }

    /// Whether files are open for writing.
    pub fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Relaxed) > 0
    }

    pub(super) fn add_mount(&self) {
        self.mounts.fetch_add(1, Ordering::Relaxed);
    }

    /// A mount is gone; with the last one the tree of dentries is taken apart, unless the kernel itself holds the
    /// instance with [`Self::pin`].
    pub(super) fn drop_mount(&self) {
        if self.mounts.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.kill();
        }
    }

    /// Keeps the instance alive without a mount, as instances that exist once are (proc, devpts).
    pub fn pin(&self) {
        self.add_mount();
    }

    fn kill(&self) {
        super::notify::unmounted(self);
        let root = self.root.lock().take();
        if let Some(root) = root {
            root.take_apart();
        }
    }
}
