//! splice(2), tee(2), vmsplice(2), sendfile(2), and the flags of preadv2(2) and pwritev2(2).

use crate::case::{Case, Outcome, cases, fails, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    file_to_pipe,
    file_to_pipe_at_an_offset,
    pipe_to_file,
    pipe_to_file_at_an_offset,
    pipe_to_pipe,
    pipe_to_pipe_moves_parts,
    nothing_is_zero,
    end_of_file_is_zero,
    end_of_the_writers_is_zero,
    unknown_flags_are_einval,
    without_a_pipe_is_einval,
    the_same_pipe_is_einval,
    offset_of_a_pipe_is_espipe,
    wrong_direction_is_ebadf,
    bad_offsets,
    appending_file_is_einval,
    directories_and_sets_are_einval,
    empty_pipe_is_eagain,
    full_pipe_is_eagain,
    pipe_without_reader_is_epipe,
    waits_for_data,
    at_most_what_the_pipe_holds,
    pages_are_shared_with_the_file,
    holes_are_zeros,
    device_to_pipe,
    pipe_to_null,
    socket_to_pipe_and_back,
    sealed_file_keeps_the_rest,
    tee_duplicates,
    tee_of_parts_and_again,
    tee_errors,
    tee_waits_for_neither_when_told,
    appended_bytes_do_not_reach_the_twin,
    vmsplice_into_a_pipe,
    vmsplice_out_of_a_pipe,
    vmsplice_errors,
    vmsplice_takes_what_fits,
    pipe_size_and_splice,
    sendfile_to_a_pipe,
    sendfile_errors,
    copy_file_range_errors,
    nowait_on_pipes,
    nowait_flags_elsewhere,
    append_flag_writes_at_the_end,
    unknown_rwf_is_eopnotsupp,
    vectored_offsets,
];

const NONBLOCK: u32 = SPLICE_F_NONBLOCK;

fn splice(
    input: i32,
    input_at: Option<&mut i64>,
    out: i32,
    out_at: Option<&mut i64>,
    length: usize,
    flags: u32,
) -> Result<usize> {
    let pointer = |at: Option<&mut i64>| at.map_or(std::ptr::null_mut(), |at| at as *mut i64);
    sys!(SYS_splice, input, pointer(input_at), out, pointer(out_at), length, flags)
}

fn tee(input: i32, out: i32, length: usize, flags: u32) -> Result<usize> {
    sys!(SYS_tee, input, out, length, flags)
}

fn vmsplice(fd: i32, runs: &[(usize, usize)], flags: u32) -> Result<usize> {
    sys!(SYS_vmsplice, fd, runs.as_ptr(), runs.len(), flags)
}

fn some(fd: i32, length: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let got = read(fd, &mut buffer)?;
    buffer.truncate(got);
    Ok(buffer)
}

fn position(fd: i32) -> Result<usize> {
    sys!(SYS_lseek, fd, 0, SEEK_CUR)
}

fn pair(kind: i32) -> Result<(i32, i32)> {
    let mut fds = [0i32; 2];
    sys!(SYS_socketpair, AF_UNIX, kind | SOCK_NONBLOCK, 0, fds.as_mut_ptr())?;
    Ok((fds[0], fds[1]))
}

/// A memfd with this content, read from its start.
fn memory_file(content: &[u8]) -> Result<i32> {
    let fd = sys!(SYS_memfd_create, path("m").as_ptr(), MFD_ALLOW_SEALING)? as i32;
    write(fd, content)?;
    sys!(SYS_lseek, fd, 0, SEEK_SET)?;
    Ok(fd)
}

fn file_to_pipe() -> Outcome {
    let (fd, (reader, writer)) = (memory_file(b"hello world")?, pipe(0)?);
    same!(splice(fd, None, writer, None, 5, 0)?, 5);
    same!(position(fd)?, 5);
    same!(splice(fd, None, writer, None, 100, 0)?, 6);
    same!(position(fd)?, 11);
    same!(some(reader, 100)?, b"hello world");
    Ok(())
}

fn file_to_pipe_at_an_offset() -> Outcome {
    let (fd, (reader, writer)) = (memory_file(b"hello world")?, pipe(0)?);
    let mut at = 6;
    same!(splice(fd, Some(&mut at), writer, None, 3, 0)?, 3);
    same!((at, position(fd)?), (9, 0));
    same!(some(reader, 100)?, b"wor");
    Ok(())
}

