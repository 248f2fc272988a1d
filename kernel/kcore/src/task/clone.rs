//! fork, vfork, clone, clone3: one path (Linux `kernel_clone`, in the order of its flow: validate, copy_process, determine
//! the PID, arm the vfork completion, wake the new task, wait for the completion).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::capability::CAP_SYS_ADMIN;
use abi::resource::{RLIM_INFINITY, RLIMIT_CPU, RLIMIT_NOFILE, RLIMIT_NPROC};
use abi::sched as c;
use hal::thread::{Start, Thread};
use hal::trap::UserFrame;

use super::{Parts, Pid, Task, TaskState, ThreadGroup, current, flags, limits, ptrace, tree, unshare};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::{Files, pidfd};
use crate::ns;
use crate::sched;
use crate::signal::{self, SigHandlers};
use crate::sync::Completion;
use crate::syscall::UserPtr;

/// What the four calls decode to (`struct kernel_clone_args`).
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneArgs<'a> {
    /// CLONE_* bits, without the exit signal.
    pub flags: u64,
    /// Where the child's stack begins (its highest address); 0: where the parent's is.
    pub stack: u64,
    /// The child's TLS, with CLONE_SETTLS.
    pub tls: u64,
    /// CLONE_PARENT_SETTID and CLONE_PIDFD write here.
    pub parent_tid: u64,
    /// CLONE_CHILD_SETTID and CLONE_CHILD_CLEARTID.
    pub child_tid: u64,
    /// Where CLONE_PIDFD writes (the same as `parent_tid` for clone).
    pub pidfd: u64,
    /// Sent to the parent at the end. The old call takes any byte; what is no signal is then not sent.
    pub exit_signal: u32,
    /// The PIDs that the child shall have, the innermost PID namespace's first; none: the next free ones.
    pub set_tid: &'a [i32],
}

/// The flags that are implemented. CLONE_SYSVSEM shares what nobody has here: it is accepted.
pub const SUPPORTED: u64 = c::CLONE_VM
    | c::CLONE_FS
    | c::CLONE_FILES
    | c::CLONE_SIGHAND
    | c::CLONE_PIDFD
    | c::CLONE_PTRACE
    | c::CLONE_VFORK
    | c::CLONE_PARENT
    | c::CLONE_THREAD
    | c::CLONE_SYSVSEM
    | c::CLONE_SETTLS
    | c::CLONE_PARENT_SETTID
    | c::CLONE_CHILD_CLEARTID
    | c::CLONE_DETACHED
    | c::CLONE_UNTRACED
    | c::CLONE_CHILD_SETTID
    | c::CLONE_IO
    | c::CLONE_NEWNS
    | c::CLONE_NEWPID
    | c::CLONE_NEWUSER
    | c::CLONE_NEWUTS
    | c::CLONE_CLEAR_SIGHAND;

/// The flags that ask for a new namespace and need CAP_SYS_ADMIN (Linux `copy_namespaces`).
pub const NEW_NAMESPACES: u64 = c::CLONE_NEWNS
    | c::CLONE_NEWUTS
    | c::CLONE_NEWIPC
    | c::CLONE_NEWPID
    | c::CLONE_NEWNET
    | c::CLONE_NEWCGROUP
    | c::CLONE_NEWTIME;

hal::global! {
    /// Threads that may exist: `/proc/sys/kernel/threads-max`.
    pub static MAX_THREADS: AtomicU64 = AtomicU64::new(4096);
}

