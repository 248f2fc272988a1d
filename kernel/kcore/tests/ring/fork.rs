//! fork(2), vfork(2), clone(2): what the child has, what it shares, and what becomes of it.

use abi::resource::{RLIMIT_NPROC, Rlimit};
use abi::signal::{SA_NOCLDWAIT, SA_SIGINFO, SIG_BLOCK, SIGCHLD, SIGTERM, SIGUSR1, SIGUSR2, SigInfo};
use abi::{Errno, fcntl, mman, nr, sched, wait as w};
use hal::hosted::User;
use kcore::testing::{Libc, Machine};
use zerocopy::IntoBytes;

use crate::{Diary, MS, bit, story};

const READ_WRITE: u32 = mman::PROT_READ | mman::PROT_WRITE;
const PR_SET_CHILD_SUBREAPER: u64 = 36;

#[test]
fn the_child_knows_its_parent_and_its_exit_code_arrives() {
    story(|init| {
        let child = init.fork(|child| {
            assert_eq!(child.getppid(), 1);
            assert_ne!(child.getpid(), 1);
            7
        });
        assert!(child > 1);
        assert_eq!(init.wait_for(child).exit_code(), Some(7));
    });
}

#[test]
fn an_exit_code_is_eight_bits() {
    story(|init| {
        let child = init.fork(|_| 0x1234);
        assert_eq!(init.wait_for(child).0, 0x3400);
    });
}

