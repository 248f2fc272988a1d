//! mmap(2), munmap(2), mprotect(2), mremap(2), madvise(2), brk(2), faults.

use abi::fcntl::{O_CREAT, O_RDONLY, O_RDWR};
use abi::mman::{
    MADV_DONTNEED, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED,
    MREMAP_MAYMOVE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE,
};
use abi::resource::{RLIMIT_AS, RLIMIT_STACK, Rlimit};
use abi::signal::{SIGBUS, SIGSEGV};
use abi::{Errno, nr};
use hal::hosted::User;
use hal::trap::Access;
use kcore::testing::{Libc, Machine};

use crate::story;

const RW: u32 = PROT_READ | PROT_WRITE;
const PAGE: u64 = 4096;
const PRIVATE: u32 = MAP_PRIVATE | MAP_ANONYMOUS;

/// The signal that an access in a child of `init` ends with.
fn signal_of(init: &mut User, address: u64, access: Access) -> Option<u32> {
    let child = init.fork(move |child| {
        child.touch(address, access);
        0
    });
    init.wait_for(child).killed_by()
}

#[test]
fn fresh_memory_is_zero() {
    story(|init| {
        let pages = init.mmap(4 * PAGE, RW);
        assert!(init.read_bytes(pages, 4 * PAGE as usize).iter().all(|byte| *byte == 0));
    });
}

#[test]
fn recycled_memory_is_zero_again() {
    story(|init| {
        for _ in 0..20 {
            let pages = init.mmap(16 * PAGE, RW);
            assert!(init.read_bytes(pages, 16 * PAGE as usize).iter().all(|byte| *byte == 0));
            init.write_bytes(pages, &vec![0xa5; 16 * PAGE as usize]);
            init.munmap(pages, 16 * PAGE).unwrap();
        }
    });
}

#[test]
fn protection_is_enforced() {
    story(|init| {
        let page = init.mmap(PAGE, PROT_READ);
        assert_eq!(signal_of(init, page, Access::Read), None);
        assert_eq!(signal_of(init, page, Access::Write), Some(SIGSEGV));
        assert_eq!(signal_of(init, page, Access::Execute), Some(SIGSEGV));
        init.mprotect(page, PAGE, PROT_READ | PROT_EXEC).unwrap();
        assert_eq!(signal_of(init, page, Access::Execute), None);
        init.mprotect(page, PAGE, RW).unwrap();
        assert_eq!(signal_of(init, page, Access::Write), None);
        assert_eq!(signal_of(init, page, Access::Execute), Some(SIGSEGV));
        init.mprotect(page, PAGE, PROT_NONE).unwrap();
        assert_eq!(signal_of(init, page, Access::Read), Some(SIGSEGV));
    });
}

#[test]
fn contents_survive_a_change_of_protection() {
    story(|init| {
        let page = init.mmap(PAGE, RW);
        init.write(page, 5u64);
        for prot in [PROT_NONE, PROT_READ, PROT_NONE, RW] {
            init.mprotect(page, PAGE, prot).unwrap();
        }
        assert_eq!(init.read::<u64>(page), 5);
        init.write(page, 6u64);
    });
}

#[test]
fn a_hole_can_be_cut_and_filled() {
    story(|init| {
        let pages = init.mmap(8 * PAGE, RW);
        for n in 0..8 {
            init.write(pages + n * PAGE, n + 1);
        }
        init.munmap(pages + 2 * PAGE, 3 * PAGE).unwrap();
        for n in 0..8 {
            let gone = (2..5).contains(&n);
            let expected = if gone { Some(SIGSEGV) } else { None };
            assert_eq!(signal_of(init, pages + n * PAGE, Access::Read), expected);
        }
        init.try_mmap(pages + 3 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0).unwrap();
        assert_eq!(init.read::<u64>(pages + 3 * PAGE), 0);
        assert_eq!(init.read::<u64>(pages + 5 * PAGE), 6);
    });
}

