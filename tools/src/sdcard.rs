//! The SD card image: an MBR, and one FAT32 partition from which the Pi's firmware boots.
//!
//! The firmware (`bootcode.bin`, `start.elf`, `fixup.dat`, the device trees) is not ours: it comes from the user's folder
//! or from Debian's package. Without it the image is written all the same, and says what to copy.

use anyhow::{Context, Result, ensure};
use fatfs::{FatType, FormatVolumeOptions, FsOptions};
use mbrman::{BOOT_ACTIVE, CHS, MBR, MBRPartitionEntry};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{Apt, Architecture, Release};
use crate::initramfs;
use crate::kernel;
use crate::options::Options;
use crate::setup;
use crate::steps::{self, Step};
use crate::workspace;

const SECTOR: u64 = 512;
/// The partition begins at 4 MiB, as card makers align.
const START: u64 = 4 << 20;
/// A power of two, which QEMU demands of a card.
const SMALLEST: u64 = 256 << 20;
/// FAT32's partition type, with block addresses.
const FAT32_LBA: u8 = 0x0c;

/// What the firmware reads first.
const CONFIG: &str = "\
# Read by the Raspberry Pi's firmware.
arm_64bit=1
kernel=kernel8.img
# Behind the kernel, and told to it in the device tree.
initramfs initramfs.cpio followkernel
# The serial console at 115200 on pins 8 and 10, with a clock that does not change.
enable_uart=1
# The PL011 on these pins, not on Bluetooth.
dtoverlay=disable-bt
";
const COMMAND_LINE: &str = "console=ttyAMA0,115200\n";

/// The files without which a Pi does not start: those of the 3 family (also Zero 2 W).
const FIRMWARE: [&str; 3] = ["bootcode.bin", "start.elf", "fixup.dat"];

