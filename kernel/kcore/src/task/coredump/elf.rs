//! The format of a core: an ELF file of type ET_CORE with one PT_NOTE segment for what the kernel knows of the threads and
//! a PT_LOAD segment for each area (elf(5), core(5); Linux `binfmt_elf.c`, `elfcore.h`, `arch/arm64/kernel/ptrace.c`).
//!
//! Bytes are made here and nowhere else, in little-endian order as the CPU's; no structure of the compiler takes part.

use alloc::vec::Vec;

use abi::signal::SigInfo;
use hal::thread::FpState;
use hal::trap::UserFrame;
use zerocopy::IntoBytes;

use crate::mm::Protection;
use crate::task::usage::Usage;

/// Bytes of the ELF header.
pub const HEADER: u64 = 64;
/// Bytes of a program header.
pub const PROGRAM_HEADER: u64 = 56;
const PAGE: u64 = hal::mem::PAGE_SIZE as u64;

const NT_PRSTATUS: u32 = 1;
const NT_PRFPREG: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;
const NT_ARM_TLS: u32 = 0x401;
const NT_ARM_SYSTEM_CALL: u32 = 0x404;

/// Appends numbers and texts.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn i32(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// `struct timeval`.
    fn time(&mut self, ns: u64) -> &mut Self {
        self.u64(ns / 1_000_000_000).u64(ns % 1_000_000_000 / 1000)
    }

    /// A text in a field of `width` bytes, with zeros behind it.
    fn field(&mut self, text: &[u8], width: usize) -> &mut Self {
        let length = text.len().min(width);
        self.raw(&text[..length]).zeros(width - length)
    }
}

/// The ELF header of a core with `segments` program headers right behind it.
pub fn header(segments: u16) -> Vec<u8> {
    const ET_CORE: u16 = 4;
    const EM_AARCH64: u16 = 183;
    let mut out = Bytes::default();
    // 64 bits, little-endian, version 1, System V ABI.
    out.raw(b"\x7fELF").raw(&[2, 1, 1, 0]).zeros(8);
    out.u16(ET_CORE).u16(EM_AARCH64).u32(1);
    // No entry; program headers follow; no sections; no flags.
    out.u64(0).u64(HEADER).u64(0).u32(0);
    out.u16(HEADER as u16).u16(PROGRAM_HEADER as u16).u16(segments).u16(0).u16(0).u16(0);
    out.0
}

/// The PT_NOTE header.
pub fn note_segment(offset: u64, length: u64) -> Vec<u8> {
    const PT_NOTE: u32 = 4;
    let mut out = Bytes::default();
    out.u32(PT_NOTE).u32(0).u64(offset).u64(0).u64(0).u64(length).u64(0).u64(0);
    out.0
}

/// A PT_LOAD header: `dumped` of the `length` bytes at `address` are in the file.
pub fn load_segment(offset: u64, address: u64, length: u64, dumped: u64, protection: Protection) -> Vec<u8> {
    const PT_LOAD: u32 = 1;
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let flags = flag(protection.read, 4) | flag(protection.write, 2) | flag(protection.exec, 1);
    let mut out = Bytes::default();
    out.u32(PT_LOAD).u32(flags).u64(offset).u64(address).u64(0).u64(dumped).u64(length).u64(PAGE);
    out.0
}

/// A note: name and descriptor, each padded to 4 bytes.
fn note(name: &[u8], kind: u32, descriptor: &[u8]) -> Vec<u8> {
    let padding = |length: usize| length.next_multiple_of(4) - length;
    let mut out = Bytes::default();
    let name_length = name.len() + 1;
    out.u32(name_length as u32).u32(descriptor.len() as u32).u32(kind);
    out.raw(name).zeros(1 + padding(name_length)).raw(descriptor).zeros(padding(descriptor.len()));
    out.0
}

/// What a core says of a process as a whole.
pub struct Process {
    /// The state letter of the dumping thread.
    pub state: u8,
    /// Nice value.
    pub nice: i8,
    /// PF_* bits.
    pub flags: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// PID, parent, process group, session.
    pub ids: [i32; 4],
    /// The thread's name.
    pub comm: [u8; 16],
    /// The arguments, each with its NUL.
    pub arguments: Vec<u8>,
}

