//! Signals that wait: a set of facts, and for most of them the siginfo that tells more.
//!
//! A standard signal waits once however often it was sent; real-time signals queue in order, with their values (signal(7)).
//! What is queued is charged to the real user id of the receiver (RLIMIT_SIGPENDING). A storm of queued signals is held in
//! pieces of about a page: no large allocation, no search through other signals' entries, and memory that runs out is
//! `EAGAIN` for the sender.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::Errno;
use abi::resource::RLIMIT_SIGPENDING;
use abi::signal as s;
use abi::signal::SigInfo;
use hal::sync::IrqLock;

use super::{SYNCHRONOUS, SigSet, bit};
use crate::Result;
use crate::sync::order;
use crate::task::Task;

hal::global! {
    /// Queued signals per real user id.
    static ACCOUNTS: IrqLock<BTreeMap<u32, Weak<AtomicUsize>>> = IrqLock::new(order::SIGNAL_ACCOUNTS, BTreeMap::new());
}

/// How many signals are queued for a real user id: `SigQ` in `/proc/PID/status`.
pub fn queued_for_user(uid: u32) -> usize {
    let account = ACCOUNTS.lock().get(&uid).and_then(Weak::upgrade);
    account.map_or(0, |account| account.load(Ordering::Relaxed))
}

/// One user's count, kept at hand by each process.
#[derive(Default)]
pub(super) struct Account {
    user: Option<(u32, Arc<AtomicUsize>)>,
}

impl Account {
    fn of(&mut self, uid: u32) -> &Arc<AtomicUsize> {
        if self.user.as_ref().is_none_or(|(owner, _)| *owner != uid) {
            self.user = None;
        }
        let (_, count) = self.user.get_or_insert_with(|| (uid, open_account(uid)));
        count
    }
}

fn open_account(uid: u32) -> Arc<AtomicUsize> {
    let mut accounts = ACCOUNTS.lock();
    if let Some(account) = accounts.get(&uid).and_then(Weak::upgrade) {
        return account;
    }
    accounts.retain(|_, account| account.strong_count() > 0);
    let account = Arc::new(AtomicUsize::new(0));
    accounts.insert(uid, Arc::downgrade(&account));
    account
}

/// A queued signal's place on its user's account, given back when it is dropped.
pub(crate) struct Charge(Arc<AtomicUsize>);

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What becomes of a signal's siginfo.
pub(super) enum Admission {
    /// It is queued, at the user's charge, or at nobody's.
    Queue(Option<Charge>),
    /// A POSIX timer's: it was paid for when the timer was made, and is queued beside another one of its number.
    Timer,
    /// The limit is reached: only the fact is kept.
    Fact,
}

/// Charges a signal to its receiver's real user id (Linux `__sigqueue_alloc`): one instance of a standard signal can
/// always be sent by kill(2) or the kernel, beyond the limit queued real-time signals are refused with `EAGAIN`.
pub(super) fn admit(target: &Task, account: &mut Account, info: &SigInfo) -> Result<Admission> {
    let count = account.of(target.real_uid());
    let queued = count.fetch_add(1, Ordering::Relaxed);
    let charge = Charge(count.clone());
    let always = info.signal() < s::SIGRTMIN && info.code() >= 0;
    if always || (queued as u64) < target.rlimit(RLIMIT_SIGPENDING) {
        return Ok(Admission::Queue(Some(charge)));
    }
    if must_be_queued(info) { Err(Errno::EAGAIN) } else { Ok(Admission::Fact) }
}

/// Charges a POSIX timer, whose signal must not fail to be queued later: `EAGAIN` at the limit (timer_create(2), NOTES).
pub(crate) fn charge_timer(owner: &Task) -> Result<Charge> {
    let count = open_account(owner.real_uid());
    let queued = count.fetch_add(1, Ordering::Relaxed);
    let charge = Charge(count);
    if (queued as u64) < owner.rlimit(RLIMIT_SIGPENDING) { Ok(charge) } else { Err(Errno::EAGAIN) }
}

/// Whether the sender is to be told that the siginfo cannot be kept (`__send_signal_locked`).
fn must_be_queued(info: &SigInfo) -> bool {
    info.signal() >= s::SIGRTMIN && info.code() != s::SI_USER && info.code() != s::SI_KERNEL
}

struct Queued {
    info: SigInfo,
    /// A POSIX timer sent it. `si_code` alone says nothing: rt_sigqueueinfo(2) lets users give any.
    is_of_timer: bool,
    /// Given back when the signal is taken.
    _charge: Option<Charge>,
}

