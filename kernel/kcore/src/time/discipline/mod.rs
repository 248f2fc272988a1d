//! adjtimex(2): keeping the clock right by changing its speed (Linux `kernel/time/ntp.c`; RFC 5905 calls it the clock
//! discipline).
//!
//! The counter says how long a nanosecond is; a daemon that knows better changes the frequency, has an offset worked off
//! bit by bit, or announces a leap second. [`Discipline`] is the arithmetic: once a second of real time it says how fast the
//! next second is to be. hal bends the monotonic clock accordingly, in the kernel and in the vDSO, and all clocks but
//! CLOCK_MONOTONIC_RAW with it.
//!
//! Linux counts at its tick. Here a timer comes at the full seconds, and only while there is something to work off, so that
//! an idle machine with a right clock has no ticks.

use alloc::sync::Arc;

use abi::time as t;
use abi::time::{Timespec, Timeval, Timex};
use hal::sync::IrqLock;

use super::clock::{self, NSEC_PER_SEC};
use super::timer::{self, Base, Timer, TimerCallback};
use crate::Result;
use crate::sync::order;

/// Bits of fraction of what is counted per second (Linux NTP_SCALE_SHIFT).
const SHIFT: u32 = 32;
/// adjtimex(2)'s frequency is in 2^-16 ppm, which is 2^-16 µs a second.
const PPM: i64 = 1000 << (SHIFT - 16);
/// 500 ppm: a clock that is worse is broken.
const MAX_FREQUENCY: i64 = 500_000 << SHIFT;
/// Half a second: more is not worked off.
const MAX_PHASE_NS: i64 = 500_000_000;
/// µs of error beyond which the clock counts as not synchronised: 16 s.
const PHASE_LIMIT: i64 = 16_000_000;
/// What adjtime(3) works off in a second, µs.
const MAX_SINGLE_SHOT: i64 = 500;
/// Of the phase-locked and the frequency-locked loop (Linux SHIFT_PLL, SHIFT_FLL, MINSEC, MAXSEC).
const SHIFT_PLL: u32 = 2;
const SHIFT_FLL: u32 = 2;
const MIN_SECONDS: i64 = 256;
const MAX_SECONDS: i64 = 2048;
const MAX_TIME_CONSTANT: i64 = 10;
const MAX_TAI: i64 = 100_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Microseconds of a tick of 100 Hz.
const NORMAL_TICK: i64 = 10_000;

/// What adjtimex(2) has set.
struct Discipline {
    /// Length of a tick of 100 Hz in µs: a coarse frequency.
    tick_us: i64,
    status: u32,
    /// TIME_OK and its neighbours.
    state: i32,
    /// Left to work off, ns << SHIFT.
    offset: i64,
    time_constant: i64,
    max_error_us: i64,
    estimated_error_us: i64,
    /// ns a second << SHIFT.
    frequency: i64,
    /// When the last offset came, s.
    reference_time: i64,
    /// adjtime(3)'s, µs.
    single_shot: i64,
    next_leap: i64,
    /// What this second works off of `offset` and `single_shot`, ns << SHIFT.
    slew: i64,
}

impl Discipline {
    const fn new() -> Self {
        Self {
            tick_us: NORMAL_TICK,
            status: t::STA_UNSYNC,
            state: t::TIME_OK,
            offset: 0,
            time_constant: 2,
            max_error_us: PHASE_LIMIT,
            estimated_error_us: PHASE_LIMIT,
            frequency: 0,
            reference_time: 0,
            single_shot: 0,
            next_leap: i64::MAX,
            slew: 0,
        }
    }

    /// The clock is set by other means: nothing that is under way holds any longer (Linux `ntp_clear`).
    fn clear(&mut self) {
        self.single_shot = 0;
        self.status |= t::STA_UNSYNC;
        self.max_error_us = PHASE_LIMIT;
        self.estimated_error_us = PHASE_LIMIT;
        self.offset = 0;
        self.slew = 0;
        self.next_leap = i64::MAX;
        self.state = t::TIME_OK;
    }

