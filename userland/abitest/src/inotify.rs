//! inotify(7): each event, each flag of a watch, the queue and its limits.

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    init_checks_its_flags,
    bad_masks_are_einval,
    what_is_no_instance_is_einval,
    bad_paths_fail,
    open_read_write_close,
    reading_nothing_is_no_access,
    watched_file_has_no_names,
    creation_is_told_before_the_open,
    directories_have_isdir,
    unlink_of_a_watched_file,
    unlink_while_open_ends_with_the_close,
    rmdir_of_a_watched_directory,
    rename_within_a_directory,
    rename_between_directories_shares_a_cookie,
    rename_over_a_file,
    exchange_is_two_renames,
    link_changes_the_count,
    symlinks_and_nodes_are_created,
    attributes,
    times_tell_what_they_touch,
    truncations,
    directory_listing_is_an_access,
    both_watches_are_told,
    identical_events_merge,
    mask_is_replaced,
    mask_add_adds,
    mask_create_refuses_a_second,
    mask_create_and_add_are_einval,
    onlydir_and_dont_follow,
    excl_unlink_forgets_unlinked_files,
    oneshot_ends_itself,
    removal_is_ignored,
    numbers_are_not_reused,
    small_buffers_are_einval,
    reads_take_whole_events,
    bytes_that_wait,
    polling,
    reading_waits,
    nonblocking_read_is_eagain,
    overflow_is_one_event,
    instances_are_limited,
    watches_are_limited,
    close_forgets_the_watches,
    unreadable_is_eacces,
    unmount_is_told,
    fdinfo_lists_the_watches,
    exec_opens_and_reads,
];

fn init() -> Result<i32> {
    sys!(SYS_inotify_init1, IN_NONBLOCK).map(|fd| fd as i32)
}

fn watch(fd: i32, name: &str, mask: u32) -> Result<i32> {
    sys!(SYS_inotify_add_watch, fd, path(name).as_ptr(), mask).map(|wd| wd as i32)
}

/// An event: watch, mask, cookie, name.
type Event = (i32, u32, u32, String);

fn decode(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while bytes.len() >= 16 {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let length = word(12) as usize;
        let name = String::from_utf8_lossy(&bytes[16..16 + length]).trim_end_matches('\0').to_string();
        events.push((word(0) as i32, word(4), word(8), name));
        bytes = &bytes[16 + length..];
    }
    events
}

/// Everything that is queued.
fn queued(fd: i32) -> Result<Vec<Event>> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match read(fd, &mut buffer) {
            Ok(length) => all.extend(decode(&buffer[..length])),
            Err(Errno(EAGAIN)) => return Ok(all),
            Err(error) => return Err(error),
        }
    }
}

/// Masks and names alone.
fn told(fd: i32) -> Result<Vec<(u32, String)>> {
    Ok(queued(fd)?.into_iter().map(|event| (event.1, event.3)).collect())
}

fn masks(fd: i32) -> Result<Vec<u32>> {
    Ok(queued(fd)?.into_iter().map(|event| event.1).collect())
}

fn named(events: &[(u32, &str)]) -> Vec<(u32, String)> {
    events.iter().map(|(mask, name)| (*mask, (*name).to_string())).collect()
}

fn rename(old: &str, new: &str, flags: u32) -> Result<usize> {
    sys!(SYS_renameat2, AT_FDCWD, path(old).as_ptr(), AT_FDCWD, path(new).as_ptr(), flags)
}

fn rmdir(name: &str) -> Result<usize> {
    sys!(SYS_unlinkat, AT_FDCWD, path(name).as_ptr(), AT_REMOVEDIR)
}

fn chmod(name: &str, mode: u32) -> Result<usize> {
    sys!(SYS_fchmodat, AT_FDCWD, path(name).as_ptr(), mode)
}

