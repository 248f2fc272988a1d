//! FUTEX_WAKE_OP: changes the second word atomically, wakes on the first, and on the second if its old value compares.

use abi::Errno;
use abi::futex::{self as f, FUTEX_BITSET_MATCH_ANY};
use hal::uaccess;

use super::{Access, TABLE, Taken, Word, index_of, load, wake_all, wake_limit};
use crate::Result;

/// What `val3` encodes (futex(2), `FUTEX_OP`).
struct Operation {
    kind: u32,
    operand: i32,
    comparison: u32,
    compare_with: i32,
}

impl Operation {
    /// Both operands are signed 12-bit numbers. A shift by a number outside 0 to 31 is by its low five bits.
    fn decode(encoded: u32) -> Self {
        let sign_extend = |bits: u32| (bits << 20).cast_signed() >> 20;
        let mut operand = sign_extend(encoded >> 12);
        if encoded >> 28 & f::FUTEX_OP_OPARG_SHIFT != 0 {
            operand = 1i32.wrapping_shl(operand.cast_unsigned());
        }
        let comparison = encoded >> 24 & 0xf;
        Self { kind: encoded >> 28 & 7, operand, comparison, compare_with: sign_extend(encoded) }
    }

    fn apply(&self, old: u32) -> Result<u32> {
        let operand = self.operand.cast_unsigned();
        Ok(match self.kind {
            f::FUTEX_OP_SET => operand,
            f::FUTEX_OP_ADD => old.wrapping_add(operand),
            f::FUTEX_OP_OR => old | operand,
            f::FUTEX_OP_ANDN => old & !operand,
            f::FUTEX_OP_XOR => old ^ operand,
            _ => return Err(Errno::ENOSYS),
        })
    }

    fn compares(&self, old: u32) -> Result<bool> {
        let old = old.cast_signed();
        Ok(match self.comparison {
            f::FUTEX_OP_CMP_EQ => old == self.compare_with,
            f::FUTEX_OP_CMP_NE => old != self.compare_with,
            f::FUTEX_OP_CMP_LT => old < self.compare_with,
            f::FUTEX_OP_CMP_LE => old <= self.compare_with,
            f::FUTEX_OP_CMP_GT => old > self.compare_with,
            f::FUTEX_OP_CMP_GE => old >= self.compare_with,
            _ => return Err(Errno::ENOSYS),
        })
    }
}

/// FUTEX_WAKE_OP. A comparison that does not exist is `ENOSYS` after the change, as in Linux.
pub fn wake_op(word: Word, word2: Word, limit: u32, limit2: u32, encoded: u32) -> Result<usize> {
    let (key, key2) = (word.key(Access::Read)?, word2.key(Access::Write)?);
    let operation = Operation::decode(encoded);
    // Linux changes the word with both buckets locked. Here it is changed before, as a program would: who looks at its word
    // after the change does not sleep, who looked before is in its bucket by the time that is locked.
    let mut old = load(word2.address)?;
    loop {
        let new = operation.apply(old)?;
        let found = uaccess::compare_exchange_u32(word2.address, old, new).map_err(|_| Errno::EFAULT)?;
        if found == old {
            break;
        }
        old = found;
    }
    let second = operation.compares(old)?;
    let mut woken = Taken::default();
    let bucket = &TABLE[index_of(&key)];
    let outcome =
        bucket.take_to_wake(&mut bucket.queue.lock(), &key, wake_limit(limit), FUTEX_BITSET_MATCH_ANY, &mut woken);
    let mut count = wake_all(woken);
    outcome?;
    if second {
        let mut woken = Taken::default();
        let bucket = &TABLE[index_of(&key2)];
        let outcome = bucket.take_to_wake(
            &mut bucket.queue.lock(),
            &key2,
            wake_limit(limit2),
            FUTEX_BITSET_MATCH_ANY,
            &mut woken,
        );
        count += wake_all(woken);
        outcome?;
    }
    Ok(count)
}