fn pipe_to_file() -> Outcome {
    let (fd, (reader, writer)) = (memory_file(b"")?, pipe(0)?);
    write(writer, b"abc")?;
    write(writer, &[b'd'; 5000])?;
    same!(splice(reader, None, fd, None, 2, 0)?, 2);
    same!(splice(reader, None, fd, None, 100_000, 0)?, 5001);
    same!((position(fd)?, fstat(fd)?.st_size), (5003, 5003));
    sys!(SYS_lseek, fd, 0, SEEK_SET)?;
    same!(&rest(fd)?[..5], b"abcdd");
    Ok(())
}

fn pipe_to_file_at_an_offset() -> Outcome {
    let (fd, (reader, writer)) = (memory_file(b"0123456789")?, pipe(0)?);
    write(writer, b"abc")?;
    let mut at = 4;
    same!(splice(reader, None, fd, Some(&mut at), 10, 0)?, 3);
    same!((at, position(fd)?), (7, 0));
    same!(rest(fd)?, b"0123abc789");
    Ok(())
}

fn pipe_to_pipe() -> Outcome {
    let ((reader, writer), (reader2, writer2)) = (pipe(0)?, pipe(0)?);
    write(writer, b"abcdef")?;
    same!(splice(reader, None, writer2, None, 100, 0)?, 6);
    same!(some(reader2, 100)?, b"abcdef");
    fails!(splice(reader, None, writer2, None, 1, NONBLOCK), EAGAIN);
    Ok(())
}

fn pipe_to_pipe_moves_parts() -> Outcome {
    let ((reader, writer), (reader2, writer2)) = (pipe(0)?, pipe(0)?);
    write(writer, &[b'a'; 4096])?;
    write(writer, &[b'b'; 4096])?;
    same!(splice(reader, None, writer2, None, 4099, 0)?, 4099);
    same!((some(reader2, 9000)?.len(), some(reader, 9000)?.len()), (4099, 4093));
    write(writer, b"abcdef")?;
    same!(splice(reader, None, writer2, None, 2, 0)?, 2);
    same!(splice(reader, None, writer2, None, 2, 0)?, 2);
    write(writer, b"gh")?;
    same!((some(reader2, 100)?, some(reader, 100)?), (b"abcd".to_vec(), b"efgh".to_vec()));
    Ok(())
}

fn nothing_is_zero() -> Outcome {
    same!(splice(99, None, 99, None, 0, 0)?, 0);
    same!(tee(99, 99, 0, 0)?, 0);
    Ok(())
}

fn end_of_file_is_zero() -> Outcome {
    let (fd, (_reader, writer)) = (memory_file(b"abc")?, pipe(0)?);
    let mut at = 3;
    same!(splice(fd, Some(&mut at), writer, None, 10, 0)?, 0);
    at = 1000;
    same!((splice(fd, Some(&mut at), writer, None, 10, 0)?, at), (0, 1000));
    Ok(())
}

fn end_of_the_writers_is_zero() -> Outcome {
    let ((reader, writer), (_reader2, writer2)) = (pipe(0)?, pipe(0)?);
    close(writer)?;
    same!(splice(reader, None, writer2, None, 10, 0)?, 0);
    same!(splice(reader, None, memory_file(b"")?, None, 10, 0)?, 0);
    same!(tee(reader, writer2, 10, 0)?, 0);
    Ok(())
}

fn unknown_flags_are_einval() -> Outcome {
    let (fd, (_reader, writer)) = (memory_file(b"abc")?, pipe(0)?);
    fails!(splice(fd, None, writer, None, 1, 0x10), EINVAL);
    fails!(tee(99, 99, 1, 0x10), EINVAL);
    fails!(vmsplice(99, &[], 0x10), EINVAL);
    let all = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;
    same!(splice(fd, None, writer, None, 1, all)?, 1);
    Ok(())
}

fn without_a_pipe_is_einval() -> Outcome {
    fails!(splice(memory_file(b"a")?, None, memory_file(b"")?, None, 1, 0), EINVAL);
    fails!(splice(99, None, pipe(0)?.1, None, 1, 0), EBADF);
    fails!(splice(pipe(0)?.0, None, 99, None, 1, 0), EBADF);
    Ok(())
}

