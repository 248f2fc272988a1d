//! getrlimit(2): each limit, reached where the resource is taken.

use abi::fcntl::{O_CREAT, O_RDWR, O_WRONLY};
use abi::resource::{
    RLIMIT_CPU, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_MEMLOCK, RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_RTTIME, RLIMIT_STACK,
    RUSAGE_CHILDREN, RUSAGE_SELF, Rlimit, Rusage,
};
use abi::signal::{SIGKILL, SIGXCPU, SIGXFSZ};
use abi::{Errno, mman, nr};
use hal::hosted::User;
use kcore::testing::{Libc, Machine, Status};

use crate::{Diary, MS, story};

const INFINITY: u64 = u64::MAX;
const SECOND: u64 = 1_000_000_000;
const PAGE: u64 = 4096;

fn limit(user: &mut User, resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = Rlimit { rlim_cur: soft, rlim_max: hard };
    user.call_with(nr::SETRLIMIT, &[u64::from(resource)], &limit, &[]).map(drop)
}

fn limit_of(user: &mut User, pid: i32, resource: u32) -> Result<(u64, u64), Errno> {
    let none = Rlimit { rlim_cur: 0, rlim_max: 0 };
    let (_, limit) = user.call_with(nr::PRLIMIT64, &[pid as u64, u64::from(resource), 0], &none, &[])?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

fn in_child(init: &mut User, body: impl FnOnce(&mut User) -> i32 + 'static) -> Status {
    let child = init.fork(body);
    init.wait_for(child)
}

fn become_user(user: &mut User) {
    user.call(nr::SETRESUID, &[1000, 1000, 1000]).unwrap();
}

#[test]
fn cpu_time_beyond_the_soft_limit_is_a_signal_each_second_and_death_at_the_hard_one() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let status = in_child(init, move |child| {
            child.on(SIGXCPU, 0, move |_| inner.note("XCPU"));
            limit(child, RLIMIT_CPU, 1, 4).unwrap();
            // The handler runs on the way out of the kernel.
            (0..100).for_each(|_| child.compute(100 * MS));
            0
        });
        assert_eq!(status.killed_by(), Some(SIGKILL));
        assert_eq!(diary.entries(), ["XCPU", "XCPU", "XCPU"]);
    });
}

