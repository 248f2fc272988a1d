//! Notification of changes in the file system: what inotify(7) and dnotify are told, in one place (Linux `fs/notify`,
//! fsnotify).
//!
//! A [`Mark`] says that a listener wants to hear of an inode. Marks hang on the inode ([`Marks`]) and keep it in memory;
//! the listener ([`inotify::Inotify`]) knows its marks by number. The VFS calls the functions of this file after each
//! thing that succeeded. Each begins with one test of one flag, [`is_active`], so that a system without watches pays
//! nothing else.
//!
//! What happens to a file is told to the marks of its directory, with its name, and then to its own marks, as Linux does
//! (`fsnotify_parent`). Events are made under no lock but the directory's sleeping one; listeners' queues are spin locks.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::notify as n;
use hal::sync::SpinLock;

use super::dentry::Dentry;
use super::file::{File, FileMode};
use super::inode::{Inode, SetAttributes};
use super::super_block::SuperBlock;
use crate::Result;
use crate::sync::order;

pub mod inotify;

use inotify::Inotify;

hal::global! {
    /// Marks in the whole system.
    static MARKS: AtomicU32 = AtomicU32::new(0);
    /// Ties the two events of a rename together.
    static COOKIE: AtomicU32 = AtomicU32::new(0);
}

/// Whether anybody listens to anything.
#[inline(always)]
pub fn is_active() -> bool {
    MARKS.load(Ordering::Relaxed) != 0
}

/// The wish of a listener to hear of an inode.
pub struct Mark {
    listener: alloc::sync::Weak<Inotify>,
    inode: Arc<Inode>,
    /// The watch descriptor.
    wd: i32,
    /// IN_* events, with IN_EXCL_UNLINK and IN_ONESHOT.
    mask: AtomicU32,
}

/// The marks of an inode.
pub struct Marks(SpinLock<Vec<Arc<Mark>>>);

impl Mark {
    fn mask(&self) -> u32 {
        self.mask.load(Ordering::Relaxed)
    }

    /// Hangs it on its inode.
    fn hang(self: &Arc<Self>) {
        MARKS.fetch_add(1, Ordering::Relaxed);
        let marks = self.inode.marks.call_once(|| Box::new(Marks(SpinLock::new(order::INODE, Vec::new()))));
        marks.0.lock().push(self.clone());
    }

