//! timerfd_create(2): a timer that is read instead of heard.
//!
//! A periodic timer that expired rests until it is read; how often it would have expired is known from the clock then
//! (Linux `timerfd_read_iter`), so that one that nobody reads costs nothing.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;

use abi::Errno;
use abi::fcntl::O_RDWR;
use abi::poll::POLLIN;
use abi::time as t;
use abi::time::Itimerspec;
use hal::sync::{IrqLock, SpinLock};

use super::clock;
use super::timer::{Base, Timer, TimerCallback};
use crate::Result;
use crate::fs::File;
use crate::fs::file::{FileOps, OffsetRule};
use crate::fs::libfs::shared;
use crate::fs::poll::{PollTable, watch_all};
use crate::fs::pseudo;
use crate::io::IoDst;
use crate::sync::{WaitQueue, order};
use crate::task::TaskState;

/// What the file is made of.
pub struct TimerFd(Arc<Shared>);

struct Shared {
    clock: i32,
    timer: spin::Once<Arc<Timer>>,
    state: IrqLock<State>,
    changed: WaitQueue,
}

#[derive(Clone, Copy)]
struct State {
    interval_ns: u64,
    /// Of the last setting, on `base`.
    expiry_ns: u64,
    base: Base,
    /// Expiries that were not read.
    ticks: u64,
    /// It expired and was not started again.
    has_expired: bool,
    settime_flags: u32,
    /// TFD_TIMER_CANCEL_ON_SET: the reader hears of it when the clock is set.
    may_cancel: bool,
    /// Real time minus monotonic time as last told to the reader; `None`: the clock was set since then.
    seen_offset_ns: Option<i64>,
}

hal::global! {
    /// Timers that setting the clock cancels.
    static CANCELLED_ON_SET: SpinLock<Vec<Weak<Shared>>> = SpinLock::new(order::TIMER_LIST, Vec::new());
}

/// A new timer's file. `flags` is O_NONBLOCK or nothing.
pub fn new_file(clock: i32, flags: u32) -> Arc<File> {
    let state = State {
        interval_ns: 0,
        expiry_ns: 0,
        base: Base::Monotonic,
        ticks: 0,
        has_expired: false,
        settime_flags: 0,
        may_cancel: false,
        seen_offset_ns: Some(clock::real_offset_ns()),
    };
    let shared_state = Arc::new(Shared {
        clock,
        timer: spin::Once::new(),
        state: IrqLock::new(order::TIMER_STATE, state),
        changed: WaitQueue::new(),
    });
    let weak = Arc::downgrade(&shared_state);
    shared_state.timer.call_once(|| Timer::call(weak));
    pseudo::anon_file("[timerfd]", shared(TimerFd(shared_state)), O_RDWR | flags)
}

/// CLOCK_REALTIME was set: those that asked for it are cancelled (Linux `timerfd_clock_was_set`).
pub(super) fn clock_was_set() {
    let offset = clock::real_offset_ns();
    let timers: Vec<Arc<Shared>> = CANCELLED_ON_SET.lock().iter().filter_map(Weak::upgrade).collect();
    for timer in timers {
        let mut state = timer.state.lock();
        let changed = state.may_cancel && state.seen_offset_ns != Some(offset);
        if changed {
            state.seen_offset_ns = None;
            state.ticks += 1;
        }
        drop(state);
        if changed {
            timer.changed.wake_all_for(POLLIN);
        }
    }
}

impl State {
    /// Whether the clock was set since the reader was last told; it is told now.
    fn take_cancelled(&mut self) -> bool {
        let offset = Some(clock::real_offset_ns());
        self.may_cancel && core::mem::replace(&mut self.seen_offset_ns, offset) != offset
    }

    /// Moves the expiry beyond now by intervals. Returns by how many.
    fn forward(&mut self) -> u64 {
        let Some(late_ns) = self.base.now_ns().checked_sub(self.expiry_ns) else { return 0 };
        let Some(whole) = late_ns.checked_div(self.interval_ns) else { return 0 };
        self.expiry_ns = self.expiry_ns.saturating_add((whole + 1).saturating_mul(self.interval_ns));
        whole + 1
    }

    fn remaining_ns(&self) -> u64 {
        if self.expiry_ns == 0 { 0 } else { self.expiry_ns.saturating_sub(self.base.now_ns()) }
    }

    fn as_itimerspec(&self) -> Itimerspec {
        Itimerspec { it_interval: clock::timespec(self.interval_ns), it_value: clock::timespec(self.remaining_ns()) }
    }
}

impl TimerCallback for Shared {
    fn expired(&self, timer: &Arc<Timer>) {
        {
            let mut state = self.state.lock();
            // It was set again, or taken back, while it was on its way here.
            if timer.is_active() || state.has_expired || state.expiry_ns == 0 {
                return;
            }
            state.has_expired = true;
            state.ticks += 1;
        }
        self.changed.wake_all_for(POLLIN);
    }
}

impl Shared {
    fn timer(&self) -> &Arc<Timer> {
        self.timer.get().expect("made with the object")
    }

