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
pub const MAX_BYTES: u64 = 1 << 20;

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
    (big_endian(header.get(..4)?)? == MAGIC && u64::from(size) <= MAX_BYTES).then_some(size as usize)
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
    let path = if path.starts_with('/') { path } else { text_before_nul(value_of(&fdt.find_node("/aliases")?, path)) };
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

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use dtoolkit::memreserve::MemoryReservation;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

    use super::{parse, size};
    use crate::board::{Kind, Region, StartMethod};

    fn cells(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    fn text(text: &str) -> Vec<u8> {
        [text.as_bytes(), b"\0"].concat()
    }

    fn node(name: &str, properties: Vec<(&str, Vec<u8>)>, children: Vec<DeviceTreeNode>) -> DeviceTreeNode {
        let mut node = DeviceTreeNode::new(name).expect("a legal name");
        for (name, value) in properties {
            node.add_property(DeviceTreeProperty::new(name, value).expect("a legal name"));
        }
        for child in children {
            node.add_child(child);
        }
        node
    }

    fn width(address_cells: u32, size_cells: u32) -> Vec<(&'static str, Vec<u8>)> {
        vec![("#address-cells", cells(&[address_cells])), ("#size-cells", cells(&[size_cells]))]
    }

    /// A machine like the Pi 3, with what a boot loader adds.
    fn blob() -> &'static [u8] {
        let mut tree = DeviceTree::new();
        tree.memory_reservations.push(MemoryReservation::new(0, 0x1000));
        for (name, value) in width(1, 1) {
            tree.root.add_property(DeviceTreeProperty::new(name, value).expect("a legal name"));
        }
        let uart = |name, compatible, reg: u32, interrupt: [u32; 2]| {
            let compatible = text(compatible);
            node(
                name,
                vec![("compatible", compatible), ("reg", cells(&[reg, 0x200])), ("interrupts", cells(&interrupt))],
                vec![],
            )
        };
        let mut off = uart("rng@7e104000", "brcm,bcm2835-rng", 0x7e10_4000, [2, 29]);
        off.add_property(DeviceTreeProperty::new("status", text("disabled")).expect("a legal name"));
        let mut soc = width(1, 1);
        soc.push(("compatible", text("simple-bus")));
        soc.push(("ranges", cells(&[0x7e00_0000, 0x3f00_0000, 0x100_0000])));
        let cpu = |name, properties| node(name, properties, vec![]);
        let children = vec![
            node("aliases", vec![("serial1", text("/soc/serial@7e215040"))], vec![]),
            node(
                "chosen",
                vec![
                    ("bootargs", text("quiet panic=1")),
                    ("linux,initrd-start", cells(&[0x800_0000])),
                    ("linux,initrd-end", cells(&[0, 0x800_1000])),
                    ("rng-seed", vec![1, 2, 3]),
                    ("stdout-path", text("serial1:115200n8")),
                ],
                vec![],
            ),
            node("memory@0", vec![("reg", cells(&[0, 0x3c00_0000, 0x1000_0000, 0]))], vec![]),
            node("reserved-memory", width(1, 1), vec![node("a", vec![("reg", cells(&[0x2000, 0x3000]))], vec![])]),
            node(
                "cpus",
                width(1, 0),
                vec![
                    cpu("cpu@0", vec![("enable-method", text("spin-table")), ("cpu-release-addr", cells(&[0, 0xd8]))]),
                    cpu("cpu@1", vec![("enable-method", text("psci")), ("reg", cells(&[1]))]),
                    cpu("cpu@2", vec![("enable-method", text("magic"))]),
                ],
            ),
            node(
                "soc",
                soc,
                vec![
                    uart("serial@7e201000", "arm,pl011\0arm,primecell", 0x7e20_1000, [2, 25]),
                    uart("serial@7e215040", "brcm,bcm2835-aux-uart", 0x7e21_5040, [1, 29]),
                    off,
                    uart("unknown@1", "nobody,knows", 0x7e00_0000, [0, 1]),
                ],
            ),
        ];
        for child in children {
            tree.root.add_child(child);
        }
        tree.to_dtb().leak()
    }

    #[test]
    fn a_tree_is_read_into_a_memory_map_and_a_device_list() {
        let blob = blob();
        assert_eq!(size(blob), Some(blob.len()));
        let board = parse(blob).expect("is a tree");
        assert_eq!(board.memory, [Region { start: 0, length: 0x3c00_0000 }]);
        assert_eq!(board.reserved, [Region { start: 0, length: 0x1000 }, Region { start: 0x2000, length: 0x3000 }]);
        assert_eq!(board.initramfs, Some(Region { start: 0x800_0000, length: 0x1000 }));
        assert_eq!((board.command_line, board.random_seed), ("quiet panic=1", [1, 2, 3].as_slice()));
        assert_eq!(board.cpus, [StartMethod::SpinTable(0xd8), StartMethod::Psci(1)]);
        let devices: Vec<_> = board.devices.iter().map(|d| (d.kind, d.registers.start, d.interrupt)).collect();
        assert_eq!(devices, [(Kind::Pl011, 0x3f20_1000, Some(57)), (Kind::MiniUart, 0x3f21_5040, Some(29))]);
        assert_eq!(board.stdout, Some("serial@7e215040"));
    }

    #[test]
    fn damaged_trees_never_panic() {
        let good = blob();
        // Every bit of the header and one bit of every other byte, then every length.
        for position in 0..good.len() {
            for bit in if position < 64 { 0..8 } else { position % 8..position % 8 + 1 } {
                let mut bytes = good.to_vec();
                bytes[position] ^= 1 << bit;
                let _ = parse(bytes.leak());
            }
        }
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_none());
        }
    }
}
