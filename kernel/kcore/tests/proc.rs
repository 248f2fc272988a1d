//! `/proc`, `/sys`, `/dev` and the calls that say what the system is, on the test machine.

use abi::Errno;
use abi::fcntl as f;
use abi::nr;
use hal::hosted::User;
use kcore::testing::{Libc, Machine};

fn mount(user: &mut User, kind: &str, at: &str) {
    user.scoped(|user| {
        let (kind, at) = (user.push_string(kind), user.push_string(at));
        user.call(nr::MOUNT, &[kind, at, kind, 0, 0]).unwrap();
    });
}

fn text(user: &mut User, path: &str) -> String {
    String::from_utf8(user.slurp(path).unwrap_or_else(|error| panic!("{path}: {error:?}"))).unwrap()
}

fn readlink(user: &mut User, path: &str) -> Result<String, Errno> {
    user.scoped(|user| {
        let path = user.push_string(path);
        let buffer = user.push(&[0; 256]);
        let length = user.call(nr::READLINKAT, &[f::AT_FDCWD as u64, path, buffer, 256])?;
        Ok((0..length).map(|i| char::from(user.load::<u8>(buffer + i))).collect())
    })
}

fn names(user: &mut User, path: &str) -> Vec<String> {
    let fd = user.open(path, f::O_RDONLY | f::O_DIRECTORY, 0).unwrap();
    let mut names = Vec::new();
    loop {
        let more = user.scoped(|user| {
            let buffer = user.push(&[0; 512]);
            let length = user.call(nr::GETDENTS64, &[fd as u64, buffer, 512]).unwrap();
            let mut at = 0;
            while at < length {
                let record = user.load::<u16>(buffer + at + 16);
                let bytes = (19..).map(|i| user.load::<u8>(buffer + at + i)).take_while(|byte| *byte != 0);
                names.push(bytes.map(char::from).collect());
                at += u64::from(record);
            }
            length > 0
        });
        if !more {
            break;
        }
    }
    user.close(fd).unwrap();
    names
}

#[test]
fn stat_has_52_fields_and_names_the_process() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let stat = text(init, "/proc/self/stat");
        let (head, rest) = stat.trim_end().rsplit_once(") ").unwrap();
        assert_eq!(head, "1 (init");
        let fields: Vec<&str> = rest.split(' ').collect();
        assert_eq!(fields.len() + 2, 52);
        assert_eq!(fields[0], "R");
        assert_eq!(fields[1], "0");
        let child = init.fork(|child| {
            let pid = child.getpid();
            let stat = text(child, &format!("/proc/{pid}/stat"));
            let fields: Vec<&str> = stat.split(' ').collect();
            assert_eq!(fields[3], "1", "the parent is init");
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_zombie_is_shown_until_it_is_waited_for() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let child = init.fork(|_| 7);
        init.sleep_ns(10_000_000).unwrap();
        let stat = text(init, &format!("/proc/{child}/stat"));
        assert!(stat.contains(") Z 1 "), "{stat}");
        assert_eq!(text(init, &format!("/proc/{child}/cmdline")), "");
        assert_eq!(init.wait_for(child).exit_code(), Some(7));
        assert_eq!(init.slurp(&format!("/proc/{child}/stat")), Err(Errno::ENOENT));
    });
}

#[test]
fn the_root_lists_fixed_names_and_processes() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let children: Vec<i32> = (0..40)
            .map(|_| {
                init.fork(|child| {
                    child.pause();
                    0
                })
            })
            .collect();
        let listed = names(init, "/proc");
        for expected in [".", "..", "self", "meminfo", "1", "2"] {
            assert_eq!(listed.iter().filter(|name| *name == expected).count(), 1, "{expected}");
        }
        for child in &children {
            assert_eq!(listed.iter().filter(|name| **name == child.to_string()).count(), 1);
            init.kill(*child, abi::signal::SIGKILL).unwrap();
            init.wait_for(*child);
        }
    });
}

