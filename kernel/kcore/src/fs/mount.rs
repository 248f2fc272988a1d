//! Mounts: where file systems are seen.
//!
//! A [`Mount`] shows a tree of dentries at a place of another mount. All attached mounts are in one table, found by the
//! place that they cover; a [`MountNamespace`] knows its root and the order of its mounts. Every change of the table
//! happens under [`TREE`], a sleeping lock (Linux `namespace_sem`); walks take only the spin lock of the table, and only
//! at dentries that are covered.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use hal::sync::SpinLock;

use super::dentry::Dentry;
use super::super_block::SuperBlock;
use crate::Result;
use crate::sync::{Mutex, order};

/// `MS_*` flags of mount(2).
pub mod ms {
    /// MS_RDONLY.
    pub const RDONLY: u64 = 1;
    /// MS_NOSUID.
    pub const NOSUID: u64 = 2;
    /// MS_NODEV.
    pub const NODEV: u64 = 4;
    /// MS_NOEXEC.
    pub const NOEXEC: u64 = 8;
    /// MS_REMOUNT.
    pub const REMOUNT: u64 = 32;
    /// MS_NOATIME.
    pub const NOATIME: u64 = 1024;
    /// MS_NODIRATIME.
    pub const NODIRATIME: u64 = 2048;
    /// MS_BIND.
    pub const BIND: u64 = 4096;
    /// MS_MOVE.
    pub const MOVE: u64 = 8192;
    /// MS_REC.
    pub const REC: u64 = 16384;
    /// MS_UNBINDABLE.
    pub const UNBINDABLE: u64 = 1 << 17;
    /// MS_PRIVATE.
    pub const PRIVATE: u64 = 1 << 18;
    /// MS_SLAVE.
    pub const SLAVE: u64 = 1 << 19;
    /// MS_SHARED.
    pub const SHARED: u64 = 1 << 20;
    /// MS_RELATIME.
    pub const RELATIME: u64 = 1 << 21;
    /// MS_STRICTATIME.
    pub const STRICTATIME: u64 = 1 << 24;
}

/// Flags of a mount; the numbers are those of `MS_*`.
pub mod mnt {
    use super::ms;
    /// The flags that belong to a mount rather than to its file system.
    pub const MASK: u32 = (ms::RDONLY | ms::NOSUID | ms::NODEV | ms::NOEXEC | ms::NOATIME | ms::NODIRATIME) as u32;
    /// Nothing may be changed through it.
    pub const READONLY: u32 = ms::RDONLY as u32;
    /// Set-user-ID bits have no effect.
    pub const NOSUID: u32 = ms::NOSUID as u32;
    /// Device nodes cannot be opened.
    pub const NODEV: u32 = ms::NODEV as u32;
    /// Programs cannot be run.
    pub const NOEXEC: u32 = ms::NOEXEC as u32;
    /// Reads leave access times alone.
    pub const NOATIME: u32 = ms::NOATIME as u32;
    /// The same for directories.
    pub const NODIRATIME: u32 = ms::NODIRATIME as u32;
}

/// A place: a dentry as seen through a mount.
#[derive(Clone)]
pub struct Path {
    /// Through which mount.
    pub mount: Arc<Mount>,
    /// Which dentry.
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// Whether both are the same place.
    pub fn is_same(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.dentry, &other.dentry) && Arc::ptr_eq(&self.mount, &other.mount)
    }
}

/// A file system seen at a place.
pub struct Mount {
    /// Its number in `/proc/self/mountinfo`.
    pub id: u32,
    /// What is mounted.
    pub sb: Arc<SuperBlock>,
    /// The directory of it that is seen; not its root for a bind mount.
    pub root: Arc<Dentry>,
    /// The source text of mount(2).
    pub source: Arc<[u8]>,
    flags: AtomicU32,
    /// The place it covers; `None` for the root and for detached mounts.
    at: SpinLock<Option<Path>>,
}

type Key = (u32, usize);

hal::global! {
    /// Attached mounts by the place that they cover: id of the mount below, address of the dentry.
    static COVERED: SpinLock<BTreeMap<Key, Arc<Mount>>> = SpinLock::new(order::MOUNT, BTreeMap::new());
    static NEXT_ID: AtomicU32 = AtomicU32::new(1);
    /// Serialises changes of the mount tree.
    static TREE: Mutex<()> = Mutex::new(());
    static INITIAL: spin::Once<Arc<MountNamespace>> = spin::Once::new();
}

fn key(at: &Path) -> Key {
    (at.mount.id, Arc::as_ptr(&at.dentry) as usize)
}

impl Mount {
    /// A mount that is attached nowhere.
    pub fn new(sb: Arc<SuperBlock>, root: Arc<Dentry>, source: Arc<[u8]>, flags: u32) -> Arc<Self> {
        sb.add_mount();
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            sb,
            root,
            source,
            flags: AtomicU32::new(flags & mnt::MASK),
            at: SpinLock::new(order::MOUNT, None),
        })
    }

    /// Its flags ([`mnt`]).
    #[inline(always)]
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Whether nothing may be changed through it.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        self.flags() & mnt::READONLY != 0 || self.sb.is_read_only()
    }

    /// `EROFS` when nothing may be changed through it (Linux `mnt_want_write`).
    #[inline]
    pub fn want_write(&self) -> Result<()> {
        if self.is_read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// The place it covers.
    pub fn mountpoint(&self) -> Option<Path> {
        self.at.lock().clone()
    }

    /// Its root as a path.
    pub fn root_path(self: &Arc<Self>) -> Path {
        Path { mount: self.clone(), dentry: self.root.clone() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.sb.drop_mount();
    }
}

/// The mount that covers a place, if any.
pub fn lookup(path: &Path) -> Option<Arc<Mount>> {
    if !path.dentry.is_mountpoint() {
        return None;
    }
    COVERED.lock().get(&key(path)).cloned()
}

/// The top of what is mounted on a place (Linux `follow_down`).
#[inline]
pub fn follow_down(path: &mut Path) {
    while path.dentry.is_mountpoint() {
        let Some(mount) = lookup(path) else { return };
        path.dentry = mount.root.clone();
        path.mount = mount;
    }
}

/// The mounts that a set of processes sees.
pub struct MountNamespace {
    state: SpinLock<NamespaceState>,
}

struct NamespaceState {
    root: Arc<Mount>,
    /// In the order of mounting, as `/proc/mounts` shows them.
    mounts: Vec<Arc<Mount>>,
}

/// The mount namespace of the first process. The root file system must have been set.
pub fn initial_namespace() -> Arc<MountNamespace> {
    INITIAL.call_once(|| MountNamespace::new(super::tmpfs::new_rootfs())).clone()
}
