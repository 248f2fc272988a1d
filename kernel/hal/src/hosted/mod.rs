//! The hosted machine: the door of hal on a PC.
//!
//! One OS thread is one machine with up to four simulated CPUs. All of its state hangs off one thread-local ([`state`]),
//! so tests run in parallel without knowing of each other. Every kernel thread and every boot flow is a coroutine; the
//! driver loop in [`machine`] resumes them one at a time, in an order that a seed decides, so a run can be repeated.
//! User programs are Rust closures that reach the kernel through [`user::User`].
//!
//! Files: [`state`] (what the machine is), [`cpu`] (interrupts, preemption, the clock), [`ram`] (frames), [`mmu`] (table
//! walks and a TLB that remembers stale entries), [`uaccess`], [`context`] (threads), [`machine`] (the driver), [`user`].
//!
//! What it does not model: caches, memory ordering between CPUs (one CPU runs at a time), and instructions.

mod context;
mod cpu;
mod machine;
mod mmu;
mod ram;
mod state;
mod uaccess;
mod user;

pub use context::{ThreadContext, current, debug_architecture, debug_count, has_current, set_current, switch};
pub use cpu::{
    clock_is_slewed, counter_scale, cpu_id, disable_faults, enable_faults, entropy, identification, install_handlers,
    interrupted_user, irq_enable, irq_restore, irq_save, irqs_enabled, now_ns, online_mask, preempt_count,
    preempt_disable, preempt_enable, preempt_enable_no_resched, raw_counter, raw_ns, relax, send_ipi, set_deadline,
    vdso_code, wait_for_interrupt,
};
pub use mmu::{activate, deactivate, flush_all, flush_range, publish_entries};
pub use ram::{
    boot_bytes, copy_frame, frame_freed, free_ranges, heap_usage, injected_failure, max_pfn, read_frame,
    set_frame_source, sync_instruction_cache, table, total_ram_bytes, write_frame, zero_frames,
};
pub use uaccess::{
    clear_user, compare_exchange_user_u32, copy_frame_to_user, copy_from_user, copy_string_from_user,
    copy_string_to_uninit, copy_to_user, copy_user_to_frame, load_user_u32, load_user_u64, store_user_u32,
    store_user_u64,
};

/// What tests use of the hosted machine, beyond the door.
pub mod hosted {
    pub use super::cpu::{advance_clock, raise_device_interrupt};
    pub use super::machine::{Config, Machine, Stuck, Tlb, power_off, start_secondary};
    pub use super::ram::{fail_all_allocations, fail_nth_allocation, initramfs};
    pub use super::uaccess::{clear_injected_faults, fault_after};
    pub use super::user::{HANDLER_RETURN, Plain, User, entry_instruction, program};
}