fn the_same_pipe_is_einval() -> Outcome {
    let (reader, writer) = pipe(0)?;
    write(writer, b"x")?;
    fails!(splice(reader, None, writer, None, 1, 0), EINVAL);
    fails!(tee(reader, writer, 1, 0), EINVAL);
    Ok(())
}

fn offset_of_a_pipe_is_espipe() -> Outcome {
    let ((reader, writer), fd, mut at) = (pipe(0)?, memory_file(b"abc")?, 0);
    fails!(splice(fd, None, writer, Some(&mut at), 1, 0), ESPIPE);
    fails!(splice(reader, Some(&mut at), fd, None, 1, 0), ESPIPE);
    fails!(sys!(SYS_splice, reader, 8, fd, 0, 1, 0), ESPIPE);
    Ok(())
}

fn wrong_direction_is_ebadf() -> Outcome {
    let ((reader, writer), fd) = (pipe(0)?, memory_file(b"abc")?);
    fails!(splice(fd, None, reader, None, 1, 0), EBADF);
    fails!(splice(writer, None, fd, None, 1, 0), EBADF);
    file("f", b"x")?;
    fails!(splice(open("f", O_WRONLY, 0)?, None, writer, None, 1, 0), EBADF);
    fails!(splice(reader, None, open("f", O_RDONLY, 0)?, None, 1, 0), EBADF);
    fails!(tee(writer, reader, 1, 0), EBADF);
    Ok(())
}

fn bad_offsets() -> Outcome {
    let ((reader, writer), fd) = (pipe(0)?, memory_file(b"abc")?);
    fails!(sys!(SYS_splice, fd, 8, writer, 0, 1, 0), EFAULT);
    fails!(sys!(SYS_splice, reader, 0, fd, 8, 1, 0), EFAULT);
    let mut at = -1;
    fails!(splice(fd, Some(&mut at), writer, None, 1, 0), EINVAL);
    write(writer, b"x")?;
    fails!(splice(reader, None, fd, Some(&mut at), 1, 0), EINVAL);
    Ok(())
}

fn appending_file_is_einval() -> Outcome {
    let (reader, writer) = pipe(0)?;
    write(writer, b"x")?;
    let fd = open("f", O_CREAT | O_RDWR | O_APPEND, 0o600)?;
    fails!(splice(reader, None, fd, None, 1, 0), EINVAL);
    Ok(())
}

fn directories_and_sets_are_einval() -> Outcome {
    let (_reader, writer) = pipe(0)?;
    fails!(splice(open(".", O_RDONLY, 0)?, None, writer, None, 1, 0), EINVAL);
    let epoll = sys!(SYS_epoll_create1, 0)? as i32;
    fails!(splice(epoll, None, writer, None, 1, 0), EINVAL);
    Ok(())
}

fn empty_pipe_is_eagain() -> Outcome {
    let ((reader, _writer), fd) = (pipe(0)?, memory_file(b"")?);
    fails!(splice(reader, None, fd, None, 1, NONBLOCK), EAGAIN);
    let ((reader, _writer), (_reader2, writer2)) = (pipe(O_NONBLOCK)?, pipe(0)?);
    fails!(splice(reader, None, fd, None, 1, 0), EAGAIN);
    fails!(splice(reader, None, writer2, None, 1, 0), EAGAIN);
    fails!(tee(reader, writer2, 1, NONBLOCK), EAGAIN);
    Ok(())
}

fn fill(writer: i32) -> Result<()> {
    sys!(SYS_fcntl, writer, F_SETFL, O_NONBLOCK)?;
    while write(writer, &[7; 4096]).is_ok() {}
    sys!(SYS_fcntl, writer, F_SETFL, 0)?;
    Ok(())
}

fn full_pipe_is_eagain() -> Outcome {
    let ((reader, writer), fd) = (pipe(0)?, memory_file(b"abc")?);
    fill(writer)?;
    fails!(splice(fd, None, writer, None, 1, NONBLOCK), EAGAIN);
    same!(position(fd)?, 0);
    let (source, source_writer) = pipe(0)?;
    write(source_writer, b"x")?;
    fails!(splice(source, None, writer, None, 1, NONBLOCK), EAGAIN);
    fails!(tee(source, writer, 1, NONBLOCK), EAGAIN);
    let byte = [1u8];
    fails!(vmsplice(writer, &[(byte.as_ptr() as usize, 1)], NONBLOCK), EAGAIN);
    some(reader, 4096)?;
    same!(splice(fd, None, writer, None, 3, NONBLOCK)?, 3);
    Ok(())
}

