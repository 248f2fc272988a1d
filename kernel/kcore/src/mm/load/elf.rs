//! ELF programs (elf(5); Linux `binfmt_elf.c`): static and dynamic, fixed and position-independent.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use abi::Errno;
use abi::fcntl::AT_FDCWD;
use goblin::elf::header::{EM_AARCH64, ET_DYN, ET_EXEC, Header};
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_PHDR, ProgramHeader};
use scroll::Pread;

use super::{Entry, Outcome, Program, dynamic_base};
use crate::Result;
use crate::fs::File;
use crate::io::IoDst;
use crate::mm::space::Marks;
use crate::mm::{Backing, MMAP_MIN_ADDR, MapRequest, MappedFile, Mm, Placement, Protection, TASK_SIZE};

const PAGE: u64 = hal::mem::PAGE_SIZE as u64;
/// Most bytes of program headers (Linux `ELF_MIN_ALIGN` check in `load_elf_phdrs`).
const MAX_HEADERS: usize = 65536;

/// A parsed file.
struct Image {
    file: Arc<File>,
    header: Header,
    segments: Vec<ProgramHeader>,
}

/// Where an image was put.
struct Placed {
    /// Added to every address of the file.
    bias: u64,
    entry: u64,
    marks: Marks,
    /// Program headers in memory.
    headers: u64,
}

fn read(file: &File, offset: u64, buffer: &mut [u8], short: Errno) -> Result<()> {
    let mapping = File::mapping(file).map_err(|_| Errno::EACCES)?;
    let got = mapping.read(offset, &mut IoDst::kernel(buffer))?;
    if got == buffer.len() { Ok(()) } else { Err(short) }
}

/// An `Elf64_Phdr`, 56 bytes (elf(5)).
fn program_header(bytes: &[u8]) -> ProgramHeader {
    let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|n| bytes[at + n]));
    let long = |at: usize| u64::from_le_bytes(core::array::from_fn(|n| bytes[at + n]));
    ProgramHeader {
        p_type: word(0),
        p_flags: word(4),
        p_offset: long(8),
        p_vaddr: long(16),
        p_paddr: long(24),
        p_filesz: long(32),
        p_memsz: long(40),
        p_align: long(48),
    }
}

/// As [`read`], for a part of the file that may be among its first bytes, which are known.
fn read_known(file: &File, known: &[u8], offset: u64, buffer: &mut [u8], short: Errno) -> Result<()> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    match known.get(start..).and_then(|rest| rest.get(..buffer.len())) {
        Some(bytes) => {
            buffer.copy_from_slice(bytes);
            Ok(())
        }
        None => read(file, offset, buffer, short),
    }
}

impl Image {
    /// Parses and checks the headers. `known` is what was read of the start of the file, `bad` what a file gets that is not a
    /// program for this machine.
    fn parse(file: Arc<File>, known: &[u8], bad: Errno) -> Result<Image> {
        let mut bytes = [0u8; 64];
        read_known(&file, known, 0, &mut bytes, bad)?;
        if !bytes.starts_with(b"\x7fELF") || bytes[4] != 2 || bytes[5] != 1 {
            return Err(bad);
        }
        let header: Header = bytes.pread(0).map_err(|_| bad)?;
        if !matches!(header.e_type, ET_EXEC | ET_DYN) || header.e_machine != EM_AARCH64 {
            return Err(bad);
        }
        let count = usize::from(header.e_phnum);
        let size = count * 56;
        if header.e_phentsize != 56 || count == 0 || size > MAX_HEADERS {
            return Err(bad);
        }
        let mut table = vec![0; size];
        read_known(&file, known, header.e_phoff, &mut table, bad)?;
        let segments = table.chunks_exact(56).map(program_header).collect();
        let image = Image { file, header, segments };
        image.check_segments(bad)?;
        Ok(image)
    }

    fn loads(&self) -> impl Iterator<Item = &ProgramHeader> {
        self.segments.iter().filter(|segment| segment.p_type == PT_LOAD)
    }

