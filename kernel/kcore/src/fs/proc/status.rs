//! What `/proc/PID` says of a process: stat, status, cmdline and the small files. Formats: proc(5), Linux
//! `fs/proc/array.c` and `fs/proc/base.c`.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::capability::CAP_SYS_RESOURCE;
use hal::mem::PAGE_SIZE;

use super::process::{Scope, Subject};
use super::text::Text;
use super::{may_look_into, parse_number};
use crate::Result;
use crate::mm::Mm;
use crate::mm::space::Marks;
use crate::sched::Priority;
use crate::task::usage::{self, Usage};
use crate::task::{PidNamespace, Task, TaskState, current, group, kernel_stack, tree};

/// Nanoseconds in a clock tick of user space (USER_HZ is 100).
const TICK_NS: u64 = 10_000_000;
/// The longest argument text that cmdline and environ give at a time.
const TEXT_LIMIT: u64 = 1 << 20;

/// What the family tree knows, taken at one moment, in the numbers of the reader's PID namespace.
struct Relations {
    ppid: i32,
    pgrp: i32,
    session: i32,
    threads: u64,
}

impl Relations {
    fn of(task: &Task, namespace: &PidNamespace) -> Self {
        let tree = tree::lock();
        let Some(id) = tree.find(&task.group) else {
            return Self { ppid: 0, pgrp: 0, session: 0, threads: 0 };
        };
        let node = tree.node(id);
        let parent = node.parent;
        let ppid = if parent == tree::NO_NODE { 0 } else { tree.node(parent).group.pid.number_in(namespace) };
        Self {
            ppid,
            pgrp: node.pgrp.number_in(namespace),
            session: node.session.number_in(namespace),
            threads: node.threads.iter().filter(|thread| thread.state() != TaskState::Dead).count().max(1) as u64,
        }
    }
}

/// The state letter; a process that is gone but not waited for is a zombie.
fn state_of(task: &Task) -> (char, &'static str) {
    let state = task.state();
    if state == TaskState::Dead && (task.is_leader() || task.ptrace.is_zombie()) {
        return ('Z', "Z (zombie)");
    }
    (state.letter(), state.description())
}

fn usage_of(subject: &Subject, task: &Task) -> Usage {
    if core::ptr::eq(task, &*current()) {
        crate::sched::account_current();
    }
    match subject.scope {
        Scope::Process => usage::of_process(&task.group),
        Scope::Thread => task.times.snapshot(),
    }
}

/// The name, from the first byte to the NUL; that of a kernel thread may be longer (Linux `proc_task_name`).
fn push_comm(text: &mut Text, task: &Task, escape_newlines: bool) {
    if crate::task::kthread::show_name(task, text) {
        return;
    }
    let bytes = task.comm_bytes();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    if escape_newlines {
        for byte in &bytes[..end] {
            match byte {
                b'\n' => text.str("\\n"),
                b'\\' => text.str("\\\\"),
                byte => text.byte(*byte),
            };
        }
    } else {
        text.bytes(&bytes[..end]);
    }
}

/// `/proc/PID/stat`: 52 fields.
pub(super) fn stat(subject: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let relations = Relations::of(task, &subject.space);
    let usage = usage_of(subject, task);
    let children = match subject.scope {
        Scope::Process => *task.group.children.lock(),
        Scope::Thread => Usage::default(),
    };
    let tty = task.group.tty.lock().clone();
    let (tty_nr, tpgid) = tty.map_or((0, -1), |tty| (tty.tty_nr(), tty.foreground_pgrp()));
    let mm = task.mm();
    let (total, resident) = mm.as_ref().map(|mm| mm.total_and_resident()).unwrap_or_default();
    let is_open = may_look_into(task);
    let marks = mm.as_ref().filter(|_| is_open).map(|mm| mm.marks());

    text.int(i64::from(subject.pid.number_in(&subject.space))).str(" (");
    push_comm(text, task, false);
    text.str(") ").byte(state_of(task).0 as u8);
    for number in [relations.ppid, relations.pgrp, relations.session, tty_nr, tpgid] {
        text.field_int(i64::from(number));
    }
    text.field(u64::from(task.flags.load(Ordering::Relaxed)));
    for count in [usage.minor_faults, children.minor_faults, usage.major_faults, children.major_faults] {
        text.field(count);
    }
    for ns in [usage.user_ns, usage.system_ns, children.user_ns, children.system_ns] {
        text.field(ns / TICK_NS);
    }
    push_priority(text, task);
    // Threads, the interval timer that is no longer shown, and when it began.
    text.field(relations.threads).str(" 0").field(task.start_ns / TICK_NS);
    text.field(total * PAGE_SIZE as u64).field(resident);
    text.field(task.rlimit(abi::resource::RLIMIT_RSS));
    push_marks(text, mm.is_some(), marks.as_ref());
    push_signals(text, task);
    // wchan, nswap, cnswap.
    text.field(u64::from(task.state() != TaskState::Running)).str(" 0 0");
    text.field_int(i64::from(task.group.exit_signal.load(Ordering::Relaxed))).field(task.sched.cpu() as u64);
    text.field(u64::from(task.sched.rt_priority.load(Ordering::Relaxed)));
    text.field(u64::from(task.sched.policy.load(Ordering::Relaxed)));
    // Block I/O delay, guest time, children's guest time.
    text.str(" 0 0 0");
    let tail = marks.unwrap_or_default();
    for address in
        [tail.start_data, tail.end_data, tail.start_brk, tail.arg_start, tail.arg_end, tail.env_start, tail.env_end]
    {
        text.field(address);
    }
    let exit_code = if is_open { task.exit_code.load(Ordering::Relaxed) } else { 0 };
    text.field_int(i64::from(exit_code)).byte(b'\n');
    Ok(())
}

