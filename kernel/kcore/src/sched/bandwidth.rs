//! Which deadline tasks are let in: the sum of their bandwidths, runtime over period, stays within the real-time share of
//! the CPUs (sched(7), Linux `__dl_overflow`).

use hal::sync::IrqLock;

use super::deadline::Request;
use super::realtime;
use crate::Result;
use crate::sync::order;
use crate::task::Task;
use abi::Errno;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Bits of fraction of a bandwidth (Linux `BW_SHIFT`).
const SHIFT: u32 = 20;
/// A whole CPU.
const ONE: u64 = 1 << SHIFT;
/// The least runtime, ns: what the arithmetic resolves (Linux `DL_SCALE`).
const LEAST_RUNTIME_NS: u64 = 1 << 10;

hal::global! {
    static TOTAL: IrqLock<u64> = IrqLock::new(order::RUN_QUEUE_STATS, 0);
    /// `/proc/sys/kernel/sched_deadline_period_max_us`; `sched_deadline_period_min_us` is beside it.
    pub static PERIOD_MAX_US: AtomicU32 = AtomicU32::new(1 << 22);
    /// Its lower bound.
    pub static PERIOD_MIN_US: AtomicU32 = AtomicU32::new(100);
}

/// Runtime over period.
pub fn of(request: &Request) -> u64 {
    ratio(request.runtime_ns, request.period_ns)
}

fn ratio(runtime: u64, period: u64) -> u64 {
    let ratio = (u128::from(runtime) << SHIFT).checked_div(u128::from(period));
    ratio.and_then(|ratio| u64::try_from(ratio).ok()).unwrap_or(0)
}

/// The share of a CPU that deadline tasks may have; `None`: there is no limit.
fn limit(runtime_us: i32, period_us: u32) -> Option<u64> {
    u64::try_from(runtime_us).ok().map(|runtime| ratio(runtime, u64::from(period_us)))
}

fn current_limit() -> Option<u64> {
    limit(realtime::RUNTIME_US.load(Relaxed), realtime::PERIOD_US.load(Relaxed))
}

/// Whether the limit is in force (Linux `dl_bandwidth_enabled`).
pub fn is_limited() -> bool {
    current_limit().is_some()
}

/// Whether the limit leaves nothing (`rt_runtime_us` is 0).
pub fn is_closed() -> bool {
    current_limit() == Some(0)
}

/// Refuses a request that cannot be meant (Linux `__checkparam_dl`). Returns it with its period filled in.
pub fn check(request: Request) -> Result<Request> {
    let period_ns = if request.period_ns == 0 { request.deadline_ns } else { request.period_ns };
    let in_order = request.runtime_ns <= request.deadline_ns && request.deadline_ns <= period_ns;
    let in_range = request.runtime_ns >= LEAST_RUNTIME_NS && request.deadline_ns > 0 && period_ns >> 63 == 0;
    let least = u64::from(PERIOD_MIN_US.load(Relaxed)) * 1000;
    let most = u64::from(PERIOD_MAX_US.load(Relaxed)) * 1000;
    if !in_order || !in_range || !(least..=most).contains(&period_ns) {
        return Err(Errno::EINVAL);
    }
    Ok(Request { period_ns, ..request })
}

/// Exchanges the bandwidth `old` for `new` in the account. `EBUSY` when that does not fit.
pub(super) fn exchange(old: u64, new: u64) -> Result<()> {
    let cpus = u64::from(hal::cpu::online_mask().count_ones());
    let mut total = TOTAL.lock();
    let after = total.saturating_sub(old) + new;
    if new > old && current_limit().is_some_and(|limit| after > limit * cpus) {
        return Err(Errno::EBUSY);
    }
    *total = after;
    Ok(())
}

/// Whether what is let in would fit with other settings (Linux `sched_dl_global_validate`).
pub fn fits(runtime_us: i32, period_us: u32) -> bool {
    let cpus = u64::from(hal::cpu::online_mask().count_ones());
    limit(runtime_us, period_us).is_none_or(|limit| *TOTAL.lock() <= limit * cpus)
}

/// A task ends: its bandwidth is free.
pub(super) fn release(task: &Task) {
    if task.sched.policy.load(Relaxed) == abi::sched::SCHED_DEADLINE {
        let own = of(&task.sched.server.request());
        let mut total = TOTAL.lock();
        *total = total.saturating_sub(own);
    }
}

/// What `delta_ns` costs a task of bandwidth `own` that reclaims: the time scaled by the bandwidth in use, per CPU, but no
/// less than its own.
pub(super) fn reclaim(delta_ns: u64, own: u64) -> u64 {
    let cpus = u64::from(hal::cpu::online_mask().count_ones()).max(1);
    let in_use = (*TOTAL.lock() / cpus).max(own);
    let most = current_limit().unwrap_or(ONE).max(1);
    let scaled = u128::from(delta_ns) * u128::from(in_use.min(most)) / u128::from(most);
    u64::try_from(scaled).unwrap_or(delta_ns)
}
