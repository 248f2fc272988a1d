//! execve(2): prepare, validate, commit.
//!
//! Everything that can fail happens before the point of no return in [`commit`]: the file is opened and checked, the new
//! address space is built completely, the other threads are gone. After it the old program does not exist any more.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::resource::{RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_STACK};
use hal::debug::DebugRegisters;
use hal::trap::UserFrame;

use super::privileges::{self, Privileges};
use super::{Creds, Task, TaskState, coredump, current, exit, flags, limits, ptrace, tree};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::permission::{self, MAY_READ};
use crate::fs::{File, Files};
use crate::mm::load::{self, Arguments, Loaded, NameKind};
use crate::signal::{self, SigHandlers};

/// The stack limit of programs that gain something (Linux `_STK_LIM`).
const DEFAULT_STACK: u64 = 8 << 20;

/// What execve was asked for.
pub struct Request {
    /// The program, opened for execution.
    pub file: Arc<File>,
    /// The name it was called by: AT_EXECFN, and `$0` of scripts.
    pub name: Vec<u8>,
    /// Whether that name leads to it afterwards.
    pub name_kind: NameKind,
    /// argv and envp.
    pub arguments: Arguments,
}

/// Replaces the current program. On success `registers` start the new one.
pub fn exec(request: Request, registers: &mut UserFrame) -> Result<()> {
    let task = current();
    let former = task.pid();
    check_process_limit(&task)?;
    let creds = task.creds();
    let stack_limit = task.rlimit(RLIMIT_STACK);
    let personality = task.personality.load(Ordering::Relaxed);
    let Request { file, name, name_kind, arguments } = request;
    let mut loaded = load::prepare(file, &name, arguments, name_kind, stack_limit, personality)?;
    let privileges = privileges::for_program(&task, &creds, loaded.credentials_file())?;
    loaded.set_identity(privileges.creds_for(&task), privileges.secure);
    let handed_over = loaded.executable().map(|file| HandedOver::reserve(&task, file)).transpose()?;
    if let Some(binary) = &handed_over {
        loaded.set_executable_fd(binary.fd);
    }
    loaded.build_stack()?;
    become_only_thread(&task)?;
    let is_readable = permission::check(loaded.credentials_file().inode(), &creds, MAY_READ).is_ok();
    let dumpable = dumpable_after(&creds, privileges.creds_for(&task), is_readable);
    if dumpable != 1 {
        // Closed before the new memory can be seen, while the old identity is still in force (`task::access`).
        task.group.dumpable.store(dumpable, Ordering::SeqCst);
    }
    commit(&task, loaded, registers);
    settle_identity(&task, &creds, privileges, dumpable);
    if let Some(binary) = handed_over {
        binary.open(&task);
    }
    ptrace::event::execed(registers, &former);
    Ok(())
}

/// A user that got past RLIMIT_NPROC by setuid is stopped here (execve(2) EAGAIN).
fn check_process_limit(task: &Task) -> Result<()> {
    if limits::exceeded(task) && limits::threads_of(task.creds().uid) as u64 > task.rlimit(RLIMIT_NPROC) {
        return Err(Errno::EAGAIN);
    }
    // Below the limit, still or again: from here on the user is like any other.
    task.flags.fetch_and(!flags::NPROC_EXCEEDED, Ordering::Relaxed);
    Ok(())
}

/// The program of a binfmt_misc handler, to be open as AT_EXECFD when its interpreter starts.
struct HandedOver {
    files: Arc<Files>,
    file: Arc<File>,
    fd: i32,
}

impl HandedOver {
    fn reserve(task: &Task, file: Arc<File>) -> Result<Self> {
        let files = task.files();
        let fd = files.reserve(0, task.rlimit(RLIMIT_NOFILE), OnExec::Keep)?;
        Ok(Self { files, file, fd })
    }

    /// Opens it in the table that the program has: its own copy, if the caller shared one.
    fn open(self, task: &Task) {
        let own = task.files();
        if Arc::ptr_eq(&own, &self.files) {
            own.unreserve(self.fd);
        }
        // The number is below the limit, and free in a table that nobody else uses.
        let _ = own.replace(self.fd, self.file.clone(), u64::MAX, OnExec::Keep);
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        // Given back when execve fails, and in a table that was left behind. An open number is not touched.
        self.files.unreserve_if_reserved(self.fd);
    }
}

/// Whether the program runs as somebody else than its caller, or may do more.
fn is_other(old: &Creds, new: &Creds) -> bool {
    let changes = new.euid != old.euid || new.egid != old.egid || new.fsuid != old.fsuid || new.fsgid != old.fsgid;
    changes || new.cap_permitted & !old.cap_permitted != 0
}

/// Whether a program that `old` calls can be dumped and looked into (prctl(2) PR_SET_DUMPABLE).
fn dumpable_after(old: &Creds, new: &Creds, is_readable: bool) -> u32 {
    let differs = old.euid != old.uid || old.egid != old.gid;
    if differs || is_other(old, new) || !is_readable { coredump::SUID_DUMPABLE.load(Ordering::Relaxed) } else { 1 }
}

