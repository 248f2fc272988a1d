//! capabilities(7), prctl(2), xattr(7), and what execve makes of identity.

use crate::case::{Case, Outcome, SKIPPED, cases, fails, holds, same};
use crate::exec::output;
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    capset_cannot_add,
    capset_needs_the_own_tid,
    capget_headers,
    inheritable_is_bounded,
    bounding_set_shrinks,
    ambient_rules,
    ambient_bad_arguments,
    securebits_and_locks,
    keepcaps_bad_value,
    no_setuid_fixup_keeps,
    fsuid_takes_file_capabilities,
    setgroups_refuses_minus_one,
    prctl_unknown_option,
    pdeathsig_values,
    dumpable_values,
    no_new_privs_arguments,
    timerslack_default,
    thp_disable_is_kept,
    mce_kill_policies,
    tid_address,
    setuid_program,
    setuid_without_new_privileges,
    script_is_not_setuid,
    ambient_survives_exec,
    noroot_root_is_plain,
    xattr_set_get_list_remove,
    xattr_names_and_sizes,
    xattr_trusted_is_for_root,
    file_capabilities_are_given,
    file_capabilities_must_be_complete,
    write_takes_file_capabilities,
    bad_file_capabilities_are_einval,
    script_through_cloexec_descriptor,
    execveat_flags,
    binfmt_misc_extension,
];

const VERSION: u32 = 0x2008_0522;

/// Effective, permitted, inheritable.
fn capget(pid: i32) -> Result<[u64; 3]> {
    let header = [VERSION, pid as u32];
    let mut data = [0u32; 6];
    sys!(SYS_capget, header.as_ptr(), data.as_mut_ptr())?;
    Ok(std::array::from_fn(|n| u64::from(data[n]) | u64::from(data[n + 3]) << 32))
}

fn capset(pid: i32, sets: [u64; 3]) -> Result<usize> {
    let header = [VERSION, pid as u32];
    let data: [u32; 6] = std::array::from_fn(|n| (sets[n % 3] >> (32 * (n / 3))) as u32);
    sys!(SYS_capset, header.as_ptr(), data.as_ptr())
}

const KILL: u64 = 1 << 5;
const SETPCAP: u64 = 1 << 8;

fn apart(body: impl FnOnce() -> Outcome) -> Outcome {
    same!(status(trial(body)?)?, 0);
    Ok(())
}

fn capset_cannot_add() -> Outcome {
    apart(|| {
        capset(0, [KILL, KILL, 0])?;
        same!(capget(0)?, [KILL, KILL, 0]);
        fails!(capset(0, [KILL, KILL | 1, 0]), EPERM);
        fails!(capset(0, [KILL | 1, KILL, 0]), EPERM);
        fails!(capset(0, [KILL, KILL, 1]), EPERM);
        capset(0, [0, KILL, KILL])?;
        capset(0, [KILL, KILL, 0])?;
        Ok(())
    })
}

fn capset_needs_the_own_tid() -> Outcome {
    apart(|| {
        let sets = capget(0)?;
        capset(getpid(), sets)?;
        fails!(capset(1, sets), EPERM);
        Ok(())
    })
}

fn capget_headers() -> Outcome {
    let mut header = [77u32, 0];
    let mut data = [0u32; 6];
    fails!(sys!(SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()), EINVAL);
    same!(peek::<u32>(header.as_ptr() as usize), VERSION);
    same!(sys!(SYS_capget, header.as_ptr(), 0)?, 0);
    fails!(sys!(SYS_capget, header.as_ptr(), 8), EFAULT);
    fails!(sys!(SYS_capget, 8, data.as_mut_ptr()), EFAULT);
    fails!(sys!(SYS_capset, header.as_ptr(), 8), EFAULT);
    fails!(capget(-1), EINVAL);
    fails!(capget(i32::MAX), ESRCH);
    Ok(())
}

