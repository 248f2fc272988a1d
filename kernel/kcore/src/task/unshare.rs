//! unshare(2): parts that a task shares with others become its own.

use alloc::sync::Arc;

use abi::Errno;
use abi::sched as c;

use super::clone::NEW_NAMESPACES;
use super::{Creds, Task, current, tree};
use crate::ns::user::UserNs;
use crate::{Result, ns};

/// What unshare(2) knows.
const KNOWN: u64 = c::CLONE_THREAD
    | c::CLONE_FS
    | c::CLONE_SIGHAND
    | c::CLONE_VM
    | c::CLONE_FILES
    | c::CLONE_SYSVSEM
    | c::CLONE_NEWUSER
    | NEW_NAMESPACES;

/// Gives the current task copies of its own, and new namespaces.
pub fn unshare(flags: u64) -> Result<()> {
    let task = current();
    let flags = with_implied(flags);
    check(&task, flags)?;
    // Prepared completely, then put in place: an error changes nothing.
    let fs = (flags & c::CLONE_FS != 0).then(|| task.fs().fork());
    let files = (flags & c::CLONE_FILES != 0).then(|| task.files().fork()).transpose()?;
    let creds = (flags & c::CLONE_NEWUSER != 0).then(|| with_user_namespace(&task)).transpose()?;
    // CLONE_NEWNS implies CLONE_FS: the copy of the root goes with the copied mounts.
    let namespaces = match flags & NEW_NAMESPACES {
        0 => None,
        wanted => {
            Some(ns::copy(&task, creds.as_ref().unwrap_or(&task.creds()), wanted, fs.as_deref().unwrap_or(&task.fs()))?)
        }
    };
    if fs.is_some() {
        drop(task.replace_fs(fs));
    }
    if files.is_some() {
        drop(task.replace_files(files));
    }
    if let Some(namespaces) = namespaces {
        drop(task.replace_namespaces(namespaces));
    }
    if let Some(creds) = creds {
        task.commit_creds(creds);
    }
    // CLONE_SYSVSEM: there are no semaphore adjustments to part with.
    Ok(())
}

/// The credentials of `task` in a new user namespace: `EPERM` also in a chroot, which it would lead out of.
pub(super) fn with_user_namespace(task: &Task) -> Result<Creds> {
    if !task.fs().root().is_same(&task.namespaces().mount().root()) {
        return Err(Errno::EPERM);
    }
    let mut creds = (*task.creds()).clone();
    UserNs::create(&mut creds)?;
    Ok(creds)
}

/// What asks for one thing asks for what it cannot be without (Linux `ksys_unshare`).
fn with_implied(mut flags: u64) -> u64 {
    if flags & c::CLONE_NEWUSER != 0 {
        flags |= c::CLONE_THREAD | c::CLONE_FS;
    }
    if flags & c::CLONE_VM != 0 {
        flags |= c::CLONE_SIGHAND;
    }
    if flags & c::CLONE_SIGHAND != 0 {
        flags |= c::CLONE_THREAD;
    }
    if flags & c::CLONE_NEWNS != 0 {
        flags |= c::CLONE_FS;
    }
    flags
}

/// Threads, handlers and memory cannot be unshared, only be unshared already (Linux `check_unshare_flags`).
fn check(task: &Task, flags: u64) -> Result<()> {
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & c::CLONE_THREAD != 0 {
        let tree = tree::lock();
        let threads = tree.find(&task.group).map_or(1, |id| tree.node(id).threads.len());
        if threads != 1 {
            return Err(Errno::EINVAL);
        }
    }
    // One reference is the task's, the other is looked at here.
    if flags & c::CLONE_SIGHAND != 0 && Arc::strong_count(&task.handlers()) > 2 {
        return Err(Errno::EINVAL);
    }
    if flags & c::CLONE_VM != 0 && task.mm().is_some_and(|mm| Arc::strong_count(&mm) > 2) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}
