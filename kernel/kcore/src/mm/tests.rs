//! Stories of address spaces on the hosted machine: mapping, faults, copy-on-write, shared leaf tables, nothing leaked.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hal::hosted::{self, Config, Machine};
use hal::trap::{Access, PageFault};

use super::space::{MapRequest, Marks, Mm, Placement};
use super::{FaultError, Mapping, Protection, frame};
use crate::io::{IoDst, IoSrc};

const PAGE: u64 = 4096;
const RW: Protection = Protection { read: true, write: true, exec: false };
const RO: Protection = Protection { read: true, write: false, exec: false };
const BASE: u64 = 0x10_0000_0000;

/// Runs a story on a fresh machine and checks that it gave every frame back.
fn story(body: impl FnOnce() + 'static) {
    let ended = Machine::new(Config::default()).run(move || {
        frame::init();
        // Per-CPU lists and the heap settle with the first use.
        drop(Mm::new().unwrap());
        let before = frame::free_count();
        body();
        assert_eq!(frame::free_count(), before, "frames were leaked or freed twice");
        hosted::power_off(0);
    });
    assert_eq!(ended, Ok(0));
}

fn map(mm: &Mm, pages: u64, protection: Protection) -> u64 {
    mm.map(MapRequest::anonymous(Placement::FixedNoReplace(BASE), pages * PAGE, protection)).unwrap()
}

fn fault(mm: &Mm, address: u64, access: Access) -> Result<(), FaultError> {
    mm.handle_fault(&PageFault { address, access, permission: false })
}

/// Writes as a program does: through the tables, faulting as needed.
fn poke(mm: &Mm, address: u64, value: u8) {
    fault(mm, address, Access::Write).unwrap();
    assert_eq!(mm.write_remote(address, &[value]), 1);
}

fn peek(mm: &Mm, address: u64) -> u8 {
    let mut byte = [0xee];
    assert_eq!(mm.read_remote(address, &mut byte), 1);
    byte[0]
}

#[test]
fn memory_reads_as_zero_until_it_is_written() {
    story(|| {
        let mm = Mm::new().unwrap();
        let at = map(&mm, 4, RW);
        fault(&mm, at, Access::Read).unwrap();
        assert_eq!(peek(&mm, at), 0);
        poke(&mm, at, 7);
        assert_eq!(peek(&mm, at), 7);
        assert_eq!(peek(&mm, at + PAGE), 0);
    });
}

#[test]
fn an_access_outside_or_against_the_rights_is_a_segmentation_fault() {
    story(|| {
        let mm = Mm::new().unwrap();
        let at = map(&mm, 1, RO);
        assert_eq!(fault(&mm, at + PAGE, Access::Read), Err(FaultError::Segv { code: 1 }));
        assert_eq!(fault(&mm, at, Access::Write), Err(FaultError::Segv { code: 2 }));
        assert_eq!(fault(&mm, at, Access::Execute), Err(FaultError::Segv { code: 2 }));
    });
}

#[test]
fn after_fork_neither_side_sees_the_others_writes() {
    story(|| {
        let parent = Mm::new().unwrap();
        let at = map(&parent, 8, RW);
        for n in 0..8 {
            poke(&parent, at + n * PAGE, n as u8);
        }
        let child = parent.fork().unwrap();
        poke(&child, at, 100);
        poke(&parent, at + PAGE, 101);
        assert_eq!((peek(&parent, at), peek(&child, at)), (0, 100));
        assert_eq!((peek(&parent, at + PAGE), peek(&child, at + PAGE)), (101, 1));
        assert_eq!((peek(&parent, at + 7 * PAGE), peek(&child, at + 7 * PAGE)), (7, 7));
    });
}

#[test]
fn fork_of_a_large_process_takes_few_frames() {
    story(|| {
        let parent = Mm::new().unwrap();
        let at = map(&parent, 4096, RW);
        for n in 0..4096 {
            poke(&parent, at + n * PAGE, 1);
        }
        let before = frame::free_count();
        let child = parent.fork().unwrap();
        assert!(before - frame::free_count() <= 4, "fork of 16 MiB copies no leaf table");
        drop(child);
        // The last sharer writes on without copying.
        let before = frame::free_count();
        for n in 0..4096 {
            poke(&parent, at + n * PAGE, 2);
        }
        assert_eq!(frame::free_count(), before);
    });
}

