//! How the cost of fork, exec and a page fault grows: with the memory that the process has written to, and with the number
//! of tasks that sleep meanwhile. These rows show a slope and are not part of the table's mean.

use super::Row;
use super::process::{fork, fork_exec};
use crate::meter::Meter;
use crate::sys::{self, Errno, Mapping, Result, call};

/// Three rows for each size: `fork/16MiB` and so on.
macro_rules! with_memory {
    ($($mib:literal)*) => {
        &[$(
            Row { name: concat!("fork/", $mib, "MiB"), run: |meter| beside(resident($mib), meter, fork) },
            Row { name: concat!("exec/", $mib, "MiB"), run: |meter| beside(resident($mib), meter, fork_exec) },
            Row { name: concat!("fault/", $mib, "MiB"), run: |meter| beside(resident($mib), meter, fault) },
        )*]
    };
}

/// Three rows for each number of tasks.
macro_rules! with_tasks {
    ($($tasks:literal)*) => {
        &[$(
            Row { name: concat!("fork/", $tasks, "tasks"), run: |meter| beside(Crowd::new($tasks), meter, fork) },
            Row { name: concat!("exec/", $tasks, "tasks"), run: |meter| beside(Crowd::new($tasks), meter, fork_exec) },
            Row { name: concat!("fault/", $tasks, "tasks"), run: |meter| beside(Crowd::new($tasks), meter, fault) },
        )*]
    };
}

pub const MEMORY: &[Row] = with_memory!(1 16 64 256);
pub const TASKS: &[Row] = with_tasks!(10 100 1000 10000);

fn beside<T>(company: Result<T>, meter: &mut Meter, row: fn(&mut Meter) -> Result<()>) -> Result<()> {
    let _company = company?;
    row(meter)
}

/// The first write to a page, per page.
fn fault(meter: &mut Meter) -> Result<()> {
    const PAGES: usize = 256;
    meter.batches(
        PAGES as u64,
        || Mapping::small_pages(PAGES * 4096),
        |memory| {
            memory.touch();
            Ok(())
        },
    )
}

fn resident(mib: usize) -> Result<Mapping> {
    let memory = Mapping::small_pages(mib << 20)?;
    memory.touch();
    Ok(memory)
}

/// A process whose threads sleep until it is killed with the value.
struct Crowd(i32);

impl Crowd {
    fn new(tasks: usize) -> Result<Crowd> {
        // The default allows fewer on a machine of 1 GiB. Where it cannot be raised, the calls below say so.
        let _ = std::fs::write("/proc/sys/kernel/threads-max", "20000");
        let (from, to) = super::ipc::pipe()?;
        let pid = sys::child(|| {
            for _ in 1..tasks {
                if let Err(errno) = sys::sleeping_thread() {
                    super::ipc::write(to, errno.0 as u8)?;
                    sys::exit(1);
                }
            }
            super::ipc::write(to, 0)?;
            call(sys::SYS_ppoll, [0, 0, 0, 0]).map(drop)
        })?;
        let crowd = Crowd(pid);
        let answer = super::ipc::read(from);
        for end in [from, to] {
            call(sys::SYS_close, [end])?;
        }
        match answer? {
            0 => Ok(crowd),
            errno => Err(Errno(i32::from(errno))),
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = call(sys::SYS_kill, [self.0 as usize, sys::SIGKILL as usize]);
        let _ = sys::wait(self.0);
    }
}
