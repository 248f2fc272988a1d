//! `/proc/pressure`: what [`crate::sched::psi`] measures, and the triggers that tell of it (Documentation/accounting/psi.rst).
//!
//! Writing `some 150000 1000000` asks to be told when tasks lost 150 ms within any second: poll(2) then says POLLPRI, at
//! most once in a window. A trigger looks ten times in its window, by a timer of its own, and goes with the open file.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::capability::CAP_SYS_RESOURCE;
use abi::poll::{POLLERR, POLLPRI};
use hal::sync::IrqLock;

use super::{Entry, Node, read_made};
use crate::Result;
use crate::fs::file::{DEFAULT_POLLMASK, File, FileOps, OpsRef};
use crate::fs::libfs::shared;
use crate::fs::poll::{PollTable, watch_all};
use crate::io::{IoDst, IoSrc};
use crate::sched::psi::{self, Extent, Resource};
use crate::sync::{Mutex, WaitQueue, order};
use crate::task::current;
use crate::time::{self, Timer, TimerCallback};

pub(super) static ENTRIES: &[Entry] = &[
    Entry { name: "io", mode: 0o666, node: Node::Ops(|_| open(Resource::Io)) },
    Entry { name: "memory", mode: 0o666, node: Node::Ops(|_| open(Resource::Memory)) },
    Entry { name: "cpu", mode: 0o666, node: Node::Ops(|_| open(Resource::Cpu)) },
];

fn open(resource: Resource) -> Result<OpsRef> {
    // Who opened the file decides, not who writes to it (Linux `f_cred`).
    let is_privileged = current().capable(CAP_SYS_RESOURCE);
    Ok(shared(PressureFile { resource, is_privileged, text: Mutex::new(Vec::new()), trigger: spin::Once::new() }))
}

/// What the windows of users without CAP_SYS_RESOURCE are multiples of.
const UNPRIVILEGED_WINDOW_NS: u64 = 2_000_000_000;

struct PressureFile {
    resource: Resource,
    is_privileged: bool,
    text: Mutex<Vec<u8>>,
    trigger: spin::Once<Arc<Trigger>>,
}

impl FileOps for PressureFile {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
        read_made(&self.text, dst, offset, |text| psi::show(text, self.resource).map_err(|_| Errno::ENOMEM))
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        let length = src.remaining();
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 32];
        let taken = src.take(&mut bytes[..length.min(32)])?;
        if self.trigger.is_completed() {
            return Err(Errno::EBUSY);
        }
        // The last byte is a newline or NUL, whatever it is (Linux `psi_write`).
        let request = Request::parse(&bytes[..taken.saturating_sub(1)]).ok_or(Errno::EINVAL)?;
        // Windows of ordinary users end when the averages are made anyway (Linux `psi_trigger_create`).
        if !self.is_privileged && !request.window_ns.is_multiple_of(UNPRIVILEGED_WINDOW_NS) {
            return Err(Errno::EINVAL);
        }
        let mut made = false;
        self.trigger.call_once(|| {
            made = true;
            Trigger::new(self.resource, request)
        });
        if made { Ok(length) } else { Err(Errno::EBUSY) }
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        let Some(trigger) = self.trigger.get() else { return DEFAULT_POLLMASK | POLLERR | POLLPRI };
        watch_all(table, &[&trigger.waiters]);
        let happened = trigger.event.swap(false, Ordering::SeqCst);
        DEFAULT_POLLMASK | if happened { POLLPRI } else { 0 }
    }

    fn release(&self, _file: &File) {
        if let Some(trigger) = self.trigger.get() {
            trigger.closed.store(true, Ordering::SeqCst);
            trigger.timer.cancel();
        }
    }
}

/// What is written: how much stall in how long, ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Request {
    extent: Extent,
    threshold_ns: u64,
    window_ns: u64,
}

impl Request {
    /// `some` or `full`, microseconds of stall, microseconds of window: half a second to ten (Linux
    /// `psi_trigger_create`).
    fn parse(bytes: &[u8]) -> Option<Request> {
        const WINDOW_US: core::ops::RangeInclusive<u64> = 500_000..=10_000_000;
        let text = core::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()?;
        let (extent, rest) = match text.split_at_checked(4)? {
            ("some", rest) => (Extent::Some, rest),
            ("full", rest) => (Extent::Full, rest),
            _ => return None,
        };
        let mut numbers = rest.split_ascii_whitespace().map(leading_number);
        let (threshold, window) = (numbers.next()??, numbers.next()??);
        if !WINDOW_US.contains(&window) || threshold == 0 || threshold > window {
            return None;
        }
        Some(Request { extent, threshold_ns: threshold * 1000, window_ns: window * 1000 })
    }
}

