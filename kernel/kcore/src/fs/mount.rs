//! Mounts: where file systems are seen.
//!
//! A [`Mount`] shows a tree of dentries at a place of another mount. A dentry knows the mounts that cover it, by the mount
//! through which it is seen; a [`MountNamespace`] knows its root and the order of its mounts. Every change happens under
//! [`TREE`], a sleeping lock (Linux `namespace_sem`); walks take only the dentry's spin lock, and only where it is covered.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
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
    pub const MASK: u32 =
        (ms::RDONLY | ms::NOSUID | ms::NODEV | ms::NOEXEC | ms::NOATIME | ms::NODIRATIME | ms::RELATIME) as u32;
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
    /// Access times by the rule of relatime, what mount(2) sets unless told otherwise.
    pub const RELATIME: u32 = ms::RELATIME as u32;
    /// The same as noatime for directories.
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

hal::global! {
    static NEXT_ID: AtomicU32 = AtomicU32::new(1);
    /// Serialises changes of the mount tree.
    static TREE: Mutex<()> = Mutex::new(());
    static INITIAL: spin::Once<Arc<MountNamespace>> = spin::Once::new();
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

    fn set_flags(&self, flags: u32) {
        self.flags.store(flags & mnt::MASK, Ordering::Relaxed);
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
    path.dentry.covering.lock().iter().find(|(below, _)| *below == path.mount.id).map(|(_, mount)| mount.clone())
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

/// The mount namespace of the first process.
pub fn initial_namespace() -> Arc<MountNamespace> {
    INITIAL.call_once(|| MountNamespace::new(super::tmpfs::new_rootfs())).clone()
}

/// Puts a mount on a place. The tree is locked.
fn cover(mount: &Arc<Mount>, at: Path) {
    at.dentry.add_mounts(1);
    let (below, dentry) = (at.mount.id, at.dentry.clone());
    let old = mount.at.lock().replace(at);
    debug_assert!(old.is_none(), "a mount covers one place");
    dentry.covering.lock().push((below, mount.clone()));
    drop(old);
}

/// Takes a mount off its place. The tree is locked.
fn uncover(mount: &Arc<Mount>) -> Option<Path> {
    let at = mount.at.lock().take()?;
    let gone = {
        let mut covering = at.dentry.covering.lock();
        let index = covering.iter().position(|(_, known)| Arc::ptr_eq(known, mount));
        index.map(|index| covering.swap_remove(index))
    };
    at.dentry.add_mounts(-1);
    drop(gone);
    Some(at)
}

impl MountNamespace {
    /// A namespace that shows `root`.
    pub fn new(root: Arc<Mount>) -> Arc<Self> {
        let state = NamespaceState { mounts: alloc::vec![root.clone()], root };
        Arc::new(Self { state: SpinLock::new(order::MOUNT, state) })
    }

    /// Its root directory, with what is mounted over it.
    pub fn root(&self) -> Path {
        let mount = self.state.lock().root.clone();
        let mut path = mount.root_path();
        follow_down(&mut path);
        path
    }

    /// Its mounts in the order of mounting.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.state.lock().mounts.clone()
    }

    fn contains(&self, mount: &Arc<Mount>) -> bool {
        self.state.lock().mounts.iter().any(|known| Arc::ptr_eq(known, mount))
    }

    /// Mounts on a place, over what is mounted there. `ENOTDIR` for a directory on a file or a file on a directory,
    /// `ENOENT` for a removed place, `EBUSY` for the same file system twice on one place.
    pub fn attach(&self, mount: Arc<Mount>, mut at: Path) -> Result<()> {
        let _tree = TREE.lock();
        follow_down(&mut at);
        if !self.contains(&at.mount) {
            return Err(Errno::EINVAL);
        }
        if mount.root.inode().is_dir() != at.dentry.inode().is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if at.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let twice = Arc::ptr_eq(&at.mount.sb, &mount.sb)
            && Arc::ptr_eq(&at.dentry, &at.mount.root)
            && Arc::ptr_eq(&at.dentry, &mount.root);
        if twice {
            return Err(Errno::EBUSY);
        }
        cover(&mount, at);
        self.state.lock().mounts.push(mount);
        Ok(())
    }

    /// Shows the tree at `from` also at `at` (MS_BIND), with the mounts below it if `recursive`.
    pub fn bind(&self, from: &Path, at: Path, recursive: bool) -> Result<()> {
        if !self.contains(&from.mount) {
            return Err(Errno::EINVAL);
        }
        let copy = |mount: &Mount, root: &Arc<Dentry>| {
            Mount::new(mount.sb.clone(), root.clone(), mount.source.clone(), mount.flags())
        };
        let top = copy(&from.mount, &from.dentry);
        let below = if recursive { self.below(from) } else { Vec::new() };
        self.attach(top.clone(), at)?;
        // Each copy goes to the same dentry, in the copy of the mount that it was in.
        let mut copies = alloc::vec![(from.mount.id, top)];
        for mount in below {
            let Some(place) = mount.mountpoint() else { continue };
            let Some((_, parent)) = copies.iter().find(|(id, _)| *id == place.mount.id) else { continue };
            let place = Path { mount: parent.clone(), dentry: place.dentry };
            let child = copy(&mount, &mount.root);
            self.attach(child.clone(), place)?;
            copies.push((mount.id, child));
        }
        Ok(())
    }

    /// Mounts on places below `path`, directly or not, parents first.
    fn below(&self, path: &Path) -> Vec<Arc<Mount>> {
        let mut found: Vec<Arc<Mount>> = Vec::new();
        for mount in self.mounts() {
            let Some(at) = mount.mountpoint() else { continue };
            let directly = Arc::ptr_eq(&at.mount, &path.mount) && path.dentry.is_ancestor_of(&at.dentry);
            if directly || found.iter().any(|parent| Arc::ptr_eq(parent, &at.mount)) {
                found.push(mount);
            }
        }
        found
    }

    /// Moves a mount to another place (MS_MOVE): `EINVAL` unless `from` is the root of a mount that is mounted somewhere,
    /// `ELOOP` for a place inside it.
    pub fn move_mount(&self, from: &Path, mut to: Path) -> Result<()> {
        let _tree = TREE.lock();
        let mount = &from.mount;
        if !Arc::ptr_eq(&from.dentry, &mount.root) || !self.contains(mount) || mount.mountpoint().is_none() {
            return Err(Errno::EINVAL);
        }
        follow_down(&mut to);
        if mount.root.inode().is_dir() != to.dentry.inode().is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let mut above = Some(to.clone());
        while let Some(at) = above {
            if Arc::ptr_eq(&at.mount, mount) {
                return Err(Errno::ELOOP);
            }
            above = at.mount.mountpoint();
        }
        let old = uncover(mount);
        cover(mount, to);
        drop(old);
        Ok(())
    }

    /// Takes a mount away. `EINVAL` unless `path` is the root of a mount, and for the namespace's root; `EBUSY` while
    /// it is used or has mounts below it, unless `lazy` (MNT_DETACH), which takes all of them away.
    pub fn unmount(&self, path: Path, lazy: bool) -> Result<()> {
        let _tree = TREE.lock();
        let Path { mount, dentry } = path;
        if !Arc::ptr_eq(&dentry, &mount.root) || !self.contains(&mount) || mount.mountpoint().is_none() {
            return Err(Errno::EINVAL);
        }
        drop(dentry);
        let below = self.below(&mount.root_path());
        if !lazy {
            // References: the table, the list, and `mount` here. Any other is an open file, a working directory or a root.
            if !below.is_empty() || Arc::strong_count(&mount) > 3 {
                return Err(Errno::EBUSY);
            }
        }
        for gone in below.iter().rev().chain([&mount]) {
            let place = uncover(gone);
            let entry = {
                let mut state = self.state.lock();
                let at = state.mounts.iter().position(|known| Arc::ptr_eq(known, gone));
                at.map(|at| state.mounts.remove(at))
            };
            drop((place, entry));
        }
        Ok(())
    }

    /// Changes flags of a mount, and with `options` those of its file system (MS_REMOUNT). `EBUSY` when files are open
    /// for writing and it is to become read-only.
    pub fn remount(&self, path: &Path, flags: u32, options: Option<&[u8]>) -> Result<()> {
        if !Arc::ptr_eq(&path.dentry, &path.mount.root) || !self.contains(&path.mount) {
            return Err(Errno::EINVAL);
        }
        let sb = &path.mount.sb;
        let read_only = flags & mnt::READONLY != 0;
        if read_only && !path.mount.is_read_only() && sb.has_writers() {
            return Err(Errno::EBUSY);
        }
        let mut flags = flags;
        if let Some(options) = options {
            sb.ops.remount(options)?;
            sb.set_read_only(read_only);
            // Read-only is then a property of the file system (Linux keeps it out of the mount's flags).
            flags &= !mnt::READONLY;
        }
        if flags & (mnt::NOATIME | mnt::NODIRATIME | mnt::RELATIME) == 0 {
            flags |= path.mount.flags() & (mnt::NOATIME | mnt::NODIRATIME | mnt::RELATIME);
        }
        path.mount.set_flags(flags);
        Ok(())
    }
}

/// Writes `text` with what separates fields as octal escapes (Linux `mangle`).
fn write_escaped(out: &mut dyn fmt::Write, text: &[u8]) -> fmt::Result {
    for byte in text {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => write!(out, "\\{byte:03o}")?,
            _ => out.write_char(char::from(*byte))?,
        }
    }
    Ok(())
}

