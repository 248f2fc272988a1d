//! Bringing the kernel up, once the image has found the machine: an index of subsystems, then init.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use abi::Errno;
use abi::fcntl::AT_FDCWD;
use hal::mem::FrameRange;
use hal::thread::Start;
use hal::trap::{Handlers, UserFrame};
use spin::Once;

use crate::mm::load::{Arguments, NameKind};
use crate::mm::{frame, vdso};
use crate::task::exec::{self, Request};
use crate::task::{self, current, kthread};
use crate::tty::SerialPort;
use crate::{fs, sched, sync, time, trap};

/// What the image knows of the machine.
pub struct BootParams {
    /// The kernel command line.
    pub command_line: &'static str,
    /// Where the initramfs lies, and its length in bytes.
    pub initramfs: Option<(FrameRange, usize)>,
    /// CPUs that there are.
    pub cpus: usize,
    /// The board, for `/proc/cpuinfo` and the log.
    pub board_name: &'static str,
    /// The console.
    pub serial: Option<Arc<dyn SerialPort>>,
    /// How to end.
    pub power: &'static dyn Power,
    /// Starts a CPU, which calls the function.
    pub start_cpu: fn(usize, fn() -> !) -> bool,
    /// The board's device interrupts.
    pub interrupt: fn(),
}

/// Ending the machine.
pub trait Power: Sync {
    /// Switches off. Returns only if it cannot.
    fn power_off(&self);
    /// Starts again. Returns only if it cannot.
    fn restart(&self);
}

hal::global! {
    static PARAMS: Once<BootParams> = Once::new();
    static HANDLERS: Once<&'static Handlers> = Once::new();
    static SECONDARIES: AtomicUsize = AtomicUsize::new(0);
}

/// `/proc/sys/kernel/panic`, at boot `panic=`: 0 stays after a panic, a positive number waits so many seconds and restarts,
/// a negative one ends at once (Linux restarts at once; we switch off, because a test that panicked has to end).
pub static PANIC_SECONDS: AtomicI32 = AtomicI32::new(0);

/// The value of `name=value` on the command line, or "" for a bare `name`. The last one counts, as in Linux.
pub fn parameter(name: &str) -> Option<&'static str> {
    let line: &'static str = PARAMS.get()?.command_line;
    let value = |word: &'static str| match word.strip_prefix(name) {
        Some("") => Some(""),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    };
    line.split_ascii_whitespace().filter_map(value).next_back()
}

/// The command line as it was given.
pub fn command_line() -> &'static str {
    PARAMS.get().map_or("", |params| params.command_line)
}

/// The board's name.
pub fn board_name() -> &'static str {
    PARAMS.get().map_or("hosted", |params| params.board_name)
}

/// How to end; `None` before [`start`].
pub fn power() -> Option<&'static dyn Power> {
    PARAMS.get().map(|params| params.power)
}

/// The kernel proper, on the boot CPU. Its flow becomes the idle task.
pub fn start(params: BootParams) -> ! {
    frame::init();
    let params = PARAMS.call_once(|| params);
    let handlers = HANDLERS.call_once(|| Box::leak(Box::new(trap::handlers(params.interrupt))));
    hal::trap::install(handlers);
    sched::adopt_idle(&kthread::idle(0), start_as_idle)
}

/// The rest of [`start`], as the idle task of the boot CPU.
fn start_as_idle() -> ! {
    let params = PARAMS.get().expect("start sets them");
    crate::printk::configure(command_line());
    crate::random::init();
    log::info!("Memory: {} KiB available of {} KiB", frame::free_count() * 4, hal::mem::total_bytes() >> 10);
    limit_threads();
    if let Err(error) = vdso::init() {
        log::warn!("vdso: not available ({error})");
    }
    fs::init();
    crate::tty::init(params.serial.clone());
    time::update_coarse();
    start_secondaries(params);
    let nowhere = Start::User(UserFrame::new(0, 0));
    let init = kthread::create_with("init", nowhere).expect("memory for the first task");
    let kthreadd = Start::Kernel { entry: kthreadd_main, argument: 0 };
    let kthreadd = kthread::create_with("kthreadd", kthreadd).expect("memory for the second task");
    sched::start(&kthreadd);
    // Before the first program: moving a task may need them.
    crate::stop_machine::init();
    crate::workqueue::init();
    sched::start(&init);
    drop((init, kthreadd));
    hal::cpu::irq_enable();
    sched::idle_loop()
}

/// `/proc/sys/kernel/threads-max`: threads may take an eighth of memory, as Linux computes it.
fn limit_threads() {
    let bytes = frame::managed_count() as u64 * 4096;
    let most = (bytes / 8 / 16384).clamp(64, 0x3fff_ffff);
    task::clone::MAX_THREADS.store(most, Ordering::Relaxed);
}

