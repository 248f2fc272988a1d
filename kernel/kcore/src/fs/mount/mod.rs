//! Mounts: where file systems are seen; mount_namespaces(7).
//!
//! A [`Mount`] shows a tree of dentries at a place of another mount. A dentry knows the mounts that cover it, by the mount
//! through which it is seen; a [`MountNamespace`] knows its root and the order of its mounts. Mounts that are shared get
//! what is mounted on their peers ([`propagation`]). Every change happens under [`Tree`], a sleeping lock (Linux
//! `namespace_sem`); walks take only the dentry's spin lock, and only where it is covered.
//!
//! - [`tree`]: a mount put on a place, taken off, copied with all below it.
//! - [`propagation`]: peer groups, masters and slaves, and what an event in one place does in the others.
//! - [`namespace`]: what the calls do: mount, bind, move, unmount, remount, pivot_root, a copy for CLONE_NEWNS.
//! - [`show`]: the texts of /proc.

mod flags;
mod namespace;
mod propagation;
mod show;
mod tree;

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use hal::sync::SpinLock;

use super::dentry::Dentry;
use super::super_block::SuperBlock;
use crate::Result;
use crate::sync::{Mutex, MutexGuard, order};

pub use flags::{mnt, ms};
use namespace::MountList;
pub use namespace::{MOUNT_MAX, MountNamespace, initial_namespace};
pub use propagation::{Kind as Propagation, PeerGroup};
pub use show::{show_mountinfo, show_mounts};

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

    /// Whether it is the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, &self.mount.root)
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
    /// Files that are open for writing through it.
    writers: AtomicU32,
    /// Flags that may not be taken away, and [`LOCKED`].
    locks: AtomicU32,
    /// 0, or one more than the walks into it since MNT_EXPIRE marked it (umount2(2)).
    expiry: AtomicU32,
    /// The place it covers; `None` for the root of a namespace and for detached mounts.
    at: SpinLock<Option<Path>>,
    /// Its relations to other mounts. Changed under [`Tree`].
    links: SpinLock<Links>,
}

#[derive(Default)]
struct Links {
    /// Where it is listed, and its place in that list. Nowhere: it is detached, or being made.
    listed: Option<(Weak<MountList>, u64)>,
    /// The mounts on places in it, in the order of mounting.
    children: Vec<Arc<Mount>>,
    /// Those it shares events with (MS_SHARED).
    peers: Option<Arc<PeerGroup>>,
    /// Those it gets events from (MS_SLAVE).
    master: Option<Arc<PeerGroup>>,
    /// No bind mount may be made of it (MS_UNBINDABLE).
    is_unbindable: bool,
}

/// In a mount's locks: it may not be taken off its place.
const LOCKED: u32 = 1 << 31;

hal::global! {
    static NEXT_ID: AtomicU32 = AtomicU32::new(1);
    /// Serialises changes of all mount trees.
    static TREE: Mutex<()> = Mutex::new(());
}

