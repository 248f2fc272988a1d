//! rseq(2): restartable sequences, registered by hand.

use crate::case::{Case, Failure, Outcome, cases, fails, holds, same};
use crate::futex::{THREAD, join};
use crate::kernel::*;

pub const CASES: &[Case] = cases![
    registering_tells_the_cpu,
    registering_twice_is_ebusy,
    registering_with_another_signature_is_eperm,
    registering_another_area_is_einval,
    registering_another_length_is_einval,
    unaligned_area_is_einval,
    short_length_is_einval,
    unknown_flags_are_einval,
    area_in_the_kernel_is_efault,
    area_in_nothing_is_efault,
    read_only_area_is_a_fault,
    unregistering_nothing_is_einval,
    unregistering_another_area_is_einval,
    unregistering_another_length_is_einval,
    unregistering_with_another_signature_is_eperm,
    unregistering_with_more_flags_is_einval,
    unregistering_takes_the_number_back,
    area_can_be_registered_again,
    fork_inherits_the_registration,
    thread_has_none,
    exec_has_none,
    number_follows_the_affinity,
    section_without_interruption_is_committed,
    signal_aborts_the_section,
    switch_aborts_the_section,
    migration_aborts_the_section,
    barrier_aborts_the_section,
    pointer_to_a_section_that_was_left_is_cleared,
    sections_survive_system_calls_outside_of_them,
    wrong_signature_is_a_fault,
    version_is_checked,
    section_with_all_flags_is_not_aborted,
    abort_handler_within_the_section_is_a_fault,
    section_that_wraps_is_a_fault,
    section_in_nothing_is_a_fault,
    section_in_the_kernel_is_a_fault,
];

const UNREGISTER: i32 = 1;
const SECTION: usize = 64;
const FLAG: usize = 128;
const LONG: usize = 4_000_000_000;

fn rseq(area: usize, length: usize, flags: i32, signature: u32) -> Result<usize> {
    sys!(SYS_rseq, area, length, flags, signature)
}

fn register(area: usize) -> Result<usize> {
    rseq(area, 32, 0, RSEQ_SIGNATURE)
}

/// An area that is registered; the section's description is 64 bytes behind it, a flag 128.
fn registered() -> Result<usize> {
    // Private: a child has a copy, and the registration of that.
    let area = memory(4096)?;
    poke(area + 4, u32::MAX);
    register(area)?;
    Ok(area)
}

fn cpu(area: usize) -> u32 {
    peek(area + 4)
}

fn pin(pid: i32, cpus: u64) -> Result<usize> {
    sys!(SYS_sched_setaffinity, pid, 8, &raw const cpus)
}

fn registering_tells_the_cpu() -> Outcome {
    pin(0, 1)?;
    let area = registered()?;
    same!((peek::<u32>(area), cpu(area)), (0, 0));
    Ok(())
}

fn registering_twice_is_ebusy() -> Outcome {
    let area = registered()?;
    fails!(register(area), EBUSY);
    Ok(())
}

fn registering_with_another_signature_is_eperm() -> Outcome {
    let area = registered()?;
    fails!(rseq(area, 32, 0, 1), EPERM);
    Ok(())
}

fn registering_another_area_is_einval() -> Outcome {
    let area = registered()?;
    fails!(register(area + 32), EINVAL);
    fails!(rseq(area + 32, 32, 0, 1), EINVAL);
    Ok(())
}

fn registering_another_length_is_einval() -> Outcome {
    let area = registered()?;
    fails!(rseq(area, 16, 0, RSEQ_SIGNATURE), EINVAL);
    fails!(rseq(area, 64, 0, RSEQ_SIGNATURE), EINVAL);
    Ok(())
}

fn unaligned_area_is_einval() -> Outcome {
    let area = memory(4096)?;
    for offset in [1, 4, 8, 16, 48] {
        fails!(register(area + offset), EINVAL);
    }
    Ok(())
}

