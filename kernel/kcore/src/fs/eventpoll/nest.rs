//! Sets within sets. A set is a file that can be watched, so sets can form chains; a wake-up runs through them, so a chain
//! must not be long and must not close to a ring (epoll_ctl(2) ELOOP).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::Errno;

use super::{EventPoll, Shared};
use crate::Result;
use crate::sync::{Mutex, MutexGuard};

/// Links in the longest chain of sets (Linux `EP_MAX_NESTS`).
const MAX_NESTS: usize = 4;

hal::global! {
    /// Held while a set is put into a set, so that two such calls do not close a ring together (Linux `epnested_mutex`).
    static NESTING: Mutex<()> = Mutex::new(());
}

/// Lets `inner` be put into `outer`, as long as the guard lives (Linux `ep_loop_check`).
pub(super) fn admit(outer: &EventPoll, inner: &EventPoll) -> Result<MutexGuard<'static, ()>> {
    let guard = NESTING.lock();
    let below = depth_below(inner, &outer.shared, 0).ok_or(Errno::ELOOP)?;
    if below + 1 + depth_above(&outer.shared, 0) > MAX_NESTS {
        return Err(Errno::ELOOP);
    }
    Ok(guard)
}

/// Links below `set`; `None`: `forbidden` is there, or there are too many.
fn depth_below(set: &EventPoll, forbidden: &Arc<Shared>, depth: usize) -> Option<usize> {
    if depth > MAX_NESTS {
        return None;
    }
    let files: Vec<_> = set.watched.lock().files().collect();
    let mut deepest = 0;
    for file in files {
        let Some(inner) = file.ops_as::<EventPoll>() else { continue };
        if Arc::ptr_eq(&inner.shared, forbidden) {
            return None;
        }
        deepest = deepest.max(depth_below(inner, forbidden, depth + 1)? + 1);
    }
    Some(deepest)
}

/// Links above `set` (Linux `ep_get_upwards_depth_proc`). No chain is longer than MAX_NESTS, so that bounds the walk.
fn depth_above(set: &Arc<Shared>, depth: usize) -> usize {
    if depth > MAX_NESTS {
        return depth;
    }
    let parents: Vec<Arc<Shared>> = set.parents.lock().iter().filter_map(Weak::upgrade).collect();
    parents.iter().map(|parent| depth_above(parent, depth + 1) + 1).max().unwrap_or(0)
}

/// `inner` is in `outer` now.
pub(super) fn enter(outer: &EventPoll, inner: &EventPoll) {
    inner.shared.parents.lock().push(Arc::downgrade(&outer.shared));
}

/// `inner` is in `outer` no longer. Parents that are gone go as well.
pub(super) fn leave(outer: &Shared, inner: &EventPoll) {
    let mut parents = inner.shared.parents.lock();
    let is_outer = |parent: &Weak<Shared>| core::ptr::eq(parent.as_ptr(), outer);
    let one = parents.iter().position(is_outer).map(|at| parents.swap_remove(at));
    let (gone, left): (Vec<_>, Vec<_>) =
        core::mem::take(&mut *parents).into_iter().partition(|parent| parent.strong_count() == 0);
    *parents = left;
    drop(parents);
    drop((one, gone));
}