fn inheritable_is_bounded() -> Outcome {
    apart(|| {
        sys!(SYS_prctl, PR_CAPBSET_DROP, 5, 0, 0, 0)?;
        let [effective, permitted, _] = capget(0)?;
        fails!(capset(0, [effective, permitted, KILL]), EPERM);
        Ok(())
    })
}

fn bounding_set_shrinks() -> Outcome {
    apart(|| {
        same!(sys!(SYS_prctl, PR_CAPBSET_READ, 5, 0, 0, 0)?, 1);
        sys!(SYS_prctl, PR_CAPBSET_DROP, 5, 0, 0, 0)?;
        same!(sys!(SYS_prctl, PR_CAPBSET_READ, 5, 0, 0, 0)?, 0);
        fails!(sys!(SYS_prctl, PR_CAPBSET_READ, 64, 0, 0, 0), EINVAL);
        fails!(sys!(SYS_prctl, PR_CAPBSET_DROP, 64, 0, 0, 0), EINVAL);
        become_user()?;
        fails!(sys!(SYS_prctl, PR_CAPBSET_DROP, 1, 0, 0, 0), EPERM);
        Ok(())
    })
}

fn ambient(operation: i32, capability: u64) -> Result<usize> {
    sys!(SYS_prctl, PR_CAP_AMBIENT, operation, capability, 0, 0)
}

fn ambient_rules() -> Outcome {
    apart(|| {
        let [effective, permitted, _] = capget(0)?;
        fails!(ambient(PR_CAP_AMBIENT_RAISE, 5), EPERM);
        capset(0, [effective, permitted, KILL])?;
        same!(ambient(PR_CAP_AMBIENT_RAISE, 5)?, 0);
        same!(ambient(PR_CAP_AMBIENT_IS_SET, 5)?, 1);
        ambient(PR_CAP_AMBIENT_LOWER, 5)?;
        same!(ambient(PR_CAP_AMBIENT_IS_SET, 5)?, 0);
        ambient(PR_CAP_AMBIENT_RAISE, 5)?;
        capset(0, [effective, permitted, 0])?;
        same!(ambient(PR_CAP_AMBIENT_IS_SET, 5)?, 0);
        Ok(())
    })
}

fn ambient_bad_arguments() -> Outcome {
    fails!(ambient(PR_CAP_AMBIENT_CLEAR_ALL, 1), EINVAL);
    fails!(ambient(PR_CAP_AMBIENT_IS_SET, 64), EINVAL);
    fails!(ambient(99, 5), EINVAL);
    fails!(sys!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 5, 1, 0), EINVAL);
    Ok(())
}

fn securebits_and_locks() -> Outcome {
    apart(|| {
        fails!(sys!(SYS_prctl, PR_SET_SECUREBITS, 1 << 20, 0, 0, 0), EPERM);
        sys!(SYS_prctl, PR_SET_SECUREBITS, 0x31, 0, 0, 0)?;
        same!(sys!(SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0)?, 0x31);
        fails!(sys!(SYS_prctl, PR_SET_SECUREBITS, 0x11, 0, 0, 0), EPERM);
        fails!(sys!(SYS_prctl, PR_SET_SECUREBITS, 0x21, 0, 0, 0), EPERM);
        fails!(sys!(SYS_prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0), EPERM);
        same!(sys!(SYS_prctl, PR_GET_KEEPCAPS, 0, 0, 0, 0)?, 1);
        let [effective, permitted, inheritable] = capget(0)?;
        capset(0, [effective & !SETPCAP, permitted & !SETPCAP, inheritable])?;
        fails!(sys!(SYS_prctl, PR_SET_SECUREBITS, 0x30, 0, 0, 0), EPERM);
        Ok(())
    })
}

fn keepcaps_bad_value() -> Outcome {
    fails!(sys!(SYS_prctl, PR_SET_KEEPCAPS, 2, 0, 0, 0), EINVAL);
    Ok(())
}

fn no_setuid_fixup_keeps() -> Outcome {
    apart(|| {
        let before = capget(0)?;
        sys!(SYS_prctl, PR_SET_SECUREBITS, 4, 0, 0, 0)?;
        sys!(SYS_setresuid, 1000, 1000, 1000)?;
        same!(capget(0)?, before);
        Ok(())
    })
}

