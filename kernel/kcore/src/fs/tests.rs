//! The VFS and tmpfs on a hosted machine that has memory but no tasks: whoever acts is named in each call.

use std::sync::Arc;

use abi::Errno;
use abi::fcntl as f;
use abi::stat as s;
use hal::hosted::{Config, Machine};

use super::create::{self, Node};
use super::fdtable::{Files, OnExec};
use super::file::{DirSink, File, FileMode, OpsRef};
use super::lock::{self, Kind, OwnerId, RangeLock, Wait};
use super::mount::{self, Mount, Path};
use super::namei::{Last, WalkContext, display_path, lookup, path_from};
use super::open::{OpenHow, open, open_program};
use super::{initramfs, tmpfs};
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::task::Creds;

fn on_machine(body: impl FnOnce() + 'static) {
    with_initramfs(Vec::new(), body);
}

fn with_initramfs(initramfs: Vec<u8>, body: impl FnOnce() + 'static) {
    let config = Config { ram_bytes: 16 << 20, initramfs, ..Config::default() };
    let done = Machine::new(config).run(|| {
        crate::mm::frame::init();
        body();
    });
    assert!(done.is_ok(), "{done:?}");
}

fn user(uid: u32) -> Creds {
    Creds {
        uid,
        euid: uid,
        suid: uid,
        fsuid: uid,
        gid: uid,
        egid: uid,
        sgid: uid,
        fsgid: uid,
        cap_effective: 0,
        ..Creds::root()
    }
}

fn as_user<'c>(creds: &'c Creds) -> WalkContext<'c> {
    let root = mount::initial_namespace().root();
    WalkContext { base: root.clone().into(), root: root.into(), creds, resolve: 0 }
}

/// What tests do as root, in short words.
struct Root(Creds);

impl Root {
    fn new() -> Self {
        Self(Creds::root())
    }

    fn cx(&self) -> WalkContext<'_> {
        as_user(&self.0)
    }

    fn find(&self, path: &str) -> Result<Path> {
        lookup(self.cx(), path.as_bytes(), Last::Follow)
    }

    fn ino(&self, path: &str) -> Result<u64> {
        self.find(path).map(|place| place.dentry.inode().ino)
    }

    fn mkdir(&self, path: &str) -> Result<()> {
        self.mkdir_mode(path, 0o755)
    }

    fn mkdir_mode(&self, path: &str, mode: u32) -> Result<()> {
        create::make(self.cx(), path.as_bytes(), &Node { mode: s::S_IFDIR | mode, rdev: 0, target: b"" }).map(drop)
    }

    fn symlink(&self, target: &str, path: &str) -> Result<()> {
        let node = Node { mode: s::S_IFLNK | 0o777, rdev: 0, target: target.as_bytes() };
        create::make(self.cx(), path.as_bytes(), &node).map(drop)
    }

    fn open(&self, path: &str, flags: u32) -> Result<Arc<File>> {
        open(self.cx(), path.as_bytes(), OpenHow::new(flags, 0o644)?, 0o022)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.open(path, f::O_CREAT | f::O_WRONLY | f::O_TRUNC)?;
        file.write(&mut IoSrc::kernel(text.as_bytes())).map(drop)
    }

    fn read(&self, path: &str) -> Result<String> {
        let file = self.open(path, f::O_RDONLY)?;
        let mut bytes = vec![0; file.inode().size() as usize];
        let n = file.read_kernel(0, &mut bytes)?;
        bytes.truncate(n);
        Ok(String::from_utf8(bytes).expect("tests write text"))
    }

    fn rename(&self, old: &str, new: &str, flags: u32) -> Result<()> {
        create::rename(self.cx(), old.as_bytes(), self.cx(), new.as_bytes(), flags)
    }

    fn unlink(&self, path: &str) -> Result<()> {
        create::unlink(self.cx(), path.as_bytes())
    }

    fn rmdir(&self, path: &str) -> Result<()> {
        create::rmdir(self.cx(), path.as_bytes())
    }

    fn link(&self, old: &str, new: &str) -> Result<()> {
        let old = lookup(self.cx(), old.as_bytes(), Last::NoFollow)?;
        create::link(&old, self.cx(), new.as_bytes())
    }

    fn nlink(&self, path: &str) -> u32 {
        self.find(path).expect("exists").dentry.inode().nlink()
    }

    fn list(&self, path: &str) -> Vec<String> {
        let file = self.open(path, f::O_RDONLY | f::O_DIRECTORY).expect("a directory");
        let mut names = Names(Vec::new(), usize::MAX);
        file.ops().iterate(&file, &mut names, &mut 0).expect("listed");
        names.0
    }

    fn mount_tmpfs(&self, at: &str, options: &str) -> Arc<Mount> {
        let options = tmpfs::Options::for_tmpfs(&self.0).parse(options.as_bytes()).expect("good options");
        let sb = tmpfs::new_super(&tmpfs::TMPFS, s::TMPFS_MAGIC, &options).expect("an instance");
        let root = sb.root().expect("has a root");
        let mount = Mount::new(sb, root, Arc::from(&b"none"[..]), 0);
        mount::initial_namespace().attach(mount.clone(), self.find(at).expect("exists")).expect("mounted");
        mount
    }
}

