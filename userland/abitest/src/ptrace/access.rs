//! Memory of another process without stopping it: process_vm_readv(2), process_vm_writev(2), `/proc/PID/mem`.

use super::*;
use crate::case::{Case, Outcome, cases, fails, holds, same};

pub const CASES: &[Case] = cases![
    memory_is_read_across_processes,
    memory_is_written_across_processes,
    runs_of_different_lengths_are_joined,
    a_transfer_ends_before_the_first_hole,
    nothing_to_do_is_nothing_asked,
    process_vm_checks_its_arguments,
    process_vm_of_nobody_is_esrch,
    process_vm_of_root_is_eperm_for_users,
    rights_of_the_area_count,
    its_own_memory_may_be_asked_for,
    mem_is_read_and_written_at_offsets,
    mem_writes_what_is_read_only,
    mem_holes_are_eio,
    mem_is_gone_after_exec,
    mem_is_gone_after_exit,
    mem_of_root_is_eacces_for_users,
    mem_of_a_kernel_thread_is_empty,
    mem_seeks_anywhere,
];

fn process_vm(call: c_long, pid: i32, local: &[(usize, usize)], remote: &[(usize, usize)]) -> Result<usize> {
    let flat = |side: &[(usize, usize)]| side.iter().flat_map(|run| [run.0, run.1]).collect::<Vec<usize>>();
    let (here, there) = (flat(local), flat(remote));
    sys!(call, pid, here.as_ptr(), local.len(), there.as_ptr(), remote.len(), 0)
}

/// A child with a page that holds `text`, and where that is.
fn holder(text: &[u8]) -> Got<(i32, usize, Gate)> {
    let page = memory(4096)?;
    for (index, byte) in text.iter().enumerate() {
        poke(page + index, *byte);
    }
    let (pid, gate) = waiting(move || i32::from(peek::<u8>(page)))?;
    holds!(settles(pid, "S")?);
    Ok((pid, page, gate))
}

fn memory_is_read_across_processes() -> Outcome {
    let (pid, page, _gate) = holder(b"remote")?;
    poke(page, *b"______");
    let mut buffer = [0u8; 6];
    same!(process_vm(SYS_process_vm_readv, pid, &[(&raw mut buffer as usize, 6)], &[(page, 6)])?, 6);
    same!(&buffer, b"remote");
    Ok(())
}

fn memory_is_written_across_processes() -> Outcome {
    let (pid, page, gate) = holder(b"x")?;
    let buffer = [5u8];
    same!(process_vm(SYS_process_vm_writev, pid, &[(&raw const buffer as usize, 1)], &[(page, 1)])?, 1);
    same!(peek::<u8>(page), b'x');
    gate.open()?;
    same!(next(pid)?, Exit(5));
    Ok(())
}

fn runs_of_different_lengths_are_joined() -> Outcome {
    let (pid, page, _gate) = holder(b"0123456789")?;
    let mut buffer = [0u8; 10];
    let here = &raw mut buffer as usize;
    let local = [(here, 1), (here + 1, 0), (here + 1, 4), (here + 5, 5)];
    let remote = [(page + 8, 2), (page, 3), (page + 100, 0), (page + 3, 5)];
    same!(process_vm(SYS_process_vm_readv, pid, &local, &remote)?, 10);
    same!(&buffer, b"8901234567");
    // The shorter side ends it.
    same!(process_vm(SYS_process_vm_readv, pid, &[(here, 3)], &[(page, 10)])?, 3);
    same!(process_vm(SYS_process_vm_readv, pid, &[(here, 10)], &[(page, 2)])?, 2);
    Ok(())
}

fn a_transfer_ends_before_the_first_hole() -> Outcome {
    let pages = memory(3 * 4096)?;
    for page in 0..3 {
        poke(pages + page * 4096, 1u8);
    }
    sys!(SYS_munmap, pages + 8192, 4096)?;
    let (pid, _gate) = waiting(|| 0)?;
    let buffer = memory(3 * 4096)?;
    let read = SYS_process_vm_readv;
    same!(process_vm(read, pid, &[(buffer, 3 * 4096)], &[(pages + 100, 3 * 4096 - 100)])?, 2 * 4096 - 100);
    same!(process_vm(read, pid, &[(buffer, 8)], &[(pages, 4), (pages + 8192, 4)])?, 4);
    fails!(process_vm(read, pid, &[(buffer, 8)], &[(pages + 8192, 4), (pages, 4)]), EFAULT);
    fails!(process_vm(read, pid, &[(8, 8)], &[(pages, 8)]), EFAULT);
    fails!(process_vm(SYS_process_vm_writev, pid, &[(8, 8)], &[(pages, 8)]), EFAULT);
    Ok(())
}

