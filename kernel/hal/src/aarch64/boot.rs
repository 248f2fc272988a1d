//! From the boot loader to Rust, on the boot CPU and on secondaries.
//!
//! The image is entered at physical 0x80000 at EL3, EL2 or EL1 with the MMU off. This drops to EL1, builds a first map of
//! the lowest gigabyte (RAM as 2 MiB blocks, the peripherals as device memory) that serves as identity map and as the high
//! half at once, switches the MMU on, jumps high and calls the image's entry.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use super::board::BootInfo;
use super::kernel_map::{self, Table};
use super::{context, cpu, trap};

/// log2 of a kernel stack's size: 16 KiB, 32 KiB in debug builds, whose frames are larger.
pub(super) const STACK_SHIFT: u32 = if cfg!(debug_assertions) { 15 } else { 14 };
/// Bytes of a kernel stack.
pub(super) const STACK_SIZE: usize = 1 << STACK_SHIFT;

/// A boot stack, aligned so that bit [`STACK_SHIFT`] of an address in it is 1 and of one below it 0: the trap entry tells
/// an overflow by that bit. The lower half is the guard; its last page is unmapped by `finish_mapping`.
#[repr(C, align(65536))]
pub(super) struct BootStack {
    pub(super) guard: [u8; STACK_SIZE],
    stack: [u8; STACK_SIZE],
}

pub(super) struct BootStacks(pub(super) UnsafeCell<[BootStack; crate::MAX_CPUS]>);
// SAFETY: each CPU runs on its own; nothing else touches them.
unsafe impl Sync for BootStacks {}

const NO_STACK: BootStack = BootStack { guard: [0; STACK_SIZE], stack: [0; STACK_SIZE] };
#[unsafe(no_mangle)]
pub(super) static __BOOT_STACKS: BootStacks = BootStacks(UnsafeCell::new([NO_STACK; crate::MAX_CPUS]));

/// The first map: level 1 and level 2, used by TTBR0 (identity) and TTBR1 (high half) alike. In `.data`, because `.bss` is
/// cleared only when the MMU is on.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.early_tables")]
static __EARLY_L1: Table = Table::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.early_tables")]
static __EARLY_L2: Table = Table::new();