fn short_length_is_einval() -> Outcome {
    let area = memory(4096)?;
    for length in [0, 16, 20, 31] {
        fails!(rseq(area, length, 0, RSEQ_SIGNATURE), EINVAL);
    }
    Ok(())
}

fn unknown_flags_are_einval() -> Outcome {
    let area = memory(4096)?;
    for flags in [4, 8, 1 << 30, i32::MIN] {
        fails!(rseq(area, 32, flags, RSEQ_SIGNATURE), EINVAL);
    }
    Ok(())
}

fn area_in_the_kernel_is_efault() -> Outcome {
    fails!(register(usize::MAX - 31), EFAULT);
    fails!(register(1 << 63), EFAULT);
    Ok(())
}

fn area_in_nothing_is_efault() -> Outcome {
    fails!(register(4096), EFAULT);
    Ok(())
}

fn read_only_area_is_a_fault() -> Outcome {
    let area = map(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS)?;
    same!(fate(|| register(area))?, 128 + SIGSEGV);
    Ok(())
}

fn unregistering_nothing_is_einval() -> Outcome {
    let area = memory(4096)?;
    fails!(rseq(area, 32, UNREGISTER, RSEQ_SIGNATURE), EINVAL);
    fails!(rseq(0, 32, UNREGISTER, 0), EINVAL);
    Ok(())
}

fn unregistering_another_area_is_einval() -> Outcome {
    let area = registered()?;
    fails!(rseq(area + 32, 32, UNREGISTER, RSEQ_SIGNATURE), EINVAL);
    Ok(())
}

fn unregistering_another_length_is_einval() -> Outcome {
    let area = registered()?;
    fails!(rseq(area, 64, UNREGISTER, RSEQ_SIGNATURE), EINVAL);
    Ok(())
}

fn unregistering_with_another_signature_is_eperm() -> Outcome {
    let area = registered()?;
    fails!(rseq(area, 32, UNREGISTER, 1), EPERM);
    Ok(())
}

fn unregistering_with_more_flags_is_einval() -> Outcome {
    let area = registered()?;
    fails!(rseq(area, 32, UNREGISTER | 8, RSEQ_SIGNATURE), EINVAL);
    Ok(())
}

fn unregistering_takes_the_number_back() -> Outcome {
    let area = registered()?;
    same!(rseq(area, 32, UNREGISTER, RSEQ_SIGNATURE)?, 0);
    same!((peek::<u32>(area), cpu(area)), (0, u32::MAX));
    sleep_ms(5);
    same!(cpu(area), u32::MAX);
    Ok(())
}

fn area_can_be_registered_again() -> Outcome {
    let area = registered()?;
    rseq(area, 32, UNREGISTER, RSEQ_SIGNATURE)?;
    same!(rseq(area + 32, 32, 0, 7)?, 0);
    holds!(cpu(area + 32) != u32::MAX);
    same!(rseq(area + 32, 32, UNREGISTER, 7)?, 0);
    Ok(())
}

fn fork_inherits_the_registration() -> Outcome {
    let area = registered()?;
    let pid = child(|| {
        if register(area) != Err(Errno(EBUSY)) {
            return 1;
        }
        (rseq(area, 32, UNREGISTER, RSEQ_SIGNATURE) != Ok(0)).into()
    })?;
    same!(status(pid)?, 0);
    fails!(register(area), EBUSY);
    Ok(())
}

extern "C" fn register_in_thread(base: usize) -> i32 {
    poke(base + 260, register(base + 512).map_or_else(|error| error.0 as u32, |_| 1000));
    0
}

fn thread_has_none() -> Outcome {
    let area = registered()?;
    poke(area + 256, 1u32);
    let place = (area + 256) as *mut i32;
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, place, 0, register_in_thread, area)?;
    join(area + 256)?;
    same!(peek::<u32>(area + 260), 1000);
    holds!(cpu(area + 512) != u32::MAX);
    Ok(())
}

