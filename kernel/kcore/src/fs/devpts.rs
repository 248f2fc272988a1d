//! devpts: the directory of pseudo-terminal slaves (pts(4)).
//!
//! A slave's node exists as long as its master is open, so names here are never cached. Each mount is an instance with a
//! table of pseudo-terminals of its own, as since Linux 4.7 (Documentation/filesystems/devpts.rst). The master that is
//! opened through a node `ptmx` belongs to the instance that the node lies in, or else that is mounted on `pts` beside it
//! ([`table_for`]).

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::Write;

use abi::Errno;
use abi::stat::{DEVPTS_SUPER_MAGIC, S_IFCHR, S_IFDIR, dirent_type, makedev};
use hal::sync::SpinLock;

use super::dentry::Dentry;
use super::file::{DirSink, File, FileMode, OpsRef};
use super::inode::{Inode, InodeOps, InodeParts, OpenRequest};
use super::libfs::{self, OpenDir};
use super::mount::{self, Path};
use super::namei::lookup_in;
use super::super_block::{FsType, MountRequest, SuperBlock, SuperOps};
use crate::Result;
use crate::sync::order;
use crate::tty::Tty;
use crate::tty::pty::{LARGEST_TABLE, PtyTable, SLAVE_MAJOR, Slave};

/// `devpts` in mount(2).
pub static DEVPTS: FsType = FsType { name: "devpts", mount: new_instance };

/// Slave number n has inode number n + 3 (Linux `devpts_pty_new`); 2 is ptmx.
const FIRST_INO: u64 = 3;

/// Modes and owners of a mount whose options say nothing (`DEVPTS_DEFAULT_MODE`, `DEVPTS_DEFAULT_PTMX_MODE`).
const DEFAULTS: Options = Options { mode: 0o600, ptmx_mode: 0, uid: None, gid: None, limit: LARGEST_TABLE };

/// What mount options set, for slaves made later.
#[derive(Clone, Copy)]
struct Options {
    mode: u32,
    ptmx_mode: u32,
    /// `None`: the opener's.
    uid: Option<u32>,
    gid: Option<u32>,
    limit: u32,
}

struct Instance {
    table: Arc<PtyTable>,
    options: SpinLock<Options>,
}

impl Options {
    /// Reads `mode=620,ptmxmode=666,gid=5`. What is not named has its default, in a remount too (Linux
    /// `parse_mount_options`). `EINVAL` for what is not known.
    fn parse(text: &[u8]) -> Result<Self> {
        let mut options = DEFAULTS;
        for option in text.split(|byte| *byte == b',').filter(|option| !option.is_empty()) {
            let option = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let octal = || u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL);
            let decimal = || value.parse::<u32>().map_err(|_| Errno::EINVAL);
            match key {
                "mode" => options.mode = octal()? & 0o7777,
                "ptmxmode" => options.ptmx_mode = octal()? & 0o7777,
                "uid" => options.uid = Some(decimal()?),
                "gid" => options.gid = Some(decimal()?),
                "max" => options.limit = decimal().ok().filter(|limit| *limit <= LARGEST_TABLE).ok_or(Errno::EINVAL)?,
                "newinstance" if value.is_empty() => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }
}

impl Instance {
    fn set(&self, options: Options) {
        self.table.set_limit(options.limit);
        *self.options.lock() = options;
    }
}

impl SuperOps for Arc<Instance> {
    fn show_options(&self, out: &mut dyn Write) -> core::fmt::Result {
        let options = *self.options.lock();
        if let Some(uid) = options.uid {
            write!(out, ",uid={uid}")?;
        }
        if let Some(gid) = options.gid {
            write!(out, ",gid={gid}")?;
        }
        write!(out, ",mode={:03o},ptmxmode={:03o}", options.mode, options.ptmx_mode)?;
        if options.limit < LARGEST_TABLE {
            write!(out, ",max={}", options.limit)?;
        }
        Ok(())
    }