/// The number that a word begins with, as sscanf's %u takes it.
fn leading_number(word: &str) -> Option<u64> {
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    word[..digits].parse::<u32>().ok().map(u64::from)
}

/// Looks in a window of time (Linux `psi_window`).
struct Window {
    start_ns: u64,
    start_value: u64,
    /// How much the value grew in the window before.
    previous_growth: u64,
    /// When the trigger last told of something.
    last_event_ns: u64,
}

impl Window {
    /// The growth within the last `size_ns`: of this window, and a part of the one before, as if that grew evenly.
    fn growth(&mut self, now: u64, value: u64, size_ns: u64) -> u64 {
        let elapsed = now - self.start_ns;
        let growth = value - self.start_value;
        if elapsed > size_ns {
            (self.start_ns, self.start_value, self.previous_growth) = (now, value, growth);
            return growth;
        }
        let before = u128::from(self.previous_growth) * u128::from(size_ns - elapsed) / u128::from(size_ns);
        growth + u64::try_from(before).unwrap_or(u64::MAX)
    }
}

struct Trigger {
    resource: Resource,
    request: Request,
    window: IrqLock<Window>,
    event: AtomicBool,
    closed: AtomicBool,
    waiters: WaitQueue,
    timer: Arc<Timer>,
}

impl Trigger {
    const LOOKS_PER_WINDOW: u64 = 10;

    fn new(resource: Resource, request: Request) -> Arc<Trigger> {
        let start_ns = time::monotonic_ns();
        let start_value = psi::total_ns(resource, request.extent);
        let window = Window { start_ns, start_value, previous_growth: 0, last_event_ns: 0 };
        let trigger = Arc::new_cyclic(|this: &Weak<Trigger>| Trigger {
            resource,
            request,
            window: IrqLock::new(order::PRESSURE_TRIGGER, window),
            event: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waiters: WaitQueue::new(),
            timer: Timer::call(this.clone()),
        });
        trigger.timer.start(start_ns + request.window_ns / Self::LOOKS_PER_WINDOW);
        trigger
    }

    /// Whether there is something to tell.
    fn look(&self, now: u64) -> bool {
        let value = psi::total_ns(self.resource, self.request.extent);
        let mut window = self.window.lock();
        let growth = window.growth(now, value, self.request.window_ns);
        let tells = growth >= self.request.threshold_ns && now >= window.last_event_ns + self.request.window_ns;
        if tells {
            window.last_event_ns = now;
        }
        tells
    }
}

impl TimerCallback for Trigger {
    fn expired(&self, timer: &Arc<Timer>) {
        if self.closed.load(Ordering::SeqCst) {
            return;
        }
        let now = time::monotonic_ns();
        if self.look(now) {
            self.event.store(true, Ordering::SeqCst);
            self.waiters.wake_all_for(POLLPRI);
        }
        timer.start(now + self.request.window_ns / Self::LOOKS_PER_WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, Request, Window};

    #[test]
    fn a_request_is_some_or_full_with_a_threshold_within_a_window() {
        let good = Request { extent: Extent::Some, threshold_ns: 150_000_000, window_ns: 1_000_000_000 };
        assert_eq!(Request::parse(b"some 150000 1000000"), Some(good));
        assert_eq!(Request::parse(b"full 1 500000\0rest").map(|request| request.extent), Some(Extent::Full));
        for bad in ["", "some", "some 1", "most 1 1000000", "some 0 1000000", "some 2000000 1000000", "some 1 499999"] {
            assert_eq!(Request::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Request::parse(b"some 1 10000001"), None);
    }

    #[test]
    fn growth_borrows_from_the_window_before() {
        let mut window = Window { start_ns: 0, start_value: 0, previous_growth: 0, last_event_ns: 0 };
        assert_eq!(window.growth(50, 10, 100), 10);
        assert_eq!(window.growth(101, 40, 100), 40, "a window is over: the next begins");
        assert_eq!(window.growth(151, 40, 100), 20, "half of the window before still counts");
    }
}
