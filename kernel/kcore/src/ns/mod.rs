//! Namespaces: namespaces(7). A task holds one [`NsSet`]; the objects exist once today, and the set is ready for more.

pub mod uts;

use alloc::sync::Arc;

use crate::task::{Pid, PidNamespace};
use uts::UtsNamespace;

/// The namespaces of a task.
pub struct NsSet {
    pid: Arc<PidNamespace>,
    uts: Arc<UtsNamespace>,
}

impl NsSet {
    /// The PID namespace that the task's children are numbered in.
    pub fn pid(&self) -> &Arc<PidNamespace> {
        &self.pid
    }

    /// The PID namespace in which numbers from user space are looked up.
    pub fn pid_for_lookup(&self) -> &Arc<PidNamespace> {
        &self.pid
    }

    /// Host and domain name.
    pub fn uts(&self) -> &Arc<UtsNamespace> {
        &self.uts
    }
}

hal::global! {
    static INITIAL: spin::Once<Arc<NsSet>> = spin::Once::new();
    static NO_PID: spin::Once<Arc<Pid>> = spin::Once::new();
}

/// The namespaces of the first process.
pub fn initial() -> Arc<NsSet> {
    let make = || Arc::new(NsSet { pid: PidNamespace::initial(), uts: UtsNamespace::initial() });
    INITIAL.call_once(make).clone()
}

/// The initial PID namespace.
pub fn initial_pid_namespace() -> Arc<PidNamespace> {
    initial().pid().clone()
}

/// The identity that nothing is found by: PID 0, group and session of kernel threads.
pub fn no_pid() -> Arc<Pid> {
    NO_PID.call_once(|| Pid::idle(initial().pid())).clone()
}
