//! The first stack of a program: strings at the top, below them argc, argv, envp and the auxiliary vector
//! (Linux `create_elf_tables`; the layout that every C library's start code reads).
//!
//! Strings are copied one by one straight into the frames of the new stack, top down, before the program is loaded, so that
//! a script's interpreter can still change argv. The frames belong to the builder until the stack is complete; then they are
//! mapped all at once.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use hal::mem::{self, Pfn};
use zerocopy::IntoBytes;

use super::Entry;
use super::arguments::{Arguments, List};
use crate::Result;
use crate::mm::space::Limits;
use crate::mm::{MapRequest, Mm, Placement, Protection, Role, frame};

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
    pub const EXECFD: u64 = 2;
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

/// AT_FLAGS: argv[0] is the caller's (binfmt_misc `P`).
const AT_FLAGS_PRESERVE_ARGV0: u64 = 1;

/// What an interpreter that is put before the arguments does to argv[0].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Argv0 {
    /// It takes its place.
    Replace,
    /// It stays, behind the program's path.
    Keep,
}

/// A stack under construction.
pub(super) struct StackBuilder {
    /// The end of the stack area.
    top: u64,
    /// What is below it, from the highest page down.
    frames: Vec<Pfn>,
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
    /// AT_FLAGS.
    flags: u64,
    /// AT_EXECFD.
    executable_fd: Option<i32>,
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
            top,
            frames: Vec::with_capacity(4),
            at: top - 8,
            budget,
            argv: Vec::new(),
            envp: Vec::new(),
            name: 0,
            args_end: 0,
            env_end: 0,
            flags: 0,
            executable_fd: None,
        };
        stack.name = stack.push_string(name)?;
        stack.env_end = stack.at;
        stack.envp = stack.push_list(&arguments.envp())?;
        stack.args_end = stack.at;
        stack.argv = stack.push_list(&arguments.argv())?;
        if stack.argv.is_empty() {
            // Since Linux 5.18 an empty argv becomes one empty string.
            stack.argv = alloc::vec![stack.push_string(b"")?];
        }
        Ok(stack)
    }

    fn charge(&mut self, bytes: u64) -> Result<()> {
        self.budget = self.budget.checked_sub(bytes).ok_or(Errno::E2BIG)?;
        Ok(())
    }

    fn push_string(&mut self, text: &[u8]) -> Result<u64> {
        let length = text.len() as u64 + 1;
        self.charge(length)?;
        self.at -= length;
        // Bytes below what was written are fresh zeros, so the NUL is there already.
        self.put(self.at, text)?;
        Ok(self.at)
    }

    /// Stores bytes in the frames, which are made as they are reached.
    fn put(&mut self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let below_top = ((self.top - 1 - at) / PAGE) as usize;
            while self.frames.len() <= below_top {
                self.frames.push(frame::allocate_zeroed()?);
            }
            let offset = (at % PAGE) as usize;
            let (piece, rest) = bytes.split_at(bytes.len().min(PAGE as usize - offset));
            mem::write(self.frames[below_top], offset, piece);
            at += piece.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Copies a list, last string first, so that it lies in order upwards.
    fn push_list(&mut self, list: &List<'_>) -> Result<Vec<u64>> {
        let limit = usize::try_from(self.budget / 8).unwrap_or(usize::MAX);
        let count = list.count(limit)?;
        self.charge(count as u64 * 8)?;
        let mut addresses = Vec::new();
        addresses.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        for index in (0..count).rev() {
            addresses.push(list.with_string(index, |text| self.push_string(text))?);
        }
        addresses.reverse();
        Ok(addresses)
    }

    /// A script's interpreter takes the place of argv[0]: `interpreter [argument] script` (execve(2)).
    pub(super) fn insert_interpreter(
        &mut self,
        interpreter: &[u8],
        argument: Option<&[u8]>,
        script: &[u8],
    ) -> Result<()> {
        let script = self.push_string(script)?;
        let argument = argument.map(|text| self.push_string(text)).transpose()?;
        let interpreter = self.push_string(interpreter)?;
        let mut front = alloc::vec![interpreter];
        front.extend(argument);
        front.push(script);
        self.argv.splice(0..1.min(self.argv.len()), front);
        Ok(())
    }

    /// The interpreter of a binfmt_misc handler and the program's path come before the other arguments.
    pub(super) fn insert_handler(&mut self, interpreter: &[u8], path: &[u8], argv0: Argv0) -> Result<()> {
        self.charge(16)?;
        let path = self.push_string(path)?;
        let interpreter = self.push_string(interpreter)?;
        let replaced = match argv0 {
            Argv0::Keep => 0,
            Argv0::Replace => 1.min(self.argv.len()),
        };
        self.flags = if argv0 == Argv0::Keep { AT_FLAGS_PRESERVE_ARGV0 } else { 0 };
        self.argv.splice(0..replaced, [interpreter, path]);
        Ok(())
    }

    /// The program itself is open as this descriptor.
    pub(super) fn set_executable_fd(&mut self, fd: i32) {
        self.executable_fd = Some(fd);
    }

    /// Writes everything below the strings. Returns the stack pointer.
    pub(super) fn finish(&mut self, mm: &Mm, entry: &Entry, identity: &Identity, vdso: u64) -> Result<u64> {
        let args_start = self.at;
        self.at &= !15;
        let platform = self.push_string(b"aarch64")?;
        let random = (u128::from(crate::random::u64()) << 64 | u128::from(crate::random::u64())).to_le_bytes();
        self.at = (self.at - 16) & !15;
        let random_at = self.at;
        self.put(random_at, &random)?;
        let auxv = self.auxiliary_vector(entry, identity, vdso, platform, random_at);
        // Without a vDSO its entry, the first, is left out; so is the last before the end without a program to hand over.
        let mut auxv = auxv.get(usize::from(vdso == 0)..).unwrap_or_default().to_vec();
        if self.executable_fd.is_none() {
            auxv.remove(auxv.len() - 2);
        }
        let auxv = auxv.as_flattened();
        let mut words = Vec::with_capacity(1 + self.argv.len() + 1 + self.envp.len() + 1 + auxv.len());
        words.push(self.argv.len() as u64);
        words.extend_from_slice(&self.argv);
        words.push(0);
        words.extend_from_slice(&self.envp);
        words.push(0);
        words.extend_from_slice(auxv);
        let sp = (self.at - words.len() as u64 * 8) & !15;
        self.put(sp, words.as_bytes())?;
        mm.install_stack(self.top, &mut self.frames)?;
        mm.note_start(Arc::from(auxv.as_bytes()), |marks| {
            marks.start_stack = sp;
            marks.arg_start = args_start;
            marks.arg_end = self.args_end;
            marks.env_start = self.args_end;
            marks.env_end = self.env_end;
            marks.vdso = vdso;
        });
        Ok(sp)
    }

    fn auxiliary_vector(&self, entry: &Entry, id: &Identity, vdso: u64, platform: u64, random: u64) -> [[u64; 2]; 22] {
        let executable = self.executable_fd.map_or(0, |fd| u64::from(fd.unsigned_abs()));
        [
            [at::SYSINFO_EHDR, vdso],
            [at::MINSIGSTKSZ, crate::signal::frame::FRAME_SIZE],
            [at::HWCAP, HWCAP],
            [at::PAGESZ, PAGE],
            [at::CLKTCK, 100],
            [at::PHDR, entry.program_headers],
            [at::PHENT, 56],
            [at::PHNUM, entry.program_header_count],
            [at::BASE, entry.interpreter_base],
            [at::FLAGS, self.flags],
            [at::ENTRY, entry.program_entry],
            [at::UID, u64::from(id.uid)],
            [at::EUID, u64::from(id.euid)],
            [at::GID, u64::from(id.gid)],
            [at::EGID, u64::from(id.egid)],
            [at::SECURE, u64::from(id.secure)],
            [at::RANDOM, random],
            [at::HWCAP2, 0],
            [at::EXECFN, self.name],
            [at::PLATFORM, platform],
            [at::EXECFD, executable],
            [at::NULL, 0],
        ]
    }
}

impl Drop for StackBuilder {
    /// The frames of a stack that was not completed.
    fn drop(&mut self) {
        frame::put_all(self.frames.drain(..));
    }
}
