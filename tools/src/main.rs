//! The tool behind the Makefile. The Makefile's targets are its commands, the Makefile's variables its options, passed in
//! the environment (`options.rs`).
//!
//! To read: `setup` gets what the machine lacks, `kernel` and `initramfs` build, `qemu` has the one command line, `run`
//! boots for a person or for `CMD`, `machine` drives a console, `scenarios` are the tests on QEMU, `rings` runs all tests,
//! `profile` says where a row of the benchmark spends its instructions.

mod apt;
mod bench;
mod check;
mod cpio;
mod debian;
mod initramfs;
mod kernel;
mod linux;
mod machine;
mod options;
mod profile;
mod qemu;
mod rings;
mod run;
mod scenarios;
mod sdcard;
mod setup;
mod steps;
mod stress;
mod symbols;
mod unsafe_count;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

use crate::options::Options;

#[derive(Parser)]
#[command(about = "Builds, boots and tests Drupe (see `make help`)")]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Gets what this machine lacks
    Setup,
    /// Builds the kernel and the initramfs
    Build,
    /// Boots to a shell, or runs CMD
    Run,
    /// Runs all tests
    Test,
    /// Runs the ABI programs on Debian's Linux
    TestLinux,
    /// Writes down what the tests' script prints on Linux (KERNEL=linux)
    Record,
    /// Measures Drupe beside Linux, row by row
    Bench,
    /// Formatting, clippy, unsafe count
    Check,
    /// Writes the SD card image
    Image,
    /// Boots stopped, with a gdb server
    Debug,
    /// Counts the kernel's instructions, by function, while ROW (or CMD) runs
    Profile,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<u8> {
    let options = Options::from_environment()?;
    match verb {
        Verb::Setup => {
            setup::outfit(&options)?;
        }
        Verb::Build => {
            let outfit = setup::outfit(&options)?;
            kernel::build(options.profile)?;
            initramfs::build(&outfit, options.extra.as_deref())?;
        }
        Verb::Run => return run::run(&options),
        Verb::Test => return rings::all(&options),
        Verb::TestLinux => return rings::on_linux(&options),
        Verb::Bench => return bench::run(&options),
        Verb::Record => rings::record(&options)?,
        Verb::Check => check::all()?,
        Verb::Image => sdcard::make(&options)?,
        Verb::Debug => return run::debug(&options),
        Verb::Profile => return profile::run(&options),
    }
    Ok(0)
}
