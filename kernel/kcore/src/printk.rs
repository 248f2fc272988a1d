//! The kernel log: dmesg(1), syslog(2), `/dev/kmsg`.
//!
//! Records lie in one ring of bytes; old ones make room for new ones. A record is a header (sequence number, time, level,
//! facility, length) and its text. Positions count bytes since boot and never wrap, so a reader that was overtaken sees
//! it. The console is one more reader: it prints what passes the log level, and goes on when the port has room again.
//!
//! Logging works in any context that does not hold a lock below [`order::LOG`]. Readers are therefore not woken by a
//! logger that may hold a run queue: such a wake-up is left to the next timer interrupt, [`deliver_wakeups`] (Linux
//! defers to irq_work for the same reason).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::Errno;
use hal::sync::IrqLock;

use crate::Result;
use crate::sync::{WaitQueue, order};
use crate::tty::SerialPort;

/// Bytes of the ring (Linux `CONFIG_LOG_BUF_SHIFT` 18).
pub const RING_BYTES: usize = 1 << 18;
/// The longest text of one record (Linux `PRINTKRB_RECORD_MAX`).
pub const TEXT_LIMIT: usize = 1024;
/// Bytes of a record's header in the ring.
const HEADER: usize = 24;

/// Levels of syslog(3).
pub mod level {
    /// The system is unusable.
    pub const EMERG: u8 = 0;
    /// Act at once.
    pub const ALERT: u8 = 1;
    /// Critical conditions.
    pub const CRIT: u8 = 2;
    /// Errors.
    pub const ERR: u8 = 3;
    /// Warnings.
    pub const WARNING: u8 = 4;
    /// Normal but significant.
    pub const NOTICE: u8 = 5;
    /// Information.
    pub const INFO: u8 = 6;
    /// Debugging.
    pub const DEBUG: u8 = 7;
}

/// Facility of what user programs inject without naming one (LOG_USER).
pub const FACILITY_USER: u8 = 1;

/// Records below this level number go to the console, unless `loglevel=` says otherwise.
const CONSOLE_LEVEL_DEFAULT: u32 = 7;
/// With `quiet` on the command line.
const CONSOLE_LEVEL_QUIET: u32 = 4;
/// The least that syslog(2) lets the console be set to (Linux `CONSOLE_LOGLEVEL_MIN`).
const CONSOLE_LEVEL_MINIMUM: u32 = 1;

/// One record, copied out of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counts records since boot.
    pub sequence: u64,
    /// Monotonic time, ns.
    pub time_ns: u64,
    /// 0 to 7.
    pub level: u8,
    /// 0 for the kernel, 1 for what user programs inject.
    pub facility: u8,
    /// The message, without a newline at its end.
    pub text: Vec<u8>,
}

/// A place in the log: bytes since boot.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

/// What reading at a position finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A record; the second value is the position behind it.
    Record(Record, Position),
    /// The record there was overwritten; the oldest one is at the position given.
    Overwritten(Position),
    /// Nothing yet.
    End,
}

/// The bytes and who has read how far.
struct Log {
    /// Empty until the first record.
    bytes: Vec<u8>,
    /// Where the oldest record begins.
    tail: u64,
    /// Where the next one will begin.
    head: u64,
    next_sequence: u64,
    /// What syslog(2) CLEAR has hidden.
    cleared: u64,
    /// The reader of syslog(2) READ, and how many bytes of its record it has taken.
    syslog: u64,
    syslog_taken: usize,
    console: Console,
}

/// How far the console has printed.
struct Console {
    port: Option<Arc<dyn SerialPort>>,
    at: u64,
    /// The line that is being sent, and how much of it the port took.
    line: Vec<u8>,
    taken: usize,
}

