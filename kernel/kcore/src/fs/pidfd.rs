//! pidfd_open(2): a descriptor that is a process and stays it when the number is given to another.

use alloc::sync::Arc;
use core::fmt::Write;

use abi::fcntl::O_RDWR;
use abi::poll::{POLLIN, POLLRDNORM};

use super::file::{File, FileOps, OffsetRule};
use super::libfs::shared;
use super::poll::{PollTable, watch_all};
use super::pseudo;
use crate::task::pid::Pid;
use crate::task::tree::{self, ExitState};
use crate::task::{ThreadGroup, current};

/// The process.
pub struct PidFd {
    group: Arc<ThreadGroup>,
}

impl PidFd {
    /// Its identity, for waitid(2).
    pub fn pid(&self) -> Arc<Pid> {
        self.group.pid.clone()
    }

    /// The process itself.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        &self.group
    }

    /// Whether every thread is gone.
    fn has_ended(&self) -> bool {
        let tree = tree::lock();
        tree.find(&self.group).is_none_or(|id| tree.node(id).exit_state == ExitState::Zombie)
    }
}

/// A new pidfd's file. `flags` is O_NONBLOCK or nothing.
pub fn new_file(group: Arc<ThreadGroup>, flags: u32) -> Arc<File> {
    pseudo::anon_file("[pidfd]", shared(PidFd { group }), O_RDWR | flags)
}

impl FileOps for PidFd {
    fn poll(&self, _file: &File, table: Option<&mut PollTable>) -> u32 {
        // The end of each thread wakes this queue; the last one's under the tree's lock, which `has_ended` takes.
        watch_all(table, &[&self.group.child_changed]);
        if self.has_ended() { POLLIN | POLLRDNORM } else { 0 }
    }

    fn offset_rule(&self) -> OffsetRule {
        OffsetRule::Stream
    }

    fn show_fdinfo(&self, _file: &File, out: &mut dyn Write) {
        // -1 once it was waited for (Linux `pidfd_show_fdinfo`).
        let is_known = self.group.pid.task().is_some();
        let number = if is_known { self.group.pid.number_in(current().namespaces().pid()) } else { -1 };
        // The reader's buffer takes everything.
        let _ = writeln!(out, "Pid:\t{number}\nNSpid:\t{number}");
    }
}
