//! Threads as coroutines.
//!
//! The coroutines live in slots of this OS thread, not in the threads: the driver takes one out, resumes it and puts it
//! back, so nothing borrows a [`Thread`] while it runs. Slots 0 to 3 are the boot flows of the CPUs.

use std::cell::{Cell, RefCell, UnsafeCell};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::cpu::{count_futile_wait, dying, irq_enable};
use super::state::{State, state};
use crate::MAX_CPUS;
use crate::debug::{DebugRegisters, Kind};
use crate::mem::{OutOfMemory, Pfn};
use crate::thread::{FpState, Start, Thread};
use crate::trap::UserFrame;
use crate::uaccess::BadAddress;

/// Why a coroutine gave the host CPU back to the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Yielded {
    /// This CPU runs another thread now.
    Switched,
    /// Another CPU may run.
    Pause,
    /// This CPU waits for an interrupt.
    Idle,
}

type Routine = Coroutine<(), Yielded, ()>;
type Handle = Yielder<(), Yielded>;

/// Host bytes of a kernel stack. Debug code is hungrier than the Pi's; pages are mapped when touched.
const STACK_BYTES: usize = 512 * 1024;
/// log2 of the frames that a kernel stack takes from the kernel's allocator, so that tests see a leaked or a failed one.
const STACK_ORDER: u32 = 2;
/// Stacks kept for reuse.
const POOL: usize = 64;

/// A coroutine and the handle by which it suspends itself.
pub struct Slot {
    routine: Option<Routine>,
    handle: *const Handle,
    used: bool,
}

/// All coroutines of a machine.
pub struct Slots(RefCell<Vec<Slot>>);

thread_local! {
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

fn fresh_stack() -> DefaultStack {
    let pooled = STACKS.with(|stacks| stacks.borrow_mut().pop());
    pooled.unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("the host has address space for a stack"))
}

impl Slots {
    /// The slots of the boot flows, empty.
    pub fn new() -> Self {
        let empty = || Slot { routine: None, handle: std::ptr::null(), used: true };
        Self(RefCell::new((0..MAX_CPUS).map(|_| empty()).collect()))
    }

    fn fill(&self, index: usize, body: impl FnOnce() + 'static) {
        let routine = Coroutine::with_stack(fresh_stack(), move |handle: &Handle, ()| {
            state().slots.0.borrow_mut()[index].handle = handle;
            body();
        });
        self.0.borrow_mut()[index] = Slot { routine: Some(routine), handle: std::ptr::null(), used: true };
    }

    fn add(&self, body: impl FnOnce() + 'static) -> usize {
        let free = self.0.borrow().iter().position(|slot| !slot.used);
        let index = free.unwrap_or_else(|| {
            self.0.borrow_mut().push(Slot { routine: None, handle: std::ptr::null(), used: true });
            self.0.borrow().len() - 1
        });
        self.fill(index, body);
        index
    }

    /// Gives CPU `cpu` its boot flow.
    pub fn start_boot_flow(&self, cpu: usize, body: impl FnOnce() + 'static) {
        self.fill(cpu, body);
    }

    fn remove(&self, index: usize) {
        let mut slots = self.0.borrow_mut();
        let routine = slots[index].routine.take();
        slots[index].used = false;
        drop(slots);
        if let Some(routine) = routine {
            recycle(routine);
        }
    }

    /// Gives up every coroutine: the machine is switched off.
    pub fn clear(&self) {
        let count = self.0.borrow().len();
        for index in 0..count {
            self.remove(index);
        }
    }

    /// Runs a slot until it suspends. `None` when its body returned.
    pub fn resume(&self, index: usize) -> Option<Yielded> {
        let taken = self.0.borrow_mut()[index].routine.take();
        let mut routine = taken.expect("the current thread of a CPU is suspended, not running and not gone");
        match routine.resume(()) {
            CoroutineResult::Yield(why) => {
                self.0.borrow_mut()[index].routine = Some(routine);
                Some(why)
            }
            CoroutineResult::Return(()) => None,
        }
    }
}

