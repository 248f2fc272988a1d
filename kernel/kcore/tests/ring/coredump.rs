//! core(5): when there is a core, what is in it, and where it goes.

use abi::fcntl::{AT_FDCWD, O_CREAT, O_RDONLY, O_WRONLY};
use abi::resource::{RLIMIT_CORE, RLIMIT_FSIZE, Rlimit};
use abi::signal::{SIGABRT, SIGKILL, SIGQUIT, SIGSEGV};
use abi::{Errno, mman, nr};
use goblin::elf::Elf;
use goblin::elf::program_header::{PT_LOAD, PT_NOTE};
use hal::hosted::User;
use hal::trap::Access;
use kcore::testing::{Libc, Machine, Status};

use crate::{Diary, MS, story};

const INFINITY: u64 = u64::MAX;

fn set_limit(user: &mut User, resource: u32, soft: u64) {
    let limit = Rlimit { rlim_cur: soft, rlim_max: INFINITY };
    user.call_with(nr::SETRLIMIT, &[u64::from(resource)], &limit, &[]).expect("setrlimit");
}

fn chdir(user: &mut User, path: &str) {
    user.scoped(|user| {
        let path = user.push_string(path);
        user.call(nr::CHDIR, &[path]).expect("chdir");
    });
}

fn set(user: &mut User, path: &str, value: &str) {
    let fd = user.open(path, O_WRONLY, 0).unwrap_or_else(|error| panic!("{path}: {error}"));
    user.write_fd(fd, value.as_bytes()).unwrap_or_else(|error| panic!("{path}: {error}"));
    user.close(fd).unwrap();
}

pub(crate) fn mount_proc(user: &mut User) {
    user.scoped(|user| {
        let (kind, at) = (user.push_string("proc"), user.push_string("/proc"));
        user.call(nr::MOUNT, &[kind, at, kind, 0, 0]).unwrap();
    });
}

/// Runs `body` in a child that may dump core into `/tmp`.
fn crash(init: &mut User, body: impl FnOnce(&mut User) + 'static) -> Status {
    let child = init.fork(move |child| {
        chdir(child, "/tmp");
        set_limit(child, RLIMIT_CORE, INFINITY);
        body(child);
        0
    });
    init.wait_for(child)
}

fn raise(user: &mut User, signal: u32) {
    let me = user.getpid();
    user.kill(me, signal).expect("kill");
}

fn dumped(status: Status) -> bool {
    status.0 & 0x80 != 0
}

/// Notes of a core: name, type, descriptor.
fn notes(core: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let elf = Elf::parse(core).expect("an ELF file");
    let found = elf.iter_note_headers(core).expect("a note segment");
    found.map(|note| note.unwrap()).map(|note| (note.name.to_string(), note.n_type, note.desc.to_vec())).collect()
}

#[test]
fn a_core_has_the_memory_and_every_thread() {
    story(|init| {
        let status = crash(init, |child| {
            let page = child.mmap(3 * 4096, mman::PROT_READ | mman::PROT_WRITE);
            child.write::<u64>(page + 4096, 0xfeed_face);
            for _ in 0..2 {
                child.thread(|thread| {
                    thread.pause();
                    0
                });
            }
            child.sleep_ns(MS).unwrap();
            set_note(child, page);
            raise(child, SIGABRT);
        });
        assert_eq!((status.killed_by(), dumped(status)), (Some(SIGABRT), true));
        let core = init.slurp("/tmp/core").unwrap();
        let elf = Elf::parse(&core).unwrap();
        assert_eq!(elf.header.e_type, goblin::elf::header::ET_CORE);
        assert_eq!(elf.program_headers[0].p_type, PT_NOTE);
        let page = u64::from_le_bytes(init.slurp("/tmp/note").unwrap().try_into().unwrap());
        let area = elf.program_headers.iter().find(|h| h.p_type == PT_LOAD && h.vm_range().contains(&(page as usize)));
        let area = area.expect("the mapping is in the core");
        let at = (area.p_offset + page - area.p_vaddr) as usize;
        assert_eq!(core[at..at + 8], [0; 8], "an untouched page is a hole");
        assert_eq!(core[at + 4096..at + 4104], 0xfeed_faceu64.to_le_bytes());
        let kinds: Vec<u32> = notes(&core).iter().map(|note| note.1).collect();
        let process = [1, 3, 0x5349_4749, 6, 0x4649_4c45, 2, 0x401, 0x404];
        let thread = [1, 2, 0x401, 0x404];
        assert_eq!(kinds, [&process[..], &thread, &thread].concat());
    });
}

