//! `make bench SCALING=1`: fork, exit and wait on one core and on two at once, by the wall clock.
//!
//! Under `-icount` QEMU runs one core at a time, so this is measured without: each of the guest's cores is a thread of
//! QEMU. The figures mean something on a quiet host with at least two processors of its own only.

use anyhow::{Context, Result, ensure};
use std::thread;

use super::Session;
use crate::kernel;
use crate::options::{Icount, Options};
use crate::qemu::{self, Console};

/// What two cores are to do of what one does.
const LIMIT: f64 = 1.7;

/// Runs `bench --scaling` and says what it found.
pub fn measure(session: &Session) -> Result<String> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    ensure!(processors >= 2, "SCALING=1: this machine has one processor, so two guest cores take turns on it");
    let options = Options { icount: Icount::WallClock, ..session.options.clone() };
    let mut boot = qemu::Boot::new(&kernel::image(&options)?, &session.initrd);
    boot.command_line.push_str(" loglevel=4");
    let mut qemu = boot.command(&session.outfit, &options, Console::Pipes);
    qemu.args(["-accel", "tcg,thread=multi"]);
    let console = session.show("two cores", qemu, "/usr/bin/bench --scaling")?;
    let per_second = |cores: &str| {
        let line = console.lines().find_map(|line| line.trim_end().strip_prefix(&format!("scaling {cores} ")));
        line.and_then(|number| number.parse::<f64>().ok()).with_context(|| format!("no figure for {cores}:\n{console}"))
    };
    let (one, two) = (per_second("1")?, per_second("2")?);
    let ratio = two / one;
    let verdict = if ratio >= LIMIT { "" } else { " (missed)" };
    Ok(format!(
        "fork+exit+wait per second: {one:.0} on one core, {two:.0} on two: {ratio:.2} times as many; {LIMIT} to reach{verdict}"
    ))
}
