//! The state of this OS thread's machine. Cells, because one CPU runs at a time and nothing is shared between OS threads.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::context::Slots;
use super::machine::{Config, Tlb};
use super::mmu::{Cached, Space};
use super::ram::Arena;
use super::user::Program;
use crate::MAX_CPUS;
use crate::mem::FrameSource;
use crate::thread::Thread;
use crate::trap::Handlers;

/// One simulated CPU.
pub struct Cpu {
    pub online: Cell<bool>,
    pub current: Cell<*const Thread>,
    pub masked: Cell<bool>,
    /// Preempt count of the boot flow before it has a thread.
    pub boot_count: Cell<u32>,
    /// Absolute, `u64::MAX` for none.
    pub deadline: Cell<u64>,
    pub ipi: Cell<bool>,
    pub device: Cell<bool>,
    /// Asleep in `wait_for_interrupt`.
    pub waiting: Cell<bool>,
    /// The interrupt being handled came from user code.
    pub interrupted_user: Cell<bool>,
    pub space: Cell<Option<Space>>,
    pub tlb: RefCell<HashMap<(u64, u64), Cached>>,
    /// The last page that faulted although the tables allow the access, and how often in a row.
    pub spurious: Cell<(u64, u32)>,
}

impl Cpu {
    fn new() -> Self {
        Self {
            online: Cell::new(false),
            current: Cell::new(std::ptr::null()),
            masked: Cell::new(false),
            boot_count: Cell::new(0),
            deadline: Cell::new(u64::MAX),
            ipi: Cell::new(false),
            device: Cell::new(false),
            waiting: Cell::new(false),
            interrupted_user: Cell::new(false),
            space: Cell::new(None),
            tlb: RefCell::new(HashMap::new()),
            spurious: Cell::new((u64::MAX, 0)),
        }
    }

    /// Whether an interrupt would be taken now if it were not masked.
    pub fn interrupt_pending(&self, now: u64) -> bool {
        self.ipi.get() || self.device.get() || self.deadline.get() <= now
    }
}

/// One machine.
pub struct State {
    pub cpu: Cell<usize>,
    pub cpus: [Cpu; MAX_CPUS],
    pub clock: Cell<u64>,
    pub random: Cell<u64>,
    pub interleave: Cell<bool>,
    pub tlb: Cell<Tlb>,
    pub handlers: Cell<Option<&'static Handlers>>,
    pub frame_source: Cell<Option<FrameSource>>,
    pub arena: Cell<Option<&'static Arena>>,
    pub next_space: Cell<u64>,
    pub slots: Slots,
    pub programs: RefCell<Vec<Option<Rc<Program>>>>,
    pub power_off: Cell<Option<i32>>,
    /// A machine's driver loop is running: coroutines may be suspended.
    pub driving: Cell<bool>,
    /// The coroutine that runs, for the report of a panic.
    pub running: Cell<usize>,
    /// How many more allocations succeed before one fails.
    pub allocations_left: Cell<Option<u64>>,
    /// Every allocation fails.
    pub no_memory: Cell<bool>,
    pub injected: RefCell<Vec<super::uaccess::Injected>>,
    /// User operations since the last hand-over to another CPU.
    pub user_steps: Cell<u32>,
    /// Times that a dying kernel asked to wait.
    pub futile: Cell<u32>,
}

impl State {
    /// A machine as after power-on.
    pub fn new(config: &Config) -> Self {
        let state = Self {
            cpu: Cell::new(0),
            cpus: std::array::from_fn(|_| Cpu::new()),
            clock: Cell::new(1_000_000),
            random: Cell::new(config.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            interleave: Cell::new(config.interleave),
            tlb: Cell::new(config.tlb),
            handlers: Cell::new(None),
            frame_source: Cell::new(None),
            arena: Cell::new(None),
            next_space: Cell::new(1),
            slots: Slots::new(),
            programs: RefCell::new(Vec::new()),
            power_off: Cell::new(None),
            driving: Cell::new(false),
            running: Cell::new(0),
            allocations_left: Cell::new(None),
            no_memory: Cell::new(false),
            injected: RefCell::new(Vec::new()),
            user_steps: Cell::new(0),
            futile: Cell::new(0),
        };
        state.cpus[0].online.set(true);
        state
    }

    /// The CPU that runs.
    pub fn this(&self) -> &Cpu {
        &self.cpus[self.cpu.get()]
    }

    /// The next number of the seeded sequence (xorshift64*; Vigna 2016).
    pub fn next_random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The kernel's handlers. Panics before they are installed.
    pub fn handlers(&self) -> &'static Handlers {
        self.handlers.get().expect("hal::trap::install was not called")
    }

    /// The RAM; made with the default size when no machine was configured (unit tests of single functions).
    pub fn arena(&self) -> &'static Arena {
        if let Some(arena) = self.arena.get() {
            return arena;
        }
        let arena = Arena::new(&Config::default());
        self.arena.set(Some(arena));
        arena
    }
}

thread_local! {
    static STATE: Cell<&'static State> = Cell::new(Box::leak(Box::new(State::new(&Config::default()))));
}

/// This OS thread's machine.
#[inline]
pub fn state() -> &'static State {
    STATE.with(Cell::get)
}

/// Replaces this OS thread's machine by a fresh one. The former is leaked: suspended stacks may still point into it.
pub fn replace(fresh: State) {
    STATE.with(|cell| cell.set(Box::leak(Box::new(fresh))));
    crate::global::reset();
}
