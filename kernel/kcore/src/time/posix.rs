//! Timers of timer_create(2): a clock, a time, and whom to tell.
//!
//! A timer has at most one signal queued. While that waits, a periodic timer rests: how often it would have expired is
//! known from the clock when the signal is taken, which starts it again (Linux `posixtimer_rearm`). So a timer of a
//! microsecond whose process sleeps costs nothing.
//!
//! `State` is the timer's own lock's; the queues of clocks ([`super::timer`], [`super::cpu`]) are told what it decides while
//! it is held, and call [`PosixTimer::expire`] without a lock of theirs.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::Errno;
use abi::signal::{SI_TIMER, SigInfo};
use abi::time as t;
use abi::time::{Itimerspec, Timespec};
use hal::sync::{IrqGuard, IrqLock, SpinLock};

use super::clock;
use super::cpu::{CpuClock, CpuTimer, Use};
use super::timer::{Base, Timer, TimerCallback};
use crate::Result;
use crate::sched::TICK_NS;
use crate::signal::{self, TimerSignal};
use crate::sync::order;
use crate::task::{ThreadGroup, current};

/// How a timer tells of its expiry (sigevent(3type)), as the caller gave it.
#[derive(Clone, Copy, Debug)]
pub struct Notify {
    /// `SIGEV_NONE`, `SIGEV_SIGNAL`, `SIGEV_THREAD`, or `SIGEV_THREAD_ID`.
    pub kind: i32,
    /// The signal.
    pub signal: u32,
    /// `sigev_value`.
    pub value: u64,
    /// The one thread that gets the signal, by its number in the initial namespace.
    pub thread: Option<i32>,
}

/// The timers that a process made.
pub(super) struct Timers {
    by_id: BTreeMap<i32, Arc<PosixTimer>>,
    /// Ids go up, and are not given out again at once (Linux `posix_timer_add`).
    next_id: i32,
}

impl Timers {
    pub(super) const fn new() -> Self {
        Self { by_id: BTreeMap::new(), next_id: 0 }
    }

    fn free_id(&mut self) -> Result<i32> {
        let start = self.next_id;
        loop {
            let id = self.next_id;
            self.next_id = if id == i32::MAX { 0 } else { id + 1 };
            if !self.by_id.contains_key(&id) {
                return Ok(id);
            }
            if self.next_id == start {
                return Err(Errno::EAGAIN);
            }
        }
    }
}

/// What a timer counts on.
enum Source {
    Clock { settable: Base, timer: spin::Once<Arc<Timer>> },
    Cpu { clock: CpuClock, timer: spin::Once<Arc<CpuTimer>> },
}

/// A timer of timer_create(2).
pub struct PosixTimer {
    id: i32,
    clock: i32,
    notify: Notify,
    group: Weak<ThreadGroup>,
    source: Source,
    state: IrqLock<State>,
    /// Its signal's place in the user's account.
    _charge: signal::Charge,
}

struct State {
    interval_ns: u64,
    /// When it expires or, at rest, expired: on its clock.
    expiry_ns: u64,
    /// The clock for `expiry_ns`; a relative time is not moved by setting the clock.
    base: Base,
    /// It waits in its clock's queue.
    is_armed: bool,
    /// Counts settings, so that a signal of a former one is known.
    setting: u64,
    /// Of which setting a signal is queued, and whether taking it starts the timer again.
    queued: Option<u64>,
    rests: bool,
    /// Expiries beyond the first since the last signal; -1 when there was none.
    overrun: i64,
    /// Of the signal that was taken last.
    overrun_last: i64,
}

impl State {
    /// Moves the expiry beyond `now_ns` by intervals. Returns by how many (Linux `hrtimer_forward`).
    fn forward(&mut self, now_ns: u64) -> i64 {
        let Some(late_ns) = now_ns.checked_sub(self.expiry_ns) else { return 0 };
        let Some(whole) = late_ns.checked_div(self.interval_ns) else { return 0 };
        let count = whole + 1;
        self.expiry_ns = self.expiry_ns.saturating_add(count.saturating_mul(self.interval_ns)).min(i64::MAX as u64);
        i64::try_from(count).unwrap_or(i64::MAX)
    }
}

impl TimerCallback for PosixTimer {
    fn expired(&self, timer: &Arc<Timer>) {
        self.expire(Some(timer));
    }
}