struct Names(Vec<String>, usize);

impl DirSink for Names {
    fn emit(&mut self, name: &[u8], _ino: u64, _kind: u8, _next: u64) -> bool {
        if self.0.len() == self.1 {
            return false;
        }
        self.0.push(String::from_utf8_lossy(name).into_owned());
        true
    }
}

#[test]
fn a_path_leads_through_links_and_dots() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/a").unwrap();
        root.mkdir("/a/b").unwrap();
        root.write("/a/b/file", "x").unwrap();
        root.symlink("b", "/a/link").unwrap();
        root.symlink("/a/link/../b/file", "/abs").unwrap();
        let ino = root.ino("/a/b/file");
        assert!(ino.is_ok());
        assert_eq!(root.ino("/a/link/file"), ino);
        assert_eq!(root.ino("//a/./link//../../a/b/file"), ino);
        assert_eq!(root.ino("/abs"), ino);
        assert_eq!(root.ino("/../../abs"), ino);
        assert_eq!(root.ino(""), Err(Errno::ENOENT));
        assert_eq!(root.ino("/a/none"), Err(Errno::ENOENT));
        assert_eq!(root.ino("/a/none/x"), Err(Errno::ENOENT));
        assert_eq!(root.ino("/a/b/file/"), Err(Errno::ENOTDIR));
        assert_eq!(root.ino("/a/b/file/x"), Err(Errno::ENOTDIR));
        assert_eq!(root.ino(&format!("/a/{}", "n".repeat(256))), Err(Errno::ENAMETOOLONG));
        assert_eq!(root.ino(&format!("/a/{}", "n".repeat(255))), Err(Errno::ENOENT));
    });
}

#[test]
fn forty_links_are_followed_and_no_more() {
    on_machine(|| {
        let root = Root::new();
        root.write("/l0", "").unwrap();
        for n in 1..=41 {
            root.symlink(&format!("l{}", n - 1), &format!("/l{n}")).unwrap();
        }
        assert_eq!(root.ino("/l40"), root.ino("/l0"));
        assert_eq!(root.ino("/l41"), Err(Errno::ELOOP));
        root.symlink("loop", "/loop").unwrap();
        assert_eq!(root.ino("/loop"), Err(Errno::ELOOP));
    });
}

#[test]
fn dot_dot_ends_at_a_changed_root() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/jail").unwrap();
        root.mkdir("/jail/in").unwrap();
        root.write("/out", "").unwrap();
        let jail = root.find("/jail").unwrap();
        let context = || WalkContext { root: jail.clone().into(), base: jail.clone().into(), ..root.cx() };
        let up = lookup(context(), b"in/../../..", Last::Follow).unwrap();
        assert!(up.is_same(&jail));
        assert_eq!(lookup(context(), b"/../out", Last::Follow).err(), Some(Errno::ENOENT));
    });
}

#[test]
fn a_walk_needs_search_permission() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir_mode("/secret", 0o700).unwrap();
        root.write("/secret/file", "").unwrap();
        let someone = user(1000);
        assert_eq!(lookup(as_user(&someone), b"/secret/file", Last::Follow).err(), Some(Errno::EACCES));
        assert_eq!(lookup(as_user(&someone), b"/secret/none", Last::Follow).err(), Some(Errno::EACCES));
        assert!(lookup(as_user(&someone), b"/secret", Last::Follow).is_ok());
    });
}

#[test]
fn making_says_what_linux_says() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/d").unwrap();
        assert_eq!(root.mkdir("/d"), Err(Errno::EEXIST));
        assert_eq!(root.mkdir("/"), Err(Errno::EEXIST));
        assert_eq!(root.mkdir("/d/."), Err(Errno::EEXIST));
        assert_eq!(root.mkdir("/none/x"), Err(Errno::ENOENT));
        assert_eq!(root.mkdir("/d/new/"), Ok(()));
        let file = Node { mode: s::S_IFREG | 0o644, rdev: 0, target: b"" };
        assert_eq!(create::make(root.cx(), b"/d/x/", &file).err(), Some(Errno::ENOENT));
        let someone = user(1000);
        assert_eq!(create::make(as_user(&someone), b"/d/x", &file).err(), Some(Errno::EACCES));
        assert_eq!(create::make(as_user(&someone), b"/d/new", &file).err(), Some(Errno::EEXIST));
        assert_eq!(root.nlink("/d"), 3);
        assert_eq!(root.find("/d").unwrap().dentry.inode().size(), 60);
    });
}