fn init_checks_its_flags() -> Outcome {
    fails!(sys!(SYS_inotify_init1, 1), EINVAL);
    fails!(sys!(SYS_inotify_init1, O_APPEND), EINVAL);
    let fd = sys!(SYS_inotify_init1, IN_CLOEXEC | IN_NONBLOCK)? as i32;
    same!(sys!(SYS_fcntl, fd, F_GETFD)?, 1);
    same!(sys!(SYS_fcntl, fd, F_GETFL)? & O_NONBLOCK as usize, O_NONBLOCK as usize);
    fails!(write(fd, b"x"), EBADF);
    Ok(())
}

fn bad_masks_are_einval() -> Outcome {
    let fd = init()?;
    fails!(watch(fd, ".", 0), EINVAL);
    fails!(watch(fd, ".", 0x1000), EINVAL);
    fails!(watch(fd, ".", IN_OPEN | 0x0800_0000), EINVAL);
    // Bits that are only told of are let through, and ask for nothing.
    holds!(watch(fd, ".", IN_ISDIR)? > 0);
    Ok(())
}

fn what_is_no_instance_is_einval() -> Outcome {
    let (reader, _) = pipe(0)?;
    fails!(watch(reader, ".", IN_OPEN), EINVAL);
    fails!(watch(99, ".", IN_OPEN), EBADF);
    fails!(sys!(SYS_inotify_rm_watch, reader, 1), EINVAL);
    fails!(sys!(SYS_inotify_rm_watch, 99, 1), EBADF);
    fails!(sys!(SYS_inotify_rm_watch, init()?, 1), EINVAL);
    Ok(())
}

fn bad_paths_fail() -> Outcome {
    let fd = init()?;
    fails!(watch(fd, "nothing", IN_OPEN), ENOENT);
    fails!(watch(fd, "", IN_OPEN), ENOENT);
    fails!(sys!(SYS_inotify_add_watch, fd, 8, IN_OPEN), EFAULT);
    file("f", b"")?;
    fails!(watch(fd, "f/x", IN_OPEN), ENOTDIR);
    Ok(())
}

fn open_read_write_close() -> Outcome {
    file("f", b"abc")?;
    let fd = init()?;
    watch(fd, ".", IN_ALL_EVENTS)?;
    let one = open("f", O_RDWR, 0)?;
    read(one, &mut [0; 2])?;
    write(one, b"x")?;
    close(one)?;
    let two = open("f", O_RDONLY, 0)?;
    close(two)?;
    let wanted = [IN_OPEN, IN_ACCESS, IN_MODIFY, IN_CLOSE_WRITE, IN_OPEN, IN_CLOSE_NOWRITE].map(|mask| (mask, "f"));
    same!(told(fd)?, named(&wanted));
    Ok(())
}

fn reading_nothing_is_no_access() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    watch(fd, "f", IN_ACCESS | IN_MODIFY)?;
    let one = open("f", O_RDWR, 0)?;
    same!(read(one, &mut [0; 2])?, 0);
    same!(write(one, b"")?, 0);
    same!(told(fd)?, named(&[]));
    Ok(())
}

fn watched_file_has_no_names() -> Outcome {
    file("f", b"a")?;
    let fd = init()?;
    let wd = watch(fd, "f", IN_OPEN | IN_CLOSE)?;
    close(open("f", O_WRONLY, 0)?)?;
    same!(queued(fd)?, [(wd, IN_OPEN, 0, String::new()), (wd, IN_CLOSE_WRITE, 0, String::new())]);
    Ok(())
}

fn creation_is_told_before_the_open() -> Outcome {
    let fd = init()?;
    watch(fd, ".", IN_ALL_EVENTS)?;
    close(open("new", O_CREAT | O_WRONLY, 0o644)?)?;
    same!(told(fd)?, named(&[(IN_CREATE, "new"), (IN_OPEN, "new"), (IN_CLOSE_WRITE, "new")]));
    close(open("new", O_CREAT | O_WRONLY | O_TRUNC, 0o644)?)?;
    // Linux tells of the truncation first up to 6.7, and of the open first since.
    let mut found = told(fd)?;
    found.sort();
    same!(found, named(&[(IN_MODIFY, "new"), (IN_CLOSE_WRITE, "new"), (IN_OPEN, "new")]));
    Ok(())
}

