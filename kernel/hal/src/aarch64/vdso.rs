//! Code of the vDSO: clock calls that need no system call, and the signal trampoline.
//!
//! Position-independent and small enough for one page. The data page ([`VdsoData`](crate::timer::VdsoData)) lies directly
//! before the page that the code is in. The counter's scale is fixed; only the offset of real time and the coarse clocks
//! change, each one aligned word, so no sequence lock is needed.

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
    // x2: monotonic ns. Uses x3 to x6.
    .macro monotonic
    isb
    mrs     x3, cntvct_el0
    ldr     x4, [x9]                    // mult
    mul     x2, x3, x4
    umulh   x5, x3, x4
    lsr     x2, x2, #24
    orr     x2, x2, x5, lsl #40
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
    cmp     w0, #11                     // CLOCK_TAI: as REALTIME
    b.eq    1f
    cmp     w0, #7
    b.hi    5f
    mov     w10, #1
    lsl     w10, w10, w0
    mov     w11, #0x92                  // MONOTONIC, MONOTONIC_RAW, BOOTTIME
    tst     w10, w11
    b.ne    2f
    cbz     w0, 1f
    cmp     w0, #5
    b.eq    3f
    cmp     w0, #6
    b.eq    4f
    b       5f                          // the CPU clocks
1:  monotonic
    ldr     x6, [x9, #8]                // real offset
    add     x2, x2, x6
    b       6f
2:  monotonic
    b       6f
3:  ldr     x2, [x9, #16]               // coarse monotonic
    ldr     x6, [x9, #8]
    add     x2, x2, x6
    b       6f
4:  ldr     x2, [x9, #16]
6:  split
    stp     x2, x3, [x1]
    mov     x0, #0
    ret
5:  mov     x8, #113
    svc     #0
    ret

__vdso_gettimeofday:
    cbz     x0, 7f
    data_page
    monotonic
    ldr     x6, [x9, #8]
    add     x2, x2, x6
    split
    mov     x4, #1000
    udiv    x3, x3, x4
    stp     x2, x3, [x0]
7:  cbz     x1, 8f
    str     xzr, [x1]
8:  mov     x0, #0
    ret

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
