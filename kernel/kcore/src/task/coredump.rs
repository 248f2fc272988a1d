//! Core dumps: core(5). A process that a signal of the Core kind ends leaves an ELF file of its memory and registers, or
//! gives it to a program.
//!
//! The order is Linux's `do_coredump`: may this process be dumped at all ([`Mode`]); the other threads stop where they
//! leave the kernel ([`threads`]); the pattern becomes a place ([`pattern`]), the place is opened ([`output`]); the core is
//! written ([`elf`]). Nothing in here fails the exit: without memory, room or rights there is no core or a short one.

mod elf;
mod output;
pub mod pattern;
mod threads;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::resource::{RLIMIT_CORE, RLIMIT_FSIZE};
use abi::signal::SigInfo;
use hal::sync::SpinLock;

use super::{Task, TaskState, current, tree, usage};
use crate::Result;
use crate::mm::frame;
use crate::mm::space::dump::DumpArea;
use crate::sync::order;
use crate::time;
use output::Output;
use pattern::{Target, Values};
pub(crate) use threads::thread_exits;

const PAGE: u64 = hal::mem::PAGE_SIZE as u64;
/// The bit of a wait status that says a core was dumped (WCOREDUMP).
const DUMPED: i32 = 0x80;

hal::global! {
    /// `/proc/sys/kernel/core_pattern`.
    static PATTERN: SpinLock<Vec<u8>> = SpinLock::new(order::TASK_FIELDS, Vec::new());
    /// Whether the pattern was set; before, it is `core`.
    static PATTERN_SET: AtomicU32 = AtomicU32::new(0);
    /// `/proc/sys/kernel/core_uses_pid`.
    pub static USES_PID: AtomicU32 = AtomicU32::new(0);
    /// `/proc/sys/kernel/core_pipe_limit`.
    pub static PIPE_LIMIT: AtomicU32 = AtomicU32::new(0);
    /// `/proc/sys/fs/suid_dumpable`: what a change of identity makes of dumpable (proc(5)).
    pub static SUID_DUMPABLE: AtomicU32 = AtomicU32::new(0);
}

/// `/proc/sys/kernel/core_pattern`.
pub fn current_pattern() -> Vec<u8> {
    if PATTERN_SET.load(Ordering::Acquire) == 0 { b"core".to_vec() } else { PATTERN.lock().clone() }
}

/// Sets it. What does not fit is cut off, as Linux's `proc_dostring` does.
pub fn set_pattern(text: &[u8]) {
    *PATTERN.lock() = text[..text.len().min(pattern::MAX - 1)].to_vec();
    PATTERN_SET.store(1, Ordering::Release);
    warn_of_unsafe_pattern();
}

/// With "suid-safe" dumps the place must not depend on where the process is (Linux `validate_coredump_safety`).
pub fn warn_of_unsafe_pattern() {
    let pattern = current_pattern();
    if SUID_DUMPABLE.load(Ordering::Relaxed) == 2 && !matches!(pattern.first(), Some(b'/' | b'|')) {
        log::warn!("Unsafe core_pattern used with fs.suid_dumpable=2: pipe handler or fully qualified path required");
    }
}

/// PR_SET_DUMPABLE's values, as a dump looks at them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// 1: as the user itself.
    User,
    /// 2: as root, only to a safe place, since nobody knows what the process knows.
    Root,
}

/// Ends the current process for a signal of the Core kind: dumps it if that may be. Returns the wait status for
/// [`exit_group`](super::exit::exit_group).
pub fn dump(info: &SigInfo) -> i32 {
    let task = current();
    let status = info.signal().cast_signed();
    let mode = match task.group.dumpable.load(Ordering::Relaxed) {
        0 => return status,
        2 => Mode::Root,
        _ => Mode::User,
    };
    let limit = task.rlimit(RLIMIT_CORE);
    let pattern = current_pattern();
    // Before anybody is stopped, what is decided most often: no core for a limit of 0.
    if !pattern.starts_with(b"|") && limit < PAGE {
        return status;
    }
    let Some(others) = threads::stop_others(&task, status) else { return status };
    let dumped = match write_core(&task, info, mode, &pattern, limit, &others) {
        Ok(()) => true,
        Err(error) => {
            log::debug!("Core dump of {} ({}): {error}", task.tgid(), task.comm());
            false
        }
    };
    threads::finish(&task, if dumped { status | DUMPED } else { status })
}

