//! The root file system, in Debian's merged layout (`/bin`, `/sbin` and `/lib` are links into `/usr`, so that a folder
//! of either layout can be laid over it): our init, Debian's BusyBox with its links, a few files in /etc, the ABI programs, and the user's
//! own folder over all of that. And the small archives that are appended to it, as Linux allows, to pass something in
//! without building it again.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use crate::cpio::Archive;
use crate::debian;
use crate::setup::Outfit;
use crate::steps::{self, Step};
use crate::workspace::{self, Profile, USER_TARGET};

/// The largest folder that `EXTRA` lays over: it must fit into the Pi's memory beside what runs.
const LARGEST_EXTRA: u64 = 300 << 20;

const DIRECTORIES: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/lib", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// The links of the merged layout.
const LINKS: &[(&str, &str)] = &[("bin", "usr/bin"), ("lib", "usr/lib"), ("sbin", "usr/sbin")];

const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\ntty:x:5:\nusers:x:100:\nuser:x:1000:\nnogroup:x:65534:\n"),
    ("etc/shells", "/bin/sh\n/bin/ash\n"),
    ("etc/hostname", "drupe\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost drupe\n"),
    ("etc/profile", "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\numask 022\n"),
    ("etc/motd", "\nDrupe. The shell is BusyBox; `busybox` lists its commands, `poweroff` ends.\n\n"),
];

/// Builds the user programs and the archive `build/initramfs.cpio`.
pub fn build(outfit: &Outfit, extra: Option<&Path>) -> Result<PathBuf> {
    let target = workspace::build("initramfs.cpio");
    match extra.filter(|folder| !folder.is_dir()).and_then(debian::set) {
        Some(set) => build_at(outfit, Some(&set.root()?), &target)?,
        None => build_at(outfit, extra, &target)?,
    }
    Ok(target)
}

/// The same at a place of its own.
pub fn build_at(outfit: &Outfit, extra: Option<&Path>, target: &Path) -> Result<()> {
    let init = user_program("init")?;
    let abitest = user_program("abitest")?;
    let bench = user_program("bench")?;
    let partial = target.with_extension("partial");
    let step = Step::start("Packing the initramfs");
    let inputs = [&init, &abitest, &bench, &outfit.busybox];
    let newest = inputs.iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok()).max();
    let mtime = newest.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |age| age.as_secs());
    let mut archive = Archive::new(BufWriter::new(File::create(&partial)?), u32::try_from(mtime).unwrap_or(u32::MAX));
    let mut directories = BTreeSet::new();
    // Without it the root keeps the mode that a tmpfs is born with: everybody may write.
    archive.directory(".", 0o755)?;
    for (name, permissions) in DIRECTORIES {
        archive.directory(name, *permissions)?;
        directories.insert((*name).to_string());
    }
    for (name, target) in LINKS {
        archive.symlink(name, target)?;
    }
    archive.file("init", 0o755, &fs::read(&init)?)?;
    archive.file("usr/bin/busybox", 0o755, &fs::read(&outfit.busybox)?)?;
    for applet in applets(outfit)? {
        archive.symlink(&applet, "/usr/bin/busybox")?;
    }
    archive.file("usr/bin/abitest", 0o755, &fs::read(&abitest)?)?;
    archive.file("usr/bin/bench", 0o755, &fs::read(&bench)?)?;
    for (name, text) in FILES {
        archive.file(name, 0o644, text.as_bytes())?;
    }
    if let Some(folder) = extra {
        let mut left = LARGEST_EXTRA;
        lay_over(&mut archive, folder, "", &mut directories, &mut left)
            .with_context(|| format!("EXTRA={}", folder.display()))?;
    }
    archive.finish()?;
    fs::rename(&partial, target)?;
    step.done("");
    Ok(())
}

/// Where a path lies in the merged layout.
fn merged(name: &str) -> String {
    let inside = |link: &str| name.strip_prefix(link).is_some_and(|rest| rest.starts_with('/'));
    if LINKS.iter().any(|(link, _)| inside(link)) { format!("usr/{name}") } else { name.to_string() }
}

