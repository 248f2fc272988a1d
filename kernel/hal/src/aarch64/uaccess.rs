//! User memory by unprivileged loads and stores (LDTR, STTR; Arm ARM C6.2.221): the MMU checks them as if user code ran.
//!
//! Each such instruction has an entry in the exception table; a miss that kcore does not resolve goes on at its fix-up.
//! Bulk copies move 64 bytes a turn; after a fault in one the byte loop finds out how far it gets. Strings are read a word
//! at a time; where a word would reach past what is mapped, byte by byte.

use core::arch::global_asm;
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
    let outcome = unsafe { __copy_string_from_user(to.as_mut_ptr(), from, to.len()) };
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

    .pushsection .text, "ax"
    // x0: kernel destination, x1: user source, x2: length.
__copy_from_user:
    subs    x2, x2, #64
    b.lo    2f
1:
10: ldtr    x3, [x1]
11: ldtr    x4, [x1, #8]
12: ldtr    x5, [x1, #16]
13: ldtr    x6, [x1, #24]
14: ldtr    x7, [x1, #32]
15: ldtr    x8, [x1, #40]
16: ldtr    x9, [x1, #48]
17: ldtr    x10, [x1, #56]
    stp     x3, x4, [x0]
    stp     x5, x6, [x0, #16]
    stp     x7, x8, [x0, #32]
    stp     x9, x10, [x0, #48]
    add     x0, x0, #64
    add     x1, x1, #64
    subs    x2, x2, #64
    b.hs    1b
2:  adds    x2, x2, #64
    b.eq    4f
    subs    x2, x2, #8
    b.lo    5f
6:
18: ldtr    x3, [x1]
    str     x3, [x0], #8
    add     x1, x1, #8
    subs    x2, x2, #8
    b.hs    6b
5:  adds    x2, x2, #8
    b.eq    4f
3:
19: ldtrb   w3, [x1]
    strb    w3, [x0], #1
    add     x1, x1, #1
    subs    x2, x2, #1
    b.ne    3b
4:  mov     x0, x2
    ret
    // A fault in the 64-byte turn, and in the 8-byte turn: x2 is what is left less the turn.
7:  add     x2, x2, #64
    b       3b
8:  add     x2, x2, #8
    b       3b
    ex      10b, 7b
    ex      11b, 7b
    ex      12b, 7b
    ex      13b, 7b
    ex      14b, 7b
    ex      15b, 7b
    ex      16b, 7b
    ex      17b, 7b
    ex      18b, 8b
    ex      19b, 4b

    // x0: user destination, x1: kernel source, x2: length.
__copy_to_user:
    subs    x2, x2, #64
    b.lo    2f
1:  ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    ldp     x7, x8, [x1, #32]
    ldp     x9, x10, [x1, #48]
10: sttr    x3, [x0]
11: sttr    x4, [x0, #8]
12: sttr    x5, [x0, #16]
13: sttr    x6, [x0, #24]
14: sttr    x7, [x0, #32]
15: sttr    x8, [x0, #40]
16: sttr    x9, [x0, #48]
17: sttr    x10, [x0, #56]
    add     x0, x0, #64
    add     x1, x1, #64
    subs    x2, x2, #64
    b.hs    1b
2:  adds    x2, x2, #64
    b.eq    4f
    subs    x2, x2, #8
    b.lo    5f
6:  ldr     x3, [x1]
18: sttr    x3, [x0]
    add     x0, x0, #8
    add     x1, x1, #8
    subs    x2, x2, #8
    b.hs    6b
5:  adds    x2, x2, #8
    b.eq    4f
3:  ldrb    w3, [x1]
19: sttrb   w3, [x0]
    add     x0, x0, #1
    add     x1, x1, #1
    subs    x2, x2, #1
    b.ne    3b
4:  mov     x0, x2
    ret
7:  add     x2, x2, #64
    b       3b
8:  add     x2, x2, #8
    b       3b
    ex      10b, 7b
    ex      11b, 7b
    ex      12b, 7b
    ex      13b, 7b
    ex      14b, 7b
    ex      15b, 7b
    ex      16b, 7b
    ex      17b, 7b
    ex      18b, 8b
    ex      19b, 4b

    // x0: user destination, x1: length.
__clear_user:
    subs    x1, x1, #64
    b.lo    2f
1:
10: sttr    xzr, [x0]
11: sttr    xzr, [x0, #8]
12: sttr    xzr, [x0, #16]
13: sttr    xzr, [x0, #24]
14: sttr    xzr, [x0, #32]
15: sttr    xzr, [x0, #40]
16: sttr    xzr, [x0, #48]
17: sttr    xzr, [x0, #56]
    add     x0, x0, #64
    subs    x1, x1, #64
    b.hs    1b
2:  adds    x1, x1, #64
    b.eq    4f
3:
18: sttrb   wzr, [x0]
    add     x0, x0, #1
    subs    x1, x1, #1
    b.ne    3b
4:  mov     x0, x1
    ret
7:  add     x1, x1, #64
    b       3b
    ex      10b, 7b
    ex      11b, 7b
    ex      12b, 7b
    ex      13b, 7b
    ex      14b, 7b
    ex      15b, 7b
    ex      16b, 7b
    ex      17b, 7b
    ex      18b, 4b

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
    b.ne    2f
    str     x3, [x0, x4]
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