/// Fields 18 and 19: for real-time tasks the priority is negative, minus one less than it, whether the urgency is their own or lent
/// (Linux `task_prio`).
fn push_priority(text: &mut Text, task: &Task) {
    let priority = i64::from(task.sched.level() - Priority::FIRST_FAIR);
    let nice = i64::from(task.sched.nice());
    text.field_int(priority).field_int(nice);
}

/// Fields 26 to 30: where code and stack are, for who may know; 1 says that there is an address space.
fn push_marks(text: &mut Text, has_mm: bool, marks: Option<&Marks>) {
    let hidden = u64::from(has_mm);
    let (code, end, stack) = marks.map_or((hidden, hidden, 0), |m| (m.start_code, m.end_code, m.start_stack));
    // Stack and instruction pointer are shown for dying tasks only.
    text.field(code).field(end).field(stack).str(" 0 0");
}

/// Fields 31 to 34: the old 31-bit signal sets.
fn push_signals(text: &mut Text, task: &Task) {
    const OLD: u64 = 0x7fff_ffff;
    let (ignored, caught) = task.handlers().ignored_and_caught();
    for set in [task.signals.pending_mask(), task.signals.blocked(), ignored, caught] {
        text.field(set & OLD);
    }
}

/// `/proc/PID/statm`: sizes in pages.
pub(super) fn statm(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let counters = task.mm().map(|mm| mm.counters()).unwrap_or_default();
    text.num(counters.total).field(counters.resident).field(counters.shared).field(counters.text);
    text.str(" 0").field(counters.data + counters.stack).str(" 0\n");
    Ok(())
}

