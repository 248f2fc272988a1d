//! epoll(7), exactly: triggers, exclusive and nested sets, closing, limits; eventfd(2), signalfd(2) and pidfds in a set.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    level_stays_until_read,
    edge_tells_of_each_write,
    edge_of_a_writer_tells_when_room_comes,
    edge_is_told_again_after_a_modification,
    oneshot_is_off_until_modified,
    oneshot_off_hears_no_hang_up,
    errors_and_hang_ups_need_no_interest,
    peers_shutdown_is_rdhup,
    the_users_word_comes_back,
    events_come_round_robin,
    fewer_are_stored_than_are_ready,
    bad_maxevents_are_einval,
    bad_buffer_is_efault_and_loses_nothing,
    what_is_no_set_is_einval,
    closed_descriptors_are_ebadf,
    files_that_cannot_poll_are_eperm,
    event_pointer_is_read_first,
    unknown_operations_are_einval,
    same_file_by_two_descriptors,
    same_descriptor_for_two_files,
    dup_keeps_the_watch_alive,
    deletion_needs_the_descriptor_it_was_added_by,
    closing_the_last_one_ends_it,
    fork_keeps_the_watch_alive,
    exclusive_is_for_adding,
    exclusive_allows_few_bits,
    exclusive_wakes_one_set,
    exclusive_watch_is_not_modified,
    wakeup_is_accepted,
    a_set_in_a_set_tells,
    a_set_in_a_set_edge,
    three_sets_deep,
    a_set_is_pollable,
    a_set_cannot_watch_itself,
    a_ring_of_sets_is_eloop,
    too_deep_is_eloop,
    a_set_in_a_set_ends_with_its_close,
    pwait_swaps_the_mask,
    pwait_with_a_bad_size_is_einval,
    pwait2_takes_nanoseconds,
    pwait2_bad_time_is_einval,
    a_signal_interrupts,
    two_waiters_share_one_event,
    fdinfo_lists_what_is_watched,
    create_checks_its_argument,
    max_user_watches_is_enospc,
    read_and_seek_of_a_set,
    eventfd_level_and_edge,
    eventfd_overflow_is_an_error_event,
    eventfd_bad_writes,
    eventfd_semaphore_counts_down,
    eventfd_wakes_a_writer,
    signalfd_in_a_set,
    signalfd_reads_several,
    signalfd_mask_can_change,
    signalfd_bad_arguments,
    pidfd_in_a_set,
];

/// epoll_event has no padding on x86 and has it elsewhere: words of it.
#[cfg(target_arch = "x86_64")]
const WORDS: usize = 3;
#[cfg(not(target_arch = "x86_64"))]
const WORDS: usize = 4;

fn set() -> Result<i32> {
    sys!(SYS_epoll_create1, O_CLOEXEC).map(|fd| fd as i32)
}

fn control(epoll: i32, operation: i32, fd: i32, events: i32, data: u64) -> Result<usize> {
    let mut event = [0u32; 4];
    event[0] = events as u32;
    event[WORDS - 2] = data as u32;
    event[WORDS - 1] = (data >> 32) as u32;
    sys!(SYS_epoll_ctl, epoll, operation, fd, event.as_ptr())
}

fn add(epoll: i32, fd: i32, events: i32) -> Result<usize> {
    control(epoll, EPOLL_CTL_ADD, fd, events, fd as u64)
}

fn modify(epoll: i32, fd: i32, events: i32) -> Result<usize> {
    control(epoll, EPOLL_CTL_MOD, fd, events, fd as u64)
}

/// Events and words of up to `limit` (at most 8) files.
fn wait_for(epoll: i32, limit: usize, ms: i32) -> Result<Vec<(i32, u64)>> {
    let mut list = [0u32; 32];
    let number = sys!(SYS_epoll_pwait, epoll, list.as_mut_ptr(), limit, ms, 0, 8)?;
    let at = |i: usize| &list[i * WORDS..(i + 1) * WORDS];
    Ok((0..number)
        .map(|i| (at(i)[0] as i32, u64::from(at(i)[WORDS - 2]) | u64::from(at(i)[WORDS - 1]) << 32))
        .collect())
}

/// The events of the only file that is ready; 0: none is.
fn ready(epoll: i32) -> Result<i32> {
    wait_for(epoll, 8, 0).map(|found| found.first().map_or(0, |one| one.0))
}

fn pair(kind: i32) -> Result<(i32, i32)> {
    let mut fds = [0i32; 2];
    sys!(SYS_socketpair, AF_UNIX, kind | SOCK_NONBLOCK, 0, fds.as_mut_ptr())?;
    Ok((fds[0], fds[1]))
}

