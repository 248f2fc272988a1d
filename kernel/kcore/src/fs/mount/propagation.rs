//! How mounts share events: mount_namespaces(7), "Shared subtrees".
//!
//! Mounts that share are members of a [`PeerGroup`]; a slave has a group as its master. What is mounted on a member is
//! mounted on its peers, and on the slaves of the group, and on their peers and slaves in turn: a walk over groups.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use hal::sync::SpinLock;

use super::tree::{self, Purpose};
use super::{Dentry, Mount, Path, Tree, lookup_at};
use crate::Result;
use crate::sync::order;

/// The kinds of propagation that mount(2) sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// MS_SHARED.
    Shared,
    /// MS_PRIVATE.
    Private,
    /// MS_SLAVE.
    Slave,
    /// MS_UNBINDABLE.
    Unbindable,
}

/// Mounts that share events.
pub struct PeerGroup {
    /// Its number in `/proc/PID/mountinfo`.
    pub id: u32,
    state: SpinLock<Members>,
}

/// Mounts by their numbers: the order of their making.
#[derive(Default)]
struct Members {
    peers: BTreeMap<u32, Weak<Mount>>,
    slaves: BTreeMap<u32, Weak<Mount>>,
}

hal::global! {
    static NEXT_GROUP: AtomicU32 = AtomicU32::new(1);
}

impl PeerGroup {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_GROUP.fetch_add(1, Ordering::Relaxed),
            state: SpinLock::new(order::MOUNT, Members::default()),
        })
    }

    fn peers(&self) -> Vec<Arc<Mount>> {
        self.state.lock().peers.values().filter_map(Weak::upgrade).collect()
    }

    fn slaves(&self) -> Vec<Arc<Mount>> {
        self.state.lock().slaves.values().filter_map(Weak::upgrade).collect()
    }
}

/// How a copy of a mount is related to the original (Linux's `CL_*` flags).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Relation {
    /// A peer of a shared one, a slave of the same master.
    Same,
    /// A peer of the original (CL_MAKE_SHARED), which is shared.
    Peer,
    /// A slave of the original's group (CL_SLAVE).
    Slave,
    /// A slave of a shared one, else as [`Relation::Same`] (CL_SHARED_TO_SLAVE).
    SlaveIfShared,
    /// A slave of the original's group, with a group of its own (CL_SLAVE | CL_MAKE_SHARED).
    SharedSlave,
}

/// Whether what is mounted in it is mounted elsewhere too.
pub(super) fn is_shared(mount: &Mount) -> bool {
    mount.links.lock().peers.is_some()
}

fn group_of(mount: &Mount) -> Option<Arc<PeerGroup>> {
    mount.links.lock().peers.clone()
}

fn master_of(mount: &Mount) -> Option<Arc<PeerGroup>> {
    mount.links.lock().master.clone()
}

fn join(mount: &Arc<Mount>, group: &Arc<PeerGroup>) {
    group.state.lock().peers.insert(mount.id, Arc::downgrade(mount));
    let old = mount.links.lock().peers.replace(group.clone());
    debug_assert!(old.is_none(), "a mount has one group");
}

fn set_master(mount: &Arc<Mount>, master: Option<Arc<PeerGroup>>) {
    if let Some(master) = &master {
        master.state.lock().slaves.insert(mount.id, Arc::downgrade(mount));
    }
    let old = core::mem::replace(&mut mount.links.lock().master, master.clone());
    if let Some(old) = old
        && !master.is_some_and(|master| Arc::ptr_eq(&old, &master))
    {
        old.state.lock().slaves.remove(&mount.id);
    }
}

/// Makes it shared unless it is (Linux `set_mnt_shared` with `invent_group_ids`).
pub(super) fn share(_: &Tree, mount: &Arc<Mount>) {
    mount.links.lock().is_unbindable = false;
    if !is_shared(mount) {
        join(mount, &PeerGroup::new());
    }
}

/// Changes the kind (Linux `change_mnt_propagation`).
pub(super) fn set_kind(tree: &Tree, mount: &Arc<Mount>, kind: Kind) {
    if kind == Kind::Shared {
        share(tree, mount);
        return;
    }
    leave_group(mount);
    if kind != Kind::Slave {
        set_master(mount, None);
        mount.links.lock().is_unbindable = kind == Kind::Unbindable;
    }
}