    /// A periodic timer that expired goes on; returns how many expiries that passed in silence.
    fn go_on(&self, state: &mut State) -> u64 {
        if !state.has_expired || state.interval_ns == 0 {
            return 0;
        }
        state.has_expired = false;
        let missed = state.forward();
        self.timer().start_on(state.base, state.expiry_ns, 0);
        // The first of them was counted when the timer expired.
        missed.saturating_sub(1)
    }

    /// Takes the count. `ECANCELED` when the clock was set since the last time; `None`: nothing to read.
    fn take(&self) -> Result<Option<u64>> {
        let mut state = self.state.lock();
        if state.ticks == 0 {
            return Ok(None);
        }
        if state.take_cancelled() {
            state.ticks = 0;
            state.has_expired = false;
            return Err(Errno::ECANCELED);
        }
        let missed = self.go_on(&mut state);
        state.has_expired = false;
        Ok(Some(core::mem::take(&mut state.ticks) + missed))
    }
}

impl TimerFd {
    /// The clock it was made for.
    pub fn clock(&self) -> i32 {
        self.0.clock
    }

    /// timerfd_gettime(2).
    pub fn get(&self) -> Itimerspec {
        let mut state = self.0.state.lock();
        let missed = self.0.go_on(&mut state);
        state.ticks += missed;
        state.as_itimerspec()
    }

    /// timerfd_settime(2), flags checked. Returns the former setting, and whether the clock was set before
    /// (`ECANCELED`: the new setting counts all the same).
    pub fn set(&self, flags: u32, value_ns: u64, interval_ns: u64) -> (Itimerspec, Result<()>) {
        let absolute = flags & t::TFD_TIMER_ABSTIME != 0;
        let realtime = matches!(self.0.clock, t::CLOCK_REALTIME | t::CLOCK_REALTIME_ALARM);
        self.set_may_cancel(realtime && absolute && flags & t::TFD_TIMER_CANCEL_ON_SET != 0);
        let mut state = self.0.state.lock();
        self.0.timer().cancel();
        if state.has_expired {
            state.forward();
        }
        let old = state.as_itimerspec();
        state.ticks = 0;
        state.has_expired = false;
        state.interval_ns = interval_ns;
        state.expiry_ns = 0;
        if value_ns > 0 {
            state.base = if realtime && absolute { Base::Realtime } else { Base::Monotonic };
            let start_ns = if absolute { 0 } else { state.base.now_ns() };
            state.expiry_ns = start_ns.saturating_add(value_ns).min(i64::MAX as u64);
            self.0.timer().start_on(state.base, state.expiry_ns, 0);
        }
        if state.take_cancelled() {
            return (old, Err(Errno::ECANCELED));
        }
        state.settime_flags = flags;
        (old, Ok(()))
    }

    fn set_may_cancel(&self, may_cancel: bool) {
        let mut list = CANCELLED_ON_SET.lock();
        let mut state = self.0.state.lock();
        if state.may_cancel == may_cancel {
            return;
        }
        state.may_cancel = may_cancel;
        drop(state);
        let is_it = |weak: &Weak<Shared>| core::ptr::eq(weak.as_ptr(), Arc::as_ptr(&self.0));
        list.retain(|weak| !is_it(weak));
        if may_cancel {
            list.push(Arc::downgrade(&self.0));
        }
    }
}

impl FileOps for TimerFd {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        if dst.remaining() < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let ticks = loop {
            if let Some(ticks) = self.0.take()? {
                break ticks;
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            self.0.changed.wait_event(TaskState::Interruptible, || self.0.state.lock().ticks > 0)?;
        };
        dst.put(&ticks.to_le_bytes())
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &[&self.0.changed]);
        if self.0.state.lock().ticks > 0 { POLLIN } else { 0 }
    }

    fn ioctl(&self, _file: &File, command: u32, argument: u64) -> Result<usize> {
        if command != t::TFD_IOC_SET_TICKS {
            return Err(Errno::ENOTTY);
        }
        let ticks: u64 = crate::syscall::UserPtr::new(argument).read()?;
        if ticks == 0 {
            return Err(Errno::EINVAL);
        }
        {
            let mut state = self.0.state.lock();
            if state.take_cancelled() {
                return Err(Errno::ECANCELED);
            }
            state.ticks = ticks;
        }
        self.0.changed.wake_all_for(POLLIN);
        Ok(0)
    }

    fn release(&self, _file: &File) {
        self.set_may_cancel(false);
        self.0.timer().cancel();
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Ignored
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn Write) {
        let state = *self.0.state.lock();
        let Itimerspec { it_value: value, it_interval: interval } = state.as_itimerspec();
        // The reader's buffer takes everything.
        let _ = write!(
            out,
            "clockid: {}\nticks: {}\nsettime flags: 0{:o}\nit_value: ({}, {})\nit_interval: ({}, {})\n",
            self.0.clock,
            state.ticks,
            state.settime_flags,
            value.tv_sec,
            value.tv_nsec,
            interval.tv_sec,
            interval.tv_nsec
        );
    }
}
