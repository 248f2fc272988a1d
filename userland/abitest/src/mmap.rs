//! mmap(2), munmap(2), mprotect(2), mremap(2), madvise(2), mincore(2), brk(2).

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

const PAGE: usize = 4096;
const RW: i32 = PROT_READ | PROT_WRITE;
const ANONYMOUS: i32 = MAP_PRIVATE | MAP_ANONYMOUS;

pub const CASES: &[Case] = cases![
    anonymous_memory_is_zero,
    mappings_are_page_aligned_and_apart,
    hint_is_taken_when_free,
    fixed_replaces,
    fixed_noreplace_is_eexist,
    bad_arguments_are_einval,
    low_addresses_are_eperm_for_users,
    unmapping_the_middle_leaves_the_ends,
    unmapping_nothing_is_success,
    protecting_the_middle_splits,
    protecting_a_hole_is_enomem,
    write_only_pages_can_be_written,
    code_can_be_written_then_run,
    file_pages_come_from_the_file,
    file_offset_must_be_aligned,
    file_permissions_limit_the_mapping,
    shared_mapping_sees_write_calls,
    shared_mapping_outlives_the_descriptor,
    end_of_the_last_page_is_zero,
    mremap_grows_in_place_or_moves,
    mremap_shrinks,
    mremap_to_a_fixed_place,
    mremap_bad_arguments,
    dontneed_zeroes_anonymous_memory,
    dontneed_rereads_a_private_file_page,
    madvise_of_a_hole_is_enomem,
    mincore_tells_what_is_there,
    mincore_of_a_hole_is_enomem,
    brk_grows_and_shrinks,
    brk_does_not_run_into_a_mapping,
    stack_grows_down,
    stack_limit_holds,
    address_space_limit_is_enomem,
    absurd_size_is_enomem,
    many_mappings,
    maps_file_lists_a_mapping,
    msync_of_a_hole_is_enomem,
    null_page_is_never_mapped_by_itself,
    grown_file_shows_through_a_mapping,
    mlock_and_munlock,
    populate_and_dontdump_are_accepted,
];

fn anonymous_memory_is_zero() -> Outcome {
    let base = memory(64 * PAGE)?;
    for word in (base..base + 64 * PAGE).step_by(512) {
        same!(peek::<u64>(word), 0);
    }
    Ok(())
}

fn mappings_are_page_aligned_and_apart() -> Outcome {
    let mut bases = Vec::new();
    for _ in 0..20 {
        bases.push(memory(3 * PAGE - 100)?);
    }
    bases.sort_unstable();
    holds!(bases.iter().all(|base| base % PAGE == 0));
    holds!(bases.windows(2).all(|pair| pair[1] - pair[0] >= 3 * PAGE));
    Ok(())
}

fn hint_is_taken_when_free() -> Outcome {
    let base = memory(16 * PAGE)?;
    sys!(SYS_munmap, base + 4 * PAGE, 4 * PAGE)?;
    same!(map(base + 5 * PAGE, PAGE, RW, ANONYMOUS)?, base + 5 * PAGE);
    holds!(map(base, PAGE, RW, ANONYMOUS)? != base);
    Ok(())
}

fn fixed_replaces() -> Outcome {
    let base = memory(3 * PAGE)?;
    for page in 0..3 {
        poke(base + page * PAGE, 5u8);
    }
    same!(map(base + PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED)?, base + PAGE);
    same!((peek::<u8>(base), peek::<u8>(base + PAGE), peek::<u8>(base + 2 * PAGE)), (5, 0, 5));
    Ok(())
}

fn fixed_noreplace_is_eexist() -> Outcome {
    let base = memory(3 * PAGE)?;
    fails!(map(base + PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE), EEXIST);
    sys!(SYS_munmap, base + PAGE, PAGE)?;
    same!(map(base + PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE)?, base + PAGE);
    Ok(())
}

