//! Whole stories of mounts and mount namespaces: mount_namespaces(7), mount(2), umount2(2), pivot_root(2), setns(2).

use abi::fcntl as f;
use abi::{nr, sched as c};
use kcore::Errno;
use kcore::fs::mount::ms;
use kcore::testing::{Libc, Machine, free_frames};

const MNT_DETACH: u64 = 2;
const MNT_EXPIRE: u64 = 4;

/// mount(2) with the words of mount(8): an empty source or type is a null pointer.
fn mount<L: Libc>(user: &mut L, source: &str, target: &str, kind: &str, flags: u64) -> Result<(), Errno> {
    user.scoped(|user| {
        let mut text = |text: &str| if text.is_empty() { 0 } else { user.push_string(text) };
        let arguments = [text(source), text(target), text(kind), flags, 0];
        user.call(nr::MOUNT, &arguments).map(drop)
    })
}

fn tmpfs<L: Libc>(user: &mut L, at: &str) {
    mount(user, at.trim_start_matches('/'), at, "tmpfs", 0).expect("mounted");
}

fn set<L: Libc>(user: &mut L, at: &str, kind: u64) {
    mount(user, "", at, "", kind).expect("a mount");
}

fn umount<L: Libc>(user: &mut L, at: &str, flags: u64) -> Result<(), Errno> {
    user.scoped(|user| {
        let at = user.push_string(at);
        user.call(nr::UMOUNT2, &[at, flags]).map(drop)
    })
}

fn mkdir<L: Libc>(user: &mut L, paths: &[&str]) {
    for path in paths {
        user.scoped(|user| {
            let path = user.push_string(path);
            user.call(nr::MKDIRAT, &[f::AT_FDCWD as u64, path, 0o755]).expect("made")
        });
    }
}

fn touch<L: Libc>(user: &mut L, path: &str) {
    let fd = user.open(path, f::O_CREAT | f::O_WRONLY, 0o644).expect("made");
    user.call(nr::CLOSE, &[fd as u64]).expect("open");
}

fn exists<L: Libc>(user: &mut L, path: &str) -> bool {
    match user.open(path, f::O_RDONLY, 0) {
        Ok(fd) => user.call(nr::CLOSE, &[fd as u64]).is_ok(),
        Err(error) => {
            assert_eq!(error, Errno::ENOENT, "{path}");
            false
        }
    }
}

fn unlink<L: Libc>(user: &mut L, path: &str, flags: u64) -> Result<(), Errno> {
    user.scoped(|user| {
        let path = user.push_string(path);
        user.call(nr::UNLINKAT, &[f::AT_FDCWD as u64, path, flags]).map(drop)
    })
}

fn path_call<L: Libc>(user: &mut L, number: usize, paths: &[&str]) -> Result<(), Errno> {
    user.scoped(|user| {
        let paths: Vec<u64> = paths.iter().map(|path| user.push_string(path)).collect();
        user.call(number, &paths).map(drop)
    })
}

/// The text of a file of /proc.
fn text<L: Libc>(user: &mut L, path: &str) -> String {
    String::from_utf8(user.slurp(path).expect("there")).expect("text")
}

/// The optional fields of the mount at `place`: `shared`, `master` and so on, without the numbers.
fn tags<L: Libc>(user: &mut L, place: &str) -> Vec<String> {
    let all = text(user, "/proc/self/mountinfo");
    let line = all.lines().rev().find(|line| line.split(' ').nth(4) == Some(place)).expect("mounted");
    let fields = line.split(' ').skip(6).take_while(|field| *field != "-");
    fields.map(|field| field.split(':').next().unwrap().to_owned()).collect()
}

fn places<L: Libc>(user: &mut L) -> Vec<String> {
    text(user, "/proc/self/mounts").lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
}

fn with_proc(story: impl Fn(&mut hal::hosted::User) + 'static) {
    Machine::new().run(move |user| {
        mount(user, "proc", "/proc", "proc", 0).expect("mounted");
        story(user);
    });
}

