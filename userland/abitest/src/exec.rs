//! execve(2): what the new program gets, what of the old stays, what is refused. The new program is this one with a
//! hidden command (`helper:*`), see [`helper`].

use std::ffi::CString;

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    arguments_arrive,
    environment_arrives,
    auxiliary_vector_is_complete,
    at_random_is_random,
    cloexec_closes_and_others_stay,
    script_runs_with_one_argument,
    script_without_newline_and_with_blanks,
    script_of_a_script,
    script_that_is_its_own_interpreter_is_eloop,
    script_with_missing_interpreter_is_enoent,
    no_format_is_enoexec,
    damaged_programs_are_enoexec,
    missing_execute_bit_is_eacces,
    directory_is_eacces,
    missing_file_is_enoent,
    bad_paths_have_their_errno,
    argument_too_long_is_e2big,
    ten_mebibytes_of_arguments_are_e2big,
    thousand_arguments_arrive,
    written_program_is_etxtbsy,
    bad_pointers_are_efault,
    empty_argv_becomes_an_empty_name,
    handlers_are_reset_and_ignored_stay,
    mask_and_pending_signals_stay,
    pid_and_timer_stay,
    name_becomes_the_files,
    descriptor_can_be_run,
    failed_exec_changes_nothing,
    threads_are_gone_after_exec,
];

/// What the hidden commands do; the status is the result.
pub fn helper(arguments: &[String]) -> i32 {
    let print = |text: String| {
        let _ = write(1, text.as_bytes());
        0
    };
    match arguments[1].as_str() {
        "helper:core" => crate::limits::crash_with_threads(),
        "helper:getuid" => print(raw(SYS_getuid, fill([0usize; 0])).to_string()),
        "helper:ids" => print(identity()),
        "helper:argv" => print(arguments.join("|")),
        "helper:count" => print(arguments.len().to_string()),
        "helper:env" => {
            print(std::env::vars().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("|"))
        }
        "helper:auxv" => {
            print(auxv().iter().map(|(key, value)| format!("{key}={value:x}")).collect::<Vec<_>>().join("|"))
        }
        "helper:exit" => arguments[2].parse().unwrap_or(1),
        "helper:random" => print(
            auxv()
                .iter()
                .find(|(key, _)| *key == AT_RANDOM)
                .map_or(String::new(), |&(_, address)| format!("{:?}", peek::<[u8; 16]>(address))),
        ),
        "helper:execfn" => {
            print(auxv().iter().find(|(key, _)| *key == AT_EXECFN).map_or(String::new(), |&(_, address)| {
                (0..200).map(|n| peek::<u8>(address + n) as char).take_while(|&c| c != '\0').collect()
            }))
        }
        "helper:fd" => {
            let fd = arguments[2].parse().unwrap_or(-1);
            sys!(SYS_fcntl, fd, F_GETFD, 0).is_err().into()
        }
        "helper:signals" => {
            let handler = |signal| {
                let mut old = Action::default();
                let _ = sys!(SYS_rt_sigaction, signal, 0, &raw mut old, 8);
                old.handler
            };
            let mask = mask(SIG_BLOCK, 0).unwrap_or(u64::MAX);
            print(format!("{} {} {mask:x} {:x}", handler(SIGUSR1), handler(SIGUSR2), pending().unwrap_or(u64::MAX)))
        }
        "helper:pid" => {
            let mut left: itimerval = zeroed();
            let _ = sys!(SYS_getitimer, ITIMER_REAL, &raw mut left);
            print(format!("{} {}", getpid(), left.it_value.tv_sec > 50))
        }
        "helper:name" => {
            let mut name = [0u8; 16];
            let _ = sys!(SYS_prctl, PR_GET_NAME, name.as_mut_ptr(), 0, 0, 0);
            print(String::from_utf8_lossy(&name).trim_end_matches('\0').to_string())
        }
        "helper:threads" => {
            sleep_ms(50);
            print(std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count).to_string())
        }
        _ => 98,
    }
}

