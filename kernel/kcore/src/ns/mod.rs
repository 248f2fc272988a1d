//! Namespaces: namespaces(7). A task holds one [`NsSet`], which never changes: clone, unshare and setns make another and
//! put it in place, when everything that can fail is done ([`Change`]; Linux `nsproxy`).

pub mod user;
pub mod uts;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::capability::{CAP_SYS_ADMIN, CAP_SYS_CHROOT};
use abi::sched as c;

use crate::Result;
use crate::fs::FsContext;
use crate::fs::mount::{self, Mount, MountNamespace, Path};
use crate::task::{Creds, Pid, PidNamespace, Task, tree};
use user::UserNs;
use uts::UtsNamespace;

/// The kinds of namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The root of the control groups that is seen.
    Cgroup,
    /// System V objects and POSIX message queues.
    Ipc,
    /// What is mounted where.
    Mount,
    /// Network devices, addresses and ports.
    Net,
    /// Process numbers.
    Pid,
    /// Offsets of the clocks.
    Time,
    /// User and group ids, and capabilities.
    User,
    /// Host and domain name.
    Uts,
}

impl Kind {
    /// Its name in `/proc/PID/ns` and in the text of the links there.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Cgroup => "cgroup",
            Kind::Ipc => "ipc",
            Kind::Mount => "mnt",
            Kind::Net => "net",
            Kind::Pid => "pid",
            Kind::Time => "time",
            Kind::User => "user",
            Kind::Uts => "uts",
        }
    }

    /// The CLONE_NEW* flag.
    pub const fn flag(self) -> u64 {
        match self {
            Kind::Cgroup => c::CLONE_NEWCGROUP,
            Kind::Ipc => c::CLONE_NEWIPC,
            Kind::Mount => c::CLONE_NEWNS,
            Kind::Net => c::CLONE_NEWNET,
            Kind::Pid => c::CLONE_NEWPID,
            Kind::Time => c::CLONE_NEWTIME,
            Kind::User => c::CLONE_NEWUSER,
            Kind::Uts => c::CLONE_NEWUTS,
        }
    }

    /// The inode number of the initial namespace (Linux `include/linux/proc_ns.h`).
    const fn initial_ino(self) -> u64 {
        match self {
            Kind::Cgroup => 0xeffffffb,
            Kind::Ipc => 0xefffffff,
            Kind::Mount => 0xf0000000,
            Kind::Net => 0xf0000098,
            Kind::Pid => 0xeffffffc,
            Kind::Time => 0xeffffffa,
            Kind::User => 0xeffffffd,
            Kind::Uts => 0xeffffffe,
        }
    }
}

/// The kinds of which there are others than the initial one.
const CREATABLE: u64 = c::CLONE_NEWNS | c::CLONE_NEWPID | c::CLONE_NEWUTS;

/// The number of a new namespace: the inode number of its file.
pub(crate) fn next_ino() -> u64 {
    NEXT_INO.fetch_add(1, Ordering::Relaxed)
}

/// The namespaces of a task.
#[derive(Clone)]
pub struct NsSet {
    /// That of the task's own identity.
    pid: Arc<PidNamespace>,
    /// That of its children to come.
    pid_for_children: Arc<PidNamespace>,
    uts: Arc<UtsNamespace>,
    /// `None`: the initial one, which is made when the first file system is.
    mount: Option<Arc<MountNamespace>>,
}

impl NsSet {
    /// The PID namespace that the task lives in: numbers from user space are its.
    pub fn pid(&self) -> &Arc<PidNamespace> {
        &self.pid
    }

    /// The PID namespace that its children will live in.
    pub fn pid_for_children(&self) -> &Arc<PidNamespace> {
        &self.pid_for_children
    }

    /// Host and domain name.
    pub fn uts(&self) -> &Arc<UtsNamespace> {
        &self.uts
    }

    /// What is mounted where.
    pub fn mount(&self) -> Arc<MountNamespace> {
        self.mount.clone().unwrap_or_else(mount::initial_namespace)
    }

    /// The namespace of a kind, as a file names it; the user namespace is that of the credentials.
    fn get(&self, kind: Kind) -> Namespace {
        match kind {
            Kind::Uts => Namespace::Uts(self.uts.clone()),
            Kind::Mount => Namespace::Mount(self.mount()),
            Kind::Pid => Namespace::Pid(self.pid.clone()),
            other => Namespace::Initial(other),
        }
    }
}

