//! Waiting: wait queues and the sleeping locks made of them. The spin locks are `hal::sync`; their order is [`order`].

pub mod order;
