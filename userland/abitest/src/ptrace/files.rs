//! What proc(5) shows of a process to its debugger: syscall, wchan, stack, personality, auxv.

use super::*;
use crate::case::{Case, Outcome, cases, fails, holds, same};

pub const CASES: &[Case] = cases![
    syscall_shows_the_call_that_sleeps,
    syscall_of_a_stopped_tracee,
    syscall_of_a_running_one,
    syscall_of_a_kernel_thread,
    wchan_has_a_name_while_it_sleeps,
    stack_is_for_the_privileged,
    personality_is_eight_digits,
    auxv_is_what_exec_made,
    auxv_of_a_kernel_thread_is_empty,
    private_files_are_eacces_for_users,
];

fn text(pid: i32, name: &str) -> Got<String> {
    Ok(String::from_utf8_lossy(&content(&format!("/proc/{pid}/{name}"))?).into_owned())
}

fn syscall_shows_the_call_that_sleeps() -> Outcome {
    let (pid, _gate) = waiting(|| 0)?;
    holds!(settles(pid, "S")?);
    let line = text(pid, "syscall")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    same!((words.len(), words[0]), (9, "63"));
    holds!(words[1..].iter().all(|word| word.starts_with("0x")));
    same!(words[3], "0x1");
    Ok(())
}

fn syscall_of_a_stopped_tracee() -> Outcome {
    let (pid, start) = ready(&[BRK], |_| {})?;
    same!(go(CONT, pid, 0)?, Stop(SIGTRAP));
    let line = text(pid, "syscall")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    same!((words.len(), words[0]), (3, "-1"));
    same!(words[2], format!("{start:#x}"));
    Ok(())
}

fn syscall_of_a_running_one() -> Outcome {
    let pid = child(|| {
        loop {
            std::hint::spin_loop();
        }
    })?;
    let mut line = String::new();
    for _ in 0..100 {
        line = text(pid, "syscall")?;
        if line == "running\n" {
            break;
        }
        sleep_ms(1);
    }
    same!(line, "running\n");
    kill(pid, SIGKILL)?;
    Ok(())
}

fn syscall_of_a_kernel_thread() -> Outcome {
    let line = text(2, "syscall")?;
    same!(line, "0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n");
    Ok(())
}

fn wchan_has_a_name_while_it_sleeps() -> Outcome {
    let (pid, _gate) = waiting(|| 0)?;
    holds!(settles(pid, "S")?);
    let name = text(pid, "wchan")?;
    holds!(name != "0" && !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()));
    same!(text(getpid(), "wchan")?, "0");
    Ok(())
}

fn stack_is_for_the_privileged() -> Outcome {
    let (pid, _gate) = waiting(|| 0)?;
    holds!(settles(pid, "S")?);
    let lines = text(pid, "stack")?;
    holds!(lines.lines().count() > 0 && lines.lines().all(|line| line.starts_with("[<0>] ")));
    let user = child(|| {
        let _ = become_user();
        let _ = sys!(SYS_prctl, PR_SET_DUMPABLE, 1);
        open("/proc/self/stack", O_RDONLY, 0).and_then(|fd| read(fd, &mut [0; 4])).err().map_or(0, |error| error.0)
    })?;
    same!(status(user)?, EACCES);
    Ok(())
}

fn personality_is_eight_digits() -> Outcome {
    same!(text(getpid(), "personality")?, "00000000\n");
    let (pid, _gate) = waiting(|| 0)?;
    same!(text(pid, "personality")?, "00000000\n");
    sys!(SYS_personality, 0x0040_0000)?;
    same!(text(getpid(), "personality")?, "00400000\n");
    Ok(())
}

fn auxv_is_what_exec_made() -> Outcome {
    let (pid, _gate) = waiting(|| 0)?;
    let bytes = content(&format!("/proc/{pid}/auxv"))?;
    same!(bytes.len() % 16, 0);
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
    same!(&words[words.len() - 2..], &[0, 0]);
    let page_size = words.chunks_exact(2).find(|pair| pair[0] == AT_PAGESZ).map(|pair| pair[1]);
    same!(page_size, Some(4096));
    Ok(())
}

fn auxv_of_a_kernel_thread_is_empty() -> Outcome {
    same!(content("/proc/2/auxv")?.len(), 0);
    Ok(())
}

fn private_files_are_eacces_for_users() -> Outcome {
    let (pid, _gate) = waiting(|| 0)?;
    let user = child(|| {
        let _ = become_user();
        let names = ["syscall", "personality", "auxv", "mem", "environ", "stack"];
        let refused = |name: &&str| open(&format!("/proc/{pid}/{name}"), O_RDONLY, 0) == Err(Errno(EACCES));
        i32::from(!names.iter().all(refused))
    })?;
    same!(status(user)?, 0);
    fails!(open("/proc/1/nothing", O_RDONLY, 0), ENOENT);
    Ok(())
}
