//! Memory, registers, masks, queued signals, options, refusals.

use abi::mman::{PROT_READ, PROT_WRITE};
use abi::ptrace as p;
use abi::signal::{SIG_BLOCK, SIGSTOP, SIGUSR1, SIGUSR2};
use abi::{Errno, elf, nr};
use kcore::testing::{Libc, Machine};

use super::Tracer;
use crate::{bit, story};

#[test]
fn memory_is_read_and_written_read_only_pages_too() {
    story(|init| {
        let place = init.mmap(4096, PROT_READ | PROT_WRITE);
        init.user().write(place, 11u64);
        init.mprotect(place, 4096, PROT_READ).unwrap();
        let child = init.tracee(move |child| i32::try_from(child.read::<u64>(place)).unwrap());
        let word = init.scoped(|user| {
            let at = user.push(&[0; 8]);
            assert_eq!(user.ptrace(p::PTRACE_PEEKDATA, child, place, at), Ok(0));
            user.read::<u64>(at)
        });
        assert_eq!(word, 11);
        assert_eq!(init.ptrace(p::PTRACE_POKETEXT, child, place, 22), Ok(0));
        // A private page: the tracer's own is not touched.
        assert_eq!(init.user().read::<u64>(place), 11);
        assert_eq!(init.ptrace(p::PTRACE_POKEDATA, child, 0x10, 1), Err(Errno::EIO));
        assert_eq!(init.ptrace(p::PTRACE_PEEKDATA, child, 0x10, place), Err(Errno::EIO));
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(22));
    });
}

#[test]
fn register_sets_have_their_sizes() {
    story(|init| {
        let child = init.tracee(|_| 0);
        for (kind, whole) in [
            (elf::NT_PRSTATUS, 272),
            (elf::NT_PRFPREG, 528),
            (elf::NT_ARM_TLS, 8),
            (elf::NT_ARM_SYSTEM_CALL, 4),
            (elf::NT_ARM_HW_BREAK, 264),
            (elf::NT_ARM_HW_WATCH, 264),
        ] {
            assert_eq!(init.regset(child, kind, 4096).unwrap().len(), whole);
            assert_eq!(init.regset(child, kind, 3), Err(Errno::EINVAL));
            assert_eq!(init.regset(child, kind, 0).unwrap().len(), 0);
        }
        assert_eq!(init.regset(child, 0x7777, 8), Err(Errno::EINVAL));
        init.cont(child, 0);
        init.wait_for(child);
    });
}

#[test]
fn registers_that_are_written_are_read_back() {
    story(|init| {
        let child = init.tracee(|_| 0);
        let vectors: Vec<u8> = (0..528u32).map(|n| if n < 520 { n as u8 } else { 0 }).collect();
        init.set_regset(child, elf::NT_PRFPREG, &vectors).unwrap();
        assert_eq!(init.regset(child, elf::NT_PRFPREG, 528).unwrap(), vectors);
        init.set_regset(child, elf::NT_ARM_TLS, &77u64.to_le_bytes()).unwrap();
        assert_eq!(init.regset(child, elf::NT_ARM_TLS, 8).unwrap(), 77u64.to_le_bytes());
        let mut registers = init.registers_of(child);
        registers.regs[20] = 1234;
        registers.pstate = 0x8000_0000;
        init.set_registers_of(child, &registers);
        let now = init.registers_of(child);
        assert_eq!((now.regs[20], now.pstate), (1234, 0x8000_0000));
        // EL1, and interrupts masked.
        for bad in [5, 1 << 7, 0x10] {
            registers.pstate = bad;
            let outcome = init.set_regset(child, elf::NT_PRSTATUS, zerocopy::IntoBytes::as_bytes(&registers));
            assert_eq!(outcome, Err(Errno::EINVAL));
        }
        init.kill(child, abi::signal::SIGKILL).unwrap();
        init.wait_for(child);
    });
}

