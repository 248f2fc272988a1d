//! What execve makes of credentials, extended attributes, and binfmt_misc.

use abi::capability as cap;
use abi::prctl as pr;
use abi::{Errno, fcntl, nr};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};
use zerocopy::IntoBytes;

use crate::creds::{capget, capset};

const FULL: u64 = (1 << 41) - 1;
const PROGRAM: &str = "/bin/program";

/// A machine with a program that tells argv, AT_SECURE, AT_EXECFD, AT_FLAGS, its ids and capabilities through `/report`.
fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.program(PROGRAM, report);
    machine.program("/bin/interp", report);
    machine
}

fn report(user: &mut User) -> i32 {
    let start = user.sp();
    let argc = user.read::<u64>(start);
    let text = |user: &mut User, at: u64| {
        let bytes: Vec<u8> = (0..).map(|n| user.read::<u8>(at + n)).take_while(|byte| *byte != 0).collect();
        String::from_utf8(bytes).unwrap()
    };
    let mut argv = Vec::new();
    for n in 0..argc {
        let pointer = user.read::<u64>(start + 8 + n * 8);
        argv.push(text(user, pointer));
    }
    let mut at = start + 8 + argc * 8 + 8;
    while user.read::<u64>(at) != 0 {
        at += 8;
    }
    let mut aux = [0u64; 64];
    aux[2] = 99;
    at += 8;
    while user.read::<u64>(at) != 0 {
        let (key, value) = (user.read::<u64>(at), user.read::<u64>(at + 8));
        if let Some(slot) = aux.get_mut(key as usize) {
            *slot = value;
        }
        at += 16;
    }
    let ids = [nr::GETUID, nr::GETEUID, nr::GETGID, nr::GETEGID].map(|number| user.call(number, &[]).unwrap());
    let caps = capget(user, 0).unwrap();
    let dumpable = user.call(nr::PRCTL, &[u64::from(pr::PR_GET_DUMPABLE)]).unwrap();
    let line = format!(
        "{}\nsecure={} flags={} execfd={} ids={ids:?} effective={:x} permitted={:x} dumpable={dumpable}",
        argv.join("|"),
        aux[23],
        aux[8],
        aux[2],
        caps[0],
        caps[1]
    );
    // Opened by init, so that any user can write to it.
    user.write_fd(REPORT, line.as_bytes()).unwrap();
    0
}

/// The descriptor that programs report to.
const REPORT: i32 = 40;

/// Makes the pipe for reports. Returns the end to read from.
fn open_report(init: &mut User) -> i32 {
    let (read, write) = init.pipe(0).unwrap();
    init.call(nr::DUP3, &[write as u64, REPORT as u64, 0]).unwrap();
    init.close(write).unwrap();
    read
}

/// Runs `path` in a child that `prepare` prepares. Returns its report, or the error of execve.
fn run(
    init: &mut User,
    read: i32,
    path: &'static str,
    prepare: impl FnOnce(&mut User) + 'static,
) -> Result<String, Errno> {
    let child = init.fork(move |child| {
        prepare(child);
        i32::from(child.try_exec(path, &["name", "arg"]).number())
    });
    match init.wait_for(child).exit_code().unwrap() {
        0 => Ok(String::from_utf8(init.read_fd(read, 4096).unwrap()).unwrap()),
        number => Err(Errno::from_syscall_return((-i64::from(number)).cast_unsigned()).unwrap_err()),
    }
}

fn path_call(user: &mut User, number: usize, path: &str, rest: &[u64]) -> Result<u64, Errno> {
    user.scoped(|user| {
        let path = user.push_string(path);
        user.call(number, &[&[path], rest].concat())
    })
}

fn at_call(user: &mut User, number: usize, path: &str, rest: &[u64]) -> Result<u64, Errno> {
    user.scoped(|user| {
        let path = user.push_string(path);
        user.call(number, &[&[i64::from(fcntl::AT_FDCWD).cast_unsigned(), path], rest].concat())
    })
}

fn chmod(user: &mut User, path: &str, mode: u64) {
    at_call(user, nr::FCHMODAT, path, &[mode]).unwrap();
}

fn chown(user: &mut User, path: &str, uid: u64, gid: u64) {
    at_call(user, nr::FCHOWNAT, path, &[uid, gid, 0]).unwrap();
}

