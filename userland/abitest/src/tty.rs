//! ioctl_tty(2), termios(3), pty(7), and job control with a terminal. Each case opens a pseudo-terminal of its own.

use std::sync::atomic::Ordering::SeqCst;

use crate::case::{Case, Outcome, cases, fails, holds, same};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    a_line_arrives_when_it_ends,
    echo_and_newline_translation,
    erase_and_kill_edit_the_line,
    end_of_file_character,
    raw_mode_passes_bytes_at_once,
    window_size_is_kept_and_signalled,
    slave_becomes_the_controlling_terminal,
    interrupt_character_signals_the_foreground,
    background_reader_is_stopped,
    background_writer_is_stopped_with_tostop,
    foreground_group_rules,
    hangup_when_the_master_closes,
    master_reads_eio_when_no_slave_is_open,
    unlock_and_number,
    standard_settings,
    not_a_terminal,
    session_leader_exit_hangs_up,
    hangup_tells_the_leader_and_not_the_foreground,
    foreground_hears_of_a_hangup_when_the_leader_ends,
    leader_gives_its_terminal_up,
    member_gives_its_terminal_up_for_itself,
    setsid_loses_the_terminal,
    another_sessions_terminal_is_eperm,
    member_cannot_take_a_terminal,
    vhangup_is_for_root,
    each_devpts_mount_is_an_instance,
    devpts_options_are_checked_and_shown,
    devpts_max_is_enospc,
];

fn ioctl<T>(fd: i32, request: c_ulong, argument: *const T) -> Result<usize> {
    sys!(SYS_ioctl, fd, request, argument)
}

/// Master and slave, neither controlling.
fn terminal() -> Result<(i32, i32)> {
    let master = open("/dev/ptmx", O_RDWR | O_NOCTTY, 0)?;
    let (unlock, mut number) = (0i32, -1i32);
    ioctl(master, TIOCSPTLCK as c_ulong, &raw const unlock)?;
    ioctl(master, TIOCGPTN as c_ulong, &raw mut number)?;
    let slave = open(&format!("/dev/pts/{number}"), O_RDWR | O_NOCTTY, 0)?;
    Ok((master, slave))
}

/// The kernel's `struct termios`.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
#[repr(C)]
struct Settings {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    line: u8,
    characters: [u8; 19],
}

fn settings(fd: i32) -> Result<Settings> {
    let mut now = Settings::default();
    ioctl(fd, TCGETS as c_ulong, &raw mut now)?;
    Ok(now)
}

/// Changes the settings at once.
fn set(fd: i32, change: impl FnOnce(&mut Settings)) -> Result<usize> {
    let mut now = settings(fd)?;
    change(&mut now);
    ioctl(fd, TCSETS as c_ulong, &raw const now)
}

fn take(fd: i32) -> Result<Vec<u8>> {
    let mut buffer = [0; 500];
    let length = read(fd, &mut buffer)?;
    Ok(buffer[..length].to_vec())
}

fn waiting(fd: i32) -> Result<i32> {
    let mut bytes = 0i32;
    ioctl(fd, FIONREAD as c_ulong, &raw mut bytes)?;
    Ok(bytes)
}

fn a_line_arrives_when_it_ends() -> Outcome {
    let (master, slave) = terminal()?;
    write(master, b"half")?;
    same!(waiting(slave)?, 0);
    write(master, b" line\nnext")?;
    same!(take(slave)?, b"half line\n");
    Ok(())
}

fn echo_and_newline_translation() -> Outcome {
    let (master, slave) = terminal()?;
    write(master, b"ab\r")?;
    same!(take(slave)?, b"ab\n");
    same!(take(master)?, b"ab\r\n");
    write(slave, b"x\ny")?;
    same!(take(master)?, b"x\r\ny");
    write(master, b"\x01\n")?;
    same!(take(master)?, b"^A\r\n");
    set(slave, |settings| settings.local &= !(ECHO))?;
    write(master, b"secret\n")?;
    write(slave, b"!")?;
    same!(take(master)?, b"!");
    Ok(())
}

