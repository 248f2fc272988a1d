//! Credentials: credentials(7), capabilities(7). A set is immutable; a change makes a new one and swaps it in.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::ns::user::UserNs;

/// One bit per capability.
pub type CapSet = u64;

/// Every capability that exists: 0 to CAP_CHECKPOINT_RESTORE (40).
pub const CAP_FULL: CapSet = (1 << 41) - 1;

/// Who a task is and what it may do.
#[derive(Clone)]
pub struct Creds {
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Saved set-user-id.
    pub suid: u32,
    /// User id for file access.
    pub fsuid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Saved set-group-id.
    pub sgid: u32,
    /// Group id for file access.
    pub fsgid: u32,
    /// Supplementary groups, sorted.
    pub groups: Arc<Vec<u32>>,
    /// Effective capabilities: what checks look at.
    pub cap_effective: CapSet,
    /// Permitted capabilities: what may be made effective.
    pub cap_permitted: CapSet,
    /// Capabilities kept over execve by file inheritable bits.
    pub cap_inheritable: CapSet,
    /// The most that execve can give.
    pub cap_bounding: CapSet,
    /// Kept over execve without file bits.
    pub cap_ambient: CapSet,
    /// SECBIT_* flags.
    pub securebits: u32,
    /// Where the capabilities count.
    pub user_ns: UserNs,
}

impl Creds {
    /// The super-user with everything, as the first task has it.
    pub fn root() -> Self {
        Self {
            uid: 0,
            euid: 0,
            suid: 0,
            fsuid: 0,
            gid: 0,
            egid: 0,
            sgid: 0,
            fsgid: 0,
            groups: Arc::new(Vec::new()),
            cap_effective: CAP_FULL,
            cap_permitted: CAP_FULL,
            cap_inheritable: 0,
            cap_bounding: CAP_FULL,
            cap_ambient: 0,
            securebits: 0,
            user_ns: UserNs::initial(),
        }
    }

    /// Whether capability number `capability` is effective in the user namespace of these credentials.
    #[inline]
    pub fn own_capable(&self, capability: u32) -> bool {
        capability < 64 && self.cap_effective >> capability & 1 != 0
    }

    /// Whether it is effective in the initial user namespace: over what belongs to no other (Linux `capable`).
    #[inline]
    pub fn capable(&self, capability: u32) -> bool {
        self.user_ns.is_initial() && self.own_capable(capability)
    }

    /// Whether it is effective over what belongs to `target`: by being in that user namespace or above it, or by having
    /// made it, or one that it lies in (user_namespaces(7) "Capabilities"; Linux `cap_capable`).
    pub fn ns_capable(&self, target: &UserNs, capability: u32) -> bool {
        let mut at = target;
        loop {
            if at.is_same(&self.user_ns) {
                return self.own_capable(capability);
            }
            // Not below ours: no right leads out.
            let Some(parent) = at.parent() else { return false };
            if parent.is_same(&self.user_ns) && at.owner() == self.euid {
                return true;
            }
            at = parent;
        }
    }

    /// Whether it is effective over a file of these owners (Linux `capable_wrt_inode_uidgid`).
    #[inline]
    pub fn capable_over(&self, uid: u32, gid: u32, capability: u32) -> bool {
        self.own_capable(capability) && self.user_ns.uid(uid).is_some() && self.user_ns.gid(gid).is_some()
    }

    /// Goes into a user namespace, with all capabilities in it (Linux `set_cred_user_ns`).
    pub fn enter_user_ns(&mut self, user_ns: UserNs) {
        self.user_ns = user_ns;
        self.securebits = 0;
        self.cap_inheritable = 0;
        self.cap_ambient = 0;
        self.cap_permitted = CAP_FULL;
        self.cap_effective = CAP_FULL;
        self.cap_bounding = CAP_FULL;
    }

    /// The kernel's id of user 0 of the namespace; `None` while it has none.
    pub fn root_uid(&self) -> Option<u32> {
        self.user_ns.kuid(0)
    }

    /// Whether `gid` is the file-access group or a supplementary one (Linux `in_group_p`).
    pub fn in_group(&self, gid: u32) -> bool {
        gid == self.fsgid || self.groups.binary_search(&gid).is_ok()
    }

    /// Whether `gid` is the effective group or a supplementary one (Linux `in_egroup_p`).
    pub fn in_effective_group(&self, gid: u32) -> bool {
        gid == self.egid || self.groups.binary_search(&gid).is_ok()
    }

    /// What capabilities(7) says of changes of user ids ("Effect of user ID changes on capabilities"): `self` is the
    /// new set, `old` the one before, both with SECBIT_NO_SETUID_FIXUP clear.
    pub fn fix_capabilities_after_setuid(&mut self, old: &Creds, keep_caps: bool) {
        let root = old.root_uid();
        let is_root = |uid: u32| Some(uid) == root;
        let was_root = [old.uid, old.euid, old.suid].into_iter().any(is_root);
        let stays_root = [self.uid, self.euid, self.suid].into_iter().any(is_root);
        if was_root && !stays_root {
            if !keep_caps {
                self.cap_permitted = 0;
                self.cap_effective = 0;
            }
            self.cap_ambient = 0;
        }
        if is_root(old.euid) && !is_root(self.euid) {
            self.cap_effective = 0;
        }
        if !is_root(old.euid) && is_root(self.euid) {
            self.cap_effective = self.cap_permitted;
        }
    }

    /// The same for setfsuid(2): file-system capabilities follow fsuid.
    pub fn fix_capabilities_after_setfsuid(&mut self, old: &Creds) {
        // CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, LINUX_IMMUTABLE, MKNOD, MAC_OVERRIDE.
        const FS_CAPS: CapSet = 0b1_1111 | 1 << 9 | 1 << 27 | 1 << 32;
        let root = old.root_uid();
        let is_root = |uid: u32| Some(uid) == root;
        if is_root(old.fsuid) && !is_root(self.fsuid) {
            self.cap_effective &= !FS_CAPS;
        }
        if !is_root(old.fsuid) && is_root(self.fsuid) {
            self.cap_effective |= self.cap_permitted & FS_CAPS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Creds;

    #[test]
    fn dropping_root_drops_capabilities() {
        let old = Creds::root();
        let mut new = Creds { uid: 1000, euid: 1000, suid: 1000, ..old.clone() };
        new.fix_capabilities_after_setuid(&old, false);
        assert_eq!((new.cap_effective, new.cap_permitted), (0, 0));
    }

    #[test]
    fn a_temporary_drop_keeps_the_permitted_set() {
        let old = Creds::root();
        let mut new = Creds { euid: 1000, ..old.clone() };
        new.fix_capabilities_after_setuid(&old, false);
        assert_eq!(new.cap_effective, 0);
        assert_eq!(new.cap_permitted, old.cap_permitted);
        let mut back = Creds { euid: 0, ..new.clone() };
        back.fix_capabilities_after_setuid(&new, false);
        assert_eq!(back.cap_effective, old.cap_permitted);
    }
}