fn directories_have_isdir() -> Outcome {
    let fd = init()?;
    watch(fd, ".", IN_ALL_EVENTS)?;
    mkdir("d", 0o755)?;
    close(open("d", O_RDONLY, 0)?)?;
    chmod("d", 0o700)?;
    rmdir("d")?;
    let masks = [IN_CREATE, IN_OPEN, IN_CLOSE_NOWRITE, IN_ATTRIB, IN_DELETE].map(|mask| (mask | IN_ISDIR, "d"));
    same!(told(fd)?, named(&masks));
    Ok(())
}

fn unlink_of_a_watched_file() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    let dir = watch(fd, ".", IN_DELETE)?;
    let wd = watch(fd, "f", IN_ALL_EVENTS)?;
    unlink("f")?;
    let found: Vec<(i32, u32)> = queued(fd)?.iter().map(|event| (event.0, event.1)).collect();
    same!(found, [(wd, IN_ATTRIB), (wd, IN_DELETE_SELF), (wd, IN_IGNORED), (dir, IN_DELETE)]);
    fails!(sys!(SYS_inotify_rm_watch, fd, wd), EINVAL);
    Ok(())
}

fn unlink_while_open_ends_with_the_close() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    watch(fd, "f", IN_ALL_EVENTS)?;
    let one = open("f", O_WRONLY, 0)?;
    unlink("f")?;
    same!(masks(fd)?, [IN_OPEN, IN_ATTRIB]);
    write(one, b"x")?;
    same!(masks(fd)?, [IN_MODIFY]);
    close(one)?;
    same!(masks(fd)?, [IN_CLOSE_WRITE, IN_DELETE_SELF, IN_IGNORED]);
    Ok(())
}

fn rmdir_of_a_watched_directory() -> Outcome {
    mkdir("d", 0o755)?;
    let fd = init()?;
    watch(fd, "d", IN_ALL_EVENTS)?;
    rmdir("d")?;
    same!(masks(fd)?, [IN_DELETE_SELF, IN_IGNORED]);
    Ok(())
}

fn rename_within_a_directory() -> Outcome {
    file("a", b"")?;
    let fd = init()?;
    let dir = watch(fd, ".", IN_MOVE | IN_ATTRIB)?;
    let wd = watch(fd, "a", IN_ALL_EVENTS)?;
    rename("a", "b", 0)?;
    let found = queued(fd)?;
    same!(found.len(), 3);
    let cookie = found[0].2;
    holds!(cookie != 0);
    same!(&found[0], &(dir, IN_MOVED_FROM, cookie, "a".into()));
    same!(&found[1], &(dir, IN_MOVED_TO, cookie, "b".into()));
    same!(&found[2], &(wd, IN_MOVE_SELF, 0, String::new()));
    close(open("b", O_RDONLY, 0)?)?;
    same!(masks(fd)?, [IN_OPEN, IN_CLOSE_NOWRITE]);
    Ok(())
}

fn rename_between_directories_shares_a_cookie() -> Outcome {
    mkdir("one", 0o755)?;
    mkdir("two", 0o755)?;
    mkdir("one/d", 0o755)?;
    let fd = init()?;
    let (one, two) = (watch(fd, "one", IN_ALL_EVENTS)?, watch(fd, "two", IN_ALL_EVENTS)?);
    rename("one/d", "two/e", 0)?;
    let found = queued(fd)?;
    same!(found.len(), 2);
    same!((found[0].0, found[0].1, &*found[0].3), (one, IN_MOVED_FROM | IN_ISDIR, "d"));
    same!((found[1].0, found[1].1, &*found[1].3), (two, IN_MOVED_TO | IN_ISDIR, "e"));
    same!(found[0].2, found[1].2);
    rename("two/e", "one/f", 0)?;
    holds!(queued(fd)?[0].2 != found[0].2);
    Ok(())
}