fn nothing_to_do_is_nothing_asked() -> Outcome {
    let nobody = 1 << 22;
    let page = memory(4096)?;
    let read = SYS_process_vm_readv;
    same!(process_vm(read, nobody, &[], &[(page, 4)])?, 0);
    same!(process_vm(read, nobody, &[(page, 0)], &[(page, 4)])?, 0);
    same!(process_vm(read, nobody, &[(page, 4)], &[])?, 0);
    same!(process_vm(read, nobody, &[(page, 4)], &[(8, 0)])?, 0);
    Ok(())
}

fn process_vm_checks_its_arguments() -> Outcome {
    let page = memory(4096)?;
    let me = getpid();
    let run = [page, 4];
    for call in [SYS_process_vm_readv, SYS_process_vm_writev] {
        fails!(sys!(call, me, run.as_ptr(), 1, run.as_ptr(), 1, 1), EINVAL);
        fails!(sys!(call, me, run.as_ptr(), 1025, run.as_ptr(), 1, 0), EINVAL);
        fails!(sys!(call, me, run.as_ptr(), 1, run.as_ptr(), 1025, 0), EINVAL);
        fails!(sys!(call, me, run.as_ptr(), 1, run.as_ptr(), 1usize << 32, 0), EINVAL);
        // Linux takes the low half of the local count alone.
        same!(sys!(call, me, run.as_ptr(), 1usize << 32, run.as_ptr(), 1, 0)?, 0);
        fails!(process_vm(call, me, &[(page, usize::MAX)], &[(page, 4)]), EINVAL);
        fails!(process_vm(call, me, &[(page, 4)], &[(page, usize::MAX)]), EINVAL);
        fails!(sys!(call, me, 8, 1, run.as_ptr(), 1, 0), EFAULT);
        fails!(sys!(call, me, run.as_ptr(), 1, 8, 1, 0), EFAULT);
    }
    Ok(())
}

fn process_vm_of_nobody_is_esrch() -> Outcome {
    let page = memory(4096)?;
    for pid in [1 << 22, 0, -1] {
        fails!(process_vm(SYS_process_vm_readv, pid, &[(page, 4)], &[(page, 4)]), ESRCH);
    }
    // No memory: a zombie and a kernel thread.
    let zombie = child(|| 0)?;
    holds!(settles(zombie, "Z")?);
    fails!(process_vm(SYS_process_vm_readv, zombie, &[(page, 4)], &[(page, 4)]), ESRCH);
    fails!(process_vm(SYS_process_vm_readv, 2, &[(page, 4)], &[(page, 4)]), ESRCH);
    Ok(())
}

/// What `attempt` says in a user's process: 0, or the error.
fn as_user(attempt: impl FnOnce() -> Result<usize>) -> Got<i32> {
    let user = child(|| match become_user() {
        Ok(()) => attempt().err().map_or(0, |error| error.0),
        Err(_) => 99,
    })?;
    Ok(status(user)?)
}

fn process_vm_of_root_is_eperm_for_users() -> Outcome {
    let (pid, page, _gate) = holder(b"x")?;
    for call in [SYS_process_vm_readv, SYS_process_vm_writev] {
        same!(as_user(|| process_vm(call, pid, &[(page, 1)], &[(page, 1)]))?, EPERM);
    }
    Ok(())
}

fn rights_of_the_area_count() -> Outcome {
    let page = memory(4096)?;
    let read_only = memory(4096)?;
    poke(read_only, 3u8);
    sys!(SYS_mprotect, page, 4096, PROT_NONE)?;
    sys!(SYS_mprotect, read_only, 4096, PROT_READ)?;
    let (pid, _gate) = waiting(|| 0)?;
    let buffer = memory(4096)?;
    let (read, write) = (SYS_process_vm_readv, SYS_process_vm_writev);
    fails!(process_vm(read, pid, &[(buffer, 4)], &[(page, 4)]), EFAULT);
    fails!(process_vm(write, pid, &[(buffer, 4)], &[(page, 4)]), EFAULT);
    same!(process_vm(read, pid, &[(buffer, 4)], &[(read_only, 4)])?, 4);
    fails!(process_vm(write, pid, &[(buffer, 4)], &[(read_only, 4)]), EFAULT);
    Ok(())
}

fn its_own_memory_may_be_asked_for() -> Outcome {
    let page = memory(8192)?;
    poke(page, 0x1234u32);
    same!(process_vm(SYS_process_vm_readv, getpid(), &[(page + 4096, 4)], &[(page, 4)])?, 4);
    same!(peek::<u32>(page + 4096), 0x1234);
    Ok(())
}

fn mem(pid: i32) -> Result<i32> {
    open(&format!("/proc/{pid}/mem"), O_RDWR, 0)
}

fn read_at(fd: i32, address: usize, buffer: &mut [u8]) -> Result<usize> {
    sys!(SYS_pread64, fd, buffer.as_mut_ptr(), buffer.len(), address)
}

