//! ppoll(2), pselect6(2), epoll(7), eventfd(2).

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    nothing_ready_times_out,
    negative_descriptors_are_skipped,
    closed_descriptor_is_nval,
    regular_files_are_always_ready,
    poll_wakes_when_something_comes,
    a_signal_interrupts_polling,
    mask_of_ppoll_is_swapped_while_it_waits,
    select_sets_what_is_ready,
    select_of_a_closed_descriptor_is_ebadf,
    select_times_out,
    epoll_tells_of_data,
    epoll_edge_tells_once,
    epoll_oneshot_tells_once_until_rearmed,
    epoll_errors,
    epoll_forgets_closed_files,
    eventfd_counts,
    eventfd_semaphore,
    eventfd_full_is_eagain,
];

fn ppoll(list: &mut [pollfd], ms: i64) -> Result<usize> {
    let time = timespec_ms(ms);
    sys!(SYS_ppoll, list.as_mut_ptr(), list.len(), &raw const time, 0, 8)
}

fn wants(fd: i32, events: i16) -> pollfd {
    pollfd { fd, events, revents: 0x55 }
}

fn nothing_ready_times_out() -> Outcome {
    let (reader, _writer) = pipe(0)?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    let mut list = [wants(reader, POLLIN)];
    same!((ppoll(&mut list, 40)?, list[0].revents), (0, 0));
    holds!(now_ns(CLOCK_MONOTONIC)? - start >= 40_000_000);
    same!(ppoll(&mut [], 1)?, 0);
    Ok(())
}

fn negative_descriptors_are_skipped() -> Outcome {
    let (_reader, writer) = pipe(0)?;
    let mut list = [wants(-1, POLLIN), wants(writer, POLLOUT)];
    same!(ppoll(&mut list, 1000)?, 1);
    same!((list[0].revents, list[1].revents), (0, POLLOUT));
    Ok(())
}

fn closed_descriptor_is_nval() -> Outcome {
    let mut list = [wants(99, POLLIN)];
    same!((ppoll(&mut list, 1000)?, list[0].revents), (1, POLLNVAL));
    Ok(())
}

fn regular_files_are_always_ready() -> Outcome {
    file("f", b"")?;
    let mut list = [wants(open("f", O_RDWR, 0)?, POLLIN | POLLOUT)];
    same!((ppoll(&mut list, 1000)?, list[0].revents), (1, POLLIN | POLLOUT));
    Ok(())
}

fn poll_wakes_when_something_comes() -> Outcome {
    let (one, _keep) = pipe(0)?;
    let (two, writer) = pipe(0)?;
    let pid = child(|| {
        sleep_ms(30);
        write(writer, b"x").is_err().into()
    })?;
    let mut list = [wants(one, POLLIN), wants(two, POLLIN)];
    same!(ppoll(&mut list, 10_000)?, 1);
    same!((list[0].revents, list[1].revents), (0, POLLIN));
    same!(status(pid)?, 0);
    Ok(())
}

fn signal_later(signal: i32) -> Result<i32> {
    let me = getpid();
    child(|| {
        sleep_ms(30);
        kill(me, signal).is_err().into()
    })
}

fn a_signal_interrupts_polling() -> Outcome {
    note_signal(SIGUSR1, SA_RESTART)?;
    signal_later(SIGUSR1)?;
    let (reader, _writer) = pipe(0)?;
    fails!(ppoll(&mut [wants(reader, POLLIN)], 10_000), EINTR);
    same!(count(), 1);
    Ok(())
}

fn mask_of_ppoll_is_swapped_while_it_waits() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    kill(getpid(), SIGUSR1)?;
    let (time, none) = (timespec_ms(10_000), 0u64);
    fails!(sys!(SYS_ppoll, 0, 0, &raw const time, &raw const none, 8), EINTR);
    same!((count(), mask(SIG_BLOCK, 0)?), (1, bit(SIGUSR1)));
    fails!(sys!(SYS_ppoll, 0, 0, &raw const time, &raw const none, 4), EINVAL);
    Ok(())
}

fn select_sets_what_is_ready() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let (empty, _keep) = pipe(0)?;
    write(writer, b"x")?;
    let mut reads = [0u64; 16];
    reads[0] = 1 << reader | 1 << empty;
    let mut writes = [0u64; 16];
    writes[0] = 1 << writer;
    let time = timespec_ms(1000);
    same!(sys!(SYS_pselect6, 60, reads.as_mut_ptr(), writes.as_mut_ptr(), 0, &raw const time, 0)?, 2);
    same!((reads[0], writes[0]), (1 << reader, 1 << writer));
    Ok(())
}

fn select_of_a_closed_descriptor_is_ebadf() -> Outcome {
    let reads = [1u64 << 50; 16];
    let time = timespec_ms(1000);
    fails!(sys!(SYS_pselect6, 60, reads.as_ptr(), 0, 0, &raw const time, 0), EBADF);
    fails!(sys!(SYS_pselect6, -1, reads.as_ptr(), 0, 0, &raw const time, 0), EINVAL);
    Ok(())
}

fn select_times_out() -> Outcome {
    let (reader, _writer) = pipe(0)?;
    let mut reads = [0u64; 16];
    reads[0] = 1 << reader;
    let time = timespec_ms(30);
    same!(sys!(SYS_pselect6, 60, reads.as_mut_ptr(), 0, 0, &raw const time, 0)?, 0);
    same!(reads[0], 0);
    Ok(())
}

