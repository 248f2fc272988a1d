//! seccomp's user notification (seccomp_unotify(2)): a filter's SECCOMP_RET_USER_NOTIF asks a supervisor, who holds the listener
//! descriptor, what becomes of a call.
//!
//! The filter and the descriptor share a [`Listener`]. A call that asks becomes a [`Request`] in its list; the caller sleeps
//! until the request is answered, does on the way what the supervisor wants done in the caller's own place (put a
//! descriptor into its table), and takes the request out. When the descriptor is closed everybody waiting, and
//! everybody who asks later, gets `ENOSYS`; when the last task of the filter is gone the descriptor hangs up.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::fcntl::{O_CLOEXEC, O_RDWR};
use abi::poll::{POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use abi::process::{self as p, SeccompData, SeccompNotif, SeccompNotifAddfd, SeccompNotifResp};
use abi::resource::RLIMIT_NOFILE;
use hal::sync::SpinLock;

use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::file::{File, FileOps, OffsetRule};
use crate::fs::libfs::shared;
use crate::fs::poll::{PollTable, watch_all};
use crate::fs::pseudo;
use crate::sync::{WaitQueue, order};
use crate::syscall::UserPtr;
use crate::task::{Pid, Task, TaskState, current};

/// How far a request has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nobody has received it.
    Init,
    /// The supervisor has it.
    Sent,
    /// It is answered.
    Replied(Answer),
}

/// What the supervisor says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The call returns this.
    Return(i64),
    /// SECCOMP_USER_NOTIF_FLAG_CONTINUE: it runs as if it had not been asked about.
    Continue,
}

/// A call that waits for its answer.
struct Request {
    id: u64,
    pid: Arc<Pid>,
    data: SeccompData,
    progress: Progress,
    /// Descriptors that the caller is to put into its table, oldest first.
    additions: Vec<Arc<Addition>>,
}

/// SECCOMP_IOCTL_NOTIF_ADDFD on its way.
struct Addition {
    file: Arc<File>,
    /// SECCOMP_ADDFD_FLAG_SETFD: this number; any free one otherwise.
    number: Option<i32>,
    on_exec: OnExec,
    /// SECCOMP_ADDFD_FLAG_SEND: the number is the answer.
    answers: bool,
    outcome: SpinLock<Option<Result<i32>>>,
}

struct Requests {
    list: Vec<Request>,
    next_id: u64,
    /// The descriptor is closed.
    closed: bool,
    /// No task has the filter any more.
    deserted: bool,
}

/// What a filter and its descriptor share.
pub struct Listener {
    requests: SpinLock<Requests>,
    /// Woken by each change: a request comes, is received, answered, or something is added.
    changed: WaitQueue,
    /// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: what the supervisor has received is not broken off by a signal.
    wait_killable: bool,
}

/// What the caller is to do.
pub(super) enum Outcome {
    /// Run the call.
    Continue,
    /// Return this.
    Return(i64),
}

impl Listener {
    /// One without a descriptor yet.
    pub fn new(wait_killable: bool) -> Arc<Self> {
        let requests =
            Requests { list: Vec::new(), next_id: crate::random::u64() >> 1, closed: false, deserted: false };
        Arc::new(Self { requests: SpinLock::new(order::CHANNEL, requests), changed: WaitQueue::new(), wait_killable })
    }

    /// The descriptor's file.
    pub fn file(self: &Arc<Self>) -> Arc<File> {
        pseudo::anon_file("seccomp notify", shared(ListenerFile(self.clone())), O_RDWR)
    }

    /// The filter has no user any more.
    pub(super) fn desert(&self) {
        self.requests.lock().deserted = true;
        self.changed.wake_all_for(POLLHUP);
    }

    /// Asks about the current task's call and waits for the answer (Linux `seccomp_do_user_notification`).
    pub(super) fn ask(&self, task: &Task, data: SeccompData) -> Outcome {
        let Some(id) = self.post(task, data) else { return error(Errno::ENOSYS) };
        loop {
            let killable = self.is_uninterrupted(id);
            let state = if killable { TaskState::Killable } else { TaskState::Interruptible };
            let waited = self.changed.wait_event(state, || self.has_news(id, killable));
            if waited.is_err() && (killable || !self.is_uninterrupted(id)) {
                drop(self.withdraw(id));
                return error(Errno::ERESTARTSYS);
            }
            while let Some(addition) = self.next_addition(id) {
                self.carry_out(task, id, &addition);
            }
            if let Some(answer) = self.answer(id) {
                drop(self.withdraw(id));
                return match answer {
                    Answer::Continue => Outcome::Continue,
                    Answer::Return(value) => Outcome::Return(value),
                };
            }
        }
    }