/// Ends a coroutine and keeps its stack.
fn recycle(mut routine: Routine) {
    if routine.started() && !routine.done() {
        // SAFETY: nothing on the abandoned stack is dropped, which leaks but is sound: only this stack borrows from
        // itself, and it never runs again. It is what the Pi does with the stack of a dead thread, and it does not hide a
        // reference that the kernel forgot to give up.
        unsafe { routine.force_reset() };
    } else {
        routine.force_unwind();
    }
    STACKS.with(|stacks| {
        let mut stacks = stacks.borrow_mut();
        if stacks.len() < POOL {
            stacks.push(routine.into_stack());
        }
    });
}

/// The hosted half of a [`Thread`].
pub struct ThreadContext {
    home: *const State,
    slot: Cell<usize>,
    frame: UnsafeCell<UserFrame>,
    fp: UnsafeCell<FpState>,
    tls: Cell<u64>,
    single_step: Cell<bool>,
    debug: Cell<DebugRegisters>,
    pub preempt: Cell<u32>,
    pub faults_off: Cell<u32>,
    stack: Option<Pfn>,
}

// SAFETY: a context is used only on the OS thread that made it, whose `State` it points to; `check_home` panics
// elsewhere. The kernel's types demand Send and Sync because on the Pi threads do move between CPUs.
unsafe impl Send for ThreadContext {}
// SAFETY: as above.
unsafe impl Sync for ThreadContext {}

impl ThreadContext {
    pub fn new(start: Start) -> Result<Self, OutOfMemory> {
        let state = state();
        let stack = match state.frame_source.get() {
            Some(source) => Some((source.allocate)(STACK_ORDER).ok_or(OutOfMemory)?),
            None => None,
        };
        let frame = if let Start::User(frame) = &start { *frame } else { UserFrame::default() };
        let slot = state.slots.add(move || first_steps(start));
        Ok(Self::with(slot, frame, stack))
    }

    pub fn for_boot_flow() -> Self {
        Self::with(state().cpu.get(), UserFrame::default(), None)
    }

    fn with(slot: usize, frame: UserFrame, stack: Option<Pfn>) -> Self {
        Self {
            home: state(),
            slot: Cell::new(slot),
            frame: UnsafeCell::new(frame),
            fp: UnsafeCell::new(FpState::default()),
            tls: Cell::new(0),
            single_step: Cell::new(false),
            debug: Cell::new(DebugRegisters::default()),
            preempt: Cell::new(0),
            faults_off: Cell::new(0),
            stack,
        }
    }

    fn check_home(&self) {
        assert!(std::ptr::eq(self.home, state()), "a thread of another machine");
    }

    /// Where the user registers are while the thread is in the kernel.
    pub fn frame_pointer(&self) -> *mut UserFrame {
        self.check_home();
        self.frame.get()
    }

    pub fn user_frame(&self) -> UserFrame {
        // SAFETY: one thread of execution per OS thread (`check_home`); the handler that borrows the frame of the current
        // thread does not use it during this copy.
        unsafe { *self.frame_pointer() }
    }

    pub fn set_user_frame(&self, frame: &UserFrame) {
        // SAFETY: as in `user_frame`.
        unsafe { *self.frame_pointer() = *frame };
    }

    pub fn tls(&self) -> u64 {
        self.tls.get()
    }

    pub fn set_tls(&self, value: u64) {
        self.tls.set(value);
    }

    pub fn set_single_step(&self, stepped: bool) {
        self.single_step.set(stepped);
    }

    /// The stacks of the host have no frame records that are ours to read.
    pub fn kernel_backtrace(&self, _visit: &mut dyn FnMut(u64) -> bool) {}

    pub fn is_single_stepped(&self) -> bool {
        self.single_step.get()
    }

    pub fn debug_registers(&self) -> DebugRegisters {
        self.debug.get()
    }

    pub fn set_debug_registers(&self, registers: &DebugRegisters) -> Result<(), OutOfMemory> {
        self.debug.set(*registers);
        Ok(())
    }

    pub fn fp_state(&self) -> FpState {
        self.check_home();
        // SAFETY: no reference to the cell's content ever leaves these four functions.
        unsafe { *self.fp.get() }
    }

    pub fn set_fp_state(&self, fp: &FpState) {
        self.check_home();
        // SAFETY: as above.
        unsafe { *self.fp.get() = *fp };
    }

