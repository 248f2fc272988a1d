//! Signal-delivery-stops, syscall-stops, event stops, group stops.

use abi::ptrace as p;
use abi::signal::{
    CLD_TRAPPED, SA_SIGINFO, SI_TKILL, SI_USER, SIGCONT, SIGSTOP, SIGTERM, SIGTRAP, SIGUSR1, SIGUSR2, TRAP_TRACE,
};
use abi::{Errno, elf, nr, wait as w};
use kcore::testing::{Libc, Machine};

use super::{Tracer, event};
use crate::{Diary, MS, story};

#[test]
fn a_signal_stops_the_tracee_and_the_tracer_may_swallow_it() {
    story(|init| {
        let child = init.tracee(|child| {
            let own = child.getpid();
            child.kill(own, SIGTERM).unwrap();
            7
        });
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGTERM);
        assert_eq!(init.siginfo(child).unwrap().code(), SI_USER);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(7));
    });
}

#[test]
fn a_signal_that_is_passed_on_does_what_it_does() {
    story(|init| {
        let child = init.tracee(|child| {
            let own = child.getpid();
            child.kill(own, SIGTERM).unwrap();
            7
        });
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGTERM);
        init.cont(child, SIGTERM);
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGTERM));
    });
}

#[test]
fn another_signal_may_be_injected_and_comes_from_the_tracer() {
    let diary = Diary::default();
    let inner = diary.clone();
    story(move |init| {
        let inner = inner.clone();
        let child = init.tracee(move |child| {
            child.on(SIGUSR1, SA_SIGINFO, move |user| {
                let info: abi::signal::SigInfo = user.load(user.argument(1));
                inner.note(format!("{} from {}", info.signal(), info.pid()));
            });
            let (own, tid) = (child.getpid(), child.gettid());
            child.tgkill(own, tid, SIGUSR2).unwrap();
            3
        });
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGUSR2);
        assert_eq!(init.siginfo(child).unwrap().code(), SI_TKILL);
        init.cont(child, SIGUSR1);
        assert_eq!(init.wait_for(child).exit_code(), Some(3));
    });
    assert_eq!(diary.entries(), ["10 from 1"]);
}

