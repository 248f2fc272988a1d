//! `/proc/PID/map_files`: a link `start-end` for each mapped file (proc(5)).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::capability::{CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN};
use abi::stat::{S_IFLNK, dirent_type};

use super::process::{Subject, ino_of, owned_parts};
use super::text::Text;
use crate::Result;
use crate::fs::file::{DirSink, File, OpsRef};
use crate::fs::inode::{Inode, InodeOps, LinkTarget, OpenRequest};
use crate::fs::libfs;
use crate::fs::mount::Path;
use crate::mm::Backing;
use crate::task::current;

/// Inode numbers begin here, behind those of descriptors.
const FIRST_INO: u64 = 1 << 22;

/// The areas of files, by address, with where they were opened.
fn areas(subject: &Subject) -> Result<Vec<(u64, u64, u32, Path)>> {
    let Some(mm) = subject.accessible_task()?.mm() else { return Ok(Vec::new()) };
    let file_of = |area: crate::mm::VmaInfo| match &area.vma.backing {
        Backing::File { file, .. } => {
            let rights = if area.vma.protection.read { 0o500 } else { 0 };
            let rights = rights | if area.vma.protection.write { 0o300 } else { 0 };
            file.path().map(|path| (area.vma.start, area.vma.end, rights, path))
        }
        _ => None,
    };
    Ok(mm.areas().into_iter().filter_map(file_of).collect())
}

fn name_of(start: u64, end: u64) -> Vec<u8> {
    let mut text = Text::new();
    text.hex(start, 0).byte(b'-').hex(end, 0);
    text.into_bytes()
}

/// Two hexadecimal addresses without leading zeros.
fn parse(name: &[u8]) -> Option<(u64, u64)> {
    let (start, end) = core::str::from_utf8(name).ok()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    (name_of(start, end) == name).then_some((start, end))
}

/// Finds the area with exactly these bounds.
pub(super) fn lookup(dir: &Arc<Inode>, subject: &Subject, name: &[u8]) -> Result<Arc<Inode>> {
    let bounds = parse(name).ok_or(Errno::ENOENT)?;
    let found = areas(subject)?.into_iter().enumerate().find(|(_, (start, end, ..))| (*start, *end) == bounds);
    let (index, (_, _, rights, place)) = found.ok_or(Errno::ENOENT)?;
    let ino = ino_of(subject.pid.global(), FIRST_INO + index as u64);
    let parts = owned_parts(&*subject.task()?, ino, S_IFLNK | rights);
    let inode = Inode::new(dir.sb.clone(), parts, Box::new(MapLink { place }));
    inode.set_plain_size(64);
    Ok(inode)
}

struct MapLink {
    place: Path,
}

impl InodeOps for MapLink {
    /// It leads past all directories above the file, so it is not for everybody (Linux `proc_map_files_get_link`).
    fn follow_link(&self, _inode: &Arc<Inode>) -> Result<LinkTarget> {
        if !current().capable(CAP_SYS_ADMIN) && !current().capable(CAP_CHECKPOINT_RESTORE) {
            return Err(Errno::EPERM);
        }
        Ok(LinkTarget::Jump(self.place.clone()))
    }

    fn readlink(&self, _inode: &Arc<Inode>) -> Result<Arc<[u8]>> {
        super::links::text(&self.place)
    }

    fn keep_dentry(&self) -> bool {
        false
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Err(Errno::ELOOP)
    }
}

/// The directory, open.
pub(super) struct Listing(pub Subject);

impl libfs::Listing for Listing {
    fn list(&self, _file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        libfs::emit_indexed(areas(&self.0)?, sink, offset, |sink, index, (start, end, ..), next| {
            let ino = ino_of(self.0.pid.global(), FIRST_INO + index as u64);
            sink.emit(&name_of(start, end), ino, dirent_type(S_IFLNK), next)
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{name_of, parse};

    #[test]
    fn names_are_two_addresses_as_linux_writes_them() {
        assert_eq!(name_of(0x40_0000, 0x40_1000), b"400000-401000");
        assert_eq!(parse(b"400000-401000"), Some((0x40_0000, 0x40_1000)));
        for bad in [&b"0400000-401000"[..], b"400000", b"-", b"400000-40100g", b"+1-2"] {
            assert_eq!(parse(bad), None);
        }
    }
}