    /// Sizes and addresses that make sense: file part within memory part, offset and address alike modulo a page, in order
    /// and within the address space.
    fn check_segments(&self, bad: Errno) -> Result<()> {
        let mut floor = 0;
        for segment in self.loads() {
            let end = segment.p_vaddr.checked_add(segment.p_memsz).ok_or(Errno::ENOMEM)?;
            let file_end = segment.p_offset.checked_add(segment.p_filesz).ok_or(bad)?;
            if segment.p_filesz > segment.p_memsz || file_end > i64::MAX.cast_unsigned() {
                return Err(Errno::EINVAL);
            }
            if segment.p_vaddr % PAGE != segment.p_offset % PAGE {
                return Err(Errno::EINVAL);
            }
            if end > TASK_SIZE || segment.p_vaddr < floor {
                return Err(Errno::ENOMEM);
            }
            floor = segment.p_vaddr;
        }
        if self.loads().next().is_none() { Err(bad) } else { Ok(()) }
    }

    /// First page and end of everything that is loaded.
    fn span(&self) -> (u64, u64) {
        let start = self.loads().map(|segment| segment.p_vaddr / PAGE * PAGE).min().unwrap_or(0);
        let end = self.loads().map(|segment| segment.p_vaddr + segment.p_memsz).max().unwrap_or(0);
        (start, end.next_multiple_of(PAGE))
    }

    fn interpreter(&self) -> Result<Option<Vec<u8>>> {
        let Some(segment) = self.segments.iter().find(|segment| segment.p_type == PT_INTERP) else { return Ok(None) };
        if !(2..=4096).contains(&segment.p_filesz) {
            return Err(Errno::ENOEXEC);
        }
        let mut path = vec![0; segment.p_filesz as usize];
        read(&self.file, segment.p_offset, &mut path, Errno::EIO)?;
        match path.pop() {
            Some(0) => Ok(Some(path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())),
            _ => Err(Errno::ENOEXEC),
        }
    }

    /// Maps the segments. Position-independent images go to `base` if given, else where there is room.
    fn place(&self, mm: &Mm, base: Option<u64>) -> Result<Placed> {
        let (start, end) = self.span();
        let bias = if self.header.e_type == ET_EXEC {
            if start < MMAP_MIN_ADDR {
                return Err(Errno::EPERM);
            }
            // Nothing may be there yet, the stack above all (Linux maps with MAP_FIXED_NOREPLACE).
            mm.place(Placement::FixedNoReplace(start), end - start)?;
            0
        } else {
            // Room for the whole span, then the segments one by one: nobody else maps here meanwhile.
            let align = self.loads().map(|s| s.p_align).filter(|a| a.is_power_of_two()).max().unwrap_or(PAGE).max(PAGE);
            let wish = base.map_or(Placement::Hint(0), |base| Placement::Hint(base / align * align));
            let length = end - start;
            let padded = length + if align > PAGE { align } else { 0 };
            let reserved = mm.place(wish, padded)?;
            // A program that is linked for a high address moves down: addresses wrap.
            reserved.next_multiple_of(align).wrapping_sub(start)
        };
        let mut marks = Marks { start_code: u64::MAX, start_data: 0, ..Marks::default() };
        for segment in self.loads() {
            self.map_segment(mm, segment, bias)?;
            note_marks(&mut marks, segment, bias);
        }
        Ok(Placed { bias, entry: bias.wrapping_add(self.header.e_entry), marks, headers: self.header_address(bias) })
    }

    /// Where the program headers are in memory: PT_PHDR, else the segment that holds their file offset.
    fn header_address(&self, bias: u64) -> u64 {
        let own = self.segments.iter().find(|segment| segment.p_type == PT_PHDR).map(|segment| segment.p_vaddr);
        let offset = self.header.e_phoff;
        let holder = || {
            let holds = |s: &&ProgramHeader| s.p_offset <= offset && offset < s.p_offset + s.p_filesz;
            self.loads().find(holds).map(|s| offset - s.p_offset + s.p_vaddr)
        };
        own.or_else(holder).map_or(0, |address| bias.wrapping_add(address))
    }