/// mount_namespaces(7), "MS_SHARED and MS_PRIVATE example".
#[test]
fn what_is_mounted_on_a_shared_mount_is_seen_in_the_other_namespace() {
    with_proc(|user| {
        mkdir(user, &["/mntS", "/mntP"]);
        tmpfs(user, "/mntS");
        tmpfs(user, "/mntP");
        set(user, "/mntS", ms::SHARED);
        set(user, "/mntP", ms::PRIVATE);
        assert_eq!((tags(user, "/mntS"), tags(user, "/mntP")), (vec!["shared".into()], vec![]));
        mkdir(user, &["/mntS/a", "/mntS/b", "/mntP/b"]);
        let child = user.fork(|user| {
            user.call(nr::UNSHARE, &[c::CLONE_NEWNS]).expect("root may");
            assert_eq!(tags(user, "/mntS"), ["shared"]);
            tmpfs(user, "/mntS/a");
            tmpfs(user, "/mntP/b");
            touch(user, "/mntS/a/file");
            0
        });
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
        assert!(exists(user, "/mntS/a/file"), "the mount came over, and outlives the namespace");
        assert!(!places(user).contains(&"/mntP/b".to_owned()));
    });
}

/// mount_namespaces(7), "MS_SLAVE example".
#[test]
fn a_slave_hears_and_does_not_tell() {
    with_proc(|user| {
        mkdir(user, &["/x", "/y"]);
        tmpfs(user, "/x");
        set(user, "/x", ms::SHARED);
        mkdir(user, &["/x/sub"]);
        mount(user, "/x", "/y", "", ms::BIND).unwrap();
        assert_eq!(tags(user, "/y"), ["shared"]);
        set(user, "/y", ms::SLAVE);
        assert_eq!(tags(user, "/y"), ["master"]);
        tmpfs(user, "/x/sub");
        assert!(places(user).contains(&"/y/sub".to_owned()));
        assert_eq!(tags(user, "/y/sub"), ["master"]);
        umount(user, "/x/sub", 0).unwrap();
        assert!(!places(user).contains(&"/y/sub".to_owned()), "an unmount is an event too");
        tmpfs(user, "/y/sub");
        assert!(!places(user).contains(&"/x/sub".to_owned()));
        // A slave that is made shared has peers of its own, and passes on what it hears.
        set(user, "/y", ms::SHARED);
        assert_eq!(tags(user, "/y"), ["shared", "master"]);
        set(user, "/y", ms::PRIVATE);
        assert_eq!(tags(user, "/y"), Vec::<String>::new());
    });
}

#[test]
fn peers_and_slaves_of_slaves_all_hear_of_a_mount() {
    with_proc(|user| {
        mkdir(user, &["/a", "/b", "/c", "/d", "/e"]);
        tmpfs(user, "/a");
        mkdir(user, &["/a/m"]);
        set(user, "/a", ms::SHARED);
        // a - b peers; c a slave of them, d its peer; e a slave of c.
        mount(user, "/a", "/b", "", ms::BIND).unwrap();
        mount(user, "/a", "/c", "", ms::BIND).unwrap();
        set(user, "/c", ms::SLAVE);
        set(user, "/c", ms::SHARED);
        mount(user, "/c", "/d", "", ms::BIND).unwrap();
        mount(user, "/d", "/e", "", ms::BIND).unwrap();
        set(user, "/e", ms::SLAVE);
        tmpfs(user, "/b/m");
        touch(user, "/b/m/file");
        for place in ["/a", "/c", "/d", "/e"] {
            assert!(exists(user, &format!("{place}/m/file")), "{place}");
        }
        assert_eq!(tags(user, "/d/m"), ["shared", "master"]);
        assert_eq!(tags(user, "/e/m"), ["master"]);
        // The group of a and b goes; its slaves have no master any more, and those below them keep theirs.
        set(user, "/a", ms::PRIVATE);
        set(user, "/b", ms::PRIVATE);
        assert_eq!((tags(user, "/c"), tags(user, "/e")), (vec!["shared".to_owned()], vec!["master".to_owned()]));
        assert_eq!(umount(user, "/c/m", 0), Ok(()));
        assert!(!exists(user, "/d/m/file") && !exists(user, "/e/m/file") && exists(user, "/b/m/file"));
    });
}

#[test]
fn a_tree_with_unbindable_mounts_is_bound_without_them() {
    with_proc(|user| {
        mkdir(user, &["/t", "/copy"]);
        tmpfs(user, "/t");
        mkdir(user, &["/t/u", "/t/v"]);
        tmpfs(user, "/t/u");
        tmpfs(user, "/t/v");
        set(user, "/t/u", ms::UNBINDABLE);
        assert_eq!(tags(user, "/t/u"), ["unbindable"]);
        assert_eq!(mount(user, "/t/u", "/copy", "", ms::BIND), Err(Errno::EINVAL));
        mount(user, "/t", "/copy", "", ms::BIND | ms::REC).unwrap();
        let seen = places(user);
        assert!(seen.contains(&"/copy/v".to_owned()) && !seen.contains(&"/copy/u".to_owned()), "{seen:?}");
        // A new namespace has them.
        user.call(nr::UNSHARE, &[c::CLONE_NEWNS]).unwrap();
        assert_eq!(places(user), seen);
        assert_eq!(tags(user, "/t/u"), ["unbindable"]);
    });
}

