//! Two that talk: each operation is there and back.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Row;
use crate::meter::Meter;
use crate::sys::{self, Errno, MAP_SHARED, Mapping, Result, call};

pub const ROWS: &[Row] = &[
    Row { name: "pipe_pingpong", run: pipe_pingpong },
    Row { name: "pipe_pingpong_2cpu", run: pipe_pingpong_2cpu },
    Row { name: "pipe_64k", run: pipe_64k },
    Row { name: "unix_pingpong", run: unix_pingpong },
    Row { name: "futex_pingpong", run: futex_pingpong },
    Row { name: "sched_yield", run: sched_yield },
];

/// A child that is killed with the value.
struct Partner(i32);

impl Partner {
    fn new(body: impl FnOnce() -> Result<()>) -> Result<Partner> {
        sys::child(body).map(Partner)
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        let _ = call(sys::SYS_kill, [self.0 as usize, sys::SIGKILL as usize]);
        let _ = sys::wait(self.0);
    }
}

/// The two ends of a pipe: to read from, to write to. They stay open until the program ends.
pub fn pipe() -> Result<(usize, usize)> {
    let mut ends = [0_i32; 2];
    call(sys::SYS_pipe2, [ends.as_mut_ptr().addr(), 0])?;
    Ok((ends[0] as usize, ends[1] as usize))
}

/// Reads a byte; at the end of file it is EPIPE.
pub fn read(fd: usize) -> Result<u8> {
    let mut byte = 0_u8;
    match call(sys::SYS_read, [fd, (&raw mut byte).addr(), 1])? {
        1 => Ok(byte),
        _ => Err(Errno(sys::EPIPE)),
    }
}

fn read_byte(fd: usize) -> Result<()> {
    read(fd).map(drop)
}

pub fn write(fd: usize, byte: u8) -> Result<()> {
    call(sys::SYS_write, [fd, (&raw const byte).addr(), 1]).map(drop)
}

fn write_byte(fd: usize) -> Result<()> {
    write(fd, 0)
}

fn echo(from: usize, to: usize) -> Result<()> {
    loop {
        read_byte(from)?;
        write_byte(to)?;
    }
}

fn ping_pong(meter: &mut Meter, partner_cpu: usize) -> Result<()> {
    let (there, back) = (pipe()?, pipe()?);
    let _partner = Partner::new(|| {
        sys::pin(partner_cpu)?;
        echo(there.0, back.1)
    })?;
    meter.repeat(|| {
        write_byte(there.1)?;
        read_byte(back.0)
    })
}

/// A byte to a process on the same CPU and back, through two pipes.
fn pipe_pingpong(meter: &mut Meter) -> Result<()> {
    ping_pong(meter, 0)
}

/// A byte to a process on another CPU and back.
fn pipe_pingpong_2cpu(meter: &mut Meter) -> Result<()> {
    ping_pong(meter, 1)
}

/// A write of 64 KiB to a pipe that a process on the same CPU empties.
fn pipe_64k(meter: &mut Meter) -> Result<()> {
    const SIZE: usize = 64 << 10;
    let (read_end, write_end) = pipe()?;
    let mut buffer = vec![1_u8; SIZE];
    let address = buffer.as_mut_ptr().addr();
    let _partner = Partner::new(|| {
        while call(sys::SYS_read, [read_end, address, SIZE])? > 0 {}
        Ok(())
    })?;
    meter.repeat(|| match call(sys::SYS_write, [write_end, address, SIZE])? {
        SIZE => Ok(()),
        _ => Err(Errno(sys::EIO)),
    })
}

/// A byte to a process on the same CPU and back, through a pair of stream sockets.
fn unix_pingpong(meter: &mut Meter) -> Result<()> {
    let mut ends = [0_i32; 2];
    let (family, kind) = (sys::AF_UNIX as usize, sys::SOCK_STREAM as usize);
    call(sys::SYS_socketpair, [family, kind, 0, ends.as_mut_ptr().addr()])?;
    let (ours, theirs) = (ends[0] as usize, ends[1] as usize);
    let _partner = Partner::new(|| echo(theirs, theirs))?;
    meter.repeat(|| {
        write_byte(ours)?;
        read_byte(ours)
    })
}

fn wait_until(word: &AtomicU32, value: u32) -> Result<()> {
    while word.load(Ordering::Acquire) != value {
        let address = std::ptr::from_ref(word).addr();
        match call(sys::SYS_futex, [address, sys::FUTEX_WAIT as usize, (value ^ 1) as usize, 0]) {
            Ok(_) | Err(Errno(sys::EAGAIN | sys::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn set(word: &AtomicU32, value: u32) -> Result<()> {
    word.store(value, Ordering::Release);
    call(sys::SYS_futex, [std::ptr::from_ref(word).addr(), sys::FUTEX_WAKE as usize, 1]).map(drop)
}

/// A futex is woken in a process on the same CPU, which wakes another back.
fn futex_pingpong(meter: &mut Meter) -> Result<()> {
    let shared = Mapping::anonymous(4096, MAP_SHARED)?;
    let (there, back) = (shared.word(0), shared.word(16));
    let _partner = Partner::new(|| {
        for turn in 1_u32.. {
            wait_until(there, turn & 1)?;
            set(back, turn & 1)?;
        }
        Ok(())
    })?;
    let mut turn = 0;
    meter.repeat(|| {
        turn ^= 1;
        set(there, turn)?;
        wait_until(back, turn)
    })
}

/// sched_yield while another process on the same CPU does nothing else: both have run when it is over.
fn sched_yield(meter: &mut Meter) -> Result<()> {
    let _partner = Partner::new(|| {
        loop {
            call(sys::SYS_sched_yield, [])?;
        }
    })?;
    meter.repeat(|| call(sys::SYS_sched_yield, []).map(drop))
}
