//! `make bench`: the same benchmark program on Debian's Linux and on Drupe, on the same machine, side by side.
//!
//! Time is counted in instructions (`-icount`), so a figure is the same in every run, whatever else the host does. Linux
//! runs as Debian ships it and once more without what Drupe does not have either; the faster of the two is what Drupe is
//! held against.

mod figures;
mod rows;
mod table;

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

use crate::apt::Release;
use crate::initramfs::{self, Overlay};
use crate::kernel;
use crate::linux::Linux;
use crate::machine::Machine;
use crate::options::{Icount, Options};
use crate::qemu::{Boot, Console};
use crate::run::COMMAND_FILE;
use crate::scenarios::Scratch;
use crate::setup::{self, Outfit};
use crate::steps::Step;
use crate::workspace::{self, Profile};
use figures::Figures;
use table::Comparison;

/// Switched off for the second run of Linux: Drupe has none of it.
const PLAIN_LINUX: &str = "nokaslr randomize_kstack_offset=off mitigations=off init_on_alloc=0 audit=0 lsm=";
/// Where the table is saved.
const TABLE: &str = "bench.md";

/// Runs all, or the rows in `ROW`, prints the table and saves it.
pub fn run(options: &Options) -> Result<u8> {
    ensure!(options.profile == Profile::Release, "BUILD=debug: a debug build is not what is measured");
    let session = Session::new(options)?;
    let ours = session.drupe(&kernel::image(options)?, "Drupe")?;
    let linux = Linux::get(Release::Backports)?;
    let shipped = session.linux(&linux, "")?;
    let plain = session.linux(&linux, PLAIN_LINUX)?;
    let names = [format!("Linux {}, ns", linux.version), "Drupe, ns".to_string()];
    let text = Comparison::new(names, &shipped.faster(&plain), &ours).markdown();
    println!("{text}");
    std::fs::write(workspace::build(TABLE), &text)?;
    Ok(0)
}

/// What all boots have in common.
struct Session<'a> {
    options: &'a Options,
    outfit: Outfit,
    initrd: PathBuf,
    /// The rows to run: none for all.
    rows: String,
}

impl<'a> Session<'a> {
    fn new(options: &'a Options) -> Result<Session<'a>> {
        let rows = options.row.clone().unwrap_or_default();
        for row in rows.split_whitespace() {
            ensure!(rows::ROWS.iter().any(|known| known.name == row), "ROW={row}: there is no such row");
        }
        let outfit = setup::outfit(options)?;
        let initrd = initramfs::build(&outfit, options.extra.as_deref())?;
        Ok(Session { options, outfit, initrd, rows })
    }

    fn drupe(&self, image: &Path, title: &str) -> Result<Figures> {
        self.boot(title, image, &self.outfit, self.options.clone(), "")
    }

    fn linux(&self, linux: &Linux, settings: &str) -> Result<Figures> {
        let title = format!("Linux {}{}", linux.version, if settings.is_empty() { "" } else { ", plain" });
        let outfit = Outfit { device_tree: Some(linux.device_tree.clone()), ..self.outfit.clone() };
        let options = Options { kernel: Some("linux".into()), ..self.options.clone() };
        self.boot(&title, &linux.image, &outfit, options, settings)
    }

    /// Boots, runs the program, and shows its lines as they come.
    fn boot(&self, title: &str, image: &Path, outfit: &Outfit, options: Options, settings: &str) -> Result<Figures> {
        let step = Step::start(&format!("Measuring {title}"));
        let options = Options { icount: Icount::Instructions, ..options };
        let initrd = Scratch::new("bench.cpio");
        let command = format!("/usr/bin/bench {}\n", self.rows);
        initramfs::append(&self.initrd, &[Overlay::new(COMMAND_FILE, command)], initrd.path())?;
        let mut boot = Boot::new(image, initrd.path());
        boot.command_line.push_str(&format!(" loglevel=4 {settings}"));
        let mut machine = Machine::start(boot.command(outfit, &options, Console::Pipes), options.timeout)?;
        machine.close_input();
        let mut console = String::new();
        while !console.contains("=== CMD END status=") {
            let line = machine.expect("\n")?;
            step.note(&line);
            console.push_str(&line);
            console.push('\n');
        }
        let figures = Figures::parse(&console);
        ensure!(!figures.is_empty(), "the benchmark printed no figures:\n{console}");
        step.done("");
        Ok(figures)
    }
}
