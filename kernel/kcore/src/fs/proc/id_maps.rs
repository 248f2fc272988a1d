//! `/proc/PID/uid_map`, `gid_map`, `projid_map` and `setgroups`: user_namespaces(7). An open one speaks of the user namespace
//! that the process had when it was opened; who opened it counts for what is written.

use alloc::vec::Vec;

use abi::Errno;
use abi::capability::CAP_SYS_ADMIN;

use super::process::Subject;
use super::read_made;
use super::text::Text;
use crate::Result;
use crate::fs::file::{File, FileOps, OpsRef};
use crate::fs::inode::OpenRequest;
use crate::fs::libfs::shared;
use crate::io::{IoDst, IoSrc};
use crate::ns::user::{MapKind, UserNs};
use crate::sync::Mutex;
use crate::task::{Creds, current};

/// Which file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Member {
    /// One of the maps.
    Map(MapKind),
    /// `setgroups`.
    SetGroups,
}

struct OpenMember {
    member: Member,
    space: UserNs,
    opener: Creds,
    text: Mutex<Vec<u8>>,
}

/// Opens a member: `EINVAL` for a process that is gone, `EACCES` for writing setgroups without CAP_SYS_ADMIN there.
pub(super) fn open(subject: &Subject, member: Member, request: &OpenRequest<'_>) -> Result<OpsRef> {
    let space = subject.task().map_err(|_| Errno::EINVAL)?.creds().user_ns.clone();
    let writes = request.flags & abi::fcntl::O_ACCMODE != abi::fcntl::O_RDONLY;
    if member == Member::SetGroups && writes && !request.creds.ns_capable(&space, CAP_SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    Ok(shared(OpenMember { member, space, opener: request.creds.clone(), text: Mutex::new(Vec::new()) }))
}

impl OpenMember {
    fn show(&self, text: &mut Text) -> Result<()> {
        match self.member {
            Member::Map(kind) => {
                self.space.show_map(kind, &self.opener.user_ns, text).map_err(|_| Errno::ENOMEM)?;
            }
            Member::SetGroups => {
                text.str(if self.space.allows_setgroups() { "allow\n" } else { "deny\n" });
            }
        }
        Ok(())
    }
}

impl FileOps for OpenMember {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
        read_made(&self.text, dst, offset, |text| self.show(text))
    }

    /// Takes the whole in one write: `EINVAL` at another offset than 0, and for a page or more.
    fn write(&self, _file: &File, src: &mut IoSrc<'_>, offset: &mut u64) -> Result<usize> {
        let length = src.remaining();
        if *offset != 0 || length >= hal::mem::PAGE_SIZE {
            return Err(Errno::EINVAL);
        }
        let mut bytes = alloc::vec![0; length];
        let taken = src.take(&mut bytes)?;
        let bytes = &bytes[..taken];
        match self.member {
            Member::Map(kind) => self.space.write_map(kind, bytes, &self.opener, &current().creds())?,
            Member::SetGroups => self.space.set_setgroups(allows(bytes)?)?,
        }
        *offset += taken as u64;
        Ok(taken)
    }
}

/// What was written to setgroups: "allow" or "deny", and white space behind it (Linux `proc_setgroups_write`).
fn allows(text: &[u8]) -> Result<bool> {
    match text.trim_ascii_end() {
        b"allow" if text.len() < 8 => Ok(true),
        b"deny" if text.len() < 8 => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}