#[test]
fn removing_says_what_linux_says() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/d").unwrap();
        root.mkdir("/d/e").unwrap();
        root.write("/d/f", "").unwrap();
        assert_eq!(root.rmdir("/d"), Err(Errno::ENOTEMPTY));
        assert_eq!(root.rmdir("/d/."), Err(Errno::EINVAL));
        assert_eq!(root.rmdir("/d/.."), Err(Errno::ENOTEMPTY));
        assert_eq!(root.rmdir("/"), Err(Errno::EBUSY));
        assert_eq!(root.rmdir("/d/f"), Err(Errno::ENOTDIR));
        assert_eq!(root.unlink("/d/e"), Err(Errno::EISDIR));
        assert_eq!(root.unlink("/d/f/"), Err(Errno::ENOTDIR));
        assert_eq!(root.unlink("/d/none"), Err(Errno::ENOENT));
        let place = root.find("/d/e").unwrap();
        assert_eq!(root.rmdir("/d/e"), Ok(()));
        let inside = WalkContext { base: place.clone().into(), ..root.cx() };
        let node = Node { mode: s::S_IFREG | 0o644, rdev: 0, target: b"" };
        assert_eq!(create::make(inside, b"x", &node).err(), Some(Errno::ENOENT));
        assert_eq!(display_path(&place, None), b"/d/e (deleted)");
        assert_eq!(root.unlink("/d/f"), Ok(()));
        assert_eq!(root.rmdir("/d"), Ok(()));
    });
}

#[test]
fn the_sticky_bit_protects_other_peoples_files() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir_mode("/tmp", 0o1777).unwrap();
        let (a, b) = (user(1), user(2));
        let node = Node { mode: s::S_IFREG | 0o666, rdev: 0, target: b"" };
        create::make(as_user(&a), b"/tmp/mine", &node).unwrap();
        assert_eq!(create::unlink(as_user(&b), b"/tmp/mine"), Err(Errno::EPERM));
        assert_eq!(create::rename(as_user(&b), b"/tmp/mine", as_user(&b), b"/tmp/x", 0), Err(Errno::EPERM));
        assert_eq!(create::unlink(as_user(&a), b"/tmp/mine"), Ok(()));
    });
}

#[test]
fn renames_replace_exchange_and_refuse() {
    on_machine(|| {
        let root = Root::new();
        for dir in ["/a", "/a/b", "/c", "/c/full"] {
            root.mkdir(dir).unwrap();
        }
        root.write("/a/x", "x").unwrap();
        root.write("/c/y", "y").unwrap();
        assert_eq!(root.rename("/a", "/a/b/inside", 0), Err(Errno::EINVAL));
        assert_eq!(root.rename("/a/b", "/a", 0), Err(Errno::ENOTEMPTY));
        assert_eq!(root.rename("/a/b", "/c", 0), Err(Errno::ENOTEMPTY));
        assert_eq!(root.rename("/a/b", "/c/y", 0), Err(Errno::ENOTDIR));
        assert_eq!(root.rename("/a/x", "/c/full", 0), Err(Errno::EISDIR));
        assert_eq!(root.rename("/a/x", "/c/y", f::RENAME_NOREPLACE), Err(Errno::EEXIST));
        assert_eq!(root.rename("/a/x", "/c/none", f::RENAME_EXCHANGE), Err(Errno::ENOENT));
        assert_eq!(root.rename("/a/x", "/c/new/", 0), Err(Errno::ENOTDIR));
        assert_eq!(root.rename("/a/.", "/c/z", 0), Err(Errno::EBUSY));
        assert_eq!(root.rename("/a/x", "/c/y", f::RENAME_EXCHANGE), Ok(()));
        assert_eq!((root.read("/a/x").as_deref(), root.read("/c/y").as_deref()), (Ok("y"), Ok("x")));
        assert_eq!(root.rename("/a/x", "/c/y", 0), Ok(()));
        assert_eq!(root.read("/c/y").as_deref(), Ok("y"));
        assert_eq!(root.ino("/a/x"), Err(Errno::ENOENT));
        assert_eq!(root.rename("/a/b", "/c/full", 0), Ok(()));
        assert_eq!((root.nlink("/a"), root.nlink("/c")), (2, 3));
        let (path, reached) = path_from(&root.find("/c/full").unwrap(), Some(&root.find("/").unwrap()));
        assert_eq!((&*path, reached), (&b"/c/full"[..], true));
    });
}

