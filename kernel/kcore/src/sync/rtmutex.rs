//! Who waits for whose lock, and how urgent that makes the owners: the priority-inheritance chain (Linux
//! `kernel/locking/rtmutex.c`) as plain data.
//!
//! Locks have an owner and waiters, most urgent first, of one priority as they came. An owner inherits the priority of the
//! first waiter of each of its locks; an owner that waits itself passes it on. Linux walks such a chain lock by lock, because each
//! has a lock of its own; here one lock guards the whole graph ([`crate::sync::order::PI_GRAPH`]), so a walk sees one moment and
//! needs no second look. It is taken only where a PI futex is contended, requeued, or left behind by a thread that ends.
//!
//! The graph knows neither tasks nor futexes: tests run it by itself, and whoever owns it says what a change of inheritance does.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use abi::Errno;

use crate::Result;

/// Longest chain of locks that is followed (Linux `max_lock_depth`): beyond it somebody is playing games.
pub const MAX_LOCK_DEPTH: usize = 1024;

/// A task by a number that is its own while it is in the graph.
pub type TaskId = usize;

/// A task that joins the graph.
pub struct Member<T, P> {
    /// Its number.
    pub id: TaskId,
    /// What is kept of it.
    pub handle: T,
    /// Its own priority; less is more urgent.
    pub normal: P,
}

struct Node<L, T, P> {
    handle: T,
    normal: P,
    inherited: Option<P>,
    waits_for: Option<L>,
    owned: Vec<L>,
}

impl<L, T, P: Ord + Copy> Node<L, T, P> {
    fn effective(&self) -> P {
        self.inherited.map_or(self.normal, |inherited| inherited.min(self.normal))
    }

    fn is_idle(&self) -> bool {
        self.waits_for.is_none() && self.owned.is_empty()
    }
}

struct Lock<P> {
    owner: TaskId,
    waiters: Vec<(P, TaskId)>,
}

impl<P: Ord + Copy> Lock<P> {
    fn insert(&mut self, priority: P, id: TaskId) {
        let at = self.waiters.partition_point(|(other, _)| *other <= priority);
        self.waiters.insert(at, (priority, id));
    }

    fn remove(&mut self, id: TaskId) {
        self.waiters.retain(|(_, other)| *other != id);
    }

    fn top(&self) -> Option<(P, TaskId)> {
        self.waiters.first().copied()
    }
}

/// The graph. `L` names a lock, `T` is kept for each task, `P` is a priority.
///
/// A lock is known while somebody waits for it.
pub struct Graph<L, T, P> {
    locks: BTreeMap<L, Lock<P>>,
    tasks: BTreeMap<TaskId, Node<L, T, P>>,
    /// Handles that are not needed any more, for the caller to drop where it may.
    left: Vec<T>,
}

