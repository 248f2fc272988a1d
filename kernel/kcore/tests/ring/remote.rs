//! Looking into another process: who may, process_vm_readv(2), `/proc/PID/mem`, and yama.

use abi::uio::Iovec;
use abi::{Errno, fcntl, mman, nr, prctl as pr};
use hal::hosted::User;
use kcore::testing::Libc;
use zerocopy::IntoBytes;

use crate::coredump::mount_proc;
use crate::story;

const PAGE: u64 = 4096;
const READ_WRITE: u32 = mman::PROT_READ | mman::PROT_WRITE;

/// One of the two calls: (address, length) pairs of either side.
fn process_vm(
    user: &mut User,
    call: usize,
    pid: i32,
    local: &[(u64, u64)],
    remote: &[(u64, u64)],
) -> Result<u64, Errno> {
    user.scoped(|user| {
        let mut push = |side: &[(u64, u64)]| {
            let array: Vec<Iovec> = side.iter().map(|(base, len)| Iovec { iov_base: *base, iov_len: *len }).collect();
            user.push(array.as_bytes())
        };
        let (here, there) = (push(local), push(remote));
        let pid = i64::from(pid).cast_unsigned();
        user.call(call, &[pid, here, local.len() as u64, there, remote.len() as u64, 0])
    })
}

/// A child that keeps what the caller had mapped until it is killed.
fn sleeper(init: &mut User) -> i32 {
    init.fork(|child| {
        child.pause();
        0
    })
}

fn end(init: &mut User, pid: i32) {
    init.kill(pid, abi::signal::SIGKILL).unwrap();
    init.wait_for(pid);
}

#[test]
fn memory_is_read_and_written_across_processes_up_to_the_first_hole() {
    story(|init| {
        let shared = init.mmap(4 * PAGE, READ_WRITE);
        init.write_bytes(shared + PAGE - 3, b"across");
        init.munmap(shared + 2 * PAGE, PAGE).unwrap();
        let child = sleeper(init);
        let here = init.mmap(4 * PAGE, READ_WRITE);
        let read = nr::PROCESS_VM_READV;
        assert_eq!(process_vm(init, read, child, &[(here, 2), (here + 100, 4)], &[(shared + PAGE - 3, 6)]), Ok(6));
        assert_eq!(init.read_bytes(here, 2), b"ac");
        assert_eq!(init.read_bytes(here + 100, 4), b"ross");
        assert_eq!(process_vm(init, read, child, &[(here, 4 * PAGE)], &[(shared, 4 * PAGE)]), Ok(2 * PAGE));
        assert_eq!(process_vm(init, read, child, &[(here, 1)], &[(shared + 2 * PAGE, 1)]), Err(Errno::EFAULT));
        assert_eq!(process_vm(init, read, child, &[(0x10, 1)], &[(shared, 1)]), Err(Errno::EFAULT));
        init.write_bytes(here, b"new");
        assert_eq!(process_vm(init, nr::PROCESS_VM_WRITEV, child, &[(here, 3)], &[(shared, 3)]), Ok(3));
        assert_eq!(init.read_bytes(shared, 3), [0; 3], "the child's copy, not the parent's page");
        assert_eq!(process_vm(init, read, child, &[(here + 8, 3)], &[(shared, 3)]), Ok(3));
        assert_eq!(init.read_bytes(here + 8, 3), b"new");
        end(init, child);
        assert_eq!(process_vm(init, read, child, &[(here, 1)], &[(shared, 1)]), Err(Errno::ESRCH));
        assert_eq!(process_vm(init, read, child, &[(here, 0)], &[(shared, 1)]), Ok(0), "nobody is asked");
    });
}

#[test]
fn the_rights_of_the_area_count_for_process_vm_and_not_for_mem() {
    story(|init| {
        mount_proc(init);
        let area = init.mmap(PAGE, READ_WRITE);
        init.write_bytes(area, b"text");
        init.mprotect(area, PAGE, mman::PROT_NONE).unwrap();
        let child = sleeper(init);
        let here = init.mmap(PAGE, READ_WRITE);
        for call in [nr::PROCESS_VM_READV, nr::PROCESS_VM_WRITEV] {
            assert_eq!(process_vm(init, call, child, &[(here, 4)], &[(area, 4)]), Err(Errno::EFAULT));
        }
        let mem = init.open(&format!("/proc/{child}/mem"), fcntl::O_RDWR, 0).unwrap();
        let at = |user: &mut User, number: usize, offset: u64| {
            user.call(number, &[u64::try_from(mem).unwrap(), here, 4, offset])
        };
        assert_eq!(at(init, nr::PREAD64, area), Ok(4));
        assert_eq!(init.read_bytes(here, 4), b"text");
        init.write_bytes(here, b"TEXT");
        assert_eq!(at(init, nr::PWRITE64, area), Ok(4));
        init.write_bytes(here, b"____");
        assert_eq!(at(init, nr::PREAD64, area), Ok(4));
        assert_eq!(init.read_bytes(here, 4), b"TEXT");
        assert_eq!(at(init, nr::PREAD64, 0x10), Err(Errno::EIO));
        end(init, child);
        assert_eq!(at(init, nr::PREAD64, area), Ok(0), "the memory is gone, and the descriptor did not keep it");
    });
}

