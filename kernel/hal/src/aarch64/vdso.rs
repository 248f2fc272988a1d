//! Code of the vDSO: clock calls that need no system call, and the signal trampoline.
//!
//! Position-independent and small enough for one page. The data page ([`VdsoData`](crate::timer::VdsoData)) lies directly
//! before the page that the code is in. The counter's scale is fixed, and the offsets and the coarse clocks are aligned words
//! that change one by one, so no sequence lock is needed, until adjtimex(2) changes the clock's speed: then the first word,
//! the scale, becomes 0 and sends the code to the line under its sequence count (`50:`). A reader that has read the counter
//! and then finds the scale has a count from before that.

use core::arch::global_asm;

unsafe extern "C" {
    static __vdso_start: u8;
    static __vdso_end: u8;
    static __vdso_gettime: u8;
    static __vdso_gettimeofday: u8;
    static __vdso_getres: u8;
    static __vdso_sigreturn: u8;
}

pub fn vdso_code() -> (&'static [u8], [(&'static str, usize); 4]) {
    // SAFETY: the symbols bracket read-only code in the kernel image.
    unsafe {
        let start = &raw const __vdso_start;
        let offset = |symbol: *const u8| symbol.offset_from(start) as usize;
        let code = core::slice::from_raw_parts(start, offset(&raw const __vdso_end));
        let symbols = [
            ("__kernel_clock_gettime", offset(&raw const __vdso_gettime)),
            ("__kernel_gettimeofday", offset(&raw const __vdso_gettimeofday)),
            ("__kernel_clock_getres", offset(&raw const __vdso_getres)),
            ("__kernel_rt_sigreturn", offset(&raw const __vdso_sigreturn)),
        ];
        (code, symbols)
    }
}

global_asm!(
    r#"
    // x9: data page.
    .macro data_page
    adr     x9, .
    and     x9, x9, #~0xfff
    sub     x9, x9, #4096
    .endm
    // x2: ns of the counter by the scale in x4. Uses x3, x5.
    .macro scaled
    mul     x2, x3, x4
    umulh   x5, x3, x4
    lsr     x2, x2, #24
    orr     x2, x2, x5, lsl #40
    .endm
    // x2: monotonic ns, or goes to `slewed`. Uses x3 to x5.
    .macro monotonic slewed
    isb
    mrs     x3, cntvct_el0
    ldr     x4, [x9]                    // mult
    cbz     x4, \slewed
    scaled
    .endm
    // x2 ns to x2 seconds and x3 rest. Uses x4, x5.
    .macro split
    movz    x4, #0xca00
    movk    x4, #0x3b9a, lsl #16        // 1,000,000,000
    udiv    x5, x2, x4
    msub    x3, x5, x4, x2
    mov     x2, x5
    .endm

    .pushsection .rodata, "a"
    .balign 64
__vdso_start:
__vdso_gettime:
    data_page
    cmp     w0, #1                      // MONOTONIC, the most wanted
    b.ne    10f
2:  monotonic 20f
6:  split
    stp     x2, x3, [x1]
    mov     x0, #0
    ret
10: cbz     w0, 1f
    cmp     w0, #7                      // BOOTTIME: as MONOTONIC
    b.eq    2b
    cmp     w0, #4
    b.eq    11f
    cmp     w0, #5
    b.eq    3f
    cmp     w0, #6
    b.eq    4f
    cmp     w0, #11
    b.eq    12f
    mov     x8, #113                    // the CPU clocks
    svc     #0
    ret
1:  monotonic 20f
    ldr     x6, [x9, #8]                // real offset
    add     x2, x2, x6
    b       6b
11: isb                                 // MONOTONIC_RAW
    mrs     x3, cntvct_el0
    ldr     x4, [x9, #40]               // raw mult
    scaled
    b       6b
12: monotonic 20f                       // TAI
    ldr     x6, [x9, #24]
    add     x2, x2, x6
    b       6b
3:  ldr     x2, [x9, #16]               // coarse monotonic
    ldr     x6, [x9, #8]
    add     x2, x2, x6
    b       6b
4:  ldr     x2, [x9, #16]
    b       6b
    // A slewed clock: the offset of the clock is added here, too.
20: mov     x14, x30
    bl      50f
    mov     x30, x14
    cbz     w0, 21f
    cmp     w0, #11
    b.ne    6b
    ldr     x6, [x9, #24]
    add     x2, x2, x6
    b       6b
21: ldr     x6, [x9, #8]
    add     x2, x2, x6
    b       6b

    // x2: monotonic ns of a slewed clock. Uses x3 to x7, x10, x11, x15.
50: ldr     x10, [x9, #48]              // sequence
    tbnz    x10, #0, 50b
    dmb     ishld
    isb
    mrs     x3, cntvct_el0
    ldr     x4, [x9, #40]               // raw mult
    scaled
    ldr     x5, [x9, #56]               // the line's raw ns
    sub     x2, x2, x5
    ldr     x6, [x9, #72]               // the line's rate
    mul     x7, x2, x6
    smulh   x15, x2, x6
    extr    x7, x15, x7, #32
    ldr     x5, [x9, #64]               // the line's clock ns
    add     x2, x2, x7
    add     x2, x2, x5
    dmb     ishld
    ldr     x11, [x9, #48]
    cmp     x10, x11
    b.ne    50b
    ret

__vdso_gettimeofday:
    data_page
    cbz     x0, 7f
    monotonic 30f
31: ldr     x6, [x9, #8]
    add     x2, x2, x6
    split
    mov     x4, #1000
    udiv    x3, x3, x4
    stp     x2, x3, [x0]
7:  cbz     x1, 8f
    ldr     x2, [x9, #32]               // time zone
    str     x2, [x1]
8:  mov     x0, #0
    ret
30: mov     x14, x30
    bl      50b
    mov     x30, x14
    b       31b

__vdso_getres:
    mov     x8, #114
    svc     #0
    ret

    nop                                 // unwinders look one instruction before a return address
__vdso_sigreturn:
    mov     x8, #139
    svc     #0
__vdso_end:
    .popsection
    "#
);
