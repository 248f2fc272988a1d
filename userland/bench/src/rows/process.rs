//! Processes: made, turned into programs, ended, waited for.

use std::ffi::CStr;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::Row;
use crate::meter::Meter;
use crate::sys::{self, Errno, Mapping, Result};

pub const ROWS: &[Row] = &[
    Row { name: "fork", run: fork },
    Row { name: "fork_16m", run: fork_16m },
    Row { name: "fork_exec", run: fork_exec },
    Row { name: "fork_exec_16m", run: fork_exec_16m },
    Row { name: "vfork_exec", run: vfork_exec },
    Row { name: "sh_c", run: sh_c },
    Row { name: "sh_ls", run: sh_ls },
    Row { name: "pthread", run: pthread },
    Row { name: "clone_namespaces", run: clone_namespaces },
];

/// fork, exit in the child, wait.
pub fn fork(meter: &mut Meter) -> Result<()> {
    meter.repeat(|| sys::wait(sys::child(|| Ok(()))?))
}

/// The same with 16 MiB of memory written to before.
fn fork_16m(meter: &mut Meter) -> Result<()> {
    let _memory = resident()?;
    fork(meter)
}

/// fork, execve of a tiny static program, its exit, wait.
pub fn fork_exec(meter: &mut Meter) -> Result<()> {
    tiny()?;
    meter.repeat(|| sys::wait(sys::child(|| Err(sys::exec(&[TINY])))?))
}

/// The same with 16 MiB of memory written to before.
fn fork_exec_16m(meter: &mut Meter) -> Result<()> {
    let _memory = resident()?;
    fork_exec(meter)
}

/// vfork, execve of the tiny program, its exit, wait.
fn vfork_exec(meter: &mut Meter) -> Result<()> {
    tiny()?;
    meter.repeat(|| sys::wait(sys::vfork_exec(TINY)?))
}

/// A shell that runs two programs, whole.
fn sh_c(meter: &mut Meter) -> Result<()> {
    meter.repeat(|| shell(c"/bin/true; /bin/true"))
}

/// One `ls` in a loop of a shell: the time of a shell that runs 20, by 20.
fn sh_ls(meter: &mut Meter) -> Result<()> {
    meter.repeat(|| {
        shell(c"for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do /bin/ls / >/dev/null; done")
    })?;
    meter.scale(1, 20);
    Ok(())
}

fn shell(script: &CStr) -> Result<()> {
    sys::wait(sys::child(|| Err(sys::exec(&[c"/bin/sh", c"-c", script])))?)
}

/// pthread_create and pthread_join.
fn pthread(meter: &mut Meter) -> Result<()> {
    meter.repeat(sys::thread)
}

/// clone into new PID, UTS and mount namespaces, exit, wait.
fn clone_namespaces(meter: &mut Meter) -> Result<()> {
    let flags = sys::SIGCHLD | sys::CLONE_NEWPID | sys::CLONE_NEWUTS | sys::CLONE_NEWNS;
    meter.repeat(|| match sys::clone(flags)? {
        0 => sys::exit(0),
        pid => sys::wait(pid),
    })
}

/// 16 MiB in small pages.
fn resident() -> Result<Mapping> {
    let memory = Mapping::small_pages(16 << 20)?;
    memory.touch();
    Ok(memory)
}

const TINY: &CStr = c"/tmp/bench-tiny";

/// Writes the tiny program: an ELF header, one segment, and exit_group(0).
fn tiny() -> Result<()> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // mov x0, #0; mov x8, #94; svc #0
    let code: [u32; 3] = [0xd280_0000, 0xd280_0bc8, 0xd400_0001];
    let size = HEADERS + 4 * code.len() as u64;
    let mut image = Vec::new();
    image.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC, EM_AARCH64, version 1.
    for half in [2_u16, 183, 1, 0] {
        image.extend_from_slice(&half.to_le_bytes());
    }
    // The entry, the program headers, no sections.
    for word in [BASE + HEADERS, 64, 0] {
        image.extend_from_slice(&word.to_le_bytes());
    }
    // No flags; the sizes and numbers of headers.
    for half in [0_u16, 0, 64, 56, 1, 64, 0, 0] {
        image.extend_from_slice(&half.to_le_bytes());
    }
    // PT_LOAD, readable and executable.
    for word in [1_u32, 5] {
        image.extend_from_slice(&word.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        image.extend_from_slice(&word.to_le_bytes());
    }
    for word in code {
        image.extend_from_slice(&word.to_le_bytes());
    }
    let path = TINY.to_str().map_err(|_| Errno(sys::EINVAL))?;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o755).open(path);
    file.and_then(|mut file| file.write_all(&image)).map_err(|error| Errno(error.raw_os_error().unwrap_or(sys::EIO)))
}
