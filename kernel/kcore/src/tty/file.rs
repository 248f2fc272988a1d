//! Open files of a terminal: read(2), write(2), poll(2) in the slave or master role.

use alloc::sync::Arc;

use abi::Errno;
use abi::fcntl::O_NOCTTY;
use abi::poll::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use abi::resource::RLIMIT_NOFILE;
use abi::tty::TOSTOP;

use super::pty::PtyTable;
use super::{CHUNK, Tty, WAKE_ROOM, job, pty};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::file::{File, FileMode, FileOps, OffsetRule, OpsRef};
use crate::fs::poll::{PollTable, watch_all};
use crate::io::{IoDst, IoSrc};
use crate::task::TaskState;

/// What the file is to its terminal.
enum Role {
    /// The terminal itself.
    Terminal,
    /// The terminal under the name `/dev/console`: it survives hang-ups and knows no job control for reads and writes
    /// (Linux `redirected_tty_write`).
    Console,
    /// The master of a pseudo-terminal.
    Master(Arc<PtyTable>),
}

/// An open file of a terminal.
pub struct OpenTty {
    tty: Arc<Tty>,
    role: Role,
    generation: u32,
}

/// How a terminal is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenMode {
    /// The file may be read.
    pub readable: bool,
    /// O_NOCTTY: it does not become the controlling terminal.
    pub no_control: bool,
}

impl OpenTty {
    /// Opens a terminal. `EBUSY` if it is exclusive, `EIO` for a pseudo-terminal that is locked or without master.
    pub fn open(tty: &Arc<Tty>, mode: OpenMode) -> Result<Self> {
        let admin = crate::task::current().capable(abi::capability::CAP_SYS_ADMIN);
        if tty.state.lock().exclusive && !admin {
            return Err(Errno::EBUSY);
        }
        pty::slave_opens(tty)?;
        if !mode.no_control && mode.readable {
            job::opened_by_leader(tty);
        }
        Ok(Self { tty: tty.clone(), role: Role::Terminal, generation: tty.generation() })
    }

    /// Opens `/dev/console`: `ENODEV` without a console. It never becomes the controlling terminal.
    pub fn open_console() -> Result<Self> {
        let tty = super::console().ok_or(Errno::ENODEV)?;
        Ok(Self { generation: tty.generation(), tty, role: Role::Console })
    }

    /// Opens `/dev/tty`: `ENXIO` without a controlling terminal.
    pub fn open_current() -> Result<Self> {
        let tty = job::current_tty().ok_or(Errno::ENXIO)?;
        Self::open(&tty, OpenMode { readable: true, no_control: true })
    }

    pub(super) fn master(tty: Arc<Tty>, table: Arc<PtyTable>) -> Self {
        Self { generation: tty.generation(), tty, role: Role::Master(table) }
    }

    /// TIOCGPTPEER: opens the slave of this master without a path. `flags` are open(2)'s.
    fn install_peer(&self, master: &File, flags: u64) -> Result<usize> {
        let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
        let peer = Self::open(&self.tty, OpenMode { readable: true, no_control: flags & O_NOCTTY != 0 })?;
        let file = crate::fs::devpts::slave_file(&master.path, &self.tty, OpsRef::Shared(Arc::new(peer)), flags)?;
        let task = crate::task::current();
        let fd = task.files().add(file, 0, task.rlimit(RLIMIT_NOFILE), OnExec::from_flags(flags))?;
        usize::try_from(fd).map_err(|_| Errno::EMFILE)
    }

    /// The terminal. For a master, its slave's.
    pub fn tty(&self) -> &Tty {
        &self.tty
    }

    /// Whether it is the master of a pseudo-terminal.
    pub fn is_master(&self) -> bool {
        matches!(self.role, Role::Master(_))
    }

    /// Whether the line was hung up since the file was opened.
    pub fn is_hung_up(&self) -> bool {
        matches!(self.role, Role::Terminal) && self.tty.generation() != self.generation
    }

    /// read(2).
    pub fn read_to(&self, dst: &mut IoDst<'_>, nonblocking: bool) -> Result<usize> {
        if self.is_master() {
            return pty::master_read(&self.tty, dst, nonblocking);
        }
        if self.is_hung_up() || dst.remaining() == 0 {
            return Ok(0);
        }
        if matches!(self.role, Role::Terminal) {
            job::check_read(&self.tty)?;
        }
        let result = self.read_input(dst, nonblocking);
        self.tty.resume_input();
        result
    }

