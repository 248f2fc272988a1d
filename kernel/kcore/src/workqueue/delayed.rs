//! Work that is queued when a time has come (Linux `delayed_work`).
//!
//! The right to queue the item, its `pending`, is taken when the timer starts and passes to the queue when that expires, so an
//! item waits in one place or the other, and cancelling finds it in either.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

use hal::sync::IrqLock;

use super::{WorkItem, WorkQueue, finish_cancel, grab};
use crate::sync::order;
use crate::time::{self, Timer, TimerCallback};

/// A timer in front of an item. The owner of the item keeps it; when the item is gone, an expiry does nothing.
pub struct DelayedWork {
    item: Weak<dyn WorkItem>,
    timer: Arc<Timer>,
    /// Where to, while the timer runs.
    queue: IrqLock<Option<Arc<WorkQueue>>>,
}

impl DelayedWork {
    /// A timer for `item`.
    pub fn new(item: Weak<dyn WorkItem>) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            item,
            timer: Timer::call(this.clone()),
            queue: IrqLock::new(order::WORK_PLACE, None),
        })
    }

    /// Queues the item in `delay_ns` (Linux `queue_delayed_work`). False when it waits already.
    pub fn queue(&self, queue: &Arc<WorkQueue>, delay_ns: u64) -> bool {
        let Some(item) = self.item.upgrade() else { return false };
        if item.work().pending.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.arm(item, queue, delay_ns)
    }

    /// As [`Self::queue`], with the delay beginning anew if it waits already (Linux `mod_delayed_work`). True when it did.
    /// Not from interrupt context.
    pub fn modify(&self, queue: &Arc<WorkQueue>, delay_ns: u64) -> bool {
        let Some(item) = self.item.upgrade() else { return false };
        let was_pending = grab(&item, || self.disarm());
        self.arm(item, queue, delay_ns);
        was_pending
    }

    fn arm(&self, item: Arc<dyn WorkItem>, queue: &Arc<WorkQueue>, delay_ns: u64) -> bool {
        if delay_ns == 0 {
            return queue.insert(item, None);
        }
        *self.queue.lock() = Some(queue.clone());
        self.timer.start(time::monotonic_ns().saturating_add(delay_ns));
        true
    }

    /// Stops the timer. True when it ran: `pending` is the caller's then.
    fn disarm(&self) -> bool {
        let was_armed = self.timer.cancel();
        if was_armed {
            let queue = self.queue.lock().take();
            drop(queue);
        }
        was_armed
    }

    /// Lets the item run now if the timer runs, and waits for its end (Linux `flush_delayed_work`).
    pub fn flush(&self) -> bool {
        let Some(item) = self.item.upgrade() else { return false };
        if self.timer.cancel() {
            self.hand_over(item.clone());
        }
        super::flush(&*item)
    }

    /// Takes it back from the timer or the queue, and waits until it does not run any more (Linux
    /// `cancel_delayed_work_sync`). True when it was waiting.
    pub fn cancel_sync(&self) -> bool {
        let Some(item) = self.item.upgrade() else { return false };
        let was_pending = grab(&item, || self.disarm());
        finish_cancel(&*item);
        was_pending
    }

    fn hand_over(&self, item: Arc<dyn WorkItem>) {
        let queue = self.queue.lock().take();
        if let Some(queue) = queue {
            queue.insert(item, None);
        }
    }
}

impl TimerCallback for DelayedWork {
    fn expired(&self, _: &Arc<Timer>) {
        if let Some(item) = self.item.upgrade() {
            self.hand_over(item);
        }
    }
}