#[test]
fn a_namespace_that_goes_leaves_nothing() {
    with_proc(|user| {
        mkdir(user, &["/m"]);
        tmpfs(user, "/m");
        set(user, "/m", ms::SHARED);
        set(user, "/", ms::SHARED);
        let once = |user: &mut hal::hosted::User| {
            let child = user.fork(|user| {
                user.call(nr::UNSHARE, &[c::CLONE_NEWNS | c::CLONE_NEWUTS]).expect("root may");
                set(user, "/", ms::PRIVATE | ms::REC);
                tmpfs(user, "/m");
                touch(user, "/m/file");
                0
            });
            assert_eq!(user.wait_for(child).exit_code(), Some(0));
        };
        (0..4).for_each(|_| once(user));
        let before = free_frames();
        // Each round mounts four times; caches settle within a few pages.
        (0..500).for_each(|_| once(user));
        assert!(free_frames() + 16 >= before, "{} frames of {before}", free_frames());
    });
}

#[test]
fn the_root_and_the_working_directory_go_with_the_copy() {
    with_proc(|user| {
        mkdir(user, &["/m"]);
        tmpfs(user, "/m");
        path_call(user, nr::CHDIR, &["/m"]).unwrap();
        let child = user.fork(|user| {
            user.call(nr::UNSHARE, &[c::CLONE_NEWNS]).expect("root may");
            touch(user, "inside");
            assert!(exists(user, "/m/inside"));
            assert_eq!(umount(user, "/m", 0), Err(Errno::EBUSY), "the copy is in use");
            path_call(user, nr::CHDIR, &["/"]).unwrap();
            assert_eq!(umount(user, "/m", 0), Ok(()));
            0
        });
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
        assert!(exists(user, "/m/inside"));
    });
}

#[test]
fn pivot_root_wants_what_the_man_page_says() {
    with_proc(|user| {
        mkdir(user, &["/new", "/plain"]);
        let pivot = |user: &mut hal::hosted::User, new: &str, old: &str| path_call(user, nr::PIVOT_ROOT, &[new, old]);
        assert_eq!(pivot(user, "/plain", "/plain"), Err(Errno::EBUSY), "on the root mount");
        tmpfs(user, "/new");
        mkdir(user, &["/new/old", "/new/proc"]);
        // The first root file system has no place to leave.
        assert_eq!(pivot(user, "/new", "/new/old"), Err(Errno::EINVAL));
        let child = user.fork(move |user| {
            user.call(nr::UNSHARE, &[c::CLONE_NEWNS]).expect("root may");
            // Over the root, as switch_root(8) does: now the root is a mount with a parent.
            path_call(user, nr::CHDIR, &["/new"]).unwrap();
            mount(user, ".", "/", "", ms::MOVE).unwrap();
            path_call(user, nr::CHROOT, &["."]).unwrap();
            path_call(user, nr::CHDIR, &["/"]).unwrap();
            mkdir(user, &["/next"]);
            tmpfs(user, "/next");
            mkdir(user, &["/next/old", "/next/proc"]);
            assert_eq!(pivot(user, "/next", "/old"), Err(Errno::EBUSY), "old is on the root mount");
            assert_eq!(pivot(user, "/next/old", "/next/old"), Err(Errno::EINVAL), "no mount point");
            set(user, "/next", ms::SHARED);
            assert_eq!(pivot(user, "/next", "/next/old"), Err(Errno::EINVAL), "shared");
            set(user, "/next", ms::PRIVATE);
            assert_eq!(pivot(user, "/next", "/next/old"), Ok(()));
            // Root and working directory are the new root's.
            assert!(exists(user, "/old/next") && exists(user, "old/next"));
            mount(user, "proc", "/proc", "proc", 0).unwrap();
            assert_eq!(places(user), ["/old", "/", "/proc"], "in the order of mounting");
            assert_eq!(umount(user, "/old", MNT_DETACH), Ok(()));
            assert_eq!(places(user), ["/", "/proc"]);
            0
        });
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
        assert!(exists(user, "/new/old"));
    });
}

