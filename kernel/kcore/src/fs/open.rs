//! open(2): from a path to an open file (Linux `do_filp_open`, `do_last`).

use alloc::sync::Arc;

use abi::Errno;
use abi::fcntl as f;
use abi::stat as s;

use super::create;
use super::dentry::Dentry;
use super::file::{File, FileMode, FileOps, OpsRef};
use super::inode::{OpenRequest, SetAttributes};
use super::mount::{Path, mnt};
use super::namei::{Last, LastKind, WalkContext, Walker, lookup, lookup_locked};
use super::permission::{self, MAY_EXEC, MAY_READ, MAY_WRITE, check, may_create};
use super::{chrdev, notify, pipe};
use crate::Result;
use crate::io::{IoDst, IoSrc};

/// The flags that open(2) knows; others are ignored there and EINVAL in openat2(2).
pub const VALID_OPEN_FLAGS: u32 = f::O_ACCMODE
    | f::O_CREAT
    | f::O_EXCL
    | f::O_NOCTTY
    | f::O_TRUNC
    | f::O_APPEND
    | f::O_NONBLOCK
    | f::O_SYNC
    | f::FASYNC
    | f::O_DIRECT
    | f::O_LARGEFILE
    | f::O_TMPFILE
    | f::O_NOFOLLOW
    | f::O_NOATIME
    | f::O_CLOEXEC
    | f::O_PATH;

/// What open was asked for, checked for contradictions.
#[derive(Clone, Copy, Debug)]
pub struct OpenHow {
    flags: u32,
    /// Permission bits of a file to create; umask not applied.
    mode: u32,
}

impl OpenHow {
    /// Checks flags (Linux `build_open_flags`). open(2) passes only what it knows.
    pub fn new(flags: u32, mode: u32) -> Result<Self> {
        let mut flags = flags & VALID_OPEN_FLAGS;
        const TMPFILE_ONLY: u32 = f::O_TMPFILE & !f::O_DIRECTORY;
        if flags & TMPFILE_ONLY != 0 {
            if flags & f::O_DIRECTORY == 0 || flags & f::O_CREAT != 0 {
                return Err(Errno::EINVAL);
            }
            if flags & f::O_ACCMODE == f::O_RDONLY {
                return Err(Errno::EINVAL);
            }
        }
        if flags & f::O_PATH != 0 {
            // open(2): "flag bits other than O_CLOEXEC, O_DIRECTORY, and O_NOFOLLOW are ignored".
            flags &= f::O_PATH | f::O_CLOEXEC | f::O_DIRECTORY | f::O_NOFOLLOW;
        }
        if flags & (f::O_CREAT | f::O_DIRECTORY) == f::O_CREAT | f::O_DIRECTORY {
            return Err(Errno::EINVAL);
        }
        Ok(Self { flags, mode: mode & 0o7777 })
    }

    fn has(self, flag: u32) -> bool {
        self.flags & flag == flag
    }

    /// The accesses that need permission.
    fn access(self) -> u32 {
        let mask = match self.flags & f::O_ACCMODE {
            f::O_RDONLY => MAY_READ,
            f::O_WRONLY => MAY_WRITE,
            _ => MAY_READ | MAY_WRITE,
        };
        // open(2): O_TRUNC with O_RDONLY is unspecified; Linux asks for write permission and truncates.
        if self.has(f::O_TRUNC) { mask | MAY_WRITE } else { mask }
    }
}

