//! UTS namespaces: the host and domain name (uts_namespaces(7), uname(2)).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use hal::sync::SpinLock;

use super::user::UserNs;
use crate::Result;
use crate::sync::order;

/// Longest name, bytes (`__NEW_UTS_LEN`).
pub const NAME_LIMIT: usize = 64;

/// Names that a container may have of its own.
pub struct UtsNamespace {
    /// The number of its file; `None` for the initial one.
    ino: Option<u64>,
    /// Whose capabilities count for it.
    pub owner: UserNs,
    names: SpinLock<Names>,
}

/// Host and domain name, as bytes.
#[derive(Clone)]
pub struct Names {
    /// `nodename` of uname(2).
    pub host: Vec<u8>,
    /// `domainname`.
    pub domain: Vec<u8>,
}

impl UtsNamespace {
    /// The names that Linux boots with.
    pub fn initial() -> Arc<Self> {
        let names = Names { host: b"(none)".to_vec(), domain: b"(none)".to_vec() };
        Arc::new(Self { ino: None, owner: UserNs::initial(), names: SpinLock::new(order::TASK_FIELDS, names) })
    }

    /// Another with the same names (CLONE_NEWUTS).
    pub fn copy(&self, owner: UserNs) -> Arc<Self> {
        let names = SpinLock::new(order::TASK_FIELDS, self.names());
        Arc::new(Self { ino: Some(super::next_ino()), owner, names })
    }

    /// The number of its file, unless it is the initial one.
    pub fn ino(&self) -> Option<u64> {
        self.ino
    }

    /// Both names.
    pub fn names(&self) -> Names {
        self.names.lock().clone()
    }

    /// sethostname(2): `EINVAL` past 64 bytes. The caller checked CAP_SYS_ADMIN.
    pub fn set_host(&self, name: Vec<u8>) -> Result<()> {
        self.set(name, |names, name| names.host = name)
    }

    /// setdomainname(2).
    pub fn set_domain(&self, name: Vec<u8>) -> Result<()> {
        self.set(name, |names, name| names.domain = name)
    }

    fn set(&self, name: Vec<u8>, store: impl FnOnce(&mut Names, Vec<u8>)) -> Result<()> {
        if name.len() > NAME_LIMIT {
            return Err(Errno::EINVAL);
        }
        store(&mut self.names.lock(), name);
        Ok(())
    }
}
