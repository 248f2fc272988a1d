//! Touching user memory from the kernel.
//!
//! On the Pi every access is an unprivileged load or store (LDTR, STTR) with a fix-up, so a kernel address passed as a
//! user pointer faults like any other bad pointer. A miss calls `uaccess_fault` and tries again; when that says no, the
//! function returns [`BadAddress`], which becomes `EFAULT`.

use core::mem::MaybeUninit;

use crate::arch;
use crate::mem::Pfn;

/// The access failed after `done` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadAddress {
    /// Bytes transferred before the bad one.
    pub done: usize,
}

/// Copies `to.len()` bytes from user address `from`.
pub fn copy_from_user(to: &mut [u8], from: u64) -> Result<(), BadAddress> {
    arch::copy_from_user(to, from)
}

/// Copies `from` to user address `to`.
pub fn copy_to_user(to: u64, from: &[u8]) -> Result<(), BadAddress> {
    arch::copy_to_user(to, from)
}

/// Zeroes `length` bytes at user address `to`.
pub fn clear_user(to: u64, length: usize) -> Result<(), BadAddress> {
    arch::clear_user(to, length)
}

/// Copies user bytes straight into a frame. `offset + length` must not pass its end (panics).
pub fn copy_user_to_frame(to: Pfn, offset: usize, from: u64, length: usize) -> Result<(), BadAddress> {
    arch::copy_user_to_frame(to, offset, from, length)
}

/// Copies bytes of a frame straight to user memory. `offset + length` must not pass its end (panics).
pub fn copy_frame_to_user(to: u64, from: Pfn, offset: usize, length: usize) -> Result<(), BadAddress> {
    arch::copy_frame_to_user(to, from, offset, length)
}

/// Copies a NUL-terminated string without its NUL into `to`. `Ok(length)`; `length == to.len()` means no NUL was found
/// within the buffer.
pub fn copy_string_from_user(to: &mut [u8], from: u64) -> Result<usize, BadAddress> {
    arch::copy_string_from_user(to, from)
}

/// Most bytes of a string that [`with_short_string`] lends out.
pub const SHORT_STRING: usize = 255;

/// Copies a NUL-terminated string and calls `f` with it, without its NUL; with `None` if it is longer than
/// [`SHORT_STRING`]. It costs neither the heap nor the clearing of a buffer.
#[inline]
pub fn with_short_string<R>(from: u64, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, BadAddress> {
    let mut buffer = [const { MaybeUninit::uninit() }; SHORT_STRING + 1];
    let length = arch::copy_string_to_uninit(&mut buffer, from)?;
    let string = buffer.get(..length).filter(|_| length <= SHORT_STRING);
    // SAFETY: the copy filled the first `length` bytes.
    Ok(f(string.map(|bytes| unsafe { bytes.assume_init_ref() })))
}

/// Loads an aligned 32-bit word in one access.
pub fn load_u32(from: u64) -> Result<u32, BadAddress> {
    arch::load_user_u32(from)
}

/// Stores an aligned 32-bit word in one access.
pub fn store_u32(to: u64, value: u32) -> Result<(), BadAddress> {
    arch::store_user_u32(to, value)
}

/// Loads an aligned 64-bit word in one access.
pub fn load_u64(from: u64) -> Result<u64, BadAddress> {
    arch::load_user_u64(from)
}

/// Stores an aligned 64-bit word in one access.
pub fn store_u64(to: u64, value: u64) -> Result<(), BadAddress> {
    arch::store_user_u64(to, value)
}

/// Atomically replaces the aligned word at `at` by `new` if it is `old`. Returns the value found.
pub fn compare_exchange_u32(at: u64, old: u32, new: u32) -> Result<u32, BadAddress> {
    arch::compare_exchange_user_u32(at, old, new)
}

/// Runs `f` with faults disabled: a miss fails at once instead of calling `uaccess_fault`, so `f` may hold spin locks
/// (Linux `pagefault_disable`).
pub fn without_faults<R>(f: impl FnOnce() -> R) -> R {
    arch::disable_faults();
    let result = f();
    arch::enable_faults();
    result
}