#[test]
fn a_namespace_is_entered_by_its_file_or_by_a_pidfd() {
    with_proc(|user| {
        mkdir(user, &["/m"]);
        let child = user.fork(|user| {
            user.call(nr::UNSHARE, &[c::CLONE_NEWNS | c::CLONE_NEWUTS]).expect("root may");
            tmpfs(user, "/m");
            touch(user, "/m/file");
            path_call_with(user, nr::SETHOSTNAME, "inside");
            user.call(nr::PPOLL, &[0, 0, 0, 0]).map_or(1, |_| 0)
        });
        let pid = u64::try_from(child).unwrap();
        while !text(user, &format!("/proc/{child}/mounts")).contains(" /m ") {
            user.call(nr::SCHED_YIELD, &[]).unwrap();
        }
        let host = |user: &mut hal::hosted::User| text(user, "/proc/sys/kernel/hostname");
        let other = user.fork(move |user| {
            let file = user.open(&format!("/proc/{pid}/ns/mnt"), f::O_RDONLY, 0).unwrap() as u64;
            let own = user.open("/proc/self/ns/mnt", f::O_RDONLY, 0).unwrap() as u64;
            assert_eq!(user.call(nr::SETNS, &[file, c::CLONE_NEWUTS]), Err(Errno::EINVAL));
            let plain = user.open("/", f::O_RDONLY, 0).unwrap() as u64;
            assert_eq!(user.call(nr::SETNS, &[plain, 0]), Err(Errno::EINVAL));
            assert_eq!(user.call(nr::SETNS, &[99, 0]), Err(Errno::EBADF));
            assert_eq!(user.call(nr::SETNS, &[file, 0]), Ok(0));
            assert!(exists(user, "/m/file"));
            assert_eq!(user.call(nr::SETNS, &[own, c::CLONE_NEWNS]), Ok(0));
            assert!(!exists(user, "/m/file"));
            let pidfd = user.call(nr::PIDFD_OPEN, &[pid, 0]).unwrap();
            assert_eq!(user.call(nr::SETNS, &[pidfd, 0]), Err(Errno::EINVAL));
            assert_eq!(user.call(nr::SETNS, &[pidfd, 1 << 40]), Err(Errno::EINVAL));
            let outside = host(user);
            assert_eq!(user.call(nr::SETNS, &[pidfd, c::CLONE_NEWNS | c::CLONE_NEWUTS]), Ok(0));
            assert!(exists(user, "/m/file") && host(user) == "inside\n" && outside != "inside\n");
            0
        });
        assert_eq!(user.wait_for(other).exit_code(), Some(0));
        user.call(nr::KILL, &[pid, 9]).unwrap();
        user.wait_for(child);
    });
}

fn path_call_with<L: Libc>(user: &mut L, number: usize, text: &str) {
    user.scoped(|user| {
        let at = user.push_string(text);
        user.call(number, &[at, text.len() as u64]).expect("root may")
    });
}

#[test]
fn a_mounted_namespace_file_keeps_the_namespace() {
    with_proc(|user| {
        touch(user, "/held");
        let child = user.fork(|user| {
            user.call(nr::UNSHARE, &[c::CLONE_NEWUTS]).expect("root may");
            path_call_with(user, nr::SETHOSTNAME, "held");
            mount(user, "/proc/self/ns/uts", "/held", "", ms::BIND).unwrap();
            0
        });
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
        let line = text(user, "/proc/self/mountinfo");
        let line = line.lines().find(|line| line.contains(" /held ")).expect("mounted");
        assert!(line.contains(" uts:[") && line.contains(" - nsfs "), "{line}");
        let file = user.open("/held", f::O_RDONLY, 0).unwrap() as u64;
        user.call(nr::SETNS, &[file, 0]).unwrap();
        assert_eq!(text(user, "/proc/sys/kernel/hostname"), "held\n");
        // A mount namespace's file cannot be mounted in a namespace that is not older.
        assert_eq!(mount(user, "/proc/self/ns/mnt", "/held", "", ms::BIND), Err(Errno::EINVAL));
        assert_eq!(umount(user, "/held", 0), Err(Errno::EBUSY));
        user.call(nr::CLOSE, &[file]).unwrap();
        assert_eq!(umount(user, "/held", 0), Ok(()));
    });
}