fn level_stays_until_read() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(O_NONBLOCK)?);
    add(epoll, reader, EPOLLIN)?;
    same!(ready(epoll)?, 0);
    write(writer, b"xy")?;
    same!((ready(epoll)?, ready(epoll)?), (EPOLLIN, EPOLLIN));
    read(reader, &mut [0])?;
    same!(ready(epoll)?, EPOLLIN);
    read(reader, &mut [0])?;
    same!(ready(epoll)?, 0);
    Ok(())
}

fn edge_tells_of_each_write() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(O_NONBLOCK)?);
    add(epoll, reader, EPOLLIN | EPOLLET)?;
    for _ in 0..3 {
        write(writer, b"x")?;
        same!((ready(epoll)?, ready(epoll)?), (EPOLLIN, 0));
    }
    read(reader, &mut [0])?;
    same!(ready(epoll)?, 0);
    // What was there before the addition is an edge.
    let other = set()?;
    add(other, reader, EPOLLIN | EPOLLET)?;
    same!((ready(other)?, ready(other)?), (EPOLLIN, 0));
    Ok(())
}

fn edge_of_a_writer_tells_when_room_comes() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(O_NONBLOCK)?);
    add(epoll, writer, EPOLLOUT | EPOLLET)?;
    same!((ready(epoll)?, ready(epoll)?), (EPOLLOUT, 0));
    while write(writer, &[7; 4096]).is_ok() {}
    same!(ready(epoll)?, 0);
    let mut page = [0; 4096];
    read(reader, &mut page)?;
    same!((ready(epoll)?, ready(epoll)?), (EPOLLOUT, 0));
    Ok(())
}

fn edge_is_told_again_after_a_modification() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(O_NONBLOCK)?);
    add(epoll, reader, EPOLLIN | EPOLLET)?;
    write(writer, b"x")?;
    same!((ready(epoll)?, ready(epoll)?), (EPOLLIN, 0));
    modify(epoll, reader, EPOLLIN | EPOLLET)?;
    same!((ready(epoll)?, ready(epoll)?), (EPOLLIN, 0));
    Ok(())
}

fn oneshot_is_off_until_modified() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(O_NONBLOCK)?);
    add(epoll, reader, EPOLLIN | EPOLLONESHOT)?;
    write(writer, b"x")?;
    same!((ready(epoll)?, ready(epoll)?), (EPOLLIN, 0));
    write(writer, b"x")?;
    same!(ready(epoll)?, 0);
    modify(epoll, reader, EPOLLIN | EPOLLONESHOT)?;
    same!((ready(epoll)?, ready(epoll)?), (EPOLLIN, 0));
    modify(epoll, reader, EPOLLIN)?;
    same!((ready(epoll)?, ready(epoll)?), (EPOLLIN, EPOLLIN));
    Ok(())
}

fn oneshot_off_hears_no_hang_up() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(O_NONBLOCK)?);
    add(epoll, reader, EPOLLIN | EPOLLONESHOT)?;
    write(writer, b"x")?;
    same!(ready(epoll)?, EPOLLIN);
    close(writer)?;
    same!(ready(epoll)?, 0);
    modify(epoll, reader, EPOLLIN)?;
    same!(ready(epoll)?, EPOLLIN | EPOLLHUP);
    Ok(())
}

fn errors_and_hang_ups_need_no_interest() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(O_NONBLOCK)?);
    add(epoll, reader, 0)?;
    close(writer)?;
    same!(ready(epoll)?, EPOLLHUP);
    let (epoll, (reader, writer)) = (set()?, pipe(O_NONBLOCK)?);
    add(epoll, writer, 0)?;
    same!(ready(epoll)?, 0);
    close(reader)?;
    same!(ready(epoll)?, EPOLLERR);
    Ok(())
}

fn peers_shutdown_is_rdhup() -> Outcome {
    let (epoll, (one, two)) = (set()?, pair(SOCK_STREAM)?);
    add(epoll, one, EPOLLRDHUP)?;
    same!(ready(epoll)?, 0);
    sys!(SYS_shutdown, two, SHUT_WR)?;
    same!(ready(epoll)?, EPOLLRDHUP);
    close(two)?;
    same!(ready(epoll)?, EPOLLRDHUP | EPOLLHUP);
    modify(epoll, one, EPOLLIN)?;
    same!(ready(epoll)?, EPOLLIN | EPOLLHUP);
    Ok(())
}

fn the_users_word_comes_back() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN, 0x1234_5678_9abc_def0)?;
    write(writer, b"x")?;
    same!(wait_for(epoll, 8, 1000)?, [(EPOLLIN, 0x1234_5678_9abc_def0)]);
    control(epoll, EPOLL_CTL_MOD, reader, EPOLLIN, u64::MAX)?;
    same!(wait_for(epoll, 8, 1000)?, [(EPOLLIN, u64::MAX)]);
    Ok(())
}

