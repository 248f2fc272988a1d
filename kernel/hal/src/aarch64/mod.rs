//! The Raspberry Pi half: AArch64 at EL1, Cortex-A53 and later.
//!
//! [`boot`] brings a CPU from the boot loader to Rust; [`trap`] has the vectors; [`context`] threads and their switch;
//! [`kernel_map`] the kernel's own page tables; [`user_map`] address spaces, ASIDs and the TLB; [`uaccess`] user memory;
//! [`heap`] the global allocator; [`string`] the compiler's memory functions; [`timer`] and [`local`] the per-core
//! devices; [`vdso`] code for user space. What the image crate calls is [`board`].

pub mod board;
mod boot;
mod context;
mod cpu;
mod debug;
mod heap;
mod kernel_map;
mod local;
mod memory;
mod string;
mod timer;
mod trap;
mod uaccess;
mod user_map;
mod vdso;

pub use context::{ThreadContext, current, has_current, set_current, switch};
pub use cpu::{
    cpu_id, entropy, identification, irq_enable, irq_restore, irq_save, irqs_enabled, online_mask, preempt_check,
    preempt_count, preempt_disable, preempt_enable, preempt_enable_no_resched, relax, wait_for_interrupt,
};
pub use debug::{architecture as debug_architecture, count as debug_count};
pub use heap::heap_usage;
pub use local::send_ipi;
pub use memory::{
    boot_bytes, copy_frame, free_ranges, max_pfn, read_frame, set_frame_source, sync_instruction_cache, table,
    total_ram_bytes, write_frame, zero_frames,
};
pub use timer::{clock_is_slewed, counter_scale, now_ns, raw_counter, raw_ns, set_deadline};
pub use trap::{install_handlers, interrupted_user};
pub use uaccess::{
    clear_user, compare_exchange_user_u32, copy_frame_to_user, copy_from_user, copy_string_from_user,
    copy_string_to_uninit, copy_to_user, copy_user_to_frame, disable_faults, enable_faults, load_user_u32,
    load_user_u64, store_user_u32, store_user_u64,
};
pub use user_map::{activate, deactivate, flush_all, flush_range, publish_entries};
pub use vdso::vdso_code;

/// Whether the current thread has an owner yet: before, nobody can be preempted.
pub(crate) fn has_owner() -> bool {
    crate::thread::has_current()
}

/// The lowest kernel address: physical memory is mapped from here on (39-bit high half).
pub(crate) const LINEAR_BASE: u64 = 0xffff_ff80_0000_0000;

/// The kernel address of a physical one.
#[inline(always)]
pub(crate) const fn linear(phys: u64) -> u64 {
    LINEAR_BASE + phys
}
