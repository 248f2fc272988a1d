//! The ABI programs of Drupe: what the manual pages promise, case by case.
//!
//! `abitest FAMILY...` runs families, `abitest all` every one, `abitest FAMILY NAME` what is named like that;
//! `abitest list` lists. Each case prints `ok FAMILY name` or `not ok FAMILY name: why`; the last line has the totals, and
//! the exit status is 1 when a case failed. `abitest fuzz N SEED` makes N system calls at random in a child.
//!
//! The same source runs on a PC (`cargo run -p abitest -- all`), where Linux itself is the judge of the cases, under
//! qemu-user, and on Drupe. What qemu-user is known to do otherwise is skipped when `ABITEST_QEMU_USER` is set.
#![deny(unsafe_code)]
#![expect(clippy::wildcard_imports, reason = "a family speaks of dozens of Linux's constants")]

#[expect(unsafe_code, reason = "system calls, and memory that Rust knows nothing of")]
mod kernel;

mod bad;
mod case;
mod cow;
mod creds;
mod exec;
mod file;
mod fork;
mod futex;
mod fuzz;
mod mmap;
mod pgrp;
mod pipe;
mod poll;
mod signal;
mod time;
mod tty;
mod wait;

use case::Case;

const FAMILIES: &[(&str, &[Case])] = &[
    ("fork", fork::CASES),
    ("cow", cow::CASES),
    ("exec", exec::CASES),
    ("wait", wait::CASES),
    ("signal", signal::CASES),
    ("pgrp", pgrp::CASES),
    ("mmap", mmap::CASES),
    ("pipe", pipe::CASES),
    ("file", file::CASES),
    ("futex", futex::CASES),
    ("time", time::CASES),
    ("poll", poll::CASES),
    ("creds", creds::CASES),
    ("tty", tty::CASES),
    ("bad", bad::CASES),
];

/// What qemu-user 7.2 does unlike Linux: it has no vfork and no clone but fork and pthread_create, runs only what binfmt_misc
/// knows, and keeps signals and mappings of its own.
const QEMU_USER_DIFFERS: &[&str] = &[];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if std::env::var_os("ABITEST_EMPTY").is_some() {
        std::process::exit(if arguments == [""] { 77 } else { 1 });
    }
    // std ignores it, and an ignored signal is inherited by every case.
    let _ = kernel::sigaction(kernel::SIGPIPE, kernel::SIG_DFL, 0, 0);
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let status = match words.as_slice() {
        [] => usage(),
        [command, ..] if command.starts_with("helper:") => exec::helper(&arguments),
        ["list"] => list(),
        ["fuzz", number, seed] => match (number.parse(), seed.parse()) {
            (Ok(number), Ok(seed)) => fuzz::run(number, seed),
            _ => usage(),
        },
        ["all"] => run(FAMILIES, ""),
        [family, name] if find(family).is_some() && find(name).is_none() => {
            run(&[find(family).unwrap_or_default()], name)
        }
        names => match names.iter().map(|name| find(name)).collect::<Option<Vec<_>>>() {
            Some(families) => run(&families, ""),
            None => usage(),
        },
    };
    std::process::exit(status);
}

fn find(name: &str) -> Option<(&'static str, &'static [Case])> {
    FAMILIES.iter().copied().find(|(family, _)| *family == name)
}

fn usage() -> i32 {
    let families: Vec<&str> = FAMILIES.iter().map(|(family, _)| *family).collect();
    eprintln!("usage: abitest all | FAMILY... | FAMILY NAME | list | fuzz N SEED\nfamilies: {}", families.join(" "));
    2
}

fn list() -> i32 {
    for (family, cases) in FAMILIES {
        for (name, _) in *cases {
            println!("{family} {name}");
        }
    }
    0
}

/// Runs the cases of `families` whose names contain `part`.
fn run(families: &[(&'static str, &'static [Case])], part: &str) -> i32 {
    let emulated = std::env::var_os("ABITEST_QEMU_USER").is_some();
    let directory = std::env::temp_dir().join(format!("abitest.{}", std::process::id())).display().to_string();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (family, cases) in families {
        for (name, function) in cases.iter().filter(|(name, _)| name.contains(part)) {
            if emulated && (*family == "exec" || QEMU_USER_DIFFERS.contains(name)) {
                println!("skip {family} {name}: qemu-user is not Linux here");
                skipped += 1;
                continue;
            }
            match case::run(*function, &directory) {
                Ok(()) => {
                    println!("ok {family} {name}");
                    passed += 1;
                }
                Err(why) => {
                    println!("not ok {family} {name}: {why}");
                    failed += 1;
                }
            }
        }
    }
    if skipped > 0 {
        println!("abitest: {skipped} skipped");
    }
    println!("abitest: {passed} passed, {failed} failed");
    (failed > 0).into()
}
