//! Extended attributes: xattr(7), capabilities(7) "File capabilities".
//!
//! File systems in memory keep them with the inode ([`Xattrs`]); most inodes have none and pay one word. Who may see and set
//! what is decided here, by the namespace of the name.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::capability::{CAP_SETFCAP, CAP_SYS_ADMIN};
use abi::stat::S_ISVTX;

use super::inode::Inode;
use super::permission::{self, MAY_READ, MAY_WRITE};
use crate::Result;
use crate::sync::Mutex;
use crate::task::Creds;
use crate::task::creds::{CAP_FULL, CapSet};

/// Longest value (XATTR_SIZE_MAX).
pub const MAX_VALUE: usize = 65536;
/// Longest list of names (XATTR_LIST_MAX).
pub const MAX_LIST: usize = 65536;
/// Longest name with its NUL (XATTR_NAME_MAX and one).
pub const MAX_NAME: usize = 256;
/// What the attributes of one inode may take, so that nobody fills the kernel's memory with one file.
const MAX_TOTAL: usize = 2 * MAX_VALUE;
/// The attribute that holds a file's capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// The attributes of an inode.
pub struct Xattrs(Mutex<BTreeMap<Vec<u8>, Arc<[u8]>>>);

/// What setxattr(2) is to find.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It may or may not be there.
    Any,
    /// XATTR_CREATE: `EEXIST` if it is.
    Absent,
    /// XATTR_REPLACE: `ENODATA` if it is not.
    Present,
}

/// The namespace of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    User,
    Trusted,
    Security,
}

/// The namespace; `EOPNOTSUPP` for one that is not kept here, `EINVAL` for one without a name behind it.
fn namespace_of(name: &[u8]) -> Result<Namespace> {
    const PREFIXES: [(&[u8], Namespace); 3] =
        [(b"user.", Namespace::User), (b"trusted.", Namespace::Trusted), (b"security.", Namespace::Security)];
    let found = PREFIXES.iter().find_map(|(prefix, space)| name.strip_prefix(*prefix).map(|rest| (rest, *space)));
    match found {
        Some((b"", _)) => Err(Errno::EINVAL),
        Some((_, space)) => Ok(space),
        None => Err(Errno::EOPNOTSUPP),
    }
}

/// Whether `creds` may read (`MAY_READ`) or change (`MAY_WRITE`) attributes of this name (Linux `xattr_permission`,
/// `cap_inode_setxattr`). What may not be seen is `ENODATA`.
fn check(inode: &Inode, creds: &Creds, name: &[u8], mask: u32) -> Result<()> {
    let writes = mask & MAY_WRITE != 0;
    let refusal = if writes { Errno::EPERM } else { Errno::ENODATA };
    match namespace_of(name) {
        Ok(Namespace::Security) => {
            let may = if name == CAPABILITY {
                permission::capable_over(inode, creds, CAP_SETFCAP)
            } else {
                creds.capable(CAP_SYS_ADMIN)
            };
            if writes && !may { Err(Errno::EPERM) } else { Ok(()) }
        }
        Ok(Namespace::Trusted) => {
            if creds.capable(CAP_SYS_ADMIN) {
                Ok(())
            } else {
                Err(refusal)
            }
        }
        // Quotas and permissions make no sense for what is no file or directory (xattr(7)).
        Ok(Namespace::User) if !inode.is_regular() && !inode.is_dir() => Err(refusal),
        Ok(Namespace::User) => {
            let sticky = inode.is_dir() && inode.mode() & S_ISVTX != 0;
            if writes && sticky && !permission::owner_or_capable(inode, creds) {
                return Err(Errno::EPERM);
            }
            permission::check(inode, creds, mask)
        }
        Err(error) => Err(error),
    }
}

