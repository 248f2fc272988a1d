//! The files of `/proc` that speak of the whole system. Formats: proc(5).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use hal::mem::PAGE_SIZE;

use super::text::Text;
use super::{Entry, Node, drupe, pressure, sysctl};
use crate::Result;
use crate::fs::{chrdev, super_block};
use crate::task::{PidNamespace, current, tree};
use crate::{sched, time, tty, version};

const TICK_NS: u64 = 10_000_000;

/// The fixed part of the root directory.
pub(super) static ENTRIES: &[Entry] = &[
    Entry::link("self", self_link),
    Entry::link("thread-self", thread_self_link),
    Entry::text("stat", stat),
    Entry::text("meminfo", meminfo),
    Entry::text("uptime", uptime),
    Entry::text("loadavg", loadavg),
    Entry::text("version", show_version),
    Entry::text("cpuinfo", cpuinfo),
    Entry::link("mounts", mounts_link),
    Entry::text("filesystems", filesystems),
    Entry::text("cmdline", cmdline),
    Entry::dir("sys", sysctl::ENTRIES),
    Entry::text("interrupts", interrupts),
    Entry::text("schedstat", schedstat),
    Entry::text("partitions", partitions),
    Entry::text("swaps", swaps),
    Entry::text("devices", devices),
    Entry::text("misc", misc),
    Entry::text("vmstat", vmstat),
    Entry::text("diskstats", diskstats),
    Entry::text("consoles", consoles),
    Entry::text("cgroups", cgroups),
    Entry::dir("tty", TTY_ENTRIES),
    Entry::text("locks", locks),
    // The network namespace's files, as far as there are any: every process has the same one.
    Entry::dir("net", NET_ENTRIES),
    Entry { name: "timer_list", mode: 0o400, node: Node::Text(super::timers::timer_list) },
    Entry::dir("pressure", pressure::ENTRIES),
    Entry::dir("drupe", drupe::ENTRIES),
    Entry { name: "kmsg", mode: 0o400, node: Node::Ops(crate::fs::dev::open_proc_kmsg) },
];

static NET_ENTRIES: &[Entry] = &[Entry::text("unix", unix_sockets)];

fn locks(text: &mut Text) -> Result<()> {
    crate::fs::lock::show_locks(text).map_err(|_| Errno::EIO)
}

fn unix_sockets(text: &mut Text) -> Result<()> {
    crate::net::unix::show(text).map_err(|_| Errno::EIO)
}

static TTY_ENTRIES: &[Entry] = &[Entry::text("drivers", tty_drivers)];

fn self_link(space: &PidNamespace, text: &mut Text) -> Result<()> {
    let number = current().group.pid.number_in(space);
    if number == 0 {
        return Err(Errno::ENOENT);
    }
    text.int(i64::from(number));
    Ok(())
}

fn thread_self_link(space: &PidNamespace, text: &mut Text) -> Result<()> {
    self_link(space, text)?;
    text.str("/task/").int(i64::from(current().pid().number_in(space)));
    Ok(())
}

fn mounts_link(_: &PidNamespace, text: &mut Text) -> Result<()> {
    text.str("self/mounts");
    Ok(())
}

pub(super) fn cpus() -> impl Iterator<Item = usize> {
    let online = hal::cpu::online_mask();
    (0..hal::MAX_CPUS).filter(move |cpu| online >> cpu & 1 != 0)
}

/// User and system time of all tasks that exist or existed, ns.
fn busy_ns() -> (u64, u64) {
    let total = crate::task::usage::of_system();
    (total.user_ns, total.system_ns)
}

hal::global! {
    /// User, system and idle ticks that were shown, of all CPUs and of each: they never go back, whatever the rounding.
    static SHOWN: [[AtomicU64; 3]; hal::MAX_CPUS + 1] = [const { [const { AtomicU64::new(0) }; 3] }; hal::MAX_CPUS + 1];
}

/// A line of `/proc/stat`: user nice system idle iowait irq softirq steal guest guest_nice.
fn push_cpu_row(text: &mut Text, row: usize, ticks: [u64; 3]) {
    let shown: &[AtomicU64; 3] = &SHOWN[row];
    let [user, system, idle] = core::array::from_fn(|i| shown[i].fetch_max(ticks[i], Ordering::Relaxed).max(ticks[i]));
    text.byte(b' ').num(user).str(" 0").field(system).field(idle).str(" 0 0 0 0 0 0\n");
}