fn fsuid_takes_file_capabilities() -> Outcome {
    apart(|| {
        let before = capget(0)?[0];
        sys!(SYS_setfsuid, 1000)?;
        let file = 0b1_1111 | 1 << 9 | 1 << 27 | 1 << 32;
        same!(capget(0)?[0], before & !file);
        sys!(SYS_setfsuid, 0)?;
        same!(capget(0)?[0], before);
        Ok(())
    })
}

fn setgroups_refuses_minus_one() -> Outcome {
    apart(|| {
        let list = [5u32, u32::MAX];
        fails!(sys!(SYS_setgroups, 2, list.as_ptr()), EINVAL);
        fails!(sys!(SYS_setgroups, 65537, list.as_ptr()), EINVAL);
        fails!(sys!(SYS_setgroups, 1, 8), EFAULT);
        Ok(())
    })
}

fn prctl_unknown_option() -> Outcome {
    for option in [0, 99_999, -1] {
        fails!(sys!(SYS_prctl, option, 0, 0, 0, 0), EINVAL);
    }
    Ok(())
}

fn pdeathsig_values() -> Outcome {
    let word = 99i32;
    let told = |place: &i32| sys!(SYS_prctl, PR_GET_PDEATHSIG, std::ptr::from_ref(place), 0, 0, 0);
    fails!(sys!(SYS_prctl, PR_SET_PDEATHSIG, 65, 0, 0, 0), EINVAL);
    sys!(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0)?;
    told(&word)?;
    same!(peek::<i32>((&raw const word) as usize), 0);
    sys!(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR1, 0, 0, 0)?;
    same!(
        status(child(|| match told(&word) {
            Ok(_) => peek::<i32>((&raw const word) as usize),
            Err(_) => 99,
        })?)?,
        0
    );
    fails!(sys!(SYS_prctl, PR_GET_PDEATHSIG, 8, 0, 0, 0), EFAULT);
    Ok(())
}

fn dumpable_values() -> Outcome {
    same!(sys!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)?, 1);
    fails!(sys!(SYS_prctl, PR_SET_DUMPABLE, 2, 0, 0, 0), EINVAL);
    apart(|| {
        become_user()?;
        same!(sys!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)?, 0);
        sys!(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)?;
        same!(sys!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)?, 1);
        Ok(())
    })
}

fn no_new_privs_arguments() -> Outcome {
    fails!(sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
    fails!(sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0), EINVAL);
    fails!(sys!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0), EINVAL);
    same!(sys!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)?, 0);
    Ok(())
}

fn timerslack_default() -> Outcome {
    sys!(SYS_prctl, PR_SET_TIMERSLACK, 4321, 0, 0, 0)?;
    apart(|| {
        sys!(SYS_prctl, PR_SET_TIMERSLACK, 7, 0, 0, 0)?;
        same!(sys!(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0)?, 7);
        sys!(SYS_prctl, PR_SET_TIMERSLACK, 0, 0, 0, 0)?;
        same!(sys!(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0)?, 4321);
        Ok(())
    })
}

fn thp_disable_is_kept() -> Outcome {
    fails!(sys!(SYS_prctl, PR_GET_THP_DISABLE, 1, 0, 0, 0), EINVAL);
    fails!(sys!(SYS_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 1), EINVAL);
    sys!(SYS_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0)?;
    apart(|| {
        same!(sys!(SYS_prctl, PR_GET_THP_DISABLE, 0, 0, 0, 0)?, 1);
        Ok(())
    })
}

