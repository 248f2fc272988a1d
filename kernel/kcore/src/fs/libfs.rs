//! What file systems in memory share (Linux `fs/libfs.c`): listing the dentry tree, plain directories and texts.

use alloc::sync::Arc;

use abi::Errno;
use abi::stat::{S_IFDIR, dirent_type};

use super::file::{DirSink, File, FileOps, OpsRef};
use crate::Result;

/// Emits `.` and `..` if `*offset` is before them. `false`: the sink is full.
pub fn emit_dots(file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> bool {
    let own = file.inode().ino;
    if *offset == 0 {
        if !sink.emit(b".", own, dirent_type(S_IFDIR), 1) {
            return false;
        }
        *offset = 1;
    }
    if *offset == 1 {
        let parent = file.path.dentry.parent().map_or(own, |parent| parent.inode().ino);
        if !sink.emit(b"..", parent, dirent_type(S_IFDIR), 2) {
            return false;
        }
        *offset = 2;
    }
    true
}

/// A directory that is its dentry tree.
pub struct DcacheDir;

impl FileOps for DcacheDir {
    fn read(&self, _file: &File, _dst: &mut crate::io::IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn seek(&self, _file: &File, offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
        dir_seek(offset, change, whence)
    }

    fn iterate(&self, file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        if !emit_dots(file, sink, offset) {
            return Ok(());
        }
        let mut next = *offset;
        file.path.dentry.each_child(next, |name, child, cookie| {
            let inode = child.inode();
            let fits = sink.emit(name, inode.ino, dirent_type(inode.mode()), cookie + 1);
            if fits {
                next = cookie + 1;
            }
            fits
        });
        *offset = next;
        if !file.mode().contains(super::file::FileMode::NOATIME) {
            file.inode().touch_accessed();
        }
        Ok(())
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result<()> {
        Ok(())
    }
}

/// lseek(2) of a directory: SEEK_SET and SEEK_CUR (Linux `dcache_dir_lseek`).
pub fn dir_seek(offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
    let target = match whence {
        abi::fcntl::SEEK_SET => change,
        abi::fcntl::SEEK_CUR => offset.cast_signed().checked_add(change).ok_or(Errno::EINVAL)?,
        _ => return Err(Errno::EINVAL),
    };
    *offset = u64::try_from(target).map_err(|_| Errno::EINVAL)?;
    Ok(*offset)
}

/// The operations of [`DcacheDir`].
pub fn dcache_dir() -> OpsRef {
    OpsRef::Static(&DcacheDir)
}

/// The bytes of a text from `*offset` on into `dst`, as files of /proc are read.
pub fn read_text(text: &[u8], dst: &mut crate::io::IoDst<'_>, offset: &mut u64) -> Result<usize> {
    let start = usize::try_from(*offset).unwrap_or(usize::MAX).min(text.len());
    let done = dst.put(text.get(start..).unwrap_or(&[]))?;
    *offset += done as u64;
    Ok(done)
}

/// A shared reference to operations.
pub fn shared(ops: impl FileOps) -> OpsRef {
    OpsRef::Shared(Arc::new(ops))
}
