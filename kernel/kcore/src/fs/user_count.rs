//! Things of which each user may have so many: epoll watches, inotify instances and watches, message queue bytes (Linux
//! keeps such counts in `struct user_struct` and `struct ucounts`). A count belongs to the real user that made the thing,
//! so who takes one remembers the user to give it back.

use alloc::collections::BTreeMap;

use hal::sync::SpinLock;

use crate::sync::order;

/// How many of one kind of thing each user has.
pub struct UserCount {
    counts: SpinLock<BTreeMap<u32, u64>>,
}

impl UserCount {
    /// Nobody has any.
    pub const fn new() -> Self {
        Self { counts: SpinLock::new(order::TASK_FIELDS, BTreeMap::new()) }
    }

    /// Counts `by` more for `uid` unless that passes `limit`. Whether it did.
    #[must_use]
    pub fn charge(&self, uid: u32, by: u64, limit: u64) -> bool {
        let mut counts = self.counts.lock();
        let count = counts.entry(uid).or_insert(0);
        let fits = count.checked_add(by).is_some_and(|sum| sum <= limit);
        if fits {
            *count += by;
        }
        fits
    }

    /// How many `uid` has.
    pub fn count(&self, uid: u32) -> u64 {
        self.counts.lock().get(&uid).copied().unwrap_or(0)
    }

    /// Takes `by` off the count of `uid`.
    pub fn uncharge(&self, uid: u32, by: u64) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&uid) {
            *count = count.saturating_sub(by);
            if *count == 0 {
                counts.remove(&uid);
            }
        }
    }
}

impl Default for UserCount {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::UserCount;

    #[test]
    fn a_user_gets_what_the_limit_allows_and_no_more() {
        let count = UserCount::new();
        assert!(count.charge(1, 2, 3));
        assert!(!count.charge(1, 2, 3));
        assert!(count.charge(2, 3, 3), "another user has a count of its own");
        count.uncharge(1, 1);
        assert!(count.charge(1, 2, 3));
    }
}