fn pipe_without_reader_is_epipe() -> Outcome {
    note_signal(SIGPIPE, 0)?;
    let ((reader, writer), fd) = (pipe(0)?, memory_file(b"abc")?);
    close(reader)?;
    fails!(splice(fd, None, writer, None, 1, 0), EPIPE);
    same!(count(), 1);
    let (source, source_writer) = pipe(0)?;
    write(source_writer, b"x")?;
    fails!(splice(source, None, writer, None, 1, 0), EPIPE);
    fails!(tee(source, writer, 1, 0), EPIPE);
    let byte = [1u8];
    fails!(vmsplice(writer, &[(byte.as_ptr() as usize, 1)], 0), EPIPE);
    same!(count(), 4);
    Ok(())
}

fn waits_for_data() -> Outcome {
    let ((reader, writer), (reader2, writer2)) = (pipe(0)?, pipe(0)?);
    let pid = child(|| {
        sleep_ms(40);
        write(writer, b"late").is_err().into()
    })?;
    same!(splice(reader, None, writer2, None, 100, 0)?, 4);
    same!(status(pid)?, 0);
    same!(some(reader2, 10)?, b"late");
    note_signal(SIGUSR1, 0)?;
    let me = getpid();
    child(|| {
        sleep_ms(40);
        kill(me, SIGUSR1).is_err().into()
    })?;
    fails!(splice(reader, None, writer2, None, 100, 0), EINTR);
    Ok(())
}

fn at_most_what_the_pipe_holds() -> Outcome {
    let (fd, (reader, writer)) = (memory_file(&[1; 200_000])?, pipe(0)?);
    same!(splice(fd, None, writer, None, 200_000, 0)?, 65_536);
    same!(some(reader, 200_000)?.len(), 65_536);
    // From the middle of a page, each slot holds what is left of its page.
    let mut at = 100;
    same!(splice(fd, Some(&mut at), writer, None, 200_000, 0)?, 65_536 - 100);
    Ok(())
}

fn pages_are_shared_with_the_file() -> Outcome {
    let (fd, (reader, writer)) = (memory_file(&[b'a'; 4096])?, pipe(0)?);
    splice(fd, None, writer, None, 4096, 0)?;
    sys!(SYS_pwrite64, fd, b"Z".as_ptr(), 1, 0)?;
    same!(some(reader, 1)?, b"Z");
    // What is truncated away stays in the pipe.
    sys!(SYS_ftruncate, fd, 0)?;
    same!(some(reader, 5000)?.len(), 4095);
    Ok(())
}

fn holes_are_zeros() -> Outcome {
    let (fd, (reader, writer)) = (memory_file(b"")?, pipe(0)?);
    sys!(SYS_ftruncate, fd, 10_000)?;
    same!(splice(fd, None, writer, None, 10_000, 0)?, 10_000);
    same!(some(reader, 20_000)?, vec![0; 10_000]);
    Ok(())
}

fn device_to_pipe() -> Outcome {
    let (random, (reader, writer)) = (open("/dev/urandom", O_RDONLY, 0)?, pipe(0)?);
    same!(splice(random, None, writer, None, 100, 0)?, 100);
    same!(some(reader, 200)?.len(), 100);
    fails!(splice(open("/dev/null", O_RDONLY, 0)?, None, writer, None, 100, 0), EINVAL);
    Ok(())
}

fn pipe_to_null() -> Outcome {
    let (null, (reader, writer)) = (open("/dev/null", O_WRONLY, 0)?, pipe(0)?);
    write(writer, &[1; 5000])?;
    same!(splice(reader, None, null, None, 10_000, 0)?, 5000);
    fails!(splice(reader, None, null, None, 1, NONBLOCK), EAGAIN);
    Ok(())
}