fn setxattr(user: &mut User, path: &str, name: &str, value: &[u8], flags: u64) -> Result<u64, Errno> {
    user.scoped(|user| {
        let (name, at) = (user.push_string(name), user.push(value));
        path_call(user, nr::SETXATTR, path, &[name, at, value.len() as u64, flags])
    })
}

fn getxattr(user: &mut User, path: &str, name: &str, size: usize) -> Result<Vec<u8>, Errno> {
    user.scoped(|user| {
        let (name, at) = (user.push_string(name), user.push(&vec![0; size]));
        let length = path_call(user, nr::GETXATTR, path, &[name, at, size as u64])?;
        Ok(user.read_bytes(at, (length as usize).min(size)))
    })
}

fn listxattr(user: &mut User, path: &str, size: usize) -> Result<String, Errno> {
    user.scoped(|user| {
        let at = user.push(&vec![0; size]);
        let length = path_call(user, nr::LISTXATTR, path, &[at, size as u64])?;
        Ok(String::from_utf8(user.read_bytes(at, length as usize)).unwrap())
    })
}

fn removexattr(user: &mut User, path: &str, name: &str) -> Result<u64, Errno> {
    user.scoped(|user| {
        let name = user.push_string(name);
        path_call(user, nr::REMOVEXATTR, path, &[name])
    })
}

fn become_user(user: &mut User) {
    user.call(nr::SETRESGID, &[1000, 1000, 1000]).unwrap();
    user.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
}