impl PosixTimer {
    /// The clock that its expiry is on, now. `None`: whom it counted for is gone.
    fn now_ns(&self, base: Base) -> Option<u64> {
        match &self.source {
            Source::Clock { .. } => Some(base.now_ns()),
            Source::Cpu { clock, .. } => clock.now_ns(),
        }
    }

    fn arm(&self, state: &mut IrqGuard<'_, State>) {
        state.is_armed = true;
        match &self.source {
            Source::Clock { timer, .. } => {
                timer.get().expect("made with the object").start_on(state.base, state.expiry_ns, 0);
            }
            Source::Cpu { clock, timer } => clock.arm(state.expiry_ns, timer.get().expect("made with the object")),
        }
    }

    fn disarm(&self, state: &mut IrqGuard<'_, State>) {
        state.is_armed = false;
        match &self.source {
            Source::Clock { timer, .. } => {
                timer.get().expect("made with the object").cancel();
            }
            Source::Cpu { clock, timer } => clock.disarm(state.expiry_ns, timer.get().expect("made with the object")),
        }
    }

    /// Its time has come: called by its clock, in interrupt context.
    pub(super) fn expire(&self, timer: Option<&Arc<Timer>>) {
        let (setting, may_be_queued) = {
            let mut state = self.state.lock();
            // It was set again while it was on its way here.
            if !state.is_armed || timer.is_some_and(|timer| timer.is_active()) {
                return;
            }
            state.is_armed = false;
            state.rests = state.interval_ns > 0;
            let may_be_queued = state.queued.is_some();
            state.queued = Some(state.setting);
            (state.setting, may_be_queued)
        };
        match self.send(may_be_queued) {
            TimerSignal::Queued => {}
            TimerSignal::Ignored => self.expired_unseen(setting),
            // The thread is gone: the timer stops (Linux `posix_timer_event`).
            TimerSignal::Nobody => self.state.lock().queued = None,
        }
    }

    fn send(&self, may_be_queued: bool) -> TimerSignal {
        let Notify { signal, value, thread, .. } = self.notify;
        let info = SigInfo::timer(signal, SI_TIMER, self.id, 0, value);
        let Some(group) = self.group.upgrade() else { return TimerSignal::Nobody };
        match thread {
            None => signal::send_timer(&group, None, &info, may_be_queued),
            Some(tid) => match crate::task::find_global(tid).filter(|task| Arc::ptr_eq(&task.group, &group)) {
                Some(task) => signal::send_timer(&group, Some(&task), &info, may_be_queued),
                None => TimerSignal::Nobody,
            },
        }
    }

    /// The signal is ignored, so nobody will take it and start the timer again; it goes on by itself, but not more often
    /// than the tick (Linux `posix_timer_fn`).
    fn expired_unseen(&self, setting: u64) {
        let base = self.state.lock().base;
        let Some(now_ns) = self.now_ns(base) else { return };
        let mut state = self.state.lock();
        if state.setting != setting || state.is_armed {
            return;
        }
        state.queued = None;
        state.rests = false;
        if state.interval_ns > 0 {
            let pause_ns = if state.interval_ns < TICK_NS { TICK_NS } else { 0 };
            let missed = state.forward(now_ns.saturating_add(pause_ns));
            state.overrun = state.overrun.saturating_add(missed);
            self.arm(&mut state);
        }
    }

    /// What is left and the interval, as timer_gettime(2) tells them (Linux `common_timer_get`).
    fn read(&self, state: &mut IrqGuard<'_, State>, now_ns: Option<u64>) -> Itimerspec {
        let silent = self.notify.kind == t::SIGEV_NONE;
        let Some(now_ns) = now_ns else { return Itimerspec::default() };
        let interval_ns = state.interval_ns;
        let it_interval = clock::timespec(interval_ns);
        if interval_ns == 0 && !state.is_armed && !(silent && state.expiry_ns > 0) {
            return Itimerspec::default();
        }
        if interval_ns > 0 && (state.rests || silent) {
            let missed = state.forward(now_ns);
            state.overrun = state.overrun.saturating_add(missed);
        }
        // What is due and not yet told reads as a nanosecond: 0 is a timer that is off. Where nothing is told, it is off.
        let least = u64::from(!silent);
        let left_ns = state.expiry_ns.saturating_sub(now_ns).max(least);
        Itimerspec { it_interval, it_value: clock::timespec(left_ns) }
    }

