//! credentials(7) and capabilities(7): user and group ids, the five sets, securebits, what execve makes of them.

use abi::capability as cap;
use abi::prctl as pr;
use abi::{Errno, nr};
use hal::hosted::User;
use kcore::testing::Libc;
use zerocopy::IntoBytes;

use crate::story;

const VERSION_3: u32 = cap::_LINUX_CAPABILITY_VERSION_3;
const FULL: u64 = (1 << 41) - 1;

/// Effective, permitted, inheritable.
pub(crate) fn capget(user: &mut User, pid: u32) -> Result<[u64; 3], Errno> {
    user.scoped(|user| {
        let header = user.push([VERSION_3, pid].as_bytes());
        let data = user.push([0u32; 6].as_bytes());
        user.call(nr::CAPGET, &[header, data])?;
        let words: [u32; 6] = user.load(data);
        Ok(core::array::from_fn(|n| u64::from(words[n]) | u64::from(words[n + 3]) << 32))
    })
}

/// Sets effective, permitted, inheritable.
pub(crate) fn capset(user: &mut User, pid: u32, sets: [u64; 3]) -> Result<(), Errno> {
    user.scoped(|user| {
        let header = user.push([VERSION_3, pid].as_bytes());
        let words: [u32; 6] = core::array::from_fn(|n| (sets[n % 3] >> (32 * (n / 3))) as u32);
        let data = user.push(words.as_bytes());
        user.call(nr::CAPSET, &[header, data]).map(drop)
    })
}

fn prctl(user: &mut User, option: u32, arguments: &[u64]) -> Result<u64, Errno> {
    user.call(nr::PRCTL, &[&[u64::from(option)], arguments].concat())
}

/// Runs `body` in a child that must succeed.
fn apart(init: &mut User, body: impl FnOnce(&mut User) + 'static) {
    let child = init.fork(move |child| {
        body(child);
        0
    });
    assert_eq!(init.wait_for(child).exit_code(), Some(0));
}

fn bit(capability: u32) -> u64 {
    1 << capability
}

fn become_user(user: &mut User, uid: u64) {
    user.call(nr::SETRESGID, &[uid, uid, uid]).unwrap();
    user.call(nr::SETRESUID, &[uid, uid, uid]).unwrap();
}

#[test]
fn capset_only_lowers_and_stays_within_its_bounds() {
    story(|init| {
        apart(init, |user| {
            assert_eq!(capget(user, 0), Ok([FULL, FULL, 0]));
            let few = bit(cap::CAP_KILL) | bit(cap::CAP_SETPCAP);
            capset(user, 0, [few, few, bit(cap::CAP_CHOWN)]).expect("CAP_SETPCAP may inherit what is bounded");
            assert_eq!(capget(user, 0), Ok([few, few, bit(cap::CAP_CHOWN)]));
            assert_eq!(capset(user, 0, [few, few | 1, 0]), Err(Errno::EPERM), "permitted may not grow");
            assert_eq!(capset(user, 0, [few | 2, few, 0]), Err(Errno::EPERM), "effective is within permitted");
            let kill = bit(cap::CAP_KILL);
            capset(user, 0, [kill, kill, bit(cap::CAP_CHOWN)]).unwrap();
            assert_eq!(
                capset(user, 0, [kill, kill, bit(cap::CAP_CHOWN) | bit(cap::CAP_FOWNER)]),
                Err(Errno::EPERM),
                "without CAP_SETPCAP only what is permitted or inherited already"
            );
            capset(user, 0, [0, kill, kill | bit(cap::CAP_CHOWN)]).unwrap();
            let own = user.gettid() as u32;
            capset(user, own, [kill, kill, 0]).expect("the own TID is as good as 0");
            assert_eq!(capset(user, 1, [0, 0, 0]), Err(Errno::EPERM), "only the caller's own");
        });
    });
}