    pub fn fp_to_user(&self, to: u64) -> Result<(u32, u32), BadAddress> {
        let fp = self.fp_state();
        let mut bytes = [0; 512];
        for (chunk, v) in bytes.chunks_exact_mut(16).zip(fp.v) {
            chunk.copy_from_slice(&v.to_le_bytes());
        }
        super::copy_to_user(to, &bytes)?;
        Ok((fp.fpsr, fp.fpcr))
    }

    pub fn fp_from_user(&self, from: u64, fpsr: u32, fpcr: u32) -> Result<(), BadAddress> {
        let mut bytes = [0; 512];
        super::copy_from_user(&mut bytes, from)?;
        let mut fp = FpState { fpsr, fpcr, ..FpState::default() };
        for (v, chunk) in fp.v.iter_mut().zip(bytes.chunks_exact(16)) {
            *v = u128::from_le_bytes(chunk.try_into().expect("sixteen bytes"));
        }
        self.set_fp_state(&fp);
        Ok(())
    }

    pub fn inherit_fp_state(&self) {
        if has_current() {
            self.set_fp_state(&current().arch.fp_state());
        }
    }

    pub fn reset_fp_state(&self) {
        self.set_fp_state(&FpState::default());
    }
}

impl Drop for ThreadContext {
    fn drop(&mut self) {
        // What outlives its machine went with it.
        if !std::ptr::eq(self.home, state()) || dying() {
            return;
        }
        if self.slot.get() >= MAX_CPUS {
            state().slots.remove(self.slot.get());
        }
        if let (Some(stack), Some(source)) = (self.stack, state().frame_source.get()) {
            (source.free)(stack, STACK_ORDER);
        }
    }
}

/// What runs first on a new thread's stack.
fn first_steps(start: Start) {
    (state().handlers().thread_started)();
    irq_enable();
    match start {
        Start::Kernel { entry, argument } => {
            entry(argument);
            panic!("the function of a kernel thread returned");
        }
        Start::User(_) => super::user::run(),
    }
}

/// The slot of what runs on this CPU.
pub fn current_slot() -> usize {
    let cpu = state().this();
    if cpu.current.get().is_null() { state().cpu.get() } else { current().arch.slot.get() }
}

/// Gives the host CPU to the driver until it resumes what runs here.
pub fn suspend(why: Yielded) {
    suspend_slot(current_slot(), why);
}

fn suspend_slot(slot: usize, why: Yielded) {
    assert!(state().driving.get(), "waiting needs a running machine");
    let handle = state().slots.0.borrow()[slot].handle;
    // SAFETY: the handle was stored by the coroutine of this slot when it began, lies on its stack, and is valid while the
    // coroutine runs; the code that calls this is that coroutine.
    unsafe { (*handle).suspend(why) };
}

pub fn switch(previous: &Thread, next: &Thread) {
    let state = state();
    if dying() {
        return count_futile_wait(state);
    }
    previous.arch.check_home();
    next.arch.check_home();
    assert!(state.this().masked.get(), "a switch needs masked interrupts");
    debug_assert!(std::ptr::eq(state.this().current.get(), previous), "switched from a thread that is not current");
    let (from, to) = (previous.arch.slot.get(), next.arch.slot.get());
    if from == to {
        return;
    }
    state.this().current.set(next);
    suspend_slot(from, Yielded::Switched);
}

pub fn set_current(thread: &Thread) {
    thread.arch.check_home();
    let cpu = state().this();
    thread.arch.preempt.set(cpu.boot_count.get());
    cpu.current.set(thread);
}

pub fn current() -> &'static Thread {
    let thread = state().this().current.get();
    assert!(!thread.is_null(), "this CPU has no current thread yet");
    // SAFETY: `set_current` and `switch` stored it; its owner outlives its running (contract of `Thread::bind`), and
    // callers keep the borrow no longer than the thread runs.
    unsafe { &*thread }
}

pub fn has_current() -> bool {
    !state().this().current.get().is_null()
}

/// The simulated machine has as many debug registers as a Cortex-A53, which never match.
pub fn debug_count(kind: Kind) -> u8 {
    match kind {
        Kind::Breakpoint => 6,
        Kind::Watchpoint => 4,
    }
}

pub fn debug_architecture() -> u8 {
    6
}
