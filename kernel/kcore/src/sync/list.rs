//! Lists whose links lie in the items (Linux `list_head`): adding allocates nothing and taking out is O(1), so an interrupt
//! may do both. The list owns its items by reference count.
//!
//! The lock that guards the [`List`] guards the links of the items in it as well; their own locks are never contended and
//! only spare `unsafe`. An item is in one list at a time, and who takes it out must know in which: both are checked.

use alloc::sync::{Arc, Weak};

use hal::sync::SpinLock;

use super::order;

/// An item's place in a list.
pub struct Link<T: ?Sized>(SpinLock<Place<T>>);

struct Place<T: ?Sized> {
    is_in_list: bool,
    next: Option<Arc<T>>,
    previous: Option<Weak<T>>,
}

impl<T: ?Sized> Default for Link<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: ?Sized> Link<T> {
    /// In no list.
    pub const fn new() -> Self {
        Self(SpinLock::new(order::LIST_LINK, Place { is_in_list: false, next: None, previous: None }))
    }
}

/// What can be in a list.
pub trait Linked {
    /// Its place.
    fn link(&self) -> &Link<Self>;
}

/// A list, first in first out. Its user keeps it under a lock that interrupts respect.
pub struct List<T: ?Sized + Linked> {
    first: Option<Arc<T>>,
    last: Option<Weak<T>>,
    length: usize,
}

impl<T: ?Sized + Linked> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: ?Sized + Linked> List<T> {
    /// An empty list.
    pub const fn new() -> Self {
        Self { first: None, last: None, length: 0 }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// How many items it has.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Adds an item, which is in no list, at the end.
    pub fn push_back(&mut self, item: Arc<T>) {
        let last = self.last.replace(Arc::downgrade(&item)).and_then(|last| last.upgrade());
        {
            let mut place = item.link().0.lock();
            assert!(!place.is_in_list, "an item is in one list at a time");
            place.is_in_list = true;
            place.previous = last.as_ref().map(Arc::downgrade);
        }
        match last {
            Some(last) => last.link().0.lock().next = Some(item),
            None => self.first = Some(item),
        }
        self.length += 1;
    }

    /// The first item.
    pub fn front(&self) -> Option<&Arc<T>> {
        self.first.as_ref()
    }

    /// Takes the first item out.
    pub fn pop_front(&mut self) -> Option<Arc<T>> {
        let first = self.first.clone()?;
        self.remove(&first);
        Some(first)
    }

    /// Takes an item out of this list, in which it is.
    pub fn remove(&mut self, item: &Arc<T>) {
        let (next, previous) = {
            let mut place = item.link().0.lock();
            assert!(core::mem::take(&mut place.is_in_list), "an item that is taken out is in the list");
            (place.next.take(), place.previous.take().and_then(|previous| previous.upgrade()))
        };
        match &next {
            Some(next) => next.link().0.lock().previous = previous.as_ref().map(Arc::downgrade),
            None => self.last = previous.as_ref().map(Arc::downgrade),
        }
        // The reference that the list had: the caller has another one, so nothing is freed under the lock.
        let owned = match &previous {
            Some(previous) => core::mem::replace(&mut previous.link().0.lock().next, next),
            None => core::mem::replace(&mut self.first, next),
        };
        drop(owned);
        self.length -= 1;
    }

    /// The first item for which `is_it` holds.
    pub fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let mut at = self.first.clone();
        while let Some(item) = at {
            if is_it(&item) {
                return Some(item);
            }
            at = item.link().0.lock().next.clone();
        }
        None
    }
}

impl<T: ?Sized + Linked> Drop for List<T> {
    fn drop(&mut self) {
        // One after the other: a chain of drops would be as deep as the list is long.
        while self.pop_front().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Link, Linked, List};

    struct Item(u32, Link<Item>);

    impl Linked for Item {
        fn link(&self) -> &Link<Item> {
            &self.1
        }
    }

    fn items(count: u32) -> Vec<Arc<Item>> {
        (0..count).map(|n| Arc::new(Item(n, Link::new()))).collect()
    }

    fn drain(list: &mut List<Item>) -> Vec<u32> {
        std::iter::from_fn(|| list.pop_front().map(|item| item.0)).collect()
    }

    #[test]
    fn items_come_out_in_the_order_in_which_they_went_in() {
        let mut list = List::new();
        items(4).into_iter().for_each(|item| list.push_back(item));
        assert_eq!(list.len(), 4);
        assert_eq!(drain(&mut list), [0, 1, 2, 3]);
        assert!(list.is_empty());
    }

    #[test]
    fn an_item_leaves_from_the_front_the_middle_and_the_end_and_may_come_back() {
        let all = items(5);
        for gone in 0..5 {
            let mut list = List::new();
            all.iter().for_each(|item| list.push_back(item.clone()));
            list.remove(&all[gone]);
            list.push_back(all[gone].clone());
            let mut wanted: Vec<u32> = (0..5).filter(|n| *n as usize != gone).collect();
            wanted.push(gone as u32);
            assert_eq!(drain(&mut list), wanted);
        }
        assert!(all.iter().all(|item| Arc::strong_count(item) == 1));
    }

    #[test]
    fn a_long_list_is_dropped_without_recursion() {
        let all = items(200_000);
        let mut list = List::new();
        all.iter().for_each(|item| list.push_back(item.clone()));
        assert_eq!(list.find(|item| item.0 == 70_000).map(|item| item.0), Some(70_000));
        drop(list);
        assert!(all.iter().all(|item| Arc::strong_count(item) == 1));
    }

    #[test]
    #[should_panic(expected = "in one list at a time")]
    fn an_item_is_in_one_list_only() {
        let item = items(1).remove(0);
        let (mut one, mut other) = (List::new(), List::new());
        one.push_back(item.clone());
        other.push_back(item);
    }
}
