//! Names of AF_UNIX sockets, and who has which: unix(7), "Address format".
//!
//! A pathname is found by the inode of its socket file, an abstract name by its bytes.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::Errno;
use abi::socket::{AF_UNIX, UNIX_PATH_MAX};
use abi::stat::{S_IFMT, S_IFSOCK};
use hal::sync::SpinLock;

use super::Endpoint;
use crate::Result;
use crate::fs::create::{self, Node};
use crate::fs::inode::Inode;
use crate::fs::mount::Path;
use crate::fs::namei::{Last, WalkContext, lookup};
use crate::fs::permission::{self, MAY_WRITE};
use crate::sync::order;
use crate::task::{Creds, current};

/// Bytes of an address before its name.
const FAMILY_BYTES: usize = 2;

/// An address as a call gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Only the family: bind(2) chooses an abstract name.
    Unnamed,
    /// A pathname, without the NUL behind it.
    Path(Vec<u8>),
    /// The bytes behind the first NUL; each counts.
    Abstract(Vec<u8>),
}

impl Address {
    /// From the bytes of a `struct sockaddr_un`. `EINVAL` for another family or a length that cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (family, name) = bytes.split_at_checked(FAMILY_BYTES).ok_or(Errno::EINVAL)?;
        if family != AF_UNIX.to_ne_bytes() || name.len() > UNIX_PATH_MAX {
            return Err(Errno::EINVAL);
        }
        Ok(match name {
            [] => Address::Unnamed,
            [0, rest @ ..] => Address::Abstract(rest.to_vec()),
            path => Address::Path(path.split(|byte| *byte == 0).next().unwrap_or(path).to_vec()),
        })
    }
}

/// A name that a socket has.
pub struct Name {
    address: Address,
    /// The socket file of a pathname: it lives on when it is unlinked.
    place: Option<Path>,
}

impl Name {
    /// As the bytes of a `struct sockaddr_un` (a pathname with its NUL).
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = AF_UNIX.to_ne_bytes().to_vec();
        match &self.address {
            Address::Unnamed => {}
            Address::Path(path) => {
                bytes.extend_from_slice(path);
                bytes.push(0);
            }
            Address::Abstract(name) => {
                bytes.push(0);
                bytes.extend_from_slice(name);
            }
        }
        bytes
    }

    /// As `/proc/net/unix` shows it: the NUL of an abstract name as `@`.
    pub fn shown(&self) -> Vec<u8> {
        match &self.address {
            Address::Unnamed => Vec::new(),
            Address::Path(path) => path.clone(),
            Address::Abstract(name) => {
                let mut shown = alloc::vec![b'@'];
                shown.extend(name.iter().map(|byte| if *byte == 0 { b'@' } else { *byte }));
                shown
            }
        }
    }
}

/// What an abstract name or an inode is the name of.
#[derive(Default)]
struct Registry {
    by_name: BTreeMap<Vec<u8>, Weak<Endpoint>>,
    /// By the address of the inode, which the socket's name keeps alive.
    by_inode: BTreeMap<usize, Weak<Endpoint>>,
    /// Where the next automatic name is tried.
    next_automatic: u32,
}

hal::global! {
    static REGISTRY: SpinLock<Registry> = SpinLock::new(order::SOCKET_NAMES, Registry {
        by_name: BTreeMap::new(),
        by_inode: BTreeMap::new(),
        next_automatic: 0,
    });
}

fn key(inode: &Arc<Inode>) -> usize {
    Arc::as_ptr(inode).addr()
}

/// Gives `endpoint`, which has no name yet, the name at `address`: `EADDRINUSE` when it is taken.
pub fn bind(endpoint: &Arc<Endpoint>, address: Address, context: WalkContext<'_>, umask: u32) -> Result<Arc<Name>> {
    match address {
        Address::Unnamed => bind_automatic(endpoint),
        Address::Abstract(name) => {
            bind_abstract(endpoint, name.clone())?;
            Ok(Arc::new(Name { address: Address::Abstract(name), place: None }))
        }
        Address::Path(path) => {
            let mode = S_IFSOCK | 0o777 & !umask;
            let made = create::make(context, &path, &Node { mode, rdev: 0, target: b"" });
            let place = made.map_err(|error| if error == Errno::EEXIST { Errno::EADDRINUSE } else { error })?;
            REGISTRY.lock().by_inode.insert(key(place.dentry.inode()), Arc::downgrade(endpoint));
            Ok(Arc::new(Name { address: Address::Path(path), place: Some(place) }))
        }
    }
}