/// Puts credentials in force, and what follows from them: dumpable, the parent's death signal, the stack limit (Linux
/// `begin_new_exec`, `commit_creds`).
fn settle_identity(task: &Task, old: &Creds, privileges: Privileges, dumpable: u32) {
    let secure = privileges.secure;
    // A tracer that attaches asks for the credentials under the same lock: it comes before this and counts, or after it and
    // is measured by what is in force then (Linux `cred_guard_mutex`).
    let tree = tree::lock();
    let new = privileges.creds_for(task).clone();
    task.group.dumpable.store(dumpable, Ordering::Relaxed);
    if secure || is_other(old, &new) {
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    if secure {
        // An unlimited stack would let the caller choose where mappings go.
        let mut limits = task.group.limits.lock();
        let stack = &mut limits[RLIMIT_STACK as usize];
        stack.rlim_cur = stack.rlim_cur.min(DEFAULT_STACK);
    }
    if let Some(mm) = task.mm() {
        mm.set_user_ns(new.user_ns.clone());
    }
    task.commit_creds(new);
    drop(tree);
    // While the image was built nothing but the stack was limited.
    if let Some(mm) = task.mm() {
        mm.set_limits(crate::syscall::memory::limits_of(task));
    }
}

/// Kills the other threads and waits until they are gone; takes the leader's identity over when called by another thread
/// (Linux `de_thread`).
fn become_only_thread(task: &Task) -> Result<()> {
    {
        let tree = tree::lock();
        let id = tree.find(&task.group).expect("a running process is in the tree");
        let threads = &tree.node(id).threads;
        if threads.len() == 1 {
            return Ok(());
        }
        let mut state = task.group.signals.state.lock();
        if state.exiting.is_some() || state.exec_survivor.is_some() {
            return Err(Errno::EAGAIN);
        }
        state.exec_survivor = Some(task.tid());
        signal::send::kill_threads(threads, Some(task));
    }
    // The leader stays as a dead thread until its identity is taken over; everybody else leaves the table.
    let alone = || {
        let tree = tree::lock();
        let Some(id) = tree.find(&task.group) else { return true };
        let node = tree.node(id);
        node.threads.iter().all(|t| core::ptr::eq(&**t, task) || t.is_leader() && node.leader_left)
    };
    let waited = task.group.child_changed.wait_event(TaskState::Killable, alone);
    task.group.signals.state.lock().exec_survivor = None;
    waited?;
    take_over_leader(task);
    Ok(())
}

fn take_over_leader(task: &Task) {
    let mut tree = tree::lock();
    let Some(id) = tree.find(&task.group) else { return };
    let Some(leader) = tree.node(id).threads.iter().find(|t| t.is_leader() && !core::ptr::eq(&***t, task)).cloned()
    else {
        return;
    };
    let me = current().arc();
    let own = task.replace_pid(leader.pid());
    tree.hand_children(id, own.global(), leader.tid());
    own.detach();
    leader.replace_pid(own.clone());
    me.pid().attach(&me);
    task.group.dead_threads.absorb(&leader.times.snapshot());
    limits::uncharge_thread(leader.creds().uid);
    let gone = tree.remove_thread(&leader);
    tree.node_mut(id).leader_left = false;
    // Its tracer is not told: the new leader goes by its number, which a wait for it looks at again.
    let tracer = leader.ptrace.tracer();
    let unlinked = leader.ptrace.is_traced().then(|| ptrace::attach::unlink(&leader));
    drop(tree);
    if let Some(tracer) = tracer {
        tracer.group.child_changed.wake_all();
    }
    drop((gone, leader, own, unlinked));
}

/// Puts the new program in force. Nothing in here can fail.
fn commit(task: &Task, loaded: Loaded, registers: &mut UserFrame) {
    let (mm, start) = loaded.into_parts();
    // Point of no return: the old address space goes.
    exit::complete_robust_and_tid(task);
    let saved = hal::cpu::irq_save();
    let old_mm = task.replace_mm(Some(mm.clone()));
    mm.hardware().activate();
    hal::cpu::irq_restore(saved);
    if let Some(old) = &old_mm {
        // getrusage(2): the largest of all programs that the process was.
        task.group.note_max_rss(old.max_rss_pages() * 4);
        mm.set_dump_filter(old.dump_filter());
        mm.set_huge_pages_off(old.huge_pages_off());
    }
    drop(old_mm);
    exit::complete_vfork(task);
    unshare_files(task);
    let old_handlers = task.handlers();
    let handlers = if Arc::strong_count(&old_handlers) > 2 { Arc::new(old_handlers.copy()) } else { old_handlers };
    handlers.reset_handled();
    reset_process(task, handlers);
    task.set_comm(&start.comm);
    task.group.did_exec.store(true, Ordering::Relaxed);
    task.flags.fetch_and(!(flags::FORKNOEXEC | flags::KTHREAD), Ordering::Relaxed);
    task.group.timers.exec();
    task.thread.reset_fp_state();
    task.thread.set_tls(0);
    if task.thread.debug_registers().is_any_enabled() {
        // Room for them is there.
        let _ = task.thread.set_debug_registers(&DebugRegisters::default());
    }
    // The call's number stays for a tracer that is told of its exit.
    let number = registers.syscall;
    *registers = UserFrame::new(start.pc, start.sp);
    registers.syscall = number;
}

/// Close-on-exec descriptors go, in a table of the process's own.
fn unshare_files(task: &Task) {
    let files = task.files();
    // One reference is the task's, one this variable.
    if Arc::strong_count(&files) > 2
        && let Ok(copy) = files.fork()
    {
        drop(task.replace_files(Some(copy)));
    }
    drop(files);
    task.files().close_on_exec();
}

fn reset_process(task: &Task, handlers: Arc<SigHandlers>) {
    drop(task.replace_handlers(handlers));
    task.signals.set_alternate_stack(None);
    task.rseq.clear();
    signal::deliver::forget_restart(task);
    task.group.exit_signal.store(abi::signal::SIGCHLD.cast_signed(), Ordering::Relaxed);
}