    /// How much faster than the counter the clock runs: ns a second << SHIFT.
    fn speed(&self) -> i64 {
        let tick_ns = (self.tick_us - NORMAL_TICK) * 100 * 1000;
        (tick_ns << SHIFT) + self.frequency + self.slew
    }

    /// Whether the next second differs from this one.
    fn is_under_way(&self) -> bool {
        self.offset != 0
            || self.single_shot != 0
            || self.slew != 0
            || self.state != t::TIME_OK
            || self.status & (t::STA_INS | t::STA_DEL) != 0
            || self.status & t::STA_UNSYNC == 0
            || self.max_error_us < PHASE_LIMIT
    }

    /// A second of real time begins. Returns a leap to make, s (Linux `second_overflow`).
    fn second_begins(&mut self, seconds: i64) -> i64 {
        let leap = self.leap(seconds);
        self.max_error_us += (MAX_FREQUENCY / 1000) >> SHIFT;
        if self.max_error_us > PHASE_LIMIT {
            self.max_error_us = PHASE_LIMIT;
            self.status |= t::STA_UNSYNC;
        }
        let part = shift_right(self.offset, SHIFT_PLL + self.time_constant as u32);
        self.offset -= part;
        let shot = self.single_shot.clamp(-MAX_SINGLE_SHOT, MAX_SINGLE_SHOT);
        self.single_shot -= shot;
        self.slew = part + ((shot * 1000) << SHIFT);
        leap
    }

    fn leap(&mut self, seconds: i64) -> i64 {
        let wants = |flag| self.status & flag != 0;
        match self.state {
            t::TIME_OK if wants(t::STA_INS) => {
                self.state = t::TIME_INS;
                self.next_leap = seconds + SECONDS_PER_DAY - seconds % SECONDS_PER_DAY;
            }
            t::TIME_OK if wants(t::STA_DEL) => {
                self.state = t::TIME_DEL;
                self.next_leap = seconds + SECONDS_PER_DAY - (seconds + 1) % SECONDS_PER_DAY;
            }
            t::TIME_INS if !wants(t::STA_INS) => self.no_leap(t::TIME_OK),
            t::TIME_INS if seconds == self.next_leap => {
                self.state = t::TIME_OOP;
                log::info!("Clock: inserting leap second 23:59:60 UTC");
                return -1;
            }
            t::TIME_DEL if !wants(t::STA_DEL) => self.no_leap(t::TIME_OK),
            t::TIME_DEL if seconds == self.next_leap => {
                self.no_leap(t::TIME_WAIT);
                log::info!("Clock: deleting leap second 23:59:59 UTC");
                return 1;
            }
            t::TIME_OOP => self.no_leap(t::TIME_WAIT),
            t::TIME_WAIT if !wants(t::STA_INS | t::STA_DEL) => self.state = t::TIME_OK,
            _ => {}
        }
        0
    }

    fn no_leap(&mut self, state: i32) {
        self.next_leap = i64::MAX;
        self.state = state;
    }

    /// Linux `process_adjtimex_modes`. Returns a new distance of TAI.
    fn set(&mut self, request: &Timex, now_s: i64) -> Option<i32> {
        let wants = |mode| request.modes & mode != 0;
        if wants(t::ADJ_STATUS) {
            self.set_status(request.status.cast_unsigned(), now_s);
        }
        if wants(t::ADJ_NANO) {
            self.status |= t::STA_NANO;
        }
        if wants(t::ADJ_MICRO) {
            self.status &= !t::STA_NANO;
        }
        if wants(t::ADJ_FREQUENCY) {
            self.frequency = request.freq.saturating_mul(PPM).clamp(-MAX_FREQUENCY, MAX_FREQUENCY);
        }
        if wants(t::ADJ_MAXERROR) {
            self.max_error_us = request.maxerror;
        }
        if wants(t::ADJ_ESTERROR) {
            self.estimated_error_us = request.esterror;
        }
        if wants(t::ADJ_TIMECONST) {
            let extra = if self.status & t::STA_NANO == 0 { 4 } else { 0 };
            self.time_constant = request.constant.saturating_add(extra).clamp(0, MAX_TIME_CONSTANT);
        }
        if wants(t::ADJ_OFFSET) {
            self.set_offset(request.offset, now_s);
        }
        if wants(t::ADJ_TICK) {
            self.tick_us = request.tick;
        }
        let tai = Some(request.constant).filter(|tai| wants(t::ADJ_TAI) && (0..=MAX_TAI).contains(tai))?;
        i32::try_from(tai).ok()
    }