/// Leaves a number behind in a file.
fn set_note(user: &mut User, value: u64) {
    let fd = user.open("/tmp/note", O_CREAT | O_WRONLY, 0o600).unwrap();
    user.write_fd(fd, &value.to_le_bytes()).unwrap();
    user.close(fd).unwrap();
}

#[test]
fn the_thread_that_died_comes_first_and_knows_its_signal() {
    story(|init| {
        let status = crash(init, |child| {
            let (tid, _) = child.thread(|thread| {
                thread.touch(0x1234_5000, Access::Write);
                0
            });
            set_note(child, tid as u64);
            child.pause();
        });
        assert_eq!((status.killed_by(), dumped(status)), (Some(SIGSEGV), true));
        let core = init.slurp("/tmp/core").unwrap();
        let tid = init.slurp("/tmp/note").unwrap()[0];
        let notes = notes(&core);
        let status = &notes[0].2;
        assert_eq!((status[0], status[12], status[32]), (11, 11, tid));
        let siginfo = &notes.iter().find(|note| note.1 == 0x5349_4749).unwrap().2;
        assert_eq!(siginfo.len(), 128);
        assert_eq!(u64::from_le_bytes(siginfo[16..24].try_into().unwrap()), 0x1234_5000);
    });
}

#[test]
fn without_a_limit_for_it_there_is_no_core() {
    story(|init| {
        for limit in [0, 4095] {
            let status = crash(init, move |child| {
                set_limit(child, RLIMIT_CORE, limit);
                raise(child, SIGABRT);
            });
            assert_eq!((status.killed_by(), dumped(status)), (Some(SIGABRT), false));
            assert_eq!(init.open("/tmp/core", O_RDONLY, 0), Err(Errno::ENOENT));
        }
    });
}

#[test]
fn a_core_is_cut_at_its_limit_and_at_that_of_file_sizes() {
    story(|init| {
        for resource in [RLIMIT_CORE, RLIMIT_FSIZE] {
            let status = crash(init, move |child| {
                let page = child.mmap(64 * 4096, mman::PROT_READ | mman::PROT_WRITE);
                (0..64).for_each(|n| child.write::<u64>(page + n * 4096, n));
                set_limit(child, resource, 16384);
                raise(child, SIGQUIT);
            });
            assert_eq!((status.killed_by(), dumped(status)), (Some(SIGQUIT), true));
            let size = init.slurp("/tmp/core").unwrap().len();
            assert!((4096..=65536).contains(&size), "{size}");
        }
    });
}

#[test]
fn a_process_that_is_not_dumpable_leaves_nothing() {
    story(|init| {
        let status = crash(init, |child| {
            const PR_SET_DUMPABLE: u64 = 4;
            child.call(nr::PRCTL, &[PR_SET_DUMPABLE, 0, 0, 0, 0]).unwrap();
            raise(child, SIGABRT);
        });
        assert_eq!((status.killed_by(), dumped(status)), (Some(SIGABRT), false));
    });
}

#[test]
fn signals_that_only_terminate_dump_nothing() {
    story(|init| {
        for signal in [SIGKILL, abi::signal::SIGTERM] {
            let status = crash(init, move |child| raise(child, signal));
            assert_eq!((status.killed_by(), dumped(status)), (Some(signal), false));
        }
        assert_eq!(init.open("/tmp/core", O_RDONLY, 0), Err(Errno::ENOENT));
    });
}