fn socket_to_pipe_and_back() -> Outcome {
    let ((one, two), (reader, writer)) = (pair(SOCK_STREAM)?, pipe(0)?);
    write(one, b"abcdef")?;
    same!(splice(two, None, writer, None, 4, 0)?, 4);
    same!(some(two, 10)?, b"ef");
    same!(splice(reader, None, two, None, 100, 0)?, 4);
    same!(some(one, 10)?, b"abcd");
    fails!(splice(two, None, writer, None, 4, NONBLOCK), EAGAIN);
    let mut at = 0;
    fails!(splice(two, Some(&mut at), writer, None, 4, 0), EINVAL);
    close(one)?;
    same!(splice(two, None, writer, None, 4, 0)?, 0);
    Ok(())
}

fn sealed_file_keeps_the_rest() -> Outcome {
    let (fd, (reader, writer)) = (memory_file(b"abc")?, pipe(0)?);
    sys!(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE)?;
    write(writer, b"left")?;
    fails!(splice(reader, None, fd, None, 4, 0), EPERM);
    same!(some(reader, 10)?, b"left");
    Ok(())
}

fn tee_duplicates() -> Outcome {
    let ((reader, writer), (reader2, writer2)) = (pipe(0)?, pipe(0)?);
    write(writer, b"abc")?;
    write(writer, &[b'd'; 4096])?;
    same!(tee(reader, writer2, 100_000, 0)?, 4099);
    same!((some(reader, 10_000)?, some(reader2, 10_000)?).0.len(), 4099);
    fails!(read_nonblocking(reader2), EAGAIN);
    Ok(())
}

fn read_nonblocking(fd: i32) -> Result<Vec<u8>> {
    sys!(SYS_fcntl, fd, F_SETFL, O_NONBLOCK)?;
    some(fd, 100)
}

fn tee_of_parts_and_again() -> Outcome {
    let ((reader, writer), (reader2, writer2)) = (pipe(0)?, pipe(0)?);
    write(writer, b"abcdef")?;
    same!((tee(reader, writer2, 2, 0)?, tee(reader, writer2, 3, 0)?), (2, 3));
    same!((some(reader2, 10)?, some(reader, 10)?), (b"ababc".to_vec(), b"abcdef".to_vec()));
    Ok(())
}

fn tee_errors() -> Outcome {
    let ((reader, writer), fd) = (pipe(0)?, memory_file(b"abc")?);
    fails!(tee(fd, writer, 1, 0), EINVAL);
    fails!(tee(reader, fd, 1, 0), EINVAL);
    fails!(tee(99, writer, 1, 0), EBADF);
    fails!(tee(reader, 99, 1, 0), EBADF);
    Ok(())
}

fn tee_waits_for_neither_when_told() -> Outcome {
    let ((reader, writer), (_reader2, writer2)) = (pipe(0)?, pipe(O_NONBLOCK)?);
    fails!(tee(reader, writer2, 1, 0), EAGAIN);
    write(writer, b"x")?;
    same!(tee(reader, writer2, 1, 0)?, 1);
    Ok(())
}

fn appended_bytes_do_not_reach_the_twin() -> Outcome {
    let ((reader, writer), (reader2, writer2)) = (pipe(0)?, pipe(0)?);
    write(writer, b"abc")?;
    tee(reader, writer2, 10, 0)?;
    write(writer2, b"twin")?;
    write(writer, b"orig")?;
    same!((some(reader, 20)?, some(reader2, 20)?), (b"abcorig".to_vec(), b"abctwin".to_vec()));
    Ok(())
}

fn vmsplice_into_a_pipe() -> Outcome {
    let ((reader, writer), text, more) = (pipe(0)?, *b"hello", *b" world");
    let runs = [(text.as_ptr() as usize, 5), (0, 0), (more.as_ptr() as usize, 6)];
    same!(vmsplice(writer, &runs, 0)?, 11);
    same!(some(reader, 100)?, b"hello world");
    Ok(())
}

fn vmsplice_out_of_a_pipe() -> Outcome {
    let ((reader, writer), mut one, mut two) = (pipe(0)?, [0u8; 3], [0u8; 10]);
    write(writer, b"abcdef")?;
    same!(vmsplice(reader, &[(one.as_mut_ptr() as usize, 3), (two.as_mut_ptr() as usize, 10)], 0)?, 6);
    same!((&one, &two[..3]), (b"abc", &b"def"[..]));
    fails!(vmsplice(reader, &[(one.as_mut_ptr() as usize, 3)], NONBLOCK), EAGAIN);
    close(writer)?;
    same!(vmsplice(reader, &[(one.as_mut_ptr() as usize, 3)], 0)?, 0);
    Ok(())
}

