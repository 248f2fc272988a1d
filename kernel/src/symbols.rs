//! The names of the kernel's functions, for backtraces.
//!
//! The table is made from the linked ELF by `tools` and appended to the flat image, right behind the memory of the
//! kernel (`__kernel_end`): the kernel could not contain it without being linked twice. An image without the table works
//! and prints bare addresses.
//!
//! Layout, all words little-endian 32 bit: [`MAGIC`] (8 bytes), the byte length of the whole table, the number of
//! symbols; then for each symbol, sorted, its offset from the start of the kernel; then for each symbol and once more for
//! the end, the offset of its name in what follows, the names.

/// The first bytes of a table. Version 1.
pub const MAGIC: &[u8; 8] = b"DRPSYMS1";
/// Bytes before the first symbol.
pub const HEADER_BYTES: usize = 16;
/// A table larger than this is not one; the release kernel's has about 300 KiB.
const MAX_BYTES: usize = 16 << 20;

/// A checked table.
#[derive(Clone, Copy)]
pub struct Symbols {
    count: usize,
    offsets: &'static [u8],
    names: &'static [u8],
}

/// The size in bytes of the table that begins with `header`, if it is one.
pub fn size(header: &[u8]) -> Option<usize> {
    let size = word(header, 2)? as usize;
    (header.get(..8)? == MAGIC && (HEADER_BYTES..=MAX_BYTES).contains(&size)).then_some(size)
}

impl Symbols {
    /// Takes the table apart. `None` when its parts do not fit into `table`.
    pub fn new(table: &'static [u8]) -> Option<Self> {
        let count = word(table, 3)? as usize;
        let names_at = HEADER_BYTES.checked_add(count.checked_mul(8)?)?.checked_add(4)?;
        Some(Self { count, offsets: table.get(HEADER_BYTES..names_at)?, names: &table[names_at..] })
    }

    /// The function that contains the byte `offset` bytes into the kernel: its name, how far into it that is, and how long it is
    /// (0 for the last one, whose end the table does not know).
    pub fn find(&self, offset: usize) -> Option<(&'static str, usize, usize)> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if word(self.offsets, middle)? as usize <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let index = low.checked_sub(1)?;
        let start = word(self.offsets, index)? as usize;
        let name_start = word(self.offsets, self.count + index)? as usize;
        let name_end = word(self.offsets, self.count + index + 1)? as usize;
        let name = core::str::from_utf8(self.names.get(name_start..name_end)?).ok()?;
        let next = if index + 1 < self.count { word(self.offsets, index + 1)? as usize } else { start };
        Some((name, offset - start, next - start))
    }
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let at = index.checked_mul(4)?;
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{MAGIC, Symbols, size};
    use alloc::vec::Vec;

    fn table() -> &'static [u8] {
        let names = b"startmiddle";
        let words: [u32; 5] = [0x10, 0x40, 0, 5, 11];
        let mut bytes = Vec::from(MAGIC.as_slice());
        bytes.extend(((16 + 20 + names.len()) as u32).to_le_bytes());
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(names);
        bytes.leak()
    }

    #[test]
    fn an_address_belongs_to_the_function_that_starts_before_it() {
        let bytes = table();
        assert_eq!(size(bytes), Some(bytes.len()));
        let symbols = Symbols::new(bytes).expect("is a table");
        assert_eq!(symbols.find(0xf), None);
        assert_eq!(symbols.find(0x10), Some(("start", 0, 0x30)));
        assert_eq!(symbols.find(0x3f), Some(("start", 0x2f, 0x30)));
        assert_eq!(symbols.find(0x1000), Some(("middle", 0xfc0, 0)));
    }

    #[test]
    fn a_cut_table_is_no_table() {
        assert!(Symbols::new(&table()[..20]).is_none());
        assert_eq!(size(b"DRPSYMS1"), None);
        assert_eq!(size(b"DRPSYMS2\x20\0\0\0\0\0\0\0"), None);
    }
}
