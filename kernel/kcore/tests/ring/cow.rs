//! Copy-on-write: fork shares pages and leaf tables, and nobody notices.

use abi::mman::{self, MAP_ANONYMOUS, MAP_SHARED, PROT_READ, PROT_WRITE};
use abi::nr;
use hal::hosted::User;
use kcore::testing::image::{DATA, DATA_BYTES};
use kcore::testing::{Libc, Machine};

use crate::{MS, story};

const RW: u32 = PROT_READ | PROT_WRITE;
const PAGE: u64 = 4096;

fn fill(user: &mut User, start: u64, pages: u64, value: u64) {
    for n in 0..pages {
        user.write(start + n * PAGE, value + n);
    }
}

fn check(user: &mut User, start: u64, pages: u64, value: u64) {
    for n in 0..pages {
        assert_eq!(user.read::<u64>(start + n * PAGE), value + n, "page {n}");
    }
}

/// Free frames, as the kernel counts them.
fn free() -> u64 {
    kcore::testing::free_frames()
}

#[test]
fn a_child_writes_first() {
    story(|init| {
        let pages = init.mmap(16 * PAGE, RW);
        fill(init, pages, 16, 100);
        let child = init.fork(move |child| {
            fill(child, pages, 16, 500);
            check(child, pages, 16, 500);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        check(init, pages, 16, 100);
    });
}

#[test]
fn a_parent_writes_first() {
    story(|init| {
        let pages = init.mmap(16 * PAGE, RW);
        fill(init, pages, 16, 100);
        let child = init.fork(move |child| {
            child.sleep_ns(10 * MS).unwrap();
            check(child, pages, 16, 100);
            0
        });
        fill(init, pages, 16, 900);
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        check(init, pages, 16, 900);
    });
}

#[test]
fn both_write_alternately_to_pages_of_one_leaf_table() {
    story(|init| {
        let pages = init.mmap(32 * PAGE, RW);
        fill(init, pages, 32, 0);
        let child = init.fork(move |child| {
            for n in (0..32).step_by(2) {
                child.write(pages + n * PAGE, 1000 + n);
                child.sleep_ns(MS).unwrap();
            }
            for n in 0..32 {
                let expected = if n % 2 == 0 { 1000 + n } else { n };
                assert_eq!(child.read::<u64>(pages + n * PAGE), expected);
            }
            0
        });
        for n in (1..32).step_by(2) {
            init.write(pages + n * PAGE, 2000 + n);
            init.sleep_ns(MS).unwrap();
        }
        for n in 0..32 {
            let expected = if n % 2 == 1 { 2000 + n } else { n };
            assert_eq!(init.read::<u64>(pages + n * PAGE), expected);
        }
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn three_generations_have_three_values() {
    story(|init| {
        let page = init.mmap(PAGE, RW);
        init.write(page, 1u64);
        let child = init.fork(move |child| {
            let grandchild = child.fork(move |grandchild| {
                assert_eq!(grandchild.read::<u64>(page), 1);
                grandchild.write(page, 3u64);
                grandchild.sleep_ns(10 * MS).unwrap();
                assert_eq!(grandchild.read::<u64>(page), 3);
                0
            });
            child.write(page, 2u64);
            assert_eq!(child.wait_for(grandchild).exit_code(), Some(0));
            assert_eq!(child.read::<u64>(page), 2);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(init.read::<u64>(page), 1);
    });
}

#[test]
fn shared_memory_stays_shared() {
    story(|init| {
        let page = init.try_mmap(0, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0).unwrap();
        init.write(page, 1u64);
        let child = init.fork(move |child| {
            assert_eq!(child.read::<u64>(page), 1);
            child.write(page, 2u64);
            child.write(page + 2 * PAGE, 3u64);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(init.read::<u64>(page), 2);
        assert_eq!(init.read::<u64>(page + 2 * PAGE), 3);
    });
}

#[test]
fn the_kernels_own_writes_copy_too() {
    story(|init| {
        let page = init.mmap(PAGE, RW);
        init.write(page, 7u64);
        let (read, write) = init.pipe(0).unwrap();
        init.write_fd(write, &9u64.to_le_bytes()).unwrap();
        let child = init.fork(move |child| {
            assert_eq!(child.call(nr::READ, &[read as u64, page, 8]), Ok(8));
            assert_eq!(child.read::<u64>(page), 9);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(init.read::<u64>(page), 7);
    });
}

#[test]
fn the_stack_and_the_data_segment_are_copied_on_write() {
    let mut machine = Machine::new();
    machine.program("/bin/program", |user| {
        let stack = user.push(&[1; 8]);
        let child = user.fork(move |child| {
            child.write(stack, 2u8);
            child.write(DATA, 0x77u8);
            child.write(DATA + DATA_BYTES, 0x77u8);
            0
        });
        assert_eq!(user.wait_for(child).exit_code(), Some(0));
        assert_eq!(user.read::<u8>(stack), 1);
        assert_eq!(user.read::<u8>(DATA), 0);
        assert_eq!(user.read::<u8>(DATA + DATA_BYTES), 0);
        0
    });
    machine.run(|init| {
        let child = init.fork(|child| child.exec("/bin/program", &["x"]));
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
    });
}

#[test]
fn fork_does_not_copy_the_leaf_tables_of_a_large_process() {
    story(|init| {
        // 8 MiB: four leaf tables and 2048 pages.
        let pages = init.mmap(2048 * PAGE, RW);
        fill(init, pages, 2048, 1);
        let before = free();
        let child = init.fork(move |child| {
            child.sleep_ns(5 * MS).unwrap();
            0
        });
        let used = before - free();
        assert!(used < 32, "a fork took {used} frames");
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        check(init, pages, 2048, 1);
    });
}

#[test]
fn the_last_sharer_writes_without_a_copy() {
    story(|init| {
        let pages = init.mmap(64 * PAGE, RW);
        fill(init, pages, 64, 1);
        let child = init.fork(|_| 0);
        init.wait_for(child);
        let before = free();
        fill(init, pages, 64, 2);
        let used = before.saturating_sub(free());
        assert!(used < 8, "{used} frames for pages that nobody else has");
    });
}

#[test]
fn reading_zero_pages_takes_no_memory() {
    story(|init| {
        let pages = init.mmap(256 * PAGE, RW);
        init.touch(pages, hal::trap::Access::Read);
        let before = free();
        for n in 0..256 {
            assert_eq!(init.read::<u64>(pages + n * PAGE), 0);
        }
        assert!(before.saturating_sub(free()) < 8, "reads allocated {} frames", before - free());
        init.write(pages, 1u64);
        assert_eq!(init.read::<u64>(pages), 1);
        assert_eq!(init.read::<u64>(pages + PAGE), 0);
    });
}

#[test]
fn unmapping_in_the_child_leaves_the_parents_pages() {
    story(|init| {
        let pages = init.mmap(16 * PAGE, RW);
        fill(init, pages, 16, 5);
        let child = init.fork(move |child| {
            child.munmap(pages + 4 * PAGE, 8 * PAGE).unwrap();
            check(child, pages, 4, 5);
            child.munmap(pages, 16 * PAGE).unwrap();
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        check(init, pages, 16, 5);
    });
}

#[test]
fn protecting_in_the_child_leaves_the_parents_rights() {
    story(|init| {
        let pages = init.mmap(16 * PAGE, RW);
        fill(init, pages, 16, 5);
        let child = init.fork(move |child| {
            child.mprotect(pages, 16 * PAGE, PROT_READ).unwrap();
            check(child, pages, 16, 5);
            child.write(pages, 1u8);
            0
        });
        assert_eq!(init.wait_for(child).killed_by(), Some(11));
        fill(init, pages, 16, 6);
        check(init, pages, 16, 6);
    });
}

#[test]
fn dropping_pages_in_the_child_leaves_the_parents() {
    story(|init| {
        let pages = init.mmap(16 * PAGE, RW);
        fill(init, pages, 16, 5);
        let child = init.fork(move |child| {
            let advice = u64::from(mman::MADV_DONTNEED);
            child.call(nr::MADVISE, &[pages, 16 * PAGE, advice]).unwrap();
            assert_eq!(child.read::<u64>(pages), 0);
            0
        });
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        check(init, pages, 16, 5);
    });
}

#[test]
fn many_children_of_one_process_all_have_their_own_copy() {
    story(|init| {
        let pages = init.mmap(8 * PAGE, RW);
        fill(init, pages, 8, 1);
        let children: Vec<i32> = (0..20u64)
            .map(|n| {
                init.fork(move |child| {
                    check(child, pages, 8, 1);
                    fill(child, pages, 8, 100 * n);
                    child.sched_yield();
                    check(child, pages, 8, 100 * n);
                    0
                })
            })
            .collect();
        for child in children {
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
        }
        check(init, pages, 8, 1);
    });
}

#[test]
fn a_forking_thread_copies_what_the_other_thread_wrote() {
    story(|init| {
        let page = init.mmap(PAGE, RW);
        let thread = init.thread(move |thread| {
            thread.write(page, 8u64);
            let child = thread.fork(move |child| {
                child.write(page + 8, 1u64);
                child.read::<i32>(page)
            });
            assert_eq!(thread.wait_for(child).exit_code(), Some(8));
            0
        });
        init.join(thread);
        assert_eq!(init.read::<u64>(page + 8), 0);
    });
}

#[test]
fn fork_exec_exit_leaves_nothing_behind() {
    let mut machine = Machine::new();
    machine.program("/bin/program", |user| {
        let pages = user.mmap(8 * PAGE, RW);
        fill(user, pages, 8, 1);
        user.write(DATA, 1u8);
        0
    });
    machine.run(|init| {
        let pages = init.mmap(64 * PAGE, RW);
        fill(init, pages, 64, 1);
        let mut round = || {
            let child = init.fork(move |child| {
                fill(child, pages, 16, 2);
                child.exec("/bin/program", &["x"])
            });
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
            // The last owner of the old stack lets go of it after the next switch.
            init.sleep_ns(MS).unwrap();
            fill(init, pages, 64, 1);
        };
        round();
        round();
        let before = free();
        for _ in 0..50 {
            round();
        }
        assert_eq!(free(), before);
    });
}