fn bad_arguments_are_einval() -> Outcome {
    fails!(map(0, 0, RW, ANONYMOUS), EINVAL);
    fails!(map(0, PAGE, RW, MAP_ANONYMOUS), EINVAL);
    fails!(map(1, PAGE, RW, ANONYMOUS | MAP_FIXED), EINVAL);
    fails!(sys!(SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, -1, 0), EBADF);
    let base = memory(PAGE)?;
    fails!(sys!(SYS_munmap, base + 1, PAGE), EINVAL);
    fails!(sys!(SYS_munmap, base, 0), EINVAL);
    fails!(sys!(SYS_mprotect, base + 1, PAGE, RW), EINVAL);
    fails!(sys!(SYS_mprotect, base, PAGE, 0x4000_0000), EINVAL);
    fails!(sys!(SYS_madvise, base, PAGE, 999), EINVAL);
    fails!(sys!(SYS_msync, base, PAGE, MS_SYNC | MS_ASYNC), EINVAL);
    Ok(())
}

fn low_addresses_are_eperm_for_users() -> Outcome {
    let pid = trial(|| {
        become_user()?;
        fails!(map(0, PAGE, RW, ANONYMOUS | MAP_FIXED), EPERM);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn unmapping_the_middle_leaves_the_ends() -> Outcome {
    let base = memory(5 * PAGE)?;
    for page in 0..5 {
        poke(base + page * PAGE, page as u8 + 1);
    }
    sys!(SYS_munmap, base + 2 * PAGE, PAGE)?;
    same!((peek::<u8>(base + PAGE), peek::<u8>(base + 3 * PAGE)), (2, 4));
    same!(fate(|| touch(base + 2 * PAGE))?, 128 + SIGSEGV);
    Ok(())
}

fn unmapping_nothing_is_success() -> Outcome {
    let base = memory(4 * PAGE)?;
    sys!(SYS_munmap, base, 4 * PAGE)?;
    same!(sys!(SYS_munmap, base, 4 * PAGE)?, 0);
    Ok(())
}

fn protecting_the_middle_splits() -> Outcome {
    let base = memory(5 * PAGE)?;
    poke(base + 2 * PAGE, 7u8);
    sys!(SYS_mprotect, base + 2 * PAGE, PAGE, PROT_READ)?;
    same!(peek::<u8>(base + 2 * PAGE), 7);
    same!(fate(|| poke(base + 2 * PAGE, 1u8))?, 128 + SIGSEGV);
    same!(fate(|| poke(base + PAGE, 1u8))?, 0);
    same!(fate(|| poke(base + 3 * PAGE, 1u8))?, 0);
    sys!(SYS_mprotect, base + 2 * PAGE, PAGE, RW)?;
    poke(base + 2 * PAGE, 8u8);
    Ok(())
}

fn protecting_a_hole_is_enomem() -> Outcome {
    let base = memory(3 * PAGE)?;
    sys!(SYS_munmap, base + PAGE, PAGE)?;
    fails!(sys!(SYS_mprotect, base, 3 * PAGE, PROT_READ), ENOMEM);
    Ok(())
}

fn write_only_pages_can_be_written() -> Outcome {
    let base = map(0, PAGE, PROT_WRITE, ANONYMOUS)?;
    poke(base, 1u8);
    Ok(())
}

fn code_can_be_written_then_run() -> Outcome {
    #[cfg(target_arch = "aarch64")]
    let code: &[u8] = &[0x40, 0x05, 0x80, 0xd2, 0xc0, 0x03, 0x5f, 0xd6]; // mov x0, #42; ret
    #[cfg(target_arch = "x86_64")]
    let code: &[u8] = &[0xb8, 42, 0, 0, 0, 0xc3]; // mov eax, 42; ret
    let base = memory(PAGE)?;
    for (offset, &byte) in code.iter().enumerate() {
        poke(base + offset, byte);
    }
    sys!(SYS_mprotect, base, PAGE, PROT_READ | PROT_EXEC)?;
    same!(jump(base) & 0xffff_ffff, 42);
    Ok(())
}

fn numbered_file(pages: usize) -> Result<i32> {
    let bytes: Vec<u8> = (0..pages).flat_map(|page| [page as u8 + 1; PAGE]).collect();
    file("f", &bytes)?;
    open("f", O_RDWR, 0)
}

fn file_pages_come_from_the_file() -> Outcome {
    let fd = numbered_file(20)?;
    let base = sys!(SYS_mmap, 0, 10 * PAGE, PROT_READ, MAP_PRIVATE, fd, 5 * PAGE)?;
    for page in [9, 0, 5, 1] {
        same!(peek::<u8>(base + page * PAGE + 100), page as u8 + 6);
    }
    Ok(())
}

fn file_offset_must_be_aligned() -> Outcome {
    let fd = numbered_file(2)?;
    fails!(sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, fd, 100), EINVAL);
    Ok(())
}

fn file_permissions_limit_the_mapping() -> Outcome {
    numbered_file(1)?;
    let reads = open("f", O_RDONLY, 0)?;
    let writes = open("f", O_WRONLY, 0)?;
    fails!(sys!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, reads, 0), EACCES);
    fails!(sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, writes, 0), EACCES);
    sys!(SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, reads, 0)?;
    let shared = sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, reads, 0)?;
    fails!(sys!(SYS_mprotect, shared, PAGE, RW), EACCES);
    let (reader, _) = pipe(0)?;
    fails!(sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, reader, 0), ENODEV);
    Ok(())
}

