//! `/proc/PID` and `/proc/PID/task/TID`: the directory of a process or thread.
//!
//! An inode refers to the identity ([`Pid`]), not to the task: every look finds the task anew and answers `ESRCH` when it
//! is gone. Dentries of this part of the tree are never cached.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::stat::{S_IFDIR, S_IFLNK, S_IFREG, dirent_type};

use super::options::{self, Hide};
use super::text::{DIGITS, Text, decimal};
use super::{
    activity, descriptors, id_maps, links, map_files, maps, may_look_into, mounts, no_setattr, read_made, status,
    take_written, trimmed,
};
use crate::Result;
use crate::fs::file::{DirSink, File, FileOps, OpsRef};
use crate::fs::inode::{Attributes, Inode, InodeOps, InodeParts, LinkTarget, OpenRequest, SetAttributes};
use crate::fs::libfs::{self, OpenDir, shared};
use crate::io::{IoDst, IoSrc};
use crate::ns::user::MapKind;
use crate::sync::Mutex;
use crate::task::{Pid, PidNamespace, Task, tree};

/// Whether a directory speaks of the process or of one thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// `/proc/PID`.
    Process,
    /// `/proc/PID/task/TID`.
    Thread,
}

/// Who a file of `/proc/PID` speaks of.
#[derive(Clone)]
pub struct Subject {
    /// The identity.
    pub pid: Arc<Pid>,
    /// Process or thread.
    pub scope: Scope,
    /// The PID namespace that the instance of /proc shows: numbers are its.
    pub space: Arc<PidNamespace>,
}

impl Subject {
    /// The task; `ESRCH` when it is gone.
    pub fn task(&self) -> Result<Arc<Task>> {
        self.pid.task().ok_or(Errno::ESRCH)
    }

    /// The task, if the current process may look into it; `EACCES` otherwise.
    pub fn accessible_task(&self) -> Result<Arc<Task>> {
        let task = self.task()?;
        if may_look_into(&task) { Ok(task) } else { Err(Errno::EACCES) }
    }
}

type Show = fn(&Subject, &Arc<Task>, &mut Text) -> Result<()>;
type Store = fn(&Arc<Task>, &[u8]) -> Result<()>;

/// An entry of the directory.
pub(super) struct ProcessEntry {
    name: &'static str,
    mode: u32,
    node: ProcessNode,
}

enum ProcessNode {
    Text(Show),
    /// Only for who may look into the task, checked at open.
    Private(Show),
    Setting(Show, Store),
    /// A magic link: the text for readlink, the place for a walk.
    Link(links::Link),
    Descriptors,
    DescriptorInfo,
    Tasks,
    Namespaces,
    MappedFiles,
    Memory,
    MountTable(mounts::Table),
    IdMap(id_maps::Member),
}

const fn text(name: &'static str, show: Show) -> ProcessEntry {
    ProcessEntry { name, mode: S_IFREG | 0o444, node: ProcessNode::Text(show) }
}

const fn private(name: &'static str, mode: u32, show: Show) -> ProcessEntry {
    ProcessEntry { name, mode: S_IFREG | mode, node: ProcessNode::Private(show) }
}

const fn mount_table(name: &'static str, mode: u32, table: mounts::Table) -> ProcessEntry {
    ProcessEntry { name, mode: S_IFREG | mode, node: ProcessNode::MountTable(table) }
}

const fn id_map(name: &'static str, member: id_maps::Member) -> ProcessEntry {
    ProcessEntry { name, mode: S_IFREG | 0o644, node: ProcessNode::IdMap(member) }
}

const fn link(name: &'static str, link: links::Link) -> ProcessEntry {
    ProcessEntry { name, mode: S_IFLNK | 0o777, node: ProcessNode::Link(link) }
}

const fn dir(name: &'static str, mode: u32, node: ProcessNode) -> ProcessEntry {
    ProcessEntry { name, mode: S_IFDIR | mode, node }
}

const fn setting(name: &'static str, show: Show, store: Store) -> ProcessEntry {
    ProcessEntry { name, mode: S_IFREG | 0o644, node: ProcessNode::Setting(show, store) }
}

