//! Process identifiers: pid_namespaces(7).
//!
//! A [`Pid`] is the identity that a task, a process group or a session is known by. It has one number in its own PID
//! namespace and one in each ancestor. It lives as long as anything refers to it; its numbers are free again when the
//! task is reaped and no group or session bears it any more (Linux `struct pid`, `free_pid`).

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use abi::Errno;
use abi::capability::{CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN};
use hal::sync::IrqLock;

use super::numbers::Numbers;
use super::{Creds, Task, TaskState, ThreadGroup};
use crate::Result;
use crate::ns::user::UserNs;
use crate::sync::{WaitQueue, order};

/// The default of `/proc/sys/kernel/pid_max`: PIDs are below it.
pub const PID_MAX_DEFAULT: i32 = 32768;
/// The smallest PID given out after the first wrap (Linux `RESERVED_PIDS`).
const RESERVED_PIDS: i32 = 300;

/// One number in one namespace.
struct Number {
    namespace: Arc<PidNamespace>,
    value: i32,
}

/// An identity.
pub struct Pid {
    /// Root namespace first, own namespace last. Never empty.
    numbers: Vec<Number>,
    task: IrqLock<Weak<Task>>,
}

/// A space of process numbers.
pub struct PidNamespace {
    /// The number of its file; `None` for the initial one.
    ino: Option<u64>,
    /// Whose capabilities count for it.
    pub owner: UserNs,
    /// 0 for the initial one.
    level: usize,
    /// Enclosing namespaces, root first.
    ancestors: Vec<Arc<PidNamespace>>,
    table: IrqLock<Table>,
    /// PIDs are below this.
    pub pid_max: AtomicI32,
    /// The process that adopts orphans, number 1; its end is the end of all in the namespace.
    init: IrqLock<Weak<ThreadGroup>>,
    /// No process may come in any more: its init ends.
    is_closed: AtomicBool,
    /// Threads in it, those of namespaces below included; and who waits for them to go.
    threads: AtomicUsize,
    emptied: WaitQueue,
}

/// PID namespaces nest so deep below the initial one (Linux `MAX_PID_NS_LEVEL`).
const MAX_LEVEL: usize = 32;

struct Table {
    /// The live identities. A number that was just taken is not here yet.
    pids: BTreeMap<i32, Weak<Pid>>,
    taken: Numbers,
    last: i32,
}

impl PidNamespace {
    /// The initial namespace.
    pub fn initial() -> Arc<Self> {
        Self::with_ancestors(Vec::new(), None, UserNs::initial())
    }

    /// One in `parent` (CLONE_NEWPID): `ENOSPC` when they nest too deep, `EINVAL` for an owner that is not in the owner of
    /// the parent (Linux `create_pid_namespace`).
    pub fn create(parent: &Arc<Self>, owner: UserNs) -> Result<Arc<Self>> {
        if !owner.is_in(&parent.owner) {
            return Err(Errno::EINVAL);
        }
        if parent.level >= MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        let mut ancestors = parent.ancestors.clone();
        ancestors.push(parent.clone());
        Ok(Self::with_ancestors(ancestors, Some(crate::ns::next_ino()), owner))
    }

    fn with_ancestors(ancestors: Vec<Arc<PidNamespace>>, ino: Option<u64>, owner: UserNs) -> Arc<Self> {
        Arc::new(Self {
            ino,
            owner,
            init: IrqLock::new(order::PIDS, Weak::new()),
            is_closed: AtomicBool::new(false),
            threads: AtomicUsize::new(0),
            emptied: WaitQueue::new(),
            level: ancestors.len(),
            ancestors,
            table: IrqLock::new(order::PIDS, Table::new()),
            pid_max: AtomicI32::new(PID_MAX_DEFAULT),
        })
    }

    /// The number of its file, unless it is the initial one.
    pub fn ino(&self) -> Option<u64> {
        self.ino
    }

    /// The namespace around it.
    pub fn parent(&self) -> Option<&Arc<PidNamespace>> {
        self.ancestors.last()
    }

    /// Whether it is `ancestor` or lies in it.
    pub fn is_in(&self, ancestor: &PidNamespace) -> bool {
        core::ptr::eq(self, ancestor) || self.ancestors.iter().any(|outer| core::ptr::eq(&**outer, ancestor))
    }

    /// The process that adopts orphans: number 1.
    pub fn init(&self) -> Option<Arc<ThreadGroup>> {
        self.init.lock().upgrade()
    }

    /// No process comes in any more, because init ends (Linux `disable_pid_allocation`).
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// Sleeps until only `count` threads are left in it.
    pub fn wait_for_threads(&self, count: usize) {
        let is_empty = || self.threads.load(Ordering::SeqCst) <= count;
        let outcome = self.emptied.wait_event(TaskState::Uninterruptible, is_empty);
        debug_assert!(outcome.is_ok(), "an uninterruptible sleep ends only with its condition");
    }

