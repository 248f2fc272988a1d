//! pipe(7): order, atomicity, ends that close, blocking and not.

use std::sync::atomic::Ordering::SeqCst;

use crate::case::{Case, Outcome, cases, fails, holds, optional, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    bytes_come_out_in_order,
    end_of_file_when_all_writers_are_gone,
    writing_without_readers_is_epipe,
    empty_pipe_is_eagain_without_blocking,
    full_pipe_is_eagain_without_blocking,
    default_capacity_is_64_kib,
    capacity_can_be_set,
    small_writes_are_atomic,
    large_write_blocks_until_it_is_read,
    reader_sleeps_until_there_is_something,
    nonblocking_writes_are_all_or_nothing_up_to_4096,
    nonblocking_large_write_is_partial,
    fionread_counts_the_bytes,
    ends_have_one_direction,
    flags_are_set_on_both_ends,
    bad_flags_are_einval,
    seeking_is_espipe,
    bad_pointer_is_efault_and_leaks_nothing,
    zero_bytes_are_nothing,
    poll_tells_of_both_ends,
    fifo_joins_two_processes,
    fifo_without_reader_is_enxio_for_a_nonblocking_writer,
    pipe_opened_again_through_proc_waits_for_nobody,
    readv_and_writev_scatter,
    megabytes_through_a_pipeline_of_processes,
    blocked_writer_is_interrupted,
    blocked_writer_gets_epipe_when_the_reader_goes,
    splice_moves_bytes_between_pipes,
    tee_copies_and_keeps,
];

fn bytes_come_out_in_order() -> Outcome {
    let (reader, writer) = pipe(0)?;
    write(writer, b"one")?;
    write(writer, b"two")?;
    let mut buffer = [0; 4];
    same!(read(reader, &mut buffer)?, 4);
    same!(&buffer, b"onet");
    same!(read(reader, &mut buffer)?, 2);
    same!(&buffer[..2], b"wo");
    Ok(())
}

fn end_of_file_when_all_writers_are_gone() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let copy = sys!(SYS_dup, writer)? as i32;
    write(writer, b"x")?;
    close(writer)?;
    close(copy)?;
    let mut buffer = [0; 4];
    same!(read(reader, &mut buffer)?, 1);
    same!(read(reader, &mut buffer)?, 0);
    same!(read(reader, &mut buffer)?, 0);
    Ok(())
}

fn writing_without_readers_is_epipe() -> Outcome {
    note_signal(SIGPIPE, 0)?;
    let (reader, writer) = pipe(0)?;
    close(reader)?;
    fails!(write(writer, b"x"), EPIPE);
    same!((count(), seen::SIGNAL.load(SeqCst)), (1, SIGPIPE));
    Ok(())
}

fn empty_pipe_is_eagain_without_blocking() -> Outcome {
    let (reader, _writer) = pipe(O_NONBLOCK)?;
    fails!(read(reader, &mut [0]), EAGAIN);
    Ok(())
}

/// Writes until the pipe is full: how many bytes.
fn fill(writer: i32) -> usize {
    let mut total = 0;
    while let Ok(n) = write(writer, &[1; 4096]) {
        total += n;
    }
    total
}

fn full_pipe_is_eagain_without_blocking() -> Outcome {
    let (reader, writer) = pipe(O_NONBLOCK)?;
    fill(writer);
    fails!(write(writer, b"x"), EAGAIN);
    let mut page = [0; 4096];
    read(reader, &mut page)?;
    same!(write(writer, b"x")?, 1);
    Ok(())
}

fn default_capacity_is_64_kib() -> Outcome {
    let (_reader, writer) = pipe(O_NONBLOCK)?;
    same!(sys!(SYS_fcntl, writer, F_GETPIPE_SZ, 0)?, 65536);
    same!(fill(writer), 65536);
    Ok(())
}

fn capacity_can_be_set() -> Outcome {
    let (reader, writer) = pipe(O_NONBLOCK)?;
    same!(sys!(SYS_fcntl, writer, F_SETPIPE_SZ, 5000)?, 8192);
    same!(sys!(SYS_fcntl, reader, F_GETPIPE_SZ, 0)?, 8192);
    same!(fill(writer), 8192);
    fails!(sys!(SYS_fcntl, writer, F_SETPIPE_SZ, 4096), EBUSY);
    same!(sys!(SYS_fcntl, writer, F_SETPIPE_SZ, 1 << 17)?, 1 << 17);
    same!(fill(writer), (1 << 17) - 8192);
    fails!(sys!(SYS_fcntl, writer, F_SETPIPE_SZ, 0x8000_0001u32), EINVAL);
    Ok(())
}

