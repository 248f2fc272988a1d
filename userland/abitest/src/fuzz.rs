//! System calls at random: every number from 0 to 600 with arguments that are nonsense, nearly right, or right. Nothing is
//! expected of the results; the kernel has to survive, and so have all processes but the child that does it.
//!
//! What a program that may do everything could rightly do to the machine is left out: rebooting, killing strangers,
//! unmounting, changing clocks and names.

use crate::kernel::{
    self, AT_FDCWD, SIGKILL, SYS_acct, SYS_adjtimex, SYS_chroot, SYS_clock_adjtime, SYS_clock_settime,
    SYS_delete_module, SYS_exit, SYS_exit_group, SYS_finit_module, SYS_init_module, SYS_kexec_load, SYS_kill,
    SYS_mount, SYS_move_mount, SYS_open_tree, SYS_pidfd_send_signal, SYS_pivot_root, SYS_prlimit64, SYS_ptrace,
    SYS_quotactl, SYS_reboot, SYS_rt_sigqueueinfo, SYS_rt_sigreturn, SYS_rt_tgsigqueueinfo, SYS_sched_setaffinity,
    SYS_sched_setattr, SYS_sched_setparam, SYS_sched_setscheduler, SYS_setdomainname, SYS_sethostname, SYS_setns,
    SYS_setpriority, SYS_settimeofday, SYS_swapoff, SYS_swapon, SYS_syslog, SYS_tgkill, SYS_tkill, SYS_umount2,
    SYS_vhangup, c_long,
};

/// The C library for arm64 has no name for it.
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: c_long = 294;
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: c_long = 320;

/// Never called: they may rightly end the machine, a stranger, or the test.
const LEFT_OUT: &[c_long] = &[
    SYS_acct,
    SYS_adjtimex,
    SYS_chroot,
    SYS_clock_adjtime,
    SYS_clock_settime,
    SYS_delete_module,
    SYS_exit,
    SYS_exit_group,
    SYS_finit_module,
    SYS_init_module,
    KEXEC_FILE_LOAD,
    SYS_kexec_load,
    SYS_kill,
    SYS_mount,
    SYS_move_mount,
    SYS_open_tree,
    SYS_pidfd_send_signal,
    SYS_pivot_root,
    SYS_prlimit64,
    SYS_ptrace,
    SYS_quotactl,
    SYS_reboot,
    SYS_rt_sigqueueinfo,
    SYS_rt_sigreturn,
    SYS_rt_tgsigqueueinfo,
    SYS_sched_setaffinity,
    SYS_sched_setattr,
    SYS_sched_setparam,
    SYS_sched_setscheduler,
    SYS_setdomainname,
    SYS_sethostname,
    SYS_setns,
    SYS_setpriority,
    SYS_settimeofday,
    SYS_swapoff,
    SYS_swapon,
    SYS_syslog,
    SYS_tgkill,
    SYS_tkill,
    SYS_umount2,
    SYS_vhangup,
];

/// The numbers that are tried.
const NUMBERS: u64 = 601;

/// Calls that one child makes; then a fresh one takes over, because the old one has soon closed and unmapped all it had.
const CALLS_OF_A_CHILD: u64 = 50;

/// How long a child may take: calls that sleep are interrupted by the end.
const PATIENCE_MS: i64 = 300;

/// xorshift64*: the same seed gives the same calls.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// An argument of one of the kinds that break kernels.
    fn argument(&mut self, memory: usize) -> usize {
        match self.below(12) {
            0 => 0,
            1 => self.below(64) as usize,
            2 => usize::MAX - self.below(4096) as usize,
            3 => memory + self.below(8192) as usize,
            4 => memory + (self.below(1024) * 8) as usize,
            // Ends in a page that is not there.
            5 => memory + 16384 - self.below(64) as usize,
            6 => 0xffff_0000_0000_0000 | (self.next() >> 20) as usize,
            7 => 1 << self.below(64),
            8 => AT_FDCWD as usize,
            9 => i64::MIN as usize,
            10 => (self.below(16) * 4096) as usize,
            _ => self.next() as usize,
        }
    }
}

/// Makes `number` calls; 0 when the kernel and this process are still there.
pub fn run(number: u64, seed: u64) -> i32 {
    let mut random = Random::new(seed);
    let directory = std::env::temp_dir().join(format!("fuzz.{}", std::process::id()));
    let _ = std::fs::create_dir_all(&directory);
    let _ = std::env::set_current_dir(&directory);
    let mut left = number;
    while left > 0 {
        let calls = left.min(CALLS_OF_A_CHILD);
        let child_seed = random.next();
        match kernel::child(|| child(calls, child_seed)) {
            Ok(pid) => watch(pid),
            // The children of children may be many for a moment.
            Err(_) => kernel::sleep_ms(10),
        }
        left -= calls;
    }
    let _ = std::env::set_current_dir("/");
    let _ = std::fs::remove_dir_all(&directory);
    println!("ok fuzz: {number} calls, seed {seed}");
    0
}

/// Waits for the child and its likes, not for ever.
fn watch(pid: i32) {
    for _ in 0..PATIENCE_MS {
        match kernel::sys!(kernel::SYS_wait4, pid, 0, kernel::WNOHANG, 0) {
            Ok(0) => kernel::sleep_ms(1),
            _ => break,
        }
    }
    let _ = kernel::kill(-pid, SIGKILL);
    let _ = kernel::kill(pid, SIGKILL);
    // Also of clones that its calls have made our children.
    while kernel::sys!(kernel::SYS_wait4, -1, 0, kernel::WNOHANG | kernel::__WALL, 0).is_ok_and(|pid| pid > 0) {}
}

fn child(calls: u64, seed: u64) -> i32 {
    let _ = kernel::sys!(kernel::SYS_setsid);
    // What a call writes to the standard streams is not for the console.
    let null = kernel::open("/dev/null", kernel::O_RDWR, 0).unwrap_or(-1);
    for stream in 0..=2 {
        let _ = kernel::sys!(kernel::SYS_dup3, null, stream, 0);
    }
    // As nobody, so that a right call does no harm to files.
    let _ = kernel::become_user();
    let _ = kernel::limit(kernel::RLIMIT_NPROC, 30, 30);
    let _ = kernel::limit(kernel::RLIMIT_FSIZE, 1 << 20, 1 << 20);
    let _ = kernel::limit(kernel::RLIMIT_AS, 256 << 20, 256 << 20);
    let Ok(memory) = kernel::memory(16384 + 4096) else { return 1 };
    let _ = kernel::sys!(kernel::SYS_munmap, memory + 16384, 4096);
    let mut random = Random(seed | 1);
    for word in (0..16384).step_by(8) {
        kernel::poke(memory + word, random.argument(memory));
    }
    for _ in 0..calls {
        let number = random.below(NUMBERS) as c_long;
        let arguments = std::array::from_fn(|_| random.argument(memory));
        if !LEFT_OUT.contains(&number) {
            kernel::raw(number, arguments);
        }
    }
    0
}
