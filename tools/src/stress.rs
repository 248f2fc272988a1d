//! The scenarios that take the machine to its ends: the torture run under a kernel that checks itself, and loads that must
//! be contained while the shell stays usable.

use anyhow::Result;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::options::Options;
use crate::scenarios::Bench;

/// How long processes torture each other.
const TORTURE_SECONDS: u64 = 300;
/// What booting, the warm-up and the end may take beside.
const TORTURE_MARGIN: Duration = Duration::from_secs(240);
/// The life of a machine that is stormed: thousands of forks, each with the emulator's translations flushed.
const STORM_TIME: Duration = Duration::from_secs(300);

/// `abitest torture` on four cores, under a debug kernel: its checks of the lock order and of arithmetic are on. The seed is
/// on the console, which a failure shows.
pub fn torture(bench: &Bench) -> Result<()> {
    let debug = bench.with_debug_kernel()?;
    let timeout = Duration::from_secs(TORTURE_SECONDS) + TORTURE_MARGIN;
    let bench = Bench { options: Options { timeout, ..debug.options.clone() }, ..debug };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() % 1_000_000;
    let console = bench.boot_command(&format!("abitest torture {TORTURE_SECONDS} {seed}"), &[])?;
    anyhow::ensure!(console.contains("\nok torture\n"), "{console}");
    Ok(())
}

/// A fork bomb of a user stays inside the user's limit: root's shell works meanwhile, and can end it.
pub fn fork_bomb(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot_for(&bench.options, STORM_TIME)?;
    machine.check("(ulimit -u 500; abitest heavy bomb) & sleep 2")?;
    let count = machine.check("ps | grep -c 'heavy bom[b]'")?;
    let count: u32 = count.trim().parse().unwrap_or(0);
    machine.ensure((400..=501).contains(&count), &format!("{count} processes of a user with a limit of 500"))?;
    // One call for all of them: nobody can fork out of it.
    machine
        .check("su user -c 'kill -9 -1'; for n in $(seq 60); do pidof abitest >/dev/null || break; sleep 1; done")?;
    machine.check("! pidof abitest")?;
    machine.check("true").map(|_| ())
}

/// 100,000 queued signals, processes 10,000 deep, programs that execute each other without end. On one core: with more,
/// the emulator stops all of them for each flush of a translation, and this is about amounts.
pub fn storms(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot_for(&Options { cpus: Some(1), ..bench.options.clone() }, STORM_TIME)?;
    machine.check("abitest heavy storm")?;
    machine.check("echo 32000 >/proc/sys/kernel/threads-max; abitest heavy deep | grep 10000")?;
    machine.check("cd /tmp; echo '#!/tmp/b' >a; echo '#!/tmp/a' >b; chmod +x a b; ! ./a 2>/dev/null")?;
    machine.check("printf '#!/bin/sh\\nexec ./d' >c; printf '#!/bin/sh\\nexec ./c' >d; chmod +x c d; (./c & echo $! >pid); sleep 1")?;
    machine.check("kill -0 $(cat pid) && kill $(cat pid); abitest heavy swap & sleep 1; kill $!; wait; true")?;
    machine.check("test $(ps | wc -l) -lt 15").map(|_| ())
}
