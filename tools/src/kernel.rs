//! Builds the kernel and makes `kernel8.img` of it: the flat image that the Pi's firmware and QEMU load at 0x80000.

use anyhow::{Context, Result, anyhow, ensure};
use goblin::elf::Elf;
use goblin::elf::header::EM_AARCH64;
use goblin::elf::program_header::PT_LOAD;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Release;
use crate::linux::Linux;
use crate::options::Options;
use crate::steps;
use crate::symbols;
use crate::workspace::{self, KERNEL_TARGET, Profile};

/// Where a 64-bit kernel is loaded.
const LOAD_ADDRESS: u64 = 0x80000;
/// No kernel of ours is larger; an address far off is a mistake in the linker script and not a reason to write gigabytes.
const LARGEST_IMAGE: u64 = 64 << 20;

/// The image to boot: the user's, or ours, built.
pub fn image(options: &Options) -> Result<PathBuf> {
    match &options.kernel {
        Some(_) if options.boots_linux() => Ok(Linux::get(Release::Stable)?.image),
        Some(image) => Ok(image.clone()),
        None => build(options.profile),
    }
}

/// Builds the kernel and returns its flat image.
pub fn build(profile: Profile) -> Result<PathBuf> {
    let image = workspace::build("kernel8.img");
    build_at(profile, &image)?;
    Ok(image)
}

/// The same at a place of its own.
pub fn build_at(profile: Profile, image: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "-p", "drupe", "--target", KERNEL_TARGET, "--profile", profile.cargo_name()]);
    steps::run("Building the kernel", cargo.current_dir(workspace::root()))?;
    let elf = elf(profile);
    fs::write(image, flatten(&elf).with_context(|| elf.display().to_string())?)?;
    Ok(())
}

/// The linked kernel with its symbols.
pub fn elf(profile: Profile) -> PathBuf {
    workspace::artifact(KERNEL_TARGET, profile, "drupe")
}

/// The size of its code.
pub fn text_bytes(profile: Profile) -> Result<u64> {
    let bytes = fs::read(elf(profile))?;
    let elf = Elf::parse(&bytes)?;
    let address = |name| symbols::address(&elf, name).map_err(|reason| anyhow!(reason));
    Ok(address("__text_end")? - address("__text_start")?)
}

fn flatten(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    let elf = Elf::parse(&bytes)?;
    ensure!(elf.header.e_machine == EM_AARCH64, "not a program for AArch64");
    let mut image = Vec::new();
    for segment in elf.program_headers.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_filesz > 0) {
        let start = segment.p_paddr.checked_sub(LOAD_ADDRESS).context("a segment lies below 0x80000")?;
        ensure!(start + segment.p_filesz <= LARGEST_IMAGE, "a segment lies at {:#x}", segment.p_paddr);
        let start = usize::try_from(start)?;
        let data = bytes.get(segment.file_range()).context("a segment lies outside of the file")?;
        if image.len() < start + data.len() {
            image.resize(start + data.len(), 0);
        }
        image[start..start + data.len()].copy_from_slice(data);
    }
    ensure!(!image.is_empty(), "nothing to load");
    symbols::append(&mut image, &elf).map_err(|reason| anyhow!(reason))?;
    Ok(image)
}