fn write_at(fd: i32, address: usize, bytes: &[u8]) -> Result<usize> {
    sys!(SYS_pwrite64, fd, bytes.as_ptr(), bytes.len(), address)
}

fn mem_is_read_and_written_at_offsets() -> Outcome {
    let (pid, page, gate) = holder(b"abc")?;
    let fd = mem(pid)?;
    let mut buffer = [0; 3];
    same!(read_at(fd, page, &mut buffer)?, 3);
    same!(&buffer, b"abc");
    same!(write_at(fd, page, &[9])?, 1);
    same!(sys!(SYS_lseek, fd, page, SEEK_SET)?, page);
    same!(read(fd, &mut buffer)?, 3);
    same!(&buffer, b"\x09bc");
    same!(sys!(SYS_lseek, fd, 0, SEEK_CUR)?, page + 3);
    gate.open()?;
    same!(next(pid)?, Exit(9));
    Ok(())
}

fn mem_writes_what_is_read_only() -> Outcome {
    let page = memory(4096)?;
    poke(page, 1u8);
    sys!(SYS_mprotect, page, 4096, PROT_READ)?;
    let shared = map(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS)?;
    let (pid, gate) = waiting(move || i32::from(peek::<u8>(page)))?;
    let fd = mem(pid)?;
    same!(write_at(fd, page, &[8])?, 1);
    same!(peek::<u8>(page), 1);
    fails!(write_at(fd, shared, &[8]), EIO);
    gate.open()?;
    same!(next(pid)?, Exit(8));
    Ok(())
}

fn mem_holes_are_eio() -> Outcome {
    let pages = memory(8192)?;
    poke(pages, 1u8);
    sys!(SYS_munmap, pages + 4096, 4096)?;
    let (pid, _gate) = waiting(|| 0)?;
    let fd = mem(pid)?;
    let mut buffer = [0; 100];
    fails!(read_at(fd, 0, &mut buffer), EIO);
    fails!(read_at(fd, pages + 4096, &mut buffer), EIO);
    fails!(write_at(fd, 16, b"x"), EIO);
    // A page at a time: what lies before the hole is read.
    same!(read_at(fd, pages + 4096 - 10, &mut buffer)?, 10);
    fails!(sys!(SYS_pread64, fd, 8, 4, pages), EFAULT);
    Ok(())
}

fn mem_is_gone_after_exec() -> Outcome {
    let (pid, gate) = waiting(|| {
        let program = path("/proc/self/exe");
        let argument = path("helper:threads");
        let argv = [program.as_ptr(), argument.as_ptr(), std::ptr::null()];
        let _ = sys!(SYS_execve, program.as_ptr(), argv.as_ptr(), 0);
        1
    })?;
    let fd = mem(pid)?;
    let page = memory(4096)?;
    ptrace(SEIZE, pid, 0, O_EXEC)?;
    gate.open()?;
    same!(next(pid)?, trap(EVENT_EXEC));
    let mut buffer = [0; 4];
    same!(read_at(fd, page, &mut buffer)?, 0);
    same!(write_at(fd, page, b"x")?, 0);
    kill(pid, SIGKILL)?;
    Ok(())
}

fn mem_is_gone_after_exit() -> Outcome {
    let (pid, page, gate) = holder(b"x")?;
    let fd = mem(pid)?;
    gate.open()?;
    holds!(settles(pid, "Z")?);
    let mut buffer = [0; 4];
    same!(read_at(fd, page, &mut buffer)?, 0);
    // A zombie has no memory to refer to.
    let late = mem(pid)?;
    same!(read_at(late, page, &mut buffer)?, 0);
    Ok(())
}

fn mem_of_root_is_eacces_for_users() -> Outcome {
    let (pid, _page, _gate) = holder(b"x")?;
    same!(as_user(|| mem(pid).map(|fd| fd as usize))?, EACCES);
    same!(as_user(|| open("/proc/self/mem", O_RDWR, 0).map(|fd| fd as usize))?, EACCES);
    let own = as_user(|| {
        sys!(SYS_prctl, PR_SET_DUMPABLE, 1)?;
        open("/proc/self/mem", O_RDWR, 0).map(|fd| fd as usize)
    })?;
    same!(own, 0);
    Ok(())
}

fn mem_of_a_kernel_thread_is_empty() -> Outcome {
    let fd = mem(2)?;
    same!(read_at(fd, 4096, &mut [0; 4])?, 0);
    Ok(())
}

fn mem_seeks_anywhere() -> Outcome {
    let fd = mem(getpid())?;
    let far = 0xffff_8000_0000_0000usize;
    same!(raw(SYS_lseek, fill([fd as usize, far, SEEK_SET as usize])) as usize, far);
    fails!(read(fd, &mut [0; 4]), EIO);
    fails!(sys!(SYS_lseek, fd, 0, SEEK_END), EINVAL);
    Ok(())
}