    /// `None`: nobody listens.
    fn post(&self, task: &Task, data: SeccompData) -> Option<u64> {
        let pid = task.pid();
        let mut requests = self.requests.lock();
        if requests.closed {
            return None;
        }
        let id = requests.next_id;
        requests.next_id += 1;
        requests.list.push(Request { id, pid, data, progress: Progress::Init, additions: Vec::new() });
        drop(requests);
        self.changed.wake_all_for(POLLIN);
        Some(id)
    }

    /// Calls `f` with a request. `ENOENT`: there is none with this number.
    fn with<R>(&self, id: u64, f: impl FnOnce(&mut Request) -> R) -> Result<R> {
        let mut requests = self.requests.lock();
        requests.list.iter_mut().find(|request| request.id == id).map(f).ok_or(Errno::ENOENT)
    }

    /// The same for what only a received, unanswered request may meet (`EINPROGRESS`).
    fn with_received<R>(&self, id: u64, f: impl FnOnce(&mut Request) -> Result<R>) -> Result<R> {
        self.with(id, |request| if request.progress == Progress::Sent { f(request) } else { Err(Errno::EINPROGRESS) })?
    }

    /// Whether only a fatal signal ends the wait by now (Linux `should_sleep_killable`).
    fn is_uninterrupted(&self, id: u64) -> bool {
        self.wait_killable && self.with(id, |request| request.progress == Progress::Sent) == Ok(true)
    }

    fn has_news(&self, id: u64, killable: bool) -> bool {
        let news = self.with(id, |request| {
            let is_answered = matches!(request.progress, Progress::Replied(_));
            // The wait is to be a killable one from here on.
            let changes_state = self.wait_killable && !killable && request.progress == Progress::Sent;
            is_answered || changes_state || !request.additions.is_empty()
        });
        news.unwrap_or(true)
    }

    fn answer(&self, id: u64) -> Option<Answer> {
        self.with(id, |request| match request.progress {
            Progress::Replied(answer) => Some(answer),
            _ => None,
        })
        .ok()?
    }

    fn next_addition(&self, id: u64) -> Option<Arc<Addition>> {
        self.with(id, |request| (!request.additions.is_empty()).then(|| request.additions.remove(0))).ok()?
    }

    /// Takes a request out; who waits for its additions gets `ESRCH`. What is returned is dropped without the lock.
    fn withdraw(&self, id: u64) -> Option<Request> {
        let mut requests = self.requests.lock();
        let at = requests.list.iter().position(|request| request.id == id)?;
        let gone = requests.list.remove(at);
        drop(requests);
        for addition in &gone.additions {
            *addition.outcome.lock() = Some(Err(Errno::ESRCH));
        }
        self.changed.wake_all();
        Some(gone)
    }

    /// Puts a descriptor into the caller's own table (Linux `seccomp_handle_addfd`).
    fn carry_out(&self, task: &Task, id: u64, addition: &Addition) {
        let (files, limit) = (task.files(), task.rlimit(RLIMIT_NOFILE));
        let outcome = match addition.number {
            Some(number) => files.replace(number, addition.file.clone(), limit, addition.on_exec).map(|()| number),
            None => files.add(addition.file.clone(), 0, limit, addition.on_exec),
        };
        if addition.answers {
            // A failure is the supervisor's to handle: the request is as it was.
            let progress = match outcome {
                Ok(number) => Progress::Replied(Answer::Return(number.into())),
                Err(_) => Progress::Sent,
            };
            let _ = self.with(id, |request| request.progress = progress);
        }
        *addition.outcome.lock() = Some(outcome);
        self.changed.wake_all();
    }

    /// SECCOMP_IOCTL_NOTIF_RECV.
    fn receive(&self, notification: UserPtr<SeccompNotif>) -> Result<()> {
        // Fields that a later kernel reads must not be garbage (seccomp_unotify(2)).
        if notification.read()? != SeccompNotif::default() {
            return Err(Errno::EINVAL);
        }
        let is_new = |request: &Request| request.progress == Progress::Init;
        self.changed
            .wait_event(TaskState::Interruptible, || self.requests.lock().list.iter().any(is_new))
            .map_err(|_| Errno::EINTR)?;
        let (id, pid, data) = {
            let mut requests = self.requests.lock();
            let request = requests.list.iter_mut().find(|request| is_new(request)).ok_or(Errno::ENOENT)?;
            request.progress = Progress::Sent;
            (request.id, request.pid.clone(), request.data)
        };
        self.changed.wake_all_for(POLLOUT);
        let number = pid.number_in(current().namespaces().pid());
        let written = notification.write(&SeccompNotif { id, pid: number.unsigned_abs(), flags: 0, data });
        if written.is_err() {
            // As if it had not been received.
            let _ = self.with(id, |request| request.progress = Progress::Init);
            self.changed.wake_all_for(POLLIN);
        }
        written
    }

