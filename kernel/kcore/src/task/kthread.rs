//! Kernel threads: tasks without user memory that run a kernel function. `kthreadd` (PID 2) is their parent, as in Linux;
//! they show up in `ps` in brackets and take no signals from users.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hal::thread::{Start, Thread};

use super::{Creds, Parts, Pid, Task, ThreadGroup, comm_from, flags, limits, tree};
use crate::Result;
use crate::ns::NsSet;
use crate::sched;

/// Creates a kernel thread that runs `entry(argument)`, which never returns, and starts it. `cpu` pins it.
pub fn spawn(name: &str, cpu: Option<usize>, nice: i32, entry: fn(usize), argument: usize) -> Result<Arc<Task>> {
    let task = create(name, cpu, nice, Start::Kernel { entry, argument })?;
    sched::start(&task);
    Ok(task)
}

/// As [`spawn`], not started. The first two become init (PID 1), which starts with empty user registers until it has called
/// exec, and kthreadd (PID 2).
pub(crate) fn create(name: &str, cpu: Option<usize>, nice: i32, start: Start) -> Result<Arc<Task>> {
    let thread = Thread::new(start).map_err(|_| abi::Errno::ENOMEM)?;
    let namespaces = crate::ns::initial();
    let pid = Pid::allocate(namespaces.pid())?;
    let allowed = cpu.map_or(u32::MAX, |cpu| 1 << cpu);
    let extra = if cpu.is_some() { flags::NO_SETAFFINITY } else { 0 };
    let task = assemble(thread, pid.clone(), namespaces, name, flags::KTHREAD | extra, nice, allowed);
    limits::recharge_thread(u32::MAX, 0);
    let mut tree = tree::lock();
    task.group.live.store(1, Ordering::SeqCst);
    pid.attach_new(&task);
    let kthreadd = crate::ns::initial_pid_namespace().find(2).and_then(|pid| pid.task());
    let parent = kthreadd.and_then(|task| tree.find(&task.group)).unwrap_or(tree::NO_NODE);
    let none = crate::ns::no_pid();
    tree.add_process(&task, parent, none.clone(), none);
    drop(tree);
    Ok(task)
}

/// The idle task of this CPU: the boot flow, PID 0, in no table.
pub(crate) fn idle(cpu: usize) -> Arc<Task> {
    let namespaces = crate::ns::initial();
    let name = alloc::format!("swapper/{cpu}");
    assemble(Thread::for_boot_flow(), crate::ns::no_pid(), namespaces, &name, flags::KTHREAD, 0, 1 << cpu)
}

fn assemble(
    thread: Thread,
    pid: Arc<Pid>,
    namespaces: Arc<NsSet>,
    name: &str,
    flags: u32,
    nice: i32,
    allowed: u32,
) -> Arc<Task> {
    let group = ThreadGroup::new(pid.clone(), limits::initial(super::clone::MAX_THREADS.load(Ordering::Relaxed)), 0);
    Task::assemble(Parts {
        thread,
        pid,
        group,
        flags,
        handlers: super::clone::default_handlers(),
        mm: None,
        files: None,
        fs: None,
        creds: Arc::new(Creds::root()),
        namespaces,
        comm: comm_from(name.as_bytes()),
        sched: sched::Entity::new(nice, allowed),
        blocked: u64::MAX,
    })
}
