//! One QEMU command line for all uses.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::options::{Icount, Options};
use crate::setup::Outfit;

/// Where the console goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// A person's terminal, with QEMU's escape `Ctrl-A`.
    Terminal,
    /// Pipes of a program, which may send `Ctrl-A` as data.
    Pipes,
}

/// What is booted.
#[derive(Clone, Debug)]
pub struct Boot {
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    /// The kernel command line, beside what `SMP` and `APPEND` add.
    pub command_line: String,
    /// Starts stopped and waits for gdb.
    pub debug: bool,
}

impl Boot {
    pub fn new(kernel: &Path, initrd: &Path) -> Boot {
        let command_line = "console=ttyAMA0,115200".to_string();
        Boot { kernel: kernel.to_path_buf(), initrd: Some(initrd.to_path_buf()), command_line, debug: false }
    }

    pub fn command(&self, outfit: &Outfit, options: &Options, console: Console) -> Command {
        let mut line = self.command_line.clone();
        if options.boots_linux() {
            line.push_str(" quiet");
        }
        if let Some(cpus) = options.cpus {
            // The machine always has four; the kernel leaves the others in their pen.
            line.push_str(&format!(" maxcpus={cpus}"));
        }
        if let Some(append) = &options.append {
            line.push(' ');
            line.push_str(append);
        }
        let mut qemu = Command::new(&outfit.qemu);
        qemu.args(["-M", "raspi3b", "-display", "none", "-no-reboot"]);
        match console {
            Console::Terminal => qemu.args(["-serial", "mon:stdio"]),
            Console::Pipes => qemu.args(["-serial", "stdio", "-monitor", "none"]),
        };
        qemu.arg("-kernel").arg(&self.kernel);
        if let Some(initrd) = &self.initrd {
            qemu.arg("-initrd").arg(initrd);
        }
        if let Some(tree) = &outfit.device_tree {
            qemu.arg("-dtb").arg(tree);
        }
        qemu.args(["-append", &line]);
        if options.icount == Icount::Instructions {
            qemu.args(["-icount", "shift=0,sleep=off", "-seed", "1"]);
        }
        if self.debug {
            qemu.args(["-S", "-s"]);
        }
        qemu.args(&options.qemu_args);
        qemu
    }
}