/// A mount that goes away shares nothing any more.
pub(super) fn make_private(tree: &Tree, mount: &Arc<Mount>) {
    set_kind(tree, mount, Kind::Private);
}

/// It becomes a slave of its group; the last member hands the group's slaves to its own master (Linux `do_make_slave`).
fn leave_group(mount: &Arc<Mount>) {
    let Some(group) = mount.links.lock().peers.take() else { return };
    let orphans = {
        let mut state = group.state.lock();
        state.peers.remove(&mount.id);
        if state.peers.is_empty() { core::mem::take(&mut state.slaves) } else { BTreeMap::new() }
    };
    if !group.state.lock().peers.is_empty() {
        set_master(mount, Some(group));
        return;
    }
    let master = master_of(mount);
    for slave in orphans.values().filter_map(Weak::upgrade) {
        set_master(&slave, master.clone());
    }
}

/// A mount of the same file system at `root` (Linux `clone_mnt`). It is attached nowhere.
pub(super) fn copy(tree: &Tree, old: &Arc<Mount>, root: &Arc<Dentry>, relation: Relation) -> Arc<Mount> {
    let new = Mount::new(old.sb.clone(), root.clone(), old.source.clone(), old.flags());
    new.locks.store(old.locks.load(Ordering::Relaxed), Ordering::Relaxed);
    let (group, master) = (group_of(old), master_of(old));
    match relation {
        Relation::Slave => set_master(&new, group),
        Relation::SharedSlave => {
            set_master(&new, group);
            share(tree, &new);
        }
        Relation::SlaveIfShared if group.is_some() => set_master(&new, group),
        Relation::Same | Relation::Peer | Relation::SlaveIfShared => {
            if let Some(group) = group {
                join(&new, &group);
            }
            set_master(&new, master);
            let is_unbindable = old.is_unbindable();
            new.links.lock().is_unbindable = is_unbindable;
        }
    }
    new
}

/// The mounts that hear of events in `mount`, in the order that they are told: its peers, then slaves, each with its peers,
/// near ones first (Linux `propagation_next`). Each comes with the group that it hears of the event from.
fn receivers(mount: &Arc<Mount>) -> Vec<(Arc<Mount>, Arc<PeerGroup>)> {
    let Some(first) = group_of(mount) else { return Vec::new() };
    let mut found: Vec<(Arc<Mount>, Arc<PeerGroup>)> = Vec::new();
    let mut groups = VecDeque::from([first.clone()]);
    for peer in first.peers() {
        if !Arc::ptr_eq(&peer, mount) {
            found.push((peer, first.clone()));
        }
    }
    let mut known = alloc::vec![first.id];
    while let Some(master) = groups.pop_front() {
        for slave in master.slaves() {
            if let Some(group) = group_of(&slave)
                && !known.contains(&group.id)
            {
                known.push(group.id);
                groups.push_back(group);
            }
            found.push((slave, master.clone()));
        }
    }
    found
}

/// What mounting `source` on `at` mounts elsewhere: places and the copies for them, not attached (Linux `propagate_mnt`).
/// `source` is shared. `ENOSPC` when a namespace is full; nothing is left then.
pub(super) fn copies_for(tree: &Tree, at: &Path, source: &Arc<Mount>) -> Result<Vec<(Path, Arc<Mount>)>> {
    let mut made: Vec<(Path, Arc<Mount>)> = Vec::new();
    // One copy in each group that has one: its peers' copies share with it, its slaves' copies are its slaves.
    let mut samples: BTreeMap<u32, Arc<Mount>> = BTreeMap::new();
    let first = group_of(&at.mount).ok_or(Errno::EINVAL)?;
    samples.insert(first.id, source.clone());
    let count = tree::all_of(source).len();
    for (receiver, heard_from) in receivers(&at.mount) {
        // What is only being made, and what does not show the directory, has no such place.
        let Some(namespace) = receiver.list() else { continue };
        if !receiver.root.is_ancestor_of(&at.dentry) {
            continue;
        }
        let own = group_of(&receiver);
        let (original, relation) = match own.as_ref().and_then(|group| samples.get(&group.id)) {
            Some(sample) => (sample.clone(), Relation::Peer),
            None => {
                let relation = if own.is_some() { Relation::SharedSlave } else { Relation::Slave };
                (nearest_sample(&samples, heard_from), relation)
            }
        };
        let copied = namespace.check_room(count).and_then(|()| {
            tree::copy_tree(tree, &original, &original.root, relation, Purpose::Propagation, &mut |_, _| {})
        });
        match copied {
            Ok(copy) => {
                if let (Some(group), Relation::SharedSlave) = (own, relation) {
                    samples.insert(group.id, copy.clone());
                }
                made.push((Path { mount: receiver, dentry: at.dentry.clone() }, copy));
            }
            Err(error) => {
                made.iter().for_each(|(_, copy)| tree::discard(tree, copy));
                return Err(error);
            }
        }
    }
    Ok(made)
}

