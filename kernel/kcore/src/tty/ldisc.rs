//! N_TTY, the line discipline: termios(3) as a state machine without locks, tasks or devices.
//!
//! Bytes that the device received go in ([`Ldisc::receive`]); what comes out is data to read ([`Ldisc::read`]), bytes for
//! the device ([`Ldisc::output`]: echoes and what programs wrote, in one order) and signals for the foreground process
//! group ([`Ldisc::take_signals`]). The names in comments are those of Linux `drivers/tty/n_tty.c`, whose behaviour this
//! has, byte for byte.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use abi::signal::{SIGINT, SIGQUIT, SIGTSTP};
use abi::tty as t;
use abi::tty::Termios;

/// Bytes of the input buffer (`N_TTY_BUF_SIZE`): a line has at most 4095 bytes and its end.
pub const INPUT_BYTES: usize = 4096;
/// Bytes that programs may have waiting for the device.
pub const OUTPUT_BYTES: usize = 8192;
/// Echoes beyond this are dropped: a device that does not take output must not fill memory.
const ECHO_BYTES: usize = 2 * OUTPUT_BYTES;

/// Which queues a flush empties.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// What was received and not read.
    Input,
    /// What was written and not sent.
    Output,
}

/// The state of one terminal.
pub struct Ldisc {
    termios: Termios,
    /// A ring; the counters below run on and are masked when used. Made at the first byte.
    buffer: Vec<u8>,
    /// A bit per slot of the ring: the byte there ends a line.
    line_ends: [u64; INPUT_BYTES / 64],
    head: usize,
    tail: usize,
    /// Behind the last complete line (`canon_head`).
    line_head: usize,
    /// LNEXT came: the next byte has no special meaning (`lnext`).
    literal_next: bool,
    /// Inside the `\...\/` of ECHOPRT.
    erasing: bool,
    /// Where the cursor is, and where it was when the line began.
    column: usize,
    line_column: usize,
    /// Output is stopped by the STOP character, or by tcflow(3).
    stopped_by_input: bool,
    stopped_by_call: bool,
    /// For the device, in order.
    output: VecDeque<u8>,
    /// A bit per signal number.
    signals: u64,
}

/// What the ERASE, WERASE and KILL characters remove.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erase {
    Character,
    Word,
    Line,
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

impl Ldisc {
    /// A terminal with `termios` and nothing in it.
    pub fn new(termios: Termios) -> Self {
        Self {
            termios,
            buffer: Vec::new(),
            line_ends: [0; INPUT_BYTES / 64],
            head: 0,
            tail: 0,
            line_head: 0,
            literal_next: false,
            erasing: false,
            column: 0,
            line_column: 0,
            stopped_by_input: false,
            stopped_by_call: false,
            output: VecDeque::new(),
            signals: 0,
        }
    }

    /// The settings.
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    fn input(&self, flag: u32) -> bool {
        self.termios.c_iflag & flag != 0
    }

    fn local(&self, flag: u32) -> bool {
        self.termios.c_lflag & flag != 0
    }

    fn post(&self, flag: u32) -> bool {
        self.termios.c_oflag & flag != 0
    }

    /// Whether `byte` is the special character `index`. NUL switches one off (`_POSIX_VDISABLE`).
    fn is(&self, byte: u8, index: usize) -> bool {
        byte != 0 && self.termios.c_cc[index] == byte
    }

    /// Whether lines are edited and read whole.
    pub fn is_canonical(&self) -> bool {
        self.local(t::ICANON) && !self.local(t::EXTPROC)
    }

    /// VMIN, and VTIME in tenths of a second.
    pub fn minimum_and_time(&self) -> (usize, u64) {
        (usize::from(self.termios.c_cc[t::VMIN]), u64::from(self.termios.c_cc[t::VTIME]))
    }