#[test]
fn links_and_descriptors_of_a_process() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        assert_eq!(readlink(init, "/proc/self"), Ok("1".into()));
        assert_eq!(readlink(init, "/proc/thread-self"), Ok("1/task/1".into()));
        assert_eq!(readlink(init, "/proc/self/exe"), Ok("/init".into()));
        assert_eq!(readlink(init, "/proc/self/cwd"), Ok("/".into()));
        assert_eq!(readlink(init, "/proc/self/ns/uts"), Ok("uts:[4026531838]".into()));
        let (reader, _) = init.pipe(0).unwrap();
        let link = readlink(init, &format!("/proc/self/fd/{reader}")).unwrap();
        assert!(link.starts_with("pipe:[") && link.ends_with(']'), "{link}");
        let file = init.open("/tmp/file", f::O_RDWR | f::O_CREAT, 0o600).unwrap();
        init.write_fd(file, b"content").unwrap();
        assert_eq!(readlink(init, &format!("/proc/self/fd/{file}")), Ok("/tmp/file".into()));
        assert_eq!(text(init, &format!("/proc/self/fd/{file}")), "content");
        let info = text(init, &format!("/proc/self/fdinfo/{file}"));
        assert!(info.starts_with("pos:\t7\nflags:\t0"), "{info}");
        assert_eq!(readlink(init, "/proc/self/fd/99"), Err(Errno::ENOENT));
        assert!(names(init, "/proc/self/fd").contains(&file.to_string()));
        assert_eq!(names(init, "/proc/self/task"), [".", "..", "1"]);
        // Kernel threads have neither program nor directory.
        assert_eq!(readlink(init, "/proc/2/exe"), Err(Errno::ENOENT));
    });
}

#[test]
fn every_file_about_a_process_can_be_read() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        for process in ["self", "2", "self/task/1"] {
            for name in names(init, &format!("/proc/{process}")) {
                let path = format!("/proc/{process}/{name}");
                if ["mem", "fd", "fdinfo", "ns", "task", "map_files", ".", "..", "exe", "cwd", "root"].contains(&&*name)
                {
                    continue;
                }
                let result = init.slurp(&path);
                assert!(result.is_ok() || process == "2", "{path}: {result:?}");
            }
        }
        let status = text(init, "/proc/self/status");
        for line in ["Name:\tinit", "State:\tR (running)", "Pid:\t1", "PPid:\t0", "Uid:\t0\t0\t0\t0", "Threads:\t1"] {
            assert!(status.lines().any(|found| found == line), "{line} in {status}");
        }
        let maps = text(init, "/proc/self/maps");
        assert!(maps.lines().any(|line| line.ends_with("[stack]")), "{maps}");
        assert!(maps.lines().any(|line| line.ends_with("/init")), "{maps}");
        assert_eq!(text(init, "/proc/self/cgroup"), "0::/\n");
        assert_eq!(text(init, "/proc/self/comm"), "init\n");
        assert_eq!(text(init, "/proc/self/cmdline"), "/init\0");
        assert!(text(init, "/proc/self/environ").starts_with("HOME=/\0"));
        let limits = text(init, "/proc/self/limits");
        assert!(limits.contains("\nMax open files            1024                 4096                 files     \n"));
    });
}

#[test]
fn every_fixed_file_can_be_read() {
    fn walk(user: &mut User, directory: &str) {
        for name in names(user, directory) {
            let path = format!("{directory}/{name}");
            if [".", "..", "self", "thread-self", "mounts", "kmsg"].contains(&&*name)
                || name.starts_with(|c: char| c.is_ascii_digit())
            {
                continue;
            }
            match user.slurp(&path) {
                Ok(_) => {}
                Err(Errno::EISDIR) => walk(user, &path),
                Err(error) => panic!("{path}: {error:?}"),
            }
        }
    }
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        mount(init, "sysfs", "/sys");
        walk(init, "/proc");
        walk(init, "/sys");
        assert!(text(init, "/proc/meminfo").starts_with("MemTotal:       "));
        assert!(text(init, "/proc/stat").starts_with("cpu  "));
        assert!(text(init, "/proc/version").starts_with("Linux version 6.1"));
        assert!(text(init, "/proc/filesystems").contains("nodev\tproc\n"));
        assert!(text(init, "/proc/mounts").contains("proc /proc proc rw,"));
        assert_eq!(text(init, "/sys/devices/system/cpu/online"), "0\n");
        assert_eq!(text(init, "/proc/sys/kernel/ostype"), "Linux\n");
        let loadavg = text(init, "/proc/loadavg");
        assert_eq!(loadavg.trim().split(' ').count(), 5, "{loadavg}");
    });
}