#[test]
fn generations_of_forks_keep_their_own_data() {
    story(|| {
        let mut family: Vec<Arc<Mm>> = alloc::vec![Mm::new().unwrap()];
        let at = map(&family[0], 3, RW);
        for generation in 0..6u8 {
            let youngest = family.last().unwrap();
            poke(youngest, at, generation);
            poke(youngest, at + PAGE, generation * 10);
            let child = youngest.fork().unwrap();
            family.push(child);
        }
        for (n, mm) in family.iter().take(6).enumerate() {
            assert_eq!((peek(mm, at), peek(mm, at + PAGE)), (n as u8, n as u8 * 10));
        }
        // In any order of death.
        drop(family.remove(3));
        drop(family.remove(0));
        poke(&family[0], at, 99);
        assert_eq!(peek(&family[1], at), 2);
    });
}

#[test]
fn shared_memory_stays_shared_after_fork() {
    story(|| {
        let parent = Mm::new().unwrap();
        let mapping = Mapping::new_anonymous(4 * PAGE);
        let request = MapRequest {
            shared: true,
            backing: super::Backing::SharedAnonymous { mapping, offset: 0 },
            ..MapRequest::anonymous(Placement::FixedNoReplace(BASE), 4 * PAGE, RW)
        };
        let at = parent.map(request).unwrap();
        poke(&parent, at, 1);
        let child = parent.fork().unwrap();
        poke(&child, at, 2);
        assert_eq!(peek(&parent, at), 2);
        poke(&parent, at + PAGE, 3);
        fault(&child, at + PAGE, Access::Read).unwrap();
        assert_eq!(peek(&child, at + PAGE), 3);
    });
}

#[test]
fn unmapping_the_middle_splits_the_area() {
    story(|| {
        let mm = Mm::new().unwrap();
        let at = map(&mm, 9, RW);
        for n in 0..9 {
            poke(&mm, at + n * PAGE, n as u8 + 1);
        }
        mm.unmap(at + 3 * PAGE, 3 * PAGE).unwrap();
        assert_eq!(mm.areas().len(), 2);
        assert_eq!(peek(&mm, at + 2 * PAGE), 3);
        assert_eq!(fault(&mm, at + 3 * PAGE, Access::Read), Err(FaultError::Segv { code: 1 }));
        assert_eq!(peek(&mm, at + 6 * PAGE), 7);
    });
}

#[test]
fn unmapping_in_the_child_leaves_the_parent_alone() {
    story(|| {
        let parent = Mm::new().unwrap();
        let at = map(&parent, 600, RW);
        for n in 0..600 {
            poke(&parent, at + n * PAGE, 5);
        }
        let child = parent.fork().unwrap();
        child.unmap(at + 10 * PAGE, 580 * PAGE).unwrap();
        assert_eq!(peek(&parent, at + 300 * PAGE), 5);
        assert_eq!(peek(&child, at + 595 * PAGE), 5);
    });
}

#[test]
fn protection_changes_reach_pages_that_are_mapped() {
    story(|| {
        let mm = Mm::new().unwrap();
        let at = map(&mm, 3, RW);
        poke(&mm, at + PAGE, 9);
        mm.protect(at + PAGE, PAGE, RO).unwrap();
        assert_eq!(mm.areas().len(), 3);
        assert_eq!(fault(&mm, at + PAGE, Access::Write), Err(FaultError::Segv { code: 2 }));
        mm.protect(at + PAGE, PAGE, RW).unwrap();
        assert_eq!(mm.areas().len(), 1, "equal neighbours are joined again");
        poke(&mm, at + PAGE, 10);
        assert_eq!(peek(&mm, at + PAGE), 10);
    });
}

#[test]
fn the_break_moves_both_ways_and_frees() {
    story(|| {
        let mm = Mm::new().unwrap();
        mm.set_marks(Marks { start_brk: BASE, ..Marks::default() });
        assert_eq!(mm.set_brk(BASE + 10 * PAGE + 5), BASE + 10 * PAGE + 5);
        poke(&mm, BASE + 10 * PAGE, 1);
        assert_eq!(mm.set_brk(BASE), BASE);
        assert_eq!(fault(&mm, BASE, Access::Read), Err(FaultError::Segv { code: 1 }));
        assert_eq!(mm.set_brk(BASE - 1), BASE, "never below its start");
    });
}