#[test]
fn bad_requests_have_their_errors() {
    story(|init| {
        assert_eq!(init.try_mmap(0, 0, RW, PRIVATE, -1, 0), Err(Errno::EINVAL));
        assert_eq!(init.try_mmap(0, PAGE, RW, MAP_ANONYMOUS, -1, 0), Err(Errno::EINVAL));
        assert_eq!(init.try_mmap(0, PAGE, RW, MAP_PRIVATE, -1, 0), Err(Errno::EBADF));
        assert_eq!(init.try_mmap(0, PAGE, RW, MAP_PRIVATE, 3, 1), Err(Errno::EINVAL));
        assert_eq!(init.try_mmap(123, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0), Err(Errno::EINVAL));
        assert_eq!(init.try_mmap(0, 1 << 40, RW, PRIVATE, -1, 0), Err(Errno::ENOMEM));
        assert_eq!(init.try_mmap(0, u64::MAX - 4096, RW, PRIVATE, -1, 0), Err(Errno::ENOMEM));
        assert_eq!(init.try_mmap(1 << 39, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0), Err(Errno::ENOMEM));
        let page = init.mmap(PAGE, RW);
        assert_eq!(init.munmap(page + 1, PAGE), Err(Errno::EINVAL));
        assert_eq!(init.munmap(page, 0), Err(Errno::EINVAL));
        assert_eq!(init.munmap(1 << 39, PAGE), Err(Errno::EINVAL));
        assert_eq!(init.mprotect(page + 1, PAGE, RW), Err(Errno::EINVAL));
        assert_eq!(init.mprotect(page, 1 << 30, RW), Err(Errno::ENOMEM));
        let taken = PRIVATE | MAP_FIXED_NOREPLACE;
        assert_eq!(init.try_mmap(page, PAGE, RW, taken, -1, 0), Err(Errno::EEXIST));
    });
}

