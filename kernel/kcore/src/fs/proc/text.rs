//! Building the texts of `/proc`.
//!
//! `core::fmt` costs a hundred instructions and more per number; programs such as ps and top read thousands of them. The
//! plain decimal and hexadecimal writers here do what these files need.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// A text that grows. The bytes are in place before they are counted, so that a number is written where it stays,
/// without a copy.
#[derive(Default)]
pub struct Text {
    bytes: Vec<u8>,
    length: usize,
}

/// Bytes of the first allocation: most files of `/proc` fit.
const FIRST: usize = 512;
/// Room that a number needs, with a sign or space before it.
const NUMBER: usize = DIGITS + 1;

/// The values of the eight digits of a number below 100,000,000, the first in the lowest byte. Divisions by 100 and by 10
/// are multiplications of all parts at once (10,486 / 2^20, 103 / 2^10), exact for parts so small.
fn eight_digits(value: u64) -> u64 {
    let fours = (value / 10_000) | ((value % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let pairs = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((pairs - tens * 10) << 8)
}

/// The digits of a number.
pub(super) fn decimal(value: u64, room: &mut [u8; DIGITS]) -> &[u8] {
    let count = put_decimal(value, room);
    room.get(..count).unwrap_or(&[])
}

/// Room that digits are written into: three groups of eight.
pub(super) const DIGITS: usize = 24;
/// A group of eight digits.
const GROUP: u64 = 100_000_000;
const ZEROS: u64 = 0x3030_3030_3030_3030;

#[inline(always)]
fn put_decimal(value: u64, room: &mut [u8; DIGITS]) -> usize {
    if value < GROUP { put_first(value, room) } else { put_groups(value, room) }
}

/// Writes up to eight digits, from the first that is not zero on.
#[inline(always)]
fn put_first(value: u64, room: &mut [u8; DIGITS]) -> usize {
    let digits = eight_digits(value);
    // Zero has one digit as well.
    let skipped = (digits | 1 << 56).trailing_zeros() as usize / 8;
    if let Some(place) = room.first_chunk_mut() {
        *place = ((digits | ZEROS) >> (skipped * 8)).to_le_bytes();
    }
    8 - skipped
}

fn put_groups(value: u64, room: &mut [u8; DIGITS]) -> usize {
    let above = value / GROUP;
    let count = if above < GROUP { put_first(above, room) } else { put_groups(above, room) };
    if let Some(place) = room.get_mut(count..).and_then(|rest| rest.first_chunk_mut()) {
        *place = (eight_digits(value % GROUP) | ZEROS).to_le_bytes();
    }
    count + 8
}

impl Text {
    /// An empty text with room for a typical file.
    pub fn new() -> Self {
        Self { bytes: vec![0; FIRST], length: 0 }
    }

    /// The bytes.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.truncate(self.length);
        self.bytes
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Makes room for `more` bytes.
    #[inline(always)]
    fn want(&mut self, more: usize) {
        if self.bytes.len() - self.length < more {
            self.grow(more);
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let size = (self.length + more).max(self.bytes.len() * 2).max(FIRST);
        self.bytes.resize(size, 0);
    }

    /// Appends a string.
    pub fn str(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.want(bytes.len());
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
        self
    }

    /// Appends one byte.
    #[inline]
    pub fn byte(&mut self, byte: u8) -> &mut Self {
        self.want(1);
        self.bytes[self.length] = byte;
        self.length += 1;
        self
    }

    /// Appends a byte `count` times.
    pub fn repeat(&mut self, byte: u8, count: usize) {
        for _ in 0..count {
            self.byte(byte);
        }
    }

    /// Appends a decimal number.
    pub fn num(&mut self, value: u64) -> &mut Self {
        self.want(NUMBER);
        self.digits(value);
        self
    }

    /// Writes digits where there is room.
    #[inline]
    fn digits(&mut self, value: u64) {
        if value < 10 {
            self.bytes[self.length] = b'0' + value as u8;
            self.length += 1;
        } else if let Some(room) = self.bytes[self.length..].first_chunk_mut() {
            self.length += put_decimal(value, room);
        }
    }

    /// Appends a decimal number with its sign.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.want(NUMBER);
        if value < 0 {
            self.bytes[self.length] = b'-';
            self.length += 1;
        }
        self.digits(value.unsigned_abs());
        self
    }

    /// Appends a space and a number: the next field of a line of numbers.
    pub fn field(&mut self, value: u64) -> &mut Self {
        self.want(NUMBER + 1);
        self.bytes[self.length] = b' ';
        self.length += 1;
        self.digits(value);
        self
    }

    /// The same with a sign.
    pub fn field_int(&mut self, value: i64) -> &mut Self {
        self.byte(b' ').int(value)
    }

    /// Appends a number padded with spaces to `width` on its left.
    pub fn num_right(&mut self, value: u64, width: usize) -> &mut Self {
        let digits = value.checked_ilog10().unwrap_or(0) as usize + 1;
        self.repeat(b' ', width.saturating_sub(digits));
        self.num(value)
    }

    /// Appends a number padded with zeros to `width`.
    pub fn num_zeros(&mut self, value: u64, width: usize) -> &mut Self {
        let digits = value.checked_ilog10().unwrap_or(0) as usize + 1;
        self.repeat(b'0', width.saturating_sub(digits));
        self.num(value)
    }

    /// Appends a hexadecimal number padded with zeros to `width`.
    pub fn hex(&mut self, value: u64, width: usize) -> &mut Self {
        let digits = value.checked_ilog2().unwrap_or(0) as usize / 4 + 1;
        for place in (0..width.max(digits)).rev() {
            let digit = if place < 16 { (value >> (place * 4) & 15) as u8 } else { 0 };
            self.byte(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
        self
    }

    /// Appends spaces until the text, counted from `start`, has `width` bytes.
    pub fn pad_to(&mut self, start: usize, width: usize) -> &mut Self {
        self.repeat(b' ', (start + width).saturating_sub(self.length));
        self
    }

    /// Appends bytes with those of `special`, and backslashes, as `\ooo` (Linux `mangle_path`).
    pub fn escaped(&mut self, bytes: &[u8], special: &[u8]) -> &mut Self {
        for byte in bytes {
            if special.contains(byte) || *byte == b'\\' {
                self.byte(b'\\');
                for shift in [6, 3, 0] {
                    self.byte(b'0' + (byte >> shift & 7));
                }
            } else {
                self.byte(*byte);
            }
        }
        self
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    fn text(build: impl FnOnce(&mut Text)) -> String {
        let mut text = Text::new();
        build(&mut text);
        String::from_utf8(text.into_bytes()).unwrap()
    }

    #[test]
    fn numbers_are_written_as_format_would() {
        let tens = (0..20).map(|zeros| 10u64.pow(zeros));
        for value in tens.flat_map(|ten| [ten - 1, ten, ten + 1]).chain([7, 12_345, 9_999_000_000, u64::MAX]) {
            assert_eq!(
                text(|t| {
                    t.num(value);
                }),
                format!("{value}")
            );
            assert_eq!(
                text(|t| {
                    t.num_right(value, 8);
                }),
                format!("{value:8}")
            );
            assert_eq!(
                text(|t| {
                    t.num_zeros(value, 6);
                }),
                format!("{value:06}")
            );
            assert_eq!(
                text(|t| {
                    t.hex(value, 8);
                }),
                format!("{value:08x}")
            );
            assert_eq!(
                text(|t| {
                    t.hex(value, 0);
                }),
                format!("{value:x}")
            );
        }
        for value in [i64::MIN, -1, 0, 5] {
            assert_eq!(
                text(|t| {
                    t.int(value);
                }),
                format!("{value}")
            );
        }
    }

    #[test]
    fn spaces_and_backslashes_of_paths_are_escaped() {
        assert_eq!(
            text(|t| {
                t.escaped(b"/a b\\c\n", b" \t\n");
            }),
            "/a\\040b\\134c\\012"
        );
    }
}
