//! memfd_create(2) and the seals of fcntl(2).

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    is_an_unlinked_regular_file,
    names_are_shown_and_limited,
    bad_flags_are_einval,
    without_allow_sealing_it_is_sealed,
    fresh_seals_are_none,
    seals_add_up_and_stay,
    unknown_seals_are_einval,
    seal_seal_ends_sealing,
    sealing_needs_write_access,
    shrink_seal,
    grow_seal,
    grow_seal_lets_the_old_range_be_written,
    grow_seal_cuts_a_write_at_a_page,
    write_seal,
    write_seal_is_ebusy_while_mapped,
    private_mappings_do_not_count,
    future_write_seal_keeps_the_old_mapping,
    future_write_seal_refuses_new_ones,
    sealed_mapping_cannot_become_writable,
    hole_punching_and_seals,
    seals_are_the_files_not_the_descriptors,
    seals_survive_a_reopen,
    other_files_have_no_seals,
    sendfile_and_seals,
    mapping_is_shared_with_the_file,
    growing_by_ftruncate_and_fallocate,
    secret_memory_is_not_there,
];

const ADD: i32 = F_ADD_SEALS;

fn memfd(name: &str, flags: u32) -> Result<i32> {
    sys!(SYS_memfd_create, path(name).as_ptr(), flags).map(|fd| fd as i32)
}

/// One that can be sealed, with `length` bytes.
fn sealable(length: usize) -> Result<i32> {
    let fd = memfd("m", MFD_ALLOW_SEALING | MFD_CLOEXEC)?;
    sys!(SYS_ftruncate, fd, length)?;
    Ok(fd)
}

fn seal(fd: i32, seals: i32) -> Result<usize> {
    sys!(SYS_fcntl, fd, ADD, seals)
}

fn seals(fd: i32) -> Result<i32> {
    sys!(SYS_fcntl, fd, F_GET_SEALS).map(|seals| seals as i32)
}

fn map_file(fd: i32, protection: i32, flags: i32) -> Result<usize> {
    sys!(SYS_mmap, 0, 4096, protection, flags, fd, 0)
}

fn pwrite(fd: i32, bytes: &[u8], at: usize) -> Result<usize> {
    sys!(SYS_pwrite64, fd, bytes.as_ptr(), bytes.len(), at)
}

fn is_an_unlinked_regular_file() -> Outcome {
    let fd = memfd("m", 0)?;
    let stat = fstat(fd)?;
    same!((stat.st_mode, stat.st_nlink as u64, stat.st_size), (S_IFREG | 0o777, 0, 0));
    same!(sys!(SYS_fcntl, fd, F_GETFL)? & 3, O_RDWR as usize);
    same!(sys!(SYS_fcntl, fd, F_GETFD)?, 0);
    same!(sys!(SYS_fcntl, memfd("m", MFD_CLOEXEC)?, F_GETFD)?, 1);
    same!(write(fd, b"abc")?, 3);
    sys!(SYS_lseek, fd, 0, SEEK_SET)?;
    same!(rest(fd)?, b"abc");
    Ok(())
}

fn names_are_shown_and_limited() -> Outcome {
    let fd = memfd("a name", 0)?;
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|_| Errno(EIO))?;
    same!(link.display().to_string(), "/memfd:a name (deleted)");
    memfd("", 0)?;
    memfd(&"x".repeat(249), 0)?;
    fails!(memfd(&"x".repeat(250), 0), EINVAL);
    fails!(sys!(SYS_memfd_create, 8, 0), EFAULT);
    Ok(())
}

fn bad_flags_are_einval() -> Outcome {
    fails!(memfd("m", 0x20), EINVAL);
    fails!(memfd("m", 0x8000_0000), EINVAL);
    fails!(sys!(SYS_memfd_create, 8, 0x20), EINVAL);
    Ok(())
}

fn without_allow_sealing_it_is_sealed() -> Outcome {
    let fd = memfd("m", 0)?;
    same!(seals(fd)?, F_SEAL_SEAL);
    fails!(seal(fd, F_SEAL_GROW), EPERM);
    Ok(())
}

fn fresh_seals_are_none() -> Outcome {
    same!(seals(sealable(0)?)?, 0);
    Ok(())
}

fn seals_add_up_and_stay() -> Outcome {
    let fd = sealable(10)?;
    seal(fd, F_SEAL_GROW)?;
    seal(fd, F_SEAL_SHRINK)?;
    seal(fd, 0)?;
    seal(fd, F_SEAL_GROW)?;
    same!(seals(fd)?, F_SEAL_GROW | F_SEAL_SHRINK);
    Ok(())
}

fn unknown_seals_are_einval() -> Outcome {
    let fd = sealable(0)?;
    fails!(seal(fd, 0x40), EINVAL);
    fails!(seal(fd, F_SEAL_GROW | 0x1000), EINVAL);
    fails!(seal(fd, -1), EINVAL);
    same!(seals(fd)?, 0);
    Ok(())
}

