//! Bad input: pointers that point nowhere, into the kernel, or across the end of what is mapped; numbers that are none.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    unknown_numbers_are_enosys,
    pointers_to_nothing_are_efault,
    pointers_into_the_kernel_are_efault,
    buffers_that_end_in_nothing,
    strings_that_end_in_nothing,
    read_only_results_are_efault,
    lengths_that_wrap,
    huge_structures_are_refused,
    garbage_programs_do_not_run,
    memory_eater_is_stopped_and_the_rest_lives,
    fork_bomb_is_held_by_its_limit,
    a_thousand_random_calls,
];

fn unknown_numbers_are_enosys() -> Outcome {
    for number in [570, 600, 999, 1 << 20, -1, i64::MAX] {
        same!(raw(number, [0; 6]), -(ENOSYS as isize));
    }
    Ok(())
}

/// Calls that take a pointer, and the place of the pointer among their arguments.
const CALLS: &[(c_long, usize, [usize; 6])] = &[
    (SYS_newfstatat, 1, [AT_FDCWD as usize, 0, 0, 0, 0, 0]),
    (SYS_fstat, 1, [0; 6]),
    (SYS_openat, 1, [AT_FDCWD as usize, 0, 0, 0, 0, 0]),
    (SYS_mkdirat, 1, [AT_FDCWD as usize, 0, 0, 0, 0, 0]),
    (SYS_unlinkat, 1, [AT_FDCWD as usize, 0, 0, 0, 0, 0]),
    (SYS_chdir, 0, [0; 6]),
    (SYS_readlinkat, 1, [AT_FDCWD as usize, 0, 0, 10, 0, 0]),
    (SYS_pipe2, 0, [0; 6]),
    (SYS_clock_gettime, 1, [0; 6]),
    (SYS_nanosleep, 0, [0; 6]),
    (SYS_uname, 0, [0; 6]),
    (SYS_getrlimit, 1, [7, 0, 0, 0, 0, 0]),
    (SYS_getrusage, 1, [0; 6]),
    (SYS_sysinfo, 0, [0; 6]),
    (SYS_getcwd, 0, [0, 4096, 0, 0, 0, 0]),
    (SYS_rt_sigaction, 1, [10, 0, 0, 8, 0, 0]),
    (SYS_rt_sigaction, 2, [10, 0, 0, 8, 0, 0]),
    (SYS_rt_sigprocmask, 1, [0, 0, 0, 8, 0, 0]),
    (SYS_rt_sigprocmask, 2, [0, 0, 0, 8, 0, 0]),
    (SYS_sigaltstack, 0, [0; 6]),
    (SYS_setitimer, 1, [0; 6]),
    (SYS_getitimer, 1, [0; 6]),
    (SYS_getresuid, 0, [0; 6]),
    (SYS_statfs, 0, [0; 6]),
    (SYS_getrandom, 0, [0, 16, 0, 0, 0, 0]),
    (SYS_sched_getaffinity, 2, [0, 128, 0, 0, 0, 0]),
    (SYS_ppoll, 0, [0, 1, 0, 0, 8, 0]),
    (SYS_execve, 0, [0; 6]),
    (SYS_futex, 0, [0, 0, 0, 0, 0, 0]),
    (SYS_times, 0, [0; 6]),
    (SYS_gettimeofday, 0, [0; 6]),
    (SYS_symlinkat, 0, [0, AT_FDCWD as usize, 0, 0, 0, 0]),
    (SYS_prlimit64, 3, [0, 7, 0, 0, 0, 0]),
    (SYS_sched_getparam, 1, [0; 6]),
    (SYS_capget, 0, [0; 6]),
    (SYS_memfd_create, 0, [0; 6]),
];

/// Every call of the table with `pointer` is EFAULT.
fn all_are_efault(pointer: usize) -> Outcome {
    for &(number, place, mut arguments) in CALLS {
        arguments[place] = pointer;
        let result = raw(number, arguments);
        if result != -(EFAULT as isize) {
            return Err(crate::case::Failure(format!(
                "call {number} with {pointer:#x} as argument {place} is {result}"
            )));
        }
    }
    Ok(())
}

fn pointers_to_nothing_are_efault() -> Outcome {
    let page = memory(4096)?;
    sys!(SYS_munmap, page, 4096)?;
    all_are_efault(8)?;
    all_are_efault(page + 16)
}

fn pointers_into_the_kernel_are_efault() -> Outcome {
    for pointer in
        [0xffff_0000_0008_0000, 0xffff_8000_0000_0000, usize::MAX - 4095, usize::MAX - 7, 0x0100_0000_0000_0000]
    {
        // arm64 ignores the top byte of an address, but not of one that a call is given (tagged-address-abi).
        all_are_efault(pointer)?;
    }
    Ok(())
}

/// Two pages, the second of which is gone: the address of the end of the first.
fn edge() -> Result<usize> {
    let page = memory(8192)?;
    sys!(SYS_munmap, page + 4096, 4096)?;
    Ok(page + 4096)
}

