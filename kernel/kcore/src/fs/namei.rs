//! Path walks: path_resolution(7).
//!
//! A [`Walker`] stands at a place and takes one component after the other. [`Walker::to_parent`] stops before the last
//! component, which callers that create, remove or open handle themselves; [`lookup`] goes to the end. Symbolic links are
//! walked with a list of pending texts rather than by recursion, because kernel stacks are small. A walk over cached
//! names allocates nothing and takes one spin lock for each component.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use hal::owner::Borrowed;

use super::context::FsContext;
use super::dentry::{Cached, Dentry, NameHash};
use super::inode::LinkTarget;
use super::mount::{self, Path};
use super::permission::{self, check_search};
use crate::Result;
use crate::task::Creds;

/// Most symbolic links in one walk (path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// Longest name (NAME_MAX).
pub const NAME_MAX: usize = 255;

/// `RESOLVE_*` of openat2(2).
pub mod resolve {
    /// No crossing of mounts.
    pub const NO_XDEV: u64 = 1;
    /// No magic links.
    pub const NO_MAGICLINKS: u64 = 2;
    /// No symbolic links.
    pub const NO_SYMLINKS: u64 = 4;
    /// Stay below the start.
    pub const BENEATH: u64 = 8;
    /// The start is the root.
    pub const IN_ROOT: u64 = 16;
    /// Only what the cache knows.
    pub const CACHED: u64 = 32;
}

/// A place that a walk may start from. Those of the caller are looked up when they are needed.
#[derive(Clone)]
pub enum Start {
    /// The caller's root directory.
    Root(Borrowed<FsContext>),
    /// The caller's working directory.
    WorkingDirectory(Borrowed<FsContext>),
    /// Another place.
    At(Path),
}

impl From<Path> for Start {
    fn from(path: Path) -> Self {
        Start::At(path)
    }
}

impl Start {
    /// The place.
    #[inline]
    fn path(&self) -> Path {
        match self {
            Start::Root(fs) => fs.root(),
            Start::WorkingDirectory(fs) => fs.cwd(),
            Start::At(path) => path.clone(),
        }
    }

    /// The place, found out once.
    fn resolved(&mut self) -> &Path {
        if !matches!(self, Start::At(_)) {
            *self = Start::At(self.path());
        }
        let Start::At(path) = self else { unreachable!("stored above") };
        path
    }
}

/// Where a walk starts, and as whom.
#[derive(Clone)]
pub struct WalkContext<'a> {
    /// What `/` means, and where `..` ends.
    pub root: Start,
    /// Where relative paths start.
    pub base: Start,
    /// Whose permissions count.
    pub creds: &'a Creds,
    /// [`resolve`] flags.
    pub resolve: u64,
}

/// Whether a symbolic link in the last place is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It is.
    Follow,
    /// The walk ends at the link, unless slashes follow it.
    NoFollow,
}

/// What the last component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastKind {
    /// A name, which [`Walker::last`] gives.
    Name,
    /// `.`: the walker stands there.
    Dot,
    /// `..`: the walker stands in the directory whose parent is meant.
    DotDot,
    /// The path was only slashes.
    Root,
}

/// A walk.
pub struct Walker<'a> {
    root: Start,
    /// The start, for a walk that must stay below it.
    beneath: Option<Path>,
    creds: &'a Creds,
    resolve: u64,
    /// Where it stands.
    pub at: Path,
    path: &'a [u8],
    /// The link text that is walked; `None`: the caller's path.
    text: Option<Arc<[u8]>>,
    position: usize,
    last: Component,
    /// Texts to go on with, innermost last. Each has a component left.
    pending: Vec<(Option<Arc<[u8]>>, usize)>,
    links: u32,
    /// Slashes follow the last component: it must be a directory, and a link there is followed.
    pub must_be_dir: bool,
}

/// Where a component is in its text.
#[derive(Clone, Copy, Debug, Default)]
struct Component {
    start: usize,
    end: usize,
    hash: NameHash,
}

