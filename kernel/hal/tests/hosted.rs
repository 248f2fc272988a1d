//! The hosted machine, tested with a kernel of a few lines: no kcore, only the door.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hal::hosted::{self, Config, Machine, Tlb, User};
use hal::mem::{self, FrameRange, PAGE_SIZE, Pfn};
use hal::mmu::AddressSpace;
use hal::owner::OwnerCell;
use hal::pte::{PageFlags, Pte, index};
use hal::sync::{IrqLock, Level, SpinLock};
use hal::thread::{self, Start, Thread, work};
use hal::trap::{Access, Handlers, NO_SYSCALL, PageFault, UserException, UserFrame};
use hal::uaccess::{self, BadAddress};
use hal::{cpu, timer};

/// What owns a thread in these tests.
struct Owner {
    thread: Thread,
    own: OwnerCell<Vec<u32>>,
}

impl Owner {
    fn new(thread: Thread) -> Arc<Self> {
        Arc::new(Self { thread, own: OwnerCell::new(Level(1, "own"), vec![1, 2]) })
    }
}

const QUEUE_LEVEL: Level = Level(1, "queue");

hal::global! {
    static EVENTS: IrqLock<Vec<String>> = IrqLock::new(Level(9, "events"), Vec::new());
    static READY: IrqLock<VecDeque<Arc<Owner>>> = IrqLock::new(QUEUE_LEVEL, VecDeque::new());
    static FAULTS_ANSWERED: AtomicU32 = AtomicU32::new(0);
    static NEXT_FRAME: AtomicU32 = AtomicU32::new(300);
    static HANDLER: AtomicU64 = AtomicU64::new(0);
    static SAVED: IrqLock<Option<UserFrame>> = IrqLock::new(Level(8, "saved"), None);
}

fn note(event: impl Into<String>) {
    EVENTS.lock().push(event.into());
}

fn events() -> Vec<String> {
    EVENTS.lock().clone()
}

const SYS_NOTE: u64 = 1;
const SYS_SIGNAL: u64 = 2;
const SYS_RESTART_ONCE: u64 = 3;
const SYS_RT_SIGRETURN: u64 = 139;
const SYS_EXIT_GROUP: u64 = 94;
const SYS_EXECVE: u64 = 221;

/// A kernel that knows six calls; "signals" save the frame in a variable.
fn syscall(frame: &mut UserFrame) {
    let frame_before = *frame;
    match frame.syscall {
        SYS_NOTE => {
            note(format!("note {}", frame.x[0]));
            frame.x[0] += 1;
        }
        SYS_SIGNAL => {
            frame.x[0] = 7;
            *SAVED.lock() = Some(*frame);
            frame.pc = HANDLER.load(Ordering::Relaxed);
            frame.x[0] = 10;
            frame.x[30] = hosted::HANDLER_RETURN;
        }
        SYS_RESTART_ONCE => {
            note("try");
            if events().iter().filter(|event| *event == "try").count() == 1 {
                frame.x[0] = frame_before.original_x0;
                frame.pc -= 4;
            }
        }
        SYS_RT_SIGRETURN => *frame = SAVED.lock().take().expect("a frame was saved"),
        SYS_EXECVE => *frame = UserFrame::new(frame.x[0], 0),
        SYS_EXIT_GROUP => {
            note(format!("exit {}", frame.x[0]));
            hosted::power_off(i32::try_from(frame.x[0]).unwrap());
        }
        other => panic!("call {other}"),
    }
}

fn user_exception(frame: &mut UserFrame, exception: UserException, _esr: u64) {
    note(format!("{exception:?}"));
    if let UserException::PageFault(fault) = exception
        && answer(fault)
    {
        return;
    }
    frame.pc = HANDLER.load(Ordering::Relaxed);
}

/// Maps a page on demand between 0x10_0000 and 0x20_0000.
fn answer(fault: PageFault) -> bool {
    FAULTS_ANSWERED.fetch_add(1, Ordering::Relaxed);
    if !(0x10_0000..0x20_0000).contains(&fault.address) || fault.permission {
        return false;
    }
    map(fault.address, fresh_frame(), ALL);
    true
}

