//! The binfmt_misc file system: `register` takes new formats, `status` switches all, and each format has a file of its name
//! (Documentation/admin-guide/binfmt-misc.rst). The formats themselves are in [`crate::mm::load::misc`].

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::stat::{S_IFDIR, S_IFREG, dirent_type};

use super::dentry::Dentry;
use super::file::{DirSink, File, FileOps, OpsRef};
use super::inode::{Inode, InodeOps, InodeParts, OpenRequest, SetAttributes};
use super::libfs::{self, OpenDir, read_text, shared};
use super::proc::take_written;
use super::proc::text::Text;
use super::super_block::{FsType, MountRequest, SuperBlock, SuperOps};
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::mm::load::misc::{self, Handler, Pattern};

/// `binfmt_misc` in mount(2).
pub static BINFMT_MISC: FsType = FsType { name: "binfmt_misc", mount };

/// BINFMTFS_MAGIC of statfs(2).
const MAGIC: u64 = 0x4249_4e4d;
const ROOT_INO: u64 = 1;
const REGISTER_INO: u64 = 2;
const STATUS_INO: u64 = 3;

hal::global! {
    static INSTANCE: spin::Once<Arc<SuperBlock>> = spin::Once::new();
}

struct BinfmtSuper;
impl SuperOps for BinfmtSuper {}

/// All mounts show one set of formats.
fn mount(_request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    let make = || {
        let sb = SuperBlock::new(&BINFMT_MISC, MAGIC, Box::new(BinfmtSuper));
        let parts = InodeParts::new(ROOT_INO, S_IFDIR | 0o755);
        sb.set_root(Dentry::new_root(Inode::new(sb.clone(), parts, Box::new(Root))));
        sb.pin();
        sb
    };
    Ok(INSTANCE.call_once(make).clone())
}

struct Root;

impl InodeOps for Root {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        let (ino, mode, node) = match name {
            b"register" => (REGISTER_INO, 0o200, Node::Register),
            b"status" => (STATUS_INO, 0o644, Node::Status),
            name => {
                let handler = misc::handlers().into_iter().find(|handler| handler.name == name).ok_or(Errno::ENOENT)?;
                (handler.ino, 0o644, Node::Format(handler))
            }
        };
        Ok(Inode::new(dir.sb.clone(), InodeParts::new(ino, S_IFREG | mode), Box::new(node)))
    }

    fn keep_negative(&self) -> bool {
        false
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Ok(shared(OpenDir(RootDirectory)))
    }
}

struct RootDirectory;

impl libfs::Listing for RootDirectory {
    /// An entry's offset is its inode number: they grow with each registration.
    fn list(&self, _file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        let handlers = misc::handlers();
        let fixed = [(REGISTER_INO, &b"register"[..]), (STATUS_INO, b"status")];
        let formats = handlers.iter().rev().map(|handler| (handler.ino, handler.name.as_slice()));
        for (ino, name) in fixed.into_iter().chain(formats) {
            if ino < *offset {
                continue;
            }
            if !sink.emit(name, ino, dirent_type(S_IFREG), ino + 1) {
                *offset = ino;
                return Ok(());
            }
            *offset = ino + 1;
        }
        Ok(())
    }
}

#[derive(Clone)]
enum Node {
    Register,
    Status,
    Format(Arc<Handler>),
}

impl InodeOps for Node {
    fn keep_dentry(&self) -> bool {
        false
    }

    fn setattr(&self, _inode: &Arc<Inode>, change: &SetAttributes) -> Result<()> {
        // O_TRUNC, as `echo 1 > status` does.
        if change.size.is_some() && change.mode.is_none() && change.uid.is_none() { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Ok(shared(self.clone()))
    }
}

/// What can be written to `status` and to a format's file (Linux `parse_command`).
enum Command {
    Disable,
    Enable,
    Remove,
}

fn command(text: &[u8]) -> Result<Command> {
    match text.strip_suffix(b"\n").unwrap_or(text) {
        b"0" => Ok(Command::Disable),
        b"1" => Ok(Command::Enable),
        b"-1" => Ok(Command::Remove),
        _ => Err(Errno::EINVAL),
    }
}

impl FileOps for Node {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
        let mut text = Text::new();
        match self {
            Node::Register => return Err(Errno::EINVAL),
            Node::Status => state(&mut text, misc::is_enabled()),
            Node::Format(handler) => describe(&mut text, handler),
        }
        read_text(&text.into_bytes(), dst, offset)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        let written = take_written(src)?;
        match self {
            Node::Register => misc::register(&written)?,
            // Nothing is no command and no error.
            _ if written.is_empty() => {}
            Node::Status => match command(&written)? {
                Command::Disable => misc::set_enabled(false),
                Command::Enable => misc::set_enabled(true),
                Command::Remove => misc::remove(|_| true),
            },
            Node::Format(handler) => match command(&written)? {
                Command::Disable => handler.enabled.store(false, Ordering::Relaxed),
                Command::Enable => handler.enabled.store(true, Ordering::Relaxed),
                Command::Remove => misc::remove(|known| core::ptr::eq(known, &**handler)),
            },
        }
        Ok(written.len())
    }
}

fn state(text: &mut Text, enabled: bool) {
    text.str(if enabled { "enabled\n" } else { "disabled\n" });
}

/// A format's file (Linux `entry_status`).
fn describe(text: &mut Text, handler: &Handler) {
    state(text, handler.enabled.load(Ordering::Relaxed));
    text.str("interpreter ").bytes(&handler.interpreter).str("\nflags: ");
    let flags = handler.flags;
    let letters =
        [(flags.preserve_argv0, b'P'), (flags.open_binary, b'O'), (flags.credentials, b'C'), (flags.fix_binary, b'F')];
    letters.iter().filter(|(set, _)| *set).for_each(|(_, letter)| {
        text.byte(*letter);
    });
    text.byte(b'\n');
    match &handler.pattern {
        Pattern::Extension(extension) => {
            text.str("extension .").bytes(extension).byte(b'\n');
        }
        Pattern::Magic { offset, magic, mask } => {
            text.str("offset ").num(*offset as u64).str("\nmagic ");
            push_hex(text, magic);
            if let Some(mask) = mask {
                push_hex(text.str("\nmask "), mask);
            }
            text.byte(b'\n');
        }
    }
}

fn push_hex(text: &mut Text, bytes: &[u8]) {
    for byte in bytes {
        text.hex(u64::from(*byte), 2);
    }
}
