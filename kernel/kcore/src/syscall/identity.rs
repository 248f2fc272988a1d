//! Identity: getpid(2), setuid(2), capabilities(7), setpgid(2). prctl(2) is in [`super::prctl`].

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::capability as cap;
use abi::prctl::{SECBIT_KEEP_CAPS, SECBIT_NO_SETUID_FIXUP};

use super::{Context, UserPtr};
use crate::Result;
use crate::task::creds::CAP_FULL;
use crate::task::{self, Creds, Pid, Task, coredump, flags, group, limits};

fn number(value: i32) -> usize {
    value.unsigned_abs() as usize
}

/// A number in the caller's PID namespace.
fn number_seen(cx: &Context<'_>, pid: &Pid) -> usize {
    number(pid.number_in(cx.namespaces().pid()))
}

/// getpid(2).
pub fn getpid(cx: &mut Context<'_>) -> Result<usize> {
    Ok(number(cx.task.group.pid.own_number()))
}

/// getppid(2): 0 when the parent is in another PID namespace.
pub fn getppid(cx: &mut Context<'_>) -> Result<usize> {
    Ok(number(cx.task.group.parent.load(Ordering::Relaxed)))
}

/// gettid(2).
pub fn gettid(cx: &mut Context<'_>) -> Result<usize> {
    Ok(number(cx.task.own_tid()))
}

/// getuid(2).
pub fn getuid(cx: &mut Context<'_>) -> Result<usize> {
    let creds = cx.creds();
    Ok(creds.user_ns.shown_uid(creds.uid) as usize)
}

/// geteuid(2).
pub fn geteuid(cx: &mut Context<'_>) -> Result<usize> {
    let creds = cx.creds();
    Ok(creds.user_ns.shown_uid(creds.euid) as usize)
}

/// getgid(2).
pub fn getgid(cx: &mut Context<'_>) -> Result<usize> {
    let creds = cx.creds();
    Ok(creds.user_ns.shown_gid(creds.gid) as usize)
}

/// getegid(2).
pub fn getegid(cx: &mut Context<'_>) -> Result<usize> {
    let creds = cx.creds();
    Ok(creds.user_ns.shown_gid(creds.egid) as usize)
}

/// "Leave it as it is" in setreuid and setresuid.
const KEEP: u32 = u32::MAX;

/// The kernel's ids of numbers in the caller's user namespace, [`KEEP`] as it is; `EINVAL` for one that is no id there.
fn kuids<const N: usize>(creds: &Creds, uids: [u32; N]) -> Result<[u32; N]> {
    each_id(uids, |uid| creds.user_ns.kuid(uid))
}

/// The same for groups.
fn kgids<const N: usize>(creds: &Creds, gids: [u32; N]) -> Result<[u32; N]> {
    each_id(gids, |gid| creds.user_ns.kgid(gid))
}

fn each_id<const N: usize>(mut ids: [u32; N], map: impl Fn(u32) -> Option<u32>) -> Result<[u32; N]> {
    for id in ids.iter_mut().filter(|id| **id != KEEP) {
        *id = map(*id).ok_or(Errno::EINVAL)?;
    }
    Ok(ids)
}

/// Puts changed user ids in force: capabilities and the count of the user's threads follow.
fn commit_uids(task: &Task, old: &Creds, mut new: Creds) {
    new.fsuid = new.euid;
    if old.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
        new.fix_capabilities_after_setuid(old, old.securebits & SECBIT_KEEP_CAPS != 0);
    }
    limits::recharge_thread(old.uid, new.uid);
    // Looked at by the next execve (Linux `flag_nproc_exceeded`).
    let over = limits::threads_of(new.uid) as u64 > task.rlimit(abi::resource::RLIMIT_NPROC);
    if over && new.uid != 0 {
        task.flags.fetch_or(flags::NPROC_EXCEEDED, Ordering::Relaxed);
    } else {
        task.flags.fetch_and(!flags::NPROC_EXCEEDED, Ordering::Relaxed);
    }
    commit(task, old, new);
}

