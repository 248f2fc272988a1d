//! User memory by unprivileged loads and stores (LDTR, STTR; Arm ARM C6.2.221): the MMU checks them as if user code ran.
//!
//! Each such instruction has an entry in the exception table; a miss that kcore does not resolve goes on at its fix-up.
//! Bulk copies move 32 bytes a turn; after a fault in one the byte loop finds out how far it gets.

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
    cmp     x2, #32
    b.lo    2f
1:
10: ldtr    x3, [x1]
11: ldtr    x4, [x1, #8]
12: ldtr    x5, [x1, #16]
13: ldtr    x6, [x1, #24]
    stp     x3, x4, [x0]
    stp     x5, x6, [x0, #16]
    add     x0, x0, #32
    add     x1, x1, #32
    sub     x2, x2, #32
    cmp     x2, #32
    b.hs    1b
2:  cmp     x2, #8
    b.lo    3f
14: ldtr    x3, [x1]
    str     x3, [x0], #8
    add     x1, x1, #8
    sub     x2, x2, #8
    b       2b
3:  cbz     x2, 4f
15: ldtrb   w3, [x1]
    strb    w3, [x0], #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       3b
4:  mov     x0, x2
    ret
    ex      10b, 3b
    ex      11b, 3b
    ex      12b, 3b
    ex      13b, 3b
    ex      14b, 3b
    ex      15b, 4b

    // x0: user destination, x1: kernel source, x2: length.
__copy_to_user:
    cmp     x2, #32
    b.lo    2f
1:  ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
10: sttr    x3, [x0]
11: sttr    x4, [x0, #8]
12: sttr    x5, [x0, #16]
13: sttr    x6, [x0, #24]
    add     x0, x0, #32
    add     x1, x1, #32
    sub     x2, x2, #32
    cmp     x2, #32
    b.hs    1b
2:  cmp     x2, #8
    b.lo    3f
    ldr     x3, [x1]
14: sttr    x3, [x0]
    add     x0, x0, #8
    add     x1, x1, #8
    sub     x2, x2, #8
    b       2b
3:  cbz     x2, 4f
    ldrb    w3, [x1]
15: sttrb   w3, [x0]
    add     x0, x0, #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       3b
4:  mov     x0, x2
    ret
    ex      10b, 3b
    ex      11b, 3b
    ex      12b, 3b
    ex      13b, 3b
    ex      14b, 3b
    ex      15b, 4b

    // x0: user destination, x1: length.
__clear_user:
1:  cmp     x1, #8
    b.lo    2f
10: sttr    xzr, [x0]
    add     x0, x0, #8
    sub     x1, x1, #8
    b       1b
2:  cbz     x1, 3f
11: sttrb   wzr, [x0]
    add     x0, x0, #1
    sub     x1, x1, #1
    b       2b
3:  mov     x0, x1
    ret
    ex      10b, 2b
    ex      11b, 3b

    // x0: kernel destination, x1: user source, x2: limit.
__copy_string_from_user:
    mov     x4, #0
1:  cmp     x4, x2
    b.hs    2f
10: ldtrb   w3, [x1]
    cbz     w3, 2f
    strb    w3, [x0, x4]
    add     x1, x1, #1
    add     x4, x4, #1
    b       1b
2:  mov     x0, x4
    ret
3:  mvn     x0, x4
    ret
    ex      10b, 3b

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
    .popsection
    "#
);