fn vmsplice_errors() -> Outcome {
    let (_reader, writer) = pipe(0)?;
    let byte = [1u8];
    fails!(vmsplice(99, &[(byte.as_ptr() as usize, 1)], 0), EBADF);
    fails!(vmsplice(memory_file(b"")?, &[(byte.as_ptr() as usize, 1)], 0), EBADF);
    fails!(sys!(SYS_vmsplice, writer, 8, 1, 0), EFAULT);
    fails!(sys!(SYS_vmsplice, writer, byte.as_ptr(), 1025, 0), EINVAL);
    same!(vmsplice(writer, &[], 0)?, 0);
    fails!(vmsplice(writer, &[(8, 1)], 0), EFAULT);
    Ok(())
}

fn vmsplice_takes_what_fits() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let at = memory(1 << 20)?;
    same!(vmsplice(writer, &[(at, 1 << 20)], 0)?, 65_536);
    same!(some(reader, 1 << 20)?.len(), 65_536);
    Ok(())
}

fn pipe_size_and_splice() -> Outcome {
    let (fd, (reader, writer)) = (memory_file(&[1; 200_000])?, pipe(0)?);
    same!(sys!(SYS_fcntl, writer, F_SETPIPE_SZ, 8192)?, 8192);
    same!(splice(fd, None, writer, None, 200_000, 0)?, 8192);
    same!(sys!(SYS_fcntl, writer, F_SETPIPE_SZ, 100_000)?, 131_072);
    same!(splice(fd, None, writer, None, 200_000, 0)?, 131_072 - 8192);
    fails!(sys!(SYS_fcntl, writer, F_SETPIPE_SZ, 65_536), EBUSY);
    some(reader, 70_000)?;
    same!(sys!(SYS_fcntl, writer, F_SETPIPE_SZ, 65_536)?, 65_536);
    same!(some(reader, 100_000)?.len(), 131_072 - 70_000);
    Ok(())
}

fn sendfile_to_a_pipe() -> Outcome {
    let (fd, (reader, writer), mut at) = (memory_file(b"hello world")?, pipe(0)?, 6i64);
    same!(sys!(SYS_sendfile, writer, fd, &raw mut at, 100)?, 5);
    same!((at, position(fd)?), (11, 0));
    same!(sys!(SYS_sendfile, writer, fd, 0, 2)?, 2);
    same!(position(fd)?, 2);
    same!(some(reader, 100)?, b"worldhe");
    Ok(())
}

fn sendfile_errors() -> Outcome {
    let (fd, (reader, writer), mut at) = (memory_file(b"abc")?, pipe(0)?, -1i64);
    fails!(sys!(SYS_sendfile, writer, fd, &raw mut at, 1), EINVAL);
    fails!(sys!(SYS_sendfile, writer, fd, 8, 1), EFAULT);
    fails!(sys!(SYS_sendfile, fd, reader, 0, 1), EINVAL);
    fails!(sys!(SYS_sendfile, fd, reader, &raw mut at, 1), ESPIPE);
    fails!(sys!(SYS_sendfile, 99, fd, 0, 1), EBADF);
    fails!(sys!(SYS_sendfile, writer, 99, 0, 1), EBADF);
    fails!(sys!(SYS_sendfile, reader, fd, 0, 1), EBADF);
    fails!(sys!(SYS_sendfile, fd, writer, 0, 1), EBADF);
    let appending = open("f", O_CREAT | O_RDWR | O_APPEND, 0o600)?;
    fails!(sys!(SYS_sendfile, appending, fd, 0, 1), EINVAL);
    Ok(())
}

