//! The areas of an address space in address order, and the gaps between them.
//!
//! A balanced (AVL) tree. Every node also knows what its subtree spans and the largest gap within, so that an area is found,
//! added and removed, and a place for a new one found, in logarithmic time however many areas there are (Linux's maple tree
//! answers the same questions). The nodes lie in chunks and refer to each other by number: a small process has all of them in
//! one or two blocks, which fork copies as they are. The area that was found last is tried first, because faults and calls
//! come in runs.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{TASK_SIZE, Vma};
use crate::avl::{Balanced, NIL};

/// Unmapped bytes that a growing stack keeps below it (Linux `stack_guard_gap`).
pub(super) const STACK_GAP: u64 = 256 * hal::mem::PAGE_SIZE as u64;

const CHUNK: usize = 16;

#[derive(Clone)]
struct Node {
    vma: Option<Vma>,
    /// As in `vma`; an empty range in a node without one.
    start: u64,
    end: u64,
    /// Where the gap below the area ends: a growing stack keeps its distance.
    low: u64,
    left: u32,
    right: u32,
    height: u32,
    /// Where the gap below the first area of this subtree ends.
    first: u64,
    /// The end of the last one.
    last: u64,
    /// Bytes of the largest gap between them.
    gap: u64,
}

impl Node {
    const EMPTY: Node = Node {
        vma: None,
        start: u64::MAX,
        end: 0,
        low: u64::MAX,
        left: NIL,
        right: NIL,
        height: 0,
        first: u64::MAX,
        last: 0,
        gap: 0,
    };

    fn new(vma: Vma) -> Node {
        let mut node = Node { vma: Some(vma), ..Node::EMPTY };
        node.take_borders();
        node
    }

    fn take_borders(&mut self) {
        let Some(vma) = &self.vma else { return };
        (self.start, self.end) = (vma.start, vma.end);
        self.low = if vma.grows_down { vma.start.saturating_sub(STACK_GAP) } else { vma.start };
    }
}

type Chunk = [Node; CHUNK];

/// A copy that is made in its place on the heap and not on the stack first.
fn copy_of(chunk: &Chunk) -> Box<Chunk> {
    Box::<Chunk>::try_from(chunk.to_vec()).unwrap_or_else(|_| unreachable!("a copy has the length of the original"))
}

/// The areas.
pub struct Areas {
    #[expect(clippy::vec_box, reason = "a list that grows moves no chunk and needs no block larger than one")]
    chunks: Vec<Box<Chunk>>,
    root: u32,
    /// The first unused node; the others follow by `left`.
    free: u32,
    count: usize,
    /// The node that was found last.
    recent: AtomicU32,
}

impl Clone for Areas {
    fn clone(&self) -> Self {
        let recent = AtomicU32::new(self.recent.load(Ordering::Relaxed));
        let chunks = self.chunks.iter().map(|chunk| copy_of(chunk)).collect();
        Self { chunks, root: self.root, free: self.free, count: self.count, recent }
    }
}

