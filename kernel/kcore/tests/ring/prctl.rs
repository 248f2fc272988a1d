//! prctl(2): each option's values, its refusals, and what a child inherits of it.

use abi::prctl as pr;
use abi::signal::{SIGKILL, SIGTERM};
use abi::{Errno, nr};
use hal::hosted::User;
use kcore::testing::Libc;
use zerocopy::IntoBytes;

use crate::story;

fn prctl(user: &mut User, option: u32, arguments: &[u64]) -> Result<u64, Errno> {
    user.call(nr::PRCTL, &[&[u64::from(option)], arguments].concat())
}

/// The `int` that an option stores.
fn stored(user: &mut User, option: u32) -> i32 {
    user.call_with(nr::PRCTL, &[u64::from(option)], &-7i32, &[]).expect("prctl").1
}

fn child(init: &mut User, body: impl FnOnce(&mut User) + 'static) {
    let child = init.fork(move |child| {
        body(child);
        0
    });
    assert_eq!(init.wait_for(child).exit_code(), Some(0));
}

#[test]
fn options_that_do_not_exist_are_refused() {
    story(|init| {
        for option in [0, 5, 6, 9, 12, 18, 34 + 1000, 43, 50, 55, 59, 62, 65, u32::MAX] {
            assert_eq!(prctl(init, option, &[1, 1, 1, 1]), Err(Errno::EINVAL), "option {option}");
        }
    });
}

#[test]
fn the_parent_death_signal_is_not_inherited() {
    story(|init| {
        assert_eq!(prctl(init, pr::PR_SET_PDEATHSIG, &[65]), Err(Errno::EINVAL));
        assert_eq!(prctl(init, pr::PR_SET_PDEATHSIG, &[u64::MAX]), Err(Errno::EINVAL));
        assert_eq!(prctl(init, pr::PR_SET_PDEATHSIG, &[u64::from(SIGTERM)]), Ok(0));
        assert_eq!(stored(init, pr::PR_GET_PDEATHSIG), 15);
        assert_eq!(prctl(init, pr::PR_GET_PDEATHSIG, &[0x10]), Err(Errno::EFAULT));
        child(init, |user| {
            assert_eq!(stored(user, pr::PR_GET_PDEATHSIG), 0);
            prctl(user, pr::PR_SET_PDEATHSIG, &[u64::from(SIGKILL)]).unwrap();
            user.call(nr::SETRESUID, &[0, 1000, 0]).unwrap();
            assert_eq!(stored(user, pr::PR_GET_PDEATHSIG), 0, "a change of effective id forgets it");
        });
    });
}

#[test]
fn the_process_is_undumpable_after_a_change_of_identity() {
    story(|init| {
        assert_eq!(prctl(init, pr::PR_GET_DUMPABLE, &[]), Ok(1));
        assert_eq!(prctl(init, pr::PR_SET_DUMPABLE, &[2]), Err(Errno::EINVAL));
        assert_eq!(prctl(init, pr::PR_SET_DUMPABLE, &[0]), Ok(0));
        assert_eq!(prctl(init, pr::PR_GET_DUMPABLE, &[]), Ok(0));
        assert_eq!(prctl(init, pr::PR_SET_DUMPABLE, &[1]), Ok(0));
        for (call, arguments) in [(nr::SETUID, [1000, 0]), (nr::SETREGID, [u64::MAX, 5]), (nr::SETFSUID, [7, 0])] {
            child(init, move |user| {
                user.call(call, &arguments).unwrap();
                assert_eq!(prctl(user, pr::PR_GET_DUMPABLE, &[]), Ok(0));
            });
        }
    });
}