    /// SECCOMP_IOCTL_NOTIF_SEND.
    fn send(&self, response: &SeccompNotifResp) -> Result<()> {
        let answer = match response.flags {
            0 => Answer::Return(if response.error != 0 { response.error.into() } else { response.val }),
            p::SECCOMP_USER_NOTIF_FLAG_CONTINUE if response.error == 0 && response.val == 0 => Answer::Continue,
            _ => return Err(Errno::EINVAL),
        };
        self.with_received(response.id, |request| {
            request.progress = Progress::Replied(answer);
            Ok(())
        })?;
        self.changed.wake_all();
        Ok(())
    }

    /// SECCOMP_IOCTL_NOTIF_ID_VALID: whether the caller still waits for this answer.
    fn check(&self, id: u64) -> Result<()> {
        match self.with(id, |request| request.progress == Progress::Sent)? {
            true => Ok(()),
            false => Err(Errno::ENOENT),
        }
    }

    /// SECCOMP_IOCTL_NOTIF_ADDFD: returns the number that the descriptor has in the caller's table.
    fn add_descriptor(&self, request: &SeccompNotifAddfd) -> Result<i32> {
        const KNOWN: u32 = p::SECCOMP_ADDFD_FLAG_SETFD | p::SECCOMP_ADDFD_FLAG_SEND;
        if request.newfd_flags & !O_CLOEXEC != 0 || request.flags & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        let chosen = request.flags & p::SECCOMP_ADDFD_FLAG_SETFD != 0;
        if request.newfd != 0 && !chosen {
            return Err(Errno::EINVAL);
        }
        let addition = Arc::new(Addition {
            file: current().files().get_any(request.srcfd.cast_signed())?,
            number: chosen.then_some(request.newfd.cast_signed()),
            on_exec: if request.newfd_flags & O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep },
            answers: request.flags & p::SECCOMP_ADDFD_FLAG_SEND != 0,
            outcome: SpinLock::new(order::TASK_FIELDS, None),
        });
        self.with_received(request.id, |waiting| {
            // Whose answer would it be?
            if addition.answers && !waiting.additions.is_empty() {
                return Err(Errno::EBUSY);
            }
            waiting.additions.push(addition.clone());
            Ok(())
        })?;
        self.changed.wake_all();
        let is_done = || addition.outcome.lock().is_some();
        if self.changed.wait_event(TaskState::Interruptible, is_done).is_err() {
            let is_it = |other: &Arc<Addition>| Arc::ptr_eq(other, &addition);
            let at = self.with(request.id, |waiting| {
                let at = waiting.additions.iter().position(is_it)?;
                Some(waiting.additions.remove(at))
            });
            if let Ok(Some(_)) = at {
                // Broken off before the caller came to it.
                return Err(Errno::ERESTARTSYS);
            }
            self.changed.wait_event(TaskState::Killable, is_done)?;
        }
        let outcome = *addition.outcome.lock();
        outcome.unwrap_or(Err(Errno::ESRCH))
    }

    /// The descriptor is closed: nobody will answer.
    fn close(&self) {
        let mut requests = self.requests.lock();
        requests.closed = true;
        for request in &mut requests.list {
            if !matches!(request.progress, Progress::Replied(_)) {
                request.progress = Progress::Replied(Answer::Return(-i64::from(Errno::ENOSYS.number())));
            }
        }
        drop(requests);
        self.changed.wake_all();
    }
}

fn error(error: Errno) -> Outcome {
    Outcome::Return(-i64::from(error.number()))
}

/// The descriptor.
struct ListenerFile(Arc<Listener>);

impl Drop for ListenerFile {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl FileOps for ListenerFile {
    fn ioctl(&self, _file: &File, command: u32, argument: u64) -> Result<usize> {
        let listener = &self.0;
        match command {
            p::SECCOMP_IOCTL_NOTIF_RECV => listener.receive(UserPtr::new(argument))?,
            p::SECCOMP_IOCTL_NOTIF_SEND => listener.send(&UserPtr::new(argument).read()?)?,
            p::SECCOMP_IOCTL_NOTIF_ID_VALID | p::SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR => {
                listener.check(UserPtr::new(argument).read()?)?;
            }
            p::SECCOMP_IOCTL_NOTIF_ADDFD => {
                let number = listener.add_descriptor(&UserPtr::new(argument).read()?)?;
                return usize::try_from(number).map_err(|_| Errno::EBADF);
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &[&self.0.changed]);
        let requests = self.0.requests.lock();
        let has = |progress: Progress| requests.list.iter().any(|request| request.progress == progress);
        let readable = if has(Progress::Init) { POLLIN | POLLRDNORM } else { 0 };
        let writable = if has(Progress::Sent) { POLLOUT | POLLWRNORM } else { 0 };
        readable | writable | if requests.deserted { POLLHUP } else { 0 }
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }
}
