//! User programs that the kernel itself starts (Linux `call_usermodehelper`): the handler of core dumps.
//!
//! A helper is root's, in the initial namespaces, a child of kthreadd, which waits for nobody. It begins as a kernel task
//! that calls the same `exec` as everybody.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::fcntl::AT_FDCWD;
use abi::resource::{RLIMIT_CORE, Rlimit};
use hal::sync::SpinLock;
use hal::thread::Start;
use hal::trap::UserFrame;

use super::exec::{self, Request};
use super::{TaskState, current, exit, kthread};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::{self, File, Files, FsContext};
use crate::mm::load::{Arguments, NameKind};
use crate::sched;
use crate::sync::{Completion, order};

/// A program that is to be started, and how that went.
struct Job {
    argv: Vec<Vec<u8>>,
    input: SpinLock<Option<Arc<File>>>,
    outcome: SpinLock<Result<()>>,
    started: Completion,
}

hal::global! {
    /// Helpers that have not begun, by TID.
    static JOBS: SpinLock<BTreeMap<i32, Arc<Job>>> = SpinLock::new(order::TASK_FIELDS, BTreeMap::new());
}

/// Starts `argv[0]` with `input` as its standard input and nothing else open. Returns when the program runs, or why it
/// does not (Linux UMH_WAIT_EXEC).
pub fn run(argv: Vec<Vec<u8>>, input: Arc<File>) -> Result<()> {
    let job = Arc::new(Job {
        argv,
        input: SpinLock::new(order::FILES, Some(input)),
        outcome: SpinLock::new(order::TASK_FIELDS, Ok(())),
        started: Completion::new(),
    });
    let task = kthread::create_with("kworker/u:0", Start::User(UserFrame::new(0, 0)))?;
    // A handler that crashes is not handled: core(5) gives it a limit that stands for "no pipe".
    task.group.limits.lock()[RLIMIT_CORE as usize] = Rlimit { rlim_cur: 1, rlim_max: 1 };
    JOBS.lock().insert(task.tid(), job.clone());
    sched::start(&task);
    drop(task);
    job.started.wait(TaskState::Uninterruptible)?;
    *job.outcome.lock()
}

/// Whether the current kernel task is a helper that has not begun.
pub(crate) fn is_waiting(tid: i32) -> bool {
    JOBS.lock().contains_key(&tid)
}

/// The helper's first steps, in its own context: becomes the program. Ends the task if that fails.
pub(crate) fn begin() {
    let task = current();
    let Some(job) = JOBS.lock().remove(&task.tid()) else { return };
    drop(task.replace_files(Some(Files::new())));
    drop(task.replace_fs(Some(FsContext::initial())));
    crate::signal::set_blocked(0);
    let outcome = become_program(&job);
    *job.outcome.lock() = outcome;
    job.started.complete();
    drop(job);
    if outcome.is_err() {
        exit::exit_current(127 << 8);
    }
}

fn become_program(job: &Job) -> Result<()> {
    let task = current();
    let input = job.input.lock().take().ok_or(Errno::EBADF)?;
    task.files().add(input, 0, 1024, OnExec::Keep)?;
    let path = job.argv.first().ok_or(Errno::ENOENT)?;
    let file = fs::open_exec(AT_FDCWD, path, 0)?;
    let arguments = Arguments::Kernel { argv: job.argv.clone(), envp: Vec::new() };
    let mut registers = task.thread.user_frame();
    exec::exec(Request { file, name: path.clone(), name_kind: NameKind::Lasting, arguments }, &mut registers)?;
    task.thread.set_user_frame(&registers);
    Ok(())
}
