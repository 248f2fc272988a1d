//! A booted machine whose console a program reads and types on.
//!
//! [`Machine::expect`] waits for a text and [`Machine::send`] types. Each machine has one deadline for its whole life, and
//! a kernel panic or a report of the lock checker fails whatever waits. An error shows the whole console.

use anyhow::{Context, Result, anyhow, bail};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What no console may show.
const DISASTERS: [&str; 2] = ["Kernel panic", "lockdep:"];
/// The rest of a report follows within this time.
const REPORT_TIME: Duration = Duration::from_millis(1500);

#[derive(Default)]
struct Transcript {
    bytes: Vec<u8>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    transcript: Mutex<Transcript>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Transcript> {
        self.transcript.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a wait ended without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Panic,
    Deadline,
    /// The emulator ended.
    Ended,
}

/// A running QEMU. It is ended with the value.
pub struct Machine {
    child: Child,
    input: Option<ChildStdin>,
    shared: Arc<Shared>,
    /// What lies before was seen by an `expect`.
    seen: usize,
    deadline: Instant,
    /// Numbers the marks of `run`, so that an old one is never taken for a new one.
    runs: u32,
}

impl Machine {
    /// Starts the emulator; `time` is how long it may live.
    pub fn start(mut command: Command, time: Duration) -> Result<Machine> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let input = child.stdin.take();
        let shared = Arc::new(Shared::default());
        let output = child.stdout.take().context("no output")?;
        let errors = child.stderr.take().context("no error output")?;
        let readers = [copy(output, &shared), copy(errors, &shared)];
        let watched = Arc::clone(&shared);
        thread::spawn(move || {
            readers.into_iter().for_each(|reader| drop(reader.join()));
            watched.lock().closed = true;
            watched.changed.notify_all();
        });
        Ok(Machine { child, input, shared, seen: 0, deadline: Instant::now() + time, runs: 0 })
    }

    /// Types bytes as they are: `\r` is the Enter key.
    pub fn send(&mut self, text: impl AsRef<[u8]>) -> Result<()> {
        let input = self.input.as_mut().context("the console's input is closed")?;
        input.write_all(text.as_ref()).and_then(|()| input.flush()).context("the machine takes no input")
    }

    /// Types a line and Enter.
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.send(format!("{text}\r"))
    }

    /// Closes the console's input, as `<&-` does.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until the console shows `text` and returns what came before it.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        match self.wait_for(text) {
            Ok(before) => Ok(before),
            Err(failure) => Err(self.complaint(&format!("{failure:?} while waiting for {text:?}"))),
        }
    }

    /// As [`Machine::expect`], but says only what happened.
    pub fn wait_for(&mut self, text: &str) -> std::result::Result<String, Failure> {
        let shared = Arc::clone(&self.shared);
        let mut transcript = shared.lock();
        loop {
            let fresh = &transcript.bytes[self.seen..];
            if let Some(at) = find(fresh, text.as_bytes()) {
                let before = String::from_utf8_lossy(&fresh[..at]).into_owned();
                self.seen += at + text.len();
                return Ok(before);
            }
            // Who waits for a panic must not be surprised by its first words.
            if DISASTERS.iter().any(|word| !text.contains(word) && find(fresh, word.as_bytes()).is_some()) {
                drop(transcript);
                thread::sleep(REPORT_TIME);
                return Err(Failure::Panic);
            }
            if transcript.closed {
                return Err(Failure::Ended);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Deadline);
            }
            transcript = shared.changed.wait_timeout(transcript, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for more output and hands over all that is new. `None`: the machine ended.
    pub fn more(&mut self) -> std::result::Result<Option<String>, Failure> {
        let shared = Arc::clone(&self.shared);
        let mut transcript = shared.lock();
        loop {
            let fresh = &transcript.bytes[self.seen..];
            if !fresh.is_empty() {
                let text = String::from_utf8_lossy(fresh).into_owned();
                self.seen = transcript.bytes.len();
                return Ok(Some(text));
            }
            if transcript.closed {
                return Ok(None);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Deadline);
            }
            transcript = shared.changed.wait_timeout(transcript, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs a command in the shell at the prompt and returns its status and output, with Unix line ends.
    pub fn run(&mut self, command: &str) -> Result<(i32, String)> {
        self.runs += 1;
        let n = self.runs;
        // The echo of this line shows `%s`, so it is not taken for the marks.
        self.line(&format!("printf '%s{n}\\n' '<<''BEGIN'; {command}; printf '%s{n}:%d>>\\n' '<<''END' $?"))?;
        self.expect(&format!("<<BEGIN{n}\r\n"))?;
        let output = self.expect(&format!("<<END{n}:"))?;
        let status = self.expect(">>")?;
        self.expect(PROMPT)?;
        Ok((status.parse().with_context(|| format!("status {status:?}"))?, output.replace("\r\n", "\n")))
    }

    /// Runs a command that must succeed and returns its output.
    pub fn check(&mut self, command: &str) -> Result<String> {
        let (status, output) = self.run(command)?;
        if status != 0 {
            return Err(self.complaint(&format!("{command:?} exited with {status}")));
        }
        Ok(output)
    }

    /// Waits until the emulator ends by itself.
    pub fn expect_end(&mut self) -> Result<ExitStatus> {
        loop {
            match self.more() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(self.child.wait()?),
                Err(failure) => {
                    return Err(self.complaint(&format!("{failure:?} while waiting for the end")));
                }
            }
        }
    }

    /// All that the console showed.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().bytes).replace('\r', "")
    }

    /// An error with the console below it.
    pub fn complaint(&self, reason: &str) -> anyhow::Error {
        anyhow!("{reason}\n--- console ---\n{}\n--- end of console ---", self.console().trim_end())
    }

    /// Fails with the console unless `holds`.
    pub fn ensure(&self, holds: bool, reason: &str) -> Result<()> {
        if !holds {
            bail!(self.complaint(reason));
        }
        Ok(())
    }
}

/// The end of root's prompt.
pub const PROMPT: &str = " # ";

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy(mut stream: impl Read + Send + 'static, shared: &Arc<Shared>) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count) = stream.read(&mut bytes) {
            if count == 0 {
                break;
            }
            shared.lock().bytes.extend_from_slice(&bytes[..count]);
            shared.changed.notify_all();
        }
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