#[test]
fn the_null_page_is_never_given_out() {
    story(|init| {
        let child = init.fork(|child| {
            child.call(nr::SETUID, &[1000]).unwrap();
            assert_eq!(child.try_mmap(0, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0), Err(Errno::EPERM));
            assert_ne!(child.mmap(PAGE, RW), 0);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_hint_is_taken_when_it_is_free() {
    story(|init| {
        let hint = 0x10_0000_0000;
        assert_eq!(init.try_mmap(hint, PAGE, RW, PRIVATE, -1, 0), Ok(hint));
        let second = init.try_mmap(hint, PAGE, RW, PRIVATE, -1, 0).unwrap();
        assert_ne!(second, hint);
    });
}

#[test]
fn the_break_grows_and_shrinks() {
    story(|init| {
        let start = init.brk(0);
        assert_eq!(init.brk(start + 3 * PAGE), start + 3 * PAGE);
        init.write(start, 1u64);
        init.write(start + 2 * PAGE, 2u64);
        assert_eq!(init.brk(start + PAGE), start + PAGE);
        assert_eq!(signal_of(init, start.next_multiple_of(PAGE) + 2 * PAGE, Access::Read), Some(SIGSEGV));
        assert_eq!(init.read::<u64>(start), 1);
        assert_eq!(init.brk(start + 3 * PAGE), start + 3 * PAGE);
        assert_eq!(init.read::<u64>(start + 2 * PAGE), 0, "memory given back comes back zeroed");
        assert_eq!(init.brk(1), start + 3 * PAGE, "a break below the start is refused");
        assert_eq!(init.brk(1 << 45), start + 3 * PAGE);
    });
}

#[test]
fn the_stack_grows_down_to_its_limit() {
    story(|init| {
        let child = init.fork(|child| {
            let sp = child.sp();
            for n in 1..256 {
                child.write(sp - n * PAGE, n);
            }
            assert_eq!(child.read::<u64>(sp - 255 * PAGE), 255);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        let child = init.fork(|child| {
            let limit = Rlimit { rlim_cur: 128 * 1024, rlim_max: 128 * 1024 };
            child.call_with(nr::SETRLIMIT, &[u64::from(RLIMIT_STACK)], &limit, &[]).unwrap();
            let sp = child.sp();
            child.write(sp - 1024 * 1024, 1u8);
            0
        });
        assert_eq!(init.wait_for(child).killed_by(), Some(SIGSEGV));
    });
}

#[test]
fn moved_memory_keeps_its_contents() {
    story(|init| {
        let pages = init.mmap(4 * PAGE, RW);
        let wall = pages + 4 * PAGE;
        let _ = init.try_mmap(wall, PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0);
        for n in 0..4 {
            init.write(pages + n * PAGE, n + 10);
        }
        assert_eq!(init.call(nr::MREMAP, &[pages, 4 * PAGE, 8 * PAGE, 0]), Err(Errno::ENOMEM));
        let moved = init.call(nr::MREMAP, &[pages, 4 * PAGE, 8 * PAGE, u64::from(MREMAP_MAYMOVE)]).unwrap();
        assert_ne!(moved, pages);
        for n in 0..4 {
            assert_eq!(init.read::<u64>(moved + n * PAGE), n + 10);
        }
        assert_eq!(init.read::<u64>(moved + 7 * PAGE), 0);
        assert_eq!(signal_of(init, pages, Access::Read), Some(SIGSEGV));
        assert_eq!(init.call(nr::MREMAP, &[moved, 8 * PAGE, 2 * PAGE, 0]), Ok(moved));
        assert_eq!(signal_of(init, moved + 2 * PAGE, Access::Read), Some(SIGSEGV));
        assert_eq!(init.read::<u64>(moved + PAGE), 11);
    });
}

#[test]
fn pages_that_are_not_needed_come_back_as_zeros() {
    story(|init| {
        let pages = init.mmap(4 * PAGE, RW);
        init.write_bytes(pages, &[7; 4 * PAGE as usize]);
        init.call(nr::MADVISE, &[pages + PAGE, PAGE, u64::from(MADV_DONTNEED)]).unwrap();
        assert_eq!(init.read::<u8>(pages), 7);
        assert_eq!(init.read::<u8>(pages + PAGE), 0);
        assert_eq!(init.read::<u8>(pages + 2 * PAGE), 7);
        assert_eq!(init.call(nr::MADVISE, &[pages + 1, PAGE, 4]), Err(Errno::EINVAL));
        assert_eq!(init.call(nr::MADVISE, &[pages, PAGE, 12345]), Err(Errno::EINVAL));
    });
}

#[test]
fn mincore_tells_what_is_there() {
    story(|init| {
        let pages = init.mmap(4 * PAGE, RW);
        init.write(pages + PAGE, 1u8);
        let vector = init.push(&[9; 4]);
        init.call(nr::MINCORE, &[pages, 4 * PAGE, vector]).unwrap();
        let seen: Vec<u8> = init.read_bytes(vector, 4).iter().map(|byte| byte & 1).collect();
        assert_eq!(seen, [0, 1, 0, 0]);
        init.munmap(pages + 3 * PAGE, PAGE).unwrap();
        assert_eq!(init.call(nr::MINCORE, &[pages, 4 * PAGE, vector]), Err(Errno::ENOMEM));
    });
}

#[test]
fn populate_takes_the_memory_at_once() {
    story(|init| {
        let before = kcore::testing::free_frames();
        init.try_mmap(0, 64 * PAGE, RW, PRIVATE | MAP_POPULATE, -1, 0).unwrap();
        assert!(before - kcore::testing::free_frames() >= 64);
    });
}

fn with_file(body: impl Fn(&mut User) + 'static) {
    let mut machine = Machine::new();
    let text: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0]).collect();
    machine.file("/etc/data", 0o666, &text);
    machine.run(body);
}

#[test]
fn a_private_file_mapping_shows_the_file_and_keeps_its_writes_to_itself() {
    with_file(|init| {
        let fd = init.open("/etc/data", O_RDONLY, 0).unwrap();
        let map = init.try_mmap(0, 3 * PAGE, RW, MAP_PRIVATE, fd, 0).unwrap();
        init.close(fd).unwrap();
        assert_eq!(init.read::<u8>(map + 5000), (5000 & 0xff) as u8);
        // The page with the end of the file is zero behind it.
        assert_eq!(init.read::<u8>(map + 10_001), 0);
        init.write(map + 5000, 0xeeu8);
        let contents = init.slurp("/etc/data").unwrap();
        assert_eq!(contents.len(), 10_000);
        assert_eq!(contents[5000], (5000 & 0xff) as u8);
        assert_eq!(init.read::<u8>(map + 5000), 0xee);
    });
}

#[test]
fn a_shared_file_mapping_is_the_file() {
    with_file(|init| {
        let fd = init.open("/tmp/file", O_RDWR | O_CREAT, 0o600).unwrap();
        init.write_fd(fd, &[3; 6000]).unwrap();
        let map = init.try_mmap(0, 2 * PAGE, RW, MAP_SHARED, fd, 0).unwrap();
        assert_eq!(init.read::<u8>(map + 5999), 3);
        init.write(map + 10, 8u8);
        assert_eq!(init.slurp("/tmp/file").unwrap()[10], 8);
        let child = init.fork(move |child| {
            child.write(map + 20, 9u8);
            0
        });
        init.wait_for(child);
        assert_eq!(init.read::<u8>(map + 20), 9);
        assert_eq!(init.slurp("/tmp/file").unwrap()[20], 9);
    });
}

#[test]
fn behind_the_end_of_the_file_is_sigbus() {
    with_file(|init| {
        let fd = init.open("/etc/data", O_RDONLY, 0).unwrap();
        let map = init.try_mmap(0, 8 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0).unwrap();
        assert_eq!(signal_of(init, map + 2 * PAGE, Access::Read), None);
        assert_eq!(signal_of(init, map + 3 * PAGE, Access::Read), Some(SIGBUS));
    });
}

#[test]
fn a_file_opened_for_reading_is_not_mapped_shared_and_writable() {
    with_file(|init| {
        let fd = init.open("/etc/data", O_RDONLY, 0).unwrap();
        assert_eq!(init.try_mmap(0, PAGE, RW, MAP_SHARED, fd, 0), Err(Errno::EACCES));
        let map = init.try_mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0).unwrap();
        assert_eq!(init.mprotect(map, PAGE, RW), Err(Errno::EACCES));
    });
}

#[test]
fn a_write_to_the_file_shows_in_a_mapping_that_did_not_write() {
    with_file(|init| {
        let fd = init.open("/tmp/file", O_RDWR | O_CREAT, 0o600).unwrap();
        init.write_fd(fd, &[1; 100]).unwrap();
        let shared = init.try_mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0).unwrap();
        assert_eq!(init.read::<u8>(shared), 1);
        let again = init.open("/tmp/file", O_RDWR, 0).unwrap();
        init.write_fd(again, &[2; 50]).unwrap();
        assert_eq!(init.read::<u8>(shared), 2);
        assert_eq!(init.read::<u8>(shared + 50), 1);
    });
}

#[test]
fn the_address_space_limit_is_reached() {
    story(|init| {
        let child = init.fork(|child| {
            let limit = Rlimit { rlim_cur: 64 << 20, rlim_max: 64 << 20 };
            child.call_with(nr::SETRLIMIT, &[u64::from(RLIMIT_AS)], &limit, &[]).unwrap();
            let mut got = 0;
            let error = loop {
                match child.try_mmap(0, 1 << 20, PROT_NONE, PRIVATE, -1, 0) {
                    Ok(_) => got += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(error, Errno::ENOMEM);
            assert!((40..64).contains(&got), "{got} MiB");
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn a_process_that_eats_all_memory_dies_and_the_rest_lives() {
    story(|init| {
        let before = kcore::testing::free_frames();
        let child = init.fork(|child| {
            let mut pages = 0u64;
            loop {
                match child.try_mmap(0, 1 << 20, RW, PRIVATE, -1, 0) {
                    Ok(start) => {
                        for n in 0..256 {
                            child.write(start + n * PAGE, n);
                            pages += 1;
                        }
                    }
                    // Refusing is as good as killing.
                    Err(error) => {
                        assert_eq!(error, Errno::ENOMEM);
                        assert!(pages > 2000);
                        return 9;
                    }
                }
            }
        });
        let status = init.wait_for(child);
        assert!(status.killed_by() == Some(9) || status.exit_code() == Some(9), "{status:?}");
        init.sleep_ns(crate::MS).unwrap();
        let after = kcore::testing::free_frames();
        assert!(after + 64 > before, "{before} frames free before, {after} after");
        let page = init.mmap(PAGE, RW);
        init.write(page, 1u8);
    });
}