#[test]
fn hard_links_share_a_file() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/d").unwrap();
        root.write("/f", "one").unwrap();
        root.link("/f", "/d/g").unwrap();
        assert_eq!(root.nlink("/f"), 2);
        assert_eq!(root.ino("/f"), root.ino("/d/g"));
        assert_eq!(root.link("/d", "/e"), Err(Errno::EPERM));
        assert_eq!(root.link("/f", "/d/g"), Err(Errno::EEXIST));
        // Two names of one file: rename does nothing.
        assert_eq!(root.rename("/f", "/d/g", 0), Ok(()));
        assert!(root.ino("/f").is_ok());
        root.unlink("/f").unwrap();
        assert_eq!((root.nlink("/d/g"), root.read("/d/g").as_deref()), (1, Ok("one")));
    });
}

#[test]
fn open_makes_finds_and_refuses() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/d").unwrap();
        root.write("/f", "text").unwrap();
        root.symlink("target", "/dangling").unwrap();
        let err = |path: &str, flags: u32| root.open(path, flags).err();
        assert_eq!(err("/f", f::O_CREAT | f::O_EXCL), Some(Errno::EEXIST));
        assert_eq!(err("/dangling", f::O_CREAT | f::O_EXCL), Some(Errno::EEXIST));
        assert_eq!(err("/dangling", f::O_RDONLY), Some(Errno::ENOENT));
        assert_eq!(err("/dangling", f::O_NOFOLLOW), Some(Errno::ELOOP));
        assert_eq!(err("/dangling", f::O_NOFOLLOW | f::O_PATH), None);
        assert_eq!(err("/f", f::O_DIRECTORY), Some(Errno::ENOTDIR));
        assert_eq!(err("/d", f::O_WRONLY), Some(Errno::EISDIR));
        assert_eq!(err("/d", f::O_CREAT), Some(Errno::EISDIR));
        assert_eq!(err("/new/", f::O_CREAT), Some(Errno::EISDIR));
        assert_eq!(err("/f", f::O_CREAT | f::O_DIRECTORY), Some(Errno::EINVAL));
        assert_eq!(err("/dangling", f::O_CREAT | f::O_WRONLY), None);
        assert!(root.ino("/target").is_ok());
        drop(root.open("/f", f::O_WRONLY | f::O_TRUNC).unwrap());
        assert_eq!(root.read("/f").as_deref(), Ok(""));
        assert_eq!(root.find("/f").unwrap().dentry.inode().mode(), s::S_IFREG | 0o644);
    });
}

#[test]
fn a_running_program_and_a_writer_exclude_each_other() {
    on_machine(|| {
        let root = Root::new();
        root.write("/prog", "#!").unwrap();
        assert_eq!(open_program(root.cx(), b"/prog", Last::Follow).err(), Some(Errno::EACCES));
        root.find("/prog").unwrap().dentry.inode().set_permissions(0o755);
        let writer = root.open("/prog", f::O_WRONLY).unwrap();
        assert_eq!(open_program(root.cx(), b"/prog", Last::Follow).err(), Some(Errno::ETXTBSY));
        drop(writer);
        let running = open_program(root.cx(), b"/prog", Last::Follow).unwrap();
        assert_eq!(root.open("/prog", f::O_RDWR).err(), Some(Errno::ETXTBSY));
        assert!(root.open("/prog", f::O_RDONLY).is_ok());
        drop(running);
        assert!(root.open("/prog", f::O_RDWR).is_ok());
    });
}

#[test]
fn a_file_without_a_name_may_get_one() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/d").unwrap();
        let file = root.open("/d", f::O_TMPFILE | f::O_RDWR).unwrap();
        file.write(&mut IoSrc::kernel(b"late")).unwrap();
        assert_eq!(root.list("/d"), [".", ".."]);
        create::link(&file.path, root.cx(), b"/d/name").unwrap();
        assert_eq!(root.read("/d/name").as_deref(), Ok("late"));
        let gone = root.open("/d/name", f::O_RDONLY).unwrap();
        root.unlink("/d/name").unwrap();
        drop(file);
        assert_eq!(gone.inode().nlink(), 0);
    });
}

