//! devpts: the directory of pseudo-terminal slaves (pts(4)).
//!
//! A slave's node exists as long as its master is open, so names here are never cached. Each instance has a table of
//! pseudo-terminals; there is one, which `/dev/ptmx` and `pts/ptmx` share.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::stat::{DEVPTS_SUPER_MAGIC, S_IFCHR, S_IFDIR, dirent_type, makedev};

use super::dentry::Dentry;
use super::file::{DirSink, File, FileMode, FileOps, OpsRef};
use super::inode::{Inode, InodeOps, InodeParts, OpenRequest};
use super::libfs::{dir_seek, emit_dots};
use super::mount::{Mount, Path};
use super::super_block::{FsType, MountRequest, SuperBlock, SuperOps};
use crate::Result;
use crate::io::IoDst;
use crate::tty::Tty;
use crate::tty::pty::{PtyTable, SLAVE_MAJOR, Slave};

/// `devpts` in mount(2).
pub static DEVPTS: FsType = FsType { name: "devpts", mount };

/// Slave number n has inode number n + 3 (Linux `devpts_pty_new`); 2 is ptmx.
const FIRST_INO: u64 = 3;

/// What mount options set, for slaves made later.
struct Options {
    mode: AtomicU32,
    ptmx_mode: AtomicU32,
    /// `u32::MAX`: the opener's.
    gid: AtomicU32,
}

struct Instance {
    table: Arc<PtyTable>,
    options: Options,
}

hal::global! {
    static INSTANCE: spin::Once<Arc<SuperBlock>> = spin::Once::new();
}

impl Options {
    /// Reads `mode=620,ptmxmode=666,gid=5`. `EINVAL` for what is not known.
    fn apply(&self, text: &[u8]) -> Result<()> {
        for option in text.split(|byte| *byte == b',').filter(|option| !option.is_empty()) {
            let option = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let octal = || u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL);
            let decimal = || value.parse::<u32>().map_err(|_| Errno::EINVAL);
            match key {
                "mode" => self.mode.store(octal()? & 0o777, Ordering::Relaxed),
                "ptmxmode" => self.ptmx_mode.store(octal()? & 0o777, Ordering::Relaxed),
                "gid" => self.gid.store(decimal()?, Ordering::Relaxed),
                "uid" | "max" => drop(decimal()?),
                "newinstance" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(())
    }
}

impl SuperOps for Arc<Instance> {
    fn show_options(&self, out: &mut dyn Write) -> core::fmt::Result {
        let gid = self.options.gid.load(Ordering::Relaxed);
        if gid != u32::MAX {
            write!(out, ",gid={gid}")?;
        }
        let (mode, ptmx) = (&self.options.mode, &self.options.ptmx_mode);
        write!(out, ",mode={:03o},ptmxmode={:03o}", mode.load(Ordering::Relaxed), ptmx.load(Ordering::Relaxed))
    }

    fn remount(&self, options: &[u8]) -> Result<()> {
        self.options.apply(options)
    }
}

fn mount(request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    let sb = INSTANCE.call_once(make);
    let root = sb.root()?;
    let instance = root.inode().ops_as::<Root>().ok_or(Errno::EINVAL)?;
    instance.0.options.apply(request.options)?;
    Ok(sb.clone())
}

fn make() -> Arc<SuperBlock> {
    let options = Options { mode: AtomicU32::new(0o600), ptmx_mode: AtomicU32::new(0), gid: AtomicU32::new(u32::MAX) };
    let instance = Arc::new(Instance { table: PtyTable::initial(), options });
    let sb = SuperBlock::new(&DEVPTS, DEVPTS_SUPER_MAGIC, Box::new(instance.clone()));
    let root = Inode::new(sb.clone(), InodeParts::new(1, S_IFDIR | 0o755), Box::new(Root(instance)));
    sb.set_root(Dentry::new_root(root));
    sb.pin();
    sb
}

/// The root directory.
struct Root(Arc<Instance>);

impl Root {
    fn ptmx(&self, dir: &Arc<Inode>) -> Arc<Inode> {
        let mode = self.0.options.ptmx_mode.load(Ordering::Relaxed);
        let parts = InodeParts { rdev: makedev(5, 2), ..InodeParts::new(2, S_IFCHR | mode) };
        Inode::new(dir.sb.clone(), parts, Box::new(Node))
    }

    fn slave(&self, sb: &Arc<SuperBlock>, slave: &Slave) -> Arc<Inode> {
        let mode = self.0.options.mode.load(Ordering::Relaxed);
        let gid = self.0.options.gid.load(Ordering::Relaxed);
        let parts = InodeParts {
            uid: slave.owner.0,
            gid: if gid == u32::MAX { slave.owner.1 } else { gid },
            rdev: makedev(SLAVE_MAJOR, slave.number),
            ..InodeParts::new(FIRST_INO + u64::from(slave.number), S_IFCHR | mode)
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
        Ok(OpsRef::Shared(Arc::new(RootDir(self.0.clone()))))
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

impl FileOps for RootDir {
    fn read(&self, _file: &File, _dst: &mut IoDst<'_>, _offset: &mut u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn seek(&self, _file: &File, offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
        dir_seek(offset, change, whence)
    }

    /// ptmx at offset 2, slave n at n + 3.
    fn iterate(&self, file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        if !emit_dots(file, sink, offset) {
            return Ok(());
        }
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

/// An open file of a slave that no path led to (TIOCGPTPEER). It is shown by its name in devpts.
pub fn slave_file(tty: &Tty, ops: OpsRef, flags: u32) -> Result<Arc<File>> {
    let (number, _) = tty.pty().ok_or(Errno::ENOTTY)?;
    let sb = INSTANCE.call_once(make).clone();
    let root = sb.root()?;
    let name = format!("{number}");
    let inode = root.inode().ops().lookup(root.inode(), name.as_bytes())?;
    let dentry = root.new_volatile(name.as_bytes(), inode);
    let mount = Mount::new(sb, root, Arc::from(&b"devpts"[..]), 0);
    Ok(File::new(Path { mount, dentry }, ops, flags, FileMode::from_flags(flags)))
}
