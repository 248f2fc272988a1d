//! What `/proc/PID` says of what a task does: sched, timers, timerslack_ns, syscall, stack, and a thread's children.
//! Formats: proc(5); Linux `proc_sched_show_task`, `show_timer`, `proc_pid_syscall`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::Errno;
use abi::capability::{CAP_SYS_ADMIN, CAP_SYS_NICE};
use abi::time::{SIGEV_NONE, SIGEV_THREAD};
use hal::trap::NO_SYSCALL;

use super::process::Subject;
use super::text::Text;
use crate::Result;
use crate::task::{Task, TaskState, current, find_global, kernel_stack, tree};
use crate::time::posix;

/// A line of `sched`: the name in 45 columns, the number in 21.
fn push_number(text: &mut Text, name: &str, value: u64) {
    let start = text.len();
    text.str(name).pad_to(start, 45).byte(b':').num_right(value, 21).byte(b'\n');
}

/// A line with milliseconds and their millionths (Linux `SPLIT_NS`).
fn push_time(text: &mut Text, name: &str, ns: u64) {
    let start = text.len();
    text.str(name).pad_to(start, 45).byte(b':').num_right(ns / 1_000_000, 14);
    text.byte(b'.').num_zeros(ns % 1_000_000, 6).byte(b'\n');
}

/// `/proc/PID/sched`.
pub(super) fn sched(subject: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let number = subject.pid.number_in(&subject.space);
    let threads = task.group.live.load(Ordering::Relaxed).max(1);
    text.str(&task.comm()).str(" (").int(i64::from(number)).str(", #threads: ").num(u64::from(threads)).str(")\n");
    text.repeat(b'-', 67);
    text.byte(b'\n');
    let (usage, entity) = (task.times.snapshot(), &task.sched);
    push_time(text, "se.exec_start", entity.exec_start());
    push_time(text, "se.vruntime", entity.vruntime().max(0).cast_unsigned());
    push_time(text, "se.sum_exec_runtime", entity.sum_exec_ns.load(Ordering::Relaxed));
    push_number(text, "se.nr_migrations", 0);
    push_number(text, "nr_switches", usage.voluntary_switches + usage.involuntary_switches);
    push_number(text, "nr_voluntary_switches", usage.voluntary_switches);
    push_number(text, "nr_involuntary_switches", usage.involuntary_switches);
    // Linux shows the weight in its finer fixed point.
    push_number(text, "se.load.weight", entity.weight() << 10);
    let policy = entity.policy.load(Ordering::Relaxed);
    push_number(text, "policy", u64::from(policy));
    push_number(text, "prio", u64::from(entity.level().max(0).unsigned_abs()));
    Ok(())
}

/// Writing to `sched` sets the statistics back (Linux `sched_write`).
pub(super) fn reset_sched(task: &Arc<Task>, _: &[u8]) -> Result<()> {
    task.times.voluntary_switches.store(0, Ordering::Relaxed);
    task.times.involuntary_switches.store(0, Ordering::Relaxed);
    Ok(())
}

/// `/proc/PID/timers`: the POSIX timers of the process.
pub(super) fn timers(subject: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let pid = task.group.pid.number_in(&subject.space);
    for timer in posix::list(&task.group) {
        let notify = timer.notify;
        let how = match notify.kind {
            SIGEV_NONE => "none",
            SIGEV_THREAD => "thread",
            _ => "signal",
        };
        let (kind, number) = match notify.thread {
            Some(tid) => ("tid", find_global(tid).map_or(0, |task| task.pid().number_in(&subject.space))),
            None => ("pid", pid),
        };
        text.str("ID: ").int(i64::from(timer.id)).str("\nsignal: ").num(u64::from(notify.signal)).byte(b'/');
        text.hex(notify.value, 16).str("\nnotify: ").str(how).byte(b'/').str(kind).byte(b'.').int(i64::from(number));
        text.str("\nClockID: ").int(i64::from(timer.clock)).byte(b'\n');
    }
    Ok(())
}

/// Another task's timer slack is CAP_SYS_NICE's business (`EPERM`).
fn may_see_slack(task: &Task) -> Result<()> {
    if core::ptr::eq(task, &*current()) || current().capable(CAP_SYS_NICE) { Ok(()) } else { Err(Errno::EPERM) }
}