/// NT_PRPSINFO (`struct elf_prpsinfo`, 136 bytes).
pub fn process_note(process: &Process) -> Vec<u8> {
    const STATES: &[u8] = b"RSDTZW";
    const ARGUMENTS: usize = 80;
    let state = STATES.iter().position(|letter| *letter == process.state);
    let mut out = Bytes::default();
    out.raw(&[state.unwrap_or(0) as u8, if state.is_some() { process.state } else { b'.' }]);
    out.raw(&[u8::from(process.state == b'Z'), process.nice.cast_unsigned()]).zeros(4);
    out.u64(u64::from(process.flags)).u32(process.uid).u32(process.gid);
    process.ids.iter().for_each(|id| {
        out.i32(*id);
    });
    out.raw(&process.comm);
    let mut words = process.arguments.clone();
    words.truncate(ARGUMENTS - 1);
    words.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    out.field(&words, ARGUMENTS);
    note(b"CORE", NT_PRPSINFO, &out.0)
}

/// NT_SIGINFO: the signal that caused the dump.
pub fn signal_note(info: &SigInfo) -> Vec<u8> {
    note(b"CORE", NT_SIGINFO, info.as_bytes())
}

/// NT_AUXV: the auxiliary vector.
pub fn auxv_note(vector: &[u8]) -> Vec<u8> {
    note(b"CORE", NT_AUXV, vector)
}

/// A mapped file: first address, end, offset in bytes, name.
pub type FileArea = (u64, u64, u64, Vec<u8>);

/// NT_FILE: what files are mapped where. Offsets are in pages.
pub fn files_note(areas: &[FileArea]) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u64(areas.len() as u64).u64(PAGE);
    for (start, end, offset, _) in areas {
        out.u64(*start).u64(*end).u64(offset / PAGE);
    }
    for (.., name) in areas {
        out.raw(name).zeros(1);
    }
    note(b"CORE", NT_FILE, &out.0)
}

/// What a core says of a thread.
pub struct ThreadStatus {
    /// The signal that ended the process.
    pub signal: u32,
    /// Pending for this thread.
    pub pending: u64,
    /// Blocked by it.
    pub blocked: u64,
    /// TID, parent, process group, session.
    pub ids: [i32; 4],
    /// Its times; of the leader, those of the process.
    pub usage: Usage,
    /// Of children that were waited for.
    pub children: Usage,
    /// Registers.
    pub frame: UserFrame,
    /// FP/SIMD registers.
    pub fp: FpState,
    /// TPIDR_EL0.
    pub tls: u64,
}

/// NT_PRSTATUS (`struct elf_prstatus`, 392 bytes).
pub fn status_note(thread: &ThreadStatus) -> Vec<u8> {
    let mut out = Bytes::default();
    // pr_info: signal, code, errno; Linux fills in the signal alone.
    out.u32(thread.signal).zeros(8).u16(thread.signal as u16).zeros(2);
    out.u64(thread.pending).u64(thread.blocked);
    thread.ids.iter().for_each(|id| {
        out.i32(*id);
    });
    out.time(thread.usage.user_ns).time(thread.usage.system_ns);
    out.time(thread.children.user_ns).time(thread.children.system_ns);
    let frame = &thread.frame;
    frame.x.iter().for_each(|x| {
        out.u64(*x);
    });
    out.u64(frame.sp).u64(frame.pc).u64(frame.pstate());
    // pr_fpvalid.
    out.u32(1).zeros(4);
    note(b"CORE", NT_PRSTATUS, &out.0)
}

/// The other register sets of a thread: NT_PRFPREG, NT_ARM_TLS, NT_ARM_SYSTEM_CALL.
pub fn register_notes(thread: &ThreadStatus) -> Vec<u8> {
    let mut fp = Bytes::default();
    thread.fp.v.iter().for_each(|v| {
        fp.raw(&v.to_le_bytes());
    });
    fp.u32(thread.fp.fpsr).u32(thread.fp.fpcr).zeros(8);
    let call = thread.frame.syscall as u32;
    [
        note(b"CORE", NT_PRFPREG, &fp.0),
        note(b"LINUX", NT_ARM_TLS, &thread.tls.to_le_bytes()),
        note(b"LINUX", NT_ARM_SYSTEM_CALL, &call.to_le_bytes()),
    ]
    .concat()
}

/// Bytes of [`status_note`] and [`register_notes`] of one thread.
pub const THREAD_NOTES: u64 = (20 + 392) + (20 + 528) + (20 + 8) + (20 + 4);