static HANDLERS: Handlers = Handlers {
    syscall,
    user_exception,
    uaccess_fault: answer,
    return_to_user: |_| {
        thread::current_work().fetch_and(!work::RETURN_MASK, Ordering::Relaxed);
        note("exit work");
    },
    interrupt: || note(format!("device on {}", cpu::id())),
    timer: || note(format!("timer on {}", cpu::id())),
    ipi: || note(format!("ipi on {}", cpu::id())),
    preempt: || {
        thread::current_work().fetch_and(!work::RESCHED, Ordering::Relaxed);
        note("preempt");
    },
    thread_started: || {},
};

const ALL: PageFlags =
    PageFlags { read: true, write: true, exec: true, dirty: false, cow: false, uncounted: false, shared: false };
const READ_ONLY: PageFlags = PageFlags { write: false, ..ALL };
const ROOT: Pfn = Pfn(256);
const LEVEL2: Pfn = Pfn(257);
const LEAF: Pfn = Pfn(258);
const VA: u64 = 0x3000;

fn fresh_frame() -> Pfn {
    Pfn(NEXT_FRAME.fetch_add(1, Ordering::Relaxed))
}

fn map(address: u64, pfn: Pfn, flags: PageFlags) {
    mem::table(LEAF)[index(3, address)].store(Pte::page(pfn, flags).0, Ordering::Release);
}

/// A space whose first 2 MiB are the table LEAF.
fn make_space() -> &'static AddressSpace {
    mem::table(ROOT)[0].store(Pte::table(LEVEL2).0, Ordering::Relaxed);
    mem::table(LEVEL2)[0].store(Pte::table(LEAF).0, Ordering::Relaxed);
    let space = Box::leak(Box::new(AddressSpace::new(ROOT)));
    space.activate();
    space
}

fn adopt() -> Arc<Owner> {
    let owner = Owner::new(Thread::for_boot_flow());
    thread::adopt_boot_flow(&owner, &owner.thread);
    owner
}

