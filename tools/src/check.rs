//! `make check`: what a change must pass before it is looked at.

use anyhow::{Context, Result, ensure};
use std::process::Command;

use crate::setup;
use crate::steps;
use crate::unsafe_count;
use crate::workspace::{self, KERNEL_TARGET, USER_TARGET};

/// Runs all checks, also after one failed, and fails with the list of those that did.
pub fn all() -> Result<()> {
    setup::rust_targets()?;
    let clippy = |arguments: &[&str]| {
        let mut words = vec!["clippy"];
        words.extend_from_slice(arguments);
        words.extend(["--", "-D", "warnings"]);
        words.into_iter().map(String::from).collect::<Vec<_>>()
    };
    let checks = [
        ("Checking the formatting", vec!["fmt".into(), "--all".into(), "--check".into()]),
        ("Clippy for this machine", clippy(&["--all-targets"])),
        ("Clippy for the kernel", clippy(&["-p", "drupe", "--target", KERNEL_TARGET])),
        (
            "Clippy for the user programs",
            clippy(&["-p", "init", "-p", "abitest", "-p", "bench", "--target", USER_TARGET]),
        ),
    ];
    let mut failed = Vec::new();
    for (title, arguments) in checks {
        let mut cargo = Command::new("cargo");
        if steps::run(title, cargo.args(arguments).current_dir(workspace::root())).is_err() {
            failed.push(title);
        }
    }
    unsafe_count::check().context("counting unsafe")?;
    ensure!(failed.is_empty(), "failed: {}", failed.join("; "));
    eprintln!("All checks passed.");
    Ok(())
}