#[test]
fn settings_are_checked_and_kept() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let fd = init.open("/proc/sys/kernel/hostname", f::O_WRONLY | f::O_TRUNC, 0).unwrap();
        assert_eq!(init.write_fd(fd, b"berry\n"), Ok(6));
        assert_eq!(text(init, "/proc/sys/kernel/hostname"), "berry\n");
        let fd = init.open("/proc/self/oom_score_adj", f::O_RDWR, 0).unwrap();
        assert_eq!(init.write_fd(fd, b"2000"), Err(Errno::EINVAL));
        assert_eq!(init.write_fd(fd, b"500"), Ok(3));
        assert_eq!(text(init, "/proc/self/oom_score_adj"), "500\n");
        let fd = init.open("/proc/self/comm", f::O_RDWR, 0).unwrap();
        assert_eq!(init.write_fd(fd, b"renamed"), Ok(7));
        assert!(text(init, "/proc/self/stat").starts_with("1 (renamed) "));
    });
}

#[test]
fn devices_do_what_they_are_for() {
    Machine::new().run(|init| {
        mount(init, "devtmpfs", "/dev");
        let null = init.open("/dev/null", f::O_RDWR, 0).unwrap();
        assert_eq!(init.read_fd(null, 10), Ok(vec![]));
        assert_eq!(init.write_fd(null, &[1; 1000]), Ok(1000));
        let zero = init.open("/dev/zero", f::O_RDWR, 0).unwrap();
        assert_eq!(init.read_fd(zero, 300), Ok(vec![0; 300]));
        let full = init.open("/dev/full", f::O_RDWR, 0).unwrap();
        assert_eq!(init.write_fd(full, &[1]), Err(Errno::ENOSPC));
        let random = init.open("/dev/urandom", f::O_RDWR, 0).unwrap();
        let (a, b) = (init.read_fd(random, 32).unwrap(), init.read_fd(random, 32).unwrap());
        assert!(a != b && a.len() == 32);
        assert_eq!(init.open("/dev/tty", f::O_RDWR, 0), Err(Errno::ENXIO));
        let kmsg = init.open("/dev/kmsg", f::O_RDWR | f::O_NONBLOCK, 0).unwrap();
        init.write_fd(kmsg, b"<5>hello from a test\n").unwrap();
        let mut last = Vec::new();
        while let Ok(record) = init.read_fd(kmsg, 2000) {
            last = record;
        }
        let last = String::from_utf8(last).unwrap();
        assert!(last.starts_with("13,") && last.ends_with(",-;hello from a test\n"), "{last}");
    });
}