fn events_come_round_robin() -> Outcome {
    let epoll = set()?;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (reader, writer) = pipe(0)?;
        add(epoll, reader, EPOLLIN)?;
        write(writer, b"x")?;
        readers.push(reader as u64);
    }
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(wait_for(epoll, 1, 1000)?[0].1);
    }
    same!(&seen[..3], &readers[..]);
    same!(&seen[3..], &readers[..]);
    Ok(())
}

fn fewer_are_stored_than_are_ready() -> Outcome {
    let epoll = set()?;
    for _ in 0..5 {
        let (reader, writer) = pipe(0)?;
        add(epoll, reader, EPOLLIN | EPOLLET)?;
        write(writer, b"x")?;
    }
    same!((wait_for(epoll, 3, 0)?.len(), wait_for(epoll, 3, 0)?.len(), wait_for(epoll, 3, 0)?.len()), (3, 2, 0));
    Ok(())
}

fn bad_maxevents_are_einval() -> Outcome {
    let epoll = set()?;
    let mut list = [0u32; 32];
    for limit in [0, -1, i32::MIN, i32::MAX] {
        fails!(sys!(SYS_epoll_pwait, epoll, list.as_mut_ptr(), limit, 0, 0, 8), EINVAL);
    }
    // Nothing is ready, so nobody looks at the buffer.
    same!(sys!(SYS_epoll_pwait, epoll, 8, 1, 0, 0, 8)?, 0);
    Ok(())
}

fn bad_buffer_is_efault_and_loses_nothing() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    add(epoll, reader, EPOLLIN | EPOLLET | EPOLLONESHOT)?;
    write(writer, b"x")?;
    fails!(sys!(SYS_epoll_pwait, epoll, 8, 1, 0, 0, 8), EFAULT);
    same!((ready(epoll)?, ready(epoll)?), (EPOLLIN, 0));
    Ok(())
}

fn what_is_no_set_is_einval() -> Outcome {
    let (reader, writer) = pipe(0)?;
    fails!(add(reader, writer, EPOLLIN), EINVAL);
    fails!(wait_for(reader, 8, 0), EINVAL);
    Ok(())
}

fn closed_descriptors_are_ebadf() -> Outcome {
    let (epoll, (reader, _)) = (set()?, pipe(0)?);
    fails!(add(99, reader, EPOLLIN), EBADF);
    fails!(add(epoll, 99, EPOLLIN), EBADF);
    fails!(add(epoll, -1, EPOLLIN), EBADF);
    fails!(wait_for(99, 8, 0), EBADF);
    fails!(control(epoll, EPOLL_CTL_DEL, 99, 0, 0), EBADF);
    Ok(())
}

fn files_that_cannot_poll_are_eperm() -> Outcome {
    let epoll = set()?;
    file("f", b"")?;
    fails!(add(epoll, open("f", O_RDONLY, 0)?, EPOLLIN), EPERM);
    fails!(add(epoll, open(".", O_RDONLY, 0)?, EPOLLIN), EPERM);
    fails!(add(epoll, open("/dev/null", O_RDONLY, 0)?, EPOLLIN), EPERM);
    fails!(add(epoll, open("/dev/zero", O_RDONLY, 0)?, EPOLLIN), EPERM);
    fails!(control(epoll, EPOLL_CTL_DEL, open("f", O_RDONLY, 0)?, 0, 0), EPERM);
    Ok(())
}

fn event_pointer_is_read_first() -> Outcome {
    let (epoll, (reader, _)) = (set()?, pipe(0)?);
    fails!(sys!(SYS_epoll_ctl, 99, EPOLL_CTL_ADD, 99, 8), EFAULT);
    fails!(sys!(SYS_epoll_ctl, epoll, EPOLL_CTL_MOD, reader, 0), EFAULT);
    add(epoll, reader, EPOLLIN)?;
    same!(sys!(SYS_epoll_ctl, epoll, EPOLL_CTL_DEL, reader, 8)?, 0);
    Ok(())
}

fn unknown_operations_are_einval() -> Outcome {
    let (epoll, (reader, _)) = (set()?, pipe(0)?);
    for operation in [0, 4, -1] {
        fails!(control(epoll, operation, reader, EPOLLIN, 0), EINVAL);
    }
    add(epoll, reader, EPOLLIN)?;
    fails!(control(epoll, 4, reader, EPOLLIN, 0), EINVAL);
    fails!(modify(epoll, dup(reader)?, EPOLLIN), ENOENT);
    Ok(())
}

fn dup(fd: i32) -> Result<i32> {
    sys!(SYS_dup, fd).map(|fd| fd as i32)
}

