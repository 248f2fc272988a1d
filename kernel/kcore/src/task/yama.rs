//! Yama: which processes may be debugged by whom, beyond the question of identity (`/proc/sys/kernel/yama/ptrace_scope`,
//! prctl(2) PR_SET_PTRACER; Documentation/admin-guide/LSM/Yama.rst). The scope begins with 0, as in Debian.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::capability::CAP_SYS_PTRACE;

use super::tree::{self, NO_NODE, Tree};
use super::{Task, ThreadGroup, current};
use crate::Result;

/// Whoever has the same identity may attach.
const SCOPE_CLASSIC: u32 = 0;
/// Only an ancestor, or whom the process named by PR_SET_PTRACER.
const SCOPE_RELATIONAL: u32 = 1;
/// Only with CAP_SYS_PTRACE.
const SCOPE_CAPABILITY: u32 = 2;
/// Nobody, until the next boot.
const SCOPE_NO_ATTACH: u32 = 3;

hal::global! {
    static SCOPE: AtomicU32 = AtomicU32::new(SCOPE_CLASSIC);
}

/// Whom a process lets attach beside its ancestors (PR_SET_PTRACER). A new process has [`Allowed::Nobody`].
#[derive(Clone, Default)]
pub enum Allowed {
    /// Nobody.
    #[default]
    Nobody,
    /// PR_SET_PTRACER_ANY.
    Anybody,
    /// This process and its descendants, while it lives.
    Process(Weak<ThreadGroup>),
}

/// `/proc/sys/kernel/yama/ptrace_scope`.
pub fn scope() -> u32 {
    SCOPE.load(Ordering::Relaxed)
}

/// Sets it. `EPERM` without CAP_SYS_PTRACE; `EINVAL` for what is no scope, and for every way back from "nobody" (Linux
/// `yama_dointvec_minmax`).
pub fn set_scope(scope: u32) -> Result<()> {
    if !current().capable(CAP_SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    if scope > SCOPE_NO_ATTACH || self::scope() == SCOPE_NO_ATTACH && scope != SCOPE_NO_ATTACH {
        return Err(Errno::EINVAL);
    }
    SCOPE.store(scope, Ordering::Relaxed);
    Ok(())
}

/// PR_SET_PTRACER of the current process: 0 takes the permission back, PR_SET_PTRACER_ANY (-1) gives it to all. `EINVAL`: no
/// such process.
pub fn set_ptracer(argument: u64) -> Result<()> {
    // Linux looks at the low half alone, but for zero.
    let allowed = match argument as u32 {
        _ if argument == 0 => Allowed::Nobody,
        u32::MAX => Allowed::Anybody,
        pid => {
            let named = super::find(pid.cast_signed()).ok_or(Errno::EINVAL)?;
            Allowed::Process(Arc::downgrade(&named.group))
        }
    };
    // The old one is dropped without the lock.
    let old = core::mem::replace(&mut *current().group.ptracer.lock(), allowed);
    drop(old);
    Ok(())
}

/// Whether `tracer`, whose identity allows it, may attach to `task` (Linux `yama_ptrace_access_check`).
pub(super) fn may_attach(tracer: &Task, task: &Task, is_privileged: bool) -> Result<()> {
    let allowed = match scope() {
        SCOPE_CLASSIC => true,
        SCOPE_RELATIONAL => is_privileged || is_related(tracer, task),
        SCOPE_CAPABILITY => is_privileged,
        _ => false,
    };
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

/// Whether the parent may be made a tracer by PTRACE_TRACEME (Linux `yama_ptrace_traceme`).
pub fn may_be_traced_by(parent: &Task) -> Result<()> {
    match scope() {
        SCOPE_CLASSIC | SCOPE_RELATIONAL => Ok(()),
        SCOPE_CAPABILITY if parent.capable(CAP_SYS_PTRACE) => Ok(()),
        _ => Err(Errno::EPERM),
    }
}

fn is_related(tracer: &Task, task: &Task) -> bool {
    // Who traces it already may do the rest, too (process_vm_readv).
    if task.ptrace.tracer().is_some_and(|present| core::ptr::eq(&*present.group, &*tracer.group)) {
        return true;
    }
    let allowed = task.group.ptracer.lock().clone();
    // Looked up before, and so dropped after, the tree is locked.
    let named = match &allowed {
        Allowed::Process(group) => group.upgrade(),
        _ => None,
    };
    let tree = tree::lock();
    if is_descendant(&tree, &tracer.group, &task.group) {
        return true;
    }
    match allowed {
        Allowed::Nobody => false,
        Allowed::Anybody => true,
        Allowed::Process(_) => named.as_ref().is_some_and(|named| is_descendant(&tree, named, &tracer.group)),
    }
}

/// Whether `group` is `ancestor` or descends from it (Linux `task_is_descendant`).
fn is_descendant(tree: &Tree, ancestor: &ThreadGroup, group: &ThreadGroup) -> bool {
    let Some(mut at) = tree.find(group) else { return false };
    while at != NO_NODE {
        let node = tree.node(at);
        if core::ptr::eq(&*node.group, ancestor) {
            return true;
        }
        at = node.parent;
    }
    false
}
