//! The texts of `/proc/PID/mounts` and `mountinfo` (proc(5)).

use alloc::sync::Arc;
use core::fmt;

use super::{Mount, MountNamespace, Path, mnt, propagation};
use crate::fs::namei;

/// Writes `text` with what separates fields as octal escapes (Linux `mangle`).
fn write_escaped(out: &mut dyn fmt::Write, text: &[u8]) -> fmt::Result {
    for byte in text {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => write!(out, "\\{byte:03o}")?,
            _ => out.write_char(char::from(*byte))?,
        }
    }
    Ok(())
}

fn write_mount_options(out: &mut dyn fmt::Write, mount: &Mount) -> fmt::Result {
    const NAMES: [(u32, &str); 6] = [
        (mnt::NOSUID, ",nosuid"),
        (mnt::NODEV, ",nodev"),
        (mnt::NOEXEC, ",noexec"),
        (mnt::NOATIME, ",noatime"),
        (mnt::NODIRATIME, ",nodiratime"),
        (mnt::RELATIME, ",relatime"),
    ];
    NAMES.iter().filter(|(flag, _)| mount.flags() & flag != 0).try_for_each(|(_, name)| out.write_str(name))
}

fn rw(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

/// The text of `/proc/PID/mounts`: what a process with the root directory `root` can reach.
pub fn show_mounts(namespace: &MountNamespace, root: &Path, out: &mut dyn fmt::Write) -> fmt::Result {
    for mount in namespace.mounts() {
        let (place, reachable) = namei::path_from(&mount.root_path(), Some(root));
        if !reachable {
            continue;
        }
        write_escaped(out, &mount.source)?;
        out.write_char(' ')?;
        write_escaped(out, &place)?;
        write!(out, " {} {}", mount.sb.fs_type.name, rw(mount.is_read_only()))?;
        write_mount_options(out, &mount)?;
        mount.sb.ops.show_options(out)?;
        out.write_str(" 0 0\n")?;
    }
    Ok(())
}

/// The text of `/proc/PID/mountinfo` (proc(5)).
pub fn show_mountinfo(namespace: &MountNamespace, root: &Path, out: &mut dyn fmt::Write) -> fmt::Result {
    for mount in namespace.mounts() {
        let (place, reachable) = namei::path_from(&mount.root_path(), Some(root));
        if !reachable {
            continue;
        }
        let parent = mount.mountpoint().map_or(mount.id, |at| at.mount.id);
        let (major, minor) = (mount.sb.dev >> 8, mount.sb.dev & 0xff);
        write!(out, "{} {parent} {major}:{minor} ", mount.id)?;
        write_escaped(out, &namei::path_in_fs(&mount.root))?;
        out.write_char(' ')?;
        write_escaped(out, &place)?;
        write!(out, " {}", rw(mount.flags() & mnt::READONLY != 0))?;
        write_mount_options(out, &mount)?;
        write_tags(out, &mount, root)?;
        write!(out, " - {} ", mount.sb.fs_type.name)?;
        write_escaped(out, &mount.source)?;
        write!(out, " {}", rw(mount.sb.is_read_only()))?;
        mount.sb.ops.show_options(out)?;
        out.write_char('\n')?;
    }
    Ok(())
}

/// The optional fields: how the mount shares events, as far as the reader can see.
fn write_tags(out: &mut dyn fmt::Write, mount: &Arc<Mount>, root: &Path) -> fmt::Result {
    let is_reachable = |peer: &Arc<Mount>| namei::path_from(&peer.root_path(), Some(root)).1;
    let tags = propagation::tags(mount, is_reachable);
    let fields = [("shared", tags.shared), ("master", tags.master), ("propagate_from", tags.propagate_from)];
    for (name, group) in fields {
        if let Some(group) = group {
            write!(out, " {name}:{group}")?;
        }
    }
    if tags.is_unbindable { out.write_str(" unbindable") } else { Ok(()) }
}
