//! Readiness: how poll(2), select(2) and epoll(7) ask a file what it can do and hear of changes.
//!
//! A file's `poll` method returns the events that hold now and shows every wait queue that is woken when they change to
//! the [`PollTable`] it is given. The same method is called once more, with a table that unregisters, when the wait is
//! over; it must show the same queues then. So no queue is referred to by a table, and files need no reference counts on
//! their queues.

use alloc::sync::Arc;

use crate::sync::{WaitQueue, Waiter};

/// What a table does with the queues it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Register,
    Unregister,
}

/// Where a file's `poll` method shows its wait queues.
pub struct PollTable {
    waiter: Arc<Waiter>,
    action: Action,
}

impl PollTable {
    /// Registers `waiter` on every queue shown.
    pub fn registering(waiter: Arc<Waiter>) -> Self {
        Self { waiter, action: Action::Register }
    }

    /// Takes `waiter` off every queue shown.
    pub fn unregistering(waiter: Arc<Waiter>) -> Self {
        Self { waiter, action: Action::Unregister }
    }

    /// Shows a queue. Look at the state only afterwards: a change in between is not missed then.
    pub fn watch(&mut self, queue: &WaitQueue) {
        match self.action {
            Action::Register => queue.register(&self.waiter),
            Action::Unregister => queue.unregister(&self.waiter),
        }
    }
}

/// Shows `queues` to the table if there is one.
pub fn watch_all(table: Option<&mut PollTable>, queues: &[&WaitQueue]) {
    if let Some(table) = table {
        for queue in queues {
            table.watch(queue);
        }
    }
}
