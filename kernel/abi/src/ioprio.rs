//! I/O priorities: ioprio_set(2). A priority is a class in bits 13 to 15, hints for the device below, a level in bits 0 to 2.

/// Where the class begins.
pub const IOPRIO_CLASS_SHIFT: u32 = 13;
/// Levels of a class: 0 (first) to 7.
pub const IOPRIO_NR_LEVELS: u32 = 8;
/// The bits of a level.
const LEVEL_MASK: u32 = IOPRIO_NR_LEVELS - 1;
/// Not set: derived from the nice value.
pub const IOPRIO_CLASS_NONE: u32 = 0;
/// Real time: first access to the disk.
pub const IOPRIO_CLASS_RT: u32 = 1;
/// Best effort.
pub const IOPRIO_CLASS_BE: u32 = 2;
/// Only while nobody else wants the disk.
pub const IOPRIO_CLASS_IDLE: u32 = 3;
/// `who` is a thread.
pub const IOPRIO_WHO_PROCESS: i32 = 1;
/// `who` is a process group.
pub const IOPRIO_WHO_PGRP: i32 = 2;
/// `who` is a user.
pub const IOPRIO_WHO_USER: i32 = 3;

/// A priority of `class` and `level`.
pub const fn value(class: u32, level: u32) -> u32 {
    class << IOPRIO_CLASS_SHIFT | level
}

/// The class of a priority; other bits than its three do not count.
pub const fn class(priority: u32) -> u32 {
    priority >> IOPRIO_CLASS_SHIFT & 7
}

/// The level of a priority.
pub const fn level(priority: u32) -> u32 {
    priority & LEVEL_MASK
}