fn copy_file_range_errors() -> Outcome {
    let (fd, to, (reader, writer)) = (memory_file(b"abc")?, memory_file(b"")?, pipe(0)?);
    fails!(sys!(SYS_copy_file_range, fd, 0, writer, 0, 1, 0), EINVAL);
    fails!(sys!(SYS_copy_file_range, reader, 0, to, 0, 1, 0), EINVAL);
    fails!(sys!(SYS_copy_file_range, fd, 0, to, 0, 1, 1), EINVAL);
    fails!(sys!(SYS_copy_file_range, open(".", O_RDONLY, 0)?, 0, to, 0, 1, 0), EISDIR);
    fails!(sys!(SYS_copy_file_range, 99, 0, to, 0, 1, 0), EBADF);
    same!(sys!(SYS_copy_file_range, fd, 0, to, 0, 10, 0)?, 3);
    Ok(())
}

fn preadv2(fd: i32, buffer: &mut [u8], at: i64, flags: i32) -> Result<usize> {
    let run = (buffer.as_mut_ptr() as usize, buffer.len());
    sys!(SYS_preadv2, fd, &raw const run, 1, at, 0, flags)
}

fn pwritev2(fd: i32, bytes: &[u8], at: i64, flags: i32) -> Result<usize> {
    let run = (bytes.as_ptr() as usize, bytes.len());
    sys!(SYS_pwritev2, fd, &raw const run, 1, at, 0, flags)
}

fn nowait_on_pipes() -> Outcome {
    let (reader, writer) = pipe(0)?;
    // Pipes and sockets know the flag since Linux 6.4.
    if preadv2(reader, &mut [0; 4], -1, RWF_NOWAIT) == Err(Errno(EOPNOTSUPP)) {
        return Ok(());
    }
    fails!(preadv2(reader, &mut [0; 4], -1, RWF_NOWAIT), EAGAIN);
    same!(pwritev2(writer, b"ab", -1, RWF_NOWAIT)?, 2);
    same!(preadv2(reader, &mut [0; 4], -1, RWF_NOWAIT)?, 2);
    fill(writer)?;
    fails!(pwritev2(writer, b"x", -1, RWF_NOWAIT), EAGAIN);
    fails!(preadv2(reader, &mut [0; 4], 0, RWF_NOWAIT), ESPIPE);
    Ok(())
}

fn nowait_flags_elsewhere() -> Outcome {
    let (one, two) = pair(SOCK_STREAM)?;
    sys!(SYS_fcntl, one, F_SETFL, 0)?;
    if preadv2(one, &mut [0; 4], -1, RWF_NOWAIT) == Err(Errno(EOPNOTSUPP)) {
        return Ok(());
    }
    fails!(preadv2(one, &mut [0; 4], -1, RWF_NOWAIT), EAGAIN);
    write(two, b"abc")?;
    same!(preadv2(one, &mut [0; 4], -1, RWF_NOWAIT)?, 3);
    Ok(())
}

fn append_flag_writes_at_the_end() -> Outcome {
    let fd = memory_file(b"abc")?;
    same!(pwritev2(fd, b"de", 0, RWF_APPEND)?, 2);
    same!(position(fd)?, 0);
    same!(pwritev2(fd, b"f", -1, RWF_APPEND)?, 1);
    same!(position(fd)?, 6);
    same!(preadv2(fd, &mut [0; 4], 0, RWF_APPEND)?, 4);
    sys!(SYS_lseek, fd, 0, SEEK_SET)?;
    same!(rest(fd)?, b"abcdef");
    Ok(())
}

fn unknown_rwf_is_eopnotsupp() -> Outcome {
    let fd = memory_file(b"abc")?;
    fails!(preadv2(fd, &mut [0; 4], 0, 0x4000_0000), EOPNOTSUPP);
    fails!(pwritev2(fd, b"x", 0, 0x4000_0000), EOPNOTSUPP);
    same!(pwritev2(fd, b"x", 0, RWF_SYNC | RWF_DSYNC | RWF_HIPRI)?, 1);
    same!(preadv2(fd, &mut [], 0, 0x4000_0000)?, 0);
    Ok(())
}

fn vectored_offsets() -> Outcome {
    let fd = memory_file(b"abc")?;
    fails!(preadv2(fd, &mut [0; 4], -2, 0), EINVAL);
    fails!(pwritev2(fd, b"x", -2, 0), EINVAL);
    fails!(preadv2(99, &mut [0; 4], -1, 0), EBADF);
    fails!(preadv2(pipe(0)?.1, &mut [0; 4], -1, 0), EBADF);
    fails!(sys!(SYS_preadv2, fd, 8, 1, 0, 0, 0), EFAULT);
    Ok(())
}
