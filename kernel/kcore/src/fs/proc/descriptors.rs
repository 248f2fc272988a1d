//! `/proc/PID/fd` and `/proc/PID/fdinfo`.

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::Errno;
use abi::fcntl::O_CLOEXEC;
use abi::stat::{S_IFLNK, S_IFREG, dirent_type};

use super::links::{FileLink, text_file};
use super::process::{Subject, ino_of, owned_parts, parse_pid};
use super::text::{DIGITS, Text, decimal};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::file::{DirSink, File, FileMode, OffsetRule, OpsRef};
use crate::fs::inode::{Inode, InodeOps, OpenRequest};
use crate::fs::libfs;

/// Which of the two directories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `fd`: links to the files.
    Link,
    /// `fdinfo`: texts.
    Info,
}

/// Entries' inode numbers begin here, behind those of the directory's own.
const FIRST_INO: u64 = 256;

fn parse_fd(name: &[u8]) -> Option<i32> {
    if name == b"0" { Some(0) } else { parse_pid(name) }
}

/// Finds descriptor `name`: `ENOENT` when it is not open.
pub(super) fn lookup(dir: &Arc<Inode>, subject: &Subject, name: &[u8], kind: Kind) -> Result<Arc<Inode>> {
    let fd = parse_fd(name).ok_or(Errno::ENOENT)?;
    let task = subject.accessible_task()?;
    let file = task.files_if_any().ok_or(Errno::ENOENT)?.get_any(fd).map_err(|_| Errno::ENOENT)?;
    let ino = ino_of(subject.pid.global(), FIRST_INO + u64::from(fd.unsigned_abs()));
    Ok(match kind {
        Kind::Link => {
            // The link's permissions say how the file is open (proc(5)).
            let mode = file.mode();
            let read = if mode.contains(FileMode::READ) { 0o500 } else { 0 };
            let write = if mode.contains(FileMode::WRITE) { 0o300 } else { 0 };
            let mut parts = owned_parts(&task, ino, S_IFLNK | read | write);
            parts.nlink = 1;
            let inode = Inode::new(dir.sb.clone(), parts, Box::new(FileLink { subject: subject.clone(), fd }));
            // What Linux says of every such link (`proc_fd_instantiate`).
            inode.set_plain_size(64);
            inode
        }
        Kind::Info => {
            let parts = owned_parts(&task, ino, S_IFREG | 0o444);
            Inode::new(dir.sb.clone(), parts, Box::new(Info { subject: subject.clone(), fd }))
        }
    })
}

struct Info {
    subject: Subject,
    fd: i32,
}

impl InodeOps for Info {
    fn keep_dentry(&self) -> bool {
        false
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        let (subject, fd) = (self.subject.clone(), self.fd);
        subject.accessible_task()?;
        Ok(text_file(move |text| show(&subject, fd, text)))
    }
}

fn show(subject: &Subject, fd: i32, text: &mut Text) -> Result<()> {
    let files = subject.task()?.files_if_any().ok_or(Errno::ENOENT)?;
    let file = files.get_any(fd).map_err(|_| Errno::ENOENT)?;
    let position = if file.offset_rule() == OffsetRule::Seekable { *file.lock_offset() } else { 0 };
    let close = if files.on_exec(fd)? == OnExec::Close { O_CLOEXEC } else { 0 };
    let flags = file.flags() | close;
    text.str("pos:\t").num(position).str("\nflags:\t0");
    push_octal(text, flags);
    text.str("\nmnt_id:\t").num(u64::from(file.path.mount.id)).str("\nino:\t").num(file.inode().ino).byte(b'\n');
    file.ops().show_fdinfo(&file, text);
    Ok(())
}

fn push_octal(text: &mut Text, value: u32) {
    let digits = value.checked_ilog2().unwrap_or(0) / 3 + 1;
    for place in (0..digits).rev() {
        text.byte(b'0' + (value >> (place * 3) & 7) as u8);
    }
}

/// `/proc/PID/fd` or `fdinfo`, open: the offset is the descriptor plus 2.
pub(super) struct Listing(pub Subject);

impl libfs::Listing for Listing {
    fn check(&self) -> Result<()> {
        self.0.task().map(drop).map_err(|_| Errno::ENOENT)
    }

    fn list(&self, _file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        let task = self.0.task().map_err(|_| Errno::ENOENT)?;
        let Some(files) = task.files_if_any() else { return Ok(()) };
        while let Some((fd, open)) = files.next_open(usize::try_from(*offset - 2).unwrap_or(usize::MAX)) {
            drop(open);
            let at = u64::from(fd.unsigned_abs());
            let mut room = [0; DIGITS];
            let ino = ino_of(self.0.pid.global(), FIRST_INO + at);
            if !sink.emit(decimal(at, &mut room), ino, dirent_type(S_IFLNK), at + 3) {
                *offset = at + 2;
                return Ok(());
            }
            *offset = at + 3;
        }
        Ok(())
    }
}
