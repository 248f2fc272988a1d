//! The memory functions that the compiler calls, for a core that loads and stores 16 bytes at a time.
//!
//! They replace the portable ones of the compiler's runtime library, whose symbols are weak. Unaligned accesses are fine in
//! normal memory, which is all that Rust objects live in; the kernel has no FP registers to copy with.

use core::arch::global_asm;

global_asm!(
    r#"
    .pushsection .text, "ax"
    .global memcpy
    .global memmove
    .global memset
    .global memcmp
    .global bcmp
    // x0: destination (also the result), x1: source, x2: length. A destination below the source may overlap it.
    .balign 64
memmove:
    sub     x3, x0, x1
    cmp     x3, x2
    b.lo    20f                         // the destination begins inside the source: backwards
memcpy:
    mov     x3, x0
    subs    x2, x2, #64
    b.lo    2f
1:  ldp     x4, x5, [x1], #16
    ldp     x6, x7, [x1], #16
    ldp     x8, x9, [x1], #16
    ldp     x10, x11, [x1], #16
    stp     x4, x5, [x3], #16
    stp     x6, x7, [x3], #16
    stp     x8, x9, [x3], #16
    stp     x10, x11, [x3], #16
    subs    x2, x2, #64
    b.hs    1b
    // The low six bits of what is left are right even below zero.
2:  tbz     x2, #5, 3f
    ldp     x4, x5, [x1], #16
    ldp     x6, x7, [x1], #16
    stp     x4, x5, [x3], #16
    stp     x6, x7, [x3], #16
3:  tbz     x2, #4, 4f
    ldp     x4, x5, [x1], #16
    stp     x4, x5, [x3], #16
4:  tbz     x2, #3, 5f
    ldr     x4, [x1], #8
    str     x4, [x3], #8
5:  tbz     x2, #2, 6f
    ldr     w4, [x1], #4
    str     w4, [x3], #4
6:  tbz     x2, #1, 7f
    ldrh    w4, [x1], #2
    strh    w4, [x3], #2
7:  tbz     x2, #0, 8f
    ldrb    w4, [x1]
    strb    w4, [x3]
8:  ret

20: add     x1, x1, x2
    add     x3, x0, x2
    subs    x2, x2, #32
    b.lo    22f
21: ldp     x4, x5, [x1, #-16]!
    ldp     x6, x7, [x1, #-16]!
    stp     x4, x5, [x3, #-16]!
    stp     x6, x7, [x3, #-16]!
    subs    x2, x2, #32
    b.hs    21b
22: tbz     x2, #4, 23f
    ldp     x4, x5, [x1, #-16]!
    stp     x4, x5, [x3, #-16]!
23: tbz     x2, #3, 24f
    ldr     x4, [x1, #-8]!
    str     x4, [x3, #-8]!
24: tbz     x2, #2, 25f
    ldr     w4, [x1, #-4]!
    str     w4, [x3, #-4]!
25: tbz     x2, #1, 26f
    ldrh    w4, [x1, #-2]!
    strh    w4, [x3, #-2]!
26: tbz     x2, #0, 27f
    ldrb    w4, [x1, #-1]
    strb    w4, [x3, #-1]
27: ret

    // x0: destination (also the result), w1: byte, x2: length.
    .balign 64
memset:
    mov     x3, x0
    and     x1, x1, #0xff
    mov     x4, #0x0101010101010101
    mul     x1, x1, x4
    subs    x2, x2, #64
    b.lo    2f
1:  stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
    subs    x2, x2, #64
    b.hs    1b
2:  tbz     x2, #5, 3f
    stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
3:  tbz     x2, #4, 4f
    stp     x1, x1, [x3], #16
4:  tbz     x2, #3, 5f
    str     x1, [x3], #8
5:  tbz     x2, #2, 6f
    str     w1, [x3], #4
6:  tbz     x2, #1, 7f
    strh    w1, [x3], #2
7:  tbz     x2, #0, 8f
    strb    w1, [x3]
8:  ret

    // x0, x1: what to compare, x2: length. Eight bytes at a time until they differ.
memcmp:
bcmp:
    subs    x2, x2, #8
    b.lo    2f
1:  ldr     x3, [x0], #8
    ldr     x4, [x1], #8
    cmp     x3, x4
    b.ne    5f
    subs    x2, x2, #8
    b.hs    1b
2:  adds    x2, x2, #8
    b.eq    4f
3:  ldrb    w3, [x0], #1
    ldrb    w4, [x1], #1
    subs    w3, w3, w4
    b.ne    6f
    subs    x2, x2, #1
    b.ne    3b
4:  mov     w0, #0
    ret
5:  rev     x3, x3                      // the first byte decides
    rev     x4, x4
    cmp     x3, x4
    cset    w0, hi
    csinv   w0, w0, wzr, hs
    ret
6:  mov     w0, w3
    ret
    .popsection
    "#
);
