//! Dentries: names in directories, and the cache that path walks use.
//!
//! A dentry belongs to one inode for its whole life; its place (parent and name) changes by rename. The children of a
//! directory are found by a 64-bit hash of the name, and listed by a cookie that never changes, so that a directory can
//! be read while it changes (Linux's `simple_offset`). In a file system that lives in memory the children are the
//! directory itself; in others they are what was looked up, with [`Slot::Absent`] for names known not to exist.
//!
//! Both locks of a dentry have one level: none is taken while another is held.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::Errno;
use hal::sync::SpinLock;

use super::inode::Inode;
use crate::Result;
use crate::sync::order;

/// A name in a directory: bytes without `/` and NUL, 1 to 255 of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl Deref for Name {
    type Target = [u8];
    #[inline(always)]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Most names known to be absent that a directory remembers.
const MAX_ABSENT: usize = 64;

/// Cookies 0 and 1 are `.` and `..`.
const FIRST_COOKIE: u64 = 2;

enum Slot {
    Child { name: Name, cookie: u64, dentry: Arc<Dentry> },
    Absent(Name),
}

impl Slot {
    fn name(&self) -> &[u8] {
        match self {
            Slot::Child { name, .. } | Slot::Absent(name) => name,
        }
    }
}

/// The children of a directory.
struct Children {
    /// By hash; a name whose hash is taken is at the next free number behind it.
    by_hash: BTreeMap<u64, Slot>,
    /// Present children in the order of their entering.
    by_cookie: BTreeMap<u64, (Name, Arc<Dentry>)>,
    next_cookie: u64,
    absent: usize,
}

/// Folds eight bytes at a time; what matters is that it is cheap and spreads.
#[inline]
fn hash(name: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = name.len() as u64;
    let (words, rest) = name.as_chunks::<8>();
    for word in words {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER);
    }
    let tail = rest.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    (hash.rotate_left(5) ^ tail).wrapping_mul(MULTIPLIER)
}

impl Children {
    fn new() -> Self {
        Self { by_hash: BTreeMap::new(), by_cookie: BTreeMap::new(), next_cookie: FIRST_COOKIE, absent: 0 }
    }

    /// The key under which `name` is, or would be put.
    #[inline]
    fn probe(&self, name: &[u8]) -> (u64, Option<&Slot>) {
        let mut key = hash(name);
        loop {
            match self.by_hash.get(&key) {
                None => return (key, None),
                Some(slot) if slot.name() == name => return (key, Some(slot)),
                Some(_) => key = key.wrapping_add(1),
            }
        }
    }

    fn insert(&mut self, name: Name, dentry: Arc<Dentry>) {
        self.remove(&name);
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let (key, _) = self.probe(&name);
        self.by_cookie.insert(cookie, (name.clone(), dentry.clone()));
        self.by_hash.insert(key, Slot::Child { name, cookie, dentry });
    }

    fn insert_absent(&mut self, name: &[u8]) {
        if self.absent >= MAX_ABSENT {
            self.forget_absent();
        }
        if let (key, None) = self.probe(name) {
            self.by_hash.insert(key, Slot::Absent(Name::new(name)));
            self.absent += 1;
        }
    }

    fn forget_absent(&mut self) {
        let names: Vec<Name> = self
            .by_hash
            .values()
            .filter_map(|s| if let Slot::Absent(n) = s { Some(n.clone()) } else { None })
            .collect();
        names.iter().for_each(|name| self.remove(name));
    }

    fn remove(&mut self, name: &[u8]) {
        let (key, Some(_)) = self.probe(name) else { return };
        match self.by_hash.remove(&key) {
            Some(Slot::Child { cookie, .. }) => drop(self.by_cookie.remove(&cookie)),
            Some(Slot::Absent(_)) => self.absent -= 1,
            None => {}
        }
        // Names that made way for this one move up, so that no probe stops at the gap.
        let mut next = key.wrapping_add(1);
        while let Some(slot) = self.by_hash.remove(&next) {
            let (home, _) = self.probe(slot.name());
            self.by_hash.insert(home, slot);
            next = next.wrapping_add(1);
        }
    }
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Name,
}

/// A name of an inode.
pub struct Dentry {
    inode: Arc<Inode>,
    place: SpinLock<Place>,
    children: SpinLock<Option<Box<Children>>>,
    /// How many mounts cover it.
    mounts: AtomicU32,
    /// The name was taken away.
    unlinked: AtomicBool,
}

/// What the cache knows of a name.
pub enum Cached {
    /// It is there.
    Found(Arc<Dentry>),
    /// It does not exist.
    Absent,
    /// Ask the file system.
    Unknown,
}

impl Dentry {
    fn build(parent: Option<Arc<Dentry>>, name: Name, inode: Arc<Inode>) -> Arc<Self> {
        Arc::new(Self {
            inode,
            place: SpinLock::new(order::DENTRY, Place { parent, name }),
            children: SpinLock::new(order::DENTRY, None),
            mounts: AtomicU32::new(0),
            unlinked: AtomicBool::new(false),
        })
    }

    /// The root of a file system.
    pub fn new_root(inode: Arc<Inode>) -> Arc<Self> {
        Self::build(None, Name::new(b"/"), inode)
    }

    /// A name that is in no directory: files of pseudo file systems, O_TMPFILE.
    pub fn new_loose(name: &[u8], inode: Arc<Inode>) -> Arc<Self> {
        Self::build(None, Name::new(name), inode)
    }

    /// A child that its directory does not remember (`/proc/PID`).
    pub fn new_volatile(self: &Arc<Self>, name: &[u8], inode: Arc<Inode>) -> Arc<Self> {
        Self::build(Some(self.clone()), Name::new(name), inode)
    }