/// `/proc/stat`. Time is accounted per task, so user and system time of a CPU are its share of the whole, by how busy it
/// was.
fn stat(text: &mut Text) -> Result<()> {
    let now = time::monotonic_ns();
    let rows: Vec<(usize, u64)> = cpus().map(|cpu| (cpu, sched::idle_ns(cpu).min(now))).collect();
    let (user, system) = busy_ns();
    let ticks = |busy: u64, idle: u64| {
        let in_user = u128::from(busy) * u128::from(user) / u128::from((user + system).max(1));
        let in_user = (in_user as u64).min(busy);
        [in_user / TICK_NS, (busy - in_user) / TICK_NS, idle / TICK_NS]
    };
    text.str("cpu ");
    let idle: u64 = rows.iter().map(|(_, idle)| idle).sum();
    push_cpu_row(text, hal::MAX_CPUS, ticks(now * rows.len() as u64 - idle, idle));
    for (cpu, idle) in &rows {
        text.str("cpu").num(*cpu as u64);
        push_cpu_row(text, *cpu, ticks(now - idle, *idle));
    }
    let boot = time::boot_time_ns() / time::NSEC_PER_SEC;
    crate::interrupts::show_stat(text);
    text.str("ctxt ").num(sched::switch_count()).str("\nbtime ").num(boot);
    text.str("\nprocesses ").num(sched::FORKS.load(Ordering::Relaxed));
    text.str("\nprocs_running ").num(sched::running_tasks().max(1));
    text.str("\nprocs_blocked ").num(sched::blocked_tasks());
    text.str("\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n");
    Ok(())
}

/// `/proc/meminfo`. The names and their order are Linux's; what does not exist here is 0.
fn meminfo(text: &mut Text) -> Result<()> {
    let memory = crate::mm::usage();
    let kib = |pages: u64| pages * (PAGE_SIZE as u64 / 1024);
    let (heap_used, heap_held) = hal::mem::heap_usage();
    let slab = heap_held as u64 / 1024;
    let used = heap_used as u64 / 1024;
    let total = kib(memory.total_pages);
    let free = kib(memory.free_pages);
    let shmem = kib(memory.shmem_pages);
    let anonymous = total.saturating_sub(free + shmem + slab);
    for (name, value) in [
        ("MemTotal:       ", total),
        ("MemFree:        ", free),
        ("MemAvailable:   ", free),
        ("Buffers:        ", 0),
        ("Cached:         ", shmem),
        ("SwapCached:     ", 0),
        ("Active:         ", anonymous),
        ("Inactive:       ", shmem),
        ("Active(anon):   ", anonymous),
        ("Inactive(anon): ", shmem),
        ("Active(file):   ", 0),
        ("Inactive(file): ", 0),
        ("Unevictable:    ", 0),
        ("Mlocked:        ", 0),
        ("SwapTotal:      ", 0),
        ("SwapFree:       ", 0),
        ("Dirty:          ", 0),
        ("Writeback:      ", 0),
        ("AnonPages:      ", anonymous),
        ("Mapped:         ", 0),
        ("Shmem:          ", shmem),
        ("KReclaimable:   ", 0),
        ("Slab:           ", slab),
        ("SReclaimable:   ", 0),
        ("SUnreclaim:     ", used),
        ("KernelStack:    ", tree::lock().thread_count() as u64 * 16),
        ("PageTables:     ", 0),
        ("NFS_Unstable:   ", 0),
        ("Bounce:         ", 0),
        ("WritebackTmp:   ", 0),
        ("CommitLimit:    ", total / 2),
        ("Committed_AS:   ", anonymous + shmem),
    ] {
        text.str(name).num_right(value, 8).str(" kB\n");
    }
    text.str("VmallocTotal:   ").num_right(0, 8).str(" kB\nVmallocUsed:    ").num_right(0, 8);
    text.str(" kB\nVmallocChunk:   ").num_right(0, 8).str(" kB\nPercpu:         ").num_right(0, 8).str(" kB\n");
    Ok(())
}

fn push_seconds(text: &mut Text, ns: u64) {
    text.num(ns / time::NSEC_PER_SEC).byte(b'.').num_zeros(ns / TICK_NS % 100, 2);
}

/// `/proc/uptime`: seconds since boot, and the idle seconds of all CPUs.
fn uptime(text: &mut Text) -> Result<()> {
    push_seconds(text, time::boottime_ns());
    text.byte(b' ');
    push_seconds(text, cpus().map(sched::idle_ns).sum());
    text.byte(b'\n');
    Ok(())
}

/// `/proc/loadavg`.
fn loadavg(text: &mut Text) -> Result<()> {
    for load in sched::load::averages() {
        // Rounded to hundredths, as Linux does (FIXED_1/200 is half of one).
        let load = load + 2048 / 200;
        text.num(load >> 11).byte(b'.').num_zeros(((load & 2047) * 100) >> 11, 2).byte(b' ');
    }
    let threads = tree::lock().thread_count() as u64;
    let last = current().namespaces().pid().last_pid();
    text.num(sched::running_tasks().max(1)).byte(b'/').num(threads).byte(b' ').int(i64::from(last)).byte(b'\n');
    Ok(())
}