#[test]
fn only_an_equal_or_the_privileged_look_in() {
    story(|init| {
        let root = sleeper(init);
        let area = init.mmap(PAGE, READ_WRITE);
        let status = {
            let user = init.fork(move |user| {
                user.call(nr::SETRESGID, &[7, 7, 7]).unwrap();
                user.call(nr::SETRESUID, &[7, 7, 7]).unwrap();
                let read = nr::PROCESS_VM_READV;
                assert_eq!(process_vm(user, read, root, &[(area, 1)], &[(area, 1)]), Err(Errno::EPERM));
                let own = user.getpid();
                assert_eq!(process_vm(user, read, own, &[(area, 1)], &[(area, 1)]), Ok(1), "itself, though undumpable");
                let peer = sleeper(user);
                assert_eq!(
                    process_vm(user, read, peer, &[(area, 1)], &[(area, 1)]),
                    Err(Errno::EPERM),
                    "a process that changed its identity is not dumpable, nor are its children"
                );
                user.call(nr::PRCTL, &[u64::from(pr::PR_SET_DUMPABLE), 1]).unwrap();
                let open = sleeper(user);
                assert_eq!(process_vm(user, read, open, &[(area, 1)], &[(area, 1)]), Ok(1));
                end(user, peer);
                end(user, open);
                0
            });
            init.wait_for(user)
        };
        assert_eq!(status.exit_code(), Some(0));
        end(init, root);
    });
}

/// Whether a user's process may read `target`.
fn reads(user: &mut User, target: i32) -> bool {
    let area = user.mmap(PAGE, READ_WRITE);
    process_vm(user, nr::PROCESS_VM_READV, target, &[(area, 1)], &[(area, 1)]) != Err(Errno::EPERM)
}

#[test]
fn scope_1_leaves_children_and_whom_the_process_names() {
    story(|init| {
        mount_proc(init);
        let scope = init.open("/proc/sys/kernel/yama/ptrace_scope", fcntl::O_RDWR, 0).unwrap();
        assert_eq!(init.write_fd(scope, b"4"), Err(Errno::EINVAL));
        init.write_fd(scope, b"1").unwrap();
        let child = init.fork(move |user| {
            user.call(nr::SETRESUID, &[7, 7, 7]).unwrap();
            user.call(nr::PRCTL, &[u64::from(pr::PR_SET_DUMPABLE), 1]).unwrap();
            let parent = user.getpid();
            let own = sleeper(user);
            assert!(reads(user, own), "a descendant");
            let sibling =
                user.fork(move |sibling| i32::from(reads(sibling, own)) + 2 * i32::from(reads(sibling, parent)));
            assert_eq!(user.wait_for(sibling).exit_code(), Some(0));
            assert_eq!(user.call(nr::PRCTL, &[u64::from(pr::PR_SET_PTRACER), 9999]), Err(Errno::EINVAL));
            assert_eq!(user.call(nr::PRCTL, &[u64::from(pr::PR_SET_PTRACER), u64::MAX]), Ok(0));
            let sibling = user.fork(move |sibling| i32::from(reads(sibling, parent)));
            assert_eq!(user.wait_for(sibling).exit_code(), Some(1), "PR_SET_PTRACER_ANY");
            let named = u64::from(own.unsigned_abs());
            assert_eq!(user.call(nr::PRCTL, &[u64::from(pr::PR_SET_PTRACER), named]), Ok(0));
            let sibling = user.fork(move |sibling| i32::from(reads(sibling, parent)));
            assert_eq!(user.wait_for(sibling).exit_code(), Some(0), "another was named");
            end(user, own);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        let root = sleeper(init);
        assert!(reads(init, root));
        init.write_fd(scope, b"3").unwrap();
        assert!(!reads(init, root), "nobody, root neither");
        assert_eq!(init.write_fd(scope, b"0"), Err(Errno::EINVAL), "until the next boot");
        end(init, root);
    });
}