/// Opens `path`.
pub fn open(context: WalkContext<'_>, path: &[u8], how: OpenHow, umask: u32) -> Result<Arc<File>> {
    if hal::thread::has_current() {
        super::file::admit()?;
    }
    let last = if how.has(f::O_NOFOLLOW) || how.has(f::O_CREAT | f::O_EXCL) { Last::NoFollow } else { Last::Follow };
    if how.has(f::O_TMPFILE) {
        return open_tmpfile(context, path, how, umask);
    }
    let mut walker = Walker::new(context, path)?;
    if !how.has(f::O_CREAT) {
        walker.run(last)?;
        return open_found(&walker, how);
    }
    loop {
        let kind = walker.to_parent()?;
        if kind != LastKind::Name || walker.must_be_dir {
            return Err(Errno::EISDIR);
        }
        match create_or_find(&walker, how, umask)? {
            Found::Created(dentry) => {
                walker.at.dentry = dentry;
                return open_inode(&walker.at, how.flags & !f::O_TRUNC, walker.creds());
            }
            Found::Existing(_) if how.has(f::O_EXCL) => return Err(Errno::EEXIST),
            Found::Existing(dentry) if dentry.inode().is_symlink() && last == Last::Follow => {
                if walker.enter_link(&dentry)? {
                    continue;
                }
            }
            Found::Existing(dentry) => {
                permission::may_create_in_sticky(walker.at.dentry.inode(), dentry.inode(), walker.creds())?;
                walker.go_to(dentry)?;
            }
        }
        if walker.at.dentry.inode().is_dir() {
            return Err(Errno::EISDIR);
        }
        return open_found(&walker, how);
    }
}

enum Found {
    Existing(Arc<Dentry>),
    Created(Arc<Dentry>),
}

fn create_or_find(walker: &Walker<'_>, how: OpenHow, umask: u32) -> Result<Found> {
    let dir = &walker.at.dentry;
    let _lock = dir.inode().lock.lock();
    if let Some(dentry) = lookup_locked(dir, walker.last())? {
        return Ok(Found::Existing(dentry));
    }
    walker.at.mount.want_write()?;
    may_create(dir, walker.creds())?;
    let node = create::Node { mode: s::S_IFREG | how.mode & !umask, rdev: 0, target: b"" };
    create::make_locked(dir, walker.last(), &node, walker.creds()).map(Found::Created)
}

fn open_tmpfile(context: WalkContext<'_>, path: &[u8], how: OpenHow, umask: u32) -> Result<Arc<File>> {
    let creds = context.creds;
    let last = if how.has(f::O_NOFOLLOW) { Last::NoFollow } else { Last::Follow };
    let place = lookup(context, path, last)?;
    let dir = place.dentry.inode();
    if !dir.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    place.mount.want_write()?;
    check(dir, creds, MAY_WRITE | MAY_EXEC)?;
    let (gid, mode) = permission::inherit(dir, creds, s::S_IFREG | how.mode & !umask);
    let node = super::inode::NewNode { mode, rdev: 0, target: b"", uid: creds.fsuid, gid };
    let inode = dir.ops().tmpfile(dir, &node)?;
    let name = alloc::format!("#{}", inode.ino);
    let dentry = place.dentry.new_volatile(name.as_bytes(), inode);
    dentry.mark_unlinked();
    let place = Path { mount: place.mount.clone(), dentry };
    // The file is new: what its mode forbids does not bind its maker.
    open_inode(&place, how.flags & !(f::O_TMPFILE & !f::O_DIRECTORY) & !f::O_DIRECTORY, creds)
}

/// Opens what the walk found, after the checks of Linux's `may_open`.
fn open_found(walker: &Walker<'_>, how: OpenHow) -> Result<Arc<File>> {
    open_path(&walker.at, how, walker.creds())
}

/// Opens a place, with all checks of permission.
pub fn open_path(place: &Path, how: OpenHow, creds: &crate::task::Creds) -> Result<Arc<File>> {
    let inode = place.dentry.inode();
    if how.has(f::O_DIRECTORY) && !inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    if how.has(f::O_PATH) {
        return Ok(File::new(place.clone(), OpsRef::Static(&PathOps), how.flags, FileMode::PATH));
    }
    let access = how.access();
    let mut flags = how.flags;
    match inode.kind() {
        s::S_IFLNK => return Err(Errno::ELOOP),
        s::S_IFDIR if access & MAY_WRITE != 0 => return Err(Errno::EISDIR),
        s::S_IFCHR | s::S_IFBLK if place.mount.flags() & mnt::NODEV != 0 => return Err(Errno::EACCES),
        s::S_IFCHR | s::S_IFBLK | s::S_IFIFO | s::S_IFSOCK => flags &= !f::O_TRUNC,
        _ => {}
    }
    check(inode, creds, access)?;
    if how.has(f::O_NOATIME) && !permission::owner_or_capable(inode, creds) {
        return Err(Errno::EPERM);
    }
    if access & MAY_WRITE != 0 && matches!(inode.kind(), s::S_IFREG | s::S_IFDIR) {
        place.mount.want_write()?;
    }
    open_inode(place, flags, creds)
}

