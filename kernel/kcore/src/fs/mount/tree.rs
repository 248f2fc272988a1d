//! Mounts as trees: put on a place, taken off, copied with all below.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;

use super::namespace::MountList;
use super::propagation::{self, Relation, make_private, set_kind, share};
use super::{Dentry, Mount, Path, Propagation, Tree, lookup_at};
use crate::Result;
use crate::fs::nsfs;

/// Puts a mount on a place. Nothing is there.
pub(super) fn cover(_: &Tree, mount: &Arc<Mount>, at: Path) {
    at.dentry.add_mounts(1);
    let Path { mount: below, dentry } = at.clone();
    let old = mount.at.lock().replace(at);
    debug_assert!(old.is_none(), "a mount covers one place");
    let hidden = dentry.covering.lock().insert(below.id, mount.clone());
    debug_assert!(hidden.is_none(), "a place is covered once");
    below.links.lock().children.push(mount.clone());
    drop((old, hidden));
}

/// Takes a mount off its place.
pub(super) fn uncover(_: &Tree, mount: &Arc<Mount>) -> Option<Path> {
    let at = mount.at.lock().take()?;
    let gone = at.dentry.covering.lock().remove(&at.mount.id);
    at.dentry.add_mounts(-1);
    let child = {
        let mut links = at.mount.links.lock();
        let index = links.children.iter().position(|known| Arc::ptr_eq(known, mount));
        index.map(|index| links.children.remove(index))
    };
    drop((gone, child));
    Some(at)
}

/// Puts a mount on a place where perhaps another one is, which then is on top of it (Linux `attach_mnt` after
/// `mnt_change_mountpoint`): so do the copies that propagation makes.
fn tuck(tree: &Tree, mount: &Arc<Mount>, at: Path) {
    let above = lookup_at(&at.mount, &at.dentry);
    let old = above.as_ref().and_then(|above| uncover(tree, above));
    cover(tree, mount, at);
    if let Some(above) = above {
        cover(tree, &above, mount.root_path());
    }
    drop(old);
}

/// A mount and all below it, parents first, in the order of mounting.
pub(super) fn all_of(top: &Arc<Mount>) -> Vec<Arc<Mount>> {
    let mut found = alloc::vec![top.clone()];
    let mut next = 0;
    while let Some(mount) = found.get(next) {
        let children = mount.children();
        next += 1;
        // Depth first, as Linux's `next_mnt` walks: the order of `/proc/mounts` of a copy.
        found.splice(next..next, children);
    }
    found
}

/// What a copy of a tree is for, and so what it leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// A recursive bind mount: no unbindable mounts, and nothing below them.
    Bind,
    /// A new namespace: no files of mount namespaces, which would keep each other alive.
    Namespace,
    /// Propagation: everything that was mounted.
    Propagation,
}

impl Purpose {
    fn leaves_out(self, mount: &Mount) -> bool {
        match self {
            Purpose::Bind => mount.is_unbindable(),
            Purpose::Namespace => nsfs::is_mount_namespace(&mount.root),
            Purpose::Propagation => false,
        }
    }
}

/// A copy of the tree at `root` in `top`, its mounts related to their originals by `relation` (Linux `copy_tree`). The
/// copy is in no namespace; `each` is told every original and its copy. `EINVAL` for a top that is left out,
/// `EPERM` for a locked mount below it that would be.
pub(super) fn copy_tree(
    tree: &Tree,
    top: &Arc<Mount>,
    root: &Arc<Dentry>,
    relation: Relation,
    purpose: Purpose,
    each: &mut dyn FnMut(&Arc<Mount>, &Arc<Mount>),
) -> Result<Arc<Mount>> {
    if purpose.leaves_out(top) {
        return Err(Errno::EINVAL);
    }
    let copy = propagation::copy(tree, top, root, relation);
    each(top, &copy);
    let mut work = alloc::vec![(top.clone(), copy.clone(), Some(root.clone()))];
    while let Some((original, made, below)) = work.pop() {
        for child in original.children() {
            let Some(at) = child.mountpoint() else { continue };
            let is_seen = below.as_ref().is_none_or(|root| root.is_ancestor_of(&at.dentry));
            if !is_seen {
                continue;
            }
            if purpose.leaves_out(&child) {
                if child.is_locked() && purpose == Purpose::Bind {
                    discard(tree, &copy);
                    return Err(Errno::EPERM);
                }
                continue;
            }
            let child_copy = propagation::copy(tree, &child, &child.root, relation);
            each(&child, &child_copy);
            cover(tree, &child_copy, Path { mount: made.clone(), dentry: at.dentry });
            work.push((child, child_copy, None));
        }
    }
    Ok(copy)
}

