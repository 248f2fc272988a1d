//! sysfs: the part of `/sys` that programs look at on a machine without a device model: CPUs, and the places where other
//! file systems are mounted.
//!
//! The tree is data, in the entries that `/proc` is made of ([`super::proc::Entry`]).

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::stat::{S_IFDIR, SYSFS_MAGIC};

use super::dentry::Dentry;
use super::inode::{Inode, InodeParts};
use super::proc::status::push_cpu_list;
use super::proc::text::Text;
use super::proc::{Entry, Fixed, Node};
use super::super_block::{FsType, MountRequest, SuperBlock, SuperOps};
use crate::Result;

/// `sysfs` in mount(2).
pub static SYSFS: FsType = FsType { name: "sysfs", mount };

hal::global! {
    static INSTANCE: spin::Once<Arc<SuperBlock>> = spin::Once::new();
}

struct SysSuper;
impl SuperOps for SysSuper {}

static ROOT: Entry = Entry { name: "/", mode: 0o555, node: Node::Dir(ENTRIES) };

static ENTRIES: &[Entry] = &[
    Entry::dir("block", &[]),
    Entry::dir("bus", &[]),
    Entry::dir("class", &[]),
    Entry::dir("dev", DEV),
    Entry::dir("devices", DEVICES),
    Entry::dir("firmware", &[]),
    Entry::dir("fs", FS),
    Entry::dir("kernel", KERNEL),
    Entry::dir("module", &[]),
    Entry::dir("power", &[]),
];

static DEV: &[Entry] = &[Entry::dir("block", &[]), Entry::dir("char", &[])];
static DEVICES: &[Entry] = &[Entry::dir("system", SYSTEM), Entry::dir("virtual", &[]), Entry::dir("platform", &[])];
static SYSTEM: &[Entry] = &[Entry::dir("cpu", CPU), Entry::dir("node", NODES)];
static NODES: &[Entry] = &[
    Entry::text("online", |text| line(text, "0")),
    Entry::text("possible", |text| line(text, "0")),
    Entry::dir("node0", NODE0),
];
static NODE0: &[Entry] = &[Entry::text("cpulist", cpus), Entry::text("cpumap", cpu_mask)];
static FS: &[Entry] = &[Entry::dir("cgroup", &[])];
static KERNEL: &[Entry] = &[
    Entry::dir("config", &[]),
    Entry::dir("debug", &[]),
    Entry::dir("mm", &[]),
    Entry::dir("security", &[]),
    Entry::dir("tracing", &[]),
    Entry::text("fscaps", |text| line(text, "1")),
];

static CPU: &[Entry] = &[
    Entry::text("online", cpus),
    Entry::text("possible", cpus),
    Entry::text("present", cpus),
    Entry::text("offline", |text| line(text, "")),
    Entry::text("isolated", |text| line(text, "")),
    Entry::text("kernel_max", |text| line(text, "3")),
    Entry::dir("cpu0", &CPU_ENTRIES[0]),
    Entry::dir("cpu1", &CPU_ENTRIES[1]),
    Entry::dir("cpu2", &CPU_ENTRIES[2]),
    Entry::dir("cpu3", &CPU_ENTRIES[3]),
];

const _: () = assert!(hal::MAX_CPUS == 4, "one directory per CPU");

static CPU_ENTRIES: [[Entry; 2]; 4] = [
    [Entry::text("online", one), Entry::dir("topology", &TOPOLOGY[0])],
    [Entry::text("online", one), Entry::dir("topology", &TOPOLOGY[1])],
    [Entry::text("online", one), Entry::dir("topology", &TOPOLOGY[2])],
    [Entry::text("online", one), Entry::dir("topology", &TOPOLOGY[3])],
];

/// One cluster of single-threaded cores.
static TOPOLOGY: [[Entry; 10]; 4] = [
    topology(|text| line(text, "0"), |text| line(text, "1")),
    topology(|text| line(text, "1"), |text| line(text, "2")),
    topology(|text| line(text, "2"), |text| line(text, "4")),
    topology(|text| line(text, "3"), |text| line(text, "8")),
];

const fn topology(id: fn(&mut Text) -> Result<()>, mask: fn(&mut Text) -> Result<()>) -> [Entry; 10] {
    [
        Entry::text("core_id", id),
        Entry::text("physical_package_id", zero),
        Entry::text("thread_siblings", mask),
        Entry::text("thread_siblings_list", id),
        // The newer name of the same (Documentation/admin-guide/cputopology.rst).
        Entry::text("core_cpus", mask),
        Entry::text("core_cpus_list", id),
        Entry::text("core_siblings", cpu_mask),
        Entry::text("core_siblings_list", cpus),
        Entry::text("package_cpus", cpu_mask),
        Entry::text("package_cpus_list", cpus),
    ]
}

fn line(text: &mut Text, value: &str) -> Result<()> {
    text.str(value).byte(b'\n');
    Ok(())
}

fn one(text: &mut Text) -> Result<()> {
    line(text, "1")
}

fn zero(text: &mut Text) -> Result<()> {
    line(text, "0")
}

fn cpus(text: &mut Text) -> Result<()> {
    push_cpu_list(text, hal::cpu::online_mask());
    text.byte(b'\n');
    Ok(())
}

fn cpu_mask(text: &mut Text) -> Result<()> {
    line(text, &alloc::format!("{:x}", hal::cpu::online_mask()))
}

/// All mounts show one tree.
fn mount(_request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
    let make = || {
        let sb = SuperBlock::new(&SYSFS, SYSFS_MAGIC, Box::new(SysSuper));
        let parts = InodeParts::new(sb.next_ino(), S_IFDIR | 0o555);
        sb.set_root(Dentry::new_root(Inode::new(sb.clone(), parts, Box::new(Fixed(&ROOT)))));
        sb.pin();
        sb
    };
    Ok(INSTANCE.call_once(make).clone())
}
