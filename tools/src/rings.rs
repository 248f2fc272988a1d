//! `make test`: the three rings, from the inside out. What fails inside is cheaper to find there, but the outer rings run
//! all the same, so that one run tells everything.
//!
//! The last line is `N passed, N failed`, over all rings.

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::apt;
use crate::initramfs;
use crate::kernel;
use crate::options::Options;
use crate::scenarios::{self, Bench, SCENARIOS};
use crate::setup;
use crate::steps::{self, Step};
use crate::workspace;

/// What the ABI programs may take on Linux, which needs seconds to boot and is slower at forks.
const LINUX_TIME: Duration = Duration::from_secs(900);

/// Passed and failed tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
}

impl Totals {
    fn add(&mut self, other: Totals) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// A ring that could not run is one failed test: it must not pass for having none.
    fn of(title: &str, result: Result<Totals>) -> Totals {
        match result {
            Ok(totals) => {
                println!("{title}: {} passed, {} failed", totals.passed, totals.failed);
                totals
            }
            Err(error) => {
                println!("{title}: {error:#}");
                Totals { passed: 0, failed: 1 }
            }
        }
    }
}

/// Runs all tests and returns the status. `TESTS` (words) restricts the run to the QEMU tests that contain one of them.
pub fn all(options: &Options) -> Result<u8> {
    let words: Vec<String> = std::env::var("TESTS").unwrap_or_default().split_whitespace().map(String::from).collect();
    let mut totals = Totals::default();
    let outfit = setup::outfit(options)?;
    if words.is_empty() {
        totals.add(Totals::of("Host ring", host_ring()));
        totals.add(Totals::of("ABI programs on this machine's Linux", abi_here(&outfit)));
    }
    match bench(options, outfit) {
        Ok(bench) => {
            let bench = Arc::new(bench);
            // Of a kernel that does not come up, one test is enough.
            if let Err(error) = bench.boot() {
                println!("{error:#}");
                totals.failed += 1;
                println!("{} passed, {} failed", totals.passed, totals.failed);
                return Ok(1);
            }
            if words.is_empty() {
                totals.add(Totals::of("ABI programs on Drupe", abi_in_qemu(&bench)));
            }
            totals.add(Totals::of("Scenarios on QEMU", Ok(run_scenarios(&bench, &words))));
        }
        Err(error) => totals.add(Totals::of("QEMU", Err(error))),
    }
    println!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(u8::from(totals.failed > 0))
}

/// `make test-linux`: the ABI programs on Debian's Linux, on the same machine in QEMU. The oracle: what fails here is a case
/// that asks for what Linux does not promise.
pub fn on_linux(options: &Options) -> Result<u8> {
    let timeout = LINUX_TIME.max(options.timeout);
    let options = Options { kernel: Some("linux".into()), timeout, ..options.clone() };
    let outfit = setup::outfit(&options)?;
    let totals = Totals::of("ABI programs on Linux in QEMU", abi_in_qemu(&bench(&options, outfit)?));
    println!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(u8::from(totals.failed > 0))
}

/// Writes down what Debian's Linux prints for the long script.
pub fn record(options: &Options) -> Result<()> {
    scenarios::record(&bench(options, setup::outfit(options)?)?)
}

fn bench(options: &Options, outfit: setup::Outfit) -> Result<Bench> {
    let kernel = kernel::image(options)?;
    let initrd = initramfs::build(&outfit, options.extra.as_deref())?;
    Ok(Bench { outfit, options: options.clone(), kernel, initrd })
}

/// `cargo nextest`, which runs tests in parallel, where it is installed.
fn host_ring() -> Result<Totals> {
    let mut cargo = Command::new("cargo");
    let nextest = apt::exists("cargo-nextest");
    match nextest {
        true => {
            cargo.args(["nextest", "run", "--no-fail-fast", "--status-level", "fail", "--final-status-level", "fail"])
        }
        false => cargo.args(["test", "--no-fail-fast"]),
    };
    let step = Step::start("Host ring");
    let (output, success) = steps::watch(cargo.current_dir(workspace::root()), |line| step.note(line))?;
    step.done("");
    let totals = if nextest { nextest_totals(&output) } else { Some(cargo_test_totals(&output)) };
    if !success {
        println!("{output}");
    }
    let totals = totals.filter(|totals| success || totals.failed > 0);
    totals.context("the tests did not run to their end")
}

