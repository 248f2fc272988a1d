//! execve(2): prepare, validate, commit.
//!
//! Everything that can fail happens before the point of no return in [`commit`]: the file is opened and checked, the new
//! address space is built completely, the other threads are gone. After it the old program does not exist any more.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::resource::{RLIMIT_NPROC, RLIMIT_STACK};
use hal::trap::UserFrame;

use super::{Creds, Task, TaskState, coredump, current, exit, flags, limits, tree};
use crate::Result;
use crate::fs::File;
use crate::mm::load::{self, Arguments, Loaded};
use crate::signal::{self, SigHandlers};

/// What execve was asked for.
pub struct Request {
    /// The program, opened for execution.
    pub file: Arc<File>,
    /// The name it was called by: AT_EXECFN, and `$0` of scripts.
    pub name: Vec<u8>,
    /// argv and envp.
    pub arguments: Arguments,
}

/// Replaces the current program. On success `registers` start the new one.
pub fn exec(request: Request, registers: &mut UserFrame) -> Result<()> {
    let task = current();
    check_process_limit(&task)?;
    let creds = task.creds();
    let stack_limit = task.rlimit(RLIMIT_STACK);
    let personality = task.personality.load(Ordering::Relaxed);
    let mut loaded = load::prepare(request.file, &request.name, request.arguments, stack_limit, personality)?;
    let new_creds = credentials_for(&task, &creds, &loaded)?;
    loaded.set_identity(&new_creds, is_secure(&new_creds, &creds));
    loaded.build_stack()?;
    become_only_thread(&task)?;
    commit(&task, loaded, new_creds, registers);
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

/// The credentials that the program runs with: set-user-ID, set-group-ID and capabilities(7), "Transformation of
/// capabilities during execve()".
fn credentials_for(task: &Task, old: &Creds, loaded: &Loaded) -> Result<Creds> {
    let mut new = old.clone();
    let attributes = loaded.program_attributes();
    if !task.no_new_privs.load(Ordering::Relaxed) && !attributes.nosuid {
        if attributes.mode & 0o4000 != 0 {
            new.euid = attributes.uid;
        }
        // S_ISGID without group execution means mandatory locking, not set-group-ID.
        if attributes.mode & 0o2010 == 0o2010 {
            new.egid = attributes.gid;
        }
    }
    new.suid = new.euid;
    new.fsuid = new.euid;
    new.sgid = new.egid;
    new.fsgid = new.egid;
    let changed_id = new.euid != old.euid || new.egid != old.egid;
    if changed_id {
        new.cap_ambient = 0;
    }
    let noroot = old.securebits & 1 != 0;
    let root = !noroot && (new.euid == 0 || new.uid == 0);
    new.cap_permitted = if root { old.cap_inheritable | old.cap_bounding } else { new.cap_ambient };
    new.cap_effective = if root && new.euid == 0 { new.cap_permitted } else { new.cap_ambient };
    // SECBIT_KEEP_CAPS does not survive execve.
    new.securebits &= !(1 << 4);
    Ok(new)
}

/// AT_SECURE: the program runs with more than its caller had (getauxval(3)).
fn is_secure(new: &Creds, old: &Creds) -> bool {
    new.euid != new.uid || new.egid != new.gid || (old.uid != 0 && new.cap_permitted & !old.cap_permitted != 0)
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
        tree.node(id).threads.iter().all(|t| {
            core::ptr::eq(&**t, task) || t.is_leader() && t.has_flag(flags::EXITING) && t.state() == TaskState::Dead
        })
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
    drop(tree);
    drop((gone, leader, own));
}

/// Puts the new program in force. Nothing in here can fail.
fn commit(task: &Task, loaded: Loaded, creds: Creds, registers: &mut UserFrame) {
    let (mm, start) = loaded.into_parts();
    // Point of no return: the old address space goes.
    exit::complete_robust_and_tid(task);
    let saved = hal::cpu::irq_save();
    let old_mm = task.replace_mm(Some(mm.clone()));
    if let Some(old) = &old_mm {
        // getrusage(2): the largest of all programs that the process was.
        task.group.note_max_rss(old.max_rss_pages() * 4);
        mm.set_dump_filter(old.dump_filter());
    }
    mm.hardware().activate();
    hal::cpu::irq_restore(saved);
    drop(old_mm);
    mm.set_huge_pages_off(task.group.thp_disabled.load(Ordering::Relaxed));
    // While it was built nothing but the stack was limited.
    mm.set_limits(crate::syscall::memory::limits_of(task));
    exit::complete_vfork(task);
    unshare_files(task);
    let old_handlers = task.handlers();
    let handlers = if Arc::strong_count(&old_handlers) > 2 { Arc::new(old_handlers.copy()) } else { old_handlers };
    handlers.reset_handled();
    reset_process(task, handlers);
    task.set_comm(&start.comm);
    if creds.euid != creds.uid || creds.egid != creds.gid {
        task.parent_death_signal.store(0, Ordering::Relaxed);
        task.group.dumpable.store(coredump::SUID_DUMPABLE.load(Ordering::Relaxed), Ordering::Relaxed);
    } else {
        task.group.dumpable.store(1, Ordering::Relaxed);
    }
    task.commit_creds(creds);
    // The stack was built with room for the strings; from here on the process's own limits count.
    mm.set_limits(crate::syscall::memory::limits_of(task));
    task.group.did_exec.store(true, Ordering::Relaxed);
    task.flags.fetch_and(!(flags::FORKNOEXEC | flags::KTHREAD), Ordering::Relaxed);
    task.group.timers.exec();
    task.thread.reset_fp_state();
    task.thread.set_tls(0);
    *registers = UserFrame::new(start.pc, start.sp);
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
    signal::deliver::forget_restart(task);
    task.group.exit_signal.store(abi::signal::SIGCHLD.cast_signed(), Ordering::Relaxed);
}
