//! What tracing does to privileges, and what it has to say to seccomp.

use abi::process as proc;
use abi::process::{SockFilter, SockFprog};
use abi::ptrace as p;
use abi::signal::{SIGSYS, SIGTRAP};
use abi::{Errno, elf, nr, prctl as pr};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};
use zerocopy::IntoBytes;

use super::{Tracer, event};
use crate::story;

const PROGRAM: &str = "/bin/set-user-id";

fn become_user(user: &mut User) {
    user.call(nr::SETRESGID, &[1000, 1000, 1000]).unwrap();
    user.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
    // A change of identity closes the process to its like.
    user.call(nr::PRCTL, &[u64::from(pr::PR_SET_DUMPABLE), 1]).unwrap();
}

/// A machine whose program is set-user-ID root and exits with 0 when it is root in effect, with 1 otherwise.
fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.program(PROGRAM, |user| i32::from(user.call(nr::GETEUID, &[]) != Ok(0)));
    machine
}

fn set_user_id(init: &mut User) {
    init.scoped(|user| {
        let path = user.push_string(PROGRAM);
        let here = i64::from(abi::fcntl::AT_FDCWD).cast_unsigned();
        assert_eq!(user.call(nr::FCHMODAT, &[here, path, 0o4755]), Ok(0));
    });
}

#[test]
fn a_set_user_id_program_gains_nothing_under_an_unprivileged_tracer() {
    machine().run(|init| {
        set_user_id(init);
        let tracer = init.fork(|tracer| {
            become_user(tracer);
            let child = tracer.tracee(|child| child.exec(PROGRAM, &["x"]));
            tracer.cont(child, 0);
            assert_eq!(tracer.stop_of(child), SIGTRAP);
            tracer.cont(child, 0);
            tracer.wait_for(child).exit_code().unwrap()
        });
        assert_eq!(init.wait_for(tracer).exit_code(), Some(1), "still the user");
    });
}

#[test]
fn a_set_user_id_program_gains_under_a_privileged_tracer() {
    machine().run(|init| {
        set_user_id(init);
        let child = init.fork(|child| {
            become_user(child);
            child.sleep_ns(5 * crate::MS).unwrap();
            child.exec(PROGRAM, &["x"])
        });
        init.sleep_ns(crate::MS).unwrap();
        init.seize(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0), "root");
    });
}

#[test]
fn an_unprivileged_tracer_cannot_attach_to_what_a_set_user_id_program_has_become() {
    machine().run(|init| {
        set_user_id(init);
        let victim = init.fork(|victim| {
            become_user(victim);
            victim.exec(PROGRAM, &["x"])
        });
        assert_eq!(init.wait_for(victim).exit_code(), Some(0));
        let stranger = init.fork(|stranger| {
            become_user(stranger);
            // init is root's.
            assert_eq!(stranger.ptrace(p::PTRACE_SEIZE, 1, 0, 0), Err(Errno::EPERM));
            0
        });
        assert_eq!(init.wait_for(stranger).exit_code(), Some(0));
    });
}

/// Binds the caller: `number` is answered with `action`.
fn filter(user: &mut User, number: usize, action: u32) {
    let i = |code, jt, jf, k| SockFilter { code, jt, jf, k };
    let code =
        [i(0x20, 0, 0, 0), i(0x15, 0, 1, number as u32), i(6, 0, 0, action), i(6, 0, 0, proc::SECCOMP_RET_ALLOW)];
    user.scoped(|user| {
        let filter = user.push(code.as_bytes());
        let fprog = user.push(SockFprog { len: 4, filter, ..SockFprog::default() }.as_bytes());
        assert_eq!(user.call(nr::SECCOMP, &[u64::from(proc::SECCOMP_SET_MODE_FILTER), 0, fprog]), Ok(0));
    });
}

#[test]
fn a_filter_asks_the_tracer() {
    story(|init| {
        let child = init.tracee(|child| {
            filter(child, nr::GETPPID, proc::SECCOMP_RET_TRACE | 77);
            assert_eq!(child.call(nr::GETPPID, &[]), Ok(1), "let through");
            assert_eq!(child.call(nr::GETPPID, &[]), Ok(42), "skipped");
            assert_eq!(child.call(nr::GETPPID, &[]), Err(Errno::ENOSYS), "nobody wants to know");
            0
        });
        init.set_options(child, p::PTRACE_O_TRACESECCOMP);
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_SECCOMP));
        assert_eq!(init.message(child), 77);
        let (length, info) = init.syscall_info(child);
        assert_eq!(
            (length, info.op, info.data[0], info.data[7]),
            (84, p::PTRACE_SYSCALL_INFO_SECCOMP, nr::GETPPID as u64, 77)
        );
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), event(p::PTRACE_EVENT_SECCOMP));
        init.set_regset(child, elf::NT_ARM_SYSTEM_CALL, &[0xff; 4]).unwrap();
        let mut registers = init.registers_of(child);
        registers.regs[0] = 42;
        init.set_registers_of(child, &registers);
        init.set_options(child, 0);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_filter_that_kills_asks_nobody() {
    story(|init| {
        let child = init.tracee(|child| {
            filter(child, nr::GETPPID, proc::SECCOMP_RET_KILL_PROCESS);
            let _ = child.call(nr::GETPPID, &[]);
            0
        });
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGSYS));
    });
}

#[test]
fn filters_are_shown_and_suspended_for_a_checkpoint() {
    story(|init| {
        let child = init.tracee(|child| {
            filter(child, nr::GETPPID, proc::SECCOMP_RET_ERRNO | 99);
            assert!(child.call(nr::GETPPID, &[]).is_err());
            let (own, tid) = (child.getpid(), child.gettid());
            child.tgkill(own, tid, abi::signal::SIGUSR1).unwrap();
            assert_eq!(child.call(nr::GETPPID, &[]), Ok(1));
            0
        });
        assert_eq!(init.ptrace(p::PTRACE_SECCOMP_GET_FILTER, child, 0, 0), Err(Errno::EINVAL));
        init.cont(child, 0);
        assert_eq!(init.stop_of(child), abi::signal::SIGUSR1);
        init.scoped(|user| {
            let at = user.push(&[0; 64]);
            assert_eq!(user.ptrace(p::PTRACE_SECCOMP_GET_FILTER, child, 0, at), Ok(4));
            assert_eq!(user.read::<u32>(at + 20), proc::SECCOMP_RET_ERRNO | 99);
            assert_eq!(user.ptrace(p::PTRACE_SECCOMP_GET_FILTER, child, 1, at), Err(Errno::ENOENT));
            user.write(at, 0u64);
            assert_eq!(user.ptrace(p::PTRACE_SECCOMP_GET_METADATA, child, 16, at), Ok(16));
            assert_eq!(user.read::<u64>(at + 8), 0);
            assert_eq!(user.ptrace(p::PTRACE_GET_RSEQ_CONFIGURATION, child, 24, at), Ok(24));
            assert_eq!((user.read::<u64>(at), user.read::<u32>(at + 8)), (0, 32));
        });
        init.set_options(child, p::PTRACE_O_SUSPEND_SECCOMP);
        init.cont(child, 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}