fn write_mount_options(out: &mut dyn fmt::Write, mount: &Mount) -> fmt::Result {
    const NAMES: [(u32, &str); 6] = [
        (mnt::NOSUID, ",nosuid"),
        (mnt::NODEV, ",nodev"),
        (mnt::NOEXEC, ",noexec"),
        (mnt::NOATIME, ",noatime"),
        (mnt::NODIRATIME, ",nodiratime"),
        (mnt::RELATIME, ",relatime"),
    ];
    NAMES.iter().filter(|(flag, _)| mount.flags() & flag != 0).try_for_each(|(_, name)| out.write_str(name))
}

fn rw(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

/// The text of `/proc/PID/mounts`: what a process with the root directory `root` can reach.
pub fn show_mounts(namespace: &MountNamespace, root: &Path, out: &mut dyn fmt::Write) -> fmt::Result {
    for mount in namespace.mounts() {
        let (place, reachable) = super::namei::path_from(&mount.root_path(), Some(root));
        if !reachable {
            continue;
        }
        write_escaped(out, &mount.source)?;
        out.write_char(' ')?;
        write_escaped(out, &place)?;
        write!(out, " {} {}", mount.sb.fs_type.name, rw(mount.is_read_only()))?;
        write_mount_options(out, &mount)?;
        mount.sb.ops.show_options(out)?;
        out.write_str(" 0 0\n")?;
    }
    Ok(())
}

/// The text of `/proc/PID/mountinfo` (proc(5)).
pub fn show_mountinfo(namespace: &MountNamespace, root: &Path, out: &mut dyn fmt::Write) -> fmt::Result {
    for mount in namespace.mounts() {
        let (place, reachable) = super::namei::path_from(&mount.root_path(), Some(root));
        if !reachable {
            continue;
        }
        let parent = mount.mountpoint().map_or(mount.id, |at| at.mount.id);
        let (major, minor) = (mount.sb.dev >> 8, mount.sb.dev & 0xff);
        write!(out, "{} {parent} {major}:{minor} ", mount.id)?;
        write_escaped(out, &super::namei::path_in_fs(&mount.root))?;
        out.write_char(' ')?;
        write_escaped(out, &place)?;
        write!(out, " {}", rw(mount.flags() & mnt::READONLY != 0))?;
        write_mount_options(out, &mount)?;
        write!(out, " - {} ", mount.sb.fs_type.name)?;
        write_escaped(out, &mount.source)?;
        write!(out, " {}", rw(mount.sb.is_read_only()))?;
        mount.sb.ops.show_options(out)?;
        out.write_char('\n')?;
    }
    Ok(())
}