#[test]
fn capability_headers_are_checked() {
    story(|init| {
        let header = init.push([1234u32, 0].as_bytes());
        let data = init.push([0u32; 6].as_bytes());
        assert_eq!(init.call(nr::CAPGET, &[header, data]), Err(Errno::EINVAL));
        assert_eq!(init.read::<u32>(header), VERSION_3, "the kernel tells the version it likes");
        init.write(header, 0u32);
        assert_eq!(init.call(nr::CAPGET, &[header, 0]), Ok(0), "a probe");
        assert_eq!(init.read::<u32>(header), VERSION_3);
        assert_eq!(init.call(nr::CAPGET, &[header, 0]), Ok(0), "a known version without data");
        assert_eq!(init.call(nr::CAPGET, &[header, 0x10]), Err(Errno::EFAULT));
        assert_eq!(init.call(nr::CAPGET, &[0x10, data]), Err(Errno::EFAULT));
        assert_eq!(init.call(nr::CAPSET, &[header, 0x10]), Err(Errno::EFAULT));
        init.write(header + 4, -1i32);
        assert_eq!(init.call(nr::CAPGET, &[header, data]), Err(Errno::EINVAL));
        init.write(header + 4, 9999i32);
        assert_eq!(init.call(nr::CAPGET, &[header, data]), Err(Errno::ESRCH));
        // The first version has one word for each set.
        init.write(header, cap::_LINUX_CAPABILITY_VERSION_1);
        init.write(header + 4, 0);
        init.write(data + 12, 0x5555_5555u32);
        assert_eq!(init.call(nr::CAPGET, &[header, data]), Ok(0));
        assert_eq!((init.read::<u32>(data), init.read::<u32>(data + 12)), (u32::MAX, 0x5555_5555));
    });
}

#[test]
fn the_bounding_set_only_shrinks() {
    story(|init| {
        apart(init, |user| {
            let kill = u64::from(cap::CAP_KILL);
            assert_eq!(prctl(user, pr::PR_CAPBSET_READ, &[kill]), Ok(1));
            assert_eq!(prctl(user, pr::PR_CAPBSET_DROP, &[kill]), Ok(0));
            assert_eq!(prctl(user, pr::PR_CAPBSET_READ, &[kill]), Ok(0));
            assert_eq!(capset(user, 0, [FULL, FULL, bit(cap::CAP_KILL)]), Err(Errno::EPERM), "nor can it be inherited");
            for option in [pr::PR_CAPBSET_READ, pr::PR_CAPBSET_DROP] {
                assert_eq!(prctl(user, option, &[41]), Err(Errno::EINVAL));
                assert_eq!(prctl(user, option, &[u64::MAX]), Err(Errno::EINVAL));
            }
            become_user(user, 1000);
            assert_eq!(prctl(user, pr::PR_CAPBSET_DROP, &[0]), Err(Errno::EPERM));
            assert_eq!(prctl(user, pr::PR_CAPBSET_DROP, &[99]), Err(Errno::EPERM), "permission is asked first");
        });
    });
}

#[test]
fn ambient_capabilities_need_both_other_sets() {
    story(|init| {
        apart(init, |user| {
            let kill = u64::from(cap::CAP_KILL);
            let [is_set, raise, lower, clear] = [1u64, 2, 3, 4];
            let ambient = |user: &mut User, arguments: &[u64]| prctl(user, pr::PR_CAP_AMBIENT, arguments);
            assert_eq!(ambient(user, &[is_set, kill]), Ok(0));
            assert_eq!(ambient(user, &[raise, kill]), Err(Errno::EPERM), "it is not inheritable");
            capset(user, 0, [FULL, FULL, bit(cap::CAP_KILL)]).unwrap();
            assert_eq!(ambient(user, &[raise, kill]), Ok(0));
            assert_eq!(ambient(user, &[is_set, kill]), Ok(1));
            assert_eq!(ambient(user, &[lower, kill]), Ok(0));
            assert_eq!(ambient(user, &[is_set, kill]), Ok(0));
            ambient(user, &[raise, kill]).unwrap();
            assert_eq!(ambient(user, &[clear, 0]), Ok(0));
            assert_eq!(ambient(user, &[is_set, kill]), Ok(0));
            ambient(user, &[raise, kill]).unwrap();
            capset(user, 0, [FULL, FULL, 0]).unwrap();
            assert_eq!(ambient(user, &[is_set, kill]), Ok(0), "it goes with the inheritable one");
            for bad in [
                &[clear, 1][..],
                &[raise, kill, 1],
                &[raise, kill, 0, 1],
                &[is_set, 41],
                &[0, kill],
                &[5, kill],
                &[1 << 32 | is_set, kill],
            ] {
                assert_eq!(ambient(user, bad), Err(Errno::EINVAL), "{bad:?}");
            }
            capset(user, 0, [FULL, FULL, bit(cap::CAP_KILL)]).unwrap();
            prctl(user, pr::PR_SET_SECUREBITS, &[u64::from(pr::SECBIT_NO_CAP_AMBIENT_RAISE)]).unwrap();
            assert_eq!(ambient(user, &[raise, kill]), Err(Errno::EPERM));
        });
    });
}