    fn map_segment(&self, mm: &Mm, segment: &ProgramHeader, bias: u64) -> Result<()> {
        let protection = Protection {
            read: segment.p_flags & PF_R != 0,
            write: segment.p_flags & PF_W != 0,
            exec: segment.p_flags & PF_X != 0,
        };
        let address = bias.wrapping_add(segment.p_vaddr);
        let start = address / PAGE * PAGE;
        let file_end = address + segment.p_filesz;
        let memory_end = (address + segment.p_memsz).next_multiple_of(PAGE);
        let mapped_end = if segment.p_filesz > 0 { file_end.next_multiple_of(PAGE) } else { start };
        if segment.p_filesz > 0 {
            let mapping = File::mapping(&self.file).map_err(|_| Errno::EACCES)?;
            let file: Arc<dyn MappedFile> = self.file.clone();
            mm.map(MapRequest {
                backing: Backing::File { file, mapping, offset: segment.p_offset / PAGE * PAGE },
                ..MapRequest::anonymous(Placement::Fixed(start), mapped_end - start, protection)
            })?;
        }
        // What the file does not fill is zero: the rest of its last page if it can be written, then whole pages.
        if segment.p_memsz > segment.p_filesz && protection.write && file_end < mapped_end {
            let tail = usize::try_from(mapped_end - file_end).map_err(|_| Errno::ENOMEM)?;
            if mm.write_remote(file_end, &vec![0; tail]) != tail {
                return Err(Errno::ENOMEM);
            }
        }
        if memory_end > mapped_end {
            mm.map(MapRequest::anonymous(Placement::Fixed(mapped_end), memory_end - mapped_end, protection))?;
        }
        Ok(())
    }
}

fn note_marks(marks: &mut Marks, segment: &ProgramHeader, bias: u64) {
    let start = bias.wrapping_add(segment.p_vaddr);
    marks.start_code = marks.start_code.min(start);
    marks.start_data = marks.start_data.max(start);
    if segment.p_flags & PF_X != 0 {
        marks.end_code = marks.end_code.max(start + segment.p_filesz);
    }
    marks.end_data = marks.end_data.max(start + segment.p_filesz);
    marks.start_brk = marks.start_brk.max(start + segment.p_memsz);
}

pub(super) fn load(program: &mut Program) -> Result<Outcome> {
    if !program.header.starts_with(b"\x7fELF") {
        return Err(Errno::ENOEXEC);
    }
    let image = Image::parse(program.file.clone(), &program.header, Errno::ENOEXEC)?;
    let interpreter = match image.interpreter()? {
        Some(path) => Some(Image::parse(crate::fs::open_exec(AT_FDCWD, &path, 0)?, &[], Errno::ELIBBAD)?),
        None => None,
    };
    // A position-independent program without an interpreter is itself a loader, or a static one: it goes among the
    // mappings, so that what it loads can have the usual place.
    let base = interpreter.is_some().then(|| dynamic_base(program.randomize));
    let placed = image.place(&program.mm, base)?;
    let mut marks = placed.marks;
    if image.header.e_type == ET_DYN && interpreter.is_none() {
        marks.start_brk = dynamic_base(program.randomize);
    }
    marks.start_brk = marks.start_brk.next_multiple_of(PAGE) + brk_offset(program.randomize);
    program.mm.set_marks(marks);
    let mut entry = Entry {
        pc: placed.entry,
        program_entry: placed.entry,
        program_headers: placed.headers,
        program_header_count: image.segments.len() as u64,
        interpreter_base: 0,
    };
    if let Some(interpreter) = interpreter {
        let loader = interpreter.place(&program.mm, None)?;
        entry.pc = loader.entry;
        entry.interpreter_base = loader.bias;
    }
    if entry.pc >= TASK_SIZE {
        return Err(Errno::EINVAL);
    }
    Ok(Outcome::Loaded(entry))
}

/// The heap begins up to 32 MiB behind the program (Linux `arch_randomize_brk`).
fn brk_offset(randomize: bool) -> u64 {
    if randomize { crate::random::u64() % (32 << 20) / PAGE * PAGE } else { 0 }
}
