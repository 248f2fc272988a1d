//! Files as programs and as mapped memory: what exec, mmap and `/proc/PID/maps` need of a [`File`].

use alloc::sync::Arc;

use abi::Errno;
use abi::fcntl::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};

use super::mount::{Path, mnt};
use super::namei::{Last, WalkContext};
use super::{File, open};
use crate::Result;
use crate::mm::load::Attributes;
use crate::task::current;

/// Opens a program by the rules of execveat(2): relative to `dirfd`, or `dirfd` itself with AT_EMPTY_PATH.
pub fn open_exec(dirfd: i32, path: &[u8], flags: u32) -> Result<Arc<File>> {
    let task = current();
    let creds = task.creds();
    if path.is_empty() {
        if flags & AT_EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        return open::open_program_at(&place_of(dirfd)?, &creds);
    }
    let (root, cwd) = task.fs().root_and_cwd();
    let base = if dirfd == AT_FDCWD || path.starts_with(b"/") { cwd } else { place_of(dirfd)? };
    let last = if flags & AT_SYMLINK_NOFOLLOW != 0 { Last::NoFollow } else { Last::Follow };
    open::open_program(WalkContext { root: root.into(), base: base.into(), creds: &creds, resolve: 0 }, path, last)
}

/// Opens a program once more, as the current task may.
pub fn open_exec_again(file: &File) -> Result<Arc<File>> {
    open::open_program_at(&file.path, &current().creds())
}

fn place_of(fd: i32) -> Result<Path> {
    if fd == AT_FDCWD {
        return Ok(current().fs().cwd());
    }
    Ok(current().files().get_any(fd)?.path.clone())
}

impl File {
    /// Owner and mode, as execve looks at them.
    pub fn exec_attributes(&self) -> Attributes {
        let inode = self.inode();
        Attributes {
            mode: inode.mode() & 0o7777,
            uid: inode.uid(),
            gid: inode.gid(),
            // Set-user-ID counts in the caller's own mount namespace alone (Linux `mnt_may_suid`).
            nosuid: self.path.mount.flags() & mnt::NOSUID != 0
                || !self.path.mount.is_in(&current().namespaces().mount()),
        }
    }
}

/// Opens the console as descriptors 0, 1 and 2 of the first process (Linux `console_on_rootfs`). Without one the process
/// starts with none.
pub fn open_console() {
    let task = current();
    let creds = task.creds();
    let (root, base) = task.fs().root_and_cwd();
    let context = WalkContext { root: root.into(), base: base.into(), creds: &creds, resolve: 0 };
    let how = open::OpenHow::new(abi::fcntl::O_RDWR | abi::fcntl::O_NOCTTY, 0);
    let opened = how.and_then(|how| open::open(context, b"/dev/console", how, 0));
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            log::warn!("Warning: unable to open an initial console: {error}");
            return;
        }
    };
    for _ in 0..3 {
        // A fresh table has room for three.
        let _ = task.files().add(file.clone(), 0, 1024, super::fdtable::OnExec::Keep);
    }
}