    fn set(&self, flags: i32, value_ns: u64, interval_ns: u64) -> Itimerspec {
        let absolute = flags.cast_unsigned() & t::TIMER_ABSTIME != 0;
        let base = self.state.lock().base;
        let now_ns = self.now_ns(base);
        let mut state = self.state.lock();
        let old = self.read(&mut state, now_ns);
        self.disarm(&mut state);
        state.setting += 1;
        state.rests = false;
        state.overrun = -1;
        state.overrun_last = 0;
        state.interval_ns = 0;
        state.expiry_ns = 0;
        if value_ns == 0 {
            return old;
        }
        state.base = match &self.source {
            Source::Clock { settable, .. } if absolute => *settable,
            _ => Base::Monotonic,
        };
        let start_ns = match &self.source {
            _ if absolute => 0,
            Source::Clock { .. } => Base::Monotonic.now_ns(),
            Source::Cpu { .. } => now_ns.unwrap_or(0),
        };
        state.interval_ns = interval_ns;
        state.expiry_ns = start_ns.saturating_add(value_ns).min(i64::MAX as u64);
        if self.notify.kind != t::SIGEV_NONE {
            self.arm(&mut state);
        }
        old
    }
}

/// A timer's signal is being taken: fills in how many expiries it stands for beyond the first, and starts the timer again.
pub fn signal_taken(group: &ThreadGroup, info: &mut SigInfo) {
    // It may have been deleted meanwhile.
    let Ok(posix) = find(group, info.pid()) else { return };
    let base = posix.state.lock().base;
    let now_ns = posix.now_ns(base);
    let mut state = posix.state.lock();
    let queued = state.queued.take();
    if !state.rests || queued != Some(state.setting) {
        return;
    }
    state.rests = false;
    let Some(now_ns) = now_ns else { return };
    let missed = state.forward(now_ns);
    state.overrun_last = state.overrun.saturating_add(missed);
    state.overrun = -1;
    info.set_overruns(capped(state.overrun_last.saturating_add(i64::from(info.overruns()))));
    posix.arm(&mut state);
}

