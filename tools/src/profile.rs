//! `make profile`: where a row of the benchmark, or any command, spends the kernel's instructions.
//!
//! QEMU runs with the plugin `tools/profile/plugin.c`, which counts each instruction between the marks that the benchmark
//! sets, so the figures are exact and the same in every run. The counts are joined with the symbols of the kernel, and
//! with its line table, which knows what was inlined where: after link-time optimisation the name of the function that an
//! address lies in says little.

use addr2line::Loader;
use anyhow::{Context, Result, anyhow, ensure};
use goblin::elf::Elf;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kernel;
use crate::options::{Icount, Options};
use crate::run::{self, Ending};
use crate::steps;
use crate::symbols;
use crate::workspace;

/// How many lines each table has.
const LINES: usize = 40;
/// How many functions that were inlined into each other are shown beside an instruction.
const FRAMES: usize = 3;

/// Runs `ROW` or `CMD` under the plugin and prints the tables. Returns the command's status.
pub fn run(options: &Options) -> Result<u8> {
    let command = match (&options.row, &options.command) {
        (Some(row), _) => format!("bench {row}"),
        (None, Some(command)) => command.clone(),
        (None, None) => return Err(anyhow!("what to profile? Give ROW=fork (a row of the benchmark) or CMD='...'")),
    };
    ensure!(options.kernel.is_none(), "KERNEL: only the kernel of this tree has the symbols that the profile needs");
    let counts = workspace::build("profile.counts");
    let mut options = options.clone();
    options.icount = Icount::Instructions;
    let plugin = plugin()?;
    options.qemu_args.extend(["-plugin".into(), format!("{},out={}", plugin.display(), counts.display())]);
    let (outfit, boot) = run::prepare(&options)?;
    let outcome = run::run_command(&outfit, &options, boot, &command, Ending::PowerOff)?;
    ensure!(outcome.status == 0, "{command:?} exited with {}", outcome.status);
    let text = fs::read_to_string(&counts).with_context(|| counts.display().to_string())?;
    let profile = Profile::new(&text, &kernel::elf(options.profile), operations(&outcome.output))?;
    ensure!(options.row.is_none() || profile.windows > 0, "the row set no marks, so nothing was measured");
    match &options.function {
        Some(name) => profile.print_instructions(name)?,
        None => profile.print_functions()?,
    }
    Ok(0)
}

/// The benchmark says how many operations lie between its marks.
fn operations(output: &str) -> Option<u64> {
    let numbers =
        output.lines().filter_map(|line| line.strip_prefix("marked ")?.rsplit(' ').next()?.parse::<u64>().ok());
    Some(numbers.sum()).filter(|sum| *sum > 0)
}

/// Builds the plugin when it is older than its source.
fn plugin() -> Result<PathBuf> {
    let source = workspace::root().join("tools/profile/plugin.c");
    let plugin = workspace::build("host/profile.so");
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    if changed(&plugin).ok() < changed(&source).ok() {
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-shared", "-fPIC", "-o"]).arg(&plugin).arg(&source);
        steps::run("Building the QEMU plugin", &mut cc)?;
    }
    Ok(plugin)
}

/// What the plugin counted of one instruction.
struct Instruction {
    address: u64,
    count: u64,
    text: String,
}

/// The counts of one run, and the kernel that they belong to.
struct Profile {
    /// By address.
    kernel: Vec<Instruction>,
    /// Instructions of programs.
    user: u64,
    /// How often counting began; 0 when the program set no marks.
    windows: u64,
    /// How many operations were counted, when the benchmark said so.
    operations: Option<u64>,
    /// Start and name, by start.
    functions: Vec<(u64, String)>,
    lines: Loader,
}

/// One line of a table.
#[derive(Default)]
struct Share {
    instructions: u64,
    calls: u64,
}