fn auxv() -> Vec<(u64, usize)> {
    let bytes = content("/proc/self/auxv").unwrap_or_default();
    let words: Vec<usize> =
        bytes.chunks_exact(8).map(|word| usize::from_ne_bytes(word.try_into().unwrap_or_default())).collect();
    words.chunks_exact(2).map(|pair| (pair[0] as u64, pair[1])).collect()
}

/// execve that only returns to fail.
fn execute(program: &str, arguments: &[&str], environment: &[&str]) -> Errno {
    let strings = |list: &[&str]| list.iter().map(|text| path(text)).collect::<Vec<CString>>();
    let pointers = |list: &[CString]| {
        list.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (arguments, environment) = (strings(arguments), strings(environment));
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    sys!(SYS_execve, path(program).as_ptr(), argv.as_ptr(), envp.as_ptr()).err().unwrap_or(Errno(0))
}

/// Runs a program in a child: what it prints and its status. 200 and the errno when it could not be started.
pub fn output(program: &str, arguments: &[&str], environment: &[&str]) -> Result<(String, i32)> {
    let (reader, writer) = pipe(O_CLOEXEC)?;
    let pid = child(|| {
        let _ = sys!(SYS_dup3, writer, 1, 0);
        200 + execute(program, arguments, environment).0.min(54)
    })?;
    close(writer)?;
    let text = rest(reader)?;
    close(reader)?;
    Ok((String::from_utf8_lossy(&text).to_string(), status(pid)?))
}

/// The errno of a failed exec, in a child in case it does not fail.
fn refusal(program: &str) -> Result<i32> {
    status(child(|| execute(program, &["x"], &[]).0)?)
}

/// Ids, AT_SECURE, capabilities and dumpable of this process, as the family caps reads them.
fn identity() -> String {
    let id = |number| sys!(number).unwrap_or(usize::MAX);
    let header = [0x2008_0522u32, 0];
    let mut sets = [0u32; 6];
    let _ = sys!(SYS_capget, header.as_ptr(), sets.as_mut_ptr());
    let secure = auxv().iter().find(|(key, _)| *key == AT_SECURE).map_or(9, |(_, value)| *value);
    format!(
        "{} {} {} {} secure={secure} effective={:x} permitted={:x} dumpable={}",
        id(SYS_getuid),
        id(SYS_geteuid),
        id(SYS_getgid),
        id(SYS_getegid),
        u64::from(sets[0]) | u64::from(sets[3]) << 32,
        u64::from(sets[1]) | u64::from(sets[4]) << 32,
        sys!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0).unwrap_or(9)
    )
}

fn script(name: &str, text: &str) -> Result<()> {
    file(name, text.as_bytes())?;
    sys!(SYS_fchmodat, AT_FDCWD, path(name).as_ptr(), 0o755).map(drop)
}

fn arguments_arrive() -> Outcome {
    let me = own_path();
    let (text, status) = output(&me, &["name", "helper:argv", "", "two words", "ä"], &[])?;
    same!((text.as_str(), status), ("name|helper:argv||two words|ä", 0));
    Ok(())
}

fn environment_arrives() -> Outcome {
    let (text, _) = output(&own_path(), &["x", "helper:env"], &["A=1", "EMPTY=", "LONG=x y z"])?;
    same!(text.as_str(), "A=1|EMPTY=|LONG=x y z");
    Ok(())
}

