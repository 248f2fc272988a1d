//! Random numbers: random(4), getrandom(2).
//!
//! ChaCha20 (RFC 8439) with fast key erasure (D. J. Bernstein, 2017): each batch of output begins with the next key, and
//! the old key is gone, so that a later look into memory tells nothing about earlier output. The base generator is seeded
//! from [`hal::cpu::entropy`]; each CPU has a generator of its own, keyed from the base and again whenever the base got
//! new entropy (Linux `crng_make_state`). Because the hardware seeds it before the first user program runs, no read ever
//! blocks.

use core::sync::atomic::{AtomicU64, Ordering};

use hal::cpu::PerCpu;
use hal::sync::IrqLock;

use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::sync::order;

/// Bytes of a ChaCha20 block.
const BLOCK: usize = 64;
/// Bytes of a key.
const KEY: usize = 32;
/// How long the base generator's seed is used before entropy is mixed in again, ns (Linux `CRNG_RESEED_INTERVAL`).
const RESEED_NS: u64 = 60_000_000_000;

/// A key, and whether it has been seeded yet.
struct Generator {
    key: [u8; KEY],
    /// The base's generation that the key came from; 0: none.
    generation: u64,
}

impl Generator {
    const fn new() -> Self {
        Self { key: [0; KEY], generation: 0 }
    }

    /// Fills up to 32 bytes and replaces the key, all from one block.
    fn draw(&mut self, output: &mut [u8]) {
        let block = chacha20_block(&self.key, 0, &[0; 12]);
        self.key.copy_from_slice(&block[..KEY]);
        output.copy_from_slice(&block[KEY..KEY + output.len()]);
    }

    /// Mixes bytes into the key.
    fn mix(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(KEY) {
            for (key, byte) in self.key.iter_mut().zip(chunk) {
                *key ^= byte;
            }
            self.draw(&mut []);
        }
    }
}

hal::global! {
    static BASE: IrqLock<Generator> = IrqLock::new(order::RANDOM, Generator::new());
    static GENERATORS: PerCpu<IrqLock<Generator>> =
        PerCpu::new([const { IrqLock::new(order::RANDOM_CPU, Generator::new()) }; hal::MAX_CPUS]);
    static BATCHES: PerCpu<IrqLock<Batch>> =
        PerCpu::new([const { IrqLock::new(order::RANDOM_CPU, Batch::new()) }; hal::MAX_CPUS]);
    /// Counts seedings of the base, from 1; 0 before the first.
    static GENERATION: AtomicU64 = AtomicU64::new(0);
    static NEXT_RESEED_NS: AtomicU64 = AtomicU64::new(0);
}

/// Seeds the base generator if it is the first time or the seed has grown old.
fn keep_seeded() {
    let now = hal::timer::now_ns();
    let due = NEXT_RESEED_NS.load(Ordering::Relaxed);
    if GENERATION.load(Ordering::Acquire) != 0 && now < due {
        return;
    }
    // One CPU reseeds; the others go on with what there is, unless there is nothing yet.
    if NEXT_RESEED_NS.compare_exchange(due, now + RESEED_NS, Ordering::Relaxed, Ordering::Relaxed).is_err()
        && GENERATION.load(Ordering::Acquire) != 0
    {
        return;
    }
    let mut seed = [0; KEY];
    hal::cpu::entropy(&mut seed);
    let mut base = BASE.lock();
    base.mix(&seed);
    base.mix(&now.to_le_bytes());
    drop(base);
    GENERATION.fetch_add(1, Ordering::Release);
}

/// Seeds the generator at boot.
pub fn init() {
    keep_seeded();
    log::info!("random: crng init done");
}

/// Fills `buffer` with random bytes.
pub fn fill(buffer: &mut [u8]) {
    keep_seeded();
    let is_long = buffer.len() > KEY;
    let mut chunks = buffer.chunks_mut(KEY);
    let Some(first) = chunks.next() else { return };
    let key = with_this_cpu(|generator| {
        generator.draw(first);
        let mut key = [0; KEY];
        if is_long {
            generator.draw(&mut key);
        }
        key
    });
    // What is longer is one stream under a key that is used only here.
    let mut counter = 0;
    let mut block = [0; BLOCK];
    let mut used = BLOCK;
    for chunk in chunks {
        if used + chunk.len() > BLOCK {
            block = chacha20_block(&key, counter, &[0; 12]);
            counter = counter.wrapping_add(1);
            used = 0;
        }
        chunk.copy_from_slice(&block[used..used + chunk.len()]);
        used += chunk.len();
    }
}

fn with_this_cpu<R>(f: impl FnOnce(&mut Generator) -> R) -> R {
    let generation = GENERATION.load(Ordering::Acquire);
    hal::cpu::preempt_disable();
    let slot = GENERATORS.this();
    let fresh = (slot.lock().generation != generation).then(|| {
        let mut key = [0; KEY];
        BASE.lock().draw(&mut key);
        key
    });
    let mut generator = slot.lock();
    if let Some(key) = fresh {
        generator.mix(&key);
        generator.generation = generation;
    }
    let result = f(&mut generator);
    drop(generator);
    hal::cpu::preempt_enable();
    result
}

/// Numbers drawn ahead, each given out once and erased (Linux `get_random_u64`): a block of the cipher makes eight.
struct Batch {
    numbers: [u64; BATCH],
    left: usize,
    /// The base's generation when they were drawn: after a reseed they are drawn anew.
    generation: u64,
}

const BATCH: usize = 32;

impl Batch {
    const fn new() -> Self {
        Self { numbers: [0; BATCH], left: 0, generation: 0 }
    }