impl Queued {
    /// Copies the siginfo out; the mark says that it is of a timer.
    fn tell(&self, info: &mut SigInfo) {
        *info = self.info;
        if info.code() == s::SI_TIMER {
            info.set_mark(u32::from(self.is_of_timer));
        }
    }
}

/// Signals of one real-time number, oldest first.
#[derive(Default)]
struct Fifo {
    pieces: VecDeque<VecDeque<Queued>>,
}

impl Fifo {
    /// About a page.
    const PIECE: usize = 4096 / size_of::<Queued>();

    fn push(&mut self, queued: Queued) -> Result<()> {
        let no_memory = |_| Errno::EAGAIN;
        if self.pieces.back().is_none_or(|piece| piece.len() == Self::PIECE) {
            let mut piece = VecDeque::new();
            if !self.pieces.is_empty() {
                piece.try_reserve_exact(Self::PIECE).map_err(no_memory)?;
            }
            self.pieces.try_reserve(1).map_err(no_memory)?;
            self.pieces.push_back(piece);
        }
        let piece = self.pieces.back_mut().ok_or(Errno::EAGAIN)?;
        piece.try_reserve(1).map_err(no_memory)?;
        piece.push_back(queued);
        Ok(())
    }

    fn pop(&mut self) -> Option<Queued> {
        let oldest = self.pieces.front_mut()?;
        let queued = oldest.pop_front();
        if oldest.is_empty() {
            self.pieces.pop_front();
        }
        queued
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// Signals that wait.
#[derive(Default)]
pub struct Pending {
    pub(super) mask: SigSet,
    /// At most one of each number, and those of timers.
    standard: VecDeque<Queued>,
    /// Numbers that have something queued.
    real_time: Vec<(u32, Fifo)>,
}

impl Pending {
    pub(super) const fn new() -> Self {
        Self { mask: 0, standard: VecDeque::new(), real_time: Vec::new() }
    }

    /// Adds a signal. `EAGAIN` when there is no memory for a siginfo that must be queued.
    pub(super) fn add(&mut self, info: &SigInfo, admission: Admission) -> Result<()> {
        let signal = info.signal();
        let is_standard = signal < s::SIGRTMIN;
        let is_of_timer = matches!(admission, Admission::Timer);
        if is_standard && !is_of_timer && self.mask & bit(signal) != 0 {
            return Ok(());
        }
        let charge = match admission {
            Admission::Queue(charge) => Some(charge),
            Admission::Timer => Some(None),
            Admission::Fact => None,
        };
        if let Some(charge) = charge {
            let queued = Queued { info: *info, is_of_timer, _charge: charge };
            let kept = if is_standard { self.push_standard(queued) } else { self.push_real_time(signal, queued) };
            if kept.is_err() && must_be_queued(info) {
                return kept;
            }
        }
        self.mask |= bit(signal);
        Ok(())
    }

    /// Adds the fact alone: SIGKILL needs no more.
    pub(super) fn add_fact(&mut self, signal: u32) {
        self.mask |= bit(signal);
    }

    /// A POSIX timer expired whose signal may wait here already: then it counts one more overrun (Linux `send_sigqueue`).
    /// False when it does not wait.
    pub(super) fn count_overrun(&mut self, signal: u32, timer: i32) -> bool {
        let is_it =
            |queued: &&mut Queued| queued.is_of_timer && queued.info.signal() == signal && queued.info.pid() == timer;
        let fifo = self.real_time.iter_mut().find(|(number, _)| *number == signal);
        let real_time = fifo.into_iter().flat_map(|(_, fifo)| fifo.pieces.iter_mut().flatten());
        let Some(queued) = self.standard.iter_mut().chain(real_time).find(is_it) else { return false };
        let overruns = queued.info.overruns().saturating_add(1);
        queued.info.set_overruns(overruns);
        true
    }

    fn push_standard(&mut self, queued: Queued) -> Result<()> {
        self.standard.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
        self.standard.push_back(queued);
        Ok(())
    }

    fn push_real_time(&mut self, signal: u32, queued: Queued) -> Result<()> {
        if let Some((_, fifo)) = self.real_time.iter_mut().find(|(number, _)| *number == signal) {
            return fifo.push(queued);
        }
        let mut fifo = Fifo::default();
        fifo.push(queued)?;
        self.real_time.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
        self.real_time.push((signal, fifo));
        Ok(())
    }

    /// Takes the next signal that `blocked` lets through into `info`: faults first, then the lowest number, oldest first
    /// (Linux `next_signal`, `collect_signal`). False when there is none.
    pub(super) fn take_into(&mut self, blocked: SigSet, info: &mut SigInfo) -> bool {
        let ready = self.mask & !blocked;
        if ready == 0 {
            return false;
        }
        let first = if ready & SYNCHRONOUS != 0 { ready & SYNCHRONOUS } else { ready };
        let signal = first.trailing_zeros() + 1;
        if signal < s::SIGRTMIN && self.take_standard(signal, info) {
            return true;
        }
        // Of a signal whose siginfo was not kept only the fact can be told.
        match self.take_real_time(signal) {
            Some(queued) => queued.tell(info),
            None => *info = SigInfo::user(signal, s::SI_USER, 0, 0),
        }
        true
    }

    fn take_standard(&mut self, signal: u32, info: &mut SigInfo) -> bool {
        self.mask &= !bit(signal);
        let Some(at) = self.standard.iter().position(|queued| queued.info.signal() == signal) else { return false };
        self.standard[at].tell(info);
        // The usual one is alone, and its place is not searched again.
        if at == 0 {
            drop(self.standard.pop_front())
        } else {
            drop(self.standard.remove(at))
        }
        // Two of a number wait when a timer sent one of them (Linux `collect_signal`: still pending).
        if self.standard.iter().any(|queued| queued.info.signal() == signal) {
            self.mask |= bit(signal);
        }
        true
    }

    fn take_real_time(&mut self, signal: u32) -> Option<Queued> {
        let Some(at) = self.real_time.iter().position(|(number, _)| *number == signal) else {
            self.mask &= !bit(signal);
            return None;
        };
        let fifo = &mut self.real_time[at].1;
        let queued = fifo.pop();
        if fifo.is_empty() {
            self.mask &= !bit(signal);
            self.real_time.swap_remove(at);
        }
        queued
    }

    /// Copies of what is queued, from the one at `first` on.
    pub(super) fn copies(&self, first: usize, count: usize) -> Vec<SigInfo> {
        let real_time = self.real_time.iter().flat_map(|(_, fifo)| fifo.pieces.iter().flatten());
        self.standard.iter().chain(real_time).skip(first).take(count).map(|queued| queued.info).collect()
    }

    /// Throws away what waits of `set`.
    pub(super) fn remove(&mut self, set: SigSet) {
        if self.mask & set != 0 {
            self.mask &= !set;
            self.standard.retain(|queued| bit(queued.info.signal()) & set == 0);
            self.real_time.retain(|(number, _)| bit(*number) & set == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Fifo, Pending, bit};
    use abi::signal::{
        SI_QUEUE, SI_USER, SIGBUS, SIGCONT, SIGFPE, SIGINT, SIGKILL, SIGRTMIN, SIGSEGV, SIGTERM, SIGUSR1, SigInfo,
    };
    use alloc::vec::Vec;

    impl Pending {
        fn take(&mut self, blocked: super::SigSet) -> Option<SigInfo> {
            let mut info = SigInfo::default();
            self.take_into(blocked, &mut info).then_some(info)
        }
    }

    fn add(pending: &mut Pending, signal: u32, value: i32) {
        let info = SigInfo::child_with(signal, SI_QUEUE, 1, 0, value);
        pending.add(&info, Admission::Queue(None)).unwrap();
    }

    fn all(pending: &mut Pending) -> Vec<(u32, i32)> {
        core::iter::from_fn(|| pending.take(0)).map(|info| (info.signal(), info.status())).collect()
    }

    #[test]
    fn standard_signals_are_pending_once_and_real_time_ones_queue() {
        let mut pending = Pending::new();
        for _ in 0..3 {
            pending.add(&SigInfo::user(SIGTERM, SI_USER, 1, 0), Admission::Queue(None)).unwrap();
            pending.add(&SigInfo::user(SIGRTMIN, SI_QUEUE, 1, 0), Admission::Queue(None)).unwrap();
        }
        let order: Vec<u32> = core::iter::from_fn(|| pending.take(0)).map(|info| info.signal()).collect();
        assert_eq!(order, [SIGTERM, SIGRTMIN, SIGRTMIN, SIGRTMIN]);
    }

    #[test]
    fn the_first_of_a_standard_signal_is_the_one_that_is_told() {
        let mut pending = Pending::new();
        add(&mut pending, SIGUSR1, 1);
        add(&mut pending, SIGUSR1, 2);
        assert_eq!(all(&mut pending), [(SIGUSR1, 1)]);
    }

    #[test]
    fn faults_come_first_and_blocked_signals_stay() {
        let mut pending = Pending::new();
        add(&mut pending, SIGINT, 0);
        for fault in [SIGSEGV, SIGFPE, SIGBUS] {
            add(&mut pending, fault, 0);
        }
        let blocked = bit(SIGINT);
        let order: Vec<u32> = core::iter::from_fn(|| pending.take(blocked)).map(|info| info.signal()).collect();
        assert_eq!(order, [SIGBUS, SIGFPE, SIGSEGV]);
        assert_eq!(pending.mask, bit(SIGINT));
    }

    #[test]
    fn lower_numbers_come_first_and_each_number_keeps_its_order() {
        let mut pending = Pending::new();
        for value in 0..3 {
            for signal in [SIGRTMIN + 5, 64, SIGRTMIN, SIGUSR1] {
                add(&mut pending, signal, value);
            }
        }
        let mut expected = alloc::vec![(SIGUSR1, 0)];
        for signal in [SIGRTMIN, SIGRTMIN + 5, 64] {
            expected.extend((0..3).map(|value| (signal, value)));
        }
        assert_eq!(all(&mut pending), expected);
        assert_eq!(pending.mask, 0);
    }

    #[test]
    fn of_a_signal_beyond_the_limit_the_fact_is_kept() {
        let mut pending = Pending::new();
        pending.add(&SigInfo::user(SIGRTMIN, SI_USER, 7, 8), Admission::Fact).unwrap();
        let info = pending.take(0).unwrap();
        assert_eq!((info.signal(), info.code(), info.pid(), info.uid()), (SIGRTMIN, SI_USER, 0, 0));
        assert!(pending.take(0).is_none());
    }

    #[test]
    fn what_is_removed_is_gone_and_the_rest_stays_in_order() {
        let mut pending = Pending::new();
        for signal in [SIGCONT, SIGRTMIN, SIGUSR1, SIGRTMIN + 1, SIGRTMIN] {
            add(&mut pending, signal, 0);
        }
        pending.remove(bit(SIGCONT) | bit(SIGRTMIN));
        assert_eq!(all(&mut pending), [(SIGUSR1, 0), (SIGRTMIN + 1, 0)]);
    }

    #[test]
    fn a_long_queue_keeps_its_order_across_its_pieces() {
        let mut pending = Pending::new();
        let count = i32::try_from(Fifo::PIECE).unwrap() * 5 + 3;
        (0..count).for_each(|value| add(&mut pending, SIGRTMIN + 2, value));
        let values: Vec<i32> = all(&mut pending).into_iter().map(|(_, value)| value).collect();
        assert!(values.into_iter().eq(0..count));
    }

    #[test]
    fn a_queue_that_is_emptied_holds_no_memory() {
        let mut pending = Pending::new();
        (0..1000).for_each(|value| add(&mut pending, 40, value));
        all(&mut pending);
        assert_eq!(pending.real_time.len(), 0);
    }

    #[test]
    fn a_bare_fact_of_sigkill_is_taken_once() {
        let mut pending = Pending::new();
        pending.add_fact(SIGKILL);
        assert_eq!(pending.take(0).map(|info| info.signal()), Some(SIGKILL));
        assert!(pending.take(0).is_none());
    }

    proptest::proptest! {
        /// Against a plain list: what is taken is the lowest ready number, faults before others, oldest first.
        #[test]
        fn random_adds_and_takes_agree_with_a_plain_list(
            steps in proptest::collection::vec((1u32..=64, proptest::bool::ANY, proptest::num::u64::ANY), 0..300)
        ) {
            let mut pending = Pending::new();
            let mut list: Vec<(u32, i32)> = Vec::new();
            for ((signal, take, blocked), value) in steps.into_iter().zip(0..) {
                if !take {
                    if signal >= SIGRTMIN || !list.iter().any(|(number, _)| *number == signal) {
                        list.push((signal, value));
                    }
                    add(&mut pending, signal, value);
                    continue;
                }
                let ready = list.iter().filter(|(number, _)| blocked & bit(*number) == 0);
                let rank = |number: u32| (super::SYNCHRONOUS & bit(number) == 0, number);
                let best = ready.map(|(number, _)| *number).min_by_key(|number| rank(*number));
                let expected = best.map(|best| {
                    let at = list.iter().position(|(number, _)| *number == best).unwrap();
                    list.remove(at)
                });
                assert_eq!(pending.take(blocked).map(|info| (info.signal(), info.status())), expected);
            }
        }
    }
}