fn shared_mapping_sees_write_calls() -> Outcome {
    let fd = numbered_file(2)?;
    let base = sys!(SYS_mmap, 0, 2 * PAGE, RW, MAP_SHARED, fd, 0)?;
    same!(peek::<u8>(base), 1);
    sys!(SYS_pwrite64, fd, b"XY".as_ptr(), 2, 0)?;
    same!(peek::<[u8; 2]>(base), *b"XY");
    poke(base + PAGE, b'Z');
    let mut byte = [0u8];
    sys!(SYS_pread64, fd, byte.as_mut_ptr(), 1, PAGE)?;
    same!(byte[0], b'Z');
    same!(sys!(SYS_msync, base, 2 * PAGE, MS_SYNC)?, 0);
    Ok(())
}

fn shared_mapping_outlives_the_descriptor() -> Outcome {
    let fd = numbered_file(1)?;
    let base = sys!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, 0)?;
    close(fd)?;
    unlink("f")?;
    same!(peek::<u8>(base), 1);
    poke(base, 9u8);
    same!(peek::<u8>(base), 9);
    Ok(())
}

fn end_of_the_last_page_is_zero() -> Outcome {
    file("f", &[7; 100])?;
    let fd = open("f", O_RDWR, 0)?;
    let base = sys!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, 0)?;
    same!((peek::<u8>(base + 99), peek::<u8>(base + 100), peek::<u8>(base + PAGE - 1)), (7, 0, 0));
    // What is written there never reaches the file.
    poke(base + 200, 1u8);
    same!(content("f")?.len(), 100);
    Ok(())
}

fn mremap_grows_in_place_or_moves() -> Outcome {
    let base = memory(4 * PAGE)?;
    for page in 0..4 {
        poke(base + page * PAGE, page as u8 + 1);
    }
    map(base + 4 * PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED)?;
    fails!(sys!(SYS_mremap, base, 4 * PAGE, 64 * PAGE, 0, 0), ENOMEM);
    let moved = sys!(SYS_mremap, base, 4 * PAGE, 64 * PAGE, MREMAP_MAYMOVE, 0)?;
    for page in 0..4 {
        same!(peek::<u8>(moved + page * PAGE), page as u8 + 1);
    }
    same!(peek::<u8>(moved + 63 * PAGE), 0);
    same!(fate(|| touch(base))?, 128 + SIGSEGV);
    Ok(())
}

fn mremap_shrinks() -> Outcome {
    let base = memory(4 * PAGE)?;
    poke(base, 1u8);
    same!(sys!(SYS_mremap, base, 4 * PAGE, PAGE, 0, 0)?, base);
    same!(peek::<u8>(base), 1);
    same!(fate(|| touch(base + PAGE))?, 128 + SIGSEGV);
    Ok(())
}

fn mremap_to_a_fixed_place() -> Outcome {
    let from = memory(2 * PAGE)?;
    let to = memory(2 * PAGE)?;
    poke(from + PAGE, 3u8);
    poke(to + PAGE, 4u8);
    same!(sys!(SYS_mremap, from, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to)?, to);
    same!(peek::<u8>(to + PAGE), 3);
    Ok(())
}

