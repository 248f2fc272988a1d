//! User memory by unprivileged loads and stores (LDTR, STTR; Arm ARM C6.2.221): the MMU checks them as if user code ran.
//!
//! Each such instruction has an entry in the exception table; a miss that kcore does not resolve goes on at its fix-up.
//! There are no unprivileged pairs, so bulk copies cost a load or store for each 8 bytes; a turn is 256 bytes because that
//! is what their offsets reach. After a fault in one the byte loop finds out how far it gets. Strings are read a word
//! at a time; where a word would reach past what is mapped, byte by byte.

use core::arch::global_asm;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;

use super::context::current;
use super::memory::frame_pointer;
use crate::mem::Pfn;
use crate::pte::USER_VA_END;
use crate::uaccess::BadAddress;

unsafe extern "C" {
    /// Returns the bytes not copied.
    fn __copy_from_user(to: *mut u8, from: u64, length: usize) -> usize;
    fn __copy_to_user(to: u64, from: *const u8, length: usize) -> usize;
    fn __clear_user(to: u64, length: usize) -> usize;
    /// Returns the length without NUL, `limit` if there is none, or -1 - bytes done.
    fn __copy_string_from_user(to: *mut u8, from: u64, limit: usize) -> isize;
    /// Return 0 and the value, or 1.
    fn __load_user_u32(from: u64, value: *mut u32) -> usize;
    fn __load_user_u64(from: u64, value: *mut u64) -> usize;
    fn __store_user_u32(to: u64, value: u32) -> usize;
    fn __store_user_u64(to: u64, value: u64) -> usize;
    fn __compare_exchange_user_u32(at: u64, old: u32, new: u32, found: *mut u32) -> usize;
    /// Return 0, or 1.
    fn __clean_user_line(at: u64) -> usize;
    fn __invalidate_user_code(at: u64) -> usize;
}

fn result(length: usize, left: usize) -> Result<(), BadAddress> {
    if left == 0 { Ok(()) } else { Err(BadAddress { done: length - left }) }
}

pub fn copy_from_user(to: &mut [u8], from: u64) -> Result<(), BadAddress> {
    // SAFETY: writes at most `to.len()` bytes of `to`; user loads are checked by the MMU.
    result(to.len(), unsafe { __copy_from_user(to.as_mut_ptr(), from, to.len()) })
}

pub fn copy_to_user(to: u64, from: &[u8]) -> Result<(), BadAddress> {
    // SAFETY: reads `from` only; user stores are checked by the MMU.
    result(from.len(), unsafe { __copy_to_user(to, from.as_ptr(), from.len()) })
}

/// As [`copy_from_user`] for memory that cannot be borrowed.
///
/// # Safety
/// `to` is `length` bytes that may be written.
pub(super) unsafe fn copy_raw_from_user(to: *mut u8, from: u64, length: usize) -> Result<(), BadAddress> {
    // SAFETY: the caller's promise; user loads are checked by the MMU.
    result(length, unsafe { __copy_from_user(to, from, length) })
}

/// As [`copy_to_user`] for memory that cannot be borrowed.
///
/// # Safety
/// `from` is `length` bytes that may be read.
pub(super) unsafe fn copy_raw_to_user(to: u64, from: *const u8, length: usize) -> Result<(), BadAddress> {
    // SAFETY: the caller's promise; user stores are checked by the MMU.
    result(length, unsafe { __copy_to_user(to, from, length) })
}

pub fn clear_user(to: u64, length: usize) -> Result<(), BadAddress> {
    // SAFETY: user stores are checked by the MMU.
    result(length, unsafe { __clear_user(to, length) })
}

pub fn copy_user_to_frame(to: Pfn, offset: usize, from: u64, length: usize) -> Result<(), BadAddress> {
    let to = frame_pointer(to, offset, length);
    // SAFETY: `frame_pointer` checked the bounds.
    result(length, unsafe { __copy_from_user(to, from, length) })
}

pub fn copy_frame_to_user(to: u64, from: Pfn, offset: usize, length: usize) -> Result<(), BadAddress> {
    let from = frame_pointer(from, offset, length);
    // SAFETY: as above.
    result(length, unsafe { __copy_to_user(to, from, length) })
}

pub fn copy_string_from_user(to: &mut [u8], from: u64) -> Result<usize, BadAddress> {
    // SAFETY: writes at most `to.len()` bytes of `to`.
    string_length(unsafe { __copy_string_from_user(to.as_mut_ptr(), from, to.len()) })
}

