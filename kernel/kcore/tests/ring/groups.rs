//! Process groups, sessions and identities.

use abi::signal::SIGKILL;
use abi::{Errno, nr};
use hal::hosted::User;
use kcore::testing::Libc;

use crate::{MS, story};

fn idle(user: &mut User) -> i32 {
    loop {
        user.pause();
    }
}

fn end(init: &mut User, child: i32) {
    init.kill(child, SIGKILL).unwrap();
    init.wait_for(child);
}

#[test]
fn a_child_is_in_its_parents_group_and_session() {
    story(|init| {
        let (group, session) = (init.getpgid(0).unwrap(), init.getsid(0).unwrap());
        let child = init.fork(move |child| {
            assert_eq!(child.getpgid(0).unwrap(), group);
            assert_eq!(child.getsid(0).unwrap(), session);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_parent_moves_its_child_to_a_group_of_its_own() {
    story(|init| {
        let child = init.fork(idle);
        init.setpgid(child, child).unwrap();
        assert_eq!(init.getpgid(child), Ok(child));
        let second = init.fork(idle);
        init.setpgid(second, child).unwrap();
        assert_eq!(init.getpgid(second), Ok(child));
        end(init, child);
        end(init, second);
    });
}

#[test]
fn a_group_that_does_not_exist_cannot_be_joined() {
    story(|init| {
        let child = init.fork(idle);
        assert_eq!(init.setpgid(child, 12345), Err(Errno::EPERM));
        assert_eq!(init.setpgid(child, -1), Err(Errno::EINVAL));
        assert_eq!(init.setpgid(4321, 0), Err(Errno::ESRCH));
        end(init, child);
    });
}

#[test]
fn a_child_that_has_execed_is_no_longer_moved() {
    let mut machine = kcore::testing::Machine::new();
    machine.program("/bin/idle", idle);
    machine.run(|init| {
        let child = init.fork(|child| child.exec("/bin/idle", &["idle"]));
        init.sleep_ns(5 * MS).unwrap();
        assert_eq!(init.setpgid(child, child), Err(Errno::EACCES));
        end(init, child);
    });
}

#[test]
fn setsid_makes_a_leader_of_everything() {
    story(|init| {
        let child = init.fork(|child| {
            let me = child.getpid();
            assert_eq!(child.setsid(), Ok(me));
            assert_eq!(child.getsid(0), Ok(me));
            assert_eq!(child.getpgid(0), Ok(me));
            assert_eq!(child.setsid(), Err(Errno::EPERM));
            assert_eq!(child.setpgid(0, 0), Err(Errno::EPERM));
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_child_in_another_session_is_not_moved() {
    story(|init| {
        let child = init.fork(|child| {
            child.setsid().unwrap();
            idle(child)
        });
        init.sleep_ns(MS).unwrap();
        assert_eq!(init.setpgid(child, child), Err(Errno::EPERM));
        end(init, child);
    });
}

#[test]
fn a_group_outlives_its_leader() {
    story(|init| {
        let leader = init.fork(|leader| {
            leader.setpgid(0, 0).unwrap();
            leader.fork(idle);
            0
        });
        assert_eq!(init.wait_for(leader).exit_code(), Some(0));
        init.kill(-leader, SIGKILL).unwrap();
        assert_eq!(init.wait().unwrap().status.killed_by(), Some(SIGKILL));
        assert_eq!(init.kill(-leader, 0), Err(Errno::ESRCH));
    });
}

#[test]
fn a_pid_that_still_names_a_group_is_not_given_out_again() {
    story(|init| {
        let leader = init.fork(|leader| {
            leader.setpgid(0, 0).unwrap();
            leader.fork(idle);
            0
        });
        init.wait_for(leader);
        for _ in 0..200 {
            let child = init.fork(|_| 0);
            assert_ne!(child, leader);
            init.wait_for(child);
        }
        init.kill(-leader, SIGKILL).unwrap();
        init.wait().unwrap();
    });
}

#[test]
fn dropping_root_is_final() {
    story(|init| {
        let child = init.fork(|child| {
            assert_eq!(child.call(nr::SETRESUID, &[1000, 1000, 1000]), Ok(0));
            assert_eq!(child.call(nr::GETUID, &[]), Ok(1000));
            assert_eq!(child.call(nr::SETUID, &[0]), Err(Errno::EPERM));
            assert_eq!(child.call(nr::SETGID, &[5]), Err(Errno::EPERM));
            assert_eq!(child.call(nr::SETGROUPS, &[0, 0]), Err(Errno::EPERM));
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(init.call(nr::GETUID, &[]), Ok(0));
    });
}

#[test]
fn a_saved_user_id_brings_the_effective_one_back() {
    story(|init| {
        let child = init.fork(|child| {
            child.call(nr::SETRESUID, &[1000, 1000, 0]).unwrap();
            assert_eq!(child.call(nr::GETEUID, &[]), Ok(1000));
            child.call(nr::SETRESUID, &[u64::from(u32::MAX), 0, u64::from(u32::MAX)]).unwrap();
            assert_eq!(child.call(nr::GETEUID, &[]), Ok(0));
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}