#[test]
fn a_stack_grows_by_faults_below_it_up_to_its_limit() {
    story(|| {
        let mm = Mm::new().unwrap();
        mm.set_limits(super::space::Limits { stack: 64 * PAGE, ..super::space::Limits::NONE });
        let top = BASE + 100 * PAGE;
        let request =
            MapRequest { grows_down: true, ..MapRequest::anonymous(Placement::FixedNoReplace(top - PAGE), PAGE, RW) };
        mm.map(request).unwrap();
        poke(&mm, top - 32 * PAGE, 1);
        assert_eq!(fault(&mm, top - 65 * PAGE, Access::Write), Err(FaultError::Segv { code: 1 }));
    });
}

#[test]
fn a_moved_area_keeps_its_data() {
    story(|| {
        let mm = Mm::new().unwrap();
        let at = map(&mm, 4, RW);
        for n in 0..4 {
            poke(&mm, at + n * PAGE, n as u8 + 1);
        }
        mm.map(MapRequest::anonymous(Placement::FixedNoReplace(at + 4 * PAGE), PAGE, RO)).unwrap();
        let new = mm.remap(at, 4 * PAGE, 8 * PAGE, true, None).unwrap();
        assert_ne!(new, at);
        assert_eq!((peek(&mm, new), peek(&mm, new + 3 * PAGE)), (1, 4));
        assert_eq!(fault(&mm, at, Access::Read), Err(FaultError::Segv { code: 1 }));
        assert_eq!(mm.remap(new, 8 * PAGE, 2 * PAGE, false, None), Ok(new));
        assert_eq!(fault(&mm, new + 2 * PAGE, Access::Read), Err(FaultError::Segv { code: 1 }));
    });
}

#[test]
fn discarded_pages_read_as_zero_again() {
    story(|| {
        let mm = Mm::new().unwrap();
        let at = map(&mm, 4, RW);
        poke(&mm, at + PAGE, 1);
        mm.discard_range(at, at + 4 * PAGE).unwrap();
        fault(&mm, at + PAGE, Access::Read).unwrap();
        assert_eq!(peek(&mm, at + PAGE), 0);
    });
}

#[test]
fn every_failing_allocation_of_fork_and_write_leaves_nothing_behind() {
    story(|| {
        let parent = Mm::new().unwrap();
        let at = map(&parent, 700, RW);
        for n in (0..700).step_by(7) {
            poke(&parent, at + n * PAGE, 1);
        }
        for n in 1.. {
            let before = frame::free_count();
            hosted::fail_nth_allocation(Some(n));
            let child = parent.fork();
            let wrote = child.as_ref().ok().map(|child| fault(child, at, Access::Write));
            hosted::fail_nth_allocation(None);
            let complete = matches!(wrote, Some(Ok(())));
            drop(child);
            assert_eq!(frame::free_count(), before, "allocation {n} failed and something was lost");
            if complete {
                break;
            }
        }
        // The parent is as it was.
        poke(&parent, at, 2);
        assert_eq!(peek(&parent, at + 7 * PAGE), 1);
    });
}

#[test]
fn a_file_is_read_written_and_cut() {
    story(|| {
        let file = Mapping::new();
        assert_eq!(file.write(PAGE - 2, &mut IoSrc::kernel(b"abcd")), Ok(4));
        assert_eq!(file.size(), PAGE + 2);
        let mut back = [0u8; 6];
        assert_eq!(file.read(PAGE - 4, &mut IoDst::kernel(&mut back)), Ok(6));
        assert_eq!(&back, b"\0\0abcd");
        file.truncate(PAGE - 1).unwrap();
        file.truncate(PAGE + 2).unwrap();
        assert_eq!(file.read(PAGE - 2, &mut IoDst::kernel(&mut back)), Ok(4));
        assert_eq!(&back[..4], b"a\0\0\0", "what was cut off does not come back");
        assert_eq!(file.next_data(0), Some(0));
        assert_eq!(file.next_hole(0), Some(PAGE));
    });
}