fn same_file_by_two_descriptors() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    let other = dup(reader)?;
    add(epoll, reader, EPOLLIN)?;
    add(epoll, other, EPOLLIN)?;
    fails!(add(epoll, other, EPOLLIN), EEXIST);
    write(writer, b"x")?;
    let mut found: Vec<u64> = wait_for(epoll, 8, 1000)?.iter().map(|one| one.1).collect();
    found.sort_unstable();
    same!(found, [reader as u64, other as u64]);
    control(epoll, EPOLL_CTL_DEL, reader, 0, 0)?;
    same!(wait_for(epoll, 8, 0)?, [(EPOLLIN, other as u64)]);
    Ok(())
}

fn same_descriptor_for_two_files() -> Outcome {
    let epoll = set()?;
    let (first, first_writer) = pipe(0)?;
    let keep = dup(first)?;
    control(epoll, EPOLL_CTL_ADD, first, EPOLLIN, 1)?;
    let (second, second_writer) = pipe(0)?;
    sys!(SYS_dup3, second, first, 0)?;
    // The number is free in the set: it belonged to another file.
    control(epoll, EPOLL_CTL_ADD, first, EPOLLIN, 2)?;
    write(first_writer, b"x")?;
    write(second_writer, b"x")?;
    let mut found: Vec<u64> = wait_for(epoll, 8, 1000)?.iter().map(|one| one.1).collect();
    found.sort_unstable();
    same!(found, [1, 2]);
    close(keep)?;
    same!(wait_for(epoll, 8, 0)?, [(EPOLLIN, 2)]);
    Ok(())
}

fn dup_keeps_the_watch_alive() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    add(epoll, reader, EPOLLIN)?;
    let other = dup(reader)?;
    close(reader)?;
    write(writer, b"x")?;
    same!(wait_for(epoll, 8, 1000)?, [(EPOLLIN, reader as u64)]);
    close(other)?;
    same!(ready(epoll)?, 0);
    Ok(())
}

fn deletion_needs_the_descriptor_it_was_added_by() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    add(epoll, reader, EPOLLIN)?;
    let other = dup(reader)?;
    close(reader)?;
    fails!(control(epoll, EPOLL_CTL_DEL, other, 0, 0), ENOENT);
    fails!(control(epoll, EPOLL_CTL_DEL, reader, 0, 0), EBADF);
    write(writer, b"x")?;
    same!(ready(epoll)?, EPOLLIN);
    sys!(SYS_dup3, other, reader, 0)?;
    same!(control(epoll, EPOLL_CTL_DEL, reader, 0, 0)?, 0);
    same!(ready(epoll)?, 0);
    Ok(())
}

fn closing_the_last_one_ends_it() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    add(epoll, reader, EPOLLIN)?;
    write(writer, b"x")?;
    close(reader)?;
    same!(ready(epoll)?, 0);
    let again = pipe(0)?.0;
    same!(again, reader);
    add(epoll, again, EPOLLIN)?;
    Ok(())
}

fn fork_keeps_the_watch_alive() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    let (hold, release) = pipe(0)?;
    add(epoll, reader, EPOLLIN)?;
    let pid = child(|| {
        let _ = close(release);
        read(hold, &mut [0]).map_or(1, |n| n as i32)
    })?;
    close(reader)?;
    write(writer, b"x")?;
    same!(ready(epoll)?, EPOLLIN);
    close(release)?;
    same!(status(pid)?, 0);
    same!(ready(epoll)?, 0);
    Ok(())
}

fn exclusive_is_for_adding() -> Outcome {
    let (epoll, (reader, _)) = (set()?, pipe(0)?);
    add(epoll, reader, EPOLLIN)?;
    fails!(modify(epoll, reader, EPOLLIN | EPOLLEXCLUSIVE), EINVAL);
    fails!(modify(epoll, dup(reader)?, EPOLLIN | EPOLLEXCLUSIVE), EINVAL);
    Ok(())
}

fn exclusive_allows_few_bits() -> Outcome {
    let (epoll, (reader, _)) = (set()?, pipe(0)?);
    for bits in [EPOLLONESHOT, EPOLLPRI, EPOLLRDHUP, EPOLLRDNORM] {
        fails!(add(epoll, reader, EPOLLIN | bits | EPOLLEXCLUSIVE), EINVAL);
    }
    fails!(add(epoll, set()?, EPOLLIN | EPOLLEXCLUSIVE), EINVAL);
    add(epoll, reader, EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLET | EPOLLWAKEUP | EPOLLEXCLUSIVE)?;
    Ok(())
}