#[test]
fn files_are_sparse_and_append_at_their_end() {
    on_machine(|| {
        let root = Root::new();
        let file = root.open("/f", f::O_CREAT | f::O_RDWR).unwrap();
        file.write_at(&mut IoSrc::kernel(b"tail"), 3 * 4096).unwrap();
        assert_eq!(file.inode().size(), 3 * 4096 + 4);
        assert_eq!(file.inode().attributes().blocks, 8);
        assert_eq!(file.seek(0, f::SEEK_DATA), Ok(3 * 4096));
        assert_eq!(file.seek(0, f::SEEK_HOLE), Ok(0));
        assert_eq!(file.seek(3 * 4096, f::SEEK_HOLE), Ok(3 * 4096 + 4));
        assert_eq!(file.seek(1 << 20, f::SEEK_DATA), Err(Errno::ENXIO));
        assert_eq!(file.seek(-1, f::SEEK_SET), Err(Errno::EINVAL));
        let mut zeros = [1u8; 8];
        assert_eq!(file.read_at(&mut IoDst::kernel(&mut zeros), 4096), Ok(8));
        assert_eq!(zeros, [0; 8]);
        let appender = root.open("/f", f::O_WRONLY | f::O_APPEND).unwrap();
        appender.write(&mut IoSrc::kernel(b"!")).unwrap();
        assert_eq!(file.inode().size(), 3 * 4096 + 5);
        file.ops().fallocate(&file, f::FALLOC_FL_PUNCH_HOLE | f::FALLOC_FL_KEEP_SIZE, 3 * 4096, 4096).unwrap();
        assert_eq!(file.inode().attributes().blocks, 0);
        let cut = super::SetAttributes { size: Some(100), ..Default::default() };
        file.inode().ops().setattr(file.inode(), &cut).unwrap();
        assert_eq!((file.inode().size(), file.inode().attributes().blocks), (100, 0));
    });
}

#[test]
fn an_instance_ends_with_enospc_and_gives_space_back() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/m").unwrap();
        let mount = root.mount_tmpfs("/m", "size=16k,nr_inodes=4");
        let file = root.open("/m/f", f::O_CREAT | f::O_RDWR).unwrap();
        let data = vec![7u8; 5 * 4096];
        assert_eq!(file.write(&mut IoSrc::kernel(&data)), Ok(4 * 4096));
        assert_eq!(file.write(&mut IoSrc::kernel(b"x")), Err(Errno::ENOSPC));
        // Writing over what is there needs no space.
        assert_eq!(file.write_at(&mut IoSrc::kernel(b"y"), 0), Ok(1));
        assert_eq!(mount.sb.ops.statfs(&mount.sb).unwrap().f_bfree, 0);
        root.write("/m/a", "").unwrap();
        root.write("/m/b", "").unwrap();
        assert_eq!(root.write("/m/c", ""), Err(Errno::ENOSPC));
        drop(file);
        root.unlink("/m/f").unwrap();
        let info = mount.sb.ops.statfs(&mount.sb).unwrap();
        assert_eq!((info.f_bfree, info.f_ffree), (4, 1));
    });
}

#[test]
fn mounts_cover_move_and_go() {
    on_machine(|| {
        let root = Root::new();
        for dir in ["/m", "/n", "/b"] {
            root.mkdir(dir).unwrap();
        }
        root.write("/m/under", "").unwrap();
        let mount = root.mount_tmpfs("/m", "mode=755");
        assert_eq!(root.ino("/m/under"), Err(Errno::ENOENT));
        root.write("/m/over", "1").unwrap();
        root.mkdir("/m/sub").unwrap();
        assert!(root.find("/m/..").unwrap().is_same(&root.find("/").unwrap()));
        assert_eq!(root.rename("/m/over", "/n/x", 0), Err(Errno::EXDEV));
        assert_eq!(root.link("/m/over", "/n/x"), Err(Errno::EXDEV));
        let namespace = mount::initial_namespace();
        namespace.bind(&root.find("/m/sub").unwrap(), root.find("/b").unwrap(), false).unwrap();
        root.write("/b/seen", "2").unwrap();
        assert_eq!(root.read("/m/sub/seen").as_deref(), Ok("2"));
        namespace.move_mount(&root.find("/m").unwrap(), root.find("/n").unwrap()).unwrap();
        assert!(root.ino("/m/under").is_ok() && root.ino("/n/over").is_ok());
        drop(mount);
        let open = root.open("/n/over", f::O_RDONLY).unwrap();
        assert_eq!(namespace.unmount(root.find("/n").unwrap(), false), Err(Errno::EBUSY));
        drop(open);
        assert_eq!(namespace.unmount(root.find("/n").unwrap(), false), Ok(()));
        assert_eq!(namespace.unmount(root.find("/n").unwrap(), false), Err(Errno::EINVAL));
        assert_eq!(root.read("/b/seen").as_deref(), Ok("2"));
        assert_eq!(namespace.unmount(root.find("/b").unwrap(), false), Ok(()));
        assert_eq!(root.list("/b"), [".", ".."]);
    });
}

#[test]
fn a_very_deep_tree_goes_without_deep_recursion() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/m").unwrap();
        drop(root.mount_tmpfs("/m", "nr_inodes=0"));
        let mut place = root.find("/m").unwrap();
        let node = Node { mode: s::S_IFDIR | 0o755, rdev: 0, target: b"" };
        for _ in 0..30_000 {
            let inside = WalkContext { base: place.into(), ..root.cx() };
            place = create::make(inside, b"d", &node).unwrap();
        }
        drop(place);
        mount::initial_namespace().unmount(root.find("/m").unwrap(), true).unwrap();
        assert_eq!(root.list("/m"), [".", ".."]);
    });
}

