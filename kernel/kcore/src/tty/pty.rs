//! Pseudo-terminals: pty(7), pts(4), ptmx(4).
//!
//! The slave is an ordinary [`Tty`]; its "device" is the master file. What the line discipline sends is read from the
//! master, what is written to the master is what the line discipline receives. A [`PtyTable`] is the set of
//! pseudo-terminals of one devpts mount.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::Errno;
use abi::poll::{POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDNORM, POLLWRNORM};
use abi::tty as t;
use abi::tty::Termios;
use hal::sync::SpinLock;

use super::{CHUNK, Device, OpenTty, Tty, job};
use crate::Result;
use crate::fs::inode::Inode;
use crate::io::{IoDst, IoSrc};
use crate::sync::{WaitQueue, order};
use crate::task::TaskState;

/// Major number of the slaves (UNIX98_PTY_SLAVE_MAJOR).
pub const SLAVE_MAJOR: u32 = 136;
/// Most pseudo-terminals of all tables together (`/proc/sys/kernel/pty/max`).
pub const MAX_PTYS: u32 = 4096;
/// How many of them are kept for the mounts of the initial namespace (`/proc/sys/kernel/pty/reserve`).
pub const RESERVED_PTYS: u32 = 1024;
/// The largest number a table can be set to (`NR_UNIX98_PTY_MAX`).
pub const LARGEST_TABLE: u32 = 1 << 20;

/// The master's view of a pseudo-terminal.
pub(crate) struct MasterSide {
    pub readable: WaitQueue,
    pub writable: WaitQueue,
    /// TIOCSPTLCK: the slave cannot be opened.
    pub locked: AtomicBool,
    closed: AtomicBool,
    /// The slave was opened, and every such file is closed: reads end with `EIO`.
    slave_gone: AtomicBool,
    /// TIOCPKT: each read of the master begins with a byte that says what follows.
    pub packet: AtomicBool,
    /// TIOCPKT_* that the next read tells.
    status: AtomicU32,
}

/// A slave as a directory entry.
#[derive(Clone)]
pub struct Slave {
    /// Its number, which is its name.
    pub number: u32,
    /// The user and group that opened the master.
    pub owner: (u32, u32),
    /// The terminal.
    pub tty: Arc<Tty>,
    /// Its device node, made at the first look: chmod and chown last as long as the terminal.
    node: Arc<spin::Once<Arc<Inode>>>,
}

impl Slave {
    /// The device node, made by `make` the first time.
    pub fn node(&self, make: impl FnOnce() -> Arc<Inode>) -> Arc<Inode> {
        self.node.call_once(make).clone()
    }
}

/// The pseudo-terminals of one devpts instance.
pub struct PtyTable {
    slaves: SpinLock<BTreeMap<u32, Slave>>,
    limit: AtomicU32,
}

hal::global! {
    static COUNT: AtomicU32 = AtomicU32::new(0);
}

/// How many pseudo-terminals there are (`/proc/sys/kernel/pty/nr`).
pub fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}

impl PtyTable {
    /// The table of a new devpts instance.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { slaves: SpinLock::new(order::CHANNEL, BTreeMap::new()), limit: AtomicU32::new(LARGEST_TABLE) })
    }

    /// The mount option `max`: numbers below it are given.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// What [`PtyTable::set_limit`] has set.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Opens a new pseudo-terminal's master. `ENOSPC` when there are too many.
    pub fn open_master(self: &Arc<Self>, owner: (u32, u32)) -> Result<OpenTty> {
        let mut slaves = self.slaves.lock();
        let number = (0..self.limit()).find(|number| !slaves.contains_key(number)).ok_or(Errno::ENOSPC)?;
        if COUNT.fetch_add(1, Ordering::Relaxed) >= MAX_PTYS {
            COUNT.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        let master = MasterSide {
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
            locked: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            slave_gone: AtomicBool::new(false),
            packet: AtomicBool::new(false),
            status: AtomicU32::new(0),
        };
        let device = Device::Pty { number, master };
        let tty = Tty::new(format!("pts/{number}"), (SLAVE_MAJOR, number), device, Termios::STANDARD);
        slaves.insert(number, Slave { number, owner, tty: tty.clone(), node: Arc::default() });
        drop(slaves);
        Ok(OpenTty::master(tty, self.clone()))
    }

    /// The slave `number`.
    pub fn find(&self, number: u32) -> Option<Slave> {
        self.slaves.lock().get(&number).cloned()
    }

    /// All slaves in order.
    pub fn list(&self) -> Vec<Slave> {
        self.slaves.lock().values().cloned().collect()
    }

    fn remove(&self, number: u32) {
        let gone = self.slaves.lock().remove(&number);
        COUNT.fetch_sub(1, Ordering::Relaxed);
        drop(gone);
    }
}

