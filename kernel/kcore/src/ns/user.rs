//! User namespaces: user_namespaces(7). The kernel knows users by the ids of the initial namespace (Linux `kuid_t`); a
//! namespace maps the numbers that its processes see to those. Credentials have a namespace, and their capabilities count
//! in it and below it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::capability::{CAP_SETFCAP, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN};

use crate::Result;
use crate::task::Creds;

/// What an id is shown as that has no number in the reader's namespace (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW_ID: u32 = 65_534;
/// The number that is no id.
const NO_ID: u32 = u32::MAX;
/// Namespaces nest so deep below the initial one (Linux `create_user_ns`).
const MAX_LEVEL: u32 = 33;
/// Most lines of a map.
const MAX_EXTENTS: usize = 340;

/// A user namespace. The initial one has no object: it is always there, and maps every id to itself.
#[derive(Clone, Default)]
pub struct UserNs(Option<Arc<Nested>>);

struct Nested {
    ino: u64,
    level: u32,
    parent: UserNs,
    /// The user who made it, as the kernel knows them: has all capabilities in it from the parent namespace.
    owner: u32,
    uid_map: spin::Once<IdMap>,
    gid_map: spin::Once<IdMap>,
    projid_map: spin::Once<IdMap>,
    allows_setgroups: AtomicBool,
    /// Its maker could give files capabilities: id 0 of the parent may be mapped.
    parent_could_setfcap: bool,
}

/// The three maps of a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapKind {
    /// `uid_map`.
    Uid,
    /// `gid_map`.
    Gid,
    /// `projid_map`.
    Projid,
}

/// A line of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    /// The first number inside.
    first: u32,
    /// What it is in the namespace that the map was written for; the kernel's id once the map is in force.
    lower: u32,
    count: u32,
}

impl Extent {
    fn find(from: u32, id: u32, count: u32) -> Option<u32> {
        id.checked_sub(from).filter(|offset| *offset < count)
    }

    fn overlaps(&self, other: &Extent) -> bool {
        let touch = |one: u32, other: u32, one_count: u32, other_count: u32| {
            u64::from(one) < u64::from(other) + u64::from(other_count)
                && u64::from(other) < u64::from(one) + u64::from(one_count)
        };
        touch(self.first, other.first, self.count, other.count)
            || touch(self.lower, other.lower, self.count, other.count)
    }
}

/// A map in force.
#[derive(Debug)]
struct IdMap(Vec<Extent>);

impl IdMap {
    fn kernel_id(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| Extent::find(extent.first, id, extent.count).map(|at| extent.lower + at))
    }

    fn number(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| Extent::find(extent.lower, id, extent.count).map(|at| extent.first + at))
    }

    /// The kernel's id of the first of `count` numbers, if all of them lie in one line (Linux `map_id_range_down`).
    fn range_to_kernel(&self, first: u32, count: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| {
            let at = Extent::find(extent.first, first, extent.count)?;
            (count <= extent.count - at).then(|| extent.lower + at)
        })
    }
}

impl UserNs {
    /// The initial namespace.
    pub const fn initial() -> Self {
        Self(None)
    }

    /// Whether it is the initial one.
    #[inline(always)]
    pub fn is_initial(&self) -> bool {
        self.0.is_none()
    }

    /// Whether both are one.
    pub fn is_same(&self, other: &UserNs) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The number of its file, unless it is the initial one.
    pub fn ino(&self) -> Option<u64> {
        self.0.as_ref().map(|nested| nested.ino)
    }

    /// The namespace around it.
    pub fn parent(&self) -> Option<&UserNs> {
        self.0.as_ref().map(|nested| &nested.parent)
    }

    /// The user who made it, by the kernel's id.
    pub fn owner(&self) -> u32 {
        self.0.as_ref().map_or(0, |nested| nested.owner)
    }

    fn level(&self) -> u32 {
        self.0.as_ref().map_or(0, |nested| nested.level)
    }