fn mce_kill_policies() -> Outcome {
    for (policy, told) in [(1usize, 1usize), (0, 0), (2, 2)] {
        sys!(SYS_prctl, PR_MCE_KILL, 1, policy, 0, 0)?;
        same!(sys!(SYS_prctl, PR_MCE_KILL_GET, 0, 0, 0, 0)?, told);
    }
    fails!(sys!(SYS_prctl, PR_MCE_KILL, 1, 3, 0, 0), EINVAL);
    fails!(sys!(SYS_prctl, PR_MCE_KILL, 2, 0, 0, 0), EINVAL);
    fails!(sys!(SYS_prctl, PR_MCE_KILL_GET, 1, 0, 0, 0), EINVAL);
    Ok(())
}

fn tid_address() -> Outcome {
    let told = 0u64;
    sys!(SYS_set_tid_address, 0x1234_5670)?;
    sys!(SYS_prctl, 40, &raw const told, 0, 0, 0)?;
    same!(peek::<u64>((&raw const told) as usize), 0x1234_5670);
    sys!(SYS_set_tid_address, 0)?;
    Ok(())
}

/// Runs `body` in a directory whose mount does not ignore set-ID bits and capabilities, as `/tmp` may.
fn on_own_mount(body: impl FnOnce() -> Outcome) -> Outcome {
    mkdir("m", 0o755)?;
    let kind = path("tmpfs");
    if sys!(SYS_mount, kind.as_ptr(), path("m").as_ptr(), kind.as_ptr(), 0, path("mode=755").as_ptr()).is_err() {
        exit(SKIPPED);
    }
    let _ = sys!(SYS_chdir, path("m").as_ptr());
    let outcome = body();
    let _ = sys!(SYS_chdir, path("..").as_ptr());
    let _ = sys!(SYS_umount2, path("m").as_ptr(), MNT_DETACH);
    outcome
}

/// A copy of this program in the case's directory.
fn copy_of_me(name: &str, mode: u32) -> Result<()> {
    let me = std::fs::read(own_path()).unwrap_or_default();
    file(name, &me)?;
    sys!(SYS_fchmodat, AT_FDCWD, path(name).as_ptr(), mode).map(drop)
}

/// Runs `program helper:ids` after `prepare` in a child: the ids, AT_SECURE and capabilities that it tells.
fn ids_of(program: &str, prepare: impl FnOnce() -> Outcome) -> Result<(String, i32)> {
    let shared = pipe(0)?;
    let pid = trial(|| {
        prepare()?;
        let (text, code) = output(program, &["x", "helper:ids"], &[])?;
        write(shared.1, text.as_bytes())?;
        if code != 0 {
            exit(code);
        }
        Ok(())
    })?;
    close(shared.1)?;
    let text = String::from_utf8_lossy(&rest(shared.0)?).to_string();
    Ok((text, status(pid)?))
}

fn user() -> Outcome {
    become_user()?;
    Ok(())
}

fn setuid_program() -> Outcome {
    on_own_mount(setuid_program_body)
}

fn setuid_program_body() -> Outcome {
    copy_of_me("p", 0o755)?;
    let (plain, _) = ids_of("./p", user)?;
    holds!(plain.starts_with("1000 1000 1000 1000 secure=0 effective=0 permitted=0 "));
    sys!(SYS_fchmodat, AT_FDCWD, path("p").as_ptr(), 0o4755)?;
    let (root, _) = ids_of("./p", user)?;
    holds!(root.starts_with("1000 0 1000 1000 secure=1 "));
    holds!(!root.contains("permitted=0 ") && root.contains("dumpable=0"));
    sys!(SYS_fchownat, AT_FDCWD, path("p").as_ptr(), 7, 8, 0)?;
    sys!(SYS_fchmodat, AT_FDCWD, path("p").as_ptr(), 0o6755)?;
    let (both, _) = ids_of("./p", user)?;
    holds!(both.starts_with("1000 7 1000 8 ") && both.contains(" effective=0 permitted=0 dumpable=0"));
    Ok(())
}

fn no_new_privs() -> Outcome {
    become_user()?;
    sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    Ok(())
}

fn setuid_without_new_privileges() -> Outcome {
    on_own_mount(setuid_without_new_privileges_body)
}