hal::global! {
    static LOG: IrqLock<Log> = IrqLock::new(order::LOG, Log::new());
    static PORT: spin::Once<Arc<dyn SerialPort>> = spin::Once::new();
    static READERS: WaitQueue = WaitQueue::new();
    static WAKE_PENDING: AtomicBool = AtomicBool::new(false);
    static CONSOLE_LEVEL: AtomicU32 = AtomicU32::new(CONSOLE_LEVEL_DEFAULT);
    /// The level that syslog(2) CONSOLE_ON goes back to; `u32::MAX` while the console is on.
    static SAVED_CONSOLE_LEVEL: AtomicU32 = AtomicU32::new(u32::MAX);
    /// `/proc/sys/kernel/dmesg_restrict`.
    pub static DMESG_RESTRICT: AtomicU32 = AtomicU32::new(0);
}

// ---------------------------------------------------------------------------------------------------------------------
// Logging

/// Adds a record. `text` is cut at [`TEXT_LIMIT`]; newlines at its end are dropped.
pub fn emit(level: u8, facility: u8, text: &[u8]) {
    let text = &text[..text.len().min(TEXT_LIMIT)];
    let length = text.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
    let time_ns = crate::time::monotonic_ns();
    let mut log = LOG.lock();
    log.push(level & 7, facility, time_ns, &text[..length]);
    log.print();
    drop(log);
    WAKE_PENDING.store(true, Ordering::Release);
    // With preemption off the caller may hold any lock; otherwise it holds none.
    if hal::cpu::preempt_count() == 0 && hal::cpu::irqs_enabled() {
        deliver_wakeups();
    }
}

/// Formats and adds a record of the kernel's own.
pub fn print(level: u8, arguments: fmt::Arguments<'_>) {
    let mut text = TextBuffer { bytes: [0; TEXT_LIMIT], length: 0 };
    // A buffer that is full cuts the message; there is nobody to tell.
    let _ = text.write_fmt(arguments);
    emit(level, 0, &text.bytes[..text.length]);
}

/// Wakes readers that a logger could not wake itself. Called by the timer interrupt.
pub fn deliver_wakeups() {
    if WAKE_PENDING.load(Ordering::Relaxed) && WAKE_PENDING.swap(false, Ordering::Acquire) {
        READERS.wake_all();
    }
}

/// A fixed buffer that takes what fits: logging allocates nothing.
struct TextBuffer {
    bytes: [u8; TEXT_LIMIT],
    length: usize,
}

impl Write for TextBuffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.len().min(TEXT_LIMIT - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The backend of crate `log`.
struct Backend;

impl log::Log for Backend {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => level::ERR,
            log::Level::Warn => level::WARNING,
            log::Level::Info => level::INFO,
            log::Level::Debug | log::Level::Trace => level::DEBUG,
        };
        print(level, *record.args());
    }

    fn flush(&self) {}
}

/// Makes `log::info!` and its like write here. Records count from this call on.
pub fn init() {
    static BACKEND: Backend = Backend;
    // A second machine of a test process finds the backend in place.
    let _ = log::set_logger(&BACKEND);
    log::set_max_level(log::LevelFilter::Debug);
}

/// Takes `loglevel=N`, `quiet`, `debug` and `ignore_loglevel` from the kernel command line.
pub fn configure(command_line: &str) {
    init();
    for word in command_line.split_ascii_whitespace() {
        match word {
            "quiet" => CONSOLE_LEVEL.store(CONSOLE_LEVEL_QUIET, Ordering::Relaxed),
            "debug" => CONSOLE_LEVEL.store(10, Ordering::Relaxed),
            "ignore_loglevel" => CONSOLE_LEVEL.store(15, Ordering::Relaxed),
            _ => {
                if let Some(number) = word.strip_prefix("loglevel=").and_then(|n| n.parse().ok()) {
                    CONSOLE_LEVEL.store(u32::min(number, 15), Ordering::Relaxed);
                }
            }
        }
    }
}

/// The four numbers of `/proc/sys/kernel/printk`: current, default message, minimum and default console level.
pub fn levels() -> [u32; 4] {
    [CONSOLE_LEVEL.load(Ordering::Relaxed), u32::from(level::WARNING), CONSOLE_LEVEL_MINIMUM, CONSOLE_LEVEL_DEFAULT]
}

