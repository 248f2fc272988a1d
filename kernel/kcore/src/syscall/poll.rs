//! poll(2), select(2), epoll(7), eventfd(2).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use abi::Errno;
use abi::poll::{
    EPOLL_CLOEXEC, EpollEvent, POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDBAND, POLLRDNORM,
    POLLWRBAND, POLLWRNORM, Pollfd,
};
use abi::resource::RLIMIT_NOFILE;
use abi::time::Timespec;

use super::{Context, UserPtr};
use crate::Result;
use crate::fs::File;
use crate::fs::eventfd;
use crate::fs::eventpoll::{self, EventPoll};
use crate::fs::fdtable::OnExec;
use crate::fs::poll::PollTable;
use crate::fs::signalfd::{self, SignalFd};
use crate::signal::{SigSet, with_temporary_mask};
use crate::sync::{Waiter, sleep_while};
use crate::task::{TaskState, current};
use crate::time::{monotonic_ns, timespec, timespec_ns};

/// Events that make a descriptor readable, writable or exceptional for select(2) (Linux `POLLIN_SET` and its kin).
const READ_SET: u32 = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR;
const WRITE_SET: u32 = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR;
const EXCEPT_SET: u32 = POLLPRI;

/// A timeout as a point of the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deadline {
    Never,
    Now,
    At(u64),
}

impl Deadline {
    fn after(timeout_ns: Option<u64>) -> Self {
        match timeout_ns {
            None => Deadline::Never,
            Some(0) => Deadline::Now,
            Some(ns) => Deadline::At(monotonic_ns().saturating_add(ns).min(i64::MAX.cast_unsigned())),
        }
    }

    fn from_user(pointer: UserPtr<Timespec>) -> Result<Self> {
        let timeout = pointer.non_null().map(|pointer| pointer.read()).transpose()?;
        Ok(Self::after(timeout.map(|timeout| timespec_ns(&timeout)).transpose()?))
    }

    /// Stores what is left of the timeout where it came from (`poll_select_finish`). A place that cannot be written is
    /// no error, but then the call cannot be restarted.
    fn finish(self, pointer: UserPtr<Timespec>, result: Result<usize>) -> Result<usize> {
        let Deadline::At(end) = self else { return result };
        let left = timespec(end.saturating_sub(monotonic_ns()));
        match (pointer.write(&left), result) {
            (Err(_), Err(Errno::ERESTARTNOHAND)) => Err(Errno::EINTR),
            (_, result) => result,
        }
    }
}

/// The mask argument of the p-variants; its size must be that of a mask.
fn read_mask(mask: UserPtr<u64>, size: usize) -> Result<Option<SigSet>> {
    let Some(mask) = mask.non_null() else { return Ok(None) };
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    mask.read().map(Some)
}

/// A descriptor that is waited for.
struct Watched {
    /// `None`: not open.
    file: Option<Arc<File>>,
    /// What is of interest.
    wanted: u32,
    /// What was found.
    found: u32,
}

impl Watched {
    fn look(&mut self, table: Option<&mut PollTable>) -> bool {
        self.found = match &self.file {
            None => POLLNVAL,
            Some(file) => file.poll(table) & (self.wanted | POLLERR | POLLHUP),
        };
        self.found != 0
    }
}

/// Waits until one of `watched` has something. Returns how many have; 0 when time is up (`do_poll`).
fn wait_for_any(watched: &mut [Watched], deadline: Deadline) -> Result<usize> {
    let look = |watched: &mut [Watched]| watched.iter_mut().map(|w| usize::from(w.look(None))).sum::<usize>();
    let ready = look(watched);
    if ready > 0 || deadline == Deadline::Now {
        return Ok(ready);
    }
    if current().signal_pending() {
        return Err(Errno::ERESTARTNOHAND);
    }
    let waiter = Waiter::for_current();
    let mut table = PollTable::registering(waiter.clone());
    let mut ready: usize = watched.iter_mut().map(|w| usize::from(w.look(Some(&mut table)))).sum();
    let end = if let Deadline::At(end) = deadline { end } else { u64::MAX };
    let mut outcome = Ok(());
    while ready == 0 && outcome.is_ok() {
        outcome = sleep_while(TaskState::Interruptible, end, || !waiter.is_triggered());
        waiter.take_triggered();
        ready = look(watched);
    }
    let mut table = PollTable::unregistering(waiter);
    for file in watched.iter().filter_map(|w| w.file.as_ref()) {
        file.poll(Some(&mut table));
    }
    match outcome {
        Err(error) if ready == 0 && error != Errno::ETIMEDOUT => Err(Errno::ERESTARTNOHAND),
        _ => Ok(ready),
    }
}

