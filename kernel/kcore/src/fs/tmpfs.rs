//! tmpfs: tmpfs(5). Files live in the page cache, directories in the dentry tree.
//!
//! The root file system is one of these, filled from the initramfs; `/dev` is another one with device nodes in it (Linux
//! does both so too: rootfs, devtmpfs). An instance has limits of bytes and inodes. Pages are charged to it when writes
//! and fallocate make them; pages that stores through a mapping make are charged at the next such call on the file.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::capability::CAP_FSETID;
use abi::fcntl as f;
use abi::stat as s;
use abi::stat::Statfs;
use hal::mem::PAGE_SIZE;

use super::dentry::Dentry;
use super::file::{File, FileMode, FileOps, OpsRef};
use super::inode::{Inode, InodeOps, InodeParts, LinkTarget, NewNode, OpenRequest, Rename, SetAttributes};
use super::libfs;
use super::mount::Mount;
use super::super_block::{FsType, MountRequest, SuperBlock, SuperOps};
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::mm::mapping::Mapping;
use crate::task::Creds;

/// `tmpfs` in mount(2).
pub static TMPFS: FsType = FsType { name: "tmpfs", mount: mount_tmpfs };
/// `ramfs`: the same without limits.
pub static RAMFS: FsType = FsType { name: "ramfs", mount: mount_ramfs };
static ROOTFS: FsType = FsType { name: "rootfs", mount: super::pseudo::not_mountable };

/// Largest file (Linux `MAX_LFS_FILESIZE`).
const MAX_FILE_SIZE: u64 = i64::MAX as u64;
/// A limit that is none (tmpfs(5)).
const UNLIMITED: u64 = 0;
/// What an entry adds to the size of its directory in stat(2) (Linux `BOGO_DIRENT_SIZE`); `.` and `..` count too.
const BOGO_DIRENT_SIZE: i64 = 20;

/// Options of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most bytes; 0: no limit.
    pub size: u64,
    /// Most inodes; 0: no limit.
    pub inodes: u64,
    /// Permissions of the root directory.
    pub mode: u32,
    /// Owner of the root directory.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Options {
    /// tmpfs(5): half of the memory, 01777.
    pub fn for_tmpfs(creds: &Creds) -> Self {
        let half = hal::mem::total_bytes() / 2;
        Self { size: half, inodes: half / PAGE_SIZE as u64, mode: 0o1777, uid: creds.fsuid, gid: creds.fsgid }
    }

    /// Reads a data text such as `size=16m,mode=755`. `EINVAL` for what is not known.
    pub fn parse(mut self, text: &[u8]) -> Result<Self> {
        for option in text.split(|byte| *byte == b',').filter(|option| !option.is_empty()) {
            let option = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "size" => self.size = parse_size(value, hal::mem::total_bytes())?,
                "nr_blocks" => self.size = parse_size(value, 0)?.saturating_mul(PAGE_SIZE as u64),
                "nr_inodes" => self.inodes = parse_size(value, 0)?,
                "mode" => self.mode = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
                "uid" => self.uid = value.parse().map_err(|_| Errno::EINVAL)?,
                "gid" => self.gid = value.parse().map_err(|_| Errno::EINVAL)?,
                // Placement hints for machines with several memory nodes or huge pages, and 64-bit inode numbers.
                "huge" | "mpol" | "inode32" | "inode64" | "seclabel" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(self)
    }
}

/// A number with k, m, g or t behind it, or a percentage of `whole` (Linux `memparse`).
fn parse_size(text: &str, whole: u64) -> Result<u64> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'%') if whole > 0 => (&text[..text.len() - 1], whole / 100),
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
        Some(b't' | b'T') => (&text[..text.len() - 1], 1 << 40),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or(Errno::EINVAL)
}

/// The limits and what is used of them, shared by the instance and its inodes.
struct Space {
    max_pages: AtomicU64,
    used_pages: AtomicU64,
    max_inodes: AtomicU64,
    used_inodes: AtomicU64,
}

