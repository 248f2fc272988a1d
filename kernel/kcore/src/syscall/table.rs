//! The system-call table: the one truth from which dispatch, tracing and `kernel/doc/syscalls.md` derive.
//!
//! A row is `NUMBER(name: type, ...) handler;`. A number without a row answers `ENOSYS`, as Linux does for a call that is
//! not configured. Rows are in the order of the numbers within each family.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::nr;

use super::{Context, FromArgument, UserPtr, UserStr};
use super::{
    dir, file, futex, identity, info, ioprio, limits, lock, memory, mount, namespace, notify, path, pidfd, pipe, poll,
    prctl, process, process_vm, ptrace, random, sched, seccomp, signal, socket, splice, system, time, xattr,
};
use crate::Result;

/// One past the largest number that the table can hold.
pub const SIZE: usize = 512;

/// One system call.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Linux's name in capitals; empty when there is none.
    pub name: &'static str,
    /// `name: type` of each argument.
    pub arguments: &'static [(&'static str, &'static str)],
    /// What runs. `None` answers `ENOSYS`.
    pub handler: Option<fn(&mut Context<'_>) -> Result<usize>>,
}

macro_rules! table {
    ($($number:ident($($arg:ident: $ty:ty),*) $handler:path;)*) => {
        const fn build() -> [Entry; SIZE] {
            let mut table = [Entry { name: "", arguments: &[], handler: None }; SIZE];
            $(
                table[nr::$number] = Entry {
                    name: stringify!($number),
                    arguments: &[$((stringify!($arg), stringify!($ty))),*],
                    handler: Some(|cx| {
                        let mut registers = cx.arguments().into_iter();
                        $(let $arg = <$ty as FromArgument>::from_argument(registers.next().unwrap_or(0));)*
                        // A call without arguments asks for no register.
                        let _ = &mut registers;
                        $handler(cx, $($arg),*)
                    }),
                };
            )*
            table
        }
    };
}

/// The table by number.
pub static TABLE: [Entry; SIZE] = build();