#[test]
fn mounts_are_listed_as_linux_lists_them() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/with space").unwrap();
        root.mount_tmpfs("/with space", "size=1m,mode=700");
        let mut text = String::new();
        let namespace = mount::initial_namespace();
        mount::show_mounts(&namespace, &root.find("/").unwrap(), &mut text).unwrap();
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("none /with\\040space tmpfs rw,size=1024k,"), "{line}");
        assert!(line.ends_with(",mode=700 0 0"), "{line}");
    });
}

#[test]
fn a_read_only_mount_refuses_changes() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/m").unwrap();
        root.mount_tmpfs("/m", "");
        root.write("/m/f", "").unwrap();
        let place = root.find("/m").unwrap();
        let writer = root.open("/m/f", f::O_WRONLY).unwrap();
        let namespace = mount::initial_namespace();
        assert_eq!(namespace.remount(&place, mount::mnt::READONLY, Some(b"")), Err(Errno::EBUSY));
        drop(writer);
        namespace.remount(&place, mount::mnt::READONLY, Some(b"")).unwrap();
        assert_eq!(root.open("/m/f", f::O_WRONLY).err(), Some(Errno::EROFS));
        assert_eq!(root.mkdir("/m/d"), Err(Errno::EROFS));
        assert_eq!(root.mkdir("/m/f"), Err(Errno::EEXIST));
        assert_eq!(root.unlink("/m/f"), Err(Errno::EROFS));
        assert!(root.open("/m/f", f::O_RDONLY).is_ok());
    });
}

#[test]
fn a_directory_can_be_read_while_it_changes() {
    on_machine(|| {
        let root = Root::new();
        root.mkdir("/d").unwrap();
        for n in 0..20 {
            root.write(&format!("/d/{n}"), "").unwrap();
        }
        let file = root.open("/d", f::O_RDONLY).unwrap();
        let mut offset = 0;
        let mut seen = Vec::new();
        loop {
            let mut some = Names(Vec::new(), 3);
            file.ops().iterate(&file, &mut some, &mut offset).unwrap();
            if some.0.is_empty() {
                break;
            }
            for name in some.0.iter().filter(|name| !name.starts_with('.')) {
                root.unlink(&format!("/d/{name}")).unwrap();
            }
            seen.extend(some.0);
        }
        assert_eq!(seen.len(), 22);
        assert_eq!(root.list("/d"), [".", ".."]);
    });
}

#[test]
fn descriptors_are_the_lowest_free() {
    on_machine(|| {
        let root = Root::new();
        root.write("/f", "").unwrap();
        let file = root.open("/f", f::O_RDONLY).unwrap();
        let files = Files::new();
        for n in 0..70 {
            assert_eq!(files.add(file.clone(), 0, 1024, OnExec::Keep), Ok(n));
        }
        files.close(3).unwrap();
        files.close(66).unwrap();
        assert_eq!(files.close(3), Err(Errno::EBADF));
        assert_eq!(files.add(file.clone(), 0, 1024, OnExec::Close), Ok(3));
        assert_eq!(files.add(file.clone(), 10, 1024, OnExec::Keep), Ok(66));
        assert_eq!(files.add(file.clone(), 0, 70, OnExec::Keep), Err(Errno::EMFILE));
        assert_eq!(files.reserve(0, 1024, OnExec::Keep), Ok(70));
        assert_eq!(files.get(70).err(), Some(Errno::EBADF));
        assert_eq!(files.replace(70, file.clone(), 1024, OnExec::Keep), Err(Errno::EBUSY));
        files.unreserve(70);
        assert_eq!(files.replace(200, file.clone(), 1024, OnExec::Close), Ok(()));
        assert_eq!(files.replace(1024, file.clone(), 1024, OnExec::Keep), Err(Errno::EBADF));
        let copy = files.fork().unwrap();
        copy.close_on_exec();
        assert_eq!(copy.get(3).err(), Some(Errno::EBADF));
        assert_eq!(copy.get(200).err(), Some(Errno::EBADF));
        assert!(copy.get(4).is_ok() && files.get(3).is_ok());
        files.close_range(5, u32::MAX);
        assert_eq!(files.next_open(5).map(|(fd, _)| fd), None);
        drop((files, copy));
        assert_eq!(Arc::strong_count(&file), 1);
    });
}

fn range(owner: OwnerId, kind: Kind, start: u64, end: u64) -> RangeLock {
    RangeLock { owner, pid: 1, kind, start, end }
}