/// `struct vfs_cap_data` of revision 2.
fn file_caps(permitted: u64, inheritable: u64, effective: u32) -> Vec<u8> {
    let words = [
        0x0200_0000 | effective,
        permitted as u32,
        inheritable as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    words.as_bytes().to_vec()
}

const KILL: u64 = 1 << cap::CAP_KILL;
const SECURITY: &str = "security.capability";

fn create(user: &mut User, path: &str, contents: &[u8]) {
    let fd = user.open(path, fcntl::O_WRONLY | fcntl::O_CREAT, 0o755).unwrap();
    user.write_fd(fd, contents).unwrap();
    user.close(fd).unwrap();
}

#[test]
fn set_id_bits_change_the_effective_ids() {
    machine().run(|init| {
        let read = open_report(init);
        let plain = run(init, read, PROGRAM, become_user).unwrap();
        assert!(
            plain.contains("secure=0") && plain.contains("ids=[1000, 1000, 1000, 1000] effective=0 permitted=0"),
            "{plain}"
        );
        chmod(init, PROGRAM, 0o4755);
        let root = run(init, read, PROGRAM, become_user).unwrap();
        let expected = format!(
            "secure=1 flags=0 execfd=99 ids=[1000, 0, 1000, 1000] effective={FULL:x} permitted={FULL:x} dumpable=0"
        );
        assert!(root.contains(&expected), "{root}");
        chown(init, PROGRAM, 7, 8);
        chmod(init, PROGRAM, 0o6755);
        let both = run(init, read, PROGRAM, become_user).unwrap();
        assert!(both.contains("secure=1") && both.contains("ids=[1000, 7, 1000, 8] effective=0 permitted=0"), "{both}");
        let none = run(init, read, PROGRAM, |user| {
            become_user(user);
            user.call(nr::PRCTL, &[u64::from(pr::PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0]).unwrap();
        });
        let none = none.unwrap();
        assert!(none.contains("secure=0") && none.contains("ids=[1000, 1000, 1000, 1000]"), "{none}");
        chmod(init, PROGRAM, 0o2745);
        let locking = run(init, read, PROGRAM, become_user).unwrap();
        assert!(locking.contains("ids=[1000, 1000, 1000, 1000]"), "set-group-ID without group execution: {locking}");
    });
}

#[test]
fn a_script_has_its_interpreters_identity() {
    machine().run(|init| {
        let read = open_report(init);
        create(init, "/script", b"#!/bin/program -x\n");
        chmod(init, "/script", 0o4755);
        let plain = run(init, read, "/script", become_user).unwrap();
        assert!(plain.starts_with("/bin/program|-x|/script|arg\nsecure=0"), "{plain}");
        chmod(init, PROGRAM, 0o4755);
        let gained = run(init, read, "/script", become_user).unwrap();
        assert!(gained.contains("ids=[1000, 0,"), "{gained}");
    });
}

#[test]
fn root_with_noroot_is_nobody_special() {
    machine().run(|init| {
        let read = open_report(init);
        let root = run(init, read, PROGRAM, |_| {}).unwrap();
        assert!(root.contains(&format!("secure=0 flags=0 execfd=99 ids=[0, 0, 0, 0] effective={FULL:x}")), "{root}");
        let bounded = run(init, read, PROGRAM, |user| {
            user.call(nr::PRCTL, &[u64::from(pr::PR_CAPBSET_DROP), u64::from(cap::CAP_KILL)]).unwrap();
        });
        assert!(bounded.unwrap().contains(&format!("effective={:x} ", FULL & !KILL)));
        let noroot = run(init, read, PROGRAM, |user| {
            user.call(nr::PRCTL, &[u64::from(pr::PR_SET_SECUREBITS), u64::from(pr::SECBIT_NOROOT)]).unwrap();
        });
        assert!(noroot.unwrap().contains("effective=0 permitted=0"));
    });
}

#[test]
fn ambient_capabilities_reach_plain_programs_only() {
    machine().run(|init| {
        let read = open_report(init);
        let with_ambient = |user: &mut User| {
            user.call(nr::PRCTL, &[u64::from(pr::PR_SET_KEEPCAPS), 1]).unwrap();
            become_user(user);
            capset(user, 0, [KILL, KILL, KILL]).unwrap();
            user.call(nr::PRCTL, &[u64::from(pr::PR_CAP_AMBIENT), 2, u64::from(cap::CAP_KILL), 0, 0]).unwrap();
        };
        let plain = run(init, read, PROGRAM, with_ambient).unwrap();
        assert!(
            plain.contains(&format!(
                "secure=0 flags=0 execfd=99 ids=[1000, 1000, 1000, 1000] effective={KILL:x} permitted={KILL:x}"
            )),
            "{plain}"
        );
        chown(init, PROGRAM, 7, 0);
        chmod(init, PROGRAM, 0o4755);
        let set_id = run(init, read, PROGRAM, with_ambient).unwrap();
        assert!(set_id.contains("effective=0 permitted=0"), "{set_id}");
    });
}

#[test]
fn file_capabilities_are_given_within_the_bounding_set() {
    machine().run(|init| {
        let read = open_report(init);
        setxattr(init, PROGRAM, SECURITY, &file_caps(KILL, 0, 1), 0).unwrap();
        let given = run(init, read, PROGRAM, become_user).unwrap();
        assert!(given.contains(&format!("secure=1 flags=0 execfd=99 ids=[1000, 1000, 1000, 1000] effective={KILL:x} permitted={KILL:x} dumpable=0")), "{given}");
        let drop_kill = |user: &mut User| {
            user.call(nr::PRCTL, &[u64::from(pr::PR_CAPBSET_DROP), u64::from(cap::CAP_KILL)]).unwrap();
            become_user(user);
        };
        assert_eq!(run(init, read, PROGRAM, drop_kill), Err(Errno::EPERM), "it would not know what it lacks");
        setxattr(init, PROGRAM, SECURITY, &file_caps(KILL, 0, 0), 0).unwrap();
        let permitted = run(init, read, PROGRAM, become_user).unwrap();
        assert!(permitted.contains(&format!("effective=0 permitted={KILL:x}")), "{permitted}");
        assert!(run(init, read, PROGRAM, drop_kill).unwrap().contains("effective=0 permitted=0"));
        setxattr(init, PROGRAM, SECURITY, &file_caps(0, KILL, 1), 0).unwrap();
        let inherited = run(init, read, PROGRAM, |user| {
            capset(user, 0, [FULL, FULL, KILL]).unwrap();
            become_user(user);
        });
        assert!(inherited.unwrap().contains(&format!("effective={KILL:x} permitted={KILL:x}")));
        assert!(run(init, read, PROGRAM, become_user).unwrap().contains("effective=0 permitted=0"));
        setxattr(init, PROGRAM, SECURITY, &file_caps(KILL, 0, 1), 0).unwrap();
        let no_new = run(init, read, PROGRAM, |user| {
            become_user(user);
            user.call(nr::PRCTL, &[u64::from(pr::PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0]).unwrap();
        });
        assert!(no_new.unwrap().contains("effective=0 permitted=0"));
        // Who writes to the file takes them away.
        chmod(init, PROGRAM, 0o755);
        assert!(getxattr(init, PROGRAM, SECURITY, 64).is_ok());
        chown(init, PROGRAM, 0, 0);
        assert_eq!(getxattr(init, PROGRAM, SECURITY, 64), Err(Errno::ENODATA));
    });
}

#[test]
fn attributes_are_set_read_listed_and_removed() {
    machine().run(|init| {
        create(init, "/file", b"x");
        assert_eq!(setxattr(init, "/file", "user.one", b"1", 0), Ok(0));
        assert_eq!(setxattr(init, "/file", "user.one", b"2", 1), Err(Errno::EEXIST));
        assert_eq!(setxattr(init, "/file", "user.two", b"2", 2), Err(Errno::ENODATA));
        assert_eq!(setxattr(init, "/file", "user.one", b"a longer value", 2), Ok(0));
        assert_eq!(setxattr(init, "/file", "user.one", b"", 4), Err(Errno::EINVAL));
        assert_eq!(setxattr(init, "/file", "trusted.t", b"", 1), Ok(0));
        assert_eq!(getxattr(init, "/file", "user.one", 64).unwrap(), b"a longer value");
        assert_eq!(getxattr(init, "/file", "user.one", 3), Err(Errno::ERANGE));
        assert_eq!(getxattr(init, "/file", "user.three", 3), Err(Errno::ENODATA));
        assert_eq!(getxattr(init, "/file", "trusted.t", 3).unwrap(), b"");
        assert_eq!(listxattr(init, "/file", 100).unwrap(), "trusted.t\0user.one\0");
        assert_eq!(listxattr(init, "/file", 5), Err(Errno::ERANGE));
        for (name, error) in [
            ("", Errno::ERANGE),
            ("user.", Errno::EINVAL),
            ("nonsense", Errno::EOPNOTSUPP),
            ("system.posix_acl_access", Errno::EOPNOTSUPP),
        ] {
            assert_eq!(setxattr(init, "/file", name, b"", 0), Err(error), "{name:?}");
            assert_eq!(getxattr(init, "/file", name, 10), Err(error), "{name:?}");
        }
        let long = format!("user.{}", "n".repeat(251));
        assert_eq!(setxattr(init, "/file", &long, b"", 0), Err(Errno::ERANGE));
        assert_eq!(setxattr(init, "/file", &long[..255], b"", 0), Ok(0));
        assert_eq!(removexattr(init, "/file", &long[..255]), Ok(0));
        assert_eq!(removexattr(init, "/file", "user.none"), Err(Errno::ENODATA));
        let name = init.push_string("user.big");
        assert_eq!(path_call(init, nr::SETXATTR, "/file", &[name, 0x10, 65537, 0]), Err(Errno::E2BIG));
        assert_eq!(path_call(init, nr::SETXATTR, "/file", &[name, 0x10, 10, 0]), Err(Errno::EFAULT));
        assert_eq!(path_call(init, nr::SETXATTR, "/none", &[name, 0, 0, 0]), Err(Errno::ENOENT));
        for bad in [&[1, 2, 3][..], &file_caps(1, 0, 0)[..16]] {
            assert_eq!(setxattr(init, "/file", SECURITY, bad, 0), Err(Errno::EINVAL));
        }
        assert_eq!(setxattr(init, "/file", SECURITY, &file_caps(1, 0, 0), 0), Ok(0));
        let fd = init.open("/file", fcntl::O_WRONLY, 0).unwrap();
        init.write_fd(fd, b"y").unwrap();
        assert_eq!(getxattr(init, "/file", SECURITY, 64), Err(Errno::ENODATA), "a write takes capabilities away");
        assert_eq!(init.call(nr::FREMOVEXATTR, &[99, name]), Err(Errno::EBADF));
    });
}

#[test]
fn each_namespace_has_its_rule() {
    machine().run(|init| {
        create(init, "/file", b"x");
        setxattr(init, "/file", "trusted.t", b"t", 0).unwrap();
        setxattr(init, "/file", "user.u", b"u", 0).unwrap();
        setxattr(init, "/file", "security.s", b"s", 0).unwrap();
        at_call(init, nr::MKDIRAT, "/sticky", &[0o777]).unwrap();
        chmod(init, "/sticky", 0o1777);
        let link = init.push_string("/link");
        let target = init.push_string("/file");
        init.call(nr::SYMLINKAT, &[target, i64::from(fcntl::AT_FDCWD).cast_unsigned(), link]).unwrap();
        let name = init.push_string("user.u");
        assert_eq!(init.call(nr::LSETXATTR, &[link, name, 0, 0, 0]), Err(Errno::EPERM), "user attributes are of files");
        assert_eq!(init.call(nr::LGETXATTR, &[link, name, 0, 0]), Err(Errno::ENODATA));
        assert_eq!(init.call(nr::GETXATTR, &[link, name, 0, 0]), Ok(1), "the link is followed");
        let user = init.fork(|user| {
            become_user(user);
            assert_eq!(getxattr(user, "/file", "trusted.t", 9), Err(Errno::ENODATA));
            assert_eq!(setxattr(user, "/file", "trusted.t", b"", 0), Err(Errno::EPERM));
            assert_eq!(listxattr(user, "/file", 100).unwrap(), "security.s\0user.u\0");
            assert_eq!(getxattr(user, "/file", "security.s", 9).unwrap(), b"s");
            assert_eq!(setxattr(user, "/file", "security.s", b"", 0), Err(Errno::EPERM));
            assert_eq!(setxattr(user, "/file", SECURITY, &file_caps(1, 0, 0), 0), Err(Errno::EPERM));
            assert_eq!(removexattr(user, "/file", "security.s"), Err(Errno::EPERM));
            assert_eq!(getxattr(user, "/file", "user.u", 9).unwrap(), b"u");
            assert_eq!(setxattr(user, "/file", "user.u", b"", 0), Err(Errno::EACCES));
            assert_eq!(setxattr(user, "/sticky", "user.u", b"", 0), Err(Errno::EPERM), "not its directory");
            0
        });
        assert_eq!(init.wait_for(user).exit_code(), Some(0));
    });
}

#[test]
fn a_script_cannot_be_run_through_a_descriptor_that_closes() {
    machine().run(|init| {
        create(init, "/script", b"#!/bin/program\n");
        let fd = init.open("/script", fcntl::O_RDONLY | fcntl::O_CLOEXEC, 0).unwrap();
        let empty = init.push_string("");
        let argv = init.push([0u64].as_bytes());
        let arguments = [fd as u64, empty, argv, argv, u64::from(fcntl::AT_EMPTY_PATH)];
        assert_eq!(init.call(nr::EXECVEAT, &arguments), Err(Errno::ENOENT));
        assert_eq!(init.call(nr::EXECVEAT, &[fd as u64, empty, argv, argv, 0]), Err(Errno::ENOENT));
        assert_eq!(init.call(nr::EXECVEAT, &[fd as u64, empty, argv, argv, 1]), Err(Errno::EINVAL));
    });
}

fn write_file(user: &mut User, path: &str, text: &str) -> Result<usize, Errno> {
    let fd = user.open(path, fcntl::O_WRONLY, 0)?;
    let result = user.write_fd(fd, text.as_bytes());
    user.close(fd).unwrap();
    result
}

/// Mounts binfmt_misc on `/fmt`.
fn mount_formats(init: &mut User) {
    at_call(init, nr::MKDIRAT, "/fmt", &[0o755]).unwrap();
    let (source, target, kind) = (init.push_string("none"), init.push_string("/fmt"), init.push_string("binfmt_misc"));
    init.call(nr::MOUNT, &[source, target, kind, 0, 0]).unwrap();
}

#[test]
fn registered_formats_run_their_interpreter() {
    machine().run(|init| {
        let read = open_report(init);
        mount_formats(init);
        create(init, "/some.ext", b"MAGIC and more");
        assert_eq!(run(init, read, "/some.ext", |_| {}), Err(Errno::ENOEXEC));
        write_file(init, "/fmt/register", ":ext:E::ext::/bin/interp:").unwrap();
        let plain = run(init, read, "/some.ext", |_| {}).unwrap();
        assert!(plain.starts_with("/bin/interp|/some.ext|arg\nsecure=0 flags=0 execfd=99"), "{plain}");
        assert_eq!(init.slurp("/fmt/ext").unwrap(), b"enabled\ninterpreter /bin/interp\nflags: \nextension .ext\n");
        // The newest is asked first.
        write_file(init, "/fmt/register", ":magic:M:1:AG\\x49c:\\xff\\xff\\xff\\xdf:/bin/interp:PC").unwrap();
        let kept = run(init, read, "/some.ext", |_| {}).unwrap();
        assert!(kept.starts_with("/bin/interp|/some.ext|name|arg\nsecure=0 flags=1 execfd="), "{kept}");
        assert!(!kept.contains("execfd=99"), "C means O");
        let text = String::from_utf8(init.slurp("/fmt/magic").unwrap()).unwrap();
        assert_eq!(text, "enabled\ninterpreter /bin/interp\nflags: POC\noffset 1\nmagic 41474963\nmask ffffffdf\n");
        assert_eq!(write_file(init, "/fmt/register", ":magic:M::x::/bin/interp:"), Err(Errno::EEXIST));
        write_file(init, "/fmt/magic", "0\n").unwrap();
        assert!(run(init, read, "/some.ext", |_| {}).unwrap().contains("flags=0"));
        write_file(init, "/fmt/ext", "-1").unwrap();
        assert_eq!(run(init, read, "/some.ext", |_| {}), Err(Errno::ENOEXEC));
        assert_eq!(init.open("/fmt/ext", fcntl::O_RDONLY, 0), Err(Errno::ENOENT));
        write_file(init, "/fmt/magic", "1").unwrap();
        write_file(init, "/fmt/status", "0").unwrap();
        assert_eq!(init.slurp("/fmt/status").unwrap(), b"disabled\n");
        assert_eq!(run(init, read, "/some.ext", |_| {}), Err(Errno::ENOEXEC));
        write_file(init, "/fmt/status", "1").unwrap();
        assert!(run(init, read, "/some.ext", |_| {}).is_ok());
        assert_eq!(write_file(init, "/fmt/status", "2"), Err(Errno::EINVAL));
        assert_eq!(write_file(init, "/fmt/register", "nonsense here"), Err(Errno::EINVAL));
        write_file(init, "/fmt/status", "-1").unwrap();
        assert_eq!(init.open("/fmt/magic", fcntl::O_RDONLY, 0), Err(Errno::ENOENT));
    });
}

#[test]
fn a_formats_flags_decide_on_identity_and_time_of_opening() {
    machine().run(|init| {
        let read = open_report(init);
        mount_formats(init);
        create(init, "/some.ext", b"text");
        chmod(init, "/some.ext", 0o4755);
        write_file(init, "/fmt/register", ":ext:E::ext::/bin/interp:O").unwrap();
        let own = run(init, read, "/some.ext", become_user).unwrap();
        assert!(own.contains("secure=0") && own.contains("ids=[1000, 1000,"), "{own}");
        write_file(init, "/fmt/ext", "-1").unwrap();
        write_file(init, "/fmt/register", ":ext:E::ext::/bin/interp:C").unwrap();
        let programs = run(init, read, "/some.ext", become_user).unwrap();
        assert!(programs.contains("secure=1") && programs.contains("ids=[1000, 0,"), "{programs}");
        write_file(init, "/fmt/ext", "-1").unwrap();
        assert_eq!(write_file(init, "/fmt/register", ":ext:E::ext::/bin/missing:F"), Err(Errno::ENOENT));
        write_file(init, "/fmt/register", ":ext:E::ext::/bin/interp:F").unwrap();
        at_call(init, nr::UNLINKAT, "/bin/interp", &[0]).unwrap();
        assert!(
            run(init, read, "/some.ext", |_| {}).unwrap().starts_with("/bin/interp|/some.ext|arg"),
            "it was opened before"
        );
        let user = init.fork(|user| {
            become_user(user);
            assert_eq!(write_file(user, "/fmt/register", ":x:E::x::/bin/interp:"), Err(Errno::EACCES));
            0
        });
        assert_eq!(init.wait_for(user).exit_code(), Some(0));
    });
}
