//! getrandom(2).

use abi::Errno;
use abi::info::{GRND_INSECURE, GRND_NONBLOCK, GRND_RANDOM};

use super::Context;
use crate::Result;
use crate::io::IoDst;
use crate::random;

/// getrandom(2). It never blocks: the generator is seeded before the first program runs.
pub fn getrandom(_cx: &mut Context<'_>, buffer: u64, length: usize, flags: u32) -> Result<usize> {
    if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0 {
        return Err(Errno::EINVAL);
    }
    // getrandom(2): asking for both sources at once is refused.
    if flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE {
        return Err(Errno::EINVAL);
    }
    random::read(&mut IoDst::user(buffer, length.min(i32::MAX as usize)))
}