fn exclusive_wakes_one_set() -> Outcome {
    let (reader, writer) = pipe(0)?;
    let (told, tells) = pipe(0)?;
    let mut pids = Vec::new();
    for _ in 0..3 {
        pids.push(child(|| {
            let Ok(epoll) = set() else { return 1 };
            if add(epoll, reader, EPOLLIN | EPOLLET | EPOLLEXCLUSIVE).is_err() {
                return 2;
            }
            let _ = write(tells, b"r");
            if wait_for(epoll, 8, 20_000).is_ok_and(|found| found.len() == 1) {
                let _ = write(tells, b"w");
            }
            sleep_ms(20_000);
            0
        })?);
    }
    for _ in 0..3 {
        read(told, &mut [0])?;
    }
    sleep_ms(50);
    write(writer, b"x")?;
    sleep_ms(100);
    let mut woken = [0; 8];
    same!(read(told, &mut woken)?, 1);
    for pid in pids {
        kill(pid, SIGKILL)?;
        wait(pid)?;
    }
    Ok(())
}

fn exclusive_watch_is_not_modified() -> Outcome {
    let (epoll, (reader, _)) = (set()?, pipe(0)?);
    add(epoll, reader, EPOLLIN | EPOLLEXCLUSIVE)?;
    fails!(modify(epoll, reader, EPOLLIN), EINVAL);
    same!(control(epoll, EPOLL_CTL_DEL, reader, 0, 0)?, 0);
    Ok(())
}

fn wakeup_is_accepted() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    add(epoll, reader, EPOLLIN | EPOLLWAKEUP)?;
    write(writer, b"x")?;
    same!(ready(epoll)?, EPOLLIN);
    Ok(())
}

fn a_set_in_a_set_tells() -> Outcome {
    let (outer, inner, (reader, writer)) = (set()?, set()?, pipe(0)?);
    add(outer, inner, EPOLLIN)?;
    add(inner, reader, EPOLLIN)?;
    same!(ready(outer)?, 0);
    write(writer, b"x")?;
    same!(wait_for(outer, 8, 1000)?, [(EPOLLIN, inner as u64)]);
    same!(ready(inner)?, EPOLLIN);
    same!(ready(outer)?, EPOLLIN);
    read(reader, &mut [0])?;
    same!(ready(outer)?, 0);
    let pid = child(|| {
        sleep_ms(40);
        write(writer, b"y").is_err().into()
    })?;
    same!(wait_for(outer, 8, 20_000)?, [(EPOLLIN, inner as u64)]);
    same!(status(pid)?, 0);
    Ok(())
}

fn a_set_in_a_set_edge() -> Outcome {
    let (outer, inner, (reader, writer)) = (set()?, set()?, pipe(0)?);
    add(inner, reader, EPOLLIN)?;
    add(outer, inner, EPOLLIN | EPOLLET)?;
    write(writer, b"x")?;
    same!((ready(outer)?, ready(outer)?), (EPOLLIN, 0));
    write(writer, b"x")?;
    same!((ready(outer)?, ready(outer)?), (EPOLLIN, 0));
    same!(ready(inner)?, EPOLLIN);
    Ok(())
}

fn three_sets_deep() -> Outcome {
    let (top, middle, bottom, (reader, writer)) = (set()?, set()?, set()?, pipe(0)?);
    add(bottom, reader, EPOLLIN)?;
    add(middle, bottom, EPOLLIN)?;
    add(top, middle, EPOLLIN)?;
    let pid = child(|| {
        sleep_ms(40);
        write(writer, b"x").is_err().into()
    })?;
    same!(wait_for(top, 8, 20_000)?, [(EPOLLIN, middle as u64)]);
    same!(status(pid)?, 0);
    control(middle, EPOLL_CTL_DEL, bottom, 0, 0)?;
    same!(ready(top)?, 0);
    Ok(())
}

fn a_set_is_pollable() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    add(epoll, reader, EPOLLIN)?;
    let time = timespec_ms(0);
    let mut list = [pollfd { fd: epoll, events: POLLIN | POLLOUT, revents: 0 }];
    same!(sys!(SYS_ppoll, list.as_mut_ptr(), 1, &raw const time, 0, 8)?, 0);
    let pid = child(|| {
        sleep_ms(40);
        write(writer, b"x").is_err().into()
    })?;
    let time = timespec_ms(20_000);
    same!(sys!(SYS_ppoll, list.as_mut_ptr(), 1, &raw const time, 0, 8)?, 1);
    same!(list[0].revents, POLLIN);
    same!(status(pid)?, 0);
    Ok(())
}

fn a_set_cannot_watch_itself() -> Outcome {
    let epoll = set()?;
    fails!(add(epoll, epoll, EPOLLIN), EINVAL);
    fails!(add(epoll, dup(epoll)?, EPOLLIN), EINVAL);
    Ok(())
}