impl Areas {
    /// None.
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), root: NIL, free: NIL, count: 0, recent: AtomicU32::new(NIL) }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes that a copy takes.
    pub fn copy_size(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Node>()
    }

    #[inline(always)]
    fn node(&self, at: u32) -> &Node {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    #[inline(always)]
    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    #[inline(always)]
    fn vma(&self, at: u32) -> Option<&Vma> {
        self.node(at).vma.as_ref()
    }

    /// The area that holds `address`.
    #[inline(always)]
    pub fn find(&self, address: u64) -> Option<&Vma> {
        self.find_from(address).filter(|vma| vma.start <= address)
    }

    /// The first area that ends behind `address`: the one that holds it, else the next one.
    #[inline(always)]
    pub fn find_from(&self, address: u64) -> Option<&Vma> {
        let recent = self.recent.load(Ordering::Relaxed);
        if recent != NIL {
            let node = self.node(recent);
            if node.start <= address && address < node.end {
                return node.vma.as_ref();
            }
        }
        self.search_from(address)
    }

    fn search_from(&self, address: u64) -> Option<&Vma> {
        let mut best = NIL;
        let mut at = self.root;
        while at != NIL {
            let node = self.node(at);
            if address < node.end {
                best = at;
                if node.start <= address {
                    self.recent.store(at, Ordering::Relaxed);
                    break;
                }
                at = node.left;
            } else {
                at = node.right;
            }
        }
        if best == NIL { None } else { self.vma(best) }
    }

    /// The last area that begins below `address`.
    pub fn find_before(&self, address: u64) -> Option<&Vma> {
        let mut best = NIL;
        let mut at = self.root;
        while at != NIL {
            let node = self.node(at);
            if node.start < address {
                best = at;
                at = node.right;
            } else {
                at = node.left;
            }
        }
        if best == NIL { None } else { self.vma(best) }
    }

    /// The area that begins at `start`, and the ones before and behind it.
    pub fn with_neighbours(&self, start: u64) -> Option<(Option<&Vma>, &Vma, Option<&Vma>)> {
        let (mut before, mut behind) = (NIL, NIL);
        let mut at = self.root;
        let found = loop {
            if at == NIL {
                return None;
            }
            let node = self.node(at);
            if start < node.start {
                behind = at;
                at = node.left;
            } else if start > node.start {
                before = at;
                at = node.right;
            } else {
                break node;
            }
        };
        let mut below = found.left;
        while below != NIL {
            before = below;
            below = self.node(below).right;
        }
        let mut below = found.right;
        while below != NIL {
            behind = below;
            below = self.node(below).left;
        }
        Some((self.vma(before), found.vma.as_ref()?, self.vma(behind)))
    }

    /// Whether nothing of `start..end` belongs to an area.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.find_from(start).is_none_or(|vma| vma.start >= end)
    }

    /// Those that meet `start..end`, in order.
    pub fn range(&self, start: u64, end: u64) -> impl Iterator<Item = &Vma> {
        let mut at = start;
        core::iter::from_fn(move || {
            let vma = self.find_from(at).filter(|vma| at < end && vma.start < end)?;
            at = vma.end;
            Some(vma)
        })
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.range(0, u64::MAX)
    }

    /// All of them, in no particular order.
    pub fn unordered(&self) -> impl Iterator<Item = &Vma> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).filter_map(|node| node.vma.as_ref())
    }

    /// Changes all of them, in no particular order, but not where they are.
    pub fn change_all(&mut self, change: impl FnMut(&mut Vma)) {
        self.chunks.iter_mut().flat_map(|chunk| chunk.iter_mut()).filter_map(|node| node.vma.as_mut()).for_each(change);
    }

    /// Changes the one that holds `address`, but not where it is.
    pub fn change<R>(&mut self, address: u64, change: impl FnOnce(&mut Vma) -> R) -> Option<R> {
        self.find(address)?;
        // `find` remembers what it found.
        let at = *self.recent.get_mut();
        let node = self.node_mut(at);
        let vma = node.vma.as_mut()?;
        let result = change(vma);
        debug_assert!((vma.start, vma.end) == (node.start, node.end));
        Some(result)
    }

    /// Moves the borders of the one that holds `address`. It must not pass its neighbours; its contents stay where they are.
    pub fn resize(&mut self, address: u64, start: u64, end: u64) {
        self.resize_below(self.root, address, start, end);
    }

    /// In a subtree. Whether what the subtree's root knows changed.
    fn resize_below(&mut self, at: u32, address: u64, start: u64, end: u64) -> bool {
        if at == NIL {
            return false;
        }
        let node = self.node_mut(at);
        if address < node.start {
            let left = node.left;
            return self.resize_below(left, address, start, end) && self.measure(at);
        }
        if address >= node.end {
            let right = node.right;
            return self.resize_below(right, address, start, end) && self.measure(at);
        }
        if let Some(vma) = &mut node.vma {
            vma.move_borders(start, end);
        }
        node.take_borders();
        self.measure(at)
    }

    /// Adds one, where there is none.
    pub fn insert(&mut self, vma: Vma) {
        debug_assert!(self.is_free(vma.start, vma.end));
        let new = self.take_node();
        *self.node_mut(new) = Node::new(vma);
        self.measure(new);
        self.root = self.insert_below(self.root, new);
        self.count += 1;
        self.recent.store(new, Ordering::Relaxed);
    }

    /// Takes out the one that holds `address`.
    pub fn remove(&mut self, address: u64) -> Option<Vma> {
        let start = self.find(address)?.start;
        let (root, gone) = self.remove_below(self.root, start);
        self.root = root;
        self.count -= 1;
        let unused = Node { left: self.free, ..Node::EMPTY };
        let node = core::mem::replace(self.node_mut(gone), unused);
        self.free = gone;
        node.vma
    }

    /// The highest address below `ceiling` under which `length` bytes are free, at or above `floor`.
    pub fn highest_gap(&self, length: u64, floor: u64, ceiling: u64) -> Option<u64> {
        self.highest_below(self.root, length, floor, ceiling, ceiling)
    }

    fn highest_below(&self, mut at: u32, length: u64, mut floor: u64, mut ceiling: u64, limit: u64) -> Option<u64> {
        while at != NIL {
            let node = self.node(at);
            if node.start < limit {
                let right = self.node(node.right);
                if node.right == NIL {
                    if ceiling.saturating_sub(node.end.max(floor)) >= length {
                        return Some(ceiling);
                    }
                } else if right.last > limit {
                    // What it knows counts gaps beyond the limit, too.
                    let found = self.highest_below(node.right, length, node.end.max(floor), ceiling, limit);
                    if found.is_some() {
                        return found;
                    }
                } else {
                    let edges = right.first.saturating_sub(node.end).max(ceiling.saturating_sub(right.last));
                    if right.gap.max(edges) >= length {
                        floor = node.end.max(floor);
                        at = node.right;
                        continue;
                    }
                }
            }
            ceiling = node.low.min(limit);
            at = node.left;
        }
        (ceiling.saturating_sub(floor) >= length).then_some(ceiling)
    }

    /// The lowest address from `floor` on at which `length` bytes are free.
    pub fn lowest_gap(&self, length: u64, floor: u64) -> Option<u64> {
        self.lowest_above(self.root, length, floor, TASK_SIZE)
    }

    fn lowest_above(&self, at: u32, length: u64, floor: u64, ceiling: u64) -> Option<u64> {
        if at == NIL {
            return (ceiling.saturating_sub(floor) >= length).then_some(floor);
        }
        let node = self.node(at);
        let edges = node.first.saturating_sub(floor).max(ceiling.saturating_sub(node.last.max(floor)));
        if node.gap.max(edges) < length {
            return None;
        }
        let below = if node.end > floor { self.lowest_above(node.left, length, floor, node.low) } else { None };
        below.or_else(|| self.lowest_above(node.right, length, node.end.max(floor), ceiling))
    }

    fn take_node(&mut self) -> u32 {
        if self.free == NIL {
            let first = (self.chunks.len() * CHUNK) as u32;
            self.chunks.push(Box::new([const { Node::EMPTY }; CHUNK]));
            // Number 0 is NIL.
            for at in (first.max(1)..first + CHUNK as u32).rev() {
                self.node_mut(at).left = self.free;
                self.free = at;
            }
        }
        let at = self.free;
        self.free = self.node(at).left;
        at
    }

    fn insert_below(&mut self, at: u32, new: u32) -> u32 {
        if at == NIL {
            return new;
        }
        let (left, right) = (self.node(at).left, self.node(at).right);
        if self.node(new).start < self.node(at).start {
            let left = self.insert_below(left, new);
            self.node_mut(at).left = left;
        } else {
            let right = self.insert_below(right, new);
            self.node_mut(at).right = right;
        }
        self.balance(at)
    }

    /// Takes the node that begins at `start` out of a subtree that holds it. Returns the subtree's new root, and the node.
    fn remove_below(&mut self, at: u32, start: u64) -> (u32, u32) {
        let (left, right) = (self.node(at).left, self.node(at).right);
        let here = self.node(at).start;
        if start < here {
            let (left, gone) = self.remove_below(left, start);
            self.node_mut(at).left = left;
            return (self.balance(at), gone);
        }
        if start > here {
            let (right, gone) = self.remove_below(right, start);
            self.node_mut(at).right = right;
            return (self.balance(at), gone);
        }
        if left == NIL || right == NIL {
            return (left.max(right), at);
        }
        // The next area takes the place.
        let mut next = right;
        while self.node(next).left != NIL {
            next = self.node(next).left;
        }
        let (right, next) = self.remove_below(right, self.node(next).start);
        let node = self.node_mut(next);
        (node.left, node.right) = (left, right);
        (self.balance(next), at)
    }
}

