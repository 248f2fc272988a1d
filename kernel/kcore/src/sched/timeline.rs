//! An ordered queue of tasks that can also be asked for the first one whose value is small enough: what the fair class
//! (ordered by virtual deadline, asked for who is eligible) and the deadline class (ordered by deadline) wait in.
//!
//! A balanced tree ([`crate::avl`]) whose nodes know the least value below them, as Linux's augmented red-black trees do, so that
//! insertion, removal and both searches are O(log n). The nodes lie in chunks that are kept for the next task: at a steady
//! load no wake-up allocates.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::avl::{Balanced, NIL};
use crate::task::Task;

/// Order in the queue, and what breaks ties: who came first.
pub type Key = (i64, u64);

/// Nodes that are allocated at once.
const CHUNK: usize = 32;

struct Node {
    key: Key,
    value: i64,
    /// The least value of the subtree.
    least: i64,
    left: u32,
    /// Also the next free node of those that hold no task.
    right: u32,
    height: u32,
    task: Option<Arc<Task>>,
}

impl Node {
    const EMPTY: Self =
        Node { key: (0, 0), value: i64::MAX, least: i64::MAX, left: NIL, right: NIL, height: 0, task: None };
}

/// The queue.
pub struct Timeline {
    #[expect(clippy::vec_box, reason = "a chunk stays where it is while the list of them grows")]
    chunks: Vec<Box<[Node; CHUNK]>>,
    root: u32,
    free: u32,
    count: usize,
}