global_asm!(
    r#"
    .pushsection .text.boot, "ax"
    .global _start
_start:
    // The boot CPU is number 0. Another that comes this way (no firmware below us, as when QEMU is given an ELF) waits at the
    // release address that it would have in the firmware's pen.
    mrs     x1, mpidr_el1
    and     x1, x1, #0xff
    cbz     x1, 1f
    mov     x2, #0xd8
    add     x2, x2, x1, lsl #3
0:  wfe
    ldr     x3, [x2]
    cbz     x3, 0b
    br      x3
1:  mov     x20, x0                     // device tree, or what the loader left
    bl      __drop_to_el1
    // Level 2: 504 blocks of RAM (0 to 0x3f000000), then 8 of device memory.
    adrp    x1, {l2}
    add     x1, x1, :lo12:{l2}
    mov     x2, #0                      // physical address
    mov     x3, #0x701                  // block: AF, inner shareable, normal (MAIR 0), EL1 read/write
    mov     x5, #0x3f000000
4:  cmp     x2, x5
    b.lo    5f
    mov     x3, #0x405                  // block: AF, device (MAIR 1)
    movk    x3, #0x0060, lsl #48        // never executable
5:  orr     x4, x2, x3
    str     x4, [x1], #8
    add     x2, x2, #0x200000
    tst     x2, #0x3fffffff
    b.ne    4b
    // Level 1: the first gigabyte through level 2, the second (local peripherals at 0x40000000) as a device block.
    adrp    x1, {l1}
    add     x1, x1, :lo12:{l1}
    adrp    x2, {l2}
    add     x2, x2, :lo12:{l2}
    orr     x2, x2, #3
    str     x2, [x1]
    mov     x2, #0x40000000
    mov     x3, #0x405
    movk    x3, #0x0060, lsl #48
    orr     x2, x2, x3
    str     x2, [x1, #8]
    // What was written with the caches off must not be shadowed by stale lines once they are on (Arm ARM D7.5): invalidate
    // the two tables by address.
    adrp    x1, {l1}
    add     x1, x1, :lo12:{l1}
    add     x2, x1, #4096
    bl      __invalidate
    adrp    x1, {l2}
    add     x1, x1, :lo12:{l2}
    add     x2, x1, #4096
    bl      __invalidate
    adrp    x1, {l1}
    add     x1, x1, :lo12:{l1}
    mov     x2, x1
    bl      __mmu_on
    ldr     x1, =6f
    br      x1
6:  // Clear .bss: nobody else does for a flat image. With the MMU and the caches on, so that no stale line can come back
    // over it and no maintenance by address is needed. Its ends are page boundaries.
    adrp    x1, __bss_start
    adrp    x2, __bss_end
2:  cmp     x1, x2
    b.hs    3f
    stp     xzr, xzr, [x1]
    stp     xzr, xzr, [x1, #16]
    stp     xzr, xzr, [x1, #32]
    stp     xzr, xzr, [x1, #48]
    add     x1, x1, #64
    b       2b
3:  ldr     x1, ={stacks}
    add     x1, x1, #{stack_size}
    add     sp, x1, #{stack_size}
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    ldr     x1, ={boot_main}
    br      x1

    .global __secondary_start
__secondary_start:
    bl      __drop_to_el1
    adrp    x1, {l1}
    add     x1, x1, :lo12:{l1}
    adrp    x2, {final_root}
    add     x2, x2, :lo12:{final_root}
    bl      __mmu_on
    ldr     x1, =7f
    br      x1
7:  mrs     x0, mpidr_el1
    and     x0, x0, #0xff
    ldr     x1, ={stacks}
    mov     x2, #65536
    madd    x1, x0, x2, x1
    add     x1, x1, #{stack_size}
    add     sp, x1, #{stack_size}
    mov     x29, xzr
    mov     x30, xzr
    ldr     x1, ={secondary_main}
    br      x1

// Invalidates data cache lines from x1 to x2. Clobbers x1, x3, x4.
__invalidate:
    mrs     x3, ctr_el0
    ubfx    x3, x3, #16, #4
    mov     x4, #4
    lsl     x3, x4, x3
8:  dc      ivac, x1
    add     x1, x1, x3
    cmp     x1, x2
    b.lo    8b
    dsb     sy
    ret

// Goes to EL1 with everything masked, whatever level this is. Returns by x30. Clobbers x1, x2.
__drop_to_el1:
    msr     daifset, #15
    mrs     x1, CurrentEL
    cmp     x1, #(3 << 2)
    b.ne    9f
    // EL3: the next lower level is non-secure AArch64, with HVC; FP is not trapped.
    mov     x1, #0x5b1                  // NS, RES1, HCE, RW, ST
    msr     scr_el3, x1
    msr     cptr_el3, xzr
    // Firmware below us would have done this: a Cortex-A53, A57 or A72 takes part in coherency only with SMPEN set, which
    // must come before its caches are on (CPUECTLR_EL1; A53 TRM 4.3.64).
    mrs     x1, midr_el1
    ubfx    x1, x1, #4, #12
    sub     x1, x1, #0xd03              // A53
    cbz     x1, 11f
    sub     x1, x1, #4                  // A57 is 0xd07, A72 0xd08
    cmp     x1, #1
    b.hi    12f
11: mrs     x1, S3_1_C15_C2_1
    orr     x1, x1, #(1 << 6)
    msr     S3_1_C15_C2_1, x1
    isb
12: mov     x1, #0x0830                 // SCTLR_EL2: RES1 bits, MMU and caches off
    movk    x1, #0x30c5, lsl #16
    msr     sctlr_el2, x1
    mov     x1, #0x3c9                  // EL2h, all masked
    msr     spsr_el3, x1
    adr     x1, 9f
    msr     elr_el3, x1
    eret
9:  mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    10f
    mov     x1, #(1 << 31)              // EL1 is AArch64; nothing is trapped
    msr     hcr_el2, x1
    mrs     x1, cnthctl_el2
    orr     x1, x1, #3                  // EL1 may use the physical counter and timer
    msr     cnthctl_el2, x1
    msr     cntvoff_el2, xzr
    mov     x1, #0x33ff                 // no trap of FP/SIMD
    msr     cptr_el2, x1
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr
    // Debug registers and all performance counters are EL1's.
    mrs     x1, id_aa64dfr0_el1
    ubfx    x1, x1, #8, #4              // PMUVer: 0 and 15 mean none
    sub     x1, x1, #1
    cmp     x1, #14
    mov     x1, xzr
    b.hs    13f
    mrs     x1, pmcr_el0
    ubfx    x1, x1, #11, #5
13: msr     mdcr_el2, x1
    mrs     x1, midr_el1
    msr     vpidr_el2, x1
    mrs     x1, mpidr_el1
    msr     vmpidr_el2, x1
    mov     x1, #0x0800                 // SCTLR_EL1 with its RES1 bits, MMU off
    movk    x1, #0x30d0, lsl #16
    msr     sctlr_el1, x1
    mov     x1, #0x3c5                  // EL1h, all masked
    msr     spsr_el2, x1
    msr     elr_el2, x30
    eret
10: ret

// Switches the MMU and the caches on with TTBR0 = x1 and TTBR1 = x2. Returns by x30 at the physical address.
__mmu_on:
    ldr     x3, ={mair}
    msr     mair_el1, x3
    ldr     x3, ={tcr}
    // The physical address size the CPU has.
    mrs     x4, id_aa64mmfr0_el1
    and     x4, x4, #7
    orr     x3, x3, x4, lsl #32
    msr     tcr_el1, x3
    msr     ttbr0_el1, x1
    msr     ttbr1_el1, x2
    mov     x3, #(1 << 20)              // FP/SIMD: EL1 may, EL0 traps until first use
    msr     cpacr_el1, x3
    mov     x3, #2                      // EL0 may read the virtual counter (the vDSO)
    msr     cntkctl_el1, x3
    msr     mdscr_el1, xzr
    msr     oslar_el1, xzr              // debug exceptions are not locked away
    ic      iallu
    tlbi    vmalle1
    dsb     sy
    isb
    ldr     x3, ={sctlr}
    msr     sctlr_el1, x3
    isb
    ret

// Replaces TTBR1 by x0 while running from the identity map; x1 is where to go on, x2 an empty table. Blocks change into
// pages, so for a moment nothing is mapped at all (break before make, Arm ARM D8.16.1), as in Linux
// `idmap_cpu_replace_ttbr1`.
    .global __replace_ttbr1
__replace_ttbr1:
    msr     ttbr1_el1, x2
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    msr     ttbr1_el1, x0
    isb
    br      x1
    .ltorg
    .popsection
    "#,
    l1 = sym __EARLY_L1,
    l2 = sym __EARLY_L2,
    final_root = sym kernel_map::ROOT,
    stacks = sym __BOOT_STACKS,
    stack_size = const STACK_SIZE,
    boot_main = sym boot_main,
    secondary_main = sym secondary_main,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
);

/// Attribute 0: normal write-back; 1: device nGnRE; 2: normal non-cacheable (Arm ARM D17.2.97).
const MAIR: u64 = 0xff | 0x04 << 8 | 0x44 << 16;
/// 39-bit halves, 4 KiB granule, write-back inner-shareable walks, 16-bit ASIDs from TTBR0, top-byte-ignore for user
/// addresses as on Linux (Arm ARM D17.2.131). The physical size is filled in at run time.
const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 25 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30 | 1 << 36 | 1 << 37;
/// MMU, data and instruction cache, stack alignment checks; EL0 may use DC ZVA, read CTR_EL0, do cache maintenance and
/// WFI/WFE; RES1 bits (Arm ARM D17.2.118).
const SCTLR: u64 =
    0x30d0_0800 | 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18 | 1 << 26;

/// The boot CPU, high and with caches, on its boot stack.
extern "C" fn boot_main(dtb_phys: u64) -> ! {
    context::install_boot_thread(0);
    cpu::init_this_cpu();
    trap::install_vectors();
    cpu::mark_online(0);
    unsafe extern "Rust" {
        /// The image's entry, made by `kernel_entry!`.
        safe fn __kernel_main(info: BootInfo) -> !;
    }
    __kernel_main(BootInfo { dtb_phys, cpu: 0 })
}

/// A secondary CPU, likewise.
extern "C" fn secondary_main(cpu: usize) -> ! {
    context::install_boot_thread(cpu);
    cpu::init_this_cpu();
    trap::install_vectors();
    super::user_map::leave_identity_map();
    super::board::secondary_entry(cpu)
}