impl Space {
    fn charge(used: &AtomicU64, max: &AtomicU64, by: u64) -> Result<()> {
        let limit = max.load(Ordering::Relaxed);
        let step = |used: u64| (limit == UNLIMITED || used + by <= limit).then_some(used + by);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).map(|_| ()).map_err(|_| Errno::ENOSPC)
    }
}

struct TmpfsSuper {
    space: Arc<Space>,
    options: Options,
}

impl SuperOps for TmpfsSuper {
    fn statfs(&self, sb: &SuperBlock) -> Result<Statfs> {
        let space = &self.space;
        let blocks = space.max_pages.load(Ordering::Relaxed);
        let free = blocks.saturating_sub(space.used_pages.load(Ordering::Relaxed));
        let files = space.max_inodes.load(Ordering::Relaxed);
        Ok(Statfs {
            f_type: sb.magic,
            f_bsize: PAGE_SIZE as u64,
            f_blocks: blocks,
            f_bfree: free,
            f_bavail: free,
            f_files: files,
            f_ffree: files.saturating_sub(space.used_inodes.load(Ordering::Relaxed)),
            f_namelen: 255,
            f_frsize: PAGE_SIZE as u64,
            ..Statfs::default()
        })
    }

    fn show_options(&self, out: &mut dyn Write) -> core::fmt::Result {
        let pages = self.space.max_pages.load(Ordering::Relaxed);
        if pages != UNLIMITED {
            write!(out, ",size={}k", pages * 4)?;
        }
        let inodes = self.space.max_inodes.load(Ordering::Relaxed);
        if inodes != UNLIMITED {
            write!(out, ",nr_inodes={inodes}")?;
        }
        if self.options.mode != 0o1777 {
            write!(out, ",mode={:03o}", self.options.mode)?;
        }
        if self.options.uid != 0 {
            write!(out, ",uid={}", self.options.uid)?;
        }
        if self.options.gid != 0 {
            write!(out, ",gid={}", self.options.gid)?;
        }
        Ok(())
    }

    fn remount(&self, options: &[u8]) -> Result<()> {
        let current = Options {
            size: self.space.max_pages.load(Ordering::Relaxed) * PAGE_SIZE as u64,
            inodes: self.space.max_inodes.load(Ordering::Relaxed),
            ..self.options
        };
        let new = current.parse(options)?;
        let pages = new.size.div_ceil(PAGE_SIZE as u64);
        let too_small = |limit: u64, used: &AtomicU64| limit != UNLIMITED && limit < used.load(Ordering::Relaxed);
        if too_small(pages, &self.space.used_pages) || too_small(new.inodes, &self.space.used_inodes) {
            return Err(Errno::EINVAL);
        }
        self.space.max_pages.store(pages, Ordering::Relaxed);
        self.space.max_inodes.store(new.inodes, Ordering::Relaxed);
        Ok(())
    }
}

/// A file of any type.
struct TmpfsInode {
    space: Arc<Space>,
    /// Pages that the instance was charged for.
    charged_pages: AtomicU64,
    /// Text of a symbolic link.
    target: Option<Arc<[u8]>>,
    /// F_SEAL_* of a memfd.
    seals: AtomicU32,
}

