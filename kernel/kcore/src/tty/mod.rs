//! Terminals: the line discipline ([`ldisc`]) joined to a device on one side and to processes on the other.
//!
//! A [`Tty`] is one terminal. Its device is a serial port that the image registered, or the master side of a
//! pseudo-terminal ([`pty`]). Programs reach it through an [`OpenTty`] per open file ([`file`]); [`job`] is job control,
//! sessions and hang-up; [`ioctl`] is ioctl_tty(2).
//!
//! What a serial port receives goes into a lock-free ring in interrupt context and through the line discipline in a
//! kernel thread, because signals must not be sent from an interrupt that may have stopped a holder of the task locks.
//! The ring holds 64 KiB: it takes any paste until the reader catches up.

pub mod file;
pub mod ioctl;
pub mod job;
pub mod ldisc;
#[cfg(test)]
mod ldisc_tests;
pub mod pty;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use abi::tty::{B115200, CBAUD, CLOCAL, Termios, Winsize};
use hal::sync::SpinLock;

use crate::sched;
use crate::sync::{WaitQueue, order};
use crate::task::{Pid, TaskState, current};
use ldisc::Ldisc;

pub use file::OpenTty;
pub use job::disassociate_session;

/// A serial port, as a driver implements it.
pub trait SerialPort: Send + Sync {
    /// Linux's name, such as `ttyAMA0`.
    fn name(&self) -> &str;
    /// Queues bytes without waiting. Returns how many were taken; [`serial_output_ready`] follows when there is room.
    fn write(&self, bytes: &[u8]) -> usize;
    /// Sends bytes by polling, for a kernel that is about to stop.
    fn write_polled(&self, bytes: &[u8]);
}

/// Most serial ports that can be registered.
const MAX_PORTS: usize = 4;
/// Bytes of a port's input ring.
const RING_BYTES: usize = 64 * 1024;
/// Bytes moved under the terminal's lock at a time.
pub(crate) const CHUNK: usize = 512;
/// Writers are woken when at least this much fits (Linux `WAKEUP_CHARS`).
const WAKE_ROOM: usize = 256;

/// A single-producer, single-consumer queue of bytes: the port's interrupt puts, the worker takes.
struct InputRing {
    bytes: Box<[AtomicU8]>,
    head: AtomicUsize,
    tail: AtomicUsize,
    /// Bytes that did not fit.
    lost: AtomicUsize,
}

impl InputRing {
    fn new() -> Self {
        let bytes = (0..RING_BYTES).map(|_| AtomicU8::new(0)).collect();
        Self { bytes, head: AtomicUsize::new(0), tail: AtomicUsize::new(0), lost: AtomicUsize::new(0) }
    }

