//! What every serial port needs besides its registers: a queue of bytes to send, drained by the transmit interrupt, and a
//! receive interrupt that empties the FIFO into the terminal.
//!
//! [`Port`] is the port that kcore sees; a [`Uart`] is the chip under it. Sending never waits: what does not fit into the
//! queue is the caller's to send again when [`Output`] says that there is room. Only a dying kernel, or one that has no
//! interrupts yet, sends by polling.

use alloc::sync::Arc;

use hal::sync::IrqLock;
use kcore::sync::order;
use kcore::tty::SerialPort;

use super::interrupts::{self, InterruptHandler};
use super::mailbox::{Clock, Mailbox};
use super::mini_uart::MiniUart;
use super::pl011::Pl011;
use crate::board::{Board, Console, Kind};

/// What the firmware sets when it is not told otherwise, for when it does not answer.
const UART_CLOCK_HZ: u32 = 48_000_000;
const CORE_CLOCK_HZ: u32 = 250_000_000;

/// A serial port that was found: one object, as the terminal and as the interrupt controller see it.
pub struct Found {
    /// What the terminal writes to.
    pub port: Arc<dyn SerialPort>,
    handler: Arc<dyn InterruptHandler>,
    interrupt: Option<u8>,
    /// As Linux calls the interrupt.
    name: &'static str,
}

/// Finds the port that `console` chose. It sends from now on, and receives after [`Found::start_receiving`].
pub fn probe(board: &Board, console: &Console, mailbox: Option<&Mailbox>) -> Option<Found> {
    let device = board.device(console.port)?;
    let page = hal::board::map_device(device.registers.start & !0xfff, 0x1000);
    let rate = |clock, default| mailbox.and_then(|mailbox| mailbox.clock_rate_hz(clock)).unwrap_or(default);
    let line = Line::parse(console.options);
    if console.port == Kind::MiniUart {
        let uart = MiniUart::new(page, rate(Clock::Core, CORE_CLOCK_HZ));
        Some(Found::new(Port::new(console.name, &line, uart), device.interrupt, "ttyS1"))
    } else {
        let uart = Pl011::new(page, rate(Clock::Uart, UART_CLOCK_HZ));
        Some(Found::new(Port::new(console.name, &line, uart), device.interrupt, "uart-pl011"))
    }
}

impl Found {
    fn new<U: Uart + 'static>(port: Port<U>, interrupt: Option<u8>, name: &'static str) -> Self {
        let port = Arc::new(port);
        Self { port: port.clone(), handler: port, interrupt, name }
    }

    /// Lets the port interrupt: what it receives goes to the terminal from now on.
    pub fn start_receiving(&self) {
        if let Some(line) = self.interrupt {
            interrupts::register(line, self.name, self.handler.clone());
            self.handler.start();
        }
    }
}

/// Bytes that wait for the FIFO: at 115200 baud a third of a second, and a screenful.
const QUEUE_BYTES: usize = 4096;

/// A chip.
pub trait Uart: Send + Sync {
    /// How many bytes the transmit FIFO certainly takes now; 0 when it is full.
    fn transmit_room(&self) -> usize;
    /// Puts a byte into the transmit FIFO, which has room.
    fn transmit(&self, byte: u8);
    /// Takes what the receive FIFO has.
    fn receive(&self) -> Received;
    /// Whether the chip is to interrupt when the transmit FIFO runs low.
    fn set_transmit_interrupt(&self, state: TransmitInterrupt);
    /// Switches the receive interrupt on.
    fn enable_receive_interrupt(&self);
    /// Forgets interrupts that are latched. Called before the FIFOs are served, so that nothing later is lost.
    fn acknowledge(&self);
    /// Sets speed and frame.
    fn set_line(&self, line: &Line);
}

/// One look at a receive FIFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// A byte came.
    Byte(u8),
    /// The line was held low for longer than a byte.
    Break,
    /// Nothing more.
    Empty,
}

/// The transmit interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransmitInterrupt {
    /// It comes when the FIFO has room.
    On,
    /// It does not.
    Off,
}

/// Speed and frame of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Bits a second.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// 1 or 2.
    pub stop_bits: u8,
    /// The parity bit.
    pub parity: Parity,
}

/// The parity bit of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parity {
    /// There is none.
    None,
    /// An even number of ones.
    Even,
    /// An odd number of ones.
    Odd,
}

impl Line {
    /// 115200 8N1: what the Pi firmware, U-Boot and every terminal program start with.
    pub const DEFAULT: Self = Self { baud: 115_200, data_bits: 8, stop_bits: 1, parity: Parity::None };