/// `/proc/PID/timerslack_ns`.
pub(super) fn timer_slack(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    may_see_slack(task)?;
    text.num(task.timer_slack_ns.load(Ordering::Relaxed)).byte(b'\n');
    Ok(())
}

/// 0 is the default slack.
pub(super) fn set_timer_slack(task: &Arc<Task>, value: &[u8]) -> Result<()> {
    let value: u64 = super::parse_number(value)?;
    may_see_slack(task)?;
    let slack = if value == 0 { task.default_timer_slack_ns.load(Ordering::Relaxed) } else { value };
    task.timer_slack_ns.store(slack, Ordering::Relaxed);
    Ok(())
}

/// `/proc/PID/syscall`: number, arguments, stack and instruction pointer of the call that a task sleeps in (Linux
/// `proc_pid_syscall`, `collect_syscall`).
pub(super) fn syscall(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    if task.state() == TaskState::Running && !core::ptr::eq(&**task, &*current()) {
        text.str("running\n");
        return Ok(());
    }
    if task.state() == TaskState::Dead {
        text.str("-1 0x0 0x0\n");
        return Ok(());
    }
    if task.is_kernel_thread() {
        // Its place for user registers is all zeros.
        text.str("0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n");
        return Ok(());
    }
    // The registers lie where the entry put them until the task leaves the kernel.
    let frame = task.thread.user_frame();
    let push = |text: &mut Text, value: u64| {
        text.str(" 0x").hex(value, 0);
    };
    if frame.syscall == NO_SYSCALL {
        text.str("-1");
    } else {
        text.num(frame.syscall);
        push(text, frame.original_x0);
        frame.x[1..6].iter().for_each(|argument| push(text, *argument));
    }
    push(text, frame.sp);
    push(text, frame.pc);
    text.byte(b'\n');
    Ok(())
}

/// `/proc/PID/stack`: the calls on its kernel stack, for CAP_SYS_ADMIN alone (`EACCES`). Addresses are the kernel's secret.
pub(super) fn stack(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    if !current().capable(CAP_SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    for frame in kernel_stack::trace(task) {
        match frame.function {
            Some((name, into, length)) => {
                text.str("[<0>] ")
                    .str(name)
                    .str("+0x")
                    .hex(into as u64, 0)
                    .str("/0x")
                    .hex(length as u64, 0)
                    .byte(b'\n');
            }
            None => {
                text.str("[<0>] 0x").hex(frame.address, 0).byte(b'\n');
            }
        }
    }
    Ok(())
}

/// `/proc/PID/task/TID/children`: the children that this thread made, each with a space behind it.
pub(super) fn children(subject: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let mut numbers: Vec<i32> = {
        let tree = tree::lock();
        let Some(id) = tree.find(&task.group) else { return Ok(()) };
        let own = tree.children(id).filter(|child| tree.node(*child).parent_thread == task.tid());
        own.map(|child| tree.node(child).group.pid.number_in(&subject.space)).collect()
    };
    // Linux lists the oldest first.
    numbers.sort_unstable();
    for number in numbers.into_iter().filter(|number| *number > 0) {
        text.int(i64::from(number)).byte(b' ');
    }
    Ok(())
}

/// `/proc/PID/oom_adj`: the old scale of -17 to 15.
pub(super) fn oom_adj(_: &Subject, task: &Arc<Task>, text: &mut Text) -> Result<()> {
    let adjust = task.group.oom_score_adj.load(Ordering::Relaxed);
    text.int(i64::from(if adjust == 1000 { 15 } else { adjust * 17 / 1000 })).byte(b'\n');
    Ok(())
}

/// As `oom_score_adj`, in the old scale.
pub(super) fn set_oom_adj(task: &Arc<Task>, value: &[u8]) -> Result<()> {
    let value: i32 = super::parse_number(value)?;
    if !(-17..=15).contains(&value) {
        return Err(Errno::EINVAL);
    }
    super::status::adjust_oom_score(task, if value == 15 { 1000 } else { value * 1000 / 17 })
}
