//! seccomp(2) and prctl(2) PR_SET_SECCOMP.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    strict_mode_leaves_read_write_exit,
    strict_mode_kills_what_is_left,
    strict_mode_by_prctl,
    mode_is_told,
    bad_operations_are_einval,
    bad_programs_are_einval,
    loads_are_aligned_words,
    scratch_memory_is_checked,
    actions_are_available,
    users_need_no_new_privs,
    errno_is_returned,
    errno_zero_seems_to_succeed,
    errno_is_clamped,
    trace_without_tracer_is_enosys,
    log_lets_pass,
    unknown_action_kills,
    worst_action_counts,
    newest_of_equals_counts,
    trap_tells_the_call,
    trap_cannot_be_ignored,
    kill_process_is_not_handled,
    arguments_are_seen,
    arithmetic_and_jumps,
    filters_survive_fork_and_exec,
    status_file_tells,
    strict_after_filter_is_einval,
    long_programs_and_long_chains,
];

const SET_MODE_STRICT: u32 = 0;
const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const TRACE: u32 = 0x7ff0_0000;
const ERRNO: u32 = 0x0005_0000;
const TRAP: u32 = 0x0003_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;

/// One instruction: code, jump if true, jump if false, constant.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction(u16, u8, u8, u32);

#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

fn install(code: &[Instruction]) -> Result<usize> {
    install_with(0, code)
}

fn install_with(flags: u32, code: &[Instruction]) -> Result<usize> {
    let program = Program { length: code.len() as u16, instructions: code.as_ptr() };
    sys!(SYS_seccomp, SET_MODE_FILTER, flags, &raw const program)
}

/// `action` for one call, the others pass.
fn forbid(number: c_long, action: u32) -> Result<usize> {
    install(&[
        Instruction(0x20, 0, 0, 0),
        Instruction(0x15, 0, 1, number as u32),
        Instruction(6, 0, 0, action),
        Instruction(6, 0, 0, ALLOW),
    ])
}

/// In a child; the case's outcome is its status.
fn apart(body: impl FnOnce() -> Outcome) -> Outcome {
    same!(status(trial(body)?)?, 0);
    Ok(())
}

fn getuid() -> isize {
    raw(SYS_getuid, fill([0usize; 0]))
}

fn exit_thread(code: i32) -> ! {
    loop {
        let _ = sys!(SYS_exit, code);
    }
}

fn strict_mode_leaves_read_write_exit() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let pid = child(|| {
        if sys!(SYS_seccomp, SET_MODE_STRICT, 0, 0).is_err() {
            return 1;
        }
        let _ = write(writer, b"x");
        exit_thread(9)
    })?;
    same!(status(pid)?, 9);
    same!(read(reader, &mut [0; 4])?, 1);
    Ok(())
}

fn strict_mode_kills_what_is_left() -> Outcome {
    let pid = child(|| {
        let _ = sys!(SYS_seccomp, SET_MODE_STRICT, 0, 0);
        getpid()
    })?;
    same!(status(pid)?, 128 + SIGKILL);
    Ok(())
}

fn strict_mode_by_prctl() -> Outcome {
    let pid = child(|| {
        if sys!(SYS_prctl, PR_SET_SECCOMP, 1) != Ok(0) {
            return 1;
        }
        exit_thread(3)
    })?;
    same!(status(pid)?, 3);
    fails!(sys!(SYS_prctl, PR_SET_SECCOMP, 0), EINVAL);
    fails!(sys!(SYS_prctl, PR_SET_SECCOMP, 3), EINVAL);
    Ok(())
}

fn mode_is_told() -> Outcome {
    apart(|| {
        same!(sys!(SYS_prctl, PR_GET_SECCOMP)?, 0);
        forbid(SYS_getuid, ALLOW)?;
        same!(sys!(SYS_prctl, PR_GET_SECCOMP)?, 2);
        Ok(())
    })
}

fn bad_operations_are_einval() -> Outcome {
    fails!(sys!(SYS_seccomp, SET_MODE_STRICT, 1, 0), EINVAL);
    fails!(sys!(SYS_seccomp, SET_MODE_STRICT, 0, 1), EINVAL);
    fails!(sys!(SYS_seccomp, 99, 0, 0), EINVAL);
    fails!(sys!(SYS_seccomp, SET_MODE_FILTER, 1 << 20, 0), EINVAL);
    fails!(sys!(SYS_seccomp, SET_MODE_FILTER, 0, 0), EFAULT);
    fails!(sys!(SYS_seccomp, SET_MODE_FILTER, 0, 8), EFAULT);
    fails!(sys!(SYS_seccomp, GET_ACTION_AVAIL, 1, 0), EINVAL);
    fails!(sys!(SYS_seccomp, GET_ACTION_AVAIL, 0, 0), EFAULT);
    Ok(())
}

const RETURN: Instruction = Instruction(6, 0, 0, ALLOW);

