//! exit(2), exit_group(2): a task gives back what it has, becomes a zombie, tells its parent.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::signal as s;
use abi::signal::SigInfo;

use super::ptrace::attach::Unlinked;
use super::tree::{self, ExitState, NO_NODE, NodeId, Tree};
use super::{Task, TaskState, coredump, current, flags, group, kthread, limits, ptrace, zap};
use crate::sched;
use crate::signal;
use crate::syscall::UserPtr;

/// Ends the whole process with the wait status `status` (exit code << 8, or the signal). Does not return.
pub fn exit_group(status: i32) -> ! {
    let task = current();
    let status = {
        let tree = tree::lock();
        let mut state = task.group.signals.state.lock();
        match tree.find(&task.group) {
            _ if state.exiting.is_some() => state.exiting.unwrap_or(status),
            Some(id) => {
                state.exiting = Some(status);
                state.forget_job_control();
                signal::send::kill_threads(&tree.node(id).threads, Some(&task));
                status
            }
            None => status,
        }
    };
    exit_current(status)
}

/// Ends the current thread with the wait status `status` (Linux `do_exit`). Does not return.
pub fn exit_current(status: i32) -> ! {
    // Scoped so that nothing on this stack, which never runs again, holds a reference.
    leave(status);
    loop {
        sched::schedule();
    }
}

fn leave(status: i32) {
    let task = current();
    assert!(!task.has_flag(flags::EXITING), "a task exits once");
    coredump::thread_exits(&task);
    // With everything still there to be looked at, and able to take a signal.
    ptrace::event::exits(status);
    task.flags.fetch_or(flags::EXITING, Ordering::SeqCst);
    signal::send::hand_on(&task);
    if s_is_signal(status) {
        task.flags.fetch_or(flags::SIGNALED, Ordering::Relaxed);
    }
    task.exit_code.store(status, Ordering::Relaxed);
    kthread::park::thread_exits(&task);
    if signal::thread_exits(&task) {
        signal::notify_parent_of_stop(&task.group, s::CLD_STOPPED);
    }
    let last = task.group.live.fetch_sub(1, Ordering::SeqCst) == 1;
    if last {
        // Without an exit_group the last thread decides for the process (Linux `synchronize_group_exit`).
        task.group.signals.state.lock().exiting.get_or_insert(status);
        if task.group.pid.global() == 1 {
            panic!("Attempted to kill init! exitcode={status:#010x}");
        }
        task.group.timers.exit();
    }
    crate::futex::exit_release(&task);
    release_memory(&task);
    drop(task.replace_files(None));
    drop(task.replace_fs(None));
    // The last user of a namespace takes it apart, which may sleep.
    drop(task.replace_namespaces(crate::ns::of_zombie(&task.namespaces())));
    if last {
        disassociate_terminal(&task);
    }
    if last && task.group.pid.own_number() == 1 {
        zap::end_namespace(&task);
    }
    sched::exit();
    notify(&task, last);
    task.set_state(TaskState::Dead);
}

fn s_is_signal(status: i32) -> bool {
    status & 0x7f != 0
}

/// Gives up the address space: tells whoever waits for it (vfork parents, joining threads) and unmaps it (`exit_mm`).
pub(super) fn release_memory(task: &Task) {
    clear_child_tid(task);
    let old = task.replace_mm(None);
    if let Some(mm) = &old {
        let rss = mm.max_rss_pages() * 4;
        task.group.note_max_rss(rss);
    }
    // The TLB and TTBR0 forget the tables before they are freed.
    hal::mmu::deactivate();
    drop(old);
    complete_vfork(task);
}

/// CLONE_CHILD_CLEARTID: zeroes the word and wakes one futex waiter, if somebody else can still see it.
fn clear_child_tid(task: &Task) {
    let address = task.clear_child_tid.swap(0, Ordering::Relaxed);
    if address == 0 {
        return;
    }
    let shared = task.mm().is_some_and(|mm| Arc::strong_count(&mm) > 2);
    if shared && UserPtr::<u32>::new(address).write(&0).is_ok() {
        crate::futex::wake_one_shared(address);
    }
}

/// Before exec drops an address space that others may still see: robust futexes and the TID word are settled in it.
pub(super) fn complete_robust_and_tid(task: &Task) {
    crate::futex::exec_release(task);
    clear_child_tid(task);
}