/// `/proc/PID/status`.
pub(super) fn status(subject: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let namespace = &*subject.space;
    let relations = Relations::of(task, namespace);
    let creds = task.creds();
    text.str("Name:\t");
    push_comm(text, task, true);
    if let Some(fs) = task.fs_if_any() {
        text.str("\nUmask:\t0").num_zeros(octal(fs.umask()), 3);
    }
    let tracer = task.ptrace.tracer_number(namespace);
    text.str("\nState:\t").str(state_of(task).1);
    text.str("\nTgid:\t").int(i64::from(task.group.pid.number_in(namespace))).str("\nNgid:\t0");
    text.str("\nPid:\t").int(i64::from(subject.pid.number_in(namespace)));
    text.str("\nPPid:\t").int(i64::from(relations.ppid)).str("\nTracerPid:\t").int(i64::from(tracer));
    let reader = current().creds().user_ns.clone();
    text.str("\nUid:");
    for id in [creds.uid, creds.euid, creds.suid, creds.fsuid] {
        text.byte(b'\t').num(u64::from(reader.shown_uid(id)));
    }
    text.str("\nGid:");
    for id in [creds.gid, creds.egid, creds.sgid, creds.fsgid] {
        text.byte(b'\t').num(u64::from(reader.shown_gid(id)));
    }
    let slots = task.files_if_any().map_or(0, |files| files.size());
    text.str("\nFDSize:\t").num(slots as u64).str("\nGroups:\t");
    for (index, group) in creds.groups.iter().enumerate() {
        text.str(if index > 0 { " " } else { "" }).num(u64::from(reader.shown_gid(*group)));
    }
    // The space at the end is Linux's.
    text.byte(b' ');
    for (name, pid) in [
        ("\nNStgid:", &task.group.pid),
        ("\nNSpid:", &task.pid()),
        ("\nNSpgid:", &group::pgrp_of(task)),
        ("\nNSsid:", &group::session_of(task)),
    ] {
        text.str(name);
        // The reader's number first, the own namespace's last.
        pid.numbers_from(namespace).for_each(|number| {
            text.byte(b'\t').int(i64::from(number));
        });
    }
    text.byte(b'\n');
    if let Some(mm) = task.mm() {
        let dumping = task.group.signals.state.lock().threads_to_stop.is_some();
        push_memory(text, &mm, dumping);
    }
    text.str("Threads:\t").num(relations.threads).byte(b'\n');
    push_signal_status(text, task);
    for (name, set) in [
        ("CapInh:\t", creds.cap_inheritable),
        ("CapPrm:\t", creds.cap_permitted),
        ("CapEff:\t", creds.cap_effective),
        ("CapBnd:\t", creds.cap_bounding),
        ("CapAmb:\t", creds.cap_ambient),
    ] {
        text.str(name).hex(set, 16).byte(b'\n');
    }
    text.str("NoNewPrivs:\t").num(u64::from(task.no_new_privs.load(Ordering::Relaxed)));
    let (seccomp, filters) = task.seccomp.mode_and_filters();
    text.str("\nSeccomp:\t").num(u64::from(seccomp)).str("\nSeccomp_filters:\t").num(filters as u64);
    text.str("\nSpeculation_Store_Bypass:\tnot vulnerable\n");
    text.str("SpeculationIndirectBranch:\tunknown\n");
    push_affinity(text, task);
    let usage = task.times.snapshot();
    text.str("voluntary_ctxt_switches:\t").num(usage.voluntary_switches);
    text.str("\nnonvoluntary_ctxt_switches:\t").num(usage.involuntary_switches).byte(b'\n');
    Ok(())
}

/// The octal digits of `value`, as a decimal number with the same digits.
fn octal(value: u32) -> u64 {
    (0..4).rev().fold(0, |digits, place| digits * 10 + u64::from(value >> (place * 3) & 7))
}

fn push_memory(text: &mut Text, mm: &Mm, dumping: bool) {
    let counters = mm.counters();
    let kib = |pages: u64| pages * (PAGE_SIZE as u64 / 1024);
    let anonymous = counters.resident.saturating_sub(counters.shared);
    let peak = counters.max_resident.max(counters.resident);
    for (name, pages) in [
        ("VmPeak:\t", counters.max_total.max(counters.total)),
        ("VmSize:\t", counters.total),
        ("VmLck:\t", counters.locked),
        ("VmPin:\t", 0),
        ("VmHWM:\t", peak),
        ("VmRSS:\t", counters.resident),
        ("RssAnon:\t", anonymous),
        // All files live in memory, as on a tmpfs.
        ("RssFile:\t", 0),
        ("RssShmem:\t", counters.shared),
        ("VmData:\t", counters.data),
        ("VmStk:\t", counters.stack),
        ("VmExe:\t", counters.text),
        ("VmLib:\t", counters.code.saturating_sub(counters.text)),
        ("VmPTE:\t", counters.tables),
        ("VmSwap:\t", 0),
    ] {
        text.str(name).num_right(kib(pages), 8).str(" kB\n");
    }
    text.str("HugetlbPages:\t")
        .num_right(0, 8)
        .str(" kB\nCoreDumping:\t")
        .num(u64::from(dumping))
        .str("\nTHP_enabled:\t")
        .num(u64::from(!mm.huge_pages_off()))
        .str("\n");
}

fn push_signal_status(text: &mut Text, task: &Task) {
    let (ignored, caught) = task.handlers().ignored_and_caught();
    let limit = task.rlimit(abi::resource::RLIMIT_SIGPENDING);
    let queued = crate::signal::queued_for_user(task.creds().uid) as u64;
    text.str("SigQ:\t").num(queued).byte(b'/').num(limit).byte(b'\n');
    for (name, set) in [
        ("SigPnd:\t", task.signals.pending_mask()),
        ("ShdPnd:\t", task.group.signals.pending_mask()),
        ("SigBlk:\t", task.signals.blocked()),
        ("SigIgn:\t", ignored),
        ("SigCgt:\t", caught),
    ] {
        text.str(name).hex(set, 16).byte(b'\n');
    }
}

