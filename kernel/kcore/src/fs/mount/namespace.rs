//! Mount namespaces: what mount(2), umount2(2), pivot_root(2) and a copy for CLONE_NEWNS do.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use hal::sync::SpinLock;

use super::propagation::{self, Kind, Relation};
use super::tree::{self, Purpose, Source, attach_tree, cover, uncover};
use super::{Mount, Path, follow_down, lock_tree, mnt};
use crate::Result;
use crate::fs::nsfs;
use crate::ns::user::UserNs;
use crate::sync::{WaitQueue, order};

/// The mounts that a set of processes sees. When the last user goes, they are unmounted.
pub struct MountNamespace {
    /// The number of its file; `None` for the initial one.
    ino: Option<u64>,
    /// Whose capabilities count for it.
    pub owner: UserNs,
    list: Arc<MountList>,
}

/// The mounts of a namespace. They know it; it knows them.
pub(super) struct MountList {
    /// Whose capabilities count for the namespace.
    pub(super) owner: UserNs,
    state: SpinLock<ListState>,
    /// How often it changed: what a poll of `/proc/PID/mounts` waits for.
    events: AtomicU64,
    changed: WaitQueue,
}

struct ListState {
    root: Option<Arc<Mount>>,
    /// In the order of mounting, as `/proc/mounts` shows them.
    mounts: BTreeMap<u64, Arc<Mount>>,
    next: u64,
}

hal::global! {
    static INITIAL: spin::Once<Arc<MountNamespace>> = spin::Once::new();
    /// Most mounts in a namespace: `/proc/sys/fs/mount-max`.
    pub static MOUNT_MAX: AtomicU32 = AtomicU32::new(100_000);
}

/// The mount namespace of the first process.
pub fn initial_namespace() -> Arc<MountNamespace> {
    INITIAL.call_once(|| MountNamespace::new(crate::fs::tmpfs::new_rootfs(), None, UserNs::initial())).clone()
}

