//! ptrace(2): decodes, and `task::ptrace` does it.

use super::Context;
use crate::Result;
use crate::task::ptrace::{self, Request};

/// ptrace(2).
pub fn ptrace(_cx: &mut Context<'_>, request: u64, pid: i32, address: u64, data: u64) -> Result<usize> {
    ptrace::request(Request { number: request, tid: pid, address, data })
}
