//! `/proc`: proc(5).
//!
//! The fixed part of the tree is data: [`Entry`] tables of names, modes and functions that write a text ([`global`],
//! [`sysctl`]). Processes are directories that exist while somebody looks: nothing about them stays in the dentry cache
//! ([`process`], with [`status`], [`maps`], [`descriptors`] and [`links`] for what is in them).
//!
//! A text is made when a read begins at offset 0 and kept with the open file, so that a reader with a small buffer sees
//! one moment (Linux's `seq_file` promises less).

mod activity;
pub mod descriptors;
mod drupe;
pub mod global;
pub mod id_maps;
mod links;
mod map_files;
pub mod maps;
mod mounts;
mod options;
mod pressure;
pub mod process;
pub mod status;
pub mod sysctl;
pub mod text;
mod timers;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::stat::{PROC_SUPER_MAGIC, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, dirent_type};

use super::dentry::Dentry;
use super::file::{DirSink, File, FileOps, OpsRef};
use super::inode::{Inode, InodeOps, InodeParts, LinkTarget, OpenRequest, SetAttributes};
use super::libfs::{self, OpenDir, read_text, shared};
use super::super_block::{FsType, MountRequest, SuperBlock};
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::sync::Mutex;
use crate::task::{AccessMode, PidNamespace, Task, current, ptrace_may_access, tree};
use options::ProcSuper;
pub use process::process_of_directory;
use text::Text;

/// `proc` in mount(2).
pub static PROC: FsType = FsType { name: "proc", mount };

/// Offsets of the process directories in the root start here (Linux `FIRST_PROCESS_ENTRY`).
const FIRST_PROCESS: u64 = 256;

/// Writes a text.
pub type Show = fn(&mut Text) -> Result<()>;
/// Takes what one write(2) wrote, without the white space around it.
pub type Store = fn(&[u8]) -> Result<()>;

/// A fixed entry.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Permissions.
    pub mode: u32,
    /// What it is.
    pub node: Node,
}

