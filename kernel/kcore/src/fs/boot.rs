//! Bringing the file systems up: the types that can be mounted, the device file system, the root before the initramfs.

use alloc::sync::Arc;

use abi::stat as s;
use spin::Once;

use super::create::{self, Node};
use super::dev;
use super::mount;
use super::namei::WalkContext;
use super::super_block::{self, FsType, MountRequest, SuperBlock};
use super::tmpfs;
use crate::Result;
use crate::task::Creds;

/// devtmpfs: a tmpfs with a node for every device. All mounts of it show one instance, as on Linux.
static DEVTMPFS: FsType = FsType { name: "devtmpfs", mount: mount_devtmpfs };

hal::global! {
    static INSTANCE: Once<Result<Arc<SuperBlock>>> = Once::new();
}

fn mount_devtmpfs(_request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    INSTANCE.call_once(make_devtmpfs).clone()
}

fn make_devtmpfs() -> Result<Arc<SuperBlock>> {
    let creds = Creds::root();
    let sb = tmpfs::new_super(&DEVTMPFS, s::TMPFS_MAGIC, &tmpfs::Options::for_tmpfs(&creds).parse(b"mode=0755")?)?;
    let root = sb.root()?;
    let make = |name: &[u8], mode: u32, rdev: u64, target: &[u8]| {
        create::make_locked(&root, name, &Node { mode, rdev, target }, &creds)
    };
    for node in dev::nodes() {
        make(node.name.as_bytes(), node.mode, node.rdev, b"")?;
    }
    for directory in [&b"pts"[..], b"shm", b"mqueue"] {
        make(directory, s::S_IFDIR | 0o755, 0, b"")?;
    }
    let links = [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")];
    for (name, target) in links.into_iter().chain([("stderr", "/proc/self/fd/2")]) {
        make(name.as_bytes(), s::S_IFLNK | 0o777, 0, target.as_bytes())?;
    }
    Ok(sb)
}

/// Registers the file systems, and puts `/dev/console` into the root, which Linux's built-in archive has too.
pub fn init() {
    super_block::register(&tmpfs::TMPFS);
    super_block::register(&DEVTMPFS);
    super_block::register(&super::proc::PROC);
    super_block::register(&super::sys::SYSFS);
    super_block::register(&super::devpts::DEVPTS);
    super_block::register(&super::binfmt_misc::BINFMT_MISC);
    let creds = Creds::root();
    let root = mount::initial_namespace().root();
    let nodes = [
        (&b"/dev"[..], s::S_IFDIR | 0o755, 0),
        (b"/dev/console", s::S_IFCHR | 0o600, s::makedev(5, 1)),
        (b"/root", s::S_IFDIR | 0o700, 0),
    ];
    for (path, mode, rdev) in nodes {
        let context = WalkContext { root: root.clone().into(), base: root.clone().into(), creds: &creds, resolve: 0 };
        if let Err(error) = create::make(context, path, &Node { mode, rdev, target: b"" }) {
            log::warn!("rootfs: {}: {error}", alloc::string::String::from_utf8_lossy(path));
        }
    }
}