/// epoll_event has no padding on x86 and has it elsewhere: words of it.
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
#[derive(Clone, Copy, Default)]
struct Event {
    events: u32,
    data: u64,
}

fn epoll() -> Result<i32> {
    sys!(SYS_epoll_create1, O_CLOEXEC).map(|fd| fd as i32)
}

fn control(epoll: i32, operation: i32, fd: i32, events: i32) -> Result<usize> {
    let event = Event { events: events as u32, data: 1000 + fd as u64 };
    sys!(SYS_epoll_ctl, epoll, operation, fd, &raw const event)
}

/// The first event and how many there were.
fn events(epoll: i32, ms: i32) -> Result<(usize, u32, u64)> {
    let mut list = [Event::default(); 8];
    let number = sys!(SYS_epoll_pwait, epoll, list.as_mut_ptr(), 8, ms, 0, 8)?;
    Ok((number, list[0].events, list[0].data))
}

fn epoll_tells_of_data() -> Outcome {
    let (epoll, (reader, writer)) = (epoll()?, pipe(0)?);
    control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN)?;
    same!(events(epoll, 10)?.0, 0);
    write(writer, b"x")?;
    for _ in 0..2 {
        same!(events(epoll, 1000)?, (1, EPOLLIN as u32, 1000 + reader as u64));
    }
    read(reader, &mut [0])?;
    same!(events(epoll, 0)?.0, 0);
    control(epoll, EPOLL_CTL_MOD, reader, 0)?;
    write(writer, b"x")?;
    same!(events(epoll, 0)?.0, 0);
    control(epoll, EPOLL_CTL_DEL, reader, 0)?;
    fails!(control(epoll, EPOLL_CTL_DEL, reader, 0), ENOENT);
    Ok(())
}

fn epoll_edge_tells_once() -> Outcome {
    let (epoll, (reader, writer)) = (epoll()?, pipe(0)?);
    control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN | EPOLLET)?;
    write(writer, b"x")?;
    same!(events(epoll, 1000)?.0, 1);
    same!(events(epoll, 10)?.0, 0);
    write(writer, b"y")?;
    same!(events(epoll, 1000)?.0, 1);
    Ok(())
}

fn epoll_oneshot_tells_once_until_rearmed() -> Outcome {
    let (epoll, (reader, writer)) = (epoll()?, pipe(0)?);
    control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN | EPOLLONESHOT)?;
    write(writer, b"x")?;
    same!((events(epoll, 1000)?.0, events(epoll, 10)?.0), (1, 0));
    control(epoll, EPOLL_CTL_MOD, reader, EPOLLIN | EPOLLONESHOT)?;
    same!(events(epoll, 1000)?.0, 1);
    Ok(())
}

fn epoll_errors() -> Outcome {
    let (epoll, (reader, _writer)) = (epoll()?, pipe(0)?);
    control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN)?;
    fails!(control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN), EEXIST);
    fails!(control(epoll, EPOLL_CTL_MOD, 99, EPOLLIN), EBADF);
    fails!(control(epoll, EPOLL_CTL_ADD, epoll, EPOLLIN), EINVAL);
    fails!(control(reader, EPOLL_CTL_ADD, epoll, EPOLLIN), EINVAL);
    file("f", b"")?;
    fails!(control(epoll, EPOLL_CTL_ADD, open("f", O_RDONLY, 0)?, EPOLLIN), EPERM);
    fails!(sys!(SYS_epoll_create1, 1), EINVAL);
    fails!(sys!(SYS_epoll_pwait, epoll, 8, 0, 0, 0, 8), EINVAL);
    Ok(())
}

fn epoll_forgets_closed_files() -> Outcome {
    let (epoll, (reader, writer)) = (epoll()?, pipe(0)?);
    control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN)?;
    write(writer, b"x")?;
    close(reader)?;
    same!(events(epoll, 10)?.0, 0);
    Ok(())
}

fn eventfd(value: u32, flags: i32) -> Result<i32> {
    sys!(SYS_eventfd2, value, flags).map(|fd| fd as i32)
}

fn eventfd_counts() -> Outcome {
    let fd = eventfd(3, O_NONBLOCK)?;
    write(fd, &4u64.to_ne_bytes())?;
    let mut value = [0; 8];
    same!(read(fd, &mut value)?, 8);
    same!(u64::from_ne_bytes(value), 7);
    fails!(read(fd, &mut value), EAGAIN);
    fails!(read(fd, &mut [0; 7]), EINVAL);
    fails!(write(fd, &u64::MAX.to_ne_bytes()), EINVAL);
    Ok(())
}

fn eventfd_semaphore() -> Outcome {
    let fd = eventfd(2, O_NONBLOCK | EFD_SEMAPHORE)?;
    let mut value = [0; 8];
    for _ in 0..2 {
        read(fd, &mut value)?;
        same!(u64::from_ne_bytes(value), 1);
    }
    fails!(read(fd, &mut value), EAGAIN);
    Ok(())
}

fn eventfd_full_is_eagain() -> Outcome {
    let fd = eventfd(0, O_NONBLOCK)?;
    write(fd, &(u64::MAX - 1).to_ne_bytes())?;
    fails!(write(fd, &1u64.to_ne_bytes()), EAGAIN);
    let mut list = [wants(fd, POLLIN | POLLOUT)];
    ppoll(&mut list, 0)?;
    same!(list[0].revents, POLLIN);
    Ok(())
}