fn rename_over_a_file() -> Outcome {
    file("a", b"")?;
    file("b", b"")?;
    let fd = init()?;
    let wd = watch(fd, "b", IN_ALL_EVENTS)?;
    let dir = watch(fd, ".", IN_MOVE | IN_DELETE)?;
    rename("a", "b", 0)?;
    let found: Vec<(i32, u32)> = queued(fd)?.iter().map(|event| (event.0, event.1)).collect();
    same!(found, [(dir, IN_MOVED_FROM), (dir, IN_MOVED_TO), (wd, IN_ATTRIB), (wd, IN_DELETE_SELF), (wd, IN_IGNORED)]);
    Ok(())
}

fn exchange_is_two_renames() -> Outcome {
    file("a", b"")?;
    mkdir("d", 0o755)?;
    let fd = init()?;
    watch(fd, ".", IN_ALL_EVENTS)?;
    rename("a", "d", RENAME_EXCHANGE)?;
    let found = queued(fd)?;
    let shown: Vec<(u32, &str)> = found.iter().map(|event| (event.1, &*event.3)).collect();
    same!(
        shown,
        [(IN_MOVED_FROM, "a"), (IN_MOVED_TO, "d"), (IN_MOVED_FROM | IN_ISDIR, "d"), (IN_MOVED_TO | IN_ISDIR, "a")]
    );
    same!(found[0].2, found[1].2);
    holds!(found[1].2 != found[2].2);
    Ok(())
}

fn link_changes_the_count() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    let dir = watch(fd, ".", IN_CREATE | IN_DELETE)?;
    let wd = watch(fd, "f", IN_ALL_EVENTS)?;
    sys!(SYS_linkat, AT_FDCWD, path("f").as_ptr(), AT_FDCWD, path("g").as_ptr(), 0)?;
    unlink("f")?;
    let found: Vec<(i32, u32)> = queued(fd)?.iter().map(|event| (event.0, event.1)).collect();
    same!(found, [(wd, IN_ATTRIB), (dir, IN_CREATE), (wd, IN_ATTRIB), (dir, IN_DELETE)]);
    unlink("g")?;
    same!(masks(fd)?, [IN_ATTRIB, IN_DELETE_SELF, IN_IGNORED, IN_DELETE]);
    Ok(())
}

fn symlinks_and_nodes_are_created() -> Outcome {
    let fd = init()?;
    watch(fd, ".", IN_ALL_EVENTS)?;
    symlink("nowhere", "s")?;
    sys!(SYS_mknodat, AT_FDCWD, path("p").as_ptr(), S_IFIFO | 0o600, 0)?;
    same!(told(fd)?, named(&[(IN_CREATE, "s"), (IN_CREATE, "p")]));
    Ok(())
}

fn attributes() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    watch(fd, ".", IN_ALL_EVENTS)?;
    let one = open("f", O_RDONLY, 0)?;
    chmod("f", 0o600)?;
    queued(fd)?;
    sys!(SYS_fchmod, one, 0o640)?;
    same!(told(fd)?, named(&[(IN_ATTRIB, "f")]));
    sys!(SYS_fchown, one, -1, fstat(one)?.st_gid)?;
    same!(told(fd)?, named(&[(IN_ATTRIB, "f")]));
    // Nothing changes, and it is told all the same.
    chmod("f", 0o640)?;
    same!(told(fd)?, named(&[(IN_ATTRIB, "f")]));
    Ok(())
}

