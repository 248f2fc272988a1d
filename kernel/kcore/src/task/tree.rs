//! The family tree: parents and children, the threads of each process, process groups and sessions.
//!
//! One table under one lock (Linux `tasklist_lock`). Relations are indexes into the table, so that moving a child to a new
//! parent or out of its group is O(1) whatever the size of the family. A node is a process; it exists from clone until it
//! is reaped.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use hal::sync::{IrqGuard, IrqLock};

use super::{Pid, Task, ThreadGroup};
use crate::sync::order;

/// Index of a process in the table.
pub type NodeId = u32;
/// No process.
pub const NO_NODE: NodeId = u32::MAX;

/// Which ring of relatives a link belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ring {
    Sibling = 0,
    Group = 1,
    Session = 2,
}

#[derive(Clone, Copy)]
struct Link {
    previous: NodeId,
    next: NodeId,
}

/// First and last of a ring.
#[derive(Clone, Copy)]
struct Head {
    first: NodeId,
    last: NodeId,
}

const EMPTY: Head = Head { first: NO_NODE, last: NO_NODE };
const UNLINKED: Link = Link { previous: NO_NODE, next: NO_NODE };

/// How far a process is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitState {
    /// At least one thread lives.
    Alive,
    /// All threads are gone; the parent has not waited (EXIT_ZOMBIE).
    Zombie,
}

/// A process among its relatives.
pub struct Node {
    /// What its threads share.
    pub group: Arc<ThreadGroup>,
    /// Its threads, leader first while it lives.
    pub threads: Vec<Arc<Task>>,
    /// Its parent process ([`NO_NODE`] for the first processes).
    pub parent: NodeId,
    /// TID of the parent's thread that it is a child of: the one that created it while that lives (prctl(2)
    /// PR_SET_PDEATHSIG, wait(2) __WNOTHREAD).
    pub parent_thread: i32,
    /// Its process group.
    pub pgrp: Arc<Pid>,
    /// Its session.
    pub session: Arc<Pid>,
    /// Zombie or not.
    pub exit_state: ExitState,
    /// The leader has ended; the process lives on in its other threads.
    pub leader_left: bool,
    children: Head,
    links: [Link; 3],
}

impl Node {
    /// PID and real user id by which `other` knows the process: in its own namespaces.
    pub fn identity_seen_by(&self, other: &Task) -> (i32, u32) {
        let kuid = self.group.leader().map_or(0, |leader| leader.creds().uid);
        (self.group.pid.number_in(other.group.pid.namespace()), other.creds().user_ns.shown_uid(kuid))
    }
}

/// The table.
pub struct Tree {
    nodes: Vec<Option<Node>>,
    free: Vec<NodeId>,
    /// Members of each process group and session, by global number.
    groups: BTreeMap<i32, Head>,
    sessions: BTreeMap<i32, Head>,
    threads: usize,
}

hal::global! {
    static TREE: IrqLock<Tree> = IrqLock::new(order::TASKS, Tree::new());
}

/// Locks the table.
pub fn lock() -> IrqGuard<'static, Tree> {
    let tree: &'static IrqLock<Tree> = &TREE;
    tree.lock()
}

