//! What execve makes of credentials: set-user-ID and set-group-ID, file capabilities, and capabilities(7)
//! "Transformation of capabilities during execve()" (Linux `bprm_fill_uid`, `cap_bprm_creds_from_file`).

use alloc::sync::Arc;

use abi::Errno;
use abi::capability::CAP_SETUID;
use abi::prctl::{SECBIT_KEEP_CAPS, SECBIT_NOROOT};
use core::sync::atomic::Ordering;

use super::creds::CapSet;
use super::ptrace::attach::tracer_is_privileged;
use super::{Creds, Task, tree};
use crate::Result;
use crate::fs::File;
use crate::fs::xattr::FileCapabilities;

/// The identity of a new program.
pub struct Privileges {
    /// Its credentials.
    pub creds: Creds,
    /// What it is instead when somebody traces it who may not see more than it had (ptrace(2), "execve"; Linux
    /// LSM_UNSAFE_PTRACE).
    watched: Option<Creds>,
    /// AT_SECURE: it has more than its caller had (getauxval(3)).
    pub secure: bool,
}

impl Privileges {
    /// The credentials, as the tracer of `task` bids. With the tree locked no tracer comes or goes.
    pub fn creds_for(&self, task: &Task) -> &Creds {
        self.watched.as_ref().filter(|_| !tracer_is_privileged(task, &self.creds.user_ns)).unwrap_or(&self.creds)
    }
}

/// What the program's file adds.
struct FileRights {
    permitted: CapSet,
    /// The permitted set becomes effective.
    effective: bool,
    /// The file has a capability attribute.
    has_capabilities: bool,
}

/// What `task` becomes by running `file`. `EPERM`: the file has capabilities that must be effective, and the bounding set
/// lacks one of them.
pub fn for_program(task: &Task, old: &Creds, file: &File) -> Result<Privileges> {
    let mut new = old.clone();
    let attributes = file.exec_attributes();
    let no_new_privs = task.no_new_privs.load(Ordering::Relaxed);
    if !no_new_privs && !attributes.nosuid {
        // Only for ids that have numbers in the user namespace (Linux `bprm_fill_uid`).
        let is_known = old.user_ns.uid(attributes.uid).is_some() && old.user_ns.gid(attributes.gid).is_some();
        if is_known && attributes.mode & 0o4000 != 0 {
            new.euid = attributes.uid;
        }
        // S_ISGID without group execution means mandatory locking, not set-group-ID.
        if is_known && attributes.mode & 0o2010 == 0o2010 {
            new.egid = attributes.gid;
        }
    }
    let capabilities = if attributes.nosuid { None } else { FileCapabilities::of(file.inode())? };
    let mut rights = file_rights(old, capabilities)?;
    add_roots_rights(&new, old, &mut rights);
    new.cap_permitted = rights.permitted;
    // Compared with the real ids: who was set-user-ID before and runs another such program is so still.
    let is_set_id = new.euid != old.uid || new.egid != old.gid;
    let gains = new.cap_permitted & !old.cap_permitted != 0;
    let is_more = is_set_id || gains;
    let drops_ids = no_new_privs || !old.own_capable(CAP_SETUID);
    let watched = is_more.then(|| finish(no_more_than(&new, old, drops_ids), is_set_id, &rights));
    let is_unsafe = is_more && (no_new_privs || shares_directory(task));
    let new = finish(if is_unsafe { no_more_than(&new, old, drops_ids) } else { new }, is_set_id, &rights);
    let more_than_ambient = new.cap_permitted & !new.cap_ambient != 0;
    let secure = is_set_id || Some(new.uid) != old.root_uid() && (rights.effective || more_than_ambient);
    Ok(Privileges { creds: new, watched, secure })
}

/// No more than it had, and maybe less.
fn no_more_than(wanted: &Creds, old: &Creds, drops_ids: bool) -> Creds {
    let mut new = wanted.clone();
    if drops_ids {
        new.euid = new.uid;
        new.egid = new.gid;
    }
    new.cap_permitted &= old.cap_permitted;
    new
}

/// What follows from the effective ids and the permitted capabilities.
fn finish(mut new: Creds, is_set_id: bool, rights: &FileRights) -> Creds {
    (new.suid, new.fsuid) = (new.euid, new.euid);
    (new.sgid, new.fsgid) = (new.egid, new.egid);
    if rights.has_capabilities || is_set_id {
        new.cap_ambient = 0;
    }
    new.cap_permitted |= new.cap_ambient;
    new.cap_effective = if rights.effective { new.cap_permitted } else { new.cap_ambient };
    new.securebits &= !SECBIT_KEEP_CAPS;
    new
}

/// P'(permitted) = (F(permitted) & P(bounding)) | (F(inheritable) & P(inheritable)), still without ambient ones.
fn file_rights(old: &Creds, capabilities: Option<FileCapabilities>) -> Result<FileRights> {
    let Some(file) = capabilities else {
        return Ok(FileRights { permitted: 0, effective: false, has_capabilities: false });
    };
    let permitted = old.cap_bounding & file.permitted | old.cap_inheritable & file.inheritable;
    // A program that does not know of capabilities would run without what it needs (capabilities(7), "Safety checking for
    // capability-dumb binaries").
    if file.effective && file.permitted & !permitted != 0 {
        return Err(Errno::EPERM);
    }
    Ok(FileRights { permitted, effective: file.effective, has_capabilities: true })
}

/// "Capabilities and execution of programs by root": root's programs have all capabilities, unless SECBIT_NOROOT; a
/// set-user-ID-root program with capabilities of its own has just those.
fn add_roots_rights(new: &Creds, old: &Creds, rights: &mut FileRights) {
    let root = old.root_uid();
    let (is_real_root, is_root) = (Some(new.uid) == root, Some(new.euid) == root);
    if old.securebits & SECBIT_NOROOT != 0 || rights.has_capabilities && !is_real_root && is_root {
        return;
    }
    if is_root || is_real_root {
        rights.permitted = old.cap_bounding | old.cap_inheritable;
    }
    if is_root {
        rights.effective = true;
    }
}

/// Whether somebody outside the process shares root and working directory and could move them under the new program
/// (LSM_UNSAFE_SHARE; Linux `check_unsafe_exec`).
fn shares_directory(task: &Task) -> bool {
    let fs = task.fs();
    let tree = tree::lock();
    let is_same = |thread: &&Arc<Task>| thread.fs_if_any().is_some_and(|other| Arc::ptr_eq(&other, &fs));
    let own = tree.find(&task.group).map_or(1, |id| tree.node(id).threads.iter().filter(is_same).count());
    // One reference is this variable.
    Arc::strong_count(&fs) - 1 > own
}
