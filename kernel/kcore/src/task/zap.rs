//! The end of a PID namespace: when its init ends, everybody in it does (pid_namespaces(7); Linux `zap_pid_ns_processes`).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::signal as s;
use abi::signal::{SIGCHLD, SIGKILL, SigInfo, Sigaction};
use abi::wait::{__WALL, WEXITED};
use hal::thread::work;

use super::wait::{self, Which};
use super::{Task, tree};
use crate::signal;

/// Kills all other processes in the namespace whose init `task`, the current one, was the last thread of, and returns when
/// they are gone. No process comes in any more.
pub(super) fn end_namespace(task: &Task) {
    let space = task.group.pid.namespace().clone();
    space.close();
    // Who ends from now on needs no waiting for.
    let ignore = Sigaction { handler: s::SIG_IGN, ..Sigaction::default() };
    task.with_handlers(|handlers| handlers.set(SIGCHLD, ignore));
    {
        let tree = tree::lock();
        let is_in = |id: &tree::NodeId| {
            let group = &tree.node(*id).group;
            !Arc::ptr_eq(group, &task.group) && group.pid.number_in(&space) != 0
        };
        for id in tree.processes().filter(is_in) {
            // SIGKILL of the kernel needs no room in a queue.
            let _ = signal::send::process_with_tree(&tree, &tree.node(id).group, &SigInfo::kernel(SIGKILL));
        }
    }
    loop {
        // What ended init is still pending, and must not end these waits.
        task.thread.work().fetch_and(!work::SIGNAL, Ordering::SeqCst);
        match wait::wait(&Which::Any, __WALL | WEXITED) {
            Ok(_) => {}
            Err(abi::Errno::ERESTARTSYS | abi::Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    // Those that came in by setns(2) have parents outside, who wait for them. The leader stays until it is waited for.
    space.wait_for_threads(if task.is_leader() { 1 } else { 2 });
}
