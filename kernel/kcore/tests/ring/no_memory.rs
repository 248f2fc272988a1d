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

/// Each way to make a task, with each of its allocations failing: the errno of clone(2) and nothing left.
fn clone_with_failures(flags: u64, least: u64) {
    Machine::new().run(move |init| {
        let stack = init.mmap(65536, PROT_READ | PROT_WRITE);
        init.write(stack + 65528, 0u64);
        let failures = fail_each(init, |init| {
            // A child that shares the memory needs a stack of its own, unless its parent waits for it.
            let shares = flags & abi::sched::CLONE_VM != 0 && flags & abi::sched::CLONE_VFORK == 0;
            let result = init.clone_with(flags, if shares { stack + 65520 } else { 0 }, |child| child.exit_thread(0));
            match Errno::from_syscall_return(result.cast_unsigned()) {
                Ok(pid) => assert!(pid > 1),
                Err(error) => assert!(matches!(error, Errno::ENOMEM | Errno::EAGAIN), "{error:?}"),
            }
            // Those without a signal are waited for as well.
            while init.wait4(-1, abi::wait::__WALL).is_ok() {}
        });
        assert!(failures >= least, "only {failures} allocations that can fail");
    });
}

#[test]
fn a_silent_child_with_every_allocation_failing_once() {
    clone_with_failures(0, 3);
}

#[test]
fn a_vfork_child_with_every_allocation_failing_once() {
    clone_with_failures(abi::sched::CLONE_VM | abi::sched::CLONE_VFORK | 17, 1);
}

#[test]
fn a_child_that_shares_memory_with_every_allocation_failing_once() {
    clone_with_failures(abi::sched::CLONE_VM | 17, 1);
}

#[test]
fn a_child_that_shares_files_and_directory_with_every_allocation_failing_once() {
    clone_with_failures(abi::sched::CLONE_FILES | abi::sched::CLONE_FS | 17, 3);
}

#[test]
fn a_child_that_shares_all_but_the_thread_group_with_every_allocation_failing_once() {
    let all = abi::sched::CLONE_VM | abi::sched::CLONE_FILES | abi::sched::CLONE_FS | abi::sched::CLONE_SIGHAND;
    clone_with_failures(all | 17, 1);
}

#[test]
fn a_child_with_default_handlers_with_every_allocation_failing_once() {
    Machine::new().run(|init| {
        let failures = fail_each(init, |init| {
            let mut words = [0u64; 11];
            (words[0], words[4]) = (abi::sched::CLONE_CLEAR_SIGHAND, 17);
            init.scoped(|user| {
                let at = user.push(zerocopy::IntoBytes::as_bytes(&words));
                let result = user.syscall_with_child(nr::CLONE3 as u64, [at, 88, 0, 0, 0, 0], |_| 0);
                match Errno::from_syscall_return(result.cast_unsigned()) {
                    Ok(pid) => assert!(pid > 1),
                    Err(error) => assert!(matches!(error, Errno::ENOMEM | Errno::EAGAIN), "{error:?}"),
                }
            });
        });
        assert!(failures >= 3, "only {failures} allocations that can fail");
    });
}

#[test]
fn a_thread_with_every_allocation_failing_once() {
    use abi::sched as c;
    let flags = c::CLONE_VM | c::CLONE_FS | c::CLONE_FILES | c::CLONE_SIGHAND | c::CLONE_THREAD;
    clone_with_failures(flags, 1);
}

#[test]
fn an_exec_of_a_thread_with_every_allocation_failing_once() {
    let mut machine = Machine::new();
    machine.program("/bin/program", |_| 7);
    machine.run(|init| {
        let failures = fail_each(init, |init| {
            let left = fail_nth_allocation(None);
            let child = init.fork(move |leader| {
                leader.thread(move |thread| {
                    fail_nth_allocation(left);
                    let error = thread.try_exec("/bin/program", &["program"]);
                    assert_eq!(error, Errno::ENOMEM);
                    thread.exit(50)
                });
                loop {
                    leader.pause();
                }
            });
            let status = init.wait_for(child);
            let fine = matches!(status.exit_code(), Some(7 | 50)) || status.killed_by() == Some(9);
            assert!(fine, "{status:?}");
        });
        assert!(failures >= 5, "exec made only {failures} allocations that can fail");
    });
}

/// A handler whose frame goes to a stack that was never touched: it runs, or the process gets SIGSEGV for a frame that
/// cannot be written, or it is killed for want of memory. Nothing else, and nothing left.
fn deliver_with_failures(signal: u32, raise: fn(&mut User, i32)) {
    Machine::new().run(move |init| {
        let failures = fail_each(init, |init| {
            let left = fail_nth_allocation(None);
            let child = init.fork(move |child| {
                let stack = child.mmap(1 << 20, PROT_READ | PROT_WRITE);
                let new = abi::signal::StackT { ss_sp: stack, ss_size: 1 << 20, ..Default::default() };
                child.call_with(nr::SIGALTSTACK, &[], &new, &[0]).unwrap();
                child.on(signal, abi::signal::SA_ONSTACK, |user| user.exit(3));
                let me = child.getpid();
                fail_nth_allocation(left);
                raise(child, me);
                4
            });
            let status = init.wait_for(child);
            let fine = status.exit_code() == Some(3) || matches!(status.killed_by(), Some(9 | 11));
            assert!(fine, "{status:?}");
        });
        assert!(failures >= 1, "no allocation can fail");
    });
}

#[test]
fn a_signal_frame_with_every_allocation_failing_once() {
    deliver_with_failures(abi::signal::SIGUSR1, |user, me| {
        let _ = user.kill(me, abi::signal::SIGUSR1);
    });
}

#[test]
fn the_frame_of_a_fault_with_every_allocation_failing_once() {
    deliver_with_failures(abi::signal::SIGSEGV, |user, _| user.touch(8, hal::trap::Access::Read));
}

#[test]
fn a_queued_real_time_signal_with_every_allocation_failing_once() {
    deliver_with_failures(40, |user, me| {
        let info = abi::signal::SigInfo::user(40, abi::signal::SI_QUEUE, me, 0);
        let _ = user.call_with(nr::RT_SIGQUEUEINFO, &[me as u64, 40], &info, &[]);
    });
}

/// An exit asks nobody for memory.
#[test]
fn an_exit_needs_no_allocation() {
    Machine::new().run(|init| {
        for n in 0..3 {
            let child = init.fork(move |child| {
                child.fork(|orphan| orphan.sleep_ns(MS).map_or(1, |()| 0));
                fail_nth_allocation(Some(n));
                child.exit(6)
            });
            assert_eq!(init.wait_for(child).exit_code(), Some(6));
            fail_nth_allocation(None);
            while init.wait().is_ok() {}
        }
    });
}