/// Sets the current console level.
pub fn set_console_level(level: u32) {
    CONSOLE_LEVEL.store(level.clamp(CONSOLE_LEVEL_MINIMUM, 15), Ordering::Relaxed);
}

// ---------------------------------------------------------------------------------------------------------------------
// The console

/// The log goes to `port` from now on, beginning with what was logged before there was a console.
pub fn set_console(port: Arc<dyn SerialPort>) {
    PORT.call_once(|| port.clone());
    let mut log = LOG.lock();
    log.console.port = Some(port);
    log.print();
}

/// The name of the console's port, for `/proc/consoles` and `/dev/console`.
pub fn console_port() -> Option<Arc<dyn SerialPort>> {
    PORT.get().cloned()
}

/// The port has room again: prints what is left.
pub fn console_ready() {
    // Whoever holds the log prints when it is done; a miss here is made up for at the next record or interrupt.
    if let Some(mut log) = LOG.try_lock() {
        log.print();
    }
}

/// Sends text to the console by polling, past the log, for a kernel that is about to stop. Takes no lock.
pub fn write_polled(text: &str) {
    let Some(port) = PORT.get() else { return };
    for line in text.split_inclusive('\n') {
        match line.strip_suffix('\n') {
            Some(line) => {
                port.write_polled(line.as_bytes());
                port.write_polled(b"\r\n");
            }
            None => port.write_polled(line.as_bytes()),
        }
    }
}

/// Calls `each` with the last `count` lines of the log, oldest first. If the log is locked (the panic came from inside
/// it), there are none.
pub fn last_lines(count: usize, each: &mut dyn FnMut(&str)) {
    let Some(log) = LOG.try_lock() else { return };
    let mut at = log.tail;
    let total = log.next_sequence;
    let mut line = String::new();
    while let Some((record, next)) = log.record_at(at) {
        at = next;
        if record.sequence + count as u64 >= total {
            line.clear();
            let text = String::from_utf8_lossy(&record.text);
            // Writing to a String does not fail.
            let _ = write!(line, "{}{}", Stamp(record.time_ns), text);
            each(&line);
        }
    }
}

/// `[    s.uuuuuu] `, as Linux prints it.
struct Stamp(u64);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:5}.{:06}] ", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

impl Log {
    const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            tail: 0,
            head: 0,
            next_sequence: 0,
            cleared: 0,
            syslog: 0,
            syslog_taken: 0,
            console: Console { port: None, at: 0, line: Vec::new(), taken: 0 },
        }
    }

    /// Appends a record, dropping the oldest ones that are in its way.
    fn push(&mut self, level: u8, facility: u8, time_ns: u64, text: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes = vec![0; RING_BYTES];
        }
        let end = self.head + (HEADER + text.len()) as u64;
        while end - self.tail > RING_BYTES as u64 {
            self.tail += (HEADER + self.text_length(self.tail)) as u64;
        }
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&self.next_sequence.to_le_bytes());
        header[8..16].copy_from_slice(&time_ns.to_le_bytes());
        header[16..20].copy_from_slice(&(text.len() as u32).to_le_bytes());
        header[20] = level;
        header[21] = facility;
        self.store(self.head, &header);
        self.store(self.head + HEADER as u64, text);
        self.next_sequence += 1;
        self.head = end;
    }

    fn store(&mut self, at: u64, bytes: &[u8]) {
        let start = (at % RING_BYTES as u64) as usize;
        let first = bytes.len().min(RING_BYTES - start);
        self.bytes[start..start + first].copy_from_slice(&bytes[..first]);
        self.bytes[..bytes.len() - first].copy_from_slice(&bytes[first..]);
    }

    fn load(&self, at: u64, buffer: &mut [u8]) {
        let start = (at % RING_BYTES as u64) as usize;
        let first = buffer.len().min(RING_BYTES - start);
        let (head, rest) = buffer.split_at_mut(first);
        head.copy_from_slice(&self.bytes[start..start + first]);
        rest.copy_from_slice(&self.bytes[..rest.len()]);
    }

    fn text_length(&self, at: u64) -> usize {
        let mut length = [0; 4];
        self.load(at + 16, &mut length);
        u32::from_le_bytes(length) as usize
    }

    /// The record at `at`, which must be a record's beginning not before the tail, and the position behind it.
    fn record_at(&self, at: u64) -> Option<(Record, u64)> {
        if at >= self.head {
            return None;
        }
        let mut header = [0; HEADER];
        self.load(at, &mut header);
        let word = |from: usize| u64::from_le_bytes(core::array::from_fn(|i| header[from + i]));
        let mut text = vec![0; self.text_length(at)];
        self.load(at + HEADER as u64, &mut text);
        let next = at + (HEADER + text.len()) as u64;
        Some((Record { sequence: word(0), time_ns: word(8), level: header[20], facility: header[21], text }, next))
    }

    /// Sends what the console has not shown yet, as far as its port takes it.
    fn print(&mut self) {
        let Some(port) = self.console.port.clone() else { return };
        loop {
            while self.console.taken < self.console.line.len() {
                let taken = port.write(&self.console.line[self.console.taken..]);
                if taken == 0 {
                    return;
                }
                self.console.taken += taken;
            }
            self.console.at = self.console.at.max(self.tail);
            let Some((record, next)) = self.record_at(self.console.at) else { return };
            self.console.at = next;
            self.console.line.clear();
            self.console.taken = 0;
            if u32::from(record.level) < CONSOLE_LEVEL.load(Ordering::Relaxed) {
                push_prefixed(&mut self.console.line, &record, None, b"\r\n");
            }
        }
    }
}