    /// Takes it off its inode.
    fn take_down(&self) {
        let Some(marks) = self.inode.marks.get() else { return };
        let mut marks = marks.0.lock();
        let at = marks.iter().position(|other| core::ptr::eq(&**other, self));
        let gone = at.map(|at| marks.remove(at));
        drop(marks);
        if gone.is_some() {
            MARKS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Something that happened.
#[derive(Clone, Copy)]
struct Happening<'a> {
    mask: u32,
    /// The name in the directory that is told.
    name: Option<&'a [u8]>,
    cookie: u32,
    /// It came through an open file whose name is gone (IN_EXCL_UNLINK).
    unlinked: bool,
}

impl<'a> Happening<'a> {
    fn of(mask: u32) -> Self {
        Self { mask, name: None, cookie: 0, unlinked: false }
    }

    fn named(self, name: &'a [u8]) -> Self {
        Self { name: Some(name), ..self }
    }
}

/// Tells the marks of `inode`.
fn tell(inode: &Inode, what: Happening<'_>) {
    let Some(marks) = inode.marks.get() else { return };
    let wants = |mark: &&Arc<Mark>| {
        let mask = mark.mask();
        mask & what.mask & n::IN_ALL_EVENTS != 0 && !(what.unlinked && mask & n::IN_EXCL_UNLINK != 0)
    };
    let listening: Vec<Arc<Mark>> = marks.0.lock().iter().filter(wants).cloned().collect();
    for mark in listening {
        if let Some(listener) = mark.listener.upgrade() {
            listener.hear(&mark, &what);
        }
    }
}

fn directory_bit(inode: &Inode) -> u32 {
    if inode.is_dir() { n::IN_ISDIR } else { 0 }
}

/// Tells the directory of a dentry, with the name, and then the inode itself.
fn tell_place(dentry: &Dentry, mask: u32, unlinked: bool) {
    let inode = dentry.inode();
    let what = Happening { unlinked, ..Happening::of(mask | directory_bit(inode)) };
    let (parent, name) = dentry.place();
    if let Some(parent) = parent {
        tell(parent.inode(), what.named(&name));
    }
    tell(inode, Happening { unlinked: false, ..what });
}

#[cold]
fn tell_file(file: &File, mask: u32) {
    if !file.mode().contains(FileMode::PATH) {
        tell_place(&file.path.dentry, mask, file.path.dentry.is_unlinked());
    }
}

/// Bytes were read.
#[inline(always)]
pub fn accessed(file: &File, outcome: &Result<usize>) {
    if is_active() && outcome.is_ok_and(|count| count > 0) {
        tell_file(file, n::IN_ACCESS);
    }
}

/// Bytes were written.
#[inline(always)]
pub fn modified(file: &File, outcome: &Result<usize>) {
    if is_active() && outcome.is_ok_and(|count| count > 0) {
        tell_file(file, n::IN_MODIFY);
    }
}

/// A directory was listed.
pub fn listed(file: &File) {
    if is_active() {
        tell_file(file, n::IN_ACCESS);
    }
}

/// A file was opened.
#[inline]
pub fn opened(file: &File) {
    if is_active() {
        tell_file(file, n::IN_OPEN);
    }
}

/// The last descriptor of an open file is gone.
#[inline]
pub fn closed(file: &File) {
    if is_active() {
        let writable = file.mode().contains(FileMode::WRITE);
        tell_file(file, if writable { n::IN_CLOSE_WRITE } else { n::IN_CLOSE_NOWRITE });
    }
}

/// Attributes were changed (Linux `fsnotify_change`).
pub fn attributes_changed(dentry: &Dentry, change: &SetAttributes) {
    if !is_active() {
        return;
    }
    let mut mask = 0;
    if change.uid.is_some() || change.gid.is_some() || change.mode.is_some() {
        mask |= n::IN_ATTRIB;
    }
    if change.size.is_some() {
        mask |= n::IN_MODIFY;
    }
    mask |= match (change.atime.is_some(), change.mtime.is_some()) {
        (true, true) => n::IN_ATTRIB,
        (true, false) => n::IN_ACCESS,
        (false, true) => n::IN_MODIFY,
        (false, false) => 0,
    };
    if mask != 0 {
        tell_place(dentry, mask, false);
    }
}

/// Extended attributes were changed.
pub fn xattrs_changed(dentry: &Dentry) {
    if is_active() {
        tell_place(dentry, n::IN_ATTRIB, false);
    }
}

/// The content was changed other than by a write: fallocate(2), O_TRUNC.
pub fn content_changed(dentry: &Dentry) {
    if is_active() {
        tell_place(dentry, n::IN_MODIFY, false);
    }
}

/// `name` of `inode` was made in `dir`.
pub fn created(dir: &Inode, name: &[u8], inode: &Inode) {
    if is_active() {
        tell(dir, Happening::of(n::IN_CREATE | directory_bit(inode)).named(name));
    }
}

/// `inode` got or lost a name.
pub fn links_changed(inode: &Inode) {
    if is_active() {
        tell(inode, Happening::of(n::IN_ATTRIB));
    }
}

/// `name` was taken out of `dir`. Told after the inode itself may have gone.
pub fn deleted(dir: &Inode, name: &[u8], is_dir: bool) {
    if is_active() {
        let bit = if is_dir { n::IN_ISDIR } else { 0 };
        tell(dir, Happening::of(n::IN_DELETE | bit).named(name));
    }
}

/// `inode` went from one name to another; `replaced` had the new one before (Linux `fsnotify_move`).
pub fn moved(old: (&Inode, &[u8]), new: (&Inode, &[u8]), inode: &Inode, replaced: Option<&Inode>) {
    if !is_active() {
        return;
    }
    let cookie = COOKIE.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    let bit = directory_bit(inode);
    tell(old.0, Happening { cookie, ..Happening::of(n::IN_MOVED_FROM | bit) }.named(old.1));
    tell(new.0, Happening { cookie, ..Happening::of(n::IN_MOVED_TO | bit) }.named(new.1));
    if let Some(replaced) = replaced {
        links_changed(replaced);
    }
    tell(inode, Happening::of(n::IN_MOVE_SELF));
}

/// A dentry ends. When its inode has no names left, the inode ends for its listeners (Linux `fsnotify_inoderemove`).
#[inline]
pub(super) fn dentry_gone(inode: &Inode) {
    if is_active() && inode.nlink() == 0 {
        tell(inode, Happening::of(n::IN_DELETE_SELF));
        drop_marks(inode);
    }
}

/// Ends all marks of an inode; each listener reads IN_IGNORED.
fn drop_marks(inode: &Inode) {
    let Some(marks) = inode.marks.get() else { return };
    let all: Vec<Arc<Mark>> = marks.0.lock().clone();
    for mark in all {
        match mark.listener.upgrade() {
            Some(listener) => listener.end(&mark),
            None => mark.take_down(),
        }
    }
}

/// A file system was unmounted for the last time: its inodes are out of reach (IN_UNMOUNT).
pub(super) fn unmounted(sb: &SuperBlock) {
    if !is_active() {
        return;
    }
    for listener in inotify::all() {
        for mark in listener.marks_on(sb) {
            listener.hear(&mark, &Happening::of(n::IN_UNMOUNT));
            listener.end(&mark);
        }
    }
}