fn setuid_without_new_privileges_body() -> Outcome {
    copy_of_me("p", 0o4755)?;
    let (text, _) = ids_of("./p", no_new_privs)?;
    holds!(text.starts_with("1000 1000 1000 1000 secure=0 effective=0 permitted=0 "));
    Ok(())
}

fn script_is_not_setuid() -> Outcome {
    on_own_mount(script_is_not_setuid_body)
}

fn script_is_not_setuid_body() -> Outcome {
    copy_of_me("p", 0o755)?;
    file("s", b"#!./p helper:ids\n")?;
    sys!(SYS_fchmodat, AT_FDCWD, path("s").as_ptr(), 0o4755)?;
    let (text, _) = ids_of("./s", user)?;
    holds!(text.starts_with("1000 1000 1000 1000 secure=0 "));
    Ok(())
}

fn with_ambient_kill() -> Outcome {
    sys!(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0)?;
    become_user()?;
    capset(0, [KILL, KILL, KILL])?;
    ambient(PR_CAP_AMBIENT_RAISE, 5)?;
    Ok(())
}

fn ambient_survives_exec() -> Outcome {
    on_own_mount(ambient_survives_exec_body)
}

fn ambient_survives_exec_body() -> Outcome {
    copy_of_me("p", 0o755)?;
    let (text, _) = ids_of("./p", with_ambient_kill)?;
    holds!(text.starts_with("1000 1000 1000 1000 secure=0 effective=20 permitted=20 "));
    sys!(SYS_fchownat, AT_FDCWD, path("p").as_ptr(), 7, 0, 0)?;
    sys!(SYS_fchmodat, AT_FDCWD, path("p").as_ptr(), 0o4755)?;
    let (text, _) = ids_of("./p", with_ambient_kill)?;
    holds!(text.contains("effective=0 permitted=0 "));
    Ok(())
}

fn noroot_root_is_plain() -> Outcome {
    copy_of_me("p", 0o755)?;
    let (text, _) = ids_of("./p", || {
        sys!(SYS_prctl, PR_SET_SECUREBITS, 1, 0, 0, 0)?;
        Ok(())
    })?;
    holds!(text.starts_with("0 0 0 0 secure=0 effective=0 permitted=0 "));
    Ok(())
}

fn setxattr(name: &str, attribute: &str, value: &[u8], flags: i32) -> Result<usize> {
    sys!(SYS_setxattr, path(name).as_ptr(), path(attribute).as_ptr(), value.as_ptr(), value.len(), flags)
}

fn getxattr(name: &str, attribute: &str, buffer: &mut [u8]) -> Result<usize> {
    sys!(SYS_getxattr, path(name).as_ptr(), path(attribute).as_ptr(), buffer.as_mut_ptr(), buffer.len())
}

/// Skips the case on a file system that keeps no attributes of this namespace.
fn sets(name: &str, attribute: &str, value: &[u8]) -> Result<usize> {
    match setxattr(name, attribute, value, 0) {
        Err(Errno(EOPNOTSUPP)) => exit(SKIPPED),
        other => other,
    }
}

fn xattr_set_get_list_remove() -> Outcome {
    file("f", b"x")?;
    sets("f", "trusted.one", b"first")?;
    fails!(setxattr("f", "trusted.one", b"", XATTR_CREATE), EEXIST);
    fails!(setxattr("f", "trusted.two", b"", XATTR_REPLACE), ENODATA);
    setxattr("f", "trusted.one", b"second", XATTR_REPLACE)?;
    let mut buffer = [0; 64];
    same!(getxattr("f", "trusted.one", &mut buffer)?, 6);
    same!(&buffer[..6], b"second");
    same!(getxattr("f", "trusted.one", &mut [])?, 6);
    fails!(getxattr("f", "trusted.one", &mut buffer[..3]), ERANGE);
    fails!(getxattr("f", "trusted.two", &mut buffer), ENODATA);
    let length = sys!(SYS_listxattr, path("f").as_ptr(), buffer.as_mut_ptr(), 64)?;
    holds!(buffer[..length].split(|byte| *byte == 0).any(|name| name == b"trusted.one"));
    fails!(sys!(SYS_listxattr, path("f").as_ptr(), buffer.as_mut_ptr(), 3), ERANGE);
    sys!(SYS_removexattr, path("f").as_ptr(), path("trusted.one").as_ptr())?;
    fails!(sys!(SYS_removexattr, path("f").as_ptr(), path("trusted.one").as_ptr()), ENODATA);
    fails!(getxattr("f", "trusted.one", &mut buffer), ENODATA);
    Ok(())
}