#[test]
fn a_removed_directory_loses_its_mounts_in_other_namespaces() {
    with_proc(|user| {
        mkdir(user, &["/d"]);
        let child = user.fork(|user| {
            user.call(nr::UNSHARE, &[c::CLONE_NEWNS]).expect("root may");
            tmpfs(user, "/d");
            assert_eq!(unlink(user, "/d", u64::from(f::AT_REMOVEDIR)), Err(Errno::EBUSY));
            user.call(nr::PPOLL, &[0, 0, 0, 0]).map_or(1, |_| 0)
        });
        while !text(user, &format!("/proc/{child}/mounts")).contains(" /d ") {
            user.call(nr::SCHED_YIELD, &[]).unwrap();
        }
        assert_eq!(unlink(user, "/d", u64::from(f::AT_REMOVEDIR)), Ok(()));
        assert!(!text(user, &format!("/proc/{child}/mounts")).contains("/d"));
        user.call(nr::KILL, &[child as u64, 9]).unwrap();
        user.wait_for(child);
    });
}

#[test]
fn an_expired_mount_goes_at_the_second_call_unless_it_was_used() {
    with_proc(|user| {
        mkdir(user, &["/m"]);
        tmpfs(user, "/m");
        assert_eq!(umount(user, "/m", MNT_EXPIRE | MNT_DETACH), Err(Errno::EINVAL));
        assert_eq!(umount(user, "/m", MNT_EXPIRE), Err(Errno::EAGAIN));
        touch(user, "/m/file");
        assert_eq!(umount(user, "/m", MNT_EXPIRE), Err(Errno::EAGAIN));
        let open = user.open("/m/file", f::O_RDONLY, 0).unwrap() as u64;
        assert_eq!(umount(user, "/m", MNT_EXPIRE), Err(Errno::EBUSY));
        user.call(nr::CLOSE, &[open]).unwrap();
        assert_eq!(umount(user, "/m", MNT_EXPIRE), Err(Errno::EAGAIN));
        assert_eq!(umount(user, "/m", MNT_EXPIRE), Ok(()));
    });
}

#[test]
fn moves_are_refused_as_on_linux() {
    with_proc(|user| {
        mkdir(user, &["/a", "/b", "/s"]);
        tmpfs(user, "/a");
        mkdir(user, &["/a/in"]);
        assert_eq!(mount(user, "/a", "/a/in", "", ms::MOVE), Err(Errno::ELOOP));
        assert_eq!(mount(user, "/b", "/s", "", ms::MOVE), Err(Errno::EINVAL), "no mount");
        tmpfs(user, "/s");
        set(user, "/s", ms::SHARED);
        mkdir(user, &["/s/in", "/s/to"]);
        tmpfs(user, "/s/in");
        assert_eq!(mount(user, "/s/in", "/b", "", ms::MOVE), Err(Errno::EINVAL), "its parent is shared");
        set(user, "/a", ms::UNBINDABLE);
        assert_eq!(mount(user, "/a", "/s/to", "", ms::MOVE), Err(Errno::EINVAL), "unbindable to shared");
        set(user, "/a", ms::PRIVATE);
        assert_eq!(mount(user, "/a", "/s/to", "", ms::MOVE), Ok(()));
        assert_eq!(tags(user, "/s/to"), ["shared"]);
        for flags in [ms::SHARED | ms::PRIVATE, ms::SHARED | ms::RDONLY] {
            assert_eq!(mount(user, "", "/s", "", flags), Err(Errno::EINVAL));
        }
        assert_eq!(mount(user, "", "/b", "", ms::SHARED), Err(Errno::EINVAL), "no mount point");
    });
}

#[test]
fn a_bind_mount_is_made_read_only_while_others_write() {
    with_proc(|user| {
        mkdir(user, &["/m", "/ro"]);
        tmpfs(user, "/m");
        let writer = user.open("/m/file", f::O_CREAT | f::O_WRONLY, 0o644).unwrap();
        mount(user, "/m", "/ro", "", ms::BIND).unwrap();
        assert_eq!(mount(user, "", "/ro", "", ms::REMOUNT | ms::BIND | ms::RDONLY), Ok(()));
        assert_eq!(user.open("/ro/new", f::O_CREAT | f::O_WRONLY, 0o644), Err(Errno::EROFS));
        assert_eq!(mount(user, "", "/m", "", ms::REMOUNT | ms::BIND | ms::RDONLY), Err(Errno::EBUSY));
        assert!(writer >= 0);
    });
}
