//! Whole stories of user namespaces: user_namespaces(7), capabilities(7), and that no right leads out of one.

use abi::fcntl as f;
use abi::prctl::PR_SET_DUMPABLE;
use abi::stat::Stat;
use abi::{nr, sched as c};
use hal::hosted::User;
use kcore::Errno;
use kcore::fs::mount::ms;
use kcore::testing::{Libc, Machine};

const CWD: u64 = f::AT_FDCWD as u64;
const UID: u32 = 1000;

fn write_file(user: &mut User, path: &str, text: &str) -> Result<(), Errno> {
    let fd = user.open(path, f::O_WRONLY, 0)? as u64;
    let written = user.scoped(|user| {
        let at = user.push(text.as_bytes());
        user.call(nr::WRITE, &[fd, at, text.len() as u64])
    });
    user.call(nr::CLOSE, &[fd]).expect("open");
    written.map(drop)
}

fn read_file(user: &mut User, path: &str) -> String {
    String::from_utf8(user.slurp(path).expect("there")).expect("text")
}

fn with_path(
    user: &mut User,
    path: &str,
    call: impl FnOnce(&mut User, u64) -> Result<u64, Errno>,
) -> Result<u64, Errno> {
    let at = user.push_string(path);
    call(user, at)
}

fn stat(user: &mut User, path: &str) -> Stat {
    let path = user.push_string(path);
    user.call_with(nr::NEWFSTATAT, &[CWD, path], &Stat::default(), &[0]).expect("there").1
}

fn mount(user: &mut User, source: &str, target: &str, kind: &str, flags: u64) -> Result<u64, Errno> {
    let mut text = |text: &str| if text.is_empty() { 0 } else { user.push_string(text) };
    let arguments = [text(source), text(target), text(kind), flags, 0];
    user.call(nr::MOUNT, &arguments)
}

/// Runs `story` in a process of an ordinary user; asserts in it end the machine.
fn as_user(story: impl Fn(&mut User) + Clone + 'static) {
    Machine::new().run(move |user| {
        mount(user, "proc", "/proc", "proc", 0).expect("mounted");
        with_path(user, "/tmp", |user, at| user.call(nr::FCHMODAT, &[CWD, at, 0o1777])).expect("root may");
        let story = story.clone();
        let child = user.fork(move |user| {
            user.call(nr::SETRESGID, &[UID.into(); 3]).expect("root may");
            user.call(nr::SETRESUID, &[UID.into(); 3]).expect("root may");
            // As after an execve: the files of /proc/self are one's own.
            user.call(nr::PRCTL, &[PR_SET_DUMPABLE.into(), 1]).expect("allowed");
            story(user);
            0
        });
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
    });
}

/// `unshare --user --map-root-user`.
fn become_root_inside(user: &mut User, more: u64) {
    user.call(nr::UNSHARE, &[c::CLONE_NEWUSER | more]).expect("anybody may");
    write_file(user, "/proc/self/setgroups", "deny").unwrap();
    write_file(user, "/proc/self/uid_map", "0 1000 1\n").unwrap();
    write_file(user, "/proc/self/gid_map", "0 1000 1\n").unwrap();
}

#[test]
fn a_user_becomes_root_inside_and_stays_oneself_outside() {
    as_user(|user| {
        user.call(nr::UNSHARE, &[c::CLONE_NEWUSER]).expect("anybody may");
        assert_eq!(user.call(nr::GETUID, &[]), Ok(65_534), "nobody, until there is a map");
        assert_eq!(read_file(user, "/proc/self/uid_map"), "");
        write_file(user, "/proc/self/setgroups", "deny").unwrap();
        write_file(user, "/proc/self/uid_map", "0 1000 1\n").unwrap();
        write_file(user, "/proc/self/gid_map", "0 1000 1\n").unwrap();
        assert_eq!((user.call(nr::GETUID, &[]), user.call(nr::GETEGID, &[])), (Ok(0), Ok(0)));
        assert_eq!(read_file(user, "/proc/self/uid_map"), "         0       1000          1\n");
        // A file is the outer user's, and shown as root's inside.
        let fd = user.open("/tmp/mine", f::O_CREAT | f::O_WRONLY, 0o600).unwrap() as u64;
        user.call(nr::CLOSE, &[fd]).unwrap();
        assert_eq!((stat(user, "/tmp/mine").st_uid, stat(user, "/tmp").st_uid), (0, 65_534));
        // Ids without a number do not exist; those with one are reached as root reaches them.
        assert_eq!(user.call(nr::SETUID, &[1]), Err(Errno::EINVAL));
        assert_eq!(user.call(nr::SETRESUID, &[0, 5, 0]), Err(Errno::EINVAL));
        assert_eq!(user.call(nr::SETRESUID, &[0; 3]), Ok(0));
        assert_eq!(user.call(nr::SETGROUPS, &[0, 0]), Err(Errno::EPERM));
        let path = user.push_string("/tmp/mine");
        assert_eq!(user.call(nr::FCHOWNAT, &[CWD, path, 7, 0, 0]), Err(Errno::EINVAL));
        assert_eq!(user.call(nr::FCHOWNAT, &[CWD, path, 0, 0, 0]), Ok(0));
    });
}