fn a_ring_of_sets_is_eloop() -> Outcome {
    let (a, b, c) = (set()?, set()?, set()?);
    add(a, b, EPOLLIN)?;
    fails!(add(b, a, EPOLLIN), ELOOP);
    add(b, c, EPOLLIN)?;
    fails!(add(c, a, EPOLLIN), ELOOP);
    control(a, EPOLL_CTL_DEL, b, 0, 0)?;
    add(c, a, EPOLLIN)?;
    Ok(())
}

fn too_deep_is_eloop() -> Outcome {
    let sets: Vec<i32> = (0..6).map(|_| set()).collect::<Result<_>>()?;
    for at in 0..4 {
        add(sets[at + 1], sets[at], EPOLLIN)?;
    }
    fails!(add(sets[5], sets[4], EPOLLIN), ELOOP);
    Ok(())
}

fn a_set_in_a_set_ends_with_its_close() -> Outcome {
    let (outer, inner, (reader, writer)) = (set()?, set()?, pipe(0)?);
    add(inner, reader, EPOLLIN)?;
    add(outer, inner, EPOLLIN)?;
    write(writer, b"x")?;
    same!(ready(outer)?, EPOLLIN);
    close(inner)?;
    same!(ready(outer)?, 0);
    let inner = set()?;
    add(outer, inner, EPOLLIN)?;
    close(outer)?;
    add(inner, reader, EPOLLIN)?;
    same!(ready(inner)?, EPOLLIN);
    Ok(())
}

fn pwait_swaps_the_mask() -> Outcome {
    note_signal(SIGUSR1, 0)?;
    mask(SIG_BLOCK, bit(SIGUSR1))?;
    kill(getpid(), SIGUSR1)?;
    let (epoll, none, mut list) = (set()?, 0u64, [0u32; 32]);
    fails!(sys!(SYS_epoll_pwait, epoll, list.as_mut_ptr(), 8, 10_000, &raw const none, 8), EINTR);
    same!((count(), mask(SIG_BLOCK, 0)?), (1, bit(SIGUSR1)));
    Ok(())
}

fn pwait_with_a_bad_size_is_einval() -> Outcome {
    let (epoll, none, mut list) = (set()?, 0u64, [0u32; 32]);
    fails!(sys!(SYS_epoll_pwait, epoll, list.as_mut_ptr(), 8, 0, &raw const none, 4), EINVAL);
    same!(sys!(SYS_epoll_pwait, epoll, list.as_mut_ptr(), 8, 0, 0, 4)?, 0);
    fails!(sys!(SYS_epoll_pwait, epoll, list.as_mut_ptr(), 8, 0, 8, 8), EFAULT);
    Ok(())
}

fn pwait2_takes_nanoseconds() -> Outcome {
    let (epoll, mut list, time) = (set()?, [0u32; 32], timespec { tv_sec: 0, tv_nsec: 2_500_000 });
    let start = now_ns(CLOCK_MONOTONIC)?;
    same!(sys!(SYS_epoll_pwait2, epoll, list.as_mut_ptr(), 8, &raw const time, 0, 8)?, 0);
    holds!(now_ns(CLOCK_MONOTONIC)? - start >= 2_500_000);
    let (reader, writer) = pipe(0)?;
    add(epoll, reader, EPOLLIN)?;
    write(writer, b"x")?;
    same!(sys!(SYS_epoll_pwait2, epoll, list.as_mut_ptr(), 8, 0, 0, 8)?, 1);
    Ok(())
}

fn pwait2_bad_time_is_einval() -> Outcome {
    let (epoll, mut list) = (set()?, [0u32; 32]);
    for (tv_sec, tv_nsec) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
        let time = timespec { tv_sec, tv_nsec };
        fails!(sys!(SYS_epoll_pwait2, epoll, list.as_mut_ptr(), 8, &raw const time, 0, 8), EINVAL);
    }
    fails!(sys!(SYS_epoll_pwait2, epoll, list.as_mut_ptr(), 8, 8, 0, 8), EFAULT);
    Ok(())
}

fn a_signal_interrupts() -> Outcome {
    note_signal(SIGUSR1, SA_RESTART)?;
    let me = getpid();
    child(|| {
        sleep_ms(40);
        kill(me, SIGUSR1).is_err().into()
    })?;
    fails!(wait_for(set()?, 8, 20_000), EINTR);
    same!(count(), 1);
    Ok(())
}

fn two_waiters_share_one_event() -> Outcome {
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    let (told, tells) = pipe(0)?;
    add(epoll, reader, EPOLLIN | EPOLLET)?;
    let mut pids = Vec::new();
    for _ in 0..2 {
        pids.push(child(|| {
            let _ = write(tells, b"r");
            if wait_for(epoll, 8, 20_000).is_ok_and(|found| found.len() == 1) {
                let _ = write(tells, b"w");
            }
            sleep_ms(20_000);
            0
        })?);
    }
    read(told, &mut [0])?;
    read(told, &mut [0])?;
    sleep_ms(50);
    write(writer, b"x")?;
    sleep_ms(100);
    same!(read(told, &mut [0; 8])?, 1);
    for pid in pids {
        kill(pid, SIGKILL)?;
        wait(pid)?;
    }
    Ok(())
}