/// Runs `body` as the boot flow of CPU 0, adopted, with a space.
fn in_machine(config: Config, body: impl FnOnce(&'static AddressSpace) + 'static) -> i32 {
    Machine::new(config)
        .run(|| {
            hal::trap::install(&HANDLERS);
            let _owner = adopt();
            cpu::irq_enable();
            body(make_space());
        })
        .expect("the machine ends by itself")
}

fn one_cpu(body: impl FnOnce(&'static AddressSpace) + 'static) {
    in_machine(Config::default(), body);
}

/// Runs a user program on a thread of its own until it exits.
fn run_user(main: impl Fn(&mut User) -> i32 + 'static) -> i32 {
    in_machine(Config::default(), |_| {
        let entry = hosted::program(main);
        let user = Owner::new(Thread::new(Start::User(UserFrame::new(entry, 0x8000))).unwrap());
        user.thread.bind(&user);
        let boot = thread::current::<Owner>();
        cpu::irq_disable();
        thread::switch(&boot.thread, &user.thread);
    })
}

#[test]
fn a_thread_borrows_and_replaces_a_field_of_its_own() {
    one_cpu(|_| {
        let me = thread::current::<Owner>();
        let second = me.borrow(|owner| &owner.own).map(|own| &own[1]);
        assert_eq!((*second, *second.clone(), me.own.lock().len()), (2, 2, 2));
        drop(second);
        assert_eq!(me.replace(|owner| &owner.own, vec![3]), [1, 2]);
        assert_eq!(*me.borrow(|owner| &owner.own), [3]);
    });
}

#[test]
#[should_panic(expected = "a field is replaced while its owner looks at it")]
fn a_borrowed_field_is_not_replaced() {
    one_cpu(|_| {
        let me = thread::current::<Owner>();
        let _own = me.borrow(|owner| &owner.own);
        drop(me.replace(|owner| &owner.own, vec![]));
    });
}

#[test]
#[should_panic(expected = "a field of another object")]
fn a_field_of_another_owner_is_not_borrowed() {
    one_cpu(|_| {
        let me = thread::current::<Owner>();
        let other: &'static Arc<Owner> = Box::leak(Box::new(Owner::new(Thread::for_boot_flow())));
        drop(me.borrow(|_| &other.own));
    });
}

#[test]
fn frames_are_zero_at_first_and_keep_what_is_written() {
    one_cpu(|_| {
        let mut bytes = [1; 8];
        mem::read(Pfn(400), 100, &mut bytes);
        assert_eq!(bytes, [0; 8]);
        mem::write(Pfn(400), 4088, b"12345678");
        mem::copy(Pfn(401), Pfn(400));
        mem::zero(Pfn(400));
        mem::read(Pfn(401), 4088, &mut bytes);
        assert_eq!(&bytes, b"12345678");
        assert_eq!(mem::table(Pfn(401))[511].load(Ordering::Relaxed), u64::from_le_bytes(*b"12345678"));
    });
}

#[test]
#[should_panic(expected = "not RAM outside the kernel image")]
fn the_kernel_image_cannot_be_written_as_a_frame() {
    one_cpu(|_| mem::zero(Pfn(3)));
}

#[test]
#[should_panic(expected = "past the end of a frame")]
fn a_write_does_not_run_into_the_next_frame() {
    one_cpu(|_| mem::write(Pfn(400), 4090, b"12345678"));
}

#[test]
fn the_initramfs_lies_outside_free_memory() {
    let blob: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let config = Config { initramfs: blob.clone(), ..Config::default() };
    in_machine(config, move |_| {
        let (range, length) = hosted::initramfs();
        assert_eq!(mem::boot_bytes(range, length), &blob[..]);
        let overlaps = |free: &FrameRange| free.start < range.start && free.start.0 + free.count > range.start.0;
        assert!(!mem::free_ranges().iter().any(overlaps));
        let managed: u32 = mem::free_ranges().iter().map(|free| free.count).sum();
        assert_eq!(managed + range.count + 256, mem::max_pfn());
    });
}

#[test]
fn one_machine_knows_nothing_of_the_one_before() {
    one_cpu(|_| {
        note("first");
        mem::write(Pfn(400), 0, &[1]);
    });
    one_cpu(|_| {
        assert!(events().is_empty());
        let mut byte = [9];
        mem::read(Pfn(400), 0, &mut byte);
        assert_eq!(byte, [0]);
    });
}

#[test]
fn a_copy_to_user_memory_crosses_pages_and_faults_in_what_is_missing() {
    one_cpu(|_| {
        let text: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(uaccess::copy_to_user(0x10_0ff0, &text), Ok(()));
        assert_eq!(FAULTS_ANSWERED.load(Ordering::Relaxed), 4);
        let mut back = vec![0; text.len()];
        assert_eq!(uaccess::copy_from_user(&mut back, 0x10_0ff0), Ok(()));
        assert_eq!(back, text);
        assert_eq!(uaccess::clear_user(0x10_0ff0, 5000), Ok(()));
        assert_eq!(uaccess::load_u64(0x10_1000), Ok(0));
    });
}

#[test]
fn a_failing_copy_says_how_far_it_came() {
    one_cpu(|_| {
        let bytes = [7; 100];
        assert_eq!(uaccess::copy_to_user(0x1f_ffc0, &bytes), Err(BadAddress { done: 64 }));
        assert_eq!(uaccess::copy_to_user(u64::MAX - 3, &bytes), Err(BadAddress { done: 0 }));
        assert_eq!(uaccess::copy_from_user(&mut [0; 4], 1 << 39), Err(BadAddress { done: 0 }));
    });
}

#[test]
fn an_injected_fault_strikes_after_n_bytes() {
    one_cpu(|_| {
        hosted::fault_after(0x10_0000, 8192, 5000);
        assert_eq!(uaccess::copy_to_user(0x10_0000, &[1; 8192]), Err(BadAddress { done: 5000 }));
        assert_eq!(uaccess::load_u32(0x10_0000 + 5000), Err(BadAddress { done: 0 }));
        hosted::clear_injected_faults();
        assert_eq!(uaccess::copy_to_user(0x10_0000, &[1; 8192]), Ok(()));
    });
}

#[test]
fn without_faults_a_miss_fails_at_once() {
    one_cpu(|_| {
        let result = uaccess::without_faults(|| uaccess::load_u32(0x10_0000));
        assert_eq!(result, Err(BadAddress { done: 0 }));
        assert_eq!(FAULTS_ANSWERED.load(Ordering::Relaxed), 0);
        assert_eq!(uaccess::load_u32(0x10_0000), Ok(0));
    });
}

#[test]
fn a_string_ends_at_its_nul_or_fills_the_buffer() {
    one_cpu(|_| {
        uaccess::copy_to_user(0x10_0ffd, b"drupe\0rest").unwrap();
        let mut buffer = [0; 32];
        assert_eq!(uaccess::copy_string_from_user(&mut buffer, 0x10_0ffd), Ok(5));
        assert_eq!(&buffer[..5], b"drupe");
        assert_eq!(uaccess::copy_string_from_user(&mut buffer[..3], 0x10_0ffd), Ok(3));
        // The page after the string is not needed, so it is not touched.
        uaccess::copy_to_user(0x1f_fffd, b"ab\0").unwrap();
        assert_eq!(uaccess::copy_string_from_user(&mut buffer, 0x1f_fffd), Ok(2));
    });
}

#[test]
fn words_are_aligned_and_compare_exchange_reports_what_it_found() {
    one_cpu(|_| {
        assert_eq!(uaccess::store_u32(0x10_0002, 1), Err(BadAddress { done: 0 }));
        uaccess::store_u32(0x10_0004, 5).unwrap();
        assert_eq!(uaccess::compare_exchange_u32(0x10_0004, 4, 9), Ok(5));
        assert_eq!(uaccess::compare_exchange_u32(0x10_0004, 5, 9), Ok(5));
        assert_eq!(uaccess::load_u32(0x10_0004), Ok(9));
    });
}

#[test]
fn a_shared_leaf_table_forbids_writes_that_its_entries_allow() {
    one_cpu(|_| {
        map(VA, Pfn(400), ALL);
        mem::table(LEVEL2)[0].store(Pte::shared_table(LEAF).0, Ordering::Relaxed);
        assert_eq!(uaccess::load_u32(VA), Ok(0));
        assert_eq!(uaccess::store_u32(VA, 1), Err(BadAddress { done: 0 }));
    });
}

#[test]
#[should_panic(expected = "stale TLB entry used")]
fn a_page_unmapped_without_a_flush_is_caught() {
    one_cpu(|_| {
        map(VA, Pfn(400), ALL);
        uaccess::load_u32(VA).unwrap();
        mem::table(LEAF)[index(3, VA)].store(0, Ordering::Relaxed);
        let _ = uaccess::load_u32(VA);
    });
}

#[test]
#[should_panic(expected = "stale TLB entry used")]
fn a_table_shared_by_fork_without_a_flush_is_caught() {
    one_cpu(|_| {
        map(VA, Pfn(400), ALL);
        uaccess::store_u32(VA, 1).unwrap();
        mem::table(LEVEL2)[0].store(Pte::shared_table(LEAF).0, Ordering::Relaxed);
        let _ = uaccess::store_u32(VA, 2);
    });
}

#[test]
fn a_flush_makes_the_tables_count_again() {
    one_cpu(|space| {
        map(VA, Pfn(400), ALL);
        uaccess::store_u32(VA, 1).unwrap();
        map(VA, Pfn(401), READ_ONLY);
        space.flush_page(VA);
        assert_eq!(uaccess::load_u32(VA), Ok(0));
        assert_eq!(uaccess::store_u32(VA, 2), Err(BadAddress { done: 0 }));
        map(VA, Pfn(401), ALL);
        space.flush_range(VA, 1000);
        assert_eq!(uaccess::store_u32(VA, 2), Ok(()));
    });
}

#[test]
fn a_hardware_like_tlb_goes_on_using_a_stale_entry() {
    in_machine(Config { tlb: Tlb::Hardware, ..Config::default() }, |_| {
        map(VA, Pfn(400), ALL);
        uaccess::store_u32(VA, 1).unwrap();
        map(VA, Pfn(401), ALL);
        assert_eq!(uaccess::load_u32(VA), Ok(1));
    });
}

#[test]
#[should_panic(expected = "faults again and again")]
fn a_grant_that_is_never_flushed_is_caught() {
    static FORGETFUL: Handlers = Handlers {
        uaccess_fault: |_| {
            map(VA, Pfn(400), ALL);
            true
        },
        ..HANDLERS
    };
    one_cpu(|_| {
        hal::trap::install(&FORGETFUL);
        map(VA, Pfn(400), READ_ONLY);
        uaccess::load_u32(VA).unwrap();
        let _ = uaccess::store_u32(VA, 1);
    });
}

#[test]
#[should_panic(expected = "is freed while CPU 0 still translates")]
fn a_frame_freed_before_its_flush_is_caught() {
    one_cpu(|_| {
        map(VA, Pfn(400), ALL);
        uaccess::load_u32(VA).unwrap();
        map(VA, Pfn(401), ALL);
        mem::frame_freed(Pfn(400));
    });
}

#[test]
fn two_spaces_do_not_share_translations() {
    one_cpu(|space| {
        map(VA, Pfn(400), ALL);
        uaccess::store_u32(VA, 1).unwrap();
        let other = AddressSpace::new(Pfn(270));
        other.activate();
        assert_eq!(uaccess::load_u32(VA), Err(BadAddress { done: 0 }));
        hal::mmu::deactivate();
        assert_eq!(uaccess::load_u32(VA), Err(BadAddress { done: 0 }));
        space.activate();
        assert_eq!(uaccess::load_u32(VA), Ok(1));
    });
}

#[test]
fn the_nth_allocation_fails_once() {
    one_cpu(|_| {
        hosted::fail_nth_allocation(Some(2));
        let failures: Vec<bool> = (0..5).map(|_| mem::injected_failure()).collect();
        assert_eq!(failures, [false, false, true, false, false]);
    });
}

#[test]
fn threads_take_turns_on_their_own_stacks() {
    fn other(argument: usize) {
        for step in 0..3 {
            note(format!("other {}", argument + step));
            let me = thread::current::<Owner>();
            let next = READY.lock().pop_front().unwrap();
            READY.lock().push_back(me.arc());
            cpu::irq_disable();
            thread::switch(&me.thread, &next.thread);
        }
    }
    one_cpu(|_| {
        let thread = Thread::new(Start::Kernel { entry: other, argument: 10 }).unwrap();
        let second = Owner::new(thread);
        second.thread.bind(&second);
        let me = thread::current::<Owner>();
        for step in 0..3 {
            note(format!("boot {step}"));
            READY.lock().push_back(me.arc());
            cpu::irq_disable();
            thread::switch(&me.thread, &second.thread);
            READY.lock().clear();
        }
        assert_eq!(events(), ["boot 0", "other 10", "boot 1", "other 11", "boot 2", "other 12"]);
    });
}

#[test]
fn time_jumps_to_the_deadline_when_every_cpu_sleeps() {
    one_cpu(|_| {
        timer::set_deadline(5_000_000_000);
        cpu::irq_disable();
        cpu::wait_for_interrupt();
        assert!(events().is_empty(), "still masked");
        cpu::irq_enable();
        assert_eq!(events(), ["timer on 0"]);
        let now = timer::now_ns();
        assert!((5_000_000_000..5_000_100_000).contains(&now), "{now}");
    });
}

#[test]
fn a_deadline_in_the_past_fires_at_once_and_only_once() {
    one_cpu(|_| {
        timer::set_deadline(0);
        hosted::advance_clock(1000);
        assert_eq!(events(), ["timer on 0"]);
    });
}

#[test]
fn masked_interrupts_wait_for_the_mask_to_open() {
    one_cpu(|_| {
        let saved = cpu::irq_save();
        hosted::raise_device_interrupt(0);
        cpu::send_ipi(0);
        assert!(events().is_empty());
        cpu::irq_restore(saved);
        assert_eq!(events(), ["ipi on 0", "device on 0"]);
    });
}

#[test]
fn preemption_waits_until_the_count_is_zero() {
    one_cpu(|_| {
        cpu::preempt_disable();
        cpu::preempt_disable();
        thread::current_work().fetch_or(work::RESCHED, Ordering::Relaxed);
        cpu::preempt_enable();
        assert!(events().is_empty());
        cpu::preempt_enable();
        assert_eq!(events(), ["preempt"]);
    });
}

#[test]
fn an_interrupt_of_kernel_code_ends_in_a_reschedule_when_one_is_due() {
    one_cpu(|_| {
        thread::current_work().fetch_or(work::RESCHED, Ordering::Relaxed);
        cpu::send_ipi(0);
        assert_eq!(events(), ["ipi on 0", "preempt"]);
    });
}

#[test]
fn a_machine_where_all_sleep_without_a_deadline_is_a_deadlock() {
    let stuck = Machine::new(Config::default()).run(cpu::wait_for_interrupt).unwrap_err();
    assert!(stuck.0.starts_with("deadlock"), "{stuck:?}");
}

#[test]
fn an_endless_loop_is_ended_by_the_turn_limit() {
    let config = Config { max_turns: 100, ..Config::default() };
    let stuck = Machine::new(config)
        .run(|| {
            loop {
                cpu::relax()
            }
        })
        .unwrap_err();
    assert!(stuck.0.starts_with("the turns are over"), "{stuck:?}");
}

#[test]
fn power_off_ends_the_machine_with_its_code() {
    assert_eq!(Machine::new(Config::default()).run(|| hosted::power_off(3)), Ok(3));
}

#[test]
#[should_panic(expected = "kernel bug")]
fn a_panic_of_the_kernel_reaches_the_test_through_held_locks() {
    one_cpu(|_| {
        let lock = SpinLock::new(QUEUE_LEVEL, 0);
        let _held = lock.lock();
        panic!("kernel bug");
    });
}

#[test]
#[should_panic(expected = "lockdep: queue taken while holding")]
fn locks_out_of_order_are_reported() {
    one_cpu(|_| {
        let _events = EVENTS.lock();
        let _queue = READY.lock();
    });
}

#[test]
fn cpus_send_each_other_interrupts() {
    in_machine(Config { cpus: 2, ..Config::default() }, |_| {
        hosted::start_secondary(1, || {
            let _owner = adopt();
            cpu::irq_enable();
            note("up");
            cpu::irq_disable();
            cpu::wait_for_interrupt();
            cpu::irq_enable();
            note("woken");
            loop {
                cpu::irq_disable();
                cpu::wait_for_interrupt();
                cpu::irq_enable();
            }
        });
        assert_eq!(cpu::online_mask(), 0b11);
        while events().is_empty() {
            cpu::relax();
        }
        cpu::send_ipi(1);
        while events().len() < 3 {
            cpu::relax();
        }
        assert_eq!(events(), ["up", "ipi on 1", "woken"]);
    });
}

/// Four CPUs count under a lock, reading and writing in two steps. Returns the count and the order of the CPUs.
fn count_on_four_cpus(seed: u64) -> (u64, Vec<usize>) {
    hal::global! {
        static COUNT: SpinLock<u64> = SpinLock::new(QUEUE_LEVEL, 0);
        static ORDER: SpinLock<Vec<usize>> = SpinLock::new(Level(2, "order"), Vec::new());
        static DONE: AtomicU32 = AtomicU32::new(0);
    }
    fn work() {
        for _ in 0..100 {
            let mut count = COUNT.lock();
            let seen = *count;
            ORDER.lock().push(cpu::id());
            *count = seen + 1;
        }
        DONE.fetch_add(1, Ordering::SeqCst);
    }
    let result = Rc::new(RefCell::new((0, Vec::new())));
    let out = result.clone();
    in_machine(Config { cpus: 4, seed, interleave: true, ..Config::default() }, move |_| {
        for n in 1..4 {
            hosted::start_secondary(n, || {
                let _owner = adopt();
                cpu::irq_enable();
                work();
                loop {
                    cpu::relax();
                }
            });
        }
        work();
        while DONE.load(Ordering::SeqCst) < 4 {
            cpu::relax();
        }
        *out.borrow_mut() = (*COUNT.lock(), ORDER.lock().clone());
    });
    result.take()
}

#[test]
fn a_spin_lock_keeps_interleaved_cpus_apart() {
    let (count, order) = count_on_four_cpus(1);
    assert_eq!(count, 400);
    assert!(order.windows(2).filter(|pair| pair[0] != pair[1]).count() > 20, "the CPUs did not interleave");
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    assert_eq!(count_on_four_cpus(7), count_on_four_cpus(7));
    assert_ne!(count_on_four_cpus(7).1, count_on_four_cpus(8).1);
}

#[test]
fn a_program_calls_the_kernel_and_its_value_is_the_exit_code() {
    let code = run_user(|user| {
        assert_eq!(user.syscall(SYS_NOTE, [41, 0, 0, 0, 0, 0]), 42);
        assert_eq!(user.sp(), 0x8000);
        5
    });
    assert_eq!(code, 5);
}

#[test]
fn a_user_fault_is_answered_and_the_access_repeated() {
    let code = run_user(|user| {
        user.write(0x10_0ffc, 0x1122_3344_5566_7788u64);
        assert_eq!(user.read::<u32>(0x10_1000), 0x1122_3344);
        i32::from(events().iter().filter(|event| event.starts_with("PageFault")).count() as u8)
    });
    assert_eq!(code, 2);
}

#[test]
fn a_handler_runs_nested_and_its_return_restores_the_registers() {
    let code = run_user(|user| {
        let seen = Rc::new(Cell::new(0));
        let handler_saw = seen.clone();
        HANDLER.store(
            hosted::program(move |user| {
                handler_saw.set(user.argument(0));
                user.syscall(SYS_NOTE, [1, 0, 0, 0, 0, 0]);
                0
            }),
            Ordering::Relaxed,
        );
        assert_eq!(user.syscall(SYS_SIGNAL, [0; 6]), 7);
        assert_eq!(seen.get(), 10);
        assert_eq!(events(), ["note 1"]);
        0
    });
    assert_eq!(code, 0);
}

#[test]
fn a_restarted_call_runs_again_with_its_first_argument() {
    let code = run_user(|user| i32::try_from(user.syscall(SYS_RESTART_ONCE, [33, 0, 0, 0, 0, 0])).unwrap());
    assert_eq!(code, 33);
}

#[test]
fn exec_unwinds_the_old_closure() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            note("unwound");
        }
    }
    let code = run_user(|user| {
        let _bomb = Bomb;
        let next = hosted::program(|_| {
            assert_eq!(events(), ["unwound"]);
            9
        });
        user.syscall(SYS_EXECVE, [next, 0, 0, 0, 0, 0]);
        panic!("the old program went on");
    });
    assert_eq!(code, 9);
}

