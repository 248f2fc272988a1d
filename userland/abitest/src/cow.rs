//! Copy-on-write: after a fork each side sees its own writes and not the other's, whoever writes, however.

use crate::case::{Case, Outcome, cases, holds, same};
use crate::kernel::*;

const PAGE: usize = 4096;

pub const CASES: &[Case] = cases![
    writes_of_the_child_stay_in_the_child,
    writes_of_the_parent_stay_in_the_parent,
    shared_memory_is_seen_both_ways,
    private_file_mapping_leaves_the_file,
    shared_file_mapping_reaches_the_file_after_fork,
    three_generations_have_their_own,
    kernel_writes_break_sharing_too,
    memory_survives_its_unmapping_in_the_parent,
    protection_is_each_sides_own,
    two_thousand_pages_written_alternately,
    untouched_memory_is_zero_on_both_sides,
    last_sharer_writes_in_place,
    dontneed_in_the_child_leaves_the_parent,
    dontfork_memory_is_missing_in_the_child,
    wipeonfork_memory_is_zero_in_the_child,
    stack_is_copied,
    ten_siblings_write_the_same_page,
    unaligned_write_across_two_shared_pages,
];

fn writes_of_the_child_stay_in_the_child() -> Outcome {
    let page = memory(PAGE)?;
    poke(page, 1u32);
    let pid = child(|| {
        poke(page, 2u32);
        (peek::<u32>(page) != 2).into()
    })?;
    same!(status(pid)?, 0);
    same!(peek::<u32>(page), 1);
    Ok(())
}

fn writes_of_the_parent_stay_in_the_parent() -> Outcome {
    let page = memory(PAGE)?;
    let words = Shared::new()?;
    poke(page, 1u32);
    let pid = child(|| {
        words.wait_for(0, 1);
        (peek::<u32>(page) != 1).into()
    })?;
    poke(page, 3u32);
    words.set(0, 1);
    same!(status(pid)?, 0);
    same!(peek::<u32>(page), 3);
    Ok(())
}

fn shared_memory_is_seen_both_ways() -> Outcome {
    let words = Shared::new()?;
    let pid = child(|| {
        words.set(0, 11);
        (!words.wait_for(1, 22)).into()
    })?;
    holds!(words.wait_for(0, 11));
    words.set(1, 22);
    same!(status(pid)?, 0);
    Ok(())
}

fn private_file_mapping_leaves_the_file() -> Outcome {
    file("f", &[b'a'; PAGE])?;
    let fd = open("f", O_RDWR, 0)?;
    let page = sys!(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0)?;
    let pid = child(|| {
        poke(page, b'b');
        0
    })?;
    same!(status(pid)?, 0);
    same!(peek::<u8>(page), b'a');
    poke(page, b'c');
    same!(content("f")?[0], b'a');
    Ok(())
}

