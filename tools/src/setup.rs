//! What a fresh Debian machine lacks: the Rust targets, QEMU, BusyBox for arm64, the Pi's device tree, and, for the tests,
//! QEMU's user-mode emulator and mtools. Each is taken from where it is found, else installed or unpacked once; where
//! that cannot be done, one sentence says what to install.

use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{self, Apt, Architecture, Release};
use crate::linux::{self, Linux};
use crate::options::Options;
use crate::steps;
use crate::workspace::{self, KERNEL_TARGET, USER_TARGET};

/// The oldest QEMU whose `raspi3b` was tried.
const OLDEST_QEMU: (u32, u32) = (7, 2);

/// What booting needs.
#[derive(Clone, Debug)]
pub struct Outfit {
    /// `qemu-system-aarch64`.
    pub qemu: PathBuf,
    /// Runs arm64 Linux programs on this machine.
    pub qemu_user: PathBuf,
    /// Debian's arm64 BusyBox.
    pub busybox: PathBuf,
    /// The Pi 3's device tree, when it could be had. Without it QEMU passes no tree, and the kernel uses its built-in table.
    pub device_tree: Option<PathBuf>,
}

/// Sets up all that booting needs.
pub fn outfit(options: &Options) -> Result<Outfit> {
    rust_targets()?;
    Ok(Outfit {
        qemu: qemu(options)?,
        qemu_user: qemu_user()?,
        busybox: busybox()?,
        device_tree: device_tree(options)
            .inspect_err(|error| eprintln!("Booting without a device tree: {error:#}"))
            .ok(),
    })
}

/// The targets of `rust-toolchain.toml`.
pub fn rust_targets() -> Result<()> {
    let sentence = "install rustup and run `rustup toolchain install` in this folder";
    let list =
        || steps::ask(Command::new("rustup").args(["target", "list", "--installed"]).current_dir(workspace::root()));
    let complete =
        |list: &str| [KERNEL_TARGET, USER_TARGET].iter().all(|target| list.lines().any(|line| line == *target));
    if complete(&list().context(sentence)?) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install"]).current_dir(workspace::root());
    steps::run("Installing the Rust toolchain", &mut rustup).context(sentence)
}

fn qemu(options: &Options) -> Result<PathBuf> {
    if let Some(qemu) = &options.qemu {
        return Ok(qemu.clone());
    }
    let name = "qemu-system-aarch64";
    if let Some(path) = apt::find_program(name)
        && version_of(&path).is_some_and(|version| version >= OLDEST_QEMU)
    {
        return Ok(path);
    }
    let install = || Apt::open(Architecture::Host)?.install(&["qemu-system-arm"]);
    install().context("install QEMU 7.2 or later with the raspi3b machine (Debian: qemu-system-arm)")?;
    apt::find_program(name).ok_or_else(|| anyhow!("qemu-system-arm was installed, but there is no {name}"))
}

/// A gdb that reads arm64 cores, for the tests.
pub fn gdb() -> Result<PathBuf> {
    let name = "gdb-multiarch";
    if let Some(path) = apt::find_program(name) {
        return Ok(path);
    }
    Apt::open(Architecture::Host)?.install(&[name]).context("install gdb-multiarch")?;
    apt::find_program(name).ok_or_else(|| anyhow!("gdb-multiarch was installed, but there is no {name}"))
}

/// `QEMU emulator version 10.0.2 (...)` is (10, 0).
fn version_of(qemu: &Path) -> Option<(u32, u32)> {
    parse_version(&steps::ask(Command::new(qemu).arg("--version")).ok()?)
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.split("version ").nth(1)?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The user-mode emulator is one static file, so it is unpacked and not installed: binfmt stays as it is.
fn qemu_user() -> Result<PathBuf> {
    let unpacked = workspace::build("host/qemu-aarch64");
    if unpacked.exists() {
        return Ok(unpacked);
    }
    if let Some(path) = ["qemu-aarch64-static", "qemu-aarch64"].iter().find_map(|name| apt::find_program(name)) {
        return Ok(path);
    }
    let unpack = || -> Result<()> {
        let apt = Apt::open(Architecture::Host)?;
        // From QEMU 9.1 on Debian's qemu-user is the static one; before, it was a package of its own.
        for (package, release, member) in [
            ("qemu-user", Release::Backports, "./usr/bin/qemu-aarch64"),
            ("qemu-user-static", Release::Stable, "./usr/bin/qemu-aarch64-static"),
        ] {
            let Ok(file) = apt.download(package, release) else {
                continue;
            };
            apt::extract(&file, member, &unpacked)?;
            fs::remove_file(file)?;
            make_executable(&unpacked)?;
            if version_of(&unpacked).is_some() {
                return Ok(());
            }
            fs::remove_file(&unpacked)?;
        }
        bail!("neither qemu-user nor qemu-user-static could be had");
    };
    unpack().context("install qemu-user-static")?;
    Ok(unpacked)
}

fn busybox() -> Result<PathBuf> {
    let path = workspace::build("arm64/busybox");
    if !path.exists() {
        let unpack = || -> Result<()> {
            let package = Apt::open(Architecture::Arm64)?.download("busybox-static", Release::Stable)?;
            // `./bin` until bookworm, `./usr/bin` after.
            apt::extract(&package, "./*bin/busybox", &path)
        };
        unpack().context("put Debian's arm64 busybox-static program at build/arm64/busybox")?;
        make_executable(&path)?;
    }
    Ok(path)
}

/// Both kernels boot with the same tree, but for what the firmware changes for Linux.
fn device_tree(options: &Options) -> Result<PathBuf> {
    if options.boots_linux() { Ok(Linux::get(Release::Stable)?.device_tree) } else { linux::device_tree() }
}

/// One of the mtools (`mcopy`), which read a FAT image without mounting it.
pub fn mtools() -> Result<PathBuf> {
    if let Some(path) = apt::find_program("mtools") {
        return Ok(path);
    }
    let path = workspace::build("host/mtools");
    if !path.exists() {
        let unpack = || -> Result<()> {
            let package = Apt::open(Architecture::Host)?.download("mtools", Release::Stable)?;
            apt::extract(&package, "./usr/bin/mtools", &path)
        };
        unpack().context("install mtools")?;
        make_executable(&path)?;
    }
    Ok(path)
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn the_version_is_read_from_what_qemu_prints() {
        assert_eq!(parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds)\nCopyright"), Some((10, 0)));
        assert_eq!(parse_version("qemu-aarch64 version 7.2.18 (Debian)"), Some((7, 2)));
        assert_eq!(parse_version("fake"), None);
    }
}