    fn take(&mut self, generation: u64) -> Option<u64> {
        if self.generation != generation {
            return None;
        }
        let at = self.left.checked_sub(1)?;
        self.left = at;
        Some(core::mem::take(&mut self.numbers[at]))
    }
}

/// A random 64-bit number.
pub fn u64() -> u64 {
    let generation = GENERATION.load(Ordering::Acquire);
    // Moved to another CPU, a task takes from the batch of the one that it left: any will do.
    if let Some(number) = BATCHES.this().lock().take(generation) {
        return number;
    }
    let mut bytes = [0; BATCH * 8];
    fill(&mut bytes);
    let mut batch = BATCHES.this().lock();
    for (number, bytes) in batch.numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = u64::from_le_bytes(core::array::from_fn(|n| bytes[n]));
    }
    let last = BATCH - 1;
    let number = core::mem::take(&mut batch.numbers[last]);
    (batch.left, batch.generation) = (last, GENERATION.load(Ordering::Acquire));
    drop(batch);
    bytes.fill(0);
    number
}

/// A random number below `limit` (0 for 0). The bias of the multiplication is below 2^-32 for what the kernel asks.
pub fn below(limit: u64) -> u64 {
    ((u128::from(u64()) * u128::from(limit)) >> 64) as u64
}

/// Fills `dst`, as getrandom(2) and reads of `/dev/urandom` do: a signal ends a request longer than 256 bytes early
/// (random(4) "Usage"). Returns the bytes stored.
pub fn read(dst: &mut IoDst<'_>) -> Result<usize> {
    let mut buffer = [0; 256];
    let mut done = 0;
    while dst.remaining() > 0 {
        if done > 0 && crate::task::current().signal_pending() {
            break;
        }
        let length = dst.remaining().min(buffer.len());
        fill(&mut buffer[..length]);
        match dst.put(&buffer[..length]) {
            Ok(stored) => {
                done += stored;
                if stored < length {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    buffer.fill(0);
    Ok(done)
}

/// Mixes what a program writes to `/dev/random` into the base; it is credited no entropy (random(4)).
pub fn write(src: &mut IoSrc<'_>) -> Result<usize> {
    let mut done = 0;
    let mut buffer = [0; 256];
    while src.remaining() > 0 {
        let length = src.take(&mut buffer)?;
        if length == 0 {
            break;
        }
        BASE.lock().mix(&buffer[..length]);
        done += length;
    }
    Ok(done)
}

/// Mixes bytes that the boot found (the device tree's `rng-seed`) into the base.
pub fn add_entropy(bytes: &[u8]) {
    BASE.lock().mix(bytes);
    GENERATION.fetch_add(1, Ordering::Release);
}

/// The ChaCha20 block function (RFC 8439, 2.3).
fn chacha20_block(key: &[u8; KEY], counter: u32, nonce: &[u8; 12]) -> [u8; BLOCK] {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(core::array::from_fn(|i| bytes[at * 4 + i]));
    let mut initial = [0u32; 16];
    initial[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    for i in 0..8 {
        initial[4 + i] = word(key, i);
    }
    initial[12] = counter;
    for i in 0..3 {
        initial[13 + i] = word(nonce, i);
    }
    let mut state = initial;
    for _ in 0..10 {
        quarter(&mut state, 0, 4, 8, 12);
        quarter(&mut state, 1, 5, 9, 13);
        quarter(&mut state, 2, 6, 10, 14);
        quarter(&mut state, 3, 7, 11, 15);
        quarter(&mut state, 0, 5, 10, 15);
        quarter(&mut state, 1, 6, 11, 12);
        quarter(&mut state, 2, 7, 8, 13);
        quarter(&mut state, 3, 4, 9, 14);
    }
    let mut block = [0; BLOCK];
    for (i, bytes) in block.chunks_mut(4).enumerate() {
        bytes.copy_from_slice(&state[i].wrapping_add(initial[i]).to_le_bytes());
    }
    block
}

#[inline(always)]
fn quarter(s: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    s[a] = s[a].wrapping_add(s[b]);
    s[d] = (s[d] ^ s[a]).rotate_left(16);
    s[c] = s[c].wrapping_add(s[d]);
    s[b] = (s[b] ^ s[c]).rotate_left(12);
    s[a] = s[a].wrapping_add(s[b]);
    s[d] = (s[d] ^ s[a]).rotate_left(8);
    s[c] = s[c].wrapping_add(s[d]);
    s[b] = (s[b] ^ s[c]).rotate_left(7);
}

#[cfg(test)]
mod tests {
    use super::{below, chacha20_block, fill};

    #[test]
    fn the_block_function_agrees_with_rfc_8439() {
        let key: [u8; 32] = core::array::from_fn(|i| i as u8);
        let nonce = [0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0];
        let block = chacha20_block(&key, 1, &nonce);
        assert_eq!(
            block[..16],
            [0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15, 0x50, 0x0f, 0xdd, 0x1f, 0xa3, 0x20, 0x71, 0xc4]
        );
        assert_eq!(
            block[48..],
            [0xb5, 0x12, 0x9c, 0xd1, 0xde, 0x16, 0x4e, 0xb9, 0xcb, 0xd0, 0x83, 0xe8, 0xa2, 0x50, 0x3c, 0x4e]
        );
    }

    #[test]
    fn no_two_requests_give_the_same() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100 {
            let mut bytes = [0; 100];
            fill(&mut bytes);
            for chunk in bytes.chunks(16).filter(|chunk| chunk.len() == 16) {
                assert!(seen.insert(chunk.to_vec()), "output repeats");
            }
        }
    }

    #[test]
    fn a_bounded_number_stays_below_its_limit() {
        assert_eq!(below(0), 0);
        for _ in 0..1000 {
            assert!(below(7) < 7);
        }
    }
}