#[test]
fn ignored_signals_are_told_too() {
    story(|init| {
        let child = init.tracee(|child| {
            child.ignore(SIGUSR1);
            let own = child.getpid();
            child.kill(own, SIGUSR1).unwrap();
            0
        });
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGUSR1);
        init.cont(child, SIGUSR1);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_call_stops_at_entry_and_exit() {
    story(|init| {
        let child = init.tracee(|child| {
            let _ = child.getppid();
            0
        });
        init.set_options(child, p::PTRACE_O_TRACESYSGOOD);
        // The rest of the kill(2) that stopped it is a signal's; the next calls are those of the body.
        init.to_next_call(child);
        assert_eq!(init.stop_of(child), SIGTRAP | 0x80);
        let registers = init.registers_of(child);
        assert_eq!((registers.regs[8], registers.regs[7]), (nr::GETPPID as u64, 0));
        assert_eq!(init.regset(child, elf::NT_ARM_SYSTEM_CALL, 4).unwrap(), (nr::GETPPID as u32).to_le_bytes());
        let (length, info) = init.syscall_info(child);
        assert_eq!((length, info.op, info.data[0]), (80, p::PTRACE_SYSCALL_INFO_ENTRY, nr::GETPPID as u64));
        init.to_next_call(child);
        assert_eq!(init.stop_of(child), SIGTRAP | 0x80);
        let registers = init.registers_of(child);
        assert_eq!((registers.regs[0], registers.regs[7]), (1, 1));
        let (length, info) = init.syscall_info(child);
        assert_eq!((length, info.op, info.data[0], info.data[1]), (33, p::PTRACE_SYSCALL_INFO_EXIT, 1, 0));
        assert_eq!(init.siginfo(child).unwrap().code().cast_unsigned(), SIGTRAP | 0x80);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_call_can_be_skipped_or_changed() {
    story(|init| {
        let child = init.tracee(|child| {
            assert_eq!(child.call(nr::GETPPID, &[]), Ok(4711));
            assert_eq!(child.call(nr::GETPPID, &[]), Ok(child.getpid().unsigned_abs().into()));
            0
        });
        init.to_next_call(child);
        assert_eq!(init.stop_of(child), SIGTRAP);
        init.set_regset(child, elf::NT_ARM_SYSTEM_CALL, &[0xff; 4]).unwrap();
        let mut registers = init.registers_of(child);
        registers.regs[0] = 4711;
        init.set_registers_of(child, &registers);
        init.to_next_call(child);
        assert_eq!(init.stop_of(child), SIGTRAP);
        init.to_next_call(child);
        assert_eq!(init.stop_of(child), SIGTRAP);
        init.set_regset(child, elf::NT_ARM_SYSTEM_CALL, &(nr::GETPID as u32).to_le_bytes()).unwrap();
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn sysemu_makes_no_call() {
    story(|init| {
        let child = init.tracee(|child| {
            assert_eq!(child.call(nr::GETPPID, &[]), Ok(5));
            0
        });
        assert_eq!(init.ptrace(p::PTRACE_SYSEMU, child, 0, 0), Ok(0));
        assert_eq!(init.stop_of(child), SIGTRAP);
        let mut registers = init.registers_of(child);
        assert_eq!(registers.regs[8], nr::GETPPID as u64);
        registers.regs[0] = 5;
        init.set_registers_of(child, &registers);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn an_interrupted_call_is_seen_rewound_and_goes_on() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        let child = init.tracee(move |child| i32::from(child.read_fd(read, 1).unwrap()[0]));
        init.cont(child, 0);
        init.sleep_ns(5 * MS).unwrap();
        init.kill(child, SIGUSR1).unwrap();
        assert_eq!(init.stop_of(child), SIGUSR1);
        let registers = init.registers_of(child);
        assert_eq!((registers.regs[0], registers.regs[8]), (u64::from(read.unsigned_abs()), nr::READ as u64));
        assert_eq!(init.regset(child, elf::NT_ARM_SYSTEM_CALL, 4).unwrap(), [0xff; 4]);
        init.cont(child, 0);
        init.write_fd(write, &[9]).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(9));
    });
}

#[test]
fn attach_stops_with_sigstop_and_detach_lets_go() {
    story(|init| {
        let child = init.fork(|child| {
            child.sleep_ns(20 * MS).unwrap();
            4
        });
        init.sleep_ns(5 * MS).unwrap();
        assert_eq!(init.ptrace(p::PTRACE_ATTACH, child, 0, 0), Ok(0));
        assert_eq!(init.stop_of(child), SIGSTOP);
        assert_eq!(init.ptrace(p::PTRACE_ATTACH, child, 0, 0), Err(Errno::EPERM));
        assert_eq!(init.ptrace(p::PTRACE_DETACH, child, 0, 0), Ok(0));
        assert_eq!(init.ptrace(p::PTRACE_CONT, child, 0, 0), Err(Errno::ESRCH));
        assert_eq!(init.wait_for(child).exit_code(), Some(4));
    });
}

#[test]
fn attach_to_a_stopped_process_is_a_stop_at_once() {
    story(|init| {
        let child = init.fork(|child| {
            child.sleep_ns(5 * MS).unwrap();
            4
        });
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(init.wait4(child, w::WUNTRACED).unwrap().unwrap().status.stopped_by(), Some(SIGSTOP));
        assert_eq!(init.ptrace(p::PTRACE_ATTACH, child, 0, 0), Ok(0));
        // It is stopped when the call returns.
        assert_eq!(init.wait4(child, w::WNOHANG | w::__WALL).unwrap().unwrap().status.stopped_by(), Some(SIGSTOP));
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGSTOP);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(4));
    });
}

#[test]
fn detach_with_a_group_stop_in_force_stops_the_process_again() {
    story(|init| {
        let child = init.fork(|child| {
            child.sleep_ns(5 * MS).unwrap();
            4
        });
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(init.wait4(child, w::WUNTRACED).unwrap().unwrap().status.stopped_by(), Some(SIGSTOP));
        init.seize(child, 0);
        assert_eq!(init.stop_of(child), p::PTRACE_EVENT_STOP << 8 | SIGSTOP);
        assert_eq!(init.ptrace(p::PTRACE_DETACH, child, 0, 0), Ok(0));
        init.sleep_ns(20 * MS).unwrap();
        assert_eq!(init.wait4(child, w::WNOHANG).unwrap(), None);
        init.kill(child, SIGCONT).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(4));
    });
}

#[test]
fn seize_does_not_stop_and_interrupt_does() {
    story(|init| {
        let child = init.fork(|child| {
            child.sleep_ns(20 * MS).unwrap();
            2
        });
        init.sleep_ns(MS).unwrap();
        init.seize(child, 0);
        assert_eq!(init.wait4(child, w::WNOHANG | w::__WALL).unwrap(), None);
        assert_eq!(init.ptrace(p::PTRACE_CONT, child, 0, 0), Err(Errno::ESRCH));
        assert_eq!(init.ptrace(p::PTRACE_INTERRUPT, child, 0, 0), Ok(0));
        assert_eq!(init.stop_of(child), p::PTRACE_EVENT_STOP << 8 | SIGTRAP);
        assert_eq!(init.siginfo(child).unwrap().code() >> 8, p::PTRACE_EVENT_STOP.cast_signed());
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(2));
    });
}

#[test]
fn a_seized_tracee_in_a_group_stop_listens_for_sigcont() {
    story(|init| {
        let child = init.fork(|child| {
            child.sleep_ns(20 * MS).unwrap();
            2
        });
        init.seize(child, 0);
        init.kill(child, SIGSTOP).unwrap();
        assert_eq!(init.stop_of(child), SIGSTOP);
        init.cont(child, SIGSTOP);
        assert_eq!(init.stop_of(child), p::PTRACE_EVENT_STOP << 8 | SIGSTOP);
        assert_eq!(init.ptrace(p::PTRACE_LISTEN, child, 0, 0), Ok(0));
        assert_eq!(init.ptrace(p::PTRACE_CONT, child, 0, 0), Err(Errno::ESRCH));
        init.sleep_ns(5 * MS).unwrap();
        assert_eq!(init.wait4(child, w::WNOHANG | w::__WALL).unwrap(), None);
        init.kill(child, SIGCONT).unwrap();
        assert_eq!(init.stop_of(child), p::PTRACE_EVENT_STOP << 8 | SIGTRAP);
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), SIGCONT);
        init.cont(child, SIGCONT);
        assert_eq!(init.wait_for(child).exit_code(), Some(2));
    });
}

#[test]
fn a_group_stop_without_seize_has_no_siginfo() {
    story(|init| {
        let child = init.tracee(|_| 0);
        init.cont(child, SIGSTOP);
        assert_eq!(init.stop_of(child), SIGSTOP);
        assert_eq!(init.siginfo(child), Err(Errno::EINVAL));
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_forked_child_is_traced_and_begins_with_sigstop() {
    story(|init| {
        let child = init.tracee(|child| {
            let inner = child.fork(|_| 5);
            child.wait_for(inner).exit_code().unwrap() + 1
        });
        init.set_options(child, p::PTRACE_O_TRACEFORK);
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_FORK));
        let inner = i32::try_from(init.message(child)).unwrap();
        assert_eq!(init.stop_of(inner), SIGSTOP);
        init.cont(child, 0);
        init.cont(inner, 0);
        // The tracer hears of the end first, then the parent.
        assert_eq!(init.wait4(inner, w::__WALL).unwrap().unwrap().status.exit_code(), Some(5));
        assert_eq!(init.stop_of(child), abi::signal::SIGCHLD);
        init.cont(child, abi::signal::SIGCHLD);
        assert_eq!(init.wait_for(child).exit_code(), Some(6));
    });
}

#[test]
fn vfork_and_its_end_are_events() {
    story(|init| {
        let child = init.tracee(|child| {
            let inner = child.vfork(|_| 0);
            child.wait_for(inner).exit_code().unwrap()
        });
        init.set_options(child, p::PTRACE_O_TRACEVFORK | p::PTRACE_O_TRACEVFORKDONE);
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_VFORK));
        let inner = i32::try_from(init.message(child)).unwrap();
        assert_eq!(init.stop_of(inner), SIGSTOP);
        init.cont(child, 0);
        assert_eq!(init.ptrace(p::PTRACE_DETACH, inner, 0, 0), Ok(0));
        let mut stop = init.stop_of(child);
        if stop == abi::signal::SIGCHLD {
            init.cont(child, 0);
            stop = init.stop_of(child);
        }
        assert_eq!(stop, event(p::PTRACE_EVENT_VFORK_DONE));
        assert_eq!(init.message(child), inner.unsigned_abs().into());
        assert_eq!(init.ptrace(p::PTRACE_DETACH, child, 0, 0), Ok(0));
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn exec_is_a_sigtrap_or_an_event() {
    let mut machine = Machine::new();
    machine.program("/next", |_| 8);
    machine.run(|init| {
        for options in [0, p::PTRACE_O_TRACEEXEC] {
            let child = init.tracee(|child| child.exec("/next", &["next"]));
            init.set_options(child, options);
            init.cont(child, 0);
            let expected = if options == 0 { SIGTRAP } else { event(p::PTRACE_EVENT_EXEC) };
            assert_eq!(init.stop_of(child), expected);
            if options != 0 {
                assert_eq!(init.message(child), child.unsigned_abs().into());
            }
            init.cont(child, 0);
            assert_eq!(init.wait_for(child).exit_code(), Some(8));
        }
    });
}

#[test]
fn the_exit_of_an_exec_is_reported_when_calls_are_traced_from_its_event_on() {
    let mut machine = Machine::new();
    machine.program("/next", |_| 8);
    machine.run(|init| {
        let child = init.tracee(|child| child.exec("/next", &["next"]));
        init.set_options(child, p::PTRACE_O_TRACEEXEC | p::PTRACE_O_TRACESYSGOOD);
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_EXEC));
        init.to_next_call(child);
        assert_eq!(init.stop_of(child), SIGTRAP | 0x80);
        let (_, info) = init.syscall_info(child);
        assert_eq!((info.op, info.data[0]), (p::PTRACE_SYSCALL_INFO_EXIT, 0));
        assert_eq!(init.regset(child, elf::NT_ARM_SYSTEM_CALL, 4).unwrap(), (nr::EXECVE as u32).to_le_bytes());
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(8));
    });
}