fn bad_programs_are_einval() -> Outcome {
    fails!(install(&[]), EINVAL);
    fails!(install(&[Instruction(0, 0, 0, 1)]), EINVAL);
    fails!(install(&[Instruction(5, 0, 0, 1), RETURN]), EINVAL);
    fails!(install(&[Instruction(0x15, 1, 0, 0), RETURN]), EINVAL);
    fails!(install(&[Instruction(0x15, 0, 1, 0), RETURN]), EINVAL);
    fails!(install(&[Instruction(0x34, 0, 0, 0), RETURN]), EINVAL);
    fails!(install(&[Instruction(0x64, 0, 0, 32), RETURN]), EINVAL);
    fails!(install(&[Instruction(0x94, 0, 0, 3), RETURN]), EINVAL);
    fails!(install(&[Instruction(0xffff, 0, 0, 3), RETURN]), EINVAL);
    fails!(install(&[Instruction(0x0e, 0, 0, 0)]), EINVAL);
    let program = Program { length: 4, instructions: std::ptr::without_provenance(8) };
    fails!(sys!(SYS_seccomp, SET_MODE_FILTER, 0, &raw const program), EFAULT);
    Ok(())
}

fn loads_are_aligned_words() -> Outcome {
    for bad in [
        Instruction(0x20, 0, 0, 64),
        Instruction(0x20, 0, 0, 2),
        Instruction(0x28, 0, 0, 0),
        Instruction(0x30, 0, 0, 0),
        Instruction(0x40, 0, 0, 0),
        Instruction(0xb1, 0, 0, 0),
    ] {
        fails!(install(&[bad, RETURN]), EINVAL);
    }
    Ok(())
}

fn scratch_memory_is_checked() -> Outcome {
    fails!(install(&[Instruction(0x60, 0, 0, 0), RETURN]), EINVAL);
    fails!(install(&[Instruction(2, 0, 0, 16), RETURN]), EINVAL);
    fails!(install(&[Instruction(0x15, 1, 0, 0), Instruction(2, 0, 0, 3), Instruction(0x60, 0, 0, 3), RETURN]), EINVAL);
    Ok(())
}

fn actions_are_available() -> Outcome {
    for action in [KILL_PROCESS, 0, TRAP, ERRNO, TRACE, LOG, ALLOW] {
        same!(sys!(SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action)?, 0);
    }
    for action in [1u32, 0x1111_0000] {
        fails!(sys!(SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action), EOPNOTSUPP);
    }
    Ok(())
}

fn users_need_no_new_privs() -> Outcome {
    apart(|| {
        become_user()?;
        fails!(forbid(SYS_getuid, ERRNO | 5), EACCES);
        sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
        forbid(SYS_getuid, ERRNO | 5)?;
        same!(getuid(), -5);
        Ok(())
    })
}

fn errno_is_returned() -> Outcome {
    apart(|| {
        forbid(SYS_getuid, ERRNO | 1234)?;
        same!(getuid(), -1234);
        Ok(())
    })
}

fn errno_zero_seems_to_succeed() -> Outcome {
    apart(|| {
        forbid(SYS_getpid, ERRNO)?;
        same!(sys!(SYS_getpid)?, 0);
        Ok(())
    })
}

fn errno_is_clamped() -> Outcome {
    apart(|| {
        forbid(SYS_getuid, ERRNO | 0xffff)?;
        same!(getuid(), -4095);
        Ok(())
    })
}

fn trace_without_tracer_is_enosys() -> Outcome {
    apart(|| {
        forbid(SYS_getuid, TRACE | 7)?;
        fails!(sys!(SYS_getuid), ENOSYS);
        Ok(())
    })
}

fn log_lets_pass() -> Outcome {
    apart(|| {
        forbid(SYS_getpid, LOG)?;
        holds!(sys!(SYS_getpid)? > 0);
        Ok(())
    })
}

fn unknown_action_kills() -> Outcome {
    let pid = child(|| {
        let _ = forbid(SYS_getuid, 0x1111_0000);
        getuid() as i32
    })?;
    same!(status(pid)?, 128 + SIGSYS);
    Ok(())
}

fn worst_action_counts() -> Outcome {
    apart(|| {
        forbid(SYS_getuid, ERRNO | 3)?;
        forbid(SYS_getuid, ALLOW)?;
        forbid(SYS_getuid, LOG)?;
        same!(getuid(), -3);
        Ok(())
    })?;
    let pid = child(|| {
        let _ = forbid(SYS_getuid, KILL_PROCESS);
        let _ = forbid(SYS_getuid, TRAP);
        let _ = note_signal(SIGSYS, 0);
        getuid() as i32
    })?;
    same!(status(pid)?, 128 + SIGSYS);
    Ok(())
}

fn newest_of_equals_counts() -> Outcome {
    apart(|| {
        forbid(SYS_getuid, ERRNO | 3)?;
        forbid(SYS_getuid, ERRNO | 2)?;
        same!(getuid(), -2);
        Ok(())
    })
}

static TOLD: std::sync::Mutex<[i32; 8]> = std::sync::Mutex::new([0; 8]);