fn show_version(text: &mut Text) -> Result<()> {
    text.str(version::SYSNAME).str(" version ").str(version::RELEASE).str(" (").str(version::BUILDER);
    text.str(") (").str(version::COMPILER).str(") ").str(version::VERSION).byte(b'\n');
    Ok(())
}

/// `/proc/cpuinfo` in arm64's format.
fn cpuinfo(text: &mut Text) -> Result<()> {
    let (multiplier, shift) = hal::timer::counter_scale();
    let hertz = ((u128::from(time::NSEC_PER_SEC) << shift) / u128::from(multiplier.max(1))) as u64;
    let identity = hal::cpu::identification();
    // BogoMIPS of the timer-based delay loop, in hundredths: two loops a count.
    let bogomips = hertz / 5000;
    for cpu in cpus() {
        text.str("processor\t: ").num(cpu as u64).str("\nBogoMIPS\t: ").num(bogomips / 100).byte(b'.');
        text.num_zeros(bogomips % 100, 2).str("\nFeatures\t: ").str(FEATURES);
        text.str("\nCPU implementer\t: 0x").hex(identity >> 24 & 0xff, 2);
        text.str("\nCPU architecture: 8\nCPU variant\t: 0x").hex(identity >> 20 & 0xf, 1);
        text.str("\nCPU part\t: 0x").hex(identity >> 4 & 0xfff, 3);
        text.str("\nCPU revision\t: ").num(identity & 0xf).str("\n\n");
    }
    text.str("Model\t\t: ").str(crate::init::board_name()).byte(b'\n');
    Ok(())
}

/// What HWCAP announces, by Linux's names.
const FEATURES: &str = "fp asimd crc32";

fn filesystems(text: &mut Text) -> Result<()> {
    super_block::show_filesystems(text).map_err(|_| Errno::ENOMEM)
}

fn cmdline(text: &mut Text) -> Result<()> {
    text.str(crate::init::command_line()).byte(b'\n');
    Ok(())
}

/// `/proc/interrupts`.
fn interrupts(text: &mut Text) -> Result<()> {
    crate::interrupts::show(text);
    Ok(())
}

fn schedstat(text: &mut Text) -> Result<()> {
    sched::stats::show(text).map_err(|_| Errno::ENOMEM)
}

fn partitions(text: &mut Text) -> Result<()> {
    text.str("major minor  #blocks  name\n\n");
    Ok(())
}

fn swaps(text: &mut Text) -> Result<()> {
    text.str("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
    Ok(())
}

fn devices(text: &mut Text) -> Result<()> {
    text.str("Character devices:\n");
    chrdev::show_devices(text).map_err(|_| Errno::ENOMEM)?;
    text.str("\nBlock devices:\n");
    Ok(())
}

/// `/proc/misc`: the devices of major 10.
fn misc(text: &mut Text) -> Result<()> {
    text.num_right(125, 3).str(" cpu_dma_latency\n");
    Ok(())
}

fn diskstats(_: &mut Text) -> Result<()> {
    Ok(())
}

fn vmstat(text: &mut Text) -> Result<()> {
    let memory = crate::mm::usage();
    let total = crate::task::usage::of_system();
    let faults = total.minor_faults + total.major_faults;
    for (name, value) in [
        ("nr_free_pages", memory.free_pages),
        ("nr_shmem", memory.shmem_pages),
        ("nr_file_pages", memory.shmem_pages),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgfault", faults),
        ("pgmajfault", total.major_faults),
    ] {
        text.str(name).field(value).byte(b'\n');
    }
    Ok(())
}

fn consoles(text: &mut Text) -> Result<()> {
    if let Some(tty) = tty::console() {
        let start = text.len();
        text.str(tty.name()).pad_to(start, 21).str("-W- (EC p  )  ");
        let (major, minor) = tty.numbers();
        text.num_right(u64::from(major), 3).byte(b':').num(u64::from(minor)).byte(b'\n');
    }
    Ok(())
}

fn cgroups(text: &mut Text) -> Result<()> {
    text.str("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    Ok(())
}

fn tty_drivers(text: &mut Text) -> Result<()> {
    text.str("/dev/tty             /dev/tty        5       0 system:/dev/tty\n");
    text.str("/dev/console         /dev/console    5       1 system:console\n");
    text.str("/dev/ptmx            /dev/ptmx       5       2 system\n");
    text.str("serial               /dev/ttyAMA   204 64-77 serial\n");
    text.str("serial               /dev/ttyS       4 64-95 serial\n");
    text.str("pty_slave            /dev/pts      136 0-1048575 pty:slave\n");
    Ok(())
}