/// `make image`.
pub fn make(options: &Options) -> Result<()> {
    let outfit = setup::outfit(options)?;
    let kernel = kernel::image(options)?;
    let initrd = initramfs::build(&outfit, options.extra.as_deref())?;
    let firmware = match &options.firmware {
        Some(folder) => {
            ensure!(folder.is_dir(), "FIRMWARE={}: there is no such folder", folder.display());
            Some(folder.clone())
        }
        None => debian_firmware(outfit.device_tree.as_deref())
            .inspect_err(|error| eprintln!("Without Debian's raspi-firmware: {error:#}"))
            .ok(),
    };
    let image = workspace::build("drupe-sd.img");
    let step = Step::start("Writing the SD card image");
    write(&image, &kernel, &initrd, firmware.as_deref())?;
    step.done(&image.display().to_string());
    let missing: Vec<&str> = FIRMWARE
        .into_iter()
        .filter(|name| !firmware.as_ref().is_some_and(|folder| folder.join(name).exists()))
        .collect();
    if !missing.is_empty() {
        eprintln!(
            "To boot a Pi, copy {} and bcm2710-rpi-3-b.dtb from the boot folder of the Raspberry Pi firmware onto the \
             card's first partition, or make the image again with FIRMWARE=folder.",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Unpacks Debian's package once. The device trees come from Debian's kernel, under the names that the firmware asks for.
fn debian_firmware(device_tree: Option<&Path>) -> Result<PathBuf> {
    let folder = workspace::build("firmware");
    let boot = folder.join("usr/lib/raspi-firmware");
    if !boot.join(FIRMWARE[1]).exists() {
        let package = Apt::open(Architecture::Arm64)?.download("raspi-firmware", Release::Stable)?;
        fs::create_dir_all(&folder)?;
        steps::run("Unpacking raspi-firmware", Command::new("dpkg").arg("-x").arg(&package).arg(&folder))?;
    }
    if let Some(tree) = device_tree {
        for name in ["bcm2710-rpi-3-b.dtb", "bcm2837-rpi-3-b.dtb"] {
            fs::copy(tree, boot.join(name))?;
        }
    }
    Ok(boot)
}

/// Writes the image with the kernel, the initramfs, and the firmware's files when there are any.
pub fn write(image: &Path, kernel: &Path, initrd: &Path, firmware: Option<&Path>) -> Result<()> {
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("config.txt".to_string(), CONFIG.into()),
        ("cmdline.txt".to_string(), COMMAND_LINE.into()),
        ("kernel8.img".to_string(), fs::read(kernel)?),
        ("initramfs.cpio".to_string(), fs::read(initrd)?),
    ];
    for path in firmware.into_iter().flat_map(fs::read_dir).flatten().filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let wanted =
            ["bin", "elf", "dat", "dtb"].iter().any(|kind| path.extension().is_some_and(|found| found == *kind));
        if path.is_file() && wanted && !files.iter().any(|(other, _)| *other == name) {
            files.push((name, fs::read(&path)?));
        } else if path.is_dir() && name == "overlays" {
            let overlay = path.join("disable-bt.dtbo");
            if overlay.exists() {
                files.push(("overlays/disable-bt.dtbo".to_string(), fs::read(overlay)?));
            }
        }
    }
    let bytes: u64 = files.iter().map(|(_, data)| data.len() as u64 + 64 * 1024).sum();
    let size = (bytes + bytes / 8 + START).next_power_of_two().max(SMALLEST);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(image)?;
    file.set_len(size)?;
    partition(&mut file, size)?;
    let mut partition = Window { file, start: START, size: size - START, position: 0 };
    let options =
        FormatVolumeOptions::new().fat_type(FatType::Fat32).bytes_per_cluster(512).volume_label(*b"DRUPE      ");
    fatfs::format_volume(&mut partition, options)?;
    let volume = fatfs::FileSystem::new(partition, FsOptions::new())?;
    for (name, data) in &files {
        if let Some((folder, _)) = name.split_once('/') {
            volume.root_dir().create_dir(folder)?;
        }
        volume.root_dir().create_file(name)?.write_all(data).with_context(|| format!("writing {name}"))?;
    }
    volume.unmount()?;
    Ok(())
}

fn partition(file: &mut File, size: u64) -> Result<()> {
    // Derived from the contents it would tell two cards apart no better: any number but zero is a disk signature.
    let mut mbr = MBR::new_from(file, u32::try_from(SECTOR)?, *b"DRUP")?;
    mbr[1] = MBRPartitionEntry {
        boot: BOOT_ACTIVE,
        first_chs: CHS::empty(),
        sys: FAT32_LBA,
        last_chs: CHS::empty(),
        starting_lba: u32::try_from(START / SECTOR)?,
        sectors: u32::try_from((size - START) / SECTOR)?,
    };
    mbr.write_into(file)?;
    Ok(())
}

/// Copies one file out of the image with mtools.
pub fn take_out(image: &Path, name: &str, target: &Path) -> Result<()> {
    let mut mcopy = Command::new(setup::mtools()?);
    mcopy.args(["-c", "mcopy", "-n", "-i"]).arg(format!("{}@@{START}", image.display()));
    steps::ask(mcopy.arg(format!("::{name}")).arg(target)).map(|_| ())
}

/// A partition of a file, as a file of its own.
struct Window {
    file: File,
    start: u64,
    size: u64,
    position: u64,
}

impl Window {
    /// How many of `wanted` bytes lie before the partition's end, with the file positioned for them.
    fn position(&mut self, wanted: usize) -> std::io::Result<usize> {
        self.file.seek(SeekFrom::Start(self.start + self.position))?;
        let left = self.size.saturating_sub(self.position);
        Ok(usize::try_from(left).map_or(wanted, |left| left.min(wanted)))
    }
}

impl Read for Window {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let count = self.position(bytes.len())?;
        let done = self.file.read(&mut bytes[..count])?;
        self.position += done as u64;
        Ok(done)
    }
}

impl Write for Window {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.position(bytes.len())?;
        let done = self.file.write(&bytes[..count])?;
        self.position += done as u64;
        Ok(done)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
