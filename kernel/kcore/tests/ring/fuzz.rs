//! Random system calls: whatever a program does, the kernel lives.

use std::cell::Cell;
use std::rc::Rc;

use abi::mman::{PROT_READ, PROT_WRITE};
use abi::nr;
use abi::signal::{SIG_BLOCK, SIGCHLD, SIGKILL};
use hal::hosted::{Config, Tlb};
use kcore::testing::{Libc, Machine};

use crate::{MS, bit, rounds};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// An argument: a number that means something somewhere, a pointer to valid memory, or noise.
    fn argument(&mut self, memory: u64) -> u64 {
        let noise = self.next();
        match noise % 16 {
            0..=3 => noise >> 8 & 0x0f,
            4 => (noise >> 8) & 0xfff,
            5..=8 => memory + (noise >> 8) % 16384,
            9 => memory + (((noise >> 8) % 16384) & !7),
            10 => (-(((noise >> 8) & 0xff) as i64)).cast_unsigned(),
            11 => 1 << ((noise >> 8) & 63),
            12 => (1u64 << (noise >> 8 & 63)).wrapping_sub(noise >> 16 & 3),
            13 => [0, u64::MAX, i64::MAX as u64, 1 << 39, 0xffff_0000_0000_0000, 4096][(noise >> 8) as usize % 6],
            14 => noise >> 32,
            _ => noise,
        }
    }
}

/// Runs `calls` random calls on `cpus` CPUs as an ordinary user.
fn random_calls(calls: u64, cpus: usize, seed: u64) {
    let made = Rc::new(Cell::new(0));
    let tlb = if cpus == 1 { Tlb::Strict } else { Tlb::Hardware };
    let config = Config {
        cpus,
        seed,
        tlb,
        interleave: cpus > 1,
        ram_bytes: 32 << 20,
        max_turns: u64::MAX,
        max_ns: 7_200_000_000_000,
        ..Config::default()
    };
    Machine::with(config).run(move |init| {
        init.sigprocmask(SIG_BLOCK, bit(SIGCHLD));
        let path = init.push_string("/tmp");
        let _ = init.call(nr::FCHMODAT, &[-100i64 as u64, path, 0o1777]);
        let mut worker = 0u64;
        while made.get() < calls {
            worker += 1;
            // A leftover of the worker before would end this one at once.
            while init.sigtimedwait(bit(SIGCHLD), 0).is_ok() {}
            // Shown when the test fails: how far it came.
            eprintln!("{} calls, worker {worker}", made.get());
            let made = made.clone();
            init.fork(move |user| {
                let memory = user.mmap(32768, PROT_READ | PROT_WRITE);
                let mut random = Random((seed << 32 | worker).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
                for n in 0..2048 {
                    let word = random.argument(memory);
                    user.write(memory + n * 8, word);
                }
                let dir = user.push_string("/tmp");
                let _ = user.call(nr::CHDIR, &[dir]);
                user.call(nr::SETUID, &[1000]).unwrap();
                let sp = user.sp();
                while made.get() < calls {
                    made.set(made.get() + 1);
                    let number = random.next() % 601;
                    let arguments = std::array::from_fn(|_| random.argument(memory));
                    user.syscall(number, arguments);
                    user.set_sp(sp);
                }
                0
            });
            // Whoever sleeps, stops or was left behind is ended after a while.
            let _ = init.sigtimedwait(bit(SIGCHLD), 20 * MS);
            loop {
                let _ = init.kill(-1, SIGKILL);
                if init.wait().is_err() {
                    break;
                }
            }
        }
    });
}

#[test]
fn two_hundred_thousand_random_calls_on_one_cpu() {
    for seed in 1..=rounds() {
        random_calls(200_000, 1, seed);
    }
}

#[test]
fn random_calls_on_interleaved_cpus() {
    for seed in 1..=rounds() {
        for cpus in 2..=4 {
            random_calls(30_000, cpus, seed * 10);
        }
    }
}