fn buffers_that_end_in_nothing() -> Outcome {
    let edge = edge()?;
    fails!(sys!(SYS_uname, edge - 100), EFAULT);
    fails!(sys!(SYS_clock_gettime, 0, edge - 8), EFAULT);
    file("f", &[1; 1000])?;
    let fd = open("f", O_RDWR, 0)?;
    // What fits is read.
    same!(sys!(SYS_read, fd, edge - 100, 1000)?, 100);
    // How much of the last word is cleared is the processor's affair: Linux on arm64 stops at 96.
    let zero = open("/dev/zero", O_RDONLY, 0)?;
    holds!((96..=100).contains(&sys!(SYS_read, zero, edge - 100, 1000)?));
    let (_reader, writer) = pipe(0)?;
    let result = sys!(SYS_write, writer, edge - 100, 1000);
    holds!(matches!(result, Ok(100) | Err(Errno(EFAULT))));
    Ok(())
}

fn strings_that_end_in_nothing() -> Outcome {
    let edge = edge()?;
    poke(edge - 3, *b"abc");
    fails!(sys!(SYS_openat, AT_FDCWD, edge - 3, 0, 0), EFAULT);
    poke(edge - 3, *b"f\0x");
    fails!(sys!(SYS_openat, AT_FDCWD, edge - 3, 0, 0), ENOENT);
    // Ends right before the hole.
    poke(edge - 2, *b"/\0");
    sys!(SYS_openat, AT_FDCWD, edge - 2, 0, 0)?;
    Ok(())
}

fn read_only_results_are_efault() -> Outcome {
    let page = map(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS)?;
    fails!(sys!(SYS_uname, page), EFAULT);
    fails!(sys!(SYS_getrandom, page, 100, 0), EFAULT);
    fails!(sys!(SYS_pipe2, page, 0), EFAULT);
    let (reader, writer) = pipe(0)?;
    write(writer, b"x")?;
    fails!(sys!(SYS_read, reader, page, 1), EFAULT);
    Ok(())
}

fn lengths_that_wrap() -> Outcome {
    let page = memory(4096)?;
    let zero = open("/dev/zero", O_RDONLY, 0)?;
    fails!(sys!(SYS_read, zero, page, usize::MAX), EFAULT);
    fails!(sys!(SYS_munmap, page, usize::MAX - 4095), EINVAL);
    fails!(sys!(SYS_mprotect, page, usize::MAX - 8191, PROT_READ), ENOMEM);
    Ok(())
}

fn huge_structures_are_refused() -> Outcome {
    let page = memory(8192)?;
    fails!(sys!(SYS_clone3, page, 8192), E2BIG);
    fails!(sys!(SYS_clone3, page, 8), EINVAL);
    // What is unknown must be zero.
    poke(page + 4000, 1u8);
    fails!(sys!(SYS_clone3, page, 4096), E2BIG);
    fails!(sys!(SYS_ppoll, page, usize::MAX, 0, 0, 8), EINVAL);
    fails!(sys!(SYS_setgroups, 70_000, page), EINVAL);
    Ok(())
}

fn garbage_programs_do_not_run() -> Outcome {
    let mut program = content(&own_path())?;
    program.truncate(64 << 10);
    let mut random = 12345u32;
    let argv = [c"p".as_ptr(), std::ptr::null()];
    for _ in 0..60 {
        let mut damaged = program.clone();
        for _ in 0..4 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Among the headers, where it hurts.
            damaged[(random >> 8) as usize % 0x200] = (random >> 24) as u8;
        }
        let _ = unlink("p");
        file("p", &damaged)?;
        sys!(SYS_fchmodat, AT_FDCWD, c"p".as_ptr(), 0o755)?;
        let pid = child(|| {
            let _ = limit(RLIMIT_CPU, 1, 2);
            let _ = sys!(SYS_dup3, open("/dev/null", O_RDWR, 0).unwrap_or(0), 2, 0);
            let _ = sys!(SYS_dup3, 2, 1, 0);
            sys!(SYS_execve, c"p".as_ptr(), argv.as_ptr(), argv[1..].as_ptr()).is_err().into()
        })?;
        for _ in 0..3000 {
            if sys!(SYS_wait4, pid, 0, WNOHANG, 0)? != 0 {
                break;
            }
            sleep_ms(1);
        }
        let _ = kill(pid, SIGKILL);
        let _ = wait(pid);
    }
    Ok(())
}

fn memory_eater_is_stopped_and_the_rest_lives() -> Outcome {
    let pid = child(|| {
        let _ = limit(RLIMIT_AS, 64 << 20, 64 << 20);
        let mut eaten = 0;
        while let Ok(base) = memory(1 << 20) {
            for page in (0..1 << 20).step_by(4096) {
                poke(base + page, 1u8);
            }
            eaten += 1;
        }
        // Between what the program has itself and the limit.
        i32::from(!(10..64).contains(&eaten))
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn fork_bomb_is_held_by_its_limit() -> Outcome {
    fn explode(depth: u32) {
        for _ in 0..8 {
            match fork() {
                Ok(0) if depth < 6 => explode(depth + 1),
                Ok(0) => break,
                _ => {}
            }
        }
        sleep_ms(20);
        exit(0)
    }
    let pid = child(|| {
        let _ = become_user();
        let _ = limit(RLIMIT_NPROC, 40, 40);
        explode(0);
        0
    })?;
    same!(status(pid)?, 0);
    let _ = kill(-getpid(), 0);
    Ok(())
}

fn a_thousand_random_calls() -> Outcome {
    same!(status(child(|| crate::fuzz::run(1000, 7))?)?, 0);
    Ok(())
}