/// What an entry is.
pub enum Node {
    /// A text.
    Text(Show),
    /// A text that can be written: the function gets what one write(2) wrote.
    Setting(Show, Store),
    /// A symbolic link, in an instance of this PID namespace.
    Link(fn(&PidNamespace, &mut Text) -> Result<()>),
    /// A directory.
    Dir(&'static [Entry]),
    /// A file with operations of its own.
    Ops(fn(&OpenRequest<'_>) -> Result<OpsRef>),
}

impl Entry {
    pub(super) const fn text(name: &'static str, show: Show) -> Self {
        Self { name, mode: 0o444, node: Node::Text(show) }
    }

    pub(super) const fn setting(name: &'static str, show: Show, store: Store) -> Self {
        Self { name, mode: 0o644, node: Node::Setting(show, store) }
    }

    pub(super) const fn link(name: &'static str, target: fn(&PidNamespace, &mut Text) -> Result<()>) -> Self {
        Self { name, mode: 0o777, node: Node::Link(target) }
    }

    pub(super) const fn dir(name: &'static str, entries: &'static [Entry]) -> Self {
        Self { name, mode: 0o555, node: Node::Dir(entries) }
    }

    /// Type and permissions.
    fn mode(&self) -> u32 {
        self.mode
            | match self.node {
                Node::Dir(_) => S_IFDIR,
                Node::Link(_) => S_IFLNK,
                _ => S_IFREG,
            }
    }
}

hal::global! {
    static INSTANCE: spin::Once<Arc<SuperBlock>> = spin::Once::new();
}

/// Mounts of the initial PID namespace without options show one instance. Options are an instance's own (Linux 5.8); so is
/// the namespace of who mounts.
fn mount(request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    let make = |ops| {
        let sb = SuperBlock::new(&PROC, PROC_SUPER_MAGIC, Box::new(ops));
        let root = Inode::new(sb.clone(), InodeParts::new(1, S_IFDIR | 0o555), Box::new(Root));
        // Numbers below are the fixed entries'.
        sb.set_root(Dentry::new_root(root));
        sb
    };
    let space = current().namespaces().pid().clone();
    let is_plain = request.options.is_empty() && space.ino().is_none();
    let ops = ProcSuper::new(space, request.options)?;
    if !is_plain {
        return Ok(make(ops));
    }
    let make_once = || {
        let sb = make(ops);
        sb.pin();
        sb
    };
    Ok(INSTANCE.call_once(make_once).clone())
}

/// An inode for a fixed entry.
fn inode_for(sb: &Arc<SuperBlock>, entry: &'static Entry) -> Arc<Inode> {
    Inode::new(sb.clone(), InodeParts::new(sb.next_ino(), entry.mode()), Box::new(Fixed(entry)))
}

/// Attributes of `/proc` cannot be set, but for nobody's harm the owner's chmod of Linux is `EPERM` too.
fn no_setattr() -> Result<()> {
    Err(Errno::EPERM)
}

/// A fixed entry's inode.
pub(super) struct Fixed(pub(super) &'static Entry);

impl InodeOps for Fixed {
    fn is_for_mounts(&self) -> bool {
        matches!(self.0.node, Node::Dir([]))
    }

    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        let Node::Dir(entries) = &self.0.node else { return Err(Errno::ENOTDIR) };
        find(entries, name).map(|entry| inode_for(&dir.sb, entry))
    }

    fn follow_link(&self, inode: &Arc<Inode>) -> Result<LinkTarget> {
        let Node::Link(target) = self.0.node else { return Err(Errno::EINVAL) };
        let mut text = Text::new();
        target(&options::space_of(&inode.sb), &mut text)?;
        Ok(LinkTarget::Text(Arc::from(text.into_bytes())))
    }

    fn setattr(&self, _inode: &Arc<Inode>, change: &SetAttributes) -> Result<()> {
        // O_TRUNC on a setting, as `echo x > /proc/sys/...` does.
        if change.size.is_some() && change.mode.is_none() && change.uid.is_none() { Ok(()) } else { no_setattr() }
    }

    fn open(&self, _inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<OpsRef> {
        Ok(match self.0.node {
            Node::Dir(entries) => shared(OpenDir(FixedDir(entries))),
            Node::Text(show) => shared(TextFile { show, store: None, text: Mutex::new(Vec::new()) }),
            Node::Setting(show, store) => shared(TextFile { show, store: Some(store), text: Mutex::new(Vec::new()) }),
            Node::Ops(open) => open(request)?,
            Node::Link(_) => return Err(Errno::ELOOP),
        })
    }
}

fn find(entries: &'static [Entry], name: &[u8]) -> Result<&'static Entry> {
    entries.iter().find(|entry| entry.name.as_bytes() == name).ok_or(Errno::ENOENT)
}

/// An open directory of fixed entries.
struct FixedDir(&'static [Entry]);

impl libfs::Listing for FixedDir {
    fn list(&self, _file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        emit_fixed(self.0, sink, offset);
        Ok(())
    }
}

/// Emits fixed entries, the first at offset 2. `false`: the sink is full.
fn emit_fixed(entries: &[Entry], sink: &mut dyn DirSink, offset: &mut u64) -> bool {
    libfs::emit_indexed(entries, sink, offset, |sink, _, entry, next| {
        sink.emit(entry.name.as_bytes(), next, dirent_type(entry.mode() & S_IFMT), next)
    })
}

/// An open text.
struct TextFile {
    show: Show,
    store: Option<Store>,
    text: Mutex<Vec<u8>>,
}

impl FileOps for TextFile {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
        read_made(&self.text, dst, offset, self.show)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        let store = self.store.ok_or(Errno::EIO)?;
        let bytes = take_written(src)?;
        store(trimmed(&bytes))?;
        Ok(bytes.len())
    }
}

/// Reads from a text that `make` makes when the read begins at its start.
fn read_made(
    kept: &Mutex<Vec<u8>>,
    dst: &mut IoDst<'_>,
    offset: &mut u64,
    make: impl FnOnce(&mut Text) -> Result<()>,
) -> Result<usize> {
    let mut kept = kept.lock();
    if *offset == 0 || kept.is_empty() {
        let mut text = Text::new();
        make(&mut text)?;
        *kept = text.into_bytes();
    }
    read_text(&kept, dst, offset)
}

/// What one write(2) wrote; more than a page is `EINVAL`.
pub(super) fn take_written(src: &mut IoSrc<'_>) -> Result<Vec<u8>> {
    let length = src.remaining();
    if length > hal::mem::PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    let mut bytes = alloc::vec![0; length];
    let taken = src.take(&mut bytes)?;
    bytes.truncate(taken);
    Ok(bytes)
}

/// Without the white space and NULs around it.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let text = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    text.trim_ascii()
}

/// A decimal number as programs write it into settings.
fn parse_number<T: core::str::FromStr>(bytes: &[u8]) -> Result<T> {
    core::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(Errno::EINVAL)
}

/// A number as C writes it: decimal, `0x` hexadecimal or `0` octal (Linux `kstrtoull` with base 0).
fn parse_c_number(bytes: &[u8]) -> Result<u64> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let (digits, base) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return Err(Errno::EINVAL);
    }
    u64::from_str_radix(digits, base).map_err(|_| Errno::EINVAL)
}

/// The root directory.
struct Root;

impl InodeOps for Root {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        // Numbers first: they are what is looked up all the time.
        if name.first().is_some_and(u8::is_ascii_digit) {
            let number = process::parse_pid(name).ok_or(Errno::ENOENT)?;
            let pid = options::find(&dir.sb, number).ok_or(Errno::ENOENT)?;
            return process::directory(dir, pid, process::Scope::Process);
        }
        find(global::ENTRIES, name).map(|entry| inode_for(&dir.sb, entry))
    }

    fn keep_negative(&self) -> bool {
        false
    }

    fn setattr(&self, _inode: &Arc<Inode>, _change: &SetAttributes) -> Result<()> {
        no_setattr()
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        Ok(OpsRef::Static(&OpenDir(RootDir)))
    }
}

/// The root directory, open: the fixed entries, then the processes by number.
struct RootDir;

impl libfs::Listing for RootDir {
    fn list(&self, file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        if *offset < FIRST_PROCESS && !emit_fixed(global::ENTRIES, sink, offset) {
            return Ok(());
        }
        let from = i32::try_from(offset.saturating_sub(FIRST_PROCESS)).unwrap_or(i32::MAX).max(1);
        let numbers = tree::lock().numbers_from(&options::space_of(&file.inode().sb), from);
        let hides = options::hides(&file.inode().sb);
        let mut room = [0; text::DIGITS];
        for number in numbers {
            if hides && options::is_hidden(&file.inode().sb, number) {
                continue;
            }
            let digits = text::decimal(u64::from(number.unsigned_abs()), &mut room);
            let at = FIRST_PROCESS + u64::from(number.unsigned_abs());
            if !sink.emit(digits, process::ino_of(number, 0), dirent_type(S_IFDIR), at + 1) {
                *offset = at;
                return Ok(());
            }
        }
        *offset = FIRST_PROCESS + u64::from(i32::MAX.unsigned_abs());
        Ok(())
    }
}

/// Whether the current process may look into `task` (PTRACE_MODE_READ_FSCREDS).
pub fn may_look_into(task: &Task) -> bool {
    ptrace_may_access(task, AccessMode::READ_FSCREDS).is_ok()
}
