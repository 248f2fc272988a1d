//! A machine for tests: the real kernel on the hosted half of hal, with programs that are closures.
//!
//! ```
//! use kcore::testing::{Libc, Machine};
//!
//! let mut machine = Machine::new();
//! machine.program("/bin/three", |_| 3);
//! machine.run(|init| {
//!     let child = init.fork(|child| child.exec("/bin/three", &["three"]));
//!     assert_eq!(init.wait_for(child).exit_code(), Some(3));
//! });
//! ```
//!
//! The closure of [`Machine::run`] is PID 1. Programs are files of an initramfs ([`image`]), which the kernel unpacks, opens
//! and maps as on the Pi. [`Libc`] is their C library: one method per call, errors as [`Errno`](crate::Errno).

pub mod image;
mod libc;
mod queue;

use hal::hosted::{self, Config, User};

use crate::init::{BootParams, Power};
pub use image::{Archive, Kind};
pub use libc::{Disposition, Libc, Status, Waited};
pub use queue::Queue;

/// Frames that nobody uses, those that the kernel keeps ready included.
pub fn free_frames() -> u64 {
    crate::mm::frame::free_count() as u64
}

/// What a program does.
type Body = Box<dyn Fn(&mut User) -> i32>;

/// A machine that is being put together.
pub struct Machine {
    config: Config,
    archive: Archive,
    files: Vec<(String, Kind, Body)>,
    command_line: String,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// One CPU, 32 MiB of RAM.
    pub fn new() -> Self {
        Self::with(Config { ram_bytes: 32 << 20, ..Config::default() })
    }

    /// Several CPUs that change places at random points of the kernel, in an order that `seed` decides.
    pub fn interleaved(cpus: usize, seed: u64) -> Self {
        let tlb = hosted::Tlb::Hardware;
        Self::with(Config { cpus, seed, interleave: true, tlb, ram_bytes: 32 << 20, ..Config::default() })
    }

    /// Several CPUs that take turns where user code runs or the kernel waits.
    pub fn with_cpus(cpus: usize) -> Self {
        let tlb = if cpus == 1 { hosted::Tlb::Strict } else { hosted::Tlb::Hardware };
        Self::with(Config { cpus, tlb, ram_bytes: 32 << 20, ..Config::default() })
    }

    /// Any configuration. Its initramfs is made here.
    pub fn with(config: Config) -> Self {
        let mut archive = Archive::default();
        for directory in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
            archive.directory(directory);
        }
        Self { config, archive, files: Vec::new(), command_line: "loglevel=3".into() }
    }

    /// Adds an executable that runs `body`.
    pub fn program(&mut self, path: &str, body: impl Fn(&mut User) -> i32 + 'static) {
        self.program_of(Kind::Fixed, path, body);
    }

    /// Adds an executable of a kind.
    pub fn program_of(&mut self, kind: Kind, path: &str, body: impl Fn(&mut User) -> i32 + 'static) {
        self.files.push((path.into(), kind, Box::new(body)));
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) {
        self.archive.file(path, permissions, contents);
    }

    /// Adds words to the kernel command line.
    pub fn command_line(&mut self, words: &str) {
        self.command_line += " ";
        self.command_line += words;
    }

    /// Boots and runs `init` as PID 1; when it returns, the machine is switched off. Panics when the kernel panics, when
    /// an assertion of any program fails, and when the machine gets stuck.
    pub fn run(self, init: impl Fn(&mut User) + 'static) {
        if let Err(stuck) = self.try_run(init) {
            panic!("{stuck:?}");
        }
    }

    /// As [`Machine::run`], but a machine that gets stuck is an answer.
    pub fn try_run(mut self, init: impl Fn(&mut User) + 'static) -> Result<(), hosted::Stuck> {
        self.program("/init", move |user| {
            init(user);
            hosted::power_off(0);
            0
        });
        let mut config = self.config;
        // Programs are registered with the machine that is built here, and the archive must be complete before: the
        // instruction of the n-th program is known beforehand.
        for (n, (path, kind, _)) in self.files.iter().enumerate() {
            let instruction = u32::try_from(n + 1).expect("few programs");
            self.archive.file(path, 0o755, &image::elf(*kind, instruction));
        }
        config.initramfs = self.archive.finish();
        let cpus = config.cpus;
        let machine = hosted::Machine::new(config);
        for (n, (_, _, body)) in self.files.into_iter().enumerate() {
            let entry = hosted::program(body);
            assert_eq!(hosted::entry_instruction(entry) as usize, n + 1, "programs are numbered in order");
        }
        let command_line: &'static str = String::leak(self.command_line);
        machine.run(move || boot(command_line, cpus)).map(|code| assert_eq!(code, 0, "the kernel ended with a code"))
    }
}

/// What the image crate does on the Pi.
fn boot(command_line: &'static str, cpus: usize) {
    let (range, length) = hosted::initramfs();
    crate::init::start(BootParams {
        command_line,
        initramfs: Some((range, length)),
        cpus,
        board_name: "Hosted machine",
        serial: None,
        power: &Switch,
        start_cpu,
        interrupt: || {},
    })
}

fn start_cpu(cpu: usize, entry: fn() -> !) -> bool {
    hosted::start_secondary(cpu, move || {
        entry();
    });
    true
}

/// The power switch of the hosted machine.
struct Switch;

impl Power for Switch {
    fn power_off(&self) {
        hosted::power_off(0);
    }

    fn restart(&self) {
        hosted::power_off(1);
    }
}