    fn put(&self, bytes: &[u8]) {
        let head = self.head.load(Ordering::Relaxed);
        let room = RING_BYTES - head.wrapping_sub(self.tail.load(Ordering::Acquire));
        let taken = bytes.len().min(room);
        for (i, byte) in bytes[..taken].iter().enumerate() {
            self.bytes[head.wrapping_add(i) % RING_BYTES].store(*byte, Ordering::Relaxed);
        }
        self.head.store(head.wrapping_add(taken), Ordering::Release);
        self.lost.fetch_add(bytes.len() - taken, Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.head.load(Ordering::Acquire) == self.tail.load(Ordering::Relaxed)
    }

    fn peek(&self, buffer: &mut [u8]) -> usize {
        let tail = self.tail.load(Ordering::Relaxed);
        let length = buffer.len().min(self.head.load(Ordering::Acquire).wrapping_sub(tail));
        for (i, byte) in buffer[..length].iter_mut().enumerate() {
            *byte = self.bytes[tail.wrapping_add(i) % RING_BYTES].load(Ordering::Relaxed);
        }
        length
    }

    fn consume(&self, length: usize) {
        self.tail.fetch_add(length, Ordering::Release);
    }
}

/// What is behind a terminal.
enum Device {
    Serial {
        port: Arc<dyn SerialPort>,
        input: InputRing,
        /// The port took less than there was: the worker goes on when it is ready.
        output_pending: AtomicBool,
    },
    /// The master reads [`Ldisc::output`] and waits here for it.
    Pty { number: u32, master: pty::MasterSide },
}

/// What the terminal's lock guards.
pub(crate) struct State {
    pub ldisc: Ldisc,
    pub winsize: Winsize,
    /// The session it controls, and that session's foreground process group.
    pub session: Option<Arc<Pid>>,
    pub pgrp: Option<Arc<Pid>>,
    /// Files open on it (a pseudo-terminal's slave side only).
    pub open_count: usize,
    /// TIOCEXCL.
    pub exclusive: bool,
}

/// A terminal.
pub struct Tty {
    name: String,
    /// Major and minor number.
    numbers: (u32, u32),
    device: Device,
    pub(crate) state: SpinLock<State>,
    /// Counts hang-ups: a file that was opened before the last one is dead.
    generation: AtomicU32,
    pub(crate) readable: WaitQueue,
    pub(crate) writable: WaitQueue,
    this: Weak<Tty>,
}

hal::global! {
    static PORTS: [spin::Once<Arc<Tty>>; MAX_PORTS] = [const { spin::Once::new() }; MAX_PORTS];
    /// The worker waits here.
    static WORKER: WaitQueue = WaitQueue::new();
    static WORK: AtomicBool = AtomicBool::new(false);
}

// ---------------------------------------------------------------------------------------------------------------------
// Serial ports

/// Makes a terminal of a serial port. The first one registered is port 0. A port that is known already stays what it is.
pub fn register_serial(port: Arc<dyn SerialPort>) -> Option<Arc<Tty>> {
    for slot in PORTS.iter() {
        match slot.get() {
            Some(tty) if tty.name() == port.name() => return Some(tty.clone()),
            Some(_) => {}
            None => {
                return Some(
                    slot.call_once(|| {
                        let name = String::from(port.name());
                        let numbers = serial_numbers(&name);
                        let input = InputRing::new();
                        let device = Device::Serial { port, input, output_pending: AtomicBool::new(false) };
                        Tty::new(name, numbers, device, serial_termios())
                    })
                    .clone(),
                );
            }
        }
    }
    None
}

/// Device numbers by name (Documentation/admin-guide/devices.txt).
fn serial_numbers(name: &str) -> (u32, u32) {
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let index: u32 = digits.parse().unwrap_or(0);
    if name.starts_with("ttyAMA") { (204, 64 + index) } else { (4, 64 + index) }
}

/// A serial console begins at 115200 baud and ignores modem lines.
fn serial_termios() -> Termios {
    let standard = Termios::STANDARD;
    Termios { c_cflag: standard.c_cflag & !CBAUD | B115200 | CLOCAL, c_ispeed: 115_200, c_ospeed: 115_200, ..standard }
}

/// The registered serial terminals.
pub fn serial_ttys() -> impl Iterator<Item = Arc<Tty>> {
    let ports: &'static [spin::Once<Arc<Tty>>; MAX_PORTS] = &PORTS;
    ports.iter().filter_map(|slot| slot.get().cloned())
}

/// The terminal of the console: the first serial port.
pub fn console() -> Option<Arc<Tty>> {
    serial_ttys().next()
}

/// Bytes came in on port `port`. Callable from its interrupt handler, which must not be entered twice at a time.
pub fn serial_input(port: usize, bytes: &[u8]) {
    if let Some(Device::Serial { input, .. }) = PORTS.get(port).and_then(|slot| slot.get()).map(|tty| &tty.device) {
        input.put(bytes);
        kick_worker();
    }
}

/// Port `port` has room for output again. Callable from its interrupt handler.
pub fn serial_output_ready(port: usize) {
    if port == 0 {
        crate::printk::console_ready();
    }
    let device = PORTS.get(port).and_then(|slot| slot.get()).map(|tty| &tty.device);
    if let Some(Device::Serial { output_pending, .. }) = device
        && output_pending.load(Ordering::Acquire)
    {
        kick_worker();
    }
}

fn kick_worker() {
    WORK.store(true, Ordering::Release);
    WORKER.wake_one();
}

/// Makes the console's terminal and registers the character devices. Called once at boot.
pub fn init(serial: Option<Arc<dyn SerialPort>>) {
    if let Some(port) = serial {
        register_serial(port);
    }
    if let Err(error) = crate::fs::dev::init() {
        log::error!("tty: devices are not available ({error})");
    }
}

/// Starts the kernel thread that moves bytes between ports and terminals. Called once the scheduler runs.
pub fn start_workers() {
    if let Err(error) = crate::task::kthread::spawn("ttyd", worker) {
        log::error!("ttyd: {error}");
    }
}

fn worker() -> i32 {
    sched::set_nice(&current().arc(), -10);
    loop {
        // An idle sleep has no other end than its condition.
        let _ = WORKER.wait_event(TaskState::Idle, || WORK.swap(false, Ordering::AcqRel));
        for tty in serial_ttys() {
            tty.move_input();
            tty.push_output();
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The terminal

impl Tty {
    fn new(name: String, numbers: (u32, u32), device: Device, termios: Termios) -> Arc<Tty> {
        let state = State {
            ldisc: Ldisc::new(termios),
            winsize: Winsize::default(),
            session: None,
            pgrp: None,
            open_count: 0,
            exclusive: false,
        };
        Arc::new_cyclic(|this| Tty {
            name,
            numbers,
            device,
            state: SpinLock::new(order::CHANNEL, state),
            generation: AtomicU32::new(0),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
            this: this.clone(),
        })
    }

    /// `ttyAMA0`, `pts/0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Major and minor device number.
    pub fn numbers(&self) -> (u32, u32) {
        self.numbers
    }

    /// The number as `/proc/PID/stat` shows it (field 7, tty_nr).
    pub fn tty_nr(&self) -> i32 {
        (abi::stat::makedev(self.numbers.0, self.numbers.1) as u32).cast_signed()
    }

    /// The number of the foreground process group in the initial namespace, -1 when there is none (field 8, tpgid).
    pub fn foreground_pgrp(&self) -> i32 {
        self.state.lock().pgrp.as_ref().map_or(-1, |pid| pid.global())
    }

    pub(crate) fn arc(&self) -> Arc<Tty> {
        self.this.upgrade().expect("a method runs on a live object")
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn pty(&self) -> Option<(u32, &pty::MasterSide)> {
        match &self.device {
            Device::Pty { number, master } => Some((*number, master)),
            Device::Serial { .. } => None,
        }
    }

    /// Runs bytes from the device through the line discipline. Returns how many were taken.
    pub(crate) fn receive(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        let taken = state.ldisc.receive(bytes);
        let signals = state.ldisc.take_signals();
        let pgrp = state.pgrp.clone();
        let readable = state.ldisc.is_readable();
        drop(state);
        if signals != 0 {
            self.send_signals(signals, pgrp);
        }
        if readable {
            self.readable.wake_all_for(abi::poll::POLLIN | abi::poll::POLLRDNORM);
        }
        self.push_output();
        taken
    }

    fn send_signals(&self, signals: u64, pgrp: Option<Arc<Pid>>) {
        if let Some(pgrp) = pgrp {
            for signal in (1..64).filter(|signal| signals & 1 << signal != 0) {
                crate::signal::send::send_pgrp(pgrp.global(), signal);
            }
        }
        // The signal emptied the queues.
        self.writable.wake_all_for(abi::poll::POLLOUT | abi::poll::POLLWRNORM);
    }

    /// Worker: empties the input ring as far as the line discipline takes it.
    fn move_input(&self) {
        let Device::Serial { input, .. } = &self.device else { return };
        let mut chunk = [0; 128];
        loop {
            let length = input.peek(&mut chunk);
            if length == 0 {
                break;
            }
            let taken = self.receive(&chunk[..length]);
            input.consume(taken);
            if taken < length {
                break;
            }
        }
        let lost = input.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            log::warn!("{}: {lost} input overrun(s)", self.name);
        }
    }

    /// A reader made room: input that had to wait can go on.
    pub(crate) fn resume_input(&self) {
        match &self.device {
            Device::Serial { input, .. } if !input.is_empty() => kick_worker(),
            Device::Serial { .. } => {}
            Device::Pty { master, .. } => master.writable.wake_all_for(abi::poll::POLLOUT | abi::poll::POLLWRNORM),
        }
    }

    /// Hands output to the device, and wakes writers when there is room again.
    pub(crate) fn push_output(&self) {
        match &self.device {
            Device::Serial { port, output_pending, .. } => {
                let mut state = self.state.lock();
                let mut sent = false;
                loop {
                    let run = state.ldisc.output();
                    if run.is_empty() {
                        output_pending.store(false, Ordering::Release);
                        break;
                    }
                    // Before the attempt: the port may drain between its "full" and our going to sleep.
                    output_pending.store(true, Ordering::Release);
                    let taken = port.write(run);
                    if taken == 0 {
                        break;
                    }
                    state.ldisc.sent(taken);
                    sent = true;
                }
                let room = state.ldisc.write_room();
                drop(state);
                if sent && room >= WAKE_ROOM {
                    self.writable.wake_all_for(abi::poll::POLLOUT | abi::poll::POLLWRNORM);
                }
            }
            Device::Pty { master, .. } => {
                if self.state.lock().ldisc.can_send() {
                    master.readable.wake_all_for(abi::poll::POLLIN | abi::poll::POLLRDNORM);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{InputRing, RING_BYTES, serial_numbers};

    #[test]
    fn the_input_ring_keeps_order_and_counts_what_it_loses() {
        let ring = InputRing::new();
        let mut buffer = [0; 100];
        for round in 0..2000u32 {
            let bytes: Vec<u8> = (0..67).map(|i| (round * 67 + i) as u8).collect();
            ring.put(&bytes);
            assert_eq!(ring.peek(&mut buffer), 67);
            assert_eq!(&buffer[..67], &bytes[..]);
            ring.consume(67);
        }
        assert!(ring.is_empty());
        ring.put(&vec![1; RING_BYTES + 10]);
        assert_eq!(ring.lost.load(core::sync::atomic::Ordering::Relaxed), 10);
    }

    #[test]
    fn serial_terminals_have_linux_device_numbers() {
        assert_eq!(serial_numbers("ttyAMA0"), (204, 64));
        assert_eq!(serial_numbers("ttyS1"), (4, 65));
    }
}
