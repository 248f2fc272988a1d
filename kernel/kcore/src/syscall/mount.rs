//! mount(2), umount2(2), pivot_root(2), sync(2), syncfs(2).

use abi::Errno;
use abi::capability::CAP_SYS_ADMIN;
use abi::fcntl::AT_FDCWD;

use super::path::walk_context;
use super::{Context, UserStr};
use crate::Result;
use crate::fs::mount::{Mount, MountNamespace, Path, Propagation, mnt, ms};
use crate::fs::namei::{Last, lookup};
use crate::fs::super_block::{MountRequest, find_type};
use crate::ns::NsSet;
use crate::task::{self, Creds};

const MNT_FORCE: u32 = 1;
const MNT_DETACH: u32 = 2;
const MNT_EXPIRE: u32 = 4;
const UMOUNT_NOFOLLOW: u32 = 8;

fn place(cx: &Context<'_>, path: UserStr, last: Last, creds: &Creds) -> Result<Path> {
    path.with_path(|path| lookup(walk_context(cx, AT_FDCWD, path, creds)?, path, last))
}

/// `EPERM` without CAP_SYS_ADMIN over the mount namespace (Linux `may_mount`).
fn may_mount(creds: &Creds, namespace: &MountNamespace) -> Result<()> {
    if creds.ns_capable(&namespace.owner, CAP_SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

/// The file systems that need no privilege but in one's own user namespace (Linux FS_USERNS_MOUNT); proc and sysfs show
/// what belongs to the initial one.
const FOR_EVERYBODY: [&str; 4] = ["tmpfs", "ramfs", "devpts", "mqueue"];

/// `EPERM` without the right to mount this kind (Linux `mount_capable`). proc shows a PID namespace: whose that is may mount
/// it, and see it all only where it is all seen already (`mount_too_revealing`).
fn may_mount_type(creds: &Creds, set: &NsSet, kind: &str, flags: u32) -> Result<()> {
    let may = match kind {
        _ if creds.capable(CAP_SYS_ADMIN) || FOR_EVERYBODY.contains(&kind) => true,
        "proc" => creds.ns_capable(&set.pid().owner, CAP_SYS_ADMIN) && set.mount().shows_all_of(kind, flags),
        _ => false,
    };
    if may { Ok(()) } else { Err(Errno::EPERM) }
}

/// The flags of a mount from those of mount(2): relatime unless told otherwise.
fn mount_flags(flags: u64) -> u32 {
    let mut kept = (flags as u32) & (mnt::MASK & !mnt::RELATIME);
    if flags & (ms::NOATIME | ms::STRICTATIME) == 0 {
        kept |= mnt::RELATIME;
    }
    kept
}

/// mount(2).
pub fn mount(
    cx: &mut Context<'_>,
    source: UserStr,
    target: UserStr,
    kind: UserStr,
    flags: u64,
    data: UserStr,
) -> Result<usize> {
    const MAGIC_MASK: u64 = 0xffff_0000;
    const MAGIC: u64 = 0xc0ed_0000;
    const PROPAGATION: u64 = ms::SHARED | ms::PRIVATE | ms::SLAVE | ms::UNBINDABLE;
    // Since Linux 2.4 the magic number may be there and means nothing.
    let flags = if flags & MAGIC_MASK == MAGIC { flags & !MAGIC_MASK } else { flags };
    let optional = |text: UserStr| if text.is_null() { Ok(alloc::vec::Vec::new()) } else { text.read_path() };
    let kind = optional(kind)?;
    let source_text = optional(source)?;
    let options = optional(data)?;
    let creds = cx.creds();
    let at = place(cx, target, Last::Follow, &creds)?;
    let namespace = cx.namespaces().mount();
    may_mount(&creds, &namespace)?;
    if flags & ms::REMOUNT != 0 {
        // MS_REMOUNT|MS_BIND changes the mount alone.
        let options = (flags & ms::BIND == 0).then_some(&*options);
        namespace.remount(&at, remount_flags(flags, at.mount.flags()), options)?;
    } else if flags & ms::BIND != 0 {
        let from = place(cx, source, Last::Follow, &creds)?;
        namespace.bind(&from, at, flags & ms::REC != 0)?;
    } else if flags & PROPAGATION != 0 {
        namespace.set_propagation(&at, propagation(flags)?, flags & ms::REC != 0)?;
    } else if flags & ms::MOVE != 0 {
        let from = place(cx, source, Last::Follow, &creds)?;
        namespace.move_mount(&from, at)?;
    } else {
        if kind.is_empty() {
            return Err(Errno::EINVAL);
        }
        let request = MountRequest { source: &source_text, options: &options, creds: &creds };
        let fs_type = find_type(&kind)?;
        may_mount_type(&creds, &cx.namespaces(), fs_type.name, mount_flags(flags))?;
        let sb = (fs_type.mount)(&request)?;
        if flags & ms::RDONLY != 0 {
            sb.set_read_only(true);
        }
        let root = sb.root()?;
        let shown: &[u8] = if source.is_null() || source_text.is_empty() { b"none" } else { &source_text };
        let new = Mount::new(sb, root, shown.into(), mount_flags(flags));
        namespace.attach(new, at)?;
    }
    Ok(0)
}

/// The flags after a remount: access times stay as they are unless something is said of them (Linux `path_mount`).
fn remount_flags(flags: u64, old: u32) -> u32 {
    let new = mount_flags(flags);
    if flags & (ms::NOATIME | ms::NODIRATIME | ms::RELATIME | ms::STRICTATIME) == 0 {
        new & !mnt::ATIME | old & mnt::ATIME
    } else {
        new
    }
}

/// The one kind that the flags ask for: `EINVAL` for several, and for flags that do not go with them (Linux
/// `flags_to_propagation_type`).
fn propagation(flags: u64) -> Result<Propagation> {
    match flags & !(ms::REC | ms::SILENT) {
        ms::SHARED => Ok(Propagation::Shared),
        ms::PRIVATE => Ok(Propagation::Private),
        ms::SLAVE => Ok(Propagation::Slave),
        ms::UNBINDABLE => Ok(Propagation::Unbindable),
        _ => Err(Errno::EINVAL),
    }
}

/// umount2(2).
pub fn umount2(cx: &mut Context<'_>, target: UserStr, flags: u32) -> Result<usize> {
    if flags & !(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let creds = cx.creds();
    let namespace = cx.namespaces().mount();
    may_mount(&creds, &namespace)?;
    if flags & MNT_EXPIRE != 0 && flags & (MNT_FORCE | MNT_DETACH) != 0 {
        return Err(Errno::EINVAL);
    }
    let last = if flags & UMOUNT_NOFOLLOW != 0 { Last::NoFollow } else { Last::Follow };
    let at = place(cx, target, last, &creds)?;
    if flags & MNT_EXPIRE != 0 {
        namespace.expire(at)?;
    } else {
        namespace.unmount(at, flags & MNT_DETACH != 0)?;
    }
    Ok(0)
}

/// pivot_root(2). Tasks whose root or working directory is the old root get the new one (Linux `chroot_fs_refs`).
pub fn pivot_root(cx: &mut Context<'_>, new_root: UserStr, put_old: UserStr) -> Result<usize> {
    let creds = cx.creds();
    let namespace = cx.namespaces().mount();
    may_mount(&creds, &namespace)?;
    let directory = |path: UserStr| {
        let found = place(cx, path, Last::Follow, &creds)?;
        if found.dentry.inode().is_dir() { Ok(found) } else { Err(Errno::ENOTDIR) }
    };
    let (new, old) = (directory(new_root)?, directory(put_old)?);
    let root = cx.fs().root();
    namespace.pivot_root(&root, &new, old)?;
    task::each_fs(|fs| fs.move_root(&root, &new));
    Ok(0)
}

/// sync(2).
pub fn sync(cx: &mut Context<'_>) -> Result<usize> {
    for mount in cx.namespaces().mount().mounts() {
        // sync(2) has no way to report an error.
        let _ = mount.sb.ops.sync();
    }
    Ok(0)
}

/// syncfs(2).
pub fn syncfs(cx: &mut Context<'_>, fd: i32) -> Result<usize> {
    let file = cx.files().get(fd)?;
    file.path.mount.sb.ops.sync().map(|()| 0)
}