    /// Enters a child. The directory's inode is locked, and the name is not there.
    pub fn attach(self: &Arc<Self>, name: &[u8], inode: Arc<Inode>) -> Arc<Self> {
        let name = Name::new(name);
        let child = Self::build(Some(self.clone()), name.clone(), inode);
        self.with_children(|children| children.insert(name, child.clone()));
        child
    }

    /// Takes a child's name away. The directory's inode is locked.
    pub fn detach(&self, child: &Dentry) {
        let name = child.name();
        self.with_children(|children| children.remove(&name));
        child.unlinked.store(true, Ordering::Release);
    }

    /// Moves this dentry to another place, over whatever has that name. Both directories are locked.
    pub fn rename_to(self: &Arc<Self>, new_parent: &Arc<Dentry>, new_name: &[u8]) {
        let new_name = Name::new(new_name);
        let old = {
            let mut place = self.place.lock();
            core::mem::replace(&mut *place, Place { parent: Some(new_parent.clone()), name: new_name.clone() })
        };
        if let Some(old_parent) = &old.parent {
            old_parent.with_children(|children| children.remove(&old.name));
        }
        new_parent.with_children(|children| children.insert(new_name, self.clone()));
    }

    /// Two dentries change places. Both directories are locked.
    pub fn exchange_with(self: &Arc<Self>, other: &Arc<Dentry>) {
        let (Some(my_parent), my_name) = (self.parent(), self.name()) else { return };
        let (Some(other_parent), other_name) = (other.parent(), other.name()) else { return };
        *self.place.lock() = Place { parent: Some(other_parent.clone()), name: other_name.clone() };
        *other.place.lock() = Place { parent: Some(my_parent.clone()), name: my_name.clone() };
        my_parent.with_children(|children| children.insert(my_name, other.clone()));
        other_parent.with_children(|children| children.insert(other_name, self.clone()));
    }

    /// Remembers that `name` does not exist.
    pub fn remember_absent(&self, name: &[u8]) {
        self.with_children(|children| children.insert_absent(name));
    }

    fn with_children<R>(&self, f: impl FnOnce(&mut Children) -> R) -> R {
        let mut children = self.children.lock();
        f(children.get_or_insert_with(|| Box::new(Children::new())))
    }

    /// Looks a name up in the cache, without allocation.
    #[inline]
    pub fn lookup_cached(&self, name: &[u8]) -> Cached {
        let children = self.children.lock();
        match children.as_ref().and_then(|children| children.probe(name).1) {
            Some(Slot::Child { dentry, .. }) => Cached::Found(dentry.clone()),
            Some(Slot::Absent(_)) => Cached::Absent,
            None if self.inode.ops().is_dcache_complete() => Cached::Absent,
            None => Cached::Unknown,
        }
    }

    /// Calls `f(name, inode, cookie)` for each child from cookie `from` on until it says `false`. `f` runs under the
    /// directory's spin lock.
    pub fn each_child(&self, from: u64, mut f: impl FnMut(&[u8], &Arc<Dentry>, u64) -> bool) {
        let children = self.children.lock();
        let Some(children) = children.as_ref() else { return };
        for (cookie, (name, dentry)) in children.by_cookie.range(from..) {
            if !f(name, dentry, *cookie) {
                return;
            }
        }
    }

    /// Whether a directory of a file system in memory has entries.
    pub fn has_children(&self) -> bool {
        self.children.lock().as_ref().is_some_and(|children| !children.by_cookie.is_empty())
    }

    /// Its inode.
    #[inline(always)]
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// Its name; `/` for a root.
    pub fn name(&self) -> Name {
        self.place.lock().name.clone()
    }

    /// Its directory; `None` for a root.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.lock().parent.clone()
    }

    /// Both at one moment.
    pub fn place(&self) -> (Option<Arc<Dentry>>, Name) {
        let place = self.place.lock();
        (place.parent.clone(), place.name.clone())
    }

    /// Whether its name was taken away. Nothing can be created below it (`ENOENT`), and paths show ` (deleted)`.
    pub fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    /// Marks a name that never was in a directory as gone (O_TMPFILE).
    pub(super) fn mark_unlinked(&self) {
        self.unlinked.store(true, Ordering::Release);
    }

    /// Whether a mount may cover it.
    #[inline(always)]
    pub fn is_mountpoint(&self) -> bool {
        self.mounts.load(Ordering::Acquire) > 0
    }

    pub(super) fn add_mounts(&self, change: i32) {
        self.mounts.fetch_add(change.cast_unsigned(), Ordering::AcqRel);
    }

    /// Whether `self` is `other` or above it.
    pub fn is_ancestor_of(self: &Arc<Self>, other: &Arc<Dentry>) -> bool {
        let mut at = Some(other.clone());
        while let Some(dentry) = at {
            if Arc::ptr_eq(&dentry, self) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    /// Breaks the links between parents and children of a whole tree, without recursion: the tree may be deep.
    pub(super) fn take_apart(self: Arc<Self>) {
        let mut work = alloc::vec![self];
        while let Some(dentry) = work.pop() {
            let children = dentry.children.lock().take();
            if let Some(children) = children {
                work.extend(children.by_cookie.into_values().map(|(_, child)| child));
            }
            dentry.unlinked.store(true, Ordering::Release);
        }
    }

    /// Drops what the cache knows of `name`, for file systems whose entries come and go by themselves.
    pub fn forget(&self, name: &[u8]) -> Result<()> {
        let found = match self.lookup_cached(name) {
            Cached::Found(dentry) => dentry,
            _ => return Err(Errno::ENOENT),
        };
        self.detach(&found);
        Ok(())
    }
}
