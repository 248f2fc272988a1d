//! `EXTRA=debian`: a root file system of Debian's own arm64 programs, unpacked once below `build/debian/` and laid over
//! ours: bash, coreutils, util-linux, procps and what they need. They prove that programs which nobody here built run.
//!
//! Packages are unpacked and not installed: no maintainer script runs. What those would have left is written here
//! ([`FILES`]). The layout is Debian's merged one: `/bin`, `/sbin` and `/lib` are links into `/usr`.
//!
//! `EXTRA=rt-tests` is a smaller one of the same kind: cyclictest and hackbench, which `make bench` runs on both kernels.
//! `EXTRA=debian-debug` is strace, gdb and gdbserver.

use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::apt::{Apt, Architecture, Release};
use crate::steps::Step;
use crate::workspace;

/// A root file system made of packages, in `build/<name>/root`.
pub struct PackageSet {
    /// As in `EXTRA=name`.
    name: &'static str,
    packages: &'static [&'static str],
    /// Path and text of files that the packages' installation would have made.
    files: &'static [(&'static str, &'static str)],
}

/// The everyday programs.
pub const DEBIAN: PackageSet = PackageSet { name: "debian", packages: PACKAGES, files: FILES };
/// cyclictest and hackbench.
pub const RT_TESTS: PackageSet =
    PackageSet { name: "rt-tests", packages: &["rt-tests", "libnuma1", "libc6", "libgcc-s1"], files: &[] };

/// strace, gdb and gdbserver. gdb is the one without Python, an eighth of the other's size; Debian 12 has no ltrace for arm64.
pub const DEBUG: PackageSet = PackageSet { name: "debian-debug", packages: DEBUG_PACKAGES, files: &[] };

/// The set that `EXTRA=name` means.
pub fn set(name: &Path) -> Option<&'static PackageSet> {
    [&DEBIAN, &RT_TESTS, &DEBUG].into_iter().find(|set| Path::new(set.name) == name)
}

/// What is unpacked. Dependencies are written out, so that the set is the same wherever it is made.
const PACKAGES: &[&str] = &[
    // The shells.
    "bash",
    "bash-static",
    "dash",
    // What one calls from them.
    "coreutils",
    "util-linux",
    "util-linux-extra",
    "bsdutils",
    "procps",
    "psmisc",
    "sed",
    "grep",
    "mawk",
    "findutils",
    "hostname",
    "login",
    "dpkg",
    "libcap2-bin",
    "ncurses-bin",
    // Their libraries.
    "libc6",
    "libc-bin",
    "libgcc-s1",
    "libtinfo6",
    "libncursesw6",
    "ncurses-base",
    "libproc2-0",
    "libacl1",
    "libattr1",
    "libgmp10",
    "libselinux1",
    "libpcre2-8-0",
    "libblkid1",
    "libcap-ng0",
    "libcap2",
    "libmount1",
    "libsmartcols1",
    "libudev1",
    "libuuid1",
    "libcrypt1",
    "libsystemd0",
    "libgcrypt20",
    "libgpg-error0",
    "liblz4-1",
    "liblzma5",
    "libzstd1",
    "libbz2-1.0",
    "zlib1g",
    "libmd0",
    "libaudit1",
    "libpam0g",
    "libpam-modules",
    "libreadline8",
    "readline-common",
];

/// The debuggers and their libraries: gdb's client for debuginfod brings half of the network's with it.
const DEBUG_PACKAGES: &[&str] = &[
    "strace",
    "gdb-minimal",
    "gdbserver",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libexpat1",
    "libgmp10",
    "liblzma5",
    "libreadline8",
    "readline-common",
    "libtinfo6",
    "libxxhash0",
    "libzstd1",
    "zlib1g",
    "libdebuginfod1",
    "libelf1",
    "libdw1",
    "libbz2-1.0",
    "libcurl3-gnutls",
    "libnghttp2-14",
    "libidn2-0",
    "librtmp1",
    "libssh2-1",
    "libpsl5",
    "libnettle8",
    "libhogweed6",
    "libgnutls30",
    "libp11-kit0",
    "libffi8",
    "libtasn1-6",
    "libunistring2",
    "libgssapi-krb5-2",
    "libkrb5-3",
    "libk5crypto3",
    "libkrb5support0",
    "libcom-err2",
    "libkeyutils1",
    "libldap-2.5-0",
    "libsasl2-2",
    "libssl3",
    "libbrotli1",
];

/// What of a package is of no use here; and `sh` stays BusyBox's, whose prompt the tests wait for.
const LEFT_OUT: &[&str] =
    &["./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info", "./bin/sh", "./usr/bin/sh"];

const LINKS: &[(&str, &str)] = &[("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")];

/// What the packages' installation would have made. PAM lets root be anybody, and nobody become root.
const FILES: &[(&str, &str)] = &[
    (
        "etc/pam.d/su",
        "auth sufficient pam_rootok.so\nauth required pam_deny.so\naccount required pam_permit.so\nsession required pam_permit.so\n",
    ),
    (
        "etc/pam.d/su-l",
        "auth sufficient pam_rootok.so\nauth required pam_deny.so\naccount required pam_permit.so\nsession required pam_permit.so\n",
    ),
    ("etc/pam.d/runuser", "auth sufficient pam_rootok.so\nsession required pam_permit.so\n"),
    ("etc/ld.so.conf", "/usr/local/lib\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"),
    ("etc/shadow", "root:*:19000:0:99999:7:::\nuser:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n"),
];

impl PackageSet {
    /// As in `EXTRA=name`; its folder in `build/`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The folder, made when there is none or the list of packages is another.
    pub fn root(&self) -> Result<PathBuf> {
        let target = workspace::build(&format!("{}/root", self.name));
        let stamp = workspace::build(&format!("{}/packages", self.name));
        let list = self.packages.join("\n");
        if target.is_dir() && fs::read_to_string(&stamp).is_ok_and(|text| text == list) {
            return Ok(target);
        }
        let partial = workspace::build(&format!("{}/partial", self.name));
        for folder in [&target, &partial] {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
        }
        for (link, directory) in LINKS {
            fs::create_dir_all(partial.join(directory))?;
            symlink(directory, partial.join(link))?;
        }
        let apt = Apt::open(Architecture::Arm64)?;
        let packages = self.packages.iter().map(|package| apt.download(package, Release::Stable));
        let packages = packages.collect::<Result<Vec<PathBuf>>>()?;
        let step = Step::start(&format!("Unpacking the packages of {}", self.name));
        for package in &packages {
            unpack(package, &partial)?;
        }
        for (name, text) in self.files {
            let path = partial.join(name);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, text)?;
        }
        fs::rename(&partial, &target)?;
        fs::write(&stamp, list)?;
        step.done("");
        Ok(target)
    }
}

/// The files of one package, through the links of the merged layout.
fn unpack(package: &Path, target: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg").arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn()?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "-C"]).arg(target);
    tar.args(LEFT_OUT.iter().map(|folder| format!("--exclude={folder}")));
    if let Some(stream) = dpkg.stdout.take() {
        tar.stdin(stream);
    }
    let unpacked = tar.status()?;
    ensure!(dpkg.wait()?.success() && unpacked.success(), "{} does not unpack", package.display());
    Ok(())
}