    /// Console options such as `115200n8` (Linux, Documentation/admin-guide/serial-console.rst); what is left out is as in
    /// [`Line::DEFAULT`].
    fn parse(options: &str) -> Self {
        let digits = options.bytes().take_while(u8::is_ascii_digit).count();
        let (baud, frame) = options.split_at(digits);
        let mut frame = frame.bytes();
        let parity = match frame.next() {
            Some(b'e') => Parity::Even,
            Some(b'o') => Parity::Odd,
            _ => Parity::None,
        };
        let data_bits = frame.next().filter(|digit| (b'5'..=b'8').contains(digit)).map_or(8, |digit| digit - b'0');
        let baud = baud.parse().ok().filter(|baud| (50..=4_000_000).contains(baud)).unwrap_or(Self::DEFAULT.baud);
        Self { baud, data_bits, parity, ..Self::DEFAULT }
    }
}

/// A ring of bytes.
struct Queue {
    bytes: [u8; QUEUE_BYTES],
    head: usize,
    length: usize,
}

impl Queue {
    fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(QUEUE_BYTES - self.length);
        for byte in &bytes[..taken] {
            self.bytes[(self.head + self.length) % QUEUE_BYTES] = *byte;
            self.length += 1;
        }
        taken
    }

    fn pop(&mut self) -> Option<u8> {
        (self.length > 0).then(|| {
            let byte = self.bytes[self.head];
            self.head = (self.head + 1) % QUEUE_BYTES;
            self.length -= 1;
            byte
        })
    }
}

/// A serial port: a chip and its queue.
pub struct Port<U> {
    name: &'static str,
    uart: U,
    queue: IrqLock<Queue>,
}

impl<U: Uart> Port<U> {
    /// A port named as Linux names it, its line set.
    pub fn new(name: &'static str, line: &Line, uart: U) -> Self {
        uart.set_line(line);
        let queue = Queue { bytes: [0; QUEUE_BYTES], head: 0, length: 0 };
        Self { name, uart, queue: IrqLock::new(order::CONSOLE, queue) }
    }

    /// Moves bytes from the queue to the FIFO. The transmit interrupt stays on while some are left.
    fn fill_fifo(&self, queue: &mut Queue) {
        loop {
            let room = self.uart.transmit_room();
            if room == 0 {
                return self.uart.set_transmit_interrupt(TransmitInterrupt::On);
            }
            for _ in 0..room {
                let Some(byte) = queue.pop() else {
                    return self.uart.set_transmit_interrupt(TransmitInterrupt::Off);
                };
                self.uart.transmit(byte);
            }
        }
    }

    fn transmit_polled(&self, byte: u8) {
        while self.uart.transmit_room() == 0 {
            hal::cpu::relax();
        }
        self.uart.transmit(byte);
    }
}

impl<U: Uart> SerialPort for Port<U> {
    fn name(&self) -> &str {
        self.name
    }

    fn write(&self, bytes: &[u8]) -> usize {
        let mut queue = self.queue.lock();
        let mut taken = queue.push(bytes);
        self.fill_fifo(&mut queue);
        // The FIFO took some of the queue, so there may be room for more.
        if taken < bytes.len() {
            taken += queue.push(&bytes[taken..]);
            self.fill_fifo(&mut queue);
        }
        taken
    }

    fn write_polled(&self, bytes: &[u8]) {
        // A panic may have interrupted the holder on this very CPU: then its queue is left alone.
        let mut queue = self.queue.try_lock();
        while let Some(byte) = queue.as_mut().and_then(|queue| queue.pop()) {
            self.transmit_polled(byte);
        }
        for byte in bytes {
            self.transmit_polled(*byte);
        }
    }
}

impl<U: Uart> InterruptHandler for Port<U> {
    fn start(&self) {
        self.uart.enable_receive_interrupt();
    }

    fn interrupt(&self) {
        self.uart.acknowledge();
        self.receive_all();
        let sent = {
            let mut queue = self.queue.lock();
            let waiting = queue.length;
            self.fill_fifo(&mut queue);
            waiting - queue.length
        };
        if sent > 0 {
            kcore::tty::serial_output_ready(0);
        }
    }
}

impl<U: Uart> Port<U> {
    /// Empties the receive FIFO into the terminal, a FIFO's worth at a time.
    fn receive_all(&self) {
        let mut buffer = [0; 32];
        loop {
            let mut length = 0;
            while length < buffer.len() {
                match self.uart.receive() {
                    Received::Byte(byte) => {
                        buffer[length] = byte;
                        length += 1;
                    }
                    Received::Break => {}
                    Received::Empty => break,
                }
            }
            if length > 0 {
                kcore::tty::serial_input(0, &buffer[..length]);
            }
            if length < buffer.len() {
                return;
            }
        }
    }
}