table! {
    // Process life: fork(2), clone(2), execve(2), exit(2), wait(2).
    EXIT(status: i32) process::exit;
    EXIT_GROUP(status: i32) process::exit_group;
    WAITID(which: u32, id: i32, info: UserPtr<abi::signal::SigInfo>, options: u32, usage: UserPtr<abi::resource::Rusage>) process::waitid;
    SET_TID_ADDRESS(address: u64) process::set_tid_address;
    CLONE(flags: u64, stack: u64, parent_tid: UserPtr<i32>, tls: u64, child_tid: u64) process::clone;
    EXECVE(path: UserStr, argv: u64, envp: u64) process::execve;
    EXECVEAT(dirfd: i32, path: UserStr, argv: u64, envp: u64, flags: u32) process::execveat;
    WAIT4(pid: i32, status: UserPtr<i32>, options: u32, usage: UserPtr<abi::resource::Rusage>) process::wait4;
    CLONE3(args: u64, size: usize) process::clone3;
    UNSHARE(flags: u64) process::unshare;
    SETNS(fd: i32, kinds: u32) namespace::setns;
    // Processes as descriptors, and what they share: pidfd_open(2), kcmp(2).
    PIDFD_OPEN(pid: i32, flags: u32) pidfd::pidfd_open;
    PIDFD_SEND_SIGNAL(pidfd: i32, signal: i32, info: UserPtr<abi::signal::SigInfo>, flags: u32) pidfd::pidfd_send_signal;
    PIDFD_GETFD(pidfd: i32, fd: i32, flags: u32) pidfd::pidfd_getfd;
    KCMP(pid1: i32, pid2: i32, kind: i32, index1: u64, index2: u64) pidfd::kcmp;
    // Memory of other processes: process_vm_readv(2).
    PROCESS_VM_READV(pid: i32, local: UserPtr<file::Iovec>, local_count: u32, remote: UserPtr<file::Iovec>, remote_count: u64, flags: u64) process_vm::process_vm_readv;
    PROCESS_VM_WRITEV(pid: i32, local: UserPtr<file::Iovec>, local_count: u32, remote: UserPtr<file::Iovec>, remote_count: u64, flags: u64) process_vm::process_vm_writev;
    // Identity: getpid(2), credentials(7), setpgid(2), setsid(2), prctl(2), personality(2).
    GETPID() identity::getpid;
    GETPPID() identity::getppid;
    GETTID() identity::gettid;
    GETUID() identity::getuid;
    GETEUID() identity::geteuid;
    GETGID() identity::getgid;
    GETEGID() identity::getegid;
    SETUID(uid: u32) identity::setuid;
    SETGID(gid: u32) identity::setgid;
    SETREUID(ruid: u32, euid: u32) identity::setreuid;
    SETREGID(rgid: u32, egid: u32) identity::setregid;
    SETRESUID(ruid: u32, euid: u32, suid: u32) identity::setresuid;
    SETRESGID(rgid: u32, egid: u32, sgid: u32) identity::setresgid;
    GETRESUID(ruid: UserPtr<u32>, euid: UserPtr<u32>, suid: UserPtr<u32>) identity::getresuid;
    GETRESGID(rgid: UserPtr<u32>, egid: UserPtr<u32>, sgid: UserPtr<u32>) identity::getresgid;
    SETFSUID(uid: u32) identity::setfsuid;
    SETFSGID(gid: u32) identity::setfsgid;
    GETGROUPS(size: i32, list: UserPtr<u32>) identity::getgroups;
    SETGROUPS(size: i32, list: UserPtr<u32>) identity::setgroups;
    SETPGID(pid: i32, pgid: i32) identity::setpgid;
    GETPGID(pid: i32) identity::getpgid;
    GETSID(pid: i32) identity::getsid;
    SETSID() identity::setsid;
    CAPGET(header: UserPtr<[u32; 2]>, data: UserPtr<[u32; 6]>) identity::capget;
    CAPSET(header: UserPtr<[u32; 2]>, data: UserPtr<[u32; 6]>) identity::capset;
    PRCTL(option: u32, a: u64, b: u64, c: u64, d: u64) prctl::prctl;
    PERSONALITY(persona: u32) identity::personality;
    PTRACE(request: u64, pid: i32, address: u64, data: u64) ptrace::ptrace;
    SECCOMP(operation: u32, flags: u32, argument: u64) seccomp::seccomp;
    // Signals: signal(7).
    KILL(pid: i32, signal: i32) signal::kill;
    TKILL(tid: i32, signal: i32) signal::tkill;
    TGKILL(tgid: i32, tid: i32, signal: i32) signal::tgkill;
    SIGALTSTACK(new: UserPtr<abi::signal::StackT>, old: UserPtr<abi::signal::StackT>) signal::sigaltstack;
    RT_SIGSUSPEND(mask: UserPtr<u64>, size: usize) signal::rt_sigsuspend;
    RT_SIGACTION(signal: i32, new: UserPtr<abi::signal::Sigaction>, old: UserPtr<abi::signal::Sigaction>, size: usize) signal::rt_sigaction;
    RT_SIGPROCMASK(how: i32, new: UserPtr<u64>, old: UserPtr<u64>, size: usize) signal::rt_sigprocmask;
    RT_SIGPENDING(set: UserPtr<u64>, size: usize) signal::rt_sigpending;
    RT_SIGTIMEDWAIT(set: UserPtr<u64>, info: UserPtr<abi::signal::SigInfo>, timeout: UserPtr<abi::time::Timespec>, size: usize) signal::rt_sigtimedwait;
    RT_SIGQUEUEINFO(pid: i32, signal: i32, info: UserPtr<abi::signal::SigInfo>) signal::rt_sigqueueinfo;
    RT_TGSIGQUEUEINFO(tgid: i32, tid: i32, signal: i32, info: UserPtr<abi::signal::SigInfo>) signal::rt_tgsigqueueinfo;
    RT_SIGRETURN() signal::rt_sigreturn;
    RESTART_SYSCALL() signal::restart_syscall;
    // Limits and usage: getrlimit(2), getrusage(2), times(2).
    GETRLIMIT(resource: u32, limit: UserPtr<abi::resource::Rlimit>) limits::getrlimit;
    SETRLIMIT(resource: u32, limit: UserPtr<abi::resource::Rlimit>) limits::setrlimit;
    PRLIMIT64(pid: i32, resource: u32, new: UserPtr<abi::resource::Rlimit>, old: UserPtr<abi::resource::Rlimit>) limits::prlimit64;
    GETRUSAGE(who: i32, usage: UserPtr<abi::resource::Rusage>) limits::getrusage;
    TIMES(buffer: UserPtr<abi::time::Tms>) limits::times;
    // Scheduling: sched(7).
    SCHED_YIELD() sched::sched_yield;
    SCHED_SETAFFINITY(pid: i32, length: usize, mask: u64) sched::sched_setaffinity;
    SCHED_GETAFFINITY(pid: i32, length: usize, mask: u64) sched::sched_getaffinity;
    SCHED_SETSCHEDULER(pid: i32, policy: i32, param: UserPtr<abi::sched::SchedParam>) sched::sched_setscheduler;
    SCHED_GETSCHEDULER(pid: i32) sched::sched_getscheduler;
    SCHED_SETPARAM(pid: i32, param: UserPtr<abi::sched::SchedParam>) sched::sched_setparam;
    SCHED_GETPARAM(pid: i32, param: UserPtr<abi::sched::SchedParam>) sched::sched_getparam;
    SCHED_SETATTR(pid: i32, attr: u64, flags: u32) sched::sched_setattr;
    SCHED_GETATTR(pid: i32, attr: u64, size: u32, flags: u32) sched::sched_getattr;
    SCHED_GET_PRIORITY_MAX(policy: i32) sched::sched_get_priority_max;
    SCHED_GET_PRIORITY_MIN(policy: i32) sched::sched_get_priority_min;
    SCHED_RR_GET_INTERVAL(pid: i32, interval: UserPtr<abi::time::Timespec>) sched::sched_rr_get_interval;
    SETPRIORITY(which: i32, who: i32, nice: i32) sched::setpriority;
    GETPRIORITY(which: i32, who: i32) sched::getpriority;
    IOPRIO_SET(which: i32, who: i32, priority: i32) ioprio::ioprio_set;
    IOPRIO_GET(which: i32, who: i32) ioprio::ioprio_get;
    GETCPU(cpu: UserPtr<u32>, node: UserPtr<u32>, unused: u64) sched::getcpu;
    MEMBARRIER(command: i32, flags: u32, cpu: i32) sched::membarrier;
    // Open files: open(2), read(2), write(2), fcntl(2).
    DUP(fd: i32) file::dup;
    DUP3(old: i32, new: i32, flags: u32) file::dup3;
    FCNTL(fd: i32, command: u32, argument: u64) file::fcntl;
    IOCTL(fd: i32, command: u32, argument: u64) file::ioctl;
    FLOCK(fd: i32, operation: u32) lock::flock;
    FALLOCATE(fd: i32, mode: u32, offset: i64, length: i64) file::fallocate;
    OPENAT(dirfd: i32, path: UserStr, flags: u32, mode: u32) file::openat;
    CLOSE(fd: i32) file::close;
    LSEEK(fd: i32, offset: i64, whence: u32) file::lseek;
    READ(fd: i32, buffer: u64, count: usize) file::read;
    WRITE(fd: i32, buffer: u64, count: usize) file::write;
    READV(fd: i32, vector: UserPtr<file::Iovec>, count: u32) file::readv;
    WRITEV(fd: i32, vector: UserPtr<file::Iovec>, count: u32) file::writev;
    PREAD64(fd: i32, buffer: u64, count: usize, offset: i64) file::pread64;
    PWRITE64(fd: i32, buffer: u64, count: usize, offset: i64) file::pwrite64;
    PREADV(fd: i32, vector: UserPtr<file::Iovec>, count: u32, offset: i64) file::preadv;
    PWRITEV(fd: i32, vector: UserPtr<file::Iovec>, count: u32, offset: i64) file::pwritev;
    SENDFILE(out: i32, input: i32, offset: UserPtr<i64>, count: usize) file::sendfile;
    VMSPLICE(fd: i32, vector: UserPtr<file::Iovec>, count: usize, flags: u32) splice::vmsplice;
    SPLICE(input: i32, input_offset: UserPtr<i64>, out: i32, out_offset: UserPtr<i64>, length: usize, flags: u32) splice::splice;
    TEE(input: i32, out: i32, length: usize, flags: u32) splice::tee;
    FSYNC(fd: i32) file::fsync;
    FDATASYNC(fd: i32) file::fdatasync;
    READAHEAD(fd: i32, offset: i64, count: usize) file::readahead;
    FADVISE64(fd: i32, offset: i64, length: i64, advice: i32) file::fadvise64;
    MEMFD_CREATE(name: UserStr, flags: u32) file::memfd_create;
    COPY_FILE_RANGE(input: i32, input_offset: UserPtr<i64>, out: i32, out_offset: UserPtr<i64>, length: usize, flags: u32) file::copy_file_range;
    PREADV2(fd: i32, vector: UserPtr<file::Iovec>, count: u32, offset: i64, high: u64, flags: u32) file::preadv2;
    PWRITEV2(fd: i32, vector: UserPtr<file::Iovec>, count: u32, offset: i64, high: u64, flags: u32) file::pwritev2;
    CLOSE_RANGE(first: u32, last: u32, flags: u32) file::close_range;
    OPENAT2(dirfd: i32, path: UserStr, how: UserPtr<file::OpenHowArgument>, size: usize) file::openat2;
    // Names: path_resolution(7), mkdir(2), rename(2).
    MKNODAT(dirfd: i32, path: UserStr, mode: u32, device: u32) dir::mknodat;
    MKDIRAT(dirfd: i32, path: UserStr, mode: u32) dir::mkdirat;
    UNLINKAT(dirfd: i32, path: UserStr, flags: u32) dir::unlinkat;
    SYMLINKAT(target: UserStr, dirfd: i32, path: UserStr) dir::symlinkat;
    LINKAT(old_dirfd: i32, old_path: UserStr, new_dirfd: i32, new_path: UserStr, flags: u32) dir::linkat;
    RENAMEAT(old_dirfd: i32, old_path: UserStr, new_dirfd: i32, new_path: UserStr) dir::renameat;
    GETDENTS64(fd: i32, buffer: u64, count: u32) dir::getdents64;
    RENAMEAT2(old_dirfd: i32, old_path: UserStr, new_dirfd: i32, new_path: UserStr, flags: u32) dir::renameat2;
    // Attributes: inode(7), stat(2), xattr(7).
    SETXATTR(path: UserStr, name: UserStr, value: u64, size: usize, flags: u32) xattr::setxattr;
    LSETXATTR(path: UserStr, name: UserStr, value: u64, size: usize, flags: u32) xattr::lsetxattr;
    FSETXATTR(fd: i32, name: UserStr, value: u64, size: usize, flags: u32) xattr::fsetxattr;
    GETXATTR(path: UserStr, name: UserStr, value: u64, size: usize) xattr::getxattr;
    LGETXATTR(path: UserStr, name: UserStr, value: u64, size: usize) xattr::lgetxattr;
    FGETXATTR(fd: i32, name: UserStr, value: u64, size: usize) xattr::fgetxattr;
    LISTXATTR(path: UserStr, list: u64, size: usize) xattr::listxattr;
    LLISTXATTR(path: UserStr, list: u64, size: usize) xattr::llistxattr;
    FLISTXATTR(fd: i32, list: u64, size: usize) xattr::flistxattr;
    REMOVEXATTR(path: UserStr, name: UserStr) xattr::removexattr;
    LREMOVEXATTR(path: UserStr, name: UserStr) xattr::lremovexattr;
    FREMOVEXATTR(fd: i32, name: UserStr) xattr::fremovexattr;
    GETCWD(buffer: UserPtr<u8>, size: usize) path::getcwd;
    STATFS(path: UserStr, buffer: UserPtr<abi::stat::Statfs>) path::statfs;
    FSTATFS(fd: i32, buffer: UserPtr<abi::stat::Statfs>) path::fstatfs;
    TRUNCATE(path: UserStr, length: i64) path::truncate;
    FTRUNCATE(fd: i32, length: i64) path::ftruncate;
    FACCESSAT(dirfd: i32, path: UserStr, mode: u32) path::faccessat;
    CHDIR(path: UserStr) path::chdir;
    FCHDIR(fd: i32) path::fchdir;
    CHROOT(path: UserStr) path::chroot;
    FCHMOD(fd: i32, mode: u32) path::fchmod;
    FCHMODAT(dirfd: i32, path: UserStr, mode: u32) path::fchmodat;
    FCHOWNAT(dirfd: i32, path: UserStr, uid: u32, gid: u32, flags: u32) path::fchownat;
    FCHOWN(fd: i32, uid: u32, gid: u32) path::fchown;
    READLINKAT(dirfd: i32, path: UserStr, buffer: u64, size: i32) path::readlinkat;
    NEWFSTATAT(dirfd: i32, path: UserStr, buffer: UserPtr<abi::stat::Stat>, flags: u32) path::newfstatat;
    FSTAT(fd: i32, buffer: UserPtr<abi::stat::Stat>) path::fstat;
    UTIMENSAT(dirfd: i32, path: UserStr, times: UserPtr<[abi::time::Timespec; 2]>, flags: u32) path::utimensat;
    UMASK(mask: u32) path::umask;
    NAME_TO_HANDLE_AT(dirfd: i32, path: UserStr, handle: u64, mount: u64, flags: u32) path::name_to_handle_at;
    STATX(dirfd: i32, path: UserStr, flags: u32, mask: u32, buffer: UserPtr<abi::stat::Statx>) path::statx;
    FACCESSAT2(dirfd: i32, path: UserStr, mode: u32, flags: u32) path::faccessat2;
    // Mounts: mount(2).
    UMOUNT2(target: UserStr, flags: u32) mount::umount2;
    PIVOT_ROOT(new_root: UserStr, put_old: UserStr) mount::pivot_root;
    MOUNT(source: UserStr, target: UserStr, kind: UserStr, flags: u64, data: UserStr) mount::mount;
    SYNC() mount::sync;
    SYNCFS(fd: i32) mount::syncfs;
    // Memory: mmap(2).
    BRK(address: u64) memory::brk;
    MUNMAP(address: u64, length: u64) memory::munmap;
    MREMAP(old: u64, old_length: u64, new_length: u64, flags: u32, new: u64) memory::mremap;
    MMAP(address: u64, length: u64, protection: u32, flags: u32, fd: i32, offset: u64) memory::mmap;
    MPROTECT(address: u64, length: u64, protection: u32) memory::mprotect;
    MSYNC(address: u64, length: u64, flags: u32) memory::msync;
    MLOCK(address: u64, length: u64) memory::mlock;
    MUNLOCK(address: u64, length: u64) memory::munlock;
    MLOCKALL(flags: u32) memory::mlockall;
    MUNLOCKALL() memory::munlockall;
    MINCORE(address: u64, length: u64, vector: u64) memory::mincore;
    MADVISE(address: u64, length: u64, advice: u32) memory::madvise;
    // Threads that agree on memory: futex(2), membarrier(2), rseq(2).
    FUTEX(word: u64, operation: i32, value: u32, timeout: u64, word2: u64, value3: u32) futex::futex;
    FUTEX_WAITV(waiters: UserPtr<abi::futex::FutexWaitv>, count: u32, flags: u32, timeout: u64, clock: i32) futex::futex_waitv;
    MEMBARRIER(command: u32, flags: u32, cpu: i32) futex::membarrier;
    RSEQ(area: u64, length: u32, flags: u32, signature: u32) futex::rseq;
    SET_ROBUST_LIST(head: u64, length: usize) futex::set_robust_list;
    GET_ROBUST_LIST(pid: i32, head: UserPtr<u64>, length: UserPtr<u64>) futex::get_robust_list;
    // The machine: reboot(2).
    REBOOT(magic1: u32, magic2: u32, command: u32, argument: UserStr) system::reboot;
    // The system and its names: uname(2), sysinfo(2), syslog(2), random(7).
    UNAME(buffer: UserPtr<abi::info::Utsname>) info::uname;
    SETHOSTNAME(name: UserPtr<u8>, length: i32) info::sethostname;
    SETDOMAINNAME(name: UserPtr<u8>, length: i32) info::setdomainname;
    SYSINFO(buffer: UserPtr<abi::info::Sysinfo>) info::sysinfo;
    SYSLOG(action: i32, buffer: u64, length: i32) info::syslog;
    VHANGUP() info::vhangup;
    GETRANDOM(buffer: u64, length: usize, flags: u32) random::getrandom;
    // Pipes and waiting for files: pipe(2), poll(2), select(2), epoll(7), eventfd(2).
    EVENTFD2(initial: u32, flags: u32) poll::eventfd2;
    EPOLL_CREATE1(flags: u32) poll::epoll_create1;
    EPOLL_CTL(epfd: i32, operation: i32, fd: i32, event: UserPtr<abi::poll::EpollEvent>) poll::epoll_ctl;
    EPOLL_PWAIT(epfd: i32, events: UserPtr<abi::poll::EpollEvent>, limit: i32, timeout: i32, mask: UserPtr<u64>, size: usize) poll::epoll_pwait;
    EPOLL_PWAIT2(epfd: i32, events: UserPtr<abi::poll::EpollEvent>, limit: i32, timeout: UserPtr<abi::time::Timespec>, mask: UserPtr<u64>, size: usize) poll::epoll_pwait2;
    PIPE2(fds: UserPtr<[i32; 2]>, flags: u32) pipe::pipe2;
    // Watching the file system: inotify(7).
    INOTIFY_INIT1(flags: u32) notify::inotify_init1;
    INOTIFY_ADD_WATCH(fd: i32, path: UserStr, mask: u32) notify::inotify_add_watch;
    INOTIFY_RM_WATCH(fd: i32, wd: i32) notify::inotify_rm_watch;
    // Sockets: socket(2), socketpair(2), send(2), recv(2).
    SOCKET(family: u32, kind: u32, protocol: u32) socket::socket;
    SOCKETPAIR(family: u32, kind: u32, protocol: u32, fds: UserPtr<[i32; 2]>) socket::socketpair;
    BIND(fd: i32, address: u64, length: i32) socket::bind;
    LISTEN(fd: i32, backlog: i32) socket::listen;
    ACCEPT(fd: i32, address: u64, length: UserPtr<i32>) socket::accept;
    CONNECT(fd: i32, address: u64, length: i32) socket::connect;
    GETSOCKNAME(fd: i32, address: u64, length: UserPtr<i32>) socket::getsockname;
    GETPEERNAME(fd: i32, address: u64, length: UserPtr<i32>) socket::getpeername;
    SENDTO(fd: i32, buffer: u64, length: usize, flags: u32, address: u64, address_length: i32) socket::message::sendto;
    RECVFROM(fd: i32, buffer: u64, length: usize, flags: u32, address: u64, address_length: UserPtr<i32>) socket::message::recvfrom;
    SETSOCKOPT(fd: i32, level: u32, option: u32, value: u64, length: i32) socket::option::setsockopt;
    GETSOCKOPT(fd: i32, level: u32, option: u32, value: u64, length: UserPtr<i32>) socket::option::getsockopt;
    SHUTDOWN(fd: i32, how: u32) socket::shutdown;
    SENDMSG(fd: i32, message: UserPtr<abi::socket::Msghdr>, flags: u32) socket::message::sendmsg;
    RECVMSG(fd: i32, message: UserPtr<abi::socket::Msghdr>, flags: u32) socket::message::recvmsg;
    ACCEPT4(fd: i32, address: u64, length: UserPtr<i32>, flags: u32) socket::accept4;
    RECVMMSG(fd: i32, messages: UserPtr<abi::socket::Mmsghdr>, count: u32, flags: u32, timeout: UserPtr<abi::time::Timespec>) socket::message::recvmmsg;
    SENDMMSG(fd: i32, messages: UserPtr<abi::socket::Mmsghdr>, count: u32, flags: u32) socket::message::sendmmsg;
    PSELECT6(count: i32, read: UserPtr<u64>, write: UserPtr<u64>, except: UserPtr<u64>, timeout: UserPtr<abi::time::Timespec>, mask: UserPtr<[u64; 2]>) poll::pselect6;
    SIGNALFD4(fd: i32, set: UserPtr<u64>, size: usize, flags: u32) poll::signalfd4;
    PPOLL(fds: UserPtr<abi::poll::Pollfd>, count: u32, timeout: UserPtr<abi::time::Timespec>, mask: UserPtr<u64>, size: usize) poll::ppoll;
    // Time: time(7).
    NANOSLEEP(request: UserPtr<abi::time::Timespec>, remaining: UserPtr<abi::time::Timespec>) time::nanosleep;
    CLOCK_NANOSLEEP(clock: i32, flags: i32, request: UserPtr<abi::time::Timespec>, remaining: UserPtr<abi::time::Timespec>) time::clock_nanosleep;
    CLOCK_GETTIME(clock: i32, value: UserPtr<abi::time::Timespec>) time::clock_gettime;
    CLOCK_SETTIME(clock: i32, value: UserPtr<abi::time::Timespec>) time::clock_settime;
    CLOCK_GETRES(clock: i32, value: UserPtr<abi::time::Timespec>) time::clock_getres;
    GETTIMEOFDAY(value: UserPtr<abi::time::Timeval>, zone: UserPtr<abi::time::Timezone>) time::gettimeofday;
    SETTIMEOFDAY(value: UserPtr<abi::time::Timeval>, zone: UserPtr<abi::time::Timezone>) time::settimeofday;
    GETITIMER(which: i32, value: UserPtr<abi::time::Itimerval>) time::getitimer;
    SETITIMER(which: i32, new: UserPtr<abi::time::Itimerval>, old: UserPtr<abi::time::Itimerval>) time::setitimer;
    TIMER_CREATE(clock: i32, event: u64, id: UserPtr<i32>) time::timer_create;
    TIMER_SETTIME(id: i32, flags: i32, new: UserPtr<abi::time::Itimerspec>, old: UserPtr<abi::time::Itimerspec>) time::timer_settime;
    TIMER_GETTIME(id: i32, value: UserPtr<abi::time::Itimerspec>) time::timer_gettime;
    TIMER_GETOVERRUN(id: i32) time::timer_getoverrun;
    TIMER_DELETE(id: i32) time::timer_delete;
    TIMERFD_CREATE(clock: i32, flags: u32) time::timerfd_create;
    TIMERFD_SETTIME(fd: i32, flags: u32, new: UserPtr<abi::time::Itimerspec>, old: UserPtr<abi::time::Itimerspec>) time::timerfd_settime;
    TIMERFD_GETTIME(fd: i32, value: UserPtr<abi::time::Itimerspec>) time::timerfd_gettime;
    ADJTIMEX(request: UserPtr<abi::time::Timex>) time::adjtimex;
    CLOCK_ADJTIME(clock: i32, request: UserPtr<abi::time::Timex>) time::clock_adjtime;
}