/// Lets a vfork parent go on.
pub(super) fn complete_vfork(task: &Task) {
    let done = task.vfork_done.lock().take();
    if let Some(done) = done {
        done.complete();
    }
}

/// A session leader that ends gives its terminal up: the foreground group is hung up (Linux `disassociate_ctty`).
fn disassociate_terminal(task: &Task) {
    if group::is_session_leader(task) {
        crate::tty::disassociate_session(task);
    }
}

/// What left the tables, to be dropped when they are unlocked.
#[derive(Default)]
pub(crate) struct Reaped {
    threads: Vec<Arc<Task>>,
    processes: Vec<(tree::Node, Option<Unlinked>)>,
}

/// The last part: tracees are let go, children find a new parent, parent and tracer hear of the end, the table forgets who
/// needs no waiting for (Linux `exit_notify`).
fn notify(task: &Task, last: bool) {
    let mut gone = Reaped::default();
    let mut tree = tree::lock();
    let Some(id) = tree.find(&task.group) else { return };
    let let_go = ptrace::attach::tracer_exits(&mut tree, task);
    if last {
        forget_children(&mut tree, id, task, &mut gone);
        let parent = tree.node(id).parent;
        group::hang_up_if_orphaned(&tree, id, parent);
    }
    if !last {
        hand_children_on(&mut tree, id, task);
    }
    if task.is_leader() {
        tree.node_mut(id).leader_left = true;
        // The tracer hears of it, and may wait for it when the other threads are gone.
        if task.ptrace.is_traced() && tree.node(id).threads.len() > 1 {
            tell_tracer(&tree, task, s::SIGCHLD);
        }
    } else if task.ptrace.is_traced() {
        task.ptrace.become_zombie();
        tell_tracer(&tree, task, s::SIGCHLD);
    } else {
        gone.threads.extend(release_thread(&mut tree, task));
    }
    // An exec that waits to be alone looks again.
    task.group.child_changed.wake_all();
    end_process_if_empty(&mut tree, id, &mut gone);
    drop(tree);
    drop(gone);
    drop(let_go);
}

/// A thread that is not the leader leaves the table.
fn release_thread(tree: &mut Tree, task: &Task) -> Option<Arc<Task>> {
    task.group.dead_threads.absorb(&task.times.snapshot());
    limits::uncharge_thread(task.creds().uid);
    task.pid().detach();
    tree.remove_thread(task)
}

/// The leader has ended and no other thread is left, a traced one that its tracer has not waited for included: the process
/// is a zombie, and whoever traces the leader, or else the parent, is told.
fn end_process_if_empty(tree: &mut Tree, id: NodeId, gone: &mut Reaped) {
    let node = tree.node_mut(id);
    if node.exit_state == ExitState::Zombie || !node.leader_left || node.threads.len() != 1 {
        return;
    }
    node.exit_state = ExitState::Zombie;
    let leader = node.threads[0].clone();
    if leader.ptrace.is_traced() {
        let exit_signal = leader.group.exit_signal.load(Ordering::Relaxed).cast_unsigned();
        let signal = if ptrace::attach::is_reparented(tree, &leader) { s::SIGCHLD } else { exit_signal };
        tell_tracer(tree, &leader, signal);
    } else if tell_parent(tree, id) {
        gone.processes.push(reap(tree, id));
    }
    gone.threads.push(leader);
}

/// A thread that was traced has ended: its tracer is told, whatever it does with its children's ends.
fn tell_tracer(tree: &Tree, task: &Task, signal: u32) {
    let Some(tracer) = task.ptrace.tracer() else { return };
    let (code, status) = code_and_status(task.exit_code.load(Ordering::Relaxed));
    if (1..=signal::COUNT).contains(&signal) {
        let mut info = ptrace::stop::siginfo_about(task, &tracer, code, status);
        info.set_signal(signal);
        // A full queue still records the fact.
        let _ = signal::send::process_with_tree(tree, &tracer.group, &info);
    }
    tracer.group.child_changed.wake_all();
}

/// A relation of tracing ended. If the thread had ended before, it is now its real parent's to wait for, or gone (Linux
/// `__ptrace_detach`).
pub(super) fn after_trace(tree: &mut Tree, task: &Arc<Task>, was_reparented: bool) -> Reaped {
    let mut gone = Reaped::default();
    let Some(id) = tree.find(&task.group) else { return gone };
    if task.ptrace.is_zombie() {
        release_zombie_thread(tree, id, task, &mut gone);
    } else if tree.node(id).exit_state == ExitState::Zombie {
        // A parent that was the tracer itself has been told already.
        let is_done = if was_reparented { tell_parent(tree, id) } else { parent_ignores(tree, id) };
        if is_done {
            gone.processes.push(reap(tree, id));
        }
    }
    gone
}