fn exec_has_none() -> Outcome {
    let area = registered()?;
    let pid = child(|| {
        let program = path("/bin/true");
        let arguments = [program.as_ptr() as usize, 0];
        let _ = register(area);
        let _ = sys!(SYS_execve, program.as_ptr(), arguments.as_ptr(), arguments[1..].as_ptr());
        1
    })?;
    // The area is not mapped there: a registration that lived on would be a fault.
    same!(status(pid)?, 0);
    Ok(())
}

fn number_follows_the_affinity() -> Outcome {
    let mut allowed = 0u64;
    sys!(SYS_sched_getaffinity, 0, 8, &raw mut allowed)?;
    let area = registered()?;
    for number in (0..64).filter(|number| allowed >> number & 1 != 0) {
        pin(0, 1 << number)?;
        same!((peek::<u32>(area), cpu(area)), (number, number));
    }
    Ok(())
}

fn section_without_interruption_is_committed() -> Outcome {
    let area = registered()?;
    // Interrupted by chance it is tried again, as its users do.
    holds!((0..100).any(|_| !rseq_spin(area, area + SECTION, 10, area + FLAG)));
    Ok(())
}

fn signal_aborts_the_section() -> Outcome {
    let area = registered()?;
    note_signal(SIGUSR1, 0)?;
    let me = getpid();
    let pid = child(|| {
        sleep_ms(30);
        kill(me, SIGUSR1).is_err().into()
    })?;
    // The handler's return leads to the abort handler; other interruptions may come before the signal.
    let mut aborts = 0;
    while count() == 0 {
        holds!(rseq_spin(area, area + SECTION, LONG, area + FLAG));
        aborts += 1;
    }
    holds!(aborts > 0);
    same!(peek::<u64>(area + 8), 0);
    same!(status(pid)?, 0);
    Ok(())
}

fn switch_aborts_the_section() -> Outcome {
    pin(0, 1)?;
    let area = registered()?;
    let words = Shared::new()?;
    let pid = child(|| {
        for _ in 0..50 {
            sleep_ms(2);
        }
        words.set(0, 1);
        0
    })?;
    // The child wakes on this CPU again and again.
    holds!(rseq_spin(area, area + SECTION, LONG, words.address(0)));
    status(pid)?;
    Ok(())
}

fn migration_aborts_the_section() -> Outcome {
    let mut allowed = 0u64;
    sys!(SYS_sched_getaffinity, 0, 8, &raw mut allowed)?;
    if allowed.count_ones() < 2 {
        return Ok(());
    }
    let last = 63 - allowed.leading_zeros();
    let first = allowed.trailing_zeros();
    pin(0, 1 << first)?;
    let area = registered()?;
    let me = getpid();
    let pid = child(|| {
        let _ = pin(0, allowed);
        sleep_ms(30);
        pin(me, 1 << last).is_err().into()
    })?;
    while cpu(area) == first {
        holds!(rseq_spin(area, area + SECTION, LONG, area + FLAG));
    }
    same!(cpu(area), last);
    same!(status(pid)?, 0);
    Ok(())
}

extern "C" fn spin_in_thread(base: usize) -> i32 {
    if register(base).is_err() {
        return 1;
    }
    let aborted = rseq_spin(base, base + SECTION, LONG, base + FLAG);
    poke(base + 264, if aborted { 1u32 } else { 2 });
    0
}

fn barrier_aborts_the_section() -> Outcome {
    sys!(SYS_membarrier, 256, 0, 0)?;
    let base = memory(4096)?;
    poke(base + 256, 1u32);
    let place = (base + 256) as *mut i32;
    clone_on_stack(THREAD | CLONE_CHILD_CLEARTID, place, 0, spin_in_thread, base)?;
    for _ in 0..2000 {
        sys!(SYS_membarrier, 128, 0, 0)?;
        if peek::<u32>(base + 264) != 0 {
            break;
        }
        sleep_ms(1);
    }
    poke(base + FLAG, 1u32);
    join(base + 256)?;
    same!(peek::<u32>(base + 264), 1);
    Ok(())
}

