//! CPU times and counters: getrusage(2), times(2), `/proc/PID/stat`.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::resource::Rusage;
use abi::time::Timeval;

/// Counters of a thread, or the sum over threads that are gone. Times in ns.
#[derive(Default)]
pub struct CpuTimes {
    /// In user code.
    pub user_ns: AtomicU64,
    /// In the kernel.
    pub system_ns: AtomicU64,
    /// Page faults without I/O.
    pub minor_faults: AtomicU64,
    /// Page faults with I/O.
    pub major_faults: AtomicU64,
    /// Switches because it slept.
    pub voluntary_switches: AtomicU64,
    /// Switches because it was preempted.
    pub involuntary_switches: AtomicU64,
    /// read(2) and its like: bytes, calls; then the same of write(2) (`/proc/PID/io`).
    pub io: [AtomicU64; 4],
}

/// The same as plain numbers.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In user code, ns.
    pub user_ns: u64,
    /// In the kernel, ns.
    pub system_ns: u64,
    /// Page faults without I/O.
    pub minor_faults: u64,
    /// Page faults with I/O.
    pub major_faults: u64,
    /// Switches because it slept.
    pub voluntary_switches: u64,
    /// Switches because it was preempted.
    pub involuntary_switches: u64,
    /// Bytes read, read calls, bytes written, write calls.
    pub io: [u64; 4],
    /// Largest resident set seen, KiB.
    pub max_rss_kib: u64,
}

/// What waited-for children used.
pub type ChildUsage = Usage;

impl CpuTimes {
    /// A snapshot.
    pub fn snapshot(&self) -> Usage {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            user_ns: get(&self.user_ns),
            system_ns: get(&self.system_ns),
            minor_faults: get(&self.minor_faults),
            major_faults: get(&self.major_faults),
            voluntary_switches: get(&self.voluntary_switches),
            involuntary_switches: get(&self.involuntary_switches),
            io: self.io.each_ref().map(get),
            max_rss_kib: 0,
        }
    }

    /// Counts a call that read or tried to, by the thread itself: nobody else writes these counters.
    #[inline(always)]
    pub fn count_read(&self, result: &crate::Result<usize>) {
        self.count_io(0, result);
    }

    /// Counts a call that wrote or tried to.
    #[inline(always)]
    pub fn count_write(&self, result: &crate::Result<usize>) {
        self.count_io(2, result);
    }

    #[inline(always)]
    fn count_io(&self, at: usize, result: &crate::Result<usize>) {
        let bump = |counter: &AtomicU64, n: u64| counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
        if let Ok(bytes) = result {
            bump(&self.io[at], *bytes as u64);
        }
        bump(&self.io[at + 1], 1);
    }

    /// Adds a thread that ends.
    pub fn absorb(&self, usage: &Usage) {
        let add = |counter: &AtomicU64, n: u64| {
            counter.fetch_add(n, Ordering::Relaxed);
        };
        add(&self.user_ns, usage.user_ns);
        add(&self.system_ns, usage.system_ns);
        add(&self.minor_faults, usage.minor_faults);
        add(&self.major_faults, usage.major_faults);
        add(&self.voluntary_switches, usage.voluntary_switches);
        add(&self.involuntary_switches, usage.involuntary_switches);
        self.io.iter().zip(usage.io).for_each(|(counter, n)| add(counter, n));
    }
}

impl Usage {
    /// The sum of both; the larger resident set.
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            user_ns: self.user_ns + other.user_ns,
            system_ns: self.system_ns + other.system_ns,
            minor_faults: self.minor_faults + other.minor_faults,
            major_faults: self.major_faults + other.major_faults,
            voluntary_switches: self.voluntary_switches + other.voluntary_switches,
            involuntary_switches: self.involuntary_switches + other.involuntary_switches,
            io: core::array::from_fn(|n| self.io[n] + other.io[n]),
            max_rss_kib: self.max_rss_kib.max(other.max_rss_kib),
        }
    }

    /// As getrusage(2) shows it.
    pub fn to_rusage(self) -> Rusage {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Rusage {
            ru_utime: timeval(self.user_ns),
            ru_stime: timeval(self.system_ns),
            ru_maxrss: count(self.max_rss_kib),
            ru_minflt: count(self.minor_faults),
            ru_majflt: count(self.major_faults),
            ru_nvcsw: count(self.voluntary_switches),
            ru_nivcsw: count(self.involuntary_switches),
            ..Rusage::default()
        }
    }
}

fn timeval(ns: u64) -> Timeval {
    Timeval { tv_sec: (ns / 1_000_000_000).cast_signed(), tv_usec: (ns % 1_000_000_000 / 1000).cast_signed() }
}

/// What the whole process used so far: its threads, living and gone.
pub fn of_process(group: &super::ThreadGroup) -> Usage {
    let mut sum = group.dead_threads.snapshot();
    let tree = super::tree::lock();
    if let Some(id) = tree.find(group) {
        // A leader that ended before its threads is still among them; the others were absorbed when they left.
        for thread in &tree.node(id).threads {
            sum = sum.plus(thread.times.snapshot());
        }
    }
    sum
}

/// What all processes used that exist or were waited for: each process and its reaped descendants are counted once.
pub fn of_system() -> Usage {
    let tree = super::tree::lock();
    let mut sum = Usage::default();
    for id in tree.processes() {
        let node = tree.node(id);
        sum = sum.plus(node.group.dead_threads.snapshot()).plus(*node.group.children.lock());
        for thread in &node.threads {
            sum = sum.plus(thread.times.snapshot());
        }
    }
    sum
}