/// Refuses what clone(2) refuses, each with its reason.
pub fn validate(args: &CloneArgs<'_>) -> Result<()> {
    let has = |flag: u64| args.flags & flag != 0;
    // A child that shares root and working directory cannot see other mounts, nor have another root of all credentials.
    if has(c::CLONE_FS) && has(c::CLONE_NEWNS | c::CLONE_NEWUSER) {
        return Err(Errno::EINVAL);
    }
    // Threads share handlers, and handlers make sense only in one address space.
    if has(c::CLONE_THREAD) && !has(c::CLONE_SIGHAND) {
        return Err(Errno::EINVAL);
    }
    if has(c::CLONE_SIGHAND) && !has(c::CLONE_VM) {
        return Err(Errno::EINVAL);
    }
    // Handlers cannot be both shared and cleared.
    if has(c::CLONE_SIGHAND) && has(c::CLONE_CLEAR_SIGHAND) {
        return Err(Errno::EINVAL);
    }
    // A sibling of init would be a second child of nobody.
    if has(c::CLONE_PARENT) && current().group.pid.own_number() == 1 {
        return Err(Errno::EINVAL);
    }
    // The threads of a process have one PID namespace and one set of credentials' users.
    let goes_elsewhere = || {
        let set = current().namespaces();
        !Arc::ptr_eq(set.pid(), set.pid_for_children())
    };
    if has(c::CLONE_THREAD) && (has(c::CLONE_NEWUSER | c::CLONE_NEWPID) || goes_elsewhere()) {
        return Err(Errno::EINVAL);
    }
    // A pidfd is a process; the bit of CLONE_DETACHED is kept for it.
    if has(c::CLONE_PIDFD) && has(c::CLONE_DETACHED | c::CLONE_THREAD) {
        return Err(Errno::EINVAL);
    }
    // Both would be stored in the same place.
    if has(c::CLONE_PIDFD) && has(c::CLONE_PARENT_SETTID) && args.pidfd == args.parent_tid {
        return Err(Errno::EINVAL);
    }
    // A new user namespace gives the right to the others.
    if has(NEW_NAMESPACES) && !has(c::CLONE_NEWUSER) && !current().creds().own_capable(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if args.flags & !SUPPORTED != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Creates a child of the current task. Returns its TID in the caller's PID namespace.
pub fn do_fork(args: &CloneArgs<'_>, registers: &UserFrame) -> Result<usize> {
    validate(args)?;
    let event = ptrace::event::of_clone(args.flags, args.exit_signal);
    let child = copy_process(args, registers, event.is_some())?;
    // Point of no return: the child is in the tables and everything below succeeds.
    let parent = current();
    let pid = child.pid();
    let number = pid.number_in(parent.namespaces().pid());
    if args.flags & c::CLONE_PARENT_SETTID != 0 {
        // As Linux: a bad address here is not reported.
        let _ = UserPtr::<i32>::new(args.parent_tid).write(&number);
    }
    let vfork = (args.flags & c::CLONE_VFORK != 0).then(|| {
        let done = Arc::new(Completion::new());
        *child.vfork_done.lock() = Some(done.clone());
        done
    });
    sched::start(&child);
    drop(child);
    if let Some(event) = event {
        ptrace::event::cloned(event, &pid);
    }
    if let Some(done) = vfork {
        // A fatal signal ends the wait; the child goes on alone (Linux wait_for_vfork_done).
        if done.wait(TaskState::Killable).is_err() {
            log::debug!("{}: killed while waiting for its vfork child", parent.tid());
        } else {
            ptrace::event::vfork_done(&pid);
        }
    }
    Ok(usize::try_from(number).expect("a PID is positive"))
}

/// Builds the child and enters it into the tables. Undoes everything on failure.
fn copy_process(args: &CloneArgs<'_>, registers: &UserFrame, is_event: bool) -> Result<Arc<Task>> {
    let parent = current();
    let has = |flag: u64| args.flags & flag != 0;
    if parent.fatal_signal_pending() {
        return Err(Errno::ERESTARTNOINTR);
    }
    crate::mm::frame::admit(64 << 10)?;
    let creds = if has(c::CLONE_NEWUSER) { Arc::new(unshare::with_user_namespace(&parent)?) } else { parent.creds() };
    let charge = Charge::new(&creds, parent.rlimit(RLIMIT_NPROC))?;
    if tree::lock().thread_count() as u64 >= MAX_THREADS.load(Ordering::Relaxed) {
        return Err(Errno::EAGAIN);
    }
    // A deadline task would let its child run on its bandwidth (sched(7)).
    if parent.sched.may_not_fork() {
        return Err(Errno::EAGAIN);
    }
    let mm = match parent.mm() {
        Some(mm) if has(c::CLONE_VM) => Some(mm),
        Some(mm) => Some(mm.fork()?),
        None => None,
    };
    let files = if has(c::CLONE_FILES) { parent.files() } else { parent.files().fork()? };
    let fs = if has(c::CLONE_FS) { parent.fs() } else { parent.fs().fork() };
    let handlers = if has(c::CLONE_SIGHAND) {
        parent.handlers()
    } else {
        let copy = parent.handlers().copy();
        if has(c::CLONE_CLEAR_SIGHAND) {
            copy.reset_handled();
        }
        Arc::new(copy)
    };
    let namespaces = ns::of_child(ns::copy(&parent, &creds, args.flags, &fs)?);
    let mut child_registers = *registers;
    child_registers.x[0] = 0;
    if args.stack != 0 {
        child_registers.sp = args.stack;
    }
    let thread = Thread::new(Start::User(child_registers)).map_err(|_| Errno::ENOMEM)?;
    let pid = match args.set_tid {
        [] => Pid::allocate(namespaces.pid())?,
        wanted => Pid::allocate_as(namespaces.pid(), wanted, &creds)?,
    };
    let pidfd = has(c::CLONE_PIDFD).then(|| PidFdSlot::reserve(args.pidfd)).transpose()?;
    let group = child_group(args, &pid);
    let task = Task::assemble(Parts {
        thread,
        pid,
        group,
        flags: parent.flags.load(Ordering::Relaxed) & !flags::SUPERPRIV | flags::FORKNOEXEC,
        handlers,
        mm,
        files: Some(files),
        fs: Some(fs),
        creds,
        namespaces,
        comm: parent.comm_bytes(),
        sched: parent.sched.inherit(),
        blocked: parent.signals.blocked(),
        kthread: None,
    });
    inherit(&parent, &task, args);
    publish(&task, args, is_event || has(c::CLONE_PTRACE))?;
    charge.keep();
    if let Some(pidfd) = pidfd {
        pidfd.install(&task);
    }
    Ok(task)
}

/// CLONE_PIDFD: the parent's descriptor, told to the caller before the child exists (`EMFILE`, `EFAULT`) and given back
/// unless it comes to be.
struct PidFdSlot {
    files: Arc<Files>,
    fd: Option<i32>,
}

impl PidFdSlot {
    fn reserve(address: u64) -> Result<Self> {
        let parent = current();
        let files = parent.files();
        let fd = files.reserve(0, parent.rlimit(RLIMIT_NOFILE), OnExec::Close)?;
        let slot = Self { files, fd: Some(fd) };
        UserPtr::<i32>::new(address).write(&fd)?;
        Ok(slot)
    }

    fn install(mut self, child: &Task) {
        if let Some(fd) = self.fd.take() {
            self.files.install(fd, pidfd::new_file(child.group.clone(), 0));
        }
    }
}

impl Drop for PidFdSlot {
    fn drop(&mut self) {
        if let Some(fd) = self.fd {
            self.files.unreserve(fd);
        }
    }
}

/// RLIMIT_NPROC is charged first and given back unless the child comes to be.
struct Charge {
    uid: u32,
    kept: bool,
}

impl Charge {
    fn new(creds: &super::Creds, limit: u64) -> Result<Self> {
        limits::charge_thread(creds, limit)?;
        Ok(Self { uid: creds.uid, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.kept {
            limits::uncharge_thread(self.uid);
        }
    }
}

/// The process that the child belongs to: its parent's, or a new one with the parent's limits.
fn child_group(args: &CloneArgs<'_>, pid: &Arc<Pid>) -> Arc<ThreadGroup> {
    let parent = current();
    if args.flags & c::CLONE_THREAD != 0 {
        return parent.group.clone();
    }
    let exit_signal = if args.flags & c::CLONE_PARENT != 0 {
        parent.group.exit_signal.load(Ordering::Relaxed)
    } else {
        args.exit_signal.cast_signed()
    };
    let limits = *parent.group.limits.lock();
    let group = ThreadGroup::new(pid.clone(), limits, exit_signal);
    if limits[RLIMIT_CPU as usize].rlim_cur != RLIM_INFINITY {
        crate::time::interval::watch_cpu_limit(&group);
    }
    let tty = parent.group.tty.lock().clone();
    *group.tty.lock() = tty;
    group.oom_score_adj.store(parent.group.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
    group.dumpable.store(parent.group.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
    group
}

/// The odds and ends that a child takes over (fork(2), clone(2), prctl(2)).
fn inherit(parent: &Task, child: &Task, args: &CloneArgs<'_>) {
    let has = |flag: u64| args.flags & flag != 0;
    child.thread.inherit_fp_state();
    child.thread.set_tls(if has(c::CLONE_SETTLS) { args.tls } else { parent.thread.tls() });
    if has(c::CLONE_CHILD_SETTID) {
        child.set_child_tid.store(args.child_tid, Ordering::Relaxed);
    }
    if has(c::CLONE_CHILD_CLEARTID) {
        child.clear_child_tid.store(args.child_tid, Ordering::Relaxed);
    }
    if !has(c::CLONE_VM) {
        parent.rseq.inherit(child);
    }
    // The alternate stack is inherited by a copy of the address space, and by vfork children (sigaltstack(2)).
    if !has(c::CLONE_VM) || has(c::CLONE_VFORK) {
        child.signals.set_alternate_stack(Some(parent.signals.alternate_stack()));
    }
    let copy = |from: &core::sync::atomic::AtomicU32, to: &core::sync::atomic::AtomicU32| {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    };
    copy(&parent.personality, &child.personality);
    child.no_new_privs.store(parent.no_new_privs.load(Ordering::Relaxed), Ordering::Relaxed);
    child.io_context.inherit(&parent.io_context, has(c::CLONE_IO));
    let slack = parent.timer_slack_ns.load(Ordering::Relaxed);
    child.timer_slack_ns.store(slack, Ordering::Relaxed);
    child.default_timer_slack_ns.store(slack, Ordering::Relaxed);
}

/// Makes the child visible: in the tree, in its group and session. Fails when the parent is being killed, so that no child
/// escapes a kill of its process (Linux `copy_process`, "-ERESTARTNOINTR").
fn publish(child: &Arc<Task>, args: &CloneArgs<'_>, traced_like_parent: bool) -> Result<()> {
    let parent = current();
    let (is_thread, sibling) = (args.flags & c::CLONE_THREAD != 0, args.flags & c::CLONE_PARENT != 0);
    let mut tree = tree::lock();
    {
        let state = parent.group.signals.state.lock();
        if state.exiting.is_some() || (is_thread && state.exec_survivor.is_some()) {
            return Err(Errno::ERESTARTNOINTR);
        }
        // A process that is being stopped forks after it was continued: a group that was sent a stop holds still as a
        // whole (Linux copy_process, "multiprocess" signals).
        if signal::is_stopping(&parent, &state) {
            return Err(Errno::ERESTARTNOINTR);
        }
    }
    super::seccomp::inherit(&parent, child);
    child.group.live.fetch_add(1, Ordering::SeqCst);
    child.pid().attach_new(child);
    if traced_like_parent && parent.ptrace.is_traced() {
        ptrace::attach::inherit(&parent, child);
    }
    if is_thread {
        tree.add_thread(child);
        signal::stop::join(&parent, child, &mut parent.group.signals.state.lock());
        signal::recalculate(child);
        return Ok(());
    }
    let own = tree.find(&parent.group).expect("a running process is in the tree");
    let node = tree.node(own);
    let (pgrp, session) = (node.pgrp.clone(), node.session.clone());
    let (parent_node, parent_thread) = if sibling { (node.parent, node.parent_thread) } else { (own, parent.tid()) };
    let id = tree.add_process(child, parent_node, pgrp, session);
    tree.node_mut(id).parent_thread = parent_thread;
    Ok(())
}

/// What a new user thread does before it first reaches user code: tells its TID (CLONE_CHILD_SETTID).
pub fn first_return() {
    let task = current();
    let address = task.set_child_tid.swap(0, Ordering::Relaxed);
    if address != 0 {
        let number = task.pid().number_in(task.namespaces().pid());
        // As Linux schedule_tail: a bad address is not reported.
        let _ = UserPtr::<i32>::new(address).write(&number);
    }
}

/// A fresh set of handlers for tasks that share none.
pub(super) fn default_handlers() -> Arc<SigHandlers> {
    Arc::new(SigHandlers::new())
}