fn times_tell_what_they_touch() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    watch(fd, "f", IN_ALL_EVENTS)?;
    let at = |nsec: i64| timespec { tv_sec: 1, tv_nsec: nsec };
    let set = |atime: i64, mtime: i64| {
        let times = [at(atime), at(mtime)];
        sys!(SYS_utimensat, AT_FDCWD, path("f").as_ptr(), times.as_ptr(), 0)
    };
    set(1, 2)?;
    set(1, UTIME_OMIT)?;
    set(UTIME_OMIT, 2)?;
    same!(masks(fd)?, [IN_ATTRIB, IN_ACCESS, IN_MODIFY]);
    Ok(())
}

fn truncations() -> Outcome {
    file("f", b"abc")?;
    let fd = init()?;
    watch(fd, "f", IN_MODIFY | IN_ATTRIB)?;
    sys!(SYS_truncate, path("f").as_ptr(), 1)?;
    same!(masks(fd)?, [IN_MODIFY]);
    let one = open("f", O_RDWR, 0)?;
    sys!(SYS_ftruncate, one, 1)?;
    same!(masks(fd)?, [IN_MODIFY]);
    sys!(SYS_fallocate, one, 0, 0, 100)?;
    same!(masks(fd)?, [IN_MODIFY]);
    Ok(())
}

fn directory_listing_is_an_access() -> Outcome {
    let fd = init()?;
    watch(fd, ".", IN_ALL_EVENTS)?;
    let dir = open(".", O_RDONLY | O_DIRECTORY, 0)?;
    let mut buffer = [0u8; 512];
    sys!(SYS_getdents64, dir, buffer.as_mut_ptr(), 512)?;
    close(dir)?;
    same!(masks(fd)?, [IN_OPEN | IN_ISDIR, IN_ACCESS | IN_ISDIR, IN_CLOSE_NOWRITE | IN_ISDIR]);
    Ok(())
}

fn both_watches_are_told() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    let wd = watch(fd, "f", IN_OPEN)?;
    let dir = watch(fd, ".", IN_OPEN)?;
    open("f", O_RDONLY, 0)?;
    same!(queued(fd)?, [(dir, IN_OPEN, 0, "f".into()), (wd, IN_OPEN, 0, String::new())]);
    let other = init()?;
    watch(other, "f", IN_OPEN)?;
    open("f", O_RDONLY, 0)?;
    same!((queued(fd)?.len(), queued(other)?.len()), (2, 1));
    Ok(())
}

fn identical_events_merge() -> Outcome {
    file("f", b"")?;
    file("g", b"")?;
    let fd = init()?;
    watch(fd, ".", IN_MODIFY)?;
    let (one, two) = (open("f", O_WRONLY, 0)?, open("g", O_WRONLY, 0)?);
    for _ in 0..3 {
        write(one, b"x")?;
    }
    write(two, b"x")?;
    write(one, b"x")?;
    same!(told(fd)?, named(&[(IN_MODIFY, "f"), (IN_MODIFY, "g"), (IN_MODIFY, "f")]));
    Ok(())
}

fn mask_is_replaced() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    let wd = watch(fd, "f", IN_OPEN)?;
    same!(watch(fd, "f", IN_CLOSE_WRITE)?, wd);
    close(open("f", O_WRONLY, 0)?)?;
    same!(masks(fd)?, [IN_CLOSE_WRITE]);
    Ok(())
}

fn mask_add_adds() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    let wd = watch(fd, "f", IN_OPEN)?;
    same!(watch(fd, "f", IN_CLOSE_WRITE | IN_MASK_ADD)?, wd);
    close(open("f", O_WRONLY, 0)?)?;
    same!(masks(fd)?, [IN_OPEN, IN_CLOSE_WRITE]);
    Ok(())
}

fn mask_create_refuses_a_second() -> Outcome {
    file("f", b"")?;
    symlink("f", "s")?;
    let fd = init()?;
    watch(fd, "f", IN_OPEN | IN_MASK_CREATE)?;
    fails!(watch(fd, "f", IN_OPEN | IN_MASK_CREATE), EEXIST);
    fails!(watch(fd, "s", IN_OPEN | IN_MASK_CREATE), EEXIST);
    Ok(())
}