    /// The live identity with this number.
    pub fn find(&self, number: i32) -> Option<Arc<Pid>> {
        self.table.lock().pids.get(&number).and_then(Weak::upgrade)
    }

    /// The live identity with the smallest number not below `from`: how `/proc` is listed.
    pub fn find_from(&self, from: i32) -> Option<(i32, Arc<Pid>)> {
        let table = self.table.lock();
        table.pids.range(from..).find_map(|(number, pid)| pid.upgrade().map(|pid| (*number, pid)))
    }

    /// The number given out last, for `/proc/loadavg`.
    pub fn last_pid(&self) -> i32 {
        self.table.lock().last
    }

    /// Sets it: the next number given out is the one behind it (`/proc/sys/kernel/ns_last_pid`).
    pub fn set_last_pid(&self, number: i32) {
        self.table.lock().last = number;
    }

    /// Reserves the next free number: cyclic, from 300 after the first wrap (Linux `idr_alloc_cyclic` in `alloc_pid`).
    /// `ENOMEM` when init has ended (pid_namespaces(7)).
    fn reserve(&self) -> Result<i32> {
        self.check_open()?;
        let max = self.pid_max.load(Ordering::Relaxed);
        let mut table = self.table.lock();
        for from in [table.last + 1, RESERVED_PIDS.min(max - 1)] {
            if let Some(number) = table.free_in(from, max) {
                table.taken.insert(number.unsigned_abs() as usize);
                table.last = number;
                return Ok(number);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Reserves this number, for CLONE_SET_TID users (clone3(2)): `EINVAL` for what cannot be a PID here, `EPERM` without
    /// CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, `EEXIST` when it is in use (Linux `alloc_pid`).
    fn reserve_exactly(&self, number: i32, creds: &Creds) -> Result<i32> {
        // The first process of a namespace is number 1.
        if number < 1 || number >= self.pid_max.load(Ordering::Relaxed) || number != 1 && self.find(1).is_none() {
            return Err(Errno::EINVAL);
        }
        let may = |capability| creds.ns_capable(&self.owner, capability);
        if !may(CAP_CHECKPOINT_RESTORE) && !may(CAP_SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        self.check_open()?;
        let mut table = self.table.lock();
        if table.free_in(number, number + 1).is_none() {
            return Err(Errno::EEXIST);
        }
        table.taken.insert(number.unsigned_abs() as usize);
        Ok(number)
    }

    fn check_open(&self) -> Result<()> {
        if self.is_closed.load(Ordering::SeqCst) { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// A number is free again. With that of init, which may never have run, the namespace is at its end.
    fn release(&self, number: i32) {
        if number == 1 && self.level > 0 {
            self.close();
        }
        let mut table = self.table.lock();
        table.pids.remove(&number);
        table.taken.remove(number.unsigned_abs() as usize);
    }
}

impl Table {
    const fn new() -> Self {
        Self { pids: BTreeMap::new(), taken: Numbers::new(), last: 0 }
    }

    /// The first free number from `from` on and below `max`.
    fn free_in(&self, from: i32, max: i32) -> Option<i32> {
        let number = i32::try_from(self.taken.first_free(from.unsigned_abs() as usize)).ok()?;
        (number < max).then_some(number)
    }
}

impl Pid {
    /// A new identity in `namespace` and its ancestors. `EAGAIN` when a namespace is full.
    pub fn allocate(namespace: &Arc<PidNamespace>) -> Result<Arc<Pid>> {
        Self::build(namespace, |space, _| space.reserve())
    }

    /// The same with chosen numbers, the innermost namespace's first; the other namespaces choose themselves (clone3(2)
    /// `set_tid`). `EINVAL` for more numbers than there are namespaces.
    pub fn allocate_as(namespace: &Arc<PidNamespace>, wanted: &[i32], creds: &Creds) -> Result<Arc<Pid>> {
        if wanted.len() > namespace.level + 1 {
            return Err(Errno::EINVAL);
        }
        Self::build(namespace, |space, from_inside| match wanted.get(from_inside) {
            Some(number) => space.reserve_exactly(*number, creds),
            None => space.reserve(),
        })
    }

    /// Reserves a number in each namespace; `reserve` is told how far out it is.
    fn build(namespace: &Arc<PidNamespace>, reserve: impl Fn(&PidNamespace, usize) -> Result<i32>) -> Result<Arc<Pid>> {
        let mut numbers = Vec::with_capacity(namespace.level + 1);
        for space in namespace.ancestors.iter().chain(core::iter::once(namespace)) {
            match reserve(space, namespace.level - space.level) {
                Ok(value) => numbers.push(Number { namespace: space.clone(), value }),
                Err(error) => {
                    for number in &numbers {
                        number.namespace.release(number.value);
                    }
                    return Err(error);
                }
            }
        }
        let pid = Arc::new(Pid { numbers, task: IrqLock::new(order::PIDS, Weak::new()) });
        for number in &pid.numbers {
            number.namespace.table.lock().pids.insert(number.value, Arc::downgrade(&pid));
        }
        Ok(pid)
    }

    /// The identity of the idle tasks: number 0, in no table.
    pub fn idle(namespace: &Arc<PidNamespace>) -> Arc<Pid> {
        let numbers = alloc::vec![Number { namespace: namespace.clone(), value: 0 }];
        Arc::new(Pid { numbers, task: IrqLock::new(order::PIDS, Weak::new()) })
    }

    /// The number in the initial namespace.
    #[inline]
    pub fn global(&self) -> i32 {
        self.numbers[0].value
    }

    /// The number in `namespace`, or 0 if it is not visible from there (Linux `pid_nr_ns`).
    #[inline]
    pub fn number_in(&self, namespace: &PidNamespace) -> i32 {
        match self.numbers.get(namespace.level) {
            Some(number) if core::ptr::eq(&*number.namespace, namespace) => number.value,
            _ => 0,
        }
    }

    /// The numbers from `namespace` on inwards; none if it is not visible from there.
    pub fn numbers_from(&self, namespace: &PidNamespace) -> impl Iterator<Item = i32> + '_ {
        let visible = self.number_in(namespace) != 0;
        self.numbers.iter().skip(if visible { namespace.level } else { usize::MAX }).map(|number| number.value)
    }

    /// The namespace that the identity was made in.
    pub fn namespace(&self) -> &Arc<PidNamespace> {
        &self.numbers[self.numbers.len() - 1].namespace
    }

    /// The number in the namespace that the identity was made in.
    pub fn own_number(&self) -> i32 {
        self.numbers[self.numbers.len() - 1].value
    }

    /// The task that bears it now.
    pub fn task(&self) -> Option<Arc<Task>> {
        self.task.lock().upgrade()
    }

    /// The identity of a new task: counted in its namespaces, of which it is perhaps the init.
    pub(super) fn attach_new(&self, task: &Arc<Task>) {
        self.attach(task);
        for number in &self.numbers {
            number.namespace.threads.fetch_add(1, Ordering::SeqCst);
            if number.value == 1 {
                *number.namespace.init.lock() = Arc::downgrade(&task.group);
            }
        }
    }

    /// Gives it to `task`; exec hands the leader's identity to the thread that called (de_thread).
    pub(super) fn attach(&self, task: &Arc<Task>) {
        let old = core::mem::replace(&mut *self.task.lock(), Arc::downgrade(task));
        drop(old);
    }

    /// Nobody bears it any more; groups and sessions may still be named after it.
    pub(super) fn detach(&self) {
        let old = core::mem::take(&mut *self.task.lock());
        drop(old);
        for number in &self.numbers {
            let namespace = &number.namespace;
            namespace.threads.fetch_sub(1, Ordering::SeqCst);
            if namespace.is_closed.load(Ordering::SeqCst) {
                namespace.emptied.wake_all();
            }
        }
    }
}

/// The number by which the current task's PID namespace shows what is `global` in the initial one; 0: it does not.
pub fn shown(global: i32) -> i32 {
    let own = super::current().namespaces();
    if own.pid().level == 0 {
        return global;
    }
    crate::ns::initial_pid_namespace().find(global).map_or(0, |pid| pid.number_in(own.pid()))
}

impl Drop for Pid {
    fn drop(&mut self) {
        for number in self.numbers.iter().filter(|n| n.value != 0) {
            number.namespace.release(number.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Pid, PidNamespace, RESERVED_PIDS};
    use core::sync::atomic::Ordering;

    #[test]
    fn numbers_are_given_in_order_and_wrap_to_300() {
        let space = PidNamespace::initial();
        space.pid_max.store(302, Ordering::Relaxed);
        let first = Pid::allocate(&space).unwrap();
        assert_eq!(first.global(), 1);
        for expected in 2..302 {
            assert_eq!(Pid::allocate(&space).unwrap().global(), expected);
        }
        assert_eq!(Pid::allocate(&space).unwrap().global(), RESERVED_PIDS);
        assert!(space.find(1).is_some());
        assert!(space.find(2).is_none());
    }

    #[test]
    fn a_full_namespace_is_eagain() {
        let space = PidNamespace::initial();
        space.pid_max.store(302, Ordering::Relaxed);
        let held: alloc::vec::Vec<_> = (1..302).map(|_| Pid::allocate(&space).unwrap()).collect();
        assert!(Pid::allocate(&space).is_err());
        drop(held);
        assert!(Pid::allocate(&space).is_ok());
    }
}
