//! `/proc/sys`: the settings that programs read, and those that can be changed. Documentation/admin-guide/sysctl.
//!
//! Writing needs to be root by file mode; the values are checked here.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::capability::{CAP_CHECKPOINT_RESTORE, CAP_LAST_CAP, CAP_SYS_ADMIN};
use hal::sync::SpinLock;

use super::text::Text;
use super::{Entry, Node, parse_number};
use crate::Result;
use crate::fs::mount::MOUNT_MAX;
use crate::fs::notify::inotify;
use crate::fs::{eventpoll, fdtable, file, permission, pipe};
use crate::mm::{MMAP_MIN_ADDR, oom, settings};
use crate::sched::{bandwidth, realtime};
use crate::sync::order;
use crate::task::{clone, coredump, current, yama};
use crate::tty::pty;
use crate::{printk, random, version};

/// A number that lies in a static, within bounds.
macro_rules! int {
    ($name:literal, $setting:path, $least:expr, $most:expr) => {
        Entry::setting($name, |text| show(text, &$setting), |value| store(value, &$setting, $least, $most))
    };
}

pub(super) static ENTRIES: &[Entry] = &[
    Entry::dir("kernel", KERNEL),
    Entry::dir("vm", VM),
    Entry::dir("fs", FS),
    Entry::dir("net", NET),
    Entry::dir("user", &[]),
    Entry::dir("dev", DEV),
    Entry::dir("abi", &[]),
    Entry::dir("debug", DEBUG),
];

/// Documentation/userspace-api/seccomp_filter.rst; the order is from the worst to the mildest.
static SECCOMP: &[Entry] = &[
    Entry::text("actions_avail", |text| line(text, "kill_process kill_thread trap errno user_notif trace log allow")),
    Entry::text("actions_logged", |text| line(text, "kill_process kill_thread trap errno user_notif trace log")),
];

static KERNEL: &[Entry] = &[
    Entry::setting("hostname", hostname, set_hostname),
    Entry::setting("domainname", domainname, set_domainname),
    Entry::text("ostype", |text| line(text, version::SYSNAME)),
    Entry::text("osrelease", |text| line(text, version::RELEASE)),
    Entry::text("version", |text| line(text, version::VERSION)),
    Entry::text("arch", |text| line(text, version::MACHINE)),
    Entry::setting("pid_max", pid_max, set_pid_max),
    Entry::setting("threads-max", |text| number(text, clone::MAX_THREADS.load(Ordering::Relaxed)), set_threads_max),
    Entry::text("ngroups_max", |text| number(text, 65_536)),
    Entry { name: "ns_last_pid", mode: 0o666, node: Node::Setting(ns_last_pid, set_ns_last_pid) },
    Entry::text("cap_last_cap", |text| number(text, u64::from(CAP_LAST_CAP))),
    Entry::dir("seccomp", SECCOMP),
    Entry::setting("printk", console_levels, set_console_levels),
    Entry::setting("dmesg_restrict", dmesg_restrict, set_dmesg_restrict),
    int!("overflowuid", OVERFLOW_UID, 0, 65_535),
    int!("overflowgid", OVERFLOW_GID, 0, 65_535),
    int!("randomize_va_space", settings::RANDOMIZE, 0, 2),
    Entry::setting("core_pattern", core_pattern, set_core_pattern),
    int!("core_uses_pid", coredump::USES_PID, 0, MOST),
    int!("core_pipe_limit", coredump::PIPE_LIMIT, 0, MOST),
    int!("ctrl-alt-del", CTRL_ALT_DEL, 0, MOST),
    Entry::text("kptr_restrict", |text| number(text, 1)),
    Entry::text("perf_event_paranoid", |text| number(text, 2)),
    Entry::text("sched_child_runs_first", |text| number(text, 0)),
    int!("sched_deadline_period_max_us", bandwidth::PERIOD_MAX_US, 100, MOST),
    int!("sched_deadline_period_min_us", bandwidth::PERIOD_MIN_US, 100, MOST),
    Entry::setting("sched_rr_timeslice_ms", |text| show(text, &realtime::RR_SLICE_MS), set_rr_slice),
    Entry::setting("sched_rt_period_us", |text| show(text, &realtime::PERIOD_US), set_rt_period),
    Entry::setting("sched_rt_runtime_us", rt_runtime, set_rt_runtime),
    Entry::text("shmall", |text| number(text, u64::MAX - (1 << 24))),
    Entry::text("shmmax", |text| number(text, u64::MAX - (1 << 24))),
    Entry::text("shmmni", |text| number(text, 4096)),
    Entry::text("sem", |text| line(text, "32000\t1024000000\t500\t32000")),
    Entry::text("msgmax", |text| number(text, 8192)),
    Entry::text("msgmnb", |text| number(text, 16_384)),
    Entry::text("msgmni", |text| number(text, 32_000)),
    Entry::text("tainted", |text| number(text, 0)),
    Entry::setting("panic", panic_timeout, set_panic_timeout),
    // A fault of the kernel itself is never survived here.
    Entry::text("panic_on_oops", |text| number(text, 1)),
    Entry::text("sysrq", |text| number(text, 0)),
    Entry::dir("random", RANDOM),
    Entry::dir("pty", PTY),
    Entry::dir("yama", YAMA),
    Entry::dir("keys", &[]),
];