/// In the order that matters for look-ups: what ps and top read comes first.
static ENTRIES: [ProcessEntry; 44] = [
    text("stat", status::stat),
    text("status", status::status),
    text("cmdline", status::cmdline),
    text("statm", status::statm),
    dir("fd", 0o500, ProcessNode::Descriptors),
    setting("comm", status::comm, status::set_comm),
    link("exe", links::Link::Executable),
    private("maps", 0o444, maps::maps),
    private("smaps", 0o444, maps::smaps),
    private("smaps_rollup", 0o444, maps::smaps_rollup),
    link("cwd", links::Link::WorkingDirectory),
    link("root", links::Link::Root),
    private("environ", 0o400, status::environ),
    private("auxv", 0o400, status::auxv),
    text("limits", status::limits),
    mount_table("mounts", 0o444, mounts::Table::Mounts),
    mount_table("mountinfo", 0o444, mounts::Table::Info),
    mount_table("mountstats", 0o400, mounts::Table::Statistics),
    dir("fdinfo", 0o555, ProcessNode::DescriptorInfo),
    dir("task", 0o555, ProcessNode::Tasks),
    dir("ns", 0o511, ProcessNode::Namespaces),
    text("wchan", status::wchan),
    text("oom_score", status::oom_score),
    setting("oom_score_adj", status::oom_score_adj, status::set_oom_score_adj),
    setting("loginuid", status::loginuid, status::set_loginuid),
    text("sessionid", status::sessionid),
    text("cgroup", status::cgroup),
    private("io", 0o400, status::io),
    private("syscall", 0o400, activity::syscall),
    private("stack", 0o400, activity::stack),
    private("personality", 0o400, status::personality),
    text("schedstat", status::schedstat),
    setting("sched", activity::sched, activity::reset_sched),
    text("timers", activity::timers),
    ProcessEntry {
        name: "timerslack_ns",
        mode: S_IFREG | 0o666,
        node: ProcessNode::Setting(activity::timer_slack, activity::set_timer_slack),
    },
    text("children", activity::children),
    id_map("uid_map", id_maps::Member::Map(MapKind::Uid)),
    id_map("gid_map", id_maps::Member::Map(MapKind::Gid)),
    id_map("projid_map", id_maps::Member::Map(MapKind::Projid)),
    id_map("setgroups", id_maps::Member::SetGroups),
    setting("oom_adj", activity::oom_adj, activity::set_oom_adj),
    dir("map_files", 0o500, ProcessNode::MappedFiles),
    setting("coredump_filter", status::coredump_filter, status::set_coredump_filter),
    ProcessEntry { name: "mem", mode: S_IFREG | 0o600, node: ProcessNode::Memory },
];

impl ProcessEntry {
    /// What Linux has for the process alone (`tgid_base_stuff`), and what for a thread alone (`tid_base_stuff`).
    fn is_in(&self, scope: Scope) -> bool {
        const PROCESS_ALONE: [&str; 6] =
            ["task", "map_files", "timers", "timerslack_ns", "coredump_filter", "mountstats"];
        match scope {
            Scope::Process => self.name != "children",
            Scope::Thread => !PROCESS_ALONE.contains(&self.name),
        }
    }
}

/// A stable inode number: the identity's number and the entry's.
pub(super) fn ino_of(number: i32, entry: u64) -> u64 {
    u64::from(number.unsigned_abs()) << 24 | 1 << 23 | entry
}