fn small_writes_are_atomic() -> Outcome {
    const SIZE: usize = 4096;
    let (reader, writer) = pipe(0)?;
    for letter in b'a'..=b'd' {
        child(|| {
            let _ = close(reader);
            for _ in 0..30 {
                if write(writer, &[letter; SIZE]) != Ok(SIZE) {
                    return 1;
                }
            }
            0
        })?;
    }
    close(writer)?;
    let bytes = rest(reader)?;
    same!(bytes.len(), 4 * 30 * SIZE);
    for piece in bytes.chunks(SIZE) {
        holds!(piece.iter().all(|&byte| byte == piece[0]));
    }
    for _ in 0..4 {
        same!(status(-1)?, 0);
    }
    Ok(())
}

fn large_write_blocks_until_it_is_read() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let pid = child(|| {
        let _ = close(reader);
        (write(writer, &[7; 300_000]) != Ok(300_000)).into()
    })?;
    close(writer)?;
    sleep_ms(10);
    same!(sys!(SYS_wait4, pid, 0, WNOHANG, 0)?, 0);
    same!(rest(reader)?.len(), 300_000);
    same!(status(pid)?, 0);
    Ok(())
}

fn reader_sleeps_until_there_is_something() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let pid = child(|| {
        sleep_ms(40);
        (write(writer, b"late") != Ok(4)).into()
    })?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    same!(read(reader, &mut [0; 10])?, 4);
    holds!(now_ns(CLOCK_MONOTONIC)? - start > 20_000_000);
    same!(status(pid)?, 0);
    Ok(())
}

fn nonblocking_writes_are_all_or_nothing_up_to_4096() -> Outcome {
    let (reader, writer) = pipe(O_NONBLOCK)?;
    fill(writer);
    read(reader, &mut [0; 100])?;
    fails!(write(writer, &[1; 4096]), EAGAIN);
    Ok(())
}

fn nonblocking_large_write_is_partial() -> Outcome {
    let (_reader, writer) = pipe(O_NONBLOCK)?;
    same!(write(writer, &[1; 100_000])?, 65536);
    Ok(())
}

fn fionread_counts_the_bytes() -> Outcome {
    let (reader, writer) = pipe(0)?;
    write(writer, &[0; 1234])?;
    let mut bytes = 0i32;
    sys!(SYS_ioctl, reader, FIONREAD, &raw mut bytes)?;
    same!(bytes, 1234);
    read(reader, &mut [0; 1000])?;
    sys!(SYS_ioctl, reader, FIONREAD, &raw mut bytes)?;
    same!(bytes, 234);
    fails!(sys!(SYS_ioctl, reader, TCGETS, &raw mut bytes), ENOTTY);
    Ok(())
}

fn ends_have_one_direction() -> Outcome {
    let (reader, writer) = pipe(0)?;
    fails!(write(reader, b"x"), EBADF);
    fails!(read(writer, &mut [0]), EBADF);
    Ok(())
}

fn flags_are_set_on_both_ends() -> Outcome {
    let (reader, writer) = pipe(O_CLOEXEC | O_NONBLOCK)?;
    for (fd, access) in [(reader, O_RDONLY), (writer, O_WRONLY)] {
        same!(sys!(SYS_fcntl, fd, F_GETFD, 0)?, 1);
        let flags = sys!(SYS_fcntl, fd, F_GETFL, 0)? as i32;
        same!((flags & O_ACCMODE, flags & O_NONBLOCK), (access, O_NONBLOCK));
    }
    sys!(SYS_fcntl, reader, F_SETFL, 0)?;
    same!(sys!(SYS_fcntl, reader, F_GETFL, 0)? as i32 & O_NONBLOCK, 0);
    same!(sys!(SYS_fcntl, writer, F_GETFL, 0)? as i32 & O_NONBLOCK, O_NONBLOCK);
    Ok(())
}

fn bad_flags_are_einval() -> Outcome {
    fails!(pipe(O_CREAT), EINVAL);
    fails!(pipe(1), EINVAL);
    Ok(())
}