    fn set_status(&mut self, status: u32, now_s: i64) {
        let (had, has) = (self.status & t::STA_PLL != 0, status & t::STA_PLL != 0);
        if had && !has {
            self.no_leap(t::TIME_OK);
            self.status = t::STA_UNSYNC;
        }
        if !had && has {
            self.reference_time = now_s;
        }
        self.status = self.status & t::STA_RONLY | status & !t::STA_RONLY;
    }

    /// The phase-locked loop works the offset off and learns the frequency from it (Linux `ntp_update_offset`).
    fn set_offset(&mut self, offset: i64, now_s: i64) {
        if self.status & t::STA_PLL == 0 {
            return;
        }
        let offset_ns =
            if self.status & t::STA_NANO != 0 { offset } else { offset.clamp(-1_000_000, 1_000_000) * 1000 };
        let offset_ns = offset_ns.clamp(-MAX_PHASE_NS, MAX_PHASE_NS);
        let held = self.status & t::STA_FREQHOLD != 0;
        let seconds = if held { 0 } else { now_s.saturating_sub(self.reference_time) };
        self.reference_time = now_s;
        let learnt = self.frequency_locked(offset_ns, seconds);
        let shift = SHIFT_PLL + 1 + self.time_constant as u32;
        // A long silence teaches no more than the loop's time constant.
        let seconds = seconds.min(1 << shift);
        let phase = (offset_ns * seconds) << (SHIFT - 2 * (shift + 1));
        self.frequency = (self.frequency + learnt + phase).clamp(-MAX_FREQUENCY, MAX_FREQUENCY);
        self.offset = offset_ns << SHIFT;
    }

    fn frequency_locked(&mut self, offset_ns: i64, seconds: i64) -> i64 {
        self.status &= !t::STA_MODE;
        if seconds < MIN_SECONDS || self.status & t::STA_FLL == 0 && seconds <= MAX_SECONDS {
            return 0;
        }
        self.status |= t::STA_MODE;
        (offset_ns << (SHIFT - SHIFT_FLL)) / seconds
    }

    /// What adjtimex(2) returns.
    fn result(&self) -> i32 {
        if self.status & (t::STA_UNSYNC | t::STA_CLOCKERR) != 0 { t::TIME_ERROR } else { self.state }
    }

    fn tell(&self, answer: &mut Timex) {
        answer.freq = self.frequency / PPM;
        answer.maxerror = self.max_error_us;
        answer.esterror = self.estimated_error_us;
        answer.status = self.status.cast_signed();
        answer.constant = self.time_constant;
        answer.precision = 1;
        answer.tolerance = MAX_FREQUENCY / PPM;
        answer.tick = self.tick_us;
        answer.ppsfreq = 0;
        answer.jitter = 0;
        answer.shift = 0;
        answer.stabil = 0;
        answer.jitcnt = 0;
        answer.calcnt = 0;
        answer.errcnt = 0;
        answer.stbcnt = 0;
    }
}

/// Rounds towards zero, as a shift does not (Linux `shift_right`).
fn shift_right(value: i64, by: u32) -> i64 {
    if value < 0 { -(-value >> by) } else { value >> by }
}

/// The timer that comes at full seconds.
struct Seconds;

