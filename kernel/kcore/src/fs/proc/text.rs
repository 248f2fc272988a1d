//! Building the texts of `/proc`.
//!
//! `core::fmt` costs a hundred instructions and more per number; programs such as ps and top read thousands of them. The
//! plain decimal and hexadecimal writers here do what these files need.

use alloc::vec::Vec;
use core::fmt;

/// A text that grows.
#[derive(Default)]
pub struct Text(Vec<u8>);

impl Text {
    /// An empty text with room for a typical file.
    pub fn new() -> Self {
        Self(Vec::with_capacity(512))
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends a string.
    pub fn str(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    pub fn byte(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    /// Appends a decimal number.
    pub fn num(&mut self, mut value: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
        self
    }

    /// Appends a decimal number with its sign.
    pub fn int(&mut self, value: i64) -> &mut Self {
        if value < 0 {
            self.0.push(b'-');
        }
        self.num(value.unsigned_abs())
    }

    /// Appends a space and a number: the next field of a line of numbers.
    pub fn field(&mut self, value: u64) -> &mut Self {
        self.0.push(b' ');
        self.num(value)
    }

    /// The same with a sign.
    pub fn field_int(&mut self, value: i64) -> &mut Self {
        self.0.push(b' ');
        self.int(value)
    }

    /// Appends a number padded with spaces to `width` on its left.
    pub fn num_right(&mut self, value: u64, width: usize) -> &mut Self {
        let digits = value.checked_ilog10().unwrap_or(0) as usize + 1;
        self.0.extend(core::iter::repeat_n(b' ', width.saturating_sub(digits)));
        self.num(value)
    }

    /// Appends a number padded with zeros to `width`.
    pub fn num_zeros(&mut self, value: u64, width: usize) -> &mut Self {
        let digits = value.checked_ilog10().unwrap_or(0) as usize + 1;
        self.0.extend(core::iter::repeat_n(b'0', width.saturating_sub(digits)));
        self.num(value)
    }

    /// Appends a hexadecimal number padded with zeros to `width`.
    pub fn hex(&mut self, value: u64, width: usize) -> &mut Self {
        let digits = value.checked_ilog2().unwrap_or(0) as usize / 4 + 1;
        for place in (0..width.max(digits)).rev() {
            let digit = if place < 16 { (value >> (place * 4) & 15) as u8 } else { 0 };
            self.0.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
        self
    }

    /// Appends spaces until the text, counted from `start`, has `width` bytes.
    pub fn pad_to(&mut self, start: usize, width: usize) -> &mut Self {
        let missing = (start + width).saturating_sub(self.0.len());
        self.0.extend(core::iter::repeat_n(b' ', missing));
        self
    }

    /// Appends bytes with those of `special`, and backslashes, as `\ooo` (Linux `mangle_path`).
    pub fn escaped(&mut self, bytes: &[u8], special: &[u8]) -> &mut Self {
        for byte in bytes {
            if special.contains(byte) || *byte == b'\\' {
                self.0.push(b'\\');
                for shift in [6, 3, 0] {
                    self.0.push(b'0' + (byte >> shift & 7));
                }
            } else {
                self.0.push(*byte);
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
        for value in [0, 7, 10, 99, 12_345, u64::MAX] {
            assert_eq!(text(|t| { t.num(value); }), format!("{value}"));
            assert_eq!(text(|t| { t.num_right(value, 8); }), format!("{value:8}"));
            assert_eq!(text(|t| { t.num_zeros(value, 6); }), format!("{value:06}"));
            assert_eq!(text(|t| { t.hex(value, 8); }), format!("{value:08x}"));
            assert_eq!(text(|t| { t.hex(value, 0); }), format!("{value:x}"));
        }
        for value in [i64::MIN, -1, 0, 5] {
            assert_eq!(text(|t| { t.int(value); }), format!("{value}"));
        }
    }

    #[test]
    fn spaces_and_backslashes_of_paths_are_escaped() {
        assert_eq!(text(|t| { t.escaped(b"/a b\\c\n", b" \t\n"); }), "/a\\040b\\134c\\012");
    }
}