/// Appends the record's lines, each with `<priority>` (if wanted) and its time before it and `ending` behind it.
fn push_prefixed(out: &mut Vec<u8>, record: &Record, priority: Option<u32>, ending: &[u8]) {
    for line in record.text.split(|byte| *byte == b'\n') {
        let mut prefix = String::new();
        if let Some(priority) = priority {
            // Writing to a String does not fail.
            let _ = write!(prefix, "<{priority}>");
        }
        let _ = write!(prefix, "{}", Stamp(record.time_ns));
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(line);
        out.extend_from_slice(ending);
    }
}

impl Record {
    /// Facility and level as one number.
    pub fn priority(&self) -> u32 {
        u32::from(self.facility) << 3 | u32::from(self.level)
    }

    /// The form of syslog(2): `<6>[    0.000000] text`, a prefix on each line.
    pub fn to_syslog(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_prefixed(&mut out, self, Some(self.priority()), b"\n");
        out
    }

    /// The form of `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg): `6,339,5140900,-;text`. What is not printable is
    /// escaped as `\x0a`.
    pub fn to_kmsg(&self) -> Vec<u8> {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = write!(out, "{},{},{},-;", self.priority(), self.sequence, self.time_ns / 1000);
        let mut out = out.into_bytes();
        for byte in &self.text {
            if *byte < b' ' || *byte >= 127 || *byte == b'\\' {
                let _ = write!(Bytes(&mut out), "\\x{byte:02x}");
            } else {
                out.push(*byte);
            }
        }
        out.push(b'\n');
        out
    }
}

/// Formats into bytes.
struct Bytes<'a>(&'a mut Vec<u8>);

impl Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Readers

/// Woken when something was logged.
pub fn readers() -> &'static WaitQueue {
    &READERS
}

/// Where the oldest record is.
pub fn oldest() -> Position {
    Position(LOG.lock().tail)
}

/// Where the next record will be.
pub fn end() -> Position {
    Position(LOG.lock().head)
}

/// Where the log begins for readers who respect syslog(2) CLEAR.
pub fn cleared() -> Position {
    let log = LOG.lock();
    Position(log.cleared.max(log.tail))
}

/// Looks at the record at `position`, which came from this module.
pub fn read(position: Position) -> Next {
    let log = LOG.lock();
    if position.0 < log.tail {
        return Next::Overwritten(Position(log.tail));
    }
    log.record_at(position.0).map_or(Next::End, |(record, next)| Next::Record(record, Position(next)))
}