fn erase_and_kill_edit_the_line() -> Outcome {
    let (master, slave) = terminal()?;
    write(master, b"wrong\x15rigxx\x7f\x7fht\n")?;
    same!(take(slave)?, b"right\n");
    write(master, b"two words\x17one\n")?;
    same!(take(slave)?, b"two one\n");
    write(master, b"\x16\x03\n")?;
    same!(take(slave)?, b"\x03\n");
    Ok(())
}

fn end_of_file_character() -> Outcome {
    let (master, slave) = terminal()?;
    write(master, b"part\x04")?;
    same!(take(slave)?, b"part");
    write(master, b"\x04")?;
    same!(take(slave)?, b"");
    write(master, b"more\n")?;
    same!(take(slave)?, b"more\n");
    Ok(())
}

fn raw_mode_passes_bytes_at_once() -> Outcome {
    let (master, slave) = terminal()?;
    set(slave, |settings| {
        settings.local &= !(ICANON | ECHO | ISIG);
        settings.input &= !ICRNL;
        settings.output &= !OPOST;
        settings.characters[VMIN] = 1;
        settings.characters[VTIME] = 0;
    })?;
    write(master, b"\x03\r\x04")?;
    same!(take(slave)?, b"\x03\r\x04");
    write(slave, b"\n")?;
    same!(take(master)?, b"\n");
    // MIN 0, TIME 1: a read waits a tenth of a second at most.
    set(slave, |settings| {
        settings.characters[VMIN] = 0;
        settings.characters[VTIME] = 1;
    })?;
    let start = now_ns(CLOCK_MONOTONIC)?;
    same!(take(slave)?, b"");
    holds!(now_ns(CLOCK_MONOTONIC)? - start >= 90_000_000);
    Ok(())
}

fn window_size_is_kept_and_signalled() -> Outcome {
    let (master, slave) = terminal()?;
    let size = [24u16, 80, 0, 0];
    ioctl(master, TIOCSWINSZ as c_ulong, size.as_ptr())?;
    let mut now = [0u16; 4];
    ioctl(slave, TIOCGWINSZ as c_ulong, now.as_mut_ptr())?;
    same!(now, size);
    note_signal(SIGWINCH, 0)?;
    ioctl(slave, TIOCSCTTY as c_ulong, std::ptr::null::<u8>())?;
    let size = [50u16, 132, 0, 0];
    ioctl(master, TIOCSWINSZ as c_ulong, size.as_ptr())?;
    sleep_ms(10);
    same!((count(), seen::SIGNAL.load(SeqCst)), (1, SIGWINCH));
    Ok(())
}

