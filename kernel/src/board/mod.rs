//! What machine this is: a memory map and a list of devices.
//!
//! The description comes from the device tree that the firmware hands over ([`tree`]); where there is none, from the
//! built-in table of the Raspberry Pi 3 ([`raspi3`]), completed by the ATAG list that boot loaders without a tree leave
//! behind ([`atags`]). All of this is parsing of bytes and touches no hardware, so its tests run on a PC.
//!
//! What this does not do: decide which driver runs. [`crate::driver`] looks a device up by its [`Kind`].

use alloc::vec::Vec;

pub mod atags;
pub mod raspi3;
pub mod tree;

/// A run of physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The first address.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
}

impl Region {
    /// The region from `start` of `length` bytes, or nothing when it is empty or wraps around.
    pub fn new(start: u64, length: u64) -> Option<Self> {
        (length > 0 && start.checked_add(length).is_some()).then_some(Self { start, length })
    }

    /// One past the last address.
    pub fn end(self) -> u64 {
        self.start + self.length
    }
}

/// What a device is, in the words of the device-tree bindings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `arm,pl011`: the full serial port, Linux's `ttyAMA0`.
    Pl011,
    /// `brcm,bcm2835-aux-uart`: the small serial port, Linux's `ttyS0` or `ttyS1`.
    MiniUart,
    /// `brcm,bcm2835-gpio`: which function the pins have.
    Gpio,
    /// `brcm,bcm2836-l1-intc`: timer, mailbox and peripheral interrupts of each core.
    LocalController,
    /// `brcm,bcm2835-armctrl-ic` and its bcm2836 variant: the interrupts of the peripherals.
    PeripheralController,
    /// `brcm,bcm2835-mbox`: the way to the firmware.
    Mailbox,
    /// `brcm,bcm2835-rng`: the random number generator.
    Rng,
    /// `brcm,bcm2835-pm` and `-pm-wdt`: watchdog, reset and power off.
    PowerManager,
}

/// One device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// What it is.
    pub kind: Kind,
    /// The name of its tree node, such as `serial@7e201000`.
    pub name: &'static str,
    /// Its registers, as the CPU addresses them.
    pub registers: Region,
    /// Its line at the peripheral controller: 0 to 63 are the peripherals', 64 to 71 the ARM block's own.
    pub interrupt: Option<u8>,
}

/// How a CPU that the firmware parked is set going.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartMethod {
    /// It polls this physical address for an entry point.
    SpinTable(u64),
    /// The firmware's PSCI `CPU_ON` call, with the CPU's affinity (MPIDR).
    Psci(u64),
}

/// A machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Board {
    /// What people call it.
    pub model: &'static str,
    /// The kernel command line.
    pub command_line: &'static str,
    /// All RAM. Empty means "ask the firmware".
    pub memory: Vec<Region>,
    /// RAM that is not the kernel's to use.
    pub reserved: Vec<Region>,
    /// The initramfs image.
    pub initramfs: Option<Region>,
    /// Random bytes from the boot loader.
    pub random_seed: &'static [u8],
    /// The CPUs in logical order; the first is the one that boots.
    pub cpus: Vec<StartMethod>,
    /// The devices.
    pub devices: Vec<Device>,
    /// The name of the device that `/chosen/stdout-path` points to.
    pub stdout: Option<&'static str>,
}

impl Board {
    /// The first device of a kind.
    pub fn device(&self, kind: Kind) -> Option<&Device> {
        self.devices.iter().find(|device| device.kind == kind)
    }

    /// The value of the last `name=value` word on the command line; of a repeated parameter the last one counts.
    pub fn parameter(&self, name: &str) -> Option<&'static str> {
        self.parameters(name).last()
    }

    /// The values of all `name=value` words on the command line.
    fn parameters(&self, name: &str) -> impl Iterator<Item = &'static str> {
        let line: &'static str = self.command_line;
        line.split_ascii_whitespace().filter_map(move |word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// Which serial port is the console. The last `console=` that names one decides (others, such as `tty1`, are screens);
    /// then the header pins, if the firmware put a port on them; then the tree's `stdout-path`.
    pub fn console(&self, on_header: Option<Kind>) -> Console {
        if let Some(named) = self.parameters("console").filter_map(Console::parse).last() {
            return named;
        }
        let of_stdout =
            || self.devices.iter().find(|device| Some(device.name) == self.stdout).map(|device| device.kind);
        match on_header.or_else(of_stdout) {
            Some(Kind::MiniUart) => Console { port: Kind::MiniUart, name: "ttyS0", options: "" },
            _ => Console { port: Kind::Pl011, name: "ttyAMA0", options: "" },
        }
    }
}

/// The serial port that is the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Console {
    /// [`Kind::Pl011`] or [`Kind::MiniUart`].
    pub port: Kind,
    /// Its Linux name.
    pub name: &'static str,
    /// Speed and frame, such as `115200n8`, or nothing.
    pub options: &'static str,
}

impl Console {
    /// A `console=` value. The mini UART is `ttyS0` in the Raspberry Pi's own Linux, `ttyS1` in others.
    fn parse(value: &'static str) -> Option<Self> {
        let (name, options) = value.split_once(',').unwrap_or((value, ""));
        let port = match name {
            "ttyAMA0" => Kind::Pl011,
            "ttyS0" | "ttyS1" => Kind::MiniUart,
            _ => return None,
        };
        Some(Self { port, name, options })
    }
}

/// Takes what comes before the NUL, as text; an empty string when it is not UTF-8.
fn text_before_nul(bytes: &'static [u8]) -> &'static str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..end]).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::{Board, Kind, Region, raspi3};

    #[test]
    fn a_region_that_wraps_around_is_refused() {
        assert_eq!(Region::new(u64::MAX, 2), None);
        assert_eq!(Region::new(4096, 0), None);
        assert_eq!(Region::new(4096, 1).map(Region::end), Some(4097));
    }

    #[test]
    fn the_last_parameter_of_a_name_wins() {
        let board = Board { command_line: "console=ttyS1 quiet consoles=x console=ttyAMA0", ..Board::default() };
        assert_eq!(board.parameter("console"), Some("ttyAMA0"));
        assert_eq!(board.parameter("panic"), None);
    }

    #[test]
    fn the_console_is_the_last_serial_port_named_then_the_one_on_the_header() {
        let mut board = raspi3::board();
        board.command_line = "console=serial0,115200 console=ttyS1,9600n8 console=tty1";
        let console = board.console(Some(Kind::Pl011));
        assert_eq!((console.port, console.name, console.options), (Kind::MiniUart, "ttyS1", "9600n8"));
        board.command_line = "console=tty1";
        board.stdout = Some("serial@7e215040");
        assert_eq!(board.console(Some(Kind::Pl011)).port, Kind::Pl011);
        assert_eq!(board.console(None).port, Kind::MiniUart);
        board.stdout = None;
        assert_eq!(board.console(None).name, "ttyAMA0");
    }
}