#[test]
fn pseudo_terminals_edit_lines_and_hang_up() {
    use abi::tty as t;
    Machine::new().run(|init| {
        mount(init, "devtmpfs", "/dev");
        mount(init, "devpts", "/dev/pts");
        let master = init.open("/dev/ptmx", f::O_RDWR | f::O_NOCTTY, 0).unwrap();
        assert_eq!(init.open("/dev/pts/0", f::O_RDWR | f::O_NOCTTY, 0), Err(Errno::EIO));
        init.scoped(|user| {
            let word = user.push(&0u32.to_le_bytes());
            user.call(nr::IOCTL, &[master as u64, t::TIOCSPTLCK.into(), word]).unwrap();
            user.call(nr::IOCTL, &[master as u64, t::TIOCGPTN.into(), word]).unwrap();
            assert_eq!(user.load::<u32>(word), 0);
        });
        assert_eq!(names(init, "/dev/pts"), [".", "..", "ptmx", "0"]);
        let slave = init.open("/dev/pts/0", f::O_RDWR | f::O_NOCTTY | f::O_NONBLOCK, 0).unwrap();
        init.write_fd(master, b"hellp\x7fo\r").unwrap();
        assert_eq!(init.read_fd(master, 100), Ok(b"hellp\x08 \x08o\r\n".to_vec()));
        assert_eq!(init.read_fd(slave, 100), Ok(b"hello\n".to_vec()));
        assert_eq!(init.read_fd(slave, 100), Err(Errno::EAGAIN));
        init.write_fd(slave, b"out\n").unwrap();
        assert_eq!(init.read_fd(master, 100), Ok(b"out\r\n".to_vec()));
        init.close(slave).unwrap();
        assert_eq!(init.read_fd(master, 100), Err(Errno::EIO));
        let slave = init.open("/dev/pts/0", f::O_RDWR | f::O_NOCTTY, 0).unwrap();
        init.close(master).unwrap();
        assert_eq!(init.read_fd(slave, 100), Ok(vec![]));
        assert_eq!(init.write_fd(slave, b"x"), Err(Errno::EIO));
        assert_eq!(names(init, "/dev/pts"), [".", "..", "ptmx"]);
    });
}

#[test]
fn a_controlling_terminal_sends_signals_and_stops_the_background() {
    use abi::signal::{SIGHUP, SIGINT, SIGTTIN};
    use abi::tty as t;
    Machine::new().run(|init| {
        mount(init, "devtmpfs", "/dev");
        mount(init, "devpts", "/dev/pts");
        let master = init.open("/dev/ptmx", f::O_RDWR | f::O_NOCTTY, 0).unwrap();
        init.scoped(|user| {
            let word = user.push(&0u32.to_le_bytes());
            user.call(nr::IOCTL, &[master as u64, t::TIOCSPTLCK.into(), word]).unwrap();
        });
        let leader = init.fork(move |leader| {
            leader.close(master).unwrap();
            leader.setsid().unwrap();
            let slave = leader.open("/dev/pts/0", f::O_RDWR, 0).unwrap();
            assert!(leader.open("/dev/tty", f::O_RDWR, 0).is_ok());
            // A background group that reads is stopped.
            let background = leader.fork(move |child| {
                child.setpgid(0, 0).unwrap();
                let _ = child.read_fd(slave, 1);
                0
            });
            let status = leader.wait4(background, abi::wait::WUNTRACED).unwrap().unwrap();
            assert_eq!(status.status.stopped_by(), Some(SIGTTIN));
            leader.kill(background, abi::signal::SIGKILL).unwrap();
            leader.wait_for(background);
            // ^C reaches the foreground group.
            leader.on(SIGINT, 0, |_| {});
            leader.write_fd(slave, b"ready\n").unwrap();
            assert_eq!(leader.read_fd(slave, 10), Err(Errno::EINTR));
            leader.write_fd(slave, b"again\n").unwrap();
            leader.pause();
            0
        });
        assert_eq!(init.read_fd(master, 100), Ok(b"ready\r\n".to_vec()));
        init.sleep_ns(5_000_000).unwrap();
        init.write_fd(master, b"\x03").unwrap();
        let mut echo = Vec::new();
        while !echo.ends_with(b"\n") {
            echo.extend(init.read_fd(master, 100).unwrap());
        }
        assert_eq!(echo, b"^Cagain\r\n");
        // Closing the master hangs the session up.
        init.close(master).unwrap();
        assert_eq!(init.wait_for(leader).killed_by(), Some(SIGHUP));
    });
}

