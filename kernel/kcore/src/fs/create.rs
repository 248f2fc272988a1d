//! Changes of directories: mknod, mkdir, symlink, link, unlink, rmdir, rename. Each walks to the parent, locks the
//! directory, checks in the order that Linux checks (which decides which of two errors is seen), and lets the file
//! system do it.

use alloc::sync::Arc;

use abi::Errno;
use abi::fcntl::{RENAME_EXCHANGE, RENAME_NOREPLACE};
use abi::stat as s;

use super::dentry::Dentry;
use super::inode::{Inode, NewNode, Rename};
use super::mount::{self, Path};
use super::namei::{LastKind, WalkContext, Walker, lookup_locked};
use super::notify;
use super::permission::{self, MAY_WRITE, Victim, check, may_create, may_delete};
use crate::Result;
use crate::sync::{Mutex, MutexGuard};
use crate::task::{Creds, current};

/// A node to be made: type, permissions (umask applied), device number, link text.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Type and permissions.
    pub mode: u32,
    /// Device number.
    pub rdev: u64,
    /// Link text.
    pub target: &'a [u8],
}

hal::global! {
    /// Held over renames between directories, so that the tree's shape stands still while ancestry is checked (Linux
    /// `s_vfs_rename_mutex`).
    static RENAMES: Mutex<()> = Mutex::new(());
}

/// Makes a node in a locked directory where the name is free; the right to do it was checked.
pub fn make_locked(dir: &Arc<Dentry>, name: &[u8], node: &Node<'_>, creds: &Creds) -> Result<Arc<Dentry>> {
    let dir_inode = dir.inode();
    let (gid, mode) = permission::inherit(dir_inode, creds, node.mode);
    let new = NewNode { mode, rdev: node.rdev, target: node.target, uid: creds.fsuid, gid };
    let inode = dir_inode.ops().create(dir_inode, name, &new)?;
    let dentry = dir.attach(name, inode);
    notify::created(dir_inode, name, dentry.inode());
    Ok(dentry)
}

/// Makes a file of any type at `path` (mknod(2), mkdir(2), symlink(2)).
pub fn make(context: WalkContext<'_>, path: &[u8], node: &Node<'_>) -> Result<Path> {
    let mut walker = Walker::new(context, path)?;
    to_new_name(&mut walker)?;
    let dentry = {
        let _lock = claim_name(&walker, node.mode & s::S_IFMT == s::S_IFDIR)?;
        may_create(&walker.at.dentry, walker.creds())?;
        make_locked(&walker.at.dentry, walker.last(), node, walker.creds())?
    };
    walker.at.dentry = dentry;
    Ok(walker.at)
}

/// Walks to a name that is to be made: `EEXIST` for `/`, `.` and `..`.
fn to_new_name(walker: &mut Walker<'_>) -> Result<()> {
    if walker.to_parent()? == LastKind::Name { Ok(()) } else { Err(Errno::EEXIST) }
}

/// Locks the directory of a name that must be free (Linux `filename_create`): `EEXIST` before `EROFS`, `ENOENT` for a
/// name with slashes that is not to become a directory.
fn claim_name<'w>(walker: &'w Walker<'_>, is_dir: bool) -> Result<MutexGuard<'w, ()>> {
    let dir = &walker.at.dentry;
    let lock = dir.inode().lock.lock();
    if lookup_locked(dir, walker.last())?.is_some() {
        return Err(Errno::EEXIST);
    }
    if walker.must_be_dir && !is_dir {
        return Err(Errno::ENOENT);
    }
    walker.at.mount.want_write()?;
    Ok(lock)
}

/// Gives the file at `old` another name (link(2)).
pub fn link(old: &Path, context: WalkContext<'_>, path: &[u8]) -> Result<()> {
    let creds = context.creds;
    let inode = old.dentry.inode();
    let mut walker = Walker::new(context, path)?;
    to_new_name(&mut walker)?;
    let dir = &walker.at.dentry;
    let _lock = claim_name(&walker, false)?;
    if !Arc::ptr_eq(&old.mount.sb, &dir.inode().sb) {
        return Err(Errno::EXDEV);
    }
    may_link(inode, creds)?;
    may_create(dir, creds)?;
    if inode.is_dir() {
        return Err(Errno::EPERM);
    }
    // A file that lost its last name gets none again, except one that O_TMPFILE made (open(2)).
    if !inode.is_linkable() {
        return Err(Errno::ENOENT);
    }
    dir.inode().ops().link(dir.inode(), walker.last(), inode)?;
    dir.attach(walker.last(), inode.clone());
    notify::links_changed(inode);
    notify::created(dir.inode(), walker.last(), inode);
    Ok(())
}