impl TmpfsInode {
    /// Brings the charge in line with what the page cache has.
    fn settle(&self, mapping: &Mapping) {
        let now = mapping.allocated_pages();
        let before = self.charged_pages.swap(now, Ordering::Relaxed);
        self.space.used_pages.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Whether `pages` more pages may be made. The inode's lock keeps other writers of the file away.
    fn reserve(&self, mapping: &Mapping, pages: u64) -> Result<()> {
        self.settle(mapping);
        let limit = self.space.max_pages.load(Ordering::Relaxed);
        let used = self.space.used_pages.load(Ordering::Relaxed);
        if limit != UNLIMITED && used + pages > limit { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    fn has_seal(&self, seals: u32) -> bool {
        self.seals.load(Ordering::Relaxed) & seals != 0
    }
}

impl InodeOps for TmpfsInode {
    fn create(&self, dir: &Arc<Inode>, name: &[u8], node: &NewNode<'_>) -> Result<Arc<Inode>> {
        let _ = name;
        let inode = self.new_inode(&dir.sb, node)?;
        if inode.is_dir() {
            dir.add_links(1);
        }
        entries_changed(dir, 1);
        Ok(inode)
    }

    fn tmpfile(&self, dir: &Arc<Inode>, node: &NewNode<'_>) -> Result<Arc<Inode>> {
        let inode = self.new_inode(&dir.sb, node)?;
        inode.add_links(-1);
        inode.set_linkable();
        Ok(inode)
    }

    fn link(&self, dir: &Arc<Inode>, _name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        inode.add_links(1);
        inode.touch_changed();
        entries_changed(dir, 1);
        Ok(())
    }

    fn unlink(&self, dir: &Arc<Inode>, _name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        inode.add_links(-1);
        inode.touch_changed();
        entries_changed(dir, -1);
        Ok(())
    }

    fn rmdir(&self, dir: &Arc<Inode>, _name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        inode.add_links(-2);
        dir.add_links(-1);
        inode.touch_changed();
        entries_changed(dir, -1);
        Ok(())
    }

    fn rename(&self, change: &Rename<'_>) -> Result<()> {
        let moves_dir = change.inode.is_dir();
        let target_dir = change.target.is_some_and(|target| target.is_dir());
        if change.exchange {
            change.old_dir.add_links(i32::from(target_dir) - i32::from(moves_dir));
            change.new_dir.add_links(i32::from(moves_dir) - i32::from(target_dir));
        } else {
            if let Some(target) = change.target {
                target.add_links(if target_dir { -2 } else { -1 });
                target.touch_changed();
            }
            if moves_dir {
                change.old_dir.add_links(-1);
                // A directory that is replaced had its `..` there already.
                change.new_dir.add_links(i32::from(!target_dir));
            }
        }
        change.inode.touch_changed();
        let gone = i64::from(!change.exchange);
        entries_changed(change.old_dir, -gone);
        entries_changed(change.new_dir, if change.target.is_none() { gone } else { 0 });
        Ok(())
    }

    fn follow_link(&self, _inode: &Arc<Inode>) -> Result<LinkTarget> {
        self.target.clone().map(LinkTarget::Text).ok_or(Errno::EINVAL)
    }

    fn setattr(&self, inode: &Arc<Inode>, change: &SetAttributes) -> Result<()> {
        if let Some(size) = change.size {
            if size > MAX_FILE_SIZE {
                return Err(Errno::EFBIG);
            }
            let old = inode.size();
            if size < old && self.has_seal(f::F_SEAL_SHRINK) || size > old && self.has_seal(f::F_SEAL_GROW) {
                return Err(Errno::EPERM);
            }
        }
        let done = inode.apply(change);
        if let (Some(_), Some(mapping)) = (change.size, inode.mapping()) {
            self.settle(mapping);
        }
        done
    }

    fn open(&self, inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Ok(if inode.is_dir() { libfs::dcache_dir() } else { OpsRef::Static(&Regular) })
    }

    fn is_dcache_complete(&self) -> bool {
        true
    }

    fn has_xattrs(&self) -> bool {
        true
    }

    fn evict(&self, _inode: &Inode) {
        self.space.used_pages.fetch_sub(self.charged_pages.load(Ordering::Relaxed), Ordering::Relaxed);
        self.space.used_inodes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TmpfsInode {
    fn new_inode(&self, sb: &Arc<SuperBlock>, node: &NewNode<'_>) -> Result<Arc<Inode>> {
        let mapping = node.mode & s::S_IFMT == s::S_IFREG;
        make_inode(sb, &self.space, node, mapping.then(Mapping::new))
    }
}

fn make_inode(
    sb: &Arc<SuperBlock>,
    space: &Arc<Space>,
    node: &NewNode<'_>,
    mapping: Option<Arc<Mapping>>,
) -> Result<Arc<Inode>> {
    Space::charge(&space.used_inodes, &space.max_inodes, 1)?;
    let charged = mapping.as_ref().map_or(0, |mapping| mapping.allocated_pages());
    space.used_pages.fetch_add(charged, Ordering::Relaxed);
    let is_link = node.mode & s::S_IFMT == s::S_IFLNK;
    let ops = TmpfsInode {
        space: space.clone(),
        charged_pages: AtomicU64::new(charged),
        target: is_link.then(|| node.target.into()),
        seals: AtomicU32::new(f::F_SEAL_SEAL),
    };
    let mut parts = InodeParts::new(sb.next_ino(), node.mode);
    (parts.uid, parts.gid, parts.rdev, parts.mapping) = (node.uid, node.gid, node.rdev, mapping);
    let inode = Inode::new(sb.clone(), parts, Box::new(ops));
    if is_link {
        inode.set_plain_size(node.target.len() as u64);
    } else if inode.is_dir() {
        inode.set_plain_size(2 * BOGO_DIRENT_SIZE.cast_unsigned());
    }
    Ok(inode)
}

/// A directory got or lost entries.
fn entries_changed(dir: &Inode, by: i64) {
    dir.set_plain_size(dir.size().saturating_add_signed(by * BOGO_DIRENT_SIZE));
    dir.touch_modified();
}

/// A new instance of `fs_type` that keeps its files as tmpfs does.
pub fn new_super(fs_type: &'static FsType, magic: u64, options: &Options) -> Result<Arc<SuperBlock>> {
    let space = Arc::new(Space {
        max_pages: AtomicU64::new(options.size.div_ceil(PAGE_SIZE as u64)),
        used_pages: AtomicU64::new(0),
        max_inodes: AtomicU64::new(options.inodes),
        used_inodes: AtomicU64::new(0),
    });
    let ops = TmpfsSuper { space: space.clone(), options: *options };
    let sb = SuperBlock::new(fs_type, magic, Box::new(ops));
    let node = NewNode { mode: s::S_IFDIR | options.mode, rdev: 0, target: b"", uid: options.uid, gid: options.gid };
    let root = make_inode(&sb, &space, &node, None)?;
    sb.set_root(Dentry::new_root(root));
    Ok(sb)
}

fn mount_tmpfs(request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    let options = Options::for_tmpfs(request.creds).parse(request.options)?;
    new_super(&TMPFS, s::TMPFS_MAGIC, &options)
}

fn mount_ramfs(request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    let start = Options { size: UNLIMITED, inodes: UNLIMITED, mode: 0o755, ..Options::for_tmpfs(request.creds) };
    new_super(&RAMFS, s::RAMFS_MAGIC, &start.parse(request.options)?)
}

/// The first mount of the first namespace: an empty tmpfs, shown as `rootfs`.
pub(super) fn new_rootfs() -> Arc<Mount> {
    let options = Options { mode: 0o755, ..Options::for_tmpfs(&Creds::root()) };
    let sb = new_super(&ROOTFS, s::TMPFS_MAGIC, &options).expect("an empty instance has room for its root");
    let root = sb.root().expect("new_super sets it");
    Mount::new(sb, root, Arc::from(&b"rootfs"[..]), 0)
}

/// Enters a regular file whose content exists already, as the initramfs does.
pub fn enter_file(dir: &Arc<Dentry>, name: &[u8], node: &NewNode<'_>, mapping: Arc<Mapping>) -> Result<Arc<Dentry>> {
    let parent = dir.inode().ops_as::<TmpfsInode>().ok_or(Errno::EINVAL)?;
    let inode = make_inode(&dir.inode().sb, &parent.space, node, Some(mapping))?;
    entries_changed(dir.inode(), 1);
    Ok(dir.attach(name, inode))
}

/// A memfd (memfd_create(2)): an unnamed file of an instance without limits.
pub fn new_memfd(name: &[u8], flags: u32, creds: &Creds) -> Result<Arc<File>> {
    let sb = MEMFD.call_once(|| {
        let options = Options { size: UNLIMITED, inodes: UNLIMITED, mode: 0o755, uid: 0, gid: 0 };
        let sb = new_super(&TMPFS, s::TMPFS_MAGIC, &options).expect("without limits");
        let root = sb.root().expect("new_super sets it");
        Mount::new(sb, root, Arc::from(&b"tmpfs"[..]), 0)
    });
    let root = sb.root_path();
    let parent = root.dentry.inode().ops_as::<TmpfsInode>().ok_or(Errno::EINVAL)?;
    let node = NewNode { mode: s::S_IFREG | 0o777, rdev: 0, target: b"", uid: creds.fsuid, gid: creds.fsgid };
    let inode = parent.new_inode(&sb.sb, &node)?;
    inode.add_links(-1);
    if flags & f::MFD_ALLOW_SEALING != 0 {
        seals_of(&inode)?.store(0, Ordering::Relaxed);
    }
    let mut shown = b"memfd:".to_vec();
    shown.extend_from_slice(name);
    let dentry = root.dentry.new_volatile(&shown, inode.clone());
    dentry.mark_unlinked();
    inode.get_write_access()?;
    let path = super::mount::Path { mount: sb.clone(), dentry };
    let mode = FileMode::READ | FileMode::WRITE | FileMode::WRITER;
    Ok(File::new(path, OpsRef::Static(&Regular), f::O_RDWR | f::O_LARGEFILE, mode))
}

hal::global! {
    /// Linux's internal mount `shm_mnt`.
    static MEMFD: spin::Once<Arc<Mount>> = spin::Once::new();
}

fn seals_of(inode: &Inode) -> Result<&AtomicU32> {
    inode.ops_as::<TmpfsInode>().map(|ops| &ops.seals).ok_or(Errno::EINVAL)
}

/// An open regular file.
struct Regular;

/// The file's inode as this file system knows it. Every user of [`Regular`] is one.
fn parts(file: &File) -> Result<(&Arc<Inode>, &Arc<Mapping>, &TmpfsInode)> {
    let inode = file.inode();
    let mapping = inode.mapping().ok_or(Errno::EINVAL)?;
    let ops = inode.ops_as::<TmpfsInode>().ok_or(Errno::EINVAL)?;
    Ok((inode, mapping, ops))
}

/// How much may be written at `offset`: RLIMIT_FSIZE (`SIGXFSZ` and `EFBIG` at or beyond it, fewer bytes across it), and
/// the largest file (Linux `generic_write_checks`).
fn writable_length(offset: u64, length: u64) -> Result<u64> {
    if length == 0 {
        return Ok(0);
    }
    let mut limit = MAX_FILE_SIZE;
    if hal::thread::has_current() {
        let soft = crate::task::current().rlimit(abi::resource::RLIMIT_FSIZE);
        if offset >= soft {
            crate::task::limits::file_too_big(&crate::task::current());
            return Err(Errno::EFBIG);
        }
        limit = limit.min(soft);
    }
    if offset >= limit {
        return Err(Errno::EFBIG);
    }
    Ok(length.min(limit - offset))
}

/// A write takes set-user-ID, set-group-ID and capabilities away (Linux `file_remove_privs`).
fn remove_privileges(inode: &Inode) {
    super::xattr::drop_capabilities(inode);
    let mode = inode.mode();
    let mut gone = mode & s::S_ISUID;
    if mode & (s::S_ISGID | 0o10) == s::S_ISGID | 0o10 {
        gone |= s::S_ISGID;
    }
    let keeps = || super::permission::capable_over(inode, &crate::task::current().creds(), CAP_FSETID);
    if gone != 0 && !(hal::thread::has_current() && keeps()) {
        inode.set_permissions(mode & !gone);
    }
}

impl FileOps for Regular {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
        let inode = file.inode();
        let mapping = inode.mapping().ok_or(Errno::EINVAL)?;
        let done = mapping.read(*offset, dst)?;
        *offset += done as u64;
        if !file.mode().contains(FileMode::NOATIME) {
            inode.touch_accessed();
        }
        Ok(done)
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>, offset: &mut u64) -> Result<usize> {
        let (inode, mapping, ops) = parts(file)?;
        let _lock = inode.lock.lock();
        if file.flags() & f::O_APPEND != 0 || src.is_append() {
            *offset = mapping.size();
        }
        let length = writable_length(*offset, src.remaining() as u64)?;
        if length == 0 {
            return Ok(0);
        }
        let end = *offset + length;
        if ops.has_seal(f::F_SEAL_WRITE | f::F_SEAL_FUTURE_WRITE) {
            return Err(Errno::EPERM);
        }
        let length = if end > mapping.size() && ops.has_seal(f::F_SEAL_GROW) {
            within_size(*offset, mapping.size())?
        } else {
            length
        };
        let length = room_for(ops, mapping, *offset, length)?;
        src.limit(usize::try_from(length).unwrap_or(usize::MAX));
        remove_privileges(inode);
        let outcome = mapping.write(*offset, src);
        ops.settle(mapping);
        let done = outcome?;
        *offset += done as u64;
        inode.touch_modified();
        Ok(done)
    }

    fn seek(&self, file: &File, offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
        super::file::generic_seek(file, offset, change, whence)
    }

    fn readable_bytes(&self, file: &File) -> Result<usize> {
        let left = file.inode().size().saturating_sub(*file.lock_offset());
        Ok(usize::try_from(left).unwrap_or(usize::MAX))
    }

    fn mapping(&self, file: &File) -> Result<Arc<Mapping>> {
        file.inode().mapping().cloned().ok_or(Errno::ENODEV)
    }

    fn write_sealed(&self, file: &File) -> bool {
        parts(file).is_ok_and(|(_, _, ops)| ops.has_seal(f::F_SEAL_WRITE | f::F_SEAL_FUTURE_WRITE))
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, length: u64) -> Result<()> {
        const KNOWN: u32 = f::FALLOC_FL_KEEP_SIZE | f::FALLOC_FL_PUNCH_HOLE;
        if mode & !KNOWN != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (inode, mapping, ops) = parts(file)?;
        let _lock = inode.lock.lock();
        if mode & f::FALLOC_FL_PUNCH_HOLE != 0 {
            if mode & f::FALLOC_FL_KEEP_SIZE == 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            if ops.has_seal(f::F_SEAL_WRITE | f::F_SEAL_FUTURE_WRITE) {
                return Err(Errno::EPERM);
            }
            mapping.punch_hole(offset, offset + length)?;
            ops.settle(mapping);
            inode.touch_modified();
            return Ok(());
        }
        allocate(inode, mapping, ops, mode, offset, length)
    }

    fn fcntl(&self, file: &File, command: u32, argument: u64) -> Result<usize> {
        let (inode, _, ops) = parts(file)?;
        match command {
            f::F_GET_SEALS => Ok(ops.seals.load(Ordering::Relaxed) as usize),
            f::F_ADD_SEALS => add_seals(file, inode, ops, argument),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// How many bytes from `offset` on may be written to a file that must not grow. Linux writes page by page, and refuses the
/// first piece that ends beyond the size (`shmem_write_begin`).
fn within_size(offset: u64, size: u64) -> Result<u64> {
    let end = size / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    end.checked_sub(offset).filter(|length| *length > 0).ok_or(Errno::EPERM)
}

/// How many of `length` bytes at `offset` the instance has room for; `ENOSPC` if none.
fn room_for(ops: &TmpfsInode, mapping: &Mapping, offset: u64, length: u64) -> Result<u64> {
    let page = PAGE_SIZE as u64;
    let pages = (offset + length).div_ceil(page) - offset / page;
    if ops.reserve(mapping, pages).is_ok() {
        return Ok(length);
    }
    // Near the limit: page by page, counting only those that are missing.
    let mut missing = 0;
    for at in (offset / page * page..offset + length).step_by(PAGE_SIZE) {
        let is_hole = mapping.next_data(at).is_none_or(|data| data >= at + page);
        missing += u64::from(is_hole);
        if is_hole && ops.reserve(mapping, missing).is_err() {
            return if at > offset { Ok(at - offset) } else { Err(Errno::ENOSPC) };
        }
    }
    Ok(length)
}

/// fallocate(2) without FALLOC_FL_PUNCH_HOLE: makes the pages, all or nothing.
fn allocate(
    inode: &Arc<Inode>,
    mapping: &Arc<Mapping>,
    ops: &TmpfsInode,
    mode: u32,
    offset: u64,
    length: u64,
) -> Result<()> {
    let end = offset + length;
    let grows = mode & f::FALLOC_FL_KEEP_SIZE == 0 && end > mapping.size();
    if grows && ops.has_seal(f::F_SEAL_GROW) {
        return Err(Errno::EPERM);
    }
    if grows && writable_length(mapping.size(), end - mapping.size())? < end - mapping.size() {
        return Err(Errno::EFBIG);
    }
    if room_for(ops, mapping, offset, length)? < length {
        return Err(Errno::ENOSPC);
    }
    let page = PAGE_SIZE as u64;
    let mut outcome = Ok(());
    for at in (offset / page..end.div_ceil(page)).map(|index| index * page) {
        let is_hole = mapping.next_data(at).is_none_or(|data| data >= at + page);
        // Without a longer size there are no pages to hold on to: the reservation is what counts.
        let within = end.min(at + page) - at;
        let visible = grows || at < mapping.size();
        if is_hole && visible {
            let within = if grows { within } else { within.min(mapping.size() - at) };
            let zeros = [0u8; 1];
            outcome = mapping.write(at + within - 1, &mut IoSrc::kernel(&zeros)).map(|_| ());
            if outcome.is_err() {
                break;
            }
        }
    }
    if outcome.is_ok() && grows && mapping.size() < end {
        outcome = mapping.truncate(end);
    }
    ops.settle(mapping);
    inode.touch_changed();
    outcome
}

/// F_ADD_SEALS (fcntl(2)): `EPERM` without write access or after F_SEAL_SEAL, `EBUSY` for F_SEAL_WRITE while writable
/// shared mappings exist.
fn add_seals(file: &File, inode: &Arc<Inode>, ops: &TmpfsInode, argument: u64) -> Result<usize> {
    const ALL: u32 =
        f::F_SEAL_SEAL | f::F_SEAL_SHRINK | f::F_SEAL_GROW | f::F_SEAL_WRITE | f::F_SEAL_FUTURE_WRITE | f::F_SEAL_EXEC;
    if !file.mode().contains(FileMode::WRITE) {
        return Err(Errno::EPERM);
    }
    let seals = u32::try_from(argument).map_err(|_| Errno::EINVAL)?;
    if seals & !ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let _lock = inode.lock.lock();
    if ops.has_seal(f::F_SEAL_SEAL) {
        return Err(Errno::EPERM);
    }
    // F_SEAL_FUTURE_WRITE leaves the mappings that exist alone.
    if seals & f::F_SEAL_WRITE != 0
        && !ops.has_seal(f::F_SEAL_WRITE)
        && inode.mapping().is_some_and(|mapping| mapping.is_mapped_writable())
    {
        return Err(Errno::EBUSY);
    }
    ops.seals.fetch_or(seals, Ordering::Relaxed);
    Ok(0)
}
