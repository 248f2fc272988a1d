//! Steps that take time say so: with a spinner on a terminal, with plain lines elsewhere, and with all that the failing
//! program printed when one fails.

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A step that is under way.
pub struct Step {
    title: String,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    pub fn start(title: &str) -> Step {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {prefix} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(title.to_string());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Step { title: title.to_string(), since: Instant::now(), bar }
    }

    /// The latest line of the program behind the step.
    pub fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.trim().to_string());
        }
    }

    /// Ends the step with its line. What was quick and has nothing to say is not worth one.
    pub fn done(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.since.elapsed().as_secs_f32();
        match result {
            "" if seconds < 0.7 => {}
            "" => eprintln!("{} ({seconds:.1} s)", self.title),
            _ => eprintln!("{}: {result} ({seconds:.1} s)", self.title),
        }
    }
}

/// Runs a program as one step. Its output is shown when it fails.
pub fn run(title: &str, command: &mut Command) -> Result<()> {
    capture(title, command).map(|_| ())
}

/// As [`run`], and hands back what the program printed on both outputs.
pub fn capture(title: &str, command: &mut Command) -> Result<String> {
    let step = Step::start(title);
    let (output, success) = watch(command, |line| step.note(line))?;
    if !success {
        if let Some(bar) = &step.bar {
            bar.finish_and_clear();
        }
        eprint!("{output}");
        bail!("{title} failed ({})", words(command));
    }
    step.done("");
    Ok(output)
}

/// Runs a program, calls `line` for each line it prints, and returns all of them and whether it succeeded.
pub fn watch(command: &mut Command, line: impl Fn(&str) + Sync) -> Result<(String, bool)> {
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.with_context(|| format!("cannot run {}", words(command)))?;
    let output = Arc::new(Mutex::new(String::new()));
    let streams: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|s| Box::new(s) as _), child.stderr.take().map(|s| Box::new(s) as _)];
    thread::scope(|scope| {
        for stream in streams.into_iter().flatten() {
            scope.spawn(|| copy_lines(stream, &output, &line));
        }
    });
    let status = child.wait()?;
    let text = output.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((text, status.success()))
}

fn copy_lines(stream: Box<dyn Read + Send>, output: &Mutex<String>, line: &(impl Fn(&str) + Sync)) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&bytes);
        line(text.trim_end());
        output.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
        bytes.clear();
    }
}

/// A program's standard output, without a step: for quick questions.
pub fn ask(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", words(command)))?;
    if !output.status.success() {
        bail!("{} failed: {}", words(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn words(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
