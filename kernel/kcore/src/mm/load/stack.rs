//! The first stack of a program: strings at the top, below them argc, argv, envp and the auxiliary vector
//! (Linux `create_elf_tables`; the layout that every C library's start code reads).
//!
//! Strings are copied one by one straight into the frames of the new stack, top down, before the program is loaded, so that
//! a script's interpreter can still change argv.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;

use super::Entry;
use super::arguments::{Arguments, List};
use crate::Result;
use crate::mm::space::Limits;
use crate::mm::{MapRequest, Mm, Placement, Protection, Role};

const PAGE: u64 = hal::mem::PAGE_SIZE as u64;
/// What the stack begins with below the strings.
const INITIAL_SIZE: u64 = 33 * PAGE;
/// Strings and pointers may take a quarter of the stack limit, at least this (ARG_MAX), at most three quarters of 8 MiB.
const MIN_STRINGS: u64 = 128 << 10;
const MAX_STRINGS: u64 = 6 << 20;

/// AT_* of getauxval(3).
mod at {
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
    pub const MINSIGSTKSZ: u64 = 51;
}

/// FP, ASIMD, CRC32: what every Cortex-A53 and A72 has. The crypto extensions are not on Pi boards.
const HWCAP: u64 = 1 | 1 << 1 | 1 << 7;

/// Who the program runs as.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Identity {
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    pub secure: bool,
}

/// A stack under construction.
pub(super) struct StackBuilder {
    /// Everything from here up is in use.
    at: u64,
    /// Bytes of strings and pointers that may still be added.
    budget: u64,
    argv: Vec<u64>,
    envp: Vec<u64>,
    /// AT_EXECFN.
    name: u64,
    args_end: u64,
    env_end: u64,
    interpreter: bool,
}

impl StackBuilder {
    pub(super) fn new(mm: &Arc<Mm>, top: u64, stack_limit: u64, name: &[u8], arguments: Arguments) -> Result<Self> {
        let budget = (stack_limit / 4).clamp(MIN_STRINGS, MAX_STRINGS);
        let room = (budget + MIN_STRINGS).next_multiple_of(PAGE) + INITIAL_SIZE;
        mm.set_limits(Limits { stack: stack_limit.max(room), ..Limits::NONE });
        mm.map(MapRequest {
            grows_down: true,
            role: Role::Stack,
            ..MapRequest::anonymous(
                Placement::FixedNoReplace(top - INITIAL_SIZE),
                INITIAL_SIZE,
                Protection { read: true, write: true, exec: false },
            )
        })?;
        // Linux leaves the top word empty.
        let mut stack = Self {
            at: top - 8,
            budget,
            argv: Vec::new(),
            envp: Vec::new(),
            name: 0,
            args_end: 0,
            env_end: 0,
            interpreter: false,
        };
        stack.name = stack.push_string(mm, name)?;
        stack.env_end = stack.at;
        stack.envp = stack.push_list(mm, &arguments.envp())?;
        stack.args_end = stack.at;
        stack.argv = stack.push_list(mm, &arguments.argv())?;
        if stack.argv.is_empty() {
            // Since Linux 5.18 an empty argv becomes one empty string.
            stack.argv = alloc::vec![stack.push_string(mm, b"")?];
        }
        Ok(stack)
    }

    fn charge(&mut self, bytes: u64) -> Result<()> {
        self.budget = self.budget.checked_sub(bytes).ok_or(Errno::E2BIG)?;
        Ok(())
    }

    fn push_string(&mut self, mm: &Mm, text: &[u8]) -> Result<u64> {
        let length = text.len() as u64 + 1;
        self.charge(length)?;
        self.at -= length;
        // Bytes below what was written are fresh zeros, so the NUL is there already.
        put(mm, self.at, text)?;
        Ok(self.at)
    }

    /// Copies a list, last string first, so that it lies in order upwards.
    fn push_list(&mut self, mm: &Mm, list: &List<'_>) -> Result<Vec<u64>> {
        let limit = usize::try_from(self.budget / 8).unwrap_or(usize::MAX);
        let count = list.count(limit)?;
        self.charge(count as u64 * 8)?;
        let mut addresses = Vec::new();
        addresses.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        for index in (0..count).rev() {
            let text = list.string(index)?;
            addresses.push(self.push_string(mm, &text)?);
        }
        addresses.reverse();
        Ok(addresses)
    }

