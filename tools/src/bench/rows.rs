//! The rows of the table: what `userland/bench` calls them, what a reader does, and the figure to reach.

/// A row and the greatest ratio of Drupe's time to Linux's that is good enough.
pub struct Row {
    /// As the program prints it.
    pub name: &'static str,
    pub title: &'static str,
    pub limit: f64,
}

const fn row(name: &'static str, title: &'static str, limit: f64) -> Row {
    Row { name, title, limit }
}

/// In the order of the table.
pub const ROWS: &[Row] = &[
    row("null", "null system call", 0.5),
    row("clock_gettime", "clock_gettime through libc", 1.0),
    row("sigaction", "sigaction", 0.5),
    row("signal", "signal delivery and return", 0.35),
    row("futex_wake", "futex wake, nobody waits", 0.5),
    row("futex_pingpong", "futex ping-pong, one CPU", 0.4),
    row("sched_yield", "sched_yield between two processes", 0.4),
    row("pipe_pingpong", "pipe ping-pong, one CPU", 0.4),
    row("pipe_pingpong_2cpu", "pipe ping-pong, two CPUs", 0.5),
    row("pipe_64k", "pipe, a write of 64 KiB read", 0.8),
    row("unix_pingpong", "Unix socket ping-pong", 0.5),
    row("fork", "fork+exit+wait, small process", 0.3),
    row("fork_16m", "the same, 16 MiB touched", 0.05),
    row("fork_exec", "fork+exec+wait, tiny static", 0.35),
    row("fork_exec_16m", "the same, 16 MiB touched", 0.08),
    row("vfork_exec", "vfork+exec+wait, tiny static", 0.4),
    row("sh_c", "sh -c with two commands", 0.5),
    row("sh_ls", "ls in a loop of a shell", 0.5),
    row("pthread", "pthread create+join", 0.4),
    row("cow_fault", "copy-on-write fault", 0.35),
    row("anon_fault", "anonymous fault, small pages", 0.25),
    row("touch_16m", "touching fresh memory, per page", 0.7),
    row("munmap_page", "munmap of touched pages, per page", 0.4),
    row("mmap_munmap", "mmap+munmap 64 KiB", 0.3),
    row("mmap_touch_munmap", "mmap+touch+munmap 64 KiB", 0.25),
    row("brk", "brk grow and shrink", 0.3),
    row("mprotect", "mprotect pair 64 KiB", 0.3),
    row("mmap_read_1m", "mmap and read a 1 MiB file", 0.8),
    row("pread_1m", "pread of a 1 MiB file", 0.8),
    row("read_zero", "read 1 byte of /dev/zero", 0.5),
    row("write_null", "write 1 byte to /dev/null", 0.5),
    row("open_close", "open+close /dev/null", 0.4),
    row("stat", "stat of a file", 0.4),
    row("create_unlink", "create+unlink on tmpfs", 0.4),
    row("getdents_proc", "getdents of /proc, 128 entries", 0.3),
    row("proc_self_stat", "open+read+close /proc/self/stat", 0.4),
    row("unshare_uts", "unshare(NEWUTS)", 0.5),
    row("clone_namespaces", "clone into PID+UTS+mount namespaces", 0.3),
];
