//! The magic links of `/proc/PID`: exe, cwd, root, ns.

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::Errno;
use abi::stat::{S_IFLNK, dirent_type};

use super::process::{Subject, ino_of, owned_parts};
use super::text::Text;
use crate::Result;
use crate::fs::file::{DirSink, File, FileOps, OpsRef};
use crate::fs::inode::{Inode, InodeOps, LinkTarget, OpenRequest};
use crate::fs::libfs::{self, shared};
use crate::fs::mount::Path;
use crate::fs::namei::display_path;
use crate::fs::nsfs;
use crate::io::IoDst;
use crate::ns::{Kind, Namespace};
use crate::task::{Task, current, flags};

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

// ---------------------------------------------------------------------------------------------------------------------
// Namespaces

/// Names in `/proc/PID/ns`, in the order of listing.
const NAMESPACES: [(&str, Kind); 10] = [
    ("cgroup", Kind::Cgroup),
    ("ipc", Kind::Ipc),
    ("mnt", Kind::Mount),
    ("net", Kind::Net),
    ("pid", Kind::Pid),
    ("pid_for_children", Kind::Pid),
    ("time", Kind::Time),
    ("time_for_children", Kind::Time),
    ("user", Kind::User),
    ("uts", Kind::Uts),
];

pub(super) fn lookup_namespace(dir: &Arc<Inode>, subject: &Subject, name: &[u8]) -> Result<Arc<Inode>> {
    let found = NAMESPACES.iter().enumerate().find(|(_, (entry, ..))| entry.as_bytes() == name);
    let (index, (name, kind)) = found.ok_or(Errno::ENOENT)?;
    let number = ino_of(subject.pid.global(), 64 + index as u64);
    let parts = owned_parts(&*subject.task()?, number, S_IFLNK | 0o777);
    Ok(Inode::new(
        dir.sb.clone(),
        parts,
        Box::new(NamespaceLink {
            subject: subject.clone(),
            kind: *kind,
            is_for_children: name.ends_with("_for_children"),
        }),
    ))
}

struct NamespaceLink {
    subject: Subject,
    kind: Kind,
    is_for_children: bool,
}

impl NamespaceLink {
    /// `EACCES` for who may not look into the process, `ENOENT` when it has given its namespaces up.
    fn namespace(&self) -> Result<Namespace> {
        let task = self.subject.accessible_task()?;
        let keeps = matches!(self.kind, Kind::User | Kind::Pid);
        if task.has_flag(flags::EXITING) && !keeps {
            return Err(Errno::ENOENT);
        }
        if self.is_for_children && self.kind == Kind::Pid {
            let pids = task.namespaces().pid_for_children().clone();
            // Not before its first process.
            return pids.init().map(|_| Namespace::Pid(pids)).ok_or(Errno::ENOENT);
        }
        Ok(Namespace::of(&task, self.kind))
    }
}

impl InodeOps for NamespaceLink {
    fn follow_link(&self, _inode: &Arc<Inode>) -> Result<LinkTarget> {
        self.namespace().map(|namespace| LinkTarget::Jump(nsfs::place(namespace)))
    }

    fn readlink(&self, _inode: &Arc<Inode>) -> Result<Arc<[u8]>> {
        self.namespace().map(|namespace| Arc::from(nsfs::text(&namespace).into_bytes()))
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
