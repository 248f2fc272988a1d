//! `/proc/PID/maps`, smaps and mem: the address space of a process.

use alloc::sync::{Arc, Weak};

use abi::Errno;
use hal::mem::PAGE_SIZE;

use super::process::Subject;
use super::text::Text;
use crate::Result;
use crate::fs::file::{File, FileOps};
use crate::io::{IoDst, IoSrc};
use crate::mm::{Authority, Backing, Mm, Obstacle, Role, Vma, VmaInfo};
use crate::task::{AccessMode, Task, mm_access};

/// Columns before the name (Linux `show_vma_header_prefix` and `seq_pad`).
const NAME_COLUMN: usize = 73;

fn push_header(text: &mut Text, vma: &Vma) {
    let start = text.len();
    text.hex(vma.start, 8).byte(b'-').hex(vma.end, 8).byte(b' ');
    let right = |set: bool, letter: u8| if set { letter } else { b'-' };
    text.byte(right(vma.protection.read, b'r')).byte(right(vma.protection.write, b'w'));
    text.byte(right(vma.protection.exec, b'x')).byte(if vma.shared { b's' } else { b'p' }).byte(b' ');
    text.hex(vma.offset(), 8).byte(b' ');
    let (major, minor, ino, name) = match &vma.backing {
        Backing::File { file, .. } => {
            let (major, minor, ino) = file.device_and_inode();
            (major, minor, ino, Some(file.name()))
        }
        Backing::SharedAnonymous { .. } => (0, 1, 0, Some(b"/dev/zero (deleted)".to_vec())),
        Backing::Anonymous | Backing::Special => (0, 0, 0, role_name(vma.role).map(|name| name.as_bytes().to_vec())),
    };
    text.hex(u64::from(major), 2).byte(b':').hex(u64::from(minor), 2).byte(b' ').num(ino);
    // A space always follows the inode number, with or without a name.
    text.byte(b' ');
    if let Some(name) = name {
        text.pad_to(start, NAME_COLUMN).escaped(&name, b"\n");
    }
    text.byte(b'\n');
}

fn role_name(role: Role) -> Option<&'static str> {
    match role {
        Role::None => None,
        Role::Heap => Some("[heap]"),
        Role::Stack => Some("[stack]"),
        Role::Vdso => Some("[vdso]"),
        Role::Vvar => Some("[vvar]"),
    }
}

/// `/proc/PID/maps`.
pub(super) fn maps(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let Some(mm) = task.mm() else { return Ok(()) };
    for area in mm.areas() {
        push_header(text, &area.vma);
    }
    Ok(())
}

/// What smaps says of an area, KiB.
#[derive(Clone, Copy, Default)]
struct Sizes {
    size: u64,
    resident: u64,
    anonymous: u64,
    locked: u64,
}

impl Sizes {
    fn of(area: &VmaInfo) -> Self {
        let kib = |pages: u64| pages * (PAGE_SIZE as u64 / 1024);
        let resident = kib(area.resident);
        let private = area.vma.mapping().is_none();
        Self {
            size: kib(area.vma.pages()),
            resident,
            anonymous: if private { resident } else { 0 },
            locked: if area.vma.locked { resident } else { 0 },
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            size: self.size + other.size,
            resident: self.resident + other.resident,
            anonymous: self.anonymous + other.anonymous,
            locked: self.locked + other.locked,
        }
    }

    fn push(&self, text: &mut Text, rollup: bool) {
        for (name, value) in [
            ("Rss:            ", self.resident),
            ("Pss:            ", self.resident),
            ("Pss_Dirty:      ", self.anonymous),
            ("Shared_Clean:   ", 0),
            ("Shared_Dirty:   ", 0),
            ("Private_Clean:  ", self.resident - self.anonymous),
            ("Private_Dirty:  ", self.anonymous),
            ("Referenced:     ", self.resident),
            ("Anonymous:      ", self.anonymous),
            ("LazyFree:       ", 0),
            ("AnonHugePages:  ", 0),
            ("ShmemPmdMapped: ", 0),
            ("FilePmdMapped:  ", 0),
            ("Shared_Hugetlb: ", 0),
            ("Private_Hugetlb:", 0),
            ("Swap:           ", 0),
            ("SwapPss:        ", 0),
            ("Locked:         ", self.locked),
        ] {
            text.str(name).num_right(value, 8).str(" kB\n");
            if rollup && name.starts_with("Pss_Dirty") {
                for (name, value) in [
                    ("Pss_Anon:       ", self.anonymous),
                    ("Pss_File:       ", 0),
                    ("Pss_Shmem:      ", self.resident - self.anonymous),
                ] {
                    text.str(name).num_right(value, 8).str(" kB\n");
                }
            }
        }
    }
}

