//! Root, working directory and umask of a task (Linux `fs_struct`), shared by CLONE_FS.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use hal::sync::SpinLock;

use super::mount::{self, Path};
use crate::sync::order;

struct Places {
    root: Path,
    cwd: Path,
}

/// Where paths start, and the umask.
pub struct FsContext {
    places: SpinLock<Places>,
    umask: AtomicU32,
}

impl FsContext {
    /// Root and working directory at `root`, umask 022.
    pub fn new(root: Path) -> Arc<Self> {
        let places = Places { cwd: root.clone(), root };
        Arc::new(Self { places: SpinLock::new(order::FS_CONTEXT, places), umask: AtomicU32::new(0o022) })
    }

    /// At the root of the initial mount namespace, as the first process starts.
    pub fn initial() -> Arc<Self> {
        Self::new(mount::initial_namespace().root())
    }

    /// A copy for a child without CLONE_FS.
    pub fn fork(&self) -> Arc<Self> {
        let places = {
            let places = self.places.lock();
            Places { root: places.root.clone(), cwd: places.cwd.clone() }
        };
        Arc::new(Self { places: SpinLock::new(order::FS_CONTEXT, places), umask: AtomicU32::new(self.umask()) })
    }

    /// The root directory.
    #[inline]
    pub fn root(&self) -> Path {
        self.places.lock().root.clone()
    }

    /// The working directory.
    #[inline]
    pub fn cwd(&self) -> Path {
        self.places.lock().cwd.clone()
    }

    /// Both at one moment.
    #[inline]
    pub fn root_and_cwd(&self) -> (Path, Path) {
        let places = self.places.lock();
        (places.root.clone(), places.cwd.clone())
    }

    /// Changes the root directory.
    pub fn set_root(&self, root: Path) {
        let old = core::mem::replace(&mut self.places.lock().root, root);
        drop(old);
    }

    /// Changes the working directory.
    pub fn set_cwd(&self, cwd: Path) {
        let old = core::mem::replace(&mut self.places.lock().cwd, cwd);
        drop(old);
    }

    /// Goes to `new` with what is at `old` (pivot_root(2)).
    pub fn move_root(&self, old: &Path, new: &Path) {
        let mut gone = (None, None);
        let mut places = self.places.lock();
        if places.root.is_same(old) {
            gone.0 = Some(core::mem::replace(&mut places.root, new.clone()));
        }
        if places.cwd.is_same(old) {
            gone.1 = Some(core::mem::replace(&mut places.cwd, new.clone()));
        }
        drop(places);
        drop(gone);
    }

    /// The umask.
    #[inline]
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets the umask; returns the old one.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }
}