fn pointer_to_a_section_that_was_left_is_cleared() -> Outcome {
    let area = registered()?;
    let _ = rseq_spin(area, area + SECTION, 1, area + FLAG);
    poke(area + 8, (area + SECTION) as u64);
    sleep_ms(5);
    same!(peek::<u64>(area + 8), 0);
    Ok(())
}

fn sections_survive_system_calls_outside_of_them() -> Outcome {
    let area = registered()?;
    for _ in 0..200 {
        let _ = rseq_spin(area, area + SECTION, 5, area + FLAG);
        let _ = sys!(SYS_sched_yield);
    }
    holds!(cpu(area) != u32::MAX);
    Ok(())
}

/// How a process ends that is interrupted while its section is described in a way that `spoil` makes wrong.
fn spoiled(spoil: impl FnOnce(usize)) -> std::result::Result<i32, Failure> {
    let area = registered()?;
    let _ = rseq_spin(area, area + SECTION, 1, area + FLAG);
    Ok(fate(|| {
        spoil(area);
        sleep_ms(5);
    })?)
}

fn wrong_signature_is_a_fault() -> Outcome {
    let status = spoiled(|area| {
        let place: u64 = peek(area + SECTION + 24);
        poke(area + SECTION + 24, place + 4);
        poke(area + 8, (area + SECTION) as u64);
    })?;
    same!(status, 128 + SIGSEGV);
    Ok(())
}

fn version_is_checked() -> Outcome {
    let status = spoiled(|area| {
        poke(area + SECTION, 1u32);
        poke(area + 8, (area + SECTION) as u64);
    })?;
    same!(status, 128 + SIGSEGV);
    Ok(())
}

/// How a process ends that gets a signal in a section with these flags: 128 + SIGSEGV, 1 when it was aborted, 0 when not.
fn signalled_with(section_flags: u32) -> std::result::Result<i32, Failure> {
    let area = registered()?;
    let words = Shared::new()?;
    poke(area + SECTION + 4, section_flags);
    note_signal(SIGUSR1, 0)?;
    let pid = child(|| {
        let me = getpid();
        let _ = child(|| {
            sleep_ms(30);
            let _ = kill(me, SIGUSR1);
            sleep_ms(30);
            words.set(0, 1);
            0
        });
        rseq_spin(area, area + SECTION, LONG, words.address(0)).into()
    })?;
    let status = status(pid)?;
    rseq(area, 32, UNREGISTER, RSEQ_SIGNATURE)?;
    Ok(status)
}

fn section_with_all_flags_is_not_aborted() -> Outcome {
    same!(signalled_with(7)?, 0);
    Ok(())
}

fn abort_handler_within_the_section_is_a_fault() -> Outcome {
    let status = spoiled(|area| {
        poke(area + SECTION + 16, 1u64 << 20);
        poke(area + 8, (area + SECTION) as u64);
    })?;
    same!(status, 128 + SIGSEGV);
    Ok(())
}

fn section_that_wraps_is_a_fault() -> Outcome {
    let status = spoiled(|area| {
        poke(area + SECTION + 16, u64::MAX - 4096);
        poke(area + 8, (area + SECTION) as u64);
    })?;
    same!(status, 128 + SIGSEGV);
    Ok(())
}

fn section_in_nothing_is_a_fault() -> Outcome {
    same!(spoiled(|area| poke(area + 8, 4096u64))?, 128 + SIGSEGV);
    Ok(())
}

fn section_in_the_kernel_is_a_fault() -> Outcome {
    same!(spoiled(|area| poke(area + 8, 1u64 << 63))?, 128 + SIGSEGV);
    Ok(())
}