impl<L: Ord + Copy, T, P: Ord + Copy> Default for Graph<L, T, P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Ord + Copy, T, P: Ord + Copy> Graph<L, T, P> {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { locks: BTreeMap::new(), tasks: BTreeMap::new(), left: Vec::new() }
    }

    /// Who owns a lock that is waited for.
    pub fn owner(&self, lock: &L) -> Option<TaskId> {
        self.locks.get(lock).map(|lock| lock.owner)
    }

    /// The same, as what was kept of it.
    pub fn owner_handle(&self, lock: &L) -> Option<&T> {
        self.tasks.get(&self.owner(lock)?).map(|node| &node.handle)
    }

    /// Who would get the lock next.
    pub fn next_owner(&self, lock: &L) -> Option<&T> {
        let (_, id) = self.locks.get(lock)?.top()?;
        self.tasks.get(&id).map(|node| &node.handle)
    }

    /// One of the locks that a task owns and others wait for.
    pub fn any_owned_by(&self, id: TaskId) -> Option<L> {
        self.tasks.get(&id)?.owned.first().copied()
    }

    /// What a task inherits.
    pub fn inherited(&self, id: TaskId) -> Option<P> {
        self.tasks.get(&id)?.inherited
    }

    /// Whether a task waits for a lock.
    pub fn is_waiting(&self, id: TaskId) -> bool {
        self.tasks.get(&id).is_some_and(|node| node.waits_for.is_some())
    }

    /// Whether the graph knows nobody.
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty() && self.tasks.is_empty()
    }

    /// Tasks that left the graph since the last call.
    pub fn take_left(&mut self) -> Vec<T> {
        core::mem::take(&mut self.left)
    }

    /// Lets the caller drop a handle later.
    pub fn discard(&mut self, handle: T) {
        self.left.push(handle);
    }

    /// `waiter` begins to wait for `lock`, which `owner` has. `EDEADLK` when it would wait for itself, or the chain is too long:
    /// then nothing has changed. `lend` hears of each task whose inheritance changes, and what it is now.
    pub fn wait(
        &mut self,
        lock: L,
        owner: Member<T, P>,
        waiter: Member<T, P>,
        lend: &mut impl FnMut(&T, Option<P>),
    ) -> Result<()> {
        let owner_id = self.owner(&lock).unwrap_or(owner.id);
        if self.leads_to(owner_id, waiter.id) {
            self.left.extend([owner.handle, waiter.handle]);
            return Err(Errno::EDEADLK);
        }
        self.join(owner, lend);
        let id = waiter.id;
        self.join(waiter, lend);
        let Some(node) = self.tasks.get_mut(&id) else { return Ok(()) };
        debug_assert!(node.waits_for.is_none(), "a task waits for one lock");
        node.waits_for = Some(lock);
        let priority = node.effective();
        let fresh = || Lock { owner: owner_id, waiters: Vec::new() };
        let is_new = !self.locks.contains_key(&lock);
        self.locks.entry(lock).or_insert_with(fresh).insert(priority, id);
        if is_new && let Some(node) = self.tasks.get_mut(&owner_id) {
            node.owned.push(lock);
        }
        self.settle(owner_id, lend);
        Ok(())
    }

    /// A task gives up waiting.
    pub fn give_up(&mut self, id: TaskId, lend: &mut impl FnMut(&T, Option<P>)) {
        let Some(lock) = self.tasks.get_mut(&id).and_then(|node| node.waits_for.take()) else { return };
        if let Some(state) = self.locks.get_mut(&lock) {
            state.remove(id);
            let owner = state.owner;
            self.forget_if_unwanted(lock);
            self.settle(owner, lend);
            self.leave_if_idle(owner);
        }
        self.leave_if_idle(id);
    }

    /// The lock goes from its owner to the most urgent waiter. `None` when nobody waits for it.
    pub fn hand_over(&mut self, lock: L, lend: &mut impl FnMut(&T, Option<P>)) -> Option<TaskId> {
        let state = self.locks.get_mut(&lock)?;
        let former = state.owner;
        let (_, id) = state.top()?;
        state.remove(id);
        state.owner = id;
        if let Some(node) = self.tasks.get_mut(&former) {
            node.owned.retain(|owned| *owned != lock);
        }
        if let Some(node) = self.tasks.get_mut(&id) {
            node.waits_for = None;
            node.owned.push(lock);
        }
        self.forget_if_unwanted(lock);
        for task in [former, id] {
            self.settle(task, lend);
            self.leave_if_idle(task);
        }
        Some(id)
    }

    /// A task's own priority changed (Linux `rt_mutex_adjust_pi`).
    pub fn set_normal(&mut self, id: TaskId, normal: P, lend: &mut impl FnMut(&T, Option<P>)) {
        if let Some(node) = self.tasks.get_mut(&id) {
            node.normal = normal;
            self.pass_on(id, lend);
        }
    }

    /// Whether the chain of locks that `from` waits for comes to `task`, or to no end.
    fn leads_to(&self, from: TaskId, task: TaskId) -> bool {
        let mut at = from;
        for _ in 0..MAX_LOCK_DEPTH {
            if at == task {
                return true;
            }
            let Some(lock) = self.tasks.get(&at).and_then(|node| node.waits_for) else { return false };
            let Some(owner) = self.owner(&lock) else { return false };
            at = owner;
        }
        true
    }

    fn join(&mut self, member: Member<T, P>, lend: &mut impl FnMut(&T, Option<P>)) {
        let Member { id, handle, normal } = member;
        if self.tasks.contains_key(&id) {
            self.left.push(handle);
            self.set_normal(id, normal, lend);
            return;
        }
        let node = Node { handle, normal, inherited: None, waits_for: None, owned: Vec::new() };
        self.tasks.insert(id, node);
    }

    fn forget_if_unwanted(&mut self, lock: L) {
        let Some(state) = self.locks.get(&lock).filter(|state| state.waiters.is_empty()) else { return };
        let owner = state.owner;
        self.locks.remove(&lock);
        if let Some(node) = self.tasks.get_mut(&owner) {
            node.owned.retain(|owned| *owned != lock);
        }
    }

    fn leave_if_idle(&mut self, id: TaskId) {
        if self.tasks.get(&id).is_some_and(Node::is_idle)
            && let Some(node) = self.tasks.remove(&id)
        {
            self.left.push(node.handle);
        }
    }

    /// The waiters of a task's locks changed: what it inherits, and everybody down the chain.
    fn settle(&mut self, id: TaskId, lend: &mut impl FnMut(&T, Option<P>)) {
        let mut at = Some(id);
        while let Some(id) = at {
            let Some(node) = self.tasks.get(&id) else { return };
            let tops = node.owned.iter().filter_map(|lock| self.locks.get(lock)?.top());
            let inherited = tops.map(|(priority, _)| priority).min();
            let Some(node) = self.tasks.get_mut(&id).filter(|node| node.inherited != inherited) else { return };
            node.inherited = inherited;
            lend(&node.handle, inherited);
            at = self.requeue(id);
        }
    }

    /// As [`Self::settle`], for a task whose own priority changed.
    fn pass_on(&mut self, id: TaskId, lend: &mut impl FnMut(&T, Option<P>)) {
        if let Some(owner) = self.requeue(id) {
            self.settle(owner, lend);
        }
    }

    /// Puts a waiter where its priority belongs. The owner of the lock it waits for.
    fn requeue(&mut self, id: TaskId) -> Option<TaskId> {
        let node = self.tasks.get(&id)?;
        let (lock, priority) = (node.waits_for?, node.effective());
        let state = self.locks.get_mut(&lock)?;
        // Who keeps its priority keeps its place.
        if state.waiters.contains(&(priority, id)) {
            return None;
        }
        state.remove(id);
        state.insert(priority, id);
        Some(state.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap as Map;

    /// A graph of numbers, and what each task was lent.
    #[derive(Default)]
    struct World {
        graph: Graph<u32, TaskId, u32>,
        normal: Map<TaskId, u32>,
        lent: Map<TaskId, u32>,
    }

    impl World {
        fn with(priorities: &[u32]) -> Self {
            Self { normal: priorities.iter().copied().enumerate().collect(), ..Self::default() }
        }

        fn member(&self, id: TaskId) -> Member<TaskId, u32> {
            Member { id, handle: id, normal: self.normal[&id] }
        }

        fn run<R>(
            &mut self,
            step: impl FnOnce(&mut Graph<u32, TaskId, u32>, &mut dyn FnMut(&TaskId, Option<u32>)) -> R,
        ) -> R {
            let lent = &mut self.lent;
            step(&mut self.graph, &mut |task, inherited| {
                match inherited {
                    Some(priority) => lent.insert(*task, priority),
                    None => lent.remove(task),
                };
            })
        }

        fn wait(&mut self, lock: u32, owner: TaskId, waiter: TaskId) -> Result<()> {
            let (owner, waiter) = (self.member(owner), self.member(waiter));
            self.run(|graph, mut lend| graph.wait(lock, owner, waiter, &mut lend))
        }

        fn give_up(&mut self, task: TaskId) {
            self.run(|graph, mut lend| graph.give_up(task, &mut lend));
        }

        fn hand_over(&mut self, lock: u32) -> Option<TaskId> {
            self.run(|graph, mut lend| graph.hand_over(lock, &mut lend))
        }

        fn set_normal(&mut self, task: TaskId, priority: u32) {
            self.normal.insert(task, priority);
            self.run(|graph, mut lend| graph.set_normal(task, priority, &mut lend));
        }

        /// How urgent a task is by definition: its own priority, or that of anybody who waits for it, at any distance.
        fn expected(&self, task: TaskId) -> u32 {
            let owned = self.graph.locks.values().filter(|lock| lock.owner == task);
            let waiters = owned.flat_map(|lock| lock.waiters.iter().map(|(_, id)| self.expected(*id)));
            waiters.min().map_or(self.normal[&task], |best| best.min(self.normal[&task]))
        }

        fn check(&self) {
            for task in self.normal.keys() {
                let lent = self.lent.get(task).copied().unwrap_or(u32::MAX);
                assert_eq!(lent.min(self.normal[task]), self.expected(*task), "task {task}");
            }
            for lock in self.graph.locks.values() {
                assert!(lock.waiters.is_sorted_by_key(|(priority, _)| *priority));
                for (priority, id) in &lock.waiters {
                    assert_eq!(*priority, self.expected(*id), "waiter {id} stands where it belongs");
                }
            }
        }
    }

    #[test]
    fn an_owner_inherits_from_its_most_urgent_waiter_and_gives_it_back() {
        let mut world = World::with(&[120, 50, 20, 70]);
        world.wait(7, 0, 1).unwrap();
        assert_eq!(world.lent.get(&0), Some(&50));
        world.wait(7, 0, 2).unwrap();
        assert_eq!(world.lent.get(&0), Some(&20));
        world.wait(7, 0, 3).unwrap();
        assert_eq!(world.hand_over(7), Some(2), "the most urgent waiter comes first");
        assert_eq!(world.lent.get(&0), None, "who owns nothing inherits nothing");
        assert_eq!(world.lent.get(&2), Some(&50), "the next one waits for the new owner");
        world.check();
        assert_eq!((world.hand_over(7), world.hand_over(7), world.hand_over(7)), (Some(1), Some(3), None));
        assert!(world.graph.is_empty() && world.lent.is_empty());
        assert_eq!(world.graph.take_left().len(), 6, "each handle that came in goes out");
    }

    #[test]
    fn urgency_goes_down_a_chain_of_locks_and_back() {
        // 0 owns lock 0, 1 owns lock 1 and waits for 0, and so on.
        let mut world = World::with(&[139, 130, 125, 120, 10]);
        for task in 1..5 {
            world.wait(task - 1, task as usize - 1, task as usize).unwrap();
            world.check();
        }
        assert!((0..4).all(|task| world.lent.get(&task) == Some(&10)));
        world.give_up(4);
        world.check();
        assert_eq!(world.lent.get(&3), None);
        assert_eq!(world.lent.get(&0), Some(&120));
        world.set_normal(3, 5);
        assert!((0..3).all(|task| world.lent.get(&task) == Some(&5)));
        world.check();
        world.set_normal(3, 139);
        world.check();
        assert_eq!(world.lent.get(&0), Some(&125));
        assert_eq!(world.hand_over(1), Some(2), "in the middle of the chain");
        world.check();
        assert_eq!(world.lent.get(&0), Some(&130));
    }

    #[test]
    fn a_circle_is_a_deadlock_of_any_length() {
        let mut world = World::with(&[1, 2, 3, 4]);
        assert_eq!(world.wait(9, 0, 0), Err(Errno::EDEADLK));
        world.wait(0, 0, 1).unwrap();
        world.wait(1, 1, 2).unwrap();
        world.wait(2, 2, 3).unwrap();
        assert_eq!(world.wait(3, 3, 0), Err(Errno::EDEADLK));
        world.check();
        world.give_up(2);
        assert_eq!(world.wait(3, 3, 0), Ok(()), "the circle is open");
        world.check();
    }

    #[test]
    fn a_chain_beyond_the_bound_is_refused() {
        let mut world = World::with(&vec![100; MAX_LOCK_DEPTH + 2]);
        for task in 1..MAX_LOCK_DEPTH {
            world.wait(task as u32, task - 1, task).unwrap();
        }
        assert_eq!(world.wait(5000, MAX_LOCK_DEPTH - 1, MAX_LOCK_DEPTH), Ok(()));
        assert_eq!(world.wait(5001, MAX_LOCK_DEPTH, MAX_LOCK_DEPTH + 1), Err(Errno::EDEADLK));
    }

    #[test]
    fn whatever_happens_everybody_is_as_urgent_as_who_waits() {
        let mut seed = 0x1234_5678_9abc_def1_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let mut world = World::with(&(0..12).map(|task| 20 * task + 5).collect::<Vec<_>>());
        // Lock n belongs to task n to begin with; a lock that nobody waits for may be anybody's.
        let mut owners: Vec<TaskId> = (0..12).collect();
        for _ in 0..20_000 {
            let (task, lock) = (random(12) as usize, random(12) as u32);
            match random(8) {
                0..4 if !world.graph.is_waiting(task) => {
                    let owner = world.graph.owner(&lock).unwrap_or(owners[lock as usize]);
                    let _ = world.wait(lock, owner, task);
                }
                4 => world.give_up(task),
                5 => {
                    if let Some(new) = world.hand_over(lock) {
                        owners[lock as usize] = new;
                    }
                }
                _ => world.set_normal(task, random(140) as u32),
            }
            world.check();
        }
        for task in 0..12 {
            world.give_up(task);
        }
        assert!(world.graph.is_empty() && world.lent.is_empty());
    }
}
