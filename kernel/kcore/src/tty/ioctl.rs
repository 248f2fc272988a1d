//! ioctl_tty(2): settings, flow, window size, job control, pseudo-terminals.
//!
//! On a master, settings and job control are those of its slave, as in Linux.

use core::sync::atomic::Ordering;

use abi::Errno;
use abi::signal::SIGWINCH;
use abi::tty as t;
use abi::tty::{Termio, Termios, Winsize};
use zerocopy::{FromBytes, IntoBytes};

use super::ldisc::Flush;
use super::{OpenTty, Tty, job, pty};
use crate::Result;
use crate::syscall::UserPtr;
use crate::task::current;

/// When new settings take effect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// TCSETSW: when everything written was sent.
    Drained,
    /// TCSETSF: then, and what was received and not read is thrown away.
    DrainedAndFlushed,
}

impl When {
    /// The three requests of a family follow each other.
    fn nth(offset: u32) -> Self {
        match offset {
            0 => When::Now,
            1 => When::Drained,
            _ => When::DrainedAndFlushed,
        }
    }
}

impl OpenTty {
    /// Runs a request. `ENOTTY` for one that terminals do not know.
    pub fn request(&self, request: u32, argument: u64, may_read: bool) -> Result<usize> {
        if self.is_hung_up() {
            return Err(if request == t::TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        if let Some(result) = self.settings(request, argument) {
            return result;
        }
        if let Some(result) = self.flow(request, argument) {
            return result;
        }
        if let Some(result) = self.jobs(request, argument, may_read) {
            return result;
        }
        self.pseudo(request, argument)
    }

    /// Termios, window size and what else belongs to the terminal's state.
    fn settings(&self, request: u32, argument: u64) -> Option<Result<usize>> {
        let tty = self.tty();
        Some(match request {
            t::TCGETS => get_termios(tty, argument, t::TERMIOS_SIZE),
            t::TCGETS2 => get_termios(tty, argument, size_of::<Termios>()),
            t::TCGETA => get_termio(tty, argument),
            t::TCSETS..=t::TCSETSF => read_termios(tty, argument, t::TERMIOS_SIZE)
                .and_then(|new| self.set(new, When::nth(request - t::TCSETS))),
            t::TCSETS2..=t::TCSETSF2 => read_termios(tty, argument, size_of::<Termios>())
                .and_then(|new| self.set(new, When::nth(request - t::TCSETS2))),
            t::TCSETA..=t::TCSETAF => {
                read_termio(tty, argument).and_then(|new| self.set(new, When::nth(request - t::TCSETA)))
            }
            t::TIOCGWINSZ => {
                let size = tty.state.lock().winsize;
                UserPtr::new(argument).write(&size).map(|()| 0)
            }
            t::TIOCSWINSZ => UserPtr::new(argument).read().map(|size| set_window_size(tty, size)),
            t::TIOCGETD => UserPtr::new(argument).write(&0i32).map(|()| 0),
            t::TIOCSETD => match UserPtr::<i32>::new(argument).read() {
                Ok(0) => Ok(0),
                Ok(_) => Err(Errno::EINVAL),
                Err(error) => Err(error),
            },
            t::TIOCGSOFTCAR => {
                let local = tty.state.lock().ldisc.termios().c_cflag & t::CLOCAL != 0;
                UserPtr::new(argument).write(&i32::from(local)).map(|()| 0)
            }
            t::TIOCSSOFTCAR => UserPtr::<i32>::new(argument).read().map(|local| {
                let mut state = tty.state.lock();
                let mut termios = *state.ldisc.termios();
                termios.c_cflag = termios.c_cflag & !t::CLOCAL | if local != 0 { t::CLOCAL } else { 0 };
                state.ldisc.set_termios(termios);
                0
            }),
            t::TIOCGDEV => {
                let (major, minor) = tty.numbers();
                UserPtr::new(argument).write(&(abi::stat::makedev(major, minor) as u32)).map(|()| 0)
            }
            t::TIOCEXCL | t::TIOCNXCL => {
                tty.state.lock().exclusive = request == t::TIOCEXCL;
                Ok(0)
            }
            t::TIOCGEXCL => {
                let exclusive = tty.state.lock().exclusive;
                UserPtr::new(argument).write(&i32::from(exclusive)).map(|()| 0)
            }
            _ => return None,
        })
    }

    /// What waits, flushes, stops and starts.
    fn flow(&self, request: u32, argument: u64) -> Option<Result<usize>> {
        let tty = self.tty();
        Some(match request {
            t::FIONREAD => {
                let state = tty.state.lock();
                let count = if self.is_master() { state.ldisc.output_waiting() } else { state.ldisc.readable_bytes() };
                drop(state);
                UserPtr::new(argument).write(&(count as i32)).map(|()| 0)
            }
            t::TIOCOUTQ => {
                let count = if self.is_master() { 0 } else { tty.state.lock().ldisc.output_waiting() };
                UserPtr::new(argument).write(&(count as i32)).map(|()| 0)
            }
            t::TCFLSH => job::check_change(tty).and_then(|()| {
                flush(tty, argument)?;
                if !self.is_master() {
                    let input = if argument == t::TCOFLUSH { 0 } else { t::TIOCPKT_FLUSHREAD };
                    let output = if argument == t::TCIFLUSH { 0 } else { t::TIOCPKT_FLUSHWRITE };
                    pty::tell_master(tty, input | output, 0);
                }
                Ok(0)
            }),
            t::TCXONC => job::check_change(tty).and_then(|()| {
                let was_stopped = tty.state.lock().ldisc.is_stopped();
                flow_control(tty, argument)?;
                pty::tell_flow(tty, was_stopped);
                Ok(0)
            }),
            // A break is not sent: the ports have no way to; waiting for the output is the part that matters.
            t::TCSBRK | t::TCSBRKP => job::check_change(tty).and_then(|()| self.drain()).map(|()| 0),
            t::TIOCSBRK | t::TIOCCBRK => job::check_change(tty).map(|()| 0),
            // Faked input is for CAP_SYS_ADMIN alone (`dev.tty.legacy_tiocsti` = 0, Linux `tiocsti`).
            t::TIOCSTI if self.is_master() || !current().capable(abi::capability::CAP_SYS_ADMIN) => Err(Errno::EIO),
            t::TIOCSTI => UserPtr::new(argument).read().map(|byte: u8| {
                tty.receive(&[byte]);
                0
            }),
            _ => return None,
        })
    }

    /// Sessions and process groups.
    fn jobs(&self, request: u32, argument: u64, may_read: bool) -> Option<Result<usize>> {
        let tty = self.tty();
        Some(match request {
            t::TIOCSCTTY if self.is_master() => Err(Errno::EIO),
            t::TIOCSCTTY => job::take_controlling(tty, argument == 1, may_read).map(|()| 0),
            t::TIOCNOTTY => job::give_up(tty).map(|()| 0),
            t::TIOCGPGRP => job::foreground(tty, self.is_master())
                .and_then(|number| UserPtr::new(argument).write(&number))
                .map(|()| 0),
            t::TIOCSPGRP => {
                UserPtr::new(argument).read().and_then(|number: i32| job::set_foreground(tty, number)).map(|()| 0)
            }
            t::TIOCGSID => job::session_number(tty, self.is_master())
                .and_then(|number| UserPtr::new(argument).write(&number))
                .map(|()| 0),
            _ => return None,
        })
    }

    /// What only a master knows.
    fn pseudo(&self, request: u32, argument: u64) -> Result<usize> {
        let Some((number, master)) = self.tty().pty().filter(|_| self.is_master()) else {
            return Err(Errno::ENOTTY);
        };
        match request {
            t::TIOCGPTN => UserPtr::new(argument).write(&number)?,
            t::TIOCSPTLCK => {
                let lock: i32 = UserPtr::new(argument).read()?;
                master.locked.store(lock != 0, Ordering::Release);
            }
            t::TIOCPKT => {
                let on: i32 = UserPtr::new(argument).read()?;
                master.set_packet(on != 0);
            }
            t::TIOCGPKT => {
                let on = i32::from(master.packet.load(Ordering::Acquire));
                UserPtr::new(argument).write(&on)?;
            }
            t::TIOCGPTLCK => {
                let locked = i32::from(master.locked.load(Ordering::Acquire));
                UserPtr::new(argument).write(&locked)?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    /// Puts new settings in force (`set_termios`).
    fn set(&self, new: Termios, when: When) -> Result<usize> {
        let tty = self.tty();
        if !self.is_master() {
            job::check_change(tty)?;
        }
        if when != When::Now {
            self.drain()?;
        }
        let mut state = tty.state.lock();
        if when == When::DrainedAndFlushed {
            state.ldisc.flush(Flush::Input);
        }
        let old = *state.ldisc.termios();
        let was_stopped = state.ldisc.is_stopped();
        state.ldisc.set_termios(new);
        drop(state);
        pty::tell_flow(tty, was_stopped);
        pty::tell_settings(tty, &old, &new);
        // The change may have made something readable or writable, or output may go on.
        tty.readable.wake_all();
        tty.writable.wake_all();
        tty.resume_input();
        tty.push_output();
        Ok(0)
    }
}

fn get_termios(tty: &Tty, address: u64, length: usize) -> Result<usize> {
    let termios = *tty.state.lock().ldisc.termios();
    hal::uaccess::copy_to_user(address, &termios.as_bytes()[..length]).map_err(|_| Errno::EFAULT)?;
    Ok(0)
}

/// The new settings; what the old layout lacks stays as it is.
fn read_termios(tty: &Tty, address: u64, length: usize) -> Result<Termios> {
    let mut bytes = [0; size_of::<Termios>()];
    let current = *tty.state.lock().ldisc.termios();
    bytes.copy_from_slice(current.as_bytes());
    hal::uaccess::copy_from_user(&mut bytes[..length], address).map_err(|_| Errno::EFAULT)?;
    let mut new = Termios::read_from_bytes(&bytes).map_err(|_| Errno::EFAULT)?;
    if length == t::TERMIOS_SIZE
        && let Some(speed) = speed_of(new.c_cflag)
    {
        new.c_ispeed = speed;
        new.c_ospeed = speed;
    }
    Ok(new)
}

/// Bits per second of the CBAUD bits (`baud_table`); `None` for BOTHER, whose speed is in the structure.
fn speed_of(control: u32) -> Option<u32> {
    const SLOW: [u32; 16] = [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19_200, 38_400];
    const FAST: [u32; 15] = [
        57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000,
        2_500_000, 3_000_000, 3_500_000, 4_000_000,
    ];
    let index = (control & 0o17) as usize;
    if control & 0o10000 == 0 { Some(SLOW[index]) } else { FAST.get(index.checked_sub(1)?).copied() }
}

fn get_termio(tty: &Tty, address: u64) -> Result<usize> {
    let termios = *tty.state.lock().ldisc.termios();
    let low = |flags: u32| (flags & 0xffff) as u16;
    let old = Termio {
        c_iflag: low(termios.c_iflag),
        c_oflag: low(termios.c_oflag),
        c_cflag: low(termios.c_cflag),
        c_lflag: low(termios.c_lflag),
        c_line: termios.c_line,
        c_cc: core::array::from_fn(|i| termios.c_cc[i]),
        _pad: 0,
    };
    UserPtr::new(address).write(&old)?;
    Ok(0)
}

fn read_termio(tty: &Tty, address: u64) -> Result<Termios> {
    let old: Termio = UserPtr::new(address).read()?;
    let mut new = *tty.state.lock().ldisc.termios();
    let merge = |flags: u32, low: u16| flags & !0xffff | u32::from(low);
    new.c_iflag = merge(new.c_iflag, old.c_iflag);
    new.c_oflag = merge(new.c_oflag, old.c_oflag);
    new.c_cflag = merge(new.c_cflag, old.c_cflag);
    new.c_lflag = merge(new.c_lflag, old.c_lflag);
    new.c_cc[..8].copy_from_slice(&old.c_cc);
    Ok(new)
}

/// Tells the foreground group if the size changed (`tty_do_resize`).
fn set_window_size(tty: &Tty, size: Winsize) -> usize {
    let mut state = tty.state.lock();
    let changed = core::mem::replace(&mut state.winsize, size) != size;
    drop(state);
    if changed {
        job::signal_foreground(tty, SIGWINCH);
    }
    0
}

fn flush(tty: &Tty, queue: u64) -> Result<usize> {
    if queue > t::TCIOFLUSH {
        return Err(Errno::EINVAL);
    }
    let mut state = tty.state.lock();
    if queue != t::TCOFLUSH {
        state.ldisc.flush(Flush::Input);
    }
    if queue != t::TCIFLUSH {
        state.ldisc.flush(Flush::Output);
    }
    drop(state);
    tty.resume_input();
    tty.writable.wake_all();
    Ok(0)
}

fn flow_control(tty: &Tty, action: u64) -> Result<usize> {
    let mut state = tty.state.lock();
    let cc = state.ldisc.termios().c_cc;
    match action {
        t::TCOOFF => state.ldisc.stop(),
        t::TCOON => state.ldisc.start(),
        t::TCIOFF if cc[t::VSTOP] != 0 => state.ldisc.send_raw(cc[t::VSTOP]),
        t::TCION if cc[t::VSTART] != 0 => state.ldisc.send_raw(cc[t::VSTART]),
        t::TCIOFF | t::TCION => {}
        _ => return Err(Errno::EINVAL),
    }
    drop(state);
    tty.push_output();
    Ok(0)
}

/// vhangup(2): `EPERM` without CAP_SYS_TTY_CONFIG.
pub fn vhangup() -> Result<()> {
    if !current().capable(abi::capability::CAP_SYS_TTY_CONFIG) {
        return Err(Errno::EPERM);
    }
    if let Some(tty) = job::current_tty() {
        job::hang_up(&tty);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::speed_of;

    #[test]
    fn baud_bits_have_linux_speeds() {
        assert_eq!(speed_of(abi::tty::B9600), Some(9600));
        assert_eq!(speed_of(abi::tty::B38400), Some(38_400));
        assert_eq!(speed_of(abi::tty::B115200), Some(115_200));
        assert_eq!(speed_of(0o10000), None);
    }
}
