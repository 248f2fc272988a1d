//! The flattened device tree (Devicetree Specification 0.4), read with `dtoolkit`, which checks the whole blob before it
//! hands out a node: a damaged tree is an error here and never a panic later.
//!
//! The tree is walked once. Buses are followed one level, which is how the Pi's trees are built: `/soc` with `ranges`.

use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

use super::{Board, Device, Kind, Region, StartMethod, text_before_nul};

/// The first word of a tree, big-endian.
const MAGIC: u32 = 0xd00d_feed;
/// Bytes of the header up to and including its size field.
pub const HEADER_BYTES: usize = 8;
/// The Pi firmware's and QEMU's trees have 15 to 60 KiB; a megabyte is a broken size field.
const MAX_BYTES: u32 = 1 << 20;

/// Which `compatible` strings are known. The bindings are in Linux, Documentation/devicetree/bindings.
const COMPATIBLE: [(&str, Kind); 11] = [
    ("arm,pl011", Kind::Pl011),
    ("brcm,bcm2835-aux-uart", Kind::MiniUart),
    ("brcm,bcm2835-gpio", Kind::Gpio),
    ("brcm,bcm2836-l1-intc", Kind::LocalController),
    ("brcm,bcm2835-armctrl-ic", Kind::PeripheralController),
    ("brcm,bcm2836-armctrl-ic", Kind::PeripheralController),
    ("brcm,bcm2835-mbox", Kind::Mailbox),
    ("brcm,bcm2835-rng", Kind::Rng),
    ("brcm,bcm2835-pm-wdt", Kind::PowerManager),
    ("brcm,bcm2835-pm", Kind::PowerManager),
    ("brcm,bcm2711-pm", Kind::PowerManager),
];

/// The size in bytes of the tree that begins with `header`, if it is one.
pub fn size(header: &[u8]) -> Option<usize> {
    let size = big_endian(header.get(4..8)?)?;
    (big_endian(header.get(..4)?)? == MAGIC && size <= MAX_BYTES).then_some(size as usize)
}

/// Reads a tree into a board. `None` when it is damaged.
pub fn parse(blob: &'static [u8]) -> Option<Board> {
    let fdt = Fdt::new(blob).ok()?;
    let root = fdt.root();
    let mut board = Board { model: root.model().ok().flatten().unwrap_or("unknown"), ..Board::default() };
    for reservation in fdt.memory_reservations() {
        board.reserved.extend(Region::new(reservation.address(), reservation.size()));
    }
    for node in root.children() {
        match node.name_without_address() {
            "memory" => board.memory.extend(registers(node)),
            "reserved-memory" => {
                board.reserved.extend(node.children().filter(is_enabled).flat_map(registers));
            }
            "chosen" => read_chosen(fdt, node, &mut board),
            "cpus" => board.cpus = node.children().filter_map(start_method).collect(),
            _ if node.is_compatible("simple-bus") => add_bus(node, &mut board.devices),
            _ => {}
        }
    }
    Some(board)
}

/// `/chosen`: what the boot loader has to say.
fn read_chosen(fdt: Fdt<'static>, node: FdtNode<'static>, board: &mut Board) {
    let (mut initramfs_start, mut initramfs_end) = (None, None);
    for property in node.properties() {
        let value = property.value();
        match property.name() {
            "bootargs" => board.command_line = text_before_nul(value_of(&node, "bootargs")),
            "linux,initrd-start" => initramfs_start = one_or_two_cells(value),
            "linux,initrd-end" => initramfs_end = one_or_two_cells(value),
            "rng-seed" => board.random_seed = value_of(&node, "rng-seed"),
            "stdout-path" => board.stdout = device_of_path(fdt, text_before_nul(value_of(&node, "stdout-path"))),
            _ => {}
        }
    }
    board.initramfs = initramfs_start
        .zip(initramfs_end)
        .and_then(|(start, end): (u64, u64)| Region::new(start, end.checked_sub(start)?));
}

