//! setns(2).

use abi::Errno;

use super::Context;
use crate::Result;
use crate::fs::nsfs;
use crate::fs::pidfd::PidFd;
use crate::fs::proc::may_look_into;
use crate::ns::{Change, Kind, Namespace};

/// The kinds in the order in which setns(2) with a pidfd enters them (Linux `validate_nsset`).
const ORDER: [Kind; 8] =
    [Kind::User, Kind::Mount, Kind::Uts, Kind::Ipc, Kind::Pid, Kind::Cgroup, Kind::Net, Kind::Time];

/// setns(2): the namespace of an open file, or those in `kinds` (CLONE_NEW*) of the process of a pidfd, all or none.
pub fn setns(cx: &mut Context<'_>, fd: i32, kinds: u32) -> Result<usize> {
    let file = cx.task.files().get(fd)?;
    let kinds = u64::from(kinds);
    let mut change = Change::begin(&cx.task);
    if let Some(namespace) = nsfs::namespace_of(&file) {
        if kinds != 0 && kinds != namespace.kind().flag() {
            return Err(Errno::EINVAL);
        }
        change.install(&cx.task, &namespace)?;
    } else if let Some(pidfd) = file.ops_as::<PidFd>() {
        let known = ORDER.iter().fold(0, |all, kind| all | kind.flag());
        if kinds == 0 || kinds & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let target = pidfd.group().leader().ok_or(Errno::ESRCH)?;
        if !may_look_into(&target) {
            return Err(Errno::EPERM);
        }
        for kind in ORDER.into_iter().filter(|kind| kinds & kind.flag() != 0) {
            change.install(&cx.task, &Namespace::of(&target, kind))?;
        }
    } else {
        return Err(Errno::EINVAL);
    }
    change.commit(&cx.task);
    Ok(0)
}
