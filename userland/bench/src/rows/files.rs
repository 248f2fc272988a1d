//! Files, directories and /proc.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::Row;
use crate::meter::Meter;
use crate::sys::{self, Errno, Result, call};

pub const ROWS: &[Row] = &[
    Row { name: "read_zero", run: read_zero },
    Row { name: "write_null", run: write_null },
    Row { name: "open_close", run: open_close },
    Row { name: "stat", run: stat },
    Row { name: "pread_1m", run: pread_1m },
    Row { name: "mmap_read_1m", run: mmap_read_1m },
    Row { name: "create_unlink", run: create_unlink },
    Row { name: "getdents_proc", run: getdents_proc },
    Row { name: "proc_self_stat", run: proc_self_stat },
];

/// The rows that need one fall here: an ordinary file in memory on both kernels.
const FOLDER: &str = "/tmp/bench";
const MEGABYTE: usize = 1 << 20;

/// A file of 1 MiB, all of it written.
fn megabyte() -> Result<std::fs::File> {
    let open = || {
        std::fs::create_dir_all(FOLDER)?;
        let path = format!("{FOLDER}/megabyte");
        std::fs::write(&path, vec![7_u8; MEGABYTE])?;
        std::fs::File::open(path)
    };
    open().map_err(|error: std::io::Error| Errno(error.raw_os_error().unwrap_or(sys::EIO)))
}

fn open(path: &CStr, flags: i32) -> Result<usize> {
    call(sys::SYS_openat, [sys::AT_FDCWD as usize, path.as_ptr().addr(), flags as usize, 0o600])
}

fn close(fd: usize) -> Result<()> {
    call(sys::SYS_close, [fd]).map(drop)
}

/// A file that is closed with the value.
fn opened(path: &str) -> Result<OwnedFd> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(path.starts_with("/dev"))
        .open(path)
        .map(OwnedFd::from)
        .map_err(|error| Errno(error.raw_os_error().unwrap_or(sys::EIO)))
}

/// One byte from /dev/zero.
fn read_zero(meter: &mut Meter) -> Result<()> {
    let file = opened("/dev/zero")?;
    let mut byte = 0_u8;
    meter.repeat(|| call(sys::SYS_read, [file.as_raw_fd() as usize, (&raw mut byte).addr(), 1]).map(drop))
}

/// One byte to /dev/null.
fn write_null(meter: &mut Meter) -> Result<()> {
    let file = opened("/dev/null")?;
    let byte = 0_u8;
    meter.repeat(|| call(sys::SYS_write, [file.as_raw_fd() as usize, (&raw const byte).addr(), 1]).map(drop))
}

/// open and close of /dev/null.
fn open_close(meter: &mut Meter) -> Result<()> {
    meter.repeat(|| close(open(c"/dev/null", sys::O_RDWR)?))
}

/// newfstatat of /bin/busybox.
fn stat(meter: &mut Meter) -> Result<()> {
    let mut buffer = [0_u64; 16];
    meter.repeat(|| {
        let path = c"/bin/busybox".as_ptr().addr();
        call(sys::SYS_newfstatat, [sys::AT_FDCWD as usize, path, buffer.as_mut_ptr().addr(), 0]).map(drop)
    })
}

/// One pread of a whole file of 1 MiB.
fn pread_1m(meter: &mut Meter) -> Result<()> {
    let file = megabyte()?;
    let mut buffer = vec![1_u8; MEGABYTE];
    meter.repeat(|| {
        let read = call(sys::SYS_pread64, [file.as_raw_fd() as usize, buffer.as_mut_ptr().addr(), MEGABYTE, 0])?;
        if read == MEGABYTE { Ok(()) } else { Err(Errno(sys::EIO)) }
    })
}

/// mmap of a file of 1 MiB, a sum over all its words, munmap.
fn mmap_read_1m(meter: &mut Meter) -> Result<()> {
    let file = megabyte()?;
    meter.repeat(|| {
        let mapping = sys::Mapping::new(MEGABYTE, sys::PROT_READ, sys::MAP_SHARED, file.as_raw_fd())?;
        std::hint::black_box(mapping.sum());
        Ok(())
    })
}

/// A new empty file on tmpfs, opened, closed and removed.
fn create_unlink(meter: &mut Meter) -> Result<()> {
    std::fs::create_dir_all(FOLDER).map_err(|error| Errno(error.raw_os_error().unwrap_or(sys::EIO)))?;
    let path = c"/tmp/bench/created";
    meter.repeat(|| {
        close(open(path, sys::O_CREAT | sys::O_EXCL | sys::O_RDWR)?)?;
        call(sys::SYS_unlinkat, [sys::AT_FDCWD as usize, path.as_ptr().addr(), 0]).map(drop)
    })
}

/// All of /proc, with processes added until it has at least 128 entries; the time for 128 of them.
fn getdents_proc(meter: &mut Meter) -> Result<()> {
    const ENTRIES: usize = 128;
    let mut buffer = vec![0_u8; 32 << 10];
    let file = opened("/proc")?;
    let fd = file.as_raw_fd() as usize;
    let mut list = || -> Result<usize> {
        call(sys::SYS_lseek, [fd, 0, sys::SEEK_SET as usize])?;
        let mut entries = 0;
        loop {
            match call(sys::SYS_getdents64, [fd, buffer.as_mut_ptr().addr(), buffer.len()])? {
                0 => return Ok(entries),
                length => entries += count_entries(&buffer[..length]),
            }
        }
    };
    let mut sleepers = Vec::new();
    while list()? < ENTRIES {
        sleepers.push(sys::child(|| call(sys::SYS_ppoll, [0, 0, 0, 0]).map(drop))?);
    }
    let entries = list()?;
    let result = meter.repeat(|| list().map(drop));
    meter.scale(ENTRIES, entries);
    for pid in sleepers {
        call(sys::SYS_kill, [pid as usize, sys::SIGKILL as usize])?;
        // It was killed, which is no error here.
        let _ = sys::wait(pid);
    }
    result
}

/// The records of getdents64(2): the length is the 16 bits at 16.
fn count_entries(records: &[u8]) -> usize {
    let mut rest = records;
    let mut entries = 0;
    while let Some(length) = rest.get(16..18) {
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        rest = rest.get(length.max(1)..).unwrap_or_default();
        entries += 1;
    }
    entries
}

/// open, read and close of /proc/self/stat.
fn proc_self_stat(meter: &mut Meter) -> Result<()> {
    let mut buffer = [0_u8; 1024];
    meter.repeat(|| {
        let fd = open(c"/proc/self/stat", sys::O_RDONLY)?;
        call(sys::SYS_read, [fd, buffer.as_mut_ptr().addr(), buffer.len()])?;
        close(fd)
    })
}