#[test]
fn no_new_privs_is_inherited_and_never_cleared() {
    story(|init| {
        child(init, |user| {
            for bad in [&[0, 0, 0, 0], &[2, 0, 0, 0], &[1, 1, 0, 0], &[1, 0, 1, 0], &[1, 0, 0, 1]] {
                assert_eq!(prctl(user, pr::PR_SET_NO_NEW_PRIVS, bad), Err(Errno::EINVAL), "{bad:?}");
            }
            assert_eq!(prctl(user, pr::PR_GET_NO_NEW_PRIVS, &[0, 0, 0, 0]), Ok(0));
            assert_eq!(prctl(user, pr::PR_GET_NO_NEW_PRIVS, &[1, 0, 0, 0]), Err(Errno::EINVAL));
            prctl(user, pr::PR_SET_NO_NEW_PRIVS, &[1, 0, 0, 0]).unwrap();
            child(user, |user| assert_eq!(prctl(user, pr::PR_GET_NO_NEW_PRIVS, &[0, 0, 0, 0]), Ok(1)));
        });
    });
}

#[test]
fn timer_slack_zero_goes_back_to_the_creators() {
    story(|init| {
        assert_eq!(prctl(init, pr::PR_GET_TIMERSLACK, &[]), Ok(50_000));
        prctl(init, pr::PR_SET_TIMERSLACK, &[1234]).unwrap();
        child(init, |user| {
            assert_eq!(prctl(user, pr::PR_GET_TIMERSLACK, &[]), Ok(1234));
            prctl(user, pr::PR_SET_TIMERSLACK, &[99]).unwrap();
            prctl(user, pr::PR_SET_TIMERSLACK, &[0]).unwrap();
            assert_eq!(prctl(user, pr::PR_GET_TIMERSLACK, &[]), Ok(1234));
        });
        prctl(init, pr::PR_SET_TIMERSLACK, &[0]).unwrap();
        assert_eq!(prctl(init, pr::PR_GET_TIMERSLACK, &[]), Ok(50_000));
    });
}

#[test]
fn the_name_is_cut_at_fifteen_bytes() {
    story(|init| {
        let name = init.push_string("a rather long name");
        prctl(init, pr::PR_SET_NAME, &[name]).unwrap();
        assert_eq!(prctl(init, pr::PR_SET_NAME, &[0x10]), Err(Errno::EFAULT));
        let (_, told) = init.call_with(nr::PRCTL, &[16], &[0xffu8; 16], &[]).unwrap();
        assert_eq!(told.as_bytes(), b"a rather long n\0");
    });
}

