//! The rows of the benchmark, by what they use.

mod calls;
mod files;
mod growth;
mod ipc;
mod memory;
mod process;

use crate::meter::Meter;
use crate::sys::Result;

/// One line of the table.
pub struct Row {
    pub name: &'static str,
    pub run: fn(&mut Meter) -> Result<()>,
}

/// All of them, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Row> {
    [calls::ROWS, files::ROWS, memory::ROWS, process::ROWS, ipc::ROWS].into_iter().flatten()
}

/// What shows how costs grow.
pub fn growth() -> impl Iterator<Item = &'static Row> {
    [growth::MEMORY, growth::TASKS].into_iter().flatten()
}