#[test]
fn record_locks_split_merge_and_conflict() {
    on_machine(|| {
        let root = Root::new();
        root.write("/f", "").unwrap();
        let file = root.open("/f", f::O_RDWR).unwrap();
        let inode = file.inode();
        let (a, b) = (Files::new(), Files::new());
        let (me, other) = (a.lock_owner(), b.lock_owner());
        let set = |lock: RangeLock| lock::set_range(inode, lock, Wait::No);
        set(range(me, Kind::Exclusive, 0, 99)).unwrap();
        assert_eq!(set(range(other, Kind::Shared, 50, 60)), Err(Errno::EAGAIN));
        lock::unlock_range(inode, &range(me, Kind::Exclusive, 40, 59));
        assert_eq!(set(range(other, Kind::Shared, 40, 59)), Ok(()));
        let seen = lock::test(inode, &range(other, Kind::Shared, 0, 1000)).unwrap();
        assert_eq!((seen.start, seen.end), (0, 39));
        // A shared lock over all of it: the middle is shared with the other.
        assert_eq!(set(range(me, Kind::Shared, 0, 99)), Ok(()));
        let seen = lock::test(inode, &range(other, Kind::Exclusive, 0, 1000)).unwrap();
        assert_eq!((seen.start, seen.end, seen.kind), (0, 99, Kind::Shared));
        // Any close of the file in the owner's table drops its locks.
        let fd = a.add(file.clone(), 0, 10, OnExec::Keep).unwrap();
        a.close(fd).unwrap();
        assert_eq!(set(range(other, Kind::Exclusive, 0, 1000)), Ok(()));
        drop(b);
    });
}

#[test]
fn flock_belongs_to_the_open_file() {
    on_machine(|| {
        let root = Root::new();
        root.write("/f", "").unwrap();
        let (a, b) = (root.open("/f", f::O_RDONLY).unwrap(), root.open("/f", f::O_RDONLY).unwrap());
        lock::flock(&a, Kind::Shared, 1, Wait::No).unwrap();
        lock::flock(&b, Kind::Shared, 1, Wait::No).unwrap();
        assert_eq!(lock::flock(&a, Kind::Exclusive, 1, Wait::No), Err(Errno::EAGAIN));
        drop(b);
        assert_eq!(lock::flock(&a, Kind::Exclusive, 1, Wait::No), Ok(()));
        let c = root.open("/f", f::O_RDONLY).unwrap();
        assert_eq!(lock::flock(&c, Kind::Shared, 1, Wait::No), Err(Errno::EAGAIN));
        lock::funlock(&a);
        assert_eq!(lock::flock(&c, Kind::Shared, 1, Wait::No), Ok(()));
    });
}

#[test]
fn a_memfd_keeps_its_seals() {
    on_machine(|| {
        let file = tmpfs::new_memfd(b"x", f::MFD_ALLOW_SEALING, &Creds::root()).unwrap();
        file.write(&mut IoSrc::kernel(b"data")).unwrap();
        let seal = |seals: u32| file.ops().fcntl(&file, f::F_ADD_SEALS, u64::from(seals));
        assert_eq!(seal(f::F_SEAL_GROW | f::F_SEAL_SHRINK), Ok(0));
        assert_eq!(file.write(&mut IoSrc::kernel(b"more")), Err(Errno::EPERM));
        assert_eq!(file.write_at(&mut IoSrc::kernel(b"DATA"), 0), Ok(4));
        assert_eq!(seal(f::F_SEAL_WRITE | f::F_SEAL_SEAL), Ok(0));
        assert_eq!(file.write_at(&mut IoSrc::kernel(b"data"), 0), Err(Errno::EPERM));
        assert_eq!(seal(f::F_SEAL_GROW), Err(Errno::EPERM));
        assert_eq!(display_path(&file.path, None), b"/memfd:x (deleted)");
    });
}

#[test]
fn o_path_files_are_places_only() {
    on_machine(|| {
        let root = Root::new();
        root.write("/f", "").unwrap();
        let file = root.open("/f", f::O_PATH | f::O_RDWR).unwrap();
        assert_eq!(file.mode(), FileMode::PATH);
        assert_eq!(file.read(&mut IoDst::kernel(&mut [0])), Err(Errno::EBADF));
        let files = Files::new();
        let fd = files.add(file, 0, 10, OnExec::Keep).unwrap();
        assert_eq!(files.get(fd).err(), Some(Errno::EBADF));
        assert!(files.get_any(fd).is_ok());
        assert!(matches!(OpsRef::Static(&super::libfs::DcacheDir), OpsRef::Static(_)));
    });
}