/// Protected hard links (proc(5), `/proc/sys/fs/protected_hardlinks` = 1, Debian's setting): only of what one owns, or of
/// a regular file that one may read and write and that is not set-user-ID.
fn may_link(inode: &Inode, creds: &Creds) -> Result<()> {
    let privileged_program = inode.mode() & s::S_ISUID != 0 || inode.mode() & (s::S_ISGID | 0o10) == s::S_ISGID | 0o10;
    let safe = inode.is_regular()
        && !privileged_program
        && check(inode, creds, permission::MAY_READ | permission::MAY_WRITE).is_ok();
    let is_off = permission::PROTECTED_HARDLINKS.load(core::sync::atomic::Ordering::Relaxed) == 0;
    if is_off || safe || permission::owner_or_capable(inode, creds) {
        return Ok(());
    }
    Err(Errno::EPERM)
}

/// Takes a name away (unlink(2)).
pub fn unlink(context: WalkContext<'_>, path: &[u8]) -> Result<()> {
    let mut walker = Walker::new(context, path)?;
    if walker.to_parent()? != LastKind::Name {
        return Err(Errno::EISDIR);
    }
    walker.at.mount.want_write()?;
    let dir = &walker.at.dentry;
    let _lock = dir.inode().lock.lock();
    let victim = lookup_locked(dir, walker.last())?.ok_or(Errno::ENOENT)?;
    if walker.must_be_dir {
        return Err(if victim.inode().is_dir() { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    may_delete(dir.inode(), victim.inode(), walker.creds(), Victim::NotDirectory)?;
    if is_busy(&victim) {
        return Err(Errno::EBUSY);
    }
    dir.inode().ops().unlink(dir.inode(), walker.last(), victim.inode())?;
    notify::links_changed(victim.inode());
    dir.detach(&victim);
    mount::detach_all(&victim);
    // The file ends here, before its directory is told, unless somebody has it open (Linux `d_delete_notify`).
    drop(victim);
    notify::deleted(dir.inode(), walker.last(), false);
    Ok(())
}

/// Removes an empty directory (rmdir(2)).
pub fn rmdir(context: WalkContext<'_>, path: &[u8]) -> Result<()> {
    let mut walker = Walker::new(context, path)?;
    match walker.to_parent()? {
        LastKind::Name => {}
        LastKind::Dot => return Err(Errno::EINVAL),
        LastKind::DotDot => return Err(Errno::ENOTEMPTY),
        LastKind::Root => return Err(Errno::EBUSY),
    }
    walker.at.mount.want_write()?;
    let dir = &walker.at.dentry;
    let _lock = dir.inode().lock.lock();
    let victim = lookup_locked(dir, walker.last())?.ok_or(Errno::ENOENT)?;
    may_delete(dir.inode(), victim.inode(), walker.creds(), Victim::Directory)?;
    if is_busy(&victim) {
        return Err(Errno::EBUSY);
    }
    {
        // The victim's own lock keeps a creation in it from racing with the check.
        let _victim_lock = victim.inode().lock.lock();
        remove_dir_locked(dir, walker.last(), &victim)?;
    }
    drop(victim);
    notify::deleted(dir.inode(), walker.last(), true);
    Ok(())
}

fn remove_dir_locked(dir: &Arc<Dentry>, name: &[u8], victim: &Arc<Dentry>) -> Result<()> {
    if is_nonempty(victim) {
        return Err(Errno::ENOTEMPTY);
    }
    dir.inode().ops().rmdir(dir.inode(), name, victim.inode())?;
    dir.detach(victim);
    mount::detach_all(victim);
    Ok(())
}

/// Whether something is mounted on it that the caller sees; mounts of other namespaces go with the name.
fn is_busy(dentry: &Dentry) -> bool {
    dentry.is_mountpoint() && mount::is_local_mountpoint(dentry, &current().namespaces().mount())
}

fn is_nonempty(dir: &Dentry) -> bool {
    dir.inode().ops().is_dcache_complete() && dir.has_children()
}

/// Moves a name (renameat2(2)).
pub fn rename(
    old_context: WalkContext<'_>,
    old_path: &[u8],
    new_context: WalkContext<'_>,
    new_path: &[u8],
    flags: u32,
) -> Result<()> {
    // RENAME_WHITEOUT is for overlay file systems, which do not exist here.
    if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0 || flags == RENAME_NOREPLACE | RENAME_EXCHANGE {
        return Err(Errno::EINVAL);
    }
    let mut old = Walker::new(old_context, old_path)?;
    let old_kind = old.to_parent()?;
    let mut new = Walker::new(new_context, new_path)?;
    let new_kind = new.to_parent()?;
    if !Arc::ptr_eq(&old.at.mount, &new.at.mount) {
        return Err(Errno::EXDEV);
    }
    if old_kind != LastKind::Name {
        return Err(Errno::EBUSY);
    }
    if new_kind != LastKind::Name {
        return Err(if flags & RENAME_NOREPLACE != 0 { Errno::EEXIST } else { Errno::EBUSY });
    }
    old.at.mount.want_write()?;
    let same_dir = Arc::ptr_eq(old.at.dentry.inode(), new.at.dentry.inode());
    let _renames = (!same_dir).then(|| RENAMES.lock());
    let _locks = lock_both(old.at.dentry.inode(), new.at.dentry.inode());
    rename_locked(&old, &new, flags, same_dir)
}

/// Locks two directories in the order of their addresses, one lock if they are the same.
fn lock_both<'a>(a: &'a Arc<Inode>, b: &'a Arc<Inode>) -> (MutexGuard<'a, ()>, Option<MutexGuard<'a, ()>>) {
    if Arc::ptr_eq(a, b) {
        return (a.lock.lock(), None);
    }
    let (first, second) = if Arc::as_ptr(a) < Arc::as_ptr(b) { (a, b) } else { (b, a) };
    let first = first.lock.lock();
    (first, Some(second.lock.lock()))
}

fn rename_locked(old: &Walker<'_>, new: &Walker<'_>, flags: u32, same_dir: bool) -> Result<()> {
    let (old_dir, new_dir) = (&old.at.dentry, &new.at.dentry);
    let exchange = flags & RENAME_EXCHANGE != 0;
    let moved = lookup_locked(old_dir, old.last())?.ok_or(Errno::ENOENT)?;
    let target = lookup_locked(new_dir, new.last())?;
    if flags & RENAME_NOREPLACE != 0 && target.is_some() {
        return Err(Errno::EEXIST);
    }
    let is_dir = moved.inode().is_dir();
    if exchange {
        let target = target.as_ref().ok_or(Errno::ENOENT)?;
        if !target.inode().is_dir() && new.must_be_dir {
            return Err(Errno::ENOTDIR);
        }
    }
    if !is_dir && (old.must_be_dir || !exchange && new.must_be_dir) {
        return Err(Errno::ENOTDIR);
    }
    if moved.is_ancestor_of(new_dir) {
        return Err(Errno::EINVAL);
    }
    if target.as_ref().is_some_and(|target| target.is_ancestor_of(old_dir)) {
        return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    // rename(2): two names of one file: nothing happens.
    if target.as_ref().is_some_and(|target| Arc::ptr_eq(target.inode(), moved.inode())) {
        return Ok(());
    }
    may_rename(old, new, &moved, target.as_ref(), exchange, same_dir)?;
    let change = Rename {
        old_dir: old_dir.inode(),
        old_name: old.last(),
        inode: moved.inode(),
        new_dir: new_dir.inode(),
        new_name: new.last(),
        target: target.as_ref().map(|target| target.inode()),
        exchange,
    };
    old_dir.inode().ops().rename(&change)?;
    match &target {
        Some(target) if exchange => moved.exchange_with(target),
        Some(target) => {
            new_dir.detach(target);
            mount::detach_all(target);
            moved.rename_to(new_dir, new.last());
        }
        None => moved.rename_to(new_dir, new.last()),
    }
    let (from, to) = ((&**old_dir.inode(), old.last()), (&**new_dir.inode(), new.last()));
    match &target {
        Some(target) if exchange => {
            notify::moved(from, to, moved.inode(), None);
            notify::moved(to, from, target.inode(), None);
        }
        _ => notify::moved(from, to, moved.inode(), target.as_ref().map(|target| &**target.inode())),
    }
    Ok(())
}

/// The checks of Linux's `vfs_rename`.
fn may_rename(
    old: &Walker<'_>,
    new: &Walker<'_>,
    moved: &Arc<Dentry>,
    target: Option<&Arc<Dentry>>,
    exchange: bool,
    same_dir: bool,
) -> Result<()> {
    let creds = old.creds();
    let (old_dir, new_dir) = (old.at.dentry.inode(), new.at.dentry.inode());
    may_delete(old_dir, moved.inode(), creds, Victim::Any)?;
    let is_dir = moved.inode().is_dir();
    match target {
        None => may_create(&new.at.dentry, creds)?,
        Some(target) => {
            let expected = match (exchange, is_dir) {
                (true, _) => Victim::Any,
                (false, true) => Victim::Directory,
                (false, false) => Victim::NotDirectory,
            };
            may_delete(new_dir, target.inode(), creds, expected)?;
        }
    }
    // A directory that gets another parent has its `..` changed.
    if !same_dir {
        if is_dir {
            check(moved.inode(), creds, MAY_WRITE)?;
        }
        if let Some(target) = target.filter(|target| exchange && target.inode().is_dir()) {
            check(target.inode(), creds, MAY_WRITE)?;
        }
    }
    if is_busy(moved) || target.is_some_and(|target| is_busy(target)) {
        return Err(Errno::EBUSY);
    }
    if !exchange && target.is_some_and(|target| is_nonempty(target)) {
        return Err(Errno::ENOTEMPTY);
    }
    Ok(())
}
