//! execve(2): what the new program gets, what it keeps, and what happens when there is none.

use abi::signal::{SIG_BLOCK, SIGINT, SIGSEGV, SIGUSR1, SIGUSR2};
use abi::{Errno, fcntl, mman, nr};
use hal::hosted::User;
use hal::trap::Access;
use kcore::testing::image::{BSS_BYTES, DATA, DATA_BYTES, TEXT};
use kcore::testing::{Kind, Libc, Machine};

use crate::{Diary, bit};

/// argv, envp and auxv from the initial stack (System V ABI for AArch64, as the kernel lays it out).
struct Initial {
    argv: Vec<String>,
    envp: Vec<String>,
    auxv: Vec<(u64, u64)>,
}

fn string_at(user: &mut User, mut address: u64) -> String {
    let mut text = Vec::new();
    loop {
        let byte: u8 = user.read(address);
        if byte == 0 {
            return String::from_utf8(text).unwrap();
        }
        text.push(byte);
        address += 1;
    }
}

fn initial(user: &mut User) -> Initial {
    let mut at = user.sp();
    assert_eq!(at % 16, 0, "the stack pointer of a new program is aligned");
    let mut next = |user: &mut User| {
        at += 8;
        user.read::<u64>(at - 8)
    };
    let argc = next(user);
    let argv = (0..argc).map(|_| next(user)).collect::<Vec<_>>();
    assert_eq!(next(user), 0);
    let mut envp = Vec::new();
    loop {
        match next(user) {
            0 => break,
            pointer => envp.push(pointer),
        }
    }
    let mut auxv = Vec::new();
    loop {
        match (next(user), next(user)) {
            (0, _) => break,
            pair => auxv.push(pair),
        }
    }
    let argv = argv.into_iter().map(|pointer| string_at(user, pointer)).collect();
    let envp = envp.into_iter().map(|pointer| string_at(user, pointer)).collect();
    Initial { argv, envp, auxv }
}

impl Initial {
    fn aux(&self, kind: u64) -> u64 {
        self.auxv.iter().find(|pair| pair.0 == kind).unwrap_or_else(|| panic!("no auxv entry {kind}")).1
    }
}