/// ppoll(2).
pub fn ppoll(
    cx: &mut Context<'_>,
    fds: UserPtr<Pollfd>,
    count: u32,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<u64>,
    size: usize,
) -> Result<usize> {
    let deadline = Deadline::from_user(timeout)?;
    let mask = read_mask(mask, size)?;
    let result = with_temporary_mask(mask, || poll(cx, fds, count, deadline));
    deadline.finish(timeout, result)
}

fn poll(cx: &Context<'_>, fds: UserPtr<Pollfd>, count: u32, deadline: Deadline) -> Result<usize> {
    if u64::from(count) > cx.task.rlimit(RLIMIT_NOFILE) {
        return Err(Errno::EINVAL);
    }
    let mut entries = fds.read_many(count as usize)?;
    let files = cx.files();
    let mut watched: Vec<Watched> = entries
        .iter()
        .filter(|entry| entry.fd >= 0)
        .map(|entry| Watched {
            file: files.get(entry.fd).ok(),
            wanted: u32::from(entry.events.cast_unsigned()),
            found: 0,
        })
        .collect();
    let result = wait_for_any(&mut watched, deadline);
    let mut found = watched.iter().map(|w| w.found);
    for entry in &mut entries {
        // A negative descriptor is skipped (poll(2)).
        let events = if entry.fd >= 0 { found.next().unwrap_or(0) } else { 0 };
        entry.revents = (events as u16).cast_signed();
    }
    for (index, entry) in entries.iter().enumerate() {
        fds.index(index).write(entry)?;
    }
    result
}

/// An `fd_set`, as much of it as the call names.
struct FdSet {
    address: UserPtr<u64>,
    words: Vec<u64>,
}

impl FdSet {
    fn read(address: UserPtr<u64>, count: usize) -> Result<Self> {
        let words = if address.is_null() { Vec::new() } else { address.read_many(count.div_ceil(64))? };
        Ok(Self { address, words })
    }

    fn has(&self, fd: usize) -> bool {
        self.words.get(fd / 64).is_some_and(|word| word & 1 << (fd % 64) != 0)
    }

    fn write(&self, fds: impl Iterator<Item = usize>) -> Result<()> {
        let mut words = vec![0; self.words.len()];
        for fd in fds {
            if let Some(word) = words.get_mut(fd / 64) {
                *word |= 1 << (fd % 64);
            }
        }
        self.address.write_many(&words)
    }
}

/// pselect6(2). The sixth argument points to a mask's address and size.
pub fn pselect6(
    cx: &mut Context<'_>,
    count: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<[u64; 2]>,
) -> Result<usize> {
    let mask = match mask.non_null() {
        Some(mask) => {
            let [address, size] = mask.read()?;
            read_mask(UserPtr::new(address), size as usize)?
        }
        None => None,
    };
    let deadline = Deadline::from_user(timeout)?;
    let result = with_temporary_mask(mask, || select(cx, count, [read, write, except], deadline));
    deadline.finish(timeout, result)
}

fn select(cx: &Context<'_>, count: i32, sets: [UserPtr<u64>; 3], deadline: Deadline) -> Result<usize> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    // Descriptors beyond the hard limit of any process cannot be open: their bits are not looked at.
    let count = count.min(1 << 20);
    let [read, write, except] = sets;
    let sets = [
        (FdSet::read(read, count)?, READ_SET),
        (FdSet::read(write, count)?, WRITE_SET),
        (FdSet::read(except, count)?, EXCEPT_SET),
    ];
    let files = cx.files();
    let mut fds = Vec::new();
    let mut watched = Vec::new();
    for fd in 0..count {
        let wanted = sets.iter().filter(|(set, _)| set.has(fd)).fold(0, |wanted, (_, events)| wanted | events);
        if wanted != 0 {
            let file = i32::try_from(fd).map_err(|_| Errno::EBADF).and_then(|fd| files.get(fd))?;
            fds.push(fd);
            watched.push(Watched { file: Some(file), wanted, found: 0 });
        }
    }
    wait_for_any(&mut watched, deadline)?;
    let mut total = 0;
    for (set, events) in &sets {
        let ready = fds.iter().zip(&watched).filter(|(fd, w)| set.has(**fd) && w.found & events != 0);
        let ready: Vec<usize> = ready.map(|(fd, _)| *fd).collect();
        total += ready.len();
        if !set.address.is_null() {
            set.write(ready.into_iter())?;
        }
    }
    Ok(total)
}