fn auxiliary_vector_is_complete() -> Outcome {
    let (text, _) = output(&own_path(), &["x", "helper:auxv"], &[])?;
    let find = |wanted: u64| {
        text.split('|')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| key.parse() == Ok(wanted))
            .and_then(|(_, value)| usize::from_str_radix(value, 16).ok())
    };
    same!(find(AT_PAGESZ), Some(4096));
    same!(find(AT_CLKTCK), Some(100));
    same!(find(AT_PHENT), Some(56));
    same!(find(AT_SECURE), Some(0));
    same!(find(AT_UID), Some(sys!(SYS_getuid)?));
    same!(find(AT_EGID), Some(sys!(SYS_getegid)?));
    for key in [AT_PHDR, AT_PHNUM, AT_ENTRY, AT_RANDOM, AT_EXECFN, AT_HWCAP, AT_PLATFORM] {
        holds!(find(key).is_some_and(|value| value != 0));
    }
    holds!(find(AT_BASE).is_some() && find(AT_FLAGS) == Some(0));
    if cfg!(target_arch = "aarch64") {
        same!(find(AT_HWCAP).unwrap_or(0) & 3, 3);
    }
    let (name, _) = output(&own_path(), &["x", "helper:execfn"], &[])?;
    same!(name, own_path());
    Ok(())
}

fn at_random_is_random() -> Outcome {
    let (one, _) = output(&own_path(), &["x", "helper:random"], &[])?;
    let (two, _) = output(&own_path(), &["x", "helper:random"], &[])?;
    holds!(one.len() > 8);
    holds!(one != two);
    Ok(())
}

fn cloexec_closes_and_others_stay() -> Outcome {
    let closes = open("/", O_RDONLY | O_CLOEXEC, 0)?;
    let stays = open("/", O_RDONLY, 0)?;
    let set = open("/", O_RDONLY, 0)?;
    sys!(SYS_fcntl, set, F_SETFD, FD_CLOEXEC)?;
    for (fd, missing) in [(closes, 1), (stays, 0), (set, 1)] {
        same!(output(&own_path(), &["x", "helper:fd", &fd.to_string()], &[])?.1, missing);
    }
    // The flag is the descriptor's, and it is still open here.
    same!(sys!(SYS_fcntl, closes, F_GETFD, 0)?, FD_CLOEXEC as usize);
    Ok(())
}

fn script_runs_with_one_argument() -> Outcome {
    let me = own_path();
    script("s", &format!("#!{me} helper:argv\nnonsense\n"))?;
    let (text, status) = output("./s", &["ignored", "a", "b c"], &[])?;
    same!((text, status), (format!("{me}|helper:argv|./s|a|b c"), 0));
    Ok(())
}

fn script_without_newline_and_with_blanks() -> Outcome {
    let me = own_path();
    script("s", &format!("#! \t {me} \t helper:argv"))?;
    same!(output("./s", &["x"], &[])?.0, format!("{me}|helper:argv|./s"));
    script("s", &format!("#!{me} helper:argv \t \n"))?;
    same!(output("./s", &["x"], &[])?.0, format!("{me}|helper:argv|./s"));
    Ok(())
}

fn script_of_a_script() -> Outcome {
    let me = own_path();
    script("inner", &format!("#!{me} helper:argv\n"))?;
    script("outer", "#!./inner arg\n")?;
    same!(output("./outer", &["x", "last"], &[])?.0, format!("{me}|helper:argv|./inner|arg|./outer|last"));
    Ok(())
}

fn script_that_is_its_own_interpreter_is_eloop() -> Outcome {
    script("s", "#!./s\n")?;
    same!(refusal("./s")?, ELOOP);
    Ok(())
}

fn script_with_missing_interpreter_is_enoent() -> Outcome {
    script("s", "#!/no/such/interpreter\n")?;
    same!(refusal("./s")?, ENOENT);
    script("empty", "#!   \n")?;
    same!(refusal("./empty")?, ENOEXEC);
    Ok(())
}

fn no_format_is_enoexec() -> Outcome {
    for text in ["", "#", "echo hello\n", "\x7fELF", "\u{7f}EL"] {
        script("s", text)?;
        same!(refusal("./s")?, ENOEXEC);
    }
    Ok(())
}

