//! The magic links of `/proc/PID` (exe, cwd, root, ns) and its mount tables.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

use abi::Errno;
use abi::stat::{S_IFLNK, S_IFREG, dirent_type};

use super::process::{Subject, ino_of, owned_parts};
use super::text::Text;
use crate::Result;
use crate::fs::file::{DirSink, File, FileOps, OpsRef};
use crate::fs::inode::{Inode, InodeOps, InodeParts, LinkTarget, OpenRequest};
use crate::fs::libfs::{self, shared};
use crate::fs::mount::{self, Path};
use crate::fs::namei::display_path;
use crate::fs::pseudo::{self, PseudoFs};
use crate::fs::super_block::FsType;
use crate::io::IoDst;
use crate::task::{Task, current};

/// A link to a place that the task has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// `exe`.
    Executable,
    /// `cwd`.
    WorkingDirectory,
    /// `root`.
    Root,
}

/// Where the link leads: `ENOENT` for what the task does not have (kernel threads, zombies).
pub(super) fn place(link: Link, task: &Task) -> Result<Path> {
    match link {
        Link::Executable => Ok(task.mm().and_then(|mm| mm.exe()).ok_or(Errno::ENOENT)?.path.clone()),
        Link::WorkingDirectory => Ok(task.fs_if_any().ok_or(Errno::ENOENT)?.cwd()),
        Link::Root => Ok(task.fs_if_any().ok_or(Errno::ENOENT)?.root()),
    }
}

/// The path as the reader sees it.
pub(super) fn text(path: &Path) -> Result<Arc<[u8]>> {
    let root = current().fs().root();
    Ok(Arc::from(display_path(path, Some(&root))))
}

fn root_of(task: &Task) -> Result<Path> {
    Ok(task.fs_if_any().ok_or(Errno::EINVAL)?.root())
}

/// `/proc/PID/mounts`.
pub(super) fn mounts(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    mount::show_mounts(&mount::initial_namespace(), &root_of(task)?, text).map_err(|_| Errno::ENOMEM)
}

/// `/proc/PID/mountinfo`.
pub(super) fn mountinfo(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    mount::show_mountinfo(&mount::initial_namespace(), &root_of(task)?, text).map_err(|_| Errno::ENOMEM)
}