fn push_affinity(text: &mut Text, task: &Task) {
    let allowed = task.sched.allowed.load(Ordering::Relaxed) & hal::cpu::online_mask();
    text.str("Cpus_allowed:\t").hex(u64::from(allowed), 1).str("\nCpus_allowed_list:\t");
    push_cpu_list(text, allowed);
    text.str("\nMems_allowed:\t0001\nMems_allowed_list:\t0\n");
}

/// A set of CPUs as ranges: `0-3`, `0,2`.
pub(in crate::fs) fn push_cpu_list(text: &mut Text, mask: u32) {
    let mut first = true;
    let mut cpu = 0;
    while cpu < 32 {
        let run = (mask >> cpu).trailing_ones();
        if run == 0 {
            cpu += 1;
            continue;
        }
        if !core::mem::take(&mut first) {
            text.byte(b',');
        }
        text.num(u64::from(cpu));
        if run > 1 {
            text.byte(b'-').num(u64::from(cpu + run - 1));
        }
        cpu += run;
    }
}

/// Copies a range of another address space; what cannot be read ends it.
fn push_remote(text: &mut Text, mm: &Mm, start: u64, end: u64) {
    let mut at = start;
    let end = end.min(start.saturating_add(TEXT_LIMIT));
    let mut chunk = [0; 512];
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
        let got = mm.read_remote(at, &mut chunk[..want]);
        text.bytes(&chunk[..got]);
        if got < want {
            return;
        }
        at += got as u64;
    }
}

/// `/proc/PID/cmdline`: the arguments, each with its NUL. A program that wrote over them with one long text (setproctitle)
/// shows it, also where it runs on into the environment.
pub(super) fn cmdline(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let Some(mm) = task.mm() else { return Ok(()) };
    let marks = mm.marks();
    if marks.arg_end <= marks.arg_start {
        return Ok(());
    }
    let mut last = [0];
    let overwritten = mm.read_remote(marks.arg_end - 1, &mut last) == 1 && last[0] != 0;
    if !overwritten {
        push_remote(text, &mm, marks.arg_start, marks.arg_end);
        return Ok(());
    }
    let mut title = Text::new();
    push_remote(&mut title, &mm, marks.arg_start, marks.env_end.max(marks.arg_end));
    let title = title.into_bytes();
    let end = title.iter().position(|byte| *byte == 0).map_or(title.len(), |at| at + 1);
    text.bytes(title.get(..end).unwrap_or(&title));
    Ok(())
}

/// `/proc/PID/environ`.
pub(super) fn environ(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    if let Some(mm) = task.mm() {
        let marks = mm.marks();
        push_remote(text, &mm, marks.env_start, marks.env_end);
    }
    Ok(())
}

/// `/proc/PID/auxv`: the vector as exec made it.
pub(super) fn auxv(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    if let Some(mm) = task.mm() {
        text.bytes(&mm.auxv());
    }
    Ok(())
}

/// `/proc/PID/comm`.
pub(super) fn comm(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    push_comm(text, task, false);
    text.byte(b'\n');
    Ok(())
}

/// Only threads of the same process may rename each other (proc(5)).
pub(super) fn set_comm(task: &Arc<Task>, name: &[u8]) -> Result<()> {
    if !Arc::ptr_eq(&task.group, &current().group) {
        return Err(Errno::EINVAL);
    }
    task.set_comm(name);
    Ok(())
}

/// `/proc/PID/limits`.
pub(super) fn limits(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    const ROWS: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let limits = *task.group.limits.lock();
    text.str("Limit                     Soft Limit           Hard Limit           Units     \n");
    for ((name, unit), limit) in ROWS.iter().zip(limits) {
        let start = text.len();
        text.str(name).pad_to(start, 26);
        for (value, column) in [(limit.rlim_cur, 47), (limit.rlim_max, 68)] {
            if value == u64::MAX {
                text.str("unlimited");
            } else {
                text.num(value);
            }
            text.pad_to(start, column);
        }
        if unit.is_empty() {
            text.byte(b'\n');
        } else {
            text.str(unit).pad_to(start, 78).byte(b'\n');
        }
    }
    Ok(())
}

/// `/proc/PID/wchan`: the kernel's function that it sleeps in; 0 when it runs, and for those it is no business of.
pub(super) fn wchan(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let name = if may_look_into(task) { kernel_stack::wait_channel(task) } else { None };
    text.str(name.unwrap_or("0"));
    Ok(())
}

/// `/proc/PID/oom_score`: the share of memory in thousandths, doubled in Linux's scale, moved by the adjustment.
pub(super) fn oom_score(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let total = crate::mm::usage().total_pages.max(1);
    let resident = task.mm().map_or(0, |mm| mm.counters().resident);
    let points = (resident * 1000 / total).cast_signed();
    let adjust = i64::from(task.group.oom_score_adj.load(Ordering::Relaxed));
    let badness = if adjust == -1000 { 0 } else { (1000 + points + adjust).max(0) * 2 / 3 };
    text.int(badness).byte(b'\n');
    Ok(())
}

