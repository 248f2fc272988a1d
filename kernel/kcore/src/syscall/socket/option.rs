//! getsockopt(2) and setsockopt(2): the options of socket(7) and unix(7).

use alloc::vec::Vec;

use abi::Errno;
use abi::capability::CAP_NET_ADMIN;
use abi::socket as s;
use abi::time::Timeval;
use zerocopy::IntoBytes;

use super::super::{Context, UserPtr};
use super::with_socket;
use crate::Result;

/// getsockopt(2).
pub fn getsockopt(
    cx: &mut Context<'_>,
    fd: i32,
    level: u32,
    option: u32,
    value: u64,
    length: UserPtr<i32>,
) -> Result<usize> {
    with_socket(cx, fd, |_, socket| {
        let room = usize::try_from(length.read()?).map_err(|_| Errno::EINVAL)?;
        if level != s::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        let bytes: Vec<u8> = match option {
            s::SO_PEERCRED => socket.peer_credentials().as_bytes().to_vec(),
            s::SO_RCVTIMEO | s::SO_SNDTIMEO => {
                let microseconds = socket.timeout(option == s::SO_SNDTIMEO) / 1000;
                let (seconds, rest) = (microseconds / 1_000_000, microseconds % 1_000_000);
                Timeval { tv_sec: seconds as i64, tv_usec: rest as i64 }.as_bytes().to_vec()
            }
            s::SO_LINGER => {
                let (l_onoff, l_linger) = socket.linger();
                s::Linger { l_onoff, l_linger }.as_bytes().to_vec()
            }
            option => socket.option(option)?.as_bytes().to_vec(),
        };
        let stored = bytes.len().min(room);
        UserPtr::<u8>::new(value).write_many(&bytes[..stored])?;
        length.write(&(stored as i32))?;
        Ok(0)
    })
}

/// setsockopt(2).
pub fn setsockopt(cx: &mut Context<'_>, fd: i32, level: u32, option: u32, value: u64, length: i32) -> Result<usize> {
    with_socket(cx, fd, |_, socket| {
        let given = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
        // unix_ops has no setsockopt of its own.
        if level != s::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        let enough = |needed: usize| if given < needed { Err(Errno::EINVAL) } else { Ok(()) };
        enough(size_of::<i32>())?;
        match option {
            s::SO_RCVTIMEO | s::SO_SNDTIMEO => {
                enough(size_of::<Timeval>())?;
                let time = UserPtr::<Timeval>::new(value).read()?;
                socket.set_timeout(option == s::SO_SNDTIMEO, timeout_ns(&time)?);
            }
            s::SO_LINGER => {
                enough(size_of::<s::Linger>())?;
                let linger = UserPtr::<s::Linger>::new(value).read()?;
                socket.set_linger(linger.l_onoff != 0, linger.l_linger);
            }
            _ => {
                let number = UserPtr::<i32>::new(value).read()?;
                socket.set_option(option, number, cx.task.capable(CAP_NET_ADMIN))?;
            }
        }
        Ok(0)
    })
}

/// socket(7): zero is for ever. A time that is none is `EDOM`, a negative one is no time at all (Linux `sock_set_timeout`).
fn timeout_ns(time: &Timeval) -> Result<u64> {
    if !(0..1_000_000).contains(&time.tv_usec) {
        return Err(Errno::EDOM);
    }
    if time.tv_sec < 0 {
        return Ok(1);
    }
    Ok((time.tv_sec.unsigned_abs()).saturating_mul(1_000_000_000).saturating_add(time.tv_usec.unsigned_abs() * 1000))
}