hal::global! {
    static DISCIPLINE: IrqLock<Discipline> = IrqLock::new(order::CLOCK_DISCIPLINE, Discipline::new());
    static SECONDS: spin::Once<(Arc<Seconds>, Arc<Timer>)> = spin::Once::new();
}

impl TimerCallback for Seconds {
    fn expired(&self, _: &Arc<Timer>) {
        let now_s = (clock::realtime_ns() / NSEC_PER_SEC).cast_signed();
        let leap = {
            let mut discipline = DISCIPLINE.lock();
            let leap = discipline.second_begins(now_s);
            apply(&discipline);
            leap
        };
        if leap != 0 {
            // Real time is made to repeat or to leave out a second; TAI goes on as if nothing had happened.
            let seconds = i64::from(clock::tai_seconds()) - leap;
            clock::leap(leap * NSEC_PER_SEC as i64, i32::try_from(seconds).unwrap_or(0));
        }
        watch_seconds();
    }
}

/// Makes the clock run as the discipline says.
fn apply(discipline: &Discipline) {
    // ns a second to ns a nanosecond, both with 32 bits of fraction.
    let rate = discipline.speed() / NSEC_PER_SEC as i64;
    if hal::timer::set_rate(rate) {
        crate::mm::vdso::publish_rate();
        timer::speed_changed();
    }
}

/// Has the timer come at the next full second if that is to differ from this one.
fn watch_seconds() {
    let under_way = DISCIPLINE.lock().is_under_way();
    let (_, timer) = SECONDS.call_once(|| {
        let seconds = Arc::new(Seconds);
        let weak = Arc::downgrade(&seconds);
        (seconds, Timer::call(weak))
    });
    if under_way {
        let next_s = clock::realtime_ns() / NSEC_PER_SEC + 1;
        timer.start_on(Base::Realtime, next_s * NSEC_PER_SEC, 0);
    } else {
        timer.cancel();
    }
}

/// The clock is set: forgets what is under way (Linux TK_CLEAR_NTP).
pub(super) fn clear() {
    let mut discipline = DISCIPLINE.lock();
    discipline.clear();
    apply(&discipline);
}

/// adjtimex(2) for a caller that may do it, its arguments checked. Returns the state of the clock.
pub fn adjust(request: &mut Timex) -> Result<i32> {
    let nanoseconds = request.modes & t::ADJ_NANO != 0;
    if request.modes & t::ADJ_SETOFFSET != 0 {
        let below_second = if nanoseconds { request.time.tv_usec } else { request.time.tv_usec * 1000 };
        let by_ns = request.time.tv_sec.saturating_mul(NSEC_PER_SEC as i64).saturating_add(below_second);
        clock::step_realtime(by_ns)?;
        clear();
    }
    let Timespec { tv_sec: now_s, tv_nsec } = clock::realtime();
    let mut discipline = DISCIPLINE.lock();
    let mut tai = None;
    if request.modes & t::ADJ_ADJTIME != 0 {
        let before = discipline.single_shot;
        if request.modes & t::ADJ_OFFSET_READONLY == 0 {
            discipline.single_shot = request.offset;
        }
        request.offset = before;
    } else {
        tai = discipline.set(request, now_s);
        let left_ns = shift_right(discipline.offset, SHIFT);
        // Linux divides the low 32 bits, without their sign, for who counts in microseconds.
        request.offset = if discipline.status & t::STA_NANO != 0 { left_ns } else { i64::from(left_ns as u32 / 1000) };
    }
    apply(&discipline);
    let result = discipline.result();
    discipline.tell(request);
    let in_nanoseconds = discipline.status & t::STA_NANO != 0;
    drop(discipline);
    if let Some(seconds) = tai.filter(|seconds| *seconds != clock::tai_seconds()) {
        clock::set_tai_seconds(seconds);
    }
    request.tai = clock::tai_seconds();
    request.time = Timeval { tv_sec: now_s, tv_usec: if in_nanoseconds { tv_nsec } else { tv_nsec / 1000 } };
    watch_seconds();
    Ok(result)
}
