//! Where a core is written to: a file under the rules of core(5), or the standard input of a program.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::fcntl as f;
use abi::resource::RLIM_INFINITY;

use super::PIPE_LIMIT;
use crate::Result;
use crate::fs::namei::WalkContext;
use crate::fs::{File, FsContext, create, open, pipe};
use crate::io::IoSrc;
use crate::task::{Creds, Task, helper};

const PAGE: u64 = hal::mem::PAGE_SIZE as u64;

hal::global! {
    /// Dumps into pipes that are under way.
    static PIPES: AtomicU32 = AtomicU32::new(0);
}

/// One dump into a pipe, counted as long as it lives.
struct PipeTicket;

impl PipeTicket {
    fn take() -> (Self, u32) {
        (Self, PIPES.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl Drop for PipeTicket {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A core that is being written.
pub(super) struct Output {
    file: Arc<File>,
    /// `Some` for a pipe.
    ticket: Option<PipeTicket>,
    /// Bytes that may be written; holes are free (Linux `dump_emit`, `dump_skip`).
    limit: u64,
    written: u64,
    position: u64,
    /// Where the data that was written ends.
    end: u64,
}

impl Output {
    /// Opens the file of a core. A file that is there already is taken away first, never written to: it might be a link,
    /// somebody else's, or open somewhere.
    pub(super) fn create(task: &Task, name: &[u8], as_root: bool, limit: u64) -> Result<Self> {
        if limit < PAGE {
            return Err(Errno::EFBIG);
        }
        if as_root && !name.starts_with(b"/") {
            log::warn!("Pid {}({}) can only dump core to fully qualified path!", task.tgid(), task.comm());
            log::warn!("Skipping core dump");
            return Err(Errno::EPERM);
        }
        let own = task.creds();
        let creds = if as_root { Creds { fsuid: 0, ..(*own).clone() } } else { (*own).clone() };
        // A dump as root goes where init would put it: the process may have chosen its root directory.
        let fs = if as_root { FsContext::initial() } else { task.fs() };
        let (root, base) = fs.root_and_cwd();
        let context =
            || WalkContext { root: root.clone().into(), base: base.clone().into(), creds: &creds, resolve: 0 };
        if !as_root {
            // It need not be there, and where it cannot be taken away the open below fails.
            let _ = create::unlink(context(), name);
        }
        let how = open::OpenHow::new(f::O_CREAT | f::O_RDWR | f::O_NOFOLLOW | f::O_LARGEFILE | f::O_EXCL, 0o600)?;
        let file = open::open(context(), name, how, task.fs().umask())?;
        check(&file, &creds)?;
        Ok(Self { file, ticket: None, limit, written: 0, position: 0, end: 0 })
    }

    /// Starts the program of a pattern that begins with `|`; its standard input is the core.
    pub(super) fn pipe(task: &Task, words: &[Vec<u8>], limit: u64) -> Result<Self> {
        // The handler itself runs with a limit of 1, so that its own crash does not start it again.
        if limit == 1 {
            log::warn!("Process {}({}) has RLIMIT_CORE set to 1", task.tgid(), task.comm());
            log::warn!("Aborting core");
            return Err(Errno::EPERM);
        }
        let (ticket, count) = PipeTicket::take();
        let most = PIPE_LIMIT.load(Ordering::Relaxed);
        if most != 0 && count > most {
            log::warn!("Pid {}({}) over core_pipe_limit", task.tgid(), task.comm());
            log::warn!("Skipping core dump");
            return Err(Errno::EAGAIN);
        }
        let (reader, writer) = pipe::new_files(&Creds::root(), 0);
        if let Err(error) = helper::run(words.to_vec(), reader) {
            let program = words.first().map(|word| alloc::string::String::from_utf8_lossy(word).into_owned());
            log::info!("Core dump to |{} pipe failed", program.unwrap_or_default());
            return Err(error);
        }
        let limit = RLIM_INFINITY;
        Ok(Self { file: writer, ticket: Some(ticket), limit, written: 0, position: 0, end: 0 })
    }

    /// Writes at the current position.
    pub(super) fn emit(&mut self, bytes: &[u8]) -> Result<()> {
        let over = self.limit != RLIM_INFINITY && self.written + bytes.len() as u64 > self.limit;
        if over {
            return Err(Errno::EFBIG);
        }
        let mut source = IoSrc::kernel(bytes);
        while source.remaining() > 0 {
            let done = match self.ticket {
                Some(_) => self.file.write(&mut source)?,
                None => self.file.write_at(&mut source, self.position)?,
            };
            if done == 0 {
                return Err(Errno::ENOSPC);
            }
            self.written += done as u64;
            self.position += done as u64;
        }
        self.end = self.position;
        Ok(())
    }

    /// Passes over zeros: a hole in a file, zeros in a pipe.
    pub(super) fn skip(&mut self, length: u64) -> Result<()> {
        if self.ticket.is_none() {
            self.position += length;
            return Ok(());
        }
        let zeros = [0; 512];
        let mut left = length;
        while left > 0 {
            let part = left.min(zeros.len() as u64);
            self.emit(&zeros[..part as usize])?;
            left -= part;
        }
        Ok(())
    }

    /// Gives a file that ends with a hole its full size.
    pub(super) fn end(&mut self) -> Result<()> {
        if self.position > self.end {
            self.position -= 1;
            self.emit(&[0])?;
        }
        Ok(())
    }

    /// The core is written. A handler under a core_pipe_limit may look at the process in `/proc` until it closes its
    /// input (Linux `wait_for_dump_helpers`).
    pub(super) fn close(self) {
        let waits = self.ticket.is_some() && PIPE_LIMIT.load(Ordering::Relaxed) != 0;
        let pipe = self.file.ops_as::<pipe::PipeEnd>().map(|end| end.pipe().clone());
        drop(self.file);
        if let (true, Some(pipe)) = (waits, pipe) {
            pipe.wait_for_last_reader();
        }
    }
}

/// A new regular file with one name, owned by the process and for its eyes only: a file system that makes something else
/// of it gets no core (Linux `do_coredump`).
fn check(file: &File, creds: &Creds) -> Result<()> {
    let inode = file.inode();
    if inode.nlink() != 1 || file.path.dentry.is_unlinked() || !inode.is_regular() {
        return Err(Errno::EPERM);
    }
    if inode.uid() != creds.fsuid || inode.mode() & 0o677 != 0o600 {
        return Err(Errno::EPERM);
    }
    Ok(())
}