/// A namespace, held by a file of it.
#[derive(Clone)]
pub enum Namespace {
    /// The only one of its kind.
    Initial(Kind),
    /// Mounts.
    Mount(Arc<MountNamespace>),
    /// Process numbers.
    Pid(Arc<PidNamespace>),
    /// Users.
    User(UserNs),
    /// Names.
    Uts(Arc<UtsNamespace>),
}

impl Namespace {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Namespace::Initial(kind) => *kind,
            Namespace::Mount(_) => Kind::Mount,
            Namespace::Pid(_) => Kind::Pid,
            Namespace::User(_) => Kind::User,
            Namespace::Uts(_) => Kind::Uts,
        }
    }

    /// The namespace of a kind that a task is in.
    pub fn of(task: &Task, kind: Kind) -> Self {
        match kind {
            Kind::User => Namespace::User(task.creds().user_ns.clone()),
            other => task.namespaces().get(other),
        }
    }

    /// The user namespace whose capabilities count for it; for a user namespace its parent.
    pub fn owner(&self) -> Option<UserNs> {
        match self {
            Namespace::Initial(_) => Some(UserNs::initial()),
            Namespace::Mount(namespace) => Some(namespace.owner.clone()),
            Namespace::Pid(namespace) => Some(namespace.owner.clone()),
            Namespace::User(namespace) => namespace.parent().cloned(),
            Namespace::Uts(namespace) => Some(namespace.owner.clone()),
        }
    }

    /// The inode number of its file.
    pub fn ino(&self) -> u64 {
        let made = match self {
            Namespace::Initial(_) => None,
            Namespace::Mount(namespace) => namespace.ino(),
            Namespace::Pid(namespace) => namespace.ino(),
            Namespace::User(namespace) => namespace.ino(),
            Namespace::Uts(namespace) => namespace.ino(),
        };
        made.unwrap_or_else(|| self.kind().initial_ino())
    }
}

/// New namespaces for the current task, prepared: setns(2) puts all or none of them in force.
pub struct Change {
    set: NsSet,
    /// Credentials in another user namespace.
    creds: Option<Creds>,
    /// The root directory of a mount namespace, which becomes the task's root and working directory.
    root: Option<Path>,
}

impl Change {
    /// Starts from what `task`, the current one, has.
    pub fn begin(task: &Task) -> Self {
        Self { set: (*task.namespaces()).clone(), creds: None, root: None }
    }