fn mremap_bad_arguments() -> Outcome {
    let base = memory(2 * PAGE)?;
    fails!(sys!(SYS_mremap, base + 1, PAGE, PAGE, 0, 0), EINVAL);
    fails!(sys!(SYS_mremap, base, PAGE, 0, 0, 0), EINVAL);
    fails!(sys!(SYS_mremap, base, PAGE, PAGE, 0x80, 0), EINVAL);
    fails!(sys!(SYS_mremap, base, PAGE, PAGE, MREMAP_FIXED, base), EINVAL);
    sys!(SYS_munmap, base, PAGE)?;
    fails!(sys!(SYS_mremap, base, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0), EFAULT);
    Ok(())
}

fn dontneed_zeroes_anonymous_memory() -> Outcome {
    let base = memory(3 * PAGE)?;
    for page in 0..3 {
        poke(base + page * PAGE, 5u8);
    }
    sys!(SYS_madvise, base + PAGE, PAGE, MADV_DONTNEED)?;
    same!((peek::<u8>(base), peek::<u8>(base + PAGE), peek::<u8>(base + 2 * PAGE)), (5, 0, 5));
    Ok(())
}

fn dontneed_rereads_a_private_file_page() -> Outcome {
    let fd = numbered_file(1)?;
    let base = sys!(SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, fd, 0)?;
    poke(base, 99u8);
    sys!(SYS_madvise, base, PAGE, MADV_DONTNEED)?;
    same!(peek::<u8>(base), 1);
    Ok(())
}

fn madvise_of_a_hole_is_enomem() -> Outcome {
    let base = memory(3 * PAGE)?;
    sys!(SYS_munmap, base + PAGE, PAGE)?;
    poke(base + 2 * PAGE, 5u8);
    fails!(sys!(SYS_madvise, base, 3 * PAGE, MADV_DONTNEED), ENOMEM);
    // It did what it could.
    same!(peek::<u8>(base + 2 * PAGE), 0);
    Ok(())
}

fn mincore_tells_what_is_there() -> Outcome {
    let base = memory(4 * PAGE)?;
    poke(base + PAGE, 1u8);
    let mut there = [9u8; 4];
    sys!(SYS_mincore, base, 4 * PAGE, there.as_mut_ptr())?;
    same!(there.map(|byte| byte & 1), [0, 1, 0, 0]);
    fails!(sys!(SYS_mincore, base + 1, PAGE, there.as_mut_ptr()), EINVAL);
    fails!(sys!(SYS_mincore, base, PAGE, 8), EFAULT);
    Ok(())
}

fn mincore_of_a_hole_is_enomem() -> Outcome {
    let base = memory(2 * PAGE)?;
    sys!(SYS_munmap, base + PAGE, PAGE)?;
    fails!(sys!(SYS_mincore, base, 2 * PAGE, [0u8; 2].as_mut_ptr()), ENOMEM);
    Ok(())
}

fn brk_grows_and_shrinks() -> Outcome {
    let start = sys!(SYS_brk, 0)?;
    let end = start + 10 * PAGE;
    same!(sys!(SYS_brk, end)?, end);
    same!(peek::<u8>(end - 1), 0);
    poke(end - 1, 1u8);
    same!(sys!(SYS_brk, start)?, start);
    let first = start.next_multiple_of(PAGE);
    same!(fate(|| touch(first + PAGE))?, 128 + SIGSEGV);
    // What comes back is zero again.
    same!(sys!(SYS_brk, end)?, end);
    same!(peek::<u8>(end - 1), 0);
    // Nonsense leaves it where it is.
    same!(sys!(SYS_brk, 1)?, end);
    Ok(())
}

fn brk_does_not_run_into_a_mapping() -> Outcome {
    let start = sys!(SYS_brk, 0)?.next_multiple_of(PAGE);
    map(start + 16 * PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE)?;
    let before = sys!(SYS_brk, 0)?;
    same!(sys!(SYS_brk, start + 64 * PAGE)?, before);
    Ok(())
}

#[inline(never)]
fn descend(depth: usize) -> usize {
    let mut frame = [depth as u8; 1024];
    if depth == 0 {
        return 0;
    }
    let deeper = descend(depth - 1);
    poke(&raw mut frame[depth % 1024] as usize, 1u8);
    deeper + 1
}

