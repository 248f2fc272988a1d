//! Namespaces as files: `/proc/PID/ns/*` and bind mounts of them (Linux `fs/nsfs.c`). An open file or a mount of one keeps
//! the namespace alive.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

use abi::Errno;
use abi::ioctl as i;
use abi::stat::S_IFREG;

use super::dentry::Dentry;
use super::fdtable::OnExec;
use super::file::{File, FileMode, FileOps, OpsRef};
use super::inode::{Inode, InodeOps, InodeParts, OpenRequest};
use super::libfs::shared;
use super::mount::{MountNamespace, Path};
use super::pseudo::{self, PseudoFs};
use super::super_block::FsType;
use crate::Result;
use crate::ns::user::UserNs;
use crate::ns::{Kind, Namespace};
use crate::syscall::UserPtr;
use crate::task::current;

static NSFS: FsType = FsType { name: "nsfs", mount: pseudo::not_mountable };
const NSFS_MAGIC: u64 = 0x6e73_6673;

hal::global! {
    static FS: spin::Once<PseudoFs> = spin::Once::new();
}

/// The text of a link to a namespace: `uts:[4026531838]`.
pub fn text(namespace: &Namespace) -> alloc::string::String {
    format!("{}:[{}]", namespace.kind().name(), namespace.ino())
}

/// The place of a namespace's file.
pub fn place(namespace: Namespace) -> Path {
    let fs = FS.call_once(|| PseudoFs::new(&NSFS, NSFS_MAGIC));
    let name = text(&namespace);
    let parts = InodeParts::new(namespace.ino(), S_IFREG | 0o444);
    fs.path(name.as_bytes(), Inode::new(fs.sb().clone(), parts, Box::new(NamespaceNode(namespace))))
}

/// The namespace that an open file is; `None` for any other file.
pub fn namespace_of(file: &File) -> Option<Namespace> {
    file.ops_as::<NamespaceFile>().map(|file| file.0.clone())
}

/// Whether a dentry is the file of a mount namespace.
pub fn is_mount_namespace(dentry: &Dentry) -> bool {
    dentry.inode().ops_as::<NamespaceNode>().is_some_and(|node| node.0.kind() == Kind::Mount)
}

/// Whether a dentry is a namespace's file. `EINVAL` for that of a mount namespace that is not newer than `here`, where it
/// is to be mounted: a ring of namespaces would never go (Linux `mnt_ns_loop`).
pub fn may_be_bound(dentry: &Dentry, here: &MountNamespace) -> Result<bool> {
    let Some(NamespaceNode(namespace)) = dentry.inode().ops_as::<NamespaceNode>() else { return Ok(false) };
    match namespace {
        Namespace::Mount(held) if held.ino() <= here.ino() => Err(Errno::EINVAL),
        _ => Ok(true),
    }
}

struct NamespaceNode(Namespace);

impl InodeOps for NamespaceNode {
    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Ok(shared(NamespaceFile(self.0.clone())))
    }
}

/// A namespace as an open file: it can be compared, asked and entered, not read.
struct NamespaceFile(Namespace);

impl FileOps for NamespaceFile {
    /// ioctl_ns(2): `EINVAL` for the parent or owner of what has none, `EPERM` for a parent that the caller does not see.
    fn ioctl(&self, _file: &File, command: u32, argument: u64) -> Result<usize> {
        let kind = self.0.kind();
        match command {
            i::NS_GET_NSTYPE => Ok(kind.flag() as usize),
            i::NS_GET_USERNS => open(Namespace::User(visible(self.0.owner())?)),
            i::NS_GET_PARENT => match &self.0 {
                Namespace::User(users) => open(Namespace::User(visible(users.parent().cloned())?)),
                Namespace::Pid(pids) => {
                    let own = current().namespaces();
                    let seen = pids.parent().filter(|parent| parent.is_in(own.pid())).ok_or(Errno::EPERM)?;
                    open(Namespace::Pid(seen.clone()))
                }
                _ => Err(Errno::EINVAL),
            },
            i::NS_GET_OWNER_UID => {
                let Namespace::User(users) = &self.0 else { return Err(Errno::EINVAL) };
                let uid = current().creds().user_ns.shown_uid(users.owner());
                UserPtr::<u32>::new(argument).write(&uid).map(|()| 0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}

/// A user namespace that the caller is in or above: `EPERM` for any other (Linux `ns_get_owner`).
fn visible(namespace: Option<UserNs>) -> Result<UserNs> {
    let own = current().creds();
    namespace.filter(|namespace| namespace.is_in(&own.user_ns)).ok_or(Errno::EPERM)
}

/// A new descriptor of a namespace.
fn open(namespace: Namespace) -> Result<usize> {
    let file = File::new(
        place(namespace.clone()),
        shared(NamespaceFile(namespace)),
        abi::fcntl::O_RDONLY,
        FileMode::from_flags(abi::fcntl::O_RDONLY),
    );
    let task = current();
    let files = task.files();
    let fd = files.reserve(0, task.rlimit(abi::resource::RLIMIT_NOFILE), OnExec::Close)?;
    files.install(fd, file);
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}