/// The copy in `group` or in the nearest master of it that has one. The group of the event itself has.
fn nearest_sample(samples: &BTreeMap<u32, Arc<Mount>>, group: Arc<PeerGroup>) -> Arc<Mount> {
    let mut at = group;
    loop {
        if let Some(sample) = samples.get(&at.id) {
            return sample.clone();
        }
        let master = at.peers().first().and_then(|peer| master_of(peer));
        at = master.expect("the masters of a receiver lead to the group of the event");
    }
}

/// The mounts that go elsewhere when all of `gone` (parents first) are unmounted: those on the same places of mounts that
/// share with their parents, unless something is mounted in them that stays (Linux `propagate_umount`).
pub(super) fn unmounted_with(gone: &[Arc<Mount>]) -> Vec<Arc<Mount>> {
    let mut found: Vec<Arc<Mount>> = Vec::new();
    let goes =
        |found: &[Arc<Mount>], mount: &Arc<Mount>| gone.iter().chain(found).any(|going| Arc::ptr_eq(going, mount));
    // Children first, so that what is below is known to go.
    for mount in gone.iter().rev() {
        let Some(at) = mount.mountpoint() else { continue };
        for (receiver, _) in receivers(&at.mount) {
            let Some(child) = lookup_at(&receiver, &at.dentry) else { continue };
            if goes(&found, &child) {
                continue;
            }
            let above = tree::topper(&child);
            let is_held = child.is_locked()
                || child
                    .children()
                    .iter()
                    .any(|kept| !goes(&found, kept) && !above.as_ref().is_some_and(|above| Arc::ptr_eq(above, kept)));
            if !is_held {
                found.push(child);
            }
        }
    }
    // Parents first, as in `gone`.
    found.reverse();
    found
}

/// Whether an unmount of `mount`, which has nothing mounted in it, would take away a mount elsewhere that is used (Linux
/// `propagate_mount_busy`).
pub(super) fn is_used_elsewhere(mount: &Arc<Mount>) -> bool {
    let Some(at) = mount.mountpoint() else { return false };
    receivers(&at.mount).into_iter().any(|(receiver, _)| {
        let Some(child) = lookup_at(&receiver, &at.dentry) else { return false };
        // What has mounts in it stays; one that covers its root does not count.
        let has_mounts = !child.children().is_empty() && tree::topper(&child).is_none();
        !has_mounts && tree::is_used(&child, 1)
    })
}

/// What `/proc/PID/mountinfo` says of a mount's relations: `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
pub(super) struct Tags {
    pub(super) shared: Option<u32>,
    pub(super) master: Option<u32>,
    pub(super) propagate_from: Option<u32>,
    pub(super) is_unbindable: bool,
}

/// The same, as a reader sees it to whom `is_reachable` mounts are visible.
pub(super) fn tags(mount: &Arc<Mount>, is_reachable: impl Fn(&Arc<Mount>) -> bool) -> Tags {
    let (group, master) = (group_of(mount), master_of(mount));
    let mut propagate_from = None;
    // The nearest group up the masters with a member that the reader sees (Linux `get_dominating_id`).
    let mut at = master.clone();
    while let Some(group) = at {
        if group.peers().iter().any(&is_reachable) {
            propagate_from = Some(group.id);
            break;
        }
        at = group.peers().first().and_then(|peer| master_of(peer));
    }
    let master = master.map(|group| group.id);
    Tags {
        shared: group.map(|group| group.id),
        master,
        propagate_from: propagate_from.filter(|from| Some(*from) != master),
        is_unbindable: mount.is_unbindable(),
    }
}