/// Whether something is at `position` to read.
pub fn is_readable(position: Position) -> bool {
    position.0 < LOG.lock().head
}

/// syslog(2) SIZE_UNREAD: how many bytes READ would give.
pub fn unread_bytes() -> usize {
    let log = LOG.lock();
    let start = log.syslog.max(log.tail);
    let taken = if start == log.syslog { log.syslog_taken } else { 0 };
    let mut at = start;
    let mut total = 0;
    while let Some((record, next)) = log.record_at(at) {
        total += record.to_syslog().len();
        at = next;
    }
    total - taken
}

/// syslog(2) READ: takes up to `limit` bytes off the log. Empty when nothing is there.
pub fn take_unread(limit: usize) -> Vec<u8> {
    let mut log = LOG.lock();
    let mut out = Vec::new();
    while out.len() < limit {
        if log.syslog < log.tail {
            log.syslog = log.tail;
            log.syslog_taken = 0;
        }
        let Some((record, next)) = log.record_at(log.syslog) else { break };
        let text = record.to_syslog();
        let rest = &text[log.syslog_taken.min(text.len())..];
        let room = limit - out.len();
        if rest.len() > room {
            // A record is taken in parts only if it alone does not fit (Linux `syslog_print`).
            if out.is_empty() {
                out.extend_from_slice(&rest[..room]);
                log.syslog_taken += room;
            }
            break;
        }
        out.extend_from_slice(rest);
        log.syslog = next;
        log.syslog_taken = 0;
    }
    out
}

/// Whether syslog(2) READ has something to give.
pub fn has_unread() -> bool {
    let log = LOG.lock();
    log.syslog < log.head
}

/// syslog(2) READ_ALL: the last records since CLEAR that fit into `limit` bytes.
pub fn last_bytes(limit: usize) -> Vec<u8> {
    let log = LOG.lock();
    let mut texts = Vec::new();
    let mut total = 0;
    let mut at = log.cleared.max(log.tail);
    while let Some((record, next)) = log.record_at(at) {
        let text = record.to_syslog();
        total += text.len();
        texts.push(text);
        at = next;
    }
    drop(log);
    let mut out = Vec::new();
    for text in texts {
        if total <= limit {
            out.extend_from_slice(&text);
        } else {
            total -= text.len();
        }
    }
    out
}

/// syslog(2) CLEAR.
pub fn clear() {
    let mut log = LOG.lock();
    log.cleared = log.head;
}