    /// Takes `namespace` in: `EPERM` without CAP_SYS_ADMIN in it and in the task's user namespace (and CAP_SYS_CHROOT for
    /// mounts), `EINVAL` for the task's own user namespace, for a process with threads there, and for mounts and users
    /// when the task shares its root and working directory (setns(2)).
    pub fn install(&mut self, task: &Task, namespace: &Namespace) -> Result<()> {
        // One reference is the task's, the other is looked at here.
        let shares_fs = || Arc::strong_count(&task.fs()) > 2;
        let own = task.creds();
        if let Namespace::User(users) = namespace {
            // Entering again what one is in would give the capabilities back that were dropped.
            if users.is_same(&own.user_ns) || has_threads(task) || shares_fs() {
                return Err(Errno::EINVAL);
            }
            if !own.ns_capable(users, CAP_SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            let mut creds = (*own).clone();
            creds.enter_user_ns(users.clone());
            self.creds = Some(creds);
            return Ok(());
        }
        let here = self.creds.as_ref().map_or(&own.user_ns, |creds| &creds.user_ns);
        let is_owner = namespace.owner().is_some_and(|owner| own.ns_capable(&owner, CAP_SYS_ADMIN));
        let may_chroot = namespace.kind() != Kind::Mount || own.ns_capable(here, CAP_SYS_CHROOT);
        if !is_owner || !own.ns_capable(here, CAP_SYS_ADMIN) || !may_chroot {
            return Err(Errno::EPERM);
        }
        match namespace {
            Namespace::Initial(_) | Namespace::User(_) => {}
            // Only downwards: one's own or one below it (setns(2)).
            Namespace::Pid(pids) if !pids.is_in(&self.set.pid) => return Err(Errno::EINVAL),
            Namespace::Pid(pids) => self.set.pid_for_children = pids.clone(),
            Namespace::Uts(uts) => self.set.uts = uts.clone(),
            Namespace::Mount(mounts) => {
                if shares_fs() {
                    return Err(Errno::EINVAL);
                }
                self.root = Some(mounts.root());
                self.set.mount = Some(mounts.clone());
            }
        }
        Ok(())
    }

    /// Puts them in force.
    pub fn commit(self, task: &Task) {
        if let Some(root) = self.root {
            let fs = task.fs();
            fs.set_root(root.clone());
            fs.set_cwd(root);
        }
        drop(task.replace_namespaces(Arc::new(self.set)));
        if let Some(creds) = self.creds {
            task.commit_creds(creds);
        }
    }
}

/// Whether the process has other threads (Linux `thread_group_empty`).
fn has_threads(task: &Task) -> bool {
    let tree = tree::lock();
    tree.find(&task.group).is_some_and(|id| tree.node(id).threads.len() > 1)
}

/// The namespaces of a child of `parent`, or of the caller after unshare(2): its own of the kinds in `flags`. `fs`, a copy
/// that nobody else uses yet, goes with a copied mount namespace. The namespaces belong to the user namespace of `creds`, in
/// which they need CAP_SYS_ADMIN (`EPERM`); `EINVAL` for kinds that cannot be made, as of a Linux that is built without them.
pub fn copy(parent: &Task, creds: &Creds, flags: u64, fs: &FsContext) -> Result<Arc<NsSet>> {
    let old = parent.namespaces();
    let wanted = flags & crate::task::clone::NEW_NAMESPACES;
    if wanted == 0 {
        return Ok(old);
    }
    if !creds.own_capable(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if wanted & !CREATABLE != 0 {
        return Err(Errno::EINVAL);
    }
    let mut set = (*old).clone();
    if wanted & c::CLONE_NEWNS != 0 {
        set.mount = Some(copy_mounts(&old.mount(), fs, &creds.user_ns)?);
    }
    if wanted & c::CLONE_NEWPID != 0 {
        // Not while one waits for its first process (Linux `copy_pid_ns`).
        if !Arc::ptr_eq(&old.pid, &old.pid_for_children) {
            return Err(Errno::EINVAL);
        }
        set.pid_for_children = PidNamespace::create(&old.pid, creds.user_ns.clone())?;
    }
    if wanted & c::CLONE_NEWUTS != 0 {
        set.uts = old.uts.copy(creds.user_ns.clone());
    }
    Ok(Arc::new(set))
}

/// The set of a task whose parent's set is `set`: it lives where the parent's children do.
pub(crate) fn of_child(set: Arc<NsSet>) -> Arc<NsSet> {
    if Arc::ptr_eq(&set.pid, &set.pid_for_children) {
        return set;
    }
    let mut own = (*set).clone();
    own.pid = own.pid_for_children.clone();
    Arc::new(own)
}

/// What is left to a task that ends: its numbers.
pub(crate) fn of_zombie(set: &NsSet) -> Arc<NsSet> {
    let initial = initial();
    if Arc::ptr_eq(&set.pid, &initial.pid) {
        return initial;
    }
    let mut left = (*initial).clone();
    left.pid = set.pid.clone();
    left.pid_for_children = set.pid.clone();
    Arc::new(left)
}

/// A copy of a mount namespace, with `fs` in it where it was in the original.
fn copy_mounts(mounts: &MountNamespace, fs: &FsContext, owner: &UserNs) -> Result<Arc<MountNamespace>> {
    let (mut root, mut cwd) = fs.root_and_cwd();
    let (root_mount, cwd_mount) = (root.mount.clone(), cwd.mount.clone());
    let copied = mounts.copy(owner.clone(), |original, copy: &Arc<Mount>| {
        if Arc::ptr_eq(original, &root_mount) {
            root.mount = copy.clone();
        }
        if Arc::ptr_eq(original, &cwd_mount) {
            cwd.mount = copy.clone();
        }
    })?;
    fs.set_root(root);
    fs.set_cwd(cwd);
    Ok(copied)
}

hal::global! {
    static INITIAL: spin::Once<Arc<NsSet>> = spin::Once::new();
    static NO_PID: spin::Once<Arc<Pid>> = spin::Once::new();
    /// Behind the numbers of the initial namespaces (Linux `PROC_DYNAMIC_FIRST` and what boot takes).
    static NEXT_INO: AtomicU64 = AtomicU64::new(0xf0000100);
}

/// The namespaces of the first process.
pub fn initial() -> Arc<NsSet> {
    let make = || {
        let pid = PidNamespace::initial();
        Arc::new(NsSet { pid_for_children: pid.clone(), pid, uts: UtsNamespace::initial(), mount: None })
    };
    INITIAL.call_once(make).clone()
}

/// The initial PID namespace.
pub fn initial_pid_namespace() -> Arc<PidNamespace> {
    initial().pid().clone()
}

/// The identity that nothing is found by: PID 0, group and session of kernel threads.
pub fn no_pid() -> Arc<Pid> {
    NO_PID.call_once(|| Pid::idle(initial().pid())).clone()
}