fn shared_file_mapping_reaches_the_file_after_fork() -> Outcome {
    file("f", &[b'a'; PAGE])?;
    let fd = open("f", O_RDWR, 0)?;
    let page = sys!(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
    let pid = child(|| {
        poke(page + 9, b'b');
        0
    })?;
    same!(status(pid)?, 0);
    same!(peek::<u8>(page + 9), b'b');
    same!(content("f")?[9], b'b');
    Ok(())
}

fn three_generations_have_their_own() -> Outcome {
    let page = memory(PAGE)?;
    poke(page, 1u32);
    let pid = trial(|| {
        poke(page, 2u32);
        let pid = trial(|| {
            same!(peek::<u32>(page), 2);
            poke(page, 3u32);
            let pid = trial(|| {
                same!(peek::<u32>(page), 3);
                poke(page, 4u32);
                Ok(())
            })?;
            same!(status(pid)?, 0);
            same!(peek::<u32>(page), 3);
            Ok(())
        })?;
        same!(status(pid)?, 0);
        same!(peek::<u32>(page), 2);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    same!(peek::<u32>(page), 1);
    Ok(())
}

fn kernel_writes_break_sharing_too() -> Outcome {
    let page = memory(PAGE)?;
    poke(page, *b"old!");
    let (reader, writer) = pipe(0)?;
    write(writer, b"new!")?;
    let pid = trial(|| {
        same!(sys!(SYS_read, reader, page, 4)?, 4);
        same!(peek::<[u8; 4]>(page), *b"new!");
        Ok(())
    })?;
    same!(status(pid)?, 0);
    same!(peek::<[u8; 4]>(page), *b"old!");
    Ok(())
}

fn memory_survives_its_unmapping_in_the_parent() -> Outcome {
    let page = memory(PAGE)?;
    let words = Shared::new()?;
    poke(page, 5u32);
    let pid = child(|| {
        words.wait_for(0, 1);
        (peek::<u32>(page) != 5).into()
    })?;
    sys!(SYS_munmap, page, PAGE)?;
    words.set(0, 1);
    same!(status(pid)?, 0);
    Ok(())
}

fn protection_is_each_sides_own() -> Outcome {
    let page = memory(PAGE)?;
    poke(page, 5u32);
    let words = Shared::new()?;
    let pid = child(|| {
        words.wait_for(0, 1);
        poke(page, 6u32);
        0
    })?;
    sys!(SYS_mprotect, page, PAGE, PROT_READ)?;
    words.set(0, 1);
    same!(status(pid)?, 0);
    same!(fate(|| poke(page, 7u32))?, 128 + SIGSEGV);
    Ok(())
}

fn two_thousand_pages_written_alternately() -> Outcome {
    const PAGES: usize = 2000;
    let base = memory(PAGES * PAGE)?;
    for page in 0..PAGES {
        poke(base + page * PAGE, page as u32);
    }
    let words = Shared::new()?;
    let check = |mine: usize, value: u32| {
        for page in 0..PAGES {
            let expected = if page % 3 == mine { value + page as u32 } else { page as u32 };
            same!(peek::<u32>(base + page * PAGE), expected);
        }
        Ok(())
    };
    let pid = trial(|| {
        for page in (1..PAGES).step_by(3) {
            poke(base + page * PAGE, 10_000 + page as u32);
        }
        words.set(0, 1);
        words.wait_for(1, 1);
        check(1, 10_000)
    })?;
    for page in (2..PAGES).step_by(3) {
        poke(base + page * PAGE, 20_000 + page as u32);
    }
    words.set(1, 1);
    words.wait_for(0, 1);
    check(2, 20_000)?;
    same!(status(pid)?, 0);
    check(2, 20_000)
}

fn untouched_memory_is_zero_on_both_sides() -> Outcome {
    let page = memory(2 * PAGE)?;
    // Read, so that both may share the one page of zeroes.
    same!(peek::<u64>(page), 0);
    let pid = trial(|| {
        poke(page, 9u64);
        same!(peek::<u64>(page + PAGE), 0);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    same!((peek::<u64>(page), peek::<u64>(page + PAGE)), (0, 0));
    Ok(())
}

fn last_sharer_writes_in_place() -> Outcome {
    let page = memory(PAGE)?;
    poke(page, 1u32);
    for round in 2..50u32 {
        same!(status(child(|| 0)?)?, 0);
        poke(page, round);
        same!(peek::<u32>(page), round);
    }
    Ok(())
}

fn dontneed_in_the_child_leaves_the_parent() -> Outcome {
    let page = memory(PAGE)?;
    poke(page, 8u32);
    let pid = trial(|| {
        sys!(SYS_madvise, page, PAGE, MADV_DONTNEED)?;
        same!(peek::<u32>(page), 0);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    same!(peek::<u32>(page), 8);
    Ok(())
}

fn dontfork_memory_is_missing_in_the_child() -> Outcome {
    let page = memory(PAGE)?;
    poke(page, 8u32);
    sys!(SYS_madvise, page, PAGE, MADV_DONTFORK)?;
    same!(fate(|| touch(page))?, 128 + SIGSEGV);
    sys!(SYS_madvise, page, PAGE, MADV_DOFORK)?;
    same!(fate(|| touch(page))?, 0);
    Ok(())
}

fn wipeonfork_memory_is_zero_in_the_child() -> Outcome {
    let page = memory(PAGE)?;
    poke(page, 8u32);
    sys!(SYS_madvise, page, PAGE, MADV_WIPEONFORK)?;
    let pid = child(|| (peek::<u32>(page) != 0).into())?;
    same!(status(pid)?, 0);
    same!(peek::<u32>(page), 8);
    Ok(())
}

fn stack_is_copied() -> Outcome {
    let local = [1u8; 20_000];
    let address = &raw const local as usize;
    let pid = child(|| {
        poke(address + 10_000, 2u8);
        (peek::<u8>(address + 10_000) != 2).into()
    })?;
    same!(status(pid)?, 0);
    same!(peek::<u8>(address + 10_000), 1);
    Ok(())
}

fn ten_siblings_write_the_same_page() -> Outcome {
    let page = memory(PAGE)?;
    let words = Shared::new()?;
    let mut pids = Vec::new();
    for number in 1..=10u32 {
        pids.push(child(|| {
            poke(page, number);
            words.word(0).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            words.wait_for(0, 10);
            (peek::<u32>(page) != number).into()
        })?);
    }
    for pid in pids {
        same!(status(pid)?, 0);
    }
    same!(peek::<u32>(page), 0);
    Ok(())
}

fn unaligned_write_across_two_shared_pages() -> Outcome {
    let base = memory(2 * PAGE)?;
    poke(base, 1u8);
    poke(base + PAGE, 1u8);
    let pid = trial(|| {
        let (reader, writer) = pipe(0)?;
        write(writer, &[0xab; 100])?;
        same!(sys!(SYS_read, reader, base + PAGE - 50, 100)?, 100);
        same!((peek::<u8>(base + PAGE - 1), peek::<u8>(base + PAGE)), (0xab, 0xab));
        Ok(())
    })?;
    same!(status(pid)?, 0);
    same!((peek::<u8>(base + PAGE - 1), peek::<u8>(base + PAGE)), (0, 1));
    Ok(())
}