/// Runs `path` in a child and returns its exit code.
fn run(init: &mut User, path: &'static str, argv: &'static [&'static str]) -> Option<i32> {
    let child = init.fork(move |child| child.exec(path, argv));
    init.wait_for(child).exit_code()
}

/// A machine with `/bin/program`.
fn with_program(body: impl Fn(&mut User) -> i32 + 'static, init: impl Fn(&mut User) + 'static) {
    let mut machine = Machine::new();
    machine.program("/bin/program", body);
    machine.run(init);
}

#[test]
fn a_program_finds_its_arguments_and_the_auxiliary_vector_on_the_stack() {
    with_program(
        |user| {
            let initial = initial(user);
            assert_eq!(initial.argv, ["program", "-x", ""]);
            assert!(initial.envp.is_empty());
            assert_eq!(initial.aux(6), 4096, "AT_PAGESZ");
            assert_eq!(initial.aux(9), TEXT + 0x200, "AT_ENTRY");
            assert_eq!(initial.aux(3), TEXT + 64, "AT_PHDR");
            assert_eq!((initial.aux(4), initial.aux(5)), (56, 3), "AT_PHENT, AT_PHNUM");
            assert_eq!((initial.aux(11), initial.aux(12)), (0, 0), "AT_UID, AT_EUID");
            assert_eq!(initial.aux(23), 0, "AT_SECURE");
            assert_eq!(string_at(user, initial.aux(31)), "/bin/program", "AT_EXECFN");
            let random = user.read_bytes(initial.aux(25), 16);
            assert_ne!(random, [0; 16], "AT_RANDOM");
            0
        },
        |init| assert_eq!(run(init, "/bin/program", &["program", "-x", ""]), Some(0)),
    );
}

#[test]
fn the_environment_is_passed_on() {
    with_program(
        |user| {
            assert_eq!(initial(user).envp, ["A=1", "PATH=/bin"]);
            0
        },
        |init| {
            let child = init.fork(|child| {
                let path = child.push_string("/bin/program");
                let (one, two) = (child.push_string("A=1"), child.push_string("PATH=/bin"));
                let argv = child.push(&[path.to_le_bytes(), [0; 8]].concat());
                let envp = child.push(&[one.to_le_bytes(), two.to_le_bytes(), [0; 8]].concat());
                panic!("{:?}", child.call(nr::EXECVE, &[path, argv, envp]));
            });
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
        },
    );
}

#[test]
fn data_comes_from_the_file_and_bss_is_zero() {
    with_program(
        |user| {
            let data = user.read_bytes(DATA, DATA_BYTES as usize);
            assert!(data.iter().enumerate().all(|(n, byte)| *byte == n.to_le_bytes()[0]));
            let bss = user.read_bytes(DATA + DATA_BYTES, BSS_BYTES as usize);
            assert!(bss.iter().all(|byte| *byte == 0));
            user.write(DATA, 0xffu8);
            user.write(DATA + DATA_BYTES, 0xffu8);
            0
        },
        |init| {
            // Twice: what the first run wrote must not be in the file or in the second run.
            assert_eq!(run(init, "/bin/program", &["a"]), Some(0));
            assert_eq!(run(init, "/bin/program", &["b"]), Some(0));
        },
    );
}

#[test]
fn text_cannot_be_written_and_data_cannot_be_executed() {
    for (address, access) in [(TEXT, Access::Write), (DATA, Access::Execute)] {
        with_program(
            move |user| {
                user.touch(address, Access::Read);
                user.touch(address, access);
                0
            },
            |init| {
                let child = init.fork(|child| child.exec("/bin/program", &["x"]));
                assert_eq!(init.wait_for(child).killed_by(), Some(SIGSEGV));
            },
        );
    }
}

#[test]
fn the_stack_cannot_be_executed() {
    with_program(
        |user| {
            let sp = user.sp();
            user.touch(sp, Access::Execute);
            0
        },
        |init| {
            let child = init.fork(|child| child.exec("/bin/program", &["x"]));
            assert_eq!(init.wait_for(child).killed_by(), Some(SIGSEGV));
        },
    );
}

#[test]
fn old_memory_is_gone() {
    with_program(
        |user| {
            let address = initial(user).argv[1].parse().unwrap();
            user.touch(address, Access::Read);
            0
        },
        |init| {
            let child = init.fork(|child| {
                let page = child.mmap(4096, mman::PROT_READ | mman::PROT_WRITE);
                child.write(page, 1u8);
                child.exec("/bin/program", &["x", &page.to_string()])
            });
            assert_eq!(init.wait_for(child).killed_by(), Some(SIGSEGV));
        },
    );
}

#[test]
fn a_position_independent_program_runs_where_the_kernel_puts_it() {
    let diary = Diary::default();
    let inner = diary.clone();
    let mut machine = Machine::new();
    machine.program_of(Kind::PositionIndependent, "/bin/pie", move |user| {
        let entry = initial(user).aux(9);
        assert_eq!(entry % 4096, 0x200);
        let data = entry - 0x200 + (DATA - TEXT);
        assert_eq!(user.read::<u32>(data), 0x0302_0100);
        inner.note(format!("{entry:x}"));
        0
    });
    machine.run(move |init| {
        for _ in 0..3 {
            assert_eq!(run(init, "/bin/pie", &["pie"]), Some(0));
        }
        let bases = diary.entries();
        assert!(bases[0] != bases[1] || bases[1] != bases[2], "the base is random: {bases:?}");
    });
}

#[test]
fn close_on_exec_closes_and_other_files_stay_open() {
    with_program(
        |user| {
            assert_eq!(user.write_fd(3, b"x"), Err(Errno::EBADF));
            assert_eq!(user.write_fd(5, b"x"), Ok(1));
            0
        },
        |init| {
            let child = init.fork(|child| {
                for fd in 0..10 {
                    let _ = child.close(fd);
                }
                for (flags, fd) in [(0, 0), (fcntl::O_CLOEXEC, 2), (0, 4)] {
                    assert_eq!(child.pipe(flags), Ok((fd, fd + 1)));
                }
                child.exec("/bin/program", &["x"])
            });
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
        },
    );
}

#[test]
fn handlers_become_default_while_ignored_and_blocked_signals_stay_so() {
    with_program(
        |user| {
            assert_eq!(user.sigprocmask(SIG_BLOCK, 0), bit(SIGUSR2));
            assert_eq!(user.sigpending(), bit(SIGUSR2));
            let me = user.getpid();
            user.kill(me, SIGINT).unwrap();
            user.kill(me, SIGUSR1).unwrap();
            0
        },
        |init| {
            let child = init.fork(|child| {
                child.on(SIGUSR1, 0, |_| panic!("the handler of another program ran"));
                child.ignore(SIGINT);
                child.sigprocmask(SIG_BLOCK, bit(SIGUSR2));
                let me = child.getpid();
                child.kill(me, SIGUSR2).unwrap();
                child.exec("/bin/program", &["x"])
            });
            assert_eq!(init.wait_for(child).killed_by(), Some(SIGUSR1));
        },
    );
}

#[test]
fn a_program_that_cannot_be_run_leaves_the_caller_as_it_was() {
    let mut machine = Machine::new();
    machine.program("/bin/program", |_| 0);
    machine.file("/etc/plain", 0o644, b"text");
    machine.file("/bin/garbage", 0o755, b"\x7fNOT an executable");
    machine.file("/bin/empty", 0o755, b"");
    machine.file("/bin/short", 0o755, b"\x7fELF");
    machine.file("/bin/lost", 0o755, b"#!/bin/missing\n");
    machine.run(|init| {
        let page = init.mmap(4096, mman::PROT_READ | mman::PROT_WRITE);
        init.write(page, 5u32);
        for (path, error) in [
            ("/bin/missing", Errno::ENOENT),
            ("", Errno::ENOENT),
            ("/etc/plain", Errno::EACCES),
            ("/etc/plain/x", Errno::ENOTDIR),
            ("/etc", Errno::EACCES),
            ("/bin/garbage", Errno::ENOEXEC),
            ("/bin/empty", Errno::ENOEXEC),
            ("/bin/short", Errno::ENOEXEC),
            ("/bin/lost", Errno::ENOENT),
        ] {
            assert_eq!(init.try_exec(path, &["x"]), error, "{path}");
        }
        assert_eq!(init.call(nr::EXECVE, &[0, 0, 0]), Err(Errno::EFAULT));
        let path = init.push_string("/bin/program");
        assert_eq!(init.call(nr::EXECVE, &[path, 8, 0]), Err(Errno::EFAULT));
        let argv = init.push(&[8u64.to_le_bytes(), [0; 8]].concat());
        assert_eq!(init.call(nr::EXECVE, &[path, argv, 0]), Err(Errno::EFAULT));
        assert_eq!(init.read::<u32>(page), 5);
    });
}

#[test]
fn too_many_arguments_are_e2big() {
    with_program(
        |_| 0,
        |init| {
            let long = "x".repeat(140_000);
            assert_eq!(init.try_exec("/bin/program", &["program", &long]), Errno::E2BIG, "one string over 128 KiB");
            let piece = "y".repeat(100_000);
            let many: Vec<&str> = std::iter::repeat_n(piece.as_str(), 30).collect();
            assert_eq!(init.try_exec("/bin/program", &many), Errno::E2BIG, "more than a quarter of the stack limit");
        },
    );
}

#[test]
fn a_script_runs_its_interpreter() {
    let mut machine = Machine::new();
    machine.program("/bin/interp", |user| {
        assert_eq!(initial(user).argv, ["/bin/interp", "-a b", "/bin/script", "one", "two"]);
        6
    });
    machine.file("/bin/script", 0o755, b"#! /bin/interp -a b \nbody\n");
    machine.run(|init| assert_eq!(run(init, "/bin/script", &["ignored", "one", "two"]), Some(6)));
}

#[test]
fn a_script_may_be_interpreted_by_a_script_and_not_for_ever() {
    let mut machine = Machine::new();
    machine.program("/bin/interp", |user| {
        assert_eq!(initial(user).argv, ["/bin/interp", "/bin/first", "/bin/second"]);
        7
    });
    machine.file("/bin/first", 0o755, b"#!/bin/interp\n");
    machine.file("/bin/second", 0o755, b"#!/bin/first\n");
    machine.file("/bin/loop", 0o755, b"#!/bin/loop\n");
    machine.run(|init| {
        assert_eq!(run(init, "/bin/second", &["x"]), Some(7));
        assert_eq!(init.try_exec("/bin/loop", &["x"]), Errno::ELOOP);
    });
}

#[test]
fn a_program_may_exec_itself_many_times_in_one_process() {
    with_program(
        |user| {
            let left: u32 = initial(user).argv[1].parse().unwrap();
            if left == 0 {
                return 33;
            }
            user.exec("/bin/program", &["program", &(left - 1).to_string()])
        },
        |init| {
            let child = init.fork(|child| child.exec("/bin/program", &["program", "50"]));
            let waited = init.wait().unwrap();
            assert_eq!((waited.pid, waited.status.exit_code()), (child, Some(33)));
        },
    );
}

#[test]
fn exec_of_one_thread_ends_the_others_and_keeps_the_pid() {
    with_program(
        |user| {
            assert_eq!(user.gettid(), user.getpid());
            let expected = initial(user).argv[1].parse().unwrap();
            assert_eq!(user.getpid(), expected);
            21
        },
        |init| {
            let child = init.fork(|leader| {
                let me = leader.getpid().to_string();
                leader.thread(|thread| {
                    loop {
                        thread.pause();
                    }
                });
                leader.thread(move |thread| thread.exec("/bin/program", &["program", &me]));
                loop {
                    leader.pause();
                }
            });
            assert_eq!(init.wait_for(child).exit_code(), Some(21));
        },
    );
}

#[test]
fn a_set_user_id_program_runs_as_its_owner_and_is_told_so() {
    let mut machine = Machine::new();
    machine.program("/bin/program", |user| {
        let initial = initial(user);
        assert_eq!((initial.aux(11), initial.aux(12)), (1000, 0), "AT_UID, AT_EUID");
        assert_eq!(initial.aux(23), 1, "AT_SECURE");
        assert_eq!(user.call(nr::GETEUID, &[]), Ok(0));
        0
    });
    machine.run(|init| {
        let path = init.push_string("/bin/program");
        init.call(nr::FCHMODAT, &[-100i64 as u64, path, 0o4755]).unwrap();
        let child = init.fork(|child| {
            child.call(nr::SETUID, &[1000]).unwrap();
            child.exec("/bin/program", &["x"])
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_program_being_run_cannot_be_written() {
    with_program(
        |user| {
            assert_eq!(user.open("/bin/program", fcntl::O_WRONLY, 0), Err(Errno::ETXTBSY));
            0
        },
        |init| {
            assert_eq!(run(init, "/bin/program", &["x"]), Some(0));
            let fd = init.open("/bin/program", fcntl::O_WRONLY, 0).expect("nobody runs it any more");
            assert_eq!(init.try_exec("/bin/program", &["x"]), Errno::ETXTBSY);
            init.close(fd).unwrap();
        },
    );
}
