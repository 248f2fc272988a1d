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
    story_with(Vec::new(), body);
}

/// As [`story`], with an initramfs.
fn story_with(initramfs: Vec<u8>, body: impl FnOnce() + 'static) {
    let ended = Machine::new(Config { initramfs, ..Config::default() }).run(move || {
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
fn the_first_write_to_an_untouched_region_fills_it_unless_the_area_or_the_process_forbids() {
    use super::table::LEAF_SPAN;
    story(|| {
        let resident = |mm: &Mm| mm.total_and_resident().1;
        let mm = Mm::new().unwrap();
        // One whole region of a leaf table, and parts of two.
        let request = Placement::FixedNoReplace(BASE - PAGE);
        let at = mm.map(MapRequest::anonymous(request, LEAF_SPAN + 2 * PAGE, RW)).unwrap();
        poke(&mm, at, 1);
        poke(&mm, at + PAGE + LEAF_SPAN, 2);
        assert_eq!(resident(&mm), 2, "a part of a region comes page by page");
        poke(&mm, BASE + 7 * PAGE, 3);
        assert_eq!(resident(&mm), 2 + 512);
        assert_eq!((peek(&mm, BASE), peek(&mm, BASE + 7 * PAGE), peek(&mm, at)), (0, 3, 1));
        // Shared, copied and cut as any other memory.
        let child = mm.fork().unwrap();
        poke(&child, BASE + 8 * PAGE, 4);
        assert_eq!((peek(&mm, BASE + 8 * PAGE), peek(&child, BASE + 7 * PAGE)), (0, 3));
        drop(child);
        mm.discard_range(BASE + PAGE, BASE + LEAF_SPAN).unwrap();
        assert_eq!(resident(&mm), 3);
        poke(&mm, BASE + 9 * PAGE, 5);
        assert_eq!(resident(&mm), 4, "a region that is partly there is filled page by page");
        mm.discard_range(BASE, BASE + LEAF_SPAN).unwrap();
        mm.change_areas(BASE, BASE + LEAF_SPAN, |vma| {
            vma.no_huge_pages = true;
            Ok(())
        })
        .unwrap();
        poke(&mm, BASE, 6);
        assert_eq!(resident(&mm), 3);
        mm.discard_range(BASE, BASE + LEAF_SPAN).unwrap();
        mm.change_areas(BASE, BASE + LEAF_SPAN, |vma| {
            vma.no_huge_pages = false;
            Ok(())
        })
        .unwrap();
        mm.set_huge_pages_off(true);
        poke(&mm, BASE, 7);
        assert_eq!(resident(&mm), 3);
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
fn locking_memory_tells_of_pages_that_cannot_be_brought_in() {
    use abi::Errno;
    story(|| {
        let mm = Mm::new().unwrap();
        let at = map(&mm, 4, RW);
        assert_eq!(mm.lock_range(at, at + 2 * PAGE), Ok(()));
        assert_eq!(mm.total_and_resident().1, 2);
        hosted::fail_nth_allocation(Some(1));
        assert_eq!(mm.lock_range(at + 2 * PAGE, at + 4 * PAGE), Err(Errno::EAGAIN), "no memory");
        hosted::fail_nth_allocation(None);
        let closed = Placement::FixedNoReplace(at + 4 * PAGE);
        mm.map(MapRequest::anonymous(closed, PAGE, Protection::default())).unwrap();
        assert_eq!(mm.lock_range(at, at + 5 * PAGE), Err(Errno::ENOMEM), "PROT_NONE");
        let request = MapRequest {
            backing: super::Backing::SharedAnonymous { mapping: Mapping::new(), offset: 0 },
            ..MapRequest::anonymous(Placement::FixedNoReplace(at + 5 * PAGE), PAGE, RO)
        };
        mm.map(request).unwrap();
        assert_eq!(mm.lock_range(at + 5 * PAGE, at + 6 * PAGE), Err(Errno::ENOMEM), "past the end of the file");
        assert_eq!(mm.counters().locked, 6, "all of it is locked nevertheless");
    });
}

#[test]
fn write_access_comes_back_at_once_where_nobody_else_has_the_page() {
    story(|| {
        let mm = Mm::new().unwrap();
        let at = map(&mm, 2, RW);
        poke(&mm, at, 1);
        let writable = |mm: &Mm| mm.lock().table.lookup(at).writable();
        mm.protect(at, PAGE, RO).unwrap();
        assert!(!writable(&mm));
        mm.protect(at, PAGE, RW).unwrap();
        assert!(writable(&mm));
        let child = mm.fork().unwrap();
        for side in [&mm, &child] {
            side.protect(at, PAGE, RO).unwrap();
            side.protect(at, PAGE, RW).unwrap();
            assert!(!writable(side), "the other side sees the page, too");
        }
        poke(&mm, at, 2);
        assert_eq!((peek(&mm, at), peek(&child, at)), (2, 1));
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

#[test]
fn a_written_boot_page_is_replaced_in_every_address_space() {
    story_with(alloc::vec![0x11; 3 * PAGE as usize], || {
        let (range, length) = hosted::initramfs();
        let file = Mapping::from_boot(range, length as u64);
        let (first, second) = (Mm::new().unwrap(), Mm::new().unwrap());
        for mm in [&first, &second] {
            let request = MapRequest {
                shared: true,
                backing: super::Backing::SharedAnonymous { mapping: file.clone(), offset: 0 },
                ..MapRequest::anonymous(Placement::FixedNoReplace(BASE), 3 * PAGE, RW)
            };
            mm.map(request).unwrap();
            fault(mm, BASE, Access::Read).unwrap();
            assert_eq!((peek(mm, BASE), peek(mm, BASE + PAGE)), (0x11, 0x11));
        }
        // By write(2), then through a mapping.
        file.write(5, &mut IoSrc::kernel(b"x")).unwrap();
        assert_eq!((peek(&first, BASE + 5), peek(&second, BASE + 5)), (b'x', b'x'));
        poke(&first, BASE + PAGE, 0x22);
        assert_eq!((peek(&second, BASE + PAGE), peek(&second, BASE + PAGE + 1)), (0x22, 0x11));
    });
}

#[test]
fn a_read_fault_maps_the_neighbours_too() {
    story(|| {
        let mm = Mm::new().unwrap();
        let file = Mapping::new();
        file.write(0, &mut IoSrc::kernel(&[7; 20 * PAGE as usize])).unwrap();
        let request = MapRequest {
            backing: super::Backing::SharedAnonymous { mapping: file, offset: 0 },
            ..MapRequest::anonymous(Placement::FixedNoReplace(BASE), 20 * PAGE, RO)
        };
        mm.map(request).unwrap();
        fault(&mm, BASE + 3 * PAGE, Access::Read).unwrap();
        assert_eq!(mm.counters().resident, 16);
        assert_eq!(mm.counters().shared, 16);
        assert_eq!(fault(&mm, BASE + 20 * PAGE, Access::Read), Err(FaultError::Segv { code: 1 }));
    });
}

#[test]
fn a_mapped_file_ends_with_a_bus_error_also_after_it_was_cut() {
    story(|| {
        let mm = Mm::new().unwrap();
        let file = Mapping::new();
        file.write(0, &mut IoSrc::kernel(&[7; 4 * PAGE as usize])).unwrap();
        let request = MapRequest {
            shared: true,
            backing: super::Backing::SharedAnonymous { mapping: file.clone(), offset: 0 },
            ..MapRequest::anonymous(Placement::FixedNoReplace(BASE), 6 * PAGE, RW)
        };
        mm.map(request).unwrap();
        assert_eq!(fault(&mm, BASE + 4 * PAGE, Access::Read), Err(FaultError::Bus));
        poke(&mm, BASE + 2 * PAGE, 8);
        file.truncate(PAGE).unwrap();
        assert_eq!(fault(&mm, BASE + 2 * PAGE, Access::Read), Err(FaultError::Bus));
        assert_eq!(peek(&mm, BASE), 7);
    });
}

#[test]
fn a_breakpoint_is_private_and_leaves_code_read_only() {
    story(|| {
        let mm = Mm::new().unwrap();
        let file = Mapping::new();
        file.write(0, &mut IoSrc::kernel(&[7; PAGE as usize])).unwrap();
        let code = Protection { read: true, write: false, exec: true };
        let request = MapRequest {
            backing: super::Backing::SharedAnonymous { mapping: file.clone(), offset: 0 },
            ..MapRequest::anonymous(Placement::FixedNoReplace(BASE), PAGE, code)
        };
        mm.map(request).unwrap();
        fault(&mm, BASE, Access::Execute).unwrap();
        assert_eq!(mm.write_remote(BASE, &[1]), 1);
        assert_eq!(mm.write_remote(BASE + 1, &[2]), 1);
        assert_eq!(fault(&mm, BASE, Access::Write), Err(FaultError::Segv { code: 2 }));
        assert!(!mm.lock().table.lookup(BASE).writable());
        let mut original = [0];
        file.read(0, &mut IoDst::kernel(&mut original)).unwrap();
        assert_eq!((peek(&mm, BASE), original[0]), (1, 7));
    });
}

#[test]
fn lengths_and_addresses_at_the_edge_of_numbers_are_errors() {
    use abi::Errno;
    story(|| {
        let mm = Mm::new().unwrap();
        let at = map(&mm, 2, RW);
        let odd = [0, 1, PAGE, super::TASK_SIZE, 1 << 39, 1 << 63, u64::MAX - PAGE, u64::MAX - 1, u64::MAX];
        for a in odd {
            for b in odd {
                let _ = mm.unmap(a, b);
                let _ = mm.protect(a, b, RO);
                let _ = mm.remap(a, b, PAGE, true, None);
                let _ = mm.remap(at, PAGE, a, true, Some(b));
                let _ = mm.set_brk(a);
                for placement in [Placement::Hint(a), Placement::FixedNoReplace(a)] {
                    if let Ok(start) = mm.map(MapRequest::anonymous(placement, b, RW)) {
                        mm.unmap(start, b).unwrap();
                    }
                }
            }
        }
        let at = map(&Mm::new().unwrap(), 2, RW);
        assert_eq!(mm.unmap(at, 0), Err(Errno::EINVAL));
        assert_eq!(mm.unmap(at + 1, PAGE), Err(Errno::EINVAL));
    });
}

/// What a model of an address space knows of a page: its rights and its first byte.
#[derive(Clone, Copy)]
struct ModelPage {
    protection: Protection,
    value: u8,
}

/// An address space and what it should look like.
struct Twin {
    mm: Arc<Mm>,
    pages: alloc::collections::BTreeMap<u64, ModelPage>,
}

impl Twin {
    fn check(&self) {
        for n in 0..MODEL_PAGES {
            let address = model_address(n);
            let known = self.pages.get(&n);
            let found = self.mm.areas().into_iter().find(|area| (area.vma.start..area.vma.end).contains(&address));
            assert_eq!(found.map(|area| area.vma.protection), known.map(|page| page.protection), "page {n}");
            if let Some(page) = known {
                assert_eq!(peek(&self.mm, address), page.value, "page {n}");
            }
        }
        let areas = self.mm.areas();
        assert_eq!(self.mm.counters().resident, areas.iter().map(|area| area.resident).sum::<u64>());
        assert_eq!(self.mm.counters().total as usize, self.pages.len());
        for pair in areas.windows(2) {
            assert!(pair[0].vma.end <= pair[1].vma.start && !pair[0].vma.continues_into(&pair[1].vma));
        }
    }
}

const MODEL_PAGES: u64 = 40;

/// The model's pages lie around the border of two leaf tables.
fn model_address(n: u64) -> u64 {
    BASE + super::table::LEAF_SPAN - MODEL_PAGES / 2 * PAGE + n * PAGE
}

/// A step of one of the address spaces, on it and on its model.
fn step(family: &mut Vec<Twin>, random: &mut impl FnMut(u64) -> u64) {
    let who = random(family.len() as u64) as usize;
    let first = random(MODEL_PAGES);
    let count = 1 + random(MODEL_PAGES - first).min(9);
    let (at, range) = (model_address(first), first..first + count);
    let rights = [RW, RO, Protection::default(), RW][random(4) as usize];
    let size = family.len();
    let twin = &mut family[who];
    match random(12) {
        0 | 1 => {
            twin.mm.map(MapRequest::anonymous(Placement::Fixed(at), count * PAGE, rights)).unwrap();
            range.for_each(|n| {
                twin.pages.insert(n, ModelPage { protection: rights, value: 0 });
            });
        }
        2 => {
            twin.mm.unmap(at, count * PAGE).unwrap();
            range.for_each(|n| {
                twin.pages.remove(&n);
            });
        }
        3 => {
            let whole = range.clone().all(|n| twin.pages.contains_key(&n));
            assert_eq!(twin.mm.protect(at, count * PAGE, rights).is_ok(), whole);
            if whole {
                range.for_each(|n| twin.pages.get_mut(&n).unwrap().protection = rights);
            }
        }
        4 => {
            let whole = range.clone().all(|n| twin.pages.contains_key(&n));
            assert_eq!(twin.mm.discard_range(at, at + count * PAGE).is_ok(), whole);
            for n in range {
                if let Some(page) = twin.pages.get_mut(&n) {
                    page.value = 0;
                }
            }
        }
        5 if size < 5 => {
            let mm = twin.mm.fork().unwrap();
            let pages = twin.pages.clone();
            family.push(Twin { mm, pages });
        }
        6 if size > 1 => drop(family.swap_remove(who)),
        7 => {
            let access = if random(2) == 0 { Access::Read } else { Access::Execute };
            let known = twin.pages.get(&first).is_some_and(|page| page.protection.read && access == Access::Read);
            assert_eq!(fault(&twin.mm, at, access).is_ok(), known);
        }
        _ => {
            let value = random(256) as u8;
            let writable = twin.pages.get_mut(&first).filter(|page| page.protection.write);
            assert_eq!(fault(&twin.mm, at, Access::Write).is_ok(), writable.is_some());
            if let Some(page) = writable {
                assert_eq!(twin.mm.write_remote(at, &[value]), 1);
                page.value = value;
            }
        }
    }
}

#[test]
fn random_maps_unmaps_protects_forks_and_writes_agree_with_a_model() {
    for seed in 1..=60u64 {
        story(move || {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = move |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut family = alloc::vec![Twin { mm: Mm::new().unwrap(), pages: Default::default() }];
            for n in 0..400 {
                step(&mut family, &mut random);
                if n % 20 == 0 {
                    family.iter().for_each(Twin::check);
                }
            }
            family.iter().for_each(Twin::check);
        });
    }
}

#[test]
fn a_gap_is_found_again_whatever_was_looked_for_before() {
    story(|| {
        let mm = Mm::new().unwrap();
        mm.set_mmap_base(BASE);
        // Rights differ, so that neighbours are not joined.
        let place = |pages: u64, protection| {
            mm.map(MapRequest::anonymous(Placement::Hint(0), pages * PAGE, protection)).map(|at| (BASE - at) / PAGE)
        };
        let free = |below: u64, pages: u64| mm.unmap(BASE - below * PAGE, pages * PAGE).unwrap();
        assert_eq!([place(1, RW), place(1, RO), place(1, RW), place(1, RO)], [Ok(1), Ok(2), Ok(3), Ok(4)]);
        // The highest one is free again, and is the next.
        free(1, 1);
        assert_eq!(place(1, RW), Ok(1));
        // A gap that is too small is passed, and taken by a later request that fits.
        free(2, 1);
        assert_eq!([place(2, RW), place(1, RO)], [Ok(6), Ok(2)]);
        // Two gaps that were passed become one that is large enough.
        free(2, 1);
        assert_eq!(place(2, RO), Ok(8));
        free(3, 1);
        assert_eq!([place(2, RO), place(1, RW)], [Ok(3), Ok(9)]);
        // Where there was no room, room is found once it is there.
        mm.set_mmap_base(super::MMAP_MIN_ADDR + 4 * PAGE);
        let first = mm.map(MapRequest::anonymous(Placement::Hint(0), 4 * PAGE, RW)).unwrap();
        assert_eq!(first, super::MMAP_MIN_ADDR);
        assert_eq!(mm.map(MapRequest::anonymous(Placement::Hint(0), PAGE, RO)), Ok(first + 4 * PAGE), "above the base");
        mm.unmap(first + PAGE, PAGE).unwrap();
        assert_eq!(mm.map(MapRequest::anonymous(Placement::Hint(0), PAGE, RO)), Ok(first + PAGE));
    });
}
