//! pipe(2).

use abi::Errno;
use abi::fcntl as f;
use abi::resource::RLIMIT_NOFILE;

use super::{Context, UserPtr};
use crate::Result;
use crate::fs::fdtable::OnExec;
use crate::fs::pipe;

/// pipe2(2): the reader's descriptor, then the writer's. Nothing is left open when the pair cannot be stored.
pub fn pipe2(cx: &mut Context<'_>, fds: UserPtr<[i32; 2]>, flags: u32) -> Result<usize> {
    if flags & !(f::O_CLOEXEC | f::O_NONBLOCK | f::O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = pipe::new_files(&cx.creds(), flags & !f::O_CLOEXEC);
    let on_exec = OnExec::from_flags(flags);
    crate::fs::file::admit()?;
    let limit = cx.task.rlimit(RLIMIT_NOFILE);
    let files = cx.files();
    // Prepare: numbers that no other thread can see yet, stored where the caller wants them.
    let read_fd = files.reserve(0, limit, on_exec)?;
    let pair = files.reserve(0, limit, on_exec).and_then(|write_fd| match fds.write(&[read_fd, write_fd]) {
        Ok(()) => Ok(write_fd),
        Err(error) => {
            files.unreserve(write_fd);
            Err(error)
        }
    });
    let write_fd = pair.inspect_err(|_| files.unreserve(read_fd))?;
    // Commit: the files become visible. Nothing fails from here on.
    files.install(read_fd, reader);
    files.install(write_fd, writer);
    Ok(0)
}