/// Puts credentials in force. A change of effective ids, or a capability more, makes the process undumpable and forgets
/// PR_SET_PDEATHSIG (prctl(2); Linux `commit_creds`).
pub(super) fn commit(task: &Task, old: &Creds, new: Creds) {
    let changed = new.euid != old.euid || new.egid != old.egid || new.fsuid != old.fsuid || new.fsgid != old.fsgid;
    if changed || new.cap_permitted & !old.cap_permitted != 0 {
        task.group.dumpable.store(coredump::SUID_DUMPABLE.load(Ordering::Relaxed), Ordering::Relaxed);
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    task.commit_creds(new);
}

/// setuid(2).
pub fn setuid(cx: &mut Context<'_>, uid: u32) -> Result<usize> {
    let old = cx.task.creds();
    let mut new = Creds::clone(&old);
    let uid = old.user_ns.kuid(uid).ok_or(Errno::EINVAL)?;
    if old.own_capable(cap::CAP_SETUID) {
        new.uid = uid;
        new.suid = uid;
    } else if uid != old.uid && uid != old.suid {
        return Err(Errno::EPERM);
    }
    new.euid = uid;
    commit_uids(&cx.task, &old, new);
    Ok(0)
}

/// setreuid(2).
pub fn setreuid(cx: &mut Context<'_>, ruid: u32, euid: u32) -> Result<usize> {
    let old = cx.task.creds();
    let mut new = Creds::clone(&old);
    let capable = old.own_capable(cap::CAP_SETUID);
    let [ruid, euid] = kuids(&old, [ruid, euid])?;
    if ruid != KEEP {
        if !capable && ruid != old.uid && ruid != old.euid {
            return Err(Errno::EPERM);
        }
        new.uid = ruid;
    }
    if euid != KEEP {
        if !capable && ![old.uid, old.euid, old.suid].contains(&euid) {
            return Err(Errno::EPERM);
        }
        new.euid = euid;
    }
    if ruid != KEEP || euid != KEEP && euid != old.uid {
        new.suid = new.euid;
    }
    commit_uids(&cx.task, &old, new);
    Ok(0)
}

/// setresuid(2).
pub fn setresuid(cx: &mut Context<'_>, ruid: u32, euid: u32, suid: u32) -> Result<usize> {
    let old = cx.task.creds();
    let mine = [old.uid, old.euid, old.suid];
    let [ruid, euid, suid] = kuids(&old, [ruid, euid, suid])?;
    let refused = [ruid, euid, suid].iter().any(|id| *id != KEEP && !mine.contains(id));
    if refused && !old.own_capable(cap::CAP_SETUID) {
        return Err(Errno::EPERM);
    }
    let mut new = Creds::clone(&old);
    let pick = |wanted: u32, now: u32| if wanted == KEEP { now } else { wanted };
    (new.uid, new.euid, new.suid) = (pick(ruid, old.uid), pick(euid, old.euid), pick(suid, old.suid));
    commit_uids(&cx.task, &old, new);
    Ok(0)
}

/// setgid(2).
pub fn setgid(cx: &mut Context<'_>, gid: u32) -> Result<usize> {
    let old = cx.task.creds();
    let mut new = Creds::clone(&old);
    let gid = old.user_ns.kgid(gid).ok_or(Errno::EINVAL)?;
    if old.own_capable(cap::CAP_SETGID) {
        new.gid = gid;
        new.sgid = gid;
    } else if gid != old.gid && gid != old.sgid {
        return Err(Errno::EPERM);
    }
    new.egid = gid;
    new.fsgid = gid;
    commit(&cx.task, &old, new);
    Ok(0)
}

/// setregid(2).
pub fn setregid(cx: &mut Context<'_>, rgid: u32, egid: u32) -> Result<usize> {
    let old = cx.task.creds();
    let mut new = Creds::clone(&old);
    let capable = old.own_capable(cap::CAP_SETGID);
    let [rgid, egid] = kgids(&old, [rgid, egid])?;
    if rgid != KEEP {
        if !capable && rgid != old.gid && rgid != old.egid {
            return Err(Errno::EPERM);
        }
        new.gid = rgid;
    }
    if egid != KEEP {
        if !capable && ![old.gid, old.egid, old.sgid].contains(&egid) {
            return Err(Errno::EPERM);
        }
        new.egid = egid;
    }
    if rgid != KEEP || egid != KEEP && egid != old.gid {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    commit(&cx.task, &old, new);
    Ok(0)
}

/// setresgid(2).
pub fn setresgid(cx: &mut Context<'_>, rgid: u32, egid: u32, sgid: u32) -> Result<usize> {
    let old = cx.task.creds();
    let mine = [old.gid, old.egid, old.sgid];
    let [rgid, egid, sgid] = kgids(&old, [rgid, egid, sgid])?;
    let refused = [rgid, egid, sgid].iter().any(|id| *id != KEEP && !mine.contains(id));
    if refused && !old.own_capable(cap::CAP_SETGID) {
        return Err(Errno::EPERM);
    }
    let mut new = Creds::clone(&old);
    let pick = |wanted: u32, now: u32| if wanted == KEEP { now } else { wanted };
    (new.gid, new.egid, new.sgid) = (pick(rgid, old.gid), pick(egid, old.egid), pick(sgid, old.sgid));
    new.fsgid = new.egid;
    commit(&cx.task, &old, new);
    Ok(0)
}

/// getresuid(2).
pub fn getresuid(cx: &mut Context<'_>, ruid: UserPtr<u32>, euid: UserPtr<u32>, suid: UserPtr<u32>) -> Result<usize> {
    let creds = cx.task.creds();
    let shown = |kuid| creds.user_ns.shown_uid(kuid);
    ruid.write(&shown(creds.uid))?;
    euid.write(&shown(creds.euid))?;
    suid.write(&shown(creds.suid))?;
    Ok(0)
}

/// getresgid(2).
pub fn getresgid(cx: &mut Context<'_>, rgid: UserPtr<u32>, egid: UserPtr<u32>, sgid: UserPtr<u32>) -> Result<usize> {
    let creds = cx.task.creds();
    let shown = |kgid| creds.user_ns.shown_gid(kgid);
    rgid.write(&shown(creds.gid))?;
    egid.write(&shown(creds.egid))?;
    sgid.write(&shown(creds.sgid))?;
    Ok(0)
}

/// setfsuid(2): never fails, returns the former value.
pub fn setfsuid(cx: &mut Context<'_>, uid: u32) -> Result<usize> {
    let old = cx.task.creds();
    let may = |kuid: &u32| [old.uid, old.euid, old.suid, old.fsuid].contains(kuid) || old.own_capable(cap::CAP_SETUID);
    if let Some(fsuid) = old.user_ns.kuid(uid).filter(may) {
        let mut new = Creds { fsuid, ..Creds::clone(&old) };
        if old.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
            new.fix_capabilities_after_setfsuid(&old);
        }
        commit(&cx.task, &old, new);
    }
    Ok(old.user_ns.shown_uid(old.fsuid) as usize)
}

/// setfsgid(2).
pub fn setfsgid(cx: &mut Context<'_>, gid: u32) -> Result<usize> {
    let old = cx.task.creds();
    let may = |kgid: &u32| [old.gid, old.egid, old.sgid, old.fsgid].contains(kgid) || old.own_capable(cap::CAP_SETGID);
    if let Some(fsgid) = old.user_ns.kgid(gid).filter(may) {
        commit(&cx.task, &old, Creds { fsgid, ..Creds::clone(&old) });
    }
    Ok(old.user_ns.shown_gid(old.fsgid) as usize)
}

/// getgroups(2).
pub fn getgroups(cx: &mut Context<'_>, size: i32, list: UserPtr<u32>) -> Result<usize> {
    let creds = cx.task.creds();
    let groups: Vec<u32> = creds.groups.iter().map(|gid| creds.user_ns.shown_gid(*gid)).collect();
    match usize::try_from(size).map_err(|_| Errno::EINVAL)? {
        0 => {}
        size if size < groups.len() => return Err(Errno::EINVAL),
        _ => list.write_many(&groups)?,
    }
    Ok(groups.len())
}

/// setgroups(2).
pub fn setgroups(cx: &mut Context<'_>, size: i32, list: UserPtr<u32>) -> Result<usize> {
    /// NGROUPS_MAX.
    const LIMIT: usize = 65536;
    let old = cx.task.creds();
    if !old.own_capable(cap::CAP_SETGID) || !old.user_ns.may_setgroups() {
        return Err(Errno::EPERM);
    }
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    if size > LIMIT {
        return Err(Errno::EINVAL);
    }
    let mut groups = list.read_many(size)?;
    // A number without a group, as the one that means "none", is none (Linux `groups_from_user`).
    for group in &mut groups {
        *group = old.user_ns.kgid(*group).ok_or(Errno::EINVAL)?;
    }
    groups.sort_unstable();
    commit(&cx.task, &old, Creds { groups: Arc::new(groups), ..Creds::clone(&old) });
    Ok(0)
}

/// setpgid(2).
pub fn setpgid(_cx: &mut Context<'_>, pid: i32, pgid: i32) -> Result<usize> {
    group::set_pgid(pid, pgid)?;
    Ok(0)
}

fn other(cx: &Context<'_>, pid: i32) -> Result<Arc<Task>> {
    if pid == 0 { Ok(cx.task.arc()) } else { task::find_or_esrch(pid) }
}

/// getpgid(2).
pub fn getpgid(cx: &mut Context<'_>, pid: i32) -> Result<usize> {
    Ok(number_seen(cx, &group::pgrp_of(&*other(cx, pid)?)))
}

/// getsid(2).
pub fn getsid(cx: &mut Context<'_>, pid: i32) -> Result<usize> {
    Ok(number_seen(cx, &group::session_of(&*other(cx, pid)?)))
}

/// setsid(2).
pub fn setsid(_cx: &mut Context<'_>) -> Result<usize> {
    Ok(group::set_sid()?.unsigned_abs() as usize)
}

/// How many 32-bit words each set has in this version of the interface; unknown versions are answered with ours.
fn capability_words(header: UserPtr<[u32; 2]>) -> Result<(usize, i32)> {
    let [version, pid] = header.read()?;
    match version {
        cap::_LINUX_CAPABILITY_VERSION_1 => Ok((1, pid.cast_signed())),
        cap::_LINUX_CAPABILITY_VERSION_2 | cap::_LINUX_CAPABILITY_VERSION_3 => Ok((2, pid.cast_signed())),
        _ => {
            header.write(&[cap::_LINUX_CAPABILITY_VERSION_3, pid])?;
            Err(Errno::EINVAL)
        }
    }
}

/// capget(2): effective, permitted, inheritable, low words first.
pub fn capget(cx: &mut Context<'_>, header: UserPtr<[u32; 2]>, data: UserPtr<[u32; 6]>) -> Result<usize> {
    let (words, pid) = match capability_words(header) {
        // A probe for the version has no data pointer, whatever the version.
        Ok(_) | Err(Errno::EINVAL) if data.is_null() => return Ok(0),
        other => other?,
    };
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    let creds = other(cx, pid)?.creds();
    let sets = [creds.cap_effective, creds.cap_permitted, creds.cap_inheritable];
    let mut out = [0u32; 6];
    for word in 0..words {
        for (n, set) in sets.iter().enumerate() {
            out[word * 3 + n] = (set >> (32 * word)) as u32;
        }
    }
    data.cast::<u32>().write_many(&out[..words * 3])?;
    Ok(0)
}

/// capset(2): permitted may only shrink, effective stays within it, inheritable within it and the bounding set.
pub fn capset(cx: &mut Context<'_>, header: UserPtr<[u32; 2]>, data: UserPtr<[u32; 6]>) -> Result<usize> {
    let (words, pid) = capability_words(header)?;
    // Only of the calling thread itself (capset(2)).
    if pid != 0 && pid != cx.task.pid().number_in(cx.task.namespaces().pid()) {
        return Err(Errno::EPERM);
    }
    let raw = data.cast::<u32>().read_many(words * 3)?;
    let set = |n: usize| {
        let low = u64::from(raw[n]);
        let high = raw.get(3 + n).copied().map_or(0, u64::from);
        (low | high << 32) & CAP_FULL
    };
    let (effective, permitted, inheritable) = (set(0), set(1), set(2));
    let old = cx.task.creds();
    let may_inherit = old.cap_inheritable | old.cap_permitted;
    if permitted & !old.cap_permitted != 0
        || effective & !permitted != 0
        || inheritable & !(old.cap_inheritable | old.cap_bounding) != 0
        || inheritable & !may_inherit != 0 && !old.own_capable(cap::CAP_SETPCAP)
    {
        return Err(Errno::EPERM);
    }
    let new = Creds {
        cap_effective: effective,
        cap_permitted: permitted,
        cap_inheritable: inheritable,
        cap_ambient: old.cap_ambient & permitted & inheritable,
        ..Creds::clone(&old)
    };
    cx.task.commit_creds(new);
    Ok(0)
}

/// personality(2): returns the former value; 0xffffffff only asks.
pub fn personality(cx: &mut Context<'_>, persona: u32) -> Result<usize> {
    let old = cx.task.personality.load(Ordering::Relaxed);
    if persona != u32::MAX {
        cx.task.personality.store(persona, Ordering::Relaxed);
    }
    Ok(old as usize)
}
