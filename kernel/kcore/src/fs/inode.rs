//! Inodes: files without their names.
//!
//! [`Inode`] holds what stat(2) shows and what every file system needs; [`InodeOps`] is what a file system does with it.
//! Attributes that permission checks read are atomics, so that path walks take no lock; the times are guarded together.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::stat as s;
use abi::time::Timespec;
use hal::sync::SpinLock;

use super::file::OpsRef;
use super::lock::InodeLocks;
use super::mount::Path;
use super::super_block::SuperBlock;
use super::xattr::Xattrs;
use crate::Result;
use crate::mm::mapping::Mapping;
use crate::sync::{Mutex, order};
use crate::task::Creds;

/// Where a symbolic link leads.
pub enum LinkTarget {
    /// A text that is walked.
    Text(Arc<[u8]>),
    /// A place, whatever its name (the magic links of proc(5): `/proc/PID/exe`, `/proc/PID/fd/N`).
    Jump(Path),
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes {
    /// Inode number.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte units in use.
    pub blocks: u64,
    /// Preferred I/O size.
    pub block_size: u32,
    /// Times.
    pub times: Times,
}

/// The times of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Last access.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of the inode.
    pub ctime: Timespec,
    /// Creation.
    pub btime: Timespec,
}

/// A change of attributes (Linux `struct iattr`). Permission was checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    /// New permission bits (07777).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<Timespec>,
    /// New modification time.
    pub mtime: Option<Timespec>,
}

/// A file to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// Type and permissions, umask applied.
    pub mode: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: &'a [u8],
    /// Owner.
    pub uid: u32,
    /// Group (the directory's if that is set-group-ID).
    pub gid: u32,
}

/// What an open of an inode is told.
pub struct OpenRequest<'a> {
    /// Where it is opened.
    pub path: &'a Path,
    /// O_* flags.
    pub flags: u32,
    /// By whom.
    pub creds: &'a Creds,
}

/// What a file system does with an inode. Directory operations are called with the directory's lock held and after all
/// checks of the VFS (permission, existence, type, sticky bit, busy mount points).
pub trait InodeOps: Any + Send + Sync {
    /// Finds a name that the dentry cache does not know. `ENOENT`: it does not exist.
    fn lookup(&self, _dir: &Arc<Inode>, _name: &[u8]) -> Result<Arc<Inode>> {
        Err(Errno::ENOENT)
    }

    /// Makes a file of any type. The VFS enters it into the dentry tree.
    fn create(&self, _dir: &Arc<Inode>, _name: &[u8], _node: &NewNode<'_>) -> Result<Arc<Inode>> {
        Err(Errno::EPERM)
    }