fn stack_grows_down() -> Outcome {
    same!(descend(4000), 4000);
    Ok(())
}

fn stack_limit_holds() -> Outcome {
    limit(RLIMIT_STACK, 512 << 10, 512 << 10)?;
    same!(fate(|| descend(100))?, 0);
    same!(fate(|| descend(4000))?, 128 + SIGSEGV);
    Ok(())
}

fn address_space_limit_is_enomem() -> Outcome {
    let now = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = now.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    holds!(pages > 0);
    let most = pages * PAGE as u64 + (1 << 20);
    limit(RLIMIT_AS, most, most)?;
    memory(512 << 10)?;
    fails!(memory(2 << 20), ENOMEM);
    Ok(())
}

fn absurd_size_is_enomem() -> Outcome {
    fails!(memory(1 << 60), ENOMEM);
    fails!(memory(usize::MAX - PAGE), ENOMEM);
    Ok(())
}

fn many_mappings() -> Outcome {
    const COUNT: usize = 2000;
    let base = map(0, 2 * COUNT * PAGE, PROT_NONE, ANONYMOUS)?;
    for n in 0..COUNT {
        sys!(SYS_mprotect, base + 2 * n * PAGE, PAGE, RW)?;
        poke(base + 2 * n * PAGE, n as u16);
    }
    for n in 0..COUNT {
        same!(peek::<u16>(base + 2 * n * PAGE), n as u16);
    }
    sys!(SYS_munmap, base, 2 * COUNT * PAGE)?;
    Ok(())
}

fn maps_file_lists_a_mapping() -> Outcome {
    let fd = numbered_file(2)?;
    let base = sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, PAGE)?;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let start = format!("{base:08x}-{:08x} r--s 00001000 ", base + PAGE);
    holds!(maps.lines().any(|line| line.starts_with(&start) && line.ends_with("/f")));
    holds!(maps.lines().any(|line| line.ends_with("[stack]")));
    Ok(())
}

fn msync_of_a_hole_is_enomem() -> Outcome {
    let base = memory(2 * PAGE)?;
    sys!(SYS_munmap, base + PAGE, PAGE)?;
    fails!(sys!(SYS_msync, base, 2 * PAGE, MS_ASYNC), ENOMEM);
    Ok(())
}

fn null_page_is_never_mapped_by_itself() -> Outcome {
    let base = map(0x10, PAGE, RW, ANONYMOUS)?;
    holds!(base >= 0x10000 || base >= PAGE);
    same!(fate(|| touch(0))?, 128 + SIGSEGV);
    Ok(())
}

fn grown_file_shows_through_a_mapping() -> Outcome {
    let fd = numbered_file(1)?;
    let base = sys!(SYS_mmap, 0, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0)?;
    sys!(SYS_pwrite64, fd, b"grown".as_ptr(), 5, PAGE)?;
    same!(peek::<[u8; 5]>(base + PAGE), *b"grown");
    Ok(())
}

fn mlock_and_munlock() -> Outcome {
    let base = memory(4 * PAGE)?;
    sys!(SYS_mlock, base, 4 * PAGE)?;
    let mut there = [0u8; 4];
    sys!(SYS_mincore, base, 4 * PAGE, there.as_mut_ptr())?;
    same!(there.map(|byte| byte & 1), [1; 4]);
    sys!(SYS_munlock, base, 4 * PAGE)?;
    sys!(SYS_munmap, base + PAGE, PAGE)?;
    fails!(sys!(SYS_mlock, base, 4 * PAGE), ENOMEM);
    Ok(())
}

fn populate_and_dontdump_are_accepted() -> Outcome {
    let base = map(0, 4 * PAGE, RW, ANONYMOUS | MAP_POPULATE | MAP_NORESERVE | MAP_STACK)?;
    let mut there = [0u8; 4];
    sys!(SYS_mincore, base, 4 * PAGE, there.as_mut_ptr())?;
    same!(there.map(|byte| byte & 1), [1; 4]);
    for advice in [MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTDUMP, MADV_DODUMP] {
        same!(sys!(SYS_madvise, base, PAGE, advice)?, 0);
    }
    Ok(())
}
