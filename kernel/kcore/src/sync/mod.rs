//! Waiting: wait queues and the sleeping locks made of them. The spin locks are `hal::sync`; their order is [`order`].

mod completion;
pub mod list;
pub mod membarrier;
mod mutex;
pub mod order;
pub mod rtmutex;
mod rwlock;
mod wait;

pub use completion::Completion;
pub use mutex::{Mutex, MutexGuard};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use wait::{WaitQueue, Waiter, WakeCallback, sleep_until, sleep_while};