    /// Makes a file without a name (O_TMPFILE).
    fn tmpfile(&self, _dir: &Arc<Inode>, _node: &NewNode<'_>) -> Result<Arc<Inode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `inode` another name.
    fn link(&self, _dir: &Arc<Inode>, _name: &[u8], _inode: &Arc<Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Takes a name of something that is not a directory away.
    fn unlink(&self, _dir: &Arc<Inode>, _name: &[u8], _inode: &Arc<Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes an empty directory. `ENOTEMPTY` where the dentry tree does not tell.
    fn rmdir(&self, _dir: &Arc<Inode>, _name: &[u8], _inode: &Arc<Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Moves a name.
    fn rename(&self, _change: &Rename<'_>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// The target of a symbolic link for a walk.
    fn follow_link(&self, _inode: &Arc<Inode>) -> Result<LinkTarget> {
        Err(Errno::EINVAL)
    }

    /// The text for readlink(2) where it is not what [`Self::follow_link`] gives: magic links have both.
    fn readlink(&self, inode: &Arc<Inode>) -> Result<Arc<[u8]>> {
        match self.follow_link(inode)? {
            LinkTarget::Text(text) => Ok(text),
            LinkTarget::Jump(_) => Err(Errno::EINVAL),
        }
    }

    /// What stat(2) shows.
    fn getattr(&self, inode: &Inode) -> Result<Attributes> {
        Ok(inode.attributes())
    }

    /// Changes attributes. `EPERM` for file systems whose attributes are made up.
    fn setattr(&self, inode: &Arc<Inode>, change: &SetAttributes) -> Result<()> {
        inode.apply(change)
    }

    /// The operations of an open file. Not asked for FIFOs, device nodes and sockets, whose kind decides.
    fn open(&self, inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<OpsRef>;

    /// Permission where mode bits do not say it; `None`: they do. `mask` has MAY_READ 4, MAY_WRITE 2, MAY_EXEC 1.
    fn permission(&self, _inode: &Inode, _creds: &Creds, _mask: u32) -> Option<Result<()>> {
        None
    }

    /// For a directory: the dentry tree is the directory, what it does not know does not exist (tmpfs).
    fn is_dcache_complete(&self) -> bool {
        false
    }

    /// Whether a dentry of this inode may stay in the cache. Not so for what can vanish by itself (`/proc/PID`).
    fn keep_dentry(&self) -> bool {
        true
    }

    /// For a directory: whether it is empty for ever, made to be mounted on (Linux `is_empty_dir_inode`).
    fn is_for_mounts(&self) -> bool {
        false
    }

    /// For a directory: whether "there is no such name" may stay in the cache.
    fn keep_negative(&self) -> bool {
        true
    }

    /// Whether extended attributes are kept with the inodes (xattr(7)).
    fn has_xattrs(&self) -> bool {
        false
    }

    /// The inode has neither names nor users any more.
    fn evict(&self, _inode: &Inode) {}
}

/// A rename that passed all checks.
pub struct Rename<'a> {
    /// Directory of the old name.
    pub old_dir: &'a Arc<Inode>,
    /// The old name.
    pub old_name: &'a [u8],
    /// What moves.
    pub inode: &'a Arc<Inode>,
    /// Directory of the new name.
    pub new_dir: &'a Arc<Inode>,
    /// The new name.
    pub new_name: &'a [u8],
    /// What has the new name now and is replaced, or changes places (RENAME_EXCHANGE).
    pub target: Option<&'a Arc<Inode>>,
    /// RENAME_EXCHANGE.
    pub exchange: bool,
}

/// A file.
pub struct Inode {
    /// Its number, unique in the file system.
    pub ino: u64,
    /// Its file system.
    pub sb: Arc<SuperBlock>,
    /// Device number, for device nodes.
    pub rdev: u64,
    ops: Box<dyn InodeOps>,
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    nlink: AtomicU32,
    times: SpinLock<Times>,
    mapping: Option<Arc<Mapping>>,
    /// The size of what has no page cache.
    plain_size: AtomicU64,
    /// Writers (positive) or deniers of writing (negative), Linux `i_writecount`.
    write_count: AtomicI32,
    /// Changes of a directory's entries, or of a file's content and size (Linux `i_rwsem`).
    pub lock: Mutex<()>,
    /// flock, POSIX and OFD locks; made by the first one.
    pub(super) locks: spin::Once<Box<InodeLocks>>,
    /// Extended attributes; made by the first one.
    pub(super) xattrs: spin::Once<Box<Xattrs>>,
    /// Who listens to it; made by the first one (Linux `i_fsnotify_marks`).
    pub(super) marks: spin::Once<Box<super::notify::Marks>>,
    /// It never had a name but may get one (O_TMPFILE without O_EXCL).
    linkable: AtomicBool,
    /// The pipe of an open FIFO.
    pub fifo: SpinLock<Option<alloc::sync::Weak<dyn Any + Send + Sync>>>,
}

/// What is needed to make an inode.
pub struct InodeParts {
    /// Number.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Device number.
    pub rdev: u64,
    /// Page cache of a regular file.
    pub mapping: Option<Arc<Mapping>>,
}

impl InodeParts {
    /// Of `mode`, owned by root, one link (two for a directory), no page cache.
    pub fn new(ino: u64, mode: u32) -> Self {
        let nlink = if mode & s::S_IFMT == s::S_IFDIR { 2 } else { 1 };
        Self { ino, mode, uid: 0, gid: 0, nlink, rdev: 0, mapping: None }
    }
}

impl Inode {
    /// Makes an inode; all its times are now.
    pub fn new(sb: Arc<SuperBlock>, parts: InodeParts, ops: Box<dyn InodeOps>) -> Arc<Self> {
        let now = crate::time::realtime();
        let times = Times { atime: now, mtime: now, ctime: now, btime: now };
        Arc::new(Self {
            ino: parts.ino,
            sb,
            rdev: parts.rdev,
            ops,
            mode: AtomicU32::new(parts.mode),
            uid: AtomicU32::new(parts.uid),
            gid: AtomicU32::new(parts.gid),
            nlink: AtomicU32::new(parts.nlink),
            times: SpinLock::new(order::INODE, times),
            mapping: parts.mapping,
            plain_size: AtomicU64::new(0),
            write_count: AtomicI32::new(0),
            lock: Mutex::new(()),
            locks: spin::Once::new(),
            xattrs: spin::Once::new(),
            marks: spin::Once::new(),
            linkable: AtomicBool::new(false),
            fifo: SpinLock::new(order::INODE, None),
        })
    }

    /// What its file system does.
    #[inline(always)]
    pub fn ops(&self) -> &dyn InodeOps {
        &*self.ops
    }

    /// The same as its concrete type.
    pub fn ops_as<T: InodeOps>(&self) -> Option<&T> {
        let any: &dyn Any = self.ops();
        any.downcast_ref()
    }

    /// Type and permissions.
    #[inline(always)]
    pub fn mode(&self) -> u32 {
        self.mode.load(Ordering::Relaxed)
    }

    /// The type bits of the mode (S_IF*).
    #[inline(always)]
    pub fn kind(&self) -> u32 {
        self.mode() & s::S_IFMT
    }

    /// Whether it is a directory.
    #[inline(always)]
    pub fn is_dir(&self) -> bool {
        self.kind() == s::S_IFDIR
    }

    /// Whether it is a regular file.
    #[inline(always)]
    pub fn is_regular(&self) -> bool {
        self.kind() == s::S_IFREG
    }

    /// Whether it is a symbolic link.
    #[inline(always)]
    pub fn is_symlink(&self) -> bool {
        self.kind() == s::S_IFLNK
    }

    /// Owner.
    #[inline(always)]
    pub fn uid(&self) -> u32 {
        self.uid.load(Ordering::Relaxed)
    }

    /// Group.
    #[inline(always)]
    pub fn gid(&self) -> u32 {
        self.gid.load(Ordering::Relaxed)
    }

    /// Hard links.
    pub fn nlink(&self) -> u32 {
        self.nlink.load(Ordering::Relaxed)
    }

    /// Adds to the number of hard links.
    pub fn add_links(&self, change: i32) {
        self.nlink.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
    }

    /// Whether it may get a name although it has none.
    pub fn is_linkable(&self) -> bool {
        self.nlink() > 0 || self.linkable.load(Ordering::Relaxed)
    }

    /// Allows it a first name although it has none.
    pub fn set_linkable(&self) {
        self.linkable.store(true, Ordering::Relaxed);
    }

    /// Its page cache.
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.mapping.as_ref()
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.mapping.as_ref().map_or_else(|| self.plain_size.load(Ordering::Relaxed), |mapping| mapping.size())
    }

    /// The size of what has no page cache.
    pub fn set_plain_size(&self, size: u64) {
        self.plain_size.store(size, Ordering::Relaxed);
    }

    /// Sets owner and group without a check, as file systems do when they make the inode.
    pub fn set_owner(&self, uid: u32, gid: u32) {
        self.uid.store(uid, Ordering::Relaxed);
        self.gid.store(gid, Ordering::Relaxed);
    }

    /// Sets the permission bits without a check.
    pub fn set_permissions(&self, mode: u32) {
        let update = |old: u32| Some(old & s::S_IFMT | mode & 0o7777);
        let _ = self.mode.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    /// Its times.
    pub fn times(&self) -> Times {
        *self.times.lock()
    }

    /// Changes its times.
    pub fn update_times(&self, change: impl FnOnce(&mut Times)) {
        change(&mut self.times.lock());
    }

    /// Content changed: mtime and ctime are now.
    pub fn touch_modified(&self) {
        let now = crate::time::realtime();
        self.update_times(|times| {
            times.mtime = now;
            times.ctime = now;
        });
    }

    /// The inode changed: ctime is now.
    pub fn touch_changed(&self) {
        let now = crate::time::realtime();
        self.update_times(|times| times.ctime = now);
    }

    /// It was read: atime by the rule of relatime (mount(8); Linux `relatime_need_update`): only when it is not younger
    /// than mtime and ctime, or a day old.
    pub fn touch_accessed(&self) {
        const DAY: i64 = 24 * 60 * 60;
        let now = crate::time::realtime();
        let key = |t: &Timespec| (t.tv_sec, t.tv_nsec);
        self.update_times(|times| {
            let stale = key(&times.atime) <= key(&times.mtime)
                || key(&times.atime) <= key(&times.ctime)
                || now.tv_sec - times.atime.tv_sec >= DAY;
            if stale {
                times.atime = now;
            }
        });
    }

    /// What stat(2) shows, from the inode itself.
    #[inline]
    pub fn attributes(&self) -> Attributes {
        let (size, pages) = match &self.mapping {
            Some(mapping) => mapping.size_and_pages(),
            None => (self.size(), 0),
        };
        Attributes {
            ino: self.ino,
            mode: self.mode(),
            nlink: self.nlink(),
            uid: self.uid(),
            gid: self.gid(),
            rdev: self.rdev,
            size,
            blocks: pages * 8,
            block_size: 4096,
            times: self.times(),
        }
    }

    /// Applies a change of attributes to an inode that lives in memory. ctime becomes now.
    pub fn apply(&self, change: &SetAttributes) -> Result<()> {
        if let (Some(size), Some(mapping)) = (change.size, &self.mapping) {
            let old = mapping.size();
            mapping.truncate(size)?;
            // truncate(2): "If the size changed, then the st_ctime and st_mtime fields [...] are updated".
            if size != old {
                self.touch_modified();
            }
        }
        if let Some(mode) = change.mode {
            self.set_permissions(mode);
        }
        self.set_owner(change.uid.unwrap_or_else(|| self.uid()), change.gid.unwrap_or_else(|| self.gid()));
        let now = crate::time::realtime();
        self.update_times(|times| {
            times.atime = change.atime.unwrap_or(times.atime);
            times.mtime = change.mtime.unwrap_or(times.mtime);
            times.ctime = now;
        });
        Ok(())
    }

    /// Registers a writer: `ETXTBSY` while the file runs as a program (open(2); Linux `get_write_access`).
    pub fn get_write_access(&self) -> Result<()> {
        self.change_write_count(|n| n >= 0, 1)
    }

    /// Ends what [`Self::get_write_access`] began.
    pub fn put_write_access(&self) {
        self.write_count.fetch_sub(1, Ordering::AcqRel);
    }

    /// Keeps writers away: `ETXTBSY` while there are any (execve(2); Linux `deny_write_access`).
    pub fn deny_write(&self) -> Result<()> {
        self.change_write_count(|n| n <= 0, -1)
    }

    /// Ends what [`Self::deny_write`] began.
    pub fn allow_write(&self) {
        self.write_count.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether anybody has it open for writing.
    pub fn has_writers(&self) -> bool {
        self.write_count.load(Ordering::Relaxed) > 0
    }

    fn change_write_count(&self, allowed: impl Fn(i32) -> bool, by: i32) -> Result<()> {
        let step = |n: i32| allowed(n).then_some(n + by);
        self.write_count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, step).map(|_| ()).map_err(|_| Errno::ETXTBSY)
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.ops.evict(self);
    }
}
