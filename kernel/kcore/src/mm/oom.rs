//! Out of memory: a page that a program needs has no frame. The process that uses most is killed, never init, as by Linux's
//! OOM killer (`mm/oom_kill.c`); `/proc/PID/oom_score_adj` shifts the choice.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::signal::SIGKILL;

use super::frame;
use crate::sched::psi;
use crate::sync;
use crate::task::{Task, TaskState, tree};
use crate::{signal, time};

/// `oom_score_adj` that exempts a process (OOM_SCORE_ADJ_MIN).
const EXEMPT: i32 = -1000;
/// How long a faulting task waits for the victim's memory, ns.
const PATIENCE_NS: u64 = 10_000_000;

hal::global! {
    /// `/proc/sys/vm/panic_on_oom`.
    pub static PANIC_ON_OOM: AtomicU32 = AtomicU32::new(0);
    /// `/proc/sys/vm/oom_kill_allocating_task`.
    pub static KILL_ALLOCATING_TASK: AtomicU32 = AtomicU32::new(0);
}

/// Kills the process that is worst by [`badness`] and lets it give its memory back. With nobody to kill, waits.
pub fn kill_a_process(faulting: &Task) {
    assert!(PANIC_ON_OOM.load(Ordering::Relaxed) == 0, "Out of memory: system-wide panic_on_oom is enabled");
    let _stall = psi::Stall::begin();
    // Somebody is on its way out already: its memory may be enough.
    let candidates = candidates();
    let dying = candidates.iter().any(|task| task.group.signals.exiting().is_some());
    // `oom_kill_allocating_task`: no search.
    let asked = KILL_ALLOCATING_TASK.load(Ordering::Relaxed) != 0;
    let may_be_victim = |task: &&Arc<Task>| !asked || Arc::ptr_eq(&task.group, &faulting.group);
    let worst =
        candidates.iter().filter(may_be_victim).map(|task| (badness(task), task)).max_by_key(|(points, _)| *points);
    if let Some((points, victim)) = worst.filter(|(points, _)| *points > 0 && !dying) {
        log::error!(
            "Out of memory: Killed process {} ({}) total-rss:{}kB, UID:{} oom_score_adj:{}",
            victim.tgid(),
            victim.comm(),
            points * 4,
            victim.creds().uid,
            victim.group.oom_score_adj.load(Ordering::Relaxed)
        );
        signal::send_kernel(&victim.group, SIGKILL);
    }
    if faulting.group.signals.exiting().is_none() {
        // Only a fatal signal ends the wait early, and then the fault does not matter any more.
        let _ = sync::sleep_until(TaskState::Killable, time::monotonic_ns() + PATIENCE_NS);
    }
}

/// A thread of every process that may be killed.
fn candidates() -> Vec<Arc<Task>> {
    let tree = tree::lock();
    let first = |id| tree.node(id).threads.first().cloned();
    let killable = |task: &Arc<Task>| task.group.pid.own_number() != 1 && !task.is_kernel_thread();
    tree.processes().filter_map(first).filter(killable).collect()
}

/// Resident pages, shifted by `oom_score_adj` thousandths of all memory; 0 for who is exempt or has nothing.
fn badness(task: &Task) -> u64 {
    let adjust = task.group.oom_score_adj.load(Ordering::Relaxed);
    let Some(mm) = task.mm().filter(|_| adjust > EXEMPT) else { return 0 };
    let resident = i64::try_from(mm.counters().resident).unwrap_or(i64::MAX);
    let shift = i64::from(adjust) * i64::try_from(frame::managed_count()).unwrap_or(i64::MAX) / 1000;
    u64::try_from(resident.saturating_add(shift)).unwrap_or(0)
}