#[test]
fn debug_registers_are_normalised_and_bounded() {
    story(|init| {
        let child = init.tracee(|_| 0);
        let info = init.regset(child, elf::NT_ARM_HW_WATCH, 8).unwrap();
        assert_eq!(info[..2], [4, 6]);
        let mut state = vec![0; 24];
        state[8..16].copy_from_slice(&0x1004u64.to_le_bytes());
        // Four bytes, stores, enabled.
        state[16..20].copy_from_slice(&(0xfu32 << 5 | 2 << 3 | 1).to_le_bytes());
        init.set_regset(child, elf::NT_ARM_HW_WATCH, &state).unwrap();
        let now = init.regset(child, elf::NT_ARM_HW_WATCH, 24).unwrap();
        assert_eq!(now[8..16], 0x1000u64.to_le_bytes());
        assert_eq!(now[16..20], (0xf0u32 << 5 | 2 << 3 | 2 << 1 | 1).to_le_bytes());
        // A breakpoint that watches loads, and an address of the kernel.
        state[16..20].copy_from_slice(&(0xfu32 << 5 | 1 << 3 | 1).to_le_bytes());
        assert_eq!(init.set_regset(child, elf::NT_ARM_HW_BREAK, &state), Err(Errno::EINVAL));
        state[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(init.set_regset(child, elf::NT_ARM_HW_WATCH, &state), Err(Errno::EINVAL));
        assert_eq!(init.set_regset(child, elf::NT_ARM_HW_WATCH, &[0; 264]), Err(Errno::ENOSPC));
        init.cont(child, 0);
        init.wait_for(child);
    });
}

#[test]
fn masks_and_queued_signals_are_seen() {
    story(|init| {
        let child = init.tracee(|child| {
            let _ = child.sigprocmask(SIG_BLOCK, bit(SIGUSR1));
            let own = child.getpid();
            child.kill(own, SIGUSR1).unwrap();
            child.kill(own, SIGSTOP).unwrap();
            0
        });
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGSTOP);
        init.scoped(|user| {
            let at = user.push(&[0; 256]);
            assert_eq!(user.ptrace(p::PTRACE_GETSIGMASK, child, 8, at), Ok(0));
            assert_eq!(user.read::<u64>(at), bit(SIGUSR1));
            assert_eq!(user.ptrace(p::PTRACE_GETSIGMASK, child, 4, at), Err(Errno::EINVAL));
            // Of the process: one, told by its number; none of the thread.
            let arguments = user.push(&[[0u8; 8], [1, 0, 0, 0, 2, 0, 0, 0]].concat());
            assert_eq!(user.ptrace(p::PTRACE_PEEKSIGINFO, child, arguments, at), Ok(1));
            assert_eq!(user.read::<u32>(at), SIGUSR1);
            let arguments = user.push(&[[0u8; 8], [0, 0, 0, 0, 2, 0, 0, 0]].concat());
            assert_eq!(user.ptrace(p::PTRACE_PEEKSIGINFO, child, arguments, at), Ok(0));
            user.write(at, 0u64);
            assert_eq!(user.ptrace(p::PTRACE_SETSIGMASK, child, 8, at), Ok(0));
        });
        // Unblocked, it comes as soon as the tracee goes on.
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGUSR1);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn the_siginfo_can_be_changed() {
    story(|init| {
        let child = init.tracee(|child| {
            child.on(SIGUSR2, abi::signal::SA_SIGINFO, |user| {
                let info: abi::signal::SigInfo = user.load(user.argument(1));
                assert_eq!(info.pid(), 99);
            });
            let own = child.getpid();
            child.kill(own, SIGUSR2).unwrap();
            5
        });
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGUSR2);
        init.scoped(|user| {
            let at = user.push(zerocopy::IntoBytes::as_bytes(&abi::signal::SigInfo::user(SIGUSR2, 0, 99, 0)));
            assert_eq!(user.ptrace(p::PTRACE_SETSIGINFO, child, 0, at), Ok(0));
        });
        init.cont(child, SIGUSR2);
        assert_eq!(init.wait_for(child).exit_code(), Some(5));
    });
}

#[test]
fn what_cannot_be_is_refused() {
    story(|init| {
        let own = init.getpid();
        assert_eq!(init.ptrace(p::PTRACE_ATTACH, own, 0, 0), Err(Errno::EPERM));
        assert_eq!(init.ptrace(p::PTRACE_ATTACH, 2, 0, 0), Err(Errno::EPERM), "a kernel thread");
        assert_eq!(init.ptrace(p::PTRACE_ATTACH, 4000, 0, 0), Err(Errno::ESRCH));
        assert_eq!(init.ptrace(p::PTRACE_CONT, 4000, 0, 0), Err(Errno::ESRCH));
        let child = init.tracee(|child| {
            assert_eq!(child.ptrace(p::PTRACE_TRACEME, 0, 0, 0), Err(Errno::EPERM));
            0
        });
        assert_eq!(init.ptrace(p::PTRACE_CONT, child, 0, 65), Err(Errno::EIO));
        assert_eq!(init.ptrace(p::PTRACE_SETOPTIONS, child, 0, 1 << 30), Err(Errno::EINVAL));
        assert_eq!(init.ptrace(p::PTRACE_LISTEN, child, 0, 0), Err(Errno::EIO));
        assert_eq!(init.ptrace(p::PTRACE_INTERRUPT, child, 0, 0), Err(Errno::EIO));
        assert_eq!(init.ptrace(p::PTRACE_PEEKUSR, child, 0, 0), Err(Errno::EIO));
        assert_eq!(init.ptrace(p::PTRACE_SEIZE, child, 1, 0), Err(Errno::EIO));
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_stranger_may_not_trace() {
    Machine::new().run(|init| {
        let victim = init.fork(|victim| {
            victim.sleep_ns(20 * crate::MS).unwrap();
            0
        });
        let stranger = init.fork(move |stranger| {
            assert_eq!(stranger.call(nr::SETRESUID, &[1000, 1000, 1000]), Ok(0));
            assert_eq!(stranger.ptrace(p::PTRACE_ATTACH, victim, 0, 0), Err(Errno::EPERM));
            assert_eq!(stranger.ptrace(p::PTRACE_SEIZE, victim, 0, 0), Err(Errno::EPERM));
            0
        });
        assert_eq!(init.wait_for(stranger).exit_code(), Some(0));
        init.wait_for(victim);
    });
}