fn mask_create_and_add_are_einval() -> Outcome {
    fails!(watch(init()?, ".", IN_OPEN | IN_MASK_CREATE | IN_MASK_ADD), EINVAL);
    fails!(watch(99, ".", IN_OPEN | IN_MASK_CREATE | IN_MASK_ADD), EBADF);
    Ok(())
}

fn onlydir_and_dont_follow() -> Outcome {
    file("f", b"")?;
    symlink("f", "s")?;
    symlink("gone", "broken")?;
    let fd = init()?;
    fails!(watch(fd, "f", IN_OPEN | IN_ONLYDIR), ENOTDIR);
    watch(fd, ".", IN_OPEN | IN_ONLYDIR)?;
    fails!(watch(fd, "broken", IN_OPEN), ENOENT);
    let link = watch(fd, "s", IN_ATTRIB | IN_DELETE_SELF | IN_DONT_FOLLOW)?;
    holds!(watch(fd, "s", IN_OPEN)? != link);
    holds!(watch(fd, "broken", IN_OPEN | IN_DONT_FOLLOW)? != link);
    queued(fd)?;
    unlink("s")?;
    same!(masks(fd)?, [IN_ATTRIB, IN_DELETE_SELF, IN_IGNORED]);
    Ok(())
}

fn excl_unlink_forgets_unlinked_files() -> Outcome {
    file("f", b"")?;
    let (fd, plain) = (init()?, init()?);
    watch(fd, ".", IN_MODIFY | IN_CLOSE | IN_EXCL_UNLINK)?;
    watch(plain, ".", IN_MODIFY | IN_CLOSE)?;
    let one = open("f", O_WRONLY, 0)?;
    write(one, b"x")?;
    unlink("f")?;
    write(one, b"x")?;
    close(one)?;
    same!(masks(fd)?, [IN_MODIFY]);
    same!(masks(plain)?, [IN_MODIFY, IN_CLOSE_WRITE]);
    Ok(())
}

fn oneshot_ends_itself() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    let wd = watch(fd, "f", IN_OPEN | IN_CLOSE | IN_ONESHOT)?;
    close(open("f", O_RDONLY, 0)?)?;
    same!(masks(fd)?, [IN_OPEN, IN_IGNORED]);
    fails!(sys!(SYS_inotify_rm_watch, fd, wd), EINVAL);
    Ok(())
}

fn removal_is_ignored() -> Outcome {
    let fd = init()?;
    let wd = watch(fd, ".", IN_OPEN)?;
    same!(sys!(SYS_inotify_rm_watch, fd, wd)?, 0);
    same!(queued(fd)?, [(wd, IN_IGNORED, 0, String::new())]);
    fails!(sys!(SYS_inotify_rm_watch, fd, wd), EINVAL);
    close(open(".", O_RDONLY, 0)?)?;
    same!(told(fd)?, named(&[]));
    Ok(())
}

fn numbers_are_not_reused() -> Outcome {
    let fd = init()?;
    let first = watch(fd, ".", IN_OPEN)?;
    same!(first, 1);
    sys!(SYS_inotify_rm_watch, fd, first)?;
    same!(watch(fd, ".", IN_OPEN)?, 2);
    Ok(())
}

fn small_buffers_are_einval() -> Outcome {
    let fd = init()?;
    watch(fd, ".", IN_CREATE)?;
    mkdir("d", 0o755)?;
    fails!(read(fd, &mut [0; 15]), EINVAL);
    // The name is one letter and a NUL, in 16 bytes.
    fails!(read(fd, &mut [0; 31]), EINVAL);
    same!(read(fd, &mut [0; 32])?, 32);
    fails!(read(fd, &mut [0; 8]), EAGAIN);
    Ok(())
}