#[test]
fn a_child_inherits_the_limit_of_cpu_time_and_starts_at_zero() {
    story(|init| {
        let status = in_child(init, |child| {
            limit(child, RLIMIT_CPU, 1, 2).unwrap();
            child.compute(SECOND / 2);
            let status = in_child(child, |grandchild| {
                grandchild.compute(SECOND * 3 / 4);
                assert_eq!(limit_of(grandchild, 0, RLIMIT_CPU), Ok((1, 2)));
                (0..100).for_each(|_| grandchild.compute(100 * MS));
                0
            });
            assert_eq!(status.killed_by(), Some(SIGXCPU));
            0
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn the_soft_limit_of_cpu_time_moves_on_with_each_signal() {
    story(|init| {
        let status = in_child(init, |child| {
            child.ignore(SIGXCPU);
            limit(child, RLIMIT_CPU, 1, 100).unwrap();
            (0..25).for_each(|_| child.compute(100 * MS));
            assert_eq!(limit_of(child, 0, RLIMIT_CPU), Ok((3, 100)));
            0
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn a_real_time_task_must_sleep_now_and_then() {
    story(|init| {
        let status = in_child(init, |child| {
            const SCHED_FIFO: u64 = 1;
            child.call_with(nr::SCHED_SETSCHEDULER, &[0, SCHED_FIFO], &1i32, &[]).unwrap();
            limit(child, RLIMIT_RTTIME, 100_000, 200_000).unwrap();
            // Sleeping starts the count anew.
            for _ in 0..10 {
                child.compute(50 * MS);
                child.sleep_ns(MS).unwrap();
            }
            child.ignore(SIGXCPU);
            (0..100).for_each(|_| child.compute(10 * MS));
            0
        });
        assert_eq!(status.killed_by(), Some(SIGKILL));
    });
}

#[test]
fn a_file_does_not_grow_beyond_its_limit() {
    story(|init| {
        let status = in_child(init, |child| {
            limit(child, RLIMIT_FSIZE, 100, INFINITY).unwrap();
            let diary = Diary::default();
            let inner = diary.clone();
            child.on(SIGXFSZ, 0, move |_| inner.note("XFSZ"));
            let fd = child.open("/tmp/file", O_CREAT | O_RDWR, 0o600).unwrap();
            assert_eq!(child.write_fd(fd, &[1; 80]), Ok(80));
            // Across the limit a part, at it nothing.
            assert_eq!(child.write_fd(fd, &[1; 80]), Ok(20));
            assert!(diary.entries().is_empty());
            assert_eq!(child.write_fd(fd, &[1; 80]), Err(Errno::EFBIG));
            assert_eq!(child.call(nr::FTRUNCATE, &[fd as u64, 101]), Err(Errno::EFBIG));
            assert_eq!(child.call(nr::FTRUNCATE, &[fd as u64, 100]), Ok(0));
            assert_eq!(diary.entries(), ["XFSZ", "XFSZ"]);
            0
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn data_is_the_heap_and_what_is_private_and_writable() {
    story(|init| {
        let status = in_child(init, |child| {
            let (read, write) = (mman::PROT_READ, mman::PROT_WRITE);
            let private = mman::MAP_PRIVATE | mman::MAP_ANONYMOUS;
            limit(child, RLIMIT_DATA, 64 * PAGE, INFINITY).unwrap();
            assert_eq!(child.try_mmap(0, 80 * PAGE, read | write, private, -1, 0), Err(Errno::ENOMEM));
            let shared = mman::MAP_SHARED | mman::MAP_ANONYMOUS;
            child.try_mmap(0, 80 * PAGE, read | write, shared, -1, 0).expect("shared memory is not data");
            let code = child.try_mmap(0, 80 * PAGE, read, private, -1, 0).expect("nor is what cannot be written");
            assert_eq!(child.mprotect(code, 80 * PAGE, read | write), Err(Errno::ENOMEM));
            let now = child.brk(0);
            assert_eq!(child.brk(now + 80 * PAGE), now);
            0
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn descriptors_end_at_the_soft_limit_and_limits_at_nr_open() {
    story(|init| {
        assert_eq!(limit(init, RLIMIT_NOFILE, 10, (1 << 20) + 1), Err(Errno::EPERM));
        assert_eq!(limit(init, RLIMIT_NOFILE, INFINITY, INFINITY), Err(Errno::EPERM));
        limit(init, RLIMIT_NOFILE, 4, 1 << 20).unwrap();
        let fd = init.open("/tmp/a", O_CREAT | O_WRONLY, 0o600).unwrap();
        let fds: Vec<i32> = std::iter::from_fn(|| init.dup(fd).ok()).collect();
        assert!(fds.iter().all(|fd| *fd < 4));
        assert_eq!(init.dup(fd), Err(Errno::EMFILE));
        assert_eq!(init.call(nr::DUP3, &[fd as u64, 4, 0]), Err(Errno::EBADF));
        limit(init, RLIMIT_NOFILE, 10, 10).unwrap();
        init.dup(fd).unwrap();
    });
}

#[test]
fn locked_memory_is_counted_and_root_may_lock_more() {
    story(|init| {
        let status = in_child(init, |child| {
            limit(child, RLIMIT_MEMLOCK, 4 * PAGE, 4 * PAGE).unwrap();
            let (read, write) = (mman::PROT_READ, mman::PROT_WRITE);
            let area = child.mmap(16 * PAGE, read | write);
            assert_eq!(child.call(nr::MLOCK, &[area, 16 * PAGE]), Ok(0));
            assert_eq!(child.call(nr::MUNLOCK, &[area, 16 * PAGE]), Ok(0));
            become_user(child);
            assert_eq!(child.call(nr::MLOCK, &[area, 5 * PAGE]), Err(Errno::ENOMEM));
            assert_eq!(child.call(nr::MLOCK, &[area, 4 * PAGE]), Ok(0));
            // Again the same pages: nothing new is charged.
            assert_eq!(child.call(nr::MLOCK, &[area, 4 * PAGE]), Ok(0));
            let flags = mman::MAP_PRIVATE | mman::MAP_ANONYMOUS | mman::MAP_LOCKED;
            assert_eq!(child.try_mmap(0, PAGE, read, flags, -1, 0), Err(Errno::EAGAIN));
            assert_eq!(child.call(nr::MLOCKALL, &[1]), Err(Errno::ENOMEM));
            assert_eq!(child.call(nr::MUNLOCKALL, &[]), Ok(0));
            child.try_mmap(0, PAGE, read, flags, -1, 0).expect("room again");
            limit(child, RLIMIT_MEMLOCK, 0, 4 * PAGE).unwrap();
            assert_eq!(child.try_mmap(0, PAGE, read, flags, -1, 0), Err(Errno::EPERM));
            assert_eq!(child.call(nr::MLOCK, &[area, PAGE]), Err(Errno::EPERM));
            0
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}

#[test]
fn a_user_has_so_many_threads_in_all() {
    story(|init| {
        let first = init.fork(|child| {
            become_user(child);
            child.sleep_ns(SECOND).unwrap();
            0
        });
        let status = in_child(init, |child| {
            limit(child, RLIMIT_NPROC, 2, 2).unwrap();
            become_user(child);
            assert_eq!(child.try_fork(|_| 0), Err(Errno::EAGAIN));
            0
        });
        assert_eq!(status.exit_code(), Some(0));
        // Root is not counted out.
        limit(init, RLIMIT_NPROC, 1, INFINITY).unwrap();
        assert_eq!(in_child(init, |_| 7).exit_code(), Some(7));
        init.wait_for(first);
    });
}

#[test]
fn who_got_past_the_limit_by_setuid_may_not_exec() {
    let mut machine = Machine::new();
    machine.program("/bin/true", |_| 0);
    machine.run(|init| {
        let first = init.fork(|child| {
            become_user(child);
            child.sleep_ns(SECOND / 100).unwrap();
            0
        });
        init.sleep_ns(MS).unwrap();
        let second = init.fork(|child| {
            limit(child, RLIMIT_NPROC, 1, 1).unwrap();
            become_user(child);
            assert_eq!(child.try_exec("/bin/true", &["true"]), Errno::EAGAIN);
            child.sleep_ns(SECOND / 50).unwrap();
            // The other one is gone and reaped meanwhile: a zombie would count.
            child.exec("/bin/true", &["true"])
        });
        init.wait_for(first);
        assert_eq!(init.wait_for(second).exit_code(), Some(0));
    });
}

#[test]
fn a_stack_grows_to_its_limit() {
    story(|init| {
        let status = in_child(init, |child| {
            limit(child, RLIMIT_STACK, 256 << 10, INFINITY).unwrap();
            let top = child.sp();
            child.write::<u64>(top - (128 << 10), 1);
            child.write::<u64>(top - (512 << 10), 1);
            0
        });
        assert_eq!(status.killed_by(), Some(abi::signal::SIGSEGV));
    });
}

#[test]
fn limits_of_another_process_need_the_same_ids_or_the_right() {
    story(|init| {
        let child = init.fork(|child| {
            child.sleep_ns(SECOND).unwrap();
            0
        });
        let limit = Rlimit { rlim_cur: 5, rlim_max: 6 };
        let which = u64::from(RLIMIT_NOFILE);
        init.call_with(nr::PRLIMIT64, &[child as u64, which], &limit, &[0]).unwrap();
        assert_eq!(limit_of(init, child, RLIMIT_NOFILE), Ok((5, 6)));
        let status = in_child(init, move |user| {
            become_user(user);
            assert_eq!(limit_of(user, child, RLIMIT_NOFILE), Err(Errno::EPERM));
            assert_eq!(limit_of(user, 9999, RLIMIT_NOFILE), Err(Errno::ESRCH));
            assert_eq!(limit_of(user, -1, RLIMIT_NOFILE), Err(Errno::ESRCH));
            assert_eq!(limit_of(user, 0, 16), Err(Errno::EINVAL));
            0
        });
        assert_eq!(status.exit_code(), Some(0));
        init.kill(child, SIGKILL).unwrap();
        init.wait_for(child);
    });
}

#[test]
fn the_largest_resident_set_outlives_exec_and_reaches_the_parent() {
    let mut machine = Machine::new();
    let usage = |user: &mut User, who: i32| {
        let (_, usage) = user.call_with(nr::GETRUSAGE, &[who as u64], &Rusage::default(), &[]).unwrap();
        usage.ru_maxrss
    };
    machine.program("/bin/small", move |user| i32::from(usage(user, RUSAGE_SELF) < 1024));
    machine.run(move |init| {
        let status = in_child(init, |child| {
            let area = child.mmap(300 * PAGE, mman::PROT_READ | mman::PROT_WRITE);
            (0..300).for_each(|n| child.write::<u64>(area + n * PAGE, n));
            child.exec("/bin/small", &["small"])
        });
        assert_eq!(status.exit_code(), Some(0));
        assert!(usage(init, RUSAGE_CHILDREN) >= 1200);
        assert!(usage(init, RUSAGE_SELF) < 1024);
    });
}

#[test]
fn timers_are_charged_as_queued_signals() {
    story(|init| {
        let status = in_child(init, |child| {
            limit(child, abi::resource::RLIMIT_SIGPENDING, 2, 2).unwrap();
            become_user(child);
            let create = |child: &mut User| {
                let clock = abi::time::CLOCK_MONOTONIC as u64;
                child.call_with(nr::TIMER_CREATE, &[clock, 0], &0i32, &[]).map(|(_, id)| id)
            };
            let first = create(child).unwrap();
            create(child).unwrap();
            assert_eq!(create(child), Err(Errno::EAGAIN));
            child.call(nr::TIMER_DELETE, &[first as u64]).unwrap();
            create(child).expect("room again");
            0
        });
        assert_eq!(status.exit_code(), Some(0));
    });
}