/// `/proc/PID/oom_score_adj`.
pub(super) fn oom_score_adj(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    text.int(i64::from(task.group.oom_score_adj.load(Ordering::Relaxed))).byte(b'\n');
    Ok(())
}

/// -1000 to 1000; lowering it needs CAP_SYS_RESOURCE (`EACCES`).
pub(super) fn set_oom_score_adj(task: &Arc<Task>, value: &[u8]) -> Result<()> {
    let value: i32 = parse_number(value)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    adjust_oom_score(task, value)
}

/// Lowering needs the right to (Linux `__set_oom_adj`).
pub(super) fn adjust_oom_score(task: &Task, value: i32) -> Result<()> {
    let slot = &task.group.oom_score_adj;
    if value < slot.load(Ordering::Relaxed) && !current().capable(CAP_SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    slot.store(value, Ordering::Relaxed);
    Ok(())
}

/// `/proc/PID/loginuid`: not set, as without an audit daemon.
pub(super) fn loginuid(_: &Subject, _: &Arc<Task>, text: &mut Text) -> Result<()> {
    text.num(u64::from(u32::MAX));
    Ok(())
}

/// Auditing is not there to take a login.
pub(super) fn set_loginuid(_: &Arc<Task>, _: &[u8]) -> Result<()> {
    Err(Errno::EPERM)
}

/// `/proc/PID/sessionid`: no audit session.
pub(super) fn sessionid(_: &Subject, _: &Arc<Task>, text: &mut Text) -> Result<()> {
    text.num(u64::from(u32::MAX));
    Ok(())
}

/// `/proc/PID/cgroup`: the root of the unified hierarchy.
pub(super) fn cgroup(_: &Subject, _: &Arc<Task>, text: &mut Text) -> Result<()> {
    text.str("0::/\n");
    Ok(())
}

/// `/proc/PID/io`. Nothing is stored on a device, so the last three are 0.
pub(super) fn io(subject: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let [read, reads, written, writes] = usage_of(subject, task).io;
    text.str("rchar: ").num(read).str("\nwchar: ").num(written);
    text.str("\nsyscr: ").num(reads).str("\nsyscw: ").num(writes);
    text.str("\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n");
    Ok(())
}

/// `/proc/PID/personality`.
pub(super) fn personality(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    text.hex(u64::from(task.personality.load(Ordering::Relaxed)), 8).byte(b'\n');
    Ok(())
}

/// `/proc/PID/schedstat`: time on a CPU, time waiting for one, turns.
pub(super) fn schedstat(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let stats = &task.sched.stats;
    text.num(task.sched.sum_exec_ns.load(Ordering::Relaxed)).field(stats.run_delay_ns.load(Ordering::Relaxed));
    text.field(stats.turns.load(Ordering::Relaxed)).byte(b'\n');
    Ok(())
}

/// `/proc/PID/coredump_filter` (core(5)); nothing for who has no memory.
pub(super) fn coredump_filter(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    if let Some(mm) = task.mm() {
        text.hex(u64::from(mm.dump_filter()), 8).byte(b'\n');
    }
    Ok(())
}

/// Takes a number as C writes it; bits that mean nothing are dropped.
pub(super) fn set_coredump_filter(task: &Arc<Task>, value: &[u8]) -> Result<()> {
    let bits = super::parse_c_number(value)?;
    let mm = task.mm().ok_or(Errno::ESRCH)?;
    mm.set_dump_filter(u32::try_from(bits).map_err(|_| Errno::ERANGE)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Text, octal, push_cpu_list};

    fn cpu_list(mask: u32) -> String {
        let mut text = Text::new();
        push_cpu_list(&mut text, mask);
        String::from_utf8(text.into_bytes()).unwrap()
    }

    #[test]
    fn cpu_sets_are_shown_as_ranges() {
        assert_eq!(cpu_list(0b1111), "0-3");
        assert_eq!(cpu_list(0b101), "0,2");
        assert_eq!(cpu_list(0b1), "0");
        assert_eq!(cpu_list(0), "");
        assert_eq!(cpu_list(0b1101_1000), "3-4,6-7");
    }

    #[test]
    fn a_umask_keeps_its_octal_digits() {
        assert_eq!(octal(0o022), 22);
        assert_eq!(octal(0o777), 777);
    }
}
