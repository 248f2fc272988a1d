//! Character devices by number: what an open of a device node runs (Linux `cdev_map`).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use abi::Errno;
use hal::sync::SpinLock;

use super::file::OpsRef;
use super::inode::{Inode, OpenRequest};
use crate::Result;
use crate::sync::order;

/// Opens a device: the node's inode, and how it is opened. The device number is `inode.rdev`.
pub type Opener = fn(&Arc<Inode>, &OpenRequest<'_>) -> Result<OpsRef>;

struct Region {
    count: u32,
    name: &'static str,
    open: Opener,
}

hal::global! {
    /// By major and first minor.
    static DEVICES: SpinLock<BTreeMap<(u32, u32), Region>> = SpinLock::new(order::INODE, BTreeMap::new());
}

/// Claims `count` minors from `first` on. `EBUSY` when the first is claimed already.
pub fn register(major: u32, first: u32, count: u32, name: &'static str, open: Opener) -> Result<()> {
    let mut devices = DEVICES.lock();
    if devices.contains_key(&(major, first)) {
        return Err(Errno::EBUSY);
    }
    devices.insert((major, first), Region { count, name, open });
    Ok(())
}

/// Opens the device that `inode` stands for: `ENXIO` when nobody claims its number (open(2)).
pub fn open(inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<OpsRef> {
    let (major, minor) = abi::stat::split_dev(u32::try_from(inode.rdev).map_err(|_| Errno::ENXIO)?);
    let open = {
        let devices = DEVICES.lock();
        let (key, region) = devices.range(..=(major, minor)).next_back().ok_or(Errno::ENXIO)?;
        if key.0 != major || minor - key.1 >= region.count {
            return Err(Errno::ENXIO);
        }
        region.open
    };
    open(inode, request)
}

/// The character half of `/proc/devices`: one line per major.
pub fn show_devices(out: &mut dyn core::fmt::Write) -> core::fmt::Result {
    let lines: alloc::vec::Vec<(u32, &'static str)> =
        DEVICES.lock().iter().map(|(key, region)| (key.0, region.name)).collect();
    let mut last = None;
    for (major, name) in lines {
        if last != Some((major, name)) {
            writeln!(out, "{major:3} {name}")?;
        }
        last = Some((major, name));
    }
    Ok(())
}