    /// Changes the settings (`n_tty_set_termios`).
    pub fn set_termios(&mut self, new: Termios) {
        let old = core::mem::replace(&mut self.termios, new);
        if (old.c_lflag ^ new.c_lflag) & (t::ICANON | t::EXTPROC) != 0 {
            self.line_ends = [0; INPUT_BYTES / 64];
            if !self.local(t::ICANON) || self.head == self.tail {
                self.line_head = self.tail;
            } else {
                // What is there can be read at once, as one line.
                self.mark_line_end(self.head.wrapping_sub(1));
                self.line_head = self.head;
            }
            self.erasing = false;
            self.literal_next = false;
        }
        if !self.input(t::IXON) && old.c_iflag & t::IXON != 0 && !self.stopped_by_call {
            self.stopped_by_input = false;
        }
    }

    /// Empties a queue.
    pub fn flush(&mut self, what: Flush) {
        match what {
            Flush::Input => {
                self.head = self.tail;
                self.line_head = self.tail;
                self.line_ends = [0; INPUT_BYTES / 64];
                self.literal_next = false;
                self.erasing = false;
            }
            Flush::Output => self.output.clear(),
        }
    }

    /// The signals raised since the last call, a bit per number.
    pub fn take_signals(&mut self) -> u64 {
        core::mem::take(&mut self.signals)
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Receiving

    /// Takes what the device received. Returns how many bytes were taken: less than given when the buffer is full of
    /// lines or bytes that somebody has to read first.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        if self.buffer.is_empty() && !bytes.is_empty() {
            self.buffer = vec![0; INPUT_BYTES];
        }
        for (taken, byte) in bytes.iter().enumerate() {
            if !self.make_room() {
                return taken;
            }
            self.receive_byte(*byte);
        }
        bytes.len()
    }

    /// Whether a byte can be taken now.
    pub fn has_room(&self) -> bool {
        self.room() > 0 || self.is_line_overflowing()
    }

    fn room(&self) -> usize {
        let free = INPUT_BYTES - self.unread();
        // A marked byte takes three places.
        let free = if self.input(t::PARMRK) { free.div_ceil(3) } else { free };
        free.saturating_sub(1)
    }

    /// One unfinished line fills the buffer: only its end is of use (`n_tty_receive_buf_common`, `overflow`).
    fn is_line_overflowing(&self) -> bool {
        self.local(t::ICANON) && self.line_head == self.tail
    }

    fn make_room(&mut self) -> bool {
        if self.room() > 0 {
            return true;
        }
        if !self.is_line_overflowing() {
            return false;
        }
        if self.unread() >= INPUT_BYTES {
            self.head = self.head.wrapping_sub(1);
        }
        true
    }

    /// The line was held low for longer than a byte.
    pub fn receive_break(&mut self) {
        if self.input(t::IGNBRK) {
            return;
        }
        if self.input(t::BRKINT) {
            return self.raise(SIGINT);
        }
        if self.make_room() {
            if self.buffer.is_empty() {
                self.buffer = vec![0; INPUT_BYTES];
            }
            if self.input(t::PARMRK) {
                self.put(0xff);
                self.put(0);
            }
            self.put(0);
        }
    }

    fn receive_byte(&mut self, mut byte: u8) {
        if self.input(t::ISTRIP) {
            byte &= 0x7f;
        }
        if self.input(t::IUCLC) && self.local(t::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if core::mem::take(&mut self.literal_next) {
            self.receive_plain(byte);
        } else if self.local(t::EXTPROC) {
            self.put(byte);
        } else if self.is_special(byte) {
            self.receive_special(byte);
        } else {
            self.receive_plain(byte);
        }
    }

    /// Whether the settings give the byte a meaning (`char_map` of `n_tty_set_termios`).
    fn is_special(&self, byte: u8) -> bool {
        let canonical = self.local(t::ICANON);
        let extended = canonical && self.local(t::IEXTEN);
        byte == b'\r' && (self.input(t::IGNCR) || self.input(t::ICRNL))
            || byte == b'\n' && (self.input(t::INLCR) || canonical)
            || canonical && [t::VERASE, t::VKILL, t::VEOF, t::VEOL].iter().any(|i| self.is(byte, *i))
            || extended && [t::VWERASE, t::VLNEXT, t::VEOL2].iter().any(|i| self.is(byte, *i))
            || extended && self.local(t::ECHO) && self.is(byte, t::VREPRINT)
            || self.input(t::IXON) && [t::VSTART, t::VSTOP].iter().any(|i| self.is(byte, *i))
            || self.local(t::ISIG) && [t::VINTR, t::VQUIT, t::VSUSP].iter().any(|i| self.is(byte, *i))
    }

    /// A byte that is only data (`n_tty_receive_char`).
    fn receive_plain(&mut self, byte: u8) {
        self.restart_on_any();
        if self.local(t::ECHO) {
            self.finish_erasing();
            self.note_line_column();
            self.echo(byte);
        }
        self.put_marked(byte);
    }

    /// A byte with a meaning (`n_tty_receive_char_special`).
    fn receive_special(&mut self, mut byte: u8) {
        if self.input(t::IXON) {
            if self.is(byte, t::VSTART) {
                return self.start_by_input();
            }
            if self.is(byte, t::VSTOP) {
                self.stopped_by_input = true;
                return;
            }
        }
        if self.local(t::ISIG) {
            let signals = [(t::VINTR, SIGINT), (t::VQUIT, SIGQUIT), (t::VSUSP, SIGTSTP)];
            if let Some((_, signal)) = signals.iter().find(|(index, _)| self.is(byte, *index)) {
                return self.receive_signal(*signal, byte);
            }
        }
        self.restart_on_any();
        match byte {
            b'\r' if self.input(t::IGNCR) => return,
            b'\r' if self.input(t::ICRNL) => byte = b'\n',
            b'\n' if self.input(t::INLCR) => byte = b'\r',
            _ => {}
        }
        if self.local(t::ICANON) && self.receive_editing(byte) {
            return;
        }
        if self.local(t::ECHO) {
            self.finish_erasing();
            if byte == b'\n' {
                self.echo_raw(b'\n');
            } else {
                self.note_line_column();
                self.echo(byte);
            }
        }
        self.put_marked(byte);
    }

    /// The characters that edit or end a line. False when `byte` is none of them.
    fn receive_editing(&mut self, byte: u8) -> bool {
        let extended = self.local(t::IEXTEN);
        if self.is(byte, t::VERASE) {
            self.erase(Erase::Character);
        } else if self.is(byte, t::VKILL) {
            self.erase(Erase::Line);
        } else if extended && self.is(byte, t::VWERASE) {
            self.erase(Erase::Word);
        } else if extended && self.is(byte, t::VLNEXT) {
            self.literal_next = true;
            if self.local(t::ECHO) {
                self.finish_erasing();
                if self.local(t::ECHOCTL) {
                    self.echo_raw(b'^');
                    self.echo_raw(8);
                }
            }
        } else if extended && self.local(t::ECHO) && self.is(byte, t::VREPRINT) {
            self.reprint(byte);
        } else if byte == b'\n' {
            if self.local(t::ECHO) || self.local(t::ECHONL) {
                self.echo_raw(b'\n');
            }
            self.end_line(byte);
        } else if self.is(byte, t::VEOF) {
            // Stored as a line end that is no byte.
            self.end_line(0);
        } else if self.is(byte, t::VEOL) || extended && self.is(byte, t::VEOL2) {
            if self.local(t::ECHO) {
                self.note_line_column();
                self.echo(byte);
            }
            if byte == 0xff && self.input(t::PARMRK) {
                self.put(byte);
            }
            self.end_line(byte);
        } else {
            return false;
        }
        true
    }

    /// INTR, QUIT, SUSP: everything that waits is thrown away unless NOFLSH (`isig`, `n_tty_receive_signal_char`).
    fn receive_signal(&mut self, signal: u32, byte: u8) {
        self.raise(signal);
        if self.input(t::IXON) {
            self.start_by_input();
        }
        if self.local(t::ECHO) {
            self.echo(byte);
        }
    }

    fn raise(&mut self, signal: u32) {
        self.signals |= 1 << signal;
        if !self.local(t::NOFLSH) {
            self.flush(Flush::Output);
            self.flush(Flush::Input);
        }
    }

    fn restart_on_any(&mut self) {
        if self.stopped_by_input && self.input(t::IXON) && self.input(t::IXANY) {
            self.start_by_input();
        }
    }

    fn start_by_input(&mut self) {
        self.stopped_by_input = false;
    }

    fn put(&mut self, byte: u8) {
        self.buffer[self.head % INPUT_BYTES] = byte;
        self.head = self.head.wrapping_add(1);
    }

    /// With PARMRK, a data byte 0xff is doubled so that it is no mark.
    fn put_marked(&mut self, byte: u8) {
        if byte == 0xff && self.input(t::PARMRK) {
            self.put(byte);
        }
        self.put(byte);
    }

    fn end_line(&mut self, byte: u8) {
        self.mark_line_end(self.head);
        self.put(byte);
        self.line_head = self.head;
    }

    fn mark_line_end(&mut self, at: usize) {
        let slot = at % INPUT_BYTES;
        self.line_ends[slot / 64] |= 1 << (slot % 64);
    }

    fn is_line_end(&self, at: usize) -> bool {
        let slot = at % INPUT_BYTES;
        self.line_ends[slot / 64] & 1 << (slot % 64) != 0
    }

    fn byte_at(&self, at: usize) -> u8 {
        self.buffer[at % INPUT_BYTES]
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Editing and echo

    /// Whether the byte continues a UTF-8 character, with IUTF8.
    fn is_continuation(&self, byte: u8) -> bool {
        self.input(t::IUTF8) && byte & 0xc0 == 0x80
    }

    /// `eraser`.
    fn erase(&mut self, what: Erase) {
        if self.head == self.line_head {
            return;
        }
        let echo = self.local(t::ECHO);
        if what == Erase::Line {
            if !echo {
                self.head = self.line_head;
                return;
            }
            if !(self.local(t::ECHOK) && self.local(t::ECHOKE) && self.local(t::ECHOE)) {
                self.head = self.line_head;
                self.finish_erasing();
                self.echo(self.termios.c_cc[t::VKILL]);
                if self.local(t::ECHOK) {
                    self.echo_raw(b'\n');
                }
                return;
            }
        }
        let mut seen_word = false;
        while self.head != self.line_head {
            let mut start = self.head.wrapping_sub(1);
            while self.is_continuation(self.byte_at(start)) && start != self.line_head {
                start = start.wrapping_sub(1);
            }
            let first = self.byte_at(start);
            // A character is not erased in part.
            if self.is_continuation(first) {
                break;
            }
            if what == Erase::Word {
                if first.is_ascii_alphanumeric() || first == b'_' {
                    seen_word = true;
                } else if seen_word {
                    break;
                }
            }
            let length = self.head.wrapping_sub(start);
            self.head = start;
            if echo {
                self.echo_erased(what, first, length);
            }
            if what == Erase::Character {
                break;
            }
        }
        if self.head == self.line_head && echo {
            self.finish_erasing();
        }
    }

    /// Shows that the character of `length` bytes at `head`, beginning with `first`, is gone.
    fn echo_erased(&mut self, what: Erase, first: u8, length: usize) {
        if self.local(t::ECHOPRT) {
            if !self.erasing {
                self.echo_raw(b'\\');
                self.erasing = true;
            }
            self.echo(first);
            for i in 1..length {
                self.echo_raw(self.byte_at(self.head.wrapping_add(i)));
                self.column = self.column.saturating_sub(1);
            }
        } else if what == Erase::Character && !self.local(t::ECHOE) {
            self.echo(self.termios.c_cc[t::VERASE]);
        } else if first == b'\t' {
            self.echo_erased_tab();
        } else {
            let control = is_control(first);
            let shown = self.local(t::ECHOCTL);
            let columns = usize::from(control && shown) + usize::from(!control || shown);
            for _ in 0..columns {
                self.echo_raw(8);
                self.echo_raw(b' ');
                self.echo_raw(8);
            }
        }
    }

    /// Moves back over a tab: as far as it had moved on.
    fn echo_erased_tab(&mut self) {
        let mut columns = 0;
        let mut at = self.head;
        let mut after_tab = false;
        while at != self.line_head {
            at = at.wrapping_sub(1);
            let byte = self.byte_at(at);
            if byte == b'\t' {
                after_tab = true;
                break;
            }
            if is_control(byte) {
                columns += if self.local(t::ECHOCTL) { 2 } else { 0 };
            } else if !self.is_continuation(byte) {
                columns += 1;
            }
        }
        if !after_tab {
            columns += self.line_column;
        }
        for _ in 0..8 - columns % 8 {
            self.send_echo(8);
            self.column = self.column.saturating_sub(1);
        }
    }

    fn finish_erasing(&mut self) {
        if core::mem::take(&mut self.erasing) {
            self.echo_raw(b'/');
        }
    }

    fn reprint(&mut self, byte: u8) {
        self.finish_erasing();
        self.echo(byte);
        self.echo_raw(b'\n');
        let mut at = self.line_head;
        while at != self.head {
            self.echo(self.byte_at(at));
            at = at.wrapping_add(1);
        }
    }

    /// The line begins where the cursor is (`echo_set_canon_col`).
    fn note_line_column(&mut self) {
        if self.line_head == self.head {
            self.line_column = self.column;
        }
    }

    /// Echoes a byte, control characters as `^X` with ECHOCTL.
    fn echo(&mut self, byte: u8) {
        if self.local(t::ECHOCTL) && is_control(byte) && byte != b'\t' {
            self.send_echo(b'^');
            self.send_echo(byte ^ 0x40);
            self.column += 2;
        } else {
            self.echo_raw(byte);
        }
    }

    /// Echoes a byte as it is, but for output processing.
    fn echo_raw(&mut self, byte: u8) {
        if self.output.len() >= ECHO_BYTES {
            return;
        }
        if self.post(t::OPOST) {
            self.process_output(byte);
        } else {
            self.output.push_back(byte);
        }
    }

    fn send_echo(&mut self, byte: u8) {
        if self.output.len() < ECHO_BYTES {
            self.output.push_back(byte);
        }
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Output

    /// Takes what a program writes, with output processing. Returns how many bytes were taken.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if !self.post(t::OPOST) {
            let taken = bytes.len().min(self.write_room());
            self.output.extend(&bytes[..taken]);
            return taken;
        }
        for (taken, byte) in bytes.iter().enumerate() {
            if self.output.len() >= OUTPUT_BYTES {
                return taken;
            }
            self.process_output(*byte);
        }
        bytes.len()
    }

    /// Bytes that [`Ldisc::write`] certainly takes.
    pub fn write_room(&self) -> usize {
        OUTPUT_BYTES.saturating_sub(self.output.len())
    }

    /// `do_output_char`.
    fn process_output(&mut self, mut byte: u8) {
        match byte {
            b'\n' => {
                if self.post(t::ONLRET) {
                    self.column = 0;
                }
                if self.post(t::ONLCR) {
                    self.column = 0;
                    self.output.push_back(b'\r');
                }
                self.line_column = self.column;
            }
            b'\r' => {
                if self.post(t::ONOCR) && self.column == 0 {
                    return;
                }
                if self.post(t::OCRNL) {
                    byte = b'\n';
                }
                if byte == b'\r' || self.post(t::ONLRET) {
                    self.column = 0;
                    self.line_column = 0;
                }
            }
            b'\t' => {
                let spaces = 8 - self.column % 8;
                self.column += spaces;
                if self.termios.c_oflag & t::TABDLY == t::XTABS {
                    self.output.extend(core::iter::repeat_n(b' ', spaces));
                    return;
                }
            }
            8 => self.column = self.column.saturating_sub(1),
            _ if !is_control(byte) => {
                if self.post(t::OLCUC) {
                    byte = byte.to_ascii_uppercase();
                }
                if !self.is_continuation(byte) {
                    self.column += 1;
                }
            }
            _ => {}
        }
        self.output.push_back(byte);
    }

    /// Bytes that wait for the device, stopped or not (TIOCOUTQ).
    pub fn output_waiting(&self) -> usize {
        self.output.len()
    }

    /// Whether the device may send: there is output and nothing stopped it.
    pub fn can_send(&self) -> bool {
        !self.output.is_empty() && !self.is_stopped()
    }

    /// Whether output is stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped_by_input || self.stopped_by_call
    }

    /// What the device should send next: a run of bytes, empty when stopped. [`Ldisc::sent`] removes them.
    pub fn output(&self) -> &[u8] {
        if self.is_stopped() { &[] } else { self.output.as_slices().0 }
    }

    /// The device took `count` bytes of [`Ldisc::output`].
    pub fn sent(&mut self, count: usize) {
        self.output.drain(..count);
    }

    /// tcflow(3) TCOOFF.
    pub fn stop(&mut self) {
        self.stopped_by_call = true;
    }

    /// tcflow(3) TCOON.
    pub fn start(&mut self) {
        self.stopped_by_call = false;
        self.stopped_by_input = false;
    }

    /// Bytes straight to the device: START and STOP of TCIOFF and TCION.
    pub fn send_raw(&mut self, byte: u8) {
        self.output.push_front(byte);
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Reading

    /// Bytes received and not read, with those of an unfinished line.
    fn unread(&self) -> usize {
        self.head.wrapping_sub(self.tail)
    }

    /// Whether a read would find something.
    pub fn is_readable(&self) -> bool {
        if self.is_canonical() { self.line_head != self.tail } else { self.head != self.tail }
    }

    /// The same for poll(2), which without VTIME waits for VMIN bytes (`input_available_p`).
    pub fn is_readable_for_poll(&self) -> bool {
        let (minimum, time) = self.minimum_and_time();
        if self.is_canonical() || time != 0 || minimum == 0 {
            return self.is_readable();
        }
        self.unread() >= minimum
    }

    /// FIONREAD: bytes that reads would give now (`inq_canon`).
    pub fn readable_bytes(&self) -> usize {
        if !self.is_canonical() {
            return self.unread();
        }
        let complete = self.line_head.wrapping_sub(self.tail);
        let ends = (0..complete).filter(|i| self.is_end_of_file(self.tail.wrapping_add(*i))).count();
        complete - ends
    }

    fn is_end_of_file(&self, at: usize) -> bool {
        self.is_line_end(at) && self.byte_at(at) == 0
    }

    /// Reads into `buffer`: in canonical mode from one line, else what there is. `None` when nothing is to be read;
    /// `Some(0)` is end of file.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<Piece> {
        if !self.is_readable() {
            return None;
        }
        if !self.is_canonical() {
            let length = buffer.len().min(self.unread());
            self.copy_out(&mut buffer[..length]);
            self.tail = self.tail.wrapping_add(length);
            if !self.local(t::ICANON) {
                self.line_head = self.tail;
            }
            return Some(Piece { length, ends_read: false });
        }
        // One byte further than asked, so that an end of file just behind the data goes with it
        // (`canon_copy_from_read_buf`).
        let available = self.line_head.wrapping_sub(self.tail).min(buffer.len() + 1);
        let end = (0..available).find(|i| self.is_line_end(self.tail.wrapping_add(*i)));
        let (length, consumed, ends_read) = match end {
            Some(at) if self.is_end_of_file(self.tail.wrapping_add(at)) => (at, at + 1, true),
            Some(at) if at < buffer.len() => (at + 1, at + 1, true),
            _ => (available.min(buffer.len()), available.min(buffer.len()), false),
        };
        self.copy_out(&mut buffer[..length]);
        if ends_read {
            let slot = self.tail.wrapping_add(consumed - 1) % INPUT_BYTES;
            self.line_ends[slot / 64] &= !(1 << (slot % 64));
        }
        self.tail = self.tail.wrapping_add(consumed);
        Some(Piece { length, ends_read })
    }

    fn copy_out(&self, buffer: &mut [u8]) {
        for (i, byte) in buffer.iter_mut().enumerate() {
            *byte = self.byte_at(self.tail.wrapping_add(i));
        }
    }
}

/// What one [`Ldisc::read`] gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Bytes stored.
    pub length: usize,
    /// A line or file end was reached: read(2) returns now.
    pub ends_read: bool,
}