#[test]
fn a_jump_into_mapped_memory_runs_the_program_that_its_instruction_names() {
    let code = run_user(|user| {
        let next = hosted::program(|_| 21);
        map(VA, Pfn(400), ALL);
        mem::write(Pfn(400), 0x10, &hosted::entry_instruction(next).to_le_bytes());
        user.syscall(SYS_EXECVE, [VA + 0x10, 0, 0, 0, 0, 0]);
        0
    });
    assert_eq!(code, 21);
}

#[test]
fn a_jump_to_nowhere_is_an_execute_fault() {
    let code = run_user(|user| {
        HANDLER.store(
            hosted::program(|_| {
                let expected = UserException::PageFault(PageFault {
                    address: 0x50_0000,
                    access: Access::Execute,
                    permission: false,
                });
                assert_eq!(events(), [format!("{expected:?}")]);
                4
            }),
            Ordering::Relaxed,
        );
        user.syscall(SYS_EXECVE, [0x50_0000, 0, 0, 0, 0, 0]);
        0
    });
    assert_eq!(code, 4);
}

#[test]
fn exit_work_is_done_before_user_code_goes_on() {
    let code = run_user(|user| {
        thread::current_work().fetch_or(work::NOTIFY, Ordering::Relaxed);
        user.preempt();
        assert_eq!(user.registers().syscall, NO_SYSCALL);
        assert_eq!(events(), ["exit work"]);
        0
    });
    assert_eq!(code, 0);
}

