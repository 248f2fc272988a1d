//! Work queues: order, limits, concurrency, waiting and cancelling, delays, and what happens without memory. The stories call
//! the kernel's own interface from inside of a process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use hal::hosted::User;
use kcore::sync::WaitQueue;
use kcore::task::TaskState;
use kcore::testing::{Libc, Machine};
use kcore::workqueue::{self, DelayedWork, FnWork, Work, WorkItem, WorkQueue, flags};
use kcore::{sync, time};

const MS: u64 = 1_000_000;

/// What items of one machine note down.
type Notes = Arc<Mutex<Vec<u32>>>;

/// Notes its number; sleeps before that if it is told to.
struct Item {
    work: Work,
    number: u32,
    sleep_ns: u64,
    notes: Notes,
    running: AtomicUsize,
}

impl Item {
    fn new(number: u32, sleep_ns: u64, notes: &Notes) -> Arc<Self> {
        Arc::new(Self { work: Work::new(), number, sleep_ns, notes: notes.clone(), running: AtomicUsize::new(0) })
    }
}

impl WorkItem for Item {
    fn work(&self) -> &Work {
        &self.work
    }

    fn run(self: Arc<Self>) {
        assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "an item runs twice at once");
        if self.sleep_ns > 0 {
            sleep(self.sleep_ns);
        }
        self.notes.lock().unwrap().push(self.number);
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn sleep(ns: u64) {
    sync::sleep_until(TaskState::Uninterruptible, time::monotonic_ns() + ns).unwrap();
}

fn noted(notes: &Notes) -> Vec<u32> {
    notes.lock().unwrap().clone()
}

fn dynamic(item: &Arc<Item>) -> Arc<dyn WorkItem> {
    item.clone()
}

/// Runs `story` on 1 to 4 CPUs that change places at random.
fn on_many(seeds: u64, story: impl Fn(&mut User) + Clone + 'static) {
    for seed in 0..seeds {
        Machine::interleaved(1 + seed as usize % 4, seed).run(story.clone());
    }
}

#[test]
fn items_run_once_each_time_that_they_are_queued() {
    on_many(12, |_| {
        let notes = Notes::default();
        let item = Item::new(7, 0, &notes);
        let queue = workqueue::system();
        let mut queued = 0;
        for _ in 0..50 {
            queued += usize::from(queue.queue(&item));
            sleep(MS / 10);
        }
        workqueue::flush(&*item);
        assert_eq!(noted(&notes).len(), queued);
        assert!(queued > 10);
        assert!(!item.work.is_pending());
        assert!(!workqueue::flush(&*item), "nothing to wait for");
    });
}

#[test]
fn an_ordered_queue_keeps_the_order_and_runs_one_at_a_time() {
    on_many(12, |_| {
        let notes = Notes::default();
        let queue = WorkQueue::ordered("ordered", 0).unwrap();
        let items: Vec<_> = (0..20).map(|n| Item::new(n, u64::from(n % 3) * MS, &notes)).collect();
        items.iter().for_each(|item| assert!(queue.queue(item)));
        queue.flush();
        assert_eq!(noted(&notes), (0..20).collect::<Vec<_>>());
        queue.destroy();
    });
}

#[test]
fn at_most_max_active_items_of_a_queue_run_on_a_pool() {
    on_many(8, |_| {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let queue = WorkQueue::new("limited", flags::UNBOUND, 3).unwrap();
        let items: Vec<_> = (0..12)
            .map(|_| {
                let (now, most) = (now.clone(), most.clone());
                FnWork::new(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    sleep(5 * MS);
                    now.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        items.iter().for_each(|item| assert!(queue.queue(item)));
        queue.flush();
        assert_eq!(most.load(Ordering::SeqCst), 3);
        queue.destroy();
    });
}

#[test]
fn an_item_that_sleeps_lets_another_one_of_its_cpu_run() {
    on_many(12, |_| {
        let notes = Notes::default();
        let items: Vec<_> = (0..10).map(|n| Item::new(n, 100 * MS, &notes)).collect();
        let before = time::monotonic_ns();
        items.iter().for_each(|item| assert!(workqueue::system().queue_on(0, item)));
        items.iter().for_each(|item| {
            workqueue::flush(&**item);
        });
        // They slept beside each other, in workers that were made for it.
        assert!(time::monotonic_ns() - before < 300 * MS);
        assert_eq!(noted(&notes).len(), 10);
    });
}

#[test]
fn items_of_a_bound_queue_run_on_the_cpu_that_was_asked_for() {
    Machine::with_cpus(4).run(|_| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let items: Vec<_> = (0..4)
            .map(|cpu| {
                let seen = seen.clone();
                let item = FnWork::new(move || seen.lock().unwrap().push((cpu, kcore::task::current().sched.cpu())));
                assert!(workqueue::system_highpri().queue_on(cpu, &item));
                item
            })
            .collect();
        items.iter().for_each(|item| {
            workqueue::flush(&**item);
        });
        assert_eq!(seen.lock().unwrap().len(), 4);
        assert!(seen.lock().unwrap().iter().all(|(asked, ran)| asked == ran));
    });
}

#[test]
fn flushing_a_queue_waits_for_what_was_queued_before_and_not_for_ever() {
    on_many(12, |_| {
        let notes = Notes::default();
        let queue = WorkQueue::new("flushed", 0, 0).unwrap();
        let items: Vec<_> = (0..8).map(|n| Item::new(n, u64::from(n) * MS, &notes)).collect();
        items.iter().for_each(|item| assert!(queue.queue(item)));
        // One that queues itself again and again does not hold the flush up.
        let (owner, runs) = (queue.clone(), Arc::new(AtomicUsize::new(0)));
        let itself: Arc<Mutex<Weak<FnWork>>> = Arc::default();
        let (again, counter) = (itself.clone(), runs.clone());
        let chain = FnWork::new(move || {
            sleep(MS);
            if counter.fetch_add(1, Ordering::SeqCst) < 60
                && let Some(this) = again.lock().unwrap().upgrade()
            {
                owner.queue(&this);
            }
        });
        *itself.lock().unwrap() = Arc::downgrade(&chain);
        assert!(queue.queue(&chain));
        queue.flush();
        assert_eq!(noted(&notes).len(), 8);
        assert!(runs.load(Ordering::SeqCst) < 60);
        // Draining lets the chain come to its end.
        queue.drain();
        assert_eq!(runs.load(Ordering::SeqCst), 61);
        queue.destroy();
        assert!(!queue.queue(&chain), "a queue that was destroyed takes nothing");
        assert!(!chain.work().is_pending());
    });
}

#[test]
fn a_cancelled_item_does_not_run_and_cancel_sync_waits_for_one_that_does() {
    on_many(16, |_| {
        let notes = Notes::default();
        let queue = WorkQueue::new("cancelled", flags::UNBOUND, 1).unwrap();
        let (first, second) = (Item::new(1, 20 * MS, &notes), Item::new(2, 0, &notes));
        assert!(queue.queue(&first) && queue.queue(&second));
        sleep(5 * MS);
        // The second one waits behind the limit, the first one runs.
        assert!(workqueue::cancel_sync(&dynamic(&second)));
        assert!(!workqueue::cancel_sync(&dynamic(&first)));
        assert_eq!(noted(&notes), [1]);
        assert!(!workqueue::cancel(&dynamic(&second)));
        assert!(queue.queue(&second), "it can be queued again");
        queue.flush();
        assert_eq!(noted(&notes), [1, 2]);
        queue.destroy();
    });
}

#[test]
fn queue_flush_and_cancel_race_without_losing_anything() {
    on_many(40, |init| {
        let notes = Notes::default();
        let item = Item::new(1, 0, &notes);
        let (queued, cancelled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let children: Vec<_> = (0..4)
            .map(|n| {
                let (item, queued, cancelled) = (item.clone(), queued.clone(), cancelled.clone());
                kcore::task::kthread::spawn("racer", move || {
                    for _ in 0..25 {
                        match n {
                            0 | 1 => {
                                queued.fetch_add(workqueue::system().queue(&item).into(), Ordering::SeqCst);
                            }
                            2 => {
                                let was = workqueue::cancel_sync(&dynamic(&item));
                                cancelled.fetch_add(was.into(), Ordering::SeqCst);
                            }
                            _ => {
                                workqueue::flush(&*item);
                            }
                        }
                        kcore::sched::yield_now();
                    }
                    0
                })
                .unwrap()
            })
            .collect();
        init.sleep_ns(50 * MS).unwrap();
        children.iter().for_each(|child| assert_eq!(kcore::task::kthread::stop(child), 0));
        workqueue::flush(&*item);
        let (queued, cancelled) = (queued.load(Ordering::SeqCst), cancelled.load(Ordering::SeqCst));
        assert_eq!(noted(&notes).len() + cancelled, queued, "{cancelled} cancelled");
    });
}

#[test]
fn delayed_work_comes_when_its_time_has_come() {
    on_many(8, |_| {
        let notes = Notes::default();
        let item = Item::new(1, 0, &notes);
        let weak: Weak<Item> = Arc::downgrade(&item);
        let delayed = DelayedWork::new(weak);
        let queue = workqueue::system();
        assert!(delayed.queue(queue, 50 * MS));
        assert!(!delayed.queue(queue, MS), "it waits already");
        assert!(!queue.queue(&item), "and not in the queue as well");
        sleep(40 * MS);
        assert_eq!(noted(&notes).len(), 0);
        assert!(delayed.modify(queue, 50 * MS));
        sleep(40 * MS);
        assert_eq!(noted(&notes).len(), 0);
        sleep(20 * MS);
        assert_eq!(noted(&notes).len(), 1);
        // Cancelled while the timer runs; flushed while it runs; without a delay.
        assert!(delayed.queue(queue, 50 * MS));
        assert!(delayed.cancel_sync());
        assert!(!delayed.cancel_sync());
        sleep(60 * MS);
        assert_eq!(noted(&notes).len(), 1);
        assert!(delayed.queue(queue, 1000 * MS));
        assert!(delayed.flush());
        assert_eq!(noted(&notes).len(), 2);
        assert!(delayed.queue(queue, 0));
        delayed.flush();
        assert_eq!(noted(&notes).len(), 3);
        // The owner goes while the timer runs.
        assert!(delayed.queue(queue, MS));
        drop(item);
        sleep(5 * MS);
        assert_eq!(noted(&notes).len(), 3);
    });
}

#[test]
fn idle_workers_that_are_not_needed_leave() {
    Machine::new().run(|init| {
        let workers = |init: &mut User| {
            (2..60)
                .filter(|pid| {
                    init.slurp(&format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(b"kworker/0:"))
                })
                .count()
        };
        init.scoped(|user| {
            let (kind, at) = (user.push_string("proc"), user.push_string("/proc"));
            user.call(abi::nr::MOUNT, &[kind, at, kind, 0, 0]).unwrap();
        });
        let notes = Notes::default();
        let items: Vec<_> = (0..10).map(|n| Item::new(n, 50 * MS, &notes)).collect();
        items.iter().for_each(|item| assert!(workqueue::system().queue(item)));
        sleep(20 * MS);
        let busy = workers(init);
        assert!(busy >= 11, "{busy}: ten that sleep in their items, one in reserve");
        let comm = (2..60).find_map(|pid| {
            let comm = String::from_utf8(init.slurp(&format!("/proc/{pid}/comm")).ok()?).unwrap();
            comm.ends_with("+events\n").then_some(comm)
        });
        assert!(comm.is_some_and(|comm| comm.starts_with("kworker/0:")));
        for _ in 0..4 {
            sleep(310_000 * MS);
            workqueue::system().queue(&items[0]);
            workqueue::flush(&*items[0]);
        }
        let left = workers(init);
        assert!(
            (2..=5).contains(&left),
            "{left} of {busy} workers stayed: two are kept, with their high-priority ones"
        );
    });
}

#[test]
fn without_memory_for_workers_a_rescuer_runs_the_items_of_its_queue() {
    Machine::with_cpus(2).run(|_| {
        let queue = WorkQueue::new("reclaim", flags::MEM_RECLAIM, 0).unwrap();
        let notes = Notes::default();
        let gate = Arc::new((WaitQueue::new(), AtomicUsize::new(0)));
        // As many sleepers as there are workers wait for an item of the queue.
        let sleepers: Vec<_> = (0..6)
            .map(|_| {
                let gate = gate.clone();
                FnWork::new(move || {
                    gate.0.wait_event(TaskState::Uninterruptible, || gate.1.load(Ordering::SeqCst) > 0).unwrap();
                })
            })
            .collect();
        let opener = {
            let (gate, notes) = (gate.clone(), notes.clone());
            FnWork::new(move || {
                gate.1.store(1, Ordering::SeqCst);
                gate.0.wake_all();
                assert_eq!(kcore::task::current().comm(), "reclaim", "the queue's rescuer runs it");
                notes.lock().unwrap().push(1);
            })
        };
        sleep(MS);
        hal::hosted::fail_all_allocations(true);
        for sleeper in &sleepers {
            workqueue::system().queue_on(0, sleeper);
        }
        sleep(MS);
        queue.queue_on(0, &opener);
        sleep(500 * MS);
        hal::hosted::fail_all_allocations(false);
        assert_eq!(noted(&notes), [1]);
        sleepers.iter().for_each(|sleeper| {
            workqueue::flush(&**sleeper);
        });
        queue.destroy();
    });
}
