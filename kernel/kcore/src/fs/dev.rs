//! The character devices that every system has: `/dev/null` and its kin (mem major 1), terminals (majors 4, 5, 136, 204),
//! and devtmpfs, the `/dev` that the kernel fills by itself.
//!
//! Numbers and names are those of Documentation/admin-guide/devices.txt.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::fcntl as f;
use abi::poll::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use hal::sync::SpinLock;

use super::chrdev;
use super::cpu_latency;
use super::devpts;
use super::file::{File, FileMode, FileOps, OffsetRule, OpsRef};
use super::inode::{Inode, OpenRequest};
use super::libfs::shared;
use super::poll::{PollTable, watch_all};
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::printk::{self, Next, Position};
use crate::random;
use crate::sync::order;
use crate::task::{TaskState, current};
use crate::tty::file::OpenMode;
use crate::tty::pty::SLAVE_MAJOR;
use crate::tty::{self, OpenTty};

/// A node of `/dev` that the kernel makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Path below `/dev`.
    pub name: String,
    /// Type and permissions.
    pub mode: u32,
    /// Device number.
    pub rdev: u64,
}

const MEM_MAJOR: u32 = 1;
const TTY_MAJOR: u32 = 4;
const TTY_ALTERNATE_MAJOR: u32 = 5;
const MISC_MAJOR: u32 = 10;
const AMBA_MAJOR: u32 = 204;

/// Registers the devices with the VFS. Called once at boot, after the serial ports are known.
pub fn init() -> Result<()> {
    chrdev::register(MEM_MAJOR, 0, 256, "mem", open_mem)?;
    chrdev::register(TTY_ALTERNATE_MAJOR, 0, 1, "/dev/tty", open_tty)?;
    chrdev::register(TTY_ALTERNATE_MAJOR, 1, 1, "/dev/console", open_tty)?;
    chrdev::register(TTY_ALTERNATE_MAJOR, 2, 1, "/dev/ptmx", open_tty)?;
    chrdev::register(MISC_MAJOR, 0, 256, "misc", open_misc)?;
    chrdev::register(TTY_MAJOR, 64, 32, "ttyS", open_serial)?;
    chrdev::register(AMBA_MAJOR, 64, 16, "ttyAMA", open_serial)?;
    chrdev::register(SLAVE_MAJOR, 0, 4096, "pts", open_slave)
}

/// What devtmpfs contains.
pub fn nodes() -> Vec<Node> {
    let device = |name: &str, permissions: u32, major: u32, minor: u32| Node {
        name: String::from(name),
        mode: abi::stat::S_IFCHR | permissions,
        rdev: abi::stat::makedev(major, minor),
    };
    let mut nodes = alloc::vec![
        device("null", 0o666, MEM_MAJOR, 3),
        device("zero", 0o666, MEM_MAJOR, 5),
        device("full", 0o666, MEM_MAJOR, 7),
        device("random", 0o666, MEM_MAJOR, 8),
        device("urandom", 0o666, MEM_MAJOR, 9),
        device("kmsg", 0o644, MEM_MAJOR, 11),
        device("tty", 0o666, TTY_ALTERNATE_MAJOR, 0),
        device("console", 0o600, TTY_ALTERNATE_MAJOR, 1),
        device("ptmx", 0o666, TTY_ALTERNATE_MAJOR, 2),
        device("cpu_dma_latency", 0o600, MISC_MAJOR, cpu_latency::MINOR),
    ];
    for tty in tty::serial_ttys() {
        let (major, minor) = tty.numbers();
        nodes.push(device(tty.name(), 0o600, major, minor));
    }
    nodes
}

fn minor_of(inode: &Inode) -> u32 {
    abi::stat::split_dev(inode.rdev as u32).1
}

