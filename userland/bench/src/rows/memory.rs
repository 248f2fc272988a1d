//! Mappings and page faults. A page is 4 KiB.

use super::Row;
use crate::meter::Meter;
use crate::sys::{self, MAP_PRIVATE, Mapping, Result, call};

pub const ROWS: &[Row] = &[
    Row { name: "cow_fault", run: cow_fault },
    Row { name: "anon_fault", run: anon_fault },
    Row { name: "touch_16m", run: touch_16m },
    Row { name: "munmap_page", run: munmap_page },
    Row { name: "mmap_munmap", run: mmap_munmap },
    Row { name: "mmap_touch_munmap", run: mmap_touch_munmap },
    Row { name: "brk", run: brk },
    Row { name: "mprotect", run: mprotect },
];

const PAGES: usize = 1024;
const PAGE: usize = 4096;
const SMALL: usize = 64 << 10;

/// A write to a page that is shared with a child, per page. The child writes and times nothing: it lives.
fn cow_fault(meter: &mut Meter) -> Result<()> {
    let memory = Mapping::small_pages(PAGES * PAGE)?;
    memory.touch();
    meter.batches(PAGES as u64, Sleeper::new, |_| {
        memory.touch();
        Ok(())
    })
}

/// The first write to a page of anonymous memory, without huge pages, per page.
fn anon_fault(meter: &mut Meter) -> Result<()> {
    meter.batches(
        PAGES as u64,
        || Mapping::small_pages(PAGES * PAGE),
        |memory| {
            memory.touch();
            Ok(())
        },
    )
}

/// As before, 16 MiB and with whatever the kernel does by itself, per page of 4 KiB.
fn touch_16m(meter: &mut Meter) -> Result<()> {
    const LENGTH: usize = 16 << 20;
    meter.batches(
        (LENGTH / PAGE) as u64,
        || Mapping::anonymous(LENGTH, MAP_PRIVATE),
        |memory| {
            memory.touch();
            Ok(())
        },
    )
}

/// munmap of memory that was written to, per page.
fn munmap_page(meter: &mut Meter) -> Result<()> {
    let setup = || {
        let memory = Mapping::small_pages(PAGES * PAGE)?;
        memory.touch();
        Ok(memory)
    };
    meter.batches(PAGES as u64, setup, Mapping::unmap)
}

/// mmap and munmap of 64 KiB that nobody touches.
fn mmap_munmap(meter: &mut Meter) -> Result<()> {
    meter.repeat(|| Mapping::anonymous(SMALL, MAP_PRIVATE)?.unmap())
}

/// mmap of 64 KiB, a write to each page, munmap.
fn mmap_touch_munmap(meter: &mut Meter) -> Result<()> {
    meter.repeat(|| {
        let mut memory = Mapping::anonymous(SMALL, MAP_PRIVATE)?;
        memory.touch();
        memory.unmap()
    })
}

/// brk 64 KiB up and down again.
fn brk(meter: &mut Meter) -> Result<()> {
    let start = call(sys::SYS_brk, [0])?;
    meter.repeat(|| {
        call(sys::SYS_brk, [start + SMALL])?;
        call(sys::SYS_brk, [start]).map(drop)
    })
}

/// mprotect of 64 KiB that were written to: read-only, and writable again.
fn mprotect(meter: &mut Meter) -> Result<()> {
    let memory = Mapping::small_pages(SMALL)?;
    memory.touch();
    let both = (sys::PROT_READ | sys::PROT_WRITE) as usize;
    meter.repeat(|| {
        call(sys::SYS_mprotect, [memory.address(), memory.length(), sys::PROT_READ as usize])?;
        call(sys::SYS_mprotect, [memory.address(), memory.length(), both]).map(drop)
    })
}

/// A child that shares our memory until the value is dropped.
struct Sleeper(i32);

impl Sleeper {
    fn new() -> Result<Sleeper> {
        sys::child(|| call(sys::SYS_ppoll, [0, 0, 0, 0]).map(drop)).map(Sleeper)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = call(sys::SYS_kill, [self.0 as usize, sys::SIGKILL as usize]);
        let _ = sys::wait(self.0);
    }
}
