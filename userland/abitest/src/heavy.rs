//! Loads that a kernel has to survive and to contain, each a command of its own: `abitest heavy NAME`. They are no cases,
//! because they take what the machine has.

use crate::kernel::*;

/// Runs one; 0 when it went as it should.
pub fn run(name: &str) -> Option<i32> {
    let outcome = match name {
        "storm" => storm(100_000),
        "deep" => deep(10_000),
        "bomb" => bomb(),
        "swap" => swap(),
        _ => return None,
    };
    Some(match outcome {
        Ok(text) => {
            println!("ok heavy {name}: {text}");
            0
        }
        Err(error) => {
            println!("not ok heavy {name}: {error:?}");
            1
        }
    })
}

/// Queues real-time signals with their numbers as values, and takes them in order.
fn storm(count: usize) -> Result<String> {
    limit(RLIMIT_SIGPENDING, count as u64, count as u64)?;
    let signal = SIGRTMIN() + 3;
    mask(SIG_BLOCK, bit(signal))?;
    // struct siginfo: signal, errno, code, padding, pid, uid, value.
    let mut info = [0u64; 16];
    let queue = |value: usize, info: &mut [u64; 16]| {
        info[0] = signal as u64;
        info[1] = i64::from(SI_QUEUE).cast_unsigned() & 0xffff_ffff;
        info[3] = value as u64;
        sys!(SYS_rt_sigqueueinfo, getpid(), signal, info.as_ptr())
    };
    for value in 0..count {
        queue(value, &mut info)?;
    }
    if queue(count, &mut info) != Err(Errno(EAGAIN)) {
        return Err(Errno(ERANGE));
    }
    let set = bit(signal);
    let now = timespec_ms(0);
    for value in 0..count {
        sys!(SYS_rt_sigtimedwait, &raw const set, info.as_mut_ptr(), &raw const now, 8)?;
        if info[3] != value as u64 {
            return Err(Errno(ERANGE));
        }
    }
    Ok(format!("{count} signals in order"))
}

/// A chain of processes, each the child of the one before. It may end early for want of room, but it must unwind.
fn deep(wanted: u32) -> Result<String> {
    let shared = Shared::new()?;
    let first = fork()?;
    if first == 0 {
        for depth in 1..=wanted {
            shared.set(0, depth);
            match fork() {
                Ok(0) => {}
                // Here the chain ends: everybody passes on how.
                Err(Errno(EAGAIN | ENOMEM)) => exit(0),
                Err(_) => exit(1),
                Ok(child) => exit(status(child).unwrap_or(2)),
            }
        }
        exit(0);
    }
    match status(first)? {
        0 => Ok(format!("{} deep", shared.get(0))),
        other => Err(Errno(other)),
    }
}

/// Forks without end, as a user with a limit, until it is killed.
fn bomb() -> Result<String> {
    become_user()?;
    loop {
        // Nobody waits for anybody. Without the pause it would be a test of patience: a fair scheduler gives the shell one
        // part in 500.
        if fork().is_err() {
            sleep_ms(20);
        }
    }
}

/// Executes itself without end, until it is killed.
fn swap() -> Result<String> {
    let program = path(&own_path());
    let words = [program.as_ptr(), c"heavy".as_ptr(), c"swap".as_ptr(), std::ptr::null()];
    sys!(SYS_execve, program.as_ptr(), words.as_ptr(), 0).map(|_| String::new())
}
