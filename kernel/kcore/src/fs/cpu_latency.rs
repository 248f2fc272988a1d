//! `/dev/cpu_dma_latency`: how long a CPU may take to leave idleness, as programs request it for as long as they keep the
//! device open (Documentation/power/pm_qos_interface.rst; Linux `kernel/power/qos.c`).
//!
//! Idle CPUs wait in WFI, the shallowest state there is, so every request is met already and none changes anything.
//! What counts is kept and told: the smallest value that anybody asked for.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use hal::sync::SpinLock;

use super::file::{File, FileOps, OpsRef};
use super::libfs::{read_text, shared};
use crate::Result;
use crate::io::{IoDst, IoSrc};
use crate::sync::order;

/// Its minor number below the misc devices' 10: the one it gets on Debian's Linux.
pub const MINOR: u32 = 125;
/// Nobody asks for less, µs (PM_QOS_CPU_LATENCY_DEFAULT_VALUE).
const NO_REQUEST: i32 = 2_000_000_000;
/// Written: takes the request back (PM_QOS_DEFAULT_VALUE).
const DEFAULT: i32 = -1;

hal::global! {
    /// The requests of all that have the device open, by number.
    static REQUESTS: SpinLock<Vec<(u64, i32)>> = SpinLock::new(order::CHANNEL, Vec::new());
    static NEXT: AtomicU64 = AtomicU64::new(1);
}

/// Opens the device: a request of no limit.
pub fn open() -> OpsRef {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    REQUESTS.lock().push((id, NO_REQUEST));
    shared(Request(id))
}

fn strictest() -> i32 {
    REQUESTS.lock().iter().map(|(_, value)| *value).min().unwrap_or(NO_REQUEST)
}

struct Request(u64);

impl FileOps for Request {
    /// The value that counts, four bytes.
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: &mut u64) -> Result<usize> {
        read_text(&strictest().to_le_bytes(), dst, offset)
    }

    /// Four bytes are a number; anything else is one in hexadecimal digits.
    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: &mut u64) -> Result<usize> {
        const LONGEST: usize = 16;
        let length = src.remaining();
        let mut bytes = [0; LONGEST];
        let taken = src.take(&mut bytes[..length.min(LONGEST)])?;
        let value = match bytes[..taken].first_chunk::<4>() {
            Some(word) if length == 4 => i32::from_le_bytes(*word),
            _ => parse_hexadecimal(&bytes[..taken])?,
        };
        let value = if value == DEFAULT { NO_REQUEST } else { value };
        if let Some((_, own)) = REQUESTS.lock().iter_mut().find(|(id, _)| *id == self.0) {
            *own = value;
        }
        Ok(length)
    }

    fn release(&self, _file: &File) {
        REQUESTS.lock().retain(|(id, _)| *id != self.0);
    }
}

/// As Linux's `kstrtos32` with base 16: a sign, `0x`, digits, one newline.
fn parse_hexadecimal(bytes: &[u8]) -> Result<i32> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.starts_with(['+', '-']) {
        return Err(Errno::EINVAL);
    }
    let value = i64::from_str_radix(digits, 16).map_err(|_| Errno::EINVAL)?;
    i32::try_from(if negative { -value } else { value }).map_err(|_| Errno::ERANGE)
}