#[test]
fn names_and_log_through_system_calls() {
    Machine::new().run(|init| {
        init.scoped(|user| {
            let buffer = user.push(&[0; 390]);
            user.call(nr::UNAME, &[buffer]).unwrap();
            let name: String = (0..5).map(|i| char::from(user.load::<u8>(buffer + i))).collect();
            assert_eq!(name, "Linux");
            let info = user.push(&[0; 112]);
            user.call(nr::SYSINFO, &[info]).unwrap();
            assert!(user.load::<u64>(info + 32) > 1 << 20, "totalram");
            let log = user.push(&[0; 400]);
            let length = user.call(nr::SYSLOG, &[3, log, 400]).unwrap();
            assert!(length > 0 && user.load::<u8>(log) == b'<');
            assert_eq!(user.call(nr::SYSLOG, &[10, 0, 0]), Ok(1 << 18));
            assert_eq!(user.call(nr::SYSLOG, &[99, 0, 0]), Err(Errno::EINVAL));
            assert_eq!(user.call(nr::GETRANDOM, &[log, 400, 0]), Ok(400));
            assert_eq!(user.call(nr::GETRANDOM, &[log, 1, 99]), Err(Errno::EINVAL));
        });
    });
}

fn set(user: &mut User, path: &str, value: &str) -> Result<usize, Errno> {
    let fd = user.open(path, f::O_WRONLY, 0)?;
    let written = user.write_fd(fd, value.as_bytes());
    user.close(fd).unwrap();
    written
}

/// The number behind `name` in a text of such lines.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn io_counts_what_was_read_and_written() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let before = text(init, "/proc/self/io");
        let (read, write) = init.pipe(0).unwrap();
        init.write_fd(write, &[1; 300]).unwrap();
        assert_eq!(init.read_fd(read, 200).unwrap().len(), 200);
        let after = text(init, "/proc/self/io");
        // The text itself was read in between.
        assert!(number(&after, "rchar:") >= number(&before, "rchar:") + 200);
        assert_eq!(number(&after, "wchar:"), number(&before, "wchar:") + 300);
        assert_eq!(number(&after, "syscw:"), number(&before, "syscw:") + 1);
        assert_eq!(after.lines().count(), 7);
    });
}

#[test]
fn children_are_those_of_the_thread() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        assert_eq!(text(init, "/proc/1/task/1/children"), "");
        let children: Vec<i32> = (0..2)
            .map(|_| {
                init.fork(|child| {
                    child.pause();
                    0
                })
            })
            .collect();
        assert_eq!(text(init, "/proc/1/task/1/children"), format!("{} {} ", children[0], children[1]));
        assert_eq!(init.open("/proc/1/children", f::O_RDONLY, 0), Err(Errno::ENOENT));
        for child in children {
            init.kill(child, abi::signal::SIGKILL).unwrap();
            init.wait_for(child);
        }
    });
}

#[test]
fn the_call_that_a_task_sleeps_in_is_shown() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        // Of oneself it is the call that reads it.
        assert!(text(init, "/proc/self/syscall").starts_with("63 0x"));
        let child = init.fork(|child| {
            child.pause();
            0
        });
        init.sleep_ns(1_000_000).unwrap();
        let shown = text(init, &format!("/proc/{child}/syscall"));
        let words: Vec<&str> = shown.split_whitespace().collect();
        assert_eq!(words.len(), 9, "{shown}");
        let number: usize = words[0].parse().unwrap();
        assert!([nr::PPOLL, nr::RT_SIGSUSPEND].contains(&number), "{shown}");
        init.kill(child, abi::signal::SIGKILL).unwrap();
        init.wait_for(child);
    });
}

#[test]
fn mapped_files_are_links_by_address() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let names = names(init, "/proc/self/map_files");
        let maps = text(init, "/proc/self/maps");
        let first = maps.lines().find(|line| line.ends_with("/init")).unwrap();
        let (start, end) = first.split(' ').next().unwrap().split_once('-').unwrap();
        let name = format!("{}-{}", start.trim_start_matches('0'), end.trim_start_matches('0'));
        assert!(names.contains(&name), "{name} in {names:?}");
        assert_eq!(readlink(init, &format!("/proc/self/map_files/{name}")).as_deref(), Ok("/init"));
        assert_eq!(init.open("/proc/self/map_files/1-2", f::O_RDONLY, 0), Err(Errno::ENOENT));
    });
}

