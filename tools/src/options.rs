//! The variables of the Makefile. They arrive through the environment, so that a command with quotes and dollar signs
//! passes no shell on its way. An empty variable counts as not given.

use anyhow::{Context, Result, bail, ensure};
use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::debian;
use crate::workspace::Profile;

/// One `make` with its variables.
#[derive(Clone, Debug)]
pub struct Options {
    /// `KERNEL`: boot this image, and build none. `linux` is Debian's Linux, for comparison.
    pub kernel: Option<PathBuf>,
    /// `EXTRA`: a folder that is laid over the root file system, or the name of a set of packages ([`crate::debian`]).
    pub extra: Option<PathBuf>,
    /// `APPEND`: more words for the kernel command line.
    pub append: Option<String>,
    /// `CMD`: run this and exit with its status.
    pub command: Option<String>,
    /// `BUILD`.
    pub profile: Profile,
    /// `SMP`: how many of the four cores are started.
    pub cpus: Option<u32>,
    /// `QEMU`: another emulator.
    pub qemu: Option<PathBuf>,
    /// `QEMU_ARGS`: more arguments for it.
    pub qemu_args: Vec<String>,
    /// `ICOUNT=1`: guest time counts instructions and is repeatable.
    pub icount: Icount,
    /// `TIMEOUT`: seconds until `CMD` is given up.
    pub timeout: Duration,
    /// `FIRMWARE`: the folder with the Pi's firmware files.
    pub firmware: Option<PathBuf>,
    /// `ROW`: the row of the benchmark to run.
    pub row: Option<String>,
    /// `BASELINE`: the image that the benchmark compares with in the place of Linux.
    pub baseline: Option<PathBuf>,
    /// `SCALING=1`: whether the benchmark measures how two cores scale.
    pub scaling: bool,
    /// `RESPONSE=1`: whether the benchmark measures only how soon a real-time task runs.
    pub response: bool,
    /// `RECORD=1`: whether the benchmark's tables go into the tree.
    pub record: bool,
    /// `FUNCTION`: the function whose instructions the profiler lists.
    pub function: Option<String>,
}

/// How QEMU keeps time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icount {
    WallClock,
    Instructions,
}

impl Options {
    pub fn from_environment() -> Result<Options> {
        let profile = match given("BUILD").as_deref() {
            None | Some("release") => Profile::Release,
            Some("debug") => Profile::Debug,
            Some(other) => bail!("BUILD={other}: use debug or release"),
        };
        let cpus = number("SMP")?.map(u32::try_from).transpose()?;
        ensure!(cpus.is_none_or(|n| (1..=4).contains(&n)), "SMP: use 1 to 4, the Pi 3 has four cores");
        let qemu_args = match given("QEMU_ARGS") {
            Some(text) => shlex::split(&text).context("QEMU_ARGS: a quote is not closed")?,
            None => Vec::new(),
        };
        let icount = if is_set("ICOUNT") { Icount::Instructions } else { Icount::WallClock };
        let extra = given("EXTRA").map(PathBuf::from);
        if let Some(folder) = &extra {
            let known = folder.is_dir() || debian::set(folder).is_some();
            ensure!(known, "EXTRA={}: there is no such folder", folder.display());
        }
        Ok(Options {
            kernel: given("KERNEL").map(PathBuf::from),
            extra,
            append: given("APPEND"),
            command: given("CMD"),
            profile,
            cpus,
            qemu: given("QEMU").map(PathBuf::from),
            qemu_args,
            icount,
            timeout: Duration::from_secs(number("TIMEOUT")?.unwrap_or(120)),
            firmware: given("FIRMWARE").map(PathBuf::from),
            row: given("ROW"),
            baseline: given("BASELINE").map(PathBuf::from),
            scaling: is_set("SCALING"),
            response: is_set("RESPONSE"),
            record: is_set("RECORD"),
            function: given("FUNCTION"),
        })
    }

    /// Whether the kernel is Debian's.
    pub fn boots_linux(&self) -> bool {
        self.kernel.as_deref() == Some(Path::new("linux"))
    }
}

fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_set(name: &str) -> bool {
    given(name).is_some_and(|value| value != "0")
}

fn number(name: &str) -> Result<Option<u64>> {
    given(name).map(|value| value.parse().with_context(|| format!("{name}={value}: use a number"))).transpose()
}