#[test]
fn the_lectures_maps_show_each_side_its_own_numbers() {
    Machine::new().run(|user| {
        mount(user, "proc", "/proc", "proc", 0).expect("mounted");
        with_path(user, "/tmp", |user, at| user.call(nr::FCHMODAT, &[CWD, at, 0o1777])).expect("root may");
        let child = user.fork(|user| {
            user.call(nr::UNSHARE, &[c::CLONE_NEWUSER]).expect("root may");
            while user.call(nr::GETUID, &[]) != Ok(0) || user.call(nr::GETGID, &[]) != Ok(0) {
                user.call(nr::SCHED_YIELD, &[]).unwrap();
            }
            user.call(nr::SETGROUPS, &[0, 0]).expect("the groups are mapped");
            user.call(nr::SETRESGID, &[12; 3]).expect("mapped");
            user.call(nr::SETRESUID, &[12; 3]).expect("mapped");
            let fd = user.open("/tmp/twelve", f::O_CREAT | f::O_WRONLY, 0o600).unwrap() as u64;
            user.call(nr::CLOSE, &[fd]).unwrap();
            assert_eq!(stat(user, "/tmp/twelve").st_uid, 12);
            0
        });
        while write_file(user, &format!("/proc/{child}/uid_map"), "10 2000 5\n0 0 10\n").is_err() {
            user.call(nr::SCHED_YIELD, &[]).unwrap();
        }
        write_file(user, &format!("/proc/{child}/gid_map"), "10 2000 5\n0 0 10\n").unwrap();
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
        assert_eq!((stat(user, "/tmp/twelve").st_uid, stat(user, "/tmp/twelve").st_gid), (2002, 2002));
    });
}

#[test]
fn a_new_user_namespace_gives_the_right_to_the_others_in_one_call() {
    as_user(|user| {
        assert_eq!(user.call(nr::UNSHARE, &[c::CLONE_NEWNS]), Err(Errno::EPERM));
        become_root_inside(user, c::CLONE_NEWNS | c::CLONE_NEWUTS);
        let name = user.push(b"inside");
        assert_eq!(user.call(nr::SETHOSTNAME, &[name, 6]), Ok(0));
        assert_eq!(mount(user, "none", "/tmp", "tmpfs", 0), Ok(0));
        let fd = user.open("/tmp/f", f::O_CREAT | f::O_WRONLY, 0o600);
        assert!(fd.is_ok());
        // The initial namespaces stay the initial user namespace's.
        let child = user.fork(|user| {
            let own = user.open("/proc/1/ns/uts", f::O_RDONLY, 0);
            assert_eq!(own, Err(Errno::EACCES), "init is not to be looked into");
            0
        });
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
    });
}

