//! Mount options of `/proc`: `hidepid` and `gid` (proc(5), "Mount options").

use alloc::sync::Arc;
use core::any::Any;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;

use super::may_look_into;
use crate::Result;
use crate::fs::super_block::{SuperBlock, SuperOps};
use crate::task::{Pid, PidNamespace, Task, current};

/// What other people's processes show (Linux `enum proc_hidepid`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Hide {
    /// Everything that their files' modes allow.
    Nothing = 0,
    /// Their directories, but not what is in them.
    Contents = 1,
    /// Not even that they exist.
    Existence = 2,
    /// As [`Hide::Existence`], for members of the group too.
    NotTraceable = 4,
}

const NAMES: [(&str, &str, Hide); 4] = [
    ("0", "off", Hide::Nothing),
    ("1", "noaccess", Hide::Contents),
    ("2", "invisible", Hide::Existence),
    ("4", "ptraceable", Hide::NotTraceable),
];

/// An instance of `/proc`.
pub(super) struct ProcSuper {
    /// The namespace whose processes it shows.
    pub(super) space: Arc<PidNamespace>,
    hide: AtomicU32,
    /// Members see everything.
    gid: AtomicU32,
}

impl ProcSuper {
    /// With the options of mount(2).
    pub(super) fn new(space: Arc<PidNamespace>, options: &[u8]) -> Result<Self> {
        let new = Self { space, hide: AtomicU32::new(0), gid: AtomicU32::new(0) };
        new.set(options)?;
        Ok(new)
    }

    /// `EINVAL` for what is not known; nothing is changed then.
    fn set(&self, text: &[u8]) -> Result<()> {
        let (mut hide, mut gid) = (None, None);
        for option in text.split(|byte| *byte == b',').filter(|option| !option.is_empty()) {
            let option = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
            match option.split_once('=') {
                Some(("hidepid", value)) => {
                    let found = NAMES.iter().find(|(number, name, _)| *number == value || *name == value);
                    hide = Some(found.ok_or(Errno::EINVAL)?.2);
                }
                Some(("gid", value)) => gid = Some(value.parse::<u32>().map_err(|_| Errno::EINVAL)?),
                _ => return Err(Errno::EINVAL),
            }
        }
        if let Some(hide) = hide {
            self.hide.store(hide as u32, Ordering::Relaxed);
        }
        if let Some(gid) = gid {
            self.gid.store(gid, Ordering::Relaxed);
        }
        Ok(())
    }

    fn hide(&self) -> Hide {
        let number = self.hide.load(Ordering::Relaxed);
        NAMES.iter().map(|entry| entry.2).find(|hide| *hide as u32 == number).unwrap_or(Hide::Nothing)
    }
}

impl SuperOps for ProcSuper {
    fn show_options(&self, out: &mut dyn Write) -> core::fmt::Result {
        let gid = self.gid.load(Ordering::Relaxed);
        if gid != 0 {
            write!(out, ",gid={gid}")?;
        }
        match NAMES.iter().find(|entry| entry.2 == self.hide()) {
            Some((_, name, hide)) if *hide != Hide::Nothing => write!(out, ",hidepid={name}"),
            _ => Ok(()),
        }
    }

    fn remount(&self, options: &[u8]) -> Result<()> {
        self.set(options)
    }
}

fn instance_of(sb: &SuperBlock) -> Option<&ProcSuper> {
    let any: &dyn Any = &*sb.ops;
    any.downcast_ref()
}

/// The PID namespace that an instance shows.
pub(super) fn space_of(sb: &SuperBlock) -> Arc<PidNamespace> {
    instance_of(sb).map_or_else(crate::ns::initial_pid_namespace, |instance| instance.space.clone())
}

/// The identity with a number in the namespace that an instance shows.
pub(super) fn find(sb: &SuperBlock, number: i32) -> Option<Arc<Pid>> {
    match instance_of(sb) {
        Some(instance) => instance.space.find(number),
        None => None,
    }
}

/// Whether anything is hidden in this instance.
pub(super) fn hides(sb: &SuperBlock) -> bool {
    instance_of(sb).is_some_and(|instance| instance.hide.load(Ordering::Relaxed) != 0)
}

/// Whether the process with this number is not to be listed for the current one.
pub(super) fn is_hidden(sb: &SuperBlock, number: i32) -> bool {
    let task = space_of(sb).find(number).and_then(|pid| pid.task());
    task.is_some_and(|task| !shows(sb, &task, Hide::Existence))
}

/// Whether `task` shows what `what` would hide, to the current process, in this instance (Linux `has_pid_permissions`).
pub(super) fn shows(sb: &SuperBlock, task: &Task, what: Hide) -> bool {
    let Some(instance) = instance_of(sb) else { return true };
    if instance.hide.load(Ordering::Relaxed) == 0 {
        return true;
    }
    let hide = instance.hide();
    if hide != Hide::NotTraceable {
        let is_member = || current().creds().in_group(instance.gid.load(Ordering::Relaxed));
        if hide < what || is_member() {
            return true;
        }
    }
    may_look_into(task)
}

/// What a look into a process's directory answers: `EPERM` if it may be known to exist, else `ENOENT` (Linux
/// `proc_pid_permission`).
pub(super) fn may_enter(sb: &SuperBlock, task: &Task) -> Result<()> {
    if shows(sb, task, Hide::Contents) {
        return Ok(());
    }
    Err(if shows(sb, task, Hide::Existence) { Errno::EPERM } else { Errno::ENOENT })
}

#[cfg(test)]
mod tests {
    use super::{Hide, PidNamespace, ProcSuper};
    use crate::Errno;
    use crate::fs::super_block::SuperOps;

    #[test]
    fn options_have_numbers_and_names() {
        for (text, hide, shown) in [
            (&b""[..], Hide::Nothing, ""),
            (b"hidepid=0", Hide::Nothing, ""),
            (b"hidepid=1", Hide::Contents, ",hidepid=noaccess"),
            (b"gid=7,hidepid=invisible", Hide::Existence, ",gid=7,hidepid=invisible"),
            (b"hidepid=4", Hide::NotTraceable, ",hidepid=ptraceable"),
        ] {
            let proc = ProcSuper::new(PidNamespace::initial(), text).unwrap();
            assert_eq!(proc.hide(), hide);
            let mut out = String::new();
            proc.show_options(&mut out).unwrap();
            assert_eq!(out, shown);
        }
        for bad in [&b"hidepid=3"[..], b"hidepid", b"gid=x", b"nonsense", b"hidepid=1,foo=2"] {
            assert_eq!(ProcSuper::new(PidNamespace::initial(), bad).err(), Some(Errno::EINVAL));
        }
    }
}