#[test]
fn timer_slack_is_set_by_number_and_reset_by_zero() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        assert_eq!(text(init, "/proc/self/timerslack_ns"), "50000\n");
        set(init, "/proc/self/timerslack_ns", "123").unwrap();
        assert_eq!(text(init, "/proc/self/timerslack_ns"), "123\n");
        set(init, "/proc/self/timerslack_ns", "0").unwrap();
        assert_eq!(text(init, "/proc/self/timerslack_ns"), "50000\n");
        assert_eq!(set(init, "/proc/self/timerslack_ns", "x"), Err(Errno::EINVAL));
    });
}

#[test]
fn sched_has_linux_columns() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let sched = text(init, "/proc/self/sched");
        let lines: Vec<&str> = sched.lines().collect();
        assert_eq!(lines[0], "init (1, #threads: 1)");
        assert_eq!(lines[1], "-".repeat(67));
        assert!(lines.iter().any(|line| *line == format!("{:<45}:{:>21}", "se.load.weight", 1_048_576)));
        assert!(lines.iter().any(|line| *line == format!("{:<45}:{:>21}", "prio", 120)));
    });
}

#[test]
fn the_peak_of_a_size_outlives_it() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let area = init.mmap(1 << 20, abi::mman::PROT_READ);
        init.munmap(area, 1 << 20).unwrap();
        let status = text(init, "/proc/self/status");
        assert!(number(&status, "VmPeak:") >= number(&status, "VmSize:") + 1024);
        assert!(number(&status, "VmPTE:") > 0);
    });
}

#[test]
fn settings_take_numbers_within_their_bounds() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        for (path, good, bad) in [
            ("kernel/pid_max", "400", "300"),
            ("kernel/threads-max", "100", "0"),
            ("kernel/core_uses_pid", "1", "x"),
            ("kernel/core_pipe_limit", "7", "-1"),
            ("kernel/panic", "-5", "now"),
            ("kernel/randomize_va_space", "0", "3"),
            ("kernel/overflowuid", "99", "65536"),
            ("kernel/ctrl-alt-del", "0", ""),
            ("fs/suid_dumpable", "2", "3"),
            ("fs/protected_symlinks", "0", "2"),
            ("fs/protected_regular", "2", "3"),
            ("fs/file-max", "5000", "9223372036854775808"),
            ("fs/nr_open", "2048", "63"),
            ("vm/max_map_count", "1000", "-1"),
            ("vm/overcommit_memory", "1", "3"),
            ("vm/panic_on_oom", "0", "3"),
        ] {
            let path = format!("/proc/sys/{path}");
            set(init, &path, good).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(text(init, &path), format!("{good}\n"), "{path}");
            assert_eq!(set(init, &path, bad), Err(Errno::EINVAL), "{path}");
            assert_eq!(text(init, &path), format!("{good}\n"), "{path}");
        }
    });
}