static RANDOM: &[Entry] = &[
    Entry::text("uuid", |text| push_uuid(text, random_uuid())),
    Entry::text("boot_id", boot_id),
    Entry::text("entropy_avail", |text| number(text, 256)),
    Entry::text("poolsize", |text| number(text, 256)),
    Entry::text("urandom_min_reseed_secs", |text| number(text, 60)),
    Entry::text("write_wakeup_threshold", |text| number(text, 256)),
];

static PTY: &[Entry] = &[
    Entry::text("max", |text| number(text, pty::MAX_PTYS.into())),
    Entry::text("nr", |text| number(text, pty::count().into())),
    Entry::text("reserve", |text| number(text, pty::RESERVED_PTYS.into())),
];

static YAMA: &[Entry] = &[Entry::setting("ptrace_scope", |text| number(text, yama::scope().into()), set_ptrace_scope)];

static VM: &[Entry] = &[
    // Strict accounting (2) is refused, not ignored.
    int!("overcommit_memory", settings::OVERCOMMIT, 0, 1),
    Entry::text("overcommit_ratio", |text| number(text, 50)),
    Entry::text("overcommit_kbytes", |text| number(text, 0)),
    int!("max_map_count", settings::MAX_MAP_COUNT, 0, MOST),
    Entry::text("mmap_min_addr", |text| number(text, MMAP_MIN_ADDR)),
    Entry::text("swappiness", |text| number(text, 60)),
    int!("panic_on_oom", oom::PANIC_ON_OOM, 0, 2),
    int!("oom_kill_allocating_task", oom::KILL_ALLOCATING_TASK, 0, MOST),
    Entry { name: "drop_caches", mode: 0o200, node: Node::Setting(|text| number(text, 0), set_drop_caches) },
];

static FS: &[Entry] = &[
    Entry::setting("file-max", |text| number(text, file::FILE_MAX.load(Ordering::Relaxed)), set_file_max),
    Entry::text("file-nr", file_numbers),
    Entry::setting("nr_open", |text| number(text, fdtable::nr_open()), set_nr_open),
    Entry::setting("pipe-max-size", pipe_max_size, set_pipe_max_size),
    Entry::text("pipe-user-pages-hard", |text| number(text, 0)),
    Entry::text("pipe-user-pages-soft", |text| number(text, 16_384)),
    int!("mount-max", MOUNT_MAX, 1, u32::MAX),
    int!("protected_hardlinks", permission::PROTECTED_HARDLINKS, 0, 1),
    int!("protected_symlinks", permission::PROTECTED_SYMLINKS, 0, 1),
    int!("protected_fifos", permission::PROTECTED_FIFOS, 0, 2),
    int!("protected_regular", permission::PROTECTED_REGULAR, 0, 2),
    Entry::setting("suid_dumpable", |text| show(text, &coredump::SUID_DUMPABLE), set_suid_dumpable),
    int!("overflowuid", OVERFLOW_UID, 0, 65_535),
    int!("overflowgid", OVERFLOW_GID, 0, 65_535),
    Entry::text("lease-break-time", |text| number(text, 45)),
    Entry::text("aio-max-nr", |text| number(text, 65_536)),
    Entry::dir("epoll", EPOLL),
    Entry::dir("inotify", INOTIFY),
    // Where binfmt_misc is mounted.
    Entry::dir("binfmt_misc", &[]),
];