    /// Whether it is `ancestor` or lies in it.
    pub fn is_in(&self, ancestor: &UserNs) -> bool {
        let mut at = self;
        loop {
            if at.is_same(ancestor) {
                return true;
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// A namespace for a process with these credentials, which become those of its first process: all capabilities in it
    /// (Linux `create_user_ns`). `ENOSPC` when they nest too deep, `EPERM` when the user has no number in the parent.
    pub fn create(creds: &mut Creds) -> Result<()> {
        let parent = creds.user_ns.clone();
        if parent.level() >= MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        if parent.uid(creds.euid).is_none() || parent.gid(creds.egid).is_none() {
            return Err(Errno::EPERM);
        }
        let nested = Nested {
            ino: super::next_ino(),
            level: parent.level() + 1,
            owner: creds.euid,
            uid_map: spin::Once::new(),
            gid_map: spin::Once::new(),
            projid_map: spin::Once::new(),
            allows_setgroups: AtomicBool::new(parent.allows_setgroups()),
            parent_could_setfcap: creds.cap_effective >> CAP_SETFCAP & 1 != 0,
            parent,
        };
        creds.enter_user_ns(UserNs(Some(Arc::new(nested))));
        Ok(())
    }

    /// The kernel's user id of number `uid` here; `None` for a number without one.
    #[inline]
    pub fn kuid(&self, uid: u32) -> Option<u32> {
        match &self.0 {
            None => (uid != NO_ID).then_some(uid),
            Some(nested) => nested.uid_map.get()?.kernel_id(uid),
        }
    }

    /// The same for groups.
    #[inline]
    pub fn kgid(&self, gid: u32) -> Option<u32> {
        match &self.0 {
            None => (gid != NO_ID).then_some(gid),
            Some(nested) => nested.gid_map.get()?.kernel_id(gid),
        }
    }

    /// The number of a user here, by the kernel's id.
    #[inline]
    pub fn uid(&self, kuid: u32) -> Option<u32> {
        match &self.0 {
            None => Some(kuid),
            Some(nested) => nested.uid_map.get()?.number(kuid),
        }
    }

    /// The same for groups.
    #[inline]
    pub fn gid(&self, kgid: u32) -> Option<u32> {
        match &self.0 {
            None => Some(kgid),
            Some(nested) => nested.gid_map.get()?.number(kgid),
        }
    }

    /// What a user is shown as here (Linux `from_kuid_munged`).
    #[inline]
    pub fn shown_uid(&self, kuid: u32) -> u32 {
        self.uid(kuid).unwrap_or(OVERFLOW_ID)
    }

    /// The same for groups.
    #[inline]
    pub fn shown_gid(&self, kgid: u32) -> u32 {
        self.gid(kgid).unwrap_or(OVERFLOW_ID)
    }

    /// Whether setgroups(2) may be called in it: after gid_map was written, unless `deny` was written (Linux
    /// `userns_may_setgroups`).
    pub fn may_setgroups(&self) -> bool {
        self.0.as_ref().is_none_or(|nested| nested.gid_map.is_completed()) && self.allows_setgroups()
    }

    /// What `/proc/PID/setgroups` says.
    pub fn allows_setgroups(&self) -> bool {
        self.0.as_ref().is_none_or(|nested| nested.allows_setgroups.load(Ordering::Acquire))
    }

    /// Writes `/proc/PID/setgroups`: `EPERM` to deny after gid_map was written, and to allow again what is denied.
    pub fn set_setgroups(&self, allow: bool) -> Result<()> {
        let Some(nested) = &self.0 else { return if allow { Ok(()) } else { Err(Errno::EPERM) } };
        match allow {
            true if !self.allows_setgroups() => Err(Errno::EPERM),
            false if nested.gid_map.is_completed() => Err(Errno::EPERM),
            false => {
                nested.allows_setgroups.store(false, Ordering::Release);
                Ok(())
            }
            true => Ok(()),
        }
    }

    fn map(&self, kind: MapKind) -> Option<&spin::Once<IdMap>> {
        let nested = self.0.as_ref()?;
        Some(match kind {
            MapKind::Uid => &nested.uid_map,
            MapKind::Gid => &nested.gid_map,
            MapKind::Projid => &nested.projid_map,
        })
    }

    fn range_to_kernel(&self, kind: MapKind, first: u32, count: u32) -> Option<u32> {
        match self.map(kind) {
            None => Some(first),
            Some(map) => map.get()?.range_to_kernel(first, count),
        }
    }

    /// The text of a map as a reader in `reader` sees it: the outer numbers are the reader's, or the parent's for a reader
    /// inside.
    pub fn show_map(&self, kind: MapKind, reader: &UserNs, out: &mut dyn Write) -> core::fmt::Result {
        let Some(map) = self.map(kind) else { return writeln!(out, "{:>10} {:>10} {:>10}", 0, 0, NO_ID) };
        let outer = if reader.is_same(self) { self.parent().unwrap_or(self) } else { reader };
        for extent in map.get().map_or(&[][..], |map| &map.0) {
            let lower = match kind {
                MapKind::Uid => outer.uid(extent.lower),
                MapKind::Gid => outer.gid(extent.lower),
                MapKind::Projid => outer.map(kind).map_or(Some(extent.lower), |map| map.get()?.number(extent.lower)),
            };
            writeln!(out, "{:>10} {:>10} {:>10}", extent.first, lower.unwrap_or(NO_ID), extent.count)?;
        }
        Ok(())
    }

    /// Writes a map, once: `opener` opened its file, `writer` writes (user_namespaces(7); Linux `map_write`). `EINVAL` for
    /// a bad line, for lines that overlap and for none or too many; `EPERM` for a second write, without the right to it,
    /// and for outer numbers that the parent does not have.
    pub fn write_map(&self, kind: MapKind, text: &[u8], opener: &Creds, writer: &Creds) -> Result<()> {
        let (Some(map), Some(parent)) = (self.map(kind), self.parent()) else { return Err(Errno::EPERM) };
        if !opener.user_ns.is_same(self) && !opener.user_ns.is_same(parent) {
            return Err(Errno::EPERM);
        }
        if map.is_completed() || (kind != MapKind::Projid && !opener.ns_capable(self, CAP_SYS_ADMIN)) {
            return Err(Errno::EPERM);
        }
        let mut extents = parse(text)?;
        if !self.may_map(kind, &extents, opener, writer) {
            return Err(Errno::EPERM);
        }
        for extent in &mut extents {
            extent.lower = parent.range_to_kernel(kind, extent.lower, extent.count).ok_or(Errno::EPERM)?;
        }
        let mut first = false;
        map.call_once(|| {
            first = true;
            IdMap(extents)
        });
        if first { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Linux `new_idmap_permitted`.
    fn may_map(&self, kind: MapKind, extents: &[Extent], opener: &Creds, writer: &Creds) -> bool {
        let (Some(nested), Some(parent)) = (&self.0, self.parent()) else { return false };
        let capability = match kind {
            MapKind::Projid => return true,
            MapKind::Uid => CAP_SETUID,
            MapKind::Gid => CAP_SETGID,
        };
        // Root of the parent: who maps it could make files with its capabilities.
        if kind == MapKind::Uid && extents.iter().any(|extent| extent.lower == 0) {
            let may = if opener.user_ns.is_same(self) {
                nested.parent_could_setfcap
            } else {
                opener.ns_capable(parent, CAP_SETFCAP)
            };
            if !may {
                return false;
            }
        }
        // Oneself alone needs no privilege; for the group, only when the groups can then not be dropped.
        if let [Extent { lower, count: 1, .. }] = extents
            && nested.owner == opener.euid
        {
            let is_self = match kind {
                MapKind::Uid => parent.kuid(*lower) == Some(opener.euid),
                _ => !self.allows_setgroups() && parent.kgid(*lower) == Some(opener.egid),
            };
            if is_self {
                return true;
            }
        }
        writer.ns_capable(parent, capability) && opener.ns_capable(parent, capability)
    }
}

/// The lines of a map: three numbers each. `EINVAL` as for Linux's `map_write`.
fn parse(text: &[u8]) -> Result<Vec<Extent>> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let text = text.split('\0').next().unwrap_or("");
    let mut extents: Vec<Extent> = Vec::new();
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        let mut words = line.split_ascii_whitespace().map(|word| word.parse::<u32>().map_err(|_| Errno::EINVAL));
        let mut next = || words.next().unwrap_or(Err(Errno::EINVAL));
        let extent = Extent { first: next()?, lower: next()?, count: next()? };
        let is_range = |from: u32| from != NO_ID && from.checked_add(extent.count).is_some_and(|end| end > from);
        if words.next().is_some() || !is_range(extent.first) || !is_range(extent.lower) {
            return Err(Errno::EINVAL);
        }
        if extents.len() == MAX_EXTENTS || extents.iter().any(|known| known.overlaps(&extent)) {
            return Err(Errno::EINVAL);
        }
        extents.push(extent);
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::{MapKind, UserNs, parse};
    use crate::task::Creds;
    use abi::Errno;
    use abi::capability::{CAP_SETUID, CAP_SYS_ADMIN};

    fn user(uid: u32) -> Creds {
        let ids = Creds {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid: uid,
            egid: uid,
            sgid: uid,
            fsgid: uid,
            ..Creds::root()
        };
        Creds { cap_effective: 0, cap_permitted: 0, ..ids }
    }

    #[test]
    fn lines_are_three_numbers_that_do_not_overlap() {
        assert_eq!(parse(b"0 1000 1\n").unwrap().len(), 1);
        assert_eq!(parse(b"  0   1000 10\n10 2000 5").unwrap().len(), 2);
        for bad in ["", "\n", "0 0", "0 0 1 2", "0 0 0", "0 0 x", "0 0 1\n\n", "4294967295 0 1", "0 4294967295 1"] {
            assert_eq!(parse(bad.as_bytes()), Err(Errno::EINVAL), "{bad:?}");
        }
        for bad in ["0 0 4294967295\n1 5 1", "0 0 10\n9 100 1", "0 0 10\n10 9 1", "1 0 4294967295"] {
            assert_eq!(parse(bad.as_bytes()), Err(Errno::EINVAL), "{bad:?}");
        }
        let lines = |count: u32| (0..count).map(|n| format!("{n} {n} 1\n")).collect::<String>();
        assert!(parse(lines(340).as_bytes()).is_ok());
        assert_eq!(parse(lines(341).as_bytes()), Err(Errno::EINVAL));
    }

    /// The lecture's map: ids 10 to 14 inside are 2000 to 2004, 0 to 9 are 1000 to 1009.
    #[test]
    fn ids_go_through_the_map_both_ways() {
        let mut inside = Creds::root();
        UserNs::create(&mut inside).unwrap();
        let space = inside.user_ns.clone();
        assert_eq!((space.kuid(0), space.shown_uid(0)), (None, 65_534));
        let root = Creds::root();
        assert_eq!(space.write_map(MapKind::Uid, b"10 2000 5\n0 1000 10\n", &root, &root), Ok(()));
        assert_eq!([0, 9, 10, 14, 15].map(|id| space.kuid(id)), [Some(1000), Some(1009), Some(2000), Some(2004), None]);
        assert_eq!([1000, 2004, 2005, 0].map(|id| space.uid(id)), [Some(0), Some(14), None, None]);
        assert_eq!(space.write_map(MapKind::Uid, b"0 0 1\n", &root, &root), Err(Errno::EPERM));
        let mut text = String::new();
        space.show_map(MapKind::Uid, &inside.user_ns, &mut text).unwrap();
        assert_eq!(text, "        10       2000          5\n         0       1000         10\n");
    }

    #[test]
    fn a_user_maps_only_oneself() {
        let outside = user(1000);
        let mut inside = outside.clone();
        UserNs::create(&mut inside).unwrap();
        let space = inside.user_ns.clone();
        assert!(inside.ns_capable(&space, CAP_SYS_ADMIN) && !inside.capable(CAP_SYS_ADMIN));
        let write = |kind, text: &[u8]| space.write_map(kind, text, &inside, &inside);
        for refused in ["0 1001 1", "0 1000 2", "0 0 1", "0 1000 1\n1 1001 1"] {
            assert_eq!(write(MapKind::Uid, refused.as_bytes()), Err(Errno::EPERM), "{refused}");
        }
        assert_eq!(write(MapKind::Uid, b"0 1000 1"), Ok(()));
        assert_eq!(write(MapKind::Gid, b"0 1000 1"), Err(Errno::EPERM), "setgroups is still allowed");
        assert_eq!(space.set_setgroups(false), Ok(()));
        assert_eq!(space.set_setgroups(true), Err(Errno::EPERM));
        assert_eq!(write(MapKind::Gid, b"0 1000 1"), Ok(()));
        assert!(!space.may_setgroups());
        // A stranger may nothing here; the owner everything, from outside too.
        assert!(!user(1001).ns_capable(&space, CAP_SETUID) && outside.ns_capable(&space, CAP_SETUID));
    }

    #[test]
    fn namespaces_nest_to_linuxs_depth_and_no_right_leads_out() {
        let mut creds = user(1000);
        let mut spaces = vec![creds.user_ns.clone()];
        let mut depth = 0;
        loop {
            match UserNs::create(&mut creds) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!((depth, error), (33, Errno::ENOSPC));
                    break;
                }
            }
            depth += 1;
            let space = creds.user_ns.clone();
            space.write_map(MapKind::Uid, b"1000 1000 1", &creds, &creds).unwrap();
            space.set_setgroups(false).unwrap();
            space.write_map(MapKind::Gid, b"1000 1000 1", &creds, &creds).unwrap();
            assert!(spaces.iter().all(|outer| !creds.ns_capable(outer, CAP_SYS_ADMIN)), "depth {depth}");
            spaces.push(space);
        }
    }
}
