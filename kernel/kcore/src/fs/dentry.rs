//! Dentries: names in directories, and the cache that path walks use.
//!
//! A dentry belongs to one inode for its whole life; its place (parent and name) changes by rename. The children of a
//! directory are found in a hash table, and listed by a cookie that never changes, so that a directory can
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
use super::mount::Mount;
use crate::Result;
use crate::sync::order;

/// A name in a directory: bytes without `/` and NUL, 1 to 255 of them. Short ones, nearly all, need no memory of their own.
#[derive(Clone, Debug)]
pub struct Name(Text);

#[derive(Clone, Debug)]
enum Text {
    Short(u8, [u8; SHORT]),
    Long(Arc<[u8]>),
}

/// Bytes of a name that is kept in place: what makes it as long as the other kind with its tag.
const SHORT: usize = 22;

impl Name {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut short = [0; SHORT];
        match short.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Self(Text::Short(bytes.len() as u8, short))
            }
            None => Self(Text::Long(bytes.into())),
        }
    }
}

impl Deref for Name {
    type Target = [u8];
    #[inline(always)]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Text::Short(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            Text::Long(bytes) => bytes,
        }
    }
}

/// Eight bytes as a number, the first lowest.
#[inline(always)]
fn word(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

/// Up to seven bytes as a number, the first lowest, zeros behind the last.
#[inline(always)]
fn short_word(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << ((length - 4) * 8)
        }
        _ => match (bytes.first(), bytes.get(length / 2), bytes.last()) {
            (Some(first), Some(middle), Some(last)) => {
                u64::from(*first) | u64::from(*middle) << (length / 2 * 8) | u64::from(*last) << ((length - 1) * 8)
            }
            _ => 0,
        },
    }
}

/// Whether two names with the same hash are the same. The hash of one word is the word times an odd number, which no other
/// word has, so up to eight bytes the lengths decide.
#[inline(always)]
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && (one.len() <= 8 || one == other)
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
    /// An open hash table with linear probing: a power of two of places, at most three quarters of them taken.
    places: Vec<Option<(u64, Slot)>>,
    taken: usize,
    /// Present children in the order of their entering.
    by_cookie: BTreeMap<u64, (Name, Arc<Dentry>)>,
    next_cookie: u64,
    absent: usize,
}

/// The hash of a name, made of eight bytes at a time while a walk looks for the end of the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameHash(u64);

impl NameHash {
    #[inline(always)]
    fn with(self, word: u64) -> Self {
        Self((self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95))
    }

    /// Of a whole name.
    pub fn of(name: &[u8]) -> Self {
        Self::of_component(name).1
    }

    /// The length of the path component that `text` begins with, and the hash of it.
    #[inline(always)]
    pub fn of_component(text: &[u8]) -> (usize, Self) {
        const ONES: u64 = 0x0101_0101_0101_0101;
        let mut hash = Self::default();
        let mut length = 0;
        loop {
            let rest = text.get(length..).unwrap_or(&[]);
            let (bytes, got) = match rest.first_chunk() {
                Some(chunk) => (word(chunk), 8),
                None => (short_word(rest), rest.len()),
            };
            // A byte is a slash if subtracting one from what differs borrows into its top bit that was not set; the first
            // such byte is never reported wrongly.
            let differs = bytes ^ (ONES * u64::from(b'/'));
            let slashes = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
            let found = (slashes.trailing_zeros() as usize / 8).min(got);
            if found == 8 {
                hash = hash.with(bytes);
                length += 8;
                continue;
            }
            if found > 0 {
                hash = hash.with(bytes & !(u64::MAX << (found * 8)));
            }
            return (length + found, hash);
        }
    }
}

impl Children {
    const FIRST_SIZE: usize = 8;

    fn new() -> Self {
        Self { places: Vec::new(), taken: 0, by_cookie: BTreeMap::new(), next_cookie: FIRST_COOKIE, absent: 0 }
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        // The upper half decides: low bits of a product depend on low bits alone.
        (hash >> 32) as usize & self.places.len().wrapping_sub(1)
    }

    /// The place of `name`, if it is in the table.
    #[inline(always)]
    fn find(&self, name: &[u8], hash: NameHash) -> Option<(usize, &Slot)> {
        let mut at = self.home(hash.0);
        while let Some((known, slot)) = self.places.get(at)? {
            if *known == hash.0 && same(slot.name(), name) {
                return Some((at, slot));
            }
            at = (at + 1) & (self.places.len() - 1);
        }
        None
    }

    /// Puts an entry that is not in the table into its place. There is a free one.
    fn put(&mut self, hash: u64, slot: Slot) {
        let mut at = self.home(hash);
        while self.places[at].is_some() {
            at = (at + 1) & (self.places.len() - 1);
        }
        self.places[at] = Some((hash, slot));
    }

