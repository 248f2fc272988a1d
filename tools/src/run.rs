//! `make run`: a shell on the console, or one command whose status becomes ours; and `make debug`.

use anyhow::Result;
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;

use crate::initramfs::{self, Overlay};
use crate::kernel;
use crate::machine::{Failure, Machine};
use crate::options::Options;
use crate::qemu::{Boot, Console};
use crate::setup::{self, Outfit};
use crate::workspace;

/// `CMD` came to no end in time, as with timeout(1).
pub const STATUS_TIMEOUT: u8 = 124;
/// The kernel panicked or ended before `CMD` did.
pub const STATUS_PANIC: u8 = 125;

/// The marks that init prints around the command's output.
const BEGIN: &str = "=== CMD BEGIN ===";
const END: &str = "=== CMD END status=";
/// Where init finds the command.
pub const COMMAND_FILE: &str = "etc/drupe/cmd";

/// Sets up, builds, boots. Returns the status for the shell.
pub fn run(options: &Options) -> Result<u8> {
    let (outfit, boot) = prepare(options)?;
    match &options.command {
        Some(command) => Ok(run_command(&outfit, options, boot, command, Ending::Mark)?.status),
        None => interactive(&outfit, options, &boot),
    }
}

/// Starts QEMU stopped, with its gdb server.
pub fn debug(options: &Options) -> Result<u8> {
    let (outfit, mut boot) = prepare(options)?;
    boot.debug = true;
    let elf = kernel::elf(options.profile);
    eprintln!(
        "QEMU waits on port 1234. In another terminal (Debian: apt-get install gdb-multiarch):\n\n  \
         gdb-multiarch {} -ex 'target remote :1234'\n\n\
         Break with hbreak (hardware) before `continue`: memory is not yet mapped where the symbols are.\n\
         Ctrl-A x leaves QEMU.",
        elf.display()
    );
    interactive(&outfit, options, &boot)
}

pub fn prepare(options: &Options) -> Result<(Outfit, Boot)> {
    let outfit = setup::outfit(options)?;
    let kernel = kernel::image(options)?;
    let initrd = initramfs::build(&outfit, options.extra.as_deref())?;
    Ok((outfit, Boot::new(&kernel, &initrd)))
}

fn interactive(outfit: &Outfit, options: &Options, boot: &Boot) -> Result<u8> {
    if std::io::stdin().is_terminal() {
        eprintln!("Booting. Ctrl-A x leaves QEMU.");
    }
    // QEMU takes our place, so that the terminal and its signals are its own.
    let error = boot.command(outfit, options, Console::Terminal).exec();
    Err(anyhow::Error::from(error).context(format!("cannot run {}", outfit.qemu.display())))
}

/// When QEMU is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the mark that has the command's status.
    Mark,
    /// When the guest powers off, so that QEMU itself ends in order.
    PowerOff,
}

/// What a command left.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub status: u8,
    /// With the marks around it.
    pub output: String,
}

/// Boots, runs `command`, and passes its output on.
pub fn run_command(
    outfit: &Outfit,
    options: &Options,
    mut boot: Boot,
    command: &str,
    ending: Ending,
) -> Result<Outcome> {
    let base = boot.initrd.take().unwrap_or_default();
    // More than one may run at a time.
    let initrd = workspace::build(&format!("initramfs-cmd-{}.cpio", std::process::id()));
    initramfs::append(&base, &[Overlay::new(COMMAND_FILE, format!("{command}\n"))], &initrd)?;
    boot.initrd = Some(initrd.clone());
    // The kernel's notices stay in dmesg, so that they do not mix with the command's output.
    boot.command_line.push_str(" loglevel=4");
    let machine = Machine::start(boot.command(outfit, options, Console::Pipes), options.timeout);
    let status = machine.and_then(|mut machine| {
        machine.close_input();
        let outcome = follow(&mut machine)?;
        if ending == Ending::PowerOff && !matches!(outcome.status, STATUS_TIMEOUT | STATUS_PANIC) {
            machine.expect_end()?;
        }
        Ok(outcome)
    });
    std::fs::remove_file(initrd)?;
    status
}