/// The same into memory that holds nothing yet. The bytes of the string are filled then. (Not marked for inlining: other
/// crates do not see the assembly's symbols.)
pub fn copy_string_to_uninit(to: &mut [MaybeUninit<u8>], from: u64) -> Result<usize, BadAddress> {
    // SAFETY: as above.
    string_length(unsafe { __copy_string_from_user(to.as_mut_ptr().cast(), from, to.len()) })
}

#[inline(always)]
fn string_length(outcome: isize) -> Result<usize, BadAddress> {
    usize::try_from(outcome).map_err(|_| BadAddress { done: (-1 - outcome).unsigned_abs() })
}

const NOTHING_DONE: BadAddress = BadAddress { done: 0 };

pub fn load_user_u32(from: u64) -> Result<u32, BadAddress> {
    let mut value = 0;
    // SAFETY: writes `value`; the user load is checked by the MMU.
    if unsafe { __load_user_u32(from, &mut value) } == 0 { Ok(value) } else { Err(NOTHING_DONE) }
}

pub fn load_user_u64(from: u64) -> Result<u64, BadAddress> {
    let mut value = 0;
    // SAFETY: as above.
    if unsafe { __load_user_u64(from, &mut value) } == 0 { Ok(value) } else { Err(NOTHING_DONE) }
}

pub fn store_user_u32(to: u64, value: u32) -> Result<(), BadAddress> {
    // SAFETY: the user store is checked by the MMU.
    if unsafe { __store_user_u32(to, value) } == 0 { Ok(()) } else { Err(NOTHING_DONE) }
}

pub fn store_user_u64(to: u64, value: u64) -> Result<(), BadAddress> {
    // SAFETY: as above.
    if unsafe { __store_user_u64(to, value) } == 0 { Ok(()) } else { Err(NOTHING_DONE) }
}

pub fn compare_exchange_user_u32(at: u64, old: u32, new: u32) -> Result<u32, BadAddress> {
    // Exclusives have no unprivileged form: the address is checked here. A read-only page still faults, because EL1
    // respects AP[2] too.
    if !at.is_multiple_of(4) || at >= USER_VA_END {
        return Err(NOTHING_DONE);
    }
    // EL1 may write what only PROT_NONE keeps from users; an unprivileged load asks first.
    load_user_u32(at)?;
    let mut found = 0;
    // SAFETY: an aligned user address, below the kernel half; faults are fixed up.
    if unsafe { __compare_exchange_user_u32(at, old, new, &mut found) } == 0 { Ok(found) } else { Err(NOTHING_DONE) }
}

/// Cache maintenance by address that EL0 asked for and was not allowed to do itself.
#[derive(Clone, Copy)]
pub(super) enum CacheOperation {
    /// Write a data line back (`dc cvau` and its neighbours).
    Clean,
    /// Forget a line of the instruction cache (`ic ivau`).
    InvalidateCode,
}

/// Does it for EL0. It only ever makes memory agree with what user code wrote.
pub(super) fn user_cache_operation(operation: CacheOperation, at: u64) -> Result<(), BadAddress> {
    if at >= USER_VA_END {
        return Err(NOTHING_DONE);
    }
    // SAFETY: a user address, below the kernel half; faults are fixed up. Cleaning and invalidating change no memory.
    let outcome = unsafe {
        match operation {
            CacheOperation::Clean => __clean_user_line(at),
            CacheOperation::InvalidateCode => __invalidate_user_code(at),
        }
    };
    if outcome == 0 { Ok(()) } else { Err(NOTHING_DONE) }
}

pub fn disable_faults() {
    current().arch.faults_disabled.fetch_add(1, Ordering::Relaxed);
}

pub fn enable_faults() {
    current().arch.faults_disabled.fetch_sub(1, Ordering::Relaxed);
}

