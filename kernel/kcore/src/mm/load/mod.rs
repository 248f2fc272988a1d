//! Program images: from an opened file to an address space that can be entered (Linux `fs/exec.c`, `binfmt_*.c`).
//!
//! [`FORMATS`] is searched in order. A format either builds the image, or names an interpreter with which the search begins
//! again ([`script`]), or says that the file is not its own (`ENOEXEC`). Everything here can fail and changes nothing but
//! the address space under construction.

mod arguments;
mod elf;
pub mod misc;
mod script;
mod stack;

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;

use super::{Mm, TASK_SIZE};
use crate::Result;
use crate::fs::File;
use crate::io::IoDst;
use crate::task::Creds;
pub use arguments::Arguments;
use stack::StackBuilder;

/// What a format looks at first (Linux `BINPRM_BUF_SIZE`).
const HEADER_SIZE: usize = 256;
/// Interpreters that lead to interpreters: execve(2) ELOOP beyond.
const MAX_NESTING: usize = 5;
/// ADDR_NO_RANDOMIZE of personality(2).
const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;

/// A program under construction (Linux `struct linux_binprm`).
pub struct Program {
    /// The file that is loaded now: the program, later its interpreter.
    file: Arc<File>,
    header: Vec<u8>,
    mm: Arc<Mm>,
    stack: StackBuilder,
    /// The name for AT_EXECFN and for the command name.
    name: Vec<u8>,
    /// The path of `file`, which its own interpreter gets (Linux `bprm->interp`).
    path: Vec<u8>,
    randomize: bool,
    /// The path is that of a descriptor that execve closes: no interpreter could open it.
    path_is_inaccessible: bool,
    /// A binfmt_misc handler wants the program as a descriptor.
    hands_over_binary: bool,
    /// The program counts for credentials, not its interpreter.
    uses_binarys_credentials: bool,
    /// What is handed over.
    executable: Option<Arc<File>>,
}

/// What a format did.
enum Outcome {
    /// The image is complete.
    Loaded(Entry),
    /// Run this interpreter; the arguments are in place.
    Interpreter {
        /// Its path.
        path: Vec<u8>,
        /// Opened for execution.
        file: Arc<File>,
    },
}

/// Where the program begins and what its auxiliary vector says of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    pc: u64,
    /// AT_ENTRY: the program's own entry, not its interpreter's.
    program_entry: u64,
    program_headers: u64,
    program_header_count: u64,
    interpreter_base: u64,
}

type Format = fn(&mut Program) -> Result<Outcome>;

/// The binary formats, in the order in which they are asked.
const FORMATS: [Format; 3] = [misc::load, elf::load, script::load];

/// Owner and mode of the file, for set-user-ID.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The mount ignores set-ID bits.
    pub nosuid: bool,
}

/// A complete image, lacking only what depends on credentials.
pub struct Loaded {
    program: Program,
    entry: Entry,
    identity: stack::Identity,
    sp: u64,
}

/// Whether the program's name will lead to it when it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// It will.
    Lasting,
    /// It goes through a close-on-exec descriptor: an interpreter could not open it (execveat(2) ENOENT).
    Closing,
}

/// How to enter it.
pub struct Start {
    /// First instruction.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Command name.
    pub comm: Vec<u8>,
}

/// Builds the address space of a program.
pub fn prepare(
    file: Arc<File>,
    name: &[u8],
    arguments: Arguments,
    name_kind: NameKind,
    stack_limit: u64,
    personality: u32,
) -> Result<Loaded> {
    let wanted = crate::mm::settings::RANDOMIZE.load(core::sync::atomic::Ordering::Relaxed) != 0;
    // Who gains something by the program does not choose its places (Linux PER_CLEAR_ON_SETID).
    let gains = || file.exec_attributes().mode & 0o6000 != 0;
    let randomize = wanted && (personality & ADDR_NO_RANDOMIZE == 0 || gains());
    let mm = Mm::new()?;
    let layout = Layout::choose(stack_limit, randomize);
    mm.set_mmap_base(layout.mmap_base);
    let stack = StackBuilder::new(&mm, layout.stack_top, stack_limit, name, arguments)?;
    let mut program = Program {
        file,
        header: Vec::new(),
        mm,
        stack,
        name: name.to_vec(),
        path: name.to_vec(),
        randomize,
        path_is_inaccessible: name_kind == NameKind::Closing,
        hands_over_binary: false,
        uses_binarys_credentials: false,
        executable: None,
    };
    for _ in 0..=MAX_NESTING {
        program.read_header()?;
        match program.search_formats()? {
            Outcome::Loaded(entry) => {
                program.mm.set_exe(program.file.clone());
                let identity = stack::Identity::default();
                return Ok(Loaded { program, entry, identity, sp: 0 });
            }
            Outcome::Interpreter { path, file } => program.follow(path, file)?,
        }
    }
    Err(Errno::ELOOP)
}

