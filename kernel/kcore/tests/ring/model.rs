//! Random sequences of map, unmap, protect, write and fork agree with a model that is too simple to be wrong.

use std::cell::RefCell;
use std::rc::Rc;

use abi::mman::{MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE};
use abi::{Errno, nr};
use hal::hosted::User;
use kcore::testing::{Libc, Machine, free_frames};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};

use crate::MS;

const BASE: u64 = 0x20_0000_0000 - 8 * 4096;
/// The pages lie on both sides of a leaf table's end.
const PAGES: usize = 16;

#[derive(Clone, Debug)]
enum Op {
    Map { at: usize, length: usize, prot: u32, shared: bool },
    Unmap { at: usize, length: usize },
    Protect { at: usize, length: usize, prot: u32 },
    Discard { at: usize, length: usize },
    Write { at: usize, value: u64 },
    Fork { child: Vec<Op>, child_first: bool },
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    (0..PAGES).prop_flat_map(|at| (Just(at), 1..=PAGES - at))
}

fn prot() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(0), 1 => Just(PROT_READ), 4 => Just(PROT_READ | PROT_WRITE)]
}

fn simple() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (range(), prot(), proptest::bool::weighted(0.3))
            .prop_map(|((at, length), prot, shared)| Op::Map { at, length, prot, shared }),
        1 => range().prop_map(|(at, length)| Op::Unmap { at, length }),
        2 => (range(), prot()).prop_map(|((at, length), prot)| Op::Protect { at, length, prot }),
        1 => range().prop_map(|(at, length)| Op::Discard { at, length }),
        8 => (0..PAGES, 1..u64::MAX).prop_map(|(at, value)| Op::Write { at, value }),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let leaf = proptest::collection::vec(simple(), 0..12);
    leaf.prop_recursive(3, 60, 12, |inner| {
        let fork = (inner, proptest::bool::ANY).prop_map(|(child, child_first)| Op::Fork { child, child_first });
        proptest::collection::vec(prop_oneof![5 => simple(), 1 => fork], 1..16)
    })
}

/// A page of the model. Shared pages hold their value in common.
#[derive(Clone)]
struct Page {
    prot: u32,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Own(u64),
    Common(Rc<RefCell<u64>>),
}

#[derive(Clone)]
struct Model(Vec<Option<Page>>);

impl Model {
    fn pages(&mut self, at: usize, length: usize) -> impl Iterator<Item = &mut Option<Page>> {
        self.0[at..at + length].iter_mut()
    }
}

fn address(at: usize) -> u64 {
    BASE + at as u64 * 4096
}

/// Runs the sequence in this process and compares after each step.
fn run(user: &mut User, model: &mut Model, ops: Vec<Op>, pipe: (i32, i32)) {
    let mut late = Vec::new();
    for op in ops {
        match op {
            Op::Fork { child, child_first } => {
                let mut copy = model.clone();
                let (read, write) = user.pipe(0).unwrap();
                let pid = user.fork(move |user| {
                    user.close(write).unwrap();
                    // The end of the file is the start signal.
                    user.read_fd(read, 1).unwrap();
                    run(user, &mut copy, child, pipe);
                    0
                });
                user.close(read).unwrap();
                if child_first {
                    user.close(write).unwrap();
                    assert_eq!(user.wait_for(pid).exit_code(), Some(0));
                } else {
                    late.push((pid, write));
                }
            }
            op => apply(user, model, &op, pipe),
        }
        compare(user, model, pipe);
    }
    // Children that were held back begin one after the other; later ones inherited the ends of the earlier pipes.
    for (pid, write) in late.into_iter().rev() {
        user.close(write).unwrap();
        assert_eq!(user.wait_for(pid).exit_code(), Some(0));
        compare(user, model, pipe);
    }
}

