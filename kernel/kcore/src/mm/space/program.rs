//! What an address space knows of its program and a privileged process may change: where its parts are, its auxiliary
//! vector, its file (prctl(2) PR_SET_MM).

use alloc::sync::Arc;

use abi::Errno;

use super::{Marks, Mm};
use crate::Result;
use crate::fs::File;
use crate::mm::mapping::Mapping;
use crate::mm::{Backing, Vma};

impl Mm {
    /// Changes the places and the break; an error changes nothing.
    pub fn change_program(&self, change: impl FnOnce(&mut Marks, &mut u64) -> Result<()>) -> Result<()> {
        let mut space = self.lock();
        let (mut marks, mut brk) = (space.marks, space.brk);
        change(&mut marks, &mut brk)?;
        (space.marks, space.brk) = (marks, brk);
        Ok(())
    }

    /// Puts another auxiliary vector in the place of exec's.
    pub fn replace_auxv(&self, auxv: Arc<[u8]>) {
        let old = core::mem::replace(&mut self.lock().auxv, auxv);
        drop(old);
    }

    /// Whether something is mapped at `address` or above it.
    pub fn has_area_from(&self, address: u64) -> bool {
        self.areas().iter().any(|info| info.vma.end > address)
    }

    /// Names another file as the program: `EBUSY` while the old one is mapped (Linux `replace_mm_exe_file`).
    pub fn replace_exe(&self, file: Arc<File>) -> Result<()> {
        let old = self.exe().and_then(|old| File::mapping(&old).ok());
        if old.is_some_and(|old| self.areas().iter().any(|info| is_of(&info.vma, &old))) {
            return Err(Errno::EBUSY);
        }
        self.set_exe(file);
        Ok(())
    }
}

fn is_of(vma: &Vma, wanted: &Arc<Mapping>) -> bool {
    matches!(&vma.backing, Backing::File { mapping, .. } if Arc::ptr_eq(mapping, wanted))
}