#[test]
fn users_cannot_change_settings() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let child = init.fork(|child| {
            child.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            for path in ["kernel/pid_max", "kernel/core_pattern", "fs/file-max", "vm/max_map_count"] {
                assert_eq!(set(child, &format!("/proc/sys/{path}"), "1"), Err(Errno::EACCES), "{path}");
            }
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn settings_of_files_hold() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        set(init, "/proc/sys/fs/nr_open", "64").unwrap();
        let limit = abi::resource::Rlimit { rlim_cur: 65, rlim_max: 65 };
        let which = u64::from(abi::resource::RLIMIT_NOFILE);
        assert_eq!(init.call_with(nr::SETRLIMIT, &[which], &limit, &[]).map(drop), Err(Errno::EPERM));
        let open = number(&text(init, "/proc/sys/fs/file-nr"), "");
        set(init, "/proc/sys/fs/file-max", "1").unwrap();
        assert!(open > 1);
        let child = init.fork(|child| {
            child.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
            assert_eq!(child.open("/proc/self/stat", f::O_RDONLY, 0), Err(Errno::ENFILE));
            assert_eq!(child.pipe(0), Err(Errno::ENFILE));
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        set(init, "/proc/sys/fs/file-max", "1000").unwrap();
        set(init, "/proc/sys/vm/max_map_count", "5").unwrap();
        let shared = abi::mman::MAP_SHARED | abi::mman::MAP_ANONYMOUS;
        let maps: Vec<_> = (0..6).map(|_| init.try_mmap(0, 4096, abi::mman::PROT_READ, shared, -1, 0)).collect();
        assert_eq!(maps.last(), Some(&Err(Errno::ENOMEM)));
    });
}

#[test]
fn links_of_others_in_shared_directories_are_not_followed() {
    Machine::new().run(|init| {
        mount(init, "proc", "/proc");
        let at = f::AT_FDCWD as u64;
        init.scoped(|user| {
            let (tmp, target, link) =
                (user.push_string("/tmp"), user.push_string("/etc"), user.push_string("/tmp/link"));
            user.call(nr::FCHMODAT, &[at, tmp, 0o1777]).unwrap();
            user.call(nr::SYMLINKAT, &[target, at, link]).unwrap();
            user.call(nr::FCHOWNAT, &[at, link, 1000, 1000, 0x100]).unwrap();
        });
        assert_eq!(init.open("/tmp/link", f::O_RDONLY, 0), Err(Errno::EACCES));
        assert_eq!(init.open("/tmp/link/passwd", f::O_RDONLY, 0), Err(Errno::ENOENT), "in the middle it is followed");
        set(init, "/proc/sys/fs/protected_symlinks", "0").unwrap();
        init.open("/tmp/link", f::O_RDONLY, 0).expect("followed");
        let file = init.open("/tmp/file", f::O_CREAT | f::O_WRONLY, 0o666).unwrap();
        init.call(nr::FCHOWN, &[file as u64, 1000, 1000]).unwrap();
        init.open("/tmp/file", f::O_CREAT | f::O_WRONLY, 0o666).expect("not protected by default");
        set(init, "/proc/sys/fs/protected_regular", "1").unwrap();
        assert_eq!(init.open("/tmp/file", f::O_CREAT | f::O_WRONLY, 0o666), Err(Errno::EACCES));
        init.open("/tmp/file", f::O_WRONLY, 0).expect("without O_CREAT it is no trap");
    });
}

#[test]
fn hidden_processes_are_not_seen_by_others() {
    Machine::new().run(|init| {
        let mount_with = |user: &mut User, options: &str| {
            user.scoped(|user| {
                let (kind, at, options) =
                    (user.push_string("proc"), user.push_string("/proc"), user.push_string(options));
                user.call(nr::MOUNT, &[kind, at, kind, 0, options])
            })
        };
        assert_eq!(mount_with(init, "hidepid=9"), Err(Errno::EINVAL));
        mount_with(init, "hidepid=1").unwrap();
        let as_user = |init: &mut User, body: fn(&mut User)| {
            let child = init.fork(move |child| {
                // Group 0 sees everything unless another one is named.
                child.call(nr::SETRESGID, &[1000, 1000, 1000]).unwrap();
                child.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
                body(child);
                0
            });
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
        };
        as_user(init, |user| {
            assert!(names(user, "/proc").contains(&"1".into()));
            assert_eq!(user.open("/proc/1/stat", f::O_RDONLY, 0), Err(Errno::EPERM));
            text(user, "/proc/self/stat");
        });
        mount_with(init, "hidepid=invisible").unwrap();
        assert!(text(init, "/proc/mounts").contains(",hidepid=invisible"));
        as_user(init, |user| {
            assert!(!names(user, "/proc").contains(&"1".into()));
            assert_eq!(user.open("/proc/1/stat", f::O_RDONLY, 0), Err(Errno::ENOENT));
        });
        assert!(names(init, "/proc").contains(&"1".into()));
    });
}