/// Makes the open file; permission was checked.
fn open_inode(place: &Path, flags: u32, creds: &crate::task::Creds) -> Result<Arc<File>> {
    let inode = place.dentry.inode();
    let mut mode = FileMode::from_flags(flags);
    if flags & f::O_NOATIME != 0 || place.mount.flags() & mnt::NOATIME != 0 || place.mount.is_read_only() {
        mode |= FileMode::NOATIME;
    }
    if inode.is_dir() && place.mount.flags() & mnt::NODIRATIME != 0 {
        mode |= FileMode::NOATIME;
    }
    let request = OpenRequest { path: place, flags, creds };
    let is_regular = inode.is_regular();
    if is_regular && flags & f::O_DIRECT != 0 {
        // No file system here does input and output past the page cache.
        return Err(Errno::EINVAL);
    }
    if is_regular && (mode.contains(FileMode::WRITE) || flags & f::O_TRUNC != 0) {
        inode.get_write_access()?;
        mode |= FileMode::WRITER;
    }
    let opened = match inode.kind() {
        s::S_IFIFO => pipe::open_fifo(inode, flags),
        s::S_IFCHR => chrdev::open(inode, &request),
        s::S_IFBLK | s::S_IFSOCK => Err(Errno::ENXIO),
        _ => inode.ops().open(inode, &request),
    };
    let opened = opened.and_then(|ops| {
        if flags & f::O_TRUNC != 0 && is_regular {
            let _lock = inode.lock.lock();
            truncate_at_open(inode)?;
        }
        Ok(ops)
    });
    match opened {
        Ok(ops) => {
            let file = File::new(place.clone(), ops, flags, mode);
            if flags & f::O_TRUNC != 0 && is_regular {
                notify::content_changed(&place.dentry);
            }
            notify::opened(&file);
            Ok(file)
        }
        Err(error) => {
            if mode.contains(FileMode::WRITER) {
                inode.put_write_access();
            }
            Err(error)
        }
    }
}

fn truncate_at_open(inode: &Arc<super::Inode>) -> Result<()> {
    let change = SetAttributes { size: Some(0), ..SetAttributes::default() };
    inode.ops().setattr(inode, &change)?;
    // O_TRUNC marks mtime even if the file was empty (Linux ATTR_OPEN).
    inode.touch_modified();
    Ok(())
}

/// Opens a program for execve(2) (Linux `do_open_execat`): `EACCES` unless it is a regular file that may be executed,
/// `ETXTBSY` while somebody has it open for writing.
pub fn open_program(context: WalkContext<'_>, path: &[u8], last: Last) -> Result<Arc<File>> {
    let creds = context.creds;
    let place = lookup(context, path, last)?;
    open_program_at(&place, creds)
}

/// The same for a place that was found.
pub fn open_program_at(place: &Path, creds: &crate::task::Creds) -> Result<Arc<File>> {
    let inode = place.dentry.inode();
    if inode.is_symlink() {
        return Err(Errno::ELOOP);
    }
    if !inode.is_regular() || place.mount.flags() & mnt::NOEXEC != 0 {
        return Err(Errno::EACCES);
    }
    check(inode, creds, MAY_EXEC)?;
    inode.deny_write()?;
    let request = OpenRequest { path: place, flags: f::O_RDONLY, creds };
    match inode.ops().open(inode, &request) {
        Ok(ops) => {
            let file = File::new(place.clone(), ops, f::O_RDONLY, FileMode::READ | FileMode::DENY_WRITE);
            notify::opened(&file);
            Ok(file)
        }
        Err(error) => {
            inode.allow_write();
            Err(error)
        }
    }
}

/// Operations of an O_PATH file: every use is `EBADF` (open(2)).
struct PathOps;

impl FileOps for PathOps {
    fn read(&self, _file: &File, _dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn write(&self, _file: &File, _src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn ioctl(&self, _file: &File, _command: u32, _argument: u64) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn iterate(&self, _file: &File, _sink: &mut dyn super::DirSink, _offset: &mut u64) -> Result<()> {
        Err(Errno::EBADF)
    }
}