impl Timeline {
    /// An empty one.
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), root: NIL, free: NIL, count: 0 }
    }

    /// How many tasks wait.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none waits.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[inline(always)]
    fn node(&self, at: u32) -> &Node {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    #[inline(always)]
    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    /// Adds a task. No other has its key.
    pub fn insert(&mut self, key: Key, value: i64, task: Arc<Task>) {
        let new = self.take_node();
        *self.node_mut(new) = Node { key, value, least: value, height: 1, task: Some(task), ..Node::EMPTY };
        self.root = self.insert_below(self.root, new);
        self.count += 1;
    }

    /// Takes the task with this key out.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Task>> {
        let (root, gone) = self.remove_below(self.root, key);
        self.root = root;
        self.give_back(gone)
    }

    /// The key of the first task.
    pub fn first(&self) -> Option<Key> {
        self.first_node().map(|node| node.key)
    }

    /// The first task.
    pub fn first_task(&self) -> Option<&Arc<Task>> {
        self.first_node()?.task.as_ref()
    }

    fn first_node(&self) -> Option<&Node> {
        if self.is_empty() {
            return None;
        }
        let mut at = self.root;
        while self.node(at).left != NIL {
            at = self.node(at).left;
        }
        Some(self.node(at))
    }

    /// Takes the first task out, with its key and value.
    pub fn pop_first(&mut self) -> Option<(Key, i64, Arc<Task>)> {
        if self.is_empty() {
            return None;
        }
        let (root, gone) = self.remove_first(self.root);
        self.root = root;
        let (key, value) = (self.node(gone).key, self.node(gone).value);
        self.give_back(gone).map(|task| (key, value, task))
    }

    /// The key of the first task whose value is at most `limit` (Linux's heap search in `pick_eevdf`).
    pub fn first_at_most(&self, limit: i64) -> Option<Key> {
        if self.is_empty() || self.node(self.root).least > limit {
            return None;
        }
        let mut at = self.root;
        loop {
            let node = self.node(at);
            if self.node(node.left).least <= limit {
                at = node.left;
            } else if node.value <= limit {
                return Some(node.key);
            } else {
                at = node.right;
            }
        }
    }

    /// The first task that `wanted` accepts, looking at no more than `most` of them.
    pub fn find(&self, most: usize, wanted: impl Fn(&Task) -> bool) -> Option<Key> {
        self.find_from(most, Side::First, wanted)
    }

    /// As [`Self::find`] from the end.
    pub fn find_last(&self, most: usize, wanted: impl Fn(&Task) -> bool) -> Option<Key> {
        self.find_from(most, Side::Last, wanted)
    }

    fn find_from(&self, most: usize, side: Side, wanted: impl Fn(&Task) -> bool) -> Option<Key> {
        if self.is_empty() {
            return None;
        }
        let children = |at: u32| match side {
            Side::First => (self.node(at).left, self.node(at).right),
            Side::Last => (self.node(at).right, self.node(at).left),
        };
        // A balanced tree of 2^32 nodes is at most 46 high.
        let mut path = [NIL; 48];
        let (mut depth, mut at) = (0, self.root);
        for _ in 0..most {
            while at != NIL {
                path[depth] = at;
                depth += 1;
                at = children(at).0;
            }
            if depth == 0 {
                return None;
            }
            depth -= 1;
            let node = self.node(path[depth]);
            if node.task.as_deref().is_some_and(&wanted) {
                return Some(node.key);
            }
            at = children(path[depth]).1;
        }
        None
    }

    fn take_node(&mut self) -> u32 {
        if self.free == NIL {
            let base = (self.chunks.len() * CHUNK) as u32;
            self.chunks.push(Box::new([const { Node::EMPTY }; CHUNK]));
            // The first of all is the sentinel.
            for at in (base.max(1)..base + CHUNK as u32).rev() {
                self.node_mut(at).right = self.free;
                self.free = at;
            }
        }
        let taken = self.free;
        self.free = self.node(taken).right;
        taken
    }

    fn give_back(&mut self, gone: u32) -> Option<Arc<Task>> {
        if gone == NIL {
            return None;
        }
        let free = self.free;
        let node = self.node_mut(gone);
        node.right = free;
        let task = node.task.take();
        self.free = gone;
        self.count -= 1;
        task
    }

    fn insert_below(&mut self, at: u32, new: u32) -> u32 {
        if at == NIL {
            return new;
        }
        if self.node(new).key < self.node(at).key {
            let left = self.insert_below(self.node(at).left, new);
            self.node_mut(at).left = left;
        } else {
            let right = self.insert_below(self.node(at).right, new);
            self.node_mut(at).right = right;
        }
        self.balance(at)
    }

    /// Takes the node with `key` out of a subtree. Returns the subtree's new root, and the node.
    fn remove_below(&mut self, at: u32, key: &Key) -> (u32, u32) {
        if at == NIL || self.chunks.is_empty() {
            return (at, NIL);
        }
        let (left, right) = (self.node(at).left, self.node(at).right);
        let here = self.node(at).key;
        if *key < here {
            let (left, gone) = self.remove_below(left, key);
            self.node_mut(at).left = left;
            return (self.balance(at), gone);
        }
        if *key > here {
            let (right, gone) = self.remove_below(right, key);
            self.node_mut(at).right = right;
            return (self.balance(at), gone);
        }
        if left == NIL || right == NIL {
            return (left.max(right), at);
        }
        let (right, next) = self.remove_first(right);
        let node = self.node_mut(next);
        (node.left, node.right) = (left, right);
        (self.balance(next), at)
    }

    /// Takes the first node out of a subtree that has one.
    fn remove_first(&mut self, at: u32) -> (u32, u32) {
        let (left, right) = (self.node(at).left, self.node(at).right);
        if left == NIL {
            return (right, at);
        }
        let (left, gone) = self.remove_first(left);
        self.node_mut(at).left = left;
        (self.balance(at), gone)
    }
}

impl Balanced for Timeline {
    fn children(&self, at: u32) -> [u32; 2] {
        let node = self.node(at);
        [node.left, node.right]
    }

    fn child_mut(&mut self, at: u32, side: usize) -> &mut u32 {
        let node = self.node_mut(at);
        if side == 0 { &mut node.left } else { &mut node.right }
    }

    fn height(&self, at: u32) -> u32 {
        self.node(at).height
    }

    fn measure(&mut self, at: u32) -> bool {
        let node = self.node(at);
        let (left, right) = (self.node(node.left), self.node(node.right));
        let (height, least) = (left.height.max(right.height) + 1, node.value.min(left.least).min(right.least));
        let changes = (node.height, node.least) != (height, least);
        let node = self.node_mut(at);
        (node.height, node.least) = (height, least);
        changes
    }
}

#[derive(Clone, Copy)]
enum Side {
    First,
    Last,
}