impl Profile {
    fn new(counts: &str, elf: &Path, operations: Option<u64>) -> Result<Profile> {
        let bytes = fs::read(elf)?;
        let parsed = Elf::parse(&bytes)?;
        let start = symbols::address(&parsed, "__kernel_start").map_err(|reason| anyhow!(reason))?;
        let functions = symbols::functions(&parsed).map_err(|reason| anyhow!(reason))?;
        let functions = functions.into_iter().map(|(offset, name)| (start + u64::from(offset), name)).collect();
        let lines = Loader::new(elf).map_err(|error| anyhow!("{}: {error}", elf.display()))?;
        let mut profile = Profile { kernel: Vec::new(), user: 0, windows: 0, operations, functions, lines };
        for line in counts.lines() {
            let mut words = line.splitn(3, ' ');
            let (key, count) = (words.next().unwrap_or(""), words.next().unwrap_or("").parse().context("a count")?);
            match key {
                "windows" => profile.windows = count,
                "user" => profile.user = count,
                _ => profile.kernel.push(Instruction {
                    address: u64::from_str_radix(key, 16).with_context(|| format!("address {key}"))?,
                    count,
                    text: words.next().unwrap_or("").to_string(),
                }),
            }
        }
        profile.kernel.sort_by_key(|instruction| instruction.address);
        Ok(profile)
    }

    fn function(&self, address: u64) -> (u64, &str) {
        let after = self.functions.partition_point(|(start, _)| *start <= address);
        after.checked_sub(1).map_or((0, "(outside of the kernel)"), |i| (self.functions[i].0, &self.functions[i].1))
    }

    /// The functions that `address` was inlined from, the innermost first, each with its place.
    fn frames(&self, address: u64) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let Ok(mut frames) = self.lines.find_frames(address) else {
            return found;
        };
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|name| name.demangle().ok());
            let place = frame.location.map(|place| {
                let file = place.file.unwrap_or("?");
                let file = file.strip_prefix(&format!("{}/", workspace::root().display())).unwrap_or(file);
                format!("{}:{}", file.rsplit_once("/library/").map_or(file, |(_, file)| file), place.line.unwrap_or(0))
            });
            let name = name.map_or_else(String::new, |name| without_hash(&name));
            found.push((name, place.unwrap_or_default()));
        }
        found
    }

    /// The innermost of our own functions at `address`, which lies in `function`, and its file: what it calls of the
    /// libraries is its own cost.
    fn written(&self, address: u64, function: &str) -> String {
        let ours = self.frames(address).into_iter().find(|(_, place)| place.starts_with("kernel/"));
        ours.map_or_else(
            || function.to_string(),
            |(name, place)| format!("{} ({})", short(&name), place.rsplit_once(':').map_or(&*place, |(file, _)| file)),
        )
    }

    /// Where `address` comes from: our innermost functions there, from the inside out, or the library's when none is ours.
    fn place(&self, address: u64) -> String {
        let frames = self.frames(address);
        let first = frames.iter().position(|(_, place)| place.starts_with("kernel/")).unwrap_or(0);
        let frames = frames.iter().skip(first).take(FRAMES);
        let frames = frames.map(|(name, place)| format!("{} {}", place.trim_start_matches("kernel/"), short(name)));
        frames.collect::<Vec<_>>().join(" < ")
    }

    fn total(&self) -> u64 {
        self.kernel.iter().map(|instruction| instruction.count).sum()
    }

    fn print_functions(&self) -> Result<()> {
        let mut functions: HashMap<&str, Share> = HashMap::new();
        let mut inlined: HashMap<String, Share> = HashMap::new();
        for instruction in &self.kernel {
            let (start, name) = self.function(instruction.address);
            let share = functions.entry(name).or_default();
            share.instructions += instruction.count;
            if instruction.address == start {
                share.calls += instruction.count;
            }
            inlined.entry(self.written(instruction.address, name)).or_default().instructions += instruction.count;
        }
        let total = self.total();
        println!("\n{:>6} {:>13} {:>10}  function", "share", "instructions", "calls");
        for (name, share) in hottest(functions) {
            let (instructions, calls) = (self.per_operation(share.instructions), self.per_operation(share.calls));
            println!("{} {instructions:>13} {calls:>10}  {name}", percent(share.instructions, total));
        }
        println!("\nThe same by our innermost function, wherever it was inlined:");
        println!("{:>6} {:>13}  function", "share", "instructions");
        for (name, share) in hottest(inlined) {
            println!("{} {:>13}  {name}", percent(share.instructions, total), self.per_operation(share.instructions));
        }
        self.print_totals();
        Ok(())
    }

    /// Each instruction of the functions whose names contain `name`, with its place in the source where that changes.
    fn print_instructions(&self, name: &str) -> Result<()> {
        let total = self.total();
        let mut last_function = 0;
        let mut last_place = String::new();
        for instruction in &self.kernel {
            let (start, function) = self.function(instruction.address);
            if !function.contains(name) {
                continue;
            }
            if start != last_function {
                println!("\n{function}");
                last_function = start;
            }
            let place = self.place(instruction.address);
            let shown = if place == last_place { "" } else { &place };
            println!(
                "{} {:>10} {:x}  {:<44} {shown}",
                percent(instruction.count, total),
                self.per_operation(instruction.count),
                instruction.address,
                instruction.text
            );
            last_place = place;
        }
        ensure!(last_function != 0, "FUNCTION={name}: no instruction of such a function was executed");
        self.print_totals();
        Ok(())
    }

    /// A count as it is shown.
    fn per_operation(&self, count: u64) -> String {
        match self.operations {
            Some(operations) => format!("{:.1}", count as f64 / operations as f64),
            None => count.to_string(),
        }
    }

    fn print_totals(&self) {
        let of_all = match (self.operations, self.windows) {
            (Some(operations), _) => format!("for one operation (the mean of {operations})"),
            (None, 0) => "in the whole run (the program set no marks)".to_string(),
            (None, windows) => format!("between {windows} pairs of marks"),
        };
        let (kernel, user) = (self.per_operation(self.total()), self.per_operation(self.user));
        println!("\n{kernel} instructions in the kernel and {user} in programs {of_all}");
    }
}