fn reads_take_whole_events() -> Outcome {
    let fd = init()?;
    watch(fd, ".", IN_CREATE)?;
    for name in ["a", "b", "fifteen-letters", "sixteen-letters-"] {
        mkdir(name, 0o755)?;
    }
    let mut buffer = [0; 200];
    same!(read(fd, &mut buffer[..70])?, 64);
    same!(read(fd, &mut buffer[..40])?, 32);
    same!(&buffer[16..32], b"fifteen-letters\0");
    same!(read(fd, &mut buffer)?, 48);
    Ok(())
}

fn bytes_that_wait() -> Outcome {
    let fd = init()?;
    watch(fd, ".", IN_CREATE)?;
    let waiting = || {
        let mut bytes = 0i32;
        sys!(SYS_ioctl, fd, FIONREAD, &raw mut bytes).map(|_| bytes)
    };
    same!(waiting()?, 0);
    mkdir("d", 0o755)?;
    mkdir("sixteen-letters-", 0o755)?;
    same!(waiting()?, 32 + 48);
    Ok(())
}

fn polling() -> Outcome {
    let fd = init()?;
    watch(fd, ".", IN_CREATE)?;
    let time = timespec_ms(0);
    let mut list = [pollfd { fd, events: POLLIN | POLLOUT, revents: 0 }];
    same!(sys!(SYS_ppoll, list.as_mut_ptr(), 1, &raw const time, 0, 8)?, 0);
    mkdir("d", 0o755)?;
    same!(sys!(SYS_ppoll, list.as_mut_ptr(), 1, &raw const time, 0, 8)?, 1);
    same!(list[0].revents, POLLIN);
    Ok(())
}

fn reading_waits() -> Outcome {
    let fd = sys!(SYS_inotify_init1, 0)? as i32;
    watch(fd, ".", IN_CREATE)?;
    let pid = child(|| {
        sleep_ms(40);
        mkdir("d", 0o755).is_err().into()
    })?;
    same!(read(fd, &mut [0; 100])?, 32);
    same!(status(pid)?, 0);
    note_signal(SIGUSR1, 0)?;
    let me = getpid();
    child(|| {
        sleep_ms(40);
        kill(me, SIGUSR1).is_err().into()
    })?;
    fails!(read(fd, &mut [0; 100]), EINTR);
    Ok(())
}

fn nonblocking_read_is_eagain() -> Outcome {
    let fd = init()?;
    fails!(read(fd, &mut [0; 100]), EAGAIN);
    fails!(read(fd, &mut [0; 1]), EAGAIN);
    fails!(sys!(SYS_pread64, fd, [0u8; 8].as_mut_ptr(), 8, 0), ESPIPE);
    Ok(())
}

/// Sets a number below `/proc/sys/fs/inotify` while `body` runs.
fn with_setting<T>(name: &str, value: &str, body: impl FnOnce() -> T) -> Result<T> {
    let name = format!("/proc/sys/fs/inotify/{name}");
    let before = content(&name)?;
    write(open(&name, O_WRONLY, 0)?, value.as_bytes())?;
    let result = body();
    write(open(&name, O_WRONLY, 0)?, &before)?;
    Ok(result)
}

fn overflow_is_one_event() -> Outcome {
    let fd = with_setting("max_queued_events", "3", init)??;
    let wd = watch(fd, ".", IN_CREATE)?;
    for name in ["a", "b", "c", "d", "e", "f"] {
        mkdir(name, 0o755)?;
    }
    let found: Vec<(i32, u32)> = queued(fd)?.iter().map(|event| (event.0, event.1)).collect();
    let made = (wd, IN_CREATE | IN_ISDIR);
    same!(found, [made, made, made, (-1, IN_Q_OVERFLOW)]);
    mkdir("g", 0o755)?;
    same!(told(fd)?, named(&[(IN_CREATE | IN_ISDIR, "g")]));
    Ok(())
}