global_asm!(
    r#"
    .macro ex from, to
    .pushsection __ex_table, "a"
    .quad   \from, \to
    .popsection
    .endm

    // A user access that goes on at \fixup if it misses.
    .macro user op, register, base, offset, fixup
    .Luser\@:
    \op     \register, [\base, #\offset]
    ex      .Luser\@, \fixup
    .endm
    .macro load_eight offset, fixup
    user    ldtr, x3, x1, \offset, \fixup
    user    ldtr, x4, x1, (\offset + 8), \fixup
    user    ldtr, x5, x1, (\offset + 16), \fixup
    user    ldtr, x6, x1, (\offset + 24), \fixup
    user    ldtr, x7, x1, (\offset + 32), \fixup
    user    ldtr, x8, x1, (\offset + 40), \fixup
    user    ldtr, x9, x1, (\offset + 48), \fixup
    user    ldtr, x10, x1, (\offset + 56), \fixup
    stp     x3, x4, [x0, #\offset]
    stp     x5, x6, [x0, #(\offset + 16)]
    stp     x7, x8, [x0, #(\offset + 32)]
    stp     x9, x10, [x0, #(\offset + 48)]
    .endm
    .macro store_eight offset, fixup
    ldp     x3, x4, [x1, #\offset]
    ldp     x5, x6, [x1, #(\offset + 16)]
    ldp     x7, x8, [x1, #(\offset + 32)]
    ldp     x9, x10, [x1, #(\offset + 48)]
    user    sttr, x3, x0, \offset, \fixup
    user    sttr, x4, x0, (\offset + 8), \fixup
    user    sttr, x5, x0, (\offset + 16), \fixup
    user    sttr, x6, x0, (\offset + 24), \fixup
    user    sttr, x7, x0, (\offset + 32), \fixup
    user    sttr, x8, x0, (\offset + 40), \fixup
    user    sttr, x9, x0, (\offset + 48), \fixup
    user    sttr, x10, x0, (\offset + 56), \fixup
    .endm
    .macro zero_eight offset, fixup
    .irp word, 0, 8, 16, 24, 32, 40, 48, 56
    user    sttr, xzr, x0, (\offset + \word), \fixup
    .endr
    .endm

    .pushsection .text, "ax"
    // x0: kernel destination, x1: user source, x2: length. Turns of 256, 64, 8, 4 and 1 bytes. After a miss in a long turn
    // (12 to 14: x2 is what is left less the turn) the byte loop finds out how far it gets.
__copy_from_user:
    cmp     x2, #64
    b.lo    4f
    subs    x2, x2, #256
    b.lo    2f
1:  load_eight  0, 12f
    load_eight  64, 12f
    load_eight  128, 12f
    load_eight  192, 12f
    add     x0, x0, #256
    add     x1, x1, #256
    subs    x2, x2, #256
    b.hs    1b
2:  adds    x2, x2, #192
    b.lo    33f
3:  load_eight  0, 13f
    add     x0, x0, #64
    add     x1, x1, #64
    subs    x2, x2, #64
    b.hs    3b
33: add     x2, x2, #64
4:  subs    x2, x2, #8
    b.lo    6f
5:  user    ldtr, x3, x1, 0, 14f
    str     x3, [x0], #8
    add     x1, x1, #8
    subs    x2, x2, #8
    b.hs    5b
6:  adds    x2, x2, #8
    b.eq    9f
    tbz     x2, #2, 8f
    user    ldtr, w3, x1, 0, 8f
    str     w3, [x0], #4
    add     x1, x1, #4
    subs    x2, x2, #4
    b.eq    9f
8:  user    ldtrb, w3, x1, 0, 9f
    strb    w3, [x0], #1
    add     x1, x1, #1
    subs    x2, x2, #1
    b.ne    8b
9:  mov     x0, x2
    ret
12: add     x2, x2, #256
    b       8b
13: add     x2, x2, #64
    b       8b
14: add     x2, x2, #8
    b       8b

    // x0: user destination, x1: kernel source, x2: length.
__copy_to_user:
    cmp     x2, #64
    b.lo    4f
    subs    x2, x2, #256
    b.lo    2f
1:  store_eight  0, 12f
    store_eight  64, 12f
    store_eight  128, 12f
    store_eight  192, 12f
    add     x0, x0, #256
    add     x1, x1, #256
    subs    x2, x2, #256
    b.hs    1b
2:  adds    x2, x2, #192
    b.lo    33f
3:  store_eight  0, 13f
    add     x0, x0, #64
    add     x1, x1, #64
    subs    x2, x2, #64
    b.hs    3b
33: add     x2, x2, #64
4:  subs    x2, x2, #8
    b.lo    6f
5:  ldr     x3, [x1], #8
    user    sttr, x3, x0, 0, 15f
    add     x0, x0, #8
    subs    x2, x2, #8
    b.hs    5b
6:  adds    x2, x2, #8
    b.eq    9f
    tbz     x2, #2, 8f
    ldr     w3, [x1], #4
    user    sttr, w3, x0, 0, 16f
    add     x0, x0, #4
    subs    x2, x2, #4
    b.eq    9f
8:  ldrb    w3, [x1], #1
    user    sttrb, w3, x0, 0, 9f
    add     x0, x0, #1
    subs    x2, x2, #1
    b.ne    8b
9:  mov     x0, x2
    ret
12: add     x2, x2, #256
    b       8b
13: add     x2, x2, #64
    b       8b
    // The source is ahead by the turn.
15: add     x2, x2, #8
    sub     x1, x1, #8
    b       8b
16: sub     x1, x1, #4
    b       8b

    // x0: user destination, x1: length.
__clear_user:
    cmp     x1, #64
    b.lo    4f
    subs    x1, x1, #256
    b.lo    2f
1:  zero_eight  0, 12f
    zero_eight  64, 12f
    zero_eight  128, 12f
    zero_eight  192, 12f
    add     x0, x0, #256
    subs    x1, x1, #256
    b.hs    1b
2:  adds    x1, x1, #192
    b.lo    33f
3:  zero_eight  0, 13f
    add     x0, x0, #64
    subs    x1, x1, #64
    b.hs    3b
33: add     x1, x1, #64
4:  subs    x1, x1, #8
    b.lo    6f
5:  user    sttr, xzr, x0, 0, 14f
    add     x0, x0, #8
    subs    x1, x1, #8
    b.hs    5b
6:  adds    x1, x1, #8
    b.eq    9f
    tbz     x1, #2, 8f
    user    sttr, wzr, x0, 0, 8f
    add     x0, x0, #4
    subs    x1, x1, #4
    b.eq    9f
8:  user    sttrb, wzr, x0, 0, 9f
    add     x0, x0, #1
    subs    x1, x1, #1
    b.ne    8b
9:  mov     x0, x1
    ret
12: add     x1, x1, #256
    b       8b
13: add     x1, x1, #64
    b       8b
14: add     x1, x1, #8
    b       8b

    // x0: kernel destination, x1: user source, x2: limit. x4: bytes done.
__copy_string_from_user:
    mov     x4, #0
    mov     x5, #0x0101010101010101
    subs    x2, x2, #8
    b.lo    2f
    // A byte is zero if subtracting one borrows into its top bit that was not set; bytes above the first zero may be
    // reported wrongly, the first never (the usual word-at-a-time test).
1:
10: ldtr    x3, [x1]
    sub     x6, x3, x5
    bic     x6, x6, x3
    ands    x6, x6, #0x8080808080808080
    str     x3, [x0, x4]
    b.ne    6f
    add     x1, x1, #8
    add     x4, x4, #8
    cmp     x4, x2
    b.ls    1b
2:  add     x2, x2, #8
3:  cmp     x4, x2
    b.hs    4f
11: ldtrb   w3, [x1]
    cbz     w3, 4f
    strb    w3, [x0, x4]
    add     x1, x1, #1
    add     x4, x4, #1
    b       3b
4:  mov     x0, x4
    ret
5:  mvn     x0, x4
    ret
6:  rbit    x6, x6
    clz     x6, x6
    add     x0, x4, x6, lsr #3
    ret
    ex      10b, 2b
    ex      11b, 5b

__load_user_u32:
10: ldtr    w2, [x0]
    str     w2, [x1]
    mov     x0, #0
    ret
1:  mov     x0, #1
    ret
    ex      10b, 1b

__load_user_u64:
10: ldtr    x2, [x0]
    str     x2, [x1]
    mov     x0, #0
    ret
1:  mov     x0, #1
    ret
    ex      10b, 1b

__store_user_u32:
10: sttr    w1, [x0]
    mov     x0, #0
    ret
1:  mov     x0, #1
    ret
    ex      10b, 1b

__store_user_u64:
10: sttr    x1, [x0]
    mov     x0, #0
    ret
1:  mov     x0, #1
    ret
    ex      10b, 1b

__compare_exchange_user_u32:
1:
10: ldaxr   w4, [x0]
    cmp     w4, w1
    b.ne    2f
11: stlxr   w5, w2, [x0]
    cbnz    w5, 1b
2:  str     w4, [x3]
    dmb     ish
    mov     x0, #0
    ret
3:  mov     x0, #1
    ret
    ex      10b, 3b
    ex      11b, 3b

__clean_user_line:
10: dc      civac, x0
    dsb     ish
    mov     x0, #0
    ret
1:  mov     x0, #1
    ret
    ex      10b, 1b

__invalidate_user_code:
10: ic      ivau, x0
    dsb     ish
    mov     x0, #0
    ret
1:  mov     x0, #1
    ret
    ex      10b, 1b
    .popsection
    "#
);