fn release_zombie_thread(tree: &mut Tree, id: NodeId, task: &Task, gone: &mut Reaped) {
    gone.threads.extend(release_thread(tree, task));
    task.group.child_changed.wake_all();
    end_process_if_empty(tree, id, gone);
}

/// The tracer has waited for a thread that ended: it is gone, or left to its real parent (Linux `wait_task_zombie`,
/// EXIT_TRACE).
pub(super) fn reap_tracee(tree: &mut Tree, task: &Arc<Task>) -> (Reaped, Unlinked) {
    let unlinked = ptrace::attach::unlink(task);
    let mut gone = Reaped::default();
    if let Some(id) = tree.find(&task.group) {
        if task.ptrace.is_zombie() {
            release_zombie_thread(tree, id, task, &mut gone);
        } else if tell_parent(tree, id) {
            gone.processes.push(reap(tree, id));
        }
    }
    (gone, unlinked)
}

/// Whether the parent wants to hear nothing of its children's ends (Linux `ignoring_children`).
fn parent_ignores(tree: &Tree, id: NodeId) -> bool {
    let parent = tree.node(id).parent;
    if parent == NO_NODE {
        return false;
    }
    let Some(thread) = tree.node(parent).threads.first() else { return false };
    let action = thread.with_handlers(|handlers| handlers.get(s::SIGCHLD));
    tree.node(parent).group.child_changed.wake_all();
    action.handler == s::SIG_IGN || action.flags & u64::from(s::SA_NOCLDWAIT) != 0
}

/// SIGCHLD (or what clone asked for) to the parent. True when the parent does not want to wait: the child reaps itself
/// (SA_NOCLDWAIT, SIGCHLD ignored; wait(2) NOTES).
fn tell_parent(tree: &Tree, id: NodeId) -> bool {
    let node = tree.node(id);
    let parent = node.parent;
    if parent == NO_NODE {
        return node.group.exit_signal.load(Ordering::Relaxed) == 0;
    }
    let exit_signal = node.group.exit_signal.load(Ordering::Relaxed).cast_unsigned();
    let parent_group = &tree.node(parent).group;
    let mut autoreap = false;
    let mut ignored = false;
    if exit_signal == s::SIGCHLD
        && let Some(thread) = tree.node(parent).threads.first()
    {
        let action = thread.handlers().get(s::SIGCHLD);
        ignored = action.handler == s::SIG_IGN;
        autoreap = ignored || action.flags & u64::from(s::SA_NOCLDWAIT) != 0;
    }
    // With SA_NOCLDWAIT alone the signal is sent all the same, as Linux does (wait(2) leaves it open).
    // clone(2) takes any byte as exit signal; what is no signal is not sent.
    if (1..=signal::COUNT).contains(&exit_signal) && !ignored {
        // Sent as by the child: an init without a handler does not die of it. A full queue still records the fact.
        let _ = signal::send::process_with_tree(tree, parent_group, &exit_info(tree, node, exit_signal));
    }
    parent_group.child_changed.wake_all();
    autoreap
}

/// The siginfo about a zombie, for its parent.
fn exit_info(tree: &Tree, node: &tree::Node, exit_signal: u32) -> SigInfo {
    let (code, value) = code_and_status(wait_status(node));
    let parent = tree.node(node.parent).threads.first();
    let (pid, uid) = parent.map_or((0, 0), |parent| node.identity_seen_by(parent));
    let (user, system) = super::wait::own_ticks(node);
    SigInfo::child_with(exit_signal, code, pid, uid, value).with_times(user, system)
}

/// CLD_* and `si_status` of a wait status.
fn code_and_status(status: i32) -> (i32, i32) {
    match status & 0x7f {
        0 => (s::CLD_EXITED, status >> 8 & 0xff),
        signal if status & 0x80 != 0 => (s::CLD_DUMPED, signal),
        signal => (s::CLD_KILLED, signal),
    }
}

