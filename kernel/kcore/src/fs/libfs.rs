//! What file systems in memory share (Linux `fs/libfs.c`): listing the dentry tree, plain directories and texts.

use alloc::sync::Arc;

use abi::Errno;
use abi::stat::{S_IFDIR, dirent_type};

use super::file::{DirSink, File, FileOps, OpsRef};
use crate::Result;

/// What an open directory has beside `.` and `..`.
pub trait Listing: Send + Sync + 'static {
    /// The directory may have lost its subject since it was opened.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Lists from `*offset`, 2 or more, on and advances it, as [`FileOps::iterate`].
    fn list(&self, file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()>;
}

/// An open directory that is made of its listing.
pub struct OpenDir<T>(pub T);

impl<T: Listing> FileOps for OpenDir<T> {
    fn read(&self, _file: &File, _dst: &mut crate::io::IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn seek(&self, _file: &File, offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
        dir_seek(offset, change, whence)
    }

    fn iterate(&self, file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        self.0.check()?;
        if emit_dots(file, sink, offset) { self.0.list(file, sink, offset) } else { Ok(()) }
    }
}

/// Emits the members of a listing by their index, the first at offset 2. `emit` gets the index, the member and the offset
/// behind it, and says whether the sink took it. `false`: the sink is full.
pub fn emit_indexed<T>(
    members: impl IntoIterator<Item = T>,
    sink: &mut dyn DirSink,
    offset: &mut u64,
    mut emit: impl FnMut(&mut dyn DirSink, usize, T, u64) -> bool,
) -> bool {
    let first = usize::try_from(*offset - 2).unwrap_or(usize::MAX);
    for (index, member) in members.into_iter().enumerate().skip(first) {
        let next = index as u64 + 3;
        if !emit(sink, index, member, next) {
            return false;
        }
        *offset = next;
    }
    true
}

/// Emits `.` and `..` if `*offset` is before them. `false`: the sink is full.
fn emit_dots(file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> bool {
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
fn dir_seek(offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
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
