//! Sizes and offsets that arm64 user programs rely on, as `linux-libc-dev`'s arm64 headers give them.

use abi::{mount, notify, process, ptrace, sched, socket, time, ucontext, uio};
use std::mem::offset_of;

#[test]
fn sizes_are_those_of_the_arm64_headers() {
    let sizes = [
        ("user_pt_regs", size_of::<ptrace::UserPtRegs>(), 272),
        ("user_fpsimd_state", size_of::<ptrace::UserFpsimdState>(), 528),
        ("ptrace_syscall_info", size_of::<ptrace::PtraceSyscallInfo>(), 88),
        ("fpsimd_context", size_of::<ucontext::FpsimdContext>(), 528),
        ("esr_context", size_of::<ucontext::EsrContext>(), 16),
        ("clone_args", size_of::<sched::CloneArgs>(), 88),
        ("sched_attr", size_of::<process::SchedAttr>(), 56),
        ("futex_waitv", size_of::<abi::futex::FutexWaitv>(), 24),
        ("robust_list_head", size_of::<process::RobustListHead>(), 24),
        ("rseq", size_of::<process::Rseq>(), 32),
        ("seccomp_data", size_of::<process::SeccompData>(), 64),
        ("open_how", size_of::<process::OpenHow>(), 24),
        ("mount_attr", size_of::<mount::MountAttr>(), 32),
        ("signalfd_siginfo", size_of::<notify::SignalfdSiginfo>(), 128),
        ("inotify_event", size_of::<notify::InotifyEvent>(), 16),
        ("msghdr", size_of::<socket::Msghdr>(), 56),
        ("mmsghdr", size_of::<socket::Mmsghdr>(), 64),
        ("cmsghdr", size_of::<socket::Cmsghdr>(), 16),
        ("sockaddr_un", size_of::<socket::SockaddrUn>(), 110),
        ("sockaddr_in", size_of::<socket::SockaddrIn>(), 16),
        ("sockaddr_in6", size_of::<socket::SockaddrIn6>(), 28),
        ("ucred", size_of::<socket::Ucred>(), 12),
        ("iovec", size_of::<uio::Iovec>(), 16),
        ("sigevent", size_of::<time::Sigevent>(), 64),
    ];
    for (name, ours, linux) in sizes {
        assert_eq!(ours, linux, "struct {name}");
    }
}

#[test]
fn the_signal_frame_ends_where_linux_ends_it() {
    assert_eq!(ucontext::UCONTEXT_SIZE, 4560);
    assert_eq!(offset_of!(ucontext::SigcontextRegisters, pc), 264);
    assert_eq!(offset_of!(ucontext::FpsimdContext, vregs), 16);
    assert_eq!(offset_of!(socket::Msghdr, msg_control), 32);
    assert_eq!(offset_of!(ptrace::UserPtRegs, pstate), 264);
}

#[test]
fn ioctl_numbers_are_built_as_linux_builds_them() {
    assert_eq!(abi::ioctl::BLKGETSIZE64, 0x8008_1272);
    assert_eq!(abi::ioctl::_ioc(abi::ioctl::_IOC_READ, b'T', 0x2a, size_of::<abi::tty::Termios>()), abi::tty::TCGETS2);
}