fn seeking_is_espipe() -> Outcome {
    let (reader, writer) = pipe(0)?;
    fails!(sys!(SYS_lseek, reader, 0, SEEK_CUR), ESPIPE);
    fails!(sys!(SYS_pread64, reader, [0u8; 1].as_mut_ptr(), 1, 0), ESPIPE);
    fails!(sys!(SYS_ftruncate, writer, 0), EINVAL);
    Ok(())
}

fn bad_pointer_is_efault_and_leaks_nothing() -> Outcome {
    fails!(sys!(SYS_pipe2, 8, 0), EFAULT);
    // The numbers are free again.
    let lowest = sys!(SYS_dup, 0)? as i32;
    close(lowest)?;
    fails!(sys!(SYS_pipe2, 8, 0), EFAULT);
    same!(sys!(SYS_dup, 0)? as i32, lowest);
    let (reader, writer) = pipe(0)?;
    fails!(sys!(SYS_write, writer, 8, 10), EFAULT);
    write(writer, b"abc")?;
    fails!(sys!(SYS_read, reader, 8, 3), EFAULT);
    Ok(())
}

fn zero_bytes_are_nothing() -> Outcome {
    let (reader, writer) = pipe(O_NONBLOCK)?;
    same!(write(writer, b"")?, 0);
    same!(read(reader, &mut [])?, 0);
    fails!(read(reader, &mut [0]), EAGAIN);
    Ok(())
}

fn ready(fd: i32, events: i16) -> Result<i16> {
    let mut poll = pollfd { fd, events, revents: 0 };
    let time = timespec_ms(0);
    sys!(SYS_ppoll, &raw mut poll, 1, &raw const time, 0, 8)?;
    Ok(poll.revents)
}

fn poll_tells_of_both_ends() -> Outcome {
    let (reader, writer) = pipe(O_NONBLOCK)?;
    same!((ready(reader, POLLIN)?, ready(writer, POLLOUT)?), (0, POLLOUT));
    fill(writer);
    same!((ready(reader, POLLIN)?, ready(writer, POLLOUT)?), (POLLIN, 0));
    close(writer)?;
    same!(ready(reader, POLLIN)?, POLLIN | POLLHUP);
    rest(reader)?;
    same!(ready(reader, POLLIN)?, POLLHUP);
    let (reader, writer) = pipe(0)?;
    close(reader)?;
    same!(ready(writer, POLLOUT)?, POLLOUT | POLLERR);
    Ok(())
}

fn fifo_joins_two_processes() -> Outcome {
    sys!(SYS_mknodat, AT_FDCWD, c"fifo".as_ptr(), S_IFIFO | 0o600, 0)?;
    let pid = child(|| {
        let fd = open("fifo", O_WRONLY, 0).unwrap_or(-1);
        (write(fd, b"through") != Ok(7)).into()
    })?;
    same!(content("fifo")?, b"through");
    same!(status(pid)?, 0);
    same!(lstat("fifo")?.st_mode & S_IFMT, S_IFIFO);
    Ok(())
}

fn pipe_opened_again_through_proc_waits_for_nobody() -> Outcome {
    let (reader, writer) = pipe(0)?;
    write(writer, b"left")?;
    close(writer)?;
    let again = open(&format!("/proc/self/fd/{reader}"), O_RDONLY, 0)?;
    let mut buffer = [0; 8];
    same!(read(again, &mut buffer)?, 4);
    same!(read(again, &mut buffer)?, 0);
    // A new writer, after which there is an end again.
    let writer = open(&format!("/proc/self/fd/{reader}"), O_WRONLY, 0)?;
    write(writer, b"new")?;
    close(writer)?;
    same!(read(reader, &mut buffer)?, 3);
    same!(read(reader, &mut buffer)?, 0);
    Ok(())
}

fn fifo_without_reader_is_enxio_for_a_nonblocking_writer() -> Outcome {
    sys!(SYS_mknodat, AT_FDCWD, c"fifo".as_ptr(), S_IFIFO | 0o600, 0)?;
    fails!(open("fifo", O_WRONLY | O_NONBLOCK, 0), ENXIO);
    let reader = open("fifo", O_RDONLY | O_NONBLOCK, 0)?;
    let writer = open("fifo", O_WRONLY | O_NONBLOCK, 0)?;
    write(writer, b"x")?;
    same!(read(reader, &mut [0; 9])?, 1);
    Ok(())
}