fn seal_seal_ends_sealing() -> Outcome {
    let fd = sealable(0)?;
    seal(fd, F_SEAL_SEAL | F_SEAL_GROW)?;
    fails!(seal(fd, F_SEAL_SHRINK), EPERM);
    fails!(seal(fd, 0), EPERM);
    fails!(seal(fd, 0x40), EINVAL);
    Ok(())
}

fn sealing_needs_write_access() -> Outcome {
    let fd = sealable(0)?;
    let reader = open(&format!("/proc/self/fd/{fd}"), O_RDONLY, 0)?;
    fails!(seal(reader, F_SEAL_GROW), EPERM);
    fails!(seal(reader, 0x40), EPERM);
    same!(seals(reader)?, 0);
    Ok(())
}

fn shrink_seal() -> Outcome {
    let fd = sealable(100)?;
    seal(fd, F_SEAL_SHRINK)?;
    fails!(sys!(SYS_ftruncate, fd, 99), EPERM);
    same!(sys!(SYS_ftruncate, fd, 100)?, 0);
    same!(sys!(SYS_ftruncate, fd, 200)?, 0);
    fails!(sys!(SYS_ftruncate, fd, 199), EPERM);
    fails!(open(&format!("/proc/self/fd/{fd}"), O_RDWR | O_TRUNC, 0), EPERM);
    same!(fstat(fd)?.st_size, 200);
    Ok(())
}

fn grow_seal() -> Outcome {
    let fd = sealable(100)?;
    seal(fd, F_SEAL_GROW)?;
    fails!(sys!(SYS_ftruncate, fd, 101), EPERM);
    fails!(pwrite(fd, b"x", 100), EPERM);
    fails!(sys!(SYS_fallocate, fd, 0, 0, 101), EPERM);
    same!(sys!(SYS_fallocate, fd, 0, 0, 100)?, 0);
    same!(sys!(SYS_ftruncate, fd, 50)?, 0);
    fails!(sys!(SYS_ftruncate, fd, 51), EPERM);
    Ok(())
}

fn grow_seal_lets_the_old_range_be_written() -> Outcome {
    let fd = sealable(100)?;
    seal(fd, F_SEAL_GROW)?;
    same!(pwrite(fd, b"abc", 97)?, 3);
    fails!(pwrite(fd, b"abcd", 97), EPERM);
    Ok(())
}

fn grow_seal_cuts_a_write_at_a_page() -> Outcome {
    let fd = sealable(8192)?;
    seal(fd, F_SEAL_GROW)?;
    same!(pwrite(fd, &[7; 5000], 8192 - 4096)?, 4096);
    fails!(pwrite(fd, &[7; 10], 8192), EPERM);
    Ok(())
}

fn write_seal() -> Outcome {
    let fd = sealable(4096)?;
    pwrite(fd, b"abc", 0)?;
    seal(fd, F_SEAL_WRITE)?;
    fails!(pwrite(fd, b"x", 0), EPERM);
    fails!(write(fd, b"x"), EPERM);
    same!(write(fd, b"")?, 0);
    fails!(map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED), EPERM);
    let private = map_file(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE)?;
    poke(private, b'X');
    same!(sys!(SYS_ftruncate, fd, 8192)?, 0);
    same!(sys!(SYS_ftruncate, fd, 10)?, 0);
    let mut first = [0; 3];
    same!(read(fd, &mut first)?, 3);
    same!(&first, b"abc");
    Ok(())
}

fn write_seal_is_ebusy_while_mapped() -> Outcome {
    let fd = sealable(4096)?;
    for protection in [PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE] {
        let at = map_file(fd, protection, MAP_SHARED)?;
        fails!(seal(fd, F_SEAL_WRITE), EBUSY);
        fails!(seal(fd, F_SEAL_WRITE | F_SEAL_GROW), EBUSY);
        same!(seals(fd)?, 0);
        sys!(SYS_munmap, at, 4096)?;
    }
    seal(fd, F_SEAL_WRITE)?;
    Ok(())
}

fn private_mappings_do_not_count() -> Outcome {
    let fd = sealable(4096)?;
    let reader = open(&format!("/proc/self/fd/{fd}"), O_RDONLY, 0)?;
    map_file(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE)?;
    map_file(reader, PROT_READ, MAP_SHARED)?;
    seal(fd, F_SEAL_WRITE)?;
    Ok(())
}

fn future_write_seal_keeps_the_old_mapping() -> Outcome {
    let fd = sealable(4096)?;
    let at = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED)?;
    seal(fd, F_SEAL_FUTURE_WRITE)?;
    poke(at, b'Z');
    let mut first = [0];
    read(fd, &mut first)?;
    same!(first, [b'Z']);
    fails!(pwrite(fd, b"x", 0), EPERM);
    fails!(seal(fd, F_SEAL_WRITE), EBUSY);
    sys!(SYS_munmap, at, 4096)?;
    seal(fd, F_SEAL_WRITE)?;
    same!(seals(fd)?, F_SEAL_FUTURE_WRITE | F_SEAL_WRITE);
    Ok(())
}