/// Passes the output between the marks on and finds the status.
fn follow(machine: &mut Machine) -> Result<Outcome> {
    let mut pass = Pass::default();
    let mut output = String::new();
    let failure = loop {
        match machine.more() {
            Ok(Some(text)) => {
                let fresh = pass.take(&text);
                let mut out = std::io::stdout().lock();
                out.write_all(fresh.as_bytes())?;
                out.flush()?;
                output.push_str(&fresh);
                if let Some(status) = pass.status {
                    return Ok(Outcome { status, output });
                }
            }
            Ok(None) => break Failure::Ended,
            Err(failure) => break failure,
        }
        if pass.panicked {
            // Let it print its report.
            let _ = machine.wait_for("---[ end Kernel panic");
            break Failure::Panic;
        }
    };
    let (reason, status) = match failure {
        Failure::Panic => ("the kernel panicked", STATUS_PANIC),
        Failure::Deadline => ("the time is over (TIMEOUT=seconds gives more)", STATUS_TIMEOUT),
        Failure::Ended => ("QEMU ended before the command did", STATUS_PANIC),
    };
    eprintln!("{:#}", machine.complaint(reason));
    Ok(Outcome { status, output })
}

/// Finds the marks in a console that arrives in pieces.
#[derive(Default)]
struct Pass {
    /// What is not decided yet: it may be the start of a mark.
    pending: String,
    begun: bool,
    panicked: bool,
    status: Option<u8>,
}

impl Pass {
    /// Takes a piece and returns what is to be printed of it.
    fn take(&mut self, text: &str) -> String {
        self.pending.push_str(&text.replace('\r', ""));
        self.panicked |= self.pending.contains("Kernel panic - not syncing");
        if !self.begun {
            let Some(at) = self.pending.find(BEGIN) else {
                return String::new();
            };
            self.pending.drain(..at);
            self.begun = true;
        }
        if let Some(at) = self.pending.find(END) {
            let rest = &self.pending[at + END.len()..];
            let Some(number_end) = rest.find(|c: char| !c.is_ascii_digit()) else {
                return String::new();
            };
            self.status = Some(rest[..number_end].parse::<u32>().map_or(STATUS_PANIC, |status| (status & 0xff) as u8));
            let printed = format!("{}{END}{} ===\n", &self.pending[..at], &rest[..number_end]);
            self.pending.clear();
            return printed;
        }
        // Whole lines cannot begin a mark any more; of the last one, what cannot be the mark's start is passed too.
        let keep = (0..self.pending.len())
            .find(|&at| self.pending.is_char_boundary(at) && END.starts_with(&self.pending[at..]));
        match keep {
            Some(at) => self.pending.drain(..at).collect(),
            None => std::mem::take(&mut self.pending),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pass;

    #[test]
    fn the_output_between_the_marks_is_found_however_the_console_is_cut() {
        let console = "[ 0.1] boot\r\n=== CMD BEGIN ===\r\nhello\r\n== no mark ===\r\nhalf a line=== CMD END status=7 ===\r\n[ 2] off\r\n";
        let expected = "=== CMD BEGIN ===\nhello\n== no mark ===\nhalf a line=== CMD END status=7 ===\n";
        for size in 1..console.len() {
            let mut pass = Pass::default();
            let mut printed = String::new();
            for piece in console.as_bytes().chunks(size) {
                printed.push_str(&pass.take(std::str::from_utf8(piece).unwrap()));
                if pass.status.is_some() {
                    break;
                }
            }
            assert_eq!(pass.status, Some(7), "pieces of {size}");
            assert_eq!(printed, expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_panic_is_noticed() {
        let mut pass = Pass::default();
        pass.take("Kernel panic - not sync");
        pass.take("ing: no init");
        assert!(pass.panicked);
    }
}
