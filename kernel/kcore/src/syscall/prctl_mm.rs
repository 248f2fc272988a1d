//! prctl(2) PR_SET_MM: a program that restores another tells the kernel where that one's parts are.

use alloc::sync::Arc;

use abi::Errno;
use abi::capability::{CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
use abi::prctl as pr;
use abi::resource::RLIMIT_DATA;

use super::UserPtr;
use crate::Result;
use crate::fs::program::open_exec_again;
use crate::mm::space::Marks;
use crate::mm::{MMAP_MIN_ADDR, Mm, TASK_SIZE};
use crate::task::Task;

/// Bytes of `struct prctl_mm_map`: eleven addresses, the vector's address, its size, a descriptor.
const MAP_SIZE: u64 = 104;
/// Words that a saved vector may have (Linux `AT_VECTOR_SIZE` of arm64, and its end).
const MAX_AUXV: u64 = 8 * 2 * 26;

/// PR_SET_MM.
pub(super) fn set_mm(task: &Task, option: u64, address: u64, size: u64, unused: u64) -> Result<usize> {
    let option = u32::try_from(option).map_err(|_| Errno::EINVAL)?;
    let takes_size = matches!(option, pr::PR_SET_MM_AUXV | pr::PR_SET_MM_MAP | pr::PR_SET_MM_MAP_SIZE);
    if unused != 0 || size != 0 && !takes_size {
        return Err(Errno::EINVAL);
    }
    let mm = task.mm().ok_or(Errno::EINVAL)?;
    match option {
        pr::PR_SET_MM_MAP_SIZE => UserPtr::<u32>::new(address).write(&(MAP_SIZE as u32))?,
        pr::PR_SET_MM_MAP if size != MAP_SIZE => return Err(Errno::EINVAL),
        pr::PR_SET_MM_MAP => set_map(task, &mm, address)?,
        _ if !task.capable(CAP_SYS_RESOURCE) => return Err(Errno::EPERM),
        pr::PR_SET_MM_EXE_FILE => set_exe(task, &mm, address)?,
        pr::PR_SET_MM_AUXV => set_auxv(&mm, address, size)?,
        _ => set_one(task, &mm, option, address)?,
    }
    Ok(0)
}

fn set_one(task: &Task, mm: &Mm, option: u32, address: u64) -> Result<()> {
    if !(MMAP_MIN_ADDR..TASK_SIZE).contains(&address) {
        return Err(Errno::EINVAL);
    }
    let data_limit = task.rlimit(RLIMIT_DATA);
    let is_mapped = mm.has_area_from(address);
    mm.change_program(|marks, brk| {
        let (place, is_on_stack) = match option {
            pr::PR_SET_MM_START_CODE => (&mut marks.start_code, false),
            pr::PR_SET_MM_END_CODE => (&mut marks.end_code, false),
            pr::PR_SET_MM_START_DATA => (&mut marks.start_data, false),
            pr::PR_SET_MM_END_DATA => (&mut marks.end_data, false),
            pr::PR_SET_MM_START_BRK => (&mut marks.start_brk, false),
            pr::PR_SET_MM_BRK => (&mut *brk, false),
            pr::PR_SET_MM_START_STACK => (&mut marks.start_stack, true),
            pr::PR_SET_MM_ARG_START => (&mut marks.arg_start, true),
            pr::PR_SET_MM_ARG_END => (&mut marks.arg_end, true),
            pr::PR_SET_MM_ENV_START => (&mut marks.env_start, true),
            pr::PR_SET_MM_ENV_END => (&mut marks.env_end, true),
            _ => return Err(Errno::EINVAL),
        };
        *place = address;
        validate(marks, *brk, data_limit)?;
        // The strings must be somewhere.
        if is_on_stack && !is_mapped { Err(Errno::EFAULT) } else { Ok(()) }
    })
}

/// PR_SET_MM_MAP: everything at once, by anybody.
fn set_map(task: &Task, mm: &Mm, address: u64) -> Result<()> {
    let words = UserPtr::<u64>::new(address).read_many(MAP_SIZE as usize / 8)?;
    let word = |n: usize| words.get(n).copied().unwrap_or(0);
    let (auxv, auxv_size, exe_fd) = (word(11), word(12) & u64::from(u32::MAX), word(12) >> 32);
    let brk = word(5);
    let new = Marks {
        start_code: word(0),
        end_code: word(1),
        start_data: word(2),
        end_data: word(3),
        start_brk: word(4),
        start_stack: word(6),
        arg_start: word(7),
        arg_end: word(8),
        env_start: word(9),
        env_end: word(10),
        ..mm.marks()
    };
    let all = [
        new.start_code,
        new.end_code,
        new.start_data,
        new.end_data,
        new.start_brk,
        brk,
        new.start_stack,
        new.arg_start,
        new.arg_end,
        new.env_start,
        new.env_end,
    ];
    if !all.iter().all(|address| (MMAP_MIN_ADDR..TASK_SIZE).contains(address)) {
        return Err(Errno::EINVAL);
    }
    validate(&new, brk, task.rlimit(RLIMIT_DATA))?;
    let auxv = if auxv_size == 0 { None } else { Some(read_auxv(auxv, auxv_size)?) };
    if exe_fd != u64::from(u32::MAX) {
        if !task.capable(CAP_SYS_ADMIN) && !task.capable(CAP_CHECKPOINT_RESTORE) {
            return Err(Errno::EPERM);
        }
        set_exe(task, mm, exe_fd)?;
    }
    if let Some(auxv) = auxv {
        mm.replace_auxv(auxv);
    }
    mm.change_program(|marks, old_brk| {
        (*marks, *old_brk) = (new, brk);
        Ok(())
    })
}

/// Beginnings come before ends, and the data keeps to its limit (Linux `validate_prctl_map_addr`).
fn validate(marks: &Marks, brk: u64, data_limit: u64) -> Result<()> {
    let in_order = marks.start_code < marks.end_code
        && marks.start_data <= marks.end_data
        && marks.start_brk <= brk
        && marks.arg_start <= marks.arg_end
        && marks.env_start <= marks.env_end;
    let data = brk.saturating_sub(marks.start_brk) + marks.end_data.saturating_sub(marks.start_data);
    if in_order && data <= data_limit { Ok(()) } else { Err(Errno::EINVAL) }
}

fn read_auxv(address: u64, size: u64) -> Result<Arc<[u8]>> {
    if address == 0 || size > MAX_AUXV {
        return Err(Errno::EINVAL);
    }
    let mut words = UserPtr::<u64>::new(address).read_many(size as usize / 8)?;
    // It has an end, whatever the caller says.
    words.extend([0, 0]);
    let pairs = words.chunks_exact(2).position(|pair| pair.first() == Some(&0)).unwrap_or(0);
    words.truncate(pairs * 2 + 2);
    Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

fn set_auxv(mm: &Mm, address: u64, size: u64) -> Result<()> {
    if size == 0 {
        return Err(Errno::EINVAL);
    }
    mm.replace_auxv(read_auxv(address, size)?);
    Ok(())
}

fn set_exe(task: &Task, mm: &Mm, fd: u64) -> Result<()> {
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    mm.replace_exe(open_exec_again(&*task.files().get(fd)?)?)
}