impl Tty {
    /// The side of the master; only files with the master role call it.
    fn master(&self) -> &MasterSide {
        let Some((_, master)) = self.pty() else { unreachable!("only a pseudo-terminal has a master file") };
        master
    }

    /// Whether the master is closed: nothing comes any more.
    pub(crate) fn is_master_closed(&self) -> bool {
        self.pty().is_some_and(|(_, master)| master.closed.load(Ordering::Acquire))
    }
}

impl MasterSide {
    /// TIOCPKT (ioctl_tty(2)): switching it on forgets what happened before.
    pub fn set_packet(&self, on: bool) {
        if on && !self.packet.load(Ordering::Acquire) {
            self.status.store(0, Ordering::Release);
        }
        self.packet.store(on, Ordering::Release);
    }

    /// What the next read of the master has to tell.
    fn waiting_status(&self) -> u32 {
        if self.packet.load(Ordering::Acquire) { self.status.load(Ordering::Acquire) } else { 0 }
    }
}

/// Something happened on the slave's side that a master in packet mode is told: `set` TIOCPKT_* bits, which take the place
/// of `cleared` ones.
pub(crate) fn tell_master(tty: &Tty, set: u32, cleared: u32) {
    let Some((_, master)) = tty.pty() else { return };
    if set == 0 || !master.packet.load(Ordering::Acquire) {
        return;
    }
    let _ = master.status.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(old & !cleared | set));
    master.readable.wake_all_for(POLLIN | POLLPRI);
}

/// Tells of output that was stopped or started, if it was.
pub(crate) fn tell_flow(tty: &Tty, was_stopped: bool) {
    let is_stopped = tty.state.lock().ldisc.is_stopped();
    match (was_stopped, is_stopped) {
        (false, true) => tell_master(tty, t::TIOCPKT_STOP, t::TIOCPKT_START),
        (true, false) => tell_master(tty, t::TIOCPKT_START, t::TIOCPKT_STOP),
        _ => {}
    }
}

/// Tells of new settings: whether the usual characters stop and start output, and any change under EXTPROC (Linux
/// `pty_set_termios`).
pub(crate) fn tell_settings(tty: &Tty, old: &Termios, new: &Termios) {
    let stops = |termios: &Termios| {
        termios.c_iflag & t::IXON != 0 && termios.c_cc[t::VSTOP] == 0o23 && termios.c_cc[t::VSTART] == 0o21
    };
    let mut set = match (stops(old), stops(new)) {
        (false, true) => t::TIOCPKT_DOSTOP,
        (true, false) => t::TIOCPKT_NOSTOP,
        _ => 0,
    };
    let cleared = if set == 0 { 0 } else { t::TIOCPKT_DOSTOP | t::TIOCPKT_NOSTOP };
    if (old.c_lflag | new.c_lflag) & t::EXTPROC != 0 {
        set |= t::TIOCPKT_IOCTL;
    }
    tell_master(tty, set, cleared);
}

/// Lets a slave be opened: `EIO` while it is locked or after its master is gone.
pub(crate) fn slave_opens(tty: &Tty) -> Result<()> {
    let Some((_, master)) = tty.pty() else { return Ok(()) };
    if master.locked.load(Ordering::Acquire) || master.closed.load(Ordering::Acquire) {
        return Err(Errno::EIO);
    }
    tty.state.lock().open_count += 1;
    master.slave_gone.store(false, Ordering::Release);
    Ok(())
}