impl Tree {
    const fn new() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), groups: BTreeMap::new(), sessions: BTreeMap::new(), threads: 0 }
    }

    /// The process with this index. Panics when there is none: indexes are not guessed.
    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes[id as usize].as_ref().expect("a node id names a live node")
    }

    /// The same, to change.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id as usize].as_mut().expect("a node id names a live node")
    }

    /// The process of `group`, unless it was reaped.
    pub fn find(&self, group: &ThreadGroup) -> Option<NodeId> {
        let id = group.node.load(Ordering::Relaxed);
        (id != NO_NODE).then_some(id)
    }

    /// How many threads exist, zombies included.
    pub fn thread_count(&self) -> usize {
        self.threads
    }

    /// Adds a process with its first thread as a child of `parent` ([`NO_NODE`]: of nobody).
    pub fn add_process(&mut self, leader: &Arc<Task>, parent: NodeId, pgrp: Arc<Pid>, session: Arc<Pid>) -> NodeId {
        let node = Node {
            group: leader.group.clone(),
            threads: alloc::vec![leader.clone()],
            parent: NO_NODE,
            parent_thread: 0,
            pgrp: pgrp.clone(),
            session: session.clone(),
            exit_state: ExitState::Alive,
            leader_left: false,
            children: EMPTY,
            links: [UNLINKED; 3],
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                (self.nodes.len() - 1) as NodeId
            }
        };
        leader.group.node.store(id, Ordering::Relaxed);
        self.threads += 1;
        self.set_parent(id, parent);
        self.join(Ring::Group, id, pgrp.global());
        self.join(Ring::Session, id, session.global());
        id
    }

    /// Adds a thread to its process.
    pub fn add_thread(&mut self, thread: &Arc<Task>) {
        let id = self.find(&thread.group).expect("a thread is added by a living one");
        self.threads += 1;
        self.node_mut(id).threads.push(thread.clone());
    }

    /// Takes a thread out of its process and returns the table's reference to it.
    pub fn remove_thread(&mut self, thread: &Task) -> Option<Arc<Task>> {
        let id = self.find(&thread.group)?;
        let threads = &mut self.node_mut(id).threads;
        let at = threads.iter().position(|t| core::ptr::eq(&**t, thread))?;
        let gone = threads.remove(at);
        self.threads -= 1;
        Some(gone)
    }

    /// Takes a process out: reaped. Its children were given away before. The caller drops what is returned after
    /// unlocking.
    pub fn remove_process(&mut self, id: NodeId) -> Node {
        debug_assert!(self.node(id).children.first == NO_NODE, "a reaped process has no children");
        self.set_parent(id, NO_NODE);
        let (pgrp, session) = (self.node(id).pgrp.global(), self.node(id).session.global());
        self.leave(Ring::Group, id, pgrp);
        self.leave(Ring::Session, id, session);
        let node = self.nodes[id as usize].take().expect("checked by node()");
        node.group.node.store(NO_NODE, Ordering::Relaxed);
        self.threads -= node.threads.len();
        self.free.push(id);
        node
    }

    /// Makes `id` a child of `parent`, the youngest.
    pub fn set_parent(&mut self, id: NodeId, parent: NodeId) {
        let old = self.node(id).parent;
        if old != NO_NODE {
            let mut head = self.node(old).children;
            self.unlink(Ring::Sibling, &mut head, id);
            self.node_mut(old).children = head;
        }
        self.node_mut(id).parent = parent;
        let group = &self.node(id).group;
        let seen = if parent == NO_NODE { 0 } else { self.node(parent).group.pid.number_in(group.pid.namespace()) };
        group.parent.store(seen, Ordering::Relaxed);
        if parent != NO_NODE {
            let mut head = self.node(parent).children;
            self.push_back(Ring::Sibling, &mut head, id);
            self.node_mut(parent).children = head;
        }
    }

    /// The children of thread `from` of process `id` become those of its thread `to`. Returns them.
    pub fn hand_children(&mut self, id: NodeId, from: i32, to: i32) -> Vec<NodeId> {
        let children: Vec<NodeId> = self.children(id).filter(|child| self.node(*child).parent_thread == from).collect();
        for child in &children {
            self.node_mut(*child).parent_thread = to;
        }
        children
    }

    /// Moves a process to another process group.
    pub fn set_pgrp(&mut self, id: NodeId, pgrp: Arc<Pid>) -> Arc<Pid> {
        let old = self.node(id).pgrp.global();
        self.leave(Ring::Group, id, old);
        self.join(Ring::Group, id, pgrp.global());
        core::mem::replace(&mut self.node_mut(id).pgrp, pgrp)
    }

    /// Moves a process to another session.
    pub fn set_session(&mut self, id: NodeId, session: Arc<Pid>) -> Arc<Pid> {
        let old = self.node(id).session.global();
        self.leave(Ring::Session, id, old);
        self.join(Ring::Session, id, session.global());
        core::mem::replace(&mut self.node_mut(id).session, session)
    }

    /// The children of a process, oldest first.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.ring(Ring::Sibling, self.node(id).children)
    }

    /// The members of a process group by its global number.
    pub fn group_members(&self, pgrp: i32) -> impl Iterator<Item = NodeId> + '_ {
        self.ring(Ring::Group, self.groups.get(&pgrp).copied().unwrap_or(EMPTY))
    }

    /// The members of a session by its global number.
    pub fn session_members(&self, session: i32) -> impl Iterator<Item = NodeId> + '_ {
        self.ring(Ring::Session, self.sessions.get(&session).copied().unwrap_or(EMPTY))
    }

    /// Every process.
    pub fn processes(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0 as NodeId..).zip(&self.nodes).filter(|(_, node)| node.is_some()).map(|(id, _)| id)
    }

    /// The numbers of all processes in `namespace` that are not below `from`, in order: a listing of `/proc`.
    pub fn numbers_from(&self, namespace: &super::PidNamespace, from: i32) -> Vec<i32> {
        let mut numbers = Vec::with_capacity(self.nodes.len());
        for node in self.nodes.iter().flatten() {
            let number = node.group.pid.number_in(namespace);
            if number >= from {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        numbers
    }

    fn ring(&self, ring: Ring, head: Head) -> impl Iterator<Item = NodeId> + '_ {
        let mut at = head.first;
        core::iter::from_fn(move || {
            let id = (at != NO_NODE).then_some(at)?;
            at = self.node(id).links[ring as usize].next;
            Some(id)
        })
    }

    fn heads(&mut self, ring: Ring) -> &mut BTreeMap<i32, Head> {
        match ring {
            Ring::Session => &mut self.sessions,
            Ring::Group | Ring::Sibling => &mut self.groups,
        }
    }

    fn join(&mut self, ring: Ring, id: NodeId, number: i32) {
        let mut head = self.heads(ring).get(&number).copied().unwrap_or(EMPTY);
        self.push_back(ring, &mut head, id);
        self.heads(ring).insert(number, head);
    }

    fn leave(&mut self, ring: Ring, id: NodeId, number: i32) {
        let Some(mut head) = self.heads(ring).get(&number).copied() else { return };
        self.unlink(ring, &mut head, id);
        if head.first == NO_NODE {
            self.heads(ring).remove(&number);
        } else {
            self.heads(ring).insert(number, head);
        }
    }

    fn push_back(&mut self, ring: Ring, head: &mut Head, id: NodeId) {
        self.node_mut(id).links[ring as usize] = Link { previous: head.last, next: NO_NODE };
        match head.last {
            NO_NODE => head.first = id,
            last => self.node_mut(last).links[ring as usize].next = id,
        }
        head.last = id;
    }

    fn unlink(&mut self, ring: Ring, head: &mut Head, id: NodeId) {
        let Link { previous, next } = core::mem::replace(&mut self.node_mut(id).links[ring as usize], UNLINKED);
        match previous {
            NO_NODE => head.first = next,
            previous => self.node_mut(previous).links[ring as usize].next = next,
        }
        match next {
            NO_NODE => head.last = previous,
            next => self.node_mut(next).links[ring as usize].previous = previous,
        }
    }
}