extern "C" fn on_trap(_signal: i32, info: usize, _context: usize) {
    if let Ok(mut told) = TOLD.try_lock() {
        *told = peek(info);
    }
}

fn trap_tells_the_call() -> Outcome {
    apart(|| {
        sigaction(SIGSYS, on_trap as *const () as usize, SA_SIGINFO, 0)?;
        forbid(SYS_getuid, TRAP | 77)?;
        let _ = getuid();
        let told = TOLD.lock().map(|told| *told).unwrap_or_default();
        // si_signo, si_errno, si_code SYS_SECCOMP; si_syscall and si_arch behind si_call_addr.
        same!((told[0], told[1], told[2]), (SIGSYS, 77, 1));
        same!((told[6], told[7] as u32), (SYS_getuid as i32, ARCH));
        Ok(())
    })
}

fn trap_cannot_be_ignored() -> Outcome {
    let pid = child(|| {
        let _ = sigaction(SIGSYS, SIG_IGN, 0, 0);
        let _ = forbid(SYS_getuid, TRAP);
        getuid() as i32
    })?;
    same!(status(pid)?, 128 + SIGSYS);
    Ok(())
}

fn kill_process_is_not_handled() -> Outcome {
    for action in [KILL_PROCESS, 0] {
        let pid = child(|| {
            let _ = note_signal(SIGSYS, 0);
            let _ = forbid(SYS_getuid, action);
            getuid() as i32
        })?;
        same!(status(pid)?, 128 + SIGSYS);
    }
    Ok(())
}

fn arguments_are_seen() -> Outcome {
    apart(|| {
        install(&[
            Instruction(0x20, 0, 0, 0),
            Instruction(0x15, 0, 7, SYS_getuid as u32),
            Instruction(0x20, 0, 0, 4),
            Instruction(0x15, 0, 5, ARCH),
            Instruction(0x20, 0, 0, 16),
            Instruction(0x15, 0, 3, 0x1234_5678),
            Instruction(0x20, 0, 0, 60),
            Instruction(0x15, 0, 1, 0x9abc_def0),
            Instruction(6, 0, 0, ERRNO | 42),
            RETURN,
        ])?;
        same!(raw(SYS_getuid, [0x1234_5678, 0, 0, 0, 0, 0x9abc_def0 << 32]), -42);
        holds!(getuid() >= 0);
        Ok(())
    })
}

fn arithmetic_and_jumps() -> Outcome {
    apart(|| {
        // For getuid: ((6 * 7 - 2) / 4) ^ 3 | through X and scratch memory = 9, as errno.
        install(&[
            Instruction(0x20, 0, 0, 0),
            Instruction(0x15, 0, 9, SYS_getuid as u32),
            Instruction(0, 0, 0, 6),
            Instruction(0x24, 0, 0, 7),
            Instruction(0x14, 0, 0, 2),
            Instruction(0x34, 0, 0, 4),
            Instruction(0xa4, 0, 0, 3),
            Instruction(2, 0, 0, 15),
            Instruction(0x61, 0, 0, 15),
            Instruction(0, 0, 0, ERRNO),
            Instruction(5, 0, 0, 1),
            RETURN,
            Instruction(0x4c, 0, 0, 0),
            Instruction(0x16, 0, 0, 0),
        ])?;
        same!(getuid(), -9);
        Ok(())
    })
}

fn filters_survive_fork_and_exec() -> Outcome {
    apart(|| {
        forbid(SYS_getuid, ERRNO | 6)?;
        same!(status(child(|| i32::from(getuid() != -6))?)?, 0);
        let (text, _) = crate::exec::output(&own_path(), &["x", "helper:getuid"], &[])?;
        same!(text.as_str(), "-6");
        Ok(())
    })
}

fn status_file_tells() -> Outcome {
    apart(|| {
        forbid(SYS_getuid, ALLOW)?;
        forbid(SYS_getuid, ALLOW)?;
        let text = String::from_utf8_lossy(&content("/proc/self/status")?).to_string();
        holds!(text.contains("\nSeccomp:\t2\n"));
        holds!(text.contains("\nSeccomp_filters:\t2\n"));
        Ok(())
    })
}

fn strict_after_filter_is_einval() -> Outcome {
    apart(|| {
        forbid(SYS_getuid, ALLOW)?;
        fails!(sys!(SYS_seccomp, SET_MODE_STRICT, 0, 0), EINVAL);
        Ok(())
    })
}

fn long_programs_and_long_chains() -> Outcome {
    apart(|| {
        fails!(install(&vec![RETURN; 4097]), EINVAL);
        let long = vec![RETURN; 4096];
        let mut installed = 0;
        let error = loop {
            match install(&long) {
                Ok(_) => installed += 1,
                Err(error) => break error,
            }
        };
        same!(error, Errno(ENOMEM));
        holds!((2..=64).contains(&installed));
        holds!(getuid() >= 0);
        Ok(())
    })
}