static EPOLL: &[Entry] = &[Entry::setting(
    "max_user_watches",
    |text| number(text, eventpoll::max_user_watches()),
    |value| eventpoll::set_max_user_watches(parse_number(value)?),
)];

static INOTIFY: &[Entry] = &[
    int!("max_queued_events", inotify::MAX_QUEUED_EVENTS, 0, MOST),
    int!("max_user_instances", inotify::MAX_USER_INSTANCES, 0, MOST),
    Entry::setting(
        "max_user_watches",
        |text| number(text, inotify::max_user_watches()),
        |value| inotify::set_max_user_watches(parse_number(value)?),
    ),
];

static NET: &[Entry] = &[Entry::dir("core", NET_CORE)];
static NET_CORE: &[Entry] = &[Entry::text("somaxconn", |text| number(text, 4096))];

static DEV: &[Entry] = &[Entry::dir("tty", DEV_TTY)];
static DEV_TTY: &[Entry] =
    &[Entry::text("ldisc_autoload", |text| number(text, 0)), Entry::text("legacy_tiocsti", |text| number(text, 0))];

static DEBUG: &[Entry] = &[Entry::text("exception-trace", |text| number(text, 1))];

fn line(text: &mut Text, value: &str) -> Result<()> {
    text.str(value).byte(b'\n');
    Ok(())
}

fn number(text: &mut Text, value: u64) -> Result<()> {
    text.num(value).byte(b'\n');
    Ok(())
}

/// The largest value of a setting that Linux keeps in an `int`.
const MOST: u32 = i32::MAX as u32;

fn show(text: &mut Text, setting: &AtomicU32) -> Result<()> {
    number(text, u64::from(setting.load(Ordering::Relaxed)))
}

/// Sets a number within bounds (Linux `proc_dointvec_minmax`).
fn store(value: &[u8], setting: &AtomicU32, least: u32, most: u32) -> Result<()> {
    let value: u32 = parse_number(value)?;
    if !(least..=most).contains(&value) {
        return Err(Errno::EINVAL);
    }
    setting.store(value, Ordering::Relaxed);
    Ok(())
}

/// 0 and what is negative stand for the default (Linux `sched_rr_handler`).
fn set_rr_slice(value: &[u8]) -> Result<()> {
    let value: i32 = parse_number(value)?;
    let slice = u32::try_from(value).ok().filter(|slice| *slice > 0).unwrap_or(realtime::RR_DEFAULT_SLICE_MS);
    realtime::RR_SLICE_MS.store(slice, Ordering::Relaxed);
    Ok(())
}

fn rt_runtime(text: &mut Text) -> Result<()> {
    text.int(i64::from(realtime::RUNTIME_US.load(Ordering::Relaxed))).byte(b'\n');
    Ok(())
}

fn set_rt_runtime(value: &[u8]) -> Result<()> {
    let runtime: i32 = parse_number(value)?;
    check_rt(runtime, realtime::PERIOD_US.load(Ordering::Relaxed))?;
    realtime::RUNTIME_US.store(runtime, Ordering::Relaxed);
    Ok(())
}

fn set_rt_period(value: &[u8]) -> Result<()> {
    let period: u32 = parse_number(value)?;
    check_rt(realtime::RUNTIME_US.load(Ordering::Relaxed), period)?;
    realtime::PERIOD_US.store(period, Ordering::Relaxed);
    Ok(())
}

/// Linux `sched_rt_handler`: -1 lifts the limit, otherwise the runtime is part of the period (`EINVAL`); the deadline tasks
/// that were let in still fit (`EBUSY`).
fn check_rt(runtime: i32, period: u32) -> Result<()> {
    let in_period = u32::try_from(runtime).map_or(runtime == -1, |runtime| runtime <= period);
    if period == 0 || period > MOST || !in_period {
        return Err(Errno::EINVAL);
    }
    if bandwidth::fits(runtime, period) { Ok(()) } else { Err(Errno::EBUSY) }
}