fn supported(inode: &Inode) -> Result<()> {
    if inode.ops().has_xattrs() { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

/// The value of an attribute: `ENODATA`, `EOPNOTSUPP`.
pub fn get(inode: &Inode, creds: &Creds, name: &[u8]) -> Result<Arc<[u8]>> {
    check(inode, creds, name, MAY_READ)?;
    supported(inode)?;
    value_of(inode, name).ok_or(Errno::ENODATA)
}

fn value_of(inode: &Inode, name: &[u8]) -> Option<Arc<[u8]>> {
    inode.xattrs.get()?.0.lock().get(name).cloned()
}

/// Sets an attribute: `EEXIST`, `ENODATA`, `ENOSPC`, and for file capabilities `EINVAL`.
pub fn set(inode: &Inode, creds: &Creds, name: &[u8], value: &[u8], existing: Existing) -> Result<()> {
    if name == CAPABILITY && !value.is_empty() && FileCapabilities::parse(value).is_none() {
        return Err(Errno::EINVAL);
    }
    check(inode, creds, name, MAY_WRITE)?;
    supported(inode)?;
    crate::mm::frame::admit(value.len() + name.len() + hal::mem::PAGE_SIZE)?;
    let all = inode.xattrs.call_once(|| Box::new(Xattrs(Mutex::new(BTreeMap::new()))));
    let mut all = all.0.lock();
    let old = all.get(name).map(|value| name.len() + value.len());
    match existing {
        Existing::Absent if old.is_some() => return Err(Errno::EEXIST),
        Existing::Present if old.is_none() => return Err(Errno::ENODATA),
        _ => {}
    }
    let used: usize = all.iter().map(|(name, value)| name.len() + value.len()).sum();
    if used - old.unwrap_or(0) + name.len() + value.len() > MAX_TOTAL {
        return Err(Errno::ENOSPC);
    }
    all.insert(name.to_vec(), value.into());
    drop(all);
    inode.touch_changed();
    Ok(())
}

/// Removes an attribute: `ENODATA`.
pub fn remove(inode: &Inode, creds: &Creds, name: &[u8]) -> Result<()> {
    check(inode, creds, name, MAY_WRITE)?;
    supported(inode)?;
    let gone = inode.xattrs.get().and_then(|all| all.0.lock().remove(name));
    if gone.is_none() {
        return Err(Errno::ENODATA);
    }
    inode.touch_changed();
    Ok(())
}

/// The names that `creds` may see, each with a NUL behind it.
pub fn list(inode: &Inode, creds: &Creds) -> Vec<u8> {
    let mut names = Vec::new();
    let Some(all) = inode.xattrs.get() else { return names };
    let sees_trusted = creds.capable(CAP_SYS_ADMIN);
    for name in all.0.lock().keys().filter(|name| sees_trusted || !name.starts_with(b"trusted.")) {
        names.extend_from_slice(name);
        names.push(0);
    }
    names
}

/// Whoever changes a file's content or owner takes its capabilities away (Linux `cap_inode_killpriv`).
pub fn drop_capabilities(inode: &Inode) {
    if let Some(all) = inode.xattrs.get() {
        let gone = all.0.lock().remove(CAPABILITY);
        drop(gone);
    }
}

/// A file's capabilities (`struct vfs_cap_data`, `struct vfs_ns_cap_data`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCapabilities {
    /// Given to whoever runs it, within the bounding set.
    pub permitted: CapSet,
    /// Given to whoever has them inheritable.
    pub inheritable: CapSet,
    /// The new permitted set becomes effective as a whole.
    pub effective: bool,
    /// The user that is root where they count; 0 in all versions but the third.
    pub root: u32,
}

impl FileCapabilities {
    /// Reads the attribute. `None` for a size or version that Linux refuses (`get_vfs_caps_from_disk`).
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const REVISION: u32 = 0xff00_0000;
        const EFFECTIVE: u32 = 1;
        let word = |n: usize| {
            let bytes = bytes.get(n * 4..n * 4 + 4)?;
            bytes.try_into().ok().map(u32::from_le_bytes)
        };
        let magic = word(0)?;
        let pairs = match (magic & REVISION, bytes.len()) {
            (0x0100_0000, 12) => 1,
            (0x0200_0000, 20) | (0x0300_0000, 24) => 2,
            _ => return None,
        };
        let set = |n: usize| {
            let high = if pairs == 2 { word(n + 2)? } else { 0 };
            Some((u64::from(word(n)?) | u64::from(high) << 32) & CAP_FULL)
        };
        Some(Self {
            permitted: set(1)?,
            inheritable: set(2)?,
            effective: magic & EFFECTIVE != 0,
            root: if bytes.len() == 24 { word(5)? } else { 0 },
        })
    }

    /// Those of an inode that count here: of the initial user namespace's root. `EINVAL` for an attribute that is none, which
    /// setxattr(2) takes if it is empty.
    pub fn of(inode: &Inode) -> Result<Option<Self>> {
        let Some(value) = value_of(inode, CAPABILITY) else { return Ok(None) };
        let capabilities = Self::parse(&value).ok_or(Errno::EINVAL)?;
        Ok((capabilities.root == 0).then_some(capabilities))
    }
}

#[cfg(test)]
mod tests {
    use super::{FileCapabilities, namespace_of};
    use abi::Errno;

    fn words(words: &[u32]) -> alloc::vec::Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn file_capabilities_have_three_versions() {
        let parse = |all: &[u32]| FileCapabilities::parse(&words(all));
        let second = parse(&[0x0200_0001, 0x20, 0x40, 1, 2]).unwrap();
        assert_eq!((second.permitted, second.inheritable), (0x1_0000_0020, 0x2_0000_0040));
        assert!(second.effective);
        assert_eq!(parse(&[0x0100_0000, 1, 2]).unwrap().permitted, 1);
        assert_eq!(parse(&[0x0300_0000, 1, 2, 0, 0, 1000]).unwrap().root, 1000);
        assert_eq!(parse(&[0x0200_0000, u32::MAX, 0, u32::MAX, 0]).unwrap().permitted, (1 << 41) - 1);
        for bad in
            [&[][..], &[0x0200_0000], &[0x0200_0000, 1, 2], &[0x0400_0000, 1, 2, 3, 4], &[0x0100_0000, 1, 2, 3, 4]]
        {
            assert_eq!(parse(bad), None, "{bad:x?}");
        }
    }

    #[test]
    fn names_need_a_known_namespace_and_something_behind_it() {
        assert_eq!(namespace_of(b"user.").err(), Some(Errno::EINVAL));
        assert_eq!(namespace_of(b"user").err(), Some(Errno::EOPNOTSUPP));
        assert_eq!(namespace_of(b"system.posix_acl_access").err(), Some(Errno::EOPNOTSUPP));
        assert!(namespace_of(b"trusted.x").is_ok());
    }
}