/// The wait status of a zombie: what the process as a whole ended with, else its leader's.
pub(super) fn wait_status(node: &tree::Node) -> i32 {
    let whole = node.group.signals.exiting();
    whole.or_else(|| node.threads.first().map(|leader| leader.exit_code.load(Ordering::Relaxed))).unwrap_or(0)
}

/// Takes a zombie out of the tables. The caller drops what it gets after unlocking the tree.
pub(super) fn reap(tree: &mut Tree, id: NodeId) -> (tree::Node, Option<Unlinked>) {
    let mut unlinked = None;
    for thread in &tree.node(id).threads {
        thread.pid().detach();
        limits::uncharge_thread(thread.creds().uid);
        if thread.ptrace.is_traced() {
            unlinked = Some(ptrace::attach::unlink(thread));
        }
    }
    (tree.remove_process(id), unlinked)
}

/// A thread of a process that lives on ends: its children become those of another thread (Linux `find_new_reaper`). For
/// them the parent has died all the same (prctl(2) PR_SET_PDEATHSIG: "the parent is the thread").
fn hand_children_on(tree: &mut Tree, id: NodeId, task: &Task) {
    let alive = tree.node(id).threads.iter().find(|thread| !thread.has_flag(flags::EXITING)).map(|thread| thread.tid());
    let Some(heir) = alive else { return };
    for child in tree.hand_children(id, task.tid(), heir) {
        tell_of_parent_death(tree, child, task);
    }
}

/// Children go to the nearest subreaper, else to init (prctl(2) PR_SET_CHILD_SUBREAPER, Linux `find_new_reaper`).
fn forget_children(tree: &mut Tree, id: NodeId, task: &Task, gone: &mut Reaped) {
    let children: Vec<NodeId> = tree.children(id).collect();
    // Who has none needs nobody to inherit them: the walk up to the reaper is long in a deep tree.
    if children.is_empty() {
        return;
    }
    let reaper = find_reaper(tree, id);
    let mut heir = 0;
    if reaper != NO_NODE {
        let alive = tree.node(reaper).threads.iter().find(|thread| !thread.has_flag(flags::EXITING));
        heir = alive.map_or(0, |thread| thread.tid());
    }
    for child in children {
        group::hang_up_if_orphaned(tree, child, id);
        tree.set_parent(child, reaper);
        tree.node_mut(child).parent_thread = heir;
        tell_of_parent_death(tree, child, task);
        // The new parent did not choose another signal (Linux reparent_leader).
        tree.node(child).group.exit_signal.store(s::SIGCHLD.cast_signed(), Ordering::Relaxed);
        let node = tree.node(child);
        // One that is traced is its tracer's first.
        let is_zombie = node.exit_state == ExitState::Zombie && !node.threads.iter().any(|t| t.ptrace.is_traced());
        if is_zombie && reaper != NO_NODE && tell_parent(tree, child) {
            gone.processes.push(reap(tree, child));
        }
    }
}

/// PR_SET_PDEATHSIG: sent as by the dying parent, to a child that it may signal.
fn tell_of_parent_death(tree: &Tree, child: NodeId, parent: &Task) {
    let node = tree.node(child);
    for thread in &node.threads {
        let wanted = thread.parent_death_signal.load(Ordering::Relaxed);
        if wanted != 0 && signal::send::permitted(parent, thread) {
            let number = parent.group.pid.number_in(thread.group.pid.namespace());
            let uid = thread.creds().user_ns.shown_uid(parent.creds().uid);
            let info = SigInfo::user(wanted, s::SI_USER, number, uid);
            // A full queue still records the fact.
            let _ = signal::send::process_with_tree(tree, &node.group, &info);
        }
    }
}

/// The process that adopts the children of `id`: the nearest subreaper among its ancestors in its PID namespace, else the
/// init of that.
fn find_reaper(tree: &Tree, id: NodeId) -> NodeId {
    let space = tree.node(id).group.pid.namespace();
    let mut ancestor = tree.node(id).parent;
    while ancestor != NO_NODE {
        let node = tree.node(ancestor);
        // Who came in by setns(2) has ancestors elsewhere.
        if !Arc::ptr_eq(node.group.pid.namespace(), space) {
            break;
        }
        if node.exit_state == ExitState::Alive && node.group.is_subreaper.load(Ordering::Relaxed) {
            return ancestor;
        }
        ancestor = node.parent;
    }
    space.init().and_then(|init| tree.find(&init)).filter(|init| *init != id).unwrap_or(NO_NODE)
}