/// The next component of `text` from `position` on; empty at its end.
#[inline(always)]
fn scan(text: &[u8], position: usize) -> Component {
    let mut start = position;
    while text.get(start) == Some(&b'/') {
        start += 1;
    }
    let (length, hash) = NameHash::of_component(text.get(start..).unwrap_or(&[]));
    Component { start, end: start + length, hash }
}

/// Finds a child of a directory by name: `None` when there is none. The directory's lock is not held.
pub fn lookup_in(dir: &Arc<Dentry>, name: &[u8]) -> Result<Option<Arc<Dentry>>> {
    lookup_in_hashed(dir, name, NameHash::of(name))
}

#[inline]
fn lookup_in_hashed(dir: &Arc<Dentry>, name: &[u8], hash: NameHash) -> Result<Option<Arc<Dentry>>> {
    match dir.lookup_hashed(name, hash) {
        Cached::Found(dentry) => Ok(Some(dentry)),
        Cached::Absent => Ok(None),
        Cached::Unknown => {
            let _lock = dir.inode().lock.lock();
            lookup_locked(dir, name)
        }
    }
}

/// The same with the directory's lock held.
pub fn lookup_locked(dir: &Arc<Dentry>, name: &[u8]) -> Result<Option<Arc<Dentry>>> {
    match dir.lookup_cached(name) {
        Cached::Found(dentry) => return Ok(Some(dentry)),
        Cached::Absent => return Ok(None),
        Cached::Unknown => {}
    }
    let ops = dir.inode().ops();
    match ops.lookup(dir.inode(), name) {
        Ok(inode) if inode.ops().keep_dentry() => Ok(Some(dir.attach(name, inode))),
        Ok(inode) => Ok(Some(dir.new_volatile(name, inode))),
        Err(Errno::ENOENT) => {
            if ops.keep_negative() {
                dir.remember_absent(name);
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Walks `path` to its end. The empty path is `ENOENT`.
pub fn lookup(context: WalkContext<'_>, path: &[u8], last: Last) -> Result<Path> {
    let mut walker = Walker::new(context, path)?;
    walker.run(last)?;
    Ok(walker.at)
}

impl<'a> Walker<'a> {
    /// Stands at the start of `path`.
    #[inline(always)]
    pub fn new(context: WalkContext<'a>, path: &'a [u8]) -> Result<Self> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let WalkContext { mut root, mut base, creds, resolve } = context;
        if resolve & resolve::IN_ROOT != 0 {
            root = base.resolved().clone().into();
        }
        let is_absolute = path.first() == Some(&b'/');
        if is_absolute && resolve & resolve::BENEATH != 0 {
            return Err(Errno::EXDEV);
        }
        let at = if is_absolute { root.path() } else { base.path() };
        // The start is known again only where a walk must not leave it.
        let beneath = (resolve & resolve::BENEATH != 0).then(|| at.clone());
        Ok(Self {
            root,
            beneath,
            creds,
            resolve,
            at,
            path,
            text: None,
            position: 0,
            last: Component::default(),
            pending: Vec::new(),
            links: 0,
            must_be_dir: false,
        })
    }

    /// Who walks.
    pub fn creds(&self) -> &'a Creds {
        self.creds
    }

    fn current_text(&self) -> &[u8] {
        self.text.as_deref().unwrap_or(self.path)
    }

    /// The last component, after [`Self::to_parent`] answered [`LastKind::Name`].
    pub fn last(&self) -> &[u8] {
        &self.current_text()[self.last.start..self.last.end]
    }

    /// The next component; `None` at the end of all texts.
    #[inline(always)]
    fn next_component(&mut self) -> Option<Component> {
        loop {
            let found = scan(self.current_text(), self.position);
            if found.end > found.start {
                self.position = found.end;
                return Some(found);
            }
            let (text, position) = self.pending.pop()?;
            self.text = text;
            self.position = position;
        }
    }

    /// Whether only slashes are left; notes whether there are any.
    fn is_at_end(&mut self) -> bool {
        if !self.pending.is_empty() {
            return false;
        }
        let rest = &self.current_text()[self.position..];
        let only_slashes = rest.iter().all(|byte| *byte == b'/');
        if only_slashes && !rest.is_empty() {
            self.must_be_dir = true;
        }
        only_slashes
    }

    /// Walks until only the last component is left.
    pub fn to_parent(&mut self) -> Result<LastKind> {
        loop {
            let Some(component) = self.next_component() else { return Ok(LastKind::Root) };
            let is_last = self.is_at_end();
            if !self.at.dentry.inode().is_dir() {
                return Err(Errno::ENOTDIR);
            }
            check_search(self.at.dentry.inode(), self.creds)?;
            match &self.current_text()[component.start..component.end] {
                b"." if is_last => return Ok(LastKind::Dot),
                b"." => {}
                b".." if is_last => return Ok(LastKind::DotDot),
                b".." => self.ascend()?,
                name if name.len() > NAME_MAX => return Err(Errno::ENAMETOOLONG),
                _ if is_last => {
                    self.last = component;
                    return Ok(LastKind::Name);
                }
                name => {
                    let child = lookup_in_hashed(&self.at.dentry, name, component.hash)?.ok_or(Errno::ENOENT)?;
                    self.step_into(child, Last::Follow)?;
                }
            }
        }
    }

    /// Goes to a child: through mounts, and into a symbolic link if it is to be followed. `true`: a link's text is to be
    /// walked next, the walker still stands in the directory.
    #[inline]
    fn step_into(&mut self, child: Arc<Dentry>, last: Last) -> Result<bool> {
        if child.inode().is_symlink() && last == Last::Follow {
            return self.enter_link(&child);
        }
        self.go_to(child)?;
        Ok(false)
    }

    /// Goes to a child that is not to be followed as a link, through what is mounted on it.
    #[inline]
    pub fn go_to(&mut self, child: Arc<Dentry>) -> Result<()> {
        self.at.dentry = child;
        if self.at.dentry.is_mountpoint() {
            let before = self.at.mount.id;
            mount::follow_down(&mut self.at);
            if self.at.mount.id != before && self.resolve & resolve::NO_XDEV != 0 {
                return Err(Errno::EXDEV);
            }
        }
        Ok(())
    }

    /// Follows a symbolic link that is a child of where the walker stands. `true`: its text is to be walked next.
    pub fn enter_link(&mut self, link: &Arc<Dentry>) -> Result<bool> {
        self.links += 1;
        let flags = self.resolve;
        if self.links > MAX_LINKS || flags & resolve::NO_SYMLINKS != 0 {
            return Err(Errno::ELOOP);
        }
        let inode = link.inode();
        let is_last = self.pending.is_empty() && self.current_text()[self.position..].iter().all(|byte| *byte == b'/');
        if is_last {
            permission::may_follow(self.at.dentry.inode(), inode, self.creds)?;
        }
        match inode.ops().follow_link(inode)? {
            LinkTarget::Jump(place) => {
                if flags & resolve::NO_MAGICLINKS != 0 {
                    return Err(Errno::ELOOP);
                }
                if flags & (resolve::BENEATH | resolve::IN_ROOT) != 0 {
                    return Err(Errno::EXDEV);
                }
                self.at = place;
                Ok(false)
            }
            LinkTarget::Text(text) => {
                if self.at.mount.flags() & mount::mnt::NOATIME == 0 && !self.at.mount.is_read_only() {
                    inode.touch_accessed();
                }
                let first = *text.first().ok_or(Errno::ENOENT)?;
                if first == b'/' {
                    if flags & resolve::BENEATH != 0 {
                        return Err(Errno::EXDEV);
                    }
                    self.at = self.root.path();
                }
                let rest = &self.current_text()[self.position..];
                if !rest.iter().all(|byte| *byte == b'/') {
                    let outer = (self.text.take(), self.position);
                    self.pending.push(outer);
                }
                self.text = Some(text);
                self.position = 0;
                Ok(true)
            }
        }
    }

    /// Goes to `..`, across mounts, but not above the root (Linux `follow_dotdot`).
    pub fn ascend(&mut self) -> Result<()> {
        let flags = self.resolve;
        loop {
            if self.beneath.as_ref().is_some_and(|start| start.is_same(&self.at)) {
                return Err(Errno::EXDEV);
            }
            if self.root.resolved().is_same(&self.at) {
                break;
            }
            if !Arc::ptr_eq(&self.at.dentry, &self.at.mount.root) {
                if let Some(parent) = self.at.dentry.parent() {
                    self.at.dentry = parent;
                }
                break;
            }
            let Some(below) = self.at.mount.mountpoint() else { break };
            if flags & resolve::NO_XDEV != 0 {
                return Err(Errno::EXDEV);
            }
            self.at = below;
        }
        mount::follow_down(&mut self.at);
        Ok(())
    }

    /// Goes to the last component, which [`Self::to_parent`] stopped before. `true`: it was a link whose text is to be
    /// walked, call [`Self::to_parent`] again. `ENOENT` if there is no such name.
    pub fn finish(&mut self, kind: LastKind, last: Last) -> Result<bool> {
        match kind {
            LastKind::Dot | LastKind::Root => {}
            LastKind::DotDot => self.ascend()?,
            LastKind::Name => {
                let child = lookup_in_hashed(&self.at.dentry, self.last(), self.last.hash)?.ok_or(Errno::ENOENT)?;
                let last = if self.must_be_dir { Last::Follow } else { last };
                if self.step_into(child, last)? {
                    return Ok(true);
                }
            }
        }
        if self.must_be_dir && !self.at.dentry.inode().is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(false)
    }

    /// Walks to the end.
    pub fn run(&mut self, last: Last) -> Result<()> {
        loop {
            let kind = self.to_parent()?;
            if !self.finish(kind, last)? {
                return Ok(());
            }
        }
    }
}

/// The path of a place as seen from `root`, for getcwd(2), /proc and log lines. `None`: it cannot be reached from there,
/// and the returned text starts at the top that was found.
pub fn path_from(path: &Path, root: Option<&Path>) -> (Vec<u8>, bool) {
    // A namespace's file that is mounted has the path of the mount.
    if path.mount.sb.is_pseudo && !(path.is_mount_root() && path.mount.mountpoint().is_some()) {
        return (path.dentry.name().to_vec(), true);
    }
    let mut parts: Vec<super::dentry::Name> = Vec::new();
    let mut at = path.clone();
    let reached = loop {
        if root.is_some_and(|root| root.is_same(&at)) {
            break true;
        }
        if Arc::ptr_eq(&at.dentry, &at.mount.root) {
            match at.mount.mountpoint() {
                Some(below) => at = below,
                // The top of this namespace, or of a mount that was taken away.
                None => break root.is_none(),
            }
            continue;
        }
        let (parent, name) = at.dentry.place();
        parts.push(name);
        match parent {
            Some(parent) => at.dentry = parent,
            None => break false,
        }
    };
    let mut text = Vec::new();
    for name in parts.iter().rev() {
        text.push(b'/');
        text.extend_from_slice(name);
    }
    if text.is_empty() {
        text.push(b'/');
    }
    (text, reached)
}

/// The path of a dentry inside its file system.
pub fn path_in_fs(dentry: &Arc<Dentry>) -> Vec<u8> {
    let mut parts = Vec::new();
    let (mut parent, mut name) = dentry.place();
    if dentry.inode().sb.is_pseudo {
        return name.to_vec();
    }
    while let Some(dentry) = parent {
        parts.push(name);
        (parent, name) = dentry.place();
    }
    if parts.is_empty() {
        return b"/".to_vec();
    }
    parts.iter().rev().flat_map(|name| [b"/", &**name].concat()).collect()
}

/// The same as Linux's `d_path` shows it: ` (deleted)` behind what has no name any more.
pub fn display_path(path: &Path, root: Option<&Path>) -> Vec<u8> {
    let (mut text, _) = path_from(path, root);
    if path.dentry.is_unlinked() {
        text.extend_from_slice(b" (deleted)");
    }
    text
}