fn open_mem(inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<OpsRef> {
    Ok(match minor_of(inode) {
        3 => OpsRef::Static(&Null),
        5 => OpsRef::Static(&Zero),
        7 => OpsRef::Static(&Full),
        8 | 9 => OpsRef::Static(&Random),
        11 => return open_kmsg(request),
        _ => return Err(Errno::ENXIO),
    })
}

fn open_misc(inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
    match minor_of(inode) {
        cpu_latency::MINOR => Ok(cpu_latency::open()),
        _ => Err(Errno::ENODEV),
    }
}

fn mode_of(request: &OpenRequest<'_>) -> OpenMode {
    let readable = FileMode::from_flags(request.flags).contains(FileMode::READ);
    OpenMode { readable, no_control: request.flags & f::O_NOCTTY != 0 }
}

fn open_tty(inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<OpsRef> {
    Ok(shared(match minor_of(inode) {
        0 => OpenTty::open_current()?,
        1 => OpenTty::open_console()?,
        _ => open_ptmx(request)?,
    }))
}

/// Opens a new pseudo-terminal, owned by the caller, of the devpts instance that belongs to this node.
fn open_ptmx(request: &OpenRequest<'_>) -> Result<OpenTty> {
    devpts::table_for(request.path)?.open_master((request.creds.fsuid, request.creds.fsgid))
}

fn open_serial(inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<OpsRef> {
    let numbers = abi::stat::split_dev(inode.rdev as u32);
    let tty = tty::serial_ttys().find(|tty| tty.numbers() == numbers).ok_or(Errno::ENXIO)?;
    Ok(shared(OpenTty::open(&tty, mode_of(request))?))
}

fn open_slave(inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<OpsRef> {
    let slave = devpts::table_of(&inode.sb).and_then(|table| table.find(minor_of(inode))).ok_or(Errno::EIO)?;
    Ok(shared(OpenTty::open(&slave.tty, mode_of(request))?))
}

/// null(4).
struct Null;

impl FileOps for Null {
    fn can_poll(&self, _file: &File) -> bool {
        false
    }

    fn can_splice_from(&self, _file: &File) -> bool {
        false
    }

    fn can_splice_to(&self, _file: &File) -> bool {
        true
    }

    fn read(&self, _file: &File, _dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        Ok(0)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        Ok(src.skip(src.remaining()))
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Ignored
    }
}

/// Stores zeros until `dst` is full; a signal ends it early, as Linux's `read_iter_zero` does.
fn read_zeros(dst: &mut IoDst<'_>) -> Result<usize> {
    let mut done = 0;
    while dst.remaining() > 0 {
        if done > 0 && current().signal_pending() {
            break;
        }
        let want = dst.remaining().min(1 << 16);
        match dst.put_zeros(want) {
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
            Ok(stored) => done += stored,
        }
    }
    Ok(done)
}

/// zero(4).
struct Zero;

impl FileOps for Zero {
    fn can_poll(&self, _file: &File) -> bool {
        false
    }

    fn can_splice_from(&self, _file: &File) -> bool {
        false
    }

    fn can_splice_to(&self, _file: &File) -> bool {
        true
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        read_zeros(dst)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        Ok(src.skip(src.remaining()))
    }

    /// Private mappings of `/dev/zero` are anonymous memory: a cache that has no pages reads as zeros.
    fn mapping(&self, _file: &File) -> Result<Arc<crate::mm::mapping::Mapping>> {
        Ok(crate::mm::mapping::Mapping::new_anonymous(u64::MAX >> 1))
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Ignored
    }
}

/// full(4).
struct Full;

impl FileOps for Full {
    fn can_poll(&self, _file: &File) -> bool {
        false
    }

    fn can_splice_from(&self, _file: &File) -> bool {
        false
    }

    fn can_splice_to(&self, _file: &File) -> bool {
        true
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        read_zeros(dst)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        if src.remaining() == 0 { Ok(0) } else { Err(Errno::ENOSPC) }
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Ignored
    }
}

/// random(4): both devices are the same since Linux 5.18.
struct Random;

impl FileOps for Random {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        random::read(dst)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        random::write(src)
    }

    fn ioctl(&self, _file: &File, command: u32, argument: u64) -> Result<usize> {
        const RNDGETENTCNT: u32 = 0x8004_5200;
        if command != RNDGETENTCNT {
            return Err(Errno::EINVAL);
        }
        // The pool is always full: 256 bits (random(4)).
        crate::syscall::UserPtr::new(argument).write(&256i32).map(|()| 0)
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Ignored
    }
}

/// An open `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg).
struct Kmsg {
    at: SpinLock<Position>,
}

fn open_kmsg(request: &OpenRequest<'_>) -> Result<OpsRef> {
    // Reading needs CAP_SYSLOG only while dmesg_restrict is set; writing needs nothing but the file mode.
    let reads = FileMode::from_flags(request.flags).contains(FileMode::READ);
    let restricted = printk::DMESG_RESTRICT.load(core::sync::atomic::Ordering::Relaxed) != 0;
    if reads && restricted && !request.creds.capable(abi::capability::CAP_SYSLOG) {
        return Err(Errno::EPERM);
    }
    Ok(shared(Kmsg { at: SpinLock::new(order::CHANNEL, printk::oldest()) }))
}

/// `/proc/kmsg`: syslog(2) READ as a file, for klogd.
pub(super) fn open_proc_kmsg(request: &OpenRequest<'_>) -> Result<OpsRef> {
    if !request.creds.capable(abi::capability::CAP_SYSLOG) {
        return Err(Errno::EPERM);
    }
    Ok(OpsRef::Static(&ProcKmsg))
}

struct ProcKmsg;

impl FileOps for ProcKmsg {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        if file.is_nonblocking() && !printk::has_unread() {
            return Err(Errno::EAGAIN);
        }
        printk::readers().wait_event(TaskState::Interruptible, printk::has_unread)?;
        dst.put(&printk::take_unread(dst.remaining()))
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &[printk::readers()]);
        if printk::has_unread() { POLLIN | POLLRDNORM } else { 0 }
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }
}

impl FileOps for Kmsg {
    /// One record per read: `EPIPE` when records were overwritten, `EINVAL` when the buffer is too small.
    fn read(&self, file: &File, dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        loop {
            let at = *self.at.lock();
            match printk::read(at) {
                Next::Record(record, next) => {
                    let text = record.to_kmsg();
                    if text.len() > dst.remaining() {
                        return Err(Errno::EINVAL);
                    }
                    *self.at.lock() = next;
                    return dst.put(&text);
                }
                Next::Overwritten(oldest) => {
                    *self.at.lock() = oldest;
                    return Err(Errno::EPIPE);
                }
                Next::End if file.is_nonblocking() => return Err(Errno::EAGAIN),
                Next::End => {
                    printk::readers().wait_event(TaskState::Interruptible, || printk::is_readable(at))?;
                }
            }
        }
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        let length = src.remaining();
        if length > printk::TEXT_LIMIT {
            return Err(Errno::EINVAL);
        }
        let mut text = alloc::vec![0; length];
        let taken = src.take(&mut text)?;
        printk::inject(text.get(..taken).unwrap_or(&[]));
        Ok(taken)
    }

    /// SEEK_SET 0: the oldest record; SEEK_DATA 0: the first after a CLEAR; SEEK_END 0: behind the last.
    fn seek(&self, _file: &File, offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
        if change != 0 {
            return Err(Errno::ESPIPE);
        }
        let target = match whence {
            f::SEEK_SET => printk::oldest(),
            f::SEEK_DATA => printk::cleared(),
            f::SEEK_END => printk::end(),
            _ => return Err(Errno::EINVAL),
        };
        *self.at.lock() = target;
        *offset = 0;
        Ok(0)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        watch_all(table, &[printk::readers()]);
        let readable = if printk::is_readable(*self.at.lock()) { POLLIN | POLLRDNORM } else { 0 };
        readable | POLLOUT | POLLWRNORM
    }
}
