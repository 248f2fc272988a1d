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
use abi::poll::{POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
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
    while dst.remaining() > 0 {
        let length = take_output(tty, &mut chunk, dst.remaining());
        if length > 0 {
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
            tty.state.lock().ldisc.can_send() || master.slave_gone.load(Ordering::Acquire)
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
            let taken = tty.receive(&chunk[given..length]);
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
    if state.ldisc.has_room() {
        events |= POLLOUT | POLLWRNORM;
    }
    if master.slave_gone.load(Ordering::Acquire) {
        events |= POLLHUP;
    }
    events
}