fn write_core(task: &Task, info: &SigInfo, mode: Mode, pattern: &[u8], limit: u64, others: &[Arc<Task>]) -> Result<()> {
    let values = values(task, info, mode, limit);
    let append_pid = USES_PID.load(Ordering::Relaxed) != 0;
    let target = pattern::expand(pattern, &values, append_pid).ok_or(Errno::ENOMEM)?;
    let mut output = match target {
        Target::File(name) => {
            let limit = limit.min(task.rlimit(RLIMIT_FSIZE));
            Output::create(task, &name, mode == Mode::Root, limit)?
        }
        Target::Pipe(words) => Output::pipe(task, &words, limit)?,
    };
    let core = Core::new(task, info, others)?;
    // From here on there is a core, however short (Linux `has_dumped`).
    if let Err(error) = core.write(&mut output) {
        log::debug!("Core dump of {} ends early: {error}", task.tgid());
    }
    output.close();
    Ok(())
}

fn values(task: &Task, info: &SigInfo, mode: Mode, limit: u64) -> Values {
    let creds = task.creds();
    let comm = task.comm_bytes();
    let program = task.mm().and_then(|mm| mm.exe());
    Values {
        pid: task.group.pid.own_number(),
        global_pid: task.tgid(),
        tid: task.pid().own_number(),
        global_tid: task.tid(),
        uid: creds.uid,
        gid: creds.gid,
        dumpable: if mode == Mode::Root { 2 } else { 1 },
        signal: info.signal(),
        time: time::realtime_ns() / time::NSEC_PER_SEC,
        host: task.namespaces().uts().names().host.clone(),
        comm: comm.iter().copied().take_while(|byte| *byte != 0).collect(),
        program: program.map(|file| crate::fs::namei::display_path(&file.path, None)).unwrap_or_default(),
        limit,
    }
}

/// All that goes into a core, but for the pages.
struct Core<'a> {
    task: &'a Task,
    signal: u32,
    others: &'a [Arc<Task>],
    areas: Vec<DumpArea>,
    /// NT_PRPSINFO to NT_FILE, which follow the dumping thread's NT_PRSTATUS.
    process_notes: Vec<u8>,
}

impl<'a> Core<'a> {
    fn new(task: &'a Task, info: &SigInfo, others: &'a [Arc<Task>]) -> Result<Self> {
        let mm = task.mm().ok_or(Errno::ESRCH)?;
        let areas = mm.dump_areas()?;
        let files = mapped_files(&areas)?;
        let process_notes = [
            elf::process_note(&describe(task)),
            elf::signal_note(info),
            elf::auxv_note(&mm.auxv()),
            if files.is_empty() { Vec::new() } else { elf::files_note(&files) },
        ]
        .concat();
        Ok(Self { task, signal: info.signal(), others, areas, process_notes })
    }

    fn write(&self, output: &mut Output) -> Result<()> {
        let segments = self.areas.len() as u64 + 1;
        let notes_at = elf::HEADER + segments * elf::PROGRAM_HEADER;
        let notes = (self.others.len() as u64 + 1) * elf::THREAD_NOTES + self.process_notes.len() as u64;
        let data_at = (notes_at + notes).next_multiple_of(PAGE);
        // An address space has fewer areas than the header can count (max_map_count).
        output.emit(&elf::header(u16::try_from(segments).map_err(|_| Errno::EFBIG)?))?;
        output.emit(&elf::note_segment(notes_at, notes))?;
        let mut offset = data_at;
        for area in &self.areas {
            let length = area.end - area.start;
            output.emit(&elf::load_segment(offset, area.start, length, area.dumped, area.protection))?;
            offset += area.dumped;
        }
        let own = status_of(self.task, self.signal);
        output.emit(&elf::status_note(&own))?;
        output.emit(&self.process_notes)?;
        output.emit(&elf::register_notes(&own))?;
        for thread in self.others {
            let status = status_of(thread, self.signal);
            output.emit(&elf::status_note(&status))?;
            output.emit(&elf::register_notes(&status))?;
        }
        output.skip(data_at - notes_at - notes)?;
        self.write_pages(output)
    }

