//! Debian's Linux for arm64, to compare with, and the Pi 3's device tree, which lies in the same package.

use anyhow::{Context, Result, anyhow};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use std::fs;
use std::path::PathBuf;

use crate::apt::{self, Apt, Architecture, Release};
use crate::workspace;

const TREE: &str = "bcm2837-rpi-3-b.dtb";
/// The node of the Bluetooth chip behind the PL011.
const BLUETOOTH: &str = "/soc/serial@7e201000/bluetooth";

/// A kernel of Debian's, ready to boot.
#[derive(Clone, Debug)]
pub struct Linux {
    /// As in `uname -r`.
    pub version: String,
    pub image: PathBuf,
    pub device_tree: PathBuf,
}

impl Linux {
    /// Fetches it, when it is not there. A release without backports gives the stable one.
    pub fn get(release: Release) -> Result<Linux> {
        let package = Package::get(release)?;
        let device_tree = package.file("linux.dtb");
        fs::write(&device_tree, with_console_and_seed(&fs::read(package.file(TREE))?)?)?;
        Ok(Linux { image: package.file("vmlinuz"), device_tree, version: package.version })
    }
}

/// The Pi 3's device tree as Debian ships it.
pub fn device_tree() -> Result<PathBuf> {
    Package::get(Release::Stable).map(|package| package.file(TREE))
}

/// What is kept of a kernel package.
struct Package {
    release: Release,
    version: String,
}

impl Package {
    fn get(release: Release) -> Result<Package> {
        let mut package = Package { release, version: String::new() };
        let version = package.file("version");
        if !version.exists() {
            let apt = Apt::open(Architecture::Arm64)?;
            let depends = apt.field("linux-image-arm64", "Depends", release)?;
            let name = depends.split_whitespace().next().context("linux-image-arm64 depends on nothing")?;
            let file = apt.download(name, release)?;
            apt::extract(&file, "./boot/vmlinuz-*", &package.file("vmlinuz"))?;
            apt::extract(&file, &format!("./usr/lib/linux-image-*/broadcom/{TREE}"), &package.file(TREE))?;
            fs::remove_file(file)?;
            fs::write(&version, name.trim_start_matches("linux-image-"))?;
        }
        package.version = fs::read_to_string(version)?;
        Ok(package)
    }

    fn file(&self, name: &str) -> PathBuf {
        let folder = match self.release {
            Release::Stable => "linux-stable",
            Release::Backports => "linux-backports",
        };
        workspace::build(&format!("arm64/{folder}/{name}"))
    }
}

/// What the board's firmware would do to the tree before Linux sees it.
///
/// To Linux the PL011 belongs to the Bluetooth chip that the tree connects to it, and cannot be the console, so that chip
/// is switched off. (The mini UART is no way out: QEMU's loses transmit interrupts under Linux.) Without a seed Linux has
/// no randomness on this machine and pays for that in every call that wants some.
fn with_console_and_seed(bytes: &[u8]) -> Result<Vec<u8>> {
    let tree = Fdt::new(bytes).map_err(|error| anyhow!("the device tree: {error}"))?;
    let mut tree = DeviceTree::from_fdt(&tree);
    let mut set = |path: &str, name: &str, value: &[u8]| -> Result<()> {
        let node = tree.find_node_mut(path).with_context(|| format!("the device tree has no {path}"))?;
        node.add_property(DeviceTreeProperty::new_unchecked(name, value.to_vec()));
        Ok(())
    };
    set(BLUETOOTH, "status", b"disabled\0")?;
    // The same in every run, so that runs can be compared.
    set("/chosen", "rng-seed", &std::array::from_fn::<u8, 64, _>(|index| (index * 37 + 11) as u8))?;
    Ok(tree.to_dtb())
}