/// `Summary [ 0.5s] 12 tests run: 10 passed, 2 failed, 0 skipped`.
fn nextest_totals(output: &str) -> Option<Totals> {
    let summary = output.lines().rev().find(|line| line.contains(" tests run:") || line.contains(" test run:"))?;
    let count = |word: &str| -> u64 {
        let words: Vec<&str> = summary.split([' ', ',']).filter(|part| !part.is_empty()).collect();
        words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
    };
    Some(Totals { passed: count("passed"), failed: count("failed") + count("timed") })
}

/// The sum over `test result: ok. 10 passed; 2 failed; ...`.
fn cargo_test_totals(output: &str) -> Totals {
    let mut totals = Totals::default();
    for line in output.lines().filter(|line| line.starts_with("test result: ")) {
        let words: Vec<&str> = line.split([' ', ';']).collect();
        let count = |word: &str| -> u64 {
            words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
        };
        totals.add(Totals { passed: count("passed"), failed: count("failed") });
    }
    totals
}

/// The ABI programs must pass on Linux before they say anything about Drupe.
fn abi_here(outfit: &setup::Outfit) -> Result<Totals> {
    let program = initramfs::user_program("abitest")?;
    let mut command = Command::new("timeout");
    // The emulator has its own idea of some calls: abitest leaves those out when it is told.
    command.arg("300").arg(&outfit.qemu_user).arg(program).arg("all").env("ABITEST_QEMU_USER", "1");
    let step = Step::start("ABI programs on this machine's Linux");
    let (output, success) = steps::watch(&mut command, |line| step.note(line))?;
    step.done("");
    abi_totals(&output, success)
}

fn abi_in_qemu(bench: &Bench) -> Result<Totals> {
    let step = Step::start("ABI programs in QEMU");
    let console = bench.boot_command("/usr/bin/abitest all", &[]);
    step.done("");
    let console = console?;
    let output = scenarios::between_marks(&console)?;
    abi_totals(output, console.contains("=== CMD END status=0 ==="))
}

/// One line per case: `ok NAME`, or `not ok NAME: REASON`.
fn abi_totals(output: &str, success: bool) -> Result<Totals> {
    let count = |mark: &str| output.lines().filter(|line| line.starts_with(mark)).count() as u64;
    let totals = Totals { passed: count("ok "), failed: count("not ok ") };
    for line in output.lines().filter(|line| line.starts_with("not ok ")) {
        println!("{line}");
    }
    if totals.failed == 0 && (!success || totals.passed == 0) {
        anyhow::bail!("abitest came to no end:\n{output}");
    }
    Ok(totals)
}

fn run_scenarios(bench: &Arc<Bench>, words: &[String]) -> Totals {
    let wanted =
        SCENARIOS.iter().filter(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(word.as_str())));
    let trials = wanted.map(|(name, scenario)| {
        let bench = Arc::clone(bench);
        Trial::test(*name, move || scenario(&bench).map_err(|error| Failed::from(format!("{error:#}"))))
    });
    // The emulator has a thread for each of its four cores.
    let arguments = Arguments { test_threads: Some(2), ..Arguments::default() };
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    Totals { passed: conclusion.num_passed, failed: conclusion.num_failed }
}

#[cfg(test)]
mod tests {
    use super::{Totals, abi_totals, cargo_test_totals, nextest_totals};

    #[test]
    fn the_totals_of_each_runner_are_read() {
        let nextest = "     Summary [   0.106s] 40 tests run: 38 passed (1 slow), 2 failed, 3 skipped\n";
        assert_eq!(nextest_totals(nextest), Some(Totals { passed: 38, failed: 2 }));
        assert_eq!(nextest_totals("error: could not compile"), None);
        let cargo =
            "test result: ok. 10 passed; 0 failed; 0 ignored\ntest result: FAILED. 3 passed; 1 failed; 0 ignored\n";
        assert_eq!(cargo_test_totals(cargo), Totals { passed: 13, failed: 1 });
    }

    #[test]
    fn an_abi_run_without_an_end_is_an_error() {
        assert_eq!(abi_totals("ok fork\nnot ok exec: errno\n", false).unwrap(), Totals { passed: 1, failed: 1 });
        assert!(abi_totals("ok fork\n", false).is_err());
        assert!(abi_totals("", true).is_err());
    }
}