hal::global! {
    /// A bit per number that was called without having a handler.
    static MISSING: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
}

/// Remembers that `number` was called in vain, and logs it the first time.
pub(super) fn note_missing(number: usize) {
    let Some(word) = MISSING.get(number / 64) else { return };
    let bit = 1 << (number % 64);
    if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        // Numbers that Linux gives to nothing are a fuzzer's: they are not worth a line.
        if let Some((_, name)) = nr::NAMES.iter().find(|(n, _)| *n == number) {
            let caller = crate::task::current().comm();
            log::info!("syscall {number} ({name}) is not implemented, first called by {caller}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TABLE, nr};
    use std::fmt::Write;

    /// `kernel/doc/syscalls.md`, as the table says it must be.
    fn document() -> String {
        let mut text = String::from(
            "# System calls\n\nDerived from `kernel/kcore/src/syscall/table.rs`; a test compares them (`BLESS=1 cargo test -p kcore \
             documentation` writes this file).\nA call that is not listed returns `ENOSYS` and is logged once.\n\n\
             | number | name | arguments |\n|---|---|---|\n",
        );
        for (number, name) in nr::NAMES {
            let entry = &TABLE[*number];
            if entry.handler.is_none() {
                continue;
            }
            let arguments: Vec<String> = entry.arguments.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
            writeln!(text, "| {number} | `{name}` | `{}` |", arguments.join(", ")).expect("a string takes everything");
        }
        let (have, all) = (TABLE.iter().filter(|entry| entry.handler.is_some()).count(), nr::NAMES.len());
        writeln!(text, "\n{have} of the {all} numbers that Linux gives on arm64.").expect("a string takes everything");
        text
    }

    #[test]
    fn the_documentation_lists_every_call() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../doc/syscalls.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, document()).expect("the documentation can be written");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == document(), "kernel/doc/syscalls.md is not what the table says: BLESS=1 writes it");
    }

    #[test]
    fn names_in_the_table_are_those_of_the_numbers() {
        for (number, name) in nr::NAMES {
            let entry = &TABLE[*number];
            assert!(
                entry.handler.is_none() || entry.name == name.to_uppercase(),
                "{number} is {name}, not {}",
                entry.name
            );
        }
    }
}
