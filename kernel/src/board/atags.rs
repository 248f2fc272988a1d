//! The ATAG list: how a boot loader told a 32-bit Arm Linux what it needs to know before device trees ("Booting ARM
//! Linux", arch/arm/include/uapi/asm/setup.h). The Pi firmware and QEMU still leave one at 0x100 when they have no tree.
//!
//! Each tag is a word count, a number, and the payload; a tag of number 0 ends the list.

use super::{Board, Region, text_before_nul};

/// Where the list lies.
pub const ADDRESS: u64 = 0x100;
/// How far it is looked at: up to the kernel image it can be, up to the end of the first page it is.
pub const MAX_BYTES: usize = 0x1000 - 0x100;

const ATAG_NONE: u32 = 0;
const ATAG_CORE: u32 = 0x5441_0001;
const ATAG_MEM: u32 = 0x5441_0002;
const ATAG_CMDLINE: u32 = 0x5441_0009;
const ATAG_INITRD2: u32 = 0x5442_0005;

/// Adds what the list says to `board`. A list that does not start with `ATAG_CORE` is no list: `false`, and nothing
/// is changed.
pub fn apply(list: &'static [u8], board: &mut Board) -> bool {
    if word(list, 1) != Some(ATAG_CORE) {
        return false;
    }
    let mut rest = list;
    while let Some((tag, payload, next)) = split_tag(rest) {
        match tag {
            ATAG_MEM => board.memory.extend(region(payload, 1, 0)),
            ATAG_INITRD2 => board.initramfs = region(payload, 0, 1),
            ATAG_CMDLINE => board.command_line = text_before_nul(payload),
            _ => {}
        }
        rest = next;
    }
    true
}

/// The first tag's number and payload, and what follows it; nothing at the end of the list or when a size is wrong.
fn split_tag(list: &'static [u8]) -> Option<(u32, &'static [u8], &'static [u8])> {
    let bytes = usize::try_from(word(list, 0)?).ok()?.checked_mul(4)?;
    let tag = word(list, 1)?;
    if tag == ATAG_NONE || bytes < 8 || bytes > list.len() {
        return None;
    }
    Some((tag, &list[8..bytes], &list[bytes..]))
}

/// A region of whose payload word `start` and word `length` say where it is.
fn region(payload: &[u8], start: usize, length: usize) -> Option<Region> {
    Region::new(word(payload, start)?.into(), word(payload, length)?.into())
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let at = index * 4;
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{ATAG_CMDLINE, ATAG_CORE, ATAG_INITRD2, ATAG_MEM, ATAG_NONE, apply};
    use crate::board::{Board, Region};
    use alloc::vec::Vec;

    fn list(words: &[u32]) -> &'static [u8] {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.leak()
    }

    #[test]
    fn memory_initramfs_and_command_line_are_taken() {
        let text = u32::from_le_bytes(*b"ab=1");
        let words = [
            [5, ATAG_CORE, 1, 0x1000, 0].as_slice(),
            &[4, ATAG_MEM, 0x3c00_0000, 0],
            &[4, ATAG_INITRD2, 0x800_0000, 1234],
            &[4, ATAG_CMDLINE, text, 0],
            &[0, ATAG_NONE],
        ]
        .concat();
        let mut board = Board::default();
        assert!(apply(list(&words), &mut board));
        assert_eq!(board.memory, [Region { start: 0, length: 0x3c00_0000 }]);
        assert_eq!(board.initramfs, Some(Region { start: 0x800_0000, length: 1234 }));
        assert_eq!(board.command_line, "ab=1");
    }

    #[test]
    fn a_list_without_its_first_tag_changes_nothing() {
        let mut board = Board::default();
        assert!(!apply(list(&[4, ATAG_MEM, 4096, 0]), &mut board));
        assert!(!apply(&[], &mut board));
        assert_eq!(board, Board::default());
    }

    #[test]
    fn wrong_sizes_end_the_list() {
        for size in [0, 1, 1000, u32::MAX] {
            let mut board = Board::default();
            assert!(apply(list(&[2, ATAG_CORE, size, ATAG_MEM, 4096, 0]), &mut board));
            assert!(board.memory.is_empty());
        }
    }
}