impl MountList {
    /// `ENOSPC` unless `count` more mounts may be in it.
    pub(super) fn check_room(&self, count: usize) -> Result<()> {
        let all = self.state.lock().mounts.len() + count;
        if all > MOUNT_MAX.load(Ordering::Relaxed) as usize { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Enters a mount that is in no list.
    pub(super) fn add(self: &Arc<Self>, mount: &Arc<Mount>) {
        let order = {
            let mut state = self.state.lock();
            let order = state.next;
            state.next += 1;
            state.mounts.insert(order, mount.clone());
            order
        };
        mount.links.lock().listed = Some((Arc::downgrade(self), order));
    }

    /// Strikes a mount out.
    pub(super) fn remove(&self, mount: &Mount) {
        let Some((_, order)) = mount.links.lock().listed.take() else { return };
        let gone = {
            let mut state = self.state.lock();
            let is_root = state.root.as_ref().is_some_and(|root| core::ptr::eq(&**root, mount));
            (state.mounts.remove(&order), if is_root { state.root.take() } else { None })
        };
        drop(gone);
    }

    /// It changed: whoever polls `/proc/PID/mounts` looks again.
    pub(super) fn touch(&self) {
        self.events.fetch_add(1, Ordering::Release);
        self.changed.wake_all();
    }
}

impl MountNamespace {
    /// A namespace that shows `root` and what is mounted in it.
    fn new(root: Arc<Mount>, ino: Option<u64>, owner: UserNs) -> Arc<Self> {
        let state = ListState { root: Some(root.clone()), mounts: BTreeMap::new(), next: 0 };
        let list = Arc::new(MountList {
            owner: owner.clone(),
            state: SpinLock::new(order::MOUNT, state),
            events: AtomicU64::new(0),
            changed: WaitQueue::new(),
        });
        tree::all_of(&root).iter().for_each(|mount| list.add(mount));
        Arc::new(Self { ino, owner, list })
    }

    /// The number of its file, unless it is the initial one. A later one has a higher number.
    pub fn ino(&self) -> Option<u64> {
        self.ino
    }

    pub(super) fn is_list_of(&self, listed: &Weak<MountList>) -> bool {
        core::ptr::eq(listed.as_ptr(), &*self.list)
    }

    /// Its root directory, with what is mounted over it. `ENOENT` when the root was unmounted.
    pub fn root(&self) -> Path {
        let mount = self.list.state.lock().root.clone();
        let mut path = mount.expect("only a namespace without users loses its root").root_path();
        follow_down(&mut path);
        path
    }

    /// Its mounts in the order of mounting.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.list.state.lock().mounts.values().cloned().collect()
    }

    /// Whether a file system of this kind is mounted with nothing of it hidden by what cannot be taken away (Linux
    /// `mnt_already_visible`).
    pub fn shows_all_of(&self, kind: &str, flags: u32) -> bool {
        let is_whole = |mount: &Arc<Mount>| {
            mount.sb.fs_type.name == kind
                && mount.may_become(flags | mount.flags() & mnt::ATIME)
                && mount.sb.root().is_ok_and(|root| Arc::ptr_eq(&root, &mount.root))
                && !mount.children().iter().any(|child| child.is_locked() && !is_empty_place(child))
        };
        self.mounts().iter().any(is_whole)
    }

    /// How often it changed, and where to wait for the next change (poll(2) of `/proc/PID/mounts`).
    pub fn events(&self) -> (u64, &WaitQueue) {
        (self.list.events.load(Ordering::Acquire), &self.list.changed)
    }

    /// Mounts on a place, over what is mounted there. `ENOTDIR` for a directory on a file or a file on a directory,
    /// `ENOENT` for a removed place, `EBUSY` for the same file system twice on one place, `EINVAL` for a place in another
    /// namespace, `ENOSPC` for too many mounts.
    pub fn attach(&self, mount: Arc<Mount>, mut at: Path) -> Result<()> {
        let tree = lock_tree();
        self.settle(&mut at)?;
        let twice = Arc::ptr_eq(&at.mount.sb, &mount.sb) && at.is_mount_root() && Arc::ptr_eq(&at.dentry, &mount.root);
        if twice {
            return Err(Errno::EBUSY);
        }
        check_kinds(&mount, &at)?;
        attach_tree(&tree, &mount, at, Source::New)
    }

    /// The place that a mount on `at` would cover, `EINVAL` in another namespace, `ENOENT` for a removed directory (Linux
    /// `lock_mount`).
    fn settle(&self, at: &mut Path) -> Result<()> {
        follow_down(at);
        if at.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        if at.mount.is_in(self) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Shows the tree at `from` also at `at` (MS_BIND), with the mounts below it if `recursive`. `EINVAL` for a place in
    /// another namespace, unless it is a namespace's file, and for an unbindable mount.
    pub fn bind(&self, from: &Path, mut at: Path, recursive: bool) -> Result<()> {
        let tree = lock_tree();
        self.settle(&mut at)?;
        // A namespace's file is in no namespace, and may be bound in an older one only: it would keep itself alive.
        if !from.mount.is_in(self) && !nsfs::may_be_bound(&from.dentry, self)? {
            return Err(Errno::EINVAL);
        }
        if from.mount.is_unbindable() || (!recursive && tree::has_locked_children(&from.mount, &from.dentry)) {
            return Err(Errno::EINVAL);
        }
        let top = if recursive {
            tree::copy_tree(&tree, &from.mount, &from.dentry, Relation::Same, Purpose::Bind, &mut |_, _| {})?
        } else {
            propagation::copy(&tree, &from.mount, &from.dentry, Relation::Same)
        };
        top.unlock();
        let attached = check_kinds(&top, &at).and_then(|()| attach_tree(&tree, &top, at, Source::New));
        if attached.is_err() {
            tree::discard(&tree, &top);
        }
        attached
    }

    /// Moves a mount to another place (MS_MOVE): `EINVAL` unless `from` is the root of a mount that is mounted somewhere,
    /// for a mount whose parent is shared, and for a tree with unbindable mounts to a shared place; `ELOOP` for a place
    /// inside it (Linux `do_move_mount`).
    pub fn move_mount(&self, from: &Path, mut to: Path) -> Result<()> {
        let tree = lock_tree();
        self.settle(&mut to)?;
        let mount = &from.mount;
        let parent = mount.parent().ok_or(Errno::EINVAL)?;
        if !from.is_mount_root()
            || !mount.is_in(self)
            || mount.root.inode().is_dir() != to.dentry.inode().is_dir()
            || mount.is_locked()
            || propagation::is_shared(&parent)
        {
            return Err(Errno::EINVAL);
        }
        if propagation::is_shared(&to.mount) && tree::all_of(mount).iter().any(|mount| mount.is_unbindable()) {
            return Err(Errno::EINVAL);
        }
        let mut above = Some(to.mount.clone());
        while let Some(at) = above {
            if Arc::ptr_eq(&at, mount) {
                return Err(Errno::ELOOP);
            }
            above = at.parent();
        }
        attach_tree(&tree, mount, to, Source::Moved)
    }

    /// Takes a mount away, and those mounted with it elsewhere. `EINVAL` unless `path` is the root of a mount of this
    /// namespace, and for the namespace's root; `EBUSY` while it is used or has mounts below it, unless `lazy`
    /// (MNT_DETACH), which takes all of them away.
    pub fn unmount(&self, path: Path, lazy: bool) -> Result<()> {
        let tree = lock_tree();
        let mount = self.unmountable(path)?;
        // One reference is `mount` here.
        if !lazy {
            let is_busy = !mount.children().is_empty() || tree::is_used(&mount, 1);
            if is_busy || propagation::is_used_elsewhere(&mount) {
                return Err(Errno::EBUSY);
            }
        }
        tree::unmount_tree(&tree, &mount, true);
        Ok(())
    }

    /// The same if nobody used the mount since the call before (MNT_EXPIRE): `EAGAIN` at the first call, `EBUSY` while it
    /// is used.
    pub fn expire(&self, path: Path) -> Result<()> {
        {
            let _tree = lock_tree();
            let mount = self.unmountable(path.clone())?;
            // Two references: `path` and `mount`.
            if tree::is_used(&mount, 2) || !mount.children().is_empty() {
                return Err(Errno::EBUSY);
            }
            if !mount.expires() {
                return Err(Errno::EAGAIN);
            }
        }
        self.unmount(path, false)
    }

    fn unmountable(&self, path: Path) -> Result<Arc<Mount>> {
        let mount = &path.mount;
        if !path.is_mount_root() || !mount.is_in(self) || mount.mountpoint().is_none() || mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        Ok(path.mount)
    }

    /// Changes how a mount shares events, and with `recursive` all below it. `EINVAL` unless `path` is the root of a mount.
    pub fn set_propagation(&self, path: &Path, kind: Kind, recursive: bool) -> Result<()> {
        if !path.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        let tree = lock_tree();
        let mounts = if recursive { tree::all_of(&path.mount) } else { alloc::vec![path.mount.clone()] };
        mounts.iter().for_each(|mount| propagation::set_kind(&tree, mount, kind));
        self.list.touch();
        Ok(())
    }

    /// Changes flags of a mount, and with `options` those of its file system (MS_REMOUNT). `EBUSY` when files are open
    /// for writing and it is to become read-only, `EPERM` to lift what is locked.
    pub fn remount(&self, path: &Path, flags: u32, options: Option<&[u8]>) -> Result<()> {
        if !path.is_mount_root() || !path.mount.is_in(self) {
            return Err(Errno::EINVAL);
        }
        let (mount, sb) = (&path.mount, &path.mount.sb);
        if !mount.may_become(flags) {
            return Err(Errno::EPERM);
        }
        let read_only = flags & mnt::READONLY != 0;
        let has_writers = if options.is_some() { sb.has_writers() } else { mount.has_writers() };
        if read_only && !mount.is_read_only() && has_writers {
            return Err(Errno::EBUSY);
        }
        if let Some(options) = options {
            sb.ops.remount(options)?;
            sb.set_read_only(read_only);
        }
        mount.set_flags(flags);
        self.list.touch();
        Ok(())
    }

    /// Makes `new` the root of the namespace and puts the mount at `root`, the caller's root, on `old` (pivot_root(2)):
    /// `EBUSY` when the new root or the place for the old one is on the current root mount; `EINVAL` where the man page
    /// and Linux have it: a place that is no mount point, in another namespace, with a shared parent, not below the new
    /// root, and for the initial root file system, which has no place to leave.
    pub fn pivot_root(&self, root: &Path, new: &Path, mut old: Path) -> Result<()> {
        let tree = lock_tree();
        self.settle(&mut old)?;
        let (new_at, root_at) = (new.mount.mountpoint(), root.mount.mountpoint());
        let is_on_shared = |at: &Option<Path>| at.as_ref().is_some_and(|at| propagation::is_shared(&at.mount));
        if propagation::is_shared(&old.mount) || is_on_shared(&new_at) || is_on_shared(&root_at) {
            return Err(Errno::EINVAL);
        }
        if !root.mount.is_in(self) || !new.mount.is_in(self) || new.mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        if new.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        if Arc::ptr_eq(&new.mount, &root.mount) || Arc::ptr_eq(&old.mount, &root.mount) {
            return Err(Errno::EBUSY);
        }
        let (Some(_), Some(root_at)) = (new_at, root_at) else { return Err(Errno::EINVAL) };
        if !root.is_mount_root() || !new.is_mount_root() || !is_below(&old, new) || !is_below(new, root) {
            return Err(Errno::EINVAL);
        }
        if root.mount.is_locked() {
            new.mount.lock();
            root.mount.unlock();
        }
        drop(uncover(&tree, &new.mount));
        drop(uncover(&tree, &root.mount));
        cover(&tree, &root.mount, old);
        cover(&tree, &new.mount, root_at);
        self.list.touch();
        Ok(())
    }

    /// A copy of the namespace for `owner` with all its mounts, peers and slaves of the originals (Linux `copy_mnt_ns`). In
    /// another user namespace shared mounts become slaves, and nothing that was mounted can be uncovered or given rights
    /// that it does not have (mount_namespaces(7) "Restrictions on mount namespaces"). `follow` is called with each
    /// original and its copy, for the caller's root and working directory.
    pub fn copy(&self, owner: UserNs, mut follow: impl FnMut(&Arc<Mount>, &Arc<Mount>)) -> Result<Arc<Self>> {
        let tree = lock_tree();
        let root = self.list.state.lock().root.clone().ok_or(Errno::EINVAL)?;
        let is_foreign = !owner.is_same(&self.owner);
        let relation = if is_foreign { Relation::SlaveIfShared } else { Relation::Same };
        let copy = tree::copy_tree(&tree, &root, &root.root, relation, Purpose::Namespace, &mut follow)?;
        if is_foreign {
            tree::lock_tree(&copy);
        }
        Ok(Self::new(copy, Some(crate::ns::next_ino()), owner))
    }
}

impl Drop for MountNamespace {
    /// The last user is gone: everything in it goes, what shares with it elsewhere stays (Linux `put_mnt_ns`).
    fn drop(&mut self) {
        let tree = lock_tree();
        let root = self.list.state.lock().root.clone();
        if let Some(root) = root {
            tree::unmount_tree(&tree, &root, false);
        }
    }
}

/// Whether what a mount covers is a directory that is made to be mounted on: nothing is hidden.
fn is_empty_place(mount: &Mount) -> bool {
    mount.mountpoint().is_some_and(|at| at.dentry.inode().ops().is_for_mounts())
}

/// A directory is mounted on a directory, anything else on something else: `ENOTDIR`.
fn check_kinds(mount: &Mount, at: &Path) -> Result<()> {
    if mount.root.inode().is_dir() == at.dentry.inode().is_dir() { Ok(()) } else { Err(Errno::ENOTDIR) }
}

/// Whether `path` is at `root` or below it, through mounts (Linux `is_path_reachable`).
fn is_below(path: &Path, root: &Path) -> bool {
    let mut at = path.clone();
    while !Arc::ptr_eq(&at.mount, &root.mount) {
        let Some(below) = at.mount.mountpoint() else { return false };
        at = below;
    }
    root.dentry.is_ancestor_of(&at.dentry)
}
