//! Files as programs and as mapped memory: what exec, mmap and `/proc/PID/maps` need of a [`File`].

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::fcntl::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};

use super::file::FileMode;
use super::mount::{Path, mnt};
use super::namei::{self, Last, WalkContext};
use super::{File, open};
use crate::Result;
use crate::mm::load::Attributes;
use crate::mm::{MappedFile, Mapping};
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
    open::open_program(WalkContext { root, base, creds: &creds, resolve: 0 }, path, last)
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
            nosuid: self.path.mount.flags() & mnt::NOSUID != 0,
        }
    }
}

impl MappedFile for File {
    fn mapping(&self) -> Arc<Mapping> {
        // Asked only of files that were mapped, which had one.
        File::mapping(self).unwrap_or_else(|_| Mapping::new())
    }

    fn name(&self) -> Vec<u8> {
        namei::display_path(&self.path, None)
    }

    fn device_and_inode(&self) -> (u32, u32, u64) {
        let (major, minor) = abi::stat::split_encoded_dev(self.inode().sb.dev);
        (major, minor, self.inode().ino)
    }

    fn readable(&self) -> bool {
        self.mode().contains(FileMode::READ)
    }

    fn writable(&self) -> bool {
        self.mode().contains(FileMode::WRITE)
    }

    fn executable(&self) -> bool {
        self.path.mount.flags() & mnt::NOEXEC == 0
    }
}
