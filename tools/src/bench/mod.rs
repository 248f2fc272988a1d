//! `make bench`: the same benchmark program on Debian's Linux and on Drupe, on the same machine, side by side.
//!
//! Time is counted in instructions (`-icount`), so a figure is the same in every run, whatever else the host does. Linux
//! runs as Debian ships it and once more without what Drupe does not have either; the faster of the two is what Drupe is
//! held against. With `BASELINE` another image of Drupe takes the place of Linux, to judge a change; with `SCALING` two
//! cores are held against one ([`scaling`]); with `RESPONSE` only the real-time part runs ([`response`]).

mod boot;
mod chart;
mod figures;
mod growth;
mod report;
mod response;
mod rows;
mod scaling;
mod table;

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::apt::Release;
use crate::initramfs::{self, Overlay};
use crate::kernel;
use crate::linux::Linux;
use crate::machine::Machine;
use crate::options::{Icount, Options};
use crate::qemu::{self, Console};
use crate::run::COMMAND_FILE;
use crate::scenarios::Scratch;
use crate::setup::{self, Outfit};
use crate::steps::Step;
use crate::workspace::{self, Profile};
use boot::Boot;
use figures::Figures;
use report::Report;
use table::{Comparison, Goals};

/// Switched off for the second run of Linux: Drupe has none of it.
const PLAIN_LINUX: &str = "nokaslr randomize_kstack_offset=off mitigations=off init_on_alloc=0 audit=0 lsm=";
/// Each boot ends within this time, however busy the host is.
const TIME: Duration = Duration::from_secs(900);

/// Runs all, or the rows in `ROW`, prints the tables and saves them.
pub fn run(options: &Options) -> Result<u8> {
    ensure!(options.profile == Profile::Release, "BUILD=debug: a debug build is not what is measured");
    let session = Session::new(options)?;
    if options.scaling {
        println!("{}", scaling::measure(&session)?);
    } else if options.response {
        println!("{}", response::measure(&session, &Linux::get(Release::Backports)?)?);
    } else if let Some(baseline) = &options.baseline {
        println!("{}", beside_baseline(&session, baseline)?);
    } else {
        let report = beside_linux(&session)?;
        println!("{}", report.tables());
        std::fs::write(workspace::build("bench.md"), report.page()?)?;
        std::fs::write(workspace::build("bench.svg"), &report.chart)?;
        if options.record {
            ensure!(session.is_whole(), "RECORD=1: all rows belong into the tree, not only those of ROW");
            report.record()?;
        }
    }
    Ok(0)
}

/// Two images of Drupe.
fn beside_baseline(session: &Session, baseline: &Path) -> Result<String> {
    let before = session.drupe(baseline, "the baseline")?;
    let after = session.drupe(&kernel::image(session.options)?, "this tree")?;
    let names = ["baseline, ns".to_string(), "this tree, ns".to_string()];
    let mut text = Comparison::new(names, &before.figures, &after.figures, Goals::Hidden).markdown();
    if session.is_whole() {
        text.push_str(&format!("\n{}", growth::markdown(["baseline", "this tree"], &before.figures, &after.figures)));
    }
    Ok(text)
}

fn beside_linux(session: &Session) -> Result<Report> {
    let mut ours = session.drupe(&kernel::image(session.options)?, "Drupe")?;
    if let (Some(boot), None) = (&mut ours.boot, &session.options.kernel) {
        boot.text_kib = Some(kernel::text_bytes(session.options.profile)? / 1024);
    }
    let linux = Linux::get(Release::Backports)?;
    let shipped = session.linux(&linux, "")?;
    let plain = session.linux(&linux, PLAIN_LINUX)?;
    let names = [format!("Linux {}, ns", linux.version.split('+').next().unwrap_or_default()), "Drupe, ns".to_string()];
    let comparison = Comparison::new(names, &shipped.figures.faster(&plain.figures), &ours.figures, Goals::Shown);
    let response = session.is_whole().then(|| response::measure(session, &linux)).transpose()?;
    Ok(Report {
        response,
        rows: comparison.markdown(),
        chart: chart::svg(&comparison),
        growth: session.is_whole().then(|| growth::markdown(["Linux", "Drupe"], &plain.figures, &ours.figures)),
        boot: plain.boot.zip(ours.boot).map(|(linux, drupe)| boot::markdown(&linux, &drupe)),
        commands: [shipped.command, plain.command, ours.command],
    })
}

/// What all boots have in common.
struct Session<'a> {
    options: &'a Options,
    outfit: Outfit,
    initrd: PathBuf,
    /// The rows to run: none for all.
    rows: String,
}

/// What one boot showed.
struct Run {
    figures: Figures,
    boot: Option<Boot>,
    /// QEMU's command line.
    command: String,
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

    /// Whether all is measured, and not only some rows.
    fn is_whole(&self) -> bool {
        self.rows.is_empty()
    }

    fn drupe(&self, image: &Path, title: &str) -> Result<Run> {
        let qemu = self.qemu(image, &self.outfit, self.options.clone(), "")?;
        self.measure(title, qemu, true)
    }

    /// How costs grow is told by the plain one alone, which is the faster.
    fn linux(&self, linux: &Linux, settings: &str) -> Result<Run> {
        let title = format!("Linux {}{}", linux.version, if settings.is_empty() { "" } else { ", plain" });
        let outfit = Outfit { device_tree: Some(linux.device_tree.clone()), ..self.outfit.clone() };
        let options = Options { kernel: Some("linux".into()), ..self.options.clone() };
        let qemu = self.qemu(&linux.image, &outfit, options, settings)?;
        self.measure(&title, qemu, !settings.is_empty())
    }

    fn qemu(&self, image: &Path, outfit: &Outfit, options: Options, settings: &str) -> Result<Command> {
        let options = Options { icount: Icount::Instructions, ..options };
        let mut boot = qemu::Boot::new(image, &self.initrd);
        boot.command_line.push_str(format!(" loglevel=4 {settings}").trim_end());
        Ok(boot.command(outfit, &options, Console::Pipes))
    }

    fn measure(&self, title: &str, qemu: Command, with_growth: bool) -> Result<Run> {
        let mut program = "/usr/bin/bench --boot; dmesg | grep 'kernel code'; /usr/bin/bench".to_string();
        if !self.is_whole() {
            program = format!("/usr/bin/bench {}", self.rows);
        } else if with_growth {
            program.push_str("; /usr/bin/bench --growth");
        }
        let command = report::words(&qemu);
        let console = self.show(title, qemu, &program)?;
        let figures = Figures::parse(&console);
        ensure!(!figures.is_empty(), "the benchmark printed no figures:\n{console}");
        Ok(Run { figures, boot: Boot::parse(&console), command })
    }

    /// Boots, runs a shell command, and shows its lines as they come.
    fn show(&self, title: &str, mut qemu: Command, program: &str) -> Result<String> {
        let step = Step::start(&format!("Measuring {title}"));
        let initrd = Scratch::new("bench.cpio");
        initramfs::append(&self.initrd, &[Overlay::new(COMMAND_FILE, format!("{program}\n"))], initrd.path())?;
        // The last of two counts.
        qemu.arg("-initrd").arg(initrd.path());
        let mut machine = Machine::start(qemu, TIME)?;
        machine.close_input();
        let mut console = String::new();
        while !console.contains("=== CMD END status=") {
            let line = machine.expect("\n")?;
            step.note(&line);
            console.push_str(&line);
            console.push('\n');
        }
        step.done("");
        Ok(console)
    }
}
