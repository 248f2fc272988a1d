//! Files without a place in the tree: pipes, memfds, anonymous inodes (Linux `init_pseudo`, `anon_inode_getfile`).

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

use abi::Errno;

use super::dentry::Dentry;
use super::file::{File, FileMode, OpsRef};
use super::inode::{Inode, InodeOps, InodeParts, OpenRequest, SetAttributes};
use super::mount::{Mount, Path};
use super::super_block::{FsType, MountRequest, SuperBlock, SuperOps};
use crate::Result;
use crate::task::Creds;

/// A pseudo file system: an instance and its internal mount.
pub struct PseudoFs {
    mount: Arc<Mount>,
}

struct Plain;
impl SuperOps for Plain {}

/// Inodes of pseudo files: opened once, by their maker.
struct PseudoInode {
    reopen: Option<OpsRef>,
}

impl InodeOps for PseudoInode {
    // Reached by an open of /proc/PID/fd/N.
    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        self.reopen.clone().ok_or(Errno::ENXIO)
    }

    fn setattr(&self, inode: &Arc<Inode>, change: &SetAttributes) -> Result<()> {
        inode.apply(change)
    }
}

/// mount(2) of a pseudo file system is refused (Linux SB_NOUSER).
pub fn not_mountable(_request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    Err(Errno::EINVAL)
}

impl PseudoFs {
    /// Makes the one instance of a pseudo file system.
    pub fn new(fs_type: &'static FsType, magic: u64) -> Self {
        let sb = SuperBlock::new_pseudo(fs_type, magic, Box::new(Plain));
        let parts = InodeParts::new(sb.next_ino(), abi::stat::S_IFDIR | 0o555);
        let root = Dentry::new_root(Inode::new(sb.clone(), parts, Box::new(PseudoInode { reopen: None })));
        sb.set_root(root.clone());
        Self { mount: Mount::new(sb, root, Arc::from(fs_type.name.as_bytes()), 0) }
    }

    /// The instance.
    pub fn sb(&self) -> &Arc<SuperBlock> {
        &self.mount.sb
    }

    /// A path for an inode of this file system, shown as `name`.
    pub fn path(&self, name: &[u8], inode: Arc<Inode>) -> Path {
        Path { mount: self.mount.clone(), dentry: Dentry::new_loose(name, inode) }
    }

    /// A new inode of type and permissions `mode`, owned by `creds`, whose opens through /proc give `reopen`.
    pub fn inode(&self, mode: u32, creds: &Creds, reopen: Option<OpsRef>) -> Arc<Inode> {
        let mut parts = InodeParts::new(self.mount.sb.next_ino(), mode);
        (parts.uid, parts.gid) = (creds.fsuid, creds.fsgid);
        Inode::new(self.mount.sb.clone(), parts, Box::new(PseudoInode { reopen }))
    }

    /// An open file on a new inode, shown as `label:[ino]`.
    pub fn file(&self, label: &str, mode: u32, creds: &Creds, ops: OpsRef, flags: u32) -> Arc<File> {
        let inode = self.inode(mode, creds, None);
        let name = format!("{label}:[{}]", inode.ino);
        File::new(self.path(name.as_bytes(), inode), ops, flags, FileMode::from_flags(flags))
    }

    /// An open file on `inode`, shown as `label:[ino]`.
    pub fn file_of(&self, label: &str, inode: &Arc<Inode>, ops: OpsRef, flags: u32) -> Arc<File> {
        let name = format!("{label}:[{}]", inode.ino);
        File::new(self.path(name.as_bytes(), inode.clone()), ops, flags, FileMode::from_flags(flags))
    }
}

static ANON_INODEFS: FsType = FsType { name: "anon_inodefs", mount: not_mountable };
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;

hal::global! {
    static ANON: spin::Once<(PseudoFs, Arc<Inode>)> = spin::Once::new();
}

/// An anonymous inode's file (epoll, eventfd, ...), shown as `anon_inode:[name]`.
pub fn anon_file(name: &str, ops: OpsRef, flags: u32) -> Arc<File> {
    let (fs, inode) = ANON.call_once(|| {
        let fs = PseudoFs::new(&ANON_INODEFS, ANON_INODE_FS_MAGIC);
        // Linux gives these inodes no type bits.
        let inode = fs.inode(0o600, &Creds::root(), None);
        (fs, inode)
    });
    let shown = format!("anon_inode:{name}");
    File::new(fs.path(shown.as_bytes(), inode.clone()), ops, flags, FileMode::from_flags(flags))
}