    fn remount(&self, options: &[u8]) -> Result<()> {
        self.set(Options::parse(options)?);
        Ok(())
    }
}

fn new_instance(request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    let options = Options::parse(request.options)?;
    let instance = Arc::new(Instance { table: PtyTable::new(), options: SpinLock::new(order::CHANNEL, options) });
    instance.set(options);
    let sb = SuperBlock::new(&DEVPTS, DEVPTS_SUPER_MAGIC, Box::new(instance.clone()));
    let root = Inode::new(sb.clone(), InodeParts::new(1, S_IFDIR | 0o755), Box::new(Root(instance)));
    sb.set_root(Dentry::new_root(root));
    Ok(sb)
}

/// The pseudo-terminals of an instance; `None` for another file system.
pub fn table_of(sb: &SuperBlock) -> Option<Arc<PtyTable>> {
    let ops: &dyn Any = &*sb.ops;
    ops.downcast_ref::<Arc<Instance>>().map(|instance| instance.table.clone())
}

/// The pseudo-terminals that the node at `path`, a ptmx, opens (Linux `devpts_mntget`): those of its own file system, or
/// of the one on `pts` in the same directory. `ENODEV` when there is no devpts.
pub fn table_for(path: &Path) -> Result<Arc<PtyTable>> {
    table_of(&instance_for(path)?.mount.sb).ok_or(Errno::ENODEV)
}

/// The root of that instance.
fn instance_for(path: &Path) -> Result<Path> {
    let mut at = path.clone();
    // A file that is bound over another is beside what the other is beside.
    while Arc::ptr_eq(&at.mount.root_path().dentry, &at.dentry) {
        let Some(below) = at.mount.mountpoint() else { break };
        at = below;
    }
    if table_of(&at.mount.sb).is_some() {
        return Ok(Path { dentry: at.mount.sb.root()?, ..at });
    }
    let parent = at.dentry.parent().ok_or(Errno::ENODEV)?;
    at.dentry = lookup_in(&parent, b"pts")?.ok_or(Errno::ENODEV)?;
    mount::follow_down(&mut at);
    if table_of(&at.mount.sb).is_none() {
        return Err(Errno::ENODEV);
    }
    Ok(at)
}

/// The root directory.
struct Root(Arc<Instance>);

impl Root {
    fn ptmx(&self, dir: &Arc<Inode>) -> Arc<Inode> {
        let mode = self.0.options.lock().ptmx_mode;
        let parts = InodeParts { rdev: makedev(5, 2), ..InodeParts::new(2, S_IFCHR | mode) };
        Inode::new(dir.sb.clone(), parts, Box::new(Node))
    }

    fn slave(&self, sb: &Arc<SuperBlock>, slave: &Slave) -> Arc<Inode> {
        let options = *self.0.options.lock();
        let parts = InodeParts {
            uid: options.uid.unwrap_or(slave.owner.0),
            gid: options.gid.unwrap_or(slave.owner.1),
            rdev: makedev(SLAVE_MAJOR, slave.number),
            ..InodeParts::new(FIRST_INO + u64::from(slave.number), S_IFCHR | options.mode)
        };
        slave.node(|| Inode::new(sb.clone(), parts, Box::new(Node)))
    }
}

impl InodeOps for Root {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        if name == b"ptmx" {
            return Ok(self.ptmx(dir));
        }
        let number = core::str::from_utf8(name).ok().and_then(|name| name.parse::<u32>().ok()).ok_or(Errno::ENOENT)?;
        // One spelling per slave.
        if format!("{number}").as_bytes() != name {
            return Err(Errno::ENOENT);
        }
        let slave = self.0.table.find(number).ok_or(Errno::ENOENT)?;
        Ok(self.slave(&dir.sb, &slave))
    }

    fn keep_negative(&self) -> bool {
        false
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Ok(OpsRef::Shared(Arc::new(OpenDir(RootDir(self.0.clone())))))
    }
}

/// A device node; its number decides what an open does.
struct Node;

impl InodeOps for Node {
    fn keep_dentry(&self) -> bool {
        false
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Err(Errno::ENXIO)
    }
}

struct RootDir(Arc<Instance>);

impl libfs::Listing for RootDir {
    /// ptmx at offset 2, slave n at n + 3.
    fn list(&self, _file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        if *offset == 2 {
            if !sink.emit(b"ptmx", 2, dirent_type(S_IFCHR), FIRST_INO) {
                return Ok(());
            }
            *offset = FIRST_INO;
        }
        for slave in self.0.table.list() {
            let at = FIRST_INO + u64::from(slave.number);
            if at < *offset {
                continue;
            }
            if !sink.emit(format!("{}", slave.number).as_bytes(), at, dirent_type(S_IFCHR), at + 1) {
                *offset = at;
                return Ok(());
            }
            *offset = at + 1;
        }
        Ok(())
    }
}

/// An open file of a slave that no path led to (TIOCGPTPEER), found from the path of its master. It is shown by its name
/// in devpts.
pub fn slave_file(master: &Path, tty: &Tty, ops: OpsRef, flags: u32) -> Result<Arc<File>> {
    let (number, _) = tty.pty().ok_or(Errno::ENOTTY)?;
    let Path { mount, dentry: root } = instance_for(master)?;
    let name = format!("{number}");
    let inode = root.inode().ops().lookup(root.inode(), name.as_bytes())?;
    let dentry = root.new_volatile(name.as_bytes(), inode);
    Ok(File::new(Path { mount, dentry }, ops, flags, FileMode::from_flags(flags)))
}