#[cfg(test)]
mod tests {
    use super::{
        Process, THREAD_NOTES, ThreadStatus, files_note, header, note, process_note, register_notes, status_note,
    };
    use crate::task::usage::Usage;
    use hal::thread::FpState;
    use hal::trap::UserFrame;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn thread() -> ThreadStatus {
        let mut frame = UserFrame::new(0x40_1000, 0x7fff_0000);
        frame.x[0] = 0x1111;
        frame.x[30] = 0x3030;
        let mut fp = FpState::default();
        fp.v[31] = 31 << 64;
        fp.fpcr = 5;
        let usage = Usage { user_ns: 1_500_000_000, ..Usage::default() };
        let children = Usage { system_ns: 2_000_001_000, ..Usage::default() };
        let (pending, blocked) = (0x10, 0x20);
        ThreadStatus { signal: 11, pending, blocked, ids: [7, 6, 5, 4], usage, children, frame, fp, tls: 0x7151 }
    }

    #[test]
    fn a_note_is_padded_to_words() {
        let bytes = note(b"LINUX", 9, &[1, 2, 3, 4, 5]);
        assert_eq!((word(&bytes, 0), word(&bytes, 4), word(&bytes, 8)), (6, 5, 9));
        assert_eq!(&bytes[12..20], b"LINUX\0\0\0");
        assert_eq!(&bytes[20..], [1, 2, 3, 4, 5, 0, 0, 0]);
    }

    #[test]
    fn prstatus_has_linux_offsets() {
        let bytes = status_note(&thread());
        let status = &bytes[20..];
        assert_eq!(status.len(), 392);
        assert_eq!((word(status, 0), word(status, 12)), (11, 11));
        assert_eq!((long(status, 16), long(status, 24)), (0x10, 0x20));
        assert_eq!([32, 36, 40, 44].map(|at| word(status, at)), [7, 6, 5, 4]);
        assert_eq!((long(status, 48), long(status, 56)), (1, 500_000));
        assert_eq!((long(status, 96), long(status, 104)), (2, 1));
        assert_eq!(long(status, 112), 0x1111);
        assert_eq!(long(status, 112 + 30 * 8), 0x3030);
        assert_eq!((long(status, 112 + 31 * 8), long(status, 112 + 32 * 8)), (0x7fff_0000, 0x40_1000));
        assert_eq!(word(status, 384), 1);
    }

    #[test]
    fn the_size_of_a_threads_notes_is_known_beforehand() {
        let thread = thread();
        assert_eq!((status_note(&thread).len() + register_notes(&thread).len()) as u64, THREAD_NOTES);
        let registers = register_notes(&thread);
        assert_eq!(word(&registers, 20 + 31 * 16 + 8), 31);
        assert_eq!(word(&registers, 20 + 32 * 16 + 4), 5);
        assert_eq!(long(&registers, 548 + 20), 0x7151);
    }

    #[test]
    fn prpsinfo_shows_the_arguments_as_one_line() {
        let comm = *b"sleep\0\0\0\0\0\0\0\0\0\0\0";
        let arguments = b"sleep\x0010\0".to_vec();
        let process =
            Process { state: b'R', nice: -5, flags: 0x400, uid: 1, gid: 2, ids: [3, 4, 5, 6], comm, arguments };
        let bytes = process_note(&process);
        let info = &bytes[20..];
        assert_eq!(info.len(), 136);
        assert_eq!(&info[..4], [0, b'R', 0, 251]);
        assert_eq!((long(info, 8), word(info, 16), word(info, 20), word(info, 24)), (0x400, 1, 2, 3));
        assert_eq!(&info[40..46], b"sleep\0");
        assert_eq!(&info[56..66], b"sleep 10 \0");
        let long = Process { arguments: vec![b'x'; 200], ..process };
        let bytes = process_note(&long);
        assert_eq!((bytes[20 + 56 + 78], bytes[20 + 56 + 79]), (b'x', 0));
    }

    #[test]
    fn the_file_note_has_pages_and_names() {
        let bytes = files_note(&[(0x1000, 0x3000, 0x2000, b"/bin/a".to_vec()), (0x5000, 0x6000, 0, b"/b".to_vec())]);
        let files = &bytes[20..];
        assert_eq!((long(files, 0), long(files, 8)), (2, 4096));
        assert_eq!((long(files, 16), long(files, 24), long(files, 32)), (0x1000, 0x3000, 2));
        assert_eq!(&files[64..74], b"/bin/a\0/b\0");
    }

    #[test]
    fn goblin_reads_the_header() {
        let bytes = header(3);
        assert_eq!(bytes.len(), 64);
        let parsed = goblin::elf::header::header64::Header::from_bytes(bytes.as_slice().try_into().unwrap());
        assert_eq!((parsed.e_type, parsed.e_machine, parsed.e_phnum, parsed.e_phoff), (4, 183, 3, 64));
    }
}
