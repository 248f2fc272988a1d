//! How costs grow with the number of tasks and of mappings: `cargo bench -p kcore`. The real code, on the hosted half of
//! hal. What is O(1) stays flat from 10 to 100,000; what is O(log n) doubles or triples; anything else is a bug.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use hal::hosted::{self, Config, Machine};
use kcore::mm::space::{MapRequest, Mm, Placement};
use kcore::mm::{Protection, frame};
use kcore::task::pid::{Pid, PidNamespace};
use kcore::testing::Queue;
use kcore::time::{Timer, TimerCallback};

const SIZES: [u64; 5] = [10, 100, 1_000, 10_000, 100_000];
const PAGE: u64 = 4096;
const BASE: u64 = 0x10_0000_0000;

fn main() {
    let machine = Machine::new(Config { ram_bytes: 512 << 20, max_turns: u64::MAX, ..Config::default() });
    let ended = machine.run(|| {
        frame::init();
        let criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(500))
            .sample_size(20);
        let mut criterion = criterion.configure_from_args();
        pick_next(&mut criterion);
        wake(&mut criterion);
        pid(&mut criterion);
        timers(&mut criterion);
        vma(&mut criterion);
        mmap(&mut criterion);
        criterion.final_summary();
        hosted::power_off(0);
    });
    assert_eq!(ended, Ok(0));
}

/// The end of a turn: the task goes back, the next one is picked.
fn pick_next(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick next");
    for size in SIZES {
        let mut queue = Queue::new(size);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| bencher.iter(|| queue.switch()));
    }
    group.finish();
}

/// A task wakes among others that wait for the CPU.
fn wake(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wake");
    for size in SIZES {
        let mut queue = Queue::new(size);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| bencher.iter(|| queue.sleep_and_wake()));
    }
    group.finish();
}

struct Unheard;

impl TimerCallback for Unheard {
    fn expired(&self, _: &Arc<Timer>) {}
}

/// A timer is started and stopped, as by a sleep that something else ends, among others that wait.
fn timers(criterion: &mut Criterion) {
    const HOUR: u64 = 3_600_000_000_000;
    let mut group = criterion.benchmark_group("timer");
    for size in SIZES {
        let timer = || Timer::call(std::sync::Weak::<Unheard>::new());
        let waiting: Vec<_> = (0..size).map(|_| timer()).collect();
        // Deadlines all over an hour, in no order.
        let deadline = |n: u64| HOUR + n.wrapping_mul(2_654_435_761) % HOUR;
        (0..).zip(&waiting).for_each(|(n, timer)| timer.start(deadline(n)));
        let (own, mut n) = (timer(), 0);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                n += 7;
                own.start(black_box(deadline(n)));
                own.cancel()
            });
        });
        waiting.iter().for_each(|timer| {
            timer.cancel();
        });
    }
    group.finish();
}

/// A PID is taken and given back while others are in use, all in one stretch, and the search begins before it.
fn pid(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pid");
    for size in SIZES {
        let space = PidNamespace::initial();
        let max = i32::try_from(size).expect("few") + 1000;
        space.pid_max.store(max, std::sync::atomic::Ordering::Relaxed);
        let held: Vec<_> = (0..size).map(|_| Pid::allocate(&space).expect("below the maximum")).collect();
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| drop(black_box(Pid::allocate(&space).expect("some are free"))));
        });
        drop(held);
    }
    group.finish();
}

/// Whether an address is mapped: what a page fault asks first.
fn vma(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("vma lookup");
    for size in sizes_of_maps() {
        let mm = mapped(size);
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                // A stride that meets all of them in no order.
                at = (at + 7919) % size;
                mm.check_mapped(BASE + at * PAGE, BASE + (at + 1) * PAGE)
            });
        });
    }
    group.finish();
}

/// A page is mapped wherever the kernel likes, and unmapped.
fn mmap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mmap and munmap");
    for size in sizes_of_maps() {
        let mm = mapped(size);
        mm.set_mmap_base(BASE + size * PAGE);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let at = mm.map(MapRequest::anonymous(Placement::Hint(0), PAGE, protection(0))).expect("there is room");
                mm.unmap(at, PAGE)
            });
        });
    }
    group.finish();
}

/// An address space holds 65,530 areas at most (`vm.max_map_count`).
fn sizes_of_maps() -> impl Iterator<Item = u64> {
    SIZES.into_iter().map(|size| size.min(65_000))
}

/// `count` areas of one page side by side, which cannot be joined.
fn mapped(count: u64) -> std::sync::Arc<Mm> {
    let mm = Mm::new().expect("memory");
    for index in 0..count {
        let at = Placement::FixedNoReplace(BASE + index * PAGE);
        mm.map(MapRequest::anonymous(at, PAGE, protection(index))).expect("fewer than the limit");
    }
    mm
}

fn protection(index: u64) -> Protection {
    Protection { read: true, write: index.is_multiple_of(2), exec: false }
}