/// Each of these was or could be a way out.
#[test]
fn no_right_leads_out() {
    as_user(|user| {
        become_root_inside(user, c::CLONE_NEWNS | c::CLONE_NEWUTS);
        let refused = |user: &mut User, what: &str, result: Result<u64, Errno>, errno: Errno| {
            assert_eq!(result, Err(errno), "{what}");
            user.call(nr::SCHED_YIELD, &[]).unwrap();
        };
        // Device nodes, the clock, the log, reboot, other people's files and processes.
        let result = with_path(user, "/tmp/null", |user, at| user.call(nr::MKNODAT, &[CWD, at, 0o020_666, 0x103]));
        refused(user, "mknod", result, Errno::EPERM);
        let time = user.push(&[0; 16]);
        let result = user.call(nr::CLOCK_SETTIME, &[0, time]);
        refused(user, "clock_settime", result, Errno::EPERM);
        let result = user.call(nr::KILL, &[1, 15]);
        refused(user, "kill init", result, Errno::EPERM);
        let result = with_path(user, "/tmp", |user, at| user.call(nr::FCHMODAT, &[CWD, at, 0o777]));
        refused(user, "chmod of root's directory", result, Errno::EPERM);
        let result = with_path(user, "/tmp", |user, at| user.call(nr::FCHOWNAT, &[CWD, at, 0, 0, 0]));
        refused(user, "chown of root's directory", result, Errno::EPERM);
        let result = user.open("/not-mine", f::O_CREAT | f::O_WRONLY, 0o600).map(|fd| fd as u64);
        refused(user, "a file in root's directory", result, Errno::EACCES);
        let result = user.call(nr::REBOOT, &[0xfee1_dead, 672_274_793, 0x89ab_cdef, 0]);
        refused(user, "reboot", result, Errno::EPERM);
        // Mounts: what is mounted stays, with its restrictions; file systems that show the initial namespaces.
        let result = mount(user, "proc", "/tmp", "proc", 0);
        refused(user, "proc of the initial PID namespace", result, Errno::EPERM);
        let result = mount(user, "sysfs", "/tmp", "sysfs", 0);
        refused(user, "sysfs of the initial network namespace", result, Errno::EPERM);
        let result = with_path(user, "/proc", |user, at| user.call(nr::UMOUNT2, &[at, 2]));
        refused(user, "umount of what came along", result, Errno::EINVAL);
        let result = mount(user, "/", "/tmp", "", ms::BIND);
        refused(user, "a bind mount that would uncover", result, Errno::EINVAL);
        assert_eq!(mount(user, "/", "/tmp", "", ms::BIND | ms::REC), Ok(0), "with all that covers it may");
        let result = with_path(user, "/tmp/proc", |user, at| user.call(nr::UMOUNT2, &[at, 2]));
        refused(user, "what came along with the bind", result, Errno::EINVAL);
        // Settings of the whole machine.
        for setting in ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/pid_max"] {
            let result = user.open(setting, f::O_WRONLY, 0).map(|fd| fd as u64);
            refused(user, setting, result, Errno::EACCES);
        }
        // A second map, and one that takes more in.
        for map in ["/proc/self/uid_map", "/proc/self/gid_map"] {
            let result = write_file(user, map, "0 0 1\n").map(|()| 0);
            refused(user, map, result, Errno::EPERM);
        }
        let result = write_file(user, "/proc/self/setgroups", "allow").map(|()| 0);
        refused(user, "setgroups", result, Errno::EPERM);
    });
}

#[test]
fn the_owner_enters_and_a_stranger_does_not() {
    as_user(|user| {
        let inside = user.fork(|user| {
            become_root_inside(user, c::CLONE_NEWUTS);
            let name = user.push(b"cell");
            user.call(nr::SETHOSTNAME, &[name, 4]).unwrap();
            user.call(nr::PPOLL, &[0, 0, 0, 0]).map_or(1, |_| 0)
        });
        let pid = inside as u64;
        while read_file(user, &format!("/proc/{pid}/gid_map")).is_empty() {
            user.call(nr::SCHED_YIELD, &[]).unwrap();
        }
        let visitor = user.fork(move |user| {
            let pidfd = user.call(nr::PIDFD_OPEN, &[pid, 0]).unwrap();
            assert_eq!(user.call(nr::SETNS, &[pidfd, c::CLONE_NEWUTS]), Err(Errno::EPERM), "no right over it yet");
            assert_eq!(user.call(nr::SETNS, &[pidfd, c::CLONE_NEWUSER | c::CLONE_NEWUTS]), Ok(0));
            assert_eq!(user.call(nr::GETUID, &[]), Ok(0));
            assert_eq!(user.call(nr::SETNS, &[pidfd, c::CLONE_NEWUSER]), Err(Errno::EINVAL), "not twice");
            0
        });
        assert_eq!(user.wait_for(visitor).exit_code(), Some(0));
        user.call(nr::KILL, &[pid, 9]).unwrap();
        user.wait_for(inside);
    });
}

#[test]
fn a_process_that_shares_its_root_or_has_threads_gets_no_user_namespace() {
    as_user(|user| {
        let child = user.fork(|user| {
            let root = user.push_string("/tmp");
            // A chroot needs the right to it: inside one's own namespace.
            user.call(nr::UNSHARE, &[c::CLONE_NEWUSER]).unwrap();
            user.call(nr::CHROOT, &[root]).unwrap();
            assert_eq!(user.call(nr::UNSHARE, &[c::CLONE_NEWUSER]), Err(Errno::EPERM), "it would lead out of a chroot");
            0
        });
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
    });
}