    fn add(&mut self, slot: Slot) {
        if (self.taken + 1) * 4 > self.places.len() * 3 {
            let size = (self.places.len() * 2).max(Self::FIRST_SIZE);
            let old = core::mem::take(&mut self.places);
            self.places.resize_with(size, || None);
            for (hash, slot) in old.into_iter().flatten() {
                self.put(hash, slot);
            }
        }
        self.taken += 1;
        self.put(NameHash::of(slot.name()).0, slot);
    }

    fn insert(&mut self, name: Name, dentry: Arc<Dentry>) {
        self.remove(&name);
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.by_cookie.insert(cookie, (name.clone(), dentry.clone()));
        self.add(Slot::Child { name, cookie, dentry });
    }

    fn insert_absent(&mut self, name: &[u8]) {
        if self.absent >= MAX_ABSENT {
            self.forget_absent();
        }
        if self.find(name, NameHash::of(name)).is_none() {
            self.add(Slot::Absent(Name::new(name)));
            self.absent += 1;
        }
    }

    fn forget_absent(&mut self) {
        let absent = |place: &Option<(u64, Slot)>| match place {
            Some((_, Slot::Absent(name))) => Some(name.clone()),
            _ => None,
        };
        let names: Vec<Name> = self.places.iter().filter_map(absent).collect();
        names.iter().for_each(|name| self.remove(name));
    }

    fn remove(&mut self, name: &[u8]) {
        let Some((mut at, _)) = self.find(name, NameHash::of(name)) else { return };
        match self.places[at].take() {
            Some((_, Slot::Child { cookie, .. })) => drop(self.by_cookie.remove(&cookie)),
            Some((_, Slot::Absent(_))) => self.absent -= 1,
            None => {}
        }
        self.taken -= 1;
        // Entries that made way for this one move up, so that no search stops at the gap.
        loop {
            at = (at + 1) & (self.places.len() - 1);
            let Some((hash, slot)) = self.places[at].take() else { return };
            self.put(hash, slot);
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
    /// Those mounts, each with the number of the mount through which it is seen here.
    pub(super) covering: SpinLock<BTreeMap<u32, Arc<Mount>>>,
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
            covering: SpinLock::new(order::MOUNT, BTreeMap::new()),
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
    pub fn lookup_cached(&self, name: &[u8]) -> Cached {
        self.lookup_hashed(name, NameHash::of(name))
    }

    /// The same for a name whose hash is known.
    #[inline]
    pub fn lookup_hashed(&self, name: &[u8], hash: NameHash) -> Cached {
        {
            let children = self.children.lock();
            match children.as_ref().and_then(|children| children.find(name, hash)) {
                Some((_, Slot::Child { dentry, .. })) => return Cached::Found(dentry.clone()),
                Some((_, Slot::Absent(_))) => return Cached::Absent,
                None => {}
            }
        }
        if self.inode.ops().is_dcache_complete() { Cached::Absent } else { Cached::Unknown }
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

impl Drop for Dentry {
    /// Drops the chain of parents that this was the last user of in a loop: it may be thousands long, and the kernel stack
    /// is not.
    fn drop(&mut self) {
        super::notify::dentry_gone(&self.inode);
        let mut next = self.place.get_mut().parent.take();
        while let Some(parent) = next {
            let Some(mut parent) = Arc::into_inner(parent) else { return };
            next = parent.place.get_mut().parent.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Name, NameHash, same};

    #[test]
    fn a_component_ends_at_a_slash_or_with_the_text() {
        let name: Vec<u8> = (0..40).map(|n| b'a' + n % 26).collect();
        for length in 0..name.len() {
            let name = &name[..length];
            let alone = NameHash::of_component(name);
            assert_eq!(alone, (length, NameHash::of(name)));
            for behind in ["/", "/x", "//", "/abcdefghijklmnop"] {
                assert_eq!(NameHash::of_component(&[name, behind.as_bytes()].concat()), alone, "{length}{behind}");
            }
        }
        assert_ne!(NameHash::of(b"ab"), NameHash::of(b"ba"));
    }

    #[test]
    fn names_are_the_same_if_all_their_bytes_are() {
        let is_taken_for = |one: &[u8], other: &[u8]| NameHash::of(one) == NameHash::of(other) && same(one, other);
        for length in 1..40 {
            let name = vec![b'x'; length];
            assert!(is_taken_for(&name, &name) && *Name::new(&name) == *name);
            assert!(!is_taken_for(&name, &name[1..]));
            for at in 0..length {
                let mut other = name.clone();
                other[at] = b'.';
                assert!(!is_taken_for(&name, &other), "{length} bytes, another at {at}");
            }
        }
    }
}