fn future_write_seal_refuses_new_ones() -> Outcome {
    let fd = sealable(4096)?;
    seal(fd, F_SEAL_FUTURE_WRITE)?;
    fails!(map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED), EPERM);
    fails!(map_file(fd, PROT_WRITE, MAP_SHARED), EPERM);
    map_file(fd, PROT_READ, MAP_SHARED)?;
    map_file(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE)?;
    same!(sys!(SYS_ftruncate, fd, 100)?, 0);
    Ok(())
}

fn sealed_mapping_cannot_become_writable() -> Outcome {
    let fd = sealable(4096)?;
    seal(fd, F_SEAL_FUTURE_WRITE)?;
    let at = map_file(fd, PROT_READ, MAP_SHARED)?;
    fails!(sys!(SYS_mprotect, at, 4096, PROT_READ | PROT_WRITE), EACCES);
    same!(sys!(SYS_mprotect, at, 4096, PROT_NONE)?, 0);
    Ok(())
}

fn hole_punching_and_seals() -> Outcome {
    const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    let fd = sealable(8192)?;
    pwrite(fd, &[1; 8192], 0)?;
    seal(fd, F_SEAL_GROW | F_SEAL_SHRINK)?;
    same!(sys!(SYS_fallocate, fd, PUNCH, 0, 4096)?, 0);
    seal(fd, F_SEAL_WRITE)?;
    fails!(sys!(SYS_fallocate, fd, PUNCH, 4096, 4096), EPERM);
    let other = sealable(8192)?;
    seal(other, F_SEAL_FUTURE_WRITE)?;
    fails!(sys!(SYS_fallocate, other, PUNCH, 0, 4096), EPERM);
    Ok(())
}

fn seals_are_the_files_not_the_descriptors() -> Outcome {
    let fd = sealable(10)?;
    let other = sys!(SYS_dup, fd)? as i32;
    seal(other, F_SEAL_GROW)?;
    same!(seals(fd)?, F_SEAL_GROW);
    let pid = child(|| i32::from(seal(fd, F_SEAL_SHRINK).is_err()))?;
    same!(status(pid)?, 0);
    same!(seals(fd)?, F_SEAL_GROW | F_SEAL_SHRINK);
    Ok(())
}

fn seals_survive_a_reopen() -> Outcome {
    let fd = sealable(10)?;
    seal(fd, F_SEAL_WRITE)?;
    let again = open(&format!("/proc/self/fd/{fd}"), O_RDWR, 0)?;
    same!(seals(again)?, F_SEAL_WRITE);
    fails!(write(again, b"x"), EPERM);
    Ok(())
}

fn other_files_have_no_seals() -> Outcome {
    let (reader, writer) = pipe(0)?;
    fails!(seals(reader), EINVAL);
    fails!(seal(reader, F_SEAL_GROW), EPERM);
    fails!(seal(writer, F_SEAL_GROW), EINVAL);
    fails!(seals(open("/dev/null", O_RDWR, 0)?), EINVAL);
    fails!(seals(open("/proc/self/stat", O_RDONLY, 0)?), EINVAL);
    fails!(seals(99), EBADF);
    Ok(())
}

fn sendfile_and_seals() -> Outcome {
    let (from, to) = (sealable(10)?, sealable(10)?);
    seal(to, F_SEAL_WRITE)?;
    fails!(sys!(SYS_sendfile, to, from, 0, 10), EPERM);
    let target = sealable(4)?;
    seal(target, F_SEAL_GROW)?;
    fails!(sys!(SYS_copy_file_range, from, 0, target, 0, 10, 0), EPERM);
    Ok(())
}

fn mapping_is_shared_with_the_file() -> Outcome {
    let fd = sealable(4096)?;
    let at = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED)?;
    pwrite(fd, b"q", 5)?;
    same!(peek::<u8>(at + 5), b'q');
    let pid = child(|| {
        poke(at + 6, b'r');
        0
    })?;
    same!(status(pid)?, 0);
    same!(peek::<u8>(at + 6), b'r');
    Ok(())
}

fn growing_by_ftruncate_and_fallocate() -> Outcome {
    let fd = sealable(0)?;
    same!(fstat(fd)?.st_blocks, 0);
    sys!(SYS_fallocate, fd, 0, 0, 8192)?;
    let stat = fstat(fd)?;
    same!((stat.st_size, stat.st_blocks), (8192, 16));
    sys!(SYS_ftruncate, fd, 1 << 30)?;
    same!(fstat(fd)?.st_blocks, 16);
    fails!(sys!(SYS_ftruncate, fd, -1), EINVAL);
    Ok(())
}

fn secret_memory_is_not_there() -> Outcome {
    // Debian builds it in and leaves it switched off, or leaves it out: ENOSYS both ways.
    let result = sys!(SYS_memfd_secret, 0);
    holds!(matches!(result, Err(Errno(ENOSYS))) || result.is_ok());
    Ok(())
}
