//! What the running task reads of its own without locks or reference counts, and what it alone replaces.

use alloc::sync::Arc;

use hal::owner::Borrowed;
use hal::thread::Current;

use super::{Creds, Task, current};
use crate::fs::{Files, FsContext};
use crate::mm::Mm;
use crate::ns::NsSet;
use crate::signal::SigHandlers;

/// The running task's own fields. A field may not be replaced while it is borrowed here.
pub trait OwnFields {
    /// The descriptor table. Not for a task past exit_files.
    fn own_files(&self) -> Borrowed<Files>;
    /// Root, working directory, umask. Not for a task past exit_fs.
    fn own_fs(&self) -> Borrowed<FsContext>;
    /// The credentials.
    fn own_creds(&self) -> Borrowed<Creds>;
    /// The namespaces.
    fn own_namespaces(&self) -> Borrowed<NsSet>;
    /// The address space; `None` for kernel threads and tasks past exit_mm.
    fn own_mm(&self) -> Option<Borrowed<Mm>>;
    /// The signal handlers.
    fn own_handlers(&self) -> Borrowed<SigHandlers>;
}

impl OwnFields for Current<Task> {
    #[inline(always)]
    fn own_files(&self) -> Borrowed<Files> {
        self.borrow(|task| &task.files).map(|files| &**files.as_ref().expect("a task that makes calls has descriptors"))
    }

    #[inline(always)]
    fn own_fs(&self) -> Borrowed<FsContext> {
        self.borrow(|task| &task.fs).map(|fs| &**fs.as_ref().expect("a task that makes calls has a root"))
    }

    #[inline(always)]
    fn own_creds(&self) -> Borrowed<Creds> {
        self.borrow(|task| &task.creds).map(|creds| &**creds)
    }

    #[inline(always)]
    fn own_namespaces(&self) -> Borrowed<NsSet> {
        self.borrow(|task| &task.namespaces).map(|set| &**set)
    }

    #[inline(always)]
    fn own_mm(&self) -> Option<Borrowed<Mm>> {
        let mm = self.borrow(|task| &task.mm);
        mm.as_ref()?;
        Some(mm.map(|mm| &**mm.as_ref().expect("just seen")))
    }

    #[inline(always)]
    fn own_handlers(&self) -> Borrowed<SigHandlers> {
        self.borrow(|task| &task.handlers).map(|handlers| &**handlers)
    }
}

impl Task {
    /// Itself, as the running task: what follows is for nobody else. Panics for another task.
    fn as_current(&self) -> Current<Task> {
        let current = current();
        assert!(core::ptr::eq(self, &*current), "a task replaces its own fields only");
        current
    }

    /// Swaps the current task's descriptor table.
    pub(crate) fn replace_files(&self, files: Option<Arc<Files>>) -> Option<Arc<Files>> {
        self.as_current().replace(|task| &task.files, files)
    }

    /// Swaps the current task's address space; the caller activates the new one and drops the old one.
    pub(crate) fn replace_mm(&self, mm: Option<Arc<Mm>>) -> Option<Arc<Mm>> {
        self.as_current().replace(|task| &task.mm, mm)
    }

    /// Swaps the current task's signal handlers.
    pub(crate) fn replace_handlers(&self, handlers: Arc<SigHandlers>) -> Arc<SigHandlers> {
        self.as_current().replace(|task| &task.handlers, handlers)
    }

    /// Swaps the current task's root, working directory and umask.
    pub(crate) fn replace_fs(&self, fs: Option<Arc<FsContext>>) -> Option<Arc<FsContext>> {
        self.as_current().replace(|task| &task.fs, fs)
    }

    /// Swaps the current task's namespaces.
    pub(crate) fn replace_namespaces(&self, set: Arc<NsSet>) -> Arc<NsSet> {
        self.as_current().replace(|task| &task.namespaces, set)
    }

    /// Puts new credentials of the current task in force (Linux `commit_creds`).
    pub(crate) fn commit_creds(&self, creds: Creds) {
        drop(self.as_current().replace(|task| &task.creds, Arc::new(creds)));
    }
}