fn bind_abstract(endpoint: &Arc<Endpoint>, name: Vec<u8>) -> Result<()> {
    let mut registry = REGISTRY.lock();
    if registry.by_name.get(&name).is_some_and(|other| other.strong_count() > 0) {
        return Err(Errno::EADDRINUSE);
    }
    registry.by_name.insert(name, Arc::downgrade(endpoint));
    Ok(())
}

/// unix(7), "Autobind feature": a NUL and five characters of [0-9a-f].
pub fn bind_automatic(endpoint: &Arc<Endpoint>) -> Result<Arc<Name>> {
    for _ in 0..1 << 20 {
        let number = {
            let mut registry = REGISTRY.lock();
            registry.next_automatic = (registry.next_automatic + 1) & 0xf_ffff;
            registry.next_automatic
        };
        let name = format!("{number:05x}").into_bytes();
        if bind_abstract(endpoint, name.clone()).is_ok() {
            return Ok(Arc::new(Name { address: Address::Abstract(name), place: None }));
        }
    }
    // Linux: "there are no more names".
    Err(Errno::ENOSPC)
}

/// The name is free again; a socket file stays.
pub fn unbind(name: &Name) {
    let mut registry = REGISTRY.lock();
    match (&name.address, &name.place) {
        (Address::Abstract(bytes), _) => drop(registry.by_name.remove(bytes)),
        (_, Some(place)) => drop(registry.by_inode.remove(&key(place.dentry.inode()))),
        _ => {}
    }
}

/// The socket at `address`: `ECONNREFUSED` when there is none, `EACCES` without the right to write to its file.
pub fn find(address: &Address, context: WalkContext<'_>) -> Result<Arc<Endpoint>> {
    let found = match address {
        Address::Unnamed => return Err(Errno::EINVAL),
        Address::Abstract(name) => REGISTRY.lock().by_name.get(name).and_then(Weak::upgrade),
        Address::Path(path) => {
            let creds: &Creds = context.creds;
            let place = lookup(context, path, Last::Follow)?;
            let inode = place.dentry.inode();
            permission::check(inode, creds, MAY_WRITE)?;
            if inode.mode() & S_IFMT != S_IFSOCK {
                return Err(Errno::ECONNREFUSED);
            }
            REGISTRY.lock().by_inode.get(&key(inode)).and_then(Weak::upgrade)
        }
    };
    found.ok_or(Errno::ECONNREFUSED)
}

/// The walk of a pathname from the current task's root and working directory.
pub fn walk_context(creds: &Creds) -> WalkContext<'_> {
    let (root, base) = current().fs().root_and_cwd();
    WalkContext { root: root.into(), base: base.into(), creds, resolve: 0 }
}

#[cfg(test)]
mod tests {
    use super::Address;
    use abi::Errno;

    #[test]
    fn a_path_ends_at_its_nul_and_an_abstract_name_does_not() {
        assert_eq!(Address::parse(b"\x01\x00/tmp/a\0junk"), Ok(Address::Path(b"/tmp/a".to_vec())));
        assert_eq!(Address::parse(b"\x01\x00\0a\0b"), Ok(Address::Abstract(b"a\0b".to_vec())));
        assert_eq!(Address::parse(b"\x01\x00"), Ok(Address::Unnamed));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert_eq!(Address::parse(b"\x01"), Err(Errno::EINVAL));
        assert_eq!(Address::parse(b"\x02\x00abc"), Err(Errno::EINVAL));
        let mut long = vec![1, 0];
        long.resize(2 + 109, b'x');
        assert_eq!(Address::parse(&long), Err(Errno::EINVAL));
        long.pop();
        assert!(Address::parse(&long).is_ok());
    }
}