fn instances_are_limited() -> Outcome {
    // The real user pays: one that has no other instances.
    sys!(SYS_setresuid, 54_322, 0, 0)?;
    let (first, second, third) = with_setting("max_user_instances", "1", || {
        let first = init();
        let second = init();
        let _ = first.map(close);
        (first, second, init())
    })?;
    first?;
    fails!(second, EMFILE);
    third?;
    Ok(())
}

fn watches_are_limited() -> Outcome {
    sys!(SYS_setresuid, 54_323, 0, 0)?;
    file("f", b"")?;
    let fd = init()?;
    let (first, second, again, third) = with_setting("max_user_watches", "1", || {
        let first = watch(fd, ".", IN_OPEN);
        let second = watch(fd, "f", IN_OPEN);
        let again = watch(fd, ".", IN_CLOSE);
        let _ = first.map(|wd| sys!(SYS_inotify_rm_watch, fd, wd));
        (first, second, again, watch(fd, "f", IN_OPEN))
    })?;
    first?;
    fails!(second, ENOSPC);
    again?;
    third?;
    Ok(())
}

fn close_forgets_the_watches() -> Outcome {
    file("f", b"")?;
    for _ in 0..20 {
        let fd = init()?;
        watch(fd, "f", IN_ALL_EVENTS)?;
        watch(fd, ".", IN_ALL_EVENTS)?;
        close(open("f", O_RDONLY, 0)?)?;
        close(fd)?;
    }
    close(open("f", O_RDONLY, 0)?)?;
    Ok(())
}

fn unreadable_is_eacces() -> Outcome {
    file("f", b"")?;
    chmod("f", 0o000)?;
    sys!(SYS_fchmodat, AT_FDCWD, path(".").as_ptr(), 0o755)?;
    become_user()?;
    fails!(watch(init()?, "f", IN_OPEN), EACCES);
    Ok(())
}

fn unmount_is_told() -> Outcome {
    mkdir("m", 0o755)?;
    let (target, kind) = (path("m"), path("tmpfs"));
    sys!(SYS_mount, kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, 0)?;
    file("m/f", b"")?;
    let fd = init()?;
    watch(fd, "m/f", IN_OPEN)?;
    sys!(SYS_umount2, target.as_ptr(), 0)?;
    same!(masks(fd)?, [IN_UNMOUNT, IN_IGNORED]);
    Ok(())
}

fn fdinfo_lists_the_watches() -> Outcome {
    file("f", b"")?;
    let fd = init()?;
    let wd = watch(fd, "f", IN_OPEN | IN_CLOSE)?;
    let text = String::from_utf8_lossy(&content(&format!("/proc/self/fdinfo/{fd}"))?).into_owned();
    let line = text.lines().find(|line| line.starts_with("inotify")).unwrap_or_default().to_string();
    let ino = lstat("f")?.st_ino;
    holds!(line.starts_with(&format!("inotify wd:{wd:x} ino:{ino:x} sdev:")));
    holds!(line.contains(" mask:38 ignored_mask:0 "));
    Ok(())
}

fn exec_opens_and_reads() -> Outcome {
    std::fs::copy(own_path(), "program").map_err(|_| Errno(EIO))?;
    chmod("program", 0o755)?;
    let fd = init()?;
    watch(fd, "program", IN_OPEN | IN_CLOSE)?;
    let pid = child(|| {
        let (name, arguments) =
            (path("program"), [path("program").into_raw() as usize, path("list").into_raw() as usize, 0]);
        let null = open("/dev/null", O_WRONLY, 0).unwrap_or(1);
        let _ = sys!(SYS_dup3, null, 1, 0);
        let _ = sys!(SYS_execve, name.as_ptr(), arguments.as_ptr(), 0);
        9
    })?;
    same!(status(pid)?, 0);
    let found = masks(fd)?;
    same!((found.first(), found.last()), (Some(&IN_OPEN), Some(&IN_CLOSE_NOWRITE)));
    Ok(())
}