#[test]
fn the_pattern_names_the_file() {
    story(|init| {
        mount_proc(init);
        set(init, "/proc/sys/kernel/core_pattern", "/tmp/%e.%s.%u\n");
        assert_eq!(init.slurp("/proc/sys/kernel/core_pattern").unwrap(), b"/tmp/%e.%s.%u\n");
        assert!(dumped(crash(init, |child| raise(child, SIGQUIT))));
        init.slurp("/tmp/init.3.0").expect("the core");
        set(init, "/proc/sys/kernel/core_pattern", "core");
        set(init, "/proc/sys/kernel/core_uses_pid", "1");
        let child = init.fork(|child| {
            chdir(child, "/tmp");
            set_limit(child, RLIMIT_CORE, INFINITY);
            raise(child, SIGQUIT);
            0
        });
        assert!(dumped(init.wait_for(child)));
        init.slurp(&format!("/tmp/core.{child}")).expect("the core");
    });
}

#[test]
fn a_file_that_is_in_the_way_is_replaced_and_never_written_to() {
    story(|init| {
        let old = init.open("/tmp/core", O_CREAT | O_WRONLY, 0o666).unwrap();
        init.write_fd(old, b"precious").unwrap();
        init.scoped(|user| {
            let (from, to) = (user.push_string("/tmp/core"), user.push_string("/tmp/kept"));
            let here = AT_FDCWD as u64;
            user.call(nr::LINKAT, &[here, from, here, to, 0]).unwrap();
        });
        assert!(dumped(crash(init, |child| raise(child, SIGABRT))));
        assert_eq!(init.slurp("/tmp/kept").unwrap(), b"precious");
        assert!(init.slurp("/tmp/core").unwrap().starts_with(b"\x7fELF"));
    });
}

#[test]
fn a_directory_in_the_way_means_no_core() {
    story(|init| {
        init.scoped(|user| {
            let path = user.push_string("/tmp/core");
            user.call(nr::MKDIRAT, &[AT_FDCWD as u64, path, 0o755]).unwrap();
        });
        let status = crash(init, |child| raise(child, SIGABRT));
        assert_eq!((status.killed_by(), dumped(status)), (Some(SIGABRT), false));
    });
}

#[test]
fn the_filter_of_a_process_is_inherited_and_decides_what_is_dumped() {
    story(|init| {
        mount_proc(init);
        let filter = |user: &mut User| String::from_utf8(user.slurp("/proc/self/coredump_filter").unwrap()).unwrap();
        assert_eq!(filter(init), "00000033\n");
        let status = crash(init, move |child| {
            set(child, "/proc/self/coredump_filter", "0x10");
            let page = child.mmap(4096, mman::PROT_READ | mman::PROT_WRITE);
            child.write::<u64>(page, 0xfeed_face);
            set_note(child, page);
            let grandchild = child.fork(move |child| {
                assert_eq!(filter(child), "00000010\n");
                raise(child, SIGABRT);
                0
            });
            assert!(dumped(child.wait_for(grandchild)));
        });
        assert_eq!(status.exit_code(), Some(0));
        let core = init.slurp("/tmp/core").unwrap();
        let page = u64::from_le_bytes(init.slurp("/tmp/note").unwrap().try_into().unwrap());
        let elf = Elf::parse(&core).unwrap();
        let area = elf.program_headers.iter().find(|h| h.p_type == PT_LOAD && h.vm_range().contains(&(page as usize)));
        assert_eq!(area.expect("an area without contents").p_filesz, 0);
    });
}

/// A machine whose `/bin/handler` stores its input at `/tmp/out` and its arguments at `/tmp/arguments`.
fn with_handler(diary: &Diary) -> Machine {
    let mut machine = Machine::new();
    let diary = diary.clone();
    machine.program("/bin/handler", move |user| {
        let mut core = Vec::new();
        loop {
            let more = user.read_fd(0, 4096).unwrap();
            if more.is_empty() {
                break;
            }
            core.extend(more);
        }
        assert!(core.starts_with(b"\x7fELF"));
        assert_eq!(user.getppid(), 2);
        diary.note(format!("{} segments", Elf::parse(&core).unwrap().program_headers.len().min(1)));
        0
    });
    machine
}