/// A cpio archive, by entries of name, mode, inode number, links and data.
fn archive(entries: &[(&str, u32, u32, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, mode, ino, nlink, data) in entries.iter().copied().chain([("TRAILER!!!", 0, 0, 1, &b""[..])]) {
        let fields = [ino, mode, 5, 6, nlink, 77, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        bytes.extend(b"070701");
        fields.iter().for_each(|field| bytes.extend(format!("{field:08x}").bytes()));
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

const REG: u32 = s::S_IFREG | 0o640;

fn unpack() -> Result<usize, String> {
    let (range, length) = hal::hosted::initramfs();
    initramfs::unpack(range, length)
}

#[test]
fn archives_follow_each_other_with_zeros_between() {
    let mut bytes = archive(&[
        ("dir", s::S_IFDIR | 0o750, 1, 2, b""),
        ("dir/file", REG, 2, 1, b"first"),
        ("link", s::S_IFLNK | 0o777, 3, 1, b"dir/file"),
        ("one", REG, 4, 2, b""),
        ("two", REG, 4, 2, b"shared"),
    ]);
    bytes.resize(bytes.len() + 508, 0);
    bytes.extend(archive(&[("./dir/file", REG, 2, 1, b"second"), ("deep/er", REG, 3, 1, b"made")]));
    with_initramfs(bytes, || {
        let root = Root::new();
        assert_eq!(unpack(), Ok(7));
        assert_eq!(root.read("/link").as_deref(), Ok("second"));
        assert_eq!((root.read("/one").as_deref(), root.nlink("/two")), (Ok("shared"), 2));
        assert_eq!(root.read("/deep/er").as_deref(), Ok("made"));
        let dir = root.find("/dir").unwrap();
        let inode = dir.dentry.inode();
        assert_eq!((inode.mode() & 0o7777, inode.uid(), inode.gid()), (0o750, 5, 6));
        assert_eq!(inode.times().mtime.tv_sec, 77);
    });
}

#[test]
fn aligned_data_is_used_in_place_and_can_be_written() {
    // The header of the second entry is placed so that its data begins on a page.
    let data = vec![b'p'; 5000];
    let filler = |n: usize| archive(&[("filler", REG, 1, 1, &vec![b'f'; n]), ("page", REG, 2, 1, &vec![b'p'; 5000])]);
    let start = |bytes: &[u8]| bytes.windows(100).position(|w| w.iter().all(|b| *b == b'p')).unwrap();
    let gap = 4096 - start(&filler(0)) % 4096;
    let bytes = filler(gap);
    assert_eq!(start(&bytes) % 4096, 0);
    with_initramfs(bytes, move || {
        let root = Root::new();
        let free = crate::mm::frame::free_count();
        assert_eq!(unpack(), Ok(2));
        assert_eq!(root.read("/page").unwrap().as_bytes(), data);
        // The filler took a page; the other file none.
        assert!(free - crate::mm::frame::free_count() <= 1 + gap.div_ceil(4096));
        let file = root.open("/page", f::O_RDWR).unwrap();
        file.write_at(&mut IoSrc::kernel(b"Q"), 4999).unwrap();
        assert!(root.read("/page").unwrap().ends_with("pQ"));
        file.write_at(&mut IoSrc::kernel(b"R"), 5000).unwrap();
        assert_eq!(root.read("/page").unwrap().len(), 5001);
    });
}

/// A gzip member with stored blocks.
fn gzip(data: &[u8], checksum: u32) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3];
    bytes.extend(b"name.cpio\0");
    bytes.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    bytes.extend(checksum.to_le_bytes());
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes
}

fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn a_compressed_archive_may_follow_a_plain_one() {
    let inner = archive(&[("zipped", REG, 1, 1, &vec![b'z'; 100_000])]);
    let mut bytes = archive(&[("plain", REG, 1, 1, b"p")]);
    bytes.extend(gzip(&inner, crc(&inner)));
    bytes.extend([0; 16]);
    bytes.extend(archive(&[("last", REG, 1, 1, b"l")]));
    with_initramfs(bytes, || {
        let root = Root::new();
        assert_eq!(unpack(), Ok(3));
        assert_eq!(root.read("/zipped").unwrap().len(), 100_000);
        assert_eq!(root.read("/last").as_deref(), Ok("l"));
    });
}

#[test]
fn a_broken_archive_is_told_not_unpacked_halfway_silently() {
    let good = archive(&[("file", REG, 1, 1, &vec![b'x'; 3000])]);
    let zipped = gzip(&good, 1);
    let mut half_zip = gzip(&good, crc(&good));
    half_zip.truncate(half_zip.len() / 2);
    let mut bad_digit = good.clone();
    bad_digit[20] = b'z';
    let cases = [
        (good[..1000].to_vec(), "truncated"),
        (good[..50].to_vec(), "truncated"),
        (b"garbage that is no archive".to_vec(), "junk"),
        (vec![0; 100], "junk"),
        (zipped, "checksum"),
        (half_zip, "compressed archive"),
        (bad_digit, "bad digit"),
    ];
    for (bytes, expected) in cases {
        with_initramfs(bytes, move || {
            let message = unpack().expect_err("broken");
            assert!(message.contains(expected), "{message}");
        });
    }
}