/// `/proc/PID/mountstats`: no file system keeps statistics, so each line names only what is mounted where.
pub(super) fn mountstats(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let root = root_of(task)?;
    for mount in mount::initial_namespace().mounts() {
        let special = b" \t\n#";
        text.str("device ").escaped(&mount.source, special).str(" mounted on ");
        text.escaped(&display_path(&mount.root_path(), Some(&root)), special);
        text.str(" with fstype ").str(mount.sb.fs_type.name).byte(b'\n');
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------------------
// Namespaces

/// Names in `/proc/PID/ns`, the type in the link's text, and the inode number of the initial namespace (Linux
/// `include/linux/proc_ns.h`).
const NAMESPACES: [(&str, &str, u64); 10] = [
    ("cgroup", "cgroup", 0xeffffffb),
    ("ipc", "ipc", 0xefffffff),
    ("mnt", "mnt", 0xf0000000),
    ("net", "net", 0xf0000098),
    ("pid", "pid", 0xeffffffc),
    ("pid_for_children", "pid", 0xeffffffc),
    ("time", "time", 0xeffffffa),
    ("time_for_children", "time", 0xeffffffa),
    ("user", "user", 0xeffffffd),
    ("uts", "uts", 0xeffffffe),
];

static NSFS: FsType = FsType { name: "nsfs", mount: pseudo::not_mountable };
const NSFS_MAGIC: u64 = 0x6e73_6673;

hal::global! {
    static FS: spin::Once<PseudoFs> = spin::Once::new();
}

/// The place of a namespace's file.
fn namespace_place(kind: &str, ino: u64) -> Path {
    let fs = FS.call_once(|| PseudoFs::new(&NSFS, NSFS_MAGIC));
    let inode = Inode::new(fs.sb().clone(), InodeParts::new(ino, S_IFREG | 0o444), Box::new(NamespaceNode));
    fs.path(format!("{kind}:[{ino}]").as_bytes(), inode)
}

/// A namespace as a file: it can be opened and compared, not read.
struct NamespaceNode;

impl InodeOps for NamespaceNode {
    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Ok(OpsRef::Static(&NamespaceFile))
    }
}

struct NamespaceFile;
impl FileOps for NamespaceFile {}

pub(super) fn lookup_namespace(dir: &Arc<Inode>, subject: &Subject, name: &[u8]) -> Result<Arc<Inode>> {
    let found = NAMESPACES.iter().enumerate().find(|(_, (entry, ..))| entry.as_bytes() == name);
    let (index, (_, kind, ino)) = found.ok_or(Errno::ENOENT)?;
    let number = ino_of(subject.pid.global(), 64 + index as u64);
    let parts = owned_parts(&*subject.task()?, number, S_IFLNK | 0o777);
    Ok(Inode::new(dir.sb.clone(), parts, Box::new(NamespaceLink { subject: subject.clone(), kind, ino: *ino })))
}

struct NamespaceLink {
    subject: Subject,
    kind: &'static str,
    ino: u64,
}

impl InodeOps for NamespaceLink {
    fn follow_link(&self, _inode: &Arc<Inode>) -> Result<LinkTarget> {
        self.subject.accessible_task()?;
        Ok(LinkTarget::Jump(namespace_place(self.kind, self.ino)))
    }

    fn readlink(&self, _inode: &Arc<Inode>) -> Result<Arc<[u8]>> {
        self.subject.accessible_task()?;
        Ok(Arc::from(format!("{}:[{}]", self.kind, self.ino).into_bytes()))
    }

    fn keep_dentry(&self) -> bool {
        false
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Err(Errno::ELOOP)
    }
}

/// `/proc/PID/ns`, open.
pub(super) struct NamespaceListing(pub Subject);

impl libfs::Listing for NamespaceListing {
    fn list(&self, _file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        libfs::emit_indexed(NAMESPACES, sink, offset, |sink, index, (name, ..), next| {
            let ino = ino_of(self.0.pid.global(), 64 + index as u64);
            sink.emit(name.as_bytes(), ino, dirent_type(S_IFLNK), next)
        });
        Ok(())
    }
}

/// A link whose text and place are the same path, for `/proc/PID/fd`.
pub(super) struct FileLink {
    /// Whose descriptor.
    pub subject: Subject,
    /// Its number.
    pub fd: i32,
}

impl FileLink {
    fn place(&self) -> Result<Path> {
        let task = self.subject.accessible_task()?;
        let files = task.files_if_any().ok_or(Errno::ENOENT)?;
        Ok(files.get_any(self.fd).map_err(|_| Errno::ENOENT)?.path.clone())
    }
}

impl InodeOps for FileLink {
    fn follow_link(&self, _inode: &Arc<Inode>) -> Result<LinkTarget> {
        self.place().map(LinkTarget::Jump)
    }

    fn readlink(&self, _inode: &Arc<Inode>) -> Result<Arc<[u8]>> {
        text(&self.place()?)
    }

    fn keep_dentry(&self) -> bool {
        false
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Err(Errno::ELOOP)
    }
}

/// An open text that is made for each reader, as [`shared`] operations.
pub(super) fn text_file(make: impl Fn(&mut Text) -> Result<()> + Send + Sync + 'static) -> OpsRef {
    struct Made<F> {
        make: F,
        text: crate::sync::Mutex<alloc::vec::Vec<u8>>,
    }
    impl<F: Fn(&mut Text) -> Result<()> + Send + Sync + 'static> FileOps for Made<F> {
        fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
            super::read_made(&self.text, dst, offset, &self.make)
        }
    }
    shared(Made { make, text: crate::sync::Mutex::new(alloc::vec::Vec::new()) })
}