/// syslog(2) CONSOLE_OFF: only emergencies reach the console.
pub fn console_off() {
    if SAVED_CONSOLE_LEVEL.load(Ordering::Relaxed) == u32::MAX {
        SAVED_CONSOLE_LEVEL.store(CONSOLE_LEVEL.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    CONSOLE_LEVEL.store(CONSOLE_LEVEL_MINIMUM, Ordering::Relaxed);
}

/// syslog(2) CONSOLE_ON.
pub fn console_on() {
    let saved = SAVED_CONSOLE_LEVEL.swap(u32::MAX, Ordering::Relaxed);
    if saved != u32::MAX {
        CONSOLE_LEVEL.store(saved, Ordering::Relaxed);
    }
}

/// syslog(2) CONSOLE_LEVEL: `EINVAL` outside 1 to 8.
pub fn set_console_level_checked(level: usize) -> Result<()> {
    let level = u32::try_from(level).ok().filter(|level| (1..=8).contains(level)).ok_or(Errno::EINVAL)?;
    SAVED_CONSOLE_LEVEL.store(u32::MAX, Ordering::Relaxed);
    set_console_level(level);
    Ok(())
}

/// What a write to `/dev/kmsg` injects: an optional `<priority>` before the text. The facility is never the kernel's
/// (Linux `devkmsg_write`).
pub fn inject(bytes: &[u8]) {
    let (priority, text) =
        parse_priority(bytes).unwrap_or((u32::from(FACILITY_USER) << 3 | u32::from(level::WARNING), bytes));
    let facility = match u8::try_from(priority >> 3) {
        Ok(0) | Err(_) => FACILITY_USER,
        Ok(facility) => facility,
    };
    emit((priority & 7) as u8, facility, text);
}

fn parse_priority(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let rest = bytes.strip_prefix(b"<")?;
    let end = rest.iter().position(|byte| *byte == b'>')?;
    let number = core::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((number, &rest[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64, text: &[u8]) -> Log {
        let mut log = Log::new();
        for i in 0..count {
            log.push(level::INFO, 0, i * 1_000, text);
        }
        log
    }

    #[test]
    fn a_record_comes_back_as_it_went_in() {
        let mut log = Log::new();
        log.push(level::ERR, 3, 1_234_567_890, b"hello");
        let (record, next) = log.record_at(0).unwrap();
        assert_eq!((record.sequence, record.level, record.facility), (0, 3, 3));
        assert_eq!(record.text, b"hello");
        assert_eq!(next, log.head);
        assert_eq!(record.to_syslog(), b"<27>[    1.234567] hello\n");
        assert_eq!(record.to_kmsg(), b"27,0,1234567,-;hello\n");
    }

    #[test]
    fn old_records_make_room_and_the_chain_stays_whole() {
        let log = filled(20_000, &[b'x'; 100]);
        let (mut at, mut expected) = (log.tail, None);
        while let Some((record, next)) = log.record_at(at) {
            assert!(expected.is_none_or(|number| number == record.sequence));
            expected = Some(record.sequence + 1);
            at = next;
        }
        assert_eq!(expected, Some(20_000));
        assert!(log.head - log.tail <= RING_BYTES as u64);
    }

    #[test]
    fn each_line_of_a_record_has_its_prefix() {
        let record = Record { sequence: 0, time_ns: 0, level: 6, facility: 0, text: b"a\nb".to_vec() };
        assert_eq!(record.to_syslog(), b"<6>[    0.000000] a\n<6>[    0.000000] b\n");
        assert_eq!(record.to_kmsg(), b"6,0,0,-;a\\x0ab\n");
    }

    #[test]
    fn an_injected_record_is_never_the_kernels() {
        let before = end();
        inject(b"<3>from a program\n");
        let Next::Record(record, after) = read(before) else { panic!("nothing logged") };
        assert_eq!((record.level, record.facility), (3, 1));
        assert_eq!(record.text, b"from a program");
        inject(b"<30>daemon");
        let Next::Record(record, _) = read(after) else { panic!("nothing logged") };
        assert_eq!((record.level, record.facility), (6, 3));
    }

    #[test]
    fn reading_everything_gives_the_newest_that_fit() {
        let start = end();
        for i in 0..10u8 {
            emit(level::INFO, 0, &[b'a' + i]);
        }
        let one = "<6>[    0.000000] a\n".len();
        let last = last_bytes(one * 3 + 5);
        assert_eq!(last.iter().filter(|b| **b == b'\n').count(), 3);
        assert!(last.ends_with(b"j\n"));
        assert!(is_readable(start));
    }

    #[test]
    fn syslog_read_takes_whole_records_unless_one_alone_is_too_long() {
        while !take_unread(4096).is_empty() {}
        emit(level::INFO, 0, b"first");
        emit(level::INFO, 0, b"second");
        let total = unread_bytes();
        let first = take_unread(30);
        assert!(first.ends_with(b"first\n"));
        let part = take_unread(10);
        assert_eq!(part.len(), 10);
        assert_eq!(unread_bytes(), total - first.len() - 10);
        let rest = take_unread(4096);
        assert!(rest.ends_with(b"second\n"));
        assert!(!has_unread());
    }

    #[test]
    fn clear_hides_what_was_before() {
        emit(level::INFO, 0, b"old");
        clear();
        emit(level::INFO, 0, b"new");
        let text = last_bytes(4096);
        assert!(text.ends_with(b"new\n"));
        assert_eq!(text.iter().filter(|b| **b == b'\n').count(), 1);
    }
}
