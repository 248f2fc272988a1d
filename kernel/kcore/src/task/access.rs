//! May this process look into that one? ptrace(2) "Ptrace access mode checking": the one check behind ptrace, process_vm_readv,
//! kcmp, pidfd_getfd and what `/proc/PID` shows to some only. [`yama`](super::yama) narrows what attaching may do.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::capability::CAP_SYS_PTRACE;

use super::{Task, current, yama};
use crate::Result;
use crate::mm::Mm;

/// What is to be done to the other process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// To look (PTRACE_MODE_READ): `/proc/PID/maps`, kcmp.
    Read,
    /// To change, or to stop (PTRACE_MODE_ATTACH): ptrace, process_vm_writev, `/proc/PID/mem`.
    Attach,
}

/// Which of the caller's ids count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Identity {
    /// File-system ids and effective capabilities (PTRACE_MODE_FSCREDS), for what is reached through a file.
    FileSystem,
    /// Real ids and permitted capabilities (PTRACE_MODE_REALCREDS), for system calls.
    Real,
}

/// PTRACE_MODE_*.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccessMode {
    /// What for.
    pub intent: Intent,
    /// As who.
    pub identity: Identity,
}

impl AccessMode {
    /// PTRACE_MODE_READ_FSCREDS.
    pub const READ_FSCREDS: Self = Self { intent: Intent::Read, identity: Identity::FileSystem };
    /// PTRACE_MODE_READ_REALCREDS.
    pub const READ_REALCREDS: Self = Self { intent: Intent::Read, identity: Identity::Real };
    /// PTRACE_MODE_ATTACH_FSCREDS.
    pub const ATTACH_FSCREDS: Self = Self { intent: Intent::Attach, identity: Identity::FileSystem };
    /// PTRACE_MODE_ATTACH_REALCREDS.
    pub const ATTACH_REALCREDS: Self = Self { intent: Intent::Attach, identity: Identity::Real };
}

/// Whether the current task may have `mode` of access to `task`; `EPERM` (Linux `__ptrace_may_access`), which the caller
/// turns into the error of its own interface.
pub fn ptrace_may_access(task: &Task, mode: AccessMode) -> Result<()> {
    let me = current();
    // Threads of one process have no secrets from each other, whatever their credentials.
    if core::ptr::eq(&*me.group, &*task.group) {
        return Ok(());
    }
    let (own, other) = (me.creds(), task.creds());
    let is_privileged = own.ns_capable(&other.user_ns, CAP_SYS_PTRACE);
    // What may be dumped is a matter of the program, and so of where that was started.
    let is_privileged_over_memory =
        task.with_mm(|mm| mm.is_none_or(|mm| own.ns_capable(&mm.user_ns(), CAP_SYS_PTRACE)));
    let (uid, gid, capabilities) = match mode.identity {
        Identity::FileSystem => (own.fsuid, own.fsgid, own.cap_effective),
        Identity::Real => (own.uid, own.gid, own.cap_permitted),
    };
    let is_same_user = [other.euid, other.suid, other.uid] == [uid; 3];
    let is_same_group = [other.egid, other.sgid, other.gid] == [gid; 3];
    // A process that changed its identity, or is not to be dumped, belongs to the privileged. One without memory
    // (a zombie) has nothing to hide.
    let is_open = task.group.dumpable.load(Ordering::Relaxed) == 1 || task.with_mm(|mm| mm.is_none());
    // Nobody reaches more capabilities through a debugger (Linux `cap_ptrace_access_check`).
    let has_no_more = other.user_ns.is_same(&own.user_ns) && other.cap_permitted & !capabilities == 0;
    let is_entitled = is_privileged || is_same_user && is_same_group && has_no_more;
    if !is_entitled || !(is_open || is_privileged_over_memory) {
        return Err(Errno::EPERM);
    }
    match mode.intent {
        Intent::Read => Ok(()),
        Intent::Attach => yama::may_attach(&me, task, is_privileged),
    }
}

/// The address space of `task`, for who may have `mode` of access to it; `EACCES` (Linux `mm_access`). `None`: a kernel thread,
/// or one that has given its memory up.
pub fn mm_access(task: &Task, mode: AccessMode) -> Result<Option<Arc<Mm>>> {
    // The memory first: exec of a program that gains something closes the process before it shows the new memory
    // (`task::exec`), so that the question is asked about what was found.
    let found = task.mm();
    let is_own = |mm: &Arc<Mm>| current().with_mm(|own| own.is_some_and(|own| Arc::ptr_eq(own, mm)));
    if found.as_ref().is_none_or(is_own) {
        return Ok(found);
    }
    ptrace_may_access(task, mode).map_err(|_| Errno::EACCES)?;
    Ok(found)
}