fn capped(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The clock of a new timer: `EINVAL` if there is none, `EOPNOTSUPP` if it has no timers (timer_create(2)).
pub struct NewTimer {
    clock: i32,
    source: Source,
}

impl NewTimer {
    /// Looks at the number alone; who may be named is [`Self::resolve`]'s question, and Linux's last.
    pub fn on(clock: i32) -> Result<()> {
        match clock {
            t::CLOCK_REALTIME | t::CLOCK_MONOTONIC | t::CLOCK_BOOTTIME | t::CLOCK_TAI => Ok(()),
            t::CLOCK_PROCESS_CPUTIME_ID | t::CLOCK_THREAD_CPUTIME_ID => Ok(()),
            // Without a real-time clock device that wakes the machine there are no alarm clocks (Linux
            // `alarm_timer_create`); a Pi has none.
            t::CLOCK_REALTIME_ALARM | t::CLOCK_BOOTTIME_ALARM => Err(Errno::EOPNOTSUPP),
            t::CLOCK_MONOTONIC_RAW | t::CLOCK_REALTIME_COARSE | t::CLOCK_MONOTONIC_COARSE => Err(Errno::EOPNOTSUPP),
            id if id < 0 && id & 3 == 3 => Err(Errno::EOPNOTSUPP),
            id if id < 0 => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// `EINVAL` when a CPU clock is of nobody.
    pub fn resolve(clock: i32) -> Result<Self> {
        Self::on(clock)?;
        // The two short names stand for numbers of the long kind, and are shown as those (Linux `process_cpu_timer_create`).
        let clock = match clock {
            t::CLOCK_PROCESS_CPUTIME_ID => !0 << 3 | 2,
            t::CLOCK_THREAD_CPUTIME_ID => !0 << 3 | 4 | 2,
            other => other,
        };
        let source = match CpuClock::named(clock, Use::Other) {
            Some(cpu) => Source::Cpu { clock: cpu?, timer: spin::Once::new() },
            None => {
                let settable = match clock {
                    t::CLOCK_REALTIME => Base::Realtime,
                    t::CLOCK_TAI => Base::Tai,
                    _ => Base::Monotonic,
                };
                Source::Clock { settable, timer: spin::Once::new() }
            }
        };
        Ok(Self { clock, source })
    }
}

/// A place for a timer that is being made: charged to the user, with a number that nobody has.
pub struct Place {
    /// The timer's number.
    pub id: i32,
    charge: signal::Charge,
}

/// Takes a number. `EAGAIN` when the user has too many signals queued and timers made (timer_create(2)).
pub fn reserve(group: &ThreadGroup) -> Result<Place> {
    crate::mm::frame::admit(size_of::<PosixTimer>()).map_err(|_| Errno::EAGAIN)?;
    let charge = signal::charge_timer(&current())?;
    let id = group.timers.posix.lock().free_id()?;
    Ok(Place { id, charge })
}

/// timer_create(2).
pub fn create(group: &Arc<ThreadGroup>, place: Place, new: NewTimer, notify: Notify) {
    let timer = Arc::new(PosixTimer {
        id: place.id,
        clock: new.clock,
        notify,
        group: Arc::downgrade(group),
        source: new.source,
        state: IrqLock::new(
            order::TIMER_STATE,
            State {
                interval_ns: 0,
                expiry_ns: 0,
                base: Base::Monotonic,
                is_armed: false,
                setting: 0,
                queued: None,
                rests: false,
                overrun: -1,
                overrun_last: 0,
            },
        ),
        _charge: place.charge,
    });
    match &timer.source {
        Source::Clock { timer: once, .. } => {
            let weak = Arc::downgrade(&timer);
            once.call_once(|| Timer::call(weak));
        }
        Source::Cpu { timer: once, .. } => {
            once.call_once(|| CpuTimer::posix(Arc::downgrade(&timer)));
        }
    }
    group.timers.posix.lock().by_id.insert(place.id, timer);
}

fn find(group: &ThreadGroup, id: i32) -> Result<Arc<PosixTimer>> {
    group.timers.posix.lock().by_id.get(&id).cloned().ok_or(Errno::EINVAL)
}

/// A timer as `/proc/PID/timers` shows it.
pub struct TimerInfo {
    /// Its id.
    pub id: i32,
    /// The clock it counts.
    pub clock: i32,
    /// Whom it tells.
    pub notify: Notify,
}

/// The timers of a process, the newest first.
pub fn list(group: &ThreadGroup) -> Vec<TimerInfo> {
    let describe = |timer: &Arc<PosixTimer>| TimerInfo { id: timer.id, clock: timer.clock, notify: timer.notify };
    group.timers.posix.lock().by_id.values().rev().map(describe).collect()
}

/// timer_gettime(2).
pub fn get(group: &ThreadGroup, id: i32) -> Result<Itimerspec> {
    let posix = find(group, id)?;
    let base = posix.state.lock().base;
    let now_ns = posix.now_ns(base);
    Ok(posix.read(&mut posix.state.lock(), now_ns))
}

/// timer_settime(2). Returns the former setting.
pub fn set(group: &ThreadGroup, id: i32, flags: i32, new: &Itimerspec) -> Result<Itimerspec> {
    let ns = |value: &Timespec| clock::timespec_ns(value);
    let (value_ns, interval_ns) = (ns(&new.it_value)?, ns(&new.it_interval)?);
    Ok(find(group, id)?.set(flags, value_ns, interval_ns))
}

/// timer_getoverrun(2).
pub fn overruns(group: &ThreadGroup, id: i32) -> Result<usize> {
    let overruns = capped(find(group, id)?.state.lock().overrun_last);
    Ok(usize::try_from(overruns).unwrap_or(0))
}

/// timer_delete(2).
pub fn delete(group: &ThreadGroup, id: i32) -> Result<()> {
    let gone = group.timers.posix.lock().by_id.remove(&id).ok_or(Errno::EINVAL)?;
    gone.disarm(&mut gone.state.lock());
    Ok(())
}

/// All timers of a process end: exec and exit (timer_create(2), NOTES).
pub(super) fn delete_all(timers: &SpinLock<Timers>) {
    let gone = core::mem::take(&mut timers.lock().by_id);
    gone.values().for_each(|timer| timer.disarm(&mut timer.state.lock()));
}