fn slave_becomes_the_controlling_terminal() -> Outcome {
    fails!(open("/dev/tty", O_RDWR, 0), ENXIO);
    let (_master, slave) = terminal()?;
    fails!(ioctl(slave, TIOCGPGRP as c_ulong, &raw const slave), ENOTTY);
    ioctl(slave, TIOCSCTTY as c_ulong, std::ptr::null::<u8>())?;
    let (mut group, mut session) = (0i32, 0i32);
    ioctl(slave, TIOCGPGRP as c_ulong, &raw mut group)?;
    ioctl(slave, TIOCGSID as c_ulong, &raw mut session)?;
    same!((group, session), (getpid(), getpid()));
    let tty = open("/dev/tty", O_RDWR, 0)?;
    ioctl(tty, TIOCGPGRP as c_ulong, &raw mut group)?;
    // Opening without O_NOCTTY does it as well.
    let pid = trial(|| {
        sys!(SYS_setsid)?;
        fails!(open("/dev/tty", O_RDWR, 0), ENXIO);
        let (_master, slave) = terminal()?;
        let name = std::fs::read_link(format!("/proc/self/fd/{slave}")).unwrap_or_default();
        open(&name.display().to_string(), O_RDWR, 0)?;
        open("/dev/tty", O_RDWR, 0)?;
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

/// A controlling terminal for the case.
fn controlling() -> Result<(i32, i32)> {
    let (master, slave) = terminal()?;
    ioctl(slave, TIOCSCTTY as c_ulong, std::ptr::null::<u8>())?;
    Ok((master, slave))
}

fn foreground(slave: i32, group: i32) -> Result<usize> {
    ioctl(slave, TIOCSPGRP as c_ulong, &raw const group)
}

fn interrupt_character_signals_the_foreground() -> Outcome {
    let (master, slave) = controlling()?;
    // Setting the foreground from the background would ask for it.
    mask(SIG_BLOCK, bit(SIGTTOU))?;
    for (character, signal) in [(b"\x03", SIGINT), (b"\x1c", SIGQUIT)] {
        let pid = child(|| {
            sleep_ms(20_000);
            0
        })?;
        sys!(SYS_setpgid, pid, pid)?;
        foreground(slave, pid)?;
        write(master, character)?;
        same!(WTERMSIG(wait(pid)?), signal);
    }
    let pid = child(|| {
        sleep_ms(20_000);
        0
    })?;
    sys!(SYS_setpgid, pid, pid)?;
    foreground(slave, pid)?;
    write(master, b"\x1a")?;
    let mut raw = 0;
    sys!(SYS_wait4, pid, &raw mut raw, WUNTRACED, 0)?;
    same!((WIFSTOPPED(raw), WSTOPSIG(raw)), (true, SIGTSTP));
    kill(pid, SIGKILL)?;
    wait(pid)?;
    Ok(())
}

fn background_reader_is_stopped() -> Outcome {
    let (_master, slave) = controlling()?;
    let pid = child(|| {
        let _ = sys!(SYS_setpgid, 0, 0);
        let _ = read(slave, &mut [0; 10]);
        0
    })?;
    let mut raw = 0;
    sys!(SYS_wait4, pid, &raw mut raw, WUNTRACED, 0)?;
    same!((WIFSTOPPED(raw), WSTOPSIG(raw)), (true, SIGTTIN));
    kill(pid, SIGKILL)?;
    wait(pid)?;
    // With the signal ignored it is EIO.
    let pid = trial(|| {
        sys!(SYS_setpgid, 0, 0)?;
        sigaction(SIGTTIN, SIG_IGN, 0, 0)?;
        fails!(read(slave, &mut [0; 10]), EIO);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn background_writer_is_stopped_with_tostop() -> Outcome {
    let (master, slave) = controlling()?;
    let writer = || {
        child(|| {
            let _ = sys!(SYS_setpgid, 0, 0);
            (write(slave, b"out") != Ok(3)).into()
        })
    };
    same!(status(writer()?)?, 0);
    same!(take(master)?, b"out");
    set(slave, |settings| settings.local |= TOSTOP)?;
    let pid = writer()?;
    let mut raw = 0;
    sys!(SYS_wait4, pid, &raw mut raw, WUNTRACED, 0)?;
    same!((WIFSTOPPED(raw), WSTOPSIG(raw)), (true, SIGTTOU));
    kill(pid, SIGKILL)?;
    wait(pid)?;
    Ok(())
}

fn foreground_group_rules() -> Outcome {
    let (_master, slave) = controlling()?;
    fails!(foreground(slave, -1), EINVAL);
    fails!(foreground(slave, 4_000_000), ESRCH);
    fails!(foreground(slave, 1), EPERM);
    // Setting it from the background stops, unless the signal is blocked.
    let pid = child(|| {
        let _ = sys!(SYS_setpgid, 0, 0);
        foreground(slave, getpid()).is_err().into()
    })?;
    let mut raw = 0;
    sys!(SYS_wait4, pid, &raw mut raw, WUNTRACED, 0)?;
    same!((WIFSTOPPED(raw), WSTOPSIG(raw)), (true, SIGTTOU));
    kill(pid, SIGKILL)?;
    wait(pid)?;
    let pid = trial(|| {
        sys!(SYS_setpgid, 0, 0)?;
        mask(SIG_BLOCK, bit(SIGTTOU))?;
        foreground(slave, getpid())?;
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn hangup_when_the_master_closes() -> Outcome {
    note_signal(SIGHUP, 0)?;
    let (master, slave) = controlling()?;
    close(master)?;
    sleep_ms(10);
    same!(count(), 1);
    same!(read(slave, &mut [0; 10])?, 0);
    fails!(write(slave, b"x"), EIO);
    fails!(open("/dev/tty", O_RDWR, 0), ENXIO);
    Ok(())
}

fn master_reads_eio_when_no_slave_is_open() -> Outcome {
    let (master, slave) = terminal()?;
    write(slave, b"last words")?;
    close(slave)?;
    same!(take(master)?, b"last words");
    fails!(take(master), EIO);
    Ok(())
}

fn unlock_and_number() -> Outcome {
    let master = open("/dev/ptmx", O_RDWR | O_NOCTTY, 0)?;
    let mut number = -1i32;
    ioctl(master, TIOCGPTN as c_ulong, &raw mut number)?;
    let name = format!("/dev/pts/{number}");
    fails!(open(&name, O_RDWR | O_NOCTTY, 0), EIO);
    same!(lstat(&name)?.st_mode & S_IFMT, S_IFCHR);
    close(master)?;
    fails!(lstat(&name), ENOENT);
    Ok(())
}

fn standard_settings() -> Outcome {
    let (_master, slave) = terminal()?;
    let now = settings(slave)?;
    holds!(now.input & ICRNL != 0 && now.output & (OPOST | ONLCR) == OPOST | ONLCR);
    holds!(now.local & (ISIG | ICANON | ECHO | IEXTEN) == ISIG | ICANON | ECHO | IEXTEN);
    same!(&now.characters[..7], &[3, 28, 127, 21, 4, 0, 1]);
    set(slave, |settings| settings.characters[VINTR] = 7)?;
    same!(settings(slave)?.characters[VINTR], 7);
    Ok(())
}

fn not_a_terminal() -> Outcome {
    file("f", b"")?;
    let fd = open("f", O_RDWR, 0)?;
    fails!(settings(fd), ENOTTY);
    fails!(ioctl(fd, TIOCSCTTY as c_ulong, std::ptr::null::<u8>()), ENOTTY);
    fails!(settings(99), EBADF);
    let (_master, slave) = terminal()?;
    fails!(ioctl(slave, TCGETS as c_ulong, 8 as *const u8), EFAULT);
    fails!(ioctl(slave, 0x1234, std::ptr::null::<u8>()), ENOTTY);
    fails!(sys!(SYS_lseek, slave, 0, SEEK_CUR), ESPIPE);
    Ok(())
}

fn session_leader_exit_hangs_up() -> Outcome {
    sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let words = Shared::new()?;
    let (_master, slave) = terminal()?;
    let leader = child(|| {
        let _ = sys!(SYS_setsid);
        let _ = ioctl(slave, TIOCSCTTY as c_ulong, std::ptr::null::<u8>());
        let pid = child(|| {
            sleep_ms(20_000);
            0
        });
        words.set(0, pid.unwrap_or(0) as u32);
        0
    })?;
    same!(status(leader)?, 0);
    same!(wait(words.get(0) as i32)?, SIGHUP);
    Ok(())
}

/// A child that leads a session with the slave as its terminal, and has a member of it in the foreground.
fn session_with_a_foreground(slave: i32, master: i32, words: Shared) -> Result<i32> {
    child(|| {
        let _ = close(master);
        let _ = sys!(SYS_setsid);
        let _ = ioctl(slave, TIOCSCTTY as c_ulong, std::ptr::null::<u8>());
        let _ = note_signal(SIGHUP, 0);
        let _ = mask(SIG_BLOCK, bit(SIGTTOU));
        let member = child(|| {
            let _ = sigaction(SIGHUP, SIG_DFL, 0, 0);
            sleep_ms(20_000);
            0
        })
        .unwrap_or(0);
        let _ = sys!(SYS_setpgid, member, member);
        let _ = foreground(slave, member);
        words.set(0, member as u32);
        while count() == 0 {
            sleep_ms(1);
        }
        sleep_ms(50);
        // Still there: the hang-up was not for it.
        let alive = kill(member, 0).is_ok() && sys!(SYS_wait4, member, 0, WNOHANG, 0) == Ok(0);
        words.set(1, 1 + u32::from(alive));
        0
    })
}

fn hangup_tells_the_leader_and_not_the_foreground() -> Outcome {
    let words = Shared::new()?;
    let (master, slave) = terminal()?;
    let leader = session_with_a_foreground(slave, master, words)?;
    while words.get(0) == 0 {
        sleep_ms(1);
    }
    close(slave)?;
    close(master)?;
    same!(status(leader)?, 0);
    same!(words.get(1), 2);
    Ok(())
}

fn foreground_hears_of_a_hangup_when_the_leader_ends() -> Outcome {
    sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let words = Shared::new()?;
    let (master, slave) = terminal()?;
    let leader = session_with_a_foreground(slave, master, words)?;
    while words.get(0) == 0 {
        sleep_ms(1);
    }
    close(slave)?;
    close(master)?;
    same!(status(leader)?, 0);
    same!(wait(words.get(0) as i32)?, SIGHUP);
    Ok(())
}

fn leader_gives_its_terminal_up() -> Outcome {
    note_signal(SIGHUP, 0)?;
    note_signal(SIGCONT, 0)?;
    let (_master, slave) = controlling()?;
    ioctl(slave, TIOCNOTTY as c_ulong, std::ptr::null::<u8>())?;
    sleep_ms(10);
    same!(count(), 2);
    fails!(open("/dev/tty", O_RDWR, 0), ENXIO);
    fails!(ioctl(slave, TIOCNOTTY as c_ulong, std::ptr::null::<u8>()), ENOTTY);
    // The line is alive, and may be taken again.
    same!(write(slave, b"x")?, 1);
    ioctl(slave, TIOCSCTTY as c_ulong, std::ptr::null::<u8>())?;
    Ok(())
}

fn member_gives_its_terminal_up_for_itself() -> Outcome {
    let (_master, slave) = controlling()?;
    let pid = trial(|| {
        ioctl(slave, TIOCNOTTY as c_ulong, std::ptr::null::<u8>())?;
        fails!(open("/dev/tty", O_RDWR, 0), ENXIO);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    open("/dev/tty", O_RDWR, 0)?;
    Ok(())
}

fn setsid_loses_the_terminal() -> Outcome {
    let (_master, _slave) = controlling()?;
    let pid = trial(|| {
        open("/dev/tty", O_RDWR, 0)?;
        sys!(SYS_setsid)?;
        fails!(open("/dev/tty", O_RDWR, 0), ENXIO);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn another_sessions_terminal_is_eperm() -> Outcome {
    let (_master, slave) = controlling()?;
    let pid = trial(|| {
        sys!(SYS_setsid)?;
        fails!(ioctl(slave, TIOCSCTTY as c_ulong, std::ptr::null::<u8>()), EPERM);
        let mut group = 0i32;
        fails!(ioctl(slave, TIOCGPGRP as c_ulong, &raw mut group), ENOTTY);
        fails!(foreground(slave, getpid()), ENOTTY);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    Ok(())
}

fn member_cannot_take_a_terminal() -> Outcome {
    let (_master, slave) = terminal()?;
    let pid = trial(|| {
        fails!(ioctl(slave, TIOCSCTTY as c_ulong, std::ptr::null::<u8>()), EPERM);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    // Nor a leader a second one.
    controlling()?;
    fails!(ioctl(slave, TIOCSCTTY as c_ulong, std::ptr::null::<u8>()), EPERM);
    Ok(())
}

fn vhangup_is_for_root() -> Outcome {
    let (_master, slave) = controlling()?;
    let pid = trial(|| {
        become_user()?;
        fails!(sys!(SYS_vhangup), EPERM);
        Ok(())
    })?;
    same!(status(pid)?, 0);
    note_signal(SIGHUP, 0)?;
    sys!(SYS_vhangup)?;
    sleep_ms(10);
    same!(count(), 1);
    fails!(write(slave, b"x"), EIO);
    Ok(())
}

fn mount_devpts(directory: &str, options: &str) -> Result<usize> {
    let (directory, options) = (path(directory), path(options));
    sys!(SYS_mount, c"devpts".as_ptr(), directory.as_ptr(), c"devpts".as_ptr(), 0, options.as_ptr())
}

fn unmount(directory: &str) -> Result<usize> {
    sys!(SYS_umount2, path(directory).as_ptr(), MNT_DETACH)
}

fn each_devpts_mount_is_an_instance() -> Outcome {
    mkdir("one", 0o755)?;
    mkdir("two", 0o755)?;
    mount_devpts("one", "newinstance,ptmxmode=0666,mode=0640,gid=5")?;
    mount_devpts("two", "ptmxmode=0600")?;
    let first = open("one/ptmx", O_RDWR | O_NOCTTY, 0)?;
    let second = open("two/ptmx", O_RDWR | O_NOCTTY, 0)?;
    for master in [first, second] {
        let mut number = -1i32;
        ioctl(master, TIOCGPTN as c_ulong, &raw mut number)?;
        same!(number, 0);
    }
    same!((lstat("one/0")?.st_mode & 0o777, lstat("one/0")?.st_gid), (0o640, 5));
    same!((lstat("two/0")?.st_mode & 0o777, lstat("two/ptmx")?.st_mode & 0o777), (0o600, 0o600));
    fails!(lstat("one/1"), ENOENT);
    let unlock = 0i32;
    ioctl(first, TIOCSPTLCK as c_ulong, &raw const unlock)?;
    let slave = open("one/0", O_RDWR | O_NOCTTY, 0)?;
    write(slave, b"here")?;
    same!(take(first)?, b"here");
    same!(waiting(second)?, 0);
    for fd in [slave, first, second] {
        close(fd)?;
    }
    unmount("one")?;
    unmount("two")?;
    Ok(())
}

fn devpts_options_are_checked_and_shown() -> Outcome {
    mkdir("pts", 0o755)?;
    for wrong in ["mode=9", "nonsense", "max=-1", "max=1048577", "gid=x"] {
        fails!(mount_devpts("pts", wrong), EINVAL);
    }
    mount_devpts("pts", "uid=7,gid=5,mode=620,ptmxmode=000,max=12")?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    holds!(mounts.contains(",uid=7,gid=5,mode=620,ptmxmode=000,max=12 "));
    unmount("pts")?;
    Ok(())
}

fn devpts_max_is_enospc() -> Outcome {
    mkdir("pts", 0o755)?;
    mount_devpts("pts", "max=2,ptmxmode=666")?;
    let first = open("pts/ptmx", O_RDWR | O_NOCTTY, 0)?;
    open("pts/ptmx", O_RDWR | O_NOCTTY, 0)?;
    fails!(open("pts/ptmx", O_RDWR | O_NOCTTY, 0), ENOSPC);
    close(first)?;
    // The lowest number that is free.
    let again = open("pts/ptmx", O_RDWR | O_NOCTTY, 0)?;
    let mut number = -1i32;
    ioctl(again, TIOCGPTN as c_ulong, &raw mut number)?;
    same!(number, 0);
    unmount("pts")?;
    Ok(())
}