/// `/proc/PID/smaps`.
pub(super) fn smaps(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let Some(mm) = task.mm() else { return Ok(()) };
    for area in mm.areas() {
        push_header(text, &area.vma);
        let sizes = Sizes::of(&area);
        text.str("Size:           ").num_right(sizes.size, 8).str(" kB\nKernelPageSize:        4 kB\n");
        text.str("MMUPageSize:           4 kB\n");
        sizes.push(text, false);
        text.str("THPeligible:    0\nVmFlags:");
        let vma = &area.vma;
        for (set, flag) in [
            (vma.protection.read, " rd"),
            (vma.protection.write, " wr"),
            (vma.protection.exec, " ex"),
            (vma.shared, " sh"),
            (true, " mr mw me"),
            (vma.grows_down, " gd"),
            (vma.locked, " lo"),
            (vma.dont_fork, " dc"),
            (!vma.shared && vma.protection.write, " ac"),
            (vma.dont_dump, " dd"),
            (vma.wipe_on_fork, " wf"),
            (vma.no_huge_pages, " nh"),
        ] {
            if set {
                text.str(flag);
            }
        }
        text.str(" \n");
    }
    Ok(())
}

/// `/proc/PID/smaps_rollup`.
pub(super) fn smaps_rollup(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let Some(mm) = task.mm() else { return Ok(()) };
    let areas = mm.areas();
    let (Some(first), Some(last)) = (areas.first(), areas.last()) else { return Ok(()) };
    let start = text.len();
    text.hex(first.vma.start, 8).byte(b'-').hex(last.vma.end, 8).str(" ---p 00000000 00:00 0 ");
    text.pad_to(start, NAME_COLUMN).str("[rollup]\n");
    areas.iter().map(Sizes::of).fold(Sizes::default(), Sizes::plus).push(text, true);
    Ok(())
}

/// `/proc/PID/mem`, open. It refers to the address space that the process had at open, and does not keep it: after exec or
/// exit a read finds nothing (Linux `mem_open`, `mem_rw`). `None`: there was none, as a kernel thread has none.
pub(super) struct Memory(Option<Weak<Mm>>);

impl Memory {
    pub(super) fn open(subject: &Subject) -> Result<Self> {
        let mm = mm_access(&*subject.task()?, AccessMode::ATTACH_FSCREDS)?;
        Ok(Self(mm.as_ref().map(Arc::downgrade)))
    }

    fn space(&self) -> Option<Arc<Mm>> {
        self.0.as_ref()?.upgrade()
    }
}

/// What a call on `mem` returns: a bad buffer always counts, a hole only if nothing came before it.
fn outcome((done, obstacle): (usize, Option<Obstacle>), offset: &mut u64) -> Result<usize> {
    *offset = offset.wrapping_add(done as u64);
    match obstacle {
        Some(Obstacle::Own) => Err(Errno::EFAULT),
        Some(Obstacle::Remote) if done == 0 => Err(Errno::EIO),
        _ => Ok(done),
    }
}

impl FileOps for Memory {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
        let Some(mm) = self.space() else { return Ok(0) };
        outcome(mm.copy_out(Authority::Debugger, *offset, dst.remaining(), dst), offset)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, offset: &mut u64) -> Result<usize> {
        let Some(mm) = self.space() else { return Ok(0) };
        outcome(mm.copy_in(Authority::Debugger, *offset, src.remaining(), src), offset)
    }

    /// Addresses above 2^63 are offsets too (Linux `mem_lseek`).
    fn seek(&self, _file: &File, offset: &mut u64, change: i64, whence: u32) -> Result<u64> {
        *offset = match whence {
            abi::fcntl::SEEK_SET => change.cast_unsigned(),
            abi::fcntl::SEEK_CUR => offset.wrapping_add_signed(change),
            _ => return Err(Errno::EINVAL),
        };
        Ok(*offset)
    }
}
