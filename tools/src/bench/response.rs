//! `make bench RESPONSE=1`, and a part of each whole `make bench`: how soon a real-time task runs while the machine is
//! overloaded, and how fast the overload itself is worked off. Debian's rt-tests, unmodified, on both kernels in one run.
//!
//! `hackbench` passes messages among 400 processes; `cyclictest` sleeps a millisecond at a time with SCHED_FIFO and keeps the
//! latest that it woke. Under `-icount` QEMU runs the four cores in turn, and a core that is not on can take no interrupt: that
//! part of the latency both kernels share, and the figures are to be read side by side only.

use anyhow::{Context, Result};

use super::Session;
use crate::debian::RT_TESTS;
use crate::initramfs;
use crate::kernel;
use crate::linux::Linux;
use crate::options::Options;
use crate::setup::Outfit;
use crate::workspace;

/// The second hackbench outlives cyclictest, and ends with the machine.
const PROGRAM: &str = "hackbench -l 100; (hackbench -l 100000 >/dev/null 2>&1 &); sleep 0.3; \
                       cyclictest -m -p80 -i1000 -l10000 -q";
/// The greatest ratio of Drupe's figure to Linux's that is good enough.
const LIMIT: f64 = 0.5;

/// What one kernel showed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Response {
    hackbench_ms: f64,
    average_us: f64,
    longest_us: f64,
}

impl Response {
    /// `Time: 1.139` of hackbench, `T: 0 (  811) P:80 I:1000 C:   2000 Min:  0 Act: 23 Avg: 34 Max: 123` of cyclictest.
    fn parse(console: &str) -> Option<Response> {
        let after = |mark: &str| {
            let (_, rest) = console.rsplit_once(mark)?;
            rest.split_whitespace().next()?.parse::<f64>().ok()
        };
        Some(Response {
            hackbench_ms: after("Time:")? * 1000.0,
            average_us: after("Avg:")?,
            longest_us: after("Max:")?,
        })
    }
}

/// Runs both kernels and makes the table.
pub fn measure(session: &Session, linux: &Linux) -> Result<String> {
    let initrd = workspace::build("rt-tests/initramfs.cpio");
    initramfs::build_at(&session.outfit, Some(&RT_TESTS.root()?), &initrd)?;
    let session = Session { options: session.options, outfit: session.outfit.clone(), initrd, rows: String::new() };
    let image = kernel::image(session.options)?;
    let qemu = session.qemu(&image, &session.outfit, session.options.clone(), "")?;
    let ours = respond(&session, "Drupe's response", qemu)?;
    let outfit = Outfit { device_tree: Some(linux.device_tree.clone()), ..session.outfit.clone() };
    let options = Options { kernel: Some("linux".into()), ..session.options.clone() };
    let qemu = session.qemu(&linux.image, &outfit, options, "")?;
    let theirs = respond(&session, &format!("the response of Linux {}", linux.version), qemu)?;
    Ok(markdown(&theirs, &ours))
}

fn respond(session: &Session, title: &str, qemu: std::process::Command) -> Result<Response> {
    let console = session.show(title, qemu, PROGRAM)?;
    Response::parse(&console).with_context(|| format!("rt-tests printed no figures:\n{console}"))
}

fn markdown(linux: &Response, drupe: &Response) -> String {
    let mut text =
        format!("| {:<46} | {:>8} | {:>8} | {:>6} | {:>8} |        |\n", "", "Linux", "Drupe", "ratio", "to reach");
    text.push_str(&format!("| {} | {1}: | {1}: | -----: | {1}: | -----: |\n", "-".repeat(46), "-".repeat(7)));
    for (title, of, digits) in [
        ("cyclictest beside hackbench, longest wait, µs", (|r| r.longest_us) as fn(&Response) -> f64, 0),
        ("the same, mean, µs", |r| r.average_us, 0),
        ("hackbench, 400 processes, 100 messages each, ms", |r| r.hackbench_ms, 0),
    ] {
        let (theirs, ours) = (of(linux), of(drupe));
        let ratio = ours / theirs.max(f64::MIN_POSITIVE);
        let verdict = if ratio <= LIMIT { "" } else { "missed" };
        text.push_str(&format!(
            "| {title:<46} | {theirs:>8.digits$} | {ours:>8.digits$} | {ratio:>6.3} | {LIMIT:>8.2} | {verdict:>6} |\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Response, markdown};

    #[test]
    fn figures_are_read_from_the_console() {
        let console =
            "Time: 1.139\r\nT: 0 (  811) P:80 I:1000 C:   2000 Min:      0 Act:23647 Avg: 3466 Max:  123214\r\n";
        let expected = Response { hackbench_ms: 1139.0, average_us: 3466.0, longest_us: 123_214.0 };
        assert_eq!(Response::parse(console), Some(expected));
        assert_eq!(Response::parse("Time: 1.139\n"), None);
        let table = markdown(&expected, &Response { longest_us: 100.0, ..expected });
        assert!(table.contains("0.001") && table.matches("missed").count() == 2, "{table}");
    }
}