impl Program {
    /// Goes on with the interpreter (Linux `exec_binprm`). Only one program of a chain can be handed over: `ENOEXEC`.
    fn follow(&mut self, path: Vec<u8>, file: Arc<File>) -> Result<()> {
        let program = core::mem::replace(&mut self.file, file);
        self.path = path;
        if self.hands_over_binary {
            if self.executable.is_some() {
                return Err(Errno::ENOEXEC);
            }
            self.executable = Some(program);
        }
        Ok(())
    }

    fn read_header(&mut self) -> Result<()> {
        let mut header = alloc::vec![0; HEADER_SIZE];
        let got = self.read_at(0, &mut header)?;
        header.truncate(got);
        self.header = header;
        Ok(())
    }

    /// Reads from the file up to its end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mapping = File::mapping(&self.file).map_err(|_| Errno::EACCES)?;
        mapping.read(offset, &mut IoDst::kernel(buffer))
    }

    fn search_formats(&mut self) -> Result<Outcome> {
        for format in FORMATS {
            match format(self) {
                Err(Errno::ENOEXEC) => {}
                other => return other,
            }
        }
        Err(Errno::ENOEXEC)
    }
}

impl Loaded {
    /// The file whose owner, set-ID bits and capabilities count: the interpreter's for a script.
    pub fn credentials_file(&self) -> &Arc<File> {
        match &self.program.executable {
            Some(file) if self.program.uses_binarys_credentials => file,
            _ => &self.program.file,
        }
    }

    /// What is to be open when the program starts, as descriptor AT_EXECFD.
    pub fn executable(&self) -> Option<Arc<File>> {
        self.program.executable.clone()
    }

    /// The descriptor that [`Self::executable`] will have.
    pub fn set_executable_fd(&mut self, fd: i32) {
        self.program.stack.set_executable_fd(fd);
    }

    /// Who the program runs as, for the auxiliary vector.
    pub fn set_identity(&mut self, creds: &Creds, secure: bool) {
        self.identity = stack::Identity { uid: creds.uid, euid: creds.euid, gid: creds.gid, egid: creds.egid, secure };
    }

    /// Completes the stack: argc, argv, envp, auxv.
    pub fn build_stack(&mut self) -> Result<()> {
        let vdso = super::vdso::map(&self.program.mm)?;
        self.sp = self.program.stack.finish(&self.program.mm, &self.entry, &self.identity, vdso)?;
        Ok(())
    }

    /// The address space and how to enter it.
    pub fn into_parts(self) -> (Arc<Mm>, Start) {
        let name = &self.program.name;
        let base = name.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let comm = name[base..].to_vec();
        (self.program.mm, Start { pc: self.entry.pc, sp: self.sp, comm })
    }
}

/// The places of stack and mappings (Linux `arch_pick_mmap_layout`).
struct Layout {
    stack_top: u64,
    mmap_base: u64,
}

impl Layout {
    fn choose(stack_limit: u64, randomize: bool) -> Self {
        const PAGE: u64 = hal::mem::PAGE_SIZE as u64;
        const MIN_GAP: u64 = 128 << 20;
        let random = |pages: u64| if randomize { crate::random::u64() % pages * PAGE } else { 0 };
        // 2^18 pages of each: Linux's STACK_RND_MASK, and mmap_rnd_bits 18 of a 39-bit kernel.
        let stack_top = TASK_SIZE - random(1 << 18);
        let gap = stack_limit.clamp(MIN_GAP, TASK_SIZE / 6 * 5) + (1 << 30);
        let mmap_base = (TASK_SIZE - gap - random(1 << 18)) / PAGE * PAGE;
        Self { stack_top, mmap_base }
    }
}

/// Where position-independent programs go: two thirds of the address space (Linux `ELF_ET_DYN_BASE`).
fn dynamic_base(randomize: bool) -> u64 {
    const PAGE: u64 = hal::mem::PAGE_SIZE as u64;
    let random = if randomize { crate::random::u64() % (1 << 18) * PAGE } else { 0 };
    (TASK_SIZE / 3 * 2 + random) / PAGE * PAGE
}
