//! The program loader is fed files that are almost programs.

use std::cell::Cell;
use std::rc::Rc;

use abi::fcntl::{O_CREAT, O_TRUNC, O_WRONLY};
use kcore::testing::{Kind, Libc, Machine, free_frames, image};

use crate::MS;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// An executable with some of its header bytes, header words or its length changed.
fn mutate(random: &mut Random) -> Vec<u8> {
    let kind = if random.next() & 1 == 0 { Kind::Fixed } else { Kind::PositionIndependent };
    // Instruction 0 is undefined: a mutant that gets to run dies of SIGILL.
    let mut file = image::elf(kind, 0);
    const INTERESTING: [u64; 12] =
        [0, 1, 0xff, 0xfff, 4096, 0x7fff_ffff, 0xffff_ffff, 1 << 38, (1 << 39) - 1, 1 << 39, i64::MAX as u64, u64::MAX];
    for _ in 0..1 + random.below(3) {
        // The ELF header and three program headers.
        let at = random.below(64 + 3 * 56);
        match random.below(4) {
            0 => file[at] = random.next() as u8,
            1 => file[at] ^= 1 << random.below(8),
            2 => {
                let word = INTERESTING[random.below(INTERESTING.len())];
                let at = at / 8 * 8;
                file[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
            _ => {
                let word = INTERESTING[random.below(INTERESTING.len())] as u32;
                let at = at / 4 * 4;
                file[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
    }
    match random.below(10) {
        0 => file.truncate(random.below(300)),
        1 => file.truncate(random.below(4096)),
        2 => {
            // PT_INTERP of a file that is no interpreter, or is missing.
            file[64 + 112..64 + 116].copy_from_slice(&3u32.to_le_bytes());
        }
        3 => {
            let mut script = b"#!".to_vec();
            script.extend((0..random.below(300)).map(|_| b" /bin\t-\n\0x"[random.below(10)]));
            file = script;
        }
        _ => {}
    }
    file
}

#[test]
fn a_hundred_thousand_mutants_are_refused_or_die_and_the_kernel_lives() {
    const MUTANTS: u64 = 100_000;
    let tried = Rc::new(Cell::new(0));
    let refused = Rc::new(Cell::new(0));
    let (count, refusals) = (tried.clone(), refused.clone());
    let mut config = hal::hosted::Config { ram_bytes: 32 << 20, ..Default::default() };
    config.max_turns = u64::MAX;
    Machine::with(config).run(move |init| {
        let mut before = 0;
        let mut rounds = 0;
        while tried.get() < MUTANTS {
            let (tried, refused) = (tried.clone(), refused.clone());
            let child = init.fork(move |child| {
                // Goes on until a mutant is taken for a program and replaces this one.
                while tried.get() < MUTANTS {
                    tried.set(tried.get() + 1);
                    let file = mutate(&mut Random(tried.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
                    let fd = child.open("/tmp/mutant", O_WRONLY | O_CREAT | O_TRUNC, 0o755).unwrap();
                    assert_eq!(child.write_fd(fd, &file), Ok(file.len()));
                    child.close(fd).unwrap();
                    child.try_exec("/tmp/mutant", &["mutant"]);
                    refused.set(refused.get() + 1);
                }
                0
            });
            let status = init.wait_for(child);
            assert!(status.exit_code() == Some(0) || status.killed_by().is_some(), "{status:?}");
            rounds += 1;
            if rounds == 50 {
                init.sleep_ns(MS).unwrap();
                before = free_frames();
            }
        }
        init.sleep_ns(MS).unwrap();
        assert!(free_frames() + 16 >= before, "{before} frames free after some mutants, {} after all", free_frames());
    });
    assert!(count.get() >= MUTANTS);
    assert!(refusals.get() > MUTANTS / 10 && refusals.get() < MUTANTS, "{} were refused", refusals.get());
}