    fn write_pages(&self, output: &mut Output) -> Result<()> {
        let mm = self.task.mm().ok_or(Errno::ESRCH)?;
        let mut buffer = alloc::vec![0; PAGE as usize];
        for area in &self.areas {
            for page in (area.start..area.start + area.dumped).step_by(PAGE as usize) {
                // The one signal that gets through while a core is written ends it (Linux `dump_interrupted`).
                if self.task.fatal_signal_pending() {
                    return Err(Errno::EINTR);
                }
                if mm.read_for_dump(page, &mut buffer) {
                    output.emit(&buffer)?;
                } else {
                    output.skip(PAGE)?;
                }
            }
        }
        output.end()
    }
}

/// What NT_FILE says. Names are made one by one; a process with too many of them is not worth the kernel's last memory.
fn mapped_files(areas: &[DumpArea]) -> Result<Vec<elf::FileArea>> {
    /// Linux's MAX_FILE_NOTE_SIZE.
    const MOST: usize = 4 << 20;
    let mut files = Vec::new();
    let mut bytes = 0;
    for area in areas {
        let Some((file, offset)) = &area.file else { continue };
        let name = file.name();
        bytes += name.len() + 48;
        if bytes > MOST {
            return Ok(Vec::new());
        }
        frame::admit(bytes)?;
        files.push((area.start, area.end, *offset, name));
    }
    Ok(files)
}

/// PID or TID, parent, process group and session in the PID namespace of who dumps.
fn ids_of(task: &Task) -> [i32; 4] {
    let namespaces = current().namespaces();
    let namespace = namespaces.pid();
    let number = task.pid().number_in(namespace);
    let tree = tree::lock();
    let Some(id) = tree.find(&task.group) else { return [number, 0, 0, 0] };
    let node = tree.node(id);
    let parent = node.parent;
    let ppid = if parent == tree::NO_NODE { 0 } else { tree.node(parent).group.pid.number_in(namespace) };
    [number, ppid, node.pgrp.number_in(namespace), node.session.number_in(namespace)]
}

fn describe(task: &Task) -> elf::Process {
    let creds = task.creds();
    let mut arguments = alloc::vec![0; 80];
    if let Some(mm) = task.mm() {
        let marks = mm.marks();
        let length = (marks.arg_end.saturating_sub(marks.arg_start) as usize).min(arguments.len());
        let got = mm.read_remote(marks.arg_start, &mut arguments[..length]);
        arguments.truncate(got);
    }
    elf::Process {
        state: TaskState::Running.letter() as u8,
        nice: task.sched.nice() as i8,
        flags: task.flags.load(Ordering::Relaxed),
        uid: creds.uid,
        gid: creds.gid,
        ids: ids_of(task),
        comm: task.comm_bytes(),
        arguments,
    }
}

/// What a core says of a thread that is current or switched out.
fn status_of(task: &Task, signal: u32) -> elf::ThreadStatus {
    let used = if task.is_leader() { usage::of_process(&task.group) } else { task.times.snapshot() };
    elf::ThreadStatus {
        signal,
        pending: task.signals.pending_mask(),
        blocked: task.signals.blocked(),
        ids: ids_of(task),
        usage: used,
        children: *task.group.children.lock(),
        // An interrupted call is shown as it will be made again: delivery has put the registers back before it.
        frame: task.thread.user_frame(),
        fp: task.thread.fp_state(),
        tls: task.thread.tls(),
    }
}
