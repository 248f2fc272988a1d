//! What a boot loader would put into RAM: an initramfs of programs.
//!
//! A program's file is a small but complete static ELF executable. Its code page holds one `udf` instruction, by which the
//! hosted machine finds the closure to run; its data page is writable and has a .bss behind it, so that exec, demand
//! paging and copy-on-write see the usual kinds of mapping.

/// Where the code page of every program is mapped; `e_entry` lies [`ENTRY_OFFSET`] behind it.
pub const TEXT: u64 = 0x40_0000;
/// Where the data page is mapped: [`DATA_BYTES`] of file contents, then [`BSS_BYTES`] of zeros.
pub const DATA: u64 = 0x41_1000;
/// Bytes of initialised data, each the low byte of its offset.
pub const DATA_BYTES: u64 = 0x800;
/// Bytes of .bss behind the data.
pub const BSS_BYTES: u64 = 0x4000;

const ENTRY_OFFSET: u64 = 0x200;
const PAGE: usize = 4096;

/// What kind of executable to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `ET_EXEC`: mapped where it says.
    Fixed,
    /// `ET_DYN` without an interpreter: mapped where the kernel likes (static PIE).
    PositionIndependent,
}

/// An executable whose first instruction is `instruction`.
pub fn elf(kind: Kind, instruction: u32) -> Vec<u8> {
    let base = if kind == Kind::Fixed { 0 } else { TEXT };
    let (text, data) = (TEXT - base, DATA - base);
    let mut file = vec![0u8; PAGE + DATA_BYTES as usize];
    let mut header = Vec::new();
    header.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // e_type, e_machine (EM_AARCH64), e_version.
    header.extend(if kind == Kind::Fixed { 2u16 } else { 3 }.to_le_bytes());
    header.extend(183u16.to_le_bytes());
    header.extend(1u32.to_le_bytes());
    // e_entry, e_phoff, e_shoff, e_flags.
    header.extend((text + ENTRY_OFFSET).to_le_bytes());
    header.extend(64u64.to_le_bytes());
    header.extend(0u64.to_le_bytes());
    header.extend(0u32.to_le_bytes());
    // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
    for half in [64u16, 56, 3, 64, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    const PT_LOAD: u32 = 1;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    let (read, write, execute) = (4u32, 2u32, 1u32);
    let page = PAGE as u64;
    segment(&mut header, PT_LOAD, read | execute, [0, text, page, page, page]);
    segment(&mut header, PT_LOAD, read | write, [page, data, DATA_BYTES, DATA_BYTES + BSS_BYTES, page]);
    segment(&mut header, PT_GNU_STACK, read | write, [0, 0, 0, 0, 16]);
    file[..header.len()].copy_from_slice(&header);
    let entry = ENTRY_OFFSET as usize;
    file[entry..entry + 4].copy_from_slice(&instruction.to_le_bytes());
    for (n, byte) in file[PAGE..].iter_mut().enumerate() {
        *byte = n.to_le_bytes()[0];
    }
    file
}

/// One program header: offset, address, file size, memory size, alignment.
fn segment(header: &mut Vec<u8>, kind: u32, flags: u32, [offset, address, file_size, memory_size, align]: [u64; 5]) {
    header.extend(kind.to_le_bytes());
    header.extend(flags.to_le_bytes());
    for word in [offset, address, address, file_size, memory_size, align] {
        header.extend(word.to_le_bytes());
    }
}

/// A cpio archive in the "newc" format (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    /// Adds a regular file with its permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) {
        self.entry(path, 0o100_000 | permissions, contents);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, 0o120_777, target.as_bytes());
    }

    /// The archive with its trailer.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.inodes += 1;
        let name = path.trim_start_matches('/');
        let (size, name_size) = (contents.len(), name.len() + 1);
        let nlink = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.inodes as usize, mode as usize, 0, 0, nlink, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