fn damaged_programs_are_enoexec() -> Outcome {
    let mut program = content(&own_path())?;
    program.truncate(4096);
    for (at, value) in [(0, 0), (18, 0xff), (16, 9), (54, 1)] {
        let mut damaged = program.clone();
        damaged[at] = value;
        file("p", &damaged)?;
        sys!(SYS_fchmodat, AT_FDCWD, c"p".as_ptr(), 0o755)?;
        same!(refusal("./p")?, ENOEXEC);
    }
    // Ends inside its headers.
    file("p", &program[..70])?;
    let error = refusal("./p")?;
    holds!(error == ENOEXEC || error == EIO);
    Ok(())
}

fn missing_execute_bit_is_eacces() -> Outcome {
    file("p", b"#!/bin/sh\n")?;
    same!(refusal("./p")?, EACCES);
    Ok(())
}

fn directory_is_eacces() -> Outcome {
    same!(refusal("/")?, EACCES);
    Ok(())
}

fn missing_file_is_enoent() -> Outcome {
    same!(refusal("./nothing")?, ENOENT);
    same!(refusal("")?, ENOENT);
    Ok(())
}

fn bad_paths_have_their_errno() -> Outcome {
    file("f", b"")?;
    same!(refusal("f/x")?, ENOTDIR);
    same!(refusal(&"n".repeat(300))?, ENAMETOOLONG);
    same!(refusal(&"n/".repeat(3000))?, ENAMETOOLONG);
    symlink("loop", "loop")?;
    same!(refusal("loop")?, ELOOP);
    Ok(())
}

fn argument_too_long_is_e2big() -> Outcome {
    let long = "x".repeat(128 << 10);
    same!(output(&own_path(), &["x", "helper:argv", &long], &[])?.1, 200 + E2BIG);
    let fits = "x".repeat((128 << 10) - 1);
    same!(output(&own_path(), &["x", "helper:count", &fits], &[])?, ("3".to_string(), 0));
    Ok(())
}

fn ten_mebibytes_of_arguments_are_e2big() -> Outcome {
    let long = "x".repeat(100 << 10);
    let arguments = vec![long.as_str(); 103];
    same!(output(&own_path(), &arguments, &[])?.1, 200 + E2BIG);
    Ok(())
}

fn thousand_arguments_arrive() -> Outcome {
    let long = "x".repeat(100);
    let mut arguments = vec![long.as_str(); 1000];
    arguments[1] = "helper:count";
    same!(output(&own_path(), &arguments, &[])?.0, "1000");
    Ok(())
}

fn written_program_is_etxtbsy() -> Outcome {
    let program = content(&own_path())?;
    file("p", &program)?;
    sys!(SYS_fchmodat, AT_FDCWD, c"p".as_ptr(), 0o755)?;
    let fd = open("p", O_WRONLY, 0)?;
    same!(refusal("./p")?, ETXTBSY);
    close(fd)?;
    same!(output("./p", &["x", "helper:count"], &[])?, ("2".to_string(), 0));
    // And what runs cannot be written.
    fails!(open(&own_path(), O_WRONLY, 0), ETXTBSY);
    Ok(())
}

fn bad_pointers_are_efault() -> Outcome {
    let me = path(&own_path());
    let none = [0usize];
    fails!(sys!(SYS_execve, 8, none.as_ptr(), none.as_ptr()), EFAULT);
    fails!(sys!(SYS_execve, me.as_ptr(), 8, none.as_ptr()), EFAULT);
    fails!(sys!(SYS_execve, me.as_ptr(), none.as_ptr(), usize::MAX - 4095), EFAULT);
    let bad = [8usize, 0];
    fails!(sys!(SYS_execve, me.as_ptr(), bad.as_ptr(), none.as_ptr()), EFAULT);
    Ok(())
}