fn readv_and_writev_scatter() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let parts = [(b"ab".as_ptr(), 2usize), (b"".as_ptr(), 0), (b"cde".as_ptr(), 3)];
    same!(sys!(SYS_writev, writer, parts.as_ptr(), 3)?, 5);
    let (mut one, mut two) = ([0u8; 1], [0u8; 9]);
    let parts = [(one.as_mut_ptr(), 1usize), (two.as_mut_ptr(), 9)];
    same!(sys!(SYS_readv, reader, parts.as_ptr(), 2)?, 5);
    same!((&one, peek::<[u8; 4]>(two.as_ptr() as usize)), (b"a", *b"bcde"));
    fails!(sys!(SYS_writev, writer, parts.as_ptr(), 1025), EINVAL);
    fails!(sys!(SYS_writev, writer, parts.as_ptr(), -1), EINVAL);
    same!(sys!(SYS_writev, writer, parts.as_ptr(), 0)?, 0);
    Ok(())
}

fn megabytes_through_a_pipeline_of_processes() -> Outcome {
    const SIZE: usize = 2 << 20;
    let (mut reader, writer) = pipe(0)?;
    child(|| {
        let data: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            match write(writer, &rest[..rest.len().min(10_000)]) {
                Ok(n) => rest = &rest[n..],
                Err(_) => return 1,
            }
        }
        0
    })?;
    close(writer)?;
    for _ in 0..3 {
        let (next, out) = pipe(0)?;
        child(|| {
            let mut buffer = [0; 7000];
            loop {
                match read(reader, &mut buffer) {
                    Ok(0) => return 0,
                    Ok(n) if write(out, &buffer[..n]) == Ok(n) => {}
                    _ => return 1,
                }
            }
        })?;
        close(out)?;
        close(reader)?;
        reader = next;
    }
    let bytes = rest(reader)?;
    same!(bytes.len(), SIZE);
    holds!(bytes.iter().enumerate().all(|(n, &byte)| byte == (n % 251) as u8));
    for _ in 0..4 {
        same!(status(-1)?, 0);
    }
    Ok(())
}

fn blocked_writer_is_interrupted() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    let (_reader, writer) = pipe(0)?;
    let me = getpid();
    let pid = child(|| {
        sleep_ms(30);
        kill(me, SIGUSR1).is_err().into()
    })?;
    // What went in before the signal is the result.
    same!(write(writer, &[0; 100_000])?, 65536);
    same!(status(pid)?, 0);
    let pid = child(|| {
        sleep_ms(30);
        kill(me, SIGUSR1).is_err().into()
    })?;
    fails!(write(writer, &[0; 100]), EINTR);
    same!(status(pid)?, 0);
    Ok(())
}

fn blocked_writer_gets_epipe_when_the_reader_goes() -> Outcome {
    sigaction(SIGPIPE, SIG_IGN, 0, 0)?;
    let (reader, writer) = pipe(0)?;
    sys!(SYS_fcntl, writer, F_SETFL, O_NONBLOCK)?;
    fill(writer);
    sys!(SYS_fcntl, writer, F_SETFL, 0)?;
    let pid = trial(|| {
        close(reader)?;
        fails!(write(writer, b"x"), EPIPE);
        Ok(())
    })?;
    sleep_ms(30);
    close(reader)?;
    same!(status(pid)?, 0);
    Ok(())
}

fn splice_moves_bytes_between_pipes() -> Outcome {
    let (in_reader, in_writer) = pipe(0)?;
    let (out_reader, out_writer) = pipe(0)?;
    write(in_writer, b"hello")?;
    same!(optional!(sys!(SYS_splice, in_reader, 0, out_writer, 0, 100, 0)), 5);
    let mut buffer = [0; 9];
    same!(read(out_reader, &mut buffer)?, 5);
    same!(&buffer[..5], b"hello");
    Ok(())
}

fn tee_copies_and_keeps() -> Outcome {
    let (in_reader, in_writer) = pipe(0)?;
    let (out_reader, out_writer) = pipe(0)?;
    write(in_writer, b"twice")?;
    same!(optional!(sys!(SYS_tee, in_reader, out_writer, 100, 0)), 5);
    let mut buffer = [0; 9];
    same!(read(out_reader, &mut buffer)?, 5);
    same!(read(in_reader, &mut buffer)?, 5);
    same!(&buffer[..5], b"twice");
    Ok(())
}