#[test]
fn memory_error_policy_and_huge_pages_are_kept_and_inherited() {
    story(|init| {
        assert_eq!(prctl(init, pr::PR_MCE_KILL_GET, &[0, 0, 0, 0]), Ok(2));
        for (policy, told) in [(0, 0), (1, 1), (2, 2), (1, 1)] {
            prctl(init, pr::PR_MCE_KILL, &[1, policy, 0, 0]).unwrap();
            assert_eq!(prctl(init, pr::PR_MCE_KILL_GET, &[0, 0, 0, 0]), Ok(told));
        }
        for bad in [&[1, 3, 0, 0], &[0, 1, 0, 0], &[2, 0, 0, 0], &[1, 1, 1, 0]] {
            assert_eq!(prctl(init, pr::PR_MCE_KILL, bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(prctl(init, pr::PR_MCE_KILL_GET, &[1, 0, 0, 0]), Err(Errno::EINVAL));
        prctl(init, pr::PR_SET_THP_DISABLE, &[1, 0, 0, 0]).unwrap();
        assert_eq!(prctl(init, pr::PR_SET_THP_DISABLE, &[1, 1, 0, 0]), Err(Errno::EINVAL));
        child(init, |user| {
            assert_eq!(prctl(user, pr::PR_MCE_KILL_GET, &[0, 0, 0, 0]), Ok(1));
            assert_eq!(prctl(user, pr::PR_GET_THP_DISABLE, &[0, 0, 0, 0]), Ok(1));
            assert_eq!(prctl(user, pr::PR_GET_THP_DISABLE, &[0, 1, 0, 0]), Err(Errno::EINVAL));
        });
        prctl(init, pr::PR_MCE_KILL, &[0, 0, 0, 0]).unwrap();
        assert_eq!(prctl(init, pr::PR_MCE_KILL_GET, &[0, 0, 0, 0]), Ok(2));
    });
}

#[test]
fn io_flusher_is_for_the_privileged() {
    story(|init| {
        assert_eq!(prctl(init, pr::PR_GET_IO_FLUSHER, &[0, 0, 0, 0]), Ok(0));
        assert_eq!(prctl(init, pr::PR_SET_IO_FLUSHER, &[1, 0, 0, 0]), Ok(0));
        assert_eq!(prctl(init, pr::PR_GET_IO_FLUSHER, &[0, 0, 0, 0]), Ok(1));
        assert_eq!(prctl(init, pr::PR_SET_IO_FLUSHER, &[2, 0, 0, 0]), Err(Errno::EINVAL));
        child(init, |user| {
            assert_eq!(prctl(user, pr::PR_GET_IO_FLUSHER, &[0, 0, 0, 0]), Ok(1));
            user.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(prctl(user, pr::PR_SET_IO_FLUSHER, &[0, 0, 0, 0]), Err(Errno::EPERM));
        });
    });
}

#[test]
fn the_tid_address_is_what_set_tid_address_said() {
    story(|init| {
        init.call(nr::SET_TID_ADDRESS, &[0x1234_5678]).unwrap();
        let (_, told) = init.call_with(nr::PRCTL, &[u64::from(pr::PR_GET_TID_ADDRESS)], &0u64, &[]).unwrap();
        assert_eq!(told, 0x1234_5678);
        init.call(nr::SET_TID_ADDRESS, &[0]).unwrap();
        assert_eq!(prctl(init, pr::PR_GET_TIMING, &[]), Ok(0));
        assert_eq!(prctl(init, pr::PR_SET_TIMING, &[0]), Ok(0));
        assert_eq!(prctl(init, pr::PR_SET_TIMING, &[1]), Err(Errno::EINVAL));
        assert_eq!(prctl(init, pr::PR_GET_SPECULATION_CTRL, &[0, 0, 0, 0]), Ok(0));
        assert_eq!(prctl(init, pr::PR_GET_SPECULATION_CTRL, &[7, 0, 0, 0]), Err(Errno::ENODEV));
        assert_eq!(prctl(init, pr::PR_GET_SPECULATION_CTRL, &[0, 1, 0, 0]), Err(Errno::EINVAL));
    });
}

#[test]
fn the_places_of_the_program_can_be_told() {
    story(|init| {
        let mm = |user: &mut User, option: u32, address: u64| {
            prctl(user, pr::PR_SET_MM, &[u64::from(option), address, 0, 0])
        };
        let page = init.mmap(4096, 3);
        assert_eq!(mm(init, pr::PR_SET_MM_ENV_END, page + 100), Err(Errno::EINVAL), "before its beginning");
        let text = init.push_string("told");
        mm(init, pr::PR_SET_MM_ARG_START, text).unwrap();
        mm(init, pr::PR_SET_MM_ARG_END, text + 5).unwrap();
        assert_eq!(mm(init, pr::PR_SET_MM_START_CODE, 0), Err(Errno::EINVAL));
        assert_eq!(mm(init, pr::PR_SET_MM_START_CODE, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(mm(init, 99, page), Err(Errno::EINVAL));
        assert_eq!(prctl(init, pr::PR_SET_MM, &[1, page, 1, 0]), Err(Errno::EINVAL));
        assert_eq!(mm(init, pr::PR_SET_MM_EXE_FILE, 99), Err(Errno::EBADF));
        let (_, size) = init.call_with(nr::PRCTL, &[u64::from(pr::PR_SET_MM), 15], &0u32, &[0, 0]).unwrap();
        assert_eq!(size, 104);
        assert_eq!(prctl(init, pr::PR_SET_MM, &[14, page, 100, 0]), Err(Errno::EINVAL));
        assert_eq!(prctl(init, pr::PR_SET_MM, &[14, page, 104, 0]), Err(Errno::EINVAL), "addresses of zero");
        child(init, move |user| {
            user.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(mm(user, pr::PR_SET_MM_START_CODE, page), Err(Errno::EPERM));
        });
    });
}
