//! Each allocation of fork and exec fails once: the caller gets an error, and nothing leaks.

use abi::mman::{PROT_READ, PROT_WRITE};
use abi::{Errno, nr};
use hal::hosted::{User, fail_nth_allocation};
use kcore::testing::{Libc, Machine, free_frames};

use crate::MS;

/// Calls `attempt` with the n-th allocation failing, for every n until all succeed. After each, as many frames are free as
/// before. Returns how many allocations failed.
fn fail_each(init: &mut User, mut attempt: impl FnMut(&mut User)) -> u64 {
    // What is made once for ever (caches, the first growth of a table) is made now.
    for _ in 0..3 {
        attempt(init);
        settle(init);
    }
    let before = free_frames();
    for n in 0..1000 {
        fail_nth_allocation(Some(n));
        attempt(init);
        let fired = fail_nth_allocation(None).is_none();
        settle(init);
        assert_eq!(free_frames(), before, "frames free after the failure of allocation {n}");
        if !fired {
            return n;
        }
    }
    panic!("an attempt makes more than 1000 allocations");
}

/// Waits for every child, and until the last switch let go of the last stack.
fn settle(init: &mut User) {
    while init.wait().is_ok() {}
    init.sleep_ns(MS).unwrap();
}

#[test]
fn fork_with_every_allocation_failing_once() {
    Machine::new().run(|init| {
        let pages = init.mmap(64 * 4096, PROT_READ | PROT_WRITE);
        for n in 0..64 {
            init.write(pages + n * 4096, n);
        }
        let failures = fail_each(init, |init| match init.try_fork(|_| 0) {
            Ok(pid) => assert!(pid > 1),
            Err(error) => assert!(matches!(error, Errno::ENOMEM | Errno::EAGAIN), "{error:?}"),
        });
        assert!(failures >= 3, "fork made only {failures} allocations that can fail");
        for n in 0..64 {
            assert_eq!(init.read::<u64>(pages + n * 4096), n);
        }
    });
}

#[test]
fn a_child_that_writes_with_every_allocation_failing_once() {
    Machine::new().run(|init| {
        let pages = init.mmap(8 * 4096, PROT_READ | PROT_WRITE);
        for n in 0..8 {
            init.write(pages + n * 4096, n);
        }
        let failures = fail_each(init, |init| {
            // Only the child runs out: init would be killed for it.
            let left = fail_nth_allocation(None);
            let child = init.fork(move |child| {
                fail_nth_allocation(left);
                for n in 0..8 {
                    child.write(pages + n * 4096, 100 + n);
                }
                0
            });
            let status = init.wait_for(child);
            assert!(status.exit_code() == Some(0) || status.killed_by() == Some(9), "{status:?}");
        });
        assert!(failures >= 8, "only {failures} allocations");
        for n in 0..8 {
            assert_eq!(init.read::<u64>(pages + n * 4096), n);
        }
    });
}

#[test]
fn exec_with_every_allocation_failing_once() {
    let mut machine = Machine::new();
    machine.program("/bin/program", |_| 7);
    machine.run(|init| {
        let failures = fail_each(init, |init| {
            // The fork must not be what fails, so the child counts anew.
            let left = fail_nth_allocation(None);
            let child = init.fork(move |child| {
                fail_nth_allocation(left);
                let error = child.try_exec("/bin/program", &["program", "argument"]);
                assert_eq!(error, Errno::ENOMEM);
                50
            });
            let status = init.wait_for(child);
            let fine = matches!(status.exit_code(), Some(7 | 50)) || status.killed_by() == Some(9);
            assert!(fine, "{status:?}");
        });
        assert!(failures >= 5, "exec made only {failures} allocations that can fail");
    });
}

#[test]
fn memory_calls_with_every_allocation_failing_once() {
    Machine::new().run(|init| {
        let failures = fail_each(init, |init| {
            let Ok(pages) = init.try_mmap(0, 1 << 22, PROT_READ | PROT_WRITE, 0x22, -1, 0) else { return };
            // The kernel touches the memory, so that running out is an error and not a kill.
            let (read, write) = init.pipe(0).unwrap_or((-1, -1));
            for n in 0..4 {
                if init.write_fd(write, b"12345678").is_ok() {
                    let _ = init.call(nr::READ, &[read as u64, pages + n * (1 << 20), 8]);
                }
            }
            let _ = init.mprotect(pages + 4096, 4096, PROT_READ);
            let _ = init.call(nr::MREMAP, &[pages, 1 << 22, 1 << 23, 1]).map(|moved| init.munmap(moved, 1 << 23));
            let _ = init.munmap(pages, 1 << 22);
            let _ = init.close(read);
            let _ = init.close(write);
        });
        assert!(failures >= 4, "only {failures} allocations");
    });
}

#[test]
fn a_core_dump_with_every_allocation_failing_once() {
    Machine::new().run(|init| {
        let limit = abi::resource::Rlimit { rlim_cur: u64::MAX, rlim_max: u64::MAX };
        init.call_with(nr::SETRLIMIT, &[u64::from(abi::resource::RLIMIT_CORE)], &limit, &[]).unwrap();
        let failures = fail_each(init, |init| {
            let crash = |child: &mut User| {
                let me = child.getpid();
                let _ = child.kill(me, abi::signal::SIGABRT);
                0
            };
            if init.try_fork(crash).is_ok() {
                // Whatever is missing, the process dies of its signal, with a core, a short one or none.
                while init.wait() != Err(Errno::ECHILD) {}
            }
            init.scoped(|user| {
                let path = user.push_string("/core");
                let _ = user.call(nr::UNLINKAT, &[abi::fcntl::AT_FDCWD as u64, path, 0]);
            });
        });
        assert!(failures >= 10, "a dump made only {failures} allocations that can fail");
    });
}