/// The node name at the end of a path such as `serial1:115200n8` or `/soc/serial@7e201000`. The first component may be
/// an alias; what follows a colon are options of the device.
fn device_of_path(fdt: Fdt<'static>, path: &'static str) -> Option<&'static str> {
    let path = path.split(':').next()?;
    let path = if path.starts_with('/') {
        path
    } else {
        text_before_nul(value_of(&fdt.find_node("/aliases")?, path))
    };
    fdt.find_node(path).map(|node| node.name())
}

/// The devices on a bus that we know, their addresses translated by the bus's `ranges`.
fn add_bus(bus: FdtNode<'static>, devices: &mut Vec<Device>) {
    let ranges: Vec<(u64, u64, u64)> = bus
        .ranges()
        .ok()
        .flatten()
        .into_iter()
        .flatten()
        .filter_map(|range| {
            Some((range.child_bus_address().ok()?, range.parent_bus_address().ok()?, range.length().ok()?))
        })
        .collect();
    for node in bus.children().filter(is_enabled) {
        let Some(kind) = kind_of(&node) else { continue };
        let Some(registers) = registers(node).next().and_then(|region| translate(&ranges, region)) else { continue };
        devices.push(Device { kind, name: node.name(), registers, interrupt: interrupt(&node) });
    }
}

/// From the bus's addresses to the CPU's. A bus without `ranges` entries is seen by the CPU as it is.
fn translate(ranges: &[(u64, u64, u64)], region: Region) -> Option<Region> {
    if ranges.is_empty() {
        return Some(region);
    }
    let (child, parent, _) =
        ranges.iter().find(|(child, _, length)| region.start >= *child && region.start - child < *length)?;
    Region::new(region.start - child + parent, region.length)
}

fn kind_of(node: &FdtNode<'static>) -> Option<Kind> {
    node.compatible()?.find_map(|name| COMPATIBLE.iter().find(|(known, _)| *known == name)).map(|(_, kind)| *kind)
}

/// The line number from the two cells of the armctrl binding (bank, number): bank 0 is the ARM block, banks 1 and 2 the
/// lower and upper half of the peripherals.
fn interrupt(node: &FdtNode<'static>) -> Option<u8> {
    let property = node.property("interrupts")?;
    let value = property.value();
    let (bank, number) = (big_endian(value.get(..4)?)?, big_endian(value.get(4..8)?)?);
    let number = u8::try_from(number).ok().filter(|number| *number < 32)?;
    match bank {
        0 if number < 8 => Some(64 + number),
        1 => Some(number),
        2 => Some(32 + number),
        _ => None,
    }
}

/// A `cpu` node's start method. Linux ignores CPUs whose method it does not know, and so do we.
fn start_method(node: FdtNode<'static>) -> Option<StartMethod> {
    if node.name_without_address() != "cpu" || !is_enabled(&node) {
        return None;
    }
    match text_before_nul(value_of(&node, "enable-method")) {
        "spin-table" | "brcm,bcm2836-smp" => {
            one_or_two_cells(value_of(&node, "cpu-release-addr")).map(StartMethod::SpinTable)
        }
        "psci" => one_or_two_cells(value_of(&node, "reg")).map(StartMethod::Psci),
        _ => None,
    }
}

/// The regions of a node's `reg`; those of size 0, which a boot loader was to fill in, are left out.
fn registers(node: FdtNode<'static>) -> impl Iterator<Item = Region> {
    let list = node.reg().ok().flatten();
    list.into_iter().flatten().filter_map(|entry| Region::new(entry.address().ok()?, entry.size().ok()?))
}

fn is_enabled(node: &FdtNode<'static>) -> bool {
    matches!(text_before_nul(value_of(node, "status")), "" | "ok" | "okay")
}

/// The bytes of a property; none when it is missing.
fn value_of(node: &FdtNode<'static>, name: &str) -> &'static [u8] {
    node.property(name).and_then(|property| property.value_as::<&'static [u8]>().ok()).unwrap_or(&[])
}

fn one_or_two_cells(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => big_endian(value).map(u64::from),
        8 => value.try_into().ok().map(u64::from_be_bytes),
        _ => None,
    }
}

fn big_endian(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}