fn xattr_names_and_sizes() -> Outcome {
    file("f", b"x")?;
    fails!(setxattr("f", "", b"", 0), ERANGE);
    fails!(setxattr("f", &format!("trusted.{}", "n".repeat(248)), b"", 0), ERANGE);
    fails!(setxattr("f", "nonsense.name", b"", 0), EOPNOTSUPP);
    fails!(setxattr("f", "trusted.x", b"", 8), EINVAL);
    fails!(setxattr("missing", "trusted.x", b"", 0), ENOENT);
    fails!(sys!(SYS_setxattr, path("f").as_ptr(), path("trusted.x").as_ptr(), 8, 65537, 0), E2BIG);
    fails!(sys!(SYS_setxattr, path("f").as_ptr(), path("trusted.x").as_ptr(), 8, 5, 0), EFAULT);
    fails!(sys!(SYS_fsetxattr, 99, path("trusted.x").as_ptr(), 0, 0, 0), EBADF);
    Ok(())
}

fn xattr_trusted_is_for_root() -> Outcome {
    file("f", b"x")?;
    sets("f", "trusted.t", b"v")?;
    apart(|| {
        become_user()?;
        fails!(getxattr("f", "trusted.t", &mut [0; 9]), ENODATA);
        fails!(setxattr("f", "trusted.t", b"", 0), EPERM);
        fails!(setxattr("f", "security.capability", &file_caps(1, 1), 0), EPERM);
        same!(sys!(SYS_listxattr, path("f").as_ptr(), 0, 0)?, 0);
        Ok(())
    })
}