fn core_pattern(text: &mut Text) -> Result<()> {
    text.bytes(&coredump::current_pattern()).byte(b'\n');
    Ok(())
}

fn set_core_pattern(value: &[u8]) -> Result<()> {
    coredump::set_pattern(value.split(|byte| matches!(byte, b'\n' | 0)).next().unwrap_or_default());
    Ok(())
}

fn set_ptrace_scope(value: &[u8]) -> Result<()> {
    yama::set_scope(parse_number(value)?)
}

fn set_suid_dumpable(value: &[u8]) -> Result<()> {
    store(value, &coredump::SUID_DUMPABLE, 0, 2)?;
    coredump::warn_of_unsafe_pattern();
    Ok(())
}

hal::global! {
    /// `overflowuid` and `overflowgid`: what an id becomes that a user namespace has no name for.
    static OVERFLOW_UID: AtomicU32 = AtomicU32::new(65_534);
    static OVERFLOW_GID: AtomicU32 = AtomicU32::new(65_534);
    /// `ctrl-alt-del`, as reboot(2) sets it. No keyboard asks for it.
    pub static CTRL_ALT_DEL: AtomicU32 = AtomicU32::new(1);
}

fn ns_last_pid(text: &mut Text) -> Result<()> {
    text.int(i64::from(current().namespaces().pid().last_pid())).byte(b'\n');
    Ok(())
}

/// For who restores processes under their numbers (Linux `pid_ns_ctl_handler`).
fn set_ns_last_pid(value: &[u8]) -> Result<()> {
    if !current().capable(CAP_CHECKPOINT_RESTORE) {
        require_admin()?;
    }
    let namespaces = current().namespaces();
    let last: i32 = parse_number(value)?;
    if last < 0 || last >= namespaces.pid().pid_max.load(Ordering::Relaxed) {
        return Err(Errno::EINVAL);
    }
    namespaces.pid().set_last_pid(last);
    Ok(())
}

fn panic_timeout(text: &mut Text) -> Result<()> {
    text.int(i64::from(crate::init::PANIC_SECONDS.load(Ordering::Relaxed))).byte(b'\n');
    Ok(())
}

fn set_panic_timeout(value: &[u8]) -> Result<()> {
    crate::init::PANIC_SECONDS.store(parse_number(value)?, Ordering::Relaxed);
    Ok(())
}

fn set_file_max(value: &[u8]) -> Result<()> {
    let value: u64 = parse_number(value)?;
    if i64::try_from(value).is_err() {
        return Err(Errno::EINVAL);
    }
    file::FILE_MAX.store(value, Ordering::Relaxed);
    Ok(())
}

/// A multiple of the bits of a word, up to what a table can hold.
fn set_nr_open(value: &[u8]) -> Result<()> {
    let value: u64 = parse_number(value)?;
    if !(64..=fdtable::NR_OPEN).contains(&value) {
        return Err(Errno::EINVAL);
    }
    fdtable::NR_OPEN_SETTING.store(value, Ordering::Relaxed);
    Ok(())
}