fn apply(user: &mut User, model: &mut Model, op: &Op, pipe: (i32, i32)) {
    match *op {
        Op::Map { at, length, prot, shared } => {
            let kind = if shared { MAP_SHARED } else { MAP_PRIVATE };
            let flags = kind | MAP_ANONYMOUS | MAP_FIXED;
            let result = user.try_mmap(address(at), length as u64 * 4096, prot, flags, -1, 0);
            assert_eq!(result, Ok(address(at)));
            for page in model.pages(at, length) {
                let value = if shared { Value::Common(Rc::new(RefCell::new(0))) } else { Value::Own(0) };
                *page = Some(Page { prot, value });
            }
        }
        Op::Unmap { at, length } => {
            user.munmap(address(at), length as u64 * 4096).unwrap();
            model.pages(at, length).for_each(|page| *page = None);
        }
        Op::Protect { at, length, prot } => {
            let whole = model.pages(at, length).all(|page| page.is_some());
            let result = user.mprotect(address(at), length as u64 * 4096, prot);
            assert_eq!(result, if whole { Ok(()) } else { Err(Errno::ENOMEM) });
            // With a hole nothing changes; POSIX allows that and Linux's "changed up to the hole".
            if whole {
                model.pages(at, length).flatten().for_each(|page| page.prot = prot);
            }
        }
        Op::Discard { at, length } => {
            let whole = model.pages(at, length).all(|page| page.is_some());
            let result = user.call(nr::MADVISE, &[address(at), length as u64 * 4096, 4]);
            assert_eq!(result, if whole { Ok(0) } else { Err(Errno::ENOMEM) });
            // Holes are skipped (madvise(2)), and shared memory keeps its contents.
            for page in model.pages(at, length).flatten() {
                if let Value::Own(value) = &mut page.value {
                    *value = 0;
                }
            }
        }
        Op::Write { at, value } => write(user, model, at, value, pipe),
        Op::Fork { .. } => unreachable!("run handles it"),
    }
}

fn write(user: &mut User, model: &mut Model, at: usize, value: u64, (read, write): (i32, i32)) {
    let page = model.0[at].as_mut().filter(|page| page.prot & PROT_WRITE != 0);
    let Some(page) = page else {
        // Not a store, which would be a signal, but a read(2) into the page.
        user.write_fd(write, &[1; 8]).unwrap();
        assert_eq!(user.call(nr::READ, &[read as u64, address(at), 8]), Err(Errno::EFAULT));
        assert_eq!(user.read_fd(read, 8).unwrap().len(), 8);
        return;
    };
    user.write(address(at), value);
    match &mut page.value {
        Value::Own(own) => *own = value,
        Value::Common(common) => *common.borrow_mut() = value,
    }
}

fn compare(user: &mut User, model: &Model, (read, write): (i32, i32)) {
    for (at, page) in model.0.iter().enumerate() {
        match page {
            Some(page) if page.prot & PROT_READ != 0 => {
                let expected = match &page.value {
                    Value::Own(value) => *value,
                    Value::Common(value) => *value.borrow(),
                };
                assert_eq!(user.read::<u64>(address(at)), expected, "page {at}");
            }
            _ => {
                assert_eq!(user.call(nr::WRITE, &[write as u64, address(at), 8]), Err(Errno::EFAULT), "page {at}");
            }
        }
    }
    let _ = read;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_agrees_with_the_model(ops in ops()) {
        Machine::new().run(move |init| {
            let pipe = init.pipe(0).unwrap();
            // Once for what is made for ever.
            for round in 0..2 {
                let ops = ops.clone();
                let before = free_frames();
                let child = init.fork(move |child| {
                    run(child, &mut Model(vec![None; PAGES]), ops, pipe);
                    0
                });
                assert_eq!(init.wait_for(child).exit_code(), Some(0));
                init.sleep_ns(MS).unwrap();
                if round > 0 {
                    assert_eq!(free_frames(), before, "frames were lost");
                }
            }
        });
    }
}