/// A file of the slave was closed.
pub(crate) fn slave_closes(tty: &Tty) {
    let Some((_, master)) = tty.pty() else { return };
    let mut state = tty.state.lock();
    state.open_count -= 1;
    let last = state.open_count == 0;
    drop(state);
    if last {
        master.slave_gone.store(true, Ordering::Release);
        master.readable.wake_all_for(POLLHUP);
        master.writable.wake_all_for(POLLHUP);
    }
}

/// The master file was closed: the slave's line is hung up and its name goes away.
pub(crate) fn master_closes(tty: &Tty, table: &PtyTable) {
    let Some((number, master)) = tty.pty() else { return };
    master.closed.store(true, Ordering::Release);
    table.remove(number);
    job::hang_up(tty);
}

/// Reads what the slave's side sent. `EIO` once the slave is closed and everything was read.
pub(crate) fn master_read(tty: &Tty, dst: &mut IoDst<'_>, nonblocking: bool) -> Result<usize> {
    let master = tty.master();
    let mut chunk = [0; CHUNK];
    let mut done = 0;
    let packet = master.packet.load(Ordering::Acquire);
    while dst.remaining() > 0 {
        if packet && done == 0 {
            // A status comes alone (n_tty_read).
            let status = master.status.swap(0, Ordering::AcqRel);
            if status != 0 {
                return dst.put(&[status as u8]);
            }
        }
        let room = dst.remaining() - usize::from(packet && done == 0);
        let length = take_output(tty, &mut chunk, room);
        if length > 0 {
            if packet && done == 0 {
                done += dst.put(&[t::TIOCPKT_DATA as u8])?;
            }
            done += dst.put(&chunk[..length])?;
            tty.writable.wake_all_for(POLLOUT | POLLWRNORM);
            continue;
        }
        if done > 0 {
            break;
        }
        if master.slave_gone.load(Ordering::Acquire) {
            return Err(Errno::EIO);
        }
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        master.readable.wait_event(TaskState::Interruptible, || {
            tty.state.lock().ldisc.can_send()
                || master.slave_gone.load(Ordering::Acquire)
                || master.waiting_status() != 0
        })?;
    }
    Ok(done)
}

fn take_output(tty: &Tty, chunk: &mut [u8], limit: usize) -> usize {
    let mut state = tty.state.lock();
    let run = state.ldisc.output();
    let length = run.len().min(chunk.len()).min(limit);
    chunk[..length].copy_from_slice(&run[..length]);
    state.ldisc.sent(length);
    length
}

/// Writes what the slave's side receives.
pub(crate) fn master_write(tty: &Tty, src: &mut IoSrc<'_>, nonblocking: bool) -> Result<usize> {
    let master = tty.master();
    let mut chunk = [0; CHUNK];
    let mut done = 0;
    while src.remaining() > 0 {
        let length = src.take(&mut chunk)?;
        let mut given = 0;
        while given < length {
            let was_stopped = tty.state.lock().ldisc.is_stopped();
            let taken = tty.receive(&chunk[given..length]);
            tell_flow(tty, was_stopped);
            given += taken;
            done += taken;
            if taken > 0 {
                continue;
            }
            let outcome = if nonblocking {
                Err(Errno::EAGAIN)
            } else {
                master.writable.wait_event(TaskState::Interruptible, || tty.state.lock().ldisc.has_room())
            };
            if let Err(error) = outcome {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
    }
    Ok(done)
}

/// What poll(2) finds on the master.
pub(crate) fn master_events(tty: &Tty) -> u32 {
    let master = tty.master();
    let state = tty.state.lock();
    let mut events = 0;
    if state.ldisc.can_send() {
        events |= POLLIN | POLLRDNORM;
    }
    if master.waiting_status() != 0 {
        events |= POLLIN | POLLRDNORM | POLLPRI;
    }
    if state.ldisc.has_room() {
        events |= POLLOUT | POLLWRNORM;
    }
    if master.slave_gone.load(Ordering::Acquire) {
        events |= POLLHUP;
    }
    events
}
