//! The benchmark of the process primitives: one static program, run on Linux and on Drupe.
//!
//! `bench` runs every row, `bench ROW...` those whose names are given, `bench --list` lists them. `bench --growth` runs
//! other rows, which show how costs grow with memory and with tasks. One line per row: `row NAME MEDIAN MIN MAX`, in
//! nanoseconds for one operation, or `row NAME unsupported ERRNO` where the kernel lacks what the row is about. Before it,
//! `marked NAME N` says how many operations lie between the marks. Times are guest time; they mean something only where
//! the clock counts instructions (`make bench`).
//!
//! `bench --boot`, run as the first thing of a shell, tells how the boot went: `boot NS` since the machine started, and
//! `memory TOTAL FREE`, in KiB, as `/proc/meminfo` has them. `bench --scaling` is about two CPUs at once.
//!
//! A row says in its comment what one operation is. Everything runs pinned to CPU 0 unless the row says otherwise.
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "system calls, threads, and memory that Rust knows nothing of")]
mod sys;

mod meter;
mod rows;
mod scaling;

use std::process::ExitCode;
use std::time::Duration;

use meter::Meter;
use rows::Row;

/// How long after boot the other processors of either kernel have settled.
const SETTLED: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&Row> = match words.as_slice() {
        [] => rows::all().collect(),
        [option] if option == "--growth" => rows::growth().collect(),
        [option] if option == "--scaling" => {
            return match scaling::run() {
                Ok(()) => ExitCode::SUCCESS,
                Err(errno) => {
                    eprintln!("bench: {errno}");
                    ExitCode::FAILURE
                }
            };
        }
        [option] if option == "--boot" => {
            boot();
            return ExitCode::SUCCESS;
        }
        [option] if option == "--list" => {
            rows::all().for_each(|row| println!("{}", row.name));
            return ExitCode::SUCCESS;
        }
        names => match names.iter().map(named).collect() {
            Ok(rows) => rows,
            Err(unknown) => {
                eprintln!("bench: there is no row {unknown:?} (bench --list)");
                return ExitCode::from(2);
            }
        },
    };
    if let Err(errno) = sys::pin(0) {
        eprintln!("bench: cannot stay on CPU 0: {errno}");
        return ExitCode::FAILURE;
    }
    std::thread::sleep(SETTLED.saturating_sub(sys::since_boot()));
    wanted.into_iter().for_each(run);
    ExitCode::SUCCESS
}

fn named(name: &String) -> Result<&'static Row, &String> {
    rows::all().chain(rows::growth()).find(|row| row.name == *name).ok_or(name)
}

/// The clock is read first.
fn boot() {
    println!("boot {}", sys::since_power_on());
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).unwrap_or("0").to_string()
    };
    println!("memory {} {}", field("MemTotal:"), field("MemFree:"));
}

fn run(row: &Row) {
    let mut meter = Meter::default();
    match (row.run)(&mut meter) {
        Ok(()) => {
            println!("marked {} {}", row.name, meter.marked());
            let summary = meter.summary();
            println!("row {} {} {} {}", row.name, summary.median, summary.min, summary.max);
        }
        Err(errno) => println!("row {} unsupported {}", row.name, errno.0),
    }
}