/// Held by whoever changes mount trees.
pub struct Tree(#[expect(dead_code, reason = "holding it is its use")] MutexGuard<'static, ()>);

/// Locks the mount trees.
fn lock_tree() -> Tree {
    Tree(TREE.lock())
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
            writers: AtomicU32::new(0),
            locks: AtomicU32::new(0),
            expiry: AtomicU32::new(0),
            at: SpinLock::new(order::MOUNT, None),
            links: SpinLock::new(order::MOUNT, Links::default()),
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

    /// A file was opened for writing through it (`change` 1), or such a file is gone (-1).
    pub(super) fn count_writer(&self, change: i32) {
        self.writers.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
        self.sb.count_writer(change);
    }

    fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Relaxed) > 0
    }

    fn set_flags(&self, flags: u32) {
        self.flags.store(flags & mnt::MASK, Ordering::Relaxed);
    }

    /// Whether it may not be taken off its place (MNT_LOCKED).
    fn is_locked(&self) -> bool {
        self.locks.load(Ordering::Relaxed) & LOCKED != 0
    }

    fn lock(&self) {
        self.locks.fetch_or(LOCKED, Ordering::Relaxed);
    }

    fn unlock(&self) {
        self.locks.fetch_and(!LOCKED, Ordering::Relaxed);
    }

    /// Its restrictions stay, and how access times are kept (Linux `MNT_LOCK_*`).
    fn lock_flags(&self) {
        let kept = self.flags() & (mnt::READONLY | mnt::NODEV | mnt::NOSUID | mnt::NOEXEC);
        self.locks.fetch_or(kept | mnt::ATIME, Ordering::Relaxed);
    }

    /// Whether its flags may become `flags` (Linux `can_change_locked_flags`).
    fn may_become(&self, flags: u32) -> bool {
        let locks = self.locks.load(Ordering::Relaxed);
        let lost = locks & !(mnt::ATIME | LOCKED) & !flags;
        lost == 0 && (locks & mnt::ATIME == 0 || (flags ^ self.flags()) & mnt::ATIME == 0)
    }

    /// The place it covers.
    pub fn mountpoint(&self) -> Option<Path> {
        self.at.lock().clone()
    }

    /// The mount that it is on.
    fn parent(&self) -> Option<Arc<Mount>> {
        self.at.lock().as_ref().map(|at| at.mount.clone())
    }

    /// Its root as a path.
    pub fn root_path(self: &Arc<Self>) -> Path {
        Path { mount: self.clone(), dentry: self.root.clone() }
    }

    /// Whether it is one of `namespace`'s (Linux `check_mnt`).
    pub fn is_in(&self, namespace: &MountNamespace) -> bool {
        self.links.lock().listed.as_ref().is_some_and(|(listed, _)| namespace.is_list_of(listed))
    }

    /// The list of its namespace; `None` for what is detached or only being made.
    fn list(&self) -> Option<Arc<MountList>> {
        self.links.lock().listed.as_ref().and_then(|(listed, _)| listed.upgrade())
    }

    fn children(&self) -> Vec<Arc<Mount>> {
        self.links.lock().children.clone()
    }

    /// Whether mounts may be made of it by binding.
    fn is_unbindable(&self) -> bool {
        self.links.lock().is_unbindable
    }

    /// Whether nobody but the caller, with one walk, came here since the last call; marks it anew.
    fn expires(&self) -> bool {
        self.expiry.swap(1, Ordering::Relaxed) == 2
    }

    /// Somebody walks into it.
    #[inline]
    fn note_walk(&self) {
        if self.expiry.load(Ordering::Relaxed) != 0 {
            self.expiry.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.sb.drop_mount();
    }
}

/// The mount that covers a place, if any.
pub fn lookup(path: &Path) -> Option<Arc<Mount>> {
    lookup_at(&path.mount, &path.dentry)
}

/// The same for a place that is not held as a [`Path`].
fn lookup_at(below: &Mount, dentry: &Dentry) -> Option<Arc<Mount>> {
    if !dentry.is_mountpoint() {
        return None;
    }
    dentry.covering.lock().get(&below.id).cloned()
}

/// The top of what is mounted on a place (Linux `follow_down`).
#[inline]
pub fn follow_down(path: &mut Path) {
    while path.dentry.is_mountpoint() {
        let Some(mount) = lookup(path) else { return };
        mount.note_walk();
        path.dentry = mount.root.clone();
        path.mount = mount;
    }
}

/// Whether something is mounted on `dentry` in the namespace (Linux `is_local_mountpoint`).
pub fn is_local_mountpoint(dentry: &Dentry, namespace: &MountNamespace) -> bool {
    if !dentry.is_mountpoint() {
        return false;
    }
    let covering: Vec<Arc<Mount>> = dentry.covering.lock().values().cloned().collect();
    covering.iter().any(|mount| mount.is_in(namespace))
}

/// Unmounts what is mounted on a dentry that lost its name, in every namespace (Linux `detach_mounts`).
pub fn detach_all(dentry: &Dentry) {
    if !dentry.is_mountpoint() {
        return;
    }
    let tree = lock_tree();
    let covering: Vec<Arc<Mount>> = dentry.covering.lock().values().cloned().collect();
    covering.iter().for_each(|mount| tree::unmount_tree(&tree, mount, false));
}