fn empty_argv_becomes_an_empty_name() -> Outcome {
    // Linux since 5.18: a program always has an argv[0].
    same!(status(child(|| execute(&own_path(), &[], &["ABITEST_EMPTY=1"]).0)?)?, 77);
    Ok(())
}

fn handlers_are_reset_and_ignored_stay() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    sigaction(SIGUSR2, SIG_IGN, 0, 0)?;
    same!(output(&own_path(), &["x", "helper:signals"], &[])?.0, "0 1 0 0");
    Ok(())
}

fn mask_and_pending_signals_stay() -> Outcome {
    mask(SIG_SETMASK, bit(SIGTERM))?;
    let (reader, writer) = pipe(O_CLOEXEC)?;
    let pid = child(|| {
        let _ = sys!(SYS_dup3, writer, 1, 0);
        let _ = kill(getpid(), SIGTERM);
        execute(&own_path(), &["x", "helper:signals"], &[]).0
    })?;
    close(writer)?;
    let text = rest(reader)?;
    same!(String::from_utf8_lossy(&text), "0 0 4000 4000");
    same!(status(pid)?, 0);
    Ok(())
}

fn pid_and_timer_stay() -> Outcome {
    let (reader, writer) = pipe(O_CLOEXEC)?;
    let pid = child(|| {
        let _ = sys!(SYS_dup3, writer, 1, 0);
        let mut timer: itimerval = zeroed();
        timer.it_value.tv_sec = 100;
        let _ = sys!(SYS_setitimer, ITIMER_REAL, &raw const timer, 0);
        execute(&own_path(), &["x", "helper:pid"], &[]).0
    })?;
    close(writer)?;
    let text = rest(reader)?;
    same!(String::from_utf8_lossy(&text).to_string(), format!("{pid} true"));
    same!(status(pid)?, 0);
    Ok(())
}

fn name_becomes_the_files() -> Outcome {
    symlink(&own_path(), "a-name-that-is-longer")?;
    same!(output("./a-name-that-is-longer", &["x", "helper:name"], &[])?.0, "a-name-that-is-");
    Ok(())
}

fn descriptor_can_be_run() -> Outcome {
    let fd = open(&own_path(), O_RDONLY | O_CLOEXEC, 0)?;
    let (reader, writer) = pipe(O_CLOEXEC)?;
    let argv = [c"x".as_ptr(), c"helper:count".as_ptr(), std::ptr::null()];
    let pid = child(|| {
        let _ = sys!(SYS_dup3, writer, 1, 0);
        sys!(SYS_execveat, fd, c"".as_ptr(), argv.as_ptr(), argv[2..].as_ptr(), AT_EMPTY_PATH)
            .map_or_else(|e| e.0, |_| 0)
    })?;
    close(writer)?;
    same!(rest(reader)?, b"2");
    same!(status(pid)?, 0);
    Ok(())
}

fn failed_exec_changes_nothing() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    let fd = open("/", O_RDONLY | O_CLOEXEC, 0)?;
    script("s", "#!/no/such/interpreter\n")?;
    same!(execute("./s", &["x"], &[]), Errno(ENOENT));
    kill(getpid(), SIGUSR1)?;
    same!(count(), 1);
    close(fd)?;
    Ok(())
}

extern "C" fn linger(_: usize) -> i32 {
    sleep_ms(30_000);
    0
}

fn threads_are_gone_after_exec() -> Outcome {
    let (reader, writer) = pipe(O_CLOEXEC)?;
    let pid = child(|| {
        let _ = sys!(SYS_dup3, writer, 1, 0);
        let flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
        for _ in 0..3 {
            if clone_on_stack(flags, std::ptr::null_mut(), 0, linger, 0).is_err() {
                return 97;
            }
        }
        execute(&own_path(), &["x", "helper:threads"], &[]).0
    })?;
    close(writer)?;
    same!(rest(reader)?, b"1");
    same!(status(pid)?, 0);
    Ok(())
}