#[test]
fn the_exit_event_tells_the_status_before_the_end() {
    story(|init| {
        let child = init.tracee(|_| 9);
        init.set_options(child, p::PTRACE_O_TRACEEXIT);
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_EXIT));
        assert_eq!(init.message(child), 9 << 8);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(9));
    });
}

#[test]
fn a_single_step_is_one_instruction() {
    let diary = Diary::default();
    let inner = diary.clone();
    story(move |init| {
        let noted = inner.clone();
        let child = init.tracee(move |child| {
            for _ in 0..5 {
                child.preempt();
                noted.note("step");
            }
            1
        });
        for done in 0..3 {
            assert_eq!(init.ptrace(p::PTRACE_SINGLESTEP, child, 0, 0), Ok(0));
            assert_eq!(init.stop_of(child), SIGTRAP);
            assert_eq!(init.siginfo(child).unwrap().code(), TRAP_TRACE);
            assert_eq!(inner.entries().len(), done + 1);
        }
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(1));
    });
    assert_eq!(diary.entries().len(), 5);
}

#[test]
fn waitid_tells_of_a_trap_with_its_event() {
    story(|init| {
        let child = init.tracee(|_| 9);
        init.set_options(child, p::PTRACE_O_TRACEEXIT);
        init.cont(child, 0);
        let info = init.waitid(w::P_PID, child, w::WEXITED | w::WNOWAIT).unwrap().unwrap();
        assert_eq!((info.code(), info.status().cast_unsigned()), (CLD_TRAPPED, event(p::PTRACE_EVENT_EXIT)));
        let info = init.waitid(w::P_PID, child, w::WEXITED).unwrap().unwrap();
        assert_eq!(info.code(), CLD_TRAPPED);
        assert_eq!(init.waitid(w::P_PID, child, w::WEXITED | w::WNOHANG).unwrap(), None);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(9));
    });
}