#[test]
fn the_child_has_a_copy_of_memory_and_not_the_memory() {
    story(|init| {
        let page = init.mmap(4096, READ_WRITE);
        init.write(page, 1u64);
        let child = init.fork(move |child| {
            assert_eq!(child.read::<u64>(page), 1);
            child.write(page, 2u64);
            assert_eq!(child.read::<u64>(page), 2);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(init.read::<u64>(page), 1);
    });
}

#[test]
fn an_open_file_keeps_one_offset_for_both() {
    let mut machine = Machine::new();
    machine.file("/etc/text", 0o644, b"abcdef");
    machine.run(|init| {
        let fd = init.open("/etc/text", fcntl::O_RDONLY, 0).unwrap();
        let child = init.fork(move |child| {
            assert_eq!(child.read_fd(fd, 2).unwrap(), b"ab");
            child.close(fd).unwrap();
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(init.read_fd(fd, 2).unwrap(), b"cd");
    });
}

#[test]
fn mask_and_handlers_are_inherited_and_pending_signals_are_not() {
    story(|init| {
        let diary = Diary::default();
        let handler = diary.clone();
        init.on(SIGUSR1, 0, move |user| handler.note(user.getpid().to_string()));
        init.sigprocmask(SIG_BLOCK, bit(SIGUSR2));
        init.kill(1, SIGUSR2).unwrap();
        let child = init.fork(|child| {
            assert_eq!(child.sigpending(), 0);
            assert_eq!(child.sigprocmask(SIG_BLOCK, 0), bit(SIGUSR2));
            let me = child.getpid();
            child.kill(me, SIGUSR1).unwrap();
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(diary.entries(), [child.to_string()]);
        assert_eq!(init.sigpending(), bit(SIGUSR2));
    });
}

fn descend(user: &mut User, generations: i32) -> i32 {
    if generations == 0 {
        return 0;
    }
    let child = user.fork(move |child| descend(child, generations - 1));
    user.wait_for(child).exit_code().unwrap() + 1
}

#[test]
fn ten_generations_count_themselves() {
    story(|init| assert_eq!(descend(init, 10), 10));
}

#[test]
fn a_hundred_children_have_a_hundred_pids_and_all_are_waited_for() {
    story(|init| {
        let mut pids: Vec<i32> = (0..100).map(|n| init.fork(move |_| n)).collect();
        let mut waited: Vec<i32> = (0..100).map(|_| init.wait().unwrap().pid).collect();
        pids.sort_unstable();
        waited.sort_unstable();
        assert_eq!(pids, waited);
        pids.dedup();
        assert_eq!(pids.len(), 100);
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

#[test]
fn a_zombie_exists_until_it_is_waited_for() {
    story(|init| {
        let child = init.fork(|_| 3);
        init.sleep_ns(MS).unwrap();
        init.kill(child, 0).unwrap();
        init.kill(child, SIGTERM).unwrap();
        assert_eq!(init.wait_for(child).exit_code(), Some(3));
        assert_eq!(init.kill(child, 0), Err(Errno::ESRCH));
    });
}

#[test]
fn an_orphan_becomes_a_child_of_init() {
    story(|init| {
        let child = init.fork(|child| {
            child.fork(|grandchild| {
                while grandchild.getppid() != 1 {
                    grandchild.sleep_ns(MS).unwrap();
                }
                42
            });
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(init.wait().unwrap().status.exit_code(), Some(42));
    });
}

#[test]
fn an_orphan_goes_to_the_nearest_subreaper() {
    story(|init| {
        let reaper = init.fork(|reaper| {
            reaper.call(nr::PRCTL, &[PR_SET_CHILD_SUBREAPER, 1]).unwrap();
            let me = reaper.getpid();
            let middle = reaper.fork(move |middle| {
                middle.fork(move |orphan| {
                    while orphan.getppid() != me {
                        orphan.sleep_ns(MS).unwrap();
                    }
                    9
                });
                0
            });
            assert_eq!(reaper.wait_for(middle).exit_code(), Some(0));
            reaper.wait().unwrap().status.exit_code().unwrap()
        });
        assert_eq!(init.wait_for(reaper).exit_code(), Some(9));
    });
}

#[test]
fn a_zombie_child_of_a_dying_parent_is_reaped_by_init() {
    story(|init| {
        let child = init.fork(|child| {
            let grandchild = child.fork(|_| 5);
            child.waitid(w::P_PID, grandchild, w::WEXITED | w::WNOWAIT).unwrap();
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(init.wait().unwrap().status.exit_code(), Some(5));
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

#[test]
fn children_of_a_parent_that_ignores_sigchld_reap_themselves() {
    story(|init| {
        init.ignore(SIGCHLD);
        let child = init.fork(|_| 1);
        assert_eq!(init.wait(), Err(Errno::ECHILD));
        assert_eq!(init.kill(child, 0), Err(Errno::ESRCH));
    });
}

#[test]
fn no_child_wait_sends_the_signal_and_leaves_no_zombie() {
    story(|init| {
        let diary = Diary::default();
        let handler = diary.clone();
        init.on(SIGCHLD, SA_NOCLDWAIT | abi::signal::SA_RESTART, move |_| handler.note("child"));
        init.fork(|_| 1);
        assert_eq!(init.wait(), Err(Errno::ECHILD));
        assert_eq!(diary.entries(), ["child"]);
    });
}

#[test]
fn sigchld_says_who_ended_and_how() {
    story(|init| {
        let diary = Diary::default();
        let handler = diary.clone();
        init.on(SIGCHLD, SA_SIGINFO, move |user| {
            let info: SigInfo = user.load(user.argument(1));
            handler.note(format!("{} {} {} {}", user.argument(0), info.code(), info.pid(), info.status()));
        });
        let child = init.fork(|_| 6);
        while diary.entries().is_empty() {
            init.pause();
        }
        assert_eq!(diary.entries(), [format!("17 1 {child} 6")]);
        init.wait_for(child);
    });
}

#[test]
fn a_vfork_parent_waits_until_the_child_has_exited_and_sees_its_writes() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let page = init.mmap(4096, READ_WRITE);
        let child = init.vfork(move |child| {
            child.sleep_ns(50 * MS).unwrap();
            child.write(page, 77u32);
            inner.note("child");
            0
        });
        diary.note("parent");
        assert_eq!(init.read::<u32>(page), 77);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(diary.entries(), ["child", "parent"]);
    });
}

#[test]
fn a_vfork_parent_goes_on_when_the_child_execs() {
    let diary = Diary::default();
    let late = diary.clone();
    let mut machine = Machine::new();
    machine.program("/bin/slow", move |user| {
        user.sleep_ns(50 * MS).unwrap();
        late.note("program");
        4
    });
    machine.run(move |init| {
        let child = init.vfork(|child| child.exec("/bin/slow", &["slow"]));
        diary.note("parent");
        assert_eq!(init.wait_for(child).exit_code(), Some(4));
        assert_eq!(diary.entries(), ["parent", "program"]);
    });
}

#[test]
fn a_vfork_parent_goes_on_when_the_child_is_killed() {
    story(|init| {
        let child = init.vfork(|child| {
            let me = child.getpid();
            child.kill(me, abi::signal::SIGKILL).unwrap();
            0
        });
        assert_eq!(init.wait_for(child).killed_by(), Some(9));
    });
}

#[test]
fn clone_refuses_flags_that_contradict_each_other() {
    story(|init| {
        let refused = [
            sched::CLONE_THREAD,
            sched::CLONE_THREAD | sched::CLONE_VM,
            sched::CLONE_SIGHAND,
            sched::CLONE_PIDFD | sched::CLONE_PARENT_SETTID,
        ];
        for flags in refused {
            let result = init.clone_with(flags | u64::from(SIGCHLD), 0, |_| panic!("a refused child ran"));
            assert_eq!(result, -22, "{flags:#x}");
        }
        assert_eq!(init.wait(), Err(Errno::ECHILD));
    });
}

#[test]
fn the_tid_is_stored_where_parent_and_child_want_it() {
    story(|init| {
        let page = init.mmap(4096, READ_WRITE);
        let flags = sched::CLONE_PARENT_SETTID | sched::CLONE_CHILD_SETTID | u64::from(SIGCHLD);
        let child = init.syscall_with_child(nr::CLONE as u64, [flags, 0, page, 0, page + 8, 0], move |child| {
            let me = child.getpid();
            assert_eq!(child.read::<i32>(page + 8), me);
            0
        });
        let child = i32::try_from(child).unwrap();
        assert_eq!(init.read::<i32>(page), child);
        assert_eq!(init.read::<i32>(page + 8), 0);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_child_without_an_exit_signal_is_waited_for_as_a_clone_child() {
    story(|init| {
        let child = i32::try_from(init.clone_with(0, 0, |_| 8)).unwrap();
        assert_eq!(init.wait4(child, 0), Err(Errno::ECHILD));
        let waited = init.wait4(child, w::__WCLONE).unwrap().unwrap();
        assert_eq!(waited.status.exit_code(), Some(8));
    });
}

#[test]
fn the_process_limit_of_a_user_stops_a_fork_bomb() {
    story(|init| {
        let child = init.fork(|user| {
            let limit = Rlimit { rlim_cur: 5, rlim_max: 5 };
            user.call_with(nr::SETRLIMIT, &[u64::from(RLIMIT_NPROC)], &limit, &[]).unwrap();
            user.call(nr::SETUID, &[1000]).unwrap();
            let mut children = Vec::new();
            let error = loop {
                match user.try_fork(|child| {
                    child.pause();
                    0
                }) {
                    Ok(pid) => children.push(pid),
                    Err(error) => break error,
                }
            };
            assert_eq!(error, Errno::EAGAIN);
            assert_eq!(children.len(), 4);
            for pid in children {
                user.kill(pid, SIGTERM).unwrap();
                assert_eq!(user.wait_for(pid).killed_by(), Some(SIGTERM));
            }
            let again = user.try_fork(|_| 0).expect("the charge was given back");
            user.wait_for(again);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn clone3_takes_its_arguments_from_memory() {
    story(|init| {
        let args = abi::sched::CloneArgs { exit_signal: u64::from(SIGCHLD), ..Default::default() };
        let address = init.push(args.as_bytes());
        let size = size_of::<abi::sched::CloneArgs>() as u64;
        let child = init.syscall_with_child(nr::CLONE3 as u64, [address, size, 0, 0, 0, 0], |_| 11);
        assert_eq!(init.wait_for(i32::try_from(child).unwrap()).exit_code(), Some(11));
        assert_eq!(init.call(nr::CLONE3, &[address, 8]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::CLONE3, &[address, 5000]), Err(Errno::E2BIG));
        assert_eq!(init.call(nr::CLONE3, &[0, size]), Err(Errno::EFAULT));
    });
}

#[test]
fn a_sibling_made_with_clone_parent_belongs_to_the_parent() {
    story(|init| {
        let child = init.fork(|child| {
            let flags = sched::CLONE_PARENT | u64::from(SIGCHLD);
            let sibling = child.clone_with(flags, 0, |sibling| {
                assert_eq!(sibling.getppid(), 1);
                12
            });
            assert!(sibling > 0);
            assert_eq!(child.wait(), Err(Errno::ECHILD));
            0
        });
        let mut codes: Vec<i32> = (0..2).map(|_| init.wait().unwrap().status.exit_code().unwrap()).collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 12]);
        assert_ne!(child, 0);
    });
}

#[test]
#[should_panic(expected = "Attempted to kill init")]
fn the_end_of_init_is_the_end_of_the_kernel() {
    story(|init| init.exit(3));
}
