//! The mount tables of `/proc/PID`: mounts, mountinfo, mountstats. An open one speaks of the namespace and the root directory
//! that the process had when it was opened, and tells a poll of changes (proc(5)).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::poll::{POLLERR, POLLIN, POLLPRI, POLLRDNORM};

use super::process::Subject;
use super::read_made;
use super::text::Text;
use crate::Result;
use crate::fs::file::{File, FileOps, OpsRef};
use crate::fs::libfs::shared;
use crate::fs::mount::{self, MountNamespace, Path};
use crate::fs::namei::display_path;
use crate::fs::poll::{PollTable, watch_all};
use crate::io::IoDst;
use crate::sync::Mutex;

/// Which table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Table {
    /// `mounts`.
    Mounts,
    /// `mountinfo`.
    Info,
    /// `mountstats`.
    Statistics,
}

struct OpenTable {
    table: Table,
    namespace: Arc<MountNamespace>,
    root: Path,
    text: Mutex<Vec<u8>>,
    /// The changes that the reader knows of.
    seen: AtomicU64,
}

/// Opens a table: `EINVAL` for a process that has given its namespaces up, `ENOENT` for one without a root directory
/// (Linux `mounts_open_common`).
pub(super) fn open(subject: &Subject, table: Table) -> Result<OpsRef> {
    let task = subject.task().map_err(|_| Errno::EINVAL)?;
    let root = task.fs_if_any().ok_or(Errno::ENOENT)?.root();
    let namespace = task.namespaces().mount();
    let seen = AtomicU64::new(namespace.events().0);
    Ok(shared(OpenTable { table, namespace, root, text: Mutex::new(Vec::new()), seen }))
}

impl OpenTable {
    fn show(&self, text: &mut Text) -> Result<()> {
        match self.table {
            Table::Mounts => mount::show_mounts(&self.namespace, &self.root, text).map_err(|_| Errno::ENOMEM),
            Table::Info => mount::show_mountinfo(&self.namespace, &self.root, text).map_err(|_| Errno::ENOMEM),
            Table::Statistics => {
                self.show_statistics(text);
                Ok(())
            }
        }
    }

    /// No file system keeps statistics, so each line names only what is mounted where.
    fn show_statistics(&self, text: &mut Text) {
        for mount in self.namespace.mounts() {
            let special = b" \t\n#";
            text.str("device ").escaped(&mount.source, special).str(" mounted on ");
            text.escaped(&display_path(&mount.root_path(), Some(&self.root)), special);
            text.str(" with fstype ").str(mount.sb.fs_type.name).byte(b'\n');
        }
    }
}

impl FileOps for OpenTable {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
        read_made(&self.text, dst, offset, |text| self.show(text))
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        let (now, changed) = self.namespace.events();
        watch_all(table, &[changed]);
        let is_new = self.seen.swap(now, Ordering::Relaxed) != now;
        POLLIN | POLLRDNORM | if is_new { POLLERR | POLLPRI } else { 0 }
    }
}
