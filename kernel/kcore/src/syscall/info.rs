//! What the system is and says: uname(2), sysinfo(2), sethostname(2), syslog(2), vhangup(2).

use abi::Errno;
use abi::capability::{CAP_SYS_ADMIN, CAP_SYSLOG};
use abi::info as i;
use abi::info::{Sysinfo, Utsname};
use core::sync::atomic::Ordering;

use super::{Context, UserPtr};
use crate::Result;
use crate::io::IoDst;
use crate::ns::uts::NAME_LIMIT;
use crate::printk;
use crate::task::{TaskState, tree};
use crate::version;

/// uname(2).
pub fn uname(cx: &mut Context<'_>, buffer: UserPtr<Utsname>) -> Result<usize> {
    let names = cx.namespaces().uts().names();
    let texts: [&[u8]; 6] = [
        version::SYSNAME.as_bytes(),
        &names.host,
        version::RELEASE.as_bytes(),
        version::VERSION.as_bytes(),
        version::MACHINE.as_bytes(),
        &names.domain,
    ];
    let mut value = Utsname { fields: [[0; 65]; 6] };
    for (field, text) in value.fields.iter_mut().zip(texts) {
        let length = text.len().min(NAME_LIMIT);
        field[..length].copy_from_slice(&text[..length]);
    }
    buffer.write(&value)?;
    Ok(0)
}

/// Reads a name of `length` bytes, for which the caller needs CAP_SYS_ADMIN.
fn read_name(cx: &Context<'_>, name: UserPtr<u8>, length: i32) -> Result<alloc::vec::Vec<u8>> {
    if !cx.creds().ns_capable(&cx.namespaces().uts().owner, CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= NAME_LIMIT).ok_or(Errno::EINVAL)?;
    name.read_many(length)
}

/// sethostname(2).
pub fn sethostname(cx: &mut Context<'_>, name: UserPtr<u8>, length: i32) -> Result<usize> {
    let name = read_name(cx, name, length)?;
    cx.namespaces().uts().set_host(name).map(|()| 0)
}

/// setdomainname(2).
pub fn setdomainname(cx: &mut Context<'_>, name: UserPtr<u8>, length: i32) -> Result<usize> {
    let name = read_name(cx, name, length)?;
    cx.namespaces().uts().set_domain(name).map(|()| 0)
}

/// sysinfo(2). Sizes are in bytes.
pub fn sysinfo(_cx: &mut Context<'_>, buffer: UserPtr<Sysinfo>) -> Result<usize> {
    let memory = crate::mm::usage();
    let page = hal::mem::PAGE_SIZE as u64;
    let procs = tree::lock().thread_count();
    let value = Sysinfo {
        // Rounded up, as Linux does.
        uptime: crate::time::boottime_ns().div_ceil(crate::time::NSEC_PER_SEC).cast_signed(),
        // From 1/2048 to 1/65536.
        loads: crate::sched::load::averages().map(|load| load << 5),
        totalram: memory.total_pages * page,
        freeram: memory.free_pages * page,
        sharedram: memory.shmem_pages * page,
        procs: u16::try_from(procs).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..Sysinfo::default()
    };
    buffer.write(&value)?;
    Ok(0)
}

/// syslog(2), the kernel's log; glibc calls it klogctl(3).
pub fn syslog(cx: &mut Context<'_>, action: i32, buffer: u64, length: i32) -> Result<usize> {
    permit_syslog(cx, action)?;
    match action {
        i::SYSLOG_ACTION_CLOSE | i::SYSLOG_ACTION_OPEN => Ok(0),
        i::SYSLOG_ACTION_READ => {
            let mut dst = syslog_buffer(buffer, length)?;
            if dst.remaining() == 0 {
                return Ok(0);
            }
            printk::readers().wait_event(TaskState::Interruptible, printk::has_unread)?;
            dst.put(&printk::take_unread(dst.remaining()))
        }
        i::SYSLOG_ACTION_READ_ALL | i::SYSLOG_ACTION_READ_CLEAR => {
            let mut dst = syslog_buffer(buffer, length)?;
            if dst.remaining() == 0 {
                return Ok(0);
            }
            let done = dst.put(&printk::last_bytes(dst.remaining()))?;
            if action == i::SYSLOG_ACTION_READ_CLEAR {
                printk::clear();
            }
            Ok(done)
        }
        i::SYSLOG_ACTION_CLEAR => {
            printk::clear();
            Ok(0)
        }
        i::SYSLOG_ACTION_CONSOLE_OFF => {
            printk::console_off();
            Ok(0)
        }
        i::SYSLOG_ACTION_CONSOLE_ON => {
            printk::console_on();
            Ok(0)
        }
        i::SYSLOG_ACTION_CONSOLE_LEVEL => {
            let level = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
            printk::set_console_level_checked(level).map(|()| 0)
        }
        i::SYSLOG_ACTION_SIZE_UNREAD => Ok(printk::unread_bytes()),
        i::SYSLOG_ACTION_SIZE_BUFFER => Ok(printk::RING_BYTES),
        _ => Err(Errno::EINVAL),
    }
}

/// Who may: everybody may read all and ask for the size unless dmesg_restrict is set; the rest needs CAP_SYSLOG or
/// CAP_SYS_ADMIN (Linux `check_syslog_permissions`).
fn permit_syslog(cx: &Context<'_>, action: i32) -> Result<()> {
    let open = matches!(action, i::SYSLOG_ACTION_READ_ALL | i::SYSLOG_ACTION_SIZE_BUFFER);
    if open && printk::DMESG_RESTRICT.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    if cx.task.capable(CAP_SYSLOG) || cx.task.capable(CAP_SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

fn syslog_buffer(buffer: u64, length: i32) -> Result<IoDst<'static>> {
    let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
    if buffer == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(IoDst::user(buffer, length))
}

/// vhangup(2).
pub fn vhangup(_cx: &mut Context<'_>) -> Result<usize> {
    crate::tty::ioctl::vhangup().map(|()| 0)
}