/// `struct vfs_cap_data`, revision 2.
fn file_caps(permitted: u32, effective: u32) -> Vec<u8> {
    [0x0200_0000 | effective, permitted, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

const CAPABILITY: &str = "security.capability";

fn file_capabilities_are_given() -> Outcome {
    on_own_mount(file_capabilities_are_given_body)
}

fn file_capabilities_are_given_body() -> Outcome {
    copy_of_me("p", 0o755)?;
    sets("p", CAPABILITY, &file_caps(KILL as u32, 1))?;
    let (text, _) = ids_of("./p", user)?;
    holds!(text.contains(" effective=20 permitted=20 dumpable=0"));
    setxattr("p", CAPABILITY, &file_caps(KILL as u32, 0), 0)?;
    let (text, _) = ids_of("./p", user)?;
    holds!(text.contains("effective=0 permitted=20 "));
    let (text, _) = ids_of("./p", no_new_privs)?;
    holds!(text.contains("effective=0 permitted=0 "));
    Ok(())
}

fn file_capabilities_must_be_complete() -> Outcome {
    on_own_mount(file_capabilities_must_be_complete_body)
}

fn file_capabilities_must_be_complete_body() -> Outcome {
    copy_of_me("p", 0o755)?;
    sets("p", CAPABILITY, &file_caps(KILL as u32, 1))?;
    let (_, status) = ids_of("./p", || {
        sys!(SYS_prctl, PR_CAPBSET_DROP, 5, 0, 0, 0)?;
        user()
    })?;
    same!(status, 200 + EPERM);
    Ok(())
}

fn write_takes_file_capabilities() -> Outcome {
    file("f", b"x")?;
    sets("f", CAPABILITY, &file_caps(1, 0))?;
    let fd = open("f", O_WRONLY, 0)?;
    write(fd, b"y")?;
    fails!(getxattr("f", CAPABILITY, &mut [0; 64]), ENODATA);
    setxattr("f", CAPABILITY, &file_caps(1, 0), 0)?;
    sys!(SYS_fchownat, AT_FDCWD, path("f").as_ptr(), 0, 0, 0)?;
    fails!(getxattr("f", CAPABILITY, &mut [0; 64]), ENODATA);
    Ok(())
}

fn bad_file_capabilities_are_einval() -> Outcome {
    file("f", b"x")?;
    sets("f", "trusted.probe", b"")?;
    for bad in [&b"abc"[..], &file_caps(1, 0)[..16], &[9; 20]] {
        fails!(setxattr("f", CAPABILITY, bad, 0), EINVAL);
    }
    Ok(())
}

fn script_through_cloexec_descriptor() -> Outcome {
    file("s", format!("#!{} helper:argv\n", own_path()).as_bytes())?;
    sys!(SYS_fchmodat, AT_FDCWD, path("s").as_ptr(), 0o755)?;
    let argv = [std::ptr::null::<u8>()];
    let fd = open("s", O_RDONLY | O_CLOEXEC, 0)?;
    fails!(sys!(SYS_execveat, fd, path("").as_ptr(), argv.as_ptr(), argv.as_ptr(), AT_EMPTY_PATH), ENOENT);
    Ok(())
}

fn execveat_flags() -> Outcome {
    let argv = [std::ptr::null::<u8>()];
    let run = |fd: i32, name: &str, flags: i32| {
        sys!(SYS_execveat, fd, path(name).as_ptr(), argv.as_ptr(), argv.as_ptr(), flags)
    };
    symlink(&own_path(), "link")?;
    fails!(run(AT_FDCWD, "link", AT_SYMLINK_NOFOLLOW), ELOOP);
    fails!(run(AT_FDCWD, "link", 1 << 20), EINVAL);
    fails!(run(AT_FDCWD, "", 0), ENOENT);
    fails!(run(99, "", AT_EMPTY_PATH), EBADF);
    fails!(run(99, "x", 0), EBADF);
    fails!(run(AT_FDCWD, "link/x", 0), ENOTDIR);
    let directory = open(".", O_RDONLY, 0)?;
    fails!(run(directory, "", AT_EMPTY_PATH), EACCES);
    Ok(())
}

fn write_to(name: &str, text: &str) -> Result<usize> {
    let fd = open(name, O_WRONLY, 0)?;
    let done = write(fd, text.as_bytes());
    close(fd)?;
    done
}

fn binfmt_misc_extension() -> Outcome {
    mkdir("fmt", 0o755)?;
    let kind = path("binfmt_misc");
    if sys!(SYS_mount, kind.as_ptr(), path("fmt").as_ptr(), kind.as_ptr(), 0, 0).is_err() {
        exit(SKIPPED);
    }
    let me = own_path();
    let outcome = (|| {
        file("x.abitest", b"no program")?;
        sys!(SYS_fchmodat, AT_FDCWD, path("x.abitest").as_ptr(), 0o755)?;
        fails!(write_to("fmt/register", "nonsense and more"), EINVAL);
        write_to("fmt/register", &format!(":abitest:E::abitest::{me}:"))?;
        fails!(write_to("fmt/register", &format!(":abitest:E::abitest::{me}:")), EEXIST);
        let text = String::from_utf8_lossy(&content("fmt/abitest")?).to_string();
        same!(text, format!("enabled\ninterpreter {me}\nflags: \nextension .abitest\n"));
        let (text, _) = output("./x.abitest", &["name", "a", "b"], &[("ABITEST_ARGUMENTS=1")])?;
        same!(text, format!("{me}|./x.abitest|a|b"));
        write_to("fmt/abitest", "0")?;
        same!(output("./x.abitest", &["name"], &[])?.1, 200 + ENOEXEC);
        Ok(())
    })();
    let _ = write_to("fmt/abitest", "-1");
    let _ = sys!(SYS_umount2, path("fmt").as_ptr(), 0);
    outcome
}
