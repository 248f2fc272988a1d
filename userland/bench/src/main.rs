//! The benchmark of the process primitives: one static program, run on Linux and on Drupe.
//!
//! `bench` runs every row, `bench ROW...` those whose names are given, `bench --list` lists them. One line per row:
//! `row NAME MEDIAN MIN MAX`, in nanoseconds for one operation, or `row NAME unsupported ERRNO` where the kernel lacks
//! what the row is about. Before it, `marked NAME N` says how many operations lie between the marks. Times are guest time; they mean something only where the clock counts instructions (`make
//! bench`).
//!
//! A row says in its comment what one operation is. Everything runs pinned to CPU 0 unless the row says otherwise.
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "system calls, threads, and memory that Rust knows nothing of")]
mod sys;

mod meter;
mod rows;

use std::process::ExitCode;
use std::time::Duration;

use meter::Meter;
use rows::Row;

/// How long after boot the other processors of either kernel have settled.
const SETTLED: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--list"] {
        rows::all().for_each(|row| println!("{}", row.name));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = words.iter().find(|word| rows::all().all(|row| row.name != word.as_str())) {
        eprintln!("bench: there is no row {unknown:?} (bench --list)");
        return ExitCode::from(2);
    }
    if let Err(errno) = sys::pin(0) {
        eprintln!("bench: cannot stay on CPU 0: {errno}");
        return ExitCode::FAILURE;
    }
    std::thread::sleep(SETTLED.saturating_sub(sys::since_boot()));
    for row in rows::all().filter(|row| words.is_empty() || words.iter().any(|word| word == row.name)) {
        run(row);
    }
    ExitCode::SUCCESS
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