#[test]
fn computing_lets_timers_interrupt_user_code() {
    static WATCHED: Handlers =
        Handlers { timer: || note(format!("in user: {}", hal::trap::interrupted_user())), ..HANDLERS };
    let code = run_user(|user| {
        hal::trap::install(&WATCHED);
        timer::set_deadline(timer::now_ns() + 1_000_000);
        user.compute(2_000_000);
        assert_eq!(events(), ["in user: true"]);
        0
    });
    assert_eq!(code, 0);
}

#[test]
fn a_dead_thread_gives_its_stack_frames_back() {
    hal::global! {
        static TAKEN: AtomicU32 = AtomicU32::new(0);
    }
    one_cpu(|_| {
        mem::set_frame_source(mem::FrameSource {
            allocate: |order| {
                if mem::injected_failure() {
                    return None;
                }
                TAKEN.fetch_add(1 << order, Ordering::Relaxed);
                Some(Pfn(500))
            },
            free: |_, order| {
                TAKEN.fetch_sub(1 << order, Ordering::Relaxed);
            },
        });
        let thread = Thread::new(Start::Kernel { entry: |_| {}, argument: 0 }).unwrap();
        assert_eq!(TAKEN.load(Ordering::Relaxed) as usize * PAGE_SIZE, 16384);
        drop(thread);
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
        hosted::fail_nth_allocation(Some(0));
        assert!(Thread::new(Start::Kernel { entry: |_| {}, argument: 0 }).is_err());
    });
}