fn require_admin() -> Result<()> {
    if current().capable(CAP_SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

fn hostname(text: &mut Text) -> Result<()> {
    text.bytes(&current().namespaces().uts().names().host).byte(b'\n');
    Ok(())
}

fn set_hostname(value: &[u8]) -> Result<()> {
    require_admin()?;
    current().namespaces().uts().set_host(value.to_vec())
}

fn domainname(text: &mut Text) -> Result<()> {
    text.bytes(&current().namespaces().uts().names().domain).byte(b'\n');
    Ok(())
}

fn set_domainname(value: &[u8]) -> Result<()> {
    require_admin()?;
    current().namespaces().uts().set_domain(value.to_vec())
}

fn pid_max(text: &mut Text) -> Result<()> {
    let max = current().namespaces().pid().pid_max.load(Ordering::Relaxed);
    number(text, u64::from(max.unsigned_abs()))
}

/// 301 to 4194304 (Linux `pid_max_min`, `pid_max_max`).
fn set_pid_max(value: &[u8]) -> Result<()> {
    require_admin()?;
    let max: i32 = parse_number(value)?;
    if !(301..=4_194_304).contains(&max) {
        return Err(Errno::EINVAL);
    }
    current().namespaces().pid().pid_max.store(max, Ordering::Relaxed);
    Ok(())
}

/// 1 to `FUTEX_TID_MASK` (Linux `sysctl_max_threads`).
fn set_threads_max(value: &[u8]) -> Result<()> {
    require_admin()?;
    let max: i32 = parse_number(value)?;
    if !(1..=0x3fff_ffff).contains(&max) {
        return Err(Errno::EINVAL);
    }
    clone::MAX_THREADS.store(u64::from(max.unsigned_abs()), Ordering::Relaxed);
    Ok(())
}

fn console_levels(text: &mut Text) -> Result<()> {
    let [level, message, minimum, default] = printk::levels().map(u64::from);
    text.num(level).byte(b'\t').num(message).byte(b'\t').num(minimum).byte(b'\t').num(default).byte(b'\n');
    Ok(())
}

/// The first number counts; the others cannot be changed.
fn set_console_levels(value: &[u8]) -> Result<()> {
    let first = value.split(u8::is_ascii_whitespace).next().unwrap_or(value);
    printk::set_console_level(parse_number(first)?);
    Ok(())
}

fn dmesg_restrict(text: &mut Text) -> Result<()> {
    number(text, u64::from(printk::DMESG_RESTRICT.load(Ordering::Relaxed)))
}

fn set_dmesg_restrict(value: &[u8]) -> Result<()> {
    require_admin()?;
    let value: u32 = parse_number(value)?;
    if value > 1 {
        return Err(Errno::EINVAL);
    }
    printk::DMESG_RESTRICT.store(value, Ordering::Relaxed);
    Ok(())
}

fn random_uuid() -> [u8; 16] {
    let mut uuid = [0; 16];
    random::fill(&mut uuid);
    // Version 4, variant 1 (RFC 4122, 4.4).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn push_uuid(text: &mut Text, uuid: [u8; 16]) -> Result<()> {
    for (index, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.byte(b'-');
        }
        text.hex(u64::from(*byte), 2);
    }
    text.byte(b'\n');
    Ok(())
}

hal::global! {
    static BOOT_ID: SpinLock<Option<[u8; 16]>> = SpinLock::new(order::TASK_FIELDS, None);
}

/// One UUID for each boot, made when it is first read.
fn boot_id(text: &mut Text) -> Result<()> {
    let uuid = *BOOT_ID.lock().get_or_insert_with(random_uuid);
    push_uuid(text, uuid)
}

/// Nothing that is cached can be dropped: files in memory are their own storage. The request is valid all the same.
fn set_drop_caches(value: &[u8]) -> Result<()> {
    let value: u64 = parse_number(value)?;
    if !(1..=4).contains(&value) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Open files, free slots (always 0), the limit.
fn file_numbers(text: &mut Text) -> Result<()> {
    text.num(file::open_files()).str("\t0\t").num(file::FILE_MAX.load(Ordering::Relaxed)).byte(b'\n');
    Ok(())
}

fn pipe_max_size(text: &mut Text) -> Result<()> {
    number(text, pipe::MAX_SIZE.load(Ordering::Relaxed) as u64)
}

fn set_pipe_max_size(value: &[u8]) -> Result<()> {
    let value: usize = parse_number(value)?;
    if value == 0 || value > 1 << 31 {
        return Err(Errno::EINVAL);
    }
    pipe::MAX_SIZE.store(value.next_power_of_two().max(hal::mem::PAGE_SIZE), Ordering::Relaxed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Text, push_uuid, random_uuid};

    #[test]
    fn a_uuid_has_its_dashes_and_its_version() {
        let mut text = Text::new();
        push_uuid(&mut text, random_uuid()).unwrap();
        let text = String::from_utf8(text.into_bytes()).unwrap();
        let groups: Vec<&str> = text.trim_end().split('-').collect();
        assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(groups[2].starts_with('4'));
        assert!("89ab".contains(&groups[3][..1]));
    }
}