/// Lists a tree in a namespace.
pub(super) fn list_tree(_: &Tree, top: &Arc<Mount>, namespace: &Arc<MountList>) {
    for mount in all_of(top) {
        namespace.add(&mount);
    }
}

/// The tree was copied into another user namespace: its mounts keep their restrictions, and below its top none can be taken
/// off what it hides (Linux `lock_mnt_tree`).
pub(super) fn lock_tree(top: &Arc<Mount>) {
    for mount in all_of(top) {
        mount.lock_flags();
        if !Arc::ptr_eq(&mount, top) {
            mount.lock();
        }
    }
}

/// Whether a bind of what is at `root` would uncover what a locked mount hides.
pub(super) fn has_locked_children(mount: &Mount, root: &Arc<Dentry>) -> bool {
    let hides = |child: &Arc<Mount>| child.mountpoint().is_some_and(|at| root.is_ancestor_of(&at.dentry));
    mount.children().iter().any(|child| child.is_locked() && hides(child))
}

/// Where the tree comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// It was just made.
    New,
    /// It is mounted elsewhere in this namespace.
    Moved,
}

/// Mounts a tree on `at`, and copies of it on what shares `at` (Linux `attach_recursive_mnt`): all of it or nothing.
pub(super) fn attach_tree(tree: &Tree, top: &Arc<Mount>, at: Path, source: Source) -> Result<()> {
    let namespace = at.mount.list().ok_or(Errno::EINVAL)?;
    let here = namespace.clone();
    let mounts = all_of(top);
    if source == Source::New {
        namespace.check_room(mounts.len())?;
    }
    let is_shared = propagation::is_shared(&at.mount);
    let mut copies = Vec::new();
    if is_shared {
        let alone: Vec<&Arc<Mount>> = mounts.iter().filter(|mount| !propagation::is_shared(mount)).collect();
        mounts.iter().for_each(|mount| share(tree, mount));
        match propagation::copies_for(tree, &at, top) {
            Ok(made) => copies = made,
            Err(error) => {
                alone.into_iter().for_each(|mount| set_kind(tree, mount, Propagation::Private));
                return Err(error);
            }
        }
    }
    if source == Source::Moved {
        drop(uncover(tree, top));
    }
    cover(tree, top, at);
    if source == Source::New {
        list_tree(tree, top, &namespace);
    }
    namespace.touch();
    for (place, copy) in copies {
        let Some(namespace) = place.mount.list() else { continue };
        // What comes from another user namespace comes as a whole.
        if !namespace.owner.is_same(&here.owner) {
            lock_tree(&copy);
        }
        copy.unlock();
        tuck(tree, &copy, place);
        list_tree(tree, &copy, &namespace);
        namespace.touch();
    }
    Ok(())
}

/// Gives up a tree that was never attached.
pub(super) fn discard(tree: &Tree, top: &Arc<Mount>) {
    for mount in all_of(top).iter().rev() {
        drop(uncover(tree, mount));
        make_private(tree, mount);
    }
}

/// The mount that covers the root of `mount` and is all that is mounted in it (Linux `find_topper`).
pub(super) fn topper(mount: &Arc<Mount>) -> Option<Arc<Mount>> {
    let children = mount.children();
    let [only] = &children[..] else { return None };
    let at = only.mountpoint()?;
    Arc::ptr_eq(&at.dentry, &mount.root).then(|| only.clone())
}

/// Whether a mount is used by somebody beside the tree of mounts and `expected` references of the caller.
pub(super) fn is_used(mount: &Arc<Mount>, expected: usize) -> bool {
    // The dentry that it covers, the list of the mount below, the list of its namespace; and each mount on it knows it.
    const OWN: usize = 3;
    Arc::strong_count(mount) > OWN + expected + mount.links.lock().children.len()
}

/// Takes a mount and all below it away, and what was mounted with them elsewhere if `propagate` (Linux `umount_tree`).
pub(super) fn unmount_tree(tree: &Tree, top: &Arc<Mount>, propagate: bool) {
    let mut gone = all_of(top);
    if propagate {
        let elsewhere = propagation::unmounted_with(&gone);
        gone.extend(elsewhere);
    }
    // Children first: what covers the root of a mount that goes, and stays itself, moves down to where that was.
    for mount in gone.iter().rev() {
        let stays = topper(mount).filter(|above| !gone.iter().any(|going| Arc::ptr_eq(going, above)));
        let old = stays.as_ref().and_then(|above| uncover(tree, above));
        let place = uncover(tree, mount);
        if let Some(namespace) = mount.list() {
            namespace.remove(mount);
            namespace.touch();
        }
        make_private(tree, mount);
        if let (Some(above), Some(place)) = (stays, place) {
            cover(tree, &above, place);
        }
        drop(old);
    }
}