fn fdinfo_lists_what_is_watched() -> Outcome {
    let (epoll, (reader, _)) = (set()?, pipe(0)?);
    control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN | EPOLLET, 0xabc)?;
    let text = String::from_utf8_lossy(&content(&format!("/proc/self/fdinfo/{epoll}"))?).into_owned();
    let line = text.lines().find(|line| line.starts_with("tfd:")).unwrap_or_default().to_string();
    let ino = fstat(reader)?.st_ino;
    let start = format!("tfd: {reader:8} events: 80000019 data: {:16x}  pos:0 ino:{ino:x} sdev:", 0xabc);
    holds!(line.starts_with(&start));
    Ok(())
}

fn create_checks_its_argument() -> Outcome {
    fails!(sys!(SYS_epoll_create1, 1), EINVAL);
    fails!(sys!(SYS_epoll_create1, O_NONBLOCK), EINVAL);
    let epoll = sys!(SYS_epoll_create1, O_CLOEXEC)? as i32;
    same!(sys!(SYS_fcntl, epoll, F_GETFD)?, 1);
    same!(sys!(SYS_fcntl, epoll, F_GETFL)?, O_RDWR as usize);
    Ok(())
}

fn max_user_watches_is_enospc() -> Outcome {
    const NAME: &str = "/proc/sys/fs/epoll/max_user_watches";
    let before = content(NAME)?;
    // The real user pays: one that has no other watches.
    sys!(SYS_setresuid, 54_321, 0, 0)?;
    let (epoll, (reader, writer)) = (set()?, pipe(0)?);
    add(epoll, reader, EPOLLIN)?;
    write(open(NAME, O_WRONLY, 0)?, b"1")?;
    let refused = add(epoll, writer, EPOLLOUT);
    close(reader)?;
    let fits = add(epoll, writer, EPOLLOUT);
    write(open(NAME, O_WRONLY, 0)?, &before)?;
    fails!(refused, ENOSPC);
    fits?;
    Ok(())
}

fn read_and_seek_of_a_set() -> Outcome {
    let epoll = set()?;
    fails!(read(epoll, &mut [0; 8]), EINVAL);
    fails!(write(epoll, &[0; 8]), EINVAL);
    Ok(())
}

fn eventfd(value: u32, flags: i32) -> Result<i32> {
    sys!(SYS_eventfd2, value, flags).map(|fd| fd as i32)
}

fn eventfd_level_and_edge() -> Outcome {
    let (epoll, fd) = (set()?, eventfd(0, O_NONBLOCK)?);
    add(epoll, fd, EPOLLIN | EPOLLOUT)?;
    same!(ready(epoll)?, EPOLLOUT);
    write(fd, &1u64.to_ne_bytes())?;
    same!(ready(epoll)?, EPOLLIN | EPOLLOUT);
    modify(epoll, fd, EPOLLIN | EPOLLET)?;
    same!((ready(epoll)?, ready(epoll)?), (EPOLLIN, 0));
    write(fd, &1u64.to_ne_bytes())?;
    same!(ready(epoll)?, EPOLLIN);
    Ok(())
}

fn eventfd_overflow_is_an_error_event() -> Outcome {
    let (epoll, fd) = (set()?, eventfd(0, O_NONBLOCK)?);
    add(epoll, fd, EPOLLOUT)?;
    write(fd, &(u64::MAX - 1).to_ne_bytes())?;
    same!(ready(epoll)?, 0);
    fails!(write(fd, &1u64.to_ne_bytes()), EAGAIN);
    let mut value = [0; 8];
    read(fd, &mut value)?;
    same!(u64::from_ne_bytes(value), u64::MAX - 1);
    same!(ready(epoll)?, EPOLLOUT);
    Ok(())
}

fn eventfd_bad_writes() -> Outcome {
    let fd = eventfd(0, O_NONBLOCK)?;
    fails!(write(fd, &u64::MAX.to_ne_bytes()), EINVAL);
    fails!(write(fd, &[0; 7]), EINVAL);
    fails!(read(fd, &mut [0; 7]), EINVAL);
    fails!(read(fd, &mut [0; 8]), EAGAIN);
    same!(write(fd, &0u64.to_ne_bytes())?, 8);
    fails!(read(fd, &mut [0; 8]), EAGAIN);
    fails!(sys!(SYS_eventfd2, 0, 2), EINVAL);
    fails!(sys!(SYS_pread64, fd, [0u8; 8].as_mut_ptr(), 8, 0), ESPIPE);
    Ok(())
}