/// One of the programs below userland/, built for the Pi.
pub fn user_program(package: &str) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--target", USER_TARGET, "-p", package]).current_dir(workspace::root());
    steps::run(&format!("Building {package}"), &mut cargo)?;
    Ok(workspace::artifact(USER_TARGET, Profile::Release, package))
}

/// The paths of BusyBox's commands, without the leading slash. It tells them itself.
fn applets(outfit: &Outfit) -> Result<Vec<String>> {
    let mut command = Command::new(&outfit.qemu_user);
    let list = steps::ask(command.arg(&outfit.busybox).arg("--list-full"))?;
    // /bin/busybox is the program, and /init is ours.
    Ok(list
        .lines()
        .map(str::trim)
        .filter(|name| !matches!(*name, "bin/busybox" | "linuxrc" | ""))
        .map(merged)
        .collect())
}

/// Adds all of `folder` below `prefix`. Everything belongs to root; a directory that exists keeps its permissions.
fn lay_over(
    archive: &mut Archive<impl Write>,
    folder: &Path,
    prefix: &str,
    directories: &mut BTreeSet<String>,
    left: &mut u64,
) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = merged(&format!(
            "{prefix}{}",
            entry.file_name().to_str().with_context(|| format!("{} is not UTF-8", path.display()))?
        ));
        let meta = fs::symlink_metadata(&path)?;
        let permissions = meta.permissions().mode() & 0o7777;
        // A link of the merged layout stays, whether the folder has a directory or the same link in its place.
        let layout = LINKS.iter().any(|(link, _)| *link == name);
        if meta.is_dir() {
            if !layout && directories.insert(name.clone()) {
                archive.directory(&name, permissions)?;
            }
            lay_over(archive, &path, &format!("{name}/"), directories, left)?;
        } else if layout {
            ensure!(meta.is_symlink(), "{} is neither folder nor link", path.display());
        } else if meta.is_symlink() {
            let target = fs::read_link(&path)?;
            archive.symlink(&name, target.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?)?;
        } else if meta.is_file() {
            *left = left.checked_sub(meta.len()).context("the folder holds more than 300 MiB")?;
            archive.file(&name, permissions, &fs::read(&path).with_context(|| path.display().to_string())?)?;
        } else {
            eprintln!("EXTRA: {} is neither file, folder nor link: left out", path.display());
        }
    }
    Ok(())
}

/// A file that is laid over the root file system of one boot.
#[derive(Clone, Debug)]
pub struct Overlay {
    pub name: String,
    pub permissions: u32,
    pub data: Vec<u8>,
}

impl Overlay {
    pub fn new(name: &str, data: impl Into<Vec<u8>>) -> Overlay {
        Overlay { name: name.to_string(), permissions: 0o755, data: data.into() }
    }
}

/// Writes `target`: the archive `base` with a second one behind it. The second begins on a page boundary, so that its
/// files do too.
pub fn append(base: &Path, overlays: &[Overlay], target: &Path) -> Result<()> {
    let mut bytes = fs::read(base).with_context(|| base.display().to_string())?;
    ensure!(bytes.len() % 512 == 0, "{} is not an archive of ours", base.display());
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let mut archive = Archive::new(bytes, 0);
    // Positions count from the start of the second archive; the first ends a page.
    let mut directories: BTreeSet<String> = DIRECTORIES.iter().map(|(name, _)| (*name).to_string()).collect();
    for overlay in overlays {
        let name = merged(&overlay.name);
        for (at, _) in name.match_indices('/') {
            let folder = &name[..at];
            if directories.insert(folder.to_string()) {
                archive.directory(folder, 0o755)?;
            }
        }
        archive.file(&name, overlay.permissions, &overlay.data)?;
    }
    fs::write(target, archive.finish()?)?;
    Ok(())
}