#[test]
fn a_program_gets_the_core_on_its_standard_input() {
    let diary = Diary::default();
    with_handler(&diary).run(move |init| {
        mount_proc(init);
        set(init, "/proc/sys/kernel/core_pattern", "|/bin/handler %p");
        // With a limit of pipes the kernel waits for the handler.
        set(init, "/proc/sys/kernel/core_pipe_limit", "4");
        let status = crash(init, |child| {
            // The limit does not count for pipes.
            set_limit(child, RLIMIT_CORE, 0);
            raise(child, SIGABRT);
        });
        assert_eq!((status.killed_by(), dumped(status)), (Some(SIGABRT), true));
        init.sleep_ns(10 * MS).unwrap();
        assert_eq!(diary.entries(), ["1 segments"]);
        // kthreadd has no zombies.
        let children = init.slurp("/proc/loadavg").unwrap();
        assert!(!children.is_empty());
    });
}

#[test]
fn a_limit_of_one_is_the_handlers_own_and_starts_no_other() {
    let diary = Diary::default();
    with_handler(&diary).run(move |init| {
        mount_proc(init);
        set(init, "/proc/sys/kernel/core_pattern", "|/bin/handler");
        let status = crash(init, |child| {
            set_limit(child, RLIMIT_CORE, 1);
            raise(child, SIGABRT);
        });
        assert!(!dumped(status));
        set(init, "/proc/sys/kernel/core_pattern", "|/bin/missing");
        assert!(!dumped(crash(init, |child| raise(child, SIGABRT))));
        init.sleep_ns(10 * MS).unwrap();
        assert!(diary.entries().is_empty());
    });
}

#[test]
fn a_setuid_change_makes_undumpable_or_suid_safe() {
    story(|init| {
        mount_proc(init);
        let drop_to_user = |child: &mut User| {
            child.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            raise(child, SIGABRT);
        };
        assert!(!dumped(crash(init, drop_to_user)));
        set(init, "/proc/sys/fs/suid_dumpable", "2");
        // A name that depends on the working directory is not safe.
        assert!(!dumped(crash(init, drop_to_user)));
        set(init, "/proc/sys/kernel/core_pattern", "/tmp/safe");
        assert!(dumped(crash(init, drop_to_user)));
        init.slurp("/tmp/safe").expect("the core, root's");
        // And it is not replaced: the name may be somebody's trap.
        assert!(!dumped(crash(init, drop_to_user)));
    });
}

#[test]
fn threads_that_sleep_in_calls_are_shown_at_their_calls() {
    story(|init| {
        let status = crash(init, |child| {
            child.thread(|thread| {
                thread.sleep_ns(1_000_000_000 * MS / MS).ok();
                0
            });
            child.sleep_ns(MS).unwrap();
            raise(child, SIGABRT);
        });
        assert!(dumped(status));
        let core = init.slurp("/tmp/core").unwrap();
        let threads: Vec<_> = notes(&core).into_iter().filter(|note| note.1 == 1).collect();
        assert_eq!(threads.len(), 2);
        let x0 = i64::from_le_bytes(threads[1].2[112..120].try_into().unwrap());
        assert!(!(-4095..0).contains(&x0), "x0 is the first argument, not an error: {x0}");
    });
}

#[test]
fn a_program_that_may_not_be_read_leaves_no_core() {
    let mut machine = Machine::new();
    machine.program("/bin/secret", |user| {
        raise(user, SIGABRT);
        0
    });
    machine.run(|init| {
        init.scoped(|user| {
            let path = user.push_string("/bin/secret");
            user.call(nr::FCHMODAT, &[AT_FDCWD as u64, path, 0o711]).unwrap();
        });
        let run = |child: &mut User| {
            child.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            child.exec("/bin/secret", &["secret"]);
        };
        let status = crash(init, run);
        assert_eq!((status.killed_by(), dumped(status)), (Some(SIGABRT), false));
    });
}