fn eventfd_semaphore_counts_down() -> Outcome {
    let (epoll, fd) = (set()?, eventfd(2, O_NONBLOCK | EFD_SEMAPHORE)?);
    add(epoll, fd, EPOLLIN)?;
    let mut value = [0; 8];
    for _ in 0..2 {
        same!(ready(epoll)?, EPOLLIN);
        read(fd, &mut value)?;
        same!(u64::from_ne_bytes(value), 1);
    }
    same!(ready(epoll)?, 0);
    fails!(read(fd, &mut value), EAGAIN);
    Ok(())
}

fn eventfd_wakes_a_writer() -> Outcome {
    let fd = eventfd(0, 0)?;
    write(fd, &(u64::MAX - 1).to_ne_bytes())?;
    let pid = child(|| write(fd, &5u64.to_ne_bytes()).map_or(1, |n| i32::from(n != 8)))?;
    sleep_ms(40);
    let mut value = [0; 8];
    read(fd, &mut value)?;
    same!(status(pid)?, 0);
    read(fd, &mut value)?;
    same!(u64::from_ne_bytes(value), 5);
    Ok(())
}

fn signalfd(fd: i32, set: u64, flags: i32) -> Result<i32> {
    sys!(SYS_signalfd4, fd, &raw const set, 8, flags).map(|fd| fd as i32)
}

fn signalfd_in_a_set() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1) | bit(SIGUSR2))?;
    let (epoll, fd) = (set()?, signalfd(-1, bit(SIGUSR1), O_NONBLOCK)?);
    add(epoll, fd, EPOLLIN)?;
    same!(ready(epoll)?, 0);
    kill(getpid(), SIGUSR2)?;
    same!(ready(epoll)?, 0);
    kill(getpid(), SIGUSR1)?;
    same!(ready(epoll)?, EPOLLIN);
    let mut info = [0; 128];
    same!(read(fd, &mut info)?, 128);
    same!(u32::from_ne_bytes([info[0], info[1], info[2], info[3]]), SIGUSR1 as u32);
    same!(ready(epoll)?, 0);
    fails!(read(fd, &mut info), EAGAIN);
    Ok(())
}

fn signalfd_reads_several() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1) | bit(SIGUSR2))?;
    let fd = signalfd(-1, bit(SIGUSR1) | bit(SIGUSR2), O_NONBLOCK)?;
    kill(getpid(), SIGUSR2)?;
    kill(getpid(), SIGUSR1)?;
    let mut info = [0; 300];
    same!(read(fd, &mut info)?, 256);
    same!((info[0], info[128]), (SIGUSR1 as u8, SIGUSR2 as u8));
    fails!(read(fd, &mut info[..100]), EINVAL);
    Ok(())
}

fn signalfd_mask_can_change() -> Outcome {
    mask(SIG_BLOCK, bit(SIGUSR1) | bit(SIGUSR2))?;
    let fd = signalfd(-1, bit(SIGUSR1), O_NONBLOCK)?;
    kill(getpid(), SIGUSR2)?;
    fails!(read(fd, &mut [0; 128]), EAGAIN);
    same!(signalfd(fd, bit(SIGUSR2), 0)?, fd);
    same!(read(fd, &mut [0; 128])?, 128);
    Ok(())
}

fn signalfd_bad_arguments() -> Outcome {
    let (set, (reader, _)) = (bit(SIGUSR1), pipe(0)?);
    fails!(sys!(SYS_signalfd4, -1, &raw const set, 4, 0), EINVAL);
    fails!(sys!(SYS_signalfd4, -1, &raw const set, 8, 1), EINVAL);
    fails!(sys!(SYS_signalfd4, -1, 8, 8, 0), EFAULT);
    fails!(signalfd(99, set, 0), EBADF);
    fails!(signalfd(reader, set, 0), EINVAL);
    Ok(())
}

fn pidfd_in_a_set() -> Outcome {
    let (hold, release) = pipe(0)?;
    let pid = child(|| {
        let _ = close(release);
        let _ = read(hold, &mut [0]);
        3
    })?;
    let (epoll, fd) = (set()?, sys!(SYS_pidfd_open, pid, 0)? as i32);
    add(epoll, fd, EPOLLIN)?;
    same!(ready(epoll)?, 0);
    close(release)?;
    same!(wait_for(epoll, 8, 20_000)?, [(EPOLLIN, fd as u64)]);
    same!(status(pid)?, 3);
    holds!(ready(epoll)? & EPOLLIN != 0);
    fails!(read(fd, &mut [0; 8]), EINVAL);
    Ok(())
}