    /// A script's interpreter takes the place of argv[0]: `interpreter [argument] script` (execve(2)).
    pub(super) fn insert_interpreter(
        &mut self,
        mm: &Mm,
        interpreter: &[u8],
        argument: Option<&[u8]>,
        script: &[u8],
    ) -> Result<()> {
        self.interpreter = true;
        let script = self.push_string(mm, script)?;
        let argument = argument.map(|text| self.push_string(mm, text)).transpose()?;
        let interpreter = self.push_string(mm, interpreter)?;
        let mut front = alloc::vec![interpreter];
        front.extend(argument);
        front.push(script);
        self.argv.splice(0..1.min(self.argv.len()), front);
        Ok(())
    }

    pub(super) fn has_interpreter(&self) -> bool {
        self.interpreter
    }

    /// Writes everything below the strings. Returns the stack pointer.
    pub(super) fn finish(&mut self, mm: &Mm, entry: &Entry, identity: &Identity, vdso: u64) -> Result<u64> {
        let args_start = self.at;
        self.at &= !15;
        let platform = self.push_string(mm, b"aarch64")?;
        let mut random = [0u8; 16];
        crate::random::fill(&mut random);
        self.at = (self.at - 16) & !15;
        let random_at = self.at;
        put(mm, random_at, &random)?;
        let auxv = self.auxiliary_vector(entry, identity, vdso, platform, random_at);
        let words = 1 + self.argv.len() + 1 + self.envp.len() + 1 + auxv.len();
        let sp = (self.at - words as u64 * 8) & !15;
        let mut writer = WordWriter { mm, at: sp, buffer: Vec::with_capacity(256) };
        writer.word(self.argv.len() as u64)?;
        self.argv.iter().try_for_each(|address| writer.word(*address))?;
        writer.word(0)?;
        self.envp.iter().try_for_each(|address| writer.word(*address))?;
        writer.word(0)?;
        auxv.iter().try_for_each(|word| writer.word(*word))?;
        writer.flush()?;
        mm.set_auxv(auxv.iter().flat_map(|word| word.to_le_bytes()).collect());
        let mut marks = mm.marks();
        marks.start_stack = sp;
        marks.arg_start = args_start;
        marks.arg_end = self.args_end;
        marks.env_start = self.args_end;
        marks.env_end = self.env_end;
        mm.set_marks(marks);
        Ok(sp)
    }

    fn auxiliary_vector(&self, entry: &Entry, id: &Identity, vdso: u64, platform: u64, random: u64) -> Vec<u64> {
        let pairs = [
            (at::SYSINFO_EHDR, vdso),
            (at::MINSIGSTKSZ, crate::signal::frame::FRAME_SIZE),
            (at::HWCAP, HWCAP),
            (at::PAGESZ, PAGE),
            (at::CLKTCK, 100),
            (at::PHDR, entry.program_headers),
            (at::PHENT, 56),
            (at::PHNUM, entry.program_header_count),
            (at::BASE, entry.interpreter_base),
            (at::FLAGS, 0),
            (at::ENTRY, entry.program_entry),
            (at::UID, u64::from(id.uid)),
            (at::EUID, u64::from(id.euid)),
            (at::GID, u64::from(id.gid)),
            (at::EGID, u64::from(id.egid)),
            (at::SECURE, u64::from(id.secure)),
            (at::RANDOM, random),
            (at::HWCAP2, 0),
            (at::EXECFN, self.name),
            (at::PLATFORM, platform),
            (at::NULL, 0),
        ];
        let wanted = pairs.iter().filter(|(tag, value)| *tag != at::SYSINFO_EHDR || *value != 0);
        wanted.flat_map(|(tag, value)| [*tag, *value]).collect()
    }
}

fn put(mm: &Mm, at: u64, bytes: &[u8]) -> Result<()> {
    // The stack area grows by itself only through faults; here it is extended first.
    mm.extend_stack(at)?;
    if mm.write_remote(at, bytes) == bytes.len() { Ok(()) } else { Err(Errno::ENOMEM) }
}

struct WordWriter<'a> {
    mm: &'a Mm,
    at: u64,
    buffer: Vec<u8>,
}

impl WordWriter<'_> {
    fn word(&mut self, value: u64) -> Result<()> {
        self.buffer.extend_from_slice(&value.to_le_bytes());
        if self.buffer.len() >= 2048 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        put(self.mm, self.at, &self.buffer)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