impl Balanced for Areas {
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
        let before = if node.left == NIL { 0 } else { node.low.saturating_sub(left.last) };
        let behind = if node.right == NIL { 0 } else { right.first.saturating_sub(node.end) };
        let gap = left.gap.max(right.gap).max(before).max(behind);
        // Of the first area, not the lowest of all: a stack's distance may reach down past its neighbours.
        let first = if node.left == NIL { node.low } else { left.first };
        let last = node.end.max(right.last);
        let height = left.height.max(right.height) + 1;
        if (node.first, node.last, node.gap, node.height) == (first, last, gap, height) {
            return false;
        }
        let node = self.node_mut(at);
        (node.first, node.last, node.gap, node.height) = (first, last, gap, height);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Areas, NIL, STACK_GAP};
    use crate::mm::{Backing, Protection, Role, TASK_SIZE, Vma};
    use alloc::collections::BTreeMap;

    const PAGE: u64 = 4096;

    fn area(start: u64, end: u64, grows_down: bool) -> Vma {
        Vma {
            start,
            end,
            protection: Protection::default(),
            shared: false,
            backing: Backing::Anonymous,
            grows_down,
            role: Role::None,
            locked: false,
            dont_fork: false,
            wipe_on_fork: false,
            no_huge_pages: false,
            dont_dump: false,
        }
    }

    /// The tree's promises, checked at every node. Returns its height.
    fn check(areas: &Areas, at: u32) -> u32 {
        if at == NIL {
            return 0;
        }
        let node = areas.node(at);
        let (left, right) = (check(areas, node.left), check(areas, node.right));
        assert!(left.abs_diff(right) <= 1, "unbalanced");
        assert_eq!(node.height, left.max(right) + 1);
        node.height
    }

    /// A gap by looking at each one, from the top.
    fn highest_by_hand(model: &BTreeMap<u64, Vma>, length: u64, floor: u64, base: u64) -> Option<u64> {
        let low = |vma: &Vma| if vma.grows_down { vma.start.saturating_sub(STACK_GAP) } else { vma.start };
        let mut ceiling = model.range(base..).next().map_or(base, |(_, vma)| base.min(low(vma)));
        for vma in model.values().rev().filter(|vma| vma.start < base) {
            if ceiling.saturating_sub(vma.end.max(floor)) >= length {
                return Some(ceiling);
            }
            ceiling = low(vma).min(base);
        }
        (ceiling.saturating_sub(floor) >= length).then_some(ceiling)
    }

    fn lowest_by_hand(model: &BTreeMap<u64, Vma>, length: u64, floor: u64) -> Option<u64> {
        let mut at = floor;
        for vma in model.values().filter(|vma| vma.end > floor) {
            let low = if vma.grows_down { vma.start.saturating_sub(STACK_GAP) } else { vma.start };
            if low.saturating_sub(at) >= length {
                return Some(at);
            }
            at = at.max(vma.end);
        }
        (TASK_SIZE.saturating_sub(at) >= length).then_some(at)
    }

    #[test]
    fn areas_and_gaps_agree_with_a_plain_map() {
        for seed in 1..=20u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = move |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let (mut areas, mut model) = (Areas::new(), BTreeMap::new());
            for _ in 0..600 {
                let start = (16 + random(2000)) * PAGE;
                let end = start + (1 + random(8)) * PAGE;
                let held = model.range(..=start).next_back().map(|(_, vma): (_, &Vma)| (vma.start, vma.end));
                let held = held.filter(|(_, held_end)| start < *held_end);
                assert_eq!(areas.find(start).map(|vma| (vma.start, vma.end)), held);
                match (random(4), held) {
                    (0, Some((at, _))) => {
                        assert_eq!(areas.remove(start).map(|vma| vma.start), Some(at));
                        model.remove(&at);
                    }
                    (1, Some((at, old_end))) if start > at => {
                        areas.resize(at, start, old_end);
                        let vma = model.remove(&at).unwrap();
                        model.insert(start, Vma { start, ..vma });
                    }
                    (2, Some((at, _))) if start > at => {
                        areas.resize(start, at, start);
                        model.get_mut(&at).unwrap().end = start;
                    }
                    _ if model.range(..end).next_back().is_none_or(|(_, vma)| vma.end <= start) => {
                        let vma = area(start, end, random(10) == 0);
                        areas.insert(vma.clone());
                        model.insert(start, vma);
                    }
                    _ => {}
                }
                check(&areas, areas.root);
                assert_eq!(areas.count(), model.len());
                let (length, base) = ((1 + random(60)) * PAGE, (16 + random(2100)) * PAGE);
                let floor = 16 * PAGE;
                assert_eq!(
                    areas.highest_gap(length, floor, base),
                    highest_by_hand(&model, length, floor, base),
                    "{length:#x} below {base:#x}"
                );
                assert_eq!(areas.lowest_gap(length, base), lowest_by_hand(&model, length, base));
                assert_eq!(
                    areas.find_before(base).map(|vma| vma.start),
                    model.range(..base).next_back().map(|(at, _)| *at)
                );
            }
            let copy = areas.clone();
            let list = |areas: &Areas| areas.iter().map(|vma| (vma.start, vma.end)).collect::<std::vec::Vec<_>>();
            assert_eq!(list(&copy), model.values().map(|vma| (vma.start, vma.end)).collect::<std::vec::Vec<_>>());
        }
    }

    #[test]
    fn a_full_address_space_has_a_shallow_tree() {
        let mut areas = Areas::new();
        for n in 0..65_530 {
            areas.insert(area(n * 2 * PAGE, (n * 2 + 1) * PAGE, false));
        }
        assert!(check(&areas, areas.root) <= 20);
        assert_eq!(areas.highest_gap(2 * PAGE, 0, 65_530 * 2 * PAGE), None);
        for n in (0..65_530).rev() {
            assert!(areas.remove(n * 2 * PAGE).is_some());
        }
        assert_eq!(areas.count(), 0);
    }
}