#[test]
fn locked_securebits_stay_as_they_are() {
    story(|init| {
        apart(init, |user| {
            let set = |user: &mut User, bits: u32| prctl(user, pr::PR_SET_SECUREBITS, &[u64::from(bits)]);
            assert_eq!(prctl(user, pr::PR_GET_SECUREBITS, &[]), Ok(0));
            assert_eq!(set(user, 1 << 8), Err(Errno::EPERM), "no such bit");
            assert_eq!(prctl(user, pr::PR_SET_SECUREBITS, &[1 << 32]), Err(Errno::EPERM));
            set(user, pr::SECBIT_NOROOT | pr::SECBIT_KEEP_CAPS | pr::SECBIT_KEEP_CAPS_LOCKED).unwrap();
            assert_eq!(set(user, pr::SECBIT_NOROOT), Err(Errno::EPERM), "a lock cannot be opened");
            assert_eq!(set(user, pr::SECBIT_KEEP_CAPS_LOCKED), Err(Errno::EPERM), "nor a locked bit be changed");
            assert_eq!(prctl(user, pr::PR_SET_KEEPCAPS, &[0]), Err(Errno::EPERM));
            assert_eq!(prctl(user, pr::PR_GET_KEEPCAPS, &[]), Ok(1));
            set(user, pr::SECBIT_KEEP_CAPS | pr::SECBIT_KEEP_CAPS_LOCKED).expect("an open bit may be changed");
            let without = FULL & !bit(cap::CAP_SETPCAP);
            capset(user, 0, [without, without, 0]).unwrap();
            assert_eq!(set(user, 0x30), Err(Errno::EPERM));
        });
        apart(init, |user| {
            assert_eq!(prctl(user, pr::PR_SET_KEEPCAPS, &[2]), Err(Errno::EINVAL));
            assert_eq!(prctl(user, pr::PR_SET_KEEPCAPS, &[1]), Ok(0));
            become_user(user, 1000);
            assert_eq!(capget(user, 0), Ok([0, FULL, 0]), "permitted stays, effective goes");
        });
        apart(init, |user| {
            prctl(user, pr::PR_SET_SECUREBITS, &[u64::from(pr::SECBIT_NO_SETUID_FIXUP)]).unwrap();
            become_user(user, 1000);
            assert_eq!(capget(user, 0), Ok([FULL, FULL, 0]));
        });
    });
}

#[test]
fn file_system_capabilities_follow_fsuid() {
    story(|init| {
        let fs = bit(cap::CAP_CHOWN)
            | bit(cap::CAP_DAC_OVERRIDE)
            | bit(cap::CAP_DAC_READ_SEARCH)
            | bit(cap::CAP_FOWNER)
            | bit(cap::CAP_FSETID)
            | bit(cap::CAP_LINUX_IMMUTABLE)
            | bit(cap::CAP_MKNOD)
            | bit(cap::CAP_MAC_OVERRIDE);
        apart(init, move |user| {
            assert_eq!(user.call(nr::SETFSUID, &[1000]), Ok(0));
            assert_eq!(capget(user, 0).unwrap()[0], FULL & !fs);
            assert_eq!(user.call(nr::SETFSUID, &[0]), Ok(1000));
            assert_eq!(capget(user, 0).unwrap()[0], FULL);
            prctl(user, pr::PR_SET_SECUREBITS, &[u64::from(pr::SECBIT_NO_SETUID_FIXUP)]).unwrap();
            user.call(nr::SETFSUID, &[1000]).unwrap();
            assert_eq!(capget(user, 0).unwrap()[0], FULL);
            assert_eq!(user.call(nr::SETFSUID, &[u64::from(u32::MAX)]), Ok(1000), "a question");
        });
    });
}

#[test]
fn setgroups_refuses_what_is_no_group() {
    story(|init| {
        let list = init.push([5u32, u32::MAX, 3].as_bytes());
        assert_eq!(init.call(nr::SETGROUPS, &[3, list]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::GETGROUPS, &[0, 0]), Ok(0), "nothing changed");
        init.write(list + 4, 4u32);
        assert_eq!(init.call(nr::SETGROUPS, &[3, list]), Ok(0));
        assert_eq!(init.call(nr::GETGROUPS, &[2, list]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::GETGROUPS, &[10, list]), Ok(3));
        assert_eq!(init.load::<[u32; 3]>(list), [3, 4, 5]);
        assert_eq!(init.call(nr::GETGROUPS, &[u64::MAX, list]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::SETGROUPS, &[65537, list]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::SETGROUPS, &[3, 0x10]), Err(Errno::EFAULT));
        assert_eq!(init.call(nr::SETGROUPS, &[0, 0]), Ok(0));
    });
}
