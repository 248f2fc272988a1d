//! Credentials: credentials(7), capabilities(7). A set is immutable; a change makes a new one and swaps it in.

use alloc::sync::Arc;
use alloc::vec::Vec;

/// One bit per capability.
pub type CapSet = u64;

/// Every capability that exists: 0 to CAP_CHECKPOINT_RESTORE (40).
pub const CAP_FULL: CapSet = (1 << 41) - 1;

/// Who a task is and what it may do.
#[derive(Clone, Debug)]
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
        }
    }

    /// Whether capability number `capability` is effective.
    #[inline]
    pub fn capable(&self, capability: u32) -> bool {
        capability < 64 && self.cap_effective >> capability & 1 != 0
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
        let was_root = old.uid == 0 || old.euid == 0 || old.suid == 0;
        let is_root = self.uid == 0 || self.euid == 0 || self.suid == 0;
        if was_root && !is_root {
            if !keep_caps {
                self.cap_permitted = 0;
                self.cap_effective = 0;
            }
            self.cap_ambient = 0;
        }
        if old.euid == 0 && self.euid != 0 {
            self.cap_effective = 0;
        }
        if old.euid != 0 && self.euid == 0 {
            self.cap_effective = self.cap_permitted;
        }
    }

    /// The same for setfsuid(2): file-system capabilities follow fsuid.
    pub fn fix_capabilities_after_setfsuid(&mut self, old: &Creds) {
        // CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, LINUX_IMMUTABLE, MKNOD, MAC_OVERRIDE.
        const FS_CAPS: CapSet = 0b1_1111 | 1 << 9 | 1 << 27 | 1 << 32;
        if old.fsuid == 0 && self.fsuid != 0 {
            self.cap_effective &= !FS_CAPS;
        }
        if old.fsuid != 0 && self.fsuid == 0 {
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