/// Gives an open file the lowest free descriptor.
fn add_file(cx: &Context<'_>, file: Arc<File>, on_exec: OnExec) -> Result<usize> {
    let fd = cx.files().add(file, 0, cx.task.rlimit(RLIMIT_NOFILE), on_exec)?;
    usize::try_from(fd).map_err(|_| Errno::EMFILE)
}

/// epoll_create1(2).
pub fn epoll_create1(cx: &mut Context<'_>, flags: u32) -> Result<usize> {
    if flags & !EPOLL_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    add_file(cx, eventpoll::new_file(cx.creds().uid), OnExec::from_flags(flags))
}

/// epoll_ctl(2).
pub fn epoll_ctl(
    cx: &mut Context<'_>,
    epfd: i32,
    operation: i32,
    fd: i32,
    event: UserPtr<EpollEvent>,
) -> Result<usize> {
    let event = if operation == abi::poll::EPOLL_CTL_DEL { EpollEvent::default() } else { event.read()? };
    let files = cx.files();
    let epoll_file = files.get(epfd)?;
    let target = files.get(fd)?;
    if !target.ops().can_poll(&target) {
        return Err(Errno::EPERM);
    }
    if Arc::ptr_eq(&epoll_file, &target) {
        return Err(Errno::EINVAL);
    }
    let epoll = epoll_file.ops_as::<EventPoll>().ok_or(Errno::EINVAL)?;
    epoll.control(operation, fd, &target, &event)?;
    Ok(0)
}

/// epoll_pwait(2), timeout in milliseconds, negative for ever.
pub fn epoll_pwait(
    cx: &mut Context<'_>,
    epfd: i32,
    events: UserPtr<EpollEvent>,
    limit: i32,
    timeout_ms: i32,
    mask: UserPtr<u64>,
    size: usize,
) -> Result<usize> {
    let timeout = u64::try_from(timeout_ms).ok().map(|ms| ms * 1_000_000);
    let mask = read_mask(mask, size)?;
    with_temporary_mask(mask, || epoll_wait(cx, epfd, events, limit, Deadline::after(timeout)))
}

/// epoll_pwait2(2), timeout as a timespec.
pub fn epoll_pwait2(
    cx: &mut Context<'_>,
    epfd: i32,
    events: UserPtr<EpollEvent>,
    limit: i32,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<u64>,
    size: usize,
) -> Result<usize> {
    let deadline = Deadline::from_user(timeout)?;
    let mask = read_mask(mask, size)?;
    with_temporary_mask(mask, || epoll_wait(cx, epfd, events, limit, deadline))
}

fn epoll_wait(
    cx: &Context<'_>,
    epfd: i32,
    events: UserPtr<EpollEvent>,
    limit: i32,
    deadline: Deadline,
) -> Result<usize> {
    const MOST: usize = i32::MAX as usize / size_of::<EpollEvent>();
    let limit = usize::try_from(limit).ok().filter(|limit| (1..=MOST).contains(limit)).ok_or(Errno::EINVAL)?;
    let file = cx.files().get(epfd)?;
    let epoll = file.ops_as::<EventPoll>().ok_or(Errno::EINVAL)?;
    let deadline_ns = match deadline {
        Deadline::Never => u64::MAX,
        Deadline::Now => 0,
        Deadline::At(end) => end,
    };
    epoll.wait(events, limit, deadline_ns)
}

/// eventfd2(2).
pub fn eventfd2(cx: &mut Context<'_>, initial: u32, flags: u32) -> Result<usize> {
    use abi::poll::{EFD_CLOEXEC, EFD_NONBLOCK, EFD_SEMAPHORE};
    if flags & !(EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    add_file(cx, eventfd::new_file(u64::from(initial), flags), OnExec::from_flags(flags))
}

/// signalfd4(2): a new descriptor for -1, else a new set for one that exists.
pub fn signalfd4(cx: &mut Context<'_>, fd: i32, set: UserPtr<u64>, size: usize, flags: u32) -> Result<usize> {
    use abi::notify::{SFD_CLOEXEC, SFD_NONBLOCK};
    if size != size_of::<SigSet>() || flags & !(SFD_CLOEXEC | SFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let set = set.read()? & !crate::signal::UNBLOCKABLE;
    if fd == -1 {
        return add_file(cx, signalfd::new_file(set, flags & SFD_NONBLOCK), OnExec::from_flags(flags));
    }
    let file = cx.files().get(fd)?;
    file.ops_as::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(set);
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}
