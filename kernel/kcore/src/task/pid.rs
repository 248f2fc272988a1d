//! Process identifiers: pid_namespaces(7).
//!
//! A [`Pid`] is the identity that a task, a process group or a session is known by. It has one number in its own PID
//! namespace and one in each ancestor. It lives as long as anything refers to it; its numbers are free again when the
//! task is reaped and no group or session bears it any more (Linux `struct pid`, `free_pid`).

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering};

use abi::Errno;
use abi::capability::{CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN};
use hal::sync::IrqLock;

use super::numbers::Numbers;
use super::{Creds, Task};
use crate::Result;
use crate::sync::order;

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
    /// 0 for the initial one.
    level: usize,
    /// Enclosing namespaces, root first.
    ancestors: Vec<Arc<PidNamespace>>,
    table: IrqLock<Table>,
    /// PIDs are below this.
    pub pid_max: AtomicI32,
}

struct Table {
    /// The live identities. A number that was just taken is not here yet.
    pids: BTreeMap<i32, Weak<Pid>>,
    taken: Numbers,
    last: i32,
}

impl PidNamespace {
    /// The initial namespace.
    pub fn initial() -> Arc<Self> {
        Self::with_ancestors(Vec::new())
    }

    fn with_ancestors(ancestors: Vec<Arc<PidNamespace>>) -> Arc<Self> {
        Arc::new(Self {
            level: ancestors.len(),
            ancestors,
            table: IrqLock::new(order::PIDS, Table::new()),
            pid_max: AtomicI32::new(PID_MAX_DEFAULT),
        })
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
    fn reserve(&self) -> Result<i32> {
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
        if !creds.capable(CAP_CHECKPOINT_RESTORE) && !creds.capable(CAP_SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let mut table = self.table.lock();
        if table.free_in(number, number + 1).is_none() {
            return Err(Errno::EEXIST);
        }
        table.taken.insert(number.unsigned_abs() as usize);
        Ok(number)
    }

    fn release(&self, number: i32) {
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

    /// Gives it to `task`; exec hands the leader's identity to the thread that called (de_thread).
    pub(super) fn attach(&self, task: &Arc<Task>) {
        let old = core::mem::replace(&mut *self.task.lock(), Arc::downgrade(task));
        drop(old);
    }

    /// Nobody bears it any more; groups and sessions may still be named after it.
    pub(super) fn detach(&self) {
        let old = core::mem::take(&mut *self.task.lock());
        drop(old);
    }
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