fn start_secondaries(params: &BootParams) {
    let wanted = parameter("maxcpus").and_then(|text| text.parse().ok()).unwrap_or(params.cpus).clamp(1, params.cpus);
    let started = (1..wanted).filter(|cpu| (params.start_cpu)(*cpu, secondary)).count();
    log::info!("smp: Brought up 1 node, {} CPUs", started + 1);
}

/// A secondary CPU: its flow becomes its idle task.
pub fn secondary() -> ! {
    let cpu = hal::cpu::id();
    sched::adopt_idle(&kthread::idle(cpu), secondary_as_idle)
}

fn secondary_as_idle() -> ! {
    SECONDARIES.fetch_add(1, Ordering::Relaxed);
    hal::cpu::irq_enable();
    sched::idle_loop()
}

/// PID 2: the parent of kernel threads, and the one that zeroes frames ahead of time while nothing else runs.
fn kthreadd_main(_: usize) {
    if let Err(error) = kthread::spawn("kzerod", zero_frames) {
        log::warn!("kzerod: {error}");
    }
    crate::tty::start_workers();
    loop {
        // S, as Linux's kthreadd, whose children are the ones that show I.
        current().set_state(task::TaskState::Interruptible);
        sched::schedule();
    }
}

/// Keeps the pool of zeroed frames filled, at the lowest priority.
fn zero_frames() -> i32 {
    let idle = sched::Policy::Fair { policy: abi::sched::SCHED_IDLE, nice: 0, slice_ns: 0 };
    sched::set_policy(&current().arc(), idle).expect("it asks for no bandwidth");
    loop {
        while frame::zero_some(16) == 16 {
            hal::cpu::relax();
        }
        // Nothing ends this sleep but the condition.
        let _ = ZEROING.wait_event(task::TaskState::Idle, frame::wants_zeroing);
    }
}

hal::global! {
    /// Where the thread that zeroes frames waits.
    static ZEROING: sync::WaitQueue = sync::WaitQueue::new();
}

/// At the tick of a busy CPU, which is who takes zeroed frames: an idle machine is not woken to look after them.
pub fn refill_zeroed_frames() {
    if !ZEROING.is_idle() && frame::wants_zeroing() {
        ZEROING.wake_all();
    }
}

/// PID 1, before it first reaches user code: unpacks the initramfs and becomes the first program.
pub(crate) fn run_init() {
    let params = PARAMS.get().expect("start recorded them");
    let task = current();
    drop(task.replace_files(Some(fs::Files::new())));
    drop(task.replace_fs(Some(fs::FsContext::initial())));
    crate::signal::set_blocked(0);
    match params.initramfs {
        Some((range, length)) => match fs::initramfs::unpack(range, length) {
            Ok(files) => log::info!("initramfs: {files} files"),
            Err(message) => panic!("initramfs: {message}"),
        },
        None => panic!("No initramfs was given: there is no root file system"),
    }
    fs::open_console();
    let mut tried = String::new();
    let wanted = parameter("init").or_else(|| parameter("rdinit"));
    let fallbacks = ["/init", "/sbin/init", "/bin/init", "/bin/sh"];
    let candidates: Vec<&str> = wanted.into_iter().chain(fallbacks).collect();
    for path in candidates {
        log::info!("Run {path} as init process");
        match exec_init(path) {
            Ok(()) => return,
            // Who asks for a program gets it or hears why not, as on Linux; init= counts before the archive's /init.
            Err(error) if parameter("init") == Some(path) => {
                panic!("Requested init {path} failed (error -{}).", error.number())
            }
            Err(error) => {
                tried.push_str(&alloc::format!(" {path} ({error})"));
                if error != Errno::ENOENT {
                    log::error!("{path}: {error}");
                }
            }
        }
    }
    panic!("No working init found. Tried:{tried}. Give init= on the kernel command line");
}

fn exec_init(path: &str) -> crate::Result<()> {
    let file = fs::open_exec(AT_FDCWD, path.as_bytes(), 0)?;
    let envp = alloc::vec![b"HOME=/".to_vec(), b"TERM=linux".to_vec()];
    let arguments = Arguments::Kernel { argv: alloc::vec![path.as_bytes().to_vec()], envp };
    let request = Request { file, name: path.as_bytes().to_vec(), name_kind: NameKind::Lasting, arguments };
    let mut registers = current().thread.user_frame();
    exec::exec(request, &mut registers)?;
    current().thread.set_user_frame(&registers);
    Ok(())
}

/// Who runs here, for the panic report.
pub fn describe_current(out: &mut dyn fmt::Write) {
    if !hal::thread::has_current() {
        let _ = write!(out, "(early boot)");
        return;
    }
    let task = current();
    let _ = write!(out, "PID: {} Comm: {}", task.tid(), task.comm());
}