fn hottest<Name: Ord>(shares: HashMap<Name, Share>) -> Vec<(Name, Share)> {
    let mut shares: Vec<_> = shares.into_iter().collect();
    shares.sort_by(|(name, share), (other_name, other)| {
        other.instructions.cmp(&share.instructions).then_with(|| name.cmp(other_name))
    });
    shares.truncate(LINES);
    shares
}

fn percent(part: u64, total: u64) -> String {
    format!("{:5.1}%", part as f64 * 100.0 / total.max(1) as f64)
}

/// `a::b::h0123456789abcdef` is `a::b`.
fn without_hash(name: &str) -> String {
    match name.rsplit_once("::h") {
        Some((rest, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => rest.to_string(),
        _ => name.to_string(),
    }
}

/// The last part of a path, without the parameters of types: enough beside a file and a line.
fn short(name: &str) -> &str {
    let name = name.split('<').find(|part| !part.is_empty()).unwrap_or(name).trim_end_matches("::");
    name.rsplit("::").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::{short, without_hash};

    #[test]
    fn a_name_loses_its_hash_and_nothing_else() {
        assert_eq!(without_hash("kcore::mm::fault::h0123456789abcdef"), "kcore::mm::fault");
        assert_eq!(without_hash("kcore::hello"), "kcore::hello");
    }

    #[test]
    fn the_last_part_of_a_path_is_its_short_name() {
        assert_eq!(short("kcore::mm::fault"), "fault");
        assert_eq!(short("core::ptr::drop_in_place<alloc::sync::Arc<T>>"), "drop_in_place");
    }
}