/// A PID as a directory name spells it: digits without a leading zero.
pub(super) fn parse_pid(name: &[u8]) -> Option<i32> {
    if name.len() > 10 || name.first() == Some(&b'0') {
        return None;
    }
    name.iter().try_fold(0i32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| i32::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Owner of the files about a task: its effective user, or root if it must not be looked into (proc(5)).
pub(super) fn owned_parts(task: &Task, ino: u64, mode: u32) -> InodeParts {
    let mut parts = InodeParts::new(ino, mode);
    if task.group.dumpable.load(Ordering::Relaxed) == 1 {
        let creds = task.creds();
        (parts.uid, parts.gid) = (creds.euid, creds.egid);
    }
    parts
}

/// The directory inode of a process or thread. `ENOENT` if `pid` is no process (a thread is found only by name, as Linux
/// finds it, but not listed).
pub(super) fn directory(parent: &Arc<Inode>, pid: Arc<Pid>, scope: Scope) -> Result<Arc<Inode>> {
    let task = pid.task().ok_or(Errno::ENOENT)?;
    let number = pid.global();
    let entry = if scope == Scope::Process { 0 } else { 1 };
    let parts = owned_parts(&task, ino_of(number, entry), S_IFDIR | 0o555);
    Ok(Inode::new(
        parent.sb.clone(),
        parts,
        Box::new(Directory(Subject { pid, scope, space: options::space_of(&parent.sb) })),
    ))
}

/// `/proc/PID`.
struct Directory(Subject);

impl InodeOps for Directory {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        let task = self.0.pid.task().ok_or(Errno::ENOENT)?;
        options::may_enter(&dir.sb, &task)?;
        let found = ENTRIES.iter().enumerate().find(|(_, entry)| entry.name.as_bytes() == name);
        let (index, entry) = found.filter(|(_, entry)| entry.is_in(self.0.scope)).ok_or(Errno::ENOENT)?;
        let parts = owned_parts(&task, ino_of(self.0.pid.global(), index as u64 + 2), entry.mode);
        Ok(Inode::new(dir.sb.clone(), parts, Box::new(Member { subject: self.0.clone(), entry })))
    }

    fn keep_dentry(&self) -> bool {
        false
    }

    fn keep_negative(&self) -> bool {
        false
    }

    fn getattr(&self, inode: &Inode) -> Result<Attributes> {
        if !options::shows(&inode.sb, &*self.0.task()?, Hide::Existence) {
            return Err(Errno::ENOENT);
        }
        Ok(inode.attributes())
    }

    fn setattr(&self, _inode: &Arc<Inode>, _change: &SetAttributes) -> Result<()> {
        no_setattr()
    }

    fn open(&self, inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<OpsRef> {
        options::may_enter(&inode.sb, &*self.0.task().map_err(|_| Errno::ENOENT)?)?;
        Ok(shared(OpenDir(DirectoryFile(self.0.clone()))))
    }
}

struct DirectoryFile(Subject);

/// The process whose `/proc/PID` an open directory is: pidfd_send_signal(2) takes such a descriptor too.
pub fn process_of_directory(file: &File) -> Option<Arc<Pid>> {
    let Subject { pid, scope, .. } = &file.ops_as::<OpenDir<DirectoryFile>>()?.0.0;
    (*scope == Scope::Process).then(|| pid.clone())
}

impl libfs::Listing for DirectoryFile {
    fn check(&self) -> Result<()> {
        self.0.task().map(drop).map_err(|_| Errno::ENOENT)
    }

    fn list(&self, _file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        libfs::emit_indexed(&ENTRIES, sink, offset, |sink, index, entry, next| {
            let ino = ino_of(self.0.pid.global(), index as u64 + 2);
            !entry.is_in(self.0.scope) || sink.emit(entry.name.as_bytes(), ino, dirent_type(entry.mode), next)
        });
        Ok(())
    }
}

/// An entry of a process's directory.
struct Member {
    subject: Subject,
    entry: &'static ProcessEntry,
}

impl InodeOps for Member {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        match self.entry.node {
            ProcessNode::Descriptors => descriptors::lookup(dir, &self.subject, name, descriptors::Kind::Link),
            ProcessNode::DescriptorInfo => descriptors::lookup(dir, &self.subject, name, descriptors::Kind::Info),
            ProcessNode::Tasks => lookup_thread(dir, &self.subject, name),
            ProcessNode::Namespaces => links::lookup_namespace(dir, &self.subject, name),
            ProcessNode::MappedFiles => map_files::lookup(dir, &self.subject, name),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn follow_link(&self, _inode: &Arc<Inode>) -> Result<LinkTarget> {
        let ProcessNode::Link(link) = self.entry.node else { return Err(Errno::EINVAL) };
        links::place(link, &*self.subject.accessible_task()?).map(LinkTarget::Jump)
    }

    fn readlink(&self, _inode: &Arc<Inode>) -> Result<Arc<[u8]>> {
        let ProcessNode::Link(link) = self.entry.node else { return Err(Errno::EINVAL) };
        links::text(&links::place(link, &*self.subject.accessible_task()?)?)
    }

    fn keep_dentry(&self) -> bool {
        false
    }

    fn keep_negative(&self) -> bool {
        false
    }

    fn setattr(&self, _inode: &Arc<Inode>, change: &SetAttributes) -> Result<()> {
        if change.size.is_some() && change.mode.is_none() && change.uid.is_none() { Ok(()) } else { no_setattr() }
    }

    fn open(&self, _inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<OpsRef> {
        let subject = self.subject.clone();
        Ok(match self.entry.node {
            ProcessNode::Text(show) => shared(MemberFile { subject, show, store: None, text: Mutex::new(Vec::new()) }),
            ProcessNode::Private(show) => {
                // The right is checked here once: the file may be handed to others (proc(5)).
                subject.accessible_task()?;
                shared(MemberFile { subject, show, store: None, text: Mutex::new(Vec::new()) })
            }
            ProcessNode::Setting(show, store) => {
                shared(MemberFile { subject, show, store: Some(store), text: Mutex::new(Vec::new()) })
            }
            ProcessNode::Descriptors | ProcessNode::DescriptorInfo => {
                subject.accessible_task()?;
                shared(OpenDir(descriptors::Listing(subject)))
            }
            ProcessNode::Tasks => shared(OpenDir(TaskListing(subject))),
            ProcessNode::Namespaces => {
                subject.accessible_task()?;
                shared(OpenDir(links::NamespaceListing(subject)))
            }
            ProcessNode::MappedFiles => {
                subject.accessible_task()?;
                shared(OpenDir(map_files::Listing(subject)))
            }
            ProcessNode::Memory => shared(maps::Memory::open(&subject)?),
            ProcessNode::IdMap(member) => id_maps::open(&subject, member, request)?,
            ProcessNode::MountTable(table) => {
                if table == mounts::Table::Statistics {
                    subject.accessible_task()?;
                }
                mounts::open(&subject, table)?
            }
            ProcessNode::Link(_) => return Err(Errno::ELOOP),
        })
    }
}

/// An open text about a process.
struct MemberFile {
    subject: Subject,
    show: Show,
    store: Option<Store>,
    text: Mutex<Vec<u8>>,
}

impl FileOps for MemberFile {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
        let task = self.subject.task()?;
        read_made(&self.text, dst, offset, |text| (self.show)(&self.subject, &task, text))
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        let store = self.store.ok_or(Errno::EINVAL)?;
        let bytes = take_written(src)?;
        store(&self.subject.task()?, trimmed(&bytes))?;
        Ok(bytes.len())
    }
}

/// The threads of a process, by TID.
fn threads_of(subject: &Subject) -> Result<Vec<Arc<Pid>>> {
    let task = subject.task()?;
    let tree = tree::lock();
    let id = tree.find(&task.group).ok_or(Errno::ESRCH)?;
    let mut pids: Vec<Arc<Pid>> = tree.node(id).threads.iter().map(|thread| thread.pid()).collect();
    drop(tree);
    pids.sort_unstable_by_key(|pid| pid.global());
    Ok(pids)
}

fn lookup_thread(dir: &Arc<Inode>, subject: &Subject, name: &[u8]) -> Result<Arc<Inode>> {
    let number = parse_pid(name).ok_or(Errno::ENOENT)?;
    let pid = subject.space.find(number).ok_or(Errno::ENOENT)?;
    let thread = pid.task().ok_or(Errno::ENOENT)?;
    if !Arc::ptr_eq(&thread.group, &subject.task()?.group) {
        return Err(Errno::ENOENT);
    }
    directory(dir, pid, Scope::Thread)
}

/// `/proc/PID/task`, open.
struct TaskListing(Subject);

impl libfs::Listing for TaskListing {
    fn list(&self, _file: &File, sink: &mut dyn DirSink, offset: &mut u64) -> Result<()> {
        for pid in threads_of(&self.0)? {
            let number = pid.number_in(&self.0.space);
            let at = u64::from(number.unsigned_abs()) + 2;
            if number == 0 || at < *offset {
                continue;
            }
            let mut room = [0; DIGITS];
            if !sink.emit(
                decimal(u64::from(number.unsigned_abs()), &mut room),
                ino_of(number, 1),
                dirent_type(S_IFDIR),
                at + 1,
            ) {
                *offset = at;
                return Ok(());
            }
            *offset = at + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::parse_pid;

    #[test]
    fn only_plain_numbers_name_a_process() {
        assert_eq!(parse_pid(b"1"), Some(1));
        assert_eq!(parse_pid(b"32767"), Some(32767));
        for bad in [&b"01"[..], b"0", b"-1", b"1a", b"99999999999", b"4294967297"] {
            assert_eq!(parse_pid(bad), None);
        }
    }
}