    /// The four cases of VMIN and VTIME, and canonical mode (`n_tty_read`).
    fn read_input(&self, dst: &mut IoDst<'_>, nonblocking: bool) -> Result<usize> {
        const TENTH_NS: u64 = 100_000_000;
        let (canonical, vmin, vtime) = {
            let state = self.tty.state.lock();
            let (minimum, time) = state.ldisc.minimum_and_time();
            (state.ldisc.is_canonical(), minimum, time)
        };
        // The time of a read without VMIN runs from its beginning, with VMIN from the byte before.
        let (minimum, between_ns, mut deadline_ns) = match (canonical, vmin, vtime) {
            (true, ..) => (1, 0, u64::MAX),
            (_, 0, time) => (1, 0, crate::time::monotonic_ns() + time * TENTH_NS),
            (_, minimum, time) => (minimum, time * TENTH_NS, u64::MAX),
        };
        let never_waits = !canonical && vmin == 0 && vtime == 0;
        let mut done = 0;
        loop {
            let (stored, line_ended) = self.take_input(dst)?;
            done += stored;
            if line_ended || done >= minimum || dst.remaining() == 0 {
                return Ok(done);
            }
            if stored > 0 && between_ns > 0 {
                deadline_ns = crate::time::monotonic_ns() + between_ns;
            }
            let outcome = if self.tty.is_master_closed() {
                Err(Errno::EIO)
            } else if self.is_hung_up() || never_waits {
                return Ok(done);
            } else if nonblocking {
                Err(Errno::EAGAIN)
            } else {
                self.tty.readable.wait_event_until(TaskState::Interruptible, deadline_ns, || {
                    self.is_hung_up() || self.tty.state.lock().ldisc.is_readable()
                })
            };
            match outcome {
                Ok(()) => {}
                Err(Errno::ETIMEDOUT) => return Ok(done),
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves what is there to `dst`. Returns the bytes and whether a line or file end stops the read.
    fn take_input(&self, dst: &mut IoDst<'_>) -> Result<(usize, bool)> {
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while dst.remaining() > 0 {
            let limit = dst.remaining().min(CHUNK);
            let Some(piece) = self.tty.state.lock().ldisc.read(&mut chunk[..limit]) else { break };
            done += dst.put(&chunk[..piece.length])?;
            if piece.ends_read {
                return Ok((done, true));
            }
        }
        Ok((done, false))
    }

    /// write(2).
    pub fn write_from(&self, src: &mut IoSrc<'_>, nonblocking: bool) -> Result<usize> {
        if self.is_master() {
            return pty::master_write(&self.tty, src, nonblocking);
        }
        if self.is_hung_up() {
            return Err(Errno::EIO);
        }
        let stops_background = self.tty.state.lock().ldisc.termios().c_lflag & TOSTOP != 0;
        if stops_background && matches!(self.role, Role::Terminal) {
            job::check_change(&self.tty)?;
        }
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while src.remaining() > 0 {
            let length = src.take(&mut chunk)?;
            let mut given = 0;
            while given < length {
                let taken = self.tty.state.lock().ldisc.write(&chunk[given..length]);
                given += taken;
                done += taken;
                if taken > 0 {
                    self.tty.push_output();
                    continue;
                }
                if let Err(error) = self.wait_for_room(nonblocking) {
                    return if done > 0 { Ok(done) } else { Err(error) };
                }
            }
        }
        Ok(done)
    }

    fn wait_for_room(&self, nonblocking: bool) -> Result<()> {
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        self.tty.writable.wait_event(TaskState::Interruptible, || {
            self.is_hung_up() || self.tty.state.lock().ldisc.write_room() > 0
        })?;
        if self.is_hung_up() || self.tty.is_master_closed() { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Waits until everything written was sent: tcdrain(3).
    pub(super) fn drain(&self) -> Result<()> {
        self.tty.writable.wait_event(TaskState::Interruptible, || {
            self.is_hung_up() || self.tty.is_master_closed() || self.tty.state.lock().ldisc.output_waiting() == 0
        })
    }

    /// What poll(2) finds.
    pub fn events(&self) -> u32 {
        if self.is_master() {
            return pty::master_events(&self.tty);
        }
        if self.is_hung_up() {
            return POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | POLLWRNORM;
        }
        let state = self.tty.state.lock();
        let mut events = 0;
        if state.ldisc.is_readable_for_poll() {
            events |= POLLIN | POLLRDNORM;
        }
        if state.ldisc.write_room() >= WAKE_ROOM && !state.ldisc.is_stopped() {
            events |= POLLOUT | POLLWRNORM;
        }
        if self.tty.is_master_closed() {
            events |= POLLHUP;
        }
        events
    }

    /// The queues that are woken when [`OpenTty::events`] may have changed.
    pub fn queues(&self) -> [&crate::sync::WaitQueue; 2] {
        match (&self.role, self.tty.pty()) {
            (Role::Master(_), Some((_, master))) => [&master.readable, &master.writable],
            _ => [&self.tty.readable, &self.tty.writable],
        }
    }
}

impl FileOps for OpenTty {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        self.read_to(dst, file.is_nonblocking())
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        self.write_from(src, file.is_nonblocking())
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &self.queues());
        self.events()
    }

    fn ioctl(&self, file: &File, command: u32, argument: u64) -> Result<usize> {
        if command == abi::tty::TIOCGPTPEER && self.is_master() {
            return self.install_peer(file, argument);
        }
        self.request(command, argument, file.mode().contains(FileMode::READ))
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        let state = self.tty.state.lock();
        Ok(if self.is_master() { state.ldisc.output_waiting() } else { state.ldisc.readable_bytes() })
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }
}

impl Drop for OpenTty {
    fn drop(&mut self) {
        match &self.role {
            Role::Terminal => pty::slave_closes(&self.tty),
            Role::Console => {}
            Role::Master(table) => pty::master_closes(&self.tty, table),
        }
    }
}
